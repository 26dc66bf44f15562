"""Layers of neurons that no input makes fire: what their membranes can reach within T steps, against the threshold.

A neuron that has not fired was never reset, so its membrane is at most ``U[t] = tau U[t-1] + C[t]``, ``C[t] =
current_tau C[t-1] + I``, I the largest sum of a step that inputs within their bounds make, and it fires at some step
only if U passes its threshold. Spikes of a layer that never fires are 0, which bounds the layers after it. Bounds are
upper ones, and leave room for rounding: a layer that can fire is never named.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from snn2chip import ir
from snn2chip.chip.bounds import Bounds, joint_bounds
from snn2chip.chip.profile import DECAY_ONE, UNIT
from snn2chip.errors import UnsupportedError

_ROUNDING = 1e-9  # of the sum of all sizes, in float64 far more than sums are off


@dataclass(frozen=True)
class Silent:
    """A layer that never fires: the largest membrane of the neuron that comes nearest to its threshold."""

    name: str
    peak: float
    threshold: float


def _membranes(
    node: ir.LIF | ir.CubaNeuron, sums: ir.FloatArray, bias: ir.FloatArray, steps: int, sizes: bool = False
) -> ir.FloatArray:
    """Largest membranes (C,), or (T, C) where constants change, for sums and biases (C,) of a step; `sizes` adds them
    up without regard to sign. A bias enters the current that a trained neuron keeps, and passes the chip's by."""
    table = node.steps
    if table is None:
        trained = isinstance(node, ir.LIF)
        tau = node.tau if isinstance(node, ir.LIF) else 1 - node.voltage_decay / DECAY_ONE
        stays = node.current_tau if isinstance(node, ir.LIF) else 1 - node.current_decay / DECAY_ONE
        current, membrane, peak = np.zeros_like(sums), np.zeros_like(sums), np.full_like(sums, -np.inf)
        with np.errstate(over="ignore"):  # a tau above 1
            for _ in range(steps):
                current = stays * current + sums + (bias if trained else 0)
                membrane = tau * membrane + current + (0 if trained else bias)
                peak = np.maximum(peak, membrane)
        return peak
    unit, leaks = (UNIT, table.leak / 2.0**table.leak_shift) if isinstance(table, ir.StepTables) else (1, table.leak)
    found = []
    kept = np.zeros(len(sums))
    for leak, lift in zip(leaks[:steps], np.abs(table.bias) if sizes else table.bias, strict=False):
        kept = leak * np.maximum(kept, 0) + unit * (sums + bias) + lift
        found.append(kept)
    return np.array(found) / unit


def silent(network: ir.Network) -> list[Silent]:
    """The layers of neurons of a folded or quantized network that no input makes fire."""
    bounds: dict[str, Bounds] = {network.input.name: network.input.port_range()}
    accumulates = network.readout.inputs[0] if network.readout.kind == "membrane" else None
    found = []
    for node in network.nodes:
        if not isinstance(node, (ir.LIF, ir.CubaNeuron)) or node.name == accumulates:
            continue
        channels, steps = network.shape(node.name)[0], network.timesteps
        synapses = network.synapses_of(node)
        least, most = joint_bounds(synapses, [bounds[network.source_of(item).name] for item in synapses])
        bias = ir.total_bias(synapses)
        lift = np.zeros(channels) if bias is None else bias.reshape(channels, -1).max(1)
        peaks = _membranes(node, most.astype(np.float64), lift, steps)
        if node.steps is None:
            thresholds = np.full_like(peaks, node.threshold)
        else:
            thresholds = node.steps.threshold[: len(peaks)] / (UNIT if isinstance(node.steps, ir.StepTables) else 1)
        room = np.zeros_like(peaks)
        if isinstance(node, ir.LIF):
            sizes = _membranes(node, (most - least).astype(np.float64), np.abs(lift), steps, sizes=True)
            room = _ROUNDING * (sizes + thresholds)
        reached = peaks + room - thresholds
        dead = bool((reached <= 0).all())
        if dead:
            nearest = int(reached.argmax())
            found.append(Silent(node.name, float(peaks.flat[nearest]), float(thresholds.flat[nearest])))
        bounds[node.name] = (np.zeros(channels, dtype=np.int64), np.full(channels, 0 if dead else 1))
    return found


def check(network: ir.Network) -> tuple[str, ...]:
    """What to say of layers that never fire, where spikes reach the readout past them all the same.

    Raises:
        UnsupportedError: they do not: the scores are the same whatever the input.
    """
    found = silent(network)
    said = {
        item.name: f"layer '{item.name}': no input makes it fire, its membranes reach {item.peak:.4g} at most in "
        f"{network.timesteps} steps, its threshold is {item.threshold:.4g}"
        + (" (the chip's integers)" if network.stage == "quantized" else "")
        for item in found
    }
    live = {network.input.name}
    for node in network.nodes[1:]:
        if node.name not in said and live.intersection(node.inputs):
            live.add(node.name)
    if network.readout.name in live:
        return tuple(said.values())
    if network.notes:  # of another maker
        remedy = "is the step right? A file that counts time in steps, IF with R = 1 say, is read with --dt 1"
    elif network.stage == "quantized":
        remedy = (
            "its float network can: one weight or bias far larger than the others leaves them too few bits, so retrain"
        )
    else:
        remedy = "train it with larger weights or a lower threshold, or for more time steps"
    raise UnsupportedError(f"{next(iter(said.values()))}, so that scores do not depend on the input; {remedy}")
