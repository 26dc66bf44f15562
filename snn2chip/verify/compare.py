"""Two stages held against each other: how many values differ, and the first of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from snn2chip import ir
from snn2chip.errors import InputError
from snn2chip.formats.nir.run import Written
from snn2chip.ir.interpreter import FloatTrace
from snn2chip.ir.trace import Trace
from snn2chip.nn import in_float64, unwrapped
from snn2chip.nn.neuron import listening
from snn2chip.passes.adapt import Adapted
from snn2chip.passes.schedule import Relay

ROUNDING = 1e-9  # what float64 may add to a membrane or score, relative to the largest of its layer


@dataclass(frozen=True)
class Difference:
    """The first place where two stages differ. `sample` and `step` are None where a file's number differs."""

    layer: str
    sample: int | None
    step: int | None
    neuron: list[int]


Arrays = Mapping[str, NDArray[Any]]
Counted = tuple[int, int, Difference | None]  # mismatches, compared, the first difference
Named = dict[str, tuple[NDArray[Any], NDArray[Any]]]  # layer -> spikes, voltages (N, T, ...)


@dataclass(frozen=True)
class Rung:
    """One comparison: `mismatches` of `compared` values differ; `first` is the earliest.

    `proved`: it holds for every input, not only for the samples that were run.
    `spikes` by trained layer, of the second of the two stages; empty where none runs.
    """

    name: str
    passed: bool
    mismatches: int
    compared: int
    first: Difference | None
    detail: str
    proved: bool = False
    spikes: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """One comparison on some of the samples.

    `say` makes the detail of a rung of what was measured: the largest of `most` and the sums of `sums`, over all parts.
    `hint` is where to look if a value differs; `passed` is set where that alone does not decide.
    """

    counted: Counted
    say: Callable[[Mapping[str, float]], str]
    spikes: Mapping[str, int] = field(default_factory=dict)
    most: Mapping[str, float] = field(default_factory=dict)
    sums: Mapping[str, float] = field(default_factory=dict)
    hint: str = ""
    passed: bool | None = None
    proved: bool = False


def spike_counts(spikes: Arrays) -> dict[str, int]:
    """How many spikes by layer."""
    return {layer: int(np.count_nonzero(values)) for layer, values in spikes.items()}


def rung_of(name: str, parts: Sequence[Part], starts: Sequence[int] = (0,)) -> Rung:
    """A comparison on all samples, of its parts, which begin with the samples `starts`; first is what differs first in
    the first part that has a difference."""
    spikes: Counter[str] = Counter()
    sums: Counter[str] = Counter()
    most: dict[str, float] = {}
    first, hint = None, ""
    for start, part in zip(starts, parts, strict=False):  # one part, where samples do not matter
        spikes.update(part.spikes)
        sums.update(part.sums)
        most |= {key: max(value, most.get(key, value)) for key, value in part.most.items()}
        if first is None and (first := part.counted[2]) is not None:
            hint = part.hint
            first = first if first.sample is None else replace(first, sample=first.sample + start)
    mismatches, compared = sum(part.counted[0] for part in parts), sum(part.counted[1] for part in parts)
    passed = all(part.counted[0] == 0 if part.passed is None else part.passed for part in parts)
    proved = passed and all(part.proved for part in parts)
    return Rung(name, passed, mismatches, compared, first, parts[-1].say({**most, **sums}) + hint, proved, dict(spikes))


@dataclass(frozen=True)
class Verdict:
    """All rungs; `passed` when every exact one holds. `notes`: what makes it say less than it seems to."""

    passed: bool
    rungs: tuple[Rung, ...]
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The verdict as plain values, as `snn2chip verify --json` writes it."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Verdict:
        """What `as_json` made plain values of."""
        rungs = []
        for rung in values["rungs"]:
            first = None if rung["first"] is None else Difference(**rung["first"])
            rungs.append(Rung(**{**rung, "first": first}))
        return cls(values["passed"], tuple(rungs), tuple(values["notes"]))


def compare(first: Arrays, second: Arrays) -> Counted:
    """Count differing values of two sets of (samples, T, ...) arrays, layer by layer in the order of `first`.

    The difference named is in the first layer that differs: its earliest sample, there the earliest step.

    Raises:
        InputError: a layer is missing or has another shape.
    """
    mismatches, compared = 0, 0
    earliest: Difference | None = None
    for name, wanted in first.items():
        found = second.get(name)
        if found is None or found.shape != wanted.shape:
            shape = None if found is None else found.shape
            raise InputError(f"layer '{name}': arrays of shape {wanted.shape} and {shape} cannot be compared")
        differs = wanted != found
        count = int(differs.sum())
        mismatches += count
        compared += wanted.size
        if count and earliest is None:
            sample, step, *neuron = (int(index) for index in np.argwhere(differs)[0])
            earliest = Difference(name, sample, step, neuron)
    return mismatches, compared, earliest


def _apart(first: NDArray[Any], second: NDArray[Any]) -> NDArray[np.bool_]:
    """Where two arrays are farther apart than float64's rounding; NaN is."""
    near: NDArray[np.bool_] = np.abs(first - second) <= ROUNDING * max(1.0, float(np.abs(first).max()))
    return ~near


def membranes(first: FloatTrace, second: FloatTrace) -> Counted:
    """Like `compare`, of two float traces: a neuron's step differs if its spike does, or its membrane does."""
    spikes, others = spikes_of(first), spikes_of(second)
    compare(spikes, others)  # refuses other layers and shapes
    differs = {
        name: _apart(membrane.numpy(), second.membranes[name].numpy()) | (spikes[name] != others[name])
        for name, membrane in first.membranes.items()
    }
    return compare(differs, {name: np.zeros_like(values) for name, values in differs.items()})


def with_scores(counted: Counted, first: NDArray[Any], second: NDArray[Any], layer: str) -> Counted:
    """Count scores (N, K) too: the last layer has no spikes of its own, and shows in them alone."""
    differs = _apart(first, second)
    mismatches, compared, earliest = counted
    if differs.any() and earliest is None:
        sample, *neuron = (int(index) for index in np.argwhere(differs)[0])
        earliest = Difference(layer, sample, None, neuron)
    return mismatches + int(differs.sum()), compared + differs.size, earliest


def spikes_of(trace: FloatTrace) -> dict[str, NDArray[Any]]:
    """Spikes by layer, as arrays."""
    return {name: values.numpy() for name, values in trace.spikes.items()}


@torch.no_grad()
def module_spikes(
    network: nn.Module | Adapted | Written, raw: ir.IntArray
) -> tuple[dict[str, NDArray[Any]], NDArray[Any]]:
    """Spikes (N, T, ...) of every LIF of a torch network or NIR graph run in float64, by name, and scores (N, K) summed
    over time; `raw` is (N, T, C, H, W)."""
    if isinstance(network, (Adapted, Written)):
        return network.run(raw)
    network = in_float64(unwrapped(network))
    spikes: dict[str, NDArray[Any]] = {}
    uses: Counter[str] = Counter()

    def keep(name: str, output: torch.Tensor) -> None:
        uses[name] += 1  # a module used again is another layer (see `capture`)
        shown = name if uses[name] == 1 else f"{name}:{uses[name]}"
        spikes[shown] = output.transpose(0, 1).numpy().astype(bool)

    x = torch.from_numpy(raw).transpose(0, 1)
    # direct coding has an affine part of its own; a Poisson encoder's output is its spikes
    x = network.encoder(x[0]) if network.encoder.coding == "direct" else x.double()
    with listening(network.body, keep):
        scores = network.readout(network.steps(x)) * network.timesteps
    return spikes, scores.numpy()


def by_origin(trace: Trace, chain: ir.Chain) -> Named:
    """Spikes and voltages by what each channel of the chain was made from."""
    found: Named = {}
    for layer in chain.layers:
        spikes, voltage = trace.spikes[layer.name], trace.voltage[layer.name]
        for name, (start, stop) in (layer.origin or {layer.name: (0, layer.shape[0])}).items():
            found[name] = spikes[:, :, start:stop], voltage[:, :, start:stop]
    return found


def compare_both(left: Named, right: Named) -> Counted:
    """Compare spikes and voltages, side by side so that the first difference is the first in time."""

    def stacked(named: Named) -> dict[str, NDArray[Any]]:
        return {name: np.stack([volts, spikes.astype(np.int32)], 2) for name, (spikes, volts) in named.items()}

    mismatches, compared, first = compare(stacked(left), stacked(right))
    if first is not None:
        # the first index only says which of the two arrays it was
        first = Difference(first.layer, first.sample, first.step, first.neuron[1:])
    return mismatches, compared, first


def relayed(source: NDArray[Any], relay: Relay) -> NDArray[Any]:
    """What a relay of spikes (N, T, C, H, W) or (N, T, F) must hold, in the layout of `snn2chip.passes.schedule`."""
    if source.ndim == 3:
        return source
    (sy, sx), (rows, columns) = relay.stride, relay.grid
    source = source[:, :, :, : relay.covers[0], : relay.covers[1]]
    padded = np.pad(source, ((0, 0), (0, 0), (0, 0), (0, sy * rows), (0, sx * columns)))  # beyond the image: none
    parts = [padded[:, :, :, y : y + sy * rows : sy, x : x + sx * columns : sx] for y, x in relay.phases]
    held = np.stack(parts, 3).reshape(*source.shape[:2], -1, rows, columns)
    return held.reshape(*source.shape[:2], *relay.shape)
