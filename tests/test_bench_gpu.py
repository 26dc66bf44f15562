"""The run that waits for a GPU, rehearsed on a CPU: packed, kept, run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, child_environment
from gpu import page

from snn2chip.nn import model_file
from snn2chip.recipe import load

BENCH = ROOT / "bench" / "gpu"


def run(*command: str | Path, **variables: str) -> str:
    """A command's output; no torch operation of it may be compiled or take a second thread."""
    environment = child_environment(PYTHONPATH=str(ROOT), **variables)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, check=False, timeout=1000)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def cifar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Few images in the published layout."""
    folder = tmp_path_factory.mktemp("data") / "cifar-10-batches-bin"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]:
        records = rng.integers(0, 256, (24, 3073), dtype=np.uint8)
        records[:, 0] %= 10
        records.tofile(folder / f"{name}.bin")
    return folder.parent


@pytest.mark.timeout(1200)
def test_a_rehearsal(cifar: Path, tmp_path: Path) -> None:
    """Data arrive byte for byte over several calls; every part ends well and leaves its figures; scores equal the
    CPU's; the networks come back, trained by the shipped recipes."""
    recipe = load("cifar10-vgg-tdbn-t2", ["model.width=0.0625"])
    network, small = model_file.build_network(recipe, (3, 32, 32), 10, 255), tmp_path / "small.pt"
    model_file.save(small, network, recipe, max_value=255, classes=tuple("0123456789"), metrics={})
    packed, kept, out = tmp_path / "packed", tmp_path / "kept", tmp_path / "out"
    pack = [sys.executable, BENCH / "pack.py"]
    said = run(*(*pack, "--data", cifar, "--to", packed, "--limit", "3", "--networks", small, "--room", "200000"))
    parts = sorted(packed.glob("part*"))
    assert len(parts) == 3 and all(f"bench/gpu/keep.sh {part}" in said for part in parts)
    for part in parts:
        assert sum(path.stat().st_size for path in part.iterdir()) <= 200_000
        run("bash", BENCH / "keep.sh", part, SNN2CHIP_GPU_KEPT=str(kept))
    command = [sys.executable, BENCH / "run.py", "--packed", packed / "last", "--out", out, "--kept", kept]
    run(*command, "--device", "cpu", "--small", "--seconds", "900")
    for path in (cifar / "cifar-10-batches-bin").iterdir():
        assert (kept / path.parent.name / path.name).read_bytes() == path.read_bytes()
    results = json.loads((out / "results.json").read_text())
    assert results["codes"] == {"steps": 0, "simulation": 0, "training": 0}
    steps = {row["name"]: row for row in results["steps"]}
    assert all(steps[name]["seconds"] > 0 for name in steps if not name.startswith("SpikingJelly"))
    assert len(steps) == 7
    assert [row["images_whose_scores_differ"] for row in results["simulation"]] == [0, 0]
    names = ["cifar10-resnet-teacher", *(f"cifar10-resnet19-tdbn-t{t}" for t in (1, 2, 4))]
    assert [(row["stage"], len(row["history"])) for row in results["training"]] == [(name, 1) for name in names]
    assert sorted(path.name for path in out.iterdir()) == [*(f"{name}.pt" for name in names), "log.txt", "results.json"]
    for before, name in zip([None, *names], names, strict=False):
        model = model_file.load(out / f"{name}.pt")
        found = model.metrics
        assert model.recipe == load(
            name, ["model.width=0.0625", "train.batch_size=16", "data.validation=8", "train.epochs=1"]
        )
        assert (found["init"], found["samples"]) == (before, 24)
        assert found["teacher"] == (None if before is None else names[0])


def test_the_shipped_page_is_its_figures() -> None:
    """Nothing in it is typed by hand; what could not be measured says why."""
    parts = json.loads((ROOT / "docs" / "gpu.json").read_text())
    assert page.page(parts) == (ROOT / "docs" / "gpu.md").read_text()
    metrics = {"training_seconds": 61.2, "validation_accuracy": 0.9312, "float_accuracy": 0.93}
    failed = {"name": "another", "timesteps": 4, "failed": "ImportError: no"}
    trained = {"stage": "T2", "epochs": 3, "device": "some", "metrics": metrics}
    parts["steps"]["rows"].append(failed)
    parts["training"] = {"versions": {"torch": "2"}, "rows": [trained]}
    text = page.page(parts)
    assert "\n- another, T = 4: ImportError: no\n" in text
    assert "some; torch 2.\n\n| network |" in text and text.endswith("| T2 | 3 | 61 | 93.12 % | 93.00 % |\n")
