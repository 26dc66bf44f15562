"""What is counted of spikes while the engine runs (`snn2chip.ir.trace.Counting`), as the library reads it."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from snn2chip.ir import IntArray
from snn2chip.ir.trace import MOST_SUMS, Classes, Counting, Tally
from snn2chip.simulate.events import library
from snn2chip.simulate.events.plan import Arrays, LayerPlan
from snn2chip.simulate.events.windows import WORD

MOST_WORDS = 256  # as in engine.cpp
BEYOND = 16  # words that a vector may read beyond the last


def passes(slots: IntArray, words: int, classes: Classes, first: int) -> tuple[Arrays, Arrays, Arrays, Arrays]:
    """Masks (passes, words of a row), places, row and place of `struct Classes` of engine.cpp.

    Args:
        slots: bit of each channel among those of a pixel, which are so many `words`.
        classes: of the layer; they are numbered from `first`, as (channels, rows, columns).
    """
    _, high, wide = classes.counts
    pieces, where = np.unique(np.stack([slots // WORD, classes.channels], 1), axis=0, return_inverse=True)
    word, channels = pieces.T
    turn = np.arange(len(pieces)) - np.searchsorted(word, word)  # which of its word's classes
    masks = np.zeros((turn.max() + 1, words), dtype=np.uint32)
    np.bitwise_or.at(masks, (turn[where.ravel()], slots // WORD), np.uint32(1) << (slots % WORD).astype(np.uint32))
    places: Arrays = np.zeros(masks.shape, dtype=np.int64)
    places[turn, word] = channels * high * wide
    nearest = np.maximum.accumulate(np.where(masks, np.arange(words), 0), 1)  # words without bits go with others
    places = np.take_along_axis(places, nearest, 1)
    masks, places = (np.tile(each, len(classes.columns)) for each in (masks, places))
    places += first + np.repeat(classes.columns, words)
    runs = []
    for of_pass in places:
        for start in range(0, len(of_pass), MOST_WORDS):
            part = of_pass[start : start + MOST_WORDS]
            last = np.flatnonzero(np.append(part[1:] != part[:-1], True))
            runs.append(np.stack([last, part[last]], 1))
    rows = np.argsort(classes.rows, kind="stable")
    return (
        masks,
        np.concatenate(runs).astype(np.int32),
        rows.astype(np.int32),
        (classes.rows[rows] * wide).astype(np.int32),
    )


@dataclass(frozen=True, eq=False)
class Plan:
    """A `Counting` for the library. `arrays` are what its structures point to."""

    counting: Counting
    made: library.Counting
    arrays: tuple[Any, ...]

    def into(self, tally: Tally) -> library.Counting:
        """The same, to be counted into these arrays."""
        made = library.Counting.from_buffer_copy(self.made)
        made.steps, made.total = tally.sums.ctypes.data, tally.classes.ctypes.data
        return made


def plan(counting: Counting, layers: Sequence[LayerPlan]) -> Plan:
    """For an engine of these layers."""
    inputs = np.arange(len(counting.classes[0].channels))
    slots = [(inputs, -(-len(inputs) // WORD)), *((layer.slot_of, layer.slots // WORD) for layer in layers)]
    arrays: list[Arrays] = []
    classes, first = [], 0
    for (of, words), each in zip(slots, counting.classes, strict=True):
        masks, *others = passes(of, words, each, first)
        made = [np.append(masks, np.zeros(BEYOND, np.uint32)), *others]
        arrays += made
        classes.append(library.Classes(*(array.ctypes.data for array in made), *masks.shape, len(each.rows)))
        first += each.size
    groups = []
    for group in counting.groups:
        adds = np.zeros((len(group.adds), MOST_SUMS))
        to = np.full(MOST_SUMS, -1, dtype=np.int32)
        adds[:, : len(group.to)], to[: len(group.to)] = group.adds, group.to
        arrays += (adds, to)
        last = group.first + len(group.adds) - 1
        groups.append(library.Group(adds.ctypes.data, to.ctypes.data, group.bound, group.first, last))
    of_layers, of_groups = (library.Classes * len(classes))(*classes), (library.Group * len(groups))(*groups)
    whole = library.Counting(
        ctypes.cast(of_layers, ctypes.POINTER(library.Classes)),
        ctypes.cast(of_groups, ctypes.POINTER(library.Group)),
        size=len(groups),
        given=counting.given,
        classes=first,
    )
    return Plan(counting, whole, (of_layers, of_groups, *arrays))
