"""The networks that the engines are timed on: a VGG of any width, a dense one, ResNet-19 through the whole pipeline.

Weights are random; what counts for speed is the shape, and how many neurons spike. `with_density` measures and sets
that, layer by layer, for the first two. Relays need the thresholds that they were made with, so ResNet-19 spikes as
it does after batch normalization, and what that is is measured.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from snn2chip import chip, ir, recipe
from snn2chip.chip.bounds import BINARY
from snn2chip.chip.products import Product, exact_products, integrate
from snn2chip.nn import TDBatchNorm, model_file
from snn2chip.passes import pipeline

CONVOLUTIONS = ((64, 1), (64, 2), (128, 1), (128, 2), (256, 1), (256, 2))  # channels, stride
HIDDEN, CLASSES, SIDE = 1024, 10, 32
DENSE = (2312, 512, 10)  # 2 x 34 x 34, as an N-MNIST recording has
SILENT = 131071  # the largest threshold, which the last layer never reaches
SAMPLES = 4  # that thresholds are found on


@dataclass(frozen=True)
class Network:
    """A chain, and the network that does the same without relays where there is one."""

    title: str
    chain: ir.Chain
    graph: ir.Network | None = None

    @property
    def multiply_adds(self) -> int:
        """Of one step where nothing is skipped, relays left out; what torch computes."""
        if self.graph is None:
            return sum(layer.weight[0].size * int(np.prod(layer.shape)) for layer in self.chain.layers)
        synapses: list[ir.Synapse] = [*self.graph.of(ir.Conv), *self.graph.of(ir.Dense)]
        return sum(node.weight[0].size * int(np.prod(self.graph.shape(node.name))) for node in synapses)

    @property
    def neurons(self) -> int:
        """Of the chain, relays and all."""
        return sum(int(np.prod(layer.shape)) for layer in self.chain.layers)


def _layer(
    rng: np.random.Generator, name: int, before: ir.Shape, shape: ir.Shape, stride: int, last: bool
) -> ir.ChainLayer:
    """One layer of random 8-bit weights; a 3x3 convolution where `shape` has three axes."""
    conv = len(shape) == 3
    size = (shape[0], before[0], 3, 3) if conv else (shape[0], int(np.prod(before)))
    weight = np.clip(np.rint(rng.normal(0, 40, size)), -127, 127).astype(np.int64)
    bias = rng.integers(-20, 21, shape[0]).reshape(-1, *(1,) * (len(shape) - 1))
    return ir.ChainLayer(
        str(name),
        "conv" if conv else "dense",
        weight,
        np.broadcast_to(bias, shape).copy(),
        shape,
        SILENT,
        0 if last else 3072,
        stride=(stride, stride),
        padding=(1, 1) if conv else (0, 0),
        flatten=not conv and len(before) == 3,
    )


def vgg(timesteps: int, width: float = 1.0, seed: int = 0) -> ir.Chain:
    """VGG-9 in CIFAR form without thresholds: tau = 0.25, graded input -128..127, membrane readout.

    At `width` 1 it has 72 M multiply-adds a step and 144,394 neurons; other widths scale channels and hidden features.
    """
    rng = np.random.default_rng(seed)
    layers: list[ir.ChainLayer] = []
    shape: ir.Shape = (3, SIDE, SIDE)
    for channels, stride in CONVOLUTIONS:
        new: ir.Shape = (round(channels * width), shape[1] // stride, shape[2] // stride)
        layers.append(_layer(rng, len(layers) + 1, shape, new, stride, False))
        shape = new
    name = len(layers) + 2  # after the flatten layer, which has a number of its own
    for features in (round(HIDDEN * width), CLASSES):
        layers.append(_layer(rng, name, shape, (features,), 1, features == CLASSES))
        shape, name = (features,), name + 1
    image = (3, SIDE, SIDE)
    classes = tuple(map(str, range(CLASSES)))
    return ir.Chain(image, image, "direct", 255, 0, 255, (128,) * 3, timesteps, "membrane", classes, tuple(layers))


def dense(timesteps: int, seed: int = 0) -> ir.Chain:
    """The 2312-512-10 network without thresholds, on spikes."""
    rng = np.random.default_rng(seed)
    hidden = _layer(rng, 1, DENSE[:1], DENSE[1:2], 1, False)
    out = _layer(rng, 2, DENSE[1:2], DENSE[2:], 1, True)
    classes = tuple(map(str, range(DENSE[2])))
    return ir.Chain(
        DENSE[:1], DENSE[:1], "events", 1, 0, 1, (0,), timesteps, "membrane", classes, (hidden, out)
    )  # fmt: skip


def normalize(network: torch.nn.Module, images: torch.Tensor) -> torch.nn.Module:
    """The network in eval mode, its normalizations' statistics those of these images alone."""
    for module in network.modules():
        if isinstance(module, TDBatchNorm):
            module.momentum = 1.0
    network.train()
    with torch.no_grad():
        network(images)
    return network.eval()


def resnet19(name: str = "resnet19", seed: int = 0) -> Network:
    """A recipe's ResNet-19, untrained, normalized on noise, and exported as a trained one would be."""
    torch.manual_seed(seed)
    chosen = recipe.load(name)
    network = model_file.build_network(chosen, (3, SIDE, SIDE), CLASSES, 255, [0.5] * 3, [0.25] * 3)
    normalize(network, torch.randint(0, 256, (8, 3, SIDE, SIDE)))
    model = model_file.Model(network, chosen, 255, tuple(map(str, range(CLASSES))), {})
    made = pipeline.export(model, chip.load("loihi2"))
    return Network("ResNet-19", made.chain, made.quantized)


def port_of(chain: ir.Chain, samples: int, density: float, seed: int = 1) -> ir.IntArray:
    """Random input (samples, T, ...): an image of noise at all steps, or other spikes of `density` at each."""
    rng = np.random.default_rng(seed)
    low, high = chain.port_range
    if chain.coding == "direct":
        image = rng.integers(low.min(), high.max() + 1, (samples, 1, *chain.input_shape))
        return np.repeat(np.clip(image, _side(low, chain), _side(high, chain)), chain.timesteps, axis=1)
    return (rng.random((samples, chain.timesteps, *chain.input_shape)) < density).astype(np.int64)


def _side(bound: ir.IntArray, chain: ir.Chain) -> ir.IntArray:
    return bound.reshape(-1, *(1,) * (len(chain.input_shape) - 1))


def with_density(chain: ir.Chain, density: float) -> ir.Chain:
    """Thresholds with which every layer but the last spikes at `density` on random input, as near as they can."""
    layers = []
    x = torch.from_numpy(port_of(chain, SAMPLES, density))
    with exact_products(), torch.no_grad():
        for index, layer in enumerate(chain.layers):
            if index + 1 == len(chain.layers):
                layers.append(layer)
                break
            sums = Product(layer, *(chain.port_range if index == 0 else BINARY))(x)
            bias = torch.from_numpy(layer.bias.astype(np.int32))
            low, high = 0, SILENT
            while low < high:
                middle = (low + high) // 2
                spikes, _ = integrate(sums, bias, replace(layer, threshold=middle))
                low, high = (middle + 1, high) if spikes.float().mean() > density else (low, middle)
            layer = replace(layer, threshold=low)
            x = integrate(sums, bias, layer)[0]
            layers.append(layer)
    return replace(chain, layers=tuple(layers))
