"""A running average of a network's weights (Polyak; Izmailov et al. 2018), with statistics of its own."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor

from snn2chip.nn import BNTT, SpikingNetwork, TDBatchNorm


class Average:
    """``average = d average + (1 - d) weights`` after every step, in the parameters of `network`, which is a copy.

    d is `decay`, or (1 + step) / (10 + step) where that is less: young averages forget their start sooner.
    """

    def __init__(self, network: SpikingNetwork, decay: float) -> None:
        self.network, self.decay = copy.deepcopy(network), decay

    @torch.no_grad()
    def add(self, network: SpikingNetwork, step: int) -> None:
        """What `network` is after `step` steps and this one."""
        kept: list[Tensor] = list(self.network.parameters())
        new: list[Tensor] = list(network.parameters())
        torch._foreach_lerp_(kept, new, 1 - min(self.decay, (1 + step) / (10 + step)))

    @torch.no_grad()
    def settle(self, batches: Iterable[Tensor]) -> SpikingNetwork:
        """The averaged network in eval mode; its statistics are the means over `batches` of what batch normalization
        computes."""
        network = self.network
        norms = [module for module in network.modules() if isinstance(module, (TDBatchNorm, BNTT))]
        usual = [norm.momentum for norm in norms]
        network.train()
        for number, images in enumerate(batches, start=1):
            for norm in norms:
                norm.momentum = 1 / number
            network(images)
        for norm, momentum in zip(norms, usual, strict=True):
            norm.momentum = momentum
        return network.eval()
