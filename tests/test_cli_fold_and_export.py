"""A NIR graph to the chip's integers: our own as from model.pt, another maker's with its input said on the way."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from conftest import Command, Quickstart
from nir_reading import convert, dense, foreign, lif, load

from snn2chip import chip, data, ir
from snn2chip.errors import InputError
from snn2chip.formats import netx
from snn2chip.formats import nir as ours
from snn2chip.ir.interpreter import evaluate
from snn2chip.passes import pipeline
from snn2chip.simulate.run import simulate

nir = pytest.importorskip("nir")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:nir")


def test_the_graph_of_a_model_becomes_the_models_file(cli: Command, quickstart: Quickstart, tmp_path: Path) -> None:
    """model.pt to NIR to model.net holds the integers of model.pt to model.net, with the same calibration images."""
    graph, direct, through = (tmp_path / name for name in ("digits.nir", "direct.net", "through.net"))
    cli("export", quickstart.model, "--format", "nir", "-o", graph).ok()
    cli("fold-and-export", quickstart.model, "-o", direct, "--calibration", 8).ok()
    printed = cli("fold-and-export", graph, "-o", through, "--dataset", "digits", "--calibration", 8).ok()
    assert "stock netx" in printed and "no calibration" not in printed
    wanted, found = netx.load(direct), netx.load(through)
    assert found.classes == wanted.classes and found.made["dataset"] == "digits" and found.made["model"] == "digits"
    for mine, theirs in zip(found.layers, wanted.layers, strict=True):
        for item in fields(ir.Layer):
            np.testing.assert_array_equal(getattr(mine, item.name), getattr(theirs, item.name), err_msg=item.name)
    assert "accuracy" in cli("simulate", through).ok()


def graph_of(hidden: int = 12) -> tuple[ir.Network, object]:
    """A graph of another maker for digits, 1 x 8 x 8, and what it is when it reads (pixel / 16 - 0.3) / 0.4."""
    flat = nir.Flatten({"input": np.array([1, 8, 8])}, 0, -1)
    graph = foreign(flat, dense(64, hidden), lif(hidden, r=2.0), dense(hidden, 10), shape=(1, 8, 8), output=10)
    return convert(graph, timesteps=3, high=16, mean=[0.3], std=[0.4]), graph


def test_input_is_normalized_as_said() -> None:
    """Membranes and scores are those of NIR's own equations on the normalized image."""
    network, graph = graph_of()
    assert network.stage == "folded"
    pixels = np.random.default_rng(0).integers(0, 17, (5, 1, 8, 8))
    raw = np.repeat(pixels[:, None], 3, axis=1)
    found = evaluate(network, raw)
    nodes = graph.nodes  # type: ignore[attr-defined]
    current = ((pixels / 16 - 0.3) / 0.4).reshape(5, -1) @ nodes["n1"].weight.T + nodes["n1"].bias
    u, scores, spikes = np.zeros_like(current), np.zeros((5, 10)), []
    for _ in range(3):
        u = 0.5 * u + 1.0 * current  # dt / tau = 1/2, dt R / tau = 1
        fired = u > 1.0
        spikes.append(fired)
        u = np.where(fired, 0, u)
        scores += fired @ nodes["n3"].weight.T + nodes["n3"].bias
    name = network.of(ir.LIF)[0].name
    np.testing.assert_array_equal(found.spikes[name], np.stack(spikes, 1))
    np.testing.assert_allclose(found.scores, scores, rtol=1e-9)
    assert 0.02 < np.mean(spikes) < 0.98


def test_another_makers_graph_on_real_images(cli: Command, tmp_path: Path) -> None:
    """Through the command line, calibrated on the data set it names, which `simulate` then takes by itself."""
    _, graph = graph_of()
    nir.write(tmp_path / "net.nir", graph)
    said = ("--timesteps", 3, "--high", 16, "--mean", "0.3", "--std", "0.4", "--dataset", "digits")
    printed = cli("fold-and-export", tmp_path / "net.nir", *said, "--calibration", 16).ok()
    assert "Nothing changes from step to step" in printed
    chain = netx.load(tmp_path / "net.net")
    assert (chain.timesteps, chain.high, chain.made["model"]) == (3, 16, "net")
    assert "accuracy" in cli("simulate", tmp_path / "net.net").ok()
    network, _ = graph_of()
    images = data.load("digits", "train").subset(16)
    made = pipeline.export(pipeline.Source(network, "net"), chip.load("loihi2"), calibration=images)
    test = data.load("digits", "test").subset(50)
    assert simulate(made.chain, images=test).trace.scores.shape == (50, 10)


def test_what_is_refused(cli: Command, quickstart: Quickstart, tmp_path: Path) -> None:
    """Missing and superfluous options, other files, images of another kind: by name, and nothing is written."""
    _, graph = graph_of()
    path, out = tmp_path / "net.nir", tmp_path / "net.net"
    nir.write(path, graph)
    whole = ("--timesteps", 3, "--high", 16)
    cli("fold-and-export", path).refused("how many time steps", "--timesteps")
    cli("fold-and-export", path, "--timesteps", 3).refused("largest input value", "--high")
    cli("fold-and-export", path, *whole, "--mean", "0.3").refused("std is missing")
    cli("fold-and-export", path, *whole, "--mean", "0.3,0.2", "--std", "1").refused("mean [0.3, 0.2]", "1 finite")
    cli("fold-and-export", path, *whole, "--mean", "0", "--std", "0").refused("--std '0'", "not positive")
    cli("fold-and-export", path, *whole, "--mean", "a", "--std", "1").refused("--mean 'a'")
    cli("fold-and-export", path, *whole, "--dt", "-1").refused("dt -1")
    cli("fold-and-export", path, "--timesteps", 3, "--high", 255, "--dataset", "digits").refused("0..255", "0..16")
    cli("fold-and-export", quickstart.model, *whole).refused("--timesteps", "NIR")
    cli("fold-and-export", quickstart.net).refused("holds a chip's layers already")
    cli("fold-and-export", tmp_path / "none.nir").refused("none.nir", "No such file")
    cli("fold-and-export", path, *whole, "-o", path).refused("name another file")
    broken = tmp_path / "broken.nir"
    broken.write_bytes(path.read_bytes()[:700])
    cli("fold-and-export", broken, *whole).refused("broken.nir")
    assert not out.exists() and not (tmp_path / "broken.net").exists()


def test_our_own_graph_says_its_input(tmp_path: Path) -> None:
    """A normalization given for a graph that says its input is refused."""
    network, _ = graph_of()
    ours.save(tmp_path / "own.nir", network)
    again = load(tmp_path / "own.nir")
    assert again.timesteps == 3
    with pytest.raises(InputError, match="snn2chip's own say"):
        load(tmp_path / "own.nir", mean=[0.0], std=[1.0])
