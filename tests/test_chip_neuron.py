"""The chip's integer arithmetic against unbounded Python integers, and against Lava's own neurons."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from helpers import lava_neurons, py_current, py_decay, py_voltage, usually
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from snn2chip.chip import neuron

STATES = sorted(
    {
        sign * size
        for size in (0, 1, 2, 63, 64, 4095, 4096, 4097, 8191, 8192, 2**22 - 1, 2**22, 2**23 - 1, 2**23)
        for sign in (-1, 1)
    }
)
states = st.one_of(st.integers(-(2**23), 2**23), st.sampled_from(STATES))
activations = st.one_of(
    st.integers(-(2**24) + 1, 2**24 - 1),
    st.integers(-(2**17) - 2, -(2**17) + 2),
    st.integers(2**17 - 2, 2**17 + 2),
    st.integers(-70, 70),
)
amounts = st.one_of(st.integers(0, 4096), st.sampled_from([0, 1, 4095, 4096]))
thresholds = st.one_of(st.integers(0, 131071), st.sampled_from([0, 1, 131071]))
biases = st.one_of(st.integers(-4096, 4095), st.sampled_from([-4096, 4095]))


def int32(values: list[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)


def test_decay_is_exact_for_every_amount() -> None:
    """All 4097 amounts at every limit of the state, both signs, rounding toward zero."""
    tensor = int32(STATES)
    negative = 0
    for amount in range(4097):
        got = neuron.decay(tensor, amount)
        assert got.dtype == torch.int32
        expected = [py_decay(state, amount) for state in STATES]
        assert got.tolist() == expected, f"amount {amount}"
        # where rounding down would have given another number
        negative += sum(state * (4096 - amount) // 4096 != want for state, want in zip(STATES, expected, strict=True))
    assert negative > 10_000


@settings(max_examples=usually(300), deadline=None)
@given(state=st.lists(states, min_size=1, max_size=20), amount=amounts)
def test_decay_is_exact(state: list[int], amount: int) -> None:
    """Any state and amount."""
    assert neuron.decay(int32(state), amount).tolist() == [py_decay(x, amount) for x in state]


def test_decay_of_every_small_state() -> None:
    """Every state within +-5000 at chosen amounts: no off-by-one anywhere."""
    small = list(range(-5000, 5001))
    for amount in (1, 2, 1023, 2048, 3072, 4094, 4095):
        assert neuron.decay(int32(small), amount).tolist() == [py_decay(x, amount) for x in small]


@settings(max_examples=usually(300), deadline=None)
@given(pairs=st.lists(st.tuples(states, activations), min_size=1, max_size=20), amount=amounts)
def test_current_step_is_exact(pairs: list[tuple[int, int]], amount: int) -> None:
    """u decays, takes the input and wraps, for any input below 2^24."""
    current, activation = zip(*pairs, strict=True)
    got = neuron.current_step(int32(list(current)), int32(list(activation)), amount)
    assert got.tolist() == [py_current(u, a, amount) for u, a in pairs]


@settings(max_examples=usually(300), deadline=None)
@given(
    rows=st.lists(st.tuples(states, states, biases), min_size=1, max_size=20),
    threshold=thresholds,
    amount=amounts,
    bias_exp=st.integers(0, 7),
)
def test_voltage_step_is_exact(rows: list[tuple[int, int, int]], threshold: int, amount: int, bias_exp: int) -> None:
    """v decays, takes u and the bias, clips, fires and resets."""
    voltage, current, bias = (int32(list(column)) for column in zip(*rows, strict=True))
    got, fired = neuron.voltage_step(voltage, current, bias, threshold, amount, bias_exp)
    expected = [py_voltage(v, u, b, threshold, amount, bias_exp) for v, u, b in rows]
    assert fired.dtype == torch.bool
    assert list(zip(got.tolist(), fired.tolist(), strict=True)) == expected


@settings(max_examples=usually(150), deadline=None)
@given(
    inputs=st.lists(activations, min_size=1, max_size=12),
    bias=biases,
    threshold=thresholds,
    voltage_decay=amounts,
    current_decay=amounts,
    bias_exp=st.integers(0, 7),
)
def test_steps_in_a_row_are_exact(
    inputs: list[int], bias: int, threshold: int, voltage_decay: int, current_decay: int, bias_exp: int
) -> None:
    """A neuron run over many steps from rest never leaves the definition, wraps and all."""
    u = v = int32([0])
    want_u = want_v = 0
    for activation in inputs:
        u, v, fired = neuron.step(
            u,
            v,
            int32([activation]),
            bias,
            threshold=threshold,
            voltage_decay=voltage_decay,
            current_decay=current_decay,
            bias_exp=bias_exp,
        )
        want_u = py_current(want_u, activation, current_decay)
        want_v, want_fired = py_voltage(want_v, want_u, bias, threshold, voltage_decay, bias_exp)
        assert (int(u), int(v), bool(fired)) == (want_u, want_v, want_fired)


def test_the_current_wraps_exactly_past_its_edges() -> None:
    """+2^23 stays, one input step above it wraps; -2^23 wraps, one above it stays."""
    edge = 2**17  # << 6 is 2^23
    activation = int32([edge - 1, edge, edge + 1, -edge + 1, -edge, -edge - 1])
    got = neuron.current_step(torch.zeros_like(activation), activation, 4096)
    assert got.tolist() == [2**23 - 64, 2**23, -(2**23) + 64, -(2**23) + 64, 2**23, 2**23 - 64]
    # and in steps of one, with a current that is kept
    kept = neuron.current_step(int32([2**23 - 64 + low for low in (63, 64, 65)]), int32([0, 0, 0]), 0)
    assert kept.tolist() == [2**23 - 1, 2**23, -(2**23) + 1]
    kept = neuron.current_step(int32([-(2**23) + 64 - low for low in (63, 64, 65)]), int32([0, 0, 0]), 0)
    assert kept.tolist() == [-(2**23) + 1, 2**23, 2**23 - 1]


def test_the_voltage_clips_exactly_at_its_edges() -> None:
    """+-(2^23 - 1) are the last values; a threshold of 131071 is still passed by the clipped voltage."""
    for total, clipped in [(2**23 - 2, 2**23 - 2), (2**23 - 1, 2**23 - 1), (2**23, 2**23 - 1), (2**24, 2**23 - 1)]:
        for sign in (-1, 1):
            v = int32([sign * (total - 2**22)])
            u = int32([sign * 2**22])
            got, fired = neuron.voltage_step(v, u, 0, 131071, 0)
            above = sign > 0 and clipped > 131071 * 64
            assert int(got) == (0 if above else sign * clipped)
            assert bool(fired) == above


def test_a_voltage_exactly_at_threshold_does_not_fire() -> None:
    """The comparison is strict at th << 6."""
    got, fired = neuron.voltage_step(int32([0, 0, 0]), int32([640, 641, 639]), 0, 10, 0)
    assert fired.tolist() == [False, True, False]
    assert got.tolist() == [640, 0, 639]


@settings(max_examples=usually(300))
@given(
    rows=st.lists(st.tuples(states, states, biases, st.integers(0, 65535), states, states), min_size=1, max_size=40),
    shift=st.integers(0, 16),
)
@example([(-1, 0, 0, 1, 0, -1), (-3, 0, 0, 32768, -63, -64), (5, 0, 1, 0, 0, 64), (0, 0, -1, 0, -(2**23), 0)], 16)
def test_a_step_of_a_time_varying_neuron_is_exact(rows: list[tuple[int, ...]], shift: int) -> None:
    """Leak, lift and threshold of a step, in unbounded integers."""
    v, current, bias, leak, lift, threshold = (int32(list(column)) for column in zip(*rows, strict=True))
    voltage, spikes = neuron.step_voltage(v, current, bias, leak, shift, lift, threshold)
    for row, found, fired in zip(rows, voltage.tolist(), spikes.tolist(), strict=True):
        size = abs(row[0]) * row[3] // 2**shift
        total = (size if row[0] >= 0 else -size) + row[1] + 64 * row[2] + row[4]
        total = max(-(2**23) + 1, min(2**23 - 1, total))
        assert (found, fired) == (0 if total > row[5] else total, total > row[5])


def test_inputs_are_left_as_they_were() -> None:
    """A step changes none of the tensors it is given."""
    u, v, a, b = int32([5, -5]), int32([9, 2**23 - 1]), int32([7, 2**17]), int32([4095, -4096])
    before = [x.clone() for x in (u, v, a, b)]
    for decays in ((0, 0), (4096, 4096), (100, 100)):
        neuron.step(u, v, a, b, threshold=3, voltage_decay=decays[0], current_decay=decays[1])
        assert all(torch.equal(x, y) for x, y in zip((u, v, a, b), before, strict=True))


# ---------------------------------------------------------------------------------------------- against Lava


def lava_cases(seed: int) -> dict[str, np.ndarray]:
    """Neurons over a million neuron-steps that meet every limit there is."""
    rng = np.random.default_rng(seed)
    steps, count, neurons = 16, 160, 500
    # the input's size differs by case, from a few units to far past the wrap
    size = rng.choice([3, 300, 2**13, 2**17, 2**19, 2**24 - 1, 2**31 - 1], (count, 1))
    a_in = rng.integers(-size, size + 1, (steps, count, neurons))
    a_in[:, :, :6] = [2**17, -(2**17), 2**17 - 1, -(2**17) + 1, 2**17 + 1, -(2**17) - 1]
    bias = rng.integers(-4096, 4096, (count, neurons))
    bias[:, 6:40] = 0
    bias[:, 40:60], bias[:, 60:80] = -4096, 4095
    edges = np.array([0, 1, 2, 1024, 3072, 4094, 4095])
    return {
        "a_in": a_in,
        "du": np.where(rng.random(count) < 0.5, rng.choice(edges, count), rng.integers(0, 4096, count)),
        "dv": np.where(rng.random(count) < 0.5, rng.choice(edges, count), rng.integers(0, 4096, count)),
        "vth": np.where(rng.random(count) < 0.5, rng.choice([0, 1, 131071], count), rng.integers(0, 131072, count)),
        "bias_mant": bias,
        "bias_exp": np.arange(count) % 8,
        "reset_interval": rng.integers(1, 9, count),
        "reset_offset": rng.integers(0, 12, count),
    }


@pytest.mark.lava
@pytest.mark.parametrize("model", ["lif", "lif_reset"])
@pytest.mark.usefixtures("lava_environment")
def test_arith_equals_lava(tmp_path: Path, model: Literal["lif", "lif_reset"]) -> None:
    """Zero differences in u, v and spikes from Lava's own process models over more than a million neuron-steps."""
    cases = lava_cases(seed=11)
    reference = lava_neurons(cases, model, tmp_path)
    steps, count, neurons = cases["a_in"].shape
    assert steps * count * neurons > 1_000_000
    events = dict.fromkeys(
        (
            "overflow",
            "wrap up",
            "wrap down",
            "clip up",
            "clip down",
            "u rounds up",
            "v rounds up",
            "spike",
            "at threshold",
        ),
        0,
    )
    for case in range(count):
        amount_u, amount_v = int(cases["du"][case]) + 1, int(cases["dv"][case])
        threshold, exponent = int(cases["vth"][case]), int(cases["bias_exp"][case])
        bias = torch.from_numpy(cases["bias_mant"][case].astype(np.int32))
        u = v = torch.zeros(neurons, dtype=torch.int32)
        for step in range(steps):
            if model == "lif_reset":
                interval, offset = int(cases["reset_interval"][case]), int(cases["reset_offset"][case])
                if (step + 1) % interval == offset % interval:
                    u, v = torch.zeros_like(u), torch.zeros_like(v)
            a_in = torch.from_numpy(cases["a_in"][step, case].astype(np.int32))
            before_u, before_v = u.long(), v.long()
            u, v, fired = neuron.step(
                u,
                v,
                a_in,
                bias,
                threshold=threshold,
                voltage_decay=amount_v,
                current_decay=amount_u,
                bias_exp=exponent,
            )
            for name, mine in (("u", u), ("v", v), ("spikes", fired)):
                theirs = torch.from_numpy(reference[name][step, case].astype(np.int64))
                differ = int((mine.long() != theirs).sum())
                assert differ == 0, f"{differ} of {name} differ at step {step + 1} of case {case}"
            # what happened, in 64 bits and rounding down, so that the counts say something
            plain_u = (before_u.abs() * (4096 - amount_u) >> 12) * before_u.sign()
            plain_v = (before_v.abs() * (4096 - amount_v) >> 12) * before_v.sign()
            total = plain_u + (a_in.long() << 6)
            events["overflow"] += int((total.abs() > 2**31).sum())
            events["wrap up"] += int((total > 2**23).sum())
            events["wrap down"] += int((total <= -(2**23)).sum())
            updated = plain_v + u + (bias.long() << exponent)
            events["clip up"] += int((updated > 2**23 - 1).sum())
            events["clip down"] += int((updated < -(2**23) + 1).sum())
            events["u rounds up"] += int((plain_u != before_u * (4096 - amount_u) >> 12).sum())
            events["v rounds up"] += int((plain_v != before_v * (4096 - amount_v) >> 12).sum())
            events["spike"] += int(fired.sum())
            events["at threshold"] += int((updated == threshold << 6).sum())
    assert all(seen >= 50 for seen in events.values()), events
    assert set(cases["bias_exp"].tolist()) == set(range(8))
    assert {0, 4095} <= set(cases["du"].tolist()) and {0, 4095} <= set(cases["dv"].tolist())
    assert {0, 131071} <= set(cases["vth"].tolist())
    assert {-4096, 4095} <= set(np.unique(cases["bias_mant"]).tolist())
