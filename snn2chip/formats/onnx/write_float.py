"""The folded float network as an ONNX file, in the precision it was trained in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import DTypeLike

from snn2chip import ir
from snn2chip.errors import InputError
from snn2chip.formats.onnx.graph import Graph, Make, Port, Value, about_input, input_port, linear, model, per_channel
from snn2chip.formats.onnx.time import At, Step, timeline
from snn2chip.ir import Network, Shape

if TYPE_CHECKING:
    import onnx


def build_float(
    network: Network, *, trace: bool = False, unroll: bool | None = None, double: bool = False
) -> onnx.ModelProto:
    """A folded network in float32, tau, thresholds and BNTT's tables as they are.

    With `trace`, membranes are those before the reset, of the trained neuron (u, not v = u / gain). `double` writes
    float64, which the standard has and ONNX Runtime's CPU convolution does not.

    Raises:
        InputError: the network is not folded, or has more than 2 GB of weights.
    """
    if network.stage != "folded":
        raise InputError(f"a float ONNX file is made of a folded network, not of a {network.stage} one; fold it first")
    network.require_real_decay("float ONNX file")
    dtype: DTypeLike = np.float64 if double else np.float32
    graph, entry, steps = Graph(), network.input, network.timesteps
    given = input_port(entry.coding, entry.low, entry.high, entry.shape, steps)
    time = timeline(graph, steps, given.name, unroll)
    raw = Value(given.name, False) if entry.coding == "direct" else time.given(given.name, entry.shape)
    values = {entry.name: time.apply(_float_port(entry, dtype), raw)}
    outputs: list[Port] = []
    for node in network.nodes[1:-1]:
        reads = [values[name] for name in node.inputs]
        shape = network.shape(node.name)
        if isinstance(node, ir.LIF):
            step = _lif(graph, node, shape, dtype, trace)
            states = {"voltage": (shape, dtype), **({"current": (shape, dtype)} if node.current_tau else {})}
            values[node.name] = time.neurons(node.name, reads[0], step, states)
            if trace:
                outputs.append(time.watch(node.name, "spikes", shape, np.uint8))
                outputs.append(time.watch(node.name, "membrane", shape, dtype))
        else:
            values[node.name] = time.apply(_float_layer(node, network, dtype), *reads)
    shape = network.shape(network.readout.inputs[0])
    scores = time.total(values[network.readout.inputs[0]], shape, dtype, "readout")
    time.finish()
    scores = graph.op("Flatten", [scores], "scores", axis=1)
    outputs.insert(0, Port(scores, dtype, (int(np.prod(shape)),)))
    what = "sum over time" if network.readout.kind == "membrane" else "spikes, counted over time"
    return model(
        graph,
        [given],
        outputs,
        "folded",
        f"A spiking network with its normalization folded, in {np.dtype(dtype).name}. "
        f"{about_input(given, entry.low, entry.high, steps)} Output: scores (N, classes), the last layer's {what}; the "
        f"largest is the decision.",
        {
            "snn2chip_content": "folded",
            "timesteps": steps,
            "classes": network.classes,
            "readout": network.readout.kind,
            "coding": entry.coding,
            "pixel_max": entry.pixel_max,
            "input_range": [entry.low, entry.high],
        },
    )


def _float_port(entry: ir.Input, dtype: DTypeLike) -> Make:
    """``scale * (raw - center) + shift``; a folded network has scale 1 and shift 0."""

    def make(graph: Graph, given: list[str]) -> str:
        x = graph.cast(given[0], dtype, f"{entry.name}/float")
        for kind, name, values, neutral in (
            ("Sub", "center", entry.center, 0),
            ("Mul", "scale", entry.scale, 1),
            ("Add", "shift", entry.shift, 0),
        ):
            if (values != neutral).any():
                held = graph.constant(f"{entry.name}/{name}", per_channel(values.astype(dtype), entry.shape))
                x = graph.op(kind, [x, held], f"{entry.name}/with_{name}")
        return x

    return make


def _float_layer(node: ir.Node, network: Network, dtype: DTypeLike) -> Make:
    """A synapse, an add or a flatten, of values (M, ...)."""
    label = node.name

    def make(graph: Graph, given: list[str]) -> str:
        if isinstance(node, ir.Add):
            return graph.op("Sum", given, f"{label}/sum")
        if isinstance(node, ir.Flatten):
            return graph.op("Flatten", given, f"{label}/flat", axis=1)
        assert isinstance(node, (ir.Conv, ir.Dense))  # all that a folded network has beside neurons
        x = given[0]
        if not isinstance(network.source_of(node), ir.Input):
            x = graph.cast(x, dtype, f"{label}/spikes")
        weight = graph.constant(f"{label}/weight", node.weight.astype(dtype))
        bias = "" if node.bias is None else graph.constant(f"{label}/bias", node.bias.astype(dtype))
        if node.bias is None or node.bias.ndim == 1:
            return linear(graph, node, x, weight, bias, label)
        return graph.op("Add", [linear(graph, node, x, weight, "", label), bias], f"{label}/with_bias")

    return make


def _lif(graph: Graph, node: ir.LIF, shape: Shape, dtype: DTypeLike, trace: bool) -> Step:
    """`ir.LIF`, and with tables `ir.StepConstants`."""
    tables = node.steps
    zero = graph.scalar(0, dtype)

    def step(at: At, x: str, before: Mapping[str, str] | None) -> dict[str, str]:
        def row(key: str, table: ir.FloatArray) -> str:
            return at.row(key, per_channel(table.astype(dtype), shape))

        if node.current_tau and before is not None:
            stays = graph.scalar(node.current_tau, dtype)
            x = at.op("Add", [x, at.op("Mul", [before["current"], stays], "current/kept")], "current")
        v, membrane = x, ""
        if tables is not None:
            v = at.op("Add", [v, row("lift", tables.bias)], "voltage/lifted")
        if before is not None:
            leak = graph.scalar(node.tau, dtype) if tables is None else row("leak", tables.leak)
            v = at.op("Add", [v, at.op("Mul", [before["voltage"], leak], "voltage/kept")], "voltage/before_reset")
        threshold = graph.scalar(node.threshold, dtype) if tables is None else row("threshold", tables.threshold)
        if trace:
            membrane = v if tables is None else at.op("Mul", [v, row("gain", tables.gain)], "membrane")
        spikes = at.op("GreaterOrEqual" if node.ties else "Greater", [v, threshold], "spikes")
        return {"voltage": at.op("Where", [spikes, zero, v], "voltage"), "spikes": spikes, "membrane": membrane} | (
            {"current": x} if node.current_tau else {}
        )

    return step
