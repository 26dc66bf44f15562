"""Networks as users of torch write them: its own layers, our neurons, a forward function."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from snn2chip.nn import LIF, DirectInput, MembraneReadout, SpikingNetwork, TDBatchNorm

PIXELS = torch.randint(0, 256, (30, 2, 8, 8), generator=torch.Generator().manual_seed(5), dtype=torch.uint8)


def network_of(body: nn.Module, timesteps: int = 3, shape: tuple[int, int, int] = (2, 8, 8), **other: Any) -> Any:
    """A network with statistics as training leaves them, in eval mode."""
    encoder = DirectInput(timesteps, 255, [0.4] * shape[0], [0.3] * shape[0])
    network = SpikingNetwork(encoder, body, other.get("readout", MembraneReadout()), shape)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, TDBatchNorm)) and module.running_mean is not None:
            for value in (module.weight.data, module.running_var):
                value.copy_(0.5 + torch.rand(value.shape, generator=generator))
            for value in (module.bias.data, module.running_mean):
                value.copy_(torch.rand(value.shape, generator=generator) - 0.5)
    return network.eval()


class Plain(nn.Module):
    """What a user of torch writes."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.conv1, self.bn1, self.lif1 = nn.Conv2d(2, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), LIF(0.5, 0.4)
        self.conv2, self.bn2, self.lif2 = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6), LIF(0.25, 0.3)
        self.pool, self.drop, self.flat = nn.AvgPool2d(2), nn.Dropout(0.3), nn.Flatten()
        self.gap = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(6 if way in ("mean", "gap") else 6 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.lif1(self.bn1(self.conv1(x)))
        x = x + self.lif2(self.bn2(self.conv2(x)))
        if self.way in ("mean", "gap"):
            x = x.mean((2, 3)) if self.way == "mean" else self.gap(x).flatten(1)
        else:
            x = self.drop(self.pool(x))
            x = {
                "module": lambda: self.flat(x),
                "flatten": lambda: torch.flatten(x, 1),
                "view": lambda: x.view(x.size(0), -1),
                "reshape": lambda: x.reshape(x.shape[0], 6 * 4 * 4),
                "dropout": lambda: F.dropout(x, 0.5, self.training).flatten(1),
            }[self.way]()
        return self.fc(x)


class Steps(nn.Module):
    """A network of torch's layers and our neurons that takes all steps itself."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.conv, self.lif, self.fc = nn.Conv2d(2, 4, 3), LIF(0.5, 0.2), nn.Linear(144, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x.flatten(0, 1))
        spikes: Tensor = self.lif(y.view(*x.shape[:2], *y.shape[1:]))
        return self.fc(spikes.flatten(2)).mean(0)  # type: ignore[no-any-return]
