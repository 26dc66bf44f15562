"""What a layer's sums can become, and the proof that neither current nor membrane overflows.

For every neuron ``sum of w x`` of one step must stay within 131071, or the current wraps, and the membrane within the
same, or it clips. For inputs within known bounds the largest sums follow from the weights; with leak, threshold and
bias, so does the largest membrane over T steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from snn2chip import ir
from snn2chip.chip.profile import DECAY_ONE, STATE_MAX, UNIT
from snn2chip.ir.netlist import Netlist

BIAS_LIMIT = 2**12  # of the mantissas that drive an input layer: 13 bits, signed
SUM_BITS = 24  # a convolution keeps so many of a sum, and wraps
FLOAT32_EXACT = 2**24
_AT_ONCE = 2**15
BINARY = (np.zeros(1, dtype=np.int64), np.ones(1, dtype=np.int64))  # smallest and largest value of a spike

Bounds = tuple[ir.IntArray, ir.IntArray]  # smallest and largest input, per channel


def output_bounds(weights: ir.Synapse | ir.Layer[ir.Constant], low: ir.IntArray, high: ir.IntArray) -> Bounds:
    """Smallest and largest sum of w x of each output channel, of integers or real numbers, for inputs within low..high
    per channel.

    Borders only leave terms out; a term left out is a 0, which low..high is made to include.
    """
    low, high = np.minimum(low, 0), np.maximum(high, 0)
    given, axes = weights.weight, tuple(range(1, weights.weight.ndim))
    real = given.dtype.kind == "f"
    if not low.any() and (high == 1).all():  # spikes: the negative weights, and the positive ones
        kind = np.float64 if real else np.int64
        few = max(1, _AT_ONCE // max(1, given[0].size))  # outputs whose weights the cache holds
        parts = [given[at : at + few] for at in range(0, len(given), few)]
        sums = [[limit(part, 0).sum(axes, kind) for part in parts] for limit in (np.minimum, np.maximum)]
        return np.concatenate(sums[0]), np.concatenate(sums[1])
    weight: ir.Array = given.astype(np.float64, copy=False) if real else given.astype(np.int64, copy=False)
    if weight.ndim == 4:
        channel = ir.input_channels(weight, weights.groups)
        width = weight.shape[1] * weights.groups
        lo = np.broadcast_to(low, (width,))[channel][:, :, None, None]
        hi = np.broadcast_to(high, (width,))[channel][:, :, None, None]
    else:
        repeat = weight.shape[1] // len(low)
        lo, hi = np.repeat(low, repeat)[None], np.repeat(high, repeat)[None]
    products = weight * hi, weight * lo
    return np.minimum(*products).sum(axes), np.maximum(*products).sum(axes)


def joint_bounds(synapses: Sequence[ir.Synapse], bounds: Sequence[Bounds]) -> Bounds:
    """`output_bounds` of all synapses of a neuron, added up."""
    sums = [output_bounds(item, *port) for item, port in zip(synapses, bounds, strict=True)]
    return np.sum([least for least, _ in sums], axis=0), np.sum([most for _, most in sums], axis=0)


def proof(
    least: int,
    most: int,
    bias: ir.IntArray,
    neuron: ir.CubaNeuron | ir.ChainLayer,
    steps: int,
    limit: int,
    *,
    repeats: bool = False,
) -> tuple[bool, int]:
    """Whether sums of least..most can neither wrap the current nor clip the membrane within `steps`; and the
    largest |current|, which is the largest |sum| where none of it is kept.

    With `repeats` a neuron's sum is the same at every step, and none of its current is kept: its membrane is below 0
    only if sum and bias are, and then for good. It never fires, and may be clipped there without changing a spike.
    """
    times = ir.gathered(1 - neuron.current_decay / DECAY_ONE, steps)
    least, most = math.floor(times * least), math.ceil(times * most)
    bound = max(-least, most)
    keep = 1 - neuron.voltage_decay / DECAY_ONE
    # a membrane that never fires gathers sum of keep^k inputs; one above threshold is reset
    gathered = ir.gathered(keep, steps)
    bias_low, bias_high = int(bias.min()), int(bias.max())
    down = gathered * max(0, -(least + bias_low))
    up = min(keep * neuron.threshold, keep * gathered * max(0, most + bias_high)) + most + bias_high
    return bound <= limit and (repeats or down <= limit) and up <= limit, bound


def varying_peaks(
    least: ir.IntArray, most: ir.IntArray, bias_low: ir.IntArray, bias_high: ir.IntArray, tables: ir.StepTables
) -> ir.IntArray:
    """Largest |v| (C,), in the units of v, that a time-varying neuron of each channel can reach before its reset.

    `least` and `most` (C,) bound the sums of one step, `bias_low` and `bias_high` (C,) the synapses' own bias.
    """
    up, down = np.zeros(len(least), dtype=np.int64), np.zeros(len(least), dtype=np.int64)  # kept from the step before
    peaks: ir.IntArray = np.zeros(len(least), dtype=np.int64)
    for leak, lift, threshold in zip(tables.leak, tables.bias, tables.threshold, strict=True):
        high = ((up * leak) >> tables.leak_shift) + UNIT * (most + bias_high) + lift
        low = -((-down * leak) >> tables.leak_shift) + UNIT * (least + bias_low) + lift
        peaks = np.maximum(peaks, np.maximum(np.abs(high), np.abs(low)))
        up, down = np.maximum(0, np.minimum(high, threshold)), np.minimum(low, 0)
    return peaks


def largest_sum(weights: ir.Synapse | ir.Layer[ir.Constant], low: ir.IntArray, high: ir.IntArray) -> int:
    """Largest sum of |w x| any neuron can get from inputs within low..high per channel: no order of adding up, and no
    part of a sum, is beyond."""
    most = np.maximum(np.abs(low), np.abs(high))
    return int(output_bounds(replace(weights, weight=np.abs(weights.weight)), 0 * most, most)[1].max())


def port_range(net: Netlist) -> tuple[int, int]:
    """Smallest and largest integer that the network's input may hold."""
    if net.driven_by_bias:
        return -BIAS_LIMIT, BIAS_LIMIT - 1
    return (-STATE_MAX, STATE_MAX - 1) if net.layers[0].graded else (0, 1)
