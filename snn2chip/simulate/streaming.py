"""A chain that goes on: steps come in small numbers, state stays from one call to the next, memory does not grow."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from snn2chip.chip.products import State
from snn2chip.choices import EngineKind
from snn2chip.ir import Chain, IntArray
from snn2chip.ir.trace import Trace
from snn2chip.simulate.engines import make_engine


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


def course(chain: Chain, trace: Trace) -> Stretch:
    """The first sample of a trace that holds the last layer's spikes and voltages, step by step, from a reset on."""
    last = chain.layers[-1].name
    spikes = {name: values[0] for name, values in trace.spikes.items()}
    steps = len(spikes[last])
    if chain.readout == "membrane":
        scores: IntArray = trace.voltage[last][0].reshape(steps, -1).astype(np.int64)
    else:
        scores = spikes[last].reshape(steps, -1).cumsum(0, dtype=np.int64)
    return Stretch(scores, trace.counts, spikes)


class StreamEngine:
    """Runs one stream through a `Chain`, every layer in its own time, by an engine on the CPU; 'auto' is events, which
    is the faster for one sample wherever it was measured (docs/speed.md). `note` says, in one line, why it is dense.

    Neurons are reset after every `window` steps; with None never, and then a readout that sums its input is at the
    mercy of the chip's 24 bits: at their lower end it is clipped, at their upper end it fires and starts again from 0.

    Raises:
        InputError: (in `run`) input of another shape, that is not integers or beyond the port's range, or a
            time-varying neuron has no tables for so many steps without a reset.
    """

    def __init__(self, chain: Chain, window: int | None, kind: EngineKind = "auto") -> None:
        self.chain = chain
        self.window = window
        self._engine = make_engine(chain, kind="events" if kind == "auto" else kind)
        self.name, self.note = self._engine.name, self._engine.note
        self.steps = 0  # since the last reset
        self._states: list[State] = []
        self._spikes = np.zeros(0, dtype=np.int64)
        self.reset()

    def reset(self) -> None:
        """All neurons back to rest."""
        self._states = self._engine.rest(1)
        self.steps = 0
        self._spikes = np.zeros(int(np.prod(self.chain.layers[-1].shape)), dtype=np.int64)

    def run(self, port: IntArray, *, keep: bool = False) -> Stretch:
        """The next steps, port integers (T, *input_shape); a window may end within them. `keep` keeps spikes."""
        names = [layer.name for layer in self.chain.layers]
        found: list[Stretch] = []
        start = 0
        while start < len(port):
            if self.window is not None and self.steps == self.window:
                self.reset()
            room = len(port) if self.window is None else self.window - self.steps
            some = port[start : start + room]
            found.append(self._some(some, names if keep else names[-1:]))
            self.steps += len(some)
            start += len(some)
        return Stretch(
            np.concatenate([stretch.scores for stretch in found]),
            {name: sum(stretch.counts[name] for stretch in found) for name in names},
            {name: np.concatenate([stretch.spikes[name] for stretch in found]) for name in names if keep},
        )

    def _some(self, port: IntArray, keep: list[str]) -> Stretch:
        """Steps without a reset between them."""
        self._engine.check(port[None], self.steps)
        found = course(self.chain, self._engine.batch(port[None], keep, states=self._states))
        if self.chain.readout == "spike_count":
            found = replace(found, scores=found.scores + self._spikes)
            self._spikes = found.scores[-1]
        return found
