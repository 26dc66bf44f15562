"""Networks that others trained, from ONNX: the same function, and a start for spiking ones."""

from __future__ import annotations

import importlib.util
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Child, Command, tiny_recipe
from helpers import rng_of, usually
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from snn2chip import data, recipe
from snn2chip.errors import InputError, UnsupportedError
from snn2chip.formats.onnx import read, read_file
from snn2chip.formats.onnx.items import Block, Flat, Neuron, PlainNetwork, Pool, Weighted
from snn2chip.nn import LIF, SpikingNetwork, TDBatchNorm, model_file
from snn2chip.train import start_from_onnx
from snn2chip.train.loop import Trainer

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

EXPORTERS = ["old", "preserve", "dynamo"]
MEAN, STD = [0.3], [0.4]
# of float64 on weights rounded to float32 against float32 throughout, in shares of the largest score
CLOSE = 2e-6


class Plain(nn.Module):
    """Convolutions and dense layers, and habits of torch code: computed shapes, dropout, max pooling before ReLU."""

    def __init__(self, norm: bool = True, dilation: int = 2) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 3, padding=1, bias=not norm)
        self.bn1 = nn.BatchNorm2d(6) if norm else nn.Identity()
        self.conv2 = nn.Conv2d(6, 8, 3, padding=dilation, dilation=dilation, groups=2)
        self.bn2 = nn.BatchNorm2d(8) if norm else nn.Identity()
        self.drop = nn.Dropout(0.2)
        self.fc1 = nn.Linear(8 * 2 * 2, 12)
        self.bn3 = nn.BatchNorm1d(12) if norm else nn.Identity()
        self.fc2 = nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.avg_pool2d(F.relu(self.bn1(self.conv1(x))), 2)
        x = F.relu(F.max_pool2d(self.bn2(self.conv2(x)), 2))
        x = self.drop(x.reshape(x.size(0), -1))
        scores: Tensor = self.fc2(F.relu(self.bn3(self.fc1(x))))
        return scores


class BasicBlock(nn.Module):
    """As torchvision's."""

    def __init__(self, inputs: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out)
        self.conv2, self.bn2 = nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out)
        self.down = nn.Sequential()
        if stride > 1 or inputs != out:
            self.down = nn.Sequential(nn.Conv2d(inputs, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.down(x))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1; the shortcut pooled, or with a norm of its own."""

    def __init__(self, inputs: int, out: int, stride: int) -> None:
        super().__init__()
        inner = out // 4
        self.branch = nn.Sequential(
            nn.Conv2d(inputs, inner, 1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(),
            nn.Conv2d(inner, inner, 3, stride, 1),
            nn.BatchNorm2d(inner),
            nn.ReLU(),
            nn.Conv2d(inner, out, 1, bias=False),
            nn.BatchNorm2d(out),
        )
        self.down: nn.Module = nn.BatchNorm2d(out)
        if stride > 1 or inputs != out:
            self.down = nn.Sequential(nn.AvgPool2d(stride), nn.Conv2d(inputs, out, 1), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.down(x) + self.branch(x))


def residual(kind: str) -> nn.Module:
    """A small residual network, with the global pooling written in one of two ways."""
    block = BasicBlock if kind == "basic" else Bottleneck
    pool: list[nn.Module] = [nn.AdaptiveAvgPool2d(1), nn.Flatten()] if kind == "basic" else [Mean()]
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        block(8, 8, 1),
        block(8, 12, 2),
        block(12, 12, 1),
        *pool,
        nn.Linear(12, 10),
    )


class Mean(nn.Module):
    """Over height and width."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


class Fires(nn.Module):
    """A neuron of one step: a spike above the threshold."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.threshold > 0).float() if self.threshold < 0.3 else (x > self.threshold).float()


def spiking() -> nn.Module:
    """Thresholds in the place of ReLUs."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1),
        Fires(0.2),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3, stride=2),
        nn.BatchNorm2d(8),
        Fires(0.4),
        nn.Flatten(),
        nn.Linear(8, 10, bias=False),
    )


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: Plain(norm=False),
    "batch norm": Plain,
    "basic": lambda: residual("basic"),
    "bottleneck": lambda: residual("bottleneck"),
    "spiking": spiking,
}


def trained(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """Parameters and statistics that look trained, in eval mode."""
    torch.manual_seed(seed)
    network = make().eval()
    for module in network.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            for value, low, high in (
                (module.weight, -1.0, 1.5),
                (module.bias, -0.3, 0.5),
                (module.running_mean, -0.3, 0.3),
                (module.running_var, 0.05, 0.5),
            ):
                nn.init.uniform_(value, low, high)  # type: ignore[arg-type]
    return network


def export(network: nn.Module, path: Path, exporter: str = "old", **options: Any) -> Path:
    """The file that torch writes."""
    x = torch.randn(2, 1, 8, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if exporter == "dynamo":
            if importlib.util.find_spec("onnxscript") is None:
                pytest.skip("torch's newer exporter needs the package onnxscript")
            batch = ({0: torch.export.Dim("n")},)
            torch.onnx.export(network, (x,), path, dynamo=True, dynamic_shapes=batch, verbose=False, **options)
        else:
            if exporter == "preserve":
                options = {"training": torch.onnx.TrainingMode.PRESERVE, "opset_version": 11, **options}
            axes = {"x": {0: "n"}}
            torch.onnx.export(network, (x,), path, dynamo=False, input_names=["x"], dynamic_axes=axes, **options)
    return path


def runtime(path: Path, x: Tensor) -> Tensor:
    """What ONNX Runtime makes of it."""
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (scores,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    return torch.from_numpy(scores)


def fitted(found: PlainNetwork, **options: Any) -> start_from_onnx.Imported:
    return start_from_onnx.fit(
        found, start_from_onnx.derive(found, "it", "digits", **options), max_value=16, mean=MEAN, std=STD
    )


def images(count: int = 40, seed: int = 3) -> Tensor:
    return torch.randint(0, 17, (count, 1, 8, 8), generator=torch.Generator().manual_seed(seed))


def scores(network: SpikingNetwork, raw: Tensor) -> Tensor:
    """In float64."""
    with torch.no_grad():
        return network.double()(raw)


def normalized(raw: Tensor) -> Tensor:
    return ((raw / 16 - MEAN[0]) / STD[0]).float().contiguous()


def assert_same(network: SpikingNetwork, wanted: Tensor, raw: Tensor) -> None:
    found = scores(network, raw)
    assert float(wanted.abs().max()) > 0.1
    assert float(wanted.std(0).max()) > 0.01 * float(wanted.abs().max())  # the images make a difference
    assert float((found - wanted).abs().max()) < CLOSE * float(wanted.abs().max())


# ------------------------------------------------------------------------------------------- the same function


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("exporter", EXPORTERS)
def test_it_computes_what_onnx_runtime_computes(exporter: str, kind: str, tmp_path: Path) -> None:
    """In float64, for either normalization in the recipe, before and after statistics were measured."""
    path = export(trained(NETWORKS[kind]), tmp_path / "net.onnx", exporter)
    found, raw = read.load(path), images()
    assert (found.input_shape, found.classes, found.spiking) == ((1, 8, 8), 10, kind == "spiking")
    wanted = runtime(path, normalized(raw))
    for norm in ("none", "tdbn"):
        imported = fitted(found, norm=norm)
        assert_same(imported.network, wanted, raw)
        if exporter == "preserve" and kind != "plain":
            assert imported.unknown == ["norm1"] * (kind == "spiking" and norm == "tdbn")
        single = start_from_onnx.Imported(imported.network.float(), imported.recipe, [], imported.unknown)
        start_from_onnx.calibrate(single, images(200, 7))
        assert_same(imported.network, wanted, raw)


@pytest.mark.parametrize("opset", [7, 8, 9, 10, 11, 13, 17, 20])
def test_opsets(opset: int, tmp_path: Path) -> None:
    """Old and new: axes as attributes and inputs, dropout with and without a mask; the oldest are lifted."""
    path = export(trained(Plain), tmp_path / "net.onnx", "preserve" if opset > 10 else "old", opset_version=opset)
    raw = images()
    found = read.load(path)
    assert found.notes == ((f"opset {opset}, lifted to 11 by onnx's version converter",) if opset < 11 else ())
    assert_same(fitted(found).network, runtime(path, normalized(raw)), raw)


@pytest.mark.parametrize("end", [nn.Softmax(-1), nn.LogSoftmax(1)])
@pytest.mark.parametrize("opset", [9, 11, 17])
def test_a_closing_softmax_changes_no_decision(opset: int, end: nn.Module, tmp_path: Path) -> None:
    """The scores are those before it, and that is said."""
    network, raw = trained(Plain), images()
    path = export(nn.Sequential(network, end).eval(), tmp_path / "net.onnx", opset_version=opset)
    found = read.load(path)
    name = type(end).__name__
    assert (
        found.notes[-1] == f"the closing {name} is left out: the scores are those before it, the decision is the same"
    )
    with torch.no_grad():
        assert_same(fitted(found).network, network(normalized(raw)), raw)
    assert (scores(fitted(found).network, raw).argmax(1) == runtime(path, normalized(raw)).argmax(1)).all()


class Normalizing(nn.Module):
    """What networks do to their input before the first layer."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.network = way, trained(Plain)
        self.bn = trained(lambda: nn.BatchNorm2d(1))
        self.bn.weight.data.abs_().add_(0.1)
        self.mean, self.std = torch.tensor([0.3]).reshape(1, 1, 1), torch.tensor([0.2])

    def forward(self, x: Tensor) -> Tensor:
        if self.way == "sub, div":
            x = (x - self.mean) / self.std
        elif self.way == "mul, add":
            x = x * 2.5 + 0.25
        elif self.way == "bytes":
            x = (x.float() / 255 - 0.3) / 0.4
        elif self.way == "batch norm":
            x = self.bn(x)
        elif self.way == "channels last":
            x = ((x - self.mean) / self.std).permute(0, 3, 1, 2) * 1.5
        scores: Tensor = self.network(x)
        return scores


@pytest.mark.parametrize("way", ["sub, div", "mul, add", "bytes", "batch norm", "channels last"])
def test_what_the_file_does_to_its_input_is_normalization(way: str, tmp_path: Path) -> None:
    """Folded into mean and std, on top of those that are said; said too."""
    raw = images()
    given = (raw.float() / 16 * 255).round().to(torch.uint8) if way == "bytes" else normalized(raw)
    given = given.permute(0, 2, 3, 1).contiguous() if way == "channels last" else given
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Normalizing(way).eval(),
            (given,),
            tmp_path / "net.onnx",
            dynamo=False,
            input_names=["x"],
            dynamic_axes={"x": {0: "n"}},
            opset_version=17,
        )
    found = read.load(tmp_path / "net.onnx")
    assert found.input_shape == (1, 8, 8)
    assert found.notes[-1].startswith("the file normalizes its input itself, (x - ")
    wanted = runtime(tmp_path / "net.onnx", given)
    if way == "bytes":  # x is the pixel itself, as bytes
        start = start_from_onnx.derive(found, "it", "digits")
        imported = start_from_onnx.fit(found, start, max_value=255, mean=[0], std=[1 / 255])
        raw = given
    else:
        imported = fitted(found)
    assert_same(imported.network, wanted, raw)


def test_by_channel(tmp_path: Path) -> None:
    """Means and stds of three channels in both layouts, worked out by hand."""
    last = {"m": np.float32([[[[1, 2, 3]]]]), "s": np.float32([2, 4, 8])}
    nodes = [node("Sub", "x m", "a"), node("Div", "a s", "b"), node("Transpose", "b", "c", perm=[0, 3, 1, 2])]
    rest = [node("Conv", "c w", "d"), node("Relu", "d", "e"), node("Flatten", "e", "f"), node("Gemm", "f g", "y")]
    weights = {"w": floats(3, 3, 1, 1), "g": floats(48, 10)}
    path = tmp_path / "g.onnx"
    for values, first in (
        (last, nodes),
        ({name: value.reshape(3, 1, 1) for name, value in last.items()}, [nodes[2], *nodes[:2]]),
    ):
        wires = ("x", *"abc")
        chained = [
            node(each.op_type, " ".join((wires[at], *each.input[1:])), wires[at + 1], **(
                {"perm": [0, 3, 1, 2]} if each.op_type == "Transpose" else {}))
            for at, each in enumerate(first)
        ]  # fmt: skip
        found = read.load(graph_file(path, [*chained, *rest], weights | values, shape=("n", 4, 4, 3)))
        assert found.input_shape == (3, 4, 4)
        assert found.scale.tolist() == [1 / 2, 1 / 4, 1 / 8]
        assert found.shift.tolist() == [-1 / 2, -2 / 4, -3 / 8]
        mean, std = found.normalization(np.full(3, 0.5), np.full(3, 0.25))
        assert mean.tolist() == [0.5 + 0.25 * m for m in (1, 2, 3)]
        assert std.tolist() == [0.25 * s for s in (2, 4, 8)]


def test_a_batch_norm_between_unsqueeze_and_squeeze(tmp_path: Path) -> None:
    """As old exporters write the one of features: it joins the dense layer before it."""
    rng = rng_of(0)
    vectors = {name: rng.uniform(0.2, 1, 12).astype(np.float32) for name in ("gamma", "beta", "mean", "variance")}
    nodes = [
        node("Flatten", "x", "f"),
        node("Gemm", "f w b", "a"),
        node("Unsqueeze", "a", "c", axes=[2]),
        node("BatchNormalization", "c gamma beta mean variance", "d"),
        node("Squeeze", "d", "e", axes=[2]),
        node("Relu", "e", "g"),
        node("Gemm", "g v", "y"),
    ]
    nodes[-1].name = "the last"
    weights = {"w": rng.normal(size=(64, 12)).astype(np.float32), "v": rng.normal(size=(12, 10)).astype(np.float32),
               "b": vectors["beta"]}  # fmt: skip
    path, raw = graph_file(tmp_path / "g.onnx", nodes, weights | vectors, shape=("n", 1, 8, 8), opset=11), images()
    found = read.load(path)
    assert [type(item) for item in found.items] == [Flat, Weighted, Neuron, Weighted]
    assert_same(fitted(found).network, runtime(path, normalized(raw)), raw)
    nodes[4:6] = [node("Relu", "d", "h"), node("Squeeze", "h", "g", axes=[2])]
    found = read.load(graph_file(path, nodes, weights | vectors, shape=("n", 1, 8, 8), opset=11))
    assert_same(fitted(found).network, runtime(path, normalized(raw)), raw)


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space")
def test_too_little_memory_is_not_the_files_fault(tmp_path: Path) -> None:
    """protobuf's own errors are known as such, for reading and for writing."""
    nodes, values = good()
    path = graph_file(tmp_path / "g.onnx", nodes, values | {"unused": np.ones(20_000_000, np.float32)})
    code = """
import pathlib, resource, sys
import onnx
from snn2chip.errors import out_of_memory
from snn2chip.formats.onnx import graph as onnx_graph, read_file as onnx_read
path = pathlib.Path(sys.argv[1])
model = onnx.load(path)
pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 100_000_000,) * 2)
for action in (lambda: onnx_read.read(path), lambda: [onnx_graph.write(path.with_name("b.onnx"), model) for _ in "12"]):
    try:
        action()
    except Exception as error:
        print("memory" if out_of_memory(error) else error)
"""
    assert Child(code, path).finish().ok().split() == ["memory", "memory"]
    assert [file.name for file in tmp_path.iterdir()] == ["g.onnx"]


@settings(max_examples=usually(15), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**16),
    convs=st.lists(
        st.tuples(
            st.integers(1, 5), st.integers(1, 4), st.integers(1, 2), st.integers(0, 2), st.booleans(), st.booleans()
        ),
        min_size=1,
        max_size=3,
    ),
)
def test_random_chains(seed: int, convs: list[tuple[int, int, int, int, bool, bool]], tmp_path: Path) -> None:
    """Any kernel, stride, padding, bias and norm."""
    modules: list[nn.Module] = []
    channels, side = 1, 8
    for out, kernel, stride, padding, bias, norm in convs:
        if side + 2 * padding < kernel:
            continue
        modules += [nn.Conv2d(channels, out, kernel, stride, padding, bias=bias)]
        modules += [nn.BatchNorm2d(out)] if norm else []
        modules += [nn.ReLU()]
        channels, side = out, (side + 2 * padding - kernel) // stride + 1
    modules += [nn.Flatten(), nn.Linear(channels * side * side, 10)]
    path = export(trained(lambda: nn.Sequential(*modules), seed), tmp_path / "net.onnx", "preserve")
    raw = images(10, seed)
    if any(isinstance(module, nn.ReLU) for module in modules):
        found = scores(fitted(read.load(path)).network, raw)
        wanted = runtime(path, normalized(raw))
        assert float((found - wanted).abs().max()) < CLOSE * max(1.0, float(wanted.abs().max()))


def test_measured_statistics_are_those_of_the_activations(tmp_path: Path) -> None:
    """So that training, which normalizes by a batch's own, starts from nearly the same function."""
    path = export(trained(Plain), tmp_path / "net.onnx")
    imported = fitted(read.load(path), norm="tdbn")
    assert imported.unknown == ["norm1", "norm2"]  # torch folds into convolutions, and leaves a dense layer's
    raw = images(300)
    network = imported.network
    start_from_onnx.calibrate(imported, raw)
    with torch.no_grad():
        before = network(raw)
        for name in imported.unknown:
            module = network.body.get_submodule(name)
            module.train()
            assert isinstance(module, TDBatchNorm)
        assert torch.allclose(network(raw), before, atol=2e-2 * float(before.abs().max()))


def test_what_is_found_is_named(tmp_path: Path) -> None:
    """The items are those of the file; max pooling stands behind its neuron."""
    found = read.load(export(trained(Plain), tmp_path / "net.onnx", "preserve"))
    kinds = [type(item) for item in found.items]
    assert kinds == [Weighted, Neuron, Pool, Weighted, Neuron, Pool, Flat, Weighted, Neuron, Weighted]
    blocks = read.load(export(residual("basic").eval(), tmp_path / "r.onnx")).items
    assert sum(isinstance(item, Block) for item in blocks) == 3


# -------------------------------------------------------------------------------------------------- with a recipe


def wanted_recipe(norm: str, **changes: Any) -> recipe.Recipe:
    layers: list[dict[str, Any]] = [
        {"type": "conv", "channels": 6, "norm": norm, "bias": norm == "none"},
        {"type": "avgpool"},
        {"type": "conv", "channels": 8, "padding": 2, "dilation": 2, "groups": 2, "norm": norm, "bias": norm == "none"},
        {"type": "maxpool"},
        {"type": "flatten"},
        {"type": "dropout"},
        {"type": "dense", "features": 12, "norm": norm},
        {"type": "dense", "features": "classes", "neuron": False},
    ]
    return tiny_recipe(model__layers=layers, **changes)


@pytest.mark.parametrize("norm", ["none", "tdbn", "bntt"])
def test_a_recipe_of_ones_own(norm: str, tmp_path: Path) -> None:
    """Matched layer by layer; any normalization, another threshold in tdBN's gain."""
    path = export(trained(Plain), tmp_path / "net.onnx", "preserve")
    chosen = wanted_recipe(norm, model__neuron={"threshold": 0.8})
    imported = start_from_onnx.fit(read.load(path), chosen, max_value=16, mean=MEAN, std=STD)
    raw = images()
    assert_same(imported.network, runtime(path, normalized(raw)), raw)
    assert imported.unknown == []
    assert len(imported.notes) == (3 if norm == "bntt" else 0)


@pytest.mark.parametrize(
    ("place", "layer", "message"),
    [
        (
            0,
            {"channels": 8},
            r"recipe 'tiny': 'conv1' is a conv \(8, 1, 3, 3\).*the file has '.*', a conv \(6, 1, 3, 3\)",
        ),
        (0, {"stride": 2}, r"'conv1' is a conv .* with stride 2, .* with stride 1"),
        (0, {"bias": False}, r"'conv1' has neither bias nor normalization.*set bias = true"),
        (1, {"kernel": 4}, r"'pool1' is avg pooling of kernel 4, .*, but the file has '.*', avg pooling of kernel 2"),
        (
            3,
            {"stride": 1},
            r"'pool2' is max pooling of kernel 2, stride 1, .*the file has '.*', max pooling of kernel 2, stride 2",
        ),
        (6, {"features": 13}, r"'dense1' is a dense layer \(13, 32\), but the file has '.*', a dense layer \(12, 32\)"),
        (6, {"neuron": False}, r"'dense2' is a dense layer \(10, 12\), but the file has '.*', a neuron"),
    ],
)
def test_other_layers_are_refused(place: int, layer: dict[str, Any], message: str, tmp_path: Path) -> None:
    """With the names and shapes of both sides."""
    path = export(trained(Plain), tmp_path / "net.onnx")
    values = wanted_recipe("none").model_dump(mode="json")
    values["model"]["layers"][place] |= layer
    with pytest.raises(InputError, match=message):
        start_from_onnx.fit(read.load(path), recipe.parse(values), max_value=16, mean=MEAN, std=STD)


def test_the_recipe_that_is_written_reads_back(tmp_path: Path) -> None:
    """As TOML, for every network."""
    for kind, make in NETWORKS.items():
        found = read.load(export(trained(make), tmp_path / f"{kind}.onnx"))
        derived = start_from_onnx.derive(found, "it", "folder", timesteps=3, norm="tdbn", size=8)
        (tmp_path / "r.toml").write_text(start_from_onnx.recipe_text(derived))
        assert recipe.load(tmp_path / "r.toml") == derived


# ---------------------------------------------------------------------------------------------------- to the end


def ann(tmp_path: Path, epochs: int = 6) -> Path:
    """Plain trained on digits, as somebody would outside of this project."""
    torch.manual_seed(0)
    network, train = Plain(dilation=1), data.load("digits", "train")
    optimizer = torch.optim.Adam(network.parameters(), 5e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(train)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(network(normalized(train.images[rows])), train.labels[rows]).backward()
            optimizer.step()
    return export(network.eval(), tmp_path / "My net.onnx")


def test_a_network_trained_elsewhere_starts_a_spiking_one(cli: Command, tmp_path: Path) -> None:
    """torch to ONNX to model.pt to a spiking network, which has its weights and its input, and learns from there."""
    path = ann(tmp_path)
    out = tmp_path / "imported"
    said = cli(
        "import", path, "--dataset", "digits", "--mean", "0.3", "--std", "0.4", "-o", out, "--timesteps", "2"
    ).ok()
    model = model_file.load(out / "model.pt")
    test = data.load("digits", "test")
    wanted = float((runtime(path, normalized(test.images)).argmax(1) == test.labels).float().mean())
    assert wanted > 0.9
    assert model.metrics["float_accuracy"] == pytest.approx(wanted, abs=0.003)
    assert f"test accuracy {100 * model.metrics['float_accuracy']:.2f} %" in said
    assert f"next: snn2chip train {out / 'recipe.toml'} --init {out / 'model.pt'}" in said

    chosen = recipe.load(out / "recipe.toml", ["train.epochs=3", "train.lr=2e-3"])
    assert (chosen.name, chosen.model.timesteps, chosen.model.neuron.kind) == ("my-net", 2, "lif")
    sets = data.load("digits", "train"), test.subset(200)
    trainer = Trainer(chosen, *sets, tmp_path / "snn", fuse=False, init=out / "model.pt")
    assert trainer.notes[0] == "input normalized with mean 0.3 and std 0.4, as where the weights come from"
    assert trainer.notes[1].startswith("thresholds set to percentile 85 of the currents: lif1 ")
    for name in ("conv1", "conv2", "dense1", "dense2"):
        for key in ("weight", "bias"):
            theirs = model.network.body.get_submodule(name).get_parameter(key)
            assert torch.equal(trainer.network.body.get_submodule(name).get_parameter(key), theirs), name
    cold = Trainer(chosen, *sets, tmp_path / "cold", fuse=False)
    for run in (trainer, cold):
        list(run.run())
    assert trainer.metrics["float_accuracy"] > cold.metrics["float_accuracy"] + 0.3
    kept = model_file.load(tmp_path / "snn" / "model.pt").network.encoder
    assert (kept.mean.tolist(), kept.std.tolist()) == (pytest.approx([0.3]), pytest.approx([0.4]))

    # and down to a single step
    cli("retrain", tmp_path / "snn" / "model.pt", "--timesteps", "1", "--epochs", "1", "--out", tmp_path / "iir",
        "--device", "cpu").ok()  # fmt: skip
    last = model_file.load(tmp_path / "iir" / "T1" / "model.pt")
    assert last.network.timesteps == 1
    assert last.network.encoder.mean.tolist() == kept.mean.tolist()
    cli("fold-and-export", tmp_path / "iir" / "T1" / "model.pt").ok()


def test_thresholds_go_along(tmp_path: Path) -> None:
    """A network of thresholds is a spiking one at T = 1, and starts others with them."""
    found = read.load(export(trained(spiking), tmp_path / "net.onnx"))
    imported = fitted(found)
    lifs = [module for module in imported.network.modules() if isinstance(module, LIF)]
    assert [float(module.threshold.detach()) for module in lifs] == pytest.approx([0.2, 0.4])
    model_file.save(
        tmp_path / "m.pt", imported.network, imported.recipe, max_value=16, classes=list("0123456789"), metrics={}
    )
    chosen = start_from_onnx.derive(found, "it", "digits", timesteps=3)
    sets = data.load("digits", "train"), data.load("digits", "test").subset(40)
    trainer = Trainer(chosen, *sets, tmp_path / "snn", fuse=False, init=tmp_path / "m.pt")
    lifs = [module for module in trainer.network.modules() if isinstance(module, LIF)]
    assert [float(module.threshold.detach()) for module in lifs] == pytest.approx([0.2, 0.4])
    assert not any("thresholds" in note for note in trainer.notes)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--dataset", "digits", "--std", "1"], ["--mean is missing", "pixel / largest pixel"]),
        (["--dataset", "digits", "--mean", "0"], ["--std is missing"]),
        (["--dataset", "digits", "--mean", "a", "--std", "1"], ["--mean 'a'", "expected numbers"]),
        (["--dataset", "digits", "--mean", "0,0", "--std", "1"], ["--mean '0,0'", "expected 1 or 1"]),
        (["--dataset", "digits", "--mean", "0", "--std", "0"], ["--std '0'", "not positive"]),
        (["--dataset", "digits", "--mean", "nan", "--std", "1"], ["finite"]),
        (["--mean", "0", "--std", "1"], ["--dataset"]),
        (["--recipe", "digits-tdbn", "--dataset", "digits", "--mean", "0", "--std", "1"], ["--dataset", "--recipe"]),
        (["--recipe", "digits-tdbn", "--mean", "0", "--std", "1"], ["'conv1'", "32, 1, 3, 3", "6, 1, 3, 3"]),
        (["--dataset", "nothing", "--mean", "0", "--std", "1"], ["nothing"]),
        (["--dataset", "digits", "--mean", "0", "--std", "1", "--timesteps", "0"], ["timesteps"]),
    ],
)
def test_options(options: list[str], words: list[str], cli: Command, tmp_path: Path, monkeypatch: Any) -> None:
    """What is missing or wrong is said in a line, and nothing is written."""
    monkeypatch.setenv("SNN2CHIP_DATA", str(tmp_path / "no data"))
    path = export(trained(Plain), tmp_path / "net.onnx")
    cli("import", path, *options, "-o", tmp_path / "out").refused(*words)
    assert not (tmp_path / "out").exists()


def test_a_recipe_is_not_overwritten(cli: Command, tmp_path: Path) -> None:
    """It may have been changed by hand."""
    path = export(trained(Plain), tmp_path / "net.onnx")
    options = ("--dataset", "digits", "--mean", "0.3", "--std", "0.4", "-o", tmp_path / "out")
    cli("import", path, *options).ok()
    kept = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    cli("import", path, *options).refused("model.pt", "recipe.toml", "--overwrite")
    again = ("import", path, "--recipe", tmp_path / "out" / "recipe.toml", *options[2:])
    cli(*again).refused("holds results already (model.pt)", "--overwrite")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == kept
    said = cli(*again, "--overwrite").ok()
    assert str(tmp_path / "out" / "recipe.toml") in said
    assert (tmp_path / "out" / "recipe.toml").read_bytes() == kept["recipe.toml"]


# ---------------------------------------------------------------------------------------------------- bad input


def graph_file(
    path: Path,
    nodes: Sequence[Any],
    weights: dict[str, Any],
    *,
    shape: Sequence[Any] = ("n", 1, 4, 4),
    opset: int = 18,
    output: str = "y",
    domain: str = "",
) -> Path:
    """An ONNX file of hand-made nodes; weights are arrays, or TensorProtos as they are."""
    helper, kinds = onnx.helper, onnx.TensorProto
    initializers = [
        onnx.numpy_helper.from_array(value) if isinstance(value, np.ndarray) else value for value in weights.values()
    ]
    for name, tensor in zip(weights, initializers, strict=True):
        tensor.name = name
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", kinds.FLOAT, list(shape))],
        [helper.make_tensor_value_info(output, kinds.FLOAT, None)],
        initializers,
    )
    opsets = [helper.make_opsetid(domain, opset)]
    path.write_bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())
    return path


def floats(*shape: int, value: float | None = None) -> np.ndarray:
    return np.full(shape, 0.1 if value is None else value, dtype=np.float32)


def node(op: str, inputs: str, output: str, **attributes: Any) -> Any:
    return onnx.helper.make_node(op, inputs.split(), output.split(), f"the {op}", **attributes)


def good() -> tuple[list[Any], dict[str, Any]]:
    nodes = [
        node("Conv", "x w b", "c", pads=[1, 1, 1, 1]),
        node("Relu", "c", "r"),
        node("Flatten", "r", "f"),
        node("MatMul", "f m", "p"),
        node("Add", "p a", "y"),
    ]
    return nodes, {"w": floats(3, 1, 3, 3), "b": floats(3), "m": floats(48, 10), "a": floats(1, 10)}


def claims(*dims: int, raw: bytes = b"", kind: int = 1, at: str = "", **where: str) -> Any:
    """A tensor that says what its bytes do not hold, or that they are in another file."""
    if not at:
        return onnx.TensorProto(data_type=kind, dims=dims, raw_data=raw)
    tensor = onnx.TensorProto(data_type=kind, dims=dims, data_location=onnx.TensorProto.EXTERNAL)
    for key, value in {"location": at, **where}.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def test_a_product_with_its_bias(tmp_path: Path) -> None:
    """MatMul and Add, as torch writes Linear at times; and a hand-made file is one that is read."""
    found = read.load(graph_file(tmp_path / "g.onnx", *good()))
    last = found.items[-1]
    assert isinstance(last, Weighted)
    assert (last.weight.shape, last.bias is not None, found.classes) == ((10, 48), True, 10)


def changed(op: str, inputs: str, output: str, **attributes: Any) -> Any:
    """A node in the place of the one of `good` that makes the same output."""
    return {output: node(op, inputs, output, **attributes)}


REFUSED: list[tuple[dict[str, Any], str]] = [
    # what is other than in `good`: nodes by their output and weights; the message
    (changed("Sigmoid", "c", "r"), r"node 'the Sigmoid': Sigmoid is not read; train with ReLU"),
    (changed("Softmax", "c", "r"), r"node 'the Softmax': Softmax is not read; it may end the network; else"),
    (changed("LSTM", "c w w", "r"), r"node 'the LSTM': LSTM is not read; what is read: Conv, Gemm"),
    (changed("LSTM", "c", "r"), r"Node\(the LSTM\) .* has input size 1 not in range"),
    (changed("Conv", "y w b", "c"), r"input 'y' of node: name: the Conv .* is not output of any previous nodes"),
    ({"w": None}, r"input 'w' of node: name: the Conv OpType: Conv is not output of any previous nodes"),
    ({"r": node("Relu", "c", "c")}, r"'c' has been used as output names multiple times.; the file is damaged"),
    ({"w": floats(3, 1, 3, 3, value=np.nan)}, r"'the Conv': Conv: weight 'w' holds 27 NaN or infinite of 27"),
    ({"a": floats(1, 10, value=np.inf)}, r"'the Add': Add: weight 'a' holds 10 NaN or infinite of 10"),
    ({"w": claims(2**20, 2**20, 3, 3)}, r"weight 'w' is of shape .* at most 67,108,864 values"),
    ({"w": claims(-3, 1, 3, 3)}, r"weight 'w' is of shape \(-3, 1, 3, 3\)"),
    ({"w": claims(3, 1, 3, 3, raw=b"1234")}, r"weight 'w' of shape \(3, 1, 3, 3\): cannot reshape array of size 1"),
    ({"w": claims(3, 1, 3, 3, kind=8)}, r"weight 'w' is of type 8; float16, 32, 64"),
    ({"w": claims(3, 1, 3, 3, at="../w.bin")}, r"is in '\.\./w\.bin'; only files in the model's own folder"),
    ({"w": claims(3, 1, 3, 3, at="/dev/zero")}, r"is in '/dev/zero'; only files in the model's own folder"),
    ({"w": claims(3, 1, 3, 3, at="link.bin")}, r"'link\.bin'; only files .* are read, and no links to elsewhere"),
    ({"w": claims(3, 1, 3, 3, at=".")}, r"weight 'w' is in '\.', which is no plain file"),
    ({"w": claims(3, 1, 3, 3, at="w.bin")}, r"is in 'w\.bin', which cannot be read: No such file"),
    ({"w": claims(3, 1, 3, 3, at="short.bin")}, r"'short\.bin', which has 1 of 27 values; it is truncated"),
    ({"w": claims(3, 1, 3, 3, at="short.bin", length="5")}, r"'short\.bin', with 5 bytes for 27 values"),
    ({"w": claims(3, 1, 3, 3, at="short.bin", offset="x")}, r"'short\.bin', which cannot be read: invalid literal"),
    ({"m": floats(47, 10)}, r"'the MatMul': MatMul with weights \(10, 47\) does not fit 48 features"),
    ({"b": floats(4)}, r"'the Conv': Conv with 'b' of shape \(4,\), not \(3,\)"),
    ({"w": floats(3, 1, 3, 1)}, r"'the Conv': Conv with weights of shape .* square kernels"),
    (changed("Conv", "x w b", "c", strides=[1, 2]), r"'the Conv': Conv with strides \(1, 2\); the same"),
    (changed("Conv", "x w b", "c", pads=[0, 0, 1, 1]), r"'the Conv': Conv with pads \(0, 0, 1, 1\)"),
    (changed("Conv", "x w b", "c", strides=[0, 0]), r"'the Conv': Conv with strides 0, outside 1"),
    (changed("Conv", "x w b", "c", pads=[60000] * 4), r"'the Conv': Conv gives .* more than 67,108"),
    (changed("Conv", "x w b", "c", group=0), r"'the Conv': Conv with weights .* and 0 groups"),
    (changed("Conv", "x w b", "c", group="a"), r"attribute type in 'the Conv : group'. Expected: 'INT'"),
    (
        changed("Conv", "x w b", "c", dilations=[3, 3]),
        r"'the Conv': Conv of reach 7 does not fit its input of \[4, 4\]",
    ),
    (changed("Flatten", "r", "f", axis=2), r"'the Flatten': Flatten of \(3, 4, 4\) a sample to \[\d+, 16\]"),
    (
        changed("BatchNormalization", "q b b b b", "r") | changed("Relu", "c", "q"),
        r"'the BatchNormalization': BatchNorm.*behind",
    ),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED, ids=range(len(REFUSED)))
def test_damage_is_named(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    """By node and weight, in one line."""
    (tmp_path / "elsewhere.bin").write_bytes(bytes(108))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "short.bin").write_bytes(b"12345")
    (folder / "link.bin").symlink_to(tmp_path / "elsewhere.bin")
    nodes, values = good()
    nodes = [changes.get(each.output[0], each) for each in nodes]
    nodes[1:1] = [changes["q"]] if "q" in changes else []
    for name in values:
        values[name] = changes.get(name, values[name])
    path = graph_file(folder / "g.onnx", nodes, {name: value for name, value in values.items() if value is not None})
    with pytest.raises(InputError, match=message) as caught:
        read.load(path)
    assert str(caught.value).startswith(f"'{path}': ") and len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"opset": 6}, r"opset 6; 7 to \d+ are read: export again"),
        ({"opset": 999}, r"opset 999; 7 to"),
        ({"domain": "my.own"}, r"opset none"),
        ({"shape": ("n", 1, "h", "w")}, r"input 'x' is \(\?, 1, \?, \?\); images .* fixed C, H and W"),
        ({"shape": (1, 16)}, r"input 'x' is \(1, 16\); images"),
        ({"shape": ("n", 1, 2**20, 2**20)}, r"more than 16,777,216 values"),
        ({"output": "z"}, r"output 'z' is not an output of any node"),
        ({"output": "r"}, r"'the Flatten': Flatten does not lie between"),
    ],
)
def test_files_that_are_refused_whole(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    """Opset, input and output."""
    with pytest.raises(InputError, match=message):
        read.load(graph_file(tmp_path / "g.onnx", *good(), **options))


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([node("Relu", "x", "y")], r"'the Relu': a neuron stands behind Conv, Gemm or Add, not first"),
        ([node("Conv", "x w", "a"), node("Add", "a a", "y")], r"'the Add': Add of two arms that both have neurons, or"),
        ([node("Conv", "x w", "a"), node("Conv", "a v", "b"), node("Conv", "a v", "c"), node("Conv", "a v", "d"),
          node("Add", "b c", "e"), node("Add", "e d", "y")], r"output of node 'the Conv' is read by 3 nodes"),
        ([node("Conv", "x w", "a"), node("Greater", "a t", "y")], r"Greater is read before Cast"),
        ([node("Conv", "x w", "a"), node("Greater", "a n", "b"), node("Cast", "b", "y", to=1)], r"a threshold of -1"),
        ([node("Sub", "x t", "a"), node("Conv", "a w", "y")], r"'the Conv': Conv ends the network"),
        ([node("Sub", "t x", "a"), node("Conv", "a w", "y")], r"'the Sub': Sub of the input from a constant turns it"),
        ([node("Div", "t x", "a"), node("Conv", "a w", "y")], r"'the Div': Div is not read; of the input by positive"),
        ([node("Mul", "x n", "a"), node("Conv", "a w", "y")], r"Mul of the input by numbers that are"),
        ([node("Conv", "x w", "a"), node("MaxPool", "a", "b", kernel_shape=[2, 2]), node("Flatten", "b", "y")],
         r"'the MaxPool': MaxPool stands next to a neuron"),
        ([node("Conv", "x w", "a"), node("Relu", "a", "b"), node("Flatten", "b", "y")], r"'the Flatten': Flatten ends"),
        ([node("Flatten", "x", "a"), node("Gemm", "a g", "y")], r"no Relu, and no threshold"),
        ([node("Flatten", "x", "a"), node("Gemm", "a g", "y", alpha=2.0)], r"'the Gemm': Gemm with alpha 2.0"),
        ([node("Flatten", "x", "a"), node("Gemm", "a g", "y", transA=1)], r"'the Gemm': Gemm with transA"),
        ([node("Dropout", "x", "a m"), node("Add", "a m", "y")], r"'the Dropout': Dropout whose mask is read"),
        ([node("Concat", "x x", "y", axis=1)], r"'the Concat': Concat of activations"),
        ([node("Conv", "x w", "a"), node("Relu", "a", "b"),
          node("AveragePool", "b", "y", kernel_shape=[3, 3], strides=[2, 2])], r"AveragePool with kernel 3, stride 2"),
        ([node("ReduceMean", "x", "y", keepdims=1)], r"'the ReduceMean': ReduceMean over axes \(\)"),
        ([node("Shape", "x", "s0"), *(node("Concat", f"s{i} s{i}", f"s{i + 1}", axis=0) for i in range(60)),
          node("Reshape", "x s60", "y")], r"'the Concat': Concat of constants is not read"),
        ([node("Reshape", "x s", "y")], r"'the Reshape': Reshape of \(1, 4, 4\) a sample to \[2, 'N'\?|'the Reshape'"),
    ],
    ids=range(20),
)  # fmt: skip
def test_graphs_that_are_no_network(nodes: list[Any], message: str, tmp_path: Path) -> None:
    """By the node that does not fit."""
    weights = {
        "w": floats(3, 1, 1, 1),
        "v": floats(3, 3, 1, 1),
        "g": floats(16, 10),
        "t": np.array([0.5], dtype=np.float32),
        "n": np.array([-1], dtype=np.float32),
        "s": np.array([2, 2, 4], dtype=np.int64),
    }
    with pytest.raises(UnsupportedError, match=message):
        read.load(graph_file(tmp_path / "g.onnx", nodes, weights))


def test_weights_may_lie_beside_the_file_and_in_any_precision(tmp_path: Path) -> None:
    """Float16, float64, and a file in the same folder, with an offset."""
    nodes, weights = good()
    plain_items = read.load(graph_file(tmp_path / "g.onnx", nodes, weights)).items
    (tmp_path / "w.bin").write_bytes(bytes(8) + weights["w"].tobytes())
    beside = claims(3, 1, 3, 3, at="w.bin", offset="8")
    half = onnx.helper.make_tensor("m", onnx.TensorProto.FLOAT16, [48, 10], weights["m"].reshape(-1).tolist())
    other = {"w": beside, "m": half, "b": weights["b"].astype(np.float64), "a": weights["a"].astype(np.float16)}
    for opset in (18, 9):
        found = read.load(graph_file(tmp_path / "h.onnx", nodes, other, opset=opset)).items
        for mine, wanted in zip(found, plain_items, strict=True):
            if isinstance(wanted, Weighted):
                assert isinstance(mine, Weighted)
                np.testing.assert_allclose(mine.weight, wanted.weight, rtol=1e-3)
                np.testing.assert_allclose(mine.bias, wanted.bias, rtol=1e-3)  # type: ignore[arg-type]


def test_files_that_are_none(cli: Command, tmp_path: Path) -> None:
    """Absent, empty, a folder, something else, damaged: one line and exit code 2, and nothing is written."""
    (tmp_path / "empty.onnx").touch()
    (tmp_path / "text.onnx").write_text("no network")
    options = ("--dataset", "digits", "--mean", "0", "--std", "1", "-o", tmp_path / "out")
    cli("import", tmp_path / "absent.onnx", *options).refused("absent.onnx", "No such file")
    cli("import", tmp_path, *options).refused("not a plain file")
    cli("import", tmp_path / "empty.onnx", *options).refused("empty")
    cli("import", tmp_path / "text.onnx", *options).refused("text.onnx")
    nodes, weights = good()
    damaged_file = graph_file(tmp_path / "bad.onnx", nodes, weights | {"b": floats(4)})
    cli("import", damaged_file, *options).refused("bad.onnx", "'the Conv': Conv with 'b' of shape (4,)")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("what", ["nodes", "attributes", "constants", "texts"])
def test_files_that_would_fill_the_memory(what: str, tmp_path: Path) -> None:
    """Empty messages of two bytes take a hundred each once parsed: counted before."""
    empty = b"\x0a\x00"  # field 1 of GraphProto and of NodeProto, without content
    if what == "nodes":
        graph = empty * 2**21
    elif what == "attributes":
        inner = b"\x2a\x00" * 2**23
        graph = b"\x0a" + varint(len(inner)) + inner
    elif what == "constants":
        graph = b"\x2a\x00" * 2**21
    else:
        inner = b"\x32\x00" * 2**20  # string_data
        graph = b"\x2a" + varint(len(inner)) + inner
    path = tmp_path / "bomb.onnx"
    path.write_bytes(b"\x3a" + varint(len(graph)) + graph)
    with pytest.raises(InputError, match=r"more than [\d,]+ (bytes besides|nodes, weights)"):
        read_file.read(path)


def varint(value: int) -> bytes:
    """As protobuf writes numbers."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def test_many_nodes_take_their_time_only(tmp_path: Path) -> None:
    """Nothing is quadratic in the number of nodes."""
    nodes = [node("Conv", "x w", "a0")]
    nodes += [onnx.helper.make_node("Identity", [f"a{i}"], [f"a{i + 1}"]) for i in range(20_000)]
    path = graph_file(tmp_path / "g.onnx", [*nodes, node("Flatten", "a20000", "y")], {"w": floats(3, 1, 1, 1)})
    with pytest.raises(UnsupportedError, match=r"'the Flatten': Flatten ends the network"):
        read.load(path)
