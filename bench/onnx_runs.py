"""ONNX Runtime against our simulator: every spike and register of trained networks, ours and lava-dl's.

    python bench/onnx_runs.py --data DIR --nets RUNS [--samples 100] [--only NAME ...] [--json FILE]
        [--write docs/onnx.md]

Ours are RUNS/NAME.net, made with the command of their cards where they are not there yet (minutes each), each sample
from rest over the network's own T. lava-dl's come from the Lava environment (`snn2chip lava setup`) and run in raw chip
time, each sample from rest for `CHIP_STEPS` steps. One thread each. Exit code 1 if a value differs, and the first that
does is named. Rows of networks that do not run this time are kept from FILE.

Images: CIFAR-10's test images from the first, for pilotnet_lif and tiny.net resized to their input and scaled to -1..1;
for mnist.net scikit-learn's digits (`digits:test`), resized and scaled to 0..1. They go through each file's own input
transform. None of these is what lava-dl trained the networks on: they make real activity, their decisions mean nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import harness
import numpy as np
import onnx
import onnxruntime
import torch
from lava_dl_networks import NETWORKS, folder
from numpy.typing import NDArray
from torch.nn import functional as F

from snn2chip import __version__, data
from snn2chip.backends import lava
from snn2chip.formats import netx
from snn2chip.formats.netx import read
from snn2chip.formats.onnx import run as onnx_runtime
from snn2chip.formats.onnx import write as onnx_format
from snn2chip.formats.onnx import write_chip_time
from snn2chip.ir.encode import encoder_of
from snn2chip.ir.netlist import Netlist
from snn2chip.simulate.chip_time import ChipEngine, ChipTrace, check_input
from snn2chip.simulate.dense import DenseEngine

Array = NDArray[Any]
Pairs = Iterator[tuple[int, dict[str, tuple[Array, Array]]]]  # first sample of a batch; name to (simulator, ONNX)
BEGIN, END = "<!-- onnx runs: begin -->", "<!-- onnx runs: end -->"
OURS = ("cifar10-vgg-tdbn-t2", "cifar10-resnet19-tdbn-t2")
PICTURES = {  # file, data set, (height, width), and how pixels 0..1 become what the input transform takes
    "pilotnet_lif": ("gts/pilotnet_lif/network.net", "cifar10", (66, 200), (2.0, -1.0)),
    "tiny.net": ("tiny.net", "cifar10", (16, 16), (2.0, -1.0)),
    "mnist.net": ("mnist.net", "digits", (28, 28), (1.0, 0.0)),
}
CHIP_STEPS = 32


@dataclass
class Row:
    """What one network's comparison found. `spikes` of the simulator, by layer."""

    network: str
    clock: str
    input: str
    layers: int
    steps: int
    samples: int
    values: int = 0
    differ: int = 0
    first: str = ""
    spikes: dict[str, int] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)


def _ours(name: str, options: argparse.Namespace) -> tuple[Row, Pairs]:
    """A network of the zoo on test images."""
    path = options.nets / f"{name}.net"
    harness.export(name, path, options.data)
    chain = netx.load(path)
    images = data.load("cifar10", "test", options.data).subset(options.samples)
    raw = encoder_of(chain)(images.images)
    session = onnx_runtime.session(onnx_format.build(chain, trace=True), 1)
    engine = DenseEngine(chain)
    names = [port.name for port in session.get_outputs()]
    row = Row(name, "sample", f"{images.name}, the first", len(chain.layers), chain.timesteps, len(raw))

    def run() -> Pairs:
        for start in range(0, len(raw), 4):
            batch = raw[start : start + 4]
            wanted = engine.run(chain.port(batch))
            given = {session.get_inputs()[0].name: images.images[start : start + 4].numpy()}
            found = dict(zip(names, session.run(None, given), strict=True))
            pairs = {"scores": (wanted.scores, found["scores"])}
            for number, label in onnx_format.labels(chain).items():
                pairs[f"{label}/spikes"] = wanted.spikes[number], found[f"{label}/spikes"]
                pairs[f"{label}/voltage"] = wanted.voltage[number], found[f"{label}/voltage"]
            yield start, pairs

    return row, run()


def _chip_pairs(net: Netlist, streams: Callable[[int], Array], samples: int) -> Pairs:
    """Streams (T, ...) by number, one after another, each from rest."""
    steps = len(streams(0))
    session = onnx_runtime.session(write_chip_time.build(net, steps, trace=True), 1)
    port, names = write_chip_time.input_port(net, steps), [output.name for output in session.get_outputs()]
    for sample in range(samples):
        stream = streams(sample)
        wanted: ChipTrace = ChipEngine(net).run(stream)
        found = dict(zip(names, session.run(None, {port.name: stream[None].astype(port.dtype)}), strict=True))
        pairs = {}
        for number, label in write_chip_time.labels(net).items():
            for kind in ("spikes", "voltage", "current"):
                if (name := f"{label}/{kind}") in found:  # an input layer's current is always 0
                    pairs[name] = getattr(wanted, kind)[number][None], found[name]
        yield sample, pairs


def _pictures(name: str, options: argparse.Namespace) -> tuple[Row, Pairs]:
    """One of lava-dl's networks that are driven by bias, on resized images."""
    file, source, size, (gain, offset) = PICTURES[name]
    net = read.load(folder() / file)
    images = data.load(source, "test", options.data).subset(options.samples)
    pixels = images.images.double() / float(images.max_value)
    values = (F.interpolate(pixels, size=size, mode="bilinear", antialias=True) * gain + offset).numpy()

    def stream(sample: int) -> Array:
        still = values[sample].reshape(net.input_shape)
        return check_input(np.broadcast_to(still, (CHIP_STEPS, *still.shape)), net)

    row = Row(name, "chip", f"{images.name}, resized", len(net.layers), CHIP_STEPS, len(values))
    return row, _chip_pairs(net, stream, len(values))


def _recording(name: str, options: argparse.Namespace) -> tuple[Row, Pairs]:
    """lava-dl's own recorded input: one stream."""
    (known,) = (known for known in NETWORKS if known.name == name)
    net = read.load(folder() / known.file, known.layers)
    stream = check_input(known.stream(folder()), net)
    row = Row(name, "chip", "lava-dl's recorded input", len(net.layers), len(stream), 1)
    return row, _chip_pairs(net, lambda _sample: stream, 1)


MAKERS: Mapping[str, Callable[[str, argparse.Namespace], tuple[Row, Pairs]]] = {
    **dict.fromkeys(OURS, _ours),
    **dict.fromkeys(PICTURES, _pictures),
    "ntidigits": _recording,
}


def compare(row: Row, pairs: Pairs) -> Row:
    """Count values and differences into the row, and name the first that differs: layer, sample, step, neuron."""
    for start, batch in pairs:
        for name, (wanted, found) in batch.items():
            if wanted.shape != found.shape or wanted.dtype != found.dtype:
                raise SystemExit(
                    f"{row.network}, {name}: {found.dtype} {found.shape} against {wanted.dtype} {wanted.shape}"
                )
            row.values += wanted.size
            if name.endswith("/spikes"):
                layer = name.removesuffix("/spikes")
                row.spikes[layer] = row.spikes.get(layer, 0) + int(wanted.sum())
            differs = wanted != found
            row.differ += int(differs.sum())
            if differs.any() and not row.first:
                at = tuple(int(i) for i in np.argwhere(differs)[0])
                where = f"sample {start + at[0]}" + (
                    f", step {at[1]}, neuron {at[2:]}" if len(at) > 2 else f", {at[1:]}"
                )
                row.first = f"{name}, {where}: {found[at]} against {wanted[at]}"
    return row


def table(rows: list[Row]) -> str:
    """The rows in Markdown."""
    lines = []
    for row in rows:
        steps = f"{row.steps:,} of the chip" if row.clock == "chip" else str(row.steps)
        differ = f"{row.differ:,}: {row.first}" if row.differ else "0"
        numbers = [str(row.layers), steps, str(row.samples), f"{sum(row.spikes.values()):,}", f"{row.values:,}"]
        lines.append([row.network, row.input, *numbers, differ])
    head = ["network", "input", "layers", "steps", "samples", "spikes", "values compared", "differ"]
    return "\n".join(harness.table(head, lines, range(2)))


def said(rows: list[Row]) -> str:
    """Versions, of all rows alike or named apart."""
    found = {", ".join(f"{name} {version}" for name, version in row.versions.items()) for row in rows}
    return "; ".join(sorted(found)) + ". One thread, CPU."


def _kept(path: Path | None) -> dict[str, Row]:
    if path is None or not path.exists():
        return {}
    return {row["network"]: Row(**row) for row in json.loads(path.read_text(encoding="utf-8"))}


def main() -> int:
    """Compare, print, write."""
    parser = harness.parser(__doc__)
    parser.add_argument("--data", type=Path, help="folder of CIFAR-10")
    parser.add_argument("--nets", type=Path, required=True, help="folder of NAME.net; what is missing is made")
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--only", nargs="+", choices=list(MAKERS), default=list(MAKERS), metavar="NAME")
    parser.add_argument("--write", type=Path, help="put the table between the markers of this Markdown file")
    parser.add_argument("--json", type=Path, help="read and write the rows here")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: dict[str, Row] = {}
    for name in options.only:
        started = time.monotonic()
        row = compare(*MAKERS[name](name, options))
        row.versions = {
            "snn2chip": __version__,
            "onnx": onnx.__version__,
            "ONNX Runtime": onnxruntime.__version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "lava-dl": lava.setup(progress=False).versions["lava-dl"],
        }
        rows = {**rows, **_kept(options.json), name: row}  # read again: another run may have added to it
        silent = [layer for layer, spikes in row.spikes.items() if not spikes]
        print(f"{name}: {row.values:,} values, {row.differ} differ, no spikes in {silent or 'no layer'}; "
              f"{time.monotonic() - started:.0f} s", flush=True)  # fmt: skip
        harness.keep(options.json, [asdict(row) for row in rows.values()])
    ordered = [rows[name] for name in MAKERS if name in rows]
    harness.fill(options.write, BEGIN, END, f"\n{table(ordered)}\n\n{said(ordered)}\n")
    return int(any(row.differ for row in ordered))


if __name__ == "__main__":
    sys.exit(main())
