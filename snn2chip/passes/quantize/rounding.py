"""How weights become integers: rounded to the nearest, or so that the sums of kernels are kept.

``nearest``, or ``sums``, which starts from nearest and then moves the few weights that were rounded worst so that
every kernel's sum, then every output's, is off by at most half a step (as SQuant does, Guo et al. 2022). Neighbouring
inputs are alike, so errors of one sign add up under nearest rounding. Both are functions of the weights and the scale
alone, so that a file's integers can be recomputed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from snn2chip import ir
from snn2chip.chip.profile import Chip
from snn2chip.nn import kernels

Rounding = Literal["nearest", "sums"]
ROUNDINGS: tuple[Rounding, ...] = ("nearest", "sums")
_MOVED: dict[Rounding, int] = {"nearest": 0, "sums": 2}  # steps that a weight may be moved from the nearest


def rounded(
    weights: ir.FloatArray, scale: float | ir.FloatArray, rounding: Rounding = "nearest", factor: int = 1
) -> tuple[ir.IntArray, int]:
    """Weights (O, ...) times a scale, of all or of each output (O,), to integers, and those times `factor`; and the
    largest |integer|."""
    compiled = kernels.load()
    if not isinstance(compiled, str):
        return compiled.round(weights, np.atleast_1d(np.asarray(scale, np.float64)), rounding == "sums", factor)
    scaled = weights * np.reshape(scale, (-1, *(1,) * (weights.ndim - 1)))
    near, rows = np.rint(scaled), len(scaled)
    if rounding == "sums":
        for count in (rows * scaled.shape[1], rows) if scaled.ndim == 4 else (rows,):  # kernels, then outputs
            near += _moves((near - scaled).reshape(count, -1)).reshape(scaled.shape)
    whole = factor * near.astype(np.int64)
    return whole, int(np.abs(whole).max(initial=0))


def _moves(errors: ir.FloatArray) -> ir.FloatArray:
    """Steps (-1, 0, +1) that bring the sum of each row of rounding errors to within half a step.

    The entries rounded worst in the direction of their row's sum move, each by one step; of equal ones the first.
    """
    moves = np.rint(errors.sum(1, keepdims=True))
    directed = errors * np.sign(moves)
    rank = np.argsort(np.argsort(-directed, axis=1, kind="stable"), axis=1)
    return np.where((rank < np.abs(moves)) & (directed > 0), -np.sign(moves), 0.0)


def largest_of(weight: ir.Array) -> float:
    """The largest |weight|."""
    return max(float(weight.max(initial=0)), -float(weight.min(initial=0)))


def round_weights(
    weights: Sequence[ir.FloatArray],
    scale: float,
    chip: Chip,
    rounding: Rounding = "nearest",
    *,
    even: bool = False,
    reads: Sequence[int] | None = None,
    tops: Sequence[float] | None = None,
) -> tuple[list[ir.IntArray], list[int], int]:
    """The weights of one neuron layer as integers within the chip's range, the largest |integer| of each, and how many
    had to be clipped to it.

    Even ones if `even`, or if some exceed what odd ones may reach. With `reads` copies of what they read, weights may
    reach that many times the range. `tops` are the largest |weight| of each, where they are known.
    """
    reads = [1] * len(weights) if reads is None else reads
    odd = [n * chip.weight_odd_max for n in reads]
    tops = [largest_of(weight) for weight in weights] if tops is None else tops
    # by how far the rounding may still lower the largest
    even |= any(np.rint(top * scale) - _MOVED[rounding] > most for top, most in zip(tops, odd, strict=True))
    if not even:
        made = [rounded(weight, scale, rounding) for weight in weights]
        if all(top <= most for (_, top), most in zip(made, odd, strict=True)):
            return [weight for weight, _ in made], [top for _, top in made], 0
    made = [rounded(weight, scale / 2, rounding, 2) for weight in weights]
    clipped = 0
    for number, ((weight, top), n) in enumerate(zip(made, reads, strict=True)):
        if top > (most := n * chip.weight_max):
            clipped += int((np.abs(weight) > most).sum())
            made[number] = np.clip(weight, -most, most), most
    return [weight for weight, _ in made], [top for _, top in made], clipped
