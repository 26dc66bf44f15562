"""The order of the folders, which `make lint` (import-linter) keeps; what an import costs; where a test is found."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, child_environment

SUBJECTS = {
    "attack",
    "bad_input",
    "frameworks_whole_way",
    "fuzz",
    "gpu",
    "house",
    "mutants",
    "neuron_proof",
    "thorough",
    "tutorials",
    "wheel",
}  # of the tool as a whole


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=folder,
        env=child_environment(PYTHONPATH=str(folder)),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("module", "line", "broken"),
    [
        ("snn2chip/passes/fold.py", "from snn2chip.simulate import dense", "snn2chip.passes -> snn2chip.simulate"),
        ("snn2chip/formats/npz_too.py", "from snn2chip.passes import fold", "snn2chip.formats -> snn2chip.passes"),
        ("snn2chip/simulate/run.py", "from snn2chip.train import loop", "snn2chip.simulate -> snn2chip.train"),
        ("snn2chip/data/recordings/recording.py", "from snn2chip.data.recordings import files", "No cycles"),
        ("snn2chip/somewhere.py", "", "snn2chip.somewhere"),
    ],
)
def test_a_wrong_import_fails_the_lint(module: str, line: str, broken: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "snn2chip", tmp_path / "snn2chip", ignore=shutil.ignore_patterns("__pycache__", "*.so*"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    path = tmp_path / module
    path.write_text(f"{path.read_text() if path.exists() else ''}\n{line}\n")
    done = lint(tmp_path)
    assert done.returncode == 1, done.stderr
    words = done.stdout.replace("is not allowed to import", "->")
    if " -> " in broken:
        importer, imported = broken.split(" -> ")
        assert any(x.startswith(importer) and f"-> {imported}" in x for x in words.splitlines()), words
    else:
        assert broken in words


@pytest.mark.parametrize(
    ("imported", "without"),
    [
        ("snn2chip.simulate.run, snn2chip.simulate.streaming, snn2chip.simulate.chip_time", "nn train passes formats"),
        ("snn2chip.formats.netx", "nn train passes data simulate"),
        ("snn2chip.cli", "nn train passes formats simulate data verify report"),
        ("snn2chip.__main__", "cli ir chip nn"),
    ],
)
def test_an_import_loads_no_more_than_it_needs(imported: str, without: str) -> None:
    """Simulating loads no training code, `--help` nothing that is slow."""
    code = f"import sys, {imported}; print(*(name for name in sys.modules if name.startswith('snn2chip')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = {name.split(".")[1] for name in done.stdout.split() if "." in name}
    assert loaded and not loaded & set(without.split())


def test_a_modules_tests_are_found_by_its_name() -> None:
    """tests/test_passes_fold.py tests passes/fold.py; a folder's name stands for what is in it."""
    folders = [ROOT / name for name in ("snn2chip", "deploy", "bench", "tools")]
    paths = [path.with_suffix("").relative_to(ROOT) for folder in folders for path in folder.rglob("*")]
    modules = {"_".join(path.parts).removeprefix("snn2chip_") for path in paths}
    tests = {path.stem.removeprefix("test_") for path in (ROOT / "tests").glob("test_*.py")}
    assert tests - modules == SUBJECTS


def test_no_test_is_imported_by_another_file() -> None:
    """What several share is in a file without `test_`."""
    line = re.compile(r"^\s*(from|import) (tests\.)?test_\w+", re.MULTILINE)
    assert line.search("    from test_train import train\n") and line.search("import tests.test_train\n")
    assert not [path.name for path in (ROOT / "tests").glob("*.py") if line.search(path.read_text())]
