"""checkpoint.pt: where a training stands. It is read as a file from outside, and every field of it is checked.

format      "snn2chip-checkpoint"
recipe      the recipe as a dictionary
state       the network's state_dict
optimizer   the optimizer's state_dict
average     the running average of the weights, by name; empty where the recipe keeps none
progress    the fields of `Progress`
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from torch import Tensor

from snn2chip.errors import InputError
from snn2chip.nn import SpikingNetwork, model_file
from snn2chip.recipe import Recipe

FORMAT = "snn2chip-checkpoint"
Count = Annotated[int, Field(strict=True, ge=0)]
Number = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
FIRING = "firing/"  # before a layer's name, its share of neurons that fire
ROW = {"epoch", "train_loss", "train_accuracy", "learning_rate", "seconds"}


@dataclass
class Progress:
    """Where a run stands: `step` batches of `epoch` are done; sums of this epoch so far; epochs' metrics."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    epoch: Count = 0
    step: Count = 0
    loss_sum: Number = 0.0
    correct: Count = 0
    seen: Count = 0
    seconds: Number = 0.0
    history: list[dict[str, Number]] = field(default_factory=list)


def save(
    path: Path,
    recipe: Recipe,
    network: SpikingNetwork,
    average: SpikingNetwork | None,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
) -> None:
    """Write it, whole or not at all.

    Raises:
        InputError: the file cannot be written.
    """
    content = {
        "format": FORMAT,
        "recipe": recipe.model_dump(mode="json"),
        "state": network.state_dict(),
        "average": {} if average is None else dict(average.named_parameters()),
        "optimizer": optimizer.state_dict(),
        "progress": asdict(progress),
    }
    model_file.save_tensors(path, content)


def load(path: Path) -> dict[str, Any]:
    """The content, of which only the format was looked at.

    Raises:
        InputError: it is not there, damaged, or no checkpoint.
    """
    if not path.exists():
        raise InputError(f"nothing to resume: '{path}' does not exist; start without --resume")
    content = model_file.load_tensors(path)
    kind = content.get("format")
    if not isinstance(kind, str) or kind != FORMAT:
        raise InputError(f"'{path}' is not a checkpoint of snn2chip train")
    return content


def restore(
    content: dict[str, Any],
    path: Path,
    recipe: Recipe,
    network: SpikingNetwork,
    average: SpikingNetwork | None,
    optimizer: torch.optim.Optimizer,
    steps_per_epoch: int,
) -> Progress:
    """Put a checkpoint into the network and the optimizer that `recipe` made; gives where the run stands.

    Raises:
        InputError: it belongs to another recipe, or a field of it is none that training leaves.
    """
    if model_file.recipe_of(content, path) != recipe:
        raise InputError(
            f"'{path}' belongs to another recipe or other --set values; resume with the same ones, "
            f"or choose another --out"
        )
    try:
        progress = _progress(content.get("progress"), recipe, steps_per_epoch)
        state = _tensors(content.get("state"), network.state_dict(), "state")
        averaged = {} if average is None else {name: value.detach() for name, value in average.named_parameters()}
        averaged = _tensors(content.get("average"), averaged, "average")
        kept = _optimizer(content.get("optimizer"), optimizer, progress.epoch * steps_per_epoch + progress.step)
    except ValueError as error:
        raise InputError(f"'{path}' is damaged: {error}; start again with --overwrite") from None
    network.load_state_dict(state)
    if average is not None:  # thresholds that balancing set are buffers, the same in both
        average.load_state_dict(state | averaged)
    model_file.check_values(network, path)
    optimizer.load_state_dict(kept)
    return progress


def _progress(value: Any, recipe: Recipe, steps_per_epoch: int) -> Progress:
    """`value` as Progress, if a run of `recipe` comes by it.

    Raises:
        ValueError: it does not.
    """
    if not isinstance(value, dict) or set(value) != set(asdict(Progress())):
        raise ValueError("progress lacks a field or has one too much")
    try:
        TypeAdapter(Progress).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"progress {first['loc'][0]}: {first['msg']}") from None
    progress = Progress(**value)  # as it was written: metrics.jsonl is to be that of an unbroken run
    epochs, batch = recipe.train.epochs, recipe.train.batch_size
    if progress.epoch > epochs or progress.step > (steps_per_epoch if progress.epoch < epochs else 0):
        raise ValueError(
            f"progress: epoch {progress.epoch}, step {progress.step} of {epochs} epochs of {steps_per_epoch} steps"
        )
    if progress.seen != progress.step * batch or progress.correct > progress.seen:
        raise ValueError(f"progress: {progress.correct} right of {progress.seen} after {progress.step} steps")
    rows, accuracies = (
        progress.history,
        {"train_accuracy", *(["validation_accuracy"] if recipe.validated else [])},
    )
    known = [{name for name in row if not name.startswith(FIRING)} == ROW | accuracies for row in rows]
    if (
        not all(known)
        or any(max(row[name] for name in accuracies) > 1 for row in rows)
        or [row["epoch"] for row in rows] != list(range(1, progress.epoch + 1))
    ):
        raise ValueError(f"progress: the history is not that of {progress.epoch} epochs")
    return progress


def _tensors(value: Any, wanted: dict[str, Tensor], where: str) -> dict[str, Tensor]:
    """Copies of `value`'s tensors, if they are finite and as those in `wanted`.

    Raises:
        ValueError: it does not.
    """
    if not isinstance(value, dict) or value.keys() != wanted.keys():
        raise ValueError(f"{where} lacks a tensor or has one too much")
    for name, tensor in wanted.items():
        given = value[name]
        if not isinstance(given, Tensor) or given.layout is not torch.strided or given.device.type != "cpu":
            raise ValueError(f"{where}: '{name}' is no plain tensor")
        if not (given.is_contiguous() or given.is_contiguous(memory_format=torch.channels_last)):
            raise ValueError(f"{where}: '{name}' is no plain tensor")  # values that share memory cannot be trained
        if (given.dtype, given.shape) != (tensor.dtype, tensor.shape):
            raise ValueError(
                f"{where}: '{name}' is {given.dtype} of shape {tuple(given.shape)}, not {tensor.dtype} of shape "
                f"{tuple(tensor.shape)}"
            )
        if not bool(torch.isfinite(given).all()):
            raise ValueError(f"{where}: '{name}' is not finite")
    return {name: value[name].detach().clone() for name in wanted}


def _optimizer(value: Any, optimizer: torch.optim.Optimizer, steps: int) -> dict[str, Any]:
    """The state_dict to load: groups as the recipe makes them, what is kept of each parameter as in `value`.

    Raises:
        ValueError: the groups are others, or what is kept is none that `steps` steps leave.
    """
    groups = optimizer.state_dict()["param_groups"]
    if not isinstance(value, dict) or value.keys() != {"state", "param_groups"}:
        raise ValueError("optimizer lacks a field or has one too much")
    given, kept = value["param_groups"], value["state"]
    if not isinstance(given, list) or len(given) != len(groups) or not isinstance(kept, dict):
        raise ValueError("optimizer: other groups than the recipe's")
    for group, wanted in zip(given, groups, strict=True):
        # other versions of torch may have other options; the rate is set anew at every step
        options = {name: option for name, option in wanted.items() if isinstance(group, dict) and name in group}
        for name, option in options.items():
            if type(group[name]) is not type(option) or (name != "lr" and group[name] != option):
                raise ValueError(f"optimizer: '{name}' is not the recipe's")
        if "params" not in options or "lr" not in options:
            raise ValueError("optimizer: other groups than the recipe's")
    parameters = [(parameter, group) for group in optimizer.param_groups for parameter in group["params"]]
    keeps = steps > 0 and any("betas" in group or group["momentum"] > 0 for group in groups)
    if not set(kept) <= set(range(len(parameters))) or bool(kept) != keeps:
        raise ValueError(f"optimizer: state of {len(kept)} of {len(parameters)} parameters after {steps} steps")
    checked = {}
    for number, item in kept.items():
        like, adam = parameters[number][0].detach(), "betas" in parameters[number][1]
        names = ("exp_avg", "exp_avg_sq") if adam else ("momentum_buffer",)
        wanted = dict.fromkeys(names, like) | ({"step": torch.zeros(())} if adam else {})
        checked[number] = found = _tensors(item, wanted, f"optimizer, parameter {number}")
        if adam and (not 1 <= float(found["step"]) <= steps or bool((found["exp_avg_sq"] < 0).any())):
            raise ValueError(f"optimizer, parameter {number}: step {float(found['step']):g} of {steps}, or squares < 0")
    return {"state": checked, "param_groups": groups}
