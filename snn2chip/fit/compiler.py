"""How the compiler of lava-loihi cuts a layer into cores, as far as its printed tables show.

It takes a core without limits and divides it until none is exceeded (github.com/OzU-CAST/LoihiScalingEfficiency saw it
do so).

Of a map, a tile as wide as the next power of two is halved until the neurons fit, in W or in H: whatever takes fewer
cores, or else H if that is more than twice W, or else W; an odd H only once W is 1. Then output channels are halved
until the synapses fit, and W is doubled again as the neurons allow. These choices are the simplest that give all
printed tiles; the compiler's own are not known.

Of a dense layer, the most neurons that a core may have starts at the chip's limit and is divided by how many times too
much the core takes, rounded up, until it takes no more: 4,095, 1,365, 455, 151, 50 of mnist's 128 neurons, whose
compiler says that it converged after 5 iterations. It reckons with ``reckoned_bits`` a synapse, whatever bits the
weights take: 100 neurons of 2,560 inputs take 12 cores with weights of 3 bits as with 4.
"""

from __future__ import annotations

import math

from snn2chip.chip.profile import Capacity
from snn2chip.fit.demand import Demand
from snn2chip.fit.placement import Placement, Use, use_of
from snn2chip.fit.words import synaptic_words


def place(layer: Demand, capacity: Capacity) -> Placement | None:
    """The layer in cores, or None where no core holds even one of its neurons."""
    placed = Placement(layer, (1, 1, _dense(layer, capacity)) if layer.kind == "dense" else _map(layer, capacity))
    return None if placed.fullest(capacity).exceeded(capacity) else placed


def _dense(layer: Demand, capacity: Capacity) -> int:
    """Neurons of a core."""
    most = capacity.neurons.value
    while (count := min(most, layer.neurons)) > 1:
        use = use_of(layer, (1, 1, count), capacity)
        reckoned = synaptic_words(layer, count, capacity, capacity.reckoned_bits.value)
        words = max(reckoned, use.synaptic_words) / capacity.synaptic_words.value
        times = math.ceil(max(words, use.axons_out / capacity.axons_out.value))
        if times <= 1:
            return count
        most = max(1, most // times)
    return 1


def _map(layer: Demand, capacity: Capacity) -> tuple[int, int, int]:
    """W, H and C of a core."""
    across, down, channels = layer.extent
    # counted as a power of two even where the map is narrower: 20 columns of 2 x 64 take two cores
    widest = 1 << (across - 1).bit_length()

    def use(width: int, height: int, channels: int) -> Use:
        return Placement(layer, (width, height, channels)).fullest(capacity)

    def room(width: int, height: int, channels: int) -> bool:
        taken = use(width, height, channels)
        return taken.neurons <= capacity.neurons.value and taken.axons_out <= capacity.axons_out.value

    def cores(tile: tuple[int, int]) -> int:
        return -(-across // tile[0]) * -(-down // tile[1])

    tile = (widest, down)
    while not room(*tile, channels) and tile != (1, 1):
        width, height = tile
        halves = [(width // 2, height)] if width > 1 else []
        if width == 1 or height % 2 == 0:
            halves.insert(0 if height > 2 * width else 1, (width, -(-height // 2)))
        tile = min(halves, key=cores)  # the first of equals
    while use(*tile, channels).exceeded(capacity) and channels > 1:
        channels = -(-channels // 2)
        while 2 * tile[0] <= widest and room(2 * tile[0], tile[1], channels):
            tile = (2 * tile[0], tile[1])
    return min(tile[0], across), tile[1], channels
