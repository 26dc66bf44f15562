"""The training loop as a GPU runs it, without one: nothing waits, what is read late is the same, graphs are kept well.

On torch's `meta` device tensors have no values: asking for one, as ``.item()``, ``bool()`` or ``.cpu()`` do, raises.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import MODERN, RICH, tiny_recipe
from helpers import Sets, assert_equal, history_of, state_of, train
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from snn2chip import data
from snn2chip.cli.common import device_of
from snn2chip.errors import InputError
from snn2chip.train import batches, graph, loop
from snn2chip.train.loop import Trainer
from snn2chip.train.measure import evaluate
from snn2chip.train.surroundings import arithmetic

AUGMENTED = {
    "crop": 1, "border": "reflect", "flip": "alternating", "cutout": 2, "erase": 0.5, "cutmix": 0.4, "mixup": 0.4,
    "rotate": 10.0, "zoom": 0.1, "shear": 0.1, "roll": 1, "drop": 0.1,
}  # fmt: skip
LAYERS = [*RICH["model__layers"][:3], {"type": "residual", "channels": 8}, *RICH["model__layers"][3:]]
STEPS: dict[str, dict[str, Any]] = {
    "plain": {},
    "muon, averaged": {**MODERN, "data__augment": AUGMENTED},
    "sgd, dropout, residual": {"train__optimizer": "sgd", "model__layers": LAYERS, "train__grad_clip": 1.0},
    "bntt": {"model__layers": [{"norm": "bntt", **layer} for layer in LAYERS if layer["type"] == "conv"] + LAYERS[-2:]},
}


@pytest.fixture(scope="module")
def digits() -> Sets:
    return data.load("digits", "train"), data.load("digits", "test").subset(100)


@pytest.mark.parametrize("name", STEPS)
def test_no_step_waits_for_the_device(name: str, digits: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole steps run where no value can be asked for: batch, augmentation, loss, gradients, optimizer, average."""
    real = batches.generator_of  # meta has no generators
    monkeypatch.setattr(batches, "generator_of", lambda seed, *_device: real(seed))
    train(tiny_recipe(), digits, tmp_path / "teacher")
    changes = {key: value for key, value in STEPS[name].items() if key != "train__whiten"}  # once, before training
    trainer = Trainer(
        tiny_recipe(**changes), *digits, tmp_path / "run", device=torch.device("meta"),
        teacher=tmp_path / "teacher" / "model.pt",
    )  # fmt: skip
    for _ in range(8):
        trainer._step()
    assert trainer.progress.step == 8 and trainer._unread == 8
    with pytest.raises((RuntimeError, NotImplementedError), match=r"meta|Tensor\.item"):
        trainer._read()  # where values are asked for they are missed


@pytest.mark.parametrize("every", [3, 5, 100])
@pytest.mark.parametrize("changes", [{}, MODERN], ids=["plain", "modern"])
def test_read_seldom_is_the_same(
    every: int, changes: dict[str, Any], digits: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However seldom losses are read, also by a run that is broken off and goes on: the same weights and figures."""
    recipe = tiny_recipe(**changes, train__epochs=2)
    train(recipe, digits, tmp_path / "wanted")
    trainer = Trainer(recipe, *digits, tmp_path / "run", fuse=False)
    trainer._every = every
    events = trainer.run()
    for _ in range(5):
        next(events)
    events.close()  # type: ignore[attr-defined]
    again = Trainer(recipe, *digits, tmp_path / "run", fuse=False, resume=True)
    assert again.progress.step == 5 and again._shown[0] > 0
    again._every = every
    list(again.run())
    assert_equal(state_of(tmp_path / "run" / "model.pt"), state_of(tmp_path / "wanted" / "model.pt"))
    assert history_of(tmp_path / "run") == history_of(tmp_path / "wanted")


def test_what_diverged_between_two_looks_is_in_no_checkpoint(digits: Sets, tmp_path: Path) -> None:
    """NaN is found at the next look, which an end in between is one of; the steps are named, nothing is kept."""
    for ended in (False, True):
        trainer = Trainer(tiny_recipe(), *digits, tmp_path / str(ended), fuse=False)
        trainer._every = 4
        events = trainer.run()
        for _ in range(5):
            next(events)
        with torch.no_grad():
            trainer.network.body.conv2.weight.fill_(torch.nan)  # type: ignore[union-attr, operator]
        with pytest.raises(InputError, match=rf"(loss|gradient) nan at epoch 1, steps 5 to {6 if ended else 8};"):
            next(events)
            events.throw(KeyboardInterrupt) if ended else list(events)  # type: ignore[attr-defined]
        assert not (tmp_path / str(ended) / "checkpoint.pt").exists()


class Values(TorchDispatchMode):
    """Counts how often a tensor's value is asked for."""

    count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def test_an_evaluation_waits_once(digits: Sets, tmp_path: Path) -> None:
    """One number is read however many batches there are, and it is that of every image."""
    network = train(tiny_recipe(), digits, tmp_path).network
    right = 0
    with torch.no_grad():
        right = int((network(digits[1].images).argmax(1) == digits[1].labels).sum())
    with Values() as values:
        found = evaluate(network, digits[1], batch_size=7)
    assert (found, values.count) == (right / 100, 1)


def test_images_that_do_not_fit_are_gathered_where_they_are(
    digits: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same batches, be the images on the device or not; half of what a GPU has free is theirs at most."""
    recipe = tiny_recipe(data__augment=AUGMENTED)
    there = batches.Batches(digits[0], recipe, torch.device("cpu"))
    monkeypatch.setattr(batches, "fits", lambda *_: False)
    apart = batches.Batches(digits[0], recipe, torch.device("cpu"))
    for epoch, step in ((0, 0), (0, 3), (1, 1)):
        for mine, theirs in zip(there(epoch, step), apart(epoch, step), strict=True):
            assert torch.equal(mine, theirs)
    monkeypatch.undo()
    images = torch.zeros(100, dtype=torch.uint8)
    for free, enough in ((200, True), (199, False)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device, free=free: (free, 1 << 40))
        assert batches.fits(images, torch.device("cuda")) == enough


# --------------------------------------------------------------------------------------------------- graphs


def test_replayed_steps_are_the_steps(digits: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a graph that is recorded and replayed as CUDA's (on the tensors it was recorded with): the same bits. Mixed
    and unmixed batches have a graph of their own."""
    recorded: list[tuple[Tensor, ...]] = []

    def record(work: Callable[..., None], *inputs: Tensor) -> Callable[[], None]:
        recorded.append(inputs)
        trainer.network.zero_grad()
        for parameter in trainer.network.parameters():
            parameter.grad = torch.zeros_like(parameter)  # what the graph writes to
        grads = [parameter.grad for parameter in trainer.network.parameters()]

        def replay() -> None:
            work(*inputs)
            for parameter, kept in zip(trainer.network.parameters(), grads, strict=True):
                assert kept is not None and parameter.grad is not None
                kept.copy_(parameter.grad)

        return replay

    monkeypatch.setattr(graph, "_record", record)
    monkeypatch.setattr(graph, "_aside", lambda work, *inputs: work(*inputs))
    recipe = tiny_recipe(data__augment={"cutmix": 0.5}, train__epochs=3)
    train(recipe, digits, tmp_path / "wanted")
    trainer = Trainer(recipe, *digits, tmp_path / "run", fuse=False)
    trainer._work = graph.Graphed(trainer._pass, list(trainer.network.parameters()))
    list(trainer.run())
    assert sorted(inputs[1].ndim for inputs in recorded) == [1, 2]
    assert_equal(state_of(tmp_path / "run" / "model.pt"), state_of(tmp_path / "wanted" / "model.pt"))
    assert history_of(tmp_path / "run") == history_of(tmp_path / "wanted")


def test_a_graph_that_cannot_be_is_said(digits: Sets, tmp_path: Path) -> None:
    trainer = Trainer(tiny_recipe(), *digits, tmp_path, fuse=False, graph=True)
    assert trainer.notes == ["steps are not replayed as a graph: it needs one process on a GPU"]
    assert trainer._work == trainer._pass
    assert not Trainer(tiny_recipe(), *digits, tmp_path, fuse=False).notes  # nobody asked


# ------------------------------------------------------------------------------------------- how it computes


@pytest.mark.parametrize("deterministic", [False, True])
def test_float32_on_a_gpu_is_float32(deterministic: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """TF32 is off inside and as it was outside, also after an error; so is what must be deterministic."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    cudnn = torch.backends.cudnn
    assert cudnn.allow_tf32
    with pytest.raises(KeyError), arithmetic(torch.device("cuda"), "float32", deterministic):
        assert not cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32
        assert torch.are_deterministic_algorithms_enabled() == deterministic
        raise KeyError
    assert cudnn.allow_tf32 and not torch.are_deterministic_algorithms_enabled()


def test_the_events_engine_runs_beside_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` is the GPU, but for the engine that only the CPU has; who names the GPU too is told so."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device_of("auto") == device_of("auto", "dense") == device_of("cuda", "events") == torch.device("cuda")
    assert device_of("auto", "events") == torch.device("cpu")


def test_loop_reads_seldom_on_a_gpu_alone(digits: Sets, tmp_path: Path) -> None:
    for device, every in (("cpu", 1), ("meta", loop.READ)):
        assert Trainer(tiny_recipe(), *digits, tmp_path, fuse=False, device=torch.device(device))._every == every
