"""The curves picture: loss and accuracy by epoch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from snn2chip.files import atomic_path


def plot(history: Sequence[dict[str, float]], path: Path, title: str) -> None:
    """Draw `history` (rows of metrics.jsonl) to a PNG, whole or not at all."""
    epochs = [row["epoch"] for row in history]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    loss, accuracy = figure.subplots(1, 2)
    loss.plot(epochs, [row["train_loss"] for row in history], marker=".", color="tab:blue")
    loss.set(xlabel="epoch", ylabel="training loss")
    accuracy.plot(epochs, [100 * row["train_accuracy"] for row in history], marker=".", label="training")
    accuracy.plot(epochs, [100 * row["test_accuracy"] for row in history], marker=".", label="test")
    accuracy.set(xlabel="epoch", ylabel="accuracy, %")
    accuracy.legend(frameon=False)
    for axes in (loss, accuracy):
        axes.grid(alpha=0.3)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.suptitle(title)
    with atomic_path(path) as part:
        figure.savefig(part, format="png", dpi=110)
