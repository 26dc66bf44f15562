"""From images, or binned events, to input over time: what the network's port is given, step by step."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from snn2chip import ir
from snn2chip.errors import InputError


def poisson(pixels: torch.Tensor, timesteps: int, pixel_max: int, generator: torch.Generator) -> torch.Tensor:
    """Spikes (T, ...) of pixels: at every step one with probability ``pixel / pixel_max``, drawn from `generator`."""
    draws = torch.rand((timesteps, *pixels.shape), generator=generator, device=generator.device).to(pixels.device)
    return draws < pixels.to(draws.dtype) / pixel_max


class Encoder:
    """Images (N, C, H, W) of integers 0..pixel_max to raw input (N, T, C, H, W), int64.

    Direct coding repeats the image T times. Poisson coding draws spikes with the training encoder's own
    generator, started from `seed`: batch after batch it gives what `snn2chip.nn.PoissonInput` gives. Events have
    steps of their own: frames (N, T, C, H, W) pass as they are.

    Raises:
        InputError: (on use) images or frames of another shape or T, or values that are not integers 0..pixel_max.
    """

    def __init__(
        self,
        coding: ir.Coding,
        shape: ir.Shape,
        timesteps: int,
        pixel_max: int,
        seed: int = 0,
    ) -> None:
        self.shape, self.timesteps, self.pixel_max = shape, timesteps, pixel_max
        self._events = coding == "events"
        self._generator = torch.Generator().manual_seed(seed) if coding == "poisson" else None

    def __call__(self, images: NDArray[np.generic] | torch.Tensor) -> ir.IntArray:
        pixels = np.asarray(images)
        if self._events and pixels.shape[1:] != (self.timesteps, *self.shape):
            raise InputError(
                f"events binned to {pixels.shape[1:]} do not fit the network's input, {self.timesteps} steps of "
                f"{self.shape}; use recordings of a sensor of its size, binned as it was trained"
            )
        if not self._events and pixels.shape[1:] != self.shape:
            raise InputError(f"images of shape {pixels.shape[1:]} do not fit the network's input {self.shape}")
        if pixels.dtype.kind not in "iub":
            raise InputError(f"pixels are {pixels.dtype}; expected integers 0..{self.pixel_max}")
        if pixels.size and (pixels.min() < 0 or pixels.max() > self.pixel_max):
            raise InputError(
                f"pixels {pixels.min()}..{pixels.max()} exceed the 0..{self.pixel_max} the network was trained on"
            )
        if self._events:
            return pixels.astype(np.int64)
        if self._generator is None:
            return np.repeat(pixels.astype(np.int64)[:, None], self.timesteps, axis=1)
        spikes = poisson(torch.from_numpy(pixels.astype(np.int64)), self.timesteps, self.pixel_max, self._generator)
        drawn: ir.IntArray = spikes.transpose(0, 1).numpy().astype(np.int64)
        return drawn


def encoder_of(source: ir.Network | ir.Chain, seed: int = 0) -> Encoder:
    """The encoder of a network at any stage."""
    if isinstance(source, ir.Chain):
        return Encoder(source.coding, source.raw_shape, source.timesteps, source.pixel_max, seed)
    node = source.input
    return Encoder(node.coding, node.shape, source.timesteps, node.pixel_max, seed)
