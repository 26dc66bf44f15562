"""Files that are whole or absent: write beside the target, flush to disk, then rename."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from snn2chip.errors import InputError

T = TypeVar("T")


@contextmanager
def atomic_path(target: str | Path) -> Iterator[Path]:
    """Give a temporary path in the target's folder; rename it over `target` when the block succeeds.

    Whatever interrupts the block (an exception, Ctrl-C, a full disk), `target` keeps its old content or
    stays absent and the temporary file is removed. An `OSError` becomes an `InputError` naming `target`.

    Raises:
        InputError: the folder cannot be made, or writing failed (disk full, no permission).
    """
    target = Path(target)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir():
            raise InputError(f"cannot write '{target}': it is a folder; name a file")
        if target.exists() and not target.is_file():  # it would be replaced
            raise InputError(f"cannot write '{target}': it is a device or a pipe; name a file")
        yield part
        with part.open("rb") as written:
            os.fsync(written.fileno())
        part.replace(target)
    except OSError as error:
        raise InputError(
            f"cannot write '{target}': {error.strerror or error}; free some space or choose another place"
        ) from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def read_back(target: str | Path, part: Path, read: Callable[[Path], T]) -> T:
    """What `read` gives of the file just written to `part`, before it takes the place of `target`.

    Raises:
        InputError: `read` refuses it: then nothing is kept that could not be used.
    """
    try:
        return read(part)
    except InputError as error:
        reason = str(error).removeprefix(f"'{part}': ").replace(str(part), str(target))
        raise InputError(f"'{target}' is not written, it could not be read back: {reason}") from None


@contextmanager
def exclusive(folder: Path, what: str) -> Iterator[None]:
    """Hold `folder` for one process at a time: two that write the same checkpoints spoil each other's.

    The lock is the system's own (flock on the folder), gone with the process however it ends; where there is no
    such lock, nothing is held.

    Raises:
        InputError: another process holds it.
    """
    try:
        import fcntl
    except ImportError:  # not a Unix
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"'{folder}' is in use by another {what}; wait for it, or choose another folder") from None
        yield
    finally:
        os.close(handle)


def write_text(target: str | Path, text: str) -> None:
    """Write `text` to `target` as UTF-8, whole or not at all (see `atomic_path`)."""
    with atomic_path(target) as part:
        part.write_text(text, encoding="utf-8")


def write_json(target: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all (see `atomic_path`)."""
    write_text(target, json.dumps(value, indent=2) + "\n")
