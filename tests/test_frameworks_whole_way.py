"""From a framework's module through Lava by two calls, one network of every kind; where the packages are (see
tests/test_frameworks.py)."""

from __future__ import annotations

import functools
import sys
import types
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import snn2chip
from snn2chip.backends import lava
from snn2chip.data import load
from snn2chip.nn import LIF

UNUSED = {  # what the packages import for models and data that nothing here needs
    "lava.lib.dl.slayer.object_detection": {},
    "torchvision": {},
    "torchvision._internally_replaced_utils": {"load_state_dict_from_url": None},
}
with pytest.MonkeyPatch.context() as patched, warnings.catch_warnings():
    warnings.simplefilter("ignore")
    for name, contents in UNUSED.items():
        if name not in sys.modules:
            patched.setitem(sys.modules, name, types.ModuleType(name))
            vars(sys.modules[name]).update(contents)
    missing = "is not installed here; tests/test_frameworks.py runs these"
    zoo = pytest.importorskip("spikingjelly.activation_based.model.spiking_resnet", reason=f"SpikingJelly {missing}")
    snn = pytest.importorskip("snntorch", reason=f"snnTorch {missing}")
    slayer = pytest.importorskip("lava.lib.dl.slayer", reason=f"lava-dl {missing}")
    from spikingjelly.activation_based import functional, layer, neuron

pytestmark = pytest.mark.filterwarnings("ignore")
STEPS, TRAIN = 4, load("digits", "train")
Made = tuple[nn.Module, Callable[[Tensor], Tensor]]  # a network, and its scores (N, K) of images


def over_time(images: Tensor) -> Tensor:
    """An image at every step, 0 to 1: (T, N, C, H, W)."""
    return (images / 16).expand(STEPS, *images.shape)


def jelly(network: nn.Module) -> Made:
    """A network of SpikingJelly's that takes all steps at once, and its scores of images."""
    functional.set_step_mode(network, "m")

    def scores(images: Tensor) -> Tensor:
        functional.reset_net(network)
        return network(over_time(images)).mean(0)  # type: ignore[no-any-return]

    return network, scores


def resnet() -> Made:
    """Its zoo's ResNet of basic blocks, tdBN throughout."""
    if not hasattr(layer, "BatchNormThroughTime2d"):
        pytest.skip("this SpikingJelly has no working tdBN")
    norm = functools.partial(layer.ThresholdDependentBatchNorm2d, 1.0, 0.5)
    made = zoo.SpikingResNet(
        zoo.BasicBlock, [1, 1, 1, 1], num_classes=10, norm_layer=norm, spiking_neuron=neuron.LIFNode, v_threshold=0.5
    )
    made.conv1 = layer.Conv2d(1, 64, 3, padding=1, bias=False)  # digits have one channel
    return jelly(made)


def vgg() -> Made:
    neurons = functools.partial(neuron.LIFNode, tau=2.0, decay_input=True, v_threshold=0.5, v_reset=0.0)
    return jelly(
        nn.Sequential(
            *(layer.Conv2d(1, 16, 3, padding=1, bias=False), layer.BatchNorm2d(16), neurons(), layer.MaxPool2d(2)),
            *(layer.Conv2d(16, 24, 3, padding=1, bias=False), layer.BatchNorm2d(24), neurons(), layer.AvgPool2d(2)),
            *(layer.Flatten(), layer.Linear(96, 10)),
        )
    )


def bntt() -> Made:
    if not hasattr(layer, "BatchNormThroughTime2d"):
        pytest.skip("this SpikingJelly has no BNTT")
    return jelly(
        nn.Sequential(
            layer.Conv2d(1, 12, 3, padding=1, bias=False),
            *(layer.BatchNormThroughTime2d(STEPS, 12), neuron.LIFNode(tau=2.0, v_threshold=0.5)),
            *(layer.Conv2d(12, 16, 3, 2, 1, bias=False), layer.BatchNormThroughTime2d(STEPS, 16), neuron.LIFNode()),
            *(layer.Flatten(), layer.Linear(256, 10)),
        )
    )


class Snn(nn.Module):
    """snnTorch's loop over steps, resets to zero."""

    def __init__(self) -> None:
        super().__init__()
        kept = {"beta": 0.8, "threshold": 0.5, "reset_mechanism": "zero"}
        self.conv1, self.lif1, self.pool = nn.Conv2d(1, 12, 3, padding=1), snn.Leaky(**kept), nn.MaxPool2d(2)
        self.conv2, self.lif2, self.fc = nn.Conv2d(12, 16, 3), snn.Leaky(**kept), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        first, second, outputs = self.lif1.init_leaky(), self.lif2.init_leaky(), []
        for _ in range(STEPS):
            spikes, first = self.lif1(self.conv1(x), first)
            spikes, second = self.lif2(self.conv2(self.pool(spikes)), second)
            outputs.append(self.fc(spikes.flatten(1)))
        return torch.stack(outputs)


def snntorch() -> Made:
    made = Snn()
    return made, lambda images: made(images / 16).mean(0)


class Plain(nn.Module):
    """torch's own layers, which take steps and samples in one axis, and our neurons between them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1, self.lif1 = nn.Conv2d(1, 12, 3, padding=1), nn.BatchNorm2d(12), LIF(0.5, 0.5)
        self.conv2, self.norm2, self.lif2 = nn.Conv2d(12, 16, 3, 2), nn.BatchNorm2d(16), LIF(0.25, 0.5)
        self.fc = nn.Linear(16 * 9, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = self.lif1(self.norm1(self.conv1(x.flatten(0, 1))).unflatten(0, x.shape[:2]))
        y = self.lif2(self.norm2(self.conv2(y.flatten(0, 1))).unflatten(0, x.shape[:2]))
        return self.fc(y.flatten(2)).mean(0)  # type: ignore[no-any-return]


def plain() -> Made:
    made = Plain()
    return made, lambda images: made(over_time(images))


class Blocks(nn.Module):
    """slayer's CUBA blocks as their tutorials list them, spikes time last."""

    def __init__(self) -> None:
        super().__init__()
        neurons = {"threshold": 0.5, "current_decay": 0.5, "voltage_decay": 0.1}
        self.blocks = nn.ModuleList(
            [
                slayer.block.cuba.Conv(neurons, 1, 12, 3, padding=1, weight_scale=2, weight_norm=True),
                slayer.block.cuba.Conv(neurons, 12, 12, 3, stride=2, weight_scale=3, weight_norm=True),
                slayer.block.cuba.Flatten(),
                slayer.block.cuba.Dense(neurons, 108, 10, weight_scale=3, weight_norm=True),
            ]
        )

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


def cuba() -> Made:
    made = Blocks()
    return made, lambda images: 10 * made(frames_of(images).movedim(1, -1)).mean(-1)


def frames_of(images: Tensor) -> Tensor:
    """Spikes (N, T, C, H, W) of a digit, a step for every third of its grey levels."""
    return torch.stack([(images >= level).float() for level in (4, 8, 12, 8, 4, 8, 12, 4)], dim=1)


NETWORKS: dict[str, Callable[[], Made]] = {
    "spikingjelly-tdbn-resnet": resnet,
    "spikingjelly-vgg": vgg,
    "spikingjelly-bntt": bntt,
    "snntorch-conv": snntorch,
    "torch": plain,
    "slayer-cuba": cuba,
}


@pytest.mark.lava
@pytest.mark.parametrize("kind", NETWORKS)
def test_from_the_module_through_lava(lava_environment: lava.Environment, kind: str) -> None:
    """Trained a little; then two calls, every rung holds, and it decides as the framework does."""
    torch.manual_seed(0)
    network, scores = NETWORKS[kind]()
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for rows in torch.randperm(2 * len(TRAIN)).remainder(len(TRAIN)).split(64)[:40]:
        optimizer.zero_grad()
        nn.functional.cross_entropy(scores(TRAIN.images[rows]), TRAIN.labels[rows]).backward()
        optimizer.step()
    network.eval()
    some = TRAIN.images[:64]
    images = {"timesteps": STEPS, "max_value": 16}

    deployed = snn2chip.deploy(
        network, frames_of(some) if kind == "slayer-cuba" else some, **({} if kind == "slayer-cuba" else images)
    )
    verdict = deployed.verify(samples=2, lava=True)

    rungs = {rung.name: rung for rung in verdict.rungs}
    assert rungs["dense = Lava"].passed and rungs["dense = Lava"].compared > 0
    assert all(rung.mismatches == 0 for rung in verdict.rungs if "~" not in rung.name)
    with torch.no_grad():
        wanted = scores(some).argmax(1).numpy()
    raw = frames_of(some) if kind == "slayer-cuba" else some
    assert (deployed.simulate(raw).trace.scores.argmax(1) == wanted).mean() > 0.8
