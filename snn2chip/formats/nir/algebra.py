"""What one node of ours is in NIR: the algebra of the neuron, and convolutions in the form that readers of NIR take.

See docs/nir.md. The neuron, with a time step of dt and forward Euler, as simulators discretize NIR:

    LIF   tau dv/dt = (v_leak - v) + R I      v[t] = (1 - dt/tau) v[t-1] + (dt R/tau) I[t]
    IF    dv/dt = R I                         v[t] = v[t-1] + dt R I[t]

so that ``leak = 1 - dt/tau`` and ``gain = dt R/tau`` (IF: 1 and ``dt R``). Ours is ``u = v / gain`` with threshold
``v_threshold / gain``; `continuous` chooses gain 1. A CubaLIF has a current before that, updated first (as snnTorch
does, which writes such files),

    CubaLIF  tau_syn dI/dt = -I + w_in S      I[t] = (1 - dt/tau_syn) I[t-1] + (dt w_in/tau_syn) S[t]

whose factor is one of the input: ours has the current_tau ``1 - dt/tau_syn`` and gain 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from snn2chip import ir
from snn2chip.errors import InputError, UnsupportedError

DT = 1e-4  # seconds a step: what snnTorch and SpikingJelly take a step to be
CLOSE = 1e-6  # of the rounding of float32, in which most files are written


@dataclass(frozen=True)
class Constants:
    """A neuron's constants in continuous time; `tau` is None for one without a leak."""

    tau: float | None
    resistance: float
    threshold: float


def continuous(name: str, tau: float, threshold: float, dt: float, *, unit_resistance: bool = False) -> Constants:
    """NIR's constants of ``u[t] = tau u[t-1] (1 - o[t-1]) + I[t]``, ``o[t] = u[t] > threshold``.

    ``tau_nir = dt / (1 - tau)`` and ``R = tau_nir / dt``: the input enters with gain 1. With `unit_resistance`, R is 1
    and the threshold is ``(1 - tau) threshold`` instead: the same spikes, for readers that know no R. tau_nir is moved
    by some ulp where ``1 - dt / tau_nir`` then gives tau again, to the last bit; for some tau no number does, and it is
    2^-53 off.

    Raises:
        UnsupportedError: tau is not in 0..1.
    """
    if not 0 <= tau <= 1:
        raise UnsupportedError(
            f"layer '{name}': tau {tau:g} is outside 0..1, and no time constant of NIR gives that; "
            f"train with a tau from 0 to 1"
        )
    if tau == 1:
        return Constants(None, 1 / dt, threshold)
    best = dt / (1 - tau)
    low = high = best
    for _ in range(8):
        if 1 - dt / low == tau or 1 - dt / high == tau:
            best = low if 1 - dt / low == tau else high
            break
        low, high = math.nextafter(low, 0), math.nextafter(high, math.inf)
    return Constants(best, 1.0, (1 - tau) * threshold) if unit_resistance else Constants(best, best / dt, threshold)


def discrete(tau: ir.FloatArray | None, resistance: ir.FloatArray, dt: float) -> tuple[ir.FloatArray, ir.FloatArray]:
    """(leak, gain) of neurons of NIR, see the module's text; `tau` is None for ones without a leak.

    Raises:
        InputError: numbers that make no neuron; the caller names the layer.
    """
    if tau is not None and not (tau > 0).all():
        raise InputError(f"tau {tau.min():g} is not a positive time")
    leak = np.ones_like(resistance) if tau is None else 1 - dt / tau
    with np.errstate(over="ignore"):
        gain = dt * resistance / (1.0 if tau is None else tau)
    if tau is not None and (leak < -CLOSE).any():
        raise InputError(f"tau {tau.min():g} s is shorter than the time step of {dt:g} s; give a smaller dt")
    if not (np.isfinite(gain) & (gain > 0)).all():
        raise InputError(f"R {resistance.min():g} is not a positive resistance")
    return np.maximum(leak, 0.0), np.where(np.abs(gain - 1) < CLOSE, 1.0, gain)


# ------------------------------------------------------------------------------------------------- convolutions


@dataclass(frozen=True)
class Packing:
    """How a convolution was written as one with a square kernel and without groups, and is found in it again.

    groups, kernel and padding are the convolution's own; `first` is where its kernel starts in the square one.
    """

    groups: int
    kernel: ir.Pair
    padding: ir.Pair
    first: ir.Pair


def pack(conv: ir.Conv, shape: ir.Shape) -> tuple[ir.Conv, Packing]:
    """The same convolution of an image of `shape` with a square kernel and one group.

    The nir package takes a kernel's height for its width, and its readers take groups for input channels or refuse
    them; zeros cost nothing in a compressed file. The square kernel computes the same pixels from the same inputs.

    Raises:
        UnsupportedError: no square kernel makes as many pixels.
    """
    rows = np.arange(len(conv.weight))[:, None]
    channels = ir.input_channels(conv.weight, conv.groups)
    kernel = (conv.weight.shape[2], conv.weight.shape[3])
    side = max(kernel)
    weight = np.zeros((len(conv.weight), conv.weight.shape[1] * conv.groups, side, side))
    first: list[int] = []
    padding: list[int] = []
    for axis in range(2):
        wanted = ir.out_size(shape[1 + axis], kernel[axis], conv.stride[axis], conv.padding[axis], conv.dilation[axis])
        spare = side - kernel[axis]
        for before in sorted(range(spare + 1), key=lambda start: abs(2 * start - spare)):
            padded = conv.padding[axis] + conv.dilation[axis] * before
            if ir.out_size(shape[1 + axis], side, conv.stride[axis], padded, conv.dilation[axis]) == wanted:
                first.append(before)
                padding.append(padded)
                break
        else:
            raise UnsupportedError(
                f"layer '{conv.name}': the nir package reads square kernels only, and none makes the same pixels as "
                f"this one of {kernel[0]} x {kernel[1]}; use a square kernel"
            )
    window = np.s_[first[0] : first[0] + kernel[0], first[1] : first[1] + kernel[1]]
    weight[(rows, channels, *window)] = conv.weight
    packed = replace(conv, weight=weight, padding=(padding[0], padding[1]), groups=1)
    return packed, Packing(conv.groups, kernel, conv.padding, (first[0], first[1]))


def unpack(conv: ir.Conv, packing: Packing) -> ir.Conv:
    """The convolution that `pack` made `conv` of.

    Raises:
        InputError: it cannot have been.
    """
    outputs, inputs, height, width = conv.weight.shape
    (y, x), (tall, wide) = packing.first, packing.kernel
    fits = conv.groups == 1 and packing.groups >= 1 and outputs % packing.groups == 0 and inputs % packing.groups == 0
    fits = (
        fits and min(y, x, *packing.padding) >= 0 and min(tall, wide) >= 1 and y + tall <= height and x + wide <= width
    )
    moved = tuple(conv.padding[i] - conv.dilation[i] * packing.first[i] for i in range(2))
    if fits and moved == packing.padding:
        rows = np.arange(outputs)[:, None]
        channels = ir.input_channels(conv.weight[:, : inputs // packing.groups], packing.groups)
        window = np.s_[y : y + tall, x : x + wide]
        kept = conv.weight[(rows, channels, *window)]
        if np.count_nonzero(kept) == np.count_nonzero(conv.weight):
            return replace(conv, weight=kept, padding=packing.padding, groups=packing.groups)
    raise InputError(
        f"layer '{conv.name}': groups {packing.groups}, kernel {packing.kernel} and padding {packing.padding} in its "
        f"metadata do not fit its weights; export it again"
    )


def constant_image(shape: ir.Shape) -> tuple[tuple[int, int, int, int], ir.Pair]:
    """Weight shape and stride of a convolution that makes one pixel, 0 x + 1, of an image of `shape`."""
    return (1, shape[0], 1, 1), (shape[1], shape[2])


def bias_kernel(name: str, bias: ir.FloatArray) -> tuple[ir.FloatArray, ir.Pair]:
    """The kernel (O, 1, K, K) and padding that make a bias of every neuron, (O, H, W), of one pixel of value 1.

    ``out[o, y, x] = kernel[o, 0, p - y, p' - x]``: one tap reaches the pixel, so that the values are the same bits.

    Raises:
        UnsupportedError: height and width are of different parity, so that no square kernel does it.
    """
    sides = bias.shape[1:]
    side = max(sides)
    if any((side + length) % 2 for length in sides):
        raise UnsupportedError(
            f"layer '{name}': a bias for every neuron (zero padding of a centred image) of {sides[0]} x {sides[1]} "
            f"neurons has no place in NIR, whose kernels the nir package takes to be square; use square images, or no "
            f"padding in this layer"
        )
    padding = ((sides[0] + side - 2) // 2, (sides[1] + side - 2) // 2)
    kernel = np.zeros((len(bias), 1, side, side))
    rows = padding[0] - np.arange(sides[0])
    columns = padding[1] - np.arange(sides[1])
    kernel[:, 0, rows[:, None], columns] = bias
    return kernel, padding


def bias_of_kernel(kernel: ir.FloatArray, padding: ir.Pair, shape: ir.Shape) -> ir.FloatArray | None:
    """The bias (O, H, W) that `bias_kernel` made a kernel of; None if it cannot have."""
    side = max(shape[1:])
    if kernel.shape != (shape[0], 1, side, side) or any((side + length) % 2 for length in shape[1:]):
        return None
    if padding != ((shape[1] + side - 2) // 2, (shape[2] + side - 2) // 2):
        return None
    rows = padding[0] - np.arange(shape[1])
    columns = padding[1] - np.arange(shape[2])
    bias = kernel[:, 0, rows[:, None], columns]
    return bias if np.count_nonzero(bias) == np.count_nonzero(kernel) else None
