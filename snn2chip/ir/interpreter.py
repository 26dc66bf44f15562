"""The float64 reference interpreter of captured and folded networks: the definition of what they compute."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from snn2chip import ir
from snn2chip.errors import InputError


@dataclass(frozen=True, eq=False)
class FloatTrace:
    """What happened, by neuron layer: spikes (N, T, ...) bool, membranes before reset (N, T, ...) float64.

    Membranes are those of the trained neuron, u, also where the folded one has v = u / gain.
    `scores` (N, K): the readout's sum over time, not divided by T.
    """

    spikes: dict[str, Tensor]
    membranes: dict[str, Tensor]
    scores: Tensor


def _column(values: np.ndarray, x: Tensor) -> Tensor:
    """Values (C,) shaped for x (N, C, ...)."""
    return torch.from_numpy(values.copy()).view(-1, *(1,) * (x.ndim - 2))


def _synapse(node: ir.Synapse, x: Tensor) -> Tensor:
    weight = torch.from_numpy(node.weight.astype(np.float64))
    if isinstance(node, ir.Conv):
        y = F.conv2d(x, weight, None, node.stride, node.padding, node.dilation, node.groups)
    else:
        y = F.linear(x, weight)
    if node.bias is not None:
        bias = node.bias.astype(np.float64)
        y = y + (_column(bias, y) if bias.ndim == 1 else torch.from_numpy(bias))
    return y


def _norm(node: ir.Norm, x: Tensor) -> Tensor:
    gamma, beta, mean, var = (_column(values, x) for values in (node.gamma, node.beta, node.mean, node.var))
    return gamma * (node.alpha * node.threshold * (x - mean) / torch.sqrt(var + node.eps)) + beta


def _step_norm(node: ir.StepNorm, x: Tensor, step: int) -> Tensor:
    gamma, mean, var = (_column(table[step], x) for table in (node.gamma, node.mean, node.var))
    return gamma * ((x - mean) / torch.sqrt(var + node.eps))


def _fires(node: ir.LIF, membrane: Tensor, threshold: Tensor | float) -> Tensor:
    return membrane >= threshold if node.ties else membrane > threshold


def current(node: ir.LIF, x: Tensor, kept: Tensor | None) -> Tensor:
    """The current of a neuron, x and what is left of the step before's."""
    return x if kept is None or not node.current_tau else x + _left(node, node.current_tau * kept)


def _left(node: ir.LIF, left: Tensor) -> Tensor:
    """What a state decays to, rounded as the neuron does."""
    return left if node.grain is None else (left / node.grain).trunc() * node.grain


def neuron(node: ir.LIF, x: Tensor, kept: Tensor | None, step: int) -> tuple[Tensor, Tensor, Tensor]:
    """One step: (spikes, what is kept for the next step, the membrane u before reset)."""
    if node.steps is None:
        membrane = x if kept is None else x + _left(node, node.tau * kept)
        fired = _fires(node, membrane, node.threshold)
        return fired, membrane.masked_fill(fired, 0), membrane
    table = node.steps
    v = x + _column(table.bias[step], x)
    if kept is not None:
        v = v + _column(table.leak[step], x) * kept
    fired = _fires(node, v, _column(table.threshold[step], x))
    return fired, v.masked_fill(fired, 0), v * _column(table.gain[step], x)


def _needed(network: ir.Network, given: Mapping[str, np.ndarray]) -> set[str]:
    """The nodes that the readout depends on past those `given`."""
    found, waiting = set[str](), [network.readout.name]
    while waiting:
        name = waiting.pop()
        if name not in found and name not in given:
            found.add(name)
            waiting += network[name].inputs
    return found


@torch.no_grad()
def evaluate(
    network: ir.Network, raw: ir.IntArray, *, keep: bool = True, given: Mapping[str, np.ndarray] | None = None
) -> FloatTrace:
    """Run a captured or folded network on raw input (N, T, C, H, W), in float64, one step after another.

    `keep=False` leaves spikes and membranes out of the trace (whole data sets). The neuron layers in `given` send those
    spikes (N, T, ...) instead of their own; what only they would need is not computed, nor in the trace.

    Raises:
        InputError: more steps than the network has statistics for.
    """
    if raw.shape[1] > network.timesteps:
        raise InputError(f"{raw.shape[1]} time steps of input exceed the network's {network.timesteps}; give fewer")
    given = given or {}
    needed = _needed(network, given)
    spikes: dict[str, list[Tensor]] = {node.name: [] for node in network.of(ir.LIF)}
    membranes: dict[str, list[Tensor]] = {node.name: [] for node in network.of(ir.LIF)}
    state: dict[str, Tensor] = {}
    currents: dict[str, Tensor] = {}
    scores = torch.zeros(())
    for step in range(raw.shape[1]):
        values: dict[str, Tensor] = {}
        for node in network.nodes:
            if node.name in given:
                values[node.name] = torch.from_numpy(given[node.name][:, step].astype(np.float64))
                continue
            if node.name not in needed:
                continue
            if isinstance(node, ir.Input):
                port = torch.from_numpy(node.port(raw[:, step]).astype(np.float64))
                values[node.name] = port * _column(node.scale, port) + _column(node.shift, port)
                continue
            if isinstance(node, ir.Add):
                values[node.name] = sum((values[name] for name in node.inputs[1:]), values[node.inputs[0]])
                continue
            x = values[node.inputs[0]]
            if isinstance(node, (ir.Conv, ir.Dense)):
                y = _synapse(node, x)
            elif isinstance(node, ir.Norm):
                y = _norm(node, x)
            elif isinstance(node, ir.StepNorm):
                y = _step_norm(node, x, step)
            elif isinstance(node, ir.AvgPool):
                y = F.avg_pool2d(x, node.kernel)
            elif isinstance(node, ir.MaxPool):
                y = F.max_pool2d(x, node.kernel, node.stride, node.padding)
            elif isinstance(node, ir.Flatten):
                y = x.flatten(1)
            elif isinstance(node, ir.LIF):
                x = currents[node.name] = current(node, x, currents.get(node.name))
                fired, state[node.name], membrane = neuron(node, x, state.get(node.name), step)
                if keep:
                    spikes[node.name].append(fired)
                    membranes[node.name].append(membrane)
                y = fired.double()
            else:
                scores = scores + x
                y = x
            values[node.name] = y
    return FloatTrace(
        {name: torch.stack(steps, 1) for name, steps in spikes.items() if steps},
        {name: torch.stack(steps, 1) for name, steps in membranes.items() if steps},
        scores,
    )
