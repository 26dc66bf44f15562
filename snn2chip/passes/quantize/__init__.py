"""From float weights to the chip's integers, one scale a layer.

With threshold mantissa th, a layer's scale is ``s = th / Vth`` and its integers are ``rint(s W)``,
``rint(s b)`` and th itself: multiplying a LIF neuron's input, bias and threshold by one positive number does
not change a spike, so the only loss is the rounding (and, unless (1 - tau) 4096 is whole, that of tau).

Which scale: candidates come from four rules, and on calibration data the layer's spikes are compared with the
float network's, every candidate fed by the integer layers before it; which are best, see `candidate.Result.loss`.

- ``exact``       the largest at which weights, biases and threshold are integers as they are; where there is one
- ``max``         the largest weight fills the range (127 with odd weights, or 254 with even ones)
- ``percentile``  the 99.9th or 99.99th percentile of |W| becomes 254 or 127; weights beyond 254 are
                  clipped, counted in the report
- ``error``       a grid below the largest scale; the one whose spikes are best

``auto`` takes the best of all. Without calibration data it is ``exact``, or ``max``. With ``auto`` and ``max``, what
calibration chose is held against the network without it on the same data, by decisions and then by scores, and must
not lose (see `calibration`).

How to round: ``nearest`` or ``sums`` (see `rounding`); with calibration data each layer takes the better.

A neuron that several synapses drive, where branches meet, has one scale for all of them, and its biases become one,
which the first synapse holds. One that enters a current which decays becomes the membrane's own, as the chip has no
other, and is inexact (see `layer.lifted`). Relays in the same chain layer share its threshold and its kind of weights
(see `snn2chip.chip.relay`): a scale at which they would not be exact is none.

Limits (see `snn2chip.chip`): weights, 13-bit biases, 17-bit thresholds, and no overflow (see `snn2chip.chip.bounds`).
Where a layer's largest possible sums stay within it, the scale is proved. A scale that is not proved is taken only when
it is clearly better on the calibration data and the largest sum and membrane seen there, doubled, still fit; the report
says so.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from snn2chip import ir
from snn2chip.chip.profile import DECAY_ONE, UNIT, Chip
from snn2chip.data import ImageSet
from snn2chip.errors import ChipLimitError, InputError, UnsupportedError
from snn2chip.passes.quantize.bntt_layer import StepQuantizer
from snn2chip.passes.quantize.calibration import Calibration, Outcome
from snn2chip.passes.quantize.candidate import Candidate, Result
from snn2chip.passes.quantize.layer import LayerQuantizer
from snn2chip.passes.quantize.report import STRATEGIES, LayerReport, QuantizeReport, StepsReport, Strategy
from snn2chip.passes.quantize.rounding import Rounding
from snn2chip.passes.quantize.walk import Job, Walk, as_trained, uncalibrated
from snn2chip.passes.schedule import Schedule

__all__ = [
    "STRATEGIES",
    "LayerReport",
    "QuantizeReport",
    "StepsReport",
    "Strategy",
    "least_square_scales",
    "quantize",
    "quantize_at",
    "quantize_near",
]


@torch.no_grad()
def quantize(
    network: ir.Network,
    chip: Chip,
    plan: Schedule | None = None,
    *,
    calibration: ImageSet | ir.IntArray | None = None,
    strategy: Strategy = "auto",
) -> tuple[ir.Network, QuantizeReport]:
    """Quantize a 'folded' network; `calibration` are images, or raw input (N, T, C, H, W), or None.

    `plan` says which layers share their threshold with relays (see `snn2chip.passes.schedule`); None: none does.

    Raises:
        ChipLimitError: a layer fits the chip at no scale, a decay is too long, or the input is graded and the
            chip takes only binary spikes.
        UnsupportedError: a layer whose weights are all zero.
        InputError: a calibration without samples.
    """
    if calibration is not None and not len(calibration):
        raise InputError("calibration needs at least one sample; give some, or none at all (None)")
    require_steps(network, chip)
    require_messages(network.input, chip)
    if calibration is None:
        walk = Walk(network, chip, plan)
        layers = []
        for _, job in walk.jobs():
            made = as_trained(job) if network.integers else uncalibrated(job, strategy)
            if made is None or not made.proved:
                raise job.refuse()
            walk.take(made)
            layers.append(_report(job, made))
        return walk.finish(), QuantizeReport(chip.name, chip.weight_bits, strategy, 0, tuple(layers))
    data = Calibration(network, chip, plan, calibration)
    plain: Outcome | None = None
    kept: tuple[str, ...] = ()
    if network.integers:
        best, alternatives = data.as_it_is()
    else:
        calibrated, plain, alternatives = data.choose(strategy)
        best, kept = data.best(calibrated, plain) if strategy in ("auto", "max") else (calibrated, ())
    walk = Walk(network, chip, plan)
    layers = []
    for (node, job), result, others in zip(walk.jobs(), best.results, alternatives, strict=True):
        walk.take(result.candidate)
        wanted = data.fired[node.name] if job.neuron else None
        layers.append(_report(job, result.candidate, result, others, wanted))
    count = len(calibration)
    without = None if plain is None else plain.agree
    report = QuantizeReport(chip.name, chip.weight_bits, strategy, count, tuple(layers), best.agree, without, kept)
    return walk.finish(), report


def require_steps(network: ir.Network, chip: Chip) -> None:
    """Refuse a network of more time steps than the chip's membranes last.

    Raises:
        UnsupportedError: as said.
    """
    if chip.timesteps is not None and network.timesteps > chip.timesteps:
        raise UnsupportedError(
            f"the network has T = {network.timesteps} time steps, and neurons of {chip.name} remember nothing: T is at "
            f"most {chip.timesteps}; `snn2chip retrain MODEL --timesteps {chip.timesteps} --quantize --weight-bits "
            f"{chip.weight_bits}` leads there"
        )


def require_messages(source: ir.Input, chip: Chip) -> None:
    """Refuse an input whose integers the chip cannot send.

    Raises:
        ChipLimitError: as said.
    """
    port = source.port_range()
    widest = int(max(-port[0].min(), port[1].max()))
    if not (port[0].min() >= 0 and port[1].max() <= 1) and widest.bit_length() + 1 > chip.message_bits:
        raise ChipLimitError(
            f"layer 'input': values {port[0].min()}..{port[1].max()} need graded spikes of "
            f"{widest.bit_length() + 1} bits, {chip.name} has {chip.message_bits}; "
            f"train with coding = 'poisson' (events: with max_count = 1), or choose --chip loihi2"
        )


def _report(
    job: Job,
    made: Candidate,
    result: Result | None = None,
    alternatives: dict[str, float] | None = None,
    wanted: int | None = None,
) -> LayerReport:
    """What is said of a layer; `result` is what it did on calibration data, where the float layer spiked `wanted`
    times."""
    weights = [item.weight for item in made.synapses]
    largest = max(int(np.abs(weight).max(initial=0)) for weight in weights)
    even = not any((weight % 2).any() for weight in weights)
    shares = [int(np.abs(weight).max(initial=0)) / n for weight, n in zip(weights, job.reads, strict=True)]
    step = (
        2
        if max(shares) > job.chip.weight_odd_max or (even and (job.level is not None or made.rule == "trained"))
        else 1
    )
    neurons = int(np.prod(job.shape))
    fan_in = sum(int(weight[0].size) for weight in weights)
    bias = made.synapses[0].bias
    tables = made.neuron.steps
    return LayerReport(
        name=job.synapses[0].name,
        neuron=job.name,
        fan_in=fan_in,
        neurons=neurons,
        synapses=fan_in * neurons,
        rule=made.rule,
        rounding=made.rounding,
        scale=float(np.median(made.scale)),
        threshold=made.neuron.threshold if tables is None else int(np.median(tables.threshold)) // UNIT,
        weight_max=largest,
        weight_bits=float(np.log2(largest / step + 1) + 1),
        bias_max=0 if bias is None else int(np.abs(bias).max(initial=0)),
        clipped=made.clipped,
        error=None if result is None else result.error,
        alternatives=alternatives or {},
        relays=0 if job.level is None else sum(item.shape[0] for item in job.level.relays),
        relay_limit=None if job.level is None else job.level.limit,
        proved=made.proved,
        bound=made.bound,
        seen=None if result is None else result.seen,
        limit=job.chip.input_max,
        tau=1.0 if job.neuron is None else job.neuron.tau,
        tau_chip=1 - job.decay / DECAY_ONE if isinstance(job, LayerQuantizer) else job.neuron.tau,
        current_tau=0.0 if job.neuron is None else job.neuron.current_tau,
        current_tau_chip=1 - made.neuron.current_decay / DECAY_ONE,
        steps=job.steps_report(made) if isinstance(job, StepQuantizer) else None,
        spikes=None if result is None or wanted is None else result.fired,
        spikes_wanted=wanted,
    )


def quantize_at(
    network: ir.Network,
    chip: Chip,
    plan: Schedule | None,
    scales: Mapping[str, float | ir.FloatArray],
    rounding: Mapping[str, Rounding],
    *,
    bias_max: int | None = None,
    bits: Mapping[str, int] | None = None,
) -> ir.Network:
    """The integers of a 'folded' network at given scales and roundings, by conv or dense layer: what a file made with
    them must hold.

    Layers of time-varying neurons have one scale a channel. A layer that `rounding` does not name is rounded to the
    nearest. `bias_max` lets biases exceed the chip's, for a comparison that is to name them; `bits` holds the weights
    of single layers to fewer than the chip's.

    Raises:
        InputError: a layer has no scale, or its integers exceed the chip.
    """
    walk = Walk(network, chip, plan, bits)
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


def quantize_near(
    network: ir.Network, chip: Chip, plan: Schedule | None, scales: Mapping[str, float], bits: Mapping[str, int]
) -> tuple[ir.Network, dict[str, float]]:
    """What training computes with: the integers of a 'folded' network, rounded to the nearest at the largest scale up
    to the given one that fits the chip and is proved not to overflow; and those scales.

    `scales` (infinite: as large as fits) and `bits` of a weight are by the first conv or dense layer of each neuron;
    max pooling, which has none, is as `quantize` has it.

    Raises:
        ChipLimitError: a layer fits at no scale.
        UnsupportedError: a layer whose weights are all zero.
    """
    walk = Walk(network, chip, plan, bits)
    found: dict[str, float] = {}
    for _, job in walk.jobs():
        assert isinstance(job, LayerQuantizer)  # training refuses the others
        name = job.synapses[0].name
        if name in scales:
            made = job.fitting(scales[name] if np.isfinite(scales[name]) else job.full)
        else:
            made = uncalibrated(job, "auto")
        if made is None:
            raise job.refuse()
        assert isinstance(made.scale, float)
        found[name] = made.scale
        walk.take(made)
    return walk.finish(), found


def least_square_scales(
    network: ir.Network, chip: Chip, plan: Schedule | None, bits: Mapping[str, int]
) -> dict[str, float]:
    """By the first conv or dense layer of each neuron, the scale at which rounding changes its weights least, in
    squares: with few bits far above the one at which none is clipped."""
    found: dict[str, float] = {}
    for _, job in (walk := Walk(network, chip, plan, bits)).jobs():
        assert isinstance(job, LayerQuantizer)
        tried = [job.fitting(job.full * 2 ** (octave / 8)) for octave in range(33)]
        made = [item for item in tried if item is not None]
        if not made:
            raise job.refuse()
        best = min(made, key=lambda item: _square_error(job, item))
        assert isinstance(best.scale, float)
        found[job.synapses[0].name] = best.scale
        walk.take(best)
    return found


def _square_error(job: LayerQuantizer, made: Candidate) -> float:
    pairs = zip(made.synapses, job.synapses, strict=True)
    return float(sum(np.square(new.weight / made.scale - old.weight).sum() for new, old in pairs))
