"""What a run of a chain leaves behind."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from snn2chip.ir import FloatArray, IntArray

if TYPE_CHECKING:
    from torch import Tensor


class Classes(NamedTuple):
    """Which class each channel, row and column of a layer is in, numbered as they come, from 0: spikes are counted by
    classes."""

    channels: IntArray
    rows: IntArray
    columns: IntArray

    @property
    def counts(self) -> tuple[int, int, int]:
        """Classes of channels, rows and columns."""
        return int(self.channels.max()) + 1, int(self.rows.max()) + 1, int(self.columns.max()) + 1

    @property
    def size(self) -> int:
        """Classes of neurons."""
        return math.prod(self.counts)


def tally(values: Tensor, classes: Classes) -> NDArray[np.int32]:
    """How many of some values (N, T, C, H, W) or (N, T, C) are not 0: (N, T, *classes.counts)."""
    import torch  # slow, and classes are counted without it

    found = (values != 0).to(torch.int32)
    found = found if found.ndim == 5 else found[..., None, None]
    for axis, (each, many) in enumerate(zip(classes, classes.counts, strict=True), 2):
        if many == 1:
            found = found.sum(axis, keepdim=True, dtype=torch.int32)
        elif many < len(each):
            sums = found.new_zeros((*found.shape[:axis], many, *found.shape[axis + 1 :]))
            found = sums.index_add_(axis, torch.from_numpy(each).to(found.device), found)
    counts: NDArray[np.int32] = found.cpu().numpy()
    return counts


MOST_SUMS = 8  # in a group: `ROWS` of the events engine


class Group(NamedTuple):
    """Sums over the spikes n_k of some classes in a step, one for each column: adds[0] + sum over k of n_k adds[1 + k].

    first  the first class, of all layers' one after another
    adds   (1 + classes, sums), at most `MOST_SUMS`
    to     for each, which of the sums that are given it is added to, or -1: only the largest is wanted
    bound  none of the latter exceeds it
    """

    first: int
    adds: FloatArray
    to: tuple[int, ...]
    bound: float = math.inf

    def of(self, counts: FloatArray) -> FloatArray:
        """Of counts (..., classes of all)."""
        sums: FloatArray = self.adds[0] + counts[..., self.first : self.first + len(self.adds) - 1] @ self.adds[1:]
        return sums


class Tally(NamedTuple):
    """What was counted of some samples: `sums` (N, T, given + 1), the last the largest of those that are not given; and
    spikes by class (classes of all,), all together."""

    sums: FloatArray
    classes: IntArray


@dataclass(frozen=True, eq=False)
class Counting:
    """What to count of a run: spikes of the port and each layer by classes, and of every step sums over them.

    classes  of the port and the layers, in their order
    given    how many sums are; after them comes the largest of those that are not, or 0
    groups   by falling bounds
    """

    classes: tuple[Classes, ...]
    given: int
    groups: tuple[Group, ...]

    @cached_property
    def size(self) -> int:
        """Classes of all."""
        return sum(each.size for each in self.classes)

    def empty(self, samples: int, steps: int) -> Tally:
        """Where so much can be counted; the sums are not set."""
        return Tally(np.empty((samples, steps, self.given + 1)), np.zeros(self.size, dtype=np.int64))

    def of(self, counts: Sequence[NDArray[np.int32]]) -> Tally:
        """From what `tally` finds in the port and each layer."""
        whole = np.concatenate([each.reshape(*each.shape[:2], -1) for each in counts], 2)
        found, spikes = self.empty(*whole.shape[:2]), whole.astype(np.float64)
        found.sums[:] = 0
        found.classes[:] = whole.sum((0, 1))
        for group in self.groups:
            for to, sums in zip(group.to, np.moveaxis(group.of(spikes), -1, 0), strict=True):
                into = found.sums[..., to]
                (np.add if to >= 0 else np.maximum)(into, sums, out=into)
        return found


@dataclass(frozen=True, eq=False)
class Trace:
    """Spikes and voltages of every layer in its own time (latency removed), by netx layer number.

    spikes    (samples, T, ...) uint8
    voltage   (samples, T, ...) int32, at the end of the step: 0 where the neuron spiked
    scores    (samples, classes) int64: the last layer's voltage at the last step, or its spike count
    counts    spikes of each layer, summed over everything
    largest   largest |input| of one step seen in each layer, in weight units (limit 131071)
    tally     what was counted of it besides, where that was asked for
    """

    spikes: dict[str, NDArray[np.uint8]]
    voltage: dict[str, NDArray[np.int32]]
    scores: IntArray
    counts: dict[str, int] = field(default_factory=dict)
    largest: dict[str, int] = field(default_factory=dict)
    tally: Tally | None = None

    @classmethod
    def joined(cls, parts: Sequence[Trace]) -> Trace:
        """The traces of some samples after another as one."""
        first = parts[0]
        tallies = [part.tally for part in parts if part.tally is not None]
        return (
            first
            if len(parts) == 1
            else cls(
                {name: np.concatenate([part.spikes[name] for part in parts]) for name in first.spikes},
                {name: np.concatenate([part.voltage[name] for part in parts]) for name in first.voltage},
                np.concatenate([part.scores for part in parts]),
                {name: sum(part.counts[name] for part in parts) for name in first.counts},
                {name: max(part.largest[name] for part in parts) for name in first.largest},
                Tally(np.concatenate([t.sums for t in tallies]), np.sum([t.classes for t in tallies], 0))
                if tallies
                else None,
            )
        )
