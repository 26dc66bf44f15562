"""What `quantize` makes of a network without calibration, as far as it can be told without rounding every weight.

The integers of a layer follow from one scale (or one a channel), and the scale from the largest weight, from biases and
thresholds, and from the largest sums, which must be proved not to overflow. The first three are known of a sample of
the weights that holds the extremes. A sum of n rounded weights is ``scale`` times the sum of the weights but for n half
steps at most, of which most cancel: sqrt(n) steps and a fiftieth of the sum are more than what is left, with
1 / (2 a^2) of it besides where the largest weight is but a steps. So a layer is sketched twice, as if all roundings
helped its proof, and as if all were against it. Where both give weights of the same size, that is their size; where
they do not, all weights are rounded.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from snn2chip import ir
from snn2chip.chip.bounds import Bounds, joint_bounds, output_bounds
from snn2chip.chip.profile import Chip
from snn2chip.passes.quantize import require_messages
from snn2chip.passes.quantize.candidate import Candidate
from snn2chip.passes.quantize.candidate import Sums as Way
from snn2chip.passes.quantize.layer import LayerQuantizer
from snn2chip.passes.quantize.walk import Job, Walk, as_trained, uncalibrated
from snn2chip.passes.schedule import Schedule

_SMALL = 2**14  # weights that are rounded sooner than sketched
_AT_ONCE = 2**20  # weights that are rounded together
_SAMPLE = 512  # weights beside the extremes: whether there are odd ones


def sketch(
    network: ir.Network, chip: Chip, plan: Schedule
) -> tuple[Mapping[str, ir.CubaNeuron], Mapping[str, ir.IntArray]]:
    """The chip's neurons of a 'folded' network, by neuron or readout, and some integers of each synapse: the smallest
    and the largest to within their bits, and an odd one if there is one.

    Raises:
        ChipLimitError, UnsupportedError: as `quantize`.
    """
    require_messages(network.input, chip)
    walk = Walk(network, chip, plan)
    units: dict[str, ir.CubaNeuron] = {}
    weights: dict[str, ir.IntArray] = {}
    for node in walk.ends():
        made = _sketched(walk, node)
        if made is None:
            job = walk.job(node)
            made = as_trained(job) if network.integers else uncalibrated(job, "auto")
            if made is None or not made.proved:
                raise job.refuse()
        units[node.name] = made.neuron
        weights.update({item.name: item.weight.astype(np.int64).ravel() for item in made.synapses})
    return units, weights


def _sketched(walk: Walk, node: ir.Node) -> Candidate | None:
    """A neuron's layer from a sample of its weights; None where that does not tell."""
    synapses = walk.network.synapses_of(node)
    if walk.network.integers or sum(item.weight.size for item in synapses) <= _SMALL:
        return None
    changing = isinstance(node, ir.LIF) and node.steps is not None
    sample = [_extremes(item, changing) for item in synapses]
    job = walk.job(node, sample)
    if isinstance(job, LayerQuantizer) and job.exact_scale():
        return None
    sums = Sums(job, synapses, sample)

    def made(way: Way) -> Candidate | None:
        job = walk.job(node, sample)
        job.sums = way
        return uncalibrated(job, "auto")

    best, worst = made(sums.helping), made(sums.hindering)
    return worst if best and worst and _sizes(best) == _sizes(worst) else made(sums.exact)


def _extremes(synapse: ir.Synapse, by_channel: bool) -> ir.Synapse:
    """The synapse with its smallest and largest weights, and some others, of all channels or of each."""
    rows = synapse.weight.reshape(len(synapse.weight) if by_channel else 1, -1)
    others = rows[:, : -(-_SAMPLE // len(rows))]
    some = np.concatenate([rows.min(1, keepdims=True), rows.max(1, keepdims=True), others], axis=1)
    some = some if by_channel else some.reshape(-1, 1)
    return replace(synapse, weight=some.reshape(*some.shape, *(1,) * (synapse.weight.ndim - 2)))


def _sizes(made: Candidate) -> list[tuple[int, int, bool]]:
    """Bits of the smallest and of the largest weight of each synapse, and whether some are odd."""
    return [
        (int(-low).bit_length(), int(high).bit_length(), bool((item.weight % 2).any()))
        for item in made.synapses
        for low, high in [(item.weight.min(initial=0), item.weight.max(initial=0))]
    ]


class Sums:
    """The sums of all weights of a layer, of which `sample` is rounded."""

    def __init__(self, job: Job, synapses: list[ir.Synapse], sample: list[ir.Synapse]) -> None:
        self.synapses, self.sample, self.bounds = synapses, sample, job.bounds
        self.least, self.most = joint_bounds(synapses, job.bounds)
        inputs = [max(1, int(-low.min()), int(high.max())) for low, high in job.bounds]
        counts = [item.weight[0].size for item in synapses]
        self.terms = sum(n * x for n, x in zip(counts, inputs, strict=True))
        self.noise = math.sqrt(sum(n * x * x for n, x in zip(counts, inputs, strict=True)))

    def helping(self, integers: Sequence[ir.Synapse], scale: float | ir.FloatArray) -> Bounds:
        """As if all roundings made them smaller."""
        kept = min(_kept(*pair, scale) for pair in zip(integers, self.sample, strict=True))
        least, most, off = self._about(integers, scale)
        return _whole(np.minimum(0, kept * least + off), np.maximum(0, kept * most - off))

    def hindering(self, integers: Sequence[ir.Synapse], scale: float | ir.FloatArray) -> Bounds:
        """As if all roundings made them larger."""
        least, most, off = self._about(integers, scale)
        return _whole(least - off, most + off)

    def exact(self, integers: Sequence[ir.Synapse], scale: float | ir.FloatArray) -> Bounds:
        """Of all weights, rounded to the nearest a million at a time, and clipped to where the sample is."""
        step, found = _step(integers), []
        for number, (synapse, given) in enumerate(zip(self.synapses, integers, strict=True)):
            rows = max(1, _AT_ONCE // synapse.weight[0].size) if synapse.groups == 1 else len(synapse.weight)
            factors = np.broadcast_to(np.asarray(scale) / step, len(synapse.weight)).reshape(_column(synapse.weight))
            ends = given.weight.min(), given.weight.max()
            parts = []
            for first in range(0, len(synapse.weight), rows):
                part = slice(first, first + rows)
                whole = np.clip(step * np.rint(synapse.weight[part] * factors[part]), *ends)
                parts.append(output_bounds(replace(synapse, weight=whole), *self.bounds[number]))
            found.append([np.concatenate(side) for side in zip(*parts, strict=True)])
        return _whole(np.sum([least for least, _ in found], axis=0), np.sum([most for _, most in found], axis=0))

    def _about(
        self, integers: Sequence[ir.Synapse], scale: float | ir.FloatArray
    ) -> tuple[ir.FloatArray, ir.FloatArray, ir.FloatArray]:
        """The sums, and by how much they may be off."""
        step = _step(integers)
        steps = max(1, *(int(np.abs(item.weight).max()) // step for item in integers))
        factor = np.asarray(scale, dtype=np.float64)
        least, most = factor * self.least, factor * self.most
        likely = step * self.noise + (0.02 + 0.5 / steps**2) * np.maximum(-least, most)
        off: ir.FloatArray = np.minimum(step / 2 * self.terms, likely) + 1
        return least, most, off


def _step(integers: Sequence[ir.Synapse]) -> int:
    return 1 if any((item.weight % 2).any() for item in integers) else 2


def _column(weight: ir.Array) -> tuple[int, ...]:
    return (-1, *(1,) * (weight.ndim - 1))


def _whole(least: ir.FloatArray, most: ir.FloatArray) -> Bounds:
    return np.floor(least).astype(np.int64), np.ceil(most).astype(np.int64)


def _kept(integers: ir.Synapse, weights: ir.Synapse, scale: float | ir.FloatArray) -> float:
    """The least share that clipping leaves of a weight."""
    wide = np.abs(weights.weight * np.reshape(scale, _column(weights.weight)))
    left = np.abs(integers.weight)
    clipped = wide > left + 1  # beyond what rounding does
    return float(np.min(left[clipped] / wide[clipped], initial=1.0))
