"""Run a chain over a whole data set: accuracy, spikes per layer, speed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from snn2chip import parallel
from snn2chip.choices import check_whole
from snn2chip.data import ImageSet
from snn2chip.errors import InputError
from snn2chip.ir import Chain, FloatArray, IntArray
from snn2chip.ir.encode import encoder_of
from snn2chip.ir.trace import Trace
from snn2chip.simulate.engines import Engine, EngineKind, make_engine
from snn2chip.simulate.trace import check_input

if TYPE_CHECKING:  # placing knows of passes and formats, which simulating does not need
    from snn2chip.fit.cost import Cost, Meter


@dataclass(frozen=True, eq=False)
class Simulation:
    """A trace and its figures. `accuracy` is a fraction, None without labels; `seconds` is the engine's time (encoding
    and the wait for files to be decoded included, reading the data not); `note` says why the engine is not the one
    asked for; `cost` if it was counted; `outputs` (N, K) are the scores in the trained network's units, None for a file
    that does not say them; `confusion` rows of label, decision and how many samples, without labels None."""

    trace: Trace = field(repr=False)
    samples: int
    timesteps: int
    seconds: float
    accuracy: float | None
    engine: str
    dataset: str | None
    note: str | None = None
    cost: Cost | None = None
    outputs: FloatArray | None = field(default=None, repr=False)
    confusion: list[list[int]] | None = field(default=None, repr=False)

    def as_json(self, chain: Chain) -> dict[str, Any]:
        """Plain values, as `snn2chip simulate --json` writes them."""
        figures: dict[str, Any] = {
            "samples": self.samples,
            "timesteps": self.timesteps,
            "seconds": self.seconds,
            "samples_per_second": self.samples / max(self.seconds, 1e-9),
            "spikes": self.trace.counts,
            "largest_input": self.trace.largest,
            "layers": {layer.name: layer.origin for layer in chain.layers},
            "engine": self.engine,
            "dataset": self.dataset,
        }
        if chain.made.get("events") is not None:
            figures["binning"] = chain.made["events"]  # what a step lasts: `dt_us`
        if self.accuracy is not None:
            figures["accuracy"] = self.accuracy
        if self.confusion is not None:
            figures["confusion"] = self.confusion
        if self.cost is not None:
            figures["cost"] = self.cost.as_json()
        return figures


def simulate(
    chain: Chain,
    *,
    port: IntArray | None = None,
    images: ImageSet | None = None,
    batch_size: int = 50,
    device: torch.device | None = None,
    keep: bool = False,
    progress: Callable[[int, int], None] | None = None,
    engine_kind: EngineKind = "auto",
    meter: Meter | None = None,
) -> Simulation:
    """Simulate port integers (samples, T, ...) or a data set's images; `keep` keeps spikes and voltages, `meter` counts
    what they cost.

    Under torchrun each process runs its share of the samples, and each gets the scores and counts of all; spikes and
    voltages that are kept reach the leader alone.

    Raises:
        DataError: labels of other classes than the network's.
        InputError: neither or both of `port` and `images`, either of them does not fit the network (see
            `snn2chip.simulate.trace.check_input`), a batch size below 1, or the event engine on a GPU.
    """
    if (port is None) == (images is None):
        raise InputError("simulate: give either port integers or images")
    check_whole("batch_size", batch_size, 1)
    if images is not None:
        images.require_classes(chain.layers[-1].shape[0])
    if port is not None:
        port = check_input(port, chain)
    engine = make_engine(chain, device, engine_kind)
    encoder = encoder_of(chain)
    if chain.coding == "direct":
        encoder.timesteps = 1
    total = len(port) if port is not None else len(images) if images is not None else 0
    parts: list[Trace] = []
    mine = parallel.share(total)
    started = time.monotonic()
    pixels = None if images is None else images.in_parts(batch_size, mine)
    for start in range(mine.start, mine.stop, batch_size):
        stop = min(start + batch_size, mine.stop)
        if pixels is not None:
            batch = chain.port(encoder(next(pixels)[1]))
            if chain.coding == "direct":  # in memory once, however many steps show it
                batch = np.broadcast_to(batch, (len(batch), chain.timesteps, *batch.shape[2:]))
        else:
            assert port is not None  # exactly one of the two is given
            batch = port[start:stop]
        parts.append(counted(engine, batch, meter, batch_size=batch_size, keep=keep))
        if progress is not None:
            progress(stop - mine.start, mine.stop - mine.start)
    parts = _of_all(parts, keep)
    if meter is not None and parallel.size() > 1:
        meter.counts[:] = [counts for process in parallel.all_of(meter.counts) for counts in process]
    seconds = time.monotonic() - started
    trace = Trace.joined(parts)
    accuracy, confusion = None, None
    if images is not None:
        labels, decided = images.labels.numpy(), trace.scores.argmax(1)
        accuracy, confusion = float(np.mean(decided == labels)), confusion_of(labels, decided)
    return Simulation(
        trace,
        total,
        chain.timesteps if port is None else port.shape[1],
        seconds,
        accuracy,
        engine.name,
        images.name if images is not None else None,
        engine.note,
        None if meter is None else meter.cost(),
        chain.outputs(trace.scores),
        confusion,
    )


def confusion_of(labels: IntArray, decided: IntArray) -> list[list[int]]:
    """How many samples of each label were decided for each class: rows (label, decision, samples), none with 0."""
    pairs, counts = np.unique(np.stack([labels, decided], 1), axis=0, return_counts=True)
    rows: list[list[int]] = np.column_stack([pairs, counts]).tolist()
    return rows


def counted(engine: Engine, port: IntArray, meter: Meter | None, *, batch_size: int, keep: bool) -> Trace:
    """What `engine` makes of these samples; a meter of the same chain counts what that costs."""
    if meter is None:
        return engine.run(port, batch_size=batch_size, keep=keep)
    trace = engine.run(port, batch_size=batch_size, keep=keep, counting=meter.counting)
    assert trace.tally is not None  # it was asked for
    meter.add(trace.tally)
    return Trace(trace.spikes, trace.voltage, trace.scores, trace.counts, trace.largest)


def _of_all(parts: list[Trace], keep: bool) -> list[Trace]:
    """The parts of all processes, in the order of the samples; spikes and voltages reach the leader alone."""
    if parallel.size() == 1:
        return parts
    found = parallel.all_of([Trace({}, {}, part.scores, part.counts, part.largest) for part in parts])
    whole = parallel.all_at_leader(parts) if keep else None
    return [part for process in whole or found for part in process]
