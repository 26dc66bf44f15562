"""A network of --recipe within the seconds there are: a teacher of ReLUs, then T = 1, 2 and 4, each from the last.

As models/cifar10-resnet19-tdbn-t1 and -t2 are trained: Muon, a line down, an average of the weights, a triangular
surrogate, and the teacher's answers; leak and threshold are learnt from T = 2 on. Every stage gets a share of what is
left, and as many epochs as the time of its steps, measured first, allows. Nothing is chosen by test images. The newest
network of each T goes to $OUT as model-T*.0 and .1, in float16, now and then.
"""

from __future__ import annotations

import copy
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
PIECE = 15 << 20  # bytes of a file that comes back
PROBE = (2, 4) if SMALL else (10, 30)  # steps before and until which time is taken
SHARES = {"teacher": 0.17, "T1": 0.3, "T2": 0.5, "T4": 1.0}  # of what is left
SPARE = 1.05  # a step takes longer than measured
SEND = 20.0  # seconds between two sendings
COMMON = [
    "data.augment={crop = 3, border = 'reflect', flip = 'alternating', cutout = 8}",
    "train.optimizer=muon", "train.weight_decay=0.02", "train.schedule=linear", "train.average=0.99",
    "train.precision=bfloat16",
    *(["model.width=0.0625", "train.batch_size=16", "data.validation=8"] if SMALL
      else ["train.batch_size=250", "data.validation=2000"]),
]  # fmt: skip
TEACHER = [
    "model.timesteps=1", "model.neuron.kind=relu", "train.lr=0.05", "train.adamw_lr=4e-3", "train.whiten=true",
    "train.label_smoothing=0.1",
]  # fmt: skip
SPIKING = ["model.neuron.surrogate=triangular", "train.label_smoothing=0.0"]
FIRST = [*SPIKING, "train.lr=0.05", "train.adamw_lr=4e-3", "train.distill=0.8"]
LATER = [
    *SPIKING, "model.neuron.trainable_tau=true", "model.neuron.trainable_threshold=true",
    "train.lr=0.03", "train.adamw_lr=3e-3", "train.distill=0.9", "train.warmup_epochs=0.3",
]  # fmt: skip
SETTINGS = {"teacher": TEACHER, "T1": ["model.timesteps=1", *FIRST]}
SETTINGS |= {f"T{t}": [f"model.timesteps={t}", *LATER] for t in (2, 4)}
ROWS: list[dict[str, Any]] = []
SENT: dict[str, float] = {}  # when a stage's network was sent
ENDS = [1.0 if SMALL else 2.5]  # seconds that an epoch takes beside its steps, as the last stage says


def left() -> float:
    return OPTIONS.seconds - (time.monotonic() - START)


def recipe(name: str, epochs: int) -> Recipe:
    return recipe_of(OPTIONS.recipe, [*COMMON, "train.warmup_epochs=1", *SETTINGS[name], f"train.epochs={epochs}"])


def send(name: str, trainer: Trainer) -> None:
    """The network as it is, in pieces that come back; those of T = 1 make way, so that all that is sent may."""
    if name == "teacher":
        return
    SENT[name] = time.monotonic()
    if name == "T4":
        for piece in common.out().glob("model-T1.*"):
            piece.unlink()
    network = copy.deepcopy(trainer.network if trainer.average is None else trainer.average.network)
    network.to("cpu", memory_format=torch.contiguous_format).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(parameter.half())
    path = trainer.out / "half.pt"
    train = trainer.train_set
    options = {"max_value": train.max_value, "classes": train.classes, "metrics": {"stage": ROWS[-1]}}
    model_file.save(path, network, trainer.recipe, half=True, **options)
    content = path.read_bytes()
    for number, start in enumerate(range(0, len(content), PIECE)):
        (common.out() / f"model-{name}.{number}").write_bytes(content[start : start + PIECE])


def seconds_of_an_epoch(name: str, sets: tuple[ImageSet, ImageSet], folder: Path) -> float:
    trainer = Trainer(recipe(name, 1), *sets, folder / f"probe-{name}", device=OPTIONS.device)
    events = trainer.run()
    marks = []
    for number in range(1, PROBE[1] + 1):
        next(events)
        if number in PROBE:
            common.wait(OPTIONS.device)
            marks.append(time.monotonic())
    events.close()  # type: ignore[attr-defined]
    return (marks[1] - marks[0]) / (PROBE[1] - PROBE[0]) * trainer.steps_per_epoch * SPARE


def stage(name: str, before: Path | None, teacher: Path | None, sets: tuple[ImageSet, ImageSet], folder: Path) -> Path:
    """Train one; gives its model.pt."""
    steps = seconds_of_an_epoch(name, sets, folder)
    epochs = min(1 if SMALL else 60, int(SHARES[name] * 0.95 * left() / (steps + ENDS[-1])))
    row = {"stage": name, "device": common.card(OPTIONS.device), "seconds_of_steps": steps, "epochs": epochs}
    ROWS.append({**row, "seconds_of_an_end": ENDS[-1]})
    print(ROWS[-1], f"{left():.0f} s left", flush=True)
    common.write("training", ROWS)
    if epochs < 1:
        raise SystemExit(f"no time for {name}")
    options: dict[str, Any] = {"init": before, "teacher": teacher}
    trainer, started = Trainer(recipe(name, epochs), *sets, folder / name, device=OPTIONS.device, **options), None
    for event in trainer.run():
        if event.metrics is not None:
            ROWS[-1]["history"] = [*ROWS[-1].get("history", []), event.metrics]
            print(name, event.metrics, f"{left():.0f} s left", flush=True)
            now = time.monotonic()
            if started is not None:
                ENDS.append(max(0.0, (now - started) - steps / SPARE))
            if now - SENT.get(name, 0.0) > SEND:
                send(name, trainer)
            started = time.monotonic()
            common.write("training", ROWS)
    ROWS[-1]["metrics"] = trainer.metrics
    send(name, trainer)
    common.write("training", ROWS)
    return folder / name / "model.pt"


def main() -> None:
    sets = tuple(load("cifar10", split, OPTIONS.data, download=False) for split in ("train", "test"))
    assert len(sets) == 2
    folder = Path(mkdtemp())
    teacher = stage("teacher", None, None, sets, folder)
    before = teacher
    for name in ("T1", "T2", "T4"):
        before = stage(name, before, teacher, sets, folder)


if __name__ == "__main__":
    main()
