"""The algebra of `snn2chip.train.collapse`: one affine map, with the statistics of a batch norm, for BNTT's one a step.

Per channel, ``y[t] = g[t] (x - mu[t])``, ``g[t] = gamma[t] / sqrt(var[t] + eps)``, t = 1..T (Kim and Panda 2021),
becomes ``y = a (x - m) + beta``. All in float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from snn2chip.errors import InputError
from snn2chip.nn import BNTT, in_float64


def average(table: Tensor) -> Tensor:
    """Mean over the steps of a table (T, C); of equal rows it is that row, to the last bit."""
    return table[0] + (table - table[0]).mean(0)


@dataclass(frozen=True, eq=False)
class Static:
    """``y = gain (x - mean) + beta``; `var` is the variance of x. All (C,), float64."""

    gain: Tensor
    mean: Tensor
    var: Tensor
    beta: Tensor


@dataclass(frozen=True, eq=False)
class Tables:
    """A BNTT's constants (T, C) in float64, and eps."""

    gamma: Tensor
    mean: Tensor
    var: Tensor
    eps: float

    @property
    def gain(self) -> Tensor:
        """g[t] = gamma[t] / sqrt(var[t] + eps)."""
        return self.gamma / (self.var + self.eps).sqrt()

    @property
    def pooled_mean(self) -> Tensor:
        """Mean of x over all steps, (C,)."""
        return average(self.mean)

    @property
    def pooled_var(self) -> Tensor:
        """Variance of x over all steps, (C,): variances within the steps and of their means."""
        return average(self.var) + (self.mean - self.pooled_mean).square().mean(0)

    @property
    def constant(self) -> bool:
        """Whether every step computes the same, as with T = 1."""
        return bool((self.gain == self.gain[0]).all() and (self.mean == self.mean[0]).all())


def tables_of(name: str, norm: BNTT) -> Tables:
    """The constants of layer `name`.

    Raises:
        InputError: one of them is NaN or infinite, a variance is negative, a gamma is not positive.
    """
    tables = Tables(in_float64(norm).weight.detach(), norm.running_mean.double(), norm.running_var.double(), norm.eps)
    for what, values, good, need in (
        ("gamma", tables.gamma, tables.gamma > 0, "positive"),
        ("mean", tables.mean, torch.ones_like(tables.mean, dtype=torch.bool), "finite"),
        ("variance", tables.var, tables.var >= 0, "at least 0"),
    ):
        bad = (~(good & values.isfinite())).nonzero()
        if len(bad):
            step, channel = bad[0].tolist()
            value = float(values[step, channel])
            raise InputError(f"layer '{name}': {what} {value:g} of step {step}, channel {channel} is not {need}; "
                             f"train again")  # fmt: skip
    return tables


def least_squares(tables: Tables) -> Static:
    """The affine map nearest to all steps' for inputs of their statistics.

    ``a x + b - g[t] (x - mu[t])`` has mean ``a mu[t] + b`` and variance ``(a - g[t])^2 var[t]``; their sum over t is
    least at ``b = -a m``, ``a = mean(g var) / V``. A channel that never varies gets the mean gain.
    """
    var = tables.pooled_var
    gain = torch.where(var > 0, average(tables.gain * tables.var) / var, average(tables.gain))
    return Static(gain, tables.pooled_mean, var, torch.zeros_like(var))


class Moments:
    """Sums over samples, steps and pixels of x and y (T, N, C, ...), a channel: of float64, their terms as x is.

    x is taken from `centre` (C,): near its mean, so that its variance is no difference of large numbers.
    """

    def __init__(self, centre: Tensor) -> None:
        self.centre, self.count = centre, 0
        self.sums = torch.zeros(4, len(centre), dtype=torch.float64)

    def add(self, x: Tensor, y: Tensor) -> None:
        """Take a batch in."""
        axes = [axis for axis in range(x.ndim) if axis != 2]
        x = x - self.centre.to(x.dtype).reshape(-1, *(1,) * (x.ndim - 3))
        for total, values in zip(self.sums, (x, x * x, y, x * y), strict=True):
            total += values.sum(axes, dtype=torch.float64)
        self.count += x.numel() // x.shape[2]

    def fit(self, otherwise: Tensor, least: Tensor) -> Static:
        """The least-squares map of x to y; `otherwise` is the gain where the variance of x is not above `least`."""
        x, xx, y, xy = self.sums / self.count
        var = (xx - x * x).clamp_min(0)
        gain = torch.where(var > least, (xy - x * y) / var, otherwise)
        return Static(gain, x + self.centre, var, y)
