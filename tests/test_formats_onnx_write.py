"""ONNX files: standard operators, and ONNX Runtime finds every spike, voltage and score that the simulators find."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from branching import export as lowered
from branching import inputs
from conftest import ROOT, Command
from helpers import assert_same, chains, look_trained, rng_of, spiking_network, usually
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx_outputs import ran, standards
from varying import export as varying_stages
from varying import plain, raw_for

from snn2chip import data, ir
from snn2chip.errors import InputError, SetupError, UnsupportedError
from snn2chip.formats import netx
from snn2chip.formats.onnx import graph as onnx_graph
from snn2chip.formats.onnx import run as onnx_runtime
from snn2chip.formats.onnx import write as onnx_format
from snn2chip.ir.encode import encoder_of
from snn2chip.ir.interpreter import FloatTrace, evaluate
from snn2chip.ir.trace import Trace
from snn2chip.nn import LIF, AvgPool2d, Conv2d, Flatten, Linear, MaxPool2d, Residual, SpikingNetwork, TDBatchNorm
from snn2chip.passes.capture import capture
from snn2chip.passes.fold import fold
from snn2chip.simulate import reference
from snn2chip.simulate.dense import DenseEngine


def raw_input(chain: ir.Chain, samples: int, seed: int, *, extreme: bool = False) -> ir.IntArray:
    """Random raw input (N, T, ...): an image repeated, or spikes; any value or only the smallest and largest."""
    rng = rng_of(seed)
    steps = 1 if chain.coding == "direct" else chain.timesteps
    shape = (samples, steps, *chain.raw_shape)
    values = rng.choice([chain.low, chain.high], shape) if extreme else rng.integers(chain.low, chain.high + 1, shape)
    return np.repeat(values, chain.timesteps // steps, 1).astype(np.int64)


def held_equal(chain: ir.Chain, raw: ir.IntArray, **options: Any) -> Trace:
    """ONNX Runtime = both engines: every spike, voltage and score, of the same types."""
    found = onnx_runtime.run(chain, raw, threads=1, **options)
    port = chain.port(raw)
    dense = DenseEngine(chain).run(port)
    for wanted in (dense, reference.run(chain, port)):
        assert_same(replace(found, counts=wanted.counts, largest=wanted.largest), wanted)
    return dense


def nodes_of(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """All nodes, those of bodies too."""
    found = []
    for node in graph.node:
        found.append(node)
        for item in node.attribute:
            if item.type == onnx.AttributeProto.GRAPH:
                found += nodes_of(item.g)
    return found


# ---------------------------------------------------------------------------------------------------- integers


@settings(max_examples=usually(60), deadline=None)
@given(
    chain=chains(), seed=st.integers(0, 2**32 - 1), samples=st.integers(1, 4), extreme=st.booleans(),
    unroll=st.booleans(),
)  # fmt: skip
def test_random_chains(chain: ir.Chain, seed: int, samples: int, extreme: bool, unroll: bool) -> None:
    """Any geometry, decay, bias, threshold and readout, written out or as a loop."""
    held_equal(chain, raw_input(chain, samples, seed, extreme=extreme), unroll=unroll, batch_size=3)


def test_random_chains_wrap_clip_and_need_digits() -> None:
    """The chains above reach what is special: seeded, so that the property says something."""
    seen = dict.fromkeys(("wrap", "overflow", "clip", "kept current", "digits", "loop", "signed"), 0)

    @settings(max_examples=80, deadline=None, derandomize=True, database=None)
    @given(chain=chains(), seed=st.integers(0, 2**32 - 1))
    def visit(chain: ir.Chain, seed: int) -> None:
        port = chain.port(raw_input(chain, 2, seed, extreme=True))
        run = reference.run(chain, port)
        seen["signed"] += int(port.min() < 0)
        names = {node.name for node in nodes_of(onnx_format.build(chain).graph)}
        seen["digits"] += any("/digits" in name for name in names)
        seen["loop"] += any(node.op_type == "Loop" for node in onnx_format.build(chain, unroll=False).graph.node)
        for layer in chain.layers:
            seen["wrap"] += run.largest[layer.name] > 2**17
            seen["overflow"] += run.largest[layer.name] > 2**25
            seen["clip"] += int((np.abs(run.voltage[layer.name]) == 2**23 - 1).any())
            seen["kept current"] += layer.current_decay != 4096

    visit()
    assert min(seen.values()) >= 5, seen


@st.composite
def varying_chains(draw: st.DrawFn) -> ir.Chain:
    """Chains some of whose layers have tables in the place of constants, of any values that fit a file."""
    chain = draw(chains())
    rng = rng_of(draw(st.integers(0, 2**32 - 1)))
    layers = []
    for layer in chain.layers:
        if draw(st.booleans()):
            shape = (chain.timesteps, layer.shape[0])
            most = draw(st.sampled_from([2**8, 2**23 - 1]))
            steps = ir.StepTables(
                rng.integers(0, draw(st.sampled_from([2, 2**16])), shape),
                draw(st.sampled_from([0, 8, 15, 16])),
                rng.integers(-most, most + 1, shape),
                rng.integers(0, most + 1, shape),
                np.ones(layer.shape[0]),
            )
            layer = replace(layer, steps=steps)
        layers.append(layer)
    return replace(chain, layers=tuple(layers))


@settings(max_examples=usually(40), deadline=None)
@given(chain=varying_chains(), seed=st.integers(0, 2**32 - 1), extreme=st.booleans(), unroll=st.booleans())
def test_random_time_varying_chains(chain: ir.Chain, seed: int, extreme: bool, unroll: bool) -> None:
    """Tables of leak, lift and threshold, one row a step."""
    held_equal(chain, raw_input(chain, 2, seed, extreme=extreme), unroll=unroll)


@settings(max_examples=usually(25), deadline=None)
@given(chain=chains(), seed=st.integers(0, 2**32 - 1), limit=st.sampled_from([2, 40, 300, 5000]))
def test_digits_put_together_are_the_sums(chain: ir.Chain, seed: int, limit: int) -> None:
    """Weights and inputs in digits, as if float32 were exact up to `limit` only: the same, or refused by name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_format, "FLOAT32_EXACT", limit)
        try:
            held_equal(chain, raw_input(chain, 2, seed, extreme=True))
        except UnsupportedError as refused:
            assert "inputs a neuron" in str(refused) and limit <= 300


@pytest.mark.parametrize("bits", [1, 2, 4, 31])
def test_weight_digits(bits: int) -> None:
    """They add up, and each is as small as it says."""
    weight = np.arange(-256, 255)
    digits = onnx_format._weight_digits(weight, bits)
    assert np.array_equal(sum(digit << (bits * i) for i, digit in enumerate(digits)), weight)
    assert max(np.abs(digit).max() for digit in digits) < 2**bits


def test_beyond_float32_and_in_need_of_digits() -> None:
    """An image of 60,000 levels under 288 weights of 254: sums of 4e9, beyond 32 bits even, and the same in ONNX."""
    rng = rng_of(0)
    layer = ir.ChainLayer(
        "1", "conv", np.where(rng.random((3, 32, 3, 3)) < 0.5, -256, 254), rng.integers(-99, 99, (3, 4, 5)), (3, 4, 5),
        500, 3072, 100, padding=(1, 1),
    )  # fmt: skip
    chain = ir.Chain(
        (32, 4, 5), (32, 4, 5), "direct", 60000, 0, 60000, (30000,) * 31 + (0,), 4, "membrane", ("a",), (layer,)
    )
    raw = raw_input(chain, 2, 1, extreme=True)
    assert max(held_equal(chain, raw).largest.values()) > 2**24
    held_equal(chain, raw, unroll=False)


def edge_chain(weights: list[int], steps: ir.StepTables | None = None, **neuron: Any) -> ir.Chain:
    """One dense neuron a weight, all of the one pixel 0..60000."""
    matrix = np.array(weights)[:, None]
    bias = np.zeros(len(weights), np.int64)
    layer = ir.ChainLayer("1", "dense", matrix, bias, (len(weights),), 131071, 0, steps=steps, **neuron)
    return ir.Chain((1,), (1,), "direct", 60000, 0, 60000, (0,), 3, "membrane", ("a",), (layer,))


@pytest.mark.parametrize("unroll", [True, False])
def test_the_very_edges(unroll: bool) -> None:
    """u of just +-2^23 and one step beyond, of a current that lasts or does not; the lopsided wrap shows."""
    raw = np.repeat(np.array([1023, 1024, 1025, 2048, 3072])[:, None, None], 3, 1)
    for decay in (4096, 4095, 1):
        found = held_equal(edge_chain([128, -128, 127], current_decay=decay), raw, unroll=unroll)
        assert found.largest["1"] >= 2**17


@pytest.mark.parametrize("unroll", [True, False])
def test_voltages_far_beyond_32_bits_are_clipped(unroll: bool) -> None:
    """A leak of 218 takes v beyond 2^31 before it is clipped, where the int64 Clip of ONNX Runtime 1.31 fails."""
    leak = np.full((3, 4), 55746)
    tables = ir.StepTables(leak, 8, np.zeros((3, 4), np.int64), np.full((3, 4), 2**23 - 1), np.ones(4))
    raw = np.repeat(rng_of(0).integers(0, 60001, (40, 1, 1)), 3, 1)
    found = held_equal(edge_chain([-254, 254, -129, 100], tables), raw, unroll=unroll)
    assert (np.abs(found.voltage["1"]) == 2**23 - 1).any()


# ------------------------------------------------------------------------------------- trained networks, integers


def residual(coding: str = "direct", readout: str = "membrane", timesteps: int = 3) -> SpikingNetwork:
    """A stem, a residual block with a strided shortcut, max pooling, a dense layer."""
    body = torch.nn.Sequential(
        Conv2d(2, 4, 3, padding=1), TDBatchNorm(4), LIF(0.25, 0.5), Conv2d(4, 4, 3, padding=1),
        TDBatchNorm(4),
    )  # fmt: skip
    shortcut = torch.nn.Sequential(Conv2d(2, 4, 1), TDBatchNorm(4))
    layers: list[tuple[str, torch.nn.Module]] = [
        ("stem", Conv2d(2, 2, 3, padding=1)),
        ("norm0", TDBatchNorm(2)),
        ("lif0", LIF(0.25, 0.5)),
        ("block", Residual(body, shortcut)),
        ("lif1", LIF(0.25, 0.5)),
        ("pool", MaxPool2d(2)),
        ("flatten", Flatten()),
        ("dense", Linear(36, 3)),
    ]
    if readout == "spike_count":
        layers.append(("lif2", LIF(0.5, 0.3)))
    network = spiking_network(layers, (2, 6, 6), timesteps=timesteps, coding=coding, readout=readout)
    look_trained(network, 3)
    return network


@pytest.mark.parametrize(("coding", "readout"), [("direct", "membrane"), ("poisson", "spike_count")])
def test_residual_networks_with_relays(coding: str, readout: str) -> None:
    """Relays are layers' channels like others, and named with them."""
    network = residual(coding, readout)
    stages = lowered(network)
    names = onnx_format.labels(stages.chain)
    assert any(".relay" in name and "+" in name for name in names.values()), names
    raw = inputs(capture(network), 3, 0)
    assert sum(int(spikes.sum()) for spikes in held_equal(stages.chain, raw).spikes.values()) > 0
    held_equal(stages.chain, raw, unroll=False)


def test_a_bntt_network() -> None:
    """Trained BNTT, folded into tables, quantized."""
    network = plain(4)
    stages = varying_stages(network)
    assert not stages.chain.stock
    held_equal(stages.chain, raw_for(network, 3))
    held_equal(stages.chain, raw_for(network, 3), unroll=False)


def small_chain(timesteps: int = 3, *, coding: str = "poisson", readout: str = "membrane") -> ir.Chain:
    """lif1 (conv) and lif2 (dense), with names and gentle numbers."""
    rng = rng_of(1)
    conv = ir.ChainLayer(
        "1", "conv", rng.integers(-9, 10, (2, 1, 3, 3)), np.zeros((2, 4, 4), np.int64), (2, 4, 4), 6, 3072,
        padding=(1, 1), origin={"lif1": (0, 2)},
    )  # fmt: skip
    dense = ir.ChainLayer(
        "3", "dense", rng.integers(-9, 10, (3, 32)), rng.integers(-5, 5, 3), (3,), 131071, 0, flatten=True,
        origin={"lif2": (0, 3)},
    )  # fmt: skip
    high = 1 if coding == "poisson" else 255
    return ir.Chain(
        (1, 4, 4), (1, 4, 4), "direct" if coding == "direct" else "poisson", 255, 0, high, (100 * (high > 1),),
        timesteps, "membrane" if readout == "membrane" else "spike_count", ("cat", "Hund", "猫"), (conv, dense),
        {"snn2chip": "x", "scales": {"1": 2.0}},
    )  # fmt: skip


@pytest.mark.parametrize("readout", ["membrane", "spike_count"])
@pytest.mark.parametrize("coding", ["direct", "poisson"])
def test_many_steps_are_a_loop(coding: str, readout: str) -> None:
    """Beyond the limit the file no longer grows, and computes the same."""
    few, most = (small_chain(n, coding=coding, readout=readout) for n in (onnx_format.UNROLL_MOST, 1024))
    assert not any(node.op_type == "Loop" for node in onnx_format.build(few).graph.node)
    made = onnx_format.build(most, trace=True)
    assert sum(node.op_type == "Loop" for node in made.graph.node) == 1
    assert len(nodes_of(made.graph)) < 60
    longer = onnx_format.build(small_chain(40, coding=coding, readout=readout), trace=True)
    assert abs(len(made.SerializeToString()) - len(longer.SerializeToString())) < 200
    for chain in (few, small_chain(40, coding=coding, readout=readout)):
        held_equal(chain, raw_input(chain, 2, 0))


def test_names_shapes_and_metadata() -> None:
    """One can read it: every node is named by its layer and step, and standard operators are all there is."""
    chain = small_chain(3)
    model = onnx_format.build(chain, trace=True)
    onnx.checker.check_model(model, full_check=True)
    names = [node.name for node in nodes_of(model.graph)]
    assert all(names) and len(set(names)) == len(names)
    assert {"lif1/conv", "lif1/sums", "lif1/step2/spikes", "lif1/step3/voltage", "lif2/dense"} <= set(names)
    assert {node.domain for node in nodes_of(model.graph)} == {""}
    assert [(item.domain, item.version) for item in model.opset_import] == [("", onnx_graph.OPSET)]

    def shape(port: onnx.ValueInfoProto) -> tuple[str, list[int | str], int]:
        tensor = port.type.tensor_type
        return port.name, [side.dim_param or side.dim_value for side in tensor.shape.dim], tensor.elem_type

    assert [shape(port) for port in model.graph.input] == [("spikes", ["N", 3, 1, 4, 4], onnx.TensorProto.UINT8)]
    assert [shape(port) for port in model.graph.output] == [
        ("scores", ["N", 3], onnx.TensorProto.INT64),
        ("lif1/spikes", ["N", 3, 2, 4, 4], onnx.TensorProto.UINT8),
        ("lif1/voltage", ["N", 3, 2, 4, 4], onnx.TensorProto.INT32),
        ("lif2/spikes", ["N", 3, 3], onnx.TensorProto.UINT8),
        ("lif2/voltage", ["N", 3, 3], onnx.TensorProto.INT32),
    ]
    assert [port.name for port in onnx_format.build(chain).graph.output] == ["scores"]
    held = {item.key: item.value for item in model.metadata_props}
    assert (held["timesteps"], held["readout"], held["coding"]) == ("3", "membrane", "poisson")
    assert json.loads(held["classes"]) == list(chain.classes)
    assert json.loads(held["made"]) == chain.made
    assert json.loads(held["layers"])["3"] == {"label": "lif2", "origin": {"lif2": [0, 3]}}
    assert "scores" in model.doc_string and model.producer_name == "snn2chip"
    read = {name for node in nodes_of(model.graph) for name in node.input}
    assert read >= {item.name for item in model.graph.initializer}
    given_away = {port.name for port in model.graph.output}
    assert read | given_away >= {name for node in model.graph.node for name in node.output}
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    typed = {value.name for value in inferred.graph.value_info}
    assert {"lif1/conv", "lif1/step2/spikes"} <= typed


def test_layers_that_share_a_name_or_have_none() -> None:
    """Names stay different."""
    chain = small_chain()
    twice = replace(chain, layers=tuple(replace(layer, origin={"lif": (0, 1)}) for layer in chain.layers))
    assert onnx_format.labels(twice) == {"1": "lif", "3": "lif@3"}
    none = replace(chain, layers=tuple(replace(layer, origin={}) for layer in chain.layers))
    assert onnx_format.labels(none) == {"1": "layer1", "3": "layer3"}
    for odd in (twice, none):
        held_equal(odd, raw_input(odd, 2, 0))


@pytest.mark.parametrize("unroll", [True, False])
def test_any_batch(unroll: bool) -> None:
    """One session takes any number of samples, one after the other."""
    chain = small_chain(coding="direct")
    session = onnx_runtime.session(onnx_format.build(chain, unroll=unroll), 1)
    raw = raw_input(chain, 7, 5)
    wanted = DenseEngine(chain).run(chain.port(raw)).scores
    for samples in (3, 1, 7):
        (scores,) = session.run(["scores"], {"images": raw[:samples, 0].astype(np.uint8)})
        assert scores.dtype == np.int64
        np.testing.assert_array_equal(scores, wanted[:samples])


def test_the_standards_own_evaluator_agrees() -> None:
    """Not only ONNX Runtime reads the operators so: the reference evaluator of the onnx package, too."""
    chain = small_chain(coding="direct")
    raw = raw_input(chain, 2, 8)
    wanted = DenseEngine(chain).run(chain.port(raw))
    found = standards(onnx_format.build(chain, trace=True), raw[:, 0])
    np.testing.assert_array_equal(found["scores"], wanted.scores)
    for number, label in (("1", "lif1"), ("3", "lif2")):
        np.testing.assert_array_equal(found[f"{label}/spikes"], wanted.spikes[number])
        np.testing.assert_array_equal(found[f"{label}/voltage"], wanted.voltage[number])
    found = standards(onnx_format.build(chain, unroll=False), raw[:, 0])
    np.testing.assert_array_equal(found["scores"], wanted.scores)


# ------------------------------------------------------------------------------------------------------- float


def float_cases() -> list[SpikingNetwork]:
    """tdBN with an average pooling and odd strides, residual, BNTT; direct and Poisson; both readouts."""
    layers: list[tuple[str, torch.nn.Module]] = [
        ("conv1", Conv2d(2, 4, 3, stride=2, padding=1)),
        ("norm1", TDBatchNorm(4)),
        ("lif1", LIF(0.25, 0.5)),
        ("pool", AvgPool2d(2)),
        ("conv2", Conv2d(4, 4, 3, padding=1, groups=2, bias=False)),
        ("norm2", TDBatchNorm(4)),
        ("lif2", LIF(0.5, 0.5)),
        ("flatten", Flatten()),
        ("dense", Linear(16, 3)),
    ]
    pooled = spiking_network(layers, (2, 8, 8), timesteps=4)
    look_trained(pooled, 5)
    counted = plain(3, coding="poisson", readout="spike_count")
    return [pooled, residual(), residual("poisson", "spike_count"), plain(4), counted]


def float_outputs(network: ir.Network, found: dict[str, NDArray[Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
    names = [node.name for node in network.of(ir.LIF)]
    return {n: found[f"{n}/spikes"] for n in names}, {n: found[f"{n}/membrane"] for n in names}


def float_given(network: ir.Network, raw: ir.IntArray) -> NDArray[Any]:
    return raw[:, 0] if network.input.coding == "direct" else raw


@pytest.mark.parametrize("case", range(5))
def test_float64_by_the_standards_evaluator(case: int) -> None:
    """The folded network's graph says what the float64 reference says: every spike, membranes but for rounding."""
    folded, _ = fold(capture(float_cases()[case]))
    raw = inputs(folded, 3, case)
    wanted = evaluate(folded, raw)
    found = standards(onnx_format.build_float(folded, trace=True, double=True), float_given(folded, raw))
    spikes, membranes = float_outputs(folded, found)
    for name, fired in wanted.spikes.items():
        np.testing.assert_array_equal(spikes[name], fired.numpy(), err_msg=name)
        largest = max(1.0, float(wanted.membranes[name].abs().max()))
        np.testing.assert_allclose(membranes[name], wanted.membranes[name].numpy(), rtol=0, atol=1e-9 * largest)
    largest = max(1.0, float(wanted.scores.abs().max()))
    looped = standards(onnx_format.build_float(folded, unroll=False, double=True), float_given(folded, raw))
    for scores in (found["scores"], looped["scores"]):
        np.testing.assert_allclose(scores, wanted.scores.flatten(1).numpy(), rtol=0, atol=1e-9 * largest)
    assert sum(int(fired.sum()) for fired in wanted.spikes.values()) > 0


FLOAT32 = 1e-5  # of the largest membrane or score of a layer


def agreeing(network: ir.Network, raw: ir.IntArray, found: dict[str, NDArray[Any]], wanted: FloatTrace) -> int:
    """Samples all of whose spikes are float64's; their membranes and scores are within `FLOAT32`.

    In any other sample, the first neurons that differ were within `FLOAT32` of their threshold.
    """
    spikes, membranes = float_outputs(network, found)
    same = np.ones(len(raw), dtype=bool)
    for name, fired in wanted.spikes.items():
        differs = spikes[name].astype(bool) != fired.numpy()
        gap = np.abs(membranes[name] - wanted.membranes[name].numpy())
        allowed = FLOAT32 * max(1.0, float(wanted.membranes[name].abs().max()))
        for sample in np.flatnonzero(same):  # earlier layers say the same
            steps = np.flatnonzero(differs[sample].reshape(len(differs[sample]), -1).any(1))
            until = len(differs[sample]) if not len(steps) else steps[0] + 1
            assert gap[sample, :until].max() <= allowed, name
            same[sample] = not len(steps)
    bound = FLOAT32 * max(1.0, float(wanted.scores.abs().max()))
    assert np.abs(found["scores"] - wanted.scores.flatten(1).numpy())[same].max(initial=0) <= bound
    return int(same.sum())


@pytest.mark.parametrize("unroll", [True, False])
@pytest.mark.parametrize("case", range(5))
def test_float32_in_onnx_runtime(case: int, unroll: bool) -> None:
    """float32 as documented: within 1e-5 until a neuron at its threshold fires otherwise, which hardly one does."""
    folded, _ = fold(capture(float_cases()[case]))
    raw = inputs(folded, 20, case)
    made = onnx_format.build_float(folded, trace=True, unroll=unroll)
    found = ran(made, float_given(folded, raw))
    assert found["scores"].dtype == np.float32
    assert agreeing(folded, raw, found, evaluate(folded, raw)) >= 18


def test_only_folded_networks() -> None:
    """A captured network is not what runs anywhere."""
    with pytest.raises(InputError, match=r"folded network, not of a captured one"):
        onnx_format.build_float(capture(plain(2)))


# -------------------------------------------------------------------------------------------- files and commands


@pytest.fixture(scope="module")
def shipped(cli: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the shipped digits-tdbn exported by the commands: model.net, .onnx of it and of the float."""
    folder = tmp_path_factory.mktemp("shipped")
    model = ROOT / "models" / "digits-tdbn" / "model.pt"
    cli("fold-and-export", model, "-o", folder / "model.net", "--calibration", "64").ok()
    printed = cli("export", folder / "model.net", "--format", "onnx").ok()
    assert f"wrote {folder / 'model.onnx'}" in printed and "exactly" in printed
    cli("export", model, "-o", folder / "float.onnx", "--trace").ok()
    return folder


def test_the_shipped_model_on_120_samples(shipped: Path) -> None:
    """Images in, the simulator's scores out; the whole trace on a few."""
    chain = netx.load(shipped / "model.net")
    images = data.load("digits", "test").subset(120)
    raw = encoder_of(chain)(images.images)
    wanted = DenseEngine(chain).run(chain.port(raw)).scores
    scores = ran(onnx.load(shipped / "model.onnx"), images.images.numpy())["scores"]
    np.testing.assert_array_equal(scores, wanted)
    assert np.mean(scores.argmax(1) == images.labels.numpy()) > 0.95
    held_equal(chain, raw[:5])
    held_equal(chain, raw[:3], unroll=False)


def test_the_shipped_model_in_float32(shipped: Path) -> None:
    """The folded float network: all decisions of 120 samples are float64's."""
    from snn2chip.nn import model_file

    model = model_file.load(ROOT / "models" / "digits-tdbn" / "model.pt")
    folded, _ = fold(capture(model.network, model.classes))
    images = data.load("digits", "test").subset(120)
    raw = encoder_of(folded)(images.images)
    found = ran(onnx.load(shipped / "float.onnx"), images.images.numpy())
    wanted = evaluate(folded, raw)
    assert agreeing(folded, raw, found, wanted) >= 110
    np.testing.assert_array_equal(found["scores"].argmax(1), wanted.scores.argmax(1).numpy())


def test_traced_by_the_command(shipped: Path, tmp_path: Path, cli: Command) -> None:
    """--trace adds every layer's spikes and voltages."""
    cli("export", shipped / "model.net", "-o", tmp_path / "traced.onnx", "--trace").ok()
    names = [port.name for port in onnx.load(tmp_path / "traced.onnx").graph.output]
    chain = netx.load(shipped / "model.net")
    called = onnx_format.labels(chain).values()
    assert names == ["scores", *(f"{label}/{kind}" for label in called for kind in ("spikes", "voltage"))]
    assert [port.name for port in onnx.load(shipped / "model.onnx").graph.output] == ["scores"]


def test_commands_that_cannot_be(shipped: Path, tmp_path: Path, cli: Command) -> None:
    """Bad input is one line and exit code 2, and leaves no file."""
    net = tmp_path / "model.net"
    net.write_bytes((shipped / "model.net").read_bytes())
    cli("export", net, "-o", net).refused("is the network itself")
    cli("export", tmp_path / "nothing.net").refused("nothing.net")
    (tmp_path / "text.net").write_text("no network")
    cli("export", tmp_path / "text.net").refused("text.net")
    assert cli("export", net, "--format", "pickle").code == 2
    cli("export", net, "-o", tmp_path).refused("it is a folder")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.net", "text.net"]


def test_verify_climbs_to_onnx(shipped: Path, tmp_path: Path, cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """--onnx adds a rung, which names what differs; without it there is none."""
    model, written = ROOT / "models" / "digits-tdbn" / "model.pt", tmp_path / "verify.json"
    arguments = ("verify", model, shipped / "model.net", "--samples", "4", "--no-lava", "--json", written)

    def rungs() -> dict[str, Any]:
        return {rung["name"]: rung for rung in json.loads(written.read_text())["rungs"]}

    cli(*arguments).ok()
    assert "dense = ONNX Runtime" not in rungs()
    cli(*arguments, "--onnx").ok()
    rung = rungs()["dense = ONNX Runtime"]
    assert rung["passed"] and rung["mismatches"] == 0 and rung["compared"] > 10000
    honest = onnx_runtime.run

    def wrong(chain: ir.Chain, raw: ir.IntArray) -> Trace:
        found = honest(chain, raw)
        found.voltage[chain.layers[0].name][3, 1].flat[7] += 1
        return found

    monkeypatch.setattr(onnx_runtime, "run", wrong)
    cli(*arguments, "--onnx").refused("dense = ONNX Runtime", "sample 3", code=1)
    assert rungs()["dense = ONNX Runtime"]["mismatches"] == 1


def forget_onnx(patch: pytest.MonkeyPatch) -> None:
    """As if nothing that needs the package had been imported, and the package were not there."""
    import snn2chip.formats

    for name in list(sys.modules):
        if name.startswith("snn2chip.formats.onnx"):
            patch.delitem(sys.modules, name)
            patch.delattr(snn2chip.formats, name.rpartition(".")[2], raising=False)
    patch.setitem(sys.modules, "onnx", None)


def test_without_the_package(shipped: Path, tmp_path: Path, cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """onnx is optional: who lacks it is told what to install."""
    forget_onnx(monkeypatch)
    remedy = "pip install 'snn2chip[onnx]'"
    cli("export", shipped / "model.net", "-o", tmp_path / "x.onnx").refused("onnx", remedy)
    model = ROOT / "models" / "digits-tdbn" / "model.pt"
    cli("verify", model, shipped / "model.net", "--no-lava", "--onnx").refused("onnx", remedy)
    cli("import", shipped / "float.onnx", "--dataset", "digits", "-o", tmp_path / "x").refused("onnx", remedy)
    assert not list(tmp_path.iterdir())


def test_without_the_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(SetupError, match=r"pip install 'snn2chip\[onnx\]'"):
        onnx_runtime.session(onnx_format.build(small_chain()))


def test_what_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inputs that the graph itself could not refuse, and files beyond protobuf's 2 GB."""
    chain = small_chain(coding="direct")
    raw = raw_input(chain, 2, 0)
    with pytest.raises(InputError, match=r"2 time steps of input, but the ONNX file runs 3"):
        onnx_runtime.run(chain, raw[:, :2])
    moving = raw.copy()
    moving[1, 2, 0, 0, 0] ^= 1
    with pytest.raises(InputError, match=r"changes over time"):
        onnx_runtime.run(chain, moving)
    with pytest.raises(InputError, match=r"exceed the network's 0..255"):
        onnx_runtime.run(chain, raw + 256)
    with pytest.raises(InputError, match=r"does not end in the network's"):
        onnx_runtime.run(chain, raw[..., :2])
    table = np.ones((2, 2), np.int64)
    few = ir.StepTables(table, 0, table, table, np.ones(2))
    with pytest.raises(InputError, match=r"layer '1': 3 time steps of input, but tables of 2"):
        onnx_format.build(replace(chain, layers=(replace(chain.layers[0], steps=few), chain.layers[1])))
    monkeypatch.setattr(onnx_graph, "MOST_BYTES", 100)
    with pytest.raises(InputError, match=r"bytes of constants; an ONNX file holds at most 100"):
        onnx_format.build(chain)


def test_a_file_is_whole_or_absent(tmp_path: Path) -> None:
    """Written under another name first; the folder is made."""
    target = tmp_path / "new" / "small.onnx"
    onnx_format.save(target, small_chain())
    assert [path.name for path in target.parent.iterdir()] == ["small.onnx"]
    assert onnx.load(target).graph.name == "integers"
    folded, _ = fold(capture(plain(2)))
    onnx_format.save(target, folded, trace=True, unroll=False)
    assert onnx.load(target).graph.name == "folded"


def test_what_is_written_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that differs from what was to be written does not take the old one's place."""
    path = tmp_path / "m.onnx"
    onnx_format.save(path, small_chain(3))
    old = path.read_bytes()
    monkeypatch.setattr(onnx, "load", lambda _: onnx.ModelProto())
    with pytest.raises(InputError, match=f"'{path}' is not written, what was read back differs"):
        onnx_format.save(path, small_chain(4))
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [old]
