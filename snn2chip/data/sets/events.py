"""Data sets of event cameras: found, downloaded with Tonic, and listed as labelled recordings.

nmnist         NMNIST/{Train,Test}/DIGIT/*.bin, as published (Orchard et al. 2015)
dvs-gesture    as published (Amir et al. 2017: DvsGesture/*.aedat, their *_labels.csv and trials_to_train.txt), or
               as Tonic cuts it (DVSGesture/ibmGestureTrain/USER/LABEL.npy, times in milliseconds)
cifar10-dvs    CIFAR10DVS/CLASS/*.aedat4, or *.aedat (Li et al. 2017); no split is published: here the first nine
               tenths of every class, by number, train and the rest test
letters        letters/events.npz or events.npz: x, y, p, t_us, offsets, label, class_names; here the first
               recording of every class trains and the others test
shd, ssc       SHD/shd_{train,test}.h5, SSC/ssc_{train,valid,test}.h5, as published but unpacked (Cramer et al. 2022):
               `snn2chip.data.sets.spoken`
event-folder   ROOT/train/CLASS/*.bin|.npz|.aedat|.aedat4, and ROOT/test or ROOT/val beside it
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from snn2chip import npz
from snn2chip.data.binned import Item, binned
from snn2chip.data.files import Arrays, is_file, is_folder, of_published, root_folder
from snn2chip.data.recordings import SUFFIXES, BinSettings, Events, Sensor, make_events, read_recording
from snn2chip.data.recordings.files import counter_period
from snn2chip.data.sets.folder import class_names, in_turn, split_folder
from snn2chip.errors import DataError, SetupError, out_of_memory, reading

EVENT_NAMES = ("nmnist", "dvs-gesture", "cifar10-dvs", "letters", "shd", "ssc", "event-folder")
OWN_VALIDATION = ("ssc",)
"""Sets that are published with a split to validate on."""

NMNIST_SENSOR, DVS128, LETTERS_SENSOR = (34, 34), (128, 128), (32, 32)

GESTURES = (
    "hand clapping", "right hand wave", "left hand wave", "right arm clockwise", "right arm counter clockwise",
    "left arm clockwise", "left arm counter clockwise", "arm roll", "air drums", "air guitar", "other gestures",
)  # fmt: skip
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_PUBLISHED = {
    ("nmnist", "train"): 60_000,
    ("nmnist", "test"): 10_000,
    ("cifar10-dvs", "train"): 9_000,
    ("cifar10-dvs", "test"): 1_000,
    ("shd", "train"): 8_156,
    ("shd", "test"): 2_264,
    ("ssc", "train"): 75_466,
    ("ssc", "val"): 9_981,
    ("ssc", "test"): 20_382,
}


@dataclass(frozen=True)
class Listing:
    """The recordings of a split, classes in turn, and how one is read."""

    items: Sequence[Item]
    classes: tuple[str, ...]
    read: Callable[[Item], Events]


def read_events(name: str, split: str, data: Path | None, download: bool, settings: BinSettings) -> Arrays:
    """One split as frames (N, T, P, H, W), labels, class names and the source with its counts.

    Raises:
        DataError: not found, or a recording that cannot be used, named; see `snn2chip.data.binned`.
        SetupError: a format or the download needs the optional extra `events`.
    """
    root = root_folder(data)
    home = _find(name, root, split)
    if home is None:
        absent = f"{name} not found in '{root}': no {_LAYOUTS[name]}"
        if not download or name not in TONIC:
            raise DataError(f"{absent}; put it there, or name a folder that holds it with --data")
        _download(name, root, split, absent)
        home = _find(name, root, split)
        if home is None:
            raise DataError(f"{absent}, also after Tonic's download; unpack it there by hand")
    listing = _LISTERS[name](home, split, settings)
    if not listing.items:
        raise DataError(f"'{home}' holds no recordings of {name}'s {split} split; expected {_LAYOUTS[name]}")
    made = binned(listing.items, settings, f"{name}:{split}", listing.read, str(home))
    published = _PUBLISHED.get((name, split), len(listing.items))
    part = of_published(len(listing.items), published).replace("images", "recordings")
    if not part:
        part = f", {len(listing.items):,} recordings"
    return made.frames, made.labels, listing.classes, f"{home}{part}; {made.notes}"


def find_events(name: str, data: Path | None) -> Path | None:
    """Where both splits of a set are, without downloading, or None."""
    root = root_folder(data)
    found = [_find(name, root, split) for split in ("train", "test")]
    return found[0] if all(found) else None


# ------------------------------------------------------------------------------------------------- finding


def _spoken_file(name: str, split: str) -> str:
    return f"{name}_{'valid' if split == 'val' else split}.h5"


def _find(name: str, root: Path, split: str) -> Path | None:
    """The first folder that holds a split, told by what is in it."""
    part, own = split.capitalize(), root / name.upper()
    cut, trials, words = f"ibmGesture{part}", f"trials_to_{split}.txt", _spoken_file(name, split)
    places: dict[str, list[tuple[Path, str]]] = {
        "nmnist": [(root / "NMNIST" / part, ""), (root / "N-MNIST" / part, ""), (root / part, "")],
        "dvs-gesture": [
            (root / "DvsGesture", trials),
            (root, trials),
            (root / "DVSGesture" / cut, ""),
            (root / cut, ""),
        ],
        "cifar10-dvs": [(root / "CIFAR10DVS", "airplane"), (root, "airplane")],
        "letters": [(root / "letters", "events.npz"), (root, "events.npz")],
        "event-folder": [(root, "")],  # which folder is missing, its listing says
    }
    spoken = [
        (own / own.name, words),
        (own, words),
        (root, words),
    ]  # Tonic makes a folder in the folder for one of them
    for home, held in places.get(name, spoken):
        if is_file(home / held) if "." in held else is_folder(home / held):
            return home
    return None


_LAYOUTS = {
    "nmnist": "NMNIST/Train/0/*.bin",
    "dvs-gesture": "DvsGesture/trials_to_train.txt or DVSGesture/ibmGestureTrain",
    "cifar10-dvs": "CIFAR10DVS/airplane/*.aedat4",
    "letters": "letters/events.npz",
    "shd": "SHD/shd_train.h5 and shd_test.h5, unpacked",
    "ssc": "SSC/ssc_train.h5, ssc_valid.h5 and ssc_test.h5, unpacked",
    "event-folder": "train/CLASS/*.bin",
}
TONIC = {"nmnist": "NMNIST", "dvs-gesture": "DVSGesture", "cifar10-dvs": "CIFAR10DVS", "shd": "SHD", "ssc": "SSC"}


def _download(name: str, root: Path, split: str, absent: str) -> None:
    """Fetch and unpack a published set with Tonic, which checks its checksum."""
    try:
        import tonic.datasets
    except ImportError:
        raise SetupError(
            f"{absent}; put it there, or install the library that downloads it: pip install 'snn2chip[events]'"
        ) from None
    options: dict[str, str | bool] = {} if name == "cifar10-dvs" else {"train": split == "train"}
    if name == "ssc":
        options = {"split": "valid" if split == "val" else split}
    try:
        root.mkdir(parents=True, exist_ok=True)
        getattr(tonic.datasets, TONIC[name])(save_to=str(root), **options)
    except Exception as error:  # of urllib, zipfile, tarfile, or a wrong checksum as a RuntimeError
        if out_of_memory(error):
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{absent}; Tonic's download failed ({reason}): fetch it by hand and put it there") from error


# ------------------------------------------------------------------------------------------------- listing


def _number(path: Path) -> tuple[int, str]:
    """Sorts image_2 before image_10."""
    digits = re.findall(r"\d+", path.stem)
    return int(digits[-1]) if digits else 0, path.name


def _plain(sensor: Sensor | None) -> Callable[[Item], Events]:
    return lambda item: read_recording(item.path, sensor)


def _list_nmnist(home: Path, _split: str, _settings: BinSettings) -> Listing:
    by_class = [[Item(path, digit) for path in sorted((home / str(digit)).glob("*.bin"))] for digit in range(10)]
    return Listing(in_turn(by_class), tuple(str(digit) for digit in range(10)), _plain(NMNIST_SENSOR))


def _list_gesture(home: Path, split: str, _settings: BinSettings) -> Listing:
    by_class: list[list[Item]] = [[] for _ in GESTURES]
    if not is_file(home / f"trials_to_{split}.txt"):
        for path in sorted(home.glob("*/*.npy")):
            if not path.stem.isdigit() or int(path.stem) >= len(GESTURES):
                raise DataError(f"'{path}': a gesture's file is named 0.npy to {len(GESTURES) - 1}.npy; remove it")
            by_class[int(path.stem)].append(Item(path, int(path.stem)))
        return Listing(in_turn(by_class), GESTURES, _read_cut_gesture)
    for line in (home / f"trials_to_{split}.txt").read_text(encoding="utf-8").split():
        path = home / line
        for label, start, stop in _trials(path.with_name(f"{path.stem}_labels.csv")):
            by_class[label].append(Item(path, label, stretch=(start, stop)))
    return Listing(in_turn(by_class), GESTURES, _read_stretch)


def _trials(path: Path) -> list[tuple[int, int, int]]:
    """(label, first, last microsecond) of the trials in a recording of DVS Gesture."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [[int(cell) for cell in row[:3]] for row in list(csv.reader(file))[1:] if row]
    except (OSError, ValueError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read '{path}': {' '.join(str(error).split())}; fetch the data set again") from error
    for row in rows:
        if len(row) != 3 or not 1 <= row[0] <= len(GESTURES) or row[1] >= row[2]:
            raise DataError(f"'{path}': {row} is not class 1..{len(GESTURES)}, start and end in microseconds")
    return [(label - 1, start, stop) for label, start, stop in rows]


@lru_cache(maxsize=1)
def _recording_with_trials(path: Path) -> Events:
    return read_recording(path, DVS128)


def _read_stretch(item: Item) -> Events:
    whole = _recording_with_trials(item.path)
    assert item.stretch is not None
    start, stop = np.searchsorted(whole.t, item.stretch)
    return replace(whole.part(int(start), int(stop)), source=item.name)


def _read_cut_gesture(item: Item) -> Events:
    """Tonic's .npy: rows of x, y, p and milliseconds."""
    with reading(item.path, "no .npy", error=DataError, remedy="fetch the data set again"):
        rows = np.load(item.path, mmap_mode="r", allow_pickle=False)  # so no larger than its file
    if not isinstance(rows, np.ndarray) or rows.ndim != 2 or rows.shape[1] != 4 or rows.dtype.kind not in "iuf":
        raise DataError(f"'{item.path}' is not of shape (n, 4): x, y, p, milliseconds")
    if not (np.abs(rows) < 2**50).all():  # NaN neither
        raise DataError(f"'{item.path}' holds values that are no pixels and no times; fetch the data set again")
    x, y, p, t = rows.T
    return make_events(x, y, p, (t * 1000).astype(np.int64), DVS128, str(item.path))


def _list_cifar(home: Path, split: str, _settings: BinSettings) -> Listing:
    by_class = []
    for label, name in enumerate(CIFAR10):
        files = sorted((path for path in (home / name).glob("*") if path.suffix in (".aedat4", ".aedat")), key=_number)
        cut = round(0.9 * len(files))
        by_class.append([Item(path, label) for path in (files[:cut] if split == "train" else files[cut:])])
    return Listing(in_turn(by_class), CIFAR10, _plain(DVS128))


@lru_cache(maxsize=1)
def _letters(path: Path, _stamp: tuple[int, int]) -> dict[str, NDArray[np.generic]]:
    names = ("x", "y", "p", "t_us", "offsets", "label", "class_names")
    arrays = npz.load(path, names, error=DataError)
    missing = [name for name in names if name not in arrays]
    if missing:
        raise DataError(f"'{path}' has no array '{missing[0]}'; expected {', '.join(names)}")
    for name in names[:-1]:
        found = arrays[name]
        if found.ndim != 1 or found.dtype.kind not in "iub":
            raise DataError(f"'{path}': '{name}' is {found.dtype} of shape {found.shape}; expected integers (n,)")
    offsets, count = arrays["offsets"], len(arrays["label"])
    sound = len(offsets) == count + 1 and not (np.diff(offsets) < 0).any() and offsets[0] == 0
    if not sound or any(len(arrays[name]) != offsets[-1] for name in ("x", "y", "p", "t_us")):
        raise DataError(f"'{path}': its offsets do not fit its {count} labels and {len(arrays['x']):,} events")
    if arrays["class_names"].ndim != 1 or not count:
        raise DataError(f"'{path}': {count} labels, names of classes of shape {arrays['class_names'].shape}")
    least, most = int(arrays["label"].min()), int(arrays["label"].max())
    if least < 0 or most >= len(arrays["class_names"]):
        raise DataError(f"'{path}': labels {least}..{most} of {len(arrays['class_names'])} classes")
    return arrays


def _list_letters(home: Path, split: str, _settings: BinSettings) -> Listing:
    path = home / "events.npz"
    stamp = path.stat()
    arrays = _letters(path, (stamp.st_size, stamp.st_mtime_ns))
    classes = tuple(str(name) for name in arrays["class_names"])
    by_class: list[list[Item]] = [[] for _ in classes]
    for part, label in enumerate(arrays["label"].tolist()):
        by_class[label].append(Item(path, label, part))
    by_class = [items[:1] if split == "train" else items[1:] for items in by_class]
    period = counter_period(arrays["t_us"])

    def read(item: Item) -> Events:
        assert item.part is not None
        part = slice(int(arrays["offsets"][item.part]), int(arrays["offsets"][item.part + 1]))
        x, y, p, t = (arrays[name][part] for name in ("x", "y", "p", "t_us"))
        return make_events(x, y, p, t, LETTERS_SENSOR, item.name, period=period)

    return Listing(in_turn(by_class), classes, read)


def _list_spoken(name: str, home: Path, split: str, settings: BinSettings) -> Listing:
    from snn2chip.data.sets.spoken import Spoken  # h5py is slow to load

    if settings.polarities != 1:
        raise DataError(f"{name}: its events have no polarity; give polarities = 1 in [data.events]")
    path = home / _spoken_file(name, split)
    file = Spoken(path)
    by_class: list[list[Item]] = [[] for _ in file.classes]
    for part, label in enumerate(file.labels.tolist()):
        by_class[label].append(Item(path, label, part))

    def read(item: Item) -> Events:
        assert item.part is not None
        return file.recording(item.part, item.name)

    return Listing(in_turn(by_class), file.classes, read)


def _list_folder(home: Path, split: str, settings: BinSettings) -> Listing:
    base = split_folder(home, split, f"*{SUFFIXES[0]}")
    classes = class_names(home, base, "recordings")
    by_class = [
        [Item(path, label) for path in sorted((base / name).rglob("*")) if path.suffix.lower() in SUFFIXES]
        for label, name in enumerate(classes)
    ]
    return Listing(in_turn(by_class), classes, _plain(settings.sensor))


_LISTERS: dict[str, Callable[[Path, str, BinSettings], Listing]] = {
    "nmnist": _list_nmnist,
    "dvs-gesture": _list_gesture,
    "cifar10-dvs": _list_cifar,
    "letters": _list_letters,
    "shd": partial(_list_spoken, "shd"),
    "ssc": partial(_list_spoken, "ssc"),
    "event-folder": _list_folder,
}
