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

``auto`` takes the best of all. Without calibration data it is ``exact``, or ``max``. With ``auto`` and ``max``, what
calibration chose is held against the network without it on the same data, by decisions and then by scores, and must
not lose (see `_Calibration.best`).

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

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from snn2chip import ir
from snn2chip.chip.bounds import BINARY
from snn2chip.chip.profile import DECAY_ONE, UNIT, Chip
from snn2chip.errors import ChipLimitError, InputError
from snn2chip.ir.interpreter import evaluate
from snn2chip.passes.quantize.bntt_layer import StepQuantizer
from snn2chip.passes.quantize.candidate import Candidate, Result, choose_result, measure
from snn2chip.passes.quantize.layer import ACCUMULATOR, LayerQuantizer
from snn2chip.passes.quantize.report import STRATEGIES, LayerReport, QuantizeReport, StepsReport, Strategy
from snn2chip.passes.quantize.rounding import Rounding
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


Job = LayerQuantizer | StepQuantizer


class Walk:
    """Every neuron of a folded network in turn, with what drives it; and the quantized nodes so far."""

    def __init__(
        self, network: ir.Network, chip: Chip, plan: Schedule | None, bits: Mapping[str, int] | None = None
    ) -> None:
        self.network, self.chip, self.plan, self.bits = network, chip, plan, bits or {}
        self.done: dict[str, ir.Node] = {network.input.name: network.input}

    def jobs(self) -> Iterator[tuple[ir.Node, Job]]:
        """`ends`, each with its quantizer."""
        for node in self.ends():
            yield node, self.job(node)

    def ends(self) -> Iterator[ir.Node]:
        """Neurons, and the readout if it accumulates."""
        for node in self.network.nodes:
            if isinstance(node, ir.LIF) or (isinstance(node, ir.Readout) and self.network.readout.kind == "membrane"):
                yield node

    def job(self, node: ir.Node, sample: list[ir.Synapse] | None = None) -> Job:
        """The quantizer of a neuron or the readout; with `sample`, of those weights alone."""
        network, plan = self.network, self.plan
        synapses = network.synapses_of(node) if sample is None else sample
        sources = [network.source_of(item) for item in synapses]
        bounds = [item.port_range() if isinstance(item, ir.Input) else BINARY for item in sources]
        shape = network.shape(synapses[0].name)
        level = plan.level_of(node.name) if plan else None
        if isinstance(node, ir.LIF) and node.steps is not None:
            return StepQuantizer(synapses, bounds, node, node.inputs[0], shape, self.chip, level)
        made = LayerQuantizer(
            synapses,
            bounds,
            node if isinstance(node, ir.LIF) else None,
            node.inputs[0],
            shape,
            network.timesteps,
            self.chip.with_weight_bits(self.bits.get(synapses[0].name)),
            level,
            plan.with_bias if plan else True,
        )
        made.relay_chip = self.chip
        return made

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

    `plan` says which layers share their threshold with relays (see `snn2chip.passes.schedule`); None: none does.

    Raises:
        ChipLimitError: a layer fits the chip at no scale, a decay is too long, or the input is graded and the
            chip takes only binary spikes.
        UnsupportedError: a layer whose weights are all zero.
        InputError: a calibration without samples.
    """
    if calibration is not None and not len(calibration):
        raise InputError("calibration needs at least one sample; give some, or none at all (None)")
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
    data = _Calibration(network, chip, plan, calibration)
    plain: _Outcome | None = None
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
        wanted = int(data.trace.spikes[node.name].sum()) if job.neuron else None
        layers.append(_report(job, result.candidate, result, others, wanted))
    count = len(calibration)
    without = None if plain is None else plain.agree
    report = QuantizeReport(chip.name, chip.weight_bits, strategy, count, tuple(layers), best.agree, without, kept)
    return walk.finish(), report


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


def uncalibrated(job: Job, strategy: Strategy) -> Candidate | None:
    """What is taken without calibration: the largest weight fills the range, rounded to the nearest, and proved."""
    return next((item for item in job.candidates(strategy, False) if item.proved), None)


def as_trained(job: Job) -> Candidate:
    """A layer of a network of integers at scale 1; max pooling, which any scale is exact for, as without calibration.

    Raises:
        ChipLimitError: the chip cannot hold it.
    """
    assert isinstance(job, LayerQuantizer)  # integers have no tables
    if job.neuron is not None and job.neuron.grain is None and (pooled := uncalibrated(job, "auto")) is not None:
        return pooled
    made = job.candidate("trained", 1.0)
    if made is None or any(
        (new.weight != old.weight).any() for new, old in zip(made.synapses, job.synapses, strict=True)
    ):
        largest = max(float(np.abs(item.weight).max()) for item in job.synapses)
        threshold = "" if job.neuron is None else f", threshold {job.neuron.threshold:g}"
        beside = "" if job.level is None else " and these relays"
        raise ChipLimitError(
            f"layer '{job.synapses[0].name}': its integers (weights up to {largest:g}{threshold}) do not fit "
            f"{job.chip.name} with {job.bits}{beside}; export it with the bits and relays that it was trained for"
        )
    return made


@dataclass(frozen=True, eq=False)
class _Outcome:
    """A whole network in integers on the calibration data.

    `agree` counts the samples that it decides as the float network does, `error` is the root mean square of what its
    scores are off.
    """

    results: tuple[Result, ...]
    agree: int
    error: float

    @property
    def rank(self) -> tuple[int, float]:
        """The smaller, the better: what counts at the end."""
        return -self.agree, self.error


class _Calibration:
    """Calibration data, and what the float network makes of it."""

    def __init__(self, network: ir.Network, chip: Chip, plan: Schedule | None, raw: ir.IntArray) -> None:
        self.network, self.chip, self.plan, self.raw = network, chip, plan, raw
        self.trace = evaluate(network, raw)

    def run(self, pick: Callable[[Job, list[Tensor], Tensor], Result]) -> _Outcome:
        """Every layer as picked, on the spikes of the integer layers before it."""
        network, source = self.network, self.network.input
        values = {source.name: torch.from_numpy(source.port(self.raw))}
        kinds = (ir.Conv, ir.Dense)
        readers = Counter(network.source_of(item).name for item in network.nodes if isinstance(item, kinds))
        results: list[Result] = []
        scores = torch.zeros(())
        for node, job in Walk(network, self.chip, self.plan).jobs():
            names = [network.source_of(item).name for item in job.synapses]
            xs = [values[name] for name in names]
            readers.subtract(names)
            for name in names:
                if not readers[name]:  # spikes that nothing reads any more need not be kept
                    values.pop(name, None)
            result = pick(job, xs, self.trace.spikes[node.name] if job.neuron else self.trace.scores)
            if result.scores is not None:
                scores = result.scores
            elif node.name == network.source_of(network.readout).name:
                scores = result.spikes.sum(1).double()
            values[node.name] = result.spikes
            results.append(result.without_spikes())
        found, wanted = scores.flatten(1).numpy(), self.trace.scores.flatten(1).numpy()
        agree = int((found.argmax(1) == wanted.argmax(1)).sum())
        return _Outcome(tuple(results), agree, float(np.sqrt(np.square(found - wanted).mean())))

    def choose(self, strategy: Strategy) -> tuple[_Outcome, _Outcome | None, list[dict[str, float]]]:
        """Each layer's best candidate by its own spikes; the network without calibration, None where no layers of it
        are proved; and by layer the least error of every rule."""
        alternatives: list[dict[str, float]] = []
        plain: list[Candidate | None] = []

        def pick(job: Job, xs: list[Tensor], wanted: Tensor) -> Result:
            results = [measure(item, xs, job.bounds, wanted) for item in job.candidates(strategy, True)]
            if not results:
                raise job.refuse()
            least: dict[str, float] = {}
            for result in results:
                rule = result.candidate.rule
                least[rule] = min(least.get(rule, np.inf), result.error)
            best = choose_result(results, strategy, self.chip.input_max)
            if best.seen > self.chip.input_max:
                raise job.refuse()
            alternatives.append(least)
            plain.append(uncalibrated(job, strategy))
            return best

        calibrated = self.run(pick)
        candidates = [item for item in plain if item is not None]
        whole = len(candidates) == len(plain)
        return calibrated, self._at(candidates) if whole else None, alternatives

    def as_it_is(self) -> tuple[_Outcome, list[dict[str, float]]]:
        """A network of integers, which must not overflow."""
        jobs = [job for _, job in Walk(self.network, self.chip, self.plan).jobs()]
        made = self._at([as_trained(job) for job in jobs])
        for job, result in zip(jobs, made.results, strict=True):
            if not result.fits(self.chip.input_max):
                raise job.refuse()
        return made, [{result.candidate.rule: result.error} for result in made.results]

    def _at(self, candidates: Sequence[Candidate]) -> _Outcome:
        """The network of these candidates."""
        waiting = iter(candidates)
        return self.run(lambda job, xs, wanted: measure(next(waiting), xs, job.bounds, wanted))

    def best(self, calibrated: _Outcome, plain: _Outcome | None) -> tuple[_Outcome, tuple[str, ...]]:
        """The better of the two at the end of the network, and the layers that are not as calibrated.

        What is best for a layer's own spikes need not be for what is made of them. Where a calibrated network decides
        worse than one without calibration, that one is calibrated layer by layer, as long as decisions do not suffer.
        """
        if plain is None or calibrated.rank <= plain.rank:
            return calibrated, ()
        best, kept = plain, []
        for index, result in enumerate(calibrated.results):
            candidates = [item.candidate for item in best.results]
            candidates[index] = result.candidate
            trial = self._at(candidates)
            if trial.rank < best.rank and all(item.fits(self.chip.input_max) for item in trial.results):
                best = trial
            else:
                kept.append(result.candidate.synapses[0].name)
        return best, tuple(kept)


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
