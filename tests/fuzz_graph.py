"""model.pt files that hold a graph, and are wrong: its nodes, their fields, numbers, sources and arrays."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
from damage import Damaged, Rng, archive, changed, mutator, over, pick
from fuzz_model import OF_ALL, SIGNATURES, Nested, pickled, saved

from snn2chip import ir
from snn2chip.errors import InputError
from snn2chip.ir.encode import encoder_of
from snn2chip.ir.interpreter import evaluate
from snn2chip.nn import model_file
from snn2chip.passes import pipeline
from snn2chip.passes.fold import folded


def node(tree: Nested, table: dict[str, Any], rng: Rng) -> str:
    """A node of a graph with another number, kind, place or source."""
    nodes, key = tree.layers(), pick(rng, list(table))
    way = pick(rng, ("number", "number", "of another", "source", "twice", "gone", "swapped", "tensor", "kind"))
    other = pick(rng, nodes)
    if way == "number":
        value = pick(rng, (0, -1, 1, 2, 3, 7, 0.0, 0.5, 1.5, 1e300, 2**20, 2**40, True, None, "", [], [1, 1], [0, 0]))
        value = [value, value] if isinstance(table[key], list) and rng.random() < 0.5 else value
        table[key] = value
        return f"{key} is {value}"
    if way == "of another":
        table[key] = copy.deepcopy(other.get(key, other["name"]))
    elif way == "source":
        table["inputs"] = [other["name"] for _ in range(int(rng.integers(3)))]
    elif way == "twice":
        nodes.insert(int(rng.integers(len(nodes))), copy.deepcopy(table))
    elif way == "gone":
        nodes.remove(table)
    elif way == "swapped":
        place = nodes.index(table)
        nodes[place], nodes[nodes.index(other)] = other, table
    elif way == "tensor":
        arrays = [name for name, value in table.items() if isinstance(value, dict)]
        table[pick(rng, arrays or [key])] = {"tensor": pick(rng, list(tree.content["state"]))}
    else:
        kinds = ("Conv", "Dense", "LIF", "MaxPool", "AvgPool", "Flatten", "Add", "Norm", "StepNorm", "CubaNeuron")
        table["type"] = pick(rng, kinds)
    return way


CHANGES = OF_ALL | over("layers", node)


def altered(content: dict[str, Any], rng: Rng) -> list[str]:
    """One or two changes of what a graph's file holds."""
    return changed(Nested(content), CHANGES, rng, (1, 1, 2), ("node",) * 12 + ("another", "tensor"))


def contents(seed: bytes, rng: Rng) -> Damaged:
    return saved(seed, rng, altered)


def read(path: Path) -> None:
    """A model or graph, and what every command does with it first: its folded network, and a run of a small one."""
    source = pipeline.source_of(model_file.load_any(path))
    network = folded(source.network)
    neurons = sum(math.prod(network.shape(each.name)) for each in network.nodes)
    if network.timesteps * neurons < 100_000:
        evaluate(network, encoder_of(network)(np.zeros((1, *encoder_shape(network)), np.int64)))


def encoder_shape(network: ir.Network) -> tuple[int, ...]:
    return (*((network.timesteps,) if network.input.coding == "events" else ()), *network.input.shape)


def read_named(path: Path) -> None:
    """As `read`; what is said of a network is said of its file."""
    try:
        read(path)
    except InputError as error:
        if path.name in str(error):
            raise
        raise type(error)(f"'{path}': {error}") from None


mutate = mutator(SIGNATURES, 2, (0.75, contents), (0.05, pickled), (0.05, archive))
