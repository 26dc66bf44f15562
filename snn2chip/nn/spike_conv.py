"""Convolution of spikes in training, with work for the spikes alone: forward, and the gradient of the weights.

A dense convolution takes C * KY * KX multiply-adds for each of its outputs; where a share p of its inputs spikes,
p times as many additions say the same. The gradient of the weights is a sum over spikes too. The gradient of the input
is dense (a surrogate's derivative is not sparse) and stays torch's. Sums come in another order than torch's, so they
differ from them as one torch differs from another: by float32's rounding. They are the same bits with any number of
threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from snn2chip.nn import kernels

# Where the dense convolution is as fast, measured: with fewer channels, or more spikes (never, of int16)
LEAST_CHANNELS = 32
MOST_SPIKES = 1 / 3
WORD = 64  # channels whose spikes are added in a row, as in spike_conv.cpp
_ADDED = 4  # words of a row of `SpikeRows` that are: as many as weights of eight bits leave within int16


class _SpikeConv(torch.autograd.Function):
    """`torch.nn.functional.conv2d` of spikes given twice: as x, for its gradient, and as their bits, to be kept."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, words: Tensor, weight: Tensor, bias: Tensor | None, sizes: kernels.ConvSizes
    ) -> Tensor:
        ctx.save_for_backward(words, weight)
        ctx.sizes = sizes
        # the dense gradient of the input is of the precision that dense convolutions have here
        ctx.dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        return _compiled().spike_conv(words, sizes, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        words, weight = ctx.saved_tensors
        sizes: kernels.ConvSizes = ctx.sizes
        grad = grad_outputs[0].contiguous(memory_format=torch.channels_last)
        of_x = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            # the transposed convolution is that gradient, and asks for no input to take the shape of
            stride, padding = (sizes.stride_y, sizes.stride_x), (sizes.pad_y, sizes.pad_x)
            near = grad.to(ctx.dtype), weight.to(ctx.dtype)
            of_x = F.conv_transpose2d(*near, None, stride, padding, sizes.left_over()).to(grad.dtype)
        if ctx.needs_input_grad[2]:
            of_weight = _compiled().spike_conv_weights(words, sizes, grad, weight)
        if ctx.needs_input_grad[3]:
            of_bias = grad.sum((0, 2, 3))
        return of_x, None, of_weight, of_bias, None


def _compiled() -> kernels.Kernels:
    found = kernels.load()
    assert isinstance(found, kernels.Kernels)  # `sizes_of` has asked
    return found


def sizes_of(x: Tensor, layer: nn.Conv2d) -> kernels.ConvSizes | None:
    """The sizes of `layer` over marked spikes x (N, C, H, W), or None where it is not for the compiled functions."""
    weight, padding = layer.weight, layer.padding
    if not kernels.is_marked(x) or isinstance(padding, str) or weight.dtype != x.dtype:
        return None
    if layer.groups != 1 or layer.dilation != (1, 1) or layer.padding_mode != "zeros":
        return None
    return None if kernels.of(x.unsqueeze(0)) is None else _sizes(x, weight, layer.stride, padding)


def _sizes(x: Tensor, weight: Tensor, stride: tuple[int, ...], padding: tuple[int, ...]) -> kernels.ConvSizes | None:
    outputs, channels, kernel_y, kernel_x = weight.shape
    if min(outputs, channels) < LEAST_CHANNELS or x.shape[1] != channels:
        return None
    if not x.is_contiguous(memory_format=torch.channels_last):
        return None
    (stride_y, stride_x), (pad_y, pad_x) = stride, padding
    images, _, height, width = x.shape
    out_height = (height + 2 * pad_y - kernel_y) // stride_y + 1
    out_width = (width + 2 * pad_x - kernel_x) // stride_x + 1
    if min(out_height, out_width) < 1:
        return None
    return kernels.ConvSizes(
        *(images, channels, height, width, outputs, out_height, out_width),
        *(kernel_y, kernel_x, stride_y, stride_x, pad_y, pad_x),
    )


def convolve(x: Tensor, layer: nn.Conv2d) -> Tensor | None:
    """`layer` over marked spikes x (N, C, H, W) by their events, or None where the dense convolution is the better."""
    sizes = sizes_of(x, layer)
    if sizes is None:
        return None
    packed = _compiled().pack_pixels(x)
    if packed is None or packed[1] > MOST_SPIKES * x.numel():
        return None
    y: Tensor = _SpikeConv.apply(x, packed[0], layer.weight, layer.bias, sizes)  # type: ignore[no-untyped-call]
    return y


def as_int16(weight: NDArray[np.int64], together: int) -> tuple[Tensor, int] | None:
    """Integer weights as int16 and a factor for all; None where the sum of as many as are added up `together`, before
    they are widened, could leave int16."""
    largest = max(-int(weight.min(initial=0)), int(weight.max(initial=0)))
    if largest >= 2**15:
        return None
    small = weight.astype(np.int16)
    shift = int(not (small & 1).any())
    fits = together * (largest >> shift) < 2**15
    return (torch.from_numpy(small >> shift), 1 << shift) if fits else None


def sums_of(
    x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int], factor: int = 1
) -> Tensor | None:
    """The convolution of spikes x (N, C, H, W), bool, by weights (O, C, KY, KX), by their events and without gradients;
    None where the dense one is the better.

    Weights are float32, or int16 that count `factor` times, see `as_int16`; of those the sums, float32, are exact up
    to 2^24.
    """
    found = kernels.load()
    sizes = _sizes(x, weight, stride, padding) if isinstance(found, kernels.Kernels) else None
    if sizes is None or isinstance(found, str):
        return None
    packed = found.pack_pixels(x)
    assert packed is not None  # what is bool is 0 or 1
    if weight.dtype != torch.int16 and packed[1] > MOST_SPIKES * x.numel():
        return None
    return found.spike_conv(packed[0], sizes, weight, None, factor)


class SpikeRows:
    """Rows of spikes (M, F), bool, whose products with many matrices are taken: packed once, and added by the events
    like those of images whose one output sees all of their pixels."""

    def __init__(self, rows: Tensor, compiled: kernels.Kernels) -> None:
        inputs = rows.shape[1]
        self.compiled, self.inputs = compiled, inputs
        words = -(-inputs // WORD)
        self.across = min(_ADDED, words)
        self.down = -(-words // self.across)
        self.together = self.across * WORD
        packed = compiled.pack_pixels(self._images(rows).permute(0, 3, 1, 2))
        assert packed is not None  # what is bool is 0 or 1
        self.words = packed[0]

    def _images(self, rows: Tensor) -> Tensor:
        """Rows (M, F) as (M, H, W, C), with zeros behind them."""
        whole = self.down * self.across * WORD
        return F.pad(rows, (0, whole - self.inputs)).view(len(rows), self.down, self.across, WORD)

    def products(self, matrices: Sequence[tuple[Tensor, int]], some: int) -> list[Tensor]:
        """The sums (some, O), float32, of the first rows and each matrix (O, F), int16 with a factor, as `as_int16` has
        them of no more than `together`; exact up to 2^24."""
        weight = torch.cat([self._images(each).permute(0, 3, 1, 2) for each, _ in matrices])
        kernel = self.down, self.across
        sizes = kernels.ConvSizes(some, WORD, *kernel, len(weight), 1, 1, *kernel, 1, 1, 0, 0)
        y = self.compiled.spike_conv(self.words, sizes, weight, None).flatten(1)
        parts = torch.split(y, [len(each) for each, _ in matrices], 1)
        return [part.mul_(factor) for part, (_, factor) in zip(parts, matrices, strict=True)]
