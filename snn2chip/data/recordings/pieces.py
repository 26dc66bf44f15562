"""A recording piece by piece, in bounded memory: what `read_recording` gives, cut somewhere.

.bin and .aedat are read so; the other formats are containers whose libraries give all events at once, and come as one
piece.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snn2chip.data.recordings.files import BIN_PERIOD, bin_pieces, read_recording, readable
from snn2chip.data.recordings.recording import (
    JITTER_US,
    OUTSIDE_SHARE,
    Events,
    Faults,
    RawEvents,
    Sensor,
    check_times,
    size_of,
)
from snn2chip.errors import DataError

PIECE_SUFFIXES = (".bin", ".aedat")
"""Formats that are read in bounded memory."""

PIECE = 1 << 16  # events at a time
_ENOUGH = 10_000  # events, before a share of them says something


def read_in_pieces(
    path: str | Path, sensor: Sequence[int] | None = None, *, assumed: Sequence[int] | None = None, most: int = PIECE
) -> Iterator[Events]:
    """One recording as pieces of about `most` events, in time's order, also across pieces.

    Arguments are those of `read_recording`. Joined, the pieces hold its events, and their faults add up to its faults.
    Events are held back until none can come before them, which is `JITTER_US`.

    Raises:
        DataError: as `read_recording`, each fault when it is reached; the share of events outside the sensor is that
            of the events so far, from 10,000 on, and of all at the end.
        SetupError: the format needs the optional extra `events`.
    """
    path = Path(path)
    with readable(path):
        suffix = path.suffix.lower()
        if suffix not in PIECE_SUFFIXES:
            yield read_recording(path, sensor, assumed=assumed)
            return
        with path.open("rb") as file:
            period: int | None
            if suffix == ".bin":
                size, period = size_of(path, None, sensor, assumed), BIN_PERIOD
                raw = bin_pieces(file, size, most)
            else:
                from snn2chip.data.recordings.aedat import aedat_pieces

                size, period, raw = aedat_pieces(file, path, sensor, assumed, most)
            mender = _Mender(size, str(path), period)
            for part in raw:
                events = mender.push(part)
                if len(events) or events.faults:
                    yield events
            yield mender.finish()


class _Mender:
    """`make_events` for a recording that comes in parts; keeps what the next part needs."""

    def __init__(self, sensor: Sensor, source: str, period: int | None) -> None:
        self.sensor, self.source, self.period = sensor, source, period
        self._seen = self._outside = self._inside = 0
        self._offset = 0  # of the wraps so far, in microseconds
        self._last: int | None = None  # time as stored
        self._latest: int | None = None  # time, wraps undone
        nothing = np.empty(0, np.int64)
        self._held = (nothing, nothing, nothing, nothing)  # x, y, p, t, sorted

    def push(self, raw: RawEvents) -> Events:
        """The events that no later part can come before."""
        check_times(raw.t, self.source)
        time, wrapped = self._unwrap(raw.t.astype(np.int64))
        height, width = self.sensor
        inside = (raw.x >= 0) & (raw.x < width) & (raw.y >= 0) & (raw.y < height)
        outside = len(time) - int(inside.sum())
        self._seen += len(time)
        self._outside += outside
        if self._seen >= _ENOUGH:
            self._check_outside()
        backwards = self._check_order(time[inside])
        new = tuple(column[inside].astype(np.int64) for column in (raw.x, raw.y, raw.p, time))
        columns = tuple(np.concatenate(pair) for pair in zip(self._held, new, strict=True))
        if backwards:
            order = np.argsort(columns[3], kind="stable")
            columns = tuple(column[order] for column in columns)
        ready = 0
        if self._latest is not None:
            ready = int(np.searchsorted(columns[3], self._latest - JITTER_US, side="right"))
        x, y, p, t = columns
        self._held = (x[ready:], y[ready:], p[ready:], t[ready:])
        faults = Faults(cut=raw.cut, wrapped=wrapped, backwards=backwards, outside=outside)
        return self._events((x[:ready], y[:ready], p[:ready], t[:ready]), faults)

    def finish(self) -> Events:
        """What was held back."""
        self._check_outside()
        return self._events(self._held, Faults())

    def _events(self, columns: tuple[NDArray[Any], ...], faults: Faults) -> Events:
        x, y, p, t = columns
        on = (p > 0).astype(np.uint8)
        return Events(x.astype(np.int16), y.astype(np.int16), on, t, self.sensor, self.source, faults)

    def _unwrap(self, t: NDArray[np.int64]) -> tuple[NDArray[np.int64], int]:
        if self.period is None or not len(t):
            return t, 0
        before = t[0] if self._last is None else self._last
        wraps = np.cumsum(np.diff(t, prepend=before) < -(self.period // 2))
        risen = t + self._offset + self.period * wraps
        self._last = int(t[-1])
        self._offset += self.period * int(wraps[-1])
        return risen, int(wraps[-1])

    def _check_outside(self) -> None:
        if self._outside > OUTSIDE_SHARE * self._seen:
            height, width = self.sensor
            raise DataError(
                f"'{self.source}': {self._outside:,} of {self._seen:,} events lie outside the sensor of "
                f"{width}x{height} pixels; name the camera's own size with sensor = [height, width]"
            )

    def _check_order(self, t: NDArray[np.int64]) -> int:
        """How many events are late, by no more than what sorting repairs."""
        if not len(t):
            return 0
        latest = np.maximum.accumulate(t if self._latest is None else np.maximum(t, self._latest))
        lag = latest - t
        worst = int(lag.argmax())
        if lag[worst] > JITTER_US:
            raise DataError(
                f"'{self.source}': time runs backwards by {lag[worst] / 1e6:.3f} s at event {self._inside + worst:,}, "
                f"more than the {JITTER_US / 1e6:g} s that sorting repairs: a clock was reset; cut the recording there"
            )
        self._latest = int(latest[-1])
        self._inside += len(t)
        return int(np.count_nonzero(lag))
