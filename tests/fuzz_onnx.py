"""ONNX files that are wrong: graphs, attributes, tensors, types, and protobuf messages of every length."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from fuzz_bytes import Rng, damage, pick
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

Change = Callable[[ModelProto, Rng], str]
SIGNATURES = (b"conv", b"weight", b"Conv", b"Gemm", b"pads", b"axis", b"image", b"\x0a", b"\x12", b"\x22", b"\x4a")
DIMS = (0, 1, -1, 2, 3, 7, 64, 2**16, 2**26, 2**31, 2**32, 2**40, 2**62, 2**63 - 1, -(2**63))
OPS = (
    *("Conv", "Gemm", "MatMul", "Add", "Relu", "BatchNormalization", "AveragePool", "MaxPool", "GlobalAveragePool"),
    *("Flatten", "Reshape", "Squeeze", "Identity", "Dropout", "Constant", "Greater", "Cast", "Sub", "ReduceMean"),
    *("ConstantOfShape", "Expand", "Tile", "If", "Loop", "Scan", "Shape", "Gather", "Concat", "LSTM", "", "a\nb", "Ä"),
)
NAMES = ("", "image", "d2", "a\nb", "x" * 5000, "\u2028", "conv1", "c1", "../x", "fc2.weight")
FLOATS = (float("nan"), float("inf"), float("-inf"), 0.0, -1.0, 1e-45, 3e38, 1e-300)


def number(rng: Rng) -> int:
    return pick(rng, DIMS)  # type: ignore[return-value]


def node_of(model: ModelProto, rng: Rng) -> NodeProto:
    if not model.graph.node:
        model.graph.node.add(op_type="Relu", input=["image"], output=["d2"])
    return pick(rng, model.graph.node)  # type: ignore[return-value]


def tensor_of(model: ModelProto, rng: Rng) -> TensorProto:
    if not model.graph.initializer:
        model.graph.initializer.add(name="conv1.weight", data_type=1)
    return pick(rng, model.graph.initializer)  # type: ignore[return-value]


def any_name(model: ModelProto, rng: Rng) -> str:
    """A name that is in the graph, mostly."""
    known = [name for node in model.graph.node for name in node.output] + [t.name for t in model.graph.initializer]
    return str(pick(rng, known if known and rng.random() < 0.8 else NAMES))


# --------------------------------------------------------------------------------------------------- the graph


def missing_node(model: ModelProto, rng: Rng) -> str:
    index = int(rng.integers(max(1, len(model.graph.node))))
    del model.graph.node[index : index + 1]
    return f"node {index} removed"


def missing_weight(model: ModelProto, rng: Rng) -> str:
    index = int(rng.integers(max(1, len(model.graph.initializer))))
    del model.graph.initializer[index : index + 1]
    return f"weight {index} removed"


def rewired(model: ModelProto, rng: Rng) -> str:
    """Another input or output: cycles, shortcuts, activations for weights."""
    node = node_of(model, rng)
    names = node.input if rng.random() < 0.7 or not node.output else node.output
    name = any_name(model, rng)
    if not names or rng.random() < 0.1:
        names.append(name)
        return f"{node.op_type} has {name[:40]!r} more"
    index = int(rng.integers(len(names)))
    names[index] = name
    return f"{node.op_type} port {index} is {name[:40]!r}"


def fewer(model: ModelProto, rng: Rng) -> str:
    node = node_of(model, rng)
    names = node.input if rng.random() < 0.6 else node.output
    if names:
        names.pop()
    return f"{node.op_type} has a port less"


def reordered(model: ModelProto, rng: Rng) -> str:
    order = [int(index) for index in rng.permutation(len(model.graph.node))]
    nodes = [NodeProto.FromString(model.graph.node[index].SerializeToString()) for index in order]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return f"nodes in order {order}"


def cycle(model: ModelProto, rng: Rng) -> str:
    first, second = node_of(model, rng), node_of(model, rng)
    if first.input and second.output:
        first.input[0] = second.output[0]
    return f"{first.op_type} reads {second.op_type}"


def operator(model: ModelProto, rng: Rng) -> str:
    node = node_of(model, rng)
    old, node.op_type = node.op_type, str(pick(rng, OPS))
    if rng.random() < 0.1:
        node.domain = str(pick(rng, ("com.microsoft", "a\nb", "x" * 3000)))
    return f"{old} is {node.op_type!r} of {node.domain[:20]!r}"


def copied(model: ModelProto, rng: Rng) -> str:
    """A node again: with the same output, or many in a row, one reading the other."""
    node = NodeProto.FromString(node_of(model, rng).SerializeToString())
    count = int(pick(rng, (1, 1, 30, 2000)))  # type: ignore[call-overload]
    first = node.output[0] if node.output else "none"
    for index in range(count):
        again = model.graph.node.add()
        again.CopyFrom(node)
        if count > 1 and again.input:
            again.input[0] = first if index == 0 else f"again{index - 1}"
            again.output[0:1] = [f"again{index}"]
    return f"{node.op_type} {count} times more"


def doubling(model: ModelProto, rng: Rng) -> str:
    """Adds of a value with itself, in a row: 2^60 paths from one end to the other."""
    last = any_name(model, rng)
    for index in range(60):
        model.graph.node.add(op_type="Add", input=[last, last], output=[f"twice{index}"], name=f"twice{index}")
        last = f"twice{index}"
    if model.graph.output and rng.random() < 0.7:
        model.graph.output[0].name = last
    return "60 doublings"


def nested(model: ModelProto, rng: Rng) -> str:
    """Graphs inside an attribute, deep or reading from outside."""
    node = node_of(model, rng)
    graph = helper.make_graph([helper.make_node("Relu", ["image"], ["y"])], "g", [], [])
    for _ in range(int(pick(rng, (1, 5, 20)))):  # type: ignore[call-overload]
        holder = helper.make_node("If", ["y"], ["y"])
        holder.attribute.append(helper.make_attribute("then_branch", graph))
        graph = helper.make_graph([holder], "g", [], [])
    node.attribute.append(helper.make_attribute(str(pick(rng, ("then_branch", "body", "value", "pads"))), graph))
    if rng.random() < 0.5:
        node.op_type = str(pick(rng, ("If", "Loop", "Scan")))
    return f"a graph in {node.op_type}"


def ports(model: ModelProto, rng: Rng) -> str:
    """Inputs and outputs of the graph: none, many, of other shapes and types."""
    side = model.graph.input if rng.random() < 0.6 else model.graph.output
    way = int(rng.integers(5))
    if not side or way == 0:
        side.add(name=any_name(model, rng))
        return "a port more"
    if way == 1:
        side.pop()
        return "a port less"
    if way == 2:
        side[0].name = any_name(model, rng)
        return f"a port named {side[0].name[:40]!r}"
    kind = side[0].type.tensor_type
    if way == 3:
        kind.elem_type = int(pick(rng, (0, 1, 7, 8, 10, 99)))  # type: ignore[call-overload]
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


def version(model: ModelProto, rng: Rng) -> str:
    way = int(rng.integers(4))
    if way == 0 and model.opset_import:
        model.opset_import[0].version = number(rng)
    elif way == 1:
        del model.opset_import[:]
    elif way == 2:
        model.opset_import.add(domain=str(pick(rng, ("", "x\n", "ai.onnx"))), version=int(rng.integers(1, 30)))
    else:
        model.ir_version = number(rng)
    return "another version"


def functions(model: ModelProto, rng: Rng) -> str:
    model.functions.add(name=str(pick(rng, NAMES)), domain="own")
    model.graph.node.add(op_type="Own", domain="own", input=["image"], output=["own"])
    return "a function"


# --------------------------------------------------------------------------------------------------- attributes


def attribute(model: ModelProto, rng: Rng) -> str:
    """An attribute of another value, type, length or name."""
    nodes = [node for node in model.graph.node if node.attribute]
    node = pick(rng, nodes) if nodes and rng.random() < 0.9 else node_of(model, rng)
    names = ("kernel_shape", "strides", "pads", "dilations", "group", "axis", "epsilon", "alpha", "transB", "auto_pad")
    old = list(node.attribute)  # type: ignore[attr-defined]
    name = pick(rng, old).name if old and rng.random() < 0.8 else str(pick(rng, (*names, "", "a\nb")))  # type: ignore[attr-defined]
    kept = [AttributeProto.FromString(entry.SerializeToString()) for entry in old if entry.name != name]
    count = int(pick(rng, (0, 1, 2, 3, 4, 5, 300)))  # type: ignore[call-overload]
    values: tuple[Any, ...] = (
        *(number(rng), number(rng), [number(rng) for _ in range(count)], [number(rng)] * max(1, count)),
        *(float(pick(rng, FLOATS)), [float(pick(rng, FLOATS))] * max(1, count), "SAME_UPPER", "a\nb", "x" * 4000),  # type: ignore[arg-type]
        *(numpy_helper.from_array(np.zeros(3, np.float32)), None),
    )
    value = pick(rng, values)
    del node.attribute[:]  # type: ignore[attr-defined]
    node.attribute.extend(kept)  # type: ignore[attr-defined]
    if value is not None and not (isinstance(value, list) and not value):
        made = helper.make_attribute(name, value)
        if rng.random() < 0.1:
            made.type = int(rng.integers(0, 15))
        node.attribute.append(made)  # type: ignore[attr-defined]
    return f"{node.op_type}'s {name[:40]!r} is {str(value)[:40]!r}"  # type: ignore[attr-defined]


# --------------------------------------------------------------------------------------------------- tensors


def dims(model: ModelProto, rng: Rng) -> str:
    tensor = tensor_of(model, rng)
    old = list(tensor.dims)
    way = int(rng.integers(5))
    if way == 0 and old:
        old[int(rng.integers(len(old)))] = number(rng)
    elif way == 1:
        old = old[::-1]
    elif way == 2:
        old = [*old, 1]
    elif way == 3:
        old = [number(rng) for _ in range(int(pick(rng, (0, 1, 4, 40))))]  # type: ignore[call-overload]
    else:
        old = [int(np.prod(old, dtype=float))] if old else [1]
    del tensor.dims[:]
    tensor.dims.extend(old)
    return f"{tensor.name[:40]} claims {old[:6]}"


def kind(model: ModelProto, rng: Rng) -> str:
    tensor = tensor_of(model, rng)
    tensor.data_type = int(rng.integers(-1, 24))
    return f"{tensor.name[:40]} is of type {tensor.data_type}"


def content(model: ModelProto, rng: Rng) -> str:
    """Another array in the place of a weight: shape, type, NaN, huge, nothing."""
    tensor = tensor_of(model, rng)
    name, old = tensor.name, tuple(side for side in tensor.dims if 0 <= side < 100) or (1,)
    value = float(pick(rng, FLOATS))  # type: ignore[arg-type]
    with np.errstate(over="ignore"):
        arrays: tuple[Any, ...] = (
            *(np.full(old, value, np.float32), np.zeros(old), np.zeros(old, np.int8), np.zeros((), np.float32)),
            *(np.zeros(old[:-1], np.float32), np.zeros((*old, 2), np.float32), np.zeros(0, np.float32)),
            *(np.full(old, 1e300), np.full(old, 2**40, np.int64), np.array(["a"], dtype=object), np.ones(old, bool)),
            *(np.zeros(old, np.float16), np.zeros(old, np.complex64)),
        )  # fmt: skip
    array = pick(rng, arrays)
    tensor.CopyFrom(numpy_helper.from_array(array, name))  # type: ignore[arg-type]
    if rng.random() < 0.3 and tensor.raw_data:
        tensor.raw_data = tensor.raw_data[: int(rng.integers(len(tensor.raw_data) + 1))]
    return f"{name[:40]} is {array.dtype} {array.shape} of {value}"  # type: ignore[attr-defined]


def external(model: ModelProto, rng: Rng) -> str:
    """Values in another file: none, a device, the model itself, beyond its end."""
    tensor = tensor_of(model, rng)
    tensor.data_location = TensorProto.EXTERNAL
    if rng.random() < 0.5:
        tensor.ClearField("raw_data")
    entries = {
        "location": str(pick(rng, ("mutant.onnx", "/dev/zero", "../mutant.onnx", "", ".", "a\nb", "\0", "x" * 5000))),
        "offset": str(pick(rng, ("0", "8", "-1", "9" * 30, "x", str(2**62), "9" * 6000))),
        "length": str(pick(rng, ("0", "4", "-1", "9" * 30, "x", str(2**40)))),
    }  # fmt: skip
    for key, value in entries.items():
        if rng.random() < 0.8:
            tensor.external_data.add(key=key, value=value)
    return f"{tensor.name[:40]} is in {entries['location'][:40]!r}"


def sparse(model: ModelProto, rng: Rng) -> str:
    tensor = tensor_of(model, rng)
    entry = model.graph.sparse_initializer.add()
    entry.values.CopyFrom(numpy_helper.from_array(np.ones(1, np.float32), tensor.name))
    entry.indices.CopyFrom(numpy_helper.from_array(np.zeros(1, np.int64)))
    entry.dims.extend([number(rng), number(rng)])
    return f"{tensor.name[:40]} is sparse too"


def named(model: ModelProto, rng: Rng) -> str:
    """A weight or node of another name: missing here, twice there."""
    item: Any = tensor_of(model, rng) if rng.random() < 0.5 else node_of(model, rng)
    old, item.name = item.name, any_name(model, rng)
    return f"{old[:40]!r} is named {item.name[:40]!r}"


def grown(model: ModelProto, rng: Rng) -> str:
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
    wanted = str(pick(rng, ("pads", "strides", "dilations", "kernel_shape")))
    kept = [AttributeProto.FromString(entry.SerializeToString()) for entry in node.attribute if entry.name != wanted]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(wanted, [side] * (4 if wanted == "pads" else 2))])
    return f"{wanted} of {side}"


CHANGES: dict[str, Change] = {
    call.__name__: call
    for call in (
        *(missing_node, missing_weight, rewired, fewer, reordered, cycle, operator, copied, doubling, nested, ports),
        *(version, functions, attribute, dims, kind, content, external, sparse, named, grown),
    )
}
OFTEN = ("attribute", "attribute", "rewired", "content", "dims", "ports", "operator")


def message(seed: bytes, rng: Rng) -> tuple[bytes, str]:
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
    return made[int(rng.integers(len(made)))]


def mutate(seed: bytes, rng: Rng) -> tuple[bytes, list[str]]:
    """A damaged copy of an ONNX file and what was done to it."""
    kind_of = rng.random()
    data, said = seed, []
    if kind_of < 0.65:
        model = ModelProto.FromString(seed)
        for _ in range(int(pick(rng, (1, 1, 1, 2, 3)))):  # type: ignore[call-overload]
            name = str(pick(rng, (*CHANGES, *OFTEN)))
            try:
                said.append(f"{name}: {CHANGES[name](model, rng)}")
            except Exception as error:  # after earlier changes
                said.append(f"{name}: not possible here ({type(error).__name__})")
        data = model.SerializeToString()
    elif kind_of < 0.68:
        data, what = message(seed, rng)
        return data, [f"message: {what}"]
    if kind_of >= 0.62 and data:
        for _ in range(int(rng.integers(1, 4))):
            data, what = damage(data, rng, SIGNATURES)
            said.append(what)
            if not data:
                break
    return data, said
