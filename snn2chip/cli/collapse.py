"""`collapse`: one normalization a layer for a BNTT network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from snn2chip.cli.common import (
    DataDir,
    Explain,
    JsonOption,
    Overwrite,
    apart,
    app,
    console_of,
    guarded,
    progress_bar,
    then,
)
from snn2chip.errors import InputError
from snn2chip.files import refuse_results, write_json

if TYPE_CHECKING:
    from snn2chip.data import ImageSet
    from snn2chip.nn.model_file import Model


def _fitting(model: Model, images: ImageSet) -> ImageSet:
    """The images, if they are what the network was trained on."""
    if images.shape != model.network.input_shape or images.max_value != model.max_value:
        raise InputError(
            f"{images.name}: images of shape {images.shape} with pixels 0..{images.max_value} do not fit the model's "
            f"input {model.network.input_shape}, 0..{model.max_value}; name the data it was trained on with --data"
        )
    return images


def _measured(before: Model, after: Model, test: ImageSet) -> dict[str, Any]:
    """What the model file says of the collapsed network's accuracy, and of the other's on the same images."""
    from snn2chip.train.measure import evaluate

    accuracies = []
    for title, model in (("testing BNTT", before), ("testing the collapsed", after)):
        with progress_bar(title) as show:
            accuracies.append(evaluate(model.network, test, progress=show))
    return {
        "dataset": test.name,
        "source": test.edition,
        "samples": len(test),
        "float_accuracy": accuracies[1],
        "bntt_accuracy": accuracies[0],
        "cost": accuracies[0] - accuracies[1],
    }


@app.command(epilog="Example: snn2chip collapse runs/bntt/model.pt")
@guarded
def collapse(
    model: Annotated[Path, typer.Argument(help="model.pt of a network with BNTT.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Default: model-static.pt beside it.")] = None,
    images: Annotated[int, typer.Option(min=1, help="Training images on which collapses are compared.")] = 512,
    data: DataDir = None,
    evaluate: Annotated[
        bool, typer.Option("--evaluate/--no-evaluate", help="Accuracy of both networks on the whole test set.")
    ] = True,
    json_file: JsonOption = None,
    overwrite: Overwrite = False,
    explain: Explain = False,
) -> None:
    """Replace BNTT by one normalization a layer, so that stock netx holds the network; say what it costs."""
    from snn2chip.data import load
    from snn2chip.nn import model_file
    from snn2chip.report import tables
    from snn2chip.train.collapse import collapse as run

    trained = model_file.load(model)
    output = output or model.with_name(f"{model.stem}-static.pt")
    apart(model=model, output=output, json_file=json_file)
    refuse_results(output.parent, [output], overwrite)
    spec = trained.recipe.data
    training, test = (
        _fitting(trained, load(spec.name, split, data, image_size=spec.image_size, events=trained.recipe.binning))
        if wanted
        else None
        for split, wanted in (("train", True), ("test", evaluate))
    )
    assert training is not None
    with progress_bar("collapsing") as show:
        static, report = run(trained, training.subset(images).images[:], progress=show)
    if test is not None:
        static = replace(static, metrics={**static.metrics, **_measured(trained, static, test)})
    model_file.save(
        output, static.network, static.recipe, max_value=static.max_value, classes=static.classes,
        metrics=static.metrics,
    )  # fmt: skip
    if json_file is not None:
        write_json(json_file, {**report.as_json(), "metrics": static.metrics})
    console = console_of()
    console.print(tables.collapse_table(report))
    if report.exact:
        why = "T = 1" if report.timesteps == 1 else "every step has the same constants"
        console.print(f"exact: {why}, so that one normalization is the same network, but for the rounding of constants")
    if test is not None:
        found = static.metrics
        console.print(
            f"test accuracy on {len(test):,} images (float32): {100 * found['bntt_accuracy']:.2f} % with BNTT, "
            f"{100 * found['float_accuracy']:.2f} % collapsed: it cost {100 * found['cost']:.2f} points"
        )
    console.print(f"wrote {output}")
    then(console, "fold-and-export", output, data=data)
