"""Any netx file in raw chip time as ONNX: ONNX Runtime finds every spike, voltage and current of `ChipEngine`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import onnx
import pytest
from conftest import Command
from helpers import rng_of, usually
from hypothesis import given, settings
from hypothesis import strategies as st
from lava_dl_networks import NETWORKS
from numpy.typing import NDArray
from onnx_outputs import ran, standards
from onnx_runs import Row, compare

from snn2chip.backends import lava
from snn2chip.chip.bounds import port_range
from snn2chip.errors import InputError, UnsupportedError
from snn2chip.formats.netx import read
from snn2chip.formats.onnx import write as onnx_format
from snn2chip.formats.onnx import write_chip_time
from snn2chip.formats.onnx.write_chip_time import Reset
from snn2chip.ir import IntArray, Shape, out_size
from snn2chip.ir.netlist import ChipLayer, Netlist
from snn2chip.simulate.chip_time import ChipEngine, ChipTrace

DECAYS = st.sampled_from([0, 1, 1000, 3072, 4095, 4096])


def neuron(draw: st.DrawFn, wild: bool) -> dict[str, int]:
    """Threshold and decays; 2^17 and more never fires."""
    low = [0, 1, 50, 900]
    return {
        "threshold": draw(st.sampled_from([*low, 2**17, 2**24] if wild else low)),
        "voltage_decay": draw(DECAYS),
        "current_decay": draw(DECAYS),
    }


def conv_layer(draw: st.DrawFn, rng: np.random.Generator, number: str, given_: Shape, wild: bool) -> ChipLayer:
    """Any geometry that fits, kernels not square; weights as large as no chip holds where it is wild."""
    groups = draw(st.sampled_from([count for count in (1, 2, 4) if given_[0] % count == 0]))
    kernel = tuple(draw(st.integers(1, 3)) for _ in range(2))
    stride, padding = (tuple(draw(st.integers(low, low + 1)) for _ in range(2)) for low in (1, 0))
    dilation = tuple(draw(st.integers(1, 2)) for _ in range(2))
    sides = tuple(out_size(given_[1 + i], kernel[i], stride[i], padding[i], dilation[i]) for i in range(2))
    if min(sides) < 1:
        kernel, sides = (1, 1), tuple(out_size(given_[1 + i], 1, stride[i], padding[i], dilation[i]) for i in range(2))
    channels = groups * draw(st.integers(1, 3))
    top = draw(st.sampled_from([127, 2**15] if wild else [3, 127]))
    shape = (channels, *sides)
    return ChipLayer(
        number, "conv", rng.integers(-top, top + 1, (channels, given_[0] // groups, *kernel)),
        rng.integers(-20, 21, shape), shape, **neuron(draw, wild), stride=stride, padding=padding, dilation=dilation,
        groups=groups,
    )  # fmt: skip


def dense_layer(draw: st.DrawFn, rng: np.random.Generator, number: str, given_: Shape, wild: bool) -> ChipLayer:
    """Dense, with delays of a few kinds or recurrent."""
    inputs, features = int(np.prod(given_)), draw(st.integers(1, 5))
    top = draw(st.sampled_from([3, 254]))
    kind = draw(st.sampled_from(["dense", "axonal", "each", "dense_rec"]))
    delay: IntArray | None = None
    most = draw(st.sampled_from([1, 4, 62]))
    if kind == "axonal":
        delay = np.broadcast_to(rng.integers(0, most + 1, inputs), (features, inputs)).copy()
    elif kind == "each":
        delay = rng.integers(0, most + 1, (features, inputs))
    recurrent = rng.integers(-top, top + 1, (features, features)) if kind == "dense_rec" else None
    weight = rng.integers(-top, top + 1, (features, inputs))
    return ChipLayer(
        number, "dense" if recurrent is None else "dense_rec", weight,
        rng.integers(-20, 21, features), (features,), **neuron(draw, wild), flatten=len(given_) == 3,
        recurrent=recurrent, delay=delay,
    )  # fmt: skip


@st.composite
def netlists(draw: st.DrawFn, most_layers: int = 3) -> Netlist:
    """Networks of every kind of layer and input; wild ones wrap, overflow and clip."""
    rng = rng_of(draw(st.integers(0, 2**32 - 1)))
    wild = draw(st.integers(0, 2)) > 0
    shape: Shape = (draw(st.sampled_from([1, 2, 4])), draw(st.integers(1, 5)), draw(st.integers(1, 5)))
    if draw(st.integers(0, 2)) == 0:
        shape = (draw(st.integers(1, 6)),)
    first = shape
    layers: list[ChipLayer] = []
    source = draw(st.sampled_from(["spikes", "integers", "bias"]))
    if source == "bias":
        zeros = np.zeros(shape, np.int64)
        layers.append(ChipLayer("0", "input", np.zeros((0, 0), np.int64), zeros, shape, **neuron(draw, wild)))
    for number in range(1, 1 + draw(st.integers(1, most_layers))):
        make = conv_layer if len(shape) == 3 and draw(st.integers(0, 2)) else dense_layer
        layers.append(make(draw, rng, str(number), shape, wild))
        shape = layers[-1].shape
    if source == "integers":
        layers[0] = replace(layers[0], graded=True)
    return Netlist(first, tuple(layers))


def streams_for(net: Netlist, samples: int, steps: int, seed: int, *, extreme: bool = False) -> IntArray:
    """Random input (N, T, ...); of any value, or only the smallest, the largest and a small one."""
    rng, (low, high) = rng_of(seed), port_range(net)
    shape = (samples, steps, *net.input_shape)
    values: IntArray = rng.choice([low, 1, high], shape) if extreme else rng.integers(low, high + 1, shape)
    return values


def simulated(net: Netlist, streams: IntArray, reset: Reset | None = None) -> list[ChipTrace]:
    options = {} if reset is None else {"reset_interval": reset.interval, "reset_offset": reset.offset}
    return [ChipEngine(net, **options).run(stream) for stream in streams]


def assert_equal(net: Netlist, found: dict[str, NDArray[Any]], wanted: list[ChipTrace]) -> None:
    """Every spike, voltage and current, of the same types; a layer without a synapse has no current but 0."""
    seen = set()
    for number, label in write_chip_time.labels(net).items():
        for kind in ("spikes", "voltage", "current"):
            expected = np.stack([getattr(trace, kind)[number] for trace in wanted])
            if kind == "current" and label.startswith("input"):
                assert not expected.any()
                continue
            values = found[f"{label}/{kind}"]
            assert values.dtype == expected.dtype
            np.testing.assert_array_equal(values, expected, err_msg=f"{label}/{kind}")
            seen.add(f"{label}/{kind}")
    assert seen == set(found)


def held_equal(
    net: Netlist, streams: IntArray, reset: Reset | None = None, unroll: bool | None = None
) -> list[ChipTrace]:
    """ONNX Runtime = the engine on streams (N, T, ...)."""
    wanted = simulated(net, streams, reset)
    made = write_chip_time.build(net, streams.shape[1], reset=reset, trace=True, unroll=unroll)
    assert_equal(net, ran(made, streams), wanted)
    return wanted


@settings(max_examples=usually(50), deadline=None)
@given(
    net=netlists(), seed=st.integers(0, 2**32 - 1), samples=st.integers(1, 3), steps=st.integers(1, 12),
    extreme=st.booleans(), unroll=st.booleans(),
)  # fmt: skip
def test_random_networks(net: Netlist, seed: int, samples: int, steps: int, extreme: bool, unroll: bool) -> None:
    """Any layers, geometry, decays, delays and input, written out or as a loop."""
    held_equal(net, streams_for(net, samples, steps, seed, extreme=extreme), unroll=unroll)


@settings(max_examples=usually(30), deadline=None)
@given(
    net=netlists(), seed=st.integers(0, 2**32 - 1), interval=st.integers(1, 9), offset=st.integers(0, 9),
    unroll=st.booleans(),
)  # fmt: skip
def test_random_networks_with_resets(net: Netlist, seed: int, interval: int, offset: int, unroll: bool) -> None:
    """Registers start anew where netx's resets do; what is on its way still arrives."""
    held_equal(net, streams_for(net, 2, 10, seed), Reset(interval, offset), unroll)


def test_random_networks_reach_what_is_special() -> None:
    """The networks above wrap, overflow, clip, fire, delay and recur: seeded, so that the property says something."""
    seen = dict.fromkeys(("wrap", "overflow", "clip", "24 bits", "delays", "recurrent", "bias", "integers", "fire"), 0)

    @settings(max_examples=120, deadline=None, derandomize=True, database=None)
    @given(net=netlists(), seed=st.integers(0, 2**32 - 1))
    def visit(net: Netlist, seed: int) -> None:
        stream = streams_for(net, 1, 8, seed, extreme=True)
        (trace,) = simulated(net, stream)
        names = {node.name for node in write_chip_time.build(net, 8).graph.node}
        seen["24 bits"] += any(name.endswith("/wrapped") for name in names)
        seen["delays"] += any(name.endswith("/delayed") for name in names)
        seen["recurrent"] += any("/recurrent/" in name for name in names)
        seen["bias"] += net.driven_by_bias
        seen["integers"] += net.layers[0].graded
        seen["fire"] += all(spikes.any() for spikes in trace.spikes.values())
        for number, largest in trace.largest.items():
            seen["wrap"] += largest > 2**17
            seen["overflow"] += largest > 2**25
            seen["clip"] += int((np.abs(trace.voltage[number]) == 2**23 - 1).any())

    visit()
    assert min(seen.values()) >= 5, seen


def small_net(**first: Any) -> Netlist:
    """Conv, dense with delays, recurrent dense, on spikes (2, 4, 3)."""
    rng = rng_of(3)
    conv = ChipLayer(
        "1", "conv", rng.integers(-60, 128, (3, 2, 3, 3)), rng.integers(0, 9, (3, 4, 3)), (3, 4, 3), 100, 500, 2000,
        padding=(1, 1),
    )  # fmt: skip
    delayed = ChipLayer(
        "3", "dense", rng.integers(-60, 128, (5, 36)), np.zeros(5, np.int64), (5,), 200, 1000, 4096,
        delay=rng.integers(0, 4, (5, 36)), flatten=True,
    )  # fmt: skip
    recurrent = ChipLayer(
        "4", "dense_rec", rng.integers(-60, 128, (4, 5)), np.zeros(4, np.int64), (4,), 60, 1000, 1000,
        recurrent=rng.integers(-99, 99, (4, 4)),
    )  # fmt: skip
    return Netlist((2, 4, 3), (replace(conv, **first), delayed, recurrent))


def test_many_steps_are_a_loop_and_the_same() -> None:
    """More than `UNROLL_MOST` steps: a Loop, whose nodes do not grow with T."""
    net, steps = small_net(), onnx_format.UNROLL_MOST + 8
    streams = streams_for(net, 2, steps, 0)
    trace = held_equal(net, streams)
    assert all(part.any() for part in trace[0].spikes.values())
    looped = write_chip_time.build(net, steps)
    assert [node.op_type for node in looped.graph.node].count("Loop") == 1
    assert len(write_chip_time.build(net, 10 * steps).graph.node) == len(looped.graph.node)
    held_equal(net, streams, unroll=True)


def test_the_standards_own_evaluator_agrees() -> None:
    """Not only ONNX Runtime reads the operators so."""
    net = small_net()
    streams = streams_for(net, 2, 9, 1)
    made = write_chip_time.build(net, 9, trace=True)
    assert_equal(net, standards(made, streams), simulated(net, streams))


def test_standard_operators_shapes_and_names() -> None:
    """onnx.checker with full shape inference; names that say layer, step and what; outputs of fixed shape."""
    net = small_net()
    made = write_chip_time.build(net, 4)
    onnx.checker.check_model(made, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(made, check_type=True, strict_mode=True, data_prop=True)
    assert {item.domain for item in made.opset_import} == {""}
    names = {node.name for node in made.graph.node}
    assert all(names) and len(names) == len(made.graph.node)
    wanted = {
        "conv1/one_step_later", "conv1/conv", "conv1/sums", "conv1/step2/spikes", "dense3/step4/steps_later",
        "dense3/delayed", "dense3/dense", "dense_rec4/step2/recurrent/dense", "dense_rec4/step4/voltage",
    }  # fmt: skip
    assert wanted <= names, wanted - names
    assert wanted <= {value.name for value in inferred.graph.value_info}
    shapes = {
        port.name: [side.dim_param or side.dim_value for side in port.type.tensor_type.shape.dim]
        for port in (*made.graph.input, *made.graph.output)
    }
    assert shapes == {"spikes": ["N", 4, 2, 4, 3], "dense_rec4/spikes": ["N", 4, 4], "dense_rec4/voltage": ["N", 4, 4]}


@pytest.mark.parametrize("unroll", [True, False])
def test_sums_of_a_convolution_keep_24_bits(unroll: bool) -> None:
    """Just at the edges: 2^23 - 1 stays, 2^23 becomes -2^23."""
    weight = np.array([1, -1])[:, None, None, None]
    zeros = np.zeros((2, 1, 1), np.int64)
    layer = ChipLayer("1", "conv", weight, zeros, (2, 1, 1), 2**17, 4096, 4096, graded=True)
    net = Netlist((1, 1, 1), (replace(layer, weight=weight * 2),))
    edge = np.array([2**22 - 1, 2**22, -(2**22), -(2**22) - 1, 2**23 - 1, 0]).reshape(1, -1, 1, 1, 1)
    wanted = held_equal(net, edge, unroll=unroll)
    assert wanted[0].largest["1"] == 2**23
    held_equal(Netlist((1, 1, 1), (layer,)), edge, unroll=unroll)


def test_what_cannot_be() -> None:
    """No steps or too many; more inputs than float32 has exact sums of; delays that make too many weights."""
    for steps in (0, 10**6 + 1):
        with pytest.raises(InputError, match=rf"{steps} time steps asked for; an ONNX file runs 1..1,000,000"):
            write_chip_time.build(small_net(), steps)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(write_chip_time, "MOST_BYTES", 2000)
        with pytest.raises(InputError, match=r"layer 'dense3': 4 delays make 5 x \d+ weights of it, too many"):
            write_chip_time.build(small_net(), 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_format, "FLOAT32_EXACT", 10)
        with pytest.raises(UnsupportedError, match=r"layer 'conv1': 18 inputs a neuron"):
            write_chip_time.build(small_net(), 3)


# ------------------------------------------------------------------------------------------------------- commands


def write_bias_driven(path: Path) -> None:
    """A netx file with an input layer of neurons, a dense layer with delays, one without neurons."""
    rng = rng_of(0)
    with h5py.File(path, "w") as file:
        for number, (kind, shape) in enumerate([("input", 6), ("dense", 5), ("dense", 3)]):
            group = file.create_group(f"layer/{number}")
            group["type"], group["shape"] = kind.encode(), np.array([shape])
            if kind == "dense":
                group["weight"] = rng.integers(-20, 60, (shape, 6 if number == 1 else 5)) * 2
            if number < 2:
                group["neuron/type"] = b"CUBA"
                for name, value in (("iDecay", 1024), ("vDecay", 128), ("vThMant", 80), ("refDelay", 1)):
                    group[f"neuron/{name}"] = value
        file["layer/1/delay"] = rng.integers(0, 5, 6)
        file["layer/0/weight"], file["layer/0/bias"] = 76, 64


def test_the_command(tmp_path: Path, cli: Command) -> None:
    """`export --clock chip`: the first layers of a file, with resets, as loop and written out."""
    net = tmp_path / "any.net"
    write_bias_driven(net)
    for arguments, layers, steps, reset in (
        (("--timesteps", "12"), None, 12, None),
        (("--timesteps", "40", "--layers", "2", "--reset-interval", "7", "--reset-offset", "3"), 2, 40, Reset(7, 3)),
    ):
        target = tmp_path / "any.onnx"
        printed = cli("export", net, "--clock", "chip", "--trace", *arguments).ok()
        assert f"wrote {target}" in printed and f"{steps} chip steps" in printed
        network = read.load(net, layers)
        streams = np.repeat(rng_of(1).integers(20, 200, (3, 1, 6)), steps, 1)
        wanted = simulated(network, streams, reset)
        assert all(trace.spikes["1"].any() for trace in wanted)
        assert_equal(network, ran(onnx.load(target), streams), wanted)
    cli("export", net, "--clock", "chip", "--timesteps", "5", "-o", tmp_path / "last.onnx").ok()
    ports = [port.name for port in onnx.load(tmp_path / "last.onnx").graph.output]
    assert ports == ["dense2/spikes", "dense2/voltage"]


def test_commands_that_cannot_be(tmp_path: Path, cli: Command) -> None:
    """One line, exit code 2, no file."""
    net = tmp_path / "any.net"
    write_bias_driven(net)
    cli("export", net, "--timesteps", "5").refused("--timesteps", "--clock chip")
    cli("export", net, "--clock", "chip").refused("--timesteps T")
    cli("export", net, "--clock", "chip", "--timesteps", "5", "--format", "nir").refused("--format onnx")
    cli("export", net, "--clock", "chip", "--timesteps", "5", "--reset-offset", "1").refused("--reset-interval")
    cli("export", net, "--clock", "chip", "--timesteps", "5", "--layers", "4").refused("4 layers asked for")
    cli("export", net, "--clock", "chip", "--timesteps", "5", "-o", net).refused("is the network itself")
    assert [path.name for path in tmp_path.iterdir()] == ["any.net"]


# ---------------------------------------------------------------------------------------------- lava-dl's networks


@pytest.mark.lava
@pytest.mark.parametrize("name", ["tiny.net", "mnist.net", "ntidigits"])
def test_networks_of_lava_dl(name: str, lava_environment: lava.Environment) -> None:
    """lava-dl's files and its inputs, written out and as a loop; `bench/onnx_runs.py` runs them on many."""
    (root,) = (lava_environment.python.parent.parent / "lib").glob("python*/site-packages/tests/lava/lib/dl/netx")
    (known,) = (known for known in NETWORKS if known.name == name)
    net = read.load(root / known.file, known.layers)
    stream = known.stream(root)[:150].reshape(1, -1, *net.input_shape)
    (trace,) = held_equal(net, stream)
    assert trace.spikes[net.layers[-2].name].any()
    if stream.shape[1] <= 32:
        held_equal(net, stream, unroll=False)


def test_the_bench_names_the_first_difference() -> None:
    """bench/onnx_runs.py counts values and says where the first one differs."""
    ours = np.zeros((2, 3, 4), np.uint8)
    theirs = ours.copy()
    theirs[1, 2, 3] = 1
    row = compare(Row("x", "chip", "", 1, 3, 2), iter([(10, {"conv1/spikes": (ours, theirs)})]))
    assert (row.values, row.differ, row.spikes) == (24, 1, {"conv1": 0})
    assert row.first == "conv1/spikes, sample 11, step 2, neuron (3,): 1 against 0"
