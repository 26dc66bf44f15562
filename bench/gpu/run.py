"""All parts of a run, one after the other, each within its time; what they say is in log.txt. See README.md."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE, START = Path(__file__).resolve().parent, time.monotonic()
ROOT = HERE.parents[1]
TESTS = ("tests/test_gpu.py", "tests/test_nn_gpu.py", "tests/test_chip_int8.py", "tests/test_data.py")
SECONDS = {"tests": 130, "steps": 110, "simulation": 60}  # at most, of all those there are; training has the rest
PARTS = *SECONDS, "training"
END = 12  # seconds kept for the end


class Run:
    """Processes one after the other, whose output goes to the screen and to a log."""

    def __init__(self, out: Path, seconds: float, environment: dict[str, str]) -> None:
        self.out, self.seconds, self.environment = out, seconds, environment
        self.codes: dict[str, int | str] = {}
        out.mkdir(parents=True, exist_ok=True)
        self.log = (out / "log.txt").open("a")

    @property
    def left(self) -> float:
        return self.seconds - END - (time.monotonic() - START)

    def say(self, line: str) -> None:
        text = f"[{time.monotonic() - START:.0f} s] {line}"
        print(text, flush=True)
        print(text, file=self.log, flush=True)

    def part(self, name: str, command: Sequence[str], seconds: float) -> None:
        """One part: it ends by itself, or is ended after so many seconds."""
        self.say(f"{name}, up to {seconds:.0f} s")
        process = subprocess.Popen(command, cwd=ROOT, env=self.environment, stdout=self.log, stderr=subprocess.STDOUT)
        try:
            self.codes[name] = process.wait(max(1.0, seconds))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            self.codes[name] = "took too long"
        self.say(f"{name}: {self.codes[name]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--packed", type=Path, default=ROOT / ".gpu" / "last")
    parser.add_argument("--kept", type=Path, default=Path(os.environ.get("SNN2CHIP_GPU_KEPT", "/tmp/snn2chip-gpu")))
    parser.add_argument("--seconds", type=float, default=590)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--parts", nargs="*", default=list(PARTS), choices=PARTS, help="default all")
    parser.add_argument("--small", action="store_true", help="tiny networks and no tests: a rehearsal")
    options = parser.parse_args()
    site = options.kept / "site"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(site), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "PYTHONUNBUFFERED": "1",
        "OUT": str(options.out),
    }
    run = Run(options.out, options.seconds, environment)
    options.kept.mkdir(parents=True, exist_ok=True)
    wheels = sorted(map(str, (options.packed / "wheels").glob("*.whl")))
    if wheels:
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-compile", "--target"]
        run.part("wheels", [*pip, str(site), *wheels], 60)
    data = options.kept / "cifar-10-batches-bin"
    unpack = [sys.executable, str(HERE / "mosaics.py"), str(options.kept), str(data)]
    unpacking = subprocess.Popen(unpack, env=environment)
    tail = ["--device", options.device, *(["--small"] if options.small else [])]
    parts = {name: [sys.executable, str(HERE / f"{name}.py"), *tail] for name in PARTS[1:]}
    limits = dict.fromkeys(SECONDS, options.seconds / 2) if options.small else SECONDS
    if "tests" in options.parts and not options.small:
        pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "filterwarnings=default"]
        run.part("tests", [*pytest, "-m", "gpu", *TESTS], min(limits["tests"], run.left))
    if "steps" in options.parts:
        run.part("steps", parts["steps"], min(limits["steps"], run.left))
    unpacking.wait()
    named = ["--data", str(options.kept)]
    shipped = [*parts["simulation"], *named, "--packed", str(options.packed)]
    if "simulation" in options.parts:
        run.part("simulation", shipped, min(limits["simulation"], run.left))
    if "training" in options.parts:
        run.part("training", [*parts["training"], *named, "--seconds", f"{run.left - 5:.0f}"], run.left)
    found: dict[str, Any] = {"codes": run.codes}
    for path in sorted(options.out.glob("*.part.json")):
        part = json.loads(path.read_text())
        found["versions"], found[path.name.partition(".")[0]] = part["versions"], part["rows"]
        path.unlink()  # few files come back
    (options.out / "results.json").write_text(json.dumps(found, indent=1))
    run.say("done")
    raise SystemExit(any(run.codes.values()))


if __name__ == "__main__":
    main()
