"""The command line: parsing, progress and printing; everything else is in the modules it calls.

One module a command; importing them registers the commands, in the order in which --help lists them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from snn2chip import __version__

# in the order in which --help lists the commands
from snn2chip.cli import train as train  # isort: skip
from snn2chip.cli import retrain as retrain  # isort: skip
from snn2chip.cli import fold_and_export as fold_and_export  # isort: skip
from snn2chip.cli import collapse as collapse  # isort: skip
from snn2chip.cli import export as export  # isort: skip
from snn2chip.cli import import_ as import_  # isort: skip
from snn2chip.cli import simulate as simulate  # isort: skip
from snn2chip.cli import stream as stream  # isort: skip
from snn2chip.cli import chip as chip  # isort: skip
from snn2chip.cli import encode as encode  # isort: skip
from snn2chip.cli import verify as verify  # isort: skip
from snn2chip.cli import lava as lava  # isort: skip
from snn2chip.cli import akida as akida  # isort: skip
from snn2chip.cli import report as report  # isort: skip
from snn2chip.cli import show as show  # isort: skip
from snn2chip.cli import explore as explore  # isort: skip
from snn2chip.cli import fit as fit  # isort: skip
from snn2chip.cli import recipe as recipe  # isort: skip
from snn2chip.cli import doctor as doctor  # isort: skip
from snn2chip.cli.common import app as app
from snn2chip.cli.common import guarded as guarded


def _version(value: bool) -> None:
    if value:
        print(f"snn2chip {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    del version


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; `arguments` are the process's own if not given."""
    app(args=None if arguments is None else list(arguments), prog_name="snn2chip")
