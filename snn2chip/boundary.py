"""The one place where every error of a command ends: as a line on stderr, and an exit code.

0 done, 1 a check failed, 2 bad input, bad usage or not enough memory, 70 an error that nobody foresaw, 130 interrupted.
"""

from __future__ import annotations

import mmap
import os
import signal
import sys
import tempfile
import threading
import traceback
from contextlib import suppress
from pathlib import Path

from snn2chip.errors import Snn2ChipError, interrupted, out_of_memory
from snn2chip.text import first_line, one_line, printable

INTERRUPTED = 130  # what a shell reports for Ctrl-C
UNFORESEEN = 70  # EX_SOFTWARE of sysexits.h
_ROOM = 2**30  # bytes of addresses: torch, scipy and their buffers


def reader_left() -> None:
    """Send what is still to come nowhere: the reader of `snn2chip ... | head -1` has enough, or its disk is full."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def say(line: str) -> None:
    """A line on stderr, if there is one."""
    with suppress(OSError, ValueError):
        print(printable(line), file=sys.stderr, flush=True)


def report(error: BaseException) -> int:
    """Say in one line what ended a command (a recipe's faults in one each), and return the exit code."""
    if isinstance(error, BrokenPipeError):  # `snn2chip ... | head`
        reader_left()
        return 0
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        reader_left()  # or Python would complain of it once more, at its end
    if interrupted(error):
        say("interrupted")
        return INTERRUPTED
    if isinstance(error, Snn2ChipError):
        for line in error.lines:
            say(f"error: {line}")
        return error.exit_code
    if out_of_memory(error):
        traceback.clear_frames(error.__traceback__)  # what they held is free
        say(
            f"error: not enough memory ({first_line(error, 200)}); take --limit, fewer samples or a smaller batch "
            "(--batch, or --set train.batch_size=N), or allow the process more"
        )
        return 2
    if isinstance(error, RecursionError):
        say("error: something in the input is nested too deeply")
        return 2
    if isinstance(error, OSError):
        say(f"error: {error.filename or 'system'}: {error.strerror or error}")
        return 2
    where = _log(error)
    say(
        f"error: a fault in snn2chip itself: {type(error).__name__}: {first_line(error, 200)}; please report it"
        + (f" with '{where}'" if where else "")
    )
    return UNFORESEEN


def _log(error: BaseException) -> Path | None:
    """The traceback in a file of its own, in the user's cache or where temporary files go; None if in neither."""
    words = [f"snn2chip {' '.join(one_line(word) for word in sys.argv[1:])}\n", *traceback.format_exception(error)]
    with suppress(Exception):
        from snn2chip.places import cache_folder

        cache = cache_folder() / "errors"
        for folder in (cache, Path(tempfile.gettempdir())):
            with suppress(OSError):
                folder.mkdir(parents=True, exist_ok=True)
                handle, name = tempfile.mkstemp(".log", "snn2chip-", folder)
                with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
                    file.writelines(words)
                return Path(name)
    return None


def room() -> None:
    """Look whether the libraries find room, which end or hang without a word (OpenBLAS) where they do not.

    Raises:
        MemoryError: the process may not have that much.
    """
    with suppress(ImportError):  # not a Unix
        import resource

        if resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY:
            return
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # each of its threads takes memory before it computes
        try:
            mmap.mmap(-1, _ROOM).close()
        except OSError:
            raise MemoryError(f"the limit of its memory, ulimit -v, leaves less than {_ROOM >> 20:,} MiB") from None


def unraisable(found: sys.UnraisableHookArgs) -> None:
    """A Ctrl-C that came within a destructor or a callback of a weak reference is lost there: send it once more."""
    if isinstance(found.exc_value, KeyboardInterrupt):
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
    else:
        sys.__unraisablehook__(found)
