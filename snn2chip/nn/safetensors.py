"""model.safetensors: the content of model.pt in the file format of huggingface's package safetensors.

    8 bytes       length of the header, little-endian
    header        JSON: {name: {"dtype", "shape", "data_offsets": [first, last + 1]}, "__metadata__": {key: text}}
    the rest      the tensors' values, little-endian, row-major, one after another without gaps

As theirs has it, the metadata's `format` is "pt"; what model.pt holds beside tensors are texts of JSON: `recipe` or
`graph`, and all the rest in `snn2chip`. The package itself is not needed: it and this read each other's files.

Source: https://github.com/huggingface/safetensors, README, "Format".
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, TypeGuard

import torch

from snn2chip import files
from snn2chip.errors import InputError, reading
from snn2chip.text import one_line

SUFFIX = ".safetensors"
_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
}
_NAMES = {kind: name for name, kind in _TYPES.items()}
_APART = ("recipe", "graph")  # what has a text of its own in the metadata
_TENSORS = "samples"  # beside `state`; no tensor of a state has this name
_HEADER_MOST = 64_000_000


def dump(content: dict[str, Any]) -> bytes:
    """The file of a model's content.

    Raises:
        InputError: a number beside the tensors is NaN or infinite.
    """
    tensors: dict[str, torch.Tensor] = {**content["state"]}
    if _TENSORS in content:
        tensors[_TENSORS] = content[_TENSORS]
    plain = {key: value for key, value in content.items() if key not in ("state", _TENSORS)}
    rest = {key: value for key, value in plain.items() if key not in _APART}
    try:
        said = {key: json.dumps(plain[key], allow_nan=False) for key in _APART if key in plain}
        said |= {"format": "pt", "snn2chip": json.dumps(rest, allow_nan=False)}
    except ValueError:
        raise InputError("NaN or infinite numbers beside the tensors, which JSON cannot say; save as .pt") from None
    header: dict[str, Any] = {"__metadata__": said}
    values, end = [], 0
    for name, tensor in tensors.items():
        part = tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape)}
        header[name]["data_offsets"] = [end, end + len(part)]
        values.append(part)
        end += len(part)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return b"".join((len(text).to_bytes(8, "little"), text, *values))


def is_one(path: Path) -> bool:
    """Whether a file begins as one: 8 bytes, then a table of JSON.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"


def load(path: Path) -> dict[str, Any]:
    """The content of a model, as `dump` was given it.

    Raises:
        InputError: unreadable, truncated or damaged, or tensors without the network that they are of.
    """
    with reading(path, "no safetensors file"):
        content = path.read_bytes()
        try:
            return _content(content)
        except ValueError as error:
            raise InputError(f"'{path}' is damaged: {one_line(str(error), 400)}") from None


def _content(content: bytes) -> dict[str, Any]:
    """As `load`.

    Raises:
        ValueError: what is wrong, without the file's name.
    """
    length = int.from_bytes(content[:8], "little")
    if not 2 <= length <= min(len(content) - 8, _HEADER_MOST):
        raise ValueError(f"a header of {length:,} bytes in a file of {len(content):,}")
    header = files.parse(content[8 : 8 + length], "JSON")
    said = header.pop("__metadata__", {}) if isinstance(header, dict) else None
    if not isinstance(said, dict) or not all(isinstance(value, str) for value in said.values()):
        raise ValueError("its header is no table with texts as metadata")
    if "snn2chip" not in said:
        raise ValueError(
            "it holds tensors, but not the network that they are of; load them into their module, give that to "
            "snn2chip.deploy, and save what it returns"
        )
    rest = files.parse(said["snn2chip"], "JSON")
    if not isinstance(rest, dict):
        raise ValueError("its metadata 'snn2chip' is no table")
    tensors = _tensors(header, memoryview(content)[8 + length :])
    found: dict[str, Any] = rest | {key: files.parse(said[key], "JSON") for key in _APART if key in said}
    if _TENSORS in tensors:
        found[_TENSORS] = tensors.pop(_TENSORS)
    return {**found, "state": tensors}


def _tensors(header: dict[str, Any], values: memoryview) -> dict[str, torch.Tensor]:
    """The tensors of a header, which lie one after another.

    Raises:
        ValueError: they do not, or an entry is no tensor's.
    """
    places = []
    for name, entry in header.items():
        named = entry if isinstance(entry, dict) else {}
        kind, shape, ends = (named.get(key) for key in ("dtype", "shape", "data_offsets"))
        start, stop = ends if _sizes(ends) and len(ends) == 2 else (1, 0)
        if not _sizes(shape) or not start <= stop <= len(values):
            raise ValueError(f"tensor '{one_line(name)}': no shape and place in the {len(values):,} bytes of values")
        if not isinstance(kind, str) or kind not in _TYPES:
            raise ValueError(f"tensor '{one_line(name)}': type {one_line(repr(kind))} is none of {', '.join(_TYPES)}")
        if stop - start != math.prod(shape) * _TYPES[kind].itemsize:
            raise ValueError(f"tensor '{one_line(name)}': {stop - start:,} bytes are not {one_line(shape)} of {kind}")
        places.append((start, stop, name, _TYPES[kind], shape))
    end, found = 0, {}
    for start, stop, name, dtype, shape in sorted(places, key=lambda place: place[:2]):
        if start != end:
            raise ValueError(f"tensor '{one_line(name)}': begins at byte {start:,}, the one before it ends at {end:,}")
        part = bytearray(values[start:stop])
        tensor = torch.frombuffer(part, dtype=dtype) if part else torch.empty(0, dtype=dtype)
        found[name], end = tensor.reshape(shape), stop
    if end != len(values):
        raise ValueError(f"{len(values) - end:,} bytes behind its last tensor")
    return {name: found[name] for name in header}


def _sizes(value: Any) -> TypeGuard[list[int]]:
    """Whether a value is a list of sizes, or of places in a file."""
    sizes = value if isinstance(value, list) and len(value) <= 16 else [None]
    return all(type(size) is int and 0 <= size < 2**48 for size in sizes)
