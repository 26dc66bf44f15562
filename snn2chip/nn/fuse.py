"""Turn the neurons of a network into single operations over all time steps."""

from __future__ import annotations

import torch
from torch import nn

from snn2chip.nn import kernels
from snn2chip.nn.neuron import LIF


def fuse_neurons(network: nn.Module, device: torch.device) -> str | None:
    """Run every LIF of `network` as one operation from now on; returns what keeps it from its best, or None.

    On the CPU the operation is compiled once per user, by the C++ compiler that is there; without one the neurons run
    in torch, block by block: the same spikes and gradients, but a slower step, and more memory. On a GPU torch.compile
    makes a kernel for each layer shape.
    """
    for module in network.modules():
        if isinstance(module, LIF):
            module.fuse = True
    if device.type == "cpu" and isinstance(why := kernels.load(), str):
        return f"neurons run without the compiled kernel, slower and in more memory: {why}"
    return None
