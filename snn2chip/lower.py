"""From a quantized network to a chain of netx layers.

netx loads one chain: input, then conv and dense layers with one neuron each, a flatten in between. Layer
numbers count the input and the flatten, as the HDF5 file does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from snn2chip import ir
from snn2chip.errors import UnsupportedError


@dataclass(frozen=True)
class LowerReport:
    """Which chain layer holds which channels of which trained layer: (layer number, trained name, start, stop)."""

    placed: tuple[tuple[str, str, int, int], ...]


def lower(network: ir.Network) -> tuple[ir.Chain, LowerReport]:
    """Lower a 'quantized' network to a `Chain`.

    Raises:
        UnsupportedError: the network is not a chain.
    """
    source = network.input
    layers: list[ir.ChainLayer] = []
    flatten = False
    number = 1
    input_shape = source.shape
    previous = source.name
    synapse: ir.Synapse | None = None
    for node in network.nodes[1:]:
        if node.inputs != (previous,):
            raise UnsupportedError(f"layer '{node.name}' reads {node.inputs}, not the layer before it; not a chain")
        previous = node.name
        if isinstance(node, ir.Flatten):
            if layers:
                flatten = True
                number += 1
            else:  # netx has no process before the first layer that could flatten: the port is flat itself
                input_shape = (int(np.prod(source.shape)),)
        elif isinstance(node, (ir.Conv, ir.Dense)):
            synapse = node
        elif isinstance(node, ir.CubaNeuron):
            if synapse is None:
                raise UnsupportedError(f"layer '{node.name}': a neuron without a conv or dense layer")
            layers.append(ir.chain_layer(str(number), synapse, node, network.shape(synapse.name), flatten=flatten))
            synapse, flatten = None, False
            number += 1
    chain = ir.Chain(
        input_shape,
        source.shape,
        source.coding,
        source.pixel_max,
        source.low,
        source.high,
        tuple(int(c) for c in source.center),
        network.timesteps,
        network.readout.kind,
        network.classes,
        tuple(layers),
    )
    placed = tuple((layer.name, name, start, stop) for layer in layers for name, (start, stop) in layer.origin.items())
    return chain, LowerReport(placed)
