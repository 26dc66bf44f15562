"""`report`: report.html."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from snn2chip.cli.common import DataDir, app, console_of, guarded


@app.command()
@guarded
def report(
    folder: Annotated[Path, typer.Argument(help="Folder with model.pt, model.net and the JSON files beside them.")],
    samples: Annotated[int, typer.Option(min=1, help="Test images drawn in the pictures.")] = 4,
    data: DataDir = None,
) -> None:
    """Write report.html: curves, table of layers, verdict, rasters."""
    from snn2chip.data import at_hand
    from snn2chip.nn import model_file
    from snn2chip.report import page

    recipe = model_file.load(folder / "model.pt").recipe
    spec = recipe.data
    images, why = at_hand(spec.name, "test", data, samples, image_size=spec.image_size, events=recipe.binning)
    written = page.write(folder, images, why)
    console_of().print(f"wrote {written}")
