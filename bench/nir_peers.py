"""Our NIR files in other simulators: every spike of every neuron against our own interpreter.

    python bench/nir_peers.py [models/digits-tdbn/model.pt] [--samples 100] [--data DIR] [--peers NAME ...]

Makes an environment in the user's cache that has the simulators and borrows everything else (torch, numpy, h5py, nir's
own dependencies) from the Python that runs this; nothing is installed beside snn2chip. Prints Markdown: first what a
single neuron shows of each simulator's conventions, then spikes that differ from ours, network by network:

    as loaded    the file as `snn2chip export --format nir` writes it
    moved        thresholds moved up to the next number, for a simulator that fires at the threshold already

"digits" is the trained network; "ties" a random one with branches, groups, biases of every neuron and kernels that are
not square, whose weights are fractions of 8, so that sums are exact and many membranes equal the threshold; "tau 1" has
neurons without a leak, which NIR calls IF.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import harness
import numpy as np
from peers import VERSIONS, environment

# ------------------------------------------------------------------------------------------- in the environment


def _spikes(module: Any, names: list[str], inputs: Any) -> tuple[dict[str, Any], Any]:
    """Run a module made by nirtorch step by step; what the named modules gave, and the outputs."""
    import torch

    seen: dict[str, list[Any]] = {name: [] for name in names}

    def keep(_module: Any, _inputs: Any, output: Any, name: str) -> None:
        seen[name].append(output[0] if isinstance(output, tuple) else output)

    for name in names:
        module.get_submodule(name).register_forward_hook(functools.partial(keep, name=name))
    outputs, state = [], None
    with torch.no_grad():
        for step in inputs:
            output, state = module(step, state)
            outputs.append(output)
    return {name: torch.stack(steps, 1) for name, steps in seen.items()}, torch.stack(outputs, 1)


def _snntorch(path: str, names: list[str], inputs: Any, dtype: Any) -> tuple[dict[str, Any], Any]:
    import nir
    import nirtorch
    import torch
    from snntorch import import_nir

    torch.set_default_dtype(dtype)  # it makes torch.Tensor of everything
    made = functools.partial(nirtorch.nir_to_torch, dtype=dtype)
    import_nir.nirtorch.nir_to_torch = made  # its reader has no option for the type, and rounds to float32
    module = import_nir.import_from_nir(nir.read(path))
    for part in module.modules():
        if isinstance(part, (torch.nn.Conv2d, torch.nn.Linear)):  # its spikes are float32 always
            part.register_forward_pre_hook(lambda _part, given: (given[0].to(dtype),))
    return _spikes(module, names, inputs)


def _spikingjelly(path: str, names: list[str], inputs: Any, dtype: Any) -> tuple[dict[str, Any], Any]:
    from spikingjelly.activation_based.nir_exchange import import_from_nir

    return _spikes(import_from_nir(path, dt=1e-4, dtype=dtype), names, inputs)


def _norse_reader(dtype: Any) -> Any:
    """Norse's module with its reader, numbers kept in `dtype`."""
    import torch
    from norse.torch.utils import import_nir

    import_nir._to_tensor = lambda value: torch.as_tensor(np.asarray(value), dtype=dtype)  # it has float32 here
    torch.set_default_dtype(dtype)
    return import_nir


def _norse(path: str, names: list[str], inputs: Any, dtype: Any) -> tuple[dict[str, Any], Any]:
    import nir

    # the order in which it runs nodes is that of nirtorch.load, which knows no branches
    return _spikes(_norse_reader(dtype).from_nir(nir.read(path), dt=1e-4), names, inputs)


def _norse_neurons(path: str, names: list[str], inputs: Any, dtype: Any) -> tuple[dict[str, Any], Any]:
    import nir
    import nirtorch

    make = functools.partial(_norse_reader(dtype)._import_norse_module, dt=1e-4, ignore_warnings=True)
    kinds = (nir.Affine, nir.Linear, nir.Conv2d, nir.Flatten, nir.LIF, nir.IF)
    return _spikes(nirtorch.nir_to_torch(nir.read(path), dict.fromkeys(kinds, make), dtype=dtype), names, inputs)


PEERS: dict[str, Callable[..., tuple[dict[str, Any], Any]]] = {
    "snntorch": _snntorch,
    "spikingjelly": _spikingjelly,
    "norse": _norse,
    "norse by nir_to_torch": _norse_neurons,
}
INCLUSIVE = ("spikingjelly",)  # fire at the threshold already, as the table of conventions shows


def peer(options: argparse.Namespace) -> None:
    """Run one file in one simulator: job.json says what, out.npz gets spikes/<node> and output, (N, T, ...)."""
    import warnings

    import torch

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    for job in json.loads(options.jobs.read_text(encoding="utf-8")):
        dtype = getattr(torch, job["dtype"])
        inputs = torch.from_numpy(np.load(job["input"])).to(dtype)
        out: dict[str, Any] = {}
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                spikes, output = PEERS[job["peer"]](job["graph"], job["names"], inputs, dtype)
            out = {f"spikes/{name}": value.double().numpy() for name, value in spikes.items()}
            out["output"] = output.double().numpy()
        except Exception as error:  # whatever a simulator says of a file is a result
            text = (str(error).splitlines() or [""])[0]
            out["refused"] = np.array(f"{type(error).__name__}: {text}")
        finally:
            torch.set_default_dtype(torch.float32)
        np.savez(job["out"], **out)


# -------------------------------------------------------------------------------------------------- around it


def ties(tau: float, seed: int = 0) -> Any:
    """A random network whose sums are exact, see the module's text."""
    from snn2chip import ir

    rng = np.random.default_rng(seed)

    def eighths(*shape: int, top: int = 6) -> np.ndarray:
        return rng.integers(-top, top + 1, shape) / 8

    source = ir.Input("input", (), (2, 8, 8), "direct", 3, 0, 3, np.array([1, 2]), np.ones(2), np.zeros(2))
    nodes = (
        source,
        ir.Conv("conv1", ("input",), eighths(6, 2, 3, 3), eighths(6, 8, 8), padding=(1, 1)),
        ir.LIF("lif1", ("conv1",), tau, 0.5),
        ir.Conv("block.conv2", ("lif1",), eighths(6, 3, 3, 1), None, padding=(1, 0), groups=2),
        ir.Conv("block.shortcut", ("lif1",), eighths(6, 1, 1, 1), eighths(6), groups=6),
        ir.Add("block.add", ("block.conv2", "block.shortcut")),
        ir.LIF("block.lif2", ("block.add",), tau, 0.5),
        ir.Conv("conv3", ("block.lif2",), eighths(8, 6, 2, 2), eighths(8), stride=(2, 2)),
        ir.LIF("lif3", ("conv3",), tau, 0.75),
        ir.Flatten("flatten", ("lif3",)),
        ir.Dense("dense1", ("flatten",), eighths(20, 128, top=2), None),
        ir.LIF("lif4", ("dense1",), tau, 0.5),
        ir.Dense("dense2", ("lif4",), eighths(4, 20), eighths(4)),
        ir.Readout("readout", ("dense2",), "membrane"),
    )
    return ir.Network("folded", 6, ("a", "b", "c", "d"), nodes)


def moved(network: Any, dtype: str) -> Any:
    """Every threshold up to the next number of a type: `u >= moved` is `u > threshold`."""
    from snn2chip import ir

    def up(value: float) -> float:
        return float(np.nextafter(np.dtype(dtype).type(value), np.dtype(dtype).type(np.inf)))

    nodes = [
        replace(node, threshold=up(node.threshold)) if isinstance(node, ir.LIF) else node for node in network.nodes
    ]
    return network.with_nodes("folded", nodes)


def probe(tau: float) -> Any:
    """One neuron of threshold 1 behind a weight of 1."""
    from snn2chip import ir

    nodes = (
        ir.Input("input", (), (1,), "direct", 8, 0, 8, np.zeros(1, dtype=np.int64), np.ones(1), np.zeros(1)),
        ir.Dense("dense", ("input",), np.ones((1, 1)), None),
        ir.LIF("lif", ("dense",), tau, 4.0),
        ir.Readout("readout", ("lif",), "spike_count"),
    )
    return ir.Network("folded", 3, ("a",), nodes)


PROBES = {
    # what it shows -> (tau, input, {spikes: meaning})
    "u = Vth fires": (0.5, [4, 0, 0], {(0, 0, 0): "no (>)", (1, 0, 0): "yes (>=)"}),
    "reset": (0.5, [8, 3, 0], {(1, 0, 0): "to 0", (1, 1, 0): "by subtraction"}),
    "tau 0.5": (0.5, [3, 2, 2.5], {(0, 0, 1): "leak 0.5, gain 1"}),
    "tau 1 (IF)": (1.0, [2, 1.5, 1], {(0, 0, 1): "no leak, gain 1"}),
}


def titled(name: str) -> str:
    """A simulator with its version."""
    return name.replace(package := name.split()[0], f"{package} {VERSIONS[package]}", 1)


class Jobs:
    """Files and questions for the simulators, answered by one process a simulator."""

    def __init__(self, folder: Path, python: Path) -> None:
        self.folder, self.python = folder, python
        self.jobs: list[dict[str, Any]] = []

    def add(self, peer: str, network: Any, port: np.ndarray, dtype: str) -> int:
        """A network on port input (N, T, ...); the number of the job."""
        from snn2chip import ir
        from snn2chip.formats import nir

        number = len(self.jobs)
        path = self.folder / f"{number}.nir"
        nir.save(path, network, unit_resistance=peer.startswith("norse"))  # which leaves R out
        np.save(self.folder / f"{number}.npy", np.moveaxis(port, 1, 0))
        graph = nir.build(network)
        called = {node.metadata.get("name"): name for name, node in graph.nodes.items()}
        names = [called[node.name] for node in network.of(ir.LIF)]
        files = {"graph": str(path), "input": f"{path.with_suffix('.npy')}", "out": f"{path.with_suffix('.npz')}"}
        self.jobs.append({"peer": peer, "dtype": dtype, "names": names, **files})
        return number

    def run(self) -> None:
        """All of them."""
        for name in dict.fromkeys(job["peer"] for job in self.jobs):
            jobs = self.folder / f"{name.replace(' ', '-')}.json"
            jobs.write_text(json.dumps([job for job in self.jobs if job["peer"] == name]), encoding="utf-8")
            harness.run(self.python, __file__, "--jobs", jobs)

    def answer(self, number: int) -> dict[str, np.ndarray]:
        """Arrays of a job by name; 'refused' where the simulator does not take the file."""
        with np.load(self.jobs[number]["out"]) as found:
            return {key: found[key] for key in found.files}


def row(jobs: Jobs, number: int, network: Any, raw: np.ndarray) -> list[str]:
    """Spikes and scores of a job against ours."""
    from snn2chip import ir
    from snn2chip.ir.interpreter import evaluate

    answer, ours = jobs.answer(number), evaluate(network, raw)
    if "refused" in answer:
        return [f"refused: {answer['refused']}", "", ""]
    compared = differ = at_threshold = 0
    first = ""
    for node, name in zip(network.of(ir.LIF), jobs.jobs[number]["names"], strict=True):
        mine = ours.spikes[node.name].numpy()
        wrong = answer[f"spikes/{name}"].reshape(mine.shape) != mine
        compared, differ = compared + mine.size, differ + int(wrong.sum())
        at_threshold += int((ours.membranes[node.name].numpy() == node.threshold).sum())
        if wrong.any() and not first:
            first = f"'{node.name}' sample, step, neuron {tuple(int(i) for i in np.argwhere(wrong)[0])}"
    output = answer["output"].sum(1)
    scores = "another node's output"
    if output.shape == ours.scores.shape:
        scores = f"{float(np.abs(output - ours.scores.numpy()).max()):.3g}"
    return [f"{differ:,} of {compared:,} ({at_threshold:,} membranes at Vth)", first, scores]


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description="Our NIR files in other simulators, as Markdown tables.")
    parser.add_argument("model", type=Path, nargs="?", default=Path("models/digits-tdbn/model.pt"))
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--peers", nargs="+", choices=list(PEERS), default=list(PEERS))
    parser.add_argument("--python", type=Path, help="an interpreter that has the simulators already")
    parser.add_argument("--jobs", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.jobs is not None:
        peer(options)
        return

    from snn2chip import data
    from snn2chip.ir.encode import encoder_of
    from snn2chip.nn import model_file
    from snn2chip.passes.capture import capture
    from snn2chip.passes.fold import fold

    python = options.python or environment()
    model = model_file.load(options.model)
    digits, _ = fold(capture(model.network, model.classes))
    spec = model.recipe.data
    images = data.load(spec.name, "test", options.data, image_size=spec.image_size).subset(options.samples)
    small, leakless = ties(0.5), ties(1.0)
    rng = np.random.default_rng(1)
    random = rng.integers(0, 4, (options.samples, small.timesteps, 2, 8, 8))
    cases = {
        spec.name: (digits, encoder_of(digits)(images.images)),
        "ties": (small, random),
        "tau 1": (leakless, random),
    }
    with tempfile.TemporaryDirectory() as folder:
        jobs = Jobs(Path(folder), python)
        shown = {
            (name, title): jobs.add(name, probe(tau), np.array(fed, dtype=np.float64).reshape(1, -1, 1), "float64")
            for name in options.peers
            for title, (tau, fed, _) in PROBES.items()
        }
        rows: list[tuple[tuple[str, ...], int, Any, np.ndarray]] = []
        for case, (network, raw) in cases.items():
            for name in options.peers:
                for dtype in ("float64", "float32"):
                    ways = {"as loaded": network}
                    if name in INCLUSIVE:
                        ways["moved"] = moved(network, dtype)
                    for way, sent in ways.items():
                        number = jobs.add(name, sent, network.input.port(raw).astype(np.float64), dtype)
                        rows.append(((case, titled(name), dtype, way), number, network, raw))
        jobs.run()
        table = []
        for name in options.peers:
            cells = [titled(name)]
            for title, (_, _, meanings) in PROBES.items():
                answer = jobs.answer(shown[name, title])
                spikes = tuple(int(s) for s in answer.get("spikes/lif", np.zeros(0)).flatten())
                refused = f"refused: {answer.get('refused')}"
                cells.append(refused if "refused" in answer else meanings.get(spikes, f"spikes {spikes}"))
            table.append(cells)
        print("\n".join(harness.table(["simulator", *PROBES], table, range(1 + len(PROBES)))))
        head = ["network", "simulator", "type", "thresholds", "spikes that differ", "first", "largest score error"]
        table = [[*about, *row(jobs, number, network, raw)] for about, number, network, raw in rows]
        print("\n" + "\n".join(harness.table(head, table, range(len(head)))))


if __name__ == "__main__":
    main()
