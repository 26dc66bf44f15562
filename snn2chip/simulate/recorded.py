"""A recording through a network: its sensor and binning held against the network's, decision and confidence over time.

Confidence, of scores n steps after the last reset:

- membrane readout: ``softmax(score / (64 scale n))``. The chip's voltage counts 64 for a weight of 1, a weight of 1
  stands for 1 / scale in the trained network (`made["scales"]`), and that network's logits are means over its steps:
  these are its logits but for the rounding.
- spike counts: the share of all spikes of the last layer that are of the class; 0 as long as there are none.

It says how sure the network is, not how often it is right: nothing here is calibrated.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from snn2chip.chip.profile import STATE_MAX
from snn2chip.choices import EngineKind
from snn2chip.data.recordings import (
    Binner,
    BinSettings,
    Events,
    Faults,
    Sensor,
    Tally,
    bin_events,
    read_in_pieces,
    read_recording,
)
from snn2chip.errors import InputError
from snn2chip.ir import Chain, FloatArray, IntArray
from snn2chip.simulate.streaming import StreamEngine, Stretch

STEPS = 16
"""Steps that run through the network together."""

_FRAME_NUMBERS = 1 << 21  # of frames at a time, for large sensors


@dataclass(frozen=True, eq=False)
class Moment:
    """What the network says after a step.

    step        number of steps since the recording's first event, from 1
    since       number of steps since the last reset, from 1
    scores      (classes,) as the chip has them
    shares      (classes,) confidence in each class, see the module
    """

    step: int
    since: int
    scores: IntArray
    shares: FloatArray

    @property
    def decision(self) -> int:
        """The class with the largest score, the first of equal ones."""
        return int(self.scores.argmax())

    @property
    def confidence(self) -> float:
        """In the decision, 0..1."""
        return float(self.shares[self.decision])


def binning_of(chain: Chain) -> BinSettings:
    """How the network's own recordings were binned.

    Raises:
        InputError: it was trained on images.
    """
    if chain.coding != "events" or chain.made.get("events") is None:
        what = chain.made.get("dataset") or "images"
        raise InputError(
            f"the network was trained on {what}, not on recordings of an event camera; `simulate` runs it on images; "
            "or give a network whose recipe has coding = 'events'"
        )
    return BinSettings.from_json(chain.made["events"])


def assumed_sensor(chain: Chain, settings: BinSettings) -> Sensor:
    """The sensor of a recording that does not say its own: the settings', or one as large as the network allows."""
    if settings.sensor is not None:
        return settings.sensor
    _, height, width = chain.raw_shape
    return height * settings.downsample, width * settings.downsample


def check_sensor(chain: Chain, settings: BinSettings, events: Events) -> None:
    """Refuse a sensor of another size than the network's.

    Raises:
        InputError: naming both sizes.
    """
    height, width = events.sensor
    if settings.shape(events.sensor) != chain.raw_shape:
        _, high, wide = chain.raw_shape
        small = "" if settings.downsample == 1 else f", {settings.downsample}x{settings.downsample} pixels as one"
        raise InputError(
            f"'{events.source}' is of a sensor of {width}x{height} pixels, the network's input is "
            f"{wide}x{high}{small}; use recordings of a sensor of its size, or train a network for this one"
        )


def pieces_of(chain: Chain, recording: Path) -> Iterator[Events]:
    """A recording's events, piece after piece."""
    settings = binning_of(chain)
    return read_in_pieces(recording, settings.sensor, assumed=assumed_sensor(chain, settings))


@dataclass(frozen=True, eq=False)
class Sample:
    """A recording as one sample: all of its events, what binning left out, and the port's integers (1, T, ...)."""

    events: Events
    tally: Tally
    port: IntArray


def read_sample(chain: Chain, recording: Path) -> Sample:
    """A recording's first T steps.

    Raises:
        InputError: a recording of another sensor; and what reading it raises.
    """
    settings = binning_of(chain)
    events = read_recording(recording, settings.sensor, assumed=assumed_sensor(chain, settings))
    check_sensor(chain, settings, events)
    tally = Tally()
    return Sample(events, tally, port_of(chain, bin_events(events, settings, tally))[None])


def milliseconds(settings: BinSettings, steps: int) -> float | None:
    """When a step is over, after the first event; None where steps are not of time."""
    return None if settings.dt_us is None else steps * settings.dt_us / 1000


def port_of(chain: Chain, frames: NDArray[np.uint8]) -> IntArray:
    """Frames (T, P, H, W), any T, as the integers of the port."""
    low, high = int(frames.min()), int(frames.max())
    if low < 0 or high > chain.pixel_max:
        raise InputError(f"events counted to {high} exceed the {chain.pixel_max} the network was trained on")
    return chain.port(frames.astype(np.int64))


def logit_unit(chain: Chain) -> float:
    """What a score of the membrane readout counts for a logit of 1 and one step: 64 times the readout's scale.

    Raises:
        InputError: the file does not say the scale.
    """
    scales = chain.made.get("scales")
    scale = list(scales.values())[-1] if isinstance(scales, dict) and scales else None
    if not isinstance(scale, float | int) or not math.isfinite(scale) or scale <= 0:
        raise InputError("the .net file does not say the scale of its last layer; export the model again")
    return 64.0 * scale


def shares(chain: Chain, scores: IntArray, since: IntArray) -> FloatArray:
    """Confidence in each class (n, classes) of scores (n, classes), `since` (n,) steps after a reset."""
    values = scores.astype(np.float64)
    if chain.readout == "spike_count":
        share: FloatArray = values / np.maximum(values.sum(1, keepdims=True), 1)
        return share
    logits = values / (logit_unit(chain) * since[:, None])
    powers = np.exp(logits - logits.max(1, keepdims=True))
    softmax: FloatArray = powers / powers.sum(1, keepdims=True)
    return softmax


def moment_of(chain: Chain, scores: IntArray) -> Moment:
    """What the network says after the T steps of a sample, whose scores these are."""
    steps = chain.timesteps
    return Moment(steps, steps, scores, shares(chain, scores[None], np.array([steps]))[0])


def check_window(chain: Chain, window: int | None) -> None:
    """Refuse a window that time-varying neurons have no tables for.

    Raises:
        InputError: naming the option and the limit.
    """
    for layer in chain.layers:
        if layer.steps is not None and (window is None or window > layer.steps.timesteps):
            said = "never" if window is None else f"{window:,}"
            raise InputError(
                f"--window {said}: the neurons of layer '{layer.name}' have tables of {layer.steps.timesteps} steps; "
                f"give --window {layer.steps.timesteps} or less, or a network with tdBN"
            )


class Watcher(Protocol):
    """Takes what a stream does, step after step, as long as it wants to."""

    @property
    def wants(self) -> bool:
        """Whether it takes more steps."""
        ...

    def add(self, found: Stretch) -> None:
        """The next steps, with their spikes."""


class RecordingStream:
    """Runs one recording, in pieces and without an end, in bounded memory; counts what happened on the way.

    Attributes:
        steps: how many have run.
        faults: of all pieces so far.
        counts: spikes by layer.
        engine: what runs it.
        saturated: the step by which a readout's voltage had reached the end of its 24 bits, or None. At the lower
            end it is clipped; at the upper end the neuron fires and starts again from 0. Neither is a sum any more.
    """

    def __init__(self, chain: Chain, window: int | None, kind: EngineKind = "auto") -> None:
        check_window(chain, window)
        self.chain, self.window = chain, window
        self.settings = binning_of(chain)
        self.engine = StreamEngine(chain, window, kind)
        self.steps = 0
        self.faults = Faults()
        self.counts = dict.fromkeys((layer.name for layer in chain.layers), 0)
        self.saturated: int | None = None
        self.binner: Binner | None = None
        self.source = "the recording"

    def run(self, pieces: Iterable[Events], every: int, watcher: Watcher | None = None) -> Iterator[Moment]:
        """What the network says after every `every` steps, and after the last; `watcher` sees spikes on the way.

        Raises:
            InputError: a recording of another sensor, or without events; and what reading it raises.
        """
        latest: Moment | None = None
        for frames in self._frames(pieces):
            since = self.engine.steps
            watched = watcher is not None and watcher.wants
            found = self.engine.run(port_of(self.chain, frames), keep=watched)
            if watcher is not None and watched:
                watcher.add(found)
            for name, count in found.counts.items():
                self.counts[name] += count
            numbers = np.arange(since, since + len(frames))
            numbers = (numbers if self.window is None else numbers % self.window) + 1
            if self.saturated is None and self.chain.readout == "membrane":
                fired = found.counts[self.chain.layers[-1].name] > 0
                if fired or (np.abs(found.scores) >= STATE_MAX - 1).any():
                    self.saturated = self.steps + len(frames)
            said = shares(self.chain, found.scores, numbers)
            for index in range(len(frames)):
                self.steps += 1
                latest = Moment(self.steps, int(numbers[index]), found.scores[index], said[index])
                if self.steps % every == 0:
                    yield latest
        if latest is None:
            raise InputError(f"'{self.source}' holds no events; there is nothing to classify")
        if self.steps % every:
            yield latest

    def _frames(self, pieces: Iterable[Events]) -> Iterator[NDArray[np.uint8]]:
        """Frames of all steps, some at a time."""
        for events in pieces:
            self.source = events.source
            self.faults += events.faults
            if self.binner is None:
                check_sensor(self.chain, self.settings, events)
                self.binner = Binner(self.settings, events.sensor)
                most = int(np.clip(_FRAME_NUMBERS // np.prod(self.binner.shape), 1, STEPS))
            yield from self.binner.push(events, most)
        if self.binner is not None and len(rest := self.binner.finish()):
            yield rest
