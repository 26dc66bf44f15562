"""One scale for a whole layer, as the chip's stock neuron needs: the candidates of `snn2chip.passes.quantize`."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from snn2chip import ir
from snn2chip.chip.bounds import BINARY, Bounds, joint_bounds, proof
from snn2chip.chip.profile import DECAY_ONE, Chip
from snn2chip.chip.relay import choose
from snn2chip.errors import ChipLimitError
from snn2chip.passes.quantize.candidate import Candidate, Sums, require_weights
from snn2chip.passes.quantize.report import Strategy
from snn2chip.passes.quantize.rounding import ROUNDINGS, Rounding, largest_of, round_weights
from snn2chip.passes.schedule import Level

ACCUMULATOR = "accumulator"  # the neurons of a membrane readout
_PERCENTILES = (99.9, 99.99)
_STEP_DOWN = 0.97  # from scale to scale that does not fit
_A_LITTLE = 0.995  # where it nearly does
_GRID = (0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5)
_FEW = 2**15  # weights that are all rounded for every scale tried
_JUDGED = 2**17  # weights of the outputs that candidates are judged by, and at least so many of those:
_OUTPUTS = 24
_OUTERMOST = 4


def _unit(values: ir.FloatArray) -> int | None:
    """The exponent of the largest power of two that divides all values; None where they are more than 31 bits apart."""
    values = values[values != 0]
    if not len(values):
        return 0
    mantissas, exponents = np.frexp(values)
    digits = (mantissas * 2.0**53).astype(np.int64)
    unit = int((np.frexp((digits & -digits).astype(np.float64))[1] - 54 + exponents).min())
    return None if int(exponents.max()) - unit > 31 else unit


def lifted(current_tau: float, steps: int) -> float:
    """What stands in a bias register for a bias of 1 that enters a current which keeps `current_tau` of itself.

    The current that the bias alone makes is ``(1 - current_tau^(t + 1)) / (1 - current_tau)`` at step t; the chip adds
    a bias to the membrane, the same at every step: this is the mean over the steps, the number nearest in squares.
    """
    return float(np.mean([ir.gathered(current_tau, step) for step in range(1, steps + 1)]))


class LayerQuantizer:
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
        repeats: bool = False,
    ) -> None:
        self.synapses, self.bounds, self.neuron, self.driver = synapses, bounds, neuron, driver
        self.sums: Sums = lambda integers, _: joint_bounds(integers, bounds)
        self.shape, self.steps, self.chip = shape, steps, chip
        self.relay_chip = chip  # of the relays, where the neurons' weights are held to fewer bits
        self.level = level if level is not None and level.relays else None
        self.reads = (1,) * len(synapses) if level is None else level.reads
        self.with_bias, self.repeats = with_bias, repeats
        self.proved = (0.0, 0.0)  # the largest scale proved, of those up to the second
        self.current = DECAY_ONE if neuron is None else int(np.rint((1 - neuron.current_tau) * DECAY_ONE))
        self.bias = ir.total_bias(synapses)
        if self.bias is not None and neuron is not None and neuron.current_tau:
            self.bias = self.bias * lifted(neuron.current_tau, steps)
        self.bias_max = chip.bias_max
        self.decay = 0 if neuron is None else int(np.rint((1 - neuron.tau) * DECAY_ONE))
        if self.decay > chip.decay_max:
            raise ChipLimitError(
                f"layer '{self.name}': voltage decay {self.decay} (tau {neuron.tau if neuron else 1}) exceeds "
                f"{chip.decay_max} ({chip.name}); use tau of at least 1/4096"
            )
        if self.current < 1:
            raise ChipLimitError(
                f"layer '{self.name}': a current that keeps {neuron.current_tau if neuron else 1:.6g} of itself never "
                f"decays on the chip; use a current_tau of at most 4095/4096"
            )
        require_weights(synapses)

    @property
    def name(self) -> str:
        return self.neuron.name if self.neuron else ACCUMULATOR

    @functools.cached_property
    def size(self) -> ir.FloatArray:
        """How much of the range each weight takes: one shared out among copies counts by its share."""
        sizes = [np.abs(item.weight).ravel() for item in self.synapses]
        shares = [size if n == 1 else size / n for size, n in zip(sizes, self.reads, strict=True)]
        return shares[0] if len(shares) == 1 else np.concatenate(shares)

    @functools.cached_property
    def tops(self) -> list[float]:
        """The largest |weight| of each synapse."""
        return [largest_of(item.weight) for item in self.synapses]

    def part(self, outputs: ir.IntArray) -> LayerQuantizer:
        """The same layer of some of its outputs."""
        made = copy.copy(self)
        made.synapses = [
            replace(item, weight=item.weight[outputs], bias=None if item.bias is None else item.bias[outputs])
            for item in self.synapses
        ]
        made.bias = None if self.bias is None else self.bias[outputs]
        for known in ("size", "tops"):
            made.__dict__.pop(known, None)  # of all outputs
        made.proved = (0.0, 0.0)
        return made

    def outermost(self) -> ir.IntArray:
        """The outputs that limit the scale: of the largest sums, weights and biases."""
        least, most = self.sums(self.synapses, 1.0)
        rows = [item.weight.reshape(len(item.weight), -1) for item in self.synapses]
        largest = [np.maximum(row.max(1), -row.min(1)) for row in rows]
        shift = np.zeros((len(most), 1)) if self.bias is None else self.bias.reshape(len(most), -1)
        keys = [-least, most, *largest, shift.max(1), -shift.min(1), most + shift.max(1), -least - shift.min(1)]
        return np.unique([np.argsort(-key, kind="stable")[:_OUTERMOST] for key in keys])

    def sample(self, seed: int) -> tuple[ir.IntArray, int]:
        """Outputs that candidates are judged by, so many of them first, and behind them those that limit the scale;
        all where they are few."""
        count = len(self.synapses[0].weight)
        some = max(_OUTPUTS, _JUDGED * count // self.size.size)
        odd = any(item.groups > 1 and ends is not BINARY for item, ends in zip(self.synapses, self.bounds, strict=True))
        outer = np.arange(count) if odd or some >= count else self.outermost()
        if some + len(outer) >= count:
            return np.arange(count), count
        drawn = np.random.default_rng(seed).choice(count, some, replace=False)
        return np.concatenate([drawn, np.setdiff1d(outer, drawn)]), some

    def whole(self, rule: str, scale: float, rounding: Rounding, proved: bool) -> Candidate | None:
        """What a part of the outputs had at this scale, of all of them: where it was proved of those alone, at the
        nearest scale below that is proved of all."""
        for _ in range(8):
            found = self.candidate(rule, scale, rounding)
            if found is not None and (found.proved or not proved):
                return found
            scale *= _A_LITTLE if found is None else min(_A_LITTLE, self.chip.input_max / found.bound)
        return None

    def candidate(self, rule: str, scale: float, rounding: Rounding = "nearest") -> Candidate | None:
        """The layer at about this scale, or None if it breaks a limit that no data can excuse."""
        chip = self.chip
        if self.neuron is None:
            threshold = chip.threshold_max  # never reached: the readout only accumulates
        else:
            ties = int(self.neuron.ties)  # of integers, v >= th is v > th - 1
            threshold = int(np.rint(scale * self.neuron.threshold))
            if not 1 + ties <= threshold <= chip.threshold_max:
                return None
            if self._largest_bias() * threshold / self.neuron.threshold > self.bias_max + 0.49:
                threshold -= 1  # rounding up the threshold took the bias past its limit
            scale = threshold / self.neuron.threshold
            threshold -= ties
        floats = [item.weight.astype(np.float64, copy=False) for item in self.synapses]
        made = functools.partial(round_weights, floats, scale, chip, rounding, reads=self.reads, tops=self.tops)
        weights, largest, clipped = made()
        even = any(top > n * chip.weight_odd_max for top, n in zip(largest, self.reads, strict=True))
        if not self._relays_fit(threshold, even):
            if even or not self._relays_fit(threshold, True):
                return None
            weights, largest, clipped = made(even=True)
        if not any(largest):
            return None
        bias = None if self.bias is None else np.rint(self.bias * scale).astype(np.int64)
        if bias is not None and np.abs(bias).max(initial=0) > self.bias_max:
            return None
        for weight in weights:
            weight.setflags(write=False)  # or the node takes a copy
        synapses = tuple(
            replace(item, weight=weight, bias=bias if number == 0 else None)
            for number, (item, weight) in enumerate(zip(self.synapses, weights, strict=True))
        )
        neuron = ir.CubaNeuron(self.name, (self.driver,), threshold, self.decay, self.current)
        least, most = self.sums(synapses, scale)
        shifts = np.zeros(1, dtype=np.int64) if bias is None else bias
        proved, bound = proof(
            int(least.min()), int(most.max()), shifts, neuron, self.steps, chip.input_max, repeats=self.repeats
        )
        return Candidate(rule, rounding, synapses, neuron, scale, clipped, proved, bound)

    def _relays_fit(self, threshold: int, even: bool) -> bool:
        """Whether the relays of the same chain layer are exact at this threshold and kind of weights."""
        if self.level is None:
            return True
        made = choose(threshold, self.decay, self.level.copies, self.relay_chip, even=even, with_bias=self.with_bias)
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

    @property
    def full(self) -> float:
        """The scale at which the largest weight fills the range."""
        return self.chip.weight_max / float(self.size.max())

    def fitting(self, scale: float) -> Candidate | None:
        """The largest candidate at or below `scale`, rounded to the nearest, that fits the registers and is proved not
        to overflow; None where all of the weights round to 0 before."""
        scale = min(scale, self.scale_limit())
        while scale * float(self.size.max()) > 0.25:
            made = self.candidate("trained", scale)
            if made is not None and made.proved:
                return made
            room = 1.0 if made is None else self.chip.input_max / max(1, made.bound)
            scale *= min(_STEP_DOWN, room)
        return None

    def _proved_scale(self, scale: float) -> float:
        """The largest scale up to `scale` whose sums are proved, found by bisection.

        Bounds grow with the scale, so what was found once holds for every other call.
        """
        found, searched = self.proved
        if scale > searched and found >= searched * (1 - 1e-6):  # no limit met so far
            few = self if self.size.size <= _FEW else self.part(self.outermost())
            low, high = found, scale
            for _ in range(24):
                middle = (low + high) / 2
                made = few.candidate("max", middle)
                low, high = (middle, high) if made is None or made.proved else (low, middle)
            made = None if few is self else self.whole("max", low, "nearest", True)
            if made is not None:
                assert isinstance(made.scale, float)
                low = made.scale
            self.proved = found, _ = low, scale
        return min(scale, found)

    def exact_scale(self) -> float | None:
        """The largest scale at which weights, biases and threshold are integers as they are; None where none is."""
        few = self.synapses[0].weight.ravel()[:_FEW]
        if _unit(few.astype(np.float64)) is None:  # as of most: no need to look at all
            return None
        weights = np.concatenate([item.weight.ravel() for item in self.synapses]).astype(np.float64)
        others = [] if self.bias is None else [self.bias.ravel()]
        others += [] if self.neuron is None else [np.array([self.neuron.threshold])]
        values = np.concatenate([weights, *others])
        unit = _unit(values)
        if unit is None:
            return None
        step = float(np.ldexp(np.gcd.reduce(np.ldexp(values, -unit).astype(np.int64)), unit))
        sizes = np.abs(weights / step).astype(np.int64)
        largest, all_even = int(sizes.max()), not (sizes % 2).any()
        for times in range(int(min(self.chip.weight_max // largest, self.scale_limit() * step)), 0, -1):
            if all_even or times % 2 == 0 or times * largest <= self.chip.weight_odd_max:
                return times / step
        return None

    def plan(self, strategy: Strategy, calibrated: bool) -> list[tuple[str, float]]:
        """Rules and scales worth trying, most precise first."""
        chip, limit = self.chip, self.scale_limit()
        fulls = [chip.weight_max / float(self.size.max()), chip.weight_odd_max / float(self.size.max())]
        plan = [("max", min(scale, limit)) for scale in fulls]
        if strategy == "auto" and set(self.reads) == {1} and (exact_scale := self.exact_scale()):
            plan.insert(0, ("exact", min(exact_scale, limit)))
        if calibrated and strategy in ("auto", "percentile"):
            tops = np.percentile(self.size[self.size > 0], _PERCENTILES, overwrite_input=True)  # a copy already
            plan += [
                ("percentile", min(full / top, limit))
                for top in tops
                for full in (chip.weight_max, chip.weight_odd_max)
            ]
        if calibrated and strategy in ("auto", "error"):
            plan += [("error", min(full, limit) * share) for full in fulls for share in (1.0, *_GRID)]
        return plan

    def candidates(
        self, strategy: Strategy, calibrated: bool, plan: list[tuple[str, float]] | None = None
    ) -> Iterator[Candidate]:
        """Everything of a plan, of this layer's own if none is given, that fits; a scale that is not proved is followed
        by the nearest that is."""
        tried: set[tuple[str, float]] = set()
        found: dict[tuple[float, Rounding], Candidate | None] = {}
        for rule, scale in self.plan(strategy, calibrated) if plan is None else plan:
            for value in (scale,) if rule == "exact" else (scale, None):
                exact = self._proved_scale(scale) if value is None else value
                if (rule, round(exact, 9)) in tried or exact <= 0:
                    continue
                tried.add((rule, round(exact, 9)))
                roundings = ROUNDINGS if calibrated else ROUNDINGS[:1]
                made = []
                for kind in roundings:
                    key = exact if self.neuron is None else np.rint(exact * self.neuron.threshold), kind
                    if key not in found:
                        found[key] = self.candidate(rule, exact, kind)
                    if (item := found[key]) is not None:
                        made.append(replace(item, rule=rule))
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
