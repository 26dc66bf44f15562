"""Reading ONNX files that may be damaged or made to harm: nodes, attributes and constants, with their sizes checked.

A protobuf message of a few bytes takes a hundred in memory, and a tensor may claim any size. So the file's fields are
walked before the onnx package parses them, onnx's checker sees the graph without its weights, and a tensor is decoded
only when a node asks for it and its bytes are there.
"""

from __future__ import annotations

import math
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, checker, helper, numpy_helper, version_converter

from snn2chip.errors import InputError, UnsupportedError, out_of_memory
from snn2chip.text import one_line

LOWEST_OPSET = 7  # the first that onnx's version converter lifts as files of today are
_NATIVE_OPSET = 11  # older files differ in BatchNormalization, Dropout and Pad: they are lifted to this one
MOST_VALUES = 2**26  # of a tensor, an activation and all weights of a network: 256 MiB in float32
_FILE_BYTES = 5 * 2**26  # the weights and a quarter more
_OTHER_BYTES = 2**23  # of everything in the file but plain numbers of weights
_FIELDS = 2**20
_WEIGHTS = (7, 5)  # numbers of the fields graph, in ModelProto, and initializer, in GraphProto
_NUMBERS = (4, 9, 10)  # fields of TensorProto that hold as many bytes in the file as in memory


@dataclass(frozen=True)
class OnnxNode:
    """One node: `name` is fit to be printed, and by it the node is refused. `proto` is the file's own."""

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]
    proto: onnx.NodeProto

    def refuse(self, reason: str) -> UnsupportedError:
        """An error that names the node and its type."""
        return UnsupportedError(f"node '{self.name}': {self.op} {reason}")

    def damaged(self, reason: str) -> InputError:
        """An error of a file that contradicts itself, likewise."""
        return InputError(f"node '{self.name}': {self.op} {reason}")

    def unfit(self, said: str) -> InputError:
        """An error of what onnx says of the node and its inputs."""
        return self.damaged(f"does not fit what it reads ({said})")


@contextmanager
def judged(error: Callable[[str], InputError]) -> Iterator[None]:
    """Turn what onnx raises over a graph, of any kind, into an error of ours."""
    try:
        yield
    except Exception as found:
        if out_of_memory(found):
            raise
        raise error(one_line(str(found), 400)) from None


class TrainedGraph:
    """The graph of an ONNX file: `nodes` in topological order, one image input and one output.

    input   name of the input
    dims    its dimensions, None where one is not fixed
    output  name of the output
    opset   version of the operators
    notes   what was done to the file's graph, and is to be said
    """

    def __init__(self, model: onnx.ModelProto, folder: Path) -> None:
        self._folder = folder
        self._values: dict[str, NDArray[Any] | TensorProto] = {}  # a tensor is not decoded yet
        self._total = 0
        self.notes: list[str] = []
        graph = model.graph
        if graph.sparse_initializer:
            raise UnsupportedError("the file has sparse weights, which are not read; export dense ones")
        if model.functions:
            raise UnsupportedError(
                f"the file has functions of its own ('{one_line(model.functions[0].name)}'), which are not read; "
                f"inline them with onnx.inliner.inline_local_functions"
            )
        weights = {tensor.name: tensor for tensor in graph.initializer}
        if len(weights) != len(graph.initializer) or "" in weights:
            raise InputError("two weights of one name, or one without a name; the file is damaged")
        inputs = [port for port in graph.input if port.name not in weights]
        if len(inputs) != 1 or len(graph.output) != 1:
            names = ", ".join(f"'{one_line(port.name)}'" for port in [*inputs, *graph.output][:8])
            raise UnsupportedError(
                f"{len(inputs)} inputs and {len(graph.output)} outputs ({names}); a network of one image input and one "
                f"output of class scores is read"
            )
        self.input, self.output = inputs[0].name, graph.output[0].name
        shape = inputs[0].type.tensor_type.shape.dim
        self.dims = tuple(int(side.dim_value) if side.HasField("dim_value") else None for side in shape)
        self.nodes = [self._node(proto) for proto in self._checked(model, weights)]

    def _checked(self, model: onnx.ModelProto, weights: dict[str, TensorProto]) -> list[onnx.NodeProto]:
        """The nodes, by onnx's checker in their order and with the inputs and attributes that their operators have.

        Those of an opset too old to be read here are lifted by onnx's own version converter. Both see the weights as
        inputs: neither needs, nor copies, their values.
        """
        highest = int(onnx.defs.onnx_opset_version())
        versions = [int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
        if len(versions) != 1 or not LOWEST_OPSET <= versions[0] <= highest:
            found = ", ".join(str(version) for version in versions) or "none"
            raise UnsupportedError(
                f"opset {found}; {LOWEST_OPSET} to {highest} are read: export again with opset_version=18, say, or "
                f"update the package onnx"
            )
        self.opset = max(versions[0], _NATIVE_OPSET)
        self._values |= weights
        ports = [helper.make_tensor_value_info(key, each.data_type, each.dims) for key, each in weights.items()]
        ports.append(helper.make_tensor_value_info(self.input, TensorProto.FLOAT, [side or "N" for side in self.dims]))
        output = helper.make_tensor_value_info(self.output, TensorProto.FLOAT, ["N", "K"])
        bare = helper.make_model(
            helper.make_graph(model.graph.node, "bare", ports, [output]),
            opset_imports=model.opset_import,
            ir_version=model.ir_version,
        )
        with judged(lambda said: InputError(f"{said}; the file is damaged")):
            checker.check_model(bare)
        if versions[0] == self.opset:
            return list(bare.graph.node)
        failed = f"opset {versions[0]} cannot be lifted to {self.opset} by onnx's version converter"
        with judged(lambda said: UnsupportedError(f"{failed} ({said}); export again with opset_version=18, say")):
            lifted = version_converter.convert_version(bare, self.opset)
        self.notes.append(f"opset {versions[0]}, lifted to {self.opset} by onnx's version converter")
        self._values |= {tensor.name: tensor for tensor in lifted.graph.initializer}
        return list(lifted.graph.node)

    def _node(self, proto: onnx.NodeProto) -> OnnxNode:
        attributes: dict[str, Any] = {}
        for entry in proto.attribute:
            value = helper.get_attribute_value(entry)
            value = tuple(value) if isinstance(value, list) else value
            attributes[entry.name] = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
        name = one_line(proto.name or next(filter(None, proto.output), ""))
        node = OnnxNode(name, one_line(proto.op_type), tuple(proto.input), tuple(proto.output), attributes, proto)
        if proto.domain not in ("", "ai.onnx"):
            domain = one_line(proto.domain)
            raise node.refuse(f"of domain '{domain}' is no standard operator; export without it")
        return node

    def is_constant(self, name: str) -> bool:
        """Whether `name` is a weight or a constant."""
        return name in self._values

    def define(self, node: OnnxNode, value: NDArray[Any] | TensorProto) -> None:
        """Make a constant of what a node gives."""
        self._values[node.outputs[0]] = value
        if isinstance(value, np.ndarray):
            self._count(value.size, f"node '{node.name}': {node.op}")

    def rename(self, node: OnnxNode) -> None:
        """Another name of a constant."""
        self._values[node.outputs[0]] = self._values[node.inputs[0]]

    def constant(self, name: str, node: OnnxNode) -> NDArray[Any]:
        """The values of a constant that `node` reads: float32 or int64, real numbers finite.

        Raises:
            InputError: not a constant, or one that is damaged, too large, or not finite.
        """
        if name not in self._values:
            raise node.refuse(f"reads '{one_line(name)}', which is computed; only constants are read there")
        where = f"node '{node.name}': {node.op}: weight '{one_line(name)}'"
        found = self._values[name]
        if not isinstance(found, np.ndarray):
            found = self._values[name] = self._decode(found, where)
        if found.dtype.kind == "f" and not np.isfinite(found).all():
            bad = int((~np.isfinite(found)).sum())
            raise InputError(f"{where} holds {bad} NaN or infinite of {found.size} values; train again")
        return found

    def _count(self, values: int, where: str) -> None:
        self._total += values
        if self._total > MOST_VALUES:
            raise InputError(
                f"{where}: all weights together are more than {MOST_VALUES:,} values, the most that is read"
            )

    def _decode(self, tensor: TensorProto, where: str) -> NDArray[Any]:
        kinds = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.INT64, TensorProto.INT32)
        if tensor.data_type not in kinds:
            raise UnsupportedError(f"{where} is of type {tensor.data_type}; float16, 32, 64, int32 and 64 are read")
        shape = tuple(tensor.dims)
        if len(shape) > 8 or min(shape, default=1) < 0 or math.prod(shape) > MOST_VALUES:
            raise InputError(f"{where} is of shape {shape[:8]}; at most {MOST_VALUES:,} values are read")
        self._count(math.prod(shape), where)
        if tensor.data_location == TensorProto.EXTERNAL:
            values = self._external(tensor, shape, where)
        else:
            with judged(lambda said: InputError(f"{where} of shape {shape}: {said}; the file is damaged")):
                values = numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite, and is refused as such
            return values.astype(np.float32 if values.dtype.kind == "f" else np.int64, copy=False)

    def _external(self, tensor: TensorProto, shape: tuple[int, ...], where: str) -> NDArray[Any]:
        """Values in a file beside the model's, which older versions of onnx would read through links and to its end."""
        said = {entry.key: entry.value for entry in tensor.external_data}
        location, dtype = said.get("location", ""), helper.tensor_dtype_to_np_dtype(tensor.data_type)
        where, count = f"{where} is in '{one_line(location)}'", math.prod(shape)
        path = self._folder / location
        try:
            if not path.resolve().is_relative_to(self._folder.resolve()):
                raise InputError(f"{where}; only files in the model's own folder are read, and no links to elsewhere")
            if not stat.S_ISREG(path.stat().st_mode):
                raise InputError(f"{where}, which is no plain file")
            if int(said.get("length", count * dtype.itemsize)) != count * dtype.itemsize:
                raise InputError(f"{where}, with {one_line(said['length'])} bytes for {count:,} values; it is damaged")
            values = np.fromfile(path, dtype, count, offset=int(said.get("offset", 0)))
        except (OSError, ValueError, OverflowError, RuntimeError) as error:
            if isinstance(error, InputError) or out_of_memory(error):
                raise
            reason = one_line(getattr(error, "strerror", None) or str(error))
            raise InputError(f"{where}, which cannot be read: {reason}; keep it beside the .onnx file") from None
        if len(values) != count:
            raise InputError(
                f"{where}, which has {len(values):,} of {count:,} values; it is truncated or belongs to another file"
            )
        return values.reshape(shape)


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

    def walk(message: memoryview, path: tuple[int, ...]) -> None:
        """Count the fields of a message; `path` leads to the weights in it."""
        nonlocal fields, other
        place = 0
        while place < len(message):
            tag, place = _varint(message, place)
            number, wire, start = tag >> 3, tag & 7, place
            if wire == 2:
                length, start = _varint(message, place)
                place = start + length
            elif wire == 0:
                _, place = _varint(message, place)
            elif wire in (1, 5):
                place += 8 if wire == 1 else 4
            else:
                raise InputError("no ONNX model, or a damaged one")
            if place > len(message):
                raise InputError("truncated, or no ONNX model")
            fields += 1
            if fields > _FIELDS:
                raise InputError(f"more than {_FIELDS:,} nodes, weights and their fields; no network that is read here")
            if wire == 2 and path and number == path[0]:
                walk(message[start:place], path[1:])
            elif wire == 2 and (path or number not in _NUMBERS):
                other += place - start
            if other > _OTHER_BYTES:
                raise InputError(
                    f"more than {_OTHER_BYTES:,} bytes besides plain weights (raw, float or double data of "
                    f"initializers); export the network without constants in nodes, texts and metadata"
                )

    walk(memoryview(content), _WEIGHTS)


def read(path: Path) -> TrainedGraph:
    """The graph of an ONNX file; constants are decoded when they are asked for.

    Weights may lie in another file of the same folder, as torch's newer exporter writes them.

    Raises:
        InputError: truncated, damaged, larger than any network that is read, or a graph that contradicts itself.
        UnsupportedError: another opset, functions, several inputs or outputs.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise InputError("not a plain file")
    if found.st_size > _FILE_BYTES:
        raise InputError(f"more than {_FILE_BYTES:,} bytes, the most that is read")
    content = path.read_bytes()
    if not content:
        raise InputError("empty")
    _scan(content)
    return TrainedGraph(onnx.ModelProto.FromString(content), path.parent)
