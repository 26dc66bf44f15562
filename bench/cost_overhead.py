"""What counting costs: simulating with `--cost` against without, in pairs; the aim is under 5 %.

    python bench/cost_overhead.py [--rounds 7] [--threads N] [--cpu] [--json FILE]
    python bench/cost_overhead.py --net NET --data DIR [--rounds 7]     # the whole command on a data set's test images

Networks as in docs/speed.md, of random weights at the wanted share of spikes, on the events engine and, where the
CPU's dense engine is to be looked at, with --engine dense; batches of 50, as `simulate` has them, and the cost of all
at the end. Each round runs both, the first by turns; the figure is the median over rounds of the ratio of one round.
An engine is made once and every network runs once before it is timed. --cpu takes the processors' time instead, of all
threads, for a machine that others use.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import harness
import speed_networks
import torch

from snn2chip import chip
from snn2chip.data import dataset
from snn2chip.fit.cost import Meter
from snn2chip.fit.demand import of_chain
from snn2chip.fit.table import fit
from snn2chip.formats import netx
from snn2chip.ir import Chain, IntArray
from snn2chip.simulate.engines import make_engine
from snn2chip.simulate.run import counted

AIM = 1.05
BATCH = 50


def cases(quick: bool) -> list[tuple[str, Chain, float, int]]:
    """Name, chain, share of spikes and samples."""
    few = 8 if quick else 500
    return [
        ("VGG-9, 10 %", speed_networks.with_density(speed_networks.vgg(4), 0.1), 0.1, few),
        ("VGG-9, 5 %", speed_networks.with_density(speed_networks.vgg(4), 0.05), 0.05, few),
        ("VGG-9 at a quarter, 10 %", speed_networks.with_density(speed_networks.vgg(4, 0.25), 0.1), 0.1, few),
        ("dense, 10 %", speed_networks.with_density(speed_networks.dense(10), 0.1), 0.1, 4 * few),
    ]


def of_engine(chain: Chain, port: IntArray, kind: Any, clock: Callable[[], float]) -> Callable[[bool], float]:
    """Seconds of an engine's run, with cost or without."""
    meter = Meter(fit(of_chain(chain), chip.load("loihi2")))
    engine = make_engine(chain, kind=kind)

    def run(cost: bool) -> float:
        meter.counts.clear()
        started = clock()
        for start in range(0, len(port), BATCH):
            counted(engine, port[start : start + BATCH], meter if cost else None, batch_size=BATCH, keep=False)
        if cost:
            meter.cost()
        return clock() - started

    return run


def measured(run: Callable[[bool], float], rounds: int) -> dict[str, Any]:
    """Seconds of each round with and without, and the median of their ratios."""
    run(False), run(True)
    pairs = []
    for number in range(rounds):
        took = {cost: run(cost) for cost in ((False, True) if number % 2 else (True, False))}
        pairs.append((took[False], took[True]))
    ratios = [with_ / without for without, with_ in pairs]
    return {"seconds": statistics.median(a for a, _ in pairs), "ratio": statistics.median(ratios), "ratios": ratios}


def of_command(net: Path, data: Path) -> Callable[[bool], float]:
    """Seconds of `snn2chip simulate`, with cost or without."""

    def run(cost: bool) -> float:
        started = time.perf_counter()
        harness.snn2chip("simulate", net, "--data", data, *(["--cost"] if cost else []))
        return time.perf_counter() - started

    return run


def runs(options: argparse.Namespace, clock: Callable[[], float]) -> Iterator[tuple[str, int, Callable[[bool], float]]]:
    """Name, samples and what runs once."""
    if options.net is not None:
        samples = len(dataset.test_set(netx.load(options.net).made, None, options.data).labels)
        yield f"simulate {options.net.name}", samples, of_command(options.net, options.data)
        return
    for name, chain, density, samples in cases(options.quick):
        port = speed_networks.port_of(chain, samples, density)
        yield name, samples, of_engine(chain, port, options.engine, clock)


def main() -> None:
    """Measure all and print the table."""
    parser = harness.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--engine", choices=("events", "dense"), default="events")
    parser.add_argument("--cpu", action="store_true", help="processors' time, not the clock's")
    parser.add_argument("--net", type=Path, help="a network for the command `simulate`, with --data")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--quick", action="store_true", help="that it runs: few samples")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    machine = harness.machine(options.threads)
    clock = time.process_time if options.cpu else time.perf_counter
    rows, kept = [], []
    for name, samples, run in runs(options, clock):
        found = measured(run, options.rounds)
        low, high = harness.quartiles(found["ratios"])
        met = "yes" if found["ratio"] < AIM else "no"
        cells = (f"{100 * (ratio - 1):.1f} %" for ratio in (found["ratio"], low, high))
        rows.append([name, f"{samples / found['seconds']:,.1f}", *cells, met])
        kept.append({"network": name, "engine": options.engine, **found})
        print(name, rows[-1][1:], flush=True)
    head = ["network", "samples a second", "counting adds", "lower quartile", "upper", "under 5 %"]
    print("\n".join(harness.table(head, rows)))
    harness.keep(options.json, {"machine": machine, "clock": clock.__name__, "rows": kept})


if __name__ == "__main__":
    main()
