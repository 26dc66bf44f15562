"""Choose an engine for a chain: dense products, events, or whichever is faster here. All give the same result."""

from __future__ import annotations

import time
from typing import get_args

import torch

from snn2chip.choices import EngineKind as EngineKind
from snn2chip.errors import InputError, UnsupportedError
from snn2chip.ir import Chain, IntArray
from snn2chip.ir.trace import Counting, Trace
from snn2chip.simulate.dense import DenseEngine as DenseEngine
from snn2chip.simulate.dense import Engine as Engine
from snn2chip.simulate.events.engine import EventEngine

KINDS: tuple[EngineKind, ...] = get_args(EngineKind)
TRIAL = 4  # samples that both engines run before `auto` settles


class AutoEngine(Engine):
    """Runs events, and from the second call on whichever engine was faster on a few samples of it.

    The first call is not spent on measuring: most chains are run once on little, or on much in many calls. Only to
    measure is the dense engine made, which has all weights once more, as floats; the slower one is let go.
    """

    def __init__(self, events: EventEngine) -> None:
        super().__init__(events.chain)
        self._chosen: Engine = events
        self._calls = 0

    @property
    def name(self) -> str:  # type: ignore[override]
        """Of the engine that runs now."""
        return self._chosen.name

    def run(
        self, port: IntArray, *, batch_size: int = 64, keep: bool = True, counting: Counting | None = None
    ) -> Trace:
        """As `Engine.run`."""
        if self._calls == 1 and not keep:
            self._settle(port[: min(TRIAL, batch_size)])
        self._calls += self._calls < 2 and not keep
        return self._chosen.run(port, batch_size=batch_size, keep=keep, counting=counting)

    def _settle(self, port: IntArray) -> None:
        """Time both engines on these samples, both warm."""
        found: list[tuple[float, Engine]] = []
        for engine in (self._chosen, DenseEngine(self.chain)):
            engine.run(port[:1], keep=False)
            started = time.perf_counter()
            engine.run(port, keep=False)
            found.append((time.perf_counter() - started, engine))
        _, self._chosen = min(found, key=lambda each: each[0])


def make_engine(chain: Chain, device: torch.device | None = None, kind: EngineKind = "auto") -> Engine:
    """The engine of a kind for a chain on a device (default: the CPU).

    Where the event engine cannot be used (not compiled, or a chain it does not take), the dense one stands in and
    its `note` says why. On a GPU, 'auto' is dense.

    Raises:
        InputError: no such kind, or 'events' on a GPU.
    """
    if kind not in KINDS:
        raise InputError(f"no engine '{kind}'; choose one of {', '.join(KINDS)}")
    gpu = device is not None and device.type != "cpu"
    if kind == "events" and gpu:
        raise InputError(f"--engine events runs on the CPU, not on {device}; give --device cpu or --engine dense")
    if kind == "dense" or gpu:
        return DenseEngine(chain, device)
    try:
        events = EventEngine(chain)
    except UnsupportedError as reason:
        dense = DenseEngine(chain, device)
        dense.note = f"running the dense engine: {reason}"
        return dense
    return events if kind == "events" else AutoEngine(events)
