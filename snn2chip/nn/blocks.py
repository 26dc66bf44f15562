"""The LIF layer in torch, block by block: what runs on the CPU where the compiled `snn2chip.nn.kernels` cannot.

A block of neurons passes all its steps in buffers that stay in the cache, with operations that write in place;
comparisons write numbers, which torch does ten times faster than truth values. The arithmetic is that of `lif_forward`
and `lif_backward`, rounding by rounding.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from snn2chip.nn.kernels import new_like
from snn2chip.nn.surrogate import SURROGATES, Gradient
from snn2chip.recipe import SurrogateName

BLOCK = 1 << 16  # neurons


def _rows(x: Tensor) -> Tensor:
    """x (T, ...) that is in order, as (T, neurons) in memory order."""
    return x.as_strided((x.shape[0], x[0].numel()), (x.stride(0), 1))


def left_over(kept: Tensor, tau: float | Tensor) -> Tensor:
    """``trunc0(64 tau kept) / 64``, what the chip leaves of a membrane; exact, as 24 and 12 bits fit a double."""
    return ((kept.double() * (64 * tau)).trunc_() / 64).to(kept.dtype)


class _Membranes:
    """Membranes before reset, step by step, of one block after another."""

    def __init__(self, dtype: torch.dtype, tau: Tensor, threshold: Tensor, whole: bool) -> None:
        self.whole = whole
        self.dtype = torch.promote_types(dtype, torch.float32)
        self.tau, self.threshold = float(tau.to(self.dtype)), float(threshold.to(self.dtype))
        # -u is kept where -u >= -Vth; F.threshold asks for more than, so for the number below
        below = torch.nextafter(-threshold.to(self.dtype), torch.tensor(-torch.inf, dtype=self.dtype))
        self.below = float(below)

    def of(self, current: Tensor) -> list[Tensor]:
        """Currents (T, block) to T membranes."""
        found: list[Tensor] = []
        for step in current:
            u = step.to(self.dtype)
            if found:
                kept = F.threshold(found[-1].neg(), self.below, 0.0, inplace=True)
                # minus: it is -u that is kept
                u = u - (left_over(kept, self.tau) if self.whole else kept.mul_(self.tau))
            found.append(u)
        return found


def _derivative(x: Tensor, surrogate: SurrogateName, width: float) -> Tensor:
    """`SURROGATES[surrogate]`, in place."""
    if surrogate != "rectangular":
        return SURROGATES[surrogate](x, width)
    return torch.lt(x.abs_(), width / 2, out=x).div_(width)


def forward(current: Tensor, tau: Tensor, threshold: Tensor, whole: bool = False) -> Tensor:
    """Spikes (T, ...) of currents (T, ...) that are in order."""
    spikes = new_like(current)
    rows, out = _rows(current), _rows(spikes)
    membranes = _Membranes(current.dtype, tau, threshold, whole)
    for start in range(0, rows.shape[1], BLOCK):
        here = slice(start, start + BLOCK)
        for step, u in enumerate(membranes.of(rows[:, here])):
            torch.gt(u, membranes.threshold, out=out[step, here])
    return spikes


def backward(
    grad_spikes: Tensor,
    current: Tensor,
    tau: Tensor,
    threshold: Tensor,
    way: Gradient,
    constants: bool,
    whole: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Gradient of the currents, and with `constants` those of tau and Vth as one tensor (2,), float64."""
    grad = new_like(current)
    if grad_spikes.stride() != grad.stride():
        grad_spikes = new_like(current).copy_(grad_spikes)
    above, rows, out = _rows(grad_spikes), _rows(current), _rows(grad)
    membranes = _Membranes(current.dtype, tau, threshold, whole)
    sums = torch.zeros(2, dtype=torch.float64)
    for start in range(0, rows.shape[1], BLOCK):
        here = slice(start, start + BLOCK)
        us = membranes.of(rows[:, here])
        later: Tensor | None = None  # tau * dL/du[t+1]
        after: Tensor | None = None  # dL/du[t+1]
        for step in range(len(us) - 1, -1, -1):
            u, g = us[step], above[step, here].to(membranes.dtype)
            if later is not None and not way.detach_reset:
                g = g - later * u
            du = _derivative(u - membranes.threshold, way.surrogate, way.width).mul_(g)
            if constants:
                sums[1] -= du.sum(dtype=torch.float64)
            if later is not None:
                kept = torch.empty_like(u)
                torch.le(u, membranes.threshold, out=kept)
                if constants and after is not None:
                    sums[0] += (after * u).mul_(kept).sum(dtype=torch.float64)
                du.add_(kept.mul_(later))
            out[step, here] = du
            after, later = du, du * membranes.tau
    return grad, sums if constants else None
