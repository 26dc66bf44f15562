"""What stock netx does with a file, without Lava: what it reads of every layer, in its order, and what of it fails.

lava-dl 0.6.0, `lava/lib/dl/netx/hdf5.py`, `netx/utils.py` and `netx/blocks/process.py`, and what lava-nc 0.10.0 then
fails on when it runs. tests/test_report_show.py holds the verdict against netx itself.
"""

from __future__ import annotations

import math
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from snn2chip.errors import InputError
from snn2chip.formats.netx.fields import Reader, spread_bias
from snn2chip.ir import Shape, out_size
from snn2chip.ir.netlist import MAX_DELAY
from snn2chip.text import one_line

NEURONS = ("CUBA", "LOIHI")
KNOWN = ("input", "conv", "flatten", "dense", "dense_rec")
UNMADE = ("pool", "convT", "unpool", "average", "concat", "dense_comp")  # netx knows their names and has no such layers
_CONSTANTS = ("iDecay", "vDecay", "vThMant")
_NEEDED = {
    "conv": ("shape", "weight", "stride", "padding", "dilation", "groups", "neuron"),
    "dense": ("shape", "weight"),
    "dense_rec": ("shape", "weight", "weight_rec"),
}
Values = NDArray[Any]


class _FailsError(Exception):
    """Why stock netx, or Lava when it runs the network, fails on a layer."""


class Stock:
    """The loading of a file, layer by layer. Shapes are Lava's, (W, H, C) or (features,).

    given    of the input, as an input layer without neurons or netx's `input_shape` has it; empty if unknown
    made     of the last layer with neurons; empty before the first
    to_tell  whether `input_shape` has to be told, and was not
    """

    def __init__(self, input_shape: Shape = ()) -> None:
        self.given: Shape = input_shape[::-1]
        self.made: Shape = ()
        self.to_tell = False
        self._flatten = self._begun = False

    def entry(self, reader: Reader) -> str:
        """Go on with the next group of ``layer/``: why it fails, or ''; then as if the shape in it were right.

        Raises:
            InputError: something in it cannot be read as what it claims to be.
        """
        try:
            self._entry(reader)
        except _FailsError as error:
            return str(error)
        return ""

    def _entry(self, reader: Reader) -> None:
        try:
            kind = reader.text("type")
        except InputError:
            raise _FailsError("no type that could be read: stock netx fails") from None
        if kind in UNMADE:
            raise _FailsError(f"layer type '{kind}': stock netx has no such layer (NotImplementedError)")
        if kind not in KNOWN:
            if not self._begun:
                raise _FailsError(f"layer type '{one_line(kind)}' comes first: stock netx fails (UnboundLocalError)")
            return
        self._begun = True
        if kind == "flatten":
            self._flatten = True
        elif kind == "input" and "neuron" not in reader.group:
            if "shape" in reader.group:
                self.given = _sides(reader)
        else:
            self._layer(reader, kind)

    def _layer(self, reader: Reader, kind: str) -> None:
        """A layer of neurons; `made` becomes its shape whatever else fails."""
        before, self.made = self.made, _sides(reader) if "shape" in reader.group else ()
        missing = [name for name in _NEEDED.get(kind, ("shape",)) if name not in reader.group]
        neuron = reader.child("neuron") if isinstance(reader.group.get("neuron"), h5py.Group) else None
        if neuron is not None:
            missing += _missing_of(neuron, kind == "input")
        if missing:
            raise _FailsError(f"no {', '.join(missing)}: stock netx fails (KeyError)")
        if reader.group["shape"].dtype.kind == "f":
            raise _FailsError("'shape' is stored as real numbers: stock netx fails (ValueError)")
        if kind == "input":
            if len(self.made) > 3 or any(
                reader.numbers(x, 8).size != 1 for x in ("weight", "bias") if x in reader.group
            ):
                raise _FailsError("an input's shape has 1 to 3 sides, its weight and bias are one number each")
        elif kind == "conv":
            self._conv(reader, before)
        else:
            self._dense(reader, before, kind == "dense_rec")
        _neurons(reader, neuron, self.made)

    def _conv(self, reader: Reader, before: Shape) -> None:
        inputs = before or self.given
        stated, self.made = self.made, self.made if len(self.made) == 3 else ()
        weight = reader.numbers("weight")
        if not self.made or weight.ndim < 4 or math.prod(weight.shape[4:]) != 1:
            raise _FailsError(
                f"a convolution of shape {stated[::-1]} with weights {weight.shape}: both have 3 axes more"
            )
        pairs = []
        for name in ("stride", "padding", "dilation", "groups"):
            value = reader.numbers(name, 8)
            if value.dtype.kind == "f" or value.shape not in ((), (2,)) or (name == "groups" and value.ndim):
                kinds = "one integer" if name == "groups" else "one integer or two"
                raise _FailsError(f"'{name}' is {value.dtype} of shape {value.shape}; stock netx takes {kinds}")
            pairs.append(np.broadcast_to(value, 2).tolist())
        stride, padding, dilation, (groups, _) = pairs
        if not inputs:
            self.to_tell = True
            return
        if len(inputs) != 3:
            raise _FailsError(f"a convolution after an input of shape {inputs[::-1]}; it needs (C, H, W)")
        if min(*stride, *dilation, groups) < 1 or inputs[2] % groups or len(weight) % groups:
            raise _FailsError(f"groups {groups} do not fit {inputs[2]} channels and {len(weight)}")
        sides = tuple(
            out_size(inputs[1 - i], weight.shape[2 + i], stride[i], padding[i], dilation[i]) for i in range(2)
        )
        out = (len(weight), *sides)
        if min(sides) < 1 or self.made != out[::-1]:
            raise _FailsError(f"shape {self.made[::-1]} is not the {out} it computes")
        if weight.shape[1] * groups < inputs[2]:  # of more, Lava takes the first
            raise _FailsError(f"weights {weight.shape[:4]}, groups {groups} do not fit an input {inputs[::-1]}")

    def _dense(self, reader: Reader, before: Shape, recurrent: bool) -> None:
        out = math.prod(self.made)
        self.made = (out,)
        matrices = [reader.numbers(name) for name in ("weight", "weight_rec")[: 1 + recurrent]]
        if matrices[0].ndim == 1:
            if any(matrix.size % max(1, out) for matrix in matrices):
                raise _FailsError(f"a weight of shape {matrices[0].shape} is not {out} rows")
            matrices = [matrix.reshape(out, -1) for matrix in matrices]
        weight = matrices[0]
        wanted = before
        if before and self._flatten:
            if len(before) != 3:
                raise _FailsError(f"a flatten of what is flat, {before}: stock netx fails (TransposeShapeError)")
            wanted = (math.prod(before),)
        self._flatten = False
        if len(wanted) == 3:
            raise _FailsError(f"a dense layer after an input of shape {before[::-1]}; a flatten is missing")
        shape = (out, *(wanted or weight.shape[1:]))
        if weight.ndim != 2 or weight.shape != shape or not weight.size:
            raise _FailsError(f"weight of shape {weight.shape}; {shape} fits what comes in")
        if recurrent and matrices[1].shape != (out, out):
            raise _FailsError(f"weight_rec of shape {matrices[1].shape}; {(out, out)} fits what comes in")
        if not any(_whole(matrix).any() for matrix in matrices):
            raise _FailsError("every weight is 0, on which netx fails; make one of them 1")
        if "delay" in reader.group:
            _delays(reader.numbers("delay"), [matrix.shape for matrix in matrices])


def _whole(values: Values) -> Values:
    with np.errstate(invalid="ignore"):
        return values.astype(np.int64) if values.dtype.kind == "f" else values


def _sides(reader: Reader) -> Shape:
    return tuple(int(side) for side in reader.numbers("shape", 8).reshape(-1))[::-1]


def _delays(delay: Values, shapes: list[Shape]) -> None:
    if not delay.size or (int(delay.min()) < 0 and int(delay.max()) <= MAX_DELAY):  # beyond it, netx clamps both ends
        raise _FailsError(f"a delay of {delay.min() if delay.size else 'no'}; stock netx takes 0 and more")
    for shape in shapes:
        fits = delay.ndim == 0 or delay.shape == shape or delay.shape in (shapes[0][:1], shapes[0][1:])
        if not fits or (delay.shape != shape and shape != shapes[0]):
            raise _FailsError(
                f"delays of shape {delay.shape} fit neither {shape} nor one of its sides; of a recurrent layer, netx "
                f"gives its own spikes those of the inputs"
            )


def _missing_of(neuron: Reader, is_input: bool) -> list[str]:
    """What netx looks for in the group `neuron` and does not find."""
    kind, names = neuron.text("type") if "type" in neuron.group else "", neuron.group
    wanted: tuple[str, ...] = ("type",)
    if kind in NEURONS:
        wanted = ("vThMant", "iDecay", "vDecay")
    elif kind == "SDNN":
        wanted = () if "sigma_output" in names and not is_input else ("vThMant",)
    elif "RF" in kind:
        wanted = ("vThMant",)
    return [f"neuron/{name}" for name in wanted if name not in names]


def _neurons(reader: Reader, neuron: Reader | None, shape: Shape) -> None:
    """The neurons' type, their constants, and a bias, which Lava spreads over `shape`."""
    kind = "CUBA" if neuron is None else neuron.text("type")
    if kind not in (*NEURONS, "SDNN") and "RF" not in kind:
        known = " (BNTT's tables), snn2chip's runner does" if kind == "SNN2CHIP_STEPS" else ""
        raise _FailsError(f"neuron '{one_line(kind)}' is unknown to stock netx{known}")
    own_bias = "bias" in reader.group and reader.text("type") != "input"
    if own_bias and (kind not in (*NEURONS, "SDNN") or (neuron is not None and "sigma_output" in neuron.group)):
        raise _FailsError(f"a bias of neurons that have none ({kind}): stock netx fails (TypeError)")
    if own_bias:
        bias = reader.numbers("bias")
        if spread_bias(bias, shape) is None:
            raise _FailsError(f"bias of shape {bias.shape} fits neither {shape[-1:]} nor {shape}")
    if neuron is None or kind not in NEURONS:
        return
    for name in _CONSTANTS:
        value = neuron.numbers(name)
        if value.dtype.kind == "f" or (value.dtype == np.uint64 and (name != "vThMant" or not value.ndim)):
            raise _FailsError(f"neuron/{name} is stored as {value.dtype}, on which Lava fails; store signed integers")
        if name != "vThMant" and set(value.shape[: -len(shape)]) == {1}:
            value = value.reshape(value.shape[-len(shape) :])  # further axes of 1 do no harm to decays
        if not _spreads(value, shape):
            raise _FailsError(f"neuron/{name} of shape {value.shape} does not spread over neurons {shape}: Lava fails")
    if "messageBits" in neuron.group:
        raise _FailsError("stock netx cannot read neuron/messageBits of a CUBA neuron; leave it out")


def _spreads(values: Values, shape: Shape) -> bool:
    try:
        return np.broadcast_shapes(values.shape, shape) == shape
    except ValueError:
        return False
