"""The tutorials run as they stand."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, child_environment

FOLDER = ROOT / "docs" / "tutorials"
NEEDS = {"from_spikingjelly": "spikingjelly", "from_snntorch": "snntorch"}


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_a_tutorial_runs(path: Path, tmp_path: Path) -> None:
    """In a folder of its own; what it says of its end, its assertions hold."""
    package = NEEDS.get(path.stem)
    if package is not None and importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed here; tests/test_frameworks.py runs this where it is")
    done = subprocess.run(
        [sys.executable, path],
        cwd=tmp_path,
        env=child_environment(PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    assert "DIFFERS" not in done.stdout


def test_every_tutorial_is_in_the_list_and_in_cells() -> None:
    """As its README says; each begins with a heading, and every cell of text is a comment."""
    listed = re.findall(r"\]\((\w+\.py)\)", (FOLDER / "README.md").read_text(encoding="utf-8"))
    assert sorted(listed) == sorted(path.name for path in FOLDER.glob("*.py"))
    for name in listed:
        cells = (FOLDER / name).read_text(encoding="utf-8").split("# %%")[1:]
        assert cells[0].startswith(" [markdown]\n# # "), name
        for cell in cells:
            if cell.startswith(" [markdown]"):
                assert all(line.startswith("#") for line in cell.splitlines()[1:] if line), (name, cell)
