"""`report`: report.html."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from snn2chip.cli.common import DataDir, app, console_of, guarded, is_hdf5
from snn2chip.cli.source import made_from


@app.command()
@guarded
def report(
    folder: Annotated[
        Path,
        typer.Argument(help="Folder with model.pt, .safetensors or .nir, model.net, and the JSON files beside them."),
    ],
    samples: Annotated[int, typer.Option(min=1, help="Test images drawn in the pictures.")] = 4,
    data: DataDir = None,
) -> None:
    """Write report.html: curves, table of layers, verdict, rasters."""
    from snn2chip.formats import netx
    from snn2chip.report import page

    names = ("model.pt", "model.safetensors", "model.nir")
    model = next((folder / name for name in names if (folder / name).exists()), folder / names[0])
    is_hdf5(model)  # where there is none, that is said first
    chain = netx.load(folder / "model.net")
    source = made_from(model, chain.made).source
    images, why = source.at_hand("test", data, samples)
    written = page.write(folder, source, chain, images, why)
    console_of().print(f"wrote {written}")
