"""From a recipe's model table to a trainable network with named layers."""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from torch import Tensor, nn

from snn2chip.errors import InputError, RecipeError
from snn2chip.nn.coding import DirectInput, EventInput, MembraneReadout, PoissonInput, SpikeCountReadout
from snn2chip.nn.layers import AvgPool2d, Conv2d, Dropout, Flatten, GlobalAvgPool, Linear, MaxPool2d, Residual
from snn2chip.nn.neuron import LIF
from snn2chip.nn.norm import BNTT, TDBatchNorm
from snn2chip.recipe import ConvLayer

if TYPE_CHECKING:
    from snn2chip.recipe import DenseLayer, Layer, ModelSpec, NormName, ResidualLayer

STEPPED = (  # the layers that take all steps at once
    BNTT,
    LIF,
    AvgPool2d,
    Conv2d,
    Dropout,
    Flatten,
    GlobalAvgPool,
    Linear,
    MaxPool2d,
    TDBatchNorm,
)
_OF_SAMPLES = {  # torch's layers that take samples (N, ...) alone, not all steps at once
    *(nn.Conv2d.forward, nn.BatchNorm1d.forward, nn.BatchNorm2d.forward, nn.Flatten.forward),
    *(nn.AvgPool2d.forward, nn.MaxPool2d.forward, nn.AdaptiveAvgPool2d.forward),
}
MEETING = 1 / math.sqrt(2)  # alpha of the two tdBNs that meet in an add (Zheng et al. 2021)


class SpikingNetwork(nn.Module):
    """Encoder, body and readout: images (N, C, H, W), or events (N, T, C, H, W), in; class scores (N, K) out.

    `body` is a module of named multi-step layers, an `nn.Sequential` say; their names (conv1, norm1, lif1, ...) are
    the names that every later stage reports. `input_shape` is (C, H, W).

    A body may have torch's own layers too (Conv2d, BatchNorm2d, Flatten, ...). They take samples (N, ...); then all
    steps and samples are given to the body in one axis, (T N, C, H, W), and layers of snn2chip.nn in it, its neurons
    say, see them apart, (T, N, ...). A batch norm's statistics are so those of all steps, as tdBN's are.

    Raises:
        InputError: `input_shape` is not three sizes, or its channels are not the encoder's; in forward, input of
            another shape.
    """

    def __init__(
        self,
        encoder: DirectInput | PoissonInput | EventInput,
        body: nn.Module,
        readout: MembraneReadout | SpikeCountReadout,
        input_shape: tuple[int, int, int],
    ) -> None:
        super().__init__()
        if len(input_shape) != 3 or not all(isinstance(side, int) and side > 0 for side in input_shape):
            raise InputError(
                f"SpikingNetwork: input_shape {tuple(input_shape)} is not (channels, height, width); of flat features "
                f"give (features, 1, 1) and begin with a Flatten"
            )
        if isinstance(encoder, DirectInput) and len(encoder.mean) != input_shape[0]:
            raise InputError(
                f"SpikingNetwork: input_shape {tuple(input_shape)}, but the encoder has the means of "
                f"{len(encoder.mean)} channels; give one a channel"
            )
        self.encoder, self.body, self.readout = encoder, body, readout
        self.input_shape = input_shape
        self.merged = any(type(module).forward in _OF_SAMPLES for module in body.modules())

    @property
    def timesteps(self) -> int:
        """Time steps T of one sample."""
        return self.encoder.timesteps

    def forward(self, images: Tensor) -> Tensor:
        steps = (self.timesteps,) if isinstance(self.encoder, EventInput) else ()
        if images.shape[1:] != (*steps, *self.input_shape):
            raise InputError(
                f"SpikingNetwork: input of shape {tuple(images.shape)}; expected (N, "
                f"{', '.join(map(str, (*steps, *self.input_shape)))}){', one frame a time step' if steps else ''}"
            )
        scores: Tensor = self.readout(self.steps(self.encoder(images)))
        return scores

    def steps(self, x: Tensor) -> Tensor:
        """What the body gives at every step, (T, N, ...) of input over time (T, N, C, H, W)."""
        if not self.merged:
            return self.body(x)  # type: ignore[no-any-return]
        with self.apart():
            y: Tensor = self.body(x.flatten(0, 1))
        return y.reshape(self.timesteps, -1, *y.shape[1:])

    @contextmanager
    def apart(self) -> Iterator[None]:
        """In a `merged` body, let the layers of snn2chip.nn see steps and samples apart while the block runs."""

        def before(_module: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
            return inputs[0].reshape(self.timesteps, -1, *inputs[0].shape[1:])

        def after(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
            return output.flatten(0, 1)

        layers = [module for module in self.body.modules() if self.merged and isinstance(module, STEPPED)]
        hooks = [layer.register_forward_pre_hook(before) for layer in layers]
        hooks += [layer.register_forward_hook(after) for layer in layers]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def unwrapped(network: nn.Module) -> SpikingNetwork:
    """The network that torch's wrappers hold: DataParallel, DistributedDataParallel, torch.compile.

    Raises:
        InputError: it is no `SpikingNetwork`.
    """
    inner: nn.Module | None = network
    while inner is not None and not isinstance(inner, SpikingNetwork):
        network, inner = inner, getattr(inner, "module", getattr(inner, "_orig_mod", None))
    if inner is None:
        raise InputError(
            f"{type(network).__name__} is no SpikingNetwork; put it into snn2chip.nn.SpikingNetwork(encoder, body, "
            f"readout, input_shape)"
        )
    return inner


class _Builder:
    """The body being built: layers so far, and the shape that the next one reads."""

    def __init__(self, spec: ModelSpec, input_shape: tuple[int, int, int], classes: int) -> None:
        self.spec, self.classes = spec, classes
        self.channels, self.height, self.width = input_shape
        self.features: int | None = None  # set once the tensor is flat
        self.layers: OrderedDict[str, nn.Module] = OrderedDict()
        self.counts: Counter[str] = Counter()

    def add(self, kind: str, module: nn.Module) -> None:
        self.counts[kind] += 1
        self.layers[f"{kind}{self.counts[kind]}"] = module

    def wide(self, channels: int) -> int:
        """Channels or features under the recipe's width factor."""
        return max(1, round(channels * self.spec.width))

    def lif(self) -> LIF | nn.ReLU:
        neuron = self.spec.neuron
        if neuron.kind == "relu":
            return nn.ReLU()  # under the name of the LIF whose place it keeps
        return LIF(
            neuron.tau,
            neuron.threshold,
            surrogate=neuron.surrogate,
            width=neuron.width,
            trainable_tau=neuron.trainable_tau and not self.spec.integers,
            trainable_threshold=neuron.trainable_threshold and not self.spec.integers,
            detach_reset=neuron.detach_reset,
            whole=self.spec.integers,
        )

    def norm(self, channels: int, alpha: float = 1.0) -> TDBatchNorm:
        return TDBatchNorm(channels, alpha=alpha, threshold=self.spec.neuron.threshold)

    def normalize(self, kind: NormName, channels: int) -> None:
        if self.spec.integers:
            return  # it is in the weights and biases
        if kind == "tdbn":
            self.add("norm", self.norm(channels))
        elif kind == "bntt":
            self.add("norm", BNTT(channels, self.spec.timesteps, scale=self.spec.neuron.threshold))

    def needs_image(self, kind: str, index: int) -> None:
        if self.features is not None:
            raise RecipeError(f"model.layers.{index}: {kind} needs an image, but the layers before it flattened it")

    def resize(
        self, index: int, kernel: int, stride: int, padding: int, dilation: int = 1, *, row: bool = False
    ) -> None:
        """Height and width after a kernel, which with `row` is along the width alone."""
        reach = dilation * (kernel - 1) + 1
        height, self.width = (
            (side + 2 * padding - reach) // stride + 1 if side + 2 * padding >= reach else 0
            for side in (self.height, self.width)
        )
        self.height = self.height if row else height
        if min(self.height, self.width) < 1:
            raise RecipeError(
                f"model.layers.{index}: kernel {kernel} does not fit the image that reaches it; "
                f"use a smaller kernel, more padding or fewer strides"
            )

    def conv(self, index: int, layer: ConvLayer) -> None:
        self.needs_image("conv", index)
        groups = self.channels if layer.depthwise else layer.groups
        out = self.channels if layer.channels is None else self.wide(layer.channels)
        padding = layer.kernel // 2 if layer.padding is None else layer.padding
        if self.channels % groups or out % groups:
            raise RecipeError(
                f"model.layers.{index}: groups {groups} divides neither {self.channels} input nor {out} output "
                f"channels; choose a common divisor"
            )
        row = layer.type == "conv1d"
        self.resize(index, layer.kernel, layer.stride, padding, layer.dilation, row=row)

        def along(size: int, across: int = 1) -> tuple[int, int]:
            return across if row else size, size

        sizes = along(layer.kernel), along(layer.stride), along(padding, 0), along(layer.dilation)
        self.add("conv", Conv2d(self.channels, out, *sizes, groups, bias=layer.bias or self.spec.integers))
        self.channels = out
        self.normalize(layer.norm, out)
        if layer.neuron:
            self.add("lif", self.lif())

    def dense(self, index: int, layer: DenseLayer) -> None:
        if self.features is None:
            if self.height * self.width != 1:
                raise RecipeError(
                    f"model.layers.{index}: dense needs features, but an image "
                    f"{self.channels}x{self.height}x{self.width} reaches it; put {{type = 'flatten'}} before it"
                )
            self.add("flatten", Flatten())
            self.features = self.channels
        out = self.classes if layer.features == "classes" else self.wide(layer.features)
        self.add("dense", Linear(self.features, out, bias=layer.bias or self.spec.integers))
        self.features = out
        self.normalize(layer.norm, out)
        if layer.neuron:
            self.add("lif", self.lif())

    def residual(self, index: int, layer: ResidualLayer) -> None:
        self.needs_image("residual", index)
        for block in range(layer.blocks):
            self._block(index, layer, self.wide(layer.channels), layer.stride if block == 0 else 1)

    def _block(self, index: int, layer: ResidualLayer, out: int, stride: int) -> None:
        inputs, whole = self.channels, self.spec.integers
        if stride > 1 and layer.projection == "pool" and (self.height % stride or self.width % stride):
            raise RecipeError(
                f"model.layers.{index}: a pooled shortcut of stride {stride} does not divide the image "
                f"{self.height}x{self.width}; use projection = 'conv'"
            )
        branch: OrderedDict[str, nn.Module] = OrderedDict()
        if layer.block == "basic":
            plan = [(out, 3, stride), (out, 3, 1)]
        else:
            inner = max(1, out // 4)
            plan = [(inner, 1, 1), (inner, 3, stride), (out, 1, 1)]
        channels = inputs
        for number, (width, kernel, step) in enumerate(plan, start=1):
            last = number == len(plan)
            branch[f"conv{number}"] = Conv2d(channels, width, kernel, step, kernel // 2, bias=whole)
            if not whole:
                branch[f"norm{number}"] = self.norm(width, MEETING if last else 1.0)
            if not last:
                branch[f"lif{number}"] = self.lif()
            channels = width
        shortcut: OrderedDict[str, nn.Module] = OrderedDict()
        if stride > 1 or inputs != out:
            if stride > 1 and layer.projection == "pool":
                shortcut["pool"] = AvgPool2d(stride)
            step = 1 if layer.projection == "pool" else stride
            shortcut["conv"] = Conv2d(inputs, out, 1, step, bias=whole)
            if not whole:
                shortcut["norm"] = self.norm(out, MEETING)
        elif whole:  # the identity has a weight a channel, its normalization or the layer's unit
            shortcut["conv"] = Conv2d(out, out, 1, groups=out)
        elif layer.identity == "tdbn":
            shortcut["norm"] = self.norm(out, MEETING)
        self.resize(index, 3, stride, 1)
        self.channels = out
        self.add("block", Residual(nn.Sequential(branch), nn.Sequential(shortcut)))
        self.add("lif", self.lif())

    def layer(self, index: int, layer: Layer) -> None:
        if isinstance(layer, ConvLayer):
            self.conv(index, layer)
        elif layer.type == "dense":
            self.dense(index, layer)
        elif layer.type == "residual":
            self.residual(index, layer)
        elif layer.type == "avgpool":
            self.needs_image("avgpool", index)
            if min(self.height, self.width) < layer.kernel:
                raise RecipeError(
                    f"model.layers.{index}: avgpool kernel {layer.kernel} exceeds the image {self.height}x{self.width}"
                )
            self.add("pool", AvgPool2d(layer.kernel))
            self.height, self.width = self.height // layer.kernel, self.width // layer.kernel
        elif layer.type == "maxpool":
            self.needs_image("maxpool", index)
            if not next(reversed(self.layers), "").startswith("lif"):
                raise RecipeError(
                    f"model.layers.{index}: maxpool is over spikes; put it right after a layer with neuron = true"
                )
            stride = layer.kernel if layer.stride is None else layer.stride
            if 2 * layer.padding > layer.kernel:
                raise RecipeError(
                    f"model.layers.{index}: maxpool padding {layer.padding} exceeds half of its kernel {layer.kernel}"
                )
            self.resize(index, layer.kernel, stride, layer.padding)
            self.add("pool", MaxPool2d(layer.kernel, stride, layer.padding))
        elif layer.type == "globalavgpool":
            self.needs_image("globalavgpool", index)
            self.add("pool", GlobalAvgPool())
            self.features = self.channels
        elif layer.type == "flatten":
            self.needs_image("flatten", index)
            self.add("flatten", Flatten())
            self.features = self.channels * self.height * self.width
        else:
            self.add("dropout", Dropout(layer.p))


def build(
    spec: ModelSpec,
    input_shape: tuple[int, int, int],
    classes: int,
    *,
    max_value: int = 255,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    seed: int = 0,
) -> SpikingNetwork:
    """Build the network of `spec` for images (C, H, W) with values 0..max_value.

    `mean` and `std` (one a channel, in units of image / max_value) belong to direct coding; 0 and 1 if not
    given. `seed` starts the Poisson encoder.

    Raises:
        RecipeError: shapes do not fit, named by layer.
    """
    builder = _Builder(spec, input_shape, classes)
    for index, layer in enumerate(spec.layers):
        builder.layer(index, layer)
    encoder: DirectInput | PoissonInput | EventInput
    if spec.coding == "direct":
        encoder = DirectInput(
            spec.timesteps,
            max_value,
            [0.0] * input_shape[0] if mean is None else mean,
            [1.0] * input_shape[0] if std is None else std,
            whole=spec.integers,
        )
    elif spec.coding == "events":
        encoder = EventInput(spec.timesteps, max_value)
    else:
        encoder = PoissonInput(spec.timesteps, max_value, seed)
    readout = MembraneReadout() if spec.readout == "membrane" else SpikeCountReadout()
    return SpikingNetwork(encoder, nn.Sequential(builder.layers), readout, input_shape)
