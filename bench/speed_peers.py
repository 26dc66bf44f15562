"""What the engines are held against: the same network by hand in float32 torch, and in Lava."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from snn2chip import ir
from snn2chip.backends import lava
from snn2chip.errors import Snn2ChipError
from snn2chip.formats import netx
from snn2chip.simulate.events.engine import EventEngine


@dataclass(frozen=True)
class _Synapse:
    """Weights, and what they read; `map` is a bias of every neuron, `bias` one of every channel."""

    source: str
    weight: Tensor
    bias: Tensor | None
    map: Tensor | None
    options: tuple[Any, ...] | None  # of a convolution: stride, padding, dilation, groups


@dataclass(frozen=True)
class _Neurons:
    name: str
    synapses: list[_Synapse]
    keep: float
    threshold: float


def _synapse(source: str, node: ir.Conv | ir.Dense | ir.ChainLayer, bias: ir.Array | None) -> _Synapse:
    options = (node.stride, node.padding, node.dilation, node.groups) if node.weight.ndim == 4 else None
    per_channel = full = None
    if bias is not None:
        flat = bias.reshape(len(bias), -1)
        if (flat == flat[:, :1]).all():
            per_channel = torch.from_numpy(flat[:, 0].astype(np.float32))
        else:
            full = torch.from_numpy(bias.astype(np.float32))
    return _Synapse(source, torch.from_numpy(node.weight.astype(np.float32)), per_channel, full, options)


def _neurons(network: ir.Chain | ir.Network) -> list[_Neurons]:
    """The layers in order, whether they are a chain or branch and meet."""
    found = []
    if isinstance(network, ir.Chain):
        source = ""
        for layer in network.layers:
            keep = 1 - layer.voltage_decay / 4096
            found.append(_Neurons(layer.name, [_synapse(source, layer, layer.bias)], keep, layer.threshold))
            source = layer.name
        return found
    first = network.input
    for node in network.of(ir.CubaNeuron):
        synapses = []
        for item in network.synapses_of(node):
            read = network.source_of(item)
            synapses.append(_synapse("" if read is first else read.name, item, item.bias))
        found.append(_Neurons(node.name, synapses, 1 - node.voltage_decay / 4096, node.threshold))
    return found


class TorchForward:
    """A network by hand in float32: all steps of a layer in one product, neurons in place, an image only once.

    With `exact` the membrane is cut to the chip's 1/64 after each decay, as the chip does: then every spike must be
    the engines'. Without, as one would write it, some few differ.
    """

    def __init__(self, network: ir.Chain | ir.Network, direct: bool, channels_last: bool, exact: bool = False) -> None:
        self.direct, self.exact = direct, exact
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        self.layers = _neurons(network)
        self.reads = Counter(synapse.source for layer in self.layers for synapse in layer.synapses)
        for layer in self.layers:
            for synapse in layer.synapses:
                if synapse.options is not None:
                    synapse.weight.data = synapse.weight.contiguous(memory_format=self.format)
        self.counts: list[int] = []

    def _sums(self, synapse: _Synapse, x: Tensor) -> Tensor:
        """Spikes (T, N, ...) to sums (T, N, ...)."""
        steps, samples = x.shape[:2]
        once = self.direct and not synapse.source
        x = x[0] if once else x.flatten(0, 1)
        if synapse.options is not None:
            y = F.conv2d(x.contiguous(memory_format=self.format), synapse.weight, synapse.bias, *synapse.options)
        else:
            y = F.linear(x.flatten(1), synapse.weight, synapse.bias)
        if synapse.map is not None:
            y += synapse.map
        return y.expand(steps, *y.shape) if once else y.reshape(steps, samples, *y.shape[1:])

    @torch.inference_mode()
    def __call__(self, port: Tensor) -> Tensor:
        """Input (T, N, ...) float32 to the last layer's membranes after the last step (N, K)."""
        values, left = {"": port}, self.reads.copy()
        self.counts = []
        for layer in self.layers:
            sums: Tensor | None = None
            for synapse in layer.synapses:
                made = self._sums(synapse, values[synapse.source])
                sums = made if sums is None else sums + made
                left[synapse.source] -= 1
                if not left[synapse.source]:
                    del values[synapse.source]
            assert sums is not None
            voltage = torch.zeros_like(sums[0])
            spikes = torch.empty_like(sums, memory_format=torch.preserve_format)
            for now, fired in zip(sums, spikes, strict=True):
                voltage.mul_(layer.keep)
                if self.exact:
                    voltage = (voltage * 64).trunc_() / 64
                voltage.add_(now)
                torch.gt(voltage, layer.threshold, out=fired)
                voltage.addcmul_(voltage, fired, value=-1)  # reset to zero
            if self.exact:
                self.counts.append(int(spikes.sum(dtype=torch.float64)))
            values[layer.name] = spikes
        return voltage


class DifferentError(Exception):
    """Two that must give the same do not."""


def lava_step(chain: ir.Chain, port: ir.IntArray, few: int) -> tuple[float, float]:
    """Seconds of a step of a running network in Lava, and seconds that starting it took; its spikes are checked.

    From two runs, of `few` samples and of all: what the further steps took, so that no start is in it.

    Raises:
        Snn2ChipError: Lava is not set up, or failed.
        DifferentError: Lava's spikes are not the event engine's.
    """
    seconds = []
    with tempfile.TemporaryDirectory(prefix="snn2chip-") as folder:
        net, given, result = (Path(folder, name) for name in ("model.net", "input.npz", "trace.npz"))
        netx.save(net, chain)
        for count in (few, len(port)):
            np.savez(given, input=port[:count].astype(np.int32))
            started = time.perf_counter()
            lava.run(net, given, result, progress=False)
            seconds.append(time.perf_counter() - started)
        ours = EventEngine(chain).run(port).spikes
        with np.load(result, allow_pickle=False) as trace:
            for name, spikes in ours.items():
                if not np.array_equal(trace[f"spikes/{name}"], spikes):
                    raise DifferentError(f"Lava's spikes of layer {name} are not the event engine's")
    each = (seconds[1] - seconds[0]) / ((len(port) - few) * port.shape[1])
    return each, seconds[0] - each * few * port.shape[1]


def lava_versions() -> dict[str, str] | str:
    """Versions of Lava's environment, or why there is none."""
    try:
        found = lava.setup(progress=False)
    except Snn2ChipError as reason:
        return str(reason)
    return {str(name): str(version) for name, version in found.versions.items()}
