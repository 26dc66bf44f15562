"""The random attacks as tests: a dozen networks in the usual run, all of them by the thousand in the slow one.

Each is a command that repeats any of its cases; a failure says how.
"""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from conftest import ROOT, child_environment


def run(script: str, *options: str) -> str:
    """The last line of a campaign without a failure."""
    command = [sys.executable, f"tests/{script}", *options]
    done = subprocess.run(
        command, cwd=ROOT, env=child_environment(PYTHONPATH=str(ROOT)), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and not done.stderr, f"{' '.join(command)}\n{done.stdout[-5000:]}{done.stderr[-3000:]}"
    return done.stdout.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("first", "count"), [(0, 12), pytest.param(0, 2000, marks=[pytest.mark.slow, pytest.mark.timeout(7200)])]
)
def test_networks(first: int, count: int) -> None:
    """Every network is equal from training to the engines, or refused; few are refused."""
    said = run("attack_networks.py", "--first", str(first), "--count", str(count), "--jobs", "2")
    refused = re.search(
        r"(\d+) refused; [\d,]+ spikes, voltages and scores compared, 0 networks with differences", said
    )
    assert refused is not None and int(refused[1]) <= max(2, count // 10), said


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("what", ["kills", "interrupts", "limits"])
def test_processes(what: str) -> None:
    """Commands that are killed, interrupted, or short of memory."""
    assert " 0 failures" in run("attack_processes.py", f"--{what}", "40" if what == "limits" else "200")
