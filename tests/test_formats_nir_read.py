"""NIR of other makers: what is read gives the spikes of NIR's own equations, and what a file cannot say is said."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import Command
from helpers import assert_equal, rng_of, usually
from hypothesis import given, settings
from hypothesis import strategies as st
from nir_reading import IMAGE, convert, dense, eighths, flat, foreign, kernel, lif, load, matrix, neurons, peer

from snn2chip import chip, ir
from snn2chip.data.recordings import BinSettings
from snn2chip.errors import ChipLimitError, InputError
from snn2chip.formats import netx
from snn2chip.formats import nir as ours
from snn2chip.ir.interpreter import evaluate
from snn2chip.passes import pipeline
from snn2chip.simulate.run import simulate

nir = pytest.importorskip("nir")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:nir")


def same(nodes: list[Any], shape: tuple[int, ...], output: int, high: int, ties: bool = False, steps: int = 4) -> Any:
    """The network that is read gives the peer's spikes and scores; membranes are sums of powers of two."""
    network = convert(
        foreign(*nodes, shape=shape, output=output), timesteps=steps, high=high, ties="fire" if ties else None
    )
    raw = rng_of(5).integers(0, high + 1, (6, steps, *shape))
    wanted, last = peer(nodes, raw, ties=ties)
    found = evaluate(network, raw.reshape(6, steps, *network.input.shape))
    for mine, theirs in zip(found.spikes.values(), wanted, strict=True):
        np.testing.assert_array_equal(mine.numpy().reshape(theirs.shape), theirs)
    np.testing.assert_array_equal(found.scores.numpy(), last.sum(1).reshape(6, -1))
    assert all(0 < fired.mean() < 1 for fired in wanted)
    return network


@pytest.mark.parametrize("what", list(IMAGE))
@pytest.mark.parametrize("ties", [False, True])
def test_it_gives_the_spikes_of_nirs_equations(what: str, ties: bool) -> None:
    """Every spike and every score, bit for bit, and on to the chip: the folded network is one that it takes."""
    output = 4 if what == "neurons of some pixels" else 3
    network = same(IMAGE[what], (2, 8, 8), output, high=3, ties=ties)
    assert network.stage == "folded"
    if what == "Threshold":
        with pytest.raises(ChipLimitError, match="'n1': voltage decay 4096"):
            pipeline.export(pipeline.Source(network, "net"), chip.load("loihi2"))
        return
    made = pipeline.export(pipeline.Source(network, "net"), chip.load("loihi2")).chain
    assert made.layers[-1].shape[0] == output or made.layers[-1].shape == (output,)


def test_a_row_is_an_image_of_one_row() -> None:
    """Conv1d, with neurons and flatten counted in two axes."""
    weight = eighths(rng_of(0), 4, 2, 3)
    row = nir.Conv1d(None, weight, 2, 1, 1, 1, eighths(rng_of(1), 4))
    nodes = [row, lif(4, 5), nir.Flatten({"input": None}, 0, 1), matrix(20, 3)]
    network = same(nodes, (2, 10), 3, high=3)
    assert network.input.shape == (2, 1, 10) and network["n0"].stride == (1, 2) and network["n0"].padding == (0, 1)


def test_branches_of_different_factors() -> None:
    """A scaled shortcut of spikes, and a scaled branch: each takes its factor in before they meet."""
    nodes = {
        "input": nir.Input({"input": np.array([2, 8, 8])}), "c": kernel(4, 2), "n": lif(4, 8, 8),
        "b": kernel(4, 4, seed=3), "s": nir.Scale(np.full((4, 8, 8), 0.5)), "t": nir.Scale(np.full((4, 8, 8), 4.0)),
        "m": lif(4, 8, 8), "f": flat(), "d": matrix(256, 3), "output": nir.Output({"output": np.array([3])}),
    }  # fmt: skip
    edges = ["input c", "c n", "n b", "b s", "n t", "s m", "t m", "m f", "f d", "d output"]
    graph = nir.NIRGraph(nodes, [tuple(edge.split()) for edge in edges], type_check=False)
    network = convert(graph, timesteps=4, high=3)
    raw = rng_of(0).integers(0, 4, (5, 4, 2, 8, 8))
    (first,), _ = peer([nodes["c"], nodes["n"]], raw)
    _, branch = peer([nodes["b"]], first)
    second = neurons(nodes["m"], 0.5 * branch + 4.0 * first, 1e-4, False)
    found = evaluate(network, raw)
    np.testing.assert_array_equal(found.spikes["m"].numpy(), second)
    np.testing.assert_array_equal(found.scores.numpy(), peer([nodes["f"], nodes["d"]], second)[1].sum(1))


@settings(max_examples=usually(60), deadline=None)
@given(data=st.data())
def test_random_constants(data: st.DataObject) -> None:
    """Any neuron type with constants of its own for every neuron, behind any factors: the peer's spikes."""
    count, ties = data.draw(st.integers(1, 9)), data.draw(st.booleans())
    rng = rng_of(data.draw(st.integers(0, 10**6)))
    sign, tau = rng.choice([-1.0, 1.0], count), data.draw(st.sampled_from([1e-4, 2e-4, 4e-4]))
    level, reset, rest = (rng.integers(low, top, count) / 4 for low, top in ((1, 9), (-8, 1), (-4, 2)))
    gain = 2.0 ** rng.integers(-1, 3, count)
    kind = data.draw(st.sampled_from(["LIF", "IF", "CubaLIF", "Threshold"]))
    if kind == "IF":
        node = nir.IF(1e4 * gain, level, reset)
    elif kind == "Threshold":
        node = nir.Threshold(level)
    elif kind == "LIF":
        node = nir.LIF(np.full(count, tau), gain * tau / 1e-4, rest, level, reset)
    else:
        kept = data.draw(st.sampled_from([1e-4, 2e-4, 4e-4]))
        taus = np.full(count, kept), np.full(count, tau)
        node = nir.CubaLIF(*taus, gain * tau / 1e-4, rest if kept == 1e-4 else reset, level, reset, sign)
    scale = nir.Scale(rng.choice([-2.0, 0.0, 0.5, 1.0], count))
    layers = [matrix(5, count), *([scale] if data.draw(st.booleans()) else []), node, matrix(count, 2)]
    network = convert(foreign(*layers, shape=(5,)), timesteps=4, high=3, ties="fire" if ties else None)
    raw = rng.integers(0, 4, (5, 4, 5))
    # levels are divided by: where that is not exact, only membranes away from their threshold are the same for certain
    exact = (2.0 ** np.round(np.log2(level - (0 if kind == "Threshold" else reset))) == level - (
        0 if kind == "Threshold" else reset)).all()  # fmt: skip
    (wanted,), _ = peer(layers, raw, ties=ties)
    found = evaluate(network, raw)
    (name,) = found.spikes
    (threshold,) = (item.threshold for item in network.of(ir.LIF))
    sure = np.abs(found.membranes[name].numpy() - threshold) > 1e-9 * threshold
    sure = np.logical_and.accumulate(sure, axis=1) | exact
    np.testing.assert_array_equal(found.spikes[name].numpy()[sure], wanted[sure])


# ---------------------------------------------------------------------------------------------------- ties, to the chip


def integers(tau: float | None, shape: tuple[int, ...] = (6,)) -> list[Any]:
    """A network of small integers, whose membranes meet their thresholds all the time."""
    rng = rng_of(3)
    fields = {"r": np.full(shape, 1.0 if tau is None else tau), "v_threshold": np.full(shape, 4.0)}
    first = nir.IF(**fields) if tau is None else nir.LIF(tau=np.full(shape, tau), v_leak=np.zeros(shape), **fields)
    return [nir.Linear(4.0 * rng.integers(-2, 3, (6, 5))), first, nir.Linear(1.0 * rng.integers(-3, 4, (3, 6)))]


@pytest.mark.parametrize("tau", [None, 2.0])
@pytest.mark.parametrize("ties", [False, True])
def test_ties_survive_quantization(tau: float | None, ties: bool, tmp_path: Path) -> None:
    """u = Vth fires, or holds, in float64, in NIR written and read again, and in the chip's integers."""
    nodes = integers(tau)
    steps = 6 if tau is None else 3  # halved twice, a multiple of 4 is an integer still
    graph = foreign(*nodes, shape=(5,), output=3)
    network = convert(graph, timesteps=steps, high=2, dt=1, ties="fire" if ties else "hold")
    raw = rng_of(1).integers(0, 3, (50, steps, 5))
    (wanted,), last = peer(nodes, raw, 1.0, ties=ties)
    assert (wanted != peer(nodes, raw, 1.0, ties=not ties)[0][0]).mean() > 0.02
    found = evaluate(network, raw)
    np.testing.assert_array_equal(found.spikes["n1"].numpy(), wanted)
    ours.save(tmp_path / "own.nir", network)
    again = load(tmp_path / "own.nir")
    assert_equal(again, replace(network, notes=again.notes))
    np.testing.assert_array_equal(evaluate(again, raw).scores.numpy(), last.sum(1))
    plain = nir.read(tmp_path / "own.nir")  # in it NIR's own > does what >= did
    level = plain.nodes["n1"].v_threshold[0]
    assert level == (np.nextafter(again.of(ir.LIF)[0].threshold, 0) if ties else again.of(ir.LIF)[0].threshold)
    made = pipeline.export(pipeline.Source(network, "net"), chip.load("loihi2"))
    result = simulate(made.chain, port=raw, keep=True)
    np.testing.assert_array_equal(next(iter(result.trace.spikes.values())), wanted)


def test_ties_are_of_graphs_of_other_makers(tmp_path: Path) -> None:
    """Ours say what their neurons do."""
    network = convert(foreign(*integers(None), shape=(5,), output=3), timesteps=2, high=1, dt=1)
    ours.save(tmp_path / "own.nir", network)
    with pytest.raises(InputError, match=r"own\.nir.*ties are for graphs of other makers"):
        load(tmp_path / "own.nir", ties="fire")


# ------------------------------------------------------------------------------------------- what is said and refused


def small(threshold: float = 4.0) -> Any:
    """IF neurons with R = 1, as programs that count time in steps write them, on digits."""
    neurons = nir.IF(np.ones(6), np.full(6, threshold))
    flatten = nir.Flatten({"input": np.array([1, 8, 8])}, 0, -1)
    return foreign(flatten, nir.Linear(eighths(rng_of(2), 6, 64)), neurons, dense(6, 10), shape=(1, 8, 8), output=10)


def test_what_a_graph_cannot_say_is_said(cli: Command, tmp_path: Path) -> None:
    """Reset, ties, dt, normalization: in the network, on the screen, as JSON and in the file; ours say it all."""
    path, report = tmp_path / "net.nir", tmp_path / "report.json"
    nir.write(path, small())
    whole = ("fold-and-export", path, "--timesteps", 3, "--high", 16, "--dt", 1)
    printed = cli(*whole, "--json", report).ok()
    words = (
        "reset by subtraction or one step later", "right at its threshold does not fire", "--ties fire",
        "integers 0..16 as they are, not normalized", "--mean 0 --std 1", "a step is 1 s, and membranes leak",
    )  # fmt: skip
    for word in words:
        assert word in printed
    notes = json.loads(report.read_text())["notes"]
    assert all(any(word in note for note in notes) for word in words) and all(note in printed for note in notes)
    assert netx.load(tmp_path / "net.net").made["notes"] == notes
    network = load(path, timesteps=3, high=16, dt=1)
    assert list(network.notes) == notes
    printed = cli(*whole, "--mean", 0.5, "--std", 0.25, "--ties", "fire").ok()
    assert "(value / 16 - mean) / std with mean [0.5], std [0.25]" in printed and "as they are" not in printed
    assert "said by --ties: a membrane right at its threshold fires" in printed
    assert any("0.0001 s (the default)" in note for note in load(path, timesteps=3, high=16).notes)
    ours.save(tmp_path / "own.nir", network)
    assert load(tmp_path / "own.nir").notes == ()
    assert "assumed" not in cli("fold-and-export", tmp_path / "own.nir").ok()


def test_a_threshold_at_the_end_of_float64_is_refused_by_name(tmp_path: Path) -> None:
    """What is divided by it is infinite."""
    graph = small()
    graph.nodes["n2"].v_threshold[1] = 1e-320
    nir.write(tmp_path / "net.nir", graph)
    with pytest.raises(InputError, match=r"layer 'n2': IF with thresholds from 9\.\d+e-321 to 4 above"):
        load(tmp_path / "net.nir", timesteps=3, high=16)


def test_a_graph_that_cannot_fire_is_refused(cli: Command, tmp_path: Path) -> None:
    """With the default step no IF of R = 1 reaches its threshold; the remedy is named, and nothing is written."""
    nir.write(tmp_path / "net.nir", small())
    whole = ("fold-and-export", tmp_path / "net.nir", "--timesteps", 3, "--high", 16)
    cli(*whole).refused("layer 'n2'", "no input makes it fire", "threshold is 4e+04", "--dt 1")
    assert not (tmp_path / "net.net").exists()
    cli(*whole, "--dt", 1).ok()


def test_recordings_are_binned_as_options_say(cli: Command, tmp_path: Path) -> None:
    """Options named as a recipe's keys make the file one of recordings, which `stream` then takes."""
    flatten = nir.Flatten({"input": np.array([3, 6, 8])}, 0, -1)
    graph = foreign(kernel(3, 2, input_shape=(6, 8)), lif(3, 6, 8), flatten, dense(144), shape=(2, 6, 8))
    path = tmp_path / "net.nir"
    nir.write(path, graph)
    options = ("--timesteps", 4, "--dt-us", 1000, "--max-count", 3, "--downsample", 2, "--sensor", "12,16")
    printed = cli("fold-and-export", path, *options).ok()
    assert "a frame of events a step" in printed
    chain = netx.load(tmp_path / "net.net")
    binning = BinSettings(4, dt_us=1000, max_count=3, downsample=2, sensor=(12, 16))
    assert (chain.coding, chain.high, chain.timesteps) == ("events", 3, 4)
    assert BinSettings.from_json(chain.made["events"]) == binning
    rng = rng_of(0)
    events = {"x": rng.integers(0, 16, 500), "y": rng.integers(0, 12, 500), "p": rng.integers(0, 2, 500)}
    np.savez(tmp_path / "recording.npz", t=np.sort(rng.integers(0, 4000, 500)), **events)
    assert "decision" in cli("stream", tmp_path / "net.net", tmp_path / "recording.npz", "--sample").ok().lower()
    for wrong, *words in (
        (("--dt-us", 1000), "--timesteps"),
        (("--timesteps", 4, "--max-count", 3), "dt_us", "count"),
        (("--timesteps", 4, "--count", 9, "--high", 2), "high 2", "binned to 1"),
        (("--timesteps", 4, "--count", 9, "--sensor", "12"), "--sensor '12'", "HEIGHT,WIDTH"),
    ):
        cli("fold-and-export", path, *wrong).refused(*words)
    nir.write(path, small())
    cli("fold-and-export", path, "--timesteps", 4, "--count", 9).refused("2 channels")


@pytest.mark.parametrize("version", ["0.2.0", "2.0.1"])
def test_files_of_other_versions_are_not_called_damaged(version: str, tmp_path: Path) -> None:
    """The version, what it does not read, and how to."""
    path = tmp_path / "net.nir"
    nir.write(path, small())
    with h5py.File(path, "r+") as file:
        del file["version"]
        file["version"] = version
    assert load(path, timesteps=1, high=1, dt=1).of(ir.LIF)  # what is read is read
    with h5py.File(path, "r+") as file:
        del file["node/nodes/n2/type"]
        file["node/nodes/n2/type"] = "IzhikevichIF"
    with pytest.raises(InputError, match=rf"net\.nir' is of nir {version}, .*pip install nir=={version}") as caught:
        load(path, timesteps=1, high=1)
    assert "damaged" not in str(caught.value) and "\n" not in str(caught.value)
