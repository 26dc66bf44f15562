"""Commands that run a network and hold stages against each other: simulate, encode, verify, lava."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from snn2chip.cli import chip
from snn2chip.cli import stream as recordings
from snn2chip.cli.chip import (
    ChipOptions,
    Clock,
    ClockOption,
    InputShape,
    LayersOption,
    MessageBits,
    ResetInterval,
    ResetOffset,
)
from snn2chip.cli.common import (
    DataDir,
    Device,
    DeviceOption,
    FastConvolution,
    JsonOption,
    app,
    console_of,
    device_of,
    ensure_lava,
    guarded,
    lava_app,
    progress_bar,
    some_images,
    test_images,
)
from snn2chip.cli.stream import EveryOption, PlotOption, RecordingOption, StreamOption, WindowOption
from snn2chip.errors import CheckFailed, InputError
from snn2chip.files import write_json
from snn2chip.parallel import is_leader, leader_first, local, one_process_only, together


class EngineName(StrEnum):
    """The simulator's engines, see `snn2chip.simulate.engines`."""

    AUTO = "auto"
    DENSE = "dense"
    EVENTS = "events"


@app.command()
@guarded
@together
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
    clock: ClockOption = Clock.SAMPLE,
    layers: LayersOption = None,
    message_bits: MessageBits = None,
    reset_interval: ResetInterval = None,
    reset_offset: ResetOffset = 0,
    input_shape: InputShape = None,
    engine: Annotated[
        EngineName,
        typer.Option(help="dense: products; events: only spikes, on the CPU; auto: the faster. Equal results."),
    ] = EngineName.AUTO,
    recording: RecordingOption = None,
    stream: StreamOption = False,
    window: WindowOption = None,
    every: EveryOption = None,
    plot: PlotOption = None,
) -> None:
    """Run a network in the chip's integers, bit-accurately: accuracy, spikes, speed.

    `torchrun --nproc-per-node 2 -m snn2chip simulate NET` shares the samples among processes, with equal results.
    """
    options = ChipOptions(layers, message_bits, reset_interval, reset_offset, input_shape)
    in_chip_time = options.asked(clock)
    recordings.only_recording(
        recording,
        stream,
        window,
        every,
        plot=plot,
        data=data,
        input=input_file,
        limit=limit,
        clock_chip=clock is Clock.CHIP,
        output=output,
        engine=engine is EngineName.EVENTS,
        device=device is Device.CUDA,
    )
    if recording is not None:
        one_process_only("simulate --recording")
        recordings.simulate(
            net,
            recording,
            stream=stream,
            window=window,
            every=every,
            plot=plot,
            output=output,
            json_file=json_file,
            engine=engine.value,
            device=device_of(device),
        )
        return
    if in_chip_time:
        one_process_only("simulate --clock chip")
        if data is not None:
            raise InputError("--clock chip takes one stream of input with --input, not --data")
        chip.simulate(
            net,
            input_file,
            output,
            json_file,
            options,
            limit=limit,
        )
        return
    from snn2chip.formats import netx
    from snn2chip.report import tables
    from snn2chip.simulate import run as runs
    from snn2chip.simulate import trace

    chain = netx.load(net)
    if data is not None and input_file is not None:
        raise InputError("--data and --input exclude each other; give one")
    where = local(device_of(device))
    if input_file is not None:
        port = trace.load_input(input_file, chain)[:limit]
        images = None
    else:
        with leader_first():  # which may have to download them
            images = test_images(chain.made, data, data_dir).subset(limit)
        port = None
    with progress_bar("simulating") as show:
        result = runs.simulate(
            chain,
            port=port,
            images=images,
            batch_size=batch,
            device=where,
            keep=output is not None,
            progress=show,
            engine_kind=engine.value,
        )
    if output is not None and is_leader():
        trace.save(output, result.trace)
    if json_file is not None and is_leader():
        write_json(json_file, result.as_json(chain))
    console = console_of()
    if result.note is not None:
        console.print(f"note: {result.note}")
    console.print(tables.simulation_table(chain, result))
    for note in tables.activity_notes(chain, result):
        console.print(f"note: {note}")
    if output is not None:
        console.print(f"wrote {output}")


@app.command()
@guarded
def encode(
    net: Annotated[Path, typer.Argument(help="model.net made by `snn2chip fold-and-export`.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The .npz to write.")],
    data: Annotated[str | None, typer.Option(help="Data set as NAME[:split]; default: the model's test set.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many samples.")] = 10,
    data_dir: DataDir = None,
    recording: RecordingOption = None,
) -> None:
    """Write the integers that a network's input port gets, for `simulate --input` and `lava run`."""
    import numpy as np

    from snn2chip.files import atomic_path
    from snn2chip.formats import netx
    from snn2chip.ir.encode import encoder_of

    chain = netx.load(net)
    if recording is not None:
        recordings.only_recording(recording, False, None, None, data=data)
        recordings.encode(chain, recording, output)
        return
    images = test_images(chain.made, data, data_dir).subset(limit)
    port = chain.port(encoder_of(chain)(images.images))
    with atomic_path(output) as part, part.open("wb") as file:
        np.savez_compressed(file, input=port.astype(np.int32), label=images.labels.numpy())
    console_of().print(f"wrote {output}: input {port.shape}, values {port.min()}..{port.max()}")


@app.command()
@guarded
def verify(
    model: Annotated[Path, typer.Argument(help="model.pt made by `snn2chip train`.")],
    net: Annotated[Path, typer.Argument(help="model.net exported from it.")],
    samples: Annotated[int, typer.Option(min=1, help="Test images to compare on.")] = 20,
    lava: Annotated[bool, typer.Option("--lava/--no-lava", help="Run the file in Lava too.")] = True,
    onnx: Annotated[bool, typer.Option("--onnx", help="Run the file's ONNX in ONNX Runtime too.")] = False,
    fast_convolution: FastConvolution = False,
    data: DataDir = None,
    json_file: JsonOption = None,
) -> None:
    """Hold every stage against the last, spike for spike; exit 1 and the first difference if one differs."""
    import numpy as np

    from snn2chip.formats import netx
    from snn2chip.nn import model_file
    from snn2chip.report import tables
    from snn2chip.verify import ladder

    trained = model_file.load(model)
    chain = netx.load(net)
    console = console_of()
    spec = trained.recipe.data
    images, why = some_images(spec.name, "test", data, spec.image_size, samples, trained.recipe.binning)
    if images is None:
        console.print(f"note: comparing on random images: {why}")
        steps = () if trained.recipe.binning is None else (trained.network.timesteps,)
        shape = (samples, *steps, *trained.network.input_shape)
        pixels = np.random.default_rng(0).integers(0, trained.max_value, shape, endpoint=True)
        labels = None
    else:
        pixels, labels = images.images.numpy(), images.labels.numpy()
    if lava:
        ensure_lava(console)
    with progress_bar("verifying") as show:
        done = 0

        def say(_stage: str) -> None:
            nonlocal done
            show(done, len(ladder.RUNGS))
            done += 1

        verdict = ladder.verify(
            trained,
            chain,
            pixels,
            labels=labels,
            net_path=net,
            with_lava=lava,
            with_onnx=onnx,
            fast_convolution=fast_convolution,
            say=say,
        )
    if json_file is not None:
        write_json(json_file, verdict.as_json())
    console.print(tables.verdict_table(verdict))
    if (spikes := tables.spikes_table(verdict)) is not None:
        console.print(spikes)
    for note in verdict.notes:
        console.print(f"note: {note}")
    if not verdict.passed:
        raise CheckFailed("; ".join(tables.failure(rung) for rung in verdict.rungs if not rung.passed))


@lava_app.command("setup")
@guarded
def lava_setup(
    full: Annotated[bool, typer.Option("--full", help="The reference environment, several GB.")] = False,
) -> None:
    """Make Lava's environment, once per user: pinned, light (no torch), about half a minute."""
    from snn2chip import lava

    environment = lava.setup(full)
    versions = ", ".join(f"{name} {version}" for name, version in environment.versions.items())
    console_of().print(f"Lava is ready: {environment.python} ({versions})")


@lava_app.command("run")
@guarded
def lava_run(
    net: Annotated[Path, typer.Argument(help="A netx file.")],
    input_file: Annotated[Path, typer.Option("--input", help=".npz with integers `input`.")],
    output: Annotated[Path, typer.Option(help="Where spikes and voltages go, .npz.")],
    full: Annotated[bool, typer.Option("--full", help="Use the reference environment.")] = False,
    fast_convolution: FastConvolution = False,
    clock: ClockOption = Clock.SAMPLE,
    layers: LayersOption = None,
    message_bits: MessageBits = None,
    reset_interval: ResetInterval = None,
    reset_offset: ResetOffset = 0,
    input_shape: InputShape = None,
) -> None:
    """Run a file in Lava through netx; the same input and output files as `simulate`."""
    options = ChipOptions(layers, message_bits, reset_interval, reset_offset, input_shape)
    in_chip_time = options.asked(clock)
    if in_chip_time:
        chip.lava_run(
            net,
            input_file,
            output,
            options,
            full=full,
            fast_convolution=fast_convolution,
        )
        return
    from snn2chip import lava
    from snn2chip.formats import netx
    from snn2chip.simulate import trace

    trace.load_input(input_file, netx.load(net))  # says what does not fit before anything starts
    if not full:
        ensure_lava(console_of())
    lava.run(net, input_file, output, full=full, fast_convolution=fast_convolution)
    console_of().print(f"wrote {output}")
