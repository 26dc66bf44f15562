"""Folders whose images stay files: batches, weights and accuracies are as in memory, and errors name files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Command, tiny_recipe
from PIL import Image

from snn2chip import data, parallel, processors
from snn2chip.data import ImageSet
from snn2chip.data.image_files import ImageFiles
from snn2chip.errors import DataError
from snn2chip.train.batches import Batches
from snn2chip.train.loop import Trainer
from snn2chip.train.measure import channel_statistics

SIDE, CLASSES = 12, ("ant", "bee", "cat")
AUGMENT = {"crop": 2, "flip": "alternating", "cutout": 3, "mixup": 0.4, "cutmix": 0.4}
Pair = tuple[ImageSet, ImageSet]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of 14 images to train and 5 to test, of many sizes, PNG and JPEG, one of them in a folder below."""
    made, rng = tmp_path_factory.mktemp("folder"), np.random.default_rng(0)
    for split, count in (("train", 14), ("val", 5)):
        for label, name in enumerate(CLASSES):
            for number in range(count):
                path = (
                    made
                    / split
                    / name
                    / ("below" if number == 3 else "")
                    / f"{number}é.{'jpg' if number % 2 else 'png'}"
                )
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = rng.integers(0, 80, (*rng.integers(9, 20, 2), 3))
                pixels[..., label] += 150
                Image.fromarray(pixels.astype(np.uint8)).save(path)
    return made


def load(root: Path, split: str, hold: str | None, monkeypatch: pytest.MonkeyPatch) -> ImageSet:
    if hold is None:
        monkeypatch.delenv("SNN2CHIP_HOLD", raising=False)
    else:
        monkeypatch.setenv("SNN2CHIP_HOLD", hold)
    return data.load("folder", split, root, image_size=SIDE)


@pytest.fixture
def pair(root: Path, monkeypatch: pytest.MonkeyPatch) -> Pair:
    """The training images in memory, and as files."""
    return load(root, "train", None, monkeypatch), load(root, "train", "0", monkeypatch)


def test_rows_are_those_in_memory(pair: Pair) -> None:
    """However they are taken; parts of a set stay files; order, labels and statistics are the same."""
    held, files = pair
    assert isinstance(held.images, torch.Tensor) and isinstance(files.images, ImageFiles)
    assert files.shape == held.shape == (3, SIDE, SIDE) and len(files) == len(held) == 42
    assert torch.equal(files.labels, held.labels) and files.source == held.source
    rows = torch.tensor([7, 0, 41])
    for index in (slice(3, 9), slice(0), rows, rows.numpy(), [5, 5], 4, slice(None)):
        taken = files.images[index]
        assert taken.dtype == torch.uint8 and torch.equal(taken, held.images[index])
    for kept, still in zip(held.set_aside(0.3, 1), files.set_aside(0.3, 1), strict=True):
        assert kept is not None and still is not None and isinstance(still.images, ImageFiles)
        assert (still.name, still.source) == (kept.name, kept.source)
        assert torch.equal(still.images[:], kept.images[:]) and torch.equal(still.labels, kept.labels)
    some = files.subset(10)
    assert isinstance(some.images, ImageFiles) and torch.equal(some.images[:], held.images[:10])
    assert channel_statistics(files) == channel_statistics(held)


def test_files_are_looked_at_up_to_a_limit(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("snn2chip.train.measure.LOOKED_AT", 9)
    assert channel_statistics(pair[1]) == channel_statistics(pair[0].subset(9)) != channel_statistics(pair[0])


@pytest.mark.parametrize("threads", [1, processors.threads()])
def test_parts_come_in_order(pair: Pair, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With any number of workers; a part of the set too; and torch's random numbers go on as if nothing had been."""
    monkeypatch.setattr(processors, "threads", lambda: threads)
    for of in (None, slice(5, 40), slice(7, 7)):
        before = torch.get_rng_state()
        parts = [list(images.in_parts(8, of)) for images in pair]
        assert torch.equal(torch.get_rng_state(), before)
        assert [here for here, _ in parts[1]] == [here for here, _ in parts[0]]
        for (_, kept), (_, decoded) in zip(*parts, strict=True):
            assert torch.equal(decoded, kept)


def test_what_is_held(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it in up to a quarter of the memory, divided among the processes; SNN2CHIP_HOLD says otherwise; a set that
    is not held says so, and its calibration images are held if they fit."""
    size = 42 * 3 * SIDE * SIDE
    monkeypatch.setattr(processors, "memory", lambda: 4.0 * size)
    assert load(root, "train", None, monkeypatch).note is None
    monkeypatch.setattr(parallel, "on_this_machine", lambda: 2)
    kept = load(root, "train", None, monkeypatch)
    assert isinstance(kept.images, ImageFiles) and kept.note is not None
    assert kept.note.startswith("folder:train: images are decoded when needed") and "\n" not in kept.note
    few, _ = data.at_hand("folder", "train", root, 21, image_size=SIDE)
    assert few is not None and torch.equal(few.images[:], kept.images[:21]) and isinstance(few.images, torch.Tensor)
    more, _ = data.at_hand("folder", "train", root, 22, image_size=SIDE)
    assert more is not None and isinstance(more.images, ImageFiles)
    assert isinstance(load(root, "train", "1", monkeypatch).images, torch.Tensor)
    for wrong in ("-1", "much", "nan"):
        with pytest.raises(DataError, match=f"SNN2CHIP_HOLD is '{wrong}'; give 0 or more, in GiB"):
            load(root, "train", wrong, monkeypatch)


def test_a_damaged_file_is_named_wherever_it_is_decoded(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process, and in the one that decodes ahead: one line, after the parts before it."""
    for number, name in enumerate(("ant/0.png", "bee/0.png", "ant/1.png")):
        path = tmp_path / "train" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (SIDE, SIDE), (number, 0, 0)).save(path)
    path.write_bytes(b"")
    files = load(tmp_path, "train", "0", monkeypatch)
    with pytest.raises(DataError, match=r"^cannot decode '.*ant/1\.png': it is empty; replace or remove it$"):
        files.images[2]
    parts = files.in_parts(1)
    assert [int(next(parts)[1].max()) for _ in range(2)] == [0, 1]
    with pytest.raises(DataError, match=r"^cannot decode '.*ant/1\.png': it is empty; replace or remove it$"):
        next(parts)


class Ended(ImageFiles):
    """Files at which the process that decodes them ends."""

    def __getitem__(self, rows: Any) -> torch.Tensor:
        os._exit(1)


def test_a_worker_that_ends_is_told(pair: Pair) -> None:
    files = pair[1].images
    assert isinstance(files, ImageFiles)
    parts = Ended(files.base, files.names, SIDE).ahead([slice(1)])
    with pytest.raises(DataError, match=r"^a process that decodes images ended: .*; in a container, allow it more"):
        next(parts)


def batches(images: ImageSet, device: str = "cpu", **table: object) -> Batches:
    recipe = tiny_recipe(data__name="folder", data__augment=AUGMENT | table, train__batch_size=8)
    return Batches(images, recipe, torch.device(device))


@pytest.mark.parametrize("threads", [1, processors.threads()])
def test_batches_are_those_in_memory(pair: Pair, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the first on, from any other on, and back, across epochs; with any number of workers."""
    monkeypatch.setattr(processors, "threads", lambda: threads)
    held, files = (batches(images) for images in pair)
    assert files.steps == held.steps == 5
    started = []
    ahead = ImageFiles.ahead
    monkeypatch.setattr(ImageFiles, "ahead", lambda *given: started.append(given) or ahead(*given))
    for epoch, step in ((0, 0), (0, 1), (2, 3), (2, 4), (3, 0), (3, 1), (0, 0)):
        for made, wanted in zip(files(epoch, step), held(epoch, step), strict=True):
            assert torch.equal(made, wanted)
    assert len(started) == 3  # else they go on


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_batches_on_a_gpu_are_those_in_memory(pair: Pair) -> None:
    held, files = (batches(images, "cuda") for images in pair)
    for place in ((0, 3), (0, 4), (1, 0)):
        for made, wanted in zip(files(*place), held(*place), strict=True):
            assert made.is_cuda and torch.equal(made, wanted)


@pytest.mark.parametrize("table", [{}, {"cutmix": 0.0, "mixup": 0.0}])
def test_each_process_decodes_its_part(pair: Pair, table: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Three processes' parts are one's batch; none decodes more than its part and the image that is mixed into it."""
    whole = batches(pair[0], **table)
    monkeypatch.setattr(parallel, "size", lambda: 3)
    decoded: list[int] = []
    ahead = ImageFiles.ahead

    def counted(self: ImageFiles, rows: Any) -> Iterator[torch.Tensor]:
        for part in ahead(self, rows):
            decoded.append(len(part))
            yield part

    monkeypatch.setattr(ImageFiles, "ahead", counted)
    for epoch, step in ((0, 0), (1, 3)):
        parts = []
        for rank in range(3):
            monkeypatch.setattr(parallel, "rank", lambda rank=rank: rank)
            parts.append(batches(pair[1], **table)(epoch, step))
        with monkeypatch.context() as one:
            one.setattr(parallel, "size", lambda: 1)
            one.setattr(parallel, "rank", lambda: 0)
            wanted = whole(epoch, step)
        for made, of_one in zip(zip(*parts, strict=True), wanted, strict=True):
            assert torch.equal(torch.cat(made), of_one)
    assert decoded == [share + (not table) for share in (2, 3, 3)] * 2


def test_training_is_that_in_memory_and_resumes(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights bit for bit, and every figure, also of a run that was left in the middle of an epoch."""
    recipe = tiny_recipe(
        data__name="folder", data__image_size=SIDE, data__augment=AUGMENT, data__validation=6,
        train__epochs=2, train__batch_size=8, train__average=0.9,
    )  # fmt: skip
    found = []
    for name, hold, leave in (("held", None, None), ("files", "0", None), ("left", "0", (1, 2))):
        sets = [load(root, split, hold, monkeypatch) for split in ("train", "val")]
        trainer = Trainer(recipe, *sets, tmp_path / name)
        assert len([note for note in trainer.notes if "decoded when needed" in note]) == (0 if hold is None else 2)
        for event in trainer.run():
            if (event.epoch, event.step) == leave:
                break
        if leave is not None:
            trainer = Trainer(recipe, *sets, tmp_path / name, resume=True)
            assert (trainer.progress.epoch, trainer.progress.step) == leave
            assert list(trainer.run())
        rows = [{k: v for k, v in row.items() if k != "seconds"} for row in trainer.progress.history]
        figures = {k: v for k, v in trainer.metrics.items() if k != "training_seconds"}
        found.append((trainer.network.state_dict(), rows, figures))
    for weights, rows, figures in found[1:]:
        assert rows == found[0][1] and figures == found[0][2]
        for key, value in found[0][0].items():
            assert torch.equal(weights[key], value), key


def test_the_whole_line(root: Path, tmp_path: Path, cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """resnet34, narrowed, with a stem as for 224 pixels: train, fold-and-export, simulate and verify, on files; what
    is in memory simulates alike."""
    layers = (
        '[{type="conv", channels=8, kernel=7, stride=2}, {type="maxpool", kernel=3, stride=2, padding=1}, '
        '{type="residual", channels=8}, {type="residual", channels=8, stride=2}, '
        '{type="globalavgpool"}, {type="dense", features="classes", neuron=false}]'
    )
    changes = {
        "model.layers": layers, "model.timesteps": 2, "data.image_size": 32,
        "train.epochs": 8, "train.batch_size": 14, "train.warmup_epochs": 0,
    }  # fmt: skip
    monkeypatch.setenv("SNN2CHIP_HOLD", "0")
    given = [word for name, value in changes.items() for word in ("--set", f"{name}={value}")]
    trained = cli("train", "resnet34", "--data", root, "--out", tmp_path, *given).ok()
    assert trained.count("decoded when needed") == 2
    net = tmp_path / "model.net"
    cli("fold-and-export", tmp_path / "model.pt", "--data", root, "--calibration", 9, "-o", net).ok()
    found = []
    for hold in ("0", "1"):
        monkeypatch.setenv("SNN2CHIP_HOLD", hold)
        done = cli("simulate", net, "--data", root, "--batch", 4, "--json", tmp_path / f"{hold}.json").ok()
        assert ("decoded when needed" in done) == (hold == "0")
        kept = json.loads((tmp_path / f"{hold}.json").read_text())
        found.append({key: value for key, value in kept.items() if not key.startswith(("seconds", "samples_per"))})
    assert found[0] == found[1] and found[0]["samples"] == 15
    cli("verify", tmp_path / "model.pt", net, "--data", root, "--samples", 2, "--no-lava").ok()
