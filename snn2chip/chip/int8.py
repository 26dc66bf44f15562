"""Products of integers by int8 matrix products summed in int32, so exact by construction: on a GPU, and on processors
that have them (VNNI).

Loihi's weights are even numbers of eight bits and a sign, so that half of each is an int8; spikes are int8 as they are.
Wider numbers, of weights or of a graded input, are written in digits of base 128, and the products of the digits put
together again. A convolution gathers the inputs under its kernel to rows first (in chunks, so that memory is bounded).
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from snn2chip.errors import out_of_memory
from snn2chip.ir import Constant, Conv, Dense, IntArray, Layer

BASE = 128  # digits -64..63; the last is any int8
GATHERED = 1 << 28  # bytes of rows at a time
_STEP, _ROWS = 8, 32  # cuBLAS takes sizes that are multiples of the one, and more than 16 rows


def digits_of(values: IntArray) -> list[tuple[int, IntArray]]:
    """(factor, int8 array) whose products sum to `values`: one pair where a common power of two leaves an int8."""
    factor, rest = 1, values.astype(np.int64)
    while rest.any() and not (rest & 1).any():
        factor, rest = 2 * factor, rest >> 1
    return [(factor * each, digit.numpy()) for each, digit in _digits(torch.from_numpy(rest))]


def _padded(count: int) -> int:
    return -(-count // _STEP) * _STEP


def product(a: Tensor, b: Tensor) -> Tensor:
    """Sums (M, N), int32, of int8 rows a (M, K) and columns b (K, N); K and N are multiples of 8."""
    rows = a.shape[0]
    if rows < _ROWS:
        a = F.pad(a, (0, 0, 0, _ROWS - rows))
    y: Tensor = torch._int_mm(a, b)
    return y[:rows]


@functools.cache
def usable(device: torch.device) -> bool:
    """Whether this device has int8 products, and they are right on the largest numbers."""
    vnni = getattr(torch.cpu, "_is_vnni_supported", bool)  # by this name from torch 2.6 on
    if device.type == "cpu" and not vnni():  # right, but by a loop
        return False
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randint(-128, 128, size, generator=generator) for size in ((40, 72), (72, 24)))
    a[0], b[:, 0] = -128, -128
    try:
        found = product(a.to(device, torch.int8), b.to(device, torch.int8)).cpu()
    except (RuntimeError, NotImplementedError, AttributeError) as error:
        if out_of_memory(error):
            raise
        return False
    return bool((found == a @ b).all())


def takes(weights: Conv | Dense | Layer[Constant], largest: int) -> bool:
    """Whether `Int8Product` computes this layer: not in groups, and no sum leaves int32."""
    return weights.groups == 1 and largest < 2**31


class Int8Product:
    """Weights on a device, as int8 digits: inputs to weighted sums.

    Args:
        weights: a layer that `takes` says yes to.
        low, high: smallest and largest input, (1,) or one a channel.
    """

    def __init__(
        self, weights: Conv | Dense | Layer[Constant], low: IntArray, high: IntArray, device: torch.device
    ) -> None:
        self.weights = weights
        self.small = bool(low.min() >= -128 and high.max() <= 127)
        self.spatial = weights.weight.ndim == 4
        # rows are gathered kernel pixel by kernel pixel, channels last
        weight = weights.weight.transpose(0, 2, 3, 1) if self.spatial else weights.weight
        matrix = weight.astype(np.int64).reshape(len(weight), -1)
        self.outputs, self.inputs = matrix.shape
        size = (_padded(self.inputs), _padded(self.outputs))
        self.digits: list[tuple[int, Tensor]] = []
        for factor, digit in digits_of(matrix):
            columns = torch.zeros(size, dtype=torch.int8)
            columns[: self.inputs, : self.outputs] = torch.from_numpy(digit.T.copy())
            # cuBLAS wants its columns one after the other
            self.digits.append((factor, columns.t().contiguous().to(device).t()))

    def _rows(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """int8 inputs (B, ...) under each output, (B * pixels, K), and the outputs' height and width."""
        weights = self.weights
        if not self.spatial:
            return F.pad(x.flatten(1), (0, _padded(self.inputs) - self.inputs)), (1, 1)
        (pad_y, pad_x), (step_y, step_x), (apart_y, apart_x) = weights.padding, weights.stride, weights.dilation
        kernel_y, kernel_x = weights.weight.shape[2:]
        x = F.pad(x, (pad_x, pad_x, pad_y, pad_y)).permute(0, 2, 3, 1).contiguous()
        images, height, width, channels = x.shape
        size = (
            (height - apart_y * (kernel_y - 1) - 1) // step_y + 1,
            (width - apart_x * (kernel_x - 1) - 1) // step_x + 1,
        )
        image, row, pixel, _ = x.stride()
        windows = x.as_strided(
            (images, *size, kernel_y, kernel_x, channels),
            (image, step_y * row, step_x * pixel, apart_y * row, apart_x * pixel, 1),
        )
        rows = x.new_zeros((images * size[0] * size[1], _padded(self.inputs)))
        rows[:, : self.inputs].view(images, *size, kernel_y, kernel_x, channels).copy_(windows)
        return rows, size

    def __call__(self, x: Tensor) -> Tensor:
        """Inputs (B, ...) to sums (B, ...), int32."""
        inputs = [(1, x.to(torch.int8))] if self.small else _digits(x)
        each = _padded(self.inputs)
        if self.spatial:
            each *= x.shape[2] * x.shape[3]
        images = max(1, GATHERED // each)
        parts = []
        for start in range(0, len(x), images):
            total: Tensor | None = None
            for scale, part in inputs:
                rows, size = self._rows(part[start : start + images])
                for factor, columns in self.digits:
                    sums = product(rows, columns)[:, : self.outputs] * (scale * factor)
                    total = sums if total is None else total + sums
            assert total is not None
            if self.spatial:
                total = total.view(-1, *size, self.outputs).permute(0, 3, 1, 2)
            parts.append(total)
        return torch.cat(parts) if len(parts) != 1 else parts[0]


def _digits(x: Tensor) -> list[tuple[int, Tensor]]:
    """(factor, int8) whose products sum to x."""
    found, factor, rest = [], 1, x.long()
    while bool(rest.numel()) and (int(rest.min()) < -128 or int(rest.max()) > 127):
        low = (rest + BASE // 2) % BASE - BASE // 2
        found.append((factor, low.to(torch.int8)))
        factor, rest = factor * BASE, (rest - low) // BASE
    return [*found, (factor, rest.to(torch.int8))]
