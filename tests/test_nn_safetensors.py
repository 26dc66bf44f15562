"""model.safetensors: what model.pt holds, in the format of huggingface's package, both ways."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Command, Quickstart, tiny_recipe
from helpers import assert_equal, every_node
from hypothesis import given
from hypothesis import strategies as st

from snn2chip.errors import InputError
from snn2chip.nn import model_file, safetensors
from snn2chip.nn.model_file import Graph

KINDS = list(safetensors._TYPES.values())


@st.composite
def states(draw: st.DrawFn) -> dict[str, torch.Tensor]:
    """Tensors of every kind and shape, empty ones and single numbers too."""
    made = {}
    for name in draw(st.lists(st.text(min_size=1, max_size=8), unique=True, max_size=5)):
        shape = draw(st.lists(st.integers(0, 4), max_size=3))
        made[name] = torch.from_numpy(np.array(np.random.default_rng(0).integers(-9, 9, shape))).to(
            draw(st.sampled_from(KINDS))
        )
    made.pop("samples", None)
    made.pop("__metadata__", None)
    return made


@given(states())
def test_tensors_come_back_as_they_were(state: dict[str, torch.Tensor]) -> None:
    """Names, order, types, shapes, values, and what stands beside them."""
    plain = {"recipe": {"a": [1, 2.5, None]}, "classes": ["ä"], "metrics": {"x": 1e-300}}
    found = safetensors._content(safetensors.dump({**plain, "state": state}))
    read = found.pop("state")
    assert found == plain and list(read) == list(state)
    for name, tensor in state.items():
        assert read[name].dtype == tensor.dtype and read[name].shape == tensor.shape
        assert torch.equal(read[name], tensor)


def test_models_and_graphs_are_the_same_in_both_formats(tmp_path: Path) -> None:
    """What is written as .pt and as .safetensors is read as the same."""
    recipe = tiny_recipe()
    net = model_file.build_network(recipe, (1, 8, 8), 10, 16).eval()
    for name in ("m.pt", "m.safetensors"):
        model_file.save(
            tmp_path / name, net, recipe, max_value=16, classes=list("abcdefghij"), metrics={"float_accuracy": 0.5}
        )
    one, other = (model_file.load(tmp_path / name) for name in ("m.pt", "m.safetensors"))
    assert_equal(dict(other.network.state_dict()), dict(one.network.state_dict()))
    assert (one.recipe, one.classes, one.metrics) == (other.recipe, other.classes, other.metrics)
    samples = np.arange(64).reshape(2, 2, 4, 4)
    for name in ("g.pt", "g.safetensors"):
        model_file.save_graph(tmp_path / name, Graph(every_node(), "mine", samples, {"x": 1}))
        assert_equal(model_file.load_any(tmp_path / name), Graph(every_node(), "mine", samples, {"x": 1}))
        with pytest.raises(InputError, match="holds the graph of 'mine', and no recipe"):
            model_file.load(tmp_path / name)


def test_graphs_are_stored_in_as_few_bytes_as_say_the_same(tmp_path: Path) -> None:
    """Trained weights are float32, and stay float64 where they are not."""
    model_file.save_graph(tmp_path / "g.pt", Graph(every_node(), "mine", None, {}))
    state = torch.load(tmp_path / "g.pt", weights_only=True)["state"]
    assert state["conv/weight"].dtype == torch.float32 and state["input/center"].dtype == torch.int16
    assert state["fc/weight"].dtype == torch.float64  # 1e-300, -1/3


def test_the_package_reads_ours_and_we_read_its(tmp_path: Path) -> None:
    """Values and metadata, both ways."""
    package = pytest.importorskip("safetensors.torch", reason="the package safetensors is not installed")
    from safetensors import safe_open

    path = tmp_path / "g.safetensors"
    model_file.save_graph(path, Graph(every_node(), "mine", None, {}))
    tensors = package.load_file(path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert metadata["format"] == "pt" and json.loads(metadata["graph"])["timesteps"] == 2
    assert_equal(model_file.load_any(path).network.nodes[1].weight, tensors["conv/weight"].double().numpy())  # type: ignore[union-attr]
    package.save_file(tensors, tmp_path / "again.safetensors", metadata)
    assert_equal(model_file.load_any(tmp_path / "again.safetensors"), Graph(every_node(), "mine", None, {}))
    package.save_file(tensors, tmp_path / "bare.safetensors")
    with pytest.raises(InputError, match="holds tensors, but not the network that they are of; load them into"):
        model_file.load(tmp_path / "bare.safetensors")


def test_not_a_number_beside_the_tensors(tmp_path: Path) -> None:
    """JSON has no word for it."""
    with pytest.raises(InputError, match=r"save as \.pt"):
        model_file.save_graph(tmp_path / "g.safetensors", Graph(every_node(), "m", None, {"x": float("nan")}))
    assert not list(tmp_path.iterdir())


def entry(*ends: int, shape: Any = (2,), kind: Any = "F32") -> dict[str, Any]:
    return {"dtype": kind, "shape": list(shape) if isinstance(shape, tuple) else shape, "data_offsets": list(ends)}


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ([], "no table"),
        ({"__metadata__": {"snn2chip": 3}}, "no table with texts as metadata"),
        ({"__metadata__": {}}, "not the network"),
        ({"__metadata__": {"snn2chip": "[1]"}}, "no table"),
        ({"__metadata__": {"snn2chip": "{"}}, "not valid JSON"),
        ({"a": entry(0, 8), "b": entry(4, 12)}, "'b': begins at byte 4, the one before it ends at 8"),
        ({"a": entry(0, 8)}, "8 bytes behind its last tensor"),
        ({"a": entry(0, 8), "b": entry(8, 17)}, "'b': no shape and place in the 16 bytes"),
        ({"a": entry(0, 16)}, "16 bytes are not"),
        ({"a": entry(0, 16, kind="F8_E4M3", shape=(16,))}, "'F8_E4M3' is none of F64"),
        ({"a": entry(8, 0)}, "no shape and place"),
        ({"a": entry(0, 16, shape=(2**40, 2**40))}, "bytes are not"),
        ({"a": entry(0, 16, shape="ab")}, "no shape and place"),
        ({"a": 3}, "no shape and place"),
        ({"a": entry(0)}, "no shape and place"),
    ],
)
def test_a_header_that_is_none(header: Any, words: str, tmp_path: Path) -> None:
    """In one line that names the file."""
    if isinstance(header, dict):
        header = {"__metadata__": {"snn2chip": "{}"}} | header
    text = json.dumps(header).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(16))
    with pytest.raises(InputError, match=words) as refused:
        safetensors.load(path)
    assert "x.safetensors" in str(refused.value) and len(str(refused.value).splitlines()) == 1
    path.write_bytes((2**50).to_bytes(8, "little") + text)
    with pytest.raises(InputError, match="a header of 1,125,899,906,842,624 bytes"):
        safetensors.load(path)


def test_the_commands_take_it_as_they_take_model_pt(cli: Command, quickstart: Quickstart, tmp_path: Path) -> None:
    """Written from model.pt, exported to the same file, verified."""
    path, net = tmp_path / "d.safetensors", tmp_path / "d.net"
    cli("export", quickstart.model, "--format", "safetensors", "-o", path).ok()
    cli("fold-and-export", path, "-o", net).ok()
    cli("fold-and-export", quickstart.model, "-o", tmp_path / "e.net").ok()
    assert net.read_bytes() == (tmp_path / "e.net").read_bytes()
    said = cli("verify", path, net, "--no-lava", "--samples", 3).ok()
    assert "torch = captured" in said and "random images" not in said
    cli("export", quickstart.model, "--format", "safetensors", "-o", tmp_path / "d.pt").refused("ends in .safetensors")
    cli("export", net, "--format", "safetensors").refused("safetensors hold the trained network")
    assert not (tmp_path / "d.pt").exists()
