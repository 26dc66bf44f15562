"""snnTorch (0.9 and 1): `Leaky`, whose membrane its user hands on from step to step.

With reset_mechanism "zero" (`snntorch._neurons.leaky`): ``mem = beta (1 - o) mem + x``, ``o = mem > threshold``, with o
that of the step before, whatever reset_delay: a LIF of ours. beta is clamped to 0..1.
"""

from __future__ import annotations

import torch
from snntorch import Leaky
from snntorch._neurons.neurons import SpikingNeuron
from torch import Tensor, nn

from snn2chip import ir
from snn2chip.errors import UnsupportedError
from snn2chip.frameworks.leaf import Leaf

_FIELDS = {"inhibition": False, "state_quant": False, "graded_spikes_factor": 1.0}


def leaf(_path: str, module: nn.Module) -> Leaf | None:
    """A neuron of snnTorch."""
    if not isinstance(module, SpikingNeuron):
        return None
    return Leaf(
        lambda name, sources, _shape: [_neuron(name, sources, module)],
        ("image", "step"),
        states=int(not module.init_hidden or module.output),
    )


def _neuron(name: str, sources: tuple[str, ...], module: nn.Module) -> ir.LIF:
    called = type(module).__name__
    if type(module) is not Leaky:
        raise UnsupportedError(f"layer '{name}': {called} is not a neuron of the chip's; use Leaky")
    if module.reset_mechanism != "zero":
        raise UnsupportedError(
            f"layer '{name}': Leaky with reset_mechanism '{module.reset_mechanism}', the chip resets to zero; train "
            f"with reset_mechanism='zero'"
        )
    for field, wanted in _FIELDS.items():
        value = getattr(module, field)
        if callable(value) or bool(torch.as_tensor(value).ne(wanted).any()):
            raise UnsupportedError(f"layer '{name}': Leaky with {field}, which no chip has; leave it out")
    beta = _one(name, "beta", torch.as_tensor(module.beta).detach().double().clamp(0, 1))
    threshold = _one(name, "threshold", torch.as_tensor(module.threshold).detach().double())
    if not threshold > 0:
        raise UnsupportedError(f"layer '{name}': Leaky with threshold {threshold:g}; it must be positive")
    return ir.LIF(name, sources, beta, threshold)


def _one(name: str, what: str, values: Tensor) -> float:
    if bool((values != values.flatten()[0]).any()):
        raise UnsupportedError(f"layer '{name}': Leaky with a {what} of each neuron; give the layer one")
    return float(values.flatten()[0])


def reset(network: nn.Module) -> None:
    """Let neurons that keep their membrane themselves start anew."""
    for module in network.modules():
        if isinstance(module, Leaky):
            module.reset_mem()
