"""Time the simulator's engines against dense torch float32, by batch size and spike density. Run it alone.

    python bench/engines.py [--batches 1,16,64] [--densities 2,5,10,20,40] [--rounds 7] [--threads N] [--stages]
        [--json FILE]

The network is a VGG in CIFAR form of 72 M multiply-adds a step and 144,394 neurons, T = 4, random weights and input;
thresholds are found, layer by layer, so that every layer spikes at the wanted density (the last one never does). In
every round each runner takes its turn, so that a change of the machine's mood meets all of them; printed are medians
and the spread (smallest and largest) in milliseconds a sample and step, and how many times faster than torch.

    torch   what one would write by hand: float32 convolutions over all steps at once, LIF steps in place
    dense   snn2chip's dense engine (exact integers)
    events  snn2chip's event engine (exact integers)
    auto    what `simulate` takes, its choice included: it has seen the network before the timing starts

Class scores and spike counts of events and auto are compared with those of dense before anything is timed.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from snn2chip import ir
from snn2chip.simulate.dense import BINARY, Product, exact_products, integrate
from snn2chip.simulate.engines import make_engine
from snn2chip.simulate.events import EventEngine

CONVOLUTIONS = ((64, 1), (64, 2), (128, 1), (128, 2), (256, 1), (256, 2))  # channels, stride
HIDDEN, CLASSES, SIDE = 1024, 10, 32


def vgg(timesteps: int, seed: int = 0) -> ir.Chain:
    """The network without thresholds: 8-bit weights, tau = 0.25, graded input -128..127, membrane readout."""
    rng = np.random.default_rng(seed)
    layers: list[ir.ChainLayer] = []
    shape: ir.Shape = (3, SIDE, SIDE)

    def add(weight_shape: ir.Shape, new: ir.Shape, stride: int, last: bool = False) -> None:
        weight = np.clip(np.rint(rng.normal(0, 40, weight_shape)), -127, 127).astype(np.int64)
        bias = rng.integers(-20, 21, new[0]).reshape(-1, *(1,) * (len(new) - 1))
        conv = len(weight_shape) == 4
        layers.append(
            ir.ChainLayer(
                str(len(layers)),
                "conv" if conv else "dense",
                weight,
                np.broadcast_to(bias, new).copy(),
                new,
                131071,
                0 if last else 3072,
                stride=(stride, stride),
                padding=(1, 1) if conv else (0, 0),
                flatten=not conv and len(shape) == 3,
            )
        )

    for channels, stride in CONVOLUTIONS:
        new = (channels, shape[1] // stride, shape[2] // stride)
        add((channels, shape[0], 3, 3), new, stride)
        shape = new
    for features in (HIDDEN, CLASSES):
        add((features, int(np.prod(shape))), (features,), 1, last=features == CLASSES)
        shape = (features,)
    classes = tuple(str(number) for number in range(CLASSES))
    return ir.Chain(
        (3, SIDE, SIDE), (3, SIDE, SIDE), "direct", 255, 0, 255, (128,) * 3, timesteps, "membrane", classes,
        tuple(layers),
    )  # fmt: skip


def with_density(chain: ir.Chain, density: float, port: ir.IntArray) -> tuple[ir.Chain, list[float]]:
    """Thresholds that make every layer but the last spike at `density` on `port`; what was reached."""
    layers, reached = [], []
    x = torch.from_numpy(port)
    with exact_products(), torch.no_grad():
        for index, layer in enumerate(chain.layers):
            sums = Product(layer, *(chain.port_range if index == 0 else BINARY))(x)
            bias = torch.from_numpy(layer.bias.astype(np.int32))
            if index + 1 < len(chain.layers):
                low, high = 0, 131071
                while low < high:
                    middle = (low + high) // 2
                    spikes, _ = integrate(sums, bias, replace(layer, threshold=middle))
                    low, high = (middle + 1, high) if spikes.float().mean() > density else (low, middle)
                layer = replace(layer, threshold=low)
                x = integrate(sums, bias, layer)[0]
                reached.append(float(x.float().mean()))
            layers.append(layer)
    return replace(chain, layers=tuple(layers)), reached


class TorchForward:
    """The same network by hand in float32."""

    def __init__(self, chain: ir.Chain) -> None:
        self.layers = [
            (
                layer,
                torch.from_numpy(layer.weight.astype(np.float32)),
                torch.from_numpy(layer.bias.astype(np.float32)),
                1 - layer.voltage_decay / 4096,
            )
            for layer in chain.layers
        ]

    @torch.inference_mode()
    def __call__(self, port: ir.IntArray) -> torch.Tensor:
        samples, steps = port.shape[:2]
        x = torch.from_numpy(port).float()
        for index, (layer, weight, bias, keep) in enumerate(self.layers):
            given = x[:, 0] if index == 0 else x.flatten(0, 1)  # direct coding shows one image at all steps
            if layer.kind == "conv":
                sums = F.conv2d(given, weight, None, layer.stride, layer.padding)
            else:
                sums = F.linear(given.flatten(1), weight)
            sums = (
                sums[:, None].expand(-1, steps, *layer.shape) if index == 0 else sums.view(samples, steps, *layer.shape)
            )
            voltage = torch.zeros(samples, *layer.shape)
            spikes = torch.empty(samples, steps, *layer.shape)
            for step in range(steps):
                voltage.mul_(keep).add_(sums[:, step]).add_(bias)
                torch.gt(voltage, layer.threshold, out=spikes[:, step])
                kept = voltage
                voltage = voltage * (1 - spikes[:, step])
            x = spikes
        return kept


def timed(work: Callable[[], Any], repeats: int) -> float:
    """Seconds of one call, over `repeats` calls in a row."""
    started = time.perf_counter()
    for _ in range(repeats):
        work()
    return (time.perf_counter() - started) / repeats


def stages(chain: ir.Chain, port: ir.IntArray, rounds: int) -> None:
    """Where one thread's time goes: microseconds a step of each layer, and weights added a second in its sums.

    "Rest" is sums and neurons together, the least of all rounds. Weights added: what the input's spikes touch, borders
    left out; the first layer multiplies instead, once for all steps that show the same image.
    """
    engine = EventEngine(chain, 1)
    spent = np.array([list(engine.stages(port[:1]).values()) for _ in range(rounds)]).min(0) * 1e6 / port.shape[1]
    counts = engine.run(port[:1], keep=False).counts
    print("\n| layer | neurons | lists us | rest us | G adds a second |\n| --- | ---: | ---: | ---: | ---: |")
    share = 0.0
    for index, (layer, (lists, rest)) in enumerate(zip(chain.layers, spent.tolist(), strict=True)):
        neurons = int(np.prod(layer.shape))
        adds = share * neurons * layer.weight[0].size
        rate = f"{adds / rest / 1e3:.1f}" if index else "-"
        print(f"| {layer.name} | {neurons:,} | {lists:.1f} | {rest:.1f} | {rate} |")
        share = counts[layer.name] / (neurons * port.shape[1])
    print(f"| all | | {spent[:, 0].sum():.1f} | {spent[:, 1].sum():.1f} | |\n")


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description="Engines against dense torch float32.")
    parser.add_argument("--batches", default="1,16,64")
    parser.add_argument("--densities", default="2,5,10,20,40", help="per cent")
    parser.add_argument("--timesteps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.15, help="least time of one turn")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--stages", action="store_true", help="at the end, for each density: where one thread's time goes"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    base = vgg(options.timesteps)
    rng = np.random.default_rng(1)
    results = []
    measured = []
    events_simd = EventEngine(base).simd
    print(f"{platform.machine()}, {options.threads} threads, torch {torch.__version__}, events with {events_simd}\n")
    print("| density | batch | torch ms | dense | events | auto | events: times torch |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for density in (float(text) / 100 for text in options.densities.split(",")):
        images = rng.integers(-128, 128, (4, 3, SIDE, SIDE))
        chain, reached = with_density(base, density, np.repeat(images[:, None], options.timesteps, axis=1))
        for batch in (int(text) for text in options.batches.split(",")):
            port = np.repeat(rng.integers(-128, 128, (batch, 1, 3, SIDE, SIDE)), options.timesteps, axis=1)
            dense, events, auto = (make_engine(chain, None, kind) for kind in ("dense", "events", "auto"))
            forward = TorchForward(chain)
            wanted = dense.run(port, batch_size=batch, keep=False)
            for _ in range(3):
                for engine in (events, auto):
                    got = engine.run(port, batch_size=batch, keep=False)
                    if not np.array_equal(got.scores, wanted.scores) or got.counts != wanted.counts:
                        raise SystemExit(f"{engine.name} differs from the dense engine")
            runners: dict[str, Callable[[], Any]] = {
                "torch": lambda forward=forward, port=port: forward(port),
                "dense": lambda e=dense, port=port, batch=batch: e.run(port, batch_size=batch, keep=False),
                "events": lambda e=events, port=port, batch=batch: e.run(port, batch_size=batch, keep=False),
                "auto": lambda e=auto, port=port, batch=batch: e.run(port, batch_size=batch, keep=False),
            }
            repeats = {name: max(1, int(options.seconds / timed(work, 1))) for name, work in runners.items()}
            seen: dict[str, list[float]] = {name: [] for name in runners}
            for _ in range(options.rounds):
                for name, work in runners.items():
                    seen[name].append(1e3 * timed(work, repeats[name]) / (batch * options.timesteps))
            medians = {name: statistics.median(times) for name, times in seen.items()}
            cells = [f"{medians[n]:.3f} ({min(seen[n]):.3f}-{max(seen[n]):.3f})" for n in runners]
            ratio = medians["torch"] / medians["events"]
            print(f"| {100 * np.mean(reached):.1f} % | {batch} | {' | '.join(cells)} | {ratio:.1f} |", flush=True)
            results.append(
                {"density": density, "reached": reached, "batch": batch, "milliseconds": seen, "medians": medians}
            )
        measured.append((density, chain, port))
    for density, chain, port in measured if options.stages else []:
        print(f"\n{100 * density:.0f} %, one thread, one sample:")
        stages(chain, port, 50 * options.rounds)
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
