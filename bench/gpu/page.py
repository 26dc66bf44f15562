"""docs/gpu.json and docs/gpu.md of what came back: python bench/gpu/page.py results.json ...; parts that are newer
replace the page's; "note" in a file goes under its parts. Without a file, the page anew."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness import keep, table

DOCS = Path(__file__).resolve().parents[2] / "docs"
Row = dict[str, Any]
HEAD = """# On a GPU

Made by `bench/gpu` (its README says how) and written by `python bench/gpu/page.py`; nothing here is typed by hand.
Of each part: one run. `pytest -m gpu` is part of it.
"""
STEPS = """## A training step

ResNet-19 of recipe `resnet19` (12.6 million weights) on images of 3 x 32 x 32, bfloat16: forward, cross entropy,
backward, SGD; medians of 15 steps after 5, quartiles in brackets. As a graph: recorded once and replayed, as `train`
does by default; done to the others too, which do not do it by themselves. SpikingJelly's neurons stand in the same
network, with tdBN of ours, in three forms: put there and no more; fed float32, for which its kernels are; with the
network prepared for bfloat16 by its own `precision`.
"""
SIMULATION = """## Simulation in the chip's integers

All 10,000 test images of CIFAR-10 by the dense engine in int8 products, reading and encoding included, beside the CPU's
scores by the events engine.
"""
TRAINING = """## Training

The recipes of `models/` by `bench/gpu/training.py`, within the minutes that one run has, which chose the epochs: a
teacher of ReLUs, then T = 1, 2 and 4, each from the one before and taught by the first. 48,000 training images, 2,000
of validation; weights after the last epoch, in float32; nothing was chosen by test images. T = 2 and 4 are shipped,
rounded to float16, with their accuracy in the chip's integers on their cards.
"""


def page(parts: dict[str, Row]) -> str:
    """The whole text."""
    lines = [HEAD]
    for name, (text, rows) in SECTIONS.items():
        if name in parts:
            lines += [text, _made(parts[name]), *rows(parts[name]["rows"]), ""]
            lines += [f"{parts[name]['note']}\n"] if "note" in parts[name] else []
    return "\n".join(lines).rstrip() + "\n"


def _made(part: Row) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in part["versions"].items())
    return f"{part['rows'][0]['device']}; {versions}.\n"


def _steps(rows: Sequence[Row]) -> list[str]:
    failed = [f"- {row['name']}, T = {row['timesteps']}: {row['failed']}" for row in rows if "failed" in row]
    lines = []
    for row in rows:
        if "failed" in row:
            continue
        first, last = (1e3 * value for value in row["quartiles"])
        lines.append(
            [
                row["name"],
                *(str(row[name]) for name in ("timesteps", "batch")),
                f"{1e3 * row['seconds']:.1f} ({first:.1f}-{last:.1f})",
                f"{row['peak_mib']:,.0f}",
            ]
        )
    found = table(["network", "T", "images", "step, ms", "peak memory, MiB"], lines)
    if failed:
        found += ["", "Not measured:", "", *failed]
    return found


def _simulation(rows: Sequence[Row]) -> list[str]:
    lines = [
        [
            row["network"],
            str(row["batch"]),
            f"{row['images_per_second']:,.0f}",
            f"{100 * row['accuracy']:.2f} %",
            f"{row['images_whose_scores_differ']:,} of {row['images']:,}",
        ]
        for row in rows
    ]
    return table(["network", "batch", "images a second", "accuracy", "images whose scores differ"], lines)


def _training(rows: Sequence[Row]) -> list[str]:
    lines = [
        [
            row["stage"],
            str(row["epochs"]),
            f"{row['metrics']['training_seconds']:.0f}",
            f"{100 * row['metrics']['validation_accuracy']:.2f} %",
            f"{100 * row['metrics']['float_accuracy']:.2f} %",
        ]
        for row in rows
        if "metrics" in row
    ]
    return table(["network", "epochs", "seconds of steps", "validation", "test, float32"], lines)


SECTIONS = {"steps": (STEPS, _steps), "simulation": (SIMULATION, _simulation), "training": (TRAINING, _training)}


def main() -> None:
    path = DOCS / "gpu.json"
    parts: dict[str, Row] = json.loads(path.read_text()) if path.exists() else {}
    for name in sys.argv[1:]:
        found = json.loads(Path(name).read_text())
        for part in SECTIONS:
            if found.get(part):
                rows = [{key: value for key, value in row.items() if key != "history"} for row in found[part]]
                parts[part] = {"versions": found["versions"], "rows": rows}
                parts[part] |= {"note": found["note"]} if "note" in found else {}
    keep(path, parts)
    (DOCS / "gpu.md").write_text(page(parts))


if __name__ == "__main__":
    main()
