"""model.net: lava-dl's netx HDF5, loadable by stock `lava.lib.dl.netx.hdf5.Network`, plus a group of our own.

netx's part (lava-dl 0.6.0, `lava/lib/dl/netx/hdf5.py`): ``layer/<number>/`` with `type`, `shape` as (C, H, W),
`weight` as torch has it, `bias` per channel (C,) or per neuron (W, H, C), `neuron/` {type 'CUBA', iDecay,
vDecay, vThMant, refDelay}, and for convolutions `stride`, `padding`, `dilation` as (H, W), `groups`,
`kernelSize`, `inChannels`, `outChannels`.

Time-varying neurons (see `snn2chip.passes.fold_bntt`) are *not* stock netx: `neuron/type` is ``SNN2CHIP_STEPS``, which
stock netx refuses, and `neuron/` holds `leak`, `stepBias` and `stepThreshold`, (T, C) int32, `leakShift`, and `scale`,
(C,) float64, as in `snn2chip.ir.StepTables`. deploy/lava loads such a file through netx, with a neuron of ours.

Our group ``snn2chip`` has attributes: format_version, stock_netx, timesteps, readout, coding, pixel_max, input_low,
input_high, input_center, input_raw_shape, input_message_bits, classes (JSON), made (JSON), origin (JSON: layer number
to {trained layer: [first channel, last channel + 1]}).
"""

from __future__ import annotations

import io
import json
import math
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from snn2chip.errors import InputError, UnsupportedError
from snn2chip.files import atomic_path, read_back
from snn2chip.formats.hdf5 import FREE, PER_BYTE
from snn2chip.formats.netx.fields import MAX_NEURONS, Reader, opened
from snn2chip.formats.netx.weights import load_dense
from snn2chip.ir import CODINGS, Chain, ChainLayer, IntArray, Shape, StepTables, out_size
from snn2chip.text import one_line

FORMAT_VERSION = 1
STEPS = "SNN2CHIP_STEPS"  # the type of time-varying neurons
_ATTRIBUTE_BYTES = 60_000  # HDF5's own limit is 64 KiB with everything around it


def save(path: str | Path, chain: Chain) -> None:
    """Write a chain as netx HDF5, whole or not at all: what was written is read back before it takes its place.

    Raises:
        InputError: the file cannot be written, or what was written is refused or differs when it is read.
        UnsupportedError: dense weights that Lava would not compute with as they are.
    """
    # HDF5 crashes the process when a file it writes cannot grow (a full disk): it writes to memory instead
    memory = io.BytesIO()
    with h5py.File(memory, "w") as file:
        layers = file.create_group("layer")
        first = layers.create_group("0")
        first["type"] = np.array([b"input"])
        first["shape"] = np.array(chain.input_shape)
        for layer in chain.layers:
            if layer.flatten:
                flat = layers.create_group(str(int(layer.name) - 1))
                flat["type"] = np.array([b"flatten"])
                flat["shape"] = np.array([layer.weight.shape[1]])
            _write_layer(layers.create_group(layer.name), layer)
        own = file.create_group("snn2chip")
        own.attrs["format_version"] = FORMAT_VERSION
        own.attrs["stock_netx"] = chain.stock
        own.attrs["timesteps"] = chain.timesteps
        own.attrs["readout"] = np.bytes_(chain.readout.encode())
        own.attrs["coding"] = np.bytes_(chain.coding.encode())
        own.attrs["pixel_max"] = chain.pixel_max
        own.attrs["input_low"] = chain.low
        own.attrs["input_high"] = chain.high
        own.attrs["input_center"] = np.array(chain.center)
        own.attrs["input_raw_shape"] = np.array(chain.raw_shape)
        own.attrs["input_message_bits"] = chain.message_bits
        _write_json(own, "classes", chain.classes)
        _write_json(own, "made", chain.made)
        _write_json(own, "origin", {layer.name: layer.origin for layer in chain.layers})
    with atomic_path(path) as part:
        part.write_bytes(memory.getbuffer())
        if different := _different(read_back(path, part, load), chain):
            raise InputError(f"'{path}' is not written, what was read back differs: {different}")


def _different(read: Any, written: Any, where: str = "chain") -> str:
    """The first place where what was read differs from what was written, '' if there is none."""
    if isinstance(written, dict):  # JSON has no tuples, and only texts as keys
        read, written = json.dumps(read), json.dumps(written)
    pairs: list[tuple[Any, Any, str]]
    if isinstance(written, tuple) and len(read) == len(written):
        pairs = [(*pair, str(place)) for place, pair in enumerate(zip(read, written, strict=True))]
    elif is_dataclass(written):
        unused = ("threshold", "voltage_decay") if getattr(written, "steps", None) is not None else ()
        names = [field.name for field in fields(written) if field.name not in unused]
        pairs = [(getattr(read, name), getattr(written, name), name) for name in names]
    else:
        return "" if np.array_equal(read, written) else where
    return next(filter(None, (_different(mine, theirs, f"{where}.{name}") for mine, theirs, name in pairs)), "")


def _write_json(own: h5py.Group, name: str, value: Any) -> None:
    """JSON as an attribute of fixed length, or as a dataset where it exceeds what an attribute holds.

    Of fixed length, because HDF5 can crash on a damaged text of variable length, which stands elsewhere in the file.
    """
    text = np.bytes_(json.dumps(value).encode())
    if len(text) < _ATTRIBUTE_BYTES:
        own.attrs[name] = text
    else:
        own[name] = text


def _check_kept(weight: IntArray, where: str) -> None:
    """Refuse dense weights that Lava would not compute with as they are.

    Raises:
        UnsupportedError: what Lava would make of them.
    """
    loaded = load_dense((weight,), where)
    if loaded.notes:
        raise UnsupportedError(f"{where}: {'; '.join(loaded.notes)}")


def _write_layer(group: h5py.Group, layer: ChainLayer) -> None:
    group["type"] = np.array([layer.kind.encode()])
    group["shape"] = np.array(layer.shape)
    if layer.kind == "dense":
        where = f"layer {layer.name} ({', '.join(layer.origin) or 'of no name'})"
        _check_kept(layer.weight, where)
        if not layer.weight.any():
            raise UnsupportedError(f"{where}: every weight is 0, on which netx fails; train again")
    weight = layer.weight.astype(np.int32)
    made = group.create_dataset("weight", data=weight, compression="gzip", compression_opts=1)
    if weight.size > FREE // 8:
        group.file.flush()
        if PER_BYTE * made.id.get_storage_size() < weight.size:
            # relays past a wide dense layer: so many values in so few bytes are what a reader takes for damage
            del group["weight"]
            group["weight"] = weight
    bias = layer.bias
    if layer.kind == "conv":
        per_channel = bias[:, 0, 0]
        same = bool((bias == per_channel[:, None, None]).all())
        # a shape (W, H, C) that netx could take for (C,) does not exist: it has three axes
        bias = per_channel if same else bias.transpose(2, 1, 0)
        group["stride"] = np.array(layer.stride)
        group["padding"] = np.array(layer.padding)
        group["dilation"] = np.array(layer.dilation)
        group["groups"] = layer.groups
        group["kernelSize"] = np.array(layer.weight.shape[2:])
        group["inChannels"] = layer.weight.shape[1] * layer.groups
        group["outChannels"] = layer.weight.shape[0]
    group.create_dataset("bias", data=bias.astype(np.int32), compression="gzip", compression_opts=1)
    neuron = group.create_group("neuron")
    neuron["iDecay"] = layer.current_decay
    neuron["refDelay"] = 1
    if layer.steps is None:
        neuron["type"] = np.array([b"CUBA"])  # of fixed length, as above
        neuron["vDecay"] = layer.voltage_decay
        neuron["vThMant"] = layer.threshold
        return
    neuron["type"] = np.array([STEPS.encode()])
    neuron["leak"] = layer.steps.leak.astype(np.int32)
    neuron["leakShift"] = layer.steps.leak_shift
    neuron["stepBias"] = layer.steps.bias.astype(np.int32)
    neuron["stepThreshold"] = layer.steps.threshold.astype(np.int32)
    neuron["scale"] = layer.steps.scale


def load(path: str | Path) -> Chain:
    """Read a file written by `save` back into the same chain.

    Raises:
        InputError: unreadable, truncated, damaged, or not made by snn2chip.
        UnsupportedError: a layer or neuron type this version does not simulate, named.
    """
    return opened(path, _load)


def _load(root: Reader) -> Chain:
    layers_group = root.child("layer")
    if "snn2chip" not in root.group:
        raise InputError(
            f"{root.where}: no group 'snn2chip': not made by `snn2chip fold-and-export`, so its timesteps and "
            f"readout are unknown; run it in raw chip time with --clock chip"
        )
    own = root.child("snn2chip")
    version = own.attribute("format_version")
    if version != FORMAT_VERSION:
        found = one_line(version)
        raise InputError(f"{own.where}: format version {found}, this snn2chip reads {FORMAT_VERSION}; update it")
    timesteps = int(own.attribute("timesteps"))
    if not 1 <= timesteps <= 2**20:
        raise InputError(f"{own.where}: timesteps {timesteps} is outside 1..{2**20}")
    origin = own.decoded("origin", dict)
    count = len(layers_group.group)
    shape: Shape = ()
    layers: list[ChainLayer] = []
    flatten = False
    for number in range(count):
        reader = layers_group.child(str(number))
        kind = reader.text("type")
        if kind == "input":
            shape = tuple(int(side) for side in reader.array("shape", 3).flatten())
            input_shape = shape
            if number or not shape or min(shape) < 1 or math.prod(shape) > MAX_NEURONS:
                raise InputError(f"{reader.where}: an input of shape {shape} at place {number}")
        elif not shape:
            raise InputError(f"{reader.where}: '{one_line(kind)}' before the input layer")
        elif kind == "flatten":
            flatten = len(shape) == 3
        elif kind in ("conv", "dense"):
            layer = _read_layer(reader, str(number), kind, shape, flatten, timesteps)
            places = origin.get(str(number), {})
            layer.origin.update({str(k): (int(v[0]), int(v[1])) for k, v in places.items()})
            if any(not 0 <= start < stop <= len(layer.weight) for start, stop in layer.origin.values()):
                raise InputError(
                    f"{own.where}: origin {one_line(places)} does not fit the {len(layer.weight)} channels of {number}"
                )
            layers.append(layer)
            shape, flatten = layer.shape, False
        else:
            raise UnsupportedError(
                f"{reader.where}: layer type '{one_line(kind)}' is not one that netx runs as a chain"
            )
    if not layers:
        raise InputError(f"{layers_group.where}: no conv or dense layer")
    readout, coding = own.words("readout"), own.words("coding")
    if readout not in ("membrane", "spike_count") or coding not in CODINGS:
        raise InputError(
            f"{own.where}: readout '{one_line(readout)}', coding '{one_line(coding)}': not known to this snn2chip"
        )
    raw_shape = tuple(int(side) for side in np.atleast_1d(own.attribute("input_raw_shape")))
    center = tuple(int(c) for c in np.atleast_1d(own.attribute("input_center")))
    if (
        min(raw_shape, default=0) < 1
        or math.prod(raw_shape) != math.prod(input_shape)
        or len(center) not in (1, raw_shape[0])
    ):
        raise InputError(
            f"{own.where}: input_raw_shape {one_line(raw_shape)} and input_center {one_line(center)} do not fit "
            f"{input_shape}"
        )
    pixel_max, low, high = (int(own.attribute(name)) for name in ("pixel_max", "input_low", "input_high"))
    if not -(2**24) <= low <= min(center) <= max(center) <= high <= 2**24 or not 1 <= pixel_max <= 2**24:
        raise InputError(
            f"{own.where}: input_low {low}, input_center {one_line(center)}, input_high {high} and pixel_max "
            f"{pixel_max} do not fit together"
        )
    classes = own.decoded("classes", list)
    if not all(isinstance(name, str) for name in classes):
        raise InputError(f"{own.where}: attribute 'classes' is not a list of names")
    return Chain(
        input_shape,
        raw_shape,
        next(kind for kind in CODINGS if kind == coding),
        pixel_max,
        low,
        high,
        center,
        timesteps,
        "membrane" if readout == "membrane" else "spike_count",
        tuple(classes),
        tuple(layers),
        own.decoded("made", dict),
    )


def _read_tables(neuron: Reader, timesteps: int, channels: int) -> StepTables:
    """The tables of time-varying neurons; T must be the file's own."""
    shape = (timesteps, channels)
    return StepTables(
        neuron.table("leak", shape, 0, 2**16 - 1),
        neuron.integer("leakShift", 0, 16),
        neuron.table("stepBias", shape, -(2**23) + 1, 2**23 - 1),
        neuron.table("stepThreshold", shape, 0, 2**23 - 1),
        neuron.positive("scale", channels),
    )


def _read_layer(reader: Reader, name: str, kind: str, shape: Shape, flatten: bool, timesteps: int) -> ChainLayer:
    weight = reader.within("weight", -256, 254)
    neuron = reader.child("neuron")
    if (neuron_type := neuron.text("type")) not in ("CUBA", "LOIHI", STEPS):
        raise UnsupportedError(
            f"{neuron.where}: neuron type '{one_line(neuron_type)}' is not simulated; CUBA, LOIHI and {STEPS} are"
        )
    stride = padding = dilation = (0, 0)
    groups = 1
    if kind == "conv":
        stride, padding, dilation = (
            reader.pair("stride", 1),
            reader.pair("padding", 0),
            reader.pair("dilation", 1),
        )
        groups = reader.integer("groups", 1, 2**15)
        if weight.ndim != 4 or len(shape) != 3 or weight.shape[1] * groups != shape[0] or len(weight) % groups:
            raise InputError(f"{reader.where}: weights {weight.shape}, groups {groups} do not fit an input {shape}")
        sides = tuple(out_size(shape[1 + i], weight.shape[2 + i], stride[i], padding[i], dilation[i]) for i in range(2))
        if min(sides) < 1:
            raise InputError(f"{reader.where}: kernel {weight.shape[2:]} does not fit an input {shape}")
        out: Shape = (len(weight), *sides)
    else:
        if np.abs(weight).max(initial=0) > 127 and (weight % 2).any() and weight.min() < 0 < weight.max():
            raise InputError(
                f"{reader.where}: odd weights beside ones beyond 127, which Lava would truncate; use even ones only"
            )
        if weight.ndim != 2 or weight.shape[1] != math.prod(shape) or (len(shape) == 3 and not flatten):
            raise InputError(f"{reader.where}: weights {weight.shape} do not fit an input {shape}; flatten missing?")
        _check_kept(weight, reader.where)
        stride = dilation = (1, 1)
        out = (len(weight),)
    if tuple(reader.array("shape", 3).flatten().tolist()) != out or math.prod(out) > MAX_NEURONS:
        raise InputError(f"{reader.where}: shape {reader.array('shape', 3).tolist()} is not the {out} it computes")
    reader.budget.spend(math.prod(out), reader.where)
    bias = np.zeros(out, dtype=np.int64)
    if "bias" in reader.group:
        stored = reader.within("bias", -4096, 4095)
        if stored.shape == (out[0],):
            bias = np.broadcast_to(stored.reshape(-1, *(1,) * (len(out) - 1)), out).copy()
        elif stored.shape == out[::-1]:
            bias = stored.transpose(2, 1, 0).copy()
        else:
            raise InputError(f"{reader.where}: bias of shape {stored.shape} fits neither {out[:1]} nor {out[::-1]}")
    steps = _read_tables(neuron, timesteps, out[0]) if neuron_type == STEPS else None
    return ChainLayer(
        name,
        "conv" if kind == "conv" else "dense",
        weight,
        bias,
        out,
        0 if steps else neuron.integer("vThMant", 0, 2**17 - 1),
        0 if steps else neuron.integer("vDecay", 0, 4096),
        neuron.integer("iDecay", 1, 4096),
        stride,
        padding,
        dilation,
        groups,
        flatten,
        steps=steps,
    )
