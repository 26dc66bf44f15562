"""Run networks in Lava, which lives in an environment of its own.

Lava 0.10 needs numpy below 2 and declares Python 3.10 and torch 2.3: it cannot share an environment with this
package. `run` starts the program deploy/lava/run_network.py in its environment with a netx file and an .npz in and an
.npz out.

Two kinds: *light* (Python 3.10 to 3.12, no torch, about 470 MB, 20 seconds) is what everything uses; *full* (Python
3.10 and lava-dl's own requirements, about 6 GB) is the reference it is compared with.

Environment variables: SNN2CHIP_LAVA_PYTHON names the interpreter to use (as it is if it imports Lava, else to
build the environment from), SNN2CHIP_CACHE the folder that holds environments.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from snn2chip import npz
from snn2chip.backends import environment as environments
from snn2chip.backends.environment import Environment as Environment
from snn2chip.backends.environment import RegistryError as RegistryError
from snn2chip.backends.interpreters import NoPythonError as NoPythonError
from snn2chip.backends.kinds import Kind
from snn2chip.backends.programs import need, run_program
from snn2chip.console import console_of, progress_bar
from snn2chip.errors import InputError
from snn2chip.files import atomic_path
from snn2chip.text import one_line

_BINARY = ("--only-binary", ":all:")
LIGHT = Kind(
    title="Lava",
    folder="lava",
    name="light",
    pythons=("3.10", "3.11", "3.12"),
    download="3.11",
    locks=(
        ("requirements-light.txt", _BINARY),
        ("requirements-light-nodeps.txt", (*_BINARY, "--no-deps", "--ignore-requires-python")),
    ),
    program="run_network.py",
    by_hand="lava-nc and lava-dl",
)
FULL = replace(
    LIGHT,
    name="full",
    pythons=("3.10",),
    download="3.10",
    locks=(("requirements-full.txt", ()),),
    complete=True,
    note=" (several GB)",
)
KINDS = {False: LIGHT, True: FULL}


def setup(full: bool = False, progress: bool = True) -> Environment:
    """Make Lava's environment unless it is there, and return it; see `backends.environment.setup`."""
    return environments.setup(KINDS[full], progress)


def run(
    net: Path,
    input: Path,
    output: Path,
    *,
    full: bool = False,
    timeout: float | None = None,
    progress: bool = True,
    fast_convolution: bool = False,
) -> None:
    """Run the netx file `net` in Lava on every sample of `input` and write what every neuron did to `output`.

    `input` is an .npz with `input`, integers of shape (samples, T, C, H, W) or (samples, T, features).
    `output` becomes an .npz with, for each layer with neurons, by its number under `layer/` in the file,
    spikes/<layer> (uint8), voltage/<layer> and current/<layer> (int32), of shape (samples, T, C, H, W) or
    (samples, T, features), in the layer's own time: latency is removed, and every sample starts from rest.
    Voltage and current are what the step leaves behind. `timeout` is in seconds, None for no limit.
    `fast_convolution` puts exact matrix products in the place of Lava's own convolution, a Python loop over pairs of
    channels; everything else stays Lava's.

    Raises:
        InputError: a file that cannot be used, Lava could not load or run it, or the time ran out.
        SetupError: the environment is not set up.
    """
    _run("run_network.py", net, input, output, [], full, timeout, progress, fast_convolution)


def run_chip_clock(
    net: Path,
    input: Path,
    output: Path,
    *,
    layers: int | None = None,
    message_bits: int = 0,
    reset_interval: int | None = None,
    reset_offset: int = 0,
    input_shape: tuple[int, ...] = (),
    full: bool = False,
    timeout: float | None = None,
    progress: bool = True,
    fast_convolution: bool = False,
) -> None:
    """Run any netx file in Lava in raw chip time: one stream, no latency removed, no reset unless asked for.

    `input` is an .npz with `input`, integers (T, *shape) or (1, T, *shape): what the port gets, or the bias mantissas
    of an input layer with neurons. `output` becomes an .npz as that of `run`, of shape (1, T, *shape). `layers`,
    `reset_interval` and `reset_offset` are netx's num_layers, reset_interval and reset_offset; `message_bits` those of
    the integers at the port, 0 for spikes; `input_shape` (C, H, W) where a convolution comes first.

    Raises:
        InputError: a file that cannot be used, Lava could not load or run it, or the time ran out.
        SetupError: the environment is not set up.
    """
    flags = ["--message-bits", str(message_bits), "--reset-offset", str(reset_offset)]
    flags += ["--layers", str(layers)] if layers is not None else []
    flags += ["--reset-interval", str(reset_interval)] if reset_interval is not None else []
    flags += ["--input-shape", *map(str, input_shape)] if input_shape else []
    _run("run_chip_clock.py", net, input, output, flags, full, timeout, progress, fast_convolution)


def _run(
    program: str,
    net: Path,
    input: Path,
    output: Path,
    flags: list[str],
    full: bool,
    timeout: float | None,
    progress: bool,
    fast_convolution: bool,
) -> None:
    """Run one of the programs from file to file with a progress bar."""
    net, input, output = Path(net), Path(input), Path(output)
    if not net.is_file():
        raise InputError(f"'{net}': no such file; give a netx network")
    _check_input(input)
    environment = need(KINDS[full])
    with progress_bar("Lava, steps", quiet=not progress) as show, atomic_path(output) as part:

        def follow(line: str) -> None:
            step = re.fullmatch(r"step (\d+)/(\d+)", line)
            if step:
                show(int(step[1]), int(step[2]))

        # The runner always reports: a closed pipe is how it learns that this process is gone.
        flags = [*flags, "--progress", *(["--fast-convolution"] if fast_convolution else [])]
        files = [str(path.absolute()) for path in (net, input, part)]
        try:
            said = run_program(environment, program, [*files, *flags], timeout, follow)
        except InputError as error:
            raise type(error)(str(error).replace(files[2], str(output))) from None
    for line in said.splitlines():
        if line.startswith("note: "):
            console_of(stderr=True, quiet=not progress).print(line)


def _check_input(path: Path) -> None:
    """See that the .npz holds integers of the right number of axes, reading only the head of the array.

    Raises:
        InputError: it does not.
    """
    names = npz.heads(path)
    if "input" not in names:
        raise InputError(f"'{path}' has no array 'input'; it has {one_line(', '.join(names)) or 'none'}")
    shape, dtype = names["input"]
    if dtype.kind not in "iub":
        raise InputError(f"'{path}': input is {dtype}, not integers; the chip takes integers: round it first")
    if len(shape) not in (2, 3, 4, 5) or 0 in shape:
        raise InputError(
            f"'{path}': input has shape {shape}; give (samples, T, C, H, W) or (samples, T, features), not empty"
        )
