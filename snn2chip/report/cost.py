"""What spikes cost, for terminals, pages and cards: of `snn2chip.fit.cost.Cost` as JSON holds it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from snn2chip.report import columns
from snn2chip.report.columns import Wide
from snn2chip.report.summary import interval, short


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


def table(cost: Mapping[str, Any]) -> Wide:
    """The rows as a terminal shows them."""
    return columns.COST.table(f"cost of a sample on {cost['chip']}, counted of {cost['samples']:,}", rows(cost))


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
    yield (f"{cost['chip']}: {interval(energy)} uJ a sample, dynamic; the costliest {short(cost['energy_most'])}")
    yield (
        f"{cost['chip']}: {interval(step)} us a step, the longest {short(cost['step_most'])}; T = {steps}: a sample "
        f"every {interval(step, steps)} us"
    )
    layer, core, _ = cost["busiest"]
    yield f"the busiest core: number {core} of {layer}"
