"""A recording of an event camera, and what is done about its faults: each is counted, or refused."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snn2chip.errors import DataError

JITTER_US = 10_000
"""Events may be stored this much after a later one, in microseconds, and are sorted; beyond it the clock jumped."""

OUTSIDE_SHARE = 0.1
"""Largest share of events outside the sensor that is left out; with more of them the sensor size must be wrong."""

Sensor = tuple[int, int]
"""(height, width) in pixels."""

_ENOUGH = 10_000  # events, before a share of them says something
LATEST = 2**62
"""Times beyond are damage, in microseconds."""

_WORDS = {
    "cut": ("byte after the last whole event", "bytes after the last whole event"),
    "wrapped": ("wrap of the time counter, undone", "wraps of the time counter, undone"),
    "backwards": ("event out of order in time, sorted", "events out of order in time, sorted"),
    "outside": ("event outside the sensor, left out", "events outside the sensor, left out"),
}


@dataclass(frozen=True)
class Faults:
    """What was wrong in recordings and could be put right.

    Attributes:
        cut: bytes at the end of a truncated file that are no whole event.
        wrapped: how often the file's time counter ran over.
        backwards: events stored after a later one, by at most `JITTER_US`.
        outside: events with coordinates outside the sensor.
    """

    cut: int = 0
    wrapped: int = 0
    backwards: int = 0
    outside: int = 0

    def __add__(self, other: Faults) -> Faults:
        return Faults(*(getattr(self, item.name) + getattr(other, item.name) for item in fields(self)))

    def __bool__(self) -> bool:
        return any(getattr(self, item.name) for item in fields(self))

    def __str__(self) -> str:
        counts = ((getattr(self, item.name), _WORDS[item.name]) for item in fields(self))
        return "; ".join(f"{count:,} {words[count > 1]}" for count, words in counts if count)


@dataclass(frozen=True, eq=False)
class Events:
    """Events of one recording, sorted by time.

    Attributes:
        x, y: int16 (n,), pixels from the left and from the top, 0..width - 1 and 0..height - 1.
        p: uint8 (n,), 1 where it became brighter (ON), 0 where darker (OFF).
        t: int64 (n,), microseconds, never falling; the origin is the recording's own.
        sensor: (height, width).
        source: the file.
        faults: what was put right while reading.
    """

    x: NDArray[np.int16]
    y: NDArray[np.int16]
    p: NDArray[np.uint8]
    t: NDArray[np.int64]
    sensor: Sensor
    source: str
    faults: Faults = Faults()

    def __len__(self) -> int:
        return len(self.t)

    def part(self, start: int, stop: int | None = None) -> Events:
        """The events number start..stop - 1, all to the end for None."""
        some = slice(start, stop)
        return replace(self, x=self.x[some], y=self.y[some], p=self.p[some], t=self.t[some])

    @property
    def duration_us(self) -> int:
        """Microseconds from the first event to the last."""
        return int(self.t[-1] - self.t[0]) if len(self) else 0


@dataclass(frozen=True, eq=False)
class RawEvents:
    """Columns of events as a file holds them, times in microseconds, and bytes left over at its end."""

    x: NDArray[Any]
    y: NDArray[Any]
    p: NDArray[Any]
    t: NDArray[Any]
    cut: int = 0

    @classmethod
    def join(cls, parts: Iterable[RawEvents]) -> RawEvents:
        """All parts as one."""
        nothing = np.empty(0, np.int64)
        found = [cls(nothing, nothing, nothing, nothing), *parts]
        x, y, p, t = (np.concatenate([getattr(part, name) for part in found]) for name in ("x", "y", "p", "t"))
        return cls(x, y, p, t, sum(part.cut for part in found))


def check_times(t: NDArray[Any], source: str) -> None:
    """Refuse times that are none, and whose differences would not fit 64 bits.

    Raises:
        DataError: beyond 2^62 us.
    """
    for time in (t.min(), t.max()) if len(t) else ():
        if not -LATEST <= int(time) <= LATEST:
            raise DataError(f"'{source}': a time of {int(time)} us is none; the file is damaged")


class Mender:
    """Puts a recording right that comes in parts; keeps what the next part needs.

    Args:
        sensor: (height, width).
        source: for messages.
        period: where the file's time counter wraps, in microseconds; None if it does not.
    """

    def __init__(self, sensor: Sensor, source: str, period: int | None) -> None:
        self.sensor, self.source, self.period = sensor, source, period
        self._seen = self._outside = self._inside = 0
        self._far = (0, 0)  # largest x and y
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
        if outside:
            self._far = max(self._far[0], int(raw.x.max())), max(self._far[1], int(raw.y.max()))
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
                f"{width}x{height} pixels (x up to {self._far[0]}, y up to {self._far[1]}); name the camera's own size "
                f"with sensor = [height, width]"
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
                f"'{self.source}': time runs backwards by {lag[worst] / 1e6:.3f} s at event {self._inside + worst:,} "
                f"of {self._inside + len(t):,} so far, more than the {JITTER_US / 1e6:g} s that sorting repairs: a "
                f"clock was reset; cut the recording there"
            )
        self._latest = int(latest[-1])
        self._inside += len(t)
        return int(np.count_nonzero(lag))


def make_events(
    x: NDArray[Any],
    y: NDArray[Any],
    p: NDArray[Any],
    t: NDArray[Any],
    sensor: Sequence[int],
    source: str,
    *,
    period: int | None = None,
    cut: int = 0,
) -> Events:
    """Check what a file holds and put it right where that is safe.

    Args:
        t: microseconds, as stored.
        sensor: (height, width).
        period: where the file's time counter wraps, in microseconds; None if it does not.
        cut: bytes that the reader left over at the end.

    Raises:
        DataError: time runs backwards by more than `JITTER_US` that is no wrap; more than `OUTSIDE_SHARE` of
            the events lie outside the sensor; arrays of different lengths.
    """
    if not len(x) == len(y) == len(p) == len(t):
        raise DataError(f"'{source}': {len(x)} x, {len(y)} y, {len(p)} p and {len(t)} t; they must be as many")
    mender = Mender((int(sensor[0]), int(sensor[1])), source, period)
    parts = mender.push(RawEvents(x, y, p, t, cut)), mender.finish()
    x, y, p, t = (np.concatenate([getattr(part, name) for part in parts]) for name in ("x", "y", "p", "t"))
    return Events(x, y, p, t, mender.sensor, source, parts[0].faults)


def size_of(
    path: Path, stated: Sequence[int] | None, given: Sequence[int] | None, assumed: Sequence[int] | None = None
) -> tuple[int, int]:
    """The sensor size that the file states or the caller gives; both must agree if both are there."""
    if given is None and stated is None:
        given = assumed
    if stated is None and given is None:
        raise DataError(
            f"'{path}' does not say how large its sensor is; give sensor = [height, width], e.g. [34, 34] for N-MNIST"
        )
    chosen = tuple(int(side) for side in (stated if stated is not None else given or ()))
    if len(chosen) != 2 or min(chosen) < 1 or max(chosen) > np.iinfo(np.int16).max:
        raise DataError(f"'{path}': a sensor of {chosen} pixels is not (height, width), each 1..32767")
    if given is not None and chosen != tuple(given):
        raise DataError(
            f"'{path}' is of a sensor of {chosen[1]}x{chosen[0]} pixels, not {given[1]}x{given[0]} as said; "
            f"leave the size out, or choose recordings of the same camera"
        )
    return chosen
