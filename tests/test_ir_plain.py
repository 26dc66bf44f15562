"""A network as plain values and arrays: back as it was, through JSON, whatever nodes it is of; and what is none."""

from __future__ import annotations

import copy
import dataclasses
import json
from typing import Any

import numpy as np
import pytest
from branching import Drawn, branching
from helpers import assert_equal, every_node, usually
from hypothesis import given, settings

from snn2chip import ir
from snn2chip.errors import InputError
from snn2chip.ir import plain
from snn2chip.ir.network import _ALLOWED
from snn2chip.ir.plain import as_plain, of_plain
from snn2chip.passes.capture import capture
from snn2chip.passes.fold import fold

ONES = np.ones(2)
POOL = {"type": "MaxPool", "name": "pool", "inputs": ["lif"], "kernel": [2, 2], "stride": [4, 4], "padding": [2, 2]}


def through(network: ir.Network) -> ir.Network:
    table, arrays = as_plain(network)
    return of_plain(json.loads(json.dumps(table)), arrays)


def test_every_kind_of_node_comes_back_as_it_was() -> None:
    """Each field, to the last bit; integers stay integers."""
    made = every_node()
    assert {type(node) for node in made.nodes} == set(_ALLOWED["captured"])
    assert_equal(through(made), made)
    whole = tuple(
        dataclasses.replace(node, weight=np.ones(node.weight.shape, np.int64)) if isinstance(node, ir.Conv) else node
        for node in made.nodes
    )
    found = through(made.with_nodes("captured", list(whole)))
    assert [node.weight.dtype for node in found.of(ir.Conv)] == [np.int64] * 2


@settings(max_examples=usually(30), deadline=None)
@given(branching())
def test_networks_come_back_as_they_were(drawn: Drawn) -> None:
    """Captured and folded, with branches."""
    captured = capture(drawn.network)
    for made in (captured, fold(captured)[0]):
        assert_equal(through(made), made)


def test_a_new_node_needs_no_code() -> None:
    """Its fields are read by their annotations; nothing here knows its name."""

    @dataclasses.dataclass(frozen=True, eq=False)
    class Novel(ir.LIF):
        currents: ir.FloatArray = dataclasses.field(default_factory=lambda: np.zeros(2))
        sides: ir.Pair = (1, 2)
        word: ir.Coding = "direct"

    nodes = list(every_node().nodes)
    nodes[8] = Novel("lif:2", ("norm",), 0.5, 0.2, currents=np.array([1.5, -2.0]), sides=(3, 4), word="events")
    made = every_node().with_nodes("captured", nodes)
    assert_equal(through(made), made)


def test_layers_whose_names_look_like_others_fields() -> None:
    """Every array has a key of its own."""
    weight = np.eye(2)
    nodes = (
        ir.Input("i", (), (2,), "direct", 1, 0, 1, np.zeros(2, np.int64), ONES, 0 * ONES),
        ir.LIF("a", ("i",), 0.5, 1.0, ir.StepConstants(*(np.full((1, 2), n) for n in (1.0, 2.0, 3.0, 4.0)))),
        ir.Dense("a/steps", ("a",), weight, ONES),
        ir.Dense("a/steps/bias", ("a/steps",), 2 * weight, ONES),
        ir.Dense("a/steps/bias/weight", ("a/steps/bias",), 3 * weight, None),
        ir.Readout("r", ("a/steps/bias/weight",), "membrane"),
    )
    made = ir.Network("captured", 1, ("x", "y"), nodes)
    assert_equal(through(made), made)


def test_a_quantized_network_is_refused() -> None:
    """Its file is model.net."""
    nodes = [*every_node().nodes[:1], ir.Readout("r", ("input",), "membrane")]
    with pytest.raises(InputError, match="save its chain"):
        as_plain(every_node().with_nodes("quantized", nodes))


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        ((), [], "no table with a list of nodes"),
        (("nodes",), {}, "no table with a list of nodes"),
        (("nodes",), [], "starts with an Input"),
        (("nodes", 1), 3, "node 1 is no table"),
        (("stage",), "quantized", "'quantized' is none of captured, folded"),
        (("timesteps",), 0, "timesteps 0 is not in 1.."),
        (("timesteps",), True, "timesteps True is no int"),
        (("timesteps",), 3, "does not fit|statistics of 2 time steps"),
        (("classes",), "ab", "is no list"),
        (("classes",), ["a\nb", "c"], "no printable text"),
        (("nodes", 1, "type"), "Conv7", "no node 'Conv7' in this snn2chip, which has Add, AvgPool"),
        (("nodes", 1, "type"), "Dense", "has too much 'stride'|has too much 'padding'|too much"),
        (("nodes", 1, "name"), "x" * 20000, "no printable text"),
        (("nodes", 1, "inputs"), ["nowhere"], "reads 'nowhere'"),
        (("nodes", 1, "weight"), {"tensor": "no"}, "weight: no array of numbers 'no'"),
        (("nodes", 1, "weight"), {"tensor": "fc/weight"}, "weight of shape|do not fit each other"),
        (("nodes", 1, "bias"), {"tensor": "bntt/gamma"}, "bias of shape"),
        (("nodes", 1, "stride"), [0, 1], "stride 0 is not in"),
        (("nodes", 1, "stride"), [1], "is no list of 2"),
        (("nodes", 1, "padding"), [1, -1], "padding -1 is not in"),
        (("nodes", 1, "groups"), 3, "channels in 3 groups|does not fit a convolution"),
        (("nodes", 0, "center"), {"tensor": "input/scale"}, "float64 where integers belong"),
        (("nodes", 0, "low"), 300, "values 300..255 of 0..255"),
        (("nodes", 0, "shape"), [2, 2**20, 2**20], "does not fit its 2 inputs"),
        (("nodes", 3, "tau"), 1.5, "tau 1.5 is not in 0..1"),
        (("nodes", 3, "threshold"), -0.5, "threshold -0.5 is not in"),
        (("nodes", 3, "threshold"), float("nan"), "threshold nan is not in"),
        (("nodes", 3, "ties"), 1, "ties 1 is no bool"),
        (("nodes", 3, "steps"), {"type": "StepTables"}, "is no StepConstants"),
        (("nodes", 3, "steps", "leak"), {"tensor": "fc/weight"}, "leak -0.333333..1e-300 is not in 0..inf"),
        (("nodes", 4), POOL, "more than half the kernel"),
        (("nodes", 7, "eps"), 0, "eps 0.0 is not in"),
        (("nodes", 7, "var"), {"tensor": "norm/beta"}, "var -1..-1 is not in 0..inf"),
        (("nodes", 12, "kind"), "spikes", "none of membrane, spike_count"),
    ],
)
def test_what_is_no_network_is_refused_in_one_line(place: tuple[Any, ...], value: Any, words: str) -> None:
    """Whoever made it: what, where, the value and the limit."""
    table, arrays = as_plain(every_node())
    table = copy.deepcopy(table)
    inner: Any = table
    for key in place[:-1]:
        inner = inner[key]
    if place:
        inner[place[-1]] = value
    with pytest.raises(InputError, match=words) as refused:
        of_plain(table if place else value, arrays)
    assert len(str(refused.value).splitlines()) == 1 and len(str(refused.value)) < 1000


@pytest.mark.parametrize("field", ["name", "inputs", "bias"])
def test_a_field_too_few_or_too_many(field: str) -> None:
    """Of a node that this snn2chip knows otherwise."""
    table, arrays = as_plain(every_node())
    del table["nodes"][1][field]
    with pytest.raises(InputError, match=f"lacks '{field}'|no table with a type and a name"):
        of_plain(table, arrays)
    table, arrays = as_plain(every_node())
    table["nodes"][1]["colour"] = 3
    with pytest.raises(InputError, match="has too much 'colour'"):
        of_plain(table, arrays)
    assert plain._NODES_MOST < 100_000  # of values, that a file may have


def test_a_layer_of_more_neurons_than_any_chip_has() -> None:
    """Which a few bytes can ask for."""
    one, side = np.ones(1), 2**13
    nodes = (
        ir.Input("i", (), (1, side, side), "direct", 1, 0, 1, np.zeros(1, np.int64), one, 0 * one),
        ir.Conv("c", ("i",), np.ones((1, 1, 1, 1)), None, (side, side)),
        ir.Flatten("f", ("c",)),
        ir.Dense("d", ("f",), np.ones((1, 1)), None),
        ir.Readout("r", ("d",), "membrane"),
    )
    with pytest.raises(InputError, match=r"'i': shape .*; at most 16,777,216 values"):
        through(ir.Network("captured", 1, ("x",), nodes))
