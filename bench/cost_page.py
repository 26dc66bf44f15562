"""docs/cost.md's tables: energy and time beside SANA-FE's, on the same spikes, and beside PilotNet's measurement.

    python bench/cost_page.py ../shared/data/loihi2/published.json [--write docs/cost.md]

SANA-FE (sanafe, GPL-3) is installed in an environment of its own, in the user's cache, and runs as a program of its own
(bench/sanafe_run.py); $SNN2CHIP_SANAFE_PYTHON names another Python that has it. published.json and pilot_snn.net beside
it are outputs and a network of lava-dl's notebooks (BSD-3-Clause).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import harness
import numpy as np
import torch

from snn2chip import chip as chips
from snn2chip import ir
from snn2chip.chip.profile import Chip
from snn2chip.files import read as read_file
from snn2chip.fit.cost import Cost, Meter
from snn2chip.fit.demand import Demand, of_chain, of_file
from snn2chip.fit.table import fit
from snn2chip.formats import netx
from snn2chip.formats.netx import read
from snn2chip.ir.trace import tally
from snn2chip.places import cache_folder
from snn2chip.simulate.chip_time import ChipEngine
from snn2chip.simulate.reference import weighted_sums

PIN = "sanafe==2.2.9"
VARIABLE = "SNN2CHIP_SANAFE_PYTHON"
BEGIN, END = "<!-- made by bench/cost_page.py -->", "<!-- end -->"
PROGRAM = Path(__file__).with_name("sanafe_run.py")

# synaptic operations of the layers' first and last cores, read from the picture of the chip's counters in lava-dl's
# tutorials/lava/lib/dl/netx/pilotnet_snn/benchmark.ipynb (BSD-3-Clause), in 1e9 over its 10,000 steps, to about 0.01
COUNTED = {"conv2": (1.31, 0.44), "conv3": (1.51, 1.51), "conv4": (0.53, 0.46), "conv5": (0.51, 0.16)}
COUNTED_STEPS = 10_000


def sanafe_python(make: bool = True) -> Path | None:
    """The Python of SANA-FE's environment; None where there is none and none is to be made."""
    given = os.environ.get(VARIABLE)
    if given:
        return Path(given)
    folder = cache_folder() / "bench" / f"{PIN.replace('==', '-')}-{sys.version_info.major}.{sys.version_info.minor}"
    python = folder / "bin" / "python"
    if (folder / "ready").is_file() and python.exists():
        return python
    if not make:
        return None
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True, symlinks=True)
    harness.run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", PIN)
    (folder / "ready").touch()
    return python


def random_chain(kind: str, seed: int = 0) -> ir.Chain:
    """Spikes and random weights: convolutions (stride, padding, groups) and a dense layer, or dense layers."""
    rng = np.random.default_rng(seed)
    shape: ir.Shape = (2, 12, 12) if kind == "convolutions" else (400,)
    source, layers = shape, []
    plan: list[tuple[ir.Shape, dict[str, Any]]] = [((300,), {}), ((50,), {}), ((10,), {})]
    if kind == "convolutions":
        plan = [
            ((8, 12, 12), {"padding": (1, 1)}),
            ((16, 6, 6), {"padding": (1, 1), "stride": (2, 2), "groups": 2}),
            ((10,), {"flatten": True}),
        ]
    for number, (to, options) in enumerate(plan, 1):
        conv = len(to) == 3
        fan = (source[0] // options.get("groups", 1), 3, 3) if conv else (int(np.prod(source)),)
        weight = rng.integers(-100, 128, (to[0], *fan))
        bias = rng.integers(-20, 60, to)
        name = str(number + (number > 2 and kind == "convolutions"))
        threshold = 200 if conv else 900
        layers.append(
            ir.ChainLayer(name, "conv" if conv else "dense", weight, bias, to, threshold, 3072, 4096, **options)
        )
        source = to
    classes = tuple(map(str, range(10)))
    return ir.Chain(shape, shape, "poisson", 1, 0, 1, (0,) * shape[0], 8, "spike_count", classes, tuple(layers))


@dataclass(frozen=True)
class Row:
    """One network in both: J, s, spikes; and SANA-FE's time with its model of the network between the cores."""

    network: str
    cores: int
    steps: int
    spikes: tuple[int, int]
    energy: tuple[float, float]
    time: tuple[float, float]
    detailed: float


def beside(name: str, chain: ir.Chain, stream: ir.IntArray, python: Path, chip: Chip) -> Row:
    """A chain and spikes (T, *input_shape) in raw chip time, here and in SANA-FE, placed alike.

    Input neurons stand on cores of their own here and there, and take what other neurons do.
    """
    demands = (Demand("input1", "input", (), chain.input_shape, feeds=chain.layers[0].kind), *of_chain(chain))  # type: ignore[arg-type]
    found = fit(demands, chip)
    assert found.fits and chip.prices is not None
    meter = Meter(found)
    with tempfile.TemporaryDirectory() as folder:
        net = Path(folder, "model.net")
        netx.save(net, chain)
        trace = ChipEngine(read.load(net)).run(stream)
        fired = [stream, *(trace.spikes[layer.name] for layer in chain.layers)]
        meter.add(
            meter.counting.of(
                [tally(torch.from_numpy(x[None]), each.classes) for x, each in zip(fired, meter.stations, strict=True)]
            )
        )
        given, made = Path(folder, "given.json"), Path(folder, "made.json")
        given.write_text(json.dumps(_given(chain, stream, meter)))
        subprocess.run([python, PROGRAM, given, made], check=True, capture_output=True)
        theirs = json.loads(made.read_text())
    cost, steps = meter.cost(), len(stream)
    return Row(
        name,
        cost.cores,
        steps,
        (int(cost.spikes.mean), theirs["simple"]["spikes"]),
        (cost.energy.value * 1e-6, theirs["simple"]["energy"]["total"]),
        (cost.step.value * 1e-6 * steps, theirs["simple"]["time"]),
        theirs["detailed"]["time"],
    )


def _given(chain: ir.Chain, stream: ir.IntArray, meter: Meter) -> dict[str, Any]:
    """What bench/sanafe_run.py reads."""
    prices = meter.prices
    inputs = {
        "energy_access_neuron": prices.update.energy * 1e-12,
        "latency_access_neuron": prices.update.time * 1e-9,
        "energy_spike_out": prices.spike.energy * 1e-12,
        "latency_spike_out": prices.spike.time * 1e-9,
    }
    groups: list[dict[str, Any]] = []
    links = []
    shapes = [chain.input_shape, *(layer.shape for layer in chain.layers)]
    for number, each in enumerate(meter.stations):
        assert each.placed is not None
        cores = np.zeros(each.placed.layer.extent[::-1], dtype=np.int64)  # (C, H, W)
        for core, (wide, high, deep) in enumerate(each.placed.regions()):
            cores[deep, high, wide] = each.start + core
        group: dict[str, Any] = {"name": each.name, "cores": cores.ravel().tolist()}
        if number == 0:
            groups.append(group | {"spikes": (stream.reshape(len(stream), -1).T != 0).tolist()})
            continue
        layer = chain.layers[number - 1]
        assert layer.current_decay == 4096
        synapse = "loihi_dense_synapse" if layer.kind == "dense" else "loihi_conv_synapse"
        leak = 1 - layer.voltage_decay / 4096
        bias = np.broadcast_to(layer.bias, layer.shape).ravel().tolist()
        groups.append(group | {"synapse": synapse, "threshold": layer.threshold, "leak": leak, "bias": bias})
        one_hot = np.eye(int(np.prod(shapes[number - 1])), dtype=np.int64).reshape(-1, *shapes[number - 1])
        there = weighted_sums(replace(layer, weight=np.ones_like(layer.weight)), one_hot)
        weights = weighted_sums(layer, one_hot).reshape(len(one_hot), -1)
        pairs = np.argwhere(there.reshape(len(one_hot), -1))
        weights_of = weights[tuple(pairs.T)].tolist()
        links.append({"from": groups[-2]["name"], "to": each.name, "pairs": pairs.tolist(), "weights": weights_of})
    return {"groups": groups, "links": links, "steps": len(stream), "inputs": inputs}


def both(python: Path, chip: Chip | None = None) -> list[Row]:
    """Two networks on random spikes."""
    rows = []
    for kind in ("convolutions", "dense"):
        chain = random_chain(kind)
        stream = (np.random.default_rng(1).random((12, *chain.input_shape)) < 0.2).astype(np.int64)
        rows.append(beside(kind, chain, stream, python, chip or chips.load("loihi1")))
    return rows


def pilotnet(net: Path, prices: str = "loihi2", steps: int = 64, first: int = 32) -> tuple[Meter, Cost]:
    """PilotNet as it was measured, of a Loihi 2: silent input, reset after 16 steps with netx's offset 3.

    The chip's counters show no spike of the input's cores and no operation in those of the first convolution: the
    frame never arrived, and the spikes are those of the biases.
    """
    placed_on = chips.load("loihi2")
    found = fit(of_file(net), replace(placed_on, prices=chips.load(prices).prices))
    read_net = read.load(net)
    silent = np.zeros((first + steps, *read_net.input_shape), dtype=np.int64)
    trace = ChipEngine(read_net, reset_interval=16, reset_offset=3).run(silent)
    meter = Meter(found)
    fired = (trace.spikes[layer.name][None, first:] for layer in read_net.layers)
    tallies = [tally(torch.from_numpy(x), each.classes) for x, each in zip(fired, meter.stations, strict=True)]
    meter.add(meter.counting.of(tallies))
    return meter, meter.cost()


def counters(meter: Meter) -> list[tuple[str, float, float, float, float]]:
    """Of the layers in `COUNTED`: operations without weights of 0 in the first and the last core, beside the chip's."""
    (counts,) = meter.counts
    steps = counts.time.size
    worked, _ = meter.cores(counts.classes / steps)
    rows = []
    for each, done in zip(meter.stations, worked, strict=True):
        if each.name in COUNTED and each.placed is not None:
            mine = done * each.placed.layer.nonzero * COUNTED_STEPS / 1e9
            rows.append((each.name, float(mine[0]), COUNTED[each.name][0], float(mine[-1]), COUNTED[each.name][1]))
    return rows


def page(published: Path, rows: Sequence[Row]) -> str:
    """The tables."""
    measured = read_file(published, "JSON")["networks"]["pilotnet_snn"]["measured"]
    net = published.with_name("pilot_snn.net")
    head = ["network", "cores", "steps", "spikes", "energy", "time", "SANA-FE's detailed time"]
    cells = [
        [
            *(row.network, f"{row.cores}", f"{row.steps}", f"{row.spikes[0]:,} / {row.spikes[1]:,}"),
            f"{row.energy[0] * 1e6:.4f} / {row.energy[1] * 1e6:.4f} uJ",
            f"{row.time[0] * 1e6:.3f} / {row.time[1] * 1e6:.3f} us",
            f"{row.detailed * 1e6:.3f} us",
        ]
        for row in rows
    ]
    lines = [f"Ours / SANA-FE's ({PIN}), timing model `simple`:", "", *harness.table(head, cells), ""]
    lines += ["PilotNet's spiking network as it was measured on Loihi 2, a frame of 16 steps:", ""]
    millijoule, step = measured["energy_mj_a_frame"]["dynamic"], 1e6 / measured["frames_per_second"] / 16
    table = [["measured", f"{millijoule:.4f} mJ", f"{step:.1f} us", ""]]
    for name, said in (("loihi1", "with Loihi 1's figures"), ("loihi2", "with Loihi 2's")):
        meter, cost = pilotnet(net, name)
        scale = 16 / cost.timesteps / 1e3
        energy = f"{scale * cost.energy.value:.4f} mJ ({scale * cost.energy.low:.3f} to {scale * cost.energy.high:.3f})"
        time = f"{cost.step.value:.1f} us ({cost.step.low:.1f} to {cost.step.high:.1f})"
        table.append([said, energy, time, f"{cost.operations.mean / cost.timesteps:,.0f}"])
    lines += harness.table(["", "energy, dynamic", "a step", "operations a step, zeros included"], table)
    lines += [
        "",
        f"Operations of a core in {COUNTED_STEPS:,} steps, 1e9, ours without weights of 0 / the chip's counters:",
        "",
    ]
    each = [[name, f"{a:.3f} / {b:.2f}", f"{c:.3f} / {d:.2f}"] for name, a, b, c, d in counters(meter)]
    lines += harness.table(["layer", "first core", "last core"], each)
    return "\n".join(lines)


def main() -> None:
    """Make the tables, and print them or put them into the page."""
    parser = harness.parser(__doc__)
    parser.add_argument("published", type=Path, help="published.json, pilot_snn.net beside it")
    parser.add_argument("--write", type=Path, help="put them between the markers of this Markdown file")
    options = parser.parse_args()
    python = sanafe_python()
    assert python is not None
    harness.fill(options.write, BEGIN, END, page(options.published, both(python)))


if __name__ == "__main__":
    main()
