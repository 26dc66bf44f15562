"""The dense engine: float convolutions that are exact on these integers (`snn2chip.chip.products`), batched."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from snn2chip.chip.bounds import BINARY
from snn2chip.chip.products import LayerRunner, exact_products
from snn2chip.ir import Chain, IntArray, require_integers
from snn2chip.ir.trace import Trace


class DenseEngine:
    """Runs a `Chain` on the CPU or a GPU, layer after layer, all time steps of a batch at once."""

    name = "dense"

    def __init__(self, chain: Chain, device: torch.device | None = None) -> None:
        self.chain = chain
        self.device = device or torch.device("cpu")
        low, high = chain.port_range
        self.runners = []
        for index, layer in enumerate(chain.layers):
            bounds = (low, high) if index == 0 else BINARY
            self.runners.append(LayerRunner(layer, *bounds, self.device))

    @torch.no_grad()
    def run(
        self,
        port: IntArray,
        *,
        batch_size: int = 64,
        keep: bool = True,
        progress: Callable[[int, int], None] | None = None,
    ) -> Trace:
        """Run port integers (samples, T, ...). `keep=False` leaves spikes and voltages out (memory).

        Raises:
            InputError: another shape than the network's, no integers, or more steps than a time-varying neuron has
                tables for.
        """
        require_integers(port, self.chain.input_shape)
        names = [layer.name for layer in self.chain.layers]
        counts = dict.fromkeys(names, 0)
        largest = dict.fromkeys(names, 0)
        spikes: dict[str, list[np.ndarray]] = {name: [] for name in names}
        voltage: dict[str, list[np.ndarray]] = {name: [] for name in names}
        scores: list[np.ndarray] = []
        with exact_products():
            for start in range(0, len(port), batch_size):
                x = torch.from_numpy(np.require(port[start : start + batch_size], np.int64, ["C", "W"])).to(self.device)
                for name, runner in zip(names, self.runners, strict=True):
                    x, volts, seen = runner.run(x)
                    counts[name] += int(x.sum())
                    largest[name] = max(largest[name], seen)
                    if keep:
                        spikes[name].append(x.cpu().numpy().astype(np.uint8))
                        voltage[name].append(volts.cpu().numpy())
                last = volts[:, -1].long() if self.chain.readout == "membrane" else x.long().sum(1)
                scores.append(last.flatten(1).cpu().numpy())
                if progress is not None:
                    progress(min(start + batch_size, len(port)), len(port))
        return Trace(
            {name: np.concatenate(parts) for name, parts in spikes.items() if parts},
            {name: np.concatenate(parts) for name, parts in voltage.items() if parts},
            np.concatenate(scores),
            counts,
            largest,
        )
