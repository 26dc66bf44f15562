"""A small builder of ONNX graphs, and what integer and float networks say alike in them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

import snn2chip
from snn2chip.errors import InputError, SetupError
from snn2chip.files import atomic_path
from snn2chip.ir import Constant, Conv, Dense, Layer, Shape

try:
    import onnx
    from onnx import helper, numpy_helper
except ImportError as error:
    raise SetupError(
        f"ONNX needs the package onnx, which cannot be imported ({error}); pip install 'snn2chip[onnx]'"
    ) from None

OPSET = 18  # the first whose Split takes a number of parts; ONNX Runtime 1.14 and later know it
IR_VERSION = 8  # the file format of that opset's time, which old readers take too
BATCH = "N"
MOST_BYTES = 2**31 - 1  # protobuf's limit


def element_type(dtype: DTypeLike) -> int:
    """ONNX's number of a numpy type."""
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


class Graph:
    """Nodes in the order in which they run, and constants; a body shares the names and constants of its outer graph."""

    def __init__(self, outer: Graph | None = None) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, NDArray[Any]] = {} if outer is None else outer.constants
        self._names: set[str] = set() if outer is None else outer._names

    def name(self, wanted: str) -> str:
        """`wanted`, or what is free beside it."""
        free, number = wanted, 1
        while free in self._names:
            number += 1
            free = f"{wanted}#{number}"
        self._names.add(free)
        return free

    def ops(self, kind: str, inputs: Sequence[str], names: Sequence[str], node: str, **attributes: Any) -> list[str]:
        """Add a node of several outputs; gives their names."""
        outputs = [self.name(wanted) for wanted in names]
        self.put(kind, inputs, outputs, node, **attributes)
        return outputs

    def op(self, kind: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        """Add a node of one output, which is named as the node; gives that name."""
        free = self.name(name)
        self.put(kind, inputs, [free], free, **attributes)
        return free

    def put(self, kind: str, inputs: Sequence[str], outputs: Sequence[str], node: str, **attributes: Any) -> None:
        """Add a node whose outputs are named already."""
        self.nodes.append(helper.make_node(kind, list(inputs), list(outputs), name=node, **attributes))

    def cast(self, value: str, dtype: DTypeLike, name: str) -> str:
        """Another type: fixed point that does not fit loses its high bits, as the standard says."""
        return self.op("Cast", [value], name, to=element_type(dtype))

    def zeros(self, dimensions: str, dtype: DTypeLike, name: str) -> str:
        """Zeros of a shape that the graph finds out."""
        zero = numpy_helper.from_array(np.zeros(1, dtype))
        return self.op("ConstantOfShape", [dimensions], name, value=zero)

    def constant(self, name: str, values: NDArray[Any]) -> str:
        """An initializer."""
        free = self.name(name)
        self.constants[free] = values
        return free

    def scalar(self, value: float, dtype: DTypeLike = np.int64) -> str:
        """A constant without axes, the same one wherever it is needed."""
        name = f"constant/{np.dtype(dtype).name}/{value}"
        if name not in self.constants:
            self.constant(name, np.asarray(value, dtype))
        return name

    def integers(self, *values: int) -> str:
        """A list of int64, as Reshape wants shapes."""
        name = f"constant/{list(values)}"
        if name not in self.constants:
            self.constant(name, np.asarray(values, np.int64))
        return name


@dataclass(frozen=True)
class Value:
    """A tensor of the network: `timed`, or the same at every step."""

    name: str
    timed: bool


Make = Callable[[Graph, list[str]], str]  # writes what takes these inputs, gives the output's name


def per_channel(values: NDArray[Any], shape: Shape) -> NDArray[Any]:
    """Values (C,) or (T, C) shaped to broadcast over (N, *shape)."""
    return values.reshape(*values.shape, *(1,) * (len(shape) - 1))


def linear(
    graph: Graph,
    node: Conv | Dense | Layer[Constant],
    x: str,
    weight: str,
    bias: str,
    label: str,
    *,
    flatten: bool = False,
) -> str:
    """Convolution or matrix product of x (M, ...), with a bias per channel where it is named."""
    inputs = [x, weight, bias] if bias else [x, weight]
    if node.weight.ndim == 4:
        return graph.op(
            "Conv", inputs, f"{label}/conv", kernel_shape=list(node.weight.shape[2:]), strides=list(node.stride),
            pads=[*node.padding, *node.padding], dilations=list(node.dilation), group=node.groups,
        )  # fmt: skip
    if flatten:
        inputs[0] = graph.op("Flatten", [x], f"{label}/flat", axis=1)
    return graph.op("Gemm", inputs, f"{label}/dense", transB=1)


def info(name: str, dtype: DTypeLike, shape: Sequence[int | str]) -> onnx.ValueInfoProto:
    """What a graph says of an input or output."""
    return helper.make_tensor_value_info(name, element_type(dtype), list(shape))


@dataclass(frozen=True)
class Port:
    """An input or output of the whole graph: (N, *shape)."""

    name: str
    dtype: DTypeLike
    shape: Shape


def input_port(coding: str, low: int, high: int, shape: Shape, timesteps: int) -> Port:
    """`images` (N, C, H, W), or for Poisson coding `spikes` (N, T, C, H, W); bytes if they hold low..high."""
    dtype = np.uint8 if low >= 0 and high <= 255 else np.int32
    return Port("images", dtype, shape) if coding == "direct" else Port("spikes", dtype, (timesteps, *shape))


def about_input(port: Port, low: int, high: int, timesteps: int) -> str:
    """A sentence about the input, for the file."""
    if port.name == "images":
        return f"Input: images (N, C, H, W), integers {low}..{high}, repeated over {timesteps} time steps inside."
    return f"Input: spikes (N, {timesteps}, C, H, W), {low}..{high}: one with probability pixel / pixel_max."


def subgraph(graph: Graph, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]) -> onnx.GraphProto:
    """The body of a Loop."""
    return helper.make_graph(graph.nodes, "step", inputs, outputs)


def _needed(nodes: Sequence[onnx.NodeProto], wanted: set[str]) -> list[onnx.NodeProto]:
    """The nodes that lead to `wanted`, which gets the names of all that they read, also in their bodies."""
    kept: list[onnx.NodeProto] = []
    for node in reversed(nodes):
        if wanted.isdisjoint(node.output):
            continue
        kept.append(node)
        wanted.update(node.input)
        for item in node.attribute:
            if item.HasField("g"):
                wanted.update(name for inner in item.g.node for name in inner.input)
    return kept[::-1]


def model(
    graph: Graph, inputs: Sequence[Port], outputs: Sequence[Port], name: str, about: str, metadata: Mapping[str, Any]
) -> onnx.ModelProto:
    """The finished model, checked; metadata that is not text becomes JSON.

    Raises:
        InputError: it exceeds the 2 GB of a protobuf file.
    """
    wanted = {port.name for port in outputs}
    nodes = _needed(graph.nodes, wanted)
    constants = {key: values for key, values in graph.constants.items() if key in wanted}
    size = sum(values.nbytes for values in constants.values())
    if size > MOST_BYTES:
        raise InputError(f"'{name}' has {size:,} bytes of constants; an ONNX file holds at most {MOST_BYTES:,}")
    made = helper.make_graph(
        nodes,
        name,
        [info(port.name, port.dtype, [BATCH, *port.shape]) for port in inputs],
        [info(port.name, port.dtype, [BATCH, *port.shape]) for port in outputs],
        [numpy_helper.from_array(values, key) for key, values in constants.items()],
        doc_string=about,
    )
    whole = helper.make_model(
        made,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="snn2chip",
        producer_version=snn2chip.__version__,
        doc_string=about,
    )
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}
    helper.set_model_props(whole, texts)
    onnx.checker.check_model(whole, full_check=True)
    return whole


def write(path: str | Path, made: onnx.ModelProto) -> None:
    """Write a model, whole or not at all: what was written is read back before it takes its place.

    Raises:
        InputError: the file cannot be written, or what was written differs when it is read.
    """
    with atomic_path(path) as part:
        part.write_bytes(made.SerializeToString())
        if onnx.load(part) != made:
            raise InputError(f"'{path}' is not written, what was read back differs; try another disk")
