"""What the parts of the run share: their options, and results that are written as they are made."""

from __future__ import annotations

import argparse
import json
import os
import platform
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import torch


def options_of(text: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=text)
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda"))
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--packed", type=Path)
    parser.add_argument("--seconds", type=float, default=300.0)
    return parser.parse_args()


def out() -> Path:
    return Path(os.environ.get("OUT", "."))


def write(name: str, rows: Any) -> None:
    """What `name` found so far, for results.json."""
    content = {"versions": versions(), "rows": rows}
    (out() / f"{name}.part.json").write_text(json.dumps(content, indent=1))


def versions() -> dict[str, str]:
    """Of what computes."""
    found = {"python": platform.python_version(), "cuda": str(torch.version.cuda)}
    for package in ("torch", "triton", "numpy", "spikingjelly"):
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def card(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
