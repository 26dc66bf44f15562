"""An image that all steps show stands in memory once, and changes nothing; ImageNet's size fits in memory."""

from __future__ import annotations

from pathlib import Path

import large
import numpy as np
import pytest
import speed_networks
import torch
from helpers import assert_same, run_in_lava

from snn2chip import chip, ir
from snn2chip.backends import lava
from snn2chip.data import ImageSet
from snn2chip.ir.encode import encoder_of
from snn2chip.passes.capture import capture
from snn2chip.passes.pipeline import Source, export
from snn2chip.simulate import reference, run
from snn2chip.simulate.dense import DenseEngine
from snn2chip.simulate.engines import KINDS, EngineKind
from snn2chip.simulate.events.engine import EventEngine
from snn2chip.simulate.events.library import unavailable

needs_library = pytest.mark.skipif(unavailable() is not None, reason=unavailable() or "")


@needs_library
@pytest.mark.parametrize("chunk", [1, 3, None])
@pytest.mark.parametrize("samples", [1, 3])
def test_repeated_steps_give_what_their_copies_give(chunk: int | None, samples: int) -> None:
    chain = speed_networks.with_density(speed_networks.vgg(5, 0.125), 0.2)
    once = speed_networks.port_of(chain, samples, 0)[:, :1]
    shown = np.broadcast_to(once, (samples, 5, *once.shape[2:]))
    engine = EventEngine(chain, 2, chunk=chunk)
    got, wanted = engine.run(shown), DenseEngine(chain).run(np.repeat(once, 5, axis=1))
    assert sum(wanted.counts.values())
    assert np.array_equal(got.scores, wanted.scores)
    assert got.counts == wanted.counts
    assert got.largest == wanted.largest
    for name in wanted.spikes:
        assert np.array_equal(got.spikes[name], wanted.spikes[name])
        assert np.array_equal(got.voltage[name], wanted.voltage[name])


@pytest.mark.parametrize("kind", KINDS)
def test_images_give_what_their_port_gives(kind: EngineKind) -> None:
    if kind == "events" and unavailable() is not None:
        pytest.skip(unavailable() or "")
    chain = speed_networks.with_density(speed_networks.vgg(3, 0.125), 0.2)
    pixels = torch.randint(0, 256, (5, 3, 32, 32), generator=torch.Generator().manual_seed(3)).to(torch.uint8)
    images = ImageSet("noise:test", pixels, torch.zeros(5, dtype=torch.int64), chain.classes, 255, "drawn")
    port = np.repeat(pixels.numpy().astype(np.int64)[:, None] - 128, 3, axis=1)
    got = run.simulate(chain, images=images, batch_size=2, engine_kind=kind)
    wanted = run.simulate(chain, port=port, batch_size=2, engine_kind="dense")
    assert got.timesteps == wanted.timesteps == 3
    assert np.array_equal(got.trace.scores, wanted.trace.scores)
    assert got.trace.counts == wanted.trace.counts


SIDE = 224
LARGEST = 8e9  # bytes: the target of docs/large.md for exporting this network


@pytest.fixture(scope="module")
def resnet34() -> tuple[ir.Chain, ImageSet]:
    """The recipe in full, its normalizations set on noise, and 20 images of noise."""
    network, names = large.network_of("resnet34", SIDE, 1000), tuple(map(str, range(1000)))
    images = ImageSet("noise:test", large.noise(20, SIDE, 3), torch.zeros(20, dtype=torch.int64), names, 255, "noise")
    source = Source(capture(network, names), "resnet34")
    chain = export(source, chip.load("loihi2"), calibration=images.subset(2)).chain
    assert chain.timesteps == 4 and chain.coding == "direct"
    return chain, images


@needs_library
@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_resnet34_at_224(resnet34: tuple[ir.Chain, ImageSet]) -> None:
    """20 images in integers, the first as the reference has it in every spike and membrane; more images take no more
    memory."""
    chain, images = resnet34
    peaks, status = [], Path("/proc/self/status")
    for count in (4, 20):
        if status.exists():
            Path("/proc/self/clear_refs").write_text("5")  # the largest resident set starts anew
        found = run.simulate(chain, images=images.subset(count), batch_size=4, engine_kind="events")
        lines = status.read_text().splitlines() if status.exists() else []
        peaks += [1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")]
    print(f"{found.samples / found.seconds:.2f} images a second, peaks {[round(peak / 1e9, 2) for peak in peaks]} GB")
    assert found.engine == "events" and found.note is None and found.samples == 20
    assert all(found.trace.counts[layer.name] for layer in chain.layers[:-1])  # whose readout is a membrane
    if peaks:
        assert peaks[1] < 1.1 * peaks[0] and peaks[1] < LARGEST
    port = chain.port(encoder_of(chain)(images.images[:1]))
    wanted, got = reference.run(chain, port), EventEngine(chain).run(port)
    assert np.array_equal(wanted.scores, found.trace.scores[:1])
    assert (got.counts, got.largest) == (wanted.counts, wanted.largest)
    assert_same(got, wanted)


@needs_library
@pytest.mark.slow
@pytest.mark.lava
@pytest.mark.timeout(7200)
def test_lava_runs_resnet34_at_224(
    resnet34: tuple[ir.Chain, ImageSet], lava_environment: lava.Environment, tmp_path: Path
) -> None:
    """The first image and all of its steps, with exact products in the place of Lava's loop over pairs of channels."""
    chain, images = resnet34
    port = chain.port(encoder_of(chain)(images.images[:1]))
    got = EventEngine(chain).run(port)
    print(f"{sum(spikes.size for spikes in got.spikes.values()):,} steps of neurons")
    assert_same(got, run_in_lava(chain, port, tmp_path, fast_convolution=True))
