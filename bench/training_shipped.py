"""A training step and an evaluation of shipped networks: spikes convolved by their events, and densely.

    python bench/training_shipped.py cifar10-vgg-tdbn-t2 cifar10-resnet19-tdbn-t2 --data DIR [--batch 32] [--rounds 9]

For `bench/training.py --data`, which puts it on its page; by itself it prints JSON. Weights and images are the real
ones (the first of the test set), because how many neurons spike is what the time depends on. Both take turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F
from training_candidates import watch

from snn2chip import data, recipe
from snn2chip.nn import model_file, spike_conv
from snn2chip.nn.neuron import fuse_neurons
from snn2chip.train.allocator import keep_pages

MODELS = Path(__file__).resolve().parent.parent / "models"


def measure(name: str, folder: Path | None, batch: int, rounds: int) -> dict[str, Any]:
    """Medians and quartiles, in seconds, of one network."""
    path = MODELS / name / "model.pt"
    network = model_file.load(path).network
    if note := fuse_neurons(network, torch.device("cpu")):
        raise SystemExit(note)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = data.load(recipe.load(MODELS / name / "recipe.toml").data.name, "test", folder).subset(batch)
    x, labels = images.images.contiguous(memory_format=torch.channels_last), images.labels
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)  # the same weights in every step
    shares, stop = watch(network)
    with torch.no_grad():
        network.eval()(x)
    stop()
    limit = spike_conv.MOST_SPIKES
    seconds: dict[str, list[float]] = {f"{what} {how}": [] for how in ("events", "dense") for what in ("step", "eval")}
    for number in range(rounds + 2):
        for how, most in (("events", limit), ("dense", -1.0)):
            spike_conv.MOST_SPIKES = most
            network.train()
            started = time.perf_counter()
            optimizer.zero_grad()
            F.cross_entropy(network(x), labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            middle = time.perf_counter()
            network.eval()
            with torch.no_grad():
                network(x)
            ended = time.perf_counter()
            if number >= 2:
                seconds[f"step {how}"].append(middle - started)
                seconds[f"eval {how}"].append(ended - middle)
    spike_conv.MOST_SPIKES = limit
    found = {key: statistics.quantiles(values, n=4, method="inclusive") for key, values in seconds.items()}
    return {"name": name, "batch": batch, "timesteps": network.encoder.timesteps, "spikes": shares, "seconds": found}


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description="Training steps of shipped networks, by events and densely.")
    parser.add_argument("names", nargs="+")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    keep_pages()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    print(json.dumps([measure(name, options.data, options.batch, options.rounds) for name in options.names]))


if __name__ == "__main__":
    main()
