"""Random crop, flip and cutout of whole batches, on the device where the batch is.

Every function takes and returns (N, C, H, W) of any dtype and draws one value per sample from an explicit
generator. The draws are made on the generator's device and then moved: a CPU generator gives the same
augmentation on every device.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from snn2chip.errors import RecipeError


@dataclass(frozen=True)
class AugmentSpec:
    """What to do to training images, in this order; the default does nothing.

    Attributes:
        crop: pixels of padding on every side before a crop of the original size; 0 is off.
        flip: mirror half of the images left to right.
        cutout: side in pixels of a square that is painted over, centred anywhere in the image; 0 is off.

    Padding and cutout are painted with 0, which is black for raw images: augment before normalizing.
    """

    crop: int = 0
    flip: bool = False
    cutout: int = 0

    def __post_init__(self) -> None:
        for name in ("crop", "cutout"):
            value = getattr(self, name)
            if value < 0:
                raise RecipeError(f"augment: {name} {value} is below 0; use 0 to switch it off")


class Augment:
    """Apply an `AugmentSpec` to batches: ``Augment(AugmentSpec(crop=4, flip=True))(images, generator)``."""

    def __init__(self, spec: AugmentSpec) -> None:
        self.spec = spec

    def __call__(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Augment a batch (N, C, H, W); the input is left as it is, and returned itself if nothing is on."""
        spec = self.spec
        if spec.crop:
            images = random_crop(images, spec.crop, generator)
        if spec.flip:
            images = flip_horizontally(images, generator)
        if spec.cutout:
            images = cutout(images, spec.cutout, generator)
        return images


def random_crop(images: torch.Tensor, padding: int, generator: torch.Generator) -> torch.Tensor:
    """Shift every image by its own -padding..padding pixels in y and x; 0 enters at the borders."""
    count, _, height, width = images.shape
    shifts = _integers(2 * padding + 1, (2, count), generator, images.device)
    padded = F.pad(images, (padding,) * 4)
    # All windows as a view (N, C, 2p+1, 2p+1, H, W); picking one per sample copies whole rows.
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)
    sample = torch.arange(count, device=images.device)
    return windows[sample, :, shifts[0], shifts[1]]


def flip_horizontally(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Mirror each image left to right with probability one half."""
    chosen = _integers(2, (len(images),), generator, images.device).bool()
    return torch.where(chosen[:, None, None, None], images.flip(3), images)


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


def _integers(high: int, shape: tuple[int, ...], generator: torch.Generator, device: torch.device) -> torch.Tensor:
    drawn = torch.randint(high, shape, generator=generator, device=generator.device)
    return drawn.to(device, non_blocking=True)
