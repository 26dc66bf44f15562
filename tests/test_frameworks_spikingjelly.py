"""SpikingJelly's modules against their own forward functions; where the package is (see tests/test_frameworks.py)."""

from __future__ import annotations

import sys
import types
import warnings
from typing import Any

import pytest
import torch
from frameworks_held import SHAPE, held, lively
from torch import nn

import snn2chip
from snn2chip import ir
from snn2chip.errors import UnsupportedError
from snn2chip.passes.adapt import adapt, frames, pixels

pytest.importorskip("spikingjelly", reason="SpikingJelly is not installed here; tests/test_frameworks.py runs these")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from spikingjelly.activation_based import functional, layer, neuron

pytestmark = pytest.mark.filterwarnings("ignore")
NEURONS: dict[str, Any] = {
    "if": lambda: neuron.IFNode(),
    "if-reset": lambda: neuron.IFNode(v_threshold=0.6, v_reset=-0.25),
    "lif": lambda: neuron.LIFNode(tau=2.0, v_threshold=0.5),
    "lif-reset": lambda: neuron.LIFNode(tau=3.0, decay_input=True, v_threshold=0.4, v_reset=-0.1),
    "lif-undecayed": lambda: neuron.LIFNode(tau=2.5, decay_input=False, v_reset=0.0),
    "plif": lambda: neuron.ParametricLIFNode(init_tau=2.3, v_threshold=0.5),
    "plif-undecayed": lambda: neuron.ParametricLIFNode(init_tau=1.7, decay_input=False),
}


def vgg(make: Any, mode: str) -> nn.Module:
    """Its own layers, pools of spikes and of averages, dropout."""
    torch.manual_seed(0)
    made = nn.Sequential(
        *(layer.Conv2d(3, 8, 3, padding=1, bias=False), layer.BatchNorm2d(8), make(), layer.MaxPool2d(2)),
        *(layer.Conv2d(8, 8, 3, padding=1, bias=False), layer.BatchNorm2d(8), make(), layer.AvgPool2d(2)),
        *(layer.Flatten(), layer.Dropout(0.5), layer.Linear(8 * 16, 10)),
    )
    functional.set_step_mode(made, mode)
    return lively(made)


@pytest.mark.parametrize("mode", ["m", "s"])
@pytest.mark.parametrize("kind", NEURONS)
def test_every_neuron_in_either_mode(kind: str, mode: str) -> None:
    """Leak, input, threshold and reset of each, and that it fires at its threshold already."""
    found = held(vgg(NEURONS[kind], mode), pixels(SHAPE, 255, [0.5], [0.25]), 4)
    assert found.takes == ("steps" if mode == "m" else "step")
    assert all(node.ties for node in found.captured.of(ir.LIF))


def test_frames_of_events() -> None:
    """The sample's own steps, a call each or all at once."""
    for mode in "ms":
        held(vgg(NEURONS["lif"], mode), frames(SHAPE, 1), 4)


@pytest.mark.parametrize("mode", ["m", "s"])
def test_rows(mode: str) -> None:
    """Its layers of one side."""
    torch.manual_seed(0)
    first = (layer.Conv1d(2, 6, 5, padding=2), layer.BatchNorm1d(6), neuron.LIFNode(v_threshold=0.5))
    pools = (layer.MaxPool1d(2), layer.Conv1d(6, 6, 3), layer.AvgPool1d(2), neuron.IFNode(v_threshold=0.3))
    network = nn.Sequential(*first, *pools, layer.Flatten(), layer.Linear(24, 5))
    functional.set_step_mode(network, mode)
    found = held(lively(network), pixels((2, 1, 20), 255, [0.5], [0.25]), 4)
    assert found.takes == ("steps" if mode == "m" else "step")


class Repeats(nn.Module):
    """As the package's tutorials have it: stateless layers once, the rest over T repeats, the mean of its spikes."""

    def __init__(self, steps: int = 4) -> None:
        super().__init__()
        self.steps = steps
        torch.manual_seed(1)
        self.static = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8))
        self.rest = nn.Sequential(
            *(neuron.IFNode(), layer.SeqToANNContainer(nn.Conv2d(8, 8, 3, 2, 1), nn.BatchNorm2d(8)), neuron.LIFNode()),
            *(layer.MultiStepContainer(nn.Flatten(), nn.Linear(512, 10)), neuron.LIFNode(v_threshold=0.1)),
        )
        functional.set_step_mode(self.rest[0], "m")
        functional.set_step_mode(self.rest[2], "m")
        functional.set_step_mode(self.rest[4], "m")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.rest(self.static(x).unsqueeze(0).repeat(self.steps, 1, 1, 1, 1)).mean(0)  # type: ignore[no-any-return]


def test_a_module_that_repeats_its_input() -> None:
    """It takes an image; another T than its own is refused."""
    found = held(lively(Repeats()), pixels(SHAPE, 255, [0.5], [0.25]), 4)
    assert found.takes == "image" and found.captured.readout.kind == "spike_count"
    assert held(lively(Repeats(1)), pixels(SHAPE, 255, [0.5], [0.25]), 1).takes == "image"
    with pytest.raises(UnsupportedError, match=r"'repeat' of 'static\.1'.* If it runs for another number of steps"):
        adapt(Repeats(), pixels(SHAPE, 255, [0.5], [0.25]), 6)


@pytest.mark.parametrize(
    "name", ["ThresholdDependentBatchNorm2d", "BatchNormThroughTime2d", "TemporalEffectiveBatchNorm2d"]
)
def test_normalizations(name: str) -> None:
    """tdBN's gain is in its weight; those of every step are tables."""
    if not hasattr(layer, name) or (name.startswith("Threshold") and not hasattr(layer, "BatchNormThroughTime2d")):
        pytest.skip(f"this SpikingJelly has no working {name}")
    first = (1.0, 0.5, 8) if name.startswith("Threshold") else (4, 8)
    norms = [getattr(layer, name)(*first) for _ in range(2)]
    torch.manual_seed(2)
    made = nn.Sequential(
        *(layer.Conv2d(3, 8, 3, padding=1, bias=False), norms[0], neuron.LIFNode(tau=2.0)),
        *(layer.Conv2d(8, 8, 3, 2, 1, bias=False), norms[1], neuron.LIFNode(tau=3.0, decay_input=False)),
        *(layer.Flatten(), layer.Linear(512, 10)),
    )
    functional.set_step_mode(made, "m")
    lively(made)
    for norm in norms:
        if hasattr(norm, "scale") and isinstance(norm.scale, nn.Parameter):
            norm.scale.data = torch.tensor([0.6, 1.3, 0.9, 1.1])
    held(made, pixels(SHAPE, 255, [0.5], [0.25]), 4)


@pytest.mark.parametrize("kind", ["spiking_resnet18", "sew_resnet18"])
def test_the_packages_own_resnets(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Residual currents that meet before a neuron, and SEW's spikes that meet after it, in place."""
    parts = {name: types.ModuleType(name) for name in ("torchvision", "torchvision._internally_replaced_utils")}
    parts["torchvision._internally_replaced_utils"].load_state_dict_from_url = None  # type: ignore[attr-defined]
    for name, part in parts.items():  # its zoo downloads weights by torchvision, which nothing here needs
        monkeypatch.setitem(sys.modules, name, part)
    zoo = pytest.importorskip(f"spikingjelly.activation_based.model.{kind[:-2]}")
    torch.manual_seed(3)
    made = getattr(zoo, kind)(
        spiking_neuron=neuron.IFNode, num_classes=10, **({"cnf": "ADD"} if kind.startswith("sew") else {})
    )
    functional.set_step_mode(made, "m")
    held(lively(made), pixels((3, 32, 32), 255, [0.5], [0.25]), 2, samples=2)


class Louder(neuron.LIFNode):  # type: ignore[misc]
    """A neuron of the user's."""

    def single_step_forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().single_step_forward(2 * x)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: neuron.LIFNode(v_reset=None), "layer '1': LIFNode with v_reset None resets by subtraction.*v_reset=0"),
        (Louder, "layer '1': Louder is not a neuron of the chip's; use IFNode, LIFNode or ParametricLIFNode"),
        (lambda: neuron.QIFNode(), "layer '1': QIFNode is not a neuron of the chip's"),
        (lambda: neuron.LIFNode(v_threshold=-1.0), "layer '1': LIFNode with v_threshold -1 above v_reset"),
        (lambda: layer.NeuNorm(4, 14, 14, k=0.9), "layer '1': NeuNorm cannot be exported"),
    ],
)
def test_what_no_chip_has_is_named(make: Any, message: str) -> None:
    """By layer, with what would work."""
    made = nn.Sequential(nn.Conv2d(3, 4, 3), make(), nn.Flatten(), nn.Linear(4 * 14 * 14, 3))
    with pytest.raises(UnsupportedError, match=message):
        adapt(made, pixels(SHAPE, 255, [0.5], [0.25]), 4)


def test_a_reset_by_subtraction() -> None:
    """Refused with numbers; taken as a reset to zero if asked for, which the ladder then holds."""
    pictures = torch.randint(0, 256, (20, *SHAPE), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    network = vgg(lambda: neuron.LIFNode(tau=2.0, v_threshold=0.3, v_reset=None), "m")
    with pytest.raises(UnsupportedError, match=r"reset by subtraction, .* decisions \(.*soft_reset='hard'"):
        snn2chip.deploy(network, pictures, timesteps=4, mean=0.5, std=0.25)
    deployed = snn2chip.deploy(network, pictures, timesteps=4, mean=0.5, std=0.25, soft_reset="hard")
    (said,) = [note for note in deployed.notes if "subtraction" in note]
    assert " 0.00% of its steps" not in said
    assert deployed.verify(samples=4).passed
    assert all(module.v_reset is None for module in network.modules() if isinstance(module, neuron.LIFNode))
