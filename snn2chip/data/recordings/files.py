"""Files of event cameras, read into `Events`.

.bin      N-MNIST's 40 bits an event: x, y, then one polarity bit and a 23-bit time in microseconds, big-endian
          (Orchard et al. 2015). An event with y = 240 stands for an overflow of the time: those after it are 2^13 us
          later. No sensor size in the file.
.npz      arrays x, y, p, t (or t_us), microseconds; sensor size as `sensor` = (height, width) if it is there.
.aedat    AEDAT 2.0 of a DVS128 (jAER) and AEDAT 3.1 polarity packets (cAER), see `snn2chip.data.recordings.aedat`.
.aedat4   AEDAT 4 (DV), read with `faery` (`snn2chip.data.recordings.library`); so are .raw and .dat (Prophesee) and
          .es.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from snn2chip import npz
from snn2chip.data.recordings.recording import Events, Mender, RawEvents, Sensor, make_events, size_of
from snn2chip.errors import DataError

LIBRARY_SUFFIXES = (".aedat4", ".raw", ".dat", ".es")
SUFFIXES = (".bin", ".npz", ".aedat", *LIBRARY_SUFFIXES)
PIECE_SUFFIXES = (".bin", ".aedat")
"""Formats that are read in bounded memory."""

PIECE = 1 << 16  # events at a time

_OVERFLOW_Y, _OVERFLOW_US = 240, 1 << 13
BIN_PERIOD = 1 << 23
"""Where the 23 bits of a time in a .bin run over, in microseconds."""


def read_recording(
    path: str | Path, sensor: Sequence[int] | None = None, *, assumed: Sequence[int] | None = None
) -> Events:
    """Read one recording; which format it is, its name's ending says.

    Args:
        sensor: (height, width) in pixels; needed where the file does not say it, and must agree where it does.
        assumed: taken where neither the file nor `sensor` says it.

    Raises:
        DataError: no such file, an unknown or damaged format, a sensor size that is missing or contradicts the
            file's, or faults that are not safe to put right (see `make_events`).
        SetupError: the format needs the optional extra `events`.
    """
    path = Path(path)
    with readable(path):
        suffix = path.suffix.lower()
        if suffix in PIECE_SUFFIXES:
            with path.open("rb") as file:
                size, period, raw = _stored(file, path, sensor, assumed, max(1, path.stat().st_size))
                whole = RawEvents.join(raw)
            return make_events(whole.x, whole.y, whole.p, whole.t, size, str(path), period=period, cut=whole.cut)
        if suffix == ".npz":
            return read_npz(path, sensor, assumed)
        from snn2chip.data.recordings.library import read_with_library

        return read_with_library(path, sensor)


def read_in_pieces(
    path: str | Path, sensor: Sequence[int] | None = None, *, assumed: Sequence[int] | None = None, most: int = PIECE
) -> Iterator[Events]:
    """One recording as pieces of about `most` events, in time's order, also across pieces: in bounded memory.

    So are .bin and .aedat; the other formats are containers whose libraries give all events at once, one piece.

    Arguments are those of `read_recording`. Joined, the pieces hold its events, and their faults add up to its faults.
    Events are held back until none can come before them, which is `JITTER_US`.

    Raises:
        DataError: as `read_recording`, each fault when it is reached; the share of events outside the sensor is that
            of the events so far, from 10,000 on, and of all at the end.
        SetupError: the format needs the optional extra `events`.
    """
    path = Path(path)
    with readable(path):
        if path.suffix.lower() not in PIECE_SUFFIXES:
            yield read_recording(path, sensor, assumed=assumed)
            return
        with path.open("rb") as file:
            size, period, raw = _stored(file, path, sensor, assumed, most)
            mender = Mender(size, str(path), period)
            for part in raw:
                events = mender.push(part)
                if len(events) or events.faults:
                    yield events
            yield mender.finish()


def _stored(
    file: BinaryIO, path: Path, sensor: Sequence[int] | None, assumed: Sequence[int] | None, most: int
) -> tuple[Sensor, int | None, Iterator[RawEvents]]:
    """The sensor, where the time counter wraps, and the events as a .bin or .aedat stores them, `most` at a time."""
    if path.suffix.lower() == ".bin":
        size = size_of(path, None, sensor, assumed)
        return size, BIN_PERIOD, bin_pieces(file, size, most)
    from snn2chip.data.recordings.aedat import aedat_pieces

    return aedat_pieces(file, path, sensor, assumed, most)


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """A recording that is there, of a format known by its name; what the system says against reading it, in words.

    Raises:
        DataError: no such file or format, or the system refuses.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError(
            f"'{path}': '{suffix or path.name}' is no format of recordings; those are {', '.join(SUFFIXES)}"
        )
    try:
        if not path.is_file():
            raise DataError(f"cannot read '{path}': no such file")
        yield
    except OSError as error:
        raise DataError(f"cannot read '{path}': {error.strerror or error}; check the file") from error


def bin_pieces(file: BinaryIO, sensor: Sequence[int], most: int) -> Iterator[RawEvents]:
    """N-MNIST's 5-byte events as they are stored, up to `most` at a time; see the module."""
    overflows = 0
    while content := file.read(5 * most):
        whole = len(content) // 5
        word = np.frombuffer(content, np.uint8, whole * 5).reshape(whole, 5).astype(np.int64)
        t = (word[:, 2] & 0x7F) << 16 | word[:, 3] << 8 | word[:, 4]
        x, y, p = word[:, 0], word[:, 1], word[:, 2] >> 7
        if sensor[0] <= _OVERFLOW_Y:
            marks = y == _OVERFLOW_Y
            t = (t + _OVERFLOW_US * (overflows + np.cumsum(marks)))[~marks]
            x, y, p = x[~marks], y[~marks], p[~marks]
            overflows += int(marks.sum())
        yield RawEvents(x, y, p, t, cut=len(content) - whole * 5)


def read_npz(path: Path, sensor: Sequence[int] | None, assumed: Sequence[int] | None = None) -> Events:
    """An .npz with x, y, p and t (or t_us)."""
    arrays = npz.load(path, ("x", "y", "p", "t", "t_us", "sensor", "offsets"), error=DataError)
    if "offsets" in arrays:
        raise DataError(f"'{path}' holds several recordings (it has 'offsets'); it is a data set, not a recording")
    if "t" in arrays and "t_us" in arrays:
        raise DataError(f"'{path}' has both 't' and 't_us'; keep one of them, in microseconds")
    if "t_us" in arrays:
        arrays["t"] = arrays["t_us"]
    for name in ("x", "y", "p", "t"):
        found = arrays.get(name)
        if found is None or found.ndim != 1 or found.dtype.kind not in "iub":
            what = "is not there" if found is None else f"is {found.dtype} of shape {found.shape}"
            raise DataError(f"'{path}': array '{name}' {what}; expected integers (n,), times in microseconds")
    stated = arrays.get("sensor")
    if stated is not None and (stated.shape != (2,) or stated.dtype.kind not in "iu"):
        raise DataError(f"'{path}': 'sensor' is {stated.dtype} of shape {stated.shape}; expected (height, width)")
    size = size_of(path, None if stated is None else stated.tolist(), sensor, assumed)
    x, y, p, t = (arrays[name] for name in ("x", "y", "p", "t"))
    return make_events(x, y, p, t, size, str(path), period=counter_period(t))


def counter_period(t: NDArray[Any]) -> int | None:
    """Where times stored in this type run over: 2^32 and less wrap within hours, 64 bits never."""
    bits = 8 * t.dtype.itemsize
    return 1 << bits if bits <= 32 else None
