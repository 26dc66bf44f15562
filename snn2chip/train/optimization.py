"""The optimizer of a recipe and its learning rate."""

from __future__ import annotations

import math

import torch
from torch import nn

from snn2chip.nn import BNTT
from snn2chip.recipe import TrainSpec


def learning_rate(spec: TrainSpec, step: int, steps_per_epoch: int) -> float:
    """Linear warm-up over `warmup_epochs`, then half a cosine down to zero at the last step."""
    total = spec.epochs * steps_per_epoch
    warmup = min(spec.warmup_epochs * steps_per_epoch, total - 1)
    if step < warmup:
        return spec.lr * (step + 1) / (warmup + 1)
    return spec.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1.0, total - warmup)))


def make_optimizer(network: nn.Module, spec: TrainSpec) -> torch.optim.Optimizer:
    """AdamW or SGD (Nesterov); weight decay only on weights of two or more dimensions, never on BNTT's gammas."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    exempt = {id(module.log_weight) for module in network.modules() if isinstance(module, BNTT)}
    decays = [p.ndim > 1 and id(p) not in exempt for p in parameters]
    groups = [
        {
            "params": [p for p, decay in zip(parameters, decays, strict=True) if decay],
            "weight_decay": spec.weight_decay,
        },
        {"params": [p for p, decay in zip(parameters, decays, strict=True) if not decay], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if spec.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=spec.lr, momentum=spec.momentum, nesterov=spec.momentum > 0)
    return torch.optim.AdamW(groups, lr=spec.lr)
