"""One normalization for BNTT's several: the algebra, that the choice is the measured one, and the way to a file."""

from __future__ import annotations

import errno
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Command, tiny_recipe
from helpers import assert_equal, hooked, usually
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from snn2chip import data
from snn2chip.errors import InputError
from snn2chip.nn import BNTT, LIF, PoissonInput, TDBatchNorm, model_file
from snn2chip.nn.model_file import Model
from snn2chip.train import collapse as collapsing
from snn2chip.train.collapse import CollapseReport, collapse, static_recipe
from snn2chip.train.loop import Trainer
from snn2chip.train.start_from_onnx import recipe_text
from snn2chip.train.static_norm import Moments, Static, Tables, least_squares

LAYERS: tuple[dict[str, object], ...] = (
    {"type": "conv", "channels": 6, "stride": 2, "norm": "bntt"},
    {"type": "conv", "channels": 8, "norm": "bntt"},
    {"type": "avgpool"},
    {"type": "flatten"},
    {"type": "dense", "features": 24, "norm": "bntt"},
    {"type": "dense", "features": "classes", "neuron": False},
)
TRIALS = ["least squares", "paired"]

# ------------------------------------------------------------------------------------------------ the algebra

SOME = settings(max_examples=usually(40), deadline=None)
decades = st.floats(-5, 5).map(lambda power: 10.0**power)


@st.composite
def tables(draw: st.DrawFn, *, equal: bool = False) -> Tables:
    """Tables whose gammas and variances range over ten decades; with `equal`, the same at every step."""
    steps, channels = draw(st.integers(1, 6)), draw(st.integers(1, 4))
    rows = 1 if equal else steps

    def table(values: st.SearchStrategy[float]) -> Tensor:
        size = rows * channels
        flat = torch.tensor(draw(st.lists(values, min_size=size, max_size=size)), dtype=torch.float64)
        return flat.reshape(rows, channels).expand(steps, channels).clone()

    return Tables(table(decades), table(st.floats(-50, 50)), table(decades | st.just(0.0)), 1e-4)


def exact(given_tables: Tables, x: Tensor) -> Tensor:
    """BNTT of x (T, C)."""
    return given_tables.gain * (x - given_tables.mean)


def applied(static: Static, x: Tensor) -> Tensor:
    return static.gain * (x - static.mean) + static.beta


@SOME
@given(found=tables(equal=True), x=st.floats(-100, 100))
def test_equal_steps_collapse_exactly(found: Tables, x: float) -> None:
    """Nothing is lost when every step has the same statistics, whatever their size."""
    assert found.constant
    static = least_squares(found)
    inputs = torch.full_like(found.mean, x)
    size = found.gain * (inputs.abs() + found.mean.abs())
    assert bool(((applied(static, inputs) - exact(found, inputs)).abs() <= 1e-13 * size).all())
    assert torch.allclose(static.var, found.var[0], rtol=1e-13, atol=0)


@SOME
@given(found=tables())
def test_least_squares_is_that_of_samples(found: Tables) -> None:
    """Closed form = numpy's lstsq on two points a step that have the step's mean and variance."""
    static = least_squares(found)
    x = torch.stack([found.mean - found.var.sqrt(), found.mean + found.var.sqrt()])
    y = found.gain * (x - found.mean)
    for channel in range(x.shape[2]):
        xs, ys = (values[:, :, channel].flatten().numpy() for values in (x, y))
        if np.ptp(xs) <= max(1e-6 * np.abs(xs).max(), 1e-150):
            continue  # lstsq cannot tell slope from offset there, and squares of less are 0
        centred = xs - xs.mean()
        (slope, offset), *_ = np.linalg.lstsq(np.stack([centred / centred.std(), np.ones_like(xs)], 1), ys, rcond=None)
        tolerance = 1e-8 * np.abs(ys).max() + 1e-300
        assert float(static.gain[channel]) * centred.std() == pytest.approx(slope, abs=tolerance)
        at_mean = static.gain[channel] * (xs.mean() - static.mean[channel]) + static.beta[channel]
        assert float(at_mean) == pytest.approx(offset, abs=tolerance)


@SOME
@given(found=tables())
def test_statistics_are_those_of_all_steps(found: Tables) -> None:
    """mean(var + mu^2) - mean(mu)^2, and no shift."""
    static = least_squares(found)
    raw = (found.var + found.mean**2).mean(0) - found.mean.mean(0) ** 2
    slack = 1e-12 * (found.var + found.mean**2).mean(0) + 1e-300
    assert bool(((static.var - raw).abs() <= slack).all())
    assert not static.beta.any()


@SOME
@given(seed=st.integers(0, 2**32 - 1), flat=st.booleans())
def test_moments_fit_as_lstsq(seed: int, flat: bool) -> None:
    """The map fitted from sums over batches is numpy's on all values; a channel that never varies gets the default."""
    rng = torch.Generator().manual_seed(seed)
    shape = (3, 5, 4) if flat else (3, 5, 4, 2, 3)  # (T, N, C, ...)
    offset = torch.tensor([-30.0, 0.0, 2.0, 1000.0], dtype=torch.float64)
    batches = []
    moments = Moments(offset.clone())
    for _ in range(2):
        x = torch.randn(shape, generator=rng, dtype=torch.float64).movedim(2, -1)
        x = (x * torch.tensor([1.0, 1e-3, 0.0, 10.0]) + offset).movedim(-1, 2)
        y = (2 * x).tanh() + 0.1 * torch.randn(shape, generator=rng, dtype=torch.float64)
        moments.add(x, y)
        batches.append((x, y))
    static = moments.fit(torch.full((4,), 7.0, dtype=torch.float64), torch.full((4,), 1e-9, dtype=torch.float64))
    for channel in range(4):
        xs, ys = (np.concatenate([pair[k][:, :, channel].flatten().numpy() for pair in batches]) for k in (0, 1))
        assert float(static.mean[channel]) == pytest.approx(xs.mean(), rel=1e-12, abs=1e-12)
        assert float(static.var[channel]) == pytest.approx(xs.var(), rel=1e-9, abs=1e-20)
        assert float(static.beta[channel]) == pytest.approx(ys.mean(), rel=1e-9, abs=1e-12)
        if channel == 2:
            assert float(static.gain[channel]) == 7
        else:
            matrix = np.stack([xs - xs.mean(), np.ones_like(xs)], 1)
            assert float(static.gain[channel]) == pytest.approx(np.linalg.lstsq(matrix, ys, rcond=None)[0][0], rel=1e-7)


# ------------------------------------------------------------------------------------------------- networks


def made(seed: int = 0, *, equal: bool = False, double: bool = False, **changes: object) -> Model:
    """An untrained network of `LAYERS` (or others) on 6x6 images with statistics near those of its activations."""
    changes = {"model__layers": LAYERS, "model__timesteps": 3, **changes}
    recipe = tiny_recipe(**changes)
    torch.manual_seed(seed)
    network = model_file.build_network(recipe, (2, 6, 6), 4, 255, [0.4, 0.5], [0.3, 0.2])
    network.to(torch.float64 if double else torch.float32)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, BNTT):
                module.momentum = 1.0
                module.log_weight.add_(torch.randn_like(module.log_weight), alpha=0.3)
        network.train()
        network.body(network.encoder(pixels(32, seed=99)).to(next(network.parameters()).dtype))
        network.eval()
        for module in network.modules():
            if isinstance(module, BNTT) and equal:
                for values in (module.log_weight, module.running_mean, module.running_var):
                    values.copy_(values[:1].expand_as(values).clone())
    return Model(network, recipe, 255, ("a", "b", "c", "d"), {"float_accuracy": 0.5, "epochs": 1})


def pixels(count: int = 40, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (count, 2, 6, 6), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def trials(report: CollapseReport) -> dict[str, collapsing.Trial]:
    return {trial.method: trial for trial in report.trials}


def state(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


@pytest.mark.parametrize("coding", ["direct", "poisson"])
@pytest.mark.parametrize(("timesteps", "double"), [(1, False), (1, True), (4, True)])
def test_exact_where_steps_are_equal(coding: str, timesteps: int, double: bool) -> None:
    """T = 1, or equal tables: no spike and no decision differs in any collapse, and the report says why."""
    model = made(model__timesteps=timesteps, model__coding=coding, equal=True, double=double)
    static, report = collapse(model, pixels())
    assert report.exact
    for name, trial in trials(report).items():
        assert (trial.spikes_differ, trial.decisions_differ) == (0, 0), name
    assert report.best.method == "least squares"
    encoded = model.network.encoder(pixels()).to(next(model.network.parameters()).dtype)
    with torch.no_grad():
        wanted, found = model.network.body(encoded), static.network.body(encoded)
    assert torch.allclose(found, wanted, rtol=1e-9 if double else 1e-4, atol=1e-9 if double else 1e-5)


@pytest.mark.parametrize("coding", ["direct", "poisson"])
def test_report_is_what_was_measured(coding: str) -> None:
    """Every trial is there, the best is taken, and its figures are those of the returned network."""
    model = made(model__coding=coding, model__timesteps=5)
    images = pixels(60)
    static, report = collapse(model, images)
    assert [trial.method for trial in report.trials] == TRIALS
    assert (report.images, report.timesteps, report.collapsed) == (60, 5, ("norm1", "norm2", "norm3"))
    assert not report.exact
    keys = [(trial.spikes_differ, trial.decisions_differ) for trial in report.trials]
    assert report.chosen == keys.index(min(keys))
    assert report.best.spikes_differ > 0

    encoder = static.network.encoder
    draws = []
    if isinstance(encoder, PoissonInput):
        encoder.reseed(0)
    batch = collapsing.BATCH_STEPS // 5
    for start in range(0, len(images), batch):
        draws.append(encoder(images[start : start + batch]))
    encoded = torch.cat(draws, 1)
    wanted, _, old_scores = hooked(model.network, encoded)
    found, _, new_scores = hooked(static.network, encoded)
    best = report.best
    assert best.layers == pytest.approx({name: float((found[name] != wanted[name]).double().mean()) for name in wanted})
    assert best.spikes_differ == sum(int((found[name] != wanted[name]).sum()) for name in wanted)
    assert best.spikes == sum(spikes.numel() for spikes in wanted.values())
    assert best.decisions_differ == int((old_scores.argmax(1) != new_scores.argmax(1)).sum())
    assert best.decisions == 60

    values = json.loads(json.dumps(report.as_json()))
    assert values["chosen"] == best.method
    assert [row["method"] for row in values["trials"]] == TRIALS
    assert values["trials"][report.chosen]["spike_share"] == best.spike_share
    assert static.metrics["collapse"] == {
        "method": best.method,
        "images": 60,
        "spike_share": best.spike_share,
        "decision_share": best.decision_share,
    }


def test_choice_follows_the_error_and_not_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """A method that is bad on purpose is measured, shown and not taken, first in order though it is."""

    def silent(found: Tables) -> Static:
        return replace(least_squares(found), gain=torch.zeros_like(found.pooled_mean))

    monkeypatch.setattr(collapsing, "least_squares", silent)
    _, report = collapse(made(), pixels())
    assert [trial.method for trial in report.trials] == TRIALS
    assert report.trials[0].spike_share > report.best.spike_share
    assert report.best.method == "paired"


def test_paired_collapse_is_a_regression() -> None:
    """The first layer's map is numpy's lstsq of BNTT's output on its input; the second's, of what is collapsed."""
    model = made(double=True)
    static = collapsing._same_but_norms(model, static_recipe(model.recipe))
    bench = collapsing._Bench(model, static, pixels(), None)
    with torch.no_grad():
        bench.put(bench.paired())
        encoded = model.network.encoder(pixels()).double()
        inside, outside = static.body, model.network.body
        for name in ("norm1", "norm2"):
            x, y = encoded, encoded
            for key, module in inside.named_children():
                if key == name:
                    break
                x, y = module(x), outside.get_submodule(key)(y)
            norm = inside.get_submodule(name)
            assert isinstance(norm, TDBatchNorm)
            target = outside.get_submodule(name)(y)
            for channel in range(norm.channels):
                xs, ys = (values[:, :, channel].flatten().numpy() for values in (x, target))
                slope, offset = np.linalg.lstsq(np.stack([xs, np.ones_like(xs)], 1), ys, rcond=None)[0]
                assert norm(x)[:, :, channel].flatten().numpy() == pytest.approx(slope * xs + offset, abs=1e-8)


def test_everything_but_the_norms_stays() -> None:
    """Weights, biases, tau, thresholds, encoder; the old model is untouched, and so are all random generators."""
    model = made(
        model__layers=({"type": "conv", "channels": 4, "bias": True, "norm": "bntt"},
                       {"type": "residual", "channels": 4}, {"type": "conv", "channels": 3, "norm": "none"},
                       {"type": "conv", "channels": 3, "depthwise": True}, *LAYERS[2:]),
        model__neuron={"trainable_tau": True, "trainable_threshold": True, "threshold": 0.7},
    )  # fmt: skip
    with torch.no_grad():
        for module in model.network.modules():
            if isinstance(module, LIF):
                assert module.tau_logit is not None
                assert module.log_threshold is not None
                module.tau_logit.add_(0.3)
                module.log_threshold.sub_(0.2)
    before, sequence = state(model.network), torch.get_rng_state()
    static, report = collapse(model, pixels())
    assert_equal(before, state(model.network))
    assert torch.equal(sequence, torch.get_rng_state())
    assert report.collapsed == ("norm1", "norm3")
    new = state(static.network)
    bntts = tuple(f"body.{name}." for name in report.collapsed)
    kept = {name: value for name, value in before.items() if not name.startswith(bntts)}
    assert_equal(kept, {name: value for name, value in new.items() if not name.startswith(bntts)})
    assert not static.network.training
    assert static.recipe.name == "tiny-static"
    assert "bntt" not in static.recipe.model_dump_json()
    assert static.recipe.model.neuron == model.recipe.model.neuron
    assert (static.max_value, static.classes) == (model.max_value, model.classes)
    assert "float_accuracy" not in static.metrics
    assert static.metrics["collapsed_from"] == {"name": "tiny", "metrics": model.metrics}


@pytest.mark.parametrize("coding", ["direct", "poisson"])
def test_the_same_images_give_the_same_network(coding: str) -> None:
    """Whatever was drawn before."""
    model = made(model__coding=coding)
    first, report = collapse(model, pixels())
    torch.manual_seed(12345)
    model.network(pixels(3))
    second, again = collapse(model, pixels())
    assert_equal(state(first.network), state(second.network))
    assert report == again
    if coding == "poisson":
        assert torch.equal(first.network(pixels(5)), second.network(pixels(5)))


def test_norm_of_the_readout() -> None:
    """A BNTT without a neuron after it, which no table of a neuron can hold, collapses too."""
    layers = (*LAYERS[:-1], {"type": "dense", "features": "classes", "neuron": False, "norm": "bntt"})
    _, report = collapse(made(model__layers=layers), pixels())
    assert report.collapsed[-1] == "norm4"


def test_dead_channels() -> None:
    """Channels that never vary give finite constants in every collapse."""
    model = made()
    with torch.no_grad():
        model.network.body.get_submodule("conv2").weight[:3] = 0  # type: ignore[operator]
        norm = model.network.body.get_submodule("norm2")
        assert isinstance(norm, BNTT)
        norm.running_var[:, :3] = 0
        norm.running_mean[:, :3] = torch.tensor([0.0, 1.0, -1.0])
    static, report = collapse(model, pixels())
    assert [trial.method for trial in report.trials] == TRIALS
    assert all(bool(value.isfinite().all()) for value in state(static.network).values())


def test_progress_ends_where_it_said() -> None:
    """(done, of) counts up by one to the end."""
    calls: list[tuple[int, int]] = []
    collapse(made(), pixels(100), progress=lambda done, of: calls.append((done, of)))
    assert calls == [(k + 1, len(calls)) for k in range(len(calls))]


# ------------------------------------------------------------------------------------------------- refusals


def test_nothing_to_collapse() -> None:
    """A network without BNTT is refused by name."""
    layers = [{**layer, "norm": "tdbn"} if "norm" in layer else layer for layer in LAYERS]
    with pytest.raises(InputError, match=r"'tiny': nothing to collapse: it has no BNTT .* fold-and-export"):
        collapse(made(model__layers=layers), pixels())


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (pixels()[:, :1], r"images of shape \(40, 1, 6, 6\): 'tiny' needs \(N, 2, 6, 6\)"),
        (pixels()[0], r"images of shape \(2, 6, 6\)"),
        (pixels()[:0], r"\(0, 2, 6, 6\).* N at least 1"),
        (pixels().int() - 300, r"pixels -300\..* exceed the 0\.\.255"),
        (pixels().int() + 300, r"pixels 3\d\d\..* exceed the 0\.\.255"),
        (pixels().float() * float("nan"), r"pixels nan\.\.nan exceed"),
    ],
)
def test_images_that_do_not_fit(images: Tensor, words: str) -> None:
    """Shape, number and values."""
    with pytest.raises(InputError, match=words):
        collapse(made(), images)


@pytest.mark.parametrize(
    ("buffer", "value", "words"),
    [
        ("running_var", -1.0, "variance -1 of step 1, channel 2 is not at least 0"),
        ("running_var", float("nan"), "variance nan of step 1, channel 2"),
        ("running_mean", float("inf"), "mean inf of step 1, channel 2 is not finite"),
        ("log_weight", float("nan"), "gamma nan of step 1, channel 2 is not positive"),
        ("log_weight", -1e30, "gamma 0 of step 1, channel 2 is not positive"),
        ("log_weight", 700.0, "of the collapsed layer exceeds torch.float32"),
    ],
)
def test_constants_that_are_no_numbers(buffer: str, value: float, words: str) -> None:
    """Named by layer, step and channel."""
    model = made()
    with torch.no_grad():
        getattr(model.network.body.get_submodule("norm2"), buffer)[1, 2] = value
    with pytest.raises(InputError, match=rf"layer 'norm2': .*{words}"):
        collapse(model, pixels())


def test_a_network_of_another_recipe() -> None:
    """Layers that the recipe does not have."""
    model = made()
    other = tiny_recipe(model__layers=LAYERS[3:], model__timesteps=3)
    with pytest.raises(InputError, match="'tiny': the layers are not those of its recipe"):
        collapse(replace(model, recipe=other), pixels())


# ----------------------------------------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model.pt of a BNTT network that learnt the digits for a second."""
    folder = tmp_path_factory.mktemp("bntt")
    recipe = tiny_recipe(model__layers=LAYERS, model__timesteps=3, train__epochs=3, data__train_limit=512)
    trainer = Trainer(recipe, data.load("digits", "train"), data.load("digits", "test"), folder, fuse=False)
    for _ in trainer.run():
        pass
    return folder / "model.pt"


def test_command(trained: Path, cli: Command, tmp_path: Path) -> None:
    """Writes the model and JSON, prints what was tried and what it cost, and keeps no figure of the other's."""
    model = tmp_path / "model.pt"
    shutil.copyfile(trained, model)
    printed = cli("collapse", model, "--images", "100", "--json", tmp_path / "c.json").ok()
    output = tmp_path / "model-static.pt"
    assert f"wrote {output}" in printed
    assert "3 BNTT layers, T = 3, against the network with BNTT on 100 training images" in printed
    for name in TRIALS:
        assert name in printed
    assert printed.count("taken") == 1
    found, old = model_file.load(output), model_file.load(model)
    metrics = found.metrics
    assert metrics["samples"] == 359
    assert metrics["bntt_accuracy"] == old.metrics["float_accuracy"]
    assert metrics["cost"] == pytest.approx(metrics["bntt_accuracy"] - metrics["float_accuracy"])
    assert f"{100 * metrics['float_accuracy']:.2f} % collapsed: it cost {100 * metrics['cost']:.2f} points" in printed
    assert metrics["collapsed_from"] == {"name": "tiny", "metrics": old.metrics}
    assert not {"epochs", "training_seconds", "hardware", "init"} & metrics.keys()
    values: dict[str, Any] = json.loads((tmp_path / "c.json").read_text())
    assert values["metrics"] == metrics
    assert values["images"] == 100
    assert [row["method"] for row in values["trials"]] == TRIALS
    assert {path.name for path in tmp_path.iterdir()} == {"model.pt", "model-static.pt", "c.json"}


def test_the_collapsed_model_goes_all_the_way(trained: Path, cli: Command, tmp_path: Path) -> None:
    """fold-and-export makes stock netx of it, simulate and verify take it, and training goes on from it."""
    static, net = tmp_path / "s.pt", tmp_path / "s.net"
    printed = cli("collapse", trained, "-o", static, "--images", "50", "--no-evaluate").ok()
    assert "test accuracy" not in printed
    assert "float_accuracy" not in model_file.load(static).metrics
    cli("fold-and-export", static, "-o", net, "--calibration", "16").ok()
    cli("simulate", net, "--limit", "20", "--json", tmp_path / "sim.json").ok()
    assert json.loads((tmp_path / "sim.json").read_text())["accuracy"] > 0.5
    assert "every exact rung holds" in cli("verify", static, net, "--no-lava", "--samples", "3").ok()

    recipe = tmp_path / "tuned.toml"
    layers = [{**layer, "norm": "tdbn"} if "norm" in layer else layer for layer in LAYERS]
    recipe.write_text(
        recipe_text(tiny_recipe(model__layers=layers, model__timesteps=3, train__batch_size=64, train__lr=1e-8))
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("snn2chip.train.loop.fuse_neurons", lambda _network, _device: None)
        cli("train", recipe, "--init", static, "--out", tmp_path / "tuned", "--device", "cpu").ok()
    tuned, before = (state(model_file.load(path).network) for path in (tmp_path / "tuned" / "model.pt", static))
    for name, value in before.items():
        if "running" not in name and "encoder" not in name:
            assert torch.allclose(tuned[name], value, atol=1e-5), name


def test_one_step_is_said_to_be_exact(cli: Command, tmp_path: Path) -> None:
    """T = 1."""
    recipe = tiny_recipe(model__layers=LAYERS, model__timesteps=1)
    network = model_file.build_network(recipe, (1, 8, 8), 10, 16).eval()
    classes = [str(k) for k in range(10)]
    model_file.save(tmp_path / "m.pt", network, recipe, max_value=16, classes=classes, metrics={})
    printed = cli("collapse", tmp_path / "m.pt", "--images", "20").ok()
    assert "exact: T = 1" in printed
    assert "it cost 0.00 points" in printed


def test_command_refuses(trained: Path, cli: Command, tmp_path: Path) -> None:
    """No file, another network, NaN, itself as output, another data set's images, an impossible count."""
    cli("collapse", tmp_path / "absent.pt").refused(f"cannot read '{tmp_path / 'absent.pt'}'")
    cli("collapse", trained, "-o", trained).refused("is the model itself")
    cli("collapse", trained, "--images", "1", "--json", trained.parent).refused("it is a folder")
    (trained.parent / "model-static.pt").unlink()
    content = torch.load(trained, weights_only=True)
    recipe = content["recipe"]

    def altered(name: str, **changes: object) -> Path:
        torch.save({**content, **changes}, tmp_path / name)
        return tmp_path / name

    broken = dict(content["state"])
    broken["body.norm2.log_weight"] = torch.full_like(broken["body.norm2.log_weight"], float("nan"))
    cli("collapse", altered("nan.pt", state=broken)).refused("'body.norm2.log_weight' holds", "NaN")
    unknown = {**recipe, "data": {**recipe["data"], "name": "digit"}}
    cli("collapse", altered("data.pt", recipe=unknown)).refused("no data set 'digit'", "digits")
    cli("collapse", altered("pixels.pt", max_value=255)).refused("pixels 0..16 do not fit", "0..255")
    plain = static_recipe(model_file.load(trained).recipe)
    network = model_file.build_network(plain, (1, 8, 8), 10, 16).eval()
    classes = [str(k) for k in range(10)]
    model_file.save(tmp_path / "tdbn.pt", network, plain, max_value=16, classes=classes, metrics={})
    cli("collapse", tmp_path / "tdbn.pt").refused("nothing to collapse")
    assert cli("collapse", trained, "--images", "0").code == 2
    assert not list(tmp_path.glob("*static*"))


def test_whole_or_not_at_all(trained: Path, cli: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fills up leaves the old file, and nothing beside it."""
    output = tmp_path / "static.pt"
    output.write_bytes(b"old")

    def full(_content: object, file: Any) -> None:
        file.write(b"half of")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    arguments = ("collapse", trained, "-o", output, "--images", "10", "--no-evaluate")
    cli(*arguments).refused("holds results already (static.pt)", "--overwrite")
    said = cli(*arguments, "--overwrite").refused(str(output))
    assert "No space left" in said
    assert output.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["static.pt"]
