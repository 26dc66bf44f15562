"""Damage to files of any format: bytes cut, changed, moved. Every function is deterministic in its generator."""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np

Rng = np.random.Generator
Change = Callable[[bytearray, Rng], str]

EDGES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**64 - 1)


def pick(rng: Rng, items: object) -> object:
    """One item of a sequence; numpy's own choice would make an array of it."""
    return items[int(rng.integers(len(items)))]  # type: ignore[arg-type, index]


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
    data[start : start + size] = fill  # type: ignore[assignment]
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
    value = int(pick(rng, EDGES)) % 2 ** (8 * size)  # type: ignore[call-overload]
    data[place : place + size] = value.to_bytes(size, "little")
    return f"{value} in {size} bytes at {place}"


def address(data: bytearray, rng: Rng) -> str:
    """A word that can be an address in the file, replaced by another such word, or by its own place: loops."""
    words = [place for place in range(0, len(data) - 8, 8) if 0 < struct.unpack_from("<Q", data, place)[0] < len(data)]
    if not words:
        return flip(data, rng)
    place, other = int(pick(rng, words)), int(pick(rng, words))  # type: ignore[call-overload]
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


CHANGES: dict[str, Change] = {
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
    return min(len(data) - 1, int(pick(rng, found)) + int(rng.integers(reach)))  # type: ignore[call-overload]


def damage(data: bytes, rng: Rng, signatures: tuple[bytes, ...] = ()) -> tuple[bytes, str]:
    """One change of bytes; half of those with signatures hit the structures behind them."""
    changed = bytearray(data)
    place = near(data, rng, signatures) if signatures and rng.random() < 0.5 else None
    if place is not None:
        size = int(2 ** rng.integers(0, 4))
        value = int(pick(rng, [*EDGES, int(rng.integers(256)), len(data), place])) % 2 ** (8 * size)  # type: ignore[call-overload]
        changed[place : place + size] = value.to_bytes(size, "little")
        return bytes(changed), f"structure: {value} in {size} bytes at {place}"
    name = str(pick(rng, list(CHANGES)))
    if not changed:
        return b"", "nothing left to damage"
    return bytes(changed), f"{name}: {CHANGES[name](changed, rng)}"
