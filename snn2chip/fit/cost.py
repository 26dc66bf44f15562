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

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snn2chip.errors import InputError
from snn2chip.fit.table import Fit
from snn2chip.fit.traffic import Link, Station, classes_of, joined, network
from snn2chip.ir import FloatArray

TOGETHER = 2048  # steps of samples that are counted at once: fewer cost more in calls, more no longer lie near


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
    """Of some samples. `spikes`, `routed`, `operations`: (stations, N, T); `hops` E-W and N-S (2, N, T); `time` of the
    core that takes longest (N, T), ns; `classes`: spikes of each station by class, summed."""

    spikes: FloatArray
    routed: FloatArray
    operations: FloatArray
    hops: FloatArray
    time: FloatArray
    classes: list[FloatArray]


@dataclass(eq=False)
class _Flow:
    """What one spike of each class of a station comes to over a link, (classes, ...): operations and ns in each core;
    and routed, operations, hops E-W and N-S over all, then ns in the `distinct` cores, those that are not alike."""

    reader: int
    worked: FloatArray
    receiving: FloatArray
    totals: FloatArray


class Meter:
    """Counts what spikes cost, batch after batch.

    stations  the port, unless neurons stand there, and the layers
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
        self._counts: list[Counts] = []
        self._waiting: list[Sequence[NDArray[np.int32]]] = []
        flows = [self._flow(link) for link in links]
        for number in range(len(self.stations)):
            into = [flow for flow in flows if flow.reader == number]
            if into:
                distinct, _ = classes_of(np.concatenate([flow.receiving for flow in into]))
                for flow in into:
                    flow.totals = np.column_stack([flow.totals, flow.receiving[:, distinct]])
        self._flows = [
            [flow for flow, link in zip(flows, links, strict=True) if link.source is each] for each in self.stations
        ]
        self._updating, self._sending = [], []  # ns of each core at each step; that one spike of each class takes there
        for each, out in zip(self.stations, self._flows, strict=True):
            own = joined(each.own)[:, : each.cores]
            self._updating.append(each.sizes.ravel() @ own * self.prices.update.time)
            sent = sum((flow.totals[:, :1] for flow in out), np.zeros((len(own), 1)))
            self._sending.append(own * (self.prices.spike.time + self.prices.send.time * sent))
        self._longest = [  # that sending can take, if all fire
            (updating + each.sizes.ravel() @ sending).max(initial=0.0)
            for each, updating, sending in zip(self.stations, self._updating, self._sending, strict=True)
        ]
        self._sums = [  # what to multiply the counts of each station with: one for spikes, then `totals` of its flows
            np.column_stack([np.ones(each.sizes.size), *(flow.totals for flow in out)]).T.copy()
            for each, out in zip(self.stations, self._flows, strict=True)
        ]

    def _flow(self, link: Link) -> _Flow:
        worked, reads = joined(link.synapses), joined(link.reads)
        receiving = reads * self.prices.receive.time + worked * self._synapse(link.reader)[1]
        hops = np.zeros((len(reads), 2))
        if link.source.placed is not None:
            rows, cores = self.prices.tile_rows.value, self.prices.tile_cores.value
            here = (link.source.start + joined(link.source.own).argmax(1)) // cores
            there = (link.reader.start + np.arange(link.reader.cores)) // cores
            hops[:, 0] = (np.abs(here[:, None] // rows - there // rows) * reads).sum(1)
            hops[:, 1] = (np.abs(here[:, None] % rows - there % rows) * reads).sum(1)
        totals = np.column_stack([reads.sum(1), worked.sum(1), hops])
        return _Flow(self.stations.index(link.reader), worked, receiving, totals)

    def add(self, tallies: Sequence[NDArray[np.int32]]) -> None:
        """Spikes of some samples: of each station, as `snn2chip.ir.trace.tally` counts them by its classes."""
        if self._waiting and self._waiting[0][0].shape[1] != tallies[0].shape[1]:
            self._settle()
        self._waiting.append(tallies)
        if sum(math.prod(each[0].shape[:2]) for each in self._waiting) >= TOGETHER:
            self._settle()

    @property
    def counts(self) -> list[Counts]:
        """Of the samples so far, in their order."""
        self._settle()
        return self._counts

    def _settle(self) -> None:
        """Count what waits, so many samples at a time."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        whole = [np.concatenate(parts) if len(parts) > 1 else parts[0] for parts in zip(*waiting, strict=True)]
        some = max(1, TOGETHER // whole[0].shape[1])
        for start in range(0, len(whole[0]), some):
            self._counts.append(self._count([each[start : start + some] for each in whole]))

    def _count(self, tallies: Sequence[NDArray[np.int32]]) -> Counts:
        n, steps = tallies[0].shape[:2]
        counts = [each.reshape(n * steps, -1).astype(np.float64).T for each in tallies]
        spikes = np.zeros((len(counts), n * steps))
        routed, operations, hops = np.zeros_like(spikes), np.zeros_like(spikes), np.zeros((2, n * steps))
        receiving: dict[int, FloatArray] = {}
        for number, (factors, fired, flows) in enumerate(zip(self._sums, counts, self._flows, strict=True)):
            sums = factors @ fired
            spikes[number], at = sums[0], 1
            for flow in flows:
                end = at + flow.totals.shape[1]
                routed[number] += sums[at]
                operations[flow.reader] += sums[at + 1]
                hops += sums[at + 2 : at + 4]
                here = sums[at + 4 : end]
                receiving[flow.reader] = receiving[flow.reader] + here if flow.reader in receiving else here
                at = end
        time = np.max([each.max(0) for each in receiving.values()], 0, initial=0.0)
        for most, fired, updating, sending in zip(self._longest, counts, self._updating, self._sending, strict=True):
            if most > time.min():
                time = np.maximum(time, (updating[:, None] + sending.T @ fired).max(0))
        sent, went, did, crossed = (values.reshape(-1, n, steps) for values in (spikes, routed, operations, hops))
        return Counts(sent, went, did, crossed, time.reshape(n, steps), [each.sum(1) for each in counts])

    def cores(self, classes: Sequence[FloatArray]) -> tuple[list[FloatArray], list[FloatArray]]:
        """Of each station by core, for these counts of a step: operations; ns of what takes longer, sending or
        receiving."""
        worked = [np.zeros(each.cores) for each in self.stations]
        receiving = [np.zeros(each.cores) for each in self.stations]
        for flows, counts in zip(self._flows, classes, strict=True):
            for flow in flows:
                worked[flow.reader] += counts @ flow.worked
                receiving[flow.reader] += counts @ flow.receiving
        sent = (a + counts @ b for a, counts, b in zip(self._updating, classes, self._sending, strict=True))
        return worked, [np.maximum(*both) for both in zip(sent, receiving, strict=True)]

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
        counted = self.counts
        if not counted:
            raise InputError("no cost: no sample was counted")
        spikes, routed, operations, hops, time = (
            np.concatenate([getattr(part, name) for part in counted], axis)
            for name, axis in (("spikes", 1), ("routed", 1), ("operations", 1), ("hops", 1), ("time", 0))
        )
        many, steps = time.shape
        classes = [np.sum(parts, 0) / time.size for parts in zip(*(part.classes for part in counted), strict=True)]
        worked, busy = self.cores(classes)
        dense = [0] * len(self.stations)
        for source, flows in zip(self.stations, self._flows, strict=True):
            for flow in flows:
                dense[flow.reader] += int(source.sizes.ravel() @ flow.totals[:, 1])
        neurons = [0 if each.placed is None else each.placed.layer.neurons for each in self.stations]
        energy = self._energy(spikes, routed, operations, hops) + sum(neurons) * steps * self.prices.update.energy
        longest = max(range(len(busy)), key=lambda i: busy[i].max(initial=0))
        whole = time + self._barrier()
        return Cost(
            self.found.chip.name,
            sum(each.cores for each in self.stations),
            many,
            steps,
            tuple(
                LayerCost(
                    each.name,
                    neurons[i],
                    each.cores,
                    _amount(spikes[i]),
                    _amount(routed[i]),
                    _amount(operations[i]),
                    tuple(operations[i].mean(0).tolist()),
                    dense[i],
                    float(worked[i].max(initial=0)),
                )
                for i, each in enumerate(self.stations)
            ),
            _amount(spikes.sum(0)),
            _amount(routed.sum(0)),
            _amount(operations.sum(0)),
            sum(neurons) * steps,
            sum(dense),
            (self.stations[longest].name, int(busy[longest].argmax()), float(busy[longest].max())),
            _range(energy.mean() / 1e6, self.prices.energy_within),
            float(energy.max() / 1e6),
            _range(whole.mean() / 1e3, self.prices.time_within),
            float(whole.max() / 1e3),
        )

    def _energy(self, spikes: FloatArray, routed: FloatArray, operations: FloatArray, hops: FloatArray) -> FloatArray:
        """Of each sample without its updates, pJ."""
        prices, spent = self.prices, np.zeros(spikes.shape[1])
        for i, each in enumerate(self.stations):
            spent += routed[i].sum(1) * prices.receive.energy
            if each.placed is not None:
                spent += operations[i].sum(1) * self._synapse(each)[0]
                spent += spikes[i].sum(1) * prices.spike.energy + routed[i].sum(1) * prices.send.energy
        for crossed, price in zip(hops, (prices.across, prices.along), strict=True):
            spent += crossed.sum(1) * price.energy
        return spent

    def _barrier(self) -> float:
        """Ns on as many tiles as the cores take."""
        tiles = -(-sum(each.cores for each in self.stations) // self.prices.tile_cores.value)
        return next((ns for least, ns in reversed(self.prices.barrier) if least <= tiles), self.prices.barrier[0][1])


def _amount(values: FloatArray) -> Amount:
    """Of (N, T)."""
    sums = values.sum(1)
    return Amount(float(sums.mean()), float(sums.max()))


def _range(value: float, within: float) -> Range:
    return Range(float(value), float(value / within), float(value * within))
