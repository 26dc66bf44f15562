"""The terminal: consoles on which text from outside is harmless, and progress bars."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from snn2chip.boundary import reader_left
from snn2chip.text import printable


class _Console(Console):
    """Prints foreign text as it is, harmless: no markup, no escape sequences.

    A reader that leaves ends the printing, not the command: its files and its exit code still count.
    """

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **options)

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # rich would exit with 1

    def print(self, *objects: Any, **options: Any) -> None:
        try:
            super().print(*objects, **options)
        except BrokenPipeError:
            reader_left()


def console_of(stderr: bool = False, quiet: bool = False) -> Console:
    """A console; lines are wrapped between words on a terminal, elsewhere they stay whole and tables fit 80 columns."""
    make = partial(_Console, stderr=stderr, quiet=quiet, highlight=False, markup=False, emoji=False)
    console = make()
    return console if console.is_terminal else make(width=80, soft_wrap=True)


@contextmanager
def progress_bar(title: str, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, nothing elsewhere; the function takes (done, of)."""
    console = console_of(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, of: bar.update(task, completed=done, total=of)
