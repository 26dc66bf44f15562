"""Good files to damage: small, and with every structure that the readers know."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from snn2chip import ir

Rng = np.random.Generator


def written(save: Callable[[Path], object]) -> bytes:
    """The bytes of the file that `save` writes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "seed"
        save(path)
        return path.read_bytes()


# --------------------------------------------------------------------------------------------------- model.net


def _chain(steps: bool) -> ir.Chain:
    rng = np.random.default_rng(1)
    table = ir.StepTables(
        rng.integers(0, 2**16, (3, 4)), 15, rng.integers(-99, 99, (3, 4)), rng.integers(0, 99, (3, 4)), np.full(4, 0.5)
    )
    weight = rng.integers(-127, 128, (4, 2, 3, 2))
    bias = np.zeros((4, 3, 8), dtype=np.int64) if steps else rng.integers(-4095, 4096, (4, 3, 8))
    conv = ir.ChainLayer(
        *("1", "conv", weight, bias, (4, 3, 8), 0 if steps else 900, 0 if steps else 3072, 4096, (2, 1), (1, 2)),
        origin={"lif1": (0, 4)},
        steps=table if steps else None,
    )
    flat = rng.integers(-127, 128, (5, 96))
    first = ir.ChainLayer("3", "dense", flat, np.arange(5), (5,), 131071, 0, 4096, flatten=True, origin={"l": (0, 5)})
    last = ir.ChainLayer("4", "dense", rng.integers(-9, 9, (3, 5)), np.zeros(3, dtype=np.int64), (3,), 131071, 0, 4096)
    port = (2, 6, 5), (2, 6, 5), "direct", 255, 0, 255, (113, 120)
    return ir.Chain(*port, 3, "membrane", ("a", "b", "ü"), (conv, first, last), {"made": [1, 2.5, None]})


def net() -> dict[str, bytes]:
    """Files written by this package: with CUBA neurons, and with time-varying ones."""
    from snn2chip.formats import netx

    return {name: written(lambda path, s=steps: netx.save(path, _chain(s))) for name, steps in _KINDS.items()}


_KINDS = {"cuba": False, "steps": True}


def _layer(file: h5py.File, number: int, kind: str, shape: tuple[int, ...], **fields: Any) -> h5py.Group:
    group = file.create_group(f"layer/{number}")
    group["type"] = np.array([kind.encode()], "S10")
    group["shape"] = np.array(shape)
    neuron = fields.pop("neuron", True)
    for name, value in fields.items():
        group[name] = value
    if neuron:
        for name, value in {"iDecay": 1024, "vDecay": 128, "vThMant": 80, "refDelay": 1, "wgtExp": 0}.items():
            group[f"neuron/{name}"] = value
        group["neuron/type"] = "LOIHI" if number % 2 else "CUBA"  # of variable length, as lava-dl writes it
    return group


def _foreign(make: Callable[[h5py.File, Rng], None], **options: Any) -> bytes:
    memory = io.BytesIO()
    with h5py.File(memory, "w", **options) as file:
        make(file, np.random.default_rng(2))
        file["simulation/Ts"], file["simulation/tSample"] = 1, 30
    return memory.getvalue()


def _images(file: h5py.File, rng: Rng) -> None:
    _layer(file, 0, "input", (3, 7, 6), weight=np.float32([64]), bias=np.float32([-12]))
    pairs = {"stride": [2, 1], "padding": [1, 0], "dilation": [1, 2], "kernelSize": [3, 2]}
    geometry: dict[str, Any] = {name: np.array(value) for name, value in pairs.items()}
    weight = rng.integers(-9, 9, (6, 1, 3, 2, 1)).astype("f4")
    _layer(
        *(file, 1, "conv", (6, 4, 4)),
        **{"weight": weight, "bias": np.zeros(6, "f4"), "groups": 3, "inChannels": 3, "outChannels": 6, **geometry},
    )
    _layer(file, 2, "flatten", (96,), neuron=False)
    _layer(file, 3, "dense", (7,), weight=rng.integers(-99, 99, (7, 96)).astype("f4"), delay=np.float32([0, 62] * 48))
    _layer(file, 4, "dense", (2,), weight=rng.integers(-9, 9, (2, 7)).astype("f4"), neuron=False)


def _features(file: h5py.File, rng: Rng) -> None:
    _layer(file, 0, "input", (5, 1, 1), neuron=False)
    _layer(file, 1, "flatten", (5, 1, 1), neuron=False)
    _layer(file, 2, "dense", (4, 1, 1), weight=rng.integers(-9, 9, (4, 5)), delay=rng.integers(0, 62, (4, 5)))
    recurrent = {"weight": rng.integers(-9, 9, (6, 4)), "weight_rec": rng.integers(-9, 9, (6, 6)), "bias": np.ones(6)}
    _layer(file, 3, "dense_rec", (6,), **recurrent)
    _layer(file, 4, "dense", (3,), weight=rng.integers(-9, 9, (3, 6)), delay=np.arange(3.0), bias=np.ones(1))


def foreign_net() -> dict[str, bytes]:
    """Files as lava-dl writes them, in both of HDF5's formats, and our own."""
    return {
        "images": _foreign(_images),
        "features": _foreign(_features),
        "features, latest format": _foreign(_features, libver="latest"),
        **net(),
    }


# --------------------------------------------------------------------------------------------------- NIR


def nir() -> dict[str, bytes]:
    """Graphs written by this package, with everything of its metadata, and by others, without."""
    import nir as package

    from snn2chip.formats import nir as ours

    rng = np.random.default_rng(3)
    nodes: tuple[ir.Node, ...] = (
        ir.Input("input", (), (2, 4, 4), "direct", 3, 0, 3, np.array([1, 2]), np.ones(2), np.zeros(2)),
        ir.Conv("conv", ("input",), rng.normal(size=(4, 2, 3, 3)), rng.normal(size=(4, 4, 4)), padding=(1, 1)),
        ir.LIF("lif", ("conv",), 0.5, 0.5),
        ir.Conv("block.conv", ("lif",), rng.normal(size=(4, 2, 3, 1)), None, padding=(1, 0), groups=2),
        ir.Conv("block.skip", ("lif",), rng.normal(size=(4, 4, 1, 1)), rng.normal(size=4)),
        ir.Add("add", ("block.conv", "block.skip")),
        ir.LIF("lif2", ("add",), 1.0, 0.5),
        ir.Flatten("flat", ("lif2",)),
        ir.Dense("dense", ("flat",), rng.normal(size=(3, 64)), rng.normal(size=3)),
        ir.Readout("readout", ("dense",), "membrane"),
    )
    image, ones = (1, 8, 8), np.ones(4)
    layers: dict[str, Any] = {
        "input": package.Input({"input": np.array(image)}),
        "conv": package.Conv2d(image[1:], rng.normal(size=(2, 1, 3, 3)), 1, "same", 1, 1, np.zeros(2)),
        "lif": package.LIF(*(np.full((2, 8, 8), value) for value in (2e-4, 2.0, 0.0, 1.0, 0.0))),
        "pool": package.AvgPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0])),
        "flat": package.Flatten({"input": np.array([2, 4, 4])}, 0, -1),
        "linear": package.Linear(rng.normal(size=(4, 32))),
        "cuba": package.CubaLIF(1e-4 * ones, 2e-4 * ones, ones, 0 * ones, ones, 0 * ones, ones),
        "output": package.Output({"output": np.array([4])}),
    }
    graph = package.NIRGraph(layers, list(zip(list(layers), list(layers)[1:], strict=False)), type_check=False)
    return {
        "ours": written(lambda path: ours.save(path, ir.Network("folded", 2, ("a", "b", "c"), nodes))),
        "foreign": written(lambda path: package.write(path, graph)),
    }


# --------------------------------------------------------------------------------------------------- model.pt


def model() -> dict[str, bytes]:
    """Trained networks of every kind of layer, as small as they can be."""
    import torch

    from snn2chip import recipe
    from snn2chip.nn import model_file

    def made(timesteps: int, coding: str, *layers: dict[str, Any]) -> bytes:
        table = {"timesteps": timesteps, "coding": coding, "layers": layers}
        parsed = recipe.parse({"name": "x", "data": {"name": "digits"}, "model": table, "train": {"epochs": 1}})
        torch.manual_seed(0)
        network = model_file.build_network(parsed, (1, 8, 8), 3, 16).eval()
        given = {"max_value": 16, "classes": ["a", "b", "c"], "metrics": {"float_accuracy": 0.5}}
        return written(lambda path: model_file.save(path, network, parsed, **given))  # type: ignore[arg-type]

    last: tuple[dict[str, Any], ...] = ({"type": "flatten"}, {"type": "dense", "features": "classes", "neuron": False})
    conv = {"type": "conv", "channels": 2, "stride": 2}
    whole = made(1, "direct", conv, *last)
    legacy = io.BytesIO()
    torch.save(torch.load(io.BytesIO(whole)), legacy, _use_new_zipfile_serialization=False)
    return {
        "tdbn": whole,
        "bntt": made(2, "poisson", {**conv, "norm": "bntt"}, *last),
        "residual": made(2, "direct", {"type": "residual", "channels": 2, "stride": 2}, {"type": "avgpool"}, *last),
        "legacy": legacy.getvalue(),
    }


def graph() -> dict[str, bytes]:
    """Graphs with every kind of node and field, captured and folded, with samples and without."""
    from helpers import every_node

    from snn2chip.nn import model_file
    from snn2chip.passes.fold import folded

    made = every_node()
    nodes = [node for node in made.nodes if not isinstance(node, ir.StepNorm)]
    nodes[2] = ir.LIF("lif", ("conv",), 0.3, 1.1)  # constants of every step are the fold's to make
    plain = made.with_nodes("captured", nodes)
    samples = np.arange(64).reshape(2, 2, 4, 4)
    given = {
        "steps": model_file.Graph(made.with_nodes("captured", list(made.nodes)), "steps", samples, {"a": 1}),
        "plain": model_file.Graph(plain, "plain", samples, {}),
        "folded": model_file.Graph(folded(plain), "folded", None, {}),
    }
    return {name: written(lambda path, each=each: model_file.save_graph(path, each)) for name, each in given.items()}


def safetensors() -> dict[str, bytes]:
    """Models of recipes, and graphs."""
    from snn2chip.nn import safetensors

    def again(content: bytes) -> bytes:
        import torch

        return safetensors.dump(torch.load(io.BytesIO(content), weights_only=True))

    return {name: again(content) for name, content in (model() | graph()).items() if name != "legacy"}


# --------------------------------------------------------------------------------------------------- ONNX


def onnx() -> dict[str, bytes]:
    """Networks as torch's exporters write them: raw data, typed data, constants in nodes, a residual block."""
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(4)

    def values(name: str, *shape: int, raw: bool = True) -> TensorProto:
        array = rng.normal(size=shape).astype(np.float32) ** 2
        if raw:
            return numpy_helper.from_array(array, name)
        return helper.make_tensor(name, TensorProto.FLOAT, shape, array.flatten().tolist())

    def norm(name: str, channels: int) -> tuple[list[str], list[TensorProto]]:
        names = [f"{name}.{part}" for part in ("weight", "bias", "mean", "var")]
        return names, [values(item, channels, raw=index % 2 == 0) for index, item in enumerate(names)]

    names1, norm1 = norm("bn1", 4)
    names2, norm2 = norm("bn2", 4)
    names3, norm3 = norm("bn3", 4)
    pads = {"pads": [1, 1, 1, 1], "kernel_shape": [3, 3], "strides": [1, 1], "dilations": [1, 1], "group": 1}
    node = helper.make_node
    nodes = [
        node("Conv", ["image", "conv1.weight", "conv1.bias"], ["c1"], "conv1", **{**pads, "strides": [2, 2]}),
        node("BatchNormalization", ["c1", *names1], ["b1"], "bn1", epsilon=1e-5),
        node("Relu", ["b1"], ["r1"], "relu1"),
        node("Conv", ["r1", "conv2.weight"], ["c2"], "conv2", **{**pads, "group": 2}),
        node("BatchNormalization", ["c2", *names2], ["b2"], "bn2"),
        node("Relu", ["b2"], ["r2"], "relu2"),
        node("Identity", ["r2"], ["i2"], "same"),
        node("Conv", ["i2", "conv3.weight"], ["c3"], "conv3", **pads),
        node("BatchNormalization", ["c3", *names3], ["b3"], "bn3"),
        node("Add", ["b3", "r1"], ["a3"], "add"),
        node("Relu", ["a3"], ["r3"], "relu3"),
        node("AveragePool", ["r3"], ["p2"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        node("Flatten", ["p2"], ["f"], "flatten", axis=1),
        node("Gemm", ["f", "fc1.weight", "fc1.bias"], ["d1"], "fc1", transB=1, alpha=1.0, beta=1.0),
        node("Relu", ["d1"], ["r4"], "relu4"),
        node("MatMul", ["r4", "fc2.weight"], ["d2"], "fc2"),
    ]
    weights = [
        *(values("conv1.weight", 4, 2, 3, 3), values("conv1.bias", 4), values("conv2.weight", 4, 2, 3, 3, raw=False)),
        *(
            values("conv3.weight", 4, 4, 3, 3),
            *norm1,
            *norm2,
            *norm3,
            values("fc1.weight", 5, 16),
            values("fc1.bias", 5, raw=False),
            values("fc2.weight", 5, 3),
        ),
    ]
    ports = (
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 2, 8, 8])],
        [helper.make_tensor_value_info("d2", TensorProto.FLOAT, ["batch", 3])],
    )
    graph = helper.make_graph(nodes, "network", *ports, weights)
    plain = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    nodes[12] = node("Reshape", ["p2", "shape"], ["f"], "reshape")
    shape = numpy_helper.from_array(np.array([0, -1], dtype=np.int64))
    nodes.insert(0, node("Constant", [], ["shape"], "constant", value=shape))
    graph = helper.make_graph(nodes, "network", *ports, weights)
    constants = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return {"plain": plain.SerializeToString(), "constants": constants.SerializeToString()}


# --------------------------------------------------------------------------------------------------- recordings, arrays


def small_chain() -> ir.Chain:
    return _chain(False)


def _arrays(**arrays: Any) -> bytes:
    memory = io.BytesIO()
    np.savez_compressed(memory, **arrays)
    return memory.getvalue()


def inputs() -> dict[str, bytes]:
    """Inputs of `small_chain`."""
    port = np.random.default_rng(5).integers(-113, 136, (2, 3, 2, 6, 5))
    return {"int": _arrays(input=port), "label": _arrays(input=port.astype(np.int16), label=np.arange(2))}


def traces() -> dict[str, bytes]:
    """Traces of `small_chain`."""
    rng = np.random.default_rng(6)
    arrays: dict[str, Any] = {}
    for layer in small_chain().layers:
        arrays[f"spikes/{layer.name}"] = rng.integers(0, 2, (2, 3, *layer.shape), dtype=np.uint8)
        arrays[f"voltage/{layer.name}"] = rng.integers(-99, 99, (2, 3, *layer.shape), dtype=np.int32)
    return {"trace": _arrays(**arrays)}


def _events() -> Any:
    from event_files import random_events

    return random_events(300, (34, 34), seed=7)


def recording_npz() -> dict[str, bytes]:
    raw = _events()
    columns = {"x": raw.x.astype(np.int16), "y": raw.y.astype(np.int16), "p": raw.p.astype(bool)}
    return {
        "sensor": _arrays(**columns, t=raw.t, sensor=np.array([34, 34])),
        "t_us": _arrays(**columns, t_us=raw.t.astype(np.uint32), sensor=np.array([34, 34])),
    }


def bin_recording() -> dict[str, bytes]:
    from event_files import bin_bytes

    return {"bin": bin_bytes(_events())}


def aedat() -> dict[str, bytes]:
    from event_files import aedat2_bytes, aedat3_bytes

    return {"2.0": aedat2_bytes(_events()), "3.1": aedat3_bytes(_events(), room=2)}


def aedat4() -> dict[str, bytes]:
    """AEDAT 4 as faery writes it."""
    import faery

    raw = _events()
    table = np.zeros(len(raw), faery.EVENTS_DTYPE)
    table["t"], table["x"], table["y"], table["on"] = raw.t, raw.x, raw.y, raw.p

    def save(path: Path) -> None:
        named = path.with_suffix(".aedat4")
        faery.events_stream_from_array(table, dimensions=(34, 34)).to_file(named)
        named.rename(path)

    return {"faery": written(save)}


def spoken() -> dict[str, bytes]:
    from event_files import write_spoken

    return {
        "contiguous": written(lambda path: write_spoken(path, 6)),
        "chunked": written(lambda path: write_spoken(path, 6, times="f2", chunks=(4,), texts=True)),
    }
