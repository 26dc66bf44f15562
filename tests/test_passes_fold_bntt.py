"""BNTT folded into the time-varying neuron, in float64: the same spikes for any gamma, or a refusal that names why."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from branching import LOIHI
from helpers import spiking_network, usually
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn
from varying import Named, as_tdbn, export, message, plain, randomize, raw_for

from snn2chip import chip, ir
from snn2chip.errors import ChipLimitError, UnsupportedError
from snn2chip.formats import netx
from snn2chip.ir.interpreter import FloatTrace, evaluate
from snn2chip.nn import BNTT, LIF, AvgPool2d, Conv2d, Flatten, Linear, Residual, SpikingNetwork, TDBatchNorm
from snn2chip.passes.capture import capture
from snn2chip.passes.fold import fold
from snn2chip.passes.quantize import quantize
from snn2chip.simulate import branching, reference
from snn2chip.simulate.dense import DenseEngine
from snn2chip.verify.compare import module_spikes

Floats = NDArray[np.float64]
# ------------------------------------------------------------------------------------------- networks with BNTT


def held_equal(network: SpikingNetwork, raw: ir.IntArray) -> FloatTrace:
    """Torch = captured = folded: every spike; membranes and scores within 1e-9 of the largest of their layer."""
    captured = capture(network)
    folded, _ = fold(captured)
    assert not folded.of(ir.StepNorm) and not folded.of(ir.Norm)
    wanted, scores = module_spikes(network, raw)
    first, second = evaluate(captured, raw), evaluate(folded, raw)
    assert set(wanted) == set(first.spikes) == set(second.spikes)
    for name, spikes in wanted.items():
        assert (first.spikes[name].numpy() == spikes).all(), name
        assert (second.spikes[name] == first.spikes[name]).all(), name
        left, right = first.membranes[name], second.membranes[name]
        assert float((left - right).abs().max()) <= 1e-9 * float(left.abs().max()), name
    for trace in (first, second):
        assert np.abs(trace.scores.numpy() - scores).max() <= 1e-9 * max(1e-300, np.abs(scores).max())
    return second


@st.composite
def networks(draw: st.DrawFn) -> SpikingNetwork:
    """One to three convolutions of any geometry, pools anywhere around them, a dense layer; BNTT, few tdBN."""
    steps = draw(st.integers(2, 6))
    shape = (draw(st.integers(1, 3)), draw(st.integers(4, 8)), draw(st.integers(4, 8)))
    start, layers = shape, []
    taus = st.one_of(st.just(1.0), st.floats(0.01, 1.0))

    def add(kind: str, module: nn.Module) -> None:
        layers.append((f"{kind}{len(layers)}", module))

    def norm_and_neuron(channels: int, pool: bool) -> None:
        norm = BNTT(channels, steps) if draw(st.integers(0, 5)) else TDBatchNorm(channels)
        around = [norm, AvgPool2d(2)] if pool else [norm]
        for module in draw(st.permutations(around)):
            add("norm" if module is norm else "pool", module)
        add("lif", LIF(draw(taus), draw(st.floats(0.05, 2))))

    for _ in range(draw(st.integers(1, 3))):
        channels, height, width = shape
        if height % 2 == width % 2 == 0 and draw(st.integers(0, 2)) == 0:
            add("pool", AvgPool2d(2))
            height, width = height // 2, width // 2
        kernel, padding, stride = draw(st.integers(1, 3)), draw(st.integers(0, 2)), draw(st.integers(1, 2))
        groups = draw(st.sampled_from([g for g in (1, 2, 3) if channels % g == 0]))
        out = groups * draw(st.integers(1, 2))
        height, width = (ir.out_size(side, kernel, stride, padding, 1) for side in (height, width))
        if min(height, width) < 1:
            break
        add("conv", Conv2d(channels, out, kernel, stride, padding, groups=groups, bias=draw(st.booleans())))
        pool = min(height, width) >= 2 and draw(st.integers(0, 2)) == 0
        norm_and_neuron(out, pool)
        shape = (out, height // 2, width // 2) if pool else (out, height, width)
        if min(shape) < 2:
            break
    if layers and isinstance(layers[-1][1], AvgPool2d):
        layers.pop()  # the pool of a convolution that did not fit
    if layers and draw(st.booleans()) and min(shape[1:]) >= 2:
        add("pool", AvgPool2d(2))
        shape = (shape[0], shape[1] // 2, shape[2] // 2)
    add("flatten", Flatten())
    features = math.prod(shape)
    if draw(st.booleans()):
        add("dense", Linear(features, 4, bias=draw(st.booleans())))
        norm_and_neuron(4, False)
        features = 4
    add("dense", Linear(features, 3))
    readout = draw(st.sampled_from(["membrane", "spike_count"]))
    if readout == "spike_count":
        norm_and_neuron(3, False)
    coding = draw(st.sampled_from(["direct", "poisson"]))
    made = spiking_network(layers, start, timesteps=steps, coding=coding, readout=readout)
    return randomize(made, draw(st.integers(0, 2**31)), decades=draw(st.sampled_from([0.3, 1.0, 3.0])))


# -------------------------------------------------------------------------------------------------- the exact fold


def test_one_neuron_by_hand() -> None:
    """Two pixels and one neuron over three steps, every number worked out.

    weights 1 and -2, bias 0.5, tau 0.5, Vth 0.5; g = gamma / sqrt(var) = 2, 0.5, 4; mean = 1, -1, 0.25.
    spikes (1, 0), (1, 1), (0, 0) give currents W s + b = 1.5, -0.5, 0.5, and so

        v[1] = 1.5 - 1 = 0.5                    > 0.5 / 2 = 0.25: fires, and is reset       u[1] = 1
        v[2] = 0.5 * 4 * 0 - 0.5 + 1 = 0.5      < 0.5 / 0.5 = 1: silent                     u[2] = 0.25
        v[3] = 0.5 * 0.125 * 0.5 + 0.25         > 0.5 / 4 = 0.125: fires                    u[3] = 1.125
    """
    gamma, mean, var = (np.array(row)[:, None] for row in ([1.0, 1.0, 2.0], [1.0, -1.0, 0.25], [0.25, 4.0, 0.25]))
    one = np.ones(1)
    source = ir.Input("input", (), (1, 1, 2), "poisson", 255, 0, 1, np.zeros(1, dtype=np.int64), one, 0 * one)
    network = ir.Network(
        "captured",
        3,
        ("a",),
        (
            source,
            ir.Flatten("flatten", ("input",)),
            ir.Dense("dense", ("flatten",), np.array([[1.0, -2.0]]), np.array([0.5])),
            ir.StepNorm("norm", ("dense",), gamma, mean, var, 0.0),
            ir.LIF("lif", ("norm",), 0.5, 0.5),
            ir.Readout("readout", ("lif",), "spike_count"),
        ),
    )
    folded, report = fold(network)
    neuron = folded["lif"]
    assert isinstance(neuron, ir.LIF) and neuron.steps is not None
    assert neuron.steps.gain[:, 0].tolist() == [2, 0.5, 4]
    assert neuron.steps.leak[:, 0].tolist() == [0, 2, 0.0625]
    assert neuron.steps.bias[:, 0].tolist() == [-1, 1, -0.25]
    assert neuron.steps.threshold[:, 0].tolist() == [0.25, 1, 0.125]
    dense = folded["dense"]
    assert isinstance(dense, ir.Dense) and dense.bias is not None
    assert dense.weight.tolist() == [[1, -2]] and dense.bias.tolist() == [0.5]  # as trained
    assert ("norm", "tables of 3 steps in 'lif'") in report.steps
    raw = np.array([[1, 0], [1, 1], [0, 0]]).reshape(1, 3, 1, 1, 2)
    for stage in (network, folded):
        trace = evaluate(stage, raw)
        assert trace.spikes["lif"][0, :, 0].tolist() == [True, False, True]
        assert trace.membranes["lif"][0, :, 0].tolist() == [1.0, 0.25, 1.125]
        assert trace.scores.tolist() == [[2.0]]


@settings(max_examples=usually(35), deadline=None)
@given(network=networks(), seed=st.integers(0, 2**31))
def test_the_fold_is_exact(network: SpikingNetwork, seed: int) -> None:
    """gamma over six decades, any geometry, coding and readout: every spike; membranes and scores but for rounding."""
    held_equal(network, raw_for(network, 2, seed))


@pytest.mark.parametrize("coding", ["direct", "poisson"])
@pytest.mark.parametrize("readout", ["membrane", "spike_count"])
def test_the_fold_of_a_lively_network(coding: str, readout: str) -> None:
    """The same where every layer fires at some places and not at others, so that something could differ."""
    network = plain(coding=coding, readout=readout)
    trace = held_equal(network, raw_for(network, 6))
    for name, spikes in trace.spikes.items():
        assert 0.01 < spikes.double().mean() < 0.99, name
    assert len(trace.spikes) == 3 + (readout == "spike_count")
    shorter = raw_for(network, 6)[:, :2]  # fewer steps are the first of all
    for name, spikes in evaluate(fold(capture(network))[0], shorter).spikes.items():
        assert (spikes == trace.spikes[name][:, :2]).all()


# ------------------------------------------------------------------------------------------------- one time step


def test_one_step_folds_statically(tmp_path: Path) -> None:
    """No tables, stock netx, and number for number the file of the same network written with tdBN."""
    network = plain(1)
    twin = as_tdbn(network)
    raw = raw_for(network, 4)
    held_equal(network, raw)
    made, other = export(network), export(twin)
    assert all(node.steps is None for node in made.folded.of(ir.LIF))
    assert made.chain.stock and netx.STEPS.encode() not in _saved(tmp_path / "a.net", made.chain)
    assert _saved(tmp_path / "a.net", made.chain) == _saved(tmp_path / "b.net", other.chain)
    for left, right in zip(made.chain.layers, other.chain.layers, strict=True):
        for item in fields(ir.Layer):
            np.testing.assert_array_equal(getattr(left, item.name), getattr(right, item.name), err_msg=item.name)


def _saved(path: Path, chain: ir.Chain) -> bytes:
    """Every value of the file, in the order of their names; the container itself may hold times."""
    netx.save(path, chain)
    found: list[bytes] = []

    def keep(name: str, item: h5py.Group | h5py.Dataset) -> None:
        found.append(name.encode() + repr(dict(item.attrs)).encode())
        found.extend([np.asarray(item[()]).tobytes()] if isinstance(item, h5py.Dataset) else [])

    with h5py.File(path) as file:
        file.visititems(keep)
    return b"\n".join(found)


# ------------------------------------------------------------------------------------------------------ refusals


def with_norm1(change: Callable[[BNTT], None]) -> SpikingNetwork:
    network = plain()
    with torch.no_grad():
        change(network.body.norm1)  # type: ignore[arg-type]
    return network


@pytest.mark.parametrize("value", [-math.inf, -1000.0])
def test_gamma_that_vanishes(value: float) -> None:
    network = with_norm1(lambda norm: norm.log_weight[2, 1].fill_(value))
    assert message(lambda: fold(capture(network))) == (
        "layer 'norm1': gamma 0 of channel 1 at step 3 is not positive, as folding into thresholds needs; "
        "train with snn2chip.nn.BNTT, which keeps it so"
    )


def changed(network: ir.Network, name: str, **values: object) -> ir.Network:
    """The captured network with a node's values replaced."""
    nodes = [replace(node, **values) if node.name == name else node for node in network.nodes]  # type: ignore[arg-type]
    return network.with_nodes("captured", nodes)


def test_gamma_that_is_negative_and_variance_that_is() -> None:
    """Named by step, counted from 1, and channel, counted from 0."""
    captured = capture(plain())
    norm = captured["norm2"]
    assert isinstance(norm, ir.StepNorm)
    gamma, var = norm.gamma.copy(), norm.var.copy()
    gamma[1, 3] = -0.25
    said = message(lambda: fold(changed(captured, "norm2", gamma=gamma)))
    assert said.startswith("layer 'norm2': gamma -0.25 of channel 3 at step 2 is not positive")
    var[3, 0] = -0.5
    said = message(lambda: fold(changed(captured, "norm2", var=var)))
    assert said == "layer 'norm2': variance -0.5 of channel 0 at step 4 is negative; train again"


@pytest.mark.parametrize(("what", "value"), [("gamma", math.nan), ("gamma", math.inf), ("mean", math.nan)])
def test_nan_and_infinite(what: str, value: float) -> None:
    def change(norm: BNTT) -> None:
        (norm.log_weight if what == "gamma" else norm.running_mean)[1, 2] = value

    said = message(lambda: capture(with_norm1(change)))
    assert said == f"layer 'norm1': {what} holds 1 NaN or infinite of 16 values; train again"


def test_gain_beyond_float64() -> None:
    """A threshold that overflows is named; not a warning of numpy, and no infinite table."""
    network = with_norm1(lambda norm: norm.log_weight[1].fill_(-744.0))
    said = message(lambda: fold(capture(network)))
    assert said.startswith("layer 'norm1': gamma 9.88e-324 and variance ")
    assert said.endswith("of channel 0 at step 2 give a leak beyond float64")


def test_statistics_of_another_number_of_steps() -> None:
    network = spiking_network(
        [("flat", Flatten()), ("dense", Linear(8, 4)), ("norm", BNTT(4, 5)), ("lif", LIF()), ("end", Linear(4, 3))],
        (2, 2, 2),
        timesteps=4,
    )
    said = message(lambda: capture(network.eval()))
    assert said == "layer 'norm': statistics of 5 time steps, but the network runs 4; retrain it for 4"


def meeting(branch: list[nn.Module], shortcut: list[nn.Module], *after: nn.Module) -> SpikingNetwork:
    """A stem, a residual block of these layers, and a dense readout; 4 steps."""
    layers: Named = [
        ("conv1", Conv2d(2, 3, 3, padding=1)),
        ("lif1", LIF()),
        ("block", Residual(nn.Sequential(*branch), nn.Sequential(*shortcut))),
        *((f"after{number}", module) for number, module in enumerate(after, start=1)),
        ("lif2", LIF()),
        ("flatten", Flatten()),
        ("dense", Linear(48, 3)),
    ]
    return randomize(spiking_network(layers, (2, 4, 4), timesteps=4), 0, decades=0.3)


def conv3() -> Conv2d:
    return Conv2d(3, 3, 3, padding=1)


def test_paths_that_do_not_pass_one_bntt() -> None:
    """Two of them, one and tdBN, one and nothing: refused by the neuron where they meet."""
    end = "gains that change with time in different ways leave no static weights; put one BNTT after the add"
    cases = [
        ([conv3(), BNTT(3, 4)], [conv3(), BNTT(3, 4)], "'block.branch.1', 'block.shortcut.1'"),
        ([conv3(), BNTT(3, 4)], [conv3(), TDBatchNorm(3)], "'block.branch.1'"),
        ([conv3(), BNTT(3, 4)], [], "'block.branch.1'"),
    ]
    for branch, shortcut, names in cases:
        network = meeting(branch, shortcut)
        said = message(lambda made=network: fold(capture(made)), UnsupportedError)  # type: ignore[misc]
        assert said.startswith(f"layer 'lif2': the currents that meet in it do not all pass one BNTT ({names}): {end}")
    network = meeting([conv3(), BNTT(3, 4)], [conv3()], BNTT(3, 4))  # and after the add as well
    said = message(lambda: fold(capture(network)), UnsupportedError)
    assert said == "layer 'after1': a normalization after the BNTT 'block.branch.1'; one of them is enough"


@pytest.mark.parametrize("what", ["running_var", "eps", "log_weight"])
def test_two_bntt_that_differ_in_one_number(what: str) -> None:
    """Two of them with the same gamma, variance and eps have the same gain, and fold; with one of these other, none."""
    network = meeting([conv3(), BNTT(3, 4)], [conv3(), BNTT(3, 4)])
    first, second = (module for module in network.modules() if isinstance(module, BNTT))
    with torch.no_grad():
        second.log_weight.copy_(first.log_weight)
        second.running_var.copy_(first.running_var)
        held_equal(network, raw_for(network, 3, 5))  # other means alone: one gain
        if what == "eps":
            second.eps *= 2
        else:
            getattr(second, what)[1, 2] += 0.125
    said = message(lambda: fold(capture(network)), UnsupportedError)
    assert said.startswith("layer 'lif2': the currents that meet in it do not all pass one BNTT")


def test_one_bntt_after_the_add() -> None:
    """What the message asks for: tdBN on any way, BNTT after the add; exact, its mean taken off once."""
    ways: list[list[nn.Module]] = [[], [conv3()], [conv3(), TDBatchNorm(3)], [TDBatchNorm(3)]]
    for shortcut in ways:
        network = meeting([conv3(), TDBatchNorm(3)], shortcut, BNTT(3, 4))
        trace = held_equal(network, raw_for(network, 4))
        assert 0 < trace.spikes["lif2"].double().mean() < 1


def row(*layers: nn.Module, neuron: bool = True) -> SpikingNetwork:
    """A stem, `layers` (layer1 and on), a neuron unless told otherwise, and the readout of the membrane."""
    named: Named = [("conv0", Conv2d(2, 3, 3, padding=1)), ("lif0", LIF())]
    named += [(f"layer{number}", module) for number, module in enumerate(layers, start=1)]
    named += [("lif1", LIF()), ("flatten", Flatten()), ("dense", Linear(48, 3))] if neuron else []
    return randomize(spiking_network(named, (2, 4, 4), timesteps=4), 0, decades=0.3)


@pytest.mark.parametrize(
    ("network", "wanted"),
    [
        (
            row(Flatten(), Linear(48, 3), BNTT(3, 4), neuron=False),
            "layer 'layer3': BNTT without a neuron after it: its gain changes with time, which no readout undoes; "
            "leave the normalization out of the last layer",
        ),
        (
            row(conv3(), BNTT(3, 4), TDBatchNorm(3)),
            "layer 'layer3': a normalization after the BNTT 'layer2'; one of them is enough",
        ),
        (
            row(conv3(), BNTT(3, 4), BNTT(3, 4)),
            "layer 'layer3': a normalization after the BNTT 'layer2'; one of them is enough",
        ),
        (
            row(BNTT(3, 4), conv3()),
            "layer 'layer1': a normalization before its conv or dense layer; put it after",
        ),
        (row(conv3(), BNTT(3, 4), conv3()), "layer 'layer3': no neuron between it and 'layer1'; add a LIF"),
    ],
    ids=["no neuron", "tdBN after", "two in a row", "before its conv", "no neuron between"],
)
def test_places_where_bntt_has_no_fold(network: SpikingNetwork, wanted: str) -> None:
    assert message(lambda: fold(capture(network)), UnsupportedError) == wanted


def test_loihi1_has_no_such_neuron() -> None:
    folded, _ = fold(capture(plain(coding="poisson")))
    said = message(lambda: quantize(folded, chip.load("loihi1")), ChipLimitError)
    assert said == (
        "layer 'lif1': BNTT of 4 steps needs neurons whose constants change with time, which loihi1 has not; "
        "choose --chip loihi2, or `snn2chip collapse` it"
    )


def test_leak_factor_beyond_16_bits() -> None:
    """tau g[2] / g[3] = 0.5e6: named with channel and step, and the largest T that would do."""

    def fall(norm: BNTT) -> None:
        norm.running_var.fill_(1.0)
        norm.log_weight.zero_()
        norm.log_weight[2:, 1] = -6 * math.log(10)

    folded, _ = fold(capture(with_norm1(fall)))
    said = message(lambda: quantize(folded, LOIHI), ChipLimitError)
    assert said == (
        "layer 'lif1': leak factor 5e+05 of channel 1 at step 3 exceeds 65535: gamma falls too fast there; "
        "retrain for 2 steps"
    )


def test_more_steps_than_tables() -> None:
    """Every engine refuses them by layer, and fewer are the first steps of all."""
    network = plain(readout="spike_count")
    stages = export(network)
    chain, raw = stages.chain, raw_for(network, 3)
    port, long = chain.port(raw), chain.port(np.repeat(raw, 2, 1))
    for run in (DenseEngine(chain).run, lambda x: reference.run(chain, x)):
        said = message(lambda engine=run: engine(long))  # type: ignore[misc]
        assert said == (
            "layer '1': 8 time steps of input, but tables of 4; give at most 4, or retrain the network for more"
        )
        whole, part = run(port), run(port[:, :2])
        for layer in chain.layers:
            np.testing.assert_array_equal(part.spikes[layer.name], whole.spikes[layer.name][:, :2])
            np.testing.assert_array_equal(part.voltage[layer.name], whole.voltage[layer.name][:, :2])
    assert message(lambda: branching.run(stages.quantized, long)).startswith("layer 'lif1': 8 time steps of input")
    said = message(lambda: evaluate(stages.folded, np.repeat(raw, 2, 1)))
    assert said == "8 time steps of input exceed the network's 4; give fewer"
