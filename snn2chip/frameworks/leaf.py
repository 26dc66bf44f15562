"""What a module is written down as, whoever made it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import nn

from snn2chip import ir

Layout = Literal["image", "lifted", "steps", "series", "merged", "step", "total", "state"]
"""How a tensor holds time, see `snn2chip.passes.record`."""

Make = Callable[[str, tuple[str, ...], ir.Shape], "list[ir.Node]"]

_HERE = {
    "snn2chip": "own",
    "torch": "torch_layers",
    "spikingjelly": "spikingjelly",
    "snntorch": "snntorch",
    "lava": "lava_dl",
}


@dataclass(frozen=True)
class Leaf:
    """A module that is written down and not run: its nodes, for a name, its sources and the shape that it reads.

    layouts  how it takes time
    states   how many values it hands to itself, after its output
    axes     sides beside channels that what it reads may have: 2 of an image, 1 of a row, 0 of features; () for any
    step     the only step of a loop over time that it is for, one of a layer for each
    layer    the path of that layer
    """

    make: Make
    layouts: tuple[Layout, ...]
    states: int = 0
    axes: tuple[int, ...] = ()
    step: int | None = None
    layer: str = ""


def reset(network: nn.Module) -> None:
    """Let the neurons of every framework that has modules in `network` start anew."""
    for name in _roots(network) & {"spikingjelly", "snntorch", "lava"}:
        importlib.import_module(f"snn2chip.frameworks.{_HERE[name]}").reset(network)


def harden(network: nn.Module) -> list[str]:
    """Let neurons that reset by subtraction reset to zero, in place; their paths."""
    found = []
    for name in sorted(_roots(network) & {"spikingjelly", "snntorch"}):
        of_one = importlib.import_module(f"snn2chip.frameworks.{_HERE[name]}").harden
        found += [path for path, module in network.named_modules() if of_one(module)]
    return found


def _roots(network: nn.Module) -> set[str]:
    return {kind.__module__.partition(".")[0] for module in network.modules() for kind in type(module).__mro__}


def leaf_of(path: str, module: nn.Module) -> Leaf | None:
    """The leaf that a module is; None for one whose forward function is to be followed.

    Raises:
        UnsupportedError: a module of a known framework that no chip has, by its path, with what would work.
    """
    owner = next(kind for kind in type(module).__mro__ if "forward" in vars(kind))
    name = _HERE.get(owner.__module__.partition(".")[0])
    if name is None:
        return None
    found: Leaf | None = importlib.import_module(f"snn2chip.frameworks.{name}").leaf(path, module)
    return found
