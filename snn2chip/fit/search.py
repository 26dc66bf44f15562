"""The fewest cores that a layer takes under a chip's limits; of such cuts the one whose fullest core is emptiest."""

from __future__ import annotations

from snn2chip.chip.profile import Capacity
from snn2chip.fit.demand import Demand
from snn2chip.fit.placement import Placement, Tile


def place(layer: Demand, capacity: Capacity) -> Placement | None:
    """The layer in cores, or None where no core holds even one of its neurons.

    All tiles are tried that could matter: for every C of a map (fewer channels can take more words: `words.blocks`),
    and of features for every number of parts the evenest; for every number of parts along H the evenest, and the widest
    W that then fits. Any other tile takes no fewer cores.
    """
    best: tuple[tuple[int, int, int], Tile] | None = None
    across, down, deep = layer.extent
    for channels in range(deep, 0, -1) if layer.kind == "conv" else _evenest(deep):
        use = Placement(layer, (1, 1, channels)).fullest(capacity)
        if use.synaptic_words > capacity.synaptic_words.value or use.axons_in > capacity.axons_in.value:
            continue
        for height in _evenest(down):
            widest = capacity.neurons.value // (height * channels)
            widest = min(across, widest, capacity.axons_out.value // (use.axons_out * height))
            if not widest:
                continue
            parts = -(-across // widest)
            tile = (-(-across // parts), height, channels)
            cores = parts * -(-down // height) * -(-deep // channels)
            cost = (cores, use.synaptic_words, tile[0] * height * channels)
            if best is None or cost < best[0]:
                best = cost, tile
    return None if best is None else Placement(layer, best[1])


def _evenest(whole: int) -> list[int]:
    """The smallest part of each number of equal parts, from one part to `whole`; no size twice."""
    return sorted({-(-whole // parts) for parts in range(1, whole + 1)}, reverse=True)
