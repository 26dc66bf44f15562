"""Random networks of one time step that Akida has layers for, and input for them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from snn2chip import ir
from snn2chip.simulate.dense import DenseEngine


def _weights(rng: np.random.Generator, bits: int, shape: tuple[int, ...]) -> ir.IntArray:
    """Weights of so many bits, ends of the range among them, now and then times a number that divides them all."""
    low, high = (0, 1) if bits == 1 else (1 - 2 ** (bits - 1), 2 ** (bits - 1) - 1)
    weight = rng.integers(low, high, shape, endpoint=True)
    weight.flat[: min(2, weight.size)] = (low, high)[: weight.size]
    return weight * int(rng.choice([1, 1, 2, 3] if bits < 8 else [1, 1, 2]))


def _within(rng: np.random.Generator, weight: ir.IntArray, largest: int) -> ir.IntArray:
    """The weights with so many of them at 0 that inputs up to `largest` add up to what a current holds."""
    flat = weight.reshape(len(weight), -1).copy()
    for row in flat:
        order = rng.permutation(row.size)
        row[order[np.cumsum(np.abs(row[order])) * largest > 130_000]] = 0
    return flat.reshape(weight.shape)


def _layer(
    name: str, kind: ir.Kind, weight: ir.IntArray, shape: ir.Shape, stride: int, padding: int, **more: object
) -> ir.ChainLayer:
    pairs = {"stride": (stride, stride), "padding": (padding, padding)}
    bias = np.zeros(shape, dtype=np.int64)
    return ir.ChainLayer(
        name, kind, weight, bias, shape, 1, 4096, **pairs, origin={f"lif{name}": (0, shape[0])}, **more
    )


def random_chain(rng: np.random.Generator) -> ir.Chain:
    """Convolutions and dense layers of any sizes that Akida's simulator runs, thresholds and biases not yet set."""
    channels = int(rng.choice([1, 3]))
    sides = [int(rng.integers(5, 13)), int(rng.integers(5, 13))]
    center = tuple(int(value) for value in rng.integers(0, 256, channels))
    input_shape = (channels, *sides)
    layers: list[ir.ChainLayer] = []
    shape: ir.Shape = input_shape
    for number in range(int(rng.integers(1, 5))):
        if number == 0:
            kernel, stride = int(rng.choice([3, 5, 7])), int(rng.choice([1, 1, 2, 3]))
            padding, bits = int(rng.integers(0, kernel)), 8
        else:
            stride = int(rng.choice([1, 1, 2]))
            kernel, bits = (3 if stride == 2 else int(rng.choice([1, 3, 5, 7]))), int(rng.choice([1, 2, 4]))
            padding = kernel // 2
        made = [ir.out_size(side, kernel, stride, padding, 1) for side in shape[1:]]
        if min(made) < 1 or (number == 0 and min(kernel + stride * (side - 1) for side in made) < 5):
            kernel, stride, padding = 3, 1, 1
            made = list(shape[1:])
        outputs = int(rng.integers(1, 9))
        weight = _within(rng, _weights(rng, bits, (outputs, shape[0], kernel, kernel)), 255 if number == 0 else 1)
        shape = (outputs, *made)
        layers.append(_layer(str(number + 1), "conv", weight, shape, stride, padding))
    for _ in range(int(rng.integers(1, 3))):
        outputs = int(rng.integers(2, 12))
        weight = _weights(rng, int(rng.choice([1, 2, 4])), (outputs, int(np.prod(shape))))
        flatten, shape = len(shape) == 3, (outputs,)
        layers.append(_layer(str(len(layers) + 2), "dense", weight, shape, 1, 0, flatten=flatten))
    readout: ir.ReadoutKind = "membrane" if rng.random() < 0.8 else "spike_count"
    classes = tuple(map(str, range(shape[0])))
    about = (input_shape, input_shape, "direct", 255, 0, 255, center, 1, readout, classes)
    return ir.Chain(*about, layers=tuple(layers))  # type: ignore[arg-type]


def random_images(rng: np.random.Generator, chain: ir.Chain, count: int) -> ir.IntArray:
    """Port integers: noise, black, white."""
    raw = rng.integers(0, 256, (count, 1, *chain.input_shape))
    raw[:2] = np.array([0, 255]).reshape(-1, *(1,) * (raw.ndim - 1))
    return chain.port(raw)


def at_the_edges(rng: np.random.Generator, chain: ir.Chain, port: ir.IntArray) -> ir.Chain:
    """The chain with thresholds and biases such that sums are often right at them, one below or one above."""
    done: list[ir.ChainLayer] = []
    for layer in chain.layers:
        bias = rng.integers(-200, 200, layer.shape[0])
        spread = np.broadcast_to(bias.reshape(-1, *(1,) * (len(layer.shape) - 1)), layer.shape).copy()
        silent = replace(layer, bias=spread, threshold=131071)
        part = replace(chain, layers=(*done, silent), readout="spike_count", classes=())
        sums = DenseEngine(part).run(port).voltage[layer.name] // 64
        last = layer is chain.layers[-1] and chain.readout == "membrane"
        threshold = int(rng.choice(sums.ravel())) + int(rng.integers(-1, 2))
        done.append(silent if last else replace(silent, threshold=min(max(threshold, 1), 131071)))
    return replace(chain, layers=tuple(done))
