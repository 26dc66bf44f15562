"""What reading an array of an HDF5 file would take, found out before it is read.

The HDF5 library believes what a file says: a kilobyte of it can claim terabytes that are not stored, name another file,
or hold a deflated chunk that grows until no memory is left. Here only values that stand in the file itself are allowed,
in amounts that have some proportion to its size.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import h5py

from snn2chip.errors import InputError

FREE = 2**24  # values that any file may claim: zeros cost nothing in a compressed file
PER_BYTE = 4  # and so many more for every byte of the file
_CHUNK = 2**28  # bytes; HDF5 takes them whole, however few of its values are used
_HARMLESS = 2**18  # bytes: deflate makes at most 1032 of one, lzf 88
_FILTERS = {1: "gzip", 2: "shuffle", 3: "fletcher32", 32000: "lzf"}


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
    size = item.dtype.itemsize
    for side in item.chunks:
        size *= int(side)
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
