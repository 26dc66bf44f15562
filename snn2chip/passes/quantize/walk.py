"""Every neuron of a folded network in turn, and what is taken for it without calibration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from snn2chip import ir
from snn2chip.chip.bounds import BINARY
from snn2chip.chip.profile import Chip
from snn2chip.errors import ChipLimitError
from snn2chip.passes.quantize.bntt_layer import StepQuantizer
from snn2chip.passes.quantize.candidate import Candidate
from snn2chip.passes.quantize.layer import ACCUMULATOR, LayerQuantizer
from snn2chip.passes.quantize.report import Strategy
from snn2chip.passes.schedule import Schedule

Job = LayerQuantizer | StepQuantizer


class Walk:
    """Every neuron of a folded network in turn, with what drives it; and the quantized nodes so far."""

    def __init__(
        self, network: ir.Network, chip: Chip, plan: Schedule | None, bits: Mapping[str, int] | None = None
    ) -> None:
        self.network, self.chip, self.plan, self.bits = network, chip, plan, bits or {}
        self.done: dict[str, ir.Node] = {network.input.name: network.input}

    def jobs(self) -> Iterator[tuple[ir.Node, Job]]:
        """`ends`, each with its quantizer."""
        for node in self.ends():
            yield node, self.job(node)

    def ends(self) -> Iterator[ir.Node]:
        """Neurons, and the readout if it accumulates."""
        for node in self.network.nodes:
            if isinstance(node, ir.LIF) or (isinstance(node, ir.Readout) and self.network.readout.kind == "membrane"):
                yield node

    def job(self, node: ir.Node, sample: list[ir.Synapse] | None = None) -> Job:
        """The quantizer of a neuron or the readout; with `sample`, of those weights alone."""
        network, plan = self.network, self.plan
        synapses = network.synapses_of(node) if sample is None else sample
        sources = [network.source_of(item) for item in synapses]
        bounds = [item.port_range() if isinstance(item, ir.Input) else BINARY for item in sources]
        shape = network.shape(synapses[0].name)
        level = plan.level_of(node.name) if plan else None
        chip = self.chip.at_input if any(isinstance(item, ir.Input) for item in sources) else self.chip
        if isinstance(node, ir.LIF) and node.steps is not None:
            return StepQuantizer(synapses, bounds, node, node.inputs[0], shape, self.chip, level)
        made = LayerQuantizer(
            synapses,
            bounds,
            node if isinstance(node, ir.LIF) else None,
            node.inputs[0],
            shape,
            network.timesteps,
            chip.with_weight_bits(self.bits.get(synapses[0].name)),
            level,
            plan.with_bias if plan else True,
            repeats=network.input.coding == "direct"
            and all(isinstance(item, ir.Input) for item in sources)
            and isinstance(node, ir.LIF)
            and not node.current_tau,
        )
        made.relay_chip = self.chip
        return made

    def take(self, made: Candidate) -> None:
        """Keep a layer's integers."""
        self.done.update({item.name: item for item in made.synapses})
        self.done[made.neuron.name] = made.neuron

    def finish(self) -> ir.Network:
        """The quantized network, its nodes in the order of the folded one."""
        nodes: list[ir.Node] = []
        for node in self.network.nodes:
            if isinstance(node, ir.Readout):
                accumulator = self.done.get(ACCUMULATOR)
                nodes += [accumulator] if accumulator else []
                nodes.append(replace(node, inputs=(ACCUMULATOR,)) if accumulator else node)
            else:
                nodes.append(self.done.get(node.name, node))
        return self.network.with_nodes("quantized", nodes)


def uncalibrated(job: Job, strategy: Strategy) -> Candidate | None:
    """What is taken without calibration: the largest weight fills the range, rounded to the nearest, and proved."""
    return next((item for item in job.candidates(strategy, False) if item.proved), None)


def as_trained(job: Job) -> Candidate:
    """A layer of a network of integers at scale 1; max pooling, which any scale is exact for, as without calibration.

    Raises:
        ChipLimitError: the chip cannot hold it.
    """
    assert isinstance(job, LayerQuantizer)  # integers have no tables
    if job.neuron is not None and job.neuron.grain is None and (pooled := uncalibrated(job, "auto")) is not None:
        return pooled
    made = job.candidate("trained", 1.0)
    if made is None or any(
        (new.weight != old.weight).any() for new, old in zip(made.synapses, job.synapses, strict=True)
    ):
        largest = max(float(np.abs(item.weight).max()) for item in job.synapses)
        threshold = "" if job.neuron is None else f", threshold {job.neuron.threshold:g}"
        beside = "" if job.level is None else " and these relays"
        raise ChipLimitError(
            f"layer '{job.synapses[0].name}': its integers (weights up to {largest:g}{threshold}) do not fit "
            f"{job.chip.name} with {job.bits}{beside}; export it with the bits and relays that it was trained for"
        )
    return made
