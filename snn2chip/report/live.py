"""report.html while a network trains, and the same figures for TensorBoard."""

from __future__ import annotations

import webbrowser
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from snn2chip.errors import SetupError
from snn2chip.parallel import is_leader
from snn2chip.report.graph import about_training
from snn2chip.report.record import PAGE, Record
from snn2chip.train.loop import Trainer

REFRESH = 5  # seconds


def tensorboard() -> Any:
    """torch's SummaryWriter.

    Raises:
        SetupError: the package tensorboard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise SetupError(
            f"--tensorboard needs the package tensorboard ({error}); pip install 'snn2chip[tensorboard]'"
        ) from None
    return SummaryWriter


class Live:
    """Follows a training in its leader: `begin` once it holds the folder, `epoch` after each, `end` when model.pt is
    there. A page that is never ended goes on refreshing, and says at which epoch it stopped.

    Raises:
        SetupError: `board`, and no TensorBoard.
        InputError: a file cannot be written.
    """

    def __init__(self, trainer: Trainer, console: Console, watch: bool, board: Path | None) -> None:
        self.trainer, self.console, self.watch, self.board = trainer, console, watch, board
        self.record = Record(trainer.out)
        self._writer: Any = None
        self._begun = not is_leader()
        self._about = about_training(trainer.recipe, trainer.network, trainer.train_set.classes) if is_leader() else {}

    def begin(self) -> None:
        """Write the page as far as it goes, and open it if that is wanted."""
        if self._begun:
            return
        self._begun = True
        self._write(REFRESH)
        if self.board is not None:
            self._writer = tensorboard()(str(self.board))
        if self.watch:
            address = (self.trainer.out / PAGE).resolve().as_uri()
            if not webbrowser.open(address):
                self.console.print(f"no browser to open; look at {address}")

    def epoch(self, row: Mapping[str, float]) -> None:
        """After an epoch with these metrics."""
        if not is_leader():
            return
        self._write(REFRESH)
        if self._writer is not None:
            for name, value in row.items():
                if name != "epoch":
                    self._writer.add_scalar(name, value, int(row["epoch"]))
            self._writer.flush()

    def end(self) -> None:
        """The last page, of what became model.pt."""
        if is_leader():
            self._write(0)
            if self._writer is not None:
                self._writer.close()

    def _write(self, refresh: int) -> None:
        trainer, path = self.trainer, self.trainer.out / "model.pt"
        metrics = getattr(trainer, "metrics", {})
        said = {"history": trainer.progress.history, "epochs": trainer.recipe.train.epochs}
        self.record.add("about", "model", path, self._about)
        self.record.add("train", "model", path, metrics | said)
        self.record.save(refresh)
