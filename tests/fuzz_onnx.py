"""ONNX files that are wrong: graphs, attributes, tensors, types, and protobuf messages of every length."""

from __future__ import annotations

from typing import Any

import numpy as np
from damage import FLOATS, VALUES, Damaged, Rng, Tree, changed, mutator, over, pick
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

SIGNATURES = (b"conv", b"weight", b"Conv", b"Gemm", b"pads", b"axis", b"image", b"\x0a", b"\x12", b"\x22", b"\x4a")
DIMS = (0, 1, -1, 2, 3, 7, 64, 2**16, 2**26, 2**31, 2**32, 2**40, 2**62, 2**63 - 1, -(2**63))
OPS = (
    *("Conv", "Gemm", "MatMul", "Add", "Relu", "BatchNormalization", "AveragePool", "MaxPool", "GlobalAveragePool"),
    *("Flatten", "Reshape", "Squeeze", "Identity", "Dropout", "Constant", "Greater", "Cast", "Sub", "ReduceMean"),
    *("ConstantOfShape", "Expand", "Tile", "If", "Loop", "Scan", "Shape", "Gather", "Concat", "LSTM", "", "a\nb", "Ä"),
)
NAMES = ("", "image", "d2", "a\nb", "x" * 5000, "\u2028", "conv1", "c1", "../x", "fc2.weight")


def number(rng: Rng) -> int:
    return pick(rng, DIMS)  # type: ignore[no-any-return]


class Graph(Tree):
    """The weights of a model, each its own name, and what else it is made of; what is missing is added."""

    def values(self) -> list[TensorProto]:
        weights = self.content.graph.initializer
        return list(weights) or [weights.add(name="conv1.weight", data_type=1)]

    def nodes(self) -> list[NodeProto]:
        nodes = self.content.graph.node
        return list(nodes) or [nodes.add(op_type="Relu", input=["image"], output=["d2"])]

    def models(self) -> list[ModelProto]:
        return [self.content]

    def names(self) -> list[str]:
        """All that stand in the graph."""
        return [name for node in self.nodes() for name in node.output] + [weight.name for weight in self.values()]

    @property
    def new(self) -> list[str]:  # type: ignore[override]
        return [*(self.names() * 2), *NAMES]

    def get(self, weight: TensorProto) -> Any:
        return numpy_helper.to_array(weight)

    def put(self, weight: TensorProto, value: Any, dtype: Any = None) -> None:
        value = np.asarray(value)
        value = value.astype(object) if value.dtype.kind in "US" else value
        weight.CopyFrom(numpy_helper.from_array(value, weight.name))

    def remove(self, weight: TensorProto) -> None:
        self.content.graph.initializer.remove(weight)

    def move(self, weight: TensorProto, new: str) -> None:
        weight.name = new


# --------------------------------------------------------------------------------------------------- the graph


def missing_node(tree: Graph, node: NodeProto, rng: Rng) -> str:
    tree.content.graph.node.remove(node)
    return "removed"


def rewired(tree: Graph, node: NodeProto, rng: Rng) -> str:
    """Another input or output: cycles, shortcuts, activations for weights."""
    names = node.input if rng.random() < 0.7 or not node.output else node.output
    name = pick(rng, tree.new)
    if not names or rng.random() < 0.1:
        names.append(name)
        return f"has {name[:40]!r} more"
    index = int(rng.integers(len(names)))
    names[index] = name
    return f"port {index} is {name[:40]!r}"


def fewer(tree: Graph, node: NodeProto, rng: Rng) -> str:
    (node.input if rng.random() < 0.6 else node.output).pop()
    return "has a port less"


def reordered(tree: Graph, model: ModelProto, rng: Rng) -> str:
    order = [int(index) for index in rng.permutation(len(model.graph.node))]
    nodes = [NodeProto.FromString(model.graph.node[index].SerializeToString()) for index in order]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return f"nodes in order {order}"


def cycle(tree: Graph, node: NodeProto, rng: Rng) -> str:
    other = pick(rng, tree.nodes())
    node.input[0] = other.output[0]
    return f"reads {other.op_type}"


def operator(tree: Graph, node: NodeProto, rng: Rng) -> str:
    node.op_type = pick(rng, OPS)
    if rng.random() < 0.1:
        node.domain = pick(rng, ("com.microsoft", "a\nb", "x" * 3000))
    return f"is {node.op_type!r} of {node.domain[:20]!r}"


def copied(tree: Graph, node: NodeProto, rng: Rng) -> str:
    """A node again: with the same output, or many in a row, one reading the other."""
    node = NodeProto.FromString(node.SerializeToString())
    count = pick(rng, (1, 1, 30, 2000))
    first = node.output[0] if node.output else "none"
    for index in range(count):
        again = tree.content.graph.node.add()
        again.CopyFrom(node)
        if count > 1 and again.input:
            again.input[0] = first if index == 0 else f"again{index - 1}"
            again.output[0:1] = [f"again{index}"]
    return f"{count} times more"


def doubling(tree: Graph, model: ModelProto, rng: Rng) -> str:
    """Adds of a value with itself, in a row: 2^60 paths from one end to the other."""
    last = pick(rng, tree.new)
    for index in range(60):
        model.graph.node.add(op_type="Add", input=[last, last], output=[f"twice{index}"], name=f"twice{index}")
        last = f"twice{index}"
    if model.graph.output and rng.random() < 0.7:
        model.graph.output[0].name = last
    return "60 doublings"


def nested(tree: Graph, node: NodeProto, rng: Rng) -> str:
    """Graphs inside an attribute, deep or reading from outside."""
    graph = helper.make_graph([helper.make_node("Relu", ["image"], ["y"])], "g", [], [])
    for _ in range(pick(rng, (1, 5, 20))):
        holder = helper.make_node("If", ["y"], ["y"])
        holder.attribute.append(helper.make_attribute("then_branch", graph))
        graph = helper.make_graph([holder], "g", [], [])
    node.attribute.append(helper.make_attribute(pick(rng, ("then_branch", "body", "value", "pads")), graph))
    if rng.random() < 0.5:
        node.op_type = pick(rng, ("If", "Loop", "Scan"))
    return f"{node.op_type} holds a graph"


def ports(tree: Graph, model: ModelProto, rng: Rng) -> str:
    """Inputs and outputs of the graph: none, many, of other shapes and types."""
    side = model.graph.input if rng.random() < 0.6 else model.graph.output
    way = int(rng.integers(5))
    if not side or way == 0:
        side.add(name=pick(rng, tree.new))
        return "a port more"
    if way == 1:
        side.pop()
        return "a port less"
    if way == 2:
        side[0].name = pick(rng, tree.new)
        return f"a port named {side[0].name[:40]!r}"
    kind = side[0].type.tensor_type
    if way == 3:
        kind.elem_type = pick(rng, (0, 1, 7, 8, 10, 99))
        return f"a port of type {kind.elem_type}"
    dims = kind.shape.dim
    if not dims or rng.random() < 0.3:
        dims.add(dim_value=number(rng))
        return "a dimension more"
    index, value = int(rng.integers(len(dims))), number(rng)
    if rng.random() < 0.2:
        dims.pop()
        return "a dimension less"
    dims[index].dim_value = value
    return f"dimension {index} is {value}"


def version(tree: Graph, model: ModelProto, rng: Rng) -> str:
    way = int(rng.integers(4))
    if way == 0 and model.opset_import:
        model.opset_import[0].version = number(rng)
    elif way == 1:
        del model.opset_import[:]
    elif way == 2:
        model.opset_import.add(domain=pick(rng, ("", "x\n", "ai.onnx")), version=int(rng.integers(1, 30)))
    else:
        model.ir_version = number(rng)
    return "another version"


def functions(tree: Graph, model: ModelProto, rng: Rng) -> str:
    model.functions.add(name=pick(rng, NAMES), domain="own")
    model.graph.node.add(op_type="Own", domain="own", input=["image"], output=["own"])
    return "a function"


# --------------------------------------------------------------------------------------------------- attributes


def attribute(tree: Graph, node: NodeProto, rng: Rng) -> str:
    """An attribute of another value, type, length or name."""
    nodes = [node for node in tree.nodes() if node.attribute]
    node = pick(rng, nodes) if nodes and rng.random() < 0.9 else node
    names = ("kernel_shape", "strides", "pads", "dilations", "group", "axis", "epsilon", "alpha", "transB", "auto_pad")
    old = list(node.attribute)
    name = pick(rng, old).name if old and rng.random() < 0.8 else pick(rng, (*names, "", "a\nb"))
    kept = [AttributeProto.FromString(entry.SerializeToString()) for entry in old if entry.name != name]
    count = pick(rng, (0, 1, 2, 3, 4, 5, 300))
    values: tuple[Any, ...] = (
        *(number(rng), number(rng), [number(rng) for _ in range(count)], [number(rng)] * max(1, count)),
        *(pick(rng, FLOATS), [pick(rng, FLOATS)] * max(1, count), "SAME_UPPER", "a\nb", "x" * 4000),
        *(numpy_helper.from_array(np.zeros(3, np.float32)), None),
    )
    value = pick(rng, values)
    del node.attribute[:]
    node.attribute.extend(kept)
    if value is not None and not (isinstance(value, list) and not value):
        made = helper.make_attribute(name, value)
        if rng.random() < 0.1:
            made.type = int(rng.integers(0, 15))
        node.attribute.append(made)
    return f"({node.op_type}) {name[:40]!r} is {str(value)[:40]!r}"


# --------------------------------------------------------------------------------------------------- tensors


def dims(tree: Graph, tensor: TensorProto, rng: Rng) -> str:
    old = list(tensor.dims)
    way = int(rng.integers(5))
    if way == 0 and old:
        old[int(rng.integers(len(old)))] = number(rng)
    elif way == 1:
        old = old[::-1]
    elif way == 2:
        old = [*old, 1]
    elif way == 3:
        old = [number(rng) for _ in range(pick(rng, (0, 1, 4, 40)))]
    else:
        old = [int(np.prod(old, dtype=float))] if old else [1]
    del tensor.dims[:]
    tensor.dims.extend(old)
    return f"claims {old[:6]}"


def kind(tree: Graph, tensor: TensorProto, rng: Rng) -> str:
    tensor.data_type = int(rng.integers(-1, 24))
    return f"is of type {tensor.data_type}"


def shorter(tree: Graph, tensor: TensorProto, rng: Rng) -> str:
    """Fewer bytes than the shape says."""
    tensor.raw_data = tensor.raw_data[: int(rng.integers(len(tensor.raw_data) + 1))]
    return f"has {len(tensor.raw_data)} bytes"


def external(tree: Graph, tensor: TensorProto, rng: Rng) -> str:
    """Values in another file: none, a device, the model itself, beyond its end."""
    tensor.data_location = TensorProto.EXTERNAL
    if rng.random() < 0.5:
        tensor.ClearField("raw_data")
    entries = {
        "location": pick(rng, ("mutant.onnx", "/dev/zero", "../mutant.onnx", "", ".", "a\nb", "\0", "x" * 5000)),
        "offset": pick(rng, ("0", "8", "-1", "9" * 30, "x", str(2**62), "9" * 6000)),
        "length": pick(rng, ("0", "4", "-1", "9" * 30, "x", str(2**40))),
    }  # fmt: skip
    for key, value in entries.items():
        if rng.random() < 0.8:
            tensor.external_data.add(key=key, value=value)
    return f"is in {entries['location'][:40]!r}"


def sparse(tree: Graph, tensor: TensorProto, rng: Rng) -> str:
    entry = tree.content.graph.sparse_initializer.add()
    entry.values.CopyFrom(numpy_helper.from_array(np.ones(1, np.float32), tensor.name))
    entry.indices.CopyFrom(numpy_helper.from_array(np.zeros(1, np.int64)))
    entry.dims.extend([number(rng), number(rng)])
    return "is sparse too"


def named(tree: Graph, node: NodeProto, rng: Rng) -> str:
    node.name = pick(rng, tree.new)
    return f"is named {node.name[:40]!r}"


def grown(tree: Graph, model: ModelProto, rng: Rng) -> str:
    """A layer that fits and is vast: pixels, channels or padding that no memory holds."""
    way = int(rng.integers(3))
    side = int(2 ** rng.integers(10, 40))
    if way == 0 and model.graph.input and len(model.graph.input[0].type.tensor_type.shape.dim) == 4:
        for place in (2, 3):
            model.graph.input[0].type.tensor_type.shape.dim[place].dim_value = side
        return f"images of {side} x {side}"
    node = next((node for node in model.graph.node if node.op_type in ("Conv", "AveragePool") and node.attribute), None)
    if node is None:
        return "nothing to grow"
    wanted = pick(rng, ("pads", "strides", "dilations", "kernel_shape"))
    kept = [AttributeProto.FromString(entry.SerializeToString()) for entry in node.attribute if entry.name != wanted]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(wanted, [side] * (4 if wanted == "pads" else 2))])
    return f"{wanted} of {side}"


CHANGES = (
    VALUES
    | over("values", dims, kind, shorter, external, sparse)
    | over("nodes", missing_node, rewired, fewer, cycle, operator, copied, nested, attribute, named)
    | over("models", reordered, doubling, ports, version, functions, grown)
)
OFTEN = ("attribute", "attribute", "rewired", "typed", "shaped", "valued", "dims", "ports", "operator")


def message(seed: bytes, rng: Rng) -> Damaged:
    """Protobuf that says much in few bytes: fields again and again, lengths beyond the end, groups in each other."""
    made: tuple[tuple[bytes, str], ...] = (
        (seed * 3, "the model three times, which protobuf merges"),
        (seed + b"\x3a\x02\x0a\x00" * 200_000, "200000 empty nodes"),
        (seed + b"\x3a\x03\x2a\x01\x08" * 50_000, "50000 weights cut short"),
        (seed + b"\x3a\xff\xff\xff\xff\x0f", "a graph of 4 GB"),
        (b"\x3b" * 100_000, "groups in each other"),
        (b"\x3a\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01", "a length of 70 bits"),
        (seed + b"\x42\x04\x0a\x00\x10\x12" * 3000, "3000 opsets"),
        (seed + b"\x3a\x06\x2a\x04\x08\xff\xff\x03", "a weight that claims a dimension"),
    )
    data, said = pick(rng, made)
    return data, [f"message: {said}"]


def contents(seed: bytes, rng: Rng) -> Damaged:
    model = ModelProto.FromString(seed)
    said = changed(Graph(model), CHANGES, rng, (1, 1, 1, 2, 3), OFTEN)
    return model.SerializeToString(), said


mutate = mutator(SIGNATURES, 3, (0.65, contents), (0.03, message))
