"""Both engines say the same about every spike and voltage; inputs and traces come from files unharmed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import assert_same, chains, port_input, rng_of, spiking_network, usually
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from snn2chip import chip as chips
from snn2chip import ir
from snn2chip.chip import products
from snn2chip.chip.bounds import largest_sum
from snn2chip.chip.products import LayerRunner
from snn2chip.errors import InputError
from snn2chip.nn import LIF, Conv2d, Flatten, Linear
from snn2chip.passes import pipeline
from snn2chip.passes.capture import capture
from snn2chip.passes.fold import fold
from snn2chip.simulate import branching, reference, trace
from snn2chip.simulate.dense import DenseEngine
from snn2chip.simulate.engines import make_engine
from snn2chip.simulate.run import simulate
from snn2chip.simulate.streaming import StreamEngine


def test_weights_are_widened_before_they_are_multiplied() -> None:
    """The largest that int16 holds, of both signs: every engine's sums are those of Python's integers."""
    large = 2**15 - 1
    for weight in (np.array([[large, -large, large]]), np.full((1, 3, 1, 1), large)):
        kind: ir.Kind = "dense" if weight.ndim == 2 else "conv"
        shape = (1,) if kind == "dense" else (1, 1, 1)
        layer = ir.ChainLayer("1", kind, weight, np.zeros(shape, np.int64), shape, 10, 0)
        assert layer.weight.dtype == np.int16
        x = np.array([[9, -7, 5]]).reshape(1, 3, *shape[1:])
        wanted = sum(w * value for w, value in zip(weight.ravel().tolist(), x.ravel().tolist(), strict=True))
        ends = np.array([-9]), np.array([9])
        assert largest_sum(layer, *ends) == 27 * large
        assert reference.weighted_sums(layer, x).item() == wanted
        assert products.Product(layer, *ends)(torch.from_numpy(x)[None]).item() == wanted


@settings(max_examples=usually(250), deadline=None)
@given(chain=chains(), seed=st.integers(0, 2**32 - 1), samples=st.integers(1, 5), extreme=st.booleans())
def test_dense_equals_the_reference(chain: ir.Chain, seed: int, samples: int, extreme: bool) -> None:
    """Any geometry, decay, bias and threshold, graded or binary input: every spike and voltage."""
    port = port_input(chain, samples, seed, extreme=extreme)
    assert_same(DenseEngine(chain).run(port, batch_size=2), reference.run(chain, port))


def test_random_chains_wrap_and_clip_and_spike() -> None:
    """The chains above do reach the chip's edges: seeded, so that the property says something."""
    seen = {"wrap": 0, "clip": 0, "spike": 0, "silent": 0, "kept current": 0, "signed": 0}

    @settings(max_examples=150, deadline=None, derandomize=True, database=None)
    @given(chain=chains(), seed=st.integers(0, 2**32 - 1))
    def visit(chain: ir.Chain, seed: int) -> None:
        port = port_input(chain, 2, seed, extreme=True)
        run = reference.run(chain, port)
        seen["signed"] += int(port.min() < 0)
        for layer in chain.layers:
            seen["wrap"] += run.largest[layer.name] > 2**17
            seen["clip"] += int((np.abs(run.voltage[layer.name]) == 2**23 - 1).any())
            seen["spike"] += int(run.spikes[layer.name].any())
            seen["silent"] += int((run.spikes[layer.name] == 0).any())
            seen["kept current"] += layer.current_decay != 4096

    visit()
    assert min(seen.values()) >= 10, seen


def by_hand(chain: ir.Chain, port: ir.IntArray) -> tuple[dict[str, list[bool]], dict[str, list[int]]]:
    """Spikes and voltages of one sample, from the definition in Python loops over every synapse."""
    from helpers import py_current, py_voltage

    spikes: dict[str, list[bool]] = {layer.name: [] for layer in chain.layers}
    voltages: dict[str, list[int]] = {layer.name: [] for layer in chain.layers}
    state: dict[tuple[str, tuple[int, ...]], tuple[int, int]] = {}
    for step in range(port.shape[0]):
        x = {index: int(value) for index, value in np.ndenumerate(port[step])}
        shape: tuple[int, ...] = port.shape[1:]
        for layer in chain.layers:
            if layer.kind == "dense" and len(shape) > 1:
                x = {(int(np.ravel_multi_index(index, shape)),): value for index, value in x.items()}
            out: dict[tuple[int, ...], int] = {}
            for neuron in np.ndindex(*layer.shape):
                total = 0
                if layer.kind == "dense":
                    for (source,), value in x.items():
                        total += int(layer.weight[neuron[0], source]) * value
                else:
                    o, row, column = neuron
                    per_group = layer.weight.shape[1]
                    first = o // (len(layer.weight) // layer.groups) * per_group
                    for i, kh, kw in np.ndindex(*layer.weight.shape[1:]):
                        h = row * layer.stride[0] - layer.padding[0] + kh * layer.dilation[0]
                        w = column * layer.stride[1] - layer.padding[1] + kw * layer.dilation[1]
                        total += int(layer.weight[o, i, kh, kw]) * x.get((first + i, h, w), 0)
                u, v = state.get((layer.name, neuron), (0, 0))
                u = py_current(u, total, layer.current_decay)
                v, fired = py_voltage(v, u, int(layer.bias[neuron]), layer.threshold, layer.voltage_decay)
                state[layer.name, neuron] = u, v
                out[neuron] = int(fired)
                spikes[layer.name].append(fired)
                voltages[layer.name].append(v)
            x, shape = out, layer.shape
    return spikes, voltages


@settings(max_examples=usually(40), deadline=None)
@given(chain=chains(max_layers=2), seed=st.integers(0, 2**32 - 1))
def test_the_reference_is_the_definition(chain: ir.Chain, seed: int) -> None:
    """Synapse by synapse and neuron by neuron in Python integers, no arrays: the same."""
    port = port_input(chain, 1, seed)
    run = reference.run(chain, port)
    spikes, voltages = by_hand(chain, port[0])
    for layer in chain.layers:
        assert run.spikes[layer.name][0].reshape(-1).tolist() == [int(fired) for fired in spikes[layer.name]]
        assert run.voltage[layer.name][0].reshape(-1).tolist() == voltages[layer.name]


def test_scores_are_the_last_voltage_or_the_count() -> None:
    """'membrane' reads the last layer's voltage at the last step, 'spike_count' its spikes."""
    chain = dense_chain(np.array([[3, -2], [1, 1]]), 131071, high=1)
    port = port_input(chain, 4, 0)
    for engine in (lambda c: DenseEngine(c).run(port), lambda c: reference.run(c, port)):
        run = engine(chain)
        np.testing.assert_array_equal(run.scores, run.voltage["1"][:, -1])
        np.testing.assert_array_equal(run.scores, 64 * (port @ chain.layers[0].weight.T).sum(1))
        counted = engine(replace(chain, readout="spike_count", layers=(replace(chain.layers[0], threshold=1),)))
        np.testing.assert_array_equal(counted.scores, counted.spikes["1"].astype(np.int64).sum(1))
        assert counted.scores.max() > 0


def test_batches_and_keep_change_nothing() -> None:
    """Any batch size gives the same; keep=False leaves only the arrays out."""
    chain = dense_chain(rng_of(1).integers(-99, 100, (5, 12)), 60, high=1, steps=4)
    port = port_input(chain, 7, 1)
    whole = DenseEngine(chain).run(port)
    for size in (1, 3, 7, 100):
        assert_same(DenseEngine(chain).run(port, batch_size=size), whole)
    engine = DenseEngine(chain)
    light = engine.run(port, batch_size=3, keep=False)
    assert light.spikes == {} and light.voltage == {}
    np.testing.assert_array_equal(light.scores, whole.scores)
    assert (light.counts, light.largest) == (whole.counts, whole.largest)


def test_fewer_steps_are_a_prefix() -> None:
    """T may be shorter than the network's: the steps there are stay the same."""
    chain = dense_chain(rng_of(2).integers(-99, 100, (5, 12)), 60, high=1, steps=5)
    port = port_input(chain, 3, 2)
    whole, half = DenseEngine(chain).run(port), DenseEngine(chain).run(port[:, :2])
    np.testing.assert_array_equal(half.voltage["1"], whole.voltage["1"][:, :2])


# --------------------------------------------------------------------------------------- exact products, always


def dense_chain(
    weight: np.ndarray, threshold: int, *, high: int, low: int = 0, steps: int = 3, center: int = 0
) -> ir.Chain:
    """One dense layer on flat input low..high."""
    outputs, inputs = weight.shape
    layer = ir.ChainLayer("1", "dense", weight, np.zeros(outputs, dtype=np.int64), (outputs,), threshold, 0)
    return ir.Chain(
        (inputs,), (inputs,), "direct", high, low, high, (center,), steps, "membrane", ("a",) * outputs, (layer,)
    )


def conv_chain(weight: np.ndarray, *, high: int, side: int = 6) -> ir.Chain:
    """One padded conv layer on images 0..high."""
    outputs, channels = weight.shape[:2]
    shape = (outputs, side, side)
    layer = ir.ChainLayer("1", "conv", weight, np.zeros(shape, dtype=np.int64), shape, 131071, 4096, padding=(1, 1))
    port = (channels, side, side)
    return ir.Chain(port, port, "direct", high, 0, high, (0,), 2, "membrane", ("a",), (layer,))


@pytest.mark.parametrize("conv", [False, True])
def test_float64_from_two_to_the_24_on(conv: bool) -> None:
    """Just under 2^24 float32 is exact; at 2^24 the engine takes float64; both equal the reference."""
    # 254 * 66051 + 254 * 1 + ... : largest sums of 2^24 - 2, and of 2^24
    for excess, dtype in ((0, torch.float32), (2, torch.float64)):
        row = np.array([254, 2, 252, 2], dtype=np.int64)
        high = (2**24 - 2) // int(row.sum())  # 32896 with remainder
        rest = 2**24 - 2 - high * int(row.sum())
        row = np.concatenate([row, [0]])
        # reach the wanted sum exactly with inputs of their own range
        low_high = np.array([high, high, high, high, 1]) + 0
        low_high[1] += rest // 2
        assert int((row * low_high).sum()) == 2**24 - 2
        low_high[1] += excess // 2
        weight = np.stack([row, -row])
        bounds = np.zeros(5, dtype=np.int64), low_high
        if conv:
            chain = conv_chain(weight[:, :, None, None].repeat(1, axis=2), high=int(low_high.max()), side=3)
            chain = replace(chain, layers=(replace(chain.layers[0], padding=(0, 0), weight=weight[:, :, None, None]),))
            port = np.broadcast_to(low_high[None, None, :, None, None], (1, 2, 5, 3, 3)).copy()
            port[:, :, 0, 1, 1] -= 1  # an odd number beside: 2^24 + 1 has no float32
            port[:, :, 1, 0, 0] -= 1
        else:
            chain = dense_chain(weight, 131071, high=int(low_high.max()), steps=2)
            port = np.stack([np.stack([low_high, low_high - [0, 1, 0, 0, 0]])])
        runner = LayerRunner(chain.layers[0], *bounds, torch.device("cpu"))
        assert largest_sum(chain.layers[0], *bounds) == 2**24 - 2 + excess
        assert runner.product.dtype == dtype
        (got,) = runner.product(torch.from_numpy(port))
        expected = reference.weighted_sums(chain.layers[0], port[0])
        np.testing.assert_array_equal(got.numpy(), expected)
        assert np.abs(expected).max() == 2**24 - 2 + excess


def test_float32_would_be_wrong_where_float64_is_taken() -> None:
    """Odd sums beyond 2^24 have no float32: the switch is needed, and it is made."""
    weight = np.array([[127] * 64 + [1]])
    chain = dense_chain(weight, 131071, high=4095)
    port = np.full((1, 3, 65), 4095, dtype=np.int64)
    port[..., -1] = 2
    engine = DenseEngine(chain)
    assert engine.runners[0].product.dtype == torch.float64
    (sums,) = engine.runners[0].product(torch.from_numpy(port))
    exact = 127 * 64 * 4095 + 2
    assert sums[0, 0] == exact
    assert int(F.linear(torch.from_numpy(port[0]).float(), torch.from_numpy(weight).float())[0, 0]) != exact
    assert_same(engine.run(port), reference.run(chain, port))


@settings(max_examples=usually(60), deadline=None)
@given(chain=chains(max_layers=1), seed=st.integers(0, 2**32 - 1))
def test_largest_sum_bounds_every_input(chain: ir.Chain, seed: int) -> None:
    """No input at the port's edges sums to more than `largest_sum` says, and partial sums neither."""
    layer = chain.layers[0]
    low, high = chain.port_range
    bound = largest_sum(layer, low, high)
    for extreme in (False, True):
        port = port_input(chain, 6, seed, extreme=extreme)
        assert np.abs(reference.weighted_sums(layer, port.reshape(-1, *chain.input_shape))).max() <= bound


@pytest.fixture
def restored() -> Iterator[None]:
    """Global precision settings as they were."""
    backends = [getattr(torch.backends.mkldnn, name, None) for name in ("conv", "matmul")]
    kept = [getattr(backend, "fp32_precision", None) for backend in backends]
    yield
    for backend, value in zip(backends, kept, strict=True):
        if value is not None:
            backend.fp32_precision = value  # type: ignore[union-attr]
    torch.set_float32_matmul_precision("highest")


def wide_chain() -> tuple[ir.Chain, ir.IntArray]:
    """Inputs of 12 bits, which bfloat16 does not have, in a conv and a dense layer."""
    rng = rng_of(7)
    chain = conv_chain(rng.integers(-100, 101, (8, 16, 3, 3)), high=1023)
    flat = ir.ChainLayer(
        "3", "dense", rng.integers(-99, 100, (4, 288)), np.zeros(4, dtype=np.int64), (4,), 500, 3072, flatten=True
    )
    chain = replace(chain, layers=(replace(chain.layers[0], threshold=30000), flat))
    return chain, port_input(chain, 4, 3)


def medium() -> None:
    torch.set_float32_matmul_precision("medium")


def each_backend() -> None:
    torch.backends.mkldnn.conv.fp32_precision = "bf16"  # type: ignore[attr-defined]
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"  # type: ignore[attr-defined]


@pytest.mark.parametrize("choose", [medium, each_backend])
def test_a_users_precision_setting_changes_nothing(
    choose: Callable[[], None], restored: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bfloat16 products chosen globally, in either of torch's two ways: exact here, and left as chosen after."""
    if choose is each_backend and not hasattr(torch.backends.mkldnn, "conv"):
        pytest.skip("this torch has no precision setting for each backend")
    chain, port = wide_chain()
    expected = reference.run(chain, port)
    assert products.float32_exact(True)  # once a process, and not what is watched
    choose()
    state = precision()
    during: list[tuple[str | None, ...]] = []
    for name in ("conv2d", "linear"):
        original = getattr(F, name)

        def watched(*args: object, original: Callable[..., torch.Tensor] = original) -> torch.Tensor:
            during.append(precision())
            return original(*args)

        monkeypatch.setattr(F, name, watched)
    assert_same(DenseEngine(chain).run(port), expected)
    assert len(during) == 2
    # a processor without fast bfloat16 products computes the same either way: look at the setting too
    assert all(value in (None, "highest", "ieee", "none", "mixed") for values in during for value in values)
    assert precision() == state


def precision() -> tuple[str | None, ...]:
    """What torch says about float32 products: the old setting and the two new ones."""
    mkldnn = torch.backends.mkldnn
    new = tuple(getattr(getattr(mkldnn, name, None), "fp32_precision", None) for name in ("conv", "matmul"))
    return new if None not in new else (torch.get_float32_matmul_precision(),)


@pytest.mark.filterwarnings("ignore:TF32 acceleration on top of oneDNN")  # torch, of any such setting
def test_another_backend_changes_nothing() -> None:
    """Without oneDNN torch takes NNPACK's Winograd convolution for batches of 16 and more, which rounds."""
    chain, port = wide_chain()
    port = np.concatenate([port] * 8)
    expected = reference.run(chain, port)
    with torch.backends.mkldnn.flags(enabled=False):
        assert products.float32_exact(False)
        assert_same(DenseEngine(chain).run(port), expected)
        x, weight = torch.from_numpy(port[:, 0]).float(), torch.from_numpy(chain.layers[0].weight).float()
        if torch.backends.nnpack.is_available():  # type: ignore[no-untyped-call]
            assert not torch.equal(F.conv2d(x, weight), F.conv2d(x.double(), weight.double()).float())


@pytest.mark.parametrize("name", ["conv2d", "linear"])
def test_float32_that_rounds_is_not_used(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Products are tried out first; where float32's are off by one in 2^23 parts, float64 computes."""
    chain, port = wide_chain()
    expected = reference.run(chain, port)
    original = getattr(F, name)

    def off(x: torch.Tensor, *args: object, **options: object) -> torch.Tensor:
        y: torch.Tensor = original(x, *args, **options)
        return y * (1 + 2.0**-23) if y.dtype == torch.float32 else y

    monkeypatch.setattr(F, name, off)
    products.float32_exact.cache_clear()
    try:
        assert not products.float32_exact(True)
        assert_same(DenseEngine(chain).run(port), expected)
    finally:
        products.float32_exact.cache_clear()


def test_autocast_around_the_engine_changes_nothing() -> None:
    """Within torch.autocast the products stay exact."""
    chain, port = wide_chain()
    expected = reference.run(chain, port)
    with torch.autocast("cpu", torch.bfloat16):
        assert_same(DenseEngine(chain).run(port), expected)


def test_a_read_only_input_is_taken() -> None:
    """Arrays that cannot be written (broadcast, memory-mapped) run without a warning."""
    chain = dense_chain(rng_of(1).integers(-99, 100, (5, 12)), 60, high=1)
    port = np.broadcast_to(np.ones(12, dtype=np.int64), (2, 3, 12))
    assert_same(DenseEngine(chain).run(port), reference.run(chain, port))


# ----------------------------------------------------------------------------------------------- files and checks


CHAIN = dense_chain(np.array([[3, -2, 5], [1, 1, 1]]), 4, high=255, center=100, steps=4)
GOOD = np.arange(-100, -100 + 24).reshape(2, 4, 3)


def test_each_channel_has_its_own_range() -> None:
    """Channels are centred apart: a value that fits one channel's port may exceed another's."""
    chain = replace(CHAIN, input_shape=(3, 1, 1), raw_shape=(3, 1, 1), center=(0, 100, 200))
    chain = replace(chain, layers=(replace(CHAIN.layers[0], flatten=True),))
    fits = np.array([0, -100, -200]).reshape(1, 1, 3, 1, 1)
    np.testing.assert_array_equal(trace.check_input(fits, chain), fits)
    with pytest.raises(InputError, match="exceed the port's"):
        trace.check_input(fits[:, :, ::-1], chain)


def test_good_input_is_read_as_int64(tmp_path: Path) -> None:
    """Any integer type, fewer steps too."""
    for dtype in (np.int8, np.int16, np.int64):
        np.savez(tmp_path / "in.npz", input=GOOD.astype(dtype), other=np.zeros(2))
        got = trace.load_input(tmp_path / "in.npz", CHAIN)
        assert got.dtype == np.int64
        np.testing.assert_array_equal(got, GOOD)
    assert trace.check_input(GOOD[:, :1], CHAIN).shape == (2, 1, 3)


@settings(max_examples=usually(25), deadline=None)
@given(chain=chains(), seed=st.integers(0, 2**32 - 1))
def test_traces_survive_their_file(tmp_path_factory: pytest.TempPathFactory, chain: ir.Chain, seed: int) -> None:
    """Saved and loaded, a trace is the same, scores included."""
    run = reference.run(chain, port_input(chain, 2, seed))
    path = tmp_path_factory.mktemp("trace") / "trace.npz"
    trace.save(path, run)
    got = trace.load(path, chain)
    for name in run.spikes:
        np.testing.assert_array_equal(got.spikes[name], run.spikes[name])
        np.testing.assert_array_equal(got.voltage[name], run.voltage[name])
        assert (got.spikes[name].dtype, got.voltage[name].dtype) == (np.uint8, np.int32)
    np.testing.assert_array_equal(got.scores, run.scores)


def test_a_trace_of_another_network_is_refused(tmp_path: Path) -> None:
    """A missing layer is named."""
    run = reference.run(CHAIN, GOOD)
    trace.save(tmp_path / "t.npz", run)
    other = replace(CHAIN, layers=(replace(CHAIN.layers[0], name="2"),))
    with pytest.raises(InputError, match=r"t\.npz' has no array 'spikes/2'"):
        trace.load(tmp_path / "t.npz", other)
    wider = replace(CHAIN, layers=(replace(CHAIN.layers[0], shape=(3,)),))
    with pytest.raises(InputError, match=r"'spikes/1' is uint8 of shape \(2, 4, 2\); expected .*T, 3\)"):
        trace.load(tmp_path / "t.npz", wider)


def test_sums_beyond_32_bits_are_what_int32_makes_of_them() -> None:
    """Lava's 32-bit registers overflow at inputs of 2^25 and more; both engines follow."""
    chain = dense_chain(np.full((1, 70), 127), 131071, high=4095, steps=3)
    port = np.full((1, 3, 70), 4095, dtype=np.int64)
    assert 127 * 70 * 4095 >= 2**25
    assert_same(DenseEngine(chain).run(port), reference.run(chain, port))


@pytest.mark.parametrize(
    "where", ["dense", "reference", "events", "streaming", "simulate", "chain", "network", "graph"]
)
def test_what_is_not_the_networks_integers_is_refused_by_every_engine(where: str) -> None:
    """Floats are not truncated, and what would only broadcast is not stretched."""
    layers = [("conv", Conv2d(3, 2, 3)), ("lif", LIF()), ("flatten", Flatten()), ("dense", Linear(8, 2))]
    network = spiking_network(layers, (3, 4, 4), timesteps=2)
    made = pipeline.export(pipeline.Source(fold(capture(network))[0], "test"), chips.load("loihi2"))
    chain = made.chain
    run: Callable[[Any], object] = {
        "dense": lambda port: DenseEngine(chain).run(port),
        "reference": lambda port: reference.run(chain, port),
        "events": lambda port: make_engine(chain, kind="events").run(port),
        "streaming": lambda port: StreamEngine(chain, 2).run(port[0]),
        "simulate": lambda port: simulate(chain, port=port),
        "chain": lambda port: chain.port(port + 128),
        "network": lambda port: made.folded.input.port(port),
        "graph": lambda port: branching.run(made.quantized, port),
    }[where]
    good = np.zeros((1, 2, 3, 4, 4), dtype=np.int64)
    run(good)
    with pytest.raises(InputError, match=r"float64"):
        run(good + 0.75)
    if where != "graph":  # whose weights refuse what is no image of three channels
        with pytest.raises(InputError, match=r"shape"):
            run(good[:, :, :1])


def test_more_steps_than_the_file_has_are_refused() -> None:
    """Twelve steps on a network of eight, by the call that the command makes."""
    layers = [("flatten", Flatten()), ("dense", Linear(4, 3)), ("lif", LIF()), ("dense2", Linear(3, 2))]
    network = spiking_network(layers, (1, 2, 2), timesteps=8)
    chain = pipeline.export(pipeline.Source(fold(capture(network))[0], "test"), chips.load("loihi2")).chain
    assert simulate(chain, port=np.zeros((1, 8, 4), dtype=np.int64)).timesteps == 8
    with pytest.raises(InputError, match=r"12 timesteps exceed the file's 8"):
        simulate(chain, port=np.zeros((1, 12, 4), dtype=np.int64))
