"""Early exit in time (Kim and Panda 2021): what the gammas of BNTT say about the steps that are worth computing."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from snn2chip.errors import InputError
from snn2chip.nn.norm import BNTT


@dataclass(frozen=True)
class ExitReport:
    """After how many steps a network may stop.

    limit: what a layer's mean gamma is compared with, relative to the value at which gammas start.
    steps: T of the network; timesteps: the steps that count, 1 to T.
    layers: BNTT layer by name to its last step (1 to T) with a mean gamma of at least the limit, 0 if there is none.
    """

    limit: float
    steps: int
    timesteps: int
    layers: dict[str, int]


def early_exit(network: nn.Module, limit: float = 0.1) -> ExitReport:
    """The first step after which every BNTT layer's mean gamma stays below `limit`; T when there is none before.

    As in the paper a layer is judged by the average of its gammas over channels, at each step, against 0.1. There
    gammas start at 1; here they start at `BNTT.scale`, in recipes the neuron's threshold, and so the average is
    divided by that: mean_c(gamma[t, c]) / scale < limit.

    Raises:
        InputError: the network has no BNTT layer, or limit is not positive.
    """
    if not limit > 0:
        raise InputError(f"early_exit: limit {limit} is not positive")
    layers: dict[str, int] = {}
    steps = 0
    for name, module in network.named_modules():
        if isinstance(module, BNTT):
            above = (module.weight.detach().mean(1) / module.scale >= limit).nonzero()
            layers[name.removeprefix("body.")] = int(above[-1]) + 1 if len(above) else 0
            steps = module.timesteps
    if not layers:
        raise InputError("early_exit: the network has no BNTT layer, whose gammas would tell")
    return ExitReport(limit, steps, max(1, *layers.values()), layers)
