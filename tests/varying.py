"""Networks with BNTT for tests of the time-varying neuron, and their way to the chip."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from branching import LOIHI, Stages, inputs
from conftest import tiny_recipe
from helpers import images_for, spiking_network
from torch import nn

from snn2chip import ir
from snn2chip.errors import InputError
from snn2chip.ir.encode import encoder_of
from snn2chip.nn import (
    BNTT,
    LIF,
    AvgPool2d,
    Conv2d,
    Flatten,
    Linear,
    MaxPool2d,
    Residual,
    SpikingNetwork,
    TDBatchNorm,
    model_file,
)
from snn2chip.passes.capture import capture
from snn2chip.passes.fold import fold
from snn2chip.passes.lower import lower
from snn2chip.passes.quantize import quantize
from snn2chip.passes.schedule import Relays, schedule

Named = list[tuple[str, nn.Module]]


def randomize(network: SpikingNetwork, seed: int, *, decades: float = 3.0, var_decades: float = 1.0) -> SpikingNetwork:
    """Random weights of the size of 1 / sqrt(fan-in), and for every BNTT gamma and variances over decades; float64."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(like: torch.Tensor, most: float) -> torch.Tensor:
        return most * (2 * torch.rand(like.shape, generator=generator, dtype=torch.float64) - 1)

    network.double()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, (Conv2d, Linear)):
                module.weight.copy_(uniform(module.weight, 2 / math.sqrt(module.weight[0].numel())))
                if module.bias is not None:
                    module.bias.copy_(uniform(module.bias, 0.5))
            elif isinstance(module, BNTT):
                module.log_weight.copy_(uniform(module.log_weight, decades * math.log(10)))
                module.running_mean.copy_(uniform(module.running_mean, 0.5))
                module.running_var.copy_(10 ** uniform(module.running_var, var_decades))
            elif isinstance(module, TDBatchNorm):
                module.weight.copy_(1 + uniform(module.weight, 0.5))
                module.bias.copy_(uniform(module.bias, 0.3))
                module.running_mean.copy_(uniform(module.running_mean, 0.3))
                module.running_var.copy_(10 ** uniform(module.running_var, 0.3))
    return network.eval()


def plain(timesteps: int = 4, *, size: int = 6, seed: int = 0, decades: float = 0.3, **options: str) -> SpikingNetwork:
    """conv1-norm1-lif1, pool, conv2-norm2-lif2, flatten, dense1-norm3-lif3, dense2; gentle gammas. All norms BNTT."""
    layers: Named = [
        ("conv1", Conv2d(2, 4, 3, padding=1)),
        ("norm1", BNTT(4, timesteps)),
        ("lif1", LIF(0.5, 0.5)),
        ("pool", AvgPool2d(2)),
        ("conv2", Conv2d(4, 4, 3, padding=1, groups=2, bias=False)),
        ("norm2", BNTT(4, timesteps)),
        ("lif2", LIF(0.9, 0.7)),
        ("flatten", Flatten()),
        ("dense1", Linear(4 * (size // 2) ** 2, 8)),
        ("norm3", BNTT(8, timesteps)),
        ("lif3", LIF(1.0, 0.5)),
        ("dense2", Linear(8, 3)),
    ]
    if options.get("readout") == "spike_count":
        layers.append(("lif4", LIF(0.5, 0.2)))
    made = spiking_network(layers, (2, size, size), timesteps=timesteps, **options)  # type: ignore[arg-type]
    return randomize(made, seed, decades=decades, var_decades=0.3)


def export(network: SpikingNetwork, calibration: ir.IntArray | None = None) -> Stages:
    """All stages on loihi2."""
    folded, _ = fold(capture(network))
    plan = schedule(folded, LOIHI)
    quantized, _ = quantize(folded, LOIHI, plan, calibration=calibration)
    return Stages(folded, plan, quantized, *lower(quantized, LOIHI, plan))


def raw_for(network: SpikingNetwork, count: int, seed: int = 0) -> ir.IntArray:
    """What the encoder makes of random images, (N, T, C, H, W)."""
    return encoder_of(capture(network), seed)(images_for(network, count, seed))


def as_tdbn(network: SpikingNetwork) -> SpikingNetwork:
    """The same network of one step with tdBN in the place of BNTT."""
    layers: Named = []
    for name, module in network.body.named_children():
        if isinstance(module, BNTT):
            norm = TDBatchNorm(module.channels, threshold=1.0, eps=module.eps).double()
            norm.weight.data, norm.running_mean, norm.running_var = (
                value[0].detach().clone() for value in (module.weight, module.running_mean, module.running_var)
            )
            layers.append((name, norm))
        else:
            layers.append((name, module))
    return spiking_network(layers, network.input_shape, timesteps=1).double().eval()


def message(run: Callable[[], object], kind: type[Exception] = InputError) -> str:
    """What a refusal says; one line."""
    with pytest.raises(kind) as caught:
        run()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def lowered(network: SpikingNetwork, relays: Relays, bits: int = 8, calibrated: bool = False) -> Stages:
    profile = LOIHI.with_weight_bits(bits)
    captured = capture(network)
    folded, _ = fold(captured)
    plan = schedule(folded, profile, relays)
    raw = inputs(captured, 3, 0) if calibrated else None
    quantized, _ = quantize(folded, profile, plan, calibration=raw)
    stages = Stages(folded, plan, quantized, *lower(quantized, profile, plan))
    for item in stages.report.placed:  # a relay beside tables keeps nothing, and any spike is above its threshold
        layer = next(layer for layer in stages.chain.layers if layer.name == item.layer)
        if item.relay is not None and layer.steps is not None:
            rows = slice(item.start, item.stop)
            assert not any(
                table[:, rows].any() for table in (layer.steps.leak, layer.steps.bias, layer.steps.threshold)
            )
            assert not layer.bias[rows].any() and layer.weight[rows].reshape(item.stop - item.start, -1).min() >= 0
        assert np.abs(layer.weight).max() <= (profile.weight_max if layer.steps is None else profile.weight_odd_max)
    return stages


def residual(seed: int, *, coding: str = "direct", timesteps: int = 4) -> SpikingNetwork:
    """Three blocks with one BNTT after each add: identity, pooled and strided shortcut; max pooling, tdBN inside."""

    def conv(inputs: int, outputs: int, stride: int = 1, kernel: int = 3) -> Conv2d:
        return Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)

    def block(inputs: int, outputs: int, stride: int, *shortcut: nn.Module) -> Residual:
        middle = [BNTT(outputs, timesteps)] if stride == 1 else [TDBatchNorm(outputs)]
        branch = [conv(inputs, outputs, stride), *middle, LIF(0.5, 0.5), conv(outputs, outputs)]
        return Residual(nn.Sequential(*branch), nn.Sequential(*shortcut))

    network = spiking_network(
        [
            ("conv1", conv(2, 3)),
            ("norm1", BNTT(3, timesteps)),
            ("lif1", LIF(0.5, 0.5)),
            ("max", MaxPool2d(2, 1)),
            ("block1", block(3, 3, 1)),
            ("norm2", BNTT(3, timesteps)),
            ("lif2", LIF(0.8, 0.5)),
            ("block2", block(3, 4, 2, AvgPool2d(2), conv(3, 4, kernel=1))),
            ("norm3", BNTT(4, timesteps)),
            ("lif3", LIF(1.0, 0.5)),
            ("block3", block(4, 5, 2, conv(4, 5, 2, 1), TDBatchNorm(5))),
            ("norm4", BNTT(5, timesteps)),
            ("lif4", LIF(0.5, 0.5)),
            ("flatten", Flatten()),
            ("dense", Linear(20, 3)),
        ],
        (2, 9, 9),
        timesteps=timesteps,
        coding=coding,
    )
    return randomize(network, seed, decades=0.2, var_decades=0.2)


def digits_model(path: Path, timesteps: int) -> Path:
    """model.pt of a small network on digits, random but alive, as `snn2chip train` writes it."""
    recipe = tiny_recipe(
        model__timesteps=timesteps,
        model__layers=[
            {"type": "conv", "channels": 4, "stride": 2, "norm": "bntt", "bias": True},
            {"type": "flatten"},
            {"type": "dense", "features": 10, "norm": "bntt"},
            {"type": "dense", "features": "classes", "neuron": False},
        ],
    )
    network = model_file.build_network(recipe, (1, 8, 8), 10, 16, [0.3], [0.4])
    randomize(network, 5, decades=0.3, var_decades=0.3)
    network.float()
    model_file.save(path, network, recipe, max_value=16, classes=[str(n) for n in range(10)], metrics={})
    return path
