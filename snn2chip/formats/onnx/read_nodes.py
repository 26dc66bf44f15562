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
from onnx import TensorProto, defs, helper, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

from snn2chip.errors import InputError, UnsupportedError
from snn2chip.formats.onnx.items import Flat, FloatArray, Item, Neuron, Norm, Pool, Weighted
from snn2chip.formats.onnx.read_file import MOST_VALUES, OnnxNode, TrainedGraph, judged
from snn2chip.text import one_line

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
_BATCH = 2**31 - 1  # a prime beyond every other side
_SHAPE = 8  # the most numbers of a shape
_FOLDED = ("Cast", "Gather", "Slice", "Concat", "Unsqueeze", "Squeeze", "Reshape", "Add", "Sub", "Mul", "Div")
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
    """A value of the graph: what makes it, and of what."""

    node: OnnxNode
    item: Item | Sum | Compare
    sources: tuple[str, ...]


def _finite(node: OnnxNode, *arrays: NDArray[Any]) -> None:
    if not all(np.isfinite(array).all() for array in arrays):
        raise node.damaged("gives values that are not finite; train again")


class Nodes:
    """The graph's activations: `made` by name, with `same` ones under one name. `largest` is the most values of one."""

    def __init__(self, graph: TrainedGraph) -> None:
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
        self.batch = max(0, graph.dims[0] or 0) or _BATCH
        self.shapes: dict[str, tuple[int, ...]] = {graph.input: self.shape}  # of activations, without the batch
        self.alias: dict[str, str] = {}
        self.made: dict[str, Made] = {}
        self.uses = Counter(name for node in graph.nodes for name in node.inputs)
        self.uses[graph.output] += 1
        self.reader = {name: node for node in graph.nodes for name in node.inputs}
        self.weights = 0
        self.scale, self.shift = np.ones((1, 1, 1)), np.zeros((1, 1, 1))  # of the input, in the order of its axes
        self.notes = list(graph.notes)
        for node in graph.nodes:
            self._put_node(node)
        self.largest = max(map(math.prod, self.shapes.values()))

    # ---------------------------------------------------------------------------------------- the nodes, in order

    def source(self, node: OnnxNode, place: int = 0) -> str:
        """The value that a node reads, which must be an activation."""
        name = self.alias.get(node.inputs[place], node.inputs[place])
        if name != self.graph.input and name not in self.made:
            raise node.refuse(f"reads '{one_line(name)}', which is no activation of the network")
        return name

    def shape_of(self, node: OnnxNode, place: int = 0) -> tuple[int, ...]:
        """The shape, without the batch, of an activation that a node reads."""
        self.source(node, place)
        return self.shapes[node.inputs[place]]

    def infer(self, node: OnnxNode) -> tuple[int, ...]:
        """The shape of what a node gives, without the batch, by onnx's own rules.

        A batch that is not fixed has the length `_BATCH`, which no other side has: so it is known again wherever a
        node turns a shape into another.
        """
        types, data = {}, {}
        for name in filter(None, node.inputs):
            values = None if name in self.shapes else self.graph.constant(name, node)
            shape = (self.batch, *self.shapes[name]) if values is None else values.shape
            types[name] = helper.make_tensor_type_proto(TensorProto.FLOAT, shape)
            if values is not None and values.dtype == np.int64 and values.size <= _SHAPE:
                types[name].tensor_type.elem_type = TensorProto.INT64
                data[name] = numpy_helper.from_array(values)
        opsets = [helper.make_opsetid("", self.graph.opset)]
        schema = defs.get_schema(node.op, self.graph.opset)
        with judged(node.unfit):
            found = shape_inference.infer_node_outputs(schema, node.proto, types, data, opset_imports=opsets)
        sides = found[node.outputs[0]].tensor_type.shape.dim if node.outputs[0] in found else ()
        whole = [side.dim_value for side in sides]
        if not whole or whole[0] != self.batch or min(whole) < 1:
            asked = ["N" if side == self.batch else side for side in whole]
            raise node.refuse(f"of {self.shape_of(node)} a sample to {asked}; (N, ...) is read")
        shape = tuple(whole[1:])
        if math.prod(shape) > MOST_VALUES:
            raise node.damaged(f"gives {shape}, more than {MOST_VALUES:,} values")
        self.shapes[node.outputs[0]] = shape
        return shape

    def put(self, node: OnnxNode, item: Item | Sum | Compare, *sources: str) -> None:
        """What a node makes of its sources."""
        self.infer(node)
        self.made[node.outputs[0]] = Made(node, item, sources)

    def same(self, node: OnnxNode, source: str) -> None:
        """The output is the input."""
        self.infer(node)
        self.alias[node.outputs[0]] = source
        self.uses[source] += self.uses[node.outputs[0]] - 1

    def before(self, source: str, kind: type[Any]) -> Any:
        """The item that makes `source`, if it is of that kind and nobody else reads it."""
        made = self.made.get(source)
        return made.item if made and isinstance(made.item, kind) and self.uses[source] == 1 else None

    def join(self, node: OnnxNode, source: str, item: Item | Compare) -> None:
        """`item` in the place of what makes `source`, under the new name."""
        self.infer(node)
        self.made[node.outputs[0]] = replace(self.made.pop(source), item=item)

    def square(self, node: OnnxNode, key: str, default: int) -> int:
        values = node.attributes.get(key, (default, default))
        if len(values) != 2 or values[0] != values[1]:
            raise node.refuse(f"with {key} {values}; the same for height and width is read")
        if not default <= values[0] <= MOST_VALUES:
            raise node.refuse(f"with {key} {values[0]}, outside {default}..{MOST_VALUES}")
        return int(values[0])

    def padding(self, node: OnnxNode) -> int:
        pads = node.attributes.get("pads", (0, 0, 0, 0))
        auto = node.attributes.get("auto_pad", "NOTSET")
        if auto not in ("NOTSET", "VALID"):
            raise node.refuse(f"with auto_pad '{one_line(auto)}'; export with explicit padding")
        if auto == "VALID":
            return 0
        if len(pads) != 4 or len(set(pads)) != 1:
            raise node.refuse(f"with pads {pads}; the same on all four sides is read")
        if not 0 <= pads[0] <= 2**16:
            raise node.refuse(f"with padding {pads[0]}, outside 0..{2**16}")
        return int(pads[0])

    def axes(self, node: OnnxNode) -> tuple[int, ...]:
        """As an attribute, or in newer opsets an input."""
        if len(node.inputs) > 1 and node.inputs[1]:
            return tuple(int(axis) for axis in self.graph.constant(node.inputs[1], node).reshape(-1)[:_SHAPE])
        axes: tuple[int, ...] = node.attributes.get("axes", ())
        return axes

    def image(self, node: OnnxNode) -> tuple[int, int, int]:
        shape = self.shape_of(node)
        if len(shape) != 3:
            raise node.refuse(f"reads {shape} a sample; it needs an image (C, H, W)")
        return shape[0], shape[1], shape[2]

    def weight(self, node: OnnxNode, name: str) -> NDArray[np.float32]:
        found = self.graph.constant(name, node)
        if found.dtype != np.float32:
            raise node.refuse(f"has weights '{one_line(name)}' of integers; networks of real numbers are read")
        self.weights += found.size
        if self.weights > MOST_VALUES:
            raise InputError(f"node '{node.name}': the network has more than {MOST_VALUES:,} weights")
        return found

    def vector(self, node: OnnxNode, name: str, size: int, *, spread: bool = False) -> FloatArray:
        """A constant of one value a channel; with `spread` also of one value for all, in any number of dimensions."""
        values = self.weight(node, name)
        fits = values.size == size and (spread or values.ndim == 1)
        if not fits and not (spread and values.size == 1):
            raise node.damaged(f"with '{one_line(name)}' of shape {values.shape}, not ({size},)")
        return np.broadcast_to(values.reshape(-1), (size,)).astype(np.float64)

    def conv(self, node: OnnxNode) -> None:
        source, (channels, *sides) = self.source(node), self.image(node)
        weight, groups = self.weight(node, node.inputs[1]), node.attributes.get("group", 1)
        if weight.ndim != 4 or weight.shape[2] != weight.shape[3]:
            raise node.refuse(f"with weights of shape {weight.shape}; square kernels over height and width are read")
        if groups < 1 or weight.shape[0] % groups or weight.shape[1] * groups != channels:
            raise node.damaged(
                f"with weights {weight.shape} and {groups} groups does not fit its input {(channels, *sides)}"
            )
        kernel, padding = weight.shape[2], self.padding(node)
        if min(weight.shape) < 1 or node.attributes.get("kernel_shape", (kernel, kernel)) != (kernel, kernel):
            raise node.damaged(f"with weights {weight.shape} and another kernel_shape")
        stride, dilation = self.square(node, "strides", 1), self.square(node, "dilations", 1)
        self.fit(node, sides, dilation * (kernel - 1) + 1, padding)
        bias = self.vector(node, node.inputs[2], weight.shape[0]) if len(node.inputs) > 2 and node.inputs[2] else None
        self.put(node, Weighted(node.name, weight, bias, None, stride, padding, dilation, groups), source)

    def fit(self, node: OnnxNode, sides: list[int], reach: int, padding: int) -> None:
        if min(sides) + 2 * padding < reach:
            raise node.damaged(f"of reach {reach} does not fit its input of {sides}")

    def gemm(self, node: OnnxNode) -> None:
        """Gemm and MatMul."""
        shape, said = self.shape_of(node), node.attributes
        if len(shape) != 1:
            raise node.refuse(f"reads {shape} a sample; flatten before it")
        if said.get("transA", 0):
            raise node.refuse("with transA; only the weights may be transposed")
        weight = self.weight(node, node.inputs[1])
        alpha, beta = said.get("alpha", 1.0), said.get("beta", 1.0)
        if (alpha, beta) != (1.0, 1.0):
            raise node.refuse(f"with alpha {alpha} and beta {beta}; 1 is read")
        weight = weight if said.get("transB", 0) else weight.T
        if weight.ndim != 2 or weight.shape[1] != shape[0] or weight.shape[0] < 1:
            raise node.damaged(f"with weights {weight.shape} does not fit {shape[0]} features")
        given = node.inputs[2] if len(node.inputs) > 2 else ""
        bias = self.vector(node, given, weight.shape[0], spread=True) if given else None
        self.put(node, Weighted(node.name, weight, bias), self.source(node))

    def norm(self, node: OnnxNode) -> None:
        source = self.source(node)
        if node.attributes.get("training_mode", 0) or any(node.outputs[1:]):
            raise node.refuse("in training mode; call eval() before the export")
        channels = self.shape_of(node)[0]
        gamma, beta, mean, variance = (self.vector(node, name, channels) for name in node.inputs[1:])
        eps = node.attributes.get("epsilon", 1e-5)
        if not (variance + eps > 0).all() or (variance < 0).any():
            raise node.damaged(f"with a negative variance, or one of 0 with epsilon {eps}")
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
            self.put(node, norm, source)

    def add(self, node: OnnxNode) -> None:
        """A bias, the input's normalization, or the end of a block."""
        constants = [name for name in node.inputs if self.graph.is_constant(name)]
        if constants and self.reads_input(node):
            self.on_input(node, np.ones(1), self.by_channel(node))
        elif constants:
            place = 1 if node.inputs[0] == constants[0] else 0
            source, shape = self.source(node, place), self.shape_of(node, place)
            layer: Weighted | None = self.before(source, Weighted)
            if layer is None or layer.norm is not None or layer.bias is not None:
                raise node.refuse("of a constant; only a bias right behind a product without one is read")
            given = self.graph.constant(constants[0], node).shape
            wanted = (shape[0], *(1,) * (len(shape) - 1))
            trimmed = given[1:] if len(given) == len(wanted) + 1 and given[0] == 1 else given
            if trimmed != wanted and math.prod(given) != 1:
                raise node.refuse(f"of a constant of shape {given}; a bias of shape {wanted} is read")
            self.join(node, source, replace(layer, bias=self.vector(node, constants[0], shape[0], spread=True)))
        else:
            first, second = self.shape_of(node), self.shape_of(node, 1)
            if first != second:
                raise node.damaged(f"of {first} and {second} a sample; they must be the same")
            self.put(node, Sum(), self.source(node), self.source(node, 1))

    def relu(self, node: OnnxNode) -> None:
        self.put(node, Neuron(node.name), self.source(node))

    def scalar(self, node: OnnxNode) -> float:
        values = self.graph.constant(node.inputs[1] if len(node.inputs) == 2 else "", node)
        if values.size != 1:
            raise node.refuse(f"with a constant of shape {values.shape}; one threshold a layer is read")
        return float(values.reshape(-1)[0])

    def reads_input(self, node: OnnxNode) -> bool:
        """Whether a node reads the network's input, which nobody else reads, beside constants."""
        names = [name for name in node.inputs if name and not self.graph.is_constant(name)]
        return [self.alias.get(name, name) for name in names] == [self.graph.input] and (
            self.uses[self.graph.input] == 1
        )

    def by_channel(self, node: OnnxNode) -> FloatArray:
        """The constant that a node has beside the input, with the input's three axes; none may differ by pixel."""
        name = next(name for name in node.inputs if self.graph.is_constant(name))
        values = self.weight(node, name).astype(np.float64)
        if values.ndim > 4 or math.prod(values.shape[:-3]) != 1:
            raise node.refuse(f"with a constant of shape {values.shape}; one value a channel is read")
        values = values.reshape((1, 1, 1, *values.shape)[-3:])
        if any(side not in (1, mine) for side, mine in zip(values.shape, self.shape, strict=True)):
            raise node.refuse(f"with a constant of shape {values.shape} for an input {self.shape}")
        return values

    def on_input(self, node: OnnxNode, scale: FloatArray, shift: FloatArray) -> None:
        """``scale x + shift`` of what the input has become so far."""
        if not ((scale > 0) & np.isfinite(scale)).all():
            raise node.refuse("of the input by numbers that are not positive; a normalization has a positive std")
        self.scale, self.shift = self.scale * scale, self.shift * scale + shift
        _finite(node, self.scale, self.shift)
        self.same(node, self.graph.input)

    def normalize(self, node: OnnxNode) -> None:
        """Mul and Div, which only normalize the input."""
        if not self.reads_input(node) or (node.op == "Div" and self.graph.is_constant(node.inputs[0])):
            raise node.refuse(f"is not read; {_INSTEAD[node.op]}")
        with np.errstate(divide="ignore"):
            values = self.by_channel(node)
            self.on_input(node, values if node.op == "Mul" else 1 / values, np.zeros(1))

    def transpose(self, node: OnnxNode) -> None:
        """An input (N, H, W, C), as other frameworks have it."""
        if not self.reads_input(node) or node.attributes.get("perm") != (0, 3, 1, 2):
            raise node.refuse(f"is not read; {_INSTEAD[node.op]}")
        self.same(node, self.graph.input)
        self.shape = self.shapes[node.outputs[0]]
        self.scale, self.shift = self.scale.transpose(2, 0, 1), self.shift.transpose(2, 0, 1)

    def softmax(self, node: OnnxNode) -> None:
        """At the end it changes no decision."""
        follower = self.reader.get(node.outputs[0])
        closing = follower is None or (follower.op == "Identity" and follower.outputs[0] == self.graph.output)
        if not closing or len(self.shape_of(node)) != 1 or node.attributes.get("axis", -1) not in (1, -1):
            raise node.refuse(f"is not read; {_INSTEAD[node.op]}")
        self.notes.append(
            f"the closing {node.op} is left out: the scores are those before it, the decision is the same"
        )
        self.same(node, self.source(node))

    def sub(self, node: OnnxNode) -> None:
        if self.reads_input(node):
            if self.graph.is_constant(node.inputs[0]):
                raise node.refuse("of the input from a constant turns it around; export the network without")
            self.on_input(node, np.ones(1), -self.by_channel(node))
            return
        follower = self.reader.get(node.outputs[0])
        if follower is None or follower.op != "Greater" or self.uses[node.outputs[0]] != 1:
            raise node.refuse("is read of the input, or before Greater, as a threshold, only")
        self.put(node, Compare(self.scalar(node)), self.source(node))

    def greater(self, node: OnnxNode) -> None:
        source, level = self.source(node), self.scalar(node)
        shifted: Compare | None = self.before(source, Compare)
        if shifted is not None and shifted.level is None:
            self.join(node, source, replace(shifted, level=level))
        else:
            self.put(node, Compare(0.0, level), source)

    def cast(self, node: OnnxNode) -> None:
        source, real = self.source(node), node.attributes["to"] in _FLOATS
        if source == self.graph.input and real:
            self.same(node, source)
            return
        fires: Compare | None = self.before(source, Compare)
        if fires is None or fires.level is None or not real:
            raise node.refuse("is read behind Greater, to real numbers, only")
        threshold = fires.shift + fires.level
        if not 0 < threshold < math.inf:
            raise node.refuse(f"behind a threshold of {threshold:g}; thresholds are positive")
        self.join(node, source, Neuron(node.name, threshold))

    def pool(self, node: OnnxNode) -> None:
        source, sides = self.source(node), list(self.image(node)[1:])
        kernel, padding = self.square(node, "kernel_shape", 1), self.padding(node)
        stride, dilation = self.square(node, "strides", 1), self.square(node, "dilations", 1)
        if any(node.outputs[1:]) or dilation != 1:
            raise node.refuse("with dilation or indices; plain windows are read")
        self.fit(node, sides, kernel, padding)
        rest = any((side + 2 * padding - kernel) % stride for side in sides)
        if node.attributes.get("ceil_mode", 0) and rest:
            raise node.refuse("with ceil_mode and windows beyond the image; use ceil_mode=False")
        if node.op == "AveragePool":
            if stride != kernel or padding or kernel < 2:
                raise node.refuse(f"with kernel {kernel}, stride {stride}, padding {padding}; stride = kernel is read")
        elif 2 * padding > kernel:
            raise node.refuse(f"with padding {padding}, more than half of its kernel {kernel}")
        self.put(node, Pool(node.name, "avg" if node.op == "AveragePool" else "max", kernel, stride, padding), source)

    def global_pool(self, node: OnnxNode) -> None:
        self.image(node)
        axes = self.axes(node) if node.op == "ReduceMean" else (2, 3)
        if {axis % 4 for axis in axes} != {2, 3}:
            raise node.refuse(f"over axes {axes}; over height and width (2, 3) is read")
        self.put(node, Pool(node.name, "global"), self.source(node))

    def reshape(self, node: OnnxNode) -> None:
        """Flatten, Reshape, Squeeze and Unsqueeze: to features, or nothing but an axis of length 1 behind them."""
        source, old, new = self.source(node), self.shape_of(node), self.infer(node)
        if new == old or (len(old) + len(new) == 3 and math.prod(old) == old[0] == new[0] == math.prod(new)):
            self.same(node, source)
        elif new != (math.prod(old),):
            raise node.refuse(f"of {old} a sample to {new}; (N, -1) is read")
        elif (pool := self.before(source, Pool)) and pool.kind == "global":
            self.join(node, source, pool)
        else:
            self.put(node, Flat(node.name), source)

    def of_shapes(self, node: OnnxNode) -> None:
        """What computes the shape that Reshape takes; but for Shape it is computed from constants (`_put_node`)."""
        if node.op != "Shape":
            raise node.refuse("of activations is not read; nor is it needed in a chain or a residual network")
        whole = np.array([self.batch, *self.shape_of(node)])
        self.graph.define(node, whole[node.attributes.get("start", 0) : node.attributes.get("end")])

    def fold(self, node: OnnxNode) -> None:
        """What a node makes of constants, by onnx's own evaluator: the cast of a weight, or part of a shape."""
        values = {name: self.graph.constant(name, node) for name in node.inputs if name}
        if node.op not in _FOLDED or (node.op != "Cast" and sum(value.size for value in values.values()) > 4 * _SHAPE):
            raise node.refuse("of constants is not read; export with constant folding")
        inputs, outputs = (
            [helper.make_tensor_value_info(name, 0, None) for name in names] for names in (values, node.outputs)
        )
        graph = helper.make_graph([node.proto], "constants", inputs, outputs)
        with judged(node.unfit), np.errstate(all="ignore"):
            whole: Any = ReferenceEvaluator(graph, {"": self.graph.opset}).run(None, values)
            found = np.asarray(whole[0])
        if found.dtype.kind not in "fi":
            raise node.refuse(f"of a constant to {found.dtype}; real numbers and int64 are read")
        self.graph.define(node, found.astype(np.float32 if found.dtype.kind == "f" else np.int64))

    def pad(self, node: OnnxNode) -> None:
        """Of nothing, as old exporters write it before AveragePool."""
        pads = node.attributes.get("pads", ())
        if len(node.inputs) > 1:
            pads = self.graph.constant(node.inputs[1], node).reshape(-1)
        if len(pads) == 0 or np.any(pads):
            raise node.refuse(f"is not read; {_INSTEAD[node.op]}")
        self.same(node, self.source(node))

    def nothing(self, node: OnnxNode) -> None:
        if node.op == "Dropout":
            if len(node.inputs) > 2 and node.inputs[2] and bool(self.graph.constant(node.inputs[2], node).any()):
                raise node.refuse("in training mode; call eval() before the export")
            if any(self.uses[name] for name in node.outputs[1:]):
                raise node.refuse("whose mask is read")
        self.same(node, self.source(node))

    MAKE: dict[str, Callable[[Nodes, OnnxNode], None]] = {  # noqa: RUF012  (never changed)
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
        "Flatten": reshape,
        "Reshape": reshape,
        "Squeeze": reshape,
        "Shape": of_shapes,
        "Gather": of_shapes,
        "Slice": of_shapes,
        "Concat": of_shapes,
        "Unsqueeze": reshape,
        "Pad": pad,
        "Identity": nothing,
        "Dropout": nothing,
    }

    def _put_node(self, node: OnnxNode) -> None:
        make = self.MAKE.get(node.op)
        if not node.outputs or not node.outputs[0]:
            raise node.damaged("makes nothing; the file is damaged")
        if node.op == "Constant":
            ((kind, value),) = node.attributes.items()
            if kind not in ("value", "value_float", "value_floats", "value_int", "value_ints"):
                raise node.refuse(f"with '{one_line(kind)}', which is not read")
            if kind != "value":
                value = np.array(value, np.float32 if "float" in kind else np.int64)
            self.graph.define(node, value)
        elif make is None:
            raise node.refuse(f"is not read; {_INSTEAD.get(node.op, f'what is read: {_KNOWN}')}")
        elif node.op == "Identity" and self.graph.is_constant(node.inputs[0]):
            self.graph.rename(node)
        elif all(self.graph.is_constant(name) for name in node.inputs if name):
            self.fold(node)
        else:
            make(self, node)
