"""Where data sets are kept, and what their readers share: reading a file, what a reader returns."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snn2chip.errors import DataError

Arrays = tuple[NDArray[np.uint8], NDArray[np.integer[Any]], tuple[str, ...], str]
"""What a reader returns of a split: images (N, C, H, W), labels (N,), class names, source with its counts."""


def cache_folder() -> Path:
    """Where data sets are kept: `SNN2CHIP_DATA` if set, else "data" in the user's cache folder."""
    chosen = os.environ.get("SNN2CHIP_DATA")
    if chosen:
        return Path(chosen).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("snn2chip")) / "data"


def root_folder(data: Path | None) -> Path:
    """The folder to look in: the one given, else the cache."""
    return cache_folder() if data is None else data


def read_file(path: Path, limit: int) -> bytes:
    """The bytes of `path`; DataError if it cannot be read or has more than `limit` bytes."""
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise DataError(f"cannot read '{path}': {error.strerror or error}; check the file") from error
    if len(content) > limit:
        raise DataError(f"'{path}' is larger than {limit:,} bytes, the most it can have; fetch it again")
    return content


def is_file(path: Path) -> bool:
    """Whether `path` is a file that may be seen; a folder without permission counts as empty."""
    try:
        return path.is_file()
    except OSError:
        return False


def is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False


def of_published(count: int, published: int) -> str:
    """What `source` says when only a part of the published images is there."""
    return "" if count == published else f", {count:,} of the {published:,} published images"
