"""A plain trained network from an ONNX file: weighted layers, ReLUs or thresholds, pooling and residual adds.

Two passes. The first goes through the nodes in their order, checks shapes and turns each into an item: a bias added
after a product becomes the product's, batch norm joins the layer before it, `x - c > d` and its cast become one
threshold. The second walks from the input to the output and finds the chain, and the blocks whose two arms meet in an
add. What a network of ours has no layer for is refused by node name and type.

What is read, with the semantics of the ONNX operators (opset 7 to 10 is lifted by onnx's own version converter):

    Conv, Gemm, MatMul + Add                      weighted layers
    BatchNormalization (as in eval mode)          right behind one of these, or alone on a shortcut
    Relu                                          a ReLU
    [Sub c,] Greater d, Cast to float             a neuron of a single time step: 1 where x > c + d, else 0
    AveragePool, MaxPool, GlobalAveragePool, ReduceMean over height and width
    Flatten, Reshape or Squeeze to (N, features)  as torch writes them, with the shape computed in the graph or not
    Add of two arms                               a residual block
    Sub, Add, Mul, Div, BatchNormalization, Cast, Transpose (N, H, W, C) of the input
                                                  the input's normalization, on top of what is said of it
    Unsqueeze, BatchNormalization, Squeeze        a 1-d batch norm
    Softmax, LogSoftmax at the end                nothing: the decision is the same
    Identity, Dropout, Constant                   nothing
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from snn2chip.errors import InputError, UnsupportedError, reading
from snn2chip.formats.onnx.items import Block, FloatArray, Item, Neuron, Norm, PlainNetwork, Pool, Weighted, inside
from snn2chip.formats.onnx.read_file import read
from snn2chip.formats.onnx.read_nodes import Nodes
from snn2chip.formats.onnx.read_values import Compare, Sum
from snn2chip.text import one_line


def load(path: str | Path) -> PlainNetwork:
    """Read a trained network.

    Raises:
        InputError: unreadable, truncated or damaged; shapes that do not fit; weights that are not finite.
        UnsupportedError: a node, or a way of joining them, that no network of ours has; by node name and type.
    """
    with reading(path, "no ONNX model"):
        try:
            return _Reader(read(Path(path))).network()
        except InputError as error:
            raise type(error)(f"'{path}': {one_line(str(error), 1000)}") from None


class _Reader(Nodes):
    """From input to output."""

    def network(self) -> PlainNetwork:
        """The whole graph."""
        output = self.alias.get(self.graph.output, self.graph.output)
        if output not in self.made:
            raise InputError(f"output '{one_line(self.graph.output)}' is no activation of the network")
        self.followers: dict[str, list[str]] = {}
        for name, made in self.made.items():
            for source in made.sources:
                self.followers.setdefault(source, []).append(name)
        self.visited: set[str] = set()
        items = self.chain(output)
        for name, made in self.made.items():
            if name not in self.visited:
                raise made.node.refuse("does not lie between the image and the scores")
        shape = self.shapes[self.graph.output]
        if not isinstance(items[-1], Weighted) or len(shape) != 1:
            last = self.made[output].node
            raise last.refuse(f"ends the network; the last layer must be dense (Gemm), giving scores, not {shape}")
        neurons = [item for item in inside(items) if isinstance(item, Neuron)]
        if not neurons:
            raise UnsupportedError("the network has no Relu, and no threshold, that could become a neuron")
        spiking = neurons[0].threshold is not None
        for neuron in neurons:
            if (neuron.threshold is not None) != spiking:
                raise UnsupportedError(f"node '{neuron.name}': thresholds and Relu in one network; use one of them")
        channels, height, width = self.shape
        if max(self.scale.shape[1:] + self.shift.shape[1:]) > 1:
            raise UnsupportedError("the file normalizes its input by pixel; a mean and a std by channel are read")
        scale, shift = (np.broadcast_to(x.reshape(-1), (channels,)) for x in (self.scale, self.shift))
        if (scale != 1).any() or shift.any():
            self.notes.append(
                f"the file normalizes its input itself, (x - {_shown(-shift / scale)}) / {_shown(1 / scale)}: that is "
                f"folded into mean and std, on top of --mean and --std"
            )
        return PlainNetwork(
            (channels, height, width), shape[0], items, spiking, self.largest, scale, shift, tuple(self.notes)
        )

    def step(self, value: str) -> Item:
        """The item that makes a value on the way."""
        made = self.made[value]
        self.visited.add(value)
        if isinstance(made.item, Compare):
            raise made.node.refuse("is read before Cast to real numbers, as a threshold, only")
        assert not isinstance(made.item, Sum)
        return made.item

    def chain(self, output: str) -> tuple[Item, ...]:
        value, items = self.graph.input, list[Item]()
        while value != output:
            following = self.followers.get(value, [])
            if len(following) == 2:
                block, value = self.block(following)
                items.append(block)
            elif len(following) == 1 and not isinstance(self.made[following[0]].item, Sum):
                value = following[0]
                items.append(self.step(value))
            else:
                self.dead_end(value, following)
        return self.orderly(items)

    def dead_end(self, value: str, following: list[str]) -> None:
        if len(following) == 1:
            raise self.made[following[0]].node.refuse("of arms that do not come from one place; plain blocks are read")
        where = f"'{one_line(value)}'" if value == self.graph.input else f"of node '{self.made[value].node.name}'"
        readers = ", ".join(f"'{self.made[name].node.name}'" for name in following[:4]) or "nobody"
        raise UnsupportedError(
            f"output {where} is read by {len(following)} nodes ({readers}); one reads it, or two that are added again"
        )

    def block(self, starts: list[str]) -> tuple[Block, str]:
        arms: list[tuple[Item, ...]] = []
        ends: list[str] = []
        for value in starts:
            items: list[Item] = []
            while not isinstance(self.made[value].item, Sum):
                items.append(self.step(value))
                following = self.followers.get(value, [])
                if len(following) != 1:
                    self.dead_end(value, following)
                value = following[0]
            arms.append(self.orderly(items))
            ends.append(value)
        end = self.made[ends[0]].node
        if ends[0] != ends[1]:
            raise end.refuse("of arms that do not come from one place; plain blocks are read")
        self.visited.add(ends[0])
        arms.sort(key=lambda arm: not any(isinstance(item, Neuron) for item in arm))
        kinds = [any(isinstance(item, Neuron) for item in arm) for arm in arms]
        if kinds != [True, False]:
            raise end.refuse("of two arms that both have neurons, or neither; a block has a branch and a shortcut")
        return Block(end.name, arms[0], arms[1]), ends[0]

    def orderly(self, items: list[Item]) -> tuple[Item, ...]:
        """The items with max pooling behind the neuron, where it may stand; and nothing where it may not.

        Both ReLU and a threshold are monotonic, so that the maximum before and after them is the same.
        """
        items = list(items)
        for place in range(len(items) - 1):
            first, second = items[place : place + 2]
            if isinstance(first, Pool) and first.kind == "max" and isinstance(second, Neuron):
                items[place : place + 2] = [second, first]
        last: Item | None = None
        for item in items:
            if isinstance(item, Neuron) and not isinstance(last, (Weighted, Block)):
                raise UnsupportedError(f"node '{item.name}': a neuron stands behind Conv, Gemm or Add{_behind(last)}")
            if isinstance(item, Pool) and item.kind == "max" and not isinstance(last, Neuron):
                raise UnsupportedError(f"node '{item.name}': MaxPool stands next to a neuron{_behind(last)}")
            if isinstance(item, Norm) and len(items) > 1:
                raise UnsupportedError(
                    f"node '{item.name}': BatchNormalization is read right behind Conv or Gemm, or alone on a "
                    f"shortcut{_behind(last)}"
                )
            if (
                isinstance(item, Weighted)
                and item.weight.ndim == 4
                and isinstance(last, Pool)
                and last.kind == "global"
            ):
                raise UnsupportedError(f"node '{item.name}': Conv behind global pooling; use a dense layer (Gemm)")
            last = item
        return tuple(items)


def _shown(values: FloatArray) -> str:
    return ",".join(f"{value:.6g}" for value in dict.fromkeys(values.tolist()))


def _behind(last: Item | None) -> str:
    return ", not first" if last is None else f", not behind '{last.name}'"
