"""From events to frames over time: what the network's input port gets, step by step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snn2chip.data.recordings.recording import Events, Sensor
from snn2chip.errors import InputError

MAX_COUNT = 255
"""Largest count of a pixel at a step: frames are bytes."""


@dataclass(frozen=True)
class BinSettings:
    """How events become frames (T, P, H, W); exactly one of `dt_us` and `count` says how long a step is.

    Attributes:
        timesteps: T.
        dt_us: microseconds a step, counted from the recording's first event: step ``(t - t[0]) // dt_us``.
        count: events a step: event i is of step ``i // count``.
        max_count: largest value of a pixel at a step. 1 makes binary spikes; above it events are counted, and
            the chip takes them as graded spikes. More events than that at a pixel and step count as that many.
        downsample: sensor pixels a side that share one of the network's: ``x // downsample``.
        sensor: (height, width) of recordings whose files do not say it.
        polarities: P. 2: channel 0 is OFF (p = 0), channel 1 is ON; 1: both in one channel.

    Events after the last step are not used.
    """

    timesteps: int
    dt_us: int | None = None
    count: int | None = None
    max_count: int = 1
    downsample: int = 1
    sensor: Sensor | None = None
    polarities: int = 2

    def __post_init__(self) -> None:
        if (self.dt_us is None) == (self.count is None):
            raise InputError("binning: give dt_us (microseconds a step) or count (events a step), one of them")
        if self.sensor is not None and min(self.sensor) < 1:
            raise InputError(f"binning: a sensor of {self.sensor} pixels (height, width) has none")
        for name in ("timesteps", "dt_us", "count", "max_count", "downsample"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"binning: {name} {value} is not at least 1")
        if self.max_count > MAX_COUNT:
            raise InputError(f"binning: max_count {self.max_count} exceeds {MAX_COUNT}, what a byte holds")
        if self.polarities not in (1, 2):
            raise InputError(f"binning: polarities {self.polarities} is neither 1 nor 2 (OFF and ON apart)")

    def shape(self, sensor: Sensor) -> tuple[int, int, int]:
        """(P, H, W) of a frame; a sensor that `downsample` does not divide is rounded up."""
        height, width = (-(-side // self.downsample) for side in sensor)
        return self.polarities, height, width

    def as_json(self) -> dict[str, Any]:
        """Plain values, for files; `from_json` reads them back."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Any) -> BinSettings:
        """The settings that a file holds.

        Raises:
            InputError: not what `as_json` gives.
        """
        try:
            values = {"polarities": 2, **values}  # files from before there was a choice
            sensor = values["sensor"]
            names = ("timesteps", "dt_us", "count", "max_count", "downsample", "polarities")
            numbers = {name: values[name] for name in names}
            sides = None if sensor is None else (int(sensor[0]), int(sensor[1]))
            if any(type(value) not in (int, type(None)) for value in numbers.values()):
                raise ValueError(f"{numbers}")
            return cls(**numbers, sensor=sides)
        except InputError:
            raise
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise InputError(f"binning settings that this snn2chip cannot read: {error}; export again") from None

    def __str__(self) -> str:
        step = f"{self.dt_us / 1000:g} ms" if self.dt_us is not None else f"{self.count:,} events"
        kind = "binary" if self.max_count == 1 else f"counted to {self.max_count}"
        small = "" if self.downsample == 1 else f", {self.downsample}x{self.downsample} pixels as one"
        merged = "" if self.polarities == 2 else ", one polarity"
        return f"{self.timesteps} steps of {step}, {kind}{small}{merged}"


@dataclass
class Tally:
    """What binning did not keep: `late` of `events` came after the last step, `merged` exceeded `max_count`."""

    events: int = 0
    late: int = 0
    merged: int = 0

    def __str__(self) -> str:
        kept = max(1, self.events)
        return (
            f"{self.events:,} events, {100 * self.late / kept:.1f} % after the last step, "
            f"{100 * self.merged / kept:.1f} % merged"
        )


def bin_events(events: Events, settings: BinSettings, tally: Tally | None = None) -> NDArray[np.uint8]:
    """Frames (T, P, H, W) of uint8, 0..max_count: events of each step, polarity and pixel.

    ``frame[k, p, y // d, x // d] = min(max_count, number of events there)`` with d = downsample, and p = 0 of all where
    `polarities` is 1.

    `tally`, if given, is added to.

    Raises:
        InputError: a recording without events.
    """
    if not len(events):
        raise InputError(f"'{events.source}' holds no events; leave the recording out")
    channels, height, width = settings.shape(events.sensor)
    if settings.dt_us is not None:
        # sorted by time: what comes after the last step is a tail
        used = int(np.searchsorted(events.t, events.t[0] + settings.timesteps * settings.dt_us))
        step = (events.t[:used] - events.t[0]) // settings.dt_us
    else:
        assert settings.count is not None
        used = min(len(events), settings.timesteps * settings.count)
        step = np.arange(used) // settings.count
    y, x = (axis[:used].astype(np.int64) // settings.downsample for axis in (events.y, events.x))
    place = ((step * channels + events.p[:used] % channels) * height + y) * width + x
    counts = np.bincount(place, minlength=settings.timesteps * channels * height * width)
    frames = np.minimum(counts, settings.max_count)
    if tally is not None:
        tally.events += len(events)
        tally.late += len(events) - used
        tally.merged += int(used - frames.sum())
    return frames.astype(np.uint8).reshape(settings.timesteps, channels, height, width)


class Binner:
    """Bins a recording that comes in pieces and goes on: the frames of `bin_events`, without an end at T.

    `settings.timesteps` is not used. Steps without events are empty frames. `tally` counts as `bin_events` does.
    """

    def __init__(self, settings: BinSettings, sensor: Sensor) -> None:
        self.settings = settings
        self.shape = settings.shape(sensor)
        self.tally = Tally()
        self._open = np.zeros(int(np.prod(self.shape)), np.int64)  # the step that is not over
        self._step = 0  # its number
        self._first: int | None = None  # time of the recording's first event

    def push(self, events: Events, most: int = 64) -> Iterator[NDArray[np.uint8]]:
        """Frames (n, P, H, W) of the steps that these events, the next in time's order, have ended; n <= `most`."""
        if not len(events):
            return
        if self._first is None:
            self._first = int(events.t[0])
        if self.settings.dt_us is not None:
            step = (events.t - self._first) // self.settings.dt_us
        else:
            assert self.settings.count is not None
            step = (self.tally.events + np.arange(len(events))) // self.settings.count
        channels, height, width = self.shape
        y, x = (axis.astype(np.int64) // self.settings.downsample for axis in (events.y, events.x))
        pixel = (events.p % channels * height + y) * width + x
        self.tally.events += len(events)
        size = len(self._open)
        while True:
            # however long nothing happened, no more than `most` frames at a time
            last = int(step[-1])
            stop = min(last, self._step + most)
            used = int(np.searchsorted(step, stop + (stop == last)))
            steps = stop - self._step + 1  # with the one that stays open
            counts = np.bincount((step[:used] - self._step) * size + pixel[:used], minlength=steps * size)
            counts[:size] += self._open
            self._open = counts[(steps - 1) * size :].copy()
            self._step = stop
            if steps > 1:
                yield self._frames(counts[: (steps - 1) * size])
            if stop == last:
                return
            step, pixel = step[used:], pixel[used:]

    def finish(self) -> NDArray[np.uint8]:
        """The last step (1, P, H, W), over or not; none (0, P, H, W) of a recording without events."""
        return self._frames(self._open if self.tally.events else self._open[:0])

    def _frames(self, counts: NDArray[np.int64]) -> NDArray[np.uint8]:
        frames = np.minimum(counts, self.settings.max_count)
        self.tally.merged += int(counts.sum() - frames.sum())
        return frames.astype(np.uint8).reshape(-1, *self.shape)
