"""Random branching networks as a hypothesis strategy, and what must hold of each of them on its way to a chain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from helpers import look_trained, rng_of, spiking_network
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from snn2chip import chip, ir
from snn2chip.chip import relay
from snn2chip.ir.interpreter import evaluate
from snn2chip.ir.trace import Trace
from snn2chip.nn import LIF, AvgPool2d, Conv2d, Flatten, GlobalAvgPool, Linear, MaxPool2d, SpikingNetwork, TDBatchNorm
from snn2chip.passes.capture import capture
from snn2chip.passes.fold import fold
from snn2chip.passes.lower import LowerReport, lower
from snn2chip.passes.quantize import quantize, quantize_at
from snn2chip.passes.schedule import RELAYS, Relay, Relays, Schedule, schedule
from snn2chip.simulate import branching as graph
from snn2chip.simulate.dense import DenseEngine
from snn2chip.verify.compare import module_spikes, relayed

LOIHI = chip.load("loihi2")

# --------------------------------------------------------------------------------------------- the random networks


@dataclass
class Step:
    """A layer of neurons: the sum of its ways, a norm or nothing, and a neuron; or, for the readout, no neuron.

    A way reads the spikes of an earlier step, or with `current` the sum that drives its neuron.
    """

    name: str
    ways: list[tuple[str, bool, nn.Module]]
    after: nn.Module
    neuron: nn.Module


class Branching(nn.Module):
    """A plan of steps as a torch module: what a user's own forward function may do."""

    def __init__(self, steps: list[Step]) -> None:
        super().__init__()
        self.plan = [(step.name, [(source, current) for source, current, _ in step.ways]) for step in steps]
        for step in steps:
            for number, (*_, way) in enumerate(step.ways):
                self.add_module(f"{step.name}_way{number}", way)
            self.add_module(f"{step.name}_after", step.after)
            self.add_module(step.name, step.neuron)

    def forward(self, x: Tensor) -> Tensor:
        spikes = {"input": x}
        currents: dict[str, Tensor] = {}
        for name, ways in self.plan:
            total = None
            for number, (source, current) in enumerate(ways):
                y = getattr(self, f"{name}_way{number}")((currents if current else spikes)[source])
                total = y if total is None else total + y
            currents[name] = getattr(self, f"{name}_after")(total)
            spikes[name] = getattr(self, name)(currents[name])
        return spikes[self.plan[-1][0]]


@dataclass
class Drawn:
    """A random network, and how it is to be exported."""

    network: SpikingNetwork
    relays: Relays
    bits: int
    calibrated: bool
    seed: int


class _Planner:
    """Draws steps one after another; knows of every source its shape and the stride that led to it."""

    def __init__(self, draw: st.DrawFn, shape: ir.Shape, binary: bool) -> None:
        self.draw, self.binary = draw, binary
        self.shapes: dict[str, ir.Shape] = {"input": shape}
        self.strides: dict[str, ir.Pair] = {"input": (1, 1)}
        self.pools: set[str] = set()
        self.from_input: set[str] = set()  # whose currents come from a graded input, in part at least
        self.unread: list[str] = ["input"]
        self.steps: list[Step] = []

    def chance(self, one_in: int) -> bool:
        return self.draw(st.integers(1, one_in)) == 1

    def pick(self, options: list[int]) -> int:
        return self.draw(st.sampled_from(options))

    def side(self, size: int, stride: int, target: int | None, most: int) -> tuple[int, int, int, int] | None:
        """Kernel, padding, dilation (up to `most`) and output size along one axis; `target` if there is one."""
        if target is None and not self.chance(8):  # as most networks have it
            kernel = self.pick([1, 3])
            return kernel, kernel // 2, 1, ir.out_size(size, kernel, stride, kernel // 2, 1)
        options = [
            (kernel, padding, dilation, out)
            for kernel in (1, 2, 3, 4)
            for padding in range(3)
            for dilation in range(1, 1 + (most if kernel > 1 else 1))
            if (out := ir.out_size(size, kernel, stride, padding, dilation)) >= 1
            and (out == target if target else kernel < 4)
        ]
        return self.draw(st.sampled_from(options)) if options else None

    def conv(
        self, shape: ir.Shape, stride: ir.Pair, out: int, target: ir.Shape | None, dilation: int = 2
    ) -> tuple[nn.Module, ir.Shape]:
        """A convolution to `out` channels and `target` pixels; its output size. Empty where there is none."""
        sides = [self.side(shape[1 + i], stride[i], target[i] if target else None, dilation) for i in range(2)]
        if sides[0] is None or sides[1] is None:
            return nn.Sequential(), (0, 0)
        kernel, padding, dilation, made = zip(*sides, strict=True)
        divisors = [g for g in range(1, 6) if shape[0] % g == 0 and out % g == 0]
        groups = self.pick(divisors) if self.chance(3) else 1
        bias = self.draw(st.booleans())
        return Conv2d(shape[0], out, kernel, stride, padding, dilation, groups, bias=bias), made

    def norm(self, channels: int) -> nn.Module:
        return TDBatchNorm(channels, alpha=2**-0.5) if self.chance(2) else nn.Sequential()

    def image_way(self, source: str, stride: ir.Pair, out: ir.Shape) -> nn.Module | None:
        """Any way from the pixels of a source to an image of shape `out`; None where strides or sizes do not meet."""
        shape = self.shapes[source]
        passed = self.strides[source]
        if stride[0] % passed[0] or stride[1] % passed[1]:
            return None
        stride = (stride[0] // passed[0], stride[1] // passed[1])
        whole = all(side % 2 == 0 for side in (*stride, *shape[1:]))  # for average pooling
        kind = self.draw(st.sampled_from(["identity", "conv", "conv", "pool", "pooled conv", "conv, then pool"]))
        if kind == "identity" and shape == out and stride == (1, 1):
            return nn.Sequential(self.norm(out[0]))
        if kind == "pool" and whole and (shape[0], shape[1] // 2, shape[2] // 2) == out and stride == (2, 2):
            return nn.Sequential(AvgPool2d(2), self.norm(out[0]))
        half = (stride[0] // 2, stride[1] // 2)
        if kind == "pooled conv" and whole:
            small = (shape[0], shape[1] // 2, shape[2] // 2)
            conv, made = self.conv(small, half, out[0], out[1:], 1)
            if made == out[1:]:
                return nn.Sequential(AvgPool2d(2), conv, self.norm(out[0]))
        if kind == "conv, then pool" and whole:
            conv, made = self.conv(shape, half, out[0], (2 * out[1], 2 * out[2]), 1)
            if made != (0, 0):
                return nn.Sequential(conv, self.norm(out[0]), AvgPool2d(2))
        conv, made = self.conv(shape, stride, out[0], out[1:])
        return nn.Sequential(conv, self.norm(out[0])) if made == out[1:] else None

    def flat_way(self, source: str, out: int, *, alone: bool) -> nn.Module:
        """Any way from a source to `out` features; one that is `alone` before its neuron needs weights."""
        shape = self.shapes[source]
        layers: list[nn.Module] = []
        features = int(np.prod(shape))
        if len(shape) == 3:
            kind = self.draw(st.sampled_from(["flatten", "flatten", "pool", "global"]))
            if kind == "global":
                layers, features = [GlobalAvgPool()], shape[0]
            elif kind == "pool" and min(shape[1:]) >= 2:
                layers, features = [AvgPool2d(2), Flatten()], shape[0] * (shape[1] // 2) * (shape[2] // 2)
            else:
                layers = [Flatten()]
        if features != out or alone or self.chance(3):
            layers.append(Linear(features, out, bias=self.draw(st.booleans())))
        return nn.Sequential(*layers, self.norm(out))

    def sources(self, image: bool) -> list[str]:
        """Earlier steps, the last one first; the input among them where spikes can carry it."""
        names = [name for name in reversed(self.shapes) if name != "input" or self.binary or not self.steps]
        return [name for name in names if len(self.shapes[name]) == 3 or not image]

    def add(self, ways: list[tuple[str, bool, nn.Module]], out: ir.Shape, stride: ir.Pair, last: bool = False) -> None:
        name = "out" if last else f"lif{len(self.steps) + 1}"
        tau, threshold = self.draw(st.sampled_from([0.25, 0.5, 0.9])), self.draw(st.sampled_from([0.5, 1.0]))
        self.steps.append(Step(name, ways, self.norm(out[0]), LIF(tau, threshold)))
        for source, current, _ in ways:
            if not current and source in self.unread:
                self.unread.remove(source)
        if not self.binary and any(
            source == "input" or (current and source in self.from_input) for source, current, _ in ways
        ):
            self.from_input.add(name)
        self.shapes[name], self.strides[name] = out, stride
        self.unread.append(name)

    def image_step(self) -> None:
        """A convolution of the last step and up to two more ways, or max pooling of spikes."""
        sources = self.sources(image=True)
        first = sources[0]
        shape, passed = self.shapes[first], self.strides[first]
        step = self.pick([1, 1, 1, 2])
        own = (step, step) if not self.chance(8) else (self.pick([1, 2]), self.pick([1, 2]))
        stride = (passed[0] * own[0], passed[1] * own[1])
        if first != "input" and self.chance(10) and own[0] == own[1]:
            kernel = min(self.pick([2, 3]), *shape[1:])
            pool = MaxPool2d(kernel, own[0], kernel // 2)
            sides = [ir.out_size(side, kernel, own[0], kernel // 2, 1) for side in shape[1:]]
            name = f"lif{len(self.steps) + 1}"
            self.steps.append(Step(name, [(first, False, nn.Sequential())], nn.Sequential(), pool))
            self.pools.add(name)
            if first in self.unread:
                self.unread.remove(first)
            self.shapes[name], self.strides[name] = (shape[0], *sides), stride
            self.unread.append(name)
            return
        out = self.shapes[self.draw(st.sampled_from(sources))][0] if self.chance(2) else self.pick([1, 2, 3, 4, 5])
        conv, made = self.conv(shape, own, out, None)
        target = (out, *made)
        ways: list[tuple[str, bool, nn.Module]] = [(first, False, nn.Sequential(conv, self.norm(out)))]
        for _ in range(self.pick([0, 1, 1, 2]) if made != (0, 0) else 0):
            source = self.draw(st.sampled_from(sources))
            streams = [s.name for s in self.steps if (self.shapes[s.name], self.strides[s.name]) == (target, stride)]
            streams = [name for name in streams if name not in self.from_input | self.pools]
            if streams and self.chance(4):
                ways.append((self.draw(st.sampled_from(streams)), True, self.norm(out)))
            elif (way := self.image_way(source, stride, target)) is not None:
                ways.append((source, False, way))
        if made != (0, 0):
            self.add(ways, target, stride)

    def flat_step(self, out: int, *, last: bool = False) -> None:
        """A dense layer of the last step and up to two more ways; for the last one, of all that is still unread."""
        sources = self.sources(image=False)
        names = [sources[0], *(self.draw(st.sampled_from(sources)) for _ in range(self.pick([0, 1, 1, 2])))]
        if last:
            names += [name for name in self.unread if name not in names]
        self.add(
            [(name, False, self.flat_way(name, out, alone=len(names) == 1)) for name in names], (out,), (1, 1), last
        )


@st.composite
def branching(draw: st.DrawFn) -> Drawn:
    """A network of 2 to 8 layers of neurons whose layers read up to three earlier ones, through anything linear."""
    binary = draw(st.integers(1, 3)) == 1
    shape = (draw(st.integers(1, 3)), draw(st.integers(4, 10)), draw(st.integers(4, 10)))
    plan = _Planner(draw, shape, binary)
    depth = draw(st.integers(2, 8))
    flat = draw(st.integers(0, 3)) if draw(st.booleans()) else 0
    for _ in range(depth - flat):
        plan.image_step()
    for _ in range(flat):
        plan.flat_step(draw(st.integers(2, 6)))
    plan.flat_step(3, last=True)
    readout = draw(st.sampled_from(["membrane", "spike_count"]))
    if readout == "membrane":
        plan.steps[-1].neuron = nn.Sequential()
    seed = draw(st.integers(0, 2**32 - 1))
    network = spiking_network(
        [("dag", Branching(plan.steps))],
        shape,
        timesteps=draw(st.integers(1, 12)),
        coding="poisson" if binary else "direct",
        readout=readout,
    )
    look_trained(network, seed % 2**31)
    for module in network.modules():
        if isinstance(module, TDBatchNorm):  # a channel that was always silent would get a gain beyond any weight
            module.running_var.clamp_(min=0.05)
    relays = draw(st.sampled_from(RELAYS))
    return Drawn(network, relays, draw(st.sampled_from([4, 8, 8])), draw(st.booleans()), seed)


def inputs(network: ir.Network, samples: int, seed: int) -> ir.IntArray:
    """Raw input (N, T, C, H, W): images repeated, or spikes at a rate of its own for every pixel."""
    rng = rng_of(seed)
    source = network.input
    if source.coding == "direct":
        return np.repeat(rng.integers(0, source.high + 1, (samples, 1, *source.shape)), network.timesteps, 1)
    rates = rng.random((samples, 1, *source.shape))
    return (rng.random((samples, network.timesteps, *source.shape)) < rates).astype(np.int64)


# -------------------------------------------------------------------------------------------------- what must hold


class Stages(NamedTuple):
    """A network on its way to the chain."""

    folded: ir.Network
    plan: Schedule
    quantized: ir.Network
    chain: ir.Chain
    report: LowerReport


def held_by(source: NDArray[Any], item: Relay) -> NDArray[Any]:
    """What a relay of spikes (N, T, C, H, W) or (N, T, F) must hold, pixel by pixel as its docstring says."""
    if source.ndim == 3:
        return source
    samples, steps, channels = source.shape[:3]
    held = np.zeros((samples, steps, channels * len(item.phases), *item.grid), dtype=source.dtype)
    for number, (a, b) in enumerate(item.phases):
        for i, j in np.ndindex(item.grid):
            y, x = item.stride[0] * i + a, item.stride[1] * j + b
            if y < item.covers[0] and x < item.covers[1]:
                held[:, :, number :: len(item.phases), i, j] = source[:, :, :, y, x]
    return held.reshape(samples, steps, *item.shape)


def within_the_chip(stages: Stages, profile: chip.Chip) -> None:
    """Every number fits its register, and every relay is exact with the numbers that stand in the chain."""
    for layer, level in zip(stages.chain.layers, stages.plan.levels, strict=True):
        largest = int(np.abs(layer.weight).max())
        assert largest <= profile.weight_max, (layer.name, largest)
        assert largest <= profile.weight_odd_max or not (layer.weight % 2).any(), layer.name
        assert np.abs(layer.bias).max() <= profile.bias_max and 0 < layer.threshold <= profile.threshold_max
        for item in stages.report.placed:
            if item.layer == layer.name and item.relay is not None:
                rows = layer.weight[item.start : item.stop].reshape(item.stop - item.start, -1)
                assert ((rows != 0).sum(1) == level.copies).all()  # one weight from every copy
                for weight in np.unique(rows.sum(1)):
                    for bias in np.unique(layer.bias[item.start : item.stop]):
                        assert relay.is_exact(layer.threshold, layer.voltage_decay, int(weight), int(bias))


def same_spikes(stages: Stages, found: Trace, port: ir.IntArray) -> None:
    """Spikes and voltages of every trained layer and copy as the branching network has them; relays as their source."""
    wanted = graph.run(stages.quantized, port)
    places = {layer.name: dict(layer.origin) for layer in stages.chain.layers}
    seen: set[str] = set()
    for item in stages.report.placed:
        assert places[item.layer].pop(item.name) == (item.start, item.stop)
        spikes = found.spikes[item.layer][:, :, item.start : item.stop]
        if item.relay is None:
            original = item.name if item.what == "neurons" else item.name.rpartition(".copy")[0]
            np.testing.assert_array_equal(spikes, wanted.spikes[original], err_msg=item.name)
            volts = found.voltage[item.layer][:, :, item.start : item.stop]
            np.testing.assert_array_equal(volts, wanted.voltage[original], err_msg=item.name)
            seen.add(original)
        else:
            given_ = port if item.relay.source == stages.quantized.input.name else wanted.spikes[item.relay.source]
            np.testing.assert_array_equal(spikes, held_by(given_, item.relay), err_msg=item.name)
            np.testing.assert_array_equal(spikes, relayed(given_, item.relay), err_msg=item.name)
    assert seen == set(wanted.spikes) and not any(places.values())  # nothing is left out on either side


def export(
    network: SpikingNetwork, relays: Relays = "auto", bits: int = 8, calibration_seed: int | None = None
) -> Stages:
    """All stages, within the chip's limits; the scales that the report names give the same integers again."""
    profile = LOIHI.with_weight_bits(bits)
    captured = capture(network)
    folded, _ = fold(captured)
    plan = schedule(folded, profile, relays)
    raw = None if calibration_seed is None else inputs(captured, 4, calibration_seed)
    quantized, report = quantize(folded, profile, plan, calibration=raw)
    stages = Stages(folded, plan, quantized, *lower(quantized, profile, plan))
    within_the_chip(stages, profile)
    scales = {layer.name: layer.scale for layer in report.layers}
    again = quantize_at(folded, profile, plan, scales, {layer.name: layer.rounding for layer in report.layers})
    for node in quantized.nodes:
        if isinstance(node, ir.Conv | ir.Dense):
            np.testing.assert_array_equal(node.weight, again[node.name].weight, err_msg=node.name)  # type: ignore[attr-defined]
    return stages


def check(network: SpikingNetwork, stages: Stages, seed: int) -> None:
    """Torch = captured = folded, and the quantized network = its chain, on usual inputs and on extreme ones."""
    captured = capture(network)
    raw = inputs(captured, 2, seed)
    torch_spikes, _ = module_spikes(network, raw)
    first, second = evaluate(captured, raw), evaluate(stages.folded, raw)
    assert set(torch_spikes) == set(first.spikes) <= set(second.spikes)
    for name, spikes in first.spikes.items():
        assert (spikes.numpy() == torch_spikes[name]).all(), name
        assert (spikes == second.spikes[name]).all(), name
    engine = DenseEngine(stages.chain)
    for values in (raw, rng_of(seed).choice([stages.chain.low, stages.chain.high], raw.shape)):
        port = stages.chain.port(values)
        same_spikes(stages, engine.run(port), port)
