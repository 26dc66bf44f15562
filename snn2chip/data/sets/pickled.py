"""CIFAR's Python version, which torchvision keeps: pickles of Python 2, read without running what is in them.

A pickle is a program. Of its instructions only those are carried out that make numbers, texts, lists, tuples and dicts.
Of names only those are known that describe an array of numpy's, and for them stand classes that keep the description:
no code but this module's runs, not even numpy's, whatever a file says.
"""

from __future__ import annotations

import io
import pickle
from typing import Any, ClassVar

import numpy as np

from snn2chip.data.sets.parsers import CIFAR_PIXELS
from snn2chip.errors import DataError, reading
from snn2chip.text import one_line


class _Described:
    """An array or its type, as a pickle says it: what it was made from, then its state."""

    def __init__(self, *made: Any) -> None:
        self.made, self.state = made, ()

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Array(_Described):
    """Made by ``_reconstruct(ndarray, (0,), 'b')``; its state is version, shape, type, whether Fortran's, bytes."""


class _Type(_Described):
    """Made by ``dtype('u1', ...)``."""


_NAMES = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Type,
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
}
_INSTRUCTIONS = (  # of protocols 2 and 3
    *(pickle.PROTO, pickle.STOP, pickle.MARK, pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE),
    *(pickle.BININT, pickle.BININT1, pickle.BININT2, pickle.BINSTRING, pickle.SHORT_BINSTRING),
    *(pickle.BINBYTES, pickle.SHORT_BINBYTES, pickle.BINUNICODE),
    *(pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3),
    *(pickle.EMPTY_LIST, pickle.APPEND, pickle.APPENDS, pickle.EMPTY_DICT, pickle.SETITEM, pickle.SETITEMS),
    *(pickle.BINPUT, pickle.LONG_BINPUT, pickle.BINGET, pickle.LONG_BINGET, pickle.GLOBAL, pickle.REDUCE, pickle.BUILD),
)
_READS = 16
"""Reads of the file for every record, about twice what the published ones need: each may make an object."""


class _Table(dict[str, Any]):
    """What a pickle's dict becomes. Its keys are texts: the hash of tuples within tuples can take for ever."""

    def __setitem__(self, key: Any, value: Any) -> None:
        if not isinstance(key, (str, bytes)):
            raise pickle.UnpicklingError("a key that is no text")
        super().__setitem__(_plain(key), value)


class _Counted(io.BytesIO):
    def __init__(self, content: bytes, reads: int) -> None:
        super().__init__(content)
        self._left = reads

    def read(self, size: int | None = -1, /) -> bytes:
        self._left -= 1
        if self._left < 0:
            raise pickle.UnpicklingError("more instructions than its records need")
        return super().read(size)


class _Reader(pickle._Unpickler):  # the one in Python: C's makes room for as many objects as a file claims
    dispatch: ClassVar[dict[int, Any]] = {
        **{sign[0]: pickle._Unpickler.dispatch[sign[0]] for sign in _INSTRUCTIONS},
        pickle.EMPTY_DICT[0]: lambda reader: reader.append(_Table()),
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _NAMES:
            raise pickle.UnpicklingError(f"it asks for '{one_line(f'{module}.{name}')}', which is not let run")
        return _NAMES[module, name]


def cifar_pickle(content: bytes, where: str, labels: tuple[str, ...], limit: int) -> bytes:
    """A batch in the layout of the binary version (see `snn2chip.data.sets.parsers.cifar_records`).

    Args:
        labels: keys of the lists of labels, in the order of the binary version's label bytes.
        limit: most records a published file has.

    Raises:
        DataError: damaged, instructions or names that such a file does not need, or other content than uint8
            (N, 3072) under 'data' and N labels of 0 to 255 under each key; names `where`.
    """
    with reading(where, "no batch of CIFAR's Python version", error=DataError, remedy="fetch it again"):
        found = _Reader(_Counted(content, 1000 + _READS * limit), encoding="bytes").load()
        array, columns = found["data"], [found[key] for key in labels]
        _, shape, kind, fortran, pixels = array.state
        if _plain(kind.made[0]) != "u1" or shape != (len(columns[0]), CIFAR_PIXELS):
            raise ValueError(f"its data is not uint8 ({len(columns[0])}, {CIFAR_PIXELS})")
        if any(type(value) is not int or not 0 <= value <= 255 for column in columns for value in column):
            raise ValueError("a label that is no integer of 0 to 255")
        rows = np.frombuffer(pixels, np.uint8).reshape(shape, order="F" if fortran else "C")
        return np.hstack([np.array(columns, np.uint8).T, rows]).tobytes()


def _plain(text: Any) -> Any:
    """Python 2's texts are bytes here."""
    return text.decode("latin1") if isinstance(text, bytes) else text
