"""Random netx files as others make them, and the plainest possible evaluation of one in chip time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from snn2chip.ir.netlist import ChipLayer, Netlist

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Foreign:
    """A file, a stream of input that fits it, and how it is to be run."""

    path: Path
    stream: IntArray
    message_bits: int
    reset_interval: int | None
    reset_offset: int


def neuron(group: h5py.Group, rng: np.random.Generator) -> None:
    """A neuron group with decays and a threshold drawn at random; the type as lava-dl writes it, of variable length."""
    made = group.create_group("neuron")
    made["type"] = str(rng.choice(["CUBA", "LOIHI"]))
    made["iDecay"] = int(rng.choice([1, 300, 1024, 4095, 4096]))
    made["vDecay"] = int(rng.choice([0, 128, 1024, 4096]))
    made["vThMant"] = int(rng.integers(0, 300))
    made["refDelay"] = 1


def weights(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Integers as floats, mostly of both signs, sometimes even, never all 0."""
    most = int(rng.choice([3, 60, 127, 200, 254]))
    low, high = ((-most, most), (0, most), (-most, -1))[int(rng.choice(3, p=[0.8, 0.15, 0.05]))]
    made = rng.integers(low, high + 1, shape)
    if rng.random() < 0.5:
        made = made // 2 * 2
    if not made.any():
        made.flat[0] = 2
    return made.astype(np.float32)


def random_network(rng: np.random.Generator, path: Path) -> Foreign:
    """Write a network with anything in it that netx runs, and draw an input for it."""
    bits = 0
    with h5py.File(path, "w") as file:
        layers = file.create_group("layer")
        images, driven = rng.random() < 0.6, rng.random() < 0.4
        shape: tuple[int, ...] = tuple(int(side) for side in rng.integers(4, 9, 2))
        shape = (int(rng.integers(1, 4)), *shape) if images else (int(rng.integers(3, 20)),)
        first = _layer(layers, "input", shape)
        if driven:
            neuron(first, rng)
            first["weight"], first["bias"] = np.array([36.0]), np.array([3.0])
        elif rng.random() < 0.5:
            bits = 8
        given = shape
        if images:
            for _ in range(int(rng.integers(1, 3))):
                shape = _conv(layers, shape, rng)
            _layer(layers, "flatten", (int(np.prod(shape)),))
        inputs = int(np.prod(shape))
        for _ in range(int(rng.integers(1, 4))):
            inputs = _dense(layers, inputs, rng)
    steps = int(rng.integers(5, 90))
    if driven:
        stream = rng.integers(-50, 400, (steps, *given))
    elif bits:
        stream = rng.integers(-128, 128, (steps, *given))
    else:
        stream = (rng.random((steps, *given)) < 0.3).astype(np.int64)
    interval = int(rng.integers(2, 30)) if rng.random() < 0.5 else None
    return Foreign(path, stream, bits, interval, int(rng.integers(0, 4)))


def spread_constants(rng: np.random.Generator, path: Path) -> None:
    """Decays and thresholds of a random network's neurons one a neuron, a channel, a row, or one in an array."""
    with h5py.File(path, "a") as file:
        for layer in file["layer"].values():
            if "neuron" not in layer:
                continue
            shape = tuple(int(side) for side in layer["shape"][()].reshape(-1)[::-1])
            shape = shape if layer["type"][()].flat[0] in (b"conv", b"input") else (int(np.prod(shape)),)
            for name, values in (("iDecay", [1, 300, 1024, 4095, 4096]), ("vDecay", [0, 128, 1024, 4096])):
                del layer["neuron"][name]
                layer["neuron"][name] = rng.choice(values, _spread(shape, rng)).astype(rng.choice([np.int32, np.int64]))
            del layer["neuron/vThMant"]
            layer["neuron/vThMant"] = rng.integers(0, 300, _spread(shape, rng)).astype(np.int32)


def _spread(shape: tuple[int, ...], rng: np.random.Generator) -> tuple[int, ...]:
    options = [shape, shape[-1:], (*shape[:-1], 1), (1,), ()]
    return options[int(rng.choice(5, p=[0.4, 0.3, 0.1, 0.1, 0.1]))]


def _layer(layers: h5py.Group, kind: str, shape: tuple[int, ...]) -> h5py.Group:
    group = layers.create_group(str(len(layers)))
    group["type"] = np.array([kind.encode()])
    group["shape"] = np.array(shape)
    return group


def _conv(layers: h5py.Group, shape: tuple[int, ...], rng: np.random.Generator) -> tuple[int, ...]:
    groups = int(rng.choice([1, shape[0]]))
    out = groups * int(rng.integers(1, 3))
    kernel, stride, padding, dilation = (rng.integers(low, high, 2) for low, high in ((1, 4), (1, 3), (0, 3), (1, 3)))

    def sides() -> tuple[int, ...]:
        return tuple(
            int((shape[1 + i] + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1) for i in range(2)
        )

    if min(sides()) < 1:
        kernel[:], padding[:] = 1, 1
    made = (out, *sides())
    group = _layer(layers, "conv", made)
    weight = weights(rng, (out, shape[0] // groups, *kernel.tolist()))
    group["weight"] = weight[..., None] if rng.random() < 0.3 else weight
    group["groups"] = groups
    for name, value in (("stride", stride), ("padding", padding), ("dilation", dilation)):
        group[name] = value if rng.random() < 0.8 or value[0] != value[1] else value[0]
    if rng.random() < 0.8:
        group["bias"] = rng.integers(-40, 40, out if rng.random() < 0.5 else made[::-1])
    neuron(group, rng)
    return made


def _dense(layers: h5py.Group, inputs: int, rng: np.random.Generator) -> int:
    out = int(rng.integers(1, 12))
    recurrent = rng.random() < 0.35
    group = _layer(layers, "dense_rec" if recurrent else "dense", (out, 1, 1) if rng.random() < 0.3 else (out,))
    group["weight"] = weights(rng, (out, inputs))
    if recurrent:
        group["weight_rec"] = weights(rng, (out, out))
    if rng.random() < 0.8:
        neuron(group, rng)
    if rng.random() < 0.5:
        group["bias"] = rng.integers(-100, 100, out)
    if not recurrent and rng.random() < 0.5:
        shapes: tuple[tuple[int, ...], ...] = ((out,), (inputs,), (out, inputs), ())
        group["delay"] = rng.integers(0, 63, shapes[int(rng.integers(4))])
    return out


def plainly(net: Netlist, given: Foreign) -> dict[str, list[tuple[IntArray, IntArray, IntArray]]]:
    """(u, v, spikes) of every layer and step: one chip step after another, one neuron's rule written out."""
    state = {layer.name: [np.zeros(layer.shape, np.int64), np.zeros(layer.shape, np.int64)] for layer in net.layers}
    sent: dict[str, list[IntArray]] = {layer.name: [] for layer in net.layers}
    found: dict[str, list[tuple[IntArray, IntArray, IntArray]]] = {layer.name: [] for layer in net.layers}
    port: list[IntArray] = []
    for step, values in enumerate(given.stream):
        port.append(values)
        for index, layer in enumerate(net.layers):
            u, v = state[layer.name]
            interval = given.reset_interval
            if interval and (step + 1) % interval == (given.reset_offset + 1 + index) % interval:
                u, v = np.zeros_like(u), np.zeros_like(v)
            source = port if index == 0 else sent[net.layers[index - 1].name]
            a = np.zeros(layer.shape, np.int64) if layer.kind == "input" else _arriving(layer, source, step)
            if layer.recurrent is not None and step:
                a = a + layer.recurrent @ sent[layer.name][step - 1]
            u = _toward_zero(u * (4096 - layer.current_decay)) + a * 64
            u = np.where(u > 2**23, u - 2**24, np.where(u <= -(2**23), u + 2**24, u))
            bias = values if layer.kind == "input" else layer.bias
            v = np.clip(_toward_zero(v * (4096 - layer.voltage_decay)) + u + bias * 64, 1 - 2**23, 2**23 - 1)
            fired = v > layer.threshold * 64
            v = np.where(fired, 0, v)
            state[layer.name] = [u, v]
            sent[layer.name].append(fired.astype(np.int64))
            found[layer.name].append((u, v, fired.astype(np.int64)))
    return found


def _toward_zero(product: IntArray) -> IntArray:
    kept: IntArray = np.sign(product) * (np.abs(product) // 4096)
    return kept


def _arriving(layer: ChipLayer, source: list[IntArray], step: int) -> IntArray:
    """What the synapse sends in `step`: its input of the step before, or of the delay before that."""
    assert layer.weight is not None
    total = np.zeros(layer.shape, np.int64)
    if layer.kind == "conv":
        return _convolved(layer, layer.weight, source[step - 1]) if step else total
    for row in range(len(layer.weight)):
        for column in range(layer.weight.shape[1]):
            at = step - 1 - (0 if layer.delay is None else int(layer.delay[row, column]))
            if at >= 0:
                total[row] += layer.weight[row, column] * source[at].reshape(-1)[column]
    return total


def _convolved(layer: ChipLayer, weight: IntArray, x: IntArray) -> IntArray:
    padded = np.pad(x, ((0, 0), *((side, side) for side in layer.padding)))
    out = np.zeros(layer.shape, np.int64)
    share, reads = len(weight) // layer.groups, weight.shape[1]
    for channel, row, column in np.ndindex(*layer.shape):
        first = channel // share * reads
        for i, j in np.ndindex(*weight.shape[2:]):
            place = (row * layer.stride[0] + i * layer.dilation[0], column * layer.stride[1] + j * layer.dilation[1])
            out[channel, row, column] += weight[channel, :, i, j] @ padded[first : first + reads, place[0], place[1]]
    return out
