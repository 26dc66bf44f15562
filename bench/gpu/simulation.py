"""Shipped networks on all test images, in the chip's integers: scores equal to the CPU's of pack.py, and the speed."""

from __future__ import annotations

from typing import Any

import common
import numpy as np

from snn2chip.data import load
from snn2chip.formats import netx
from snn2chip.simulate.run import simulate

OPTIONS = common.options_of(__doc__)


def main() -> None:
    rows: list[dict[str, Any]] = []
    for path in sorted(OPTIONS.packed.glob("*.net")):
        wanted = np.load(path.with_suffix(".npz"))["scores"]
        chain, test = netx.load(path), load("cifar10", "test", OPTIONS.data, download=False).subset(len(wanted))
        for batch in (50, 500):
            found = simulate(chain, images=test, device=OPTIONS.device, batch_size=batch, engine_kind="dense")
            differ = int((found.trace.scores != wanted).any(1).sum())
            rows.append(
                {
                    "network": path.stem,
                    "device": common.card(OPTIONS.device),
                    "batch": batch,
                    "images": found.samples,
                    "images_per_second": found.samples / found.seconds,
                    "accuracy": found.accuracy,
                    "images_whose_scores_differ": differ,
                }
            )
            print(rows[-1], flush=True)
            common.write("simulation", rows)
    raise SystemExit(not rows or any(row["images_whose_scores_differ"] for row in rows))


if __name__ == "__main__":
    main()
