"""Quantization-aware training: every step computes with the exporter's integers, and they are what is exported."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Command, tiny_recipe
from helpers import Sets, assert_equal, state_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from snn2chip import chip as chips
from snn2chip import data, ir, recipe
from snn2chip.chip import neuron as arith
from snn2chip.errors import InputError, UnsupportedError
from snn2chip.formats import netx, nir, onnx
from snn2chip.ir.encode import encoder_of
from snn2chip.nn import LIF, TDBatchNorm, model_file
from snn2chip.nn.neuron import fuse_neurons
from snn2chip.passes import pipeline
from snn2chip.passes.capture import capture
from snn2chip.passes.fold import fold
from snn2chip.passes.quantize import quantize
from snn2chip.passes.schedule import schedule
from snn2chip.recipe import Recipe
from snn2chip.simulate.dense import DenseEngine
from snn2chip.train.loop import Trainer
from snn2chip.train.quantized import Quantized
from snn2chip.train.retrain import Iir
from snn2chip.verify import ladder

CONV = {"type": "conv", "channels": 6}
LAST = {"type": "dense", "features": "classes", "neuron": False}
FLAT = {"type": "flatten"}
MEAN = {"type": "globalavgpool"}
HIDDEN = {"type": "dense", "features": 12, "norm": "tdbn"}
POOLED = {"type": "residual", "channels": 8, "stride": 2, "projection": "pool", "identity": "none", "blocks": 2}
FORMS: dict[str, list[dict[str, Any]]] = {
    "vgg": [CONV, {"type": "avgpool"}, {"type": "conv", "channels": 8, "stride": 2}, MEAN, LAST],
    "dense": [CONV, {"type": "maxpool"}, {"type": "avgpool"}, FLAT, HIDDEN, LAST],
    "bias": [{**CONV, "norm": "none", "bias": True}, {**CONV, "depthwise": True, "bias": True}, FLAT, LAST],
    "residual": [CONV, {"type": "residual", "channels": 8, "stride": 2, "blocks": 2}, MEAN, LAST],
    "pooled": [CONV, POOLED, FLAT, LAST],
}


@pytest.fixture(scope="module")
def digits() -> Sets:
    return data.load("digits", "train"), data.load("digits", "test")


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory, digits: Sets) -> Path:
    """The shipped recipe of the digits, for four epochs."""
    folder = tmp_path_factory.mktemp("start")
    chosen = recipe.load("digits-tdbn", ["train.epochs=4"])
    assert list(Trainer(chosen, *digits, folder).run())
    return folder / "model.pt"


def made_with(form: str, **changes: Any) -> Recipe:
    return tiny_recipe(model__layers=FORMS[form], model__timesteps=3, **changes)


def trained(chosen: Recipe, digits: Sets, folder: Path) -> Path:
    assert list(Trainer(chosen, digits[0], digits[1].subset(40), folder, fuse=False).run())
    return folder / "model.pt"


def exact(model: model_file.Model, images: Tensor, folder: Path, **options: Any) -> ladder.Verdict:
    """Export, read back and verify; every rung, decisions included, without one mismatch."""
    chip = chips.load("loihi2")
    netx.save(folder / "model.net", pipeline.export(model, chip, **options).chain)
    verdict = ladder.verify(model, netx.load(folder / "model.net"), images.numpy(), with_lava=False)
    found = {rung.name: rung.mismatches for rung in verdict.rungs}
    assert found["folded ~ integers"] == found["folded = integers"] == 0
    assert verdict.passed and not any(found.values()), found
    return verdict


# ------------------------------------------------------------------------------------- training = integers


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_training_is_what_is_exported(bits: int, start: Path, digits: Sets, tmp_path: Path) -> None:
    """The network in training, in eval mode, decides as the file's integers on every test image; the ladder is exact
    on all of them, spike for spike; and it has learnt."""
    run = Iir(start, tmp_path, timesteps=None, bits=bits, epochs=2, lr=1e-3)
    (stage,) = run.stages
    with run.hold():
        trainer = run.trainer(stage, *digits)
        assert trainer is not None and trainer.quantized is not None
        assert list(trainer.run())
    assert stage.model == tmp_path / f"T4-{bits}bit" / "model.pt"
    model = model_file.load(stage.model)
    images = digits[1].images
    verdict = exact(model, images, tmp_path)
    assert next(rung for rung in verdict.rungs if rung.name == "folded ~ integers").compared == len(images) == 359
    with torch.no_grad():
        scores = trainer.quantized.deployed()(images)
        assert torch.equal(scores, model.network(images))
    chain = netx.load(tmp_path / "model.net")
    found = DenseEngine(chain).run(chain.port(encoder_of(capture(model.network))(images.numpy())), keep=False).scores
    assert np.array_equal(scores.double().numpy() * model.network.timesteps, found / 64)
    decided = int((torch.from_numpy(found).argmax(1) == digits[1].labels).sum())
    assert decided == round(model.metrics["float_accuracy"] * 359) > 0.93 * 359
    most = 2**bits - 2
    for layer in chain.layers:
        assert np.abs(layer.weight).max() <= most
        assert not (layer.weight % 2).any() or np.abs(layer.weight).max() <= most // 2


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("bits", "freeze"), [(8, 0.5), (3, 1.0), (2, 0.0)])
def test_every_form_is_exact(form: str, bits: int, freeze: float, digits: Sets, tmp_path: Path) -> None:
    """Pooling, residual blocks with relays, biases, max pooling; with layers of other bits."""
    before = trained(made_with(form, train__epochs=5, train__lr=2e-2), digits, tmp_path / "start")
    table = {"weight_bits": bits, "freeze": freeze, "layers": {"conv1": 8}}
    chosen = made_with(form, train__quantize=table)
    trainer = Trainer(chosen, digits[0], digits[1].subset(40), tmp_path / "whole", init=before, fuse=False)
    assert list(trainer.run())
    model = model_file.load(tmp_path / "whole" / "model.pt")
    exact(model, digits[1].images[:40], tmp_path)
    for node in pipeline.export(model, chips.load("loihi2")).quantized.nodes:
        if isinstance(node, (ir.Conv, ir.Dense)) and node.name != "pool1.window":
            most = 254 if node.name == "conv1" else 4 * (2**bits - 2)  # shortcuts may read four copies
            assert np.abs(node.weight).max() <= most, node.name


@given(st.integers(0, 2**16), st.sampled_from([2, 3, 4, 6, 8]), st.sampled_from(["vgg", "dense", "residual"]))
@settings(max_examples=12, deadline=None)
def test_the_rounding_of_a_step_is_the_exporters(seed: int, bits: int, form: str) -> None:
    """Any weights and statistics: the exporter, given the folded network at the step's scales, rounds to the same
    numbers; and what the step computes with, in the second part, are those."""
    from snn2chip.passes.quantize import quantize_at

    torch.manual_seed(seed)
    chosen = made_with(form, train__quantize={"weight_bits": bits})
    network = model_file.build_network(chosen, (1, 8, 8), 10, 16, [0.3], [0.4])
    for module in network.modules():
        if isinstance(module, TDBatchNorm):
            module.running_mean.normal_()
            module.running_var.uniform_(0.1, 3)
            module.weight.data.uniform_(-2, 2)
            module.bias.data.normal_(std=0.3)
    made = Quantized(network, chosen, 10, fresh=True, fuse=False)
    integers = made.integers()
    folded, plan = made._folded()
    chip = chips.load("loihi2")
    scales = {name: item.scale for name, item in integers.items()}
    if form == "dense":  # max pooling: an OR, at the scale that is exact
        scales["pool1.window"] = next(
            layer.scale for layer in quantize(folded, chip, plan)[1].layers if layer.name == "pool1.window"
        )
    expected = quantize_at(folded, chip, plan, scales, {}, bits=dict.fromkeys(integers, bits))
    whole = fold(capture(made.deployed()))[0]
    exported, report = quantize(whole, chip, schedule(whole, chip))
    for node in expected.nodes:
        known = node.name in {item.name for item in exported.nodes} and not node.name.startswith("pool1")
        theirs = exported[node.name] if known else None
        if theirs is not None and hasattr(node, "weight"):
            assert np.array_equal(node.weight, theirs.weight), node.name  # type: ignore[attr-defined]
        if theirs is not None and hasattr(node, "voltage_decay"):
            assert (node.threshold, node.voltage_decay) == (theirs.threshold, theirs.voltage_decay)  # type: ignore
    assert all(layer.scale == 1 for layer in report.layers if layer.name != "pool1.window")
    assert [layer.proved for layer in report.layers] == [True] * len(report.layers)
    made.whole.train()
    images = torch.randint(0, 17, (3, 1, 8, 8))
    step = made(images, frozen=True)
    last = integers["dense1" if form != "dense" else "dense2"].scale
    assert torch.equal(step, made.deployed()(images) / last)


def test_gradients_reach_what_is_trained(digits: Sets, tmp_path: Path) -> None:
    """In both parts: weights, gamma, beta, learned thresholds and scales, all of them finite."""
    neuron = {"trainable_tau": True, "trainable_threshold": True}
    base = made_with("residual", model__neuron=neuron, train__epochs=5, train__lr=2e-2)
    before = trained(base, digits, tmp_path / "start")
    chosen = made_with("residual", model__neuron=neuron, train__quantize={"weight_bits": 3})
    trainer = Trainer(chosen, *digits, tmp_path / "whole", init=before, fuse=False)
    made = trainer.quantized
    assert made is not None
    images, labels = digits[0].images[:64], digits[0].labels[:64]
    for frozen in (False, True):
        trainer.network.zero_grad()
        torch.nn.functional.cross_entropy(made(images, frozen=frozen), labels).backward()
        for name, parameter in trainer.network.named_parameters():
            silent = not frozen and "tau" in name  # the decay's rounding is left to the second part
            assert parameter.grad is not None, (frozen, name)
            assert silent or bool(parameter.grad.abs().sum() > 0), (frozen, name)
            assert bool(torch.isfinite(parameter.grad).all())


# ------------------------------------------------------------------------------------- the neuron of integers


@given(
    st.integers(1, 4095), st.integers(1, 2000), st.integers(2, 9), st.integers(0, 2**16), st.booleans(), st.booleans()
)
@settings(max_examples=60, deadline=None)
def test_the_neuron_of_integers_is_the_chips(
    keep: int, threshold: int, steps: int, seed: int, fuse: bool, double: bool
) -> None:
    """Spikes of any decay: those of the chip's int32 arithmetic, compiled, in torch, in float64."""
    rng = torch.Generator().manual_seed(seed)
    current = torch.randint(-4000, 4000, (steps, 1, 257), generator=rng)
    lif = LIF(keep / 4096, float(threshold), whole=True)
    if fuse:
        fuse_neurons(lif, torch.device("cpu"))
    found = lif((current.double() if double else current.float()).requires_grad_())
    zero = torch.zeros(1, 257, dtype=torch.int32)
    u, v = zero, zero
    for step in range(steps):
        u, v, spikes = arith.step(u, v, current[step].int(), 0, threshold=threshold, voltage_decay=4096 - keep)
        assert torch.equal(found[step].bool(), spikes)
    found.sum().backward()


# ------------------------------------------------------------------------------------- stopped and resumed


@pytest.mark.parametrize("place", [3, 12])
def test_a_stage_broken_off_goes_on_to_the_same_bits(place: int, start: Path, digits: Sets, tmp_path: Path) -> None:
    """In either part, with learned scales; finished, it is taken as it is; model.pt and float.pt are the same."""
    options: dict[str, Any] = {
        "timesteps": 2, "step": 2, "bits": 3, "epochs": 1, "final_epochs": 2, "settings": ["data.train_limit=512"],
    }  # fmt: skip
    sets = digits[0], digits[1].subset(60)
    for name, stop in (("whole", None), ("broken", place)):
        run = Iir(start, tmp_path / name, **options)
        assert [stage.folder.name for stage in run.stages] == ["T2", "T2-3bit"]
        assert [stage.recipe.train.epochs for stage in run.stages] == [1, 2]
        with run.hold():
            for stage in run.stages:
                trainer = run.trainer(stage, *sets, fuse=False)
                assert trainer is not None
                for count, _ in enumerate(trainer.run()):
                    if stage.bits and count == stop:
                        break
    again = Iir(start, tmp_path / "broken", **options, resume=True)
    assert [stage.finished for stage in again.stages] == [True, False]
    with again.hold():
        trainer = again.trainer(again.stages[1], *sets, fuse=False)
        assert trainer is not None and list(trainer.run())
        row = again.measure(again.stages[1], sets[1])
    assert row["weight_bits"] == 3
    assert row["accuracy"] == trainer.metrics["float_accuracy"]
    for file in ("model.pt", "float.pt"):
        assert_equal(*(state_of(tmp_path / name / "T2-3bit" / file) for name in ("whole", "broken")))
    assert Iir(start, tmp_path / "broken", **options, resume=True).stages[1].finished
    assert "log_scales" not in state_of(tmp_path / "broken" / "T2-3bit" / "float.pt")
    Iir(tmp_path / "broken" / "T2-3bit" / "float.pt", tmp_path / "further", timesteps=None, bits=2)
    with pytest.raises(InputError, match=r"is in integers already; go on from the 'float.pt'"):
        Iir(tmp_path / "broken" / "T2-3bit" / "model.pt", tmp_path / "no", timesteps=None, bits=2)


# ------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("layers", "table", "error", "words"),
    [
        ([{**CONV, "norm": "bntt"}, {"type": "flatten"}, LAST], {}, UnsupportedError, "'norm1': BNTT of 3 steps"),
        ([CONV, {"type": "avgpool", "kernel": 3}, {"type": "flatten"}, LAST], {}, UnsupportedError, "3 x 3 pixels"),
        (FORMS["vgg"], {"layers": {"conv9": 4}}, InputError, "'conv9' is not one of conv1, conv2, dense1"),
        (FORMS["vgg"], {"chip": "loihi7"}, InputError, "unknown chip 'loihi7'"),
    ],
)
def test_what_cannot_be_trained_is_refused_by_name(
    layers: list[dict[str, Any]],
    table: dict[str, Any],
    error: type[Exception],
    words: str,
    digits: Sets,
    tmp_path: Path,
) -> None:
    """With the layer and the reason."""
    chosen = tiny_recipe(model__layers=layers, model__timesteps=3, train__quantize=table)
    network = model_file.build_network(chosen, (1, 8, 8), 10, 16, [0.3], [0.4])
    with pytest.raises(error, match=words):
        Quantized(network, chosen, 10, fresh=True, fuse=False)


def test_bntt_of_one_step_trains_in_integers(digits: Sets, tmp_path: Path) -> None:
    """Where it is a batch norm like any other."""
    layers = [{**CONV, "norm": "bntt"}, {"type": "flatten"}, LAST]
    chosen = {"model__layers": layers, "model__timesteps": 1}
    before = trained(tiny_recipe(**chosen), digits, tmp_path / "start")
    quantized = tiny_recipe(**chosen, train__quantize={"weight_bits": 4})
    assert list(Trainer(quantized, *digits, tmp_path / "whole", init=before, fuse=False).run())
    exact(model_file.load(tmp_path / "whole" / "model.pt"), digits[1].images[:60], tmp_path)


def test_integers_are_neither_trained_nor_exported_with_fewer_bits(start: Path, digits: Sets, tmp_path: Path) -> None:
    """A recipe of integers, a start from nothing, and a file for a chip that cannot hold them."""
    with pytest.raises(InputError, match=r"train.quantize goes on from a trained network"):
        Trainer(made_with("vgg", train__quantize={}), *digits, tmp_path)
    with pytest.raises(InputError, match=r"model.integers is what retrain --quantize leaves"):
        Trainer(made_with("vgg", model__integers=True), *digits, tmp_path)
    chosen = recipe.load("digits-tdbn", ["train.epochs=1", "data.train_limit=128", "train.quantize.weight_bits=4"])
    assert list(Trainer(chosen, *digits, tmp_path / "whole", init=start, fuse=False).run())
    model = model_file.load(tmp_path / "whole" / "model.pt")
    chip = chips.load("loihi2")
    pipeline.export(model, chip.with_weight_bits(4))
    with pytest.raises(InputError, match=r"layer 'conv1': its integers \(weights up to 14, threshold \d+\) do not fit"):
        pipeline.export(model, chip.with_weight_bits(2))
    state = model.network.get_parameter("body.conv1.weight")
    state.data[0, 0, 0, 0] = 0.5
    with pytest.raises(InputError, match=r"layer 'conv1': weight 0.5 is not whole"):
        capture(model.network)


@pytest.mark.parametrize("tau", [0.25, 0.3])
def test_a_format_of_real_numbers_takes_what_rounding_leaves_alone(tau: float, start: Path, tmp_path: Path) -> None:
    """tau = 1/4 loses nothing of 64ths in four steps: float ONNX and NIR say all of it. 0.3 does, and is refused."""
    plain = fold(capture(model_file.load(start).network))[0]
    nodes = [replace(node, tau=tau, grain=1 / 64) if isinstance(node, ir.LIF) else node for node in plain.nodes]
    folded = plain.with_nodes("folded", nodes)
    assert folded.integers and folded.timesteps == 4
    for save in (onnx.save, nir.save):
        if tau == 0.25:
            save(tmp_path / "out", folded)
        else:
            with pytest.raises(
                UnsupportedError, match=r"layer 'lif1': its membrane is rounded .* its model\.net as ONNX"
            ):
                save(tmp_path / "out", folded)


def test_the_command(start: Path, tmp_path: Path, cli: Command) -> None:
    """retrain --quantize, fold-and-export and verify; --weight-bits alone and neither of the two are refused."""
    options = ["--out", str(tmp_path / "out"), "--epochs", "1", "--set", "data.train_limit=128"]
    assert cli("retrain", str(start), "--quantize", "--weight-bits", "4", *options).code == 0
    model = tmp_path / "out" / "T4-4bit" / "model.pt"
    assert cli("fold-and-export", str(model)).code == 0
    done = cli("verify", "--no-lava", str(model), str(model.with_suffix(".net")), "--samples", "30")
    assert done.code == 0 and "folded = integers" in done.out
    done = cli("retrain", str(start), "--weight-bits", "4", *options)
    assert (done.code, "--weight-bits is for --quantize" in done.err) == (2, True)
    done = cli("retrain", str(start), *options)
    assert (done.code, "nothing to retrain for" in done.err) == (2, True)
