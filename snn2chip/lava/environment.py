"""Lava's environment: is it there, what does it hold, make it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from snn2chip.console import console_of
from snn2chip.errors import SetupError
from snn2chip.lava.interpreters import LIGHT_VERSIONS, PYTHON_VARIABLE, Candidate, NoPythonError, choose, probe
from snn2chip.lava.processes import child_environment, last_words, started
from snn2chip.resources import CACHE_VARIABLE, cache_folder, deploy_file


class RegistryError(SetupError):
    """The package index could not be reached."""


@dataclass(frozen=True)
class Environment:
    """An interpreter that imports Lava.

    `folder` is the virtual environment made by `setup`, None for an interpreter that was given ready.
    `versions` maps python, lava-nc, lava-dl, numpy and others to what is installed.
    """

    python: Path
    full: bool
    versions: Mapping[str, str] = field(hash=False)
    folder: Path | None = None


def find(full: bool = False) -> Environment | None:
    """The environment that is ready to use, None if `setup` has to make it. Takes no lock, builds nothing.

    Raises:
        NoPythonError: SNN2CHIP_LAVA_PYTHON is set to something that does not run.
    """
    given = _given(full)
    if given:
        return given
    folder = _folder(full)
    python = folder / "bin" / "python"
    try:
        versions = json.loads((folder / "ready.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not python.exists():  # the interpreter that it was built from is gone
        return None
    return Environment(python, full, versions, folder)


def _given(full: bool) -> Environment | None:
    """The interpreter in SNN2CHIP_LAVA_PYTHON if it imports Lava as it is."""
    explicit = os.environ.get(PYTHON_VARIABLE)
    if not explicit:
        return None
    candidate = probe(Path(explicit).expanduser(), PYTHON_VARIABLE, LIGHT_VERSIONS)
    if candidate.version is None:
        raise NoPythonError(
            f"{PYTHON_VARIABLE}: '{explicit}' {candidate.problem}; "
            f"name a Python {' or '.join(LIGHT_VERSIONS)}, or unset it"
        )
    if not candidate.has_lava:
        return None
    try:
        versions, complete = _check(candidate.python)
    except SetupError:
        return None
    return Environment(candidate.python, full, versions) if complete or not full else None


def _check(python: Path) -> tuple[dict[str, str], bool]:
    """Versions of what the interpreter imports for Lava, and whether nothing had to be stood in for.

    Raises:
        SetupError: it cannot import Lava.
    """
    runner = deploy_file("lava", "run_network.py")
    answer = subprocess.run(
        [python, "-E", "-s", "-B", runner, "--check"],
        env=child_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        versions = json.loads(answer.stdout.strip().splitlines()[-1])
        standins = versions.pop("standins")
    except (ValueError, IndexError, AttributeError, KeyError) as error:
        raise SetupError(
            f"'{python}' cannot run Lava: {last_words(answer.stderr)}; "
            "remove the environment and run `snn2chip lava setup`"
        ) from error
    return {str(key): str(value) for key, value in versions.items()}, not standins


def _locks(full: bool) -> list[tuple[Path, list[str]]]:
    """Requirement files of the environment in the order of installing, with pip's options for each."""
    if full:
        return [(deploy_file("lava", "requirements-full.txt"), [])]
    return [
        (deploy_file("lava", "requirements-light.txt"), ["--only-binary", ":all:"]),
        (
            deploy_file("lava", "requirements-light-nodeps.txt"),
            ["--only-binary", ":all:", "--no-deps", "--ignore-requires-python"],
        ),
    ]


def _folder(full: bool) -> Path:
    """Where the environment is or will be: a folder for each lock and each explicit interpreter."""
    digest = hashlib.sha256(os.environ.get(PYTHON_VARIABLE, "").encode())
    for path, options in _locks(full):
        digest.update(path.read_bytes() + " ".join(options).encode())
    return cache_folder() / "lava" / f"{'full' if full else 'light'}-{digest.hexdigest()[:12]}"


def setup(full: bool = False, progress: bool = True) -> Environment:
    """Make Lava's environment unless it is there, and return it. The light one takes about 20 seconds.

    The folder is complete once its ready.json exists; one without (an interrupted setup) is built anew. Of
    two processes that ask at the same time one builds and the other waits.

    Raises:
        NoPythonError: no interpreter that Lava runs on.
        RegistryError: the package index cannot be reached.
        SetupError: installing failed, or the result cannot import Lava.
    """
    if sys.platform == "win32":
        raise SetupError("Lava's processes are forked, which Windows cannot do; use WSL, Linux or macOS")
    ready = find(full)
    if ready:
        return ready
    folder = _folder(full)
    kind = "full" if full else "light"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SetupError(
            f"cannot make '{folder.parent}': {error.strerror}; set {CACHE_VARIABLE} to a folder you can write"
        ) from error
    with _steps(f"Lava's {kind} environment", progress) as say, _locked(folder, say):
        ready = find(full)  # another process may have made it meanwhile
        if ready:
            return ready
        base = choose(full, say)
        log = folder.with_name(f"{folder.name}.log")
        try:
            versions = _build(folder, base, full, log, say)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        log.unlink(missing_ok=True)
    return Environment(folder / "bin" / "python", full, versions, folder)


def _build(folder: Path, base: Candidate, full: bool, log: Path, say: Callable[[str], None]) -> dict[str, str]:
    """Make the virtual environment in place, check it, and mark it ready last."""
    if folder.exists():
        shutil.rmtree(folder, ignore_errors=True)
    say(f"making it with Python {base.version} ({base.source})")
    with log.open("w", encoding="utf-8") as file:
        _install([str(base.python), "-E", "-s", "-m", "venv", str(folder)], file, log)
        python = folder / "bin" / "python"
        for lock, options in _locks(full):
            say(f"installing {lock.name}" + (" (several GB)" if full else ""))
            pip = [str(python), "-E", "-s", "-m", "pip", "install", "--no-input"]
            _install([*pip, *options, "-r", str(lock)], file, log)
    say("importing it")
    versions, complete = _check(python)
    if full and not complete:
        raise SetupError(f"'{python}' has no torch after installing lava-dl; see '{log}'")
    marker = folder / "ready.json"
    part = folder / "ready.json.part"
    part.write_text(json.dumps(versions, indent=2) + "\n", encoding="utf-8")
    part.replace(marker)
    return versions


def _install(command: Sequence[str], file: IO[str], log: Path) -> None:
    """Run one step of making the environment; its output goes to the log."""
    start = file.tell()
    with started(command, stdout=file, stderr=subprocess.STDOUT) as process:
        status = process.wait()
    if status == 0:
        return
    with log.open(encoding="utf-8", errors="replace") as written:
        written.seek(start)
        text = written.read()
    errors = [line for line in text.splitlines() if re.match(r"(?i)\s*error", line)] or text.splitlines()
    reason = errors[0].strip() if errors else f"exit status {status}"
    message = f"could not make Lava's environment: {reason} (see '{log}')"
    if re.search(r"(?i)new connection|max retries exceeded|connection broken|name resolution|timed out", text):
        raise RegistryError(
            f"{message}; the package index cannot be reached: check the network and pip's configuration, or "
            f"set {PYTHON_VARIABLE} to an interpreter that has lava-nc and lava-dl"
        )
    raise SetupError(f"{message}; mend it and run `snn2chip lava setup` again")


@contextmanager
def _locked(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock file beside `folder`; the system lets go of it however this process ends."""
    import fcntl  # not on Windows, where setup stops before this

    with folder.with_name(f"{folder.name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            say("waiting for another process that makes it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _steps(title: str, progress: bool) -> Iterator[Callable[[str], None]]:
    """Give a function that shows the current step; without a terminal only a first and a last line."""
    console = console_of(stderr=True, quiet=not progress)
    start = time.monotonic()
    if console.is_terminal:
        with console.status(f"{title} ...") as status:
            yield lambda step: status.update(f"{title}: {step} ...")
    else:
        console.print(f"{title}: making it, if need be ...")
        yield lambda step: None
    console.print(f"{title}: ready after {time.monotonic() - start:.1f} s")
