"""Any `Netlist` in raw chip time as ONNX of standard operators: in every value what `snn2chip.simulate.chip_time` has.

Every layer starts at the graph's first step, with nothing in its registers. A synapse delivers one step later, so step
t of a layer reads step t - 1 of the one before; a synapse with a delay d reads step t - 1 - d. A dense layer with
delays is thus a dense layer of inputs of several earlier steps: those (delay, input) pairs that any neuron weighs are
gathered, and one matrix product does the rest. A recurrent layer's own spikes are carried to its next step, where a
product of its own weighs them.

Sums and neurons are those of `snn2chip.formats.onnx`, with two additions: a convolution's sum keeps 24 bits (`Mod`),
and neurons that reset start a step with u = v = 0.

Input (N, T, *input_shape): `spikes` (0 and 1, uint8), `integers` (int32) at a graded port, or `bias` (int32), the
mantissas that drive the neurons of an input layer. Output: the last layer's spikes (uint8) and voltage (int32, after
the reset of a spike) over time, 'dense3/spikes' and 'dense3/voltage', each (N, T, *shape); with `trace` those of every
layer, and the current of all that have a synapse (without one it is 0).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from snn2chip.chip.bounds import BIAS_LIMIT, BINARY, FLOAT32_EXACT, SUM_BITS, largest_sum, port_range
from snn2chip.chip.profile import DECAY_ONE, STATE_SHIFT
from snn2chip.errors import InputError, UnsupportedError
from snn2chip.formats.onnx.graph import MOST_BYTES, Graph, Make, Port, model, write
from snn2chip.formats.onnx.time import At, Step, timeline
from snn2chip.formats.onnx.write import neurons, weighted_sums
from snn2chip.ir import ChainLayer, IntArray, Shape, Weights
from snn2chip.ir.netlist import ChipLayer, Netlist

if TYPE_CHECKING:
    import onnx

MOST_STEPS = 10**6  # every sample has so many steps of input at once
_WRAPPED = 2 ** (SUM_BITS - 1)  # largest |sum| of a convolution


@dataclass(frozen=True)
class Reset:
    """Neurons of the k-th layer (from 0) start anew at each step t, from 1, with ``t mod interval = (offset + 1 + k)
    mod interval``: netx's `reset_interval` and `reset_offset`."""

    interval: int
    offset: int = 0

    def keeps(self, index: int, timesteps: int) -> IntArray | None:
        """(T, 1): 0 where that layer resets, else 1; None where it never does in a way that shows."""
        steps = np.arange(1, timesteps + 1)
        kept: IntArray = (steps % self.interval != (self.offset + 1 + index) % self.interval).astype(np.int64)
        return None if kept[1:].all() else kept[:, None]  # the first step starts from nothing anyway


def labels(net: Netlist) -> dict[str, str]:
    """What layers are called in the ONNX, by layer number: kind and number, as 'conv1'."""
    return {layer.name: f"{layer.kind}{layer.name}" for layer in net.layers}


def save(
    path: str | Path,
    net: Netlist,
    timesteps: int,
    *,
    reset: Reset | None = None,
    trace: bool = False,
    unroll: bool | None = None,
) -> None:
    """Write `build`'s model, whole or not at all.

    Raises:
        InputError: the file cannot be written, or what `build` raises.
    """
    write(path, build(net, timesteps, reset=reset, trace=trace, unroll=unroll))


def input_port(net: Netlist, timesteps: int) -> Port:
    """The graph's input: `bias`, `integers` or `spikes`."""
    shape = (timesteps, *net.input_shape)
    if net.driven_by_bias:
        return Port("bias", np.int32, shape)
    return Port("integers", np.int32, shape) if net.layers[0].graded else Port("spikes", np.uint8, shape)


def build(
    net: Netlist, timesteps: int, *, reset: Reset | None = None, trace: bool = False, unroll: bool | None = None
) -> onnx.ModelProto:
    """The first `timesteps` chip steps of a network, for any number of streams of input at once.

    Inputs must be within `snn2chip.chip.bounds.port_range`: there is no operator that would refuse others. `unroll`
    writes every step (True) or a Loop (False); None chooses by `UNROLL_MOST`.

    Raises:
        InputError: no time steps or more than `MOST_STEPS`, or more than 2 GB of weights.
        UnsupportedError: a layer with so many inputs that float32 has no exact sums of them, by name.
    """
    if not 1 <= timesteps <= MOST_STEPS:
        raise InputError(f"{timesteps} time steps asked for; an ONNX file runs 1..{MOST_STEPS:,}")
    graph, given = Graph(), input_port(net, timesteps)
    time = timeline(graph, timesteps, given.name, unroll)
    value = time.given(given.name, net.input_shape)
    names = labels(net)
    outputs: list[Port] = []
    shape, dtype = net.input_shape, given.dtype
    low, high = (np.array([bound]) for bound in port_range(net))
    for index, layer in enumerate(net.layers):
        label = names[layer.name]
        synapse, delays, pairs = _without_delays(layer, shape, label)
        if layer.kind == "input":
            value, largest = time.apply(_driven(label), value), BIAS_LIMIT
        else:
            value = time.later(value, label, shape, dtype, delays)
            value = time.apply(_arriving(synapse, label, low, high, pairs), value)
            largest = largest_sum(synapse, low, high)
            largest = min(largest, _WRAPPED) if layer.kind == "conv" else largest
        if layer.recurrent is not None:
            largest += _strongest(layer.recurrent)
        step, keeps_current = neurons(graph, synapse, label, largest)
        state: dict[str, tuple[Shape, type]] = {"voltage": (layer.shape, np.int64)}
        if keeps_current:
            state["current"] = (layer.shape, np.int64)
        keeps = None if reset is None else reset.keeps(index, timesteps)
        if keeps is not None:
            step = _resetting(step, keeps, tuple(state))
        if layer.recurrent is not None:
            state["spikes"] = (layer.shape, np.bool_)
            step = _recurrent(graph, step, layer.recurrent, label)
        value = time.neurons(label, value, step, state)
        keys = ["spikes", "voltage"] + (["current"] if trace and layer.kind != "input" else [])
        for key in keys if trace or layer is net.layers[-1] else []:
            outputs.append(time.watch(label, key, layer.shape, np.uint8 if key == "spikes" else np.int32))
        shape, dtype, (low, high) = layer.shape, np.bool_, BINARY
    time.finish()
    first, last = port_range(net)
    return model(
        graph,
        [given],
        outputs,
        "chip_time",
        "A spiking network in the chip's integers and in raw chip time, as snn2chip simulates and Lava runs it. "
        f"Every layer starts at step 1, and what it sends arrives one step later. Input: {given.name} (N, {timesteps}, "
        f"...), integers {first}..{last}.",
        {
            "snn2chip_content": "chip time",
            "timesteps": timesteps,
            "input_range": [first, last],
            "reset": None if reset is None else {"interval": reset.interval, "offset": reset.offset},
            "layers": {layer.name: {"label": names[layer.name], "kind": layer.kind} for layer in net.layers},
            "notes": net.notes,
        },
    )


def _without_delays(layer: ChipLayer, shape: Shape, label: str) -> tuple[ChainLayer, list[int], IntArray | None]:
    """The layer as one without delays, the delays of its inputs, and which (delay, input) pairs it reads.

    With delays its weights are (O, pairs), and the pairs are numbers in (delays, inputs) flattened; None for all.
    """
    weight = layer.weight.astype(np.int64) if layer.weight.size else np.zeros((1, 1), np.int64)
    delays, pairs = [0], None
    if layer.delay is not None and layer.delay.any():
        delays = np.unique(layer.delay).tolist()
        parts = [np.where(layer.delay == delay, weight, 0).any(0) for delay in delays]
        pairs = np.flatnonzero(np.concatenate(parts))
        pairs = pairs if len(pairs) else np.zeros(1, np.int64)
        if len(pairs) * len(weight) * 8 > MOST_BYTES:
            raise InputError(
                f"layer '{label}': {len(delays)} delays make {len(weight):,} x {len(pairs):,} weights of it, too many "
                f"for an ONNX file; `snn2chip chip` runs it"
            )
        which, inputs = np.divmod(pairs, weight.shape[1])
        weight = np.where(layer.delay[:, inputs] == np.array(delays)[which], weight[:, inputs], 0)
    if not all(isinstance(x, int) for x in (layer.threshold, layer.voltage_decay, layer.current_decay)):
        raise UnsupportedError(
            f"layer '{label}': decays or thresholds that differ by neuron have no place in the ONNX file; "
            f"`snn2chip chip` runs them"
        )
    # no synapse: u stays 0 whatever its decay
    decay = DECAY_ONE if layer.kind == "input" else layer.current_decay
    flatten = len(shape) == 3 and pairs is None
    synapse = replace(layer, name=label, weight=weight, current_decay=decay, flatten=flatten)
    return cast(ChainLayer, synapse), delays, pairs


def _driven(label: str) -> Make:
    """Bias mantissas to what they add to v."""

    def make(graph: Graph, given: list[str]) -> str:
        wide = graph.cast(given[0], np.int64, f"{label}/bias")
        return graph.op("Mul", [wide, graph.scalar(2**STATE_SHIFT)], f"{label}/driven")

    return make


def _arriving(layer: ChainLayer, label: str, low: IntArray, high: IntArray, pairs: IntArray | None) -> Make:
    """What came one step before, or earlier, to what it adds to u."""
    sums = weighted_sums(layer, label, low, high)
    wraps = layer.kind == "conv" and largest_sum(layer, low, high) >= _WRAPPED

    def make(graph: Graph, given: list[str]) -> str:
        x = given[0]
        if pairs is not None:
            x = graph.op("Gather", [x, graph.constant(f"{label}/pairs", pairs)], f"{label}/delayed", axis=1)
        x = sums(graph, [x])
        if wraps:
            half, whole = (graph.scalar(bound << STATE_SHIFT) for bound in (_WRAPPED, 2 * _WRAPPED))
            x = graph.op("Mod", [graph.op("Add", [x, half], f"{label}/raised"), whole], f"{label}/kept_bits")
            x = graph.op("Sub", [x, half], f"{label}/wrapped")
        return x

    return make


def _resetting(step: Step, keeps: IntArray, state: Sequence[str]) -> Step:
    """`step` of neurons that at some steps start from u = v = 0."""

    def start(at: At, x: str, before: Mapping[str, str] | None) -> dict[str, str]:
        if before is not None:
            keep = at.row("keeps", keeps)
            before = {key: at.op("Mul", [before[key], keep], f"{key}/or_reset") for key in state}
        return step(at, x, before)

    return start


def _strongest(recurrent: Weights) -> int:
    """Largest |sum of w times s| of a layer's own spikes."""
    return int(np.abs(recurrent).sum(1, np.int64).max())


def _recurrent(graph: Graph, step: Step, weight: Weights, label: str) -> Step:
    """`step` that adds what the layer's own spikes of the step before weigh."""
    dtype = np.float32 if _strongest(weight) < FLOAT32_EXACT else np.float64  # Gemm knows both
    own = graph.constant(f"{label}/weight_rec", weight.astype(dtype))

    def fed_back(at: At, x: str, before: Mapping[str, str] | None) -> dict[str, str]:
        if before is not None:
            spikes = at.graph.cast(before["spikes"], dtype, f"{at.prefix}/recurrent/float")
            sums = at.op("Gemm", [spikes, own], "recurrent/dense", transB=1)
            sums = at.graph.cast(sums, np.int64, f"{at.prefix}/recurrent/sums")
            driven = at.op("Mul", [sums, graph.scalar(2**STATE_SHIFT)], "recurrent/driven")
            x = at.op("Add", [x, driven], "arriving")
        return step(at, x, before)

    return fed_back
