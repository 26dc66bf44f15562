"""What any netx file says, as the chip runs it: layers of neurons one after another in raw chip time.

A `Netlist` holds what a file from anywhere can hold and a `snn2chip.ir.Chain` cannot: input layers with neurons,
currents that persist, delays, recurrent layers, constants that differ by neuron. It knows nothing of samples, classes
or a readout: those stand in our own group of files that snn2chip wrote.
"""

from __future__ import annotations

from dataclasses import dataclass

from snn2chip.ir.chain import Constant, Layer
from snn2chip.ir.nodes import Shape

MAX_DELAY = 62  # netx clamps longer ones
ChipLayer = Layer[Constant]


@dataclass(frozen=True, eq=False)
class Netlist:
    """A netx file as the chip runs it.

    input_shape  of one step at the port, (C, H, W) or (F,)
    layers       those with neurons, in order
    notes        what netx changes while it loads the file, or the chip's registers could not hold
    refused      why stock netx does not load the file; empty where it does
    """

    input_shape: Shape
    layers: tuple[ChipLayer, ...]
    notes: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()

    @property
    def driven_by_bias(self) -> bool:
        """Whether the input is a bias of the first layer's neurons, and not spikes or integers at a port."""
        return self.layers[0].kind == "input"
