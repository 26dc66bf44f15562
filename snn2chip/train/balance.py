"""Threshold balancing: thresholds for a spiking network whose weights come from a network of ReLUs.

A ReLU network knows no thresholds. Rathi and Roy 2021 (DIET-SNN) and Chowdhury et al. 2021 (IIR-SNN) set that of each
layer, first to last, to a high percentile of what reaches it from the layers before, which spike with theirs already.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from snn2chip.errors import InputError
from snn2chip.nn import BNTT, LIF, PoissonInput, SpikingNetwork, TDBatchNorm


def _set(module: LIF, threshold: float) -> None:
    if module.log_threshold is not None:
        module.log_threshold.fill_(np.log(threshold))
    else:
        module.get_buffer("fixed_threshold").fill_(threshold)


@torch.no_grad()
def balance(network: SpikingNetwork, images: Tensor, percentile: float) -> dict[str, float]:
    """Set every neuron layer's threshold to the `percentile` of its currents; returns them by layer.

    One pass of `images` (N, C, H, W), the network otherwise in eval mode: when the currents (T, N, ...) reach a layer,
    its threshold is set, and it then spikes with it. One threshold a layer, over all steps, samples and neurons.

    Normalizations take their running statistics anew from this pass: those of a ReLU network are of its activations,
    and spikes take the place of these. Their gamma, their beta and the threshold in tdBN's gain, which is the
    scale of the normalization and not the neuron's, stay as they are.

    Raises:
        InputError: a layer's percentile is not a positive finite number.
    """
    thresholds: dict[str, float] = {}

    def setter(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def before(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            assert isinstance(module, LIF)
            value = float(np.percentile(inputs[0].float().cpu().numpy(), percentile))
            if not 0 < value < np.inf:
                raise InputError(
                    f"layer '{name}': percentile {percentile:g} of its currents is {value:.4g}, which is no threshold "
                    f"(more than 0 is needed); raise train.balance_percentile, or lower it if the layers before "
                    f"'{name}' are silent"
                )
            _set(module, value)
            thresholds[name] = float(module.threshold)

        return before

    network.eval()
    if isinstance(network.encoder, PoissonInput):
        network.encoder.reseed(0)
    norms = [module for module in network.modules() if isinstance(module, (TDBatchNorm, BNTT))]
    usual = [norm.momentum for norm in norms]
    handles = [
        module.register_forward_pre_hook(setter(name))
        for name, module in network.body.named_modules()
        if isinstance(module, LIF)
    ]
    try:
        for norm in norms:
            norm.train()
            norm.momentum = 1.0
        network(images)
    finally:
        for handle in handles:
            handle.remove()
        for norm, momentum in zip(norms, usual, strict=True):
            norm.momentum = momentum
        network.eval()
    return thresholds
