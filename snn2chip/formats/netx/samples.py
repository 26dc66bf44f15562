"""A file that `snn2chip.formats.netx.write.save` wrote, read back into the same chain: strict, and with its samples.

Its layers are read as those of any netx file, within the chip's own limits; see `snn2chip.formats.netx.read`.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from snn2chip.errors import InputError, UnsupportedError
from snn2chip.formats.netx.fields import FORMAT_VERSION, STEPS, Reader, opened
from snn2chip.formats.netx.read import Walk, read_entry
from snn2chip.ir import CODINGS, Chain, ChainLayer, StepTables
from snn2chip.text import one_line


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
            f"readout are unknown; run it in raw chip time: `snn2chip chip`, or with --clock chip"
        )
    own = root.child("snn2chip")
    version = own.attribute("format_version")
    if version != FORMAT_VERSION:
        found = one_line(version)
        raise InputError(f"{own.where}: format version {found}, this snn2chip reads {FORMAT_VERSION}; update it")
    timesteps = own.integers("timesteps", 1)[0]
    if not 1 <= timesteps <= 2**20:
        raise InputError(f"{own.where}: timesteps {timesteps} is outside 1..{2**20}")
    origin = own.decoded("origin", dict)
    layers: list[ChainLayer] = []
    walk = Walk(sampled=True)
    for number in range(len(layers_group.group)):
        reader = layers_group.child(str(number))
        kind = reader.text("type")
        if kind not in ("input", "flatten", "conv", "dense"):
            raise UnsupportedError(
                f"{reader.where}: layer type '{one_line(kind)}' is not one that netx runs as a chain"
            )
        if kind != "input" and not walk.shape:
            raise InputError(f"{reader.where}: '{one_line(kind)}' before the input layer")
        read_entry(walk, reader, number)
        if len(walk.layers) > len(layers):
            layers.append(_chain_layer(reader, walk, timesteps, origin.get(str(number), {}), own.where))
    if not layers:
        raise InputError(f"{layers_group.where}: no conv or dense layer")
    readout, coding = own.words("readout"), own.words("coding")
    if readout not in ("membrane", "spike_count") or coding not in CODINGS:
        raise InputError(
            f"{own.where}: readout '{one_line(readout)}', coding '{one_line(coding)}': not known to this snn2chip"
        )
    raw_shape = own.integers("input_raw_shape")
    center = own.integers("input_center")
    if (
        min(raw_shape, default=0) < 1
        or math.prod(raw_shape) != math.prod(walk.first)
        or len(center) not in (1, raw_shape[0])
    ):
        raise InputError(
            f"{own.where}: input_raw_shape {one_line(raw_shape)} and input_center {one_line(center)} do not fit "
            f"{walk.first}"
        )
    pixel_max, low, high = (own.integers(name, 1)[0] for name in ("pixel_max", "input_low", "input_high"))
    if not -(2**24) <= low <= min(center) <= max(center) <= high <= 2**24 or not 1 <= pixel_max <= 2**24:
        raise InputError(
            f"{own.where}: input_low {low}, input_center {one_line(center)}, input_high {high} and pixel_max "
            f"{pixel_max} do not fit together"
        )
    classes = own.decoded("classes", list)
    if not all(isinstance(name, str) for name in classes):
        raise InputError(f"{own.where}: attribute 'classes' is not a list of names")
    return Chain(
        walk.first,
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


def _chain_layer(reader: Reader, walk: Walk, timesteps: int, places: dict[str, Any], where: str) -> ChainLayer:
    """The layer that was read last, as one of a chain; `places` are its trained layers, by our group at `where`."""
    layer, weight = walk.layers[-1], walk.layers[-1].weight
    if layer.kind == "input" or layer.delay is not None:
        what = "neurons of the input" if layer.kind == "input" else "delays"
        raise UnsupportedError(
            f"{reader.where}: {what} run in raw chip time only: `snn2chip chip`, or with --clock chip"
        )
    odd = layer.kind == "dense" and np.abs(weight).max(initial=0) > 127 and bool((weight % 2).any())
    if odd and weight.min() < 0 < weight.max():
        raise InputError(
            f"{reader.where}: odd weights beside ones beyond 127, which Lava would truncate; use even ones only"
        )
    if changed := [note.text for note in walk.notes if note.kind == "changed"]:
        raise UnsupportedError(changed[0])
    origin = {str(name): (int(place[0]), int(place[1])) for name, place in places.items()}
    if any(not 0 <= start < stop <= len(weight) for start, stop in origin.values()):
        raise InputError(f"{where}: origin {one_line(places)} does not fit the {len(weight)} channels of {layer.name}")
    neuron = reader.child("neuron")
    steps = _read_tables(neuron, timesteps, layer.shape[0]) if neuron.text("type") == STEPS else None
    return cast(ChainLayer, replace(layer, origin=origin, steps=steps))  # a sampled file has one number a layer
