"""`recipe`: shipped recipes and their fields."""

from __future__ import annotations

from typing import Annotated

import typer

from snn2chip.cli.common import app, console_of, guarded


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
