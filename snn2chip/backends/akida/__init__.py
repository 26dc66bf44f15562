"""Run networks of one time step in BrainChip's simulator of Akida, which lives in an environment of its own.

The package `akida` is proprietary and needs numpy alone (Python 3.10 to 3.12). `layout` says what of a chain Akida has
layers for and in which numbers; deploy/akida/akida_model.py builds, maps and runs that.

Environment variables: SNN2CHIP_AKIDA_PYTHON names the interpreter to use (as it is if it imports akida, else to build
the environment from), SNN2CHIP_CACHE the folder that holds environments.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from snn2chip import npz
from snn2chip.backends.akida.layout import Layout as Layout
from snn2chip.backends.akida.layout import layout as layout
from snn2chip.backends.kinds import Kind
from snn2chip.backends.programs import need, run_program
from snn2chip.errors import InputError
from snn2chip.files import atomic_path
from snn2chip.ir import IntArray

if TYPE_CHECKING:
    from snn2chip.ir.trace import Trace

KIND = Kind(
    title="Akida",
    folder="akida",
    name="",
    pythons=("3.11", "3.12", "3.10"),
    download="3.11",
    locks=(("requirements.txt", ("--only-binary", ":all:")),),
    program="akida_model.py",
    by_hand="the package akida",
)
_PROGRAM = "akida_model.py"


@dataclass(frozen=True)
class NodesOf:
    """The nodes of one layer and what they are called: HRC reads the image, CNP are convolutions, FNP dense layers."""

    name: str
    nodes: int
    kind: str


@dataclass(frozen=True)
class Mapping:
    """What mapping a model onto an AKD1000 says, in hardware alone.

    problem    Akida's own sentence where it does not map, else empty; nothing else is known then
    sequences  of hardware, one if it maps; `passes` through the chip for a sample, `bytes` of its program
    layers     in order
    """

    problem: str
    sequences: int
    passes: int
    bytes: int
    layers: tuple[NodesOf, ...]

    @property
    def fits(self) -> bool:
        return not self.problem

    @property
    def problems(self) -> tuple[str, ...]:
        """As of a network on cores."""
        return (self.problem,) if self.problem else ()

    @property
    def nodes(self) -> int:
        """Of all layers."""
        return sum(layer.nodes for layer in self.layers)

    def as_json(self) -> dict[str, Any]:
        """As ``snn2chip fit --json`` writes it."""
        return {
            "chip": "akd1000",
            "fits": self.fits,
            "problem": self.problem,
            "sequences": self.sequences,
            "passes": self.passes,
            "bytes": self.bytes,
            "nodes": self.nodes,
            "layers": [{"name": each.name, "nodes": each.nodes, "kind": each.kind} for each in self.layers],
        }


def _call(verb: str, model: Layout, files: Sequence[Path], say: Callable[[int, int], None], *flags: str) -> str:
    """Run a verb of the program on a model; its stdout without the steps, which `say` gets."""
    environment = need(KIND)
    lines: list[str] = []

    def follow(line: str) -> None:
        step = re.fullmatch(r"step (\d+)/(\d+)", line)
        if step:
            say(int(step[1]), int(step[2]))
        else:
            lines.append(line)

    with tempfile.TemporaryDirectory(prefix="snn2chip-") as folder:
        spec = Path(folder, "model.npz")
        model.save(spec)
        arguments = [verb, *(str(path.absolute()) for path in (spec, *files)), *flags]
        run_program(environment, _PROGRAM, arguments, None, follow)
    return "\n".join(lines)


def _silent(done: int, whole: int) -> None:
    """Says nothing."""


def build(model: Layout, path: Path) -> None:
    """Write model.fbz.

    Raises:
        InputError: it cannot be written, or Akida has no such layer.
        SetupError: the environment is not set up.
    """
    with atomic_path(path) as part:
        _call("build", model, [part], _silent)


def mapping(model: Layout) -> Mapping:
    """What mapping onto an AKD1000 says.

    Raises:
        InputError: Akida has no such layer.
        SetupError: the environment is not set up.
    """
    said = json.loads(_call("map", model, [], _silent))
    layers = tuple(
        NodesOf(piece.name, each["nodes"], each["kind"])
        for piece, each in zip(model.pieces, said["layers"], strict=False)
    )
    return Mapping(said["problem"], said["sequences"], said["passes"], said["bytes"], layers)


def run(
    model: Layout,
    path: Path,
    port: IntArray,
    *,
    layers: bool = False,
    progress: Callable[[int, int], None] = _silent,
) -> Trace:
    """Run model.fbz on port integers (N, 1, C, H, W), once it is seen to be `model`, weight for weight.

    Scores are the potentials of the last layer, in our 64ths and with the bias that the host adds. `layers`: spikes of
    every layer too, each from the model cut off behind it.

    Raises:
        InputError: the file is another model, or none.
        SetupError: the environment is not set up.
    """
    if not path.is_file():
        raise InputError(
            f"'{path}': no such file; `snn2chip fold-and-export MODEL --chip akd1000 -o {path.name}` makes it"
        )
    count = len(model.pieces)
    cuts = list(range(1, count + 1)) if layers else [count]
    with tempfile.TemporaryDirectory(prefix="snn2chip-") as folder:
        given, answer = Path(folder, "input.npy"), Path(folder, "output.npz")
        np.save(given, model.images(port))
        _call("run", model, [path, given, answer], progress, "--cuts", *map(str, cuts))
        found: dict[str, NDArray[Any]] = npz.load(answer)
    return model.trace({cut: found[f"output/{cut}"] for cut in cuts})
