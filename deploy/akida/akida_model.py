"""Build, map and run a model of BrainChip's Akida. The environment of `akida` runs this, never snn2chip's.

    python akida_model.py --check
    python akida_model.py build SPEC.npz MODEL.fbz
    python akida_model.py map SPEC.npz
    python akida_model.py run SPEC.npz MODEL.fbz INPUT.npy OUTPUT.npz [--cuts 1 2 ...]

SPEC says what the model is, layer by layer, in Akida's own terms:

    input            (height, width, channels) of the image
    layers           JSON, a list of {"name", "kind": "input" | "conv" | "dense", "kernel", "stride",
                     "padding": "same" | "valid", "bits", "fires"}
    weight/<i>       int8, (kernel, kernel, inputs, outputs) or (1, 1, inputs, outputs) of a dense layer
    threshold/<i>    int32, one an output; a layer that does not fire, the last, has none

`build` writes the model. `map` prints JSON: what mapping it onto an AKD1000 in one sequence of hardware says. `run`
holds MODEL against SPEC, every weight and threshold, and forwards INPUT, uint8 (N, height, width, channels); OUTPUT
gets `output/<n>`, what the first n layers make of it, for each n of --cuts (all layers if none are given): each is a
model of these layers alone.

Exit status: 0 done; 2 the input cannot be used; 3 Akida failed; 130 interrupted, 143 terminated. What went wrong is the
last line of stderr, starting with "error: ".
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from pathlib import Path
from typing import Any

sys.path.insert(1, str(Path(__file__).resolve().parents[1] / "common"))

from failures import RefusedError, SimulatorError, first_line, leave

# isort: split
import akida
import numpy as np
from installed import installed

_BATCH = 16  # samples in flight


def read_spec(path: Path) -> tuple[tuple[int, ...], list[dict[str, Any]]]:
    """The image's shape, and the layers with their arrays as `weight` and `threshold`.

    Raises:
        RefusedError: not such a file.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            layers = json.loads(str(archive["layers"]))
            for number, layer in enumerate(layers):
                layer["weight"] = archive[f"weight/{number}"]
                layer["threshold"] = archive[f"threshold/{number}"] if layer["fires"] else None
            return tuple(map(int, archive["input"])), layers
    except Exception as error:  # of numpy, zipfile, zlib or json
        raise RefusedError(f"'{path}' describes no model: {first_line(error)}") from error


def build(shape: tuple[int, ...], layers: list[dict[str, Any]]) -> akida.Model:
    """The model.

    Raises:
        SimulatorError: Akida has no such layer, named.
    """
    model = akida.Model()
    for layer in layers:
        kernel, stride = [layer["kernel"]] * 2, [layer["stride"]] * 2
        common = {"name": layer["name"], "weights_bits": layer["bits"], "activation": layer["fires"], "act_bits": 1}
        outputs = layer["weight"].shape[-1]
        padding = akida.Padding.Same if layer["padding"] == "same" else akida.Padding.Valid
        try:
            if layer["kind"] == "input":
                made = akida.InputConvolutional(shape, kernel, outputs, padding=padding, kernel_stride=stride, **common)
            elif layer["kind"] == "conv":
                made = akida.Convolutional(kernel, outputs, padding=padding, kernel_stride=stride, **common)
            else:
                made = akida.FullyConnected(outputs, **common)
            model.add(made)
            made.variables["weights"] = np.ascontiguousarray(layer["weight"])
            if layer["threshold"] is not None:
                made.variables["threshold"] = layer["threshold"]
        except (ValueError, RuntimeError, TypeError) as error:
            raise SimulatorError(f"layer '{layer['name']}': {first_line(error)}") from error
    return model


def _about(layer: akida.Layer) -> dict[str, Any]:
    """The numbers that make a layer what it is; enumerations by name."""
    parameters = layer.parameters
    names = [name for name in dir(parameters) if not name.startswith("_")]
    return {name: str(getattr(parameters, name)) for name in names}


def require_same(found: akida.Model, wanted: akida.Model, path: Path) -> None:
    """Refuse a model file that is not what the description says, weight for weight.

    Raises:
        RefusedError: naming the first layer that differs, and in what.
    """
    if [layer.name for layer in found.layers] != [layer.name for layer in wanted.layers]:
        raise RefusedError(f"'{path}' holds layers {', '.join(layer.name for layer in found.layers)}; export it again")
    for ours, theirs in zip(wanted.layers, found.layers, strict=True):
        if _about(ours) != _about(theirs):
            raise RefusedError(f"'{path}': layer '{ours.name}' is not the network's; export it again")
        for name in ours.variables.names:
            left, right = ours.variables[name], theirs.variables[name]
            if left.shape != right.shape or (left != right).any():
                raise RefusedError(f"'{path}': {name} of layer '{ours.name}' are not the network's; export it again")


def load(path: Path) -> akida.Model:
    """A model file.

    Raises:
        RefusedError: it is none.
    """
    try:
        return akida.Model(str(path))
    except Exception as error:
        raise RefusedError(f"'{path}' is no Akida model: {first_line(error)}") from error


def run(spec: Path, path: Path, input_path: Path, output: Path, cuts: list[int]) -> None:
    """Forward every image through the first n layers, for each n of `cuts`.

    Raises:
        RefusedError: a file that cannot be used.
    """
    shape, layers = read_spec(spec)
    model = load(path)
    require_same(model, build(shape, layers), path)
    images = np.load(input_path, mmap_mode="r", allow_pickle=False)
    if images.dtype != np.uint8 or images.shape[1:] != shape:
        raise RefusedError(f"'{input_path}': {images.dtype} of shape {images.shape}; give uint8 (N, {shape})")
    made: dict[str, np.ndarray] = {}
    cuts = cuts or [len(layers)]
    for cut in cuts:
        part = model if cut == len(layers) else akida.Model(layers=model.layers[:cut])
        parts = []
        for start in range(0, len(images), _BATCH):
            parts.append(part.forward(np.ascontiguousarray(images[start : start + _BATCH])))
            print(
                f"step {cuts.index(cut) * len(images) + start + len(parts[-1])}/{len(cuts) * len(images)}", flush=True
            )
        made[f"output/{cut}"] = np.concatenate(parts)
    try:
        with output.open("wb") as file:
            np.savez(file, **made)  # type: ignore[arg-type]
    except OSError as error:
        raise RefusedError(f"cannot write '{output}': {error.strerror}; free some space") from error


def mapping(spec: Path) -> dict[str, Any]:
    """What mapping onto an AKD1000 says: whether all of it maps in one sequence, its passes, and nodes by layer.

    `problem` is Akida's own sentence where it does not map; nodes are then not known.
    """
    shape, layers = read_spec(spec)
    model = build(shape, layers)
    try:
        model.map(akida.AKD1000(), hw_only=True)
    except RuntimeError as error:
        return {"fits": False, "problem": first_line(error), "sequences": 0, "passes": 0, "bytes": 0, "layers": []}
    used = []
    for layer in model.layers:
        nodes = [] if layer.mapping is None else layer.mapping.nps
        kinds = sorted({str(node.type).rpartition(".")[2] for node in nodes})
        used.append({"name": layer.name, "nodes": len(nodes), "kind": ", ".join(kinds)})
    return {
        "fits": True,
        "problem": "",
        "sequences": len(model.sequences),
        "passes": sum(len(each.passes) for each in model.sequences),
        "bytes": sum(len(each.program) for each in model.sequences if each.program is not None),
        "layers": used,
    }


def check() -> dict[str, Any]:
    """Versions of what was imported, and of all that is `installed`."""
    return {
        "python": platform.python_version(),
        "akida": akida.__version__,
        "numpy": np.__version__,
        "standins": [],
        "installed": installed(),
    }


def main() -> None:
    """Parse the command line, do it, and turn every failure into one line on stderr."""
    parser = argparse.ArgumentParser(description="Build, map and run a model of Akida.")
    parser.add_argument("--check", action="store_true", help="import everything, print versions as JSON")
    verbs = parser.add_subparsers(dest="verb")
    for verb, files in (
        ("build", ("spec", "model")),
        ("map", ("spec",)),
        ("run", ("spec", "model", "input", "output")),
    ):
        each = verbs.add_parser(verb)
        for name in files:
            each.add_argument(name, type=Path)
    verbs.choices["run"].add_argument("--cuts", type=int, nargs="+", default=[], help="after how many layers")
    options = parser.parse_args()
    if not (options.check or options.verb):
        parser.error("give build, map, run or --check")

    def action() -> None:
        if options.check:
            print(json.dumps(check()))
        elif options.verb == "build":
            build(*read_spec(options.spec)).save(str(options.model))
        elif options.verb == "map":
            print(json.dumps(mapping(options.spec)))
        else:
            run(options.spec, options.model, options.input, options.output, options.cuts)

    leave(action)


if __name__ == "__main__":
    main()
