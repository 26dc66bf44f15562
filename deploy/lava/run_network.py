"""Run a netx network in Lava and record every neuron. Lava's own interpreter runs this, never snn2chip's.

    python run_network.py NET INPUT.npz OUTPUT.npz [--progress] [--monitors] [--fast-convolution]
    python run_network.py --check

NET is lava-dl netx HDF5. INPUT holds `input`, integers of shape (samples, T, C, H, W) or
(samples, T, features). OUTPUT receives, for every layer with neurons, by its number under `layer/` in the
file and in the layer's own time (latency removed), each of shape (samples, T, C, H, W) or
(samples, T, features):

    spikes/<layer>    uint8    1 where the neuron fired
    voltage/<layer>   int32    v at the end of the step, after the reset of a spike
    current/<layer>   int32    u at the end of the step

Samples follow each other without a gap: step t of sample n enters at chip step n*T + t + 1. Layer k (the k-th
conv or dense layer, from 1) shows what it makes of that k steps later, because each synapse holds its output
for one step; each layer is reset just before its own first step of each sample.

Exit status: 0 done; 2 the input cannot be used; 3 Lava failed; 130 interrupted, 143 terminated. What went
wrong is the last line of stderr, starting with "error: ".
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import sys
from pathlib import Path
from typing import Any

sys.path.insert(1, str(Path(__file__).resolve().parents[1] / "common"))

from failures import RefusedError, leave

# isort: split
from fast_convolution import install as install_fast_convolution
from files import fit_input, read_input, read_layers
from import_lava import import_lava
from installed import installed
from running import feed, load, record
from step_neurons import install as install_step_neurons


def run(
    net_path: Path, input_path: Path, output: Path, progress: bool, monitors: bool, fast_convolution: bool = False
) -> None:
    """Run the network on every sample and write the output file, whole or not at all.

    Raises:
        RefusedError: a file that cannot be used.
        SimulatorError: Lava could not load or run the network.
    """
    layers, about = read_layers(net_path)
    data = read_input(input_path)
    samples, steps = data.shape[:2]
    trained = about.get("timesteps", steps)
    if steps > trained:
        raise RefusedError(
            f"'{input_path}': {steps} time steps a sample, but '{net_path}' is made for {trained}; "
            f"give at most {trained}"
        )
    if steps < trained:
        print(f"note: {steps} time steps a sample; '{net_path}' is made for {trained}", file=sys.stderr)
    if samples > 1 and any(layer.kind == "dense_rec" for layer in layers):
        raise RefusedError(
            f"'{net_path}' has a dense_rec layer, whose last spikes of a sample would reach the next, and "
            f"'{input_path}' has {samples} samples; run one at a time"
        )
    bits = about.get("input_message_bits", 0)
    # netx lets the first layer reset at step reset_offset + 1 and each further one a step later; the first layer
    # computes the first input at step 2: hence 1.
    options = {"input_message_bits": bits, "reset_interval": steps, "reset_offset": 1}
    patches = [install_step_neurons, *([install_fast_convolution] if fast_convolution else [])]
    net, said = load(net_path, output, patches, **options)
    if "WARNING" in said:
        words = " ".join(said.replace("[WARNING]", "").split())
        raise RefusedError(f"'{net_path}': netx would change the weights: {words}; keep them in -256..254")
    first = next(i for i, layer in enumerate(layers) if layer.latency)
    flattens = any(layer.kind == "flatten" for layer in layers[:first])
    names = feed(net, fit_input(data, tuple(map(int, net.inp.shape)), input_path, bits, flattens))
    computing = [layer for layer in layers if layer.latency]
    shown = {"progress": progress, "monitors": monitors}
    record(net, computing, output, names, steps=samples * steps, samples=samples, **shown)


def check() -> dict[str, Any]:
    """Import everything; versions of what was imported, and of all that is `installed`.

    `standins` is empty in a full environment.
    """
    standins = import_lava()
    packages = ["lava-nc", "lava-dl", "numpy", "scipy", "h5py", *([] if standins else ["torch"])]
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
        "standins": standins,
        "installed": installed(),
    }


def main() -> None:
    """Parse the command line, run, and turn every failure into one line on stderr."""
    parser = argparse.ArgumentParser(description="Run a netx network in Lava and record every neuron.")
    parser.add_argument("net", type=Path, nargs="?", help="lava-dl netx HDF5")
    parser.add_argument("input", type=Path, nargs="?", help="npz with `input`")
    parser.add_argument("output", type=Path, nargs="?", help="npz to write")
    parser.add_argument("--progress", action="store_true", help="print lines `step k/n`")
    parser.add_argument("--monitors", action="store_true", help="record with Lava's Monitor processes: slow")
    parser.add_argument("--fast-convolution", action="store_true", help="exact matrix products, not Lava's own loop")
    parser.add_argument("--check", action="store_true", help="import everything, print versions as JSON")
    options = parser.parse_args()
    if options.output is None and not options.check:
        parser.error("give NET INPUT OUTPUT, or --check")

    def action() -> None:
        if options.check:
            print(json.dumps(check()))
        else:
            run(
                options.net, options.input, options.output, options.progress, options.monitors, options.fast_convolution
            )

    leave(action)


if __name__ == "__main__":
    main()
