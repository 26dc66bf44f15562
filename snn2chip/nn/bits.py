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
    """Say of x that it holds zeros and ones only; such a mark is lost in every operation."""
    setattr(x, _MARK, True)
    return x


def is_marked(x: Tensor) -> bool:
    """Whether `mark_spikes` said so of this very tensor."""
    return getattr(x, _MARK, False) is True


@contextmanager
def kept_as_bits(x: Tensor) -> Iterator[None]:
    """What autograd keeps of marked spikes x inside is kept as bits, where there are kernels for it."""
    compiled = kernels.of(x) if is_marked(x) and torch.is_grad_enabled() else None
    if compiled is None:
        yield
        return
    place, count, dtype = x.data_ptr(), x.numel(), x.dtype  # and not x itself: autograd keeps the functions below
    del x

    def pack(kept: Tensor) -> Any:
        if kept.data_ptr() != place or kept.numel() != count or kept.dtype != dtype:
            return kept
        if not (kept.is_contiguous() or (kept.ndim == 4 and kept.is_contiguous(memory_format=torch.channels_last))):
            return kept
        return compiled.pack(kept), tuple(kept.shape), kept.stride()

    def unpack(kept: Any) -> Tensor:
        return kept if isinstance(kept, Tensor) else compiled.unpack(*kept)

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield
