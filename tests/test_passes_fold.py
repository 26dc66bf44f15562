"""Folding changes no spike: torch in float64 = captured = folded, for every kind of layer folding knows."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable

import numpy as np
import pytest
import torch
from helpers import hooked, images_for, look_trained, rng_of, some, spiking_network, usually
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from snn2chip import ir
from snn2chip.chip.profile import load
from snn2chip.errors import InputError, UnsupportedError
from snn2chip.ir.encode import encoder_of
from snn2chip.ir.interpreter import evaluate
from snn2chip.nn import (
    BNTT,
    LIF,
    AvgPool2d,
    Conv2d,
    Dropout,
    Flatten,
    GlobalAvgPool,
    Linear,
    Residual,
    SpikingNetwork,
    TDBatchNorm,
)
from snn2chip.passes.capture import capture
from snn2chip.passes.fold import FoldReport, fold, norm_gain
from snn2chip.passes.quantize import quantize
from snn2chip.passes.schedule import schedule
from snn2chip.verify.compare import module_spikes

Layers = list[tuple[str, nn.Module]]
ALPHA = 2**-0.5


def relative(mine: Tensor, theirs: Tensor) -> float:
    """Largest difference over the largest value."""
    return float((mine - theirs).abs().max() / theirs.abs().max().clamp_min(1e-12))


def check_spikes(
    network: SpikingNetwork, *, samples: int = 3, seed: int = 0, telling: bool = True
) -> tuple[ir.Network, FoldReport]:
    """Hold torch, captured and folded against each other: every spike, every membrane, every score.

    `telling`: some neurons fired, some did not.
    """
    captured = capture(network)
    folded, report = fold(captured)
    images = images_for(network, samples, seed=seed + 100)
    raw = encoder_of(captured, seed)(images)
    if captured.input.coding == "poisson":
        encoded = torch.from_numpy(raw).transpose(0, 1).double()
    else:
        encoded = network.encoder(images)
    spikes, membranes, scores = hooked(network, encoded)
    traces = {"captured": evaluate(captured, raw), "folded": evaluate(folded, raw)}
    assert set(spikes) == {node.name for node in captured.of(ir.LIF)}
    for stage, trace in traces.items():
        assert set(trace.spikes) == set(spikes)
        for name in spikes:
            mismatches = int((trace.spikes[name] != spikes[name]).sum())
            assert mismatches == 0, f"{stage}: {mismatches} spikes of {name} differ"
            assert relative(trace.membranes[name], membranes[name]) < 1e-9, (stage, name)
        assert relative(trace.scores / raw.shape[1], scores) < 1e-9, stage
    rate = float(torch.cat([s.flatten() for s in spikes.values()]).double().mean())
    assert not telling or 0 < rate < 1, f"a rate of {rate} proves nothing"
    return folded, report


def check(network: SpikingNetwork, *, samples: int = 3, seed: int = 0) -> tuple[ir.Network, ir.Network]:
    """As `check_spikes`, and what is reported gone are normalizations and pools."""
    captured = capture(network)
    folded, report = check_spikes(network, samples=samples, seed=seed)
    gone = {node.name for node in captured.nodes if isinstance(node, ir.Norm | ir.AvgPool)}
    assert {name for name, _ in report.steps if name != "input"} == gone
    assert folded.stage == "folded" and not gone & {node.name for node in folded.nodes}
    return captured, folded


# ---------------------------------------------------------------------------------------------- every combination


def combination(
    bias: bool, groups: str, stride: int, alpha: float, pooling: str, padding: int, dilation: int
) -> SpikingNetwork:
    """Two convolutions and two dense layers on a 32 x 40 image, with the pools where `pooling` says."""
    channels = 4
    count = {"1": 1, "2": 2, "depthwise": channels}[groups]
    eps = 1e-5 if bias else 1e-12

    def conv(outputs: int, step: int) -> Conv2d:
        return Conv2d(channels, outputs, 3, step, padding, dilation, count, bias=bias)

    layers: Layers = []
    if pooling == "before":
        layers += [("pool0", AvgPool2d(2))]
    layers += [("conv1", conv(channels, stride))]
    if pooling == "after":
        layers += [("pool1", AvgPool2d(2))]
    layers += [("norm1", TDBatchNorm(channels, alpha=alpha, eps=eps)), ("lif1", LIF(0.25, 0.5))]
    if pooling in ("before", "two"):
        layers += [("pool2", AvgPool2d(2))]
    layers += [("conv2", conv(2 * channels, 1))]
    layers += [("norm2", TDBatchNorm(2 * channels, alpha=alpha, threshold=0.7, eps=eps))]
    if pooling in ("after", "two"):
        layers += [("pool3", AvgPool2d(2))]
    layers += [("lif2", LIF(0.6, 0.7))]
    if pooling in ("dense", "two"):
        layers += [("pool4", AvgPool2d(3 if pooling == "dense" else 2))]
    layers += [("flatten", Flatten())]
    features = _features(layers, (channels, 32, 40))
    layers += [
        ("dense1", Linear(features, 6, bias=bias)),
        ("norm3", TDBatchNorm(6, alpha=alpha, eps=eps)),
        ("lif3", LIF(0.25, 0.5)),
        ("drop", Dropout(0.2)),
        ("dense2", Linear(6, 3, bias=bias)),
    ]
    return spiking_network(layers, (channels, 32, 40))


def _features(layers: Layers, shape: tuple[int, int, int]) -> int:
    with torch.no_grad():
        x = torch.zeros(1, 1, *shape)
        for _, module in layers:
            module.eval()
            x = module(x)
    return x.shape[-1]


@pytest.mark.parametrize("pooling", ["none", "before", "after", "dense", "two"])
@pytest.mark.parametrize("groups", ["1", "2", "depthwise"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
def test_every_combination(pooling: str, groups: str, stride: int, bias: bool) -> None:
    """Signs of gamma, tiny variances, alpha, padding and dilation, in all combinations."""
    torch.manual_seed(0)
    dilations = (1, 2) if pooling in ("none", "dense") else (1,)
    every = itertools.product(["+", "-", "mixed", "zeros"], [False, True], [1.0, ALPHA], [0, 1], dilations)
    for seed, (gamma, tiny, alpha, padding, dilation) in some(
        enumerate(every), len(pooling) + 10 * len(groups) + 100 * stride + bias
    ):
        network = combination(bias, groups, stride, alpha, pooling, padding, dilation)
        look_trained(network, seed, gamma=gamma, tiny_variance=tiny)
        captured, folded = check(network, samples=2, seed=seed)
        norms = captured.of(ir.Norm)
        if tiny:
            assert norms[0].var[0] < 1e-11
        gains = np.concatenate([norm_gain(norm) for norm in norms])
        signs = set(np.sign(gains).tolist())
        assert {"+": {1}, "-": {-1}, "mixed": {1, -1}, "zeros": {0}}[gamma] <= signs
        assert (gamma in ("mixed", "zeros")) == (len(signs) > 1)
        first = folded.of(ir.Conv)[0]
        assert first.bias is not None
        assert first.bias.ndim == (3 if padding else 1)  # normalized zeros at the border are not integer zeros


def test_two_pools_in_a_row_and_a_global_one() -> None:
    """pool(2), pool(3), conv; conv, pool(2), pool(2); pool, globalavgpool, dense."""
    layers: Layers = [
        ("p1", AvgPool2d(2)),
        ("p2", AvgPool2d(3)),
        ("conv1", Conv2d(2, 5, 3, 1, 1)),
        ("n1", TDBatchNorm(5)),
        ("lif1", LIF()),
        ("conv2", Conv2d(5, 4, 2)),
        ("p3", AvgPool2d(2)),
        ("n2", TDBatchNorm(4)),
        ("p4", AvgPool2d(2)),
        ("lif2", LIF(0.5, 0.4)),
        ("p5", AvgPool2d(2)),
        ("gap", GlobalAvgPool()),
        ("dense", Linear(4, 3)),
    ]
    network = spiking_network(layers, (2, 120, 102))
    look_trained(network, 4)
    _, folded = check(network)
    assert [type(node).__name__ for node in folded.nodes] == (
        ["Input", "Conv", "LIF", "Conv", "LIF", "Flatten", "Dense", "Readout"]
    )


def test_pixels_that_fill_no_window_are_left_out() -> None:
    """7 x 9 pooled by 2 drops a row and a column: before a conv without padding, after one, before dense."""
    for place in ("before", "after", "dense"):
        layers: Layers = [("conv1", Conv2d(1, 3, 1)), ("n1", TDBatchNorm(3)), ("lif1", LIF())]
        if place == "before":
            layers += [("pool", AvgPool2d(2)), ("conv2", Conv2d(3, 3, 2)), ("lif2", LIF())]
        elif place == "after":
            layers += [("conv2", Conv2d(3, 3, 1, bias=False)), ("pool", AvgPool2d(2)), ("lif2", LIF())]
        else:
            layers += [("pool", AvgPool2d(2))]
        layers += [("flatten", Flatten())]
        layers += [("dense", Linear(_features(layers, (1, 7, 9)), 4))]
        network = spiking_network(layers, (1, 7, 9))
        look_trained(network, 1)
        check(network)


def test_pool_that_does_not_divide_is_exact_where_the_stride_skips_the_rest() -> None:
    """A padded conv whose windows never reach the left-out pixels folds; one that reaches them is refused."""

    def network(stride: int) -> SpikingNetwork:
        layers: Layers = [("pool", AvgPool2d(2)), ("conv", Conv2d(1, 3, 3, stride, 1)), ("norm", TDBatchNorm(3))]
        return ended([*layers, ("lif", LIF())], (1, 13, 13))

    # 13 pools to 6, and a stride of 2 from -1 ends at pixel 5: the padding on the right is never seen
    good = network(2)
    look_trained(good, 2)
    check(good)
    with pytest.raises(UnsupportedError, match=r"'pool': kernel 2 leaves out 1 of 13 pixels.*'conv'"):
        fold(capture(network(1)))


# ------------------------------------------------------------------------------------------------- input and readout


@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize("dilation", [1, 2])
def test_normalization_of_a_padded_input(padding: int, dilation: int) -> None:
    """The normalized image is padded with zeros, which are not integer zeros: the bias becomes a map."""
    layers: Layers = [
        ("conv", Conv2d(3, 4, 3, 1, padding, dilation)),
        ("norm", TDBatchNorm(4)),
        ("lif", LIF()),
        ("flatten", Flatten()),
    ]
    layers += [("dense", Linear(_features(layers, (3, 7, 10)), 5))]
    network = spiking_network(layers, (3, 7, 10))
    look_trained(network, 3)
    _, folded = check(network)
    node = folded.input
    assert node.center.tolist() == [round(255 * m) for m in network.encoder.mean.tolist()]  # type: ignore[operator, union-attr]
    low, high = node.port_range()
    assert low.tolist() == (-node.center).tolist() and high.tolist() == (255 - node.center).tolist()
    bias = folded.of(ir.Conv)[0].bias
    assert bias is not None and bias.ndim == (3 if padding else 1)
    if padding:
        inner = bias[:, padding:-padding, padding:-padding]
        assert np.ptp(inner.reshape(len(bias), -1), axis=1).max() < 1e-12
        assert np.abs(bias - inner[:, :1, :1]).max() > 1e-4  # the border differs


def test_a_dense_first_layer_takes_the_normalization() -> None:
    """Flatten, dense: the channels' own scales reach their own pixels."""
    layers: Layers = [
        ("flatten", Flatten()),
        ("dense1", Linear(3 * 4 * 5, 7)),
        ("lif", LIF(1.0, 0.5)),
        ("dense2", Linear(7, 3)),
    ]
    network = spiking_network(layers, (3, 4, 5))
    look_trained(network, 5)
    captured, folded = check(network)
    assert isinstance(folded.nodes[1], ir.Flatten)
    dense = folded.of(ir.Dense)[0]
    scale = np.repeat(captured.input.scale, 20)
    np.testing.assert_allclose(dense.weight, captured.of(ir.Dense)[0].weight * scale, rtol=1e-13)


def test_pool_first_and_dense_first() -> None:
    """Input, pool, flatten, dense: pooling and normalization both end up in the dense weights."""
    layers: Layers = [("pool", AvgPool2d(2)), ("flatten", Flatten()), ("dense1", Linear(2 * 3 * 2, 5)), ("lif", LIF())]
    layers += [("dense2", Linear(5, 3))]
    network = spiking_network(layers, (2, 7, 5))
    look_trained(network, 6)
    check(network)


@pytest.mark.parametrize("readout", ["membrane", "spike_count"])
def test_poisson_input(readout: str) -> None:
    """Poisson spikes need no centring: ports get 0 and 1, and the first bias stays per channel."""
    layers: Layers = [
        ("conv", Conv2d(2, 4, 3, 1, 1)),
        ("norm", TDBatchNorm(4)),
        ("lif1", LIF()),
        ("flatten", Flatten()),
        ("dense", Linear(4 * 6 * 5, 3)),
    ]
    if readout == "spike_count":
        layers += [("norm2", TDBatchNorm(3)), ("lif2", LIF())]
    network = spiking_network(layers, (2, 6, 5), coding="poisson", readout=readout, timesteps=6)
    look_trained(network, 7)
    captured, folded = check(network)
    assert folded.input.center.tolist() == [0, 0]
    assert [bound.tolist() for bound in folded.input.port_range()] == [[0, 0], [1, 1]]
    bias = folded.of(ir.Conv)[0].bias
    assert bias is not None and bias.ndim == 1
    assert captured.readout.kind == folded.readout.kind == readout


def test_spike_count_scores_are_counts() -> None:
    """The score of a spike_count readout is the number of spikes of the last neuron."""
    layers: Layers = [("flatten", Flatten()), ("dense", Linear(12, 4)), ("norm", TDBatchNorm(4)), ("lif", LIF())]
    network = spiking_network(layers, (1, 3, 4), readout="spike_count", timesteps=5)
    look_trained(network, 8)
    _, folded = check(network)
    raw = encoder_of(folded)(images_for(network, 6))
    trace = evaluate(folded, raw)
    assert torch.equal(trace.scores, trace.spikes["lif"].sum(1).double())
    assert trace.scores.max() > 0


def test_trained_tau_and_threshold_are_captured() -> None:
    """A learnt tau and threshold reach the neuron as they are used in training."""
    lif = LIF(0.3, 0.6, trainable_tau=True, trainable_threshold=True)
    with torch.no_grad():
        lif.tau_logit += 0.7  # type: ignore[operator]
        lif.log_threshold -= 0.4  # type: ignore[operator]
    layers: Layers = [("conv", Conv2d(1, 3, 3)), ("norm", TDBatchNorm(3)), ("lif", lif), ("flatten", Flatten())]
    layers += [("dense", Linear(3 * 4 * 4, 2))]
    network = spiking_network(layers, (1, 6, 6))
    look_trained(network, 9)
    captured, _ = check(network)
    node = captured.of(ir.LIF)[0]
    assert (node.tau, node.threshold) == (float(lif.tau.detach()), float(lif.threshold.detach()))
    assert node.tau > 0.4 and node.threshold < 0.5


def rounded_apart(make: Callable[[float], Tensor], start: float) -> tuple[float, float]:
    """A float32 parameter and what float64 makes of it, at least a third of a float32's step above float32's own."""
    for step in range(1000):
        parameter = float(np.float32(start + 1e-3 * step))
        exact, coarse = (float(make(value)) for value in (torch.tensor(parameter).double(), torch.tensor(parameter)))  # type: ignore[arg-type]
        if exact - coarse > 0.3 * float(np.spacing(np.float32(coarse))):
            return parameter, exact
    raise AssertionError("float32 is exact everywhere")


@pytest.mark.parametrize("what", ["threshold", "tau", "gamma"])
def test_constants_are_those_of_float64(what: str) -> None:
    """A membrane between the threshold that float32 and the one that float64 makes of the same trained parameter (of
    a leak or a gain: the membrane on either side of the threshold): every stage computes the constant in float64.

    A spike in channel 0 gives the neuron's current in the first step, those in 1 and 2, together, in the second.
    """
    lif = LIF(0.5, 0.5, trainable_tau=what == "tau", trainable_threshold=what == "threshold")
    norm = BNTT(1, 2, eps=0.25)
    norm.running_var.fill_(0.75)  # gain = gamma, to the last bit
    first, fires = 0.0, what != "threshold"
    with torch.no_grad():
        if what == "threshold":
            assert lif.log_threshold is not None
            parameter, constant = rounded_apart(torch.exp, -0.7)
            lif.log_threshold.fill_(parameter)
            coarse = float(lif.threshold)
            second = coarse + (constant - coarse) / 2
        elif what == "tau":
            assert lif.tau_logit is not None
            parameter, constant = rounded_apart(torch.sigmoid, 0.2)
            lif.tau_logit.fill_(parameter)
            coarse, first = float(lif.tau), 0.4375
            second = 0.5 - first * (coarse + (constant - coarse) / 2)
        else:
            parameter, constant = rounded_apart(torch.exp, 0.1)
            norm.log_weight.fill_(parameter)
            coarse = float(norm.weight[0])
            second = 0.5 / (coarse + (constant - coarse) / 2)
        dense = Linear(3, 1, bias=False)
        high = float(np.float32(second))
        dense.weight.copy_(torch.tensor([[first, high, second - high]]))
    between: Layers = [("norm", norm)] if what == "gamma" else []
    layers: Layers = [("flatten", Flatten()), ("dense", dense), *between, ("lif", lif)]
    network = spiking_network(layers, (3, 1, 1), timesteps=2, coding="poisson", readout="spike_count").eval()
    raw = np.array([[1, 0, 0], [0, 1, 1]]).reshape(1, 2, 3, 1, 1)
    captured = capture(network)
    folded, _ = fold(captured)
    node = captured[{"gamma": "norm"}.get(what, "lif")]
    assert np.all(getattr(node, what) == constant)
    spikes, _ = module_spikes(network, raw)
    assert spikes["lif"].ravel().tolist() == [False, fires]
    for stage in (captured, folded):
        assert evaluate(stage, raw).spikes["lif"].ravel().tolist() == [False, fires]


def test_a_wrapped_network_is_what_it_holds() -> None:
    """DataParallel and torch.compile: the same nodes and spikes; anything else is named."""
    layers: Layers = [("conv", Conv2d(2, 4, 3)), ("lif", LIF()), ("flatten", Flatten()), ("dense", Linear(64, 3))]
    network = spiking_network(layers, (2, 6, 6))
    raw = encoder_of(capture(network))(images_for(network, 2))
    wanted = module_spikes(network, raw)[0]["lif"]
    for wrapped in (nn.DataParallel(network), nn.DataParallel(torch.compile(network)), torch.compile(network)):
        made = capture(wrapped)  # type: ignore[arg-type]
        assert [node.name for node in made.nodes] == ["input", "conv", "lif", "flatten", "dense", "readout"]
        np.testing.assert_array_equal(evaluate(made, raw).spikes["lif"].numpy(), wanted)
        np.testing.assert_array_equal(module_spikes(wrapped, raw)[0]["lif"], wanted)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"Sequential is no SpikingNetwork; put it into snn2chip\.nn\.SpikingNetwork"):
        capture(nn.Sequential(Linear(2, 2)))
    part = spiking_network([*layers[:1], ("lif", nn.DataParallel(LIF()))], (2, 6, 6))
    with pytest.raises(UnsupportedError, match=r"layer 'lif': DataParallel .* its \.module; wrap the whole network"):
        capture(part)


def test_one_module_in_two_places_is_captured_twice() -> None:
    """A neuron or layer that the body uses twice runs twice in training, so it is two layers on the chip."""
    lif, conv = LIF(), Conv2d(2, 2, 3, 1, 1)
    layers: Layers = [("conv1", conv), ("lif1", lif), ("conv2", conv), ("lif2", lif), ("flatten", Flatten())]
    layers += [("dense", Linear(2 * 5 * 5, 3))]
    network = spiking_network(layers, (2, 5, 5))
    look_trained(network, 10)
    captured = capture(network)
    assert [(type(node).__name__, node.name) for node in captured.nodes[1:-1]] == [
        *[("Conv", "conv1"), ("LIF", "lif1"), ("Conv", "conv1:2"), ("LIF", "lif1:2")],
        *[("Flatten", "flatten"), ("Dense", "dense")],
    ]
    raw = encoder_of(captured)(images_for(network, 3))
    scores = network(images_for(network, 3)).detach()
    assert relative(evaluate(fold(captured)[0], raw).scores / 3, scores) < 1e-9
    spikes, _ = module_spikes(network, raw)  # names them alike
    trace = evaluate(captured, raw)
    assert set(spikes) == set(trace.spikes) == {"lif1", "lif1:2"}
    for name, values in spikes.items():
        np.testing.assert_array_equal(values, trace.spikes[name].numpy())


def test_layers_in_a_container_are_called_by_their_path() -> None:
    """A Sequential in the body is no layer: what is in it is captured, whatever the depth."""
    inner = nn.Sequential(Conv2d(2, 4, 3, 1, 1), TDBatchNorm(4), LIF())
    block = nn.Sequential(OrderedDict([("first", inner), ("conv", Conv2d(4, 3, 3)), ("lif", LIF(0.5))]))
    layers: Layers = [("block", block), ("flatten", Flatten()), ("dense", Linear(3 * 4 * 3, 3))]
    network = spiking_network(layers, (2, 6, 5)).double().eval()
    with torch.no_grad():
        for module in (inner[0], block.conv):
            module.weight.mul_(4)  # type: ignore[operator, union-attr]
    captured = capture(network)
    assert [(type(node).__name__, node.name) for node in captured.nodes[1:-1]] == [
        *[("Conv", "block.first.0"), ("Norm", "block.first.1"), ("LIF", "block.first.2")],
        *[("Conv", "block.conv"), ("LIF", "block.lif"), ("Flatten", "flatten"), ("Dense", "dense")],
    ]
    images = images_for(network, 3)
    raw = encoder_of(captured)(images)
    spikes, scores = module_spikes(network, raw)
    assert set(spikes) == {"block.first.2", "block.lif"}
    for trace in (evaluate(captured, raw), evaluate(fold(captured)[0], raw)):
        for name, values in spikes.items():
            assert 0 < values.mean() < 1
            np.testing.assert_array_equal(values, trace.spikes[name].numpy())
        assert relative(trace.scores, torch.from_numpy(scores)) < 1e-9


def test_capture_reads_a_float32_network_exactly() -> None:
    """Parameters of a float32 network become the same numbers in float64; arrays are read-only copies."""
    conv = Conv2d(1, 2, 3)
    layers: Layers = [("conv", conv), ("norm", TDBatchNorm(2)), ("lif", LIF(0.3, 0.7)), ("flatten", Flatten())]
    layers += [("dense", Linear(8, 2))]
    captured = capture(spiking_network(layers, (1, 4, 4)), classes=["a", "b"])
    node = captured.of(ir.Conv)[0]
    np.testing.assert_array_equal(node.weight, conv.weight.detach().numpy().astype(np.float64))
    before = node.weight.copy()
    with torch.no_grad():
        conv.weight.zero_()
    np.testing.assert_array_equal(node.weight, before)
    assert not node.weight.flags.writeable
    assert captured.of(ir.LIF)[0].tau == float(np.float32(0.3))
    assert captured.classes == ("a", "b")


# -------------------------------------------------------------------------------------------------------- random


@st.composite
def random_layers(draw: st.DrawFn) -> tuple[Layers, tuple[int, int, int], str, str]:
    """Any order of layers that folding accepts, on any small image."""
    shape = (draw(st.sampled_from([1, 2, 3, 4])), draw(st.integers(6, 14)), draw(st.integers(6, 14)))
    channels, height, width = shape
    layers: Layers = []

    def add(kind: str, module: nn.Module) -> None:
        layers.append((f"{kind}{len(layers)}", module))

    for _ in range(draw(st.integers(0, 3))):
        if min(height, width) < 4:
            break
        pooled = draw(st.booleans()) and height % 2 == 0 and width % 2 == 0
        if pooled:
            add("pool", AvgPool2d(2))
            height, width = height // 2, width // 2
        padding = draw(st.integers(0, 2))
        kernel = draw(st.integers(1, min(3, min(height, width) + 2 * padding)))
        stride = draw(st.integers(1, 2))
        dilation = 1 if pooled else draw(st.integers(1, 2))
        if dilation * (kernel - 1) + 1 > min(height, width) + 2 * padding:
            dilation = 1
        groups = draw(st.sampled_from([1, channels]))
        outputs = groups * draw(st.integers(1, 3))
        add("conv", Conv2d(channels, outputs, kernel, stride, padding, dilation, groups, bias=draw(st.booleans())))
        height, width = (ir.out_size(side, kernel, stride, padding, dilation) for side in (height, width))
        channels = outputs
        after = dilation == 1 and min(height, width) >= 3 and draw(st.booleans())
        if after:
            k = draw(st.integers(2, 3))
            add("pool", AvgPool2d(k))
            height, width = height // k, width // k
        if draw(st.integers(0, 4)):
            add("norm", TDBatchNorm(channels, alpha=draw(st.sampled_from([1.0, ALPHA]))))
        add("lif", LIF(draw(st.floats(0.05, 1)), draw(st.floats(0.2, 2))))
    ending = draw(st.sampled_from(["flatten", "pool", "global"]))
    if ending == "pool" and min(height, width) >= 2:
        add("pool", AvgPool2d(2))
        height, width = height // 2, width // 2
    if ending == "global":
        add("gap", GlobalAvgPool())
        features = channels
    else:
        add("flatten", Flatten())
        features = channels * height * width
    if draw(st.booleans()) or not any(isinstance(module, LIF) for _, module in layers):
        add("dense", Linear(features, 6, bias=draw(st.booleans())))
        add("norm", TDBatchNorm(6))
        add("lif", LIF())
        features = 6
    readout = draw(st.sampled_from(["membrane", "spike_count"]))
    add("dense", Linear(features, 4))
    if readout == "spike_count":
        add("lif", LIF(0.5, 0.3))
    return layers, shape, readout, draw(st.sampled_from(["direct", "poisson"]))


@settings(max_examples=usually(120), deadline=None)
@given(made=random_layers(), seed=st.integers(0, 2**20))
def test_random_networks(made: tuple[Layers, tuple[int, int, int], str, str], seed: int) -> None:
    """Networks nobody thought of: no spike differs between torch, captured and folded."""
    layers, shape, readout, coding = made
    torch.manual_seed(seed)
    network = spiking_network(layers, shape, readout=readout, coding=coding, timesteps=1 + seed % 4)
    look_trained(network, seed)
    check_spikes(network, seed=seed, telling=False)


# ------------------------------------------------------------------------------------------------------ refusals


def ended(layers: Layers, shape: tuple[int, int, int] = (2, 8, 8)) -> SpikingNetwork:
    """`layers` and a dense readout of what they give."""
    layers = [*layers, ("flatten", Flatten())]
    return spiking_network([*layers, ("dense", Linear(_features(layers, shape), 3))], shape)


CONV: Layers = [("conv1", Conv2d(2, 2, 3, 1, 1)), ("lif1", LIF())]


L: Layers = [("lif9", LIF())]
POOL: Layers = [("pool", AvgPool2d(2))]
DILATED = Conv2d(2, 2, 2, dilation=2)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([*CONV, *POOL, ("conv2", DILATED), *L], r"'conv2'.*'pool'.*dilation 1"),
        ([("conv1", DILATED), *POOL, *L], r"'pool'.*'conv1'.*dilation 1"),
        ([*CONV, ("pool", AvgPool2d(3)), ("conv2", Conv2d(2, 2, 3, 1, 1)), *L], r"'pool': kernel 3 leaves out 2 of 8"),
        ([("conv1", Conv2d(2, 2, 3)), ("conv2", Conv2d(2, 2, 3)), *L], r"'conv2': no neuron between it and 'conv1'"),
        ([("norm", TDBatchNorm(2)), ("conv1", Conv2d(2, 2, 3)), *L], r"'norm': a normalization before"),
        ([*CONV, ("norm", TDBatchNorm(2)), ("conv2", Conv2d(2, 2, 3)), *L], r"'norm': a normalization before"),
        ([("lif0", LIF()), ("conv1", Conv2d(2, 2, 3)), *L], r"'lif0': a neuron needs a conv or dense"),
        ([*CONV, ("lif2", LIF())], r"'lif2': a neuron needs a conv or dense"),
        ([*CONV, *POOL, ("lif2", LIF())], r"'lif2': a neuron needs a conv or dense"),
        ([("conv1", Conv2d(2, 2, 3))], r"'flatten': no neuron between 'conv1'"),
    ],
)
def test_what_cannot_be_folded_is_refused_by_name(layers: Layers, message: str) -> None:
    """The message names the layer and what to do."""
    captured = capture(ended(layers))
    with pytest.raises(UnsupportedError, match=message):
        fold(captured)


def test_a_network_must_end_in_what_its_readout_reads() -> None:
    """A membrane readout behind a neuron, and a spike count without one, would be other networks on the chip."""
    dense: Layers = [("flatten", Flatten()), ("dense", Linear(8, 3))]
    with pytest.raises(UnsupportedError, match=r"'lif'.*membrane.*spike_count"):
        capture(spiking_network([*dense, ("lif", LIF())], (2, 2, 2), readout="membrane"))
    with pytest.raises(UnsupportedError, match=r"'dense'.*spike_count.*neuron"):
        capture(spiking_network(dense, (2, 2, 2), readout="spike_count"))
    network = spiking_network([*CONV, ("flatten", Flatten())], (2, 2, 2), readout="spike_count")
    with pytest.raises(UnsupportedError, match="'flatten': a spike_count readout must follow a neuron; end with a LIF"):
        capture(network)
    network = spiking_network([*CONV, ("flatten", Flatten())], (2, 2, 2), readout="membrane")
    with pytest.raises(UnsupportedError, match="'flatten': nothing after it can take it in; end with a dense layer"):
        fold(capture(network))


FLAT: Layers = [("flatten", Flatten())]


@pytest.mark.parametrize(
    ("layers", "readout"),
    [
        ([("conv2", Conv2d(4, 3, 8)), *FLAT, ("lif2", LIF())], "spike_count"),
        ([("conv2", Conv2d(4, 3, 3, 2, 1)), ("norm2", TDBatchNorm(3)), *FLAT, ("lif2", LIF())], "spike_count"),
        ([("pool", AvgPool2d(2)), ("conv2", Conv2d(4, 3, 4)), *FLAT, ("lif2", LIF())], "spike_count"),
        ([("conv2", Conv2d(4, 3, 3, 3)), *FLAT, ("bntt", BNTT(12, 3)), ("lif2", LIF())], "spike_count"),
        ([("conv2", Conv2d(4, 6, 3, 2, 2, 2, groups=2)), *FLAT, ("lif2", LIF())], "spike_count"),
        ([("block", Residual(Conv2d(4, 4, 3, 1, 1))), *FLAT, ("lif2", LIF())], "spike_count"),
        ([("conv2", Conv2d(4, 3, 8)), *FLAT], "membrane"),
        ([("conv2", Conv2d(4, 3, 3)), ("pool", GlobalAvgPool())], "membrane"),
        ([("conv2", Conv2d(4, 3, 7)), *FLAT, ("lif2", LIF()), ("dense", Linear(12, 3))], "membrane"),
    ],
)
def test_a_flattened_convolution_is_a_matrix(layers: Layers, readout: str) -> None:
    """Before the readout or before neurons, pooled, normalized, beside a shortcut: the same spikes and scores."""
    first: Layers = [("conv1", Conv2d(2, 4, 3, 1, 1)), ("norm1", TDBatchNorm(4)), ("lif1", LIF())]
    network = spiking_network([*first, *layers], (2, 8, 8), timesteps=3, readout=readout)
    look_trained(network, 3)
    folded, report = check_spikes(network)
    assert any(what.startswith("makes a matrix of 'conv2'") for _, what in report.steps) or "block" in dict(layers)
    last = folded[folded.readout.inputs[0]]
    assert len(folded.shape(last.name)) == 1 and isinstance(last, (ir.LIF, ir.Dense))
    made, _ = quantize(folded, load("loihi2"), schedule(folded, load("loihi2")))
    assert len(made.shape(made.readout.inputs[0])) == 1


def test_a_matrix_too_large_is_refused() -> None:
    """By its size, before it is made."""
    layers: Layers = [("conv1", Conv2d(2, 8, 3, 1, 1)), *FLAT, ("lif1", LIF())]
    network = spiking_network(layers, (2, 64, 64), readout="spike_count")
    with pytest.raises(UnsupportedError, match=r"'conv1'.*8,192 x 32,768 weights, more than 67,108,864.*dense layer"):
        fold(capture(network))
    layers = [("conv1", Conv2d(2, 3, 3)), ("bntt", BNTT(3, 3)), *FLAT, ("lif1", LIF())]
    with pytest.raises(UnsupportedError, match="'flatten': a flatten between the BNTT 'bntt' and its neurons"):
        fold(capture(spiking_network(layers, (2, 8, 8), readout="spike_count")))


@pytest.mark.parametrize(
    ("module", "instead"),
    [
        (nn.ReLU(), r"snn2chip\.nn\.LIF"),
        (nn.Sigmoid(), r"snn2chip\.nn\.LIF"),
        (nn.Tanh(), r"snn2chip\.nn\.LIF"),
        (nn.GroupNorm(1, 2), r"snn2chip\.nn\.TDBatchNorm \(a normalization over the sample cannot be folded\)"),
        (nn.LayerNorm(8), r"snn2chip\.nn\.TDBatchNorm"),
        (nn.Softmax(1), r"leave it out at the end"),
        (nn.PReLU(), r"use snn2chip\.nn\.LIF"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_unsupported_modules_are_named_with_the_nearest_thing(module: nn.Module, instead: str) -> None:
    """Whatever torch has and the chip has not: layer, class and what to use."""
    network = spiking_network([*CONV, ("odd", module)], (2, 8, 8))
    with pytest.raises(UnsupportedError, match=rf"layer 'odd': {type(module).__name__} .*{instead}"):
        capture(network)
    inside = spiking_network([*CONV, ("odd", nn.Sequential(LIF(), module))], (2, 8, 8))
    with pytest.raises(UnsupportedError, match=rf"layer 'odd\.1': {type(module).__name__} .*{instead}"):
        capture(inside)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Conv2d(2, 2, 3, padding="same"), r"'conv': padding 'same' is not a number"),
        (lambda: Conv2d(2, 2, 3, padding=1, padding_mode="reflect"), r"'conv': padding_mode 'reflect'"),
    ],
)
def test_paddings_without_counterpart_are_named(make: Callable[[], Conv2d], message: str) -> None:
    """Only zeros, by number."""
    with pytest.raises(UnsupportedError, match=message):
        capture(spiking_network([("conv", make()), ("lif", LIF())], (2, 8, 8)))


@pytest.mark.parametrize("where", ["conv.weight", "norm.running_var", "norm.bias", "dense.bias"])
def test_damaged_parameters_are_named(where: str) -> None:
    """NaN and infinity are refused with the layer and the count."""
    layers: Layers = [("conv", Conv2d(1, 2, 3)), ("norm", TDBatchNorm(2)), ("lif", LIF()), ("flatten", Flatten())]
    network = spiking_network([*layers, ("dense", Linear(8, 2))], (1, 4, 4))
    state = network.body.state_dict()
    state[where].view(-1)[0] = float("nan")
    with pytest.raises(InputError, match=rf"'{where.split('.')[0]}'.* 1 NaN"):
        capture(network)


def test_a_variance_below_zero_is_refused() -> None:
    """var + eps <= 0 has no square root: named, instead of NaN weights."""
    layers: Layers = [("conv", Conv2d(1, 2, 3)), ("norm", TDBatchNorm(2)), ("lif", LIF()), ("flatten", Flatten())]
    network = spiking_network([*layers, ("dense", Linear(8, 2))], (1, 4, 4))
    with torch.no_grad():
        network.body.norm.running_var[1] = -1.0  # type: ignore[index, operator, union-attr]
    with pytest.raises(InputError, match=r"'norm'.*variance"):
        fold(capture(network))


def test_shapes_that_do_not_fit_are_named() -> None:
    """A hand-built network whose layers do not fit says which."""
    with pytest.raises(InputError, match=r"layer 'conv2'.*5 channels"):
        capture(spiking_network([*CONV, ("conv2", Conv2d(5, 2, 3)), ("l", LIF())], (2, 8, 8)))
    with pytest.raises(InputError, match=r"layer 'dense'.*7 inputs"):
        capture(spiking_network([*CONV, ("flatten", Flatten()), ("dense", Linear(7, 2))], (2, 8, 8)))
    with pytest.raises(InputError, match=r"layer 'norm': 3 channels"):
        capture(spiking_network([("conv1", Conv2d(2, 2, 3)), ("norm", TDBatchNorm(3)), ("l", LIF())], (2, 8, 8)))


@settings(max_examples=usually(40), deadline=None)
@given(seed=st.integers(0, 2**32 - 1), alpha=st.floats(0.1, 2), threshold=st.floats(0.05, 5))
def test_norm_gain_is_the_formula(seed: int, alpha: float, threshold: float) -> None:
    """g x + (beta - g mean) is tdBN's formula, element by element in Python floats."""
    rng = rng_of(seed)
    gamma, beta, mean = rng.normal(size=(3, 4))
    var = rng.uniform(1e-12, 3, 4)
    norm = ir.Norm("n", ("x",), gamma, beta, mean, var, 1e-5, alpha, threshold)
    gain = norm_gain(norm)
    for c in range(4):
        x = float(rng.normal())
        wanted = gamma[c] * (alpha * threshold * (x - mean[c]) / (var[c] + 1e-5) ** 0.5) + beta[c]
        assert abs(gain[c] * (x - mean[c]) + beta[c] - wanted) <= 1e-12 * (1 + abs(wanted))
