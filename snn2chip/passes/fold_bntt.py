"""The neuron that batch norm through time folds into: per-step tables in the place of constants.

With ``g[t] = gamma[t] / sqrt(var[t] + eps) > 0`` and ``v = u / g[t]``, a LIF neuron behind BNTT becomes::

    v[t] = tau (g[t-1] / g[t]) v[t-1] (1 - o[t-1]) + (W s[t] + b) - mean[t]     o[t] = 1 if v[t] > Vth / g[t]

with the weights untouched. Exact: dividing by a positive number moves no membrane across its threshold, and reset
is to 0. BNTT: Kim and Panda 2021; the fold is this project's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from snn2chip import ir
from snn2chip.errors import InputError, UnsupportedError


class _Path(Protocol):
    """Layers on the way to a neuron, see `snn2chip.passes.fold`."""

    @property
    def nodes(self) -> tuple[ir.Node, ...]: ...


def _trained(node: ir.Node) -> str:
    """The trained layer's name, whichever path sees it."""
    return node.name.partition(":")[0]


def common_norm(node: ir.LIF | ir.Readout, paths: Sequence[_Path]) -> list[ir.StepNorm]:
    """The BNTT that all currents of a neuron pass, as each path sees it; nothing without any.

    Raises:
        UnsupportedError: not all of them pass the same one, or no neuron follows it.
    """
    found = [[item for item in path.nodes if isinstance(item, ir.StepNorm)] for path in paths]
    norms = [item for items in found for item in items]
    if not norms:
        return []
    for first, *more in filter(None, found):
        if more:
            raise UnsupportedError(
                f"layer '{_trained(more[0])}': a normalization after the BNTT '{_trained(first)}'; one of them is "
                f"enough"
            )
    names = "', '".join(dict.fromkeys(_trained(item) for item in norms))
    if isinstance(node, ir.Readout):
        raise UnsupportedError(
            f"layer '{names}': BNTT without a neuron after it: its gain changes with time, which no readout undoes; "
            f"leave the normalization out of the last layer"
        )
    together = [items for items in found if len(items) == 1 and np.array_equal(items[0].gamma, norms[0].gamma)]
    same = len(together) == len(found) and all(
        np.array_equal(item.var, norms[0].var) and item.eps == norms[0].eps for item in norms
    )
    if not same:
        raise UnsupportedError(
            f"layer '{node.name}': the currents that meet in it do not all pass one BNTT ('{names}'): gains that "
            f"change with time in different ways leave no static weights; put one BNTT after the add, or use tdBN there"
        )
    return norms


def at_one_step(norm: ir.StepNorm) -> ir.Norm:
    """BNTT of a single step: batch norm."""
    return ir.Norm(
        norm.name, norm.inputs, norm.gamma[0], 0 * norm.mean[0], norm.mean[0], norm.var[0], norm.eps, 1.0, 1.0
    )


def _check(norm: ir.StepNorm) -> None:
    """Refuse what a positive factor a step cannot express."""
    if not (norm.var + norm.eps > 0).all():
        step, channel = np.argwhere(~(norm.var + norm.eps > 0))[0]
        raise InputError(
            f"layer '{norm.name}': variance {norm.var[step, channel]:.3g} of channel {channel} at step {step + 1} is "
            f"negative; train again"
        )
    if not (norm.gamma > 0).all():
        step, channel = np.argwhere(~(norm.gamma > 0))[0]
        raise InputError(
            f"layer '{norm.name}': gamma {norm.gamma[step, channel]:.3g} of channel {channel} at step {step + 1} is "
            f"not positive, as folding into thresholds needs; train with snn2chip.nn.BNTT, which keeps it so"
        )


def time_varying(neuron: ir.LIF, norms: list[ir.StepNorm]) -> ir.LIF:
    """The neuron with BNTT's tables; `norms` are one normalization as every path to the neuron sees it."""
    norm = norms[0]
    _check(norm)
    if neuron.current_tau:
        raise UnsupportedError(
            f"layer '{norm.name}': BNTT before '{neuron.name}', whose current decays: with a gain that changes with "
            f"time the current would need a decay that does; put a batch norm there"
        )
    with np.errstate(over="ignore", divide="ignore", invalid="ignore", under="ignore"):
        gain = norm.gamma / np.sqrt(norm.var + norm.eps)
        leak = np.zeros_like(gain)
        leak[1:] = neuron.tau * gain[:-1] / gain[1:]
        steps = ir.StepConstants(gain, leak, -np.sum([item.mean for item in norms], axis=0), neuron.threshold / gain)
    for what, table in (("leak", leak), ("threshold", steps.threshold), ("gain", gain)):
        bad = np.argwhere(~np.isfinite(table) | ((table <= 0) & (what != "leak")))
        if len(bad):
            step, channel = bad[0]
            raise InputError(
                f"layer '{norm.name}': gamma {norm.gamma[step, channel]:.3g} and variance "
                f"{norm.var[step, channel]:.3g} of channel {channel} at step {step + 1} give a {what} beyond float64"
            )
    return replace(neuron, steps=steps)
