"""Layers without state over (T, N, ...) tensors: torch's own, with time folded into the batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from snn2chip.errors import InputError
from snn2chip.nn.kernels import is_marked, kept_as_bits, mark_spikes
from snn2chip.nn.spike_conv import convolve


class Conv2d(nn.Conv2d):
    """`torch.nn.Conv2d` applied at every step: (T, N, C, H, W) to (T, N, C', H', W').

    An input that is the same at every step (stride 0, as direct coding makes it) is convolved once. Marked spikes are
    convolved by their events where that is faster (`snn2chip.nn.spike_conv`).
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] > 1 and x.stride(0) == 0:
            y = self._images(x[0])
            return y.expand(x.shape[0], *y.shape)
        images = x.flatten(0, 1)
        y = self._images(mark_spikes(images) if is_marked(x) else images)
        return y.reshape(*x.shape[:2], *y.shape[1:])

    def _images(self, x: Tensor) -> Tensor:
        """Images (N, C, H, W) to (N, C', H', W')."""
        if self.kernel_size == (1, 1) and self.stride != (1, 1):
            x = self._pixels(x)
            with kept_as_bits(x):
                return F.conv2d(x, self.weight, self.bias, groups=self.groups)
        events = convolve(x, self) if is_marked(x) else None
        if events is not None:
            return events
        with kept_as_bits(x):
            return super().forward(x)

    def _pixels(self, x: Tensor) -> Tensor:
        """The pixels of x that a kernel of one pixel reads, so that its stride is 1.

        oneDNN must not see such a stride: in channels last and with fewer input channels than a vector has lanes, its
        gradient of the weights writes past its memory, or is wrong in silence (uxlfoundation/oneDNN issue 6035).
        """
        last = x.is_contiguous(memory_format=torch.channels_last)
        pads, mode = self._reversed_padding_repeated_twice, self.padding_mode.replace("zeros", "constant")
        y = F.pad(x, pads, mode) if any(pads) else x
        y = y[..., :: self.stride[0], :: self.stride[1]]
        y = y.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
        return mark_spikes(y) if is_marked(x) else y


class Linear(nn.Linear):
    """`torch.nn.Linear` applied at every step: (T, N, F) to (T, N, F')."""

    def forward(self, x: Tensor) -> Tensor:
        with kept_as_bits(x):
            return super().forward(x)


class AvgPool2d(nn.Module):
    """Average pooling with stride equal to the kernel: (T, N, C, H, W) to (T, N, C, H//k, W//k)."""

    def __init__(self, kernel: int) -> None:
        super().__init__()
        if kernel < 1:
            raise InputError(f"AvgPool2d: kernel {kernel} is not at least 1")
        self.kernel = kernel

    def forward(self, x: Tensor) -> Tensor:
        y = F.avg_pool2d(x.flatten(0, 1), self.kernel)
        return y.reshape(*x.shape[:2], *y.shape[1:])

    def extra_repr(self) -> str:
        return f"kernel={self.kernel}"


class MaxPool2d(nn.Module):
    """Maximum over windows: (T, N, C, H, W) to (T, N, C, H', W'), as `torch.nn.functional.max_pool2d`.

    Over spikes it is a logical OR, and that is how it is exported: put it after a neuron, not before one.
    """

    def __init__(self, kernel: int, stride: int | None = None, padding: int = 0) -> None:
        super().__init__()
        stride = kernel if stride is None else stride
        if kernel < 1 or stride < 1:
            raise InputError(f"MaxPool2d: kernel {kernel} and stride {stride} are not both at least 1")
        if not 0 <= 2 * padding <= kernel:
            raise InputError(f"MaxPool2d: padding {padding} is outside 0..{kernel // 2}, half of the kernel {kernel}")
        self.kernel, self.stride, self.padding = kernel, stride, padding

    def forward(self, x: Tensor) -> Tensor:
        with kept_as_bits(x):
            y = F.max_pool2d(x.flatten(0, 1), self.kernel, self.stride, self.padding)
        y = y.reshape(*x.shape[:2], *y.shape[1:])
        return mark_spikes(y) if is_marked(x) else y

    def extra_repr(self) -> str:
        return f"kernel={self.kernel}, stride={self.stride}, padding={self.padding}"


class Residual(nn.Module):
    """``branch(x) + shortcut(x)``: two currents that meet; the neuron comes after it.

    In STBP-tdBN both end in a `TDBatchNorm` with alpha = 1/sqrt(2), so that their sum has the variance of one.

    Args:
        branch: any layers.
        shortcut: any layers; None passes x on as it is.
    """

    def __init__(self, branch: nn.Module, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.branch = branch
        self.shortcut = nn.Sequential() if shortcut is None else shortcut

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.branch(x)
        z: Tensor = self.shortcut(x)
        return y + z


class GlobalAvgPool(nn.Module):
    """Mean over height and width: (T, N, C, H, W) to (T, N, C)."""

    def forward(self, x: Tensor) -> Tensor:
        # not mean: its gradient writes out, channels first, what the sum's leaves to be expanded
        return x.sum((-2, -1)) / (x.shape[-2] * x.shape[-1])


class Flatten(nn.Module):
    """(T, N, C, H, W) to (T, N, C*H*W), channel slowest, as `torch.nn.Flatten` does."""

    def forward(self, x: Tensor) -> Tensor:
        y = x.flatten(2)
        return mark_spikes(y) if is_marked(x) else y


class Dropout(nn.Module):
    """Drops the same entries at every step of a sample; identity in eval mode."""

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise InputError(f"Dropout: p {p} is outside [0, 1)")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        return x * F.dropout(x.new_ones(x.shape[1:]), self.p)

    def extra_repr(self) -> str:
        return f"p={self.p}"
