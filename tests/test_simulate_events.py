"""The event engine equals the reference in every spike, voltage and count, with every instruction set."""

from __future__ import annotations

import gc
import itertools
import os
import platform
import re
import signal
import threading
import time
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import assert_same, chains, port_input, rng_of, usually
from hypothesis import given, settings
from hypothesis import strategies as st

from snn2chip import ir, native
from snn2chip.errors import InputError, UnsupportedError
from snn2chip.fit.traffic import classes_of
from snn2chip.ir.trace import MOST_SUMS, Classes, Counting, Group, tally
from snn2chip.simulate import engines, reference
from snn2chip.simulate.dense import DenseEngine
from snn2chip.simulate.events import library, plan, windows
from snn2chip.simulate.events.engine import EventEngine
from snn2chip.simulate.events.library import unavailable

NEEDED = pytest.mark.skipif(unavailable() is not None, reason=str(unavailable()))
pytestmark = NEEDED
SETS = library.SIMD[: 1 + library.load().snn2chip_events_simd()] if unavailable() is None else library.SIMD
PLACES = st.sampled_from(SETS)
DECAYS = (0, 1, 1000, 2048, 3072, 4095, 4096)


@st.composite
def tables(draw: st.DrawFn, steps: int, channels: int) -> ir.StepTables:
    """Tables of any size the format has; small shifts make v and the leak leave 32 bits on the way."""
    rng = rng_of(draw(st.integers(0, 2**32 - 1)))
    shift = draw(st.sampled_from([0, 8, 11, 12, 13, 15, 16]))
    lift, over = draw(st.sampled_from([(0, 50), (2000, 3000), (2**23, 2**23)]))
    return ir.StepTables(
        rng.integers(0, 65536, (steps, channels)),
        shift,
        rng.integers(-lift, lift + 1, (steps, channels)),
        rng.integers(-over // 4, over, (steps, channels)),
        np.ones(channels),
    )


def leave_out(draw: st.DrawFn, weight: np.ndarray) -> None:
    """Zeros where relays and shortcuts have them: outside a place of the kernel, for some inputs or some outputs."""
    output, source = (draw(st.integers(0, count)) for count in weight.shape[:2])
    if weight.ndim == 2:
        weight[:output, source:] = 0
        return
    ky, kx = (draw(st.integers(0, size - 1)) for size in weight.shape[2:])
    away = np.ones(weight.shape[2:], dtype=bool)
    away[ky, kx] = draw(st.booleans())
    for part in (weight[output:], weight[:, source:]):
        part[..., away] = 0


@st.composite
def wide_chains(draw: st.DrawFn) -> ir.Chain:
    """Chains as wide as vectors and a bit wider: all kinds of weights, kernels to 7, groups, tables."""
    rng = rng_of(draw(st.integers(0, 2**32 - 1)))
    steps = draw(st.integers(1, 5))
    graded = draw(st.booleans())
    high = draw(st.sampled_from([15, 255, 60000])) if graded else 1
    channels = draw(st.sampled_from([1, 2, 3, 6, 33, 40]))
    raw_shape: ir.Shape = (channels, draw(st.integers(1, 7)), draw(st.integers(1, 7)))
    if draw(st.integers(0, 3)) == 0:
        raw_shape = (draw(st.sampled_from([1, 5, 64, 400])),)
    shape = raw_shape
    layers: list[ir.ChainLayer] = []
    for number in range(draw(st.integers(1, 3))):
        weight_top, even = draw(st.sampled_from([(3, False), (127, False), (127, True), (127, True), (256, False)]))
        if high == 60000 and number == 0:
            weight_top, even = 3, False  # more would leave 32 bits
        heavy = draw(st.booleans())  # all of one sign: sums leave 16 bits
        options: dict[str, object] = {}
        conv = len(shape) == 3 and draw(st.integers(0, 3)) > 0
        if conv:
            groups = draw(st.sampled_from([g for g in (1, 1, 2, 3, 5, shape[0]) if shape[0] % g == 0]))
            outputs = groups * draw(st.sampled_from([1, 2, 3, 17, 33] if groups < 9 else [1, 2]))
            sides = []
            for size in shape[1:]:
                padding = draw(st.integers(0, 3))
                kernel = draw(st.integers(1, min(7, size + 2 * padding)))
                dilation = draw(st.integers(1, 3)) if (kernel - 1) * 3 + 1 <= size + 2 * padding else 1
                stride = draw(st.integers(1, 3))
                sides.append((kernel, stride, padding, dilation, ir.out_size(size, kernel, stride, padding, dilation)))
            weight_shape: ir.Shape = (outputs, shape[0] // groups, sides[0][0], sides[1][0])
            shape = (outputs, sides[0][4], sides[1][4])
            names = ("stride", "padding", "dilation")
            options = {name: (sides[0][1 + i], sides[1][1 + i]) for i, name in enumerate(names)}
            options["groups"] = groups
        else:
            outputs = draw(st.sampled_from([1, 10, 31, 70, 130]))
            weight_shape = (outputs, int(np.prod(shape)))
            options["flatten"] = len(shape) == 3
            shape = (outputs,)
        weight = rng.integers(-weight_top, weight_top + 1, weight_shape)
        weight = np.abs(weight) if heavy else weight
        if draw(st.booleans()):
            leave_out(draw, weight)
        bias_top = draw(st.sampled_from([0, 20, 4095]))
        one_a_channel = draw(st.booleans())
        bias = rng.integers(-bias_top, bias_top + 1, (shape[0], *(1,) * (len(shape) - 1)) if one_a_channel else shape)
        layers.append(
            ir.ChainLayer(
                str(number),
                "conv" if conv else "dense",
                weight * (2 if even else 1),
                np.broadcast_to(bias, shape).copy(),
                shape,
                draw(st.sampled_from([131071, 0, 1, 50, 900])),
                draw(st.sampled_from(DECAYS)),
                draw(st.sampled_from([4096, 4096, *DECAYS])),
                steps=draw(tables(steps, shape[0])) if draw(st.integers(0, 3)) == 0 else None,
                **options,  # type: ignore[arg-type]
            )
        )
    return ir.Chain(
        raw_shape,
        raw_shape,
        "direct" if graded else "poisson",
        high,
        0,
        high,
        tuple(int(c) for c in (rng.integers(0, high + 1, raw_shape[0]) if graded else np.zeros(raw_shape[0], int))),
        steps,
        draw(st.sampled_from(["membrane", "spike_count"])),
        tuple(f"class {i}" for i in range(int(np.prod(shape)))),
        tuple(layers),
    )


@settings(max_examples=usually(120), deadline=None)
@given(
    chain=chains(),
    seed=st.integers(0, 2**32 - 1),
    samples=st.integers(1, 5),
    extreme=st.booleans(),
    simd=PLACES,
    threads=st.integers(1, 3),
    chunk=st.sampled_from([None, 1, 2, 3]),
)
def test_events_equal_the_reference(
    chain: ir.Chain, seed: int, samples: int, extreme: bool, simd: str, threads: int, chunk: int | None
) -> None:
    """The chains that the dense engine is tested with; batches, threads and chunks of steps change nothing."""
    port = port_input(chain, samples, seed, extreme=extreme)
    engine = EventEngine(chain, threads, simd=simd, chunk=chunk)
    assert_same(engine.run(port, batch_size=2), reference.run(chain, port))


@settings(max_examples=usually(150), deadline=None)
@given(
    chain=wide_chains(),
    seed=st.integers(0, 2**32 - 1),
    samples=st.integers(1, 3),
    extreme=st.booleans(),
    constant=st.booleans(),
    threads=st.integers(1, 3),
    chunk=st.sampled_from([None, 2]),
)
def test_wide_chains_equal_the_reference(
    chain: ir.Chain, seed: int, samples: int, extreme: bool, constant: bool, threads: int, chunk: int | None
) -> None:
    """Every instruction set on chains wider than a vector; input that stays the same for some steps, too."""
    port = port_input(chain, samples, seed, extreme=extreme)
    if constant:
        port[:, 1:-1] = port[:, :1]
    wanted = reference.run(chain, port)
    for simd in SETS:
        assert_same(EventEngine(chain, threads, simd=simd, chunk=chunk).run(port), wanted)


@settings(max_examples=usually(150), deadline=None)
@given(
    chain=chains() | wide_chains(),
    seed=st.integers(0, 2**32 - 1),
    samples=st.integers(1, 3),
    cuts=st.lists(st.integers(0, 5), max_size=3),
    chunk=st.sampled_from([None, 1, 2]),
    threads=st.integers(1, 3),
    simd=PLACES,
)
def test_both_engines_are_left_in_the_same_state(
    chain: ir.Chain, seed: int, samples: int, cuts: list[int], chunk: int | None, threads: int, simd: str
) -> None:
    """Pieces of drawn lengths: spikes, voltages and scores of each, and what is left in every neuron at the end."""
    steps = chain.timesteps
    port = port_input(chain, samples, seed)
    dense, events = DenseEngine(chain), EventEngine(chain, threads, simd=simd, chunk=chunk)
    wanted, got = dense.rest(samples), events.rest(samples)
    names = [layer.name for layer in chain.layers]
    for start, stop in itertools.pairwise(sorted({0, steps, *(min(cut, steps) for cut in cuts)})):
        piece = port[:, start:stop]
        events.check(piece, start)
        assert_same(events.batch(piece, names, states=got), dense.batch(piece, names, states=wanted))
    for layer, placed, left, right in zip(chain.layers, plan.plan(chain), wanted, got, strict=True):
        assert left.steps == right.steps == steps
        for a, b in ((left.voltage, right.voltage), (left.current, right.current)):
            if b.numel():
                mine = b.numpy()[:, :, placed.slot_of].swapaxes(1, 2).reshape(samples, *layer.shape)
                np.testing.assert_array_equal(mine, a.numpy())
        assert right.voltage.numel() and bool(right.current.numel()) == (layer.current_decay != 4096)


@given(
    st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.integers(1, 5), st.integers(1, 2)),
    st.floats(0, 1),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_windows_hold_every_weight(
    shape: tuple[int, int, int, int, int], density: float, patterned: bool, seed: int
) -> None:
    """What blocks read, put back in its places, is the layer's rows; and ranges follow each other, whole and few."""
    rng = rng_of(seed)
    blocks, kh, kw, words, lanes = shape
    there = rng.random((blocks, kh, kw, words, 1, 1)) < density
    if not patterned:
        there = there & (rng.random((blocks, kh, kw, words, windows.WORD, lanes)) < 0.1)
    rows = there * rng.integers(1, 9, (blocks, kh, kw, words, windows.WORD, lanes))
    rows = rows.reshape(blocks, kh, kw, words * windows.WORD, lanes)
    ranges = windows.ranges_of(rows)
    assert len(ranges) <= windows.MOST_RANGES
    assert [0, *(last for _, last in ranges)] == [*(first for first, _ in ranges), words * windows.WORD]
    reads = windows.reads_of(rows, 2 * rows.shape[-1], None, ranges)
    again = np.zeros_like(rows)
    for block, (start, stop) in enumerate(itertools.pairwise(reads.blocks)):
        for group, ky, high, kx, wide, pixel_bytes, offset in reads.table[start:stop].tolist():
            first, last = ranges[group]
            assert pixel_bytes == (last - first) * 2 * lanes
            row = offset // (2 * lanes)
            part = reads.weights[row : row + high * wide * (last - first)]
            again[block, ky : ky + high, kx : kx + wide, first:last] += part.reshape(high, wide, last - first, lanes)
    np.testing.assert_array_equal(again, rows)
    assert len(reads.weights) <= rows[..., 0].size + 1
    assert not reads.weights[-1].any()


def test_two_windows_and_the_one_around_them() -> None:
    """The smallest that holds both, whichever begins first; an empty one adds nothing."""
    a, b = np.array([[2, 4, 2, 4], [0, 0, 0, 0], [1, 2, 0, 1]]), np.array([[0, 3, 1, 6], [1, 2, 0, 3], [0, 0, 0, 0]])
    wanted = [[0, 4, 1, 6], [1, 2, 0, 3], [1, 2, 0, 1]]
    assert windows._joined(a, b).tolist() == windows._joined(b, a).tolist() == wanted


def test_relays_are_read_in_the_middle_alone() -> None:
    """Two blocks of neurons, the second of relays: it reads one place of nine, and so do both from relays before."""
    rows = np.zeros((2, 3, 3, 4 * windows.WORD, 32), dtype=np.int64)
    rows[0, :, :, : 2 * windows.WORD] = 1
    rows[:, 1, 1] = 1
    ranges = windows.ranges_of(rows)
    assert ranges == [(0, 64), (64, 128)]
    reads = windows.reads_of(rows, 2 * rows.shape[-1], None, ranges)
    found = [each[:5] for each in reads.table.tolist()]
    assert found == [(0, 0, 3, 0, 3), (1, 1, 1, 1, 1), (0, 1, 1, 1, 1), (1, 1, 1, 1, 1)]
    assert reads.blocks.tolist() == [0, 2, 4]
    assert len(reads.weights) == 9 * 64 + 3 * 64 + 1


def test_wide_chains_reach_every_path() -> None:
    """The chains above take every layout and every neuron there is: seeded, so that the property says something."""
    seen: set[tuple[str, int]] = set()

    @settings(max_examples=400, deadline=None, derandomize=True, database=None)
    @given(chain=wide_chains())
    def visit(chain: ir.Chain) -> None:
        for layer in plan.plan(chain):
            for name in ("kind", "current", "decay", "scale", "lanes"):
                seen.add((name, layer.numbers[name]))
            seen.add(("limited", int(layer.numbers["limit"] > 0)))
            seen.add(("groups", int(layer.numbers["groups"] > 1)))
            if "reads" in layer.arrays:
                each = np.diff(layer.arrays["block_reads"])
                seen.update(("reads", min(int(count), 2)) for count in each)
                kernel = [(layer.numbers["kh"], layer.numbers["kw"])] * len(layer.arrays["reads"])
                found = [(int(high), int(wide)) for high, wide in layer.arrays["reads"][["kh", "kw"]]]
                seen.update(("window", int(a == b)) for a, b in zip(kernel, found, strict=True))
            seen.add(("bias of its own", int(layer.numbers["bias_stride"] > 0)))

    visit()
    kinds = {("kind", kind) for kind in (plan.GRADED16, plan.GRADED32, plan.EVENTS8, plan.EVENTS16)}
    neurons = {("decay", decay) for decay in range(5)} | {("current", current) for current in range(3)}
    others = {(name, value) for name in ("scale", "limited", "groups", "bias of its own") for value in (0, 1)}
    others |= {("reads", count) for count in (0, 1, 2)} | {("window", whole) for whole in (0, 1)}
    assert kinds | neurons | others | {("lanes", lanes) for lanes in (32, 64, 128)} <= seen


@pytest.mark.skipif(platform.machine() != "x86_64", reason="instruction sets of x86")
def test_the_best_instruction_set_is_what_the_system_says_of_the_processor() -> None:
    (flags, *_) = (line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags"))
    has = set(flags.split()).issuperset
    avx2 = has({"avx2", "bmi1", "bmi2", "popcnt"})
    best = 2 if avx2 and has({"avx512f", "avx512bw", "avx512dq", "avx512vl"}) else int(avx2)
    assert library.load().snn2chip_events_simd() == best


@pytest.mark.parametrize("simd", SETS)
@pytest.mark.parametrize("largest", [5000, 30000, 100_000])
def test_weights_beyond_the_chip(simd: str, largest: int) -> None:
    """Weights that no chip has are still added exactly, in 32 bits."""
    rng = rng_of(largest)
    weight = rng.integers(-largest, largest + 1, (40, 50))
    layer = ir.ChainLayer("1", "dense", weight, np.zeros(40, int), (40,), 131071, 3072)
    chain = ir.Chain((50,), (50,), "poisson", 1, 0, 1, (0,), 3, "membrane", tuple("c" * 40), (layer,))
    port = port_input(chain, 4, 3)
    assert_same(EventEngine(chain, 1, simd=simd).run(port), reference.run(chain, port))


def of_dense(weight: list[list[int]], decay: int = 4096, bias: int = 0, *, high: int = 1, steps: int = 2) -> ir.Chain:
    """One dense layer that never fires, of these weights, over inputs 0..high."""
    outputs, inputs = len(weight), len(weight[0])
    layer = ir.ChainLayer(
        "1", "dense", np.array(weight), np.full(outputs, bias), (outputs,), 131071, decay
    )  # fmt: skip
    coding: ir.Coding = "poisson" if high == 1 else "direct"
    return ir.Chain((inputs,), (inputs,), coding, high, 0, high, (0,), steps, "membrane", ("c",) * outputs, (layer,))


# what a layer is laid out as, just within and just beyond each limit of `plan`: weights, options, and numbers
EDGES: dict[str, tuple[list[int], dict[str, int], dict[str, int]]] = {
    "int8, sums of 32766": ([127] * 258, {}, {"kind": plan.EVENTS8, "limit": 0, "scale": 0}),
    "int8, sums of 32767": ([127] * 258 + [1], {}, {"kind": plan.EVENTS8, "limit": 0}),
    "int8, sums of 32768": ([127] * 258 + [2], {}, {"kind": plan.EVENTS8, "limit": 255}),
    "int8, sums of -32768": ([-127] * 258 + [-2], {}, {"kind": plan.EVENTS8, "limit": 255}),
    "int8, sums far beyond": ([127] * 1500, {}, {"kind": plan.EVENTS8, "limit": 255}),
    "halves, far beyond": ([-256] * 1500, {}, {"kind": plan.EVENTS8, "limit": 255, "scale": 1}),
    "halves, the largest": ([254] * 40 + [-256] * 40, {}, {"kind": plan.EVENTS8, "limit": 0, "scale": 1}),
    "halves, from 128 on": ([128, 2, -128], {}, {"kind": plan.EVENTS8, "scale": 1}),
    "halves are too small": ([-258, 2], {}, {"kind": plan.EVENTS16, "scale": 0}),
    "halves are too large": ([256, -2], {}, {"kind": plan.EVENTS16, "scale": 0}),
    "128 and an odd one": ([128, 1], {}, {"kind": plan.EVENTS16}),
    "-128 and an odd one": ([-128, 1], {}, {"kind": plan.EVENTS16}),
    "int16, sums of 32767": ([4095] * 8 + [7], {}, {"kind": plan.EVENTS16, "limit": 0}),
    "int16, sums of 32768": ([4095] * 8 + [8], {}, {"kind": plan.EVENTS16, "limit": 8}),
    "int16, far beyond": ([4095] * 50, {}, {"kind": plan.EVENTS16, "limit": 8}),
    "int32": ([4097] * 50, {}, {"kind": plan.EVENTS32, "limit": 0}),
    "graded, 15 bits": ([32767, -32767], {"high": 32767, "steps": 1}, {"kind": plan.GRADED16}),
    "graded, an input of 32768": ([3, -1], {"high": 32768}, {"kind": plan.GRADED32}),
    "graded, a weight of 32768": ([32768, 1], {"high": 3}, {"kind": plan.GRADED32}),
    "u fits": ([-128] * 1023 + [-127], {"decay": 2048}, {"current": plan.FITS}),
    "u is -2^23": ([-128] * 1024, {}, {"current": plan.WRAPS}),
    "u is beyond": ([128] * 1024 + [1], {}, {"current": plan.WRAPS}),
    "v needs no clipping": ([-127] * 516, {"decay": 2048, "steps": 30}, {"current": plan.FREE}),
    "v is clipped": ([-127] * 517, {"decay": 2048, "steps": 30}, {"current": plan.FITS}),
    "v is clipped with its bias": ([-127] * 484, {"decay": 2048, "bias": -4096, "steps": 30}, {"current": plan.FITS}),
    "v is clipped, slowly": ([-100] * 100, {"decay": 64, "steps": 200}, {"current": plan.FITS}),
    "v keeps everything": ([-127] * 300, {"decay": 0, "steps": 9}, {"current": plan.FITS}),
}


@pytest.mark.parametrize("simd", SETS)
@pytest.mark.parametrize("name", EDGES)
def test_at_the_limits_of_every_layout(name: str, simd: str) -> None:
    """All inputs at their largest, and random ones: where 16 bits end, where u wraps, where v must be clipped."""
    weights, options, numbers = EDGES[name]
    chain = of_dense([weights, [-w for w in weights] if "halves" not in name else weights], **options)  # type: ignore[arg-type]
    (layer,) = plan.plan(chain)
    assert {key: layer.numbers[key] for key in numbers} == numbers
    port = port_input(chain, 3, 1, extreme=True)
    port[0] = chain.high
    wanted = reference.run(chain, port)
    assert_same(EventEngine(chain, 1, simd=simd).run(port), wanted)
    found = EventEngine(chain, 1, simd=simd).run(port, keep=False)
    assert found.scores.tolist() == wanted.scores.tolist()
    assert (found.counts, found.largest) == (wanted.counts, wanted.largest)


@pytest.mark.parametrize("simd", SETS)
@pytest.mark.parametrize("largest", [20, 127, 2000, 40_000])
def test_any_number_of_spikes(largest: int, simd: str) -> None:
    """None to all of 700 inputs, around every number that the engine adds or collects at once; the same input at all
    steps, in memory once or at each. int8 within 16 bits and beyond, int16 and int32."""
    chain = of_dense(rng_of(largest).integers(1, largest + 1, (3, 700)).tolist(), steps=3)
    many = np.array([*range(82), *range(126, 131), *range(254, 259), *range(446, 451), *range(504, 522), 699, 700])
    port = np.broadcast_to((np.arange(700) < many[:, None]).astype(np.int64)[:, None], (len(many), 3, 700))
    wanted = reference.run(chain, port)
    for each in (port, port.copy()):
        assert_same(EventEngine(chain, 1, simd=simd).run(each), wanted)


@pytest.mark.parametrize("simd", SETS)
@pytest.mark.parametrize("shift", [8, 12])
def test_tables_exactly_at_threshold(simd: str, shift: int) -> None:
    """A membrane at its step's threshold does not fire, one above it does; in 64 bits (a shift of 8) as in 32."""
    chain = of_dense([[1]], steps=3)
    zeros = np.zeros((3, 1), dtype=np.int64)
    tables = ir.StepTables(zeros + 2**shift, shift, zeros, np.array([[64], [127], [63]]), np.ones(1))
    chain = replace(chain, readout="spike_count", layers=(replace(chain.layers[0], steps=tables),))
    (layer,) = plan.plan(chain)
    assert layer.numbers["decay"] == (plan.BY_WIDE_TABLE if shift == 8 else plan.BY_TABLE)
    found = EventEngine(chain, 1, simd=simd).run(np.ones((1, 3, 1), dtype=np.int64))
    assert found.spikes["1"].tolist() == [[[0], [1], [1]]]


def vgg(steps: int = 4) -> tuple[ir.Chain, ir.IntArray]:
    """Five convolutions and two dense layers that spike at some 15 %, and four samples."""
    rng = rng_of(5)
    shape: ir.Shape = (3, 16, 16)
    layers: list[ir.ChainLayer] = []
    plans = ((32, 1, 8000), (64, 2, 120), (96, 1, 250), (128, 2, 250), (160, 1, 300))
    for channels, stride, threshold in plans:
        new = (channels, shape[1] // stride, shape[2] // stride)
        weight = rng.integers(-127, 128, (channels, shape[0], 3, 3))
        bias = rng.integers(-40, 41, new)
        layers.append(
            ir.ChainLayer(
                str(len(layers)), "conv", weight, bias, new, threshold, 3072, stride=(stride, stride), padding=(1, 1)
            )
        )
        shape = new
    for outputs, threshold, decay in ((200, 400, 3072), (10, 131071, 0)):
        weight = 2 * rng.integers(-127, 128, (outputs, int(np.prod(shape))))
        layers.append(
            ir.ChainLayer(
                str(len(layers)), "dense", weight, np.zeros(outputs, int), (outputs,), threshold, decay,
                flatten=len(shape) == 3,
            )
        )  # fmt: skip
        shape = (outputs,)
    chain = ir.Chain(
        (3, 16, 16), (3, 16, 16), "direct", 255, 0, 255, (128, 120, 110), steps, "membrane", tuple("0123456789"),
        tuple(layers),
    )  # fmt: skip
    images = rng.integers(0, 256, (4, 1, 3, 16, 16))
    return chain, chain.port(np.repeat(images, steps, axis=1))


@pytest.mark.parametrize("simd", SETS)
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_bigger_network_equals_the_dense_engine(simd: str, threads: int) -> None:
    """A VGG whose layers spike, on one thread and several, sample by sample and as a batch."""
    chain, port = vgg()
    wanted = DenseEngine(chain).run(port)
    shares = [wanted.counts[layer.name] / (16 * np.prod(layer.shape)) for layer in chain.layers[:-1]]
    assert all(0.03 < share < 0.5 for share in shares), shares
    for size in (1, 3, 4):
        engine = EventEngine(chain, threads, simd=simd)
        assert_same(engine.run(port, batch_size=size), wanted)
        light = engine.run(port, batch_size=size, keep=False)
        assert light.spikes == {} and light.voltage == {}
        np.testing.assert_array_equal(light.scores, wanted.scores)
        assert (light.counts, light.largest) == (wanted.counts, wanted.largest)


def test_many_steps_and_a_broadcast_axis() -> None:
    """More steps than run together, from an input whose time axis is no memory; other dtypes of numpy as well."""
    chain, port = vgg(40)
    shown = np.broadcast_to(port[:, :1], port.shape)
    wanted = DenseEngine(chain).run(port)
    for given_port in (port, shown, port.astype(np.int16)):
        assert_same(EventEngine(chain, 2).run(given_port), wanted)


def test_calls_follow_each_other_and_threads_may_share_an_engine() -> None:
    """State starts at zero in every run, also when two Python threads use one engine."""
    chain, port = vgg()
    wanted = reference.run(chain, port[:2])
    engine = EventEngine(chain, 2)
    assert_same(engine.run(port[:2], batch_size=1), wanted)
    found: list[object] = []

    def work() -> None:
        for _ in range(5):
            found.append(engine.run(port[:2]))

    workers = [threading.Thread(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(found) == 15
    for trace in found:
        assert_same(trace, wanted)  # type: ignore[arg-type]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_has_threads_of_its_own() -> None:
    """The parent's threads do not live in the child: it makes new ones instead of waiting for them."""
    chain, port = vgg()
    engine = EventEngine(chain, 2)
    wanted = engine.run(port, keep=False).scores
    child = os.fork()
    if child == 0:  # pytest must not go on twice
        code = 1
        try:
            code = int(not np.array_equal(engine.run(port, keep=False).scores, wanted))
        finally:
            os._exit(code)
    for _ in range(200):  # not for ever: a child that waits for its parent's threads does not end
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        time.sleep(0.05)
    else:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        pytest.fail("the child hangs")
    assert os.waitstatus_to_exitcode(status) == 0
    np.testing.assert_array_equal(engine.run(port, keep=False).scores, wanted)


# ----------------------------------------------------------------------------------------------- refusals


def test_wrong_input_is_refused_by_name() -> None:
    """Compiled code reads memory without asking, so shapes and values are checked before."""
    chain, port = vgg()
    engine = EventEngine(chain, 1)
    for wrong, says in (
        (port[:, :, :2], "is not"),
        (port[:, 0], "is not"),
        (port[:0], "nothing to run"),
        (port + 200, "exceed the port's -128"),
    ):
        with pytest.raises(InputError, match=says):
            engine.run(wrong)
    for value in (-1, 2):
        with pytest.raises(InputError, match=re.escape("exceed the port's 0..1")):
            EventEngine(of_dense([[1, 2]]), 1).run(np.array([[[1, 0], [0, value]]]))
    spikes = replace(chain.layers[0], steps=None)
    steps = ir.StepTables(*(np.ones((2, 32), int), 12, np.ones((2, 32), int), np.ones((2, 32), int), np.ones(32)))
    varying = replace(chain, layers=(replace(spikes, steps=steps), *chain.layers[1:]))
    with pytest.raises(InputError, match="layer '0': 4 time steps"):
        EventEngine(varying, 1).run(port)


def test_sums_over_32_bits_go_to_the_dense_engine() -> None:
    """A chain that the engine cannot hold is refused by name, and run densely by `make_engine`, with a note."""
    chain, _ = vgg()
    heavy = replace(chain.layers[0], weight=chain.layers[0].weight.astype(np.int64) * 2**15)
    chain = replace(chain, layers=(heavy, *chain.layers[1:]))
    with pytest.raises(UnsupportedError, match=r"layer '0': sums up to \d+ exceed 32 bits"):
        EventEngine(chain)
    engine = engines.make_engine(chain, kind="events")
    assert engine.name == "dense" and engine.note is not None and "exceed 32 bits" in engine.note


def test_the_instruction_set_is_chosen_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """By argument, then by environment, then the best; an unknown one is refused."""
    chain, _ = vgg()
    assert EventEngine(chain).simd == SETS[-1]
    monkeypatch.setenv(library.SIMD_VARIABLE, "portable")
    assert EventEngine(chain).simd == "portable"
    assert EventEngine(chain, simd=SETS[-1]).simd == SETS[-1]
    monkeypatch.setenv(library.SIMD_VARIABLE, "mmx")
    with pytest.raises(InputError, match="no instruction set 'mmx'; choose portable"):
        EventEngine(chain)


@pytest.fixture
def other_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A place without a library, an empty cache and no compiler."""
    place = tmp_path / "events_engine.so"
    monkeypatch.setattr(native.Library, "beside", place)
    monkeypatch.setenv("SNN2CHIP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CXX", "no-such-compiler")
    library.load.cache_clear()
    yield place
    library.load.cache_clear()


def test_without_a_library_the_dense_engine_runs(other_library: Path) -> None:
    """Not there, or not whole, and no compiler: one line says so, and the result is the same."""
    chain, port = vgg()
    says = "no C++ compiler found"
    for content in (None, b"no library"):
        if content is not None:
            other_library.write_bytes(content)
            library.load.cache_clear()
        assert says in str(unavailable())
        with pytest.raises(UnsupportedError, match=re.escape(says)):
            EventEngine(chain)
        for kind in ("auto", "events"):
            engine = engines.make_engine(chain, kind=kind)  # type: ignore[arg-type]
            assert engine.name == "dense"
            assert engine.note is not None and says in engine.note and "C++ compiler" in engine.note
            assert "\n" not in engine.note
            assert_same(engine.run(port), DenseEngine(chain).run(port))


# -------------------------------------------------------------------------------------------------- choosing


def test_engines_are_chosen_by_kind() -> None:
    """auto and events run events on the CPU, dense is dense, and what does not exist is refused."""
    chain, port = vgg()
    wanted = DenseEngine(chain).run(port)
    for kind, name in (("auto", "events"), ("events", "events"), ("dense", "dense")):
        engine = engines.make_engine(chain, torch.device("cpu"), kind)  # type: ignore[arg-type]
        assert (engine.name, engine.note) == (name, None)
        assert_same(engine.run(port), wanted)
    with pytest.raises(InputError, match="no engine 'sparse'"):
        engines.make_engine(chain, kind="sparse")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="--engine events runs on the CPU, not on meta"):
        engines.make_engine(chain, torch.device("meta"), "events")


def test_the_dense_engine_is_made_to_measure_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its copy of all weights is never made for events, for auto by the call that measures; the slower one goes."""
    chain, port = vgg()
    made: list[weakref.ref[DenseEngine]] = []

    def dense(chain: ir.Chain) -> DenseEngine:
        engine = DenseEngine(chain)
        made.append(weakref.ref(engine))
        return engine

    monkeypatch.setattr(engines, "DenseEngine", dense)
    for kind, calls in (("events", 0), ("auto", 1)):
        engine = engines.make_engine(chain, kind=kind)  # type: ignore[arg-type]
        engine.run(port, keep=False)
        assert not made
        for _ in range(2):
            engine.run(port, keep=False)
        assert len(made) == calls
    gc.collect()
    assert (made[0]() is None) == (engine.name == "events")


@pytest.mark.parametrize("slow", ["events", "dense"])
def test_auto_settles_on_the_faster_engine(slow: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the second call on, by its own timing; results are the same before and after."""
    chain, port = vgg()
    wanted = DenseEngine(chain).run(port)
    engine = engines.make_engine(chain)
    clock = [0.0]
    for kind in (EventEngine, DenseEngine):
        run = kind.run

        def late(self: object, *given: object, _run: object = run, _name: str = kind.name, **named: object) -> object:
            clock[0] += 100 if _name == slow else 1
            return _run(self, *given, **named)  # type: ignore[operator]

        monkeypatch.setattr(kind, "run", late)
    monkeypatch.setattr(engines.time, "perf_counter", lambda: clock[0])
    names = []
    for _ in range(3):
        light = engine.run(port, keep=False)
        names.append(engine.name)
        np.testing.assert_array_equal(light.scores, wanted.scores)
        assert light.counts == wanted.counts
    other = "dense" if slow == "events" else "events"
    assert names == ["events", other, other]
    assert_same(engine.run(port), wanted)


def test_stages_are_timed() -> None:
    """Where the time of a run goes, by layer: no lists for a graded input, something for all else."""
    chain, port = vgg()
    spent = EventEngine(chain, 1).stages(port)
    assert list(spent) == [layer.name for layer in chain.layers]
    assert spent["0"][0] == 0
    assert all(lists > 0 and rest > 0 for name, (lists, rest) in spent.items() if name != "0")


def drawn_counting(chain: ir.Chain, rng: np.random.Generator) -> Counting:
    """Any classes, and sums of them in groups of any size; whole numbers, whose sums are exact."""
    shapes = [chain.input_shape, *(layer.shape for layer in chain.layers)]
    sides = [
        [classes_of(rng.integers(0, rng.integers(1, n + 1), (1, n)).astype(np.float64))[1] for n in (*shape, 1, 1)[:3]]
        for shape in shapes
    ]
    classes = tuple(Classes(*each) for each in sides)
    sizes = [np.multiply.outer(np.multiply.outer(*map(np.bincount, each[:2])), np.bincount(each[2])) for each in sides]
    size = np.concatenate([each.ravel() for each in sizes])
    given, groups = int(rng.integers(1, 5)), []
    for number in range(8):
        first, last = sorted(rng.integers(0, len(size) + 1, 2))
        columns = int(rng.integers(1, MOST_SUMS + 1))
        adds = rng.integers(-3, 9, (1 + last - first, columns)).astype(np.float64)
        bound = (adds[0] + size[first:last] @ np.maximum(adds[1:], 0)).max() if number > 3 else np.inf
        to = rng.integers(-1, given, columns) if number < 4 else np.full(columns, -1)
        groups.append(Group(int(first), adds, tuple(to.tolist()), float(bound)))
    return Counting(classes, given, tuple(sorted(groups, key=lambda group: -group.bound)))


@settings(max_examples=usually(60), deadline=None)
@given(chains(), st.integers(0, 2**32 - 1), st.sampled_from([1, 2]), st.sampled_from([None, 1, 2]))
def test_what_is_counted(chain: ir.Chain, seed: int, threads: int, chunk: int | None) -> None:
    """Every sum of spikes by class, the largest of those not given, and all spikes by class: as the reference's spikes
    come to, on every instruction set."""
    port = port_input(chain, 3, seed)
    counting = drawn_counting(chain, np.random.default_rng(seed))
    spikes = reference.run(chain, port).spikes
    values = [port, *(spikes[layer.name] for layer in chain.layers)]
    wanted = counting.of([tally(torch.from_numpy(x), each) for x, each in zip(values, counting.classes, strict=True)])
    for simd in SETS:
        found = EventEngine(chain, threads, simd=simd, chunk=chunk).run(port, keep=False, counting=counting).tally
        assert found is not None
        np.testing.assert_array_equal(found.sums, wanted.sums)
        np.testing.assert_array_equal(found.classes, wanted.classes)


def test_counting_wide_and_high_layers() -> None:
    """Rows of more words than are counted at once, and more rows of one class than bytes hold."""
    rng = np.random.default_rng(0)
    weight = rng.integers(-60, 127, (40, 1, 3, 3))
    layer = ir.ChainLayer(
        "1", "conv", weight, np.zeros((40, 70, 140), np.int64), (40, 70, 140), 9, 4096, padding=(1, 1)
    )
    chain = ir.Chain((1, 70, 140), (1, 70, 140), "direct", 9, 0, 9, (0,), 2, "spike_count", ("a",), (layer,))
    port = port_input(chain, 1, 0)
    one = [Classes(*(np.zeros(n, np.int64) for n in shape)) for shape in (chain.input_shape, layer.shape)]
    counting = Counting(tuple(one), 2, (Group(0, np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), (0, 1)),))
    spikes = reference.run(chain, port).spikes["1"]
    for simd in SETS:
        found = EventEngine(chain, simd=simd).run(port, keep=False, counting=counting).tally
        assert found is not None
        np.testing.assert_array_equal(found.sums[0, :, 0], np.count_nonzero(port[0], (1, 2, 3)))
        np.testing.assert_array_equal(found.sums[0, :, 1], spikes[0].sum((1, 2, 3)))
        assert found.classes[1] == spikes.sum() > 8 * 31 * 140
