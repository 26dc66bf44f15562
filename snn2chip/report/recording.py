"""A picture of a recording in a network: its events, what the network decides over time, and every layer's spikes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from snn2chip.data.recordings import BinSettings, Events, bin_events
from snn2chip.data.recordings.recording import RawEvents
from snn2chip.errors import InputError
from snn2chip.files import atomic_path
from snn2chip.ir import Chain, FloatArray, IntArray
from snn2chip.simulate.recorded import STEPS, check_sensor, port_of, shares
from snn2chip.simulate.streaming import StreamEngine
from snn2chip.text import draw, in_plot

ON, OFF = "tab:red", "tab:blue"
_ON, _OFF = np.array([214, 39, 40]) / 255, np.array([31, 119, 180]) / 255
DRAWN_STEPS = 400
"""Of a stream, the first so many steps are drawn."""

_FRAME_NUMBERS = 1 << 24  # of all frames that are drawn
_LEGEND = 60  # characters of the names that explain the colours
_EVENTS_READ, _EVENTS_DRAWN, _CLASSES_NAMED, _CLASSES_LAST = 2_000_000, 20_000, 10, 6


def first_steps(pieces: Iterable[Events], settings: BinSettings, steps: int | None) -> tuple[Events, int]:
    """The events of the first `steps` (None: of as many as are drawn of a stream), and how many steps they make.

    Raises:
        InputError: a recording without events; and what reading it raises.
    """
    wanted = steps or DRAWN_STEPS
    found: list[Events] = []
    count, over = 0, False
    for events in pieces:
        if steps is None:  # frames of a large sensor are large
            wanted = int(np.clip(_FRAME_NUMBERS // np.prod(settings.shape(events.sensor)), 1, DRAWN_STEPS))
        found.append(events)
        count += len(events)
        first = next((part.t[0] for part in found if len(part)), None)
        if first is not None and len(events):
            over = _step(events, settings, int(first), count - len(events)) >= wanted
        if over or (steps is None and count > _EVENTS_READ):
            break
    joined = RawEvents.join(RawEvents(part.x, part.y, part.p, part.t) for part in found)
    if not count:
        raise InputError(f"'{found[0].source}' holds no events; there is nothing to draw")
    whole = Events(
        joined.x.astype(np.int16), joined.y.astype(np.int16), joined.p.astype(np.uint8), joined.t.astype(np.int64),
        found[0].sensor, found[0].source,
    )  # fmt: skip
    made = _step(whole, settings, int(whole.t[0]), 0) + 1
    drawn = wanted if steps is not None else min(wanted, made)
    if settings.dt_us is not None:
        used = int(np.searchsorted(whole.t, whole.t[0] + drawn * settings.dt_us))
    else:
        used = drawn * (settings.count or 1)
    return replace(whole, x=whole.x[:used], y=whole.y[:used], p=whole.p[:used], t=whole.t[:used]), drawn


def _step(events: Events, settings: BinSettings, first: int, before: int) -> int:
    """The step of the last event, `before` events after the recording's first."""
    if settings.dt_us is not None:
        return int(events.t[-1] - first) // settings.dt_us
    return (before + len(events) - 1) // (settings.count or 1)


@dataclass(frozen=True, eq=False)
class _Fired:
    """Spikes of a layer: some of its neurons over time (neurons, T), their share at each step, and where (H, W)."""

    raster: NDArray[np.bool_]
    neurons: int
    share: float
    where: FloatArray | None


def _run(chain: Chain, port: IntArray, window: int | None) -> tuple[IntArray, FloatArray, dict[str, _Fired]]:
    """Decisions (T,), confidence in every class (T, classes), and what the layers with neurons that fire did."""
    engine = StreamEngine(chain, window)
    shown = [layer for layer in chain.layers if layer is not chain.layers[-1] or chain.readout == "spike_count"]
    pick = np.random.default_rng(0)
    most = int(np.clip(8000 // len(port), 160, 800))  # neurons: fewer where there are many steps
    chosen = {}
    for layer in shown:
        size = int(np.prod(layer.shape))
        chosen[layer.name] = np.sort(pick.choice(size, min(size, most), replace=False))
    rasters: dict[str, list[NDArray[np.uint8]]] = {layer.name: [] for layer in shown}
    sums = {layer.name: np.zeros(layer.shape, np.int64) for layer in shown}
    scores = []
    for start in range(0, len(port), STEPS):
        found = engine.run(port[start : start + STEPS], keep=True)
        scores.append(found.scores)
        for layer in shown:
            spikes = found.spikes[layer.name]
            rasters[layer.name].append(spikes.reshape(len(spikes), -1)[:, chosen[layer.name]])
            sums[layer.name] += spikes.sum(0, dtype=np.int64)
    since = np.arange(len(port)) if window is None else np.arange(len(port)) % window
    said = np.concatenate(scores)
    fired = {}
    for layer in shown:
        total = sums[layer.name]
        where = total.mean(0) / len(port) if total.ndim == 3 and total[0].size > 1 else None
        share = float(total.sum()) / (total.size * len(port))
        raster = np.concatenate(rasters[layer.name]).T.astype(bool)
        fired[layer.name] = _Fired(raster, total.size, share, where)
    return said.argmax(1), shares(chain, said, since + 1), fired


def recording_figure(
    chain: Chain, settings: BinSettings, events: Events, steps: int, window: int | None, title: str
) -> Figure:
    """Draw the first `steps` of a recording: left over time, right in the plane of the pixels.

    From above: the events (row of the sensor over time, and all of them in one frame, ON red and OFF blue); the
    network's confidence in its classes and the decision after each step; spikes of some neurons of each layer,
    drawn at random, and how often neurons fire there, the mean over channels. `window` is when neurons are reset.

    Raises:
        InputError: a sensor of another size than the network's.
    """
    check_sensor(chain, settings, events)
    frames = bin_events(events, replace(settings, timesteps=steps))
    decisions, sure, fired = _run(chain, port_of(chain, frames), window)
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
    lately = _since(events, settings, steps - min(ended, steps))
    _frame(figure.add_subplot(grid[0, 1]), lately, "accumulated" if ended >= steps else f"last {ended} steps")
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
    """Events over time, by the sensor's row."""
    time = (events.t - events.t[0]) * unit if settings.dt_us is not None else np.arange(len(events)) * unit
    pick = np.arange(len(events))
    if len(events) > _EVENTS_DRAWN:
        pick = np.sort(np.random.default_rng(0).choice(len(events), _EVENTS_DRAWN, replace=False))
    size = float(np.clip(6000 / len(pick), 0.8, 4))
    for value, color, name in ((1, ON, "ON"), (0, OFF, "OFF")):
        some = pick[events.p[pick] == value]
        axes.scatter(time[some], events.y[some], s=size, color=color, linewidths=0, rasterized=True)
        axes.scatter([], [], s=14, color=color, label=name)
    axes.set_ylim(events.sensor[0] - 0.5, -0.5)
    axes.set_ylabel("row of the sensor", fontsize=8)
    some_of = "" if len(pick) == len(events) else f"{len(pick):,} of "
    axes.set_title(f"{some_of}{len(events):,} events", fontsize=8, loc="left", pad=3)
    legend = axes.legend(loc="lower right", bbox_to_anchor=(1, 0.99), ncols=2, frameon=False, fontsize=8, borderpad=0)
    legend.set_in_layout(False)


def _since(events: Events, settings: BinSettings, step: int) -> Events:
    """The events from a step on."""
    if settings.dt_us is not None:
        start = int(np.searchsorted(events.t, events.t[0] + step * settings.dt_us))
    else:
        start = step * (settings.count or 1)
    return replace(events, x=events.x[start:], y=events.y[start:], p=events.p[start:], t=events.t[start:])


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
