"""What a run of a chain leaves behind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from snn2chip.ir import IntArray


@dataclass(frozen=True, eq=False)
class Trace:
    """Spikes and voltages of every layer in its own time (latency removed), by netx layer number.

    spikes    (samples, T, ...) uint8
    voltage   (samples, T, ...) int32, at the end of the step: 0 where the neuron spiked
    scores    (samples, classes) int64: the last layer's voltage at the last step, or its spike count
    counts    spikes of each layer, summed over everything
    largest   largest |input| of one step seen in each layer, in weight units (limit 131071)
    """

    spikes: dict[str, NDArray[np.uint8]]
    voltage: dict[str, NDArray[np.int32]]
    scores: IntArray
    counts: dict[str, int] = field(default_factory=dict)
    largest: dict[str, int] = field(default_factory=dict)

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
            )
        )
