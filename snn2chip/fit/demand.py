"""What each layer of a network asks of a chip: shapes, kernels and bits of weights, nothing that it computes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from snn2chip.errors import InputError, UnsupportedError
from snn2chip.formats.netx.fields import STEPS
from snn2chip.formats.netx.look import COMPUTING, Entry, look
from snn2chip.ir import Chain, Pair, Shape, Weights, out_size
from snn2chip.passes.outline import Outline, outline_of
from snn2chip.text import one_line


@dataclass(frozen=True)
class Demand:
    """One layer of neurons and the synapses that drive it.

    name         kind and number among those of its kind: conv1, conv2, dense1
    inputs       what comes in, (C, H, W) or (F,); a dense layer takes all of it. Empty for an input layer, and without
                 sides for a convolution that no input layer stands before
    shape        of the neurons, (C, H, W) or (F,)
    weight_bits  of a weight in memory, see `stored_bits`
    delay_bits   of a delay beside each weight of a dense layer; no compiler's table with delays is known
    recurrent    the neurons drive themselves too
    graded_bits  of the integers that come in, 0 for spikes
    steps        the neurons' constants change with time
    program      the kind of neurons that are programs on the chip, SDNN or RF; else empty
    feeds        what reads the neurons: axons of a map are a position's, else a neuron's
    nonzero      share of its weights that are not 0, where they are known; no core is counted by it
    """

    name: str
    kind: Literal["input", "conv", "dense"]
    inputs: Shape
    shape: Shape
    weight_bits: int = 0
    kernel: Pair = (1, 1)
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    recurrent: bool = False
    graded_bits: int = 0
    steps: bool = False
    program: str = ""
    delay_bits: int = 0
    feeds: Literal["conv", "dense"] = "dense"
    nonzero: float = field(default=1.0, compare=False)

    @property
    def neurons(self) -> int:
        return math.prod(self.shape)

    @property
    def extent(self) -> tuple[int, int, int]:
        """(W, H, C) of the neurons; features count as channels."""
        channels, height, width = self.shape if len(self.shape) == 3 else (*self.shape, 1, 1)
        return width, height, channels

    @property
    def fan_in(self) -> int:
        """Sources of a dense layer, its own neurons among them if it is recurrent."""
        return math.prod(self.inputs) + (self.neurons if self.recurrent else 0)


def stored_bits(weight: Weights, dense: bool) -> int:
    """Bits of a weight in memory, 1..8: sign and magnitude where there are both signs, else magnitude.

    With both signs the lowest bit is dropped where it is 0 in all of them, as in every weight beyond 127. A dense layer
    has no 7 bits: Loihi's formats are 1..6 and 8.
    """
    low, high = int(weight.min(initial=0)), int(weight.max(initial=0))
    bits = max(1, max(high, -low).bit_length())
    if low < 0 < high:
        bits += int(np.bitwise_or.reduce(weight, axis=None)) & 1  # no array of their lowest bits
    bits = min(bits, 8)
    return 8 if dense and bits == 7 else bits


def _share(*weights: Weights) -> float:
    """Of weights that are not 0."""
    return sum(map(np.count_nonzero, weights)) / sum(weight.size for weight in weights)


def of_chain(chain: Chain) -> tuple[Demand, ...]:
    """The layers of one of our networks."""
    found = of_outlines([outline_of(layer) for layer in chain.layers], chain.input_shape, chain.message_bits)
    return tuple(replace(each, nonzero=_share(layer.weight)) for each, layer in zip(found, chain.layers, strict=True))


def of_outlines(layers: Sequence[Outline], shape: Shape, message_bits: int) -> tuple[Demand, ...]:
    """The layers of a network that reads `shape`, in messages of so many bits, 0 for spikes."""
    demands: list[Demand] = []
    for layer in layers:
        kind: Literal["conv", "dense"] = "conv" if layer.kind == "conv" else "dense"  # a chain has no others
        bits = stored_bits(layer.weights, kind == "dense")
        demand = Demand(kind, kind, shape, layer.shape, bits, steps=layer.steps)
        if kind == "conv":
            geometry = layer.kernel, layer.stride, layer.padding, layer.dilation, layer.groups
            demand = Demand(kind, kind, shape, layer.shape, bits, *geometry, steps=layer.steps)
        demands.append(demand)
        shape = layer.shape
    demands[0] = replace(demands[0], graded_bits=message_bits)
    return _linked(demands)


def of_file(path: str | Path) -> tuple[Demand, ...]:
    """The layers of any netx file, sigma-delta (SDNN) ones too, whose input layer encodes outside of the cores.

    Raises:
        InputError: unreadable or damaged, or sizes that do not belong together.
        UnsupportedError: a layer or neurons that netx does not place on cores, by name.
    """
    seen = look(path)
    demands: list[Demand] = []
    shape: Shape = ()
    bits = seen.message_bits  # of what comes in
    for entry in seen.entries:
        where = f"'{path}': layer {entry.number}"
        if entry.kind == "input":
            shape = _sides(entry, where)
            program = _program(entry, where)
            if entry.neuron and program != "SDNN":
                demands.append(Demand("input", "input", (), shape, program=program))
            bits = _sent_bits(entry) if entry.neuron else bits
        elif entry.kind in COMPUTING:
            demand = replace(_layer(entry, shape, where), graded_bits=bits, program=_program(entry, where))
            demands.append(demand)
            shape, bits = demand.shape, _sent_bits(entry)
        elif entry.kind != "flatten":
            raise UnsupportedError(
                f"{where}: type '{entry.kind}' is not one that netx places on cores; it places conv, dense and "
                f"dense_rec (pooling is a conv with groups; an average over time can be left out)"
            )
    if not any(demand.kind != "input" for demand in demands):
        raise InputError(f"'{path}': no conv or dense layer, nothing to place on a chip")
    if failing := next((finding.text for finding in seen.findings if finding.kind == "fails"), ""):
        raise InputError(f"'{path}': {failing}")
    return _linked(demands)


def _linked(demands: list[Demand]) -> tuple[Demand, ...]:
    """The same, each with what reads it, and numbered: conv1, conv2, dense1."""
    names = [demand.kind for demand in demands]
    named = [replace(x, name=f"{x.kind}{names[: i + 1].count(x.kind)}") for i, x in enumerate(demands)]
    after = [*named[1:], None]
    return tuple(
        replace(demand, feeds="conv" if reader is not None and reader.kind == "conv" else "dense")
        for demand, reader in zip(named, after, strict=True)
    )


def _pair(shape: tuple[int, ...]) -> Pair:
    return int(shape[2]), int(shape[3])


def _program(entry: Entry, where: str) -> str:
    """SDNN or RF, as netx tells them; empty for neurons that every chip has, or none."""
    kind = entry.neuron.get("type", "")
    if kind == "SDNN" or "RF" in str(kind):
        return "SDNN" if kind == "SDNN" else "RF"
    if kind not in ("", "CUBA", "LOIHI", STEPS):
        raise UnsupportedError(f"{where}: neuron type '{kind}' is none that netx has; it has CUBA, LOIHI, SDNN and RF")
    return ""


def _sent_bits(entry: Entry) -> int:
    """Bits of the integers that a layer's neurons send, 0 for spikes: netx's defaults where the file says none."""
    said = entry.neuron.get("messageBits")
    if isinstance(said, np.ndarray):
        return max(0, int(said.flat[0]))
    return 16 if entry.neuron.get("type") == "SDNN" else 0


def _sides(entry: Entry, where: str) -> Shape:
    shape = entry.shape
    if entry.kind == "input" and len(shape) == 2:  # netx: one channel
        shape = (1, *shape)
    if entry.kind in ("dense", "dense_rec") and shape:
        shape = (math.prod(shape),)  # old files have axes of size 1 around features
    if len(shape) not in (1, 3):
        raise InputError(f"{where} ({entry.kind}): its shape {shape} is none of neurons, (C, H, W) or (features,)")
    return shape


def _array(entry: Entry, name: str, where: str) -> Weights:
    values = entry.arrays.get(name)
    if values is None or not values.size:
        said = next((finding.text for finding in entry.findings), f"'{name}' is missing")
        raise InputError(f"{where} ({entry.kind}): {one_line(said, 200)}")
    return values


def _layer(entry: Entry, inputs: Shape, where: str) -> Demand:
    shape, weight = _sides(entry, where), _array(entry, "weight", where)
    steps = entry.neuron.get("type") == STEPS
    if entry.kind == "conv":
        return _conv(entry, inputs, shape, weight, where, steps)
    neurons = math.prod(shape)
    together = [weight, _array(entry, "weight_rec", where)] if entry.kind == "dense_rec" else [weight]
    sources = math.prod(inputs) if inputs else weight.size // neurons
    if weight.size != neurons * sources or (len(together) > 1 and together[1].size != neurons**2):
        raise InputError(f"{where}: {weight.size:,} weights are not {neurons:,} neurons of {sources:,} inputs each")
    bits = max(stored_bits(values, True) for values in together)
    recurrent = entry.kind == "dense_rec"
    delays = entry.arrays.get("delay")
    return Demand(
        *("dense", "dense", inputs or (sources,), shape, bits),
        recurrent=recurrent,
        steps=steps,
        delay_bits=0 if delays is None or not delays.size else max(0, int(delays.max())).bit_length(),
        nonzero=_share(*together),
    )


def _conv(entry: Entry, inputs: Shape, shape: Shape, weight: Weights, where: str, steps: bool) -> Demand:
    def pair(key: str, least: int, usual: int) -> Pair:
        values = entry.geometry.get(key, (usual,))
        values = values * 2 if len(values) == 1 else values
        if len(values) != 2 or min(values) < least:
            raise InputError(f"{where}: '{key}' is {values}; expected two integers of at least {least}")
        return values[0], values[1]

    stride, padding, dilation = pair("stride", 1, 1), pair("padding", 0, 0), pair("dilation", 1, 1)
    groups = pair("groups", 1, 1)[0]
    if len(shape) != 3 or weight.ndim not in (4, 5) or weight.shape[0] != shape[0] or math.prod(weight.shape[4:]) != 1:
        raise InputError(f"{where}: weights {weight.shape} are not those of a convolution to {shape}")
    given = inputs or (weight.shape[1] * groups,)
    if weight.shape[1] * groups != given[0] or shape[0] % groups:
        raise InputError(f"{where}: weights {weight.shape}, groups {groups} do not fit an input {given}, (C, H, W)")
    kernel = _pair(weight.shape)
    if len(given) == 3:
        sides = tuple(out_size(given[1 + i], kernel[i], stride[i], padding[i], dilation[i]) for i in range(2))
        if shape[1:] != sides:
            raise InputError(f"{where}: shape {shape} is not the {(shape[0], *sides)} it computes")
    elif inputs:
        raise InputError(f"{where}: a convolution after an input of shape {inputs}; it needs (C, H, W)")
    geometry = kernel, stride, padding, dilation, groups
    bits, nonzero = stored_bits(weight, False), _share(weight)
    return Demand("conv", "conv", given, shape, bits, *geometry, steps=steps, nonzero=nonzero)
