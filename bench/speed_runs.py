"""What is measured in processes of their own: memory by timesteps, the whole test set; and what the machine is."""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import harness
import numpy as np
import torch

from snn2chip import ir
from snn2chip.errors import InputError
from snn2chip.formats import netx
from snn2chip.simulate import run as runs
from snn2chip.simulate.events.engine import EventEngine

MODEL = "cifar10-vgg-tdbn-t2"
MEMORY_IMAGES = 100
REPEATS = 3


def about(threads: int, lava: dict[str, str] | str) -> dict[str, Any]:
    """The machine and the versions."""
    import snn2chip.simulate.events.library as library

    return {
        **harness.machine(threads),
        "numpy": np.__version__,
        "events engine": library.SIMD[library.simd_level()],
        "Lava": lava if isinstance(lava, str) else ", ".join(f"{name} {number}" for name, number in lava.items()),
    }


def _environment(threads: int) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": str(threads)}


def memory(chain: ir.Chain, steps: tuple[int, ...], threads: int) -> list[dict[str, int]]:
    """Peak resident memory, in bytes, of a process that simulates images for T steps, for each T."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="snn2chip-") as folder:
        for count in steps:
            net = Path(folder, f"{count}.net")
            netx.save(net, replace(chain, timesteps=count))
            command = [sys.executable, harness.ROOT / "bench" / "engines.py", "--memory", net, count]
            said = harness.run(*command, "--threads", threads, env=_environment(threads))
            rows.append({"timesteps": count, **json.loads(said)})
    return rows


def _peak() -> int:
    """Most bytes of this process in memory since `_forget_peak`."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def _forget_peak() -> None:
    """The peak becomes what is in memory now (Linux: proc(5), clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def serve_memory(net: Path, steps: int, threads: int) -> None:
    """The measured process: prints its memory before the simulation and at the peak.

    The engine is made before: laying out weights takes more for a moment than a simulation does, and would hide it.
    """
    from snn2chip.data import ImageSet

    torch.set_num_threads(threads)
    chain = netx.load(net)
    assert chain.timesteps == steps
    pixels = np.random.default_rng(0).integers(0, 256, (MEMORY_IMAGES, *chain.raw_shape)).astype(np.uint8)
    labels = torch.zeros(MEMORY_IMAGES, dtype=torch.int64)
    images = ImageSet("noise", torch.from_numpy(pixels), labels, chain.classes, 255, "drawn")
    engine = EventEngine(chain, threads)
    _forget_peak()
    before = _peak()
    with patch.object(runs, "make_engine", lambda *_: engine):
        runs.simulate(chain, images=images, engine_kind="events")
    print(json.dumps({"images": MEMORY_IMAGES, "before": before, "peak": _peak()}))


def test_set(net: Path, data: Path | None, threads: int, limit: int | None) -> dict[str, Any]:
    """CIFAR-10's test images through `snn2chip simulate` as it is, some times; or why not."""
    if data is None:
        return {"skipped": "no --data"}
    try:
        harness.export(MODEL, net, data)
        return _simulated(net, data, threads, limit)
    except InputError as reason:
        return {"skipped": str(reason)}


def _simulated(net: Path, data: Path, threads: int, limit: int | None) -> dict[str, Any]:
    made = netx.load(net).made
    if made.get("model") != MODEL:
        raise InputError(f"'{net.name}' is of {made.get('model')}, not of {MODEL}")
    walls, engine_seconds = [], []
    with tempfile.TemporaryDirectory(prefix="snn2chip-") as folder:
        result = Path(folder, "simulate.json")
        command = ["simulate", net, "--data", data, "--json", result]
        command += [] if limit is None else ["--limit", limit]
        for _ in range(REPEATS):
            started = time.perf_counter()
            harness.snn2chip(*command, env=_environment(threads))
            walls.append(time.perf_counter() - started)
            figures = json.loads(result.read_text(encoding="utf-8"))
            engine_seconds.append(float(figures["seconds"]))
    return {
        "model": made["model"],
        "calibration": made.get("calibration"),
        "samples": figures["samples"],
        "whole": limit is None,
        "timesteps": figures["timesteps"],
        "engine": figures["engine"],
        "accuracy": figures["accuracy"],
        "dataset": figures["dataset"],
        "wall_seconds": walls,
        "median": statistics.median(walls),
        "engine_seconds": engine_seconds,
    }
