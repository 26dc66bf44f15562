"""Files of arrays that are wrong: inputs, traces and recordings as .npz; and the readers that they go to."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from fuzz_bytes import Rng, damage, pick

SIGNATURES = (b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06", b"\x93NUMPY", b"descr", b"shape")
Arrays = dict[str, Any]


def kind(arrays: Arrays, name: str, rng: Rng) -> str:
    to = str(pick(rng, ["f4", "f8", "u1", "i1", "i2", "u8", ">i4", "c8", "?", "U3", "S2", "f2", "M8[s]"]))
    with np.errstate(all="ignore"):
        arrays[name] = arrays[name].astype(to)
    return f"{name} as {to}"


def shape(arrays: Arrays, name: str, rng: Rng) -> str:
    value = np.atleast_1d(arrays[name])
    arrays[name] = pick(
        rng, [value[None], value.ravel(), value[:0], value[..., :0], value.T, value[..., None], value.ravel()[:1]]
    )
    return f"{name} of shape {arrays[name].shape}"


def value(arrays: Arrays, name: str, rng: Rng) -> str:
    number = int(pick(rng, [-1, 2, 255, 256, -(2**31), 2**31, 2**62, 2**63 - 1, -(2**63)]))  # type: ignore[call-overload]
    arrays[name] = arrays[name].astype(np.int64)
    if arrays[name].size:
        arrays[name].flat[int(rng.integers(arrays[name].size))] = number
    return f"{number} in {name}"


def scalar(arrays: Arrays, name: str, rng: Rng) -> str:
    arrays[name] = np.array(pick(rng, [0, 1.5, "text", b"bytes", True, float("nan")]))
    return f"{name} is {arrays[name]!r}"


def objects(arrays: Arrays, name: str, rng: Rng) -> str:
    arrays[name] = np.array([{"a": int(rng.integers(9))}, None], dtype=object)
    return f"{name} of objects"


def gone(arrays: Arrays, name: str, rng: Rng) -> str:
    del arrays[name]
    return f"without {name}"


def renamed(arrays: Arrays, name: str, rng: Rng) -> str:
    new = str(pick(rng, ["", "../x", "a\nb", "\x1b[31m", "offsets", "t_us", "sensor", "x" * 300, "input"]))
    arrays[new] = arrays.pop(name)
    return f"{name} named {new!r}"


CHANGES: dict[str, Callable[[Arrays, str, Rng], str]] = {
    call.__name__: call for call in (kind, shape, value, scalar, objects, gone, renamed)
}


def _entries(seed: bytes, rng: Rng) -> tuple[bytes, str]:
    """Another archive of the same entries, one of them changed, or its fields."""
    with zipfile.ZipFile(io.BytesIO(seed)) as old:
        entries = {item.filename: old.read(item) for item in old.infolist()}
    name = str(pick(rng, list(entries)))
    way = str(pick(rng, ["text", "short", "claims", "npy", "lzma", "bzip2", "encrypted", "version", "header"]))
    if way in ("text", "npy"):
        entries[name] = b"hello" if way == "text" else entries[name][:10] + b"(" * 5000
    elif way == "short":
        entries[name] = entries[name][: int(rng.integers(len(entries[name])))]
    elif way == "claims":
        huge = str(pick(rng, ["(9999999999999,)", "(-1,)", "(2**70,)", "(1e3,)", "(99999999, 99999999)"]))
        head = "{'descr': '<i8', 'fortran_order': False, 'shape': " + huge + ", }"
        entries[name] = b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + head.ljust(117).encode() + b"\n"
    elif way == "header":
        entries[name] = damage(entries[name][:128], rng)[0] + entries[name][128:]
    memory = io.BytesIO()
    method = {"lzma": zipfile.ZIP_LZMA, "bzip2": zipfile.ZIP_BZIP2}.get(way, zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(memory, "w", method) as new:
        for key, content in entries.items():
            new.writestr(key, content)
    data = bytearray(memory.getvalue())
    if way in ("encrypted", "version"):
        place = data.rindex(b"PK\x01\x02") + (8 if way == "encrypted" else 6)
        data[place] = 1 if way == "encrypted" else 109
    return bytes(data), f"entry {way}: {name}"


def mutate(seed: bytes, rng: Rng) -> tuple[bytes, list[str]]:
    """An .npz with arrays changed, entries changed, or bytes."""
    chance = rng.random()
    if chance < 0.5:
        with np.load(io.BytesIO(seed)) as file:
            arrays, said = dict(file), []
        for _ in range(int(rng.integers(1, 3))):
            if arrays:
                way, name = str(pick(rng, list(CHANGES))), str(pick(rng, list(arrays)))
                try:
                    said.append(f"{way}: {CHANGES[way](arrays, name, rng)}")
                except (ValueError, TypeError, OverflowError) as error:  # after earlier changes
                    said.append(f"{way}: not possible here ({type(error).__name__})")
        memory = io.BytesIO()
        with zipfile.ZipFile(memory, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, found in arrays.items():
                content = io.BytesIO()
                np.save(content, found, allow_pickle=True)
                archive.writestr(f"{name}.npy", content.getvalue())
        return memory.getvalue(), said
    if chance < 0.75:
        data, what = _entries(seed, rng)
        return data, [what]
    data, what = damage(seed, rng, SIGNATURES)
    return data, [what]


def read_input(path: Path) -> object:
    """What `simulate --input` reads."""
    from fuzz_seeds import small_chain

    from snn2chip.simulate import trace

    return trace.load_input(path, small_chain())


def read_trace(path: Path) -> object:
    """What `verify` reads of Lava's answer."""
    from fuzz_seeds import small_chain

    from snn2chip.simulate import trace

    return trace.load(path, small_chain())
