"""Lava's environment: is it there, what does it hold, make it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from snn2chip.console import console_of
from snn2chip.errors import InputError, SetupError
from snn2chip.files import exclusive, not_only_ours, parse, part_folder, read
from snn2chip.lava.interpreters import LIGHT_VERSIONS, PYTHON_VARIABLE, Candidate, NoPythonError, choose, probe
from snn2chip.lava.processes import child_environment, last_words, started
from snn2chip.places import CACHE_VARIABLE, cache_folder, deploy_file


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
        versions = read(folder / "ready.json", "JSON")
    except (OSError, InputError):
        return None
    # the interpreter that it was built from is gone, or others may have put something there
    if not python.exists() or not_only_ours(folder.parent) or not_only_ours(folder) or not isinstance(versions, dict):
        return None
    return Environment(python, full, {str(name): str(version) for name, version in versions.items()}, folder)


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
        versions, complete, _ = _check(candidate.python)
    except SetupError:
        return None
    return Environment(candidate.python, full, versions) if complete or not full else None


def _check(python: Path) -> tuple[dict[str, str], bool, dict[str, str]]:
    """Versions of what the interpreter imports for Lava, whether nothing was stood in for, and all that is installed.

    Raises:
        SetupError: it cannot import Lava.
    """
    runner = deploy_file("lava", "run_network.py")
    try:
        answer = subprocess.run(
            [python, "-E", "-s", "-B", runner, "--check"],
            env=child_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=600,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SetupError(f"'{python}' cannot run Lava: {' '.join(str(error).split())}") from None
    try:
        versions = parse(answer.stdout.strip().splitlines()[-1], "JSON")
        standins, installed = versions.pop("standins"), versions.pop("installed")
        known = {_normal(name): str(version) for name, version in installed.items()}
    except (ValueError, IndexError, AttributeError, KeyError, TypeError) as error:
        raise SetupError(f"'{python}' cannot run Lava: {last_words(answer.stderr)}") from error
    return {str(key): str(value) for key, value in versions.items()}, not standins, known


def _normal(name: str) -> str:
    """A package's name as all its spellings compare."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _made(python: Path, full: bool) -> dict[str, str]:
    """Versions in an environment that `setup` made, if it is as it was made.

    Raises:
        SetupError: it does not import Lava, or a pinned package is missing, damaged or of another version.
    """
    versions, complete, installed = _check(python)
    if full and not complete:
        raise SetupError(f"'{python}' has no torch after installing lava-dl")
    lines = [line for lock, _ in _locks(full) for line in lock.read_text(encoding="utf-8").splitlines()]
    pinned = dict(re.findall(r"^([\w.-]+)==([^\s;]+)", "\n".join(lines), re.MULTILINE))
    for name, version in pinned.items():
        found = installed.get(_normal(name), "missing")
        if found != version:
            raise SetupError(f"'{python}': {name} is {found}, not {version}")
    return versions


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

    One that is there is tried out: it has to import Lava, and every package has to be whole and of the pinned
    version; else it is built anew, in a folder of its own that takes its place when it is whole. Of two processes
    that ask at the same time one builds and the other waits.

    Raises:
        NoPythonError: no interpreter that Lava runs on.
        RegistryError: the package index cannot be reached.
        SetupError: installing failed, or the result cannot import Lava.
    """
    if sys.platform == "win32":
        raise SetupError("Lava's processes are forked, which Windows cannot do; use WSL, Linux or macOS")
    ready, broken = _ready(full)
    if ready:
        return ready
    folder = _folder(full)
    kind = "full" if full else "light"
    try:
        folder.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise SetupError(
            f"cannot make '{folder.parent}': {error.strerror}; set {CACHE_VARIABLE} to a folder you can write"
        ) from error
    if reason := not_only_ours(folder.parent):
        raise SetupError(f"{reason}, and what is there is run; or set {CACHE_VARIABLE} to another folder")
    with (
        _steps(f"Lava's {kind} environment", progress) as say,
        exclusive(folder.parent, wait=lambda: say("waiting for another process that makes it")),
    ):
        ready, broken = _ready(full)  # another process may have made it meanwhile
        if ready:
            return ready
        base = choose(full, say)
        log = folder.with_name(f"{folder.name}.log")
        try:
            versions = _build(folder, base, full, log, say, broken)
        except OSError as error:
            raise SetupError(
                f"cannot make '{folder}': {error.strerror or error}; free some space, or set {CACHE_VARIABLE}"
            ) from error
        log.unlink(missing_ok=True)
    return Environment(folder / "bin" / "python", full, versions, folder)


def _ready(full: bool) -> tuple[Environment | None, str]:
    """The environment, tried out if `setup` made it; or none, and what is wrong with the one that is there."""
    ready = find(full)
    if ready is None or ready.folder is None:
        return ready, ""
    try:
        _made(ready.python, full)
    except SetupError as error:
        return None, str(error)
    return ready, ""


def _build(
    folder: Path, base: Candidate, full: bool, log: Path, say: Callable[[str], None], broken: str
) -> dict[str, str]:
    """Make the virtual environment in a folder of this process, check it, and put it in the place of `folder`.

    Nothing in it that is used depends on where it lies. An installer that outlives its killed parent goes on in its
    own folder, and in a log that has no name any more.
    """
    say(f"{f'repairing it ({broken})' if broken else 'making it'} with Python {base.version} ({base.source})")
    log.unlink(missing_ok=True)
    with part_folder(folder.parent) as staging:
        made = staging / "environment"
        python = made / "bin" / "python"
        with log.open("x", encoding="utf-8") as file:
            _install([str(base.python), "-E", "-s", "-m", "venv", str(made)], file, log)
            for lock, options in _locks(full):
                say(f"installing {lock.name}" + (" (several GB)" if full else ""))
                pip = [str(python), "-E", "-s", "-m", "pip", "install", "--no-input"]
                _install([*pip, *options, "-r", str(lock)], file, log)
        say("importing it")
        versions = _made(python, full)
        (made / "ready.json").write_text(json.dumps(versions, indent=2) + "\n", encoding="utf-8")
        made.chmod(0o755)  # whatever the umask is: see `not_only_ours`
        with suppress(FileNotFoundError):
            folder.rename(staging / "old")
        made.rename(folder)
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
