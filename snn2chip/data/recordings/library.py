"""Recordings that a library reads, kept apart from this process.

`faery` is written in Rust. Over a damaged file it may panic, end the process where memory is short, or ask for the
gigabytes that four bytes of the file claim. So a process of its own, one for many files, reads them within limits.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from snn2chip.data.recordings.recording import Events, make_events, size_of
from snn2chip.errors import DataError, NotEnoughMemoryError, SetupError, reading
from snn2chip.text import one_line

_COLUMNS = (("x", "<u2"), ("y", "<u2"), ("on", "u1"), ("t", "<u8"))
_MEMORY, _SECONDS = 2**32, 120  # of a small file
_SQUEEZED = 100  # bytes of memory for one of the file, at most
_A_SECOND = 2**20  # bytes of the file for which a second is given


class _Process:
    """The process that reads; another one after a fork, or when the last has ended."""

    def __init__(self) -> None:
        self._running: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._lock = threading.Lock()
        atexit.register(self.end)

    def end(self) -> int:
        """End it; its exit status."""
        process, self._running = self._running, None
        if process is None or self._owner != os.getpid():
            return 0
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()  # type: ignore[union-attr]
        try:
            return process.wait(2)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

    def _start(self) -> subprocess.Popen[bytes]:
        if self._running is None or self._owner != os.getpid():
            self._owner = os.getpid()
            self._running = subprocess.Popen(
                [sys.executable, "-P", "-B", str(Path(__file__).with_name("faery_program.py"))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # Rust's traces
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            )
        return self._running

    def ask(self, path: Path) -> tuple[list[Any], list[np.ndarray[Any, Any]], int]:
        """What it answers: the first line, the columns, and the exit status if it ended instead."""
        size = path.stat().st_size
        question = [str(path.absolute()), _MEMORY + _SQUEEZED * size, _SECONDS + size // _A_SECOND, _COLUMNS]
        with self._lock:
            process = self._start()
            assert process.stdin is not None and process.stdout is not None
            try:
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.write(json.dumps(question).encode() + b"\n")
                    process.stdin.flush()
                line = process.stdout.readline()
                if not line.endswith(b"\n"):
                    return [], [], self.end()
                head = json.loads(line)
                count = head[2] if len(head) == 3 else 0
                kinds = [np.dtype(kind) for _, kind in _COLUMNS]
                return head, [np.frombuffer(process.stdout.read(count * k.itemsize), k) for k in kinds], 0
            except BaseException:  # Ctrl-C: what it still says would be taken for the next answer
                process.kill()
                self.end()
                raise


_PROCESS = _Process()


def read_with_library(path: Path, sensor: Sequence[int] | None) -> Events:
    """AEDAT 4, Prophesee .raw and .dat, and .es, with `faery`; what comes before a damaged packet is not used.

    Raises:
        DataError: damaged.
        NotEnoughMemoryError: there is less than the events take.
        SetupError: the library is missing, or does not run.
    """
    if importlib.util.find_spec("faery") is None:
        raise SetupError(
            f"'{path}': reading {path.suffix} needs the library faery; install it with pip install 'snn2chip[events]'"
        )
    remedy = "record or fetch it again"
    with reading(path, "truncated", error=DataError, remedy=remedy):
        head, columns, status = _PROCESS.ask(path)
    if not head and status > 0:
        raise SetupError(f"cannot read '{path}': the library faery does not run, or there is not enough memory for it")
    if not head:
        name = signal.Signals(-status).name if status else "nothing"
        raise DataError(
            f"'{path}' is truncated or damaged, or larger than memory (reading it ended with {name}); {remedy}"
        )
    if len(head) == 1:
        said = one_line(head[0], 400)
        if said.startswith("MemoryError"):
            raise NotEnoughMemoryError(f"'{path}': not enough memory to read it")
        raise DataError(f"'{path}' is truncated or damaged ({said}); {remedy}")
    x, y, on, t = columns
    size = size_of(path, (head[1], head[0]), sensor)
    return make_events(x, y, on, t, size, str(path))
