"""Reading ONNX files that may be damaged or made to harm: nodes, attributes and constants, with their sizes checked.

A protobuf message of a few bytes takes a hundred in memory, and a tensor may claim any size. So the file's fields are
walked before the onnx package parses them, and a tensor is decoded only when a node asks for it and its bytes are
there.
"""

from __future__ import annotations

import importlib
import math
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from snn2chip.errors import InputError, SetupError, UnsupportedError, out_of_memory, reading
from snn2chip.text import one_line

if TYPE_CHECKING:
    import onnx

LOWEST_OPSET = 7  # the first that onnx's version converter lifts as files of today are
_NATIVE_OPSET = 11  # older files differ in BatchNormalization, Dropout and Pad: they are lifted to this one
MOST_VALUES = 2**26  # of a tensor, an activation and all weights of a network: 256 MiB in float32
_FILE_BYTES = 5 * 2**26  # the weights and a quarter more
_OTHER_BYTES = 2**23  # of everything in the file but plain numbers of weights
_FIELDS = 2**20
_GRAPH, _INITIALIZER = 7, 5  # field numbers of ModelProto and GraphProto
_NUMBERS = {4: 4, 9: 1, 10: 8}  # fields of TensorProto that hold as many bytes in the file as in memory


@dataclass(frozen=True)
class Node:
    """One node: `name` is fit to be printed, and by it the node is refused."""

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]

    def refuse(self, reason: str) -> UnsupportedError:
        """An error that names the node and its type."""
        return UnsupportedError(f"node '{self.name}': {self.op} {reason}")


def _text(value: str | bytes) -> str:
    """A name; protobuf gives bytes where it is no UTF-8, which stay different from each other."""
    return value if isinstance(value, str) else value.decode("utf-8", "backslashreplace")


class Graph:
    """The graph of an ONNX file: `nodes` in topological order, one image input and one output.

    input   name of the input
    dims    its dimensions, None where one is not fixed
    output  name of the output
    notes   what was done to the file's graph, and is to be said
    """

    def __init__(self, model: onnx.ModelProto, folder: Path) -> None:
        self._onnx = importlib.import_module("onnx")
        self._folder = folder
        self._tensors: dict[str, Any] = {}  # not decoded yet
        self._decoded: dict[str, NDArray[Any]] = {}
        self._total = 0
        self.notes: list[str] = []
        model = self._opset(model)
        graph = model.graph
        if graph.sparse_initializer:
            raise UnsupportedError("the file has sparse weights, which are not read; export dense ones")
        for tensor in graph.initializer:
            self._define(_text(tensor.name), tensor)
        inputs = [port for port in graph.input if _text(port.name) not in self._tensors]
        if len(inputs) != 1 or len(graph.output) != 1:
            names = ", ".join(f"'{one_line(_text(port.name))}'" for port in [*inputs, *graph.output][:8])
            raise UnsupportedError(
                f"{len(inputs)} inputs and {len(graph.output)} outputs ({names}); a network of one image input and one "
                f"output of class scores is read"
            )
        self.input, self.output = _text(inputs[0].name), _text(graph.output[0].name)
        shape = inputs[0].type.tensor_type.shape.dim
        self.dims = tuple(int(side.dim_value) if side.HasField("dim_value") else None for side in shape)
        known = {self.input, *self._tensors}
        self.nodes: list[Node] = []
        for proto in graph.node:
            node = self._node(proto)
            for name in node.inputs:
                if name and name not in known:
                    raise InputError(
                        f"node '{node.name}': {node.op} reads '{one_line(name)}', which neither a weight nor a node "
                        f"before it gives; the file is damaged, or its graph has a cycle"
                    )
            for name in node.outputs:
                if name and name in known:
                    raise InputError(f"node '{node.name}': {node.op} makes '{one_line(name)}', which is there already")
                known.add(name)
            self._constant(node)
        if self.output not in known:
            raise InputError(f"no node makes the output '{one_line(self.output)}'; the file is damaged")

    def _opset(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """The model in an opset that is read here; an older one is lifted by onnx's own version converter."""
        highest = int(self._onnx.defs.onnx_opset_version())
        versions = [int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
        if len(versions) != 1 or not LOWEST_OPSET <= versions[0] <= highest:
            found = ", ".join(str(version) for version in versions) or "none"
            raise UnsupportedError(
                f"opset {found}; {LOWEST_OPSET} to {highest} are read: export again with opset_version=18, say, or "
                f"update the package onnx"
            )
        if model.functions:
            name = one_line(_text(model.functions[0].name))
            raise UnsupportedError(
                f"the file has functions of its own ('{name}'), which are not read; "
                f"inline them with onnx.inliner.inline_local_functions"
            )
        if versions[0] >= _NATIVE_OPSET:
            return model
        if any(tensor.data_location == self._onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer):
            raise UnsupportedError(
                f"opset {versions[0]} with weights in another file; export with opset_version=18, say"
            )
        try:
            self._onnx.checker.check_model(model)
            converter = importlib.import_module("onnx.version_converter")
            lifted: onnx.ModelProto = converter.convert_version(model, _NATIVE_OPSET)
        except Exception as error:  # of the checker, of the converter and of protobuf
            if out_of_memory(error):
                raise
            reason = one_line(str(error), 200)
            raise UnsupportedError(
                f"opset {versions[0]} cannot be lifted to {_NATIVE_OPSET} by onnx's version converter ({reason}); "
                f"export again with opset_version=18, say"
            ) from None
        self.notes.append(f"opset {versions[0]}, lifted to {_NATIVE_OPSET} by onnx's version converter")
        return lifted

    def _define(self, name: str, tensor: Any) -> None:
        if not name or name in self._tensors:
            raise InputError(f"two weights are named '{one_line(name)}', or one is without a name; the file is damaged")
        self._tensors[name] = tensor

    def _node(self, proto: onnx.NodeProto) -> Node:
        inputs, outputs = tuple(map(_text, proto.input)), tuple(map(_text, proto.output))
        first = next((name for name in outputs if name), "")
        name, op = one_line(_text(proto.name) or first), one_line(_text(proto.op_type))
        if proto.domain not in ("", "ai.onnx"):
            domain = one_line(_text(proto.domain))
            raise UnsupportedError(
                f"node '{name}': {op} of domain '{domain}' is no standard operator; export without it"
            )
        attributes: dict[str, Any] = {}
        kinds = self._onnx.AttributeProto
        for entry in proto.attribute:
            if entry.type == kinds.INT:
                attributes[_text(entry.name)] = int(entry.i)
            elif entry.type == kinds.FLOAT:
                attributes[_text(entry.name)] = float(entry.f)
            elif entry.type == kinds.STRING:
                attributes[_text(entry.name)] = bytes(entry.s).decode("utf-8", "replace")
            elif entry.type == kinds.INTS:
                attributes[_text(entry.name)] = tuple(int(value) for value in entry.ints)
            elif entry.type == kinds.FLOATS:
                attributes[_text(entry.name)] = tuple(float(value) for value in entry.floats)
            elif entry.type == kinds.TENSOR:
                attributes[_text(entry.name)] = entry.t
            else:
                attributes[_text(entry.name)] = None  # a graph, say; whoever needs it refuses the node
        return Node(name, op, inputs, outputs, attributes)

    def _constant(self, node: Node) -> None:
        """Keep a node, or what it says if it is a constant or another name of one."""
        if node.op == "Identity" and len(node.inputs) == len(node.outputs) == 1 and node.inputs[0] in self._tensors:
            self._tensors[node.outputs[0]] = self._tensors[node.inputs[0]]
        elif node.op != "Constant":
            self.nodes.append(node)
        elif len(node.outputs) != 1 or len(node.attributes) != 1:
            raise node.refuse("without one value and one output; the file is damaged")
        else:
            ((kind, value),) = node.attributes.items()
            if kind not in ("value", "value_float", "value_floats", "value_int", "value_ints") or value is None:
                raise node.refuse(f"with '{one_line(kind)}', which is not read")
            if kind != "value":
                value = np.array(value, dtype=np.float32 if "float" in kind else np.int64)
            self._tensors[node.outputs[0]] = value

    def is_constant(self, name: str) -> bool:
        """Whether `name` is a weight or a constant."""
        return name in self._tensors

    def define(self, name: str, values: NDArray[Any]) -> None:
        """Make a constant of what a node gives."""
        self._tensors[name] = values

    def constant(self, name: str, node: Node) -> NDArray[Any]:
        """The values of a constant that `node` reads: float32 or int64, real numbers finite.

        Raises:
            InputError: not a constant, or one that is damaged, too large, or not finite.
        """
        if name not in self._tensors:
            raise node.refuse(f"reads '{one_line(name)}', which is computed; only constants are read there")
        found = self._decoded.get(name)
        if found is None:
            where = f"node '{node.name}': {node.op}: weight '{one_line(name)}'"
            value = self._tensors[name]
            found = value if isinstance(value, np.ndarray) else self._decode(value, where)
            if found.dtype.kind == "f" and not np.isfinite(found).all():
                bad = int((~np.isfinite(found)).sum())
                raise InputError(f"{where} holds {bad} NaN or infinite of {found.size} values; train again")
            self._decoded[name] = found
        return found

    def _decode(self, tensor: Any, where: str) -> NDArray[Any]:
        kinds = self._onnx.TensorProto
        types = {kinds.FLOAT: "<f4", kinds.DOUBLE: "<f8", kinds.FLOAT16: "<f2", kinds.INT64: "<i8", kinds.INT32: "<i4"}
        if tensor.data_type not in types:
            raise UnsupportedError(f"{where} is of type {tensor.data_type}; float16, 32, 64, int32 and 64 are read")
        dtype = np.dtype(types[tensor.data_type])
        shape = tuple(int(side) for side in tensor.dims)
        if len(shape) > 8 or min(shape, default=1) < 0 or math.prod(shape) > MOST_VALUES:
            raise InputError(f"{where} is of shape {shape[:8]}; at most {MOST_VALUES:,} values are read")
        count = math.prod(shape)
        self._total += count
        if self._total > MOST_VALUES:
            raise InputError(
                f"{where}: all weights together are more than {MOST_VALUES:,} values, the most that is read"
            )
        if tensor.data_location == kinds.EXTERNAL:
            flat = np.frombuffer(self._external(tensor, count * dtype.itemsize, where), dtype)
        elif tensor.HasField("raw_data"):
            raw = tensor.raw_data
            if len(raw) != count * dtype.itemsize:
                raise _size(where, shape, len(raw), count * dtype.itemsize, "bytes")
            flat = np.frombuffer(raw, dtype)
        else:
            given = {"<f4": tensor.float_data, "<f8": tensor.double_data, "<i8": tensor.int64_data}
            values = given.get(types[tensor.data_type], tensor.int32_data)
            if len(values) != count:
                raise _size(where, shape, len(values), count, "values")
            if dtype.itemsize == 2:  # the bits of a float16 are kept as an integer
                flat = (np.array(values, dtype=np.int64) & 0xFFFF).astype("<u2").view(dtype)
            else:
                flat = np.array(values, dtype=dtype)
        wanted = np.float32 if dtype.kind == "f" else np.int64
        with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite, and is refused as such
            return flat.reshape(shape).astype(wanted, copy=False)

    def _external(self, tensor: Any, count: int, where: str) -> bytes:
        """Bytes of a file beside the model's."""
        said = {_text(entry.key): _text(entry.value) for entry in tensor.external_data}
        location = said.get("location", "")
        try:
            offset, length = int(said.get("offset", "0")), int(said.get("length", str(count)))
        except ValueError:
            raise InputError(f"{where}: offset or length of its file is no number; the file is damaged") from None
        if not location or "\0" in location or Path(location).is_absolute() or ".." in Path(location).parts:
            raise InputError(f"{where} is in '{one_line(location)}'; only files in the model's own folder are read")
        if length != count or offset < 0:
            raise _size(where, tuple(tensor.dims), length, count, "bytes")
        path = self._folder / location
        try:
            if not path.resolve(strict=True).is_relative_to(self._folder.resolve()):
                raise InputError(
                    f"{where} is in '{one_line(location)}', a link to elsewhere; copy the file itself there"
                )
            if not stat.S_ISREG(path.stat().st_mode):
                raise InputError(f"{where} is in '{one_line(location)}', which is no plain file")
            with path.open("rb") as file:
                file.seek(offset)
                content: bytes = file.read(count)
        except (OSError, ValueError, OverflowError, RuntimeError) as error:
            if isinstance(error, InputError) or out_of_memory(error):
                raise
            reason = getattr(error, "strerror", None) or error
            raise InputError(
                f"{where}: cannot read its values in '{one_line(location)}': {reason}; keep it beside the .onnx file"
            ) from None
        if len(content) != count:
            raise InputError(
                f"{where}: '{one_line(location)}' has {len(content):,} bytes for it, {count:,} are needed; it is "
                f"truncated or belongs to another file"
            )
        return content


def _size(where: str, shape: tuple[int, ...], found: int, wanted: int, unit: str) -> InputError:
    return InputError(f"{where} of shape {shape} holds {found:,} {unit}, {wanted:,} are needed; the file is damaged")


def _fields(data: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """(number, wire type, content) of the fields of a protobuf message; content is empty where it is a number."""
    place = 0
    while place < len(data):
        tag, place = _varint(data, place)
        wire, start = tag & 7, place
        if wire == 0:
            _, place = _varint(data, place)
        elif wire == 1:
            place += 8
        elif wire == 5:
            place += 4
        elif wire == 2:
            length, start = _varint(data, place)
            place = start + length
        else:
            raise InputError("no ONNX model, or a damaged one")
        if place > len(data):
            raise InputError("truncated, or no ONNX model")
        yield tag >> 3, wire, data[start:place] if wire == 2 else data[:0]


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(data):
            raise InputError("truncated, or no ONNX model")
        byte = data[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
    raise InputError("no ONNX model, or a damaged one")


def _scan(content: bytes) -> None:
    """Refuse what would take much more memory than the file is long."""
    fields = other = 0

    def counted(message: memoryview) -> Iterator[tuple[int, int, memoryview]]:
        nonlocal fields
        for field in _fields(message):
            fields += 1
            if fields > _FIELDS:
                raise InputError(f"more than {_FIELDS:,} nodes, weights and their fields; no network that is read here")
            yield field

    def rest(part: memoryview) -> None:
        nonlocal other
        other += len(part)
        if other > _OTHER_BYTES:
            raise InputError(
                f"more than {_OTHER_BYTES:,} bytes besides plain weights (raw, float or double data of initializers); "
                f"export the network without constants in nodes, texts and metadata"
            )

    for number, wire, part in counted(memoryview(content)):
        if number != _GRAPH or wire != 2:
            rest(part)
            continue
        for inner, inner_wire, inner_part in counted(part):
            if inner != _INITIALIZER or inner_wire != 2:
                rest(inner_part)
                continue
            for kind, kind_wire, values in counted(inner_part):
                if kind_wire != 2 or kind not in _NUMBERS:
                    rest(values)


def read(path: str | Path) -> Graph:
    """The graph of an ONNX file; constants are decoded when they are asked for.

    Weights may lie in another file of the same folder, as torch's newer exporter writes them.

    Raises:
        SetupError: the package onnx is missing.
        InputError: unreadable, truncated, damaged, larger than any network that is read, or a graph that contradicts
            itself.
        UnsupportedError: another opset, functions, several inputs or outputs.
    """
    path = Path(path)
    try:
        onnx = importlib.import_module("onnx")
    except ImportError as error:
        raise SetupError(
            f"reading ONNX needs the package onnx, which cannot be imported ({error}); pip install 'snn2chip[onnx]'"
        ) from None
    with reading(path, "no ONNX model"):
        if not stat.S_ISREG(path.stat().st_mode):
            raise InputError(f"cannot read '{path}': not a plain file")
        if path.stat().st_size > _FILE_BYTES:
            raise InputError(f"'{path}' has more than {_FILE_BYTES:,} bytes, the most that is read")
        content = path.read_bytes()
    if not content:
        raise InputError(f"'{path}' is empty")
    try:
        _scan(content)
    except InputError as error:
        raise InputError(f"'{path}': {error}") from None
    with reading(path, "no ONNX model"):
        model = onnx.ModelProto.FromString(content)
    del content
    try:
        return Graph(model, path.parent)
    except UnicodeDecodeError:
        raise InputError(f"'{path}' is damaged: a name in it is no text") from None
    except InputError as error:
        raise type(error)(f"'{path}': {one_line(str(error), 1000)}") from None
