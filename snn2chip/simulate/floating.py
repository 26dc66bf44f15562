"""The float64 reference interpreter of captured and folded networks: the definition of what they compute."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from snn2chip import ir


@dataclass(frozen=True, eq=False)
class FloatTrace:
    """What happened, by neuron layer: spikes (N, T, ...) bool, membranes before reset (N, T, ...) float64.

    `scores` (N, K): the readout's sum over time, not divided by T.
    """

    spikes: dict[str, Tensor]
    membranes: dict[str, Tensor]
    scores: Tensor


def _affine(x: Tensor, scale: np.ndarray, shift: np.ndarray) -> Tensor:
    shape = (-1, *(1,) * (x.ndim - 2))
    return x * torch.from_numpy(scale.copy()).view(shape) + torch.from_numpy(shift.copy()).view(shape)


def _synapse(node: ir.Synapse, x: Tensor) -> Tensor:
    weight = torch.from_numpy(node.weight.astype(np.float64))
    if isinstance(node, ir.Conv):
        y = F.conv2d(x, weight, None, node.stride, node.padding, node.dilation, node.groups)
    else:
        y = F.linear(x, weight)
    if node.bias is not None:
        bias = torch.from_numpy(node.bias.astype(np.float64))
        y = y + (bias.view(-1, *(1,) * (y.ndim - 2)) if bias.ndim == 1 else bias)
    return y


def _norm(node: ir.Norm, x: Tensor) -> Tensor:
    per_channel = (-1, *(1,) * (x.ndim - 2))

    def view(values: np.ndarray) -> Tensor:
        return torch.from_numpy(values.copy()).view(per_channel)

    scaled = node.alpha * node.threshold * (x - view(node.mean)) / torch.sqrt(view(node.var) + node.eps)
    return view(node.gamma) * scaled + view(node.beta)


@torch.no_grad()
def evaluate(network: ir.Network, raw: ir.IntArray, *, keep: bool = True) -> FloatTrace:
    """Run a captured or folded network on raw input (N, T, C, H, W), in float64, one step after another.

    `keep=False` leaves spikes and membranes out of the trace (whole data sets).
    """
    spikes: dict[str, list[Tensor]] = {node.name: [] for node in network.of(ir.LIF)}
    membranes: dict[str, list[Tensor]] = {node.name: [] for node in network.of(ir.LIF)}
    state: dict[str, Tensor] = {}
    scores = torch.zeros(())
    for step in range(raw.shape[1]):
        values: dict[str, Tensor] = {}
        for node in network.nodes:
            if isinstance(node, ir.Input):
                port = torch.from_numpy(node.port(raw[:, step]).astype(np.float64))
                values[node.name] = _affine(port, node.scale, node.shift)
                continue
            if isinstance(node, ir.Add):
                values[node.name] = sum((values[name] for name in node.inputs[1:]), values[node.inputs[0]])
                continue
            x = values[node.inputs[0]]
            if isinstance(node, (ir.Conv, ir.Dense)):
                y = _synapse(node, x)
            elif isinstance(node, ir.Norm):
                y = _norm(node, x)
            elif isinstance(node, ir.AvgPool):
                y = F.avg_pool2d(x, node.kernel)
            elif isinstance(node, ir.MaxPool):
                y = F.max_pool2d(x, node.kernel, node.stride, node.padding)
            elif isinstance(node, ir.Flatten):
                y = x.flatten(1)
            elif isinstance(node, ir.LIF):
                membrane = x + node.tau * state[node.name] if node.name in state else x
                fired = membrane > node.threshold
                state[node.name] = membrane.masked_fill(fired, 0)
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
