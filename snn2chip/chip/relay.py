"""The arithmetic of relays: neurons that pass a spike on, one layer later, and never fire otherwise.

All neurons of a netx layer share threshold th and voltage decay dv, and a weight is at most 254. A relay that reads
`copies` equal spikes of weight w each, and has a constant bias b, fires exactly when they come, if

- ``copies w + b > th``: a spike fires it even right after a reset, from v = 0;
- the bias alone never does: the sequence ``v <- trunc0(v (4096 - dv) / 4096) + 64 b``, from 0, stays at or below
  ``64 th`` for ever.

Its membrane is 0 after every spike, so the states that it can reach are that one sequence, which rises and comes to
rest near ``64 b / (1 - tau)``: `is_exact` walks all of it. Hence b may be nearly ``th (1 - tau)``, and th about
``(copies w - 1) / tau``: 1012 at tau = 0.25 with one copy, where a relay without bias allows 253.
"""

from __future__ import annotations

from snn2chip.chip.profile import DECAY_ONE, UNIT, Chip


def is_exact(threshold: int, voltage_decay: int, weight: int, bias: int) -> bool:
    """Whether a relay fires exactly on a spike of (total) `weight`, from every membrane state it can reach."""
    if bias < 0 or weight + bias <= threshold:
        return False
    keep, voltage, last = DECAY_ONE - voltage_decay, 0, -1
    while voltage != last:  # rises until it rests, or passes the threshold
        last = voltage
        voltage = ((voltage * keep) >> 12) + UNIT * bias
        if voltage > UNIT * threshold:
            return False
    return True


def bias_for(threshold: int, voltage_decay: int, weight: int, bias_max: int) -> int | None:
    """The smallest bias that makes a relay exact, or None if none does. A smaller bias is farther from firing."""
    bias = max(0, threshold + 1 - weight)
    return bias if bias <= bias_max and is_exact(threshold, voltage_decay, weight, bias) else None


def largest_threshold(voltage_decay: int, weight: int, bias_max: int) -> int:
    """The largest threshold at which a relay of total `weight` can be exact with a bias of at most `bias_max`."""
    low, high = weight - 1, weight + bias_max
    while low < high:  # the bias that a higher threshold needs grows faster than what it forgives
        middle = (low + high + 1) // 2
        if bias_for(middle, voltage_decay, weight, bias_max) is None:
            high = middle - 1
        else:
            low = middle
    return low


def choose(
    threshold: int, voltage_decay: int, copies: int, chip: Chip, *, even: bool, with_bias: bool = True
) -> tuple[int, int] | None:
    """Weight of each copy and bias of a relay at this threshold, or None if there is none.

    `even`: the layer holds only even weights, so that the relay's may reach 254 instead of 127.
    """
    weight = chip.weight_max if even else chip.weight_odd_max
    bias = bias_for(threshold, voltage_decay, copies * weight, chip.bias_max if with_bias else 0)
    return None if bias is None else (weight, bias)
