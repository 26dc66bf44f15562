"""The compiled half of the engine: find the shared library, load it, and say why not."""

from __future__ import annotations

import ctypes
import os
from ctypes import POINTER, c_double, c_int, c_int32, c_int64, c_uint8, c_uint32, c_void_p
from functools import cache

from snn2chip import native
from snn2chip.errors import InputError, UnsupportedError

SIMD = ("portable", "avx2", "avx512")  # by number in the library
SIMD_VARIABLE = "SNN2CHIP_SIMD"
REMEDY = "install a C++ compiler, or choose --engine dense"

_INTEGERS = (
    *("in_h", "in_w", "in_channels", "in_slots", "out_h", "out_w", "out_channels"),
    *("kh", "kw", "sy", "sx", "py", "px", "dy", "dx"),
    *("groups", "rows", "blocks", "lanes"),
    *("kind", "row_shift", "limit", "scale"),
    *("current", "decay", "current_keep", "voltage_keep", "voltage_shift", "threshold", "leak_shift", "bias_stride"),
    *("segments", "length", "pad_h", "pad_w"),
)
_ARRAYS = (
    *("bias", "leak", "lift", "over", "block_group", "group_first", "group_last", "slot_channel"),
    "block_reads",
)


class Layer(ctypes.Structure):
    """`struct Layer` of engine.cpp, field by field."""

    _fields_ = (
        *((name, c_int32) for name in _INTEGERS),
        ("block_bytes", c_int64),
        ("nothing", c_int64),
        ("weights", c_void_p),
        *((name, POINTER(c_int32)) for name in _ARRAYS),
        ("valid", POINTER(c_uint32)),
        ("reads", c_void_p),
    )


class Classes(ctypes.Structure):
    """`struct Classes` of engine.cpp."""

    _fields_ = (
        *((name, c_void_p) for name in ("masks", "places", "row", "place")),
        *((name, c_int32) for name in ("passes", "words", "high")),
    )


class Group(ctypes.Structure):
    """`struct Group` of engine.cpp."""

    _fields_ = (("adds", c_void_p), ("to", c_void_p), ("bound", c_double), ("first", c_int32), ("last", c_int32))


class Counting(ctypes.Structure):
    """`struct Counting` of engine.cpp."""

    _fields_ = (
        ("layers", POINTER(Classes)),
        ("groups", POINTER(Group)),
        *((name, c_void_p) for name in ("steps", "total")),
        *((name, c_int32) for name in ("size", "given", "classes")),
    )


class Run(ctypes.Structure):
    """`struct Run` of engine.cpp."""

    _fields_ = (
        ("port", c_void_p),
        ("samples", c_int64),
        ("steps", c_int64),
        ("sample_stride", c_int64),
        ("step_stride", c_int64),
        ("low", c_int64),
        ("high", c_int64),
        ("spikes", POINTER(POINTER(c_uint8))),
        ("voltage", POINTER(POINTER(c_int32))),
        ("scores", c_void_p),
        ("counts", c_void_p),
        ("largest", c_void_p),
        ("nanoseconds", c_void_p),
        ("counting", POINTER(Counting)),
        ("before", c_int64),
        ("states", POINTER(c_void_p)),
    )


@cache
def load() -> ctypes.CDLL:
    """The shared library, loaded once.

    Raises:
        UnsupportedError: it is missing and cannot be compiled, or does not load.
    """
    try:
        library = native.EVENTS.load()
        signatures = {
            "layer_bytes": (c_int, ()),
            "simd": (c_int, ()),
            "make": (c_void_p, (POINTER(Layer), c_int, c_int, c_int, c_int, c_int)),
            "run": (c_int, (c_void_p, POINTER(Run))),
            "free": (None, (c_void_p,)),
        }
        for name, (result, arguments) in signatures.items():
            function = getattr(library, f"snn2chip_events_{name}")
            function.restype, function.argtypes = result, arguments
    except (InputError, AttributeError) as error:
        raise UnsupportedError(f"the events engine cannot be loaded: {error}; {REMEDY}") from None
    if library.snn2chip_events_layer_bytes() != ctypes.sizeof(Layer):
        raise UnsupportedError(f"the events engine was compiled with another layout; {REMEDY}")
    return library


def simd_level(name: str | None = None) -> int:
    """Number of the instruction set to use: `name`, else $SNN2CHIP_SIMD, else the best this processor has.

    Raises:
        InputError: no such instruction set, or this processor lacks it.
        UnsupportedError: there is no library.
    """
    best = int(load().snn2chip_events_simd())
    name = name or os.environ.get(SIMD_VARIABLE) or SIMD[best]
    if name not in SIMD:
        raise InputError(f"{SIMD_VARIABLE}: no instruction set '{name}'; choose {', '.join(SIMD[: best + 1])}")
    if SIMD.index(name) > best:
        raise InputError(f"{SIMD_VARIABLE}: this processor has no {name}; choose {', '.join(SIMD[: best + 1])}")
    return SIMD.index(name)


def unavailable() -> str | None:
    """Why the compiled library cannot be used, or None when it can."""
    try:
        load()
    except UnsupportedError as reason:
        return str(reason)
    return None
