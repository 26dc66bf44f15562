"""Integers of a time-varying neuron (see `snn2chip.passes.fold_bntt`): one scale a channel, tables at full precision.

Thresholds and biases are tables a channel anyway, so every channel has its own scale s, and its largest weight fills
the range by itself: with v in units of 1/64 of a weight's, as on the chip,

    weight = rint(s W)     bias[t] = rint(64 s (b - mean[t]))     threshold[t] = rint(64 s Vth / g[t])

A bias that differs from neuron to neuron (padding of a centred image) keeps its differences from the channel's middle
pixel in the netx bias, whose unit is a weight's. leak[t] = tau g[t-1] / g[t] may exceed 1: it is 16 bits unsigned with
as many of them behind the point as the layer's largest factor leaves, 16 at the most, and its product is rounded
toward zero, as every decay of the chip.

Weights are rounded to the nearest, or so that sums of kernels are kept (`rounding`); candidates fill the range
with the largest weight of each channel, with a percentile of them (what exceeds it is clipped and counted) or leave
room. The largest state that a channel can reach is proved from its weights and tables, or seen on calibration data.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from snn2chip import ir
from snn2chip.chip.bounds import Bounds, joint_bounds, varying_peaks
from snn2chip.chip.profile import UNIT, Chip
from snn2chip.errors import ChipLimitError
from snn2chip.passes.quantize.candidate import Candidate, Sums, require_weights
from snn2chip.passes.quantize.report import StepsReport, Strategy
from snn2chip.passes.quantize.rounding import ROUNDINGS, Rounding, rounded
from snn2chip.passes.schedule import Level

LEAK_MAX = 2**16 - 1
LEAK_SHIFT_MAX = 16
_PERCENTILES = (99.9, 99.0)
_GRID = (0.9, 0.75)


def leak_shift(largest: float) -> int | None:
    """Bits behind the point of leak factors up to `largest`, or None if 16 bits cannot hold it."""
    for shift in range(LEAK_SHIFT_MAX, -1, -1):
        if np.rint(largest * 2.0**shift) <= LEAK_MAX:
            return shift
    return None


def _column(values: ir.FloatArray, axes: int) -> ir.FloatArray:
    """Values (C,) shaped to broadcast over an array of `axes` axes whose first is C."""
    return values.reshape(-1, *(1,) * (axes - 1))


class StepQuantizer:
    """Everything about one layer of time-varying neurons that its candidates share."""

    def __init__(
        self,
        synapses: list[ir.Synapse],
        bounds: list[Bounds],
        neuron: ir.LIF,
        driver: str,
        shape: ir.Shape,
        chip: Chip,
        level: Level | None,
    ) -> None:
        assert neuron.steps is not None  # the other kind has a quantizer of its own
        self.synapses, self.bounds, self.neuron, self.driver = synapses, bounds, neuron, driver
        self.sums: Sums = lambda integers, _: joint_bounds(integers, bounds)
        self.shape, self.chip, self.constants = shape, chip, neuron.steps
        self.level = level if level is not None and level.relays else None
        self.reads = (1,) * len(synapses) if level is None else level.reads
        self.bias_max = chip.bias_max
        if not chip.programmable_neurons:
            raise ChipLimitError(
                f"layer '{self.name}': BNTT of {len(self.constants.leak)} steps needs neurons whose constants "
                f"change with time, which {chip.name} has not; choose --chip loihi2, or `snn2chip collapse` it"
            )
        found = leak_shift(float(self.constants.leak.max()))
        if found is None:
            step, channel = np.argwhere(self.constants.leak == self.constants.leak.max())[0]
            raise ChipLimitError(
                f"layer '{self.name}': leak factor {self.constants.leak.max():.4g} of channel {channel} at step "
                f"{step + 1} exceeds {LEAK_MAX}: gamma falls too fast there; retrain for {step} steps"
            )
        self.leak_shift = found
        total = ir.total_bias(synapses)
        total = np.zeros(shape[0]) if total is None else total
        # of a bias per neuron the middle pixel, which no padding reaches, is the channel's
        self.base = total if total.ndim == 1 else total[:, total.shape[1] // 2, total.shape[2] // 2]
        self.rest = total - _column(self.base, total.ndim)
        self.size = np.max(
            [
                np.abs(item.weight).reshape(len(item.weight), -1).max(1) / n
                for item, n in zip(synapses, self.reads, strict=True)
            ],
            axis=0,
        )
        require_weights(synapses)

    @property
    def name(self) -> str:
        return self.neuron.name

    def _limit(self) -> ir.FloatArray:
        """The largest scale of each channel that bias registers hold."""
        lift = np.abs(self.base + self.constants.bias).max(0)
        rest = np.abs(self.rest).reshape(len(self.rest), -1).max(1)
        with np.errstate(divide="ignore"):
            limit: ir.FloatArray = np.minimum(self.chip.state_max / UNIT / lift, self.bias_max / rest)
        return limit

    def _tables(self, scale: ir.FloatArray) -> ir.StepTables:
        constants, most = self.constants, self.chip.state_max
        threshold = np.minimum(np.rint(UNIT * scale * constants.threshold), most)
        return ir.StepTables(
            np.rint(constants.leak * 2.0**self.leak_shift).astype(np.int64),
            self.leak_shift,
            np.rint(UNIT * scale * (self.base + constants.bias)).astype(np.int64),
            threshold.astype(np.int64) - int(self.neuron.ties),
            scale,
        )

    def candidate(self, rule: str, scale: ir.FloatArray, rounding: Rounding = "nearest") -> Candidate | None:
        """The layer at these scales (C,), or None if it breaks a limit that no data can excuse."""
        chip = self.chip
        weights, clipped = [], 0
        for item, n in zip(self.synapses, self.reads, strict=True):
            whole, largest = rounded(item.weight.astype(np.float64, copy=False), scale, rounding)
            if largest > (most := n * chip.weight_odd_max):
                clipped += int((np.abs(whole) > most).sum())
                whole = np.clip(whole, -most, most)
            weights.append(whole)
        if not any(weight.any() for weight in weights):
            return None
        tables = self._tables(scale)
        rest = np.rint(self.rest * _column(scale, self.rest.ndim)).astype(np.int64)
        if np.abs(rest).max(initial=0) > self.bias_max or np.abs(tables.bias).max() > chip.state_max:
            return None
        synapses = tuple(
            replace(item, weight=weight, bias=rest if number == 0 and rest.any() else None)
            for number, (item, weight) in enumerate(zip(self.synapses, weights, strict=True))
        )
        neuron = ir.CubaNeuron(self.name, (self.driver,), 0, 0, steps=tables)
        sums = self.sums(synapses, scale)
        proved = bool((self._peaks(sums, synapses[0].bias, tables) <= chip.state_max).all())
        bound = int(max(-sums[0].min(), sums[1].max()))
        return Candidate(rule, rounding, synapses, neuron, scale, clipped, proved and bound <= chip.input_max, bound)

    def _peaks(
        self, sums: tuple[ir.IntArray, ir.IntArray], rest: ir.Array | None, tables: ir.StepTables
    ) -> ir.IntArray:
        flat = np.zeros((len(tables.scale), 1), dtype=np.int64) if rest is None else rest.reshape(len(rest), -1)
        bias = flat.astype(np.int64)
        return varying_peaks(*sums, bias.min(1), bias.max(1), tables)

    def _provable(self, made: Candidate) -> ir.FloatArray:
        """Scales, channel by channel, at which sums and membranes are within the chip's state."""
        assert made.neuron.steps is not None and isinstance(made.scale, np.ndarray)
        least, most = self.sums(made.synapses, made.scale)
        peaks = self._peaks((least, most), made.synapses[0].bias, made.neuron.steps)
        peaks = np.maximum(peaks, UNIT * np.maximum(-least, most))
        room = self.chip.state_max / np.maximum(1, peaks)
        scale: ir.FloatArray = np.where(room < 1, made.scale * room * 0.99, made.scale)
        return scale

    def candidates(self, strategy: Strategy, calibrated: bool) -> Iterator[Candidate]:
        """Everything worth trying; each that is not proved is followed by the nearest that may be."""
        full = np.where(self.size > 0, self.chip.weight_odd_max / np.where(self.size > 0, self.size, 1), np.inf)
        full = np.where(np.isfinite(full), full, full[np.isfinite(full)].min())  # a channel without weights
        plan = [("max", full)]
        if calibrated and strategy in ("auto", "percentile"):
            for share in _PERCENTILES:
                tops = [
                    np.percentile(np.abs(item.weight).reshape(len(full), -1), share, axis=1) / n
                    for item, n in zip(self.synapses, self.reads, strict=True)
                ]
                top = np.maximum(np.max(tops, axis=0), self.size / 4)
                plan.append(
                    ("percentile", np.where(top > 0, self.chip.weight_odd_max / np.where(top > 0, top, 1), full))
                )
        if calibrated and strategy in ("auto", "error"):
            shares = _GRID if strategy == "auto" else (1.0, *_GRID)  # all of the range is the rule 'max'
            plan += [("error", full * share) for share in shares]
        limit = self._limit()
        for rule, wanted in plan:
            scale = np.minimum(wanted, limit)
            for rounding in ROUNDINGS if calibrated else ROUNDINGS[:1]:
                made = self.candidate(rule, scale, rounding)
                if made is None or (rule == "percentile" and not made.clipped):
                    continue
                yield made
                for _ in range(3):
                    if made is None or made.proved:
                        break
                    made = self.candidate(rule, self._provable(made), rounding)
                    if made is not None and made.proved:
                        yield made

    def steps_report(self, made: Candidate) -> StepsReport:
        """The tables in figures."""
        tables = made.neuron.steps
        assert tables is not None
        reached = tables.threshold[tables.threshold < self.chip.state_max]
        return StepsReport(
            timesteps=tables.timesteps,
            channels=len(tables.scale),
            leak_shift=tables.leak_shift,
            leak_max=float(tables.leak.max() / 2**tables.leak_shift),
            leak_error=float(np.abs(tables.leak / 2**tables.leak_shift - self.constants.leak).max()),
            threshold_min=float(reached.min(initial=self.chip.state_max) / UNIT),
            threshold_max=float(reached.max(initial=0) / UNIT),
            silent=int((tables.threshold >= self.chip.state_max).sum()),
            scale_min=float(tables.scale.min()),
            scale_max=float(tables.scale.max()),
        )

    def refuse(self) -> ChipLimitError:
        """Why no candidate is left."""
        return ChipLimitError(
            f"layer '{self.synapses[0].name}': no scales fit {self.chip.name}: largest weight {self.size.max():.3g}, "
            f"largest bias {np.abs(self.base + self.constants.bias).max():.3g}, leak up to "
            f"{self.constants.leak.max():.3g}, {self.chip.weight_bits}-bit weights, {self.chip.state_bits}-bit "
            f"membranes; train with a smaller weight (weight decay), or give calibration images"
        )
