"""Recordings and recipes that are wrong, byte by byte and line by line."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable

from fuzz_bytes import CHANGES as BYTES
from fuzz_bytes import Rng, damage, pick

SIGNATURES = (b"#!AER-DAT", b"\r\n", b"<node", b'">', b"size", b"EVTS", b"\x01\x00\x00\x00")
CHANGES = BYTES


def mutate(seed: bytes, rng: Rng) -> tuple[bytes, list[str]]:
    """One or two changes of bytes."""
    data, said = seed, []
    for _ in range(int(rng.integers(1, 3))):
        data, what = damage(data, rng, SIGNATURES)
        said.append(what)
        if not data:
            break
    return data, said


# ---------------------------------------------------------------------------------------------------- recipes

VALUES: tuple[object, ...] = (
    *(0, -1, 1, 2**31, 2**63, 10**30, 1e308, True, "", "a\x1b[31m", "$x$", "[red]", "x" * 5000, [], [[1]], [1, "a"]),
    *({}, {"a": 1}, "adam", "lif", "../x", "\u202e", 0.5, -0.0),
)


def line_value(lines: list[str], rng: Rng) -> str:
    places = [place for place, line in enumerate(lines) if "=" in line]
    if not places:
        return "no value left"
    place, value = int(pick(rng, places)), pick(rng, VALUES)  # type: ignore[call-overload]
    key = lines[place].partition("=")[0].strip()
    text = json.dumps(value) if not isinstance(value, dict) else "{}"
    lines[place] = f"{key} = {text}"
    return f"{key} = {text[:40]}"


def line_gone(lines: list[str], rng: Rng) -> str:
    return f"without {lines.pop(int(rng.integers(len(lines))))[:40]!r}"


def line_twice(lines: list[str], rng: Rng) -> str:
    place = int(rng.integers(len(lines)))
    lines.insert(int(rng.integers(len(lines))), lines[place])
    return f"twice {lines[place][:40]!r}"


def line_moved(lines: list[str], rng: Rng) -> str:
    lines.insert(int(rng.integers(len(lines))), lines.pop(int(rng.integers(len(lines)))))
    return "a line moved"


def key_wrong(lines: list[str], rng: Rng) -> str:
    place = int(rng.integers(len(lines)))
    lines[place] = str(pick(rng, ["", "\x00", "[", "[[", "a."])) + lines[place] + str(pick(rng, ["", "]", "=", '"']))
    return f"line {lines[place][:40]!r}"


LINES: dict[str, Callable[[list[str], Rng], str]] = {
    call.__name__: call for call in (line_value, line_gone, line_twice, line_moved, key_wrong)
}


def of_text(seed: bytes, rng: Rng) -> tuple[bytes, list[str]]:
    """A recipe with some lines changed, or some bytes."""
    if rng.random() < 0.2:
        return mutate(seed, rng)
    lines, said = seed.decode().splitlines(), []
    for _ in range(int(rng.integers(1, 4))):
        name = str(pick(rng, list(LINES)))
        said.append(f"{name}: {LINES[name](lines, rng)}" if lines else "nothing left")
    return "\n".join(lines).encode("utf-8", "surrogatepass"), said


@functools.cache
def recipes() -> dict[str, bytes]:
    from snn2chip import places as resources

    names = ("digits-tdbn", "nmnist-bntt", "cifar10-vgg-bntt", "resnet19")
    return {name: resources.recipe_file(name).read_bytes() for name in names}
