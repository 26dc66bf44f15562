"""The optimizer of a recipe and its learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from snn2chip.nn import BNTT
from snn2chip.recipe import TrainSpec


def schedule(spec: TrainSpec, step: int, steps_per_epoch: int) -> float:
    """Share of the largest learning rate at a step: linear warm-up over `warmup_epochs`, then half a cosine or a line
    down to zero at the last step."""
    total = spec.epochs * steps_per_epoch
    warmup = min(spec.warmup_epochs * steps_per_epoch, total - 1)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1.0, total - warmup)
    return 1 - done if spec.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))


def make_optimizer(network: nn.Module, spec: TrainSpec) -> torch.optim.Optimizer:
    """AdamW, SGD (Nesterov) or Muon; weight decay only on weights of two or more dimensions, never on BNTT's gammas.

    Each group holds its largest learning rate under "peak".
    """
    parameters = [p for p in network.parameters() if p.requires_grad]
    exempt = {id(module.log_weight) for module in network.modules() if isinstance(module, BNTT)}
    weights = [p for p in parameters if p.ndim > 1 and id(p) not in exempt]
    decayed = {id(p) for p in weights}
    others = [p for p in parameters if id(p) not in decayed]
    if spec.optimizer == "muon":
        last: list[Tensor] = [m.weight for m in network.modules() if isinstance(m, nn.Linear)][-1:]
        inner = [p for p in weights if all(p is not kept for kept in last)]
        return Muon(inner, _groups(last, others, spec, spec.adamw_lr), spec)
    groups = _groups(weights, others, spec, spec.lr)
    if spec.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=spec.lr, momentum=spec.momentum, nesterov=spec.momentum > 0)
    return torch.optim.AdamW(groups, lr=spec.lr)


def _groups(weights: Sequence[Tensor], others: Sequence[Tensor], spec: TrainSpec, peak: float) -> list[dict[str, Any]]:
    found = [
        {"params": weights, "weight_decay": spec.weight_decay, "peak": peak},
        {"params": others, "weight_decay": 0.0, "peak": peak},
    ]
    return [group for group in found if group["params"]]


class Muon(torch.optim.Optimizer):
    """`torch.optim.Muon` for weights, seen as matrices of a row an output, and AdamW for the other groups.

    Muon (Jordan et al. 2024) steps by the nearest orthogonal matrix to the momentum, so that all directions of a layer
    learn at one pace. A kernel (O, C, KY, KX) is a matrix (O, C KY KX) in the same memory.
    """

    def __init__(self, weights: Sequence[Tensor], groups: list[dict[str, Any]], spec: TrainSpec) -> None:
        self._weights = weights
        matrices = [nn.Parameter(_matrix(weight, weight.detach())) for weight in weights]
        assert all(a.data_ptr() == b.data_ptr() for a, b in zip(matrices, weights, strict=True))
        self._muon = torch.optim.Muon(
            [{"params": matrices, "peak": spec.lr}],
            lr=spec.lr,
            weight_decay=spec.weight_decay,
            momentum=spec.momentum,
            nesterov=spec.momentum > 0,
        )
        self._adamw = torch.optim.AdamW(groups, lr=spec.adamw_lr)
        super().__init__([*self._muon.param_groups, *self._adamw.param_groups], {})
        self._share()

    def _share(self) -> None:
        """The two work on the groups and the state of this one, which is what a checkpoint keeps."""
        self._muon.param_groups, self._adamw.param_groups = self.param_groups[:1], self.param_groups[1:]
        self._muon.state = self._adamw.state = self.state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._share()

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step of both; gradients are those of the network's own parameters."""
        for matrix, weight in zip(self.param_groups[0]["params"], self._weights, strict=True):
            matrix.grad = None if weight.grad is None else _matrix(weight, weight.grad)
        self._muon.step()  # type: ignore[no-untyped-call]
        self._adamw.step()


def _matrix(weight: Tensor, values: Tensor) -> Tensor:
    """`values` of the shape of `weight` as rows of an output, in the order that `weight` has in memory."""
    rows = values if weight.is_contiguous() else values.permute(0, 2, 3, 1)
    return rows.reshape(len(values), -1)
