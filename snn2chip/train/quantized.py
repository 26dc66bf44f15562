"""Quantization-aware training whose forward pass is the exporter.

At every step the network is captured, folded and rounded by the very functions that export it, with float64 weights as
they are then: `snn2chip.passes` says what each weight, bias, threshold and decay is on the chip. What the step computes
with are these numbers; the gradients are those of the numbers before rounding (straight through; none for a weight
that is clipped and would go farther).

A training has two parts. In the first, normalization takes the statistics of the batch, as ever: convolutions hold
rounded weights divided by what the fold multiplies them by (``W_int / (s g)``, g of the running statistics), biases and
thresholds are shifted by what rounding shifts them by (batch norm correction and freezing: Krishnamoorthi 2018,
arXiv:1806.08342, section 3.2.2). In the second, the share `freeze` of the training, statistics are frozen and the step
runs the integers themselves: the network that `model.pt` will hold, with its neurons' decay, without normalization.

Every network of neurons has one scale s, as on the chip. With 8 bits the largest weight fills the range, as the
exporter has it without calibration data. With fewer it starts where rounding costs the weights least, in squares, and
is learned (LSQ, Esser et al. 2020): with ``W_int = round(s w)``, and nothing else depending on s,

    d loss / d log s = sum of  d loss / d W_int * (s w - W_int)       where w is not clipped,  * (-W_int)  where it is

The input is centred at a whole pixel, so that no bias differs from neuron to neuron at the image's border.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from snn2chip import chip as chips
from snn2chip import ir
from snn2chip.chip.profile import DECAY_ONE
from snn2chip.errors import InputError, UnsupportedError
from snn2chip.nn import BNTT, LIF, DirectInput, SpikingNetwork, TDBatchNorm, model_file
from snn2chip.nn.neuron import fuse_neurons
from snn2chip.passes.capture import capture
from snn2chip.passes.fold import fold
from snn2chip.passes.quantize import least_square_scales, quantize_near
from snn2chip.passes.schedule import Schedule, schedule
from snn2chip.recipe import QuantizeTable, Recipe, parse

FLOAT = "float.pt"
SCALES = "log_scales"  # the parameter: one number for each layer whose scale is learned
_MOST_BITS = 8  # whose scale is not learned


class _Rounded(torch.autograd.Function):
    """`value` in the place of `wanted`; see the module for both gradients. `most`: the size that nothing exceeds."""

    @staticmethod
    def forward(
        ctx: Any, wanted: Tensor, value: Tensor, log_scale: Tensor | None, most: float, damping: float
    ) -> Tensor:
        ctx.save_for_backward(wanted, value)
        ctx.most, ctx.damping = most, damping
        return value.clone()  # autograd would take an input given back for a view of it

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        wanted, value = ctx.saved_tensors
        (grad,) = grad_outputs
        inside = wanted.abs() <= ctx.most
        of_scale = None
        if ctx.needs_input_grad[2]:
            of_scale = (grad * torch.where(inside, wanted - value, -value)).sum() * ctx.damping
        return torch.where(inside, grad, 0), None, of_scale, None, None


def _straight(wanted: Tensor, value: Tensor) -> Tensor:
    """`value`, with the gradient of `wanted`."""
    made: Tensor = _Rounded.apply(wanted, value.to(wanted), None, math.inf, 0.0)  # type: ignore[no-untyped-call]
    return made


@dataclass(frozen=True)
class _Path:
    """A way for currents to a neuron, by paths of modules in `SpikingNetwork.body`.

    layer   the conv or dense layer, None for a shortcut without; `norm` its normalization, None without
    whole   the layer in the network of integers, where a shortcut has weights too
    kernel  of the pooling before it, all of it together
    shape   of what the pooling reads
    input   whether that is the network's input
    """

    layer: str | None
    norm: str | None
    whole: str
    kernel: ir.Pair
    shape: ir.Shape
    input: bool

    @property
    def area(self) -> int:
        return self.kernel[0] * self.kernel[1]


@dataclass(frozen=True)
class _Group:
    """A layer of neurons (None: the readout's) with all that drives it; its name is that of the first synapse."""

    neuron: str | None
    paths: tuple[_Path, ...]
    bits: int

    @property
    def name(self) -> str:
        first = self.paths[0]
        return first.layer or first.norm or first.whole


@dataclass(frozen=True, eq=False)
class _Integers:
    """A group as it is on the chip: weights of every path in the layout of its layer, float32; scale s."""

    weights: tuple[Tensor, ...]
    bias: Tensor
    threshold: int
    tau: float
    scale: float


def _ways(network: ir.Network, name: str) -> list[list[ir.Node]]:
    """The nodes from a source of spikes, which comes first, to `name`, for every way."""
    node = network[name]
    if isinstance(node, (ir.Input, ir.LIF, ir.MaxPool)):
        return [[node]]
    return [[*way, node] for before in node.inputs for way in _ways(network, before)]


def _refuse(name: str, what: str) -> UnsupportedError:
    return UnsupportedError(f"layer '{name}': {what}, which quantization-aware training does not know")


def _path(network: ir.Network, way: Sequence[ir.Node]) -> _Path:
    """One way as its modules.

    Raises:
        UnsupportedError: it holds what has no place in a network of integers, named.
    """
    source, *nodes = way
    layer: ir.Node | None = None
    norm: ir.Node | None = None
    whole, kernel = "", (1, 1)
    for node in nodes:
        if ":" in node.name and not isinstance(node, ir.Add):
            raise _refuse(node.name, "a module used twice")
        if isinstance(node, ir.AvgPool):
            if layer is not None or norm is not None:
                raise _refuse(node.name, "average pooling after its layer and before the neurons")
            kernel = (kernel[0] * node.kernel[0], kernel[1] * node.kernel[1])
            if kernel[0] * kernel[1] & (kernel[0] * kernel[1] - 1):
                raise _refuse(
                    node.name, f"average pooling over {kernel[0]} x {kernel[1]} pixels, a number that is no power of 2"
                )
        elif isinstance(node, (ir.Conv, ir.Dense)):
            layer, whole = node, node.name
        elif isinstance(node, (ir.Norm, ir.StepNorm)):
            if isinstance(node, ir.StepNorm) and network.timesteps > 1:
                raise _refuse(node.name, f"BNTT of {network.timesteps} steps")
            if norm is not None:
                raise _refuse(node.name, f"a normalization after '{norm.name}'")
            norm = node
        elif isinstance(node, ir.Flatten):
            if isinstance(layer, ir.Conv):
                raise _refuse(node.name, f"a flatten between '{layer.name}' and its neurons")
        elif isinstance(node, ir.Add) and layer is None:
            whole = f"{node.name.removesuffix('.add')}.shortcut.conv"
    if not whole or (layer is None and kernel != (1, 1)):
        raise _refuse(nodes[-1].name if nodes else source.name, "neurons without a layer of weights before them")
    named, normed = (None if node is None else node.name for node in (layer, norm))
    return _Path(named, normed, whole, kernel, network.shape(source.name), isinstance(source, ir.Input))


def _groups(network: ir.Network, table: QuantizeTable) -> tuple[_Group, ...]:
    """Every layer of neurons with weights, and the readout, of a captured network.

    Raises:
        UnsupportedError: as `_path`.
        InputError: bits for a layer that is not there, or that shares its scale with another.
    """
    made = []
    for node in network.nodes:
        neuron = isinstance(node, ir.LIF)
        if not (neuron or (isinstance(node, ir.Readout) and node.kind == "membrane")):
            continue
        paths = tuple(_path(network, way) for way in _ways(network, node.inputs[0]))
        group = _Group(node.name if neuron else None, paths, table.weight_bits)
        made.append(replace(group, bits=table.layers.get(group.name, table.weight_bits)))
    names = [group.name for group in made]
    for name in table.layers:
        if name not in names:
            raise InputError(
                f"train.quantize.layers: '{name}' is not one of {', '.join(names)}; layers that meet in one neuron "
                f"have the bits of the first"
            )
    layers = [path.whole for group in made for path in group.paths]
    if len(set(layers)) < len(layers):
        twice = next(name for name in layers if layers.count(name) > 1)
        raise _refuse(twice, "weights that drive two layers of neurons")
    return tuple(made)


def deployed(recipe: Recipe) -> Recipe:
    """The recipe of the network of integers that a training with `train.quantize` leaves."""
    values = recipe.model_dump(mode="json")
    values["model"]["integers"] = True
    return parse(values)


def _gain(norm: nn.Module | None) -> Tensor | float:
    """The fold's g (`snn2chip.passes.fold.norm_gain`), with its gradient; 1 without a normalization."""
    if isinstance(norm, TDBatchNorm):
        return norm.weight * (norm.alpha * norm.threshold) / (norm.running_var + norm.eps).sqrt()
    if isinstance(norm, BNTT):
        return norm.weight[0] / (norm.running_var[0] + norm.eps).sqrt()
    return 1.0


def _column(values: Tensor | float, like: Tensor) -> Tensor | float:
    return values.view(-1, *(1,) * (like.ndim - 1)) if isinstance(values, Tensor) else values


class Quantized:
    """A network in training, `network`, and the network of integers that it stands for, `whole`.

    Called with images it computes the scores of a training step. With `fresh`, the network's input is centred at whole
    pixels and scales that are learned are set; else both come from a checkpoint. They are parameters of `network`.

    Raises:
        UnsupportedError: the network has what training in integers does not know, named by layer.
        InputError: no such chip, or bits of a layer that is not there.
    """

    def __init__(self, network: SpikingNetwork, recipe: Recipe, classes: int, *, fresh: bool, fuse: bool) -> None:
        table = recipe.train.quantize
        assert table is not None
        self.network, self.recipe = network, deployed(recipe)
        self.chip, self.relays = chips.load(table.chip), table.relays
        self.groups = _groups(capture(network), table)
        device = next(network.parameters()).device
        self.whole = model_file.build_network(self.recipe, network.input_shape, classes, network.encoder.max_value).to(
            device
        )
        self.whole.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.whole.requires_grad_(False)
        if not isinstance(network.encoder, DirectInput):
            self.whole.encoder = network.encoder  # nothing to scale, and one generator of spikes
        if fuse:
            fuse_neurons(self.whole, device)
        self.learned = [group.name for group in self.groups if group.bits < _MOST_BITS]
        if self.learned:
            network.register_parameter(SCALES, nn.Parameter(torch.zeros(len(self.learned), device=device)))
        if fresh:
            self._prepare()

    @property
    def _bits(self) -> dict[str, int]:
        return {group.name: group.bits for group in self.groups}

    @torch.no_grad()
    def _prepare(self) -> None:
        folded, plan = self._folded()
        encoder = self.network.encoder
        if isinstance(encoder, DirectInput):
            encoder.mean.copy_(torch.from_numpy(folded.input.center / encoder.max_value))
        if self.learned:
            found = least_square_scales(folded, self.chip, plan, self._bits)
            values = torch.tensor([math.log(found[name]) for name in self.learned])
            self.network.get_parameter(SCALES).copy_(values)

    def _folded(self) -> tuple[ir.Network, Schedule]:
        """The network as the exporter folds it, but for the centre of its input, and its levels."""
        captured = capture(self.network)
        source = captured.input
        if source.coding == "direct":
            center = np.rint(-source.shift / source.scale) if source.high > 1 else np.zeros_like(source.shift)
            whole = replace(source, shift=-(center * source.scale))
            captured = captured.with_nodes("captured", [whole, *captured.nodes[1:]])
        folded, _ = fold(captured)
        return folded, schedule(folded, self.chip, self.relays)

    @torch.no_grad()
    def integers(self) -> dict[str, _Integers]:
        """The chip's numbers for the network as it is, by group; made by the exporter.

        Raises:
            ChipLimitError, UnsupportedError, InputError: as `snn2chip.passes` does; the training has diverged.
        """
        folded, plan = self._folded()
        scales = dict.fromkeys(self._bits, math.inf)
        if self.learned:
            values = self.network.get_parameter(SCALES).double().exp().tolist()
            scales.update(zip(self.learned, values, strict=True))
        quantized, found = quantize_near(folded, self.chip, plan, scales, self._bits)
        if isinstance(self.whole.encoder, DirectInput):
            self.whole.encoder.mean.copy_(torch.from_numpy(folded.input.center.astype(np.float64)))
        return {group.name: self._of(group, quantized, found[group.name]) for group in self.groups}

    def _of(self, group: _Group, quantized: ir.Network, scale: float) -> _Integers:
        if group.neuron is None:
            neuron = quantized[quantized.readout.inputs[0]]
        else:
            neuron = quantized[group.neuron]
        assert isinstance(neuron, ir.CubaNeuron)
        synapses = quantized.synapses_of(neuron)
        if len(synapses) != len(group.paths):
            raise _refuse(group.name, "currents from one source, added up on the chip")
        device = next(self.network.parameters()).device
        weights = [_layout(item, path) for item, path in zip(synapses, group.paths, strict=True)]
        bias = np.zeros(len(synapses[0].weight)) if synapses[0].bias is None else synapses[0].bias
        tensors = [torch.from_numpy(values.astype(np.float32)).to(device) for values in (*weights, bias)]
        tau = 1 - neuron.voltage_decay / DECAY_ONE
        return _Integers(tuple(tensors[:-1]), tensors[-1], neuron.threshold, tau, scale)

    def __call__(self, images: Tensor, *, frozen: bool) -> Tensor:
        """Scores (N, K) of images, with the gradients of the training network's parameters."""
        made = self.integers()
        if not frozen:
            self.network.train()
            scores: Tensor = functional_call(self.network, self._in_batch(made), (images,))
            return scores
        self.whole.train()
        scores = functional_call(self.whole, self._as_integers(made), (images,))
        last = self.groups[-1]
        return scores / made[last.name].scale if last.neuron is None else scores

    def _module(self, name: str | None) -> nn.Module | None:
        return None if name is None else self.network.body.get_submodule(name)

    def _rounded(self, group: _Group, wanted: Tensor, value: Tensor, area: int) -> Tensor:
        # weights that read several copies of their source may be larger
        chip = self.chip.at_input if any(path.input for path in group.paths) else self.chip
        most = max(float(area * chip.with_weight_bits(group.bits).weight_max), float(value.abs().max()))
        log_scale = None
        if group.name in self.learned:
            log_scale = self.network.get_parameter(SCALES)[self.learned.index(group.name)]
        damping = 1 / math.sqrt(value.numel() * (2 ** (group.bits - 1) - 1))
        value = torch.empty_like(wanted).copy_(value)
        made: Tensor = _Rounded.apply(wanted, value, log_scale, most, damping)  # type: ignore[no-untyped-call]
        return made

    def _in_scale(self, path: _Path, weight: Tensor) -> Tensor | float:
        """What the fold multiplies weights of the first layer by, shaped to broadcast over them."""
        encoder = self.network.encoder
        if not (path.input and isinstance(encoder, DirectInput)):
            return 1.0
        scale = 1 / (encoder.unit * encoder.std)
        module = self._module(path.layer)
        if isinstance(module, nn.Conv2d):
            channels = ir.input_channels(np.empty((module.out_channels, weight.shape[1])), module.groups)
            return scale[torch.from_numpy(channels).to(scale.device)][:, :, None, None]
        return scale.repeat_interleave(weight.shape[1] // len(scale))

    def _as_integers(self, made: Mapping[str, _Integers]) -> dict[str, Tensor]:
        """Tensors of `whole`: the integers, with gradients straight to the training network's parameters."""
        found: dict[str, Tensor] = {}
        for group in self.groups:
            now = made[group.name]
            for path, value in zip(group.paths, now.weights, strict=True):
                layer, gain = self._module(path.layer), now.scale * _gain(self._module(path.norm))
                if isinstance(layer, (nn.Conv2d, nn.Linear)):
                    wanted = layer.weight * _column(gain, layer.weight) * self._in_scale(path, layer.weight)
                else:
                    wanted = torch.ones_like(value) * _column(gain, value)
                found[f"body.{path.whole}.weight"] = self._rounded(group, wanted, value, path.area)
                found[f"body.{path.whole}.bias"] = torch.zeros_like(now.bias)
            found[f"body.{group.paths[0].whole}.bias"] = _straight(self._bias(group) * now.scale, now.bias)
            if group.neuron is not None:
                neuron, there = self._neuron(group.neuron), self.whole.body.get_submodule(group.neuron)
                threshold, tau, where = neuron.threshold, neuron.tau, f"body.{group.neuron}"
                whole = threshold.new_tensor(now.threshold)
                found[f"{where}.fixed_threshold"] = _straight(threshold * now.scale, whole)
                found[f"{where}.fixed_tau"] = _straight(tau, tau.new_tensor(now.tau))
                assert isinstance(there, LIF)
                there.width = neuron.width * now.scale  # of the surrogate, in the layer's unit
        return found

    def _in_batch(self, made: Mapping[str, _Integers]) -> dict[str, Tensor]:
        """Tensors of `network`, whose normalization takes the batch's statistics: what rounding makes of them."""
        found: dict[str, Tensor] = {}
        for group in self.groups:
            now = made[group.name]
            for path, value in zip(group.paths, now.weights, strict=True):
                layer = self._module(path.layer)
                if isinstance(layer, (nn.Conv2d, nn.Linear)):
                    weight = layer.weight
                    with torch.no_grad():
                        gain = now.scale * _gain(self._module(path.norm))
                        unit = torch.ones_like(weight) * _column(gain, weight) * self._in_scale(path, weight)
                        unit[unit == 0] = 1  # gamma 0: whatever comes is multiplied by it
                    rounded = self._rounded(group, weight * unit, value, path.area)
                    found[f"body.{path.layer}.weight"] = rounded / unit
            first = group.paths[0]
            layer, norm = self._module(first.layer), self._module(first.norm)
            with torch.no_grad():
                moved = now.bias / now.scale - self._bias(group)
            if isinstance(norm, TDBatchNorm):
                found[f"body.{first.norm}.bias"] = norm.bias + moved
            elif norm is None and isinstance(layer, (nn.Conv2d, nn.Linear)) and layer.bias is not None:
                found[f"body.{first.layer}.bias"] = layer.bias + moved
            if group.neuron is not None:
                neuron, where = self._neuron(group.neuron), f"body.{group.neuron}"
                threshold = neuron.threshold.new_tensor(now.threshold / now.scale)
                if neuron.log_threshold is None:
                    found[f"{where}.fixed_threshold"] = threshold
                else:
                    found[f"{where}.log_threshold"] = _straight(neuron.log_threshold, threshold.log())
        return found

    def _neuron(self, name: str) -> LIF:
        found = self.network.body.get_submodule(name)
        assert isinstance(found, LIF)
        return found

    def _bias(self, group: _Group) -> Tensor:
        """What the fold adds to the currents of a group, (C,) or a single 0, before rounding."""
        total = torch.zeros(())
        for path in group.paths:
            layer, norm = self._module(path.layer), self._module(path.norm)
            own = layer.bias if isinstance(layer, (nn.Conv2d, nn.Linear)) and layer.bias is not None else 0.0
            if isinstance(norm, TDBatchNorm):
                total = total + norm.bias + _gain(norm) * (own - norm.running_mean)
            elif isinstance(norm, BNTT):
                total = total + _gain(norm) * (own - norm.running_mean[0])
            else:
                total = total + own
        return total

    @torch.no_grad()
    def deployed(self) -> SpikingNetwork:
        """The network of integers as of now, in eval mode."""
        own = {**dict(self.whole.named_parameters()), **dict(self.whole.named_buffers())}
        for name, value in self._as_integers(self.integers()).items():
            own[name].copy_(value)
        return self.whole.eval()

    def figures(self) -> dict[str, Any]:
        """What is said of the training in model.pt: bits, scale and threshold of every layer."""
        made = self.integers()
        return {
            group.name: {
                "weight_bits": group.bits,
                "scale": made[group.name].scale,
                "threshold": None if group.neuron is None else made[group.name].threshold,
            }
            for group in self.groups
        }

    def save_float(self, path: Path, *, max_value: int, classes: Sequence[str]) -> None:
        """The network with its normalization and before rounding, as a model.pt to go on from."""
        values = self.recipe.model_dump(mode="json")
        values["model"]["integers"], values["train"]["quantize"] = False, None
        recipe = parse(values)
        plain = model_file.build_network(recipe, self.network.input_shape, len(classes), max_value)
        plain.load_state_dict({name: value for name, value in self.network.state_dict().items() if name != SCALES})
        model_file.save(path, plain, recipe, max_value=max_value, classes=classes, metrics={})


def _layout(synapse: ir.Synapse, path: _Path) -> ir.Array:
    """Weights of a folded layer as those of the layer behind the pooling, whose averages they multiply."""
    (rows, columns), weight = path.kernel, synapse.weight
    if isinstance(synapse, ir.Conv):
        return weight[..., ::rows, ::columns] * path.area
    if path.area == 1:
        return weight
    _, height, width = path.shape
    image = weight.reshape(len(weight), *path.shape)
    kept = image[:, :, : height // rows * rows : rows, : width // columns * columns : columns]
    return kept.reshape(len(weight), -1) * path.area
