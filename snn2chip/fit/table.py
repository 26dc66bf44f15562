"""A whole network on a chip: cores and chips, what binds each layer, what does not fit and the nearest that does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from snn2chip.chip.profile import Chip
from snn2chip.fit import compiler, search
from snn2chip.fit.demand import Demand
from snn2chip.fit.placement import Limit, Placement, Use, use_of, without
from snn2chip.fit.traffic import network


@dataclass(frozen=True)
class LayerFit:
    """One layer.

    placed    by the compiler's rule; None where no core holds one of its neurons
    searched  with the fewest cores
    use       of the fullest core; where nothing is placed, what one neuron would take
    binding   the limit that divides it, or the one it comes nearest to
    problem   why it does not fit, with the nearest change that does; empty where it fits
    halving   what would halve its cores, or empty
    """

    layer: Demand
    placed: Placement | None
    searched: Placement | None
    use: Use
    binding: Limit
    problem: str
    halving: str

    @property
    def fits(self) -> bool:
        return not self.problem

    @property
    def cores(self) -> int:
        """By the compiler's rule; 0 where it cannot be placed."""
        return 0 if self.placed is None else self.placed.cores


@dataclass(frozen=True)
class Traffic:
    """The most that goes between cores at one step of the input: every neuron fires, and no value at the port is 0.

    spikes  of neurons, each once for every core with a neuron that reads it: what `routed` of a cost is at most
    input   from the port to cores, likewise
    routes  pairs of a core that sends and one that it sends to
    """

    spikes: int
    input: int
    routes: int


@dataclass(frozen=True)
class Fit:
    """A network on a chip; `cores` and `chips` are the compiler's rule's, of the layers that can be placed."""

    chip: Chip
    layers: tuple[LayerFit, ...]

    @property
    def fits(self) -> bool:
        return all(layer.fits for layer in self.layers)

    @property
    def cores(self) -> int:
        return sum(layer.cores for layer in self.layers)

    @property
    def chips(self) -> int:
        return -(-self.cores // self.chip.cores.cores.value)

    @property
    def fewest_cores(self) -> int:
        """With every layer cut as `search` finds best."""
        return sum(0 if layer.searched is None else layer.searched.cores for layer in self.layers)

    @property
    def traffic(self) -> Traffic | None:
        """None where a layer is on no core, or a convolution comes first and no input layer says its sides."""
        placed = [layer.placed for layer in self.layers if layer.placed is not None]
        if len(placed) < len(self.layers) or (placed[0].layer.kind == "conv" and len(placed[0].layer.inputs) != 3):
            return None
        _, links = network(placed)
        between = [link for link in links if link.source.placed is not None]
        outside = sum(link.axons() for link in links if link.source.placed is None)
        return Traffic(sum(link.axons() for link in between), outside, sum(link.routes() for link in between))

    @property
    def problems(self) -> tuple[str, ...]:
        return tuple(layer.problem for layer in self.layers if layer.problem)

    def as_json(self) -> dict[str, Any]:
        """As ``snn2chip fit --json`` writes it; figures of a core are the fullest's."""
        traffic = self.traffic
        return {
            "chip": self.chip.name,
            "fits": self.fits,
            "cores": self.cores,
            "chips": self.chips,
            "traffic": None if traffic is None else asdict(traffic),
            "layers": [
                {
                    "name": layer.layer.name,
                    "fits": layer.fits,
                    "cores": layer.cores,
                    "tile": None if layer.placed is None or layer.layer.kind == "dense" else list(layer.placed.tile),
                    "neurons": layer.use.neurons,
                    "axons_in": layer.use.axons_in,
                    "synaptic_words": layer.use.synaptic_words,
                    "binding": layer.binding,
                }
                for layer in self.layers
            ],
        }


def fit(layers: Sequence[Demand], chip: Chip) -> Fit:
    """Place the layers of a network, each on cores of its own."""
    before: Sequence[Demand | None] = [None, *layers[:-1]]
    return Fit(chip, tuple(_layer(layer, source, chip) for layer, source in zip(layers, before, strict=True)))


def _layer(layer: Demand, source: Demand | None, chip: Chip) -> LayerFit:
    capacity = chip.cores
    placed, searched = compiler.place(layer, capacity), search.place(layer, capacity)
    if placed is None:
        use = use_of(layer, (1, 1, 1), capacity)
        binding = use.exceeded(capacity) or use.fullest(capacity)
        return LayerFit(layer, None, searched, use, binding, _too_large(layer, source, use, binding, chip), "")
    problem = ""
    if layer.program and not chip.programmable_neurons:
        problem = (
            f"{layer.name}: {layer.program} neurons need programmable ones, which {chip.name} has not: use CUBA or "
            f"LOIHI"
        )
    elif layer.graded_bits > chip.message_bits:
        takes = f"integers of {chip.message_bits} bits" if chip.message_bits else "only spikes"
        remedy = "code the input as spikes (coding 'poisson' or 'events')"
        if source is not None:
            remedy = f"give {source.name} neurons that send spikes (CUBA or LOIHI without messageBits)"
        problem = f"{layer.name}: integers of {layer.graded_bits} bits come in, and {chip.name} takes {takes}: {remedy}"
    elif layer.steps and not chip.programmable_neurons:
        problem = (
            f"{layer.name}: neurons that change with time need programmable ones, which {chip.name} has not: "
            f"`snn2chip collapse` the network"
        )
    binding = _binding(layer, placed, chip)
    return LayerFit(layer, placed, searched, placed.fullest(capacity), binding, problem, _halving(layer, placed, chip))


def _binding(layer: Demand, placed: Placement, chip: Chip) -> Limit:
    """The limit without which the layer would take the fewest cores; of one core, the one it comes nearest to."""
    capacity = chip.cores
    use = placed.fullest(capacity)
    if placed.cores == 1:
        return use.fullest(capacity)
    names: tuple[Limit, ...] = ("neurons", "synaptic_words", "axons_in", "axons_out")

    def cores(name: Limit) -> int:
        found = compiler.place(layer, without(capacity, name))
        return placed.cores if found is None else found.cores

    return min(names, key=cores)


def _too_large(layer: Demand, source: Demand | None, use: Use, binding: Limit, chip: Chip) -> str:
    """Why not one neuron fits, and the nearest layer that does."""
    limit = getattr(chip.cores, binding).value
    value = getattr(use, binding)
    if layer.kind != "dense":
        taps = layer.kernel[0] * layer.kernel[1]
        each = max(1, use.synaptic_words // max(1, layer.inputs[0] // layer.groups)) if layer.kind == "conv" else 1
        return (
            f"{layer.name}: {layer.inputs[0] // layer.groups:,} input channels with {taps} taps take {value:,} "
            f"{_words(binding)}, over {limit:,}: at most {limit // each:,} input channels, or more groups"
        )
    named = f"{layer.name}: fan-in {value:,} exceeds {limit:,} axons"
    if binding != "axons_in":
        named = f"{layer.name}: fan-in {layer.fan_in:,} takes {value:,} {_words(binding)}, over {limit:,}"
    room = limit - layer.neurons if layer.recurrent else limit
    before = "the layer before" if source is None else source.name
    if len(layer.inputs) == 3 and room > 0:
        channels, height, width = layer.inputs
        for factor in range(2, max(height, width) + 1):
            left = channels * -(-height // factor) * -(-width // factor)
            if left <= room:
                most = room // (height * width)
                fewer = f"; or {most:,} channels instead of {channels:,}" if most else ""
                return f"{named}: stride {factor} in {before}, or pool {factor}x{factor} before it ({left:,}){fewer}"
    if room < 1:
        return f"{named}: fewer recurrent neurons"
    return f"{named}: at most {room:,} outputs of {before}"


def _words(limit: Limit) -> str:
    return limit.replace("_", " ")


def _halving(layer: Demand, placed: Placement, chip: Chip) -> str:
    """The smallest change that takes half the cores or fewer, of those that keep more than half of the layer."""
    capacity, half = chip.cores, (placed.cores + (placed.cores > 3)) // 2
    if half < 1 or layer.groups > 1:
        return ""

    def cores(changed: Demand) -> int:
        found = compiler.place(changed, capacity)
        return placed.cores if found is None else found.cores

    changes: list[tuple[int, Callable[[int], Demand], int, str]] = [
        (layer.shape[0], lambda n: replace(layer, shape=(n, *layer.shape[1:])), layer.shape[0] // 2 + 1,
         f"{{:,}} {'neurons' if len(layer.shape) == 1 else 'channels'} instead of {layer.shape[0]:,}"),
        (layer.weight_bits, lambda n: replace(layer, weight_bits=n), 1,
         f"weights of {{}} bits instead of {layer.weight_bits}"),
    ]  # fmt: skip
    for now, change, least, said in changes:
        kept = _largest(least, now - 1, lambda n, change=change: cores(change(n)) <= half)  # type: ignore[misc]
        if kept:
            few = cores(change(kept))
            return (
                f"{layer.name}: {said.format(kept)}: {few:,} core{'' if few == 1 else 's'} instead of {placed.cores:,}"
            )
    return ""


def _largest(least: int, most: int, holds: Callable[[int], bool]) -> int:
    """The largest number from `least` to `most` that holds, where those that hold come first; 0 if none does."""
    if least > most or not holds(least):
        return 0
    while least < most:
        middle = (least + most + 1) // 2
        least, most = (middle, most) if holds(middle) else (least, middle - 1)
    return least
