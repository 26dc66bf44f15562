"""The table of cores, for terminals, pages and cards."""

from __future__ import annotations

from collections.abc import Iterator

from snn2chip.backends.akida import Mapping
from snn2chip.fit.table import Fit
from snn2chip.report import columns
from snn2chip.report.columns import Wide


def rows(found: Fit) -> list[list[str]]:
    """One a layer, and the whole; figures of a core are the fullest's, tiles W x H x C."""
    most = found.chip.cores.synaptic_words.value
    cells = []
    for each in found.layers:
        use, placed = each.use, each.placed
        tile = "-" if placed is None else "x".join(map(str, placed.tile))
        if placed is not None and each.layer.kind == "dense":
            tile = str(placed.tile[2])
        cells.append(
            [
                *(each.layer.name, tile, f"{each.cores:,}" if each.fits else "does not fit", f"{use.neurons:,}"),
                *(f"{use.axons_in:,}", f"{use.axons_out:,}", f"{use.synaptic_words:,}"),
                *(f"{max(0, most - use.synaptic_words):,}", each.binding.replace("_", " ").replace("synaptic ", "")),
            ]
        )
    return cells


def table(found: Fit) -> Wide:
    """The rows as a terminal shows them."""
    return columns.FIT.table(f"cores of {found.chip.name}; of a core, the fullest", rows(found))


def verdict(found: Fit) -> str:
    """One line: whether it fits, on how many cores and chips, and how many the fewest are."""
    name = found.chip.name
    if not found.fits:
        count = len(found.problems)
        return f"does not fit {name}: {count} layer{'' if count == 1 else 's'} cannot be placed"
    chips = f"{found.chips} chip{'' if found.chips == 1 else 's'}"
    cores = f"{found.cores:,} core{'' if found.cores == 1 else 's'}"
    fewer = found.cores - found.fewest_cores
    saved = f"; {found.fewest_cores:,} cores by search" if fewer else ""
    return f"fits {name}: {cores}, {chips}{saved}"


def lines(found: Fit) -> Iterator[str]:
    """The verdict, what goes between cores, what does not fit, and what would halve the cores of the largest layers."""
    yield verdict(found)
    traffic = found.traffic
    if traffic is not None:
        yield (
            f"between cores, a step: at most {traffic.spikes:,} spikes, {traffic.input:,} from the port; "
            f"{traffic.routes:,} routes"
        )
    for problem in found.problems:
        yield f"! {problem}"
    largest = sorted((each for each in found.layers if each.halving), key=lambda each: -each.cores)
    for each in largest[:_MOST]:
        yield f"half the cores: {each.halving}"


def of(found: Fit | Mapping) -> tuple[Wide, Iterator[str]]:
    """The table and the lines under it, whoever placed the network."""
    return (table(found), lines(found)) if isinstance(found, Fit) else (nodes_table(found), nodes_lines(found))


def nodes_table(found: Mapping) -> Wide:
    """What mapping onto Akida says, a row a layer."""
    cells = [[layer.name, f"{layer.nodes:,}", layer.kind] for layer in found.layers]
    return columns.NODES.table("nodes of akd1000, by mapping it in hardware alone", cells)


def nodes_lines(found: Mapping) -> Iterator[str]:
    """One line: whether it maps, and in how many sequences, passes and nodes; or why not."""
    if not found.fits:
        yield "does not fit akd1000"
        yield f"! {found.problem}"
        return
    counts = ((found.sequences, "sequence"), (found.passes, "pass"), (found.nodes, "node"))
    said = ", ".join(
        f"{count:,} {word}{'' if count == 1 else 'es' if word == 'pass' else 's'}" for count, word in counts
    )
    yield f"fits akd1000: {said}; program of {found.bytes:,} bytes"


_MOST = 5
