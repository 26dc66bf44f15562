"""Forward functions, recorded: torch's own layers between our neurons, loops over time, and what is refused."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
from frameworks_held import held, lively
from plain_torch import Plain, Steps, network_of
from torch import nn

import snn2chip
from snn2chip import ir
from snn2chip.errors import UnsupportedError
from snn2chip.frameworks import Leaf, torch_layers
from snn2chip.ir.encode import encoder_of
from snn2chip.ir.interpreter import evaluate
from snn2chip.nn import LIF, Residual, SpikeCountReadout, TDBatchNorm
from snn2chip.passes import record
from snn2chip.passes.adapt import Handed, adapt, frames, pixels
from snn2chip.passes.capture import capture
from snn2chip.passes.fold import fold
from snn2chip.verify.compare import module_spikes


def same(network: Any, samples: int = 4) -> ir.Network:
    """torch = captured = folded, spike for spike; returns the captured network."""
    captured = capture(network)
    images = torch.randint(0, 256, (samples, *network.input_shape), generator=torch.Generator().manual_seed(2))
    raw = encoder_of(captured)(images)
    spikes, scores = module_spikes(network, raw)
    for stage in (captured, fold(captured)[0]):
        trace = evaluate(stage, raw)
        assert spikes and {node.name for node in stage.of(ir.LIF) if node.name in spikes} == set(spikes)
        for name, values in spikes.items():
            assert 0 < values.mean() < 1, name
            np.testing.assert_array_equal(values, trace.spikes[name].numpy())
        np.testing.assert_allclose(trace.scores.numpy(), scores, rtol=1e-9, atol=1e-9)
    return captured


@pytest.mark.parametrize("way", ["module", "flatten", "view", "reshape", "dropout", "mean", "gap"])
def test_torchs_own_layers_are_captured_as_they_are(way: str) -> None:
    """Between our neurons, in a forward function of the user's: every spike and score, T as one axis with samples."""
    torch.manual_seed(0)
    captured = same(network_of(Plain(way)))
    assert [node.name for node in captured.of(ir.LIF)] == ["lif1", "lif2"]
    assert captured.of(ir.Norm)[0].alpha == 1.0


def test_layers_of_both_kinds_in_one_body() -> None:
    """Ours see steps and samples apart, torch's together, spikes are pooled by either; one module in two networks."""
    torch.manual_seed(3)
    lif = LIF(0.5, 0.3)
    layers: list[tuple[str, nn.Module]] = [
        *[("conv", nn.Conv2d(2, 4, 3, padding=1)), ("norm", TDBatchNorm(4)), ("lif", lif), ("max", nn.MaxPool2d(2))],
        *[("block", Residual(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4))), ("lif2", LIF(0.5, 0.2))],
        *[("flat", nn.Flatten()), ("fc", nn.Linear(64, 3)), ("bn", nn.BatchNorm1d(3)), ("last", LIF(0.9, 0.1))],
    ]
    network = network_of(nn.Sequential(OrderedDict(layers)), readout=SpikeCountReadout())
    same(network)
    x = torch.rand(3, 2, 5)
    assert torch.equal(lif(x), LIF(0.5, 0.3)(x))  # nothing is left behind in it
    names = {name for name, _ in network.state_dict().items()}
    assert "body.conv.weight" in names


def test_batch_statistics_are_those_of_all_steps_and_samples() -> None:
    """A BatchNorm2d trains as tdBN does: one mean a channel over steps and samples."""
    torch.manual_seed(4)
    norm = nn.BatchNorm2d(3)
    network = network_of(nn.Sequential(nn.Conv2d(2, 3, 3), norm, LIF(), nn.Flatten(), nn.Linear(108, 2)))
    images = torch.randint(0, 256, (5, 2, 8, 8))
    norm.momentum = 1.0
    network.train()(images)
    x = network.encoder(images).flatten(0, 1)
    torch.testing.assert_close(norm.running_mean, network.body[0](x).mean((0, 2, 3)), rtol=1e-5, atol=1e-6)


class Rows(nn.Module):
    """Of one side: every layer of rows that torch has, all steps at once."""

    def __init__(self, end: str = "mean") -> None:
        super().__init__()
        torch.manual_seed(5)
        self.end = end
        self.conv1, self.bn1 = nn.Conv1d(2, 6, 3, stride=2, padding=2, dilation=2), nn.BatchNorm1d(6)
        self.lif1, self.pool = LIF(0.5, 0.3), nn.MaxPool1d(3, 2, 1)
        self.conv2, self.average, self.lif2 = nn.Conv1d(6, 8, 3, groups=2), nn.AvgPool1d(2), LIF(0.25, 0.05)
        self.adaptive = nn.AdaptiveAvgPool1d(1)
        self.fc, self.bn2 = nn.Linear(16 if end == "view" else 8, 4), nn.BatchNorm1d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        steps, samples = x.shape[:2]
        y = self.bn1(self.conv1(x.flatten(0, 1)))
        y = self.lif1(y.view(steps, samples, *y.shape[1:])).flatten(0, 1)
        y = self.average(self.conv2(self.pool(y)))
        y = self.lif2(y.view(steps, samples, *y.shape[1:])).flatten(0, 1)
        if self.end == "unsqueeze":
            y = y.unsqueeze(-2).mean((2, 3))
        elif self.end == "view":
            y = y.view(len(y), -1)
        else:
            y = y.mean(-1) if self.end == "mean" else self.adaptive(y).flatten(1)
        return self.bn2(self.fc(y)).view(steps, samples, -1)


@pytest.mark.parametrize("end", ["mean", "adaptive", "view", "unsqueeze"])
def test_rows_are_images_of_height_1(end: str) -> None:
    """The module's own forward, on rows (C, L), and every stage: every spike; images repeated, and frames."""
    for given in (pixels((2, 1, 24), 255, [0.5], [0.25]), frames((2, 1, 24), 1)):
        found = held(lively(Rows(end)), given, 3)
        assert found.takes == "steps" and found.captured.shape("lif1") == (6, 1, 12)
        assert found.rows >= {"input", "lif1", "lif2"}


def test_rows_inside_a_network_of_images() -> None:
    """A height of 1 may be squeezed and put back; layers of images and of rows say what they take."""

    class Squeezed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.conv, self.lif = nn.Conv2d(2, 4, (8, 3)), LIF(0.5, 0.3)
            self.row, self.last = nn.Conv1d(4, 4, 3), LIF(0.5, 0.2)
            self.fc = nn.Linear(16, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.row(self.lif(self.conv(x)).squeeze(2)).unsqueeze(2)
            return self.fc(self.last(y).flatten(1))  # type: ignore[no-any-return]

    same(network_of(Squeezed()))
    with pytest.raises(UnsupportedError, match=r"layer '0': takes rows \(C, L\), but is given images \(C, H, W\)"):
        capture(network_of(nn.Sequential(nn.Conv1d(2, 4, 3), LIF(), nn.Flatten(), nn.Linear(9, 3))))


class Step(nn.Module):
    """A neuron that hands its membrane on, as other frameworks have them."""

    def forward(self, x: torch.Tensor, kept: torch.Tensor | float) -> tuple[torch.Tensor, torch.Tensor]:
        membrane = 0.5 * kept + x
        fired = membrane > 0.3
        return fired.to(x.dtype), membrane.masked_fill(fired, 0)


class Series(nn.Module):
    """A block of weights and neurons, time last."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.fc, self.step = nn.Linear(inputs, outputs), Step()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept, spikes = torch.zeros(()), []
        for step in x.movedim(-1, 0):
            fired, kept = self.step(self.fc(step), kept)
            spikes.append(fired)
        return torch.stack(spikes, -1)


@pytest.fixture
def other_framework(monkeypatch: pytest.MonkeyPatch) -> None:
    """`Step` and `Series` as leaves, beside those that are known."""

    def leaf_of(path: str, module: nn.Module) -> Leaf | None:
        if isinstance(module, Step):
            return Leaf(lambda name, sources, _: [ir.LIF(name, sources, 0.5, 0.3)], ("image", "step"), states=1)
        if isinstance(module, Series):
            fc = module.fc

            def make(name: str, sources: tuple[str, ...], shape: ir.Shape) -> list[ir.Node]:
                dense = torch_layers.nodes(fc, f"{name}.fc", sources[0], shape) or []
                return [*dense, ir.LIF(name, (f"{name}.fc",), 0.5, 0.3)]

            return Leaf(make, ("series",))
        return known(path, module)

    known = record.leaf_of
    monkeypatch.setattr(record, "leaf_of", leaf_of)


@pytest.mark.usefixtures("other_framework")
@pytest.mark.parametrize("total", [False, True])
def test_time_last(total: bool) -> None:
    """(N, F, T) from block to block, flattened before them, and summed over time at the end."""

    class Blocks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(1)
            self.first, self.last = Series(32, 12), Series(12, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.last(self.first(x.flatten(1, 3)))
            return x.mean(-1) if total else x

    found = held(Blocks(), frames((2, 4, 4), 1), 5)
    assert found.takes == "series" and found.captured.readout.kind == "spike_count"


@pytest.mark.usefixtures("other_framework")
def test_a_batch_norm_for_every_step_of_a_loop() -> None:
    """One table, of a list that the loop's index chooses from; and a loop that is handed over beside its network."""

    class Once(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(1)
            self.conv, self.neuron, self.out = nn.Conv2d(2, 4, 3), Step(), nn.Linear(144, 5)
            self.norms = nn.ModuleList([nn.BatchNorm2d(4) for _ in range(4)])

        def forward(self, x: torch.Tensor, t: int, kept: Any) -> tuple[torch.Tensor, Any]:
            spikes, kept = self.neuron(self.norms[t](self.conv(x)), kept)
            return self.out(spikes.flatten(1)), kept

    def run(network: nn.Module, x: torch.Tensor) -> torch.Tensor:
        kept, outputs = 0.0, []
        for t in range(4):
            out, kept = network(x, t, kept)
            outputs.append(out)
        return torch.stack(outputs)

    found = held(lively(Handed(Once(), run)), pixels((2, 8, 8), 255, [0.5], [0.25]), 4)
    (norm,) = found.captured.of(ir.StepNorm)
    assert norm.name == "network.norms" and norm.gamma.shape == (4, 4) and found.takes == "image"


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.AvgPool2d(2, stride=1), r"layer '1': AvgPool2d of kernel \(2, 2\), stride \(1, 1\).*stride = kernel"),
        (nn.AvgPool2d(3, ceil_mode=True), "side by side"),
        (nn.AdaptiveAvgPool2d(3), r"layer '1': AdaptiveAvgPool2d from \(8, 8\) to \(3, 3\): its windows overlap"),
        (nn.MaxPool2d(2, dilation=2), r"layer '1': MaxPool2d with dilation"),
        (nn.BatchNorm2d(2, track_running_stats=False), "without running statistics.*track_running_stats=True"),
        (nn.Conv2d(2, 2, 3, padding="same"), r"layer '1': padding 'same' is not a number"),
        (nn.ConvTranspose2d(2, 2, 3), r"layer '1': ConvTranspose2d cannot be exported"),
        (nn.Softmax(1), r"layer '1': Softmax cannot be exported; leave it out at the end"),
        (nn.GELU(), r"layer '1': GELU cannot be exported; use snn2chip\.nn\.LIF"),
        (nn.InstanceNorm2d(2), r"layer '1': InstanceNorm2d cannot be exported; use snn2chip\.nn\.TDBatchNorm"),
        (nn.LSTM(2, 2), r"layer '1': LSTM cannot be exported; use snn2chip\.nn\.LIF behind a dense layer"),
        (nn.MultiheadAttention(2, 1), "MultiheadAttention cannot be exported; build the network from dense and"),
    ],
)
def test_what_no_chip_has_of_torchs_layers_is_named(module: nn.Module, message: str) -> None:
    """With what would work."""
    body = nn.Sequential(nn.Identity(), module, LIF(), nn.Flatten(), nn.LazyLinear(2))
    with pytest.raises(UnsupportedError, match=message):
        capture(network_of(body))


@pytest.mark.parametrize("way", ["last", "first", "image", "loop"])
def test_the_scores_of_one_step_are_not_the_sum_of_all(way: str) -> None:
    """The chip adds up all of them; of one step alone that is the same."""

    class Alone(Steps):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if way == "image":
                x = x.unsqueeze(0).repeat(steps, 1, 1, 1, 1)
            y = self.conv(x.flatten(0, 1))
            spikes = self.lif(y.view(*x.shape[:2], *y.shape[1:]))
            if way == "loop":
                return [self.fc(spikes[t].flatten(1)) for t in range(steps)][-1]  # type: ignore[no-any-return]
            return self.fc(spikes.flatten(2))[0 if way == "first" else -1]  # type: ignore[no-any-return]

    given, steps = pixels((2, 8, 8), 255, [0.5], [0.25]), 3
    place = 1 if way == "first" else 3
    with pytest.raises(
        UnsupportedError, match=f"returns step {place} of its 3 alone, .* the sum or the mean over time"
    ):
        adapt(Alone(), given, steps)
    steps = 1
    held(lively(Alone()), given, steps)


@pytest.mark.parametrize(
    ("end", "message"),
    [
        (lambda y: y.mean(0).softmax(1), "'softmax' in its forward function .*; leave it out at the end"),
        (lambda y: y.mean(0).argmax(1), "'argmax' in its forward function .*; return the scores themselves"),
        (lambda y: {"scores": y.mean(0)}, "returns a dict; it must return one tensor of scores"),
        (lambda y: nn.functional.dropout(y).mean(0), "'dropout' in its forward function .*; give it training=self"),
        (lambda _: None, "returns a NoneType; it must return one tensor of scores"),
        (lambda y: y.transpose(0, 1), r"'transpose' in its forward function .* as the layers do, \(T, N, C, H, W\)"),
    ],
)
def test_what_a_forward_function_may_not_do_is_named(end: Any, message: str) -> None:
    """With what would work."""

    class Ends(Steps):
        def forward(self, x: torch.Tensor) -> Any:
            y = self.conv(x.flatten(0, 1))
            return end(self.fc(self.lif(y.view(*x.shape[:2], *y.shape[1:])).flatten(2)))

    with pytest.raises(UnsupportedError, match=message):
        adapt(Ends(), pixels((2, 8, 8), 255, [0.5], [0.25]), 3)


def test_layers_of_all_steps_alone_are_put_into_a_spiking_network() -> None:
    """`deploy` says so of a body that is handed over without one."""
    body = nn.Sequential(nn.Conv2d(2, 4, 3), LIF(), nn.Flatten(), nn.Linear(144, 3))
    with pytest.raises(
        UnsupportedError, match=r"layer '1': takes steps .*; .* put the network into snn2chip\.nn\.Spiki"
    ):
        snn2chip.deploy(body, torch.zeros(2, 2, 8, 8, dtype=torch.uint8), timesteps=3)
