"""The fields of NIR's nodes by type, every failure named: nir builds nodes of whatever a file holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from snn2chip import files, ir
from snn2chip.errors import InputError, UnsupportedError
from snn2chip.text import one_line


class Fields:
    """The fields of a node of NIR, or its metadata, by type; every failure named."""

    def __init__(self, name: str, values: Mapping[str, Any]) -> None:
        self.name, self.values = name, values

    def fail(self, field: str, wanted: str) -> InputError:
        return InputError(f"layer '{self.name}': {field} {short(self.values.get(field))} is not {wanted}")

    def __contains__(self, field: str) -> bool:
        return field in self.values

    def integer(self, field: str, low: int, high: int) -> int:
        value = np.asarray(self.values.get(field))
        if value.size != 1 or value.dtype.kind not in "iu" or not low <= int(value.item()) <= high:
            raise self.fail(field, f"an integer {low}..{high}")
        return int(value.item())

    def number(self, field: str) -> float:
        value = np.asarray(self.values.get(field))
        if value.size != 1 or value.dtype.kind not in "iuf" or not np.isfinite(value).all():
            raise self.fail(field, "a number")
        return float(value.item())

    def text(self, field: str, *allowed: str) -> str:
        value = self.values.get(field)
        value = value.decode("utf8", "replace") if isinstance(value, bytes) else value
        if not isinstance(value, str) or (allowed and value not in allowed):
            raise self.fail(field, f"one of {', '.join(allowed)}" if allowed else "a text")
        return value

    def names(self, field: str) -> list[str]:
        try:
            value = files.parse(self.text(field), "JSON")
        except ValueError:
            value = None
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.fail(field, "a list of names in JSON")
        return value

    def pair(self, field: str, low: int) -> ir.Pair:
        value = np.asarray(self.values.get(field))
        if value.dtype.kind not in "iu" or value.size not in (1, 2) or value.min() < low or value.max() > 2**20:
            raise self.fail(field, f"one or two integers from {low}")
        flat = [int(item) for item in value.flatten()]
        return (flat[0], flat[-1])

    def array(self, field: str, axes: int) -> ir.FloatArray:
        value = np.asarray(self.values.get(field))
        if value.dtype.kind not in "iuf" or value.ndim != axes or not value.size:
            raise self.fail(field, f"an array of {axes} axes")
        return value.astype(np.float64, copy=False)

    def uniform(self, field: str, shape: ir.Shape) -> float:
        """The one value of all neurons."""
        value = np.asarray(self.values.get(field))
        if value.dtype.kind not in "iuf" or (value.shape != shape and value.size != 1):
            raise self.fail(field, f"an array {shape}, one value a neuron")
        low, high = float(value.min()), float(value.max())
        if not low == high:
            raise UnsupportedError(
                f"layer '{self.name}': {field} is {low:g} to {high:g}; a layer of ours has one for all its neurons, "
                f"so split it"
            )
        return low


def short(value: Any) -> str:
    if isinstance(value, np.ndarray) and value.size > 4:
        return f"of {value.dtype} {value.shape}"
    shown = value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value
    return "(missing)" if value is None else one_line(repr(shown), 60)
