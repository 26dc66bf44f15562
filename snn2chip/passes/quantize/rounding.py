"""How weights become integers: rounded to the nearest, or so that the sums of kernels are kept.

``nearest``, or ``sums``, which starts from nearest and then moves the few weights that were rounded worst so that
every kernel's sum, then every output's, is off by at most half a step (as SQuant does, Guo et al. 2022). Neighbouring
inputs are alike, so errors of one sign add up under nearest rounding. Both are functions of the weights and the scale
alone, so that a file's integers can be recomputed.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np
import torch

from snn2chip import ir
from snn2chip.chip.profile import Chip

Rounding = Literal["nearest", "sums"]
ROUNDINGS: tuple[Rounding, ...] = ("nearest", "sums")
_MOVED: dict[Rounding, int] = {"nearest": 0, "sums": 2}  # steps that a weight may be moved from the nearest
_AT_ONCE = 2**16  # weights whose sums are kept together: as many as the cache holds


def _move(errors: ir.FloatArray) -> ir.FloatArray:
    """Steps (-1, 0, +1) that bring the sum of each row of rounding errors to within half a step.

    The entries rounded worst in the direction of their row's sum move, each by one step.
    """
    moves = np.rint(errors.sum(1))
    steps: ir.FloatArray = np.zeros_like(errors)
    single = np.flatnonzero(np.abs(moves) == 1)  # most rows that move at all: no need to sort them
    if len(single):
        directed = errors[single] * np.sign(moves[single])[:, None]
        worst = directed.argmax(1)
        positive = directed[np.arange(len(single)), worst] > 0
        steps[single[positive], worst[positive]] = -np.sign(moves[single[positive]])
    several = np.flatnonzero(np.abs(moves) > 1)
    if len(several):
        directed, count = errors[several] * np.sign(moves[several])[:, None], np.abs(moves[several]).astype(np.int64)
        # the largest of each row in order, of the values alone: a fifth of the time of their places
        ranked = np.sort(np.partition(directed, -count.max(), axis=1)[:, -count.max() :], axis=1)
        least = ranked[np.arange(len(several)), -count][:, None]
        chosen = directed >= least
        tied = np.flatnonzero(chosen.sum(1) > count)  # of what is rounded as badly, the first ones
        equal = directed[tied] == least[tied]
        room = count[tied, None] - (directed[tied] > least[tied]).sum(1, keepdims=True)
        chosen[tied] &= ~equal | (equal.cumsum(1) <= room)
        steps[several] = np.where(chosen & (directed > 0), -np.sign(moves[several])[:, None], 0.0)
    return steps


def rounded(scaled: ir.FloatArray, rounding: Rounding) -> ir.IntArray:
    """Weights (O, ...) in units of one step to integers."""
    if rounding == "nearest":
        return np.rint(scaled).astype(np.int64)
    each = max(1, _AT_ONCE // max(1, scaled[0].size))
    if len(scaled) <= each:
        return _kept_sums(scaled).astype(np.int64)
    made = np.empty(scaled.shape, dtype=np.int64)

    def work(start: int) -> None:
        made[start : start + each] = _kept_sums(scaled[start : start + each])

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        list(pool.map(work, range(0, len(scaled), each)))
    return made


def _kept_sums(scaled: ir.FloatArray) -> ir.FloatArray:
    nearest = np.rint(scaled)
    rows = len(scaled)
    for count in (rows * scaled.shape[1], rows) if scaled.ndim == 4 else (rows,):  # kernels, then outputs
        nearest += _move((nearest - scaled).reshape(count, -1)).reshape(scaled.shape)
    return nearest


def round_weights(
    weights: Sequence[ir.FloatArray],
    scale: float,
    chip: Chip,
    rounding: Rounding = "nearest",
    *,
    even: bool = False,
    reads: Sequence[int] | None = None,
) -> tuple[list[ir.IntArray], int]:
    """The weights of one neuron layer as integers within the chip's range, and how many had to be clipped to it.

    Even ones if `even`, or if some exceed what odd ones may reach. With `reads` copies of what they read, weights may
    reach that many times the range.
    """
    reads = [1] * len(weights) if reads is None else reads
    odd = [n * chip.weight_odd_max for n in reads]
    largest = [max(float(weight.max(initial=0)), -float(weight.min(initial=0))) for weight in weights]
    # by how far the rounding may still lower the largest
    even |= any(np.rint(top * scale) - _MOVED[rounding] > most for top, most in zip(largest, odd, strict=True))
    if not even:
        whole = [rounded(weight * scale, rounding) for weight in weights]
        if all(np.abs(weight).max(initial=0) <= most for weight, most in zip(whole, odd, strict=True)):
            return whole, 0
    doubled = [2 * rounded(weight * (scale / 2), rounding) for weight in weights]
    most = [n * chip.weight_max for n in reads]
    clipped = sum(int((np.abs(weight) > n).sum()) for weight, n in zip(doubled, most, strict=True))
    return [np.clip(weight, -n, n) for weight, n in zip(doubled, most, strict=True)], clipped
