"""A LIF neuron whose leak, bias and threshold are tables over time: what batch norm through time folds into.

At step t of a sample, counted from 0, with u the current as in Lava's own LIF::

    v = trunc0(v * leak[t] / 2^leak_shift) + u + bias_mant * 2^bias_exp + lift[t]     clipped to +-(2^23 - 1)
    spike = v > threshold[t];  v = 0 where it spiked

Tables are (T, C), the channel is the last axis of the neurons' shape, as everywhere in Lava. u and v start at 0 with
every sample, and t with them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.ports import PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.variable import Var
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol
from lava.proc.lif.models import AbstractPyLifModelFixed
from lava.proc.lif.process import LIFReset


class StepLIF(LIFReset):  # type: ignore[misc]
    """Time-varying LIF neurons. Of LIFReset's parameters `dv` and `vth` are not used.

    Parameters
    ----------
    leak, lift, threshold : numpy.ndarray
        tables (T, C): leak 0..65535, lift and threshold 24 bits, in the units of v
    leak_shift : int
        bits of leak behind the point, 0..16
    reset_interval, reset_offset : int
        length of a sample, at most T, and the chip step at which one starts
    """

    def __init__(
        self, *, leak: np.ndarray, leak_shift: int, lift: np.ndarray, threshold: np.ndarray, **parameters: Any
    ) -> None:
        super().__init__(dv=0, vth=0, **parameters)
        if parameters["reset_interval"] > len(leak):
            raise ValueError(f"samples of {parameters['reset_interval']} steps, but tables of {len(leak)}")
        self.leak = Var(shape=leak.shape, init=leak)
        self.lift = Var(shape=lift.shape, init=lift)
        self.threshold = Var(shape=threshold.shape, init=threshold)
        self.leak_shift = Var(shape=(1,), init=np.array([leak_shift]))


@implements(proc=StepLIF, protocol=LoihiProtocol)
@requires(CPU)
@tag("bit_accurate_loihi", "fixed_pt")
class PyStepLifModelBitAcc(AbstractPyLifModelFixed):  # type: ignore[misc]
    """Bit-accurate model: the current is Lava's own, the voltage is the tables'."""

    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32, precision=24)
    vth: int = LavaPyType(int, np.int32, precision=17)  # not used
    leak: np.ndarray = LavaPyType(np.ndarray, np.int64)
    lift: np.ndarray = LavaPyType(np.ndarray, np.int64)
    threshold: np.ndarray = LavaPyType(np.ndarray, np.int64)
    leak_shift: np.ndarray = LavaPyType(np.ndarray, np.int32)

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        self.reset_interval = proc_params["reset_interval"]
        self.reset_offset = proc_params["reset_offset"]
        self.row = 0  # t, the step of the sample

    def run_spk(self) -> None:
        """One step: Lava's steps count from 1, and the one at reset_offset is the first of a sample."""
        arriving = self.a_in.recv()
        self.row = (self.time_step - self.reset_offset) % self.reset_interval
        if self.row == 0:
            self.u *= 0
            self.v *= 0
        self.scale_bias()
        self.subthr_dynamics(activation_in=arriving)
        fired = self.spiking_activation()
        self.reset_voltage(spike_vector=fired)
        self.s_out.send(fired)

    def subthr_dynamics(self, activation_in: np.ndarray) -> None:
        """Lava's step for u; for v, the row of the tables."""
        kept = self.v.astype(np.int64)
        super().subthr_dynamics(activation_in=activation_in)
        size = (np.abs(kept) * self.leak[self.row]) >> int(self.leak_shift[0])
        total = np.sign(kept) * size + self.u + self.effective_bias + self.lift[self.row]
        self.v[:] = np.clip(total, -self.max_uv_val + 1, self.max_uv_val - 1)

    def spiking_activation(self) -> np.ndarray:
        """Spike when the voltage exceeds the threshold of this step."""
        fired: np.ndarray = self.v > self.threshold[self.row]
        return fired
