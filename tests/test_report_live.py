"""The page of a training while it trains."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from conftest import Command, tiny_recipe

from snn2chip.console import console_of
from snn2chip.data import load
from snn2chip.report import live
from snn2chip.report.record import Record
from snn2chip.train.loop import Trainer


def test_the_page_refreshes_until_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Opened once, written at the start and after each epoch, without refreshing at the end."""
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda address: opened.append(address))
    trainer = Trainer(
        tiny_recipe(train__epochs=2), load("digits", "train"), load("digits", "test"), tmp_path, fuse=False
    )
    following = live.Live(trainer, console_of(), True, None)
    pages = []
    for event in trainer.run():
        following.begin()
        if event.metrics is not None:
            following.epoch(event.metrics)
            pages.append((tmp_path / "report.html").read_text())
    following.end()
    assert opened == [(tmp_path / "report.html").resolve().as_uri()] and opened[0] in capsys.readouterr().out
    refreshing = f'http-equiv="refresh" content="{live.REFRESH}"'
    assert [re.findall(r"training, epoch \d of \d", page) for page in pages] == [
        [f"training, epoch {epoch} of 2"] for epoch in (1, 2)
    ]
    assert all(refreshing in page for page in pages)
    last = (tmp_path / "report.html").read_text()
    assert refreshing not in last and "float32" in last and "neurons that fire" in last
    record = Record.at(tmp_path)
    assert record is not None and set(record.entries) == {"about", "train"}
    assert record.entries["train"]["history"] == trainer.progress.history


def test_tensorboard_that_is_not_there(tmp_path: Path, cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said before anything is done."""
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    said = cli("train", "digits-tdbn", "--out", tmp_path / "run", "--tensorboard")
    said.refused("--tensorboard", "pip install 'snn2chip[tensorboard]'")
    assert not (tmp_path / "run").exists()
