"""Accuracy against cores: every shipped network at 8 to 2 bits a weight, in the chip's integers.

    python bench/cores.py [NAME ...] [--data DIR] [--bits 8 7 6 5 4 3 2] [--trained DIR] [--json FILE] [--page FILE]
                          [--picture FILE]

For each network of models/ (or those named) and each number of bits: exported with 64 training images for the scales,
as `fold-and-export` does, the integers run over the whole test set, and the cores and chips that they take, by the
compiler's rule and by search. Nothing is chosen by these figures. Beside them the networks that `retrain --quantize`
trained with so many bits, where there are any: DIR/NAME-3bit/model.pt, DIR being models/ without --trained.

Every row is written to --json (docs/cores.json) when it is done and not measured again while model.pt is the same, so a
run can be stopped at any moment and goes on where it was; delete a row to measure it anew. A data set that is not there
is skipped, with the reason; give its folder with --data, one data set after another if they are in several.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import time
from pathlib import Path
from typing import Any

import harness
from matplotlib.figure import Figure

from snn2chip import chip as chips
from snn2chip.data import ImageSet, load
from snn2chip.errors import DataError, InputError
from snn2chip.fit import demand
from snn2chip.fit.table import fit
from snn2chip.nn import model_file
from snn2chip.passes import pipeline
from snn2chip.recipe import Recipe
from snn2chip.simulate.run import simulate

BITS = (8, 7, 6, 5, 4, 3, 2)
WAYS = {"rounded": "rounded after training", "trained": "trained with so many bits"}
CALIBRATION = 64
BEGIN, END = "<!-- made by bench/cores.py -->", "<!-- end -->"
MODELS = harness.ROOT / "models"


def candidates(name: str, bits: int, trained: Path) -> list[tuple[str, Path]]:
    """The model files of a row each: the shipped one, unless it was trained in integers and has the bits it has, and
    the one trained with so many bits, if there is one."""
    shipped, quantized = MODELS / name / "model.pt", trained / f"{name}-{bits}bit" / "model.pt"
    found = [] if model_file.load(shipped).recipe.model.integers else [("rounded", shipped)]
    return [*found, ("trained", quantized)] if quantized.is_file() else found


@functools.lru_cache(maxsize=1)
def _sets(recipe: str, data: Path | None) -> tuple[ImageSet, ImageSet]:
    """Images for the scales, and the whole test set; `recipe` as JSON."""
    spec = Recipe.model_validate_json(recipe)
    options: dict[str, Any] = {"image_size": spec.data.image_size, "events": spec.binning}
    train, test = (load(spec.data.name, split, data, **options) for split in ("train", "test"))
    return train.subset(CALIBRATION), test


def measure(path: Path, bits: int, data: Path | None) -> dict[str, Any]:
    """One row: what the network is worth at so many bits, and what it takes.

    Raises:
        DataError: its data set is not there.
    """
    model = model_file.load(path)
    calibration, test = _sets(model.recipe.model_dump_json(), data)
    chip = chips.load("loihi2").with_weight_bits(bits)
    about = {"samples": len(test), "float": model.metrics["float_accuracy"], "dataset": model.recipe.data.name}
    started = time.perf_counter()
    try:
        chain = pipeline.export(model, chip, calibration=calibration).chain
    except InputError as error:
        return {**about, "refused": str(error)}
    found = fit(demand.of_chain(chain), chip)
    per_chip = chip.cores.cores.value
    return {
        **about,
        "accuracy": simulate(chain, images=test).accuracy,
        "fits": found.fits,
        "cores": [found.cores, found.fewest_cores],
        "chips": [found.chips, math.ceil(found.fewest_cores / per_chip)],
        "seconds": round(time.perf_counter() - started, 1),
    }


def page(rows: list[dict[str, Any]], about: dict[str, Any]) -> str:
    """The table of all rows, and what it was measured on."""
    lines = [
        f"On {about['processor']}; snn2chip {about['snn2chip']}, torch {about['torch']}, Python {about['python']}. One "
        f"network each, one run; scales from {CALIBRATION} training images, whole test sets. Cores and chips by the "
        "compiler's rule / by search; *: a layer cannot be placed, and they are those of the others.",
        "",
    ]
    cells = []
    for row in rows:
        rounded = f"{100 * row['float']:.2f} %" if row["way"] == "rounded" else "-"
        first = [row["name"], str(row["bits"]), WAYS[row["way"]], f"{row['samples']:,}", rounded]
        if "refused" in row:
            cells.append([*first, "refused", "-", "-"])
            continue
        star = "" if row["fits"] else "*"
        counts = [" / ".join(f"{count:,}" for count in row[what]) + star for what in ("cores", "chips")]
        cells.append([*first, f"{100 * row['accuracy']:.2f} %", *counts])
    head = ("network", "bits", "weights", "test samples", "float32", "integers", "cores", "chips")
    return "\n".join([*lines, *harness.table(head, cells, (0, 2))])


def picture(rows: list[dict[str, Any]], target: Path) -> None:
    """Accuracy of the integers over cores by the compiler's rule, a line a network, a point for each number of bits."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    shown = [row for row in rows if "refused" not in row]
    for place, (name, way) in enumerate(dict.fromkeys((row["name"], row["way"]) for row in shown)):
        line = [row for row in shown if (row["name"], row["way"]) == (name, way)]
        xs, ys = [row["cores"][0] for row in line], [100 * row["accuracy"] for row in line]
        look = "-o" if way == "rounded" else "--s"
        label = name + ("" if way == "rounded" else ", trained") + ("" if line[0]["fits"] else " (does not fit)")
        (drawn,) = axes.plot(xs, ys, look, markersize=4, linewidth=1, color=f"C{place % 10}", label=label)
        for row, x, y in zip(line, xs, ys, strict=True):
            axes.annotate(str(row["bits"]), (x, y), fontsize=6, xytext=(3, 2), textcoords="offset points",
                          color=drawn.get_color())  # fmt: skip
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.set_xlabel("cores of Loihi 2, by the compiler's rule (numbers: bits of a weight)")
    axes.set_ylabel("test accuracy of the integers, %")
    harness.plain(axes, "both")
    figure.legend(loc="outside right upper", fontsize=7, frameon=False)
    harness.save(figure, target)


def main(words: list[str] | None = None) -> None:
    parser = harness.parser(__doc__)
    docs = harness.ROOT / "docs"
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--bits", type=int, nargs="+", choices=BITS, default=BITS)
    parser.add_argument("--trained", type=Path, default=MODELS)
    for what in ("json", "page", "picture"):
        parser.add_argument(f"--{what}", type=Path, default=docs / {"json": "cores.json", "page": "cores.md"}.get(
            what, "cores.png"))  # fmt: skip
    given = parser.parse_args(words)
    shipped = [path.parent.name for path in sorted(MODELS.glob("*/model.pt"))]
    for name in given.names:
        if name not in shipped:
            parser.error(f"no model.pt in models/{name}; there are {', '.join(shipped)}")
    kept = json.loads(given.json.read_text(encoding="utf-8")) if given.json.is_file() else {"about": {}, "rows": []}
    rows = {(row["name"], row["way"], row["bits"]): row for row in kept["rows"]}
    skipped: dict[str, str] = {}
    for name in given.names or shipped:
        for bits in given.bits:
            for way, path in candidates(name, bits, given.trained):
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                if rows.get((name, way, bits), {}).get("model") == digest:
                    continue
                try:
                    made = measure(path, bits, given.data)
                except DataError as error:
                    skipped[name] = str(error)
                    continue
                rows[name, way, bits] = {"name": name, "way": way, "bits": bits, "model": digest, **made}
                ordered = sorted(rows.values(), key=lambda row: (row["name"], row["way"], -row["bits"]))
                kept = {"about": harness.machine(torch_threads()), "rows": ordered}
                harness.keep(given.json, kept)
                said = made.get("refused") or f"{100 * made['accuracy']:.2f} %, {made['cores'][0]:,} cores"
                print(f"{name}, {bits} bits, {WAYS[way]}: {said}", flush=True)
        if name in skipped:
            print(f"{name}: skipped: {skipped[name]}", flush=True)
    if kept["rows"]:
        harness.fill(given.page, BEGIN, END, page(kept["rows"], kept["about"]))
        picture(kept["rows"], given.picture)


def torch_threads() -> int:
    """Threads of this process."""
    import torch

    return torch.get_num_threads()


if __name__ == "__main__":
    main()
