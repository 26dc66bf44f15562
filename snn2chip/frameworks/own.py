"""The layers of snn2chip.nn, which take all steps at once; constants are read as the layers make them of parameters."""

from __future__ import annotations

from torch import nn

from snn2chip import ir
from snn2chip.chip.profile import UNIT
from snn2chip.errors import InputError
from snn2chip.frameworks.leaf import Leaf
from snn2chip.frameworks.torch_layers import array
from snn2chip.frameworks.torch_layers import nodes as as_torch
from snn2chip.nn import BNTT, LIF, AvgPool2d, Conv2d, Flatten, GlobalAvgPool, Linear, MaxPool2d, TDBatchNorm, in_float64
from snn2chip.nn.build import STEPPED


def leaf(_path: str, module: nn.Module) -> Leaf | None:
    """A layer of snn2chip.nn; containers are followed."""
    if not isinstance(module, STEPPED):
        return None
    return Leaf(lambda name, sources, shape: nodes(module, name, sources, shape), ("steps",))


def nodes(module: nn.Module, name: str, sources: tuple[str, ...], shape: ir.Shape) -> list[ir.Node]:
    """The nodes of one layer that reads `shape`; none for what does nothing once trained."""
    if isinstance(module, (Conv2d, Linear)):
        return as_torch(module, name, sources[0], shape) or []
    if isinstance(module, TDBatchNorm):
        gamma, beta, mean, var = map(array, (module.weight, module.bias, module.running_mean, module.running_var))
        return [ir.Norm(name, sources, gamma, beta, mean, var, module.eps, module.alpha, module.threshold)]
    if isinstance(module, BNTT):
        gamma = array(in_float64(module).weight)
        mean, var = array(module.running_mean), array(module.running_var)
        return [ir.StepNorm(name, sources, gamma, mean, var, module.eps)]
    if isinstance(module, LIF):
        exact = in_float64(module)
        tau, threshold = float(exact.tau.detach()), float(exact.threshold.detach())
        grain = 1 / UNIT if module.whole else None
        return [ir.LIF(name, sources, tau, threshold, grain=grain, current_tau=module.current_tau)]
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
    return []
