"""The file against the folded network, number by number: proved, as no number is left out."""

from __future__ import annotations

from typing import Any

import numpy as np

from snn2chip import ir
from snn2chip.errors import InputError
from snn2chip.verify.compare import Difference, Part


def _numbers(chain: ir.Chain) -> list[tuple[str, str, Any]]:
    """(trained layer, what, values) of every number of a chain; without tables, empty ones."""
    said: list[tuple[str, str, Any]] = [
        ("input", "centre", chain.center),
        ("input", "range", (chain.low, chain.high)),
        ("input", "largest pixel", [chain.pixel_max]),
        ("input", "image shape", chain.raw_shape),
        ("input", "coding", [chain.coding]),
    ]
    for layer in chain.layers:
        name, tables, none = next(iter(layer.origin), layer.name), layer.steps, np.zeros((0, 0), dtype=np.int64)
        geometry = [*layer.stride, *layer.padding, *layer.dilation, layer.groups]
        said += [
            (name, "weight", layer.weight),
            (name, "bias", layer.bias),
            (name, "threshold", [layer.threshold]),
            (name, "decay", [layer.voltage_decay, layer.current_decay]),
            (name, "leak", none if tables is None else [*tables.leak, np.full_like(tables.leak[0], tables.leak_shift)]),
            (name, "step bias", none if tables is None else tables.bias),
            (name, "step threshold", none if tables is None else tables.threshold),
            (name, "stride, padding, dilation and groups", geometry),
        ]
    return [*said, ("readout", "kind", [chain.readout]), ("readout", "class", chain.classes)]


def same_integers(folded: ir.Network, expected: ir.Chain, chain: ir.Chain) -> Part:
    """Every number of the file is that of `expected`, the folded network rounded at the file's scales and lowered; and
    so is what the file says of input and readout.

    Raises:
        InputError: the file has other layers, or layers of other shapes.
    """
    if [(item.kind, item.shape) for item in expected.layers] != [(item.kind, item.shape) for item in chain.layers]:
        raise InputError("the .net file has other layers than the model; was it exported from another model?")
    mismatches, compared = 0, 0
    first: Difference | None = None
    detail: list[str] = []
    for (trained, what, left), (_, _, right) in zip(_numbers(expected), _numbers(chain), strict=True):
        wanted, found = np.asarray(left), np.asarray(right)
        if wanted.shape != found.shape:
            raise InputError(f"layer '{trained}': {what} of shape {found.shape} in the file, {wanted.shape} expected")
        compared += wanted.size
        places = np.argwhere(wanted != found)
        mismatches += len(places)
        if len(places):
            first = first or Difference(trained, None, None, [int(index) for index in places[0]])
            place = tuple(places[0])
            detail.append(
                f"{what} of '{trained}'{_fan(folded, trained)}: {len(places)} of {wanted.size} differ, first "
                f"{found[place]} in the file, {wanted[place]} expected"
            )
    text = "; ".join(detail[:4]) or "every weight, bias, threshold and decay, input and readout"
    return Part((mismatches, compared, first), lambda _: text, proved=True)


def _fan(folded: ir.Network, neuron: str) -> str:
    """The layers that the numbers of a neuron come from, in brackets; nothing for input and readout."""
    if neuron in ("input", "readout"):
        return ""
    names = [node.name for node in folded.nodes]
    return f" ({drivers(folded, neuron) if neuron in names else folded.readout.inputs[0]})"


def drivers(network: ir.Network, neuron: str) -> str:
    """The layers between a neuron and those before it, for people to look at."""
    chain: list[str] = []
    waiting = list(network[neuron].inputs)
    while waiting:
        name = waiting.pop()
        if name not in chain and not isinstance(network[name], (ir.LIF, ir.Input)):
            chain.append(name)
            waiting += network[name].inputs
    return ", ".join(node.name for node in network.nodes if node.name in chain)
