"""Akida: every spike and potential of random networks as in our integers; what it has no layers for is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from akida_networks import at_the_edges, random_chain, random_images
from conftest import Command, tiny_recipe
from hypothesis import given
from hypothesis import strategies as st

from snn2chip import chip as chips
from snn2chip import ir
from snn2chip.backends import akida, environment
from snn2chip.chip.profile import Capacity, Layers
from snn2chip.errors import ChipLimitError, InputError, SetupError, UnsupportedError
from snn2chip.formats import netx
from snn2chip.nn import model_file
from snn2chip.places import CACHE_VARIABLE
from snn2chip.simulate.dense import DenseEngine
from snn2chip.verify.akida import Tally, batches, compare_with

AKD1000 = chips.load("akd1000")


@pytest.fixture(scope="session")
def akida_environment() -> environment.Environment:
    """Akida's environment, where it was made: making it installs a proprietary package, which no test does."""
    found = environment.find(akida.KIND)
    if found is None:
        pytest.skip(f"Akida's environment is not set up: {akida.KIND.setup}")
    return found


def drawn(seed: int, samples: int = 6) -> tuple[ir.Chain, ir.IntArray]:
    """A random network whose sums are often right at its thresholds, and input for it."""
    rng = np.random.default_rng(seed)
    chain = random_chain(rng)
    port = random_images(rng, chain, samples)
    return at_the_edges(rng, chain, port), port


def small(**changes: Any) -> ir.Chain:
    """A convolution of stride 1, one of stride 2, a dense layer that adds up; `changes` are of the second."""
    weights = [np.ones((2, 1, 3, 3)), np.ones((3, 2, 3, 3)), np.ones((4, 3 * 3 * 3))]
    shapes: list[ir.Shape] = [(2, 5, 5), (3, 3, 3), (4,)]
    layers = []
    for number, (weight, shape) in enumerate(zip(weights, shapes, strict=True)):
        conv = weight.ndim == 4
        pairs = {"stride": (number + 1,) * 2, "padding": (1, 1)} if conv else {"flatten": True}
        name, bias = str(number + (number == 2) + 1), np.zeros(shape, dtype=np.int64)
        layer: ir.ChainLayer = ir.Layer(
            name, "conv" if conv else "dense", weight.astype(np.int64), bias, shape, 9, 4096, **pairs,
            origin={f"lif{number + 1}": (0, shape[0])},
        )  # fmt: skip
        layers.append(replace(layer, **changes) if number == 1 else layer)
    classes = ("a", "b", "c", "d")
    return ir.Chain((1, 5, 5), (1, 5, 5), "direct", 255, 0, 255, (7,), 1, "membrane", classes, tuple(layers))


def first(chain: ir.Chain, **changes: Any) -> ir.Chain:
    """The chain with another first layer."""
    return replace(chain, layers=(replace(chain.layers[0], **changes), *chain.layers[1:]))


# --------------------------------------------------------------------------------- the same spikes and potentials


def differences(seed: int, folder: Path) -> tuple[int, int, object]:
    """What Akida's run of a random network differs in: every spike of every layer, every potential of the last."""
    chain, port = drawn(seed)
    model, path = akida.layout(chain, AKD1000), folder / f"{seed}.fbz"
    akida.build(model, path)
    return compare_with(model, DenseEngine(chain).run(port), akida.run(model, path, port, layers=True))


@pytest.mark.akida
@pytest.mark.parametrize("seed", range(20))
def test_random_networks(seed: int, akida_environment: environment.Environment, tmp_path: Path) -> None:
    count, compared, where = differences(seed, tmp_path)
    assert compared > 0 and (count, where) == (0, None)


@pytest.mark.akida
@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_500_random_networks(akida_environment: environment.Environment, tmp_path: Path) -> None:
    found = [(seed, *differences(seed, tmp_path)) for seed in range(20, 520)]
    assert [each for each in found if each[1]] == []
    assert sum(compared for _, _, compared, _ in found) > 500 * 100


def test_random_networks_are_what_they_are_drawn_for() -> None:
    """Sums right at a threshold, beside it and far from it; every number of bits, unit, stride, and odd maps."""
    seen: set[tuple[str, int]] = set()
    at, fired, units = 0, 0, set()
    for seed in range(60):
        chain, port = drawn(seed)
        trace = DenseEngine(chain).run(port)
        for piece, layer in zip(akida.layout(chain, AKD1000).pieces, chain.layers, strict=True):
            seen |= {("bits", piece.bits), ("stride", piece.stride), ("kernel", piece.kernel)}
            seen.add(("odd", sum(layer.shape[1:]) % 2))
            units.add(piece.unit)
            at += int((trace.voltage[layer.name] == 64 * layer.threshold).sum())
            fired += trace.counts[layer.name]
    assert {("bits", n) for n in (1, 2, 4, 8)} | {("kernel", n) for n in (1, 3, 5, 7)} <= seen
    assert {("stride", n) for n in (1, 2, 3)} | {("odd", n) for n in (0, 1)} <= seen
    assert {1, 2, 3} <= units and at > 100 and fired > 1000


@given(st.integers(-(10**6), 10**6), st.integers(1, 254), st.integers(-4095, 4095), st.integers(1, 131071))
def test_a_threshold_is_divided_exactly(sums: int, unit: int, bias: int, threshold: int) -> None:
    chain = small()
    layer = replace(
        chain.layers[1], weight=chain.layers[1].weight * unit, bias=np.full((3, 3, 3), bias), threshold=threshold
    )
    piece = akida.layout(replace(chain, layers=(chain.layers[0], layer, chain.layers[2])), AKD1000).pieces[1]
    assert piece.unit == unit and piece.threshold is not None
    assert (unit * sums + bias > threshold) == (sums > piece.threshold[0])


def test_images_are_padded_with_each_channels_centre_and_rotated() -> None:
    chain = small()
    weight = np.ones((2, 3, 3, 3), dtype=np.int64)
    chain = first(replace(chain, input_shape=(3, 5, 5), raw_shape=(3, 5, 5), center=(10, 20, 30)), weight=weight)
    raw = np.arange(75).reshape(1, 1, 3, 5, 5)
    made = akida.layout(chain, AKD1000).images(chain.port(raw))
    assert made.shape == (1, 7, 7, 3) and made.dtype == np.uint8
    assert (made[0, 0] == [10, 20, 30]).all() and (made[0, :, -1] == [10, 20, 30]).all()
    assert (made[0, 1:-1, 1:-1][::-1, ::-1].transpose(2, 0, 1) == raw[0, 0]).all()


# ------------------------------------------------------------------------------------------ refused by name

BORDER = np.zeros((2, 5, 5), dtype=np.int64)
BORDER[1, 0, 0] = 3
REFUSED: dict[str, tuple[Callable[[], ir.Chain], type[InputError], str]] = {
    "time": (lambda: replace(small(), timesteps=2), UnsupportedError, "T = 2 .*retrain MODEL --timesteps 1"),
    "branches": (
        lambda: small(origin={"lif2": (0, 2), "lif1.relay1": (2, 3)}),
        UnsupportedError,
        "layer 'lif2': 'lif1.relay1' pass through .*residual",
    ),
    "groups": (lambda: small(groups=2), UnsupportedError, "layer 'lif2': groups 2"),
    "dilation": (lambda: small(dilation=(2, 2)), UnsupportedError, r"layer 'lif2': .*dilation \(2, 2\)"),
    "current": (lambda: small(current_decay=5), UnsupportedError, "layer 'lif2': current decay 5"),
    "kernel": (
        lambda: small(weight=np.ones((3, 2, 4, 4), dtype=np.int64)),
        UnsupportedError,
        "layer 'lif2': kernel 4 with stride 2; Akida has kernels 1, 3, 5, 7 with stride 1 and 3 with stride 2",
    ),
    "stride": (lambda: small(stride=(3, 3)), UnsupportedError, "layer 'lif2': kernel 3 with stride 3"),
    "oblong": (lambda: small(stride=(1, 2)), UnsupportedError, "layer 'lif2': stride 1 x 2"),
    "padding": (
        lambda: small(padding=(0, 0), shape=(3, 2, 2), bias=np.zeros((3, 2, 2), dtype=np.int64)),
        UnsupportedError,
        "layer 'lif2': padding 0 of a kernel of 3 .* give it padding 1",
    ),
    "bits": (
        lambda: small(weight=np.arange(54).reshape(3, 2, 3, 3) % 9),
        ChipLimitError,
        r"layer 'lif2': weights of 0\.\.8; Akida holds 4 bits",
    ),
    "border": (
        lambda: first(small(), bias=BORDER),
        UnsupportedError,
        "layer 'lif1': the bias of channel 1 goes from 0 to 3 over the image",
    ),
    "first kernel": (
        lambda: first(small(), weight=np.ones((2, 1, 9, 9), dtype=np.int64)),
        UnsupportedError,
        "layer 'lif1': kernel 9 with stride 1; Akida's first layer has kernels 3, 5, 7",
    ),
    "sums": (
        lambda: first(small(), weight=np.full((2, 1, 3, 3), 127)),
        ChipLimitError,
        "layer 'lif1': sums reach 283,464 for some input, beyond 131,071",
    ),
    "channels": (
        lambda: first(
            replace(small(), input_shape=(2, 5, 5), raw_shape=(2, 5, 5), center=(7, 7)),
            weight=np.ones((2, 2, 3, 3), dtype=np.int64),
        ),
        UnsupportedError,
        "layer 'lif1': an input of 2 channels; Akida takes images of 1, 3",
    ),
    "wide pixels": (lambda: replace(small(), high=300), ChipLimitError, r"layer 'lif1': input values 0\.\.300"),
    "small image": (
        lambda: first(small(), padding=(0, 0), shape=(2, 2, 2), bias=np.zeros((2, 2, 2), dtype=np.int64)),
        UnsupportedError,
        "layer 'lif1': an image of 4 x 4",
    ),
    "dense first": (
        lambda: replace(small(), layers=(replace(small().layers[2], shape=(4,)),)),
        UnsupportedError,
        "layer 'readout': a dense layer reads the image",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(name: str) -> None:
    make, kind, words = REFUSED[name]
    with pytest.raises(kind, match=words):
        akida.layout(make(), AKD1000)


def test_the_form_that_the_refused_ones_are_changed_from_is_taken() -> None:
    pieces = akida.layout(small(), AKD1000).pieces
    assert [(each.name, each.kind, each.padding) for each in pieces] == [
        ("lif1", "input", "valid"), ("lif2", "conv", "same"), ("readout", "dense", "same"),
    ]  # fmt: skip
    with pytest.raises(UnsupportedError, match="loihi2 is no chip of whole layers"):
        akida.layout(small(), chips.load("loihi2"))


# ----------------------------------------------------------------------------------------------- files


@pytest.fixture
def built(akida_environment: environment.Environment, tmp_path: Path) -> tuple[ir.Chain, ir.IntArray, Path]:
    """A random network as model.net and model.fbz."""
    chain, port = drawn(4)
    netx.save(tmp_path / "model.net", chain)
    akida.build(akida.layout(chain, AKD1000), tmp_path / "model.fbz")
    return chain, port, tmp_path / "model.fbz"


@pytest.mark.akida
def test_a_file_that_is_not_the_network_is_refused(built: tuple[ir.Chain, ir.IntArray, Path], tmp_path: Path) -> None:
    """A weight, a threshold, other layers, half a file, no file at all."""
    chain, port, path = built
    model = akida.layout(chain, AKD1000)
    weight = model.pieces[0].weight.copy()
    weight.flat[0] ^= 1
    threshold = model.pieces[0].threshold
    assert threshold is not None
    changed = {
        r"weights of layer '0:lif1' are not the network's": replace(model.pieces[0], weight=weight),
        r"threshold of layer '0:lif1' are not the network's": replace(model.pieces[0], threshold=threshold + 1),
        r"holds layers 0:other, ": replace(model.pieces[0], name="other"),
    }
    for words, piece in changed.items():
        akida.build(replace(model, pieces=(piece, *model.pieces[1:])), path)
        with pytest.raises(InputError, match=words):
            akida.run(model, path, port)
    akida.build(model, path)
    assert akida.run(model, path, port).scores.shape == (6, len(chain.classes))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match=r"killed by SIGSEGV; a file may be damaged|is no Akida model"):
        akida.run(model, path, port)
    path.unlink()
    with pytest.raises(InputError, match=r"no such file; `snn2chip fold-and-export MODEL --chip akd1000 -o model.fbz`"):
        akida.run(model, path, port)


@pytest.mark.akida
def test_akida_run(built: tuple[ir.Chain, ir.IntArray, Path], cli: Command, tmp_path: Path) -> None:
    """Batches come to what one run is; a difference is named and is exit code 1; bad input leaves nothing."""
    chain, port, path = built
    net, samples, out = path.with_suffix(".net"), tmp_path / "in.npz", tmp_path / "out.npz"
    np.savez(samples, input=port)
    common = ("akida", "run", net, "--input", samples)
    said = cli(*common, "--batch", "4", "--layers", "--output", out, "--json", tmp_path / "run.json").ok()
    figures = json.loads((tmp_path / "run.json").read_text())
    want = DenseEngine(chain).run(port)
    assert f"6 samples, {want.scores.size} potentials" in said and "0 differ from our integers" in said
    assert figures["samples"] == 6 and figures["differ"] == 0 and figures["spikes_compared"] > 0
    with np.load(out) as found:
        spikes = [name for name in found if name.startswith("spikes/")]
        assert spikes
        for name in spikes:
            assert (found[name] == want.spikes[name.removeprefix("spikes/")]).all()
    assert "2 samples" in cli(*common, "--skip", "4").ok()
    cli(*common, "--skip", "6").refused("--skip 6: there are 6 samples")
    cli(*common, "--dataset", "digits").refused("exclude each other")

    last = chain.layers[-1]
    other = replace(chain, layers=(*chain.layers[:-1], replace(last, weight=np.roll(last.weight, 1, axis=0))))
    akida.build(akida.layout(other, AKD1000), path)
    cli(*common).refused("are not the network's; export it again")


def test_ctrl_c_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Command) -> None:
    """In the third batch: what was compared before it, and no file."""
    chain, port = drawn(4)
    net, samples = tmp_path / "model.net", tmp_path / "in.npz"
    netx.save(net, chain)
    np.savez(samples, input=port)
    done: list[int] = []

    def stopped(_model: akida.Layout, _path: Path, given: ir.IntArray, **_options: Any) -> Any:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(len(given))
        return replace(DenseEngine(chain).run(given), spikes={})

    monkeypatch.setattr(akida, "run", stopped)
    monkeypatch.setattr("snn2chip.cli.akida.ensure", lambda _kind, _console: None)
    out = tmp_path / "out.npz"
    said = cli("akida", "run", net, "--input", samples, "--batch", "2", "--skip", "1", "--output", out)
    assert said.code == 130 and not out.exists()
    assert "4 samples" in said.out and "stopped; go on with --skip 5" in said.out


def test_a_difference_is_counted_and_placed(monkeypatch: pytest.MonkeyPatch) -> None:
    """An Akida that is wrong in one potential, in the second batch: one differs, of the sample of the whole run."""
    chain, port = drawn(4)
    model = akida.layout(chain, AKD1000)

    def wrong(_model: akida.Layout, _path: Path, given: ir.IntArray, **_options: Any) -> Any:
        found = DenseEngine(chain).run(given)
        found.scores[1, 0] += len(given) < 4
        return replace(found, spikes={})

    monkeypatch.setattr(akida, "run", wrong)
    tally = Tally()
    for part in batches(chain, model, Path("model.fbz"), port=port, batch=4):
        tally.add(part)
    assert (tally.samples, tally.differ, tally.potentials) == (6, 1, 6 * len(chain.classes))
    assert tally.first is not None and (tally.first.sample, tally.first.neuron) == (5, [0])
    assert tally.first.layer == model.pieces[-1].name and not tally.rung.passed


def test_without_its_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Command) -> None:
    """What needs it names the command that makes it; an interpreter that does not run is named; no file appears."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.delenv(akida.KIND.variable, raising=False)
    model = akida.layout(small(), AKD1000)
    with pytest.raises(SetupError, match="Akida's environment is not set up; run `snn2chip akida setup` once"):
        akida.build(model, tmp_path / "model.fbz")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv(akida.KIND.variable, str(tmp_path / "python"))
    cli("akida", "setup").refused("SNN2CHIP_AKIDA_PYTHON", "does not run")


# ----------------------------------------------------------------------------------- from model.pt to .fbz


def model_of(path: Path, mean: float, **changes: Any) -> Path:
    """An untrained network on the digits, pixels of 0..16, as model.pt."""
    chosen = tiny_recipe(**{"model__timesteps": 1, **changes})
    network = model_file.build_network(chosen, (1, 8, 8), 10, 16, mean=[mean], std=[0.25])
    with torch.no_grad():  # or hardly anything would fire
        for values in network.parameters():
            values.mul_(4 if values.ndim > 1 else 1)
    model_file.save(path, network, chosen, max_value=16, classes=tuple("0123456789"), metrics={})
    return path


@pytest.mark.akida
def test_from_a_model_to_akida(akida_environment: environment.Environment, cli: Command, tmp_path: Path) -> None:
    """Exported, mapped, verified with the rung of Akida, and refused where it is another network's file."""
    model, fbz, net = model_of(tmp_path / "model.pt", 5 / 16), tmp_path / "a.fbz", tmp_path / "a.net"
    said = cli("fold-and-export", model, "--chip", "akd1000", "-o", fbz).ok()
    assert "fits akd1000: 1 sequence, 1 pass" in said and fbz.exists() and net.exists()
    chain = netx.load(net)
    assert np.abs(chain.layers[0].weight).max() > 14 >= max(np.abs(each.weight).max() for each in chain.layers[1:])
    verify = ("verify", model, net, "--samples", "5", "--no-lava", "--json", tmp_path / "verify.json")
    cli(*verify).ok()
    rung = next(each for each in json.loads((tmp_path / "verify.json").read_text())["rungs"] if "Akida" in each["name"])
    assert (rung["name"], rung["passed"], rung["mismatches"]) == ("integers = Akida", True, 0)
    assert rung["compared"] == 5 * (sum(int(np.prod(each.shape)) for each in chain.layers))
    found = json.loads(cli("fit", net, "--chip", "akd1000", "--json").ok())
    assert found["fits"] and found["sequences"] == 1 and len(found["layers"]) == len(chain.layers)
    assert found["nodes"] == sum(each["nodes"] for each in found["layers"])

    model_of(tmp_path / "other.pt", 5 / 16, train__seed=7)
    cli("fold-and-export", tmp_path / "other.pt", "--chip", "akd1000").ok()
    fbz.write_bytes((tmp_path / "other.fbz").read_bytes())
    cli(*verify).refused("are not the network's; export it again")


def test_models_that_cannot_be_there(cli: Command, tmp_path: Path) -> None:
    """Refused before Akida is asked, by name, and nothing is written."""
    export = ("fold-and-export", tmp_path / "model.pt", "--chip", "akd1000", "--calibration", "8")
    model_of(tmp_path / "model.pt", 5 / 16, model__timesteps=2)
    cli(*export).refused("T = 2 time steps", "retrain MODEL --timesteps 1 --quantize --weight-bits 4")
    model_of(tmp_path / "model.pt", 5.3 / 16)
    cli(*export).refused("layer 'lif1': the bias of channel 0", "retrain MODEL --quantize")
    layers = [
        {"type": "conv", "channels": 8},
        {"type": "avgpool", "kernel": 2},
        {"type": "conv", "channels": 8},
        {"type": "flatten"},
        {"type": "dense", "features": "classes", "neuron": False},
    ]
    model_of(tmp_path / "model.pt", 5 / 16, model__layers=layers)
    cli(*export).refused("layer 'lif2': kernel 6 with stride 2", "average pooling makes kernels larger")
    cli("fold-and-export", tmp_path / "model.pt", "-o", tmp_path / "m.fbz").refused("a .fbz is for --chip akd1000")
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]


def test_a_chip_has_cores_or_layers() -> None:
    loihi2 = chips.load("loihi2")
    assert isinstance(loihi2.cores, Capacity) and isinstance(AKD1000.layers, Layers)
    for both in ({"layers": AKD1000.layers}, {"capacity": None}):
        with pytest.raises(ValueError, match="either"):
            replace(loihi2, **both)
    with pytest.raises(InputError, match="akd1000 has no cores to count by a rule"):
        _ = AKD1000.cores
    assert (AKD1000.weight_max, AKD1000.at_input.weight_max, loihi2.at_input) == (14, 254, loihi2)
