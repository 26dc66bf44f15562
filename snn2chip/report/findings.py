"""What will go wrong, or nothing happen, when a layer of a netx file runs: from its numbers alone.

The bounds take the worst input in every step, so 'may' stands in what they say; what they say nothing about cannot
happen. The chip's limits are those of `snn2chip.chip`.
"""

from __future__ import annotations

import math

import numpy as np

from snn2chip.chip.bounds import output_bounds, proof
from snn2chip.chip.profile import Chip
from snn2chip.formats.netx.fields import STEPS
from snn2chip.formats.netx.look import Entry, span
from snn2chip.formats.netx.read import Finding
from snn2chip.formats.netx.weights import HIGHEST, LOWEST, ONE_SIGN
from snn2chip.ir import Constant, CubaNeuron, IntArray, Weights
from snn2chip.ir.netlist import ChipLayer

_ENDLESS = 2**31  # chip steps of a network that is never reset
_ONE = 4096  # a decay that takes everything away
_MANY_STEPS = 1000


def weight_bits(weight: Weights) -> int:
    """Bits that a matrix needs once its common power of two is taken out: a sign bit where there are both signs."""
    low, high = int(weight.min(initial=0)), int(weight.max(initial=0))
    if not low and not high:
        return 0
    joined = int(np.bitwise_or.reduce(np.abs(weight), axis=None))
    shift = (joined & -joined).bit_length() - 1
    if low < 0 < high:
        return max((high >> shift).bit_length(), (-(low >> shift) - 1).bit_length()) + 1
    return (max(high, -low) >> shift).bit_length()


def of_registers(entry: Entry, chip: Chip, message_bits: int) -> list[Finding]:
    """What the chip's registers cannot hold; `message_bits` of the integers that come into the layer, 0 for spikes."""
    texts: list[str] = []
    for name in ("weight", "weight_rec"):
        weight = entry.arrays.get(name)
        if weight is None or entry.kind == "input" or not weight.size:
            continue
        both = bool(weight.min() < 0 < weight.max())
        low, high = (LOWEST, HIGHEST) if both else (-ONE_SIGN, ONE_SIGN)
        outside = int(((weight < low) | (weight > high)).sum())
        if outside and (entry.kind == "conv" or entry.layer is None):
            text = f"{outside:,} of '{name}' outside {low}..{high} ({weight.min()}..{weight.max()})"
            lava = ": netx does not look at those of convolutions, and Lava computes with them"
            texts.append(text + lava if entry.kind == "conv" else text)
        elif not outside and (bits := weight_bits(weight)) > chip.weight_bits:
            odd = int((weight % 2 != 0).sum())
            texts.append(
                f"{odd:,} odd values of '{name}' beside ones beyond {chip.weight_odd_max}: {bits} bits, {chip.name} "
                f"holds {chip.weight_bits}; Lava computes with them"
            )
    bias = entry.arrays.get("bias")
    if bias is not None and entry.kind != "input":
        low, high = -chip.bias_max - 1, chip.bias_max
        outside = int(((bias < low) | (bias > high)).sum())
        if outside:
            texts.append(f"{outside:,} biases outside {low}..{high} ({bias.min()}..{bias.max()})")
    for name, low, high in (
        ("vThMant", 0, chip.threshold_max),
        ("iDecay", 1, chip.decay_max + 1),  # netx passes iDecay - 1
        ("vDecay", 0, chip.decay_max),
    ):
        value = entry.neuron.get(name)
        if isinstance(value, np.ndarray) and not low <= value.min() <= value.max() <= high:
            texts.append(f"neuron/{name} {span(value)} outside {low}..{high}")
    if entry.neuron.get("type") == STEPS and not chip.programmable_neurons:
        texts.append("neurons with tables over time need programmable neurons")
    if message_bits > chip.message_bits:
        texts.append(f"integers of {message_bits} bits come in; {chip.name} takes {chip.message_bits or 'only spikes'}")
    return [Finding("register", f"{text} [{chip.name}]" if chip.name not in text else text) for text in texts]


def sums(layer: ChipLayer, port: tuple[IntArray, IntArray]) -> tuple[IntArray, IntArray]:
    """Smallest and largest sum of w x of one step, shaped to broadcast over the layer's neurons.

    `port` bounds what comes in, one value a channel or one for all; a recurrent layer's own spikes count too.
    """
    weight = layer.weight
    width = weight.shape[1] * (layer.groups if layer.kind == "conv" else 1)
    low, high = port
    if len(low) not in (1, width) and (layer.kind == "conv" or width % len(low)):
        low, high = low.min(keepdims=True), high.max(keepdims=True)
    least, most = output_bounds(layer, low, high)
    if layer.recurrent is not None:
        own = layer.recurrent.astype(np.int64)
        least, most = least + own.clip(None, 0).sum(1), most + own.clip(0).sum(1)
    return (x.reshape(-1, *(1,) * (len(layer.shape) - 1)) for x in (least, most))  # type: ignore[return-value]


def of_run(
    layer: ChipLayer, least: IntArray, most: IntArray, chip: Chip, steps: int | None, last: bool
) -> tuple[list[Finding], int]:
    """Overflows and neurons that never or always fire, for sums least..most of one step; and how many fire unasked.

    `steps` between resets, None without; `last` for the layer that is read out: with the highest threshold, it need not
    fire.
    """
    decays = (
        np.min([np.min(x) for x in (layer.current_decay, layer.voltage_decay)]),
        np.max([np.max(x) for x in (layer.current_decay, layer.voltage_decay)]),
    )
    if not 0 <= decays[0] <= decays[1] <= _ONE:
        return [], 0  # said among the registers; what follows from them is not worth working out
    gathered = _geometric(layer.current_decay, steps)
    up, down = np.ceil(gathered * np.maximum(most, 0)), np.floor(gathered * np.minimum(least, 0))
    # only while every step adds can the current stay at its largest; a sum that is never positive gathers no less
    up, down = np.where(most < 0, most, up), np.where(least > 0, least, down)
    firing, unasked = _firing(layer, up, down, chip, steps, last)
    return [*_overflow(layer, least, most, up, down, chip, steps), *firing], unasked


def _geometric(decay: Constant, steps: int | None) -> np.ndarray:
    """Sum of what is kept of a constant input, in units of it."""
    keep = 1 - np.asarray(decay) / _ONE
    count = _ENDLESS if steps is None else steps
    with np.errstate(invalid="ignore"):
        return np.where(keep == 1, float(count), (1 - keep**count) / (1 - keep))


def _overflow(
    layer: ChipLayer,
    least: IntArray,
    most: IntArray,
    up: np.ndarray,
    down: np.ndarray,
    chip: Chip,
    steps: int | None,
) -> list[Finding]:
    bound = max(int(most.max()), -int(least.min()))
    limit = chip.input_max
    if bound > limit:
        return [Finding("overflow", f"sums of one step may reach {bound:,}, beyond {limit:,}: the current wraps")]
    if max(float(up.max()), -float(down.min())) > limit:
        if slowest := int(np.min(layer.current_decay)):
            peak = max(float(up.max()), -float(down.min()))
            text = f"currents that decay slowly (iDecay {slowest}) may gather {peak:,.0f}, beyond {limit:,}"
        else:
            text = f"currents never decay (iDecay 0): with sums of up to {bound:,}, past {limit // bound:,} chip steps"
        return [Finding("overflow", f"{text}: they wrap")]
    # of all neurons the highest threshold and the slowest decay: no single one's voltage gets further
    neuron = CubaNeuron(layer.name, (), max(int(np.max(layer.threshold)), 0), int(np.min(layer.voltage_decay)))
    low, high = int(down.min()), int(up.max())
    if proof(low, high, layer.bias, neuron, steps or _ENDLESS, limit)[0]:
        return []
    each = max(1, -(low + int(layer.bias.min())), high + int(layer.bias.max()))
    text = f"voltages may reach {limit:,}, where they are clipped"
    if not neuron.voltage_decay:
        text += (
            f": they never decay (vDecay 0), and up to {each:,} may be added a step, so after {limit // each:,} steps"
        )
    return [Finding("overflow", text)]


def _firing(
    layer: ChipLayer, up: np.ndarray, down: np.ndarray, chip: Chip, steps: int | None, last: bool
) -> tuple[list[Finding], int]:
    neurons, threshold = layer.bias.size, np.asarray(layer.threshold)
    never = ~np.broadcast_to(_passes(up + layer.bias, layer, chip, steps), layer.shape)
    always = np.broadcast_to(down + layer.bias > threshold, layer.shape)
    unasked = _passes(layer.bias, layer, chip, steps)
    found: list[Finding] = []
    readout = last and bool((threshold >= chip.threshold_max).all())
    if never.all() and not readout:
        found.append(Finding("idle", f"no neuron can ever fire (vThMant {span(threshold)}): the layer sends nothing"))
    elif never.any() and not readout:
        found.append(Finding("firing", f"{int(never.sum()):,} of {neurons:,} neurons can never fire"))
    if always.any():
        count = int(always.sum())
        found.append(Finding("firing", f"{count:,} of {neurons:,} neurons fire at every step, whatever comes in"))
    elif unasked.all() and not readout:
        found.append(Finding("firing", "every neuron fires from its bias alone, sooner or later"))
    return found, int(unasked.sum())


def _passes(drive: np.ndarray, layer: ChipLayer, chip: Chip, steps: int | None) -> np.ndarray:
    """Whether a voltage that starts at 0 and gets the same drive in every step passes the threshold."""
    goal, decay = 64 * np.asarray(layer.threshold), np.asarray(layer.voltage_decay)
    # v = floor(v k / 4096) + x goes on growing up to the goal exactly if x > ceil(goal (4096 - k) / 4096)
    grows = (64 * drive > -(-goal * decay // _ONE)) & (drive > 0)
    if steps is not None and steps <= _MANY_STEPS:
        start = np.where(grows, np.minimum(drive, chip.state_max), 0).astype(np.int64)
        values, places = start.reshape(-1), np.arange(start.size)
        if goal.size == decay.size == 1:
            values, places = np.unique(start, return_inverse=True)
        else:
            goal, decay = (np.broadcast_to(x, start.shape).reshape(-1) for x in (goal, decay))
        voltage = np.zeros_like(values)
        fired = np.zeros(values.shape, dtype=bool)
        for _ in range(steps):
            voltage = np.where(fired, 0, (voltage * (_ONE - decay) >> 12) + 64 * values)
            fired |= voltage > goal
        grows = fired[places.reshape(start.shape)]
        goal = goal.reshape(start.shape) if goal.size > 1 else goal
    return np.asarray(np.where(goal < 0, True, grows & (goal < chip.state_max)))  # where voltages are clipped


def of_weights(entry: Entry) -> list[Finding]:
    """Layers that do nothing with what comes in."""
    if entry.kind == "conv" and not entry.arrays.get("weight", np.ones(1)).any():
        return [Finding("idle", "every weight is 0: what comes in counts for nothing")]
    if entry.kind == "input" and entry.layer is not None and not entry.layer.gain:
        return [Finding("idle", "weight 0: the data count for nothing")]
    if entry.kind == "flatten" and len(entry.inputs) == 1:
        return [Finding("idle", "what comes in is flat already")]
    return []


def time_constant(decay: int) -> float:
    """Steps after which 1/e is left, -1 / ln(1 - decay / 4096): 0 if nothing is kept, infinite if all is."""
    if not 0 < decay < _ONE:
        return 0.0 if decay else math.inf
    return -1 / math.log(1 - decay / _ONE)
