"""A network of DVS Gesture's shape, 128x128 events and 40 steps of 30 ms: exported, simulated, and run in Lava.

    python bench/gesture_shape.py --recordings DIR [--recipe dvsgesture-vgg-tdbn] [--steps 3] [--repeat 5]
                                  [--fast-convolution] [--no-lava] [--net FILE] [--json FILE]

DVS Gesture is not at hand: DIR holds N-MNIST's Test folder (Test/DIGIT/*.bin), and a recording of 1.2 s is made of it:
four digits at a time, one in each quarter, each 64x64 pixels large, one after the other for 1.2 s. Weights are random;
normalization is fitted to eight such recordings, so that every layer spikes, and calibration uses one more. Printed:
whether the export stays within Loihi 2's ranges (it is refused otherwise), spikes by layer, seconds for the recording
in the default engine against its 1.2 s (the best of --repeat runs; only on an idle machine worth something), and
mismatches between the simulator and Lava in the first --steps steps, every spike and voltage of every layer. The exit
code is 1 if any differ, a layer does not spike, or the file does not come back as it was written.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import harness
import numpy as np
import torch

from snn2chip import chip, recipe
from snn2chip.backends import lava
from snn2chip.data import ImageSet
from snn2chip.data.recordings import Events, bin_events, make_events, read_recording
from snn2chip.formats import netx
from snn2chip.ir import Chain
from snn2chip.nn import BNTT, TDBatchNorm
from snn2chip.nn.model_file import Model, build_network
from snn2chip.passes import pipeline
from snn2chip.simulate import trace
from snn2chip.simulate.dense import DenseEngine
from snn2chip.simulate.engines import make_engine

SENSOR, SIDE, LENGTH_US = (128, 128), 64, 1_200_000


def large_recordings(folder: Path, count: int, seed: int = 0) -> list[Events]:
    """Recordings of 1.2 s at 128x128, four real digits at a time."""
    files = harness.digits(folder)
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        columns: dict[str, list[np.ndarray]] = {"x": [], "y": [], "p": [], "t": []}
        for corner in ((0, 0), (0, SIDE), (SIDE, 0), (SIDE, SIDE)):
            start = 0
            while start < LENGTH_US:
                small = read_recording(files[int(rng.integers(len(files)))], (34, 34))
                # each of the small sensor's pixels becomes a random one of those that it covers
                for name, shift in (("y", corner[0]), ("x", corner[1])):
                    at = (getattr(small, name) + rng.uniform(0, 1, len(small))) * SIDE / 34
                    columns[name].append(shift + at.astype(np.int64))
                columns["p"].append(small.p)
                columns["t"].append(small.t - small.t[0] + start)
                start += small.duration_us
        x, y, p, t = (np.concatenate(columns[name]) for name in ("x", "y", "p", "t"))
        order = np.argsort(t, kind="stable")
        order = order[t[order] < LENGTH_US]
        made.append(make_events(x[order], y[order], p[order], t[order], SENSOR, "made of N-MNIST"))
    return made


def network(name: str, recordings: list[Events]) -> tuple[Model, np.ndarray]:
    """The recipe's network with fitted normalization, and the frames (N, T, 2, H, W) of the recordings."""
    chosen = recipe.load(name)
    assert chosen.binning is not None
    frames = np.stack([bin_events(events, chosen.binning) for events in recordings])
    torch.manual_seed(0)
    made = build_network(chosen, (2, *SENSOR), 11, chosen.binning.max_count)
    norms = [part for part in made.modules() if isinstance(part, TDBatchNorm | BNTT)]
    made.train()
    with torch.no_grad():
        for batch in range(0, len(frames) - 1, 2):
            for norm in norms:
                norm.momentum = 1 / (batch // 2 + 1)  # the mean of all batches
            made(torch.from_numpy(frames[batch : batch + 2]))
    classes = tuple(f"class {index}" for index in range(11))
    return Model(made.eval(), chosen, chosen.binning.max_count, classes, {}), frames


def differences(chain: Chain, net: Path, port: np.ndarray, fast: bool) -> tuple[int, int, float]:
    """Spikes and voltages that differ between simulator and Lava, how many were compared, and Lava's seconds."""
    with tempfile.TemporaryDirectory() as folder:
        given, answer = Path(folder, "in.npz"), Path(folder, "out.npz")
        np.savez(given, input=port.astype(np.int32))
        started = time.monotonic()
        lava.run(net, given, answer, progress=False, fast_convolution=fast)
        seconds = time.monotonic() - started
        found = trace.load(answer, chain)
    wanted = DenseEngine(chain).run(port)
    wrong = compared = 0
    for layer in chain.layers:
        for kind in ("spikes", "voltage"):
            a, b = getattr(wanted, kind)[layer.name], getattr(found, kind)[layer.name]
            assert a.shape == b.shape
            wrong += int((a != b).sum())
            compared += a.size
    return wrong, compared, seconds


def main() -> int:
    parser = harness.parser(__doc__)
    parser.add_argument("--recordings", type=Path, required=True)
    parser.add_argument("--recipe", default="dvsgesture-vgg-tdbn")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--fast-convolution", action="store_true")
    parser.add_argument("--no-lava", action="store_true")
    parser.add_argument("--net", type=Path, help="keep the exported file here, and take it if it is there")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    recordings = large_recordings(given.recordings, 9)
    rate = np.mean([len(events) for events in recordings]) / (LENGTH_US / 1e6)
    figures: dict[str, Any] = {"recipe": given.recipe, "events_a_second": float(rate)}
    with tempfile.TemporaryDirectory() as folder:
        net = given.net or Path(folder, "model.net")
        binning = recipe.load(given.recipe).binning
        assert binning is not None
        if net.exists():
            chain = netx.load(net)
            frames = bin_events(recordings[0], binning)[None]
        else:
            model, frames = network(given.recipe, recordings)
            images = ImageSet(
                "made of N-MNIST", torch.from_numpy(frames[-1:]), torch.zeros(1, dtype=torch.int64), model.classes,
                binning.max_count, "", binning,
            )  # fmt: skip
            made = pipeline.export(model, chip.load("loihi2"), calibration=images, strategy="max")
            chain = made.chain
            netx.save(net, chain)
            figures["parameters"] = sum(value.numel() for value in model.network.parameters())
            figures["not_proved"] = [layer.name for layer in made.quantize_report.layers if not layer.proved]
        again = netx.load(net)
        same = all(
            np.array_equal(getattr(a, name), getattr(b, name))
            for a, b in zip(chain.layers, again.layers, strict=True)
            for name in ("weight", "bias", "threshold")
        )
        port = chain.port(frames[:1].astype(np.int64))
        engine = make_engine(chain)
        seconds = []
        for _ in range(max(1, given.repeat)):
            started = time.perf_counter()
            result = engine.run(port, keep=False)
            seconds.append(time.perf_counter() - started)
        figures |= {
            "layers": len(chain.layers),
            "neurons": sum(int(np.prod(layer.shape)) for layer in chain.layers),
            "same_file": same,
            "spikes": result.counts,
            "engine": engine.name,
            "threads": torch.get_num_threads(),
            "recording_seconds": LENGTH_US / 1e6,
            "seconds": min(seconds),
            "real_time": LENGTH_US / 1e6 / min(seconds),
        }
        if not given.no_lava:
            wrong, compared, spent = differences(chain, net, port[:, : given.steps], given.fast_convolution)
            figures |= {
                "lava_steps": given.steps,
                "lava_mismatches": wrong,
                "lava_values": compared,
                "lava_seconds": spent,
                "lava_convolution": "exact products" if given.fast_convolution else "Lava's own",
            }
    harness.tell(figures, given.json)
    readout = chain.layers[-1].name if chain.readout == "membrane" else None
    silent = [name for name, count in result.counts.items() if not count and name != readout]
    return int(bool(silent) or not same or bool(figures.get("lava_mismatches")))


if __name__ == "__main__":
    sys.exit(main())
