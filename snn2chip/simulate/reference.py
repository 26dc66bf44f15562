"""The slow reference engine: one neuron-step after another in plain numpy int64, the definition of a chain.

Written apart from `snn2chip.chip.neuron` and without its tricks, so that the two can be held against each other.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from snn2chip.chip.products import check_steps
from snn2chip.ir import Chain, ChainLayer, IntArray, StepTables, require_integers
from snn2chip.ir.trace import Trace


def _toward_zero(values: IntArray, keep: int) -> IntArray:
    scaled: IntArray = np.sign(values) * ((np.abs(values) * keep) // 4096)
    return scaled


def _int32(values: IntArray) -> IntArray:
    """What a 32-bit register keeps: sums past the chip's own limits overflow in Lava, and here."""
    kept: IntArray = (values + 2**31) % 2**32 - 2**31
    return kept


def weighted_sums(layer: ChainLayer, x: IntArray) -> IntArray:
    """Weighted sums of one step: x (N, C, H, W) or (N, F) to (N, *layer.shape), int64."""
    weight = layer.weight.astype(np.int64)
    if layer.kind == "dense":
        return x.reshape(len(x), -1) @ weight.T
    (p0, p1), (s0, s1), (d0, d1) = layer.padding, layer.stride, layer.dilation
    outputs, per_group, k0, k1 = weight.shape
    padded = np.pad(x, ((0, 0), (0, 0), (p0, p0), (p1, p1)))
    _, height, width = layer.shape
    total = np.zeros((len(x), *layer.shape), dtype=np.int64)
    per_out = outputs // layer.groups
    for i in range(k0):
        for j in range(k1):
            rows = slice(i * d0, i * d0 + (height - 1) * s0 + 1, s0)
            columns = slice(j * d1, j * d1 + (width - 1) * s1 + 1, s1)
            window = padded[:, :, rows, columns]
            for group in range(layer.groups):
                out = slice(group * per_out, (group + 1) * per_out)
                inn = slice(group * per_group, (group + 1) * per_group)
                total[:, out] += np.einsum("nchw,oc->nohw", window[:, inn], weight[out, :, i, j])
    return total


def _varying(tables: StepTables, step: int, v: IntArray, driven: IntArray) -> tuple[IntArray, NDArray[np.bool_]]:
    """One step of a time-varying neuron: membranes before the reset, and spikes."""
    columns = (-1, *(1,) * (v.ndim - 2))
    leak, lift, threshold = (table[step].reshape(columns) for table in (tables.leak, tables.bias, tables.threshold))
    kept = np.sign(v) * ((np.abs(v) * leak) // 2**tables.leak_shift)
    updated: IntArray = np.clip(kept + driven + lift, -(2**23) + 1, 2**23 - 1)
    return updated, updated > threshold


def neuron_step(
    layer: ChainLayer, step: int, u: IntArray, v: IntArray, sums: IntArray, bias: IntArray
) -> tuple[IntArray, IntArray, NDArray[np.bool_]]:
    """One step of a layer's neurons: (u, v, sums) to (u, v after the reset, spikes)."""
    u = _int32(_toward_zero(u, 4096 - layer.current_decay) + sums * 64)
    u = np.where(u > 2**23, u - 2**24, np.where(u <= -(2**23), u + 2**24, u))
    if layer.steps is None:
        v = _int32(_toward_zero(v, 4096 - layer.voltage_decay) + u + bias * 64)
        v = np.clip(v, -(2**23) + 1, 2**23 - 1)
        spike = v > layer.threshold * 64
    else:
        v, spike = _varying(layer.steps, step, v, u + bias * 64)
    return u, np.where(spike, 0, v), spike


def run(chain: Chain, port: IntArray) -> Trace:
    """Run port integers (samples, T, ...) and keep everything.

    Raises:
        InputError: another shape than the network's, no integers, or more steps than a time-varying neuron has tables
            for.
    """
    require_integers(port, chain.input_shape)
    x: NDArray[np.int64] = port
    spikes: dict[str, NDArray[np.uint8]] = {}
    voltages: dict[str, NDArray[np.int32]] = {}
    counts: dict[str, int] = {}
    largest: dict[str, int] = {}
    for layer in chain.layers:
        if layer.steps is not None:
            check_steps(layer.name, layer.steps, port.shape[1])
        u = np.zeros((len(x), *layer.shape), dtype=np.int64)
        v = np.zeros_like(u)
        fired, kept, seen = [], [], 0
        for step in range(x.shape[1]):
            sums = weighted_sums(layer, x[:, step])
            seen = max(seen, int(np.abs(sums).max()))
            u, v, spike = neuron_step(layer, step, u, v, sums, layer.bias)
            fired.append(spike)
            kept.append(v)
        x = np.stack(fired, 1).astype(np.int64)
        spikes[layer.name] = x.astype(np.uint8)
        voltages[layer.name] = np.stack(kept, 1).astype(np.int32)
        counts[layer.name] = int(x.sum())
        largest[layer.name] = seen
    if chain.readout == "membrane":
        scores = voltages[chain.layers[-1].name][:, -1].astype(np.int64)
    else:
        scores = x.sum(1)
    return Trace(spikes, voltages, scores, counts, largest)
