"""What a run of a chain leaves behind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from snn2chip.ir import IntArray

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


PORT = "input"
"""What the port is called among the layers, whose names are numbers."""


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


@dataclass(frozen=True, eq=False)
class Trace:
    """Spikes and voltages of every layer in its own time (latency removed), by netx layer number.

    spikes    (samples, T, ...) uint8
    voltage   (samples, T, ...) int32, at the end of the step: 0 where the neuron spiked
    scores    (samples, classes) int64: the last layer's voltage at the last step, or its spike count
    counts    spikes of each layer, summed over everything
    largest   largest |input| of one step seen in each layer, in weight units (limit 131071)
    tallies   (samples, T, *counts) int32, where they were asked for: spikes of each layer, and values at the `PORT`
              that are not 0, by classes, see `tally`
    """

    spikes: dict[str, NDArray[np.uint8]]
    voltage: dict[str, NDArray[np.int32]]
    scores: IntArray
    counts: dict[str, int] = field(default_factory=dict)
    largest: dict[str, int] = field(default_factory=dict)
    tallies: dict[str, NDArray[np.int32]] = field(default_factory=dict)

    @classmethod
    def joined(cls, parts: Sequence[Trace]) -> Trace:
        """The traces of some samples after another as one."""
        first = parts[0]
        return (
            first
            if len(parts) == 1
            else cls(
                {name: np.concatenate([part.spikes[name] for part in parts]) for name in first.spikes},
                {name: np.concatenate([part.voltage[name] for part in parts]) for name in first.voltage},
                np.concatenate([part.scores for part in parts]),
                {name: sum(part.counts[name] for part in parts) for name in first.counts},
                {name: max(part.largest[name] for part in parts) for name in first.largest},
                {name: np.concatenate([part.tallies[name] for part in parts]) for name in first.tallies},
            )
        )
