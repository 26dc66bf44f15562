"""Let netx load layers of time-varying neurons, which are not its own: files with neuron type SNN2CHIP_STEPS."""

from __future__ import annotations

from typing import Any

import numpy as np

TYPE = "SNN2CHIP_STEPS"


def parameters(neuron: Any, reset_interval: int, reset_offset: int) -> dict[str, Any]:
    """What netx's blocks make the neurons of one layer with, from the `neuron` group of the file."""
    from neurons.steps import StepLIF

    group = neuron.f
    tables = {
        ours: group[theirs][()].astype(np.int64)
        for ours, theirs in (("leak", "leak"), ("lift", "stepBias"), ("threshold", "stepThreshold"))
    }
    return {
        "neuron_proc": StepLIF,
        "bias_key": "bias_mant",
        "du": int(group["iDecay"][()]) - 1,
        "bias_exp": 6,
        "num_message_bits": 0,
        "reset_interval": reset_interval,
        "reset_offset": reset_offset,
        "leak_shift": int(group["leakShift"][()]),
        **tables,
    }


def install() -> None:
    """Teach netx the type in this process; every other type stays netx's own."""
    from lava.lib.dl.netx import hdf5

    stock = hdf5.Network.get_neuron_params

    def get_neuron_params(
        neuron_config: Any,
        input: bool = False,
        reset_interval: int | None = None,
        reset_offset: int = 0,
        spike_exp: int = 6,
    ) -> Any:
        if neuron_config["type"] == TYPE and reset_interval is not None:
            return parameters(neuron_config, reset_interval, reset_offset)
        return stock(neuron_config, input, reset_interval, reset_offset, spike_exp)

    hdf5.Network.get_neuron_params = staticmethod(get_neuron_params)
