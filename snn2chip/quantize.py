"""From float weights to the chip's integers, one scale a layer.

With threshold mantissa th, a layer's scale is ``s = th / Vth`` and its integers are ``rint(s W)``,
``rint(s b)`` and th itself: multiplying a LIF neuron's input, bias and threshold by one positive number does
not change a spike, so the only loss is the rounding (and, unless (1 - tau) 4096 is whole, that of tau).

Which scale: candidates come from three rules, and on calibration data the layer's spikes are compared with the
float network's, every candidate fed by the integer layers before it.

- ``max``         the largest weight fills the range (127 with odd weights, or 254 with even ones)
- ``percentile``  the 99.9th or 99.99th percentile of |W| becomes 254 or 127; weights beyond 254 are
                  clipped, counted in the report
- ``error``       a grid below the largest scale; the one with the fewest differing spikes

``auto`` takes the best of all. Without calibration data it is ``max``.

How to round: ``nearest`` or ``sums`` (see `snn2chip.rounding`); with calibration data each layer takes the better.

A neuron that several synapses drive, where branches meet, has one scale for all of them, and its biases become one,
which the first synapse holds. Relays in the same chain layer share its threshold and its kind of weights (see
`snn2chip.relay`): a scale at which they would not be exact is none.

Limits (see `snn2chip.chip`): weights, 13-bit biases, 17-bit thresholds, and no overflow (see `snn2chip.overflow`).
Where a layer's largest possible sums stay within it, the scale is proved. A scale that is not proved is taken only when
it is clearly better on the calibration data and the largest sum and membrane seen there, doubled, still fit; the report
says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from snn2chip import ir
from snn2chip.chip import Chip
from snn2chip.errors import ChipLimitError, InputError, UnsupportedError
from snn2chip.overflow import Bounds, output_bounds, proof
from snn2chip.relay import choose
from snn2chip.rounding import ROUNDINGS, Rounding, round_weights
from snn2chip.schedule import Level, Schedule
from snn2chip.simulate.dense import BINARY, Product, exact_products, integrate
from snn2chip.simulate.floating import evaluate

Strategy = Literal["auto", "max", "percentile", "error"]
STRATEGIES: tuple[Strategy, ...] = ("auto", "max", "percentile", "error")
_ACCUMULATOR = "accumulator"  # the neurons of a membrane readout
_PERCENTILES = (99.9, 99.99)
_GRID = (0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5)
_SEEN_MARGIN = 2.0  # the largest sum and membrane seen, times this, must fit where it is not proved
_PROOF_WORTH = 1.05  # a proved scale wins against errors up to this factor better


@dataclass(frozen=True)
class LayerReport:
    """How one layer became integers.

    `error`: share of calibration spikes that differ from the float network's (or, for the accumulating
    readout, relative root-mean-square error of the scores); None without calibration data. `alternatives`:
    the same error for each rule. `bound`: largest |sum| possible in one step; `seen`: largest on calibration
    data; `limit` what fits. `relays`: channels or features of relays in the same chain layer, and `relay_limit` the
    largest threshold they allow. `headroom` = limit / (bound if proved, else seen).
    """

    name: str
    neuron: str
    fan_in: int
    neurons: int
    synapses: int
    rule: str
    rounding: Rounding
    scale: float
    threshold: int
    weight_max: int
    weight_bits: float
    bias_max: int
    clipped: int
    error: float | None
    alternatives: dict[str, float]
    relays: int
    relay_limit: int | None
    proved: bool
    bound: int
    seen: int | None
    limit: int
    tau: float
    tau_chip: float

    @property
    def headroom(self) -> float:
        """How many times the largest sum (possible if proved, else seen) fits."""
        largest = self.bound if self.proved or self.seen is None else self.seen
        return self.limit / max(1, largest)


@dataclass(frozen=True)
class QuantizeReport:
    """One entry a layer; `calibration` is how many samples were used."""

    chip: str
    weight_bits: int
    strategy: Strategy
    calibration: int
    layers: tuple[LayerReport, ...]


@dataclass(frozen=True, eq=False)
class _Candidate:
    rule: str
    rounding: Rounding
    synapses: tuple[ir.Synapse, ...]
    neuron: ir.CubaNeuron
    scale: float
    clipped: int
    proved: bool
    bound: int


@dataclass(frozen=True, eq=False)
class _Result:
    candidate: _Candidate
    error: float
    seen: int
    peak: int  # largest |sum| or |membrane| seen, in weight units
    spikes: Tensor


class _LayerQuantizer:
    """Everything about one layer that its candidates share."""

    def __init__(
        self,
        synapses: list[ir.Synapse],
        bounds: list[Bounds],
        neuron: ir.LIF | None,
        driver: str,
        shape: ir.Shape,
        steps: int,
        chip: Chip,
        level: Level | None,
        with_bias: bool,
    ) -> None:
        self.synapses, self.bounds, self.neuron, self.driver = synapses, bounds, neuron, driver
        self.shape, self.steps, self.chip = shape, steps, chip
        self.level = level if level is not None and level.relays else None
        self.reads = (1,) * len(synapses) if level is None else level.reads
        self.with_bias = with_bias
        self.proved = (0.0, 0.0)  # the largest scale proved, of those up to the second
        self.bias = ir.total_bias(synapses)
        self.bias_max = chip.bias_max
        # by how much of the range each weight takes: one shared out among copies counts by its share
        self.size = np.concatenate(
            [np.abs(item.weight).ravel() / n for item, n in zip(synapses, self.reads, strict=True)]
        )
        self.decay = 0 if neuron is None else int(np.rint((1 - neuron.tau) * 4096))
        if self.decay > chip.decay_max:
            raise ChipLimitError(
                f"layer '{self.name}': voltage decay {self.decay} (tau {neuron.tau if neuron else 1}) exceeds "
                f"{chip.decay_max} ({chip.name}); use tau of at least 1/4096"
            )
        if not self.size.max(initial=0) > 0:
            raise UnsupportedError(
                f"layer '{synapses[0].name}': every weight is 0, and netx cannot load such a layer; train it, or "
                f"leave it out"
            )

    @property
    def name(self) -> str:
        return self.neuron.name if self.neuron else _ACCUMULATOR

    def candidate(self, rule: str, scale: float, rounding: Rounding = "nearest") -> _Candidate | None:
        """The layer at about this scale, or None if it breaks a limit that no data can excuse."""
        chip = self.chip
        if self.neuron is None:
            threshold = chip.threshold_max  # never reached: the readout only accumulates
        else:
            threshold = int(np.rint(scale * self.neuron.threshold))
            if not 1 <= threshold <= chip.threshold_max:
                return None
            if self._largest_bias() * threshold / self.neuron.threshold > self.bias_max + 0.49:
                threshold -= 1  # rounding up the threshold took the bias past its limit
            scale = threshold / self.neuron.threshold
        floats = [item.weight.astype(np.float64) for item in self.synapses]
        weights, clipped = round_weights(floats, scale, chip, rounding, reads=self.reads)
        even = any(
            np.abs(weight).max(initial=0) > n * chip.weight_odd_max
            for weight, n in zip(weights, self.reads, strict=True)
        )
        if not self._relays_fit(threshold, even):
            if even or not self._relays_fit(threshold, True):
                return None
            weights, clipped = round_weights(floats, scale, chip, rounding, even=True, reads=self.reads)
        if not any(weight.any() for weight in weights):
            return None
        bias = None if self.bias is None else np.rint(self.bias * scale).astype(np.int64)
        if bias is not None and np.abs(bias).max(initial=0) > self.bias_max:
            return None
        synapses = tuple(
            replace(item, weight=weight, bias=bias if number == 0 else None)
            for number, (item, weight) in enumerate(zip(self.synapses, weights, strict=True))
        )
        neuron = ir.CubaNeuron(self.name, (self.driver,), threshold, self.decay)
        sums = [output_bounds(item, *bounds) for item, bounds in zip(synapses, self.bounds, strict=True)]
        least, most = (np.sum([pair[side] for pair in sums], axis=0) for side in (0, 1))
        shifts = np.zeros(1, dtype=np.int64) if bias is None else bias
        proved, bound = proof(int(least.min()), int(most.max()), shifts, neuron, self.steps, chip.input_max)
        return _Candidate(rule, rounding, synapses, neuron, scale, clipped, proved, bound)

    def _relays_fit(self, threshold: int, even: bool) -> bool:
        """Whether the relays of the same chain layer are exact at this threshold and kind of weights."""
        if self.level is None:
            return True
        made = choose(threshold, self.decay, self.level.copies, self.chip, even=even, with_bias=self.with_bias)
        return made is not None

    def _largest_bias(self) -> float:
        return 0.0 if self.bias is None else float(np.abs(self.bias).max(initial=0))

    def scale_limit(self) -> float:
        """The largest scale that biases and thresholds allow."""
        chip = self.chip
        limits = [np.inf]
        if self._largest_bias() > 0:
            limits.append((chip.bias_max + 0.49) / self._largest_bias())
        if self.neuron is not None:
            limits.append(chip.threshold_max / self.neuron.threshold)
            if self.level is not None and self.level.limit is not None:
                limits.append((self.level.limit + 0.49) / self.neuron.threshold)
        return float(min(limits))

    def _proved_scale(self, scale: float) -> float:
        """The largest scale up to `scale` whose sums are proved, found by bisection.

        Bounds grow with the scale, so what was found once holds for every other call.
        """
        found, searched = self.proved
        if scale > searched and found >= searched * (1 - 1e-6):  # no limit met so far
            low, high = found, scale
            for _ in range(24):
                middle = (low + high) / 2
                made = self.candidate("max", middle)
                low, high = (middle, high) if made is None or made.proved else (low, middle)
            self.proved = found, _ = low, scale
        return min(scale, found)

    def candidates(self, strategy: Strategy, calibrated: bool) -> Iterator[_Candidate]:
        """Everything worth trying, most precise first."""
        chip, limit = self.chip, self.scale_limit()
        size = self.size
        fulls = [chip.weight_max / float(size.max()), chip.weight_odd_max / float(size.max())]
        plan = [("max", scale) for scale in fulls]
        if calibrated and strategy in ("auto", "percentile"):
            for share in _PERCENTILES:
                top = float(np.percentile(size[size > 0], share))
                plan += [("percentile", scale / top) for scale in (chip.weight_max, chip.weight_odd_max)]
        if calibrated and strategy in ("auto", "error"):
            plan += [("error", min(full, limit) * share) for full in fulls for share in (1.0, *_GRID)]
        tried: set[tuple[str, float]] = set()
        for rule, wanted in plan:
            scale = min(wanted, limit)
            for value in (scale, None):
                exact = self._proved_scale(scale) if value is None else value
                if (rule, round(exact, 9)) in tried or exact <= 0:
                    continue
                tried.add((rule, round(exact, 9)))
                roundings = ROUNDINGS if calibrated else ROUNDINGS[:1]
                made = [item for kind in roundings if (item := self.candidate(rule, exact, kind))]
                if rule == "percentile":  # what clips nothing is no percentile
                    made = [item for item in made if item.clipped]
                yield from made
                if made and all(item.proved for item in made):
                    break

    def refuse(self) -> ChipLimitError:
        """Why no candidate is left."""
        chip = self.chip
        bias = self._largest_bias()
        weight = float(self.size.max())
        at = f"threshold {self.neuron.threshold:.3g}" if self.neuron else "the readout"
        if self.level is not None:
            at += f" (at most {self.level.limit:,} for the relays beside it)"
        return ChipLimitError(
            f"layer '{self.synapses[0].name}': no scale fits {chip.name}: largest weight {weight:.3g}, largest bias "
            f"{bias:.3g}, {at}, {self.bits}; train with a smaller weight or bias (weight decay)"
        )

    @property
    def bits(self) -> str:
        return f"{self.chip.weight_bits}-bit weights, {self.chip.bias_bits}-bit biases"


def _measure(made: _Candidate, xs: list[Tensor], bounds: list[Bounds], wanted: Tensor) -> _Result:
    """Run a candidate on integer inputs (N, T, ...) of its synapses, compare with the float spikes or scores."""
    with exact_products():
        parts = [Product(item, *port)(x) for item, port, x in zip(made.synapses, bounds, xs, strict=True)]
    sums = sum(parts[1:], parts[0])
    bias = torch.from_numpy(ir.neuron_bias(made.synapses, tuple(sums.shape[2:])).astype(np.int32))
    spikes, voltage = integrate(sums, bias, made.neuron)
    seen = int(sums.abs().max())
    if wanted.dtype == torch.bool:
        error = float((spikes != wanted).double().mean())
    else:
        scores = voltage[:, -1].double() / (64 * made.scale)
        error = float((scores - wanted).square().mean().sqrt() / wanted.std(correction=0).clamp_min(1e-12))
    peak = max(seen, -(-int(voltage.abs().max()) // 64))
    return _Result(made, error, seen, peak, spikes)


def _choose(results: list[_Result], strategy: Strategy, limit: int) -> _Result:
    """The least error; a proved one if it is nearly as good; only unproved ones with room to spare."""
    if strategy in ("max", "percentile"):
        of_rule = [result for result in results if result.candidate.rule == strategy]
        results = of_rule or results
    proved = [result for result in results if result.candidate.proved]
    seen = [r for r in results if not r.candidate.proved and r.peak * _SEEN_MARGIN <= limit]
    best = min(proved + seen or results, key=lambda result: result.error)
    near = [result for result in proved if result.error <= best.error * _PROOF_WORTH + 1e-12]
    return min(near, key=lambda result: result.error) if near else best


class _Walk:
    """Every neuron of a folded network in turn, with what drives it; and the quantized nodes so far."""

    def __init__(self, network: ir.Network, chip: Chip, plan: Schedule | None) -> None:
        self.network, self.chip, self.plan = network, chip, plan
        self.done: dict[str, ir.Node] = {network.input.name: network.input}

    def jobs(self) -> Iterator[tuple[ir.Node, _LayerQuantizer]]:
        """Neurons, and the readout if it accumulates; each with its quantizer."""
        network = self.network
        for node in network.nodes:
            if isinstance(node, ir.LIF) or (isinstance(node, ir.Readout) and network.readout.kind == "membrane"):
                synapses = network.synapses_of(node)
                sources = [network.source_of(item) for item in synapses]
                yield (
                    node,
                    _LayerQuantizer(
                        synapses,
                        [item.port_range() if isinstance(item, ir.Input) else BINARY for item in sources],
                        node if isinstance(node, ir.LIF) else None,
                        node.inputs[0],
                        network.shape(synapses[0].name),
                        network.timesteps,
                        self.chip,
                        self.plan.level_of(node.name) if self.plan else None,
                        self.plan.with_bias if self.plan else True,
                    ),
                )

    def take(self, made: _Candidate) -> None:
        """Keep a layer's integers."""
        self.done.update({item.name: item for item in made.synapses})
        self.done[made.neuron.name] = made.neuron

    def finish(self) -> ir.Network:
        """The quantized network, its nodes in the order of the folded one."""
        nodes: list[ir.Node] = []
        for node in self.network.nodes:
            if isinstance(node, ir.Readout):
                accumulator = self.done.get(_ACCUMULATOR)
                nodes += [accumulator] if accumulator else []
                nodes.append(replace(node, inputs=(_ACCUMULATOR,)) if accumulator else node)
            else:
                nodes.append(self.done.get(node.name, node))
        return self.network.with_nodes("quantized", nodes)


@torch.no_grad()
def quantize(
    network: ir.Network,
    chip: Chip,
    plan: Schedule | None = None,
    *,
    calibration: ir.IntArray | None = None,
    strategy: Strategy = "auto",
) -> tuple[ir.Network, QuantizeReport]:
    """Quantize a 'folded' network; `calibration` is raw input (N, T, C, H, W) or None.

    `plan` says which layers share their threshold with relays (see `snn2chip.schedule`); None: none does.

    Raises:
        ChipLimitError: a layer fits the chip at no scale, a decay is too long, or the input is graded and the
            chip takes only binary spikes.
        UnsupportedError: a layer whose weights are all zero.
        InputError: a calibration without samples.
    """
    if calibration is not None and not len(calibration):
        raise InputError("calibration needs at least one sample; give some, or none at all (None)")
    source = network.input
    port = source.port_range()
    widest = int(max(-port[0].min(), port[1].max()))
    if not (port[0].min() >= 0 and port[1].max() <= 1) and widest.bit_length() + 1 > chip.message_bits:
        raise ChipLimitError(
            f"layer 'input': values {port[0].min()}..{port[1].max()} need graded spikes of "
            f"{widest.bit_length() + 1} bits, {chip.name} has {chip.message_bits}; "
            f"train with coding = 'poisson', or choose --chip loihi2"
        )
    float_trace = None if calibration is None else evaluate(network, calibration)
    values: dict[str, Tensor] = {}
    if calibration is not None:
        values[source.name] = torch.from_numpy(source.port(calibration))
    reports = []
    walk = _Walk(network, chip, plan)
    readers = Counter(network.source_of(item).name for item in network.nodes if isinstance(item, (ir.Conv, ir.Dense)))
    for node, job in walk.jobs():
        wanted = None
        xs = None
        if float_trace is not None:
            wanted = float_trace.spikes[node.name] if job.neuron else float_trace.scores
            names = [network.source_of(item).name for item in job.synapses]
            xs = [values[name] for name in names]
            readers.subtract(names)
            for name in names:
                if not readers[name]:  # spikes that nothing reads any more need not be kept
                    values.pop(name, None)
        chosen, report, spikes = _quantize_layer(job, strategy, xs, wanted)
        if spikes is not None:
            values[node.name] = spikes
        walk.take(chosen)
        reports.append(report)
    count = 0 if calibration is None else len(calibration)
    return walk.finish(), QuantizeReport(chip.name, chip.weight_bits, strategy, count, tuple(reports))


def _quantize_layer(
    job: _LayerQuantizer, strategy: Strategy, xs: list[Tensor] | None, wanted: Tensor | None
) -> tuple[_Candidate, LayerReport, Tensor | None]:
    """The chosen candidate, its report, and the layer's integer spikes on the calibration data."""
    candidates = list(job.candidates(strategy, xs is not None))
    limit = job.chip.input_max
    alternatives: dict[str, float] = {}
    seen: int | None = None
    error: float | None = None
    spikes: Tensor | None = None
    if xs is None or wanted is None:
        made = next((item for item in candidates if item.proved), None)
        if made is None:
            raise job.refuse()
    else:
        results = [_measure(item, xs, job.bounds, wanted) for item in candidates]
        if not results:
            raise job.refuse()
        for result in results:
            rule = result.candidate.rule
            alternatives[rule] = min(alternatives.get(rule, np.inf), result.error)
        best = _choose(results, strategy, limit)
        made, error, seen, spikes = best.candidate, best.error, best.seen, best.spikes
        if seen > limit:
            raise job.refuse()
    weights = [item.weight for item in made.synapses]
    largest = max(int(np.abs(weight).max(initial=0)) for weight in weights)
    even = not any((weight % 2).any() for weight in weights)
    shares = [int(np.abs(weight).max(initial=0)) / n for weight, n in zip(weights, job.reads, strict=True)]
    step = 2 if max(shares) > job.chip.weight_odd_max or (even and job.level is not None) else 1
    neurons = int(np.prod(job.shape))
    fan_in = sum(int(weight[0].size) for weight in weights)
    bias = made.synapses[0].bias
    report = LayerReport(
        name=job.synapses[0].name,
        neuron=job.name,
        fan_in=fan_in,
        neurons=neurons,
        synapses=fan_in * neurons,
        rule=made.rule,
        rounding=made.rounding,
        scale=made.scale,
        threshold=made.neuron.threshold,
        weight_max=largest,
        weight_bits=float(np.log2(largest / step + 1) + 1),
        bias_max=0 if bias is None else int(np.abs(bias).max(initial=0)),
        clipped=made.clipped,
        error=error,
        alternatives=alternatives,
        relays=0 if job.level is None else sum(item.shape[0] for item in job.level.relays),
        relay_limit=None if job.level is None else job.level.limit,
        proved=made.proved,
        bound=made.bound,
        seen=seen,
        limit=limit,
        tau=1.0 if job.neuron is None else job.neuron.tau,
        tau_chip=1 - job.decay / 4096,
    )
    return made, report, spikes


def quantize_at(
    network: ir.Network,
    chip: Chip,
    scales: dict[str, float],
    rounding: dict[str, Rounding],
    plan: Schedule | None = None,
    *,
    bias_max: int | None = None,
) -> ir.Network:
    """The integers of a 'folded' network at given scales and roundings, by conv or dense layer: what a file
    made with them must hold. A layer that `rounding` does not name is rounded to the nearest. `bias_max` lets biases
    exceed the chip's, for a comparison that is to name them.

    Raises:
        InputError: a layer has no scale, or its integers exceed the chip.
    """
    walk = _Walk(network, chip, plan)
    for _, job in walk.jobs():
        name = job.synapses[0].name
        if name not in scales:
            raise InputError(f"layer '{name}': no scale is known for it; export the model again")
        job.bias_max = job.bias_max if bias_max is None else bias_max
        made = job.candidate("given", scales[name], rounding.get(name, "nearest"))
        if made is None:
            raise job.refuse()
        walk.take(made)
    return walk.finish()
