"""SpikingJelly (0.0.0.0.14 and 2): its neurons, and its wrappers of torch's layers.

Its neurons add the leak and the input as (Fang et al. 2023, `activation_based.neuron`; x the input, r the reset)

    LIFNode             v = v - (v - r) / tau + x / tau         without decay_input  v = v - (v - r) / tau + x
    ParametricLIFNode   the same with sigmoid(w) for 1 / tau    IFNode               v = v + x
    o = v >= v_threshold,   v = r where o

With u = (v - r) tau (or v - r) that is ``u = (1 - 1 / tau) u + x``, firing at ``u >= (v_threshold - r) tau``: a LIF of
ours that fires at its threshold already (`ties`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from spikingjelly.activation_based import base, neuron
from torch import nn

from snn2chip import ir
from snn2chip.errors import UnsupportedError
from snn2chip.frameworks import torch_layers
from snn2chip.frameworks.leaf import Layout, Leaf

_STEPS = {  # what makes a neuron another one, in either version
    *("neuronal_charge", "neuronal_fire", "neuronal_reset", "single_step_forward", "multi_step_forward"),
    *("single_step_functional_forward", "multi_step_functional_forward"),
}
_AS_TORCH = {
    *("Conv2d", "Linear", "BatchNorm1d", "BatchNorm2d", "AvgPool2d", "AdaptiveAvgPool2d", "MaxPool2d"),
    *("Conv1d", "AvgPool1d", "AdaptiveAvgPool1d", "MaxPool1d"),
    *("ThresholdDependentBatchNorm1d", "ThresholdDependentBatchNorm2d", "_ThresholdDependentBatchNormBase"),
}
_KINDS: tuple[type[nn.Module], ...] = (neuron.IFNode, neuron.LIFNode, neuron.ParametricLIFNode)


def leaf(path: str, module: nn.Module) -> Leaf | None:
    """A neuron or a layer of SpikingJelly; its containers and its models are followed."""
    layouts: tuple[Layout, ...] = torch_layers.SAMPLES if getattr(module, "step_mode", "s") == "s" else ("steps",)
    if isinstance(module, neuron.BaseNode):
        return Leaf(lambda name, sources, _shape: [_neuron(name, sources, module)], layouts)
    if isinstance(module, nn.Flatten):
        return None
    if type(module).__name__.startswith("Dropout"):  # nothing once trained
        return Leaf(lambda *_: [], torch_layers.ANY)
    owner = next(kind.__name__ for kind in type(module).__mro__ if "forward" in vars(kind))
    if owner in _AS_TORCH:
        return Leaf(
            lambda name, sources, shape: torch_layers.nodes(module, name, sources[0], shape) or [],
            layouts,
            axes=torch_layers.axes(module),
        )
    if type(module).__name__ in ("TemporalEffectiveBatchNorm1d", "TemporalEffectiveBatchNorm2d"):
        return Leaf(lambda name, sources, _shape: [_scaled(name, sources, module)], ("steps",))
    if type(module).__name__ in ("BatchNormThroughTime1d", "BatchNormThroughTime2d"):
        norms: Any = module.bn_list
        return Leaf(lambda name, sources, _shape: [torch_layers.through_time(name, sources, norms)], layouts)
    if next(module.children(), None) is not None:
        return None
    return Leaf(lambda name, *_: torch_layers.refuse(name, module), torch_layers.ANY)  # type: ignore[arg-type]


def _neuron(name: str, sources: tuple[str, ...], module: nn.Module) -> ir.LIF:
    kind = next((kind for kind in _KINDS if isinstance(module, kind)), None)
    called = type(module).__name__
    below = type(module).__mro__[: type(module).__mro__.index(kind)] if kind else ()
    if kind is None or any(_STEPS & vars(each).keys() for each in below):
        raise UnsupportedError(
            f"layer '{name}': {called} is not a neuron of the chip's; use IFNode, LIFNode or ParametricLIFNode"
        )
    level, reset = float(module.v_threshold), module.v_reset  # type: ignore[arg-type]
    if reset is None:
        raise UnsupportedError(
            f"layer '{name}': {called} with v_reset None resets by subtraction, the chip to zero; train with "
            f"v_reset=0.0"
        )
    level -= float(reset)  # type: ignore[arg-type]
    if kind is neuron.IFNode:
        share, decays = 0.0, False
    else:
        with torch.no_grad():
            w = getattr(module, "w", None)
            share = 1 / float(module.tau) if w is None else float(w.detach().double().sigmoid())  # type: ignore[arg-type]
        decays = bool(module.decay_input)
    if not (level > 0 and 0 <= share < 1):
        raise UnsupportedError(
            f"layer '{name}': {called} with v_threshold {level:g} above v_reset and 1 / tau {share:g}; the first must "
            f"be positive, the second in [0, 1)"
        )
    return ir.LIF(name, sources, 1 - share, level / share if decays else level, ties=True)


def _scaled(name: str, sources: tuple[str, ...], module: nn.Module) -> ir.StepNorm:
    """TEBN (Duan et al. 2022): ``scale[t] (gamma (x - mean) / sqrt(var + eps) + beta)``; beta moves into the mean."""
    norm = torch_layers.normalization(name, sources[0], module)  # type: ignore[arg-type]
    scale = torch_layers.array(module.scale)[:, None]  # type: ignore[arg-type]
    if not (norm.gamma * scale > 0).all():
        raise UnsupportedError(
            f"layer '{name}': {type(module).__name__} with a gain of {(norm.gamma * scale).min():g}; one that changes "
            f"with time must be positive, so train with BatchNorm2d"
        )
    mean = norm.mean - norm.beta * np.sqrt(norm.var + norm.eps) / norm.gamma
    mean, var = (np.broadcast_to(values, (len(scale), len(values))) for values in (mean, norm.var))
    return ir.StepNorm(name, sources, scale * norm.gamma, mean, var, norm.eps)


def reset(network: nn.Module) -> None:
    """Let all neurons start anew."""
    for module in network.modules():
        if isinstance(module, base.MemoryModule):
            module.reset()


def harden(module: nn.Module) -> bool:
    """Let a neuron that resets by subtraction reset to zero; whether it is one."""
    soft = isinstance(module, _KINDS) and module.v_reset is None
    if soft:
        module.v_reset = 0.0  # type: ignore[assignment]
    return soft
