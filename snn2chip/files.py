"""Files that are whole or absent, folders that one process holds, what only this user can change, TOML and JSON read.

Standard library only: the build hook uses it before anything is installed.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
import tempfile
import tomllib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, TypeVar

from snn2chip.errors import InputError

TEXT_BYTES_MAX = 64_000_000  # of a TOML or JSON file; ours have some hundred kilobytes
DEPTH_MAX = 64  # of tables in tables; ours have six
T = TypeVar("T")
_handles: set[int] = set()  # of `_lock`


def _lock(folder: Path, flags: int = 0, wait: Callable[[], None] | None = None) -> int:
    """A handle that holds `folder`: the system's own lock (flock), gone with the process however it ends.

    Raises:
        BlockingIOError: another process holds it and there is no `wait`, which is called before waiting.
        OSError: it cannot be opened, or has no such lock (no Unix; some network file systems).
    """
    try:
        import fcntl
    except ImportError:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP)) from None
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | flags)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if wait is None:
                raise
            wait()
            fcntl.flock(handle, fcntl.LOCK_EX)
    except BaseException:
        os.close(handle)
        raise
    _handles.add(handle)
    return handle


def _let_go(handle: int) -> None:
    if handle in _handles:
        _handles.remove(handle)
        os.close(handle)


def _let_all_go() -> None:
    for handle in tuple(_handles):
        _let_go(handle)


if hasattr(os, "register_at_fork"):  # a lock lives as long as any copy of its handle, and what was forked may live on
    os.register_at_fork(after_in_child=_let_all_go)


@contextmanager
def exclusive(folder: Path, wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Make `folder` and hold it for one process at a time: two that write the same files spoil each other's.

    Where there is no lock (see `_lock`), nothing is held. With `wait` it is waited for, after `wait` was called.

    Raises:
        InputError: it cannot be made, or another process holds it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make folder '{folder}': {error.strerror}; choose another one") from error
    handle = None
    try:
        handle = _lock(folder, wait=wait)
    except BlockingIOError:
        raise InputError(
            f"'{folder}' is in use by another snn2chip; wait until it is done, or choose another folder"
        ) from None
    except OSError:
        pass
    try:
        yield
    finally:
        if handle is not None:
            _let_go(handle)


def refuse_results(folder: Path, results: Iterable[Path], overwrite: bool, go_on: str = "") -> None:
    """Refuse to write over what took long to make.

    Args:
        folder: for the message.
        results: the files of a run, there or not.
        overwrite: whether the user said that they may go.
        go_on: how to go on with them instead, if one can.

    Raises:
        InputError: some of them are there, and may not.
    """
    there = [path for path in results if os.path.lexists(path)]
    if there and not overwrite:
        names = ", ".join(path.relative_to(folder).as_posix() for path in there)
        way = f"go on with {go_on}, " if go_on else ""
        raise InputError(
            f"'{folder}' holds results already ({names}); {way}start over with --overwrite, which deletes them, or "
            f"choose another folder"
        )


def make_way(folder: Path, results: Iterable[Path], overwrite: bool, go_on: str = "") -> None:
    """As `refuse_results`, and delete what the user said may go. `folder` is to be held (see `exclusive`)."""
    results = list(results)
    refuse_results(folder, results, overwrite, go_on)
    for path in results:
        path.unlink(missing_ok=True)


@contextmanager
def part_folder(beside: Path) -> Iterator[Path]:
    """A new folder in `beside` for what is renamed out of it once it is whole; gone at the end, however that comes.

    Its name is random, it is made exclusively and only this user can look into it: nobody can have put something in
    the way. It is held while this process lives, so that those of killed ones are known, and removed here.

    Raises:
        OSError: it cannot be made.
    """
    for path in beside.glob(".snn2chip-*.part"):
        with suppress(OSError):  # of a living process, of another user, gone meanwhile, or without locks
            left = _lock(path, os.O_NOFOLLOW)
            if os.fstat(left).st_uid == os.geteuid():
                shutil.rmtree(path, ignore_errors=True)
            _let_go(left)
    while True:
        folder = Path(tempfile.mkdtemp(".part", ".snn2chip-", beside))
        handle: int | None = None
        try:
            handle = _lock(folder, os.O_NOFOLLOW)
            if not folder.exists():  # taken for a dead one's before it was held
                _let_go(handle)
                continue
        except (BlockingIOError, FileNotFoundError):
            continue
        except OSError:
            pass
        break
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if handle is not None:
            _let_go(handle)


def _place(target: Path) -> Path:
    """Where `target` is written: itself, or what it links to, as every program writes; makes its folder.

    Raises:
        InputError: it is no plain file, or may not be written.
        OSError: it cannot be looked at.
    """
    with suppress(FileNotFoundError):
        link, folder = target.lstat(), target.parent.stat()
        # as Linux itself does (protected_symlinks): whoever put it there chooses which of our files is replaced
        planted = stat.S_ISLNK(link.st_mode) and folder.st_mode & stat.S_IWOTH and hasattr(os, "geteuid")
        if planted and link.st_uid not in (os.geteuid(), folder.st_uid):
            raise InputError(f"cannot write '{target}': it is a link that another user made; remove it")
    place = Path(os.path.realpath(target))
    if place.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.is_dir():
        raise InputError(f"cannot write '{target}': it is a folder; name a file")
    if place.exists() and not place.is_file():  # it would be replaced
        raise InputError(f"cannot write '{target}': it is a device or a pipe; name a file")
    if place.exists() and not os.access(place, os.W_OK):
        raise InputError(f"cannot write '{target}': it is write-protected; choose another place, or chmod u+w it")
    return place


@contextmanager
def atomic_path(target: str | Path) -> Iterator[Path]:
    """Give a path to write to, in a `part_folder` beside `target`; rename it to `target` when the block succeeds.

    Whatever interrupts the block (an exception, Ctrl-C, a full disk), `target` keeps its old content or
    stays absent and nothing else is left; after a SIGKILL the next write into the folder removes the rest. A file
    that is replaced hands its permissions on, a link stays and the file that it points to is replaced. An `OSError`
    becomes an `InputError` naming `target`.

    Raises:
        InputError: the folder cannot be made, or writing failed (disk full, no permission).
    """
    if str(target) == "-":
        raise InputError("cannot write '-': what is printed is for people; name a file")
    try:
        place = _place(Path(target))
        with part_folder(place.parent) as folder:
            part = folder / place.name
            yield part
            with part.open("rb") as written:
                os.fsync(written.fileno())
            with suppress(FileNotFoundError):
                part.chmod(stat.S_IMODE(place.stat().st_mode))
            part.replace(place)
    except OSError as error:
        room = "free some space or " if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else ""
        raise InputError(f"cannot write '{target}': {error.strerror or error}; {room}choose another place") from error


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


def not_only_ours(path: Path) -> str | None:
    """Why `path` may hold what another user put there, None if only this user and root can change it.

    What is run from a folder or loaded as code has to pass this, as ssh asks it of its keys.
    """
    if not hasattr(os, "geteuid"):
        return None
    try:
        found = path.stat()
    except OSError as error:
        return f"cannot look at '{path}': {error.strerror}"
    if found.st_uid not in (0, os.geteuid()):
        return f"'{path}' belongs to another user (number {found.st_uid})"
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"'{path}' can be changed by other users; chmod go-w it"
    return None


def write_text(target: str | Path, text: str) -> None:
    """Write `text` to `target` as UTF-8, whole or not at all (see `atomic_path`)."""
    with atomic_path(target) as part:
        part.write_text(text, encoding="utf-8")


def write_json(target: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all (see `atomic_path`)."""
    write_text(target, json.dumps(value, indent=2) + "\n")


def parse(content: str | bytes, form: Literal["TOML", "JSON"]) -> Any:
    """The value of a text from outside, bytes being UTF-8; every fault of it is one kind of error.

    Raises:
        ValueError: it is not valid, too deeply nested, or holds an integer beyond 64 bits; one line without a source.
    """
    try:
        text = content.decode() if isinstance(content, bytes) else content
        value = tomllib.loads(text) if form == "TOML" else json.loads(text)
    except RecursionError:
        raise ValueError(f"not valid {form}: nested too deeply") from None
    except ValueError as error:  # UnicodeDecodeError is one
        raise ValueError(f"not valid {form}: {' '.join(str(error).split())}") from None
    waiting = [(value, 0)]
    while waiting:
        item, depth = waiting.pop()
        if depth > DEPTH_MAX:
            raise ValueError(f"not valid {form}: nested too deeply")
        if isinstance(item, (dict, list)):
            waiting += ((inner, depth + 1) for inner in (item.values() if isinstance(item, dict) else item))
        elif isinstance(item, int) and not -(2**63) <= item < 2**63:
            raise ValueError(f"not valid {form}: an integer of more than 64 bits")
    return value


def read(path: Path, form: Literal["TOML", "JSON"]) -> Any:
    """The value in a TOML or JSON file.

    Raises:
        InputError: it cannot be read or is not valid.
        FileNotFoundError: it is not there.
    """
    try:
        with path.open("rb") as file:
            content = file.read(TEXT_BYTES_MAX + 1)
        if len(content) > TEXT_BYTES_MAX:
            raise ValueError(f"more than {TEXT_BYTES_MAX:,} bytes")
        return parse(content, form)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InputError(f"cannot read '{path}': {error.strerror or error}") from None
    except ValueError as error:
        raise InputError(f"cannot read '{path}': {error}") from None


def sha256(path: str | Path) -> str:
    """SHA-256 of a file, which says that two are the same.

    Raises:
        OSError: it cannot be read.
    """
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_hdf5(path: Path) -> bool:
    """Whether a file begins as HDF5, as model.net and NIR graphs do and model.pt does not.

    Raises:
        InputError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(8) == b"\x89HDF\r\n\x1a\n"
    except OSError as error:
        raise InputError(f"cannot read '{path}': {error.strerror or error}") from None
