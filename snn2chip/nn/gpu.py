"""The neuron on a GPU, by Triton (`snn2chip.nn.triton_kernels`): alone, or with the tdBN before it in one pass.

Nothing here asks the device for a value.
"""

from __future__ import annotations

import functools
import math
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from snn2chip import parallel
from snn2chip.nn.kernels import KINDS, in_order, new_like
from snn2chip.nn.surrogate import Gradient

BLOCK = 512  # neurons a program
MOST_STEPS = 16  # membranes of all steps stay in registers
TYPES = (torch.float32, torch.bfloat16, torch.float16)
Norm = tuple[Tensor, Tensor]  # scale and shift of each channel, float32


class TritonKernels:
    """The functions of `triton_kernels`, with the signatures of `kernels.Kernels`, over tensors that are `in_order`."""

    def __init__(self, module: ModuleType) -> None:
        self._forward, self._backward = module.lif_forward, module.lif_backward

    @staticmethod
    def _read(x: Tensor, tau: Tensor, threshold: Tensor, norm: Norm | None) -> tuple[Any, ...]:
        """What both kernels read: x (T, ...) and its layout, normalization, constants."""
        row = x[0]
        channels = row.shape[1] if row.ndim > 1 else 1
        inner = row[0, 0].numel() if row.is_contiguous() and row.ndim > 1 else 1
        tau, threshold = tau.float(), threshold.float()
        scale, shift = (tau, tau) if norm is None else norm  # not read without a norm
        return x, x.stride(0), scale, shift, inner, channels, tau, threshold

    def lif_forward(
        self, current: Tensor, tau: Tensor, threshold: Tensor, whole: bool = False, norm: Norm | None = None
    ) -> Tensor:
        """Spikes (T, ...) of currents (T, ...), see `snn2chip.nn.neuron.lif_forward`; with `norm` of x (T, N, C, ...),
        whose currents are ``x scale + shift`` in x's type."""
        spikes, each = new_like(current), current[0].numel()
        self._forward[(-(-each // BLOCK),)](
            *(*self._read(current, tau, threshold, norm), spikes, each),
            STEPS=len(current),
            NORM=norm is not None,
            WHOLE=whole,
            BLOCK=BLOCK,
            enable_fp_fusion=False,
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
        norm: Norm | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Gradient of the currents, and with `constants` those of tau and Vth as one tensor (2,), float64."""
        out, each = new_like(current), current[0].numel()
        if grad_spikes.stride() != out.stride():
            grad_spikes = new_like(current).copy_(grad_spikes)
        programs = -(-each // BLOCK)
        sums = torch.empty((programs if constants else 1, 2), device=current.device)
        self._backward[(programs,)](
            *(*self._read(current, tau, threshold, norm), grad_spikes, out, sums, each),
            *(way.width, way.width / 2, math.pi / way.width),
            STEPS=len(current),
            NORM=norm is not None,
            WHOLE=whole,
            KIND=KINDS[way.surrogate],
            DETACH=way.detach_reset,
            CONSTANTS=constants,
            BLOCK=BLOCK,
            enable_fp_fusion=False,
        )
        return out, sums.sum(0, dtype=torch.float64) if constants else None


@functools.cache
def load() -> TritonKernels | str:
    """The kernels, or why there are none, in one line."""
    try:
        from snn2chip.nn import triton_kernels
    except ImportError as error:
        return " ".join(str(error).split())
    return TritonKernels(triton_kernels)


def of(x: Tensor) -> TritonKernels | None:
    """The kernels where they take x (T, ...): on a GPU, in order, of one of `TYPES`, not too many steps."""
    if not x.is_cuda or x.dtype not in TYPES or not 0 < len(x) <= MOST_STEPS or not in_order(x):
        return None
    if not 0 < x[0].numel() < 2**31 - BLOCK:
        return None
    found = load()
    return found if isinstance(found, TritonKernels) else None


def joins(x: Tensor) -> bool:
    """Whether tdBN of x (T, N, C, ...) leaves its second pass to the neuron after it: in one process, on a GPU."""
    return of(x) is not None and parallel.size() == 1 and x[0].numel() > x.shape[2]


def moments(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Mean and ``1 / sqrt(var + eps)`` of each channel of x (N, C, ...), in at least float32."""
    if x.is_cuda:
        return torch.batch_norm_stats(x, eps)
    over = [0, *range(2, x.ndim)]
    var, mean = torch.var_mean(x.to(torch.promote_types(x.dtype, torch.float32)), over, correction=0)
    return mean, torch.rsqrt(var + eps)


class NormLIF(torch.autograd.Function):
    """Batch norm with statistics given, and the neuron, of x (T, N, C, ...), or (1, N, C, ...) for all T `steps`.

    ``scale = gamma invstd, shift = beta - mean scale``; x alone is kept of what is as large as x.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        gamma: Tensor,
        beta: Tensor,
        mean: Tensor,
        invstd: Tensor,
        tau: Tensor,
        threshold: Tensor,
        way: Gradient,
        steps: int,
        fast: TritonKernels,
    ) -> Tensor:
        scale = gamma * invstd
        shift = beta - mean * scale
        ctx.save_for_backward(x, gamma, mean, invstd, tau, threshold, scale, shift)
        ctx.way, ctx.steps, ctx.fast = way, steps, fast
        return fast.lif_forward(x.expand(steps, *x.shape[1:]), tau, threshold, False, (scale, shift))

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        x, gamma, mean, invstd, tau, threshold, scale, shift = ctx.saved_tensors
        constants = bool(ctx.needs_input_grad[5] or ctx.needs_input_grad[6])
        current = x.expand(ctx.steps, *x.shape[1:])
        grad, sums = ctx.fast.lif_backward(
            grad_outputs[0], current, tau, threshold, ctx.way, constants, norm=(scale, shift)
        )
        if len(x) < ctx.steps:  # copies do not change the statistics, and their gradients add up
            grad = grad.sum(0, keepdim=True)
        of_x, of_gamma, of_beta = torch.ops.aten.native_batch_norm_backward(
            *(grad.flatten(0, 1), x.flatten(0, 1), gamma, None, None, mean, invstd, True, 0.0, [True, True, True])
        )
        of_tau, of_threshold = (None, None) if sums is None else (sums[0].to(tau), sums[1].to(threshold))
        return of_x.view_as(x), of_gamma, of_beta, None, None, of_tau, of_threshold, *(None,) * 3
