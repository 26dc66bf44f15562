"""The nodes of an ONNX graph, in their order, as items of a plain network: shapes checked, nodes joined.

A bias added after a product becomes the product's, batch norm joins the layer before it, `x - c > d` and its cast
become one threshold. What a network of ours has no layer for is refused by node name and type.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from snn2chip.formats.onnx.items import Flat, Neuron, Norm, Pool, Weighted
from snn2chip.formats.onnx.read_file import OnnxNode, TrainedGraph, judged
from snn2chip.formats.onnx.read_values import SHAPE, Compare, Sum, Values, finite
from snn2chip.text import one_line

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
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


class Nodes(Values):
    """All nodes put in their order. `largest` is the most values of one activation."""

    def __init__(self, graph: TrainedGraph) -> None:
        super().__init__(graph)
        for node in graph.nodes:
            self._put_node(node)
        self.largest = max(map(math.prod, self.shapes.values()))

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
        finite(node, norm.variance)
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
        if node.op not in _FOLDED or (node.op != "Cast" and sum(value.size for value in values.values()) > 4 * SHAPE):
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
