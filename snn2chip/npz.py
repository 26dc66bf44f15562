"""Arrays in an .npz, read so that a file of any making takes no more memory than its arrays and ends in one line.

zipfile and numpy believe what a file says: a kilobyte may claim an array of terabytes, an encrypted or a later kind of
archive is a RuntimeError or NotImplementedError, a text in the place of an array is given as bytes.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from snn2chip.errors import InputError, reading
from snn2chip.text import one_line

_SQUEEZED = 1100  # deflate makes at most 1032 bytes of one

Head = tuple[tuple[int, ...], np.dtype[Any]]
"""Shape and type of an array."""


def heads(path: str | Path, *, error: type[InputError] = InputError) -> dict[str, Head]:
    """The arrays of an .npz by name, none of them read.

    Raises:
        InputError (or `error`): unreadable, damaged, encrypted, an array that is not stored whole, or objects.
    """
    with reading(path, "not an .npz", error=error, remedy="write it with numpy.savez"):
        with Path(path).open("rb") as file:
            if file.read(len(npy.MAGIC_PREFIX)) == npy.MAGIC_PREFIX:
                raise error(f"'{path}' is a single array, not an .npz; write it with numpy.savez")
        with zipfile.ZipFile(path) as archive:
            return {entry.filename.removesuffix(".npy"): _head(archive, entry) for entry in archive.infolist()}


def _head(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Head:
    """Shape and type as an entry's first bytes say, if as many values follow."""
    name = one_line(entry.filename)
    with archive.open(entry) as file:
        try:
            version = npy.read_magic(file)
            read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, _, dtype = read(file)
        except ValueError as problem:
            raise ValueError(f"'{name}' in it is no array ({problem})") from None
        if dtype.hasobject:
            raise ValueError(f"'{name}' in it holds objects, not numbers")
        size = math.prod(shape) * dtype.itemsize
        if min(shape, default=0) < 0 or file.tell() + size != entry.file_size:
            raise ValueError(f"'{name}' in it claims {shape} values of {dtype}, {entry.file_size:,} bytes are there")
        if entry.file_size > _SQUEEZED * entry.compress_size + 1024:
            raise ValueError(f"'{name}' in it claims {entry.file_size:,} bytes, {entry.compress_size:,} are stored")
    return tuple(shape), dtype


def load(
    path: str | Path, names: Collection[str] | None = None, *, error: type[InputError] = InputError
) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz by name; with `names` those of them that it holds.

    Raises:
        InputError (or `error`): as `heads`, or a checksum that does not fit.
        NotEnoughMemoryError: they are larger than what is free.
    """
    wanted = [name for name in heads(path, error=error) if names is None or name in names]
    with (
        reading(path, "not an .npz", error=error, remedy="write it with numpy.savez"),
        np.load(Path(path), allow_pickle=False) as file,
    ):
        return {name: file[name] for name in wanted}
