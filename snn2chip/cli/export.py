"""The command from model.pt to model.net."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from snn2chip.cli.shared import DataDir, JsonOption, RelayKind, Scale, app, console_of, guarded, some_images
from snn2chip.errors import InputError
from snn2chip.files import write_json

if TYPE_CHECKING:
    from snn2chip.data import ImageSet


@app.command("fold-and-export")
@guarded
def fold_and_export(
    model: Annotated[Path, typer.Argument(help="model.pt made by `snn2chip train`.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Default: model.net beside the model.")] = None,
    chip: Annotated[str, typer.Option(help="loihi1 or loihi2.")] = "loihi2",
    weight_bits: Annotated[int | None, typer.Option(help="Fewer weight bits than the chip's 8.")] = None,
    scale: Annotated[Scale, typer.Option(help="How scales are chosen; auto compares the others.")] = Scale.AUTO,
    relays: Annotated[
        RelayKind, typer.Option(help="How spikes pass layers of a branching network; see docs/residual.md.")
    ] = RelayKind.AUTO,
    calibration: Annotated[int, typer.Option(min=0, help="Training images that choose the scales; 0 for none.")] = 64,
    data: DataDir = None,
    json_file: JsonOption = None,
) -> None:
    """Fold tdBN or BNTT, quantize, lower and export netx HDF5; says whether stock netx runs it."""
    from dataclasses import asdict

    from snn2chip import chip as chips
    from snn2chip import pipeline, report
    from snn2chip.formats import model_file, netx

    profile = chips.load(chip).with_weight_bits(weight_bits)
    trained = model_file.load(model)
    output = output or model.with_suffix(".net")
    if output.resolve() == model.resolve():
        raise InputError(f"-o '{output}' is the model itself; name another file")
    console = console_of()
    spec = trained.recipe.data
    images: ImageSet | None = None
    if calibration:
        images, why = some_images(spec.name, "train", data, spec.image_size, calibration, trained.recipe.binning)
        if images is None:
            console.print(f"note: no calibration images, scales by largest weight: {why}")
    export = pipeline.export(trained, profile, calibration=images, strategy=scale.value, relays=relays.value)
    netx.save(output, export.chain)
    if json_file is not None:
        write_json(
            json_file,
            {
                "fold": asdict(export.fold_report),
                "quantize": asdict(export.quantize_report),
                "lower": asdict(export.lower_report),
                "made": export.chain.made,
            },
        )
    console.print(report.export_table(export))
    console.print(report.layout_table(export))
    for line in report.export_notes(export):
        console.print(line)
    console.print(f"wrote {output}")
