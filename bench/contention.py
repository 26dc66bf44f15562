"""Training, simulation and export beside busy processes, against the fair share of the processors.

    python bench/contention.py                 # some minutes; on a machine that does nothing else
    python bench/contention.py --busy 4 8      # so many processes that only count, each in turn

With P processors and B busy processes of one thread, the scheduler owes a process of T threads min(T, P T / (T + B)) of
them; alone it has min(T, P). A run beside them is fair if it takes no longer than alone times the ratio of the two;
what it takes over that is its slowdown, the target at most 1.5. Two trainings at once may take at most 2.5 times as
long as one. Exit code 1 where one is above.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import harness

from snn2chip.processors import threads

TARGET = 1.5
TWO = 2.5  # times as long, of two trainings at once
BUSY = "while True: pass"


@contextmanager
def load(count: int) -> Iterator[None]:
    """So many processes that take all the time they get."""
    started = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(count)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def fair(processors: int, own: int, busy: int) -> float:
    """How many times as long a process of `own` threads takes at its fair share beside `busy` others as alone."""
    alone = min(own, processors)
    return alone / min(alone, processors * own / (own + busy))


def timed(job: Callable[[], object]) -> float:
    start = time.perf_counter()
    job()
    return time.perf_counter() - start


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--busy", type=int, nargs="+", default=[4, 8])
    given = parser.parse_args()
    processors = threads()
    rows: list[list[str]] = []
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        run, net = Path(folder) / "run", Path(folder) / "model.net"

        def train(out: Path = run) -> None:
            harness.snn2chip("train", "digits-tdbn", "--out", out, "--overwrite", "--set", "train.epochs=20")

        train()
        model = run / "model.pt"
        harness.snn2chip("fold-and-export", model, "-o", net)
        jobs = {
            "train": train,
            "fold-and-export": lambda: harness.snn2chip("fold-and-export", model, "-o", net, "--calibration", 512),
            "simulate": lambda: harness.snn2chip("simulate", net, "--dataset", "digits:train"),
        }
        for name, job in jobs.items():
            times = {}
            for busy in (0, *given.busy):
                with load(busy):
                    times[busy] = timed(job)
            for busy in given.busy:
                slower = times[busy] / times[0] / fair(processors, processors, busy)
                worst = max(worst, slower)
                rows.append([name, str(busy), f"{times[0]:.1f}", f"{times[busy]:.1f}", f"{slower:.2f}"])
        with ThreadPoolExecutor(2) as both:
            outs = [run, run.with_name("other")]
            together = max(both.map(lambda out: timed(lambda: train(out)), outs))
        alone = timed(train)
    head = ["command", "busy processes", "alone, s", "beside them, s", "of the fair share"]
    print(f"{processors} processors; {harness.machine(processors)}")
    print("\n".join(harness.table(head, rows)))
    print(f"two trainings at once: {together:.1f} s, alone {alone:.1f} s: {together / alone:.2f} times")
    sys.exit(int(worst > TARGET or together > TWO * alone))


if __name__ == "__main__":
    main()
