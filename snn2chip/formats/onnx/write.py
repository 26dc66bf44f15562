"""ONNX files of standard operators: what model.net computes, spike for spike, and the folded float network.

`build` writes the integers of a chain with the arithmetic of `snn2chip.chip.neuron`:

- Weighted sums are float32 convolutions and matrix products of integers, which are exact while every sum stays under
  2^24, as the weights prove. (ONNX Runtime has no float64 convolution on the CPU, and its 8-bit ones saturate on
  some processors.) Where they do not prove it, weights and inputs are taken apart into digits, and the sums put
  together in int64.
- The neurons are int64. `Div` of integers rounds toward zero and `Cast` to int32 keeps the low 32 bits, both by the
  standard, which is all that decay and overflow need.

One node follows another by the trained layers' names: 'lif1/conv', 'lif1/sums', 'lif1/step2/spikes'. Up to
`UNROLL_MOST` steps are written out, which every tool can read; more are a Loop, whose file and memory do not grow
with T. Input is `images` (N, C, H, W), raw pixels, or for Poisson coding `spikes` (N, T, C, H, W); output is `scores`
(N, K). With `trace`, every layer's spikes (N, T, ...) uint8 and voltages (int32) or membranes are outputs too.

`build_float` writes a folded network in float32, the precision it was trained in; `snn2chip.ir.interpreter` is its
definition, in float64. Each current is within float32's rounding of that; a membrane that is nearer to its threshold
than this may fire otherwise, as it may from one float32 library to another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from snn2chip.chip.bounds import BINARY, FLOAT32_EXACT, largest_sum
from snn2chip.chip.products import check_steps
from snn2chip.chip.profile import DECAY_ONE, STATE_MAX, STATE_SHIFT
from snn2chip.errors import UnsupportedError
from snn2chip.formats.onnx.graph import (
    Graph,
    Make,
    Port,
    Value,
    about_input,
    input_port,
    linear,
    model,
    per_channel,
    write,
)
from snn2chip.formats.onnx.time import UNROLL_MOST, At, Step, timeline
from snn2chip.formats.onnx.write_float import build_float
from snn2chip.ir import Chain, ChainLayer, IntArray, Network

if TYPE_CHECKING:
    import onnx

__all__ = ["UNROLL_MOST", "build", "build_float", "labels", "neurons", "save", "weighted_sums"]


def save(path: str | Path, source: Chain | Network, *, trace: bool = False, unroll: bool | None = None) -> None:
    """Write a chain (`build`) or a folded network (`build_float`), whole or not at all.

    Raises:
        InputError: the file cannot be written, or what `build` or `build_float` raise.
    """
    if isinstance(source, Chain):
        made = build(source, trace=trace, unroll=unroll)
    else:
        made = build_float(source, trace=trace, unroll=unroll)
    write(path, made)


def labels(chain: Chain) -> dict[str, str]:
    """What the layers of a chain are called in its ONNX: the trained neurons they hold, joined; by layer number.

    A layer that holds none it knows of is 'layer' and its number, and so is one whose name another has.
    """
    found: dict[str, str] = {}
    for layer in chain.layers:
        joined = "+".join(layer.origin) or f"layer{layer.name}"
        found[layer.name] = f"{joined}@{layer.name}" if joined in found.values() else joined
    return found


def build(chain: Chain, *, trace: bool = False, unroll: bool | None = None) -> onnx.ModelProto:
    """The chain's integers in ONNX: the simulator's scores, spikes and voltages, exactly.

    Inputs must be within the chain's low..high: there is no operator that would refuse others. `unroll` writes every
    step (True) or a Loop (False); None chooses by `UNROLL_MOST`.

    Raises:
        InputError: more than 2 GB of weights, or tables of fewer steps than T.
        UnsupportedError: sums of more than 2^24 inputs.
    """
    graph, direct = Graph(), chain.coding == "direct"
    given = input_port(chain.coding, chain.low, chain.high, chain.raw_shape, chain.timesteps)
    time = timeline(graph, chain.timesteps, given.name, unroll)
    value = Value(given.name, False) if direct else time.given(given.name, chain.raw_shape)
    value = time.apply(_port(chain), value)
    names = labels(chain)
    bounds = chain.port_range
    outputs: list[Port] = []
    for layer in chain.layers:
        label = names[layer.name]
        if layer.steps is not None:
            check_steps(layer.name, layer.steps, chain.timesteps)
        sums = time.apply(weighted_sums(layer, label, *bounds), value)
        step, keeps_current = neurons(graph, layer, label, largest_sum(layer, *bounds))
        state = {"voltage": (layer.shape, np.int64)} | ({"current": (layer.shape, np.int64)} if keeps_current else {})
        value = time.neurons(label, sums, step, state)
        bounds = BINARY
        if trace:
            outputs.append(time.watch(label, "spikes", layer.shape, np.uint8))
            outputs.append(time.watch(label, "voltage", layer.shape, np.int32))
    last = chain.layers[-1]
    if chain.readout == "membrane":
        time.finish()
        scores = time.last(names[last.name], "voltage")
    else:
        scores = time.total(value, last.shape, np.int64, "readout")
        time.finish()
    scores = graph.op("Flatten", [scores], "scores", axis=1)
    outputs.insert(0, Port(scores, np.int64, (int(np.prod(last.shape)),)))
    what = "voltage after the last step" if chain.readout == "membrane" else "spikes, counted over time"
    return model(
        graph,
        [given],
        outputs,
        "integers",
        "A spiking network in the chip's integers, exactly as snn2chip simulates and Lava runs them. "
        f"{about_input(given, chain.low, chain.high, chain.timesteps)} Output: scores (N, classes), the last layer's "
        f"{what}; the largest is the decision.",
        {
            "snn2chip_content": "integers",
            "timesteps": chain.timesteps,
            "classes": chain.classes,
            "readout": chain.readout,
            "coding": chain.coding,
            "pixel_max": chain.pixel_max,
            "input_range": [chain.low, chain.high],
            "layers": {layer.name: {"label": names[layer.name], "origin": layer.origin} for layer in chain.layers},
            "made": chain.made,
        },
    )


def _port(chain: Chain) -> Make:
    """Raw integers to what the first layer reads: ``raw - center``, flattened where that is dense."""

    def make(graph: Graph, given: list[str]) -> str:
        (x,) = given
        if any(chain.center):
            center = per_channel(np.asarray(chain.center, np.int32), chain.raw_shape)
            wide = graph.cast(x, np.int32, "port/raw")
            x = graph.op("Sub", [wide, graph.constant("port/center", center)], "port/centred")
        if chain.input_shape != chain.raw_shape:
            x = graph.op("Reshape", [x, graph.integers(-1, *chain.input_shape)], "port/flat")
        return x

    return make


def _digits(layer: ChainLayer, low: IntArray, high: IntArray) -> tuple[int, int]:
    """Bits of the digits of weights and inputs, with which every sum of products is exact in float32.

    Raises:
        UnsupportedError: none are.
    """
    most = np.maximum(np.abs(low), np.abs(high))
    weight = np.abs(layer.weight.astype(np.int64))
    # as coarse as it gets: inputs whole or in digits first, as weights are already small
    for weight_bits, input_bits in product((31, 4, 2, 1), (31, 12, 8, 4, 2, 1)):
        cut = np.minimum(most, 2**input_bits - 1)
        if largest_sum(replace(layer, weight=np.minimum(weight, 2**weight_bits - 1)), -cut, cut) < FLOAT32_EXACT:
            return weight_bits, input_bits
    raise UnsupportedError(
        f"layer '{layer.name}': {weight[0].size:,} inputs a neuron; at most {FLOAT32_EXACT:,} have exact sums in ONNX"
    )


def _weight_digits(weight: IntArray, bits: int) -> list[IntArray]:
    """Digits of `bits`, of the weight's sign, lowest first: weight = sum of digit[i] 2^(bits i)."""
    parts: list[IntArray] = []
    left = np.abs(weight)
    while not parts or left.any():
        parts.append(np.sign(weight) * (left & (2**bits - 1)))
        left = left >> bits
    return parts


def _input_digits(graph: Graph, label: str, x: str, bits: int, most: int) -> list[str]:
    """The same of inputs |x| <= most in the graph, as float32."""
    parts: list[str] = []
    while most >= 2**bits:
        if not parts:
            x = graph.cast(x, np.int32, f"{label}/integers")
        digit = f"{label}/digit{len(parts)}"
        rest = graph.op("Div", [x, graph.scalar(2**bits, np.int32)], f"{digit}/rest")
        whole = graph.op("Mul", [rest, graph.scalar(2**bits, np.int32)], f"{digit}/whole")
        parts.append(graph.cast(graph.op("Sub", [x, whole], digit), np.float32, f"{digit}/float"))
        x, most = rest, most >> bits
    name = f"{label}/digit{len(parts)}/float" if parts else f"{label}/float"
    return [*parts, graph.cast(x, np.float32, name)]


def weighted_sums(layer: ChainLayer, label: str, low: IntArray, high: IntArray) -> Make:
    """Inputs (M, ...) within low..high to weighted sums (M, *layer.shape), int64."""
    weight_bits, input_bits = _digits(layer, low, high)
    most = int(np.maximum(np.abs(low), np.abs(high)).max())

    def make(graph: Graph, given: list[str]) -> str:
        inputs = _input_digits(graph, label, given[0], input_bits, most)
        digits = _weight_digits(layer.weight.astype(np.int64), weight_bits)
        weights = [
            graph.constant(f"{label}/weight{number if len(digits) > 1 else ''}", digit.astype(np.float32))
            for number, digit in enumerate(digits)
        ]
        whole = len(weights) * len(inputs) == 1
        total = ""
        for (i, weight), (j, x) in product(enumerate(weights), enumerate(inputs)):
            name = label if whole else f"{label}/digits{i},{j}"
            sums = linear(graph, layer, x, weight, "", name, flatten=layer.flatten)
            sums = graph.cast(sums, np.int64, f"{name}/sums")
            if shift := weight_bits * i + input_bits * j:
                sums = graph.op("Mul", [sums, graph.scalar(2**shift)], f"{name}/shifted")
            total = sums if not total else graph.op("Add", [total, sums], f"{name}/together")
        return graph.op("Mul", [total, graph.scalar(2**STATE_SHIFT)], f"{label}/driven")

    return make


def neurons(graph: Graph, layer: ChainLayer, label: str, largest: int) -> tuple[Step, bool]:
    """A chain layer's neurons (`arith.step`, `arith.step_voltage`), and whether their current lasts.

    `largest` is the largest |sum of w times x| there can be: what it rules out, wrapping above all, is left out.
    """
    keeps_current = layer.current_decay != DECAY_ONE
    driven = largest << STATE_SHIFT
    wraps = keeps_current or driven >= STATE_MAX
    # sums far beyond the chip's own limits overflow 32-bit registers in Lava; a current that lasts is within 2^23
    # again after one wrap only if what comes is below 2^24
    overflows = driven + STATE_MAX >= 2**31 or (keeps_current and driven > 2 * STATE_MAX)
    shifted = layer.bias << STATE_SHIFT
    heavy = overflows or int(np.abs(shifted).max(initial=0)) + max(driven, STATE_MAX) + STATE_MAX >= 2**31
    top, none = graph.scalar(STATE_MAX - 1), graph.scalar(0)
    bottom = graph.scalar(-(STATE_MAX - 1))
    first = shifted[(slice(None), *(slice(0, 1),) * (shifted.ndim - 1))]
    bias = graph.constant(f"{label}/bias", first if (shifted == first).all() else shifted) if shifted.any() else ""

    def register(at: At, x: str, name: str) -> str:
        kept = at.graph.cast(x, np.int32, f"{at.prefix}/{name}/register")
        return at.graph.cast(kept, np.int64, f"{at.prefix}/{name}/int64")

    def decayed(at: At, x: str, keep: str, one: int, name: str) -> str:
        scaled = at.op("Mul", [x, keep], f"{name}/scaled")
        return at.op("Div", [scaled, graph.scalar(one)], f"{name}/kept")

    def current(at: At, x: str, before: Mapping[str, str] | None) -> str:
        if keeps_current and before is not None:
            keep = graph.scalar(DECAY_ONE - layer.current_decay)
            x = at.op("Add", [decayed(at, before["current"], keep, DECAY_ONE, "current"), x], "current/total")
        if overflows:
            x = register(at, x, "current")
        if wraps:  # lopsided, as Lava's: +2^23 itself stays, -2^23 does not
            round_trip = graph.scalar(2 * STATE_MAX)
            over = at.op("Greater", [x, graph.scalar(STATE_MAX)], "current/over")
            under = at.op("LessOrEqual", [x, graph.scalar(-STATE_MAX)], "current/under")
            raised = at.op("Where", [under, at.op("Add", [x, round_trip], "current/raised"), x], "current/not_under")
            x = at.op("Where", [over, at.op("Sub", [x, round_trip], "current/lowered"), raised], "current")
        return x

    def clipped(at: At, x: str) -> str:
        # not Clip, Min or Max: of int64 beyond 32 bits ONNX Runtime gets them wrong on x86 (its pull request 32475)
        over = at.op("Greater", [x, top], "voltage/over")
        under = at.op("Less", [x, bottom], "voltage/under")
        return at.op("Where", [over, top, at.op("Where", [under, bottom, x], "voltage/not_under")], "voltage/clipped")

    def step(at: At, x: str, before: Mapping[str, str] | None) -> dict[str, str]:
        u = v = current(at, x, before)
        tables = layer.steps
        if tables is None:
            if before is not None and layer.voltage_decay != DECAY_ONE:
                keep = graph.scalar(DECAY_ONE - layer.voltage_decay)
                old = before["voltage"]
                old = decayed(at, old, keep, DECAY_ONE, "voltage") if layer.voltage_decay else old
                v = at.op("Add", [old, v], "voltage/and_current")
            threshold = graph.scalar(layer.threshold << STATE_SHIFT)
        else:
            if before is not None:
                leak = at.row("leak", per_channel(tables.leak, layer.shape))
                old = decayed(at, before["voltage"], leak, 2**tables.leak_shift, "voltage")
                v = at.op("Add", [old, v], "voltage/and_current")
            lift = at.row("lift", per_channel(tables.bias, layer.shape))
            v = at.op("Add", [v, lift], "voltage/lifted")
            threshold = at.row("threshold", per_channel(tables.threshold, layer.shape))
        if bias:
            v = at.op("Add", [v, bias], "voltage/and_bias")
        if heavy and tables is None:
            v = register(at, v, "voltage")
        v = clipped(at, v)
        spikes = at.op("Greater", [v, threshold], "spikes")
        return {"current": u, "voltage": at.op("Where", [spikes, none, v], "voltage"), "spikes": spikes}

    return step, keeps_current
