"""Weighted sums on calibration data: of whole images, some at a time, and at places drawn from them.

Sums of integers are exact; those of the float network are float32 where neurons read spikes, and float64 of the input
and of scores.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from snn2chip import ir
from snn2chip.chip import int8
from snn2chip.chip.bounds import FLOAT32_EXACT
from snn2chip.chip.products import exact_products, float32_exact
from snn2chip.nn import kernels, spike_conv
from snn2chip.passes.quantize.candidate import Candidate

Bits = NDArray[np.uint8]
_AT_ONCE = 2**21  # sums that are in memory together
_TOGETHER = 2**22  # sums of several candidates
_OUTPUTS = 2**19  # of a layer, spikes or none, that candidates are judged by: places times steps times outputs
_COLUMNS = 2**24  # inputs of those


def exact_in(made: Candidate) -> torch.dtype:
    """The float type in which a candidate's sums are exact: no part of one is beyond its bound."""
    exact = made.bound < FLOAT32_EXACT and float32_exact(bool(torch.backends.mkldnn.enabled))
    return torch.float32 if exact else torch.float64


class Weighted:
    """The sum of several synapses over inputs (N, T, ...) of each, in one float type; spikes are known by their type,
    bool."""

    def __init__(self, synapses: Sequence[ir.Synapse], dtype: torch.dtype) -> None:
        self.synapses, self.dtype = synapses, dtype
        self.kind = np.float32 if dtype == torch.float32 else np.float64
        self.small = [_small(item) if dtype == torch.float32 else None for item in synapses]
        self.floats: dict[int, Tensor] = {}

    def __call__(self, xs: Sequence[Tensor]) -> Tensor:
        first, *others = [self._of(number, x) for number, x in enumerate(xs)]
        for other in others:  # in its place, where its steps are not all one
            first = first + other if first.stride(1) == 0 else first.add_(other)
        return first

    def _weight(self, number: int) -> Tensor:
        if number not in self.floats:
            self.floats[number] = torch.from_numpy(self.synapses[number].weight.astype(self.kind))
        return self.floats[number]

    def _of(self, number: int, x: Tensor) -> Tensor:
        synapse, steps, spiking = self.synapses[number], x.shape[1], x.dtype == torch.bool
        x = x[:, :1] if x.stride(1) == 0 else x  # the same at every step
        flat = x.flatten(0, 1)
        y: Tensor | None = None
        if isinstance(synapse, ir.Dense):
            with exact_products():
                y = F.linear(flat.flatten(1).to(self.dtype), self._weight(number))
        elif spiking and synapse.groups == 1 and synapse.dilation == (1, 1) and self.dtype == torch.float32:
            weight, factor = self.small[number] or (self._weight(number), 1)
            y = spike_conv.sums_of(flat, weight, synapse.stride, synapse.padding, factor)
        if y is None:
            sizes = synapse.stride, synapse.padding, synapse.dilation, synapse.groups
            with exact_products():
                y = F.conv2d(flat.to(self.dtype), self._weight(number), None, *sizes)
        y = y.view(*x.shape[:2], *y.shape[1:])
        return y.expand(-1, steps, *y.shape[2:])


def _small(synapse: ir.Synapse) -> tuple[Tensor, int] | None:
    """Integers of a convolution as spikes add them fastest; None where they are no integers, or too large."""
    if not isinstance(synapse, ir.Conv) or synapse.weight.dtype.kind != "i":
        return None
    weight = synapse.weight.astype(np.int64, copy=False)
    return spike_conv.as_int16(weight, spike_conv.WORD * weight.shape[3])


def spans(count: int, each: int) -> Iterator[slice]:
    """Some of `count` images after the other; each has so many sums over all steps."""
    some = max(1, _AT_ONCE // each)
    for start in range(0, count, some):
        yield slice(start, min(start + some, count))


def room_for(count: int, steps: int, shape: ir.Shape) -> Tensor:
    """Where the spikes (N, T, ...) of a layer go, channels last, as what reads them by their events wants them."""
    if len(shape) == 1:
        return torch.empty((count, steps, *shape), dtype=torch.bool)
    channels, height, width = shape
    return torch.empty((count, steps, height, width, channels), dtype=torch.bool).movedim(-1, 2)


def packed(made: Tensor) -> Bits | Tensor:
    """Spikes laid out as `room_for` has them as bits, eight a byte; scores as they are."""
    if made.dtype != torch.bool:
        return made
    return np.packbits((made.movedim(2, -1) if made.ndim == 5 else made).numpy())


def unpacked(kept: Bits | Tensor, shape: Sequence[int]) -> Tensor:
    """What was `packed`: spikes (N, T, ...) of this shape, or scores."""
    if isinstance(kept, Tensor):
        return kept
    flat = torch.from_numpy(np.unpackbits(kept, count=math.prod(shape)).view(np.bool_))
    if len(shape) != 5:
        return flat.view(*shape)
    return flat.view(*shape[:2], *shape[3:], shape[2]).movedim(-1, 2)


@dataclass(frozen=True, eq=False)
class Places:
    """Where in a layer candidates are judged: images (P,), rows and columns (P,) of its output (0 of a dense one)."""

    images: Tensor
    rows: Tensor
    columns: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def of(self, values: Tensor) -> Tensor:
        """Spikes (N, T, O, H, W) or (N, T, O), or scores (N, O), there: (P, T, O), or (P, O)."""
        if values.ndim == 5:
            return values.permute(0, 3, 4, 1, 2)[self.images, self.rows, self.columns]
        return values[self.images]

    def bias(self, synapses: Sequence[ir.Synapse], outputs: int) -> Tensor:
        """The integer bias (P, O) of synapses there, int32."""
        total = ir.total_bias(synapses)
        whole = torch.from_numpy(np.zeros(outputs, np.int32) if total is None else total.astype(np.int32))
        return whole.movedim(0, -1)[self.rows, self.columns] if whole.ndim == 3 else whole.expand(len(self), -1)

    def inputs(self, synapse: ir.Synapse, x: Tensor) -> Tensor:
        """What a synapse reads of x (N, T, ...) there: (P, T, KY, KX, C), or (P, T, 1, 1, F) where it is dense."""
        x = x[:, :1] if x.stride(1) == 0 else x
        if isinstance(synapse, ir.Dense):
            return x[self.images].flatten(2)[:, :, None, None]
        taps, inside = [], []
        for axis, places in enumerate((self.rows, self.columns)):
            offsets = torch.arange(synapse.weight.shape[2 + axis]) * synapse.dilation[axis] - synapse.padding[axis]
            taps.append(places[:, None] * synapse.stride[axis] + offsets)
            inside.append((taps[axis] >= 0) & (taps[axis] < x.shape[3 + axis]))
            taps[axis].clamp_(0, x.shape[3 + axis] - 1)
        where = self.images[:, None, None], taps[0][:, :, None], taps[1][:, None, :]
        found = x.permute(0, 3, 4, 1, 2)[where] * (inside[0][:, :, None] & inside[1][:, None, :])[..., None, None]
        return found.permute(0, 3, 1, 2, 4)


def draw(seed: int, images: int, steps: int, shape: ir.Shape, outputs: int, fan_in: int) -> Places:
    """Places for so many of a layer's outputs, which read so many inputs: all of them, in order, where they are few."""
    height, width = shape[1:] if len(shape) == 3 else (1, 1)
    count, most = images * height * width, min(_OUTPUTS // outputs, _COLUMNS // fan_in) // steps
    drawn = np.arange(count)
    if count > max(1, most):
        drawn = np.random.default_rng(seed).choice(count, max(1, most), replace=False)
    image, rest = np.divmod(drawn, height * width)
    return Places(*(torch.from_numpy(item) for item in (image, *np.divmod(rest, width))))


class Rows:
    """What synapses read at some places and steps (P, T, ...), laid out once for the weights of all candidates; of a
    synapse in groups, `channels` (O, I / groups) are those that each output reads."""

    def __init__(
        self, synapses: Sequence[ir.Synapse], inputs: Sequence[Tensor], channels: Sequence[Tensor | None], steps: int
    ) -> None:
        self.steps = steps
        self.groups = [item.groups > 1 for item in synapses]
        self.rows = [
            x.flatten(2).contiguous() if read is None else x[..., read].contiguous()
            for x, read in zip(inputs, channels, strict=True)
        ]
        self.floats: dict[tuple[int, torch.dtype], Tensor] = {}
        self.spikes: list[spike_conv.SpikeRows | None] = [None for _ in synapses]
        found = kernels.load()
        if not isinstance(found, str) and not int8.usable(torch.device("cpu")):
            for number, rows in enumerate(self.rows):
                if rows.dtype == torch.bool and not self.groups[number]:
                    self.spikes[number] = spike_conv.SpikeRows(rows.flatten(0, 1), found)

    def sums(self, candidates: Sequence[Candidate], some: int, outputs: int) -> Iterator[Tensor]:
        """The sums (P, T, O) of the first `outputs` of each candidate, all of integers, at `some` of the places, the
        first, and over all steps; of the float type in which they are exact."""
        each = max(1, _TOGETHER // (some * self.steps * outputs))
        for few in (candidates[start : start + each] for start in range(0, len(candidates), each)):
            parts = [self._of(number, few, some, outputs) for number in range(len(self.rows))]
            for found in zip(*parts, strict=True):
                spread = [part.expand(-1, self.steps, -1) for part in found]
                yield sum(spread[1:], spread[0])

    def _of(self, number: int, candidates: Sequence[Candidate], some: int, outputs: int) -> Iterable[Tensor]:
        """What one of the synapses adds, (P, T or 1, O), of each candidate."""
        spikes, kinds = self.spikes[number], [exact_in(item) for item in candidates]
        weights = [item.synapses[number].weight[:outputs].astype(np.int64, copy=False) for item in candidates]
        if spikes is not None and all(item.bound < FLOAT32_EXACT for item in candidates):
            small = [spike_conv.as_int16(weight, spikes.together) for weight in weights]
            known = [(_last(each[0].numpy()).flatten(1), each[1]) for each in small if each is not None]
            if len(known) == len(small):
                steps = self.rows[number].shape[1]
                pairs = zip(spikes.products(known, some * steps), kinds, strict=True)
                return [part.to(kind).view(some, steps, -1) for part, kind in pairs]
        return (self._one(number, _last(weight), kind, some) for weight, kind in zip(weights, kinds, strict=True))

    def _one(self, number: int, weight: Tensor, dtype: torch.dtype, some: int) -> Tensor:
        """Of one weight (O, KY, KX, C): by int8 products, where the processor has them, of spikes and of weights that
        are such numbers, or twice such; else of a float type."""
        rows = self.rows[number]
        if not self.groups[number] and rows.dtype == torch.bool and int8.usable(rows.device):
            digits = int8.digits_of(weight.flatten(1).numpy())
            if len(digits) == 1:
                (factor, digit), x = digits[0], rows[:some]
                y = int8.product(x.flatten(0, 1).view(torch.int8), torch.from_numpy(digit).t())
                return y.to(dtype).mul_(factor).view(*x.shape[:2], -1)
        if (number, dtype) not in self.floats:
            self.floats[number, dtype] = rows.to(dtype)
        x, weight = self.floats[number, dtype][:some], weight.to(dtype)
        with exact_products():
            if self.groups[number]:
                return torch.einsum("ptyxoc,oyxc->pto", x[..., : len(weight), :], weight)
            return F.linear(x, weight.flatten(1))


def _last(weight: ir.Array) -> Tensor:
    """A copy of weights (O, C, KY, KX) or (O, F) as (O, KY, KX, C) or (O, 1, 1, F)."""
    return torch.from_numpy((np.moveaxis(weight, 1, -1) if weight.ndim == 4 else weight[:, None, None]).copy())
