"""What a network does per sample: spikes, accumulates, multiply-accumulates.

Counted layer by layer while the images pass, in the way event-driven hardware works:

- A spike costs one *accumulate* for every synapse that it drives: its fan-out in the convolution or dense layer that
  it reaches. Through average pooling it reaches the synapses of the pooled pixel, as it does on the chip, where the
  pooling is part of the next layer's kernel. A spike that goes over a shortcut without weights costs one.
- A number (pixels of direct coding, events counted as graded spikes) costs one *multiply-accumulate* a synapse, at
  every step.
- The same layers as an ordinary network, at one step, would take one multiply-accumulate a synapse in all of them.

`snn2chip.fit.cost` counts of the exported network what its spikes do on the cores of a chip, relays and copies among
them; here a network is counted while it trains, whether it can be exported or not, and numbers apart from spikes.

Fan-outs are exact: at a border, or between strides, an input drives fewer outputs. Weights that happen to be 0 are
synapses like others. Not counted: the neurons' own updates, biases, normalization (folded away on export) and the
comparisons of max pooling.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from snn2chip.data import ImageSet
from snn2chip.fit.traffic import taps
from snn2chip.ir import out_size
from snn2chip.nn import (
    BNTT,
    LIF,
    AvgPool2d,
    Dropout,
    EventInput,
    Flatten,
    GlobalAvgPool,
    MaxPool2d,
    PoissonInput,
    Residual,
    SpikingNetwork,
    TDBatchNorm,
)


@dataclass(frozen=True)
class Cost:
    """Means over the images, per sample of T steps; `accuracy` is the share of right decisions.

    spikes: of all neurons, without those of the input; rate: spikes / neurons / T.
    accumulates, multiply_accumulates: see the module; ann_multiply_accumulates: of the same layers at one step.
    layer_spikes: neuron layer by name to (neurons, spikes); layer_operations: layer by name to (accumulates,
    multiply-accumulates).
    """

    samples: int
    timesteps: int
    accuracy: float
    neurons: int
    spikes: float
    rate: float
    accumulates: float
    multiply_accumulates: float
    ann_multiply_accumulates: int
    layer_spikes: dict[str, tuple[int, float]]
    layer_operations: dict[str, tuple[float, float]]


def fan_out(module: nn.Conv2d | nn.Linear, shape: torch.Size) -> Tensor:
    """Synapses that each input drives, for an input (C, H, W) or (F,) of one step; float64, broadcastable to it."""
    if isinstance(module, nn.Linear):
        return torch.full((1,), float(module.out_features), dtype=torch.float64)
    driven = []
    for axis, size in enumerate(shape[-2:]):
        geometry = [int(each[axis]) for each in (module.kernel_size, module.stride, module.padding, module.dilation)]
        driven.append(taps(size, out_size(size, *geometry), *geometry).sum(0))
    count = torch.from_numpy(np.outer(*driven).astype(np.float64))[None]
    return count * (module.out_channels // module.groups)


class _Meter:
    """Hooks on a network that count while it runs.

    A tensor of events (spikes, or averages of them) is known by its *unit*: how many spikes a value of 1 stands for,
    1 behind a neuron, the area of the window behind average pooling. All other tensors hold real numbers.
    """

    def __init__(self, network: SpikingNetwork) -> None:
        self.units = WeakTensorKeyDictionary()
        self.samples = 0
        self.spikes: Counter[str] = Counter()
        self.neurons: dict[str, int] = {}
        self.accumulates: Counter[str] = Counter()
        self.multiplies: Counter[str] = Counter()
        self.ann: Counter[str] = Counter()
        self.fan_outs: dict[tuple[str, torch.Size], Tensor] = {}
        self.uses: Counter[str] = Counter()
        self.handles = [network.encoder.register_forward_hook(self._encoder)]
        for name, module in network.body.named_modules():
            if not list(module.children()) or isinstance(module, Residual):
                self.handles.append(module.register_forward_hook(self._hook(name)))

    def _encoder(self, module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.uses.clear()
        self.samples += output.shape[1]
        if isinstance(module, PoissonInput) or (isinstance(module, EventInput) and module.max_value == 1):
            self.units[output] = 1

    def _events(self, x: Tensor, unit: int) -> Tensor:
        """Spikes that each input stands for, summed over steps and samples, on the CPU."""
        return (x.sum((0, 1), dtype=torch.float64) * unit).round().cpu()

    def _hook(self, path: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            self.uses[path] += 1
            name = path if self.uses[path] == 1 else f"{path}:{self.uses[path]}"
            x = inputs[0]
            unit: int | None = self.units.get(x, None)  # type: ignore[no-untyped-call]
            if isinstance(module, LIF):
                self.spikes[name] += int(output.sum(dtype=torch.float64))
                self.neurons[name] = output[0, 0].numel()
                self.units[output] = 1
            elif isinstance(module, (nn.Conv2d, nn.Linear)):
                self._synapses(name, module, x, unit)
            elif unit is None:
                return
            elif isinstance(module, (TDBatchNorm, BNTT)) or (
                isinstance(module, Residual) and not list(module.shortcut.children())
            ):
                self.accumulates[name] += int(self._events(x, unit).sum())  # a shortcut without weights
            elif isinstance(module, (AvgPool2d, GlobalAvgPool)):
                area = module.kernel**2 if isinstance(module, AvgPool2d) else x.shape[-2] * x.shape[-1]
                self.units[output] = unit * area
            elif isinstance(module, (Flatten, Dropout, nn.Identity)) or (isinstance(module, MaxPool2d) and unit == 1):
                self.units[output] = unit

        return count

    def _synapses(self, name: str, module: nn.Conv2d | nn.Linear, x: Tensor, unit: int | None) -> None:
        shape = x.shape[2:]
        key = name, shape
        if key not in self.fan_outs:
            self.fan_outs[key] = fan_out(module, shape)
        driven = self.fan_outs[key]
        whole = int(driven.expand(shape).sum())
        self.ann[name] = whole
        if unit is None:
            self.multiplies[name] += whole * x.shape[0] * x.shape[1]
        else:
            self.accumulates[name] += int((self._events(x, unit) * driven).sum())

    def close(self) -> None:
        for handle in self.handles:
            handle.remove()


@torch.no_grad()
def cost(
    network: SpikingNetwork,
    images: ImageSet,
    *,
    batch_size: int = 250,
    device: torch.device | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Cost:
    """Run `network` in eval mode over `images` and count. Poisson input restarts from seed 0.

    A tensor that no neuron, encoder or pooling layer made (spikes added to spikes, say) counts as real numbers.
    """
    device = device or torch.device("cpu")
    network.eval()
    if isinstance(network.encoder, PoissonInput):
        network.encoder.reseed(0)
    meter = _Meter(network)
    correct = 0
    try:
        for here, batch in images.in_parts(batch_size):
            scores = network(batch.to(device))
            correct += int((scores.argmax(1).cpu() == images.labels[here]).sum())
            if progress is not None:
                progress(here.stop, len(images))
    finally:
        meter.close()
    samples, neurons = meter.samples, sum(meter.neurons.values())
    spikes = meter.spikes.total() / samples
    return Cost(
        samples=samples,
        timesteps=network.timesteps,
        accuracy=correct / samples,
        neurons=neurons,
        spikes=spikes,
        rate=spikes / (neurons * network.timesteps) if neurons else 0.0,
        accumulates=meter.accumulates.total() / samples,
        multiply_accumulates=meter.multiplies.total() / samples,
        ann_multiply_accumulates=meter.ann.total(),
        layer_spikes={name: (count, meter.spikes[name] / samples) for name, count in meter.neurons.items()},
        layer_operations={
            name: (meter.accumulates[name] / samples, meter.multiplies[name] / samples)
            for name in dict.fromkeys([*meter.ann, *meter.accumulates])
        },
    )
