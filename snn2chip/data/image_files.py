"""Images that stay files until they are needed: decoded where they are asked for, or ahead by processes beside."""

from __future__ import annotations

import copy
import os
import signal
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from snn2chip import parallel, processors
from snn2chip.errors import DataError, out_of_memory
from snn2chip.text import first_line

MOST_WORKERS = 16  # a process; each has two parts decoded or in work
MAX_SIDE = 4096
"""Largest `image_size`, in pixels."""


class ImageFiles(Dataset[torch.Tensor]):
    """Images uint8 (N, 3, H, W) of the files `names` (N,), bytes below `base`: indexing along N decodes, as a tensor.

    Grey images become RGB and transparency is dropped. With `image_size` every image is resized to cover that square,
    keeping its proportions, and its middle is cut out; without it all must have the size of the first.

    Raises:
        DataError: `image_size` is out of range; and wherever files are decoded, one is damaged, empty or of another
            size: the message names it.
    """

    dtype, ndim = torch.uint8, 4

    def __init__(self, base: Path, names: NDArray[np.bytes_], image_size: int | None) -> None:
        if image_size is not None and not 1 <= image_size <= MAX_SIDE:
            raise DataError(f"image size {image_size} is outside 1..{MAX_SIDE}; choose a side in pixels, e.g. 64")
        self.base, self.names, self.image_size = base, names, image_size
        self._first = base / os.fsdecode(names[0])
        self._one = (3, image_size, image_size) if image_size else _pixels(self._first, None).shape

    def __len__(self) -> int:
        return len(self.names)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self), *self._one)

    @property
    def nbytes(self) -> int:
        """What they take decoded."""
        return int(np.prod(self.shape))

    def only(self, rows: Any) -> ImageFiles:
        """Those of `rows`, still files."""
        part = copy.copy(self)
        part.names = self.names[np.asarray(rows) if isinstance(rows, torch.Tensor) else rows]
        return part

    def __getitem__(self, rows: Any) -> torch.Tensor:
        names = self.only(rows).names
        images = np.empty((names.size, *self._one), np.uint8)
        for image, name in zip(images, names.flat, strict=True):
            path = self.base / os.fsdecode(name)
            pixels = _pixels(path, self.image_size)
            if pixels.shape != image.shape:
                size, wanted = ("x".join(map(str, shape[:0:-1])) for shape in (pixels.shape, image.shape))
                raise DataError(f"'{path}' is {size} but '{self._first}' is {wanted}; give an image size to resize to")
            image[:] = pixels
        return torch.from_numpy(images.reshape(*names.shape, *self._one))

    def ahead(self, rows: Iterable[Any]) -> Iterator[torch.Tensor]:
        """``self[part]`` for each part of `rows`, in their order, by as many processes as there are processors for.

        Raises:
            DataError: see the class; or one of those processes was ended.
        """
        workers = max(1, min(MOST_WORKERS, processors.threads() // parallel.on_this_machine()))
        loader = DataLoader(
            _Told(self),
            batch_size=None,
            sampler=rows,
            num_workers=workers,
            generator=torch.Generator(),  # of what the workers draw, which is nothing; else torch's own would move
        )
        try:
            with _unheard(), warnings.catch_warnings():
                # from Python 3.12 on, of a fork beside threads: the new process uses none
                warnings.simplefilter("ignore", DeprecationWarning)
                parts = iter(loader)
            for part in parts:
                if isinstance(part, DataError):
                    raise part
                yield part
        except RuntimeError as error:
            if out_of_memory(error) and "shared memory" not in str(error):
                raise
            raise DataError(
                f"a process that decodes images ended: {first_line(error, 200)}; in a container, allow it more shared "
                "memory (--shm-size, --ipc=host)"
            ) from error


class _Told(Dataset["torch.Tensor | DataError"]):
    """What is wrong with a file as a value: raised in a worker, torch would put a traceback into its text."""

    def __init__(self, images: ImageFiles) -> None:
        self.images = images

    def __getitem__(self, rows: Any) -> torch.Tensor | DataError:
        try:
            return self.images[rows]
        except DataError as error:
            return DataError(str(error))


@contextmanager
def _unheard() -> Iterator[None]:
    """Processes that are started inside never hear a Ctrl-C: this one does, afterwards, and ends them."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _pixels(path: Path, image_size: int | None) -> NDArray[np.uint8]:
    """The image of a file, (3, H, W)."""
    from PIL import Image, ImageOps

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
        empty = path.is_file() and not path.stat().st_size
        reason = "it is empty" if empty else " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"cannot decode '{path}': {reason}; replace or remove it") from error
    if image_size is not None and picture.size != (image_size, image_size):
        picture = ImageOps.fit(picture, (image_size, image_size), Image.Resampling.BILINEAR)
    return np.asarray(picture).transpose(2, 0, 1)
