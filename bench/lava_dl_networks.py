"""lava-dl's own test networks: our simulator against lava-dl's recordings, and against Lava running the same file.

    python bench/lava_dl_networks.py [--write docs/any-netx.md] [--json FILE] [--no-lava]

The networks and recordings are those of lava-dl's wheel, read from the Lava environment (`snn2chip lava setup`). Every
u, v and spike of every layer in raw chip time; what a recording does not hold is compared with Lava alone.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import harness
import numpy as np
from numpy.typing import NDArray

from snn2chip import __version__
from snn2chip.backends import lava
from snn2chip.formats.netx import read
from snn2chip.ir.netlist import Netlist
from snn2chip.simulate.chip_time import ChipEngine, ChipTrace, check_input

Array = NDArray[np.generic]
BEGIN, END = "<!-- lava-dl networks: begin -->", "<!-- lava-dl networks: end -->"
ON_THE_CHIP = 128  # what the recordings of v hold where a neuron spiked; Lava leaves 0 there


@dataclass(frozen=True)
class Known:
    """One of lava-dl's networks and how it was run for its recording."""

    name: str
    file: str
    stream: Callable[[Path], NDArray[np.int64]]
    layers: int | None = None
    reset_interval: int | None = None


@dataclass(frozen=True)
class Row:
    """One line of the table: what was compared over which steps, how many values, how many of them differ."""

    network: str
    against: str
    what: str
    layers: int
    steps: int
    values: int
    differ: int
    remark: str = ""


def folder() -> Path:
    """Where lava-dl's test networks lie in Lava's environment.

    Raises:
        SetupError: the environment cannot be made.
    """
    environment = lava.setup(progress=False)
    (found,) = (environment.python.parent.parent / "lib").glob("python*/site-packages/tests/lava/lib/dl/netx")
    return found


def _still(image: Array, steps: int) -> NDArray[np.int64]:
    """A picture stored (W, H, C), shown for so many steps as (T, C, H, W)."""
    picture = image.astype(np.int64).transpose()
    return np.broadcast_to(picture, (steps, *picture.shape)).copy()


def _random_pictures(root: Path) -> NDArray[np.int64]:
    """mnist.net has no recording: four random pictures, each for 16 steps, through its own input transform."""
    net = read.load(root / "mnist.net")
    pictures = np.random.default_rng(0).random((4, 784)).repeat(16, axis=0)
    return check_input(pictures, net)


NETWORKS = (
    Known(
        "tiny.net",
        "tiny.net",
        lambda root: _still(np.load(root / "gts/tinynet/input_bias.npy"), 20),
        reset_interval=17,
    ),
    Known(
        "ntidigits",
        "gts/ntidigits/ntidigits.net",
        lambda root: np.load(root / "gts/ntidigits/input.npy").T.astype(np.int64).reshape(-1, 1, 1, 64),
        layers=5,
    ),
    Known(
        "pilotnet_lif",
        "gts/pilotnet_lif/network.net",
        lambda root: _still(np.load(root / "gts/pilotnet_lif/image.npy"), 25),
        reset_interval=17,
    ),
    Known("mnist.net", "mnist.net", _random_pictures),
)


def simulated(
    known: Known, root: Path, steps: int | None = None, reset_offset: int = 0
) -> tuple[Netlist, NDArray[np.int64], ChipTrace]:
    """The network, its input, and what our simulator makes of it, over all its steps or the first ones."""
    net = read.load(root / known.file, known.layers)
    stream = known.stream(root)[:steps]
    engine = ChipEngine(net, reset_interval=known.reset_interval, reset_offset=reset_offset)
    return net, stream, engine.run(stream)


def against_lava(known: Known, root: Path, steps: int | None = None) -> Row:
    """Our simulator and Lava through netx, every u, v and spike of all layers."""
    net, stream, trace = simulated(known, root, steps)
    with tempfile.TemporaryDirectory() as scratch:
        given, made = Path(scratch, "input.npz"), Path(scratch, "lava.npz")
        np.savez_compressed(given, input=stream)
        lava.run_chip_clock(root / known.file, given, made, layers=known.layers, reset_interval=known.reset_interval)
        with np.load(made) as arrays:
            pairs = [
                (getattr(trace, kind)[layer.name], arrays[f"{kind}/{layer.name}"][0])
                for layer in net.layers
                for kind in ("spikes", "voltage", "current")
            ]
    return _row(known.name, "Lava", "u, v, spikes", len(net.layers), pairs)


def against_recording(known: Known, root: Path) -> Iterator[Row]:
    """Our simulator and what lava-dl recorded."""
    _, _, trace = simulated(known, root)
    if known.name == "tiny.net":
        made = [("0", "input"), ("1", "layer1"), ("2", "output")]
        pairs = []
        for latency, (number, name) in enumerate(made):
            recorded = _by_time(np.load(root / f"gts/tinynet/{name}.npy")[0])
            # the first recorded step is one before the chip's first
            pairs.append((trace.spikes[number][latency : latency + len(recorded) - 1], recorded[1:]))
        yield _row(known.name, "recording", "spikes", 3, pairs)
    elif known.name == "ntidigits":
        recorded = np.load(root / "gts/ntidigits/output.npy").T
        pairs = [(trace.spikes["4"][:-1], recorded[1:])]
        yield _row(known.name, "recording", "spikes", 1, pairs, "recorded one step later; only the output")
    elif known.name == "pilotnet_lif":
        yield from _pilotnet(known, root, trace)


def _pilotnet(known: Known, root: Path, trace: ChipTrace) -> Iterator[Row]:
    """Every layer's u, v and spikes; v where a neuron spiked apart, and the last layer apart."""

    def recorded(name: str) -> Array:
        array = _by_time(np.load(root / f"gts/pilotnet_lif/{name}.npy"))
        return array.transpose(0, 3, 2, 1) if array.ndim == 4 else array

    names = {"1": "conv-0", "2": "conv-1", "3": "conv-2", "4": "conv-3", "5": "conv-4", "7": "fc-0", "8": "fc-1"}
    names["9"] = "fc-2"
    steps = len(recorded("input"))
    pairs = [(trace.spikes["0"][:steps], recorded("input"))]
    pairs += [(trace.spikes[number][:steps], recorded(name)) for number, name in names.items()]
    yield _row(known.name, "recording", "spikes", 9, pairs)
    pairs = [(trace.current[number][:steps], recorded(f"{name}-u")) for number, name in names.items()]
    yield _row(known.name, "recording", "u", 8, pairs)
    silent, spiking = [], []
    for number, name in names.items():
        v, there, fired = trace.voltage[number][:steps], recorded(f"{name}-v"), trace.spikes[number][:steps] > 0
        silent.append((v[~fired], there[~fired]))
        spiking.append((np.full(int(fired.sum()), ON_THE_CHIP), there[fired]))
    yield _row(known.name, "recording", "v where no spike", 8, silent, steps=steps)
    remark = f"compared with {ON_THE_CHIP}: the recording holds that wherever a neuron spiked, where Lava and we have 0"
    yield _row(known.name, "recording", "v at a spike", 8, spiking, remark, steps=steps)
    last = [(trace.current["10"], recorded("fc-3-u")), (trace.voltage["10"], recorded("fc-3-v"))]
    remark = "the recording of this layer comes from another run: it disagrees with that of the layer before it"
    yield _row(known.name, "recording", "u, v of the last layer", 1, last, remark)
    _, _, earlier = simulated(known, root, reset_offset=-1)
    last = [(earlier.current["10"], recorded("fc-3-u")), (earlier.voltage["10"], recorded("fc-3-v"))]
    remark = "with every reset one step earlier; the value that differs is the last, recorded as 0"
    yield _row(known.name, "recording", "u, v of the last layer", 1, last, remark)


def _by_time(array: Array) -> Array:
    """Time is the last axis of a recording; here it is the first."""
    return np.moveaxis(array, -1, 0)


def _row(
    network: str,
    against: str,
    what: str,
    layers: int,
    pairs: list[tuple[Array, Array]],
    remark: str = "",
    steps: int | None = None,
) -> Row:
    for ours, theirs in pairs:
        if ours.shape != theirs.shape:
            raise SystemExit(f"{network}: {ours.shape} against {theirs.shape}")
    values = sum(ours.size for ours, _ in pairs)
    differ = sum(int((ours != theirs).sum()) for ours, theirs in pairs)
    return Row(network, against, what, layers, steps or len(pairs[0][0]), values, differ, remark)


def table(rows: list[Row]) -> str:
    """The rows in Markdown."""
    head = ["network", "compared with", "what", "layers", "steps", "values", "differ", ""]
    cells = [[f"{value:,}" if name in ("values", "differ") else f"{value}" for name, value in asdict(row).items()]
             for row in rows]  # fmt: skip
    return "\n".join(harness.table(head, cells, range(len(head))))


def main() -> None:
    """Compare everything and print, or write, the table."""
    parser = harness.parser(__doc__)
    parser.add_argument("--write", type=Path, help="put the table between the markers of this Markdown file")
    parser.add_argument("--json", type=Path, help="write the rows as JSON")
    parser.add_argument("--no-lava", action="store_true", help="recordings only: seconds instead of minutes")
    options = parser.parse_args()
    root = folder()
    rows: list[Row] = []
    for known in NETWORKS:
        rows += against_recording(known, root)
        if not options.no_lava:
            rows.append(against_lava(known, root))
        print(f"{known.name}: {sum(row.differ for row in rows if row.network == known.name)} differ", flush=True)
    versions = lava.setup(progress=False).versions
    said = f"snn2chip {__version__}, lava-nc {versions['lava-nc']}, lava-dl {versions['lava-dl']}; one run."
    harness.keep(options.json, [asdict(row) for row in rows])
    harness.fill(options.write, BEGIN, END, f"{table(rows)}\n\n{said}")


if __name__ == "__main__":
    main()
