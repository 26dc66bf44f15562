"""Akida's run of a model.fbz against ours of the model.net that it was made from, a batch of samples at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snn2chip import ir
from snn2chip.backends import akida
from snn2chip.data import ImageSet
from snn2chip.errors import InputError
from snn2chip.ir.encode import encoder_of
from snn2chip.ir.trace import Trace
from snn2chip.simulate.engines import make_engine
from snn2chip.verify.compare import Counted, Difference, Rung, compare


@dataclass(frozen=True, eq=False)
class Part:
    """A batch: what Akida left, what differs, and how many decisions are right of those with a label."""

    trace: Trace
    counted: Counted
    right: int | None


@dataclass
class Tally:
    """What batches come to. `potentials` of the last layer and, where asked for, `spikes` of the others were compared;
    `first` is where they differ first, its sample counted from the first one of the whole run."""

    samples: int = 0
    potentials: int = 0
    compared: int = 0
    differ: int = 0
    right: int | None = None
    fired: dict[str, int] = field(default_factory=dict)
    first: Difference | None = None

    def add(self, part: Part) -> None:
        """Take in the next batch."""
        count, whole, first = part.counted
        if self.first is None and first is not None:
            self.first = first
        self.differ, self.compared = self.differ + count, self.compared + whole
        self.potentials += part.trace.scores.size
        self.samples += len(part.trace.scores)
        for name, spikes in part.trace.counts.items():
            self.fired[name] = self.fired.get(name, 0) + spikes
        if part.right is not None:
            self.right = (self.right or 0) + part.right

    def as_json(self) -> dict[str, Any]:
        """As ``snn2chip akida run --json`` writes it."""
        return {
            "samples": self.samples,
            "potentials": self.potentials,
            "spikes_compared": self.compared - self.potentials,
            "differ": self.differ,
            "accuracy": None if self.right is None else self.right / max(1, self.samples),
            "spikes": self.fired,
            "first": None if self.first is None else asdict(self.first),
        }

    @property
    def rung(self) -> Rung:
        """As a rung of `verify`."""
        detail = f"{self.samples:,} samples in BrainChip's simulator"
        return Rung("integers = Akida", not self.differ, self.differ, self.compared, self.first, detail)

    def lines(self) -> Iterator[str]:
        """What was compared, and what was right."""
        spikes = self.compared - self.potentials
        what = f"{self.potentials:,} potentials" + (f" and {spikes:,} spikes" if spikes else "")
        yield f"{self.samples:,} samples, {what}: {self.differ:,} differ from our integers"
        for name, fired in self.fired.items():
            yield f"layer {name}: {fired:,} spikes"
        if self.right is not None and self.samples:
            yield f"accuracy {self.right / self.samples:.2%} in Akida"


def compare_with(model: akida.Layout, ours: Trace, theirs: Trace) -> Counted:
    """Every spike that Akida's run recorded, and every score; layers by their trained names."""
    left: dict[str, NDArray[Any]] = {}
    right: dict[str, NDArray[Any]] = {}
    for piece in model.pieces:
        if piece.number in theirs.spikes:
            left[piece.name], right[piece.name] = ours.spikes[piece.number], theirs.spikes[piece.number]
    last = model.pieces[-1].name
    if last not in left:
        left[last], right[last] = ours.scores[:, None], theirs.scores[:, None]
    return compare(left, right)


def batches(
    chain: ir.Chain,
    model: akida.Layout,
    path: Path,
    *,
    port: ir.IntArray | None = None,
    images: ImageSet | None = None,
    skip: int = 0,
    batch: int = 250,
    layers: bool = False,
    progress: Callable[[int, int], None] = lambda done, whole: None,
) -> Iterator[Part]:
    """Run the samples behind the first `skip`, of port integers or of a data set, and compare them batch by batch.

    Raises:
        InputError: neither or both of `port` and `images`, no sample is left, or as `snn2chip.backends.akida.run`.
        SetupError: Akida's environment is not set up.
    """
    if (port is None) == (images is None):
        raise InputError("give either port integers or images")
    total = len(port) if port is not None else len(images) if images is not None else 0
    if skip >= total:
        raise InputError(f"--skip {skip}: there are {total} samples; give less")
    engine, encoder = make_engine(chain), encoder_of(chain)
    labels = None if images is None else images.labels.numpy()
    if images is not None:
        encoder(images.images[:0])  # refuses another shape
        for start in range(0, skip if chain.coding == "poisson" else 0, batch):  # draws what was drawn for them
            encoder(images.images[start : min(start + batch, skip)])
    for start in range(skip, total, batch):
        stop = min(start + batch, total)
        given = port[start:stop] if port is not None else chain.port(encoder(images.images[start:stop]))  # type: ignore[union-attr]

        def step(done: int, whole: int, start: int = start, stop: int = stop) -> None:
            progress(start - skip + (stop - start) * done // whole, total - skip)

        theirs = akida.run(model, path, given, layers=layers, progress=step)
        count, whole, first = compare_with(model, engine.run(given, keep=layers), theirs)
        if first is not None and first.sample is not None:
            first = replace(first, sample=first.sample + start)
        right = None if labels is None else int(np.sum(theirs.scores.argmax(1) == labels[start:stop]))
        yield Part(theirs, (count, whole, first), right)
