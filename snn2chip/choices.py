"""Choices by name that options of commands and arguments of functions share; nothing slow is imported for them."""

from __future__ import annotations

from typing import Literal

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
