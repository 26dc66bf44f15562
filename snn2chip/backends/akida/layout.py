"""A chain of one time step in Akida's own terms, with the same sums and spikes for every input.

At T = 1 a neuron of ours fires where ``sum + b > th``; a unit of Akida fires where its sum exceeds its threshold, one a
channel, strictly. Weights of a layer are divided by the greatest number that divides them all, `unit`, since quantized
weights may be even up to twice the range. With sum = unit S::

    unit S + b > th    where and only where    S > floor((th - b) / unit)

The first layer takes pixels x = p + c instead of what the port gets, p: S grows by ``sum(w) c`` over all taps, and so
does the threshold. That holds at the border if what lies outside is c, channel by channel, where Akida would put 0: the
host pads the image, and the first layer is a convolution without padding.

Akida pads a strided convolution at its end, ours begins before its first pixel. So every image is rotated by 180
degrees (`Layout.images`), and with it the kernel of the first layer, which is a cross-correlation; those of the others
are true convolutions, which rotate it themselves. Spikes come back rotated.

Loihi's current wraps beyond 131071 and Akida's sums do not, so a layer whose sums could get there is refused.

A layer's bias must be one a channel. At the image's border it is not where normalization's 0 is no whole pixel.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from snn2chip import ir
from snn2chip.chip.bounds import BINARY, output_bounds
from snn2chip.chip.profile import INPUT_MAX, UNIT, Chip, Layers
from snn2chip.errors import ChipLimitError, UnsupportedError

if TYPE_CHECKING:
    from snn2chip.ir.trace import Trace

Kind = Literal["input", "conv", "dense"]
_INT8 = 8  # bits of the first layer's weights


@dataclass(frozen=True, eq=False)
class Piece:
    """One layer of Akida's.

    name        of the trained layer of neurons, or of the readout
    number      of the chain's layer
    weight      int8 (kernel, kernel, inputs, outputs), of a dense layer (1, 1, inputs, outputs)
    threshold   int32, one an output; None for a readout that only adds up
    bits        of a weight
    shape       of our neurons, (C, H, W) or (F,)
    unit, bias  our sum is ``unit S + bias``; bias int64, one an output
    """

    name: str
    number: str
    kind: Kind
    weight: NDArray[np.int8]
    threshold: NDArray[np.int32] | None
    bits: int
    kernel: int
    stride: int
    padding: Literal["same", "valid"]
    shape: ir.Shape
    unit: int
    bias: ir.IntArray


@dataclass(frozen=True, eq=False)
class Layout:
    """A model for Akida.

    window   rows and columns of the image that the host gives it, (first, count) along each axis, the first negative
             where it pads; what it pads with is the chain's centre
    pieces   its layers in order
    """

    chain: ir.Chain
    window: tuple[tuple[int, int], tuple[int, int]]
    pieces: tuple[Piece, ...]

    @property
    def input_shape(self) -> ir.Shape:
        """(height, width, channels) of the image that Akida gets."""
        return (self.window[0][1], self.window[1][1], self.chain.raw_shape[0])

    def images(self, port: ir.IntArray) -> NDArray[np.uint8]:
        """What the port gets, (N, 1, C, H, W), as Akida takes it, (N, H', W', C): pixels, padded and rotated."""
        pixels = port[:, 0] + np.asarray(self.chain.center, dtype=np.int64)[:, None, None]
        count, channels, *sides = pixels.shape
        made = np.empty((count, channels, self.window[0][1], self.window[1][1]), dtype=np.uint8)
        made[:] = np.asarray(self.chain.center, dtype=np.uint8)[:, None, None]
        to, source = [], []
        for (first, length), side in zip(self.window, sides, strict=True):
            start, stop = max(first, 0), min(first + length, side)
            source.append(slice(start, stop))
            to.append(slice(start - first, stop - first))
        made[:, :, to[0], to[1]] = pixels[:, :, source[0], source[1]]
        return np.ascontiguousarray(made[:, :, ::-1, ::-1].transpose(0, 2, 3, 1))

    def spikes(self, cut: int, made: NDArray[Any]) -> NDArray[np.uint8]:
        """What the first `cut` layers make of images, as our spikes (N, 1, *shape) of the last of them."""
        piece = self.pieces[cut - 1]
        found: NDArray[np.uint8] = _ours(made, piece.shape)[:, None].astype(np.uint8)
        return found

    def scores(self, made: NDArray[Any]) -> ir.IntArray:
        """What all layers make of images as our scores, (N, classes): voltages of 64ths, or spikes."""
        piece = self.pieces[-1]
        scores: ir.IntArray = _ours(made, piece.shape).astype(np.int64)
        if piece.threshold is None:
            scores = (scores * piece.unit + piece.bias) * UNIT
        return scores

    def trace(self, outputs: dict[int, NDArray[Any]]) -> Trace:
        """A run's outputs by number of layers: spikes of layers of neurons; voltages of a readout that adds up."""
        from snn2chip.ir.trace import Trace  # loads torch, which placing a network does not need

        spikes: dict[str, NDArray[np.uint8]] = {}
        voltage: dict[str, NDArray[np.int32]] = {}
        for cut, made in outputs.items():
            piece = self.pieces[cut - 1]
            if piece.threshold is not None:
                spikes[piece.number] = self.spikes(cut, made)
            else:
                voltage[piece.number] = self.scores(made)[:, None].astype(np.int32)
        last = len(self.pieces)
        counts = {number: int(values.sum()) for number, values in spikes.items()}
        return Trace(spikes, voltage, self.scores(outputs[last]), counts)

    def save(self, path: Path) -> None:
        """Write the description that deploy/akida/akida_model.py reads."""
        layers = [
            {
                "name": f"{number}:{piece.name}",
                "kind": piece.kind,
                "kernel": piece.kernel,
                "stride": piece.stride,
                "padding": piece.padding,
                "bits": piece.bits,
                "fires": piece.threshold is not None,
            }
            for number, piece in enumerate(self.pieces)
        ]
        arrays: dict[str, NDArray[Any]] = {"input": np.array(self.input_shape), "layers": np.array(json.dumps(layers))}
        for number, piece in enumerate(self.pieces):
            arrays[f"weight/{number}"] = piece.weight
            if piece.threshold is not None:
                arrays[f"threshold/{number}"] = piece.threshold
        with path.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)


def _ours(made: NDArray[Any], shape: ir.Shape) -> NDArray[Any]:
    """Akida's (N, H, W, C), rotated, as (N, C, H, W) or (N, F)."""
    if len(shape) == 1:
        return made.reshape(len(made), *shape)
    return made[:, ::-1, ::-1].transpose(0, 3, 1, 2)


def layout(chain: ir.Chain, chip: Chip) -> Layout:
    """Lay a chain out.

    Raises:
        UnsupportedError, ChipLimitError: what Akida has no layer for, named, with what leads there.
    """
    limits = chip.layers
    if limits is None:
        raise UnsupportedError(f"{chip.name} is no chip of whole layers; choose akd1000")
    if chain.timesteps != 1:
        raise UnsupportedError(
            f"the network has T = {chain.timesteps} time steps, and Akida has one; `snn2chip retrain MODEL "
            f"--timesteps 1 --quantize --weight-bits {chip.weight_bits}` leads there"
        )
    pieces: list[Piece] = []
    before = chain.input_shape
    window = ((0, 0), (0, 0))
    for number, layer in enumerate(chain.layers):
        name = _name(chain, number)
        _require_plain(layer, name)
        _require_sums(layer, name, chain.port_range if number == 0 else BINARY)
        last = number == len(chain.layers) - 1
        if number == 0:
            piece, window = _first(chain, name, limits)
        else:
            piece = _further(layer, name, before, limits, last and chain.readout == "membrane")
        pieces.append(piece)
        before = layer.shape
    return Layout(chain, window, tuple(pieces))


def _name(chain: ir.Chain, number: int) -> str:
    """A layer by what it was trained as: as its neurons, or 'readout'."""
    layer = chain.layers[number]
    if number == len(chain.layers) - 1 and chain.readout == "membrane":
        return "readout"
    return next(iter(layer.origin), layer.name)


def _require_plain(layer: ir.ChainLayer, name: str) -> None:
    """Refuse what makes a layer more than one convolution or dense layer with its neurons."""
    if len(layer.origin) > 1:
        others = ", ".join(f"'{other}'" for other in layer.origin if other != name)
        raise UnsupportedError(
            f"layer '{name}': {others} pass through the same layer of the chain, which residual additions need; "
            f"Akida 1.0 has none: train a network without"
        )
    if layer.steps is not None:
        raise UnsupportedError(
            f"layer '{name}': its neurons change with time; `snn2chip collapse` makes them one step's"
        )
    if layer.groups != 1 or layer.dilation != (1, 1):
        raise UnsupportedError(
            f"layer '{name}': groups {layer.groups} and dilation {layer.dilation}; Akida's convolutions have neither "
            f"(max pooling is groups here): use a convolution of stride 2 and full width"
        )
    if layer.current_decay != 4096:
        raise UnsupportedError(f"layer '{name}': current decay {layer.current_decay}; Akida keeps none: 4096")


def _require_sums(layer: ir.ChainLayer, name: str, port: tuple[ir.IntArray, ir.IntArray]) -> None:
    """Refuse a layer whose sums, with its bias, some input takes beyond what our integers hold."""
    least, most = output_bounds(layer, *port)
    bias = layer.bias.reshape(layer.shape[0], -1)
    bound = max(-int(least.min()), int(most.max()), -int((least + bias.min(1)).min()), int((most + bias.max(1)).max()))
    if bound > INPUT_MAX:
        raise ChipLimitError(
            f"layer '{name}': sums reach {bound:,} for some input, beyond {INPUT_MAX:,}, where Loihi's integers wrap "
            f"and Akida's do not; `snn2chip fold-and-export MODEL --chip akd1000` takes smaller ones"
        )


def _square(layer: ir.ChainLayer, name: str) -> tuple[int, int, int]:
    """Kernel, stride and padding of a convolution, one number each."""
    kernel = layer.weight.shape[2:]
    for what, pair in (("kernel", kernel), ("stride", layer.stride), ("padding", layer.padding)):
        if pair[0] != pair[1]:
            raise UnsupportedError(f"layer '{name}': {what} {pair[0]} x {pair[1]}; Akida takes square ones")
    return int(kernel[0]), layer.stride[0], layer.padding[0]


def _channels(layer: ir.ChainLayer, name: str) -> ir.IntArray:
    """A layer's biases, one a channel."""
    bias = layer.bias.reshape(layer.shape[0], -1)
    if (bias != bias[:, :1]).any():
        channel = int(np.flatnonzero((bias != bias[:, :1]).any(1))[0])
        raise UnsupportedError(
            f"layer '{name}': the bias of channel {channel} goes from {bias[channel].min()} to {bias[channel].max()} "
            f"over the image, and Akida has one threshold a channel; normalization's 0 is no whole pixel, so that zero "
            f"padding differs from it at the border: `snn2chip retrain MODEL --quantize` centres the input at one"
        )
    return bias[:, 0]


def _unit(layer: ir.ChainLayer) -> int:
    """The greatest number that divides all weights of a layer."""
    return max(1, int(np.gcd.reduce(layer.weight, axis=None)))


def _thresholds(layer: ir.ChainLayer, bias: ir.IntArray, unit: int) -> ir.IntArray:
    """``floor((th - b) / unit)``, one an output."""
    found: ir.IntArray = (layer.threshold - bias) // unit
    return found


def _first(chain: ir.Chain, name: str, limits: Layers) -> tuple[Piece, tuple[tuple[int, int], tuple[int, int]]]:
    """The layer that reads the image, and the window of the image that the host gives it."""
    layer = chain.layers[0]
    if layer.kind != "conv":
        raise UnsupportedError(
            f"layer '{name}': a dense layer reads the image, and Akida's first layer is a convolution; put one "
            f"before it"
        )
    if len(chain.layers) == 1:
        raise UnsupportedError(f"layer '{name}' is the only one; Akida needs a convolution and a layer after it")
    kernel, stride, padding = _square(layer, name)
    if kernel not in limits.input_kernels or stride not in limits.input_strides:
        raise UnsupportedError(
            f"layer '{name}': kernel {kernel} with stride {stride}; Akida's first layer has kernels "
            f"{_list(limits.input_kernels)} and strides {_list(limits.input_strides)}"
        )
    channels = chain.raw_shape[0]
    if channels not in limits.input_channels:
        raise UnsupportedError(
            f"layer '{name}': an input of {channels} channels; Akida takes images of {_list(limits.input_channels)}"
        )
    if chain.low < 0 or chain.high > 255:
        raise ChipLimitError(f"layer '{name}': input values {chain.low}..{chain.high}; Akida takes pixels of 0..255")
    sides = [kernel + stride * (made - 1) for made in layer.shape[1:]]
    if min(sides) < limits.smallest or max(sides) > limits.largest:
        raise UnsupportedError(
            f"layer '{name}': an image of {sides[0]} x {sides[1]} with what is padded; Akida takes sides of "
            f"{limits.smallest} to {limits.largest}"
        )
    bias, unit = _channels(layer, name), _unit(layer)
    weight = layer.weight.astype(np.int64) // unit
    _require_bits(weight, unit, name, (_INT8,))
    center = np.asarray(chain.center, dtype=np.int64)
    lift = weight.sum((2, 3)) @ center  # what pixels of the centre's value add
    threshold = _thresholds(layer, bias, unit) + lift
    rotated = np.ascontiguousarray(weight[:, :, ::-1, ::-1].transpose(2, 3, 1, 0))
    piece = _piece(layer, name, "input", rotated, threshold, _INT8, (kernel, stride), "valid", unit, bias)
    return piece, ((-padding, sides[0]), (-padding, sides[1]))


def _further(layer: ir.ChainLayer, name: str, before: ir.Shape, limits: Layers, adds_up: bool) -> Piece:
    """Any other layer, which reads spikes of shape `before`; `adds_up`: it does not fire."""
    bias, unit = _channels(layer, name), _unit(layer)
    weight = layer.weight.astype(np.int64) // unit
    bits = _require_bits(weight, unit, name, limits.weight_bits)
    threshold = None if adds_up else _thresholds(layer, bias, unit)
    if layer.kind == "conv":
        kernel, stride, padding = _square(layer, name)
        allowed = {1: limits.kernels, 2: limits.strided_kernels}.get(stride, ())
        if kernel not in allowed:
            raise UnsupportedError(
                f"layer '{name}': kernel {kernel} with stride {stride}; Akida has kernels {_list(limits.kernels)} with "
                f"stride 1 and {_list(limits.strided_kernels)} with stride 2 (average pooling makes kernels larger)"
            )
        for side, made in zip(before[1:], layer.shape[1:], strict=True):
            _require_same(name, side, made, kernel, stride, padding)
        return _piece(
            layer, name, "conv", weight.transpose(2, 3, 1, 0), threshold, bits, (kernel, stride), "same", unit, bias
        )
    image = before if len(before) == 3 else (before[0], 1, 1)
    # features of the rotated map, channel slowest, then columns, then rows
    features = (
        weight.reshape(len(weight), *image)[:, :, ::-1, ::-1].transpose(1, 3, 2, 0).reshape(1, 1, -1, len(weight))
    )
    return _piece(layer, name, "dense", features, threshold, bits, (1, 1), "same", unit, bias)


def _piece(
    layer: ir.ChainLayer,
    name: str,
    kind: Kind,
    weight: ir.IntArray,
    threshold: ir.IntArray | None,
    bits: int,
    geometry: ir.Pair,
    padding: Literal["same", "valid"],
    unit: int,
    bias: ir.IntArray,
) -> Piece:
    held = None if threshold is None else threshold.astype(np.int32)
    kept = np.ascontiguousarray(weight).astype(np.int8)
    return Piece(name, layer.name, kind, kept, held, bits, *geometry, padding, layer.shape, unit, bias)


def _require_same(name: str, side: int, made: int, kernel: int, stride: int, padding: int) -> None:
    """Refuse a convolution whose windows on the rotated map do not begin where Akida's do.

    Ours begins ``stride (made - 1) + kernel - side - padding`` before the first pixel of the rotated map. Akida makes
    ceil(side / stride) pixels and pads by what they need, the smaller half of it before.
    """
    wanted = -(-side // stride)
    pads = max(0, stride * (wanted - 1) + kernel - side)
    if made != wanted or stride * (made - 1) + kernel - side - padding != pads // 2:
        raise UnsupportedError(
            f"layer '{name}': padding {padding} of a kernel of {kernel} with stride {stride} on {side} pixels; Akida "
            f"pads to ceil({side} / {stride}) = {wanted}: give it padding {kernel // 2}"
        )


def _require_bits(weight: ir.IntArray, unit: int, name: str, bits: tuple[int, ...]) -> int:
    """The fewest bits that hold the weights: 1 bit is 0..1, 8 bits are -128..127, others +-(2^(b-1) - 1)."""
    low, high = int(weight.min()), int(weight.max())
    for count in bits:
        most = 1 if count == 1 else 2 ** (count - 1) - 1
        if high <= most and low >= (0 if count == 1 else -most - (count == _INT8)):
            return count
    most = 2 ** (bits[-1] - 1) - 1
    times = "" if unit == 1 else f" times {unit}"
    raise ChipLimitError(
        f"layer '{name}': weights of {low}..{high}{times}; Akida holds {bits[-1]} bits there, -{most}..{most} times "
        f"one number: export for akd1000, or `snn2chip retrain MODEL --quantize --weight-bits {bits[-1]}`"
    )


def _list(values: tuple[int, ...]) -> str:
    return ", ".join(map(str, values))
