"""The machine's limit for the event engine's way to compute, measured, and how near to it each layer comes.

`speed_limit.cpp` does the engine's three kinds of work and nothing around them, at the processor's best vector width:
rows of int8 weights added in registers, pairs of graded input multiplied, neurons updated. The time that a layer needs
at least is its additions (or multiplications) at that rate, from a table as large as a block of its own weights, plus
its neurons at theirs. Listing spikes, moving sums to 32 bits and going from layer to layer are free in it.
"""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snn2chip import ir
from snn2chip.native import compiler
from snn2chip.simulate.events.engine import EventEngine
from snn2chip.simulate.events.plan import EVENTS8, GRADED16, LayerPlan, aligned, plan

HERE = Path(__file__).resolve().parent
SECONDS = 0.03  # of one measurement
BEST_OF = 5
L1_BYTES = 16 << 10
Array = NDArray[Any]


@dataclass(frozen=True)
class Stage:
    """One layer, a sample and step on one thread: microseconds the engine takes, and the least there could be.

    `adds` are additions of a weight to a sum (multiply-adds in the first layer, shared by the steps that show one
    image); `rate` is how many of them a second the machine does at most.
    """

    layer: str
    neurons: int
    adds: float
    rate: float
    lists: float
    rest: float
    limit: float


@cache
def _library() -> ctypes.CDLL:
    """The compiled measurements; made anew in every run."""
    with tempfile.TemporaryDirectory(prefix="snn2chip-") as folder:
        made = Path(folder, "limit.so")
        flags = ("-std=c++17", "-O3", "-march=native", "-fwrapv", "-fPIC", "-shared", "-Wno-psabi")
        subprocess.run([*compiler(), *flags, str(HERE / "speed_limit.cpp"), "-o", str(made)], check=True)
        library = ctypes.CDLL(str(made))
    for name in ("add_rows", "multiply_rows", "neurons"):
        getattr(library, name).restype = ctypes.c_int64
    return library


def _rate(work: Callable[[int], Any], each: float, threads: int) -> float:
    """How many a second, all threads together: `work(repeats)` does `repeats * each` of them."""
    repeats = 1
    work(repeats)  # the first call compiles
    while True:
        started = time.perf_counter()
        work(repeats)
        taken = time.perf_counter() - started
        if taken > SECONDS / 4:
            break
        repeats *= 4
    repeats = max(1, round(repeats * SECONDS / taken))
    best = 0.0
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(BEST_OF):
            started = time.perf_counter()
            for waiting in [pool.submit(work, repeats) for _ in range(threads)]:
                waiting.result()
            best = max(best, threads * repeats * each / (time.perf_counter() - started))
    return best


def _at(array: Array) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


@cache
def add_rate(table_bytes: int, lanes: int, threads: int = 1) -> float:
    """Most additions of an int8 weight a second, rows of `lanes` from a table of so many bytes.

    A tenth of the rows, as spikes of 10 % come, another tenth each of a hundred times: the whole table is read.
    """
    count = max(64, table_bytes // lanes)
    rng = np.random.default_rng(0)
    table = aligned(rng.integers(0, 256, count * lanes).astype(np.uint8))
    places = np.concatenate([np.flatnonzero(rng.random(count) < 0.1) for _ in range(100)])
    order = aligned((places[: len(places) // 4 * 4] * lanes).astype(np.uint32))

    def work(repeats: int) -> None:
        _library().add_rows(_at(table), _at(order), ctypes.c_int64(len(order)), lanes, ctypes.c_int64(repeats))

    return _rate(work, len(order) * lanes, threads)


@cache
def multiply_rate(pairs: int, threads: int = 1) -> float:
    """Most int16 multiply-adds a second, `pairs` pairs of inputs for 64 neurons."""
    rng = np.random.default_rng(0)
    weights, values = (aligned(rng.integers(-128, 128, n).astype(np.int16)) for n in (pairs * 128, pairs * 2))

    def work(repeats: int) -> None:
        _library().multiply_rows(_at(weights), _at(values), ctypes.c_int64(pairs), ctypes.c_int64(repeats))

    return _rate(work, pairs * 128, threads)


@cache
def neuron_rate(steps: int, threads: int = 1) -> float:
    """Most updates of a neuron a second: 64 at a time through `steps` steps, sums from the first-level cache."""
    rng = np.random.default_rng(0)
    blocks = max(1, L1_BYTES // (4 * 64 * steps))
    sums = aligned(rng.integers(-900, 900, blocks * steps * 64).astype(np.int32))
    bias = aligned(rng.integers(-900, 900, 64).astype(np.int32))

    def work(repeats: int) -> None:
        _library().neurons(_at(sums), _at(bias), ctypes.c_int64(blocks), steps, 50_000, ctypes.c_int64(repeats))

    return _rate(work, blocks * steps * 64, threads)


def _taps(layer: LayerPlan) -> int:
    """Pairs of an input and an output pixel under the kernel, borders left out."""
    number = layer.numbers
    found = 1
    for inside, out, kernel, stride, pad, apart in (
        ("in_h", "out_h", "kh", "sy", "py", "dy"),
        ("in_w", "out_w", "kw", "sx", "px", "dx"),
    ):
        places = np.arange(number[out])[:, None] * number[stride] - number[pad]
        places = places + np.arange(number[kernel]) * number[apart]
        found *= int(((places >= 0) & (places < number[inside])).sum())
    return found


def additions(layer: LayerPlan, chain_layer: ir.ChainLayer) -> int:
    """Of one step in which every input spikes."""
    each = chain_layer.weight.shape[1] if chain_layer.kind == "conv" else layer.numbers["in_channels"]
    return _taps(layer) * each * len(chain_layer.weight)


def needed(layer: LayerPlan, chain_layer: ir.ChainLayer, share: float, steps: int) -> tuple[float, float]:
    """Additions of one sample and step where `share` of the inputs spike, and the machine's rate on one thread.

    Raises:
        ValueError: weights that are not int8 rows; the limit is of those.
    """
    number = layer.numbers
    total = additions(layer, chain_layer)
    if number["kind"] == GRADED16:
        inputs = chain_layer.weight[0].size
        return total / steps, multiply_rate(-(-inputs // 2))
    if number["kind"] != EVENTS8:
        raise ValueError(f"layer '{chain_layer.name}': weights of kind {number['kind']} are not rows of int8")
    return share * total, add_rate(number["block_bytes"], number["lanes"])


def stages(chain: ir.Chain, port: ir.IntArray, rounds: int) -> list[Stage]:
    """Every layer of `chain` on one sample (1, T, ...), the least of `rounds` runs, and its limit."""
    engine = EventEngine(chain, 1)
    steps = port.shape[1]
    spent = np.array([list(engine.stages(port).values()) for _ in range(rounds)]).min(0) * 1e6 / steps
    counts = engine.run(port, keep=False).counts
    share = float(np.mean(port != 0))
    found = []
    for layer, laid, (lists, rest) in zip(chain.layers, plan(chain), spent.tolist(), strict=True):
        neurons = int(np.prod(layer.shape))
        adds, rate = needed(laid, layer, share, steps)
        limit = 1e6 * (adds / rate + neurons / neuron_rate(steps))
        found.append(Stage(layer.name, neurons, adds, rate, lists, rest, limit))
        share = counts[layer.name] / (neurons * steps)
    return found


def machine(threads: int) -> dict[str, Any]:
    """The rates themselves, one thread and all: from the first-level cache, the second, and beyond."""
    tables = {"16 KiB": 16 << 10, "144 KiB": 144 << 10, "512 KiB": 512 << 10, "8 MiB": 8 << 20}
    rows: dict[str, Any] = {"threads": threads, "adds": {}}
    for name, size in tables.items():
        rows["adds"][name] = {
            f"rows of {lanes}": [add_rate(size, lanes), add_rate(size, lanes, threads)] for lanes in (64, 128)
        }
    rows["neurons"] = [neuron_rate(4), neuron_rate(4, threads)]
    rows["multiply-adds"] = [multiply_rate(14), multiply_rate(14, threads)]
    return rows


def as_json(found: list[Stage]) -> list[dict[str, Any]]:
    """Plain values."""
    return [asdict(stage) for stage in found]
