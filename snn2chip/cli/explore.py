"""`explore`: a network in the browser, step by step."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from snn2chip.cli.common import DataDir, DatasetOption, NetArgument, app, console_of, guarded
from snn2chip.errors import InputError
from snn2chip.files import write_text


@app.command(epilog="Example: snn2chip explore runs/mine/model.net")
@guarded
def explore(
    net: NetArgument,
    other: Annotated[
        Path | None, typer.Argument(help="A second one with layers of the same shapes, shown beside the first.")
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write the page here instead.")] = None,
    samples: Annotated[
        str, typer.Option(help="Numbers in the data set, 0,3,7-9; or FILE.npy, integers (N, C, H, W) or (N, T, ...).")
    ] = "0-9",
    dataset: DatasetOption = None,
    data: DataDir = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Where to serve, on this machine alone; default: any.")
    ] = None,
) -> None:
    """Show a network in the browser, step by step: every spike, membrane, weight, by the engine itself."""
    from snn2chip.data import test_set
    from snn2chip.formats import netx
    from snn2chip.report import explore as exploring
    from snn2chip.report.serve import PageServer

    if output is not None and port is not None:
        raise InputError("--port and --output exclude each other; give one")
    nets = [path for path in (net, other) if path is not None]
    chains = [netx.load(path) for path in nets]
    if samples.endswith(".npy"):
        if dataset is not None or data is not None:
            raise InputError(f"--{'data' if dataset is None else 'dataset'} and --samples FILE exclude each other")
        chosen = exploring.from_file(chains[0], Path(samples))
    else:
        numbers = exploring.numbers_of(samples)
        chosen = exploring.from_set(chains[0], test_set(chains[0].made, dataset, data), numbers)
    page = exploring.page(chains, [path.name for path in nets], chosen)
    console = console_of()
    if output is not None:
        write_text(output, page)
        console.print(f"wrote {output}: {len(chosen.names)} samples, {len(page) / 1e6:.1f} MB")
        return
    with PageServer(page, port or 0) as server:
        console.print(server.address, soft_wrap=True)
        console.print("for browsers on this machine, until Ctrl-C")
        sys.stdout.flush()
        with suppress(KeyboardInterrupt):
            server.serve_forever()
