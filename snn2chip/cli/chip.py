"""`--clock chip` of simulate and lava run: any netx file in raw chip time."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from snn2chip.cli.common import console_of, ensure_lava, progress_bar
from snn2chip.errors import InputError
from snn2chip.files import write_json

if TYPE_CHECKING:
    import numpy as np

    from snn2chip.ir.netlist import Netlist

_CHUNK = 64  # chip steps at a time
_SIDE = 2**15


class Clock(StrEnum):
    """How a network's steps are counted."""

    SAMPLE = "sample"
    CHIP = "chip"


ClockOption = Annotated[
    Clock,
    typer.Option(
        help="sample: each sample from rest, in its own time steps. chip: one stream of raw chip steps, latency and "
        "all, for any CUBA or LOIHI netx file."
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

    def asked(self, clock: Clock, **more: object) -> bool:
        """Whether the chip clock is asked for; `more` are options of one command alone.

        Raises:
            InputError: it is not, but one of its options, which is named.
        """
        for name, value in (more | asdict(self)).items():
            if clock is not Clock.CHIP and value not in (None, 0):
                raise InputError(f"--{name.replace('_', '-')} belongs to --clock chip; add it")
        return clock is Clock.CHIP


def _given(net: Path, input_file: Path | None, options: ChipOptions) -> tuple[Netlist, np.ndarray]:
    from snn2chip.simulate import chip_time, trace

    network = options.load(net)
    if input_file is None:
        raise InputError("--clock chip takes one stream of input: give it with --input FILE.npz, array 'input'")
    return network, chip_time.check_input(trace.input_array(input_file), network, str(input_file))


def simulate(
    net: Path,
    input_file: Path | None,
    output: Path | None,
    json_file: Path | None,
    options: ChipOptions,
    limit: int | None,
) -> None:
    """Simulate a stream and say what every layer did."""
    from snn2chip.report import show
    from snn2chip.simulate import chip_time
    from snn2chip.simulate.activity import remarks

    network, stream = _given(net, input_file, options)
    stream = stream[:limit]
    console = console_of()
    for note in network.notes:
        console.print(f"note: {note}", soft_wrap=True)
    engine = chip_time.ChipEngine(network, reset_interval=options.reset_interval, reset_offset=options.reset_offset)
    parts = []
    counts = {layer.number: 0 for layer in network.layers}
    with progress_bar("simulating") as done:
        for start in range(0, len(stream), _CHUNK):
            part = engine.run(stream[start : start + _CHUNK])
            for number, spikes in part.spikes.items():
                counts[number] += int(spikes.sum())
            if output is not None:
                parts.append(part)
            done(min(start + _CHUNK, len(stream)), len(stream))
    if output is not None:
        chip_time.save(output, parts)
    if json_file is not None:
        figures = {"steps": len(stream), "spikes": counts, "largest_input": part.largest, "notes": network.notes}
        write_json(json_file, figures)
    console.print(show.chip_time_table(network, len(stream), counts, part.largest))
    sizes = {layer.number: len(stream) * math.prod(layer.shape) for layer in network.layers}
    for note in remarks({number: (counts[number], size) for number, size in sizes.items()}, "this stream"):
        console.print(f"note: {note}")
    if output is not None:
        console.print(f"wrote {output}")


def lava_run(
    net: Path,
    input_file: Path,
    output: Path,
    options: ChipOptions,
    *,
    full: bool,
    fast_convolution: bool,
) -> None:
    """Run the same stream in Lava through netx."""
    import tempfile

    import numpy as np

    from snn2chip import lava

    network, stream = _given(net, input_file, options)
    if network.refused:
        raise InputError("; ".join(network.refused))
    if not full:
        ensure_lava(console_of())
    with tempfile.TemporaryDirectory(prefix="snn2chip-") as folder:
        checked = Path(folder, "input.npz")
        np.savez(checked, input=stream.astype(np.int32))
        lava.run_chip_clock(
            net,
            checked,
            output,
            layers=options.layers,
            message_bits=24 if network.layers[0].graded else 0,
            reset_interval=options.reset_interval,
            reset_offset=options.reset_offset,
            input_shape=input_sides(options.input_shape),
            full=full,
            fast_convolution=fast_convolution,
        )
    console_of().print(f"wrote {output}")
