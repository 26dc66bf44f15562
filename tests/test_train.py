"""Training: what it computes, that a run broken off anywhere goes on as if nothing had happened, what it leaves."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import COMMAND, MODERN, RICH, Child, Command, Quickstart, tiny_recipe
from helpers import Sets, assert_equal, history_of, state_of, train

from snn2chip import chip, data
from snn2chip.data import ImageSet
from snn2chip.errors import InputError
from snn2chip.nn import model_file
from snn2chip.passes import pipeline
from snn2chip.recipe import Recipe
from snn2chip.simulate.events.library import unavailable
from snn2chip.train import checkpoint, loop
from snn2chip.train import start_from_onnx as plain_recipes
from snn2chip.train.batches import seed_of
from snn2chip.train.loop import Trainer
from snn2chip.train.measure import channel_statistics
from snn2chip.train.optimization import make_optimizer, schedule
from snn2chip.train.teaching import loss_of
from snn2chip.verify.ladder import verify

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def digits() -> tuple[ImageSet, ImageSet]:
    return data.load("digits", "train"), data.load("digits", "test").subset(100)


# ---------------------------------------------------------------------------------- schedule and optimizer


def test_rate_rises_to_the_recipes_value_then_falls_to_nothing() -> None:
    """Warm-up is linear, the largest rate is the recipe's, and half a cosine ends at 0 after the last step."""
    spec = tiny_recipe(train__epochs=5, train__warmup_epochs=2, train__lr=0.3).train
    rates = [spec.lr * schedule(spec, step, 10) for step in range(51)]
    assert rates[:20] == pytest.approx([0.3 * (step + 1) / 21 for step in range(20)])
    assert rates[20] == 0.3
    assert max(rates) == 0.3
    assert rates[35] == pytest.approx(0.15)  # half of the way down, half of the rate
    assert all(later < earlier for earlier, later in pairwise(rates[20:]))
    assert rates[50] == pytest.approx(0.0, abs=1e-12)
    assert rates[49] > 0


@pytest.mark.parametrize(("epochs", "warmup"), [(1, 0.0), (1, 1.0), (1, 50.0), (3, 0.5)])
def test_rate_is_positive_and_never_above_the_recipes(epochs: int, warmup: float) -> None:
    """Every step of every run learns, also where the warm-up is as long as the run, or longer."""
    spec = tiny_recipe(train__epochs=epochs, train__warmup_epochs=warmup, train__lr=0.1).train
    rates = [spec.lr * schedule(spec, step, 4) for step in range(4 * epochs)]
    assert min(rates) > 0
    assert max(rates) <= 0.1
    if warmup == 0:
        assert rates[0] == 0.1


@pytest.mark.parametrize(("name", "kind"), [("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)])
def test_weight_decay_is_on_kernels_and_matrices_only(name: str, kind: type, digits: Sets, tmp_path: Path) -> None:
    """Biases, norms, leaks and thresholds are not decayed; every parameter is in one group, once."""
    recipe = tiny_recipe(
        train__optimizer=name,
        train__weight_decay=0.07,
        train__momentum=0.8,
        model__neuron={"trainable_tau": True, "trainable_threshold": True},
    )
    network = Trainer(recipe, *digits, tmp_path, fuse=False).network
    optimizer = make_optimizer(network, recipe.train)
    assert type(optimizer) is kind
    decay = {id(parameter): group["weight_decay"] for group in optimizer.param_groups for parameter in group["params"]}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(decay)
    names = dict(network.named_parameters())
    assert decay.keys() == {id(parameter) for parameter in names.values()}
    decayed = {key for key, parameter in names.items() if decay[id(parameter)] == 0.07}
    assert decayed == {"body.conv1.weight", "body.conv2.weight", "body.dense1.weight"}
    assert {key for key, p in names.items() if decay[id(p)] == 0} == names.keys() - decayed
    assert {"body.lif1.tau_logit", "body.lif1.log_threshold", "body.norm1.weight"} <= names.keys() - decayed
    if name == "sgd":
        assert [(group["momentum"], group["nesterov"]) for group in optimizer.param_groups] == [(0.8, True)] * 2


def test_muon_is_torchs_on_kernels_as_matrices(digits: Sets, tmp_path: Path) -> None:
    """Kernels and inner matrices step as `torch.optim.Muon` steps their rows, whatever their layout in memory; biases,
    norms and the last layer as AdamW with a rate of its own."""
    recipe = tiny_recipe(train__optimizer="muon", train__lr=0.03, train__adamw_lr=0.004, train__weight_decay=0.1)
    network = Trainer(recipe, *digits, tmp_path, fuse=False).network
    mine, named = make_optimizer(network, recipe.train), dict(network.named_parameters())
    inner = ["body.conv1.weight", "body.conv2.weight"]
    assert not named[inner[1]].is_contiguous()  # channels last
    rows = {name: torch.nn.Parameter(named[name].detach().flatten(1).clone()) for name in inner}
    rest = {name: torch.nn.Parameter(value.detach().clone()) for name, value in named.items() if name not in inner}
    decayed = [rest.pop("body.dense1.weight")]
    theirs = torch.optim.Muon([*rows.values()], lr=0.03, momentum=0.9, weight_decay=0.1)
    others = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": [*rest.values()], "weight_decay": 0}]
    )
    rest["body.dense1.weight"] = decayed[0]
    for step in range(3):
        for group in (*others.param_groups, *mine.param_groups[1:]):
            group["lr"] = 0.004
        generator = torch.Generator().manual_seed(step)
        for name, parameter in named.items():
            gradient = torch.randn(parameter.shape, generator=generator)
            parameter.grad = gradient.clone()
            if name in inner:
                rows[name].grad = gradient.flatten(1)
            else:
                rest[name].grad = gradient
        for optimizer in (mine, theirs, others):
            optimizer.step()
        if step == 1:  # what is kept and put back goes on as it was
            mine.load_state_dict(mine.state_dict())
    for name, parameter in named.items():
        wanted = rows[name].view(parameter.shape) if name in inner else rest[name]
        # the order of a kernel's columns is another: sums of the iteration in bfloat16 are rounded otherwise
        assert torch.allclose(parameter, wanted, atol=2e-3 if name in inner else 1e-7), name
    assert [group["peak"] for group in mine.param_groups] == [0.03, 0.004, 0.004]


def test_a_rate_that_falls_by_a_line() -> None:
    """Half of the way down half of the rate, and a quarter of it at three quarters."""
    spec = tiny_recipe(train__epochs=5, train__warmup_epochs=1, train__schedule="linear").train
    assert [schedule(spec, step, 10) for step in (10, 30, 40, 50)] == pytest.approx([1, 0.5, 0.25, 0])


# ---------------------------------------------------------------------- what is set aside, averaged and taught


def test_validation_is_drawn_by_seed_and_the_test_set_is_read_once(
    digits: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both parts together are the training set; every epoch is judged by the one, and the test set at the end only."""
    judged: list[str] = []
    real = loop.evaluate

    def recorded(network: Any, images: ImageSet, **options: Any) -> float:
        judged.append(images.name)
        return real(network, images, **options)

    monkeypatch.setattr(loop, "evaluate", recorded)
    recipe = tiny_recipe(data__validation=100, data__train_limit=None, train__epochs=2, train__batch_size=200)
    trainer = Trainer(recipe, *digits, tmp_path / "run", fuse=False)
    kept, aside = trainer.train_set, trainer.validation_set
    assert aside is not None and (len(kept), len(aside)) == (1338, 100)
    assert sorted(map(bytes, digits[0].images.numpy())) == sorted(
        map(bytes, torch.cat([kept.images, aside.images]).numpy())
    )
    rows = [event.metrics for event in trainer.run() if event.metrics is not None]
    assert judged == ["digits:validation"] * 2 + ["digits:test", "digits:validation"]
    assert rows[-1]["validation_accuracy"] == pytest.approx(trainer.metrics["validation_accuracy"], abs=1e-6)
    assert (trainer.metrics["training_samples"], trainer.metrics["validation_samples"]) == (1338, 100)
    other = Trainer(recipe.model_copy(update={"train": recipe.train.model_copy(update={"seed": 1})}), *digits, tmp_path)
    assert other.validation_set is not None
    assert not torch.equal(other.validation_set.images, aside.images)
    share = Trainer(tiny_recipe(data__validation=0.25), *digits, tmp_path, fuse=False).validation_set
    assert share is not None and len(share) == round(0.25 * 1438)


def test_the_average_is_that_of_the_steps_with_statistics_of_its_own(digits: Sets, tmp_path: Path) -> None:
    """The kept weights are the running average of those after every step, and the statistics the mean of batches'."""
    recipe = tiny_recipe(train__average=0.5, train__optimizer="sgd", train__lr=0.1)
    trainer = Trainer(recipe, *digits, tmp_path, fuse=False)
    wanted = trainer.network.body.conv1.weight.detach().double().clone()  # type: ignore[union-attr, operator]
    for done, event in enumerate(trainer.run()):
        if event.metrics is None:
            decay = min(0.5, (1 + done) / (10 + done))
            wanted = decay * wanted + (1 - decay) * trainer.network.body.conv1.weight.detach().double()  # type: ignore[union-attr, operator]
    assert trainer.average is not None
    state = state_of(tmp_path / "model.pt")
    assert torch.allclose(state["body.conv1.weight"].double(), wanted, atol=1e-6)
    # conv1's currents do not depend on other statistics: their mean over the batches is what the file says
    network = trainer.average.network
    means = [
        network.body.conv1(network.encoder(trainer.batches(1, step)[0])).mean((0, 1, 3, 4))  # type: ignore[union-attr, operator]
        for step in range(8)
    ]
    assert torch.allclose(state["body.norm1.running_mean"], torch.stack(means).mean(0), atol=1e-5)


@torch.no_grad()
def test_whitened_patches_are_uncorrelated(digits: Sets, tmp_path: Path) -> None:
    """What the first filters see of the training images has variance 1 but for noise, and no correlation; the second
    half is the first's negative."""
    layers = [{"type": "conv", "channels": 20}, *tiny_recipe().model_dump(mode="json")["model"]["layers"][2:]]
    recipe = tiny_recipe(train__whiten=True, model__layers=layers, data__train_limit=None)
    network = Trainer(recipe, *digits, tmp_path, fuse=False).network
    conv = network.body.conv1
    x = network.encoder(digits[0].images)[0]
    seen = torch.nn.functional.conv2d(x, conv.weight)[:, :18].transpose(0, 1).flatten(1)  # type: ignore[arg-type]
    found = torch.cov(seen.double())
    assert found[:9, :9].diagonal().min() > 0.9 and found[:9, :9].diagonal().max() < 1 + 1e-4
    assert (found[:9, :9] - found[:9, :9].diagonal().diag()).abs().max() < 1e-4
    assert torch.allclose(found[:9, 9:], -found[:9, :9], atol=1e-6)


def test_loss_of_steps_and_of_a_teacher(digits: Sets, tmp_path: Path) -> None:
    """TET's mean over the steps, and Hinton's divergence, both as written out."""
    train(tiny_recipe(), digits, tmp_path / "teacher")
    teacher = tmp_path / "teacher" / "model.pt"
    steps, labels = torch.randn(2, 5, 10), torch.tensor([1, 0, 3, 9, 1])
    each = torch.stack([torch.nn.functional.cross_entropy(step, labels) for step in steps]).mean()
    assert torch.isclose(loss_of(tiny_recipe(train__loss="steps").train, steps, steps.mean(0), labels, None), each)
    recipe = tiny_recipe(train__distill=0.7, train__temperature=3.0)
    trainer = Trainer(recipe, *digits, tmp_path / "b", fuse=False, teacher=teacher)
    own, theirs = steps.mean(0), torch.randn(5, 10)
    p, q = (torch.softmax(scores / 3, 1) for scores in (theirs, own))
    apart = (p * (p.log() - q.log())).sum(1).mean() * 9
    plain = torch.nn.functional.cross_entropy(own, labels)
    assert torch.isclose(loss_of(recipe.train, steps, own, labels, theirs), 0.3 * plain + 0.7 * apart)
    images = digits[0].images[:5]
    with torch.no_grad():
        wanted = model_file.load(teacher).network(images)
        assert trainer.teacher is not None and torch.allclose(trainer.teacher(images), wanted)
    list(trainer.run())
    assert model_file.load(tmp_path / "b" / "model.pt").metrics["teacher"] == "teacher"
    with pytest.raises(InputError, match=r"--teacher '.*' tells 10 classes .* apart, the recipe 9 of"):
        nine = replace(digits[0], classes=digits[0].classes[:9])
        Trainer(tiny_recipe(), nine, digits[1], tmp_path / "c", fuse=False, teacher=teacher)


def test_the_rate_of_every_step_reaches_the_optimizer(digits: Sets, tmp_path: Path) -> None:
    """All groups get the schedule's rate of the step."""
    recipe = tiny_recipe(train__epochs=2, train__warmup_epochs=1)
    trainer = Trainer(recipe, *digits, tmp_path, fuse=False)
    step = 0
    for event in trainer.run():
        if event.metrics is None:
            wanted = recipe.train.lr * schedule(recipe.train, step, 8)
            assert [group["lr"] for group in trainer.optimizer.param_groups] == [wanted, wanted]
            step += 1
    assert step == 16


def test_statistics_are_those_of_the_pixels(digits: Sets) -> None:
    """The mean and deviation that the first layer normalizes by are the training images' own."""
    mean, std = channel_statistics(digits[0])
    pixels = digits[0].images.double() / 16
    assert mean == pytest.approx([pixels.mean().item()], abs=1e-6)
    assert std == pytest.approx([pixels.std(correction=0).item()], abs=1e-6)


def test_a_channel_of_one_colour_is_not_divided_by_zero() -> None:
    """A constant channel gets a small positive deviation."""
    constant = ImageSet("one", torch.full((4, 1, 8, 8), 3, dtype=torch.uint8), torch.zeros(4).long(), ("a",), 16, "")
    mean, std = channel_statistics(constant)
    assert mean == [3 / 16]
    assert std == [1e-3]


def test_seeds_of_steps_do_not_meet() -> None:
    """No two (seed, epoch, step) of a long run share a seed, and all of them fit torch's generators."""
    seeds = {seed_of(seed, 2, epoch, step) for seed in range(3) for epoch in range(40) for step in range(100)}
    assert len(seeds) == 3 * 40 * 100
    assert min(seeds) >= 0
    assert max(seeds) < 2**63


# ------------------------------------------------------------------------------------------- determinism


@pytest.mark.parametrize(
    "changes", [{}, RICH, {"train__optimizer": "sgd"}, MODERN], ids=["plain", "rich", "sgd", "modern"]
)
def test_two_runs_give_the_same_bits(changes: dict[str, Any], digits: Sets, tmp_path: Path) -> None:
    """Same recipe, same weights, same figures; another seed gives others."""
    recipe = tiny_recipe(**changes)
    for name in ("first", "second"):
        train(recipe, digits, tmp_path / name)
    assert_equal(state_of(tmp_path / "first" / "model.pt"), state_of(tmp_path / "second" / "model.pt"))
    assert history_of(tmp_path / "first") == history_of(tmp_path / "second")
    train(tiny_recipe(**changes, train__seed=1), digits, tmp_path / "third")
    other = state_of(tmp_path / "third" / "model.pt")["body.conv1.weight"]
    assert not torch.equal(other, state_of(tmp_path / "first" / "model.pt")["body.conv1.weight"])


def test_what_runs_besides_does_not_change_a_run(digits: Sets, tmp_path: Path) -> None:
    """Random numbers drawn by the caller between the steps have no influence."""
    recipe = tiny_recipe(**RICH)
    train(recipe, digits, tmp_path / "quiet")
    for _ in Trainer(recipe, *digits, tmp_path / "noisy", fuse=False).run():
        torch.rand(3)
    assert_equal(state_of(tmp_path / "quiet" / "model.pt"), state_of(tmp_path / "noisy" / "model.pt"))


# ------------------------------------------------------------------------------------- stopped and resumed

DRIVER = """
import json, os, signal, sys
from pathlib import Path
from snn2chip import data
from snn2chip.nn import model_file
from snn2chip.recipe import parse
from snn2chip.train import loop

job = json.loads(sys.argv[1])
loop.CHECKPOINT_SECONDS = 0.0  # a checkpoint at every step
sets = data.load("digits", "train"), data.load("digits", "test").subset(100)
recipe = parse(job["recipe"])
saves = 0
plain_save = model_file.torch.save

def save(content, file):
    global saves
    saves += 1
    if saves == job.get("die_in_save"):  # half of a file, then the end
        import io
        whole = io.BytesIO()
        plain_save(content, whole)
        file.write(whole.getvalue()[: len(whole.getvalue()) // 2])
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    plain_save(content, file)

model_file.torch.save = save

def train(out, resume):
    trainer = loop.Trainer(recipe, *sets, Path(out), resume=resume, fuse=False)
    print("from", trainer.progress.epoch, trainer.progress.step, flush=True)
    for event in trainer.run():
        print("step", event.epoch, event.step, flush=True)

if job["resume"]:
    train(job["out"], True)
    train(job["out"] + "-unbroken", False)
else:
    train(job["out"], False)
"""


def driver(recipe: Recipe, out: Path, *, resume: bool, die_in_save: int | None = None) -> Child:
    job = {"recipe": recipe.model_dump(mode="json"), "out": str(out), "resume": resume, "die_in_save": die_in_save}
    return Child(DRIVER, json.dumps(job))


def resume_and_compare(recipe: Recipe, out: Path) -> tuple[int, int]:
    """Resume a killed run, train an unbroken one beside it, compare; gives (epoch, step) where it went on."""
    said = driver(recipe, out, resume=True).finish().ok()
    unbroken = out.with_name(out.name + "-unbroken")
    assert_equal(state_of(out / "model.pt"), state_of(unbroken / "model.pt"))
    assert history_of(out) == history_of(unbroken)
    epoch, step = said.splitlines()[0].split()[1:]
    return int(epoch), int(step)


@pytest.mark.parametrize("changes", [{}, RICH, MODERN], ids=["plain", "dropout-augment-poisson", "modern"])
def test_killed_run_goes_on_to_the_same_bits(changes: dict[str, Any], tmp_path: Path) -> None:
    """SIGKILL at a random step in the middle of an epoch: `resume` ends in the model of an unbroken run.

    The step is random anew in each run of this test, and printed when it fails.
    """
    recipe = tiny_recipe(**changes, train__epochs=3)
    target = 2 + int.from_bytes(os.urandom(2), "big") % 20  # of 24 steps; not the first, nor the last
    process = driver(recipe, tmp_path / "run", resume=False)
    for _ in range(1 + target):
        process.stdout.readline()
    os.kill(process.pid, signal.SIGKILL)
    assert process.finish().code == -signal.SIGKILL
    assert not (tmp_path / "run" / "model.pt").exists()
    epoch, step = resume_and_compare(recipe, tmp_path / "run")
    assert 8 * epoch + step >= 1, f"killed after step {target}"


@pytest.mark.parametrize("which", [2, 13])
def test_killed_while_writing_a_checkpoint_the_last_one_stays(which: int, tmp_path: Path) -> None:
    """A half-written checkpoint never takes the place of the whole one before it."""
    recipe = tiny_recipe(train__epochs=2)
    assert driver(recipe, tmp_path / "run", resume=False, die_in_save=which).finish().code == -signal.SIGKILL
    parts = list((tmp_path / "run").glob(".*.part/*"))
    assert [(part.name, part.stat().st_size > 0) for part in parts] == [("checkpoint.pt", True)]  # killed in the middle
    content = model_file.load_tensors(tmp_path / "run" / "checkpoint.pt")
    assert content["format"] == "snn2chip-checkpoint"
    epoch, step = resume_and_compare(recipe, tmp_path / "run")
    # one write a step, and one more at the end of the epoch
    assert (epoch, step) == ((0, 1) if which == 2 else (1, 3))
    assert not list((tmp_path / "run").glob(".*"))  # the first write of the resumed run took the half one away


@contextlib.contextmanager
def interrupt_in(owner: object, name: str, call: int) -> Iterator[None]:
    """A real SIGINT in the middle of the `call`-th call of `owner.name`."""
    original = getattr(owner, name)
    calls = 0

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            signal.raise_signal(signal.SIGINT)
        return original(*args, **kwargs)

    setattr(owner, name, wrapped)
    try:
        yield
    finally:
        setattr(owner, name, original)


@pytest.mark.parametrize("place", ["forward", "optimizer", "evaluation", "checkpoint"])
def test_ctrl_c_anywhere_leaves_a_checkpoint_of_whole_steps(place: str, digits: Sets, tmp_path: Path) -> None:
    """Ctrl-C inside a step, an evaluation or a checkpoint: what is left resumes to the same bits.

    A step that was half done (statistics moved, weights not yet) must not be in the checkpoint.
    """
    recipe = tiny_recipe(train__epochs=2, data__validation=50)
    train(recipe, digits, tmp_path / "unbroken")
    trainer = Trainer(recipe, *digits, tmp_path / "run", fuse=False)
    owner, name, call = {
        "forward": (trainer.network.body.norm2, "forward", 5),
        "optimizer": (trainer.optimizer, "step", 5),
        "evaluation": (trainer.network.readout, "forward", 9),
        "checkpoint": (checkpoint, "save", 1),
    }[place]
    with interrupt_in(owner, name, call), pytest.raises(KeyboardInterrupt):
        for _ in trainer.run():
            pass
    assert not (tmp_path / "run" / "model.pt").exists()
    assert not list((tmp_path / "run").glob(".*.part"))
    done = model_file.load_tensors(tmp_path / "run" / "checkpoint.pt")["progress"]
    position = (done["epoch"], done["step"])
    assert position == ((0, 5) if place in ("forward", "optimizer") else (0, 8) if place == "evaluation" else (1, 0))
    train(recipe, digits, tmp_path / "run", resume=True)
    assert_equal(state_of(tmp_path / "run" / "model.pt"), state_of(tmp_path / "unbroken" / "model.pt"))
    assert history_of(tmp_path / "run") == history_of(tmp_path / "unbroken")


def test_a_second_ctrl_c_does_not_wait_for_the_step(digits: Sets, tmp_path: Path) -> None:
    """Twice Ctrl-C inside one step ends at once, and the half step spoils no checkpoint."""
    trainer = Trainer(tiny_recipe(), *digits, tmp_path, fuse=False)
    with interrupt_in(trainer.network, "zero_grad", 3), interrupt_in(trainer.optimizer, "step", 3):
        seen = 0
        with pytest.raises(KeyboardInterrupt):
            for _ in trainer.run():
                seen += 1
    assert seen == 2
    assert not (tmp_path / "checkpoint.pt").exists()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_in_the_command(tmp_path: Path, cli: Command) -> None:
    """`snn2chip train` ends with exit code 130 and the command to go on with, which then works."""
    settings = [f"--set={key}" for key in ("train.epochs=200", "data.train_limit=256")]
    arguments = ["train", "digits-tdbn", "--device=cpu", "--out", str(tmp_path / "run"), *settings]
    process = Child(COMMAND, *arguments)
    while "epoch" not in process.stdout.readline().split("  ")[0].split(",")[0]:
        assert process.running()
    time.sleep(0.1 * (os.urandom(1)[0] / 255))  # anywhere in an epoch
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the whole group
    done = process.finish(60)
    assert (done.code, done.err) == (130, f"interrupted: go on with --resume --out {tmp_path / 'run'}\n"), done.out
    assert "Traceback" not in done.out
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert left - {"report.html", "report.json"} == {"checkpoint.pt", "metrics.jsonl"}  # the page comes after the row
    rows = history_of(tmp_path / "run")
    assert rows
    refused = cli("train", "digits-tdbn", "--device=cpu", "--out", tmp_path / "run", "--resume")
    refused.refused("another recipe", "--set", "--out")
    assert history_of(tmp_path / "run") == rows


def test_a_finished_run_resumes_to_itself(digits: Sets, tmp_path: Path) -> None:
    """`--resume` after the end trains nothing and writes the same model again."""
    first = train(tiny_recipe(), digits, tmp_path)
    before = state_of(tmp_path / "model.pt")
    second = train(tiny_recipe(), digits, tmp_path, resume=True)
    assert_equal(before, state_of(tmp_path / "model.pt"))
    assert first.metrics == second.metrics


def test_resume_without_a_checkpoint_is_refused(digits: Sets, tmp_path: Path) -> None:
    """The message says which file is missing."""
    with pytest.raises(InputError, match=r"nothing to resume: '.*checkpoint\.pt' does not exist"):
        Trainer(tiny_recipe(), *digits, tmp_path, resume=True)


@pytest.mark.parametrize("changes", [{"train__lr": 0.1}, {"train__epochs": 7}, {"model__timesteps": 3}])
def test_resume_with_another_recipe_is_refused(changes: dict[str, Any], digits: Sets, tmp_path: Path) -> None:
    """A checkpoint goes on only with the recipe it was made with; it is left as it was."""
    train(tiny_recipe(), digits, tmp_path)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    with pytest.raises(InputError, match="belongs to another recipe"):
        Trainer(tiny_recipe(**changes), *digits, tmp_path, resume=True)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


@pytest.mark.parametrize("damage", ["model", "truncated", "state", "progress"])
def test_resume_from_a_damaged_checkpoint_is_refused(damage: str, digits: Sets, tmp_path: Path) -> None:
    """A checkpoint that is no checkpoint, or only a part of one, is refused by name."""
    train(tiny_recipe(), digits, tmp_path)
    path = tmp_path / "checkpoint.pt"
    if damage == "model":
        path.write_bytes((tmp_path / "model.pt").read_bytes())
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:-500])
    else:
        content = torch.load(path, weights_only=True)
        content[damage].pop(next(iter(content[damage])))
        torch.save(content, path)
    with pytest.raises(InputError, match=r"checkpoint\.pt'"):
        Trainer(tiny_recipe(), *digits, tmp_path, resume=True)


def altered(content: dict[str, Any], where: str, value: Any) -> None:
    """Put `value` at a dotted place; numbers are those of lists and of the optimizer's parameters."""
    *path, last = [int(part) if part.isdecimal() else part for part in where.split("/")]
    at: Any = content
    for part in path:
        at = at[part]
    if value is DELETED:
        del at[last]
    else:
        at[last] = value


DELETED = object()
DAMAGE: dict[str, tuple[str, Any]] = {
    "a count that is a tensor": ("progress/correct", torch.tensor([82.0, 82.0])),
    "a count that is a text": ("progress/seen", "192"),
    "a count below 0": ("progress/step", -1),
    "a step beyond the epoch": ("progress/step", 9),
    "an epoch beyond the recipe's": ("progress/epoch", 3),
    "more right than seen": ("progress/correct", 10_000),
    "a loss that is NaN": ("progress/loss_sum", math.nan),
    "a truth for a number": ("progress/epoch", True),
    "a field too much": ("progress/more", 1),
    "no history": ("progress/history", []),
    "a row of the history that is none": ("progress/history/0", {"epoch": 1}),
    "a row with a text": ("progress/history/0/train_accuracy", "0.5"),
    "a row with an accuracy above 1": ("progress/history/0/train_accuracy", 1.5),
    "a row with an accuracy of no split": ("progress/history/0/validation_accuracy", 0.5),
    "an average that the recipe keeps none of": ("average", {"body.conv1.weight": torch.zeros(3)}),
    "no average": ("average", DELETED),
    "progress that is a list": ("progress", [1, 2]),
    "no progress": ("progress", DELETED),
    "a tensor of another shape": ("state/body.conv1.weight", torch.zeros(3)),
    "a tensor of another type": ("state/body.norm1.weight", torch.zeros(8, dtype=torch.float64)),
    "a tensor that is NaN": ("state/body.norm1.weight", torch.full((8,), math.nan)),
    "a tensor without memory": ("state/body.norm1.weight", torch.zeros(1).expand(8)),
    "a negative variance": ("state/body.norm1.running_var", torch.full((8,), -1.0)),
    "a number for a tensor": ("state/body.norm1.weight", 3),
    "state that is a text": ("state", "weights"),
    "a state without a tensor": ("state/body.norm1.weight", DELETED),
    "moments of another shape": ("optimizer/state/0/exp_avg", torch.zeros(2)),
    "moments that are infinite": ("optimizer/state/0/exp_avg", torch.full((8, 1, 3, 3), math.inf)),
    "squares below 0": ("optimizer/state/0/exp_avg_sq", torch.full((8, 1, 3, 3), -1.0)),
    "a step of the optimizer beyond the run": ("optimizer/state/0/step", torch.tensor(1e9)),
    "a parameter that is not there": ("optimizer/state/99", {}),
    "no moments": ("optimizer/state", {}),
    "a group's decay": ("optimizer/param_groups/0/weight_decay", 7.0),
    "a group's rate that is a text": ("optimizer/param_groups/0/lr", "fast"),
    "a group that is a number": ("optimizer/param_groups/0", 1),
    "groups of other parameters": ("optimizer/param_groups/0/params", [0]),
    "an optimizer that is a list": ("optimizer", []),
    "a recipe that is a text": ("recipe", "digits"),
    "no recipe": ("recipe", DELETED),
    "a format that is a tensor": ("format", torch.zeros(2)),
}


@pytest.fixture(scope="module")
def halfway(digits: Sets, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in the middle of the second of two epochs."""
    folder = tmp_path_factory.mktemp("halfway")
    for event in Trainer(tiny_recipe(train__epochs=2), *digits, folder, fuse=False).run():
        if (event.epoch, event.step) == (1, 3):
            break
    return folder


@pytest.mark.parametrize("name", DAMAGE)
def test_every_field_of_a_checkpoint_is_checked(name: str, digits: Sets, halfway: Path, tmp_path: Path) -> None:
    """A well-formed file with content that no training leaves is refused in one line, and stays as it is."""
    content = torch.load(halfway / "checkpoint.pt", weights_only=True)
    altered(content, *DAMAGE[name])
    path = tmp_path / "checkpoint.pt"
    torch.save(content, path)
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"checkpoint\.pt'") as caught:
        Trainer(tiny_recipe(train__epochs=2), *digits, tmp_path, resume=True, fuse=False)
    assert "\n" not in str(caught.value)
    if name not in ("a recipe that is a text", "a format that is a tensor", "a negative variance"):
        assert "is damaged" in str(caught.value)
    assert path.read_bytes() == before


def test_the_checkpoint_that_was_altered_resumes_as_it_is(digits: Sets, halfway: Path, tmp_path: Path) -> None:
    """So that the refusals above are of what was altered."""
    torch.save(torch.load(halfway / "checkpoint.pt", weights_only=True), tmp_path / "checkpoint.pt")
    trainer = Trainer(tiny_recipe(train__epochs=2), *digits, tmp_path, resume=True, fuse=False)
    assert (trainer.progress.epoch, trainer.progress.step) == (1, 3)


def test_a_damaged_checkpoint_in_the_command(tmp_path: Path, halfway: Path, cli: Command) -> None:
    """One line and exit code 2."""
    content = torch.load(halfway / "checkpoint.pt", weights_only=True)
    content["progress"]["correct"] = torch.tensor([82.0, 82.0])
    run = tmp_path / "run"
    run.mkdir()
    torch.save(content, run / "checkpoint.pt")
    (tmp_path / "recipe.toml").write_text(plain_recipes.recipe_text(tiny_recipe(train__epochs=2)))
    cli("train", tmp_path / "recipe.toml", "--out", run, "--resume", "--device", "cpu").refused(
        "checkpoint.pt' is damaged", "progress correct", "--overwrite"
    )


# ------------------------------------------------------------------------------- a folder that holds a run


@pytest.mark.parametrize("left", ["model.pt", "checkpoint.pt", "metrics.jsonl"])
def test_a_folder_with_a_run_is_refused(left: str, digits: Sets, tmp_path: Path) -> None:
    """Without resume or overwrite nothing of another run is touched; with overwrite it goes when the run starts."""
    (tmp_path / left).write_bytes(b"hours of work")
    with pytest.raises(InputError, match=rf"holds results already \({left}\); go on with --resume, .* --overwrite"):
        Trainer(tiny_recipe(), *digits, tmp_path, fuse=False)
    assert (tmp_path / left).read_bytes() == b"hours of work"
    trainer = Trainer(tiny_recipe(), *digits, tmp_path, fuse=False, overwrite=True)
    assert (tmp_path / left).read_bytes() == b"hours of work"
    for _ in trainer.run():
        pass
    assert (tmp_path / left).read_bytes() != b"hours of work"


def test_two_trains_at_once(tmp_path: Path, cli: Command) -> None:
    """A second `train` into the folder of a running one is refused and harms nothing, whatever it is told."""
    settings = ["--set=train.epochs=200", "--set=data.train_limit=256"]
    arguments = ["train", "digits-tdbn", "--device=cpu", "--out", str(tmp_path / "run"), *settings]
    process = Child(COMMAND, *arguments)
    while not process.stdout.readline().startswith("epoch   2/"):
        assert process.running()
    for choice in ([], ["--resume"], ["--overwrite"]):
        cli(*arguments, *choice).refused(str(tmp_path / "run"), "in use by another snn2chip")
    assert (tmp_path / "run" / "checkpoint.pt").exists()
    os.killpg(process.pid, signal.SIGINT)
    done = process.finish(60)
    assert done.code == 130 and "--resume" in done.err
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    cli(*arguments).refused("checkpoint.pt", "--resume", "--overwrite")
    cli(*arguments, "--resume", "--overwrite").refused("give one of them")
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


# ------------------------------------------------------------------------------------- what can go wrong


@pytest.mark.parametrize("rate", [1e30, 1e38])
def test_divergence_is_named(rate: float, digits: Sets, tmp_path: Path) -> None:
    """What is no longer finite stops the run with its step and a remedy, and leaves no model."""
    recipe = tiny_recipe(train__lr=rate, train__optimizer="sgd", train__warmup_epochs=0, train__epochs=2)
    wanted = r"training diverged: (loss|gradient|'body\.\S+') .* at epoch \d, step \d+; lower train\.lr .*grad_clip"
    with pytest.raises(InputError, match=wanted):
        train(recipe, digits, tmp_path)
    assert not (tmp_path / "model.pt").exists()


@pytest.mark.parametrize("layer", ["conv1", "dense1", "norm1"])
def test_a_diverged_step_is_in_no_checkpoint(layer: str, digits: Sets, tmp_path: Path) -> None:
    """NaN is noticed in the step where it appears, though neurons turn it into silence, and is not saved."""
    trainer = Trainer(tiny_recipe(train__epochs=2), *digits, tmp_path, fuse=False)
    seen = (0, 0)
    with pytest.raises(InputError, match=r"training diverged: (loss|gradient) nan at epoch 2, step 4"):
        for event in trainer.run():
            seen = (event.epoch, event.step)
            if seen == (1, 3):
                with torch.no_grad():
                    trainer.network.body.get_submodule(layer).weight.fill_(math.nan)
    assert seen == (1, 3)
    saved = model_file.load_tensors(tmp_path / "checkpoint.pt")
    assert saved["progress"]["epoch"] == 1
    assert saved["progress"]["step"] == 0
    assert all(bool(torch.isfinite(value).all()) for value in saved["state"].values())


def test_a_batch_larger_than_the_data_is_named(digits: Sets, tmp_path: Path) -> None:
    """The message has both numbers and the setting that works."""
    with pytest.raises(InputError, match=r"batch_size 300 exceeds the 256 .* --set train\.batch_size=256"):
        Trainer(tiny_recipe(train__batch_size=300), *digits, tmp_path, fuse=False)


def test_a_folder_that_cannot_be_made_is_refused_before_training(digits: Sets, tmp_path: Path) -> None:
    """An --out that cannot be written is named at once, not after the first epoch."""
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match=r"file/run"):
        Trainer(tiny_recipe(), *digits, tmp_path / "file" / "run", fuse=False)


# ------------------------------------------------------------------------------------------ what is left


def test_metrics_and_page_are_written(quickstart: Quickstart) -> None:
    """One row an epoch with sensible figures, the page, and the model's own accuracy in model.pt."""
    rows = [json.loads(line) for line in (quickstart.folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    for row in rows:
        assert row.keys() == {
            *(f"firing/lif{number}" for number in (1, 2, 3, 4)),
            "epoch", "train_loss", "train_accuracy", "learning_rate", "seconds",
        }  # fmt: skip
        assert all(0 <= row[f"firing/lif{number}"] <= 1 for number in (1, 2, 3, 4))
        assert 0 <= row["train_accuracy"] <= 1
        assert row["seconds"] > 0
    assert rows[2]["train_loss"] < rows[0]["train_loss"]
    assert (quickstart.folder / "report.html").read_text().endswith("</html>\n")
    assert model_file.load(quickstart.model).metrics["float_accuracy"] > 0.85  # three epochs learn digits
    assert not list(quickstart.folder.glob(".*.part"))


def test_train_limit_takes_the_first_images(digits: Sets, tmp_path: Path) -> None:
    """Only the first images are seen, and the statistics are theirs."""
    trainer = Trainer(tiny_recipe(data__train_limit=70), *digits, tmp_path, fuse=False)
    assert len(trainer.train_set) == 70
    assert trainer.steps_per_epoch == 2
    assert torch.equal(trainer.train_set.images, digits[0].images[:70])
    mean, _ = channel_statistics(digits[0].subset(70))
    assert trainer.network.encoder.mean.tolist() == pytest.approx(mean)
    whole = Trainer(tiny_recipe(data__train_limit=None), *digits, tmp_path, fuse=False)
    assert len(whole.train_set) == 1438


@pytest.mark.skipif(sys.platform == "win32", reason="no limits on file sizes")
@pytest.mark.parametrize("limit", [0, 1000, 20_000, 100_000, 300_000])
def test_a_full_disk_is_named_wherever_it_fills_up(limit: int, quickstart: Quickstart, tmp_path: Path) -> None:
    """In the head, in a tensor or at the end: the system's reason, the old file kept, no part of the new one."""
    import resource

    model = model_file.load(quickstart.model)
    target = tmp_path / "model.pt"
    target.write_bytes(b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(InputError) as caught:
            model_file.save(target, model.network, model.recipe, max_value=16, classes=model.classes, metrics={})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    reason = os.strerror(errno.EFBIG)
    assert str(caught.value) == f"cannot write '{target}': {reason}; free some space or choose another place"
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"model.pt": b"old"}


def plain(value: object) -> bool:
    """Whether a value is a tensor or made of dicts, lists, strings, numbers and None only."""
    if type(value) is dict:
        return all(type(key) is str and plain(item) for key, item in value.items())
    if type(value) is list:
        return all(plain(item) for item in value)
    return type(value) in (torch.Tensor, str, int, float, bool, type(None))


def test_model_holds_only_plain_values(quickstart: Quickstart) -> None:
    """model.pt loads with weights_only, and holds dicts, lists, strings, numbers and tensors; nothing else."""
    content = torch.load(quickstart.model, weights_only=True)
    assert content.keys() == {
        "format", "version", "recipe", "input_shape", "max_value", "classes", "state", "metrics", "made_with",
    }  # fmt: skip
    assert type(content["state"]) is dict
    for key, value in content.items():
        assert plain(value), key
    assert all(value.is_contiguous() for value in content["state"].values())
    assert content["input_shape"] == [1, 8, 8]
    assert content["classes"] == [str(digit) for digit in range(10)]
    assert content["metrics"]["dataset"] == "digits:test"


def test_fused_neurons_train_to_the_same_bits_again(digits: Sets, tmp_path: Path) -> None:
    """The compiled neurons of the command line repeat themselves bit for bit, also across a resume."""
    layers = [
        {"type": "conv", "channels": 8, "stride": 2},
        {"type": "flatten"},
        {"type": "dense", "features": "classes", "neuron": False},
    ]
    recipe = tiny_recipe(train__epochs=2, model__layers=layers)
    for name in ("unbroken", "broken"):
        trainer = Trainer(recipe, *digits, tmp_path / name)
        if trainer.notes:
            pytest.skip(trainer.notes[0])
        for event in trainer.run():
            if name == "broken" and (event.epoch, event.step) == (0, 5):
                break
    assert not (tmp_path / "broken" / "model.pt").exists()
    for _ in Trainer(recipe, *digits, tmp_path / "broken", resume=True).run():
        pass
    assert_equal(state_of(tmp_path / "broken" / "model.pt"), state_of(tmp_path / "unbroken" / "model.pt"))


# ----------------------------------------------------------------- every option trains, exports and verifies

OPTIONS: dict[str, dict[str, Any]] = {
    "spike_count": {
        "model__readout": "spike_count",
        "model__layers": [
            {"type": "conv", "channels": 8, "stride": 2},
            {"type": "flatten"},
            {"type": "dense", "features": "classes", "norm": "tdbn", "bias": False, "neuron": True},
        ],
    },
    "poisson": {"model__coding": "poisson", "model__timesteps": 6},
    "rich": RICH,
    "depthwise": {
        "model__layers": [
            {"type": "conv", "channels": 8},
            {"type": "conv", "depthwise": True, "stride": 2, "bias": True},
            {"type": "conv", "channels": 16, "kernel": 1, "groups": 2},
            {"type": "avgpool", "kernel": 2},
            {"type": "globalavgpool"},
            {"type": "dense", "features": "classes", "neuron": False},
        ],
    },
    "trainable": {
        "model__neuron": {"trainable_tau": True, "trainable_threshold": True, "tau": 0.5, "surrogate": "arctan"},
        "model__timesteps": 4,
    },
    "sgd": {"train__optimizer": "sgd", "train__lr": 0.05, "train__grad_clip": 1.0, "train__label_smoothing": 0.1},
    "no norm": {
        "model__layers": [
            {"type": "conv", "channels": 8, "norm": "none", "bias": True},
            {"type": "flatten"},
            {"type": "dense", "features": 16},
            {"type": "dense", "features": "classes", "neuron": False, "bias": False},
        ],
    },
    "dense only": {
        "model__layers": [
            {"type": "flatten"},
            {"type": "dense", "features": 20, "norm": "tdbn", "bias": False},
            {"type": "dense", "features": "classes", "neuron": False},
        ],
        "model__neuron": {"tau": 1.0, "surrogate": "triangular", "detach_reset": True},
    },
    "one step": {"model__timesteps": 1},
    "bfloat16": {"train__precision": "bfloat16"},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_trains_exports_and_verifies(name: str, digits: Sets, tmp_path: Path) -> None:
    """An epoch moves every parameter; the result exports, and every exact rung of the ladder holds."""
    # batches enough for running statistics with which neurons fire: verify fails where no input changes the scores
    recipe = tiny_recipe(**{"train__batch_size": 8} | OPTIONS[name])
    start = {
        key: value.detach().clone()
        for key, value in Trainer(recipe, *digits, tmp_path, fuse=False).network.named_parameters()
    }
    trained = train(recipe, digits, tmp_path).network
    assert trained.timesteps == recipe.model.timesteps
    for key, value in trained.named_parameters():
        assert not torch.equal(value, start[key]), f"{key} never moved"
    model = model_file.load(tmp_path / "model.pt")
    export = pipeline.export(model, chip.load("loihi2"), calibration=digits[0].subset(16))
    verdict = verify(model, export.chain, digits[1].images[:8].numpy(), with_lava=False)
    assert verdict.passed
    exact = {rung.name: (rung.mismatches, rung.first) for rung in verdict.rungs if rung.name != "folded ~ integers"}
    names = ["torch = captured", "captured = folded", "integers = file", "graph = chain", "reference = dense"]
    names += ["dense = events"] if unavailable() is None else []
    assert exact == dict.fromkeys(names, (0, None))
    assert min(rung.compared for rung in verdict.rungs) > 0
    assert asdict(verdict)["passed"] is True


def test_recipe_of_a_model_is_the_recipe_it_was_trained_with(digits: Sets, tmp_path: Path) -> None:
    """model.pt gives back the recipe, the classes and the same scores."""
    recipe = tiny_recipe()
    trained = train(recipe, digits, tmp_path).network
    model = model_file.load(tmp_path / "model.pt")
    assert model.recipe == recipe
    assert model.classes == digits[1].classes
    with torch.no_grad():
        assert torch.equal(model.network(digits[1].images), trained(digits[1].images))


def test_two_runs_do_not_share_a_folder(digits: tuple[ImageSet, ImageSet], tmp_path: Path) -> None:
    """While one run trains into a folder another is refused; when the first ends, however, the folder is free."""
    first = Trainer(tiny_recipe(), *digits, tmp_path, fuse=False)
    events = first.run()
    next(events)
    for choice in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(InputError, match="in use by another snn2chip"):
            Trainer(tiny_recipe(), *digits, tmp_path, fuse=False, **choice)
    events.close()  # type: ignore[attr-defined]
    kept = (tmp_path / "checkpoint.pt").read_bytes()
    second = Trainer(tiny_recipe(), *digits, tmp_path, fuse=False, overwrite=True)
    other = Trainer(tiny_recipe(), *digits, tmp_path, fuse=False, overwrite=True)
    assert (tmp_path / "checkpoint.pt").read_bytes() == kept  # nothing is deleted before it runs
    events = second.run()
    next(events)
    with pytest.raises(InputError, match="in use by another snn2chip"):
        next(other.run())
    assert len(list(events)) > 1
    assert (tmp_path / "model.pt").exists()
