"""Cases of bench/speed.json: which there are, their medians, quartiles and ratios."""

from __future__ import annotations

import statistics
from typing import Any

NAMES = {"torch": "torch float32", "dense": "dense engine", "events": "event engine", "auto": "auto", "lava": "Lava"}
MIDDLE = {"network": "vgg9", "timesteps": 4, "batch": 16, "density": 0.1, "width": 1.0}
Row = dict[str, Any]


def median(row: Row, name: str) -> float | None:
    """Milliseconds of a sample and step; None where it did not run."""
    times: list[float] | None = row["milliseconds"].get(name)
    return statistics.median(times) if times else None


def times_faster(row: Row, slower: str, faster: str = "events") -> float | None:
    """Median over rounds of the ratio in the same round; Lava, which runs less often: the ratio of the medians."""
    one: list[float] | None = row["milliseconds"].get(slower)
    other: list[float] | None = row["milliseconds"].get(faster)
    if not one or not other:
        return None
    if len(one) != len(other):
        return statistics.median(one) / statistics.median(other)
    return statistics.median(a / b for a, b in zip(one, other, strict=True))


def find(figures: Row, **changed: Any) -> Row | None:
    """The case that differs from the middle one in these."""
    wanted = MIDDLE | changed
    return next((row for row in figures["cases"] if all(row[key] == value for key, value in wanted.items())), None)
