"""report.html: what is known of a run, drawn; one file that needs nothing from outside.

The page is the template page.html.jinja, page.css and page.js, put together by `snn2chip.report.html`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from snn2chip.passes.quantize import LayerReport
from snn2chip.report import columns, html, summary, tables
from snn2chip.report import cost as costs
from snn2chip.report.chart import Chart, chart
from snn2chip.report.columns import Sheet
from snn2chip.report.graph import draw
from snn2chip.report.seen import histogram_range
from snn2chip.train.checkpoint import FIRING
from snn2chip.verify.compare import Verdict

Entries = Mapping[str, Mapping[str, Any]]

_WIDE, _NARROW = 8, 3  # blocks in a row of the drawing
_LONG = ("scales", "rounding", "notes")  # of what a file says of how it was made
_STEPS = (
    ("export", "fold-and-export MODEL", "integers for the chip"),
    ("simulate", "simulate NET --cost", "accuracy and cost of the integers on the whole test set"),
    ("verify", "verify MODEL NET", "the proof that every stage says the same"),
    ("seen", "report FOLDER", "what single samples do in the network and in its integers"),
)


def render(entries: Entries, refresh: int = 0) -> str:
    """The page."""
    about, train, seen = (entries.get(kind, {}) for kind in ("about", "train", "seen"))
    export, verdict = entries.get("export", {}), entries.get("verify")
    facts = summary.known(entries)
    simulated = facts.get("simulate", {})
    nodes = export.get("graph") or about.get("graph") or []
    rates = _rates(nodes, train.get("history", []), simulated, seen)
    classes = list(about.get("classes") or seen.get("classes") or [])
    return html.render(
        "page",
        title=about.get("name", "network"),
        description=about.get("description", ""),
        refresh=refresh,
        training=_progress(train, refresh),
        box=summary.rows(facts),
        drawings=[("wide", draw(nodes, rates, _WIDE)), ("narrow", draw(nodes, rates, _NARROW))] if nodes else [],
        curves=_curves(train.get("history", [])),
        lost=_lost(seen) if seen else [],
        confusion=_confusion(simulated, classes),
        simulated=simulated,
        classes=classes,
        seen=seen,
        lowest=histogram_range()[0],
        membranes=_membranes(seen) if seen else [],
        ladder=None if verdict is None else _verdict(verdict),
        again=(verdict or {}).get("again"),
        ladder_table=None if verdict is None else _table(columns.LADDER, tables.verdict_rows(_verdict(verdict))),
        export_table=_integers(export["quantize"]) if "quantize" in export else None,
        cores_table=_table(columns.FIT, export["cores"]["rows"]) if "cores" in export else None,
        cores_lines=[*(export["cores"]["lines"] if "cores" in export else []), *filter(None, [export.get("unplaced")])],
        cost_table=_table(columns.COST, costs.rows(simulated["cost"])) if "cost" in simulated else None,
        cost_lines=list(costs.lines(simulated["cost"])) if "cost" in simulated else [],
        made=", ".join(f"{key} {value}" for key, value in export.get("made", {}).items() if key not in _LONG),
        missing=[(command, what) for kind, command, what in _STEPS if kind not in entries],
    )


def _verdict(values: Mapping[str, Any]) -> Verdict:
    return Verdict.from_json({key: values[key] for key in ("passed", "rungs", "notes")})


def _table(sheet: Sheet, rows: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Headings with their meanings, which of them are words, and rows."""
    return {
        "columns": [(name, meaning, name in sheet.words) for name, meaning in sheet.columns.items()],
        "rows": rows,
    }


def _integers(quantized: Mapping[str, Any]) -> dict[str, Any]:
    layers = [LayerReport(**layer) for layer in quantized["layers"]]
    return _table(columns.EXPORT, tables.export_rows(layers))


def _progress(train: Mapping[str, Any], live: int) -> str:
    history = train.get("history", [])
    if not live or not history:
        return "training has begun" if live else ""
    return f"training, epoch {int(history[-1]['epoch'])} of {train['epochs']}"


def _rates(
    nodes: Sequence[Mapping[str, Any]],
    history: Sequence[Mapping[str, float]],
    simulated: Mapping[str, Any],
    seen: Mapping[str, Any],
) -> dict[str, float]:
    """Share of neurons that fire in a step, by trained layer: as trained, and in integers where they ran."""
    rates = {
        key.removeprefix(FIRING): rate for row in history[-1:] for key, rate in row.items() if key.startswith(FIRING)
    }
    rates |= {layer["name"]: layer["rate"] for layer in seen.get("layers", [])}
    sizes = {node["name"]: int(np.prod(node["shape"])) for node in nodes}
    for number, origin in simulated.get("layers", {}).items():
        if len(origin) == 1 and (name := next(iter(origin))) in sizes:  # no relays beside it
            steps = simulated["samples"] * simulated["timesteps"]
            rates[name] = simulated["spikes"].get(number, 0) / (steps * sizes[name])
    return rates


def _curves(history: Sequence[Mapping[str, float]]) -> list[Chart]:
    """Loss, accuracy, firing rates and learning rate by epoch."""
    if not history:
        return []

    def line(key: str, times: float = 1) -> list[tuple[float, float]]:
        return [(row["epoch"], times * row[key]) for row in history if key in row]

    accuracy = [("training", line("train_accuracy", 100)), ("validation", line("validation_accuracy", 100))]
    firing = [key for key in history[-1] if key.startswith(FIRING)]
    found = [
        chart("loss", "epoch", [("training", line("train_loss"))]),
        chart("accuracy, %", "epoch", [each for each in accuracy if each[1]]),
        chart("learning rate", "epoch", [("learning rate", line("learning_rate"))], within=(0, None)),
    ]
    if firing:
        lines = [(key.removeprefix(FIRING), line(key, 100)) for key in firing]
        found.insert(2, chart("neurons that fire in a step, %", "epoch", lines, within=(0, None)))
    return found


def _lost(seen: Mapping[str, Any]) -> list[Chart]:
    """Decisions when the layers up to one are integers and the rest float, and spikes that differ in each layer."""
    names, of = ["none", *(layer["name"] for layer in seen["layers"]), "all"], seen["of"]

    def line(key: str, first: int, last: int) -> list[tuple[float, float]]:
        values = [first, *(layer[key] for layer in seen["layers"]), last]
        return [(float(index), 100 * value / of) for index, value in enumerate(values)]

    decisions = [
        ("as in the float network", line("agree", of, seen["agree"])),
        ("right", line("right", *seen["right"])),
    ]
    lowest = min(y for _, line in decisions for _, y in line)
    spikes = [(float(index), 100 * layer["differ"] / layer["of"]) for index, layer in enumerate(seen["layers"])]
    return [
        chart("decisions, %", "integers up to layer", decisions, names=names, within=(max(0.0, lowest - 2), 100)),
        chart("spikes that differ, %", "layer", [("", spikes)], names=names[1:-1], within=(0, None)),
    ]


def _membranes(seen: Mapping[str, Any]) -> list[Chart]:
    """By layer, where membranes are after a step without a spike; the threshold is at 1."""
    low, high, bins = histogram_range()
    width = (high - low) / bins
    found = []
    for name, pair in seen["membranes"].items():
        curves = []
        for title, counts in zip(("float", "integers"), pair, strict=True):
            total = max(1, sum(counts))
            curves.append((title, [(low + (index + 0.5) * width, 100 * n / total) for index, n in enumerate(counts)]))
        found.append(chart(name, "membrane / threshold", curves, within=(0, None), marks=[1 - width / 2]))
    return found


def _confusion(simulated: Mapping[str, Any], classes: Sequence[str]) -> dict[str, Any] | None:
    """Cells (label, decision, samples, share of the label's), and how large they are drawn."""
    cells = simulated.get("confusion")
    if not cells or not classes:
        return None
    totals: dict[int, int] = {}
    for label, _, count in cells:
        totals[label] = totals.get(label, 0) + count
    size = 34 if len(classes) <= 12 else max(3, 400 // len(classes))
    return {
        "size": size,
        "side": size * len(classes),
        "named": size >= 14,
        "edge": 16 + 7 * min(12, max(map(len, classes))) if size >= 14 else 12,
        "cells": [(label, found, count, round(count / totals[label], 4)) for label, found, count in cells],
        "samples": sum(totals.values()),
    }
