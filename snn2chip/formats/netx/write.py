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
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from snn2chip.errors import InputError, UnsupportedError
from snn2chip.files import atomic_path, read_back
from snn2chip.formats.netx.fields import FORMAT_VERSION, STEPS
from snn2chip.formats.netx.samples import load
from snn2chip.formats.netx.weights import load_dense
from snn2chip.hdf5 import FREE, PER_BYTE
from snn2chip.ir import Chain, ChainLayer, Weights
from snn2chip.processors import threads

_CHUNK = 2**16  # weights that are deflated together: in the file no chunk that a reader would have to look into
_ATTRIBUTE_BYTES = 60_000  # HDF5's own limit is 64 KiB with everything around it


def save(path: str | Path, chain: Chain) -> None:
    """Write a chain as netx HDF5, whole or not at all: what was written is read back before it takes its place.

    Raises:
        InputError: the file cannot be written, or what was written is refused or differs when it is read.
        UnsupportedError: dense weights that Lava would not compute with as they are.
    """
    # HDF5 crashes the process when a file it writes cannot grow (a full disk): it writes to memory instead
    memory, room = io.BytesIO(), _Room()
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
            _write_layer(layers.create_group(layer.name), layer, room)
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
        part.write_bytes(memory.getvalue())
        memory.close()  # of a large network gigabytes, and what is read back takes its own
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


@dataclass
class _Room:
    """How many values a file may still claim before a reader takes it for damaged (`hdf5.Budget`), half of those that
    cost nothing left to what is not counted here."""

    left: int = FREE // 2


def _deflated(group: h5py.Group, name: str, values: Weights, room: _Room) -> h5py.Dataset:
    """Weights (O, I, ...) as 32-bit integers, as HDF5's gzip filter has them; that one would work on one processor.

    Relays past a wide layer are so many zeros in so few bytes that a reader would take them for damage: where there is
    no room, chunks are stored as they are.
    """
    inner = math.prod(values.shape[2:])
    inputs = min(values.shape[1], max(1, _CHUNK // inner))
    chunk = (min(len(values), max(1, _CHUNK // (inputs * inner))), inputs, *values.shape[2:])
    made = group.create_dataset(name, values.shape, "<i4", chunks=chunk, compression="gzip", compression_opts=1)
    starts = [
        (output, first, *(0,) * (values.ndim - 2))
        for output in range(0, len(values), chunk[0])
        for first in range(0, values.shape[1], inputs)
    ]

    def part(start: tuple[int, ...]) -> Weights:
        return values[start[0] : start[0] + chunk[0], start[1] : start[1] + inputs]

    def whole(start: tuple[int, ...]) -> bytes:
        given = part(start)
        full = np.zeros(chunk, "<i4")  # a chunk is whole, also where the array ends before it
        full[: len(given), : given.shape[1]] = given
        return full.tobytes()

    with ThreadPoolExecutor(threads()) as pool:
        for start, data in zip(starts, pool.map(lambda start: zlib.compress(whole(start), 1), starts), strict=True):
            room.left -= part(start).size
            plain = room.left + PER_BYTE * len(data) < 0 and inner <= _CHUNK
            stored = whole(start) if plain else data
            room.left += PER_BYTE * len(stored)
            made.id.write_direct_chunk(start, stored, filter_mask=int(plain))
    return made


def _write_layer(group: h5py.Group, layer: ChainLayer, room: _Room) -> None:
    group["type"] = np.array([layer.kind.encode()])
    group["shape"] = np.array(layer.shape)
    if layer.kind == "dense":
        where = f"layer {layer.name} ({', '.join(layer.origin) or 'of no name'})"
        if notes := load_dense((layer.weight,), where).notes:
            raise UnsupportedError(f"{where}: {'; '.join(notes)}")
        if not layer.weight.any():
            raise UnsupportedError(f"{where}: every weight is 0, on which netx fails; train again")
    room.left -= 2 * layer.bias.size  # stored, and spread over the neurons
    _deflated(group, "weight", layer.weight, room)
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
