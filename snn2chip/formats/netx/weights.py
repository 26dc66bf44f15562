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
from snn2chip.ir import IntArray

Int32Array = NDArray[np.int32]
LOWEST, HIGHEST = -256, 254  # of weights of both signs
ONE_SIGN = 255


@dataclass(frozen=True, eq=False)
class Loaded:
    """Weights that the chip's arithmetic uses, and what was done to get there.

    weights  one array for each given, int64
    notes    what changed, in words without the layer's name
    """

    weights: tuple[IntArray, ...]
    notes: tuple[str, ...]


def load_dense(stored: tuple[IntArray, ...], where: str) -> Loaded:
    """Weights of one dense layer as stored to those Lava computes with: one matrix, or input and recurrent ones.

    Raises:
        UnsupportedError: weights of one sign beyond 8 bits, which netx shifts by a negative number of bits, or ones
            whose sums Lava rounds.
    """
    matrices = [weights.reshape(len(weights), -1) for weights in stored]
    together = (np.hstack(matrices) if len(matrices) > 1 else matrices[0]).astype(np.int64, copy=False)
    notes: list[str] = []
    if not together.any():  # netx fails on them
        return Loaded(stored, ())
    clipped = together
    if together.max() > HIGHEST and together.min() < 0:
        clipped = clipped.clip(LOWEST, HIGHEST)
    if clipped.min() < LOWEST and clipped.max() > 0:
        clipped = clipped.clip(LOWEST, HIGHEST)
    cut = 0 if clipped is together else int((clipped != together).sum())
    if cut:
        notes.append(f"{cut} weights outside {LOWEST}..{HIGHEST} ({together.min()}..{together.max()}): netx clips them")
    low, high = int(clipped.min()), int(clipped.max())
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
    ones = int(np.bitwise_or.reduce(clipped, axis=None))
    spare = min(8, (ones & -ones).bit_length() - 1)  # low bits that are 0 in all of them
    width = 8 - bits - (spare - signed)  # what netx calls num_weight_bits
    shifted = clipped.astype(np.int32) << np.int32(bits)
    columns = np.cumsum([weights.shape[1] for weights in matrices])[:-1]
    parts = [_as_lava(part, width) for part in np.split(shifted, columns, axis=1)]
    back: list[IntArray] = []
    for part, given in zip(parts, np.split(clipped, columns, axis=1), strict=True):
        if (part & np.int32(2**bits - 1)).any():
            raise UnsupportedError(
                f"{where}: weights {given.min()}..{given.max()}: Lava clips them to {ONE_SIGN} after a shift by {bits} "
                f"bits and rounds every sum; change the lowest by 1"
            )
        used = part >> np.int32(bits)
        changed = int((used != given).sum())
        if changed:
            first = tuple(np.argwhere(used != given)[0].tolist())
            became = f"{given[first]} becomes {used[first]}"
            notes.append(f"{changed} of {used.size} weights, all of one sign, are cut by Lava: {became}")
        back.append(used.astype(np.int64) if changed else np.ascontiguousarray(given))
    return Loaded(tuple(back), tuple(notes))


def _as_lava(weights: Int32Array, width: int) -> Int32Array:
    """`clip_weights` and `truncate_weights` of a Dense process, which looks at the signs of its own weights again."""
    inhibitory = weights.min() < 0 and weights.max() <= 0
    mixed = weights.min() < 0 < weights.max()
    size = -weights if inhibitory else weights
    size = size.clip(-256 if mixed else 0, ONE_SIGN)
    cut = np.int32(8 - width + mixed)
    # numpy, as in Lava: by a negative number of bits all is lost
    kept: Int32Array = np.left_shift(np.right_shift(size, cut), cut)
    return -kept if inhibitory else kept
