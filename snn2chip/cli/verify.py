"""`verify`: every stage against the last."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from snn2chip.cli.common import (
    DataDir,
    Explain,
    FastConvolution,
    JsonOption,
    app,
    console_of,
    ensure,
    guarded,
    progress_bar,
    tell,
)
from snn2chip.cli.source import SourceArgument, arrays, made_from
from snn2chip.errors import CheckFailed, InputError
from snn2chip.files import is_hdf5, write_json


@app.command(epilog="Example: snn2chip verify runs/mine/model.pt runs/mine/model.net")
@guarded
def verify(
    model: SourceArgument,
    net: Annotated[Path, typer.Argument(help="model.net exported from it.")],
    samples: Annotated[int, typer.Option(min=1, help="Test images to compare on.")] = 20,
    lava: Annotated[bool, typer.Option("--lava/--no-lava", help="Run the file in Lava too.")] = True,
    akida: Annotated[
        bool | None,
        typer.Option("--akida/--no-akida", help="Run the .fbz beside it in Akida too; default: if made for akd1000."),
    ] = None,
    onnx: Annotated[bool, typer.Option("--onnx", help="Run the file's ONNX in ONNX Runtime too.")] = False,
    fast_convolution: FastConvolution = False,
    data: DataDir = None,
    json_file: JsonOption = None,
    explain: Explain = False,
) -> None:
    """Hold every stage against the last, spike for spike; exit 1 and the first difference if one differs."""
    import numpy as np

    from snn2chip.backends.akida import KIND
    from snn2chip.backends.lava import LIGHT
    from snn2chip.data import ImageSet
    from snn2chip.formats import netx
    from snn2chip.report import tables
    from snn2chip.verify import ladder

    if net.is_file() and is_hdf5(model) and not is_hdf5(net):
        raise InputError(f"'{net}' is no .net file; give what was trained first, and behind it the .net made from it")
    chain = netx.load(net)
    trained = made_from(model, chain.made)
    console = console_of()
    network = trained.source.network
    images, why = trained.source.at_hand("test", data, samples)
    if images is None:
        console.print(f"note: comparing on random images: {why}")
        steps = (network.timesteps,) if network.input.coding == "events" else ()
        shape = (samples, *steps, *network.input.shape)
        images = np.random.default_rng(0).integers(0, network.input.pixel_max, shape, endpoint=True)
    elif isinstance(images, ImageSet):
        images.require_classes(network.shape(network.readout.inputs[0])[0])
    pixels, labels = arrays(images)
    if lava:
        ensure(LIGHT, console)
    with_akida = chain.made.get("chip") == "akd1000" if akida is None else akida
    if with_akida:
        ensure(KIND, console)
    with progress_bar("verifying") as show:
        verdict = ladder.verify(
            trained.runs,
            chain,
            pixels,
            labels=labels,
            net_path=net,
            with_lava=lava,
            with_onnx=onnx,
            fast_convolution=fast_convolution,
            with_akida=with_akida,
            progress=show,
        )
    found = {**verdict.as_json(), "samples": len(pixels)}
    if json_file is not None:
        write_json(json_file, found)
    console.print(tables.verdict_table(verdict))
    if (spikes := tables.spikes_table(verdict)) is not None:
        console.print(spikes)
    for note in verdict.notes:
        console.print(f"note: {note}")
    tell(console, net, "verify", found)
    if not verdict.passed:
        raise CheckFailed("; ".join(tables.failure(rung) for rung in verdict.rungs if not rung.passed))
