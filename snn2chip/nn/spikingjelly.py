"""Weights that SpikingJelly trained, into layers of ours that compute the same."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from snn2chip.errors import InputError, UnsupportedError
from snn2chip.nn.neuron import LIF
from snn2chip.nn.norm import BNTT, TDBatchNorm


@torch.no_grad()
def load_spikingjelly(
    network: nn.Module,
    state: Mapping[str, Tensor],
    *,
    tau: float | None = 2.0,
    v_threshold: float = 1.0,
    v_reset: float | None = 0.0,
    decay_input: bool = True,
) -> None:
    """Put a SpikingJelly state_dict into `network`, whose layers with weights come in the same order.

    tau, v_threshold, v_reset and decay_input are those of its neurons, which a state_dict does not hold; tau None
    stands for IFNode. Its LIFNode is ``v += (x - (v - v_reset)) / tau``, without decay_input ``v += x - (v - v_reset)
    / tau``. So a LIF of ours must have

        tau = 1 - 1 / theirs        Vth = (v_threshold - v_reset) theirs,   without decay_input v_threshold - v_reset

    (IFNode: tau 1). Its batch norms, tdBN or not, hold gamma alpha Vth in `weight`, a `TDBatchNorm` gamma alone:
    ``weight = theirs / (alpha Vth)``, with this layer's alpha and Vth. What is left is a membrane right at its
    threshold, where SpikingJelly's neurons fire and ours do not.

    Raises:
        InputError: neurons of other constants, or layers that do not match, named; nothing is loaded then.
        UnsupportedError: v_reset None, reset by subtraction.
    """
    if v_reset is None:
        raise UnsupportedError("v_reset None is a reset by subtraction; ours is to v_reset, so train with v_reset=0.0")
    if not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError("the state holds more than tensors; give the network's state_dict() itself")
    if tau is not None and not tau >= 1:
        raise InputError(f"tau {tau} of a LIFNode is at least 1")
    wanted = 1.0 if tau is None else 1 - 1 / tau
    level = (v_threshold - v_reset) * (tau if tau is not None and decay_input else 1.0)
    modules = [(name, module) for name, module in network.named_modules() if not list(module.children())]
    for name, module in modules:
        if isinstance(module, LIF):
            found = float(module.tau.detach()), float(module.threshold.detach())
            if not all(math.isclose(*pair, rel_tol=1e-6) for pair in zip(found, (wanted, level), strict=True)):
                raise InputError(
                    f"layer '{name}': tau {found[0]:g} and threshold {found[1]:g}, but SpikingJelly's neuron is one of "
                    f"tau {wanted:g} and threshold {level:g} here; build the network with those"
                )
    theirs: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        layer, _, field = key.rpartition(".")
        if field != "num_batches_tracked":
            theirs.setdefault(layer, {})[field] = value
    kinds = (nn.Conv2d, nn.Linear, TDBatchNorm, BNTT)
    own = [(name, module, module.state_dict()) for name, module in modules if isinstance(module, kinds)]
    if len(own) != len(theirs):
        raise InputError(f"{len(theirs)} layers with weights in the state, {len(own)} in the network; they must match")
    for (name, _, mine), (layer, values) in zip(own, theirs.items(), strict=True):
        shapes = [{field: tuple(value.shape) for field, value in side.items()} for side in (mine, values)]
        if shapes[0] != shapes[1]:
            raise InputError(f"layer '{name}' has {shapes[0]}, layer '{layer}' of the state {shapes[1]}")
    for (_, module, _), values in zip(own, theirs.values(), strict=True):
        if isinstance(module, TDBatchNorm):
            values = {**values, "weight": values["weight"] / (module.alpha * module.threshold)}
        module.load_state_dict(values)
