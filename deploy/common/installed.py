"""What an environment holds."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path


def installed() -> dict[str, str]:
    """The version of every package whose files are all there and as long as they were; "damaged" of the others."""
    found = {}
    for item in importlib.metadata.distributions():
        files = [
            file for file in item.files or () if file.size is not None and file.suffix != ".pyc"
        ]  # those come anew
        sizes = [(Path(str(item.locate_file(file))), file.size) for file in files]
        whole = all(path.is_file() and path.stat().st_size == size for path, size in sizes)
        found[item.metadata["Name"]] = item.version if whole else "damaged"
    return found
