"""An image that all steps show stands in memory once, and changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
import speed_networks
import torch

from snn2chip.data import ImageSet
from snn2chip.simulate import run
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
