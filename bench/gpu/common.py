"""What the parts of the run share: their options, and results that are written as they are made."""

from __future__ import annotations

import argparse
import json
import os
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
    (out() / f"{name}.part.json").write_text(json.dumps(rows, indent=1))


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def card(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
