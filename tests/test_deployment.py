"""snn2chip.deploy: from a trained module, and whatever its images are in, to a verified file."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from plain_torch import PIXELS, Plain, Steps, network_of
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.utils.data import DataLoader, Dataset, TensorDataset

import snn2chip
from snn2chip import ir
from snn2chip.deployment.data import Scaling, gather, integers
from snn2chip.errors import CheckFailed, ChipLimitError, InputError, UnsupportedError
from snn2chip.formats import netx
from snn2chip.nn import LIF

LABELS = torch.arange(30) % 5


class Pairs(Dataset[Any]):
    """Samples one by one, with labels."""

    def __init__(self, samples: torch.Tensor) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.samples[index], int(LABELS[index])


def test_one_call(tmp_path: Path) -> None:
    """Three lines: the box, the ladder from the module's own forward, and the accuracy in integers."""
    torch.manual_seed(0)
    network = network_of(Plain("view"))
    deployed = snn2chip.deploy(
        network, DataLoader(TensorDataset(PIXELS, LABELS), batch_size=7), out=tmp_path, name="mine"
    )
    assert deployed.path == tmp_path / "mine.net" and netx.load(deployed.path).made["model"] == "mine"
    box = str(deployed)
    assert re.search("fits +loihi2: ", box) and "stock netx" in box and str(tmp_path) in re.sub(r"\s*│\n│ +", "", box)
    assert max(map(len, box.splitlines())) <= 80
    verdict = deployed.verify((PIXELS, LABELS), samples=6)
    assert verdict.passed and [rung.name for rung in verdict.rungs][:3] == [
        *("torch = captured", "captured = folded", "folded ~ integers")
    ]
    found = deployed.simulate(Pairs(PIXELS))
    assert found.accuracy == np.mean(found.trace.scores.argmax(1) == LABELS.numpy()) and found.samples == 30
    assert deployed.simulate(PIXELS).accuracy is None
    scores = deployed.simulate(PIXELS.float() / 255).trace.scores
    np.testing.assert_array_equal(scores, found.trace.scores)


def test_a_module_that_takes_its_steps_itself() -> None:
    """No SpikingNetwork around it: frames of spikes, or images with the number of steps and the normalization."""
    frames = (torch.rand(20, 3, 2, 8, 8, generator=torch.Generator().manual_seed(0)) < 0.4).to(torch.uint8)
    deployed = snn2chip.deploy(Steps(), frames)
    assert deployed.chain.coding == "events" and deployed.chain.timesteps == 3
    assert deployed.verify(samples=4).passed
    normal = (PIXELS.float() / 255 - 0.5) / 0.25
    deployed = snn2chip.deploy(Steps(), normal, timesteps=5, mean=0.5, std=[0.25, 0.25])
    assert "they are (pixel / 255 - 0.5) / [0.25, 0.25]" in deployed.notes[0]
    assert deployed.verify(normal[:4]).passed
    with torch.no_grad():
        wanted = Steps()(normal.expand(5, *normal.shape)).argmax(1)
    assert np.mean(wanted.numpy() == deployed.simulate(normal).trace.scores.argmax(1)) > 0.8


class Currents(nn.Module):
    """Neurons whose current decays: after a convolution, and after a dense layer."""

    def __init__(self, *, bias: bool = False) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.conv, self.lif1 = nn.Conv2d(2, 4, 3, bias=bias), LIF(0.5, 0.1, current_tau=0.75)
        self.fc, self.lif2 = nn.Linear(144, 8, bias=bias), LIF(0.875, 0.2, current_tau=0.25)
        self.out = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x.flatten(0, 1))
        spikes = self.lif2(self.fc(self.lif1(y.view(*x.shape[:2], *y.shape[1:])).flatten(2)))
        return self.out(spikes).mean(0)  # type: ignore[no-any-return]


@pytest.mark.parametrize("lava", [pytest.param(True, marks=pytest.mark.lava), False])
def test_a_current_that_decays(lava: bool) -> None:
    """From the module to the file's iDecay, every exact rung; a bias before the current is said to be inexact."""
    deployed = snn2chip.deploy(Currents(), PIXELS, timesteps=6)
    assert [layer.current_decay for layer in deployed.chain.layers] == [1024, 3072, 4096] and deployed.chain.stock
    assert not any("bias" in note for note in deployed.notes)
    assert not any("bias" in note for note in deployed.notes)
    assert deployed.verify(samples=5, lava=lava, onnx=not lava).passed and deployed.agreement > 0.9
    fired = deployed.simulate(PIXELS, keep=True).trace.spikes
    assert all(0.02 < fired[name].mean() < 0.98 for name in list(fired)[:2])
    deployed = snn2chip.deploy(Currents(bias=True), PIXELS, timesteps=6)
    assert [note.split(":")[0] for note in deployed.notes if "bias" in note] == ["layer 'lif1'", "layer 'lif2'"]
    assert deployed.verify(samples=5, lava=lava).passed


def test_another_reset_is_refused_with_what_it_would_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spikes of every layer and decisions, counted; taken only where asked for, and said in the notes. Neurons of other
    frameworks have it (tests/test_frameworks_*.py); here one that another threshold stands for."""

    def harden(network: nn.Module) -> list[str]:
        network.lif.get_buffer("fixed_threshold").fill_(0.4)  # type: ignore[operator, union-attr]
        return ["lif"]

    monkeypatch.setattr(snn2chip.deployment, "harden", harden)
    module, normal = Steps(), PIXELS.float() / 255
    with pytest.raises(UnsupportedError, match=r"'lif' reset by subtraction.*soft_reset='hard'") as refused:
        snn2chip.deploy(module, PIXELS, timesteps=3)
    deployed = snn2chip.deploy(module, PIXELS, timesteps=3, soft_reset="hard")
    (said,) = [note for note in deployed.notes if "subtraction" in note]
    assert said in str(refused.value) and float(module.lif.threshold) == pytest.approx(0.2)
    assert deployed.export.captured.of(ir.LIF)[0].threshold == pytest.approx(0.4)
    given = normal.expand(3, *normal.shape)
    with torch.no_grad():
        current = module.conv(given.flatten(0, 1)).view(3, 30, 4, 6, 6)
        before, after = module.lif(current), LIF(0.5, 0.4)(current)
        decisions = int((module(given).argmax(1) != module.fc(after.flatten(2)).mean(0).argmax(1)).sum())
    assert f"changes {decisions} of 30 decisions" in said
    share = float((before != after).double().mean())
    assert f"'lif' {int(before.sum()):,} spikes become {int(after.sum()):,}, {share:.2%} of its steps differ" in said
    assert deployed.verify(samples=3).passed


@pytest.mark.parametrize("lava", [pytest.param(True, marks=pytest.mark.lava), False])
def test_rows(lava: bool) -> None:
    """Samples (N, C, L): calibration, verification and simulation of a network of one side."""

    class Rows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(2)
            self.conv, self.lif, self.fc = nn.Conv1d(2, 4, 5, 2, 2), LIF(0.5, 0.2), nn.Linear(64, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(x.flatten(0, 1))
            return self.fc(self.lif(y.view(*x.shape[:2], *y.shape[1:])).flatten(2)).mean(0)  # type: ignore[no-any-return]

    rows = PIXELS.flatten(2)[:, :, ::2]
    normal = (rows.float() / 255 - torch.tensor([[0.5], [0.4]])) / 0.25
    deployed = snn2chip.deploy(Rows(), normal, timesteps=3, mean=[0.5, 0.4], std=0.25)
    assert deployed.chain.input_shape == (2, 1, 32) and deployed.chain.stock
    assert deployed.verify(rows[:4], lava=lava).passed
    with torch.no_grad():
        wanted = Rows()(normal.expand(3, *normal.shape)).argmax(1)
    assert np.mean(wanted.numpy() == deployed.simulate(normal).trace.scores.argmax(1)) > 0.8


def test_no_relay_stands_beside_a_current_that_decays() -> None:
    """It would fire again from what is left of one spike."""

    class Residual(Currents):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.lif = nn.Conv2d(2, 4, 3, padding=1), LIF(0.5, 0.2)
            self.conv, self.back, self.lif2 = (*(nn.Conv2d(4, 4, 3, padding=1) for _ in range(2)), LIF(0.5, 0.2))
            self.out = nn.Linear(256, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            kept = self.lif(self._each(self.first, x))
            spikes = self.lif2(kept + self._each(self.back, self.lif1(self._each(self.conv, kept))))
            return self.out(spikes.flatten(2)).mean(0)  # type: ignore[no-any-return]

        @staticmethod
        def _each(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
            y = layer(x.flatten(0, 1))
            return y.view(*x.shape[:2], *y.shape[1:])  # type: ignore[no-any-return]

    with pytest.raises(UnsupportedError, match="layer 'lif1': its current decays, so that relays of 'lif'"):
        snn2chip.deploy(Residual(), PIXELS, timesteps=3)


@pytest.mark.parametrize("total", [False, True])
def test_outputs_are_in_the_modules_units(total: bool, tmp_path: Path) -> None:
    """A regression's: what the module returns, up to the rounding of 8 bits; a sum over time where it returns that."""

    class Sum(Steps):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * (len(x) if total else 1)

    module = Sum()
    with torch.no_grad():
        module.fc.weight *= 100  # units of its own
        wanted = module((PIXELS.float() / 255).expand(3, *PIXELS.shape)).numpy()
    deployed = snn2chip.deploy(module, PIXELS, timesteps=3, out=tmp_path)
    found = deployed.outputs(PIXELS)
    chain = netx.load(tmp_path / "sum.net")  # alone it says its units, too
    scores = deployed.simulate(PIXELS).trace.scores
    np.testing.assert_array_equal(chain.outputs(scores), found)
    scale = deployed.export.quantize_report.layers[-1].scale
    np.testing.assert_allclose(found, scores / (64 * scale * (1 if total else 3)), rtol=1e-12)
    assert replace(chain, made={}).outputs(scores) is None
    assert np.corrcoef(found.ravel(), wanted.ravel())[0, 1] > 0.95
    assert 0.8 < np.abs(found).mean() / np.abs(wanted).mean() < 1.25
    network = network_of(Plain("view"))
    with torch.no_grad():
        wanted = network(PIXELS).numpy()
    found = snn2chip.deploy(network, PIXELS).outputs(PIXELS)
    assert np.abs(found - wanted).mean() < 0.2 * np.abs(wanted).mean()


def test_scores_of_steps_and_samples_in_one_axis_are_summed_over_steps() -> None:
    """A module that returns (T N, K)."""

    class Merged(Steps):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(x.flatten(0, 1))
            return self.fc(self.lif(y.view(*x.shape[:2], *y.shape[1:])).flatten(2).flatten(0, 1))  # type: ignore[no-any-return]

    assert snn2chip.deploy(Merged(), PIXELS, timesteps=3).verify(samples=4).passed


def test_a_module_as_training_left_it() -> None:
    """Neurons of other packages keep the membranes of the last batch, with their gradients; the module keeps them."""

    class Keeps(Steps):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(x.flatten(0, 1))
            self.mem, self.memories = y, {"v": y.clone()}
            spikes = self.lif(y.view(*x.shape[:2], *y.shape[1:]))
            return self.fc(spikes.flatten(2)).mean(0)  # type: ignore[no-any-return]

    module = Keeps()
    module((PIXELS[:4].float() / 255).expand(3, *PIXELS[:4].shape)).sum().backward()
    mem, v = module.mem, module.memories["v"]
    snn2chip.deploy(module, PIXELS, timesteps=3)
    assert module.mem is mem and module.memories["v"] is v and mem.requires_grad


def test_a_changed_file_fails_the_ladder() -> None:
    """`verify` raises what differs first, it does not return it."""
    deployed = snn2chip.deploy(Steps(), PIXELS, timesteps=2)
    with torch.no_grad():
        deployed.trained.module.fc.weight[0] += 1  # type: ignore[union-attr]
    with pytest.raises(CheckFailed, match="torch = captured"):
        deployed.verify(samples=2)


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (PIXELS, {}, "images have no time steps; give timesteps="),
        (PIXELS, {"timesteps": 2, "max_value": 16}, r"integers 0\.\.255 exceed the pixels 0\.\.16; give max_value="),
        (PIXELS[:, 0], {"timesteps": 2}, r"'conv'.* of three axes are rows \(N, C, L\)"),
        (torch.rand(4, 2, 8, 8), {"timesteps": 2}, "are not .* of whole pixels; give the integers themselves"),
        ((PIXELS.float() / 255 - 0.5) / 0.2, {"timesteps": 2}, "give the integers themselves, or mean=, std="),
        (torch.full((4, 2, 8, 8), torch.nan), {"timesteps": 2}, "NaN or infinite"),
        (PIXELS, {"timesteps": 2, "mean": [0.1, 0.2, 0.3]}, "one of each for 2 channels"),
        (PIXELS[:, None], {"timesteps": 2}, "timesteps 2, but the samples have 1 steps"),
        (PIXELS[:, None], {"mean": 0.5}, "frames reach the network as they are"),
        ((PIXELS, LABELS[:3]), {"timesteps": 2}, r"30 samples with labels of shape \(3,\)"),
        (3.5, {"timesteps": 2}, "data is a float; give a tensor"),
        ([], {"timesteps": 2}, "the data is empty"),
        (PIXELS[:0], {"timesteps": 2}, "the data is empty"),
        (torch.tensor(3), {"timesteps": 2}, "the data is empty"),
        ("digits", {"timesteps": 2}, "data is a str; give a tensor"),
        ({"image": PIXELS}, {"timesteps": 2}, "data is a dict; give a tensor"),
        ([{"image": PIXELS[0]}], {"timesteps": 2}, r"a dict of image; give samples, or pairs \(sample, label\)"),
        ([(PIXELS[0], 1, 2)], {"timesteps": 2}, "a tuple of 3 parts; give samples"),
        (torch.empty(2, 2, 8, 8, device="meta"), {"timesteps": 2}, "cannot be read as an array"),
        (
            np.ma.masked_greater(PIXELS.numpy(), 200),
            {"timesteps": 2},
            "data is a masked array, .* of its values hidden; fill",
        ),
        (-PIXELS.int() - 1, {"timesteps": 2}, r"exceed the pixels 0\.\.255; give pixels as the network saw them"),
        (PIXELS, {"timesteps": 2, "samples": 0}, "samples 0: expected a whole number from 1 on"),
        (PIXELS, {"timesteps": 2, "samples": -1}, "samples -1: expected a whole number from 1 on"),
        (PIXELS, {"timesteps": 2.5}, "timesteps 2.5: expected a whole number from 1 on"),
        (PIXELS, {"timesteps": True}, "timesteps True: expected a whole number"),
        (PIXELS, {"timesteps": 2, "max_value": 0}, "max_value 0: expected a whole number from 1 on"),
        (PIXELS, {"timesteps": 2, "max_value": 255.0}, r"max_value 255\.0: expected a whole number"),
        (PIXELS, {"timesteps": 2, "mean": "grey"}, "mean grey: expected a number, or one a channel"),
        (PIXELS, {"timesteps": 2, "mean": torch.nan}, "finite, std positive"),
        (PIXELS, {"timesteps": 2, "std": torch.inf}, "finite, std positive"),
        (PIXELS, {"timesteps": 2, "weight_bits": 4.5}, r"--weight-bits 4\.5 is outside 2\.\.8"),
        (PIXELS, {"timesteps": 2, "strategy": "best"}, "strategy 'best': expected one of auto, max, percentile, error"),
        (PIXELS, {"timesteps": 2, "relays": "no"}, "relays 'no': expected one of auto, plain, bias"),
        (PIXELS, {"timesteps": 2, "soft_reset": "soft"}, "soft_reset 'soft': expected one of refuse, hard"),
        (PIXELS, {"timesteps": 2, "chip": None}, "unknown chip 'None'"),
        (PIXELS, {"timesteps": 2, "classes": ["cat"]}, "1 classes for 3 outputs"),
        (PIXELS, {"timesteps": 2, "classes": "abc"}, "classes abc: expected a list of names"),
        (PIXELS, {"timesteps": 2, "out": "model.pt"}, r"out 'model.pt': expected a folder, .* \.save\(\)"),
        (PIXELS, {"timesteps": 2, "out": "model.NET"}, "expected a folder, or a name that ends in .net"),
        (PIXELS, {"timesteps": 2, "out": "mine", "name": "a/b"}, "name 'a/b' is no name of a file"),
        (PIXELS, {"timesteps": 2, "out": __file__}, f"cannot write '{__file__}/steps.net'"),
    ],
)
def test_data_that_is_no_input_is_refused(data: Any, options: dict[str, Any], message: str) -> None:
    """Never darkened, stretched or guessed: the value, the limit, and what to give."""
    with pytest.raises(InputError, match=message):
        snn2chip.deploy(Steps(), data, **options)


def test_what_the_network_says_itself_is_not_said_again() -> None:
    """A SpikingNetwork has an encoder."""
    with pytest.raises(InputError, match="timesteps is said by the network itself"):
        snn2chip.deploy(network_of(Plain("view")), PIXELS, timesteps=3)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Steps, "network is Steps; give the trained module itself"),
        (Steps().state_dict(), r"network is a OrderedDict; .* \(a state_dict goes into a module first"),
        ("model.pt", "network is a str; .* snn2chip.load"),
        (Steps().to("meta"), "some of its weights have no values yet"),
        (nn.Sequential(nn.LazyLinear(3)), "some of its weights have no values yet"),
    ],
)
def test_what_is_no_trained_module_is_refused(network: Any, message: str) -> None:
    """A class, its weights, the name of a file; weights that are not there."""
    with pytest.raises(InputError, match=message):
        snn2chip.deploy(network, PIXELS, timesteps=2)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (PIXELS.float(), r"are not pixel / 255 of whole pixels; .*: these are whole, so make them integers"),
        ((PIXELS.float() / 255 - 0.4) / 0.3, "before any normalization: the network normalizes them itself"),
        (PIXELS.int() * 2, r"exceed the pixels 0\.\.255; give pixels as the network saw them"),
    ],
)
def test_a_network_that_scales_itself_is_not_asked_how(data: torch.Tensor, message: str) -> None:
    """mean=, std= and max_value= would be refused."""
    with pytest.raises(InputError, match=message):
        snn2chip.deploy(network_of(Plain("view")), data)


def test_labels_are_those_of_the_networks_outputs() -> None:
    """Counted from 1, or no numbers of classes, they would be an accuracy of nothing; outputs have no use for them."""
    deployed = snn2chip.deploy(Steps(), (PIXELS, LABELS / 7), timesteps=2)  # what a regression learns
    for labels, message in (
        (LABELS % 3 + 1, r"labels 1\.\.3 of a network of 3 outputs, 0\.\.2"),
        (LABELS - 1, "labels hold -1; give the number"),
        (LABELS / 4, r"labels hold 0\.25; give the number"),
        (["cat"] * 30, "labels holds <U3, not numbers; give the number"),
    ):
        for run in (deployed.simulate, deployed.verify):
            with pytest.raises(InputError, match=message):
                run((PIXELS, labels))
        np.testing.assert_array_equal(deployed.outputs((PIXELS, labels)), deployed.outputs(PIXELS))


def test_numbers_of_samples_and_names_of_files(tmp_path: Path) -> None:
    """Nothing is cut off, and no kind of file is written under the name of another."""
    deployed = snn2chip.deploy(Steps(), PIXELS, timesteps=2)
    for call in (
        lambda: deployed.verify(samples=0),
        lambda: deployed.simulate(PIXELS, batch_size=0),
        lambda: deployed.save(tmp_path / "mine.pt", samples=-1),
    ):
        with pytest.raises(InputError, match=r"(samples|batch_size) -?\d: expected a whole number from"):
            call()
    for name in ("mine.onnx", "mine.pth", "mine.PT", "mine"):
        with pytest.raises(InputError, match=f"cannot save as .*{name}': expected a name that ends in .pt"):
            deployed.save(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_result_at_a_prompt_is_short() -> None:
    """What Python and notebooks show of it: the box, not each weight."""
    deployed = snn2chip.deploy(Steps(), PIXELS, timesteps=2)
    assert repr(deployed) == str(deployed) and len(repr(deployed)) < 2000
    assert len(repr(deployed.simulate((PIXELS, LABELS % 3)))) < 300


@pytest.mark.parametrize("how", ["prune", "weight_norm", "spectral_norm", "old weight_norm"])
@pytest.mark.parametrize("own", [True, False])
@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_weights_that_are_computed(how: str, own: bool) -> None:
    """Of weights that torch makes of others, pruned ones say, those that the network computes with are deployed."""
    network = network_of(Plain("view")) if own else Steps()
    layer = next(part for part in network.modules() if isinstance(part, nn.Conv2d))
    if how == "prune":
        prune.l1_unstructured(layer, "weight", 0.5)
    elif how == "old weight_norm":
        torch.nn.utils.weight_norm(layer)
    else:
        getattr(parametrizations, how)(layer)
    network.eval()
    deployed = snn2chip.deploy(network, PIXELS, **({} if own else {"timesteps": 2}))
    found = deployed.export.captured.of(ir.Conv)[0].weight
    np.testing.assert_allclose(found, layer.weight.detach().numpy(), rtol=1e-5)
    assert how != "prune" or (found == 0).mean() == 0.5
    assert deployed.verify(samples=3).passed


def test_what_cannot_be_placed_is_refused_unless_said() -> None:
    """As fold-and-export does."""
    body = nn.Sequential(nn.Flatten(), nn.Linear(2 * 96 * 96, 4))
    network = network_of(body, shape=(2, 96, 96))
    images = torch.zeros(1, 2, 96, 96, dtype=torch.uint8)
    with pytest.raises(ChipLimitError, match="must_fit=False exports it all the same"):
        snn2chip.deploy(network, images)
    assert not snn2chip.deploy(network, images, must_fit=False).fit.fits


def test_samples_come_from_whatever_holds_them() -> None:
    """A loader, a dataset, a list of pairs, arrays; the first so many."""
    pairs = Pairs(PIXELS)
    for data in (DataLoader(pairs, batch_size=4), pairs, [pairs[i] for i in range(30)], (PIXELS, LABELS)):
        samples, labels = gather(data, 10)
        np.testing.assert_array_equal(samples, PIXELS[:10].numpy())
        assert labels is not None and labels.tolist() == LABELS[:10].tolist()
    for data in (
        [PIXELS, LABELS],
        (PIXELS, LABELS.tolist()),
        (PIXELS.bfloat16(), LABELS),
        (PIXELS.to_sparse(), LABELS),
    ):
        samples, labels = gather(data)
        np.testing.assert_array_equal(samples, np.asarray(torch.as_tensor(data[0]).to_dense().float()))
        assert labels is not None and labels.tolist() == LABELS.tolist()
    for data in (DataLoader(TensorDataset(PIXELS), batch_size=6), TensorDataset(PIXELS), list(PIXELS)):
        samples, labels = gather(data)
        np.testing.assert_array_equal(samples, PIXELS.numpy())
        assert labels is None
    assert len(gather([PIXELS[0], PIXELS[1]])[0]) == 2 and gather(PIXELS.numpy())[1] is None
    with pytest.raises(InputError, match="samples of shapes"):
        gather([torch.zeros(1, 2, 2), torch.zeros(1, 3, 3)])


def test_floats_are_taken_back_to_the_pixels_they_were() -> None:
    """Through float16 and float32, for a rule of each channel; nothing is rounded that was no pixel."""
    scaling = Scaling(255, (0.4, 0.6), (0.2, 0.3))
    mean, std = (torch.tensor(values).reshape(-1, 1, 1) for values in (scaling.mean, scaling.std))
    seen = (PIXELS.double() / 255 - mean) / std
    for values in (seen, seen.float()):
        np.testing.assert_array_equal(integers(values.numpy(), scaling)[0], PIXELS.numpy())
    np.testing.assert_array_equal(integers((PIXELS.float() / 255).numpy(), scaling)[0], PIXELS.numpy())
    with pytest.raises(InputError):
        integers((seen + 0.01).numpy(), scaling)


@pytest.mark.parametrize("lava", [pytest.param(True, marks=pytest.mark.lava), False])
def test_the_readmes_example_as_written(lava: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It trains, fits, and every exact rung holds; without Lava where it is not wanted."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    code = next(block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "snn2chip.deploy" in block)
    assert "verify(test, lava=True)" in code
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    found: dict[str, Any] = {}
    exec(code if lava else code.replace("lava=True", "lava=False"), found)
    assert found["deployed"].simulate(found["test"]).accuracy > 0.9
    assert (tmp_path / "mine" / "spikingnetwork.net").exists()
