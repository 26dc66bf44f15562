"""The zoo is evidence: every folder loads, exports and shows the figures its card and metrics claim."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import card as cards
import pytest
import zoo
from conftest import ROOT, run_in_process

from snn2chip import chip, data, recipe
from snn2chip.errors import DataError
from snn2chip.fit import demand
from snn2chip.fit import table as fits
from snn2chip.formats import netx
from snn2chip.nn import model_file
from snn2chip.passes import pipeline
from snn2chip.report import cost as costs
from snn2chip.simulate.run import simulate

FOLDERS = sorted(path.parent for path in (ROOT / "models").glob("*/recipe.toml"))
SLOW = ("cifar10-", "nmnist-tdbn")  # large, or calibrated with many recordings; their kinds are among the others
EXPORTED = [pytest.param(x, marks=pytest.mark.slow if x.name.startswith(SLOW) else ()) for x in FOLDERS]
SAMPLES = 200
SHARED = ROOT.parent / "shared" / "data"


@pytest.fixture(scope="session")
def nmnist(tmp_path_factory: pytest.TempPathFactory) -> Path | None:
    """A folder with the recordings of ../shared, or None."""
    if not (SHARED / "unpack_nmnist.py").is_file():
        return None
    target = tmp_path_factory.mktemp("nmnist")
    subprocess.run([sys.executable, SHARED / "unpack_nmnist.py", target], check=True, capture_output=True, timeout=300)
    return target


@pytest.fixture(scope="session")
def cifar10(tmp_path_factory: pytest.TempPathFactory) -> Path | None:
    """A folder with CIFAR-10: SNN2CHIP_DATA's, or unpacked from ../shared; None where there is neither."""
    if "SNN2CHIP_DATA" in os.environ or not (SHARED / "unpack_cifar10.py").is_file():
        return None
    target = tmp_path_factory.mktemp("cifar")
    subprocess.run([sys.executable, SHARED / "unpack_cifar10.py", target], check=True, capture_output=True, timeout=300)
    return target


def images_of(chosen: recipe.Recipe, split: str, request: pytest.FixtureRequest) -> data.ImageSet:
    """The recipe's data without a download, or a skip that says what is missing."""
    spec = chosen.data
    folder = SHARED if spec.name == "letters" and (SHARED / "letters").is_dir() else None
    if spec.name in ("cifar10", "nmnist"):
        folder = request.getfixturevalue(spec.name)
    try:
        return data.load(spec.name, split, folder, download=False, image_size=spec.image_size, events=chosen.binning)
    except DataError as error:
        pytest.skip(f"no data for {spec.name}: {error}")


def metrics_of(folder: Path) -> dict[str, Any]:
    """metrics.json, or a skip where the recipe was not trained yet."""
    if not (folder / "metrics.json").is_file():
        pytest.skip(f"{folder.name} holds a recipe only: it has not been trained")
    metrics: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    return metrics


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_metrics_card_and_weights_belong_together(folder: Path) -> None:
    """The files are there, small, of the same recipe, and the card quotes the figures of metrics.json."""
    metrics = metrics_of(folder)
    for key in ("float_accuracy", "integer_accuracy"):
        assert 0 < metrics[key] <= 1
    layers = recipe.load(folder).model.layers
    allowed = 0.01 if any(layer.type == "residual" for layer in layers) else 0.005  # twenty layers of rounding
    allowed = max(allowed, 2 / metrics["samples"])  # of a small set, one or two samples say nothing
    assert metrics["integer_accuracy"] >= metrics["float_accuracy"] - allowed
    assert metrics["lava_mismatches"] == 0
    assert metrics["lava_samples"] >= 10
    assert (folder / "model.pt").stat().st_size < zoo.MODEL_BYTES_MAX
    model = model_file.load(folder / "model.pt")
    whole = model.recipe.model.integers  # trained on in them, from the recipe's network
    wanted = recipe.load(folder)
    if "teacher" not in (model.metrics["init"] or ""):  # a percentile counts for what starts from ReLUs; the default of
        # those that did not, when they were trained, was another
        was = {"balance_percentile": model.recipe.train.balance_percentile}
        wanted = wanted.model_copy(update={"train": wanted.train.model_copy(update=was)})
    assert model.recipe == wanted or (whole and model.recipe.data == wanted.data)
    assert model.metrics["float_accuracy"] == metrics["integer_accuracy" if whole else "float_accuracy"]
    assert (metrics["timesteps"], metrics["dataset"]) == (
        model.recipe.model.timesteps,
        f"{model.recipe.data.name}:test",
    )
    card = (folder / "card.md").read_text()
    assert f"| accuracy, float32 | {100 * metrics['float_accuracy']:.2f} % |" in card
    assert f"| accuracy, chip integers | {100 * metrics['integer_accuracy']:.2f} % |" in card
    assert cards.tested(model.recipe, metrics) in card
    assert f"all {metrics['samples']:,} test {'images' if model.recipe.binning is None else 'recordings'}" in card
    base = folder.name if whole else folder.name.rpartition("-t")[0]
    retrained = "Iterative retraining from " in card  # a stage of a retraining
    assert (f"snn2chip retrain runs/{base}/model.pt" in card) == (retrained or whole)
    assert (f"snn2chip train {folder.name} " in card) == (whole or not retrained)


@pytest.mark.parametrize("folder", EXPORTED, ids=lambda path: path.name)
def test_a_model_exports_and_shows_its_accuracy(folder: Path, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Exported anew, the first test images are classified as well as the full figure lets expect.

    Of n images drawn from a test set with accuracy a, the share that is right stays within five standard
    deviations sqrt(a (1 - a) / n) of a; for a wrong export it is near chance.
    """
    metrics = metrics_of(folder)
    model = model_file.load(folder / "model.pt")
    test = images_of(model.recipe, "test", request)
    assert len(test) == metrics["samples"]
    training = images_of(model.recipe, "train", request).subset(64)
    export = pipeline.export(model, chip.load(metrics["chip"]), calibration=training)
    netx.save(tmp_path / "model.net", export.chain)
    result = simulate(netx.load(tmp_path / "model.net"), images=test.subset(SAMPLES))
    accuracy = metrics["integer_accuracy"]
    spread = math.sqrt(accuracy * (1 - accuracy) / result.samples)
    assert result.accuracy is not None
    assert abs(result.accuracy - accuracy) <= 5 * spread


def test_the_readme_shows_the_zoo() -> None:
    """The README's table is the one that `python tools/zoo.py readme` writes."""
    assert zoo.results_table(ROOT / "models") in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("folder", EXPORTED, ids=lambda path: path.name)
def test_a_card_shows_the_cores(folder: Path) -> None:
    """Card and network say the same of cores; where it does not fit the card says so, and exports with --no-fit."""
    metrics = metrics_of(folder)
    export = pipeline.export(model_file.load(folder / "model.pt"), chip.load(metrics["chip"]))
    found = fits.fit(demand.of_chain(export.chain), chip.with_cores(chip.load(metrics["chip"])))
    card = (folder / "card.md").read_text()
    section = card.split(cards.CORES)[1]
    assert ("oes not fit" in section) == (not found.fits) == ("fold-and-export" in card and " --no-fit" in card)
    assert [row.split(" | ")[0] for row in section.splitlines()[-len(found.layers) :]] == [
        f"| {layer.layer.name}" for layer in found.layers
    ]
    if found.fits:
        assert f"{found.cores:,} cores, {found.chips} chip" in section
    again = cards.with_chip(card, export.chain, metrics.get("cost"))
    assert again.split(cards.CORES)[0] == card.split(cards.CORES)[0]


@pytest.mark.parametrize("folder", [x for x in FOLDERS if (x / "model.pt").is_file()], ids=lambda path: path.name)
def test_a_card_says_what_a_sample_costs(folder: Path) -> None:
    """Every network has metrics.json and a place on the chip, and its card cores, chips and cost."""
    metrics, card = json.loads((folder / "metrics.json").read_text()), (folder / "card.md").read_text()
    head, cores = card.split(cards.CORES)
    cost = metrics["cost"]
    found = re.search(r"(\d[\d,]*) cores?, (\d+) chips?", cores)
    assert found is not None and found[1] == f"{cost['cores']:,}"
    said = head.split(cards.COSTS)[1]
    assert [line[2:] for line in said.splitlines() if line.startswith("- ")] == list(costs.lines(cost))
    assert f"counted of {cost['samples']:,} test samples" in said and 0 < cost["samples"] <= metrics["samples"]
    assert re.search(r"snn2chip simulate \S+ --cost ", head)


RECIPE = """
name = "tiny"
description = "Two layers."
data = { name = "digits", train_limit = 128 }
train = { epochs = 1, batch_size = 32, lr = 5e-3 }
[model]
timesteps = 1
layers = [
    { type = "conv", channels = 8, stride = 2 },
    { type = "flatten" },
    { type = "dense", features = "classes", neuron = false },
]
"""
WIDE = RECIPE.replace("channels = 8, stride = 2", "channels = 260")  # 260 x 8 x 8 behind the flatten


def test_a_card_says_that_a_network_does_not_fit(tmp_path: Path) -> None:
    """Which layer is on no core, an export with --no-fit and no cost; what fits again loses all of it."""
    (tmp_path / "recipe.toml").write_text(WIDE)
    wide, digits = recipe.load(tmp_path), ROOT / "models" / "digits-tdbn"
    classes = tuple(map(str, range(10)))
    untrained = model_file.Model(model_file.build_network(wide, (1, 8, 8), 10, 16), wide, 16, classes, {})
    chain = pipeline.export(untrained, chip.load("loihi2")).chain
    assert cards.placed(chain) is None
    before = (digits / "card.md").read_text()
    card = cards.with_chip(before, chain, None)
    assert "**Does not fit loihi2: 1 layer cannot be placed.**" in card
    assert "- dense1: fan-in 16,640 exceeds 16,000 axons" in card
    assert re.search(r"snn2chip fold-and-export \S+ --no-fit ", card)
    assert cards.COSTS not in card and "--cost" not in card
    fitting = pipeline.export(model_file.load(digits / "model.pt"), chip.load("loihi2")).chain
    cost = json.loads((digits / "metrics.json").read_text())["cost"]
    assert cards.with_chip(card, fitting, cost).split(cards.CORES)[0] == before.split(cards.CORES)[0]


QUANTIZE = (
    "--quantize",
    "--weight-bits",
    "3",
    "--final-epochs",
    "1",
    "--lr",
    "0.002",
    "--set",
    "train.quantize.freeze=1.0",
)


@pytest.fixture(scope="module")
def in_integers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """runs/tiny, what `retrain --quantize` made of it, exported, counted and verified; and models/tiny with a recipe.

    Lava's rung is one of ours under its name: how Lava runs is not what is tested here.
    """
    home = tmp_path_factory.mktemp("home")
    target, start = home / "models" / "tiny", home / "runs" / "tiny"
    target.mkdir(parents=True)
    (target / "recipe.toml").write_text(RECIPE)
    run_in_process("train", target / "recipe.toml", "--out", start, "--device", "cpu").ok()
    stages, layers = home / "runs" / "tiny-iir", "train.quantize.layers={conv1=8}"
    run_in_process("retrain", start / "model.pt", *QUANTIZE, "--set", layers, "--out", stages, "--device", "cpu").ok()
    run = stages / "T1-3bit"
    run_in_process("fold-and-export", run / "model.pt", "--json", run / "export.json").ok()
    run_in_process("simulate", run / "model.net", "--cost", "--json", run / "simulate.json").ok()
    files = run / "model.pt", run / "model.net"
    run_in_process("verify", *files, "--no-lava", "--samples", "10", "--json", run / "verify.json").ok()
    verified = json.loads((run / "verify.json").read_text())
    ours = next(rung for rung in verified["rungs"] if rung["name"] == "reference = dense")
    verified["rungs"].append({**ours, "name": "dense = Lava"})
    (run / "verify.json").write_text(json.dumps(verified))
    return home


def test_a_network_of_integers_is_published_with_its_recipe(in_integers: Path, tmp_path: Path) -> None:
    """What `retrain --quantize` leaves: bits by layer, the rung of the training, and commands that are the ones given.

    After `halve` the same network is published as float16, which is refused for any other; then a run whose start is
    another one, or whose recipe the commands would not give.
    """
    home = tmp_path / "home"
    shutil.copytree(in_integers, home)
    run, target = home / "runs" / "tiny-iir" / "T1-3bit", home / "models" / "tiny"

    def published(*options: str) -> Any:
        return run_in_process("publish", run, target, *options, main=zoo.main)

    published().ok()
    metrics, card = json.loads((target / "metrics.json").read_text()), (target / "card.md").read_text()
    start, made = (model_file.load(path / "model.pt") for path in (home / "runs" / "tiny", run))
    assert metrics["float_accuracy"] == start.metrics["float_accuracy"] and metrics["start"] == start.metrics
    assert metrics["integer_accuracy"] == made.metrics["float_accuracy"]
    verified = {rung["name"]: rung for rung in json.loads((run / "verify.json").read_text())["rungs"]}
    assert metrics["trained_values"] == verified["folded = integers"]["compared"] > 0
    said = card.splitlines()
    assert said[0] == "# tiny" and "Two layers. Trained on in integers, weights of 3 bits, 8 in conv1." in said
    assert "| conv1 |" in card and [row.split(" | ")[6] for row in said if "| proved |" in row] == ["8", "3"]
    commands = [line.strip() for line in said if line.startswith("    ")]
    assert commands[0] == "snn2chip train tiny --out runs/tiny"
    assert shlex.split(commands[1])[1:] == [
        *("retrain", "runs/tiny/model.pt", *QUANTIZE[:-2]),
        *("--set", "train.quantize.layers={conv1=8}", "--set", "train.quantize.freeze=1.0"),
    ]
    assert commands[2].startswith("snn2chip fold-and-export runs/tiny-iir/T1-3bit/model.pt --json ")

    run_in_process("halve", run, main=zoo.main).ok()
    published("--called", "tiny=other").ok()
    halved = (target / "card.md").read_text()
    assert "| weights | integers, kept in float16, which holds each exactly |" in halved
    assert "python tools/zoo.py halve runs/tiny-iir/T1-3bit" in halved
    published("--called", "tiny").refused("--called: expected OLD=NEW")

    (run / "akida.json").write_text(json.dumps({"samples": 5, "potentials": 50, "differ": 0, "accuracy": 1.0}))
    published().refused("akida.json", "all samples of the test set, 359")
    (run / "akida.json").unlink()
    text = (target / "recipe.toml").read_text()
    (target / "recipe.toml").write_text(text.replace("train_limit = 128", "train_limit = 127"))
    published().refused("is not the recipe that")
    (target / "recipe.toml").write_text(text)
    (home / "runs" / "tiny" / "model.pt").write_bytes((run / "model.pt").read_bytes())
    published().refused("is not the model that", "started from")
    assert (target / "card.md").read_text() == halved


def test_a_cost_is_counted_again_of_so_many_samples(in_integers: Path, tmp_path: Path) -> None:
    """`fit --samples`: metrics and card have the cost that `simulate --cost --limit` says, of the card's network."""
    home = tmp_path / "home"
    shutil.copytree(in_integers, home)
    run, target = home / "runs" / "tiny-iir" / "T1-3bit", home / "models" / "tiny"
    run_in_process("publish", run, target, main=zoo.main).ok()
    whole, before = json.loads((target / "metrics.json").read_text()), (target / "card.md").read_text()
    run_in_process("fit", target, main=zoo.main).ok()
    assert json.loads((target / "metrics.json").read_text()) == whole
    run_in_process("fit", target, "--samples", "7", main=zoo.main).ok()
    written = tmp_path / "simulate.json"
    run_in_process("simulate", run / "model.net", "--cost", "--limit", "7", "--json", written).ok()
    cost = json.loads(written.read_text())["cost"]
    del cost["layers"]
    assert json.loads((target / "metrics.json").read_text()) == {**whole, "cost": cost}
    card = (target / "card.md").read_text()
    assert "counted of 7 test samples" in card and card.split(cards.COSTS)[0] == before.split(cards.COSTS)[0]
    (target / "card.md").write_text(card.replace("| 8 | proved |", "| 8 | seen only |", 1))  # as exported long ago
    run_in_process("fit", target, "--samples", "7", main=zoo.main).ok()
    card = (target / "card.md").read_text()
    assert "counted of 7 test samples, exported anew at other scales than those above" in card
    run_in_process("fit", target, main=zoo.main).ok()
    assert (target / "card.md").read_text().split(cards.CORES)[0] == card.split(cards.CORES)[0]
