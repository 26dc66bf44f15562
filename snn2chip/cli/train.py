"""Commands that train."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from snn2chip.boundary import INTERRUPTED
from snn2chip.cli.common import (
    DataDir,
    Device,
    DeviceOption,
    Overwrite,
    app,
    console_of,
    device_of,
    guarded,
    load_data,
    progress_bar,
)
from snn2chip.errors import InputError
from snn2chip.parallel import is_leader, leader_first, local, one_process_only, together

if TYPE_CHECKING:
    from rich.console import Console

    from snn2chip.train.fewer_steps import Stage
    from snn2chip.train.loop import Trainer


def _one_of(resume: bool, overwrite: bool) -> None:
    if resume and overwrite:
        raise InputError("--resume goes on with what --overwrite deletes; give one of them")


def _follow(trainer: Trainer, console: Console) -> None:
    """Run a training to its end: a bar, a line an epoch, curves.png."""
    from snn2chip.report import curves

    with progress_bar("training") as show:
        for event in trainer.run():
            show(event.epoch * event.steps + event.step, event.epochs * event.steps)
            if event.metrics is not None:
                row = event.metrics
                console.print(
                    f"epoch {int(row['epoch']):3d}/{event.epochs}  loss {row['train_loss']:.4f}  "
                    f"training {100 * row['train_accuracy']:.2f} %  test {100 * row['test_accuracy']:.2f} %  "
                    f"{row['seconds']:.1f} s"
                )
                if is_leader():
                    curves.plot(trainer.progress.history, trainer.out / "curves.png", trainer.recipe.name)


def _exit_line(trainer: Trainer) -> str | None:
    """What BNTT's gammas say about stopping early; None for a network without BNTT."""
    found = trainer.metrics.get("early_exit")
    if found is None:
        return None
    steps, limit = trainer.metrics["timesteps"], f"{found['limit']:g} of what it started at"
    if found["timesteps"] == steps:
        return f"early exit: none, at the last of {steps} steps a layer's mean gamma is at least {limit}"
    return (
        f"early exit: after step {found['timesteps']} of {steps} every layer's mean gamma is below {limit}; "
        f"test accuracy {100 * found['accuracy']:.2f} % with {found['timesteps']} steps"
    )


@app.command()
@guarded
@together
def train(
    recipe: Annotated[str, typer.Argument(help="Shipped recipe by name, or a path to a recipe.toml.")],
    data: DataDir = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the results; default runs/RECIPE.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Change a recipe's value: train.epochs=3. May be repeated.")
    ] = None,
    device: DeviceOption = Device.AUTO,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the folder's checkpoint.pt.")] = False,
    overwrite: Overwrite = False,
    init: Annotated[
        Path | None, typer.Option(help="Start from this model.pt: the same layers, time steps may differ.")
    ] = None,
) -> None:
    """Train a spiking network: model.pt, metrics.jsonl and curves.png in --out.

    On several processors, GPUs or machines, torchrun starts it:

    torchrun --nproc-per-node 2 -m snn2chip train RECIPE --out DIR

    Every batch of the recipe is split among the processes; statistics of
    normalization and gradients are those of the whole batch, losses those of
    a single process up to rounding. Process 0 prints and writes. --resume and
    Ctrl-C work as always; a run may be resumed with another number of
    processes. Each machine needs the data set, and --init's file.
    OMP_NUM_THREADS sets the threads of a process.
    """
    from snn2chip import recipe as recipes
    from snn2chip.train.loop import Trainer

    _one_of(resume, overwrite)
    chosen = recipes.load(recipe, settings or [])
    out = out or Path("runs") / chosen.name
    size = chosen.data.image_size
    console = console_of()
    where = local(device_of(device))
    with leader_first():  # which may have to download them
        training = load_data(chosen.data.name, "train", data, size=size, events=chosen.binning)
        test = load_data(chosen.data.name, "test", data, size=size, events=chosen.binning)
    trainer = Trainer(chosen, training, test, out, device=where, resume=resume, overwrite=overwrite, init=init)
    weights = sum(p.numel() for p in trainer.network.parameters())
    console.print(
        f"{chosen.name}: {len(trainer.train_set):,} training and {len(test):,} test images, T = "
        f"{chosen.model.timesteps}, {weights:,} parameters, {chosen.train.epochs} epochs on {trainer.device}"
    )
    for note in trainer.notes:
        console.print(f"note: {note}")
    try:
        _follow(trainer, console)
    except KeyboardInterrupt:
        if (out / "checkpoint.pt").exists():
            print(f"interrupted: go on with --resume --out {out}", file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from None
        raise
    console.print(
        f"test accuracy {100 * trainer.metrics['float_accuracy']:.2f} % on {len(test):,} images (float32); "
        f"wrote {out / 'model.pt'}"
    )
    if line := _exit_line(trainer):
        console.print(line)


@app.command()
@guarded
def retrain(
    model: Annotated[Path, typer.Argument(help="model.pt of the trained network to start from.")],
    timesteps: Annotated[int, typer.Option(help="Time steps T of the last stage, fewer than the model's.")],
    step: Annotated[int, typer.Option(help="By how much T falls from stage to stage.")] = 1,
    epochs: Annotated[
        int | None, typer.Option(help="Epochs of every stage; default a tenth of the recipe's, at least 1.")
    ] = None,
    final_epochs: Annotated[int | None, typer.Option(help="Epochs of the last stage; default as the others.")] = None,
    lr: Annotated[
        float | None, typer.Option(help="Largest learning rate of every stage; default half of the recipe's.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Change a value of every stage's recipe. May be repeated.")
    ] = None,
    data: DataDir = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the stages; default runs/RECIPE-iir.")] = None,
    device: DeviceOption = Device.AUTO,
    resume: Annotated[
        bool, typer.Option("--resume", help="Take finished stages as they are and go on where it stopped.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Lower a network's time steps stage by stage, retraining at each: T1/model.pt and so on in --out."""
    one_process_only("retrain")
    from snn2chip.nn import model_file
    from snn2chip.report import curves
    from snn2chip.train.fewer_steps import Iir, table

    _one_of(resume, overwrite)
    base = model_file.load(model).recipe
    out = out or Path("runs") / f"{base.name}-iir"
    run = Iir(
        model,
        out,
        timesteps=timesteps,
        step=step,
        epochs=epochs,
        final_epochs=final_epochs,
        lr=lr,
        settings=settings or [],
        resume=resume,
        overwrite=overwrite,
    )
    console = console_of()
    spec = run.stages[0].recipe.data
    if spec.events is not None:
        raise InputError(
            f"{base.name}: retraining for fewer time steps is for images, whose steps repeat; for recordings, train "
            f"with fewer model.timesteps, a longer data.events.dt_us and --init '{model}'"
        )
    training = load_data(spec.name, "train", data, size=spec.image_size)
    test = load_data(spec.name, "test", data, size=spec.image_size)
    where = device_of(device)
    way = " > ".join(str(t) for t in (run.start.network.timesteps, *(stage.timesteps for stage in run.stages)))
    console.print(f"{base.name}: T = {way}, {len(training):,} training and {len(test):,} test images on {where}")
    rows: list[dict[str, Any]] = []

    def measured(stage: Stage | None) -> None:
        with progress_bar("measuring") as show:
            rows.append(run.measure(stage, test, device=where, progress=show))
        row = rows[-1]
        console.print(
            f"T = {row['timesteps']}: test {row['accuracy']:.2%}, {row['spikes']:,.0f} spikes, "
            f"{row['accumulates']:,.0f} accumulates and {row['multiply_accumulates']:,.0f} MACs a sample"
        )
        curves.plot_timesteps(rows, out / "iir.png", base.name)

    try:
        with run.hold():
            measured(None)
            for stage in run.stages:
                trainer = run.trainer(stage, training, test, device=where)
                if trainer is None:
                    console.print(f"T = {stage.timesteps}: '{stage.model}' is finished")
                else:
                    going = "goes on" if stage.started else "starts"
                    console.print(
                        f"T = {stage.timesteps}: {going} from '{stage.source}', epochs: {stage.recipe.train.epochs}"
                    )
                    for note in trainer.notes:
                        console.print(f"note: {note}")
                    _follow(trainer, console)
                    if line := _exit_line(trainer):
                        console.print(line)
                measured(stage)
    except KeyboardInterrupt:
        print(f"interrupted: go on with --resume and the same options, --out {out}", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    for line in table(rows):
        console.print(line)
    console.print(f"wrote {out / 'iir.json'}, iir.png and a model.pt for every T")
