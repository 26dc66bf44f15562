"""Mutation testing of the core: each one-line fault is made in a copy of the tree, and the tests named must fail.

A mutant that no test can kill because it changes nothing is in `EQUIVALENT`, with the reason. C++ is compiled in the
copy; nothing of the tree itself, or of the user's cache, is touched. A mutant alone:

    pytest -m slow tests/test_mutants.py -k "relay and 2"
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import ROOT

pytestmark = pytest.mark.slow
EVENTS = "simulate/events/"


@dataclass(frozen=True)
class Mutant:
    """`old`, which stands once in a file of snn2chip/, becomes `new`; `tests` is a file of tests/ and what of it."""

    file: str
    old: str
    new: str
    tests: str

    def __str__(self) -> str:
        return f"{self.file}: {self.old.strip()[:60]} -> {self.new.strip()[:60]}"


def of(file: str, tests: str, *changes: tuple[str, str]) -> list[Mutant]:
    return [Mutant(file, old, new, tests) for old, new in changes]


MUTANTS = [
    *of(
        "chip/neuron.py",
        "test_chip_neuron.py",
        ("+ (((size & 4095) * keep) >> 12)", ""),
        ("torch.where(state < 0, -size, size)", "size"),
        ("total > STATE_MAX,", "total >= STATE_MAX,"),
        ("total <= -STATE_MAX,", "total < -STATE_MAX,"),
        ("(activation << STATE_SHIFT)", "(activation << 5)"),
        (
            "+ current + shifted).clamp_(-(STATE_MAX - 1), STATE_MAX - 1)",
            "+ current + shifted).clamp_(-STATE_MAX, STATE_MAX - 1)",
        ),
        ("updated > (threshold << STATE_SHIFT)", "updated >= (threshold << STATE_SHIFT)"),
        ("shifted = bias << bias_exp", "shifted = bias << 6"),
    ),
    *of(
        "chip/neuron.py",
        "test_chip_neuron.py -k time_varying",
        (".trunc_()", ".floor_()"),
        ("(bias << STATE_SHIFT) + lift", "bias + lift"),
        ("spikes = updated > threshold\n", "spikes = updated >= threshold\n"),
        ("total.clamp_(-(STATE_MAX - 1), STATE_MAX - 1)", "total.clamp_(-STATE_MAX, STATE_MAX - 1)"),
    ),
    *of(
        "chip/profile.py",
        "test_passes_quantize.py -k 'chip_limits or out_of_range'",
        ("2**self.weight_bits - 2", "2**self.weight_bits - 1"),
        ("2 ** (self.weight_bits - 1) - 1", "2 ** (self.weight_bits - 1)"),
        ("2 ** (self.bias_bits - 1) - 1", "2 ** (self.bias_bits - 1)"),
        ("2**self.threshold_bits - 1", "2**self.threshold_bits"),
        ("(self.state_bits - 1 - STATE_SHIFT) - 1", "(self.state_bits - 1 - STATE_SHIFT)"),
        ("2 ** (self.state_bits - 1) - 1", "2 ** (self.state_bits - 1)"),
        ("2 <= bits <=", "1 <= bits <="),
    ),
    *of(
        "passes/fold.py",
        "test_passes_fold.py -k 'formula or two_pools or padded_input or dense_first or left_out or does_not_divide'",
        ("np.sqrt(norm.var + norm.eps)\n    return gain", "np.sqrt(norm.var)\n    return gain"),
        ("(bias - norm.mean", "(bias + norm.mean"),
        (
            "weight = conv.weight.repeat(k0, axis=2).repeat(k1, axis=3) / (k0 * k1)",
            "weight = conv.weight.repeat(k0, axis=2).repeat(k1, axis=3) / k0",
        ),
        ("padding=(conv.padding[0] * k0,", "padding=(conv.padding[0],"),
        ("i * s0 : i * s0 + h", "i : i + h"),
        ("stride=(s0 * k0, s1 * k1)", "stride=(k0, k1)"),
        ("source.scale * center + source.shift", "source.scale * center - source.shift"),
        ("reach > pooled:", "reach > pooled + 1:"),
        ("np.repeat(source.scale, pixels)\n", "np.tile(source.scale, pixels)\n"),
    ),
    *of(
        "passes/fold.py",
        "test_nn_blocks.py -k 'counts_once or every_kind or maximum_at_every'",
        ("return replace(node, mean=zero, beta=zero)", "return replace(node, mean=zero)"),
        ("return replace(node, bias=None)", "return node"),
        ("tau=0.25, threshold=0.5)", "tau=0.25, threshold=1.5)"),
        ("max(conv.padding[axis]", "min(conv.padding[axis]"),
    ),
    *of(
        "passes/fold_bntt.py",
        "test_passes_fold_bntt.py -k 'by_hand or lively or bntt or one_step or vanishes or negative'",
        ("neuron.tau * gain[:-1] / gain[1:]", "neuron.tau * gain[1:] / gain[:-1]"),
        ("neuron.threshold / gain)", "neuron.threshold * gain)"),
        ("-np.sum([item.mean", "np.sum([item.mean"),
        ("np.array_equal(item.var, norms[0].var) and item.eps", "item.eps"),
        (" and item.eps == norms[0].eps", ""),
        (" and np.array_equal(items[0].gamma, norms[0].gamma)", ""),
        ("if not (norm.gamma > 0).all()", "if not (norm.gamma >= 0).all()"),
        ("norm.gamma[0], 0 * norm.mean[0]", "norm.gamma[0], norm.mean[0]"),
    ),
    *of(
        "passes/schedule.py",
        "test_passes_lower.py -k 'phases or bottleneck or bits or copies or shared or no_chain or shrinks or relays'",
        ("(y % stride[0], x % stride[1])", "(0, 0)"),
        ("// stride[axis] >= size[axis]", "// stride[axis] > size[axis]"),
        ("limits[n] * _WORTH >= wanted", "limits[n] >= 4 * wanted"),
        ("limits[n] * _WORTH >= wanted", "limits[n] >= wanted"),
        ('bias_max = 0 if relays == "plain" else chip.bias_max', "bias_max = chip.bias_max"),
        ("max(copies, wanted.get(source, 1))", "copies"),
    ),
    *of(
        "passes/schedule.py",
        "test_verify_prove.py -k gaps",
        ("min(pixel, shape[1 + axis] - 1)", "pixel"),
    ),
    *of(
        "ir/nodes.py",
        "test_verify_prove.py -k gaps",
        ("conv.dilation[axis] * tap - conv.padding[axis]", "tap - conv.padding[axis]"),
    ),
    *of(
        "chip/relay.py",
        "test_chip_relay.py",
        ("weight + bias <= threshold", "weight + bias < threshold"),
        ("voltage > UNIT * threshold", "voltage >= UNIT * threshold"),
        ("threshold + 1 - weight", "threshold - weight"),
        ("bias < 0 or ", ""),
        ("UNIT * bias", "32 * bias"),
        ("if bias <= bias_max and", "if"),
        ("chip.weight_max if even else chip.weight_odd_max", "chip.weight_max"),
        ("chip.bias_max if with_bias else 0", "chip.bias_max"),
    ),
    *of(
        "passes/record.py",
        "test_nn_blocks.py -k 'in_place or whoever'",
        ("target.memory.changes += 1", "target.memory.changes += 0"),
        ("target.value, target.changes = found, target.memory.changes", "target.changes = target.memory.changes"),
    ),
    *of(
        "passes/record.py",
        "test_deployment.py -k 'steps_itself or modules_units'",
        ('factor = 1 / self.timesteps if name == "mean" else 1', "factor = 1"),
    ),
    *of(
        "passes/lower.py",
        "test_passes_lower.py -k 'odd or shared or basic or phases or bottleneck or copies or shrinks or test_fit'",
        ("[True] if large else [False] if odd else [False, True]", "[True] if large else [False, True]"),
        ("> copies * self.chip.weight_odd_max", "> self.chip.weight_odd_max"),
        ("left = left - part", "left = left + 0"),
        ("= relay_bias\n", "= 0"),
        ("copies.get(source, 1)", "1"),
        ("[: level.copies]", "[:1]"),
        ("range(least, least + stride", "range(0, stride"),
        ("taps_needed, -(-(room - stride + 1) // dilation) + 1", "taps_needed, 1"),
        ("relay_weight > self.chip.weight_odd_max or", "False or"),
    ),
    *of(
        "passes/lower.py",
        "test_verify_prove.py -k 'tables or fault or gaps'",
        ("+ block.start * (pixels - 1)", ""),
        ("(place[0] + padding[0]) // dilation[0]", "(place[0] + padding[0])"),
        ("return 1, 0  # with", "return 0, 0  # with"),
    ),
    *of(
        "verify/prove.py",
        "test_verify_prove.py -k 'not random'",
        ("(u <= -(2**23)) * 2**24", "(u < -(2**23)) * 2**24"),
        ("0 if v > threshold else v), v > threshold", "0 if v >= threshold else v), v >= threshold"),
        ("if fired != bool(spike):", "if fired and not spike:"),
        ("for at in np.argwhere(bias != layer.bias[rows])[:1]:", "for at in []:"),
        ("if end != layer.shape[0]:", "if False:"),
        ("if start != end:", "if False:"),
        ("or hop != str(place - levels[source])", ""),
        ("if len(reads) > 1 or not binary:", "if not binary:"),
        ("if list(chain.layers[-1].origin) != [last]:", "if False:"),
        (
            'if wanted != found:\n                raise _DifferenceError("input"',
            'if False:\n                raise _DifferenceError("input"',
        ),
        ("y * dy : ends[0] : sy", "y : ends[0] - y * dy + y : sy"),
        ("group * per_group : (group + 1) * per_group", "0 : per_group"),
    ),
    *of(
        "passes/quantize/calibration.py",
        "test_passes_quantize.py -k 'seen_beyond or overflows_on or measured or least_error'",
        ("if spare is None and taken[0].seen <= limit:", "if spare is None:"),
        ("known[key], _ = measure(made,", "known[key], _ = measure(items[0],"),
        ("max(item.seen for item in results)", "results[0].seen"),
        ("torch.from_numpy(rows[:judged])", "torch.from_numpy(rows[:1])"),
    ),
    *of(
        "passes/quantize/__init__.py",
        "test_passes_quantize.py -k 'seen_beyond or overflows_on or empty or missing_scale or layer_of_zeros'",
        ("if calibration is not None and not len(calibration)", "if False"),
    ),
    *of(
        "passes/quantize/layer.py",
        "test_passes_quantize.py -k 'rounded_floats or large_bias or out_of_range or too_small or given_scale'",
        ("int(np.rint((1 - neuron.tau) * DECAY_ONE))", "int((1 - neuron.tau) * DECAY_ONE)"),
        ("threshold -= 1", "threshold -= 0"),
        ("np.abs(bias).max(initial=0) > self.bias_max", "np.abs(bias).max(initial=0) > 2 * self.bias_max"),
        ("if self.decay > chip.decay_max", "if self.decay > chip.decay_max + 1"),
    ),
    *of("passes/quantize/layer.py", "test_verify_prove.py -k gaps", ("bias if number == 0 else None", "bias")),
    *of(
        "passes/quantize/candidate.py",
        "test_passes_quantize.py -k 'room_to_spare or least_error or measured or measuring'",
        ("self.peak * _SEEN_MARGIN <= limit", "self.peak <= limit"),
        ("_PROOF_WORTH = 1.05", "_PROOF_WORTH = 100.0"),
        ("differ / wanted.numel()", "-differ / wanted.numel()"),
        ("max(UNIT * seen, before) >= STATE_MAX", "max(UNIT * seen, before) > 2 * STATE_MAX"),
    ),
    *of(
        "passes/quantize/bntt_layer.py",
        "test_passes_quantize_bntt_layer.py -k 'leak_shift or formulas or thresholds_that or without_weights'",
        ("LEAK_MAX = 2**16 - 1", "LEAK_MAX = 2**16"),
        ("range(LEAK_SHIFT_MAX, -1, -1)", "range(LEAK_SHIFT_MAX, 0, -1)"),
        ("np.rint(UNIT * scale * (self.base + constants.bias))", "np.rint(UNIT * scale * constants.bias)"),
        ("np.rint(constants.leak * 2.0**self.leak_shift)", "np.floor(constants.leak * 2.0**self.leak_shift)"),
        (
            "np.minimum(np.rint(UNIT * scale * constants.threshold), most)",
            "np.rint(UNIT * scale * constants.threshold)",
        ),
    ),
    *of(
        "passes/quantize/rounding.py",
        "test_passes_quantize.py -k 'sum_rounding or rounded_floats or without_the_compiled'",
        ("moves = np.rint(errors.sum(1, keepdims=True))", "moves = np.floor(errors.sum(1, keepdims=True))"),
        ("directed > 0), -np.sign(moves)", "directed > 0), np.sign(moves)"),
        ("rank < np.abs(moves)", "rank <= np.abs(moves)"),
        ("rounded(weight, scale / 2, rounding, 2)", "rounded(weight, scale, rounding)"),
        ("odd = [n * chip.weight_odd_max for n in reads]", "odd = [n * chip.weight_max for n in reads]"),
    ),
    *of(
        "passes/quantize/rounding.cpp",
        "test_passes_quantize.py -k 'sum_rounding or without_the_compiled'",
        ("count > 128", "count > 64"),
        ("if (sign * errors[i] > sign * errors[worst]) worst", "if (sign * errors[i] >= sign * errors[worst]) worst"),
        ("equal -= sign * errors[i] > least", "equal -= sign * errors[i] >= least"),
        ("error == least && equal-- > 0", "error == least"),
        ("scales[each_scale ? output : 0]", "scales[0]"),
    ),
    *of(
        "chip/bounds.py",
        "test_passes_quantize.py -k 'proved or proof'",
        ("low, high = np.minimum(low, 0), np.maximum(high, 0)", "low, high = low, high"),
        ("return bound <= limit and down <= limit and up <= limit", "return bound <= limit and up <= limit"),
        ("return bound <= limit and down <= limit and up <= limit", "return bound <= limit and down <= limit"),
        ("bound <= limit and down", "bound <= limit + 1 and down"),
        ("keep * gathered * max(0, most + bias_high)", "0"),
        ("products = weight * hi, weight * lo", "products = weight * lo, weight * lo"),
    ),
    *of(
        "chip/bounds.py",
        "test_passes_quantize_bntt_layer.py -k peaks",
        ("np.maximum(0, np.minimum(high, threshold))", "np.maximum(0, 0 * high)"),
        ("np.minimum(low, 0)\n    return peaks", "0 * low\n    return peaks"),
    ),
    *of(
        "ir/encode.py",
        "test_nn.py -k encoder",
        ("pixels.min() < 0 or ", ""),
        ("pixels.max() > self.pixel_max)", "pixels.max() > self.pixel_max + 1)"),
        ('not in "iub"', 'not in "iubf"'),
        ("self.timesteps, axis=1)", "1, axis=1)"),
    ),
    *of(
        "chip/bounds.py",
        "test_simulate.py",
        ("FLOAT32_EXACT = 2**24", "FLOAT32_EXACT = 2**26"),
        ("np.maximum(np.abs(low), np.abs(high))", "np.abs(high)"),
    ),
    *of("chip/products.py", "test_simulate.py", (', "current_decay": neuron.current_decay}', "}")),
    *of(
        "simulate/dense.py",
        "test_simulate.py",
        ("volts[:, -1].long() if", "volts[:, 0].long() if"),
    ),
    *of("ir/trace.py", "test_simulate.py", ("max(part.largest[name] for part", "min(part.largest[name] for part")),
    *of(
        "chip/products.py",
        "test_simulate_streaming.py",
        ("state.steps += 1", "state.steps += 0"),
    ),
    *of(
        "simulate/streaming.py",
        "test_simulate_streaming.py",
        ("self.window - self.steps", "self.window"),
        ("found.scores + self._spikes", "found.scores"),
    ),
    *of(
        "simulate/reference.py",
        "test_simulate.py",
        ("np.sign(values) * ((np.abs(values) * keep) // 4096)", "(values * keep) // 4096"),
        ("np.clip(v, -(2**23) + 1, 2**23 - 1)\n        spike", "np.clip(v, -(2**23), 2**23 - 1)\n        spike"),
        ("v > layer.threshold * 64", "v >= layer.threshold * 64"),
        ("rows = slice(i * d0,", "rows = slice(i,"),
        ("scores = x.sum(1)", "scores = x[:, -1]"),
    ),
    *of(
        "simulate/reference.py",
        "test_simulate_events.py -k limits_of_every",
        ("u > 2**23,", "u >= 2**23,"),
        ("u <= -(2**23),", "u < -(2**23),"),
    ),
    *of(
        "simulate/branching.py",
        "test_passes_lower.py -k basic_block",
        ("sums = made if number == 0 else sums + made", "sums = made"),
    ),
    *of(
        "chip/int8.py",
        "test_chip_int8.py -k 'not gpu'",
        ("int(rest.min()) < -128", "int(rest.min()) < -129"),
        ("int(rest.max()) > 127", "int(rest.max()) > 128"),
        ("high.max() <= 127", "high.max() <= 128"),
        ("largest < 2**31", "largest < 2**32"),
    ),
    *of(
        "simulate/chip_time.py",
        "test_formats_netx_read.py -k 'one_step_after'",
        ("arriving[1 + delay : 1 + delay + steps]", "arriving[delay : delay + steps]"),
        ("(done + step + 1) %", "(done + step) %"),
        ("activation = activation + self.last", "activation = activation + 0"),
    ),
    *of(
        EVENTS + "plan.py",
        "test_simulate_events.py -k 'limits_of_every or reach_every or wide_chains_equal'",
        ("narrow = most <= INT16_MAX", "narrow = most <= INT16_MAX + 1"),
        ("0 if narrow else 255", "0 if narrow else 512"),
        ("0 if narrow else INT16_MAX // size", "0 if narrow else INT16_MAX // size + 1"),
        ("if scale or size <= 127", "if scale or size <= 128"),
        ("if size > 127 and not", "if size > 128 and not"),
        ("weight.min() >= -256", "weight.min() >= -258"),
        ("weight.max() <= 254", "weight.max() <= 256"),
        ("bound <= INPUT_MAX else", "bound <= INPUT_MAX + 1 else"),
        ("(STATE_MAX - 1) * (DECAY_ONE - keep)", "(STATE_MAX - 1) * DECAY_ONE"),
        ("(STATE_MAX - 1) * (DECAY_ONE - keep)", "2**24 * (DECAY_ONE - keep)"),
        ("drive = UNIT * bound + int(np.abs(bias).max(initial=0))", "drive = UNIT * bound"),
        ("drive = UNIT * bound + int", "drive = bound + int"),
        ("np.abs(weight).max(initial=0)) <= INT16_MAX:", "0) <= INT16_MAX:"),
        ("max(-low.min(), high.max(), np", "max(-low.min(), np"),
        ("tables.leak_shift >= 12", "tables.leak_shift >= 8"),
    ),
    *of(
        EVENTS + "windows.py",
        "test_simulate_events.py -k 'windows or relays_are or around_them'",
        ("used.shape[-1] - used[..., ::-1].argmax(-1)", "used.shape[-1] - used[..., ::-1].argmax(-1) - 1"),
        ("low, high = np.minimum(a, b), np.maximum(a, b)", "low, high = a, np.maximum(a, b)"),
    ),
    *of(
        EVENTS + "neurons.h",
        "test_simulate_events.py -k 'limits_of_every or exactly_at or events_equal or wide_chains_equal'",
        (
            "((u <= -STATE_MAX) & turn) - ((u > STATE_MAX) & turn)",
            "((u < -STATE_MAX) & turn) - ((u > STATE_MAX) & turn)",
        ),
        (
            "((u <= -STATE_MAX) & turn) - ((u > STATE_MAX) & turn)",
            "((u <= -STATE_MAX) & turn) - ((u >= STATE_MAX) & turn)",
        ),
        ("if (CURRENT != FREE) u = least", "if (CURRENT == WRAPS) u = least"),
        ("(v + ((v >> 31) & round), L", "(v, L"),
        ("I32 rest = u <= threshold;", "I32 rest = u < threshold;"),
        ("next > L.over[at] &&", "next >= L.over[at] &&"),
        ("current[part] = B.fresh ? (I32){} :", "current[part] = true ? (I32){} :"),
    ),
    *of(
        EVENTS + "engine.cpp",
        "test_simulate_events.py -k same_state",
        ("job.before = run.before, ", ""),
        ("run.states[2 * i] + number * neurons(L)", "run.states[2 * i]"),
    ),
    *of(
        EVENTS + "engine.cpp",
        "test_simulate_events.py -k any_number",
        ("memcpy(bits, bits - words, sizeof(uint32_t) * words), ", ""),
    ),
    *of(EVENTS + "engine.py", "test_simulate_events.py -k same_state", ("+= port.shape[1]", "+= 1")),
    *of(EVENTS + "neurons.h", "test_simulate_events.py -k bigger", ("drive[step] != drive[step - 1];", "false;")),
    *of(
        EVENTS + "sums.h",
        "test_simulate_events.py -k 'limits_of_every or exactly_at or events_equal or wide_chains_equal or any_number'",
        ("rows.clear();\n                count = 0;", "count = 0;"),
        ("entry + (L.limit - count) / FEW * FEW", "entry + (L.limit - count + FEW) / FEW * FEW"),
        ("if (some > AT_ONCE / 2) hold", "if (some > AT_ONCE / 2 + 1) hold"),
        ("held += AT_ONCE, entry += AT_ONCE, some -= AT_ONCE;", "held += AT_ONCE, some -= AT_ONCE;"),
        ("for (int i = 0; i < FEW; i += LANES32) store", "for (int i = 0; i < FEW - LANES32; i += LANES32) store"),
        ("(int16_t)(count * 128));\n        for (int i", "(int16_t)(count * 127));\n        for (int i"),
        ("if (iy < 0 || iy >= L.in_h) continue;", "if (iy < 0 || iy >= L.in_h - 1) continue;"),
        ("first = std::max(at, 0)", "first = std::max(at, 1)"),
    ),
    *of(
        EVENTS + "kernels.h",
        "test_simulate_events.py -k 'any_number or wrong_input'",
        ("beyond |= (values[i] < low) | (values[i] > high)", "beyond |= values[i] > high"),
        ("beyond |= (values[i] < low) | (values[i] > high)", "beyond |= values[i] < low"),
    ),
    *of(
        "formats/netx/read.py",
        "test_formats_netx.py -k 'round_trip or wrong_is_named or missing_bias'",
        ("Limits((LOWEST, HIGHEST)", "Limits((-258, 256)"),
        ("_BIASES, _THRESHOLD, 1)", "(-5000, 4096), _THRESHOLD, 1)"),
        ("_THRESHOLD, 1)", "_THRESHOLD + 1, 1)"),
        ("return spread.transpose().copy()", "return spread.reshape(shape).copy()"),
        ("if stored.shape != shape:\n        raise", "if False:\n        raise"),
    ),
    *of(
        "formats/netx/samples.py",
        "test_formats_netx.py -k 'odd_weights'",
        ("np.abs(weight).max(initial=0) > 127 and", "np.abs(weight).max(initial=0) > 255 and"),
    ),
    *of(
        "formats/netx/write.py",
        "test_formats_netx.py -k 'round_trip or layout'",
        ("same = bool((bias == per_channel[:, None, None]).all())", "same = True"),
        ('group["padding"] = np.array(layer.padding)', 'group["padding"] = np.array(layer.padding[::-1])'),
    ),
    *of(
        "formats/netx/weights.py",
        "test_formats_netx_read.py -k 'netx_changes or cannot_load or would_change or one_sign'",
        ("LOWEST, HIGHEST = -256, 254", "LOWEST, HIGHEST = -255, 254"),
        ("if not low and not high:", "if False:"),
        ("if bits < 0:", "if False:"),
    ),
    *of(
        "verify/compare.py",
        "test_verify.py -k 'compare_names or compare_refuses or difference'",
        ("compared += wanted.size", "compared = wanted.size"),
        ("mismatches += count", "mismatches = count"),
        ("if count and earliest is None:", "if count:"),
        ("found is None or found.shape != wanted.shape", "found is None"),
    ),
    *of(
        "verify/compare.py",
        "test_verify.py -k 'correct_export_passes or wrong'",
        ("ROUNDING = 1e-9", "ROUNDING = 1e-2"),
    ),
    *of(
        "verify/integers.py",
        "test_verify.py -k 'correct_export_passes or wrong or every_number or other_weights'",
        ("*layer.padding, *layer.dilation, layer.groups", "*layer.padding, layer.groups"),
        ("*layer.padding, *layer.dilation, layer.groups", "*layer.padding, *layer.dilation"),
        ("*layer.stride, *layer.padding", "*layer.padding"),
        ("[layer.voltage_decay, layer.current_decay]", "[layer.current_decay]"),
    ),
    *of(
        "verify/ladder.py",
        "test_verify.py -k 'correct_export_passes or wrong'",
        ("membranes(first, second), scores, folded_scores", "membranes(first, second), scores, scores"),
    ),
    *of(
        "verify/ladder.py",
        "test_verify_prove.py -k compares_relays",
        ("compare(passed, {name: found[name][0] for name in passed})", "(0, 0, None)"),
    ),
    *of(
        "verify/compare.py",
        "test_verify_prove.py -k compares_relays",
        ("proved = passed and all", "proved = all"),
    ),
    *of(
        "verify/compare.py",
        "test_verify.py -k part_at",
        ("sample=first.sample + start", "sample=first.sample"),
        ("max(value, most.get(key, value))", "value"),
        ("sums.update(part.sums)", "sums = Counter(part.sums)"),
    ),
    *of(
        "nn/norm.py",
        "test_nn.py -k 'tdbn or bntt'",
        ("(self.alpha * self.threshold)", "self.alpha"),
        ("mean[t], var[t],", "mean[t], var[0],"),
        ("return self.log_weight.exp()", "return self.log_weight + 1"),
    ),
    *of("nn/norm.py", "test_nn_kernels.py -k repeats", ("(copies * count - 1)", "(copies * count)")),
    *of(
        "nn/neuron.py",
        "test_nn.py -k 'exactly or resets'",
        ("fired = membrane > threshold", "fired = membrane >= threshold"),
    ),
    *of(
        "nn/neuron.py",
        "test_nn_kernels.py -k one_operation",
        ("if whole else tau * kept)", "if whole else kept)"),
        ("grad = grad - later * membrane", "grad = grad + later * membrane"),
        ("kept = membrane <= threshold", "kept = membrane > threshold"),
        ("later = here * tau", "later = here"),
    ),
    *of("nn/kernels.py", "test_nn_kernels.py -k kept_as_it_is", ("if tensor._version != version:", "if False:")),
    *of("nn/layers.py", "test_nn.py -k strided_kernel", ("self.kernel_size == (1, 1) and", "False and")),
    *of(
        "chip/products.py",
        "test_simulate.py -k backend",
        ("nnpack.flags(enabled=False)", "nnpack.flags(enabled=True)"),
    ),
    *of(
        "nn/lif.cpp",
        "test_nn_kernels.py -k 'exactly_at or every_way or bits_come'",
        ("fire + (u[i] <= threshold ?", "fire + (u[i] < threshold ?"),
        ("grad_tau[i] += u[i] <= threshold ?", "grad_tau[i] += u[i] < threshold ?"),
        ("left_over<WHOLE>(before[i] > threshold ?", "left_over<WHOLE>(before[i] >= threshold ?"),
        ("found |= uint64_t(in[i] != 0) << i;", "found |= uint64_t(in[i] > 1) << i;"),
        ("others += !(in[i] == 0 || in[i] == 1)", "others += 0"),
        ("DETACH ? g[i] : g[i] - later[i] * u[i]", "g[i]"),
    ),
    *of(
        "nn/spike_conv.cpp",
        "test_nn_spike_conv.py -k 'equal_to or same_gradients'",
        ("std::max<int64_t>(left, 0), last", "std::max<int64_t>(left, 1), last"),
        ("first_y = (ry + s.pad_y) % s.stride_y", "first_y = ry % s.stride_y"),
        ("sums.at[at] = bias && at % lanes < valid ?", "sums.at[at] = false ?"),
        ("if (y < 0 || y >= s.out_height) {", "if (y < 0 || y >= s.out_height - 1) {"),
    ),
    *of(
        "nn/spike_conv.cpp",
        "test_nn_spike_conv.py -k 'widened or never_wrap or products_of_rows'",
        ("reached + here > INT16_MAX", "reached + here > 2 * INT16_MAX"),
        ("after[parts - 1] = true;", ""),
        ("narrow.at[at] = 0;", ""),
    ),
]
EQUIVALENT = {
    (
        "passes/lower.py",
        "(y - phase[0]) // block.stride[0] -> y // block.stride[0]",
    ): "phase is y modulo the stride: the floor is the same",
    (
        "chip/neuron.py",
        "clip v at 2^23 instead of 2^23 - 1",
    ): "above every threshold (131071 << 6) in both cases, so reset to 0",
    (
        "passes/lower.py",
        "wide = np.zeros(...) -> np.ones",
    ): "a relay's bias of 1 is not above its threshold of 1 either",
    ("verify/prove.py", "known |= reached -> known = reached"): "a relay's states rise or fall to one that rests",
    ("simulate/events/plan.py", "limit 255 -> 256"): "256 halves of -256 are -32768, which an int16 holds",
    (
        "simulate/events/plan.py",
        "size <= INT16_MAX // 8 -> INT16_MAX",
    ): "int16 rows moved after each one: slower, exact",
    (
        "simulate/events/plan.py",
        "keep < DECAY_ONE left out",
    ): "without decay the next condition holds for no drive but 0",
    (
        "nn/spike_conv.cpp",
        "bands of one row",
    ): "how many rows pass while weights are in the cache: no term changes its place",
    ("simulate/dense.py", "largest < FLOAT32_EXACT -> <="): "2^24 itself is a float32, and no sum is larger",
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of all that tests read."""
    copy = tmp_path_factory.mktemp("mutants") / "tree"
    left_out = shutil.ignore_patterns(".*", "__pycache__", "runs", "docs", "*.pt")
    shutil.copytree(ROOT, copy, ignore=left_out)
    return copy


@pytest.fixture
def mutated(tree: Path) -> Iterator[Path]:
    """The copy, put right again afterwards."""
    yield tree
    shutil.copytree(
        ROOT / "snn2chip", tree / "snn2chip", ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True
    )


def change(tree: Path, mutant: Mutant) -> None:
    file = tree / "snn2chip" / mutant.file
    text = file.read_text(encoding="utf-8")
    assert text.count(mutant.old) == 1, f"{mutant.old!r} stands {text.count(mutant.old)} times in {mutant.file}"
    file.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")


def run(tree: Path, tests: str, **variables: str) -> subprocess.CompletedProcess[str]:
    file, _, options = tests.partition(" ")
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--hypothesis-seed=0"]
    return subprocess.run(
        [*command, "-m", "not lava and not slow", *shlex.split(options), f"tests/{file}"],
        cwd=tree,
        env={
            **os.environ,
            "PYTHONPATH": str(tree),
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
            "SNN2CHIP_THOROUGH": "1",
            **variables,
        },
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )


@pytest.mark.parametrize("tests", sorted({mutant.tests for mutant in MUTANTS}))
def test_without_a_mutant_the_tests_pass(tests: str, tree: Path) -> None:
    """What fails anyway kills nothing."""
    done = run(tree, tests)
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-500:]


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_a_mutant_is_killed(mutant: Mutant, mutated: Path, tmp_path: Path) -> None:
    """Tests run and one fails, or compiled code crashes."""
    change(mutated, mutant)
    compiled = mutant.file.endswith((".h", ".cpp"))  # at its first use
    done = run(mutated, mutant.tests, **({"SNN2CHIP_CACHE": str(tmp_path)} if compiled else {}))
    failed = done.returncode == 1 and ("FAILED tests/" in done.stdout or "ERROR tests/" in done.stdout)
    assert failed or done.returncode < 0, f"{mutant} survives: {done.stdout[-500:]}{done.stderr[-500:]}"
