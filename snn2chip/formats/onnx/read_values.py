"""What the nodes of an ONNX graph read and give: activations, their shapes, and sizes and constants in one form."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, defs, helper, numpy_helper, shape_inference

from snn2chip.errors import InputError, UnsupportedError
from snn2chip.formats.onnx.items import FloatArray, Item
from snn2chip.formats.onnx.read_file import MOST_VALUES, OnnxNode, TrainedGraph, judged
from snn2chip.text import one_line

SHAPE = 8  # the most numbers of a shape
_BATCH = 2**31 - 1  # a prime beyond every other side


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


def finite(node: OnnxNode, *arrays: NDArray[Any]) -> None:
    if not all(np.isfinite(array).all() for array in arrays):
        raise node.damaged("gives values that are not finite; train again")


class Values:
    """The activations so far: `made` by name, with `same` ones under one name; and what the input has become."""

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
            if values is not None and values.dtype == np.int64 and values.size <= SHAPE:
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
            return tuple(int(axis) for axis in self.graph.constant(node.inputs[1], node).reshape(-1)[:SHAPE])
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

    def fit(self, node: OnnxNode, sides: list[int], reach: int, padding: int) -> None:
        if min(sides) + 2 * padding < reach:
            raise node.damaged(f"of reach {reach} does not fit its input of {sides}")

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
        finite(node, self.scale, self.shift)
        self.same(node, self.graph.input)
