"""From a quantized network and its schedule to a chain of netx layers.

netx loads one chain: input, then conv and dense layers with one neuron each, a flatten in between. Layer numbers count
the input and the flatten, as the HDF5 file does. One level of the schedule becomes one layer::

    channels of a level   [neurons | copies of them | relay 1 | copies of it | ...]
    weights of a level    the neurons' convolutions over the channels that hold what they read, padded to one kernel;
                          one tap a channel for every relay

Nothing is rounded or rescaled here: the numbers of the quantized network move, and relays are added.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from snn2chip import ir
from snn2chip.chip import relay
from snn2chip.chip.profile import Chip
from snn2chip.errors import ChipLimitError
from snn2chip.passes.schedule import Level, Relay, Schedule, copies_after, driven


@dataclass(frozen=True)
class Placed:
    """Where a chain layer holds a trained layer: channels start..stop - 1 (of a dense layer, features).

    what: 'neurons', 'copy' (the same again, for relays to read), or 'relay' of an earlier layer, of which `relay`
    says which pixels it holds.
    """

    layer: str
    name: str
    what: str
    start: int
    stop: int
    neurons: int
    relay: Relay | None = None


@dataclass(frozen=True)
class LowerReport:
    """Every block of every chain layer, in order; and the levels they come from."""

    placed: tuple[Placed, ...]
    levels: tuple[Level, ...]

    @property
    def relay_neurons(self) -> int:
        """Neurons that are there only to pass spikes on, copies included."""
        return sum(item.neurons for item in self.placed if item.what != "neurons")

    @property
    def neurons(self) -> int:
        """All neurons of the chain."""
        return sum(item.neurons for item in self.placed)


@dataclass(frozen=True)
class _Block:
    """A source's spikes in the level that is read: where, and which pixels (see `snn2chip.passes.schedule`)."""

    start: int
    stride: ir.Pair
    phases: tuple[ir.Pair, ...]
    source_shape: ir.Shape
    grid: ir.Pair  # height and width of what it holds, also once it is flat

    def channel(self, channel: int | ir.IntArray, phase: ir.Pair) -> int | ir.IntArray:
        return self.start + channel * len(self.phases) + self.phases.index(phase)

    def features(self) -> ir.IntArray:
        """Flat place in this level of every (flat) feature of the source; blocks begin at whole channels."""
        if len(self.source_shape) == 1:
            return self.start + np.arange(self.source_shape[0])
        channels, height, width = self.source_shape
        c, y, x = np.meshgrid(np.arange(channels), np.arange(height), np.arange(width), indexing="ij")
        order = np.full(self.stride, -1)
        for number, (a, b) in enumerate(self.phases):
            order[a, b] = number
        (sy, sx), (rows, columns) = self.stride, self.grid
        channel = c * len(self.phases) + order[y % sy, x % sx]
        places: ir.IntArray = self.start + ((channel * rows + y // sy) * columns + x // sx)
        return places.reshape(-1)


@dataclass(frozen=True)
class Parts:
    """What stands side by side in the layer that a level becomes.

    name, flatten, origin  as in `ir.Layer`
    shape                  of the neurons alone; with all that is beside them they are `channels`
    blocks                 neurons, copies and relays by the source whose spikes they hold
    relay                  weight and bias of its relays
    """

    name: str
    unit: ir.CubaNeuron
    shape: ir.Shape
    channels: int
    blocks: dict[str, list[_Block]]
    relay: tuple[int, int]
    flatten: bool
    origin: dict[str, tuple[int, int]]


def fit(size_in: int, size_out: int, stride: int, places: list[int]) -> tuple[int, int, int]:
    """Padding, kernel and dilation of a small symmetric convolution that reads all of `places` (relative to stride
    times the output's place) and makes `size_out` pixels of `size_in`."""
    least = max(0, -min(places))
    best: tuple[int, int, int, int] | None = None
    for padding in range(least, least + stride * size_out + size_in + max(0, *places) + 1):
        spread = math.gcd(*(place + padding for place in places))
        for dilation in {max(1, spread), 1}:
            taps_needed = max(place + padding for place in places) // dilation + 1
            # out = (in + 2 p - d (k - 1) - 1) // s + 1, so d (k - 1) must leave a room of size_out - 1 strides
            room = size_in + 2 * padding - 1 - (size_out - 1) * stride
            if room < 0:
                continue
            most = room // dilation + 1
            fewest = max(taps_needed, -(-(room - stride + 1) // dilation) + 1)
            if fewest <= most and (best is None or fewest < best[0]):
                best = (fewest, padding, fewest, dilation)
        if best is not None and padding > least:
            break
    assert best is not None  # a kernel that reaches far enough always makes the size
    return best[1:]


class Lowering:
    """The chain as it grows: the blocks of the level before, and the layers so far."""

    def __init__(self, network: ir.Network, chip: Chip, plan: Schedule) -> None:
        self.network, self.chip, self.plan = network, chip, plan
        source = network.input
        self.blocks: dict[str, list[_Block]] = {source.name: [self._source_block(source.name, 0)]}
        self.shape = source.shape
        self.layers: list[ir.ChainLayer] = []
        self.placed: list[Placed] = []
        self.number = 1

    def _source_block(self, name: str, start: int) -> _Block:
        shape = self.network.shape(name)
        return _Block(start, (1, 1), ((0, 0),), shape, (shape[1], shape[2]) if len(shape) == 3 else (1, 1))

    def run(self) -> None:
        """Every level in turn."""
        for index, level in enumerate(self.plan.levels):
            self.level(level, copies_after(self.network, self.plan, index))

    def level(self, level: Level, copies: dict[str, int]) -> None:
        """Add one layer; `copies` says how many copies of its blocks the next level reads."""
        network, unit = self.network, self._unit(level)
        shape = network.shape(driven(network, level).name)
        flatten = level.stride is None and len(self.shape) == 3
        if flatten and self.number > 1:  # netx has no process before the first layer that could flatten
            self.number += 1
        blocks: dict[str, list[_Block]] = {}
        origin: dict[str, tuple[int, int]] = {}
        start = 0
        for label, block_shape, item in [
            (unit.name, shape, None),
            *((item.name, item.shape, item) for item in level.relays),
        ]:
            source = unit.name if item is None else item.source
            for copy in range(copies.get(source, 1)):
                stop = start + block_shape[0]
                shown = label if copy == 0 else f"{label}.copy{copy + 1}"
                origin[shown] = (start, stop)
                made = (
                    self._source_block(source, start)
                    if item is None
                    else _Block(start, item.stride, item.phases, network.shape(source), item.grid)
                )
                blocks.setdefault(source, []).append(made)
                what = "relay" if item is not None else "neurons" if copy == 0 else "copy"
                neurons = int(np.prod(block_shape))
                self.placed.append(Placed(str(self.number), shown, what, start, stop, neurons, item))
                start = stop
        relays = self._relay_numbers(level, unit) if level.relays else (0, 0)
        flatten = flatten and self.number > 1
        parts = Parts(str(self.number), unit, shape, start, blocks, relays, flatten, origin)
        synapses = network.synapses_of(driven(network, level))
        alone = start == shape[0] and self.shape == network.shape(network.source_of(synapses[0]).name)
        if alone and len(synapses) == 1:  # as trained, groups and all
            self._alone(parts, synapses[0])
        else:
            self._joined(parts, level)
        self.blocks, self.shape = blocks, (start, *shape[1:])
        self.number += 1

    def _unit(self, level: Level) -> ir.CubaNeuron:
        unit = driven(self.network, level)
        assert isinstance(unit, ir.CubaNeuron)  # a membrane readout reads its accumulator
        return unit

    def _integers(self, level: Level) -> list[ir.Array]:
        """Weights of the synapses of a level's neurons."""
        return [synapse.weight for synapse in self.network.synapses_of(driven(self.network, level))]

    def _alone(self, parts: Parts, synapse: ir.Synapse) -> None:
        """Neurons with nothing beside them."""
        layer = ir.chain_layer(parts.name, synapse, parts.unit, parts.shape, flatten=parts.flatten)
        self.layers.append(replace(layer, origin=parts.origin))

    def _relay_numbers(self, level: Level, unit: ir.CubaNeuron) -> tuple[int, int]:
        if unit.steps is not None:
            return 1, 0  # with a row of its own in the tables any spike makes it fire
        odd, large = self._parity(level)
        for even in [True] if large else [False] if odd else [False, True]:
            found = relay.choose(
                unit.threshold,
                unit.voltage_decay,
                level.copies,
                self.chip,
                even=even,
                with_bias=self.plan.with_bias,
            )
            if found is not None:
                return found
        raise ChipLimitError(
            f"layer '{level.neuron}': threshold {unit.threshold} exceeds what the relays beside it allow "
            f"({level.limit}, {self.chip.name}); quantize with this schedule"
        )

    def _parity(self, level: Level) -> tuple[bool, bool]:
        """Whether some weights of a layer are odd, and whether some are beyond what odd ones may reach."""
        weights = self._integers(level)
        odd = any((weight % 2).any() for weight in weights)
        large = any(
            np.abs(weight).max(initial=0) > copies * self.chip.weight_odd_max
            for weight, copies in zip(weights, level.reads, strict=True)
        )
        return odd, large

    def _geometry(self, level: Level) -> dict[str, Any]:
        """Kernel, stride, padding and dilation of a level's one convolution; nothing of a dense level."""
        if level.stride is None or level.grid is None:
            return {}
        places = self._places(level)
        fits = [
            fit(self.shape[1 + i], level.grid[i], level.stride[i], sorted({place[i] for place in places}))
            for i in range(2)
        ]
        padding, kernel, dilation = ((fits[0][i], fits[1][i]) for i in range(3))
        return {"kernel": kernel, "stride": level.stride, "padding": padding, "dilation": dilation}

    def _most(self, level: Level, relay_weight: int) -> int:
        """The largest weight that a level's layer may hold."""
        even = relay_weight > self.chip.weight_odd_max or self._parity(level)[1]
        return self.chip.weight_max if even else self.chip.weight_odd_max

    def _joined(self, parts: Parts, level: Level) -> None:
        """Neurons, copies and relays in one layer."""
        unit, blocks, (value, relay_bias) = parts.unit, parts.blocks, parts.relay
        geometry = self._geometry(level)
        inputs = (self.shape[0], *geometry["kernel"]) if geometry else (int(np.prod(self.shape)),)
        synapses, most = self.network.synapses_of(unit), self._most(level, value)
        reach = len(synapses) * most  # of a weight, where synapses read the same
        weight = np.zeros((parts.channels, *inputs), ir.weight_type(-reach, reach))
        bias = np.zeros((parts.channels, *parts.shape[1:]), dtype=np.int64)
        fill = self._conv if geometry else self._dense
        for block in blocks[unit.name]:
            rows = slice(block.start, block.start + parts.shape[0])
            for synapse, copies in zip(synapses, level.reads, strict=True):
                if not synapse.weight.any():  # what it reads nothing of may have no relay, and so no block
                    continue
                source = self.network.source_of(synapse).name
                for before, part in zip(self.blocks[source], share(synapse.weight, copies, most), strict=False):
                    if part.any():
                        fill(weight[rows], synapse, part, before, geometry)
            bias[rows] = ir.neuron_bias(synapses, parts.shape)
        for item in level.relays:
            for block in blocks[item.source]:
                for before in self.blocks[item.source][: level.copies]:
                    self._pass_on(weight, before, block, item, value, geometry)
                bias[block.start : block.start + item.shape[0]] = relay_bias
        starts = [block.start for block in blocks[unit.name]]
        steps = None if unit.steps is None else _beside_relays(unit.steps, starts, parts.channels)
        geometry.pop("kernel", None)
        self.layers.append(
            ir.ChainLayer(
                parts.name,
                "conv" if geometry else "dense",
                weight,
                bias,
                bias.shape,
                unit.threshold,
                unit.voltage_decay,
                unit.current_decay,
                **geometry,
                flatten=parts.flatten,
                origin=parts.origin,
                steps=steps,
            )
        )

    def _reads(self, conv: ir.Conv, block: _Block) -> Iterator[tuple[int, int, ir.Pair, ir.Pair]]:
        """(tap row, tap column, phase, place in the level's pixels) of every tap that has weights."""
        whole = block.stride == (1, 1)
        used = np.ones(conv.weight.shape[2:], dtype=bool) if whole else np.abs(conv.weight).sum((0, 1)) > 0
        for i, y in enumerate(ir.taps(conv, 0)):
            for j, x in enumerate(ir.taps(conv, 1)):
                phase = (y % block.stride[0], x % block.stride[1])
                if used[i, j]:
                    yield i, j, phase, ((y - phase[0]) // block.stride[0], (x - phase[1]) // block.stride[1])

    def _places(self, level: Level) -> set[ir.Pair]:
        """Every place (relative, in pixels of the level before) that neurons and relays of a level read."""
        places: set[ir.Pair] = set()
        for synapse in self.network.synapses_of(driven(self.network, level)):
            if isinstance(synapse, ir.Conv) and synapse.weight.any():
                block = self.blocks[self.network.source_of(synapse).name][0]
                places.update(place for *_, place in self._reads(synapse, block))
        for item in level.relays:
            before = self.blocks[item.source][0]
            places.update(_step(phase, before) for phase in item.phases)
        return places or {(0, 0)}

    def _conv(
        self, weight: ir.Weights, synapse: ir.Synapse, part: ir.IntArray, block: _Block, geometry: dict[str, ir.Pair]
    ) -> None:
        assert isinstance(synapse, ir.Conv)  # a level with a stride holds convolutions
        channels = ir.input_channels(part, synapse.groups)
        rows = np.arange(len(part))[:, None]
        for i, j, phase, place in self._reads(synapse, block):
            ky, kx = _tap(place, geometry)
            weight[rows, block.channel(channels, phase), ky, kx] += part[:, :, i, j]

    def _dense(
        self, weight: ir.Weights, synapse: ir.Synapse, part: ir.IntArray, block: _Block, geometry: dict[str, ir.Pair]
    ) -> None:
        weight[:, self._flat(block)] += part

    def _flat(self, block: _Block) -> ir.IntArray:
        """Where in this dense layer's input the features of a source are."""
        if len(self.shape) == 3:  # a block begins at a channel, and channels become rows of pixels
            pixels = self.shape[1] * self.shape[2]
            return block.features() + block.start * (pixels - 1)
        return block.features()

    def _pass_on(
        self,
        weight: ir.Weights,
        before: _Block,
        block: _Block,
        item: Relay,
        value: int,
        geometry: dict[str, ir.Pair],
    ) -> None:
        """One weight for every channel of a relay, from one copy of its source in the level before."""
        if not geometry:
            places = np.arange(item.shape[0])
            first = before.start * (int(np.prod(self.shape[1:])) if len(self.shape) == 3 else 1)
            weight[block.start + places, first + places] = value
            return
        channels = np.arange(block.source_shape[0])
        for phase in item.phases:
            ky, kx = _tap(_step(phase, before), geometry)
            earlier = (phase[0] % before.stride[0], phase[1] % before.stride[1])
            weight[block.channel(channels, phase), before.channel(channels, earlier), ky, kx] = value


def _beside_relays(tables: ir.StepTables, starts: list[int], channels: int) -> ir.StepTables:
    """Tables of a layer of `channels` that holds neurons, and copies of them, at `starts`.

    Relays get rows of 0: they keep nothing, and any spike is above their threshold.
    """
    places = np.concatenate([np.arange(start, start + len(tables.scale)) for start in starts])

    def spread(table: ir.IntArray) -> ir.IntArray:
        wide = np.zeros((len(table), channels), dtype=np.int64)
        wide[:, places] = np.tile(table, len(starts))
        return wide

    scale = np.ones(channels)
    scale[places] = np.tile(tables.scale, len(starts))
    return ir.StepTables(spread(tables.leak), tables.leak_shift, spread(tables.bias), spread(tables.threshold), scale)


def share(weight: ir.Array, copies: int, most: int) -> Iterator[ir.IntArray]:
    """The weights shared out among copies of a source, as much as possible on the first ones."""
    left = weight.astype(np.int64)
    for _ in range(copies):
        part = np.clip(left, -most, most)
        left = left - part
        yield part


def _step(phase: ir.Pair, before: _Block) -> ir.Pair:
    """Where the level before holds a phase, relative to stride times the relay's place."""
    return phase[0] // before.stride[0], phase[1] // before.stride[1]


def _tap(place: ir.Pair, geometry: dict[str, ir.Pair]) -> ir.Pair:
    padding, dilation = geometry["padding"], geometry["dilation"]
    return (place[0] + padding[0]) // dilation[0], (place[1] + padding[1]) // dilation[1]


def lower(network: ir.Network, chip: Chip, plan: Schedule) -> tuple[ir.Chain, LowerReport]:
    """Lower a 'quantized' network to a `Chain`, level by level of its schedule.

    Raises:
        ChipLimitError: a threshold is too large for the relays beside it.
    """
    source = network.input
    made = Lowering(network, chip, plan)
    made.run()
    first = made.layers[0]
    input_shape = (int(np.prod(source.shape)),) if first.kind == "dense" else source.shape
    chain = ir.Chain(
        input_shape,
        source.shape,
        source.coding,
        source.pixel_max,
        source.low,
        source.high,
        tuple(int(c) for c in source.center),
        network.timesteps,
        network.readout.kind,
        network.classes,
        tuple(made.layers),
    )
    return chain, LowerReport(tuple(made.placed), plan.levels)
