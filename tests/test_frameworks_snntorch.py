"""snnTorch's modules against their own forward functions; where the package is (see tests/test_frameworks.py)."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from frameworks_held import held, lively
from torch import nn

import snn2chip
from snn2chip import ir
from snn2chip.errors import UnsupportedError
from snn2chip.passes.adapt import adapt, frames, pixels

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    snn = pytest.importorskip("snntorch", reason="snnTorch is not installed here; tests/test_frameworks.py runs these")
pytestmark = pytest.mark.filterwarnings("ignore")
SHAPE = (2, 10, 10)
ZERO: dict[str, Any] = {"reset_mechanism": "zero"}
KINDS: dict[str, tuple[float, ...]] = {"Leaky": (0.8, 0.4), "Synaptic": (0.3, 0.8, 0.4)}


class Loop(nn.Module):
    """As the package's tutorials have it: a loop over steps that hands the membranes on, spikes and membranes out."""

    def __init__(self, steps: int = 5, **options: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.steps = steps
        self.conv1, self.bn1 = nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.lif1 = snn.Leaky(beta=0.8, **ZERO, **options)
        self.pool, self.conv2 = nn.MaxPool2d(2), nn.Conv2d(8, 8, 3)
        self.lif2 = snn.Leaky(beta=0.5, threshold=0.3, learn_beta=True, learn_threshold=True, **ZERO, **options)
        self.fc, self.lif3 = nn.Linear(72, 10), snn.Leaky(beta=0.9, threshold=0.2, **ZERO, **options)

    def step(self, x: torch.Tensor, held: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
        first, held[0] = self.lif1(self.bn1(self.conv1(x)), held[0])
        second, held[1] = self.lif2(self.conv2(self.pool(first)), held[1])
        last, held[2] = self.lif3(self.fc(second.view(x.size(0), -1)), held[2])
        return last, held[2]

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        held = [lif.init_leaky() for lif in (self.lif1, self.lif2, self.lif3)]
        both = [self.step(x, held) for _ in range(self.steps)]
        return torch.stack([spikes for spikes, _ in both]), torch.stack([membrane for _, membrane in both])


class Sequence(Loop):
    """Frames (T, N, ...) in, the mean of the last layer's currents out."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        held, total = [lif.init_leaky() for lif in (self.lif1, self.lif2)], 0
        for t in range(x.shape[0]):
            first, held[0] = self.lif1(self.bn1(self.conv1(x[t])), held[0])
            second, held[1] = self.lif2(self.conv2(self.pool(first)), held[1])
            total = total + self.fc(second.flatten(1))
        return total / x.shape[0]  # type: ignore[return-value]


@pytest.mark.parametrize("delay", [True, False])
def test_a_loop_over_steps(delay: bool) -> None:
    """Every spike; the membranes that it returns beside them are not what decides."""
    found = held(lively(Loop(reset_delay=delay)), pixels(SHAPE, 255, [0.5], [0.25]), 5)
    assert found.takes == "image" and found.captured.readout.kind == "spike_count"
    assert not any(node.ties for node in found.captured.of(ir.LIF))
    with pytest.raises(UnsupportedError, match="stacks 5 time steps, T is 4"):
        adapt(Loop(), pixels(SHAPE, 255, [0.5], [0.25]), 4)


def test_a_loop_over_frames() -> None:
    """Of events and of an image repeated; the readout is the sum of currents."""
    for given in (frames(SHAPE, 1), pixels(SHAPE, 255, [0.5], [0.25])):
        found = held(lively(Sequence()), given, 5)
        assert found.takes == "steps" and found.captured.readout.kind == "membrane"


@pytest.mark.parametrize("output", [True, False])
def test_neurons_that_keep_their_membrane(output: bool) -> None:
    """A Sequential that is called once a step."""
    torch.manual_seed(1)
    kept = {"init_hidden": True, **ZERO}
    first = (nn.Conv2d(2, 4, 3), snn.Leaky(beta=0.7, threshold=0.4, **kept), nn.Flatten(), nn.Linear(256, 10))
    network = nn.Sequential(*first, snn.Leaky(beta=1.5, threshold=0.2, output=output, **kept))
    found = held(network, pixels(SHAPE, 255, [0.5], [0.25]), 5)
    assert found.takes == "step" and found.captured.of(ir.LIF)[1].tau == 1.0  # beta is clamped


def test_rows() -> None:
    """Conv1d and its pooling, called once a step."""
    torch.manual_seed(2)
    kept = {"init_hidden": True, **ZERO}
    first = (nn.Conv1d(2, 6, 5, padding=2), nn.BatchNorm1d(6), snn.Leaky(beta=0.7, threshold=0.4, **kept))
    network = nn.Sequential(*first, nn.MaxPool1d(2), nn.Flatten(), nn.Linear(60, 5), snn.Leaky(0.9, 0.02, **kept))
    found = held(lively(network), pixels((2, 1, 20), 255, [0.5], [0.25]), 5)
    assert found.takes == "step" and found.captured.shape("2") == (6, 1, 20)


def test_a_threshold_a_channel() -> None:
    """The weights before take it in: one threshold in netx's file, of a convolution's channels and of features."""
    torch.manual_seed(3)
    kept = {"init_hidden": True, "reset_delay": False, **ZERO}
    levels, each = 0.1 + torch.rand(6, 1, 1), 0.05 + 0.2 * torch.rand(10)
    first = (nn.Conv2d(2, 6, 3), snn.Leaky(0.8, levels, **kept), nn.Flatten(), nn.Linear(384, 10))
    network = nn.Sequential(*first, snn.Synaptic(0.5, 0.7, each, learn_threshold=True, **kept), nn.Linear(10, 4))
    found = held(network, pixels(SHAPE, 255, [0.5], [0.25]), 5)
    assert [node.threshold for node in found.captured.of(ir.LIF)] == pytest.approx([float(levels[0]), float(each[0])])
    made = snn2chip.deploy(network, torch.randint(0, 256, (20, *SHAPE), dtype=torch.uint8), timesteps=5)
    assert made.chain.stock and made.verify(samples=4).passed


class ThroughTime(nn.Module):
    """A batch norm for every step, chosen by the loop's index."""

    def __init__(self, steps: int = 4, order: int = 1) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.order, self.steps = order, steps
        self.conv, self.bn1, self.lif1 = nn.Conv2d(2, 6, 3), snn.BatchNormTT2d(6, steps), snn.Leaky(0.8, 0.5, **ZERO)
        self.fc, self.bn2, self.lif2 = nn.Linear(384, 8), snn.BatchNormTT1d(8, steps), snn.Leaky(0.6, 0.3, **ZERO)
        self.out = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, second, outputs = self.lif1.init_leaky(), self.lif2.init_leaky(), []
        for t in range(self.steps):
            spikes, first = self.lif1(self.bn1[:: self.order][t](self.conv(x)), first)
            spikes, second = self.lif2(self.bn2[t](self.fc(spikes.flatten(1))), second)
            outputs.append(self.out(spikes))
        return torch.stack(outputs)


def test_a_batch_norm_for_every_step() -> None:
    """Tables of every step; lists of as many norms as there are steps that are of layers stay theirs."""
    found = held(lively(ThroughTime()), pixels(SHAPE, 255, [0.5], [0.25]), 4)
    assert [node.name for node in found.captured.of(ir.StepNorm)] == ["bn1", "bn2"]
    with pytest.raises(UnsupportedError, match="'lif1'"):
        adapt(lively(ThroughTime(order=-1)), pixels(SHAPE, 255, [0.5], [0.25]), 4)

    class Layers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(4)
            self.convs = nn.ModuleList([nn.Conv2d(2 if n == 0 else 4, 4, 3, padding=1) for n in range(3)])
            self.norms = nn.ModuleList([nn.BatchNorm2d(4) for _ in range(3)])
            self.lifs = nn.ModuleList([snn.Leaky(0.8, 0.4, init_hidden=True, **ZERO) for _ in range(3)])
            self.fc = nn.Linear(400, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for conv, norm, lif in zip(self.convs, self.norms, self.lifs, strict=True):
                x = lif(norm(conv(x)))
            return self.fc(x.flatten(1))  # type: ignore[no-any-return]

    assert len(held(lively(Layers()), pixels(SHAPE, 255, [0.5], [0.25]), 3).captured.of(ir.Norm)) == 3


def test_a_loop_that_is_not_in_the_network() -> None:
    """A step function of the user's, who hands the loop over."""

    class Step(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.conv, self.lif = nn.Conv2d(2, 8, 3), snn.Leaky(beta=0.8, threshold=0.3, **ZERO)
            self.fc = nn.Linear(512, 5)

        def forward(self, x: torch.Tensor, mem: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            spikes, mem = self.lif(self.conv(x), mem)
            return self.fc(spikes.flatten(1)), mem

    def run(network: nn.Module, x: torch.Tensor) -> torch.Tensor:
        mem, total = network.lif.init_leaky(), 0  # type: ignore[operator, union-attr]
        for _ in range(4):
            out, mem = network(x, mem)
            total = total + out
        return total / 4  # type: ignore[return-value]

    pictures = torch.randint(0, 256, (20, *SHAPE), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    network = Step()
    deployed = snn2chip.deploy(network, pictures, timesteps=4, run=run)
    assert deployed.verify(samples=4).passed and deployed.chain.made["model"] == "step"
    with torch.no_grad():
        wanted = run(network, pictures.float() / 255).numpy()
    assert np.corrcoef(deployed.outputs(pictures).ravel(), wanted.ravel())[0, 1] > 0.95


class Currents(nn.Module):
    """Synaptic neurons in a loop that hands on both of their states."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        at_once = {"reset_delay": False, **ZERO}
        self.conv, self.lif1 = nn.Conv2d(2, 8, 3), snn.Synaptic(alpha=0.7, beta=0.8, **at_once)
        self.fc1 = nn.Linear(512, 12)
        self.lif2 = snn.Synaptic(0.4, 0.9, 0.3, learn_alpha=True, learn_beta=True, learn_threshold=True, **at_once)
        self.fc2 = nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, second, outputs = self.lif1.init_synaptic(), self.lif2.init_synaptic(), []
        for _ in range(7):
            spikes, *first = self.lif1(self.conv(x), *first)
            spikes, *second = self.lif2(self.fc1(spikes.flatten(1)), *second)
            outputs.append(self.fc2(spikes))
        return torch.stack(outputs)


@pytest.mark.parametrize("hidden", [False, True])
def test_currents_that_decay(hidden: bool) -> None:
    """Handed on by the loop, or kept by the neurons themselves."""
    if not hidden:
        found = held(Currents(), pixels(SHAPE, 255, [0.5], [0.25]), 7)
        assert [round(node.current_tau, 6) for node in found.captured.of(ir.LIF)] == [0.7, 0.4]
        return
    torch.manual_seed(0)
    kept = {"init_hidden": True, "reset_delay": False, **ZERO}
    first = (nn.Conv2d(2, 4, 3), snn.Synaptic(0.6, 0.7, 0.4, **kept), nn.Flatten(), nn.Linear(256, 10))
    network = nn.Sequential(*first, snn.Synaptic(0.9, 0.5, 0.2, output=True, **kept))
    assert held(network, pixels(SHAPE, 255, [0.5], [0.25]), 5).takes == "step"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: snn.Leaky(beta=0.5, init_hidden=True), "layer '1': Leaky with reset_mechanism 'subtract'.*'zero'"),
        (
            lambda: snn.Leaky(beta=torch.rand(8), init_hidden=True, **ZERO),
            "a beta of each neuron; a layer here has one",
        ),
        (
            lambda: snn.Leaky(beta=0.5, threshold=0.1 + torch.rand(8), init_hidden=True, **ZERO),
            r"thresholds of shape \(8,\) for neurons \(4, 8, 8\): give one to a channel.*\(4, 1, 1\)",
        ),
        (lambda: snn.Leaky(beta=0.5, inhibition=True, init_hidden=True, **ZERO), "Leaky with inhibition"),
        (lambda: snn.Synaptic(0.5, 0.5, init_hidden=True, **ZERO), "layer '1': Synaptic with reset_delay=True"),
        (lambda: snn.Alpha(0.6, 0.5, init_hidden=True, **ZERO), "layer '1': Alpha is not a neuron"),
    ],
)
def test_what_no_chip_has_is_named(make: Any, message: str) -> None:
    """By layer, with what would work."""
    made = nn.Sequential(nn.Conv2d(2, 4, 3), make(), nn.Flatten(), nn.Linear(256, 10))
    with pytest.raises(UnsupportedError, match=message):
        adapt(made, pixels(SHAPE, 255, [0.5], [0.25]), 4)


@pytest.mark.parametrize("kind", ["Leaky", "Synaptic"])
def test_a_reset_by_subtraction(kind: str) -> None:
    """Refused with numbers; taken as a reset to zero if asked for, which the ladder then holds."""
    pictures = torch.randint(0, 256, (20, *SHAPE), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    network = nn.Sequential(
        *(nn.Conv2d(2, 4, 3), getattr(snn, kind)(*KINDS[kind], init_hidden=True)),
        *(nn.Flatten(), nn.Linear(256, 10), snn.Leaky(beta=0.9, threshold=0.2, init_hidden=True)),
    )
    with pytest.raises(UnsupportedError, match=r"reset by subtraction, .* decisions \(.*soft_reset='hard'"):
        snn2chip.deploy(network, pictures, timesteps=5, mean=0.5, std=0.25)
    deployed = snn2chip.deploy(network, pictures, timesteps=5, mean=0.5, std=0.25, soft_reset="hard")
    (said,) = [note for note in deployed.notes if "subtraction" in note]
    assert " 0.00% of its steps" not in said
    assert deployed.verify(samples=4).passed
    assert network[1].reset_mechanism == "subtract" and network[1].reset_delay
