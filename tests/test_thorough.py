"""The random tests with all of their examples; the usual run draws a third of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, child_environment

HERE = Path(__file__)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("file", sorted(path.name for path in HERE.parent.glob("test_*.py") if path != HERE))
def test_all_examples(file: str) -> None:
    command = [sys.executable, "-m", "pytest", "-m", "hypothesis and not slow", f"tests/{file}"]
    environment = child_environment(SNN2CHIP_THOROUGH="1")
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 5), done.stdout[-5000:]  # 5: it has none
