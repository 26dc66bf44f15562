"""`simulate`: a network on images or a file of samples, in the chip's integers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from snn2chip.boundary import report
from snn2chip.choices import EngineKind
from snn2chip.cli.common import (
    DataDir,
    DatasetOption,
    DeviceOption,
    Explain,
    JsonOption,
    NetArgument,
    app,
    console_of,
    device_of,
    guarded,
    progress_bar,
    tell,
)
from snn2chip.errors import InputError
from snn2chip.files import write_json
from snn2chip.parallel import is_leader, leader_first, local, together

if TYPE_CHECKING:
    from snn2chip.fit.cost import Meter
    from snn2chip.ir import Chain

EngineOption = Annotated[
    EngineKind, typer.Option(help="dense: products; events: only spikes, on the CPU; auto: the faster. Equal results.")
]
_MOVED = {
    "--recording": "recordings have a command of their own: snn2chip stream NET RECORDING [--sample]",
    "--clock": "raw chip time has a command of its own: snn2chip chip NET --input FILE.npz",
    "--data-dir": "it is --data DIR now, and --dataset names a data set",
}


class _Simulate(TyperCommand):
    """Says where options went that this command had."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        for name in (argument.partition("=")[0] for argument in args):
            if name in _MOVED:
                raise typer.Exit(report(InputError(f"{name}: {_MOVED[name]}")))
        return super().parse_args(ctx, args)


def _meter(chain: Chain, name: str | None) -> Meter:
    """Of the chain on the chip of that name, or on the one it was made for."""
    from snn2chip import chip as chips
    from snn2chip.fit.cost import Meter
    from snn2chip.fit.demand import of_chain
    from snn2chip.fit.table import fit

    made_for = chain.made.get("chip")
    if name is None and not isinstance(made_for, str):
        raise InputError("--cost: the file does not say for which chip it was made; give --chip")
    profile = chips.load(str(made_for) if name is None else name)
    if profile.layers is not None:
        raise InputError(
            f"--cost: {profile.name} has no cores to count on; give --chip loihi2, whose integers these are"
        )
    return Meter(fit(of_chain(chain), profile))


@app.command(cls=_Simulate, epilog="Example: snn2chip simulate runs/mine/model.net --cost --limit 100")
@guarded
@together
def simulate(
    net: NetArgument,
    dataset: DatasetOption = None,
    input_file: Annotated[
        Path | None, typer.Option("--input", help=".npz with integers `input` (samples, T, C, H, W).")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first samples.")] = None,
    output: Annotated[
        Path | None, typer.Option(help="Write spikes, voltages, and outputs in their units, .npz.")
    ] = None,
    data: DataDir = None,
    batch: Annotated[int, typer.Option(min=1, help="Samples at a time.")] = 50,
    device: DeviceOption = "auto",
    json_file: JsonOption = None,
    engine: EngineOption = "auto",
    cost: Annotated[bool, typer.Option("--cost", help="Count operations, and what they take on the chip.")] = False,
    chip: Annotated[
        str | None, typer.Option(help="Of --cost: loihi1, loihi2 or FILE.toml; else the one the file was made for.")
    ] = None,
    explain: Explain = False,
) -> None:
    """Run a network in the chip's integers, bit-accurately: accuracy, spikes, speed.

    For a recording of an event camera see `stream`, for any netx file in raw chip time `chip`.

    `torchrun --nproc-per-node 2 -m snn2chip simulate NET` shares the samples among processes, with equal results.
    """
    from snn2chip.data import test_set
    from snn2chip.formats import netx
    from snn2chip.report import cost as costs
    from snn2chip.report import summary, tables
    from snn2chip.simulate import run as runs
    from snn2chip.simulate import trace

    chain = netx.load(net)
    if dataset is not None and input_file is not None:
        raise InputError("--dataset and --input exclude each other; give one")
    if chip is not None and not cost:
        raise InputError("--chip says where --cost is counted; give --cost too")
    meter = _meter(chain, chip) if cost else None
    where = local(device_of(device, engine))
    port, images = None, None
    if input_file is not None:
        port = trace.load_input(input_file, chain)[:limit]
    else:
        with leader_first():  # which may have to download them
            images = test_set(chain.made, dataset, data).subset(limit)
    with progress_bar("simulating") as show:
        result = runs.simulate(
            chain,
            port=port,
            images=images,
            batch_size=batch,
            device=where,
            keep=output is not None,
            progress=show,
            engine_kind=engine,
            meter=meter,
        )
    found = result.as_json(chain)
    if output is not None and is_leader():
        trace.save(output, result.trace, result.outputs)
    if json_file is not None and is_leader():
        write_json(json_file, found)
    console = console_of()
    for line in (None if images is None else images.note, result.note):
        if line is not None:
            console.print(f"note: {line}")
    console.print(tables.simulation_table(chain, result))
    notes = tables.activity_notes(chain, result)
    for note in notes:
        console.print(f"note: {note}")
    if meter is not None and result.cost is not None:
        console.print(costs.table(result.cost.as_json()))
        for line in (*costs.lines(result.cost.as_json()), *(f"note: {problem}" for problem in meter.found.problems)):
            console.print(line)
    if is_leader():
        if images is not None:
            tell(console, net, "simulate", found | {"notes": notes})
        else:
            console.print(summary.panel(net.name, {"simulate": found}))
    if output is not None:
        console.print(f"wrote {output}")
