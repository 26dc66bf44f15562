"""AEDAT 2.0 and 3.1: the formats of jAER and cAER, in which DVS Gesture and the older data sets were published.

Both begin with lines that start with ``#``; the first says ``#!AER-DAT2.0`` or ``#!AER-DAT3.1``.

2.0   8 bytes an event, big-endian: a 32-bit address and a 32-bit time in microseconds. Addresses are those of the
      DVS128 in jAER: bits 1..7 are x counted from the right, bits 8..14 y counted from below, bit 0 is 1 where it
      became *darker*. Bit 15 marks what is no event of a pixel.
3.1   packets, little-endian: a header of 28 bytes (type, source, event size, offset of the time, how often that
      wrapped, capacity, number, valid ones), then room for `capacity` events, of which `number` are there. Polarity
      packets (type 1) hold 8 bytes an event: bit 0 valid, bit 1 ON, bits 2..16 y, bits 17..31 x, and a 31-bit time in
      microseconds. Others are passed over.

Written here because no library that we could find reads them: faery and aedat know AEDAT 4 only, and Tonic 1.7 takes
every packet of a 3.1 file for polarity events.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from snn2chip.data.recordings.recording import RawEvents, Sensor, size_of
from snn2chip.errors import DataError
from snn2chip.text import one_line

DVS128 = (128, 128)
_HEADER = struct.Struct("<HHIIIIII")
_POLARITY = 1
_END = b"#!END-HEADER"
_LINE = 1 << 16  # longest line of a header
_NONE = np.empty(0, np.int64)


def aedat_pieces(
    file: BinaryIO, path: Path, sensor: Sequence[int] | None, assumed: Sequence[int] | None, most: int
) -> tuple[Sensor, int | None, Iterator[RawEvents]]:
    """The sensor, where the time counter wraps, and the events as they are stored, up to `most` at a time.

    Raises:
        DataError: another version, no such header; damaged packets when they are reached.
    """
    if _version(file, path) == "3.1":
        # no polarity packet says how large the sensor is: DVS128 unless said
        return size_of(path, None, sensor, assumed or DVS128), None, _pieces_3(file, path, most)
    size = size_of(path, None, sensor, DVS128)
    if size != DVS128:
        raise DataError(
            f"'{path}': AEDAT 2.0 is read for the DVS128 (128x128 pixels), not for a sensor of {size[1]}x{size[0]}; "
            f"convert the recording to .npz or .aedat4"
        )
    return size, 1 << 32, _pieces_2(file, most)


def _version(file: BinaryIO, path: Path) -> str:
    """The version; the file is left where its data begin."""
    first = file.readline(_LINE)
    version = first.strip().removeprefix(b"#!AER-DAT").decode("ascii", "replace")
    if not first.startswith(b"#!AER-DAT") or version not in ("2.0", "3.1"):
        said = f"AEDAT {one_line(version, 20)}" if first.startswith(b"#!AER-DAT") else "no AEDAT file"
        raise DataError(f"'{path}' is {said}; 2.0 and 3.1 are read here, and AEDAT 4 under the ending .aedat4")
    while True:
        place = file.tell()
        line = file.readline(_LINE)
        if not line.startswith(b"#"):
            file.seek(place)
            return version
        if not line.endswith(b"\n"):
            raise DataError(f"'{path}' is truncated: it ends within its header; fetch it again")
        if line.startswith(_END):
            return version


def _pieces_2(file: BinaryIO, most: int) -> Iterator[RawEvents]:
    while content := file.read(8 * most):
        whole = len(content) // 8
        words = np.frombuffer(content, ">u4", whole * 2).reshape(whole, 2).astype(np.int64)
        words = words[(words[:, 0] & 0x8000) == 0]
        address = words[:, 0]
        x, y = 127 - (address >> 1 & 0x7F), 127 - (address >> 8 & 0x7F)
        yield RawEvents(x, y, 1 - (address & 1), words[:, 1], cut=len(content) - whole * 8)


def _pieces_3(file: BinaryIO, path: Path, most: int) -> Iterator[RawEvents]:
    data, end = file.tell(), file.seek(0, os.SEEK_END)
    place = data
    while place < end:
        file.seek(place)
        start = place + _HEADER.size
        if start > end:
            yield RawEvents(_NONE, _NONE, _NONE, _NONE, cut=end - place)
            return
        kind, _, size, _, overflow, capacity, number, _ = _HEADER.unpack(file.read(_HEADER.size))
        if size < 4 or number > capacity:
            raise DataError(
                f"'{path}': packet at byte {place - data:,} of its data says {number:,} of {capacity:,} events of "
                f"{size:,} bytes; the file is damaged or no AEDAT 3.1, fetch it again"
            )
        there = min(number, (end - start) // size)
        if kind == _POLARITY:
            if size != 8:
                raise DataError(f"'{path}': polarity events of {size} bytes at byte {place - data:,}; AEDAT 3.1 has 8")
            for first in range(0, there, most):
                some = min(most, there - first)
                words = np.frombuffer(file.read(8 * some), "<u4", 2 * some).reshape(some, 2).astype(np.int64)
                words = words[(words[:, 0] & 1) == 1]
                word, t = words[:, 0], words[:, 1] + (overflow << 31)
                yield RawEvents(word >> 17 & 0x7FFF, word >> 2 & 0x7FFF, word >> 1 & 1, t)
        if there < number:
            yield RawEvents(_NONE, _NONE, _NONE, _NONE, cut=end - start - there * size)
            return
        place = start + capacity * size
