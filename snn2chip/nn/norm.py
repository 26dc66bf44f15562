"""Batch normalization made for spikes."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from snn2chip.errors import InputError


class TDBatchNorm(nn.Module):
    """Threshold-dependent batch normalization, tdBN (Zheng et al. 2021, eq. 6 to 9).

    Per channel, with mean and variance over batch, time and space together::

        y = gamma * (alpha * Vth * (x - mu) / sqrt(var + eps)) + beta

    Shapes: (T, N, C, H, W) or (T, N, C) in and out. `alpha` is 1, or 1/sqrt(2) for the two that meet in a
    residual add; `threshold` is the Vth of the neuron that follows. gamma starts at 1, beta at 0.
    `running_mean` and `running_var` follow the batches as in `torch.nn.BatchNorm2d`.

    Raises:
        InputError: alpha, threshold or eps is not positive.
    """

    def __init__(
        self,
        channels: int,
        *,
        alpha: float = 1.0,
        threshold: float = 0.5,
        eps: float = 1e-5,
        momentum: float = 0.1,
    ) -> None:
        super().__init__()
        for name, value in (("alpha", alpha), ("threshold", threshold), ("eps", eps)):
            if not (value > 0 and math.isfinite(value)):
                raise InputError(f"TDBatchNorm: {name} {value} is not a positive number")
        self.channels, self.alpha, self.threshold = channels, alpha, threshold
        self.eps, self.momentum = eps, momentum
        self.weight = nn.Parameter(torch.ones(channels))  # gamma
        self.bias = nn.Parameter(torch.zeros(channels))  # beta
        self.running_mean: Tensor
        self.running_var: Tensor
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        y = F.batch_norm(
            x.flatten(0, 1),
            self.running_mean,
            self.running_var,
            self.weight * (self.alpha * self.threshold),
            self.bias,
            self.training,
            self.momentum,
            self.eps,
        )
        return y.reshape(*x.shape[:2], *y.shape[1:])

    def extra_repr(self) -> str:
        return f"{self.channels}, alpha={self.alpha:.4g}, threshold={self.threshold:.4g}, eps={self.eps:.3g}"


class BNTT(nn.Module):
    """Batch normalization through time (Kim and Panda 2021, eq. 5 to 8): statistics and gamma of their own a step.

    Per channel and time step, with mean and variance over batch and space::

        y[t] = gamma[t] * (x[t] - mu[t]) / sqrt(var[t] + eps)            no beta

    Shapes: (T, N, C, H, W) or (T, N, C) in and out. gamma is the exponential of the parameter `log_weight`
    (T, C), so that it stays positive: only then does the layer fold into the neuron after it. It starts at
    `scale`: 1 in the paper, whose threshold is 1; the neuron's threshold is the same choice for others.
    `running_mean` and `running_var`, (T, C), follow the batches as in `torch.nn.BatchNorm2d`.

    Raises:
        InputError: timesteps is not at least 1, scale or eps is not positive; in forward, an input with another
            number of steps.
    """

    def __init__(
        self, channels: int, timesteps: int, *, scale: float = 1.0, eps: float = 1e-4, momentum: float = 0.1
    ) -> None:
        super().__init__()
        if timesteps < 1:
            raise InputError(f"BNTT: timesteps {timesteps} is not at least 1")
        for name, value in (("scale", scale), ("eps", eps)):
            if not (value > 0 and math.isfinite(value)):
                raise InputError(f"BNTT: {name} {value} is not a positive number")
        self.channels, self.timesteps = channels, timesteps
        self.scale, self.eps, self.momentum = scale, eps, momentum
        self.log_weight = nn.Parameter(torch.full((timesteps, channels), math.log(scale)))
        self.running_mean: Tensor
        self.running_var: Tensor
        self.register_buffer("running_mean", torch.zeros(timesteps, channels))
        self.register_buffer("running_var", torch.ones(timesteps, channels))

    @property
    def weight(self) -> Tensor:
        """gamma, (T, C), positive."""
        return self.log_weight.exp()

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] != self.timesteps:
            raise InputError(f"BNTT: an input of {x.shape[0]} steps, but statistics of {self.timesteps}")
        gamma = self.weight
        return torch.stack(
            [
                F.batch_norm(
                    x[t],
                    self.running_mean[t],
                    self.running_var[t],
                    gamma[t],
                    None,
                    self.training,
                    self.momentum,
                    self.eps,
                )
                for t in range(self.timesteps)
            ]
        )

    def extra_repr(self) -> str:
        return f"{self.channels}, timesteps={self.timesteps}, eps={self.eps:.3g}"
