"""`--recording` of simulate: one raw recording of an event camera, as a sample or as a stream, and its picture."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from snn2chip.cli.common import console_of
from snn2chip.errors import InputError
from snn2chip.files import atomic_path, write_json
from snn2chip.text import printable

if TYPE_CHECKING:
    import torch
    from rich.table import Table
    from rich.text import Text

    from snn2chip.data.recordings import BinSettings, Events, Faults, Tally
    from snn2chip.ir import Chain, IntArray
    from snn2chip.simulate.engines import EngineKind
    from snn2chip.simulate.recorded import Moment, RecordingStream

PICTURES = (".png", ".svg", ".pdf")
_BAR = 24  # characters of a confidence of 1

RecordingOption = Annotated[
    Path | None,
    typer.Option(
        "--recording",
        help="One recording of an event camera: .bin, .npz, .aedat, .aedat4, .raw, .dat or .es.",
    ),
]
StreamOption = Annotated[
    bool, typer.Option("--stream", help="Classify the recording from its first event to its last, in bounded memory.")
]
WindowOption = Annotated[
    str | None,
    typer.Option(help="Steps after which a stream's neurons are reset, or never; default: the network's time steps."),
]
EveryOption = Annotated[
    int | None, typer.Option(min=1, help="A stream's decision after every so many steps; default: after every window.")
]
PlotOption = Annotated[
    Path | None, typer.Option("--plot", help="Draw the recording, the decision and the spikes: .png, .svg or .pdf.")
]


def only_recording(
    recording: Path | None, stream: bool, window: str | None, every: int | None, **given: object
) -> None:
    """Refuse options that belong to a recording without one, those of a stream without it, and what excludes both.

    Raises:
        InputError: naming the option.
    """
    if recording is None:
        wrong = {"--stream": stream, "--window": window, "--every": every, "--plot": given.get("plot")}
        if name := next((name for name, value in wrong.items() if value), None):
            raise InputError(f"{name} belongs to a recording; add --recording FILE")
        return
    of_streams = ("output", "engine", "device")
    for name in ("data", "input", "limit", "clock chip", *(of_streams if stream else ())):
        if given.get(name.replace(" ", "_")) not in (None, False):
            why = "a stream" if name in of_streams else "--recording"
            raise InputError(f"--{name} and {why} exclude each other; leave one of them out")
    if not stream and (name := next((n for n, v in (("--window", window), ("--every", every)) if v is not None), None)):
        raise InputError(f"{name} belongs to a stream; add --stream")


def simulate(
    net: Path,
    recording: Path,
    *,
    stream: bool,
    window: str | None,
    every: int | None,
    plot: Path | None,
    output: Path | None,
    json_file: Path | None,
    engine: EngineKind,
    device: torch.device,
) -> None:
    """Say what the network makes of a recording."""
    from snn2chip.formats import netx
    from snn2chip.simulate import recorded

    if plot is not None and plot.suffix.lower() not in PICTURES:
        raise InputError(f"--plot '{plot}': '{plot.suffix}' is no kind of picture here; choose {', '.join(PICTURES)}")
    chain = netx.load(net)
    settings = recorded.binning_of(chain)
    console = console_of()
    if stream:
        steps = _window(window, chain.timesteps)
        _stream(console, chain, settings, recording, steps, every or steps or chain.timesteps, json_file)
    else:
        steps = chain.timesteps
        _whole(console, chain, settings, recording, output, json_file, engine, device)
    if plot is not None:
        _draw(console, chain, settings, recording, steps, None if stream else chain.timesteps, plot)


def _window(said: str | None, timesteps: int) -> int | None:
    """Steps between resets; None for never."""
    if said is None or said == "never":
        return timesteps if said is None else None
    if not said.isdecimal() or len(said) > 9 or int(said) < 1:
        raise InputError(f"--window '{said}': expected a number of steps, 1 to 999,999,999, or never")
    return int(said)


def _milliseconds(settings: BinSettings, steps: int) -> float | None:
    """When a step is over, after the first event; None where steps are not of time."""
    return None if settings.dt_us is None else steps * settings.dt_us / 1000


def _faults(console: Console, faults: Faults) -> None:
    if faults:
        console.print(f"note: {faults}")


def encode(chain: Chain, recording: Path, output: Path) -> None:
    """Write the integers that the port gets from a recording's first T steps."""
    import numpy as np

    from snn2chip.simulate import recorded

    events, _, port = _read(chain, recorded.binning_of(chain), recording)
    with atomic_path(output) as part, part.open("wb") as file:
        np.savez_compressed(file, input=port.astype(np.int32))
    console = console_of()
    _faults(console, events.faults)
    console.print(f"wrote {output}: input {port.shape}, values {port.min()}..{port.max()}")


def _read(chain: Chain, settings: BinSettings, recording: Path) -> tuple[Events, Tally, IntArray]:
    """A recording's events, what binning did not keep of them, and its first T steps at the port (1, T, ...)."""
    from snn2chip.data.recordings import Tally, bin_events, read_recording
    from snn2chip.simulate import recorded

    events = read_recording(recording, settings.sensor, assumed=recorded.assumed_sensor(chain, settings))
    recorded.check_sensor(chain, settings, events)
    tally = Tally()
    return events, tally, recorded.port_of(chain, bin_events(events, settings, tally))[None]


def _whole(
    console: Console,
    chain: Chain,
    settings: BinSettings,
    recording: Path,
    output: Path | None,
    json_file: Path | None,
    engine: EngineKind,
    device: torch.device,
) -> None:
    """The recording as one sample: its first T steps."""
    from dataclasses import asdict, replace

    import numpy as np

    from snn2chip.report import tables
    from snn2chip.simulate import recorded, trace
    from snn2chip.simulate import run as runs

    events, tally, port = _read(chain, settings, recording)
    result = runs.simulate(chain, port=port, device=device, keep=output is not None, engine_kind=engine)
    result = replace(result, dataset=recording.name)
    scores = result.trace.scores
    said = recorded.Moment(
        chain.timesteps,
        chain.timesteps,
        scores[0],
        recorded.shares(chain, scores, np.array([chain.timesteps]))[0],
    )
    if output is not None:
        trace.save(output, result.trace)
    if json_file is not None:
        figures = {
            **result.as_json(chain),
            "recording": str(recording),
            "events": len(events),
            "duration_ms": events.duration_us / 1000,
            "after_last_step": tally.late,
            "merged": tally.merged,
            "faults": asdict(events.faults),
            "milliseconds": _milliseconds(settings, chain.timesteps),
            "decision": chain.classes[said.decision],
            "confidence": said.confidence,
            "scores": dict(zip(chain.classes, said.scores.tolist(), strict=True)),
            "shares": dict(zip(chain.classes, said.shares.tolist(), strict=True)),
        }
        write_json(json_file, figures)
    if result.note is not None:
        console.print(f"note: {result.note}")
    _faults(console, events.faults)
    height, width = events.sensor
    console.print(
        f"{recording.name}: {len(events):,} events in {events.duration_us / 1000:,.1f} ms, {width}x{height} pixels, "
        f"{settings}"
    )
    if tally.late:
        console.print(f"note: {tally.late:,} events after the last step are not used; --stream goes on to the last")
    length = _milliseconds(settings, chain.timesteps)
    if length is not None and events.duration_us / 1000 < length - (settings.dt_us or 0) / 1000:
        console.print(f"note: shorter than the {length:g} ms of the network's steps: the last steps are empty")
    rows = [
        [chain.classes[index], f"{said.scores[index]:,}", f"{100 * said.shares[index]:.2f} %"]
        for index in np.argsort(-said.scores, kind="stable")[:_CLASSES]
    ]
    title = f"decision {chain.classes[said.decision]}, confidence {100 * said.confidence:.1f} %"
    console.print(_table(title, ("class", "score", "confidence"), rows))
    if len(chain.classes) > _CLASSES:
        console.print(f"and {len(chain.classes) - _CLASSES} classes with lower scores (--json lists them)")
    console.print(tables.simulation_table(chain, result))
    if output is not None:
        console.print(f"wrote {output}")


_CLASSES = 12  # rows of the table of scores


@contextmanager
def _json_list(target: Path | None) -> Iterator[tuple[Callable[[dict[str, Any]], None], Callable[[Any], None]]]:
    """A JSON object whose list `moments` is written as it grows; gives functions for an entry and for the rest.

    Raises:
        InputError: it cannot be written.
    """
    if target is None:
        yield (lambda _entry: None), (lambda _rest: None)
        return
    with atomic_path(target) as part, part.open("w", encoding="utf-8") as file:
        file.write('{\n  "moments": [')
        first = True

        def add(entry: dict[str, Any]) -> None:
            nonlocal first
            file.write(("\n    " if first else ",\n    ") + json.dumps(entry))
            first = False

        def end(rest: dict[str, Any]) -> None:
            file.write("\n  ],\n" + json.dumps(rest, indent=2)[2:] + "\n")

        yield add, end


def _stream(
    console: Console,
    chain: Chain,
    settings: BinSettings,
    recording: Path,
    window: int | None,
    every: int,
    json_file: Path | None,
) -> None:
    """The whole recording, step after step."""
    from snn2chip.data.recordings import PIECE_SUFFIXES, SUFFIXES, read_in_pieces
    from snn2chip.simulate import recorded
    from snn2chip.simulate.activity import of_chain

    run = recorded.RecordingStream(chain, window)
    resets = "never reset" if window is None else f"reset every {window} steps"
    console.print(f"{recording.name}: steps of {_step(settings)}, {resets}")
    if recording.suffix.lower() in set(SUFFIXES) - set(PIECE_SUFFIXES):
        console.print(f"note: {recording.suffix} is read whole; {' and '.join(PIECE_SUFFIXES)} in bounded memory")
    started = time.monotonic()
    pieces = read_in_pieces(recording, settings.sensor, assumed=recorded.assumed_sensor(chain, settings))
    with _json_list(json_file) as (add, end):
        for moment in run.run(pieces, every):
            console.print(_line(console, chain, settings, moment))
            add(_entry(chain, settings, moment))
        seconds = time.monotonic() - started
        end(_totals(chain, settings, recording, run, seconds))
    _faults(console, run.faults)
    if run.saturated is not None:
        console.print(
            f"note: by step {run.saturated:,} a score had reached the end of the chip's 24 bits, where sums stop or "
            "start again: no decision counts after it; give a smaller --window"
        )
    assert run.binner is not None
    length = _milliseconds(settings, run.steps)
    lasts = "" if length is None else f" ({length / 1000:,.1f} s)"
    console.print(f"{run.binner.tally.events:,} events, {run.steps:,} steps{lasts} in {seconds:.1f} s")
    console.print(_spikes_table(chain, run))
    for note in of_chain(chain, run.counts, run.steps, "this recording"):
        console.print(f"note: {note}")


def _step(settings: BinSettings) -> str:
    return f"{settings.count:,} events" if settings.dt_us is None else f"{settings.dt_us / 1000:g} ms"


def _line(console: Console, chain: Chain, settings: BinSettings, moment: Moment) -> Text | str:
    """One moment: when, what, how sure; with a bar on a terminal."""
    when = _milliseconds(settings, moment.step)
    at = f"step {moment.step:>8,}" if when is None else f"{when / 1000:>10,.3f} s  step {moment.step:>8,}"
    name, sure = chain.classes[moment.decision], moment.confidence
    wide = max(map(len, chain.classes))
    if not console.is_terminal:
        return f"{at}  {name:<{wide}}  {100 * sure:5.1f} %"
    from rich.text import Text

    colour = "green" if sure >= 0.9 else "yellow" if sure >= 0.5 else "red"
    bar = "━" * round(_BAR * sure)
    shown = (printable(f"{name:<{wide}}"), "bold")
    return Text.assemble((at, "dim"), "  ", shown, f"  {100 * sure:5.1f} %  ", (bar, colour))


def _entry(chain: Chain, settings: BinSettings, moment: Moment) -> dict[str, Any]:
    return {
        "step": moment.step,
        "milliseconds": _milliseconds(settings, moment.step),
        "since_reset": moment.since,
        "decision": chain.classes[moment.decision],
        "confidence": moment.confidence,
        "scores": moment.scores.tolist(),
    }


def _totals(
    chain: Chain, settings: BinSettings, recording: Path, run: RecordingStream, seconds: float
) -> dict[str, Any]:
    from dataclasses import asdict

    assert run.binner is not None
    return {
        "recording": str(recording),
        "classes": list(chain.classes),
        "binning": settings.as_json(),
        "window": run.window,
        "events": run.binner.tally.events,
        "merged": run.binner.tally.merged,
        "steps": run.steps,
        "milliseconds": _milliseconds(settings, run.steps),
        "seconds": seconds,
        "faults": asdict(run.faults),
        "saturated_by_step": run.saturated,
        "spikes": run.counts,
        "layers": {layer.name: layer.origin for layer in chain.layers},
    }


def _table(title: str, columns: tuple[str, ...], rows: list[list[str]]) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def _spikes_table(chain: Chain, run: RecordingStream) -> Table:
    from snn2chip.report.tables import spike_cells

    rows = [spike_cells(layer, run.counts[layer.name], run.steps, run.steps) for layer in chain.layers]
    return _table("spikes", ("layer", "trained as", "neurons", "spikes", "a step", "of all"), rows)


def _draw(
    console: Console,
    chain: Chain,
    settings: BinSettings,
    recording: Path,
    window: int | None,
    steps: int | None,
    target: Path,
) -> None:
    """The picture: of the sample, or of the first steps of a stream."""
    from snn2chip.data.recordings import read_in_pieces
    from snn2chip.report import recording as plots
    from snn2chip.simulate import recorded

    pieces = read_in_pieces(recording, settings.sensor, assumed=recorded.assumed_sensor(chain, settings))
    events, drawn = plots.first_steps(pieces, settings, steps)
    title = recording.name if steps is not None else f"{recording.name}, first {drawn:,} steps"
    plots.save(plots.recording_figure(chain, settings, events, drawn, window, title), target)
    console.print(f"wrote {target}")
