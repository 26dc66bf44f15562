"""What a NIR graph leaves unsaid, and whoever reads it says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypedDict

import numpy as np

from snn2chip import ir
from snn2chip.choices import Ties
from snn2chip.data.recordings import BinSettings
from snn2chip.errors import InputError
from snn2chip.formats.nir import algebra
from snn2chip.formats.nir.fields import Fields


class Asked(TypedDict, total=False):
    """What a file may leave unsaid.

    timesteps  steps a sample; needed where the metadata says nothing (and replaces it where it does)
    high       the largest input value, integers from 0; needed where the metadata says nothing
    dt         seconds a step; that of the metadata, or 1e-4
    mean, std  what the graph reads is (value / high - mean) / std, one number a channel or one for all: the input's
               scale and shift; both or none, which reads the integers as they are. Not for graphs that snn2chip wrote
    ties       what a membrane right at its threshold does: 'hold', as NIR's own equation has it (the default), or
               'fire'. Not for graphs that snn2chip wrote
    events     how recordings of an event camera become the frames that the graph reads, one a step; gives `timesteps`
               and `high`
    """

    timesteps: int | None
    high: int | None
    dt: float | None
    mean: Sequence[float] | None
    std: Sequence[float] | None
    ties: Ties | None
    events: BinSettings | None


@dataclass(frozen=True)
class Source:
    """What is known of a graph's input and readout."""

    timesteps: int
    coding: ir.Coding
    pixel_max: int
    low: int
    high: int
    center: ir.IntArray
    readout: Literal["membrane", "spike_count"] | None
    classes: list[str] | None


class Told:
    """What the metadata of a graph, `ours` or another maker's, and whoever reads it say together.

    dt    seconds a step
    ties  whether a membrane right at its threshold fires

    Raises:
        InputError: they contradict each other, or what is asked for makes no sense.
    """

    def __init__(self, meta: Fields, ours: bool, asked: Asked) -> None:
        self.meta, self.ours = meta, ours
        timesteps, high, self.events = asked.get("timesteps"), asked.get("high"), asked.get("events")
        dt, mean, std, ties = asked.get("dt"), asked.get("mean"), asked.get("std"), asked.get("ties")
        if self.events is not None:
            binned = {"timesteps": (timesteps, self.events.timesteps), "high": (high, self.events.max_count)}
            for what, (said, wanted) in binned.items():
                if said not in (None, wanted):
                    raise InputError(f"{what} {said}, but recordings are binned to {wanted}; leave it out")
            timesteps, high = self.events.timesteps, self.events.max_count
        self.asked = timesteps, high
        if ties is not None and ours:
            raise InputError("ties are for graphs of other makers; snn2chip's own say what their neurons do")
        self.ties = ties == "fire"
        if (mean is None) != (std is None):
            raise InputError(f"{'std' if std is None else 'mean'} is missing: give both mean= and std=, or none")
        if mean is not None and ours:
            raise InputError("mean and std are for graphs of other makers; snn2chip's own say what their input is")
        self.normal = None if mean is None or std is None else (mean, std)
        self.dt, self.said_dt = dt if dt is not None else meta.number("dt") if ours else algebra.DT, dt is not None
        if not self.dt > 0:
            raise InputError(f"dt {self.dt:g} is not a positive time")

    def source(self, shape: ir.Shape) -> Source:
        """Of an input of that shape, by the metadata or as asked.

        Raises:
            InputError: neither says it, or what is said makes no sense.
        """
        timesteps, high = self.asked
        if timesteps is not None and timesteps < 1:
            raise InputError(f"timesteps {timesteps} is less than 1")
        if high is not None and not 1 <= high <= 2**24:
            raise InputError(f"the largest input value {high} is outside 1..{2**24}")
        if not self.ours:
            if timesteps is None or high is None:
                missing = "how many time steps a sample has" if timesteps is None else "its largest input value"
                raise InputError(
                    f"the graph does not say {missing}; give timesteps= and high= (--timesteps T --high N)"
                )
            center = np.zeros(shape[0], dtype=np.int64)
            return Source(timesteps, "events" if self.events else "direct", high, 0, high, center, None, None)
        meta = self.meta
        low, top = meta.integer("low", -(2**24), 2**24), meta.integer("high", -(2**24), 2**24)
        center = np.atleast_1d(np.asarray(meta.values.get("center")))
        if center.dtype.kind not in "iu" or center.shape != shape[:1] or center.min() < low or center.max() > top:
            raise meta.fail("center", f"{shape[0]} integers {low}..{top}, one a channel")
        coding = meta.text("coding", *ir.CODINGS)
        if self.events and coding != "events":
            raise InputError(f"binning of recordings is given, but the graph's input is coded '{coding}'; leave it out")
        return Source(
            meta.integer("timesteps", 1, 2**20) if timesteps is None else timesteps,
            next(kind for kind in ir.CODINGS if kind == coding),
            meta.integer("pixel_max", 1, 2**24),
            low,
            top if high is None else high,
            center.astype(np.int64),
            "membrane" if meta.text("readout", "membrane", "spike_count") == "membrane" else "spike_count",
            meta.names("classes"),
        )

    def normalize(self, source: ir.Input) -> ir.Input:
        """The input of a network that is still to be folded, which centres it itself, at the same place.

        Raises:
            InputError: a mean or std that is not finite, or not one number a channel; a std that is not positive.
        """
        shift = (0.0 - source.center).astype(np.float64)
        if self.normal is not None:
            mean, std = (
                _per_channel(name, numbers, source.shape)
                for name, numbers in zip(("mean", "std"), self.normal, strict=True)
            )
            if not (std > 0).all():
                raise InputError(f"std {std.min():g} is not positive")
            source, shift = replace(source, scale=1 / (source.high * std)), -mean / std
        return replace(source, center=np.zeros_like(source.center), shift=shift)

    def notes(self, said: Source, nodes: Sequence[ir.Node], readout: ir.Readout) -> tuple[str, ...]:
        """What no NIR graph says, and what was assumed; the input is the first of `nodes`."""
        source, neurons = nodes[0], [node for node in nodes if isinstance(node, ir.LIF)]
        if self.normal is None:
            given = f"integers {said.low}..{said.high} as they are, not normalized"
            if said.high > 1:
                given += (
                    "; a network trained on values scaled to 0..1 needs --mean 0 --std 1, on normalized ones theirs"
                )
        else:
            given = f"(value / {said.high} - mean) / std with mean {list(self.normal[0])}, std {list(self.normal[1])}"
        steps = "a frame of events a step" if said.coding == "events" else f"the same at each of {said.timesteps} steps"
        notes = [f"assumed: '{source.name}' is {given}; {steps}"]
        if neurons:
            leaks = ", ".join(f"{leak:g}" for leak in sorted({node.tau for node in neurons}))
            notes += [
                f"assumed: a step is {self.dt:g} s{'' if self.said_dt else ' (the default)'}, and membranes leak by "
                f"forward Euler, 1 - dt / tau = {leaks} kept from step to step; a file that counts time in steps is "
                f"read with --dt 1",
                "assumed: a spike sets the membrane to v_reset at the same step, where it also starts; NIR has no word "
                "for a reset by subtraction or one step later, and exporters (snnTorch's) write the same file for "
                "them: a network trained so gives other spikes here",
                "said by --ties: a membrane right at its threshold fires"
                if self.ties
                else "assumed: a membrane right at its threshold does not fire, as NIR's equation says; where the "
                "trained neuron does (>=, as SpikingJelly's), give --ties fire",
            ]
        what = "spikes counted" if readout.kind == "spike_count" else "currents summed"
        return (*notes, f"assumed: scores are the last layer's {what} over the steps; classes are numbered")


def _per_channel(name: str, numbers: Sequence[float], shape: ir.Shape) -> ir.FloatArray:
    """One number a channel, from as many or from one."""
    values = np.asarray(numbers, dtype=np.float64)
    if values.shape not in ((1,), shape[:1]) or not np.isfinite(values).all():
        raise InputError(f"{name} {list(numbers)}: expected 1 or {shape[0]} finite numbers, one a channel")
    return np.broadcast_to(values, shape[:1]).copy()
