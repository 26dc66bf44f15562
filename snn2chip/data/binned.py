"""Binned recordings of a data set: made once, kept on disk, and mapped into memory from there.

An entry is two files in the cache folder's ``binned``: KEY.npy, frames (N, T, P, H, W) of uint8, and KEY.json, labels
and what was counted while reading. The key is a digest of the settings and of every recording's name, size and times
of change, so that another setting, or a recording that was changed, added or taken away, makes another entry. Old
entries may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snn2chip.data.files import cache_folder
from snn2chip.data.recordings import BinSettings, Events, Faults, Tally, bin_events
from snn2chip.errors import DataError, InputError, out_of_memory, reading
from snn2chip.files import atomic_path, read, write_text

VERSION = 1
"""Of the reading and binning: another one makes other entries."""


@dataclass(frozen=True)
class Item:
    """One labelled recording: a file, a part of one (recording number), or a stretch of one (microseconds)."""

    path: Path
    label: int
    part: int | None = None
    stretch: tuple[int, int] | None = None

    @property
    def name(self) -> str:
        where = f", recording {self.part}" if self.part is not None else ""
        return f"'{self.path}'{where}" + (f", {self.stretch[0]}..{self.stretch[1]} us" if self.stretch else "")


@dataclass(frozen=True, eq=False)
class Binned:
    """Frames (N, T, P, H, W), labels (N,), and what is known of them in words."""

    frames: NDArray[np.uint8]
    labels: NDArray[np.int64]
    notes: str


def key_of(items: Sequence[Item], settings: BinSettings, name: str) -> str:
    """The digest under which the binned recordings are kept; see the module.

    Raises:
        DataError: a recording cannot be looked at.
    """
    files: dict[Path, list[int]] = {}
    for item in items:
        if item.path not in files:
            try:
                found = item.path.stat()
            except OSError as error:
                raise DataError(f"cannot read '{item.path}': {error.strerror or error}; check the file") from error
            files[item.path] = [found.st_size, found.st_mtime_ns, found.st_ctime_ns]
    # names within their folder: the same folder under another path is the same data set
    root = Path(os.path.commonpath([path.parent for path in files])) if files else Path()
    content = {
        "version": VERSION,
        "name": name,
        "settings": settings.as_json(),
        "files": {str(path.relative_to(root)): stamp for path, stamp in files.items()},
        "items": [[str(item.path.relative_to(root)), item.label, item.part, item.stretch] for item in items],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def binned(
    items: Sequence[Item], settings: BinSettings, name: str, read: Callable[[Item], Events], where: str
) -> Binned:
    """The frames of `items`, from the cache or made and kept there; where that cannot be written, in memory.

    Recordings without events are left out and counted.

    Args:
        name: of the data set and split, for the key; the reader that `read` stands for.
        read: one recording's events.
        where: the folder, for messages.

    Raises:
        DataError: a recording cannot be read (named), their sensors differ, or none of them has events.
    """
    folder = cache_folder() / "binned"
    key = key_of(items, settings, name)
    kept = _load(folder / f"{key}.npy", folder / f"{key}.json", len(items), settings)
    if kept is not None:
        return kept
    maker = _Maker(items, settings, read, where)
    try:
        with atomic_path(folder / f"{key}.npy") as part:
            made = maker.run(part)
        write_text(folder / f"{key}.json", json.dumps(maker.as_json()) + "\n")
    except DataError:
        raise
    except InputError:  # no place in the cache
        made = maker.run(None)
    else:
        made = _load(folder / f"{key}.npy", folder / f"{key}.json", len(items), settings) or made
    return made


class _Maker:
    """Reads and bins, one recording at a time."""

    def __init__(
        self, items: Sequence[Item], settings: BinSettings, read: Callable[[Item], Events], where: str
    ) -> None:
        self.items, self.settings, self.read, self.where = items, settings, read, where

    def run(self, target: Path | None) -> Binned:
        """Frames written to `target` as .npy, or into memory."""
        self.tally, self.faults, self.faulty, self.empty = Tally(), Faults(), 0, 0
        self.labels: list[int] = []
        frames: NDArray[np.uint8] | None = None
        sensor, first = None, ""
        for item in self.items:
            events = self.read(item)
            if sensor is None:
                sensor, first = events.sensor, item.name
                shape = (len(self.items), self.settings.timesteps, *self.settings.shape(sensor))
                frames = (
                    np.zeros(shape, np.uint8)
                    if target is None
                    else np.lib.format.open_memmap(target, "w+", np.uint8, shape)
                )
            if events.sensor != sensor:
                raise DataError(
                    f"{item.name} is of a sensor of {events.sensor[1]}x{events.sensor[0]} pixels, {first} of "
                    f"{sensor[1]}x{sensor[0]}; keep one camera's recordings in a data set"
                )
            self.faults += events.faults
            self.faulty += bool(events.faults)
            if not len(events):
                self.empty += 1
                continue
            assert frames is not None
            frames[len(self.labels)] = bin_events(events, self.settings, self.tally)
            self.labels.append(item.label)
        if frames is None or not self.labels:
            raise DataError(f"'{self.where}': none of {len(self.items)} recordings holds an event; check the folder")
        if isinstance(frames, np.memmap):
            frames.flush()
        return Binned(frames[: len(self.labels)], np.array(self.labels, np.int64), self.notes())

    def notes(self) -> str:
        text = f"{self.settings}; {self.tally}"
        if self.empty:
            text += f"; {self.empty:,} recordings without events left out"
        if self.faults:
            text += f"; {self.faulty:,} recordings with faults: {self.faults}"
        return text

    def as_json(self) -> dict[str, Any]:
        return {"labels": self.labels, "notes": self.notes(), "faults": asdict(self.faults)}


def _load(frames_file: Path, said_file: Path, count: int, settings: BinSettings) -> Binned | None:
    """An entry of the cache; None if it is not there or not whole."""
    try:
        said = read(said_file, "JSON")
        labels, notes = np.array(said["labels"], np.int64), str(said["notes"])
        # copy on write: whoever changes the frames changes their own copy
        with reading(frames_file, "no .npy"):
            frames = np.load(frames_file, mmap_mode="c", allow_pickle=False)
    except Exception as error:  # of json or numpy, over a file of any making; it is made again
        if out_of_memory(error):
            raise
        return None
    if frames.dtype != np.uint8 or frames.ndim != 5 or frames.shape[:2] != (count, settings.timesteps):
        return None
    if not 0 < len(labels) <= count:
        return None
    return Binned(frames[: len(labels)], labels, notes)
