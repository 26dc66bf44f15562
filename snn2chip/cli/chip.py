"""`chip`: any netx file in raw chip time; and the options that `export` and `lava run` share with it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from snn2chip.cli.common import Explain, JsonOption, app, console_of, guarded, progress_bar
from snn2chip.errors import InputError
from snn2chip.files import write_json
from snn2chip.parallel import one_process_only

if TYPE_CHECKING:
    from snn2chip.ir import IntArray
    from snn2chip.ir.netlist import Netlist

_SIDE = 2**15

ClockOption = Annotated[
    Literal["sample", "chip"],
    typer.Option(
        help="sample: each sample from rest, in its own time steps. chip: one stream of raw chip steps, latency and "
        "all, for any CUBA or LOIHI netx file, as the command `chip` runs it."
    ),
]
LayersOption = Annotated[int | None, typer.Option(min=1, help="Only so many entries of the file (chip clock).")]
MessageBits = Annotated[
    int | None, typer.Option(min=0, max=24, help="Bits of integers at the port; 0 for spikes (chip clock).")
]
ResetInterval = Annotated[int | None, typer.Option(min=1, help="Chip steps between resets; default none (chip clock).")]
ResetOffset = Annotated[int, typer.Option(min=0, help="As netx's reset_offset (chip clock).")]
InputShape = Annotated[
    str | None,
    typer.Option(help="C,H,W that come in, where a convolution is first and the file does not say (chip clock)."),
]


def input_sides(text: str | None) -> tuple[int, ...]:
    """What --input-shape says, C,H,W; empty without.

    Raises:
        InputError: not three sides of at least 1.
    """
    sides = () if text is None else tuple(int(side) if side.strip().isdecimal() else 0 for side in text.split(","))
    if text is not None and (len(sides) != 3 or not 1 <= min(sides) <= max(sides) <= _SIDE):
        raise InputError(f"--input-shape '{text}': expected channels, height and width of 1..{_SIDE}, as 2,34,34")
    return sides


@dataclass(frozen=True)
class ChipOptions:
    """The options that only the chip clock has."""

    layers: int | None
    message_bits: int | None
    reset_interval: int | None
    reset_offset: int
    input_shape: str | None = None

    def load(self, net: Path) -> Netlist:
        """The file as these options have it."""
        from snn2chip.formats.netx import read

        return read.load(net, self.layers, self.message_bits, input_sides(self.input_shape))

    def given(self, net: Path, input_file: Path) -> tuple[Netlist, IntArray]:
        """The file, and its stream of input."""
        from snn2chip.simulate import chip_time, trace

        network = self.load(net)
        return network, chip_time.check_input(trace.input_array(input_file), network, str(input_file))

    def asked(self, clock: str, **more: object) -> bool:
        """Whether the chip clock is asked for; `more` are options of one command alone.

        Raises:
            InputError: it is not, but one of its options, which is named.
        """
        for name, value in (more | asdict(self)).items():
            if clock != "chip" and value not in (None, 0):
                raise InputError(f"--{name.replace('_', '-')} belongs to --clock chip; add it")
        return clock == "chip"


@app.command(epilog="Example: snn2chip chip any.net --input input.npz")
@guarded
def chip(
    net: Annotated[Path, typer.Argument(help="Any netx file of CUBA or LOIHI neurons, ours or not.")],
    input_file: Annotated[Path, typer.Option("--input", help=".npz with one stream `input` (T, C, H, W).")],
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first steps.")] = None,
    output: Annotated[
        Path | None, typer.Option(help="Write spikes, voltages and currents of every layer, .npz.")
    ] = None,
    json_file: JsonOption = None,
    layers: LayersOption = None,
    message_bits: MessageBits = None,
    reset_interval: ResetInterval = None,
    reset_offset: ResetOffset = 0,
    input_shape: InputShape = None,
    explain: Explain = False,
) -> None:
    """Run any netx file in raw chip time, bit-accurately: one stream of chip steps, latency and all."""
    one_process_only("chip")
    from snn2chip.report import tables
    from snn2chip.simulate import chip_time
    from snn2chip.simulate.activity import remarks

    options = ChipOptions(layers, message_bits, reset_interval, reset_offset, input_shape)
    network, stream = options.given(net, input_file)
    stream = stream[:limit]
    console = console_of()
    for note in network.notes:
        console.print(f"note: {note}", soft_wrap=True)
    engine = chip_time.ChipEngine(network, reset_interval=reset_interval, reset_offset=reset_offset)
    with progress_bar("simulating") as done:
        counts, parts = engine.run_stream(stream, keep=output is not None, progress=done)
    largest = {runner.layer.name: runner.largest for runner in engine.runners}
    if output is not None:
        chip_time.save(output, parts)
    if json_file is not None:
        figures = {"steps": len(stream), "spikes": counts, "largest_input": largest, "notes": network.notes}
        write_json(json_file, figures)
    console.print(tables.chip_time_table(network, len(stream), counts, largest))
    sizes = {layer.name: len(stream) * math.prod(layer.shape) for layer in network.layers}
    for note in remarks({number: (counts[number], size) for number, size in sizes.items()}, "this stream"):
        console.print(f"note: {note}")
    if output is not None:
        console.print(f"wrote {output}")
