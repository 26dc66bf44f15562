"""The picture of docs/training-speed.json: a step of every contender, and what it holds in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness import plain, save
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from training_candidates import CANDIDATES

COLOURS = {"ours": "#1f77b4", "ann": "#2ca02c", "loop": "#1f77b4"}  # by the beginning of a name; grey: the others
PAGES = {"keep": "pages kept", "default": "glibc's allocator as it is"}


def _bars(axes: Axes, rows: list[dict[str, Any]], norm: bool, what: str) -> None:
    """One panel: contenders with or without batch norm, a bar for each allocator."""
    names = [name for name in CANDIDATES if CANDIDATES[name][2] == norm and any(row["name"] == name for row in rows)]
    for shift, allocator in enumerate(PAGES):
        found = {row["name"]: row for row in rows if row["allocator"] == allocator and "failed" not in row}
        for place, name in enumerate(names):
            if name not in found:
                continue
            row = found[name]
            colour = COLOURS.get(name.split("-")[0], "#9e9e9e")
            at = place + 0.38 * (shift - 0.5)
            look = {"height": 0.36, "color": colour, "alpha": 1.0 - 0.45 * shift}
            if what == "memory":
                axes.barh(at, row["memory"] / 2**20, **look)
                continue
            low, high = row["quartiles"]
            middle = row["seconds"]
            around = [[1e3 * (middle - low)], [1e3 * (high - middle)]]
            axes.barh(at, 1e3 * middle, xerr=around, error_kw={"linewidth": 0.8, "ecolor": "#444444"}, **look)
    titles = {row["name"]: row["title"] for row in rows}
    axes.set_yticks(range(len(names)), [titles[name] for name in names], fontsize=8)
    axes.invert_yaxis()
    axes.set_axisbelow(True)
    plain(axes, "x")


def draw(rows: list[dict[str, Any]], target: Path) -> None:
    """Two rows of panels, without and with batch norm; times on the left, memory on the right."""
    kinds = [norm for norm in (False, True) if any(CANDIDATES[row["name"]][2] == norm for row in rows)]
    counts = [sum(CANDIDATES[name][2] == norm for name in {row["name"] for row in rows}) for norm in kinds]
    figure = Figure(figsize=(12, 1.2 + 0.36 * sum(counts)), layout="constrained")
    panels = figure.subplots(len(kinds), 2, sharex="col", squeeze=False, height_ratios=counts)
    for norm, (left, right) in zip(kinds, panels, strict=True):
        _bars(left, rows, norm, "seconds")
        _bars(right, rows, norm, "memory")
        right.tick_params(labelleft=False)
    panels[-1][0].set_xlabel("a training step, ms (median and quartiles)")
    panels[-1][1].set_xlabel("peak memory, MiB")
    handles = [
        panels[0][0].barh([0], [0], color="#555555", alpha=1.0 - 0.45 * shift, label=PAGES[allocator])
        for shift, allocator in enumerate(PAGES)
        if any(row["allocator"] == allocator for row in rows)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
    save(figure, target)
