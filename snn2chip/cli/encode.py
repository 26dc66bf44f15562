"""`encode`: what a network's input port gets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from snn2chip.cli.common import DataDir, DatasetOption, NetArgument, app, console_of, guarded
from snn2chip.errors import InputError
from snn2chip.files import atomic_path


@app.command(epilog="Example: snn2chip encode runs/mine/model.net -o input.npz")
@guarded
def encode(
    net: NetArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="The .npz to write.")],
    dataset: DatasetOption = None,
    limit: Annotated[int | None, typer.Option(min=1, help="How many samples; default 10.")] = None,
    data: DataDir = None,
    recording: Annotated[
        Path | None, typer.Option(help="Instead, the first T steps of one recording of an event camera.")
    ] = None,
) -> None:
    """Write the integers that a network's input port gets, for `simulate --input` and `lava run`."""
    import numpy as np

    from snn2chip.data import test_set
    from snn2chip.formats import netx
    from snn2chip.ir.encode import encoder_of
    from snn2chip.simulate import recorded

    chain = netx.load(net)
    console = console_of()
    if recording is None:
        images = test_set(chain.made, dataset, data).subset(limit or 10)
        port = chain.port(encoder_of(chain)(images.images[:]))
        arrays = {"input": port.astype(np.int32), "label": images.labels.numpy()}
    else:
        given = {"dataset": dataset, "limit": limit, "data": data}
        if wrong := next((name for name, value in given.items() if value is not None), None):
            raise InputError(f"--{wrong} and --recording exclude each other; leave one of them out")
        sample = recorded.read_sample(chain, recording)
        port = sample.port
        arrays = {"input": port.astype(np.int32)}
        if sample.events.faults:
            console.print(f"note: {sample.events.faults}")
    with atomic_path(output) as part, part.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    console.print(f"wrote {output}: input {port.shape}, values {port.min()}..{port.max()}")
