"""`doctor`: what this machine has."""

from __future__ import annotations

from snn2chip.cli.common import app, console_of, guarded


@app.command(epilog="Example: snn2chip doctor")
@guarded
def doctor() -> None:
    """Versions, devices, Lava's interpreter, data sets found."""
    from snn2chip.report import doctor as examine

    console = console_of()
    for line in examine.examine():
        console.print(line)
