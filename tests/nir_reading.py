"""NIR as tests want it: read and folded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from snn2chip import ir
from snn2chip.formats import nir
from snn2chip.passes.fold import folded


def load(path: Path, **options: Any) -> ir.Network:
    return folded(nir.load(path, **options))


def convert(graph: Any, **options: Any) -> ir.Network:
    return folded(nir.convert(graph, **options))
