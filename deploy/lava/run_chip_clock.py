"""Run any CUBA or LOIHI netx network in Lava in raw chip time, one stream of steps, and record every neuron.

    python run_chip_clock.py NET INPUT.npz OUTPUT.npz [--layers N] [--message-bits B]
                             [--reset-interval R --reset-offset O] [--input-shape C H W] [--progress]
                             [--fast-convolution]

NET is lava-dl netx HDF5 from anywhere: input layers with neurons, delays and recurrent layers included; `--layers`,
`--reset-interval` and `--reset-offset` are netx's own num_layers, reset_interval and reset_offset; `--input-shape` is
its input_shape, which it has as W, H, C. INPUT holds
`input`, integers (T, C, H, W) or (T, features), or the same with a first axis of one: what the port gets at chip step
t + 1, or, where the input layer has neurons, the mantissas of their bias in that step. OUTPUT receives, for every layer
with neurons, by its number under `layer/`, spikes (uint8), voltage and current (int32), (1, T, *shape), as each chip
step leaves them: latency is not removed.

Exit status as run_network.py.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parents[1] / "common"))

from failures import RefusedError, leave

# isort: split
import numpy as np
from fast_convolution import install as install_fast_convolution
from files import read_any_layers, read_arrays
from recording import BIASES
from running import feed, load, record


@dataclass(frozen=True)
class Options:
    """What netx takes beside the file, and how to run."""

    layers: int | None
    message_bits: int
    reset_interval: int | None
    reset_offset: int
    input_shape: list[int] | None
    progress: bool
    fast_convolution: bool


def run(net_path: Path, input_path: Path, output: Path, options: Options) -> None:
    """Run the stream through the network and write the output file, whole or not at all.

    Raises:
        RefusedError: a file that cannot be used.
        SimulatorError: Lava could not load or run the network.
    """
    layers, driven_by_bias = read_any_layers(net_path, options.layers)
    data = read_arrays(input_path)
    net, _ = load(
        net_path,
        output,
        [install_fast_convolution] if options.fast_convolution else [],
        num_layers=options.layers,
        input_message_bits=options.message_bits,
        input_shape=tuple(options.input_shape[::-1]) if options.input_shape else None,
        reset_interval=options.reset_interval,
        reset_offset=options.reset_offset,
    )
    stream = _stream(data, net.in_layer.neuron.v.shape if driven_by_bias else net.inp.shape, input_path)
    names: dict[int, str] = {}
    if driven_by_bias:
        BIASES[net.layers[0].neuron.id] = stream
    else:
        low, high = stream.min(), stream.max()
        if options.message_bits == 0 and not (low >= 0 and high <= 1):
            raise RefusedError(f"'{input_path}': input goes from {low} to {high}; without message bits 0 and 1")
        names = feed(net, np.ascontiguousarray(np.moveaxis(stream, 0, -1)))
    record(net, layers, output, names, steps=len(stream), progress=options.progress)


def _stream(data: np.ndarray, ports: tuple[int, ...], path: Path) -> np.ndarray:
    """The input as Lava takes it, (T, W, H, C) or (T, features), int32."""
    ports = tuple(map(int, ports))
    if data.ndim in (3, 5) and len(data) == 1:
        data = data[0]
    if len(ports) == 1:
        data = data.reshape(len(data), -1)  # netx flattens as torch does
    if data.shape[1:] != ports[::-1]:
        raise RefusedError(f"'{path}': input of shape {data.shape} a stream; the network takes (T, {ports[::-1]})")
    return np.ascontiguousarray(data.astype(np.int32).transpose(0, *range(data.ndim - 1, 0, -1)))


def main() -> None:
    """Parse the command line, run, and turn every failure into one line on stderr."""
    parser = argparse.ArgumentParser(description="Run a netx network in Lava in raw chip time.")
    parser.add_argument("net", type=Path, help="lava-dl netx HDF5")
    parser.add_argument("input", type=Path, help="npz with `input`")
    parser.add_argument("output", type=Path, help="npz to write")
    parser.add_argument("--layers", type=int, help="only so many entries of the file")
    parser.add_argument("--message-bits", type=int, default=0, help="bits of the integers at the port; 0 for spikes")
    parser.add_argument("--reset-interval", type=int, help="steps from one reset to the next; default: none")
    parser.add_argument("--reset-offset", type=int, default=0)
    parser.add_argument("--input-shape", type=int, nargs=3, help="C H W of a convolution without an input layer")
    parser.add_argument("--progress", action="store_true", help="print lines `step k/n`")
    parser.add_argument("--fast-convolution", action="store_true", help="exact matrix products, not Lava's own loop")
    given = vars(parser.parse_args())
    files = [given.pop(name) for name in ("net", "input", "output")]
    leave(lambda: run(*files, Options(**given)))


if __name__ == "__main__":
    main()
