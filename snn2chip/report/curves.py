"""A picture of retraining: accuracy, spikes and operations by time steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from snn2chip.files import atomic_path
from snn2chip.text import draw, in_plot


def plot_timesteps(rows: Sequence[dict[str, Any]], path: Path, title: str) -> None:
    """Draw `rows` (those of iir.json, see `snn2chip.train.cost`) over T to a PNG, whole or not at all."""
    steps = [row["timesteps"] for row in rows]
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    accuracy, spikes, operations = figure.subplots(1, 3)
    accuracy.plot(steps, [100 * row["accuracy"] for row in rows], marker="o")
    accuracy.set(ylabel="test accuracy, %")
    spikes.plot(steps, [row["spikes"] for row in rows], marker="o")
    spikes.set(ylabel="spikes per sample")
    operations.plot(steps, [row["accumulates"] for row in rows], marker="o", label="accumulates")
    operations.plot(steps, [row["multiply_accumulates"] for row in rows], marker="s", label="multiply-accumulates")
    operations.axhline(rows[0]["ann_multiply_accumulates"], color="gray", linestyle="--", label="MACs of the ANN")
    operations.set(ylabel="operations per sample", ylim=(0, None))
    operations.legend(frameon=False)
    for axes in (accuracy, spikes, operations):
        axes.set(xlabel="time steps T")
        axes.invert_xaxis()  # as the run goes
    _write(figure, path, title)


def _write(figure: Figure, path: Path, title: str) -> None:
    for axes in figure.axes:
        axes.grid(alpha=0.3)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.suptitle(in_plot(title))
    with atomic_path(path) as part:
        draw(figure, part, format="png", dpi=110)
