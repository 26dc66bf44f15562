"""The fewest cores that a layer takes under a chip's limits; of such cuts the one whose fullest core is emptiest."""

from __future__ import annotations

from snn2chip.chip.profile import Capacity
from snn2chip.fit.demand import Demand
from snn2chip.fit.placement import Placement, Tile, use_of
from snn2chip.fit.words import synaptic_words


def place(layer: Demand, capacity: Capacity) -> Placement | None:
    """The layer in cores, or None where no core holds even one of its neurons.

    All tiles are tried that could matter: for every number of parts along C and H the evenest, and the widest W that
    then fits. Any other tile takes no fewer cores.
    """
    best: tuple[tuple[int, int, int], Tile] | None = None
    across, down, deep = layer.extent
    ways = max(1, layer.stride[1])
    for channels in _evenest(deep):
        words = synaptic_words(layer, channels, capacity)
        if words > capacity.synaptic_words.value:
            continue
        for height in _evenest(down):
            area = height * channels
            widest = capacity.neurons.value // area
            outward = area if layer.feeds == "dense" else ways * height
            widest = min(across, widest, capacity.axons_out.value // outward)
            if not widest:
                continue
            parts = -(-across // widest)
            tile = (-(-across // parts), height, channels)
            cores = parts * -(-down // height) * -(-deep // channels)
            cost = (cores, words, tile[0] * area)
            if best is None or cost < best[0]:
                best = cost, tile
    if best is None or use_of(layer, best[1], capacity).exceeded(capacity):
        return None
    return Placement(layer, best[1])


def _evenest(whole: int) -> list[int]:
    """The smallest part of each number of equal parts, from one part to `whole`; no size twice."""
    return sorted({-(-whole // parts) for parts in range(1, whole + 1)}, reverse=True)
