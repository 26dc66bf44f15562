"""Batches of a training: which images come when, and augmented how, is a function of (seed, epoch, step).

The order of an epoch is drawn on the CPU, once an epoch, so that it is the same on every device. Augmentation is drawn
where the images are.
"""

from __future__ import annotations

import torch
from torch import Tensor

from snn2chip import parallel
from snn2chip.data import ImageSet
from snn2chip.data.augment import Augment, AugmentSpec, mix
from snn2chip.recipe import Recipe

SHARE = 0.5  # of a GPU's free memory that images may take


def seed_of(*parts: int) -> int:
    """One 63-bit seed from several numbers (splitmix64's finalizer, chained)."""
    state = 0
    for part in parts:
        state = (state + part + 0x9E3779B97F4A7C15) & (2**64 - 1)
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
        state ^= state >> 31
    return state >> 1


def generator_of(seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    return torch.Generator(device).manual_seed(seed)


def order_of(count: int, seed: int) -> Tensor:
    """The numbers below `count` in an order drawn by `seed`."""
    return torch.randperm(count, generator=generator_of(seed))


def fits(images: Tensor, device: torch.device) -> bool:
    """Whether images may stay on `device` beside what a training needs there."""
    if device.type != "cuda":
        return True
    return images.nbytes <= SHARE * torch.cuda.mem_get_info(device)[0]


class Batches:
    """The batches of `recipe` over a training set; those of a GPU are gathered there if the images fit (`fits`)."""

    def __init__(self, images: ImageSet, recipe: Recipe, device: torch.device) -> None:
        self.device, self.seed, self.size = device, recipe.train.seed, recipe.train.batch_size
        self.count, self.classes = len(images), len(images.classes)
        self.table = recipe.data.augment
        self.augment = Augment(AugmentSpec(**dict(self.table)))
        self.images = images.images.to(device) if fits(images.images, device) else images.images
        self.labels = images.labels.to(device)
        self._sides = torch.randint(2, (self.count,), generator=generator_of(seed_of(self.seed, 5))).to(device)
        self._order: tuple[int, Tensor, Tensor] | None = None

    @property
    def steps(self) -> int:
        """Batches of an epoch."""
        return self.count // self.size

    def _rows(self, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        """The numbers of a batch's images, where the images are and on the device."""
        if self._order is None or self._order[0] != epoch:
            order = order_of(self.count, seed_of(self.seed, 1, epoch)).to(self.images.device)
            self._order = epoch, order, order.to(self.device)
        here = slice(step * self.size, (step + 1) * self.size)
        return self._order[1][here], self._order[2][here]

    def __call__(self, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        """This process's part of a batch, augmented: images and labels (N,), or (N, K) where images are mixed.

        Augmented whole, so that a part does not depend on how many there are.
        """
        seed, (near, rows) = seed_of(self.seed, 2, epoch, step), self._rows(epoch, step)
        generator = generator_of(seed, self.device)
        flipped = (self._sides[rows] + epoch) % 2 == 1 if self.table.flip == "alternating" else None
        images, labels = self.images[near], self.labels[rows]
        if images.device != self.device:  # from pinned memory the host need not wait for the copy
            images = (images.pin_memory() if self.device.type == "cuda" else images).to(self.device, non_blocking=True)
        images = self.augment(images, generator, flipped)
        if self.table.cutmix or self.table.mixup:
            host = generator if self.device.type == "cpu" else generator_of(seed)
            images, labels = mix(images, labels, self.augment.spec, self.classes, host)
        part = parallel.share(len(rows))
        images = images[part]
        return images.contiguous(memory_format=torch.channels_last) if images.ndim == 4 else images, labels[part]
