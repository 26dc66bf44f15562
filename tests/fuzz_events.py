"""Recordings and recipes that are wrong, byte by byte and line by line."""

from __future__ import annotations

import functools
import json

from damage import BYTES, Damaged, Rng, changed, mutator, over, pick

SIGNATURES = (b"#!AER-DAT", b"\r\n", b"<node", b'">', b"size", b"EVTS", b"\x01\x00\x00\x00")
CHANGES = BYTES
mutate = mutator(SIGNATURES, 2)

# ---------------------------------------------------------------------------------------------------- recipes

VALUES: tuple[object, ...] = (
    *(0, -1, 1, 2**31, 2**63, 10**30, 1e308, True, "", "a\x1b[31m", "$x$", "[red]", "x" * 5000, [], [[1]], [1, "a"]),
    *({}, {"a": 1}, "adam", "lif", "../x", "\u202e", 0.5, -0.0),
)


class Lines(list[str]):
    def places(self) -> range:
        return range(len(self))

    def values(self) -> list[int]:
        return [place for place, line in enumerate(self) if "=" in line]


def line_value(lines: Lines, place: int, rng: Rng) -> str:
    value = pick(rng, VALUES)
    text = json.dumps(value) if not isinstance(value, dict) else "{}"
    lines[place] = f"{lines[place].partition('=')[0].strip()} = {text}"
    return lines[place][:60]


def line_gone(lines: Lines, place: int, rng: Rng) -> str:
    return f"without {lines.pop(place)[:40]!r}"


def line_twice(lines: Lines, place: int, rng: Rng) -> str:
    lines.insert(int(rng.integers(len(lines))), lines[place])
    return f"twice {lines[place][:40]!r}"


def line_moved(lines: Lines, place: int, rng: Rng) -> str:
    lines.insert(int(rng.integers(len(lines))), lines.pop(place))
    return "moved"


def key_wrong(lines: Lines, place: int, rng: Rng) -> str:
    lines[place] = pick(rng, ["", "\x00", "[", "[[", "a."]) + lines[place] + pick(rng, ["", "]", "=", '"'])
    return f"is {lines[place][:40]!r}"


LINES = over("values", line_value) | over("places", line_gone, line_twice, line_moved, key_wrong)


def by_lines(seed: bytes, rng: Rng) -> Damaged:
    lines = Lines(seed.decode().splitlines())
    said = changed(lines, LINES, rng, (1, 2, 3))
    return "\n".join(lines).encode("utf-8", "surrogatepass"), said


of_text = mutator(SIGNATURES, 2, (0.8, by_lines))


@functools.cache
def recipes() -> dict[str, bytes]:
    from snn2chip import places as resources

    names = ("digits-tdbn", "nmnist-bntt", "cifar10-vgg-bntt-t2", "resnet19")
    return {name: resources.recipe_file(name).read_bytes() for name in names}
