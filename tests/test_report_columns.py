"""Tables at any width: every word whole, every column explained."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from conftest import ROOT, Command, Quickstart
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from snn2chip.console import console_of
from snn2chip.report import columns
from snn2chip.report.columns import COMMANDS, Sheet


def words(text: str) -> set[str]:
    return set(re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|[│╭╮╰╯─━├└┃]", " ", text).split())


def rendered(table: object, width: int) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as said:
        console.print(table)
    return said.get()


CELL = st.text("abc0123,.", max_size=14)
SENTENCE = st.lists(st.text("abcdefg", min_size=1, max_size=20), max_size=12).map(" ".join)


@settings(deadline=None)
@given(st.data(), st.sampled_from([sheet for sheets in COMMANDS.values() for sheet in sheets]), st.integers(60, 200))
def test_no_word_is_broken(data: st.DataObject, sheet: Sheet, width: int) -> None:
    """Any cells, any width: nothing is lost, nothing is cut, and no line is wider than the terminal."""
    row = [SENTENCE if name in sheet.words else CELL for name in sheet.columns]
    rows = data.draw(st.lists(st.tuples(*row), max_size=4))
    said = rendered(sheet.table("a table", rows), width)
    assert max(map(len, said.splitlines())) <= width
    wanted = {word for cells in [list(sheet.columns), *rows] for cell in cells for word in cell.split()}
    assert words(said) == wanted | {"a", "table"}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_column_is_explained(command: str, cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--explain` says each column's meaning, without the arguments that the command needs otherwise."""
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "80")
    said = re.sub(r"\x1b\[[0-9;]*m", "", cli(command, "--explain").ok())
    assert max(map(len, said.splitlines())) <= 80
    for sheet in COMMANDS[command]:
        assert all(meaning for meaning in sheet.columns.values())
        assert {word for pair in sheet.columns.items() for text in pair for word in text.split()} <= words(said)


def test_the_page_of_columns_is_written() -> None:
    """docs/tables.md is `python -c 'from snn2chip.report import columns; print(columns.page())'`."""
    assert (ROOT / "docs" / "tables.md").read_text(encoding="utf-8") == columns.page()


def test_in_a_pipe_tables_fit_and_lines_stay_whole(capsys: pytest.CaptureFixture[str]) -> None:
    """As wide as in a terminal of 80 columns, whoever reads it; what is no table has no lines to break."""
    console = console_of()
    console.print(columns.EXPORT.table("a title", [["1,234,567"] * len(columns.EXPORT.columns)]))
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80
    console.print("word " * 40)
    assert capsys.readouterr().out == "word " * 40 + "\n"


def test_commands_at_80_columns(
    cli: Command, quickstart: Quickstart, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What commands print at 80 columns has the words that it has in a wide terminal, numbers of seconds apart."""
    model, net = tmp_path / "model.pt", tmp_path / "model.net"
    shutil.copyfile(quickstart.model, model)
    cli("encode", quickstart.net, "-o", tmp_path / "input.npz", "--limit", "1").ok()
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    for command in (
        ("fold-and-export", model), ("simulate", net, "--cost", "--limit", "2"), ("fit", net), ("show", net),
        ("verify", model, net, "--no-lava", "--samples", "1"), ("recipe", "--fields"),
        ("recipe", "digits-tdbn", "--fit"), ("chip", net, "--input", tmp_path / "input.npz"),
        ("report", tmp_path, "--samples", "1"),
    ):  # fmt: skip
        said = []
        for width in ("80", "1000"):
            monkeypatch.setenv("COLUMNS", width)
            said.append(re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", cli(*command).ok()))
        narrow, wide = said
        long = [line for line in narrow.splitlines() if len(line) > 80 and " " in line.removeprefix("wrote ").strip()]
        assert all(line.startswith("next: ") for line in long), long  # a command to be copied stays in one line
        broken = {word for word in words(narrow) - words(wide) if not re.fullmatch(r"[\d.,]+", word)}
        assert not broken, (command, broken)
