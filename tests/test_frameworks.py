"""The frameworks' own tests, in an environment that has the frameworks."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("framework", ["spikingjelly", "snntorch", "lava_dl", "whole_way"])
def test_in_an_environment_with_the_packages(framework: str) -> None:
    """That of the benches' peers, which is made where it is missing (from PyPI; minutes); nothing may be skipped there
    but what a version has not."""
    sys.path.insert(0, str(ROOT / "bench"))
    try:
        import peers
    finally:
        sys.path.remove(str(ROOT / "bench"))
    tests = [f"tests/test_frameworks_{framework}.py"]
    if (ROOT / "docs" / "tutorials" / f"from_{framework}.py").is_file():
        tests.append(f"tests/test_tutorials.py::test_a_tutorial_runs[from_{framework}]")
    command = [str(peers.environment()), "-m", "pytest", "-rs", *tests]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert re.search(r"^\.{6,}", done.stdout, re.MULTILINE), done.stdout
