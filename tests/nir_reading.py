"""NIR as tests want it: graphs of other makers, and files read and folded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import rng_of

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
