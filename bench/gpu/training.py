"""The networks of RECIPES within the seconds there are: a teacher of ReLUs, then T = 1, 2 and 4, each from the last.

Each by its recipe of models/, but for the epochs: every stage gets a share of the seconds that are left, and as many
epochs as the time of its steps, measured first, allows. Nothing is chosen by test images. The network of a stage goes
to $OUT as NAME.pt, now and then and when it is done.
"""

from __future__ import annotations

import copy
import shutil
import time
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import common
import torch

from snn2chip.data import ImageSet, load
from snn2chip.nn import model_file
from snn2chip.recipe import Recipe
from snn2chip.recipe import load as recipe_of
from snn2chip.train.loop import Trainer

OPTIONS = common.options_of(__doc__)
SMALL, START = OPTIONS.small, time.monotonic()
PROBE = (2, 4) if SMALL else (10, 30)  # steps before and until which time is taken
RECIPES = {  # and their shares of what is left
    "cifar10-resnet-teacher": 0.14,
    "cifar10-resnet19-tdbn-t1": 0.22,
    "cifar10-resnet19-tdbn-t2": 0.42,
    "cifar10-resnet19-tdbn-t4": 1.0,
}
SPARE = 1.05  # a step takes longer than measured
SEND = 30.0  # seconds between two sendings
SETTINGS = ["model.width=0.0625", "train.batch_size=16", "data.validation=8"] if SMALL else []
ROWS: list[dict[str, Any]] = []
ENDS = [1.0 if SMALL else 1.5]  # seconds that an epoch takes beside its steps, as the last stage says


def left() -> float:
    return OPTIONS.seconds - (time.monotonic() - START)


def recipe(name: str, epochs: int) -> Recipe:
    return recipe_of(name, [*SETTINGS, f"train.epochs={epochs}"])


def send(name: str, trainer: Trainer) -> None:
    """The network as it is in the middle of a stage."""
    network = copy.deepcopy(trainer.network if trainer.average is None else trainer.average.network)
    network.to("cpu", memory_format=torch.contiguous_format).eval()
    train = trainer.train_set
    options = {"max_value": train.max_value, "classes": train.classes, "metrics": {"stage": ROWS[-1]}}
    model_file.save(common.out() / f"{name}.pt", network, trainer.recipe, **options)


def seconds_of_an_epoch(name: str, sets: tuple[ImageSet, ImageSet], folder: Path, **options: Any) -> float:
    trainer = Trainer(recipe(name, 1), *sets, folder / f"probe-{name}", device=OPTIONS.device, **options)
    events = trainer.run()
    marks = []
    for number in range(1, PROBE[1] + 1):
        next(events)
        if number in PROBE:
            common.wait(OPTIONS.device)
            marks.append(time.monotonic())
    events.close()
    return (marks[1] - marks[0]) / (PROBE[1] - PROBE[0]) * trainer.steps_per_epoch * SPARE


def stage(name: str, before: Path | None, teacher: Path | None, sets: tuple[ImageSet, ImageSet], folder: Path) -> Path:
    """Train one; gives its model.pt."""
    options: dict[str, Any] = {"init": before, "teacher": teacher}
    steps = seconds_of_an_epoch(name, sets, folder, **options)
    epochs = min(1 if SMALL else 60, int(RECIPES[name] * 0.95 * left() / (steps + ENDS[-1])))
    row = {"stage": name, "device": common.card(OPTIONS.device), "seconds_of_steps": steps, "epochs": epochs}
    ROWS.append({**row, "seconds_of_an_end": ENDS[-1]})
    print(ROWS[-1], f"{left():.0f} s left", flush=True)
    common.write("training", ROWS)
    if epochs < 1:
        raise SystemExit(f"no time for {name}")
    trainer = Trainer(recipe(name, epochs), *sets, folder / name, device=OPTIONS.device, **options)
    print(*trainer.notes, sep="\n", flush=True)
    started, sent = None, time.monotonic()
    for event in trainer.run():
        if event.metrics is not None:
            ROWS[-1]["history"] = [*ROWS[-1].get("history", []), event.metrics]
            print(name, event.metrics, f"{left():.0f} s left", flush=True)
            now = time.monotonic()
            if started is not None:
                ENDS.append(max(0.0, (now - started) - steps / SPARE))
            if now - sent > SEND:
                send(name, trainer)
                sent = now
            started = time.monotonic()
            common.write("training", ROWS)
    ROWS[-1]["metrics"] = trainer.metrics
    path = folder / name / "model.pt"
    shutil.copyfile(path, common.out() / f"{name}.pt")
    common.write("training", ROWS)
    return path


def main() -> None:
    sets = tuple(load("cifar10", split, OPTIONS.data, download=False) for split in ("train", "test"))
    assert len(sets) == 2
    folder = Path(mkdtemp())
    before = teacher = None
    for name in RECIPES:
        before = stage(name, before, teacher, sets, folder)
        teacher = teacher or before


if __name__ == "__main__":
    main()
