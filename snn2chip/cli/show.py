"""`show`: any netx file, layer by layer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from snn2chip.cli.chip import input_sides
from snn2chip.cli.common import Explain, JsonOption, app, console_of, guarded
from snn2chip.errors import InputError


@app.command(epilog="Example: snn2chip show any.net")
@guarded
def show(
    net: Annotated[Path, typer.Argument(help="Any netx file, ours or not.")],
    chip: Annotated[str, typer.Option(help="Whose registers: loihi1 or loihi2.")] = "loihi2",
    message_bits: Annotated[
        int | None, typer.Option(min=0, max=24, help="Bits of integers at the port, 0 for spikes; default: as made.")
    ] = None,
    input_shape: Annotated[
        str | None, typer.Option(help="C,H,W that come in, where a convolution is first and the file does not say.")
    ] = None,
    json_file: JsonOption = None,
    explain: Explain = False,
) -> None:
    """Show any netx file layer by layer, with what would be clipped, truncated, overflow or be refused."""
    from dataclasses import asdict

    from snn2chip import chip as chips
    from snn2chip.files import write_json
    from snn2chip.fit import demand
    from snn2chip.fit import table as fits
    from snn2chip.report import fit as cores
    from snn2chip.report import show as showing

    profile = chips.load(chip)
    shown = showing.describe(net, profile, message_bits, input_sides(input_shape))
    try:
        found = fits.fit(demand.of_file(net), profile)
    except InputError as error:
        found, unplaced = None, str(error)
    if json_file is not None:
        fit = {"fit": found.as_json()} if found is not None else {}
        write_json(json_file, {**asdict(shown), "totals": shown.totals, **fit})
    console = console_of()
    console.print(showing.layers_table(shown))
    console.print(showing.tree(shown), soft_wrap=False)  # or long lines would be cut
    if found is None:
        console.print(f"not placed on cores: {unplaced}")
    else:
        console.print(cores.table(found))
        for line in cores.lines(found):
            console.print(line)
    count = len(shown.all_findings)
    console.print(f"{count} finding{'' if count == 1 else 's'}" if count else "nothing to warn of")
    if json_file is not None:
        console.print(f"wrote {json_file}")
