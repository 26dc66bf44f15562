"""snnTorch (0.9 and 1): `Leaky` and `Synaptic`, whose states their user hands on from step to step.

With reset_mechanism "zero" (`snntorch._neurons.leaky`): ``mem = beta (1 - o) mem + x``, ``o = mem > threshold``, with o
that of the step before, whatever reset_delay: a LIF of ours. beta is clamped to 0..1.

Synaptic (`snntorch._neurons.synaptic`): ``syn = alpha syn + x``, ``mem = beta mem + syn``, reset right after the spike
with reset_delay=False: a LIF of ours with a current_tau. With reset_delay=True, the default, the step after a spike
sets mem to 0 whatever comes in, which is a refractory step that no neuron of netx has.
"""

from __future__ import annotations

import numpy as np
import torch
from snntorch import Leaky, Synaptic
from snntorch._neurons.neurons import SpikingNeuron
from torch import nn

from snn2chip import ir
from snn2chip.errors import UnsupportedError
from snn2chip.frameworks.leaf import Leaf

_FIELDS = {"inhibition": False, "state_quant": False, "graded_spikes_factor": 1.0}


def leaf(_path: str, module: nn.Module) -> Leaf | None:
    """A neuron of snnTorch."""
    if not isinstance(module, SpikingNeuron):
        return None
    return Leaf(
        lambda name, sources, shape: _neuron(name, sources, shape, module),
        ("image", "step"),
        states=(1 + isinstance(module, Synaptic)) * int(not module.init_hidden or module.output),
    )


def _neuron(name: str, sources: tuple[str, ...], shape: ir.Shape, module: nn.Module) -> list[ir.Node]:
    called = type(module).__name__
    if type(module) not in (Leaky, Synaptic):
        raise UnsupportedError(f"layer '{name}': {called} is not a neuron of the chip's; use Leaky or Synaptic")
    if module.reset_mechanism != "zero":
        raise UnsupportedError(
            f"layer '{name}': {called} with reset_mechanism '{module.reset_mechanism}', the chip resets to zero; train "
            f"with reset_mechanism='zero'"
        )
    if isinstance(module, Synaptic) and module.reset_delay:
        raise UnsupportedError(
            f"layer '{name}': Synaptic with reset_delay=True, whose membrane is 0 for a whole step after a spike; "
            f"train with reset_delay=False"
        )
    for field, wanted in _FIELDS.items():
        value = getattr(module, field)
        if callable(value) or bool(torch.as_tensor(value).ne(wanted).any()):
            raise UnsupportedError(f"layer '{name}': {called} with {field}, which no chip has; leave it out")
    levels = torch.as_tensor(module.threshold).detach().double().numpy()
    if not (levels > 0).all():
        raise UnsupportedError(f"layer '{name}': {called} with threshold {levels.min():g}; it must be positive")
    threshold, made = float(levels.flat[0]), list[ir.Node]()
    if (levels != threshold).any():  # I > level is I threshold / level > threshold, of weights as well
        one, factor = np.ones(shape[0]), threshold / _by_channel(name, called, levels, shape)
        made = [ir.Norm(f"{name}.scale", sources, factor, 0 * one, 0 * one, one, 0.0, 1.0, 1.0)]
        sources = (made[0].name,)
    kept = {what: min(max(_one(name, module, what), 0.0), 1.0) for what in ("beta", "alpha") if hasattr(module, what)}
    return [*made, ir.LIF(name, sources, kept["beta"], threshold, current_tau=kept.get("alpha", 0.0))]


def _by_channel(name: str, called: str, levels: ir.FloatArray, shape: ir.Shape) -> ir.FloatArray:
    """Thresholds (C,) of values that the package spreads over (C, H, W), (C, L) or (F,)."""
    sides = levels.shape
    while len(sides) > 1 and sides[0] == 1:
        sides = sides[1:]
    rows = [(shape[0], 1)] if len(shape) == 3 and shape[1] == 1 else []
    if sides not in [(shape[0], *(1 for _ in shape[1:])), *rows]:
        raise UnsupportedError(
            f"layer '{name}': {called} with thresholds of shape {tuple(levels.shape)} for neurons {shape}: give one to "
            f"a channel, whose weights take it in, {(shape[0], *(1 for _ in shape[1:]))}"
        )
    return levels.reshape(-1)


def _one(name: str, module: nn.Module, what: str) -> float:
    values = torch.as_tensor(getattr(module, what)).detach().double()
    if bool((values != values.flatten()[0]).any()):
        raise UnsupportedError(
            f"layer '{name}': {type(module).__name__} with a {what} of each neuron; a layer here has one for all, so "
            f"give it one, or split it"
        )
    return float(values.flatten()[0])


def reset(network: nn.Module) -> None:
    """Let neurons that keep their states themselves start anew."""
    for module in network.modules():
        if isinstance(module, (Leaky, Synaptic)):
            module.reset_mem()


def harden(module: nn.Module) -> bool:
    """Let a neuron that resets by subtraction reset to zero, and at once where that matters; whether it is one."""
    soft = type(module) in (Leaky, Synaptic) and module.reset_mechanism == "subtract"
    if soft:
        module.reset_mechanism = "zero"  # type: ignore[assignment]
        module.state_function = module._base_zero
        module.reset_delay = module.reset_delay and type(module) is Leaky  # type: ignore[assignment]
    return soft
