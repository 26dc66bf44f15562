"""Random changes of whole batches, on the device where the batch is: crop, flip, cutout, affine, roll, event drop.

Every function takes and returns (N, C, H, W) of any dtype (of events T * C channels: all steps of a sample change
alike) and draws one value per sample from an explicit
generator. The draws are made on the generator's device and then moved: a CPU generator gives the same
augmentation on every device.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F

from snn2chip.data.augment_table import AugmentTable


class Augment:
    """Apply an `AugmentTable` to batches: ``Augment(AugmentTable(crop=4, flip=True))(images, generator)``."""

    def __init__(self, spec: AugmentTable) -> None:
        self.spec = spec

    def __call__(
        self, images: torch.Tensor, generator: torch.Generator, flipped: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Augment a batch, (N, C, H, W) or (N, T, C, H, W); it stays as it is, and is returned if nothing is on.

        `flipped` (N,) says which images an alternating flip mirrors.
        """
        if images.ndim == 5:
            return self(images.flatten(1, 2), generator, flipped).view(images.shape)
        spec = self.spec
        if spec.crop:
            images = random_crop(images, spec.crop, generator, spec.border)
        if spec.flip:
            images = flip_horizontally(images, generator, flipped)
        if spec.cutout:
            images = cutout(images, spec.cutout, generator)
        if spec.erase:
            images = erase(images, spec.erase, generator)
        if spec.rotate or spec.zoom or spec.shear:
            images = affine(images, spec.rotate, spec.zoom, spec.shear, generator)
        if spec.roll:
            images = roll(images, spec.roll, generator)
        if spec.drop:
            images = drop(images, spec.drop, generator)
        return images


def random_crop(
    images: torch.Tensor, padding: int, generator: torch.Generator, border: Literal["black", "reflect"] = "black"
) -> torch.Tensor:
    """Shift every image by its own -padding..padding pixels in y and x; 0, or its reflection, enters at the borders."""
    count, _, height, width = images.shape
    shifts = _integers(2 * padding + 1, (2, count), generator, images.device)
    if border == "reflect":  # torch reflects no integers
        padded = F.pad(images.float(), (padding,) * 4, "reflect").to(images.dtype)
    else:
        padded = F.pad(images, (padding,) * 4)
    # All windows as a view (N, C, 2p+1, 2p+1, H, W); picking one per sample copies whole rows.
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)
    sample = torch.arange(count, device=images.device)
    return windows[sample, :, shifts[0], shifts[1]]


def flip_horizontally(
    images: torch.Tensor, generator: torch.Generator, chosen: torch.Tensor | None = None
) -> torch.Tensor:
    """Mirror the `chosen` images (N,) left to right, or each with probability one half."""
    if chosen is None:
        chosen = _integers(2, (len(images),), generator, images.device).bool()
    return torch.where(chosen.to(images.device)[:, None, None, None], images.flip(3), images)


def cutout(images: torch.Tensor, size: int, generator: torch.Generator) -> torch.Tensor:
    """Paint a black square of `size` pixels over each image, centred on a pixel of it, cut at its borders."""
    count, _, height, width = images.shape
    top = _integers(height, (count, 1), generator, images.device) - size // 2
    left = _integers(width, (count, 1), generator, images.device) - size // 2
    y = torch.arange(height, device=images.device)
    x = torch.arange(width, device=images.device)
    rows = (y >= top) & (y < top + size)
    columns = (x >= left) & (x < left + size)
    covered = rows[:, None, :, None] & columns[:, None, None, :]
    return images.masked_fill(covered, 0)


def erase(images: torch.Tensor, share: float, generator: torch.Generator) -> torch.Tensor:
    """Paint a black rectangle over a `share` of the images: 2 to 33 % of the area, sides 0.3 to 3.3 to 1, anywhere."""
    count, _, height, width = images.shape
    drawn = torch.rand((5, count), generator=generator, device=generator.device).to(images.device)
    area, ratio = 0.02 + 0.31 * drawn[0], torch.exp((2 * drawn[1] - 1) * math.log(1 / 0.3))
    inside = []
    for side, size, at in ((height, (area * ratio).sqrt(), drawn[2]), (width, (area / ratio).sqrt(), drawn[3])):
        long = (size * side).round().clamp(1, side)
        first = (at * (side - long + 1)).floor()
        here = torch.arange(side, device=images.device)
        inside.append((here >= first[:, None]) & (here < (first + long)[:, None]))
    covered = inside[0][:, None, :, None] & inside[1][:, None, None, :] & (drawn[4] < share)[:, None, None, None]
    return images.masked_fill(covered, 0)


def mix(
    images: torch.Tensor, labels: torch.Tensor, spec: AugmentTable, classes: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Two images in one, with their classes in proportion (N, K), in the spec's shares of batches; else as they are.

    What is drawn steers the host, which would wait for a GPU's `generator`: give one of the CPU. Every image meets the
    one before it in the batch, with the batch's own share p drawn from 0..1. `cutmix` (Yun et al.
    2019) pastes a rectangle of p of the other's area, `mixup` (Zhang et al. 2018) adds p of its values to 1 - p of its
    own.
    """
    drawn = torch.rand(4, generator=generator, device=generator.device).tolist()
    if drawn[0] >= spec.cutmix + spec.mixup:
        return images, labels
    other, share = images.roll(1, 0), drawn[1]
    if drawn[0] < spec.cutmix:
        height, width = images.shape[-2:]
        sides = [round(side * math.sqrt(share)) for side in (height, width)]
        top, left = (
            int(at * (side - long + 1)) for at, side, long in zip(drawn[2:], (height, width), sides, strict=True)
        )
        images = images.clone()
        part = (..., slice(top, top + sides[0]), slice(left, left + sides[1]))
        images[part] = other[part]
        share = sides[0] * sides[1] / (height * width)
    else:
        images = torch.lerp(images.float(), other.float(), share)
    targets = F.one_hot(labels, classes).float()
    return images, torch.lerp(targets, targets.roll(1, 0), share)


def affine(images: torch.Tensor, rotate: float, zoom: float, shear: float, generator: torch.Generator) -> torch.Tensor:
    """Rotate, resize and slant every image about its middle; 0 enters at the borders.

    The pixel at (y, x) from the middle comes from the one nearest to ``A (y, x)``, with A of an angle drawn from
    -rotate..rotate degrees, a factor ``1 / (1 + z)`` with z from -zoom..zoom, and a slant from -shear..shear.
    Values are moved and never mixed, so that spikes stay spikes and counts stay counts.
    """
    count, channels, height, width = images.shape
    device = images.device
    angle = _spread(math.radians(rotate), count, generator, device)
    factor = 1 / (1 + _spread(zoom, count, generator, device))
    slant = _spread(shear, count, generator, device)
    y = torch.arange(height, device=device) - (height - 1) / 2
    x = torch.arange(width, device=device) - (width - 1) / 2
    sin, cos = (angle.sin() * factor)[:, None, None], (angle.cos() * factor)[:, None, None]
    from_x = x[None, None, :] + slant[:, None, None] * y[None, :, None]
    rows = (cos * y[None, :, None] - sin * from_x + (height - 1) / 2).round().long()
    columns = (sin * y[None, :, None] + cos * from_x + (width - 1) / 2).round().long()
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    place = torch.where(inside, rows * width + columns, 0).flatten(1)
    moved = images.flatten(2).gather(2, place[:, None].expand(-1, channels, -1))
    return torch.where(inside.flatten(1)[:, None], moved, 0).view(images.shape)


def roll(images: torch.Tensor, most: int, generator: torch.Generator) -> torch.Tensor:
    """Shift every image by its own -most..most pixels in y and x, around the edges."""
    count, channels, height, width = images.shape
    shifts = _integers(2 * most + 1, (2, count, 1), generator, images.device) - most
    rows = (torch.arange(height, device=images.device) - shifts[0]) % height
    columns = (torch.arange(width, device=images.device) - shifts[1]) % width
    place = (rows[:, :, None] * width + columns[:, None, :]).flatten(1)
    return images.flatten(2).gather(2, place[:, None].expand(-1, channels, -1)).view(images.shape)


def drop(images: torch.Tensor, most: float, generator: torch.Generator) -> torch.Tensor:
    """Set a share of every image's values to 0, each on its own; the share is drawn from 0..most."""
    share = torch.rand((len(images), 1, 1, 1), generator=generator, device=generator.device) * most
    dropped = torch.rand(images.shape, generator=generator, device=generator.device) < share
    return images.masked_fill(dropped.to(images.device, non_blocking=True), 0)


def _spread(most: float, count: int, generator: torch.Generator, device: torch.device) -> torch.Tensor:
    """One number from -most..most a sample."""
    drawn = torch.rand(count, generator=generator, device=generator.device)
    return ((2 * drawn - 1) * most).to(device, non_blocking=True)


def _integers(high: int, shape: tuple[int, ...], generator: torch.Generator, device: torch.device) -> torch.Tensor:
    drawn = torch.randint(high, shape, generator=generator, device=generator.device)
    return drawn.to(device, non_blocking=True)
