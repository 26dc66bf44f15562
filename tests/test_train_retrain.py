"""Fewer and fewer time steps: stages, what is measured of them, and that a broken-off run goes on to the same bits."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import COMMAND, Child, Command, tiny_recipe
from helpers import Sets, assert_equal, state_of
from torch import Tensor

from snn2chip import data
from snn2chip.data import ImageSet
from snn2chip.errors import InputError
from snn2chip.nn import LIF, SpikingNetwork, model_file
from snn2chip.train.cost import Cost, cost, fan_out
from snn2chip.train.loop import Trainer
from snn2chip.train.measure import evaluate
from snn2chip.train.retrain import Iir, stage_recipe, steps_of, table

RESIDUAL = [
    {"type": "conv", "channels": 4},
    {"type": "residual", "channels": 6, "stride": 2, "blocks": 2},
    {"type": "globalavgpool"},
    {"type": "dense", "features": "classes", "neuron": False},
]
BNTT_LAYERS = [
    {"type": "conv", "channels": 4, "norm": "bntt"},
    {"type": "avgpool"},
    {"type": "conv", "channels": 6, "norm": "bntt", "stride": 2},
    {"type": "flatten"},
    {"type": "dense", "features": "classes", "neuron": False},
]


@pytest.fixture(scope="module")
def digits() -> Sets:
    return data.load("digits", "train"), data.load("digits", "test").subset(60)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory, digits: Sets) -> dict[str, Path]:
    """Networks of four steps, trained for an epoch of two steps: tdbn, bntt, residual."""
    made = {}
    for name, layers in (("bntt", BNTT_LAYERS), ("residual", RESIDUAL), ("tdbn", None)):
        changes: dict[str, Any] = {} if layers is None else {"model__layers": layers}
        recipe = tiny_recipe(model__timesteps=4, data__train_limit=64, **changes)
        folder = tmp_path_factory.mktemp(name)
        assert list(Trainer(recipe, *digits, folder, fuse=False).run())
        made[name] = folder / "model.pt"
    return made


def work(run: Iir, sets: Sets) -> list[dict[str, Any]]:
    """All stages; gives the rows."""
    with run.hold():
        rows = [run.measure(None, sets[1])]
        for stage in run.stages:
            trainer = run.trainer(stage, *sets, fuse=False)
            if trainer is not None:
                assert list(trainer.run())
            rows.append(run.measure(stage, sets[1]))
    return rows


# -------------------------------------------------------------------------------------------------- stages


@pytest.mark.parametrize(
    ("begin", "end", "step", "way"),
    [
        *[(5, 1, None, [4, 3, 2, 1]), (5, 1, 3, [2, 1]), (5, 2, 9, [2]), (2, 1, 1, [1]), (25, 5, 10, [15, 5])],
        *[(1, 4, None, [2, 4]), (1, 6, None, [2, 4, 6]), (3, 5, None, [5]), (1, 4, 1, [2, 3, 4]), (2, 7, 3, [5, 7])],
    ],
)
def test_the_way_ends_exactly_at_the_last_t(begin: int, end: int, step: int | None, way: list[int]) -> None:
    """By --step, whatever is left in the last stage; else down by one, up twofold."""
    assert steps_of(begin, end, step) == way


@pytest.mark.parametrize(
    ("begin", "end", "step", "message"),
    [
        (4, 4, 1, "--timesteps 4: the model has T = 4; choose another, of at least 1"),
        (4, 0, None, "--timesteps 0: the model has T = 4; choose another, of at least 1"),
        (4, 1, 0, "--step 0 is not at least 1"),
    ],
)
def test_ways_that_lead_nowhere_are_refused(begin: int, end: int, step: int, message: str) -> None:
    """With the value and the limit."""
    with pytest.raises(InputError) as caught:
        steps_of(begin, end, step)
    assert str(caught.value) == message


def test_a_stage_is_the_models_recipe_at_other_steps() -> None:
    """Leak and threshold are learnt, the warm-up fits the stage, --set comes last; all else is the model's."""
    base = tiny_recipe(model__timesteps=4, train__epochs=30, train__warmup_epochs=5.0, train__weight_decay=0.3)
    made = stage_recipe(base, 2, 3, 1e-3, ["train.weight_decay=0.1"])
    assert (made.name, made.model.timesteps) == ("tiny-t2", 2)
    assert (made.train.epochs, made.train.lr, made.train.warmup_epochs, made.train.weight_decay) == (3, 1e-3, 0.3, 0.1)
    assert (made.model.neuron.trainable_tau, made.model.neuron.trainable_threshold) == (True, True)
    assert made.model.layers == base.model.layers
    assert made.data == base.data
    whole = stage_recipe(tiny_recipe(model__timesteps=4, model__neuron={"tau": 1.0}), 2, 3, 1e-3)
    assert (whole.model.neuron.trainable_tau, whole.model.neuron.trainable_threshold) == (False, True)


@pytest.mark.parametrize("key", ["model.timesteps", "name", "train.epochs", "train.lr"])
def test_what_options_say_is_not_set_a_second_time(key: str) -> None:
    """Refused with the option that says it."""
    with pytest.raises(InputError, match=f"--set {key}: not here; "):
        stage_recipe(tiny_recipe(model__timesteps=4), 2, 1, 1e-3, [f"{key}=3"])


def test_defaults_are_a_tenth_of_the_epochs_and_half_of_the_rate(start: dict[str, Path], tmp_path: Path) -> None:
    """At least one epoch; the last stage may have more."""
    run = Iir(start["tdbn"], tmp_path / "out", timesteps=1, final_epochs=4)
    assert [(stage.timesteps, stage.recipe.train.epochs) for stage in run.stages] == [(3, 1), (2, 1), (1, 4)]
    assert [stage.recipe.train.lr for stage in run.stages] == [2.5e-3] * 3
    assert [stage.source for stage in run.stages] == [start["tdbn"], run.stages[0].model, run.stages[1].model]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("kind", "last"), [("tdbn", 1), ("bntt", 1), ("residual", 1), ("tdbn", 8), ("bntt", 8)])
def test_every_stage_goes_on_from_the_last(
    kind: str, last: int, start: dict[str, Path], digits: Sets, tmp_path: Path
) -> None:
    """Down to one step, or up: a model for every T, rows for every T, the first with the start's own accuracy."""
    way = {1: [4, 2, 1], 8: [4, 6, 8]}[last]
    run = Iir(start[kind], tmp_path, timesteps=last, step=2, lr=1e-6)
    rows = work(run, digits)
    assert [row["timesteps"] for row in rows] == way
    first = model_file.load(start[kind])
    assert rows[0]["accuracy"] == first.metrics["float_accuracy"]
    assert json.loads((tmp_path / "iir.json").read_text())["rows"] == rows
    before = first.network
    for stage, row in zip(run.stages, rows[1:], strict=True):
        model = model_file.load(stage.model)
        assert (model.recipe, model.network.timesteps) == (stage.recipe, stage.timesteps)
        assert row["accuracy"] == model.metrics["float_accuracy"]
        # at next to no learning rate a stage has what the one before it had
        for name, weight in model.network.named_parameters():
            if name.endswith(("conv1.weight", "conv.weight", "dense1.weight")):
                torch.testing.assert_close(weight, before.get_parameter(name), rtol=0, atol=1e-3)
        before = model.network
        assert {path.name for path in stage.folder.iterdir()} == {"model.pt", "checkpoint.pt", "metrics.jsonl"}
    lines = table(rows)
    assert lines[0].split()[0] == "T"
    assert [line.split()[0] for line in lines[1:]] == [str(t) for t in way]
    if kind == "bntt":
        assert model_file.load(run.stages[0].model).metrics["early_exit"]["layers"].keys() == {"norm1", "norm2"}


def test_every_stage_learns_from_the_teacher(start: dict[str, Path], digits: Sets, tmp_path: Path) -> None:
    """Its weights are others than without, and its model.pt says from whom."""
    found = []
    for teacher in (None, start["residual"]):
        run = Iir(start["tdbn"], tmp_path / str(len(found)), timesteps=3, teacher=teacher)
        work(run, digits)
        found.append(model_file.load(run.stages[0].model))
    assert [model.metrics["teacher"] for model in found] == [None, start["residual"].parent.name]
    assert not torch.equal(*(model.network.get_parameter("body.conv1.weight") for model in found))


def test_early_exit_is_evaluated_with_that_many_steps(digits: Sets, tmp_path: Path) -> None:
    """Gammas that vanish after step 2: the accuracy is that of the network's first two steps."""
    recipe = tiny_recipe(model__timesteps=3, model__layers=BNTT_LAYERS, data__train_limit=64)
    trainer = Trainer(recipe, *digits, tmp_path, fuse=False)
    for _ in trainer.run():
        with torch.no_grad():
            for name in ("norm1", "norm2"):
                trainer.network.body.get_submodule(name).log_weight[2] = -9.0  # type: ignore[index, operator, union-attr]
    found = trainer.metrics["early_exit"]
    assert (found["timesteps"], found["layers"], found["limit"]) == (2, {"norm1": 2, "norm2": 2}, 0.1)
    network = trainer.network
    with torch.no_grad():
        scores = network.body(network.encoder(digits[1].images))[:2].mean(0)
    assert found["accuracy"] == float((scores.argmax(1) == digits[1].labels).double().mean())


# ------------------------------------------------------------------------------------- stopped and resumed


@pytest.mark.parametrize("kind", ["bntt", "residual"])
@pytest.mark.parametrize("place", [(0, 1), (1, 3)])
def test_a_stage_broken_off_goes_on_to_the_same_bits(
    kind: str, place: tuple[int, int], start: dict[str, Path], digits: Sets, tmp_path: Path
) -> None:
    """Finished stages are taken as they are, the broken one goes on, later ones follow: as if unbroken."""
    options: dict[str, Any] = {"timesteps": 1, "step": 2, "epochs": 2, "lr": 1e-2}
    expected = work(Iir(start[kind], tmp_path / "whole", **options), digits)
    run = Iir(start[kind], tmp_path / "broken", **options)
    stage_number, event_number = place
    with run.hold():
        run.measure(None, digits[1])
        for index, stage in enumerate(run.stages):
            trainer = run.trainer(stage, *digits, fuse=False)
            assert trainer is not None
            for count, _ in enumerate(trainer.run()):
                if (index, count) == (stage_number, event_number):
                    break
            if index == stage_number:
                break
            run.measure(stage, digits[1])
    again = Iir(start[kind], tmp_path / "broken", **options, resume=True)
    assert [stage.finished for stage in again.stages] == [index < stage_number for index in range(2)]
    assert again.stages[stage_number].started
    rows = work(again, digits)
    for t in (2, 1):
        whole, broken = (state_of(tmp_path / name / f"T{t}" / "model.pt") for name in ("whole", "broken"))
        assert_equal(whole, broken)

    def figures(row: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in row.items() if key not in ("training_seconds", "sha256")}

    assert [figures(row) for row in rows] == [figures(row) for row in expected]


def test_what_was_measured_is_not_measured_again(
    start: dict[str, Path], digits: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resumed run takes rows of the very same model.pt from iir.json, and only those."""
    options: dict[str, Any] = {"timesteps": 2, "step": 2}
    rows = work(Iir(start["tdbn"], tmp_path, **options), digits)
    calls: list[int] = []
    monkeypatch.setattr("snn2chip.train.retrain.cost", lambda network, *_a, **_k: calls.append(1) or cost(network, *_a))
    assert work(Iir(start["tdbn"], tmp_path, **options, resume=True), digits) == rows
    assert calls == []
    fewer = digits[0], digits[1].subset(30)
    assert [row["samples"] for row in work(Iir(start["tdbn"], tmp_path, **options, resume=True), fewer)] == [30, 30]
    assert calls == [1, 1]


@pytest.fixture
def done(start: dict[str, Path], digits: Sets, tmp_path: Path) -> Path:
    """A folder with the stages T2 and T1."""
    work(Iir(start["tdbn"], tmp_path / "done", timesteps=1, step=2), digits)
    return tmp_path / "done"


def test_stages_are_not_overwritten(done: Path, start: dict[str, Path]) -> None:
    """Without --resume a folder with stages is refused; with it, other options, another start, other T are."""
    wanted = r"holds results already \(iir\.json, T2/model\.pt, .*\); go on with --resume, start over with --overwrite"
    with pytest.raises(InputError, match=wanted):
        Iir(start["tdbn"], done, timesteps=1, step=2)
    with pytest.raises(InputError, match=r"stage T = 2: .*train\.epochs is 1 there, 3 was asked for"):
        Iir(start["tdbn"], done, timesteps=1, step=2, epochs=3, resume=True)
    with pytest.raises(InputError, match=r"stage T = 1: .*train\.epochs is 1 there, 3 was asked for"):
        Iir(start["tdbn"], done, timesteps=1, step=2, final_epochs=3, resume=True)
    with pytest.raises(InputError, match=r"stage T = 2: .*train\.seed is 0 there, 7 was asked for"):
        Iir(start["tdbn"], done, timesteps=1, step=2, settings=["train.seed=7"], resume=True)
    with pytest.raises(InputError, match="started from another model"):
        Iir(start["bntt"], done, timesteps=1, step=2, resume=True)
    with pytest.raises(InputError, match=r"'.*T2' is there, but the stage before it, '.*T3', is not finished"):
        Iir(start["tdbn"], done.rename(done.with_name("x")), timesteps=1, step=1, resume=True)


def test_stages_are_overwritten_when_the_user_says_so(done: Path, start: dict[str, Path], digits: Sets) -> None:
    """Other T: the old stages go when the run begins, what else is in the folder stays; its own start never goes."""
    (done / "T7notes").mkdir()
    (done / "T7notes" / "model.pt").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"--overwrite would delete '.*T2/model\.pt', which all starts from"):
        Iir(done / "T2" / "model.pt", done, timesteps=1, overwrite=True)
    again = Iir(start["tdbn"], done, timesteps=1, step=3, overwrite=True)
    assert (done / "T2" / "model.pt").exists()
    assert [row["timesteps"] for row in work(again, digits)] == [4, 1]
    assert not (done / "T2" / "model.pt").exists()
    assert (done / "T1" / "model.pt").exists()
    assert (done / "T7notes" / "model.pt").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"format": "snn2chip-iir"}', r"iir\.json' is damaged; remove it"),
        ('{"format": "snn2chip-iir", "start": {"model": "m", "sha256": "0"}, "rows": [1]}', r"iir\.json' is damaged"),
        ("[" * 100_000, r"cannot read '.*iir\.json': not valid JSON: nested too deeply; remove it"),
        ('{"a": ' + "9" * 5000 + "}", r"cannot read '.*iir\.json': not valid JSON: .*digits.*; remove it"),
        ('{"a": ' + "9" * 50 + "}", r"not valid JSON: an integer of more than 64 bits; remove it"),
    ],
)
def test_a_damaged_record_is_refused(text: str, words: str, done: Path, start: dict[str, Path]) -> None:
    """iir.json is read back: whatever is in it, one line."""
    (done / "iir.json").write_text(text)
    with pytest.raises(InputError, match=words) as caught:
        Iir(start["tdbn"], done, timesteps=1, step=2, resume=True)
    assert "\n" not in str(caught.value)


def test_a_stage_that_is_not_of_this_run_is_named(done: Path, start: dict[str, Path]) -> None:
    """Of another --step; and one whose predecessor is gone."""
    with pytest.raises(InputError, match=r"T2' is no stage of this run, whose T are 1"):
        Iir(start["tdbn"], done, timesteps=1, step=3, resume=True)
    shutil.rmtree(done / "T2")
    with pytest.raises(InputError, match=r"T1' is there, but the stage before it"):
        Iir(start["tdbn"], done, timesteps=1, step=2, resume=True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--timesteps", "4"), ("--timesteps 4", "choose another")),
        (("--timesteps", "0"), ("--timesteps 0", "choose another")),
        (("--timesteps", "1", "--step", "0"), ("--step 0", "at least 1")),
        (("--timesteps", "1", "--epochs", "0"), ("--epochs 0", "at least 1")),
        (("--timesteps", "1", "--final-epochs", "-1"), ("--final-epochs -1", "at least 1")),
        (("--timesteps", "1", "--lr", "0"), ("--lr 0", "positive")),
        (("--timesteps", "1", "--set", "train.epochs=3"), ("train.epochs", "--epochs")),
        (("--timesteps", "1", "--set", "train.epoch=3"), ("unknown key 'train.epoch'",)),
    ],
)
def test_the_command_refuses_by_name(
    arguments: tuple[str, ...], words: tuple[str, ...], start: dict[str, Path], cli: Command, tmp_path: Path
) -> None:
    """One line with the value and the limit, exit code 2, nothing written."""
    cli("retrain", start["tdbn"], *arguments, "--out", tmp_path / "out").refused(*words)
    assert not (tmp_path / "out").exists()


def test_ctrl_c_in_the_command(start: dict[str, Path], cli_process: Command, tmp_path: Path) -> None:
    """Exit code 130 with the way to go on, which then works and leaves table, JSON and picture."""
    out = tmp_path / "run"
    arguments = ["retrain", start["tdbn"], "--timesteps=2", "--device=cpu", "--out", out, "--epochs"]
    process = Child(COMMAND, *arguments, "4000")
    while not process.stdout.readline().startswith("epoch"):
        assert process.running()
    time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    done = process.finish(120)  # it would train for hours, were the signal not heard
    wanted = f"interrupted: go on with --resume and the same options, --out {out}\n"
    assert (done.code, done.err) == (130, wanted), done.out
    assert (out / "T3" / "checkpoint.pt").exists()
    assert not (out / "T3" / "model.pt").exists()
    cli_process(*arguments, "1", "--resume").refused("stage T = 3", "train.epochs is 4000 there, 1 was asked for")
    shutil.rmtree(out / "T3")
    printed = cli_process(*arguments, "1", "--resume").ok()
    assert [line.split()[0] for line in printed.splitlines()[-4:-1]] == ["4", "3", "2"]
    assert {path.name for path in out.iterdir()} == {"T3", "T2", "iir.json", "iir.png"}
    assert (out / "T2" / "report.html").stat().st_size > 10_000


# ------------------------------------------------------------------------------------------------- what it costs


def by_hand(network: SpikingNetwork, images: ImageSet) -> dict[str, tuple[int, int]]:
    """Operations of every synapse layer: the layer applied to |input| with weights of 1 and no border's zeros."""
    found: dict[str, tuple[int, int]] = {}
    for name, module in network.body.named_modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):

            def keep(layer: Any, inputs: tuple[Tensor, ...], _output: Tensor, name: str = name) -> None:
                events = (inputs[0] != 0).double()
                ones = torch.ones_like(layer.weight, dtype=torch.float64)
                x = [events, torch.ones_like(events)]
                if isinstance(layer, torch.nn.Conv2d):
                    options = (None, layer.stride, layer.padding, layer.dilation, layer.groups)
                    y = [torch.nn.functional.conv2d(part.flatten(0, 1), ones, *options) for part in x]
                else:
                    y = [torch.nn.functional.linear(part, ones) for part in x]
                found[name] = int(y[0].sum()), int(y[1].sum())

            module.register_forward_hook(keep)
    with torch.no_grad():
        network(images.images)
    return found


@pytest.mark.parametrize("coding", ["direct", "poisson"])
@pytest.mark.parametrize("kind", ["residual", "strided"])
def test_operations_are_counted_spike_by_spike(kind: str, coding: str, digits: Sets) -> None:
    """Against layers of ones over the spikes themselves; borders, strides, groups and dilation included."""
    layers: list[dict[str, Any]] = RESIDUAL
    if kind == "strided":
        layers = [
            {"type": "conv", "channels": 4, "kernel": 3, "stride": 2},
            {"type": "conv", "channels": 6, "groups": 2, "dilation": 2, "padding": 1},
            {"type": "flatten"},
            {"type": "dense", "features": 7, "norm": "tdbn", "bias": False},
            {"type": "dense", "features": "classes", "neuron": False},
        ]
    recipe = tiny_recipe(model__layers=layers, model__timesteps=3, model__coding=coding)
    torch.manual_seed(0)
    network = model_file.build_network(recipe, (1, 8, 8), 10, 16, [0.3], [0.4])
    images = digits[1].subset(12)
    network.train()(images.images)
    found = cost(network, images, batch_size=50)
    if coding == "poisson":
        network.encoder.reseed(0)  # type: ignore[operator]
    expected = by_hand(network, images)
    skipped = {name for name in found.layer_operations if name.endswith("norm")}
    if kind == "residual":
        expected.pop("dense1")  # after the global average: below
        assert skipped == {"block2.shortcut.norm"}
    for name, (events, every) in expected.items():
        real = name == "conv1" and coding == "direct"
        assert found.layer_operations[name] == ((0.0, every / 12) if real else (events / 12, 0.0)), name
    if kind == "residual":
        assert found.layer_operations["dense1"][0] == pytest.approx(10 * found.layer_spikes["lif3"][1])
        assert found.layer_operations["block2.shortcut.norm"][0] == pytest.approx(found.layer_spikes["lif2"][1])
    assert found.accumulates == pytest.approx(sum(pair[0] for pair in found.layer_operations.values()))
    assert found.rate == pytest.approx(found.spikes / found.neurons / 3)
    assert found.spikes == pytest.approx(sum(spikes for _, spikes in found.layer_spikes.values()))


def test_a_spike_before_a_pool_drives_the_synapses_of_the_pooled_pixel(digits: Sets) -> None:
    """As on the chip, where the pool is part of the next kernel."""
    layers = [
        {"type": "conv", "channels": 2},
        {"type": "avgpool"},
        {"type": "conv", "channels": 3, "kernel": 1},
        {"type": "flatten"},
        {"type": "dense", "features": "classes", "neuron": False},
    ]
    recipe = tiny_recipe(model__layers=layers, model__timesteps=2)
    network = model_file.build_network(recipe, (1, 8, 8), 10, 16, [0.3], [0.4])
    network.train()(digits[1].images)
    found = cost(network, digits[1])
    assert found.layer_spikes["lif1"][1] > 0
    assert found.layer_operations["conv2"] == (pytest.approx(3 * found.layer_spikes["lif1"][1]), 0.0)
    # 8x8 with borders: 22 of 24 rows and columns of the 3x3 kernel are inside
    assert found.layer_operations["conv1"] == (0.0, 2 * 2 * 22 * 22)
    assert found.ann_multiply_accumulates == 2 * 22 * 22 + 2 * 3 * 16 + 48 * 10
    assert found.accuracy == evaluate(network, digits[1])


def test_batches_and_hooks_leave_no_trace(digits: Sets) -> None:
    """Any batch size gives the same counts; afterwards the network is without hooks."""
    recipe = tiny_recipe(model__timesteps=2)
    network = model_file.build_network(recipe, (1, 8, 8), 10, 16, [0.3], [0.4]).train()
    network(digits[1].images)
    counts = [cost(network, digits[1], batch_size=size) for size in (7, 60)]
    assert counts[0] == counts[1]
    assert isinstance(counts[0], Cost)
    assert not any(module._forward_hooks for module in network.modules())


def test_a_relu_network_has_multiply_accumulates_only(digits: Sets) -> None:
    """Its neurons give real numbers."""
    network = model_file.build_network(
        tiny_recipe(model__timesteps=1, model__neuron={"kind": "relu"}), (1, 8, 8), 10, 16, [0.3], [0.4]
    )
    assert not any(isinstance(module, LIF) for module in network.modules())
    found = cost(network, digits[1])
    assert (found.neurons, found.spikes, found.rate, found.accumulates) == (0, 0, 0, 0)
    assert found.multiply_accumulates == found.ann_multiply_accumulates > 0


def test_fan_out_of_corners_edges_and_strides() -> None:
    """A 3x3 kernel with padding 1: 4 synapses from a corner, 6 from an edge, 9 from inside, times the channels."""
    count = fan_out(torch.nn.Conv2d(2, 5, 3, padding=1), torch.Size((2, 4, 4)))
    assert count[0].tolist() == [[20, 30, 30, 20], [30, 45, 45, 30], [30, 45, 45, 30], [20, 30, 30, 20]]
    grouped = fan_out(torch.nn.Conv2d(4, 4, 2, stride=2, groups=4), torch.Size((4, 5, 4)))
    assert grouped[0].tolist() == [[1.0] * 4] * 4 + [[0.0] * 4]
