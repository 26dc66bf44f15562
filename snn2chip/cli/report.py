"""`report`: report.html."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from snn2chip.cli.common import DataDir, app, console_of, guarded, progress_bar
from snn2chip.cli.source import made_from


@app.command(epilog="Example: snn2chip report runs/mine")
@guarded
def report(
    folder: Annotated[
        Path, typer.Argument(help="Folder with model.pt, .safetensors or .nir, and the .net file made from it.")
    ],
    samples: Annotated[int, typer.Option(min=1, help="Test images that run in the network and in its integers.")] = 50,
    pictures: Annotated[int, typer.Option(min=1, help="How many of them have spikes and membranes drawn.")] = 4,
    data: DataDir = None,
) -> None:
    """Write report.html: the network, its training, where accuracy is lost, spikes, membranes, the ladder.

    `train` begins the page; `fold-and-export`, `simulate` and `verify` add to the page that is beside their file. What
    they said is in report.json.
    """
    from snn2chip.data import ImageSet
    from snn2chip.report import gather, summary

    run = gather.Run(folder, lambda path, made: made_from(path, made).source)
    console = console_of()
    images, why = run.source.at_hand("test", data, samples)
    if images is not None and not isinstance(images, ImageSet):
        images, why = None, "the samples in the file have no labels; name its data set to fold-and-export (--dataset)"
    if run.chain is None:
        console.print(f"note: no .net file in '{folder}': spikes and membranes of the integers are left out")
    elif images is None:
        console.print(f"note: no samples, no pictures: {why}")
    with progress_bar("looking") as show:
        record = run.gather(images, pictures, show)
    written = record.save()
    console.print(summary.panel(run.source.name, summary.known(record.entries)))
    console.print(f"wrote {written}", soft_wrap=True)
