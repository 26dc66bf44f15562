"""Commands that show: report, show, recipe, doctor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from snn2chip.cli.chip import input_sides
from snn2chip.cli.common import DataDir, JsonOption, app, console_of, guarded, some_images


@app.command()
@guarded
def report(
    folder: Annotated[Path, typer.Argument(help="Folder with model.pt, model.net and the JSON files beside them.")],
    samples: Annotated[int, typer.Option(min=1, help="Test images drawn in the pictures.")] = 4,
    data: DataDir = None,
) -> None:
    """Write report.html: curves, table of layers, verdict, rasters."""
    from snn2chip.nn import model_file
    from snn2chip.report import page

    recipe = model_file.load(folder / "model.pt").recipe
    spec = recipe.data
    images, why = some_images(spec.name, "test", data, spec.image_size, samples, recipe.binning)
    written = page.write(folder, images, why)
    console_of().print(f"wrote {written}")


@app.command()
@guarded
def show(
    net: Annotated[Path, typer.Argument(help="Any netx file, ours or not.")],
    chip: Annotated[str, typer.Option(help="Whose registers: loihi1 or loihi2.")] = "loihi2",
    message_bits: Annotated[
        int | None, typer.Option(min=0, max=24, help="Bits of integers at the port, 0 for spikes; default: as made.")
    ] = None,
    input_shape: Annotated[
        str | None, typer.Option(help="C,H,W that come in, where a convolution is first and the file does not say.")
    ] = None,
    json_file: JsonOption = None,
) -> None:
    """Show any netx file layer by layer, with what would be clipped, truncated, overflow or be refused."""
    from dataclasses import asdict

    from snn2chip import chip as chips
    from snn2chip.files import write_json
    from snn2chip.report import show as showing

    shown = showing.describe(net, chips.load(chip), message_bits, input_sides(input_shape))
    if json_file is not None:
        write_json(json_file, {**asdict(shown), "totals": shown.totals})
    console = console_of()
    console.print(showing.layers_table(shown))
    console.print(showing.tree(shown), soft_wrap=False)  # or long lines would be cut
    count = len(shown.all_findings)
    console.print(f"{count} finding{'' if count == 1 else 's'}" if count else "nothing to warn of")
    if json_file is not None:
        console.print(f"wrote {json_file}")


@app.command()
@guarded
def recipe(
    name: Annotated[str | None, typer.Argument(help="Print this recipe.")] = None,
    fields: Annotated[bool, typer.Option("--fields", help="Every field a recipe can have.")] = False,
) -> None:
    """List the shipped recipes, print one, or explain their fields."""
    from snn2chip import places
    from snn2chip import recipe as recipes
    from snn2chip.report import tables as reports

    console = console_of()
    if fields:
        console.print(reports.fields_table(recipes.fields()))
    elif name is not None:
        print(places.recipe_file(name).read_text(encoding="utf-8"), end="")
    else:
        for known in places.recipe_names():
            console.print(f"{known:24} {recipes.load(known).description}")


@app.command()
@guarded
def doctor() -> None:
    """Versions, devices, Lava's interpreter, data sets found."""
    from snn2chip.cli import doctor as examine

    console = console_of()
    for line in examine.examine():
        console.print(line)
