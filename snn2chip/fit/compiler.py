"""How the compiler of lava-loihi cuts a layer into cores, as far as its printed tables show.

It takes a core without limits and divides it until none is exceeded (github.com/OzU-CAST/LoihiScalingEfficiency saw it
do so). Of a map, output channels are halved until the synapses fit; then a tile as wide as the next power of two is
halved in W, and then in H, until the neurons fit. Of a dense layer, neurons are divided by 8/5 until they fit with
``reckoned_bits`` a synapse: the compiler seems not to know yet how few bits the weights take, and 100 neurons of 2,560
inputs take 12 cores with weights of 3 bits as with 4.
"""

from __future__ import annotations

from snn2chip.chip.profile import Capacity
from snn2chip.fit.demand import Demand
from snn2chip.fit.placement import Placement, use_of
from snn2chip.fit.words import synaptic_words


def place(layer: Demand, capacity: Capacity) -> Placement | None:
    """The layer in cores, or None where no core holds even one of its neurons."""
    placed = Placement(layer, (1, 1, _dense(layer, capacity)) if layer.kind == "dense" else _map(layer, capacity))
    return None if placed.fullest(capacity).exceeded(capacity) else placed


def _dense(layer: Demand, capacity: Capacity) -> int:
    """Neurons of a core."""
    most, over, under = layer.neurons, 1, 1
    while (count := most * over // under) > 1:
        reckoned = synaptic_words(layer, count, capacity, capacity.reckoned_bits.value)
        if reckoned <= capacity.synaptic_words.value and not use_of(layer, (1, 1, count), capacity).exceeded(capacity):
            return count
        over, under = 5 * over, 8 * under
    return 1


def _map(layer: Demand, capacity: Capacity) -> tuple[int, int, int]:
    """W, H and C of a core."""
    across, height, channels = layer.extent
    width = 1 << (across - 1).bit_length()
    while synaptic_words(layer, channels, capacity) > capacity.synaptic_words.value and channels > 1:
        channels = -(-channels // 2)
    # the tile is counted as a power of two even where the map is narrower: 20 columns of 2 x 64 take two cores
    while (over := use_of(layer, (width, height, channels), capacity).exceeded(capacity)) and over != "axons_in":
        if width > 1:
            width //= 2
        elif height > 1:
            height = -(-height // 2)
        elif channels > 1:
            channels = -(-channels // 2)
        else:
            break
    return min(width, across), height, channels
