"""CIFAR-10 in its published layout as lossless WebP, half as large, and back: byte for byte."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

FILES = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]
ROW, ROWS = 40, 25  # images in a row and rows in a mosaic


def pack(source: Path, name: str) -> dict[str, bytes]:
    """The files that a published file becomes: its labels, and mosaics of up to 1,000 images."""
    records = np.fromfile(source / name, np.uint8).reshape(-1, 3073)
    found = {f"{name}.labels": records[:, 0].tobytes()}
    images = records[:, 1:].reshape(-1, 3, 32, 32)
    for number, start in enumerate(range(0, len(images), ROW * ROWS)):
        part = images[start : start + ROW * ROWS]
        full = np.zeros((ROW * -(-len(part) // ROW), 3, 32, 32), np.uint8)
        full[: len(part)] = part
        mosaic = full.reshape(-1, ROW, 3, 32, 32).transpose(0, 3, 1, 4, 2).reshape(-1, ROW * 32, 3)
        path = f"{name}.{number:02d}.webp"
        found[path] = _webp(mosaic)
    return found


def _webp(mosaic: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(mosaic).save(file, "WEBP", lossless=True, quality=50, method=4)
    return file.getvalue()


def unpack(folder: Path, target: Path, names: Sequence[str] = FILES) -> None:
    """The published files in `target`, of what `pack` made in `folder`."""
    target.mkdir(parents=True, exist_ok=True)
    for name in names:
        if not (folder / f"{name}.labels").is_file():
            continue  # did not travel: of a run that does not train
        labels = np.fromfile(folder / f"{name}.labels", np.uint8)
        parts = []
        for path in sorted(folder.glob(f"{name}.*.webp")):
            mosaic = np.asarray(Image.open(path).convert("RGB"))
            parts.append(mosaic.reshape(-1, 32, ROW, 32, 3).transpose(0, 2, 4, 1, 3).reshape(-1, 3072))
        records = np.empty((len(labels), 3073), np.uint8)
        records[:, 0], records[:, 1:] = labels, np.concatenate(parts)[: len(labels)]
        records.tofile(target / name)


if __name__ == "__main__":
    unpack(Path(sys.argv[1]), Path(sys.argv[2]))
