"""From a trained torch network to the IR: the only bridge between the two.

Nothing is computed here beyond reading parameters as float64; folding is the next stage's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch import Tensor, nn

from snn2chip import ir
from snn2chip.errors import UnsupportedError
from snn2chip.nn import (
    LIF,
    AvgPool2d,
    Conv2d,
    DirectInput,
    Dropout,
    Flatten,
    GlobalAvgPool,
    Linear,
    SpikingNetwork,
    TDBatchNorm,
)
from snn2chip.nn.coding import ReadoutName

# What people try to export that has no counterpart on the chip, and the nearest thing that has.
_INSTEAD: dict[type[nn.Module], str] = {
    nn.Conv2d: "snn2chip.nn.Conv2d",
    nn.Linear: "snn2chip.nn.Linear",
    nn.BatchNorm2d: "snn2chip.nn.TDBatchNorm",
    nn.BatchNorm1d: "snn2chip.nn.TDBatchNorm",
    nn.GroupNorm: "snn2chip.nn.TDBatchNorm (a normalization over the sample cannot be folded)",
    nn.LayerNorm: "snn2chip.nn.TDBatchNorm (a normalization over the sample cannot be folded)",
    nn.AvgPool2d: "snn2chip.nn.AvgPool2d",
    nn.MaxPool2d: "snn2chip.nn.AvgPool2d or a stride of 2",
    nn.AdaptiveAvgPool2d: "snn2chip.nn.GlobalAvgPool",
    nn.Flatten: "snn2chip.nn.Flatten",
    nn.Dropout: "snn2chip.nn.Dropout",
    nn.ReLU: "snn2chip.nn.LIF",
    nn.Sigmoid: "snn2chip.nn.LIF",
    nn.Tanh: "snn2chip.nn.LIF",
}


def _array(tensor: Tensor) -> ir.FloatArray:
    return tensor.detach().cpu().double().numpy().copy()


def _optional(tensor: Tensor | None) -> ir.FloatArray | None:
    return None if tensor is None else _array(tensor)


def _pair(value: int | tuple[int, ...]) -> ir.Pair:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def _conv(name: str, source: str, module: Conv2d) -> ir.Conv:
    if isinstance(module.padding, str):
        raise UnsupportedError(f"layer '{name}': padding '{module.padding}' is not a number; give padding=(h, w)")
    if module.padding_mode != "zeros" and _pair(module.padding) != (0, 0):
        raise UnsupportedError(
            f"layer '{name}': padding_mode '{module.padding_mode}' has no counterpart on the chip; use 'zeros'"
        )
    return ir.Conv(
        name,
        (source,),
        _array(module.weight),
        _optional(module.bias),
        _pair(module.stride),
        _pair(module.padding),
        _pair(module.dilation),
        module.groups,
    )


def _input(network: SpikingNetwork) -> ir.Input:
    encoder = network.encoder
    channels = network.input_shape[0]
    ones = np.ones(channels)
    scale, shift = ones, 0 * ones
    high = 1
    if isinstance(encoder, DirectInput):
        std, mean = _array(encoder.std), _array(encoder.mean)
        scale, shift = ones / (encoder.max_value * std), -mean / std
        high = encoder.max_value
    center = np.zeros(channels, dtype=np.int64)
    return ir.Input("input", (), network.input_shape, encoder.coding, encoder.max_value, 0, high, center, scale, shift)


def _layers(body: nn.Sequential) -> Iterator[tuple[str, nn.Module]]:
    """Named layers in the order they run; `named_children` would leave out a module used a second time."""
    for name, module in body._modules.items():
        if module is not None:
            yield name, module


def _check_ending(last: ir.Node, kind: ReadoutName) -> None:
    """A membrane readout accumulates currents, a spike count counts spikes: the chip has no other mix."""
    if kind == "membrane" and isinstance(last, ir.LIF):
        raise UnsupportedError(
            f"layer '{last.name}': a membrane readout cannot follow a neuron; leave it out, or use spike_count"
        )
    if kind == "spike_count" and not isinstance(last, ir.LIF):
        raise UnsupportedError(f"layer '{last.name}': a spike_count readout must follow a neuron; add a LIF")


def capture(network: SpikingNetwork, classes: Sequence[str] = ()) -> ir.Network:
    """Read a trained network (in eval mode) into a 'captured' `ir.Network`, in float64.

    Layer names are those of `network.body`. Dropout is left out.

    Raises:
        UnsupportedError: a layer has no counterpart on the chip; names it and the nearest thing that has.
        InputError: NaN or infinite parameters, or shapes that do not fit.
    """
    nodes: list[ir.Node] = [_input(network)]
    shape = nodes[0].shape if isinstance(nodes[0], ir.Input) else ()
    for name, module in _layers(network.body):
        source = nodes[-1].name
        node: ir.Node
        if isinstance(module, Conv2d):
            node = _conv(name, source, module)
        elif isinstance(module, Linear):
            node = ir.Dense(name, (source,), _array(module.weight), _optional(module.bias))
        elif isinstance(module, TDBatchNorm):
            node = ir.Norm(
                name,
                (source,),
                _array(module.weight),
                _array(module.bias),
                _array(module.running_mean),
                _array(module.running_var),
                module.eps,
                module.alpha,
                module.threshold,
            )
        elif isinstance(module, LIF):
            node = ir.LIF(
                name,
                (source,),
                float(module.tau.detach().double()),
                float(module.threshold.detach().double()),
            )
        elif isinstance(module, AvgPool2d):
            node = ir.AvgPool(name, (source,), (module.kernel, module.kernel))
        elif isinstance(module, GlobalAvgPool):
            nodes.append(ir.AvgPool(name, (source,), (shape[1], shape[2])))
            node = ir.Flatten(f"{name}_flatten", (name,))
            shape = ir.output_shape(nodes[-1], shape)
        elif isinstance(module, Flatten):
            node = ir.Flatten(name, (source,))
        elif isinstance(module, Dropout):
            continue
        else:
            instead = _INSTEAD.get(type(module))
            raise UnsupportedError(
                f"layer '{name}': {type(module).__name__} cannot be exported; "
                + (f"use {instead}" if instead else "build the network from the layers of snn2chip.nn")
            )
        shape = ir.output_shape(node, shape)
        nodes.append(node)
    _check_ending(nodes[-1], network.readout.kind)
    nodes.append(ir.Readout("readout", (nodes[-1].name,), network.readout.kind))
    return ir.Network("captured", network.timesteps, tuple(classes), tuple(nodes))
