"""CIFAR-10 and CIFAR-100 in their binary layout: found, unpacked or downloaded, and read."""

from __future__ import annotations

import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from snn2chip.data.fetch import Download, fetch
from snn2chip.data.files import Arrays, is_file, of_published, read_file, root_folder
from snn2chip.data.sets.parsers import CIFAR_PIXELS, cifar_records, looks_like_jpeg
from snn2chip.errors import DataError, InputError
from snn2chip.files import atomic_path

_CLASSES_10 = """
    airplane automobile bird cat deer dog frog horse ship truck
"""
_CLASSES_100 = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly
    camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup
    dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower
    leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid
    otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray
    road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
    sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
    wardrobe whale willow_tree wolf woman worm
"""


@dataclass(frozen=True)
class _Kind:
    """One of the two CIFAR sets in its published binary layout."""

    title: str
    folder: str
    files: dict[str, tuple[str, ...]]
    per_file: dict[str, int]
    labels: tuple[tuple[str, int], ...]
    classes: tuple[str, ...]
    archive: Download
    python_folder: str


KINDS = {
    "cifar10": _Kind(
        title="CIFAR-10",
        folder="cifar-10-batches-bin",
        files={
            "train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
            "test": ("test_batch.bin",),
        },
        per_file={"train": 10_000, "test": 10_000},
        labels=(("label", 10),),
        classes=tuple(_CLASSES_10.split()),
        archive=Download(
            "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
            "cifar-10-binary.tar.gz",
            "md5:c32a1d4ab5d03f1284b67883e8d87530",
        ),
        python_folder="cifar-10-batches-py",
    ),
    "cifar100": _Kind(
        title="CIFAR-100",
        folder="cifar-100-binary",
        files={"train": ("train.bin",), "test": ("test.bin",)},
        per_file={"train": 50_000, "test": 10_000},
        labels=(("coarse label", 20), ("fine label", 100)),
        classes=tuple(_CLASSES_100.split()),
        archive=Download(
            "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
            "cifar-100-binary.tar.gz",
            "md5:03b5dce01913d631647c71ecec9e9cb8",
        ),
        python_folder="cifar-100-python",
    ),
}


def find_cifar(name: str, data: Path | None) -> Path | None:
    """The folder that holds both splits, else the archive to unpack, else None."""
    kind, root = KINDS[name], root_folder(data)
    files = [file for part in kind.files.values() for file in part]
    return _folder_with(_folders(kind, root), files) or _archive(kind, root)


def read_cifar(name: str, split: str, data: Path | None, download: bool) -> Arrays:
    """One split of "cifar10" or "cifar100", looked for in `data` or the cache."""
    kind = KINDS[name]
    home = _home(kind, split, root_folder(data), download)
    published = kind.per_file[split]
    limit = published * (CIFAR_PIXELS + len(kind.labels))
    parts = [
        cifar_records(
            # More than allowed, so that the parser can say how the size is wrong; not without end.
            read_file(home / file, 2 * limit),
            str(home / file),
            labels=kind.labels,
            limit=published,
        )
        for file in kind.files[split]
    ]
    images = np.concatenate([part[0] for part in parts])
    labels = np.concatenate([part[1] for part in parts])
    jpeg = " (JPEG)" if looks_like_jpeg(images) else ""
    source = f"{home}{jpeg}{of_published(len(labels), published * len(parts))}"
    return images, labels, kind.classes, source


def _folders(kind: _Kind, root: Path) -> list[Path]:
    return [root / kind.folder, root]


def _folder_with(folders: list[Path], files: list[str]) -> Path | None:
    return next((folder for folder in folders if all(is_file(folder / file) for file in files)), None)


def _archive(kind: _Kind, root: Path) -> Path | None:
    path = root / kind.archive.file
    return path if is_file(path) else None


def _home(kind: _Kind, split: str, root: Path, download: bool) -> Path:
    """The folder that holds all files of `split`, unpacking or downloading the archive if need be."""
    wanted = list(kind.files[split])
    folders = _folders(kind, root)
    home = _folder_with(folders, wanted)
    if home is not None:
        return home
    archive = _archive(kind, root)
    if archive is None:
        for folder in folders:
            missing = [file for file in wanted if not is_file(folder / file)]
            if len(missing) < len(wanted):
                raise DataError(
                    f"'{folder}' is incomplete: {', '.join(missing)} missing of {kind.title}'s {split} "
                    f"split; unpack {kind.archive.file} again"
                )
        pickles = next((p for p in (root / kind.python_folder, root) if _has_pickles(kind, p)), None)
        note = f" ('{pickles}' holds the Python version, which is not read)" if pickles else ""
        absent = (
            f"{kind.title} not found{note}: no {', '.join(wanted)} in '{root}' or '{folders[0]}', "
            f"no '{root / kind.archive.file}'"
        )
        if not download:
            raise DataError(f"{absent}; put the binary version there or allow the download")
        archive = fetch(kind.archive, root, absent)
    _extract(archive, kind, root / kind.folder)
    return root / kind.folder


def _has_pickles(kind: _Kind, folder: Path) -> bool:
    first = "data_batch_1" if kind.python_folder.endswith("-py") else "train"
    return folder.name == kind.python_folder and is_file(folder / first)


def _extract(archive: Path, kind: _Kind, target: Path) -> None:
    """Write the archive's batch files to `target`, each whole or not at all.

    Members are chosen by their file name and written under our own, so no path in the archive counts.
    """
    missing = {file: kind.per_file[split] for split, files in kind.files.items() for file in files}
    try:
        with tarfile.open(archive, "r:*") as tar:
            for member in tar:
                file = member.name.rpartition("/")[2]
                if file not in missing or not member.isreg():
                    continue
                limit = missing[file] * (CIFAR_PIXELS + len(kind.labels))
                if member.size > limit:
                    raise DataError(
                        f"'{archive}': {file} has {member.size:,} bytes, the published one at most "
                        f"{limit:,}; fetch {kind.archive.url} again"
                    )
                stream = tar.extractfile(member)
                content = stream.read() if stream else b""
                if len(content) != member.size:
                    raise EOFError(f"{file} stops early")
                with atomic_path(target / file) as part:
                    part.write_bytes(content)
                del missing[file]
    except InputError:
        raise
    except (tarfile.TarError, EOFError, zlib.error, OSError, ValueError, OverflowError) as error:
        raise DataError(
            f"'{archive}' cannot be unpacked ({' '.join(str(error).split())}): it is truncated or damaged; "
            f"delete it and fetch {kind.archive.url} again"
        ) from error
    if missing:
        raise DataError(
            f"'{archive}' holds no {', '.join(missing)}; it is not the binary version, fetch {kind.archive.url}"
        )
