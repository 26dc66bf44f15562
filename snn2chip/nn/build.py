"""From a recipe's model table to a trainable network with named layers."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn

from snn2chip.errors import RecipeError
from snn2chip.nn.coding import DirectInput, MembraneReadout, PoissonInput, SpikeCountReadout
from snn2chip.nn.layers import AvgPool2d, Conv2d, Dropout, Flatten, GlobalAvgPool, Linear
from snn2chip.nn.neuron import LIF
from snn2chip.nn.norm import TDBatchNorm

if TYPE_CHECKING:
    from snn2chip.recipe import ModelSpec


class SpikingNetwork(nn.Module):
    """Encoder, body and readout: images (N, C, H, W) in, class scores (N, K) out.

    `body` is an `nn.Sequential` of named multi-step layers; their names (conv1, norm1, lif1, ...) are the
    names that every later stage reports. `input_shape` is (C, H, W).
    """

    def __init__(
        self,
        encoder: DirectInput | PoissonInput,
        body: nn.Sequential,
        readout: MembraneReadout | SpikeCountReadout,
        input_shape: tuple[int, int, int],
    ) -> None:
        super().__init__()
        self.encoder, self.body, self.readout = encoder, body, readout
        self.input_shape = input_shape

    @property
    def timesteps(self) -> int:
        """Time steps T of one sample."""
        return self.encoder.timesteps

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.readout(self.body(self.encoder(images)))
        return scores


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
    channels, height, width = input_shape
    features: int | None = None  # set once the tensor is flat
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    counts: Counter[str] = Counter()
    neuron = spec.neuron

    def add(kind: str, module: nn.Module) -> str:
        counts[kind] += 1
        name = f"{kind}{counts[kind]}"
        layers[name] = module
        return name

    def lif() -> LIF:
        return LIF(
            neuron.tau,
            neuron.threshold,
            surrogate=neuron.surrogate,
            width=neuron.width,
            trainable_tau=neuron.trainable_tau,
            trainable_threshold=neuron.trainable_threshold,
            detach_reset=neuron.detach_reset,
        )

    def needs_image(kind: str, index: int) -> None:
        if features is not None:
            raise RecipeError(f"model.layers.{index}: {kind} needs an image, but the layers before it flattened it")

    for index, layer in enumerate(spec.layers):
        if layer.type == "conv":
            needs_image("conv", index)
            groups = channels if layer.depthwise else layer.groups
            out = layer.channels if layer.channels is not None else channels
            padding = layer.kernel // 2 if layer.padding is None else layer.padding
            if channels % groups or out % groups:
                raise RecipeError(
                    f"model.layers.{index}: groups {groups} divides neither {channels} input nor {out} output "
                    f"channels; choose a common divisor"
                )
            reach = layer.dilation * (layer.kernel - 1) + 1
            height, width = (
                (side + 2 * padding - reach) // layer.stride + 1 if side + 2 * padding >= reach else 0
                for side in (height, width)
            )
            if min(height, width) < 1:
                raise RecipeError(
                    f"model.layers.{index}: kernel {layer.kernel} does not fit the image that reaches it; "
                    f"use a smaller kernel, more padding or fewer strides"
                )
            add(
                "conv",
                Conv2d(channels, out, layer.kernel, layer.stride, padding, layer.dilation, groups, bias=layer.bias),
            )
            channels = out
            if layer.norm == "tdbn":
                add("norm", TDBatchNorm(channels, threshold=neuron.threshold))
            if layer.neuron:
                add("lif", lif())
        elif layer.type == "dense":
            if features is None:
                if height * width != 1:
                    raise RecipeError(
                        f"model.layers.{index}: dense needs features, but an image {channels}x{height}x{width} "
                        f"reaches it; put {{type = 'flatten'}} before it"
                    )
                add("flatten", Flatten())
                features = channels
            out = classes if layer.features == "classes" else layer.features
            add("dense", Linear(features, out, bias=layer.bias))
            features = out
            if layer.norm == "tdbn":
                add("norm", TDBatchNorm(features, threshold=neuron.threshold))
            if layer.neuron:
                add("lif", lif())
        elif layer.type == "avgpool":
            needs_image("avgpool", index)
            if min(height, width) < layer.kernel:
                raise RecipeError(
                    f"model.layers.{index}: avgpool kernel {layer.kernel} exceeds the image {height}x{width}"
                )
            add("pool", AvgPool2d(layer.kernel))
            height, width = height // layer.kernel, width // layer.kernel
        elif layer.type == "globalavgpool":
            needs_image("globalavgpool", index)
            add("pool", GlobalAvgPool())
            features = channels
        elif layer.type == "flatten":
            needs_image("flatten", index)
            add("flatten", Flatten())
            features = channels * height * width
        else:
            add("dropout", Dropout(layer.p))

    encoder: DirectInput | PoissonInput
    if spec.coding == "direct":
        encoder = DirectInput(
            spec.timesteps,
            max_value,
            [0.0] * input_shape[0] if mean is None else mean,
            [1.0] * input_shape[0] if std is None else std,
        )
    else:
        encoder = PoissonInput(spec.timesteps, max_value, seed)
    readout = MembraneReadout() if spec.readout == "membrane" else SpikeCountReadout()
    return SpikingNetwork(encoder, nn.Sequential(layers), readout, input_shape)
