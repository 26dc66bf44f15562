"""What any netx file says, as the chip runs it: layers of neurons one after another in raw chip time.

A `Netlist` holds what a file from anywhere can hold and a `snn2chip.ir.Chain` cannot: input layers with neurons,
currents that persist, delays, recurrent layers. It knows nothing of samples, classes or a readout: those stand in our
own group of files that snn2chip wrote.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from snn2chip.ir import IntArray, Pair, Shape

Kind = Literal["input", "conv", "dense", "dense_rec"]
Constant = int | IntArray  # of all neurons of a layer, or of each: an array of the neurons' shape
MAX_DELAY = 62  # netx clamps longer ones


@dataclass(frozen=True, eq=False)
class ChipLayer:
    """Neurons and the synapse that drives them, with the numbers that the chip computes with.

    number     its place under ``layer/`` in the file
    shape      of the neurons, (C, H, W) or (F,)
    weight     int64: conv (O, I/groups, kH, kW), dense (O, F); None for an input layer
    recurrent  int64 (O, O) of a dense_rec layer: from the layer's own spikes, one step later
    bias       int64 mantissas, one a neuron, shifted left by 6; of an input layer 0: its bias is what comes in
    delay      int64 (O, F), 0..62 steps more than the one that every synapse takes; None for none
    graded     the synapse multiplies by the integers that come in, instead of counting what is not 0
    gain, offset  of an input layer: bias mantissa = gain * x + offset for x in the units of the data
    flatten    a flatten layer stands before it
    """

    number: str
    kind: Kind
    shape: Shape
    weight: IntArray | None
    recurrent: IntArray | None
    bias: IntArray
    threshold: Constant
    voltage_decay: Constant
    current_decay: Constant
    delay: IntArray | None = None
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    graded: bool = False
    gain: int = 64
    offset: int = 0
    flatten: bool = False


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
