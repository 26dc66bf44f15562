"""A NIR graph run as its own equations say, by forward Euler, in float64; the network read of it is held against that.

It shares nothing with the reader but the package nir: gains, thresholds and resets are used as they stand in the file.

    LIF         v += dt / tau ((v_leak - v) + r I)                  v > v_threshold: spike, v = v_reset
    IF          v += dt r I
    CubaLIF     i += dt / tau_syn (w_in I - i), then LIF's with i
    I           v += dt r I
    Threshold   I > threshold: spike
"""

from __future__ import annotations

from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from snn2chip import ir
from snn2chip.formats.nir.algebra import DT
from snn2chip.formats.nir.asked import Asked
from snn2chip.formats.nir.read import load_graph

if TYPE_CHECKING:
    from nir import NIRGraph

_NEURONS = ("LIF", "IF", "CubaLIF", "Threshold")


@dataclass(frozen=True, eq=False)
class Written:
    """A NIR graph, and the network that was read of it.

    captured  the network, captured or folded
    graph     of the package nir
    dt        seconds a step
    ties      whether neurons fire right at their threshold
    """

    captured: ir.Network
    graph: NIRGraph
    dt: float
    ties: bool

    @torch.no_grad()
    def run(self, raw: ir.IntArray) -> tuple[dict[str, NDArray[Any]], NDArray[Any]]:
        """Spikes (N, T, ...) of every neuron, by the network's name of it, and scores (N, K) summed over time, of raw
        input (N, T, C, H, W)."""
        given, nodes = self.captured.input, self.graph.nodes
        into: dict[str, list[str]] = {name: [] for name in nodes}
        for source, target in dict.fromkeys(self.graph.edges):
            into[target].append(source)
        order = list(TopologicalSorter(into).static_order())
        kinds = {name: type(node).__name__ for name, node in nodes.items()}
        fired: dict[str, list[Tensor]] = {name: [] for name in order if kinds[name] in _NEURONS}
        state: dict[str, dict[str, Tensor]] = {name: {} for name in order}
        output = next(name for name in order if kinds[name] == "Output")
        scores: list[Tensor] = []
        sides = (-1, *(1,) * (len(given.shape) - 1))
        scale, shift = (torch.from_numpy(values.copy()).reshape(sides) for values in (given.scale, given.shift))
        for step in range(raw.shape[1]):
            x = torch.from_numpy(given.port(raw[:, step])).double() * scale + shift
            values: dict[str, Tensor] = {}
            for name in order:
                node, kind = nodes[name], kinds[name]
                if kind == "Input":
                    values[name] = x.reshape(len(x), *map(int, np.asarray(node.input_type["input"])))
                    continue
                current = sum((values[source] for source in into[name][1:]), values[into[name][0]])
                values[name] = self._node(kind, node, current, state[name])
                if name in fired:
                    fired[name].append(values[name].bool())
            scores.append(values[output].flatten(1))
        ends = kinds[into[output][0]] == "I"  # which has summed up already
        names = {name: str((nodes[name].metadata or {}).get("name", name)) for name in fired}
        spikes = {
            names[name]: torch.stack(steps, 1).reshape(len(raw), -1, *self.captured.shape(names[name])).numpy()
            for name, steps in fired.items()
        }
        return spikes, (scores[-1] if ends else torch.stack(scores).sum(0)).numpy()

    def _node(self, kind: str, node: Any, x: Tensor, state: dict[str, Tensor]) -> Tensor:
        """What one node gives at one step."""

        def each(field: str) -> Tensor:
            value = np.asarray(getattr(node, field), dtype=np.float64)
            whole = np.full(x.shape[1:], value.item()) if value.size == 1 else value.reshape(x.shape[1:])
            return torch.from_numpy(whole.copy())

        if kind in ("Conv2d", "Conv1d"):
            convolve, row = (F.conv1d, True) if kind == "Conv1d" else (F.conv2d, False)
            weight = torch.from_numpy(np.array(node.weight, dtype=np.float64))
            bias = None if node.bias is None else torch.from_numpy(np.array(node.bias, dtype=np.float64))
            given = (node.stride, node.padding, node.dilation)
            stride, padding, dilation = (_sides(value, row) for value in given)
            return convolve(x, weight, bias, stride, padding, dilation, int(np.asarray(node.groups)))
        if kind in ("Affine", "Linear"):
            y = x @ torch.from_numpy(np.array(node.weight, dtype=np.float64)).T
            return y if kind == "Linear" else y + torch.from_numpy(np.array(node.bias, dtype=np.float64))
        if kind == "Flatten":
            return x.flatten(1)
        if kind in ("AvgPool2d", "SumPool2d"):
            kernel = _sides(node.kernel_size, False)
            y = F.avg_pool2d(x, kernel)
            return y * float(np.prod(kernel)) if kind == "SumPool2d" else y
        if kind == "Scale":
            return x * each("scale")
        if kind == "Output":
            return x
        if kind == "Threshold":
            return self._over(x, each("threshold")).double()
        if kind == "CubaLIF":
            synapse = state.get("i", torch.zeros_like(x))
            x = state["i"] = synapse + self.dt / each("tau_syn") * (each("w_in") * x - synapse)
        v = state["v"] if "v" in state else torch.zeros_like(x) if kind == "I" else each("v_reset").expand_as(x)
        if kind in ("I", "IF"):
            v = v + self.dt * each("r") * x
        else:
            v = v + self.dt / each("tau_mem" if kind == "CubaLIF" else "tau") * (each("v_leak") - v + each("r") * x)
        spikes = torch.zeros_like(v, dtype=torch.bool) if kind == "I" else self._over(v, each("v_threshold"))
        state["v"] = v if kind == "I" else torch.where(spikes, each("v_reset"), v)
        return v if kind == "I" else spikes.double()

    def _over(self, value: Tensor, threshold: Tensor) -> Tensor:
        return value >= threshold if self.ties else value > threshold


def _sides(value: Any, row: bool) -> Any:
    """A size of a node along each axis; words as they are."""
    if isinstance(value, (str, bytes)):
        return value.decode() if isinstance(value, bytes) else value
    sides = [int(side) for side in np.asarray(value).flatten()]
    return sides[:1] if row else [sides[0], sides[-1]]


def load(path: str | Path, **asked: Unpack[Asked]) -> Written:
    """Read a NIR file for running it as it is; what is asked for is as in `snn2chip.formats.nir.load`.

    Raises:
        InputError, SetupError, UnsupportedError: as that.
    """
    graph, network = load_graph(path, **asked)
    said = graph.metadata if isinstance(graph.metadata, dict) else {}
    dt = asked.get("dt") or float(np.asarray(said.get("dt", DT)))
    return Written(network, graph, dt, asked.get("ties") == "fire")
