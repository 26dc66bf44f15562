"""An environment: is it there, what does it hold, make it.

Asked with ``--check``, its program prints a line of JSON: `python` and the versions of what it is for, by name;
`standins`, what it put in the place of packages; and `installed`, the version of every package whose files are whole.
"""

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

from snn2chip.backends.interpreters import Candidate, NoPythonError, choose, probe
from snn2chip.backends.kinds import Kind
from snn2chip.backends.processes import ask, last_words, started
from snn2chip.console import console_of
from snn2chip.errors import InputError, SetupError
from snn2chip.files import exclusive, not_only_ours, parse, part_folder, read
from snn2chip.places import CACHE_VARIABLE, cache_folder, deploy_file


class RegistryError(SetupError):
    """The package index could not be reached."""


@dataclass(frozen=True)
class Environment:
    """An interpreter that imports what `kind` is for.

    `folder` is the virtual environment made by `setup`, None for an interpreter that was given ready.
    `versions` maps python and its packages to what is installed, as its program answers ``--check``.
    """

    python: Path
    kind: Kind
    versions: Mapping[str, str] = field(hash=False)
    folder: Path | None = None


def find(kind: Kind) -> Environment | None:
    """The environment that is ready to use, None if `setup` has to make it. Takes no lock, builds nothing.

    Raises:
        NoPythonError: `kind.variable` is set to something that does not run.
    """
    given = _given(kind)
    if given:
        return given
    folder = _folder(kind)
    python = folder / "bin" / "python"
    try:
        versions = read(folder / "ready.json", "JSON")
    except (OSError, InputError):
        return None
    # the interpreter that it was built from is gone, or others may have put something there
    if not python.exists() or not_only_ours(folder.parent) or not_only_ours(folder) or not isinstance(versions, dict):
        return None
    return Environment(python, kind, {str(name): str(version) for name, version in versions.items()}, folder)


def _given(kind: Kind) -> Environment | None:
    """The interpreter in `kind.variable` if it imports what it must as it is."""
    explicit = os.environ.get(kind.variable)
    if not explicit:
        return None
    candidate = probe(Path(explicit).expanduser(), kind.variable, kind)
    if candidate.version is None:
        raise NoPythonError(
            f"{kind.variable}: '{explicit}' {candidate.problem}; name a Python {' or '.join(kind.pythons)}, or unset it"
        )
    if not candidate.ready:
        return None
    try:
        versions, complete, _ = _check(candidate.python, kind)
    except SetupError:
        return None
    return Environment(candidate.python, kind, versions) if complete or not kind.complete else None


def _check(python: Path, kind: Kind) -> tuple[dict[str, str], bool, dict[str, str]]:
    """Versions of what the interpreter imports, whether nothing was stood in for, and all that is installed.

    Raises:
        SetupError: it cannot import what it must.
    """
    program = deploy_file(kind.folder, kind.program)
    try:
        answer = ask([python, "-E", "-s", "-B", program, "--check"], 600)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SetupError(f"'{python}' cannot run {kind.title}: {' '.join(str(error).split())}") from None
    try:
        versions = parse(answer.stdout.strip().splitlines()[-1], "JSON")
        standins, installed = versions.pop("standins"), versions.pop("installed")
        known = {_normal(name): str(version) for name, version in installed.items()}
    except (ValueError, IndexError, AttributeError, KeyError, TypeError) as error:
        raise SetupError(f"'{python}' cannot run {kind.title}: {last_words(answer.stderr)}") from error
    return {str(key): str(value) for key, value in versions.items()}, not standins, known


def _normal(name: str) -> str:
    """A package's name as all its spellings compare."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _made(python: Path, kind: Kind) -> dict[str, str]:
    """Versions in an environment that `setup` made, if it is as it was made.

    Raises:
        SetupError: it does not import what it must, or a pinned package is missing, damaged or of another version.
    """
    versions, complete, installed = _check(python, kind)
    if kind.complete and not complete:
        raise SetupError(f"'{python}': something stands in for a package that {kind.title} imports")
    lines = [line for lock, _ in kind.files for line in lock.read_text(encoding="utf-8").splitlines()]
    pinned = dict(re.findall(r"^([\w.-]+)==([^\s;]+)", "\n".join(lines), re.MULTILINE))
    for name, version in pinned.items():
        found = installed.get(_normal(name), "missing")
        if found != version:
            raise SetupError(f"'{python}': {name} is {found}, not {version}")
    return versions


def _folder(kind: Kind) -> Path:
    """Where the environment is or will be: a folder for each lock and each explicit interpreter."""
    digest = hashlib.sha256(os.environ.get(kind.variable, "").encode())
    for path, options in kind.files:
        digest.update(path.read_bytes() + " ".join(options).encode())
    return cache_folder() / kind.folder / "-".join(filter(None, (kind.name, digest.hexdigest()[:12])))


def setup(kind: Kind, progress: bool = True) -> Environment:
    """Make the environment unless it is there, and return it.

    One that is there is tried out: it has to import what it is for, and every package has to be whole and of the pinned
    version; else it is built anew, in a folder of its own that takes its place when it is whole. Of two processes
    that ask at the same time one builds and the other waits.

    Raises:
        NoPythonError: no interpreter that it runs on.
        RegistryError: the package index cannot be reached.
        SetupError: installing failed, or the result cannot import what it must.
    """
    if sys.platform == "win32":
        raise SetupError(f"{kind.title}'s environment is made as on Linux, which Windows cannot do; use WSL")
    ready, broken = _ready(kind)
    if ready:
        return ready
    folder = _folder(kind)
    try:
        folder.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise SetupError(
            f"cannot make '{folder.parent}': {error.strerror}; set {CACHE_VARIABLE} to a folder you can write"
        ) from error
    if reason := not_only_ours(folder.parent):
        raise SetupError(f"{reason}, and what is there is run; or set {CACHE_VARIABLE} to another folder")
    with (
        _steps(f"{kind.title}'s {kind.name} environment".replace("  ", " "), progress) as say,
        exclusive(folder.parent, wait=lambda: say("waiting for another process that makes it")),
    ):
        ready, broken = _ready(kind)  # another process may have made it meanwhile
        if ready:
            return ready
        base = choose(kind, say)
        log = folder.with_name(f"{folder.name}.log")
        try:
            versions = _build(folder, base, kind, log, say, broken)
        except OSError as error:
            raise SetupError(
                f"cannot make '{folder}': {error.strerror or error}; free some space, or set {CACHE_VARIABLE}"
            ) from error
        log.unlink(missing_ok=True)
    return Environment(folder / "bin" / "python", kind, versions, folder)


def _ready(kind: Kind) -> tuple[Environment | None, str]:
    """The environment, tried out if `setup` made it; or none, and what is wrong with the one that is there."""
    ready = find(kind)
    if ready is None or ready.folder is None:
        return ready, ""
    try:
        _made(ready.python, kind)
    except SetupError as error:
        return None, str(error)
    return ready, ""


def _build(
    folder: Path, base: Candidate, kind: Kind, log: Path, say: Callable[[str], None], broken: str
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
            _install([str(base.python), "-E", "-s", "-m", "venv", str(made)], file, log, kind)
            for lock, options in kind.files:
                say(f"installing {lock.name}{kind.note}")
                pip = [str(python), "-E", "-s", "-m", "pip", "install", "--no-input"]
                _install([*pip, *options, "-r", str(lock)], file, log, kind)
        say("importing it")
        versions = _made(python, kind)
        (made / "ready.json").write_text(json.dumps(versions, indent=2) + "\n", encoding="utf-8")
        made.chmod(0o755)  # whatever the umask is: see `not_only_ours`
        with suppress(FileNotFoundError):
            folder.rename(staging / "old")
        made.rename(folder)
    return versions


def _install(command: Sequence[str], file: IO[str], log: Path, kind: Kind) -> None:
    """Run one step of making the environment; its output goes to the log."""
    start = file.tell()
    with started(command, kind.setup, stdout=file, stderr=subprocess.STDOUT) as process:
        status = process.wait()
    if status == 0:
        return
    with log.open(encoding="utf-8", errors="replace") as written:
        written.seek(start)
        text = written.read()
    errors = [line for line in text.splitlines() if re.match(r"(?i)\s*error", line)] or text.splitlines()
    reason = errors[0].strip() if errors else f"exit status {status}"
    message = f"could not make {kind.title}'s environment: {reason} (see '{log}')"
    if re.search(r"(?i)new connection|max retries exceeded|connection broken|name resolution|timed out", text):
        raise RegistryError(
            f"{message}; the package index cannot be reached: check the network and pip's configuration, or "
            f"set {kind.variable} to an interpreter that has {kind.by_hand}"
        )
    raise SetupError(f"{message}; mend it and run `{kind.setup}` again")


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
