"""Commands that train."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from snn2chip.__main__ import INTERRUPTED
from snn2chip.cli.shared import (
    DataDir,
    Device,
    DeviceOption,
    app,
    console_of,
    device_of,
    guarded,
    load_data,
    progress_bar,
)

if TYPE_CHECKING:
    pass


@app.command()
@guarded
def train(
    recipe: Annotated[str, typer.Argument(help="Shipped recipe by name, or a path to a recipe.toml.")],
    data: DataDir = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the results; default runs/RECIPE.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Change a recipe's value: train.epochs=3. May be repeated.")
    ] = None,
    device: DeviceOption = Device.AUTO,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the folder's checkpoint.pt.")] = False,
    init: Annotated[
        Path | None, typer.Option(help="Start from this model.pt: the same layers, time steps may differ.")
    ] = None,
) -> None:
    """Train a spiking network: model.pt, metrics.jsonl and curves.png in --out."""
    from snn2chip import recipe as recipes
    from snn2chip.train import curves
    from snn2chip.train.loop import Trainer

    chosen = recipes.load(recipe, settings or [])
    out = out or Path("runs") / chosen.name
    size = chosen.data.image_size
    console = console_of()
    training = load_data(chosen.data.name, "train", data, size=size)
    test = load_data(chosen.data.name, "test", data, size=size)
    trainer = Trainer(chosen, training, test, out, device=device_of(device), resume=resume, init=init)
    weights = sum(p.numel() for p in trainer.network.parameters())
    console.print(
        f"{chosen.name}: {len(trainer.train_set):,} training and {len(test):,} test images, T = "
        f"{chosen.model.timesteps}, {weights:,} parameters, {chosen.train.epochs} epochs on {trainer.device}"
    )
    for note in trainer.notes:
        console.print(f"note: {note}")
    try:
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
                    curves.plot(trainer.progress.history, out / "curves.png", chosen.name)
    except KeyboardInterrupt:
        if (out / "checkpoint.pt").exists():
            print(f"interrupted: go on with --resume --out {out}", file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from None
        raise
    console.print(
        f"test accuracy {100 * trainer.metrics['float_accuracy']:.2f} % on {len(test):,} images (float32); "
        f"wrote {out / 'model.pt'}"
    )
