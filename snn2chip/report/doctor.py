"""What this machine has: versions, devices, Lava's interpreter, data sets."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Iterator
from pathlib import Path

from snn2chip import __version__, data, places
from snn2chip.backends import akida, environment, interpreters, lava
from snn2chip.backends.interpreters import NoPythonError
from snn2chip.processors import threads
from snn2chip.simulate.events import library

_PACKAGES = (
    "torch",
    "numpy",
    "h5py",
    "scikit-learn",
    "pydantic",
    "typer",
    "rich",
    "matplotlib",
    "pooch",
    "pillow",
)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def _cuda() -> Iterator[str]:
    """The GPUs that torch can use; it is loaded only where there may be some: that takes seconds."""
    if Path("/proc/driver/nvidia").exists():
        import torch

        for index in range(torch.cuda.device_count()):
            yield f"device    cuda:{index}, {torch.cuda.get_device_name(index)}"
        if torch.cuda.is_available():
            return
    yield "device    no CUDA device that torch can use"


def examine() -> Iterator[str]:
    """One line a finding, as they are found."""
    yield f"snn2chip {__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    yield "packages  " + ", ".join(f"{name} {_version(name)}" for name in _PACKAGES)
    yield f"device    cpu, {os.cpu_count()} processors, of them {threads()} for this process"
    yield from _cuda()
    lacking = library.unavailable()
    yield f"engine    events: {lacking or f'compiled, {library.SIMD[library.simd_level()]}'}"
    yield f"recipes   {', '.join(places.recipe_names())}"
    yield f"chips     {', '.join(places.chip_files())}"
    for kind in (lava.LIGHT, lava.FULL, akida.KIND):
        label, name = f"{kind.folder:<10}", f"{kind.name}: " if kind.name else ""
        try:
            found = environment.find(kind)
        except NoPythonError as problem:
            yield f"{label}{name}{problem}"
            continue
        if found is not None:
            versions = ", ".join(f"{key} {value}" for key, value in found.versions.items())
            yield f"{label}{name}{found.python} ({versions})"
            continue
        yield f"{label}{name}not set up; {kind.setup}"
        for candidate in interpreters.candidates(kind) if kind is not lava.FULL else ():
            if candidate.version is None:
                continue  # a shim of a version that is not installed, say: nothing runs there
            verdict = candidate.problem or "can be used"
            yield f"{label}Python {candidate.version or '?'} at {candidate.python} ({candidate.source}): {verdict}"
    for name, where in data.available():
        remedy = f"give --data DIR{', or it is downloaded when used' if name in data.PUBLISHED else ''}"
        yield f"data      {name}: {where or f'not found; {remedy}'}"
