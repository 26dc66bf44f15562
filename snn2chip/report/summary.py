"""The box that says what a network is worth: the same lines in the terminal and on the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.panel import Panel
from rich.table import Table

Facts = Mapping[str, Mapping[str, Any]]
"""What commands said, by kind: 'train' the metrics of model.pt, and the JSON of 'export', 'simulate' and 'verify'."""


def known(entries: Facts) -> dict[str, Mapping[str, Any]]:
    """The entries of a record; what was not simulated, or without its cost, as it was seen on samples of the page."""
    facts, seen = dict(entries), entries.get("seen", {}).get("simulate", {})
    cost = {"cost": seen["cost"]} if "cost" in seen else {}
    if seen:
        facts["simulate"] = cost | dict(entries.get("simulate", seen))
    return facts


def rows(facts: Facts) -> list[tuple[str, str]]:
    """Label and text of what is known."""
    found = {
        "accuracy": _accuracy(facts),
        "fits": _fits(facts),
        "weights": _weights(facts),
        "a sample": _spikes(facts),
        "energy": _energy(facts),
        "proof": _proof(facts),
    }
    return [(label, text) for label, text in found.items() if text]


def panel(title: str, facts: Facts, more: Sequence[tuple[str, str]] = ()) -> Panel:
    """The box in a terminal, with `more` rows below."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for label, text in (*rows(facts), *more):
        grid.add_row(label, text)
    return Panel(grid, title=title, title_align="left", box=box.ROUNDED, expand=False)


def share(value: float) -> str:
    """In percent."""
    return f"{100 * value:.2f} %"


def short(value: float) -> str:
    """Three digits."""
    return f"{float(f'{value:.3g}'):,.10g}"


def interval(values: Mapping[str, float], times: float = 1) -> str:
    """A figure and its bounds."""
    value, low, high = (short(times * values[key]) for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def _accuracy(facts: Facts) -> str:
    train, simulated = facts.get("train", {}), facts.get("simulate", {})
    parts = []
    if train.get("float_accuracy") is not None:
        parts.append(f"{share(train['float_accuracy'])} float32 ({train['samples']:,} samples of {train['dataset']})")
    if simulated.get("accuracy") is not None:
        same = (train.get("samples"), train.get("dataset")) == (simulated["samples"], simulated["dataset"])
        of = "" if same and parts else f" ({simulated['samples']:,} samples of {simulated['dataset']})"
        parts.append(f"{share(simulated['accuracy'])} in integers{of}")
    return ", ".join(parts)


def _fits(facts: Facts) -> str:
    fit = facts.get("export", {}).get("fit")
    if not fit:
        return ""
    if "cores" not in fit:  # Akida
        where = f"{fit['nodes']:,} node{'s' * (fit['nodes'] != 1)}"
        return f"{fit['chip']}: {where}" if fit["fits"] else f"NOT on {fit['chip']}: {fit['problem']}"
    where = f"{fit['cores']:,} core{'s' * (fit['cores'] != 1)}, {fit['chips']} chip{'s' * (fit['chips'] != 1)}"
    return f"{fit['chip']}: {where}" if fit["fits"] else f"NOT on {fit['chip']}; {where} of what can be placed"


def _weights(facts: Facts) -> str:
    export = facts.get("export", {})
    made = export.get("made", {})
    if "weight_bits" not in made:
        return ""
    bits = f"{made['weight_bits']} bits"
    layers = export.get("quantize", {}).get("layers")
    return f"{bits}, {len(layers)} layers" if layers else bits


def _spikes(facts: Facts) -> str:
    simulated = facts.get("simulate", {})
    if "spikes" not in simulated:
        return ""
    said = f"{sum(simulated['spikes'].values()) / max(1, simulated['samples']):,.0f} spikes"
    if "timesteps" in simulated:
        said += f" in {simulated['timesteps']} step{'s' * (simulated['timesteps'] != 1)}"
    cost = simulated.get("cost")
    return f"{said}, {cost['operations']['mean']:,.0f} synaptic operations" if cost else said


def _energy(facts: Facts) -> str:
    cost = facts.get("simulate", {}).get("cost")
    return f"{interval(cost['energy'])} uJ a sample on {cost['chip']}, dynamic" if cost else ""


def _proof(facts: Facts) -> str:
    verdict = facts.get("verify")
    if not verdict:
        return ""
    rungs = verdict["rungs"]
    broken = [rung["name"] for rung in rungs if not rung["passed"]]
    made = f", {verdict['when']}" if "when" in verdict else ""
    if broken:
        return f"BROKEN: {', '.join(broken)}{made}"
    lava = next((rung for rung in rungs if rung["name"] == "dense = Lava"), None)
    proved = sum(bool(rung.get("proved")) for rung in rungs)
    ran = f"{verdict['samples']:,} samples" if "samples" in verdict else "samples"
    return (
        f"every exact rung holds, {proved} for every input; {f'Lava {ran}' if lava else f'{ran}, Lava not run'}{made}"
    )
