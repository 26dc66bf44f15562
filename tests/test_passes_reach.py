"""Layers that no input makes fire are found, and none that some input does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from helpers import rng_of, usually
from hypothesis import given, settings
from hypothesis import strategies as st

from snn2chip import ir
from snn2chip.chip.profile import load
from snn2chip.errors import UnsupportedError
from snn2chip.ir.interpreter import evaluate
from snn2chip.passes import reach
from snn2chip.passes.pipeline import Source, export

CHIP = load("loihi2")


def network(
    weight: np.ndarray,
    threshold: float,
    *,
    tau: float = 0.5,
    bias: float = 0.0,
    steps: int = 3,
    ties: bool = False,
    current_tau: float = 0.0,
) -> ir.Network:
    """Spikes to one layer of neurons to a readout."""
    inputs = weight.shape[1]
    zeros = np.zeros(inputs)
    nodes = (
        ir.Input("input", (), (inputs,), "direct", 1, 0, 1, np.zeros(inputs, np.int64), np.ones(inputs), zeros),
        ir.Dense("dense", ("input",), weight, np.full(len(weight), bias)),
        ir.LIF("lif", ("dense",), tau, threshold, ties=ties, current_tau=current_tau),
        ir.Dense("last", ("lif",), np.ones((2, len(weight))), None),
        ir.Readout("readout", ("last",), "membrane"),
    )
    return ir.Network("folded", steps, ("a", "b"), nodes)


def everything(inputs: int, steps: int) -> np.ndarray:
    """Every input of `steps` steps that is the same at all of them, and the same one spike after another."""
    rows = np.array(np.meshgrid(*[[0, 1]] * inputs)).reshape(inputs, -1).T
    return np.repeat(rows[:, None], steps, axis=1)


@settings(max_examples=usually(200), deadline=None)
@given(data=st.data())
def test_no_layer_that_can_fire_is_named(data: st.DataObject) -> None:
    """With constant input the bound is reached: a layer is silent if and only if no input makes it fire."""
    rng = rng_of(data.draw(st.integers(0, 10**6)))
    tau = data.draw(st.sampled_from([0.25, 0.5, 1.0]))
    steps = data.draw(st.integers(1, 4))
    kept = data.draw(st.sampled_from([0.0, 0.5, 0.75]))
    made = network(
        rng.integers(-4, 5, (3, 4)) / 4,
        rng.integers(1, 40) / 8,
        tau=tau,
        bias=rng.integers(-4, 5) / 8,
        steps=steps,
        current_tau=kept,
    )
    fires = bool(evaluate(made, everything(4, steps)).spikes["lif"].any())
    peak = evaluate(replace_threshold(made, 1e9), everything(4, steps)).membranes["lif"].max()
    if float(peak) != made.of(ir.LIF)[0].threshold:  # at the threshold itself there is room for rounding
        assert [item.name for item in reach.silent(made)] == ([] if fires else ["lif"])
    elif fires:
        assert not reach.silent(made)


def replace_threshold(made: ir.Network, threshold: float) -> ir.Network:
    nodes = [replace(node, threshold=threshold) if isinstance(node, ir.LIF) else node for node in made.nodes]
    return made.with_nodes("folded", list(nodes))


def test_a_dead_network_is_refused_with_its_numbers() -> None:
    """The largest possible membrane and the threshold; just above it, it is exported."""
    weight = np.array([[0.5, 0.25], [-1.0, 0.125]])
    with pytest.raises(UnsupportedError, match=r"'lif': no input makes it fire.*reach 1\.312 .*3 steps.* is 1\.375"):
        export(Source(network(weight, 1.375), "x"), CHIP)  # 0.75 (1 + 1/2 + 1/4) = 1.3125
    made = export(Source(network(weight, 1.3), "x"), CHIP)
    assert made.notes == () and "notes" not in made.chain.made
    with pytest.raises(UnsupportedError, match=r"'lif': no input makes it fire"):
        export(Source(network(weight, 1.0, bias=-0.9), "x"), CHIP)  # below 0 at every step


@pytest.mark.parametrize("ties", [False, True])
def test_a_threshold_that_is_only_met(ties: bool) -> None:
    """In integers there is no rounding: what can only meet its threshold fires where ties fire, or is dead."""
    made = network(np.array([[1.0, 1.0]]), 6.0, tau=1.0, ties=ties)
    assert not reach.silent(made)
    if ties:
        assert export(Source(made, "x"), CHIP).notes == ()
    else:
        with pytest.raises(UnsupportedError, match=r"'lif': no input makes it fire.*the chip's integers"):
            export(Source(made, "x"), CHIP)


def test_a_dead_branch_is_said() -> None:
    """Spikes reach the readout past it: the network is exported, and the layer named."""
    made = network(np.array([[1.0, 1.0]]), 1.0)
    nodes = list(made.nodes)
    extra = [ir.Dense("dead.dense", ("lif",), np.array([[0.5]]), None), ir.LIF("dead", ("dead.dense",), 0.5, 1.0)]
    ends = [ir.Dense("dead.last", ("dead",), np.ones((2, 1)), None), ir.Add("add", ("last", "dead.last"))]
    readout = replace(nodes[-1], inputs=("add",))
    branching = made.with_nodes("folded", [*nodes[:3], *extra, nodes[3], *ends, readout])
    notes = export(Source(branching, "x"), CHIP).notes
    assert any(note.startswith("layer 'dead': no input makes it fire") for note in notes)
    assert not any("'lif'" in note for note in notes)


def test_tables_of_every_step() -> None:
    """A time-varying neuron that fires at its last step alone is alive; above that it is not."""
    tables = {"gain": np.ones((3, 1)), "leak": np.array([[0.0], [1.0], [2.0]]), "bias": np.full((3, 1), -0.5)}
    for level, dead in ((2.2, False), (2.3, True)):  # 0.5, 1.0, 2.5 with currents of 1 - 0.5
        threshold = np.array([[9.0], [9.0], [level + 0.25]])
        made = network(np.array([[1.0]]), 1.0)
        lif = replace(made.of(ir.LIF)[0], steps=ir.StepConstants(**tables, threshold=threshold))
        made = made.with_nodes("folded", [lif if node.name == "lif" else node for node in made.nodes])
        fires = bool(evaluate(made, everything(1, 3)).spikes["lif"].any())
        assert (fires, bool(reach.silent(made))) == (not dead, dead)
