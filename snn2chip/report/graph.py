"""The network as a drawing: its layers in rows of blocks, and what connects them."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from snn2chip import ir
from snn2chip.backends import akida
from snn2chip.errors import InputError
from snn2chip.fit.table import Fit
from snn2chip.nn import SpikingNetwork
from snn2chip.passes.capture import capture
from snn2chip.passes.fold import folded
from snn2chip.passes.pipeline import Source
from snn2chip.recipe import Recipe
from snn2chip.report import fit as cores

_CELL, _ROW, _HEAD = 150, 172, 34  # pixels of a block's place, and above the first row


def nodes_of(network: ir.Network, chain: ir.Chain | None = None, found: Fit | None = None) -> list[dict[str, Any]]:
    """Input, neuron layers and readout of a folded network: name, shape, what drives them, parameters, and the cores of
    the chain's layers that hold them."""
    cores: dict[str, int] = {}
    if chain is not None and found is not None:
        for layer, placed in zip(chain.layers, found.layers, strict=True):
            cores |= dict.fromkeys(layer.origin or (layer.name,), placed.cores)
        cores[network.readout.name] = found.layers[-1].cores
    nodes: list[dict[str, Any]] = []
    for node in (network.input, *network.of(ir.LIF), network.readout):
        driver = network[node.inputs[0]] if node.inputs else None
        direct = driver is None or isinstance(driver, ir.LIF)
        synapses = [] if direct else network.synapses_of(node)
        nodes.append(
            {
                "name": node.name,
                "shape": list(network.shape(node.name)),
                "driven": [described(each) for each in synapses],
                "inputs": [network.source_of(each).name for each in synapses] or list(node.inputs),
                "parameters": sum(each.weight.size for each in synapses),
                "fires": isinstance(node, ir.LIF),
                "cores": cores.get(node.name),
            }
        )
    return nodes


def drawn(network: ir.Network, chain: ir.Chain, found: Fit | akida.Mapping) -> dict[str, Any]:
    """What the page draws of an exported network: its nodes, cores where it has some, and how it was made."""
    said = {"made": chain.made, "fit": found.as_json()}
    if not isinstance(found, Fit):
        return {**said, "graph": nodes_of(network, chain)}
    table = {"rows": cores.rows(found), "lines": list(cores.lines(found))}
    return {**said, "graph": nodes_of(network, chain, found), "cores": table}


def about(source: Source) -> dict[str, Any]:
    """A network's name, description and classes, and the nodes of it folded; none where it cannot be folded."""
    try:
        nodes = nodes_of(folded(source.network))
    except InputError:
        nodes = []
    classes = list(source.network.classes)
    return {"name": source.name, "description": source.description, "classes": classes, "graph": nodes}


def about_training(recipe: Recipe, network: SpikingNetwork, classes: Sequence[str]) -> dict[str, Any]:
    """As `about`, of one that is trained; none of the nodes where it cannot be captured."""
    try:
        captured = capture(copy.deepcopy(network).cpu().eval(), tuple(classes))
    except InputError:
        return {"name": recipe.name, "description": recipe.description, "classes": list(classes), "graph": []}
    return about(Source(captured, recipe.name, recipe.description))


def described(synapse: ir.Synapse) -> str:
    """A convolution's kernel and stride, or dense."""
    if isinstance(synapse, ir.Dense):
        return f"{synapse.name}: dense"
    sides = "x".join(map(str, synapse.weight.shape[2:]))
    stride = "" if synapse.stride == (1, 1) else f", stride {'x'.join(map(str, synapse.stride))}"
    groups = "" if synapse.groups == 1 else f", {synapse.groups} groups"
    return f"{synapse.name}: conv {sides}{stride}{groups}"


@dataclass(frozen=True)
class Block:
    """One layer: the corner of its face, width and height of it, its depth (to the upper right), and what is said."""

    name: str
    x: float
    y: float
    width: float
    height: float
    depth: float
    middle: float
    below: float
    rate: float | None
    lines: tuple[str, ...]
    details: str


@dataclass(frozen=True)
class Drawing:
    """Blocks and the paths between them, in a frame."""

    width: int
    height: int
    blocks: tuple[Block, ...]
    edges: tuple[tuple[str, bool], ...]  # path; whether it skips layers


def draw(nodes: Sequence[Mapping[str, Any]], rates: Mapping[str, float], columns: int) -> Drawing:
    """At most `columns` blocks a row, alike in all: faces as large as the layers' images, depths as many channels."""
    rows = -(-len(nodes) // columns)
    columns = -(-len(nodes) // rows)
    shapes = [node["shape"] if len(node["shape"]) == 3 else [node["shape"][0], 1, 1] for node in nodes]
    side, channels = (
        max(2, *(max(values) for values in each)) for each in zip(*((s[1:], s[:1]) for s in shapes), strict=True)
    )
    blocks, places = [], {}
    for index, node in enumerate(nodes):
        column, row = index % columns, index // columns
        shape = shapes[index]
        flat = shape[1] * shape[2] == 1
        height = 60.0 if flat else 18 + 52 * math.log(max(shape[1:])) / math.log(side)
        width = 14.0 if flat else height * 0.55
        depth = 5 + 35 * math.log(shape[0]) / math.log(channels)
        middle, base = _CELL * (column + 0.5), _HEAD + _ROW * row + 84
        x, y = middle - (width + depth * 0.7) / 2, base - height
        rate = rates.get(node["name"])
        cores = node.get("cores")
        said = ["x".join(map(str, node["shape"]))]
        said += [f"{100 * rate:.1f} % fire"] if rate is not None and node["fires"] else []
        said += [f"{cores:,} core{'s' * (cores != 1)}"] if cores else []
        neurons = int(np.prod(node["shape"]))
        details = "; ".join(
            [
                node["name"],
                *node["driven"],
                f"{neurons:,} {'neurons' if node['fires'] else 'values'}",
                *([f"{node['parameters']:,} weights"] if node["parameters"] else []),
                *said[1:],
            ]
        )
        corner, size = (round(x, 1), round(y, 1)), (round(width, 1), round(height, 1), round(depth * 0.7, 1))
        blocks.append(Block(node["name"], *corner, *size, middle, base + 17.0, rate, tuple(said), details))
        places[node["name"]] = index
    edges = []
    for index, node in enumerate(nodes):
        for source in dict.fromkeys(node["inputs"]):
            start = places.get(source)
            if start is not None:
                edges.append((_edge(blocks[start], blocks[index], index - start), index - start > 1))
    return Drawing(_CELL * columns, _HEAD + _ROW * rows, tuple(blocks), tuple(edges))


def _edge(source: Block, target: Block, apart: int) -> str:
    """To the next block straight, to the next row around its end, over others in a bow."""
    y0, y1 = source.y + source.height / 2, target.y + target.height / 2
    x0, x1 = source.x + source.width + source.depth + 3, target.x - 4
    if apart == 1 and x1 > x0:
        return f"M{x0:.1f},{y0:.1f}C{x0 + 20:.1f},{y0:.1f} {x1 - 20:.1f},{y1:.1f} {x1:.1f},{y1:.1f}"
    if apart == 1:
        turn = source.below + 50
        return f"M{x0:.1f},{y0:.1f}h14V{turn:.1f}H{x1 - 14:.1f}V{y1:.1f}h14"
    top0, top1 = source.y - source.depth - 3, target.y - target.depth - 3
    x0, x1 = source.x + source.width / 2 + source.depth, target.x + target.width / 2 + target.depth
    if x1 > x0 and abs(source.below - target.below) < 1:
        over = min(top0, top1) - 26
        return f"M{x0:.1f},{top0:.1f}C{x0:.1f},{over:.1f} {x1:.1f},{over:.1f} {x1:.1f},{top1:.1f}"
    over = top1 - 24
    side = source.middle + _CELL / 2 - 8
    out = f"C{x0:.1f},{top0 - 26:.1f} {side:.1f},{top0 - 26:.1f} {side:.1f},{top0 + 20:.1f}"
    return f"M{x0:.1f},{top0:.1f}{out}V{over:.1f}H{x1:.1f}V{top1:.1f}"
