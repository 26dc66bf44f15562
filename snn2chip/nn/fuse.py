"""Turn the neurons of a network into compiled loops for training."""

from __future__ import annotations

import shutil

import torch
from torch import nn

from snn2chip.nn.neuron import LIF


def fuse_neurons(network: nn.Module, device: torch.device) -> str | None:
    """Run every LIF of `network` as one compiled loop from now on; returns why not, or None when done.

    On the CPU, TorchInductor needs a C++ compiler; without one the plain loop stays, which computes the
    same and is slower.
    """
    if device.type == "cpu" and not any(shutil.which(name) for name in ("g++", "clang++", "c++")):
        return "no C++ compiler found: neurons run unfused, about a third slower; install g++"
    for module in network.modules():
        if isinstance(module, LIF):
            module.fuse = True
    return None
