"""One layer on cores: the tile of each, what the fullest takes, and every tile that a chip's limits allow."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

from snn2chip.chip.profile import Capacity
from snn2chip.fit.demand import Demand
from snn2chip.fit.words import blocks, synaptic_words

Tile = tuple[int, int, int]
Limit = Literal["neurons", "axons_in", "axons_out", "synaptic_words"]


@dataclass(frozen=True)
class Use:
    """What one core takes, of what `Capacity` limits."""

    neurons: int
    axons_in: int
    axons_out: int
    synaptic_words: int

    def exceeded(self, capacity: Capacity) -> Limit | None:
        """The first limit that it goes over."""
        names: tuple[Limit, ...] = ("axons_in", "synaptic_words", "neurons", "axons_out")
        return next((name for name in names if getattr(self, name) > getattr(capacity, name).value), None)

    def fullest(self, capacity: Capacity) -> Limit:
        """The limit that it comes nearest to."""
        names: list[Limit] = ["neurons", "axons_in", "axons_out", "synaptic_words"]
        return max(names, key=lambda name: getattr(self, name) / getattr(capacity, name).value)


def use_of(layer: Demand, tile: Tile, capacity: Capacity) -> Use:
    """What a core with a tile (W, H, C) of a layer takes.

    A position of a map has one axon for each block of its channels (`words.blocks`), in and out (printed: 2 for 24, 36
    and 48 channels, 1 for powers of two, whatever the stride, and 1 for input neurons); a neuron that a dense layer
    reads, or nothing, has its own.
    """
    width, height, channels = tile
    ways = len(blocks(channels)) if layer.kind == "conv" else 1
    neurons = width * height * channels
    axons_out = neurons if layer.feeds == "dense" else ways * width * height
    axons_in = layer.fan_in if layer.kind == "dense" else ways
    return Use(neurons, axons_in, axons_out, synaptic_words(layer, channels, capacity))


@dataclass(frozen=True)
class Placement:
    """A layer in tiles of one size, the last in each direction what is left."""

    layer: Demand
    tile: Tile

    @property
    def grid(self) -> Tile:
        """Tiles along W, H and C."""
        width, height, channels = (-(-n // size) for n, size in zip(self.layer.extent, self.tile, strict=True))
        return width, height, channels

    @property
    def cores(self) -> int:
        return math.prod(self.grid)

    def regions(self) -> Iterator[tuple[slice, slice, slice]]:
        """Where each core's tile lies in (W, H, C); channels of one position first, then rows, then columns."""
        steps = [range(0, n, size) for n, size in zip(self.layer.extent, self.tile, strict=True)]
        for start in product(*steps):
            ends = (min(at + size, n) for at, size, n in zip(start, self.tile, self.layer.extent, strict=True))
            width, height, channels = (slice(at, end) for at, end in zip(start, ends, strict=True))
            yield width, height, channels

    def uses(self, capacity: Capacity) -> list[Use]:
        """What each core takes, in the order of `regions`."""
        known: dict[Tile, Use] = {}
        found = []
        for region in self.regions():
            width, height, channels = (part.stop - part.start for part in region)
            tile = (width, height, channels)
            if tile not in known:
                known[tile] = use_of(self.layer, tile, capacity)
            found.append(known[tile])
        return found

    def fullest(self, capacity: Capacity) -> Use:
        """What the fullest core takes: that of a whole tile, and where fewer channels are left that lie in more blocks
        than the tile's, the most of either."""
        width, height, channels = self.tile
        whole = use_of(self.layer, self.tile, capacity)
        left = self.layer.extent[2] % channels
        if not left:
            return whole
        last = use_of(self.layer, (width, height, left), capacity)
        return Use(*map(max, vars(whole).values(), vars(last).values()))


def without(capacity: Capacity, limit: Limit) -> Capacity:
    """The same without this limit."""
    return replace(capacity, **{limit: replace(getattr(capacity, limit), value=2**62)})
