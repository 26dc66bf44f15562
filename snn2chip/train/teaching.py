"""What a training's loss is of: the labels, and the answers of a teacher if there is one."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from snn2chip.errors import InputError
from snn2chip.nn import SpikingNetwork, model_file
from snn2chip.recipe import TrainSpec


def teacher_of(path: Path, network: SpikingNetwork, classes: tuple[str, ...], device: torch.device) -> SpikingNetwork:
    """The network of a model.pt, to teach `network`.

    Raises:
        InputError: it knows other classes, or images of another shape.
    """
    model = model_file.load(path)
    if model.network.input_shape != network.input_shape or model.classes != classes:
        raise InputError(
            f"--teacher '{path}' tells {len(model.classes)} classes of {model.network.input_shape} images apart, "
            f"the recipe {len(classes)} of {network.input_shape}; give a model of this data set"
        )
    return model.network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def loss_of(spec: TrainSpec, steps: Tensor, scores: Tensor, labels: Tensor, taught: Tensor | None) -> Tensor:
    """The recipe's loss of the outputs (T, N, K) and their readout (N, K), with a teacher's scores if there are any
    (Hinton et al. 2015)::

        (1 - d) * cross entropy  +  d * temperature^2 * KL(teacher || network), both at that temperature
    """
    own = scores.float()
    if spec.loss == "steps":
        labels, own = labels.repeat(len(steps), *(1,) * (labels.ndim - 1)), steps.float().flatten(0, 1)
    loss = F.cross_entropy(own, labels, label_smoothing=spec.label_smoothing)
    if taught is None:
        return loss
    found = F.log_softmax(scores.float() / spec.temperature, 1)
    wanted = F.log_softmax(taught.float() / spec.temperature, 1)
    apart = F.kl_div(found, wanted, log_target=True, reduction="batchmean") * spec.temperature**2
    return (1 - spec.distill) * loss + spec.distill * apart
