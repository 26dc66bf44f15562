"""Whether two checkouts export the zoo to the same integers: every array and attribute of every model.net.

    python tools/same_integers.py BEFORE AFTER [--calibration N --data cifar10=DIR --data nmnist=DIR ...]

Each model.pt of BEFORE/models is exported by both, with this Python. Exit code 1 where anything differs.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np


def content(path: Path) -> dict[str, Any]:
    """Arrays and attributes of an HDF5 file by name."""
    found: dict[str, Any] = {}

    def look(name: str, item: Any) -> None:
        found.update({f"{name}@{key}": np.asarray(value) for key, value in item.attrs.items()})
        if isinstance(item, h5py.Dataset):
            found[name] = np.asarray(item[()])

    with h5py.File(path) as file:
        look("", file)
        file.visititems(look)
    return found


def export(checkout: Path, model: Path, target: Path, options: list[str]) -> None:
    command = [sys.executable, "-m", "snn2chip", "fold-and-export", str(model), "-o", str(target), *options]
    subprocess.run(
        command, cwd=checkout, env={**os.environ, "PYTHONPATH": str(checkout)}, check=True, stdout=subprocess.DEVNULL
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--calibration", type=int, default=64, help="images; 0 for none")
    parser.add_argument("--data", action="append", default=[], metavar="NAME=DIR", help="where a data set is")
    given = parser.parse_args()
    folders = dict(item.split("=", 1) for item in given.data)
    worst = 0
    for model in sorted(given.before.resolve().glob("models/*/model.pt")):
        name = model.parent.name
        options = ["--calibration", str(given.calibration)]
        for data, folder in folders.items():
            if name.startswith(f"{data}-"):
                options += ["--data", str(Path(folder).resolve())]
        with tempfile.TemporaryDirectory() as folder:
            files = [Path(folder) / f"{side}.net" for side in ("before", "after")]
            for checkout, file in zip((given.before, given.after), files, strict=True):
                export(checkout.resolve(), model, file, options)
            before, after = map(content, files)
        odd = [key for key in sorted({*before, *after}) if not np.array_equal(before.get(key), after.get(key))]
        size = sum(value.size for value in before.values())
        print(f"{name}: {len(before)} arrays and attributes, {size:,} values, {len(odd)} differ", *odd[:5], flush=True)
        worst |= bool(odd)
    sys.exit(worst)


if __name__ == "__main__":
    main()
