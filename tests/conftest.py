"""What many tests share: the command line in this process, and the quickstart trained and exported once."""

from __future__ import annotations

import atexit
import contextlib
import functools
import io
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from snn2chip import cli as command_line
from snn2chip.backends import lava
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


# Loads once what nearly every command loads, and forks a process for each program that it is sent: a start costs
# milliseconds instead of seconds. How a process ends, with stdout that cannot be flushed for example, is its own.
_NURSERY = """
import gc, json, os, signal, socket, sys
import h5py, matplotlib.figure, numpy, rich.console, scipy.special, sklearn.datasets, torch._dynamo, typer
import snn2chip.cli
from snn2chip.passes import pipeline
from snn2chip.train import loop
from snn2chip.verify import ladder

gc.collect()
gc.freeze()  # or the end of each process would write to, and so copy, all of that memory
link = socket.socket(fileno=0)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
while True:
    message, pipes, *_ = socket.recv_fds(link, 1 << 20, 3)
    if not message:
        os._exit(0)
    if os.fork() == 0:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        process = os.fork()
        if process == 0:
            break
        for pipe in pipes[:2]:
            os.close(pipe)
        os.write(pipes[2], b"%d" % os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
        os._exit(0)
    for pipe in pipes:
        os.close(pipe)
os.setsid()
os.write(pipes[2], b"%d\\n" % os.getpid())
link.close()
for number, pipe in enumerate([os.open(os.devnull, os.O_RDONLY), *pipes[:2]]):
    os.dup2(pipe, number)
os.closerange(3, 1 + max(pipes))
given = json.loads(message)
os.chdir(given["folder"])
os.environ.clear()
os.environ.update(given["environment"])
sys.argv = ["-c", *given["arguments"]]
exec(compile(given["code"], "<string>", "exec"), {"__name__": "__main__"})
"""
COMMAND = "from snn2chip.__main__ import main; main()"


@functools.cache
def _nursery() -> socket.socket:
    """The way to this process's own nursery, which ends with it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-c", _NURSERY], cwd=ROOT, env=child_environment(), stdin=theirs, start_new_session=True
        )
    atexit.register(lambda: (ours.close(), process.wait()))
    return ours


class Child:
    """`python -c CODE ARGUMENTS` in a process group of its own, as a terminal sends Ctrl-C to; its output in pipes."""

    def __init__(self, code: str, *arguments: object, **changes: str) -> None:
        ends, pipes = zip(*(os.pipe() for _ in range(3)), strict=True)
        environment, folder = child_environment(**changes), str(Path.cwd())
        given = {"code": code, "arguments": [*map(str, arguments)], "environment": environment, "folder": folder}
        socket.send_fds(_nursery(), [json.dumps(given).encode()], pipes)
        for pipe in pipes:
            os.close(pipe)
        self.stdout, self.stderr, self._ended = (os.fdopen(end, encoding="utf-8") for end in ends)
        self.pid = int(self._ended.readline())

    def __del__(self) -> None:
        if not self._ended.closed:  # a test failed
            os.killpg(self.pid, signal.SIGKILL)

    def running(self) -> bool:
        """Whether it has not ended."""
        return not select.select([self._ended], [], [], 0)[0]

    def finish(self, timeout: float = 300) -> Outcome:
        """Waits for its end, which a timeout brings about; whatever has not been read of its output."""
        late = threading.Timer(timeout, os.killpg, (self.pid, signal.SIGKILL))
        late.start()
        with ThreadPoolExecutor() as readers, self.stdout, self.stderr:
            out, err = readers.map(lambda stream: stream.read(), (self.stdout, self.stderr))
        with self._ended:
            code = int(self._ended.read())
        late.cancel()
        return Outcome(code, out, err)


def run_as_process(*arguments: str | Path, **changes: str) -> Outcome:
    """`snn2chip ARGUMENTS` as a process of its own."""
    return Child(COMMAND, *arguments, **changes).finish()


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
    printed += run_in_process("simulate", folder / "model.net", "--cost", "--json", folder / "simulate.json").ok()
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


RICH: dict[str, Any] = {
    "model__coding": "poisson",
    "model__timesteps": 4,
    "model__layers": [
        {"type": "conv", "channels": 8},
        {"type": "dropout", "p": 0.2},
        {"type": "conv", "channels": 8, "stride": 2},
        {"type": "flatten"},
        {"type": "dense", "features": "classes", "neuron": False},
    ],
    "data__augment": {"crop": 1, "flip": True, "cutout": 2},
}


MODERN: dict[str, Any] = {
    "data__validation": 0.1,
    "data__augment": {
        "crop": 1, "border": "reflect", "flip": "alternating", "erase": 0.5, "cutmix": 0.3, "mixup": 0.3,
    },
    "train__optimizer": "muon",
    "train__lr": 0.02,
    "train__schedule": "linear",
    "train__average": 0.9,
    "train__whiten": True,
    "train__loss": "steps",
}  # fmt: skip


@pytest.fixture(scope="session")
def tiny() -> Callable[..., Recipe]:
    """`tiny(train__lr=0.1)`: a recipe that trains in a second, see `tiny_recipe`."""
    return tiny_recipe


@pytest.fixture(scope="session")
def lava_environment() -> lava.Environment:
    """Lava's light environment, kept in the user's cache; skips only without a Python or an index to install from."""
    try:
        return lava.setup(progress=False)
    except (lava.NoPythonError, lava.RegistryError) as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """Chromium without a window, driven by Playwright; skips without either."""
    api = pytest.importorskip("playwright.sync_api", reason="drives a browser: pip install playwright")
    program = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if program is None:
        pytest.skip("no Chromium; apt install chromium, or name it in $CHROMIUM")
    with api.sync_playwright() as started:
        rootless = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = started.chromium.launch(executable_path=program, args=rootless)
        yield browser
        browser.close()


@pytest.fixture
def faults() -> Iterator[list[str]]:
    """What goes wrong in `tab`; the test fails if anything is left in the end."""
    found: list[str] = []
    yield found
    assert not found


@pytest.fixture
def tab(chromium: Any, faults: list[str]) -> Iterator[Any]:
    """A narrow tab in which no script may fail, and no page ask for anything beside itself."""

    def asked(request: Any) -> None:
        if not request.is_navigation_request() and not request.url.startswith("data:"):
            faults.append(request.url)

    page = chromium.new_page(viewport={"width": 500, "height": 900}, offline=True)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda said: faults.append(said.text) if said.type == "error" else None)
    page.on("request", asked)
    yield page
    page.close()
