"""What a training step costs: ours, the plain loop, other simulators, and the same network with ReLUs.

    python bench/training.py [--quick] [--rounds 15] [--threads 2] [--candidates NAME ...] [--data DIR]
                             [--out docs/training-speed]

Makes an environment in the user's cache that has the simulators and borrows everything else (torch above all) from the
Python that runs this; nothing is installed beside snn2chip. Run it on a machine that does nothing else. The network is
conv64, conv64 stride 2, conv128, conv128 stride 2 (3x3), dense 10, on T x N images of 3 x 32 x 32 that differ from step
to step; a step is forward, cross-entropy of the scores averaged over time, backward, and SGD. Weights start as He et
al. 2015 say, so that all layers spike; how many neurons do is said, for our step depends on it.

Every candidate is a process of its own, all of them alive, and each round takes one step in each: what else the
machine does meets all alike. The time is the median over rounds, with the quartiles; "of the ANN" is the median over
rounds of the ratio to the ANN on channels_last in the same round. Memory is the peak of the process's resident memory
less what it had before its first step. Once with glibc's allocator as it is, once told to keep its pages
(`snn2chip/train/allocator.py`), for all alike. With --data, the folder of CIFAR-10, also shipped networks by events and
densely (`training_shipped.py`). Writes OUT.md, OUT.json and OUT.png; --draw makes page and picture again, with --data
the shipped networks anew.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import harness
from peers import VERSIONS, environment
from training_candidates import CANDIDATES, FOREIGN
from training_picture import draw


class Candidate:
    """A process that takes a step when asked to."""

    def __init__(self, name: str, python: Path, options: argparse.Namespace, allocator: str) -> None:
        self.name = name
        self.seconds: list[float] = []
        self.memory = 0
        self.failed: str | None = None
        script = Path(__file__).with_name("training_candidates.py")
        command = [str(python), str(script), name, "--allocator", allocator]
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
        self.spikes: list[float] = []
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
            self.spikes = found["spikes"]
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
            row |= {"memory": candidate.memory, "all_seconds": candidate.seconds, "spikes": candidate.spikes}
        rows.append(row)
    return rows


def title(name: str) -> str:
    """A candidate in words, with the version of its library."""
    text = CANDIDATES[name][0]
    for package, word in (
        ("spikingjelly", "SpikingJelly"),
        ("snntorch", "snnTorch"),
        ("norse", "Norse"),
        ("lava-dl", "lava-dl"),
    ):
        if name.startswith(package):
            return text.replace(word, f"{word} {VERSIONS[package]}")
    return text


def _faster(than: dict[str, Any], row: dict[str, Any]) -> float:
    """Median over rounds of how many times a step of `row` fits one of `than`."""
    pairs = zip(than["all_seconds"], row["all_seconds"], strict=True)
    return float(statistics.median(theirs / mine for theirs, mine in pairs))


def verdicts(rows: list[dict[str, Any]]) -> list[str]:
    """The project's goals, as figures of this run."""
    lines = []
    for allocator in dict.fromkeys(row["allocator"] for row in rows):
        found = {row["name"]: row for row in rows if row["allocator"] == allocator and "failed" not in row}
        for name, norm in (("ours", False), ("ours-norm", True)):
            ann = found.get("ann-norm" if norm else "ann")
            if name not in found or ann is None:
                continue
            ours = found[name]
            what = f"pages {allocator}, {'with' if norm else 'without'} batch norm"
            lines.append(f"{what}: {1 / _faster(ann, ours):.2f} times the ANN on channels_last (goal: at most 1.10)")
            peers = [row for key, row in found.items() if key.startswith(FOREIGN) and CANDIDATES[key][2] == norm]
            jelly = [row for row in peers if row["name"].startswith("spikingjelly")]
            if jelly:
                best = min(jelly, key=lambda row: float(row["seconds"]))
                lines.append(
                    f"{what}: {_faster(best, ours):.2f} times faster than {best['title']}, the fastest of its forms "
                    f"(goal: at least 1.4; the ANN is {_faster(best, ann):.2f} times faster than it)"
                )
            if peers:
                least = min(peers, key=lambda row: int(row["memory"]))
                lines.append(
                    f"{what}: {ours['memory'] / 2**20:.0f} MiB, the least of the others "
                    f"{least['memory'] / 2**20:.0f} MiB ({least['title']})"
                )
    return lines


SHIPPED = ("cifar10-vgg-tdbn-t2", "cifar10-resnet19-tdbn-t2")


def shipped(options: argparse.Namespace) -> list[dict[str, Any]]:
    """What training_shipped.py measures, in a process of its own."""
    print("shipped networks", file=sys.stderr, flush=True)
    script = Path(__file__).with_name("training_shipped.py")
    command = [sys.executable, str(script), *SHIPPED, "--data", str(options.data), "--threads", str(options.threads)]
    found: list[dict[str, Any]] = json.loads(
        harness.run(*command, "--batch", options.batch, "--rounds", options.rounds)
    )
    return found


def shipped_table(rows: list[dict[str, Any]]) -> list[str]:
    """Their lines of the page."""
    lines = []
    for row in rows:
        cells = []
        for what in ("step", "eval"):
            events, dense = (row["seconds"][f"{what} {how}"] for how in ("events", "dense"))
            cells += [f"{1e3 * q[1]:.0f} ({1e3 * q[0]:.0f}-{1e3 * q[2]:.0f})" for q in (events, dense)]
            cells.append(f"{dense[1] / events[1]:.2f}")
        spread = f"{min(row['spikes']):.0%} to {max(row['spikes']):.0%}, layer by layer"
        lines.append([row["name"], str(row["timesteps"]), str(row["batch"]), spread, *cells])
    twice = ["densely, ms", "times faster"]
    head = ["network", "T", "batch", "neurons that spike in a step", "step, ms", *twice, "evaluation, ms", *twice]
    return [
        "",
        "## Shipped networks",
        "",
        "With the trained weights of that day on images of their test set, in float32, pages kept; the same code with "
        "spikes convolved by their events, and densely. An evaluation is a forward pass without gradients.",
        "",
        *harness.table(head, lines, (0, 3)),
    ]


def markdown(
    rows: list[dict[str, Any]], own: list[dict[str, Any]], about: dict[str, Any], options: argparse.Namespace
) -> str:
    """The tables."""
    lines = [
        "# A training step",
        "",
        "Made by `python bench/training.py`, on a CPU ([gpu.md](gpu.md): on a GPU); nothing here is typed by hand.",
        "",
        f"conv64, conv64 stride 2, conv128, conv128 stride 2, dense 10 on {options.timesteps} x {options.batch} images "
        f"of 3 x 32 x 32, float32; medians over {options.rounds} rounds in turns, quartiles in brackets.",
        "",
        *(f"- {key}: {value}" for key, value in about.items()),
    ]
    lines += ["", f"![Time and memory of a step]({options.out.name}.png)"]
    for allocator in dict.fromkeys(row["allocator"] for row in rows):
        what = "keeps freed pages" if allocator == "keep" else "as glibc has it"
        cells = []
        for row in rows:
            if row["allocator"] != allocator:
                continue
            if "failed" in row:
                cells.append([row["title"], row["failed"].replace("|", "/"), "", "", ""])
                continue
            low, high = (1e3 * value for value in row["quartiles"])
            step, memory = f"{1e3 * row['seconds']:.1f} ({low:.1f}-{high:.1f})", f"{row['memory'] / 2**20:.0f}"
            spikes = ", ".join(f"{share:.0%}" for share in row["spikes"])
            cells.append([row["title"], step, f"{row['of_ann']:.2f}", memory, spikes])
        head = ["network", "step, ms", "of the ANN", "peak memory, MiB", "neurons that spike in a step, layer by layer"]
        lines += ["", f"## Allocator {what}", "", *harness.table(head, cells, (0, 4))]
    lines += shipped_table(own) if own else []
    lines += ["", "## Against the goals", "", *(f"- {line}" for line in verdicts(rows)), ""]
    lines.append(
        "What the peers do in a step does not depend on how many of their neurons spike; slayer keeps its states in "
        "integers, and its convolutions have no bias."
    )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Parse, run, write."""
    parser = argparse.ArgumentParser(description="Training steps of snn2chip, other simulators and an ANN.")
    parser.add_argument("--out", type=Path, default=Path("docs/training-speed"), help="OUT.md, OUT.json, OUT.png")
    parser.add_argument("--data", type=Path, help="folder of CIFAR-10: shipped networks are measured, too")
    parser.add_argument("--quick", action="store_true", help="4 x 8 images, 3 rounds, one allocator: that it runs")
    parser.add_argument("--draw", action="store_true", help="OUT.md of OUT.json; with --data the shipped networks")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--timesteps", type=int, default=4)
    parser.add_argument("--candidates", nargs="+", choices=list(CANDIDATES), default=list(CANDIDATES))
    parser.add_argument("--python", type=Path, help="an interpreter that has the simulators already")
    parser.add_argument("--allocator", choices=("keep", "default"), help="only with this one; both if not given")
    options = parser.parse_args()
    from snn2chip.files import write_text

    if options.draw:
        kept = json.loads(options.out.with_suffix(".json").read_text(encoding="utf-8"))
        vars(options).update(kept["settings"])
        if options.data is not None:
            kept["shipped"] = shipped(options)
            harness.keep(options.out.with_suffix(".json"), kept)
        draw(kept["rows"], options.out.with_suffix(".png"))
        write_text(options.out.with_suffix(".md"), markdown(kept["rows"], kept["shipped"], kept["machine"], options))
        return
    if options.quick:
        options.batch, options.rounds, options.warmup = 8, 3, 1
        options.allocator = options.allocator or "keep"
    if options.rounds < 2 or options.warmup < 1:
        parser.error("--rounds: at least 2, for a spread, and --warmup at least 1")
    names = ["ann", *(name for name in options.candidates if name != "ann")]
    python = options.python
    if python is None and any(name.startswith(FOREIGN) for name in names):
        python = environment()
    about = {**harness.machine(options.threads), **VERSIONS}
    rows: list[dict[str, Any]] = []
    for allocator in ("keep", "default") if options.allocator is None else (options.allocator,):
        rows += measure(names, python or Path(sys.executable), options, allocator)
    own = [] if options.data is None else shipped(options)
    text = markdown(rows, own, about, options)
    settings = {"batch": options.batch, "timesteps": options.timesteps, "rounds": options.rounds}
    made = {"machine": about, "settings": settings, "rows": rows, "shipped": own}
    harness.keep(options.out.with_suffix(".json"), made)
    write_text(options.out.with_suffix(".md"), text)
    draw(rows, options.out.with_suffix(".png"))
    print(text)


if __name__ == "__main__":
    main()
