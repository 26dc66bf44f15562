"""Numbers that layers are made with, and the precision in which trained ones count."""

from __future__ import annotations

import copy
from numbers import Real
from typing import TypeVar

from torch import Tensor, nn

from snn2chip.errors import InputError

Module = TypeVar("Module", bound=nn.Module)


def in_float64(module: Module) -> Module:
    """A copy in float64, on the CPU, in eval mode: the network that is deployed.

    What a layer makes of its parameters (BNTT's gamma = exp(log_weight), a trainable neuron's tau = sigmoid(tau_logit)
    and Vth = exp(log_threshold)) is computed in the parameters' precision. In float32 it is rounded, and depends on
    the machine in the last bit; a deployed network's constants are those of this copy, wherever they are read.
    """
    return copy.deepcopy(module).cpu().double().eval()


def number(where: str, name: str, value: object) -> float:
    """One number as a float.

    Raises:
        InputError: anything else: a tensor of several, one that is trained, a text.
    """
    if isinstance(value, Tensor):
        if value.requires_grad:
            raise InputError(
                f"{where}: {name} is a tensor with a gradient, which would be read once and never trained; give a "
                f"number (a LIF trains its own with trainable_tau and trainable_threshold)"
            )
        if value.numel() != 1 or value.is_complex():
            raise InputError(f"{where}: {name} is a tensor of shape {tuple(value.shape)}; give one number")
        return float(value)
    if not isinstance(value, Real):
        raise InputError(f"{where}: {name} is {type(value).__name__}, not a number")
    return float(value)
