"""The event-driven engine: only spikes are added, in compiled code; equal to the dense engine in every bit."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Collection, Mapping, Sequence
from ctypes import POINTER, c_int32, c_uint8, c_void_p
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from snn2chip.chip.products import State
from snn2chip.errors import InputError
from snn2chip.ir import Chain, IntArray
from snn2chip.ir.trace import Counting, Tally, Trace
from snn2chip.simulate.dense import Engine
from snn2chip.simulate.events import counting as countings
from snn2chip.simulate.events import library
from snn2chip.simulate.events.plan import DECAYS, chunk_of, plan

OUT_OF_RANGE = 2  # what the library answers


def _pointer(array: NDArray[Any] | None) -> Any:
    """A typed pointer to an array's numbers, null without one."""
    return None if array is None else array.ctypes.data_as(POINTER(np.ctypeslib.as_ctypes_type(array.dtype)))


class EventEngine(Engine):
    """Runs a `Chain` on the CPU, sample after sample, adding up the weights of spikes.

    `threads` defaults to torch's; `simd` ('portable', 'avx2', 'avx512') to $SNN2CHIP_SIMD or the best there is;
    `chunk` is how many time steps run through the layers together. None of them changes a result.

    Raises:
        UnsupportedError: the compiled library is missing, or the chain is beyond it (sums over 32 bits).
        InputError: no such instruction set here.
    """

    name = "events"

    def __init__(
        self, chain: Chain, threads: int | None = None, *, simd: str | None = None, chunk: int | None = None
    ) -> None:
        super().__init__(chain)
        self.threads = max(1, threads or torch.get_num_threads())
        level = library.simd_level(simd)
        self.simd = library.SIMD[level]
        self._library = library.load()
        self._range = tuple(int(bound) for bound in (chain.port_range[0].min(), chain.port_range[1].max()))
        self._plans = plan(chain)  # kept: the library reads these arrays
        self.chunk = chunk or chunk_of(self._plans)
        layers = (library.Layer * len(self._plans))()
        for struct, layer in zip(layers, self._plans, strict=True):
            for name, number in layer.numbers.items():
                setattr(struct, name, number)
            for name, array in layer.arrays.items():
                setattr(struct, name, array.ctypes.data if name in ("weights", "reads") else _pointer(array))
        membrane = int(chain.readout == "membrane")
        self._engine = self._library.snn2chip_events_make(
            layers, len(self._plans), membrane, level, self.threads, self.chunk
        )
        if not self._engine:
            raise MemoryError("the events engine: out of memory")
        weakref.finalize(self, self._library.snn2chip_events_free, self._engine)
        self._counting: countings.Plan | None = None  # the last
        self._lock = Lock()

    def rest(self, samples: int) -> list[State]:
        """As `Engine.rest`: (samples, pixels, slots), see `plan`; no current where none lasts for a step."""
        states = []
        for layer in self._plans:
            shape = (samples, layer.numbers["out_h"] * layer.numbers["out_w"], layer.slots)
            current = shape if layer.numbers["current"] == DECAYS else (0,)
            states.append(State(torch.zeros(current, dtype=torch.int32), torch.zeros(shape, dtype=torch.int32)))
        return states

    def batch(
        self,
        port: IntArray,
        keep: Collection[str],
        counting: Counting | None = None,
        states: Sequence[State] | None = None,
    ) -> Trace:
        """As `Engine.batch`.

        Raises:
            InputError: values outside the port's range; states are then of no more use.
        """
        names = [layer.name for layer in self.chain.layers]
        shapes = {layer.name: (*port.shape[:2], *layer.shape) for layer in self.chain.layers if layer.name in keep}
        spikes = {name: np.empty(shape, dtype=np.uint8) for name, shape in shapes.items()}
        voltage = {name: np.empty(shape, dtype=np.int32) for name, shape in shapes.items()}
        scores = np.zeros((len(port), int(np.prod(self.chain.layers[-1].shape))), dtype=np.int64)
        counted = None if counting is None else counting.empty(*port.shape[:2])
        found = self._batch(port, spikes, voltage, scores, None, counting, counted, states or ())
        counts, largest = (dict(zip(names, numbers.tolist(), strict=True)) for numbers in found)
        return Trace(spikes, voltage, scores, counts, largest, counted)

    def stages(self, port: IntArray) -> dict[str, tuple[float, float]]:
        """Seconds that one thread spent, by layer: listing the spikes it reads, and sums and neurons together."""
        self.check(port)
        spent = np.zeros((len(self._plans), 2), dtype=np.int64)
        scores = np.zeros((len(port), int(np.prod(self.chain.layers[-1].shape))), dtype=np.int64)
        self._batch(port, {}, {}, scores, spent)
        seconds = (spent / 1e9).tolist()
        return {layer.name: (lists, rest) for layer, (lists, rest) in zip(self.chain.layers, seconds, strict=True)}

    def _batch(
        self,
        port: IntArray,
        spikes: Mapping[str, NDArray[np.uint8]],
        voltage: Mapping[str, NDArray[np.int32]],
        scores: IntArray,
        nanoseconds: IntArray | None = None,
        counting: Counting | None = None,
        counted: Tally | None = None,
        states: Sequence[State] = (),
    ) -> tuple[IntArray, IntArray]:
        """Run some samples into these arrays; gives spikes and largest |input| by layer."""
        again = port.shape[1] > 1 and port.strides[1] == 0  # one image at all steps, in memory once
        values = np.require(port[:, :1] if again else port, np.int64, ["C"])
        counts = np.zeros(len(self._plans), dtype=np.int64)
        largest = np.zeros(len(self._plans), dtype=np.int64)
        run = library.Run(
            port=values.ctypes.data,
            samples=len(values),
            steps=port.shape[1],
            sample_stride=values.strides[0] // 8,
            step_stride=0 if again else values.strides[1] // 8,
            low=self._range[0],
            high=self._range[1],
            scores=scores.ctypes.data,
            counts=counts.ctypes.data,
            largest=largest.ctypes.data,
            nanoseconds=None if nanoseconds is None else nanoseconds.ctypes.data,
        )
        if spikes:
            layers = len(self._plans)
            names = [layer.name for layer in self.chain.layers]
            run.spikes = (POINTER(c_uint8) * layers)(*(_pointer(spikes.get(name)) for name in names))
            run.voltage = (POINTER(c_int32) * layers)(*(_pointer(voltage.get(name)) for name in names))
        if states:
            kept_by = [array.data_ptr() or None for state in states for array in (state.voltage, state.current)]
            run.states = (c_void_p * len(kept_by))(*kept_by)
            run.before = states[0].steps
        with self._lock:
            if counting is not None and counted is not None:
                if self._counting is None or self._counting.counting is not counting:
                    self._counting = countings.plan(counting, self._plans)
                run.counting = ctypes.pointer(self._counting.into(counted))
            failed = self._library.snn2chip_events_run(self._engine, ctypes.byref(run))
        if failed == OUT_OF_RANGE:
            low, high = self._range
            raise InputError(f"input values {values.min()}..{values.max()} exceed the port's {low}..{high}")
        if failed:
            raise MemoryError("the events engine: out of memory")
        for state in states:
            state.steps += port.shape[1]
        return counts, largest
