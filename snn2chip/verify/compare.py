"""Two stages held against each other: how many values differ, and the first of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snn2chip.errors import InputError


@dataclass(frozen=True)
class Difference:
    """The first place where two stages differ. `sample` and `step` are None where a file's number differs."""

    layer: str
    sample: int | None
    step: int | None
    neuron: list[int]


@dataclass(frozen=True)
class Rung:
    """One comparison: `mismatches` of `compared` values differ; `first` is the earliest.

    `proved`: it holds for every input, not only for the samples that were run.
    `spikes` by trained layer, of the second of the two stages; empty where none runs.
    """

    name: str
    passed: bool
    mismatches: int
    compared: int
    first: Difference | None
    detail: str
    proved: bool = False
    spikes: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """All rungs; `passed` when every exact one holds. `notes`: what makes it say less than it seems to."""

    passed: bool
    rungs: tuple[Rung, ...]
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The verdict as plain values, as `snn2chip verify --json` writes it."""
        return asdict(self)


Arrays = Mapping[str, NDArray[Any]]
Counted = tuple[int, int, Difference | None]  # mismatches, compared, the first difference


def compare(first: Arrays, second: Arrays) -> Counted:
    """Count differing values of two sets of (samples, T, ...) arrays, layer by layer in the order of `first`.

    The difference named is in the first layer that differs: its earliest sample, there the earliest step.

    Raises:
        InputError: a layer is missing or has another shape.
    """
    mismatches, compared = 0, 0
    earliest: Difference | None = None
    for name, wanted in first.items():
        found = second.get(name)
        if found is None or found.shape != wanted.shape:
            shape = None if found is None else found.shape
            raise InputError(f"layer '{name}': arrays of shape {wanted.shape} and {shape} cannot be compared")
        differs = wanted != found
        count = int(differs.sum())
        mismatches += count
        compared += wanted.size
        if count and earliest is None:
            sample, step, *neuron = (int(index) for index in np.argwhere(differs)[0])
            earliest = Difference(name, sample, step, neuron)
    return mismatches, compared, earliest
