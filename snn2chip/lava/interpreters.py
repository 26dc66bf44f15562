"""Find a Python that Lava runs on: what was set explicitly, what is on this machine, what uv can download."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from snn2chip.errors import SetupError
from snn2chip.files import parse
from snn2chip.lava.processes import child_environment

PYTHON_VARIABLE = "SNN2CHIP_LAVA_PYTHON"
LIGHT_VERSIONS = ("3.10", "3.11", "3.12")
_FULL_VERSIONS = ("3.10",)
_UV_VERSIONS = {False: "3.11", True: "3.10"}


class NoPythonError(SetupError):
    """No interpreter that Lava runs on was found."""


@dataclass(frozen=True)
class Candidate:
    """An interpreter that was looked at; `problem` says why it cannot carry Lava, None if it can."""

    python: Path
    source: str
    version: str | None
    problem: str | None
    has_lava: bool = False


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
    "lava": importlib.util.find_spec("lava") is not None,
}, sys.stdout)
"""


def candidates(full: bool = False) -> list[Candidate]:
    """Every interpreter that `setup` would consider, in its order of preference, usable or not.

    Each is started once to see that it really runs. Nothing is downloaded.
    """
    return list(_candidates(full))


def _candidates(full: bool) -> Iterator[Candidate]:
    """Explicit setting; PATH; the interpreter that runs this; pyenv's folder; what uv already has."""
    wanted = _FULL_VERSIONS if full else LIGHT_VERSIONS
    explicit = os.environ.get(PYTHON_VARIABLE)
    if explicit:
        yield probe(Path(explicit).expanduser(), PYTHON_VARIABLE, wanted)
        return
    seen: set[Path] = set()
    for path, source in _places(full, wanted):
        if path.resolve() not in seen:
            seen.add(path.resolve())
            yield probe(path, source, wanted)


def _places(full: bool, wanted: Sequence[str]) -> Iterator[tuple[Path, str]]:
    for version in wanted:
        for folder in os.get_exec_path():
            found = shutil.which(f"python{version}", path=folder)
            if found:
                yield Path(found), "PATH"
    if f"{sys.version_info.major}.{sys.version_info.minor}" in wanted:
        yield Path(sys.executable), "this interpreter"
    root = Path(os.environ.get("PYENV_ROOT") or Path("~/.pyenv").expanduser())
    for version in wanted:
        for path in sorted(root.glob(f"versions/{version}.*/bin/python"), reverse=True):
            yield path, "pyenv"
    uv = shutil.which("uv")
    if uv:
        found = _ask([uv, "python", "find", _UV_VERSIONS[full]], {"UV_PYTHON_DOWNLOADS": "never"})
        if found:
            yield Path(found), "uv"


def _ask(command: Sequence[str], environment: Mapping[str, str]) -> str:
    """The last line that the command prints; empty if it fails."""
    try:
        answer = subprocess.run(
            command,
            env={**child_environment(), **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=600,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    lines = answer.stdout.strip().splitlines()
    return lines[-1] if lines else ""


def probe(python: Path, source: str, wanted: Sequence[str]) -> Candidate:
    """Start the interpreter and see what it is: a name on PATH may be a shim that only fails."""

    def unusable(problem: str, version: str | None = None, has_lava: bool = False) -> Candidate:
        return Candidate(python, source, version, problem, has_lava)

    try:
        answer = subprocess.run(
            [python, "-E", "-s", "-c", _PROBE],
            env=child_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return unusable("does not answer within 60 s")
    except OSError as error:
        return unusable(f"does not run: {error.strerror}")
    try:
        about = parse(answer.stdout, "JSON")
        version, problem, has_lava = str(about["version"]), about["problem"], bool(about["lava"])
    except (ValueError, KeyError, TypeError):
        said = (answer.stderr.strip() or answer.stdout.strip() or "no output").splitlines()[0]
        return unusable(f"does not run: {said}")
    if version.rpartition(".")[0] not in wanted:
        return unusable(f"Python {version}; Lava needs {' or '.join(wanted)}", version, has_lava)
    if problem:
        return unusable(f"cannot make environments ({problem}); install its venv package", version, has_lava)
    return Candidate(python, source, version, None, has_lava)


def choose(full: bool, say: Callable[[str], None]) -> Candidate:
    """The first usable interpreter; as a last resort the one that uv downloads.

    Raises:
        NoPythonError: there is none.
    """
    wanted = _FULL_VERSIONS if full else LIGHT_VERSIONS
    problems = []
    for candidate in _candidates(full):
        if candidate.problem is None:
            return candidate
        problems.append(f"'{candidate.python}' ({candidate.source}): {candidate.problem}")
        if candidate.source == PYTHON_VARIABLE:
            raise NoPythonError(f"{PYTHON_VARIABLE}: {problems[0]}; name a Python {' or '.join(wanted)}, or unset it")
    uv = shutil.which("uv")
    if uv:
        say(f"downloading Python {_UV_VERSIONS[full]} with uv")
        _ask([uv, "python", "install", _UV_VERSIONS[full]], {})
        found = _ask([uv, "python", "find", _UV_VERSIONS[full]], {"UV_PYTHON_DOWNLOADS": "never"})
        if found:
            candidate = probe(Path(found), "uv", wanted)
            if candidate.problem is None:
                return candidate
            problems.append(f"'{found}' (uv): {candidate.problem}")
        else:
            problems.append(f"'{uv}': could not download Python {_UV_VERSIONS[full]}")
    raise NoPythonError(
        f"no Python {' or '.join(wanted)} to run Lava with: {'; '.join(problems) or 'none on PATH'}; "
        f"install one or set {PYTHON_VARIABLE} to it"
    )
