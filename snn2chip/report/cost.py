"""What spikes cost, for terminals, pages and cards: of `snn2chip.fit.cost.Cost` as JSON holds it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich import box
from rich.table import Table

COLUMNS = ("layer", "cores", "spikes", "to cores", "operations", "most", "busiest core", "dense")


def rows(cost: Mapping[str, Any]) -> list[list[str]]:
    """One a layer, of a sample: its spikes, to how many cores they go, operations in it (mean, largest sample, a step
    of its busiest core), and multiply-accumulates of it as an ordinary layer."""
    return [
        [
            *(each["name"], f"{each['cores']:,}"),
            *(f"{each[key]['mean']:,.0f}" for key in ("spikes", "routed", "operations")),
            *(f"{each['operations']['most']:,.0f}", f"{each['busiest']:,.0f}", f"{each['dense']:,}"),
        ]
        for each in cost["layers"]
    ]


def table(cost: Mapping[str, Any]) -> Table:
    """The rows as a terminal shows them."""
    shown = Table(
        title=f"cost of a sample on {cost['chip']}, counted of {cost['samples']:,}",
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for index, column in enumerate(COLUMNS):
        shown.add_column(column, justify="right" if index else "left", overflow="fold")
    for row in rows(cost):
        shown.add_row(*row)
    return shown


def lines(cost: Mapping[str, Any]) -> Iterator[str]:
    """What was counted, what it comes to, and between what bounds."""
    steps, operations = cost["timesteps"], cost["operations"]
    share = 100 * operations["mean"] / cost["dense"] if cost["dense"] else 0.0
    yield (
        f"{operations['mean']:,.0f} synaptic operations a sample, at most {operations['most']:,.0f}: {share:.1f} % of "
        f"the {cost['dense']:,} multiply-accumulates of the same layers as an ordinary network"
    )
    yield (
        f"{cost['updates']:,} updates of neurons; {cost['spikes']['mean']:,.0f} spikes go to "
        f"{cost['routed']['mean']:,.0f} cores"
    )
    energy, step = cost["energy"], cost["step"]
    yield (f"{cost['chip']}: {_said(energy, 1)} uJ a sample, dynamic; the costliest {_short(cost['energy_most'])}")
    yield (
        f"{cost['chip']}: {_said(step, 1)} us a step, the longest {_short(cost['step_most'])}; T = {steps}: a sample "
        f"every {_said(step, steps)} us"
    )
    layer, core, _ = cost["busiest"]
    yield f"the busiest core: number {core} of {layer}"


def _said(values: Mapping[str, float], times: int) -> str:
    value, low, high = (_short(times * values[key]) for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def _short(value: float) -> str:
    """Three digits."""
    return f"{float(f'{value:.3g}'):,.10g}"
