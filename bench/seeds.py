"""One recipe trained with several seeds: accuracy of each in float and in chip integers, mean and spread.

    python bench/seeds.py NAME FOLDER [FOLDER ...] [--data DIR] [--write docs/event-cameras.md] [--json FILE]

Each folder is a run of `snn2chip train models/NAME --out FOLDER --set train.seed=N`. What is not there yet is made:
model.net by `snn2chip fold-and-export`, simulate.json by `snn2chip simulate` on the whole test set.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import measurements

from snn2chip import cli
from snn2chip.files import atomic_path
from snn2chip.nn import model_file


def run(*arguments: str) -> None:
    """A snn2chip command in this process; ends this one where it fails."""
    try:
        cli.main(list(arguments))
    except SystemExit as left:
        if left.code not in (0, None):
            sys.exit(f"snn2chip {' '.join(arguments)}: exit code {left.code}")


def figures(folder: Path, data: list[str]) -> dict[str, Any]:
    """Accuracies of one run: of the trained network in float32, and of its integers on the whole test set."""
    net, simulated = folder / "model.net", folder / "simulate.json"
    given = ["--data", *data] if data else []
    if not net.is_file():
        run("fold-and-export", str(folder / "model.pt"), "-o", str(net), "--json", str(folder / "export.json"), *given)
    if not simulated.is_file():
        run("simulate", str(net), "--json", str(simulated), *given)
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
    lines = ["| seed | float32 | chip integers |", "| --- | ---: | ---: |"]
    lines += [f"| {row['seed']} | {100 * row['float']:.2f} % | {100 * row['integers']:.2f} % |" for row in rows]
    both = [spread([row[kind] for row in rows]) for kind in ("float", "integers")]
    lines.append(f"| mean ± deviation (range) | {both[0]} % | {both[1]} % |")
    return "\n".join(lines)


def main() -> None:
    """Print the table of the runs, or put it into a page between markers of the recipe's name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
    if options.json is not None:
        measurements.write(options.json, rows)
    if options.write is None:
        print(text)
        return
    page = options.write.read_text(encoding="utf-8")
    before, found, rest = page.partition(f"<!-- seeds {options.name} -->")
    _, closed, after = rest.partition("<!-- /seeds -->")
    if not (found and closed):
        sys.exit(f"'{options.write}' lacks the markers <!-- seeds {options.name} --> and <!-- /seeds -->")
    with atomic_path(options.write) as part:
        part.write_text(f"{before}{found}\n{text}\n{closed}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
