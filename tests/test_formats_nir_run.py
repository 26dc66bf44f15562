"""A NIR graph run by its own equations: a third definition, beside the reader's network and the tests' peer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from branching import Drawn, branching, inputs
from conftest import Command
from helpers import rng_of, usually
from hypothesis import given, settings
from nir_reading import IMAGE, dense, foreign, lif, peer

from snn2chip import ir
from snn2chip.errors import UnsupportedError
from snn2chip.formats import nir as ours
from snn2chip.formats.nir.run import Written
from snn2chip.ir.interpreter import evaluate
from snn2chip.passes.capture import capture
from snn2chip.passes.fold import folded

nir = pytest.importorskip("nir")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:nir")


@pytest.mark.parametrize("ties", [None, "fire"])
@pytest.mark.parametrize("layers", IMAGE)
def test_graphs_of_other_makers(layers: str, ties: Any) -> None:
    """The peer's spikes and scores, and those of the network that is read."""
    output = 4 if layers == "neurons of some pixels" else 3
    graph = foreign(*IMAGE[layers], shape=(2, 8, 8), output=output)
    written = Written(ours.convert(graph, timesteps=4, high=3, ties=ties), graph, ours.DT, ties == "fire")
    raw = rng_of(5).integers(0, 4, (6, 4, 2, 8, 8))
    spikes, scores = written.run(raw)
    wanted, last = peer(IMAGE[layers], raw, ties=ties == "fire")
    for mine, theirs in zip(spikes.values(), wanted, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    np.testing.assert_array_equal(scores, last.sum(1).reshape(6, -1))
    read = evaluate(written.captured, raw)
    assert set(read.spikes) == set(spikes)
    for name, fired in spikes.items():
        np.testing.assert_array_equal(fired, read.spikes[name].numpy())


@settings(max_examples=usually(20), deadline=None)
@given(branching())
def test_our_own_graphs(drawn: Drawn) -> None:
    """Branches, groups, biases of every neuron, integrators: the network's spikes, and scores but for rounding."""
    network = folded(capture(drawn.network))
    try:
        graph = ours.build(network, integrator=drawn.seed % 2 == 0)
    except UnsupportedError:  # NIR has no word for it
        return
    raw = inputs(network, 2, drawn.seed)
    spikes, scores = Written(network, graph, ours.DT, False).run(raw)
    wanted = evaluate(network, raw)
    for name, fired in wanted.spikes.items():
        np.testing.assert_array_equal(spikes[name], fired.numpy())
    np.testing.assert_allclose(scores, wanted.scores.numpy(), rtol=1e-9, atol=1e-9)


def test_the_rung_notices_another_graph(cli: Command, tmp_path: Path) -> None:
    """A network that is not what the graph says fails at the first rung; the file remembers how its graph was read."""
    flat = nir.Flatten({"input": np.array([2, 8, 8])}, 0, -1)
    layers = [flat, dense(128, 12), lif(12, r=1.0), dense(12, 3)]
    path, net = tmp_path / "g.nir", tmp_path / "g.net"
    nir.write(path, foreign(*layers, shape=(2, 8, 8), output=3))
    options = ("--timesteps", 3, "--high", 255, "--mean", "0.5", "--std", "0.25", "--ties", "fire")
    cli("fold-and-export", path, *options).ok()
    said = cli("verify", path, net, "--no-lava", "--samples", 3).ok()
    assert "NIR = network" in said and "captured = folded" in said and "torch" not in said
    written = ours.run.load(path, timesteps=3, high=255, mean=[0.5], std=[0.25], ties="fire")
    raw = rng_of(1).integers(0, 256, (4, 3, 2, 8, 8))
    nodes = [
        replace(node, threshold=1.1 * node.threshold) if isinstance(node, ir.LIF) else node
        for node in written.captured.nodes
    ]
    other = evaluate(written.captured.with_nodes("captured", nodes), raw)
    assert (written.run(raw)[0]["n2"] != other.spikes["n2"].numpy()).any()
    assert not (written.run(raw)[0]["n2"] != evaluate(written.captured, raw).spikes["n2"].numpy()).any()
