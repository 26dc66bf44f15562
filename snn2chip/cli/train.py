"""`train`: and what it shares with `retrain`, which follows trainings too."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from snn2chip.boundary import INTERRUPTED
from snn2chip.cli.common import (
    DataDir,
    DeviceOption,
    Overwrite,
    app,
    console_of,
    device_of,
    guarded,
    progress_bar,
    then,
)
from snn2chip.errors import InputError
from snn2chip.parallel import is_leader, leader_first, local, together

if TYPE_CHECKING:
    from rich.console import Console

    from snn2chip.nn import SpikingNetwork
    from snn2chip.recipe import Recipe
    from snn2chip.train.loop import Trainer


def one_of(resume: bool, overwrite: bool) -> None:
    if resume and overwrite:
        raise InputError("--resume goes on with what --overwrite deletes; give one of them")


def follow(trainer: Trainer, console: Console, watch: bool = False, board: Path | None = None) -> None:
    """Run a training to its end: a bar, a line an epoch, report.html, which `watch` opens in a browser, and files for
    TensorBoard in the folder `board`."""
    from snn2chip.report.live import Live

    live = Live(trainer, console, watch, board)
    with progress_bar("training") as show, closing(trainer.run()) as events:
        for event in events:
            live.begin()
            show(event.epoch * event.steps + event.step, event.epochs * event.steps)
            if event.metrics is not None:
                row = event.metrics
                aside = f"validation {row['validation_accuracy']:.2%}  " if "validation_accuracy" in row else ""
                console.print(
                    f"epoch {int(row['epoch']):3d}/{event.epochs}  loss {row['train_loss']:.4f}  "
                    f"training {row['train_accuracy']:.2%}  {aside}{row['seconds']:.1f} s"
                )
                live.epoch(row)
    live.end()


def exit_line(trainer: Trainer) -> str | None:
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


@app.command(epilog="Example: snn2chip train digits-tdbn --out runs/mine --watch")
@guarded
@together
def train(
    recipe: Annotated[str, typer.Argument(help="Shipped recipe by name, or a path to a recipe.toml.")],
    data: DataDir = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the results; default runs/RECIPE.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Change a recipe's value: train.epochs=3. May be repeated.")
    ] = None,
    device: DeviceOption = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the folder's checkpoint.pt.")] = False,
    overwrite: Overwrite = False,
    init: Annotated[
        Path | None, typer.Option(help="Start from this model.pt: the same layers, time steps may differ.")
    ] = None,
    teacher: Annotated[
        Path | None, typer.Option(help="Learn from this model.pt's answers too (train.distill, train.temperature).")
    ] = None,
    graph: Annotated[
        bool | None,
        typer.Option("--graph/--no-graph", help="On a GPU: replay a step as one CUDA graph; default where it can be."),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Open report.html, which refreshes, in a browser.")] = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write files for TensorBoard into OUT/tensorboard, too.")
    ] = False,
) -> None:
    """Train a spiking network: model.pt, metrics.jsonl and report.html in --out.

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
    from snn2chip.data import load
    from snn2chip.report import live
    from snn2chip.train.loop import Trainer

    one_of(resume, overwrite)
    if tensorboard:
        live.tensorboard()  # before the work
    chosen = recipes.load(recipe, settings or [])
    out = out or Path("runs") / chosen.name
    size = chosen.data.image_size
    console = console_of()
    where = local(device_of(device))
    with leader_first():  # which may have to download them
        training = load(chosen.data.name, "train", data, image_size=size, events=chosen.binning)
        test = load(chosen.data.name, "test", data, image_size=size, events=chosen.binning)
    trainer = Trainer(
        *(chosen, training, test, out),
        device=where,
        resume=resume,
        overwrite=overwrite,
        init=init,
        teacher=teacher,
        graph=graph,
    )
    weights = sum(p.numel() for p in trainer.network.parameters())
    console.print(
        f"{chosen.name}: {len(trainer.train_set):,} training and {len(test):,} test images, T = "
        f"{chosen.model.timesteps}, {weights:,} parameters, {chosen.train.epochs} epochs on {trainer.device}"
    )
    for note in trainer.notes:
        console.print(f"note: {note}")
    if is_leader() and chosen.model.neuron.kind != "relu":
        console.print(_cores(chosen, trainer.network, len(training.classes)))
    try:
        follow(trainer, console, watch, out / "tensorboard" if tensorboard else None)
    except KeyboardInterrupt:
        if (out / "checkpoint.pt").exists():
            print(f"interrupted: go on with --resume --out {out}", file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from None
        raise
    console.print(
        f"test accuracy {100 * trainer.metrics['float_accuracy']:.2f} % on {len(test):,} images (float32); "
        f"wrote {out / 'model.pt'}"
    )
    if line := exit_line(trainer):
        console.print(line)
    if chosen.model.neuron.kind != "relu":
        then(console, "fold-and-export", out / "model.pt", data=data)


def _cores(recipe: Recipe, network: SpikingNetwork, classes: int) -> str:
    """What the network will take on a chip: hours of training later is too late to hear that it does not fit."""
    from snn2chip import chip
    from snn2chip.fit import recipe as takes
    from snn2chip.report import fit as shown

    try:
        found = takes.of_network(network, classes, chip.load("loihi2"))
    except InputError as error:
        return f"on loihi2: not placed before it is trained: {error}"
    unknown = takes.unknown(recipe)
    return "; ".join((f"on loihi2: {shown.verdict(found)}", *found.problems, *([] if unknown is None else [unknown])))
