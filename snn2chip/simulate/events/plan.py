"""How a chain lies in memory for the compiled engine: blocks of neurons, slots, rows of weights.

A *block* is 32, 64 or 128 output channels whose sums are held in registers. A pixel's neurons lie in *slots*: the
channels of every group, padded to whole blocks. A *row* of weights belongs to one input slot under one place of the
kernel and holds the weights of one block: what a spike there adds. Rows of zeros are left out where a block's weights
leave a part of the kernel free (`windows`). A dense layer is a convolution whose kernel is as large as its input.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snn2chip.chip.bounds import BINARY, largest_sum
from snn2chip.chip.profile import DECAY_ONE, INPUT_MAX, STATE_MAX, UNIT
from snn2chip.errors import UnsupportedError
from snn2chip.ir import Chain, ChainLayer, IntArray, Shape
from snn2chip.simulate.events import windows

GRADED16, GRADED32, EVENTS8, EVENTS16, EVENTS32 = range(5)
FITS, WRAPS, DECAYS, FREE = range(4)
GONE, BY_SHIFT, BY_PRODUCT, BY_TABLE, BY_WIDE_TABLE = range(5)
INT16_MAX, INT32_MAX = 2**15 - 1, 2**31 - 1
CHUNK_BYTES = 16 << 20  # lists of spikes of one layer, if all spiked: time steps that fit are run together
MOST_STEPS = 16
Arrays = NDArray[Any]


@dataclass(frozen=True, eq=False)
class LayerPlan:
    """One layer for the engine: `numbers` and `arrays` by the names of `library.Layer`, and its channels' slots."""

    numbers: dict[str, int]
    arrays: dict[str, Arrays]
    slot_of: IntArray

    @property
    def slots(self) -> int:
        """Slots of a pixel, padding included."""
        return self.numbers["blocks"] * self.numbers["lanes"]


def aligned(values: Arrays) -> Arrays:
    """The same values, contiguous, on a cache line."""
    memory = np.empty(values.nbytes + 64, dtype=np.uint8)
    start = -memory.ctypes.data % 64
    placed: Arrays = memory[start : start + values.nbytes].view(values.dtype).reshape(values.shape)
    placed[...] = values
    return placed


def merge_groups(weight: Arrays, groups: int, most: int = 64) -> tuple[Arrays, int]:
    """Narrow groups of a convolution together, with zeros between them, until a group fills a vector."""
    outputs = len(weight) // groups
    times = max(k for k in range(1, groups + 1) if groups % k == 0 and (k == 1 or k * outputs <= most))
    if times == 1:
        return weight, groups
    per_group = weight.shape[1]
    merged = np.zeros((len(weight), times * per_group, *weight.shape[2:]), dtype=weight.dtype)
    for part in range(times):
        rows = (np.arange(len(weight)) // outputs) % times == part
        merged[rows, part * per_group : (part + 1) * per_group] = weight[rows]
    return merged, groups // times


def block_lanes(outputs: int) -> tuple[int, int]:
    """Lanes of a block, and blocks, for the channels of one group: little padding, few blocks."""
    choices = [(lanes, -(-outputs // lanes)) for lanes in (32, 64, 128)]
    return min(choices, key=lambda choice: choice[1] * (choice[0] + 24))


def _rows(weight: Arrays, groups: int, lanes: int, blocks: int, places: list[IntArray], count: int) -> Arrays:
    """Weights (O, I/groups, kH, kW) as rows (blocks, kH, kW, count, lanes); input i of group g is row places[g][i]."""
    outputs, _, high, wide = weight.shape
    per_out = outputs // groups
    rows = np.zeros((groups, high, wide, count, blocks // groups * lanes), dtype=weight.dtype)
    for group in range(groups):
        mine = weight[group * per_out : (group + 1) * per_out].transpose(2, 3, 1, 0)
        rows[group][:, :, places[group], :per_out] = mine
    split = rows.reshape(groups, high, wide, count, blocks // groups, lanes)
    return np.ascontiguousarray(split.transpose(0, 4, 1, 2, 3, 5)).reshape(blocks, high, wide, count, lanes)


def _bytes_of_pairs(rows: Arrays) -> Arrays:
    """int8 rows as the engine adds them: of every 32, neuron i in the even bytes (plus 128), 16 + i in the odd."""
    pairs = rows.reshape(*rows.shape[:-1], -1, 2, 16)
    packed = np.stack([pairs[..., 0, :] + 128, pairs[..., 1, :] & 255], axis=-1).astype(np.uint8)
    return packed.reshape(rows.shape)


def _events(weight: Arrays) -> tuple[int, int, int]:
    """Kind, halvings and limit (entries between two moves to int32, 0 for none) of a layer that reads spikes."""
    scale = 0
    size = int(np.abs(weight).max(initial=0))
    if size > 127 and not (weight & 1).any() and weight.min() >= -256 and weight.max() <= 254:
        scale, weight, size = 1, weight // 2, size // 2
    flat = weight.reshape(len(weight), -1)
    most = int(max(np.maximum(flat, 0).sum(1).max(initial=0), -np.minimum(flat, 0).sum(1).min(initial=0)))
    narrow = most <= INT16_MAX
    if scale or size <= 127:
        return EVENTS8, scale, 0 if narrow else 255
    if size <= INT16_MAX // 8:
        return EVENTS16, 0, 0 if narrow else INT16_MAX // size
    return EVENTS32, 0, 0


def _neuron(layer: ChainLayer, bound: int, slot_channel: IntArray) -> tuple[dict[str, int], dict[str, Arrays]]:
    """The constants and tables of a layer's neurons."""
    current = DECAYS if layer.current_decay != DECAY_ONE else FITS if bound <= INPUT_MAX else WRAPS
    keep = DECAY_ONE - layer.voltage_decay
    power = keep & (keep - 1) == 0
    decay = GONE if keep == 0 else BY_SHIFT if power else BY_PRODUCT
    numbers = {
        "current": current,
        "current_keep": DECAY_ONE - layer.current_decay,
        "voltage_keep": keep,
        "voltage_shift": 13 - keep.bit_length() if decay == BY_SHIFT else 0,
        "threshold": int(np.clip(layer.threshold * UNIT, -INT32_MAX, INT32_MAX)),
        "leak_shift": 0,
    }
    columns = np.maximum(slot_channel, 0)
    channels = int(np.prod(layer.shape[1:]))
    bias = (layer.bias.reshape(-1, channels).T * UNIT)[:, columns] * (slot_channel >= 0)
    if (bias == bias[0]).all():
        bias = bias[:1]
    numbers["bias_stride"] = len(columns) if len(bias) > 1 else 0
    if current == FITS and layer.steps is None and keep < DECAY_ONE:
        # |v| never exceeds what a constant input of the largest size leads to: drive / (1 - keep / DECAY_ONE)
        drive = UNIT * bound + int(np.abs(bias).max(initial=0))
        if drive * DECAY_ONE <= (STATE_MAX - 1) * (DECAY_ONE - keep):
            numbers["current"] = FREE
    arrays: dict[str, Arrays] = {"bias": ((bias + 2**31) % 2**32 - 2**31).astype(np.int32)}
    if layer.steps is not None:
        tables = layer.steps
        arrays |= {
            name: (table[:, columns] * (slot_channel >= 0)).astype(np.int32)
            for name, table in (("leak", tables.leak), ("lift", tables.bias), ("over", tables.threshold))
        }
        small = bound * UNIT < 2**24 and tables.leak_shift >= 12 and tables.leak.max(initial=0) < 2**16
        small = small and max(np.abs(bias).max(initial=0), np.abs(tables.bias).max(initial=0)) < 2**28
        decay = BY_TABLE if small else BY_WIDE_TABLE
        numbers["leak_shift"] = tables.leak_shift
    numbers["decay"] = decay
    return numbers, arrays


def _layer(layer: ChainLayer, shape: Shape, before: LayerPlan | None, low: IntArray, high: IntArray) -> LayerPlan:
    """One layer; `shape` is its input's, `before` the layer that makes it (None: the port)."""
    graded = before is None and not (low.min() >= 0 and high.max() <= 1)
    bound = largest_sum(layer, low, high)
    if bound > INT32_MAX:
        raise UnsupportedError(
            f"layer '{layer.name}': sums up to {bound} exceed 32 bits ({INT32_MAX}); choose --engine dense"
        )
    channels, in_h, in_w = shape if len(shape) == 3 else (shape[0], 1, 1)
    weight, groups = layer.weight, layer.groups
    if layer.kind == "dense":
        weight = weight.reshape(len(weight), channels, in_h, in_w)
    weight, groups = merge_groups(weight, groups)
    outputs, per_group, kh, kw = weight.shape
    lanes, per_blocks = block_lanes(outputs // groups)
    blocks = per_blocks * groups
    slot_of = (np.arange(outputs) // (outputs // groups)) * (per_blocks * lanes) + np.arange(outputs) % (
        outputs // groups
    )
    slot_channel = np.full(blocks * lanes, -1, dtype=np.int64)
    slot_channel[slot_of] = np.arange(outputs)
    out_h, out_w = layer.shape[1:] if len(layer.shape) == 3 else (1, 1)
    conv = layer.kind == "conv"
    (sy, sx), (py, px), (dy, dx) = (layer.stride, layer.padding, layer.dilation) if conv else ((1, 1), (0, 0), (1, 1))
    numbers, arrays = _neuron(layer, bound, slot_channel)
    came = np.arange(channels) if before is None else before.slot_of
    if graded:
        in_slots, firsts, lasts, count = channels, [0] * groups, [channels] * groups, per_group
        places = [np.arange(per_group)] * groups
        kind, scale, limit = (GRADED32, 0, 0)
        if max(-low.min(), high.max(), np.abs(weight).max(initial=0)) <= INT16_MAX:
            kind = GRADED16
    else:
        in_slots = -(-channels // 32) * 32 if before is None else before.slots
        ends = [came[group * per_group : (group + 1) * per_group] for group in range(groups)]
        firsts = [0] if groups == 1 else [int(end[0]) for end in ends]
        lasts = [in_slots] if groups == 1 else [int(end[-1]) + 1 for end in ends]
        count = max(last - first for first, last in zip(firsts, lasts, strict=True))
        places = [end - first for end, first in zip(ends, firsts, strict=True)]
        kind, scale, limit = _events(weight)
    rows = _rows(weight >> scale, groups, lanes, blocks, places, count)
    block_group = np.repeat(np.arange(groups), per_blocks)
    ranges = list(zip(firsts, lasts, strict=True))
    if groups == 1 and not graded:
        ranges = windows.ranges_of(rows)
        count = max(last - first for first, last in ranges)
    row_bytes = lanes * {EVENTS8: 1, EVENTS16: 2}.get(kind, 4)
    if max(in_w * count, rows.size // lanes + 1) * row_bytes >= 2**32:
        raise UnsupportedError(
            f"layer '{layer.name}': {in_w} x {count} inputs a row and {rows.size // lanes} rows of {row_bytes} bytes "
            "are too many for 32-bit offsets; choose --engine dense"
        )
    together = dx == 1 and groups == 1
    segments, length = (kh, kw * channels) if together else (kh * kw, per_group)
    if graded:
        rows = rows.reshape(blocks, segments, length, lanes)
        if kind == GRADED16:
            rows = np.pad(rows, ((0, 0), (0, 0), (0, length % 2), (0, 0)))
            rows = rows.reshape(blocks, segments, -1, 2, lanes).swapaxes(-1, -2)
        rows = rows.astype(np.int16 if kind == GRADED16 else np.int32)
    else:
        reads = windows.reads_of(rows, row_bytes, None if groups == 1 else block_group, ranges)
        rows = reads.weights
        rows = _bytes_of_pairs(rows) if kind == EVENTS8 else rows.astype(np.int16 if kind == EVENTS16 else np.int32)
        arrays["reads"] = reads.table
        arrays["block_reads"] = reads.blocks.astype(np.int32)
    filled = (slot_channel >= 0).reshape(-1, 32) * (np.int64(1) << np.arange(32))
    arrays |= {
        "weights": rows,
        "block_group": block_group.astype(np.int32),
        "group_first": np.array([first for first, _ in ranges], dtype=np.int32),
        "group_last": np.array([last for _, last in ranges], dtype=np.int32),
        "slot_channel": slot_channel.astype(np.int32),
        "valid": filled.sum(1).astype(np.uint32),
    }
    numbers |= dict(
        zip(("kh", "kw", "sy", "sx", "py", "px", "dy", "dx"), (kh, kw, sy, sx, py, px, dy, dx), strict=True)
    )
    numbers |= {
        "in_h": in_h,
        "in_w": in_w,
        "in_channels": channels,
        "in_slots": in_slots,
        "out_h": out_h,
        "out_w": out_w,
        "out_channels": outputs,
        "groups": len(ranges),
        "rows": count,
        "blocks": blocks,
        "lanes": lanes,
        "kind": kind,
        "row_shift": row_bytes.bit_length() - 1,
        "limit": limit,
        "scale": scale,
        "segments": segments,
        "length": length,
        "pad_h": (out_h - 1) * sy + (kh - 1) * dy + 1,
        "pad_w": (out_w - 1) * sx + (kw - 1) * dx + 1,
        "block_bytes": rows.nbytes // blocks,
        "nothing": rows.nbytes - row_bytes,
    }
    return LayerPlan(numbers, {name: aligned(array) for name, array in arrays.items()}, slot_of)


def plan(chain: Chain) -> list[LayerPlan]:
    """The layers of a chain as the engine takes them.

    Raises:
        UnsupportedError: sums that 32 bits do not hold, or a layer too large for the engine's offsets.
    """
    # one range for all channels: the engine checks the values that it is given against that
    low, high = (bound.reshape(1) for bound in (chain.port_range[0].min(), chain.port_range[1].max()))
    shape = chain.input_shape
    plans: list[LayerPlan] = []
    for index, layer in enumerate(chain.layers):
        bounds = (low, high) if index == 0 else BINARY
        plans.append(_layer(layer, shape, plans[-1] if plans else None, *bounds))
        shape = layer.shape
    return plans


def chunk_of(plans: list[LayerPlan]) -> int:
    """How many time steps run through the layers together."""
    widest = max(max(p.slots * p.numbers["out_h"] * p.numbers["out_w"] for p in plans), 1)
    return int(np.clip(CHUNK_BYTES // (4 * widest), 1, MOST_STEPS))
