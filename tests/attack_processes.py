"""Commands that are killed, interrupted or short of memory: nothing half-written, no traceback, and it goes on.

    python tests/attack_processes.py --kills 200 --interrupts 200 --limits 40
    python tests/attack_processes.py --what kills --seed 7          one of them again

A command is ended at a random moment of its life, and every file that it left must be whole. Then it is run again
(training with --resume) to its end, and what it makes must be what an unbroken run made, bit for bit. Most are children
of this process, forked when everything is imported; every tenth is a process of its own, as are all those with little
memory.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from snn2chip import __main__ as entry
from snn2chip.formats import netx, nir
from snn2chip.nn import kernels, model_file
from snn2chip.simulate.events import library

OURS = (
    *("cli", "formats.onnx", "passes.pipeline", "simulate.run", "train.retrain", "train.loop", "verify.ladder"),
    *(f"report.{name}" for name in ("curves", "page", "recording", "show", "tables")),
)
for _name in ("matplotlib.pyplot", "nir", "onnx", "sklearn.datasets", *(f"snn2chip.{name}" for name in OURS)):
    importlib.import_module(_name)  # before this process is forked
RECIPE = """
name = "attack"
[data]
name = "digits"
train_limit = 256
[model]
timesteps = 2
layers = [
    { type = "conv", channels = 8, stride = 2 }, { type = "conv", channels = 8 }, { type = "flatten" },
    { type = "dense", features = "classes", neuron = false },
]
[train]
epochs = 4
batch_size = 32
lr = 5e-3
"""
# each in a folder of its own with recipe.toml and run/ (model.pt, model.net, ...); and what it makes
COMMANDS = {
    "train recipe.toml --out out --device cpu": "out/model.pt out/metrics.jsonl out/report.html",
    "retrain run/model.pt --timesteps 1 --epochs 2 --out iir --device cpu": "iir/T1/model.pt iir/iir.json",
    "fold-and-export run/model.pt -o new.net --json new.json": "new.net new.json",
    "simulate run/model.net --json sim.json --output trace.npz": "sim.json trace.npz",
    "verify run/model.pt run/model.net --no-lava --samples 50 --json v.json": "v.json",
    "report run": "run/report.html",
    "export run/model.net --format onnx -o new.onnx": "new.onnx",
    "export run/model.pt --format nir -o new.nir": "new.nir",
    "encode run/model.net -o input.npz --limit 100": "input.npz",
    "show run/model.net --json show.json": "show.json",
}
RESUMES = ("train", "retrain")
SIGNALS = {"kills": signal.SIGKILL, "interrupts": signal.SIGINT}


def content(path: Path) -> Any:
    """What a file says, apart from times and places; an error where it is not whole."""
    kind = path.suffix
    if kind == ".pt":
        return {name: value.numpy().tobytes() for name, value in model_file.load_tensors(path)["state"].items()}
    if kind == ".net":
        return [(item.weight.tobytes(), item.bias.tobytes(), item.threshold) for item in netx.load(path).layers]
    if kind == ".nir":
        return [node.name for node in nir.load(path).nodes]
    if kind == ".npz":
        with np.load(path) as arrays:
            return {name: arrays[name].tobytes() for name in arrays.files}
    if kind == ".png":
        with Image.open(path) as image:
            return image.load() and None
    data = path.read_bytes()
    if kind in (".json", ".jsonl"):
        rows = [json.loads(line) for line in (data.splitlines() if kind == ".jsonl" else [data])]
        return _timeless(rows)
    if kind == ".html" and not data.rstrip().endswith(b"</html>"):
        raise ValueError("no end")
    return data if kind == ".onnx" else None


def _timeless(value: Any) -> Any:
    """JSON without what depends on the clock, the folder or the faster engine."""
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if "second" not in k and k not in ("model", "sha256", "engine")}
        return {k: _timeless(v) for k, v in kept.items()}
    return [_timeless(item) for item in value] if isinstance(value, list) else value


class Run:
    """A command that runs in `folder`: a fork of this process, or with `real` a process of its own."""

    def __init__(self, command: str, folder: Path, *, real: bool = False, limit: int | None = None) -> None:
        self.err = folder / ".err"
        (folder / ".tmp").mkdir(exist_ok=True)
        ready, say = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            try:
                self._child(command.split(), folder, say, real, limit)
            finally:
                os._exit(99)
        os.close(say)
        os.read(ready, 1)  # nothing, where exec has closed the pipe
        os.close(ready)
        if real:  # when Python hears signals, and a little later snn2chip does
            with contextlib.suppress(OSError, IndexError):
                status = Path(f"/proc/{self.pid}/status")
                while not int((said := status.read_text()).partition("SigCgt:")[2].split()[0], 16) & 2:
                    if "State:\tZ" in said:  # it ended before
                        break
                    time.sleep(0.01)
                used = Path(f"/proc/{self.pid}/stat")  # its time on the processor, which others may share
                enough = 0.3 * os.sysconf("SC_CLK_TCK")
                while (now := used.read_text().rpartition(")")[2].split())[0] != "Z":
                    if sum(map(int, now[11:13])) >= enough:
                        break
                    time.sleep(0.01)

    def _child(self, arguments: list[str], folder: Path, say: int, real: bool, limit: int | None) -> None:
        os.setpgid(0, 0)
        os.environ["TMPDIR"], tempfile.tempdir = str(folder / ".tmp"), None
        os.environ["PYTHONPATH"] = os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")])
        os.chdir(folder)
        for number, path in enumerate((Path(os.devnull), folder / ".out", self.err)):
            os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600), number)
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        if real:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.execv(sys.executable, [sys.executable, "-m", "snn2chip", *arguments])
        sys.argv = ["snn2chip", *arguments]
        code: Any = 1
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.write(say, b"!")
            entry.main()
            code = 0
        except SystemExit as leaving:
            code = leaving.code or 0
        except BaseException:
            traceback.print_exc()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)

    def end(self, number: int | None = None, after: float = 0.0, most: float = 300.0) -> int:
        """Send a signal after so many seconds, unless it has ended by itself; its exit code."""
        handle = os.pidfd_open(self.pid)
        if number is not None and not select.select([handle], [], [], after)[0]:
            os.killpg(self.pid, number)
        late = not select.select([handle], [], [], most)[0]
        os.close(handle)
        if late:
            os.killpg(self.pid, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        assert not late, f"still running {most:.0f} s later"
        assert "Traceback" not in self.words, self.words[-1500:]
        return code

    @property
    def words(self) -> str:
        return self.err.read_text(encoding="utf-8", errors="replace")


class Attack:
    """A folder with a trained and exported network, and what every command makes there in an unbroken run."""

    def __init__(self, base: Path) -> None:
        torch.set_num_threads(1)
        kernels.load()
        library.unavailable()
        self.base = base
        self.seconds: dict[str, float] = {}
        self.wanted: dict[str, Any] = {}
        self.parts = 0  # temporary files that killed commands left
        (base / "recipe.toml").write_text(RECIPE, encoding="utf-8")
        for command in (
            "train recipe.toml --out run --device cpu",
            "fold-and-export run/model.pt --json run/export.json",
            "simulate run/model.net --json run/sim.json",
        ):
            self.to_the_end(command, base)
        for command, made in COMMANDS.items():
            with self.folder() as folder:
                started = time.monotonic()
                self.to_the_end(command, folder)
                self.seconds[command] = time.monotonic() - started
                self.wanted |= {path: content(folder / path) for path in made.split()}

    def to_the_end(self, command: str, folder: Path, real: bool = False) -> None:
        done = Run(command, folder, real=real)
        code = done.end()
        assert code == 0, f"{command}: exit code {code}: {done.words}"

    @contextlib.contextmanager
    def folder(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(dir=self.base) as name:
            shutil.copy(self.base / "recipe.toml", name)
            shutil.copytree(self.base / "run", Path(name) / "run")
            yield Path(name)

    def whole(self, folder: Path, *, parts: bool) -> None:
        """Every file is whole, and, unless `parts` may be there, no temporary ones are left."""
        for path in sorted(folder.rglob("*")):
            if path.is_dir() and path.suffix != ".part":  # torch makes some where temporary files go
                continue
            inside = path.relative_to(folder).parts
            temporary = ".tmp" in inside[:-1] or any(name.endswith(".part") for name in inside)
            assert parts or not temporary, f"'{path.relative_to(folder)}' is left"
            if temporary or path.is_dir() or path.name in (".out", ".err"):
                self.parts += temporary
                continue
            try:
                content(path)
            except Exception as error:
                raise AssertionError(f"'{path.relative_to(folder)}' is not whole: {error}") from None

    def broken(self, seed: int, kind: str) -> str:
        """End a command by a signal, once or twice, look at what is left, and let it go on; what happened."""
        number, parts = SIGNALS[kind], kind == "kills"
        rng = np.random.default_rng([seed, number])
        command = [*COMMANDS, *(name for name in COMMANDS if name.startswith(RESUMES))][int(rng.integers(12))]
        resumes = command.startswith(RESUMES)
        again = f"{command} --resume" if resumes else command
        said = command
        with self.folder() as folder:
            try:
                for attempt in range(1 + int(resumes and rng.random() < 0.4)):
                    after = float(rng.random()) * 1.05 * self.seconds[command]
                    run = Run(again if attempt else command, folder, real=seed % 10 == 0)
                    code = run.end(number, after)
                    said += f", {after:.2f} s: {code}"
                    if attempt and code == 2:  # nothing to go on from yet
                        break
                    assert code in (0, -signal.SIGKILL if parts else 130), run.words
                    assert code == 0 or len(run.words.splitlines()) <= 1, run.words
                    self.whole(folder, parts=parts)
                if not resumes or Run(again, folder).end():  # or there is nothing to go on from
                    self.to_the_end(command, folder)
                self.whole(folder, parts=parts)
                for path in COMMANDS[command].split():
                    assert content(folder / path) == self.wanted[path], f"'{path}' is not that of an unbroken run"
            except AssertionError as error:
                raise AssertionError(f"{said}: {error}") from None
        return f"{command.split()[0]}: {'ended by itself' if ': 0' in said else 'broken off'}"

    def limited(self, seed: int) -> str:
        """A command in little memory: done, or refused with a line; nothing half-written."""
        command = list(COMMANDS)[seed % len(COMMANDS)]
        limit = int(300e6 * 10 ** float(np.random.default_rng([seed, 0]).random()))
        with self.folder() as folder:
            run = Run(command, folder, real=True, limit=limit)
            try:
                code, words = run.end(), run.words
                assert code in (0, 2), f"exit code {code}: {words[-1500:]}"
                assert code == 0 or (words.startswith("error: ") and len(words.splitlines()) == 1), words[-1500:]
                self.whole(folder, parts=False)
            except AssertionError as error:
                raise AssertionError(f"{command} in {limit / 1e6:.0f} MB: {error}") from None
        return f"exit code {code}"


def campaign(base: Path, what: dict[str, range]) -> tuple[list[str], str]:
    """Failures, printed as they come, and a summary."""
    attack = Attack(base)
    tally: Counter[str] = Counter()
    failures = []
    for kind, seed in ((kind, seed) for kind, seeds in what.items() for seed in seeds):
        try:
            tally[f"{kind}: {attack.limited(seed) if kind == 'limits' else attack.broken(seed, kind)}"] += 1
        except AssertionError as error:
            failures.append(f"python tests/attack_processes.py --what {kind} --seed {seed}\n  {error}")
            print(failures[-1], flush=True)
    lines = [f"{times:6d}  {came}" for came, times in sorted(tally.items())]
    runs = ", ".join(f"{len(seeds)} {kind}" for kind, seeds in what.items() if seeds)
    lines.append(f"{runs}; {attack.parts} temporary files left by kills; {len(failures)} failures")
    return failures, "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for kind in (*SIGNALS, "limits"):
        parser.add_argument(f"--{kind}", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--what", choices=(*SIGNALS, "limits"), help="with --seed: only this one")
    parser.add_argument("--seed", type=int)
    given = parser.parse_args()
    what = {kind: range(given.first, given.first + getattr(given, kind)) for kind in (*SIGNALS, "limits")}
    if given.what is not None:
        what = {given.what: range(given.seed, given.seed + 1)}
    with tempfile.TemporaryDirectory() as base:
        failures, summary = campaign(Path(base), what)
    print(summary)
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
