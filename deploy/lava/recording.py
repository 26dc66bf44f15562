"""Keep what every neuron does in each step, in memory shared with Lava's processes."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import Any

import numpy as np
from files import Layer


class Record:
    """What one layer's neurons did, in memory that Lava's processes share with this one.

    Arrays are (chip steps from the layer's first, *ports); `done` counts the chip steps run so far.
    """

    def __init__(self, layer: Layer, ports: tuple[int, ...], steps: int) -> None:
        self.layer = layer
        self.spikes = _shared((steps, *ports), np.uint8)
        self.voltage = _shared((steps, *ports), np.int32)
        self.current = _shared((steps, *ports), np.int32)
        self.done = _shared((1,), np.int64)

    def put(self, time_step: int, spikes: np.ndarray, voltage: np.ndarray, current: np.ndarray) -> None:
        """Keep what the layer left at chip step `time_step` (from 1), if that step is one of its own."""
        step = time_step - 1 - self.layer.latency
        if 0 <= step < len(self.spikes):
            self.spikes[step] = spikes
            self.voltage[step] = voltage
            self.current[step] = current
        self.done[0] = time_step

    def arrays(self, samples: int) -> Iterator[tuple[str, np.ndarray]]:
        """Names and arrays for the output file, (samples, T, C, H, W) or (samples, T, features)."""
        for name in ("spikes", "voltage", "current"):
            array = getattr(self, name)
            array = array.transpose(0, *range(array.ndim - 1, 0, -1))  # (W, H, C) to (C, H, W)
            yield f"{name}/{self.layer.number}", array.reshape(samples, -1, *array.shape[1:])


def _shared(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Zeros that stay shared with the processes forked from this one."""
    count = int(np.prod(shape))
    memory = mmap.mmap(-1, max(1, count * np.dtype(dtype).itemsize))
    return np.frombuffer(memory, dtype, count).reshape(shape)


# by the Lava process id of the neurons; Lava's processes inherit both
RECORDS: dict[int, Record] = {}
BIASES: dict[int, np.ndarray] = {}  # (chip steps, *ports): mantissas that drive the neurons of an input layer


def recording_neurons() -> dict[type, type]:
    """For each neuron process its own bit-accurate model that also keeps what each step left.

    Lava's LIF and LIFReset, and the time-varying one of `neurons.steps`. A model that writes down its state costs next
    to nothing; a Lava Monitor is one more OS process for each variable and hands its record over number by number
    (`--monitors` uses them, to check that both agree).
    """
    from lava.proc.lif.models import PyLifModelBitAcc, PyLifResetModelBitAcc
    from lava.proc.lif.process import LIF, LIFReset
    from neurons.steps import PyStepLifModelBitAcc, StepLIF

    models = {LIF: PyLifModelBitAcc, LIFReset: PyLifResetModelBitAcc, StepLIF: PyStepLifModelBitAcc}
    return {process: _recording(model) for process, model in models.items()}


def _recording(model: type) -> type:
    class Recording(model):  # type: ignore[misc,valid-type]
        """Adds no arithmetic: every line of the step is the model's."""

        def reset_voltage(self, spike_vector: np.ndarray) -> None:
            self.fired = spike_vector
            super().reset_voltage(spike_vector=spike_vector)

        def run_spk(self) -> None:
            if self.proc_params["record"] in BIASES:  # as who drives an input layer from outside would set it
                self.bias_mant[:] = BIASES[self.proc_params["record"]][self.time_step - 1]
            super().run_spk()
            RECORDS[self.proc_params["record"]].put(self.time_step, self.fired, self.v, self.u)

    return Recording


class Monitors:
    """The same records taken with Lava's own Monitor, slowly: to check the recording neurons."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.probes: list[tuple[Record, str, Any]] = []

    def add(self, record: Record, neuron: Any) -> None:
        """Watch the neurons' spikes, voltage and current."""
        from lava.proc.monitor.process import Monitor

        for name, target in (("spikes", neuron.s_out), ("voltage", neuron.v), ("current", neuron.u)):
            monitor = Monitor()
            monitor.probe(target, self.steps)
            self.probes.append((record, name, monitor))

    def collect(self) -> None:
        """Fetch everything into the records; the network must be paused at its last step."""
        for record, name, monitor in self.probes:
            ((values,),) = (variables.values() for variables in monitor.get_data().values())
            first = record.layer.latency
            array = getattr(record, name)
            array[:] = values[first : first + len(array)]
