"""`export`: a network in other formats than the chip's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from snn2chip.cli.chip import (
    ChipOptions,
    ClockOption,
    InputShape,
    LayersOption,
    MessageBits,
    ResetInterval,
    ResetOffset,
)
from snn2chip.cli.common import apart, app, console_of, guarded
from snn2chip.cli.source import is_net, read
from snn2chip.errors import InputError
from snn2chip.files import is_hdf5

if TYPE_CHECKING:
    from snn2chip.ir import Chain, Network


def _read(path: Path) -> Chain | Network:
    """A model.net as its chain, any other network file as its folded network."""
    if is_net(path):
        from snn2chip.formats import netx

        return netx.load(path)
    return _folded(path)


def _folded(path: Path) -> Network:
    from snn2chip.passes.fold import folded

    return folded(read(path).source.network)


def write_nir(model: Path, output: Path | None = None) -> Path:
    """A network file's network, folded, as a NIR file, by default model.nir beside it; its path."""
    from snn2chip.formats import nir

    nir.package()  # before the work
    output = _beside(model, output, ".nir")
    if model.is_file() and is_net(model):
        raise InputError(f"'{model}' is model.net, for whose integers NIR has no format; give what it was made from")
    nir.save(output, _folded(model))
    return output


def _write_safetensors(model: Path, output: Path) -> None:
    """What a model file holds, as model.safetensors; of a NIR graph its network."""
    from snn2chip.nn import model_file

    if is_hdf5(model):
        source = read(model).source
        model_file.save_graph(output, model_file.Graph(source.network, source.name, None, {}))
        return
    found = model_file.load_any(model)
    if isinstance(found, model_file.Graph):
        model_file.save_graph(output, found)
    else:
        model_file.save(
            output,
            found.network,
            found.recipe,
            max_value=found.max_value,
            classes=found.classes,
            metrics=found.metrics,
        )


@app.command(epilog="Example: snn2chip export runs/mine/model.net --format onnx")
@guarded
def export(
    net: Annotated[
        Path, typer.Argument(help="model.net for the chip's integers, or what it was made from: model.pt, a NIR graph.")
    ],
    form: Annotated[Literal["onnx", "nir", "safetensors"], typer.Option("--format", help="What to write.")] = "onnx",
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Default: beside NET, by the format; -float.onnx of what is no model.net."),
    ] = None,
    trace: Annotated[bool, typer.Option("--trace", help="Spikes and voltages of every layer as outputs too.")] = False,
    clock: ClockOption = "sample",
    timesteps: Annotated[int | None, typer.Option(min=1, help="Chip steps that the file runs (chip clock).")] = None,
    layers: LayersOption = None,
    message_bits: MessageBits = None,
    reset_interval: ResetInterval = None,
    reset_offset: ResetOffset = 0,
    input_shape: InputShape = None,
) -> None:
    """Write a network as ONNX of standard operators: model.net spike for spike, or model.pt folded, in float32.

    With --clock chip any CUBA or LOIHI netx file, spike for spike in raw chip time. Or a model.pt as NIR, folded, in
    float64; or as safetensors, which the commands take in its place.
    """
    options = ChipOptions(layers, message_bits, reset_interval, reset_offset, input_shape)
    if options.asked(clock, timesteps=timesteps):
        if form != "onnx":
            raise InputError("--clock chip is for --format onnx; leave it out")
        if timesteps is None:
            raise InputError("--clock chip runs as many steps as the ONNX file has; give them with --timesteps T")
        if reset_offset and reset_interval is None:
            raise InputError("--reset-offset without --reset-interval resets nothing; give both or none")
        _chip_clock(net, _beside(net, output, ".onnx"), timesteps, options, trace)
        return
    if form == "safetensors":
        if trace or is_net(net):
            raise InputError("safetensors hold the trained network; give model.pt or a NIR graph, without --trace")
        output = _beside(net, output, ".safetensors")
        if output.suffix != ".safetensors":
            raise InputError(f"-o '{output}': the name of a safetensors file ends in .safetensors")
        _write_safetensors(net, output)
        console_of().print(f"wrote {output}")
        return
    if form == "nir":
        if trace:
            raise InputError("--trace is for ONNX: in a NIR graph every neuron can be read anyway; leave it out")
        written = write_nir(net, output)
        console_of().print("the folded network in float64, as NIR; see docs/nir.md for its time step and input")
        console_of().print(f"wrote {written}")
        return
    from snn2chip.formats import onnx
    from snn2chip.ir import Chain

    source = _read(net)
    exact = isinstance(source, Chain)
    output = _beside(net, output, ".onnx" if exact else "-float.onnx")
    onnx.save(output, source, trace=trace)
    what = "the chip's integers, exactly" if exact else "the folded network in float32"
    way = "written out" if source.timesteps <= onnx.UNROLL_MOST else "as a loop"
    console_of().print(f"{what}; {source.timesteps} time steps {way}")
    console_of().print(f"wrote {output}")


def _beside(net: Path, output: Path | None, ending: str) -> Path:
    """Where to write: `output`, or beside the network."""
    output = output or net.with_name(f"{net.stem}{ending}")
    apart(net=net, output=output)
    return output


def _chip_clock(
    net: Path,
    output: Path,
    timesteps: int,
    options: ChipOptions,
    trace: bool,
) -> None:
    """Any netx file in raw chip time."""
    from snn2chip.formats import onnx
    from snn2chip.formats.onnx import write_chip_time

    network = options.load(net)
    interval, offset = options.reset_interval, options.reset_offset
    reset = None if interval is None else write_chip_time.Reset(interval, offset)
    write_chip_time.save(output, network, timesteps, reset=reset, trace=trace)
    console = console_of()
    for note in network.notes:
        console.print(f"note: {note}", soft_wrap=True)
    way = "written out" if timesteps <= onnx.UNROLL_MOST else "as a loop"
    console.print(f"the chip's integers, exactly, in raw chip time; {timesteps} chip steps {way}")
    console.print(f"wrote {output}")
