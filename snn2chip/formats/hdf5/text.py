"""Text of variable length in an HDF5 file, read from the bytes themselves.

lava-dl writes `neuron/type` so. The text stands elsewhere, in a global heap, and the HDF5 library follows a damaged
reference to it without looking: the process ends by a segmentation fault. Here every step of the way is checked.

HDF5 File Format Specification 3.0, III.E (global heap): a collection is ``GCOL``, version, 3 reserved bytes, its size
(8 bytes); then objects: index (2), reference count (2), reserved (4), size (8), the bytes, padded to 8; index 0 is
free space. A reference is the length (4), the address of the collection (8) and the object's index (4).
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, BinaryIO

import h5py

from snn2chip.errors import InputError

_REFERENCE = struct.Struct("<IQI")
_HEAP = struct.Struct("<4sB3xQ")
_OBJECT = struct.Struct("<HH4xQ")
_LONGEST = 256  # of a layer's or a neuron's type; more is damage


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
    file = item.file
    if file.userblock_size or file.id.get_create_plist().get_sizes() != (8, 8):
        raise InputError(f"{where}: text of variable length in an HDF5 file of an unusual kind; write it with h5py")
    offset = item.id.get_offset()
    if offset is None:
        raise InputError(f"{where}: text of variable length that is not stored in one piece; use fixed length")
    size = data.seek(0, 2)

    def read(layout: struct.Struct, at: int) -> tuple[Any, ...]:
        if not 0 <= at <= size - layout.size:
            raise InputError(f"{where}: damaged: its text points to byte {at} of {size}")
        data.seek(at)
        return layout.unpack(data.read(layout.size))

    def objects(heap: int) -> dict[int, tuple[int, int]]:
        """Place and size of every object of a collection."""
        signature, version, extent = read(_HEAP, heap)
        if signature != b"GCOL" or version != 1 or heap + extent > size:
            raise InputError(f"{where}: damaged: no heap of texts at byte {heap}")
        found: dict[int, tuple[int, int]] = {}
        at = heap + _HEAP.size
        while at + _OBJECT.size <= heap + extent:
            index, _, held = read(_OBJECT, at)
            if index == 0:  # the free space ends it, whatever it says
                break
            at += _OBJECT.size
            if held > heap + extent - at:
                raise InputError(f"{where}: damaged: a text of {held} bytes in a heap of {extent}")
            found.setdefault(index, (at, held))
            at += held + -held % 8
        return found

    heaps: dict[int, dict[int, tuple[int, int]]] = {}
    texts = []
    for number in range(int(item.size)):
        length, heap, wanted = read(_REFERENCE, offset + number * _REFERENCE.size)
        if not length:
            texts.append("")
            continue
        if heap not in heaps:
            heaps[heap] = objects(heap)
        at, held = heaps[heap].get(wanted, (0, 0))
        if not length <= min(held, longest):
            raise InputError(f"{where}: damaged: no text of {length} letters where it points to")
        data.seek(at)
        texts.append(data.read(length).decode("utf-8", "replace"))
    return texts
