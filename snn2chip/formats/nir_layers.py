"""One node of NIR as one of ours, or why not."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from snn2chip import ir
from snn2chip.errors import InputError, UnsupportedError
from snn2chip.formats import nir_nodes
from snn2chip.formats.nir_fields import Fields, short


@dataclass(frozen=True)
class Given:
    """A node of NIR: type, fields, metadata, our name for it, what it reads and of which shape, seconds a step."""

    kind: str
    fields: Fields
    own: Fields
    called: str
    driver: str
    shape: ir.Shape
    dt: float


def conv(given: Given) -> ir.Node:
    """Conv2d; as it was before `snn2chip.formats.nir_nodes.pack`, where the metadata says so."""
    fields, own, called = given.fields, given.own, given.called
    weight = fields.array("weight", 4)
    groups = fields.integer("groups", 1, 2**15)
    stride, dilation = fields.pair("stride", 1), fields.pair("dilation", 1)
    padding = fields.values.get("padding")
    if isinstance(padding, (str, bytes)):
        reach = tuple(dilation[axis] * (weight.shape[2 + axis] - 1) for axis in range(2))
        if fields.text("padding", "same", "valid") == "same" and (stride != (1, 1) or any(r % 2 for r in reach)):
            raise UnsupportedError(
                f"layer '{called}': padding 'same' with stride {stride} or an even kernel; give it in pixels"
            )
        pad = (reach[0] // 2, reach[1] // 2) if fields.text("padding") == "same" else (0, 0)
    else:
        pad = fields.pair("padding", 0)
    bias = None if fields.values.get("bias") is None else fields.array("bias", 1)
    if len(weight) % groups or (bias is not None and bias.shape != weight.shape[:1]):
        raise InputError(
            f"layer '{called}': weights {weight.shape}, groups {groups} and a bias {short(bias)} do not fit"
        )
    conv = ir.Conv(called, (given.driver,), weight, bias, stride, pad, dilation, groups)
    if "kernel" in own:
        first, kernel = own.pair("first", 0), own.pair("kernel", 1)
        packing = nir_nodes.Packing(own.integer("groups", 1, 2**15), kernel, own.pair("padding", 0), first)
        conv = nir_nodes.unpack(conv, packing)
    if "bias" in own and own.text("bias", "none", "channel", "neuron") != "channel":
        if bias is not None and bias.any():
            raise own.fail("bias", "what it says: there are values in it")
        conv = replace(conv, bias=None)
    return conv


def dense(given: Given) -> ir.Node:
    """Affine or Linear."""
    called = given.called
    weight = given.fields.array("weight", 2)
    bias = given.fields.array("bias", 1) if given.kind == "Affine" else None
    if bias is not None and bias.shape != weight.shape[:1]:
        raise InputError(f"layer '{called}': weights {weight.shape} and a bias {bias.shape} do not fit")
    return ir.Dense(called, (given.driver,), weight, bias)


def flatten(given: Given) -> ir.Node:
    """Flatten of all dimensions."""
    axes, called = len(given.shape), given.called
    first = given.fields.integer("start_dim", -axes, axes)
    last = given.fields.integer("end_dim", -axes, axes)
    # 1 counts a batch that NIR's shapes do not have, as some exporters write it
    if first not in (0, 1, -axes) or last not in (-1, axes - 1, axes):
        raise UnsupportedError(f"layer '{called}': it flattens dimensions {first} to {last}; all of them are read")
    return ir.Flatten(called, (given.driver,))


def pool(given: Given) -> ir.Node:
    """AvgPool2d of windows beside each other."""
    fields, called = given.fields, given.called
    kernel, stride, padding = fields.pair("kernel_size", 1), fields.pair("stride", 1), fields.pair("padding", 0)
    if stride != kernel or padding != (0, 0):
        raise UnsupportedError(
            f"layer '{called}': AvgPool2d of kernel {kernel}, stride {stride}, padding {padding}; windows beside "
            f"each other without padding are read, so use a convolution"
        )
    return ir.AvgPool(called, (given.driver,), kernel)


def lif(given: Given) -> ir.Node:
    """LIF, IF, or a CubaLIF whose current lasts one step."""
    fields, own, kind, shape, called = given.fields, given.own, given.kind, given.shape, given.called
    for field in ("v_reset", *(("v_leak",) if kind != "IF" else ())):
        if (rest := fields.uniform(field, shape)) != 0:
            raise UnsupportedError(
                f"layer '{called}': {kind} with {field} {rest:g}; neurons of ours rest at and return to 0, so "
                f"shift v_threshold and biases by it"
            )
    resistance, threshold = fields.uniform("r", shape), fields.uniform("v_threshold", shape)
    tau = None if kind == "IF" else fields.uniform("tau_mem" if kind == "CubaLIF" else "tau", shape)
    if kind == "CubaLIF":
        synapse = fields.uniform("tau_syn", shape)
        if not abs(synapse / given.dt - 1) < nir_nodes.CLOSE:
            raise UnsupportedError(
                f"layer '{called}': CubaLIF with tau_syn {synapse:g} s keeps its current from step to step; only "
                f"one of a step ({given.dt:g} s) does not, so use LIF"
            )
        resistance *= fields.uniform("w_in", shape)
    try:
        leak, _, level = nir_nodes.discrete(nir_nodes.Constants(tau, resistance, threshold), given.dt)
    except InputError as error:
        raise InputError(f"layer '{called}': {kind}, {error}") from None
    if "leak" in own and "threshold" in own:  # as they were before they became constants of continuous time
        exact = own.number("leak"), own.number("threshold")
        same = abs(exact[0] - leak) < nir_nodes.CLOSE and math.isclose(exact[1], level, rel_tol=nir_nodes.CLOSE)
        if not same or not 0 <= exact[0] <= 1:
            raise InputError(
                f"layer '{called}': leak {exact[0]:g} and threshold {exact[1]:g} in its metadata, but its "
                f"constants give {leak:g} and {level:g} at dt {given.dt:g} s; remove the metadata, or export it again"
            )
        leak, level = exact
    return ir.LIF(called, (given.driver,), leak, level)


MAKE: dict[str, Callable[[Given], ir.Node]] = {
    "Conv2d": conv,
    "Affine": dense,
    "Linear": dense,
    "Flatten": flatten,
    "AvgPool2d": pool,
    "LIF": lif,
    "IF": lif,
    "CubaLIF": lif,
}
INSTEAD = {
    "NIRGraph": "write its nodes into the graph itself",
    "SumPool2d": "write AvgPool2d, and the weights after it times the pixels of a window",
    "Scale": "multiply it into the weights before or after it",
    "Conv1d": "write Conv2d with a height of 1",
    "LI": "read out the currents themselves, or their sum by I",
    "CubaLI": "read out the currents themselves, or their sum by I",
    "Threshold": "use LIF",
}
