"""From a trained torch network to the IR: the only bridge between the two.

Nothing is computed here beyond reading parameters as float64, and constants as their layers make them of those
parameters (`snn2chip.nn.in_float64`); folding is the next stage's.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, fx, nn

from snn2chip import ir
from snn2chip.chip.profile import DECAY_ONE, UNIT
from snn2chip.errors import InputError, UnsupportedError, out_of_memory
from snn2chip.nn import (
    BNTT,
    LIF,
    AvgPool2d,
    Conv2d,
    DirectInput,
    Dropout,
    EventInput,
    Flatten,
    GlobalAvgPool,
    Linear,
    MaxPool2d,
    Residual,
    SpikingNetwork,
    TDBatchNorm,
    in_float64,
    unwrapped,
)

LAYERS = (BNTT, LIF, AvgPool2d, Conv2d, Dropout, Flatten, GlobalAvgPool, Linear, MaxPool2d, TDBatchNorm)

# What people try to export that has no counterpart on the chip, and the nearest thing that has.
_INSTEAD: dict[type[nn.Module], str] = {
    nn.Conv2d: "snn2chip.nn.Conv2d",
    nn.Linear: "snn2chip.nn.Linear",
    nn.BatchNorm2d: "snn2chip.nn.TDBatchNorm",
    nn.BatchNorm1d: "snn2chip.nn.TDBatchNorm",
    nn.GroupNorm: "snn2chip.nn.TDBatchNorm (a normalization over the sample cannot be folded)",
    nn.LayerNorm: "snn2chip.nn.TDBatchNorm (a normalization over the sample cannot be folded)",
    nn.AvgPool2d: "snn2chip.nn.AvgPool2d",
    nn.MaxPool2d: "snn2chip.nn.MaxPool2d after a LIF, snn2chip.nn.AvgPool2d or a stride of 2",
    nn.AdaptiveAvgPool2d: "snn2chip.nn.GlobalAvgPool",
    nn.Flatten: "snn2chip.nn.Flatten",
    nn.Dropout: "snn2chip.nn.Dropout",
    nn.ReLU: "snn2chip.nn.LIF",
    nn.Sigmoid: "snn2chip.nn.LIF",
    nn.Tanh: "snn2chip.nn.LIF",
    nn.DataParallel: "what it holds, its .module; wrap the whole network, not a part of it",
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
        scale, shift = ones / (encoder.unit * std), -mean / std
        high = encoder.max_value
    elif isinstance(encoder, EventInput):
        high = encoder.max_value
    center = np.zeros(channels, dtype=np.int64)
    return ir.Input("input", (), network.input_shape, encoder.coding, encoder.max_value, 0, high, center, scale, shift)


class _Value(fx.Proxy):
    """A tensor of the forward function; ``+=`` is what it is, a change in place, and not one more addition."""

    def __iadd__(self, other: object) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operator.iadd, (self, other), {})


class _Tracer(fx.Tracer):
    """Follows a forward function down to the layers of snn2chip.nn, and to torch's own, which are refused."""

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Value(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if isinstance(m, LAYERS):
            return True
        return super().is_leaf_module(m, module_qualified_name) and type(m) is not Residual


def _trace(body: nn.Module) -> fx.Graph:
    try:
        return _Tracer().trace(body)
    except (fx.proxy.TraceError, TypeError, RuntimeError) as error:
        if out_of_memory(error):
            raise
        raise UnsupportedError(
            f"network: its forward function does what a chip cannot (branches on values, loops over them): {error}; "
            f"build it from layers of snn2chip.nn and additions"
        ) from None


def _is_add(step: fx.Node) -> bool:
    """Two tensors added, with +, += or torch.add."""
    if step.op == "call_function":
        named = step.target in (operator.add, operator.iadd, torch.add)
    else:
        named = step.op == "call_method" and step.target in ("add", "add_")
    return named and len(step.args) == 2 and not step.kwargs and all(isinstance(x, fx.Node) for x in step.args)


def _check_ending(last: ir.Node, kind: ir.ReadoutKind) -> None:
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


def _node(name: str, sources: tuple[str, ...], module: nn.Module, shape: ir.Shape) -> list[ir.Node]:
    """The IR of one layer that reads `shape`; none for what does nothing once trained."""
    if isinstance(module, LAYERS) and all(type(module).forward is not kind.forward for kind in LAYERS):
        raise UnsupportedError(
            f"layer '{name}': {type(module).__name__} has a forward function of its own, which cannot be exported; "
            f"use the layers of snn2chip.nn as they are"
        )
    if isinstance(module, Conv2d):
        return [_conv(name, sources[0], module)]
    if isinstance(module, Linear):
        return [ir.Dense(name, sources, _array(module.weight), _optional(module.bias))]
    if isinstance(module, TDBatchNorm):
        return [
            ir.Norm(
                name,
                sources,
                _array(module.weight),
                _array(module.bias),
                _array(module.running_mean),
                _array(module.running_var),
                module.eps,
                module.alpha,
                module.threshold,
            )
        ]
    if isinstance(module, BNTT):
        gamma = _array(in_float64(module).weight)
        mean, var = _array(module.running_mean), _array(module.running_var)
        return [ir.StepNorm(name, sources, gamma, mean, var, module.eps)]
    if isinstance(module, LIF):
        exact = in_float64(module)
        tau, threshold = float(exact.tau.detach()), float(exact.threshold.detach())
        return [ir.LIF(name, sources, tau, threshold, grain=1 / UNIT if module.whole else None)]
    if isinstance(module, AvgPool2d):
        return [ir.AvgPool(name, sources, (module.kernel, module.kernel))]
    if isinstance(module, MaxPool2d):
        sides = ((side, side) for side in (module.kernel, module.stride, module.padding))
        return [ir.MaxPool(name, sources, *sides)]
    if isinstance(module, GlobalAvgPool):
        if len(shape) != 3:
            raise InputError(f"layer '{name}': a global average needs an image, but {shape} reaches it")
        return [ir.AvgPool(name, sources, (shape[1], shape[2])), ir.Flatten(f"{name}_flatten", (name,))]
    if isinstance(module, Flatten):
        return [ir.Flatten(name, sources)]
    if isinstance(module, (Dropout, nn.Identity)):
        return []
    instead = _INSTEAD.get(type(module))
    raise UnsupportedError(
        f"layer '{name}': {type(module).__name__} cannot be exported; "
        + (f"use {instead}" if instead else "build the network from the layers of snn2chip.nn")
    )


def capture(network: nn.Module, classes: Sequence[str] = ()) -> ir.Network:
    """Read a trained network (in eval mode) into a 'captured' `ir.Network`, in float64.

    The forward function of `network.body` is followed symbolically (torch.fx), so that any module built from the
    layers of `snn2chip.nn` and additions can be captured, branches included. Layers are called by their path in
    `network.body` ("block1.branch.conv1"); a module used again gets ":2", ":3" after it. Dropout and
    `torch.nn.Identity` are left out. Of a network in DataParallel or torch.compile, what they hold is read.

    Raises:
        UnsupportedError: a layer or an operation has no counterpart on the chip; names it and the nearest thing
            that has.
        InputError: NaN or infinite parameters, shapes that do not fit, or no `SpikingNetwork`.
    """
    network = unwrapped(network)
    nodes: list[ir.Node] = [_input(network)]
    shapes: dict[str, ir.Shape] = {"input": network.input_shape}
    names: dict[fx.Node, str] = {}  # what each step of the forward function gives
    base: dict[fx.Node, fx.Node] = {}  # the step whose memory each may be a view of: Flatten's and what passes
    uses: Counter[str] = Counter()
    ending: str | None = None
    for step in (steps := list(_trace(network.body).nodes)):
        base[step] = step
        sources = tuple(names[source] for source in step.all_input_nodes)
        made: list[ir.Node]
        if step.op == "placeholder":
            if names:
                raise UnsupportedError("network: its forward function takes several arguments; expected one tensor")
            names[step] = "input"
            continue
        if step.op == "output":
            ending = sources[0] if len(sources) == 1 and isinstance(step.args[0], fx.Node) else None
            break
        if step.op == "call_module":
            path = str(step.target)
            uses[path] += 1
            name = path if uses[path] == 1 else f"{path}:{uses[path]}"
            if len(sources) != 1:
                raise UnsupportedError(f"layer '{name}': {len(sources)} inputs; expected one")
            made = _node(name, sources, network.body.get_submodule(path), shapes[sources[0]])
            if not made or isinstance(made[0], ir.Flatten):
                base[step] = base[step.all_input_nodes[0]]
        elif _is_add(step):
            stack = list(step.meta.get("nn_module_stack", {}).values())  # (path, class) of the modules it is in
            path = f"{stack[-1][0]}.add" if stack else "add"
            uses[path] += 1
            name = path if uses[path] == 1 else f"{path}:{uses[path]}"
            made = [ir.Add(name, tuple(names[source] for source in step.args if isinstance(source, fx.Node)))]
        else:
            what = getattr(step.target, "__name__", step.target)
            inside = list(step.meta.get("nn_module_stack", {}).values())
            where = f"layer '{inside[-1][0]}'" if inside and inside[-1][0] else "network"
            raise UnsupportedError(
                f"{where}: '{what}' in its forward function cannot be exported; use snn2chip.nn's layers and their sums"
            )
        for node in made:
            shapes[node.name] = ir.output_shape(node, *(shapes[source] for source in node.inputs))
        nodes += made
        names[step] = made[-1].name if made else sources[0]
        if step.op != "call_module" and step.target in (operator.iadd, "add_"):
            # whoever holds the first tensor holds the sum from here on
            base[step] = base[step.all_input_nodes[0]]
            later = set(steps[steps.index(step) + 1 :])
            for other, held in names.items():
                if held == sources[0]:
                    names[other] = names[step]
                elif other is not step and base[other] is base[step] and not later.isdisjoint(other.users):
                    raise UnsupportedError(
                        f"layer '{names[step]}': an addition in place to '{sources[0]}', while '{held}', flattened or "
                        f"not, may hold the same memory and is read later; write y = y + x"
                    )
    if ending is None:
        raise UnsupportedError("network: its forward function must return one tensor")
    by_name = {node.name: node for node in nodes}
    _check_ending(by_name[ending], network.readout.kind)
    nodes.append(ir.Readout("readout", (ending,), network.readout.kind))
    captured = ir.Network("captured", network.timesteps, tuple(classes), tuple(nodes))
    if captured.integers:
        _require_whole(captured)
    return captured
