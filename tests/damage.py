"""Damage to files of any format: bytes cut, changed, moved; values replaced; archives written wrongly.

Everything is deterministic in its generator. A format says what its values are (`Tree`), adds the changes that only it
knows, and makes its ``mutate(seed, rng)`` of them by `mutator`.
"""

from __future__ import annotations

import functools
import io
import struct
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rng = np.random.Generator
Damaged = tuple[bytes, list[str]]
"""A file's bytes and what was done to them."""

EDGES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**64 - 1)


def pick(rng: Rng, items: Sequence[Any]) -> Any:
    """One item of a sequence; numpy's own choice would make an array of it."""
    return items[int(rng.integers(len(items)))]


# ----------------------------------------------------------------------------------------------------- bytes


def cut(data: bytearray, rng: Rng) -> str:
    size = int(rng.integers(len(data)))
    del data[size:]
    return f"cut to {size} bytes"


def flip(data: bytearray, rng: Rng) -> str:
    places = [int(place) for place in rng.integers(0, len(data), int(rng.integers(1, 4)))]
    for place in places:
        data[place] ^= 1 << int(rng.integers(8))
    return f"bits flipped at {places}"


def change(data: bytearray, rng: Rng) -> str:
    places = [int(place) for place in rng.integers(0, len(data), 12)]
    for place in places:
        data[place] = int(rng.integers(256))
    return f"bytes changed at {places}"


def overwrite(data: bytearray, rng: Rng) -> str:
    start, size = int(rng.integers(len(data))), int(rng.integers(1, 65))
    fill = pick(rng, [rng.bytes(size), bytes(size), b"\xff" * size])
    data[start : start + size] = fill
    return f"{size} bytes overwritten at {start}"


def insert(data: bytearray, rng: Rng) -> str:
    start, size = int(rng.integers(len(data))), int(rng.integers(1, 33))
    data[start:start] = rng.bytes(size)
    return f"{size} bytes inserted at {start}"


def remove(data: bytearray, rng: Rng) -> str:
    start, size = int(rng.integers(len(data))), int(rng.integers(1, 65))
    del data[start : start + size]
    return f"{size} bytes removed at {start}"


def move(data: bytearray, rng: Rng) -> str:
    """A block of the file over another place in it: valid structures where they do not belong."""
    size = int(2 ** rng.integers(3, 10))
    source, target = (int(place) // 8 * 8 for place in rng.integers(0, len(data), 2))
    data[target : target + size] = data[source : source + size]
    return f"{size} bytes of {source} copied over {target}"


def integer(data: bytearray, rng: Rng) -> str:
    """A number at the edge of its type in the place of 1 to 8 bytes."""
    size = int(2 ** rng.integers(0, 4))
    place = int(rng.integers(max(1, len(data) - size)))
    value = int(pick(rng, EDGES)) % 2 ** (8 * size)
    data[place : place + size] = value.to_bytes(size, "little")
    return f"{value} in {size} bytes at {place}"


def address(data: bytearray, rng: Rng) -> str:
    """A word that can be an address in the file, replaced by another such word, or by its own place: loops."""
    words = [place for place in range(0, len(data) - 8, 8) if 0 < struct.unpack_from("<Q", data, place)[0] < len(data)]
    if not words:
        return flip(data, rng)
    place, other = int(pick(rng, words)), int(pick(rng, words))
    value = pick(rng, [struct.unpack_from("<Q", data, other)[0], place // 8 * 8, other, len(data) - 8])
    struct.pack_into("<Q", data, place, value)
    return f"address {value} at {place}"


def swap(data: bytearray, rng: Rng) -> str:
    first, second = sorted(int(place) for place in rng.integers(0, max(1, len(data) - 8), 2))
    data[first : first + 8], data[second : second + 8] = data[second : second + 8], data[first : first + 8]
    return f"words at {first} and {second} exchanged"


def append(data: bytearray, rng: Rng) -> str:
    size = int(rng.integers(1, 5000))
    data += rng.bytes(size)
    return f"{size} bytes appended"


BYTES: dict[str, Callable[[bytearray, Rng], str]] = {
    call.__name__: call for call in (cut, flip, change, overwrite, insert, remove, move, integer, address, swap, append)
}


def near(data: bytes, rng: Rng, signatures: tuple[bytes, ...], reach: int = 96) -> int | None:
    """A place shortly after one of the signatures that begin the format's own structures."""
    found: list[int] = []
    for signature in signatures:
        start = data.find(signature)
        while start >= 0 and len(found) < 5000:
            found.append(start)
            start = data.find(signature, start + 1)
    if not found:
        return None
    return min(len(data) - 1, int(pick(rng, found)) + int(rng.integers(reach)))


def damage(data: bytes, rng: Rng, signatures: tuple[bytes, ...] = ()) -> tuple[bytes, str]:
    """One change of bytes; half of those with signatures hit the structures behind them."""
    changed = bytearray(data)
    place = near(data, rng, signatures) if signatures and rng.random() < 0.5 else None
    if place is not None:
        size = int(2 ** rng.integers(0, 4))
        value = int(pick(rng, [*EDGES, int(rng.integers(256)), len(data), place])) % 2 ** (8 * size)
        changed[place : place + size] = value.to_bytes(size, "little")
        return bytes(changed), f"structure: {value} in {size} bytes at {place}"
    if not changed:
        return b"", "nothing left to damage"
    name = pick(rng, list(BYTES))
    said = BYTES[name](changed, rng)  # before the bytes are taken
    return bytes(changed), f"{name}: {said}"


def struck(data: bytes, rng: Rng, signatures: tuple[bytes, ...] = (), most: int = 3) -> Damaged:
    """Up to `most` changes of bytes."""
    said: list[str] = []
    for _ in range(int(rng.integers(1, most + 1))):
        data, what = damage(data, rng, signatures)
        said.append(what)
    return data, said


def mutator(
    signatures: tuple[bytes, ...], most: int, *ways: tuple[float, Callable[[bytes, Rng], Damaged]]
) -> Callable[[bytes, Rng], Damaged]:
    """A format's `mutate`: each of `ways` with its probability, otherwise changes of bytes; now and then both."""

    def mutate(seed: bytes, rng: Rng) -> Damaged:
        data, said = seed, []
        chance = rng.random()
        for share, way in ways:
            if 0 <= chance < share:
                data, said = way(seed, rng)
            chance -= share
        if chance >= 0 or rng.random() < 0.08:
            data, what = struck(data, rng, signatures, most)
            said = said + what
        return data, said

    return mutate


# ---------------------------------------------------------------------------------------------------- values

WORDS = (
    *("input", "conv", "dense", "dense_rec", "flatten", "pool", "average", "concat", "CUBA", "LOIHI", "SNN2CHIP_STEPS"),
    *("SDNN", "RF", "LIF", "IF", "Affine", "Conv2d", "NIRGraph", "Input", "Output", "membrane", "spike_count", "same"),
    *("", " ", "\n", "a\nb", "Ä\u2028", "'", "{}", "[]", "[[", '{"1": 5}', '{"1": {"l": [0]}}', "NaN", "1e999", "-1"),
    *("conv\r", "x" * 300, "[" * 5000, "9" * 5000, '"' + "x" * 70000 + '"', "../x", "\x1b[31m", "x" * 5000),
)
NUMBERS = (0, 1, -1, 2, 3, 5, 62, 63, 127, 255, 256, -257, 4095, 4096, 65535, 65536, 2**17, 2**31 - 1, 2**31, -(2**31))
HUGE = (2**32, 2**40, 2**53, 2**62, 2**63 - 1, -(2**63))
FLOATS = (float("nan"), float("inf"), float("-inf"), 0.5, -0.0, 1e-320, 1e-45, 3e38, 1e308, 2.0**60, -3.0)
TYPES: tuple[Any, ...] = (
    *("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", ">i4", ">f8", "f2", "f4", "f8", "c8", "c16", "?", "S2", "U3"),
    *("M8[s]", "O"),
)
SHAPES: tuple[tuple[int, ...], ...] = (
    *((), (0,), (1,), (2,), (3,), (1, 1), (0, 5), (2, 0, 3), (1, 1, 1), (2, 3), (4, 2, 3, 3), (1,) * 32),
)


def number(rng: Rng) -> int | float:
    return pick(rng, pick(rng, (NUMBERS, NUMBERS, HUGE, FLOATS)))  # type: ignore[no-any-return]


def array_of(dtype: Any, shape: tuple[int, ...], rng: Rng) -> Any:
    """An array of any type."""
    dtype = np.dtype(dtype)
    if dtype.kind == "O":
        return np.full(shape, {"a": 1}, dtype=object)
    if dtype.kind in "iufb?c":
        low, high = (0, 2) if dtype.kind == "b" else (0, 100) if dtype.kind == "u" else (-100, 100)
        return rng.integers(low, high, shape).astype(dtype)
    return np.full(shape, b"conv", dtype=dtype) if dtype.kind == "S" else np.zeros(shape, dtype=dtype)


class Tree:
    """A file's values by name: here a dictionary of arrays; other formats list, read and write theirs."""

    types, array_of = TYPES, staticmethod(array_of)
    new: Sequence[Any] = ("", "../x", "a\nb", "\x1b[31m", "x" * 300, "0", "weight", "bias", "input")

    def __init__(self, content: Any) -> None:
        self.content = content

    def values(self) -> list[Any]:
        """The names of all values."""
        return list(self.content)

    def texts(self) -> list[Any]:
        """The names of those that are text."""
        return []

    def get(self, name: Any) -> NDArray[Any] | None:
        """Numbers or text, as they are stored; None for what is neither."""
        return np.asarray(self.content[name])

    def put(self, name: Any, value: Any, dtype: Any = None) -> None:
        self.content[name] = np.asarray(value, dtype)

    def remove(self, name: Any) -> None:
        del self.content[name]

    def move(self, name: Any, new: Any) -> None:
        self.content[new] = self.content.pop(name)


def missing(tree: Tree, name: Any, rng: Rng) -> str:
    tree.remove(name)
    return "removed"


def renamed(tree: Tree, name: Any, rng: Rng) -> str:
    new = pick(rng, tree.new)
    tree.move(name, new)
    return f"is now {new!r:.40}"


def typed(tree: Tree, name: Any, rng: Rng) -> str:
    """The same place with values of any type, the old ones or others."""
    dtype, old = np.dtype(pick(rng, tree.types)), tree.get(name)
    if old is not None and old.dtype.kind in "iufb" and dtype.kind not in "OV" and rng.random() < 0.5:
        with np.errstate(all="ignore"):
            made = old.astype(dtype)
    else:
        shape = old.shape if old is not None and old.size < 10_000 and rng.random() < 0.7 else pick(rng, SHAPES)
        made = tree.array_of(dtype, shape, rng)
    tree.put(name, made, dtype)
    return f"is {dtype!r} {made.shape}"


def shaped(tree: Tree, name: Any, rng: Rng) -> str:
    """The same values in another shape, or fewer or more of them."""
    values = tree.get(name)
    if values is None:
        return typed(tree, name, rng)
    ways: dict[str, Callable[[], Any]] = {
        "flat": lambda: values.reshape(-1),
        "one axis more": lambda: values[None],
        "one axis more at the end": lambda: values[..., None],
        "transposed": lambda: values.T,
        "doubled": lambda: np.concatenate([np.atleast_1d(values)] * 2),
        "empty": lambda: np.atleast_1d(values)[:0],
        "empty at the end": lambda: np.atleast_1d(values)[..., :0],
        "the first": lambda: np.atleast_1d(values)[0],
        "without the first": lambda: np.atleast_1d(values)[1:],
        "any": lambda: np.zeros(pick(rng, SHAPES), values.dtype),
    }
    way = pick(rng, list(ways))
    tree.put(name, np.array(ways[way]()))
    return f"is {way}"


def valued(tree: Tree, name: Any, rng: Rng) -> str:
    """The same shape with one number at an edge, or everywhere."""
    values = tree.get(name)
    if values is None or values.dtype.kind not in "iufb":
        return worded(tree, name, rng)
    value = number(rng)
    with np.errstate(all="ignore"):
        values = values.astype("f8" if isinstance(value, float) else "i8")
    if values.size and rng.random() < 0.5:
        values.flat[int(rng.integers(values.size))] = value
    else:
        values = np.full(values.shape, value)
    tree.put(name, values)
    return f"holds {value}"


def worded(tree: Tree, name: Any, rng: Rng) -> str:
    """Another word where there is text, or text where there is none."""
    texts = tree.texts()
    name = pick(rng, texts) if texts and rng.random() < 0.8 else name
    word = pick(rng, WORDS)
    fixed = np.array(word.encode() or b" ")
    tree.put(name, pick(rng, (fixed, fixed[None], word)))
    return f"({name}) is the text {word[:40]!r}"


Change = Callable[[Any, Any, Rng], str]
Changes = Mapping[str, tuple[str, Change]]
"""By name, the method of the tree that lists where a change may be made, and the change."""


def over(where: str, *calls: Change) -> dict[str, tuple[str, Change]]:
    return {call.__name__: (where, call) for call in calls}


VALUES = over("values", missing, renamed, typed, shaped, valued, worded)


def changed(
    tree: Any, changes: Changes, rng: Rng, times: Sequence[int], often: Sequence[str] = (), last: Sequence[str] = ()
) -> list[str]:
    """Make some changes, those of `often` more often, none after one of `last`; what was done."""
    said = []
    for _ in range(pick(rng, times)):
        kind = pick(rng, (*changes, *often))
        where, change = changes[kind]
        try:
            name = pick(rng, getattr(tree, where)())
            shown = str(getattr(name, "name", name))[:60]
            said.append(f"{kind}: {shown} {change(tree, name, rng)}")
        except Exception as error:  # after earlier changes
            said.append(f"{kind}: not possible here ({type(error).__name__})")
        if kind in last:
            break
    return said


# --------------------------------------------------------------------------------------------------- archives

METHODS = {"deflated": zipfile.ZIP_DEFLATED, "bomb": zipfile.ZIP_DEFLATED}
METHODS |= {"lzma": zipfile.ZIP_LZMA, "bzip2": zipfile.ZIP_BZIP2}
ARCHIVES = (
    *(*METHODS, "missing", "twice", "overlapping", "renamed", "longer", "short", "text", "many", "path"),
    *("encrypted", "version"),
)


@functools.cache
def _zeros(size: int) -> bytes:
    return bytes(size)


def entry(seed: bytes, rng: Rng, which: str, change: Callable[[bytes], tuple[bytes, str]]) -> Damaged:
    """An archive whose entry, one whose name ends so, is changed."""
    with zipfile.ZipFile(io.BytesIO(seed)) as old:
        entries = {item.filename: old.read(item) for item in old.infolist()}
    name = pick(rng, [name for name in entries if name.endswith(which)])
    entries[name], said = change(entries[name])
    return zipped(entries), [f"entry: {name} {said}"]


def zipped(entries: Mapping[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", method) as new:
        for key, content in entries.items():
            new.writestr(key, content)
    return memory.getvalue()


def archive(seed: bytes, rng: Rng) -> Damaged:
    """Archives that inflate, repeat, lack or rename their entries, keep one many times, or are of another kind."""
    if not zipfile.is_zipfile(io.BytesIO(seed)):
        return struck(seed, rng)
    way = pick(rng, ARCHIVES)
    with zipfile.ZipFile(io.BytesIO(seed)) as old:
        entries = {item.filename: old.read(item) for item in old.infolist()}
    name = pick(rng, list(entries))
    if way == "bomb":
        entries[pick(rng, (name, f"{name.partition('/')[0]}/data/99"))] = _zeros(2**28)
    elif way == "missing":
        del entries[name]
    elif way == "renamed":
        entries[pick(rng, ("x", "other/data.pkl", f"{name}x", "../../x"))] = entries.pop(name)
    elif way == "longer":
        entries[name] += rng.bytes(1000)
    elif way == "short":
        entries[name] = entries[name][: int(rng.integers(max(1, len(entries[name]))))]
    elif way == "text":
        entries[name] = b"hello"
    elif way == "many":
        entries |= {f"x/{index}": b"" for index in range(3000)}
    elif way == "path":
        entries = {f"/a/../{key}": value for key, value in entries.items()}
    data = zipped(entries, METHODS.get(way, zipfile.ZIP_STORED))
    if way in ("twice", "overlapping"):
        data = _repeated(data, 3000 if way == "overlapping" else 1)
    elif way in ("encrypted", "version"):
        place = data.rindex(b"PK\x01\x02") + (8 if way == "encrypted" else 6)
        data = data[:place] + bytes([1 if way == "encrypted" else 109]) + data[place + 1 :]
    return data, [f"archive: {way}, {name}"]


def _repeated(data: bytes, times: int) -> bytes:
    """The last entry of the directory again and again: the same stored bytes, counted as often."""
    end = data.rindex(b"PK\x05\x06")
    start = int.from_bytes(data[end + 16 : end + 20], "little")
    last = data.rindex(b"PK\x01\x02", start, end)
    entry = data[last:end]
    count = int.from_bytes(data[end + 10 : end + 12], "little") + times
    size = end - start + len(entry) * times
    tail = bytearray(data[end:])
    tail[8:10] = tail[10:12] = (count % 65536).to_bytes(2, "little")
    tail[12:16] = size.to_bytes(4, "little")
    return data[:end] + entry * times + bytes(tail)
