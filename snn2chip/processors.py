"""The processors and the memory that this process may use, and waiting that leaves processors to others.

OpenMP's threads wait busily for their next work by default: beside other processes each of them then takes the
processor from the thread that it waits for, and a step costs many times its share. `considerate`, before torch is
loaded, has them sleep soon instead, and starts no more threads than processors are this process's.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_CGROUPS, _OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
# libgomp looks 1000 times for new work (microseconds), then sleeps; MKL's and LLVM's OpenMP sleep at once
_QUIET = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "0"}


def _groups(kind: str) -> Iterator[Path]:
    """The folders of this process's control groups that may limit `kind` ("cpu" or "memory"), of version 2 or 1."""
    with suppress(OSError, ValueError):
        for line in _OWN.read_text(encoding="utf-8").splitlines():
            _, kinds, place = line.split(":", 2)
            folder = _CGROUPS / (kind if kind in kinds.split(",") else "") / place.strip("/")
            while folder.is_relative_to(_CGROUPS):
                yield folder
                folder = folder.parent


def _quota() -> float:
    """How many processors the control groups of this process give it; infinite if none says."""
    least = math.inf
    for folder in _groups("cpu"):
        for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
            with suppress(OSError, ValueError):
                words = " ".join((folder / name).read_text(encoding="utf-8") for name in names).split()
                given = float(words[0]) / float(words[1])
                least = given if 0 < given < least else least
    return least


def memory() -> float:
    """Bytes of this machine's memory, or of what its control groups leave this process; infinite if none says."""
    least = math.inf
    with suppress(AttributeError, ValueError, OSError):  # not told on this system
        least = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for folder in _groups("memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            with suppress(OSError, ValueError):
                least = min(least, float((folder / name).read_text(encoding="utf-8")))
    return least


def threads() -> int:
    """The processors that this process may run on, and no more than its control group pays for; 1 or more."""
    try:
        here = len(os.sched_getaffinity(0))
    except (AttributeError, OSError):  # elsewhere than on Linux
        here = os.cpu_count() or 1
    quota = _quota()
    return max(1, min(here, math.ceil(quota) if math.isfinite(quota) else here))


def considerate() -> None:
    """Set what OpenMP reads when torch is loaded; of how to wait nothing where the user has set any of it."""
    if not any(name in os.environ for name in _QUIET):
        os.environ.update(_QUIET)
    if threads() < (os.cpu_count() or 1):  # where all are this process's, torch knows best
        os.environ.setdefault("OMP_NUM_THREADS", str(threads()))
