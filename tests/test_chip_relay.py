"""Relays pass every spike on and invent none: the rule against a search of all membrane states, and by running."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import py_current, py_decay, py_voltage, rng_of, usually
from hypothesis import given, settings
from hypothesis import strategies as st

from snn2chip import chip
from snn2chip.chip import neuron, relay
from snn2chip.chip.relay import bias_for, choose, is_exact, largest_threshold

LOIHI = chip.load("loihi2")
TAUS = (0.25, 0.5, 0.9, 1.0)
DECAYS = tuple(round((1 - tau) * 4096) for tau in TAUS)
BIAS_MAX = LOIHI.bias_max

decays = st.one_of(st.sampled_from(DECAYS), st.sampled_from([1, 1024, 4095, 4096]), st.integers(1, 4096))


def failing_train(threshold: int, decay: int, weight: int, bias: int) -> list[int] | None:
    """The shortest input (0 or 1 a step) after which the neuron of Python integers is no relay; None if none is.

    All membranes that any input can lead to are visited, so None is a proof.
    """
    frontier: list[tuple[int, list[int]]] = [(0, [])]
    seen = {0}
    while frontier:
        found: list[tuple[int, list[int]]] = []
        for voltage, train in frontier:
            for spike in (0, 1):
                after, fired = py_voltage(voltage, py_current(0, spike * weight, 4096), bias, threshold, decay)
                if fired != bool(spike):
                    return [*train, spike]
                if after not in seen:
                    seen.add(after)
                    # a train of hundreds of steps would be copied at every one of them: keep its length alone
                    found.append((after, [*train, spike] if len(train) < 64 else train))
        frontier = found
    return None


def drive(trains: np.ndarray, threshold: int, decay: int, weight: int, bias: int) -> np.ndarray:
    """Spikes of relays that read `trains` (K, T) of 0 and 1, by the arithmetic that the engines use."""
    current = torch.zeros(len(trains), dtype=torch.int32)
    voltage = torch.zeros_like(current)
    bias_ = torch.full_like(current, bias)
    fired = []
    for step in torch.from_numpy(trains.astype(np.int32)).unbind(1):
        current, voltage, spikes = neuron.step(
            current, voltage, step * weight, bias_, threshold=threshold, voltage_decay=decay
        )
        fired.append(spikes.numpy())
    return np.stack(fired, 1)


def hard_trains(seed: int, steps: int) -> np.ndarray:
    """Silence, all spikes, one spike after a long silence, two in a row after it, bursts, and any at random."""
    rng = rng_of(seed)
    rows: list[np.ndarray] = [np.zeros(steps), np.ones(steps), np.arange(steps) % 2, (np.arange(steps) + 1) % 2]
    for first in (0, steps // 2, steps - 2):
        for length in (1, 2):
            rows.append((np.arange(steps) >= first) & (np.arange(steps) < first + length))
    for rate in (0.02, 0.2, 0.5, 0.9):
        rows += list(rng.random((3, steps)) < rate)
    for mean in (3, 20):  # bursts and pauses of random lengths
        lengths = rng.geometric(1 / mean, steps)
        rows.append(np.repeat(np.arange(steps) % 2, lengths)[:steps])
    return np.stack([np.asarray(row, dtype=np.int64) for row in rows])


# ------------------------------------------------------------------------------------------------------ is_exact


@pytest.mark.parametrize("decay", [0, 1, 410, 1000, 1365, 2048, 3072, 4095, 4096])
def test_the_rule_is_the_search_for_every_small_relay(decay: int) -> None:
    """`is_exact` says yes exactly where no input whatever makes the neuron fire without a spike, or miss one."""
    answers = set()
    for threshold in range(13):
        for weight in range(1, 17):
            for bias in range(threshold + 3):
                answer = is_exact(threshold, decay, weight, bias)
                assert answer == (failing_train(threshold, decay, weight, bias) is None), (threshold, weight, bias)
                answers.add(answer)
    assert answers == {True, False}


@settings(max_examples=usually(300), deadline=None)
@given(
    decay=decays,
    weight=st.sampled_from([2, 14, 127, 254, 508, 1016]),
    above=st.integers(-3, 3),
    extra=st.integers(0, 2),
    seed=st.integers(0, 2**32 - 1),
)
def test_near_the_largest_threshold_by_search_and_by_running(
    decay: int, weight: int, above: int, extra: int, seed: int
) -> None:
    """Where the rule changes its mind, it agrees with the search; what it allows repeats every train, and what it
    refuses gets the train that the search found wrong."""
    threshold = max(0, largest_threshold(decay, weight, BIAS_MAX) + above)
    bias = max(0, threshold + 1 - weight) + extra
    failing = failing_train(threshold, decay, weight, bias)
    assert is_exact(threshold, decay, weight, bias) == (failing is None)
    if failing is None:
        trains = hard_trains(seed, 120)
        assert (drive(trains, threshold, decay, weight, bias) == trains).all()
    elif len(failing) < 64:  # longer ones are not kept
        given_train = np.array([failing])
        assert (drive(given_train, threshold, decay, weight, bias) != given_train).any()


@settings(max_examples=usually(250), deadline=None)
@given(
    threshold=st.integers(0, 131071),
    decay=decays,
    weight=st.integers(1, 1016),
    bias=st.integers(0, 4095),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_numbers_by_search_and_by_running(threshold: int, decay: int, weight: int, bias: int, seed: int) -> None:
    """The same far from the limit, for thresholds up to the chip's largest."""
    exact = is_exact(threshold, decay, weight, bias)
    assert exact == (failing_train(threshold, decay, weight, bias) is None)
    trains = hard_trains(seed, 60)
    if exact:
        assert (drive(trains, threshold, decay, weight, bias) == trains).all()


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("copies", [1, 2, 4])
def test_silence_and_a_spike_after_a_reset_are_what_goes_wrong(decay: int, copies: int) -> None:
    """A bias one too large fires in silence, one too small misses the second of two spikes: no relay in between."""
    weight = copies * 254
    threshold = largest_threshold(decay, weight, BIAS_MAX)
    bias = bias_for(threshold, decay, weight, BIAS_MAX)
    assert bias is not None
    both = np.array([[1, 1, *[0] * 1100], [0] * 1102])
    assert (drive(both, threshold, decay, weight, bias) == both).all()
    if bias:  # without one (tau = 1) nothing can be missed
        missed = drive(both, threshold, decay, weight, bias - 1)
        assert not missed[0, 0] and not missed[1].any()
    over = threshold + 1
    wrong = drive(both, over, decay, weight, over + 1 - weight)
    assert wrong[:, 2:].any()  # fires in silence


def test_long_silence_with_a_long_memory() -> None:
    """With decay 1 the membrane takes thousands of steps to rest: the rule waits for it, and the chip agrees."""
    threshold = 4033
    assert is_exact(threshold, 1, threshold, 1)
    assert not is_exact(threshold - 1, 1, threshold - 1, 1)
    voltage, steps = 0, 0
    while (after := py_decay(voltage, 1) + 64) != voltage:
        voltage, steps = after, steps + 1
        if steps == 10_000:
            assert voltage < 64 * (threshold - 200)  # nothing to see yet
    assert 64 * (threshold - 1) < voltage <= 64 * threshold


def test_a_negative_bias_is_refused() -> None:
    """It would make the membrane fall in silence, which the rule does not follow; `bias_for` never gives one."""
    assert not is_exact(10, 3072, 254, -1)
    assert bias_for(10, 3072, 254, BIAS_MAX) == 0


# ------------------------------------------------------------------------------------ bias_for, largest_threshold


@pytest.mark.parametrize("decay", [0, 410, 1000, 2048, 3072, 4096])
def test_the_smallest_bias(decay: int) -> None:
    """`bias_for` is the smallest bias that any is, by the search, and None where none is or it exceeds the largest."""
    for threshold in range(0, 40, 3):
        for weight in (1, 6, 11, 40):
            fitting = [b for b in range(threshold + 2) if failing_train(threshold, decay, weight, b) is None]
            assert bias_for(threshold, decay, weight, BIAS_MAX) == (fitting[0] if fitting else None)
            most = 4
            assert bias_for(threshold, decay, weight, most) == next((b for b in fitting if b <= most), None)


@settings(max_examples=usually(60), deadline=None)
@given(decay=decays, weight=st.integers(1, 1016), bias_max=st.sampled_from([0, 3, 100, 4095]))
def test_the_largest_threshold(decay: int, weight: int, bias_max: int) -> None:
    """Every threshold up to it has a bias, and none beyond: there are no gaps."""
    largest = largest_threshold(decay, weight, bias_max)
    beyond = [largest + 1, largest + 2, largest + 17, largest + 1000, 131071]
    assert [bias_for(threshold, decay, weight, bias_max) for threshold in beyond] == [None] * len(beyond)
    step = max(1, largest // 40)
    below = [*range(max(0, largest - 3), largest + 1), *range(0, largest, step)]
    assert None not in [bias_for(threshold, decay, weight, bias_max) for threshold in below]


@pytest.mark.parametrize("decay", [410, 2048, 3072])
def test_the_largest_threshold_among_all(decay: int) -> None:
    """The bisection finds what trying every threshold finds."""
    for weight, bias_max in ((254, 4095), (254, 0), (127, 4095), (14, 4095), (1016, 200)):
        every = [t for t in range(weight + bias_max + 2) if bias_for(t, decay, weight, bias_max) is not None]
        assert every == list(range(largest_threshold(decay, weight, bias_max) + 1))


def test_the_numbers_of_the_documentation() -> None:
    """1,012 at tau = 0.25 and 253 without a bias; (copies w - 1) / tau in general."""
    assert largest_threshold(3072, 254, BIAS_MAX) == 1012
    assert largest_threshold(3072, 254, 0) == 253
    for number in ("1012", "253"):
        assert number in (relay.__doc__ or "")
    assert [largest_threshold(3072, copies * 254, BIAS_MAX) for copies in (2, 4)] == [2028, 4060]
    for tau, decay in zip(TAUS, DECAYS, strict=True):
        for weight in (254, 127, 508, 1016):
            assert largest_threshold(decay, weight, BIAS_MAX) == int((weight - 1) / tau), (tau, weight)


# --------------------------------------------------------------------------------------------------------- choose


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("copies", [1, 2, 4])
def test_choose_takes_what_the_layer_may_hold(bits: int, decay: int, copies: int) -> None:
    """The weight is the largest even one beside even weights, else the largest odd one; the relay is exact by the
    search, and there is none only where no bias helps."""
    fewer = LOIHI.with_weight_bits(bits)
    for even, weight in ((True, 2**bits - 2), (False, 2 ** (bits - 1) - 1)):
        for with_bias in (True, False):
            largest = largest_threshold(decay, copies * weight, BIAS_MAX if with_bias else 0)
            for threshold in (min(1, largest), largest // 2, largest):
                made = choose(threshold, decay, copies, fewer, even=even, with_bias=with_bias)
                assert made is not None and made[0] == weight
                assert made[1] == 0 or with_bias
                assert failing_train(threshold, decay, copies * weight, made[1]) is None
            for threshold in (largest + 1, largest + 100):
                assert choose(threshold, decay, copies, fewer, even=even, with_bias=with_bias) is None


def test_choose_respects_the_bias_register() -> None:
    """A chip of narrower biases allows only what they reach."""
    narrow = replace(LOIHI, bias_bits=8)
    threshold = largest_threshold(3072, 254, narrow.bias_max)
    assert threshold == 254 + 127 - 1
    assert choose(threshold, 3072, 1, narrow, even=True) == (254, 127)
    assert choose(threshold + 1, 3072, 1, narrow, even=True) is None
