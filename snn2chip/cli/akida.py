"""`akida setup` and `akida run`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from snn2chip.cli.common import (
    DataDir,
    DatasetOption,
    JsonOption,
    NetArgument,
    akida_app,
    console_of,
    ensure,
    guarded,
    progress_bar,
)
from snn2chip.errors import CheckFailed, InputError
from snn2chip.files import write_json

if TYPE_CHECKING:
    from rich.console import Console

    from snn2chip.verify.akida import Tally


@akida_app.command("setup", epilog="Example: snn2chip akida setup")
@guarded
def akida_setup() -> None:
    """Make Akida's environment, once per user: BrainChip's package `akida` and numpy, pinned."""
    from snn2chip.backends import akida, environment

    found = environment.setup(akida.KIND)
    versions = ", ".join(f"{name} {version}" for name, version in found.versions.items())
    console_of().print(f"Akida is ready: {found.python} ({versions})")


@akida_app.command("run", epilog="Example: snn2chip akida run runs/akida/model.net --dataset cifar10")
@guarded
def akida_run(
    net: NetArgument,
    dataset: DatasetOption = None,
    input_file: Annotated[Path | None, typer.Option("--input", help=".npz with integers `input`.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first samples.")] = None,
    skip: Annotated[int, typer.Option(min=0, help="Without the first samples, to go on.")] = 0,
    layers: Annotated[bool, typer.Option("--layers", help="Spikes of every layer too; several times slower.")] = False,
    output: Annotated[Path | None, typer.Option(help="Write spikes and potentials, .npz, kept in memory.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Samples at a time.")] = 250,
    data: DataDir = None,
    json_file: JsonOption = None,
) -> None:
    """Run the .fbz beside NET in Akida's simulator, and compare every potential with our integers.

    Exit code 1 if one differs. Samples are run a batch at a time and not kept. Ctrl-C stops it and says what was
    compared, and with which --skip to go on.
    """
    from snn2chip import chip as chips
    from snn2chip.backends import akida
    from snn2chip.data import test_set
    from snn2chip.formats import netx
    from snn2chip.ir.trace import Trace
    from snn2chip.report import tables
    from snn2chip.simulate import trace
    from snn2chip.verify import akida as against

    chain = netx.load(net)
    if dataset is not None and input_file is not None:
        raise InputError("--dataset and --input exclude each other; give one")
    model, path = akida.layout(chain, chips.load("akd1000")), net.with_suffix(".fbz")
    port = images = None
    if input_file is not None:
        port = trace.load_input(input_file, chain)[:limit]
    else:
        images = test_set(chain.made, dataset, data).subset(limit)
    console = console_of()
    ensure(akida.KIND, console)
    kept: list[Trace] = []
    found = against.Tally()
    try:
        with progress_bar("Akida, samples") as show:
            for part in against.batches(
                chain, model, path, port=port, images=images, skip=skip, batch=batch, layers=layers, progress=show
            ):
                found.add(part)
                if output is not None:
                    kept.append(part.trace)
    except KeyboardInterrupt:
        _say(console, found, f"stopped; go on with --skip {skip + found.samples}")
        raise
    if output is not None:
        trace.save(output, Trace.joined(kept))
    if json_file is not None:
        write_json(json_file, found.as_json())
    _say(console, found, "" if output is None else f"wrote {output}")
    if found.first is not None:
        raise CheckFailed(tables.failure(found.rung))


def _say(console: Console, found: Tally, more: str) -> None:
    for line in (*found.lines(), *([more] if more else [])):
        console.print(line)
