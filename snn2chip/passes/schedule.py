"""Which netx layer computes what: one level of neurons after another, and relays for what skips a level.

netx loads one chain, so a neuron can only read the level right before its own. Every layer of neurons gets a level,
in the order in which the network names them, and spikes that are needed later are passed on by relay neurons (see
`snn2chip.chip.relay`) that share each level's convolution: ``[LIF(conv x), relay(y)]``.

A level with a stride sees its input only at every stride-th pixel. A relay in it therefore holds, for each
channel c, one channel for every phase (a, b) that a later layer reads: channel ``c P + k`` at (i, j) holds
``source[c, S i + a_k, S j + b_k]``, S the product of the strides that it has passed. A 1x1 shortcut of stride 2
needs one phase, a 2x2 pooled one all four. The later convolution is rewritten to read phases; its stride is
divided by S.

Where branches meet, their weights share one scale, and the largest of all sets it. A tdBN on an identity shortcut has
weights of the size of the threshold itself, many times those of the convolution it meets, which would be left with
few bits. So such a synapse may read several copies of its relay, each with a part of the weight: `Level.reads`.

One level for each layer of neurons keeps every layer's own threshold and leak. Branches that run side by side could
share one, at the price of a common threshold.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

import numpy as np

from snn2chip import ir
from snn2chip.chip import relay
from snn2chip.chip.profile import DECAY_ONE, Chip
from snn2chip.choices import Relays as Relays
from snn2chip.errors import UnsupportedError

RELAYS: tuple[Relays, ...] = get_args(Relays)
_COPIES: dict[Relays, tuple[int, ...]] = {
    "auto": (1, 2, 4),
    "plain": (1,),
    "bias": (1,),
    "double": (2,),
    "quadruple": (4,),
}
_ALL = (1, 2, 4)
_WORTH = 4  # 'auto' takes more copies where relays would cost the layer more than two bits of its weights


@dataclass(frozen=True)
class Relay:
    """Spikes of `source` as one level passes them on; `hop` counts the levels since the source's.

    `stride` and `phases` say which pixels it holds, as above, `grid` how many of each phase; `shape` is (C P, H, W), or
    flat after a dense level. `covers` is how many rows and columns of the source reach it: a smaller level on the way
    lets nothing beyond it through.
    """

    source: str
    hop: int
    stride: ir.Pair
    phases: tuple[ir.Pair, ...]
    grid: ir.Pair
    shape: ir.Shape
    covers: ir.Pair

    @property
    def name(self) -> str:
        """Its name in `origin`, in reports and in `verify`."""
        return f"{self.source}.relay{self.hop}"


@dataclass(frozen=True)
class Level:
    """One netx layer: a layer of neurons (or the accumulating readout) and the relays beside it.

    stride       of its convolution, in pixels of the level before it; None for a dense level
    grid         height and width; None for a dense level
    copies       how many copies of its source every relay of this level reads
    reads        how many copies of its source each synapse of the neurons reads, in the order of
                 `Network.synapses_of`; the weights are shared out among them
    limit        largest threshold at which its relays are exact, with the chip's largest weight; None without any
    wanted       threshold that the largest weight alone would allow
    """

    neuron: str
    stride: ir.Pair | None
    grid: ir.Pair | None
    relays: tuple[Relay, ...]
    copies: int
    reads: tuple[int, ...]
    limit: int | None
    wanted: int


@dataclass(frozen=True)
class Schedule:
    """All levels in order; the input is not one of them. `relays` is the way they were chosen."""

    levels: tuple[Level, ...]
    relays: Relays

    def level_of(self, neuron: str) -> Level:
        """The level of a layer of neurons."""
        return next(level for level in self.levels if level.neuron == neuron)

    @property
    def with_bias(self) -> bool:
        """Whether relays may have a bias."""
        return self.relays != "plain"


class _Grids:
    """Strides and sizes of the levels so far; what a source's pixels have become at each."""

    def __init__(self, network: ir.Network) -> None:
        self.network = network
        self.place = {network.input.name: 0}
        self.strides: list[ir.Pair | None] = [(1, 1)]
        self.sizes: list[ir.Pair | None] = [_image(network.shape(network.input.name))]

    def passed(self, source: str, level: int) -> ir.Pair:
        """Source pixels between neighbouring pixels of `level`."""
        stride = (1, 1)
        for between in self.strides[self.place[source] + 1 : level + 1]:
            if between is not None:
                stride = (stride[0] * between[0], stride[1] * between[1])
        return stride

    def add(self, neuron: str) -> None:
        """Give `neuron` the next level."""
        network, level = self.network, len(self.strides)
        found: dict[ir.Pair | None, str] = {}
        for synapse in network.synapses_of(network[neuron]):
            source = network.source_of(synapse).name
            if isinstance(synapse, ir.Dense):
                found[None] = synapse.name
                continue
            dense = [n for n, size in self.place.items() if size > self.place[source] and self.sizes[size] is None]
            if dense:
                raise UnsupportedError(
                    f"layer '{synapse.name}': a convolution of '{source}' across the dense layer '{dense[0]}' has no "
                    f"place in a chain; put the dense layer after it"
                )
            passed = self.passed(source, level - 1)
            if synapse.stride[0] % passed[0] or synapse.stride[1] % passed[1]:
                raise UnsupportedError(
                    f"layer '{synapse.name}': stride {synapse.stride} from '{source}', while the layers between them "
                    f"have a stride of {passed} together; give both ways the same stride"
                )
            found[synapse.stride[0] // passed[0], synapse.stride[1] // passed[1]] = synapse.name
        if len(found) > 1:
            said = ", ".join(f"'{name}' {stride}" for stride, name in found.items())
            raise UnsupportedError(
                f"layer '{neuron}': strides that do not meet, counted from the layer before it: {said}; give all ways "
                f"to it the same stride"
            )
        self.place[neuron] = level
        self.strides.append(next(iter(found)))
        self.sizes.append(_image(network.shape(neuron)))


def _image(shape: ir.Shape) -> ir.Pair | None:
    return (shape[1], shape[2]) if len(shape) == 3 else None


def _ends(network: ir.Network) -> list[str]:
    """Every layer of neurons in order, and the readout if it is a layer of its own."""
    names = [node.name for node in network.nodes if isinstance(node, (ir.LIF, ir.CubaNeuron))]
    return [*names, network.readout.name] if network.readout.kind == "membrane" else names


def _pixels(synapse: ir.Synapse, shape: ir.Shape, out: ir.Shape) -> tuple[set[ir.Pair], ir.Pair]:
    """The (row, column) offsets with weights that a synapse reads, and the last row and column of all it reads."""
    if isinstance(synapse, ir.Dense):
        height, width = shape[1:] if len(shape) == 3 else (1, 1)
        return {(y, x) for y in range(height) for x in range(width)}, (height - 1, width - 1)
    used = np.argwhere(np.abs(synapse.weight).sum((0, 1)) > 0)
    rows, columns = ir.taps(synapse, 0), ir.taps(synapse, 1)
    places = {(rows[i], columns[j]) for i, j in used.tolist()}
    last = []
    for axis in range(2):
        reach = [synapse.stride[axis] * (out[1 + axis] - 1) + place[axis] for place in places]
        inside = [min(pixel, shape[1 + axis] - 1) for pixel in reach]
        last.append(max(inside, default=0))
    return places, (last[0], last[1])


def _needs(network: ir.Network, grids: _Grids) -> dict[int, dict[str, set[ir.Pair]]]:
    """Level -> source -> the phases that relays there must hold."""
    needs: dict[int, dict[str, set[ir.Pair]]] = {level: {} for level in range(len(grids.strides))}
    for neuron, level in list(grids.place.items())[1:]:
        for synapse in network.synapses_of(network[neuron]):
            node = network.source_of(synapse)
            source, first = node.name, grids.place[node.name] + 1
            if first > level - 1 or not synapse.weight.any():  # gamma 0: nothing is read
                continue
            if isinstance(node, ir.Input) and not node.binary:
                raise UnsupportedError(
                    f"layer '{synapse.name}': a shortcut from the input itself, whose values {node.low}..{node.high} "
                    f"no spike can carry; put a convolution with a neuron before the block"
                )
            places, last = _pixels(synapse, network.shape(source), network.shape(synapse.name))
            for between in range(level - 1, first - 1, -1):
                stride = grids.passed(source, between)
                needs[between].setdefault(source, set()).update((y % stride[0], x % stride[1]) for y, x in places)
                _covered(synapse.name, source, between, grids, stride, last)
    return needs


def _covered(synapse: str, source: str, level: int, grids: _Grids, stride: ir.Pair, last: ir.Pair) -> None:
    """Refuse a relay over a level that is too small for what a later layer reads."""
    size = grids.sizes[level]
    if size is None:
        return
    for axis, name in enumerate(("row", "column")):
        if last[axis] // stride[axis] >= size[axis]:
            between = next(neuron for neuron, place in grids.place.items() if place == level)
            raise UnsupportedError(
                f"layer '{synapse}': it reads {name} {last[axis]} of '{source}', and '{between}' between them covers "
                f"only {size[axis] * stride[axis]} of them; give the layers between more padding"
            )


def _relay(network: ir.Network, grids: _Grids, source: str, level: int, phases: set[ir.Pair]) -> Relay:
    shape = network.shape(source)
    stride = grids.passed(source, level)
    grid = covers = (1, 1)
    if len(shape) == 3:
        grid = covers = (shape[1], shape[2])
        for place in range(grids.place[source] + 1, level + 1):
            size, step = grids.sizes[place], grids.passed(source, place)
            if size is not None:
                grid = size
                covers = (min(covers[0], size[0] * step[0]), min(covers[1], size[1] * step[1]))
        channels = shape[0] * len(phases)
        flat = grids.sizes[level] is None
        shape = (channels * grid[0] * grid[1],) if flat else (channels, *grid)
    return Relay(source, level - grids.place[source], stride, tuple(sorted(phases)), grid, shape, covers)


def schedule(network: ir.Network, chip: Chip, relays: Relays = "auto") -> Schedule:
    """Give every layer of neurons of a 'folded' network its netx layer, and find the relays.

    `relays`: 'plain' (a weight alone: thresholds up to 253), 'bias' (`snn2chip.chip.relay`), 'double' and 'quadruple'
    (bias, and relays, and shortcuts that read relays, read two or four copies, whose neurons are computed as often),
    'auto' (bias, and as many copies as keep the loss of weight precision within two bits).

    Raises:
        UnsupportedError: strides or shapes that cannot meet in one chain, or a shortcut from a graded input; named.
    """
    grids = _Grids(network)
    for neuron in _ends(network):
        grids.add(neuron)
    needs = _needs(network, grids)
    levels = []
    for neuron, level in list(grids.place.items())[1:]:
        found = tuple(_relay(network, grids, source, level, phases) for source, phases in needs[level].items())
        reads = _reads(network, grids, neuron, level, chip, relays)
        wanted, limits = _thresholds(network, neuron, reads, chip, relays)
        unit = network[neuron]
        if found and isinstance(unit, ir.LIF) and unit.current_tau:
            past = ", ".join(f"'{item.source}'" for item in found)
            raise UnsupportedError(
                f"layer '{neuron}': its current decays, so that relays of {past}, which later layers read past it and "
                f"which share its constants, would fire again and again; use neurons without a current_tau there, or "
                f"no shortcut"
            )
        copies = 1
        if found and not any(grids.place[item.source] == 0 for item in found):  # an input has no copies
            options = _COPIES[relays]
            exact = _fitting(network, neuron, chip, relays) if network.integers else None
            enough = [n for n in options if (exact(n) if exact else limits[n] * _WORTH >= wanted)]
            copies = enough[0] if enough else options[-1]
        levels.append(
            Level(
                neuron,
                grids.strides[level],
                grids.sizes[level],
                found,
                copies,
                reads,
                limits[copies] if found else None,
                wanted,
            )
        )
    return Schedule(tuple(levels), relays)


def _largest(synapse: ir.Synapse) -> float:
    return float(np.abs(synapse.weight).max(initial=0))


def _even(network: ir.Network, neuron: str) -> bool:
    return not any((item.weight % 2).any() for item in network.synapses_of(network[neuron]))


def _fitting(network: ir.Network, neuron: str, chip: Chip, relays: Relays) -> Callable[[int], bool]:
    """Whether relays of so many copies are exact beside neurons that are integers already."""
    node = network[neuron]
    if not isinstance(node, ir.LIF):
        return lambda _: True
    decay, even = int(np.rint((1 - node.tau) * DECAY_ONE)), _even(network, neuron)
    with_bias = relays != "plain"
    return lambda n: relay.choose(int(node.threshold), decay, n, chip, even=even, with_bias=with_bias) is not None


def _reads(network: ir.Network, grids: _Grids, neuron: str, level: int, chip: Chip, relays: Relays) -> tuple[int, ...]:
    """How many copies of its source each synapse of a neuron reads: of relays, where its weights are larger."""
    synapses = network.synapses_of(network[neuron])
    main = max(synapses, key=lambda item: item.weight[0].size)  # the most inputs: the smallest weights
    found = []
    for synapse in synapses:
        place = grids.place[network.source_of(synapse).name]
        copies = 1
        if synapse is not main and 0 < place < level - 1:  # a relay, and not of an input, which has no copies
            options = _COPIES[relays]
            most, worth = max(_largest(main), 1e-12), _WORTH
            if network.integers:  # as many as hold the weights
                most, worth = chip.weight_max if _even(network, neuron) else chip.weight_odd_max, 1
            copies = next((n for n in options if n * worth * most >= _largest(synapse)), options[-1])
        found.append(copies)
    return tuple(found)


def _thresholds(
    network: ir.Network, neuron: str, reads: tuple[int, ...], chip: Chip, relays: Relays
) -> tuple[int, dict[int, int]]:
    """The threshold that a layer's largest weight would allow, and what relays allow by number of copies."""
    node = network[neuron]
    if not isinstance(node, ir.LIF) or node.steps is not None:  # a relay beside tables has a row of its own in them
        return chip.threshold_max, dict.fromkeys(_ALL, chip.threshold_max)
    largest = max(_largest(item) / n for item, n in zip(network.synapses_of(node), reads, strict=True))
    wanted = min(chip.threshold_max, int(chip.weight_max / max(largest, 1e-12) * node.threshold))
    decay = int(np.rint((1 - node.tau) * DECAY_ONE))
    bias_max = 0 if relays == "plain" else chip.bias_max
    limits = {n: relay.largest_threshold(decay, n * chip.weight_max, bias_max) for n in _ALL}
    return wanted, limits


def copies_after(network: ir.Network, plan: Schedule, index: int) -> dict[str, int]:
    """How many copies the level of this index must hold of every source that the next level reads."""
    if index + 1 >= len(plan.levels):
        return {}
    after = plan.levels[index + 1]
    wanted = {item.source: after.copies for item in after.relays}
    for synapse, copies in zip(network.synapses_of(driven(network, after)), after.reads, strict=True):
        source = network.source_of(synapse).name
        wanted[source] = max(copies, wanted.get(source, 1))
    return wanted


def driven(network: ir.Network, level: Level) -> ir.Node:
    """The neurons of a level: its layer's, or in a quantized network the readout's accumulator."""
    node = network[level.neuron]
    before = network[node.inputs[0]]
    return before if isinstance(node, ir.Readout) and isinstance(before, ir.CubaNeuron) else node
