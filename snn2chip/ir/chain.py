"""What a netx file can say: layers one after another, with one neuron each; and a chain of them, with its samples."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

import numpy as np

from snn2chip.errors import InputError
from snn2chip.ir.nodes import (
    Coding,
    Conv,
    CubaNeuron,
    FloatArray,
    IntArray,
    Pair,
    ReadoutKind,
    Shape,
    StepTables,
    Synapse,
    Weights,
    message_bits,
    narrow,
    neuron_bias,
    require_integers,
)

Kind = Literal["input", "conv", "dense", "dense_rec"]
Constant = int | IntArray  # of all neurons of a layer, or of each: an array of the neurons' shape
C = TypeVar("C", bound=Constant, covariant=True)


@dataclass(frozen=True, eq=False)
class Layer(Generic[C]):
    """Neurons and the synapse that drives them, with the numbers that the chip computes with.

    name     its number under ``layer/`` in the file
    weight   conv (O, I/groups, kH, kW) or dense (O, F), as `narrow` leaves it; of an input layer nothing, (0, 0)
    bias     int64 mantissas, shifted left by 6: every neuron has its own register; of an input layer 0: its bias is
             what comes in
    shape    of the neurons, (C, H, W) or (F,)
    flatten  a flatten layer stands before this one
    origin   trained layers by name -> slice of this layer's channels (start, stop)
    steps    tables of a time-varying neuron, one column a channel; threshold and voltage_decay are then not used

    The rest a file from anywhere can hold, and a chain cannot:

    recurrent     weights (O, O) of a dense_rec layer: from the layer's own spikes, one step later
    delay         int64 (O, F), 0..62 steps more than the one that every synapse takes; None for none
    graded        the synapse multiplies by the integers that come in, instead of counting what is not 0
    gain, offset  of an input layer: bias mantissa = gain * x + offset for x in the units of the data
    """

    name: str
    kind: Kind
    weight: Weights
    bias: IntArray
    shape: Shape
    threshold: C
    voltage_decay: C
    current_decay: C = 4096  # type: ignore[assignment]
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    flatten: bool = False
    origin: dict[str, tuple[int, int]] = field(default_factory=dict)
    steps: StepTables | None = None
    recurrent: Weights | None = None
    delay: IntArray | None = None
    graded: bool = False
    gain: int = 64
    offset: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight", narrow(self.weight))
        if self.recurrent is not None:
            object.__setattr__(self, "recurrent", narrow(self.recurrent))


ChainLayer = Layer[int]  # of a chain: one number for all neurons


def chain_layer(name: str, synapse: Synapse, neuron: CubaNeuron, shape: Shape, *, flatten: bool = False) -> ChainLayer:
    """One chain layer of a quantized synapse and its neuron; `shape` is the neurons'. Biases become one a neuron."""
    kind: Kind = "conv" if isinstance(synapse, Conv) else "dense"
    constants = neuron.threshold, neuron.voltage_decay, neuron.current_decay
    pairs = synapse.stride, synapse.padding, synapse.dilation
    origin = {neuron.name: (0, shape[0])}
    numbers = narrow(synapse.weight), neuron_bias([synapse], shape)
    return Layer(name, kind, *numbers, shape, *constants, *pairs, synapse.groups, flatten, origin, neuron.steps)


@dataclass(frozen=True, eq=False)
class Chain:
    """What model.net holds: an input port, layers one after another, and how to read the last.

    input       shape at the port, (C, H, W) or (F,); center, low and high as in `Input` (the port gets
                ``raw - center``); raw_shape is the image's own shape, which a dense first layer flattens
    timesteps   T; every layer resets before its own first step of a sample
    readout     'membrane': the last layer's voltage at the last step; 'spike_count': its spikes
    made        how the file was made: versions, options, the source's name; `output_unit`, see `outputs`
    """

    input_shape: Shape
    raw_shape: Shape
    coding: Coding
    pixel_max: int
    low: int
    high: int
    center: tuple[int, ...]
    timesteps: int
    readout: ReadoutKind
    classes: tuple[str, ...]
    layers: tuple[ChainLayer, ...]
    made: dict[str, Any] = field(default_factory=dict)

    @property
    def stock(self) -> bool:
        """Whether stock netx runs it: no layer has neurons that change with time."""
        return all(layer.steps is None for layer in self.layers)

    @property
    def port_range(self) -> tuple[IntArray, IntArray]:
        """Smallest and largest value of each channel of the raw image at the port."""
        center = np.asarray(self.center, dtype=np.int64)
        return self.low - center, self.high - center

    @property
    def message_bits(self) -> int:
        """Bits of a signed graded input message; 0 for binary spikes."""
        return message_bits(*self.port_range)

    def outputs(self, scores: IntArray) -> FloatArray | None:
        """Scores (N, K) of T steps in the units of what the trained network returns: times ``made["output_unit"]``.

        The mean over T of the last layer's currents or spikes, or whatever sum of them the network returns. A membrane
        counts 64 scale for a current of 1, scale that of the last layer's weights. None for a file that does not say.
        """
        unit = self.made.get("output_unit")
        if not isinstance(unit, (int, float)) or not math.isfinite(unit):
            return None
        found: FloatArray = scores.astype(np.float64) * unit
        return found

    def port(self, raw: IntArray) -> IntArray:
        """Raw integers (..., C, H, W) to what the port gets, (..., *input_shape).

        Raises:
            InputError: the shape is not the network's, a value lies outside low..high, or values are not integers.
        """
        require_integers(raw, self.raw_shape)
        if raw.size and (raw.min() < self.low or raw.max() > self.high):
            raise InputError(f"input values {raw.min()}..{raw.max()} exceed the network's {self.low}..{self.high}")
        center = np.asarray(self.center, dtype=np.int64).reshape(-1, *(1,) * (len(self.raw_shape) - 1))
        ported: IntArray = raw.astype(np.int64) - center
        return ported.reshape(*raw.shape[: raw.ndim - len(self.raw_shape)], *self.input_shape)
