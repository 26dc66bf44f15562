"""How the programs of the far side fail: one line on stderr and an exit status. They import this first."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

BAD_INPUT, SIMULATOR_FAILED, INTERRUPTED, TERMINATED = 2, 3, 130, 143


class RefusedError(Exception):
    """What was asked for cannot be run; the message is for the user."""


class SimulatorError(Exception):
    """The simulator, or one of its processes, failed; the message is for the user."""


def first_line(error: BaseException) -> str:
    """The first line of what an error says, as it may be printed; of one that is not ours, after its kind."""
    text = (str(error).strip().splitlines() or [""])[0][:1000]
    text = "".join(sign if sign.isprintable() else "?" for sign in text)
    if isinstance(error, (RefusedError, SimulatorError)):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


_WORDS = re.compile(
    "(can'?t|cannot|unable to|fail(ed|ure)? to) (re)?alloc|allocation failed|bad_alloc|out of memory|"
    "(not enough|insufficient) memory|can'?t start new thread|failed to map segment|Cannot allocate memory",
    re.IGNORECASE,
)


def out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or what it came of, is of memory, threads or processes that ran out."""
    while error is not None:
        short = isinstance(error, OSError) and error.errno in (errno.ENOMEM, errno.EAGAIN)
        if short or isinstance(error, MemoryError) or (isinstance(error, Exception) and _WORDS.search(str(error))):
            return True
        error = error.__cause__ or error.__context__
    return False


def fail(message: str, status: int) -> None:
    """Say what went wrong and leave at once: a simulator's threads and destructors could hang an ordinary exit."""
    print(f"error: {message}", file=sys.stderr, flush=True)
    os._exit(status)


def report(error: BaseException) -> None:
    """Say in one line what went wrong and leave."""
    if isinstance(error, KeyboardInterrupt):
        fail("interrupted", error.args[0] if error.args else INTERRUPTED)
    if isinstance(error, BrokenPipeError):
        os._exit(TERMINATED)  # whoever read the progress is gone
    if out_of_memory(error):
        fail(f"not enough memory ({first_line(error)}); run fewer samples at a time", BAD_INPUT)
    if isinstance(error, ImportError):
        name = Path(sys.argv[0]).resolve().parent.name  # a program is in the folder of its simulator
        fail(
            f"{sys.executable} cannot import what it needs: {error}; `snn2chip {name} setup` repairs it",
            SIMULATOR_FAILED,
        )
    fail(first_line(error), BAD_INPUT if isinstance(error, RefusedError) else SIMULATOR_FAILED)


# for what fails while the programs import numpy, too: they import this first
sys.excepthook = lambda kind, error, trace: report(error)


def leave(action: Callable[[], None]) -> None:
    """Do `action` and leave the process: with status 0, or with one line that says what went wrong."""
    try:
        action()
        sys.stdout.flush()
        os._exit(0)  # as `fail` does
    except SystemExit:
        raise
    except BaseException as error:
        report(error)
