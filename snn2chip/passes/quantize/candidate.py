"""One layer in integers, as tried; what came of it on calibration data; and which one is taken."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from snn2chip import ir
from snn2chip.chip.bounds import Bounds
from snn2chip.chip.products import integrate, largest_current
from snn2chip.chip.profile import DECAY_ONE, STATE_MAX, UNIT
from snn2chip.errors import UnsupportedError
from snn2chip.nn import kernels
from snn2chip.passes.quantize.report import Strategy
from snn2chip.passes.quantize.rounding import Rounding

_SEEN_MARGIN = 2.0  # the largest sum and membrane seen, times this, must fit where it is not proved
_PROOF_WORTH = 1.05  # a proved scale wins against errors up to this factor better

# smallest and largest sums of one step, by output, of a layer's integers that were rounded at the scale
Sums = Callable[[Sequence[ir.Synapse], float | ir.FloatArray], Bounds]


def require_weights(synapses: Sequence[ir.Synapse]) -> None:
    """Refuse a layer of neurons that nothing drives.

    Raises:
        UnsupportedError: every weight is 0.
    """
    if not any(item.weight.any() for item in synapses):
        raise UnsupportedError(
            f"layer '{synapses[0].name}': every weight is 0, so nothing that comes in counts, and netx loads no dense "
            f"layer of zeros; train it, or leave it out"
        )


@dataclass(frozen=True, eq=False)
class Candidate:
    rule: str
    rounding: Rounding
    synapses: tuple[ir.Synapse, ...]
    neuron: ir.CubaNeuron
    scale: float | ir.FloatArray  # of the layer, or of each channel
    clipped: int
    proved: bool
    bound: int


@dataclass(frozen=True, eq=False)
class Result:
    candidate: Candidate
    error: float
    seen: int
    peak: int  # largest |sum| or |membrane| seen, in weight units
    fired: int = 0
    excess: float = 0.0  # spikes too many, or too few, as a share of what `error` is a share of

    @property
    def loss(self) -> float:
        """What candidates are chosen by: twice the spikes that are missing or that are too many, whichever are more.

        Of two trains of spikes that have little to do with each other, as deep in a chaotic network, fewer differ the
        less the one fires: by `error` alone the layer that fires too rarely would be the best.
        """
        return self.error + self.excess

    def fits(self, limit: int) -> bool:
        """Whether it is proved not to overflow, or has room to spare."""
        return self.candidate.proved or self.peak * _SEEN_MARGIN <= limit


def measure(
    made: Candidate, sums: Tensor, bias: Tensor, wanted: Tensor, out: Tensor | None = None
) -> tuple[Result, Tensor]:
    """A candidate's sums (N, T, ...), integers of a float type, and bias, compared with the float network's spikes, or
    with its scores (N, ...), which may be those of the first outputs, in the last axis, alone. Gives its spikes, or its
    scores in the trained network's units, as well, written to `out` if given."""
    spiking, some = wanted.dtype == torch.bool, wanted.shape[-1]
    found = _fired(made.neuron, sums, bias, wanted, out) if spiking else None
    if found is not None:
        fired, seen, peak = found
        spikes, count = fired.spikes, fired.fired
        differ = fired.differ if spikes.shape == wanted.shape else _unlike(spikes[..., :some], wanted)
    else:
        sums = sums.round().to(torch.int64).to(torch.int32)
        spikes, voltage = integrate(sums, bias, made.neuron)
        seen = largest_current(sums, made.neuron)
        peak = max(seen, -(-int(voltage.abs().max()) // UNIT))
        if not spiking:
            scores = voltage[:, -1].double() / (UNIT * float(made.scale))  # one scale: the readout does not vary
            scores = scores if out is None else out.copy_(scores)
            return Result(made, score_error(scores[..., :some], wanted), seen, peak), scores
        spikes = spikes if out is None else out.copy_(spikes)
        differ, count = _unlike(spikes[..., :some], wanted), int(spikes.count_nonzero())
    among = count if spikes.shape == wanted.shape else int(spikes[..., :some].count_nonzero())
    excess = abs(among - int(wanted.count_nonzero()))
    return Result(made, differ / wanted.numel(), seen, peak, count, excess / wanted.numel()), spikes


def _unlike(a: Tensor, b: Tensor) -> int:
    return int((a != b).count_nonzero())


def _fired(
    neuron: ir.CubaNeuron, sums: Tensor, bias: Tensor, wanted: Tensor, out: Tensor | None
) -> tuple[kernels.Fired, int, int] | None:
    """As `integrate`, compiled: spikes, the largest |sum|, and the largest |sum| or |membrane|, in weight units. None
    where there is no compiler, for neurons that it does not know, and where a state leaves the chip's range."""
    found = kernels.load()
    if isinstance(found, str) or neuron.steps is not None or neuron.current_decay != DECAY_ONE:
        return None
    keep, over = 1 - neuron.voltage_decay / DECAY_ONE, UNIT * neuron.threshold
    beside = wanted if wanted.shape == sums.shape else None
    fired = found.fire(sums, bias, keep, over, factor=UNIT, whole=True, out=out, wanted=beside)
    seen, before, after = map(int, fired[1:4])
    if max(UNIT * seen, before) >= STATE_MAX:  # the current wraps, or the membrane is clipped
        return None
    return fired, seen, max(seen, -(-after // UNIT))


def score_error(scores: Tensor, wanted: Tensor) -> float:
    """Root mean square of what scores are off, relative to how much the wanted ones vary."""
    return float((scores - wanted).square().mean().sqrt() / wanted.std(correction=0).clamp_min(1e-12))


def choose_result(results: list[Result], strategy: Strategy, limit: int) -> Result:
    """The least loss; a proved one if it is nearly as good; only unproved ones with room to spare, if there are any,
    and before those whose current overflowed on the data any other."""
    if strategy in ("max", "percentile"):
        of_rule = [result for result in results if result.candidate.rule == strategy]
        results = of_rule or results
    proved = [result for result in results if result.candidate.proved]
    room = [result for result in results if result.fits(limit)] or [r for r in results if r.seen <= limit]
    best = min(room or results, key=lambda result: result.loss)
    near = [result for result in proved if result.loss <= best.loss * _PROOF_WORTH + 1e-12]
    return min(near, key=lambda result: result.loss) if near else best
