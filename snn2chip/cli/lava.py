"""`lava setup` and `lava run`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from snn2chip.cli.chip import (
    ChipOptions,
    ClockOption,
    InputShape,
    LayersOption,
    MessageBits,
    ResetInterval,
    ResetOffset,
    input_sides,
)
from snn2chip.cli.common import FastConvolution, console_of, ensure, guarded, lava_app
from snn2chip.errors import InputError


@lava_app.command("setup", epilog="Example: snn2chip lava setup")
@guarded
def lava_setup(
    full: Annotated[bool, typer.Option("--full", help="The reference environment, several GB.")] = False,
) -> None:
    """Make Lava's environment, once per user: pinned, light (no torch), about half a minute."""
    from snn2chip.backends import lava

    environment = lava.setup(full)
    versions = ", ".join(f"{name} {version}" for name, version in environment.versions.items())
    console_of().print(f"Lava is ready: {environment.python} ({versions})")


@lava_app.command("run", epilog="Example: snn2chip lava run model.net --input input.npz --output trace.npz")
@guarded
def lava_run(
    net: Annotated[Path, typer.Argument(help="A netx file.")],
    input_file: Annotated[Path, typer.Option("--input", help=".npz with integers `input`.")],
    output: Annotated[Path, typer.Option(help="Where spikes and voltages go, .npz.")],
    full: Annotated[bool, typer.Option("--full", help="Use the reference environment.")] = False,
    fast_convolution: FastConvolution = False,
    clock: ClockOption = "sample",
    layers: LayersOption = None,
    message_bits: MessageBits = None,
    reset_interval: ResetInterval = None,
    reset_offset: ResetOffset = 0,
    input_shape: InputShape = None,
) -> None:
    """Run a file in Lava through netx; the same input and output files as `simulate`, or with --clock chip `chip`."""
    import tempfile

    import numpy as np

    from snn2chip.backends import lava
    from snn2chip.formats import netx
    from snn2chip.simulate import trace

    options = ChipOptions(layers, message_bits, reset_interval, reset_offset, input_shape)
    # what does not fit is said before anything starts
    if options.asked(clock):
        network, stream = options.given(net, input_file)
        if network.refused:
            raise InputError("; ".join(network.refused))
    else:
        trace.load_input(input_file, netx.load(net))
    if not full:
        ensure(lava.LIGHT, console_of())
    if clock == "sample":
        lava.run(net, input_file, output, full=full, fast_convolution=fast_convolution)
    else:
        with tempfile.TemporaryDirectory(prefix="snn2chip-") as folder:
            checked = Path(folder, "input.npz")
            np.savez(checked, input=stream.astype(np.int32))
            lava.run_chip_clock(
                net,
                checked,
                output,
                layers=layers,
                message_bits=24 if network.layers[0].graded else 0,
                reset_interval=reset_interval,
                reset_offset=reset_offset,
                input_shape=input_sides(input_shape),
                full=full,
                fast_convolution=fast_convolution,
            )
    console_of().print(f"wrote {output}")
