"""bench/speed.json as tables and a picture; nothing here measures."""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import dataclass
from pathlib import Path

from harness import fill, quartiles, table
from speed_figures import NAMES, Row, find, median, times_faster
from speed_picture import draw

from snn2chip.errors import InputError

BEGIN, END = "<!-- engines: begin -->", "<!-- engines: end -->"
TABLE = "144 KiB"  # whose rate tells how much faster all threads are than one: a block of 128 channels reading 128


@dataclass(frozen=True)
class Target:
    """One of the project's goals: `limit` is the most that the measured limit of the machine allows, if it says."""

    what: str
    wanted: str
    measured: str
    met: bool | None
    limit: str = ""


def _number(value: float) -> str:
    """Three significant digits, without an exponent."""
    if value <= 0:
        return "0"
    return f"{value:,.{max(0, 2 - math.floor(math.log10(value)))}f}"


def _cell(row: Row, name: str) -> str:
    times = row["milliseconds"].get(name)
    if not times:
        return ""
    if len(times) == 1:
        return _number(times[0])
    low, high = quartiles(times)
    return f"{_number(statistics.median(times))} ({_number(low)}-{_number(high)})"


def scaling(figures: Row) -> float:
    """How many times more additions a second all threads do than one."""
    one, everyone = figures["limit"]["machine"]["adds"][TABLE]["rows of 128"]
    return float(everyone / one)


def limit_ms(figures: Row, density: float) -> float | None:
    """The least milliseconds of a sample and step of VGG-9 on all threads."""
    stages = figures["limit"]["stages"].get(f"{density:g}")
    if stages is None:
        return None
    return float(sum(stage["limit"] for stage in stages)) / 1e3 / scaling(figures)


def targets(figures: Row) -> list[Target]:
    """The project's goals against this run."""
    found = []
    for density, batch, wanted in ((0.1, 16, 12.0), (0.05, 16, 15.0), (0.1, 1, 8.0)):
        row = find(figures, density=density, batch=batch)
        least, torch = limit_ms(figures, density), None if row is None else median(row, "torch")
        ratio = None if row is None else times_faster(row, "torch")
        allowed = f"{torch / least:.1f}x" if torch and least else ""
        found.append(_target(f"events against dense torch, {100 * density:g} %, batch {batch}", wanted, ratio, allowed))
        if (density, batch) == (0.1, 16) and row is not None and least:
            over, what = (median(row, "events") or 0) / least, "events against the machine's limit, the same"
            found.append(Target(what, "at most 1.7x its time", f"{over:.1f}x", over <= 1.7))
    row = find(figures, density=0.4)
    if row is not None:
        fastest = "torch" if (times_faster(row, "dense", "torch") or 0) >= 1 else "dense"
        slower = 1 / (times_faster(row, fastest, "auto") or 1)
        what = f"auto against the faster of torch and the dense engine ({NAMES[fastest]}), 40 %, batch 16"
        found.append(Target(what, "at most 1.10 of its time", f"{slower:.2f}", slower <= 1.1))
    row = find(figures)
    found.append(
        _target("events against Lava, 10 %, batch 16", 3500, None if row is None else times_faster(row, "lava"))
    )
    run = figures["test_set"]
    what, wanted_text = "CIFAR-10's test set, `snn2chip simulate`", "under 120 s"
    if "skipped" in run or not run["whole"]:
        found.append(Target(what, wanted_text, f"not run: {run.get('skipped', 'some images only')}", None))
    else:
        found.append(Target(what, wanted_text, f"{run['median']:.1f} s", run["median"] < 120))
    return found


def _target(what: str, wanted: float, ratio: float | None, limit: str = "") -> Target:
    """A goal of at least so many times faster."""
    measured = "not run" if ratio is None else f"{ratio:,.0f}x" if ratio >= 100 else f"{ratio:.1f}x"
    return Target(what, f"at least {wanted:,.0f}x", measured, None if ratio is None else ratio >= wanted, limit)


def _targets_table(figures: Row) -> list[str]:
    words = {True: "yes", False: "**no**", None: "-"}
    rows = [[goal.what, goal.wanted, goal.measured, words[goal.met], goal.limit] for goal in targets(figures)]
    return table(["VGG-9, T = 4", "target", "measured", "met", "the limit allows"], rows)


def _in_order(figures: Row) -> list[Row]:
    """The cases as a reader looks for them; each network where it first came."""
    networks = list(dict.fromkeys(row["network"] for row in figures["cases"]))
    keys = ("width", "timesteps", "batch")
    return sorted(
        figures["cases"],
        key=lambda row: (networks.index(row["network"]), *(row[key] for key in keys), row["density"] or 0),
    )


def _engines_table(figures: Row) -> list[str]:
    head = ["network", "T", "batch", "spikes", *NAMES.values(), "events: times torch", "times Lava"]
    rows = []
    for row in _in_order(figures):
        torch, lava = times_faster(row, "torch"), times_faster(row, "lava")
        cells = [row["title"], f"{row['timesteps']}", f"{row['batch']}", f"{100 * row['reached']:.1f} %"]
        cells += [_cell(row, name) + (f", {row['auto_is']}" if name == "auto" else "") for name in NAMES]
        rows.append([*cells, f"{torch:.1f}" if torch else "", f"{lava:,.0f}" if lava else ""])
    return table(head, rows)


def _networks_table(figures: Row) -> list[str]:
    rows = {}
    for row in _in_order(figures):
        rows[row["title"]] = [row["title"], f"{row['neurons']:,}", f"{row['multiply_adds'] / 1e6:,.1f}"]
    return table(["network", "neurons", "million multiply-adds a step"], list(rows.values()))


def _machine_table(figures: Row) -> list[str]:
    machine = figures["limit"]["machine"]
    rows = []
    for size, kinds in machine["adds"].items():
        for kind, (one, everyone) in kinds.items():
            rows.append([f"int8 weights added, {kind}, from {size}", f"{one / 1e9:.1f}", f"{everyone / 1e9:.1f}"])
    for name, text in (("multiply-adds", "int16 multiply-adds (graded input)"), ("neurons", "neurons updated")):
        one, everyone = machine[name]
        rows.append([text, f"{one / 1e9:.2f}", f"{everyone / 1e9:.2f}"])
    return table(["10^9 a second", "one thread", f"{machine['threads']} threads"], rows)


def _stages_table(figures: Row) -> list[str]:
    found = figures["limit"]["stages"]
    stages = found.get("0.1") or next(iter(found.values()))
    head = ["layer", "neurons", "million adds", "limit: 10^9 a second", "lists us", "sums and neurons us",
            "limit us", "of the limit"]  # fmt: skip
    rows = []
    for stage in stages:
        rows.append([
            stage["layer"], f"{stage['neurons']:,}", f"{stage['adds'] / 1e6:.3f}", f"{stage['rate'] / 1e9:.0f}",
            f"{stage['lists']:.1f}", f"{stage['rest']:.1f}", f"{stage['limit']:.1f}",
            f"{100 * stage['limit'] / (stage['lists'] + stage['rest']):.0f} %",
        ])  # fmt: skip
    return table(head, rows)


def _totals_table(figures: Row) -> list[str]:
    rows = []
    for density, stages in figures["limit"]["stages"].items():
        lists, rest, limit = (sum(stage[key] for stage in stages) for key in ("lists", "rest", "limit"))
        row = find(figures, density=float(density))
        events, torch = (None, None) if row is None else (median(row, "events"), median(row, "torch"))
        least = limit_ms(figures, float(density))
        cells = [f"{100 * float(density):g} %", f"{lists:.0f}", f"{rest:.0f}", f"{limit:.0f}"]
        cells.append(f"{100 * limit / (lists + rest):.0f} %")
        if events and torch and least:
            cells += [f"{1e3 * events:.0f}", f"{1e3 * least:.0f}", f"{100 * least / events:.0f} %"]
            cells.append(f"{torch / least:.1f}x")
        rows.append(cells + [""] * (9 - len(cells)))
    threads = figures["limit"]["machine"]["threads"]
    head = ["spikes", "one thread: lists us", "sums and neurons us", "limit us", "of the limit",
            f"{threads} threads, batch 16: us", "limit us", "of the limit", "limit: times torch"]  # fmt: skip
    return table(head, rows, ())


def _memory_table(figures: Row) -> list[str]:
    rows = []
    for row in figures["memory"]:
        peak, rise = row["peak"] / 2**20, (row["peak"] - row["before"]) / 2**20
        rows.append([f"{row['timesteps']}", f"{row['images']}", f"{peak:.0f}", f"{rise:.1f}"])
    return table(["T", "images", "peak, MiB", "of it the simulation, MiB"], rows, ())


def _test_set(figures: Row) -> list[str]:
    run = figures["test_set"]
    if "skipped" in run:
        return [f"The test set was not run: {run['skipped']}."]
    engine = statistics.median(run["engine_seconds"])
    walls = ", ".join(f"{seconds:.1f}" for seconds in run["wall_seconds"])
    return [
        f"`snn2chip simulate` of {run['model']} (calibrated on {run['calibration']}) on {run['dataset']}, "
        f"{run['samples']:,} images, T = {run['timesteps']}: {run['median']:.1f} s from start to end ({walls}), "
        f"{engine:.1f} s of it the simulation, with the {run['engine']} engine that it chose; "
        f"{100 * run['accuracy']:.2f} % right."
    ]


def tables(figures: Row, picture: str) -> str:
    """Everything between the markers."""
    layouts = sorted({row["torch_layout"] for row in figures["cases"]})
    parts: list[str] = [
        f"Made by `{figures['about']['command']}`; nothing here is typed by hand.",
        "",
        *(f"- {key.replace('_', ' ')}: {value}" for key, value in figures["about"].items() if key != "command"),
        "",
        "### Targets",
        "",
        *_targets_table(figures),
        "",
        "### Milliseconds a sample and step",
        "",
        "Medians, in brackets the quartiles (of two, both). Lava runs one sample after another whatever the "
        f"batch. Torch is {' or '.join(layouts)}, whichever is faster in the case; after auto stands what it chose.",
        "",
        *_engines_table(figures),
        "",
        f"![Growth with density, batch, timesteps and width]({picture})",
        "",
        *_networks_table(figures),
        "",
        "### The machine's limit",
        "",
        *_machine_table(figures),
        "",
        "VGG-9 layer by layer, 10 % spikes, one thread, one sample, T = 4, microseconds a step:",
        "",
        *_stages_table(figures),
        "",
        "All layers together, by density:",
        "",
        *_totals_table(figures),
        "",
        "### Memory",
        "",
        *_memory_table(figures),
        "",
        "### A whole test set",
        "",
        *_test_set(figures),
    ]
    return "\n".join(parts)


def figures_of(source: Path) -> Row:
    """What bench/engines.py wrote.

    Raises:
        InputError: nothing that can be read.
    """
    try:
        found: Row = json.loads(source.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read '{source}': {error}; run bench/engines.py without --draw first") from None
    return found


def write(source: Path, out: Path) -> None:
    """OUT.md between its markers (the rest of it stays), and OUT.png, from the figures in `source`.

    Raises:
        InputError: no such figures, or OUT.md has no markers.
    """
    figures = figures_of(source)
    page, picture = out.with_suffix(".md"), out.with_suffix(".png")
    if not page.exists():
        page.write_text(f"# Speed\n\n{BEGIN}\n{END}\n", encoding="utf-8")
    fill(page, BEGIN, END, f"\n{tables(figures, picture.name)}\n")
    draw(figures, picture)
    print(f"wrote {page} and {picture}")
