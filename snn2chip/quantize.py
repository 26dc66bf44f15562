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

How to round: ``nearest``, or ``sums``, which starts from nearest and then moves the few weights that were rounded
worst so that every kernel's sum, then every output's, is off by at most half a step (as SQuant does, Guo et al.
2022). Neighbouring inputs are alike, so errors of one sign add up under nearest rounding. Both are functions of the
weights and the scale alone, so that a file's integers can be recomputed. With calibration data each layer takes the
better.

Limits (see `snn2chip.chip`): weights, 13-bit biases, 17-bit thresholds, and no overflow: for every neuron
``sum of w x`` of one step must stay within 131071, or the current wraps, and the membrane within the same, or
it clips. Where the largest possible sums of a layer stay within it, the scale is proved. A scale that is not
proved is taken only when it is clearly better on the calibration data and the largest sum and membrane
seen there, doubled, still fit; the report says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from snn2chip import ir
from snn2chip.chip import Chip
from snn2chip.errors import ChipLimitError, InputError, UnsupportedError
from snn2chip.simulate.dense import LayerRunner, exact_products
from snn2chip.simulate.floating import evaluate

Strategy = Literal["auto", "max", "percentile", "error"]
Rounding = Literal["nearest", "sums"]
ROUNDINGS: tuple[Rounding, ...] = ("nearest", "sums")
STRATEGIES: tuple[Strategy, ...] = ("auto", "max", "percentile", "error")
_PERCENTILES = (99.9, 99.99)
_GRID = (0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5)
_SEEN_MARGIN = 2.0  # the largest sum and membrane seen, times this, must fit where it is not proved
_SPIKES = (np.zeros(1, dtype=np.int64), np.ones(1, dtype=np.int64))  # what every layer but the first reads
_PROOF_WORTH = 1.05  # a proved scale wins against errors up to this factor better


@dataclass(frozen=True)
class LayerReport:
    """How one layer became integers.

    `error`: share of calibration spikes that differ from the float network's (or, for the accumulating
    readout, relative root-mean-square error of the scores); None without calibration data. `alternatives`:
    the same error for each rule. `bound`: largest |sum| possible in one step; `seen`: largest on calibration
    data; `limit` what fits. `headroom` = limit / (bound if proved, else seen).
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
    synapse: ir.Synapse
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


def _move(errors: ir.FloatArray) -> ir.FloatArray:
    """Steps (-1, 0, +1) that bring the sum of each row of rounding errors to within half a step.

    The entries rounded worst in the direction of their row's sum move, each by one step.
    """
    moves = np.rint(errors.sum(1))
    sign = np.sign(moves)[:, None]
    order = np.argsort(-errors * sign, axis=1, kind="stable")
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.broadcast_to(np.arange(errors.shape[1]), order.shape), 1)
    chosen: ir.FloatArray = np.where((rank < np.abs(moves)[:, None]) & (errors * sign > 0), -sign, 0.0)
    return chosen


def _rounded(scaled: ir.FloatArray, rounding: Rounding) -> ir.IntArray:
    """Weights (O, ...) in units of one step to integers."""
    nearest = np.rint(scaled)
    if rounding == "sums":
        if scaled.ndim == 4:
            kernels = (-1, scaled.shape[2] * scaled.shape[3])
            nearest = nearest + _move((nearest - scaled).reshape(kernels)).reshape(scaled.shape)
        outputs = (len(scaled), -1)
        nearest = nearest + _move((nearest - scaled).reshape(outputs)).reshape(scaled.shape)
    return nearest.astype(np.int64)


def _round_weights(
    weight: ir.FloatArray, scale: float, chip: Chip, rounding: Rounding = "nearest"
) -> tuple[ir.IntArray, int]:
    """Integers within the chip's range, and how many weights had to be clipped to it."""
    rounded = _rounded(weight * scale, rounding)
    if np.abs(rounded).max(initial=0) <= chip.weight_odd_max:
        return rounded, 0
    even = 2 * _rounded(weight * (scale / 2), rounding)
    clipped = int((np.abs(even) > chip.weight_max).sum())
    return np.clip(even, -chip.weight_max, chip.weight_max), clipped


def sums_bound(layer: ir.ChainLayer, low: ir.IntArray, high: ir.IntArray) -> tuple[int, int]:
    """Smallest and largest sum of w x any neuron of a layer can get, for inputs within low..high per channel.

    Borders only leave terms out; a term left out is a 0, which low..high is made to include.
    """
    low, high = np.minimum(low, 0), np.maximum(high, 0)
    weight = layer.weight
    if layer.kind == "conv":
        channel = ir.input_channels(weight, layer.groups)
        width = weight.shape[1] * layer.groups
        lo = np.broadcast_to(low, (width,))[channel][:, :, None, None]
        hi = np.broadcast_to(high, (width,))[channel][:, :, None, None]
    else:
        repeat = weight.shape[1] // len(low)
        lo, hi = np.repeat(low, repeat)[None], np.repeat(high, repeat)[None]
    axes = tuple(range(1, weight.ndim))
    most = np.maximum(weight * hi, weight * lo).sum(axes)
    least = np.minimum(weight * hi, weight * lo).sum(axes)
    return int(least.min()), int(most.max())


def _proof(layer: ir.ChainLayer, low: ir.IntArray, high: ir.IntArray, steps: int, limit: int) -> tuple[bool, int]:
    """Whether no input can wrap the current or clip the membrane within `steps`; and the largest |sum|."""
    least, most = sums_bound(layer, low, high)
    bound = max(-least, most)
    keep = 1 - layer.voltage_decay / 4096
    # a membrane that never fires gathers sum of keep^k inputs; one above threshold is reset
    gathered = float(steps) if keep == 1 else (1 - keep**steps) / (1 - keep)
    bias_low, bias_high = int(layer.bias.min()), int(layer.bias.max())
    down = gathered * max(0, -(least + bias_low))
    up = min(keep * layer.threshold, keep * gathered * max(0, most + bias_high)) + most + bias_high
    return bound <= limit and down <= limit and up <= limit, bound


class _LayerQuantizer:
    """Everything about one layer that its candidates share."""

    def __init__(
        self,
        synapse: ir.Synapse,
        neuron: ir.LIF | None,
        shape: ir.Shape,
        port: tuple[ir.IntArray, ir.IntArray],
        steps: int,
        chip: Chip,
    ) -> None:
        self.synapse, self.neuron, self.shape = synapse, neuron, shape
        self.low, self.high = port
        self.steps, self.chip = steps, chip
        self.decay = 0 if neuron is None else int(np.rint((1 - neuron.tau) * 4096))
        if self.decay > chip.decay_max:
            raise ChipLimitError(
                f"layer '{self.name}': voltage decay {self.decay} (tau {neuron.tau if neuron else 1}) exceeds "
                f"{chip.decay_max} ({chip.name}); use tau of at least 1/4096"
            )
        if not np.abs(synapse.weight).max(initial=0) > 0:
            raise UnsupportedError(
                f"layer '{synapse.name}': every weight is 0, and netx cannot load such a layer; train it, or "
                f"leave it out"
            )

    @property
    def name(self) -> str:
        return self.neuron.name if self.neuron else "accumulator"

    def candidate(self, rule: str, scale: float, rounding: Rounding = "nearest") -> _Candidate | None:
        """The layer at about this scale, or None if it breaks a limit that no data can excuse."""
        chip = self.chip
        if self.neuron is None:
            threshold = chip.threshold_max  # never reached: the readout only accumulates
        else:
            threshold = int(np.rint(scale * self.neuron.threshold))
            if not 1 <= threshold <= chip.threshold_max:
                return None
            if self._largest_bias() * threshold / self.neuron.threshold > chip.bias_max + 0.49:
                threshold -= 1  # rounding up the threshold took the bias past its limit
            scale = threshold / self.neuron.threshold
        weight, clipped = _round_weights(self.synapse.weight.astype(np.float64), scale, chip, rounding)
        if not weight.any():
            return None
        bias = None if self.synapse.bias is None else np.rint(self.synapse.bias * scale).astype(np.int64)
        if bias is not None and np.abs(bias).max(initial=0) > chip.bias_max:
            return None
        synapse = replace(self.synapse, weight=weight, bias=bias)
        neuron = ir.CubaNeuron(self.name, (self.synapse.name,), threshold, self.decay)
        layer = ir.chain_layer("", synapse, neuron, self.shape)
        proved, bound = _proof(layer, self.low, self.high, self.steps, chip.input_max)
        return _Candidate(rule, rounding, synapse, neuron, scale, clipped, proved, bound)

    def _largest_bias(self) -> float:
        return 0.0 if self.synapse.bias is None else float(np.abs(self.synapse.bias).max(initial=0))

    def scale_limit(self) -> float:
        """The largest scale that biases and thresholds allow."""
        chip = self.chip
        limits = [np.inf]
        if self._largest_bias() > 0:
            limits.append((chip.bias_max + 0.49) / self._largest_bias())
        if self.neuron is not None:
            limits.append(chip.threshold_max / self.neuron.threshold)
        return float(min(limits))

    def _proved_scale(self, scale: float) -> float:
        """The largest scale up to `scale` whose sums are proved, found by bisection."""
        low, high = 0.0, scale
        for _ in range(24):
            middle = (low + high) / 2
            made = self.candidate("max", middle)
            low, high = (middle, high) if made is None or made.proved else (low, middle)
        return low

    def candidates(self, strategy: Strategy, calibrated: bool) -> Iterator[_Candidate]:
        """Everything worth trying, most precise first."""
        chip, limit = self.chip, self.scale_limit()
        size = np.abs(self.synapse.weight)
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
        weight = float(np.abs(self.synapse.weight).max())
        at = f"threshold {self.neuron.threshold:.3g}" if self.neuron else "the readout"
        return ChipLimitError(
            f"layer '{self.synapse.name}': no scale fits {chip.name}: largest weight {weight:.3g}, largest bias "
            f"{bias:.3g}, {at}, {self.bits}; train with a smaller weight or bias (weight decay)"
        )

    @property
    def bits(self) -> str:
        return f"{self.chip.weight_bits}-bit weights, {self.chip.bias_bits}-bit biases"


def _measure(
    made: _Candidate, shape: ir.Shape, x: Tensor, port: tuple[ir.IntArray, ir.IntArray], wanted: Tensor
) -> _Result:
    """Run a candidate on integer inputs x (N, T, ...) and compare with the float spikes or scores."""
    layer = ir.chain_layer("", made.synapse, made.neuron, shape)
    with exact_products():
        spikes, voltage, seen = LayerRunner(layer, *port, torch.device("cpu")).run(x)
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


@torch.no_grad()
def quantize(
    network: ir.Network,
    chip: Chip,
    *,
    calibration: ir.IntArray | None = None,
    strategy: Strategy = "auto",
) -> tuple[ir.Network, QuantizeReport]:
    """Quantize a 'folded' network; `calibration` is raw input (N, T, C, H, W) or None.

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
    x = None if calibration is None else torch.from_numpy(source.port(calibration))
    nodes: list[ir.Node] = [source]
    reports = []
    synapse: ir.Synapse | None = None
    for node in network.nodes[1:]:
        if isinstance(node, ir.Flatten):
            nodes.append(node)
            x = x.flatten(2) if x is not None else None
        elif isinstance(node, (ir.Conv, ir.Dense)):
            synapse = node
        elif isinstance(node, (ir.LIF, ir.Readout)):
            if synapse is not None:
                neuron = node if isinstance(node, ir.LIF) else None
                job = _LayerQuantizer(synapse, neuron, network.shape(synapse.name), port, network.timesteps, chip)
                wanted = None
                if float_trace is not None:
                    wanted = float_trace.spikes[node.name] if neuron else float_trace.scores
                chosen, report, x = _quantize_layer(job, strategy, x, wanted)
                nodes += [chosen.synapse, chosen.neuron]
                reports.append(report)
                synapse, port = None, _SPIKES
            if isinstance(node, ir.Readout):
                nodes.append(replace(node, inputs=(nodes[-1].name,)))
    count = 0 if calibration is None else len(calibration)
    return network.with_nodes("quantized", nodes), QuantizeReport(
        chip.name, chip.weight_bits, strategy, count, tuple(reports)
    )


def _quantize_layer(
    job: _LayerQuantizer, strategy: Strategy, x: Tensor | None, wanted: Tensor | None
) -> tuple[_Candidate, LayerReport, Tensor | None]:
    """The chosen candidate, its report, and the layer's integer spikes on the calibration data."""
    candidates = list(job.candidates(strategy, x is not None))
    limit = job.chip.input_max
    alternatives: dict[str, float] = {}
    seen: int | None = None
    error: float | None = None
    spikes: Tensor | None = None
    if x is None or wanted is None:
        made = next((item for item in candidates if item.proved), None)
        if made is None:
            raise job.refuse()
    else:
        results = [_measure(item, job.shape, x, (job.low, job.high), wanted) for item in candidates]
        if not results:
            raise job.refuse()
        for result in results:
            rule = result.candidate.rule
            alternatives[rule] = min(alternatives.get(rule, np.inf), result.error)
        best = _choose(results, strategy, limit)
        made, error, seen, spikes = best.candidate, best.error, best.seen, best.spikes.to(torch.int64)
        if seen > limit:
            raise job.refuse()
    weight = made.synapse.weight
    step = 2 if np.abs(weight).max() > job.chip.weight_odd_max else 1
    neurons = int(np.prod(job.shape))
    report = LayerReport(
        name=job.synapse.name,
        neuron=job.name,
        fan_in=int(weight[0].size),
        neurons=neurons,
        synapses=int(weight[0].size) * neurons if isinstance(made.synapse, ir.Conv) else int(weight.size),
        rule=made.rule,
        rounding=made.rounding,
        scale=made.scale,
        threshold=made.neuron.threshold,
        weight_max=int(np.abs(weight).max()),
        weight_bits=float(np.log2(np.abs(weight).max() / step + 1) + 1),
        bias_max=0 if made.synapse.bias is None else int(np.abs(made.synapse.bias).max(initial=0)),
        clipped=made.clipped,
        error=error,
        alternatives=alternatives,
        proved=made.proved,
        bound=made.bound,
        seen=seen,
        limit=limit,
        tau=1.0 if job.neuron is None else job.neuron.tau,
        tau_chip=1 - job.decay / 4096,
    )
    return made, report, spikes


def quantize_at(network: ir.Network, chip: Chip, scales: dict[str, float], rounding: dict[str, Rounding]) -> ir.Network:
    """The integers of a 'folded' network at given scales and roundings, by conv or dense layer: what a file
    made with them must hold. A layer that `rounding` does not name is rounded to the nearest.

    Raises:
        InputError: a layer has no scale, or its integers exceed the chip.
    """
    nodes: list[ir.Node] = [network.input]
    port = network.input.port_range()
    synapse: ir.Synapse | None = None
    for node in network.nodes[1:]:
        if isinstance(node, ir.Flatten):
            nodes.append(node)
        elif isinstance(node, (ir.Conv, ir.Dense)):
            synapse = node
        elif synapse is not None:
            if synapse.name not in scales:
                raise InputError(f"layer '{synapse.name}': no scale is known for it; export the model again")
            neuron = node if isinstance(node, ir.LIF) else None
            job = _LayerQuantizer(synapse, neuron, network.shape(synapse.name), port, network.timesteps, chip)
            made = job.candidate("given", scales[synapse.name], rounding.get(synapse.name, "nearest"))
            if made is None:
                raise job.refuse()
            nodes += [made.synapse, made.neuron]
            synapse, port = None, _SPIKES
        if isinstance(node, ir.Readout):
            nodes.append(replace(node, inputs=(nodes[-1].name,)))
    return network.with_nodes("quantized", nodes)
