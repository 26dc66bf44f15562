"""How the compiler of lava-loihi cuts a layer into cores, as far as its printed tables show.

It takes a core without limits and divides it until none is exceeded (github.com/OzU-CAST/LoihiScalingEfficiency saw it
do so). Of a map, output channels are halved until the synapses fit; then a tile as wide as the next power of two is
halved in W, and then in H, until the neurons fit. Of a dense layer, the most neurons that a core may have starts at the
chip's limit and is divided by how many times too much the core takes, rounded up, until it takes no more: 4,095, 1,365,
455, 151, 50 of mnist's 128 neurons, whose compiler says that it converged after 5 iterations. It reckons with
``reckoned_bits`` a synapse, whatever bits the weights take: 100 neurons of 2,560 inputs take 12 cores with weights of 3
bits as with 4.
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

    def use(width: int, height: int, channels: int) -> Use:
        return Placement(layer, (width, height, channels)).fullest(capacity)

    across, height, channels = layer.extent
    width = 1 << (across - 1).bit_length()
    while use(1, 1, channels).synaptic_words > capacity.synaptic_words.value and channels > 1:
        channels = -(-channels // 2)
    # the tile is counted as a power of two even where the map is narrower: 20 columns of 2 x 64 take two cores
    while over := use(width, height, channels).exceeded(capacity):
        if width > 1 and over != "axons_in":
            width //= 2
        elif height > 1 and over != "axons_in":
            height = -(-height // 2)
        elif channels > 1:
            channels = -(-channels // 2)
        else:
            break
    return min(width, across), height, channels
