"""What every command shares: the app itself, errors as exit codes, consoles, progress bars and common options."""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec

import typer
from rich.console import Console

from snn2chip.boundary import report, room
from snn2chip.console import console_of as console_of
from snn2chip.console import progress_bar as progress_bar
from snn2chip.errors import DataError, InputError

if TYPE_CHECKING:
    from snn2chip.data import ImageSet
    from snn2chip.data.recordings import BinSettings

# Slow imports (torch, matplotlib) wait inside the commands: `--help` answers at once.

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="From a trained spiking network to Loihi's integers and Lava, spike for spike.",
)
lava_app = typer.Typer(no_args_is_help=True, help="Lava, in an environment of its own.")
app.add_typer(lava_app, name="lava")


P = ParamSpec("P")


def guarded(command: Callable[P, None]) -> Callable[P, None]:
    """One line and an exit code for whatever goes wrong: see `snn2chip.boundary`."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            room()
            command(*args, **kwargs)
            sys.stdout.flush()  # not at exit, where a reader that left would be a complaint
        except (typer.Exit, SystemExit):
            raise
        except BaseException as error:
            raise typer.Exit(report(error)) from None

    return run


class Device(StrEnum):
    """Where training and simulation run."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class Scale(StrEnum):
    """How a layer's scale is chosen, see `snn2chip.passes.quantize`."""

    AUTO = "auto"
    MAX = "max"
    PERCENTILE = "percentile"
    ERROR = "error"


class RelayKind(StrEnum):
    """Choices of --relays."""

    AUTO = "auto"
    PLAIN = "plain"
    BIAS = "bias"
    DOUBLE = "double"
    QUADRUPLE = "quadruple"


def device_of(device: Device) -> Any:
    import torch

    if device is Device.CUDA and not torch.cuda.is_available():
        raise InputError("--device cuda: torch sees no CUDA device; use --device cpu, or install torch with CUDA")
    if device is Device.AUTO:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device.value)


def load_data(
    name: str,
    split: str,
    folder: Path | None,
    *,
    download: bool = True,
    size: int | None = None,
    events: BinSettings | None = None,
) -> ImageSet:
    from snn2chip import data

    return data.load(name, split, folder, download=download, image_size=size, events=events)


DataDir = Annotated[
    Path | None,
    typer.Option(help="Folder with the data set's files; default: the cache, then a download into it."),
]
DeviceOption = Annotated[Device, typer.Option(help="auto takes CUDA when there is one.")]
FastConvolution = Annotated[
    bool, typer.Option("--fast-convolution", help="Exact matrix products instead of Lava's own convolution loop.")
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Delete the results of an earlier run that are there, and start over.")
]
JsonOption = Annotated[Path | None, typer.Option("--json", help="Write the result as JSON.")]


def is_hdf5(path: Path) -> bool:
    """Whether a file begins as HDF5, as model.net and NIR graphs do and model.pt does not.

    Raises:
        InputError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(8) == b"\x89HDF\r\n\x1a\n"
    except OSError as error:
        raise InputError(f"cannot read '{path}': {error.strerror or error}") from None


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


def some_images(
    name: str | None,
    split: str,
    folder: Path | None,
    size: int | None,
    count: int,
    events: BinSettings | None = None,
) -> tuple[ImageSet | None, str]:
    """Up to `count` images if the data set is at hand, or None and why."""
    if not name:
        return None, "the model names no data set"
    try:
        return load_data(name, split, folder, download=False, size=size, events=events).subset(count), ""
    except DataError as error:
        if folder is not None:
            raise
        return None, str(error)


def binning(made: dict[str, Any]) -> BinSettings | None:
    """How the recordings that a network was trained on were binned; None if it was trained on images."""
    from snn2chip.data.recordings import BinSettings

    return None if made.get("events") is None else BinSettings.from_json(made["events"])


def test_images(made: dict[str, Any], spec: str | None, folder: Path | None) -> ImageSet:
    from snn2chip.data import parse_spec

    if spec is None:
        if not made.get("dataset"):
            raise InputError("the file names no data set; give --data NAME[:split] or --input FILE.npz")
        name, split = str(made["dataset"]), "test"
    else:
        name, split = parse_spec(spec)
    return load_data(name, split, folder, size=made.get("image_size"), events=binning(made))


def ensure_lava(console: Console) -> None:
    from snn2chip import lava

    if lava.find() is None:
        console.print("Lava's environment is not there yet: making it once (about half a minute)")
        lava.setup()
