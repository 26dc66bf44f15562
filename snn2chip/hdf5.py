"""HDF5 that may be damaged or made to harm: what reading it would take, found out before it is read.

The HDF5 library believes what a file says: a kilobyte of it can claim terabytes that are not stored, name another file,
or hold a deflated chunk that grows until no memory is left. Here only values that stand in the file itself are allowed,
in amounts that have some proportion to its size.

Values of variable length, text as lava-dl writes `neuron/type` or lists as the Heidelberg data sets have them, stand
elsewhere, in a global heap, and the library follows a damaged reference to them without looking: the process ends by a
segmentation fault. They are read from the bytes themselves, every step of the way checked. HDF5 File Format
Specification 3.0, III.E (global heap): a collection is ``GCOL``, version, 3 reserved bytes, its size (8 bytes); then
objects: index (2), reference count (2), reserved (4), size (8), the bytes, padded to 8; index 0 is free space. A
reference is the number of values (4), of text that of its bytes, the address of the collection (8) and the object's
index (4).
"""

from __future__ import annotations

import io
import math
import re
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np
from numpy.typing import NDArray

from snn2chip.errors import InputError, reading
from snn2chip.text import one_line

FREE = 2**24  # values that any file may claim: zeros cost nothing in a compressed file
PER_BYTE = 4  # and so many more for every byte of the file
_CHUNK = 2**28  # bytes; HDF5 takes them whole, however few of its values are used
_HARMLESS = 2**18  # bytes: deflate makes at most 1032 of one, lzf 88
_FILTERS = {1: "gzip", 2: "shuffle", 3: "fletcher32", 32000: "lzf"}
_REFERENCE = np.dtype([("length", "<u4"), ("heap", "<u8"), ("index", "<u4")])
_HEAP = struct.Struct("<4sB3xQ")
_OBJECT = struct.Struct("<HH4xQ")
_LONGEST = 256  # of a layer's or a neuron's type; more is damage
_OBJECTS = 200_000  # groups and arrays; a file of the largest networks has some thousands
_DEPTH = 8
_FREE = 2**26  # as FREE, for a whole NIR file: kernels of groups are mostly zeros, and cost nothing in the file
_TEXT = 2**20  # bytes
_AXES = {"dilation", "input_shape", "input_type", "kernel_size", "output_type", "padding", "shape", "stride"}
_LISTED = 64  # sizes in one of these, each of which nir makes an object of
_SQUEEZED = 1100  # deflate, the best that NIR files are compressed with, makes 1032 bytes of one


@dataclass
class Budget:
    """How many values a file of `size` bytes may still claim, counting what is made of them: one of 8 bytes each."""

    size: int
    free: int = FREE
    spent: int = 0

    def spend(self, count: int, where: str) -> None:
        """Count values.

        Raises:
            InputError: more than a file of this size can mean.
        """
        self.spent += count
        most = self.free + PER_BYTE * self.size
        if self.spent > most:
            raise InputError(
                f"{where}: {self.spent:,} values claimed up to here by a file of {self.size:,} bytes, at most {most:,} "
                f"make sense; the file is damaged, or is no network"
            )


def check(item: h5py.Dataset, where: str) -> None:
    """Refuse an array whose values stand elsewhere, or whose chunks hold more than they claim.

    Raises:
        InputError: as said; or a filter other than gzip, lzf, shuffle and fletcher32, or chunks beyond 256 MiB.
    """
    if item.is_virtual or item.external:
        raise InputError(f"{where}: its values are in another file; write them into this one")
    if item.chunks is None:
        return
    size = item.dtype.itemsize * math.prod(int(side) for side in item.chunks)
    if size > _CHUNK:
        raise InputError(f"{where}: chunks of {size:,} bytes; at most {_CHUNK:,} make sense")
    plist = item.id.get_create_plist()
    filters = [int(plist.get_filter(index)[0]) for index in range(plist.get_nfilters())]
    squeezing = [number for number in filters if number in (1, 32000)]
    if len(squeezing) > 1 or not set(filters) <= set(_FILTERS):
        raise InputError(f"{where}: filters {filters}; one of gzip and lzf is read, and shuffle and fletcher32")
    if not squeezing:
        return
    whole = item.file.id.get_filesize()

    def look(chunk: Any) -> None:
        if chunk.size <= _HARMLESS:
            return
        if chunk.size > whole:
            raise InputError(f"{where}: a chunk of {chunk.size:,} bytes in a file of {whole:,}; the file is damaged")
        if squeezing == [32000]:
            raise InputError(f"{where}: an lzf chunk of {chunk.size:,} bytes; at most {_HARMLESS:,} are read, use gzip")
        stored = item.id.read_direct_chunk(chunk.chunk_offset)[1]
        if len(zlib.decompressobj().decompress(stored, size + 1)) > size:
            raise InputError(f"{where}: a chunk inflates beyond the {size:,} bytes it claims; the file is damaged")

    item.id.chunk_iter(look)


def variable_text(item: h5py.Dataset, where: str) -> str:
    """The one text of variable length that a dataset of a file on disk holds.

    Raises:
        InputError: it is stored in a way this does not read, or damaged.
    """
    with Path(item.file.filename).open("rb") as data:
        return variable_texts(item, where, data, _LONGEST)[0]


def variable_texts(item: h5py.Dataset, where: str, data: BinaryIO, longest: int) -> list[str]:
    """All texts of a dataset, of at most `longest` bytes each; `data` is the file that holds it.

    Raises:
        InputError: they are stored in a way this does not read, or damaged.
    """
    heaps = Heaps(data, where)
    return [heaps.bytes_of(entry, 1, longest).decode("utf-8", "replace") for entry in references(item, where, data)]


def references(item: h5py.Dataset, where: str, data: BinaryIO) -> NDArray[np.void]:
    """Where the values of variable length of a dataset stand, (n,), for `Heaps`; `data` is the file that holds it.

    Raises:
        InputError: they are stored in a way this does not read, or damaged.
    """
    file, count, whole = item.file, int(item.size), data.seek(0, 2)
    if file.userblock_size or file.id.get_create_plist().get_sizes() != (8, 8):
        raise InputError(f"{where}: values of variable length in an HDF5 file of an unusual kind; write it with h5py")
    if count * _REFERENCE.itemsize > whole:
        raise InputError(f"{where}: damaged: {count:,} values of variable length in a file of {whole:,} bytes")
    if item.chunks is None:
        offset = item.id.get_offset()
        if offset is None:
            raise InputError(f"{where}: values of variable length that are not stored in one piece; use fixed length")
        if offset + count * _REFERENCE.itemsize > whole:
            raise InputError(f"{where}: damaged: it points to byte {offset} of {whole}")
        data.seek(offset)
        return np.frombuffer(data.read(count * _REFERENCE.itemsize), _REFERENCE)
    if item.ndim != 1 or item.compression or item.shuffle or item.fletcher32 or item.scaleoffset:
        raise InputError(f"{where}: values of variable length in packed chunks; write them without a filter")
    check(item, where)
    found = np.zeros(count, _REFERENCE)
    each = item.chunks[0]

    def add(chunk: Any) -> None:
        part = found[chunk.chunk_offset[0] : chunk.chunk_offset[0] + each]
        if chunk.size != each * _REFERENCE.itemsize or not 0 <= chunk.byte_offset <= whole - chunk.size:
            raise InputError(f"{where}: damaged: a chunk of {chunk.size} bytes at byte {chunk.byte_offset} of {whole}")
        data.seek(chunk.byte_offset)
        part[:] = np.frombuffer(data.read(chunk.size), _REFERENCE)[: len(part)]

    item.id.chunk_iter(add)
    return found


Objects = dict[int, dict[int, tuple[int, int]]]
"""Place and size of every object of the global heaps that were looked at, by the heap's address."""


class Heaps:
    """The global heaps of a file, where values of variable length stand.

    Args:
        data: the file.
        where: for messages.
        known: what an earlier one has found in the file; added to.
    """

    def __init__(self, data: BinaryIO, where: str, known: Objects | None = None) -> None:
        self.data, self.where = data, where
        self.size = data.seek(0, 2)
        self._found: Objects = {} if known is None else known

    def bytes_of(self, reference: np.void, width: int, most: int) -> bytes:
        """The values, of `width` bytes each, that a reference of `references` points to.

        Raises:
            InputError: there are none, or more than `most`.
        """
        length, heap, wanted = reference.item()
        if not length:
            return b""
        if heap not in self._found:
            self._found[heap] = self._objects(heap)
        at, held = self._found[heap].get(wanted, (0, 0))
        if not length * width <= held or length > most:
            raise InputError(f"{self.where}: damaged: no {length:,} values where it points to")
        self.data.seek(at)
        return self.data.read(length * width)

    def _read(self, layout: struct.Struct, at: int) -> tuple[Any, ...]:
        if not 0 <= at <= self.size - layout.size:
            raise InputError(f"{self.where}: damaged: it points to byte {at} of {self.size}")
        self.data.seek(at)
        return layout.unpack(self.data.read(layout.size))

    def _objects(self, heap: int) -> dict[int, tuple[int, int]]:
        """Place and size of every object of a collection."""
        signature, version, extent = self._read(_HEAP, heap)
        if signature != b"GCOL" or version != 1 or heap + extent > self.size:
            raise InputError(f"{self.where}: damaged: no heap at byte {heap}")
        found: dict[int, tuple[int, int]] = {}
        at = heap + _HEAP.size
        while at + _OBJECT.size <= heap + extent:
            index, _, held = self._read(_OBJECT, at)
            if index == 0:  # the free space; the library goes on behind it, and for ever if it has no size
                if at + held != heap + extent:
                    raise InputError(f"{self.where}: damaged: free space of {held} bytes in a heap of {extent}")
                break
            at += _OBJECT.size
            if held > heap + extent - at:
                raise InputError(f"{self.where}: damaged: values of {held} bytes in a heap of {extent}")
            found.setdefault(index, (at, held))
            at += held + -held % 8
        return found


def require_file(path: Path) -> None:
    """Refuse a path that is no file before it is opened: opening a pipe would wait.

    Raises:
        InputError: it is a folder, or not there.
    """
    if not path.is_file():
        raise InputError(f"cannot read '{path}': {'a folder; name a file in it' if path.is_dir() else 'no such file'}")


def checked(path: Path) -> io.BytesIO:
    """The bytes of an HDF5 file whose arrays are what they claim: no links elsewhere, no loops, no claimed terabytes.

    Raises:
        InputError: unreadable, truncated, damaged, or larger than any network.
    """
    require_file(path)
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
                if name in _AXES and item.size > _LISTED:
                    raise InputError(f"{inside}: {item.size:,} sizes, of at most {_LISTED} axes; the file is damaged")
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
