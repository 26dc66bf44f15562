"""What every command shares: the app itself, errors as exit codes, consoles, progress bars and common options."""

from __future__ import annotations

import functools
import math
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, ParamSpec

import typer
from rich.console import Console

from snn2chip.backends.kinds import Kind
from snn2chip.boundary import report, room
from snn2chip.console import console_of as console_of
from snn2chip.console import progress_bar as progress_bar
from snn2chip.errors import InputError
from snn2chip.places import PAGE, RECORD, RECORD_FORMAT

# Slow imports (torch, matplotlib) wait inside the commands: `--help` answers at once.

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="From a trained spiking network to Loihi's integers and Lava, spike for spike.",
)
lava_app = typer.Typer(no_args_is_help=True, help="Lava, in an environment of its own.")
app.add_typer(lava_app, name="lava")
akida_app = typer.Typer(no_args_is_help=True, help="Akida, in an environment of its own.")
app.add_typer(akida_app, name="akida")


P = ParamSpec("P")
_WRITTEN = ("output", "json_file", "plot")  # what a command calls the files that it is asked to write


def apart(**given: object) -> None:
    """Refuse to write over a file that the command reads, or into one twice.

    Args:
        given: what the command was given, and files that it chose itself; what is a path counts, by its name.

    Raises:
        InputError: a file that is written is one of the others, or what `report` keeps of a run.
    """
    places = {name: os.path.realpath(value) for name, value in given.items() if isinstance(value, Path)}
    for name in [written for written in _WRITTEN if written in places]:
        option = {"json_file": "--json", "output": "-o"}.get(name, f"--{name}")
        others = (other for other, place in places.items() if other != name and place == places[name])
        if (other := next(others, None)) is not None:
            what = {"net": "network", "json_file": "file for --json", "output": "file for -o"}.get(other, other)
            raise InputError(f"{option} '{given[name]}' is the {what.removesuffix('_file')} itself; name another file")
        if Path(places[name]).name in (RECORD, PAGE) and _holds_a_run(Path(places[name]).parent):
            raise InputError(f"{option} '{given[name]}' is what snn2chip keeps of a run there; name another file")


def _holds_a_run(folder: Path) -> bool:
    """Whether there is a run's record in it."""
    try:
        with (folder / RECORD).open("rb") as file:
            return RECORD_FORMAT.encode() in file.read(80)
    except OSError:
        return False


def guarded(command: Callable[P, None]) -> Callable[P, None]:
    """One line and an exit code for whatever goes wrong: see `snn2chip.boundary`."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            room()
            apart(**kwargs)
            command(*args, **kwargs)
            sys.stdout.flush()  # not at exit, where a reader that left would be a complaint
        except (typer.Exit, SystemExit):
            raise
        except BaseException as error:
            raise typer.Exit(report(error)) from None

    return run


Device = Literal["auto", "cpu", "cuda"]
"""Where training and simulation run."""


def device_of(device: Device, engine: str = "auto") -> Any:
    """The device of a name; of `auto`, the CPU for the engine that runs nowhere else."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch sees no CUDA device; use --device cpu, or install torch with CUDA")
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() and engine != "events" else "cpu")
    return torch.device(device)


DataDir = Annotated[
    Path | None,
    typer.Option(help="Folder with the data set's files; default: the cache, then a download into it."),
]
DeviceOption = Annotated[Device, typer.Option(help="auto takes CUDA when there is one.")]
DatasetOption = Annotated[
    str | None, typer.Option("--dataset", help="Data set as NAME[:split]; default: the model's own test set.")
]
NetArgument = Annotated[Path, typer.Argument(help="model.net made by `snn2chip fold-and-export`.")]
FastConvolution = Annotated[
    bool, typer.Option("--fast-convolution", help="Exact matrix products instead of Lava's own convolution loop.")
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Delete the results of an earlier run that are there, and start over.")
]


def _explain(context: typer.Context, value: bool) -> None:
    if not value:
        return
    from snn2chip.report.columns import explained

    for table in explained(str(context.info_name)):
        console_of().print(table)
    raise typer.Exit


Explain = Annotated[
    bool, typer.Option("--explain", callback=_explain, is_eager=True, help="Say what the columns of the tables mean.")
]
JsonOption = Annotated[Path | None, typer.Option("--json", help="Write the result as JSON.")]


def numbers(option: str, text: str) -> list[float]:
    """The numbers of an option that takes one a channel, with commas between them; those of --std are positive."""
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"{option} '{text}': expected numbers with commas between them") from None
    if not all(map(math.isfinite, values)):
        raise InputError(f"{option} '{text}': expected finite numbers")
    if option == "--std" and min(values) <= 0:
        raise InputError(f"--std '{text}': {min(values):g} is not positive")
    return values


def tell(console: Console, net: Path, kind: str, values: dict[str, Any]) -> None:
    """The summary box of a .net file, and the page of its run written anew where there is one."""
    from snn2chip.report import record, summary

    facts, said = record.tell(net, kind, values)
    console.print(summary.panel(net.name, facts))
    if said:
        console.print(said)


def then(console: Console, command: str, *words: object, data: Path | None = None) -> None:
    """Say the command that comes next, to be copied into a shell; with the folder of the data, if one was given."""
    given = [*map(str, words), *([] if data is None else ["--data", str(data)])]
    console.print(f"next: snn2chip {command} {shlex.join(given)}", soft_wrap=True)


def ensure(kind: Kind, console: Console) -> None:
    """Make the environment of a simulator if it is not there."""
    from snn2chip.backends import environment

    if environment.find(kind) is None:
        console.print(f"{kind.title}'s environment is not there yet: making it once (about half a minute)")
        environment.setup(kind)
