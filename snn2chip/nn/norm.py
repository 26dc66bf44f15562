"""Batch normalization made for spikes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from snn2chip import parallel
from snn2chip.errors import InputError
from snn2chip.nn import gpu
from snn2chip.nn.constants import number


def merge(x: Tensor) -> Tensor:
    """(T, N, ...) to (T*N, ...); an input that is the same at every step is written out in its own memory layout."""
    if x.shape[0] > 1 and x.stride(0) == 0:
        return torch.cat([x[0]] * x.shape[0])
    return x.flatten(0, 1)


def _broadcast(values: Tensor, x: Tensor) -> Tensor:
    """Numbers (S, C) against x (S, N, C, ...), in its type."""
    return values.to(x.dtype).reshape(values.shape[0], 1, -1, *(1,) * (x.ndim - 3))


class _SharedBatchNorm(torch.autograd.Function):
    """Batch norm of x (S, N, C, ...), with statistics of its own for each of S, over the batches of all processes.

    Means and variances of the processes are merged as in Chan et al. 1979, in float64; the result is the batch norm of
    the whole batch up to rounding. Backward, with sums over the whole batch of M values a channel::

        dx = gamma / sqrt(var + eps) * (dy - sum(dy) / M - xhat * sum(dy * xhat) / M)

    The gradients of gamma and beta are those of this process's part, as every other parameter's: they are averaged
    later.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        momentum: float,
        eps: float,
    ) -> Tensor:
        over = [1, *range(3, x.ndim)]
        wide = x.detach().to(torch.promote_types(x.dtype, torch.float32))
        count = x.numel() // (x.shape[0] * x.shape[2])
        var, mean = torch.var_mean(wide, over, correction=0)
        mine = torch.stack([torch.full_like(mean, count, dtype=torch.float64), mean.double(), var.double() * count])
        counts, means, squares = parallel.rows_of(mine).unbind(1)
        total = counts.sum(0)
        whole = (counts * means).sum(0) / total
        square = (squares + counts * (means - whole).square()).sum(0)
        mean, var = whole.to(wide.dtype), (square / total).to(wide.dtype)
        running_mean.lerp_(mean.to(running_mean.dtype), momentum)
        running_var.lerp_((square / (total - 1)).to(running_var.dtype), momentum)
        ctx.save_for_backward(x, weight, mean, var, total.to(wide.dtype))
        ctx.eps, ctx.has_bias = eps, bias is not None
        # with statistics given, torch's own does the rest in one pass
        parts = [
            F.batch_norm(x[s], mean[s], var[s], weight[s], None if bias is None else bias[s], False, 0.0, eps)
            for s in range(len(x))
        ]
        return torch.stack(parts) if len(parts) > 1 else parts[0].unsqueeze(0)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, var, total = ctx.saved_tensors
        (grad,) = grad_outputs
        parts, weights, biases = [], [], []
        for s in range(len(x)):
            part, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
                grad[s], x[s], weight[s], mean[s], var[s], None, None, False, ctx.eps, [True, True, True]
            )
            parts.append(part)
            weights.append(of_weight)
            biases.append(of_bias)
        of_weight, of_bias = torch.stack(weights), torch.stack(biases)
        sums = parallel.rows_of(torch.stack([of_weight, of_bias]).double()).sum(0).to(mean.dtype)
        scale = torch.rsqrt(var + ctx.eps)
        slope = weight * scale * scale * sums[0] / total
        offset = weight * scale * sums[1] / total - slope * mean
        out = torch.stack(parts) if len(parts) > 1 else parts[0].unsqueeze(0)
        out = out - (x * _broadcast(slope, x) + _broadcast(offset, x))
        return out, None, None, of_weight, of_bias if ctx.has_bias else None, None, None


def _shared(*given: Tensor | float | None) -> Tensor:
    y: Tensor = _SharedBatchNorm.apply(*given)  # type: ignore[no-untyped-call]
    return y


class TDBatchNorm(nn.Module):
    """Threshold-dependent batch normalization, tdBN (Zheng et al. 2021, eq. 6 to 9).

    Per channel, with mean and variance over batch, time and space together::

        y = gamma * (alpha * Vth * (x - mu) / sqrt(var + eps)) + beta

    Shapes: (T, N, C, H, W) or (T, N, C) in and out. `alpha` is 1, or 1/sqrt(2) for the two that meet in a
    residual add; `threshold` is the Vth of the neuron that follows. gamma starts at 1, beta at 0.
    `running_mean` and `running_var` follow the batches as in `torch.nn.BatchNorm2d`. Under torchrun the batch is that
    of all processes together.

    Raises:
        InputError: alpha, threshold or eps is not positive; in load_state_dict, the state of another batch norm.
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
        alpha, threshold, eps = (
            number("TDBatchNorm", *item) for item in (("alpha", alpha), ("threshold", threshold), ("eps", eps))
        )
        for name, value in (("alpha", alpha), ("threshold", threshold), ("eps", eps)):
            if not (value > 0 and math.isfinite(value)):
                raise InputError(f"TDBatchNorm: {name} {value} is not a positive number")
        self.channels, self.alpha, self.threshold = channels, alpha, threshold
        self.eps, self.momentum = eps, momentum
        self.weight = nn.Parameter(torch.ones(channels))  # gamma
        self.bias = nn.Parameter(torch.zeros(channels))  # beta
        self.running_mean: Tensor
        self.running_var: Tensor
        self.into: tuple[Any] | None = None  # the neuron that may take the second pass over
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, local_metadata: Mapping[str, Any], *others: Any
    ) -> None:
        # torch's batch norms, and SpikingJelly's tdBN among them, count batches and are of version 2
        if f"{prefix}num_batches_tracked" in state_dict or local_metadata.get("version", 1) > 1:
            where = f"layer '{prefix[:-1]}'" if prefix else "TDBatchNorm"
            raise InputError(
                f"{where}: the state of another batch norm, whose "
                f"weight is gamma alpha Vth, here it is gamma: load SpikingJelly's by snn2chip.nn.load_spikingjelly, "
                f"or divide the weight by alpha Vth = {self.alpha * self.threshold:g} and leave num_batches_tracked out"
            )
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *others)

    @property
    def gain(self) -> Tensor:
        """gamma alpha Vth, (C,)."""
        return self.weight * (self.alpha * self.threshold)

    def forward(self, x: Tensor) -> Tensor:
        if self.into is not None:
            joined = self.training and self.into[0].training and gpu.joins(x)
            self.into[0].before = (self,) if joined else None
            if joined:
                return x
        gamma = self.gain
        if self.training and parallel.size() > 1:
            running = self.running_mean.unsqueeze(0), self.running_var.unsqueeze(0)
            rows = merge(x).unsqueeze(0), *running, gamma.unsqueeze(0), self.bias.unsqueeze(0)
            return _shared(*rows, self.momentum, self.eps).reshape(x.shape)
        # copies do not change mean and variance, nor, summed over them, gradients: one is enough
        count = x[0].numel() // self.channels
        copies = x.shape[0] if x.stride(0) == 0 and (count > 1 or not self.training) else 1
        estimate = self.training and copies > 1
        running_var = self.running_var.clone() if estimate else self.running_var
        images, options = x[0] if copies > 1 else merge(x), (self.training, self.momentum, self.eps)
        y = F.batch_norm(images, self.running_mean, running_var, gamma, self.bias, *options)
        if estimate:  # of the variance, from `copies` times as many values
            kept = self.running_var * (1 - self.momentum)
            self.running_var.copy_(kept + (running_var - kept) * (copies * (count - 1) / (copies * count - 1)))
        return y.expand(x.shape) if copies > 1 else y.reshape(*x.shape[:2], *y.shape[1:])

    def first_pass(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """What the second pass is given: x (T, N, C, ...), or (1, N, C, ...) of one that repeats; gamma and beta, and
        the batch's mean and 1 / sqrt(var + eps), which the running statistics follow."""
        rows = x[:1] if x.stride(0) == 0 else x
        count = x.numel() // self.channels
        with torch.no_grad():
            mean, invstd = gpu.moments(rows.flatten(0, 1), self.eps)
            var = (invstd.square().reciprocal() - self.eps).clamp(min=0) * (count / (count - 1))
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var, self.momentum)
        return rows, self.gain, self.bias, mean, invstd

    def extra_repr(self) -> str:
        return f"{self.channels}, alpha={self.alpha:.4g}, threshold={self.threshold:.4g}, eps={self.eps:.3g}"


class BNTT(nn.Module):
    """Batch normalization through time (Kim and Panda 2021, eq. 5 to 8): statistics and gamma of their own a step.

    Per channel and time step, with mean and variance over batch and space::

        y[t] = gamma[t] * (x[t] - mu[t]) / sqrt(var[t] + eps)            no beta

    Shapes: (T, N, C, H, W) or (T, N, C) in and out. gamma is the exponential of the parameter `log_weight`
    (T, C), so that it stays positive: only then does the layer fold into the neuron after it. It starts at
    `scale`: 1 in the paper, whose threshold is 1; the neuron's threshold is the same choice for others.
    `running_mean` and `running_var`, (T, C), follow the batches as in `torch.nn.BatchNorm2d`. Under torchrun the batch
    is that of all processes together.

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
        scale, eps = number("BNTT", "scale", scale), number("BNTT", "eps", eps)
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
        if self.training and parallel.size() > 1:
            return _shared(x, self.running_mean, self.running_var, gamma, None, self.momentum, self.eps)
        mean, var, options = self.running_mean, self.running_var, (self.training, self.momentum, self.eps)
        steps = [F.batch_norm(x[t], mean[t], var[t], gamma[t], None, *options) for t in range(self.timesteps)]
        return torch.stack(steps)

    def extra_repr(self) -> str:
        return f"{self.channels}, timesteps={self.timesteps}, eps={self.eps:.3g}"
