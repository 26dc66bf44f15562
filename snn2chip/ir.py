"""The network between stages: frozen nodes in topological order, checked once a stage.

    captured   Input, Conv, Dense, Norm, StepNorm, AvgPool, MaxPool, Flatten, Add, LIF, Readout; float64, as trained
    folded     Input, Conv, Dense, Flatten, Add, LIF, Readout; float64: every neuron reads one conv or dense layer,
               or an Add of some
    quantized  as folded, with CubaNeuron for LIF; int64 weights, biases and thresholds
    chain      what a netx file can say: `Chain`, a list of layers with one neuron each

Every node has a `name`, the trained layer's own, and `inputs`, the names of the nodes it reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from snn2chip.errors import InputError, UnsupportedError

Array = NDArray[np.float64] | NDArray[np.int64]
FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Shape = tuple[int, ...]
Stage = Literal["captured", "folded", "quantized"]
Pair = tuple[int, int]
Coding = Literal["direct", "poisson", "events"]
CODINGS: tuple[Coding, ...] = get_args(Coding)


@dataclass(frozen=True, eq=False)
class Node:
    """Base of all nodes. Arrays are made read-only, so that nodes can be shared between stages."""

    name: str
    inputs: tuple[str, ...]

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, np.ndarray):
                if not np.isfinite(value).all():
                    bad = int((~np.isfinite(value)).sum())
                    raise InputError(
                        f"layer '{self.name}': {item.name} holds {bad} NaN or infinite of {value.size} values; "
                        f"train again"
                    )
                frozen = value.copy() if value.flags.writeable else value
                frozen.setflags(write=False)
                object.__setattr__(self, item.name, frozen)


@dataclass(frozen=True, eq=False)
class Input(Node):
    """Images or spikes, integers ``low..high`` (both inclusive) before centring; shape (C, H, W) or (F,).

    The port gets ``p = raw - center`` (integers, per channel) and the network sees ``scale * p + shift``
    (per channel). `coding` says how a time axis comes about: 'direct' repeats the image, 'poisson' draws
    spikes, one with probability pixel / pixel_max at every step (low..high is then 0..1), 'events' takes the
    frames of an event camera, which have one (low..high is 0..pixel_max: spikes, or counts as graded spikes).
    """

    shape: Shape
    coding: Coding
    pixel_max: int
    low: int
    high: int
    center: IntArray
    scale: FloatArray
    shift: FloatArray

    @property
    def binary(self) -> bool:
        """Whether the raw values are spikes, 0 and 1."""
        return self.low >= 0 and self.high <= 1

    def port_range(self) -> tuple[IntArray, IntArray]:
        """Smallest and largest value of each channel at the port."""
        return self.low - self.center, self.high - self.center

    def port(self, raw: IntArray) -> IntArray:
        """``raw - center`` for raw (..., C, H, W) or (..., F)."""
        return raw - self.center.reshape(-1, *(1,) * (len(self.shape) - 1))


@dataclass(frozen=True, eq=False)
class Conv(Node):
    """Convolution as `torch.nn.functional.conv2d`: weight (O, I/groups, kH, kW), bias None, (O,) or (O, H, W)."""

    weight: Array
    bias: Array | None
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1


@dataclass(frozen=True, eq=False)
class Dense(Node):
    """``y = W x + b``: weight (O, F), bias None or (O,)."""

    weight: Array
    bias: Array | None


@dataclass(frozen=True, eq=False)
class Norm(Node):
    """tdBN in eval mode: ``y = gamma * alpha * Vth * (x - mean) / sqrt(var + eps) + beta``, per channel."""

    gamma: FloatArray
    beta: FloatArray
    mean: FloatArray
    var: FloatArray
    eps: float
    alpha: float
    threshold: float


@dataclass(frozen=True, eq=False)
class StepNorm(Node):
    """BNTT in eval mode: ``y[t] = gamma[t] * (x[t] - mean[t]) / sqrt(var[t] + eps)``; every table is (T, C)."""

    gamma: FloatArray
    mean: FloatArray
    var: FloatArray
    eps: float


@dataclass(frozen=True, eq=False)
class AvgPool(Node):
    """Average over windows of `kernel` with the same stride; what does not fill a window is left out."""

    kernel: Pair


@dataclass(frozen=True, eq=False)
class MaxPool(Node):
    """Maximum over windows of spikes: a logical OR; what lies outside the image is no spike."""

    kernel: Pair
    stride: Pair
    padding: Pair


@dataclass(frozen=True, eq=False)
class Add(Node):
    """Sum of all its inputs, which have the same shape: currents that meet before a neuron."""


@dataclass(frozen=True, eq=False)
class Flatten(Node):
    """(C, H, W) to (C*H*W,), channel slowest."""


@dataclass(frozen=True, eq=False)
class StepConstants:
    """What a normalization of every step makes of a LIF neuron; tables (T, C), float64, see `snn2chip.varying`.

    With v[t] = u[t] / gain[t]: ``v[t] = leak[t] v[t-1] (1 - o[t-1]) + I[t] + bias[t]``, ``o[t] = v[t] > threshold[t]``.
    leak[0] is 0: there is nothing before the first step.
    """

    gain: FloatArray
    leak: FloatArray
    bias: FloatArray
    threshold: FloatArray


@dataclass(frozen=True, eq=False)
class LIF(Node):
    """``u[t] = tau u[t-1] (1 - o[t-1]) + I[t]``, ``o[t] = u[t] > threshold``; u[-1] = 0.

    With `steps` the neuron is the time-varying one of `StepConstants`; tau and threshold stay those of u.
    """

    tau: float
    threshold: float
    steps: StepConstants | None = None


@dataclass(frozen=True, eq=False)
class StepTables:
    """A time-varying neuron in integers, see `snn2chip.arith.step_voltage`; tables (T, C), int64.

    leak       0..65535, in units of 2^-leak_shift: factors above 1 are allowed
    bias       added to v as it is: 1/64 of a weight's unit
    threshold  compared with v as it is
    scale      (C,) float64: a weight, bias or threshold of 1 (1/64 for tables) is 1/scale in the folded network
    """

    leak: IntArray
    leak_shift: int
    bias: IntArray
    threshold: IntArray
    scale: FloatArray

    @property
    def timesteps(self) -> int:
        """Steps that the tables have."""
        return len(self.leak)


@dataclass(frozen=True, eq=False)
class CubaNeuron(Node):
    """The chip's neuron (see `snn2chip.arith.step`): 12-bit decays, threshold mantissa, in weight units.

    With `steps`, the time-varying one of `StepTables`, which no stock neuron is; threshold and voltage_decay are then
    not used.
    """

    threshold: int
    voltage_decay: int
    current_decay: int = 4096
    steps: StepTables | None = None


@dataclass(frozen=True, eq=False)
class Readout(Node):
    """Class scores: 'membrane' sums the input over time, 'spike_count' counts the spikes of the last LIF."""

    kind: Literal["membrane", "spike_count"]


Synapse = Conv | Dense
N = TypeVar("N", bound=Node)


def out_size(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    """Output size of a convolution along one axis."""
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def input_channels(weight: Array, groups: int) -> IntArray:
    """The input channel that weight[o, i] of a convolution reads, (O, I/groups): the group of o, then i."""
    outputs, per_group = weight.shape[:2]
    channels: IntArray = (np.arange(outputs) * groups // outputs)[:, None] * per_group + np.arange(per_group)
    return channels


def total_bias(synapses: Sequence[Synapse]) -> FloatArray | None:
    """The sum of what synapses add: one value a channel while all have that, else one a neuron; None for nothing."""
    biases = [synapse.bias.astype(np.float64) for synapse in synapses if synapse.bias is not None]
    if not biases:
        return None
    axes = max(bias.ndim for bias in biases)
    spread = np.broadcast_arrays(*(bias.reshape(*bias.shape, *(1,) * (axes - bias.ndim)) for bias in biases))
    total: FloatArray = np.sum(spread, axis=0)
    return total


def neuron_bias(synapses: Sequence[Synapse], shape: Shape) -> IntArray:
    """`total_bias` of integer synapses, one a neuron of `shape`."""
    total = total_bias(synapses)
    if total is None:
        return np.zeros(shape, dtype=np.int64)
    whole = total.astype(np.int64)
    return np.broadcast_to(whole.reshape(*whole.shape, *(1,) * (len(shape) - whole.ndim)), shape).copy()


def output_shape(node: Node, *shapes: Shape) -> Shape:
    """Shape of what `node` gives for inputs of `shapes` (no batch, no time).

    Raises:
        InputError: the shapes do not fit, named by layer.
    """
    if isinstance(node, Input):
        return node.shape
    shape = shapes[0]
    if isinstance(node, Add) and len(set(shapes)) > 1:
        given = ", ".join(f"'{name}' {given}" for name, given in zip(node.inputs, shapes, strict=True))
        raise InputError(f"layer '{node.name}': an add of different shapes: {given}")
    if isinstance(node, Conv):
        if len(shape) != 3 or shape[0] != node.weight.shape[1] * node.groups:
            raise InputError(
                f"layer '{node.name}': input of shape {shape} does not fit a convolution of "
                f"{node.weight.shape[1] * node.groups} channels"
            )
        sides = tuple(
            out_size(shape[1 + i], node.weight.shape[2 + i], node.stride[i], node.padding[i], node.dilation[i])
            for i in range(2)
        )
        if min(sides) < 1:
            raise InputError(f"layer '{node.name}': its kernel is larger than its padded input {shape}")
        return (node.weight.shape[0], *sides)
    if isinstance(node, Dense):
        if shape != (node.weight.shape[1],):
            raise InputError(
                f"layer '{node.name}': input of shape {shape} does not fit its {node.weight.shape[1]} inputs"
            )
        return (node.weight.shape[0],)
    if isinstance(node, AvgPool):
        if len(shape) != 3 or shape[1] < node.kernel[0] or shape[2] < node.kernel[1]:
            raise InputError(f"layer '{node.name}': kernel {node.kernel} does not fit an input of shape {shape}")
        return (shape[0], shape[1] // node.kernel[0], shape[2] // node.kernel[1])
    if isinstance(node, MaxPool):
        if len(shape) != 3:
            raise InputError(f"layer '{node.name}': pooling needs an image, but {shape} reaches it")
        sides = tuple(out_size(shape[1 + i], node.kernel[i], node.stride[i], node.padding[i], 1) for i in range(2))
        if min(sides) < 1:
            raise InputError(f"layer '{node.name}': kernel {node.kernel} does not fit an input of shape {shape}")
        return (shape[0], *sides)
    if isinstance(node, Flatten):
        return (int(np.prod(shape)),)
    if isinstance(node, (Norm, StepNorm)) and shape[0] != node.gamma.shape[-1]:
        raise InputError(f"layer '{node.name}': {node.gamma.shape[-1]} channels do not fit an input of {shape}")
    return shape


_ALLOWED: dict[Stage, tuple[type[Node], ...]] = {
    "captured": (Input, Conv, Dense, Norm, StepNorm, AvgPool, MaxPool, Flatten, Add, LIF, Readout),
    "folded": (Input, Conv, Dense, Flatten, Add, LIF, Readout),
    "quantized": (Input, Conv, Dense, Flatten, Add, CubaNeuron, Readout),
}


@dataclass(frozen=True, eq=False)
class Network:
    """A network at one stage: nodes in topological order, the Input first and the Readout last.

    Raises:
        InputError, UnsupportedError: at construction, if the nodes do not make such a network.
    """

    stage: Stage
    timesteps: int
    classes: tuple[str, ...]
    nodes: tuple[Node, ...]
    _shapes: dict[str, Shape] = field(default_factory=dict, repr=False)
    _by_name: dict[str, Node] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self._shapes.clear()
        self._by_name.clear()
        if not self.nodes or not isinstance(self.nodes[0], Input) or not isinstance(self.nodes[-1], Readout):
            raise InputError("a network starts with an Input and ends with a Readout")
        for node in self.nodes:
            if node.name in self._shapes:
                raise InputError(f"two layers are named '{node.name}'")
            if not isinstance(node, _ALLOWED[self.stage]):
                raise UnsupportedError(
                    f"layer '{node.name}': a {type(node).__name__} has no place in a {self.stage} network"
                )
            wanted = "no input" if isinstance(node, Input) else "one or more" if isinstance(node, Add) else "one"
            if not (node.inputs if isinstance(node, Add) else len(node.inputs) == int(wanted == "one")):
                raise UnsupportedError(f"layer '{node.name}': {len(node.inputs)} inputs; expected {wanted}")
            for source in node.inputs:
                if source not in self._shapes:
                    raise InputError(f"layer '{node.name}' reads '{source}', which does not come before it")
            if isinstance(node, StepNorm) and len(node.gamma) != self.timesteps:
                raise InputError(
                    f"layer '{node.name}': statistics of {len(node.gamma)} time steps, but the network runs "
                    f"{self.timesteps}; retrain it for {self.timesteps}"
                )
            self._shapes[node.name] = output_shape(node, *(self._shapes[source] for source in node.inputs))
            self._by_name[node.name] = node
        read = {source for node in self.nodes for source in node.inputs}
        for node in self.nodes[:-1]:
            if node.name not in read:
                raise UnsupportedError(f"layer '{node.name}' feeds nothing: leave it out of the network")
        if self.stage == "quantized":
            for node in self.nodes:
                if isinstance(node, (Conv, Dense)) and node.weight.dtype != np.int64:
                    raise InputError(f"layer '{node.name}': weights are {node.weight.dtype}, not integers")

    def __getitem__(self, name: str) -> Node:
        return self._by_name[name]

    def shape(self, name: str) -> Shape:
        """Output shape of a node, without batch and time."""
        return self._shapes[name]

    def source_of(self, synapse: Node) -> Node:
        """The Input or neuron that a synapse of a folded or quantized network reads, past a Flatten."""
        source = self[synapse.inputs[0]]
        return self[source.inputs[0]] if isinstance(source, Flatten) else source

    def of(self, kind: type[N]) -> list[N]:
        """The nodes of one kind, in order."""
        return [node for node in self.nodes if isinstance(node, kind)]

    @property
    def input(self) -> Input:
        """The one Input."""
        node = self.nodes[0]
        assert isinstance(node, Input)  # checked at construction
        return node

    @property
    def readout(self) -> Readout:
        """The one Readout."""
        node = self.nodes[-1]
        assert isinstance(node, Readout)
        return node

    def synapses_of(self, neuron: Node) -> list[Synapse]:
        """The Conv and Dense layers whose sum drives a neuron (or the readout) of a folded or quantized network.

        Raises:
            UnsupportedError: something else drives it.
        """
        driver = self[neuron.inputs[0]]
        found: list[Synapse] = []
        for node in [self[name] for name in driver.inputs] if isinstance(driver, Add) else [driver]:
            if not isinstance(node, (Conv, Dense)):
                raise UnsupportedError(
                    f"layer '{neuron.name}': a neuron must follow a conv or dense layer, not '{node.name}'"
                )
            found.append(node)
        return found

    def with_nodes(self, stage: Stage, nodes: list[Node]) -> Network:
        """The same network at another stage."""
        return replace(self, stage=stage, nodes=tuple(nodes), _shapes={}, _by_name={})


@dataclass(frozen=True, eq=False)
class ChainLayer:
    """One layer of a netx chain: a synapse and its neurons.

    weight   int64, conv (O, I/groups, kH, kW) or dense (O, F)
    bias     int64 per neuron, (C, H, W) or (F,): every neuron has its own register
    shape    of the neurons, (C, H, W) or (F,)
    origin   trained layers by name -> slice of this layer's channels (start, stop)
    flatten  a flatten layer stands before this one
    steps    tables of a time-varying neuron, one column a channel; threshold and voltage_decay are then not used
    """

    name: str
    kind: Literal["conv", "dense"]
    weight: IntArray
    bias: IntArray
    shape: Shape
    threshold: int
    voltage_decay: int
    current_decay: int = 4096
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    flatten: bool = False
    origin: dict[str, tuple[int, int]] = field(default_factory=dict)
    steps: StepTables | None = None


def chain_layer(name: str, synapse: Synapse, neuron: CubaNeuron, shape: Shape, *, flatten: bool = False) -> ChainLayer:
    """One chain layer of a quantized synapse and its neuron; `shape` is the neurons'. Biases become one a neuron."""
    conv = synapse if isinstance(synapse, Conv) else None
    return ChainLayer(
        name,
        "conv" if conv else "dense",
        synapse.weight.astype(np.int64),
        neuron_bias([synapse], shape),
        shape,
        neuron.threshold,
        neuron.voltage_decay,
        neuron.current_decay,
        conv.stride if conv else (1, 1),
        conv.padding if conv else (0, 0),
        conv.dilation if conv else (1, 1),
        conv.groups if conv else 1,
        flatten,
        {neuron.name: (0, shape[0])},
        neuron.steps,
    )


@dataclass(frozen=True, eq=False)
class Chain:
    """What model.net holds: an input port, layers one after another, and how to read the last.

    input       shape at the port, (C, H, W) or (F,); center, low and high as in `Input` (the port gets
                ``raw - center``); raw_shape is the image's own shape, which a dense first layer flattens
    timesteps   T; every layer resets before its own first step of a sample
    readout     'membrane': the last layer's voltage at the last step; 'spike_count': its spikes
    made        how the file was made: versions, options, the source's name
    """

    input_shape: Shape
    raw_shape: Shape
    coding: Coding
    pixel_max: int
    low: int
    high: int
    center: tuple[int, ...]
    timesteps: int
    readout: Literal["membrane", "spike_count"]
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
        low, high = self.port_range
        if low.min() >= 0 and high.max() <= 1:
            return 0
        return int(max((-low.min() - 1).item().bit_length(), high.max().item().bit_length())) + 1

    def port(self, raw: IntArray) -> IntArray:
        """Raw integers (..., C, H, W) to what the port gets, (..., *input_shape).

        Raises:
            InputError: the shape is not the network's, or a value lies outside low..high.
        """
        if raw.shape[-len(self.raw_shape) :] != self.raw_shape:
            raise InputError(f"input of shape {raw.shape} does not end in the network's {self.raw_shape}")
        if raw.size and (raw.min() < self.low or raw.max() > self.high):
            raise InputError(f"input values {raw.min()}..{raw.max()} exceed the network's {self.low}..{self.high}")
        center = np.asarray(self.center, dtype=np.int64).reshape(-1, *(1,) * (len(self.raw_shape) - 1))
        ported: IntArray = raw.astype(np.int64) - center
        return ported.reshape(*raw.shape[: raw.ndim - len(self.raw_shape)], *self.input_shape)
