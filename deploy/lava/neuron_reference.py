"""Step bit-accurate LIF models, Lava's own and ours, over given inputs in one process. Lava's interpreter runs this.

    python neuron_reference.py CASES.npz OUTPUT.npz

CASES holds, for S steps of K cases of N neurons each:

    model         () text            'lif' (PyLifModelBitAcc), 'lif_reset' (PyLifResetModelBitAcc) or
                                     'steps' (PyStepLifModelBitAcc, neurons/steps.py)
    a_in          (S, K, N) int32    what arrives at the neuron in each step
    du, dv, vth   (K,)               as Lava's LIF process takes them: du = iDecay - 1
    bias_mant     (K, N)             13 bits signed
    bias_exp      (K,)               0 to 7
    reset_interval, reset_offset     (K,), not for 'lif'; steps count from 1
    leak, lift, threshold            (K, T, N), for 'steps' only, and leak_shift (K,); dv and vth are then not used

OUTPUT receives u and v, (S, K, N) int32, as each step leaves them, and spikes, (S, K, N) uint8. Each model
object is Lava's, with the types that Lava's builder gives its variables; only its two ports are ours.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(1, str(Path(__file__).resolve().parents[1] / "common"))

from failures import RefusedError, first_line, leave

# isort: split
import numpy as np
from files import write
from import_lava import import_lava


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
    """u, v and spikes of every step, as described above."""
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


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description="Step Lava's own LIF models over given inputs.")
    parser.add_argument("cases", type=Path)
    parser.add_argument("output", type=Path)
    options = parser.parse_args()

    def action() -> None:
        import_lava()
        try:
            with np.load(options.cases, allow_pickle=False) as archive:
                cases = dict(archive)
            write(options.output, reference(cases))
        except (OSError, KeyError, ValueError, IndexError) as error:
            raise RefusedError(f"'{options.cases}': {first_line(error)}") from error

    leave(action)


if __name__ == "__main__":
    main()
