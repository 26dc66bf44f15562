"""`fold-and-export`: from a network file, model.pt say, to model.net."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from snn2chip.choices import Relays, Strategy, Ties
from snn2chip.cli.common import (
    DataDir,
    Explain,
    JsonOption,
    apart,
    app,
    console_of,
    ensure,
    guarded,
    numbers,
    tell,
    then,
)
from snn2chip.cli.source import SourceArgument, read
from snn2chip.errors import InputError
from snn2chip.files import is_hdf5, write_json

if TYPE_CHECKING:
    from snn2chip.data import ImageSet
    from snn2chip.data.recordings import BinSettings
    from snn2chip.ir import IntArray


@app.command("fold-and-export", epilog="Example: snn2chip fold-and-export runs/mine/model.pt --chip loihi2")
@guarded
def fold_and_export(
    model: SourceArgument,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Default: model.net beside the model; with akd1000 model.fbz beside it."),
    ] = None,
    chip: Annotated[str, typer.Option(help="loihi1, loihi2 or akd1000.")] = "loihi2",
    weight_bits: Annotated[int | None, typer.Option(help="Fewer weight bits than the chip's 8 (akd1000: 4).")] = None,
    scale: Annotated[Strategy, typer.Option(help="How scales are chosen; auto compares the others.")] = "auto",
    relays: Annotated[
        Relays, typer.Option(help="How spikes pass layers of a branching network; see docs/residual.md.")
    ] = "auto",
    calibration: Annotated[int, typer.Option(min=0, help="Training images that choose the scales; 0 for none.")] = 64,
    data: DataDir = None,
    dataset: Annotated[str | None, typer.Option(help="Of a graph: the data set it was trained on, by name.")] = None,
    timesteps: Annotated[int | None, typer.Option(min=1, help="NIR: time steps of a sample.")] = None,
    high: Annotated[int | None, typer.Option(min=1, help="NIR: the largest pixel, 255, or 1 for spikes.")] = None,
    mean: Annotated[
        str | None, typer.Option(help="NIR: mean of the input it was trained on, in pixel / largest pixel.")
    ] = None,
    std: Annotated[str | None, typer.Option(help="NIR: standard deviation of that input, likewise.")] = None,
    dt: Annotated[float | None, typer.Option(help="NIR: seconds of a time step; default 0.0001.")] = None,
    ties: Annotated[
        Ties | None, typer.Option(help="NIR: what a membrane right at its threshold does; default hold.")
    ] = None,
    dt_us: Annotated[
        int | None, typer.Option(min=1, help="NIR of recordings: microseconds a time step, as in a recipe.")
    ] = None,
    count: Annotated[int | None, typer.Option(min=1, help="NIR of recordings: or events a time step.")] = None,
    max_count: Annotated[
        int | None, typer.Option(min=1, help="NIR of recordings: largest value of a pixel at a step; default 1.")
    ] = None,
    downsample: Annotated[
        int | None, typer.Option(min=1, help="NIR of recordings: sensor pixels a side that share one; default 1.")
    ] = None,
    sensor: Annotated[
        str | None, typer.Option(help="NIR of recordings: HEIGHT,WIDTH where their files do not say it.")
    ] = None,
    no_fit: Annotated[bool, typer.Option("--no-fit", help="Write a network that does not fit the chip, too.")] = False,
    json_file: JsonOption = None,
    explain: Explain = False,
) -> None:
    """Fold tdBN or BNTT, quantize, lower and export netx HDF5; says whether stock netx runs it.

    A NIR graph is folded already (only pooling is left to fold). One of another simulator does not say how many time
    steps a sample has, nor its largest pixel: give --timesteps and --high, and, where the pixels that it was trained on
    were normalized, --mean and --std (--mean 0 --std 1 for pixels in 0..1). For recordings of an event camera give
    --timesteps and --dt-us or --count, as a recipe's [data.events] does. What the graph cannot say and is assumed is
    printed.
    """
    from dataclasses import asdict, replace

    import numpy as np

    from snn2chip import chip as chips
    from snn2chip.backends import akida
    from snn2chip.errors import ChipLimitError
    from snn2chip.fit import demand
    from snn2chip.fit import table as fits
    from snn2chip.formats import netx
    from snn2chip.ir.encode import encoder_of
    from snn2chip.passes import pipeline
    from snn2chip.report import fit as cores
    from snn2chip.report import tables
    from snn2chip.report.graph import drawn

    profile = chips.load(chip).with_weight_bits(weight_bits)
    options: dict[str, object] = {"--timesteps": timesteps, "--high": high, "--mean": mean, "--std": std, "--dt": dt}
    options |= {"--ties": ties, "--dt-us": dt_us, "--count": count, "--max-count": max_count}
    options |= {"--downsample": downsample, "--sensor": sensor}
    events, asked = None, {}
    if is_hdf5(model):
        events = _binning(timesteps, dt_us, count, max_count, downsample, sensor)
        listed = {key: numbers(f"--{key}", text) for key, text in (("mean", mean), ("std", std)) if text is not None}
        told = {"timesteps": timesteps, "high": high, "dt": dt, "ties": ties}
        asked = {**{key: value for key, value in told.items() if value is not None}, **listed}
    elif given := [option for option, value in options.items() if value is not None]:
        raise InputError(f"{given[0]} is for NIR graphs; '{model}' is none, and says it itself; leave it out")
    source = read(model, dataset=dataset, asked=asked, events=events).source
    whole = profile.layers is not None  # layers, not synapses: Akida
    if output is not None and output.suffix == ".fbz" and not whole:
        raise InputError(f"-o '{output}': {profile.name} takes a .net; a .fbz is for --chip akd1000")
    fbz = (output or model).with_suffix(".fbz")
    output = (output or model).with_suffix(".net") if whole or output is None else output
    apart(model=model, output=output, json_file=json_file, fbz=fbz if whole else None)
    console = console_of()
    images: ImageSet | IntArray | None = None
    if calibration:
        images, why = source.at_hand("train", data, calibration)
        if images is None:
            console.print(f"note: no calibration images, scales by largest weight: {why}")
        elif isinstance(images, np.ndarray):
            images = encoder_of(source.network)(images)
    export = pipeline.export(source, profile, calibration=images, strategy=scale, relays=relays)
    if asked:  # for `verify`, which reads the graph again
        export = replace(export, chain=replace(export.chain, made={**export.chain.made, "nir": asked}))
    found: fits.Fit | akida.Mapping
    if whole:
        laid = akida.layout(export.chain, profile)
        ensure(akida.KIND, console)
        found = akida.mapping(laid)
    else:
        found = fits.fit(demand.of_chain(export.chain), profile)
    if not (found.fits or no_fit):
        raise ChipLimitError(f"{'; '.join(found.problems)}; --no-fit writes it all the same")
    if whole:
        akida.build(laid, fbz)
    netx.save(output, export.chain)
    said = {
        "fold": asdict(export.fold_report),
        "quantize": asdict(export.quantize_report),
        "lower": asdict(export.lower_report),
        "notes": export.notes,
        "made": export.chain.made,
        "fit": found.as_json(),
    }
    if json_file is not None:
        write_json(json_file, said)
    console.print(tables.export_table(export))
    console.print(tables.layout_table(export))
    table, lines = cores.of(found)
    console.print(table)
    for line in lines:
        console.print(line)
    for line in tables.export_notes(export):
        console.print(line)
    console.print(f"wrote {output}{f' and {fbz}' if whole else ''}")
    tell(console, output, "export", said | drawn(export.folded, export.chain, found))
    then(console, "verify", model, output, data=data)


def _binning(
    timesteps: int | None,
    dt_us: int | None,
    count: int | None,
    max_count: int | None,
    downsample: int | None,
    sensor: str | None,
) -> BinSettings | None:
    """How recordings become frames, from the options named as a recipe's keys; None where none is given."""
    from snn2chip.data.recordings import BinSettings

    if all(value is None for value in (dt_us, count, max_count, downsample, sensor)):
        return None
    if timesteps is None:
        raise InputError("recordings are binned to --timesteps T steps; give them")
    sides = None
    if sensor is not None:
        parts = sensor.split(",")
        if len(parts) != 2 or not all(part.strip().isdecimal() and len(part) < 6 for part in parts):
            raise InputError(f"--sensor '{sensor}': expected HEIGHT,WIDTH")
        sides = (int(parts[0]), int(parts[1]))
    return BinSettings(timesteps, dt_us, count, max_count or 1, downsample or 1, sides)
