"""Input coding: images or binned events in, (T, N, C, H, W) out; readouts: (T, N, K) in, a score a class out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from snn2chip.errors import InputError
from snn2chip.ir import Coding, ReadoutKind
from snn2chip.ir.encode import poisson
from snn2chip.nn.constants import number


def _positive(where: str, **values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise InputError(f"{where}: {name} {value} is not at least 1")


class DirectInput(nn.Module):
    """Direct coding: the normalized image at every step.

    ``y[t] = (x / max_value - mean) / std`` for t = 0..T-1; x is (N, C, H, W), integers 0..max_value.
    `mean` and `std` have one entry a channel, in units of x / max_value. With `whole`, as networks of integers have it,
    ``y[t] = x - mean``, `mean` the whole centre of the pixels, and `std` is 1.

    Raises:
        InputError: not one mean and one positive deviation a channel; in forward, images of other channels.
    """

    coding: Coding = "direct"

    def __init__(
        self, timesteps: int, max_value: int, mean: Sequence[float], std: Sequence[float], *, whole: bool = False
    ) -> None:
        super().__init__()
        _positive("DirectInput", timesteps=timesteps, max_value=max_value)
        self.timesteps, self.max_value = timesteps, max_value
        self.unit = 1 if whole else max_value  # pixels that mean and std count in
        mean, std = ([number("DirectInput", what, v) for v in vs] for what, vs in (("mean", mean), ("std", std)))
        if len(mean) != len(std) or not std:
            raise InputError(f"DirectInput: {len(mean)} means and {len(std)} deviations; give one of each a channel")
        if not min(std) > 0:
            raise InputError(f"DirectInput: std {min(std)} is not positive")
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] != len(self.mean):
            raise InputError(
                f"DirectInput: images of shape {tuple(x.shape)}; expected (N, {len(self.mean)}, H, W), a channel for "
                f"each mean"
            )
        scaled = x.to(self.mean.dtype) / self.unit
        y = (scaled - self.mean.view(-1, 1, 1)) / self.std.view(-1, 1, 1)
        return y.unsqueeze(0).expand(self.timesteps, *y.shape)


class PoissonInput(nn.Module):
    """Poisson (Bernoulli) coding: at every step a pixel spikes with probability x / max_value.

    The random numbers come from a generator seeded with `seed` at construction and by `reseed`, so that a
    run can be repeated spike for spike. In eval mode it is the CPU's, as for the chip; in training that of the device,
    so that a GPU waits for nothing.
    """

    coding: Coding = "poisson"

    def __init__(self, timesteps: int, max_value: int, seed: int = 0) -> None:
        super().__init__()
        _positive("PoissonInput", timesteps=timesteps, max_value=max_value)
        self.timesteps, self.max_value = timesteps, max_value
        self._generator = torch.Generator()
        self._there: torch.Generator | None = None
        self.reseed(seed)

    def reseed(self, seed: int) -> None:
        """Start the sequence of random numbers again from `seed`."""
        self.seed, self._there = seed, None
        self._generator.manual_seed(seed)

    def forward(self, x: Tensor) -> Tensor:
        generator = self._generator
        if self.training and x.is_cuda:
            generator = self._there = self._there or torch.Generator(x.device).manual_seed(self.seed)
        return poisson(x, self.timesteps, self.max_value, generator).to(torch.get_default_dtype())


class EventInput(nn.Module):
    """Events of a camera, binned beforehand: the sample's own steps, ``y[t] = x[:, t]``.

    x is (N, T, C, H, W), integers 0..max_value: spikes if max_value is 1, else counts, which the chip takes as graded
    spikes. Nothing is scaled: what the network sees is what the chip's port gets.
    """

    coding: Coding = "events"

    def __init__(self, timesteps: int, max_value: int) -> None:
        super().__init__()
        _positive("EventInput", timesteps=timesteps, max_value=max_value)
        self.timesteps, self.max_value = timesteps, max_value

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 5 or x.shape[1] != self.timesteps:
            raise InputError(
                f"EventInput: events of shape {tuple(x.shape)}; expected (N, {self.timesteps}, C, H, W), "
                f"one frame a time step"
            )
        return x.transpose(0, 1).to(torch.get_default_dtype())


class MembraneReadout(nn.Module):
    """Score of a class: its current averaged over time, i.e. the final membrane of a neuron that never
    leaks, never fires and starts at 0, divided by T. (T, N, K) to (N, K)."""

    kind: ReadoutKind = "membrane"

    def forward(self, current: Tensor) -> Tensor:
        return current.float().mean(0) if current.dtype != torch.float64 else current.mean(0)


class SpikeCountReadout(nn.Module):
    """Score of a class: the share of steps at which its neuron fired. (T, N, K) to (N, K)."""

    kind: ReadoutKind = "spike_count"

    def forward(self, spikes: Tensor) -> Tensor:
        return spikes.float().mean(0) if spikes.dtype != torch.float64 else spikes.mean(0)
