"""Run a chain over a whole data set: accuracy, spikes per layer, speed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from snn2chip.data import ImageSet
from snn2chip.encode import encoder_of
from snn2chip.errors import InputError
from snn2chip.ir import Chain, IntArray
from snn2chip.simulate.dense import DenseEngine
from snn2chip.simulate.trace import Trace


@dataclass(frozen=True, eq=False)
class Simulation:
    """A trace and its figures. `accuracy` is a fraction, None without labels; `seconds` is the engine's time
    (encoding included, reading the data not)."""

    trace: Trace
    samples: int
    timesteps: int
    seconds: float
    accuracy: float | None
    engine: str
    dataset: str | None

    def as_json(self, chain: Chain) -> dict[str, Any]:
        """Plain values, as `snn2chip simulate --json` writes them."""
        figures: dict[str, Any] = {
            "samples": self.samples,
            "timesteps": self.timesteps,
            "seconds": self.seconds,
            "samples_per_second": self.samples / max(self.seconds, 1e-9),
            "spikes": self.trace.counts,
            "largest_input": self.trace.largest,
            "layers": {layer.name: layer.origin for layer in chain.layers},
            "engine": self.engine,
            "dataset": self.dataset,
        }
        if self.accuracy is not None:
            figures["accuracy"] = self.accuracy
        return figures


def simulate(
    chain: Chain,
    *,
    port: IntArray | None = None,
    images: ImageSet | None = None,
    batch_size: int = 50,
    device: torch.device | None = None,
    keep: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Simulation:
    """Simulate port integers (samples, T, ...) or a data set's images; `keep` keeps spikes and voltages.

    Raises:
        InputError: neither or both of `port` and `images`, or images that do not fit the network.
    """
    if (port is None) == (images is None):
        raise InputError("simulate: give either port integers or images")
    engine = DenseEngine(chain, device)
    encoder = encoder_of(chain)
    total = len(port) if port is not None else len(images) if images is not None else 0
    parts: list[Trace] = []
    started = time.monotonic()
    for start in range(0, total, batch_size):
        stop = min(start + batch_size, total)
        if images is not None:
            batch = chain.port(encoder(images.images[start:stop]))
        else:
            assert port is not None  # exactly one of the two is given
            batch = port[start:stop]
        parts.append(engine.run(batch, batch_size=batch_size, keep=keep))
        if progress is not None:
            progress(stop, total)
    seconds = time.monotonic() - started
    trace = _join(parts)
    accuracy = None
    if images is not None:
        accuracy = float(np.mean(trace.scores.argmax(1) == images.labels.numpy()))
    return Simulation(
        trace,
        total,
        chain.timesteps if port is None else port.shape[1],
        seconds,
        accuracy,
        engine.name,
        images.name if images is not None else None,
    )


def _join(parts: list[Trace]) -> Trace:
    first = parts[0]
    return Trace(
        {name: np.concatenate([part.spikes[name] for part in parts]) for name in first.spikes},
        {name: np.concatenate([part.voltage[name] for part in parts]) for name in first.voltage},
        np.concatenate([part.scores for part in parts]),
        {name: sum(part.counts[name] for part in parts) for name in first.counts},
        {name: max(part.largest[name] for part in parts) for name in first.largest},
    )
