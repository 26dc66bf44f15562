"""The chip's integer arithmetic, defined once, in int32 torch operations.

Follows lava-nc 0.10.0, `lava/proc/lif/models.py`, `PyLifModelBitAcc`::

    u = trunc0(u * (4096 - (du + 1)) / 4096) + (a_in << 6)     wraps past 2^23
    v = trunc0(v * (4096 - dv) / 4096) + u + (bias << bias_exp)   clipped to +-(2^23 - 1)
    spike = v > (vth << 6);  v = 0 where it spiked

trunc0 rounds toward zero. netx passes ``du = iDecay - 1`` and ``dv = vDecay``, so here both are called by
what they take away of 4096: `current_decay` and `voltage_decay`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from snn2chip.chip.profile import DECAY_ONE, STATE_MAX, STATE_SHIFT


def decay(state: Tensor, amount: int | Tensor) -> Tensor:
    """``trunc0(state * (4096 - amount) / 4096)`` for int32 |state| <= 2^23 and amount 0..4096, one or one a neuron.

    The product has up to 36 bits. With |state| = 4096 h + l it is ``h k + (l k >> 12)``, k = 4096 - amount,
    exactly, and every term fits int32.
    """
    if isinstance(amount, int) and amount in (0, DECAY_ONE):
        return state if amount == 0 else torch.zeros_like(state)
    keep = DECAY_ONE - amount
    size = state.abs()
    size = (size >> 12) * keep + (((size & 4095) * keep) >> 12)
    return torch.where(state < 0, -size, size)


def current_step(current: Tensor, activation: Tensor, current_decay: int | Tensor) -> Tensor:
    """One step of u: decay, add the input, wrap (once, as Lava does). All int32; |activation| < 2^24."""
    total = decay(current, current_decay) + (activation << STATE_SHIFT)
    # Lava's bounds are lopsided: +2^23 itself stays, -2^23 does not.
    return torch.where(
        total > STATE_MAX,
        total - 2 * STATE_MAX,
        torch.where(total <= -STATE_MAX, total + 2 * STATE_MAX, total),
    )


def voltage_step(
    voltage: Tensor,
    current: Tensor,
    bias: Tensor | int,
    threshold: int | Tensor,
    voltage_decay: int | Tensor,
    bias_exp: int = 6,
) -> tuple[Tensor, Tensor]:
    """One step of v: decay, add u and bias, clip, compare, reset. Gives (voltage after reset, spikes as bool).

    `bias` int32 mantissas broadcast to v, `threshold` 0..131071, `bias_exp` 0..7 (netx always has 6).
    """
    shifted = bias << bias_exp
    updated = (decay(voltage, voltage_decay) + current + shifted).clamp_(-(STATE_MAX - 1), STATE_MAX - 1)
    spikes = updated > (threshold << STATE_SHIFT)
    return updated.masked_fill_(spikes, 0), spikes


def step(
    current: Tensor,
    voltage: Tensor,
    activation: Tensor,
    bias: Tensor | int,
    *,
    threshold: int | Tensor,
    voltage_decay: int | Tensor,
    current_decay: int | Tensor = DECAY_ONE,
    bias_exp: int = 6,
) -> tuple[Tensor, Tensor, Tensor]:
    """One step of the CUBA neuron: (u, v, input) to (u, v after reset, spikes)."""
    current = current_step(current, activation, current_decay)
    voltage, spikes = voltage_step(voltage, current, bias, threshold, voltage_decay, bias_exp)
    return current, voltage, spikes


def step_voltage(
    voltage: Tensor, current: Tensor, bias: Tensor | int, leak: Tensor, shift: int, lift: Tensor, threshold: Tensor
) -> tuple[Tensor, Tensor]:
    """One step of the time-varying neuron (see `snn2chip.passes.fold_bntt`), in the chip's 24-bit state::

        v = trunc0(v * leak / 2^shift) + u + (bias << 6) + lift    clipped to +-(2^23 - 1)
        spike = v > threshold;  v = 0 where it spiked

    `leak` 0..65535, `lift` and `threshold` (24 bits, both in the units of v) are this step's row of the tables, int32,
    shaped to broadcast over v; `bias` is the synapses' own. No stock neuron does this: Lava runs the process in
    deploy/lava/neurons, which is held equal to this.
    """
    # every number here stays under 2^41, which float64 holds exactly, and its products are faster than those of int64
    total = voltage.to(torch.float64).mul_(leak).mul_(2.0**-shift).trunc_()
    total.add_(current).add_((bias << STATE_SHIFT) + lift)
    updated = total.clamp_(-(STATE_MAX - 1), STATE_MAX - 1).to(torch.int32)
    spikes = updated > threshold
    return updated.masked_fill_(spikes, 0), spikes
