"""NIR as tests want it: graphs of other makers, files read and folded, and NIR's own equations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import rng_of
from torch.nn import functional as F

from snn2chip import ir
from snn2chip.formats import nir as ours
from snn2chip.passes.fold import folded

nir = pytest.importorskip("nir")


def load(path: Path, **options: Any) -> ir.Network:
    return folded(ours.load(path, **options))


def convert(graph: Any, **options: Any) -> ir.Network:
    return folded(ours.convert(graph, **options))


def eighths(rng: np.random.Generator, *shape: int, top: int = 6) -> np.ndarray:
    """Weights whose sums are exact."""
    return rng.integers(-top, top + 1, shape) / 8


def foreign(*nodes: Any, shape: tuple[int, ...] = (2, 4, 4), output: int = 2) -> Any:
    """A chain as another program writes it: no metadata."""
    made = {"input": nir.Input({"input": np.array(shape)})}
    made |= {f"n{number}": node for number, node in enumerate(nodes)}
    made["output"] = nir.Output({"output": np.array([output])})
    return nir.NIRGraph(made, list(zip(list(made)[:-1], list(made)[1:], strict=True)), type_check=False)


def lif(*shape: int, tau: Any = 2e-4, r: Any = 2.0, threshold: Any = 1.0, **other: Any) -> Any:
    constants = {"v_leak": 0.0, "v_reset": 0.0, **other}
    return nir.LIF(
        tau=np.full(shape, tau), r=np.full(shape, r), v_threshold=np.full(shape, threshold),
        **{name: np.full(shape, value) for name, value in constants.items()},
    )  # fmt: skip


def conv(out: int = 3, groups: int = 1, **other: Any) -> Any:
    fields = {"stride": 1, "padding": 1, "dilation": 1, "bias": np.linspace(-1, 1, out), **other}
    weight = rng_of(0).standard_normal((out, 2 // groups, 3, 3)).astype(np.float32)
    return nir.Conv2d(input_shape=None, weight=weight, groups=groups, **fields)


def dense(inputs: int, outputs: int = 2) -> Any:
    return nir.Affine(rng_of(1).standard_normal((outputs, inputs)), np.linspace(0, 1, outputs))


def flat() -> Any:
    return nir.Flatten({"input": None}, 0, -1)


def kernel(out: int, inputs: int, size: int = 3, seed: int = 0, **other: Any) -> Any:
    fields = {"stride": 1, "padding": 1, "dilation": 1, "groups": 1, "bias": eighths(rng_of(seed + 1), out), **other}
    return nir.Conv2d(**{"input_shape": None, "weight": eighths(rng_of(seed), out, inputs, size, size), **fields})


def matrix(inputs: int, outputs: int, seed: int = 0) -> Any:
    return nir.Affine(eighths(rng_of(seed), outputs, inputs), eighths(rng_of(seed + 1), outputs))


def sums(size: int = 2, kind: str = "SumPool2d") -> Any:
    return getattr(nir, kind)(np.array([size, size]), np.array([size, size]), np.array([0, 0]))


def powers(seed: int, *shape: int, low: int = -1, high: int = 1) -> np.ndarray:
    return 2.0 ** rng_of(seed).integers(low, high + 1, shape)


def cuba(*shape: int, **other: Any) -> Any:
    constants = {"tau_syn": 1e-4, "tau_mem": 2e-4, "r": 2.0, "v_leak": 0.0, "v_reset": 0.0, "v_threshold": 1.0}
    constants |= {"w_in": 1.0, **other}
    return nir.CubaLIF(**{name: np.full(shape, value) for name, value in constants.items()})


IMAGE: dict[str, list[Any]] = {
    "sum pool before dense": [kernel(4, 2), lif(4, 8, 8), sums(), flat(), matrix(64, 3)],
    "sum pool before conv": [kernel(4, 2), lif(4, 8, 8), sums(), kernel(3, 4), lif(3, 4, 4), flat(), matrix(48, 3)],
    "sum pool after conv": [kernel(4, 2), sums(), lif(4, 4, 4, threshold=4.0), flat(), matrix(64, 3)],
    "sum of averages": [kernel(4, 2), lif(4, 8, 8), sums(), sums(kind="AvgPool2d"), flat(), matrix(16, 3)],
    "scale after conv": [kernel(4, 2), nir.Scale(powers(1, 4, 1, 1) * np.ones((4, 8, 8))), lif(4, 8, 8), flat(),
                         matrix(256, 3)],
    "scale before dense": [kernel(4, 2), lif(4, 8, 8), flat(), nir.Scale(powers(1, 256)), matrix(256, 3)],
    "scale of pixels": [kernel(4, 2), lif(4, 8, 8), nir.Scale(-powers(1, 4, 8, 8)), flat(), matrix(256, 3)],
    "scaled input": [nir.Scale(np.full((2, 8, 8), 0.5)), kernel(4, 2), lif(4, 8, 8), flat(), matrix(256, 3)],
    "scaled scores": [kernel(4, 2), lif(4, 8, 8), flat(), matrix(256, 3), nir.Scale(np.array([0.5, -2.0, 0.0]))],
    "a threshold a channel": [kernel(4, 2), lif(4, 8, 8, threshold=powers(2, 4, 1, 1) * np.ones((4, 8, 8))), flat(),
                              matrix(256, 3)],
    "a threshold a neuron": [flat(), matrix(128, 12), lif(12, threshold=powers(3, 12)), matrix(12, 3)],
    "a gain a neuron": [flat(), matrix(128, 12), lif(12, r=2 * powers(4, 12)), matrix(12, 3)],
    "rest below 0": [kernel(4, 2), lif(4, 8, 8, v_leak=-0.25, v_reset=-0.25), flat(), matrix(256, 3)],
    "a rest a neuron": [flat(), matrix(128, 12), lif(12, v_leak=-powers(5, 12), v_reset=-powers(5, 12), threshold=0.0),
                        matrix(12, 3)],
    "rest apart from reset": [kernel(4, 2), lif(4, 8, 8, v_leak=0.25, v_reset=-0.5), flat(), matrix(256, 3)],
    "IF of reset below 0": [flat(), matrix(128, 12), nir.IF(np.full(12, 1e4), np.full(12, 2.0), np.full(12, -0.5)),
                            matrix(12, 3)],
    "CubaLIF of many weights": [flat(), matrix(128, 12), cuba(12, w_in=-powers(6, 12)), matrix(12, 3)],
    "CubaLIF that keeps its current": [kernel(4, 2), cuba(4, 8, 8, tau_syn=2e-4, w_in=-powers(6, 4, 1, 1)), flat(),
                                       matrix(256, 3)],
    "Threshold": [kernel(4, 2), nir.Threshold(powers(7, 4, 1, 1) * np.ones((4, 8, 8))), flat(), matrix(256, 3)],
    "one pixel": [kernel(4, 2), lif(4, 8, 8), kernel(3, 4, 8, padding=0), lif(3, 1, 1), flat()],
    "one pixel as it is": [kernel(4, 2), lif(4, 8, 8), kernel(3, 4, 8, padding=0), lif(3, 1, 1)],
    "currents of a pixel": [kernel(4, 2), lif(4, 8, 8), kernel(3, 4, 8, padding=0), flat()],
    "neurons of some pixels": [kernel(4, 2, stride=2), lif(4, 4, 4, threshold=powers(8, 4, 1, 1) * np.ones((4, 4, 4))),
                               kernel(1, 4, 3, padding=0), lif(1, 2, 2), flat()],
    "flattened before the neurons": [kernel(3, 2, stride=2), flat(), lif(48, threshold=powers(9, 48)), matrix(48, 3)],
    "pooled spikes as scores": [kernel(3, 2), lif(3, 8, 8), sums(8, "AvgPool2d"), flat()],
}  # fmt: skip


def peer(nodes: list[Any], raw: np.ndarray, dt: float = 1e-4, *, ties: bool = False) -> tuple[list[np.ndarray], Any]:
    """NIR's equations by forward Euler for a chain of nodes: (spikes of each neuron layer, output (N, T, ...))."""
    x = raw.astype(np.float64)
    spikes = []
    for node in nodes:
        kind = type(node).__name__
        merged = torch.from_numpy(x.reshape(-1, *x.shape[2:]))
        if kind in ("Conv1d", "Conv2d"):
            call = F.conv1d if kind == "Conv1d" else F.conv2d
            weight, bias = torch.from_numpy(node.weight), torch.from_numpy(node.bias)
            step = int(np.ravel(node.stride)[0]), int(np.ravel(node.padding)[0]), int(np.ravel(node.dilation)[0])
            merged = call(merged, weight, bias, *step, int(node.groups))
        elif kind in ("Affine", "Linear"):
            merged = F.linear(merged, torch.from_numpy(node.weight))
            merged = merged + torch.from_numpy(node.bias) if kind == "Affine" else merged
        elif kind in ("AvgPool2d", "SumPool2d"):
            size = int(np.ravel(node.kernel_size)[0])
            merged = F.avg_pool2d(merged, size) * (size**2 if kind == "SumPool2d" else 1)
        elif kind == "Scale":
            merged = merged * torch.from_numpy(node.scale)
        elif kind == "Flatten":
            merged = merged.flatten(1)
        else:
            fired = neurons(node, x, dt, ties)
            spikes.append(fired)
            merged = torch.from_numpy(fired.astype(np.float64).reshape(-1, *fired.shape[2:]))
        x = merged.numpy().reshape(*x.shape[:2], *merged.shape[1:])
    return spikes, x


def neurons(node: Any, x: np.ndarray, dt: float, ties: bool) -> np.ndarray:
    """One layer of neurons, as a simulator of NIR steps it; membranes start at v_reset."""
    kind = type(node).__name__
    if kind == "Threshold":
        return x >= node.threshold if ties else x > node.threshold
    v = np.broadcast_to(node.v_reset, x[:, 0].shape)
    flowing, fired = np.zeros_like(x[:, 0]), []
    for current in np.moveaxis(x, 1, 0):
        if kind == "IF":
            v = v + dt * node.r * current
        else:
            tau, drive = getattr(node, "tau", None), current
            if kind == "CubaLIF":  # its current first
                flowing = flowing + dt / node.tau_syn * (node.w_in * current - flowing)
                tau, drive = node.tau_mem, flowing
            v = v + dt / tau * (node.v_leak - v + node.r * drive)
        fired.append(v >= node.v_threshold if ties else v > node.v_threshold)
        v = np.where(fired[-1], node.v_reset, v)
    return np.stack(fired, 1)
