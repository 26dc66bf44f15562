"""Image folders: ROOT/train/CLASS/*.jpg with ROOT/val or ROOT/test beside it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from snn2chip.data.files import Arrays
from snn2chip.errors import DataError, out_of_memory

T = TypeVar("T")
_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".ppm", ".pgm", ".tif", ".tiff"})
_TWIN = {"val": "test", "test": "val"}
MAX_SIDE = 4096
"""Largest `image_size`, in pixels."""


def read_folder(root: Path, split: str, image_size: int | None) -> Arrays:
    """Decode all images of one split; classes are the folder names of the train split, sorted.

    Images come class by class in turn (the first of every class, then the second ...). Grey ones become
    RGB and transparency is dropped. With `image_size` every image is resized to cover that square,
    keeping its proportions, and its middle is cut out; without it all must have one size.

    Args:
        split: "train", "val" or "test"; val and test stand in for each other where only one exists.

    Returns:
        Images (N, 3, H, W), labels (N,), class names, and the source with its counts.

    Raises:
        DataError: a folder is missing or empty, a class is not one of train's, a file cannot be decoded,
            the sizes differ, or the whole would not fit into memory.
    """
    if image_size is not None and not 1 <= image_size <= MAX_SIDE:
        raise DataError(f"image size {image_size} is outside 1..{MAX_SIDE}; choose a side in pixels, e.g. 64")
    base = split_folder(root, split)
    classes = class_names(root, base)
    by_class: list[list[tuple[Path, int]]] = []
    ignored = 0
    for label, name in enumerate(classes):
        files = sorted(path for path in (base / name).rglob("*") if path.is_file())
        pictures = [path for path in files if path.suffix.lower() in _SUFFIXES]
        ignored += len(files) - len(pictures)
        if not pictures and (base / name).is_dir():
            raise DataError(f"'{base / name}' holds no image (of {len(files)} files); remove it or fill it")
        by_class.append([(path, label) for path in pictures])
    entries = in_turn(by_class)
    images, resized = _decode([path for path, _ in entries], image_size)
    labels = np.array([label for _, label in entries], np.int64)
    source = f"{base}, {len(entries):,} images in {len(classes):,} classes"
    if resized:
        source += f", {resized:,} of them resized to {image_size}x{image_size}"
    if ignored:
        source += f", {ignored:,} other files ignored"
    return images, labels, classes, source


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
    return found[-1]


def in_turn(by_class: Sequence[Sequence[T]]) -> list[T]:
    """The first of every class, then the second ...: so the first of all hold all classes."""
    return [item for item in chain.from_iterable(zip_longest(*by_class)) if item is not None]


def _decode(paths: list[Path], image_size: int | None) -> tuple[NDArray[np.uint8], int]:
    """Images (N, 3, H, W) of `paths`, and how many of them were resized."""
    from PIL import Image, ImageOps

    images: NDArray[np.uint8] | None = None
    resized = 0
    different: list[tuple[Path, tuple[int, int]]] = []
    for index, path in enumerate(paths):
        try:
            with warnings.catch_warnings():
                # Pillow warns of odd metadata, which does not matter here, and of absurd sizes, which does.
                warnings.simplefilter("ignore")
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                with Image.open(path) as opened:
                    if opened.mode.startswith(("I", "F")):
                        raise ValueError(f"its pixels are {opened.mode}, not 8 bits; convert it to 8-bit RGB")
                    picture = opened.convert("RGB")
        except Exception as error:  # damaged files make Pillow's decoders raise almost anything
            if out_of_memory(error):
                raise
            reason = " ".join(str(error).split()) or type(error).__name__
            raise DataError(
                f"cannot decode '{path}' (image {index + 1:,} of {len(paths):,}): {reason}; replace or remove it"
            ) from error
        if image_size is not None and picture.size != (image_size, image_size):
            picture = ImageOps.fit(picture, (image_size, image_size), Image.Resampling.BILINEAR)
            resized += 1
        pixels = np.asarray(picture).transpose(2, 0, 1)
        if images is None:
            images = _room(len(paths), pixels.shape, paths[0])
        if pixels.shape != images.shape[1:]:
            different.append((path, picture.size))
            continue
        images[index] = pixels
    if images is None:
        raise DataError("no images to read; the split is empty")
    if different:
        path, (width, height) = different[0]
        raise DataError(
            f"'{path}' is {width}x{height} but '{paths[0]}' is {images.shape[3]}x{images.shape[2]} "
            f"({len(different):,} of {len(paths):,} images differ from it); give an image size to resize to"
        )
    return images, resized


def _room(count: int, shape: tuple[int, ...], first: Path) -> NDArray[np.uint8]:
    """An array for `count` images; asked beforehand because the system promises more than it has."""
    need = count * int(np.prod(shape))
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        memory = 0  # not told on this system
    if memory and need > 0.7 * memory:
        raise DataError(
            f"{count:,} images like '{first}' ({shape[2]}x{shape[1]}) take {need / 2**30:.1f} GiB, more than "
            f"70 % of this machine's {memory / 2**30:.1f} GiB; give a smaller image size or fewer images"
        )
    return np.empty((count, *shape), np.uint8)
