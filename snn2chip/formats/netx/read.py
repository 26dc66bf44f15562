"""Any CUBA or LOIHI netx file, from anywhere, as stock netx would load it.

Follows lava-dl 0.6.0, `lava/lib/dl/netx/hdf5.py` and `netx/blocks/process.py`. Layer types: `input` with or without
neurons, `conv`, `flatten`, `dense`, `dense_rec`. What netx refuses (pool, average, concat, ...) and neurons that are
not simulated here (SDNN, RF) are refused by name.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import h5py
import numpy as np

from snn2chip.errors import InputError, UnsupportedError
from snn2chip.formats.netx.fields import MAX_NEURONS, STEPS, Reader, opened, spread_bias
from snn2chip.formats.netx.stock import NEURONS, Stock
from snn2chip.formats.netx.weights import HIGHEST, LOWEST, load_dense
from snn2chip.ir import Constant, IntArray, Kind, Shape, Weights, out_size
from snn2chip.ir.netlist import MAX_DELAY, ChipLayer, Netlist
from snn2chip.text import one_line

_BIASES, _THRESHOLD = (-(2**12), 2**12 - 1), 2**17 - 1  # what the chip's registers hold; Lava's arrays hold more
FindingKind = Literal["fails", "told", "refused", "changed", "register", "overflow", "firing", "idle"]
_DEFAULT = (0, 4096, 2**17)  # iDecay, vDecay, vThMant of a dense layer without neurons: v = u, which never decays


@dataclass(frozen=True)
class Finding:
    """Something that a person should know about a layer, or about the file.

    kind  'fails' stock netx does not load it, or Lava not run it; 'told' it has to be told something; 'refused' not
          simulated here; 'changed' netx or Lava computes with something else than what stands in the file; 'register'
          the chip cannot hold it; 'overflow' may wrap or clip; 'firing' neurons that never fire, always fire, or fire
          from their bias alone; 'idle' does nothing
    """

    kind: FindingKind
    text: str


@dataclass(frozen=True)
class Limits:
    """What is taken of a file: smallest and largest weight and bias, largest threshold, smallest iDecay."""

    weight: tuple[int, int] = (-(2**15), 2**15)  # beyond it nothing that the chip could hold was meant
    bias: tuple[int, int] = (-(2**15), 2**15 - 1)  # Lava keeps them in 16 bits
    threshold: int = 2**24
    current_decay: int = 0


_ANY, _OURS = Limits(), Limits((LOWEST, HIGHEST), _BIASES, _THRESHOLD, 1)


@dataclass
class Walk:
    """Where the reading of a file stands: what comes into the next layer, and what was found so far.

    shape    of what comes in, (C, H, W) or (features,); empty before the first layer, unless it is given
    sampled  the file is one of ours, with samples: the chip's own limits, one number for all neurons of a layer, and
             neurons that change with time
    first    shape of the input
    flatten  a flatten layer was the last one
    stock    stock netx's way through the same layers
    """

    shape: Shape = ()
    sampled: bool = False
    flatten: bool = False
    layers: list[ChipLayer] = field(default_factory=list)
    notes: list[Finding] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.first, self.stock = self.shape, Stock(self.shape)
        self.limits = _OURS if self.sampled else _ANY

    def note(self, kind: FindingKind, text: str) -> None:
        self.notes.append(Finding(kind, text))


def load(
    path: str | Path, layers: int | None = None, message_bits: int | None = None, input_shape: Shape = ()
) -> Netlist:
    """Read a netx file; with `layers` only so many entries of ``layer/`` from the first, as netx's `num_layers`.

    `message_bits` of the integers at the port, 0 for spikes; by default what our own group says, else 0. With 0 a value
    that is not 0 counts as 1, as in Lava. `input_shape` (C, H, W) of a convolution that comes first, without an input
    layer: netx's argument of that name, which is (W, H, C).

    Raises:
        InputError: unreadable, truncated or damaged.
        UnsupportedError: a layer or neuron that stock netx refuses or that is not simulated here, by name.
    """
    return opened(path, lambda root: _load(root, layers, message_bits, input_shape))


def _load(root: Reader, most: int | None, message_bits: int | None, input_shape: Shape) -> Netlist:
    group = root.child("layer")
    count = len(group.group)
    if most is not None:
        if not 1 <= most <= count:
            raise InputError(f"{group.where}: {most} layers asked for; the file has {count}")
        count = most
    walk = Walk(input_shape)
    for number in range(count):
        read_entry(walk, group.child(str(number)), number)
    layers = walk.layers
    computing = [index for index, layer in enumerate(layers) if layer.kind != "input"]
    if not computing:
        raise InputError(f"{group.where}: no conv or dense layer")
    bits = port_bits(root) if message_bits is None else message_bits
    if bits and layers[0].kind != "input":
        layers[0] = replace(layers[0], graded=True)
    refused = tuple(note.text for note in walk.notes if note.kind == "fails")
    return Netlist(walk.first, tuple(layers), tuple(x.text for x in walk.notes if x.kind != "fails"), refused)


def read_entry(walk: Walk, reader: Reader, number: int) -> None:
    """Read the group `number` of ``layer/``, the next one after those that `walk` has seen.

    Raises:
        InputError, UnsupportedError: as `load`.
    """
    if reason := walk.stock.entry(reader):
        walk.note("fails", f"{reader.where}: {reason}")
    kind = reader.text("type")
    if kind == "input":
        if number:
            raise InputError(f"{reader.where}: an input layer at place {number}; it comes first")
        walk.shape = walk.first = _shape(reader, 3)
        if reader.item("neuron") is not None:
            walk.layers.append(_input(reader, str(number), walk.shape, walk))
    elif kind == "flatten":
        walk.flatten = len(walk.shape) == 3
    elif kind in ("conv", "dense", "dense_rec"):
        if not walk.shape:  # netx needs no input layer before a dense one
            walk.shape = walk.first = _fan_in(reader, kind)
        make = _conv if kind == "conv" else _dense
        walk.flatten |= kind != "conv" and len(walk.shape) == 3 and not walk.layers  # no process there to flatten
        layer = make(reader, str(number), walk.shape, walk.flatten, walk)
        walk.layers.append(replace(layer, flatten=walk.flatten))
        walk.shape, walk.flatten = layer.shape, False
    else:
        fewer = f"; --layers {number} runs those before it" if any(x.kind != "input" for x in walk.layers) else ""
        raise UnsupportedError(f"{reader.where}: layer type '{one_line(kind)}' is not one that netx runs{fewer}")


def port_bits(root: Reader) -> int:
    """Bits of the integers at the port, from our own group."""
    own = root.item("snn2chip")
    if not isinstance(own, h5py.Group):
        return 0
    value = np.asarray(root.child("snn2chip").attribute("input_message_bits"))
    if value.shape != () or value.dtype.kind not in "iu" or not 0 <= int(value) <= 24:
        raise InputError(f"{root.where}/snn2chip: input_message_bits is {one_line(value.tolist())}; expected 0..24")
    return int(value)


def _shape(reader: Reader, axes: int) -> Shape:
    """The shape of a layer as the file has it, without the axes of size 1 that old files put around features."""
    sides = tuple(int(side) for side in reader.array("shape", axes).flatten())
    if len(sides) not in (1, 3) or min(sides) < 1 or int(np.prod([float(side) for side in sides])) > MAX_NEURONS:
        raise InputError(f"{reader.where}: shape {sides}; expected (C, H, W) or (features,), at most {MAX_NEURONS}")
    return sides


def _neuron(
    reader: Reader, walk: Walk, shape: Shape, default: tuple[int, int, int] | None = None
) -> tuple[Constant, Constant, Constant]:
    """(iDecay, vDecay, vThMant) of neurons (C, H, W) or (F,): numbers, or arrays that broadcast over them."""
    if default is not None and not walk.sampled and reader.item("neuron") is None:
        return default
    neuron, limits = reader.child("neuron"), walk.limits
    kind = neuron.text("type")
    if kind == STEPS and walk.sampled:  # the rest is in its tables
        return neuron.integer("iDecay", limits.current_decay, 4096), 0, 0
    if kind not in NEURONS:
        known = f"not simulated; CUBA, LOIHI and {STEPS}" if walk.sampled else "not run in chip time; CUBA and LOIHI"
        raise UnsupportedError(f"{neuron.where}: neuron type '{one_line(kind)}' is {known} are")
    if neuron.item("messageBits") is not None:
        # a CUBA neuron sends 0 and 1 whatever the message could hold, so nothing changes in what it computes
        neuron.integer("messageBits", 0, 32)
    threshold, current_decay, voltage_decay = (
        neuron.integer(name, least, most) if walk.sampled else _constant(neuron, name, most, shape)
        for name, least, most in (
            ("vThMant", 0, limits.threshold),
            ("iDecay", limits.current_decay, 4096),
            ("vDecay", 0, 4096),
        )
    )
    if np.max(threshold) > _THRESHOLD:
        walk.note("register", f"{reader.where}: vThMant {np.max(threshold)} exceeds the chip's {_THRESHOLD}")
    return current_decay, voltage_decay, threshold


def _constant(neuron: Reader, name: str, most: int, shape: Shape) -> Constant:
    """A number for all neurons, or an array of what Lava spreads over them: by channel, by neuron, ..."""
    stored = neuron.numbers(name)
    kind = stored.dtype
    if (name == "iDecay" and kind.kind == "u" and not stored.all()) or (
        name == "vThMant" and kind.kind in "iu" and stored.ndim and 64 * int(stored.max()) > np.iinfo(kind).max
    ):
        raise UnsupportedError(f"{neuron.where}: '{name}' is stored as {kind}, in which netx's sums wrap; store int64")
    if stored.size == 1:
        return neuron.integer(name, 0, most)
    values = neuron.within(name, 0, most)
    if name != "vThMant" and set(values.shape[: -len(shape)]) == {1}:  # which netx lets be
        values = values.reshape(values.shape[-len(shape) :])
    try:
        spread = np.broadcast_to(values, shape[::-1]).transpose()
    except ValueError:
        raise InputError(
            f"{neuron.where}: '{name}' of shape {values.shape} does not spread over {shape[::-1]}"
        ) from None
    return int(values.flat[0]) if (values == values.flat[0]).all() else spread


def _bias(reader: Reader, shape: Shape, walk: Walk) -> IntArray:
    """One bias mantissa a neuron, spread over `shape` as Lava does."""
    reader.budget.spend(math.prod(shape), reader.where)
    if reader.item("bias") is None:
        return np.zeros(shape, dtype=np.int64)
    stored = reader.within("bias", *walk.limits.bias)
    low, high = _BIASES
    outside = int(((stored < low) | (stored > high)).sum())
    if outside:
        walk.note("register", f"{reader.where}: {outside} biases outside the chip's {low}..{high}")
    spread = spread_bias(stored, shape[::-1])
    if spread is None:
        raise InputError(f"{reader.where}: bias of shape {stored.shape} fits neither {shape[:1]} nor {shape[::-1]}")
    return spread.transpose().copy()


def _input(reader: Reader, number: str, shape: Shape, walk: Walk) -> ChipLayer:
    current_decay, voltage_decay, threshold = _neuron(reader, walk, shape)
    gain, offset = (
        reader.integer(name, -(2**15), 2**15 - 1) if reader.item(name) is not None else default
        for name, default in (("weight", 64), ("bias", 0))
    )
    reader.budget.spend(math.prod(shape), reader.where)
    none, zeros = np.zeros((0, 0), dtype=np.int64), np.zeros(shape, dtype=np.int64)
    constants = threshold, voltage_decay, current_decay
    return ChipLayer(number, "input", none, zeros, shape, *constants, gain=gain, offset=offset)


def _conv(reader: Reader, number: str, shape: Shape, flatten: bool, walk: Walk) -> ChipLayer:
    weight = reader.weights("weight", *walk.limits.weight)
    if weight.ndim == 5 and weight.shape[4] == 1:
        weight = weight[..., 0]
    stride, padding, dilation = reader.pair("stride", 1), reader.pair("padding", 0), reader.pair("dilation", 1)
    if max(*stride, *padding, *dilation, *weight.shape[2:]) > 127 and not walk.sampled:
        raise UnsupportedError(
            f"{reader.where}: stride, padding, dilation or kernel beyond 127, which Lava cannot hold"
        )
    groups = reader.integer("groups", 1, 2**15)
    if len(shape) != 3 or flatten:
        raise InputError(f"{reader.where}: a convolution after an input of shape {shape}; it needs (C, H, W)")
    if weight.ndim != 4 or weight.shape[1] * groups != shape[0] or len(weight) % groups or not weight.size:
        raise InputError(f"{reader.where}: weights {weight.shape}, groups {groups} do not fit an input {shape}")
    sides = tuple(out_size(shape[1 + i], weight.shape[2 + i], stride[i], padding[i], dilation[i]) for i in range(2))
    out = (len(weight), *sides)
    if min(sides) < 1 or _shape(reader, 3) != out:
        raise InputError(f"{reader.where}: shape {_shape(reader, 3)} is not the {out} it computes")
    beyond = 0 if walk.sampled else int(((weight < LOWEST) | (weight > HIGHEST)).sum())  # else refused above
    if beyond:
        walk.note(
            "register",
            f"{reader.where}: {beyond} weights outside {LOWEST}..{HIGHEST} ({weight.min()}..{weight.max()}), which the "
            f"chip cannot hold; netx does not look at them and Lava computes with them as they are",
        )
    current_decay, voltage_decay, threshold = _neuron(reader, walk, out)
    geometry = stride, padding, dilation, groups
    bias = _bias(reader, out, walk)
    return ChipLayer(number, "conv", weight, bias, out, threshold, voltage_decay, current_decay, *geometry)


def _fan_in(reader: Reader, kind: str) -> Shape:
    """Inputs of a first layer that no input layer stands before."""
    weight = reader.whole("weight")
    if kind == "conv" or weight.ndim != 2:
        raise InputError(
            f"{reader.where}: the first layer, and no input layer says what comes in; give --input-shape C,H,W"
        )
    return (weight.shape[1],)


def _dense(reader: Reader, number: str, shape: Shape, flatten: bool, walk: Walk) -> ChipLayer:
    recurrent = reader.text("type") == "dense_rec"
    inputs = int(np.prod(shape))
    out = int(np.prod(_shape(reader, 3)))
    if len(shape) == 3 and not flatten and shape[0] != inputs:
        raise InputError(f"{reader.where}: a dense layer after an input of shape {shape}; a flatten is missing")
    stored = [
        _matrix(reader, name, (out, fan_in), walk)
        for name, fan_in in (("weight", inputs), ("weight_rec", out))[: 1 + recurrent]
    ]
    loaded = load_dense(tuple(stored), reader.where)
    walk.notes.extend(Finding("changed", f"{reader.where}: {note}") for note in loaded.notes)
    if recurrent and reader.item("delay") is not None:
        raise UnsupportedError(
            f"{reader.where}: delays of a recurrent layer: netx gives those of its inputs to its own spikes too, and "
            f"leaves out the weights' exponent; take 'delay' out"
        )
    current_decay, voltage_decay, threshold = _neuron(reader, walk, (out,), _DEFAULT)
    bias, delay = _bias(reader, (out,), walk), _delay(reader, loaded.weights[0].shape, walk)
    weight, own = (*loaded.weights, None)[:2]
    assert weight is not None  # the first of one or two
    kind: Kind = "dense_rec" if recurrent else "dense"
    constants = threshold, voltage_decay, current_decay
    return ChipLayer(number, kind, weight, bias, (out,), *constants, recurrent=own, delay=delay)


def _matrix(reader: Reader, name: str, shape: tuple[int, int], walk: Walk) -> Weights:
    stored = reader.weights(name, *walk.limits.weight)
    if stored.ndim == 1 and stored.size == shape[0] * shape[1]:  # netx: one row for each neuron
        stored = stored.reshape(shape)
    if stored.shape != shape:
        raise InputError(f"{reader.where}: {name} of shape {stored.shape}; {shape} fits what comes in")
    return stored


def _delay(reader: Reader, shape: tuple[int, ...], walk: Walk) -> IntArray | None:
    """Steps of delay of every synapse: from one number, one a neuron, one an input, or one a synapse."""
    if reader.item("delay") is None:
        return None
    reader.budget.spend(math.prod(shape), reader.where)
    stored = reader.array("delay")
    least, most = (int(stored.min()), int(stored.max())) if stored.size else (0, 0)
    if most > MAX_DELAY:  # only then does netx clamp, and at both ends
        clamped = int(((stored < 0) | (stored > MAX_DELAY)).sum())
        text = f"{reader.where}: {clamped} delays outside 0..{MAX_DELAY} ({least}..{most}): netx clamps them"
        walk.note("changed", text)
        stored = stored.clip(0, MAX_DELAY)
    elif least < 0:
        raise InputError(f"{reader.where}: a delay of {least}; expected 0..{MAX_DELAY}")
    if stored.size == 1 and stored.ndim == 0:
        return np.broadcast_to(stored, shape).copy()
    if stored.shape == shape:
        return stored
    if stored.shape == shape[:1]:  # netx looks at the neurons first
        return np.broadcast_to(stored[:, None], shape).copy()
    if stored.shape == shape[1:]:
        return np.broadcast_to(stored[None, :], shape).copy()
    raise InputError(f"{reader.where}: delays of shape {stored.shape} fit neither {shape} nor one of its sides")
