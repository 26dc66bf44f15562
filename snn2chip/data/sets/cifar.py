"""CIFAR-10 and CIFAR-100, binary or as torchvision keeps them: found, unpacked or downloaded, and read."""

from __future__ import annotations

import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from snn2chip.data.fetch import Download, fetch
from snn2chip.data.files import Arrays, is_file, of_published, read_file, root_folder
from snn2chip.data.sets.parsers import CIFAR_PIXELS, cifar_records
from snn2chip.data.sets.pickled import cifar_pickle
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
class _Layout:
    """One of the two published versions: its folder, the files of a split, and in pickles the keys of the labels."""

    folder: str
    files: dict[str, tuple[str, ...]]
    keys: tuple[str, ...] = ()

    def places(self, root: Path) -> list[Path]:
        """Where to look; the pickles' names, such as "test", say nothing in a folder of another name."""
        return [root / self.folder, *([root] if not self.keys or root.name == self.folder else [])]


@dataclass(frozen=True)
class _Kind:
    """One of the two CIFAR sets; `layouts` are looked for in turn, `archive` is of the first."""

    title: str
    layouts: tuple[_Layout, _Layout]
    per_file: dict[str, int]
    labels: tuple[tuple[str, int], ...]
    classes: tuple[str, ...]
    archive: Download


KINDS = {
    "cifar10": _Kind(
        title="CIFAR-10",
        layouts=(
            _Layout(
                "cifar-10-batches-bin",
                {"train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test": ("test_batch.bin",)},
            ),
            _Layout(
                "cifar-10-batches-py",
                {"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)},
                ("labels",),
            ),
        ),
        per_file={"train": 10_000, "test": 10_000},
        labels=(("label", 10),),
        classes=tuple(_CLASSES_10.split()),
        archive=Download(
            "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
            "cifar-10-binary.tar.gz",
            "md5:c32a1d4ab5d03f1284b67883e8d87530",
        ),
    ),
    "cifar100": _Kind(
        title="CIFAR-100",
        layouts=(
            _Layout("cifar-100-binary", {"train": ("train.bin",), "test": ("test.bin",)}),
            _Layout("cifar-100-python", {"train": ("train",), "test": ("test",)}, ("coarse_labels", "fine_labels")),
        ),
        per_file={"train": 50_000, "test": 10_000},
        labels=(("coarse label", 20), ("fine label", 100)),
        classes=tuple(_CLASSES_100.split()),
        archive=Download(
            "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
            "cifar-100-binary.tar.gz",
            "md5:03b5dce01913d631647c71ecec9e9cb8",
        ),
    ),
}
_NAMED = 256  # bytes of a pickle for every record's label and file name


def find_cifar(name: str, data: Path | None) -> Path | None:
    """The folder that holds both splits, else the archive to unpack, else None."""
    kind, root = KINDS[name], root_folder(data)
    found = _found(kind, root, ("train", "test"))
    return found[0] if found else _archive(kind, root)


def read_cifar(name: str, split: str, data: Path | None, download: bool) -> Arrays:
    """One split of "cifar10" or "cifar100", looked for in `data` or the cache."""
    kind = KINDS[name]
    home, layout = _home(kind, split, root_folder(data), download)
    published = kind.per_file[split]
    # More than allowed, so that the parser can say how the size is wrong; not without end.
    limit = 2 * published * (CIFAR_PIXELS + len(kind.labels) + (_NAMED if layout.keys else 0))
    parts = []
    for file in layout.files[split]:
        content, where = read_file(home / file, limit), str(home / file)
        if layout.keys:
            content = cifar_pickle(content, where, layout.keys, published)
        parts.append(cifar_records(content, where, labels=kind.labels, limit=published))
    images = np.concatenate([part[0] for part in parts])
    labels = np.concatenate([part[1] for part in parts])
    return images, labels, kind.classes, f"{home}{of_published(len(labels), published * len(parts))}"


def _found(kind: _Kind, root: Path, splits: tuple[str, ...]) -> tuple[Path, _Layout] | None:
    """The first folder that holds all files of the splits."""
    for layout in kind.layouts:
        wanted = [file for split in splits for file in layout.files[split]]
        for folder in layout.places(root):
            if all(is_file(folder / file) for file in wanted):
                return folder, layout
    return None


def _archive(kind: _Kind, root: Path) -> Path | None:
    path = root / kind.archive.file
    return path if is_file(path) else None


def _home(kind: _Kind, split: str, root: Path, download: bool) -> tuple[Path, _Layout]:
    """The folder that holds all files of `split`, unpacking or downloading the archive if need be."""
    found = _found(kind, root, (split,))
    if found is not None:
        return found
    archive, binary = _archive(kind, root), kind.layouts[0]
    if archive is None:
        for layout in kind.layouts:
            for folder in layout.places(root):
                missing = [file for file in layout.files[split] if not is_file(folder / file)]
                if len(missing) < len(layout.files[split]):
                    raise DataError(
                        f"'{folder}' is incomplete: {', '.join(missing)} missing of {kind.title}'s {split} "
                        f"split; unpack its archive again"
                    )
        absent = (
            f"{kind.title} not found: no {', '.join(binary.files[split])} in '{root}' or '{root / binary.folder}', no "
            f"'{root / kind.layouts[1].folder}', no '{root / kind.archive.file}'"
        )
        if not download:
            raise DataError(f"{absent}; put one of them there or allow the download")
        archive = fetch(kind.archive, root, absent)
    _extract(archive, kind, root / binary.folder)
    return root / binary.folder, binary


def _extract(archive: Path, kind: _Kind, target: Path) -> None:
    """Write the archive's batch files to `target`, each whole or not at all.

    Members are chosen by their file name and written under our own, so no path in the archive counts.
    """
    missing = {file: kind.per_file[split] for split, files in kind.layouts[0].files.items() for file in files}
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
