"""`stream`: a recording of an event camera, from its first event to its last or its first T steps, and its picture."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from snn2chip.cli.common import DeviceOption, Explain, JsonOption, NetArgument, app, console_of, device_of, guarded
from snn2chip.cli.simulate import EngineOption
from snn2chip.errors import InputError
from snn2chip.files import write_json
from snn2chip.parallel import one_process_only

if TYPE_CHECKING:
    import torch
    from rich.console import Console

    from snn2chip.choices import EngineKind
    from snn2chip.ir import Chain

PICTURES = (".png", ".svg", ".pdf")


@app.command(epilog="Example: snn2chip stream runs/gesture/model.net recording.aedat4 --plot picture.png")
@guarded
def stream(
    net: NetArgument,
    recording: Annotated[Path, typer.Argument(help=".bin, .npz, .aedat, .aedat4, .raw, .dat or .es.")],
    window: Annotated[
        str | None,
        typer.Option(help="Steps after which neurons are reset, or never; default: the network's time steps."),
    ] = None,
    every: Annotated[
        int | None, typer.Option(min=1, help="A decision after every so many steps; default: after every window.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw the recording, the decision and the spikes: .png, .svg or .pdf.")
    ] = None,
    json_file: JsonOption = None,
    sample: Annotated[
        bool, typer.Option("--sample", help="Only the first T steps, as a sample of the network's data set.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option(help="Write the sample's spikes and voltages of every layer, .npz.")
    ] = None,
    device: DeviceOption = "auto",
    engine: EngineOption = "auto",
    explain: Explain = False,
) -> None:
    """Classify one recording of an event camera, from its first event to its last, in bounded memory.

    With --sample its first T steps alone, as one sample: all scores, spikes and voltages of every layer, any device.
    """
    one_process_only("stream")
    for name, value in (("window", window), ("every", every)) if sample else ():
        if value is not None:
            raise InputError(f"--{name} and --sample exclude each other; leave one of them out")
    of_samples = {"output": output is not None, "device cuda": device == "cuda"}
    if not sample and (wrong := next((name for name, given in of_samples.items() if given), None)):
        raise InputError(f"--{wrong} belongs to a sample; add --sample")
    if plot is not None and plot.suffix.lower() not in PICTURES:
        raise InputError(f"--plot '{plot}': '{plot.suffix}' is no kind of picture here; choose {', '.join(PICTURES)}")
    from snn2chip.formats import netx

    chain = netx.load(net)
    console = console_of()
    if sample:
        _sample(console, chain, recording, output, json_file, plot, engine, device_of(device))
    else:
        steps = _window(window, chain.timesteps)
        _stream(console, chain, recording, steps, every or steps or chain.timesteps, json_file, plot, engine)


def _window(said: str | None, timesteps: int) -> int | None:
    """Steps between resets; None for never."""
    if said is None or said == "never":
        return timesteps if said is None else None
    if not said.isdecimal() or len(said) > 9 or int(said) < 1:
        raise InputError(f"--window '{said}': expected a number of steps, 1 to 999,999,999, or never")
    return int(said)


def _sample(
    console: Console,
    chain: Chain,
    recording: Path,
    output: Path | None,
    json_file: Path | None,
    plot: Path | None,
    engine: EngineKind,
    device: torch.device,
) -> None:
    """The recording as one sample: its first T steps."""
    from dataclasses import replace

    from snn2chip.report import stream as saying
    from snn2chip.report import tables
    from snn2chip.simulate import recorded, streaming, trace
    from snn2chip.simulate import run as runs

    settings = recorded.binning_of(chain)
    sample = recorded.read_sample(chain, recording)
    events = sample.events
    keep = output is not None or plot is not None
    result = runs.simulate(chain, port=sample.port, device=device, keep=keep, engine_kind=engine)
    result = replace(result, dataset=recording.name)
    said = recorded.moment_of(chain, result.trace.scores[0])
    if output is not None:
        trace.save(output, result.trace, result.outputs)
    if json_file is not None:
        write_json(json_file, saying.sample_figures(chain, settings, recording, sample, result, said))
    if result.note is not None:
        console.print(f"note: {result.note}")
    if events.faults:
        console.print(f"note: {events.faults}")
    height, width = events.sensor
    console.print(
        f"{recording.name}: {len(events):,} events in {events.duration_us / 1000:,.1f} ms, {width}x{height} pixels, "
        f"{settings}"
    )
    if sample.tally.late:
        console.print(f"note: {sample.tally.late:,} events after the last step are not used; without --sample all are")
    length = recorded.milliseconds(settings, chain.timesteps)
    if length is not None and events.duration_us / 1000 < length - (settings.dt_us or 0) / 1000:
        console.print(f"note: shorter than the {length:g} ms of the network's steps: the last steps are empty")
    console.print(tables.scores_table(chain, said))
    if (more := len(chain.classes) - tables.MOST_CLASSES) > 0:
        console.print(f"and {more} classes with lower scores (--json lists them)")
    console.print(tables.simulation_table(chain, result))
    if output is not None:
        console.print(f"wrote {output}")
    if plot is not None:
        from snn2chip.report import recording as plots

        drawing = plots.Drawing(chain, chain.timesteps, chain.timesteps)
        drawing.first.take(events)
        drawing.add(streaming.course(chain, result.trace))
        plots.save(plots.recording_figure(drawing, recording.name), plot)
        console.print(f"wrote {plot}")


def _stream(
    console: Console,
    chain: Chain,
    recording: Path,
    window: int | None,
    every: int,
    json_file: Path | None,
    plot: Path | None,
    engine: EngineKind,
) -> None:
    """The whole recording, step after step."""
    from snn2chip.data.recordings import PIECE_SUFFIXES, SUFFIXES
    from snn2chip.report import stream as saying
    from snn2chip.report import tables
    from snn2chip.simulate import recorded
    from snn2chip.simulate.activity import of_chain

    run = recorded.RecordingStream(chain, window, engine)
    settings, drawing, pieces = run.settings, None, recorded.pieces_of(chain, recording)
    if plot is not None:
        from snn2chip.report import recording as plots

        drawing = plots.Drawing(chain, window)
        pieces = drawing.first.watch(pieces)
    resets = "never reset" if window is None else f"reset every {window} steps"
    console.print(f"{recording.name}: steps of {saying.step_of(settings)}, {resets}")
    if recording.suffix.lower() in set(SUFFIXES) - set(PIECE_SUFFIXES):
        console.print(f"note: {recording.suffix} is read whole; {' and '.join(PIECE_SUFFIXES)} in bounded memory")
    if run.engine.note is not None:
        console.print(f"note: {run.engine.note}")
    started = time.monotonic()
    with saying.json_list(json_file) as (add, end):
        for moment in run.run(pieces, every, drawing):
            console.print(saying.line(console, chain, settings, moment))
            add(saying.entry(chain, settings, moment))
        seconds = time.monotonic() - started
        end(saying.totals(chain, settings, recording, run, seconds))
    if run.faults:
        console.print(f"note: {run.faults}")
    if run.saturated is not None:
        console.print(
            f"note: by step {run.saturated:,} a score had reached the end of the chip's 24 bits, where sums stop or "
            "start again: no decision counts after it; give a smaller --window"
        )
    assert run.binner is not None
    length = recorded.milliseconds(settings, run.steps)
    lasts = "" if length is None else f" ({length / 1000:,.1f} s)"
    console.print(f"{run.binner.tally.events:,} events, {run.steps:,} steps{lasts} in {seconds:.1f} s")
    console.print(tables.stream_table(chain, run))
    for note in of_chain(chain, run.counts, run.steps, "this recording"):
        console.print(f"note: {note}")
    if drawing is not None and plot is not None:
        title = f"{recording.name}, first {drawing.steps:,} steps"
        plots.save(plots.recording_figure(drawing, title), plot)
        console.print(f"wrote {plot}")
