"""From a trained torch network to the IR: the only bridge between the two.

Nothing is computed here beyond reading parameters as float64, and constants as their layers make them of those
parameters (`snn2chip.nn.in_float64`); folding is the next stage's. What each kind of module is stands in
`snn2chip.frameworks`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import nn

from snn2chip import ir
from snn2chip.chip.profile import DECAY_ONE
from snn2chip.errors import InputError, UnsupportedError
from snn2chip.frameworks.torch_layers import array
from snn2chip.nn import DirectInput, EventInput, SpikingNetwork, unwrapped
from snn2chip.passes.record import Recorder, Seen


def _input(network: SpikingNetwork) -> ir.Input:
    encoder = network.encoder
    channels = network.input_shape[0]
    ones = np.ones(channels)
    scale, shift = ones, 0 * ones
    high = 1
    if isinstance(encoder, DirectInput):
        std, mean = array(encoder.std), array(encoder.mean)
        scale, shift = ones / (encoder.unit * std), -mean / std
        high = encoder.max_value
    elif isinstance(encoder, EventInput):
        high = encoder.max_value
    center = np.zeros(channels, dtype=np.int64)
    return ir.Input("input", (), network.input_shape, encoder.coding, encoder.max_value, 0, high, center, scale, shift)


def check_ending(last: ir.Node, kind: ir.ReadoutKind) -> None:
    """A membrane readout accumulates currents, a spike count counts spikes: the chip has no other mix."""
    if kind == "membrane" and isinstance(last, ir.LIF):
        raise UnsupportedError(
            f"layer '{last.name}': a membrane readout cannot follow a neuron; leave it out, or use spike_count"
        )
    if kind == "membrane" and isinstance(last, (ir.Input, ir.MaxPool)):
        raise UnsupportedError(f"layer '{last.name}': a membrane readout accumulates currents; end with a dense layer")
    if kind == "spike_count" and not isinstance(last, ir.LIF):
        raise UnsupportedError(f"layer '{last.name}': a spike_count readout must follow a neuron; end with a LIF")


def _require_whole(network: ir.Network) -> None:
    """Refuse what a network of integers cannot hold.

    Raises:
        InputError: a number that is not whole, or a neuron that decays as real numbers do.
        UnsupportedError: a normalization.
    """
    for node in network.nodes:
        numbers: list[tuple[str, ir.Array | None]] = []
        if isinstance(node, (ir.Conv, ir.Dense)):
            numbers = [("weight", node.weight), ("bias", node.bias)]
        elif isinstance(node, ir.LIF):
            numbers = [("4096 tau", np.array([DECAY_ONE * node.tau])), ("threshold", np.array([node.threshold]))]
            if node.grain is None:
                raise InputError(f"layer '{node.name}': decays as real numbers do, in a network of integers")
        elif isinstance(node, (ir.Norm, ir.StepNorm)):
            raise UnsupportedError(f"layer '{node.name}': a normalization in a network of integers, which has none")
        for what, values in numbers:
            if values is not None and (bad := np.rint(values) != values).any():
                raise InputError(
                    f"layer '{node.name}': {what} {values[bad][0]:.6g} is not whole, in a network of integers; "
                    f"quantize again"
                )


def check(network: ir.Network) -> ir.Network:
    """The network, once it is known to be one that could have been captured; of files, which anyone may have made.

    Raises:
        InputError: numbers that are not whole in a network of integers.
        UnsupportedError: a readout that does not fit what it reads.
    """
    check_ending(network[network.readout.inputs[0]], network.readout.kind)
    if network.integers:
        _require_whole(network)
    return network


def capture(network: nn.Module, classes: Sequence[str] = ()) -> ir.Network:
    """Read a trained network (in eval mode) into a 'captured' `ir.Network`, in float64.

    The forward function of `network.body` is recorded (`snn2chip.passes.record`), so that any module built from the
    layers of `snn2chip.nn`, torch's own, additions and what only moves values can be captured, branches included.
    Layers are called by their path in `network.body` ("block1.branch.conv1"); a module used again gets ":2", ":3" after
    it. Dropout and `torch.nn.Identity` are left out. Of a network in DataParallel or torch.compile, what they hold is
    read.

    Raises:
        UnsupportedError: a layer or an operation has no counterpart on the chip; names it and the nearest thing
            that has.
        InputError: NaN or infinite parameters, shapes that do not fit, or no `SpikingNetwork`.
    """
    network = unwrapped(network)
    recorder = Recorder(_input(network), network.timesteps)
    with network.apart():
        found = recorder.run(network.body, "merged" if network.merged else "steps")
    if not isinstance(found, Seen):
        raise UnsupportedError("network: its forward function must return one tensor")
    ending = recorder.read(found)
    if ending.layout not in ("steps", "merged"):
        raise UnsupportedError("network: its body must return scores at every step; the readout sums them up")
    nodes = recorder.nodes
    by_name = {node.name: node for node in nodes}
    check_ending(by_name[ending.name], network.readout.kind)
    nodes.append(ir.Readout("readout", (ending.name,), network.readout.kind))
    captured = ir.Network("captured", network.timesteps, tuple(classes), tuple(nodes))
    if captured.integers:
        _require_whole(captured)
    return captured
