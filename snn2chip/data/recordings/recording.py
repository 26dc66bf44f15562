"""A recording of an event camera, and what is done about its faults: each is counted, or refused."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
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


def unwrap(t: NDArray[np.int64], period: int) -> tuple[NDArray[np.int64], int]:
    """Undo the wraps of a counter that runs over at `period`: a fall by more than half of it is one.

    Returns:
        Times that go on rising, and how many wraps there were.
    """
    falls = np.diff(t) < -(period // 2)
    count = int(falls.sum())
    if not count:
        return t, 0
    later = t.copy()
    later[1:] += period * np.cumsum(falls)
    return later, count


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
    height, width = int(sensor[0]), int(sensor[1])
    if not len(x) == len(y) == len(p) == len(t):
        raise DataError(f"'{source}': {len(x)} x, {len(y)} y, {len(p)} p and {len(t)} t; they must be as many")
    check_times(t, source)
    time, wrapped = t.astype(np.int64), 0
    if period is not None:
        time, wrapped = unwrap(time, period)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    outside = len(time) - int(inside.sum())
    if outside > OUTSIDE_SHARE * len(time):
        raise DataError(
            f"'{source}': {outside:,} of {len(time):,} events lie outside the sensor of {width}x{height} pixels (x up "
            f"to {int(x.max())}, y up to {int(y.max())}); name the camera's own size with sensor = [height, width]"
        )
    if outside:
        x, y, p, time = x[inside], y[inside], p[inside], time[inside]
    order: Any = slice(None)
    backwards = 0
    if len(time):
        lag = np.maximum.accumulate(time) - time
        worst = int(lag.argmax())
        if lag[worst] > JITTER_US:
            raise DataError(
                f"'{source}': time runs backwards by {lag[worst] / 1e6:.3f} s at event {worst:,} of {len(time):,}, "
                f"more than the {JITTER_US / 1e6:g} s that sorting repairs: a clock was reset; cut the recording there"
            )
        backwards = int(np.count_nonzero(lag))
        if backwards:
            order = np.argsort(time, kind="stable")
    return Events(
        x.astype(np.int16)[order],
        y.astype(np.int16)[order],
        (p > 0).astype(np.uint8)[order],
        time[order],
        (height, width),
        source,
        Faults(cut=cut, wrapped=wrapped, backwards=backwards, outside=outside),
    )


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
