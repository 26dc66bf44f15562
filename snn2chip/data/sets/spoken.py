"""Spoken words as spikes of an artificial cochlea: a file of the Heidelberg data sets SHD and SSC.

HDF5 as published (Cramer et al., IEEE TNNLS 33, 2022; compneuro.net). Of every recording `spikes/times` holds a list of
times in seconds, `spikes/units` one of as many channels, 0..699, and `labels` the class, whose name is in `extra/keys`.
As events of a sensor of one row a channel is a pixel, x, and there is one polarity. Recordings are read one at a time:
a file of SSC is larger than many memories.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np
from numpy.typing import NDArray

from snn2chip import hdf5
from snn2chip.data.recordings import Events, Sensor, make_events
from snn2chip.data.recordings.recording import LATEST
from snn2chip.errors import DataError, InputError, reading

SENSOR: Sensor = (1, 700)
_CLASSES, _NAME = 1000, 256  # more classes, or letters of a name, are damage
_REMEDY = "fetch it again"


class Spoken:
    """One file: labels (n,), names of the classes, and the recordings one by one.

    Raises:
        DataError: not such a file, or damaged: an array that is missing, of another type or length, a label without a
            class, and what `snn2chip.hdf5` refuses.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: hdf5.Objects = {}
        try:
            with (
                reading(path, "no file of SHD or SSC", error=DataError, remedy=_REMEDY),
                path.open("rb") as data,
                h5py.File(path, "r") as file,
            ):
                self._lists = {name: self._list(file, name, kinds, data) for name, kinds in _LISTS.items()}
                self.classes = self._names(file, data)
                self.labels = self._labels(file)
        except DataError:
            raise
        except InputError as error:
            raise DataError(str(error)) from None

    def recording(self, number: int, source: str) -> Events:
        """The events of one recording, `source` for messages.

        Raises:
            DataError: lists of different lengths, a channel beyond the last, a time that is none, and as `make_events`.
        """
        try:
            with reading(self.path, "not readable", error=DataError, remedy=_REMEDY), self.path.open("rb") as data:
                heaps = hdf5.Heaps(data, source, self._known)
                times, units = (
                    np.frombuffer(heaps.bytes_of(found[number], kind.itemsize, heaps.size), kind)
                    for found, kind in self._lists.values()
                )
        except DataError:
            raise
        except InputError as error:
            raise DataError(str(error)) from None
        if len(times) != len(units):
            raise DataError(f"{source}: {len(times):,} times and {len(units):,} units; they must be as many; {_REMEDY}")
        t = times.astype(np.float64) * 1e6
        wrong = np.flatnonzero(~((t >= 0) & (t <= LATEST)))  # NaN neither
        if len(wrong):
            raise DataError(f"{source}: time {times[wrong[0]]} s of event {wrong[0]:,} is none; {_REMEDY}")
        wrong = np.flatnonzero((units < 0) | (units >= SENSOR[1]))
        if len(wrong):
            raise DataError(
                f"{source}: unit {units[wrong[0]]} of event {wrong[0]:,}, the last is {SENSOR[1] - 1}; {_REMEDY}"
            )
        nothing = np.zeros(len(t), np.int64)
        return make_events(units, nothing, nothing, np.rint(t).astype(np.int64), SENSOR, source)

    def _array(self, file: h5py.File, name: str) -> h5py.Dataset:
        place: Any = file
        for part in name.split("/"):
            link = place.get(part, getlink=True) if isinstance(place, h5py.Group) else None
            if link is None:
                raise DataError(f"'{self.path}' has no array '{name}'; expected {', '.join(_ARRAYS)}")
            if not isinstance(link, h5py.HardLink):
                raise DataError(f"'{self.path}': '{name}' is a link to elsewhere; {_REMEDY}")
            place = place[part]
        if not isinstance(place, h5py.Dataset) or place.ndim != 1:
            raise DataError(f"'{self.path}': '{name}' is not a row of values; {_REMEDY}")
        return place

    def _list(
        self, file: h5py.File, name: str, kinds: str, data: BinaryIO
    ) -> tuple[NDArray[np.void], np.dtype[np.generic]]:
        """References to lists of numbers, and the type of these."""
        item, where = self._array(file, name), f"'{self.path}' {name}"
        kind = h5py.check_vlen_dtype(item.dtype)
        if not isinstance(kind, np.dtype) or kind.kind not in kinds:
            raise DataError(f"{where} holds {item.dtype if kind is None else kind}, not lists of {_WORDS[kinds]}")
        if item.id.get_type().get_super().get_size() != kind.itemsize:
            raise DataError(f"{where} holds numbers of a width that is not read; write it with h5py")
        found = hdf5.references(item, where, data)
        claimed, size = int(found["length"].sum(dtype=np.uint64)) * kind.itemsize, data.seek(0, 2)
        if claimed > size:
            raise DataError(f"{where}: {claimed:,} bytes claimed by a file of {size:,}; {_REMEDY}")
        return found, kind

    def _names(self, file: h5py.File, data: BinaryIO) -> tuple[str, ...]:
        item, where = self._array(file, _KEYS), f"'{self.path}' {_KEYS}"
        text = h5py.check_string_dtype(item.dtype)
        if text is None or not 0 < item.size <= _CLASSES or (text.length or 0) > _NAME:
            raise DataError(f"{where}: {item.size:,} values of {item.dtype}, not names of classes; {_REMEDY}")
        if text.length is None:
            return tuple(hdf5.variable_texts(item, where, data, _NAME))
        hdf5.check(item, where)
        return tuple(name.decode("utf-8", "replace") for name in item[()].tolist())

    def _labels(self, file: h5py.File) -> NDArray[np.int64]:
        item, where = self._array(file, _LABELS), f"'{self.path}' {_LABELS}"
        counts = {**{name: len(found) for name, (found, _) in self._lists.items()}, _LABELS: int(item.size)}
        if len(set(counts.values())) > 1:
            said = ", ".join(f"{count:,} {name}" for name, count in counts.items())
            raise DataError(f"'{self.path}': {said}; they must be as many; {_REMEDY}")
        if item.dtype.kind not in "iu":
            raise DataError(f"{where} holds {item.dtype}, not whole numbers; {_REMEDY}")
        hdf5.check(item, where)
        labels: NDArray[np.int64] = item[()].astype(np.int64)
        if labels.size and not (labels.min() >= 0 and labels.max() < len(self.classes)):
            raise DataError(f"{where}: {labels.min()}..{labels.max()} of {len(self.classes)} classes; {_REMEDY}")
        return labels


_LISTS = {"spikes/times": "f", "spikes/units": "iu"}  # and the kinds of number in them
_WORDS = {"f": "fractions", "iu": "whole numbers"}
_LABELS, _KEYS = "labels", "extra/keys"
_ARRAYS = (*_LISTS, _LABELS, _KEYS)
