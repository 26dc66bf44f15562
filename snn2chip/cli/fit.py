"""`fit`: whether a network fits a chip, and on how many cores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from snn2chip.cli.common import Explain, app, console_of, ensure, guarded

ChipOption = Annotated[str, typer.Option(help="loihi1, loihi2, akd1000, or a chip's profile of your own, FILE.toml.")]
_STDOUT = "-"


class _Fit(TyperCommand):
    """Takes ``--json`` alone, for the standard output, as well as ``--json FILE``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        args = list(args)
        if "--json" in args:
            at = args.index("--json")
            values = {index + 1 for index, arg in enumerate(args) if arg == "--chip"}
            words = [i for i, arg in enumerate(args) if not arg.startswith("-") and i not in values]
            if at + 1 not in words or words == [at + 1]:
                args.insert(at + 1, _STDOUT)
        return super().parse_args(ctx, args)


@app.command(cls=_Fit, epilog="Example: snn2chip fit any.net --chip loihi1")
@guarded
def fit(
    net: Annotated[Path, typer.Argument(help="Any netx file, ours or not.")],
    chip: ChipOption = "loihi2",
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="[FILE]", help="Write JSON to FILE, or print it alone.")
    ] = None,
    explain: Explain = False,
) -> None:
    """Show on how many cores a network goes, what limits each layer, what does not fit. Exit code 1 if it does not.

    For akd1000 Akida's own package maps it: sequences, passes and nodes.
    """
    from snn2chip import chip as chips
    from snn2chip.backends import akida
    from snn2chip.files import write_json
    from snn2chip.fit import demand
    from snn2chip.fit import table as fits
    from snn2chip.formats import netx
    from snn2chip.report import fit as shown

    profile = chips.load(chip)
    found: fits.Fit | akida.Mapping
    if profile.layers is not None:
        ensure(akida.KIND, console_of(stderr=True))
        found = akida.mapping(akida.layout(netx.load(net), profile))
    else:
        found = fits.fit(demand.of_file(net), profile)
    if str(json_file) == _STDOUT:
        print(json.dumps(found.as_json(), indent=1))
    else:
        if json_file is not None:
            write_json(json_file, found.as_json())
        console = console_of()
        table, lines = shown.of(found)
        if found.fits or profile.layers is None:
            console.print(table)
        for line in lines:
            console.print(line)
        if json_file is not None:
            console.print(f"wrote {json_file}")
    if not found.fits:
        raise typer.Exit(1)
