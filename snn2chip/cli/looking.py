"""Commands that show and publish: report, publish, recipe, doctor."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from snn2chip.cli.shared import DataDir, app, console_of, guarded, some_images

if TYPE_CHECKING:
    pass


@app.command()
@guarded
def report(
    folder: Annotated[Path, typer.Argument(help="Folder with model.pt, model.net and the JSON files beside them.")],
    samples: Annotated[int, typer.Option(min=1, help="Test images drawn in the pictures.")] = 4,
    data: DataDir = None,
) -> None:
    """Write report.html: curves, table of layers, verdict, rasters."""
    from snn2chip import report as reports
    from snn2chip.formats import model_file

    spec = model_file.load(folder / "model.pt").recipe.data
    images, why = some_images(spec.name, "test", data, spec.image_size, samples)
    written = reports.write(folder, images, why)
    console_of().print(f"wrote {written}")


@app.command()
@guarded
def publish(
    run: Annotated[Path, typer.Argument(help="A run's folder: model.pt, model.net and the JSON files.")],
    target: Annotated[Path, typer.Argument(help="The zoo's folder, models/NAME, with its recipe.toml.")],
    data_option: Annotated[
        str, typer.Option(help="What the card's commands say about the data, e.g. '--data DIR'.")
    ] = "",
) -> None:
    """Write a zoo folder's model.pt, metrics.json and card.md from a finished, verified run."""
    from snn2chip import zoo

    zoo.publish(run, target, data_option)
    console_of().print(f"wrote {target / 'model.pt'}, metrics.json, card.md")


@app.command()
@guarded
def recipe(
    name: Annotated[str | None, typer.Argument(help="Print this recipe.")] = None,
    fields: Annotated[bool, typer.Option("--fields", help="Every field a recipe can have.")] = False,
) -> None:
    """List the shipped recipes, print one, or explain their fields."""
    from snn2chip import recipe as recipes
    from snn2chip import report as reports
    from snn2chip import resources

    console = console_of()
    if fields:
        console.print(reports.fields_table(recipes.fields()))
    elif name is not None:
        print(resources.recipe_file(name).read_text(encoding="utf-8"), end="")
    else:
        for known in resources.recipe_names():
            console.print(f"{known:24} {recipes.load(known).description}")


@app.command()
@guarded
def doctor() -> None:
    """Versions, devices, Lava's interpreter, data sets found."""
    from snn2chip import doctor as examine

    console = console_of()
    for line in examine.examine():
        console.print(line)
