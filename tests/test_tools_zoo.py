"""The zoo is evidence: every folder loads, exports and shows the figures its card and metrics claim."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import zoo
from conftest import ROOT

from snn2chip import chip, data, recipe
from snn2chip.errors import DataError
from snn2chip.fit import demand
from snn2chip.fit import table as fits
from snn2chip.formats import netx
from snn2chip.nn import model_file
from snn2chip.passes import pipeline
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
    assert model.recipe == recipe.load(folder)
    assert model.metrics["float_accuracy"] == metrics["float_accuracy"]
    assert (metrics["timesteps"], metrics["dataset"]) == (
        model.recipe.model.timesteps,
        f"{model.recipe.data.name}:test",
    )
    card = (folder / "card.md").read_text()
    assert f"| accuracy, float32 | {100 * metrics['float_accuracy']:.2f} % |" in card
    assert f"| accuracy, chip integers | {100 * metrics['integer_accuracy']:.2f} % |" in card
    assert zoo.tested(model.recipe, metrics) in card
    assert f"all {metrics['samples']:,} test {'images' if model.recipe.binning is None else 'recordings'}" in card
    base = folder.name.rpartition("-t")[0]
    retrained = "Iterative retraining from " in card  # a stage of a retraining
    assert (f"snn2chip retrain runs/{base}/model.pt" if retrained else f"snn2chip train {folder.name} ") in card


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
    found = fits.fit(demand.of_chain(export.chain), chip.load(metrics["chip"]))
    card = (folder / "card.md").read_text()
    section = card.split(zoo.CORES)[1]
    assert ("oes not fit" in section) == (not found.fits) == ("fold-and-export" in card and " --no-fit" in card)
    assert [row.split(" | ")[0] for row in section.splitlines()[-len(found.layers) :]] == [
        f"| {layer.layer.name}" for layer in found.layers
    ]
    if found.fits:
        assert f"{found.cores:,} cores, {found.chips} chip" in section
    assert zoo.with_fit(card, export.chain).split(zoo.CORES)[0] == card.split(zoo.CORES)[0]
