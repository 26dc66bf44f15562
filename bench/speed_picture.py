"""The picture of bench/speed.json: how the time grows with density, batch, timesteps and width."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path

from harness import plain, quartiles, save
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator
from speed_figures import MIDDLE, NAMES, Row, find, median

LOOKS = {"lava": ("#7f7f7f", "D"), "torch": ("#ff7f0e", "s"), "dense": ("#9467bd", "^"), "events": ("#1f77b4", "o")}


def _panel(
    axes: Axes, rows: list[Row], x_of: Callable[[Row], float], label: str, power: int, lava: float | None
) -> None:
    """Time of a whole batch by one thing."""
    rows = sorted(rows, key=x_of)
    places = [x_of(row) for row in rows]
    for name, (colour, marker) in LOOKS.items():
        points, derived = [], []
        for row in rows:
            steps = row["timesteps"] * row["batch"]
            times = row["milliseconds"].get(name)
            if times:
                low, high = quartiles(times)
                points.append((x_of(row), steps * statistics.median(times), steps * low, steps * high))
            elif name == "lava" and lava is not None and row["width"] == 1:
                points.append((x_of(row), steps * lava, steps * lava, steps * lava))
                derived.append(points[-1][:2])
        if not points:
            continue
        xs, ys, lows, highs = zip(*points, strict=True)
        around = [[y - low for y, low in zip(ys, lows, strict=True)], [h - y for y, h in zip(ys, highs, strict=True)]]
        axes.errorbar(xs, ys, around, color=colour, marker=marker, markersize=5, linewidth=1.6, capsize=2.5)
        for x, y in derived:
            axes.plot(x, y, marker, color="white", markeredgecolor=colour, markersize=5, zorder=5)
    start = next((median(row, "events") for row in rows), None)
    if start and len(rows) > 1:
        first = rows[0]["timesteps"] * rows[0]["batch"] * start
        line = [first * (x / places[0]) ** power for x in places]
        axes.plot(places, line, ":", color="#1f77b4", linewidth=1, zorder=0)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(FixedLocator(places))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([f"{x:g}" for x in places])
    axes.set_xlabel(label)
    plain(axes, "both")


def draw(figures: Row, target: Path) -> None:
    """Four panels around the middle case: density, batch, timesteps, width."""
    figure = Figure(figsize=(13, 4.8), layout="constrained")
    panels = figure.subplots(1, 4, sharey=True)
    cases = [row for row in figures["cases"] if row["network"] == "vgg9"]
    middle = find(figures)
    lava = None if middle is None else median(middle, "lava")
    wanted: tuple[tuple[str, str, Callable[[Row], float], int], ...] = (
        ("density", "spikes, % of neurons and step", lambda row: 100 * row["density"], 1),
        ("batch", "batch", lambda row: row["batch"], 1),
        ("timesteps", "timesteps T", lambda row: row["timesteps"], 1),
        ("width", "width: channels, times VGG-9's", lambda row: row["width"], 2),
    )
    for axes, (key, label, x_of, power) in zip(panels, wanted, strict=True):
        others = {name: value for name, value in MIDDLE.items() if name != key}
        rows = [row for row in cases if all(row[name] == value for name, value in others.items())]
        if rows:
            _panel(axes, rows, x_of, label, power, lava)
    panels[0].set_ylabel("time of the whole batch, ms")
    handles = [
        panels[0].plot([], [], color=colour, marker=marker, markersize=5, linewidth=1.6, label=NAMES[name])[0]
        for name, (colour, marker) in LOOKS.items()
    ]
    handles += panels[0].plot([], [], ":", color="#1f77b4", linewidth=1, label="in proportion (width: its square)")
    grey, diamond = LOOKS["lava"]
    hollow = {"markeredgecolor": grey, "markersize": 5, "linestyle": "", "color": "white"}
    handles += panels[0].plot([], [], marker=diamond, label="its steps times the time of one", **hollow)
    handles.insert(1, handles.pop())
    figure.suptitle("VGG-9, T = 4, batch 16, 10 % spikes, and one of these changed", fontsize=11)
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    save(figure, target)
