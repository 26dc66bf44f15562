"""NIR: what is written means the same spikes by NIR's own equations, and comes back as it was; what is not, by name."""

from __future__ import annotations

import functools
import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from branching import Drawn, branching, inputs
from conftest import Command
from helpers import assert_equal, images_for, look_trained, rng_of, spiking_network, usually
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nir_reading import conv, convert, dense, eighths, flat, foreign, lif, load
from torch.nn import functional as F

from snn2chip import chip, ir
from snn2chip.cli.export import write_nir
from snn2chip.errors import InputError, SetupError, UnsupportedError
from snn2chip.formats import nir as ours
from snn2chip.formats.nir import algebra
from snn2chip.ir.encode import encoder_of
from snn2chip.ir.interpreter import evaluate
from snn2chip.nn import BNTT, LIF, Conv2d, Flatten, Linear, TDBatchNorm
from snn2chip.passes.capture import capture
from snn2chip.passes.fold import fold
from snn2chip.passes.lower import lower
from snn2chip.passes.quantize import quantize
from snn2chip.passes.schedule import schedule

nir = pytest.importorskip("nir")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:nir")
ROOT = Path(__file__).resolve().parent.parent


def example(tau: float = 0.5, seed: int = 0, readout: str = "membrane") -> ir.Network:
    """Everything that a folded network may hold; sums are exact, and membranes meet thresholds exactly."""
    rng = rng_of(seed)
    center = np.array([1, 2])
    nodes: list[ir.Node] = [
        ir.Input("input", (), (2, 8, 8), "direct", 3, 0, 3, center, np.ones(2), np.zeros(2)),
        ir.Conv("conv1", ("input",), eighths(rng, 6, 2, 3, 3), eighths(rng, 6, 8, 8), padding=(1, 1)),
        ir.LIF("lif1", ("conv1",), tau, 0.5),
        ir.Conv("block.conv2", ("lif1",), eighths(rng, 6, 3, 3, 1), None, padding=(1, 0), groups=2),
        ir.Conv("block.shortcut", ("lif1",), eighths(rng, 6, 1, 1, 1), eighths(rng, 6, 8, 8), groups=6),
        ir.Add("block.add", ("block.conv2", "block.shortcut")),
        ir.LIF("block.lif2", ("block.add",), tau, 0.5),
        ir.Conv("conv3", ("block.lif2",), eighths(rng, 8, 6, 2, 2), eighths(rng, 8), stride=(2, 2)),
        ir.LIF("train", ("conv3",), tau, 0.75),
        ir.Flatten("flatten", ("train",)),
        ir.Dense("dense1", ("flatten",), eighths(rng, 20, 128, top=2), None),
        ir.LIF("lif4", ("dense1",), tau, 0.5),
    ]
    if readout == "membrane":
        nodes += [
            ir.Dense("dense2", ("lif4",), eighths(rng, 4, 20), eighths(rng, 4)),
            ir.Dense("skip", ("flatten",), eighths(rng, 4, 128), None),
            ir.Add("last", ("dense2", "skip")),
            ir.Readout("readout", ("last",), "membrane"),
        ]
    else:
        nodes.append(ir.Readout("readout", ("lif4",), "spike_count"))
    return ir.Network("folded", 4, ("a", "b", "ç", "d"), tuple(nodes))


def euler(graph: Any, port: np.ndarray, dt: float) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """NIR's equations by forward Euler, in float64, for port (N, T, ...): spikes by node, and the output."""
    into: dict[str, list[str]] = {name: [] for name in graph.nodes}
    for source, target in graph.edges:
        into[target].append(source)
    state: dict[str, Any] = {}
    spikes: dict[str, list[Any]] = {}
    outputs = []

    def value(name: str, step: int, done: dict[str, Any]) -> Any:
        if name in done:
            return done[name]
        node = graph.nodes[name]
        x = torch.from_numpy(port[:, step]) if not into[name] else sum(value(n, step, done) for n in into[name])
        kind = type(node).__name__
        if kind == "Conv2d":
            weight, bias = torch.from_numpy(node.weight), torch.from_numpy(node.bias)
            geometry = [tuple(int(i) for i in pair) for pair in (node.stride, node.padding, node.dilation)]
            x = F.conv2d(x, weight, bias, *geometry, int(node.groups))
        elif kind in ("Affine", "Linear"):
            x = F.linear(x, torch.from_numpy(node.weight))
            x = x + torch.from_numpy(node.bias) if kind == "Affine" else x
        elif kind == "Flatten":
            x = x.flatten(int(node.start_dim), int(node.end_dim))
        elif kind in ("LIF", "IF", "I"):
            leak = 1 - dt / torch.from_numpy(node.tau) if kind == "LIF" else torch.ones(())
            gain = dt * torch.from_numpy(node.r) / (torch.from_numpy(node.tau) if kind == "LIF" else 1)
            assert torch.allclose(gain, torch.ones_like(gain), rtol=1e-14)
            v = leak * state.get(name, torch.zeros(())) + x  # with the gain of 1 that it is but for its last bit
            if kind == "I":
                x = state[name] = v
            else:
                assert not node.v_reset.any() and not getattr(node, "v_leak", np.zeros(1)).any()
                fired = v > torch.from_numpy(node.v_threshold)
                state[name] = v.masked_fill(fired, 0)
                spikes.setdefault(name, []).append(fired)
                x = fired.double()
        done[name] = x
        return x

    for step in range(port.shape[1]):
        (output,) = graph.outputs
        outputs.append(value(output, step, {}))
    return {name: torch.stack(steps, 1).numpy() for name, steps in spikes.items()}, torch.stack(outputs, 1).numpy()


def raw_input(network: ir.Network, samples: int, seed: int = 0) -> np.ndarray:
    source = network.input
    return rng_of(seed).integers(source.low, source.high + 1, (samples, network.timesteps, *source.shape))


def same_spikes(network: ir.Network, graph: Any, raw: np.ndarray, *, summed: bool = False) -> int:
    """By NIR's equations and by ours; how many membranes stood exactly at the threshold."""
    spikes, output = euler(graph, network.input.port(raw).astype(np.float64), float(graph.metadata["dt"]))
    wanted = evaluate(network, raw)
    called = {str(node.metadata.get("name")): name for name, node in graph.nodes.items()}
    assert len(spikes) == len(wanted.spikes)
    for name, fired in wanted.spikes.items():
        np.testing.assert_array_equal(spikes[called[name]], fired.numpy(), err_msg=name)
    scores = output[:, -1] if summed else output.sum(1)
    np.testing.assert_allclose(scores, wanted.scores.numpy(), rtol=1e-12, atol=1e-12)
    levels = {node.name: node.threshold for node in network.of(ir.LIF)}
    return sum(int((volts == levels[name]).sum()) for name, volts in wanted.membranes.items())


# ------------------------------------------------------------------------------------------------- there and back


@pytest.mark.parametrize("tau", [0.0, 0.25, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("readout", ["membrane", "spike_count"])
def test_it_comes_back_as_it_was(tmp_path: Path, tau: float, readout: str) -> None:
    """Arrays, constants, names, order and metadata; through a file and in memory; with every option."""
    network = example(tau, readout=readout)
    options_of: list[dict[str, Any]] = [{}]
    if readout == "membrane" and tau in (0.25, 1.0):
        options_of += [{"integrator": True}, {"unit_resistance": True}, {"dt": 1e-3}]
    for options in options_of:
        ours.save(tmp_path / "a.nir", network, **options)
        assert_equal(load(tmp_path / "a.nir"), network)
    assert_equal(convert(ours.build(network)), network)


@pytest.mark.parametrize("tau", [0.25, 0.5, 1.0])
def test_the_file_means_the_same_spikes(tmp_path: Path, tau: float) -> None:
    """As others read it, with the nir package's own checks; membranes at the threshold do not fire."""
    network = example(tau)
    ours.save(tmp_path / "a.nir", network)
    assert same_spikes(network, nir.read(tmp_path / "a.nir"), raw_input(network, 3)) > 50
    ours.save(tmp_path / "a.nir", network, integrator=True)
    same_spikes(network, nir.read(tmp_path / "a.nir"), raw_input(network, 3), summed=True)


@settings(max_examples=usually(25), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(branching())
def test_random_branching_networks(drawn: Drawn) -> None:
    """Any folded network, as it is after training: the same spikes, the same arrays back."""
    captured = capture(drawn.network)
    folded, _ = fold(captured)
    try:
        graph = ours.build(folded)
    except UnsupportedError as error:  # images that are not square
        assert "square" in str(error)
        return
    assert_equal(convert(graph), folded)
    same_spikes(folded, graph, inputs(folded, 2, drawn.seed))


def test_a_trained_network_can_be_quantized_from_its_file(tmp_path: Path) -> None:
    """digits-tdbn: the digits' spikes by NIR's equations; the loaded network gives the same integers."""
    path = write_nir(ROOT / "models" / "digits-tdbn" / "model.pt", tmp_path / "digits.nir")
    loaded = load(path)
    raw = encoder_of(loaded)(rng_of(0).integers(0, 17, (2, 1, 8, 8)))
    same_spikes(loaded, nir.read(path), raw)
    profile = chip.load("loihi2")
    plan = schedule(loaded, profile)
    quantized, _ = quantize(loaded, profile, plan)
    chain, _ = lower(quantized, profile, plan)
    assert len(chain.layers) == len(loaded.of(ir.LIF)) + 1 and chain.classes == loaded.classes


def test_poisson_input_and_images_without_padding() -> None:
    """Binary spikes have no centre; a convolution without padding has one bias a channel, which NIR holds itself."""
    layers = [("conv", Conv2d(2, 3, 3)), ("norm", TDBatchNorm(3)), ("lif", LIF()), ("flat", Flatten())]
    for coding in ("direct", "poisson"):
        network = spiking_network([*layers, ("dense", Linear(108, 3))], (2, 8, 8), coding=coding)
        look_trained(network, 3)
        folded, _ = fold(capture(network))
        graph = ours.build(folded)
        assert [type(node).__name__ for node in graph.nodes.values()].count("Conv2d") == 1
        assert_equal(convert(graph), folded)
        assert graph.metadata["coding"] == coding
        raw = encoder_of(folded)(images_for(network, 2).numpy())
        same_spikes(folded, graph, raw)


def test_metadata_says_what_nir_cannot(tmp_path: Path) -> None:
    """The documented entries of the graph, as plain values that h5py reads."""
    ours.save(tmp_path / "a.nir", example())
    metadata = nir.read(tmp_path / "a.nir").metadata
    assert metadata["timesteps"] == 4 and metadata["dt"] == 1e-4 and metadata["coding"] == "direct"
    assert metadata["center"].tolist() == [1, 2] and (metadata["low"], metadata["high"]) == (0, 3)
    assert metadata["readout"] == "membrane" and json.loads(metadata["classes"]) == ["a", "b", "ç", "d"]
    assert json.loads(metadata["order"])[5] == "block.add" and metadata["snn2chip_version"]


def test_names_are_ones_that_readers_take() -> None:
    """Letters, digits and underscores, none twice, none that a torch module has already."""
    names = ours.build(example()).nodes
    assert all(name.replace("_", "a").isalnum() and name.isascii() for name in names)
    assert "block_conv2" in names and "train" not in names
    odd = replace_node(example(), "lif1", lambda node: replace(node, name="a/b"), {"lif1": "a/b"})
    odd = replace_node(odd, "conv3", lambda node: replace(node, name="a.b"), {"conv3": "a.b"})
    assert_equal(convert(ours.build(odd)), odd)


def replace_node(
    network: ir.Network, name: str, change: Callable[[Any], ir.Node], renamed: dict[str, str] | None = None
) -> ir.Network:
    """The network with one node changed, and what reads it following its new name."""
    nodes = [change(node) if node.name == name else node for node in network.nodes]
    called = renamed or {}
    nodes = [replace(node, inputs=tuple(called.get(source, source) for source in node.inputs)) for node in nodes]
    return network.with_nodes(network.stage, nodes)


# ------------------------------------------------------------------------------------------------------ the algebra


@given(
    tau=st.floats(0, 1), threshold=st.floats(2**-20, 2**20), dt=st.sampled_from([1e-4, 1e-3, 1.0]), unit=st.booleans()
)
def test_the_neuron_there_and_back(tau: float, threshold: float, dt: float, unit: bool) -> None:
    """leak, gain and threshold follow from the continuous constants, for every tau; exactly where gain is 1."""
    made = algebra.continuous("lif", tau, threshold, dt, unit_resistance=unit)
    if made.tau is not None and unit and 1 - tau < 1e-9:
        return  # a threshold of (1 - tau) Vth has no digits left
    tau_of = None if made.tau is None else np.array(made.tau)
    leak, gain = algebra.discrete(tau_of, np.array(made.resistance), dt)
    level = made.threshold / gain
    assert abs(leak - tau) <= 2**-52 and abs(gain - (1 - tau if unit and made.tau is not None else 1)) < 2e-6
    assert level == threshold if not unit or tau == 1 else abs(level / threshold - 1) < 3e-6


@pytest.mark.parametrize("dt", [1e-4, 1e-3, 1.0])
def test_usual_leaks_are_exact(dt: float) -> None:
    """1 - dt / tau gives leaks in eighths to the last bit, and all that vDecay can say to the last bit of 1."""
    for decay in range(4096):
        tau = decay / 4096
        made = algebra.continuous("lif", tau, 0.5, dt)
        assert made.tau is not None
        assert abs(1 - dt / made.tau - tau) <= (0 if decay % 512 == 0 else 2**-52)


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[ir.Conv, ir.Shape]:
    """Any geometry that fits its image."""
    groups = draw(st.integers(1, 3))
    shape = (groups * draw(st.integers(1, 2)), draw(st.integers(1, 8)), draw(st.integers(1, 8)))
    sides = [draw(st.integers(1, 4)) for _ in range(2)]
    pairs = [(draw(st.integers(low, 2)), draw(st.integers(low, 2))) for low in (1, 0, 1)]
    rng = rng_of(draw(st.integers(0, 1000)))
    weight = eighths(rng, groups * draw(st.integers(1, 2)), shape[0] // groups, *sides)
    return ir.Conv("conv", ("input",), weight, None, pairs[0], pairs[1], pairs[2], groups), shape


def conv2d(conv: ir.Conv, image: np.ndarray) -> np.ndarray:
    weight = torch.from_numpy(conv.weight.copy())
    x = torch.from_numpy(image)[None]
    return F.conv2d(x, weight, None, conv.stride, conv.padding, conv.dilation, conv.groups)[0].numpy()


@settings(max_examples=usually(200), deadline=None)
@given(convolutions())
def test_packing_a_convolution(drawn: tuple[ir.Conv, ir.Shape]) -> None:
    """Square and ungrouped it makes the same pixels; unpacked it is the same convolution."""
    conv, shape = drawn
    try:
        ir.output_shape(conv, shape)
    except InputError:
        return
    try:
        packed, packing = algebra.pack(conv, shape)
    except UnsupportedError as error:
        assert "'conv'" in str(error) and "square kernel" in str(error) and conv.weight.shape[2] != conv.weight.shape[3]
        return
    assert packed.groups == 1 and packed.weight.shape[2] == packed.weight.shape[3]
    image = eighths(rng_of(1), *shape)
    np.testing.assert_array_equal(conv2d(packed, image), conv2d(conv, image))
    again = algebra.unpack(packed, packing)
    np.testing.assert_array_equal(again.weight, conv.weight)
    assert (again.groups, again.padding, again.stride) == (conv.groups, conv.padding, conv.stride)


@given(channels=st.integers(1, 3), height=st.integers(1, 6), width=st.integers(1, 6))
def test_a_bias_of_every_neuron_is_a_kernel(channels: int, height: int, width: int) -> None:
    """One pixel of value 1 spreads to the map, bit for bit; images of odd by even sides are refused by name."""
    bias = rng_of(height).standard_normal((channels, height, width))
    try:
        kernel, padding = algebra.bias_kernel("conv", bias)
    except UnsupportedError as error:
        assert (height + width) % 2 and "'conv'" in str(error) and "square images" in str(error)
        return
    made = conv2d(ir.Conv("bias", ("one",), kernel, None, padding=padding), np.ones((1, 1, 1)))
    np.testing.assert_array_equal(made, bias)
    back = algebra.bias_of_kernel(kernel, padding, bias.shape)
    assert back is not None
    np.testing.assert_array_equal(back, bias)


# ---------------------------------------------------------------------------------------------------- refused by name


@pytest.mark.parametrize("tau", [0.3, 0.999])
@pytest.mark.parametrize("current", [0.1, 1 / 3, 0.95])
def test_currents_that_decay(tau: float, current: float, tmp_path: Path) -> None:
    """CubaLIF: the constants to the last bit, from the metadata and without it but for rounding; no leak, no file."""
    nodes = [
        ir.Input("input", (), (4,), "events", 1, 0, 1, np.zeros(4, np.int64), np.ones(4), np.zeros(4)),
        ir.Dense("dense", ("input",), rng_of(0).standard_normal((5, 4)), None),
        ir.LIF("lif", ("dense",), tau, 0.7, current_tau=current),
        ir.Readout("readout", ("lif",), "spike_count"),
    ]
    network = ir.Network("folded", 6, (), tuple(nodes))
    ours.save(tmp_path / "net.nir", network)
    assert_equal(load(tmp_path / "net.nir"), network)
    graph = ours.build(network, dt=0.01)
    assert type(graph.nodes["lif"]).__name__ == "CubaLIF"
    for node in graph.nodes.values():
        node.metadata = {}
    graph.metadata = {}
    (found,) = convert(graph, timesteps=6, high=1, dt=0.01).of(ir.LIF)
    assert (found.tau, found.current_tau, found.threshold) == pytest.approx((tau, current, 0.7), rel=1e-12)
    nodes[2] = ir.LIF("lif", ("dense",), 1.0, 0.7, current_tau=current)
    with pytest.raises(UnsupportedError, match="'lif': a current that decays before a membrane that does not"):
        ours.build(ir.Network("folded", 6, (), tuple(nodes)))


def test_what_nir_cannot_say() -> None:
    """Constants of every step, integers, leaks that no time constant has, adds that are no neuron's own."""
    network = spiking_network(
        [("conv", Conv2d(1, 2, 3)), ("bntt", BNTT(2, 3)), ("lif", LIF()), ("flat", Flatten()), ("dense", Linear(8, 2))],
        (1, 4, 4),
    )
    look_trained(network, 0)
    captured = capture(network)
    with pytest.raises(UnsupportedError, match=r"'lif'.*snn2chip collapse.*retrain --timesteps 1"):
        ours.build(fold(captured)[0])
    with pytest.raises(InputError, match=r"captured network.*fold it first"):
        ours.build(captured)
    quantized, _ = quantize(example(), chip.load("loihi2"), schedule(example(), chip.load("loihi2")))
    with pytest.raises(UnsupportedError, match=r"integers.*fold-and-export"):
        ours.build(quantized)
    with pytest.raises(UnsupportedError, match=r"'lif1': tau 1\.5 is outside 0\.\.1"):
        ours.build(replace_node(example(), "lif1", lambda node: replace(node, tau=1.5)))
    shared = list(example().nodes)
    extra = ir.Conv("extra", ("block.add",), np.ones((8, 6, 2, 2)), None, stride=(2, 2))
    shared[8:9] = [extra, ir.Add("sum", ("conv3", "extra")), replace(shared[8], inputs=("sum",))]
    with pytest.raises(UnsupportedError, match=r"'block\.add': an add that 'block\.lif2', 'extra' read.*fold it again"):
        ours.build(example().with_nodes("folded", shared))


def test_without_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One line with the remedy, and nothing is written."""
    monkeypatch.setitem(sys.modules, "nir", None)
    for call in (
        lambda: ours.save(tmp_path / "a.nir", example()),
        lambda: load(tmp_path / "a.nir"),
        lambda: write_nir(tmp_path / "model.pt"),
    ):
        with pytest.raises(SetupError, match=r"pip install 'snn2chip\[nir\]'"):
            call()
    assert not list(tmp_path.iterdir())


def test_the_model_is_not_written_over(tmp_path: Path) -> None:
    """-o model.pt"""
    with pytest.raises(InputError, match="the network itself"):
        write_nir(tmp_path / "model.pt", tmp_path / "model.pt")


# ------------------------------------------------------------------------------------------- graphs of other makers


def test_a_graph_of_another_maker() -> None:
    """Convolution, pooling, flatten and neurons of other constants become a folded network with the same spikes."""
    graph = foreign(
        conv(padding="same"), lif(3, 4, 4, r=1.0), nir.AvgPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0])),
        flat(), dense(12, 5), lif(5, tau=4e-4, r=8.0), dense(5),
    )  # fmt: skip
    network = convert(graph, timesteps=3, high=7)
    assert network.stage == "folded" and network.classes == ("0", "1") and network.readout.kind == "membrane"
    first, second = network.of(ir.LIF)
    assert (first.tau, first.threshold) == (0.5, 2.0)  # R = 1 halves the input: twice the threshold
    assert (second.tau, second.threshold) == (0.75, 0.5)
    (layer, _) = (network["n0"], network["n4"])
    assert isinstance(layer, ir.Conv) and layer.padding == (1, 1) and layer.weight.dtype == np.float64
    raw = raw_input(network, 2)
    x = torch.from_numpy(raw[:, 0].astype(np.float64))
    weight = torch.from_numpy(graph.nodes["n0"].weight.astype(np.float64))
    current = F.conv2d(x, weight, torch.from_numpy(graph.nodes["n0"].bias), padding=1)
    spikes = evaluate(network, raw).spikes["n1"][:, 0]
    assert (spikes == (current / 2 > 1)).all()


def test_cuba_neurons() -> None:
    """CubaLIF is read with w_in and R in the threshold; a current that lasts a step is none."""
    ones = np.ones(2)
    for synapse, scale in ((1e-4, 3.0), (1e-4, 1.0)):
        cuba = nir.CubaLIF(
            tau_syn=synapse * ones,
            tau_mem=2e-4 * ones,
            r=2 * ones,
            v_leak=0 * ones,
            v_threshold=ones,
            w_in=scale * ones,
        )
        network = convert(foreign(dense(4), cuba, shape=(4,)), timesteps=2, high=1)
        assert network.of(ir.LIF)[0].threshold == pytest.approx(1 / scale, abs=0) or scale == 3
        assert network.of(ir.LIF)[0].tau == 0.5 and network.readout.kind == "spike_count"
        assert network.of(ir.LIF)[0].current_tau == 0
    cuba.tau_syn = 4e-4 * ones
    graph = foreign(dense(4), cuba, shape=(4,))
    (found,) = convert(graph, timesteps=2, high=1).of(ir.LIF)
    assert (found.current_tau, found.threshold) == (0.75, 4.0)
    assert convert(graph, timesteps=1, high=1).of(ir.LIF)[0].current_tau == 0
    cuba.v_leak = 0.5 * ones
    with pytest.raises(UnsupportedError, match=r"'n1': CubaLIF with a v_leak of 0\.25 a step above v_reset"):
        convert(graph, timesteps=2, high=1)
    cuba.tau_syn = np.array([2e-4, 4e-4])
    with pytest.raises(UnsupportedError, match=r"'n1': the current's 1 - dt / tau_syn is 0\.5 to 0\.75"):
        convert(graph, timesteps=2, high=1)


def test_if_neurons_and_the_time_step() -> None:
    """R of IF is in units of 1 / dt: files that mean a step of 1 are read with dt=1."""
    neuron = nir.IF(r=np.ones(2), v_threshold=np.full(2, 3.0))
    network = convert(foreign(dense(4), neuron, shape=(4,)), timesteps=2, high=1, dt=1.0)
    assert (network.of(ir.LIF)[0].tau, network.of(ir.LIF)[0].threshold) == (1.0, 3.0)
    network = convert(foreign(dense(4), neuron, shape=(4,)), timesteps=2, high=1)
    assert network.of(ir.LIF)[0].threshold == pytest.approx(3e4)


REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "leaky readout": (
        (dense(4), nir.LI(np.ones(2), np.ones(2), np.zeros(2))),
        "'n1': a node of type LI has no counterpart.*read out the currents",
    ),
    "delay": ((dense(4), nir.Delay(np.ones(2))), "'n1': a node of type Delay.*train without delays"),
    "threshold": ((dense(4), lif(2, v_reset=1.0)), r"'n1': LIF with a threshold 0 above v_reset.*raise v_threshold"),
    "leaks": ((dense(4), lif(2, tau=np.array([2e-4, 4e-4]))), r"'n1': the leak .* is 0\.5 to 0\.75.*split it"),
    "tau": ((dense(4), lif(2, tau=5e-5)), "'n1': LIF, tau 5e-05 s is shorter than the time step"),
    "negative tau": ((dense(4), lif(2, tau=-1.0)), "'n1': LIF, tau -1 is not a positive time"),
    "resistance": ((dense(4), lif(2, r=0.0)), "'n1': LIF, R 0 is not a positive resistance"),
    "nan": ((dense(4), lif(2, threshold=float("nan"))), "'n1': v_threshold holds 2 NaN or infinite"),
    "shape": ((dense(4), lif(3)), r"'n1': v_threshold .* is not an array \(2,\)"),
    "two layers": ((dense(4, 3), dense(3)), "'n1': no neuron between it and 'n0'"),
    "no synapse": ((lif(4), dense(4)), "'n0': a neuron needs a conv or dense layer"),
    "weights": ((dense(5),), r"'n0': input of shape \(4,\) does not fit its 5 inputs"),
    "integrator": ((dense(4), nir.I(np.ones(2)), lif(2)), "'n1': I, an integrator, is read right before the output"),
    "integrator's R": ((dense(4), nir.I(np.ones(2))), r"'n1': I with R dt = 0\.0001"),
    "not a matrix": ((nir.Linear(np.ones((2, 2, 4))),), "'n0': weight .* is not an array of 2 axes"),
    "infinite": ((nir.Linear(np.full((2, 4), np.inf)),), "'n0': weight holds 8 NaN or infinite"),
}


@pytest.mark.parametrize("what", list(REFUSED))
def test_other_nodes_are_refused_by_name_and_type(what: str) -> None:
    """The node, what it is, the value, and what to do."""
    nodes, message = REFUSED[what]
    with pytest.raises(InputError, match=message):
        convert(foreign(*nodes, shape=(4,)), timesteps=2, high=1)


def test_images_that_are_refused() -> None:
    """Pooling that overlaps, padding 'same' of a stride, part of an image flattened, factors that pixels differ in."""
    for kind in (nir.AvgPool2d, nir.SumPool2d):
        pool = kind(np.array([3, 3]), np.array([2, 2]), np.array([1, 1]))
        with pytest.raises(UnsupportedError, match=rf"'n2': {kind.__name__} of kernel \(3, 3\), stride \(2, 2\)"):
            convert(foreign(conv(), lif(3, 4, 4), pool, flat(), dense(12)), timesteps=1, high=1)
    levels = np.linspace(1, 2, 48).reshape(3, 4, 4)
    with pytest.raises(UnsupportedError, match=r"'n1': LIF's gain / threshold differs between the pixels"):
        convert(foreign(conv(), lif(3, 4, 4, threshold=levels), flat(), dense(48)), timesteps=1, high=1)
    with pytest.raises(UnsupportedError, match=r"'n3': the scale of its input differs between the pixels"):
        nodes = (
            conv(),
            lif(3, 4, 4),
            nir.Scale(levels),
            nir.Conv2d(None, np.ones((1, 3, 4, 4)), 1, 0, 1, 1, np.ones(1)),
        )
        convert(foreign(*nodes, flat()), timesteps=1, high=1)
    with pytest.raises(UnsupportedError, match="'n0': padding 'same' with stride"):
        convert(foreign(conv(padding="same", stride=2), lif(3, 2, 2), flat(), dense(12)), timesteps=1, high=1)
    with pytest.raises(UnsupportedError, match=r"'output': an output of shape \(3, 4, 4\)"):
        convert(foreign(conv(), lif(3, 4, 4)), timesteps=1, high=1)
    with pytest.raises(UnsupportedError, match="'n0': it flattens dimensions 0 to 1"):
        convert(foreign(nir.Flatten({"input": None}, 0, 1), dense(32)), timesteps=1, high=1)
    with pytest.raises(InputError, match=r"'n0': more than .* weights with the pooling"):
        big = nir.AvgPool2d(np.array([2048, 2048]), np.array([2048, 2048]), np.array([0, 0]))
        one = nir.Conv2d(None, np.ones((64, 1, 3, 3)), 1, 1, 1, 1, np.zeros(64))
        convert(
            nir.NIRGraph(
                {"input": nir.Input({"input": np.array([1, 4096, 4096])}), "p": big, "n0": one, "f": flat(),
                 "d": dense(256), "output": nir.Output({"output": np.array([2])})},
                [("input", "p"), ("p", "n0"), ("n0", "f"), ("f", "d"), ("d", "output")], type_check=False,
            ), timesteps=1, high=1,
        )  # fmt: skip


def test_graphs_that_are_no_network() -> None:
    """Loops, two inputs, edges to nowhere, nothing before a node, missing facts."""
    good = foreign(dense(4), lif(2), shape=(4,))
    for options, word in (({"high": 1}, "timesteps="), ({"timesteps": 1}, "high=")):
        with pytest.raises(InputError, match=word):
            convert(good, **options)
    for options, message in (
        ({"timesteps": 0, "high": 1}, "timesteps 0"),
        ({"timesteps": 1, "high": 0}, "input value 0"),
        ({"timesteps": 1, "high": 1, "dt": -1.0}, "dt -1"),
    ):
        with pytest.raises(InputError, match=message):
            convert(good, **options)
    changes: list[tuple[Callable[[Any], None], str]] = [
        (lambda g: g.nodes.update(rec=dense(2)) or g.edges.extend([("n1", "rec"), ("rec", "n1")]), "in a loop"),
        (lambda g: g.nodes.update(two=nir.Input({"input": np.array([4])})), "2 nodes of type Input"),
        (lambda g: g.edges.append(("n1", "nowhere")), "no node 'nowhere'"),
        (lambda g: g.edges.remove(("n0", "n1")), "'n1': LIF reads nothing"),
        (lambda g: g.nodes.update(sub=foreign(dense(4), shape=(4,))), "'sub': a node of type NIRGraph"),
        (lambda g: g.nodes.update(more=dense(2)) or g.edges.append(("n1", "more")), "'more' feeds nothing"),
        (lambda g: g.nodes["input"].input_type.update(input=np.array([4, 4, 1, 1])), r"\(C, W\) or \(F,\)"),
        (lambda g: g.nodes["input"].input_type.update(input=np.array([2**13, 2**13, 9])), "more than"),
    ]
    for change, message in changes:
        graph = foreign(dense(4), lif(2), shape=(4,))
        change(graph)
        with pytest.raises(InputError, match=message):
            convert(graph, timesteps=1, high=1)


# --------------------------------------------------------------------------------------------------- damaged files


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """A file of everything."""
    path = tmp_path / "good.nir"
    ours.save(path, example())
    return path


def put(name: str, value: Any) -> Callable[[Any], None]:
    """A dataset in the place of another."""

    def change(file: Any) -> None:
        if name in file:
            del file[name]
        file[name] = value

    return change


def huge(file: Any) -> None:
    """A terabyte that is not there."""
    del file["node/nodes/dense1/weight"]
    file.create_dataset("node/nodes/dense1/weight", (2**20, 2**17), "f8", chunks=(1024, 1024))


def elsewhere(file: Any) -> None:
    file["node/nodes/dense1/more"] = h5py.ExternalLink("/etc/passwd", "/")


def loop(file: Any) -> None:
    file["node/nodes/again"] = file["node"]


DAMAGE: dict[str, tuple[Callable[[Any], None], str]] = {
    "huge": (huge, "dense1/weight: .* bytes claimed, 0 stored"),
    "elsewhere": (elsewhere, "a link to elsewhere"),
    "loop": (loop, "groups that hold themselves"),
    "no node": (lambda file: file.pop("node"), "no NIR graph"),
    "type": (put("node/nodes/lif1/type", "Banana"), "no NIR graph"),
    "axes": (put("node/nodes/conv1/stride", np.ones(65, int)), "conv1/stride: 65 sizes, of at most 64 axes"),
    "field": (put("node/nodes/lif1/colour", 3), "no NIR graph"),
    "weight of text": (
        put("node/nodes/dense1/weight", "heavy"),
        "'dense1': weight 'heavy' is not an array|no NIR graph",
    ),
    "complex": (put("node/nodes/dense1/weight", np.ones(3, complex)), "values of type complex128"),
    "compound": (put("node/nodes/dense1/weight", np.zeros(2, [("a", "f8"), ("b", "f8")])), "values of type"),
    "leak": (put("node/nodes/lif1/metadata/leak", 0.75), "'lif1': leak 0.75 .* constants give 0.5"),
    "threshold": (put("node/nodes/lif1/metadata/threshold", 3.0), "'lif1': leak 0.5 and threshold 3"),
    "steps": (put("node/metadata/timesteps", 0), "'the graph': timesteps .* is not an integer 1"),
    "steps of text": (put("node/metadata/timesteps", "four"), "'the graph': timesteps 'four'"),
    "center": (put("node/metadata/center", [1, 2, 3]), "'the graph': center .* is not 2 integers"),
    "center outside": (put("node/metadata/center", [1, 9]), "'the graph': center"),
    "coding": (put("node/metadata/coding", "morse"), "coding 'morse' is not one of direct, poisson"),
    "classes": (put("node/metadata/classes", "{"), "classes '{' is not a list of names"),
    "order": (put("node/metadata/order", '["input"]'), "the order of layers"),
    "version": (put("node/metadata/format_version", 9), "format version 9, this snn2chip reads 1; update it"),
    "groups": (put("node/nodes/block_conv2/metadata/groups", 3), "'block.conv2': groups 3"),
    "kernel": (put("node/nodes/block_conv2/metadata/kernel", [2, 1]), "'block.conv2': groups 2, kernel"),
    "name": (put("node/nodes/lif1/metadata/name", "lif4"), "two nodes are named 'lif4'"),
    "bias": (put("node/nodes/conv1_bias/metadata/of", "conv3"), "conv1_bias': of 'conv3' is not the convolution"),
    "pixel": (put("node/nodes/one/bias", np.full(1, 2.0)), "not the bias of every neuron"),
    "role": (put("node/nodes/one/metadata/role", "two"), "role 'two' is not one of one, bias"),
}


@pytest.mark.parametrize("what", list(DAMAGE))
def test_damage_is_named(good: Path, what: str) -> None:
    """The file, the place and the value, in one line."""
    change, message = DAMAGE[what]
    with h5py.File(good, "r+") as file:
        change(file)
    with pytest.raises(InputError, match=message) as caught:
        load(good)
    assert "good.nir" in str(caught.value) and "\n" not in str(caught.value)


def test_a_heap_of_texts_that_claims_more_than_it_has_is_refused(good: Path) -> None:
    """HDF5 would read on behind it, and for ever where it finds zeros."""
    content = bytearray(good.read_bytes())
    heap = content.index(b"GCOL") + 8
    assert content[heap : heap + 8] == (4096).to_bytes(8, "little")
    content[heap : heap + 8] = (65536).to_bytes(8, "little")
    good.write_bytes(content + bytes(65536))
    with pytest.raises(InputError, match=r"good\.nir/.*damaged: free space of \d+ bytes in a heap of 65536"):
        load(good)


def test_files_that_are_none(tmp_path: Path) -> None:
    """Missing, a folder, text, an empty file: one line each."""
    for path, word in ((tmp_path / "none.nir", "no such file"), (tmp_path, "a folder")):
        with pytest.raises(InputError, match=word):
            load(path)
    for content in (b"", b"not HDF5 at all" * 100, b"\x89HDF\r\n\x1a\n"):
        (tmp_path / "x.nir").write_bytes(content)
        with pytest.raises(InputError, match=r"x\.nir' is damaged or not an HDF5 file"):
            load(tmp_path / "x.nir")


@functools.cache
def small_file() -> bytes:
    """A small network with a bias of every neuron, as a file."""
    nodes = (
        ir.Input("input", (), (1, 4, 4), "direct", 3, 0, 3, np.array([1]), np.ones(1), np.zeros(1)),
        ir.Conv("conv", ("input",), eighths(rng_of(0), 2, 1, 3, 3), eighths(rng_of(1), 2, 4, 4), padding=(1, 1)),
        ir.LIF("lif", ("conv",), 0.5, 0.5),
        ir.Flatten("flat", ("lif",)),
        ir.Dense("dense", ("flat",), eighths(rng_of(2), 2, 32), eighths(rng_of(3), 2)),
        ir.Readout("readout", ("dense",), "membrane"),
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.nir"
        ours.save(path, ir.Network("folded", 2, ("a", "b"), nodes))
        return path.read_bytes()


@settings(max_examples=usually(80), deadline=None)
@given(data=st.data())
def test_fields_of_any_type_and_shape(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Any field of any node replaced by any value of another kind: an InputError, or still a network."""
    path = tmp_path_factory.getbasetemp() / "a.nir"
    path.write_bytes(small_file())
    with h5py.File(path, "r+") as file:
        places: list[str] = []
        file.visititems(lambda name, item: places.append(name) if isinstance(item, h5py.Dataset) else None)
        name = data.draw(st.sampled_from(sorted(places)))
        value = data.draw(
            st.one_of(
                st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=8),
                st.integers(-(2**31), 2**31),
                st.floats(),
                st.lists(st.integers(-3, 3), max_size=4).map(lambda items: np.array(items, dtype=np.int64)),
                st.sampled_from([np.zeros((2, 2)), np.full((3, 1, 1), np.nan), np.ones(2, bool), h5py.Empty("f8")]),
            )
        )
        put(name, value)(file)
    try:
        network = load(path)
    except InputError as error:
        assert "\n" not in str(error) and "a.nir" in str(error)
    else:
        assert network.stage == "folded"


def test_nothing_is_left_where_a_file_cannot_be_written(tmp_path: Path) -> None:
    """A folder of that name."""
    (tmp_path / "folder.nir").mkdir()
    with pytest.raises(InputError, match=r"folder\.nir.*it is a folder"):
        ours.save(tmp_path / "folder.nir", example())
    assert [path.name for path in tmp_path.iterdir()] == ["folder.nir"]


# --------------------------------------------------------------------------------------------------- the command line


def test_the_command(cli: Command, tmp_path: Path) -> None:
    """`snn2chip export model.pt --format nir`: beside the model or where -o says; what is no model is refused."""
    model = tmp_path / "model.pt"
    shutil.copy(ROOT / "models" / "digits-tdbn" / "model.pt", model)
    assert f"wrote {tmp_path / 'model.nir'}" in cli("export", model, "--format", "nir").ok()
    cli("export", model, "--format", "nir", "-o", tmp_path / "x.nir").ok()
    assert_equal(load(tmp_path / "x.nir"), load(tmp_path / "model.nir"))
    elsewhere = ("--format", "nir", "-o", tmp_path / "y.nir")
    cli("export", tmp_path / "x.nir", *elsewhere).ok()  # any network's file, a NIR graph too
    assert_equal(load(tmp_path / "y.nir"), load(tmp_path / "x.nir"))
    cli("export", model, "--format", "nir", "-o", model).refused("the network itself")
    cli("export", model, "--format", "nir", "--trace").refused("--trace is for ONNX")
