"""What a plain trained network consists of, on its way from an ONNX file to a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Norm:
    """Batch norm in eval mode: ``gamma * (x - mean) / sqrt(variance) + beta`` by channel; eps is in the variance."""

    name: str
    gamma: FloatArray
    beta: FloatArray
    mean: FloatArray
    variance: FloatArray


@dataclass(frozen=True, eq=False)
class Weighted:
    """A convolution, weight (Cout, Cin / groups, k, k), or a dense layer, weight (out, in); then maybe batch norm."""

    name: str
    weight: NDArray[np.float32]
    bias: FloatArray | None
    norm: Norm | None = None
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    groups: int = 1


@dataclass(frozen=True)
class Neuron:
    """A ReLU; or with a threshold: 1 where x exceeds it, else 0."""

    name: str
    threshold: float | None = None


@dataclass(frozen=True)
class Pool:
    """Pooling over windows, or over the whole image."""

    name: str
    kind: Literal["avg", "max", "global"]
    kernel: int = 0
    stride: int = 0
    padding: int = 0


@dataclass(frozen=True)
class Flat:
    """(C, H, W) to C*H*W features."""

    name: str


@dataclass(frozen=True)
class Block:
    """Two arms from one place that are added."""

    name: str
    branch: tuple[Item, ...]
    shortcut: tuple[Item, ...]


Item = Weighted | Norm | Neuron | Pool | Flat | Block


@dataclass(frozen=True)
class PlainNetwork:
    """A chain of items from images (C, H, W) to scores of `classes` classes.

    `spiking`: its neurons are thresholds, not ReLUs. `largest` is the most values that one activation has. `scale` and
    `shift` (C,): what the file does to its input x before the first layer, ``scale * x + shift``. `notes` are to be
    said: what was left out or lifted.
    """

    input_shape: tuple[int, int, int]
    classes: int
    items: tuple[Item, ...]
    spiking: bool
    largest: int
    scale: FloatArray
    shift: FloatArray
    notes: tuple[str, ...] = ()

    def normalization(self, mean: FloatArray, std: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Mean and std of the pixels for the first layer, where ``(p - mean) / std`` are those for the file's input::

        scale (p - mean) / std + shift = (p - (mean - std shift / scale)) / (std / scale)
        """
        return mean - std * self.shift / self.scale, std / self.scale


def inside(items: tuple[Item, ...]) -> list[Item]:
    """The items with those of blocks in their place."""
    found: list[Item] = []
    for item in items:
        found += [*item.branch, *item.shortcut] if isinstance(item, Block) else [item]
    return found
