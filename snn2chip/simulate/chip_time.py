"""Any `Netlist` in raw chip time: every layer starts at chip step 1, and what it sends arrives one step later.

One stream of steps, in chunks if it is long: u, v and what is still on its way are kept from one call to the next.
Layers are run one after another over a whole chunk, which is the same as step by step: a layer reads only steps that
the one before it has finished.

Lava's order of a step (lava-nc 0.10.0, `proc/dense/models.py`, `proc/conv/models.py`, `proc/lif/models.py`): a synapse
sends what it made of the step before, then reads its input; neurons that reset set u and v to 0 before they integrate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snn2chip.chip import neuron
from snn2chip.chip.bounds import BINARY, SUM_BITS, port_range
from snn2chip.chip.products import Product, exact_products
from snn2chip.errors import InputError
from snn2chip.files import atomic_path
from snn2chip.ir import IntArray
from snn2chip.ir.netlist import ChipLayer, Netlist

_CHUNK = 64  # chip steps at a time


@dataclass(frozen=True, eq=False)
class ChipTrace:
    """What a stretch of chip time left, by layer number: arrays (T, *shape) at the end of each step.

    spikes uint8; voltage int32, after the reset of a spike; current int32; largest: largest |input| seen.
    """

    spikes: dict[str, NDArray[np.uint8]]
    voltage: dict[str, NDArray[np.int32]]
    current: dict[str, NDArray[np.int32]]
    largest: dict[str, int]


def check_input(values: NDArray[np.generic], net: Netlist, source: str = "input") -> IntArray:
    """A stream of input, (T, *input_shape) or (1, T, *input_shape), as integers.

    Integers at the port, 0 and 1 where it takes spikes; for a network driven by bias, mantissas of the bias as
    integers, or numbers x in the units of the data, which become ``trunc0(gain x + offset)``.

    Raises:
        InputError: another shape, not numbers of that kind, or values out of range.
    """
    axes = len(net.input_shape)
    if values.ndim == axes + 2 and len(values) == 1:
        values = values[0]
    if values.ndim != axes + 1 or values.shape[1:] != net.input_shape or not len(values):
        raise InputError(
            f"'{source}': array 'input' has shape {values.shape}; chip time takes one stream (T, "
            f"{', '.join(map(str, net.input_shape))})"
        )
    first = net.layers[0]
    if values.dtype.kind == "f" and net.driven_by_bias:
        if not np.isfinite(values).all():
            raise InputError(f"'{source}': array 'input' holds values that are not numbers")
        values = np.trunc(first.gain * values.astype(np.float64) + first.offset).clip(-(2**31), 2**31).astype(np.int64)
    if values.dtype.kind not in "iub":
        raise InputError(f"'{source}': array 'input' is {values.dtype}; expected integers")
    stream: IntArray = values.astype(np.int64)
    low, high = port_range(net)
    if stream.min() < low or stream.max() > high:
        what = "bias mantissas" if net.driven_by_bias else "values"
        raise InputError(
            f"'{source}': {what} {stream.min()}..{stream.max()} exceed {low}..{high} of this network's input"
        )
    return stream


class ChipEngine:
    """Runs a `Netlist` from its first chip step; every `run` goes on where the last one ended.

    With `reset_interval` R and `reset_offset` O the neurons of the k-th layer (from 0) start anew at each chip step t,
    counted from 1, with ``t mod R = (O + 1 + k) mod R``: netx's own arguments of these names.
    """

    name = "chip"

    def __init__(self, net: Netlist, *, reset_interval: int | None = None, reset_offset: int = 0) -> None:
        self.net = net
        self.steps = 0
        low, high = (np.array([end]) for end in port_range(net))
        self.runners: list[_Runner] = []
        for index, layer in enumerate(net.layers):
            reset = None if reset_interval is None else (reset_interval, (reset_offset + 1 + index) % reset_interval)
            self.runners.append(_Runner(layer, (low, high) if index == 0 else BINARY, reset))

    @torch.no_grad()
    def run(self, stream: IntArray) -> ChipTrace:
        """The next steps, (T, *input_shape) as `check_input` gives them."""
        x = torch.from_numpy(np.ascontiguousarray(stream))
        traces: list[tuple[str, Tensor, Tensor, Tensor]] = []
        with exact_products():
            for runner in self.runners:
                spikes, voltage, current = runner.run(x, self.steps)
                traces.append((runner.layer.name, spikes, voltage, current))
                x = spikes
        self.steps += len(stream)
        return ChipTrace(
            {name: spikes.numpy().astype(np.uint8) for name, spikes, _, _ in traces},
            {name: voltage.numpy() for name, _, voltage, _ in traces},
            {name: current.numpy() for name, _, _, current in traces},
            {runner.layer.name: runner.largest for runner in self.runners},
        )

    def run_stream(
        self, stream: IntArray, *, keep: bool = False, progress: Callable[[int, int], None] | None = None
    ) -> tuple[dict[str, int], list[ChipTrace]]:
        """A long stream in chunks: spikes by layer number, and with `keep` its traces, one after another."""
        counts = {layer.name: 0 for layer in self.net.layers}
        parts = []
        for start in range(0, len(stream), _CHUNK):
            part = self.run(stream[start : start + _CHUNK])
            for number, spikes in part.spikes.items():
                counts[number] += int(spikes.sum())
            if keep:
                parts.append(part)
            if progress is not None:
                progress(min(start + _CHUNK, len(stream)), len(stream))
        return counts, parts


def save(path: str | Path, parts: Sequence[ChipTrace]) -> None:
    """Write a stream's traces, one after another, as `snn2chip lava run --clock chip` does: (1, T, *shape) arrays."""
    arrays = {
        f"{kind}/{number}": np.concatenate([getattr(part, kind)[number] for part in parts])[None]
        for kind in ("spikes", "voltage", "current")
        for number in parts[0].spikes
    }
    with atomic_path(path) as part, part.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


class _Runner:
    """One layer: its state, and what its synapse still has to send."""

    def __init__(self, layer: ChipLayer, bounds: tuple[IntArray, IntArray], reset: tuple[int, int] | None) -> None:
        self.layer = layer
        self.reset = reset
        self.largest = 0
        self.current = torch.zeros(layer.shape, dtype=torch.int32)
        self.voltage = torch.zeros(layer.shape, dtype=torch.int32)
        self.bias = torch.from_numpy(layer.bias.astype(np.int32))
        numbers = {name: getattr(layer, name) for name in ("threshold", "voltage_decay", "current_decay")}
        self.constants: dict[str, Any] = {
            name: x if isinstance(x, int) else torch.from_numpy(x.astype(np.int32, order="C"))
            for name, x in numbers.items()
        }
        self.products: dict[int, Product] = {}  # by delay
        self.recurrent: Tensor | None = None
        self.last: Tensor | None = None  # what the layer's own spikes of the last step weigh
        if layer.kind == "input":
            return
        if layer.delay is None:
            self.products[0] = Product(layer, *bounds)
        else:
            for delay in np.unique(layer.delay).tolist():
                part = np.where(layer.delay == delay, layer.weight, 0)
                self.products[delay] = Product(replace(layer, weight=part), *bounds)
        longest = max(self.products)
        self.pending = torch.zeros((longest + 1, *layer.shape), dtype=torch.int32)  # sums of the next steps
        if layer.recurrent is not None:
            self.recurrent = torch.from_numpy(layer.recurrent.astype(np.float64))
            self.last = torch.zeros(layer.shape, dtype=torch.int32)

    def run(self, x: Tensor, done: int) -> tuple[Tensor, Tensor, Tensor]:
        """Input (T, ...) of the steps after `done` to (spikes, voltage, current), each (T, *shape)."""
        steps = len(x)
        sums, bias = None, x.to(torch.int32)
        if self.products:
            sums, bias = self._arrive(x), self.bias.expand(steps, *self.layer.shape)
        spikes = torch.empty((steps, *self.layer.shape), dtype=torch.bool)
        voltages = torch.empty((steps, *self.layer.shape), dtype=torch.int32)
        currents = torch.empty_like(voltages)
        nothing = torch.zeros(self.layer.shape, dtype=torch.int32)
        for step in range(steps):
            activation = nothing if sums is None else sums[step]
            if self.recurrent is not None and self.last is not None:
                activation = activation + self.last
            self.largest = max(self.largest, int(activation.abs().max()))
            if self.reset is not None and (done + step + 1) % self.reset[0] == self.reset[1]:
                self.current, self.voltage = nothing, nothing
            self.current, self.voltage, fired = neuron.step(
                self.current, self.voltage, activation, bias[step], **self.constants
            )
            if self.recurrent is not None:
                self.last = (self.recurrent @ fired.double()).to(torch.int64).to(torch.int32)
            spikes[step], voltages[step], currents[step] = fired, self.voltage, self.current
        return spikes, voltages, currents

    def _arrive(self, x: Tensor) -> Tensor:
        """What the synapse sends in each of the steps, (T, *shape): what came d + 1 steps ago, by delay d."""
        steps, ahead = len(x), len(self.pending)
        arriving = torch.zeros((steps + ahead, *self.layer.shape), dtype=torch.int32)
        arriving[:ahead] = self.pending
        for delay, product in self.products.items():
            sums = product(x[None])[0]
            if self.layer.kind == "conv":  # Lava keeps 24 bits of them
                half = 2 ** (SUM_BITS - 1)
                sums = (torch.remainder(sums.long() + half, 2 * half) - half).to(torch.int32)
            arriving[1 + delay : 1 + delay + steps] += sums
        self.pending = arriving[steps:]
        return arriving[:steps]
