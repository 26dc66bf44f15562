"""What netx and Lava make of the dense weights in a file, step by step, so that nothing of it stays hidden.

lava-dl 0.6.0, `netx/utils.py`, `optimize_weight_bits` clips weights of both signs to -256..254, shifts them to the left
until they fill 8 bits and counts the bits they need; lava-nc 0.10.0, `utils/weightutils.py` and `proc/dense/models.py`,
clips them again, cuts off what it takes for unused bits, and shifts the sums back. For most weights all of that cancels
out. Convolutions have none of it: their weights are used as they stand.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from snn2chip.errors import UnsupportedError
from snn2chip.ir import Weights

Int32Array = NDArray[np.int32]
LOWEST, HIGHEST = -256, 254  # of weights of both signs
ONE_SIGN = 255
_AT_ONCE = 2**20  # weights that are looked at together


@dataclass(frozen=True, eq=False)
class Loaded:
    """Weights that the chip's arithmetic uses, and what was done to get there.

    weights  one array for each given
    notes    what changed, in words without the layer's name
    """

    weights: tuple[Weights, ...]
    notes: tuple[str, ...]


def load_dense(stored: tuple[Weights, ...], where: str) -> Loaded:
    """Weights of one dense layer as stored to those Lava computes with: one matrix, or input and recurrent ones.

    Raises:
        UnsupportedError: weights of one sign beyond 8 bits, which netx shifts by a negative number of bits, or ones
            whose sums Lava rounds.
    """
    matrices = [weights.reshape(len(weights), -1) for weights in stored]
    ends = [(int(matrix.min()), int(matrix.max())) for matrix in matrices if matrix.size]
    low, high = min((low for low, _ in ends), default=0), max((high for _, high in ends), default=0)
    if not low and not high:  # netx fails on them
        return Loaded(stored, ())
    notes: list[str] = []
    if (high > HIGHEST and low < 0) or (low < LOWEST and high > 0):
        cut = sum(int(((matrix < LOWEST) | (matrix > HIGHEST)).sum()) for matrix in matrices)
        notes.append(f"{cut} weights outside {LOWEST}..{HIGHEST} ({low}..{high}): netx clips them")
        matrices = [matrix.clip(LOWEST, HIGHEST) for matrix in matrices]
        low, high = max(low, LOWEST), min(high, HIGHEST)
    signed = not (high < 0 or low >= 0)
    with np.errstate(divide="ignore"):
        if signed:
            scale = min(127 / high if high else np.inf, 128 / -low)
        else:
            scale = 256 / -low if high < 0 else 255 / high
    bits = int(np.floor(np.log2(scale))) + signed
    if bits < 0:
        raise UnsupportedError(
            f"{where}: weights {low}..{high} of one sign exceed {ONE_SIGN}, which netx shifts by {bits} bits; scale "
            f"them down"
        )
    ones = int(np.bitwise_or.reduce([np.bitwise_or.reduce(matrix, axis=None) for matrix in matrices]))
    spare = min(8, (ones & -ones).bit_length() - 1)  # low bits that are 0 in all of them
    width = 8 - bits - (spare - signed)  # what netx calls num_weight_bits
    back: list[Weights] = []
    for matrix in matrices:
        least, most = (int(matrix.min()), int(matrix.max())) if matrix.size else (0, 0)
        used, changed, became = matrix, 0, ""
        step = max(1, _AT_ONCE // max(1, matrix.shape[1]))
        for start in range(0, len(matrix), step):
            given = matrix[start : start + step]
            part = _as_lava(given.astype(np.int32) << np.int32(bits), width, least, most)
            if (part & np.int32(2**bits - 1)).any():
                raise UnsupportedError(
                    f"{where}: weights {least}..{most}: Lava clips them to {ONE_SIGN} after a shift by {bits} bits and "
                    f"rounds every sum; change the lowest by 1"
                )
            part >>= np.int32(bits)
            differ = part != given
            if differ.any():
                first = tuple(np.argwhere(differ)[0].tolist())
                became = became or f"{given[first]} becomes {part[first]}"
                used = used.copy() if used is matrix else used
                used[start : start + step] = part
                changed += int(differ.sum())
        if changed:
            notes.append(f"{changed} of {used.size} weights, all of one sign, are cut by Lava: {became}")
        back.append(used)
    return Loaded(tuple(back), tuple(notes))


def _as_lava(weights: Int32Array, width: int, least: int, most: int) -> Int32Array:
    """`clip_weights` and `truncate_weights` of a Dense process, which looks at the signs of its own weights again; they
    are within `least` to `most`, before the shift."""
    inhibitory, mixed = least < 0 and most <= 0, least < 0 < most
    size = -weights if inhibitory else weights
    size = size.clip(-256 if mixed else 0, ONE_SIGN)
    cut = np.int32(8 - width + mixed)
    # numpy, as in Lava: by a negative number of bits all is lost
    kept: Int32Array = np.left_shift(np.right_shift(size, cut), cut)
    return -kept if inhibitory else kept
