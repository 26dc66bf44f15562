"""Data sets by name, whole splits in memory; of `folder` only those that fit, the others are decoded when needed.

Where a set is looked for, in this order:

- with `data` given: in that folder only; what is not there is downloaded *into* it;
- otherwise in the cache (`SNN2CHIP_DATA`, else the user's cache folder), then where the operating
  system's packages put it, and last it is downloaded from its publisher into the cache.

`digits` come with scikit-learn and need no folder; `folder` is never downloaded. Sets of recordings are in
`snn2chip.data.sets.events`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from snn2chip import parallel, processors
from snn2chip.data.files import Arrays, is_file, is_folder
from snn2chip.data.recordings import BinSettings
from snn2chip.data.sets.cifar import find_cifar, read_cifar
from snn2chip.data.sets.digits import read_digits
from snn2chip.data.sets.events import EVENT_NAMES, OWN_VALIDATION, TONIC, find_events, read_events
from snn2chip.data.sets.fashion import find_fashion, read_fashion
from snn2chip.data.sets.folder import find_images
from snn2chip.errors import DataError, InputError
from snn2chip.text import did_you_mean, one_line

if TYPE_CHECKING:
    import torch

    from snn2chip.data.image_files import ImageFiles

NAMES = ("digits", "fashion-mnist", "cifar10", "cifar100", "folder", *EVENT_NAMES)
PUBLISHED = ("fashion-mnist", "cifar10", "cifar100", *TONIC)
"""Those that can be downloaded."""


@dataclass(frozen=True, eq=False)
class ImageSet:
    """One split of a labelled data set of images, or of recordings of an event camera binned into frames.

    Attributes:
        name: data set and split, e.g. "cifar10:test".
        images: uint8 (N, C, H, W), or (N, T, P, H, W) of events, values 0..max_value; files give the same tensor for
            any rows that are taken of them. `in_parts` goes through either.
        labels: int64 (N,), indexes into `classes`.
        classes: names of the classes.
        max_value: largest value a pixel can have: 255, or 16 for digits; of events the largest count, 1 for spikes.
        source: where it was read from and what is known of it (how many of the published
            images); quote it beside every figure.
        events: how recordings were binned; None for images.
        validation: of a training split, the validation split that the data set itself has.
    """

    name: str
    images: torch.Tensor | ImageFiles
    labels: torch.Tensor
    classes: tuple[str, ...]
    max_value: int
    source: str
    events: BinSettings | None = None
    validation: ImageSet | None = None

    def __post_init__(self) -> None:
        import torch

        axes = (
            "(N, C, H, W)" if self.events is None else f"(N, {self.events.timesteps}, {self.events.polarities}, H, W)"
        )
        if self.images.dtype != torch.uint8 or self.images.ndim != axes.count(",") + 1:
            raise DataError(
                f"{self.name}: images are {self.images.dtype} of shape {tuple(self.images.shape)}; "
                f"they must be uint8 {axes}"
            )
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            raise DataError(
                f"{self.name}: labels are {self.labels.dtype} of shape {tuple(self.labels.shape)}; "
                f"they must be int64 ({len(self.images)},), one per image"
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image, or of one step's frame."""
        channels, height, width = self.images.shape[-3:]
        return channels, height, width

    @property
    def files(self) -> ImageFiles | None:
        """The images, where they are not held in memory."""
        import torch

        return None if isinstance(self.images, torch.Tensor) else self.images

    @property
    def note(self) -> str | None:
        """That images are not held in memory; None if they are."""
        if self.files is None:
            return None
        limit = f"{most_held() / 2**30:,.3g} GiB"
        return f"{self.name}: images are decoded when needed, at most {limit} are held in memory (SNN2CHIP_HOLD)"

    @property
    def edition(self) -> str:
        """What `source` says of how it differs from the published set, without the folder, which means nothing
        elsewhere: "100 of the 10,000 published recordings", or "as published"."""
        part = re.search(r"[\d,]+ of the [\d,]+ published \w+", self.source)
        return part[0] if part else "as published"

    def first_steps(self, timesteps: int) -> ImageSet:
        """Recordings cut to their first time steps; images, which have none, as they are."""
        if self.events is None or timesteps == self.events.timesteps:
            return self
        return replace(self, images=self.images[:][:, :timesteps], events=replace(self.events, timesteps=timesteps))

    def set_aside(self, share: float, seed: int) -> tuple[ImageSet, ImageSet | None]:
        """This set without, and those of, a `share` (below 1) or number of its samples, drawn by `seed`; each in
        the order of this set. For 0 this set as it is, and its `validation`.

        Raises:
            InputError: fewer than one sample is left on either side.
        """
        import torch

        if share == 0:
            return self, self.validation
        count = round(share * len(self)) if share < 1 else int(share)
        if not 0 < count < len(self):
            raise InputError(
                f"data.validation = {share:g} sets {count:,} of the {len(self):,} training samples aside; keep at "
                f"least one on either side"
            )
        drawn = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        what = f"{count:,} of {len(self):,} training samples"

        def part(rows: torch.Tensor, name: str, of: str) -> ImageSet:
            return self._only(rows, name, f"{self.source}, {of} {what}")

        aside = part(drawn[:count].sort().values, f"{self.name.partition(':')[0]}:validation", "the")
        return part(drawn[count:].sort().values, self.name, "without"), aside

    def require_classes(self, outputs: int) -> None:
        """Refuse to compare the labels with the decisions of a network of fewer `outputs` than they name classes.

        Raises:
            DataError: a label is no output.
        """
        if len(self) and (most := int(self.labels.max())) >= outputs:
            raise DataError(
                f"{self.name} has labels up to {most}, but the network has {outputs} outputs; choose the data set it "
                f"was trained on"
            )

    def subset(self, limit: int | None) -> ImageSet:
        """The first `limit` images (all for None or more than there are); `source` says so.

        Image folders are stored class by class in turn, so that the first images hold all classes.
        """
        if limit is None or limit >= len(self):
            return self
        if limit < 1:
            raise InputError(f"{self.name}: a subset of {limit} images is empty; ask for 1 or more")
        source = f"{self.source}, first {limit:,} of {len(self):,} images"
        return self._only(slice(limit), self.name, source)

    def in_parts(self, size: int, of: slice | None = None) -> Iterator[tuple[slice, torch.Tensor]]:
        """The images, or those `of` a range, `size` after `size`, each part with where it is; files are decoded ahead.

        Raises:
            DataError: see `snn2chip.data.image_files.ImageFiles`.
        """
        start, stop, _ = (of or slice(None)).indices(len(self))
        parts = [slice(first, min(first + size, stop)) for first in range(start, stop, size)]
        found = (self.images[part] for part in parts) if self.files is None else self.files.ahead(parts)
        return zip(parts, found, strict=True)

    def held(self) -> ImageSet:
        """This set in memory, if it fits there (`most_held`)."""
        if self.files is None or self.files.nbytes > most_held():
            return self
        return replace(self, images=self.files[:])

    def _only(self, rows: slice | torch.Tensor, name: str, source: str) -> ImageSet:
        images = self.images[rows] if self.files is None else self.files.only(rows)
        return replace(self, name=name, images=images, labels=self.labels[rows], source=source)


def most_held() -> float:
    """Bytes of decoded images that a split of a folder may take in memory: `SNN2CHIP_HOLD` in GiB (0: none), or a
    quarter of what this process has, a part of that where several share the machine.

    Raises:
        DataError: SNN2CHIP_HOLD is no such number.
    """
    chosen = os.environ.get("SNN2CHIP_HOLD")
    if not chosen:
        return processors.memory() / 4 / parallel.on_this_machine()
    try:
        limit = float(chosen) * 2**30
    except ValueError:
        limit = -1
    if not limit >= 0:
        raise DataError(f"SNN2CHIP_HOLD is '{one_line(chosen)}'; give 0 or more, in GiB")
    return limit


def parse_spec(spec: str, default_split: str = "test") -> tuple[str, str]:
    """Read ``NAME[:SPLIT]``, e.g. "digits" or "cifar10:train", as (name, split).

    Raises:
        DataError: no such data set, or it has no such split.
    """
    name, colon, split = spec.partition(":")
    if colon and not split:
        raise DataError(f"data set '{spec}': nothing after the colon; write {name}:train or {name}:test")
    return _known(name, split or default_split)


def load(
    name: str,
    split: str = "train",
    data: Path | None = None,
    *,
    download: bool = True,
    image_size: int | None = None,
    events: BinSettings | None = None,
) -> ImageSet:
    """Load one split of the data set `name` (see `NAMES`) into memory; a folder that does not fit stays files.

    Args:
        split: "train" or "test"; folders and ssc also know "val". Folders take val and test for each other.
        data: folder to read from; the only one that is looked at (see the module). Digits need none, but it must be
            there.
        download: may fetch from the publisher what is not found.
        image_size: side in pixels to which an image folder is resized; the other sets have one size.
        events: how recordings are binned: needed by sets of event cameras, and by no others.

    Raises:
        DataError: unknown name or split, or files missing, damaged, truncated or impossible to download;
            the message names the file, the reason and what to do.
    """
    name, split = _known(name, split)
    if data is not None:
        data = Path(data).expanduser()
        if not is_folder(data):
            fault = "is a file; name the folder it is in" if is_file(data) else "does not exist; create it"
            named = "; a data set's name goes to --dataset" if str(data).partition(":")[0] in NAMES else ""
            raise DataError(f"data folder '{data}' {fault}, or leave it out to use the cache{named}")
    if (events is None) == (name in EVENT_NAMES):
        fault = (
            "holds recordings, but how to bin them is not said" if events is None
            else "holds images, but binned recordings are asked for"
        )  # fmt: skip
        raise DataError(f"data set '{name}' {fault}; name another data set, or see [data.events] of a recipe")
    if events is not None:
        loaded = _events(name, split, data, download, events)
        if name in OWN_VALIDATION and split == "train":
            return replace(loaded, validation=_events(name, "val", data, download, events))
        return loaded
    if name == "folder":
        if data is None:
            raise DataError("data set 'folder' needs its folder: --data DIR with DIR/train/CLASS/*.jpg")
        try:
            return _folder(data, split, image_size)
        except OSError as error:
            raise DataError(f"cannot read '{error.filename or data}': {error.strerror or error}") from error
    if name == "digits":
        loaded = _pack(f"digits:{split}", read_digits(split), 16)
    elif name == "fashion-mnist":
        loaded = _pack(f"fashion-mnist:{split}", read_fashion(split, data, download), 255)
    else:
        loaded = _pack(f"{name}:{split}", read_cifar(name, split, data, download), 255)
    if image_size is not None and loaded.shape[1:] != (image_size, image_size):
        raise DataError(
            f"{loaded.name}: images are {loaded.shape[1]}x{loaded.shape[2]}, image size {image_size} is not "
            "possible; only image folders are resized"
        )
    return loaded


def at_hand(
    name: str | None,
    split: str,
    data: Path | None,
    limit: int,
    *,
    image_size: int | None = None,
    events: BinSettings | None = None,
) -> tuple[ImageSet | None, str]:
    """Up to `limit` images if the data set is there without a download, or None and why.

    Raises:
        DataError: it is not in the folder `data`; and what `load` raises.
    """
    if not name:
        return None, "the model names no data set, which `fold-and-export --dataset NAME` does"
    try:
        found = load(name, split, data, download=False, image_size=image_size, events=events)
        return found.subset(limit).held(), ""
    except DataError as error:
        if data is not None:
            raise
        return None, str(error)


def test_set(made: dict[str, Any], spec: str | None, data: Path | None) -> ImageSet:
    """The images that a network is tested on, by what its file says of how it was made, or those of `spec`.

    Raises:
        InputError: there is no `spec`, and the file names no data set.
        DataError: see `load`.
    """
    if spec is None and not made.get("dataset"):
        raise InputError("the file names no data set; give --dataset NAME[:split] or --input FILE.npz")
    name, split = (str(made["dataset"]), "test") if spec is None else parse_spec(spec)
    events = None if made.get("events") is None else BinSettings.from_json(made["events"])
    return load(name, split, data, image_size=made.get("image_size"), events=events)


def available(data: Path | None = None) -> list[tuple[str, str | None]]:
    """Each data set with where both of its splits are found without downloading, or None.

    Looks for files only and reads none of them.
    """
    places: dict[str, Path | str | None] = {
        "digits": "scikit-learn" if find_spec("sklearn") else None,
        "fashion-mnist": find_fashion(data),
        "cifar10": find_cifar("cifar10", data),
        "cifar100": find_cifar("cifar100", data),
        "folder": data if data is not None and is_folder(data / "train") else None,
        **{name: find_events(name, data) for name in EVENT_NAMES if name != "event-folder"},
        "event-folder": data if data is not None and is_folder(data / "train") else None,
    }
    return [(name, str(where) if where else None) for name, where in places.items()]


def _known(name: str, split: str) -> tuple[str, str]:
    if name not in NAMES:
        raise DataError(f"no data set '{name}'; {did_you_mean(name, NAMES)}known are {', '.join(NAMES)}")
    splits = ("train", "val", "test") if name in ("folder", "event-folder", *OWN_VALIDATION) else ("train", "test")
    if split not in splits:
        raise DataError(f"data set '{name}' has no split '{split}'; it has {', '.join(splits)}")
    return name, split


def _folder(data: Path, split: str, image_size: int | None) -> ImageSet:
    import torch

    from snn2chip.data.image_files import ImageFiles

    found = find_images(data, split)
    source = found.source + (f", resized to {image_size}x{image_size} where they differ" if image_size else "")
    images, labels = ImageFiles(found.base, found.names, image_size), torch.from_numpy(found.labels)
    return ImageSet(f"folder:{split}", images, labels, found.classes, 255, source).held()


def _events(name: str, split: str, data: Path | None, download: bool, settings: BinSettings) -> ImageSet:
    if name == "event-folder" and data is None:
        raise DataError("data set 'event-folder' needs its folder: --data DIR with DIR/train/CLASS/*.bin")
    try:
        arrays = read_events(name, split, data, download, settings)
    except OSError as error:
        raise DataError(f"cannot read '{error.filename or data}': {error.strerror or error}") from error
    return _pack(f"{name}:{split}", arrays, settings.max_count, settings)


def _pack(name: str, arrays: Arrays, max_value: int, events: BinSettings | None = None) -> ImageSet:
    import torch

    images, labels, classes, source = arrays
    if not images.flags.writeable or not images.flags.c_contiguous:
        images = np.array(images, order="C")
    return ImageSet(
        name, torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64)), classes, max_value, source, events
    )
