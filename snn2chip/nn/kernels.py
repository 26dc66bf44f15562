"""The functions of the compiled library (`snn2chip.native`) over tensors: neurons, bits, and spikes convolved.

`of` gives them where they take a tensor; elsewhere the callers compute the same in torch. A tensor of spikes in float32
is 32 times larger than what it says: the layers of `snn2chip.nn` that read spikes hand them to autograd packed as bits,
and get them back, bit for bit, when the gradient is due.
"""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snn2chip import native
from snn2chip.errors import InputError
from snn2chip.nn.surrogate import Gradient
from snn2chip.recipe import SurrogateName

KINDS: dict[SurrogateName, int] = {"rectangular": 0, "triangular": 1, "arctan": 2}
_MARK = "snn2chip_spikes"
_SMALL = 1 << 15  # below this many numbers a second thread costs more than it saves

_pointer, _long, _int = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
_float, _double = ctypes.c_float, ctypes.c_double


def in_order(x: Tensor) -> bool:
    """Whether each step of x (T, ...) is dense and they follow each other in memory, or are all the same one."""
    if not x.numel():
        return True
    row = x[0]
    dense = row.is_contiguous() or (row.ndim == 4 and row.is_contiguous(memory_format=torch.channels_last))
    return dense and (x.shape[0] == 1 or x.stride(0) in (0, row.numel()))


def new_like(x: Tensor) -> Tensor:
    """An empty tensor for x (T, ...) whose steps are laid out as those of x, one after the other."""
    row = x[0]
    return torch.empty_strided(x.shape, (row.numel(), *row.stride()), dtype=x.dtype, device=x.device)


def _threads(count: int) -> int:
    return 1 if count < _SMALL else torch.get_num_threads()


def _longs(values: tuple[int, ...]) -> ctypes.Array[ctypes.c_int64]:
    return (_long * len(values))(*values)


class ConvSizes(NamedTuple):
    """What a convolution's shape is, as `Shape` in spike_conv.cpp."""

    images: int
    channels: int
    height: int
    width: int
    outputs: int
    out_height: int
    out_width: int
    kernel_y: int
    kernel_x: int
    stride_y: int
    stride_x: int
    pad_y: int
    pad_x: int

    def left_over(self) -> tuple[int, int]:
        """Rows and columns at the end of the padded input that no kernel reaches."""
        return (
            (self.height + 2 * self.pad_y - self.kernel_y) % self.stride_y,
            (self.width + 2 * self.pad_x - self.kernel_x) % self.stride_x,
        )


class Fired(NamedTuple):
    """Spikes; the largest |sum|, |v| and |v after its reset|; how many spikes, and how many are not as wanted."""

    spikes: Tensor
    sum: float
    before: float
    after: float
    fired: int
    differ: int


class Kernels:
    """The functions of the compiled library, over float32 tensors on the CPU that are `in_order`."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._forward = library.snn2chip_lif_forward
        self._forward.argtypes = [_pointer, _long, _pointer, _long, _long, _float, _float, _int, _int]
        self._backward = library.snn2chip_lif_backward
        self._backward.argtypes = [
            *(_pointer, _long, _pointer, _pointer, _pointer),
            *(_long, _long, _float, _float, _float, _float, _int, _int, _int, _int),
        ]
        self._pack, self._unpack = library.snn2chip_pack, library.snn2chip_unpack
        self._pack.argtypes = self._unpack.argtypes = [_pointer, _pointer, _long, _int]
        self._pack.restype = _long
        library.snn2chip_block.restype = _long
        self._block = int(library.snn2chip_block())
        self._pack_pixels = library.snn2chip_pack_pixels
        self._pack_pixels.argtypes = [_pointer, _int, _pointer, _long, _long, _int]
        self._pack_pixels.restype = _long
        self._conv, self._conv_weights = library.snn2chip_spike_conv, library.snn2chip_spike_conv_weights
        self._conv.argtypes = [_pointer, _pointer, _pointer, _pointer, _int, _float, _pointer, _pointer, _int]
        self._conv_weights.argtypes = [_pointer, _pointer, _pointer, _pointer, _pointer, _int]
        self._fire = library.snn2chip_fire
        self._fire.argtypes = [
            *(_pointer, _int, _long, _pointer, _long, _pointer, _pointer, _long, _long, _long),
            *(_double, _double, _double, _int, _pointer, _pointer, _int),
        ]
        self._round = library.snn2chip_round
        self._round.argtypes = [_pointer, _pointer, _int, _long, _long, _long, _int, _long, _pointer, _int]
        self._round.restype = _long
        for function in (self._forward, self._backward, self._unpack, self._conv, self._conv_weights, self._fire):
            function.restype = None

    def lif_forward(self, current: Tensor, tau: Tensor, threshold: Tensor, whole: bool = False) -> Tensor:
        """Spikes (T, ...) of currents (T, ...), see `snn2chip.nn.neuron.lif_forward`."""
        spikes = new_like(current)
        each = current[0].numel()
        self._forward(
            *(current.data_ptr(), current.stride(0), spikes.data_ptr(), current.shape[0], each),
            *(float(tau), float(threshold), int(whole)),
            _threads(current.numel()),
        )
        return spikes

    def lif_backward(
        self,
        grad_spikes: Tensor,
        current: Tensor,
        tau: Tensor,
        threshold: Tensor,
        way: Gradient,
        constants: bool,
        whole: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Gradient of the currents, and with `constants` those of tau and Vth as one tensor (2,), float64."""
        out = new_like(current)
        if grad_spikes.stride() != out.stride():
            grad_spikes = new_like(current).copy_(grad_spikes)
        steps, each = current.shape[0], current[0].numel()
        sums = torch.zeros((-(-each // self._block), 2), dtype=torch.float64) if constants else None
        self._backward(
            *(current.data_ptr(), current.stride(0), grad_spikes.data_ptr(), out.data_ptr()),
            *(None if sums is None else sums.data_ptr(), steps, each),
            *(float(tau), float(threshold), way.width, math.pi / way.width),
            *(KINDS[way.surrogate], int(way.detach_reset), int(whole), _threads(current.numel())),
        )
        return out, None if sums is None else sums.sum(0)

    def pack(self, spikes: Tensor) -> Tensor | None:
        """Zeros and ones as bits in memory order, int64 words; None where a value is neither."""
        words = torch.empty(-(-spikes.numel() // 64), dtype=torch.int64)
        others = self._pack(spikes.data_ptr(), words.data_ptr(), spikes.numel(), _threads(spikes.numel()))
        return None if others else words

    def unpack(self, words: Tensor, shape: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
        """The dense float32 tensor of this layout that `words` were packed from."""
        spikes = torch.empty_strided(shape, stride)
        self._unpack(words.data_ptr(), spikes.data_ptr(), spikes.numel(), _threads(spikes.numel()))
        return spikes

    def pack_pixels(self, spikes: Tensor) -> tuple[Tensor, int] | None:
        """Bits of spikes (N, C, H, W), float32 or bool, with channels last, in whole words for each pixel, and how many
        are 1; None where a value is neither 0 nor 1."""
        images, channels, height, width = spikes.shape
        pixels = images * height * width
        words = torch.empty(pixels * -(-channels // 64), dtype=torch.int64)
        bytes_ = int(spikes.dtype == torch.bool)
        count = self._pack_pixels(
            *(spikes.data_ptr(), bytes_, words.data_ptr(), pixels, channels, _threads(spikes.numel()))
        )
        return None if count < 0 else (words, int(count))

    def spike_conv(
        self, words: Tensor, sizes: ConvSizes, weight: Tensor, bias: Tensor | None, factor: int = 1
    ) -> Tensor:
        """The convolution of spikes that `pack_pixels` packed, as `torch.nn.functional.conv2d`, channels last.

        Weights are float32, or int16 that count `factor` times: no sum of those in a row of the kernel, over 64
        channels, may leave int16.
        """
        shape = (sizes.images, sizes.outputs, sizes.out_height, sizes.out_width)
        out = torch.empty(shape, memory_format=torch.channels_last)
        bias = None if bias is None else bias.contiguous()
        self._conv(
            *(_longs(sizes), words.data_ptr(), weight.data_ptr(), _longs(weight.stride())),
            *(int(weight.dtype == torch.int16), factor),
            *(None if bias is None else bias.data_ptr(), out.data_ptr(), torch.get_num_threads()),
        )
        return out

    def spike_conv_weights(self, words: Tensor, sizes: ConvSizes, grad: Tensor, weight: Tensor) -> Tensor:
        """The gradient of `weight` and in its layout, from that of `spike_conv`'s result, channels last."""
        out = torch.empty_like(weight)
        self._conv_weights(
            *(_longs(sizes), words.data_ptr(), grad.data_ptr(), out.data_ptr(), _longs(out.stride())),
            torch.get_num_threads(),
        )
        return out

    def fire(
        self,
        sums: Tensor,
        bias: Tensor,
        keep: float,
        threshold: float,
        *,
        factor: float = 1.0,
        whole: bool = False,
        out: Tensor | None = None,
        wanted: Tensor | None = None,
    ) -> Fired:
        """Spikes (N, T, ...), bool, of sums (N, T, ...), float32 or float64, laid out as they are, and what `Fired`
        says of them beside those `wanted`. In float64, operation for operation::

            v = factor * (sum + bias) + keep * v      with `whole`, keep * v is rounded toward zero
            spike = v > threshold;  v = 0 where it spiked

        `bias` spreads over (N, ...). If `out` is given, the spikes are written there, at once where it is laid out as
        they are.
        """
        count, steps = sums.shape[:2]
        rows = sums[:, :1] if steps > 1 and sums.stride(1) == 0 else sums  # the same at every step
        inner = sorted(range(sums.ndim - 2), key=rows[0, 0].stride, reverse=True)
        axes = (0, 1, *(2 + axis for axis in inner))
        rows = rows.permute(axes).contiguous()
        lifts = bias.expand(count, *sums.shape[2:])
        lifts = lifts[:1] if lifts.stride(0) == 0 else lifts
        lifts = lifts.permute(0, *(1 + axis for axis in inner)).to(torch.float64).contiguous()
        spikes = torch.empty((count, steps, *rows.shape[2:]), dtype=torch.bool) if out is None else out.permute(axes)
        in_place = spikes.is_contiguous()
        spikes = spikes if in_place else torch.empty(spikes.shape, dtype=torch.bool)
        each = rows[0, 0].numel()
        most, counts = (_double * 3)(), (_long * 2)()
        other = None if wanted is None else wanted.permute(axes).contiguous()
        self._fire(
            *(rows.data_ptr(), int(rows.dtype == torch.float64), each if rows.shape[1] == steps else 0),
            *(lifts.data_ptr(), each if len(lifts) > 1 else 0, spikes.data_ptr()),
            *(None if other is None else other.data_ptr(), count, steps, each, factor, keep, threshold, int(whole)),
            *(ctypes.addressof(most), ctypes.addressof(counts), _threads(spikes.numel())),
        )
        spikes = spikes.permute([axes.index(axis) for axis in range(sums.ndim)])
        if out is not None and not in_place:
            spikes = out.copy_(spikes)
        return Fired(spikes, *most, *counts)

    def round(
        self, weights: NDArray[np.float64], scales: NDArray[np.float64], keep_sums: bool, factor: int
    ) -> tuple[NDArray[np.int64], int]:
        """As `snn2chip.passes.quantize.rounding.rounded`, with one scale or (O,)."""
        weights, scales = np.ascontiguousarray(weights), np.ascontiguousarray(scales)
        out = np.empty(weights.shape, dtype=np.int64)
        pixels = math.prod(weights.shape[2:])
        outputs, count = len(weights), weights[0].size
        largest = self._round(
            *(weights.ctypes.data, scales.ctypes.data, int(len(scales) > 1), outputs, count // pixels, pixels),
            *(int(keep_sums), factor, out.ctypes.data, _threads(weights.size)),
        )
        return out, int(largest)


@functools.cache
def load() -> Kernels | str:
    """The compiled functions, or why there are none, in one line."""
    try:
        return Kernels(native.NN.load())
    except (InputError, AttributeError) as error:
        return " ".join(str(error).split())


def of(x: Tensor) -> Kernels | None:
    """The compiled functions where they take x: float32 on the CPU, in order, not empty."""
    if x.dtype != torch.float32 or x.device.type != "cpu" or not x.numel() or not in_order(x):
        return None
    found = load()
    return found if isinstance(found, Kernels) else None


def mark_spikes(x: Tensor) -> Tensor:
    """Say of x that it holds zeros and ones only, so that its bits are worth a try.

    Nothing rests on it: what an operation writes into x afterwards (``y += other``) leaves the mark, and packing looks
    at every value.
    """
    setattr(x, _MARK, True)
    return x


def is_marked(x: Tensor) -> bool:
    """Whether `mark_spikes` said so of this very tensor."""
    return getattr(x, _MARK, False) is True


@contextmanager
def kept_as_bits(x: Tensor) -> Iterator[None]:
    """What autograd keeps of marked spikes x inside is kept as bits, where there are kernels for it.

    Raises:
        RuntimeError: in the backward pass, as from autograd without hooks: a tensor kept as it is was written into.
    """
    steps = x.unsqueeze(0) if x.ndim == 4 else x  # images (N, C, H, W) are those of one step
    compiled = of(steps) if is_marked(x) and torch.is_grad_enabled() else None
    if compiled is None:
        yield
        return
    place, count, dtype = x.data_ptr(), x.numel(), x.dtype  # and not x itself: autograd keeps the functions below
    del x, steps

    def pack(kept: Tensor) -> tuple[Any, ...]:
        mine = kept.data_ptr() == place and kept.numel() == count and kept.dtype == dtype
        last = kept.ndim == 4 and kept.is_contiguous(memory_format=torch.channels_last)
        words = compiled.pack(kept) if mine and (last or kept.is_contiguous()) else None
        return (kept, kept._version) if words is None else (words, tuple(kept.shape), kept.stride())

    def unpack(kept: tuple[Any, ...]) -> Tensor:
        if len(kept) == 3:
            return compiled.unpack(*kept)
        tensor, version = kept
        if tensor._version != version:
            raise RuntimeError(
                f"a tensor {tuple(tensor.shape)} that the gradient needs was modified by an inplace operation after it "
                f"was read; write `y = y + x` in the place of `y += x`"
            )
        return tensor  # type: ignore[no-any-return]

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield
