"""A picture of a recording in a network: its events, what the network decides over time, and every layer's spikes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from snn2chip.data.recordings import BinSettings, Events
from snn2chip.data.recordings.recording import RawEvents
from snn2chip.errors import InputError
from snn2chip.files import atomic_path
from snn2chip.ir import Chain, FloatArray, IntArray
from snn2chip.simulate.recorded import binning_of, shares
from snn2chip.simulate.streaming import Stretch
from snn2chip.text import draw, in_plot

ON, OFF = "tab:red", "tab:blue"
_ON, _OFF = np.array([214, 39, 40]) / 255, np.array([31, 119, 180]) / 255
DRAWN_STEPS = 400
"""Of a stream, the first so many steps are drawn."""

_FRAME_NUMBERS = 1 << 24  # of all frames that are drawn
_RASTER, _NEURONS = 8000, (160, 800)  # places of a layer's raster, and how many neurons it has at least and at most
_BARS = 100  # for the channels of a sensor of one row
_LEGEND = 60  # characters of the names that explain the colours
_EVENTS_READ, _EVENTS_DRAWN, _CLASSES_NAMED, _CLASSES_LAST = 2_000_000, 20_000, 10, 6


class Beginning:
    """The events of a recording's first `steps` (None: of as many as are drawn of a stream), kept as its pieces pass.

    `limit` is how many steps are drawn at most; it is exact once later steps have passed.
    """

    def __init__(self, settings: BinSettings, steps: int | None) -> None:
        self.settings, self.asked = settings, steps
        self.limit = steps or DRAWN_STEPS
        self._found: list[Events] = []
        self._count, self._full = 0, False

    def watch(self, pieces: Iterable[Events]) -> Iterator[Events]:
        """The pieces as they are."""
        for events in pieces:
            if not self._full:
                self.take(events)
            yield events

    def take(self, events: Events) -> None:
        """Keep a piece."""
        if self.asked is None:  # frames of a large sensor are large
            numbers = np.prod(self.settings.shape(events.sensor))
            self.limit = int(np.clip(_FRAME_NUMBERS // numbers, 1, DRAWN_STEPS))
        self._found.append(events)
        self._count += len(events)
        if not len(events):
            return
        first = next(int(part.t[0]) for part in self._found if len(part))
        made = _step(events, self.settings, first, self._count - len(events)) + 1
        self._full = made > self.limit or (self.asked is None and self._count > _EVENTS_READ)
        if self._full and self.asked is None:
            self.limit = min(self.limit, made)

    def cut(self) -> tuple[Events, int]:
        """The events of the steps that are drawn, and how many steps these are.

        Raises:
            InputError: a recording without events.
        """
        source, settings = self._found[0], self.settings
        joined = RawEvents.join(RawEvents(part.x, part.y, part.p, part.t) for part in self._found)
        if not self._count:
            raise InputError(f"'{source.source}' holds no events; there is nothing to draw")
        whole = Events(
            joined.x.astype(np.int16), joined.y.astype(np.int16), joined.p.astype(np.uint8), joined.t.astype(np.int64),
            source.sensor, source.source,
        )  # fmt: skip
        made = _step(whole, settings, int(whole.t[0]), 0) + 1
        drawn = min(self.limit, made) if self.asked is None else self.limit
        return whole.part(0, _before(whole, settings, drawn)), drawn


def _step(events: Events, settings: BinSettings, first: int, before: int) -> int:
    """The step of the last event, `before` events after the recording's first."""
    if settings.dt_us is not None:
        return int(events.t[-1] - first) // settings.dt_us
    return (before + len(events) - 1) // (settings.count or 1)


def _before(events: Events, settings: BinSettings, step: int) -> int:
    """How many events come before a step."""
    if settings.dt_us is not None:
        return int(np.searchsorted(events.t, events.t[0] + step * settings.dt_us))
    return step * (settings.count or 1)


@dataclass(frozen=True, eq=False)
class _Fired:
    """Spikes of a layer: some of its neurons over time (neurons, T), their share at each step, and where (H, W)."""

    raster: NDArray[np.bool_]
    neurons: int
    share: float
    where: FloatArray | None


class Drawing:
    """Collects a picture while a recording runs: `first` takes its events, `add` what the network made of its steps.

    `window` is when neurons are reset; `steps` are drawn, of a stream (None) as many as `Beginning` says.
    """

    def __init__(self, chain: Chain, window: int | None, steps: int | None = None) -> None:
        self.chain, self.window = chain, window
        self.first = Beginning(binning_of(chain), steps)
        self.steps = 0
        self._shown = [one for one in chain.layers if one is not chain.layers[-1] or chain.readout == "spike_count"]
        self._sums = {layer.name: np.zeros(layer.shape, np.int64) for layer in self._shown}
        self._rasters: dict[str, list[NDArray[np.uint8]]] = {layer.name: [] for layer in self._shown}
        self._chosen: dict[str, IntArray] | None = None  # all neurons, as long as there are few steps
        self._scores: list[IntArray] = []

    @property
    def wants(self) -> bool:
        """Whether it takes more steps."""
        return self.steps < self.first.limit

    def add(self, found: Stretch) -> None:
        """The next steps, with their spikes."""
        scores = found.scores[: self.first.limit - self.steps]
        self._scores.append(scores)
        self.steps += len(scores)
        for layer in self._shown:
            spikes = found.spikes[layer.name][: len(scores)]
            self._sums[layer.name] += spikes.sum(0, dtype=np.int64)
            raster = spikes.reshape(len(spikes), -1)
            self._rasters[layer.name].append(raster if self._chosen is None else raster[:, self._chosen[layer.name]])
        if self._chosen is None and self.steps >= _RASTER // _NEURONS[0]:
            self._choose()

    def _choose(self) -> None:
        """Some neurons of each layer, drawn at random: fewer where there are many steps."""
        pick = np.random.default_rng(0)
        most = int(np.clip(_RASTER // self.steps, *_NEURONS))
        self._chosen = {}
        for layer in self._shown:
            size = int(np.prod(layer.shape))
            self._chosen[layer.name] = np.sort(pick.choice(size, min(size, most), replace=False))
            parts = self._rasters[layer.name]
            parts[:] = [part[:, self._chosen[layer.name]] for part in parts]

    def found(self) -> tuple[IntArray, FloatArray, dict[str, _Fired]]:
        """Decisions (T,), confidence in every class (T, classes), and what the layers with neurons that fire did."""
        if self._chosen is None:
            self._choose()
        fired = {}
        for layer in self._shown:
            total = self._sums[layer.name]
            where = total.mean(0) / self.steps if total.ndim == 3 and total[0].size > 1 else None
            raster = np.concatenate(self._rasters[layer.name]).T.astype(bool)
            fired[layer.name] = _Fired(raster, total.size, float(total.sum()) / (total.size * self.steps), where)
        said = np.concatenate(self._scores)
        since = np.arange(self.steps) if self.window is None else np.arange(self.steps) % self.window
        return said.argmax(1), shares(self.chain, said, since + 1), fired


def recording_figure(drawing: Drawing, title: str) -> Figure:
    """Draw the first steps of a recording: left over time, right in the plane of the pixels.

    From above: the events (row of the sensor over time, and all of them in one frame, ON red and OFF blue); the
    network's confidence in its classes and the decision after each step; spikes of some neurons of each layer,
    drawn at random, and how often neurons fire there, the mean over channels. Of a sensor of one row, as of spoken
    words, the pixels are channels: drawn over time, and counted, as how often neurons fire is.

    Raises:
        InputError: a recording without events.
    """
    chain, settings, window = drawing.chain, drawing.first.settings, drawing.window
    events, steps = drawing.first.cut()
    assert steps == drawing.steps
    decisions, sure, fired = drawing.found()
    origin = {layer.name: in_plot(next(iter(layer.origin), layer.name)) for layer in chain.layers}
    heights = [1.7, 1.5, *(0.9 for _ in fired)]
    figure = Figure(figsize=(11, 1.35 * sum(heights) + 0.8), layout="constrained")
    grid = figure.add_gridspec(len(heights), 2, height_ratios=heights, width_ratios=[4.6, 1])
    unit = 1.0 if settings.dt_us is None else settings.dt_us / 1000  # of the time axis, a step
    seconds = settings.dt_us is not None and steps * unit > 5000
    unit = unit / 1000 if seconds else unit
    first = figure.add_subplot(grid[0, 0])
    _raster(first, events, settings, unit / settings.dt_us if settings.dt_us is not None else 1 / (settings.count or 1))
    ended = steps % window or window if window is not None else steps  # steps since the last reset
    lately = events.part(_before(events, settings, steps - min(ended, steps)))
    since = "accumulated" if ended >= steps else f"last {ended} steps"
    if events.sensor[0] == 1:
        _counted(figure.add_subplot(grid[0, 1], sharey=first), lately, since)
    else:
        _frame(figure.add_subplot(grid[0, 1]), lately, since)
    course = figure.add_subplot(grid[1, 0], sharex=first)
    _course(course, chain, decisions, sure, unit, window)
    _last(figure.add_subplot(grid[1, 1]), chain, sure[-1])
    panel = course
    spread = np.random.default_rng(0)
    for row, (name, layer) in enumerate(fired.items(), 2):
        panel = figure.add_subplot(grid[row, 0], sharex=first)
        neurons, at = np.nonzero(layer.raster)
        # a column a step, dots spread over its width so that they do not cover each other
        time = (at + 0.5 + spread.uniform(-0.42, 0.42, len(at))) * unit
        panel.scatter(time, neurons, s=3 if len(at) < 2000 else 1, color="0.15", linewidths=0, rasterized=True)
        panel.set_ylim(len(layer.raster) + 1, -2)
        some = f"{len(layer.raster)} of {layer.neurons:,} neurons" if layer.neurons > len(layer.raster) else "neurons"
        panel.set_title(
            f"{origin[name]}: {some}; {100 * layer.share:.2f} % fire in a step", fontsize=8, loc="left", pad=3
        )
        panel.set_yticks([])
        plane = figure.add_subplot(grid[row, 1])
        if layer.where is not None and len(layer.where) == 1:
            plane.stairs(100 * layer.where[0], fill=True, color="0.5")
            plane.set_xticks([])
            plane.set_xlim(0, layer.where.size)
            plane.set_ylim(bottom=0)
            plane.set_title("%", fontsize=6, loc="left", pad=2)
            plane.spines[["top", "right"]].set_visible(False)
            continue
        plane.axis("off")
        if layer.where is not None:
            image = plane.imshow(100 * layer.where, cmap="magma", vmin=0, interpolation="nearest")
            bar = figure.colorbar(image, ax=plane, fraction=0.08, pad=0.03)
            bar.ax.tick_params(labelsize=6, length=2)
            bar.ax.set_title("%", fontsize=6, pad=2)
    for axes in (first, course, *figure.axes):
        axes.tick_params(labelsize=7)
    for axes in figure.axes:
        if axes.get_shared_x_axes().joined(axes, first) and axes is not panel:
            axes.tick_params(labelbottom=False)
    first.set_xlim(0, steps * unit)
    what = "s" if seconds else "ms"
    panel.set_xlabel(
        f"time, {what}" if settings.dt_us is not None else f"step of {settings.count:,} events", fontsize=8
    )
    name = in_plot(chain.classes[int(decisions[-1])])
    figure.suptitle(f"{in_plot(title)}: at the end {name}, confidence {100 * sure[-1].max():.1f} %", fontsize=11)
    return figure


def _raster(axes: Axes, events: Events, settings: BinSettings, unit: float) -> None:
    """Events over time, by the sensor's row; by its column, upwards, where there is but one row."""
    one = events.sensor[0] == 1
    time = (events.t - events.t[0]) * unit if settings.dt_us is not None else np.arange(len(events)) * unit
    pick = np.arange(len(events))
    if len(events) > _EVENTS_DRAWN:
        pick = np.sort(np.random.default_rng(0).choice(len(events), _EVENTS_DRAWN, replace=False))
    size = float(np.clip(6000 / len(pick), 0.8, 4))
    for value, color, name in ((1, ON, "ON"), (0, OFF, "OFF")):
        some = pick[events.p[pick] == value]
        place = events.x[some] if one else events.y[some]
        axes.scatter(time[some], place, s=size, color=color, linewidths=0, rasterized=True)
        axes.scatter([], [], s=14, color=color, label=name)
    axes.set_ylim((-0.5, events.sensor[1] - 0.5) if one else (events.sensor[0] - 0.5, -0.5))
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set_ylabel("channel" if one else "row of the sensor", fontsize=8)
    some_of = "" if len(pick) == len(events) else f"{len(pick):,} of "
    axes.set_title(f"{some_of}{len(events):,} events", fontsize=8, loc="left", pad=3)
    if one and events.p.all():
        return  # spikes that have no polarity
    legend = axes.legend(loc="lower right", bbox_to_anchor=(1, 0.99), ncols=2, frameon=False, fontsize=8, borderpad=0)
    legend.set_in_layout(False)


def _counted(axes: Axes, events: Events, title: str) -> None:
    """How many events the channels of a sensor of one row have, OFF beside ON."""
    width = events.sensor[1]
    together = -(-width // _BARS)
    edges = np.arange(0, width + together, together) - 0.5
    below = np.zeros(len(edges) - 1)
    for value, color in ((1, ON), (0, OFF)):
        counts = np.histogram(events.x[events.p == value], edges)[0]
        axes.stairs(below + counts, edges, baseline=below, orientation="horizontal", fill=True, color=color)
        below = below + counts
    axes.set_xlim(0, max(1, below.max()))
    axes.tick_params(labelleft=False)
    axes.set_title(f"{title}, {f'{together} channels a bar' if together > 1 else 'by channel'}", fontsize=8, pad=3)


def _frame(axes: Axes, events: Events, title: str) -> None:
    """Events in one frame: white where none were, ON red, OFF blue, as strong as there are many."""
    height, width = events.sensor
    place = (events.p.astype(np.int64) * height + events.y) * width + events.x
    counts = np.bincount(place, minlength=2 * height * width).reshape(2, height, width)
    total = counts.sum(0)
    on = (counts[1] / np.maximum(total, 1))[..., None]
    strong = (
        np.minimum(total / max(1.0, float(np.percentile(total[total > 0], 95)) if len(events) else 1), 1)[..., None]
        ** 0.7
    )
    axes.imshow(1 - strong * (1 - (on * _ON + (1 - on) * _OFF)), interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(f"{title}, {width}x{height}", fontsize=8, pad=3)


def _course(axes: Axes, chain: Chain, decisions: IntArray, sure: FloatArray, unit: float, window: int | None) -> None:
    """Confidence in the classes over time; the decision of each step as a ribbon below."""
    steps = len(decisions)
    ends = np.arange(steps + 1) * unit
    named = _named(sure, decisions)
    room = _LEGEND
    for place, index in enumerate(named):
        name = _short(chain.classes[index])
        room -= len(name) + 5
        axes.stairs(
            100 * sure[:, index],
            ends,
            color=f"C{place}",
            linewidth=1.4,
            baseline=None,
            label=name if room > 0 else None,
        )
    others = [index for index in range(sure.shape[1]) if index not in named]
    for index in others[:40]:
        axes.stairs(100 * sure[:, index], ends, color="0.8", linewidth=0.6, baseline=None)
    start = 0
    for stop in range(1, steps + 1):
        if stop == steps or decisions[stop] != decisions[start]:
            winner = int(decisions[start])
            color = f"C{named.index(winner)}" if winner in named else "0.6"
            axes.axvspan(start * unit, stop * unit, 0, 0.055, color=color, linewidth=0)
            start = stop
    if window is not None:
        for reset in range(window, steps, window):
            axes.axvline(reset * unit, color="0.75", linewidth=0.7, linestyle=":")
    axes.set_ylim(-7, 104)
    axes.set_yticks([0, 50, 100])
    axes.set_ylabel("confidence, %", fontsize=8)
    resets = "" if window is None or window >= steps else f"; reset every {window} steps (dotted)"
    axes.set_title(f"after each step; the ribbon is the decision{resets}", fontsize=8, loc="left", pad=3)
    legend = axes.legend(
        loc="lower right", bbox_to_anchor=(1, 0.99), ncols=_CLASSES_NAMED, frameon=False, fontsize=8, borderpad=0,
        handlelength=1.2, columnspacing=1,
    )  # fmt: skip
    legend.set_in_layout(False)


def _short(name: str) -> str:
    """A class's name where there is little room."""
    return in_plot(name if len(name) <= 14 else f"{name[:13]}…")


def _named(sure: FloatArray, decisions: IntArray) -> list[int]:
    """The classes that get a colour: those decided for most often, then those most sure of."""
    votes = np.bincount(decisions, minlength=sure.shape[1])
    order = np.lexsort((-sure.max(0), -votes))
    return [int(index) for index in order[:_CLASSES_NAMED] if votes[index] or sure[:, index].max() > 0.05]


def _last(axes: Axes, chain: Chain, sure: FloatArray) -> None:
    """The largest confidences at the end."""
    order = np.argsort(-sure, kind="stable")[:_CLASSES_LAST]
    axes.barh(range(len(order)), 100 * sure[order], color=["0.2", *("0.7" for _ in order[1:])])
    axes.set_yticks(range(len(order)), [_short(chain.classes[index]) for index in order])
    axes.set_xlim(0, 100)
    axes.set_xticks([0, 50, 100])
    axes.invert_yaxis()
    axes.set_title("at the end, %", fontsize=8, pad=3)
    axes.spines[["top", "right"]].set_visible(False)


def save(figure: Figure, path: Path) -> None:
    """Write a figure as its name's ending says, whole or not at all.

    Raises:
        InputError: it cannot be written.
    """
    kind = path.suffix.lower().removeprefix(".")
    # no date in the file: the same recording gives the same picture
    stamp = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[kind]
    with atomic_path(path) as part:
        draw(figure, part, format=kind, dpi=120, metadata=stamp)
