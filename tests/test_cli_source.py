"""Networks of any maker through the commands: as a graph in model.pt, as safetensors, as NIR; and what they refuse."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import Command
from plain_torch import PIXELS, Steps

import snn2chip
from snn2chip.formats import netx
from snn2chip.nn import model_file


@pytest.fixture(scope="module")
def deployed() -> snn2chip.Deployed:
    return snn2chip.deploy(Steps(), PIXELS, timesteps=3, name="mine")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_graph_goes_where_a_recipes_model_goes(
    suffix: str, deployed: snn2chip.Deployed, cli: Command, tmp_path: Path
) -> None:
    """Exported to the integers that deploy made, verified, reported, written as ONNX and NIR, without a recipe."""
    model, net = tmp_path / f"model{suffix}", tmp_path / "model.net"
    deployed.save(model, samples=20)
    said = cli("fold-and-export", model, "--json", tmp_path / "export.json", "--calibration", 20).ok()
    assert "no calibration" not in said and "stock netx" in said
    found = netx.load(net)
    again = snn2chip.deploy(Steps(), PIXELS, timesteps=3, name="mine", samples=20).chain
    assert all((mine.weight == other.weight).all() for mine, other in zip(found.layers, again.layers, strict=True))
    said = cli("verify", model, net, "--no-lava", "--samples", 4, "--json", tmp_path / "verify.json").ok()
    verdict = json.loads((tmp_path / "verify.json").read_text())
    names = [rung["name"] for rung in verdict["rungs"]]
    assert verdict["passed"] and names[:3] == ["captured = folded", "folded ~ integers", "integers = file"]
    assert "not climbed: torch = captured" in said and "random images" not in said
    assert "no pictures: the samples in the file have no labels" in " ".join(cli("report", tmp_path).ok().split())
    assert "<h1>mine</h1>" in (tmp_path / "report.html").read_text()
    cli("export", model, "--format", "onnx").ok()
    cli("export", model, "--format", "nir").ok()
    (tmp_path / "n").mkdir()
    cli("fold-and-export", tmp_path / "model.nir", "-o", tmp_path / "n/model.net").ok()
    said = cli("verify", tmp_path / "model.nir", tmp_path / "n/model.net", "--no-lava", "--samples", 3).ok()
    assert "NIR = network" in said and "not climbed: captured = folded" in said and "random images" in said
    (tmp_path / "model.nir").rename(tmp_path / "n/model.nir")
    cli("report", tmp_path / "n").ok()


def test_samples_stay_out_unless_asked_for(deployed: snn2chip.Deployed, cli: Command, tmp_path: Path) -> None:
    """They are somebody's images; without them the commands say what they did instead."""
    model = deployed.save(tmp_path / "model.pt")
    assert model_file.load_any(model).samples is None  # type: ignore[union-attr]
    said = cli("fold-and-export", model).ok()
    assert "no calibration images" in said and "--dataset NAME" in said
    assert "random images" in cli("verify", model, tmp_path / "model.net", "--no-lava", "--samples", 2).ok()
    cli("fold-and-export", model, "--dataset", "digits").refused("network takes (2, 8, 8) of 0..255, but digits:train")
    cli("fold-and-export", model, "--timesteps", 2).refused("--timesteps is for NIR graphs")
    cli("simulate", tmp_path / "model.net").refused("names no data set")


@pytest.mark.parametrize("command", [("retrain", "--timesteps", "1"), ("collapse",), ("train", "--init")])
def test_what_goes_by_recipes_says_so(
    command: tuple[str, ...], deployed: snn2chip.Deployed, cli: Command, tmp_path: Path
) -> None:
    """Named, with the reason, and nothing is made."""
    model = deployed.save(tmp_path / "model.pt")
    out = () if command[0] == "collapse" else ("--out", tmp_path / "out")
    given = ("train", "digits-tdbn", "--init", model) if command[0] == "train" else (command[0], model, *command[1:])
    cli(*given, *out).refused("holds the graph of 'mine', and no recipe, by which networks are trained, retrained")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["model.pt"]


def test_a_changed_graph_fails(deployed: snn2chip.Deployed, cli: Command, tmp_path: Path) -> None:
    """A file of the integers of another network."""
    model = deployed.save(tmp_path / "model.pt", samples=3)
    cli("fold-and-export", model).ok()
    found = model_file.load_any(model)
    assert isinstance(found, model_file.Graph)
    nodes = [
        replace(node, weight=np.roll(node.weight, 1, 0)) if node.name == "fc" else node  # type: ignore[type-var]
        for node in found.network.nodes
    ]
    model_file.save_graph(model, replace(found, network=found.network.with_nodes("captured", nodes)))
    cli("verify", model, tmp_path / "model.net", "--no-lava").refused("integers = file", code=1)


def test_a_graph_in_memory_and_a_file_are_deployed_the_same(deployed: snn2chip.Deployed, tmp_path: Path) -> None:
    """What a file holds goes into `deploy` too, at fewer bits say."""
    found = model_file.load_any(deployed.save(tmp_path / "m.pt"))
    assert isinstance(found, model_file.Graph)
    again = snn2chip.deploy(found.network, PIXELS, weight_bits=6, name="mine")
    assert again.verify(PIXELS, samples=3).passed and again.chain.made["weight_bits"] == 6
