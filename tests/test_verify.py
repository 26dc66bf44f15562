"""The ladder: it passes what is right, and names the layer of what is wrong, whatever is wrong."""

from __future__ import annotations

import contextlib
import copy
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from conftest import Command, Quickstart
from helpers import images_for, spiking_network
from numpy.typing import NDArray

from snn2chip import chip, ir
from snn2chip.backends import lava
from snn2chip.chip import neuron as arith
from snn2chip.errors import InputError
from snn2chip.formats import netx
from snn2chip.ir.trace import Trace
from snn2chip.nn import LIF, AvgPool2d, Conv2d, Flatten, Linear, TDBatchNorm, model_file
from snn2chip.passes import fold, pipeline
from snn2chip.passes.capture import capture
from snn2chip.recipe import Recipe
from snn2chip.simulate import activity
from snn2chip.simulate.dense import DenseEngine
from snn2chip.simulate.events.library import unavailable
from snn2chip.verify import ladder
from snn2chip.verify.compare import Difference, Rung, Verdict, compare, module_spikes, rung_of
from snn2chip.verify.integers import same_integers
from snn2chip.verify.ladder import verify

ABOVE = ("torch = captured", "captured = folded", "integers = file", "graph = chain")
ENGINES = ("reference = dense", *(("dense = events",) if unavailable() is None else ()))  # needs a compiler
EXACT = ABOVE + ENGINES


def rung(verdict: Verdict, name: str) -> Rung:
    return next(item for item in verdict.rungs if item.name == name)


# --------------------------------------------------------------------------- a network with everything that folds


@pytest.fixture(scope="module")
def model(tiny: Callable[..., Recipe]) -> model_file.Model:
    """Four layers of neurons; the second norm has alpha 1/sqrt(2), the third tiny variances; a pool on each side.

    Weights, means, variances, gamma of both signs and beta are drawn so that every part of the fold matters.
    """
    generator = torch.Generator().manual_seed(3)
    network = spiking_network(
        [
            ("conv1", Conv2d(2, 6, 3, padding=1, bias=False)),
            ("norm1", TDBatchNorm(6)),
            ("lif1", LIF()),
            ("pool1", AvgPool2d(2)),
            ("conv2", Conv2d(6, 6, 3, padding=1, bias=True)),
            ("norm2", TDBatchNorm(6, alpha=1 / math.sqrt(2))),
            ("lif2", LIF()),
            ("conv3", Conv2d(6, 6, 3, padding=1, bias=False)),
            ("norm3", TDBatchNorm(6)),
            ("pool2", AvgPool2d(2)),
            ("lif3", LIF()),
            ("flatten1", Flatten()),
            ("dense1", Linear(24, 8, bias=False)),
            ("norm4", TDBatchNorm(8)),
            ("lif4", LIF()),
            ("dense2", Linear(8, 4)),
        ],
        (2, 8, 8),
        timesteps=3,
        max_value=15,
    )
    with torch.no_grad():
        for name, module in network.body.named_children():
            if isinstance(module, (Conv2d, Linear)):
                module.weight.copy_(torch.randn(module.weight.shape, generator=generator) / 2)
                if name == "conv3":
                    module.weight.mul_(2e-3)  # variances near 1e-6: eps is most of the denominator
        for module in network.body:
            if isinstance(module, TDBatchNorm):
                module.weight.copy_(1 + 0.5 * torch.rand(module.weight.shape, generator=generator))
                module.weight[0] *= -1
                module.bias.copy_(0.6 * torch.rand(module.bias.shape, generator=generator))
                module.momentum = 1.0
        network.train()
        network(images_for(network, 16, seed=5))  # the running statistics
        network.eval()
    recipe = tiny()
    return model_file.Model(network, recipe, 15, tuple("abcd"), {})


@pytest.fixture(scope="module")
def images(model: model_file.Model) -> NDArray[Any]:
    return images_for(model.network, 6, seed=9).numpy()


def export(model: model_file.Model) -> ir.Chain:
    return pipeline.export(model, chip.load("loihi2")).chain


def test_a_correct_export_passes(model: model_file.Model, images: NDArray[Any]) -> None:
    """Every exact rung compares something and finds nothing."""
    norm3 = model.network.body.norm3
    assert float(norm3.running_var.max()) < 1e-4  # what the tests below rely on
    verdict = verify(model, export(model), images, labels=np.zeros(6, dtype=np.int64), with_lava=False)
    assert verdict.passed
    for name in EXACT:
        item = rung(verdict, name)
        assert (item.passed, item.mismatches, item.first) == (True, 0, None)
        assert item.compared > 500
    raw = np.repeat(images[:, None], 3, 1).astype(np.int64)
    spikes = module_spikes(model.network, raw)[0]
    assert all(0.02 < values.mean() < 0.98 for values in spikes.values())  # every layer is alive
    assert verdict.notes == ()
    trained = {name: int(values.sum()) for name, values in spikes.items()}
    chain = export(model)
    dense = DenseEngine(chain).run(chain.port(raw))
    integers = {f"lif{layer + 1}": int(dense.spikes[chain.layers[layer].name].sum()) for layer in range(4)}
    for item in verdict.rungs:
        floats = item.name in ("torch = captured", "captured = folded")
        assert item.spikes == (trained if floats else {} if item.name == "integers = file" else integers)


@pytest.mark.parametrize("wrong", [False, True])
def test_many_samples_are_compared_a_part_at_a_time(
    model: model_file.Model, images: NDArray[Any], monkeypatch: pytest.MonkeyPatch, wrong: bool
) -> None:
    """With the same verdict: counts, what is the largest, the accuracy, the first difference and its sample."""
    chain = export(model)
    if wrong:
        run, fifth = DenseEngine.run, chain.port(np.repeat(images[4:5, None].astype(np.int64), 3, 1))

        def late(self: DenseEngine, port: ir.IntArray, *, keep: bool = True) -> Trace:
            found = run(self, port, keep=keep)
            if keep:
                found.spikes[chain.layers[1].name][(port == fifth).all((1, 2, 3, 4))] ^= True
            return found

        monkeypatch.setattr(DenseEngine, "run", late)
    labels = np.arange(6) % 4
    whole = verify(model, chain, images, labels=labels, with_lava=False)
    each = chain.timesteps * sum(int(np.prod(layer.shape)) for layer in chain.layers)
    monkeypatch.setattr(ladder, "_HELD", 2 * each)
    seen: list[tuple[int, int]] = []
    parts = verify(model, chain, images, labels=labels, with_lava=False, progress=lambda *at: seen.append(at))
    assert parts == whole and whole.passed != wrong
    assert seen == [(done, 3 * len(whole.rungs)) for done in range(3 * len(whole.rungs))]
    if wrong:
        first = rung(parts, "reference = dense").first
        assert first is not None and first.sample == 4


def changed(model: model_file.Model, layer: str, shift: float) -> model_file.Model:
    """The same model with beta of a normalization shifted: nothing fires behind it, or everything does."""
    network = copy.deepcopy(model.network)
    with torch.no_grad():
        network.body.get_submodule(layer).bias.add_(shift)  # type: ignore[operator, union-attr]
    return replace(model, network=network)


def test_a_silent_network_fails(model: model_file.Model, images: NDArray[Any]) -> None:
    """Every stage is equal to every other where nothing fires: said, and refused, as no input changes the scores."""
    silent = changed(model, "norm2", -5.0)  # some input could make it fire, by its bounds: else export refuses it
    for some, where in ((images, "these 6 samples"), (images[:1], "this one sample")):
        verdict = verify(silent, export(silent), some, with_lava=False)
        assert [item.name for item in verdict.rungs if not item.passed] == ["folded ~ integers"]
        failed = rung(verdict, "folded ~ integers")
        assert failed.detail.startswith("the scores do not depend on the input: ")
        assert failed.spikes["lif1"] > 0
        assert failed.spikes["lif2"] == 0
        assert "'lif2" in verdict.notes[0]
        assert verdict.notes[0].endswith(f"no neuron fires in {where}")


def test_every_command_names_a_silent_layer(quickstart: Quickstart, tmp_path: Path, cli: Command) -> None:
    """Export by its calibration images, simulate, verify (exit code 1) and the page, in the same words."""
    trained = model_file.load(quickstart.model)
    with torch.no_grad():
        trained.network.body.norm2.bias.sub_(8)  # type: ignore[operator, union-attr]
    about: dict[str, Any] = {"max_value": 16, "classes": trained.classes, "metrics": trained.metrics}
    model_file.save(tmp_path / "model.pt", trained.network, trained.recipe, **about)
    model, net = tmp_path / "model.pt", tmp_path / "model.net"
    printed = cli("fold-and-export", model, "-o", net, "--json", tmp_path / "export.json").ok()
    assert "note: layer 'lif2': no neuron fires in the 64 calibration images\n" in printed
    assert "calibration: 64 of 64 decisions as in the trained network" in printed
    report = json.loads((tmp_path / "export.json").read_text())["quantize"]
    assert (report["agree"], report["agree_plain"], report["plain"]) == (64, 64, [])
    assert [row["spikes"] == 0 for row in report["layers"]] == [False, True, False, False, False]
    assert [row["spikes_wanted"] == 0 for row in report["layers"]] == [False, True, False, False, False]
    cli("report", tmp_path).ok()  # begins the page
    printed = cli("simulate", net, "--limit=100", "--json", tmp_path / "simulate.json").ok()
    assert "note: layer '2 (lif2)': no neuron fires in these samples\n" in printed
    assert "note: the scores of all 100 samples are the same\n" in printed
    done = cli("verify", model, net, "--no-lava", "--samples=4", "--json", tmp_path / "verify.json")
    assert done.code == 1
    assert "note: layer 'lif2': no neuron fires in these 4 samples\n" in done.out
    assert done.err.startswith("error: folded ~ integers: the scores do not depend on the input: ")
    assert len(done.err.strip().splitlines()) == 1
    page = (tmp_path / "report.html").read_text()
    assert "note: layer &#39;2 (lif2)&#39;: no neuron fires in these samples" in page
    assert "note: layer &#39;lif2&#39;: no neuron fires in these 4 samples" in page


def test_a_layer_that_fires_in_one_stage_alone_is_named_with_it() -> None:
    """Never and always, one line each; nothing for layers in between, or without neurons."""
    trained = {"a": (0, 4), "b": (4, 4), "c": (1, 4), "d": (0, 0)}
    assert activity.of_stages(trained, trained, "these 2 samples") == [
        "layer 'a': no neuron fires in these 2 samples",
        "layer 'b': every neuron fires at every step in these 2 samples",
    ]
    assert activity.of_stages({"a": (1, 4), "b": (2, 4)}, {"a": (0, 4), "b": (0, 4)}, "it") == [
        "layers 'a', 'b': no neuron fires in it, in the chip's integers"
    ]


def test_a_layer_that_always_fires_is_named(model: model_file.Model, images: NDArray[Any]) -> None:
    """It passes nothing on either; what is behind it does not depend on the input."""
    steady = changed(model, "norm1", 100.0)
    verdict = verify(steady, export(steady), images, with_lava=False)
    assert any(note.startswith("layer") and "'lif1" in note and "every neuron fires" in note for note in verdict.notes)
    assert rung(verdict, "torch = captured").spikes["lif1"] == 6 * 3 * 6 * 8 * 8
    assert not rung(verdict, "folded ~ integers").passed


def test_equal_samples_do_not_fail(model: model_file.Model, images: NDArray[Any]) -> None:
    """Scores that are equal for the samples at hand are said, and are no fault of a network that tells others apart."""
    verdict = verify(model, export(model), np.repeat(images[:1], 3, 0), with_lava=False)
    assert verdict.passed
    assert verdict.notes == ("the scores of all 3 samples are the same; those of other input are not",)


def test_a_wrapped_network_is_saved_as_what_it_holds(model: model_file.Model, tmp_path: Path) -> None:
    """DataParallel and torch.compile call tensors by other names; model.pt does not."""
    recipe = model.recipe.model_copy()
    network = model_file.build_network(recipe, (1, 8, 8), 10, 16)
    for wrapped in (torch.nn.DataParallel(network), torch.compile(network)):
        path = tmp_path / "model.pt"
        model_file.save(path, wrapped, recipe, max_value=16, classes=list("0123456789"), metrics={})  # type: ignore[arg-type]
        loaded = model_file.load(path).network.state_dict()
        assert set(loaded) == set(network.state_dict())
        assert all(torch.equal(loaded[name], value) for name, value in network.state_dict().items())


@pytest.mark.lava
def test_a_correct_export_passes_in_lava(
    model: model_file.Model,
    images: NDArray[Any],
    tmp_path: Path,
    lava_environment: lava.Environment,
) -> None:
    """Lava runs the file and says the same, spikes and voltages of every layer."""
    netx.save(tmp_path / "model.net", export(model))
    chain = netx.load(tmp_path / "model.net")
    verdict = verify(model, chain, images, net_path=tmp_path / "model.net")
    assert verdict.passed
    last = verdict.rungs[-1]
    neurons = sum(int(np.prod(layer.shape)) for layer in chain.layers)
    assert (last.name, last.mismatches, last.compared) == ("dense = Lava", 0, 2 * 6 * 3 * neurons)


# ------------------------------------------------------------------------------------------- wrong folds

right_gain, right_norm = fold.norm_gain, fold._after_norm
right_pool_before, right_pool_after = fold._pool_before_conv, fold._pool_after_conv


def without_own_bias(synapse: ir.Synapse, norm: ir.Norm) -> ir.Synapse:
    """The convolution's own bias is left as it is instead of being scaled: the usual mistake."""
    folded = right_norm(synapse, norm)
    if synapse.bias is None or folded.bias is None:
        return folded
    return replace(folded, bias=folded.bias - right_gain(norm) * synapse.bias + synapse.bias)


def flipped(synapse: ir.Synapse, norm: ir.Norm) -> ir.Synapse:
    folded = right_norm(synapse, norm)
    return replace(folded, weight=folded.weight[..., ::-1].copy()) if norm.name == "norm2" else folded


def without(field: str, where: str, right: Callable[..., Any]) -> Callable[..., Any]:
    """`right`, whose last argument is a normalization, with a field of one of them 0."""

    def wrong(*given: Any) -> Any:
        *synapse, norm = given
        return right(*synapse, replace(norm, **{field: 0 * getattr(norm, field)}) if norm.name == where else norm)

    return wrong


def times(factor: int, right: Callable[..., ir.Conv]) -> Callable[..., ir.Conv]:
    return lambda *given: replace(made := right(*given), weight=made.weight * factor)


# what is replaced in snn2chip.passes.fold, by what, and the layer that is wrong first because of it
WRONG = {
    "eps left out": ("norm_gain", without("eps", "norm3", right_gain), "lif3", "conv3"),
    "alpha dropped": ("norm_gain", lambda norm: right_gain(replace(norm, alpha=1.0)), "lif2", "conv2"),
    "sign of gamma lost": ("norm_gain", lambda norm: np.abs(right_gain(norm)), "lif1", "conv1"),
    "beta forgotten": ("_after_norm", without("beta", "norm4", right_norm), "lif4", "dense1"),
    "mean forgotten": ("_after_norm", without("mean", "norm1", right_norm), "lif1", "conv1"),
    "bias not scaled": ("_after_norm", without_own_bias, "lif2", "conv2"),
    "kernel flipped": ("_after_norm", flipped, "lif2", "conv2"),
    "pool before divided wrongly": ("_pool_before_conv", times(2, right_pool_before), "lif2", "conv2"),
    "pool after divided wrongly": ("_pool_after_conv", times(4, right_pool_after), "lif3", "conv3"),
}


@contextlib.contextmanager
def wrongly(name: str) -> Iterator[None]:
    """Inside, folding is wrong in this way."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fold, *WRONG[name][:2])
        yield


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_fold_is_caught_and_its_layer_named(name: str, model: model_file.Model, images: NDArray[Any]) -> None:
    """A fold that is wrong when verifying too fails 'captured = folded', at the layer that is wrong."""
    with wrongly(name):
        verdict = verify(model, export(model), images, with_lava=False)
    assert not verdict.passed
    assert [item.name for item in verdict.rungs if not item.passed] == ["captured = folded"]
    failed = rung(verdict, "captured = folded")
    assert failed.mismatches > 0
    assert failed.first is not None
    _, _, neuron, synapse = WRONG[name]
    assert failed.first.layer == neuron
    assert failed.first.step == 0  # a wrong weight or bias shows from the first step on
    assert len(failed.first.neuron) == (1 if neuron == "lif4" else 3)
    assert f"{synapse}, " in failed.detail


@pytest.mark.parametrize("name", WRONG)
def test_a_wrongly_folded_file_is_caught_and_its_layer_named(
    name: str, model: model_file.Model, images: NDArray[Any]
) -> None:
    """A file made by a wrong fold fails 'integers = file' when a right one verifies it, at the layer; and what it
    does is not what the right network does, from the same layer on."""
    with wrongly(name):
        wrong = export(model)
    verdict = verify(model, wrong, images, with_lava=False)
    assert not verdict.passed
    assert [item.name for item in verdict.rungs if not item.passed] == ["integers = file", "graph = chain"]
    failed = rung(verdict, "integers = file")
    _, _, neuron, synapse = WRONG[name]
    ran = rung(verdict, "graph = chain").first
    assert ran is not None
    assert (ran.layer, ran.step) == (neuron, 0)
    assert len(ran.neuron) == (1 if neuron == "lif4" else 3)
    assert failed.first is not None
    assert (failed.first.layer, failed.first.sample, failed.first.step) == (neuron, None, None)
    assert f"of '{neuron}' (" in failed.detail
    assert f"{synapse})" in failed.detail
    assert failed.mismatches > 0


def test_a_wrong_fold_too_small_for_a_spike_is_caught(
    model: model_file.Model, images: NDArray[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A membrane that is off by a millionth flips no spike of six images, and is wrong all the same."""
    monkeypatch.setattr(fold, "norm_gain", lambda norm: right_gain(norm) * (1 + 1e-6 * (norm.name == "norm1")))
    verdict = verify(model, export(model), images, with_lava=False)
    failed = rung(verdict, "captured = folded")
    assert not failed.passed
    assert failed.first is not None
    assert failed.first.layer == "lif1"


@pytest.mark.parametrize(
    ("owner", "stage", "layer", "change", "failing"),
    [
        (ladder, "capture", "dense2", {"bias": None}, "torch = captured"),
        (fold, "fold", "dense2", {"bias": None}, "captured = folded"),
        (ladder, "capture", "lif3", {"tau": 0.5}, "torch = captured"),
    ],
    ids=["a readout captured without its bias", "a readout folded without its bias", "a leak captured wrongly"],
)
def test_a_wrong_stage_is_caught_and_its_layer_named(
    owner: Any, stage: str, layer: str, change: dict[str, Any], failing: str,
    model: model_file.Model, images: NDArray[Any], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """By name: a readout's bias shows in no spike and no membrane, in the scores alone; a leak in the second step, as
    the first has none yet."""
    right = getattr(owner, stage)

    def wrong(*given: Any) -> Any:
        made = right(*given)
        network, *report = made if isinstance(made, tuple) else (made,)
        nodes = [replace(node, **change) if node.name == layer else node for node in network.nodes]
        network = network.with_nodes(network.stage, nodes)
        return (network, *report) if report else network

    chain = export(model)
    monkeypatch.setattr(owner, stage, wrong)
    verdict = verify(model, chain, images, with_lava=False)
    failed = rung(verdict, failing)
    assert not failed.passed and failed.first is not None and failed.first.layer == layer
    if layer == "lif3":
        assert failed.first.step is not None and failed.first.step >= 1
        decay = rung(verdict, "integers = file")
        assert decay.first == Difference("lif3", None, None, [0]) and "decay of 'lif3'" in decay.detail
    else:
        assert failed.first.sample == 0


def test_every_number_of_a_layer_is_compared(model: model_file.Model) -> None:
    """Geometry that changes nothing (a dilation of one tap), groups and decays: each is a difference, and named."""
    folded, _ = fold.fold(capture(model.network, model.classes))
    chain = export(model)
    for what, value in (
        ("stride", (2, 1)),
        ("padding", (1, 2)),
        ("dilation", (1, 2)),
        ("groups", 2),
        ("current_decay", 4095),
        ("voltage_decay", 1),
    ):
        layers = (chain.layers[0], replace(chain.layers[1], **{what: value}), *chain.layers[2:])  # type: ignore[arg-type]
        found = rung_of("", [same_integers(folded, chain, replace(chain, layers=layers))])
        assert (found.passed, found.proved, found.mismatches) == (False, False, 1), what
        assert what.rpartition("_")[2] in found.detail
    assert rung_of("", [same_integers(folded, chain, chain)]).proved


# ------------------------------------------------------------------------------------------ altered files


def first_of(path: str, amount: int = 1) -> Callable[[h5py.File], None]:
    def alter(file: h5py.File) -> None:
        values = file[path][()]
        flat = np.atleast_1d(values).reshape(-1)
        flat[len(flat) // 2] += amount
        if np.ndim(values):
            file[path][...] = values
        else:
            file[path][()] = flat[0]

    return alter


def attribute(name: str, value: object) -> Callable[[h5py.File], None]:
    def alter(file: h5py.File) -> None:
        file["snn2chip"].attrs[name] = np.bytes_(value.encode()) if isinstance(value, str) else value

    return alter


# The quickstart's layers are 1, 2, 3, (flatten 4), 5 and 6.
ALTERED = {
    "weight of a conv": (first_of("layer/2/weight"), "lif2", "weight of 'lif2' (conv2): 1 of 9216 differ"),
    "weight of a dense": (first_of("layer/5/weight", 2), "lif4", "weight of 'lif4'"),
    "weight of the readout": (
        first_of("layer/6/weight", 2),
        "accumulator",
        "weight of 'accumulator' (dense2): 1 of 640",
    ),
    "bias per neuron": (first_of("layer/1/bias"), "lif1", "bias of 'lif1' (conv1): 1 of 2048 differ"),
    "bias per channel": (first_of("layer/3/bias"), "lif3", "bias of 'lif3' (conv3): 16 of 1024 differ"),
    "threshold": (first_of("layer/3/neuron/vThMant"), "lif3", "threshold of 'lif3'"),
    "voltage decay": (first_of("layer/1/neuron/vDecay"), "lif1", "decay of 'lif1'"),
    "centre": (attribute("input_center", np.array([6])), "input", "centre of 'input': 1 of 1 differ, first 6 in the"),
    "range": (attribute("input_low", -1), "input", "range of 'input': 1 of 2 differ, first -1 in the file, 0 expected"),
    "largest pixel": (attribute("pixel_max", 17), "input", "largest pixel of 'input': 1 of 1 differ, first 17"),
    "readout": (attribute("readout", "spike_count"), "readout", "kind of 'readout': 1 of 1 differ, first spike_count"),
    "classes": (
        attribute("classes", json.dumps(list("1023456789"))),
        "readout",
        "class of 'readout': 2 of 10 differ, first 1 in the file, 0 expected",
    ),
}


@pytest.mark.parametrize("name", ALTERED)
def test_an_altered_file_is_caught_and_named(name: str, quickstart: Quickstart, tmp_path: Path, cli: Command) -> None:
    """One number of the file changed by one: exit code 1, the layer and the number named, and the layer's proof."""
    alter, layer, words = ALTERED[name]
    net = tmp_path / "model.net"
    net.write_bytes(quickstart.net.read_bytes())
    with h5py.File(net, "r+") as file:
        alter(file)
    done = cli("verify", quickstart.model, net, "--no-lava", "--samples=3", "--json", tmp_path / "verify.json")
    assert done.code == 1
    lines = done.err.strip().splitlines()
    assert len(lines) == 1
    # counting the spikes of a readout that accumulates gives 0 for every class, whatever the input: another fault
    also = ["folded ~ integers"] if name == "readout" else []
    assert lines[0].startswith(f"error: {[*also, 'integers = file'][0]}: ")
    assert words in lines[0]
    verdict = json.loads((tmp_path / "verify.json").read_text())
    assert verdict["passed"] is False
    failed = [item for item in verdict["rungs"] if not item["passed"]]
    assert [item["name"] for item in failed[: len(also) + 1]] == [*also, "integers = file"]
    failed = failed[len(also) :]
    assert failed[0]["first"]["layer"] == layer
    ran = [(item["name"], item["first"]["layer"]) for item in failed[1:]]
    # whether these samples see it or not: the network differs, unless the number says nothing of what it computes
    where = "input" if layer == "readout" else layer
    assert ran == ([] if name in ("largest pixel", "classes") else [("graph = chain", where)])
    assert "NOT EQUAL" in done.out


def test_a_file_from_another_model_is_refused(
    model: model_file.Model, quickstart: Quickstart, tmp_path: Path, cli: Command
) -> None:
    """Another architecture is bad input (2), and the message asks the right question."""
    netx.save(tmp_path / "other.net", export(model))
    done = cli("verify", quickstart.model, tmp_path / "other.net", "--no-lava", "--samples=2")
    done.refused("was it exported from another model?")


def test_a_file_with_another_number_of_steps_is_refused(model: model_file.Model, images: NDArray[Any]) -> None:
    """The same layers at another T are another model."""
    with pytest.raises(InputError, match="was it exported from another model"):
        verify(model, replace(export(model), timesteps=2), images, with_lava=False)


def test_other_weights_of_the_same_architecture_are_caught(
    quickstart: Quickstart, tmp_path: Path, cli: Command
) -> None:
    """A file of another training of the same recipe fails with exit code 1, not with a refusal."""
    content = torch.load(quickstart.model, weights_only=True)
    content["state"]["body.norm2.bias"] += 0.05
    torch.save(content, tmp_path / "model.pt")
    done = cli("verify", tmp_path / "model.pt", quickstart.net, "--no-lava", "--samples=2")
    assert done.code == 1
    assert "integers = file" in done.err
    assert "first layer 'lif2'" in done.err


def test_a_bias_that_fits_no_register_at_the_files_scale_is_caught(
    quickstart: Quickstart, tmp_path: Path, cli: Command
) -> None:
    """What the file should have held may exceed the chip; that is a difference to name like any other."""
    content = torch.load(quickstart.model, weights_only=True)
    content["state"]["body.norm2.bias"] += 50
    torch.save(content, tmp_path / "model.pt")
    done = cli("verify", tmp_path / "model.pt", quickstart.net, "--no-lava", "--samples=2")
    assert done.code == 1
    assert "first layer 'lif2'" in done.err


# ----------------------------------------------------------------------------------------- wrong simulators


@pytest.fixture
def biased(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The dense engine's membranes leak by 1/4096 too much."""
    right = arith.decay
    monkeypatch.setattr(arith, "decay", lambda state, amount: right(state, min(amount + 1, 4096) if amount else 0))
    yield


def leaky(model: model_file.Model) -> model_file.Model:
    """The same with tau = 0.3 in the first neuron: at 0.25 a voltage can be decayed three times without rounding."""
    changed = copy.deepcopy(model)
    changed.network.body.lif1.fixed_tau.fill_(0.3)  # type: ignore[operator, union-attr]
    return changed


def test_a_simulator_bug_is_caught(model: model_file.Model, images: NDArray[Any], biased: None) -> None:
    """A leak that is off by one unit fails 'reference = dense', in the second step: the first has none."""
    model = leaky(model)
    verdict = verify(model, export(model), images, with_lava=False)
    assert [item.name for item in verdict.rungs if not item.passed] == list(ENGINES)
    first = rung(verdict, "reference = dense").first
    assert first is not None
    assert first.layer == "lif1"
    assert first.step == 1
    assert len(first.neuron) == 3


@pytest.mark.lava
def test_a_bug_of_all_engines_is_caught_by_lava(
    quickstart: Quickstart,
    monkeypatch: pytest.MonkeyPatch,
    lava_environment: lava.Environment,
) -> None:
    """What all of our engines get wrong in the same way, Lava does not."""
    from snn2chip.simulate import branching as graph
    from snn2chip.simulate import reference

    model, chain = model_file.load(quickstart.model), netx.load(quickstart.net)
    right = reference.run
    wrong = replace(chain, layers=(*chain.layers[:3], replace(chain.layers[3], threshold=1), chain.layers[4]))
    monkeypatch.setattr(reference, "run", lambda _chain, port: right(wrong, port))
    dense = ladder.DenseEngine
    monkeypatch.setattr(ladder, "DenseEngine", lambda _chain: dense(wrong))
    made = ladder.make_engine
    monkeypatch.setattr(ladder, "make_engine", lambda _chain, kind: made(wrong, kind=kind))
    pixels = np.random.default_rng(0).integers(0, 17, (2, 1, 8, 8))
    alone = verify(model, chain, pixels, with_lava=False)  # the engines of chains: what branches is right still
    assert [item.name for item in alone.rungs if not item.passed] == ["graph = chain"]
    shown = rung(alone, "graph = chain").first
    assert shown is not None
    assert shown.layer == "lif4"
    branching = graph.run

    def wrongly(network: ir.Network, port: ir.IntArray) -> graph.GraphTrace:
        nodes = [replace(node, threshold=1) if node.name == "lif4" else node for node in network.nodes]  # type: ignore[call-arg]
        return branching(network.with_nodes("quantized", nodes), port)

    monkeypatch.setattr(graph, "run", wrongly)
    verdict = verify(model, chain, pixels, net_path=quickstart.net)
    assert [item.name for item in verdict.rungs if not item.passed] == ["dense = Lava"]
    first = rung(verdict, "dense = Lava").first
    assert first is not None
    assert first.layer == "lif4"
    assert len(first.neuron) == 1


# --------------------------------------------------------------------------------------- compare and JSON


def test_compare_names_layer_sample_step_and_neuron() -> None:
    """The first layer in order that differs, there the first sample, there the first step; all are counted."""
    first = {"a": np.zeros((2, 3, 4)), "b": np.zeros((2, 3, 2, 2, 2)), "c": np.zeros((2, 3, 1))}
    second = {name: values.copy() for name, values in first.items()}
    assert compare(first, second) == (0, 24 + 48 + 6, None)
    second["c"][0, 0, 0] = 1
    assert compare(first, second) == (1, 78, Difference("c", 0, 0, [0]))
    second["b"][1, 0, 0, 0, 0] = 1
    second["b"][0, 2, 1, 0, 1] = 1
    second["b"][0, 2, 1, 1, 0] = 1
    assert compare(first, second) == (4, 78, Difference("b", 0, 2, [1, 0, 1]))


def test_compare_refuses_what_cannot_be_compared() -> None:
    """A layer that is missing or has another shape is named with both shapes."""
    with pytest.raises(InputError, match=r"layer 'a': arrays of shape \(2, 3\) and None"):
        compare({"a": np.zeros((2, 3))}, {})
    with pytest.raises(InputError, match=r"layer 'a': arrays of shape \(2, 3\) and \(2, 4\)"):
        compare({"a": np.zeros((2, 3))}, {"a": np.zeros((2, 4))})


def test_the_verdict_as_json(quickstart: Quickstart, tmp_path: Path, cli: Command) -> None:
    """Exactly the documented keys and types, and a table with every rung."""
    out = tmp_path / "verify.json"
    printed = cli("verify", quickstart.model, quickstart.net, "--no-lava", "--samples=5", "--json", out).ok()
    verdict = json.loads(out.read_text())
    assert verdict.keys() == {"passed", "rungs", "notes", "samples"}
    assert verdict["passed"] is True
    assert [item["name"] for item in verdict["rungs"]] == [
        "torch = captured",
        "captured = folded",
        "folded ~ integers",
        "integers = file",
        "graph = chain",
        *ENGINES,
    ]
    for item in verdict["rungs"]:
        assert item.keys() == {"name", "passed", "mismatches", "compared", "first", "detail", "proved", "spikes"}
        assert item["passed"] is True
        assert item["proved"] is (item["name"] in ("integers = file", "graph = chain"))
        assert type(item["mismatches"]) is int
        assert type(item["compared"]) is int
        assert item["compared"] > 0
        assert item["name"] in printed
        if item["name"] != "folded ~ integers":
            assert (item["mismatches"], item["first"]) == (0, None)
    assert "every exact rung holds" in printed and printed.count(" proved ") == 2
    assert "decisions agree on" in verdict["rungs"][2]["detail"]
    assert verdict["notes"] == []
    fired = verdict["rungs"][2]["spikes"]
    assert list(fired) == ["lif1", "lif2", "lif3", "lif4"]
    assert f"{sum(fired.values()):,} spikes" in " ".join(printed.replace("│", " ").split())
    assert "spikes a layer" in printed


def test_a_difference_as_json(model: model_file.Model, images: NDArray[Any], biased: None) -> None:
    """`first` has exactly layer, sample, step and neuron, plain numbers that JSON can hold."""
    model = leaky(model)
    verdict = json.loads(json.dumps(verify(model, export(model), images, with_lava=False).as_json()))
    first = verdict["rungs"][-1]["first"]
    assert first.keys() == {"layer", "sample", "step", "neuron"}
    assert isinstance(first["layer"], str)
    assert isinstance(first["sample"], int)
    assert isinstance(first["step"], int)
    assert [type(index) for index in first["neuron"]] == [int, int, int]
    exact = {item["name"]: item["first"] for item in verdict["rungs"] if item["name"] in ABOVE}
    assert exact == dict.fromkeys(ABOVE)
