"""The tests that usually draw a third of their examples (`helpers.usually`), with all of them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, child_environment

HERE = Path(__file__)
DRAWING = [path.name for path in HERE.parent.glob("test_*.py") if re.search(r"\b(usually|some)\(", path.read_text())]


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("file", sorted(DRAWING))
def test_all_examples(file: str) -> None:
    command = [sys.executable, "-m", "pytest", "-m", "not slow and not gpu", f"tests/{file}"]
    environment = child_environment(SNN2CHIP_THOROUGH="1")
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:]
