"""The fields of NIR's nodes by type, every failure named: nir builds nodes of whatever a file holds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from snn2chip import files, ir
from snn2chip.errors import InputError, UnsupportedError
from snn2chip.text import one_line

MAX_NEURONS = 2**24  # of a layer; a dozen arrays of as many numbers are made of its constants


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

    def each(self, field: str, shape: ir.Shape) -> ir.FloatArray:
        """One value a neuron of `shape`, from as many, with or without axes of length 1, or from one for all."""
        value = np.asarray(self.values.get(field))
        if math.prod(shape) > MAX_NEURONS:
            raise InputError(f"layer '{self.name}': {math.prod(shape):,} neurons; at most {MAX_NEURONS:,} are read")
        same = tuple(n for n in value.shape if n != 1) == tuple(n for n in shape if n != 1)
        if value.dtype.kind not in "iuf" or not (same or value.size == 1):
            raise self.fail(field, f"an array {shape}, one value a neuron")
        if not np.isfinite(value).all():
            raise InputError(f"layer '{self.name}': {field} holds {(~np.isfinite(value)).sum()} NaN or infinite values")
        wide = value.astype(np.float64)
        return wide.reshape(shape) if same else np.full(shape, wide.item())

    def uniform(self, field: str, shape: ir.Shape) -> float:
        """The one value of all neurons."""
        return one_of(self.name, field, self.each(field, shape))


def one_of(layer: str, what: str, values: ir.FloatArray) -> float:
    """The one value that a layer has for all its neurons."""
    low, high = float(values.min()), float(values.max())
    if low != high:
        raise UnsupportedError(
            f"layer '{layer}': {what} is {low:g} to {high:g}; a layer of ours has one for all its neurons, so split it"
        )
    return low


def by_channel(layer: str, what: str, values: ir.FloatArray) -> ir.FloatArray:
    """The values (C,) or (F,) of an array of a layer's shape, which weights of a convolution or matrix can take in."""
    rows = values.reshape(len(values), -1)
    if (rows != rows[:, :1]).any():
        raise UnsupportedError(
            f"layer '{layer}': {what} differs between the pixels of a channel, whose weights a convolution shares; "
            f"give it one value a channel, or use a dense layer"
        )
    return rows[:, 0].copy()


def short(value: Any) -> str:
    if isinstance(value, np.ndarray) and value.size > 4:
        return f"of {value.dtype} {value.shape}"
    shown = value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value
    return "(missing)" if value is None else one_line(repr(shown), 60)
