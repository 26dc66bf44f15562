"""Steps bit-accurate neuron models, Lava's own and ours, over given inputs: a program for Lava's interpreter.

    python lava_neurons.py CASES.npz OUTPUT.npz

See `helpers.lava_neurons`. Each model object is Lava's, with the types that Lava's builder gives its variables; only
its two ports are ours.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

DEPLOY = Path(__file__).resolve().parents[1] / "deploy"
sys.path[1:1] = [str(DEPLOY / "common"), str(DEPLOY / "lava")]


class Wire:
    """Both ports of the neuron: hands it the input of a step, keeps the spikes it sends."""

    def __init__(self) -> None:
        self.data = np.zeros(0, np.int32)

    def recv(self) -> np.ndarray:
        """What the synapses send in this step; a copy, as Lava's port gives."""
        return self.data.copy()

    def send(self, spikes: np.ndarray) -> None:
        """Keep the spikes of this step."""
        self.data = np.array(spikes)


def neuron(model: type, case: int, cases: dict[str, np.ndarray]) -> Any:
    """Lava's model of the neurons of one case, at rest."""
    parameters = {name: int(cases[name][case]) for name in ("reset_interval", "reset_offset") if name in cases}
    lif = model(parameters)
    count = cases["bias_mant"].shape[1]
    types = {name: getattr(model, name).d_type for name in ("u", "v", "bias_mant", "bias_exp")}
    lif.u, lif.v = np.zeros(count, types["u"]), np.zeros(count, types["v"])
    lif.bias_mant = cases["bias_mant"][case].astype(types["bias_mant"])
    lif.bias_exp = np.full(count, cases["bias_exp"][case], types["bias_exp"])
    lif.du, lif.dv, lif.vth = (int(cases[name][case]) for name in ("du", "dv", "vth"))
    if "leak" in cases:
        lif.leak, lif.lift, lif.threshold = (
            cases[name][case].astype(np.int64) for name in ("leak", "lift", "threshold")
        )
        lif.leak_shift = np.array([cases["leak_shift"][case]], np.int32)
    lif.a_in, lif.s_out = Wire(), Wire()
    return lif


def reference(cases: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """u, v and spikes of every step."""
    from lava.proc.lif.models import PyLifModelBitAcc, PyLifResetModelBitAcc
    from neurons.steps import PyStepLifModelBitAcc

    models = {"lif": PyLifModelBitAcc, "lif_reset": PyLifResetModelBitAcc, "steps": PyStepLifModelBitAcc}
    model = models[str(cases["model"])]
    a_in = cases["a_in"].astype(np.int32)
    result = {name: np.zeros(a_in.shape, kind) for name, kind in (("u", "i4"), ("v", "i4"), ("spikes", "u1"))}
    for case in range(a_in.shape[1]):
        lif = neuron(model, case, cases)
        for step, arriving in enumerate(a_in[:, case]):
            lif.time_step = step + 1
            lif.a_in.data = arriving
            lif.run_spk()
            result["u"][step, case], result["v"][step, case] = lif.u, lif.v
            result["spikes"][step, case] = lif.s_out.data
    return result


if __name__ == "__main__":
    from import_lava import import_lava

    import_lava()
    with np.load(sys.argv[1], allow_pickle=False) as archive:
        found = reference(dict(archive))
    np.savez(sys.argv[2], **found)
