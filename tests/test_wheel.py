"""The wheel alone is enough: recipes, chip profiles and the Lava runner travel inside it."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT, child_environment


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel built from this checkout."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    (built,) = out.glob("*.whl")
    return built


def test_the_wheel_holds_its_data_and_nothing_else(wheel: Path) -> None:
    """Every recipe, chip profile and file of the runner; no weights, tests or cards."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    wanted = {f"snn2chip/_data/{path.relative_to(ROOT)}" for path in ROOT.glob("models/*/recipe.toml")}
    wanted |= {f"snn2chip/_data/{path.relative_to(ROOT)}" for path in ROOT.glob("deploy/chips/*.toml")}
    for kind in ("*.[pt][yx]*", "*.md", "*.toml"):
        wanted |= {f"snn2chip/_data/{path.relative_to(ROOT)}" for path in ROOT.glob(f"deploy/*/**/{kind}")}
    wanted = {name for name in wanted if "__pycache__" not in name}
    assert len(wanted) > 8
    assert wanted <= names
    packaged = {f"snn2chip/{path.relative_to(ROOT / 'snn2chip')}" for path in (ROOT / "snn2chip").rglob("*.py")}
    assert packaged <= names
    engine_hash = "snn2chip/simulate/events/events_engine.so.sha256"
    extra = {name for name in names - wanted - packaged if ".dist-info/" not in name}
    beside = {
        f"snn2chip/{path.relative_to(ROOT / 'snn2chip')}"
        for path in (ROOT / "snn2chip").rglob("*")
        if path.suffix in (".cpp", ".h", ".css", ".js", ".jinja", ".wasm")
    }
    beside |= {f"{name}.sha256" for name in beside if name.endswith(".wasm")}
    assert extra == {"snn2chip/py.typed", "snn2chip/simulate/events/events_engine.so", engine_hash} | beside


def test_without_a_compiler_the_wheel_of_the_sdist_says_what_it_lacks(tmp_path: Path) -> None:
    """It is built all the same, for every machine and without the engine; why, and what follows, is on stderr."""
    failing = tmp_path / "no-such-vectors"
    failing.write_text("#!/bin/sh\necho 'engine.cpp:1: error: this compiler knows no vectors' >&2\nexit 3\n")
    failing.chmod(0o755)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    environment = child_environment(CXX=str(failing))
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=300)
    warning = (
        f"WARNING: built without the compiled event engine: {failing} failed with exit code 3: engine.cpp:1: error"
    )
    assert warning in done.stderr and "WARNING" not in done.stdout
    for said in (
        "compiled at its first use",
        "the dense engine: the same spikes, slower",
        "install a C++ compiler (g++ or\n",
    ):
        assert said in done.stderr
    (built,) = tmp_path.glob("*.whl")
    assert built.name.endswith("-py3-none-any.whl") and len(list(tmp_path.glob("*.tar.gz"))) == 1
    with zipfile.ZipFile(built) as archive:
        names = set(archive.namelist())
    assert "snn2chip/simulate/events/engine.cpp" in names, "to be compiled from at the first use"
    assert not [name for name in names if ".so" in name]


def test_an_installed_wheel_trains_exports_and_simulates(wheel: Path, tmp_path: Path) -> None:
    """In an empty environment and folder: the quickstart recipe for one epoch, exported and simulated.

    The environment holds the wheel alone; to save a gigabyte, its dependencies are read from this environment's
    packages through a path file. Path files are not followed twice, so that the checkout's own (editable)
    installation stays out of reach, which is checked.
    """
    folder = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=120)
    python = folder / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True, timeout=120)
    (packages,) = (folder / "lib").glob("python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    environment = child_environment()
    environment.pop("PYTHONPATH", None)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    def run(*command: str | Path) -> str:
        done = subprocess.run(
            list(map(str, command)),
            cwd=elsewhere,
            env={**environment, "PATH": f"{folder / 'bin'}{os.pathsep}{environment['PATH']}"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    told = "import snn2chip.places as it; print(it.__file__, *it.recipe_names())"
    where, *recipes = run(python, "-c", told).split()
    assert Path(where).is_relative_to(packages) and "digits-tdbn" in recipes
    snn2chip = folder / "bin" / "snn2chip"
    run(snn2chip, "train", "digits-tdbn", "--set", "train.epochs=1", "--device", "cpu")
    run(snn2chip, "fold-and-export", "runs/digits-tdbn/model.pt")
    assert "359 samples of digits:test" in run(snn2chip, "simulate", "runs/digits-tdbn/model.net")
    assert sorted(path.name for path in elsewhere.rglob("*") if path.is_file()) == [
        "checkpoint.pt",
        "metrics.jsonl",
        "model.net",
        "model.pt",
        "report.html",
        "report.json",
    ]
