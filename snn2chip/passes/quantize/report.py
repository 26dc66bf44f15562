"""What a quantization reports, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from snn2chip.choices import Strategy as Strategy
from snn2chip.passes.quantize.rounding import Rounding

STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)


@dataclass(frozen=True)
class StepsReport:
    """The tables of a time-varying neuron: fixed-point format, ranges, and what they could not hold.

    leak       largest factor, in units of 2^-leak_shift; `leak_error` the largest error of one
    threshold  smallest and largest that can be reached, in weight units; `silent` counts the (step, channel) places
               whose threshold lies beyond the membrane's 24 bits: no neuron fires there
    scale      smallest and largest of the channels' scales
    """

    timesteps: int
    channels: int
    leak_shift: int
    leak_max: float
    leak_error: float
    threshold_min: float
    threshold_max: float
    silent: int
    scale_min: float
    scale_max: float


@dataclass(frozen=True)
class LayerReport:
    """How one layer became integers.

    `error`: share of calibration spikes that differ from the float network's (or, for the accumulating readout,
    relative root-mean-square error of the scores); None without calibration data. `alternatives`: the same error for
    each rule, of a large layer where it was judged. `bound`: largest |sum| possible in one step, of a neuron that keeps
    its current the largest |current|; `seen`: largest on calibration data; `limit` what fits. `relays`: channels or
    features of relays in the same chain layer, and `relay_limit` the largest threshold they allow. `spikes`: of all
    calibration samples, and `spikes_wanted` those of the float network; None without data and for the accumulating
    readout. `headroom` = limit / (bound if proved, else seen). With time-varying neurons `steps` has their tables, and
    `scale` and `threshold` are medians over channels (and steps).
    """

    name: str
    neuron: str
    fan_in: int
    neurons: int
    synapses: int
    rule: str
    rounding: Rounding
    scale: float
    threshold: int
    weight_max: int
    weight_bits: float
    bias_max: int
    clipped: int
    error: float | None
    alternatives: dict[str, float]
    relays: int
    relay_limit: int | None
    proved: bool
    bound: int
    seen: int | None
    limit: int
    tau: float
    tau_chip: float
    current_tau: float = 0.0
    current_tau_chip: float = 0.0
    steps: StepsReport | None = None
    spikes: int | None = None
    spikes_wanted: int | None = None

    @property
    def headroom(self) -> float:
        """How many times the largest sum (possible if proved, else seen) fits."""
        largest = self.bound if self.proved or self.seen is None else self.seen
        return self.limit / max(1, largest)


@dataclass(frozen=True)
class QuantizeReport:
    """One entry a layer; `calibration` is how many samples were used.

    `agree`: how many of them the integers decide as the float network does; `agree_plain`: the same without calibration
    (None where it was not tried, or does not fit). `plain`: the layers that calibration would have made worse at the
    end of the network, and that are as without it.
    """

    chip: str
    weight_bits: int
    strategy: Strategy
    calibration: int
    layers: tuple[LayerReport, ...]
    agree: int | None = None
    agree_plain: int | None = None
    plain: tuple[str, ...] = ()
