"""The nodes of an ONNX graph, in their order, as items of a plain network: shapes checked, nodes joined.

A bias added after a product becomes the product's, batch norm joins the layer before it, `x - c > d` and its cast
become one threshold. What a network of ours has no layer for is refused by node name and type.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snn2chip.errors import InputError, UnsupportedError
from snn2chip.formats.onnx.items import Flat, FloatArray, Item, Neuron, Norm, Pool, Weighted
from snn2chip.formats.onnx.read_file import MOST_VALUES, Graph, Node
from snn2chip.text import one_line

_FLOATS = (1, 10, 11)  # TensorProto's FLOAT, FLOAT16, DOUBLE
_INT64 = 7
_KNOWN = (
    "Conv, Gemm, MatMul with Add, BatchNormalization, Relu, Greater with Cast, AveragePool, GlobalAveragePool, "
    "ReduceMean, MaxPool, Flatten, Reshape, Add, Identity, Dropout and Constant"
)
_INSTEAD = {
    "Softmax": "it may end the network; else export the scores before it",
    "LogSoftmax": "it may end the network; else export the scores before it",
    "Sigmoid": "train with ReLU",
    "Clip": "train with ReLU instead of ReLU6",
    "LeakyRelu": "train with ReLU",
    "PRelu": "train with ReLU",
    "Gelu": "train with ReLU",
    "GreaterOrEqual": "neurons fire strictly above the threshold (Greater)",
    "Mul": "of the input by positive constants only",
    "Div": "of the input by positive constants only",
    "Transpose": "of an input (N, H, W, C) to (N, C, H, W) only",
    "Pad": "use the padding of the convolution",
}


@dataclass(frozen=True)
class Sum:
    """An add of two arms, before their block is found."""


@dataclass(frozen=True)
class Compare:
    """``x - shift > level``, before its cast."""

    shift: float
    level: float | None = None


@dataclass(frozen=True)
class Made:
    """A value of the graph: what makes it, of what, and its shape without the batch."""

    node: Node
    item: Item | Sum | Compare
    sources: tuple[str, ...]
    shape: tuple[int, ...]


def _finite(node: Node, *arrays: NDArray[Any]) -> None:
    if not all(np.isfinite(array).all() for array in arrays):
        raise InputError(f"node '{node.name}': {node.op} gives values that are not finite; train again")


class Nodes:
    """The graph's activations: `made` by name, with `same` ones under one name. `largest` is the most values of one."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        if len(graph.dims) != 4 or None in graph.dims[1:] or min(side or 1 for side in graph.dims[1:]) < 1:
            shown = ", ".join("?" if side is None else str(side) for side in graph.dims[:8])
            raise UnsupportedError(
                f"input '{one_line(graph.input)}' is ({shown}); images (N, C, H, W) with fixed C, H and W are read: "
                f"export with an example image of that size, only the batch dynamic"
            )
        self.shape = tuple(side or 0 for side in graph.dims[1:])
        if math.prod(self.shape) > MOST_VALUES // 4:
            raise InputError(f"input of shape {self.shape}: more than {MOST_VALUES // 4:,} values are not read")
        self.largest = math.prod(self.shape)
        self.alias: dict[str, str] = {}
        self.sizes: dict[str, list[int | None]] = {}  # shapes computed in the graph; None is the batch
        self.made: dict[str, Made] = {}
        self.uses = Counter(name for node in graph.nodes for name in node.inputs)
        self.uses[graph.output] += 1
        self.reader = {name: node for node in graph.nodes for name in node.inputs}
        self.weights = 0
        self.scale, self.shift = np.ones((1, 1, 1)), np.zeros((1, 1, 1))  # of the input, in the order of its axes
        self.notes = list(graph.notes)
        self.widened: set[str] = set()  # (features, 1): what Unsqueeze makes for a 1-d batch norm
        for node in graph.nodes:
            self._put_node(node)

    # ---------------------------------------------------------------------------------------- the nodes, in order

    def source(self, node: Node, place: int = 0) -> str:
        """The value that a node reads, which must be an activation."""
        name = node.inputs[place] if place < len(node.inputs) else ""
        if name in self.widened:
            if node.op not in ("BatchNormalization", "Squeeze"):
                raise node.refuse("behind Unsqueeze; batch norm and Squeeze are read there")
            self.widened.update(node.outputs[:1] if node.op == "BatchNormalization" else ())
        name = self.alias.get(name, name)
        if name != self.graph.input and name not in self.made:
            raise node.refuse(f"reads '{one_line(name)}', which is no activation of the network")
        return name

    def shape_of(self, value: str) -> tuple[int, ...]:
        return self.shape if value == self.graph.input else self.made[value].shape

    def put(self, node: Node, item: Item | Sum | Compare, sources: tuple[str, ...], shape: tuple[int, ...]) -> None:
        if math.prod(shape) > MOST_VALUES:
            raise InputError(f"node '{node.name}': {node.op} gives {shape}, more than {MOST_VALUES:,} values")
        self.largest = max(self.largest, math.prod(shape))
        self.made[node.outputs[0]] = Made(node, item, sources, shape)

    def same(self, node: Node, source: str) -> None:
        """The output is the input."""
        self.alias[node.outputs[0]] = source
        self.uses[source] += self.uses[node.outputs[0]] - 1

    def before(self, source: str, kind: type[Any]) -> Any:
        """The item that makes `source`, if it is of that kind and nobody else reads it."""
        made = self.made.get(source)
        return made.item if made and isinstance(made.item, kind) and self.uses[source] == 1 else None

    def join(self, node: Node, source: str, item: Item | Compare) -> None:
        """`item` in the place of what makes `source`, under the new name."""
        old = self.made.pop(source)
        self.made[node.outputs[0]] = replace(old, item=item)

    def square(self, node: Node, key: str, default: int) -> int:
        values = node.attributes.get(key, (default, default))
        if not isinstance(values, tuple) or len(values) != 2 or values[0] != values[1]:
            raise node.refuse(f"with {key} {values}; the same for height and width is read")
        if not default <= values[0] <= MOST_VALUES:
            raise node.refuse(f"with {key} {values[0]}, outside {default}..{MOST_VALUES}")
        return int(values[0])

    def padding(self, node: Node) -> int:
        pads = node.attributes.get("pads", (0, 0, 0, 0))
        auto = node.attributes.get("auto_pad", "NOTSET")
        if auto not in ("NOTSET", "VALID"):
            raise node.refuse(f"with auto_pad '{one_line(str(auto))}'; export with explicit padding")
        if auto == "VALID":
            return 0
        if not isinstance(pads, tuple) or len(pads) != 4 or len(set(pads)) != 1:
            raise node.refuse(f"with pads {pads}; the same on all four sides is read")
        if not 0 <= pads[0] <= 2**16:
            raise node.refuse(f"with padding {pads[0]}, outside 0..{2**16}")
        return int(pads[0])

    def image(self, node: Node, source: str) -> tuple[int, int, int]:
        shape = self.shape_of(source)
        if len(shape) != 3:
            raise node.refuse(f"reads {shape} a sample; it needs an image (C, H, W)")
        return shape[0], shape[1], shape[2]

    def weight(self, node: Node, name: str) -> NDArray[np.float32]:
        found = self.graph.constant(name, node)
        if found.dtype != np.float32:
            raise node.refuse(f"has weights '{one_line(name)}' of integers; networks of real numbers are read")
        self.weights += found.size
        if self.weights > MOST_VALUES:
            raise InputError(f"node '{node.name}': the network has more than {MOST_VALUES:,} weights")
        return found

    def vector(self, node: Node, name: str, size: int, *, spread: bool = False) -> FloatArray:
        """A constant of one value a channel; with `spread` also of one value for all, in any number of dimensions."""
        values = self.weight(node, name)
        fits = values.size == size and (spread or values.ndim == 1)
        if not fits and not (spread and values.size == 1):
            raise InputError(
                f"node '{node.name}': {node.op} with '{one_line(name)}' of shape {values.shape}, not ({size},)"
            )
        return np.broadcast_to(values.reshape(-1), (size,)).astype(np.float64)

    def conv(self, node: Node) -> None:
        source = self.source(node)
        channels, *sides = self.image(node, source)
        weight = self.weight(node, node.inputs[1] if len(node.inputs) > 1 else "")
        groups = node.attributes.get("group", 1)
        if weight.ndim != 4 or weight.shape[2] != weight.shape[3]:
            raise node.refuse(f"with weights of shape {weight.shape}; square kernels over height and width are read")
        if (
            not isinstance(groups, int)
            or groups < 1
            or weight.shape[0] % groups
            or weight.shape[1] * groups != channels
        ):
            raise InputError(
                f"node '{node.name}': Conv with weights {weight.shape} and {groups} groups does not fit its input "
                f"{(channels, *sides)}"
            )
        kernel, padding = weight.shape[2], self.padding(node)
        if min(weight.shape) < 1 or node.attributes.get("kernel_shape", (kernel, kernel)) != (kernel, kernel):
            raise InputError(f"node '{node.name}': Conv with weights {weight.shape} and another kernel_shape")
        stride, dilation = self.square(node, "strides", 1), self.square(node, "dilations", 1)
        shape = (weight.shape[0], *self.windows(node, sides, kernel, stride, padding, dilation))
        bias = self.vector(node, node.inputs[2], weight.shape[0]) if len(node.inputs) > 2 and node.inputs[2] else None
        self.put(node, Weighted(node.name, weight, bias, None, stride, padding, dilation, groups), (source,), shape)

    def windows(
        self, node: Node, sides: list[int], kernel: int, stride: int, padding: int, dilation: int = 1
    ) -> list[int]:
        reach = dilation * (kernel - 1) + 1
        if min(sides) + 2 * padding < reach:
            raise InputError(f"node '{node.name}': {node.op} of reach {reach} does not fit its input of {sides}")
        return [(side + 2 * padding - reach) // stride + 1 for side in sides]

    def features(self, node: Node, source: str) -> int:
        shape = self.shape_of(source)
        if len(shape) != 1:
            raise node.refuse(f"reads {shape} a sample; flatten before it")
        return shape[0]

    def gemm(self, node: Node) -> None:
        source = self.source(node)
        inputs, said = self.features(node, source), node.attributes
        if said.get("transA", 0):
            raise node.refuse("with transA; only the weights may be transposed")
        weight = self.weight(node, node.inputs[1] if len(node.inputs) > 1 else "")
        alpha, beta = said.get("alpha", 1.0), said.get("beta", 1.0)
        if (alpha, beta) != (1.0, 1.0):
            raise node.refuse(f"with alpha {alpha} and beta {beta}; 1 is read")
        weight = weight if node.op == "Gemm" and said.get("transB", 0) else weight.T
        if weight.ndim != 2 or weight.shape[1] != inputs or weight.shape[0] < 1:
            raise InputError(
                f"node '{node.name}': {node.op} with weights {weight.shape} does not fit {inputs} features"
            )
        given = node.inputs[2] if node.op == "Gemm" and len(node.inputs) > 2 else ""
        bias = self.vector(node, given, weight.shape[0], spread=True) if given else None
        self.put(node, Weighted(node.name, weight, bias), (source,), weight.shape[:1])

    def norm(self, node: Node) -> None:
        source = self.source(node)
        if node.attributes.get("training_mode", 0) or any(node.outputs[1:]):
            raise node.refuse("in training mode; call eval() before the export")
        if len(node.inputs) != 5:
            raise InputError(f"node '{node.name}': {node.op} with {len(node.inputs)} inputs, not 5")
        channels = self.shape_of(source)[0]
        gamma, beta, mean, variance = (self.vector(node, name, channels) for name in node.inputs[1:])
        eps = node.attributes.get("epsilon", 1e-5)
        if not isinstance(eps, float) or not (variance + eps > 0).all() or (variance < 0).any():
            raise InputError(f"node '{node.name}': {node.op} with a negative variance, or one of 0 with epsilon {eps}")
        norm = Norm(node.name, gamma, beta, mean, variance + eps)
        _finite(node, norm.variance)
        if source == self.graph.input and self.uses[source] == 1 and (gamma > 0).all():
            gain = (gamma / np.sqrt(norm.variance))[:, None, None]
            self.on_input(node, gain, beta[:, None, None] - gain * mean[:, None, None])
            return
        layer: Weighted | None = self.before(source, Weighted)
        if layer is not None and layer.norm is None:
            self.join(node, source, replace(layer, norm=norm))
        else:
            self.put(node, norm, (source,), self.shape_of(source))

    def add(self, node: Node) -> None:
        if len(node.inputs) != 2:
            raise InputError(f"node '{node.name}': {node.op} with {len(node.inputs)} inputs, not 2")
        constants = [name for name in node.inputs if self.graph.is_constant(name)]
        if constants and self.reads_input(node):
            self.on_input(node, np.ones(1), self.by_channel(node))
        elif constants:
            source = self.source(node, 1 if node.inputs[0] == constants[0] else 0)
            layer: Weighted | None = self.before(source, Weighted)
            if layer is None or layer.norm is not None or layer.bias is not None:
                raise node.refuse("of a constant; only a bias right behind a product without one is read")
            shape, given = self.shape_of(source), self.graph.constant(constants[0], node).shape
            wanted = (shape[0], *(1,) * (len(shape) - 1))
            trimmed = given[1:] if len(given) == len(wanted) + 1 and given[0] == 1 else given
            if trimmed != wanted and math.prod(given) != 1:
                raise node.refuse(f"of a constant of shape {given}; a bias of shape {wanted} is read")
            self.join(node, source, replace(layer, bias=self.vector(node, constants[0], shape[0], spread=True)))
        if constants:
            return
        first, second = self.source(node), self.source(node, 1)
        if self.shape_of(first) != self.shape_of(second):
            raise InputError(
                f"node '{node.name}': Add of {self.shape_of(first)} and {self.shape_of(second)} a sample; they must be "
                f"the same"
            )
        self.put(node, Sum(), (first, second), self.shape_of(first))

    def relu(self, node: Node) -> None:
        source = self.source(node)
        self.put(node, Neuron(node.name), (source,), self.shape_of(source))

    def scalar(self, node: Node) -> float:
        values = self.graph.constant(node.inputs[1] if len(node.inputs) == 2 else "", node)
        if values.size != 1:
            raise node.refuse(f"with a constant of shape {values.shape}; one threshold a layer is read")
        return float(values.reshape(-1)[0])

    def reads_input(self, node: Node) -> bool:
        """Whether a node reads the network's input, which nobody else reads, beside constants."""
        names = [name for name in node.inputs if name and not self.graph.is_constant(name)]
        return [self.alias.get(name, name) for name in names] == [self.graph.input] and (
            self.uses[self.graph.input] == 1
        )

    def by_channel(self, node: Node) -> FloatArray:
        """The constant that a node has beside the input, with the input's three axes; none may differ by pixel."""
        name = next(name for name in node.inputs if self.graph.is_constant(name))
        values = self.weight(node, name).astype(np.float64)
        if values.ndim > 4 or math.prod(values.shape[:-3]) != 1:
            raise node.refuse(f"with a constant of shape {values.shape}; one value a channel is read")
        values = values.reshape((1, 1, 1, *values.shape)[-3:])
        if any(side not in (1, mine) for side, mine in zip(values.shape, self.shape, strict=True)):
            raise node.refuse(f"with a constant of shape {values.shape} for an input {self.shape}")
        return values

    def on_input(self, node: Node, scale: FloatArray, shift: FloatArray) -> None:
        """``scale x + shift`` of what the input has become so far."""
        if not ((scale > 0) & np.isfinite(scale)).all():
            raise node.refuse("of the input by numbers that are not positive; a normalization has a positive std")
        self.scale, self.shift = self.scale * scale, self.shift * scale + shift
        _finite(node, self.scale, self.shift)
        self.same(node, self.graph.input)

    def normalize(self, node: Node) -> None:
        """Mul and Div, which only normalize the input."""
        if (
            len(node.inputs) != 2
            or not self.reads_input(node)
            or (node.op == "Div" and self.graph.is_constant(node.inputs[0]))
        ):
            raise node.refuse(f"is not read; {_INSTEAD[node.op]}")
        with np.errstate(divide="ignore"):
            values = self.by_channel(node)
            self.on_input(node, values if node.op == "Mul" else 1 / values, np.zeros(1))

    def transpose(self, node: Node) -> None:
        """An input (N, H, W, C), as other frameworks have it."""
        if not self.reads_input(node) or node.attributes.get("perm") != (0, 3, 1, 2):
            raise node.refuse(f"is not read; {_INSTEAD[node.op]}")
        height, width, channels = self.shape
        self.shape = (channels, height, width)
        self.scale, self.shift = self.scale.transpose(2, 0, 1), self.shift.transpose(2, 0, 1)
        self.same(node, self.graph.input)

    def softmax(self, node: Node) -> None:
        """At the end it changes no decision."""
        source = self.source(node)
        follower = self.reader.get(node.outputs[0])
        closing = follower is None or (follower.op == "Identity" and follower.outputs[0] == self.graph.output)
        if not closing or len(self.shape_of(source)) != 1 or node.attributes.get("axis", -1) not in (1, -1):
            raise node.refuse(f"is not read; {_INSTEAD[node.op]}")
        self.notes.append(
            f"the closing {node.op} is left out: the scores are those before it, the decision is the same"
        )
        self.same(node, source)

    def sub(self, node: Node) -> None:
        if self.reads_input(node):
            if self.graph.is_constant(node.inputs[0]):
                raise node.refuse("of the input from a constant turns it around; export the network without")
            self.on_input(node, np.ones(1), -self.by_channel(node))
            return
        source = self.source(node)
        follower = self.reader.get(node.outputs[0])
        if follower is None or follower.op != "Greater" or self.uses[node.outputs[0]] != 1:
            raise node.refuse("is read of the input, or before Greater, as a threshold, only")
        self.put(node, Compare(self.scalar(node)), (source,), self.shape_of(source))

    def greater(self, node: Node) -> None:
        source, level = self.source(node), self.scalar(node)
        shifted: Compare | None = self.before(source, Compare)
        if shifted is not None and shifted.level is None:
            self.join(node, source, replace(shifted, level=level))
        else:
            self.put(node, Compare(0.0, level), (source,), self.shape_of(source))

    def converted(self, node: Node) -> type[Any]:
        """The type that constants are cast to."""
        to = node.attributes.get("to")
        if to != _INT64 and to not in _FLOATS:
            raise node.refuse(f"of a constant to type {to}; real numbers and int64 are read")
        return np.int64 if to == _INT64 else np.float32

    def cast(self, node: Node) -> None:
        if node.inputs and node.inputs[0] in self.sizes:
            self.sizes[node.outputs[0]] = self.sizes[node.inputs[0]]
            return
        if node.inputs and self.graph.is_constant(node.inputs[0]):
            values = self.graph.constant(node.inputs[0], node)
            self.graph.define(node.outputs[0], values.astype(self.converted(node)))
            return
        source = self.source(node)
        if source == self.graph.input and node.attributes.get("to") in _FLOATS:
            self.same(node, source)
            return
        fires: Compare | None = self.before(source, Compare)
        if fires is None or fires.level is None or node.attributes.get("to") not in _FLOATS:
            raise node.refuse("is read behind Greater, to real numbers, only")
        threshold = fires.shift + fires.level
        if not 0 < threshold < math.inf:
            raise node.refuse(f"behind a threshold of {threshold:g}; thresholds are positive")
        self.join(node, source, Neuron(node.name, threshold))

    def pool(self, node: Node) -> None:
        source = self.source(node)
        channels, *sides = self.image(node, source)
        kernel = self.square(node, "kernel_shape", 1)
        stride, padding, dilation = (
            self.square(node, "strides", 1),
            self.padding(node),
            self.square(node, "dilations", 1),
        )
        if any(node.outputs[1:]) or dilation != 1:
            raise node.refuse("with dilation or indices; plain windows are read")
        rest = any((side + 2 * padding - kernel) % stride for side in sides)
        if node.attributes.get("ceil_mode", 0) and rest:
            raise node.refuse("with ceil_mode and windows beyond the image; use ceil_mode=False")
        if node.op == "AveragePool":
            if stride != kernel or padding or kernel < 2:
                raise node.refuse(f"with kernel {kernel}, stride {stride}, padding {padding}; stride = kernel is read")
            item = Pool(node.name, "avg", kernel, kernel)
        else:
            if 2 * padding > kernel:
                raise node.refuse(f"with padding {padding}, more than half of its kernel {kernel}")
            item = Pool(node.name, "max", kernel, stride, padding)
        self.put(node, item, (source,), (channels, *self.windows(node, sides, kernel, stride, padding)))

    def global_pool(self, node: Node) -> None:
        source = self.source(node)
        channels, *_ = self.image(node, source)
        keep = 1
        if node.op == "ReduceMean":
            axes = node.attributes.get("axes", ())
            if len(node.inputs) > 1 and node.inputs[1]:
                axes = tuple(int(axis) for axis in self.graph.constant(node.inputs[1], node).reshape(-1)[:8])
            if not isinstance(axes, tuple) or {axis % 4 for axis in axes} != {2, 3}:
                raise node.refuse(f"over axes {axes}; over height and width (2, 3) is read")
            keep = node.attributes.get("keepdims", 1)
        self.put(node, Pool(node.name, "global"), (source,), (channels, 1, 1) if keep else (channels,))

    def flatten(self, node: Node) -> None:
        source = self.source(node)
        shape = self.shape_of(source)
        count = math.prod(shape)
        target: list[int | None]
        if node.op == "Flatten":
            if node.attributes.get("axis", 1) not in (1, -len(shape)):
                raise node.refuse("with another axis than 1")
            target = [None, count]
        elif node.op == "Squeeze":
            axes = node.attributes.get("axes", ())
            if len(node.inputs) > 1:
                axes = tuple(int(axis) for axis in self.graph.constant(node.inputs[1], node).reshape(-1)[:8])
            if node.inputs[0] in self.widened and axes in ((2,), (-1,)):
                self.same(node, source)
                return
            if not isinstance(axes, tuple) or {axis % 4 for axis in axes} != {2, 3} or shape[1:] != (1, 1):
                raise node.refuse(f"of axes {axes} of {shape} a sample; (2, 3) of a 1x1 image is read")
            target = [None, count]
        else:
            target = self.target(node, shape)
        if len(target) == len(shape) + 1 and target[1:] == list(shape):
            self.same(node, source)
        elif target == [None, count]:
            if (pool := self.before(source, Pool)) and pool.kind == "global":
                made = self.made.pop(source)
                self.made[node.outputs[0]] = replace(made, shape=(count,))
            else:
                self.put(node, Flat(node.name), (source,), (count,))
        else:
            raise node.refuse(
                f"of {shape} a sample to {['N' if side is None else side for side in target]}; (N, -1) is read"
            )

    def target(self, node: Node, shape: tuple[int, ...]) -> list[int | None]:
        """The shape that a Reshape gives, None for the batch."""
        name = node.inputs[1] if len(node.inputs) > 1 else ""
        if name in self.sizes:
            asked = list(self.sizes[name])
        else:
            asked = [int(side) for side in self.graph.constant(name, node).reshape(-1)[:8]]
        whole = [None, *shape]
        if not node.attributes.get("allowzero", 0):
            asked = [whole[place] if side == 0 and place < len(whole) else side for place, side in enumerate(asked)]
        if asked and asked[0] == self.graph.dims[0]:
            asked[0] = None
        count = math.prod(shape)
        if asked and asked[0] is None and asked.count(-1) == 1:
            rest = math.prod(side for side in asked[1:] if side is not None and side > 0)
            asked = [count // max(rest, 1) if side == -1 else side for side in asked]
        elif asked and asked[0] == -1 and math.prod(side or 0 for side in asked[1:]) == count:
            asked[0] = None
        return asked

    def computed(self, node: Node) -> None:
        """Shapes that the graph computes for Reshape: Shape, Gather, Slice, Concat, Unsqueeze, Squeeze."""
        if node.op == "Shape":
            whole: list[int | None] = [None, *self.shape_of(self.source(node))]
            self.sizes[node.outputs[0]] = whole[node.attributes.get("start", 0) : node.attributes.get("end")]
        elif node.op == "Concat":
            parts: list[int | None] = []
            for name in node.inputs:
                if name in self.sizes:
                    parts += self.sizes[name]
                elif self.graph.is_constant(name):
                    parts += [int(side) for side in self.graph.constant(name, node).reshape(-1)[:8]]
                else:
                    raise node.refuse("of activations is not read; nor is it needed in a chain or a residual network")
                if len(parts) > 8:
                    raise node.refuse("of more than 8 numbers")
            self.sizes[node.outputs[0]] = parts
        elif node.op == "Unsqueeze" and node.inputs and self.graph.is_constant(node.inputs[0]):
            self.sizes[node.outputs[0]] = [
                int(side) for side in self.graph.constant(node.inputs[0], node).reshape(-1)[:8]
            ]
        elif node.op == "Unsqueeze" and node.inputs and node.inputs[0] not in self.sizes:
            source, axes = self.source(node), node.attributes.get("axes", ())
            if len(node.inputs) > 1:
                axes = tuple(int(axis) for axis in self.graph.constant(node.inputs[1], node).reshape(-1)[:8])
            if len(self.shape_of(source)) != 1 or axes not in ((2,), (-1,)):
                raise node.refuse(f"of axes {axes} is not read; (2,) of features is, before a 1-d batch norm")
            self.widened.add(node.outputs[0])
            self.same(node, source)
        elif not node.inputs or node.inputs[0] not in self.sizes:
            raise node.refuse("is read in the computation of a shape only")
        elif node.op == "Unsqueeze":
            self.sizes[node.outputs[0]] = self.sizes[node.inputs[0]]
        else:
            limits = [self.graph.constant(name, node).reshape(-1) for name in node.inputs[1:] if name]
            known = self.sizes[node.inputs[0]]
            if (
                node.op == "Gather"
                and len(limits) == 1
                and limits[0].size == 1
                and -len(known) <= limits[0][0] < len(known)
            ):
                self.sizes[node.outputs[0]] = [known[int(limits[0][0])]]
            elif node.op == "Slice" and 2 <= len(limits) <= 4 and all(limit.size == 1 for limit in limits):
                if any(int(step[0]) != 1 for step in limits[3:]):
                    raise node.refuse("with a step other than 1")
                self.sizes[node.outputs[0]] = known[int(limits[0][0]) : int(limits[1][0])]
            else:
                raise node.refuse("with other inputs than a shape and constants")

    def pad(self, node: Node) -> None:
        """Of nothing, as old exporters write it before AveragePool."""
        pads = node.attributes.get("pads", ())
        if len(node.inputs) > 1 and node.inputs[1]:
            pads = self.graph.constant(node.inputs[1], node).reshape(-1)
        if len(pads) == 0 or np.any(pads):
            raise node.refuse(f"is not read; {_INSTEAD[node.op]}")
        self.same(node, self.source(node))

    def nothing(self, node: Node) -> None:
        if node.op == "Dropout":
            if len(node.inputs) > 2 and node.inputs[2] and bool(self.graph.constant(node.inputs[2], node).any()):
                raise node.refuse("in training mode; call eval() before the export")
            if any(self.uses[name] for name in node.outputs[1:]):
                raise node.refuse("whose mask is read")
        self.same(node, self.source(node))

    MAKE: dict[str, Callable[[Nodes, Node], None]] = {  # noqa: RUF012  (never changed)
        "Conv": conv,
        "Gemm": gemm,
        "MatMul": gemm,
        "BatchNormalization": norm,
        "Add": add,
        "Relu": relu,
        "Sub": sub,
        "Mul": normalize,
        "Div": normalize,
        "Transpose": transpose,
        "Softmax": softmax,
        "LogSoftmax": softmax,
        "Greater": greater,
        "Cast": cast,
        "AveragePool": pool,
        "MaxPool": pool,
        "GlobalAveragePool": global_pool,
        "ReduceMean": global_pool,
        "Flatten": flatten,
        "Reshape": flatten,
        "Squeeze": flatten,
        "Shape": computed,
        "Gather": computed,
        "Slice": computed,
        "Concat": computed,
        "Unsqueeze": computed,
        "Pad": pad,
        "Identity": nothing,
        "Dropout": nothing,
    }

    def _put_node(self, node: Node) -> None:
        make = self.MAKE.get(node.op)
        if make is None:
            raise node.refuse(f"is not read; {_INSTEAD.get(node.op, f'what is read: {_KNOWN}')}")
        if not node.outputs or not node.outputs[0]:
            raise InputError(f"node '{node.name}': {node.op} makes nothing; the file is damaged")
        make(self, node)
