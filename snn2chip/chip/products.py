"""Exact sums of weights and inputs in float arithmetic, and the neuron over many steps; the dense engine is made of it.

A float32 multiply-add of integers is exact while every sum stays under 2^24, which the weights themselves
prove (sum of |w| times the largest input); where they do not, float64 is taken. That holds of multiply-adds,
not of Winograd's convolution: on the CPU the backend that has it is switched off, and float32 is tried out before it is
used; a GPU's may use it, or TF32: there int8 products run (`snn2chip.chip.int8`), or float64 where they do not do.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from snn2chip.chip import neuron as arith
from snn2chip.chip.bounds import BINARY, FLOAT32_EXACT, largest_sum
from snn2chip.chip.int8 import Int8Product, takes, usable
from snn2chip.chip.profile import DECAY_ONE, STATE_MAX, STATE_SHIFT, UNIT
from snn2chip.errors import InputError
from snn2chip.ir import Chain, ChainLayer, Constant, Conv, CubaNeuron, Dense, IntArray, Layer, StepTables


@contextmanager
def exact_products() -> Iterator[None]:
    """Float32 products in full inside, whatever was chosen globally: autocast, coarser precision, or NNPACK's Winograd,
    which torch takes for batches of 16 and more where oneDNN is off."""
    mkldnn = torch.backends.mkldnn
    backends = [getattr(mkldnn, name) for name in ("conv", "matmul") if hasattr(mkldnn, name)]
    kept: list[tuple[Any, str]] = []
    old = None
    if backends:  # torch 2.9 and later: one setting a backend; asking the old one may raise
        for backend in backends:
            if backend.fp32_precision not in ("none", "ieee"):
                kept.append((backend, backend.fp32_precision))
                backend.fp32_precision = "ieee"
    else:
        old = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
    try:
        with (
            torch.autocast("cpu", enabled=False),
            torch.autocast("cuda", enabled=False),
            torch.backends.nnpack.flags(enabled=False),
        ):
            yield
    finally:
        for backend, precision in kept:
            backend.fp32_precision = precision
        if old is not None:
            torch.set_float32_matmul_precision(old)


@functools.cache
def float32_exact(onednn: bool) -> bool:
    """Whether float32 products within `exact_products` are exact on this CPU, tried out on sums of up to 2^24.

    `onednn`: whether torch uses it now, which decides what is tried.
    """
    generator = torch.Generator().manual_seed(0)
    for kernel in (1, 3, 5):
        most = math.isqrt((FLOAT32_EXACT - 1) // (16 * kernel**2))
        images, weight = (
            torch.randint(most // 2, most + 1, (16, 16, side, side), generator=generator) for side in (8, kernel)
        )
        columns = F.unfold(images.double(), kernel, padding=kernel // 2).long()
        expected = weight.flatten(1) @ columns
        with exact_products():
            spatial = F.conv2d(images.float(), weight.float(), padding=kernel // 2)
            flat = F.linear(columns.movedim(1, 2).float(), weight.flatten(1).float()).movedim(1, 2)
        if not (torch.equal(spatial.flatten(2).long(), expected) and torch.equal(flat.long(), expected)):
            return False
    return True


class Product:
    """The integer weights of a synapse or a chain layer on one device: inputs to weighted sums."""

    def __init__(
        self, weights: Conv | Dense | Layer[Constant], low: IntArray, high: IntArray, device: torch.device | None = None
    ) -> None:
        device = device or torch.device("cpu")
        self.weights = weights
        largest = largest_sum(weights, low, high)
        self.int8: Int8Product | None = None
        if device.type != "cpu" and takes(weights, largest) and usable(device):
            self.int8 = Int8Product(weights, low, high, device)
            return
        onednn = bool(torch.backends.mkldnn.enabled)
        exact32 = device.type == "cpu" and largest < FLOAT32_EXACT and float32_exact(onednn)
        self.dtype = torch.float32 if exact32 else torch.float64
        self.weight = torch.from_numpy(weights.weight.copy()).to(device, self.dtype)

    def __call__(self, x: Tensor) -> Tensor:
        """Inputs (N, T, ...) to sums (N, T, ...), int32."""
        weights, steps = self.weights, x.shape[:2]
        if self.int8 is not None:
            sums = self.int8(x.flatten(0, 1))
            return sums.reshape(*steps, *sums.shape[1:])
        x = x.flatten(0, 1).to(self.dtype)
        if self.weight.ndim == 4:
            y = F.conv2d(x, self.weight, None, weights.stride, weights.padding, weights.dilation, weights.groups)
        else:
            y = F.linear(x.flatten(1), self.weight)
        y = y.round_().to(torch.int64).to(torch.int32) if self.dtype == torch.float64 else y.round_().to(torch.int32)
        return y.reshape(*steps, *y.shape[1:])


def check_steps(name: str, tables: StepTables, steps: int) -> None:
    """Refuse more time steps than a time-varying neuron has tables for.

    Raises:
        InputError: naming the layer and both numbers.
    """
    if steps > tables.timesteps:
        raise InputError(
            f"layer '{name}': {steps} time steps of input, but tables of {tables.timesteps}; give at most "
            f"{tables.timesteps}, or retrain the network for more"
        )


@dataclass
class State:
    """What neurons (N, ...) keep from one step to the next: u, v (int32), and how many steps they have run."""

    current: Tensor
    voltage: Tensor
    steps: int = 0


def integrate(
    sums: Tensor, bias: Tensor, neuron: CubaNeuron | ChainLayer, state: State | None = None
) -> tuple[Tensor, Tensor]:
    """Sums (N, T, ...) int32 to (spikes bool, voltages int32), laid out in memory as the sums are.

    State starts at zero; one that is given goes on from where it was, and is left at the end of these steps.

    Raises:
        InputError: more steps than a time-varying neuron has tables for.
    """
    if state is None:
        state = State(torch.zeros_like(sums[:, 0]), torch.zeros_like(sums[:, 0]))
    tables = neuron.steps
    if tables is not None:
        check_steps(neuron.name, tables, state.steps + sums.shape[1])
        per_channel = (-1, *(1,) * (state.voltage.ndim - 2))
        leak, lift, threshold = (
            torch.from_numpy(table.astype(np.int32)).to(sums.device)
            for table in (tables.leak, tables.bias, tables.threshold)
        )
    decays = {"voltage_decay": neuron.voltage_decay, "current_decay": neuron.current_decay}
    constants = {"threshold": neuron.threshold, **decays}
    spikes, voltages = torch.empty_like(sums, dtype=torch.bool), torch.empty_like(sums)
    for step in range(sums.shape[1]):
        if tables is None:
            state.current, state.voltage, fired = arith.step(
                state.current, state.voltage, sums[:, step], bias, **constants
            )
        else:
            state.current = arith.current_step(state.current, sums[:, step], neuron.current_decay)
            kept, lifted, over = (table[state.steps].view(per_channel) for table in (leak, lift, threshold))
            state.voltage, fired = arith.step_voltage(
                state.voltage, state.current, bias, kept, tables.leak_shift, lifted, over
            )
        state.steps += 1
        spikes[:, step], voltages[:, step] = fired, state.voltage
    return spikes, voltages


def largest_current(sums: Tensor, neuron: CubaNeuron) -> int:
    """The largest |current| that sums (N, T, ...) make before it wraps, in weight units rounded up; the largest |sum|
    where no current is kept."""
    if neuron.current_decay == DECAY_ONE:
        return int(sums.abs().max())
    current, seen = torch.zeros_like(sums[:, 0]), 0
    for step in range(sums.shape[1]):
        current = arith.decay(current, neuron.current_decay) + (sums[:, step] << STATE_SHIFT)
        seen = max(seen, int(current.abs().max()))
        if seen > STATE_MAX:
            break
    return int(-(-seen // UNIT))


class LayerRunner:
    """One layer of a chain on one device: inputs (N, T, ...) to spikes and voltages."""

    def __init__(self, layer: ChainLayer, low: IntArray, high: IntArray, device: torch.device) -> None:
        self.layer = layer
        self.product = Product(layer, low, high, device)
        self.bias = torch.from_numpy(layer.bias.astype(np.int32)).to(device)

    def run(self, x: Tensor, state: State | None = None) -> tuple[Tensor, Tensor, int]:
        """Inputs (N, T, ...) to (spikes bool, voltages int32, largest |input|); see `integrate` for the state."""
        sums = self.product(x)
        spikes, voltages = integrate(sums, self.bias, self.layer, state)
        return spikes, voltages, int(sums.abs().max())


def runners_of(chain: Chain, device: torch.device) -> list[LayerRunner]:
    """The layers of a chain: the first reads the port, the others spikes."""
    bounds = [chain.port_range, *(BINARY for _ in chain.layers[1:])]
    return [LayerRunner(layer, *ends, device) for layer, ends in zip(chain.layers, bounds, strict=True)]
