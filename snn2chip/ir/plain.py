"""A network as plain values and arrays, and back: what model.pt and model.safetensors hold of a graph.

Every node is a table of its dataclass's fields, `type` being its class's name; a field's annotation says what may stand
in it, so that a new node needs no code here.

    number, text, truth, None    itself
    tuple                        list
    array                        {"tensor": its key among the arrays}
    dataclass                    a table like a node's
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from snn2chip.errors import InputError, out_of_memory
from snn2chip.ir import nodes
from snn2chip.ir.network import Network
from snn2chip.text import first_line, one_line

_NODES_MOST = 10_000
_LETTERS_MOST = 10_000
_NEURONS_MOST = 2**24  # of a layer; a chip has a million
_HEAD = {"stage": Literal["captured", "folded"], "timesteps": int, "classes": tuple[str, ...], "notes": tuple[str, ...]}
_AT_LEAST_1, _POSITIVE, _NOT_NEGATIVE = (1, 2**20), (5e-324, math.inf), (0, math.inf)
_NUMBERS: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("stride", "dilation", "kernel", "groups", "timesteps", "pixel_max"), _AT_LEAST_1),
    **dict.fromkeys(("threshold", "eps", "grain"), _POSITIVE),
    "padding": (0, 2**20),
    "low": (-(2**20), 2**20),
    "high": (-(2**20), 2**20),
    "tau": (0, 1),
    "current_tau": (0, 1),
}
_TABLES = {"var": _NOT_NEGATIVE, "leak": _NOT_NEGATIVE, "gain": _POSITIVE}
"""Smallest and largest number by name of a field, and of those that are arrays; of others any that is finite."""


class _DamageError(Exception):
    """What is wrong, without the file's name."""


def as_plain(network: Network) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """A captured or folded network as a table for JSON, and its arrays by key.

    Raises:
        InputError: a quantized one, whose file is model.net.
    """
    if network.stage == "quantized":
        raise InputError("a quantized network holds the chip's integers; save its chain as model.net")
    arrays: dict[str, NDArray[Any]] = {}

    def plain(value: Any, key: str) -> Any:
        if dataclasses.is_dataclass(value):
            items = {item.name: plain(getattr(value, item.name), f"{key}/{item.name}") for item in _fields(type(value))}
            return {"type": type(value).__name__, **items}
        if isinstance(value, np.ndarray):
            while key in arrays:  # a layer may be called by what looks like another's field
                key += "_"
            arrays[key] = value
            return {"tensor": key}
        return [plain(item, key) for item in value] if isinstance(value, tuple) else value

    head = {name: plain(getattr(network, name), name) for name in _HEAD}
    return {**head, "nodes": [plain(node, node.name) for node in network.nodes]}, arrays


def of_plain(graph: object, arrays: Mapping[str, Any]) -> Network:
    """The network of a table and arrays, whoever made them.

    Raises:
        InputError: they are not what `as_plain` makes, or make no network; named by layer.
        UnsupportedError: a node that this snn2chip does not know.
    """
    try:
        if not isinstance(graph, dict) or not isinstance(graph.get("nodes"), list):
            raise _DamageError("no table with a list of nodes")
        head = {name: _value(kind, graph.get(name), arrays, name) for name, kind in _HEAD.items()}
        if len(graph["nodes"]) > _NODES_MOST:
            raise _DamageError(f"{len(graph['nodes']):,} nodes; at most {_NODES_MOST:,} are read")
        made = tuple(_node(table, arrays, f"node {number}") for number, table in enumerate(graph["nodes"]))
        with np.errstate(all="ignore"):
            network = Network(head["stage"], head["timesteps"], head["classes"], made, head["notes"])
        _check_arrays(network)
        return network
    except _DamageError as damage:
        raise InputError(f"damaged: {one_line(str(damage), 400)}") from None
    except InputError as error:  # a node's own refusal, with names from the file in it
        raise type(error)(one_line(str(error), 800)) from None
    except (LookupError, TypeError, ValueError, ArithmeticError) as error:  # of shapes that no node of ours has
        if out_of_memory(error):
            raise
        raise InputError(f"damaged: its nodes do not fit each other: {first_line(error)}") from None


def _kinds(base: type[nodes.Node] = nodes.Node) -> dict[str, type[nodes.Node]]:
    """Every kind of node, by its name."""
    found: dict[str, type[nodes.Node]] = {}
    for kind in base.__subclasses__():
        found |= {kind.__name__: kind, **_kinds(kind)}
    return found


def _fields(kind: type) -> list[dataclasses.Field[Any]]:
    return [item for item in dataclasses.fields(kind) if item.init]


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _node(table: object, arrays: Mapping[str, Any], where: str) -> nodes.Node:
    named = isinstance(table, dict) and isinstance(table.get("name"), str) and isinstance(table.get("type"), str)
    if not isinstance(table, dict) or not named:
        raise _DamageError(f"{where} is no table with a type and a name")
    kind = _kinds().get(table["type"])
    if kind is None:
        known = ", ".join(sorted(_kinds()))
        raise InputError(
            f"layer '{one_line(table['name'])}': no node '{one_line(table['type'])}' in this snn2chip, which has "
            f"{known}; update it"
        )
    made: nodes.Node = _record(kind, table, arrays, f"layer '{one_line(table['name'])}'")
    return made


def _record(kind: type, table: object, arrays: Mapping[str, Any], where: str) -> Any:
    """A dataclass of the table of its fields."""
    if not isinstance(table, dict) or table.get("type") != kind.__name__:
        raise _DamageError(f"{where}: {one_line(repr(table), 60)} is no {kind.__name__}")
    names = {item.name for item in _fields(kind)}
    for name in [*names.difference(table), *set(table).difference(names, {"type"})]:
        raise _DamageError(f"{where}: {'lacks' if name in names else 'has too much'} {one_line(repr(name))}")
    hints = _hints(kind)
    return kind(**{name: _value(hints[name], table[name], arrays, f"{where}: {name}") for name in names})


def _value(hint: Any, value: object, arrays: Mapping[str, Any], where: str) -> Any:
    """A value as its annotation has it."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in inner:
            return None
        rest = [part for part in inner if part is not type(None)]
        if all(typing.get_origin(part) is np.ndarray for part in rest):
            return _array(value, arrays, where, {_letter(part) for part in rest})
        return _value(rest[0], value, arrays, where)
    if origin is np.ndarray:
        return _array(value, arrays, where, {_letter(hint)})
    if origin is Literal:
        if not isinstance(value, str) or value not in inner:
            raise _DamageError(f"{where} {one_line(repr(value), 60)} is none of {', '.join(map(str, inner))}")
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)) or (inner[-1] is not Ellipsis and len(value) != len(inner)):
            raise _DamageError(f"{where} {one_line(repr(value), 60)} is no list of {len(inner)}")
        kinds = (inner[0],) * len(value) if inner[-1] is Ellipsis else inner
        return tuple(_value(kind, item, arrays, where) for kind, item in zip(kinds, value, strict=True))
    if dataclasses.is_dataclass(hint):
        return _record(typing.cast(type, hint), value, arrays, where)
    if hint is float and type(value) is int:
        value = float(value) if abs(value) < 2**53 else value
    if type(value) is not hint:  # True is no number
        raise _DamageError(f"{where} {one_line(repr(value), 60)} is no {hint.__name__}")
    if isinstance(value, str) and not (value.isprintable() and len(value) <= _LETTERS_MOST):
        raise _DamageError(
            f"{where} {one_line(repr(value), 60)} is no printable text of at most {_LETTERS_MOST:,} letters"
        )
    if isinstance(value, (int, float)):
        low, high = _NUMBERS.get(where.rpartition(" ")[2], (-math.inf, math.inf))
        if not (low <= value <= high and math.isfinite(value)):
            raise _DamageError(f"{where} {one_line(repr(value), 60)} is not in {low:g}..{high:g}")
    return value


def _letter(hint: Any) -> str:
    """The kind of numbers in an NDArray[...], "f" or "i"."""
    kind: str = np.dtype(typing.get_args(typing.get_args(hint)[1])[0]).kind
    return kind


def _array(value: object, arrays: Mapping[str, Any], where: str, letters: set[str]) -> NDArray[Any]:
    """An array as float64 or int64, whichever its field takes."""
    key = value.get("tensor") if isinstance(value, dict) else None
    found = arrays.get(key) if isinstance(key, str) else None
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "fiu" or not found.ndim:
        raise _DamageError(f"{where}: no array of numbers {one_line(repr(key), 60)}")
    whole = found.dtype.kind != "f"
    if not whole and "f" not in letters:
        raise _DamageError(f"{where}: {found.dtype} where integers belong")
    made = found.astype(np.int64 if whole and "i" in letters else np.float64, copy=False)
    low, high = _TABLES.get(where.rpartition(" ")[2], (-math.inf, math.inf))
    if made.size and (made.min() < low or made.max() > high):
        raise _DamageError(f"{where} {made.min():g}..{made.max():g} is not in {low:g}..{high:g}")
    return made


def _arrays_of(value: Any, whole: bool = True) -> list[tuple[str, NDArray[Any], bool]]:
    """The arrays of a node by field, and of the dataclasses in it, which are not the whole of it."""
    found = []
    for item in _fields(type(value)):
        inner = getattr(value, item.name)
        if dataclasses.is_dataclass(inner):
            found += _arrays_of(inner, False)
        elif isinstance(inner, np.ndarray):
            found.append((item.name, inner, whole))
    return found


def _check_arrays(network: Network) -> None:
    """Refuse arrays that do not fit their layer: a bias is one value a channel or a neuron, constants of every step are
    tables (T, C), and what is no weight has one value a channel."""
    for node in network.nodes:
        shape = network.shape(node.name)
        if math.prod(shape) > _NEURONS_MOST or len(shape) not in (1, 3) or min(shape) < 1:
            raise _DamageError(f"layer '{node.name}': shape {shape}; at most {_NEURONS_MOST:,} values are read")
        for name, values, whole in _arrays_of(node):
            fitting: tuple[tuple[int, ...], ...] = (shape[:1],)
            if isinstance(node, nodes.StepNorm) or not whole:
                fitting = ((network.timesteps, shape[0]),)
            elif name == "bias":
                fitting = (shape[:1], shape)
            elif name == "weight":
                fitting = (values.shape,) if values.ndim == (2 if isinstance(node, nodes.Dense) else 4) else ()
            if values.shape not in fitting:
                said = f"{name} of shape {values.shape} does not fit {network.timesteps} steps of its output {shape}"
                raise _DamageError(f"layer '{node.name}': {said}")
        if isinstance(node, nodes.Conv) and (len(node.weight) % node.groups or not node.weight.size):
            raise _DamageError(f"layer '{node.name}': {len(node.weight)} channels in {node.groups} groups")
        if isinstance(node, nodes.MaxPool) and any(2 * p > k for p, k in zip(node.padding, node.kernel, strict=True)):
            raise _DamageError(
                f"layer '{node.name}': padding {node.padding} of more than half the kernel {node.kernel}"
            )
        if isinstance(node, nodes.Input) and not node.low <= node.high <= node.pixel_max:
            raise _DamageError(f"layer '{node.name}': values {node.low}..{node.high} of 0..{node.pixel_max}")
