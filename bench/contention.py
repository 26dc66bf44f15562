"""Training, simulation and export beside busy processes, against the fair share of the processors.

    python bench/contention.py                 # some minutes; on a machine that does nothing else
    python bench/contention.py --busy 4 8      # so many processes that only count, each in turn

With P processors and B busy processes of one thread, the scheduler owes a process of T threads min(T, P T / (T + B)) of
them; alone it has min(T, P). A run beside them is fair if it takes no longer than alone times the ratio of the two;
what it takes over that is its slowdown, the target at most 1.5. Exit code 1 where one is above.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import harness

from snn2chip.processors import threads

TARGET = 1.5
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


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--busy", type=int, nargs="+", default=[4, 8])
    given = parser.parse_args()
    processors = threads()
    rows: list[list[str]] = []
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        run, net = Path(folder) / "run", Path(folder) / "model.net"
        short = ["--set", "train.epochs=20"]
        harness.snn2chip("train", "digits-tdbn", "--out", run, *short)
        model = run / "model.pt"
        harness.snn2chip("fold-and-export", model, "-o", net)
        jobs = {
            "train": lambda: harness.snn2chip("train", "digits-tdbn", "--out", run, "--overwrite", *short),
            "fold-and-export": lambda: harness.snn2chip("fold-and-export", model, "-o", net, "--calibration", 512),
            "simulate": lambda: harness.snn2chip("simulate", net, "--dataset", "digits:train"),
        }
        for name, job in jobs.items():
            times = {}
            for busy in (0, *given.busy):
                with load(busy):
                    start = time.perf_counter()
                    job()
                    times[busy] = time.perf_counter() - start
            for busy in given.busy:
                slower = times[busy] / times[0] / fair(processors, processors, busy)
                worst = max(worst, slower)
                rows.append([name, str(busy), f"{times[0]:.1f}", f"{times[busy]:.1f}", f"{slower:.2f}"])
    head = ["command", "busy processes", "alone, s", "beside them, s", "of the fair share"]
    print(f"{processors} processors; {harness.machine(processors)}")
    print("\n".join(harness.table(head, rows)))
    sys.exit(int(worst > TARGET))


if __name__ == "__main__":
    main()
