"""Surrogate gradients: what stands in for the derivative of the spike, d o / d u, at threshold.

Each function takes `x = u - Vth` (any shape) and returns the surrogate derivative, same shape; each has
area one, so that swapping one for another keeps the gradient's scale.

- rectangular, width a (STBP, Wu et al. 2018, eq. 24): ``1/a`` where ``|x| < a/2``
- triangular, half-width a (Esser et al. 2016; Bellec et al. 2018): ``max(0, 1 - |x|/a) / a``
- arctan, sharpness 2/a (Fang et al. 2021, PLIF): ``(1/a) / (1 + (pi x / a)^2)``
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from snn2chip.recipe import SurrogateName


class Gradient(NamedTuple):
    """How gradients pass a layer of neurons: the surrogate and its width; `detach_reset` leaves the reset out."""

    surrogate: SurrogateName
    width: float
    detach_reset: bool


def _over(x: Tensor, width: float) -> Tensor:
    """x / width as IEEE rounds it: by a number of Python's, torch on a GPU multiplies by 1 / width."""
    return x / torch.full((), width, dtype=x.dtype, device=x.device)


def rectangular(x: Tensor, width: float) -> Tensor:
    """``1/a`` where ``|x| < a/2``, else 0."""
    return _over((x.abs() < width / 2).to(x.dtype), width)


def triangular(x: Tensor, width: float) -> Tensor:
    """``max(0, 1 - |x|/a) / a``."""
    return _over(torch.relu(1 - _over(x.abs(), width)), width)


def arctan(x: Tensor, width: float) -> Tensor:
    """``(1/a) / (1 + (pi x / a)^2)``."""
    return 1 / (width * (1 + (x * (math.pi / width)).square()))


SURROGATES: dict[SurrogateName, Callable[[Tensor, float], Tensor]] = {
    "rectangular": rectangular,
    "triangular": triangular,
    "arctan": arctan,
}
