"""Curves and steps as SVG: the paths, ticks and labels that the page's template draws."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Points = Sequence[tuple[float, float]]
WIDTH, HEIGHT = 420, 240
_NAME = 12  # characters of a label
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 408, 14, 196


@dataclass(frozen=True)
class Curve:
    """One line: its name, path, and the last value in words."""

    name: str
    path: str
    last: str
    dots: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Chart:
    """A frame with curves; ticks are (place, label), marks lines at places of x."""

    title: str
    unit: str
    curves: tuple[Curve, ...]
    across: tuple[tuple[float, str], ...]
    up: tuple[tuple[float, str], ...]
    marks: tuple[float, ...]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = _LEFT
    right: int = _RIGHT
    top: int = _TOP
    bottom: int = _BOTTOM


def ticks(low: float, high: float, many: int = 5) -> list[float]:
    """Round numbers from low to high, about so many."""
    if not high > low:
        return [low]
    step = 10 ** math.floor(math.log10((high - low) / many))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (factor * step) <= many)
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 12) for index in range(first, math.floor(high / step + 1e-9) + 1)]


def chart(
    title: str,
    unit: str,
    curves: Sequence[tuple[str, Points]],
    *,
    names: Sequence[str] = (),
    within: tuple[float | None, float | None] = (None, None),
    marks: Sequence[float] = (),
) -> Chart:
    """Curves over x, which is in `unit`, or has `names` at 0, 1, 2; y goes over `within` and more."""
    points = [(x, y) for _, line in curves for x, y in line if math.isfinite(y)] or [(0.0, 0.0)]
    xs, ys = [x for x, _ in points], [y for _, y in points]
    left, right = min(xs), max(max(xs), min(xs) + 1e-9)
    low = min(ys) if within[0] is None else min(within[0], *ys)
    high = max(ys) if within[1] is None else max(within[1], *ys)
    if not high > low:
        low, high = low - abs(low) / 2 - 0.5, high + abs(high) / 2 + 0.5

    def across(x: float) -> float:
        return round(_LEFT + (_RIGHT - _LEFT) * (x - left) / (right - left), 1)

    def up(y: float) -> float:
        return round(_BOTTOM - (_BOTTOM - _TOP) * (y - low) / (high - low), 1)

    found = []
    for name, line in curves:
        places = [(across(x), up(y)) for x, y in line if math.isfinite(y)]
        if places:
            path = "M" + "L".join(f"{x},{y}" for x, y in places)
            found.append(Curve(name, path, number(line[-1][1]), tuple(places if len(places) <= 40 else places[-1:])))
    if names:
        shown = [name if len(name) <= _NAME else f"{name[: _NAME - 1]}…" for name in names]
        room = (_RIGHT - _LEFT) // (7 * max(map(len, shown)) + 8)  # labels beside each other
        every = max(1, -(-(len(names) - 1) // max(1, room - 1)))
        below = [(float(index), name) for index, name in enumerate(shown) if index % every == 0]
    else:
        whole = all(float(x).is_integer() for x in xs)
        below = [(x, number(x)) for x in ticks(left, right) if not whole or float(x).is_integer()]
    return Chart(
        title,
        unit,
        tuple(found),
        tuple((across(x), label) for x, label in below),
        tuple((up(y), number(y)) for y in ticks(low, high)),
        tuple(across(x) for x in marks),
    )


def number(value: float) -> str:
    """Four digits."""
    return f"{float(f'{value:.4g}'):,.10g}" if abs(value) >= 1e-3 or not value else f"{value:.3g}"
