"""A netx file of any kind as it stands, layer by layer, and what stock netx makes of each: nothing stops the reading.

Where `read.load` refuses a layer, this notes why and goes on with the shape that the file itself gives the layer.
What stock netx does is lava-dl 0.6.0, `lava/lib/dl/netx/hdf5.py` and `netx/blocks/process.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import h5py
import numpy as np
from numpy.typing import NDArray

from snn2chip.errors import InputError, out_of_memory
from snn2chip.formats.netx.fields import MAX_NEURONS, MAX_VALUES, Reader, Whole, opened
from snn2chip.formats.netx.read import Finding, FindingKind, Walk, port_bits, read_entry
from snn2chip.formats.netx.stock import KNOWN, UNMADE
from snn2chip.hdf5 import Budget
from snn2chip.ir import IntArray, Shape, Weights
from snn2chip.ir.netlist import ChipLayer
from snn2chip.text import first_line, one_line

_T = TypeVar("_T")
COMPUTING = ("conv", "dense", "dense_rec")  # types of layers with neurons and synapses
_CUT = ("weight", "weight_rec", "bias", "delay")  # netx makes integers of them: astype(int)
_WEIGHTS = ("weight", "weight_rec")
_GEOMETRY = ("stride", "padding", "dilation", "groups")
_NUMBERS = ("iDecay", "vDecay", "vThMant", "refDelay", "wgtExp", "messageBits")
_MANY = 16  # names of a group that are worth printing


@dataclass(eq=False)
class Entry:
    """One group under ``layer/``, as far as it can be read.

    inputs  of one neuron or the whole layer before: the shape that comes in, empty if unknown
    shape   the file's own, or that of what the layer computes where the file has none; empty if neither can be known
    arrays  weight, weight_rec, bias, delay, stride, padding, dilation, groups as stored, cut to integers as netx does;
            only those that can be read
    neuron  type, and what numbers there are
    layer   what the simulator computes with; None where it refuses the layer, or the layer has no neurons
    """

    number: int
    inputs: Shape
    kind: str = "?"
    shape: Shape = ()
    arrays: dict[str, Weights] = field(default_factory=dict)
    neuron: dict[str, IntArray | str] = field(default_factory=dict)
    layer: ChipLayer | None = None
    findings: list[Finding] = field(default_factory=list)

    @property
    def geometry(self) -> dict[str, tuple[int, ...]]:
        """stride, padding, dilation, groups of a convolution."""
        return {name: tuple(self.arrays[name].flatten().tolist()) for name in _GEOMETRY if name in self.arrays}


@dataclass(frozen=True, eq=False)
class Look:
    """A whole file. `own` and `simulation` are what our group and lava-dl's `simulation` say, as far as readable.

    port  smallest and largest value of each channel at the port, or of all of them; 0 and 1 for spikes
    """

    size: int
    groups: tuple[str, ...]
    own: dict[str, Any]
    simulation: dict[str, int]
    message_bits: int
    port: tuple[IntArray, IntArray]
    entries: tuple[Entry, ...]
    findings: tuple[Finding, ...]


class _Lenient(Reader):
    """Reads on where a number is out of range or not an integer, and logs what netx would do with it."""

    def __init__(self, group: h5py.Group, where: str, budget: Budget, log: list[Finding]) -> None:
        super().__init__(group, where, budget)
        self.log = log
        self.cut: set[str] = set()

    def child(self, name: str) -> Reader:
        made = super().child(name)
        return _Lenient(made.group, made.where, made.budget, self.log)

    def whole(self, name: str, most: int = MAX_VALUES) -> np.ndarray[Any, Any]:
        if name not in _CUT:
            return super().whole(name, most)
        values = self.numbers(name, most)
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise InputError(f"{self.where}: '{name}' holds values that are not numbers")
        if values.size and max(float(values.max()), -float(values.min())) > 2**31:
            raise InputError(f"{self.where}: '{name}' holds values beyond 32 bits")
        new = name not in self.cut
        self.cut.add(name)
        if new and values.dtype.kind == "f" and (broken := int((values != np.trunc(values)).sum())):
            text = f"{broken:,} of {values.size:,} values of '{name}' are not integers: netx cuts their fractions off"
            self.log.append(Finding("changed", text))
        return values

    def integer(self, name: str, low: int, high: int) -> int:
        if name in _NUMBERS:  # those out of range are findings about the chip's registers
            low, high = -(2**31), 2**31
        return super().integer(name, low, high)

    def fitting(self, values: NDArray[Whole], name: str, low: int, high: int) -> NDArray[Whole]:
        if values.size and not low <= int(values.min()) <= int(values.max()) <= high:
            text = f"'{name}' holds {values.min():,}..{values.max():,}; not simulated beyond {low:,}..{high:,}"
            self.log.append(Finding("refused", text))
        return values


def look(path: str | Path, message_bits: int | None = None, input_shape: Shape = ()) -> Look:
    """Read all that can be read of a netx file.

    `message_bits` of the integers at the port, by default what our own group says, else 0; `input_shape` as in
    `read.load`.

    Raises:
        InputError: no file, not HDF5, or no group ``layer``.
    """
    return opened(path, lambda root: _look(root, Path(path).stat().st_size, message_bits, input_shape))


def _attempt(log: list[Finding], where: str, read: Callable[[], _T]) -> _T | None:
    """What `read` gives, or None and a finding that says why."""
    try:
        return read()
    except InputError as error:
        log.append(Finding("refused", _here(str(error), where)))
    except Exception as error:  # the many ways in which h5py says that a part of a file is damaged
        if out_of_memory(error):
            raise
        log.append(Finding("refused", f"damaged: {first_line(error, 120)}"))
    return None


def _here(text: str, where: str) -> str:
    """A message about something in a layer, without the path that leads there."""
    return text.removeprefix(where).removeprefix(": ").removeprefix("/")


def _look(root: Reader, size: int, message_bits: int | None, input_shape: Shape) -> Look:
    group = root.child("layer")
    log: list[Finding] = []
    names = list(group.group)
    places = sorted(int(name) for name in names if name.isascii() and name.isdecimal() and str(int(name)) == name)
    count = len(names)
    places = [place for place in places if place < count]
    missing = [number for number in range(count) if number not in set(places)][:_MANY] if len(places) < count else []
    if missing:
        others = [one_line(name, 20) for name in names if name not in {str(place) for place in places}][:_MANY]
        text = f"no group layer/{', '.join(map(str, missing))}: stock netx fails there; beside them {', '.join(others)}"
        log.append(Finding("fails", text))
    walk = Walk(input_shape)
    entries = tuple(_entry(group, place, walk) for place in places)
    if not any(entry.kind in COMPUTING for entry in entries):
        kind: FindingKind = "refused" if walk.stock.made else "fails"
        log.append(Finding(kind, "no conv or dense layer"))
    if walk.stock.to_tell:
        text = "a convolution comes first, and no input layer: give netx input_shape=(W, H, C), us --input-shape C,H,W"
        log.append(Finding("told", text))
    bits = message_bits
    if bits is None:
        bits = _attempt(log, root.where, lambda: port_bits(root)) or 0
    own = _own(root, log)
    if bits and "low" in own and message_bits is None:
        port = own["low"], own["high"]
    elif bits:
        port = np.array([1 - 2**bits]), np.array([2**bits - 1])
    else:
        port = np.zeros(1, dtype=np.int64), np.ones(1, dtype=np.int64)
    simulation: dict[str, int] = {}
    if isinstance(_attempt(log, root.where, lambda: root.item("simulation")), h5py.Group):
        for name in ("Ts", "tSample"):
            value = _attempt([], "", partial(root.child("simulation").integer, name, 0, 2**31))
            simulation.update({name: value} if value is not None else {})
    groups = tuple(one_line(name, 40) for name in list(root.group)[:_MANY])
    return Look(size, groups, own, simulation, bits, port, entries, tuple(dict.fromkeys(log)))


def _own(root: Reader, log: list[Finding]) -> dict[str, Any]:
    """What our group says: what is missing or odd there is left out and noted."""
    if not isinstance(_attempt(log, root.where, lambda: root.item("snn2chip")), h5py.Group):
        return {}
    own = root.child("snn2chip")
    reads: dict[str, Callable[[], Any]] = {
        **{name: partial(_whole, own, name) for name in ("format_version", "timesteps", "pixel_max", "stock_netx")},
        **{name: partial(own.words, name) for name in ("readout", "coding")},
        "classes": lambda: [one_line(name, 30) for name in own.decoded("classes", list)],
        "made": lambda: {one_line(key): one_line(value, 200) for key, value in own.decoded("made", dict).items()},
        "origin": lambda: {
            one_line(number): {one_line(name): (int(places[0]), int(places[1])) for name, places in layers.items()}
            for number, layers in own.decoded("origin", dict).items()
        },
        "low": lambda: _whole(own, "input_low") - _center(own),
        "high": lambda: _whole(own, "input_high") - _center(own),
    }
    found: dict[str, Any] = {name: _attempt(log, own.where, read) for name, read in reads.items()}
    found = {name: one_line(value) if isinstance(value, str) else value for name, value in found.items()}
    if (steps := found["timesteps"]) is not None and steps < 1:
        log.append(Finding("refused", f"timesteps {steps}; expected 1 or more"))
        found["timesteps"] = None
    if found["low"] is None or found["high"] is None:
        found["low"] = found["high"] = None
    return {name: value for name, value in found.items() if value is not None}


def _whole(own: Reader, name: str) -> int:
    return own.integers(name, 1)[0]


def _center(own: Reader) -> IntArray:
    return np.array(own.integers("input_center"))


def _entry(group: Reader, number: int, walk: Walk) -> Entry:
    entry = Entry(number, (int(np.prod(walk.shape)),) if walk.flatten else walk.shape)
    log, where = entry.findings, f"{group.where}/{number}"

    def attempt(read: Callable[[], _T]) -> _T | None:
        return _attempt(log, where, read)

    made = attempt(lambda: group.child(str(number)))
    if made is None:
        log.append(Finding("fails", "stock netx reads a group there"))
        return entry
    reader = _Lenient(made.group, made.where, made.budget, log)
    kind = entry.kind = attempt(lambda: one_line(reader.text("type"))) or "?"
    names = set(reader.group)  # of links, which this does not follow
    for name in (*_CUT, *_GEOMETRY):
        read = reader.narrow if name in _WEIGHTS else reader.array
        if name in names and (values := attempt(partial(read, name))) is not None:
            entry.arrays[name] = values
    if inside := isinstance(attempt(lambda: reader.item("neuron")), h5py.Group):
        entry.neuron = _neuron(reader.child("neuron"), attempt)
    sides = attempt(lambda: reader.array("shape")) if "shape" in names else None
    if sides is not None and 0 < sides.size <= 4 and sides.min() >= 1 and np.prod(sides, dtype=float) <= MAX_NEURONS:
        entry.shape = tuple(sides.flatten().tolist())
    explained = _noted(names, kind, entry.neuron if inside else None, log)
    before, noted = len(walk.layers), len(walk.notes)

    try:
        read_entry(walk, reader, number)
    except InputError as error:
        if not (explained or any(note.kind == "fails" for note in walk.notes[noted:])):
            log.append(Finding("refused", _here(str(error), where)))
    except (OSError, KeyError, RuntimeError, ValueError, TypeError, ArithmeticError, IndexError) as error:
        if out_of_memory(error):
            raise
        log.append(Finding("refused", f"damaged: {first_line(error, 120)}"))
    # those about registers are about one chip's, and asked of its profile
    log += [Finding(x.kind, _here(x.text, where)) for x in walk.notes[noted:] if x.kind != "register"]
    if len(walk.layers) > before:
        entry.layer = walk.layers[-1]
        entry.shape = entry.layer.shape
    elif kind in KNOWN + UNMADE and kind != "flatten":
        walk.shape, walk.flatten = (entry.shape if len(entry.shape) in (1, 3) else ()), False
        walk.first = walk.first or walk.shape
    return entry


def _neuron(neuron: Reader, attempt: Callable[[Callable[[], Any]], Any]) -> dict[str, IntArray | str]:
    found: dict[str, IntArray | str] = {}
    if (kind := attempt(lambda: one_line(neuron.text("type")))) is not None:
        found["type"] = kind
    for name in set(neuron.group) & set(_NUMBERS):
        value = attempt(partial(neuron.array, name))
        if value is not None and value.size:
            found[name] = value
    return found


def _noted(names: Set[str], kind: str, neuron: dict[str, IntArray | str] | None, log: list[Finding]) -> bool:
    """Note what netx leaves out or puts in; returns whether that says already why the layer is not simulated."""
    given = neuron if kind in KNOWN else None
    if kind not in (*KNOWN, *UNMADE, "?"):
        log.append(Finding("changed", f"layer type '{kind}' is unknown to stock netx, which leaves the layer out"))
    named = str((given or {}).get("type", ""))
    if named == "SDNN":
        log.append(Finding("refused", "neuron SDNN (sigma-delta): stock netx runs it"))
    elif "RF" in named:
        log.append(Finding("refused", f"neuron {named}: stock netx runs it where lava-dl's torch half is installed"))
    explained = bool(log)
    if kind in ("dense", "dense_rec") and "neuron" not in names:
        log.append(
            Finding(
                "changed",
                "no neuron: netx takes iDecay 0, vDecay 4096, vThMant 131072: a current that never decays, no spike",
            )
        )
    if kind in ("conv", "input") and "delay" in names:
        log.append(Finding("changed", f"'delay' of a layer of type {kind}: netx ignores it"))
    for name, usual in (("refDelay", 1), ("wgtExp", 0)):
        if given is not None and np.any(given.get(name, usual) != usual):
            log.append(Finding("changed", f"neuron/{name} {span(given[name])}: netx ignores it, as if it were {usual}"))
    return explained


def span(value: IntArray | str) -> int | str:
    """A number, or smallest and largest of several."""
    if isinstance(value, str):
        return value
    low, high = int(value.min()), int(value.max())
    return low if low == high else f"{low}..{high}"
