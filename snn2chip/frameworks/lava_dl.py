"""lava-dl (slayer 0.6): its CUBA blocks, which compute in the chip's integers already.

A block takes (N, C, H, W, T) or (N, C, T), time last. Its weights are even integers over `neuron.scale`, and its neuron
(`slayer.neuron.cuba`, with every state a multiple of 1 / (64 scale))

    u = trunc0((1 - current_decay) u) + w x
    v = trunc0((1 - voltage_decay) v) + u     o = v > threshold     v = 0 where o

is Lava's bit for bit: a network of integers of ours, with weights, threshold and decays as they stand in the file that
the block's own `export_hdf5` writes. With delay_shift a block hands its spikes on a step later, as chips do; here
every spike counts at the step that it belongs to.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from lava.lib.dl.slayer.block import base, cuba
from lava.lib.dl.slayer.neuron import cuba as neurons
from torch import nn

from snn2chip import ir
from snn2chip.chip.profile import DECAY_ONE, UNIT
from snn2chip.errors import UnsupportedError
from snn2chip.frameworks.leaf import Leaf
from snn2chip.nn import in_float64

_BLOCKS = (cuba.Dense, cuba.Conv, cuba.Pool)
_UNKNOWN = tuple(
    kind for name, kind in vars(base).items() if name.startswith("Abstract") and isinstance(kind, type)
)  # every block there is, of any neuron


def leaf(path: str, module: nn.Module) -> Leaf | None:
    """A block; what it is made of is followed, and refused where it is called by itself."""
    if isinstance(module, cuba.Flatten):
        return Leaf(lambda name, sources, _shape: [ir.Flatten(name, sources)], ("series",))
    if isinstance(module, cuba.Input) and module.neuron is None:
        return Leaf(lambda *_: [], ("series",))
    if isinstance(module, _BLOCKS):
        return Leaf(lambda name, sources, shape: _block(name, sources, shape, module), ("series",))
    if isinstance(module, _UNKNOWN):
        raise UnsupportedError(
            f"layer '{path}': lava-dl's {type(module).__module__.rpartition('.')[2]}.{type(module).__name__} has no "
            f"counterpart here; use Dense, Conv, Pool, Flatten of slayer.block.cuba, Input without a neuron"
        )
    return None


def _block(name: str, sources: tuple[str, ...], shape: ir.Shape, module: Any) -> list[ir.Node]:
    synapse, neuron = module.synapse, module.neuron
    _check(name, module)
    exact = in_float64(synapse)
    for hook in exact._forward_pre_hooks.values():  # weight norm makes the weight
        hook(exact, None)
    with torch.no_grad():
        weight = neuron.quantize_8bit(exact.weight, descale=True).squeeze(-1)
    mask = getattr(module, "mask", None)
    values = np.rint(weight.numpy() * (1.0 if mask is None else mask[..., 0].double().numpy()))
    made: ir.Synapse
    if isinstance(module, cuba.Dense):
        if values.shape[2:] != (1, 1):
            raise UnsupportedError(f"layer '{name}': a Dense of images; put a Flatten before it")
        made = ir.Dense(f"{name}.synapse", sources, values[:, :, 0, 0], None)
    else:
        stride, padding, dilation = (
            (int(side[0]), int(side[1])) for side in (synapse.stride, synapse.padding, synapse.dilation)
        )
        groups = synapse.groups
        if isinstance(module, cuba.Pool):  # one kernel for every channel
            values, groups = np.repeat(values, shape[0], axis=0), shape[0]
        made = ir.Conv(f"{name}.synapse", sources, values, None, stride, padding, dilation, groups)
    decays = [1 - float(decay) / DECAY_ONE for decay in (neuron.cx_voltage_decay, neuron.cx_current_decay)]
    level = float(neuron.v_th_mant)
    return [made, ir.LIF(name, (made.name,), decays[0], level, grain=1 / UNIT, current_tau=decays[1])]


def _check(name: str, module: Any) -> None:
    """Refuse what a block can have beside weights, decays and a threshold.

    Raises:
        UnsupportedError: as said.
    """
    neuron = module.neuron
    hook = getattr(module.synapse.pre_hook_fx, "__func__", None)
    for found, what in (
        (module.delay is not None, "delay=True, learnt delays: train with delay=False"),
        (module.count_log, "count_log=True: take it away, spikes are counted here anyway"),
        (neuron.norm is not None, "a normalization of its current, which the chip has none: train with norm=None"),
        (neuron.persistent_state, "persistent_state=True: samples start anew here"),
        (neuron.graded_spike, "graded_spike=True, of which netx's CUBA neuron has none"),
        (not neuron.shared_param, "shared_param=False: train with decays of the whole layer"),
        (neuron.s_scale != UNIT * neuron.w_scale, "a state scale that is not 64 times its weights'"),
        (hook is not neurons.Neuron.quantize_8bit, "a pre_hook_fx other than its neuron's own quantize_8bit"),
        (int(neuron.v_th_mant) < 1, f"a threshold of {neuron.v_th_mant}: it must be positive"),
    ):
        if found:
            raise UnsupportedError(f"layer '{name}': a block with {what}")


def reset(network: nn.Module) -> None:
    """Let states start anew, and every spike count at its own step."""
    for module in network.modules():
        if hasattr(module, "delay_shift"):
            setattr(module, "delay_shift", False)  # noqa: B010 (of modules that torch's types do not know)
        if isinstance(module, neurons.Neuron):
            module.current_state, module.voltage_state = (
                torch.zeros(1, dtype=state.dtype) for state in (module.current_state, module.voltage_state)
            )
