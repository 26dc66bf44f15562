"""One recipe trained with several seeds: accuracy of each in float and in chip integers, mean and spread.

    python bench/seeds.py NAME FOLDER [FOLDER ...] [--data DIR] [--write docs/event-cameras.md] [--json FILE]

Each folder is a run of `snn2chip train models/NAME --out FOLDER --set train.seed=N`. What is not there yet is made:
model.net by `snn2chip fold-and-export`, simulate.json by `snn2chip simulate` on the whole test set.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

import harness

from snn2chip.nn import model_file


def figures(folder: Path, data: list[str]) -> dict[str, Any]:
    """Accuracies of one run: of the trained network in float32, and of its integers on the whole test set."""
    net, simulated = folder / "model.net", folder / "simulate.json"
    given = ["--data", *data] if data else []
    if not net.is_file():
        harness.snn2chip("fold-and-export", folder / "model.pt", "-o", net, "--json", folder / "export.json", *given)
    if not simulated.is_file():
        harness.snn2chip("simulate", net, "--json", simulated, *given)
    model = model_file.load(folder / "model.pt")
    result = json.loads(simulated.read_text(encoding="utf-8"))
    return {
        "recipe": model.recipe.name,
        "seed": model.recipe.train.seed,
        "float": model.metrics["float_accuracy"],
        "integers": result["accuracy"],
        "samples": result["samples"],
        "source": model.metrics.get("source", ""),
    }


def spread(values: list[float]) -> str:
    """Mean and standard deviation over seeds (of the sample, n - 1), and the range, in per cent."""
    deviation = f" ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{100 * statistics.fmean(values):.2f}{deviation} ({100 * min(values):.2f}..{100 * max(values):.2f})"


def table(rows: list[dict[str, Any]]) -> str:
    """The runs of one recipe in Markdown, and their mean."""
    lines = [[f"{row['seed']}", *(f"{100 * row[kind]:.2f} %" for kind in ("float", "integers"))] for row in rows]
    both = [spread([row[kind] for row in rows]) for kind in ("float", "integers")]
    lines.append(["mean ± deviation (range)", *(f"{text} %" for text in both)])
    return "\n".join(harness.table(["seed", "float32", "chip integers"], lines))


def main() -> None:
    """Print the table of the runs, or put it into a page between markers of the recipe's name."""
    parser = harness.parser(__doc__)
    parser.add_argument("name", help="the recipe's name")
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--data", help="folder with the data set's files")
    parser.add_argument("--write", type=Path, help="a page with markers <!-- seeds NAME --> and <!-- /seeds -->")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = [figures(folder, [options.data] if options.data else []) for folder in options.folders]
    rows.sort(key=lambda row: row["seed"])
    if others := {row["recipe"] for row in rows} - {options.name}:
        sys.exit(f"runs of {', '.join(others)}, not of {options.name}")
    text = f"{table(rows)}\n\n{rows[0]['samples']} test samples; {rows[0]['source']}."
    harness.keep(options.json, rows)
    harness.fill(options.write, f"<!-- seeds {options.name} -->", "<!-- /seeds -->", text)


if __name__ == "__main__":
    main()
