"""`retrain`: a network at other time steps, stage by stage, and in the chip's integers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from snn2chip.boundary import INTERRUPTED
from snn2chip.cli.common import DataDir, DeviceOption, Overwrite, app, console_of, device_of, guarded, progress_bar
from snn2chip.cli.train import exit_line, follow, one_of
from snn2chip.errors import InputError
from snn2chip.parallel import one_process_only

if TYPE_CHECKING:
    from snn2chip.train.retrain import Stage


@app.command(epilog="Example: snn2chip retrain runs/mine/model.pt --timesteps 1")
@guarded
def retrain(
    model: Annotated[Path, typer.Argument(help="model.pt of the trained network to start from.")],
    timesteps: Annotated[
        int | None, typer.Option(help="Time steps T of the last stage, fewer or more; default as the model.")
    ] = None,
    step: Annotated[
        int | None, typer.Option(help="By how much T changes from stage to stage; default down by 1, up twofold.")
    ] = None,
    quantize: Annotated[
        bool, typer.Option("--quantize", help="Train around the chip's rounding, in a stage of its own, the last.")
    ] = False,
    weight_bits: Annotated[
        int | None, typer.Option(min=2, max=8, help="With --quantize: bits of a weight; default 8.")
    ] = None,
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
    teacher: Annotated[
        Path | None, typer.Option(help="Learn from this model.pt's answers too (train.distill, train.temperature).")
    ] = None,
    data: DataDir = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the stages; default runs/RECIPE-iir.")] = None,
    device: DeviceOption = "auto",
    resume: Annotated[
        bool, typer.Option("--resume", help="Take finished stages as they are and go on where it stopped.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Lower or raise a network's time steps stage by stage, retraining at each: T1/model.pt and so on in --out.

    With --quantize the last stage rounds at every step as the exporter does: what it leaves, T1-8bit/model.pt say, is
    the chip's integers, spike for spike. Bits of single layers: --set 'train.quantize.layers.conv1=8'.
    """
    one_process_only("retrain")
    from snn2chip.data import load
    from snn2chip.nn import model_file
    from snn2chip.report import curves
    from snn2chip.train.retrain import Iir, table

    one_of(resume, overwrite)
    if weight_bits is not None and not quantize:
        raise InputError("--weight-bits is for --quantize; give both or none")
    base = model_file.load(model).recipe
    out = out or Path("runs") / f"{base.name}-iir"
    run = Iir(
        model,
        out,
        timesteps=timesteps,
        step=step,
        bits=(weight_bits or 8) if quantize else None,
        epochs=epochs,
        final_epochs=final_epochs,
        lr=lr,
        settings=settings or [],
        teacher=teacher,
        resume=resume,
        overwrite=overwrite,
    )
    console = console_of()
    spec = run.stages[0].recipe.data
    if spec.events is not None and timesteps is not None:
        raise InputError(
            f"{base.name}: retraining for other time steps is for images, whose steps repeat; for recordings, train "
            f"with other model.timesteps, another data.events.dt_us and --init '{model}'"
        )
    binning = run.stages[0].recipe.binning
    training = load(spec.name, "train", data, image_size=spec.image_size, events=binning)
    test = load(spec.name, "test", data, image_size=spec.image_size, events=binning)
    where = device_of(device)
    way = " > ".join((str(run.start.network.timesteps), *(stage.title.removeprefix("T = ") for stage in run.stages)))
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
        curves.plot_timesteps([row for row in rows if row.get("weight_bits") is None], out / "iir.png", base.name)

    try:
        with run.hold():
            measured(None)
            for stage in run.stages:
                trainer = run.trainer(stage, training, test, device=where)
                if trainer is None:
                    console.print(f"{stage.title}: '{stage.model}' is finished")
                else:
                    going = "goes on" if stage.started else "starts"
                    console.print(f"{stage.title}: {going} from '{stage.source}', epochs: {stage.recipe.train.epochs}")
                    for note in trainer.notes:
                        console.print(f"note: {note}")
                    follow(trainer, console)
                    if line := exit_line(trainer):
                        console.print(line)
                measured(stage)
    except KeyboardInterrupt:
        print(f"interrupted: go on with --resume and the same options, --out {out}", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    for line in table(rows):
        console.print(line)
    console.print(f"wrote {out / 'iir.json'}, iir.png and a model.pt for every stage")
