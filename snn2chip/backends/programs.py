"""Run a program of deploy/ in its environment: arguments and files in, lines and files out."""

from __future__ import annotations

import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Sequence

from snn2chip.backends.environment import Environment, find
from snn2chip.backends.kinds import Kind
from snn2chip.backends.processes import end, last_words, started
from snn2chip.errors import InputError, SetupError
from snn2chip.places import deploy_file

_BAD_INPUT = 2  # the programs' exit status for a file they cannot use


def need(kind: Kind) -> Environment:
    """The environment.

    Raises:
        SetupError: it is not set up.
    """
    environment = find(kind)
    if environment is None:
        raise SetupError(f"{kind.title}'s environment is not set up; run `{kind.setup}` once")
    return environment


def run_program(
    environment: Environment,
    name: str,
    arguments: Sequence[str],
    timeout: float | None,
    follow: Callable[[str], None],
) -> str:
    """Run the program `name` of the environment's folder, hand each line of its stdout to `follow`, return its stderr.

    Raises:
        InputError: it failed; the message is the program's own.
    """
    # -B: no bytecode beside the programs, which may be part of an installed package.
    kind = environment.kind
    command = [str(environment.python), "-E", "-s", "-B", str(deploy_file(kind.folder, name)), *arguments]
    late = threading.Event()
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as words:
        with started(command, kind.setup, stdout=subprocess.PIPE, stderr=words, text=True) as process:

            def give_up() -> None:
                late.set()
                end(process)

            timer = threading.Timer(timeout or 0, give_up)
            timer.daemon = True
            if timeout is not None:
                timer.start()
            try:
                for line in process.stdout or ():
                    follow(line.strip())
                status = process.wait()
            finally:
                timer.cancel()
        words.seek(0)
        said = words.read()
    if late.is_set():
        raise InputError(f"{kind.title} was not done after {timeout} s; give it more time or fewer samples")
    if status == 0:
        return said
    if status < 0:
        name = signal.Signals(-status).name
        hint = "memory may have run out: run fewer samples"
        if -status == signal.SIGSEGV:  # what a simulator in C++ makes of a file it does not check
            hint = "a file may be damaged: make it again"
        raise InputError(f"{kind.title}'s program was killed by {name}; {hint}")
    message = last_words(said)
    raise InputError(message if status == _BAD_INPUT else f"{kind.title} failed: {message}")
