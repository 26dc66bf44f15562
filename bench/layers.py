"""Layer by layer, on real samples and one thread: the event engine, the dense engine, and the dense engine's products.

    python bench/layers.py model.net --data DIR [--samples 16]

What choosing an engine a layer could gain: where a layer's row says less than 1, the dense engine would be the faster
there, if going over to it and back cost nothing. Times are the least of several runs, in microseconds a sample: of
samples one by one for events (which is how that engine runs them), of all together for products.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import harness
import numpy as np
import torch

from snn2chip.chip.products import exact_products
from snn2chip.data import test_set
from snn2chip.formats import netx
from snn2chip.ir import Chain, IntArray
from snn2chip.ir.encode import encoder_of
from snn2chip.simulate.dense import DenseEngine
from snn2chip.simulate.events.engine import EventEngine

ROUNDS = 20


def least(work: Callable[[], object]) -> float:
    """Microseconds of the processor that a call takes at least."""
    found = []
    for _ in range(ROUNDS):
        started = time.thread_time()
        work()
        found.append(time.thread_time() - started)
    return 1e6 * min(found)


def rows(chain: Chain, port: IntArray) -> list[list[str]]:
    """A row a layer, and one of all."""
    engine = EventEngine(chain, threads=1)
    samples = [np.ascontiguousarray(port[i : i + 1]) for i in range(len(port))]
    stages = [[list(engine.stages(one).values()) for _ in range(ROUNDS)] for one in samples]
    events = 1e6 * np.array(stages).sum(3).min(1).mean(0)
    x, found = torch.from_numpy(port), []
    with torch.no_grad(), exact_products():
        for runner, mine in zip(DenseEngine(chain).runners, events.tolist(), strict=True):
            share = float((x != 0).double().mean())
            whole, products = (least(partial(work, x)) / len(port) for work in (runner.run, runner.product))
            found.append([share, mine, whole, products])
            x, _, _ = runner.run(x)
    names = [f"{layer.name} ({', '.join(layer.origin) or layer.kind})" for layer in chain.layers]
    made = [[name, f"{100 * row[0]:.1f} %", *cells(row[1:])] for name, row in zip(names, found, strict=True)]
    return [*made, ["all", "", *cells(np.array(found).sum(0)[1:].tolist())]]


def cells(times: list[float]) -> list[str]:
    """Three times, and how often the first goes into the others."""
    return [*(f"{each:,.0f}" for each in times), *(f"{each / times[0]:.1f}" for each in times[1:])]


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("net", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--samples", type=int, default=16)
    given = parser.parse_args()
    torch.set_num_threads(1)
    chain = netx.load(given.net)
    images = test_set(chain.made, None, given.data).subset(given.samples)
    port = np.ascontiguousarray(chain.port(encoder_of(chain)(images.images)))
    head = ["layer", "input", "events us", "dense us", "products us", "dense/events", "products/events"]
    print(f"{given.net.name}: {len(port)} samples of {images.name}, T = {port.shape[1]}")
    print("\n".join(harness.table(head, rows(chain, port))))


if __name__ == "__main__":
    main()
