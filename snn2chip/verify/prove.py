"""A chain against its quantized network for every input: a proof by comparing what they compute, not by running them.

The chain is walked from the port on, and of each of its neurons it is shown whose spikes it repeats. A claim of the
file's `origin` is believed of nothing but which layer of neurons to hold a block against; of the schedule and of
`snn2chip.passes.lower` nothing is used.

- The port repeats the network's input, if centre, range and shape are the same.
- A neuron computes ``sum over k of w[k] s[k] + bias``, s[k] the spikes that the chain layer before repeats at the k-th
  place of its kernel; what lies outside of it, or never fires, is nothing. If that is the network's own sum for this
  neuron, term for term, and bias, threshold, decays and tables are the same, both fire at the same steps with the same
  membranes.
- A relay's sum is ``W s`` with one source's spikes. From its states at rest all that it can reach, with and without a
  spike, are walked in the chip's integers, at every step of its tables if it has some: it must fire with the spike,
  and never else.

A sum is compared by columns: a channel under one place of the kernel, with what it is at every pixel. Columns that
are the same at every pixel are one; where weights still differ, sums are compared pixel by pixel.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from snn2chip import ir

NOTHING = -1  # outside of an image, or a neuron that never fires
MOST_STATES = 1 << 20  # of a relay
_ROWS = 64  # channels compared together


@dataclass(frozen=True)
class Proof:
    """Whether a chain does what its network does, for every input; if not, where and why.

    layers, relays  layers of neurons held against the chain, copies included, and relays
    place, reason   layer and neuron of the first difference, and what it is; None and empty where there is none
    """

    holds: bool
    layers: int
    relays: int
    place: tuple[str, list[int]] | None = None
    reason: str = ""


class _DifferenceError(Exception):
    """The first difference: layer, neuron, and what it is."""

    def __init__(self, layer: str, neuron: Sequence[int], reason: str) -> None:
        super().__init__(reason)
        self.place = (layer, [int(index) for index in neuron])


@dataclass
class _Columns:
    """Every column met in one layer: its bytes (what it is at every pixel) -> its number."""

    pixels: int
    numbers: dict[bytes, int] = field(default_factory=dict)

    def of(self, reads: ir.IntArray) -> ir.IntArray:
        """Numbers of columns (K, pixels); NOTHING for those that are nothing at every pixel."""
        live = (reads != NOTHING).any(1)
        found = np.full(len(reads), NOTHING)
        for k in np.flatnonzero(live):
            found[k] = self.numbers.setdefault(reads[k].tobytes(), len(self.numbers))
        return found

    def at(self, columns: ir.IntArray) -> ir.IntArray:
        """What these columns are, (K, pixels)."""
        known = list(self.numbers)
        together = b"".join(known[column] for column in columns)
        return np.frombuffer(together, dtype=np.int64).reshape(len(columns), self.pixels)

    def sums(self, weight: ir.IntArray, columns: ir.IntArray) -> ir.IntArray:
        """Weights (R, K) of columns (K,), added up by column: (R, all columns)."""
        total = np.zeros((len(weight), len(self.numbers)), dtype=np.int64)
        kept = np.flatnonzero(columns != NOTHING)
        if len(kept):
            kept = kept[np.argsort(columns[kept], kind="stable")]
            starts = np.flatnonzero(np.diff(columns[kept], prepend=NOTHING))
            total[:, columns[kept][starts]] = np.add.reduceat(weight[:, kept], starts, axis=1)
        return total


Sums = tuple[ir.IntArray, ir.IntArray]  # weights (R, K) and the columns (K,) that they multiply


def _terms(of: ir.Synapse | ir.ChainLayer, shape: ir.Shape, spikes: ir.IntArray, columns: _Columns) -> Sums:
    """The sums of a synapse or a chain layer with neurons of `shape` that reads `spikes` (whose they are)."""
    weight = of.weight.astype(np.int64, copy=False)
    if weight.ndim == 2:
        used = weight.any(0)
        return weight[:, used], columns.of(spikes.reshape(-1, 1)[used])
    outputs, per_group, high, wide = weight.shape
    (py, px), (sy, sx), (dy, dx) = of.padding, of.stride, of.dilation
    padded = np.pad(spikes, ((0, 0), (py, py), (px, px)), constant_values=NOTHING)
    weights, numbers = [], []
    for y, x in np.ndindex(high, wide):
        ends = y * dy + (shape[1] - 1) * sy + 1, x * dx + (shape[2] - 1) * sx + 1
        window = padded[:, y * dy : ends[0] : sy, x * dx : ends[1] : sx].reshape(len(spikes), -1)
        whole = np.zeros((outputs, len(spikes)), dtype=np.int64)
        for group in range(of.groups):
            rows = slice(group * outputs // of.groups, (group + 1) * outputs // of.groups)
            whole[rows, group * per_group : (group + 1) * per_group] = weight[rows, :, y, x]
        used = whole.any(0)
        weights.append(whole[:, used])
        numbers.append(columns.of(window[used]))
    return np.concatenate(weights, 1), np.concatenate(numbers)


def _toward_zero(value: int, factor: int, shift: int) -> int:
    size = abs(value) * factor >> shift
    return size if value >= 0 else -size


@dataclass(frozen=True)
class _Unit:
    """One neuron of a chain layer in plain integers, over a single input: its weight times a spike."""

    weight: int
    bias: int
    current_decay: int
    steps: tuple[tuple[int, int, int, int], ...]  # leak, its shift, what is added, threshold; the last goes on

    def run(self, state: tuple[int, int], step: int, spike: int) -> tuple[tuple[int, int], bool]:
        """(u, v) and a spike to (u, v after reset) and whether it fires."""
        leak, shift, lift, threshold = self.steps[min(step, len(self.steps) - 1)]
        u = _toward_zero(state[0], 4096 - self.current_decay, 12) + 64 * self.weight * spike
        u += (u <= -(2**23)) * 2**24 - (u > 2**23) * 2**24
        v = _toward_zero(state[1], leak, shift) + u + 64 * self.bias + lift
        v = max(-(2**23) + 1, min(2**23 - 1, v))
        return (u, 0 if v > threshold else v), v > threshold

    def fails(self, spikes: Sequence[int]) -> str:
        """How it does not repeat its source, which gives `spikes` in any order; empty if it repeats it for ever."""
        states, known = {(0, 0)}, {(0, 0)}
        step = 0
        while states:
            reached = set()
            for state in states:
                for spike in spikes:
                    after, fired = self.run(state, step, spike)
                    if fired != bool(spike):
                        return (
                            f"{'fires without' if fired else 'does not fire at'} a spike, with a membrane of {state[1]}"
                        )
                    reached.add(after)
            step += 1
            if len(self.steps) == 1:  # the same at every step: a state needs no second look
                states = reached - known
                known |= reached
            else:
                states = reached if step < len(self.steps) else set()
            if max(len(known), len(states)) > MOST_STATES:
                return f"can reach more than {MOST_STATES} states"
        return ""


class _Walk:
    """The chain, layer after layer: whose spikes each neuron of the last one repeats."""

    def __init__(self, network: ir.Network, chain: ir.Chain) -> None:
        self.network, self.chain = network, chain
        self.neurons = {node.name: node for node in network.of(ir.CubaNeuron)}
        self.names = [network.input.name, *self.neurons]
        sizes = [int(np.prod(network.shape(name))) for name in self.names]
        self.starts = np.cumsum([0, *sizes])
        self.layers = self.relays = 0
        self.found: dict[str, int] = {}  # layer of neurons -> which chain layer holds it
        self.exact: set[tuple[_Unit, tuple[int, ...]]] = set()  # relays proved so far

    def spikes_of(self, name: str) -> ir.IntArray:
        """A number for each neuron (or pixel of the input) of the network, in its layer's shape."""
        place = self.names.index(name)
        numbers: ir.IntArray = np.arange(self.starts[place], self.starts[place + 1])
        return numbers.reshape(self.network.shape(name))

    def who(self, number: int) -> tuple[str, list[int]]:
        """Layer and neuron of a number."""
        place = int(np.searchsorted(self.starts, number, side="right")) - 1
        name = self.names[place]
        index = np.unravel_index(number - self.starts[place], self.network.shape(name))
        return name, [int(i) for i in index]

    def port(self) -> ir.IntArray:
        """The port: what the network and the chain say of input, time and readout must be the same."""
        network, chain = self.network, self.chain
        source, readout = network.input, network.readout
        center = tuple(int(c) for c in np.broadcast_to(chain.center, np.shape(source.center)))
        for what, wanted, found in (
            ("shape", source.shape, chain.raw_shape),
            ("range", (source.low, source.high), (chain.low, chain.high)),
            ("centre", tuple(source.center.tolist()), center),
            ("timesteps", network.timesteps, chain.timesteps),
            ("readout", readout.kind, chain.readout),
        ):
            if wanted != found:
                raise _DifferenceError("input", [], f"{what} {found} in the chain, {wanted} in the network")
        return self.spikes_of(source.name).reshape(chain.input_shape)

    def layer(self, place: int, layer: ir.ChainLayer, before: ir.IntArray) -> ir.IntArray:
        """Whose spikes a chain layer repeats, given those of the one before; NOTHING where it never fires."""
        columns = _Columns(int(np.prod(layer.shape[1:])))
        terms = _terms(layer, layer.shape, before, columns)
        repeats = np.full(layer.shape, NOTHING)
        end = 0
        for name, (start, stop) in sorted(layer.origin.items(), key=lambda item: item[1]):
            original = name if name in self.neurons else name.rpartition(".copy")[0] or name
            rows = slice(start, stop)
            if start != end:
                raise _DifferenceError(name, [], f"it begins at channel {start} of chain layer {layer.name}, not {end}")
            end = stop
            if original in self.neurons:
                self.found.setdefault(original, place)
                self._neurons(original, layer, rows, terms, columns)
                repeats[rows] = self.spikes_of(original)
                self.layers += 1
            else:
                repeats[rows] = self._relay(place, original, layer, rows, terms, columns)
                self.relays += 1
        if end != layer.shape[0]:
            raise _DifferenceError(
                layer.name, [end], f"what channels {end}.. of chain layer {layer.name} hold is not said"
            )
        return repeats

    def _neurons(self, name: str, layer: ir.ChainLayer, rows: slice, terms: Sums, columns: _Columns) -> None:
        """Hold a block of a chain layer against a layer of neurons."""
        network, unit, shape = self.network, self.neurons[name], self.network.shape(name)
        if (rows.stop - rows.start, *layer.shape[1:]) != shape:
            raise _DifferenceError(
                name, [], f"{shape} neurons, and channels {rows.start}..{rows.stop - 1} in the chain"
            )
        for what, wanted, found in self._numbers(unit, layer, rows):
            bad = np.argwhere(wanted != found) if wanted.shape == found.shape else np.zeros((1, 0), dtype=np.int64)
            if len(bad):
                at = tuple(bad[0])
                said = f"{found[at]} in the chain, {wanted[at]} in the network" if at else "of another size"
                raise _DifferenceError(name, bad[0], f"{what} {said}")
        bias = np.zeros(shape, dtype=np.int64)
        weights, reads = [], []
        for synapse in network.synapses_of(unit):
            if synapse.bias is not None:
                bias += synapse.bias.astype(np.int64).reshape(
                    *synapse.bias.shape, *(1,) * (len(shape) - synapse.bias.ndim)
                )
            weight, numbers = _terms(synapse, shape, self.spikes_of(network.source_of(synapse).name), columns)
            weights.append(weight)
            reads.append(numbers)
        for at in np.argwhere(bias != layer.bias[rows])[:1]:
            found = layer.bias[rows][tuple(at)]
            raise _DifferenceError(name, at, f"bias {found} in the chain, {bias[tuple(at)]} in the network")
        wanted, numbers = np.concatenate(weights, 1), np.concatenate(reads)
        for first in range(0, len(wanted), _ROWS):
            part = slice(first, min(first + _ROWS, len(wanted)))
            mine = terms[0][rows.start + part.start : rows.start + part.stop]
            here, there = columns.sums(mine, terms[1]), columns.sums(wanted[part], numbers)
            for channel, pixel, source, more in self._unequal(here - there, columns):
                layer_of, index = self.who(source)
                neuron = self._index(layer, first + channel, pixel)
                raise _DifferenceError(
                    name, neuron, f"weight of {index} of '{layer_of}' differs by {more} in the chain"
                )

    @staticmethod
    def _unequal(difference: ir.IntArray, columns: _Columns) -> Iterator[tuple[int, int, int, int]]:
        """(channel, pixel, source, by how much) where columns with these weights (R, columns) do not add up to 0."""
        used = np.flatnonzero(difference.any(0))
        if not len(used):
            return
        reads = columns.at(used)
        for pixel in range(columns.pixels):
            sources, place = np.unique(reads[:, pixel], return_inverse=True)
            total = np.zeros((len(difference), len(sources)), dtype=np.int64)
            np.add.at(total.T, place, difference[:, used].T)
            total[:, sources == NOTHING] = 0
            for channel, source in np.argwhere(total):
                yield int(channel), pixel, int(sources[source]), int(total[channel, source])

    @staticmethod
    def _numbers(
        unit: ir.CubaNeuron, layer: ir.ChainLayer, rows: slice
    ) -> Iterator[tuple[str, ir.IntArray, ir.IntArray]]:
        """The constants of neurons, in the network and in the chain."""
        yield "current decay", np.array([unit.current_decay]), np.array([layer.current_decay])
        if unit.steps is None or layer.steps is None:
            yield "tables of each step", np.array([unit.steps is not None]), np.array([layer.steps is not None])
            yield "voltage decay", np.array([unit.voltage_decay]), np.array([layer.voltage_decay])
            yield "threshold", np.array([unit.threshold]), np.array([layer.threshold])
            return
        yield "leak shift", np.array([unit.steps.leak_shift]), np.array([layer.steps.leak_shift])
        for what in ("leak", "bias", "threshold"):
            yield f"{what} of a step", getattr(unit.steps, what), getattr(layer.steps, what)[:, rows]

    def _relay(
        self, place: int, name: str, layer: ir.ChainLayer, rows: slice, terms: Sums, columns: _Columns
    ) -> ir.IntArray:
        """Whose spikes a block of relays repeats; NOTHING where they never fire."""
        source, _, hop = name.rpartition(".relay")
        levels = {self.network.input.name: -1, **self.found}
        if source not in levels or hop != str(place - levels[source]):
            raise _DifferenceError(name, [], f"chain layer {layer.name} holds it, and no such relay belongs there")
        sums = columns.sums(terms[0][rows], terms[1])
        own = self.spikes_of(source)
        low, high = self.network.input.port_range()
        binary = source in self.found or not (low.any() or (high != 1).any())
        repeats = np.full((len(sums), columns.pixels), NOTHING)
        biases = layer.bias[rows].reshape(repeats.shape)
        for channel, row in enumerate(sums):
            reads = np.flatnonzero(row)
            found = columns.at(reads)
            repeats[channel] = found[0] if len(found) == 1 else NOTHING
            # one column of the right source: anything else is named by the first neuron that reads it
            for pixel in np.flatnonzero(((found != NOTHING) & ((found < own.min()) | (found > own.max()))).any(0))[:1]:
                strange = next(int(n) for n in found[:, pixel] if not own.min() <= n <= own.max() and n != NOTHING)
                raise _DifferenceError(
                    name, self._index(layer, channel, pixel), "it reads {1} of '{0}'".format(*self.who(strange))
                )
            if len(reads) > 1 or not binary:
                what = f"it reads {len(reads)} neurons" if binary else "values of the input are no spikes"
                raise _DifferenceError(name, self._index(layer, channel, 0), what)
            weight, numbers = int(row.sum()), self._steps(layer, rows.start + channel)
            for bias in np.unique(biases[channel]):
                mine = np.flatnonzero(biases[channel] == bias)
                unit = _Unit(weight, int(bias), layer.current_decay, numbers)
                spikes = (0, 1) if (repeats[channel, mine] != NOTHING).any() else (0,)
                if (unit, spikes) not in self.exact and (failed := unit.fails(spikes)):
                    index = self._index(layer, channel, int(mine[0]))
                    raise _DifferenceError(name, index, f"the relay {failed}: weight {weight}, bias {bias}")
                self.exact.add((unit, spikes))
        return repeats.reshape(len(sums), *layer.shape[1:])

    @staticmethod
    def _index(layer: ir.ChainLayer, channel: int, pixel: int) -> list[int]:
        """A neuron by its channel in a block and its pixel."""
        return [channel, *(int(i) for i in np.unravel_index(pixel, layer.shape[1:]))] if layer.shape[1:] else [channel]

    @staticmethod
    def _steps(layer: ir.ChainLayer, row: int) -> tuple[tuple[int, int, int, int], ...]:
        """What `_Unit` needs of each step of a channel's neurons."""
        tables = layer.steps
        if tables is None:
            return ((4096 - layer.voltage_decay, 12, 0, 64 * layer.threshold),)
        leak, lift, threshold = (table[:, row].tolist() for table in (tables.leak, tables.bias, tables.threshold))
        return tuple((a, tables.leak_shift, b, c) for a, b, c in zip(leak, lift, threshold, strict=True))


def prove(network: ir.Network, chain: ir.Chain) -> Proof:
    """Prove that a chain does what a 'quantized' network does at every step of every input, or name where it does not.

    The same for both: spikes and membranes of every layer of neurons, and the scores.
    """
    walk = _Walk(network, chain)
    place, reason = None, ""
    try:
        before = walk.port()
        for number, layer in enumerate(chain.layers):
            before = walk.layer(number, layer, before)
        last = network.source_of(network.readout).name
        if list(chain.layers[-1].origin) != [last]:
            raise _DifferenceError(last, [], "the readout's neurons are not all of the last chain layer")
        for name in walk.neurons:
            if name not in walk.found:
                raise _DifferenceError(name, [], "no chain layer holds it")
    except _DifferenceError as found:
        place, reason = found.place, str(found)
    return Proof(place is None, walk.layers, walk.relays, place, reason)
