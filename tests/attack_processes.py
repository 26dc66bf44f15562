"""Commands that are killed, interrupted or short of memory: nothing half-written, no traceback, and it goes on.

    python -m tests.attack_processes --kills 200 --interrupts 200 --limits 40
    python -m tests.attack_processes --what kills --seed 7          one of them again

A command is started, ended at a random moment of its life, and every file that it left must be whole. Then it is run
again (training with --resume) to its end, and what it makes must be what an unbroken run made, bit for bit. Most are
children of this process, forked when everything is imported; every tenth is a process of its own, as are all those
with little memory.
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
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
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
# each in a folder of its own that holds run/ (model.pt, model.net, ...); what it makes; whether it goes on by --resume
COMMANDS: dict[str, tuple[str, tuple[str, ...], bool]] = {
    "train": ("train recipe.toml --out out --device cpu", ("out/model.pt", "out/metrics.jsonl", "out/curves.png"), True),
    "retrain": (
        "retrain run/model.pt --timesteps 1 --epochs 2 --out iir --device cpu", ("iir/T1/model.pt", "iir/iir.json"), True,
    ),
    "fold": ("fold-and-export run/model.pt -o new.net --json new.json", ("new.net", "new.json"), False),
    "simulate": ("simulate run/model.net --json sim.json --output trace.npz", ("sim.json", "trace.npz"), False),
    "verify": ("verify run/model.pt run/model.net --no-lava --samples 50 --json v.json", ("v.json",), False),
    "report": ("report run", ("run/report.html",), False),
    "onnx": ("export run/model.net --format onnx -o new.onnx", ("new.onnx",), False),
    "nir": ("export run/model.pt --format nir -o new.nir", ("new.nir",), False),
    "encode": ("encode run/model.net -o input.npz --limit 100", ("input.npz",), False),
    "show": ("show run/model.net --json show.json", ("show.json",), False),
}  # fmt: skip


def content(path: Path) -> Any:
    """What a file says, apart from times: refuses a file that is not whole."""
    if path.suffix == ".pt":
        from snn2chip.formats.model_file import load_tensors

        state = load_tensors(path).get("state", {})
        return {name: value.numpy().tobytes() for name, value in state.items()}
    if path.suffix == ".net":
        from snn2chip.formats import netx

        return [(item.weight.tobytes(), item.bias.tobytes(), item.threshold) for item in netx.load(path).layers]
    if path.suffix in (".json", ".jsonl"):
        text = path.read_text(encoding="utf-8")
        rows = json.loads(text) if path.suffix == ".json" else [json.loads(line) for line in text.splitlines()]
        return _timeless(rows)
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            return {name: arrays[name].tobytes() for name in arrays.files}
    if path.suffix == ".png":
        from PIL import Image

        with Image.open(path) as image:
            image.load()
        return None
    data = path.read_bytes()
    if path.suffix == ".html" and not data.rstrip().endswith(b"</html>"):
        raise ValueError("no end")
    if path.suffix == ".nir":
        from snn2chip.formats import nir

        return [node.name for node in nir.load(path).nodes]
    return data if path.suffix == ".onnx" else None


def _timeless(value: Any) -> Any:
    """JSON without what depends on the clock or the folder."""
    if isinstance(value, dict):
        keep = {k: v for k, v in value.items() if "second" not in k and k not in ("model", "sha256", "engine")}
        return {k: _timeless(v) for k, v in keep.items()}
    return [_timeless(item) for item in value] if isinstance(value, list) else value


# -------------------------------------------------------------------------------------------------------- processes


class Run:
    """A command that runs in `folder`: a fork of this process, or with `real` a process of its own."""

    def __init__(self, command: str, folder: Path, *, real: bool = False, limit: int | None = None) -> None:
        self.out, self.err = folder / ".out", folder / ".err"
        (folder / ".tmp").mkdir(exist_ok=True)
        ready, say = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            try:
                self._child(command.split(), folder, say, real, limit)
            finally:
                os._exit(99)
        os.close(say)
        os.read(ready, 1)
        os.close(ready)
        if real:  # when Python hears signals, and a little later snn2chip does
            status = Path(f"/proc/{self.pid}/status")
            with contextlib.suppress(OSError):
                while not int(status.read_text().partition("SigCgt:")[2].split()[0], 16) & 2:
                    time.sleep(0.01)
            time.sleep(0.3)

    def _child(self, arguments: list[str], folder: Path, say: int, real: bool, limit: int | None) -> None:
        os.setpgid(0, 0)
        os.chdir(folder)
        os.environ["TMPDIR"], tempfile.tempdir = str(folder / ".tmp"), None
        for number, path in enumerate((Path(os.devnull), self.out, self.err)):
            os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600), number)
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        if real:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.set_inheritable(say, False)
            os.execv(sys.executable, [sys.executable, "-m", "snn2chip", *arguments])
        from snn2chip.__main__ import main

        sys.argv = ["snn2chip", *arguments]
        code: Any = 1
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.write(say, b"!")
            main()
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
        """Send a signal after so many seconds, unless it ended by itself; its exit code."""
        handle = os.pidfd_open(self.pid)
        try:
            if number is not None and not select.select([handle], [], [], after)[0]:
                os.killpg(self.pid, number)
            if not select.select([handle], [], [], most)[0]:
                os.killpg(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                raise AssertionError(f"still running {most:.0f} s later")
        finally:
            os.close(handle)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    @property
    def words(self) -> str:
        return self.err.read_text(encoding="utf-8", errors="replace")


class Attack:
    """A folder with a trained and exported network, and what every command makes there in an unbroken run."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.seconds: dict[str, float] = {}
        self.wanted: dict[str, Any] = {}
        self.parts = 0  # temporary files that a killed command left, harmless
        for name in ("snn2chip.cli", "snn2chip.pipeline", "snn2chip.train.loop", "snn2chip.train.iir", "snn2chip.verify",
                     "snn2chip.report_page", "snn2chip.report", "snn2chip.plots", "snn2chip.show", "sklearn.datasets",
                     "snn2chip.data", "snn2chip.formats.onnx", "nir", "matplotlib.pyplot"):  # fmt: skip
            importlib.import_module(name)
        import torch

        from snn2chip.nn import kernels
        from snn2chip.simulate.events import unavailable

        torch.set_num_threads(1)
        kernels.load()
        unavailable()
        (base / "recipe.toml").write_text(RECIPE, encoding="utf-8")
        self.unbroken("train", base)
        (base / "out").rename(base / "run")
        for command in (
            "fold-and-export run/model.pt --json run/export.json",
            "simulate run/model.net --json run/sim.json",
        ):
            assert Run(command, base).end() == 0, command
        for name, (_, made, _) in COMMANDS.items():
            with self.folder() as folder:
                self.unbroken(name, folder)
                self.wanted.update({path: content(folder / path) for path in made})

    def unbroken(self, name: str, folder: Path) -> None:
        started = time.monotonic()
        run = Run(COMMANDS[name][0], folder)
        assert run.end() == 0, f"{name}: {run.words}"
        self.seconds[name] = time.monotonic() - started

    @contextlib.contextmanager
    def folder(self) -> Any:
        with tempfile.TemporaryDirectory(dir=self.base) as name:
            shutil.copy(self.base / "recipe.toml", name)
            if (self.base / "run").exists():
                shutil.copytree(self.base / "run", Path(name) / "run")
            yield Path(name)

    def whole(self, folder: Path, *, parts: bool) -> None:
        """Every file is whole, and, unless `parts` may be there, no temporary ones are left."""
        for path in sorted(folder.rglob("*")):
            if path.is_dir() or path.name in (".out", ".err"):
                continue
            if ".tmp" in path.parts or path.suffix == ".part":
                assert parts, f"'{path.relative_to(folder)}' is left"
                self.parts += 1
                continue
            try:
                content(path)
            except Exception as error:
                raise AssertionError(f"'{path.relative_to(folder)}' is not whole: {error}") from None

    def broken(self, seed: int, number: int) -> str:
        """End a command by a signal, once or twice, look at what is left, and let it go on; what happened."""
        rng = np.random.default_rng([seed, number])
        name = ("train", "train", "retrain", *COMMANDS)[int(rng.integers(len(COMMANDS) + 3))]
        command, made, resumes = COMMANDS[name]
        said = name
        with self.folder() as folder:
            for attempt in range(1 + int(resumes and rng.random() < 0.4)):
                after = float(rng.random()) * 1.05 * self.seconds[name]
                how = f"{command} --resume" if attempt else command
                run = Run(how, folder, real=seed % 10 == 0)
                code = run.end(number, after)
                said += f", {after:.2f} s: {code}"
                words = run.words
                assert "Traceback" not in words, words
                if attempt and code == 2 and "nothing to resume" in words:
                    break
                assert code in ((0, -signal.SIGKILL) if number == signal.SIGKILL else (0, 130)), f"{code}: {words}"
                assert code != 130 or len(words.splitlines()) <= 1, words
                self.whole(folder, parts=number == signal.SIGKILL)
            if resumes:
                run = Run(f"{command} --resume", folder)
                if (code := run.end()) == 2 and "nothing to resume" in run.words:
                    run = Run(command, folder)
                    code = run.end()
            else:
                run = Run(command, folder)
                code = run.end()
            assert code == 0, f"{said}; it does not go on: {run.words}"
            self.whole(folder, parts=number == signal.SIGKILL)
            for path in made:
                assert content(folder / path) == self.wanted[path], f"{said}; '{path}' is not that of an unbroken run"
        return f"{name}: {'ended by itself' if code_of(said) == 0 else 'broken off'}"

    def limited(self, seed: int) -> str:
        """A command in little memory: done, or refused with a line; nothing half-written."""
        rng = np.random.default_rng([seed, 0])
        name = list(COMMANDS)[seed % len(COMMANDS)]
        limit = int(300e6 * 10 ** float(rng.random()))
        with self.folder() as folder:
            run = Run(COMMANDS[name][0], folder, real=True, limit=limit)
            code, said = run.end(), f"{name} in {limit / 1e6:.0f} MB"
            words = run.words
            assert "Traceback" not in words, f"{said}: {words[-1500:]}"
            assert code in (0, 2), f"{said}: exit code {code}: {words[-1500:]}"
            assert (code == 0) != (words.startswith("error: ") and len(words.splitlines()) == 1), f"{said}: {words}"
            self.whole(folder, parts=False)
        return f"memory: exit code {code}"


def code_of(said: str) -> int:
    """The exit code of the first run of what happened."""
    return int(said.split(", ")[1].rpartition(" ")[2])


def campaign(base: Path, what: dict[str, range], quiet: bool = False) -> tuple[list[str], str]:
    """Failures and a summary."""
    attack = Attack(base)
    tally: Counter[str] = Counter()
    failures = []
    started = time.monotonic()
    for kind, seeds in what.items():
        for seed in seeds:
            try:
                if kind == "limits":
                    came = attack.limited(seed)
                else:
                    came = attack.broken(seed, signal.SIGKILL if kind == "kills" else signal.SIGINT)
                tally[f"{kind}: {came}"] += 1
            except AssertionError as error:
                failures.append(f"python -m tests.attack_processes --what {kind} --seed {seed}\n  {error}")
                print(failures[-1], flush=True)
            if not quiet and sum(tally.values()) % 20 == 0:
                print(
                    f"{kind}: {seed - seeds.start + 1} of {len(seeds)}, {time.monotonic() - started:.0f} s", flush=True
                )
    lines = [f"{times:6d}  {came}" for came, times in sorted(tally.items())]
    runs = ", ".join(f"{len(seeds)} {kind}" for kind, seeds in what.items())
    return failures, "\n".join(
        [*lines, f"{runs}; {attack.parts} temporary files left by kills; {len(failures)} failures"]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for kind in ("kills", "interrupts", "limits"):
        parser.add_argument(f"--{kind}", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--what", choices=("kills", "interrupts", "limits"), help="with --seed: only this one")
    parser.add_argument("--seed", type=int)
    given = parser.parse_args()
    what = {kind: range(given.first, given.first + getattr(given, kind)) for kind in ("kills", "interrupts", "limits")}
    if given.what is not None:
        what = {given.what: range(given.seed, given.seed + 1)}
    with tempfile.TemporaryDirectory() as base:
        failures, summary = campaign(Path(base), {kind: seeds for kind, seeds in what.items() if seeds})
    print(summary)
    sys.exit(bool(failures))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.chdir(ROOT)
    main()
