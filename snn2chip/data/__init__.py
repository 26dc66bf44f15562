"""Data sets held in memory, and the augmentation of their batches."""

from snn2chip.data.augment import Augment, AugmentSpec, cutout, flip_horizontally, random_crop
from snn2chip.data.dataset import NAMES, ImageSet, at_hand, available, load, parse_spec, test_set
from snn2chip.data.files import cache_folder

__all__ = [
    "NAMES",
    "Augment",
    "AugmentSpec",
    "ImageSet",
    "at_hand",
    "available",
    "cache_folder",
    "cutout",
    "flip_horizontally",
    "load",
    "parse_spec",
    "random_crop",
    "test_set",
]
