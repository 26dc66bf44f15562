"""What spikes that happened cost on a placed network: counted exactly, priced by the chip's profile.

Counts, of a sample and step:

    operations   a spike's synapses in all cores: one accumulate each (of integers at the port a multiply-accumulate)
    routed       spikes x cores that each goes to, once to every core with a neuron that reads it
    updates      every neuron at every step

Weights of 0 are synapses like others, taps beyond the border are none; relays, copies and folded pooling are neurons
and synapses of the chip, and counted. An integer at the port that is 0 is not sent. Where a chip leaves weights of 0
out (`Prices.zeros_free`), an operation is priced at the share of the layer's weights that are not 0.

    energy = operations e_synapse + updates e_update + spikes e_spike + routed (e_send + e_receive) + hops e_hop
    time of a step = max over cores of max(n t_update + spikes t_spike + sent t_send,
                                           received t_receive + operations t_synapse) + barrier

as SANA-FE has them (its timing model "simple"; docs/cost.md). Cores are taken in the order of the layers, tile after
tile; what more than one chip adds between them is not known, and their tiles stand beside each other. Spikes at the
port come from outside of the cores: sending them is not counted. All layers are taken at their own step t together, as
for a stream of like samples. Static power is not in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

import numpy as np

from snn2chip.errors import InputError
from snn2chip.fit.table import Fit
from snn2chip.fit.traffic import Link, Station, classes_of, joined, network
from snn2chip.ir import FloatArray, IntArray
from snn2chip.ir.trace import MOST_SUMS, Counting, Group, Tally


@dataclass(frozen=True)
class Amount:
    """Of a sample: the mean over all, and the largest."""

    mean: float
    most: float


@dataclass(frozen=True)
class Range:
    """What is said, and between what bounds the truth may be taken to lie."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class LayerCost:
    """One layer, or what comes in at the port (which has neither neurons nor cores).

    spikes      of its neurons, or values that are not 0
    routed      its spikes x the cores that they go to
    operations  synaptic operations in its own cores; each_step: means of them at each step, (T,)
    dense       operations if everything that it reads fired: multiply-accumulates of an ordinary layer, at one step
    busiest     operations a step in that of its cores which has most
    """

    name: str
    neurons: int
    cores: int
    spikes: Amount
    routed: Amount
    operations: Amount
    each_step: tuple[float, ...]
    dense: int
    busiest: float


@dataclass(frozen=True)
class Cost:
    """A network's cost on a chip, of a sample of T steps unless it says of a step.

    updates  neurons x T
    dense    multiply-accumulates of the same layers as an ordinary network
    busiest  layer, number of its core and ns a step: the core with most to send, or to receive, on average
    energy   in uJ, dynamic, mean; energy_most: the costliest sample, as said (its range is as wide)
    step     in us, mean over steps and samples; step_most: the longest step
    """

    chip: str
    cores: int
    samples: int
    timesteps: int
    layers: tuple[LayerCost, ...]
    spikes: Amount
    routed: Amount
    operations: Amount
    updates: int
    dense: int
    busiest: tuple[str, int, float]
    energy: Range
    energy_most: float
    step: Range
    step_most: float

    def as_json(self) -> dict[str, Any]:
        """Plain values, as ``snn2chip simulate --cost --json`` writes them."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Counts:
    """Of some samples. `sums` (N, T, 3 stations + 3): spikes of each station, its spikes x cores, operations in its
    cores; hops E-W and N-S; ns of the core that takes longest. `classes`: spikes by class, of all stations, summed."""

    sums: FloatArray
    classes: IntArray

    def _part(self, first: int, last: int) -> FloatArray:
        return np.moveaxis(self.sums[..., first:last], 2, 0)

    @property
    def stations(self) -> int:
        return int(self.sums.shape[2]) // 3 - 1

    @property
    def spikes(self) -> FloatArray:
        """(stations, N, T), as `routed` and `operations`."""
        return self._part(0, self.stations)

    @property
    def routed(self) -> FloatArray:
        return self._part(self.stations, 2 * self.stations)

    @property
    def operations(self) -> FloatArray:
        return self._part(2 * self.stations, 3 * self.stations)

    @property
    def hops(self) -> FloatArray:
        """(2, N, T)."""
        return self._part(3 * self.stations, 3 * self.stations + 2)

    @property
    def time(self) -> FloatArray:
        """(N, T)."""
        return self.sums[..., -1]


@dataclass(frozen=True, eq=False)
class _Load:
    """What comes to each core of a station at a step, linear in the spikes of some classes.

    first   of these classes, among those of all stations
    each    what one spike of each comes to, (classes, cores)
    always  without spikes, (cores,)
    """

    first: int
    each: FloatArray
    always: FloatArray

    def of(self, classes: FloatArray) -> FloatArray:
        """With these spikes of the classes of all, (cores,)."""
        mine = classes[self.first : self.first + len(self.each)]
        found: FloatArray = self.always + np.einsum("k,kc->c", mine, self.each)  # BLAS's threads would wait busily
        return found

    def groups(self, sizes: FloatArray) -> Iterator[Group]:
        """Of which the largest is that of the core with most, for classes of all of these sizes."""
        whole = np.vstack([self.always, self.each])
        whole = whole[:, classes_of(whole)[0]]  # cores that are alike once
        for start in range(0, whole.shape[1], MOST_SUMS):
            always, each = np.split(whole[:, start : start + MOST_SUMS], [1])
            bound = (always + sizes[self.first : self.first + len(each)] @ each).max()
            some = np.flatnonzero(each.any(1))
            low, high = (int(some[0]), int(some[-1]) + 1) if len(some) else (0, 0)
            yield Group(self.first + low, np.vstack([always, each[low:high]]), (-1,) * each.shape[1], float(bound))


class Meter:
    """Counts what spikes cost, batch after batch.

    stations  the port, unless neurons stand there, and the layers
    counting  what an engine is to count for it
    counts    of some samples each; those of several meters of one network are those of one

    Raises:
        InputError: a layer is on no core, or the chip's profile has no prices.
    """

    def __init__(self, found: Fit) -> None:
        if found.chip.prices is None:
            raise InputError(f"chip '{found.chip.name}': its profile has no [prices]; copy those of deploy/chips")
        missing = next((each.problem for each in found.layers if each.placed is None), None)
        if missing is not None:
            raise InputError(f"no cost on '{found.chip.name}': {missing}")
        self.found, self.prices = found, found.chip.prices
        self.stations, links = network([each.placed for each in found.layers if each.placed is not None])
        self.counts: list[Counts] = []
        many, sizes = len(self.stations), [each.sizes.ravel() for each in self.stations]
        first = np.cumsum([0, *map(len, sizes)]).tolist()
        sums: list[dict[int, FloatArray]] = [{number: np.ones(len(size))} for number, size in enumerate(sizes)]
        worked, receiving = ([[np.zeros((0, each.cores))] for each in self.stations] for _ in range(2))
        self._dense = [0] * many
        for link in links:
            source, reader = self.stations.index(link.source), self.stations.index(link.reader)
            did, reads = joined(link.synapses), joined(link.reads)
            worked[reader].append(did)
            receiving[reader].append(reads * self.prices.receive.time + did * self._synapse(link.reader)[1])
            self._dense[reader] += int(sizes[source] @ did.sum(1))
            columns = (reads.sum(1), did.sum(1), *self._hops(link, reads))
            for to, column in zip((many + source, 2 * many + reader, 3 * many, 3 * many + 1), columns, strict=True):
                sums[source][to] = sums[source].get(to, 0) + column
        # a layer reads the station before it, and then, if it is recurrent, itself
        self._worked, self._receiving = (
            [_Load(first[max(number - 1, 0)], np.vstack(parts), np.zeros(parts[0].shape[1])) for number, parts in loads]
            for loads in (enumerate(worked), enumerate(receiving))
        )
        self._sending = []
        for number, each in enumerate(self.stations):
            own = joined(each.own)[:, : each.cores]
            sent = self.prices.spike.time + self.prices.send.time * sums[number].get(many + number, 0)
            always = sizes[number] @ own * self.prices.update.time
            self._sending.append(_Load(first[number], own * np.reshape(sent, (-1, 1)), always))
        groups = (load.groups(np.concatenate(sizes)) for load in (*self._receiving, *self._sending) if load.always.size)
        self.counting = Counting(
            tuple(each.classes for each in self.stations),
            3 * many + 2,
            (
                *(
                    Group(first[number], np.vstack([np.zeros(len(each)), np.column_stack([*each.values()])]), (*each,))
                    for number, each in enumerate(sums)
                ),
                *sorted(chain.from_iterable(groups), key=lambda group: -group.bound),
            ),
        )

    def _hops(self, link: Link, reads: FloatArray) -> tuple[FloatArray, FloatArray]:
        """E-W and N-S, of a spike of each class."""
        if link.source.placed is None:
            return np.zeros(len(reads)), np.zeros(len(reads))
        rows, cores = self.prices.tile_rows.value, self.prices.tile_cores.value
        here = (link.source.start + joined(link.source.own).argmax(1)) // cores
        there = (link.reader.start + np.arange(link.reader.cores)) // cores
        across = np.abs(here[:, None] // rows - there // rows) * reads
        along = np.abs(here[:, None] % rows - there % rows) * reads
        return across.sum(1), along.sum(1)

    def add(self, tally: Tally) -> None:
        """What an engine counted of some samples, or what `counting` makes of their spikes."""
        self.counts.append(Counts(*tally))

    def cores(self, classes: FloatArray) -> tuple[list[FloatArray], list[FloatArray]]:
        """Of each station by core, for these spikes of all classes in a step: operations; ns of what takes longer,
        sending or receiving."""
        worked, receiving, sending = (
            [load.of(classes) for load in loads] for loads in (self._worked, self._receiving, self._sending)
        )
        return worked, [np.maximum(*both) for both in zip(sending, receiving, strict=True)]

    def _synapse(self, reader: Station) -> tuple[float, float]:
        """pJ and ns of an operation there, on average over the weights."""
        assert reader.placed is not None
        layer, prices = reader.placed.layer, self.prices
        price = prices.dense_synapse if layer.kind == "dense" else prices.synapse
        share = layer.nonzero if prices.zeros_free else 1.0
        return share * price.energy, share * price.time

    def cost(self) -> Cost:
        """Of all samples so far.

        Raises:
            InputError: there are none.
        """
        if not self.counts:
            raise InputError("no cost: no sample was counted")
        sums = np.concatenate([part.sums for part in self.counts])
        samples, steps, _ = sums.shape
        of_sample = np.einsum("nts->sn", sums[..., :-1])
        amounts = [Amount(*each) for each in zip(of_sample.mean(1).tolist(), of_sample.max(1).tolist(), strict=True)]
        many = len(self.stations)
        of_all = of_sample[: 3 * many].reshape(3, many, samples).sum(1)
        spikes, routed, operations = (Amount(float(each.mean()), float(each.max())) for each in of_all)
        each_step = (sums.sum(0)[:, 2 * many : 3 * many] / samples).T.tolist()
        worked, busy = self.cores(np.sum([part.classes for part in self.counts], 0) / (samples * steps))
        neurons = [0 if each.placed is None else each.placed.layer.neurons for each in self.stations]
        energy = np.einsum("sn,s->n", of_sample, self._energy()) + sum(neurons) * steps * self.prices.update.energy
        longest = max(range(many), key=lambda i: busy[i].max(initial=0))
        time = sums[..., -1] + self._barrier()
        return Cost(
            self.found.chip.name,
            sum(each.cores for each in self.stations),
            samples,
            steps,
            tuple(
                LayerCost(
                    each.name,
                    neurons[i],
                    each.cores,
                    amounts[i],
                    amounts[many + i],
                    amounts[2 * many + i],
                    tuple(each_step[i]),
                    self._dense[i],
                    float(worked[i].max(initial=0)),
                )
                for i, each in enumerate(self.stations)
            ),
            spikes,
            routed,
            operations,
            sum(neurons) * steps,
            sum(self._dense),
            (self.stations[longest].name, int(busy[longest].argmax()), float(busy[longest].max())),
            _range(energy.mean() / 1e6, self.prices.energy_within),
            float(energy.max() / 1e6),
            _range(time.mean() / 1e3, self.prices.time_within),
            float(time.max() / 1e3),
        )

    def _energy(self) -> FloatArray:
        """Of one of each of the sums that are given, pJ."""
        prices = self.prices
        each = np.zeros((3, len(self.stations)))
        each[1] = prices.receive.energy
        for number, station in enumerate(self.stations):
            if station.placed is not None:
                each[:, number] += prices.spike.energy, prices.send.energy, self._synapse(station)[0]
        return np.array([*each.ravel(), prices.across.energy, prices.along.energy])

    def _barrier(self) -> float:
        """Ns on as many tiles as the cores take."""
        tiles = -(-sum(each.cores for each in self.stations) // self.prices.tile_cores.value)
        return next((ns for least, ns in reversed(self.prices.barrier) if least <= tiles), self.prices.barrier[0][1])


def _range(value: float, within: float) -> Range:
    return Range(float(value), float(value / within), float(value * within))
