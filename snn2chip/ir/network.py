"""A network of nodes, checked once a stage."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from snn2chip.errors import InputError, UnsupportedError
from snn2chip.ir.nodes import (
    LIF,
    Add,
    AvgPool,
    Conv,
    CubaNeuron,
    Dense,
    Flatten,
    Input,
    MaxPool,
    N,
    Node,
    Norm,
    Readout,
    Shape,
    Stage,
    StepNorm,
    Synapse,
    out_size,
)


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

    `notes` say what the file that it was read from cannot say, and what was assumed; they go with it from stage to
    stage.

    Raises:
        InputError, UnsupportedError: at construction, if the nodes do not make such a network.
    """

    stage: Stage
    timesteps: int
    classes: tuple[str, ...]
    nodes: tuple[Node, ...]
    notes: tuple[str, ...] = ()
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

    @property
    def integers(self) -> bool:
        """Whether its numbers are the chip's own already: whole weights, biases and thresholds, see `LIF.grain`."""
        return any(node.grain is not None for node in self.of(LIF))

    def require_real_decay(self, form: str) -> None:
        """Refuse a network of integers that rounds what it keeps of a membrane, for a format that does not.

        Raises:
            UnsupportedError: as said, naming the layer.
        """
        rounding = next((node for node in self.of(LIF) if node.rounds(self.timesteps)), None)
        if rounding is not None:
            raise UnsupportedError(
                f"layer '{rounding.name}': its membrane is rounded as it decays, as on the chip, which a "
                f"{form} cannot say: spikes could differ; export its model.net as ONNX, or the float.pt beside it"
            )

    def with_nodes(self, stage: Stage, nodes: list[Node]) -> Network:
        """The same network at another stage."""
        return replace(self, stage=stage, nodes=tuple(nodes), _shapes={}, _by_name={})
