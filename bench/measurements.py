"""The file of a bench's measurements: JSON, one row a line, so that a new run changes the lines it measured anew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from snn2chip.files import write_text


def write(path: Path, value: dict[str, Any] | list[Any]) -> None:
    """Write `value` whole or not at all; of a dictionary, lists have one entry a line."""
    write_text(path, f"{_rows(value)}\n")


def _rows(value: Any) -> str:
    if isinstance(value, dict):
        return "{\n" + ",\n".join(f"{json.dumps(name)}: {_entries(entry)}" for name, entry in value.items()) + "\n}"
    return _entries(value)


def _entries(value: Any) -> str:
    if isinstance(value, list) and value:
        return "[\n" + ",\n".join(map(json.dumps, value)) + "\n]"
    return json.dumps(value)
