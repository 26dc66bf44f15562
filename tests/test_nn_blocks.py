"""Networks that branch: residual blocks and max pooling, from the recipe to the folded network, spike for spike."""

from __future__ import annotations

import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_recipe
from helpers import Does, images_for, look_trained, spiking_network, usually
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from snn2chip import chip, data, ir
from snn2chip.errors import InputError, RecipeError, UnsupportedError
from snn2chip.ir.encode import encoder_of
from snn2chip.ir.interpreter import FloatTrace, evaluate
from snn2chip.nn import (
    LIF,
    AvgPool2d,
    Conv2d,
    Dropout,
    Flatten,
    Linear,
    MaxPool2d,
    Residual,
    SpikingNetwork,
    TDBatchNorm,
    build,
    model_file,
)
from snn2chip.passes import pipeline
from snn2chip.passes.capture import capture
from snn2chip.passes.fold import fold, norm_gain
from snn2chip.recipe import parse
from snn2chip.simulate.events.library import unavailable
from snn2chip.train.loop import Trainer
from snn2chip.verify.compare import module_spikes
from snn2chip.verify.ladder import verify

MEETING = 2**-0.5
Shape3 = tuple[int, int, int]
Rows = list[dict[str, Any]]
Folding = tuple[ir.Network, ir.Network, FloatTrace]


def conv(inputs: int = 2, outputs: int = 2, stride: int = 1, kernel: int = 3) -> Conv2d:
    return Conv2d(inputs, outputs, kernel, stride, kernel // 2)


def normed(inputs: int, outputs: int, stride: int = 1, kernel: int = 3) -> list[nn.Module]:
    """A convolution and its tdBN."""
    return [conv(inputs, outputs, stride, kernel), TDBatchNorm(outputs, alpha=MEETING)]


def branch(inputs: int = 2, outputs: int = 2, stride: int = 1) -> nn.Sequential:
    """The branch of a basic block."""
    return nn.Sequential(*normed(inputs, inputs), LIF(0.5, 0.7), *normed(inputs, outputs, stride))


def chain(*layers: nn.Module, shape: Shape3 = (2, 6, 6), stem: bool = True, **options: Any) -> SpikingNetwork:
    """A stem (net.0 to net.2: conv, tdBN, LIF), `layers` (net.3 and on), and a dense readout of what they give."""
    body = nn.Sequential(*([*normed(shape[0], 2), LIF()] if stem else []), *layers)
    x = body.eval()(torch.zeros(1, 1, *shape))
    return spiking_network([("net", body), ("flat", Flatten()), ("end", Linear(x[0, 0].numel(), 3))], shape, **options)


def exact(network: SpikingNetwork, seed: int = 0, *, gamma: str = "mixed", telling: bool = True) -> Folding:
    """Torch = captured = folded in float64: every spike; scores but for rounding. `telling`: some fired, some not."""
    look_trained(network, seed, gamma=gamma)
    captured = capture(network)
    folded, _ = fold(captured)
    raw = encoder_of(captured, seed)(images_for(network, 3, 100))
    wanted, scores = module_spikes(network, raw)
    traces = [evaluate(captured, raw), evaluate(folded, raw)]
    ors = {node.name for node in captured.of(ir.MaxPool)}
    assert [set(trace.spikes) for trace in traces] == [set(wanted), set(wanted) | ors]
    for stage, trace in zip(("captured", "folded"), traces, strict=True):
        for name, spikes in wanted.items():
            mismatches = int((trace.spikes[name].numpy() != spikes).sum())
            assert mismatches == 0, f"{stage}: {mismatches} spikes of {name} differ"
        np.testing.assert_allclose(trace.scores.numpy(), scores, rtol=1e-9, atol=1e-9)
    if telling:
        assert any(0 < spikes.mean() < 1 for spikes in wanted.values()) and np.ptp(scores, axis=0).max() > 0
    return captured, folded, traces[1]


def test_residual_is_branch_plus_shortcut() -> None:
    """branch(x) + shortcut(x); without a shortcut, branch(x) + x."""
    x = torch.randn(3, 2, 4, 5, 5)
    a, b, same = conv(4, 6), conv(4, 6, kernel=1), conv(4, 4)
    assert torch.equal(Residual(a, b)(x), a(x) + b(x))
    assert torch.equal(Residual(same)(x), same(x) + x)


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(2, None, 0), (3, 2, 1), (3, 1, 0), (2, 3, 1), (1, 1, 0)])
def test_max_pooling_is_torchs(kernel: int, stride: int | None, padding: int) -> None:
    """At every step what torch's max pooling gives, for any values."""
    x = torch.randn(3, 2, 4, 7, 8)
    for step, found in zip(x, MaxPool2d(kernel, stride, padding)(x), strict=True):
        assert torch.equal(found, F.max_pool2d(step, kernel, stride, padding))


@pytest.mark.parametrize("window", [(0,), (2, 0), (-1, 1), (3, 2, 2), (2, 2, -1)])
def test_wrong_windows_are_named(window: tuple[int, ...]) -> None:
    """Kernel, stride and padding that torch would refuse, or worse."""
    with pytest.raises(InputError, match="MaxPool2d: " + ("padding" if len(window) == 3 else ".* and stride")):
        MaxPool2d(*window)


CONV: dict[str, Any] = {"type": "conv", "channels": 8}
OVERLAPPING = {"type": "maxpool", "kernel": 3, "stride": 2, "padding": 1}
FLATTEN, GLOBAL = {"type": "flatten"}, {"type": "globalavgpool"}
CLASSES: dict[str, Any] = {"type": "dense", "features": "classes", "neuron": False}


def from_recipe(layers: Rows, shape: Shape3 = (3, 16, 16), **model: Any) -> SpikingNetwork:
    """The network of a recipe's layers, for 10 classes."""
    model = {"timesteps": 1, "layers": layers, **model}
    recipe = parse({"name": "test", "data": {"name": "digits"}, "model": model, "train": {"epochs": 1}})
    return build(recipe.model, shape, 10)


def block(channels: int, blocks: int = 1, stride: int = 1, **options: Any) -> dict[str, Any]:
    """A row of residual blocks."""
    return {"type": "residual", "channels": channels, "blocks": blocks, "stride": stride, **options}


@torch.no_grad()
def shapes(network: SpikingNetwork) -> dict[str, tuple[int, ...]]:
    """(C, H, W) or (F,) that every layer of the body gives."""
    x = torch.zeros(1, 1, *network.input_shape)
    return {name: tuple((x := layer(x)).shape[2:]) for name, layer in network.eval().body.named_children()}


@pytest.mark.parametrize("identity", ["tdbn", "none"])
@pytest.mark.parametrize("kind", ["basic", "bottleneck"])
def test_blocks_are_the_papers(kind: str, identity: str) -> None:
    """alpha is 1/sqrt(2) in the tdBNs that meet and 1 elsewhere; an identity has none only if it wants none."""
    rows = [block(8, block=kind, identity=identity), block(16, stride=2, block=kind, identity=identity)]
    network = from_recipe([CONV, *rows, FLATTEN, CLASSES])
    modules = dict(network.body.named_modules())
    last, kernels = (2, [3, 3]) if kind == "basic" else (3, [1, 3, 1])
    alphas = {"norm1": 1.0, "block2.shortcut.norm": MEETING}
    for name, inputs, out, stride in (("block1", 8, 8, 1), ("block2", 8, 16, 2)):
        alphas |= {f"{name}.branch.norm{i}": MEETING if i == last else 1.0 for i in range(1, last + 1)}
        channels = [inputs, *[out if kind == "basic" else out // 4] * (last - 1), out]
        for i, kernel in enumerate(kernels):
            layer = modules[f"{name}.branch.conv{i + 1}"]
            assert isinstance(layer, Conv2d) and layer.bias is None
            assert (layer.in_channels, layer.out_channels, layer.kernel_size[0]) == (*channels[i : i + 2], kernel)
            assert layer.stride[0] == (stride if i == last - 2 else 1)  # the first 3x3
    if identity == "tdbn":
        alphas["block1.shortcut.norm"] = MEETING
    assert {name: m.alpha for name, m in modules.items() if isinstance(m, TDBatchNorm)} == pytest.approx(alphas)
    assert [*dict(network.body.named_children())][3:] == ["block1", "lif2", "block2", "lif3", "flatten1", "dense1"]
    assert [shapes(network)[name] for name in ("block1", "lif2", "block2")] == [(8, 16, 16)] * 2 + [(16, 8, 8)]


@pytest.mark.parametrize(("projection", "stride"), [("conv", 1), ("conv", 2), ("conv", 3), ("pool", 1), ("pool", 2)])
def test_projections(projection: str, stride: int) -> None:
    """A strided 1x1 conv, or average pooling and a 1x1 conv; in the first block of a row, where the shape changes."""
    network = from_recipe([CONV, block(12, 2, stride, projection=projection), GLOBAL, CLASSES])
    pooled = projection == "pool" and stride > 1
    shortcut = network.body.get_submodule("block1.shortcut")
    assert [name for name, _ in shortcut.named_children()] == [*(["pool"] if pooled else []), "conv", "norm"]
    made = network.body.get_submodule("block1.shortcut.conv")
    assert isinstance(made, Conv2d) and made.kernel_size == (1, 1) and made.stride[0] == (1 if pooled else stride)
    assert [name for name, _ in network.body.get_submodule("block2.shortcut").named_children()] == ["norm"]
    side = -(-16 // stride)
    assert shapes(network)["block1"] == shapes(network)["block2"] == (12, side, side)


@pytest.mark.parametrize(("width", "wanted"), [(1.5, [12, 6, 24, 30, 10]), (0.05, [1, 1, 1, 1, 10])])
def test_width_scales_everything_but_the_classes(width: float, wanted: list[int]) -> None:
    """Channels, features and the inside of blocks; rounded, at least 1."""
    rows = [CONV, block(16, block="bottleneck"), GLOBAL, {"type": "dense", "features": 20}, CLASSES]
    found = shapes(network := from_recipe(rows, width=width))
    inner = network.body.get_submodule("block1.branch.conv2").out_channels
    assert [found["conv1"][0], inner, *(found[name][0] for name in ("block1", "dense1", "dense2"))] == wanted


# of 34 and 50: torchvision's conv and dense weights for 1000 classes, less those of 990 of the classes
WEIGHTS = {"ResNet-19": 12_687_232, "ResNet-34": 21_779_648 - 990 * 512, "ResNet-50": 25_502_912 - 990 * 2048}


@pytest.mark.parametrize("name", WEIGHTS)
def test_the_usual_networks(name: str) -> None:
    """ResNet-19, 34 and 50 have the conv and dense weights they are known to have; a sixteenth of their width runs."""
    if name == "ResNet-19":
        rows = [{"type": "conv", "channels": 128}, block(128, 3), block(256, 3, 2), block(512, 2, 2), GLOBAL]
        rows += [{"type": "dense", "features": 256, "norm": "tdbn"}, CLASSES]
        side, sides = 32, [32] * 3 + [16] * 3 + [8] * 2
    else:
        wider, kind = (1, "basic") if name == "ResNet-34" else (4, "bottleneck")
        plan = [(64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)]
        rows = [{"type": "conv", "channels": 64, "kernel": 7, "stride": 2}, OVERLAPPING]
        rows += [*(block(wider * c, n, s, block=kind) for c, n, s in plan), GLOBAL, CLASSES]
        side, sides = 64, [16] * 3 + [8] * 4 + [4] * 6 + [2] * 3
    with torch.device("meta"):
        modules = list(from_recipe(rows, (3, side, side)).modules())
    assert sum(m.weight.numel() for m in modules if isinstance(m, nn.Conv2d | nn.Linear)) == WEIGHTS[name]
    found = shapes(from_recipe(rows, (3, side, side), width=1 / 16))
    assert [size[1] for layer, size in found.items() if layer.startswith("block")] == sides


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"type": "maxpool"}, CONV], r"layers\.0: maxpool is over spikes; put it right after .* neuron = true"),
        ([CONV, {**CONV, "neuron": False}, {"type": "maxpool"}], r"layers\.2: maxpool is over spikes"),
        ([CONV, {"type": "maxpool", "kernel": 3, "padding": 2}], r"layers\.1: maxpool padding 2 .* kernel 3"),
        ([CONV, FLATTEN, block(4)], r"layers\.2: residual needs an image"),
        ([CONV, block(4, 1, 3, projection="pool")], r"layers\.1: .* stride 3 .* 16x16; use projection = 'conv'"),
        ([CONV, block(4, block="wide")], r"'model\.layers\.1\.block'.*'basic' or 'bottleneck'.*given: 'wide'"),
        ([CONV, block(4, norm="tdbn")], r"unknown key 'model\.layers\.1\.norm'.*identity"),
    ],
)
def test_rows_that_cannot_be_are_named(rows: Rows, message: str) -> None:
    """By their place in the recipe."""
    with pytest.raises(RecipeError, match=message):
        from_recipe([*rows, FLATTEN, CLASSES])


# --------------------------------------------------------------------------------------------------------- capture

LOUDER: Any = type("Louder", (Conv2d,), {"forward": lambda self, x: 2 * x})
JOINS: dict[str, Callable[[Any, Any], Any]] = {"+": operator.add, "+=": operator.iadd, "torch.add": torch.add}
JOINS |= {".add": lambda a, b: a.add(b), ".add_": lambda a, b: a.add_(b)}


@pytest.mark.parametrize("join", JOINS)
def test_a_users_own_modules(join: str) -> None:
    """Modules with their own forward, nested, one of them used twice: every spike is torch's, names are paths."""

    def own() -> nn.Module:
        inner = Does(lambda m, x: m.norm(m.conv(x)), conv=conv(), norm=TDBatchNorm(2))
        return Does(lambda m, x: m.lif(JOINS[join](m.inner(x), x)), inner=inner, lif=LIF())

    again = own()
    captured, folded, trace = exact(chain(again, own(), Does(lambda m, x: m.it(x), it=again)))
    once = ["net.3.inner.conv", "net.3.inner.norm", "net.3.add", "net.3.lif"]
    names = [node.name for node in captured.nodes]
    assert (names[4:8], names[12:16]) == (once, [f"{name}:2" for name in once])
    assert list(trace.spikes) == ["net.2", "net.3.lif", "net.4.lif", "net.3.lif:2"]
    assert [len(folded.synapses_of(neuron)) for neuron in folded.of(ir.LIF)] == [1] * 4  # of one source


@pytest.mark.parametrize("join", ["+=", ".add_"])
def test_whoever_holds_a_tensor_sees_it_change(join: str) -> None:
    """An addition in place changes what earlier names stand for, as it does in torch."""

    def forward(m: Any, x: Any) -> Any:
        held = m.lif1(m.conv1(x))
        JOINS[join](held, x)
        return m.lif2(m.conv2(held))

    captured, _, _ = exact(chain(Does(forward, lif1=LIF(), lif2=LIF(), conv1=conv(), conv2=conv())))
    assert captured["net.3.conv2"].inputs == ("net.3.add",)


@pytest.mark.parametrize("target", ["image", "flat", "dropped"])
def test_a_change_in_place_of_what_a_view_shares_is_refused(target: str) -> None:
    """A Flatten may or may not share memory with what it flattens; torch.fx cannot know what a later reader gets."""

    def forward(m: Any, x: Any, again: bool = True) -> Any:
        image = m.lif1(m.conv1(x))
        flat = m.flat(m.drop(image) if target == "dropped" else image)
        if target == "flat":
            flat += m.flat(x)
            return m.dense1(flat) + m.dense2(m.flat(image if again else x))
        early = m.dense2(flat)
        image += x
        return m.dense1(m.flat(image)) + (m.dense2(flat) if again else early)

    layers = {"flat": Flatten(), "drop": Dropout(0.5), "dense1": Linear(72, 3), "dense2": Linear(72, 3)}

    def made(function: Callable[[Any, Any], Any]) -> SpikingNetwork:
        body = nn.Sequential(*normed(2, 2), LIF(), Does(function, lif1=LIF(), conv1=conv(), **layers))
        return spiking_network([("net", body)], (2, 6, 6))

    what = r"to 'net\.3\.flat'" if target == "flat" else r"to 'net\.3\.lif1', while 'net\.3\.flat'"
    with pytest.raises(UnsupportedError, match=rf"layer 'net\.3\.add': an addition in place {what}.*y = y \+ x"):
        capture(made(forward))
    exact(made(lambda m, x: forward(m, x, again=False)))  # read before the change alone


def test_one_current_can_drive_several_neurons() -> None:
    """Blocks that add up before their neurons: every neuron has synapses of its own, under names of their own."""

    def forward(m: Any, x: Any) -> Any:
        y = m.conv1(x)
        y = y + m.conv2(m.lif1(y))
        y = y + m.conv3(m.lif2(y))
        return m.lif3(y) + m.lif4(y)

    neurons = {f"lif{i}": LIF(threshold=0.2 * i) for i in range(1, 5)}
    _, folded, _ = exact(chain(Does(forward, conv1=conv(), conv2=conv(), conv3=conv(), **neurons)))
    drivers = [[item.name for item in folded.synapses_of(folded[f"net.3.lif{i}"])] for i in range(1, 5)]
    assert [len(names) for names in drivers] == [1, 2, 3, 3]


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Does(lambda m, x: m.a(x) if x.sum() > 0 else x, a=conv()), r"layer 'net\.1': 'sum' over axes \[\]"),
        (Does(lambda m, x: m.a(x) if x else x, a=conv()), r"'net\.1': .* \(branches on values, loops over them\)"),
        (Does(lambda m, x: [m.a(step) for step in x], a=conv()), r"'net\.1\.a': takes steps .*, but is given one step"),
        (Does(lambda m, x: m.a(x[0, 0]), a=conv()), r"layer 'net\.1': 'getitem' in its forward function"),
        (Does(lambda m, x: m.a(x.transpose(0, 1)), a=conv()), r"layer 'net\.1': 'transpose' in its forward function"),
        (Does(lambda m, x: m.a(x) + torch.zeros(2, *x.shape), a=conv()), r"layer 'net\.1': 'add' in its forward"),
        (Does(lambda m, x: m.a(x.flatten(1)), a=conv()), r"'flatten' of 'net\.0', .* whole samples can be flattened"),
        (Does(lambda m, x: m.a(x) * x, a=conv()), r"layer 'net\.1': 'mul' in its forward function"),
        (Does(lambda m, x: torch.cat([m.a(x), x], 2), a=conv()), r"layer 'net\.1': 'cat' in its forward function"),
        (Does(lambda m, x: m.a(x) + 1, a=conv()), r"layer 'net\.1': 'add' .* layers of snn2chip\.nn and torch\.nn,"),
        (Does(lambda m, x: m.a(x) + m.a.bias, a=conv()), r"'net\.1\.a\.bias' in its forward function"),
        (Does(lambda m, x: torch.add(m.a(x), x, alpha=2), a=conv()), r"layer 'net\.1': 'add' in its forward function"),
        (Does(lambda m, x: m.a(x) + m.b(x), a=conv(), b=conv(stride=2)), r"'net\.1\.add': an add of different shapes"),
        (Does(lambda m, x: (m.a(x), x), a=conv()), "network: its forward function must return one tensor"),
        (Does(lambda m, x: (m.dead(x), m.a(x))[1], dead=LIF(), a=conv()), r"'net\.1\.dead' feeds nothing"),
        (LOUDER(2, 2, 3), r"layer 'net\.1': 'mul' in its forward function"),
        (Residual(nn.Sequential(conv(), nn.ReLU())), r"'net\.1\.branch\.1': ReLU cannot .* snn2chip\.nn\.LIF"),
        (Residual(conv(), nn.LPPool2d(2, 1)), r"'net\.1\.shortcut': LPPool2d cannot .* dense and convolutional layers"),
        (MaxPool2d(2), r"'net\.1': a membrane readout accumulates currents; end with a dense layer"),
    ],
)
def test_what_a_chip_has_no_word_for_is_named(module: nn.Module, message: str) -> None:
    """The operation or the layer, by name."""
    with pytest.raises(InputError, match=message):
        capture(spiking_network([("net", nn.Sequential(conv(), module))], (2, 6, 6)))


def test_a_body_takes_one_tensor() -> None:
    """A second argument has no place on a chip."""
    network = chain()
    network.body = type("Two", (nn.Sequential,), {"forward": lambda self, x, more: x})()
    with pytest.raises(UnsupportedError, match=r"cannot be followed .*missing 1 required positional argument: 'more'"):
        capture(network)


# --------------------------------------------------------------------------------------------------------- folding

Made = list[nn.Module]
KINDS: dict[str, Callable[[int, int], Made]] = {  # for c channels of a side s; a LIF follows
    "identity": lambda c, s: [Residual(branch(c, c))],
    "identity with tdBN": lambda c, s: [Residual(branch(c, c), TDBatchNorm(c, alpha=MEETING))],
    "halved by a pool": lambda c, s: [Residual(branch(c, c, 2), AvgPool2d(2))],
    "halved and 1x1": lambda c, s: [Residual(branch(c, 3, 2), nn.Sequential(AvgPool2d(2), *normed(c, 3, kernel=1)))],
    "projection": lambda c, s: [Residual(branch(c, 4, 2), nn.Sequential(*normed(c, 4, 2, 1)))],
    "three": lambda c, s: [Does(lambda m, x: m.a(x) + m.b(x) + x, a=branch(c, c), b=conv(c, c)), TDBatchNorm(c)],
    "nested": lambda c, s: [Residual(nn.Sequential(Residual(branch(c, c)), LIF(), Residual(conv(c, c))))],
    "currents nested": lambda c, s: [Residual(Residual(conv(c, c)), Residual(branch(c, c), TDBatchNorm(c)))],
    "twice the same": lambda c, s: [Residual(nn.Sequential())],
    "spikes added": lambda c, s: [Residual(nn.Sequential(branch(c, c), LIF())), *normed(c, 2)],
    "halved sum of spikes": lambda c, s: [Residual(nn.Sequential(branch(c, c), LIF())), AvgPool2d(2), conv(c, c)],
    "halved, one source": lambda c, s: [
        Does(lambda m, x: m.a(x) + m.b(x) + m.c(x), a=conv(c, c, 2), b=AvgPool2d(2), c=Conv2d(c, c, 3, 2, 2, 2, c))
    ],
    "halved by max pooling": lambda c, s: [MaxPool2d(2), conv(c, c)],
    "overlapping max pooling": lambda c, s: [MaxPool2d(3, 2, 1), Residual(branch(c, c))],
    "max pooling twice": lambda c, s: [MaxPool2d(2, 1, 1), MaxPool2d(1, 2), Residual(branch(c, c))],
    "dense": lambda c, s: [Flatten(), Linear(c * s * s, 6), LIF(), Residual(Linear(6, 6), TDBatchNorm(6))],
}


def made(kind: str, channels: int, side: int) -> Made:
    """Layers of a kind, and their neuron."""
    return [*KINDS[kind](channels, side), LIF()]


@pytest.mark.parametrize("coding", ["direct", "poisson"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_branch(kind: str, coding: str) -> None:
    """Whatever signs the gammas have, and zero too; behind a neuron, and reading the input itself."""
    for seed, gamma in enumerate(["+", "-", "mixed", "zeros"]):
        exact(chain(*made(kind, 2, 6), coding=coding), seed, gamma=gamma)
        if coding == "poisson" or "max" not in kind:
            exact(chain(*made(kind, 2, 6), coding=coding, stem=False), seed, gamma=gamma)


def test_what_is_added_once_counts_once() -> None:
    """The sum of spikes in a conv: its bias and its norm's shift are in the folded biases exactly once."""
    captured, folded, _ = exact(chain(*made("spikes added", 2, 6)))
    node, norm = captured["net.4"], captured["net.5"]
    assert isinstance(node, ir.Conv) and node.bias is not None and isinstance(norm, ir.Norm)
    first, second = folded.synapses_of(folded["net.6"])
    assert first.bias is not None and (second.bias is None or not second.bias.any())
    np.testing.assert_allclose(first.bias, norm.beta + norm_gain(norm) * (node.bias - norm.mean), rtol=1e-12)
    np.testing.assert_array_equal(first.weight, second.weight)


@st.composite
def mixtures(draw: st.DrawFn) -> Made:
    """One to four kinds of branches one after another, as long as there is an image."""
    layers: Made = []
    for _ in range(draw(st.integers(1, 4))):
        x = nn.Sequential(*layers).eval()(torch.zeros(1, 1, 2, 8, 8))
        if x.ndim == 5:
            kinds = [name for name in KINDS if x.shape[-1] % 2 == 0 or "halved" not in name]
            layers += made(draw(st.sampled_from(kinds)), x.shape[2], x.shape[3])
    return layers


@settings(max_examples=usually(80), deadline=None)
@given(mixtures(), st.integers(0, 2**20), st.sampled_from(["direct", "poisson"]), st.integers(1, 4))
def test_random_mixtures(layers: Made, seed: int, coding: str, steps: int) -> None:
    """Networks nobody thought of."""
    exact(chain(*layers, shape=(2, 8, 8), coding=coding, timesteps=steps), seed, telling=False)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([conv(), MaxPool2d(2), LIF()], r"'net\.4': max pooling of 'net\.3', which gives no spikes"),
        ([Residual(nn.Sequential(conv(), LIF())), MaxPool2d(2)], r"'net\.4': max pooling of 'net\.3\.add'"),
        ([Residual(nn.Sequential(conv(), conv())), LIF()], r"'net\.3\.branch\.1': no neuron between it and"),
        ([Residual(conv()), Residual(conv()), LIF()], r"'net\.4\.branch': no neuron between it and 'net\.3\.branch'"),
        ([Residual(nn.Sequential(TDBatchNorm(2), conv())), LIF()], r"'net\.3\.branch\.0': a normalization before"),
        ([Residual(nn.Sequential(LIF(), conv())), LIF()], r"'net\.3\.branch\.0': a neuron needs a conv or dense"),
        ([MaxPool2d(2), LIF()], r"'net\.4': a neuron needs a conv or dense"),
        ([LIF(), conv(), LIF()], r"'net\.3': a neuron needs a conv or dense"),
    ],
)
def test_branches_that_cannot_be_folded_are_named(layers: Made, message: str) -> None:
    """Max pooling of what is no spike, and layers that no neuron parts, or that nothing drives."""
    with pytest.raises(UnsupportedError, match=message):
        fold(capture(chain(*layers)))


@pytest.mark.parametrize("window", [(2, 2, 0), (3, 2, 1), (2, 1, 0), (3, 3, 1), (2, 3, 0), (1, 2, 0)])
def test_a_neuron_is_a_maximum_at_every_step(window: tuple[int, int, int]) -> None:
    """What the OR neuron gives in 8 steps is torch's max pooling of the spikes before it: of a LIF, of the input."""
    for stem in (True, False):
        network = chain(MaxPool2d(*window), conv(), LIF(), shape=(2, 7, 8), stem=stem, coding="poisson", timesteps=8)
        captured, _, trace = exact(network)
        raw = torch.from_numpy(encoder_of(captured, 0)(images_for(network, 3, 100)))
        given = trace.spikes["net.2"] if stem else raw
        found = trace.spikes["net.3" if stem else "net.0"]
        assert torch.equal(found.flatten(0, 1).double(), F.max_pool2d(given.flatten(0, 1).double(), *window))
        assert (found[:, 1:] & found[:, :-1]).any() and not found.all()  # some fired twice in a row


def test_max_pooling_of_a_binary_image() -> None:
    """Pixels 0 and 1 are spikes as they are; normalized they are not."""
    network = chain(MaxPool2d(2), conv(), LIF(), stem=False, max_value=1)
    with pytest.raises(UnsupportedError, match=r"'net\.0': max pooling of 'input', which gives no spikes"):
        fold(capture(network))
    network.encoder.load_state_dict({"mean": torch.zeros(2), "std": torch.ones(2)})
    exact(network)


def test_a_residual_recipe_trains_exports_and_verifies(tmp_path: Path) -> None:
    """An epoch of digits moves every parameter; every exact rung of the ladder but Lava's holds."""
    rows = [CONV, OVERLAPPING, block(8), block(12, 1, 2), GLOBAL, CLASSES]
    sets = data.load("digits", "train"), data.load("digits", "test").subset(50)
    trainer = Trainer(tiny_recipe(model__layers=rows, train__epochs=4), *sets, tmp_path, fuse=False)
    start = {key: value.detach().clone() for key, value in trainer.network.named_parameters()}
    assert len(list(trainer.run())) > 1
    assert not [key for key, value in trainer.network.named_parameters() if torch.equal(value, start[key])]
    model = model_file.load(tmp_path / "model.pt")
    export = pipeline.export(model, chip.load("loihi2"), calibration=sets[0].subset(16))
    verdict = verify(model, export.chain, sets[1].images[:4].numpy(), with_lava=False)
    assert verdict.passed and len(verdict.rungs) == 6 + (unavailable() is None)
    assert not any(rung.mismatches for rung in verdict.rungs if rung.name != "folded ~ integers")
