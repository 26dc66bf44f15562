"""Branching networks in a chain: random ones from torch to the simulator spike for spike, and the layout by hand."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from branching import LOIHI, Branching, Drawn, Stages, Step, branching, check, export, inputs
from conftest import tiny_recipe
from helpers import assert_equal, assert_same, images_for, look_trained, run_in_lava, spiking_network, usually
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from torch import nn

from snn2chip import ir
from snn2chip.backends import lava
from snn2chip.chip import relay
from snn2chip.errors import ChipLimitError, InputError, UnsupportedError
from snn2chip.formats import netx
from snn2chip.ir.interpreter import evaluate
from snn2chip.nn import (
    LIF,
    Conv2d,
    Flatten,
    Linear,
    MaxPool2d,
    Residual,
    SpikingNetwork,
    TDBatchNorm,
    build,
    model_file,
)
from snn2chip.passes import pipeline
from snn2chip.passes.capture import capture
from snn2chip.passes.fold import fold
from snn2chip.passes.lower import fit, lower
from snn2chip.passes.quantize import quantize
from snn2chip.passes.schedule import Relays, schedule
from snn2chip.simulate.dense import DenseEngine
from snn2chip.verify.ladder import verify

Rows = list[dict[str, Any]]
Ways = list[tuple[str, bool, nn.Module]]
Layer = tuple[str, Ways, nn.Module]


# ----------------------------------------------------------------------------------------------- random networks


@settings(
    max_examples=usually(80), deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
@given(branching())
def test_random_branching_networks(drawn: Drawn) -> None:
    """From torch to the simulator no spike and no voltage changes but by rounding; the file holds the same chain."""
    try:
        stages = export(drawn.network, drawn.relays, drawn.bits, drawn.seed if drawn.calibrated else None)
    except UnsupportedError:
        event("refused")
        return
    except ChipLimitError as error:  # relays leave a threshold of at most 13 beside weights of 4 bits
        assert drawn.bits == 4 and "for the relays beside it" in str(error)
        event("no scale")
        return
    event(f"{drawn.relays}, {drawn.bits} bits, {'calibrated' if drawn.calibrated else 'not calibrated'}")
    check(drawn.network, stages, drawn.seed)
    with tempfile.TemporaryDirectory() as folder:
        netx.save(Path(folder, "model.net"), stages.chain)
        assert_equal(netx.load(Path(folder, "model.net")), stages.chain)


@pytest.mark.slow
def test_the_networks_above_are_worth_it() -> None:
    """Most are accepted, with everything in them that makes lowering hard, and spikes that come and go."""
    seen: Counter[str] = Counter()

    @settings(max_examples=100, deadline=None, derandomize=True, database=None)
    @given(branching())
    def visit(drawn: Drawn) -> None:
        captured = capture(drawn.network)
        folded, _ = fold(captured)
        seen["drawn"] += 1
        try:
            plan = schedule(folded, LOIHI, drawn.relays)
        except UnsupportedError:
            return
        spikes = evaluate(captured, inputs(captured, 2, drawn.seed)).spikes
        items = [item for level in plan.levels for item in level.relays]
        strided = [item for item in items if item.stride != (1, 1)]
        seen["accepted"] += 1
        seen["without relays"] += not items
        seen["over several levels"] += any(item.hop > 2 for item in items)
        seen["phases, all"] += any(len(item.phases) == item.stride[0] * item.stride[1] for item in strided)
        seen["phases, some"] += any(len(item.phases) < item.stride[0] * item.stride[1] for item in strided)
        seen["of a dense level"] += any(len(item.shape) == 1 for item in items)
        seen["of the input"] += any(item.source == "input" for item in items)
        seen["copies for relays"] += any(level.copies > 1 for level in plan.levels)
        seen["copies for weights"] += any(max(level.reads) > 1 for level in plan.levels)
        seen["several sources"] += any(len(level.relays) > 1 for level in plan.levels)
        seen["max pooling"] += bool(captured.of(ir.MaxPool))
        seen["three ways"] += any(len(node.inputs) > 2 for node in folded.of(ir.Add))
        carried = [float(spikes[item.source].double().mean()) for item in items if item.source in spikes]
        seen["relays"] += len(carried)
        seen["alive"] += sum(0 < rate < 1 for rate in carried)

    visit()
    assert seen["accepted"] >= 0.75 * seen["drawn"] and seen["alive"] >= 0.8 * seen["relays"], seen
    assert min(seen.values()) >= 5, seen


# ------------------------------------------------------------------------------------------------ layout, by hand


def residual_network(*rows: dict[str, Any], side: int = 8, seed: int = 0, **options: Any) -> SpikingNetwork:
    """conv1 of three channels, the rows, a dense readout, as a recipe says it; looks trained."""
    layers: Rows = [{"type": "conv", "channels": 3}, *rows, {"type": "flatten"}]
    layers += [{"type": "dense", "features": "classes", "neuron": options.get("model__readout") == "spike_count"}]
    spec = tiny_recipe(model__layers=layers, **{"model__timesteps": 4, **options}).model
    network = build(spec, (1, side, side), 3, max_value=15)
    look_trained(network, seed)
    return network


def origins(stages: Stages) -> list[dict[str, tuple[int, int]]]:
    return [layer.origin for layer in stages.chain.layers]


def test_a_basic_block_is_two_layers() -> None:
    """Neurons first, then the relay: channels [block's first neurons | what the shortcut needs], no copies."""
    network = residual_network({"type": "residual", "channels": 3})
    stages = export(network, "bias")
    check(network, stages, 0)
    assert origins(stages) == [
        {"lif1": (0, 3)},
        {"block1.branch.lif1": (0, 3), "lif1.relay1": (3, 6)},
        {"lif2": (0, 3)},
        {"accumulator": (0, 3)},
    ]
    first, second = stages.chain.layers[1:3]
    assert first.weight.shape == (6, 3, 3, 3) and second.weight.shape == (3, 6, 3, 3)
    taps = np.argwhere(first.weight[3:])
    assert taps.tolist() == [[channel, channel, 1, 1] for channel in range(3)]  # one centre tap a channel
    assert (first.bias[3:] == first.bias[3, 0, 0]).all()
    assert stages.report.relay_neurons == 3 * 8 * 8
    assert stages.report.neurons == sum(int(np.prod(layer.shape)) for layer in stages.chain.layers)


BASIC, STRIDED = {"type": "residual", "channels": 3}, {"type": "residual", "channels": 6, "stride": 2}
BOTTLENECK = {"type": "residual", "channels": 8, "block": "bottleneck"}


@pytest.mark.parametrize("relays", ["auto", "plain", "quadruple"])
@pytest.mark.parametrize("silent", ["shortcut", "last", "branch.norm1", ""])
@pytest.mark.parametrize("row", [BASIC, STRIDED, STRIDED | {"projection": "pool"}, BOTTLENECK], ids=str)
def test_no_relay_where_nothing_is_read(row: dict[str, Any], silent: str, relays: Relays, tmp_path: Path) -> None:
    """gamma 0, as pruning leaves it: no relay of nothing, the same spikes, and a file that is read again.

    Neurons that nothing drives at all are refused before there is a file.
    """
    network = residual_network(row)
    where = f"branch.norm{3 if row is BOTTLENECK else 2}" if silent == "last" else silent
    for name, module in network.named_modules():
        if isinstance(module, TDBatchNorm) and where in name:
            module.weight.data.zero_()
    if silent in ("branch.norm1", ""):
        with pytest.raises(UnsupportedError, match="every weight is 0"):
            export(network, relays)
        return
    stages = export(network, relays)
    check(network, stages, 0)
    assert all(item.neurons > 0 for item in stages.report.placed)
    assert (stages.report.relay_neurons == 0) == (silent == "shortcut")
    netx.save(tmp_path / "a.net", stages.chain)


@pytest.mark.parametrize(("projection", "phases"), [("conv", 1), ("pool", 4)])
def test_a_strided_block_relays_the_phases_that_it_needs(projection: str, phases: int) -> None:
    """A 1x1 shortcut of stride 2 needs every fourth pixel, a pooled one all, in four channels each."""
    network = residual_network({"type": "residual", "channels": 5, "stride": 2, "projection": projection})
    stages = export(network, "bias")
    check(network, stages, 0)
    assert origins(stages)[1] == {"block1.branch.lif1": (0, 5), "lif1.relay1": (5, 5 + 3 * phases)}
    item = stages.plan.levels[1].relays[0]
    assert item.phases == ((0, 0), (0, 1), (1, 0), (1, 1))[:phases]
    assert (item.stride, item.grid, item.shape) == ((2, 2), (4, 4), (3 * phases, 4, 4))
    assert stages.chain.layers[1].stride == (2, 2) and stages.chain.layers[2].stride == (1, 1)


def test_a_bottleneck_passes_its_input_on_twice() -> None:
    """Three layers, two relays in a row, and the second reads the first."""
    network = residual_network({"type": "residual", "channels": 4, "block": "bottleneck", "stride": 2})
    stages = export(network, "bias")
    check(network, stages, 0)
    assert [list(names) for names in origins(stages)[1:4]] == [
        ["block1.branch.lif1", "lif1.relay1"],
        ["block1.branch.lif2", "lif1.relay2"],
        ["lif2"],
    ]


@pytest.mark.parametrize(("relays", "copies"), [("double", 2), ("quadruple", 4)])
def test_copies_appear_where_relays_read_them(relays: Relays, copies: int) -> None:
    """The source's neurons stand there as often as relays read them, and the relays' weights add up."""
    network = residual_network({"type": "residual", "channels": 3, "identity": "none"})
    stages = export(network, relays)
    check(network, stages, 0)
    names = ["lif1", *(f"lif1.copy{number}" for number in range(2, copies + 1))]
    assert origins(stages)[0] == {name: (3 * number, 3 * number + 3) for number, name in enumerate(names)}
    source, reader = stages.chain.layers[:2]
    assert all((source.weight[:3] == source.weight[3 * n : 3 * n + 3]).all() for n in range(copies))
    start, stop = reader.origin["lif1.relay1"]
    assert (np.count_nonzero(reader.weight[start:stop].reshape(stop - start, -1), axis=1) == copies).all()
    assert stages.plan.levels[1].limit == relay.largest_threshold(3072, copies * 254, 4095)


def test_a_large_shortcut_is_shared_out_among_copies() -> None:
    """Four copies of a relay carry a weight of up to four times the chip's, and the convolution keeps its bits."""
    network = residual_network({"type": "residual", "channels": 3})
    with torch.no_grad():
        network.get_parameter("body.block1.branch.norm2.weight").mul_(0.02)
    stages = export(network, "quadruple")
    check(network, stages, 0)
    level, reader = stages.plan.levels[2], stages.chain.layers[2]
    assert sorted(level.reads) == [1, 4] and list(origins(stages)[1])[-1] == "lif1.relay1.copy4"
    synapses = stages.quantized.synapses_of(stages.quantized["lif2"])
    shortcut = synapses[level.reads.index(4)].weight[:, 0, 0, 0]
    assert 3 * 254 < np.abs(shortcut).max() <= 4 * 254
    parts = [reader.weight[np.arange(3), 3 * copy + np.arange(3), 1, 1] for copy in range(1, 5)]
    assert (np.sum(parts, axis=0) == shortcut).all()


def plain(*steps: Layer, shape: tuple[int, int, int] = (1, 8, 8)) -> SpikingNetwork:
    """A network of the given ways and neurons, membrane readout, looking trained."""
    made = [Step(name, ways, nn.Sequential(), neuron) for name, ways, neuron in steps]
    network = spiking_network([("dag", Branching(made))], shape)
    look_trained(network, 1)
    return network


def out(*sources: str, features: int = 128) -> Layer:
    """A dense readout of images of that many features."""
    return "out", [(s, False, nn.Sequential(Flatten(), Linear(features, 3))) for s in sources], nn.Sequential()


def test_two_ways_from_one_source_are_one_kernel() -> None:
    """Their weights are added before rounding, so that the sum fits the chip: padding, kernels and groups differ."""
    network = plain(
        ("lif1", [("input", False, Conv2d(1, 2, 1))], LIF()),
        (
            "lif2",
            [
                ("lif1", False, Conv2d(2, 2, 3, padding=1)),
                ("lif1", False, nn.Sequential()),
                ("lif1", False, Conv2d(2, 2, (3, 5), padding=(2, 2), dilation=(2, 1), groups=2)),
            ],
            LIF(),
        ),
        out("lif2", "lif2"),
    )
    stages = export(network)
    check(network, stages, 0)
    assert [layer.weight.shape for layer in stages.chain.layers] == [(2, 1, 1, 1), (2, 2, 5, 5), (3, 128)]


def test_without_branches_layers_stay_as_they_were_trained() -> None:
    """Groups, dilation, stride and padding included; with a branch beside it a grouped kernel is written out."""
    first = Conv2d(1, 4, 3, 2, 2, 2)
    steps: list[Layer] = [
        ("lif1", [("input", False, first)], LIF()),
        ("lif2", [("lif1", False, Conv2d(4, 4, 3, padding=1, groups=4))], LIF()),
    ]
    stages = export(plain(*steps, out("lif2", features=64)))
    layers = stages.chain.layers
    assert [layer.groups for layer in layers] == [1, 4, 1] and layers[1].weight.shape == (4, 1, 3, 3)
    assert (layers[0].stride, layers[0].padding, layers[0].dilation) == ((2, 2), (2, 2), (2, 2))
    branches = export(plain(*steps, out("lif2", "lif1", features=64))).chain.layers
    assert branches[1].groups == 1 and branches[1].weight.shape == (8, 4, 3, 3)


def test_a_level_that_shrinks_and_one_that_grows_again() -> None:
    """What fell off the edge stays off, in the relay as in what is said of it; nothing that is read is missing."""
    network = plain(
        ("lif1", [("input", False, Conv2d(1, 2, 1))], LIF()),
        ("lif2", [("lif1", False, Conv2d(2, 2, 2))], LIF()),
        ("lif3", [("lif2", False, Conv2d(2, 2, 2, padding=1))], LIF()),
        ("lif4", [("lif3", False, Conv2d(2, 2, 2, 2)), ("lif1", False, Conv2d(2, 2, 1, 2))], LIF()),
        out("lif4", features=32),
    )
    stages = export(network)
    check(network, stages, 0)
    assert [item.grid for level in stages.plan.levels for item in level.relays] == [(7, 7), (8, 8)]
    assert {item.covers for level in stages.plan.levels for item in level.relays} == {(7, 7)}


@settings(max_examples=usually(300), deadline=None)
@given(
    size_in=st.integers(1, 12),
    size_out=st.integers(1, 12),
    stride=st.integers(1, 4),
    places=st.lists(st.integers(-6, 12), min_size=1, max_size=5, unique=True),
)
def test_fit(size_in: int, size_out: int, stride: int, places: list[int]) -> None:
    """A convolution of any size to any other, in which every place is a tap."""
    padding, kernel, dilation = fit(size_in, size_out, stride, sorted(places))
    assert ir.out_size(size_in, kernel, stride, padding, dilation) == size_out
    assert {dilation * tap - padding for tap in range(kernel)} >= set(places)
    assert kernel >= 1 and padding >= 0 and dilation >= 1


# ------------------------------------------------------------------------------------------------------- refusals


FIRST: Layer = ("lif1", [("input", False, Conv2d(1, 2, 1))], LIF())
STRIDED: Layer = ("lif2", [("lif1", False, Conv2d(2, 2, 2, 2))], LIF())
REFUSED: dict[str, tuple[list[Layer], str]] = {
    "graded": (
        [FIRST, ("lif2", [("lif1", False, Conv2d(2, 2, 1)), ("input", False, Conv2d(1, 2, 1))], LIF()), out("lif2")],
        "dag.lif2_way1': a shortcut from the input itself, whose values 0..255 ",
    ),
    "strides between": (
        [FIRST, STRIDED, ("lif3", [("lif2", False, Conv2d(2, 2, 1)), ("lif1", False, Conv2d(2, 2, 5))], LIF())],
        r"dag.lif3_way1': stride \(1, 1\) from 'dag.lif1', while the layers between them have a stride of \(2, 2\)",
    ),
    "strides meet": (
        [
            FIRST,
            ("lif2", [("lif1", False, Conv2d(2, 2, 1))], LIF()),
            ("lif3", [("lif2", False, Conv2d(2, 2, 2, 2)), ("lif1", False, Conv2d(2, 2, 5))], LIF()),
        ],
        r"dag.lif3': strides that do not meet, .*: 'dag.lif3_way0' \(2, 2\), 'dag.lif3_way1' \(1, 1\)",
    ),
    "across dense": (
        [
            FIRST,
            ("lif2", [("lif1", False, nn.Sequential(Flatten(), Linear(128, 4)))], LIF()),
            ("lif3", [("lif1", False, Conv2d(2, 2, 1))], LIF()),
            (
                "out",
                [("lif2", False, Linear(4, 3)), ("lif3", False, nn.Sequential(Flatten(), Linear(128, 3)))],
                nn.Sequential(),
            ),
        ],
        "dag.lif3_way0': a convolution of 'dag.lif1' across the dense layer 'dag.lif2'",
    ),
    "left out": (
        [
            FIRST,
            ("lif2", [("lif1", False, Conv2d(2, 2, 2))], LIF()),
            ("lif3", [("lif2", False, Conv2d(2, 2, 1)), ("lif1", False, Conv2d(2, 2, 2))], LIF()),
            out("lif3", features=98),
        ],
        "dag.lif3_way1': it reads row 7 of 'dag.lif1', and 'dag.lif2' between them covers only 7",
    ),
    "max pooling": (
        [("lif1", [("input", False, nn.Sequential(Conv2d(1, 2, 1), MaxPool2d(2)))], LIF()), out("lif1", features=32)],
        "dag.lif1_way0.1': max pooling of 'dag.lif1_way0.0', which gives no spikes",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_no_chain_can_do_is_named(case: str) -> None:
    """The layer, what is wrong with it, and what to do."""
    steps, message = REFUSED[case]
    if steps[-1][0] != "out":
        steps = [*steps, out(steps[-1][0], features=32)]
    network = plain(*steps)
    with pytest.raises(UnsupportedError, match=message) as error:
        schedule(fold(capture(network))[0], LOIHI)
    assert ";" in str(error.value)  # what to do


class Unread(nn.Module):
    """Calls a layer and forgets what it gives."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.lif, self.spare, self.flatten = Conv2d(1, 2, 1), LIF(), LIF(), Flatten()
        self.dense = Linear(128, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        self.spare(x)
        return self.dense(self.flatten(self.lif(x)))  # type: ignore[no-any-return]


def test_what_makes_no_network_is_named() -> None:
    """A layer that feeds nothing, an add of different shapes."""
    with pytest.raises(UnsupportedError, match=r"'own\.spare' feeds nothing"):
        capture(spiking_network([("own", Unread())], (1, 8, 8)))
    with pytest.raises(InputError, match=r"'block\.add': an add of different shapes: .*\(2, 8, 8\).*\(2, 6, 6\)"):
        capture(spiking_network([("block", Residual(Conv2d(1, 2, 1), Conv2d(1, 2, 3)))], (1, 8, 8)))


def test_a_threshold_beyond_the_relays_is_named() -> None:
    """Quantizing without the schedule may give one; lowering does not make relays that are not exact."""
    network = residual_network({"type": "residual", "channels": 3})
    with torch.no_grad():
        network.get_parameter("body.block1.branch.norm1.weight").mul_(0.1)  # small weights: a large threshold
    folded, _ = fold(capture(network))
    plan = schedule(folded, LOIHI, "plain")
    quantized, _ = quantize(folded, LOIHI)
    with pytest.raises(ChipLimitError, match=r"'block1.branch.lif1': threshold \d+ exceeds .*\(253, loihi2\)"):
        lower(quantized, LOIHI, plan)


@pytest.mark.parametrize(("wanted", "copies"), [(4048, 1), (4049, 2), (8112, 2), (8113, 4), (131071, 4)])
@pytest.mark.parametrize(("ratio", "reads"), [(1.0, 1), (4.0, 1), (4.25, 2), (8.0, 2), (8.5, 4), (100.0, 4)])
def test_auto_loses_at_most_two_bits(wanted: int, copies: int, ratio: float, reads: int) -> None:
    """As few copies as keep the relays' limit (1012, 2028, 4060) within a factor of 4 of what the weights allow, and a
    shortcut's share of a weight within a factor of 4 of the weights beside it."""
    large = np.zeros((1, 1, 3, 3))
    large[0, 0, 1, 1] = 254 / (wanted + 0.5)
    nodes: list[ir.Node] = [
        ir.Input("input", (), (1, 4, 4), "poisson", 1, 0, 1, np.zeros(1, int), np.ones(1), np.zeros(1)),
        ir.Conv("conv1", ("input",), large, None, (1, 1), (1, 1)),
        ir.LIF("lif1", ("conv1",), 0.25, 1.0),
        ir.Conv("conv2", ("lif1",), large, None, (1, 1), (1, 1)),
        ir.LIF("lif2", ("conv2",), 0.25, 1.0),
        ir.Conv("conv3", ("lif2",), large, None, (1, 1), (1, 1)),
        ir.Conv("skip", ("lif1",), large[:, :, 1:2, 1:2] * ratio, None),
        ir.Add("add", ("conv3", "skip")),
        ir.LIF("lif3", ("add",), 0.25, 1.0),
        ir.Readout("readout", ("lif3",), "spike_count"),
    ]
    levels = schedule(ir.Network("folded", 2, ("a",) * 16, tuple(nodes)), LOIHI).levels
    assert [level.copies for level in levels] == [1, copies, 1]
    assert [level.reads for level in levels] == [(1,), (1,), (1, reads)]
    assert (levels[1].wanted, levels[1].limit) == (wanted, {1: 1012, 2: 2028, 4: 4060}[copies])


@pytest.mark.parametrize(
    ("small", "large", "threshold", "wanted"), [(3, 201, 100, [0, 3, 74, 127]), (4, 202, 600, [0, 4, 202, 254])]
)
def test_a_weight_shared_out_among_copies(small: int, large: int, threshold: int, wanted: list[int]) -> None:
    """201 as 127 and 74 of two copies of a relay, beside an odd relay; 202 as it is beside an even one."""
    nodes: list[ir.Node] = [
        ir.Input("input", (), (1, 4, 4), "poisson", 1, 0, 1, np.zeros(1, int), np.ones(1), np.zeros(1)),
        *(ir.Conv("conv1", ("input",), np.ones((1, 1, 1, 1)), None), ir.LIF("lif1", ("conv1",), 0.25, 1.0)),
        *(ir.Conv("conv2", ("lif1",), np.ones((1, 1, 1, 1)), None), ir.LIF("lif2", ("conv2",), 0.25, 1.0)),
        ir.Conv("conv3", ("lif2",), np.ones((1, 1, 3, 3)), None, (1, 1), (1, 1)),
        ir.Conv("skip", ("lif1",), np.full((1, 1, 1, 1), 8.0), None),
        *(ir.Add("add", ("conv3", "skip")), ir.LIF("lif3", ("add",), 0.25, 1.0)),
        *(
            ir.Conv("conv4", ("lif3",), np.ones((1, 1, 1, 1)), None),
            ir.Conv("again", ("lif2",), np.ones((1, 1, 1, 1)), None),
        ),
        *(ir.Add("add4", ("conv4", "again")), ir.LIF("lif4", ("add4",), 0.25, 1.0)),
        ir.Readout("readout", ("lif4",), "spike_count"),
    ]
    folded = ir.Network("folded", 2, ("a",) * 16, tuple(nodes))
    plan = schedule(folded, LOIHI)
    assert plan.levels[2].reads == (1, 2) and plan.levels[2].relays
    integers: list[ir.Node] = []
    for node in nodes:
        if isinstance(node, ir.Conv):
            whole = np.full(node.weight.shape, large if node.name == "skip" else small)
            integers.append(replace(node, weight=whole))
        else:
            integers.append(
                ir.CubaNeuron(node.name, node.inputs, threshold, 3072) if isinstance(node, ir.LIF) else node
            )
    chain, _ = lower(folded.with_nodes("quantized", integers), LOIHI, plan)
    weight = chain.layers[2].weight
    assert np.unique(weight).tolist() == wanted
    start, _ = chain.layers[2].origin["lif2.relay1"]
    bias = chain.layers[2].bias
    assert (np.unique(bias[:start]).tolist(), np.unique(bias[start:]).tolist()) == (
        [0],
        [max(0, threshold + 1 - wanted[-1])],
    )


def test_a_relay_beside_odd_weights_is_odd() -> None:
    """The chip stores even weights to 254, or any to 127: a relay beside one odd weight has 127, or there is none."""
    folded, _ = fold(capture(residual_network({"type": "residual", "channels": 3})))
    plan = schedule(folded, LOIHI, "plain")
    quantized, _ = quantize(folded, LOIHI, plan)
    place = next(number for number, level in enumerate(plan.levels) if level.relays)
    unit = quantized[plan.levels[place].neuron]
    (synapse,) = quantized.synapses_of(unit)

    def made(weight: int, threshold: int) -> ir.IntArray:
        """The relay's weights beside some of 126 and this one, at this threshold."""
        weights = np.full(synapse.weight.shape, 126)
        weights.flat[0] = weight
        changed = {
            synapse.name: replace(synapse, weight=weights, bias=None),
            unit.name: replace(unit, threshold=threshold),  # type: ignore[call-arg]
        }
        nodes = [changed.get(node.name, node) for node in quantized.nodes]
        chain, report = lower(quantized.with_nodes("quantized", nodes), LOIHI, plan)
        item = next(item for item in report.placed if item.relay is not None)
        relays: ir.IntArray = chain.layers[place].weight[item.start : item.stop]
        return np.unique(relays)

    assert made(125, 126).tolist() == [0, 127]
    assert made(124, 126).tolist() == [0, 127]
    assert made(124, 253).tolist() == [0, 254]
    assert made(254, 126).tolist() == [0, 254]
    with pytest.raises(ChipLimitError, match="threshold 253 exceeds"):
        made(125, 253)


# ----------------------------------------------------------------------------------------------------------- Lava


def dense_network() -> SpikingNetwork:
    """Dense layers alone, spikes in; the second reads the input again, the readout the first."""
    first = nn.Sequential(Flatten(), Linear(50, 6))
    again = nn.Sequential(Flatten(), Linear(50, 6))
    steps: list[Layer] = [
        ("lif1", [("input", False, first)], LIF()),
        ("lif2", [("lif1", False, nn.Sequential()), ("input", False, again)], LIF(0.5)),
        ("out", [("lif2", False, Linear(6, 3)), ("lif1", False, Linear(6, 3))], nn.Sequential()),
    ]
    made = [Step(name, ways, nn.Sequential(), neuron) for name, ways, neuron in steps]
    network = spiking_network([("dag", Branching(made))], (2, 5, 5), coding="poisson", timesteps=6, max_value=15)
    look_trained(network, 5)
    return network


def pooled_network() -> SpikingNetwork:
    """Two blocks, the first with a stride and a pooled shortcut, and max pooling."""
    strided = {"type": "residual", "channels": 4, "stride": 2, "projection": "pool", "blocks": 2}
    return residual_network(strided, {"type": "maxpool", "kernel": 2}, seed=3)


def bottleneck_network() -> SpikingNetwork:
    """Relays over two layers, a stride that leaves pixels out of the shortcut, an odd image, another leak."""
    row = {"type": "residual", "channels": 4, "stride": 2, "block": "bottleneck"}
    return residual_network(row, side=7, seed=4, model__readout="spike_count", model__neuron={"tau": 0.5})


@pytest.mark.lava
@pytest.mark.parametrize(
    ("make", "relays"), [(pooled_network, "auto"), (bottleneck_network, "double"), (dense_network, "quadruple")]
)
def test_lava_says_the_same(
    make: Callable[[], SpikingNetwork],
    relays: Relays,
    tmp_path: Path,
    lava_environment: lava.Environment,
) -> None:
    """The whole ladder: the file through lava-dl's netx, every spike and voltage of neurons, copies and relays."""
    network = make()
    model = model_file.Model(network, tiny_recipe(), 15, tuple("abc"), {})
    export_ = pipeline.export(model, LOIHI, relays=relays)
    netx.save(tmp_path / "model.net", export_.chain)
    images = images_for(network, 2, seed=6).numpy()
    verdict = verify(model, netx.load(tmp_path / "model.net"), images, net_path=tmp_path / "model.net")
    assert verdict.passed, verdict
    assert verdict.rungs[-1].name == "dense = Lava" and verdict.rungs[-1].compared > 500
    spikes = DenseEngine(export_.chain).run(export_.chain.port(inputs(export_.captured, 2, 6))).spikes
    carried = [spikes[i.layer][:, :, i.start : i.stop] for i in export_.lower_report.placed if i.relay is not None]
    assert carried and all(values.any() and not values.all() for values in carried)


@pytest.mark.lava
def test_random_networks_in_lava(tmp_path: Path, lava_environment: lava.Environment) -> None:
    """A sample of the random networks runs in Lava: every spike and voltage of the chain is the simulator's."""
    seen: Counter[str] = Counter()

    @settings(max_examples=12, deadline=None, derandomize=True, database=None)
    @given(branching())
    def visit(drawn: Drawn) -> None:
        if seen["run"] == 4:
            return
        try:
            stages = export(drawn.network, drawn.relays, drawn.bits)
        except UnsupportedError:
            return
        if not any(item.relay is not None for item in stages.report.placed):
            return
        seen["run"] += 1
        port = stages.chain.port(inputs(stages.folded, 2, drawn.seed))
        ours = DenseEngine(stages.chain).run(port)
        assert_same(run_in_lava(stages.chain, port, tmp_path), ours)
        seen["spikes"] += sum(ours.counts.values())

    visit()
    assert seen["run"] == 4 and seen["spikes"] > 100, seen
