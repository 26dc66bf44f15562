"""A chain that goes on: steps come in small numbers, state stays from one call to the next, memory does not grow."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from snn2chip.chip.products import State, exact_products, runners_of
from snn2chip.ir import Chain, IntArray, require_integers


@dataclass(frozen=True, eq=False)
class Stretch:
    """What some steps did.

    scores  (T, classes) int64 after each step, since the last reset: the last layer's voltage, or its spikes so far
    counts  spikes of each layer in these steps, by netx layer number
    spikes  (T, ...) uint8 of each layer, where they were asked for
    """

    scores: IntArray
    counts: dict[str, int]
    spikes: dict[str, NDArray[np.uint8]] = field(default_factory=dict)


class StreamEngine:
    """Runs one stream through a `Chain`, every layer in its own time; equal to `DenseEngine` on the same steps.

    Neurons are reset after every `window` steps; with None never, and then a readout that sums its input is at the
    mercy of the chip's 24 bits: at their lower end it is clipped, at their upper end it fires and starts again from 0.

    Raises:
        InputError: (in `run`) input of another shape or that is not integers, or a time-varying neuron has no tables
            for so many steps without a reset.
    """

    def __init__(self, chain: Chain, window: int | None) -> None:
        self.chain = chain
        self.window = window
        self._runners = runners_of(chain, torch.device("cpu"))
        self.steps = 0  # since the last reset
        self._states: list[State] = []
        self._spikes = np.zeros(0, dtype=np.int64)
        self.reset()

    def reset(self) -> None:
        """All neurons back to rest."""
        self._states = [
            State(torch.zeros((1, *layer.shape), dtype=torch.int32), torch.zeros((1, *layer.shape), dtype=torch.int32))
            for layer in self.chain.layers
        ]
        self.steps = 0
        self._spikes = np.zeros(int(np.prod(self.chain.layers[-1].shape)), dtype=np.int64)

    @torch.no_grad()
    def run(self, port: IntArray, *, keep: bool = False) -> Stretch:
        """The next steps, port integers (T, *input_shape); a window may end within them. `keep` keeps spikes."""
        require_integers(port, self.chain.input_shape)
        scores: list[IntArray] = []
        spikes: dict[str, list[NDArray[np.uint8]]] = {layer.name: [] for layer in self.chain.layers} if keep else {}
        counts = {layer.name: 0 for layer in self.chain.layers}
        start = 0
        with exact_products():
            while start < len(port):
                if self.window is not None and self.steps == self.window:
                    self.reset()
                room = len(port) if self.window is None else self.window - self.steps
                some = port[start : start + room]
                scores.append(self._some(some, counts, spikes))
                self.steps += len(some)
                start += len(some)
        return Stretch(np.concatenate(scores), counts, {name: np.concatenate(parts) for name, parts in spikes.items()})

    def _some(self, port: IntArray, counts: dict[str, int], spikes: dict[str, list[NDArray[np.uint8]]]) -> IntArray:
        """Steps without a reset between them."""
        x = torch.from_numpy(np.require(port[None], np.int64, ["C", "W"]))
        for layer, runner, state in zip(self.chain.layers, self._runners, self._states, strict=True):
            x, voltage, _ = runner.run(x, state)
            counts[layer.name] += int(x.sum())
            if spikes:
                spikes[layer.name].append(x[0].numpy().astype(np.uint8))
        if self.chain.readout == "membrane":
            volts: NDArray[np.int64] = voltage[0].flatten(1).numpy().astype(np.int64)
            return volts
        summed: IntArray = self._spikes + x[0].flatten(1).long().cumsum(0).numpy()
        self._spikes = summed[-1]
        return summed
