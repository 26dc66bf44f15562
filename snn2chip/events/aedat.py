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

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from snn2chip.errors import DataError
from snn2chip.events.formats import size_of
from snn2chip.events.recording import Events, make_events

DVS128 = (128, 128)
_HEADER = struct.Struct("<HHIIIIII")
_POLARITY = 1
_END = b"#!END-HEADER"


def read_aedat(path: Path, sensor: Sequence[int] | None) -> Events:
    """Read AEDAT 2.0 or 3.1.

    Raises:
        DataError: another version, no such header, or a damaged packet.
    """
    content = path.read_bytes()
    start, version = _header(content, path)
    if version.startswith("2"):
        return _read_2(content[start:], path, sensor)
    return _read_3(content[start:], path, sensor)


def _header(content: bytes, path: Path) -> tuple[int, str]:
    """Where the data begin, and the version."""
    first = content[: content.find(b"\n") + 1].strip()
    version = first.removeprefix(b"#!AER-DAT").decode("ascii", "replace")
    if not first.startswith(b"#!AER-DAT") or version not in ("2.0", "3.1"):
        said = f"AEDAT {version}" if first.startswith(b"#!AER-DAT") else "no AEDAT file"
        raise DataError(f"'{path}' is {said}; 2.0 and 3.1 are read here, and AEDAT 4 under the ending .aedat4")
    start = 0
    while content[start : start + 1] == b"#":
        end = content.find(b"\n", start)
        if end < 0:
            raise DataError(f"'{path}' is truncated: it ends within its header; fetch it again")
        last = content[start:end].startswith(_END)
        start = end + 1
        if last:
            break
    return start, version


def _read_2(body: bytes, path: Path, sensor: Sequence[int] | None) -> Events:
    size = size_of(path, None, DVS128 if sensor is None else sensor)
    if size != DVS128:
        raise DataError(
            f"'{path}': AEDAT 2.0 is read for the DVS128 (128x128 pixels), not for a sensor of {size[1]}x{size[0]}; "
            f"convert the recording to .npz or .aedat4"
        )
    whole = len(body) // 8
    words = np.frombuffer(body, ">u4", whole * 2).reshape(whole, 2).astype(np.int64)
    words = words[(words[:, 0] & 0x8000) == 0]
    address = words[:, 0]
    return make_events(
        127 - (address >> 1 & 0x7F),
        127 - (address >> 8 & 0x7F),
        1 - (address & 1),
        words[:, 1],
        size,
        str(path),
        period=1 << 32,
        cut=len(body) - whole * 8,
    )


def _read_3(body: bytes, path: Path, sensor: Sequence[int] | None) -> Events:
    parts: list[NDArray[np.uint32]] = []
    overflows: list[NDArray[np.int64]] = []
    place = cut = 0
    while place < len(body):
        if place + _HEADER.size > len(body):
            cut = len(body) - place
            break
        kind, _, size, _, overflow, capacity, number, _ = _HEADER.unpack_from(body, place)
        start = place + _HEADER.size
        if size < 4 or number > capacity:
            raise DataError(
                f"'{path}': packet at byte {place:,} of its data says {number:,} of {capacity:,} events of {size:,} "
                f"bytes; the file is damaged or no AEDAT 3.1, fetch it again"
            )
        there = min(number, (len(body) - start) // size)
        if kind == _POLARITY:
            if size != 8:
                raise DataError(f"'{path}': polarity events of {size} bytes at byte {place:,}; AEDAT 3.1 has 8")
            parts.append(np.frombuffer(body, "<u4", 2 * there, start).reshape(there, 2))
            overflows.append(np.full(there, overflow, np.int64))
        if there < number:
            cut = len(body) - start - there * size
            break
        place = start + capacity * size
    words = np.concatenate(parts) if parts else np.empty((0, 2), np.uint32)
    data, t = words[:, 0].astype(np.int64), words[:, 1].astype(np.int64)
    if overflows:
        t = t + (np.concatenate(overflows) << 31)
    valid = (data & 1) == 1
    data, t = data[valid], t[valid]
    # no polarity packet says how large the sensor is: DVS128 unless said
    size_ = size_of(path, None, DVS128 if sensor is None else sensor)
    return make_events(data >> 17 & 0x7FFF, data >> 2 & 0x7FFF, data >> 1 & 1, t, size_, str(path), cut=cut)
