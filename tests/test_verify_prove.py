"""The proof that a chain does what its network does: it holds of what `lower` makes, and of nothing else."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from branching import Drawn, Stages, branching, export, inputs
from helpers import Does, look_trained, spiking_network, usually
from hypothesis import given, settings
from hypothesis import strategies as st

from snn2chip import chip, ir
from snn2chip.chip import relay
from snn2chip.errors import ChipLimitError, UnsupportedError
from snn2chip.nn import BNTT, LIF, Conv2d, Flatten, Linear, SpikingNetwork
from snn2chip.passes import lower
from snn2chip.passes.capture import capture
from snn2chip.passes.fold import fold
from snn2chip.passes.quantize import quantize
from snn2chip.passes.schedule import RELAYS, schedule
from snn2chip.simulate import branching as graph
from snn2chip.simulate.dense import DenseEngine
from snn2chip.verify import ladder
from snn2chip.verify.compare import Difference, Rung, rung_of
from snn2chip.verify.prove import Proof, _Unit, prove

LOIHI = chip.load("loihi2")


def altered(stages: Stages, place: int, **changes: object) -> ir.Chain:
    """The chain with other numbers in one of its layers."""
    layers = list(stages.chain.layers)
    layers[place] = replace(layers[place], **changes)  # type: ignore[arg-type]
    return replace(stages.chain, layers=tuple(layers))


def one_more(values: ir.IntArray, *at: int, by: int = 1) -> ir.IntArray:
    changed = values.copy()
    changed[at] += by
    return changed


def branch(norm: Callable[[], torch.nn.Module] = torch.nn.Identity, **options: object) -> SpikingNetwork:
    """Stem, a strided block and its shortcut, which is relayed, a grouped convolution, and a dense readout."""
    net = Does(
        lambda own, x: own.lif3(
            own.conv3(own.lif2(own.norm2(own.conv2(y := own.lif1(own.norm1(own.conv1(x))))))) + own.short(y)
        ),
        conv1=Conv2d(2, 4, 3, padding=1),
        norm1=norm(),
        lif1=LIF(0.5),
        conv2=Conv2d(4, 4, 3, stride=2, padding=1),
        norm2=norm(),
        lif2=LIF(),
        conv3=Conv2d(4, 4, 3, padding=1),
        short=Conv2d(4, 4, 1, stride=2, bias=False),
        lif3=LIF(),
    )
    layers = [
        ("net", net),
        ("conv4", Conv2d(4, 4, 3, dilation=2, padding=2, groups=2)),
        ("lif4", LIF(0.9)),
        ("flat", Flatten()),
        ("end", Linear(36, 3)),
    ]
    return spiking_network(layers, (2, 6, 6), timesteps=4, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def stages() -> Stages:
    network = branch()
    look_trained(network, 3)
    return export(network)


def test_it_holds_of_a_network_with_relays(stages: Stages) -> None:
    """Five layers of neurons and one relay, none left out; the relay's levels are what the tests below change."""
    assert [list(layer.origin) for layer in stages.chain.layers] == [
        ["net.lif1"],
        ["net.lif2", "net.lif1.relay1"],
        ["net.lif3"],
        ["lif4"],
        ["accumulator"],
    ]
    assert prove(stages.quantized, stages.chain) == Proof(True, 5, 1)


def test_the_rung_that_runs_compares_relays_too(stages: Stages) -> None:
    """Spikes and voltages of every trained neuron, spikes of every relay; a relay's spike that is wrong is named."""
    port = stages.chain.port(inputs(stages.quantized, 2, 1))
    dense = DenseEngine(stages.chain).run(port)
    made = SimpleNamespace(
        quantized=stages.quantized, lowered=stages.report, dense=dense, chain=stages.chain, port=port
    )
    made.proof = prove(stages.quantized, stages.chain)

    def climbed() -> Rung:
        return rung_of("graph = chain", [ladder._graph(made)])  # type: ignore[arg-type]

    found = climbed()
    trained = sum(int(np.prod(stages.quantized.shape(unit.name))) for unit in stages.quantized.of(ir.CubaNeuron))
    relays = sum(item.neurons for item in stages.report.placed if item.relay is not None)
    assert (found.passed, found.proved, found.mismatches) == (True, True, 0)
    assert found.compared == 2 * 4 * (2 * trained + relays)
    dense.spikes["2"][1, 3, 5, 2, 1] ^= 1
    found = climbed()
    assert (found.passed, found.proved, found.mismatches) == (False, False, 1)
    assert found.first == Difference("net.lif1.relay1", 1, 3, [1, 2, 1])


@pytest.mark.parametrize("apart", [1, 2])
def test_a_relay_is_read_past_the_border_and_with_gaps(apart: int) -> None:
    """A shortcut with padding and dilation reads its relay as it would read its source; beyond the image is nothing."""
    net = Does(
        lambda own, x: (
            own.end(own.flat(own.lif3(own.conv3(own.lif2(own.conv2(y := own.lif1(own.conv1(x))))) + own.wide(y))))
            + own.more(own.flat(y))
        ),
        conv1=Conv2d(2, 3, 3, padding=1),
        lif1=LIF(),
        conv2=Conv2d(3, 3, 3, padding=1),
        lif2=LIF(),
        conv3=Conv2d(3, 3, 3, padding=apart, dilation=apart),
        wide=Conv2d(3, 3, 3, padding=2, dilation=2),
        lif3=LIF(),
        flat=Flatten(),
        end=Linear(75, 3),
        more=Linear(75, 3),
    )
    network = spiking_network([("net", net)], (2, 5, 5))
    look_trained(network, 2)
    made = export(network)
    assert prove(made.quantized, made.chain) == Proof(True, 4, 2)
    meeting = made.quantized.synapses_of(made.quantized["net.lif3"])
    assert [item.bias is None for item in meeting] == [False, True]  # what both add stays with the first


CHANGES: dict[str, tuple[Callable[[Stages], ir.Chain], str, list[int], str]] = {
    "weight": (
        lambda s: altered(s, 0, weight=one_more(s.chain.layers[0].weight, 3, 1, 1, 2)),
        "net.lif1",
        [3, 0, 0],
        "weight of [1, 0, 1] of 'input' differs by 1 in the chain",
    ),
    "corner tap": (
        lambda s: altered(s, 0, weight=one_more(s.chain.layers[0].weight, 2, 0, 0, 0, by=-5)),
        "net.lif1",
        [2, 1, 1],  # at the edges this tap sees padding
        "weight of [0, 0, 0] of 'input' differs by -5 in the chain",
    ),
    "weight through a relay": (
        lambda s: altered(s, 2, weight=one_more(s.chain.layers[2].weight, 1, 6, 1, 1)),
        "net.lif3",
        [1, 0, 0],
        "weight of [2, 0, 0] of 'net.lif1' differs by 1 in the chain",
    ),
    "weight of a dense layer": (
        lambda s: altered(s, 4, weight=one_more(s.chain.layers[4].weight, 2, 35)),
        "accumulator",
        [2],
        "weight of [3, 2, 2] of 'lif4' differs by 1 in the chain",
    ),
    "bias of one neuron": (
        lambda s: altered(s, 1, bias=one_more(s.chain.layers[1].bias, 2, 1, 0, by=3)),
        "net.lif2",
        [2, 1, 0],
        "bias",
    ),
    "threshold": (
        lambda s: altered(s, 3, threshold=s.chain.layers[3].threshold + 1),
        "lif4",
        [0],
        "threshold",
    ),
    "voltage decay": (lambda s: altered(s, 3, voltage_decay=411), "lif4", [0], "voltage decay 411 in the chain"),
    "current decay": (
        lambda s: altered(s, 3, current_decay=4095),
        "lif4",
        [0],
        "current decay 4095 in the chain, 4096",
    ),
    "dilation": (
        lambda s: altered(s, 3, dilation=(1, 1), padding=(1, 1)),
        "lif4",
        [0, 0, 0],
        "of 'net.lif3' differs by",
    ),
    "padding": (
        lambda s: altered(s, 1, weight=np.roll(s.chain.layers[1].weight, 1, axis=3)),
        "net.lif2",
        [0, 0, 0],
        "of 'net.lif1' differs by",
    ),
    "groups": (
        lambda s: altered(s, 3, weight=np.tile(s.chain.layers[3].weight, (1, 2, 1, 1)), groups=1),
        "lif4",
        [0, 0, 0],
        "of 'net.lif3' differs by",
    ),
    "a relay of another channel": (
        lambda s: altered(s, 1, weight=swapped(s.chain.layers[1].weight)),
        "net.lif3",
        [0, 0, 0],
        "of 'net.lif1' differs by",
    ),
    "a relay of two": (
        lambda s: altered(s, 1, weight=one_more(s.chain.layers[1].weight, 5, 2, 1, 1, by=2)),
        "net.lif1.relay1",
        [1, 0, 0],
        "reads 2 neurons",
    ),
    "a relay too weak": (
        lambda s: altered(s, 1, weight=np.where(np.arange(8)[:, None, None, None] == 6, 1, s.chain.layers[1].weight)),
        "net.lif1.relay1",
        [2, 0, 0],
        "",
    ),
    "a relay that fires alone": (
        lambda s: altered(s, 1, bias=one_more(s.chain.layers[1].bias, 7, 2, 1, by=4000)),
        "net.lif1.relay1",
        [3, 2, 1],
        "fires without a spike",
    ),
    "a relay's name": (
        lambda s: altered(s, 1, origin={"net.lif2": (0, 4), "net.lif1.relay2": (4, 8)}),
        "net.lif1.relay2",
        [],
        "no such relay belongs there",
    ),
    "a layer's name": (lambda s: altered(s, 3, origin={"net.lif3": (0, 4)}), "net.lif3", [0], "voltage decay"),
    "channels without a name": (lambda s: altered(s, 1, origin={"net.lif2": (0, 4)}), "2", [4], "channels 4.."),
    "a gap": (
        lambda s: altered(s, 1, origin={"net.lif2": (0, 4), "net.lif1.relay1": (5, 8)}),
        "net.lif1.relay1",
        [],
        "begins at channel 5",
    ),
    "centre": (lambda s: replace(s.chain, center=(7, 7)), "input", [], "centre (7, 7) in the chain"),
    "readout": (lambda s: replace(s.chain, readout="spike_count"), "input", [], "readout spike_count in the chain"),
    "steps": (lambda s: replace(s.chain, timesteps=5), "input", [], "timesteps 5 in the chain, 4 in the network"),
    "last layer": (lambda s: replace(s.chain, layers=s.chain.layers[:-1]), "accumulator", [], "readout"),
}


def swapped(weight: ir.IntArray) -> ir.IntArray:
    """Two relays read each other's source."""
    changed = weight.copy()
    changed[[4, 5]] = weight[[5, 4]]
    return changed


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_named(name: str, stages: Stages) -> None:
    """Layer, neuron and number of the first difference, for a change of every kind."""
    change, layer, neuron, words = CHANGES[name]
    proof = prove(stages.quantized, change(stages))
    assert not proof.holds
    assert proof.place == (layer, neuron)
    assert words in proof.reason


def test_sums_are_compared_and_not_how_they_are_written(stages: Stages) -> None:
    """A larger kernel with zeros, weights shared out among copies, weights of padding alone: all the same."""
    first = stages.chain.layers[0]
    wide = np.pad(first.weight, ((0, 0), (0, 0), (1, 1), (1, 1)))
    assert prove(stages.quantized, altered(stages, 0, weight=wide, padding=(2, 2))).holds
    wide = np.pad(first.weight, ((0, 0), (0, 0), (6, 6), (0, 0)))
    wide[:, :, 0] = 9  # six rows above the first: beyond the image at every pixel
    assert prove(stages.quantized, altered(stages, 0, weight=wide, padding=(7, 1))).holds
    grouped = stages.chain.layers[3].weight
    whole = np.zeros((4, 4, 3, 3), dtype=np.int64)
    whole[:2, :2], whole[2:, 2:] = grouped[:2], grouped[2:]
    assert prove(stages.quantized, altered(stages, 3, weight=whole, groups=1)).holds
    twice = replace(
        first,
        weight=np.concatenate([first.weight] * 2),
        bias=np.concatenate([first.bias] * 2),
        shape=(8, *first.shape[1:]),
        origin={"net.lif1": (0, 4), "net.lif1.copy2": (4, 8)},
    )
    second = stages.chain.layers[1]
    parts = second.weight // 2
    shared = np.concatenate([parts, second.weight - parts], 1)
    chain = replace(stages.chain, layers=(twice, replace(second, weight=shared), *stages.chain.layers[2:]))
    assert prove(stages.quantized, chain) == Proof(True, 6, 1)


def test_columns_that_differ_and_sums_that_do_not() -> None:
    """Two relays of shifted pixels, shifted back and added, are the pixels themselves: equal pixel by pixel alone."""
    source = ir.Input("input", (), (1, 1, 2), "events", 1, 0, 1, np.array([0]), np.ones(1), np.zeros(1))
    one = np.full((1, 1, 1, 1), 20)
    nodes = [
        ir.Conv("conv1", ("input",), one, None),
        ir.CubaNeuron("lif1", ("conv1",), 10, 4096),
        ir.Conv("conv2", ("lif1",), one, None),
        ir.Conv("skip", ("input",), one + 1, None),
        ir.Add("add", ("conv2", "skip")),
        ir.CubaNeuron("lif2", ("add",), 30, 2048),
    ]
    network = ir.Network("quantized", 2, ("a",), (source, *nodes, ir.Readout("readout", ("lif2",), "spike_count")))
    first, second = np.zeros((3, 1, 1, 3), dtype=np.int64), np.zeros((1, 3, 1, 3), dtype=np.int64)
    first[0, 0, 0, 1] = first[1, 0, 0, 2] = first[2, 0, 0, 0] = 20  # lif1; what is right of each pixel; what is left
    second[0, 0, 0, 1], second[0, 1, 0, 0], second[0, 2, 0, 2] = 20, 21, 21  # back to the right, back to the left

    def chain(*weights: ir.IntArray) -> ir.Chain:
        zeros = np.zeros((3, 1, 2), dtype=np.int64)
        origins: list[dict[str, tuple[int, int]]] = [{"lif1": (0, 1), "input.relay1": (1, 3)}, {"lif2": (0, 1)}]
        layers = tuple(
            ir.ChainLayer(
                *(str(i + 1), "conv", weight, zeros[: len(weight)], (len(weight), 1, 2), (10, 30)[i], (4096, 2048)[i]),
                padding=(0, 1),
                origin=origins[i],
            )
            for i, weight in enumerate(weights)
        )
        return ir.Chain((1, 1, 2), (1, 1, 2), "events", 1, 0, 1, (0,), 2, "spike_count", ("a",), layers)

    assert prove(network, chain(first, second)) == Proof(True, 2, 1)
    assert (
        "weight of [0, 0, 1] of 'input' differs by -1"
        in prove(network, chain(first, one_more(second, 0, 1, 0, 0, by=-1))).reason
    )


# ------------------------------------------------------------------------------------------- against running


@settings(max_examples=usually(40), deadline=None)
@given(drawn=branching(), seed=st.integers(0, 2**32 - 1))
def test_random_networks_and_random_changes(drawn: Drawn, seed: int) -> None:
    """It holds of every chain that `lower` makes; and where it holds of one with a number changed, running it finds
    no difference either: the change is one that no input sees."""
    try:
        made = export(drawn.network, drawn.relays, drawn.bits, drawn.seed if drawn.calibrated else None)
    except (ChipLimitError, UnsupportedError):
        return
    assert prove(made.quantized, made.chain).holds
    rng = np.random.default_rng(seed)
    place = int(rng.integers(len(made.chain.layers)))
    layer = made.chain.layers[place]
    what = str(rng.choice(["weight", "bias"]))
    values = getattr(layer, what)
    at = tuple(int(rng.integers(side)) for side in values.shape)
    chain = altered(made, place, **{what: one_more(values, *at, by=int(rng.choice([-60, -1, 1, 60])))})
    if prove(made.quantized, chain).holds:
        port = chain.port(inputs(made.quantized, 2, seed))
        found, wanted = DenseEngine(chain).run(port), graph.run(made.quantized, port)
        for unit in made.quantized.of(ir.CubaNeuron):
            holder = next(item for item in chain.layers if unit.name in item.origin)
            rows = slice(*holder.origin[unit.name])
            np.testing.assert_array_equal(found.voltage[holder.name][:, :, rows], wanted.voltage[unit.name])


@pytest.mark.parametrize("relays", RELAYS)
def test_a_fault_of_lower_is_found(relays: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that `lower` builds with is used by the proof: each of its parts wrong, and the proof says so."""
    network = branch()
    look_trained(network, 5)
    folded, _ = fold(capture(network))
    plan = schedule(folded, LOIHI, relays)  # type: ignore[arg-type]
    quantized, _ = quantize(folded, LOIHI, plan)
    assert prove(quantized, lower.lower(quantized, LOIHI, plan)[0]).holds
    faults: list[tuple[object, str, Callable[..., object]]] = [
        (relay, "choose", lambda *_, **__: (2, 0)),
        (lower, "_tap", lambda place, geometry: (place[0] + geometry["padding"][0], geometry["padding"][1])),
        (ir, "neuron_bias", lambda _synapses, shape: np.zeros(shape, dtype=np.int64)),
    ]
    for where, name, wrong in faults:
        with monkeypatch.context() as patch:
            patch.setattr(where, name, wrong)
            chain, _ = lower.lower(quantized, LOIHI, plan)
        assert not prove(quantized, chain).holds, name


# ------------------------------------------------------------------------------------------------- neurons with tables


def test_tables_are_compared_step_by_step() -> None:
    """BNTT's tables, a row of them for the relay, and one number of each table changed."""
    network = branch(lambda: BNTT(4, 4))
    with torch.no_grad():
        norm = network.body.net.norm1
        norm.running_var.copy_(torch.rand(4, 4) + 0.5)
    look_trained(network, 4)
    folded, _ = fold(capture(network))
    plan = schedule(folded, LOIHI)
    quantized, _ = quantize(folded, LOIHI, plan)
    chain, _ = lower.lower(quantized, LOIHI, plan)
    assert prove(quantized, chain).holds
    tables = chain.layers[0].steps
    assert tables is not None
    for what in ("leak", "bias", "threshold"):
        steps = replace(tables, **{what: one_more(getattr(tables, what), 2, 3)})
        wrong = replace(chain, layers=(replace(chain.layers[0], steps=steps), *chain.layers[1:]))
        assert prove(quantized, wrong).place == ("net.lif1", [2, 3]), what
    shifted = replace(chain.layers[0], steps=replace(tables, leak_shift=tables.leak_shift - 1))
    assert "leak shift" in prove(quantized, replace(chain, layers=(shifted, *chain.layers[1:]))).reason
    plain = replace(chain.layers[0], steps=None)
    assert "tables" in prove(quantized, replace(chain, layers=(plain, *chain.layers[1:]))).reason


# ---------------------------------------------------------------------------------------------------------- relays


@pytest.mark.parametrize("decay", [0, 1000, 2048, 3072, 4095, 4096])
def test_relays_are_walked_apart_from_the_rule(decay: int) -> None:
    """The walk over reachable states agrees with `snn2chip.chip.relay.is_exact`, on both sides of the limit."""
    for weight, threshold in itertools.product((1, 7, 30), range(0, 60, 3)):
        for bias in range(-2, threshold + 3, 2):
            unit = _Unit(weight, bias, 4096, ((4096 - decay, 12, 0, 64 * threshold),))
            exact = relay.is_exact(threshold, decay, weight, bias)
            if bias >= 0:
                assert (not unit.fails((0, 1))) == exact, (weight, threshold, bias)
            else:
                assert not exact or unit.fails((0, 1))


def test_a_relay_at_the_ends_of_its_registers() -> None:
    """A weight that wraps the current never fires; a current that stays is part of the state; tables end."""
    assert "does not fire" in _Unit(2**17 + 1, 0, 4096, ((0, 12, 0, 0),)).fails((0, 1))
    assert not _Unit(2**17, 0, 4096, ((0, 12, 0, 0),)).fails((0, 1))
    assert not _Unit(-(2**17), 0, 4096, ((0, 12, 0, 0),)).fails((0, 1))  # -2^23 wraps, to +2^23
    assert "fires without" in _Unit(100, 0, 2048, ((0, 12, 0, 640),)).fails((0, 1))  # the current of the spike before
    tables = ((0, 12, 0, 0), (4096, 12, -64, 0), (4096, 12, 128, 63))
    assert "fires without a spike, with a membrane of -64" in _Unit(2, 0, 4096, tables).fails((0, 1))
    assert not _Unit(2, 0, 4096, tables[:2]).fails((0, 1))
    assert not _Unit(0, 0, 4096, ((0, 12, 0, 0),)).fails((0,))
