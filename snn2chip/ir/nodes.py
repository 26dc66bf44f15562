"""The nodes that networks are made of, at every stage."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from snn2chip.errors import InputError

Array = NDArray[np.float64] | NDArray[np.int64]
FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Weights = NDArray[np.signedinteger[Any]]  # as `narrow` leaves them: widen them before arithmetic
Shape = tuple[int, ...]
Stage = Literal["captured", "folded", "quantized"]
Pair = tuple[int, int]
Coding = Literal["direct", "poisson", "events"]
ReadoutKind = Literal["membrane", "spike_count"]
CODINGS: tuple[Coding, ...] = get_args(Coding)


@dataclass(frozen=True, eq=False)
class Node:
    """Base of all nodes. Arrays are made read-only, so that nodes can be shared between stages."""

    name: str
    inputs: tuple[str, ...]

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, np.ndarray):
                if value.dtype.kind == "f" and not np.isfinite(value).all():
                    bad = int((~np.isfinite(value)).sum())
                    raise InputError(
                        f"layer '{self.name}': {item.name} holds {bad} NaN or infinite of {value.size} values; "
                        f"train again"
                    )
                frozen = value.copy() if value.flags.writeable else value
                frozen.setflags(write=False)
                object.__setattr__(self, item.name, frozen)


def weight_type(low: int, high: int) -> type[np.int16] | type[np.int64]:
    """What whole numbers of low..high, and their negatives, are kept in: int16 where it holds them, else int64."""
    return np.int16 if low > -(2**15) and high < 2**15 else np.int64


def narrow(values: NDArray[Any]) -> Weights:
    """Whole numbers of any type in their `weight_type`.

    The weights of large networks are what fills the memory. Signs, absolute values and comparisons are right in what
    they are kept in; products, shifts and sums of two are not: `astype(np.int64)` comes before.
    """
    least, most = (int(end(initial=0)) for end in (values.min, values.max))
    return values.astype(weight_type(least, most), copy=False)


def require_integers(values: NDArray[np.generic], shape: Shape) -> None:
    """Refuse an array that does not end in `shape`, or that a cast to integers would change in silence.

    Raises:
        InputError: naming shape or type.
    """
    if values.dtype.kind not in "iub":
        raise InputError(f"input is {values.dtype}; the chip takes integers: give the pixels or counts as they are")
    if values.shape[max(0, values.ndim - len(shape)) :] != shape:
        raise InputError(f"input of shape {values.shape} does not end in the network's {shape}")


def message_bits(low: IntArray, high: IntArray) -> int:
    """Bits of a signed graded message for values of low..high; 0 for binary spikes."""
    if low.min() >= 0 and high.max() <= 1:
        return 0
    return int(max((-low.min() - 1).item().bit_length(), high.max().item().bit_length())) + 1


@dataclass(frozen=True, eq=False)
class Input(Node):
    """Images or spikes, integers ``low..high`` (both inclusive) before centring; shape (C, H, W) or (F,).

    The port gets ``p = raw - center`` (integers, per channel) and the network sees ``scale * p + shift``
    (per channel). `coding` says how a time axis comes about: 'direct' repeats the image, 'poisson' draws
    spikes, one with probability pixel / pixel_max at every step (low..high is then 0..1), 'events' takes the
    frames of an event camera, which have one (low..high is 0..pixel_max: spikes, or counts as graded spikes).
    """

    shape: Shape
    coding: Coding
    pixel_max: int
    low: int
    high: int
    center: IntArray
    scale: FloatArray
    shift: FloatArray

    @property
    def binary(self) -> bool:
        """Whether the raw values are spikes, 0 and 1."""
        return self.low >= 0 and self.high <= 1

    def port_range(self) -> tuple[IntArray, IntArray]:
        """Smallest and largest value of each channel at the port."""
        return self.low - self.center, self.high - self.center

    def port(self, raw: IntArray) -> IntArray:
        """``raw - center`` for raw (..., C, H, W) or (..., F).

        Raises:
            InputError: another shape, which might broadcast, or numbers that are not integers.
        """
        require_integers(raw, self.shape)
        return raw - self.center.reshape(-1, *(1,) * (len(self.shape) - 1))


@dataclass(frozen=True, eq=False)
class Conv(Node):
    """Convolution as `torch.nn.functional.conv2d`: weight (O, I/groups, kH, kW), bias None, (O,) or (O, H, W)."""

    weight: Array
    bias: Array | None
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1


@dataclass(frozen=True, eq=False)
class Dense(Node):
    """``y = W x + b``: weight (O, F), bias None or (O,); its geometry is that of a convolution that has none."""

    weight: Array
    bias: Array | None
    stride: ClassVar[Pair] = (1, 1)
    padding: ClassVar[Pair] = (0, 0)
    dilation: ClassVar[Pair] = (1, 1)
    groups: ClassVar[int] = 1


@dataclass(frozen=True, eq=False)
class Norm(Node):
    """tdBN in eval mode: ``y = gamma * alpha * Vth * (x - mean) / sqrt(var + eps) + beta``, per channel."""

    gamma: FloatArray
    beta: FloatArray
    mean: FloatArray
    var: FloatArray
    eps: float
    alpha: float
    threshold: float


@dataclass(frozen=True, eq=False)
class StepNorm(Node):
    """BNTT in eval mode: ``y[t] = gamma[t] * (x[t] - mean[t]) / sqrt(var[t] + eps)``; every table is (T, C)."""

    gamma: FloatArray
    mean: FloatArray
    var: FloatArray
    eps: float


@dataclass(frozen=True, eq=False)
class AvgPool(Node):
    """Average over windows of `kernel` with the same stride; what does not fill a window is left out."""

    kernel: Pair


@dataclass(frozen=True, eq=False)
class MaxPool(Node):
    """Maximum over windows of spikes: a logical OR; what lies outside the image is no spike."""

    kernel: Pair
    stride: Pair
    padding: Pair


@dataclass(frozen=True, eq=False)
class Add(Node):
    """Sum of all its inputs, which have the same shape: currents that meet before a neuron."""


@dataclass(frozen=True, eq=False)
class Flatten(Node):
    """(C, H, W) to (C*H*W,), channel slowest."""


@dataclass(frozen=True, eq=False)
class StepConstants:
    """What a normalization of every step makes of a LIF neuron; tables (T, C), float64; `snn2chip.passes.fold_bntt`.

    With v[t] = u[t] / gain[t]: ``v[t] = leak[t] v[t-1] (1 - o[t-1]) + I[t] + bias[t]``, ``o[t] = v[t] > threshold[t]``.
    leak[0] is 0: there is nothing before the first step.
    """

    gain: FloatArray
    leak: FloatArray
    bias: FloatArray
    threshold: FloatArray


@dataclass(frozen=True, eq=False)
class LIF(Node):
    """``u[t] = tau u[t-1] (1 - o[t-1]) + c[t]``, ``c[t] = current_tau c[t-1] + I[t]``, ``o[t] = u[t] > threshold``;
    u[-1] = c[-1] = 0, and a spike leaves c as it is. With a current_tau of 0, c is I: a neuron without a current of its
    own.

    With `ties` it fires at ``u[t] >= threshold``, as neurons of some other simulators do.
    With `steps` the neuron is the time-varying one of `StepConstants`; tau and threshold stay those of u.
    With `grain` the network is one of integers: what is left of a membrane, tau u, and of a current is rounded toward
    zero to a multiple of it, as the chip does.
    """

    tau: float
    threshold: float
    steps: StepConstants | None = None
    ties: bool = False
    grain: float | None = None
    current_tau: float = 0.0

    def rounds(self, timesteps: int) -> bool:
        """Whether `grain` can change a membrane or current within so many steps."""
        kept = timesteps > 1 and self.current_tau > 0
        return self.grain is not None and (kept or loses(self.tau, timesteps, self.grain))


def gathered(tau: float, steps: int) -> float:
    """What a constant 1 has become after so many steps of ``x[t] = tau x[t-1] + 1``: the largest factor of inputs."""
    return float(steps) if tau == 1 else float((1 - np.float64(tau) ** steps) / (1 - tau))


def loses(tau: float, timesteps: int, grain: float) -> bool:
    """Whether a whole number that decays by tau from step to step stops being one of grains: not if tau is 2^-k and
    k (T - 1) halvings leave a grain or more."""
    mantissa, exponent = math.frexp(tau)
    return timesteps > 1 and (mantissa != 0.5 or 2.0 ** ((exponent - 1) * (timesteps - 1)) < grain)


@dataclass(frozen=True, eq=False)
class StepTables:
    """A time-varying neuron in integers, see `snn2chip.chip.neuron.step_voltage`; tables (T, C), int64.

    leak       0..65535, in units of 2^-leak_shift: factors above 1 are allowed
    bias       added to v as it is: 1/64 of a weight's unit
    threshold  compared with v as it is
    scale      (C,) float64: a weight, bias or threshold of 1 (1/64 for tables) is 1/scale in the folded network
    """

    leak: IntArray
    leak_shift: int
    bias: IntArray
    threshold: IntArray
    scale: FloatArray

    @property
    def timesteps(self) -> int:
        """Steps that the tables have."""
        return len(self.leak)


@dataclass(frozen=True, eq=False)
class CubaNeuron(Node):
    """The chip's neuron (see `snn2chip.chip.neuron.step`): 12-bit decays, threshold mantissa, in weight units.

    With `steps`, the time-varying one of `StepTables`, which no stock neuron is; threshold and voltage_decay are then
    not used.
    """

    threshold: int
    voltage_decay: int
    current_decay: int = 4096
    steps: StepTables | None = None


@dataclass(frozen=True, eq=False)
class Readout(Node):
    """Class scores: 'membrane' sums the input over time, 'spike_count' counts the spikes of the last LIF."""

    kind: ReadoutKind


Synapse = Conv | Dense
N = TypeVar("N", bound=Node)


def out_size(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    """Output size of a convolution along one axis."""
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def input_channels(weight: Array, groups: int) -> IntArray:
    """The input channel that weight[o, i] of a convolution reads, (O, I/groups): the group of o, then i."""
    outputs, per_group = weight.shape[:2]
    channels: IntArray = (np.arange(outputs) * groups // outputs)[:, None] * per_group + np.arange(per_group)
    return channels


def taps(conv: Conv, axis: int) -> list[int]:
    """Pixels that the taps of a convolution read along one axis, relative to stride times the output's place."""
    return [conv.dilation[axis] * tap - conv.padding[axis] for tap in range(conv.weight.shape[2 + axis])]


def total_bias(synapses: Sequence[Synapse]) -> FloatArray | None:
    """The sum of what synapses add: one value a channel while all have that, else one a neuron; None for nothing."""
    biases = [synapse.bias.astype(np.float64) for synapse in synapses if synapse.bias is not None]
    if not biases:
        return None
    axes = max(bias.ndim for bias in biases)
    spread = np.broadcast_arrays(*(bias.reshape(*bias.shape, *(1,) * (axes - bias.ndim)) for bias in biases))
    total: FloatArray = np.sum(spread, axis=0)
    return total


def neuron_bias(synapses: Sequence[Synapse], shape: Shape) -> IntArray:
    """`total_bias` of integer synapses, one a neuron of `shape`."""
    total = total_bias(synapses)
    if total is None:
        return np.zeros(shape, dtype=np.int64)
    whole = total.astype(np.int64)
    return np.broadcast_to(whole.reshape(*whole.shape, *(1,) * (len(shape) - whole.ndim)), shape).copy()
