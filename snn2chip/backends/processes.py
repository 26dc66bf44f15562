"""Programs of other interpreters: what they get to see, how they are started and how they end."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from snn2chip.errors import SetupError


def child_environment() -> dict[str, str]:
    """Variables for child processes: ours, without what would mix this interpreter's packages with theirs."""
    drop = ("PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__", "PYTHONWARNINGS")
    kept = {key: value for key, value in os.environ.items() if key not in drop}
    # Simulators start processes or threads of their own; a pool of threads in each would only fight over the cores.
    threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    return {**kept, **dict.fromkeys(threads, "1")}


def ask(command: Sequence[str | Path], timeout: float, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a program to its end: its status and what it wrote. `more` are variables that it sees besides.

    Raises:
        OSError: it cannot be started.
        subprocess.TimeoutExpired: it was not done after so many seconds.
    """
    shown = {**child_environment(), **more}
    options: dict[str, Any] = {"capture_output": True, "text": True, "errors": "replace", "check": False}
    return subprocess.run(command, env=shown, stdin=subprocess.DEVNULL, timeout=timeout, **options)


@contextmanager
def started(command: Sequence[str], setup: str, **options: Any) -> Iterator[subprocess.Popen[Any]]:
    """Start a program in a process group of its own, and end the whole group if the block is left early.

    `setup` is the command that makes its environment.
    """
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, env=child_environment(), start_new_session=True, **options
        )
    except OSError as error:
        raise SetupError(f"'{command[0]}' does not run: {error.strerror}; run `{setup}`") from error
    try:
        yield process
    finally:
        if process.poll() is None:
            end(process)
        if process.stdout:
            process.stdout.close()


def end(process: subprocess.Popen[Any]) -> None:
    """Ask the program to end what it started and itself, then end its group; force it after 5 s."""
    try:
        process.terminate()
        process.wait(5)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
    except BaseException as error:  # too slow, or a second Ctrl-C
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if not isinstance(error, subprocess.TimeoutExpired):
            raise


def last_words(said: str) -> str:
    """The program's own message, else the last line it wrote."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    ours = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (ours or lines or ["it gave no reason"])[-1]
