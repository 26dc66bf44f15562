"""The command line: parsing, progress and printing; everything else is in the modules it calls.

One module a group of commands; importing them registers the commands, in the order in which --help lists them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from snn2chip import __version__

from snn2chip.cli import training  # isort: skip
from snn2chip.cli import export  # isort: skip
from snn2chip.cli import collapsing  # isort: skip
from snn2chip.cli import exporting  # isort: skip
from snn2chip.cli import importing  # isort: skip
from snn2chip.cli import running  # isort: skip
from snn2chip.cli import looking  # isort: skip
from snn2chip.cli.shared import app, guarded

__all__ = ["app", "collapsing", "export", "exporting", "guarded", "importing", "looking", "main", "running", "training"]


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
