"""What `stream` says of a recording: a line and a JSON entry for every moment, and figures of the whole."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from snn2chip.data.recordings import BinSettings
from snn2chip.files import atomic_path
from snn2chip.ir import Chain
from snn2chip.simulate.recorded import Moment, RecordingStream, Sample, milliseconds
from snn2chip.simulate.run import Simulation
from snn2chip.text import printable

_BAR = 24  # characters of a confidence of 1


def step_of(settings: BinSettings) -> str:
    """What a step is of."""
    return f"{settings.count:,} events" if settings.dt_us is None else f"{settings.dt_us / 1000:g} ms"


def line(console: Console, chain: Chain, settings: BinSettings, moment: Moment) -> Text | str:
    """One moment: when, what, how sure; with a bar on a terminal."""
    when = milliseconds(settings, moment.step)
    at = f"step {moment.step:>8,}" if when is None else f"{when / 1000:>10,.3f} s  step {moment.step:>8,}"
    name, sure = chain.classes[moment.decision], moment.confidence
    wide = max(map(len, chain.classes))
    if not console.is_terminal:
        return f"{at}  {name:<{wide}}  {100 * sure:5.1f} %"
    colour = "green" if sure >= 0.9 else "yellow" if sure >= 0.5 else "red"
    bar = "━" * round(_BAR * sure)
    shown = (printable(f"{name:<{wide}}"), "bold")
    return Text.assemble((at, "dim"), "  ", shown, f"  {100 * sure:5.1f} %  ", (bar, colour))


def entry(chain: Chain, settings: BinSettings, moment: Moment) -> dict[str, Any]:
    """A moment in JSON."""
    return {
        "step": moment.step,
        "milliseconds": milliseconds(settings, moment.step),
        "since_reset": moment.since,
        "decision": chain.classes[moment.decision],
        "confidence": moment.confidence,
        "scores": moment.scores.tolist(),
    }


def totals(
    chain: Chain, settings: BinSettings, recording: Path, run: RecordingStream, seconds: float
) -> dict[str, Any]:
    """A stream in JSON, but for its moments."""
    assert run.binner is not None
    return {
        "recording": str(recording),
        "classes": list(chain.classes),
        "binning": settings.as_json(),
        "window": run.window,
        "events": run.binner.tally.events,
        "merged": run.binner.tally.merged,
        "steps": run.steps,
        "milliseconds": milliseconds(settings, run.steps),
        "seconds": seconds,
        "engine": run.engine.name,
        "faults": asdict(run.faults),
        "saturated_by_step": run.saturated,
        "spikes": run.counts,
        "layers": {layer.name: layer.origin for layer in chain.layers},
    }


def sample_figures(
    chain: Chain, settings: BinSettings, recording: Path, sample: Sample, result: Simulation, said: Moment
) -> dict[str, Any]:
    """A recording as one sample in JSON."""
    return {
        **result.as_json(chain),
        "recording": str(recording),
        "events": len(sample.events),
        "duration_ms": sample.events.duration_us / 1000,
        "after_last_step": sample.tally.late,
        "merged": sample.tally.merged,
        "faults": asdict(sample.events.faults),
        "milliseconds": milliseconds(settings, chain.timesteps),
        "decision": chain.classes[said.decision],
        "confidence": said.confidence,
        "scores": dict(zip(chain.classes, said.scores.tolist(), strict=True)),
        "shares": dict(zip(chain.classes, said.shares.tolist(), strict=True)),
    }


@contextmanager
def json_list(target: Path | None) -> Iterator[tuple[Callable[[dict[str, Any]], None], Callable[[Any], None]]]:
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
