"""One node of NIR as nodes of ours, or why not."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from snn2chip import ir
from snn2chip.errors import InputError, UnsupportedError
from snn2chip.formats.nir import algebra
from snn2chip.formats.nir.fields import Fields, by_channel, one_of, short


@dataclass(frozen=True)
class Given:
    """A node of NIR: type, fields, metadata, our name for it, what it reads and of which shape.

    `factor` multiplies what it reads, a value each, where a node before it is none of ours but a factor; `axes` are
    those that the graph gives an image, 2 for one of a single row. `dt` is seconds a step.
    """

    kind: str
    fields: Fields
    own: Fields
    called: str
    driver: str
    shape: ir.Shape
    factor: ir.FloatArray | None
    axes: int
    dt: float
    timesteps: int
    ties: bool


def conv(given: Given) -> list[ir.Node]:
    """Conv2d, or Conv1d over one row; as before `snn2chip.formats.nir.algebra.pack`, where the metadata says so."""
    fields, own, called = given.fields, given.own, given.called
    row = given.kind == "Conv1d"
    weight = fields.array("weight", 3)[:, :, None] if row else fields.array("weight", 4)

    def pair(field: str, low: int) -> ir.Pair:
        first, second = fields.pair(field, low)
        return (low, second) if row else (first, second)

    groups = fields.integer("groups", 1, 2**15)
    stride, dilation = pair("stride", 1), pair("dilation", 1)
    padding = fields.values.get("padding")
    if isinstance(padding, (str, bytes)):
        reach = tuple(dilation[axis] * (weight.shape[2 + axis] - 1) for axis in range(2))
        if fields.text("padding", "same", "valid") == "same" and (stride != (1, 1) or any(r % 2 for r in reach)):
            raise UnsupportedError(
                f"layer '{called}': padding 'same' with stride {stride} or an even kernel; give it in pixels"
            )
        pad = (reach[0] // 2, reach[1] // 2) if fields.text("padding") == "same" else (0, 0)
    else:
        pad = pair("padding", 0)
    bias = None if fields.values.get("bias") is None else fields.array("bias", 1)
    if len(weight) % groups or (bias is not None and bias.shape != weight.shape[:1]):
        raise InputError(
            f"layer '{called}': weights {weight.shape}, groups {groups} and a bias {short(bias)} do not fit"
        )
    made = ir.Conv(called, (given.driver,), weight, bias, stride, pad, dilation, groups)
    if "kernel" in own:
        first, kernel = own.pair("first", 0), own.pair("kernel", 1)
        packing = algebra.Packing(own.integer("groups", 1, 2**15), kernel, own.pair("padding", 0), first)
        made = algebra.unpack(made, packing)
    if "bias" in own and own.text("bias", "none", "channel", "neuron") != "channel":
        if bias is not None and bias.any():
            raise own.fail("bias", "what it says: there are values in it")
        made = replace(made, bias=None)
    if given.factor is not None and given.shape[0] == weight.shape[1] * groups:
        factor = by_channel(called, "the scale of its input", given.factor)
        made = replace(made, weight=weight * factor[ir.input_channels(weight, groups)][:, :, None, None])
    return [made]


def dense(given: Given) -> list[ir.Node]:
    """Affine or Linear."""
    called = given.called
    weight = given.fields.array("weight", 2)
    bias = given.fields.array("bias", 1) if given.kind == "Affine" else None
    if bias is not None and bias.shape != weight.shape[:1]:
        raise InputError(f"layer '{called}': weights {weight.shape} and a bias {bias.shape} do not fit")
    if given.factor is not None and given.shape == weight.shape[1:]:
        weight = weight * given.factor
    return [ir.Dense(called, (given.driver,), weight, bias)]


def flatten(given: Given) -> list[ir.Node]:
    """Flatten of all dimensions."""
    axes, called = given.axes if len(given.shape) == 3 else 1, given.called
    first = given.fields.integer("start_dim", -axes, axes)
    last = given.fields.integer("end_dim", -axes, axes)
    # 1 counts a batch that NIR's shapes do not have, as some exporters write it
    if first not in (0, 1, -axes) or last not in (-1, axes - 1, axes):
        raise UnsupportedError(f"layer '{called}': it flattens dimensions {first} to {last}; all of them are read")
    return [ir.Flatten(called, (given.driver,))]


def pool(given: Given) -> list[ir.Node]:
    """AvgPool2d or SumPool2d of windows beside each other; a sum is the average, times a factor that is not seen to
    here."""
    fields, called = given.fields, given.called
    kernel, stride, padding = fields.pair("kernel_size", 1), fields.pair("stride", 1), fields.pair("padding", 0)
    if stride != kernel or padding != (0, 0):
        raise UnsupportedError(
            f"layer '{called}': {given.kind} of kernel {kernel}, stride {stride}, padding {padding}; windows beside "
            f"each other without padding are read, so use a convolution"
        )
    return [ir.AvgPool(called, (given.driver,), kernel)]


def neuron(given: Given) -> list[ir.Node]:
    """LIF, IF, CubaLIF, or a Threshold, which forgets at every step.

    With v' = v - v_reset a membrane starts at and returns to 0, fires above v_threshold - v_reset, and is driven by
    ``(dt / tau) (v_leak - v_reset)`` at every step. What is left of gains, drifts and thresholds that differ by neuron
    is a factor of its currents: ``gain I + drift > level`` is ``(Vth gain / level) I + Vth drift / level > Vth``.
    """
    fields, own, kind, shape, called = given.fields, given.own, given.kind, given.shape, given.called
    level = fields.each("threshold" if kind == "Threshold" else "v_threshold", shape)
    leaks, gain, drift = np.zeros(shape), np.ones(shape), np.zeros(shape)
    if kind != "Threshold":
        reset = fields.each("v_reset", shape)
        constant = None if kind == "IF" else fields.each("tau_mem" if kind == "CubaLIF" else "tau", shape)
        try:
            leaks, gain = algebra.discrete(constant, fields.each("r", shape), given.dt)
        except InputError as error:
            raise InputError(f"layer '{called}': {kind}, {error}") from None
        if kind != "IF":
            drift = (1 - leaks) * (fields.each("v_leak", shape) - reset)
        level = level - reset
    stays = 0.0
    if kind == "CubaLIF":
        try:
            kept, entering = algebra.discrete(fields.each("tau_syn", shape), np.ones(shape), given.dt)
        except InputError as error:
            raise InputError(f"layer '{called}': CubaLIF, {error} (tau_syn)") from None
        weight = entering * fields.each("w_in", shape)
        gain = gain * np.where(np.abs(weight - 1) < algebra.CLOSE, 1.0, weight)
        if given.timesteps > 1:
            stays = one_of(called, "the current's 1 - dt / tau_syn", np.where(kept < algebra.CLOSE, 0.0, kept))
        if stays and drift.any():
            raise UnsupportedError(
                f"layer '{called}': CubaLIF with a v_leak of {float(np.abs(drift).max()):g} a step above v_reset, past "
                f"its current, where a bias of ours enters it; give both the same value"
            )
    if not (level > 0).all():
        raise UnsupportedError(
            f"layer '{called}': {kind} with a threshold {level.min():g} above v_reset; it must be positive, since "
            f"neurons of ours do not fire by themselves: raise v_threshold"
        )
    gain = gain if given.factor is None else gain * given.factor
    # a single step has nothing before it that could leak
    leak = float(leaks.flat[0]) if given.timesteps == 1 else one_of(called, "the leak 1 - dt / tau", leaks)
    with np.errstate(all="ignore"):
        levels = level / gain
        threshold = float(abs(levels.flat[0])) if np.isfinite(levels.flat[0]) else 1.0
        factor, shift = threshold / levels, drift * (threshold / level)
    if not (np.isfinite(factor).all() and np.isfinite(shift).all()):
        raise InputError(
            f"layer '{called}': {kind} with thresholds from {level.min():g} to {level.max():g} above v_reset, which "
            f"cannot be made one threshold; give them one scale"
        )
    made: list[ir.Node] = []
    driver = given.driver
    if (factor != 1).any() or shift.any():
        factor = by_channel(called, f"{kind}'s gain / threshold", factor)
        shift = by_channel(called, f"{kind}'s (v_leak - v_reset) / threshold", shift)
        made.append(scale(f"{called}.scale", driver, factor, shift))
        driver = made[0].name
    ties = given.ties
    if "leak" in own and "threshold" in own:  # as they were before they became constants of continuous time
        exact = own.number("leak"), own.number("threshold")
        same = abs(exact[0] - leak) < algebra.CLOSE and math.isclose(exact[1], threshold, rel_tol=algebra.CLOSE)
        if not same or not 0 <= exact[0] <= 1:
            raise InputError(
                f"layer '{called}': leak {exact[0]:g} and threshold {exact[1]:g} in its metadata, but its "
                f"constants give {leak:g} and {threshold:g} at dt {given.dt:g} s; remove the metadata, or export it "
                f"again"
            )
        leak, threshold = exact
        if "current" in own:
            found, stays = stays, own.number("current")
            if not (0 <= stays < 1 and abs(stays - found) < algebra.CLOSE):
                raise own.fail("current", f"the {found:g} that its constants give")
        ties = "ties" in own and own.integer("ties", 0, 1) == 1
    return [*made, ir.LIF(called, (driver,), leak, threshold, ties=ties, current_tau=stays)]


def scale(name: str, driver: str, factor: ir.FloatArray, shift: ir.FloatArray | None = None) -> ir.Norm:
    """``y = factor x + shift``, one of each a channel, as a normalization that folds into the weights before it."""
    one, zero = np.ones_like(factor), np.zeros_like(factor)
    return ir.Norm(name, (driver,), factor, zero if shift is None else shift, zero, one, 0.0, 1.0, 1.0)


MAKE: dict[str, Callable[[Given], list[ir.Node]]] = {
    "Conv2d": conv,
    "Conv1d": conv,
    "Affine": dense,
    "Linear": dense,
    "Flatten": flatten,
    "AvgPool2d": pool,
    "SumPool2d": pool,
    "LIF": neuron,
    "IF": neuron,
    "CubaLIF": neuron,
    "Threshold": neuron,
}
INSTEAD = {
    "NIRGraph": "write its nodes into the graph itself",
    "Delay": "every spike arrives at its own step here, so train without delays",
    "LI": "read out the currents themselves, or their sum by I",
    "CubaLI": "read out the currents themselves, or their sum by I",
}
