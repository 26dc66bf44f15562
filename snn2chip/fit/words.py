"""How synapses lie in a core's memory: 64-bit words, fitted to what the compiler printed.

A source of spikes has lists of the synapses that it drives: a header of ``list_bits``, then the weights. A convolution
has for each input channel and tap of the kernel one list for each block of output channels, ``list(block b)``, which
all positions of a core share; a block is a power of two, another the rest, so 48 channels have two (32 and 16). A dense
layer has one list for each source, ``list(outputs (b + index_bits))``, each weight with an index (and its delay, where
there are any: never printed). A list takes whole words. Zero weights
are stored like others.
"""

from __future__ import annotations

from snn2chip.chip.profile import Capacity
from snn2chip.fit.demand import Demand

WORD = 64


def list_words(synapses: int, bits: int, capacity: Capacity) -> int:
    """Words of a list of synapses of `bits` each, headers included; longer lists than a chip has are several."""
    most = capacity.list_synapses.value
    whole, rest = divmod(synapses, most)
    return whole * _words(most, bits, capacity) + (_words(rest, bits, capacity) if rest else 0)


def _words(synapses: int, bits: int, capacity: Capacity) -> int:
    return -(-(synapses * bits + capacity.list_bits.value) // WORD)


def blocks(channels: int) -> list[int]:
    """How channels of a map are stored: the largest power of two, and the rest, 48 as 32 and 16.

    Printed for powers of two and for 24, 36 and 48, whose rest is one as well; what becomes of other rests, never.
    """
    first = 1 << (channels.bit_length() - 1)
    return [first] if first == channels else [first, channels - first]


def synaptic_words(layer: Demand, channels: int, capacity: Capacity, bits: int | None = None) -> int:
    """Words that a core takes for so many output channels (or features) of a layer; `bits` of a dense synapse."""
    if layer.kind == "input":
        return 0
    if layer.kind == "dense":
        each = layer.weight_bits + capacity.index_bits.value if bits is None else bits
        each += layer.delay_bits
        return layer.fan_in * list_words(channels, each, capacity)
    taps = layer.kernel[0] * layer.kernel[1]
    lists = sum(list_words(block, layer.weight_bits, capacity) for block in blocks(channels))
    return layer.inputs[0] // layer.groups * taps * lists
