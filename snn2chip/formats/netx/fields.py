"""Typed reads of HDF5 in netx files: every failure names the file, the group and the field."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import h5py
import numpy as np
from numpy.typing import NDArray

from snn2chip import files
from snn2chip.errors import InputError, reading
from snn2chip.hdf5 import Budget, check, require_file, variable_text
from snn2chip.ir import Shape, Weights, narrow
from snn2chip.text import one_line

FORMAT_VERSION = 1  # of our own group
STEPS = "SNN2CHIP_STEPS"  # the type of time-varying neurons
MAX_NEURONS = 2**25  # a layer that claims more is damaged, not large
MAX_VALUES = 2**28  # of an array
_MAX_TEXT = 2**26
T = TypeVar("T")
Whole = TypeVar("Whole", bound="np.signedinteger[Any]")


def opened(path: str | Path, read: Callable[[Reader], T]) -> T:
    """What `read` makes of an HDF5 file; every way in which HDF5 fails becomes one line.

    Raises:
        InputError: no such file, damaged, or what `read` raises.
    """
    path = Path(path)
    require_file(path)
    remedy = "" if files.is_hdf5(path) else "`snn2chip fold-and-export MODEL` makes a .net file of a trained model"
    with reading(path, "not an HDF5 file", remedy=remedy), h5py.File(path, "r") as file:
        return read(Reader(file, str(path), Budget(path.stat().st_size)))


class Reader:
    """Typed reads from one HDF5 group, every failure named by path."""

    def __init__(self, group: h5py.Group, where: str, budget: Budget) -> None:
        self.group, self.where, self.budget = group, where, budget
        self.read: dict[str, np.ndarray[Any, Any]] = {}

    def item(self, name: str) -> h5py.Group | h5py.Dataset | None:
        """What stands under a name in this file; links to other places or other files are not followed."""
        link = self.group.get(name, getlink=True)
        if link is not None and not isinstance(link, h5py.HardLink):
            raise InputError(f"{self.where}: '{name}' is a link to somewhere else; write the network without links")
        return self.group.get(name)

    def child(self, name: str) -> Reader:
        item = self.item(name)
        if not isinstance(item, h5py.Group):
            raise InputError(f"{self.where}: group '{name}' is missing")
        return Reader(item, f"{self.where}/{name}", self.budget)

    def numbers(self, name: str, most: int = MAX_VALUES) -> np.ndarray[Any, Any]:
        """An array of integers or floats, as it stands in the file; read once."""
        if name in self.read:
            return self.read[name]
        item = self.item(name)
        if isinstance(item, h5py.Group):
            inside = one_line(", ".join(list(item)[:4]), 40)
            raise InputError(f"{self.where}: '{name}' is a group ({inside}); complex and sparse arrays are not read")
        if not isinstance(item, h5py.Dataset) or item.dtype.kind not in "iuf" or item.size is None:
            raise InputError(f"{self.where}: '{name}' is missing or not numbers")
        if item.size > most:
            raise InputError(f"{self.where}: '{name}' claims {item.size} values; at most {most} make sense")
        check(item, f"{self.where}/{name}")
        self.budget.spend(item.size, f"{self.where}/{name}")
        self.read[name] = np.asarray(item[()])
        return self.read[name]

    def array(self, name: str, most: int = MAX_VALUES) -> np.ndarray[Any, np.dtype[np.int64]]:
        return self.whole(name, most).astype(np.int64)

    def whole(self, name: str, most: int = MAX_VALUES) -> np.ndarray[Any, Any]:
        """An array of whole numbers of 32 bits, as it stands in the file."""
        values = self.numbers(name, most)
        if values.dtype.kind == "f" and not (np.isfinite(values).all() and (values == np.rint(values)).all()):
            raise InputError(f"{self.where}: '{name}' holds values that are not integers")
        if values.size and max(abs(int(values.max())), abs(int(values.min()))) > 2**31:
            raise InputError(f"{self.where}: '{name}' holds {values.max()}, beyond 32 bits")
        return values

    def integer(self, name: str, low: int, high: int) -> int:
        values = self.array(name, 1)
        if values.size != 1 or not low <= int(values.flat[0]) <= high:
            raise InputError(f"{self.where}: '{name}' is {values.tolist()}; expected one integer {low}..{high}")
        return int(values.flat[0])

    def pair(self, name: str, low: int) -> tuple[int, int]:
        values = self.array(name, 2).flatten().tolist()
        values = values * 2 if len(values) == 1 else values
        if len(values) != 2 or min(values) < low or max(values) > 2**15:
            raise InputError(f"{self.where}: '{name}' is {values}; expected two integers of at least {low}")
        return values[0], values[1]

    def text(self, name: str) -> str:
        item = self.item(name)
        if not isinstance(item, h5py.Dataset) or item.size != 1:
            raise InputError(f"{self.where}: '{name}' is missing or not text")
        if item.dtype.itemsize > _MAX_TEXT:
            raise InputError(
                f"{self.where}: '{name}' claims {item.dtype.itemsize} bytes; at most {_MAX_TEXT} make sense"
            )
        if h5py.check_string_dtype(item.dtype) is not None and item.dtype.kind == "O":
            return variable_text(item, f"{self.where}/{name}")
        if item.dtype.kind != "S":
            raise InputError(f"{self.where}: '{name}' is {one_line(item.dtype)}; expected text")
        check(item, f"{self.where}/{name}")
        value = np.asarray(item[()]).reshape(-1)[0]
        if not isinstance(value, bytes | str):
            raise InputError(f"{self.where}: '{name}' is {one_line(value)}; expected text")
        return value.decode("ascii", "replace") if isinstance(value, bytes) else value

    def within(self, name: str, low: int, high: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        """An array whose values fit the chip: netx would cut some off silently, and others not at all."""
        return self.fitting(self.array(name), name, low, high)

    def weights(self, name: str, low: int, high: int) -> Weights:
        """As `within`, of weights."""
        return self.fitting(self.narrow(name), name, low, high)

    def narrow(self, name: str) -> Weights:
        """As `array`, of weights."""
        return narrow(self.whole(name))

    def fitting(self, values: NDArray[Whole], name: str, low: int, high: int) -> NDArray[Whole]:
        """Values that were read, if they are within low..high.

        Raises:
            InputError: they are not.
        """
        if values.size and not low <= int(values.min()) <= int(values.max()) <= high:
            raise InputError(f"{self.where}: '{name}' holds {values.min()}..{values.max()}, outside {low}..{high}")
        return values

    def decoded(self, name: str, kind: type) -> Any:
        """An attribute that holds JSON of one kind, list or dict."""
        try:
            value = files.parse(self.words(name), "JSON")
        except ValueError as error:
            raise InputError(f"{self.where}: attribute '{name}' is {error}") from None
        if not isinstance(value, kind):
            raise InputError(f"{self.where}: attribute '{name}' is not a {kind.__name__} in JSON")
        return value

    def table(self, name: str, shape: tuple[int, int], low: int, high: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        """A table of a time-varying neuron, (T, C), its values within what the neuron holds."""
        values = self.within(name, low, high)
        if values.shape != shape:
            raise InputError(
                f"{self.where}: '{name}' has shape {values.shape}; {shape[0]} time steps of {shape[1]} channels need "
                f"{shape}"
            )
        return values

    def positive(self, name: str, count: int) -> np.ndarray[Any, np.dtype[np.float64]]:
        """`count` positive numbers."""
        item = self.item(name)
        if not isinstance(item, h5py.Dataset) or item.dtype.kind != "f" or item.shape != (count,):
            raise InputError(f"{self.where}: '{name}' is missing or not {count} numbers")
        check(item, f"{self.where}/{name}")
        values = np.asarray(item[()], dtype=np.float64)
        if not (np.isfinite(values).all() and (values > 0).all()):
            raise InputError(f"{self.where}: '{name}' holds values that are not positive numbers")
        return values

    def words(self, name: str) -> str:
        """An attribute that holds text, or the dataset in its place."""
        if name not in self.group.attrs and name in self.group:
            return self.text(name)
        value = self.attribute(name)
        if not isinstance(value, bytes):
            raise InputError(f"{self.where}: attribute '{name}' is {one_line(value)}; expected text")
        return value.decode("utf-8", "replace")

    def attribute(self, name: str) -> Any:
        if name not in self.group.attrs:
            raise InputError(f"{self.where}: attribute '{name}' is missing")
        if self.group.attrs.get_id(name).dtype.kind == "O":  # read, a damaged one can crash HDF5
            raise InputError(f"{self.where}: attribute '{name}' is of variable length; export the model again")
        return self.group.attrs[name]

    def integers(self, name: str, most: int = 2**16) -> tuple[int, ...]:
        """An attribute of one integer or a row of them."""
        value = np.atleast_1d(self.attribute(name))
        if value.dtype.kind not in "iub" or value.ndim != 1 or not 1 <= value.size <= most:
            raise InputError(f"{self.where}: attribute '{name}' is {one_line(value.tolist())}; expected integers")
        return tuple(value.tolist())


def spread_bias(bias: NDArray[Any], shape: Shape) -> NDArray[Any] | None:
    """`bias` over neurons of Lava's `shape`, (W, H, C) or (features,), as lava-dl and Lava spread it; None: they fail.

    lava-dl 0.6.0, `netx/blocks/process.py`: over three sides one a neuron, or whatever numpy assigns to them if its
    first side is C long. One side it leaves to Lava's sum, in which further axes of 1 do no harm.
    """
    if len(shape) == 3 and bias.shape != shape and bias.shape[:1] != shape[-1:]:
        return None
    beyond = bias.ndim - len(shape)
    if beyond > 0 and set(bias.shape[:beyond]) == {1}:
        bias = bias.reshape(bias.shape[beyond:])
    try:
        return np.broadcast_to(bias, shape)
    except ValueError:
        return None
