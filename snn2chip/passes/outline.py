"""What lowering would make of a network, as far as the room on a chip depends on it: layers without most numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from snn2chip import ir
from snn2chip.chip.profile import Chip
from snn2chip.passes.lower import Lowering, Parts, share
from snn2chip.passes.schedule import Level, Schedule, driven


@dataclass(frozen=True, eq=False)
class Outline:
    """A chain layer without most of its numbers: the room that it takes on a chip.

    weights  some of its weights: the smallest and the largest are among them, and an odd one if there is one
    steps    its neurons' constants change with time
    kernel   of a convolution, else (1, 1)
    """

    kind: ir.Kind
    shape: ir.Shape
    weights: ir.Weights
    steps: bool
    kernel: ir.Pair = (1, 1)
    stride: ir.Pair = (1, 1)
    padding: ir.Pair = (0, 0)
    dilation: ir.Pair = (1, 1)
    groups: int = 1


def outline_of(layer: ir.ChainLayer) -> Outline:
    """A chain layer's outline, all of its weights in it."""
    kernel = (layer.weight.shape[2], layer.weight.shape[3]) if layer.kind == "conv" else (1, 1)
    geometry = kernel, layer.stride, layer.padding, layer.dilation, layer.groups
    return Outline(layer.kind, layer.shape, layer.weight, layer.steps is not None, *geometry)


class _Outlining(Lowering):
    """The same of a folded network, of which but some integers are known: see `outline`."""

    def __init__(
        self,
        network: ir.Network,
        chip: Chip,
        plan: Schedule,
        units: Mapping[str, ir.CubaNeuron],
        weights: Mapping[str, ir.IntArray],
    ) -> None:
        super().__init__(network, chip, plan)
        self.units, self.weights = units, weights
        self.outlines: list[Outline] = []

    def _unit(self, level: Level) -> ir.CubaNeuron:
        return replace(self.units[level.neuron], name=driven(self.network, level).name)

    def _integers(self, level: Level) -> list[ir.Array]:
        return [self.weights[synapse.name] for synapse in self.network.synapses_of(driven(self.network, level))]

    def _alone(self, parts: Parts, synapse: ir.Synapse) -> None:
        conv = isinstance(synapse, ir.Conv)
        kernel = (synapse.weight.shape[2], synapse.weight.shape[3]) if conv else (1, 1)
        geometry = kernel, synapse.stride, synapse.padding, synapse.dilation, synapse.groups
        kind: ir.Kind = "conv" if conv else "dense"
        steps = parts.unit.steps is not None
        self.outlines.append(Outline(kind, parts.shape, self.weights[synapse.name], steps, *geometry))

    def _joined(self, parts: Parts, level: Level) -> None:
        geometry, most = self._geometry(level), self._most(level, parts.relay[0])
        held = [np.array([0, parts.relay[0]])]
        for weight, copies in zip(self._integers(level), level.reads, strict=True):
            held += [part.ravel() for part in share(weight, copies, most)]
        kind: ir.Kind = "conv" if geometry else "dense"
        shape, steps = (parts.channels, *parts.shape[1:]), parts.unit.steps is not None
        self.outlines.append(Outline(kind, shape, np.concatenate(held), steps, **geometry))


def outline(
    network: ir.Network,
    chip: Chip,
    plan: Schedule,
    units: Mapping[str, ir.CubaNeuron],
    weights: Mapping[str, ir.IntArray],
) -> tuple[Outline, ...]:
    """What `lower` would make of a 'folded' network that is quantized to these `units`, by neuron or readout, and to
    `weights`, of which some of each synapse are given: the smallest, the largest, and an odd one if there is one.

    Raises:
        ChipLimitError: a threshold is too large for the relays beside it.
    """
    made = _Outlining(network, chip, plan, units, weights)
    made.run()
    return tuple(made.outlines)
