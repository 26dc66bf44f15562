"""What spikes cost: every count against one by one, both engines, and what stands outside of this project."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import cost_page
import numpy as np
import pytest
from attack_draw import exported
from conftest import ROOT, Command, Quickstart
from hypothesis import given, settings
from hypothesis import strategies as st

from snn2chip import chip as chips
from snn2chip import ir
from snn2chip.chip.profile import Chip, Figure
from snn2chip.errors import InputError
from snn2chip.fit.cost import Meter
from snn2chip.fit.demand import of_chain
from snn2chip.fit.placement import Placement
from snn2chip.fit.table import Fit, Traffic, fit
from snn2chip.simulate import reference
from snn2chip.simulate.dense import DenseEngine
from snn2chip.simulate.events.engine import EventEngine
from snn2chip.simulate.run import counted

from helpers import chains, port_input, usually  # isort: skip

PUBLISHED = ROOT.parent / "shared" / "data" / "loihi2" / "published.json"
LOIHI1, LOIHI2 = chips.load("loihi1"), chips.load("loihi2")


def small_cores(chip: Chip, neurons: int, words: int) -> Chip:
    """The chip with cores that hold less, so that little networks take many."""
    sizes = {"neurons": Figure(neurons, "test"), "synaptic_words": Figure(words, "test")}
    return replace(chip, capacity=replace(chip.capacity, **sizes))


def cores_of(placed: Placement) -> np.ndarray:
    """The number of the core of every neuron, flat as (C, H, W)."""
    width, height, channels = placed.layer.extent
    found = np.full((channels, height, width), -1)
    for number, (wide, high, deep) in enumerate(placed.regions()):
        assert (found[deep, high, wide] == -1).all()
        found[deep, high, wide] = number
    assert (found >= 0).all()
    return found.ravel()


def synapses(layer: ir.ChainLayer, shape: ir.Shape) -> Iterator[tuple[int, int]]:
    """Every (input, neuron), one by one."""
    if layer.kind == "dense":
        yield from product(range(math.prod(shape)), range(layer.shape[0]))
        return
    _, height, width = shape
    outputs, per_group, kh, kw = layer.weight.shape
    for out, y, x in product(range(outputs), *map(range, layer.shape[1:])):
        group = out // (outputs // layer.groups)
        for inner, ky, kx in product(range(per_group), range(kh), range(kw)):
            row = y * layer.stride[0] - layer.padding[0] + ky * layer.dilation[0]
            column = x * layer.stride[1] - layer.padding[1] + kx * layer.dilation[1]
            if 0 <= row < height and 0 <= column < width:
                source = (group * per_group + inner) * height * width + row * width + column
                yield source, (out * layer.shape[1] + y) * layer.shape[2] + x


def one_by_one(chain: ir.Chain, found: Fit, port: ir.IntArray) -> dict[str, Any]:
    """Counts of every spike and synapse, and the time of the slowest core, from the reference's spikes."""
    prices, chip = found.chip.prices, found.chip
    assert prices is not None and chip is not None
    trace = reference.run(chain, port)
    came = [port.reshape(*port.shape[:2], -1) != 0]
    came += [trace.spikes[layer.name].reshape(*port.shape[:2], -1) != 0 for layer in chain.layers]
    shapes = [chain.input_shape, *(layer.shape for layer in chain.layers)]
    placed = [each.placed for each in found.layers]
    start = np.cumsum([0, *(each.cores for each in found.layers)])
    n, steps = port.shape[:2]
    spikes = np.array([x.sum(2) for x in came])
    routed, operations = np.zeros_like(spikes), np.zeros_like(spikes)
    hops, receiving = np.zeros((2, n, steps)), np.zeros((n, steps, start[-1]))
    sending = np.zeros_like(receiving)
    dense = 0
    axons, routes = [0, 0], set[tuple[int, int]]()  # if all fires: from the port, between cores
    own: list[np.ndarray | None] = [None]
    for number, each in enumerate(placed):
        assert each is not None
        mine = cores_of(each) + start[number]
        own.append(mine)
        for neuron, core in enumerate(mine):
            sending[:, :, core] += prices.update.time + prices.spike.time * came[number + 1][:, :, neuron]
    for number, layer in enumerate(chain.layers):
        to = own[number + 1]
        assert to is not None
        reach: dict[int, Counter[int]] = {}
        for source, neuron in synapses(layer, shapes[number]):
            reach.setdefault(source, Counter())[int(to[neuron])] += 1
            dense += 1
        axons[number > 0] += sum(map(len, reach.values()))
        sender = own[number]
        if sender is not None:
            routes |= {(int(sender[source]), core) for source, cores in reach.items() for core in cores}
        price = prices.dense_synapse if layer.kind == "dense" else prices.synapse
        share = np.count_nonzero(layer.weight) / layer.weight.size if prices.zeros_free else 1.0
        for i, t, source in np.argwhere(came[number]):
            for core, many in reach.get(int(source), {}).items():
                operations[number + 1, i, t] += many
                routed[number, i, t] += 1
                receiving[i, t, core] += prices.receive.time + many * share * price.time
                mine = own[number]
                if mine is not None:
                    sending[i, t, mine[source]] += prices.send.time
                    tiles = mine[source] // prices.tile_cores.value, core // prices.tile_cores.value
                    (x0, y0), (x1, y1) = (divmod(int(tile), prices.tile_rows.value) for tile in tiles)
                    hops[:, i, t] += abs(x0 - x1), abs(y0 - y1)
    time = np.maximum(sending, receiving).max(2)
    return {
        "traffic": Traffic(axons[1], axons[0], len(routes)),
        "spikes": spikes,
        "routed": routed,
        "operations": operations,
        "hops": hops,
        "time": time,
        "dense": dense,
        "neurons": sum(map(math.prod, shapes[1:])),
    }


def metered(chain: ir.Chain, found: Fit, port: ir.IntArray, engine: Any) -> Meter:
    """The same by the meter, from an engine's own counts."""
    meter = Meter(found)
    for part in (port[:1], port[1:]):
        if len(part):
            counted(engine, part, meter, batch_size=1, keep=False)
    return meter


@settings(max_examples=usually(60), deadline=None)
@given(
    chains(extremes=False, max_layers=3),
    st.integers(0, 2**32 - 1),
    st.sampled_from([3, 8, 30, 4095]),
    st.sampled_from([4, 40, 16000]),
    st.sampled_from([LOIHI1, LOIHI2]),
)
def test_every_count_one_by_one(chain: ir.Chain, seed: int, neurons: int, words: int, chip: Chip) -> None:
    """Operations, spikes between cores, hops, the busiest core: any geometry, any placement, both engines."""
    found = fit(of_chain(chain), small_cores(chip, neurons, words))
    if not all(each.placed for each in found.layers):
        with pytest.raises(InputError, match=f"no cost on '{chip.name}': "):
            Meter(found)
        return
    compare(chain, found, port_input(chain, 2, seed))


def compare(chain: ir.Chain, found: Fit, port: ir.IntArray) -> None:
    """Every count of both engines against one by one, and the traffic, which no step exceeds."""
    wanted = one_by_one(chain, found, port)
    most: Traffic = wanted["traffic"]
    assert found.traffic == most
    assert wanted["routed"].sum(0).max(initial=0) <= most.spikes + most.input
    for engine in (EventEngine(chain), DenseEngine(chain)):
        meter = metered(chain, found, port, engine)
        for name in ("spikes", "routed", "operations", "hops"):
            got = np.concatenate([getattr(part, name) for part in meter.counts], 1)
            np.testing.assert_array_equal(got, wanted[name], name)
        got = np.concatenate([part.time for part in meter.counts])
        np.testing.assert_allclose(got, wanted["time"], rtol=1e-12)
        cost = meter.cost()
        assert cost.dense == wanted["dense"]
        assert cost.updates == wanted["neurons"] * port.shape[1]


def test_every_count_of_networks_that_branch() -> None:
    """The same of residual networks and others with shortcuts, as lowered: relays and copies are neurons and synapses,
    pooling is folded."""
    relays = cut = 0
    for seed, made in exported(range(5), LOIHI2):
        relays += made.lower_report.relay_neurons
        found = fit(of_chain(made.chain), small_cores(LOIHI2, 64, 16000))
        cut += found.cores > len(found.layers)
        compare(made.chain, found, port_input(made.chain, 1, seed))
    assert relays and cut


def test_an_image_at_all_steps_is_counted_at_each() -> None:
    """Direct coding gives the engines one image in memory once; both count it T times."""
    layer = ir.ChainLayer("0", "dense", np.array([[3, -2, 5]]), np.array([0]), (1,), 1, 4096)
    chain = ir.Chain((3,), (3,), "direct", 9, 0, 9, (4, 4, 4), 3, "spike_count", ("a",), (layer,))
    once = np.array([[[0, 3, -4]], [[1, 1, 1]]])
    shown = np.broadcast_to(once, (2, 3, 3))
    for engine in (EventEngine(chain), DenseEngine(chain)):
        meter = Meter(fit(of_chain(chain), LOIHI2))
        counted(engine, shown, meter, batch_size=2, keep=False)
        np.testing.assert_array_equal(meter.counts[0].operations[1], [[2] * 3, [3] * 3])


def test_amounts_are_means_and_the_largest_sample() -> None:
    """Two samples of 1 and 3 spikes at the port of a dense layer of two neurons, in numbers worked out by hand."""
    layer = ir.ChainLayer("0", "dense", np.array([[1, 0, 1], [1, 1, 1]]), np.array([0, 0]), (2,), 100, 4096)
    chain = ir.Chain((3,), (3,), "poisson", 1, 0, 1, (0, 0, 0), 1, "spike_count", ("a", "b"), (layer,))
    port = np.array([[[1, 0, 0]], [[1, 1, 1]]])
    for chip, share in ((LOIHI1, 1.0), (LOIHI2, 5 / 6)):  # a weight of 0 is free on one of them
        meter = Meter(fit(of_chain(chain), chip))
        counted(DenseEngine(chain), port, meter, batch_size=2, keep=False)
        cost, prices = meter.cost(), chip.prices
        assert prices is not None
        assert (cost.operations.mean, cost.operations.most, cost.dense, cost.updates) == (4, 6, 6, 2)
        assert (cost.routed.mean, cost.spikes.most, cost.layers[1].each_step) == (2, 3, (4.0,))
        each = share * prices.dense_synapse.energy
        assert cost.energy.value == pytest.approx((4 * each + 2 * prices.update.energy) / 1e6)
        assert cost.energy_most == pytest.approx((6 * each + 2 * prices.update.energy) / 1e6)
        ns = 2 * prices.receive.time + 4 * share * prices.dense_synapse.time + prices.barrier[0][1]
        assert cost.step.value == pytest.approx(ns / 1e3)
        assert cost.step.high == pytest.approx(cost.step.value * prices.time_within)
        assert cost.energy.low == pytest.approx(cost.energy.value / prices.energy_within)


def test_no_cost_without_prices_or_samples() -> None:
    """What is missing is said, and where to get it."""
    layer = ir.ChainLayer("0", "dense", np.array([[1]]), np.array([0]), (1,), 1, 4096)
    chain = ir.Chain((1,), (1,), "poisson", 1, 0, 1, (0,), 1, "spike_count", ("a",), (layer,))
    with pytest.raises(InputError, match=r"chip 'loihi2': its profile has no \[prices\]; copy those of deploy/chips"):
        Meter(fit(of_chain(chain), replace(LOIHI2, prices=None)))
    with pytest.raises(InputError, match="no sample was counted"):
        Meter(fit(of_chain(chain), LOIHI2)).cost()


def test_the_command_counts(quickstart: Quickstart, cli: Command, tmp_path: Path) -> None:
    """`simulate --cost`: the table, JSON with the same figures, the report; the chip by name, and wrong uses."""
    net, written = quickstart.folder / "model.net", tmp_path / "simulate.json"
    said = cli("simulate", net, "--limit", 20, "--cost", "--json", written).ok()
    assert "cost of a sample on loihi2, counted of 20" in said
    kept = json.loads(written.read_text())
    plain = tmp_path / "plain.json"
    cli("simulate", net, "--limit", 20, "--json", plain).ok()
    without = json.loads(plain.read_text())
    assert {**kept, "seconds": 0, "samples_per_second": 0, "cost": 0} == {
        **without, "seconds": 0, "samples_per_second": 0, "cost": 0
    }  # fmt: skip
    cost = kept["cost"]
    spikes = [20 * each["spikes"]["mean"] for each in cost["layers"][1:]]
    assert spikes == pytest.approx(list(kept["spikes"].values()))
    assert cost["energy"]["low"] < cost["energy"]["value"] < cost["energy"]["high"]
    assert all(line in said.replace("\n", " ") for line in (f"{cost['dense']:,}", f"{cost['updates']:,}"))
    other = cli("simulate", net, "--limit", 5, "--cost", "--chip", "loihi1").ok()
    assert "cost of a sample on loihi1" in other and "takes only spikes" in other.replace("\n", " ")
    cli("simulate", net, "--limit", 5, "--chip", "loihi1").refused("--chip", "--cost")
    cli("simulate", net, "--limit", 5, "--cost", "--chip", "loihi9").refused("unknown chip 'loihi9'")


def test_the_page_of_files_names_every_key(quickstart: Quickstart) -> None:
    """docs/formats.md says what each key of `fit` and of `cost` is."""

    def keys(value: Any) -> set[str]:
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        return set().union(value if isinstance(value, dict) else (), *map(keys, inner))

    page = (ROOT / "docs" / "formats.md").read_text()
    for file, key in (("simulate.json", "cost"), ("export.json", "fit")):
        named = keys(json.loads((quickstart.folder / file).read_text())[key])
        assert len(named) > 10 and [name for name in named if f"`{name}`" not in page and f'"{name}"' not in page] == []


def pilotnet_file() -> Path:
    """PilotNet's spiking network, or a skip."""
    if not PUBLISHED.is_file():
        pytest.skip("no published figures at ../shared/data/loihi2")
    return PUBLISHED.with_name("pilot_snn.net")


def test_pilotnet_as_measured_on_loihi_2() -> None:
    """Energy and time within 1 % of what they were fitted to, and with Loihi 1's own figures energy within a factor of
    two; operations of cores, which nothing was fitted to, as the chip counted them."""
    measured = json.loads(PUBLISHED.read_text())["networks"]["pilotnet_snn"]["measured"] if pilotnet_file() else {}
    meter, cost = cost_page.pilotnet(pilotnet_file())
    frame = 16 / cost.timesteps / 1e3
    assert frame * cost.energy.value == pytest.approx(measured["energy_mj_a_frame"]["dynamic"], rel=0.01)
    assert cost.step.value == pytest.approx(1e6 / measured["frames_per_second"] / 16, rel=0.01)
    _, like_loihi1 = cost_page.pilotnet(pilotnet_file(), "loihi1")
    ratio = frame * like_loihi1.energy.value / measured["energy_mj_a_frame"]["dynamic"]
    assert 0.5 < ratio < 2
    for name, first, counted_first, _, _ in cost_page.counters(meter):
        assert first == pytest.approx(counted_first, abs=0.02), name


def test_as_sana_fe_has_it() -> None:
    """Two networks, the same spikes and placement: every spike, energy and time."""
    python = cost_page.sanafe_python(make=False)
    if python is None:
        pytest.skip(f"no SANA-FE: bench/cost_page.py makes its environment, or set {cost_page.VARIABLE}")
    rows = cost_page.both(python)
    assert len(rows) == 2
    for row in rows:
        assert row.spikes[0] == row.spikes[1] > 0
        assert row.energy[0] == pytest.approx(row.energy[1], rel=0.01)
        assert row.time[0] == pytest.approx(row.time[1], rel=0.01)
        assert row.cores > 4
