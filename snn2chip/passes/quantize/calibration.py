"""Which integers are best on calibration data: the float network and those of integers run side by side, a layer at a
time, so that only the spikes that layers still read are in memory.

Candidates for a layer are judged at places, and by outputs, drawn by a fixed seed and the same for all of them; the one
taken runs on whole images, whose spikes the next layer reads. Of more samples than may be in memory together, those of
the first part, at random, choose; the others are run with what was chosen, part after part, and count for what is
measured.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from snn2chip import ir
from snn2chip.chip.profile import Chip
from snn2chip.data import ImageSet
from snn2chip.errors import InputError
from snn2chip.ir.encode import encoder_of
from snn2chip.ir.interpreter import current, neuron
from snn2chip.nn import kernels
from snn2chip.passes.quantize import sums
from snn2chip.passes.quantize.bntt_layer import StepQuantizer
from snn2chip.passes.quantize.candidate import Candidate, Result, choose_result, measure, score_error
from snn2chip.passes.quantize.layer import LayerQuantizer
from snn2chip.passes.quantize.report import Strategy
from snn2chip.passes.quantize.walk import Job, Walk, as_trained, uncalibrated
from snn2chip.passes.schedule import Schedule

_HELD = 2**31  # bytes of spikes in memory, roughly
_KEPT = 2**30  # bytes of spikes kept as bits, for networks that begin with the same layers
_SMALL = 2**15  # spikes that are compared for every candidate; of more, a part for all and all for the best ones
_PART = 4
_BEST = 6
# runs of the network, and multiply-adds of all of them, to find the layers that calibration makes worse: two at least
_TRIALS = 12
_WORK = 10**12

Taken = tuple[Result, Tensor]  # a layer, and its spikes (N, T, ...) or its scores (N, K)
Pick = Callable[["At"], Taken | None]
Value = TypeVar("Value")


class Memory:
    """What networks made of a part of the samples, by the part and the layers up to there; while there is `room`."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.known: dict[Hashable, tuple[Any, sums.Bits | Tensor, torch.Size]] = {}

    def recall(self, key: Hashable, make: Callable[[], tuple[Value, Tensor]]) -> tuple[Value, Tensor]:
        """What is known by this key, else what is made now."""
        if key in self.known:
            value, kept, shape = self.known[key]
            return value, sums.unpacked(kept, shape)
        value, made = make()
        size = made.numel() // 8 if made.dtype == torch.bool else made.nbytes
        if size <= self.room:
            self.room -= size
            self.known[key] = value, sums.packed(made), made.shape
        return value, made


@dataclass(frozen=True, eq=False)
class At:
    """A layer of one network, with what it reads and what the float network makes of the same data."""

    index: int
    job: Job
    shape: ir.Shape
    xs: list[Tensor]
    wanted: Tensor
    before: tuple[Hashable, ...]  # the part of the samples, and the candidates that made `xs` of it
    memory: Memory

    def run(self, made: Candidate) -> Taken:
        """A candidate on whole images."""
        return self.memory.recall((*self.before, made), lambda: self._run(made))

    def _run(self, made: Candidate) -> Taken:
        weighted = sums.Weighted(made.synapses, sums.exact_in(made))
        bias = torch.from_numpy(ir.neuron_bias(made.synapses, self.shape).astype(np.int32))
        count, steps = self.xs[0].shape[:2]
        spiking = self.wanted.dtype == torch.bool
        out = sums.room_for(count, steps, self.shape) if spiking else torch.empty_like(self.wanted)
        parts = []
        for span in sums.spans(count, steps * int(np.prod(self.shape))):
            found = weighted([x[span] for x in self.xs])
            result, _ = measure(made, found, bias, self.wanted[span], out=out[span])
            parts.append((result, span.stop - span.start))
        joined = _joined(parts)
        return (joined if spiking else replace(joined, error=score_error(out, self.wanted))), out

    def choose(self, strategy: Strategy, limit: int) -> tuple[Taken, dict[str, float]]:
        """The best candidate, and by rule the least error.

        Raises:
            ChipLimitError: none fits.
        """
        results = self._judged(strategy)
        least: dict[str, float] = {}
        for item in results:
            rule = item.candidate.rule
            least[rule] = min(least.get(rule, np.inf), item.error)
        spare: Taken | None = None
        while results:
            best = choose_result(results, strategy, limit)
            results.remove(best)
            made = best.candidate
            if isinstance(self.job, LayerQuantizer):
                assert isinstance(made.scale, float)
                found = self.job.whole(made.rule, made.scale, made.rounding, made.proved)
                if found is None:
                    continue
                made = found
            taken = self.run(made)
            if taken[0].fits(limit):
                return taken, least
            if spare is None and taken[0].seen <= limit:
                spare = taken
        if spare is None:
            raise self.job.refuse()
        return spare, least

    def _judged(self, strategy: Strategy) -> list[Result]:
        """Every candidate at the places and by the outputs drawn for this layer."""
        job, count = self.job, self.shape[0]
        rows, judged = np.arange(count), count
        if isinstance(job, StepQuantizer):  # a scale a channel
            candidates = list(job.candidates(strategy, True))
        else:
            rows, judged = job.sample(self.index)
            part = job if len(rows) == count else job.part(rows)
            candidates = list(part.candidates(strategy, True, job.plan(strategy, True)))
        if job.chip.layers is not None:  # sums that nothing proves have no place there
            candidates = [item for item in candidates if item.proved]
        if not candidates:
            raise job.refuse()
        read = [
            torch.from_numpy(ir.input_channels(item.weight, item.groups)[rows]) if item.groups > 1 else None
            for item in job.synapses
        ]
        fan_in = sum(
            int(np.prod(item.weight.shape[2:]))
            * max(item.weight.shape[1] * item.groups, len(rows) * item.weight.shape[1] * (item.groups > 1))
            for item in job.synapses
        )
        samples, steps = self.xs[0].shape[:2]
        places = sums.draw(self.index, samples, steps, self.shape, len(rows), fan_in)
        inputs = [places.inputs(item, x) for item, x in zip(job.synapses, self.xs, strict=True)]
        laid = sums.Rows(job.synapses, inputs, read, steps)
        wanted = places.of(self.wanted)[..., torch.from_numpy(rows[:judged])]

        def all_of(items: Sequence[Candidate], some: int) -> list[Result]:
            # two rules may come to the same
            different = {(id(item.synapses), id(item.neuron)): item for item in items}
            known: dict[tuple[int, int], Result] = {}
            for proved in (True, False):
                few = {key: item for key, item in different.items() if item.proved == proved}
                outputs = judged if proved else len(rows)  # how far others reach counts where nothing is proved
                for (key, made), found in zip(few.items(), laid.sums([*few.values()], some, outputs), strict=True):
                    bias = places.bias(made.synapses, len(rows))[:some, :outputs]
                    known[key], _ = measure(made, found, bias, wanted[:some])
            return [replace(known[id(item.synapses), id(item.neuron)], candidate=item) for item in items]

        if len(places) * steps * len(rows) > _SMALL:
            rough = sorted(all_of(candidates, -(-len(places) // _PART)), key=lambda item: item.loss)
            before: Counter[object] = Counter()
            candidates = []
            for item in rough:
                kinds = item.candidate.proved, (item.candidate.proved, item.candidate.rule)
                if before[kinds[0]] < _BEST or not before[kinds[1]]:
                    candidates.append(item.candidate)
                before.update(kinds)
        return all_of(candidates, len(places))


def _joined(parts: Sequence[tuple[Result, int]]) -> Result:
    """Results on parts of the samples, with how many those are, as one; errors of spikes."""
    results, weights = [item for item, _ in parts], [count for _, count in parts]
    if len(results) == 1:  # exactly what was measured
        return results[0]
    return Result(
        results[0].candidate,
        float(np.average([item.error for item in results], weights=weights)),
        max(item.seen for item in results),
        max(item.peak for item in results),
        sum(item.fired for item in results),
        float(np.average([item.excess for item in results], weights=weights)),
    )


@dataclass(frozen=True, eq=False)
class Outcome:
    """A whole network in integers on the calibration data.

    `agree` counts the samples that it decides as the float network does, `error` is the root mean square of what its
    scores are off; `fits` says of every layer whether it cannot overflow, or has room to spare.
    """

    results: tuple[Result, ...]
    agree: int
    error: float
    fits: bool

    @property
    def rank(self) -> tuple[bool, int, float]:
        """The smaller, the better: what counts at the end."""
        return not self.fits, -self.agree, self.error


class Calibration:
    """Calibration data, raw input (N, T, ...) or images, and what networks make of it."""

    def __init__(self, network: ir.Network, chip: Chip, plan: Schedule | None, data: ir.IntArray | ImageSet) -> None:
        self.network, self.chip, self.plan, self.data = network, chip, plan, data
        largest = max(int(np.prod(network.shape(node.name))) for node in network.nodes)
        parts = -(-len(data) * network.timesteps * 9 * largest // _HELD)  # three networks, and three layers of each
        order = np.arange(len(data)) if parts == 1 else np.random.default_rng(0).permutation(len(data))
        self.parts = np.array_split(order, min(parts, len(data)))
        self.fired: Counter[str] = Counter()  # of the float network
        synapses: list[ir.Synapse] = [*network.of(ir.Conv), *network.of(ir.Dense)]
        each = sum(item.weight[0].size * int(np.prod(network.shape(item.name))) for item in synapses)
        self.trials = min(_TRIALS, max(2, _WORK // (len(data) * network.timesteps * each)))
        self.memory = Memory(0)

    def choose(self, strategy: Strategy) -> tuple[Outcome, Outcome | None, list[dict[str, float]]]:
        """Each layer's best candidate by its own spikes; the network without calibration, None where no layers of it
        are proved; and by layer the least error of every rule.

        Raises:
            ChipLimitError: a layer fits at no scale.
        """
        alternatives: list[dict[str, float]] = []
        self.memory = Memory(_KEPT if strategy in ("auto", "max") else 0)  # `best` runs others

        def best(at: At) -> Taken:
            taken, least = at.choose(strategy, self.chip.input_max)
            alternatives.append(least)
            return taken

        def plain(at: At) -> Taken | None:
            made = uncalibrated(at.job, strategy)
            return None if made is None or not made.proved else at.run(made)

        calibrated, without = self._run([best, plain])
        assert calibrated is not None
        return calibrated, without, alternatives

    def as_it_is(self) -> tuple[Outcome, list[dict[str, float]]]:
        """A network of integers, which must not overflow.

        Raises:
            ChipLimitError: it does, or the chip cannot hold it.
        """
        made = self._at([as_trained(job) for _, job in Walk(self.network, self.chip, self.plan).jobs()])
        for (_, job), result in zip(Walk(self.network, self.chip, self.plan).jobs(), made.results, strict=True):
            if not result.fits(self.chip.input_max):
                raise job.refuse()
        return made, [{result.candidate.rule: result.error} for result in made.results]

    def best(self, calibrated: Outcome, plain: Outcome | None) -> tuple[Outcome, tuple[str, ...]]:
        """The better of the two at the end of the network, and the layers that are not as calibrated.

        What is best for a layer's own spikes need not be for what is made of them. Where a calibrated network decides
        worse than one without calibration, that one is calibrated by halves, and halves of those that make it worse.
        """
        if plain is None or calibrated.rank <= plain.rank:
            return calibrated, ()
        best, kept, trials = plain, [], 0
        whole = [item.candidate for item in calibrated.results]
        layers = range(len(plain.results))
        waiting = [layers[len(layers) // 2 :], layers[: len(layers) // 2]]  # the last is the next
        while waiting:
            some = waiting.pop()
            if trials < self.trials and len(some):
                candidates = [item.candidate for item in best.results]
                candidates[some.start : some.stop] = whole[some.start : some.stop]
                known = candidates == whole
                trial, trials = calibrated if known else self._at(candidates), trials + (not known)
                if trial.rank < best.rank:
                    best = trial
                    continue
                if len(some) > 1:
                    waiting += [some[len(some) // 2 :], some[: len(some) // 2]]
                    continue
            kept += [calibrated.results[index].candidate.synapses[0].name for index in some]
        return best, tuple(kept)

    def _at(self, candidates: Sequence[Candidate]) -> Outcome:
        """The network of these candidates."""
        (made,) = self._run([_fixed(candidates)])
        assert made is not None
        return made

    def _run(self, picks: Sequence[Pick]) -> list[Outcome | None]:
        """Networks of layers as picked, each on the spikes of its own layers before; None where one has no pick."""
        parts: list[list[list[Result]]] = [[] for _ in picks]
        scores: list[list[Tensor]] = [[] for _ in picks]
        wanted: list[Tensor] = []
        self.fired.clear()
        for part, raw in enumerate(self._raw()):
            rows, ends = self._part(part, raw, picks)
            wanted.append(ends[0])
            for number, (row, end) in enumerate(zip(rows, ends[1:], strict=True)):
                parts[number].append(row)
                scores[number].append(end)
            fixed = [[item.candidate for item in row] for row in rows]
            picks = [_fixed(made) for made in fixed]
        weights = [len(rows) for rows in self.parts]
        target = torch.cat(wanted).flatten(1).numpy()
        outcomes: list[Outcome | None] = []
        for rows, ends in zip(parts, scores, strict=True):
            if not rows[0]:
                outcomes.append(None)
                continue
            results = [_joined(list(zip(layer, weights, strict=True))) for layer in zip(*rows, strict=True)]
            found = torch.cat(ends).flatten(1).numpy()
            if self.network.readout.kind == "membrane":
                results[-1] = replace(results[-1], error=score_error(torch.from_numpy(found), torch.from_numpy(target)))
            agree = int((found.argmax(1) == target.argmax(1)).sum())
            error = float(np.sqrt(np.square(found - target).mean()))
            outcomes.append(
                Outcome(tuple(results), agree, error, all(item.fits(self.chip.input_max) for item in results))
            )
        return outcomes

    def _raw(self) -> Iterator[ir.IntArray]:
        """Raw input (N, T, ...), part after part, drawn alike in every run."""
        data, encoder = self.data, encoder_of(self.network)
        for rows in self.parts:
            yield encoder(data.images[rows]) if isinstance(data, ImageSet) else data[rows]

    @torch.no_grad()
    def _part(self, part: int, raw: ir.IntArray, picks: Sequence[Pick]) -> tuple[list[list[Result]], list[Tensor]]:
        """What is made of some samples: by network its layers' results (none where it has no pick), and the scores,
        those of the float network first."""
        network, source = self.network, self.network.input
        if raw.shape[1] > network.timesteps:
            raise InputError(f"{raw.shape[1]} time steps of input exceed the network's {network.timesteps}; give fewer")
        port = _over_time(torch.from_numpy(source.port(raw)))
        column = (-1, *(1,) * (port.ndim - 3))
        scale, shift = (torch.from_numpy(each.copy()).view(column) for each in (source.scale, source.shift))
        spikes = port.bool() if source.binary and not source.center.any() else port
        plain = spikes.dtype == torch.bool and bool((source.scale == 1).all()) and not source.shift.any()
        values: list[dict[str, Tensor] | None] = [{source.name: spikes if plain else _over_time(port * scale + shift)}]
        values += [{source.name: spikes} for _ in picks]
        kinds = (ir.Conv, ir.Dense)
        readers = Counter(network.source_of(item).name for item in network.nodes if isinstance(item, kinds))
        results: list[list[Result]] = [[] for _ in picks]
        last = network.source_of(network.readout).name
        ends = [torch.zeros(()) for _ in values]
        for index, (node, job) in enumerate(Walk(network, self.chip, self.plan).jobs()):
            names = [network.source_of(item).name for item in job.synapses]
            shape = network.shape(job.synapses[0].name)
            readers.subtract(names)
            wanted = torch.zeros(())
            for number, known in enumerate(values):
                if known is None:
                    continue
                xs = [known[name] for name in names]
                for name in names:
                    if not readers[name]:  # spikes that nothing reads any more need not be kept
                        known.pop(name, None)
                if not number:
                    make = functools.partial(_float, node, job.synapses, shape, xs)
                    fired, made = self.memory.recall((part, index), make)
                    self.fired[node.name] += fired
                    wanted = made
                else:
                    before = part, *(item.candidate for item in results[number - 1])
                    taken = picks[number - 1](At(index, job, shape, xs, wanted, before, self.memory))
                    if taken is None:
                        values[number], results[number - 1] = None, []
                        continue
                    made = taken[1]
                    results[number - 1].append(taken[0])
                if not job.neuron:
                    ends[number] = made
                elif node.name == last:
                    ends[number] = made.sum(1).double()
                known[node.name] = made
        return results, ends


def _fixed(candidates: Sequence[Candidate]) -> Pick:
    """What picks these; nothing if there are none."""
    return lambda at: at.run(candidates[at.index]) if candidates else None


def _over_time(x: Tensor) -> Tensor:
    """Input (N, T, ...) as it is, or as a view of its first step where all are the same."""
    return x[:, :1].clone().expand(x.shape) if bool((x == x[:, :1]).all()) else x


def _float(node: ir.Node, synapses: Sequence[ir.Synapse], shape: ir.Shape, xs: Sequence[Tensor]) -> tuple[int, Tensor]:
    """What the float network makes of its inputs (N, T, ...): spikes (N, T, ...) and how many, or the sum (N, K) of
    the readout."""
    fires = isinstance(node, ir.LIF)
    short = fires and all(x.dtype == torch.bool for x in xs)
    weighted = sums.Weighted(synapses, torch.float32 if short else torch.float64)
    total = ir.total_bias(synapses)
    bias = torch.zeros(()) if total is None else torch.from_numpy(total)
    bias = bias.view(-1, *(1,) * (len(shape) - 1)) if bias.ndim == 1 else bias
    count, steps = xs[0].shape[:2]
    out = sums.room_for(count, steps, shape) if fires else torch.empty((count, *shape), dtype=torch.float64)
    compiled, fired = kernels.load(), 0
    for span in sums.spans(count, steps * int(np.prod(shape))):
        found = weighted([x[span] for x in xs])
        kept: Tensor | None = None
        flow: Tensor | None = None
        if not isinstance(node, ir.LIF):
            out[span] = (found.double() + bias).sum(1)
            continue
        if not isinstance(compiled, str) and node.steps is None and node.grain is None and not node.current_tau:
            over = float(np.nextafter(node.threshold, -np.inf)) if node.ties else node.threshold
            fired += compiled.fire(found, bias, node.tau, over, out=out[span]).fired
            continue
        for step in range(steps):
            flow = current(node, found[:, step].double() + bias, flow)
            out[span, step], kept, _ = neuron(node, flow, kept, step)
        fired += int(out[span].count_nonzero())
    return fired, out
