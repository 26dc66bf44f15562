"""A plain trained network (from ONNX) as a model that a spiking one starts from: matched to a recipe, or with its own.

The model has a ReLU in the place of every neuron, at T = 1, as recipes with ``neuron.kind = "relu"`` train it, and
computes what the file computes; a network whose neurons are thresholds becomes one of spiking neurons at T = 1. Then
`snn2chip train RECIPE --init model.pt` starts from it (`snn2chip.train.start_from_model`, `snn2chip.train.balance`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from snn2chip.choices import NormChoice
from snn2chip.errors import InputError, UnsupportedError
from snn2chip.formats.onnx.items import Block, Flat, FloatArray, Item, Neuron, Norm, PlainNetwork, Pool, Weighted
from snn2chip.nn import LIF, SpikingNetwork, TDBatchNorm, model_file
from snn2chip.nn.layers import AvgPool2d, Conv2d, Dropout, Flatten, GlobalAvgPool, Linear, MaxPool2d, Residual
from snn2chip.recipe import Recipe, parse


@dataclass(frozen=True)
class Imported:
    """A network that computes what the file computes, its recipe, and what is to be said about it.

    `unknown` names the normalizations whose statistics are not in the file: see `calibrate`.
    """

    network: SpikingNetwork
    recipe: Recipe
    notes: list[str]
    unknown: list[str]


# ------------------------------------------------------------------------------------- a recipe from the network


def derive(
    plain: PlainNetwork,
    name: str,
    dataset: str,
    *,
    timesteps: int = 4,
    norm: NormChoice = "none",
    size: int | None = None,
) -> Recipe:
    """A spiking recipe of the same layers, with the defaults of training.

    With norm "none", batch norm is folded into the layer before it, and layers have biases; with "tdbn", hidden layers
    are normalized. Residual blocks always are.

    Raises:
        UnsupportedError: a layer or block that no recipe has, by node name.
    """
    layers: list[dict[str, Any]] = []
    for place, item in enumerate(plain.items):
        following = plain.items[place + 1] if place + 1 < len(plain.items) else None
        if isinstance(item, Weighted):
            layers.append(_weighted(item, isinstance(following, Neuron), following is None, norm))
        elif isinstance(item, Block):
            if not isinstance(following, Neuron):
                raise UnsupportedError(f"node '{item.name}': Add without Relu behind it; blocks of a recipe have one")
            layers.append(_block(item))
        elif isinstance(item, Pool) and item.kind == "avg":
            layers.append({"type": "avgpool", "kernel": item.kernel})
        elif isinstance(item, Pool) and item.kind == "max":
            layers.append({"type": "maxpool", "kernel": item.kernel, "stride": item.stride, "padding": item.padding})
        elif isinstance(item, Pool):
            layers.append({"type": "globalavgpool"})
        elif isinstance(item, Flat):
            layers.append({"type": "flatten"})
    data: dict[str, Any] = {"name": dataset} if size is None else {"name": dataset, "image_size": size}
    return parse(
        {
            "name": name,
            "description": f"The layers of '{name}.onnx', spiking.",
            "data": data,
            "model": {"timesteps": timesteps, "layers": layers},
            "train": {"epochs": 20},
        },
        source=f"recipe of '{name}'",
    )


def _weighted(item: Weighted, neuron: bool, last: bool, norm: NormChoice) -> dict[str, Any]:
    chosen = norm if neuron else "none"
    shared = {"bias": chosen == "none" and (item.bias is not None or item.norm is not None), "norm": chosen}
    if item.weight.ndim == 2:
        return {"type": "dense", "features": "classes" if last else item.weight.shape[0], **shared, "neuron": neuron}
    geometry = {"stride": item.stride, "padding": item.padding, "dilation": item.dilation, "groups": item.groups}
    usual = {"stride": 1, "padding": item.weight.shape[2] // 2, "dilation": 1, "groups": 1}
    return {
        "type": "conv",
        "channels": item.weight.shape[0],
        "kernel": item.weight.shape[2],
        **{key: value for key, value in geometry.items() if value != usual[key]},
        **shared,
        "neuron": neuron,
    }


def _block(block: Block) -> dict[str, Any]:
    """The residual layer of one block; `fill` then compares every convolution of it."""
    convs = [item for item in block.branch if isinstance(item, Weighted)]
    if len(convs) not in (2, 3) or any(conv.weight.ndim != 4 for conv in convs):
        raise UnsupportedError(
            f"node '{block.name}': Add of a branch of {len(convs)} weighted layers; a recipe's blocks have two 3x3 "
            f"convolutions (basic), or 1x1, 3x3, 1x1 (bottleneck)"
        )
    out = convs[-1].weight.shape[0]
    plan = [(out, 3), (out, 3)] if len(convs) == 2 else [(max(1, out // 4), 1), (max(1, out // 4), 3), (out, 1)]
    for conv, wanted in zip(convs, plan, strict=True):
        if (conv.weight.shape[0], conv.weight.shape[2]) != wanted or conv.groups != 1:
            raise UnsupportedError(
                f"node '{conv.name}': Conv of weights {conv.weight.shape} and {conv.groups} groups in a block; "
                f"{wanted[0]} channels of kernel {wanted[1]} and 1 group have a place there in a recipe"
            )
    pooled = any(isinstance(item, Pool) for item in block.shortcut)
    stride = next((item.kernel for item in block.shortcut if isinstance(item, Pool)), 0) or convs[len(convs) - 2].stride
    layer: dict[str, Any] = {
        "type": "residual",
        "channels": out,
        "stride": max(stride, *(conv.stride for conv in convs)),
        "block": "basic" if len(convs) == 2 else "bottleneck",
    }
    if pooled:
        layer["projection"] = "pool"
    if not block.shortcut:
        layer["identity"] = "none"
    return layer


def recipe_text(recipe: Recipe) -> str:
    """The recipe as TOML, without what is at its default."""
    values = recipe.model_dump(mode="json", exclude_unset=True)
    model = values["model"]
    layers = [
        f"    {{ {', '.join(f'{key} = {json.dumps(value)}' for key, value in each.items())} }},"
        for each in model["layers"]
    ]
    neuron, train = recipe.model.neuron, recipe.train
    lines = [
        f"name = {json.dumps(recipe.name)}",
        f"description = {json.dumps(recipe.description)}",
        "",
        "[data]",
        *(f"{key} = {json.dumps(value)}" for key, value in values["data"].items()),
        "",
        "[model]",
        f"timesteps = {recipe.model.timesteps}",
        "layers = [",
        *layers,
        "]",
        "",
        "[model.neuron]",
        f"tau = {neuron.tau}",
        f"threshold = {neuron.threshold}",
        "",
        "[train]",
        f"epochs = {train.epochs}",
        f"batch_size = {train.batch_size}",
        f"lr = {train.lr}",
        f"balance_percentile = {train.balance_percentile}",
        f"seed = {train.seed}",
        "",
    ]
    return "\n".join(lines)


# ------------------------------------------------------------------------------------------ weights into a network


def fit(
    plain: PlainNetwork,
    recipe: Recipe,
    *,
    max_value: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> Imported:
    """The network of `recipe`, at T = 1 and with the file's kind of neuron, with the weights of `plain`.

    Layers are matched in their order. Where the recipe has no normalization, batch norm is folded into the layer
    before it; where it has tdBN, the file's batch norm is carried over, and where the file has none, tdBN starts as
    the identity (named in `unknown`). BNTT is tdBN here: `start_from` carries it on. `mean` and `std` are of the
    input that the file's network was trained on, in units of pixel / max_value; what the file itself does to its input
    comes on top.

    Raises:
        InputError: a layer that differs, by the names of both sides.
        RecipeError: the recipe's layers do not fit the file's images.
    """
    values = recipe.model_dump(mode="json")
    notes = list(plain.notes)
    values["name"] = f"{recipe.name}-start"
    values["description"] = f"An imported network that {recipe.name} may start from."
    values["model"].update(timesteps=1, coding="direct")
    values["model"]["neuron"]["kind"] = "lif" if plain.spiking else "relu"
    for number, layer in enumerate(values["model"]["layers"]):
        if layer.get("norm") == "bntt":
            layer["norm"] = "tdbn"
            notes.append(f"layer {number} of the recipe has bntt; here it is tdbn, which train --init carries over")
    if recipe.model.readout != "membrane":
        raise InputError(
            f"recipe '{recipe.name}': readout '{recipe.model.readout}' cannot start from an imported network, "
            f"whose last layer has no neuron; use readout = 'membrane'"
        )
    start = parse(values, source=f"recipe '{recipe.name}'")
    means, deviations = plain.normalization(np.asarray(mean, dtype=np.float64), np.asarray(std, dtype=np.float64))
    network = model_file.build_network(
        start, plain.input_shape, plain.classes, max_value, means.tolist(), deviations.tolist()
    )
    filler = _Filler(recipe.name)
    with torch.no_grad():
        filler.chain("", network.body, plain.items)
    return Imported(network.eval(), start, notes, filler.unknown)


def _say(layer: Item | nn.Module) -> str:
    """What is compared of a layer, in words: an item of the file and the module of a recipe are said alike."""
    if isinstance(layer, nn.Conv2d):
        stride, padding, dilation = layer.stride[0], layer.padding[0], layer.dilation[0]
        return _weights(tuple(layer.weight.shape), stride, padding, dilation, layer.groups)
    if isinstance(layer, nn.Linear):
        return _weights(tuple(layer.weight.shape))
    if isinstance(layer, Weighted):
        return _weights(layer.weight.shape, layer.stride, layer.padding, layer.dilation, layer.groups)
    if isinstance(layer, (AvgPool2d, MaxPool2d)):
        sizes = (layer.stride, layer.padding) if isinstance(layer, MaxPool2d) else (layer.kernel, 0)
        layer = Pool("", "max" if isinstance(layer, MaxPool2d) else "avg", layer.kernel, *sizes)
    if isinstance(layer, GlobalAvgPool) or (isinstance(layer, Pool) and layer.kind == "global"):
        return "global pooling"
    if isinstance(layer, Pool):
        return f"{layer.kind} pooling of kernel {layer.kernel}, stride {layer.stride}, padding {layer.padding}"
    if isinstance(layer, (Residual, Block)):
        return "a residual block"
    if isinstance(layer, (nn.ReLU, LIF, Neuron)):
        return "a neuron"
    return "flatten" if isinstance(layer, (Flatten, Flat)) else "batch norm"


def _weights(
    shape: tuple[int, ...], stride: int = 1, padding: int | str = 0, dilation: int = 1, groups: int = 1
) -> str:
    if len(shape) == 2:
        return f"a dense layer {shape}"
    return f"a conv {shape} with stride {stride}, padding {padding}, dilation {dilation}, groups {groups}"


class _Filler:
    def __init__(self, recipe: str) -> None:
        self.recipe = recipe
        self.unknown: list[str] = []

    def chain(self, prefix: str, body: nn.Module, items: Sequence[Item]) -> None:
        """Every module of `body` from the item of its place; normalizations and dropout have none."""
        modules = [(f"{prefix}{name}", module) for name, module in body.named_children()]
        modules = [(name, module) for name, module in modules if not isinstance(module, Dropout)]
        waiting: Iterator[Item] = iter(items)
        last: Item | None = None
        for place, (name, module) in enumerate(modules):
            if isinstance(module, TDBatchNorm):
                continue
            last = next(waiting, None)
            if last is None or _say(module) != _say(last):
                raise self.differs(name, _say(module), last)
            after = modules[place + 1] if place + 1 < len(modules) else ("", None)
            if isinstance(module, (Conv2d, Linear)):
                assert isinstance(last, Weighted)
                norm = after[1] if isinstance(after[1], TDBatchNorm) else None
                self.weighted(name, module, last, after[0], norm)
            elif isinstance(module, Residual):
                assert isinstance(last, Block)
                self.chain(f"{name}.branch.", module.branch, last.branch)
                self.shortcut(f"{name}.shortcut.", module.shortcut, last)
            elif isinstance(module, LIF):
                assert isinstance(last, Neuron)
                assert last.threshold is not None
                if module.log_threshold is not None:
                    module.log_threshold.fill_(float(np.log(last.threshold)))
                else:
                    module.get_buffer("fixed_threshold").fill_(last.threshold)
        if (left := next(waiting, None)) is not None:
            raise self.differs(prefix.rstrip(".") or "the end", "nothing more", left)

    def shortcut(self, prefix: str, body: nn.Module, block: Block) -> None:
        """Convolutions as in a chain; a shortcut that keeps its shape has a batch norm, or none."""
        modules = list(body.named_children())
        if len(modules) == 1 and isinstance(modules[0][1], TDBatchNorm) and len(block.shortcut) <= 1:
            given = block.shortcut[0] if block.shortcut else None
            if given is None or isinstance(given, Norm):
                _into_norm(modules[0][1], given, None)
                if given is None:
                    self.unknown.append(f"{prefix}{modules[0][0]}")
                return
        self.chain(prefix, body, block.shortcut)

    def differs(self, name: str, ours: str, item: Item | None) -> InputError:
        theirs = "nothing more" if item is None else f"'{item.name}', {_say(item)}"
        return InputError(
            f"recipe '{self.recipe}': '{name}' is {ours}, but the file has {theirs}; the layers must be the same "
            f"in the same order (leave out --recipe to get a recipe of the file's own)"
        )

    def weighted(
        self, name: str, module: Conv2d | Linear, item: Weighted, norm_name: str, norm: TDBatchNorm | None
    ) -> None:
        weight, bias, given = item.weight, item.bias, item.norm
        if norm is None and given is not None:
            with np.errstate(over="ignore", invalid="ignore"):
                gain = given.gamma / np.sqrt(given.variance)
                wide = gain.reshape(-1, *(1,) * (weight.ndim - 1))
                # in float64, but never the whole matrix of it
                weight = np.multiply(weight, wide, out=np.empty_like(weight), dtype=np.float64, casting="same_kind")
                bias = given.beta + gain * ((0.0 if bias is None else bias) - given.mean)
        if module.bias is not None:
            module.bias.copy_(torch.zeros_like(module.bias) if bias is None else _tensor(name, bias))
            bias = None
        if norm is not None:
            _into_norm(norm, given, bias)
            if given is None:
                self.unknown.append(norm_name)
        elif bias is not None and bias.any():
            raise InputError(
                f"recipe '{self.recipe}': '{name}' has neither bias nor normalization, but '{item.name}' of the "
                f"file has a bias (or batch norm); set bias = true"
            )
        module.weight.copy_(_tensor(name, weight))


def _tensor(name: str, values: Any) -> Tensor:
    """As float32, which must hold it."""
    tensor = torch.tensor(values, dtype=torch.float32)
    if not bool(torch.isfinite(tensor).all()):
        raise InputError(f"layer '{name}': weights with batch norm folded in are beyond float32; train again")
    return tensor


def _into_norm(module: TDBatchNorm, norm: Norm | None, bias: FloatArray | None) -> None:
    """``norm(x + bias)`` as tdBN, whatever its alpha, threshold and eps are; without a norm, ``x + bias``."""
    one = np.ones(module.channels)
    gamma, beta, mean, variance = (
        (one, 0 * one, 0 * one, one) if norm is None else (norm.gamma, norm.beta, norm.mean, norm.variance)
    )
    if bias is not None:
        mean, beta = (mean - bias, beta) if norm is not None else (mean, beta + bias)
    _set_norm(module, gamma / np.sqrt(variance), beta, mean, variance)


def _set_norm(module: TDBatchNorm, gain: FloatArray, beta: FloatArray, mean: FloatArray, variance: FloatArray) -> None:
    """``y = gain * (x - mean) + beta``, with `variance` as the running one as far as eps lets it be."""
    kept = np.maximum(variance - module.eps, 0).astype(np.float32)
    weight = gain * np.sqrt(kept.astype(np.float64) + module.eps) / (module.alpha * module.threshold)
    module.running_var.copy_(torch.from_numpy(kept))
    module.running_mean.copy_(_tensor("norm", mean))
    module.weight.copy_(_tensor("norm", weight))
    module.bias.copy_(_tensor("norm", beta))


@torch.no_grad()
def calibrate(imported: Imported, images: Tensor) -> None:
    """Give the normalizations in `unknown` the statistics of `images`, without a change to what they compute.

    A layer into which the exporter has folded batch norm says nothing of its activations' mean and variance, which
    training starts from. They are measured, and gamma and beta make up for them: ``y = x + b`` becomes
    ``sigma * (x - mu) / sigma + (mu + b)``, equal to float32's rounding.
    """
    network = imported.network.eval()
    handles = []

    def before(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(module, TDBatchNorm)
        x = inputs[0].double().flatten(0, 1)
        axes = [axis for axis in range(x.ndim) if axis != 1]
        mean, variance = x.mean(axes).numpy(), x.var(axes, correction=0).numpy()
        old = module.bias.double().numpy()
        _set_norm(module, np.ones(module.channels), old + mean, mean, variance)

    try:
        for name in imported.unknown:
            handles.append(network.body.get_submodule(name).register_forward_pre_hook(before))
        network(images)
    finally:
        for handle in handles:
            handle.remove()
