"""Recordings of event cameras for tests, and files of them in every format, written here byte by byte."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Raw:
    """Columns of events, as a camera gives them."""

    x: Ints
    y: Ints
    p: Ints
    t: Ints

    def __len__(self) -> int:
        return len(self.t)


def random_events(count: int, sensor: tuple[int, int], seed: int = 0, span_us: int = 300_000, start: int = 0) -> Raw:
    """`count` events on a sensor (height, width), sorted by time within `span_us` from `start`."""
    rng = np.random.default_rng(seed)
    return Raw(
        rng.integers(0, sensor[1], count),
        rng.integers(0, sensor[0], count),
        rng.integers(0, 2, count),
        start + np.sort(rng.integers(0, span_us, count)),
    )


def bin_bytes(events: Raw) -> bytes:
    """N-MNIST's 40 bits an event."""
    rows = bytearray()
    for x, y, p, t in zip(events.x, events.y, events.p, events.t, strict=True):
        rows += bytes([int(x), int(y)]) + int(int(p) << 23 | int(t) % (1 << 23)).to_bytes(3, "big")
    return bytes(rows)


def aedat2_bytes(events: Raw) -> bytes:
    """AEDAT 2.0 of a DVS128, as jAER addresses it."""
    rows = bytearray(b"#!AER-DAT2.0\r\n# This is a raw AE data file - do not edit\r\n")
    for x, y, p, t in zip(events.x, events.y, events.p, events.t, strict=True):
        address = (127 - int(y)) << 8 | (127 - int(x)) << 1 | (1 - int(p))
        rows += struct.pack(">II", address, int(t) % (1 << 32))
    return bytes(rows)


def aedat3_bytes(events: Raw, packet: int = 100, room: int = 0) -> bytes:
    """AEDAT 3.1, `packet` polarity events a packet with room for `room` more, and packets of other kinds between."""
    rows = bytearray(b"#!AER-DAT3.1\r\n#Format: RAW\r\n#!END-HEADER\r\n")
    for start in range(0, len(events), packet):
        stop = min(start + packet, len(events))
        overflow = int(events.t[start] >> 31)
        rows += struct.pack("<HHIIIIII", 3, 1, 36, 32, 0, 1, 1, 1) + bytes(36)  # a packet of the motion sensor
        rows += struct.pack("<HHIIIIII", 1, 1, 8, 4, overflow, stop - start + room, stop - start, stop - start)
        for i in range(start, stop):
            data = 1 | int(events.p[i]) << 1 | int(events.y[i]) << 2 | int(events.x[i]) << 17
            rows += struct.pack("<II", data, int(events.t[i]) & 0x7FFFFFFF)
        rows += bytes(8 * room)
    return bytes(rows)


def write_npz(path: Path, events: Raw, sensor: Sequence[int] | None = None, **dtypes: str) -> None:
    """An .npz with x, y, p, t and, if given, the sensor's size."""
    arrays = {name: getattr(events, name).astype(dtypes.get(name, "int64")) for name in ("x", "y", "p", "t")}
    if sensor is not None:
        arrays["sensor"] = np.array(sensor)
    np.savez(path, **arrays)


def nmnist_tree(root: Path, counts: dict[str, int], digits: int = 10, seed: int = 0, size: int = 200) -> None:
    """NMNIST/{Train,Test}/DIGIT/*.bin; events of digit d lie in a square of its own, so that it can be learnt."""
    rng = np.random.default_rng(seed)
    for split, count in counts.items():
        for digit in range(digits):
            folder = root / "NMNIST" / split / str(digit)
            folder.mkdir(parents=True)
            for index in range(count):
                events = random_events(size, (9, 9), seed=int(rng.integers(1 << 30)))
                corner = (11 * (digit % 3), 11 * (digit // 3 % 3))
                moved = Raw(events.x + corner[0], events.y + corner[1], events.p * (digit < 9), events.t)
                (folder / f"{index:05d}.bin").write_bytes(bin_bytes(moved))


WORDS = ("null", "eins", "zwei")


def spoken_lists(count: int, seed: int = 0, classes: int = 3, size: int = 300) -> dict[str, Any]:
    """What a file of SHD or SSC holds of `count` recordings: times within 0.6 s, units of a range for each label."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    sizes = rng.integers(1, size, count).tolist()
    pairs = zip(sizes, labels.tolist(), strict=True)
    return {
        "spikes/times": [np.sort(rng.uniform(0, 0.6, n)) for n in sizes],
        "spikes/units": [rng.integers(200 * label, 200 * label + 300, n) for n, label in pairs],
        "labels": labels,
        "extra/keys": WORDS[:classes],
    }


def write_spoken(
    path: Path,
    what: int | dict[str, Any],
    *,
    times: str = "f8",
    units: str = "u2",
    chunks: tuple[int, ...] | None = None,
    texts: bool = False,
) -> None:
    """A file of SHD or SSC: `what` is the number of recordings, or what `spoken_lists` gives; None leaves an array out.

    `chunks` of the lists, as PyTables writes them; with `texts` names are of variable length.
    """
    held = spoken_lists(what) if isinstance(what, int) else what
    with h5py.File(path, "w") as file:
        for name, kind in (("spikes/times", times), ("spikes/units", units)):
            if (lists := held[name]) is not None:
                options = {} if chunks is None else {"chunks": chunks, "maxshape": (None,)}
                item = file.create_dataset(name, (len(lists),), h5py.vlen_dtype(np.dtype(kind)), **options)
                for place, values in enumerate(lists):
                    item[place] = np.asarray(values).astype(kind)
        if held["labels"] is not None:
            file["labels"] = np.asarray(held["labels"])
        if held["extra/keys"] is not None:
            names = np.array(held["extra/keys"], dtype=h5py.string_dtype() if texts else "S8")
            file.create_dataset("extra/keys", data=names)


def read_spoken(path: Path) -> object:
    """All recordings of a file of SHD or SSC."""
    from snn2chip.data.sets.spoken import Spoken

    file = Spoken(path)
    return [file.recording(number, f"'{path}', recording {number}") for number in range(len(file.labels))]
