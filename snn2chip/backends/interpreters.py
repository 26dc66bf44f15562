"""Find a Python that carries an environment: what was set explicitly, what is on this machine, what uv can download."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from snn2chip.backends.kinds import Kind
from snn2chip.backends.processes import ask
from snn2chip.errors import SetupError
from snn2chip.files import parse


class NoPythonError(SetupError):
    """No interpreter that carries an environment was found."""


@dataclass(frozen=True)
class Candidate:
    """An interpreter that was looked at; `problem` says why it cannot carry the environment, None if it can.

    `ready`: it imports already what the environment is for.
    """

    python: Path
    source: str
    version: str | None
    problem: str | None
    ready: bool = False


# Some systems split venv and pip's bundle off; an interpreter without them runs but cannot carry Lava.
_PROBE = """
import importlib.util, json, sys
try:
    import ensurepip, venv
    problem = None if ensurepip.version() else "no pip"
except Exception as error:
    problem = str(error)
json.dump({
    "version": "%d.%d.%d" % sys.version_info[:3],
    "problem": problem,
    "ready": importlib.util.find_spec(sys.argv[1]) is not None,
}, sys.stdout)
"""


def candidates(kind: Kind) -> list[Candidate]:
    """Every interpreter that `setup` would consider, in its order of preference, usable or not.

    Each is started once to see that it really runs. Nothing is downloaded.
    """
    return list(_candidates(kind))


def _candidates(kind: Kind) -> Iterator[Candidate]:
    """Explicit setting; PATH; the interpreter that runs this; pyenv's folder; what uv already has."""
    explicit = os.environ.get(kind.variable)
    if explicit:
        yield probe(Path(explicit).expanduser(), kind.variable, kind)
        return
    seen: set[Path] = set()
    for path, source in _places(kind):
        if path.resolve() not in seen:
            seen.add(path.resolve())
            yield probe(path, source, kind)


def _places(kind: Kind) -> Iterator[tuple[Path, str]]:
    for version in kind.pythons:
        for folder in os.get_exec_path():
            found = shutil.which(f"python{version}", path=folder)
            if found:
                yield Path(found), "PATH"
    if f"{sys.version_info.major}.{sys.version_info.minor}" in kind.pythons:
        yield Path(sys.executable), "this interpreter"
    root = Path(os.environ.get("PYENV_ROOT") or Path("~/.pyenv").expanduser())
    for version in kind.pythons:
        for path in sorted(root.glob(f"versions/{version}.*/bin/python"), reverse=True):
            yield path, "pyenv"
    uv = shutil.which("uv")
    if uv:
        found = _last_line([uv, "python", "find", kind.download], UV_PYTHON_DOWNLOADS="never")
        if found:
            yield Path(found), "uv"


def _last_line(command: Sequence[str], **more: str) -> str:
    """The last line that the command prints; empty if it fails."""
    try:
        answer = ask(command, 600, **more)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    lines = [] if answer.returncode else answer.stdout.strip().splitlines()
    return lines[-1] if lines else ""


def probe(python: Path, source: str, kind: Kind) -> Candidate:
    """Start the interpreter and see what it is: a name on PATH may be a shim that only fails."""

    def unusable(problem: str, version: str | None = None, ready: bool = False) -> Candidate:
        return Candidate(python, source, version, problem, ready)

    try:
        answer = ask([python, "-E", "-s", "-c", _PROBE, kind.folder], 60)
    except subprocess.TimeoutExpired:
        return unusable("does not answer within 60 s")
    except OSError as error:
        return unusable(f"does not run: {error.strerror}")
    try:
        about = parse(answer.stdout, "JSON")
        version, problem, ready = str(about["version"]), about["problem"], bool(about["ready"])
    except (ValueError, KeyError, TypeError):
        said = (answer.stderr.strip() or answer.stdout.strip() or "no output").splitlines()[0]
        return unusable(f"does not run: {said}")
    if version.rpartition(".")[0] not in kind.pythons:
        return unusable(f"Python {version}; {kind.title} needs {' or '.join(kind.pythons)}", version, ready)
    if problem:
        return unusable(f"cannot make environments ({problem}); install its venv package", version, ready)
    return Candidate(python, source, version, None, ready)


def choose(kind: Kind, say: Callable[[str], None]) -> Candidate:
    """The first usable interpreter; as a last resort the one that uv downloads.

    Raises:
        NoPythonError: there is none.
    """
    wanted = " or ".join(kind.pythons)
    problems = []
    for candidate in _candidates(kind):
        if candidate.problem is None:
            return candidate
        problems.append(f"'{candidate.python}' ({candidate.source}): {candidate.problem}")
        if candidate.source == kind.variable:
            raise NoPythonError(f"{kind.variable}: {problems[0]}; name a Python {wanted}, or unset it")
    uv = shutil.which("uv")
    if uv:
        say(f"downloading Python {kind.download} with uv")
        _last_line([uv, "python", "install", kind.download])
        found = _last_line([uv, "python", "find", kind.download], UV_PYTHON_DOWNLOADS="never")
        if found:
            candidate = probe(Path(found), "uv", kind)
            if candidate.problem is None:
                return candidate
            problems.append(f"'{found}' (uv): {candidate.problem}")
        else:
            problems.append(f"'{uv}': could not download Python {kind.download}")
    raise NoPythonError(
        f"no Python {wanted} to run {kind.title} with: {'; '.join(problems) or 'none on PATH'}; "
        f"install one or set {kind.variable} to it"
    )
