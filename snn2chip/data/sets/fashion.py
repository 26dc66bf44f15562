"""Fashion-MNIST: idx files, gzipped or not, found, completed by a download and read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from snn2chip.data.fetch import Download, fetch
from snn2chip.data.files import Arrays, is_file, of_published, read_file, root_folder
from snn2chip.data.sets.parsers import gunzip, idx_array
from snn2chip.errors import DataError

# Debian's package dataset-fashion-mnist.
_SYSTEM_FOLDER = Path("/usr/share/datasets/fashion-mnist")
_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
# The publisher's own sums, of the packed files as published; other packings differ.
_MD5 = {
    "train-images-idx3-ubyte": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte": "bb300cfdad3c16e7a12a480ee83cd310",
}
_COUNT = {"train": 60_000, "test": 10_000}


def find_fashion(data: Path | None) -> Path | None:
    """The folder that holds all four files, None if there is none."""
    return _folder_with(_folders(data), [stem for stems in _FILES.values() for stem in stems])


def read_fashion(split: str, data: Path | None, download: bool) -> Arrays:
    """One split, looked for in `data` only if that is given; completed by a download if need be."""
    stems = _FILES[split]
    home = _home(stems, data, download)
    count = _COUNT[split]
    image_file, label_file = (_idx_file(home, stem) or home / stem for stem in stems)
    images = _idx(image_file, 3, count * 784 + 16)
    labels = _idx(label_file, 1, count + 8)
    if images.shape[1:] != (28, 28):
        raise DataError(
            f"'{image_file}' holds {images.shape[1]}x{images.shape[2]} images, Fashion-MNIST's are 28x28; "
            "it is another data set's file"
        )
    if len(images) != len(labels):
        raise DataError(
            f"'{image_file}' holds {len(images):,} images but '{label_file}' {len(labels):,} labels; "
            "the two files are not of one set, fetch both again"
        )
    if labels.max() > 9:
        first = int(np.flatnonzero(labels > 9)[0])
        raise DataError(
            f"'{label_file}': label {first:,} is {labels[first]}, the largest is 9; the file is damaged or "
            "of another data set"
        )
    source = f"{home}{of_published(len(labels), count)}"
    return images[:, None], labels, _CLASSES, source


def _folders(data: Path | None) -> list[Path]:
    root = root_folder(data)
    folders = [root, root / "fashion-mnist", root / "FashionMNIST" / "raw"]
    if data is None:
        folders.append(_SYSTEM_FOLDER)
    return folders


def _idx_file(folder: Path, stem: str) -> Path | None:
    return next((path for path in (folder / stem, folder / f"{stem}.gz") if is_file(path)), None)


def _folder_with(folders: Sequence[Path], stems: Sequence[str]) -> Path | None:
    return next((folder for folder in folders if all(_idx_file(folder, stem) for stem in stems)), None)


def _home(stems: tuple[str, ...], data: Path | None, download: bool) -> Path:
    """The folder that holds all of `stems`, completed by a download if need be."""
    folders = _folders(data)
    complete = _folder_with(folders, stems)
    if complete is not None:
        return complete
    own = [folder for folder in folders if folder != _SYSTEM_FOLDER]
    # An interrupted download leaves some of the files: go on in that folder.
    home = next((f for f in own if any(_idx_file(f, stem) for stem in stems)), root_folder(data) / "fashion-mnist")
    missing = [stem for stem in stems if _idx_file(home, stem) is None]
    looked = ", ".join(f"'{folder}'" for folder in folders)
    absent = f"Fashion-MNIST is not complete: no {' and no '.join(missing)} (.gz or not) in {looked}"
    if not download:
        raise DataError(f"{absent}; put the published files there or allow the download")
    for stem in missing:
        fetch(Download(f"{_URL}{stem}.gz", f"{stem}.gz", f"md5:{_MD5[stem]}"), home, absent)
    return home


def _idx(path: Path, dims: int, limit: int) -> NDArray[np.uint8]:
    # Deflate can grow data only slightly, so a packed file is held to about the same limit.
    packed = path.suffix == ".gz"
    content = read_file(path, limit + limit // 100 + 1024 if packed else limit)
    return idx_array(gunzip(content, str(path), limit) if packed else content, str(path), dims)
