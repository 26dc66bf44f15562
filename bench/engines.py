"""The simulator against dense torch and Lava on this machine, in one run. Run it alone: nothing else may be busy.

    python bench/engines.py [--quick | --full] [--data DIR] [--rounds N] [--threads N] [--out docs/speed]
    python bench/engines.py --draw          (page and picture again, from the figures of the last run)
    python bench/engines.py --draw --data DIR       (the same, and the test set anew)

Writes OUT.md (between its markers), OUT.png and bench/speed.json. In every round of a case each runner takes its
turn, so that a change of the machine's mood meets all of them; a turn is as many calls as fill --seconds.

    torch   the same network by hand in float32 (`speed_peers.TorchForward`), in the memory layout that is faster here
    dense   snn2chip's dense engine (exact integers)
    events  snn2chip's event engine (exact integers)
    auto    what `simulate` takes: it has seen the network before the timing starts
    lava    Lava running the same chain as model.net through netx, its own convolution; one sample after another

Before anything is timed: scores and spikes of events and auto are those of dense; torch's are too, once its membranes
are cut to the chip's 1/64; Lava's are those of events. A run that finds a difference ends there.

The default run changes one thing at a time around VGG-9, T = 4, batch 16, 10 % spikes; --full takes every combination
of T, batch and density, and ResNet-19 at every T and batch. Where the dense engine's first call takes over 20 s, it is
its only one. Then: the machine's limit, layer by layer; memory by timesteps; the whole CIFAR-10
test set through `snn2chip simulate` (with --data; the network is exported once into --net, which takes minutes).
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import harness
import numpy as np
import speed_limit
import speed_networks
import speed_page
import speed_peers
import speed_runs
import torch
from speed_networks import Network

from snn2chip import ir
from snn2chip.errors import Snn2ChipError
from snn2chip.simulate.engines import make_engine

STEPS, BATCH, DENSITY = 4, 16, 0.1
DENSITIES, BATCHES, TIMESTEPS, WIDTHS = (0.02, 0.05, 0.1, 0.2, 0.4), (1, 16, 64), (1, 4, 16), (0.5, 1.0, 2.0)
SMALLER = {"resnet19": "cifar10-resnet19-tdbn-t2"}  # the recipe that --quick takes
PATIENCE = 20.0  # seconds; where the dense engine's first call takes longer, that call is its only one
SETTLE = 0.05  # seconds; OpenMP's threads go on waiting busily for a while after the last of torch's products


@dataclass(frozen=True)
class Case:
    """What is timed: `density` is wanted (None: as the network comes), `lava` how many times Lava runs."""

    network: str
    timesteps: int = STEPS
    batch: int = BATCH
    density: float | None = DENSITY
    width: float = 1.0
    lava: int = 0


def cases(full: bool) -> Iterator[Case]:
    """One thing at a time around the middle, or everything."""
    if full:
        for steps, batch, density in itertools.product(TIMESTEPS, BATCHES, DENSITIES):
            once = steps == STEPS and batch == BATCH
            yield Case("vgg9", steps, batch, density, lava=3 if once and density == DENSITY else int(once))
            yield Case("dense", steps, batch, density, lava=3 if once and density == DENSITY else int(once))
        yield from (Case("vgg9", width=width, lava=1) for width in WIDTHS if width != 1)
        yield from (Case("resnet19", steps, batch, None) for steps, batch in itertools.product(TIMESTEPS, BATCHES))
        return
    extremes = DENSITIES[0], DENSITIES[-1]
    for density in DENSITIES:
        yield Case("vgg9", density=density, lava=3 if density == DENSITY else int(density == extremes[1]))
    yield from (Case("vgg9", batch=batch) for batch in BATCHES if batch != BATCH)
    yield from (Case("vgg9", batch=1, density=density) for density in extremes)
    yield from (Case("vgg9", timesteps=steps) for steps in TIMESTEPS if steps != STEPS)
    yield from (Case("vgg9", width=width, lava=int(width < 1)) for width in WIDTHS if width != 1)
    yield from (Case("dense", batch=batch, lava=3 * (batch == BATCH)) for batch in BATCHES)
    yield from (Case("dense", density=density) for density in extremes)
    yield from (Case("resnet19", batch=batch, density=None) for batch in (1, BATCH))


def quick_cases() -> Iterator[Case]:
    """One of each kind, to see that everything runs."""
    yield Case("vgg9", lava=1)
    yield from (Case("vgg9", density=density) for density in (0.05, 0.4))
    yield Case("vgg9", batch=1)
    yield Case("vgg9", timesteps=1)
    yield Case("vgg9", width=0.5)
    yield Case("dense", lava=1)
    yield Case("resnet19", batch=2, density=None)


@cache
def _resnet(recipe: str) -> Network:
    return speed_networks.resnet19(recipe)


@cache
def network_of(name: str, timesteps: int, width: float, density: float | None, recipe: str) -> Network:
    """A network at its density."""
    if name == "resnet19":
        made = _resnet(recipe)
        return replace(made, chain=replace(made.chain, timesteps=timesteps))
    assert density is not None
    if name == "dense":
        return Network("dense 2312-512-10", speed_networks.with_density(speed_networks.dense(timesteps), density))
    title = "VGG-9" if width == 1 else f"VGG-9, {width:g} x width"
    return Network(title, speed_networks.with_density(speed_networks.vgg(timesteps, width), density))


def timed(work: Callable[[], Any], repeats: int) -> float:
    """Seconds of one call, over `repeats` calls in a row."""
    started = time.perf_counter()
    for _ in range(repeats):
        work()
    return (time.perf_counter() - started) / repeats


def settle(work: Callable[[], Any]) -> None:
    """Let a contender run for a moment before it is timed, so that nothing of the one before is still going on."""
    until = time.perf_counter() + SETTLE
    while time.perf_counter() < until:
        work()


def torch_forward(made: Network, port: ir.IntArray, wanted: Any) -> tuple[speed_peers.TorchForward, torch.Tensor, str]:
    """Torch's runner in its faster layout, with its input; raises `DifferentError` if it computes something else."""
    network = made.chain if made.graph is None else made.graph
    direct = made.chain.coding == "direct"
    x = torch.from_numpy(port).transpose(0, 1).float().contiguous()
    exact = speed_peers.TorchForward(network, direct, False, exact=True)
    scores = (exact(x) * 64).to(torch.int64).numpy()
    # a graph has no relays: then the spikes that can be compared are those of its last layers, in the scores
    counts = made.graph is not None or exact.counts == list(wanted.counts.values())
    if not np.array_equal(scores, wanted.scores) or not counts:
        raise speed_peers.DifferentError(f"{made.title}: torch's spikes or scores are not the dense engine's")
    layouts = {"contiguous": False, "channels_last": True} if len(port.shape) == 5 else {"contiguous": False}
    tried: dict[str, tuple[float, speed_peers.TorchForward]] = {}
    for name, last in layouts.items():
        forward = speed_peers.TorchForward(network, direct, last)
        forward(x)
        tried[name] = min(timed(partial(forward, x), 1) for _ in range(3)), forward
    layout = min(tried, key=lambda name: tried[name][0])
    return tried[layout][1], x, layout


def measure(case: Case, options: argparse.Namespace) -> dict[str, Any]:
    """All runners of a case in turns; milliseconds a sample and step."""
    made = network_of(case.network, case.timesteps, case.width, case.density, options.recipe)
    chain = made.chain
    port = speed_networks.port_of(chain, case.batch, case.density or 0)
    dense, events, auto = (make_engine(chain, None, kind) for kind in ("dense", "events", "auto"))
    if events.note is not None:
        raise SystemExit(f"error: {events.note}")
    started = time.perf_counter()
    wanted = dense.run(port, batch_size=case.batch, keep=False)
    first = time.perf_counter() - started
    for engine in (events, auto, auto, auto):
        got = engine.run(port, batch_size=case.batch, keep=False)
        if not np.array_equal(got.scores, wanted.scores) or got.counts != wanted.counts:
            raise speed_peers.DifferentError(f"{made.title}: {engine.name} gives other spikes than the dense engine")
    forward, x, layout = torch_forward(made, port, wanted)
    runners: dict[str, Callable[[], Any]] = {"torch": partial(forward, x)}
    for name, engine in (("dense", dense), ("events", events), ("auto", auto)):
        if engine is not dense or first <= PATIENCE:
            runners[name] = partial(engine.run, port, batch_size=case.batch, keep=False)
    repeats = {name: max(1, int(options.seconds / timed(work, 1))) for name, work in runners.items()}
    seen: dict[str, list[float]] = {name: [] for name in runners}
    steps = case.batch * case.timesteps
    rounds = max(3, options.rounds // 2) if case.network == "resnet19" else options.rounds
    lava = np.linspace(0, rounds - 1, case.lava).astype(int).tolist() if options.lava is None else []
    starts = []
    if "dense" not in runners:
        seen["dense"] = [1e3 * first / steps]
    for turn in range(rounds):
        for name, work in runners.items():
            settle(work)
            seen[name].append(1e3 * timed(work, repeats[name]) / steps)
        for _ in range(lava.count(turn)):
            samples, few = (3, 1) if case.network == "vgg9" else (1010, 10)
            each, start = speed_peers.lava_step(
                chain, speed_networks.port_of(chain, max(2, samples * STEPS // case.timesteps), case.density or 0), few
            )
            seen.setdefault("lava", []).append(1e3 * each)
            starts.append(start)
    neurons = made.neurons
    return {
        **asdict(case),
        "title": made.title,
        "multiply_adds": made.multiply_adds,
        "neurons": neurons,
        "reached": sum(wanted.counts.values()) / (steps * neurons),
        "layers_reached": [
            wanted.counts[layer.name] / (steps * int(np.prod(layer.shape))) for layer in chain.layers
        ],
        "torch_layout": layout,
        "auto_is": auto.name,
        "milliseconds": seen,
        "lava_start_seconds": starts,
    }  # fmt: skip


def limits(options: argparse.Namespace) -> dict[str, Any]:
    """The machine's rates and, for VGG-9 at each density, what the engine makes of them."""
    found: dict[str, Any] = {"machine": speed_limit.machine(options.threads), "stages": {}}
    for density in DENSITIES if not options.quick else (DENSITY,):
        chain = network_of("vgg9", STEPS, 1.0, density, options.recipe).chain
        rows = speed_limit.stages(chain, speed_networks.port_of(chain, 1, density), 20 if options.quick else 300)
        found["stages"][f"{density:g}"] = speed_limit.as_json(rows)
    return found


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Engines against dense torch float32 and Lava.")
    parser.add_argument("--out", type=Path, default=harness.ROOT / "docs" / "speed", help="OUT.md and OUT.png")
    parser.add_argument("--json", type=Path, default=harness.ROOT / "bench" / "speed.json", help="all figures")
    parser.add_argument("--data", type=Path, help="folder with CIFAR-10; without it the test set is not run")
    parser.add_argument(
        "--net", type=Path, default=harness.ROOT / "runs" / "speed" / "model.net", help="the exported VGG"
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.1, help="least time of one turn")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--quick", action="store_true", help="small cases, few rounds: that it runs")
    parser.add_argument("--full", action="store_true", help="every combination; most of an hour")
    parser.add_argument("--no-lava", action="store_true")
    parser.add_argument("--draw", action="store_true", help="page and picture, of --json; with --data the test set")
    parser.add_argument("--memory", nargs=2, metavar=("NET", "T"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick and options.full:
        parser.error("--quick and --full exclude each other")
    if options.rounds < 3:
        parser.error("--rounds: at least 3, for a spread")
    if options.quick:  # its figures mean nothing: they go nowhere near the documentation
        own = harness.ROOT / "runs" / "speed-quick"
        options.out = own / "speed" if options.out == parser.get_default("out") else options.out
        options.json = own / "speed.json" if options.json == parser.get_default("json") else options.json
    return options


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Everything, one after the other."""
    torch.set_num_threads(options.threads)
    if options.quick:
        options.rounds, options.seconds, speed_limit.SECONDS = 3, 0.01, 0.005
    options.recipe = SMALLER["resnet19"] if options.quick else "resnet19"
    versions = "not asked for" if options.no_lava else speed_peers.lava_versions()
    options.lava = versions if isinstance(versions, str) else None
    chosen = list(quick_cases() if options.quick else cases(options.full))
    found: dict[str, Any] = {"about": speed_runs.about(options.threads, versions), "cases": []}
    started = time.monotonic()
    for number, case in enumerate(chosen):
        row = measure(case, options)
        found["cases"].append(row)
        said = ", ".join(f"{name} {np.median(times):.3f}" for name, times in row["milliseconds"].items())
        print(f"{number + 1}/{len(chosen)} {row['title']} T={case.timesteps} batch={case.batch} "
              f"{100 * row['reached']:.1f} %: {said} ms [{time.monotonic() - started:.0f} s]", flush=True)  # fmt: skip
    print("the machine's limit", flush=True)
    found["limit"] = limits(options)
    print("memory", flush=True)
    chain = network_of("vgg9", STEPS, 1.0, DENSITY, options.recipe).chain
    found["memory"] = speed_runs.memory(chain, (4, 16) if options.quick else (4, 16, 64), options.threads)
    print("the test set", flush=True)
    found["test_set"] = speed_runs.test_set(options.net, options.data, options.threads, 200 if options.quick else None)
    found["about"] |= {"seconds": round(time.monotonic() - started), "load_after": round(os.getloadavg()[0], 2)}
    flags = [f"--{name}" for name in ("quick", "full", "no_lava") if getattr(options, name)]
    flags += [] if options.data is None else ["--data DIR"]
    found["about"]["command"] = " ".join(["python bench/engines.py", *flags]).replace("_", "-")
    found["about"] |= {"rounds": options.rounds, "seconds_a_turn": options.seconds}
    return found


def main() -> None:
    """Parse, measure, write."""
    options = parse()
    if options.memory is not None:
        speed_runs.serve_memory(Path(options.memory[0]), int(options.memory[1]), options.threads)
        return
    try:
        if not options.draw:
            harness.keep(options.json, run(options))
        elif options.data is not None:
            found = speed_page.figures_of(options.json)
            found["test_set"] = speed_runs.test_set(options.net, options.data, options.threads, None)
            harness.keep(options.json, found)
        speed_page.write(options.json, options.out)
    except (Snn2ChipError, speed_peers.DifferentError) as reason:
        sys.exit(f"error: {reason}")


if __name__ == "__main__":
    main()
