"""What a training step costs: ours, the plain loop, other simulators, and the same network with ReLUs.

    python bench/training.py [--quick] [--rounds 15] [--threads 2] [--peers NAME ...] [--out docs/training-speed]

Makes an environment in the user's cache that has the simulators and borrows everything else (torch above all) from the
Python that runs this; nothing is installed beside snn2chip. Run it on a machine that does nothing else. The network is
conv64, conv64 stride 2, conv128, conv128 stride 2 (3x3), dense 10, on T x N images of 3 x 32 x 32 that differ from step
to step; a step is forward, cross-entropy of the scores averaged over time, backward, and SGD.

Every candidate is a process of its own, all of them alive, and each round takes one step in each: what else the
machine does meets all alike. The time is the median over rounds, with the quartiles; "of the ANN" is the median over
rounds of the ratio to the ANN on channels_last in the same round. Memory is the peak of the process's resident memory
less what it had before its first step. Once with glibc's allocator as it is, once told to keep its pages
(`snn2chip/train/allocator.py`), for all alike. Writes OUT.md and OUT.json.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import resource
import shutil
import site
import statistics
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

PINS = ("nir==1.0.8", "nirtorch==2.6", "snntorch==1.0.0", "spikingjelly==2.0.0", "loguru==0.7.3", "norse==1.1.0")
VERSIONS = dict(pin.split("==") for pin in PINS)
PLAN = ((3, 64, 1), (64, 64, 2), (64, 128, 1), (128, 128, 2))
TAU, THRESHOLD = 0.25, 0.5
# name -> (what it is, channels_last, with batch norm); the first is what the others are measured against
CANDIDATES: dict[str, tuple[str, bool, bool]] = {
    "ann": ("ANN (ReLU), channels_last", True, False),
    "ann-nchw": ("ANN (ReLU)", False, False),
    "ours": ("snn2chip", True, False),
    "ours-blocks": ("snn2chip without a C++ compiler", True, False),
    "ours-floats": ("snn2chip, spikes kept as float32", True, False),
    "loop": ("plain loop of torch operations", True, False),
    "spikingjelly": ("SpikingJelly", False, False),
    "spikingjelly-last": ("SpikingJelly, channels_last", True, False),
    "spikingjelly-compiled": ("SpikingJelly, channels_last, torch.compile", True, False),
    "snntorch": ("snnTorch", False, False),
    "snntorch-last": ("snnTorch, channels_last", True, False),
    "norse": ("Norse", False, False),
    "norse-last": ("Norse, channels_last", True, False),
    "ann-norm": ("ANN (batch norm, ReLU), channels_last", True, True),
    "ours-norm": ("snn2chip, tdBN", True, True),
    "spikingjelly-norm": ("SpikingJelly, batch norm, channels_last", True, True),
}
FOREIGN = ("spikingjelly", "snntorch", "norse")  # packages, by the beginning of a candidate's name

# ------------------------------------------------------------------------------------- a candidate, in its process


def _layers(conv: Any, norm: Any, neuron: Callable[[], Any], bias: bool) -> list[Any]:
    made: list[Any] = []
    for inputs, outputs, stride in PLAN:
        made.append(conv(inputs, outputs, kernel_size=3, stride=stride, padding=1, bias=bias))
        if norm is not None:
            made.append(norm(outputs))
        made.append(neuron())
    return made


def _ann(name: str) -> Any:
    from torch import nn

    norm = nn.BatchNorm2d if CANDIDATES[name][2] else None
    features = [*_layers(nn.Conv2d, norm, nn.ReLU, norm is None), nn.Flatten(), nn.Linear(8192, 10)]
    network = nn.Sequential(*features)
    return network, lambda x: network(x.flatten(0, 1)).unflatten(0, x.shape[:2]).mean(0)


def _ours(name: str) -> Any:
    import torch
    from torch import nn as torch_nn

    from snn2chip import nn
    from snn2chip.nn import bits, kernels
    from snn2chip.nn.fuse import fuse_neurons

    norm = nn.TDBatchNorm if CANDIDATES[name][2] else None
    features = [*_layers(nn.Conv2d, norm, lambda: nn.LIF(TAU, THRESHOLD), norm is None)]
    network = torch_nn.Sequential(*features, nn.Flatten(), nn.Linear(8192, 10))
    if name == "ours-blocks":
        kernels.load = lambda: "not wanted here"  # type: ignore[assignment]
    if name == "ours-floats":
        bits.is_marked = lambda x: False
    note = fuse_neurons(network, torch.device("cpu"))
    if note and name != "ours-blocks":
        raise RuntimeError(note)
    return network, lambda x: network(x).mean(0)


def _loop(_name: str) -> Any:
    import torch
    from torch import nn as torch_nn

    from snn2chip import nn

    class Spike(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            ctx.save_for_backward(x)
            return (x > 0).to(x.dtype)

        @staticmethod
        def backward(ctx: Any, grad: Any) -> Any:
            (x,) = ctx.saved_tensors
            return grad * (x.abs() < 0.5)

    class Loop(torch_nn.Module):
        def forward(self, current: Any) -> Any:
            u = spike = None
            spikes = []
            for step in current:
                u = step if u is None else TAU * u * (1 - spike) + step
                spike = Spike.apply(u - THRESHOLD)
                spikes.append(spike)
            return torch.stack(spikes)

    network = torch_nn.Sequential(*_layers(nn.Conv2d, None, Loop, True), nn.Flatten(), nn.Linear(8192, 10))
    return network, lambda x: network(x).mean(0)


def _spikingjelly(name: str) -> Any:
    import torch
    from spikingjelly.activation_based import functional, layer, neuron, surrogate

    norm = layer.BatchNorm2d if CANDIDATES[name][2] else None

    def lif() -> Any:  # 1 - 1 / tau is the leak factor where the input does not decay
        constants = {"decay_input": False, "v_threshold": THRESHOLD, "v_reset": 0.0, "detach_reset": False}
        return neuron.LIFNode(1 / (1 - TAU), surrogate_function=surrogate.Rect(alpha=1.0), **constants)

    network = torch.nn.Sequential(
        *_layers(layer.Conv2d, norm, lif, norm is None), layer.Flatten(), layer.Linear(8192, 10)
    )
    functional.set_step_mode(network, "m")
    run = torch.compile(network) if name.endswith("compiled") else network

    def scores(x: Any) -> Any:
        functional.reset_net(network)
        return run(x).mean(0)

    return network, scores


def _stepwise(network: Any, states: int, call: Callable[[Any, Any, Any], tuple[Any, Any]]) -> Callable[[Any], Any]:
    """A network whose neurons are called step by step, as their libraries' tutorials do."""

    def scores(x: Any) -> Any:
        import torch

        kept: list[Any] = [None] * states
        outputs = []
        for step in x:
            index = 0
            for module in network:
                if hasattr(module, "is_neuron"):
                    step, kept[index] = call(module, step, kept[index])
                    index += 1
                else:
                    step = module(step)
            outputs.append(step)
        return torch.stack(outputs).mean(0)

    return scores


def _snntorch(_name: str) -> Any:
    import snntorch
    from torch import nn

    def lif() -> Any:
        made = snntorch.Leaky(beta=TAU, threshold=THRESHOLD, reset_mechanism="zero", reset_delay=False)
        made.is_neuron = True
        return made

    network = nn.Sequential(*_layers(nn.Conv2d, None, lif, True), nn.Flatten(), nn.Linear(8192, 10))
    start: Callable[[Any], Any] = lambda module: module.reset_mem()  # noqa: E731

    def call(module: Any, x: Any, state: Any) -> tuple[Any, Any]:
        spikes, membrane = module(x, start(module) if state is None else state)
        return spikes, membrane

    return network, _stepwise(network, len(PLAN), call)


def _norse(_name: str) -> Any:
    import torch
    from norse.torch import LIFBoxCell, LIFBoxParameters
    from torch import nn

    def lif() -> Any:  # v += dt / tau_mem * (i - v)
        made = LIFBoxCell(LIFBoxParameters(tau_mem_inv=torch.tensor(750.0), v_th=torch.tensor(THRESHOLD)), dt=0.001)
        made.is_neuron = True
        return made

    network = nn.Sequential(*_layers(nn.Conv2d, None, lif, True), nn.Flatten(), nn.Linear(8192, 10))
    return network, _stepwise(network, len(PLAN), lambda module, x, state: module(x, state))


MAKERS: dict[str, Callable[[str], Any]] = {
    "ann": _ann,
    "ours": _ours,
    "loop": _loop,
    "spikingjelly": _spikingjelly,
    "snntorch": _snntorch,
    "norse": _norse,
}


def _resident() -> int:
    """Bytes of this process in memory now."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def serve(options: argparse.Namespace) -> None:
    """A candidate: ready, then one step for every line on stdin, each answered with a line of JSON."""
    import warnings

    import torch

    warnings.simplefilter("ignore")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer

    def answer(value: dict[str, Any]) -> None:
        print(json.dumps(value), file=answers, flush=True)

    try:
        torch.set_num_threads(options.threads)
        if options.allocator == "keep":
            from snn2chip.train.allocator import keep_pages

            if not keep_pages():
                raise RuntimeError("the C library's allocator cannot be told to keep pages")
        torch.manual_seed(0)
        network, scores = MAKERS[options.serve.split("-")[0]](options.serve)
        x = torch.randn(options.timesteps * options.batch, 3, 32, 32)
        if CANDIDATES[options.serve][1]:
            network.to(memory_format=torch.channels_last)
            x = x.contiguous(memory_format=torch.channels_last)
        x = x.unflatten(0, (options.timesteps, options.batch))
        labels = torch.randint(0, 10, (options.batch,))
        optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
        network.train()
        before = _resident()
        answer({"ready": True})
        for _ in sys.stdin:
            started = time.perf_counter()
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(scores(x), labels)
            loss.backward()
            optimizer.step()
            value = float(loss)
            seconds = time.perf_counter() - started
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            answer({"seconds": seconds, "loss": value, "memory": peak - before})
    except Exception as error:  # whatever a library says is a result
        answer({"failed": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"})


# ------------------------------------------------------------------------------------------------- around it


def environment() -> Path:
    """The interpreter of the simulators' environment, which is made where it has no ready.json."""
    from platformdirs import user_cache_dir

    cache = Path(os.environ.get("SNN2CHIP_CACHE") or user_cache_dir("snn2chip")).expanduser().absolute()
    borrowed = [path for path in site.getsitepackages() if Path(path).is_dir()]
    digest = hashlib.sha256("\n".join((*PINS, *borrowed, sys.version)).encode()).hexdigest()[:12]
    folder = cache / "bench" / f"training-{digest}"
    python = folder / "bin" / "python"
    if (folder / "ready.json").is_file() and python.exists():
        return python
    print(f"making {folder} ({', '.join(PINS)}) ...", file=sys.stderr, flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    try:
        venv.create(folder, with_pip=True, symlinks=True)
        asked = [str(python), "-c", "import site; print(site.getsitepackages()[0])"]
        own = Path(subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip())
        missing = {}
        for pin in PINS:  # one by one: what does not install is reported, and the others are measured
            command = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check", pin]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                missing[pin] = (done.stderr.strip().splitlines() or ["no word"])[-1]
                print(f"without {pin}: {missing[pin]}", file=sys.stderr)
        # only now: pip must not see what is borrowed while it installs
        lines = "".join(f"import site; site.addsitedir({path!r})\n" for path in borrowed)
        (own / "borrowed.pth").write_text(lines, encoding="utf-8")
        (folder / "ready.json").write_text(json.dumps({"pins": PINS, "missing": missing}) + "\n", encoding="utf-8")
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return python


class Candidate:
    """A process that takes a step when asked to."""

    def __init__(self, name: str, python: Path, options: argparse.Namespace, allocator: str) -> None:
        self.name = name
        self.seconds: list[float] = []
        self.memory = 0
        self.failed: str | None = None
        command = [str(python), __file__, "--serve", name, "--allocator", allocator]
        command += ["--threads", str(options.threads), "--batch", str(options.batch)]
        command += ["--timesteps", str(options.timesteps)]
        threads = {"OMP_NUM_THREADS": str(options.threads), "PYTHONWARNINGS": "ignore"}
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **threads},
        )
        self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found: dict[str, Any] = json.loads(line) if line.strip() else {"failed": "the process ended"}
        self.failed = found.get("failed", self.failed)
        return found

    def step(self, counts: bool) -> None:
        """One step; its time is kept if it `counts`."""
        if self.failed is not None:
            return
        assert self.process.stdin is not None
        try:
            self.process.stdin.write("\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            self.failed = "the process ended"
            return
        found = self._answer()
        if self.failed is None:
            self.memory = max(self.memory, int(found["memory"]))
            if counts:
                self.seconds.append(float(found["seconds"]))

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.communicate()


def measure(names: Sequence[str], python: Path, options: argparse.Namespace, allocator: str) -> list[dict[str, Any]]:
    """A row a candidate, all of them measured in turns."""
    candidates: list[Candidate] = []
    try:
        for name in names:
            print(f"{allocator}: starting {name}", file=sys.stderr, flush=True)
            own = python if name.startswith(FOREIGN) else Path(sys.executable)
            candidates.append(Candidate(name, own, options, allocator))
            for _ in range(options.warmup):
                candidates[-1].step(False)
        for number in range(options.rounds):
            print(f"{allocator}: round {number + 1} of {options.rounds}", file=sys.stderr, flush=True)
            for candidate in candidates:
                candidate.step(True)
    finally:
        for candidate in candidates:
            candidate.close()
    first = candidates[0]
    if first.failed is not None:
        raise SystemExit(f"the ANN failed: {first.failed}")
    rows = []
    for candidate in candidates:
        row: dict[str, Any] = {"name": candidate.name, "title": title(candidate.name), "allocator": allocator}
        if candidate.failed is not None:
            row["failed"] = candidate.failed
        else:
            low, middle, high = statistics.quantiles(candidate.seconds, n=4, method="inclusive")
            ratios = [mine / ann for mine, ann in zip(candidate.seconds, first.seconds, strict=True)]
            row |= {"seconds": middle, "quartiles": [low, high], "of_ann": statistics.median(ratios)}
            row |= {"memory": candidate.memory, "all_seconds": candidate.seconds}
        rows.append(row)
    return rows


def title(name: str) -> str:
    """A candidate in words, with the version of its library."""
    text = CANDIDATES[name][0]
    for package, word in (("spikingjelly", "SpikingJelly"), ("snntorch", "snnTorch"), ("norse", "Norse")):
        if name.startswith(package):
            return text.replace(word, f"{word} {VERSIONS[package]}")
    return text


def machine(options: argparse.Namespace) -> dict[str, Any]:
    """What it was measured on."""
    import torch

    from snn2chip import __version__
    from snn2chip.train.surroundings import processor_name

    return {
        "processor": processor_name(),
        "threads": options.threads,
        "load_before": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.release()}, {' '.join(platform.libc_ver())}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "snn2chip": __version__,
        **VERSIONS,
    }


def verdicts(rows: list[dict[str, Any]]) -> list[str]:
    """The project's goals, as figures of this run."""
    lines = []
    for allocator in dict.fromkeys(row["allocator"] for row in rows):
        found = {row["name"]: row for row in rows if row["allocator"] == allocator and "failed" not in row}
        if "ours" not in found:
            continue
        ours = found["ours"]
        lines.append(f"pages {allocator}: {ours['of_ann']:.2f} times the ANN on channels_last (goal: at most 1.10)")
        jelly = {
            name: row for name, row in found.items() if name.startswith("spikingjelly") and not CANDIDATES[name][2]
        }
        if jelly:
            best = min(jelly.values(), key=lambda row: float(row["seconds"]))
            pairs = zip(best["all_seconds"], ours["all_seconds"], strict=True)
            faster = statistics.median(theirs / mine for theirs, mine in pairs)
            pairs = zip(best["all_seconds"], found["ann"]["all_seconds"], strict=True)
            limit = statistics.median(theirs / mine for theirs, mine in pairs)
            lines.append(
                f"pages {allocator}: {faster:.2f} times faster than {best['title']}, the fastest of its forms (goal: "
                f"at least 1.4; the ANN, which has no neurons to integrate, is {limit:.2f} times faster than it)"
            )
        peers = {name: row for name, row in found.items() if name.startswith(FOREIGN) and not CANDIDATES[name][2]}
        if peers:
            least = min(peers.values(), key=lambda row: int(row["memory"]))
            lines.append(
                f"pages {allocator}: {ours['memory'] / 2**20:.0f} MiB, the least of the others "
                f"{least['memory'] / 2**20:.0f} MiB ({least['title']})"
            )
    return lines


def markdown(rows: list[dict[str, Any]], about: dict[str, Any], options: argparse.Namespace) -> str:
    """The tables."""
    lines = [
        "# A training step",
        "",
        "Made by `python bench/training.py`; nothing here is typed by hand.",
        "",
        f"conv64, conv64 stride 2, conv128, conv128 stride 2, dense 10 on {options.timesteps} x {options.batch} images "
        f"of 3 x 32 x 32, float32; medians over {options.rounds} rounds in turns, quartiles in brackets.",
        "",
        *(f"- {key}: {value}" for key, value in about.items()),
    ]
    for allocator in dict.fromkeys(row["allocator"] for row in rows):
        what = "keeps freed pages" if allocator == "keep" else "as glibc has it"
        lines += ["", f"## Allocator {what}", "", "| network | step, ms | of the ANN | peak memory, MiB |"]
        lines.append("| --- | ---: | ---: | ---: |")
        for row in rows:
            if row["allocator"] != allocator:
                continue
            if "failed" in row:
                lines.append(f"| {row['title']} | {row['failed'].replace('|', '/')} | | |")
                continue
            low, high = (1e3 * value for value in row["quartiles"])
            lines.append(
                f"| {row['title']} | {1e3 * row['seconds']:.1f} ({low:.1f}-{high:.1f}) | {row['of_ann']:.2f} | "
                f"{row['memory'] / 2**20:.0f} |"
            )
    lines += ["", "## Against the goals", "", *(f"- {line}" for line in verdicts(rows)), ""]
    lines.append(
        "lava-dl's slayer is not among them: it needs torch 2.3 in Python 3.10, another torch than all the others have."
    )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Parse, run, write."""
    parser = argparse.ArgumentParser(description="Training steps of snn2chip, other simulators and an ANN.")
    parser.add_argument("--out", type=Path, default=Path("docs/training-speed"), help="OUT.md and OUT.json")
    parser.add_argument("--quick", action="store_true", help="4 x 8 images, 3 rounds, one allocator: that it runs")
    parser.add_argument("--draw", action="store_true", help="OUT.md again, from OUT.json")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--timesteps", type=int, default=4)
    parser.add_argument("--candidates", nargs="+", choices=list(CANDIDATES), default=list(CANDIDATES))
    parser.add_argument("--python", type=Path, help="an interpreter that has the simulators already")
    parser.add_argument("--allocator", choices=("keep", "default"), help="only with this one; both if not given")
    parser.add_argument("--serve", choices=list(CANDIDATES), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None:
        serve(options)
        return
    from snn2chip.files import write_json, write_text

    if options.draw:
        kept = json.loads(options.out.with_suffix(".json").read_text(encoding="utf-8"))
        vars(options).update(kept["settings"])
        write_text(options.out.with_suffix(".md"), markdown(kept["rows"], kept["machine"], options))
        return
    if options.quick:
        options.batch, options.rounds, options.warmup = 8, 3, 1
        options.allocator = options.allocator or "keep"
    if options.rounds < 2:
        parser.error("--rounds: at least 2, for a spread")
    names = ["ann", *(name for name in options.candidates if name != "ann")]
    python = options.python
    if python is None and any(name.startswith(FOREIGN) for name in names):
        python = environment()
    about = machine(options)
    rows: list[dict[str, Any]] = []
    for allocator in ("keep", "default") if options.allocator is None else (options.allocator,):
        rows += measure(names, python or Path(sys.executable), options, allocator)
    text = markdown(rows, about, options)
    settings = {"batch": options.batch, "timesteps": options.timesteps, "rounds": options.rounds}
    write_json(options.out.with_suffix(".json"), {"machine": about, "settings": settings, "rows": rows})
    write_text(options.out.with_suffix(".md"), text)
    print(text)


if __name__ == "__main__":
    main()
