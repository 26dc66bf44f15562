"""Image folders: ROOT/train/CLASS/*.jpg with ROOT/val or ROOT/test beside it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from snn2chip.errors import DataError

T = TypeVar("T")
_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".ppm", ".pgm", ".tif", ".tiff"})
_TWIN = {"val": "test", "test": "val"}


@dataclass(frozen=True, eq=False)
class Listing:
    """The images of one split: `names` (N,), bytes below `base`, labels (N,), class names, source with its counts."""

    base: Path
    names: NDArray[np.bytes_]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    source: str


def find_images(root: Path, split: str) -> Listing:
    """The image files of one split; classes are the folder names of the train split, sorted.

    Images come class by class in turn (the first of every class, then the second ...).

    Args:
        split: "train", "val" or "test"; val and test stand in for each other where only one exists.

    Raises:
        DataError: a folder is missing or empty, or a class is not one of train's.
        OSError: a folder cannot be read.
    """
    base = split_folder(root, split)
    classes = class_names(root, base)
    by_class: list[list[tuple[bytes, int]]] = []
    ignored = 0
    for label, name in enumerate(classes):
        here, start = base / name, len(str(base)) + 1
        # a million files: as words, and without asking the system for each of them
        walk = os.walk(here, onerror=_raise) if here.is_dir() else ()
        files = [f"{folder}{os.sep}{file}"[start:] for folder, _, inside in walk for file in inside]
        pictures = [file for file in files if os.path.splitext(file)[1].lower() in _SUFFIXES]  # noqa: PTH122
        ignored += len(files) - len(pictures)
        if not pictures and here.is_dir():
            raise DataError(f"'{here}' holds no image (of {len(files)} files); remove it or fill it")
        pictures.sort(key=lambda file: file.split(os.sep))  # noqa: PTH206
        by_class.append([(os.fsencode(file), label) for file in pictures])
    names, labels = zip(*in_turn(by_class), strict=True)
    source = f"{base}, {len(names):,} images in {len(classes):,} classes"
    if ignored:
        source += f", {ignored:,} other files ignored"
    return Listing(base, np.array(names), np.array(labels, np.int64), classes, source)


def _raise(error: OSError) -> None:
    raise error


def split_folder(root: Path, split: str, pattern: str = "*.jpg") -> Path:
    """ROOT/SPLIT, where val and test stand in for each other; `pattern` is for the message that there is none."""
    for name in (split, _TWIN.get(split, split)):
        if (root / name).is_dir():
            return root / name
    inside = next((path.parent for path in sorted(root.glob("*/train")) if path.is_dir()), None)
    hint = f"did you mean '{inside}'?" if inside else f"it needs train/CLASS/{pattern} and val or test beside it"
    looked = " or ".join(f"'{root / name}'" for name in dict.fromkeys((split, _TWIN.get(split, split))))
    raise DataError(f"no folder {looked}; {hint}")


def class_names(root: Path, base: Path, what: str = "images") -> tuple[str, ...]:
    """The class folders of ROOT/train, or of `base` where there is none, sorted; those in `base` must be among them."""
    found = []
    for place in (base, root / "train"):
        if place is base or place.is_dir():
            found.append(tuple(sorted(path.name for path in place.iterdir() if path.is_dir() and path.name[0] != ".")))
            if not found[-1]:
                raise DataError(f"'{place}' holds no class folders; put the {what} of each class in one of their own")
    if strange := sorted(set(found[0]) - set(found[-1])):
        raise DataError(
            f"'{base / strange[0]}' is a class that '{root / 'train'}' does not have ({len(strange)} such); both "
            f"splits need the same class folders"
        )
    if len(found[-1]) == 1:
        where = root / "train" if len(found) > 1 else base
        raise DataError(
            f"'{found[-1][0]}' is the only class folder of '{where}'; put the {what} of two classes at least "
            f"in one of their own each"
        )
    return found[-1]


def in_turn(by_class: Sequence[Sequence[T]]) -> list[T]:
    """The first of every class, then the second ...: so the first of all hold all classes."""
    return [item for item in chain.from_iterable(zip_longest(*by_class)) if item is not None]
