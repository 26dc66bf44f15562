"""Choices by name that options of commands and arguments of functions share, and what those of functions are checked
by; nothing slow is imported for them.
"""

from __future__ import annotations

from numbers import Integral
from typing import Any, Literal, get_args

from snn2chip.errors import InputError
from snn2chip.text import one_line

EngineKind = Literal["auto", "dense", "events"]
"""The simulator's engines, see `snn2chip.simulate.engines`."""

Strategy = Literal["auto", "max", "percentile", "error"]
"""How a layer's scale is chosen, see `snn2chip.passes.quantize`."""

Relays = Literal["auto", "plain", "bias", "double", "quadruple"]
"""How spikes pass layers of a branching network, see `snn2chip.passes.schedule`."""

SoftReset = Literal["refuse", "hard"]
"""What `snn2chip.deploy` does with neurons that reset by subtraction."""

Ties = Literal["hold", "fire"]
"""What a membrane right at its threshold does in a NIR graph."""

NormChoice = Literal["none", "tdbn"]
"""Normalization of the layers in a recipe written from ONNX."""


def check_choice(what: str, value: Any, kinds: Any) -> None:
    """Refuse an argument that is none of a Literal's names.

    Raises:
        InputError: it is none.
    """
    known = get_args(kinds)
    if value not in known:
        raise InputError(f"{what} '{one_line(value)}': expected one of {', '.join(map(str, known))}")


def check_whole(what: str, value: Any, least: int) -> None:
    """Refuse an argument that is no whole number, or one below `least`.

    Raises:
        InputError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise InputError(f"{what} {one_line(value)}: expected a whole number from {least} on")
