"""A quantized network as it branches, before it is lowered: what its chain must do, spike for spike.

The same integers and the same neuron as in the chain, without relays, levels or latency: every neuron adds up what its
synapses give at this very step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snn2chip import ir
from snn2chip.chip.bounds import BINARY
from snn2chip.chip.products import Product, exact_products, integrate


@dataclass(frozen=True, eq=False)
class GraphTrace:
    """Spikes (N, T, ...) uint8 and voltages (N, T, ...) int32 by layer of neurons."""

    spikes: dict[str, NDArray[np.uint8]]
    voltage: dict[str, NDArray[np.int32]]


@torch.no_grad()
def run(network: ir.Network, port: ir.IntArray) -> GraphTrace:
    """Run port integers (samples, T, C, H, W) through a 'quantized' network and keep everything."""
    source = network.input
    ir.require_integers(port, ())  # flat where the first layer is dense
    values: dict[str, Tensor] = {source.name: torch.from_numpy(np.require(port, np.int64, ["C", "W"]))}
    spikes: dict[str, NDArray[np.uint8]] = {}
    voltage: dict[str, NDArray[np.int32]] = {}
    with exact_products():
        for node in network.of(ir.CubaNeuron):
            synapses = network.synapses_of(node)
            sums = torch.zeros(())
            for number, synapse in enumerate(synapses):
                read = network.source_of(synapse)
                bounds = source.port_range() if read is source else BINARY
                made = Product(synapse, *bounds)(values[read.name])
                sums = made if number == 0 else sums + made
            bias = torch.from_numpy(ir.neuron_bias(synapses, tuple(sums.shape[2:])).astype(np.int32))
            fired, volts = integrate(sums, bias, node)
            values[node.name] = fired
            spikes[node.name] = fired.numpy().astype(np.uint8)
            voltage[node.name] = volts.numpy()
    return GraphTrace(spikes, voltage)
