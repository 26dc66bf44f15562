"""torch's own layers, which take samples (N, ...) of one step, or steps and samples in one axis.

A row (C, L), as Conv1d takes it, is an image of height 1, and its layers are those of such an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from snn2chip import ir
from snn2chip.errors import UnsupportedError
from snn2chip.frameworks.leaf import Layout, Leaf

SAMPLES: tuple[Layout, ...] = ("merged", "image", "step")
ANY: tuple[Layout, ...] = ("steps", *SAMPLES)

# What people try to export that has no counterpart on the chip, and the nearest thing that has.
_OVER_SAMPLES = "use snn2chip.nn.TDBatchNorm (a normalization over the sample cannot be folded)"
_NO_CHANGE = "leave it out at the end: the largest score stays the largest"
_OTHERS = "build the network from dense and convolutional layers, pooling, batch norm and neurons"
_INSTEAD: dict[type[nn.Module], str] = {
    nn.DataParallel: "use what it holds, its .module; wrap the whole network, not a part of it",
    nn.MultiheadAttention: _OTHERS,
    **dict.fromkeys((nn.Softmax, nn.LogSoftmax), _NO_CHANGE),
    **dict.fromkeys((nn.ZeroPad1d, nn.ZeroPad2d), "give padding= to the convolution behind it"),
    **dict.fromkeys((nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d), "use MaxPool1d or MaxPool2d"),
}
_INSTEAD_OF_MODULES = {  # torch.nn.modules.NAME
    **dict.fromkeys(("normalization", "instancenorm"), _OVER_SAMPLES),
    "activation": "use snn2chip.nn.LIF",
    "rnn": "use snn2chip.nn.LIF behind a dense layer: its membrane is what remembers",
}
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.Flatten, nn.Unflatten)
_NOTHING = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)  # once trained


def array(tensor: Tensor) -> ir.FloatArray:
    """A copy of a parameter in float64."""
    values = tensor.detach().cpu().to(torch.float64, copy=True).numpy()
    values.setflags(write=False)  # the node need not copy it again
    return values


def optional(tensor: Tensor | None) -> ir.FloatArray | None:
    """The same of one that may be absent."""
    return None if tensor is None else array(tensor)


def pair(value: int | tuple[int, ...]) -> ir.Pair:
    """Height and width of what may be one number."""
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[-1]))


def sides(module: nn.Module, what: str) -> ir.Pair:
    """A constant of a layer's windows as height and width; of a layer of rows, whose height has one pixel, the width's
    alone."""
    height, width = pair(getattr(module, what))
    return (0 if what == "padding" else 1, width) if isinstance(module, _OF_ROWS) else (height, width)


def convolution(name: str, source: str, module: nn.Conv2d | nn.Conv1d) -> ir.Conv:
    """A convolution in two dimensions, or in one.

    Raises:
        UnsupportedError: padding by name, or by other values than zero.
    """
    if isinstance(module.padding, str):
        raise UnsupportedError(f"layer '{name}': padding '{module.padding}' is not a number; give padding=(h, w)")
    if module.padding_mode != "zeros" and pair(module.padding) != (0, 0):
        raise UnsupportedError(
            f"layer '{name}': padding_mode '{module.padding_mode}' has no counterpart on the chip; use 'zeros'"
        )
    weight = array(module.weight)
    weight = weight[:, :, None] if isinstance(module, nn.Conv1d) else weight
    stride, padding, dilation = (sides(module, what) for what in ("stride", "padding", "dilation"))
    return ir.Conv(name, (source,), weight, optional(module.bias), stride, padding, dilation, module.groups)


def normalization(name: str, source: str, module: _BatchNorm) -> ir.Norm:
    """Batch normalization by its running statistics.

    Raises:
        UnsupportedError: it keeps none.
    """
    if module.running_mean is None or module.running_var is None:
        raise UnsupportedError(
            f"layer '{name}': {type(module).__name__} without running statistics normalizes by the batch that it sees, "
            f"which cannot be folded; train it with track_running_stats=True"
        )
    mean, var = array(module.running_mean), array(module.running_var)
    gamma = np.ones_like(mean) if module.weight is None else array(module.weight)
    beta = np.zeros_like(mean) if module.bias is None else array(module.bias)
    return ir.Norm(name, (source,), gamma, beta, mean, var, module.eps, 1.0, 1.0)


def through_time(name: str, sources: tuple[str, ...], norms: Sequence[_BatchNorm]) -> ir.StepNorm:
    """A batch norm for every step (BNTT, Kim and Panda 2021); what is added after it moves into the mean.

    Raises:
        UnsupportedError: a gain that is not positive, or no running statistics.
    """
    made = [normalization(name, sources[0], norm) for norm in norms]
    gamma, beta, mean, var = (
        np.stack([getattr(norm, field) for norm in made]) for field in ("gamma", "beta", "mean", "var")
    )
    if not (gamma > 0).all():
        raise UnsupportedError(
            f"layer '{name}': a gain of {gamma.min():g}; one that changes with time must be positive, so train with "
            f"the same batch norm at every step"
        )
    mean = mean - beta * np.sqrt(var + made[0].eps) / gamma
    return ir.StepNorm(name, sources, gamma, mean, var, made[0].eps)


def lists_through_time(network: nn.Module, timesteps: int) -> dict[str, Leaf]:
    """The batch norms in lists of one for each step, by path (snnTorch's BatchNormTT1d and 2d make such lists)."""
    found: dict[str, Leaf] = {}
    for path, module in network.named_modules():
        norms = list(module) if isinstance(module, nn.ModuleList) and len(module) == timesteps > 1 else []
        if not norms or not all(isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d)) for norm in norms):
            continue

        def make(name: str, sources: tuple[str, ...], _shape: ir.Shape, norms: Any = norms) -> list[ir.Node]:
            return [through_time(name, sources, norms)]

        for step, norm in enumerate(norms):
            found[f"{path}.{step}"] = Leaf(make, ("image", "step"), axes=axes(norm), step=step, layer=path)
    return found


def average(name: str, source: str, module: nn.AvgPool2d | nn.AvgPool1d) -> ir.AvgPool:
    """Average pooling whose windows lie side by side.

    Raises:
        UnsupportedError: other windows.
    """
    kernel, stride, padding = (sides(module, what) for what in ("kernel_size", "stride", "padding"))
    divisor = getattr(module, "divisor_override", None)
    if stride != kernel or padding != (0, 0) or module.ceil_mode or divisor is not None:
        raise UnsupportedError(
            f"layer '{name}': {type(module).__name__} of kernel {kernel}, stride {stride}, padding {padding}; only "
            f"windows side by side can be folded: stride = kernel, no padding, no ceil_mode, no divisor_override"
        )
    return ir.AvgPool(name, (source,), kernel)


def adaptive(
    name: str, source: str, module: nn.AdaptiveAvgPool2d | nn.AdaptiveAvgPool1d, shape: ir.Shape
) -> ir.AvgPool:
    """Average pooling to a given size, where that has windows side by side.

    Raises:
        UnsupportedError: it has not.
    """
    size = module.output_size
    wanted = (size, size) if isinstance(size, int) else tuple(size or ())
    wanted = (1, *wanted[-1:]) if isinstance(module, _OF_ROWS) else wanted
    made = tuple(side if given is None else given for side, given in zip(shape[1:], wanted, strict=True))
    if len(shape) != 3 or any(side % given for side, given in zip(shape[1:], made, strict=True)):
        raise UnsupportedError(
            f"layer '{name}': {type(module).__name__} from {shape[1:]} to {made}: its windows overlap; choose a size "
            f"that divides"
        )
    return ir.AvgPool(name, (source,), (shape[1] // made[0], shape[2] // made[1]))


def maximum(name: str, source: str, module: nn.MaxPool2d | nn.MaxPool1d) -> ir.MaxPool:
    """Maximum over windows of spikes.

    Raises:
        UnsupportedError: dilation, ceil_mode, or indices.
    """
    if sides(module, "dilation") != (1, 1) or module.ceil_mode or module.return_indices:
        raise UnsupportedError(
            f"layer '{name}': {type(module).__name__} with dilation, ceil_mode or return_indices; leave them out"
        )
    return ir.MaxPool(name, (source,), *(sides(module, what) for what in ("kernel_size", "stride", "padding")))


def nodes(module: nn.Module, name: str, source: str, shape: ir.Shape) -> list[ir.Node] | None:
    """The nodes of a layer that computes as torch's does; None for another."""
    if isinstance(module, (nn.Conv2d, nn.Conv1d)):
        return [convolution(name, source, module)]
    if isinstance(module, nn.Linear):
        return [ir.Dense(name, (source,), array(module.weight), optional(module.bias))]
    if isinstance(module, _BatchNorm):
        return [normalization(name, source, module)]
    if isinstance(module, (nn.AvgPool2d, nn.AvgPool1d)):
        return [average(name, source, module)]
    if isinstance(module, (nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool1d)):
        return [adaptive(name, source, module, shape)]
    if isinstance(module, (nn.MaxPool2d, nn.MaxPool1d)):
        return [maximum(name, source, module)]
    return [] if isinstance(module, _NOTHING) else None


def refuse(path: str, module: nn.Module) -> None:
    """Refuse a module that no chip has.

    Raises:
        UnsupportedError: always, with the nearest thing that can be exported.
    """
    of_module = _INSTEAD_OF_MODULES.get(type(module).__module__.rpartition(".")[2])
    instead = _INSTEAD.get(type(module), of_module) or _OTHERS
    raise UnsupportedError(f"layer '{path}': {type(module).__name__} cannot be exported; {instead}")


def axes(module: nn.Module) -> tuple[int, ...]:
    """Sides beside channels that a layer's input may have, see `Leaf`."""
    if isinstance(module, nn.BatchNorm1d):
        return (0, 1)
    return (1,) if isinstance(module, _OF_ROWS) else (2,) if isinstance(module, _OF_IMAGES) else ()


_OF_ROWS = (nn.Conv1d, nn.AvgPool1d, nn.AdaptiveAvgPool1d, nn.MaxPool1d)
_OF_IMAGES = (nn.Conv2d, nn.BatchNorm2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.MaxPool2d)
KNOWN = (*_OF_ROWS, *_OF_IMAGES, nn.Linear, nn.BatchNorm1d, *_NOTHING)


def leaf(path: str, module: nn.Module) -> Leaf | None:
    """A layer of torch; containers, and what only moves values, are followed."""
    if isinstance(module, _CONTAINERS):
        return None
    if not isinstance(module, KNOWN):
        return Leaf(lambda name, *_: refuse(name, module), ANY)  # type: ignore[arg-type]

    def make(name: str, sources: tuple[str, ...], shape: ir.Shape) -> list[ir.Node]:
        return nodes(module, name, sources[0], shape) or []

    return Leaf(make, ANY if isinstance(module, (nn.Linear, *_NOTHING)) else SAMPLES, axes=axes(module))
