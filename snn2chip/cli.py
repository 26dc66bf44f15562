"""The command line: parsing, progress and printing; everything else is in the modules it calls."""

from __future__ import annotations

import functools
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from snn2chip import __version__
from snn2chip.errors import CheckFailed, DataError, InputError, Snn2ChipError
from snn2chip.files import write_json

if TYPE_CHECKING:
    from snn2chip.data import ImageSet

# Slow imports (torch, matplotlib) wait inside the commands: `--help` answers at once.

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="From a trained spiking network to Loihi's integers and Lava, spike for spike.",
)
lava_app = typer.Typer(no_args_is_help=True, help="Lava, in an environment of its own.")
app.add_typer(lava_app, name="lava")

INTERRUPTED = 130  # what a shell reports for Ctrl-C
P = ParamSpec("P")


def _reader_left() -> None:
    """Send what is still to come nowhere: the reader of `snn2chip ... | head -1` has enough."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Console(Console):
    """A reader that leaves ends the printing, not the command: its files and its exit code still count."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # rich would exit with 1

    def print(self, *objects: Any, **options: Any) -> None:
        try:
            super().print(*objects, **options)
        except BrokenPipeError:
            _reader_left()


def _console(stderr: bool = False) -> Console:
    console = _Console(stderr=stderr, highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console = _Console(stderr=stderr, highlight=False, soft_wrap=True, width=160)
    return console


def guarded(command: Callable[P, None]) -> Callable[P, None]:
    """One line and an exit code for everything that goes wrong on purpose: no traceback for bad input."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
            sys.stdout.flush()  # not at exit, where a reader that left would be a complaint
        except Snn2ChipError as error:
            for line in str(error).splitlines():
                print(f"error: {line}", file=sys.stderr)
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:  # `snn2chip ... | head`
            _reader_left()
            raise typer.Exit(0) from None
        except MemoryError:
            print("error: out of memory; use --limit, fewer samples or a smaller batch", file=sys.stderr)
            raise typer.Exit(2) from None
        except OSError as error:
            print(f"error: {error.filename or 'system'}: {error.strerror or error}", file=sys.stderr)
            raise typer.Exit(2) from None

    return run


@contextmanager
def _progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, nothing elsewhere; the function takes (done, of)."""
    console = _console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, of: bar.update(task, completed=done, total=of)


class Device(StrEnum):
    """Where training and simulation run."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class Scale(StrEnum):
    """How a layer's scale is chosen, see `snn2chip.quantize`."""

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


def _device(device: Device) -> Any:
    import torch

    if device is Device.CUDA and not torch.cuda.is_available():
        raise InputError("--device cuda: torch sees no CUDA device; use --device cpu, or install torch with CUDA")
    if device is Device.AUTO:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device.value)


def _load_data(
    name: str, split: str, folder: Path | None, *, download: bool = True, size: int | None = None
) -> ImageSet:
    from snn2chip import data

    return data.load(name, split, folder, download=download, image_size=size)


DataDir = Annotated[
    Path | None,
    typer.Option(help="Folder with the data set's files; default: the cache, then a download into it."),
]
DeviceOption = Annotated[Device, typer.Option(help="auto takes CUDA when there is one.")]
FastConvolution = Annotated[
    bool, typer.Option("--fast-convolution", help="Exact matrix products instead of Lava's own convolution loop.")
]
JsonOption = Annotated[Path | None, typer.Option("--json", help="Write the result as JSON.")]


@app.command()
@guarded
def train(
    recipe: Annotated[str, typer.Argument(help="Shipped recipe by name, or a path to a recipe.toml.")],
    data: DataDir = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the results; default runs/RECIPE.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Change a recipe's value: train.epochs=3. May be repeated.")
    ] = None,
    device: DeviceOption = Device.AUTO,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the folder's checkpoint.pt.")] = False,
    init: Annotated[
        Path | None, typer.Option(help="Start from this model.pt: the same layers, time steps may differ.")
    ] = None,
) -> None:
    """Train a spiking network: model.pt, metrics.jsonl and curves.png in --out."""
    from snn2chip import recipe as recipes
    from snn2chip.train import curves
    from snn2chip.train.loop import Trainer

    chosen = recipes.load(recipe, settings or [])
    out = out or Path("runs") / chosen.name
    size = chosen.data.image_size
    console = _console()
    training = _load_data(chosen.data.name, "train", data, size=size)
    test = _load_data(chosen.data.name, "test", data, size=size)
    trainer = Trainer(chosen, training, test, out, device=_device(device), resume=resume, init=init)
    weights = sum(p.numel() for p in trainer.network.parameters())
    console.print(
        f"{chosen.name}: {len(trainer.train_set):,} training and {len(test):,} test images, T = "
        f"{chosen.model.timesteps}, {weights:,} parameters, {chosen.train.epochs} epochs on {trainer.device}"
    )
    for note in trainer.notes:
        console.print(f"note: {note}")
    try:
        with _progress("training") as show:
            for event in trainer.run():
                show(event.epoch * event.steps + event.step, event.epochs * event.steps)
                if event.metrics is not None:
                    row = event.metrics
                    console.print(
                        f"epoch {int(row['epoch']):3d}/{event.epochs}  loss {row['train_loss']:.4f}  "
                        f"training {100 * row['train_accuracy']:.2f} %  test {100 * row['test_accuracy']:.2f} %  "
                        f"{row['seconds']:.1f} s"
                    )
                    curves.plot(trainer.progress.history, out / "curves.png", chosen.name)
    except KeyboardInterrupt:
        if (out / "checkpoint.pt").exists():
            print(f"interrupted: go on with --resume --out {out}", file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from None
        raise
    console.print(
        f"test accuracy {100 * trainer.metrics['float_accuracy']:.2f} % on {len(test):,} images (float32); "
        f"wrote {out / 'model.pt'}"
    )


def _images(
    name: str | None, split: str, folder: Path | None, size: int | None, count: int
) -> tuple[ImageSet | None, str]:
    """Up to `count` images if the data set is at hand, or None and why."""
    if not name:
        return None, "the model names no data set"
    try:
        return _load_data(name, split, folder, download=False, size=size).subset(count), ""
    except DataError as error:
        if folder is not None:
            raise
        return None, str(error)


@app.command("fold-and-export")
@guarded
def fold_and_export(
    model: Annotated[Path, typer.Argument(help="model.pt made by `snn2chip train`.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Default: model.net beside the model.")] = None,
    chip: Annotated[str, typer.Option(help="loihi1 or loihi2.")] = "loihi2",
    weight_bits: Annotated[int | None, typer.Option(help="Fewer weight bits than the chip's 8.")] = None,
    scale: Annotated[Scale, typer.Option(help="How scales are chosen; auto compares the others.")] = Scale.AUTO,
    relays: Annotated[
        RelayKind, typer.Option(help="How spikes pass layers of a branching network; see docs/residual.md.")
    ] = RelayKind.AUTO,
    calibration: Annotated[int, typer.Option(min=0, help="Training images that choose the scales; 0 for none.")] = 64,
    data: DataDir = None,
    json_file: JsonOption = None,
) -> None:
    """Fold tdBN, quantize, lower and export: a file that stock lava-dl netx loads."""
    from dataclasses import asdict

    from snn2chip import chip as chips
    from snn2chip import pipeline, report
    from snn2chip.formats import model_file, netx

    profile = chips.load(chip).with_weight_bits(weight_bits)
    trained = model_file.load(model)
    output = output or model.with_suffix(".net")
    if output.resolve() == model.resolve():
        raise InputError(f"-o '{output}' is the model itself; name another file")
    console = _console()
    spec = trained.recipe.data
    images: ImageSet | None = None
    if calibration:
        images, why = _images(spec.name, "train", data, spec.image_size, calibration)
        if images is None:
            console.print(f"note: no calibration images, scales by largest weight: {why}")
    export = pipeline.export(trained, profile, calibration=images, strategy=scale.value, relays=relays.value)
    netx.save(output, export.chain)
    if json_file is not None:
        write_json(
            json_file,
            {
                "fold": asdict(export.fold_report),
                "quantize": asdict(export.quantize_report),
                "lower": asdict(export.lower_report),
                "made": export.chain.made,
            },
        )
    console.print(report.export_table(export))
    console.print(report.layout_table(export))
    for line in report.export_notes(export):
        console.print(line)
    console.print(f"wrote {output}")


@app.command()
@guarded
def simulate(
    net: Annotated[Path, typer.Argument(help="model.net made by `snn2chip fold-and-export`.")],
    data: Annotated[
        str | None, typer.Option(help="Data set as NAME[:split]; default: the model's own test set.")
    ] = None,
    input_file: Annotated[
        Path | None, typer.Option("--input", help=".npz with integers `input` (samples, T, C, H, W).")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first samples.")] = None,
    output: Annotated[Path | None, typer.Option(help="Write spikes and voltages of every layer, .npz.")] = None,
    data_dir: DataDir = None,
    batch: Annotated[int, typer.Option(min=1, help="Samples at a time.")] = 50,
    device: DeviceOption = Device.AUTO,
    json_file: JsonOption = None,
) -> None:
    """Run a network in the chip's integers, bit-accurately: accuracy, spikes, speed."""
    from snn2chip import report
    from snn2chip.formats import netx
    from snn2chip.simulate import run as runs
    from snn2chip.simulate import trace

    chain = netx.load(net)
    if data is not None and input_file is not None:
        raise InputError("--data and --input exclude each other; give one")
    where = _device(device)
    if input_file is not None:
        port = trace.load_input(input_file, chain)[:limit]
        images = None
    else:
        images = _test_images(chain.made, data, data_dir).subset(limit)
        port = None
    with _progress("simulating") as show:
        result = runs.simulate(
            chain, port=port, images=images, batch_size=batch, device=where, keep=output is not None, progress=show
        )
    if output is not None:
        trace.save(output, result.trace)
    if json_file is not None:
        write_json(json_file, result.as_json(chain))
    console = _console()
    console.print(report.simulation_table(chain, result))
    if output is not None:
        console.print(f"wrote {output}")


def _test_images(made: dict[str, Any], spec: str | None, folder: Path | None) -> ImageSet:
    from snn2chip.data import parse_spec

    if spec is None:
        if not made.get("dataset"):
            raise InputError("the file names no data set; give --data NAME[:split] or --input FILE.npz")
        name, split = str(made["dataset"]), "test"
    else:
        name, split = parse_spec(spec)
    return _load_data(name, split, folder, size=made.get("image_size"))


@app.command()
@guarded
def encode(
    net: Annotated[Path, typer.Argument(help="model.net made by `snn2chip fold-and-export`.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The .npz to write.")],
    data: Annotated[str | None, typer.Option(help="Data set as NAME[:split]; default: the model's test set.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many samples.")] = 10,
    data_dir: DataDir = None,
) -> None:
    """Write the integers that a network's input port gets, for `simulate --input` and `lava run`."""
    import numpy as np

    from snn2chip.encode import encoder_of
    from snn2chip.files import atomic_path
    from snn2chip.formats import netx

    chain = netx.load(net)
    images = _test_images(chain.made, data, data_dir).subset(limit)
    port = chain.port(encoder_of(chain)(images.images))
    with atomic_path(output) as part, part.open("wb") as file:
        np.savez_compressed(file, input=port.astype(np.int32), label=images.labels.numpy())
    _console().print(f"wrote {output}: input {port.shape}, values {port.min()}..{port.max()}")


@app.command()
@guarded
def verify(
    model: Annotated[Path, typer.Argument(help="model.pt made by `snn2chip train`.")],
    net: Annotated[Path, typer.Argument(help="model.net exported from it.")],
    samples: Annotated[int, typer.Option(min=1, help="Test images to compare on.")] = 20,
    lava: Annotated[bool, typer.Option("--lava/--no-lava", help="Run the file in Lava too.")] = True,
    fast_convolution: FastConvolution = False,
    data: DataDir = None,
    json_file: JsonOption = None,
) -> None:
    """Hold every stage against the last, spike for spike; exit 1 and the first difference if one differs."""
    import numpy as np

    from snn2chip import report
    from snn2chip import verify as ladder
    from snn2chip.formats import model_file, netx

    trained = model_file.load(model)
    chain = netx.load(net)
    console = _console()
    spec = trained.recipe.data
    images, why = _images(spec.name, "test", data, spec.image_size, samples)
    if images is None:
        console.print(f"note: comparing on random images: {why}")
        shape = (samples, *trained.network.input_shape)
        pixels = np.random.default_rng(0).integers(0, trained.max_value, shape, endpoint=True)
        labels = None
    else:
        pixels, labels = images.images.numpy(), images.labels.numpy()
    if lava:
        _ensure_lava(console)
    with _progress("verifying") as show:
        done = 0

        def say(_stage: str) -> None:
            nonlocal done
            show(done, 6)
            done += 1

        verdict = ladder.verify(
            trained,
            chain,
            pixels,
            labels=labels,
            net_path=net,
            with_lava=lava,
            fast_convolution=fast_convolution,
            say=say,
        )
    if json_file is not None:
        write_json(json_file, verdict.as_json())
    console.print(report.verdict_table(verdict))
    if not verdict.passed:
        raise CheckFailed("; ".join(report.failure(rung) for rung in verdict.rungs if not rung.passed))


def _ensure_lava(console: Console) -> None:
    from snn2chip import lava

    if lava.find() is None:
        console.print("Lava's environment is not there yet: making it once (about half a minute)")
        lava.setup()


@lava_app.command("setup")
@guarded
def lava_setup(
    full: Annotated[bool, typer.Option("--full", help="The reference environment, several GB.")] = False,
) -> None:
    """Make Lava's environment, once per user: pinned, light (no torch), about half a minute."""
    from snn2chip import lava

    environment = lava.setup(full)
    versions = ", ".join(f"{name} {version}" for name, version in environment.versions.items())
    _console().print(f"Lava is ready: {environment.python} ({versions})")


@lava_app.command("run")
@guarded
def lava_run(
    net: Annotated[Path, typer.Argument(help="A netx file.")],
    input_file: Annotated[Path, typer.Option("--input", help=".npz with integers `input`.")],
    output: Annotated[Path, typer.Option(help="Where spikes and voltages go, .npz.")],
    full: Annotated[bool, typer.Option("--full", help="Use the reference environment.")] = False,
    fast_convolution: FastConvolution = False,
) -> None:
    """Run a file in Lava through netx; the same input and output files as `simulate`."""
    from snn2chip import lava
    from snn2chip.formats import netx
    from snn2chip.simulate import trace

    trace.load_input(input_file, netx.load(net))  # says what does not fit before anything starts
    if not full:
        _ensure_lava(_console())
    lava.run(net, input_file, output, full=full, fast_convolution=fast_convolution)
    _console().print(f"wrote {output}")


@app.command()
@guarded
def report(
    folder: Annotated[Path, typer.Argument(help="Folder with model.pt, model.net and the JSON files beside them.")],
    samples: Annotated[int, typer.Option(min=1, help="Test images drawn in the pictures.")] = 4,
    data: DataDir = None,
) -> None:
    """Write report.html: curves, table of layers, verdict, rasters."""
    from snn2chip import report as reports
    from snn2chip.formats import model_file

    spec = model_file.load(folder / "model.pt").recipe.data
    images, why = _images(spec.name, "test", data, spec.image_size, samples)
    written = reports.write(folder, images, why)
    _console().print(f"wrote {written}")


@app.command()
@guarded
def publish(
    run: Annotated[Path, typer.Argument(help="A run's folder: model.pt, model.net and the JSON files.")],
    target: Annotated[Path, typer.Argument(help="The zoo's folder, models/NAME, with its recipe.toml.")],
    data_option: Annotated[
        str, typer.Option(help="What the card's commands say about the data, e.g. '--data DIR'.")
    ] = "",
) -> None:
    """Write a zoo folder's model.pt, metrics.json and card.md from a finished, verified run."""
    from snn2chip import zoo

    zoo.publish(run, target, data_option)
    _console().print(f"wrote {target / 'model.pt'}, metrics.json, card.md")


@app.command()
@guarded
def recipe(
    name: Annotated[str | None, typer.Argument(help="Print this recipe.")] = None,
    fields: Annotated[bool, typer.Option("--fields", help="Every field a recipe can have.")] = False,
) -> None:
    """List the shipped recipes, print one, or explain their fields."""
    from snn2chip import recipe as recipes
    from snn2chip import report as reports
    from snn2chip import resources

    console = _console()
    if fields:
        console.print(reports.fields_table(recipes.fields()))
    elif name is not None:
        print(resources.recipe_file(name).read_text(encoding="utf-8"), end="")
    else:
        for known in resources.recipe_names():
            console.print(f"{known:24} {recipes.load(known).description}")


@app.command()
@guarded
def doctor() -> None:
    """Versions, devices, Lava's interpreter, data sets found."""
    from snn2chip import doctor as examine

    console = _console()
    for line in examine.examine():
        console.print(line)


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
    """Entry point of the `snn2chip` command."""
    app(args=None if arguments is None else list(arguments), prog_name="snn2chip")


if __name__ == "__main__":
    try:
        main()
    except SystemExit as leaving:
        if leaving.code == INTERRUPTED:  # a signal that comes late must not change the exit code
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise
