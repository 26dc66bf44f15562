"""Which cores a spike goes to, and how many synapses it drives in each: from a placed layer to the one that reads it.

A tile is a product of columns, rows and channels, and so is what a kernel reads of its input: what comes to each core
is a product of three small matrices, one an axis. Places whose columns in them are the same are one *class*; spikes are
counted by classes of channels, rows and columns, which is all that is needed (`snn2chip.ir.trace.Classes`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from snn2chip.errors import InputError
from snn2chip.fit.placement import Placement
from snn2chip.ir import FloatArray, IntArray, Shape
from snn2chip.ir.trace import Classes


def taps(inputs: int, outputs: int, kernel: int, stride: int, padding: int, dilation: int) -> IntArray:
    """Along one side of a convolution: 1 where output o reads input i, (outputs, inputs); no two taps read the same."""
    reads = np.zeros((outputs, inputs), dtype=np.int64)
    for tap in range(kernel):
        read = np.arange(outputs) * stride - padding + tap * dilation
        inside = (read >= 0) & (read < inputs)
        reads[np.flatnonzero(inside), read[inside]] = 1
    return reads


Axes = tuple[FloatArray, FloatArray, FloatArray]  # of columns, rows, channels: (tiles, classes) each


def joined(axes: Axes) -> FloatArray:
    """For one spike of each class, what comes to each core: (classes of channels x rows x columns, cores), cores in the
    order of `Placement.regions`."""
    product = np.einsum("Ww,Hh,Cc->chwWHC", *axes)
    whole: FloatArray = product.reshape(np.prod(product.shape[:3]), -1)
    return whole


@dataclass(frozen=True, eq=False)
class Station:
    """Where spikes come from: a layer on its cores, or the port, which is on none (`placed` None).

    classes  of its neurons' channels, rows and columns
    sizes    neurons of each class, (channels, rows, columns)
    own      1 for the tile that a class is in; the port is one tile
    start    how many cores come before its own
    """

    name: str
    placed: Placement | None
    shape: Shape
    classes: Classes
    own: Axes
    start: int

    @property
    def cores(self) -> int:
        return 0 if self.placed is None else self.placed.cores

    @cached_property
    def sizes(self) -> FloatArray:
        """If all fired: counts of every class, (channels, rows, columns)."""
        sizes: FloatArray = np.einsum("c,h,w->chw", *(np.bincount(part).astype(np.float64) for part in self.classes))
        return sizes


@dataclass(frozen=True, eq=False)
class Link:
    """From the spikes of a station to the cores of one that reads them: the next, or itself where it is recurrent.

    synapses  synaptic operations that one spike comes to in each core
    reads     1 for each core that a spike goes to: once, however many of its neurons read it
    """

    source: Station
    reader: Station
    synapses: Axes

    @property
    def reads(self) -> Axes:
        wide, high, deep = ((part > 0).astype(np.float64) for part in self.synapses)
        return wide, high, deep

    def routes(self) -> int:
        """Pairs of a core that sends and one that it sends to."""
        found = ((own @ reads.T > 0).sum() for own, reads in zip(self.source.own, self.reads, strict=True))
        return math.prod(map(int, found))

    def axons(self) -> int:
        """Spikes to cores if all of the source fires once: of each, one to every core with a neuron that reads it."""
        sides = zip(self.source.classes[::-1], self.reads, strict=True)
        return math.prod(int(np.bincount(classes) @ reads.sum(0)) for classes, reads in sides)


def network(placed: Sequence[Placement]) -> tuple[list[Station], list[Link]]:
    """The port, unless the first layer is one of input neurons, and the layers; and what reads what.

    Raises:
        InputError: the sides of a convolution's input are not known.
    """
    first = placed[0].layer
    where: list[Placement | None] = [*placed] if first.kind == "input" else [None, *placed]
    found: list[Station] = []
    reached: list[Axes | None] = []
    for each, after in zip(where, [*where[1:], None], strict=True):
        shape = first.inputs if each is None else each.layer.shape
        extent = (*shape[:0:-1], shape[0]) if len(shape) == 3 else (1, 1, shape[0])  # W, H, C
        tile = extent if each is None else each.tile
        own = [_tiles(n, size) for n, size in zip(extent, tile, strict=True)]
        reach = None if after is None else _reach(after, shape)
        keys = [[mine] if reach is None else [mine, other] for mine, other in zip(own, reach or own, strict=True)]
        firsts, classes = zip(*(classes_of(np.concatenate(key)) for key in keys), strict=True)
        start = found[-1].start + found[-1].cores if found else 0
        column, row, channel = (mine[:, some] for mine, some in zip(own, firsts, strict=True))
        name = "input" if each is None else each.layer.name
        found.append(Station(name, each, shape, Classes(*classes[::-1]), (column, row, channel), start))
        if reach is not None:
            wide, high, deep = (other[:, some] for other, some in zip(reach, firsts, strict=True))
            reached.append((wide, high, deep))
    links = []
    for number, source in enumerate(found):
        if source.placed is not None and source.placed.layer.recurrent:
            links.append(Link(source, source, _all(source.placed, source.sizes.shape)))
        if number + 1 < len(found):
            reader, axes = found[number + 1], reached[number]
            assert reader.placed is not None and axes is not None
            if reader.placed.layer.kind == "dense":
                axes = _all(reader.placed, source.sizes.shape)
            links.append(Link(source, reader, axes))
    return found, links


def _reach(reader: Placement, shape: Shape) -> Axes:
    """Neurons of each tile that read each column, row and channel, (tiles, places); of a dense layer, all alike: 1."""
    to = reader.layer
    if to.kind == "dense":
        sides = shape if len(shape) == 3 else (*shape, 1, 1)
        column, row, channel = (np.ones((1, n)) for n in sides[::-1])
        return column, row, channel
    if len(shape) != 3:
        raise InputError(f"{to.name}: a convolution whose input has no sides; give a file with an input layer")
    wide, high, deep = (_tiles(n, size) for n, size in zip(to.extent, reader.tile, strict=True))
    rows, columns = (
        taps(shape[1 + i], to.shape[1 + i], to.kernel[i], to.stride[i], to.padding[i], to.dilation[i]) for i in range(2)
    )
    groups = (np.arange(channels) // (channels // to.groups) for channels in (to.shape[0], shape[0]))
    out, into = groups
    return wide @ columns, high @ rows, deep @ (out[:, None] == into)


def classes_of(keys: FloatArray) -> tuple[IntArray, IntArray]:
    """Of columns: the first of each class, in their order, and the class of every one."""
    _, firsts, classes = np.unique(keys, axis=1, return_index=True, return_inverse=True)
    order = np.argsort(firsts)
    return firsts[order], np.argsort(order)[classes.ravel()]


def _all(reader: Placement, classes: tuple[int, ...]) -> Axes:
    """Of a dense layer's cores: each spike drives all of its neurons there."""
    channels, rows, columns = classes
    neurons = _tiles(reader.layer.neurons, reader.tile[2]).sum(1)
    return np.ones((1, columns)), np.ones((1, rows)), np.repeat(neurons[:, None], channels, 1)


def _tiles(places: int, size: int) -> FloatArray:
    """1 where a place is in a tile of `size`, (tiles, places)."""
    tile = np.arange(places) // size
    inside: FloatArray = (np.arange(tile[-1] + 1)[:, None] == tile).astype(np.float64)
    return inside
