"""Which weights of a layer that reads spikes are there at all: the rest is neither stored nor added.

Relays and shortcuts (docs/residual.md) are convolutions with one weight in the middle of the kernel, side by side with
true ones in the same layer: four fifths of such a layer may be zeros. So a block of neurons reads the input in *ranges*
of slots, and in each range only the *window* of the kernel that holds all its weights there.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snn2chip.ir import IntArray

Arrays = NDArray[Any]
WORD = 32  # slots in a word of spikes: ranges are whole words
MOST_RANGES = 4  # each costs a look at its lists for every pixel
READ = np.dtype(
    [*((name, np.int32) for name in ("group", "ky", "kh", "kx", "kw", "pixel_bytes")), ("offset", np.int64)], align=True
)  # `struct Read` of engine.cpp


@dataclass(frozen=True, eq=False)
class Reads:
    """What every block reads.

    Attributes:
        weights: the rows (pixels of windows one after the other, slots of the range, lanes) of all reads, and one of
            zeros at the end.
        table: READ each; a pixel of a window and an offset into the weights take so many bytes.
        blocks: (blocks + 1,): the reads of block i are blocks[i] to blocks[i + 1].
    """

    weights: Arrays
    table: Arrays
    blocks: IntArray


def _bounds(used: Arrays) -> tuple[IntArray, IntArray]:
    """First and one past the last True along the last axis; 0 and 0 where there is none."""
    some = used.any(-1)
    first = np.where(some, used.argmax(-1), 0)
    last = np.where(some, used.shape[-1] - used[..., ::-1].argmax(-1), 0)
    return first, last


def _windows(used: Arrays) -> IntArray:
    """Windows (blocks, ranges, 4) as (ky, end, kx, end) of what is used (blocks, kh, kw, ranges)."""
    rows = np.moveaxis(np.any(used, axis=2), 1, 2)
    columns = np.moveaxis(np.any(used, axis=1), 1, 2)
    return np.stack([*_bounds(rows), *_bounds(columns)], -1)


def _work(windows: IntArray, slots: int) -> int:
    """Rows that windows (blocks, 4) hold for so many slots."""
    return int(((windows[:, 1] - windows[:, 0]) * (windows[:, 3] - windows[:, 2])).sum()) * slots


def _joined(a: IntArray, b: IntArray) -> IntArray:
    """The smallest windows (blocks, 4) that hold both."""
    empty_a, empty_b = (w[:, 1:2] == w[:, :1] for w in (a, b))
    low, high = np.minimum(a, b), np.maximum(a, b)
    both = np.stack([low[:, 0], high[:, 1], low[:, 2], high[:, 3]], -1)
    joined: IntArray = np.where(empty_a, b, np.where(empty_b, a, both))
    return joined


def ranges_of(rows: Arrays) -> list[tuple[int, int]]:
    """Ranges of the slots of rows (blocks, kh, kw, slots, lanes): neighbours with the same windows are together."""
    slots = rows.shape[3]
    edges = [*range(0, slots, WORD), slots]
    used = rows.any(-1)
    windows = _windows(np.add.reduceat(used, edges[:-1], axis=3) > 0)
    found = [(edges[i], edges[i + 1], windows[:, i]) for i in range(len(edges) - 1)]
    while len(found) > 1:
        more = []
        for (first, middle, a), (_, last, b) in pairwise(found):
            both = _joined(a, b)
            more.append((_work(both, last - first) - _work(a, middle - first) - _work(b, last - middle), both))
        least = min(range(len(more)), key=lambda i: more[i][0])
        if more[least][0] > 0 and len(found) <= MOST_RANGES:
            break
        found[least : least + 2] = [(found[least][0], found[least + 1][1], more[least][1])]
    return [(first, last) for first, last, _ in found]


def reads_of(rows: Arrays, row_bytes: int, group_of: IntArray | None, ranges: list[tuple[int, int]]) -> Reads:
    """The reads of rows (blocks, kh, kw, slots, lanes).

    Args:
        row_bytes: of the lanes of a row, as they will be stored.
        group_of: the one range that each block reads, whose slots rows then has; None: every block reads all ranges.
        ranges: first slot and one past the last.
    """
    lanes = rows.shape[-1]
    table: list[tuple[int, ...]] = []
    blocks, parts, offset = [0], [], 0
    for block, weights in enumerate(rows):
        for group in range(len(ranges)) if group_of is None else [int(group_of[block])]:
            first, last = ranges[group]
            mine = weights[:, :, first:last] if group_of is None else weights[:, :, : last - first]
            ky, end_y, kx, end_x = _windows(mine.any((2, 3))[None, :, :, None])[0, 0].tolist()
            if end_y == ky:
                continue
            table.append((group, ky, end_y - ky, kx, end_x - kx, (last - first) * row_bytes, offset * row_bytes))
            parts.append(mine[ky:end_y, kx:end_x].reshape(-1, lanes))
            offset += len(parts[-1])
        blocks.append(len(table))
    parts.append(np.zeros((1, lanes), dtype=rows.dtype))
    return Reads(np.concatenate(parts), np.array(table, dtype=READ), np.array(blocks, dtype=np.int64))
