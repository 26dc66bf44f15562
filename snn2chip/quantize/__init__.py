"""From float weights to the chip's integers, one scale a layer.

With threshold mantissa th, a layer's scale is ``s = th / Vth`` and its integers are ``rint(s W)``,
``rint(s b)`` and th itself: multiplying a LIF neuron's input, bias and threshold by one positive number does
not change a spike, so the only loss is the rounding (and, unless (1 - tau) 4096 is whole, that of tau).

Which scale: candidates come from four rules, and on calibration data the layer's spikes are compared with the
float network's, every candidate fed by the integer layers before it.

- ``exact``       the largest at which weights, biases and threshold are integers as they are; where there is one
- ``max``         the largest weight fills the range (127 with odd weights, or 254 with even ones)
- ``percentile``  the 99.9th or 99.99th percentile of |W| becomes 254 or 127; weights beyond 254 are
                  clipped, counted in the report
- ``error``       a grid below the largest scale; the one with the fewest differing spikes

``auto`` takes the best of all. Without calibration data it is ``exact``, or ``max``.

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
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from snn2chip import ir
from snn2chip.chip import Chip
from snn2chip.errors import ChipLimitError, InputError
from snn2chip.quantize.candidate import Candidate, choose_result, measure
from snn2chip.quantize.report import STRATEGIES, LayerReport, QuantizeReport, StepsReport, Strategy
from snn2chip.quantize.single import ACCUMULATOR, LayerQuantizer
from snn2chip.quantize.varying import StepQuantizer
from snn2chip.rounding import Rounding
from snn2chip.schedule import Schedule
from snn2chip.simulate.dense import BINARY
from snn2chip.simulate.floating import evaluate

__all__ = ["STRATEGIES", "LayerReport", "QuantizeReport", "StepsReport", "Strategy", "quantize", "quantize_at"]


_Job = LayerQuantizer | StepQuantizer


class _Walk:
    """Every neuron of a folded network in turn, with what drives it; and the quantized nodes so far."""

    def __init__(self, network: ir.Network, chip: Chip, plan: Schedule | None) -> None:
        self.network, self.chip, self.plan = network, chip, plan
        self.done: dict[str, ir.Node] = {network.input.name: network.input}

    def jobs(self) -> Iterator[tuple[ir.Node, _Job]]:
        """Neurons, and the readout if it accumulates; each with its quantizer."""
        network = self.network
        for node in network.nodes:
            if isinstance(node, ir.LIF) or (isinstance(node, ir.Readout) and network.readout.kind == "membrane"):
                yield node, self._job(node)

    def _job(self, node: ir.LIF | ir.Readout) -> _Job:
        network, plan = self.network, self.plan
        synapses = network.synapses_of(node)
        sources = [network.source_of(item) for item in synapses]
        bounds = [item.port_range() if isinstance(item, ir.Input) else BINARY for item in sources]
        shape = network.shape(synapses[0].name)
        level = plan.level_of(node.name) if plan else None
        if isinstance(node, ir.LIF) and node.steps is not None:
            return StepQuantizer(synapses, bounds, node, node.inputs[0], shape, self.chip, level)
        return LayerQuantizer(
            synapses,
            bounds,
            node if isinstance(node, ir.LIF) else None,
            node.inputs[0],
            shape,
            network.timesteps,
            self.chip,
            level,
            plan.with_bias if plan else True,
        )

    def take(self, made: Candidate) -> None:
        """Keep a layer's integers."""
        self.done.update({item.name: item for item in made.synapses})
        self.done[made.neuron.name] = made.neuron

    def finish(self) -> ir.Network:
        """The quantized network, its nodes in the order of the folded one."""
        nodes: list[ir.Node] = []
        for node in self.network.nodes:
            if isinstance(node, ir.Readout):
                accumulator = self.done.get(ACCUMULATOR)
                nodes += [accumulator] if accumulator else []
                nodes.append(replace(node, inputs=(ACCUMULATOR,)) if accumulator else node)
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
            f"train with coding = 'poisson' (events: with max_count = 1), or choose --chip loihi2"
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
    job: _Job, strategy: Strategy, xs: list[Tensor] | None, wanted: Tensor | None
) -> tuple[Candidate, LayerReport, Tensor | None]:
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
        results = [measure(item, xs, job.bounds, wanted) for item in candidates]
        if not results:
            raise job.refuse()
        for result in results:
            rule = result.candidate.rule
            alternatives[rule] = min(alternatives.get(rule, np.inf), result.error)
        best = choose_result(results, strategy, limit)
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
    steps = job.steps_report(made) if isinstance(job, StepQuantizer) else None
    tables = made.neuron.steps
    report = LayerReport(
        name=job.synapses[0].name,
        neuron=job.name,
        fan_in=fan_in,
        neurons=neurons,
        synapses=fan_in * neurons,
        rule=made.rule,
        rounding=made.rounding,
        scale=float(np.median(made.scale)),
        threshold=made.neuron.threshold if tables is None else int(np.median(tables.threshold)) // 64,
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
        tau_chip=1 - job.decay / 4096 if isinstance(job, LayerQuantizer) else job.neuron.tau,
        steps=steps,
    )
    return made, report, spikes


def quantize_at(
    network: ir.Network,
    chip: Chip,
    scales: Mapping[str, float | ir.FloatArray],
    rounding: dict[str, Rounding],
    plan: Schedule | None = None,
    *,
    bias_max: int | None = None,
) -> ir.Network:
    """The integers of a 'folded' network at given scales and roundings, by conv or dense layer: what a file made with
    them must hold.

    Layers of time-varying neurons have one scale a channel. A layer that `rounding` does not name is rounded to the
    nearest. `bias_max` lets biases exceed the chip's, for a comparison that is to name them.

    Raises:
        InputError: a layer has no scale, or its integers exceed the chip.
    """
    walk = _Walk(network, chip, plan)
    for _, job in walk.jobs():
        name = job.synapses[0].name
        if name not in scales:
            raise InputError(f"layer '{name}': no scale is known for it; export the model again")
        job.bias_max = job.bias_max if bias_max is None else bias_max
        kind, scale = rounding.get(name, "nearest"), np.asarray(scales[name], dtype=np.float64)
        wanted = (job.shape[0],) if isinstance(job, StepQuantizer) else ()
        if scale.shape != wanted:
            raise InputError(
                f"layer '{name}': scales of shape {scale.shape}, {wanted} expected; export the model again"
            )
        if isinstance(job, StepQuantizer):
            made = job.candidate("given", scale, kind)
        else:
            made = job.candidate("given", float(scale), kind)
        if made is None:
            raise job.refuse()
        walk.take(made)
    return walk.finish()
