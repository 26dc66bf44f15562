"""Batches of a training: which images come when, and augmented how, is a function of (seed, epoch, step).

The order of an epoch is drawn on the CPU, once an epoch, so that it is the same on every device. Augmentation is drawn
where the images are. Files are decoded ahead of the steps, by processes beside this one; in what order, and augmented
how, does not depend on them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snn2chip import parallel
from snn2chip.data import ImageSet
from snn2chip.data.augment import Augment, mix
from snn2chip.data.image_files import ImageFiles
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


def _to_come(
    count: int, seed: int, size: int, needed: NDArray[np.int64], epoch: int, step: int
) -> Iterator[NDArray[np.int64]]:
    """Of `count` images those `needed` of a batch of `size`, and of all batches and epochs after it."""
    for number in itertools.count(epoch):
        order = order_of(count, seed_of(seed, 1, number)).numpy()
        for start in range(step if number == epoch else 0, count // size):
            yield order[start * size + needed]


class Batches:
    """The batches of `recipe` over a training set; those of a GPU are gathered there if the images fit (`fits`)."""

    def __init__(self, images: ImageSet, recipe: Recipe, device: torch.device) -> None:
        self.device, self.seed, self.size = device, recipe.train.seed, recipe.train.batch_size
        self.count, self.classes = len(images), len(images.classes)
        self.table = recipe.data.augment
        self.augment = Augment(self.table)
        self.images = images.images
        if isinstance(self.images, Tensor) and fits(self.images, device):
            self.images = self.images.to(device)
        self.labels = images.labels.to(device)
        self._sides = torch.randint(2, (self.count,), generator=generator_of(seed_of(self.seed, 5))).to(device)
        self._order: tuple[int, Tensor, Tensor] | None = None
        self._decoded: Iterator[Tensor] = iter(())
        self._next: tuple[int, int] | None = None  # whose batch comes next of `_decoded`

    @property
    def steps(self) -> int:
        """Batches of an epoch."""
        return self.count // self.size

    def _rows(self, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        """The numbers of a batch's images, where the images are and on the device."""
        if self._order is None or self._order[0] != epoch:
            order = order_of(self.count, seed_of(self.seed, 1, epoch))
            near = order.to(self.images.device) if isinstance(self.images, Tensor) else order
            self._order = epoch, near, order.to(self.device)
        here = slice(step * self.size, (step + 1) * self.size)
        return self._order[1][here], self._order[2][here]

    def _needed(self) -> NDArray[np.int64]:
        """Which images of a batch this process makes its part of: those, and what the first of them is mixed with."""
        part, mixed = parallel.share(self.size), bool(self.table.cutmix or self.table.mixup)
        return np.unique(np.arange(part.start - mixed, part.stop) % self.size)

    def _decode(self, files: ImageFiles, epoch: int, step: int) -> Tensor:
        """The images of a batch that this process needs, `_needed`."""
        if self._next != (epoch, step):
            self._decoded = files.ahead(_to_come(self.count, self.seed, self.size, self._needed(), epoch, step))
        images = next(self._decoded)
        self._next = (epoch, step + 1) if step + 1 < self.steps else (epoch + 1, 0)
        return images

    def __call__(self, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        """This process's part of a batch, augmented: images and labels (N,), or (N, K) where images are mixed.

        Augmented whole, so that a part does not depend on how many there are.
        """
        seed, (near, rows) = seed_of(self.seed, 2, epoch, step), self._rows(epoch, step)
        generator = generator_of(seed, self.device)
        flipped = (self._sides[rows] + epoch) % 2 == 1 if self.table.flip == "alternating" else None
        files = None if isinstance(self.images, Tensor) else self.images
        images = self.images[near] if files is None else self._decode(files, epoch, step)
        labels = self.labels[rows]
        # of a type alone: "cuda" is not equal to the "cuda:0" where it is. From pinned memory the host need not wait
        if images.device.type != self.device.type:
            images = (images.pin_memory() if self.device.type == "cuda" else images).to(self.device, non_blocking=True)
        if len(images) < len(rows):
            alone, images = images, images.new_zeros(len(rows), *images.shape[1:])
            images[torch.from_numpy(self._needed()).to(self.device)] = alone
        images = self.augment(images, generator, flipped)
        if self.table.cutmix or self.table.mixup:
            host = generator if self.device.type == "cpu" else generator_of(seed)
            images, labels = mix(images, labels, self.augment.spec, self.classes, host)
        part = parallel.share(len(rows))
        images = images[part]
        return images.contiguous(memory_format=torch.channels_last) if images.ndim == 4 else images, labels[part]
