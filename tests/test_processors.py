"""How many threads a process starts, and how they wait."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from snn2chip import processors


def grouped(files: dict[str, str], line: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control groups of these files, and a process that is in the group of this line of /proc/self/cgroup."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{text}\n")
    own = folder / "own"
    own.write_text(f"{line}\n")
    monkeypatch.setattr(processors, "_CGROUPS", folder)
    monkeypatch.setattr(processors, "_OWN", own)


@pytest.mark.parametrize(
    ("files", "line", "wanted"),
    [
        ({"a/b/cpu.max": "150000 100000", "a/cpu.max": "max 100000"}, "0::/a/b", 2),
        ({"a/b/cpu.max": "max 100000", "a/cpu.max": "100000 100000"}, "0::/a/b", 1),
        ({"a/cpu.max": "20000 100000"}, "0::/a", 1),
        ({"cpu/a/cpu.cfs_quota_us": "300000", "cpu/a/cpu.cfs_period_us": "100000"}, "3:cpuacct,cpu:/a", 3),
        ({"cpu/a/cpu.cfs_quota_us": "-1", "cpu/a/cpu.cfs_period_us": "100000"}, "3:cpu,cpuacct:/a", 8),
        ({}, "0::/", 8),
        ({"a/cpu.max": "much"}, "0::/a", 8),
        ({"a/cpu.max": "1600000 100000"}, "0::/a", 8),
    ],
)
def test_threads_are_the_control_groups_share(
    files: dict[str, str], line: str, wanted: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rounded up, the least of all groups above, and never more than the processors that are allowed: 8 here."""
    grouped(files, line, tmp_path, monkeypatch)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert processors.threads() == wanted


@pytest.mark.parametrize(
    ("files", "line", "wanted"),
    [
        ({"a/b/memory.max": "max", "a/memory.max": "3000"}, "0::/a/b", 3000),
        ({"memory/a/memory.limit_in_bytes": "2000"}, "4:memory:/a", 2000),
        ({"memory/a/memory.limit_in_bytes": "9223372036854771712"}, "4:memory:/a", 8000),
        ({"a/memory.max": "much"}, "0::/a", 8000),
        ({}, "0::/", 8000),
    ],
)
def test_memory_is_the_control_groups_share(
    files: dict[str, str], line: str, wanted: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The least of all groups above, and never more than the machine's: 8000 bytes here."""
    grouped(files, line, tmp_path, monkeypatch)
    monkeypatch.setattr(os, "sysconf", lambda name: {"SC_PAGE_SIZE": 8, "SC_PHYS_PAGES": 1000}[name], raising=False)
    assert processors.memory() == wanted


def test_what_the_user_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting is passive unless the user says anything about it; threads are no more than allowed."""
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(processors, "threads", lambda: 1)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    with monkeypatch.context() as inner:
        inner.setattr(os, "environ", dict(os.environ))
        processors.considerate()
        assert (os.environ["OMP_WAIT_POLICY"], os.environ["GOMP_SPINCOUNT"]) == ("PASSIVE", "1000")
        assert os.environ["OMP_NUM_THREADS"] == "1"
    with monkeypatch.context() as inner:
        inner.setattr(os, "environ", {**os.environ, "OMP_WAIT_POLICY": "ACTIVE", "OMP_NUM_THREADS": "3"})
        processors.considerate()
        assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE" and "GOMP_SPINCOUNT" not in os.environ
        assert os.environ["OMP_NUM_THREADS"] == "3"
