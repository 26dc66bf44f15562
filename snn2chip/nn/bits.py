"""Spikes kept for the backward pass as bits: a convolution or dense layer keeps its input for the weights' gradient.

A tensor of spikes in float32 is 32 times larger than what it says. The layers of `snn2chip.nn` that read spikes hand
them to autograd packed, and get them back, bit for bit, when the gradient is due.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from snn2chip.nn import kernels

_MARK = "snn2chip_spikes"


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
    compiled = kernels.of(steps) if is_marked(x) and torch.is_grad_enabled() else None
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
