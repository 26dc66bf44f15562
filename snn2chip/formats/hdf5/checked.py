"""Reading HDF5 that may be damaged or made to harm, before the nir package reads all of it into memory."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any, BinaryIO

import h5py

from snn2chip.errors import InputError, reading
from snn2chip.formats.hdf5.text import variable_texts
from snn2chip.formats.hdf5.values import Budget, check
from snn2chip.text import one_line

_OBJECTS = 200_000  # groups and arrays; a file of the largest networks has some thousands
_DEPTH = 8
_FREE = 2**26  # values that any file may claim: kernels of groups are mostly zeros, and cost nothing in the file
_TEXT = 2**20
_SQUEEZED = 1100  # deflate, the best that NIR files are compressed with, makes 1032 bytes of one


def checked(path: Path) -> io.BytesIO:
    """The bytes of an HDF5 file whose arrays are what they claim: no links elsewhere, no loops, no claimed terabytes.

    Raises:
        InputError: unreadable, truncated, damaged, or larger than any network.
    """
    if not path.is_file():
        raise InputError(f"cannot read '{path}': no such file")
    with reading(path, "not an HDF5 file"):
        content = path.read_bytes()
        memory = io.BytesIO(content)
        with h5py.File(memory, "r") as file:
            _walk(file, str(path), memory, Budget(len(content), _FREE))
    memory.seek(0)
    return memory


def version_of(content: io.BytesIO) -> str | None:
    """The version of the nir package that wrote a file, in letters that a version has; None where none is said."""
    try:
        with h5py.File(content, "r") as file:
            value = file["version"][()]
    except Exception:  # no version, or whatever h5py raises at damage
        return None
    text = value.decode("utf8", "replace") if isinstance(value, bytes) else ""
    return text if re.fullmatch(r"\d{1,4}(\.\w{1,8}){0,4}", text, re.ASCII) else None


def _walk(file: Any, path: str, content: BinaryIO, budget: Budget) -> None:
    waiting: list[tuple[Any, str, int]] = [(file, path, 0)]
    objects = 0
    while waiting:
        group, where, depth = waiting.pop()
        for name in group:
            objects += 1
            inside = f"{where}/{one_line(name)}"
            if objects > _OBJECTS or depth > _DEPTH:
                raise InputError(f"'{path}' is damaged: more than {_OBJECTS:,} objects, or groups that hold themselves")
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise InputError(f"{inside}: a link to elsewhere, which no NIR file has")
            item = group[name]
            if isinstance(item, h5py.Group):
                waiting.append((item, inside, depth + 1))
            elif isinstance(item, h5py.Dataset):
                # whatever the type, it becomes numbers of 8 bytes
                budget.spend(max(_claimed(item, inside) // 8, int(item.size)), inside)
                if item.dtype.kind == "O":  # HDF5 follows a damaged reference to a text into the void
                    variable_texts(item, inside, content, _TEXT)
            else:
                raise InputError(f"{inside}: neither a group nor an array")


def _claimed(item: Any, where: str) -> int:
    """The bytes that reading an array takes, which must be in some proportion to those that are stored."""
    if item.shape is None:
        raise InputError(f"{where}: an array without values")
    text = h5py.check_string_dtype(item.dtype)
    if item.dtype.itemsize > (2**16 if text is not None else 8) or (text is None and item.dtype.kind not in "fiub"):
        raise InputError(f"{where}: values of type {item.dtype}, which no NIR file has")
    check(item, where)
    size = int(item.size) * int(item.dtype.itemsize)
    stored = int(item.id.get_storage_size())
    if size > _SQUEEZED * stored + 1024:
        raise InputError(f"{where}: {size:,} bytes claimed, {stored:,} stored; the file is damaged")
    return size
