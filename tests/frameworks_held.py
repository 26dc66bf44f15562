"""A module of a framework and what was read of it, held against each other."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from snn2chip import ir
from snn2chip.ir.encode import encoder_of
from snn2chip.ir.interpreter import evaluate
from snn2chip.passes.adapt import Adapted, adapt
from snn2chip.passes.fold import fold

SHAPE = (3, 16, 16)


def lively(network: nn.Module) -> nn.Module:
    """Statistics and gains as training leaves them, and neurons that fire."""
    generator = torch.Generator().manual_seed(1)

    def drawn(value: torch.Tensor) -> torch.Tensor:
        return torch.rand(value.shape, generator=generator)

    for module in network.modules():
        if isinstance(module, _BatchNorm) and module.running_mean is not None and module.running_var is not None:
            module.weight.data = 1 + drawn(module.weight)
            if module.bias is not None:
                module.bias.data = 0.6 * drawn(module.bias)
            module.running_mean.copy_(drawn(module.running_mean) - 0.5)
            module.running_var.copy_(0.05 + 0.3 * drawn(module.running_var))
    return network


def held(module: nn.Module, given: ir.Input, timesteps: int, samples: int = 6) -> Adapted:
    """The framework's own forward function = captured = folded: every spike, and scores up to float64's rounding."""
    found = adapt(module, given, timesteps)
    steps = (timesteps,) if given.coding == "events" else ()
    pixels = np.random.default_rng(0).integers(0, given.pixel_max + 1, (samples, *steps, *given.shape))
    raw = encoder_of(found.captured)(pixels)
    spikes, scores = found.run(raw)
    assert set(spikes) == {node.name for node in found.captured.of(ir.LIF)}
    for stage in (found.captured, fold(found.captured)[0]):
        trace = evaluate(stage, raw)
        for name, values in spikes.items():
            assert (values != trace.spikes[name].numpy()).sum() == 0, name
        np.testing.assert_allclose(trace.scores.numpy(), scores, rtol=1e-9, atol=1e-9)
    assert sum(values.any() for values in spikes.values()) > len(spikes) / 2
    return found
