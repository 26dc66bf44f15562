"""`import`: a trained network from ONNX."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from snn2chip.choices import NormChoice
from snn2chip.cli.common import DataDir, Overwrite, app, console_of, guarded, numbers, progress_bar
from snn2chip.errors import InputError

_CALIBRATION = 512  # training images that statistics are taken from


def _numbers(option: str, text: str | None, channels: int) -> list[float]:
    """One number a channel, or one for all."""
    if text is None:
        raise InputError(
            f"{option} is missing: say how the images were normalized that the network was trained on, in units of "
            f"pixel / largest pixel, one number a channel (--mean 0.4914,0.4822,0.4465 --std 0.247,0.2435,0.2616), or "
            f"one for all (--mean 0 --std 1 for pixels scaled to 0..1)"
        )
    values = numbers(option, text)
    if len(values) not in (1, channels):
        raise InputError(f"{option} '{text}': expected 1 or {channels} finite numbers, one a channel")
    return values * channels if len(values) == 1 else values


@app.command("import", epilog="Example: snn2chip import net.onnx --dataset cifar10 --mean 0.5 --std 0.25")
@guarded
def import_(
    file: Annotated[Path, typer.Argument(help="ONNX file of a trained network (ReLU, batch norm, residual adds).")],
    mean: Annotated[
        str | None, typer.Option(help="Mean of the input it was trained on, in pixel / largest pixel: 0.49,0.48,0.45.")
    ] = None,
    std: Annotated[str | None, typer.Option(help="Standard deviation of that input, likewise.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Data set it was trained on, by name.")] = None,
    recipe: Annotated[
        str | None, typer.Option(help="Spiking recipe to match it to; default: one is written from the file.")
    ] = None,
    timesteps: Annotated[int | None, typer.Option(help="Time steps in the recipe that is written; default 4.")] = None,
    norm: Annotated[
        NormChoice | None, typer.Option(help="Normalization in the recipe that is written; default none: folded.")
    ] = None,
    data: DataDir = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder; default runs/FILE-import.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Read a trained network from ONNX: model.pt to start a spiking one from (train --init), and its recipe.toml."""
    from snn2chip import recipe as recipes
    from snn2chip.data import load
    from snn2chip.files import exclusive, make_way, refuse_results, write_text
    from snn2chip.formats.onnx import read
    from snn2chip.nn import model_file
    from snn2chip.train import start_from_onnx
    from snn2chip.train.loop import RESULTS
    from snn2chip.train.measure import evaluate

    given = {"--dataset": dataset, "--timesteps": timesteps, "--norm": norm}
    if recipe is not None and (twice := [option for option, value in given.items() if value is not None]):
        raise InputError(f"{twice[0]} is for the recipe that is written, but --recipe gives one; leave one of them out")
    if recipe is None and dataset is None:
        raise InputError("give --dataset NAME, the data set that the network was trained on, or --recipe RECIPE")
    found = read.load(file)
    channels, height, _ = found.input_shape
    name = re.sub(r"[^a-z0-9]+", "-", file.stem.lower()).strip("-")[:100] or "imported"
    out = output or Path("runs") / f"{name}-import"
    means, deviations = _numbers("--mean", mean, channels), _numbers("--std", std, channels)
    if recipe is None:
        assert dataset is not None
        chosen = start_from_onnx.derive(
            found,
            name,
            dataset,
            timesteps=4 if timesteps is None else timesteps,
            norm=norm or "none",
            size=height if dataset == "folder" else None,
        )
    else:
        chosen = recipes.load(recipe)
    results = [out / item for item in (*RESULTS, *(["recipe.toml"] if recipe is None else []))]
    refuse_results(out, results, overwrite)
    size = chosen.data.image_size
    training = load(chosen.data.name, "train", data, image_size=size, events=chosen.binning)
    test = load(chosen.data.name, "test", data, image_size=size, events=chosen.binning)
    if training.shape != found.input_shape or len(training.classes) != found.classes:
        raise InputError(
            f"'{file}' takes images {found.input_shape} and gives {found.classes} scores, but {chosen.data.name} has "
            f"images {training.shape} and {len(training.classes)} classes; choose the data set it was trained on"
        )
    imported = start_from_onnx.fit(found, chosen, max_value=training.max_value, mean=means, std=deviations)
    console = console_of()
    batch = max(1, min(_CALIBRATION, 2**25 // found.largest))  # activations of at most some 100 MB
    notes = [
        f"assumed, as the file cannot say it: it takes (pixel / {training.max_value} - mean) / std, mean "
        f"{','.join(f'{x:g}' for x in means)}, std {','.join(f'{x:g}' for x in deviations)}",
        *imported.notes,
    ]
    if imported.unknown:
        start_from_onnx.calibrate(imported, training.images[:batch])
        notes.append(
            f"no batch norm in the file for {', '.join(imported.unknown)}: statistics of {min(batch, len(training))} "
            f"training images, the function unchanged"
        )
    with progress_bar("testing") as show:
        accuracy = evaluate(imported.network, test, batch_size=batch, progress=show)
    metrics = {
        "float_accuracy": accuracy,
        "samples": len(test),
        "dataset": test.name,
        "source": test.source,
        "imported": file.name,
    }
    with exclusive(out):
        make_way(out, results, overwrite)
        if recipe is None:
            write_text(out / "recipe.toml", start_from_onnx.recipe_text(chosen))
        model_file.save(
            out / "model.pt",
            imported.network,
            imported.recipe,
            max_value=training.max_value,
            classes=training.classes,
            metrics=metrics,
        )
    weights = sum(parameter.numel() for parameter in imported.network.parameters())
    kind = "thresholds at T = 1" if found.spiking else "ReLU"
    console.print(f"{file.name}: {weights:,} parameters, {kind}, images {found.input_shape}, {found.classes} classes")
    for note in notes:
        console.print(f"note: {note}")
    console.print(f"test accuracy {100 * accuracy:.2f} % on {len(test):,} images; wrote {out / 'model.pt'}")
    start = recipe if recipe is not None else str(out / "recipe.toml")
    console.print(f"next: snn2chip train {start} --init {out / 'model.pt'}")
