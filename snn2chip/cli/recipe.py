"""`recipe`: shipped recipes and their fields, and what one will take on a chip."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Annotated

import typer

from snn2chip.cli.chip import input_sides
from snn2chip.cli.common import Explain, app, console_of, guarded
from snn2chip.cli.fit import ChipOption
from snn2chip.errors import InputError


@app.command(epilog="Example: snn2chip recipe digits-tdbn > mine.toml")
@guarded
def recipe(
    name: Annotated[str | None, typer.Argument(help="Print this recipe.")] = None,
    fields: Annotated[bool, typer.Option("--fields", help="Every field a recipe can have.")] = False,
    fit: Annotated[bool, typer.Option("--fit", help="On how many cores it will go, before it is trained.")] = False,
    chip: ChipOption = "loihi2",
    target_cores: Annotated[
        int | None, typer.Option(min=1, help="With --fit: the widths with which it goes on so many cores.")
    ] = None,
    shape: Annotated[str | None, typer.Option(help="With --fit, of a data set of your own: C,H,W of a sample.")] = None,
    classes: Annotated[int | None, typer.Option(min=1, help="With --fit, of a data set of your own.")] = None,
    explain: Explain = False,
) -> None:
    """List the shipped recipes, print one, explain their fields, or say what one takes on a chip (--fit).

    The exit code of --fit is 1 where the recipe does not fit.
    """
    from snn2chip import places
    from snn2chip import recipe as recipes
    from snn2chip.report.columns import FIELDS

    console = console_of()
    if fields:
        console.print(FIELDS.table(FIELDS.about, recipes.fields()))
    elif fit or target_cores is not None:
        if name is None:
            raise InputError("--fit and --target-cores are of one recipe; name it")
        _fit(name, chip, target_cores, shape, classes)
    elif name is not None:
        recipes.load(name)  # of one's own: that it is one
        path = Path(name) if name.endswith(".toml") else places.recipe_file(name)
        print(path.read_text(encoding="utf-8"), end="")
    else:
        names = places.recipe_names()
        wide = max(map(len, names)) + 2
        for known in names:
            line = f"{known:<{wide}}{recipes.load(known).description}"
            room = console.width if console.is_terminal else len(line)  # elsewhere lines stay whole
            for part in textwrap.wrap(line, room, subsequent_indent=wide * " "):
                console.print(part)


def _fit(name: str, chip: str, most: int | None, shape: str | None, classes: int | None) -> None:
    from snn2chip import chip as chips
    from snn2chip import recipe as recipes
    from snn2chip.fit import recipe as takes
    from snn2chip.report import fit as shown

    chosen, profile, console = recipes.load(name), chips.load(chip), console_of()
    given = None
    if (shape is None) != (classes is None):
        raise InputError("--shape and --classes belong together; give both")
    if shape is not None and classes is not None:
        channels, height, width = input_sides(shape)
        given = (channels, height, width), classes, 255
    found = takes.of_recipe(chosen, profile, given)
    console.print(shown.table(found))
    for line in shown.lines(found):
        console.print(line)
    if (unknown := takes.unknown(chosen)) is not None:
        console.print(f"note: {unknown}")
    if most is not None:
        share, narrow = takes.for_cores(chosen, profile, most, given)
        widths = ", ".join(f"{each.layer.name} {each.layer.shape[0]:,}" for each in narrow.layers)
        console.print(f"on {most:,} cores: widths times {share:g}, {narrow.cores:,} cores: {widths}")
        found = narrow
    if not found.fits:
        raise typer.Exit(1)
