"""A netx file for people: what is in it, and what would happen to it on the way to the chip."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.tree import Tree

from snn2chip.chip.profile import Chip
from snn2chip.errors import InputError
from snn2chip.formats import netx
from snn2chip.formats.netx import read
from snn2chip.formats.netx.look import COMPUTING, Entry, Look, look, span
from snn2chip.formats.netx.read import Finding
from snn2chip.ir import Shape, Weights
from snn2chip.report import columns, findings
from snn2chip.report.columns import Wide

LABELS = {
    "fails": "stock netx fails",
    "told": "to be told",
    "refused": "not simulated",
    "changed": "changed by netx",
    "register": "beyond the chip",
    "overflow": "overflow",
    "firing": "firing",
    "idle": "does nothing",
}


@dataclass(frozen=True)
class Spread:
    """Integers of an array: how many, their range, how many are 0, and the bits they need as weights."""

    count: int
    low: int
    high: int
    zeros: int
    bits: int

    @property
    def text(self) -> str:
        return f"{self.low:,}..{self.high:,}" if self.low != self.high else f"{self.low:,}"


@dataclass(frozen=True)
class Layer:
    """One entry of the file.

    synapses   connections, borders taken off; weights are shared in a convolution
    fan_in     weights that one neuron sees
    sums       smallest and largest sum of weights times inputs in one step; None where that cannot be known
    unasked    neurons that fire from their bias alone, sooner or later
    step       chip step at which the first input of step 0 can show; with delays the earliest and the latest
    origin     names of the trained layers whose channels these are
    """

    number: int
    kind: str
    shape: tuple[int, ...]
    neurons: int
    synapses: int
    fan_in: int
    geometry: dict[str, tuple[int, ...]]
    weight: Spread | None
    recurrent: Spread | None
    bias: Spread | None
    bias_per: str
    delay: Spread | None
    neuron: dict[str, int | str]
    sums: tuple[int, int] | None
    unasked: int
    step: tuple[int, int] | None
    origin: tuple[str, ...]
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class Description:
    """A netx file, looked at for one chip.

    runs  by name of a program: '' if it takes the file, else why it does not
    """

    path: str
    chip: str
    size: int
    groups: tuple[str, ...]
    facts: dict[str, Any]
    layers: tuple[Layer, ...]
    findings: tuple[Finding, ...]
    runs: dict[str, str]

    @property
    def all_findings(self) -> tuple[tuple[str, Finding], ...]:
        """(layer's number, or '' for the file; finding)."""
        of_layers = tuple((str(layer.number), finding) for layer in self.layers for finding in layer.findings)
        return (*(("", finding) for finding in self.findings), *of_layers)

    @property
    def totals(self) -> dict[str, int]:
        """neurons, synapses, weights, and bytes of the weights at 8 bits each."""
        weights = sum(spread.count for x in self.layers for spread in (x.weight, x.recurrent) if spread)
        weights -= sum(layer.weight.count for layer in self.layers if layer.kind == "input" and layer.weight)
        figures = {"neurons": sum(x.neurons for x in self.layers), "synapses": sum(x.synapses for x in self.layers)}
        return {**figures, "weights": weights, "weight_bytes": weights}


def describe(path: str | Path, chip: Chip, message_bits: int | None = None, input_shape: Shape = ()) -> Description:
    """Look at a netx file of any kind, layer by layer.

    `message_bits` of the integers at the port; by default what our own group says, else 0, for spikes. `input_shape`
    (C, H, W) of a convolution that no input layer stands before.

    Raises:
        InputError: no file, not HDF5, or no group ``layer``; anything else that is wrong is a finding.
    """
    seen = look(path, message_bits, input_shape)
    last = max((entry.number for entry in seen.entries if entry.kind in COMPUTING), default=-1)
    steps = seen.own.get("timesteps")
    layers: list[Layer] = []
    step: tuple[int, int] | None = (0, 0)
    at_port = True
    for entry in seen.entries:
        if entry.kind in COMPUTING and step is not None:
            delay = None if entry.layer is None else entry.layer.delay
            soonest, longest = (0, 0) if delay is None or not delay.size else (int(delay.min()), int(delay.max()))
            step = step[0] + 1 + soonest, step[1] + 1 + longest
        elif entry.kind not in ("input", "flatten"):
            step = None  # who knows when what comes after it
        layers.append(_layer(entry, seen, chip, steps, entry.number == last, at_port, step))
        at_port = at_port and entry.kind in ("input", "flatten") and not entry.neuron
    facts = {name: value for name, value in seen.own.items() if name not in ("origin", "low", "high")}
    facts.update(seen.simulation)
    low, high = int(seen.port[0].min()), int(seen.port[1].max())
    facts["port"] = f"integers {low:,}..{high:,} ({seen.message_bits} bits)" if seen.message_bits else "spikes"
    return Description(
        str(path),
        chip.name,
        seen.size,
        seen.groups,
        facts,
        tuple(layers),
        seen.findings,
        _runs(path, seen, layers, input_shape),
    )


def _runs(path: str | Path, seen: Look, layers: list[Layer], input_shape: Shape) -> dict[str, str]:
    fails = [finding.text for finding in seen.findings if finding.kind == "fails"]
    fails += [f"layer {layer.number}: {x.text}" for layer in layers for x in layer.findings if x.kind == "fails"]
    runs = {"stock netx": fails[0] if fails else ""}
    chip_time = partial(read.load, input_shape=input_shape)
    for name, load in (("chip", chip_time), ("simulate", netx.load)):
        try:
            load(path)
            runs[name] = ""
        except InputError as error:
            runs[name] = str(error).removeprefix(f"{path}: ").removeprefix(f"{path}/")
    return runs


def _layer(
    entry: Entry, seen: Look, chip: Chip, steps: int | None, last: bool, at_port: bool, step: tuple[int, int] | None
) -> Layer:
    found = list(entry.findings)
    computes = entry.kind in COMPUTING
    found += findings.of_registers(entry, chip, seen.message_bits if computes and at_port else 0)
    found += findings.of_weights(entry)
    sums, unasked = None, 0
    if entry.layer is not None and computes:
        spikes = (np.zeros(1, dtype=np.int64), np.ones(1, dtype=np.int64))
        least, most = findings.sums(entry.layer, seen.port if at_port else spikes)
        sums = int(least.min()), int(most.max())
        of_run, unasked = findings.of_run(entry.layer, least, most, chip, steps, last)
        found += of_run
    bias_per = ""
    weight, recurrent, bias, delay = (entry.arrays.get(name) for name in ("weight", "weight_rec", "bias", "delay"))
    if bias is not None and entry.kind != "input":
        bias_per = "neuron" if len(entry.shape) == 1 or bias.ndim == 3 else "channel"
    neurons = int(np.prod(entry.shape)) if entry.shape and (computes or entry.neuron) else 0
    synapses, fan_in = _synapses(entry)
    geometry = entry.geometry
    if entry.kind == "conv" and weight is not None and weight.ndim >= 4:
        geometry = {"kernel": weight.shape[2:4], **geometry}
    neuron = {name: span(entry.neuron[name]) for name in sorted(entry.neuron, key=_place)}
    return Layer(
        *(entry.number, entry.kind, entry.shape, neurons, synapses, fan_in, geometry),
        *(_spread(weight), _spread(recurrent), _spread(bias), bias_per, _spread(delay)),
        *(neuron, sums, unasked, step if computes else None),
        tuple(seen.own.get("origin", {}).get(str(entry.number), {})),
        tuple(dict.fromkeys(found)),
    )


def _place(name: str) -> int:
    order = ("type", "iDecay", "vDecay", "vThMant", "refDelay", "wgtExp", "messageBits")
    return order.index(name) if name in order else len(order)


def _spread(values: Weights | None) -> Spread | None:
    if values is None or not values.size:
        return None
    zeros = int((values == 0).sum())
    return Spread(values.size, int(values.min()), int(values.max()), zeros, findings.weight_bits(values))


def _synapses(entry: Entry) -> tuple[int, int]:
    """Connections of a layer, and weights of one neuron."""
    weight = entry.arrays.get("weight")
    if weight is None or entry.kind not in COMPUTING:
        return 0, 0
    own = entry.arrays["weight_rec"].size if "weight_rec" in entry.arrays else 0
    if entry.kind != "conv":
        out = int(np.prod(entry.shape)) if entry.shape else len(np.atleast_1d(weight))
        return weight.size + own, (weight.size + own) // max(1, out)
    fan_in = int(np.prod(weight.shape[1:]))
    geometry = entry.geometry
    sides = [geometry.get(name, ()) for name in ("stride", "padding", "dilation")]
    if not len(entry.inputs) == len(entry.shape) == 3 or not all(sides) or weight.ndim < 4:
        return 0, fan_in
    pairs = 1
    for axis in range(2):
        stride, padding, dilation = (side[min(axis, len(side) - 1)] for side in sides)
        at = np.arange(entry.shape[1 + axis])[:, None] * stride - padding
        at = at + np.arange(weight.shape[2 + axis]) * dilation
        pairs *= int(((at >= 0) & (at < entry.inputs[1 + axis])).sum())
    return pairs * weight.shape[0] * weight.shape[1], fan_in


def layers_table(shown: Description) -> Wide:
    """One row an entry of the file, and the totals."""
    rows = []
    for layer in shown.layers:
        weight, bias = layer.weight, layer.bias
        rows.append(
            [
                *(str(layer.number), layer.kind, "x".join(map(str, layer.shape)) or "?"),
                *(f"{count:,}" if count else "" for count in (layer.neurons, layer.synapses)),
                *((f"{weight.count:,}", weight.text) if weight else ("", "")),
                *((str(weight.bits), f"{100 * weight.zeros / weight.count:.1f} %") if weight else ("", "")),
                bias.text if bias else "",
                *(str(layer.neuron.get(name, "")) for name in ("iDecay", "vDecay", "vThMant")),
                _span(layer.step) if layer.step else "",
                str(len(layer.findings) or ""),
            ]
        )
    totals = [f"{shown.totals[name]:,}" for name in ("neurons", "synapses", "weights")]
    rows.append(["all", "", "", *totals, *[""] * (len(columns.SHOW.columns) - 6)])
    return columns.SHOW.table(shown.path, rows)


def tree(shown: Description) -> Tree:
    """Everything about the file, the warnings at their places."""
    root = Tree(f"{shown.path} ({shown.size:,} bytes; HDF5 groups {', '.join(shown.groups)})")
    for line in _header(shown):
        root.add(line)
    _warn(root, shown.findings)
    for layer in shown.layers:
        origin = f" from {', '.join(layer.origin)}" if layer.origin else ""
        shape = "x".join(map(str, layer.shape)) or "unknown shape"
        branch = root.add(f"{layer.number} {layer.kind} {shape}{origin}")
        for line in _lines(layer):
            branch.add(line)
        _warn(branch, layer.findings)
    return root


def _warn(branch: Tree, found: tuple[Finding, ...]) -> None:
    for finding in found:
        branch.add(f"! {LABELS[finding.kind]}: {finding.text}", style="yellow")


def _header(shown: Description) -> list[str]:
    facts = dict(shown.facts)
    made = facts.pop("made", None)
    lines = []
    if made is not None:
        short = [f"{name} {value}" for name, value in made.items() if name not in ("scales", "rounding")]
        lines.append(f"made by {', '.join(short)}")
    if classes := facts.pop("classes", None):
        lines.append(f"{len(classes)} classes: {', '.join(classes[:12])}{', ...' if len(classes) > 12 else ''}")
    if facts:
        lines.append(", ".join(f"{name} {value}" for name, value in facts.items()))
    totals = shown.totals
    lines.append(
        f"{totals['neurons']:,} neurons, {totals['synapses']:,} synapses, {totals['weights']:,} weights: "
        f"{totals['weight_bytes'] / 1024:,.1f} KiB at 8 bits"
    )
    lines += [f"{name}: {f'does not take it: {why}' if why else 'takes it'}" for name, why in shown.runs.items()]
    return lines


def _lines(layer: Layer) -> list[str]:
    lines = []
    if layer.kind == "input" and layer.weight and layer.bias:
        lines.append(f"a bias of {layer.weight.text} x + {layer.bias.text} for data x")
    geometry = ", ".join(f"{name} {'x'.join(map(str, sides))}" for name, sides in layer.geometry.items())
    if layer.fan_in:
        lines.append(", ".join(filter(None, (geometry, f"fan-in {layer.fan_in:,}", f"synapses {layer.synapses:,}"))))
    for name, spread in (("weights", layer.weight), ("recurrent weights", layer.recurrent)):
        if spread and layer.kind != "input":
            zeros = f"{100 * spread.zeros / spread.count:.1f} % zeros"
            lines.append(f"{spread.count:,} {name} {spread.text}, {spread.bits} bits, {zeros}")
    if layer.bias and layer.kind != "input":
        alone = f"; {layer.unasked:,} of {layer.neurons:,} neurons fire from it alone" if layer.unasked else ""
        lines.append(f"bias {layer.bias.text}, one a {layer.bias_per}{alone}")
    if layer.delay:
        lines.append(f"delays {layer.delay.text} chip steps")
    if layer.neuron:
        words = [str(layer.neuron.get("type", "neuron of unknown type"))]
        for name, value in layer.neuron.items():
            words += [f"{name} {value}{_tau(name, value)}"] if name != "type" else []
        lines.append(", ".join(words))
    if layer.sums:
        lines.append(f"sums of one step within {layer.sums[0]:,}..{layer.sums[1]:,}")
    if layer.step:
        lines.append(f"shows input step t at chip step t + {_span(layer.step)}")
    return lines


def _span(step: tuple[int, int]) -> str:
    return str(step[0]) if step[0] == step[1] else f"{step[0]}..{step[1]}"


def _tau(name: str, value: int | str) -> str:
    if name not in ("iDecay", "vDecay") or not isinstance(value, int) or not 0 <= value <= 4096:
        return ""
    tau = findings.time_constant(value)
    kept = f"keeps {1 - value / 4096:.4g}"
    return f" ({kept}{f', tau {tau:.3g} steps' if 0 < tau < math.inf else ''})"
