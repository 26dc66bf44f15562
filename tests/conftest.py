"""What many tests share: the command line in this process, and the quickstart trained and exported once."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from lava_fixtures import lava_environment  # noqa: F401

from snn2chip import cli as command_line
from snn2chip.recipe import Recipe, parse


def pytest_configure(config: pytest.Config) -> None:
    """One thread; Ctrl-C heard where a script started this with &, which children inherit; and torch's own compiler
    imports a part of torch that torch deprecates."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)  # the tests' networks are too small for more, and figures repeat bit for bit
    config.addinivalue_line("filterwarnings", "ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")


ROOT = Path(__file__).resolve().parent.parent
QUICK = ("--set", "train.epochs=3", "--device", "cpu")


@dataclass(frozen=True)
class Outcome:
    """What a command did: its exit code and what it printed."""

    code: int
    out: str
    err: str

    def ok(self) -> str:
        """The output of a command that succeeded without a word of complaint."""
        assert self.code == 0, f"exit code {self.code}: {self.err}{self.out}"
        assert "Traceback" not in self.out + self.err
        return self.out

    def refused(self, *words: str, code: int = 2) -> str:
        """The one line of a command that refused its input; it must name every one of `words`."""
        assert self.code == code, f"exit code {self.code}: {self.err}{self.out}"
        assert "Traceback" not in self.out + self.err
        lines = self.err.strip().splitlines()
        assert len(lines) == 1, f"expected one line, got {self.err!r}"
        assert lines[0].startswith("error: ")
        for word in words:
            assert word in lines[0], f"{word!r} is not in {lines[0]!r}"
        return lines[0]


Command = Callable[..., Outcome]


def run_in_process(*arguments: str | Path, main: Callable[[list[str]], None] = command_line.main) -> Outcome:
    """`snn2chip ARGUMENTS`, or those of another `main`, in this process."""
    out, err = io.StringIO(), io.StringIO()
    code: object = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = stop.code
    assert code is None or isinstance(code, int), f"exit code {code!r}"
    return Outcome(code or 0, out.getvalue(), err.getvalue())


def child_environment(**changes: str) -> dict[str, str]:
    """Variables for a child: one thread, plain neurons (no compiler to wait for), no colours asked for."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FORCE_COLOR", "PYTHONWARN"))}
    return {**kept, "OMP_NUM_THREADS": "1", "TORCHDYNAMO_DISABLE": "1", **changes}


def start_process(*arguments: str | Path) -> subprocess.Popen[str]:
    """`snn2chip ARGUMENTS` started in a process group of its own, for a Ctrl-C as a terminal sends it."""
    return subprocess.Popen(
        [sys.executable, "-m", "snn2chip", *map(str, arguments)],
        env=child_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run_as_process(*arguments: str | Path, **changes: str) -> Outcome:
    """`snn2chip ARGUMENTS` as a process of its own, its output in pipes."""
    done = subprocess.run(
        [sys.executable, "-m", "snn2chip", *map(str, arguments)],
        env=child_environment(**changes),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="session")
def cli() -> Command:
    """`cli("simulate", path, ...)` runs a command in this process."""
    return run_in_process


@pytest.fixture(scope="session")
def cli_process() -> Command:
    """`cli_process("simulate", path, ..., NAME=value)` runs a command as a process, with variables set."""
    return run_as_process


@dataclass(frozen=True)
class Quickstart:
    """A folder with model.pt, model.net and everything else the quickstart writes, trained for 3 epochs."""

    folder: Path
    printed: str

    @property
    def model(self) -> Path:
        return self.folder / "model.pt"

    @property
    def net(self) -> Path:
        return self.folder / "model.net"

    def copy(self, target: Path) -> Quickstart:
        """The same files in a folder that a test may change."""
        shutil.copytree(self.folder, target)
        return Quickstart(target, self.printed)


@pytest.fixture(scope="session")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Quickstart:
    """The shipped quickstart, shortened to 3 epochs, through the documented commands. Read only: copy it.

    Its neurons are not compiled, which takes longer than the training; test_train.py has those that are.
    """
    folder = tmp_path_factory.mktemp("quickstart") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("snn2chip.train.loop.fuse_neurons", lambda _network, _device: None)
        printed = run_in_process("train", "digits-tdbn", "--out", folder, *QUICK).ok()
    export = ("fold-and-export", folder / "model.pt", "--json", folder / "export.json")
    printed += run_in_process(*export).ok()
    printed += run_in_process("simulate", folder / "model.net", "--json", folder / "simulate.json").ok()
    return Quickstart(folder, printed)


def tiny_recipe(**changes: object) -> Recipe:
    """Two small convolutions and a dense readout on 256 of the digits, two time steps, one epoch of 8 steps.

    `changes` replace values by dotted key with `__` for the dot: ``train__lr=0.1``.
    """
    values: dict[str, dict[str, object]] = {
        "data": {"name": "digits", "train_limit": 256},
        "model": {
            "timesteps": 2,
            "layers": [
                {"type": "conv", "channels": 8, "stride": 2},
                {"type": "conv", "channels": 8},
                {"type": "flatten"},
                {"type": "dense", "features": "classes", "neuron": False},
            ],
        },
        "train": {"epochs": 1, "batch_size": 32, "lr": 5e-3},
    }
    for key, value in changes.items():
        *path, last = key.split("__")
        table: dict[str, object] = values  # type: ignore[assignment]
        for part in path:
            table = table.setdefault(part, {})  # type: ignore[assignment]
        table[last] = value
    return parse({"name": "tiny", **values})


@pytest.fixture(scope="session")
def tiny() -> Callable[..., Recipe]:
    """`tiny(train__lr=0.1)`: a recipe that trains in a second, see `tiny_recipe`."""
    return tiny_recipe
