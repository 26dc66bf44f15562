"""What travels to a GPU machine, see README.md: python bench/gpu/pack.py --data DIR."""

from __future__ import annotations

import argparse
import subprocess
from collections.abc import Iterable
from pathlib import Path

import mosaics
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
MOST, SPARE = 64 << 20, 2 << 20  # bytes of a call, and of it left alone
NETWORKS = ("cifar10-vgg-tdbn-t2", "cifar10-resnet19-tdbn-t2")


def room() -> int:
    """Bytes that a call has beside the working tree."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
    return MOST - SPARE - sum((ROOT / name).stat().st_size for name in names if name and (ROOT / name).is_file())


def parts_of(files: Iterable[tuple[str, bytes]], size: int, target: Path) -> list[Path]:
    """The files in folders part1, part2, ... of at most `size` bytes."""
    folders: list[Path] = []
    left = -1
    for name, content in files:
        if len(content) > size:
            raise SystemExit(f"{name} has {len(content):,} bytes, a call {size:,}")
        if len(content) > left:
            folders.append(target / f"part{len(folders) + 1}")
            folders[-1].mkdir(parents=True)
            left = size
        (folders[-1] / name).write_bytes(content)
        left -= len(content)
    return folders


def networks(data: Path, target: Path, names: Iterable[str], limit: int | None) -> None:
    """model.net of shipped networks, and their scores of the test images by the CPU."""
    from snn2chip.chip import load as load_chip
    from snn2chip.data import load
    from snn2chip.formats import netx
    from snn2chip.nn import model_file
    from snn2chip.passes.pipeline import export
    from snn2chip.simulate.run import simulate

    train, test = (load("cifar10", split, data, download=False) for split in ("train", "test"))
    for name in names:
        path = Path(name)
        model = model_file.load(path if path.suffix == ".pt" else ROOT / "models" / name / "model.pt")
        chain = export(model, load_chip("loihi2"), calibration=train.subset(64)).chain
        netx.save(target / f"{path.stem}.net", chain)
        found = simulate(chain, images=test.subset(limit))
        np.savez_compressed(target / f"{path.stem}.npz", scores=found.trace.scores, accuracy=found.accuracy)
        print(f"{name}: {found.samples:,} images by the {found.engine} engine in {found.seconds:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of CIFAR-10 in its published layout")
    parser.add_argument("--to", type=Path, default=ROOT / ".gpu", help="a folder that git ignores and does not exist")
    parser.add_argument("--limit", type=int, help="score so many test images only")
    parser.add_argument("--networks", nargs="*", default=NETWORKS, help="names in models/, or files model.pt")
    parser.add_argument("--room", type=int, help="bytes of a call; default what the working tree leaves")
    options = parser.parse_args()
    last = options.to / "last"
    last.mkdir(parents=True)
    networks(options.data, last, options.networks, options.limit)
    source = next(f for f in (options.data / "cifar-10-batches-bin", options.data) if (f / mosaics.FILES[0]).is_file())
    files = (item for name in reversed(mosaics.FILES) for item in mosaics.pack(source, name).items())
    size = room() if options.room is None else options.room
    for folder in parts_of(files, size, options.to):
        print(f"carry {folder}: bash bench/gpu/keep.sh {folder}")
    print(f'carry {last}: python3 bench/gpu/run.py --packed {last} --out "$OUT"')


if __name__ == "__main__":
    main()
