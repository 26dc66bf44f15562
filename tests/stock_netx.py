"""What stock netx says of many files in one process of Lava's, and netx files with anything changed in them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from conftest import ROOT, child_environment
from foreign import random_network

from snn2chip.backends import lava

Change = Callable[[h5py.Group, np.random.Generator], Any]
PROGRAM = """
import contextlib, io, json, os, sys, warnings
sys.path[:0] = sys.argv[1:3]
from import_lava import import_lava
from running import Run, guard_children
guard_children()
import_lava()
import numpy as np
from lava.lib.dl.netx.hdf5 import Network
from lava.magma.core.run_configs import Loihi2SimCfg
from lava.proc.io.source import RingBuffer
warnings.simplefilter("ignore")
for line in sys.stdin:
    job = json.loads(line)
    shape = job["input_shape"]
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            net = Network(job["path"], input_shape=tuple(shape[::-1]) if shape else None)
            if job["run"]:
                if not hasattr(net.in_layer, "transform"):  # its input comes through a bias
                    source = RingBuffer(data=np.ones((*net.inp.shape, 3), dtype=np.int32))
                    source.s_out.connect(net.inp)
                Run(net, {}).through(3, Loihi2SimCfg(select_tag="fixed_pt"), False, lambda: None)
        said = ""
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
    print(json.dumps(said), flush=True)
os._exit(0)  # after a run that failed, Lava would wait for its processes; they end with this one
"""


@dataclass(frozen=True)
class Job:
    """A file to load, with netx's input_shape as (C, H, W) if it needs one, and to run for three steps or not."""

    path: str
    run: bool = False
    input_shape: tuple[int, ...] = ()


def verdicts(environment: lava.Environment, jobs: Sequence[Job], timeout: float = 100) -> list[str]:
    """For each file '' or the error that stock netx, or Lava, stops with."""
    done = subprocess.run(
        [environment.python, "-c", PROGRAM, ROOT / "deploy" / "lava", ROOT / "deploy" / "common"],
        input="".join(f"{json.dumps(asdict(job))}\n" for job in jobs),
        env=child_environment(),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=True,
    )
    said = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('"')]
    assert len(said) == len(jobs), done.stderr[-2000:]
    return said


# ------------------------------------------------------------------------------------------------- what is changed


def computing(layers: h5py.Group) -> list[str]:
    return [name for name in sorted(layers, key=int) if layers[name]["type"][()].flat[0] != b"flatten"]


def any_layer(layers: h5py.Group, rng: np.random.Generator, *kinds: bytes, neuron: bool = False) -> h5py.Group | None:
    fit = [
        layers[name]
        for name in layers
        if (not kinds or np.asarray(layers[name]["type"][()]).flat[0] in kinds)
        and (not neuron or "neuron" in layers[name])
    ]
    return fit[int(rng.integers(len(fit)))] if fit else None


def put(group: h5py.Group | None, name: str, value: Any) -> None:
    if group is not None:
        if name in group:
            del group[name]
        group[name] = value


def insert(layers: h5py.Group, rng: np.random.Generator, kind: bytes) -> None:
    """A layer of a type alone, with a shape, somewhere."""
    place = int(rng.integers(len(layers) + 1))
    for number in range(len(layers) - 1, place - 1, -1):
        layers.move(str(number), str(number + 1))
    made = layers.create_group(str(place))
    made["type"], made["shape"] = np.array([kind]), np.array([3, 4, 4])


def take_out(layers: h5py.Group, place: int) -> None:
    del layers[str(place)]
    for number in range(place + 1, len(layers) + 1):
        layers.move(str(number), str(number - 1))


def drop(layers: h5py.Group, rng: np.random.Generator) -> None:
    """Any field of a layer or of its neurons."""
    layer = any_layer(layers, rng)
    group = layer if layer is not None and ("neuron" not in layer or rng.random() < 0.5) else layer["neuron"]  # type: ignore[index]
    del group[sorted(group)[int(rng.integers(len(group)))]]


def constants(layers: h5py.Group, rng: np.random.Generator) -> None:
    """One decay or threshold a neuron, a channel, a row, ...; or of a length that fits nothing."""
    layer = any_layer(layers, rng, neuron=True)
    if layer is None or "shape" not in layer:
        return
    shape = tuple(int(side) for side in layer["shape"][()].reshape(-1)[::-1])
    shape = (int(np.prod(shape)),) if layer["type"][()].flat[0] in (b"dense", b"dense_rec") else shape
    options = [shape, shape[-1:], (1,), (), (*shape[:-1], 1), (shape[-1] + 1,), (1, *shape)]
    stored = [np.int64, np.int32, np.int64, np.uint16, np.float64, np.uint64][int(rng.integers(6))]
    name, most = [("iDecay", 4096), ("vDecay", 4096), ("vThMant", 300)][int(rng.integers(3))]
    values = rng.integers(1, most + 1, options[int(rng.integers(len(options)))])
    put(layer["neuron"], name, values.astype(stored))


def neurons(layers: h5py.Group, rng: np.random.Generator) -> None:
    """Another type of neurons, sigma at the output, messageBits."""
    layer = any_layer(layers, rng, neuron=True)
    if layer is None:
        return
    kind = [b"SDNN", b"SDNN", b"LOIHI", b"ALIF", b"SNN2CHIP_STEPS"][int(rng.integers(5))]
    put(layer["neuron"], "type", np.array([kind]))
    if kind == b"SDNN" and rng.random() < 0.6:
        put(layer["neuron"], "sigma_output", True)
        if rng.random() < 0.7 and "vThMant" in layer["neuron"]:
            del layer["neuron/vThMant"]
        if rng.random() < 0.7 and "bias" in layer:
            del layer["bias"]


def geometry(layers: h5py.Group, rng: np.random.Generator) -> None:
    """Stride and the like as one number, one in an array, or a real number; groups too."""
    name = ["stride", "padding", "dilation", "groups"][int(rng.integers(4))]
    put(any_layer(layers, rng, b"conv"), name, [1, np.array([1]), np.array([1.0, 1.0]), 1.0, np.array([1, 1, 1]),
        np.array([2, 1])][int(rng.integers(6))])  # fmt: skip


def weights(layers: h5py.Group, rng: np.random.Generator) -> None:
    """Other shapes and values of a matrix or kernel."""
    layer = any_layer(layers, rng, b"conv", b"dense", b"dense_rec")
    name = "weight_rec" if layer is not None and "weight_rec" in layer and rng.random() < 0.5 else "weight"
    if layer is None or name not in layer or layer[name].ndim < 2:
        return
    old = layer[name][()]
    options = [old.reshape(-1), old * 0, np.concatenate([old, old[:, :1]], 1), np.concatenate([old, old[:1]]), old * 40,
               old[..., None], np.abs(old) + 300, old * np.nan]  # fmt: skip
    put(layer, name, options[int(rng.integers(len(options)))])


def biases(layers: h5py.Group, rng: np.random.Generator) -> None:
    layer = any_layer(layers, rng)
    if layer is None or "shape" not in layer:
        return
    shape = tuple(int(side) for side in layer["shape"][()].reshape(-1)[::-1])
    options = [shape, shape[-1:], (1,), (), (shape[-1] + 1,), shape[::-1], (1, 1, *shape), (shape[-1], shape[-1])]
    put(layer, "bias", rng.integers(-20, 20, options[int(rng.integers(len(options)))]))


def delays(layers: h5py.Group, rng: np.random.Generator) -> None:
    layer = any_layer(layers, rng, b"dense", b"dense_rec", b"conv")
    if layer is None or "weight" not in layer:
        return
    shape = layer["weight"].shape
    options = [shape, shape[:1], shape[1:2], (), (1,), (shape[0] + 1,), (shape[0], 1)]
    made = rng.integers(0, 70, options[int(rng.integers(len(options)))])
    put(layer, "delay", made - int(rng.random() < 0.2))


def shapes(layers: h5py.Group, rng: np.random.Generator) -> None:
    layer = any_layer(layers, rng)
    if layer is not None and "shape" in layer:
        old = layer["shape"][()]
        put(layer, "shape", [old + 1, old.astype(float), np.array([int(np.prod(old))]), np.array([*old, 1]), old[::-1]][
            int(rng.integers(5))])  # fmt: skip


CHANGES: dict[str, Change] = {
    "drop": drop,
    "constants": constants,
    "constants of another layer": constants,
    "neurons": neurons,
    "geometry": geometry,
    "weights": weights,
    "biases": biases,
    "delays": delays,
    "shapes": shapes,
    "messageBits": lambda layers, rng: put((any_layer(layers, rng, neuron=True) or {}).get("neuron"), "messageBits", 8),
    "no neurons": lambda layers, rng: (any_layer(layers, rng, neuron=True) or {"neuron": 0}).__delitem__("neuron"),
    "no input layer": lambda layers, rng: take_out(layers, 0),
    "one layer less": lambda layers, rng: take_out(layers, int(rng.integers(len(layers)))),
    "flatten": lambda layers, rng: insert(layers, rng, b"flatten"),
    "input again": lambda layers, rng: insert(layers, rng, b"input"),
    "unknown layer": lambda layers, rng: insert(layers, rng, b"noise"),
    "layer that netx has not": lambda layers, rng: insert(
        layers, rng, [b"pool", b"average", b"dense_comp"][int(rng.integers(3))]
    ),
    "other type": lambda layers, rng: put(
        any_layer(layers, rng), "type", np.array([[b"dense", b"conv", b"dense_rec", b"input"][int(rng.integers(4))]])
    ),
}


def odd_network(rng: np.random.Generator, path: Path) -> tuple[list[str], tuple[int, ...]]:
    """A random network with none, one or two things changed, which are named; and what shape comes in."""
    random_network(rng, path)
    names = sorted(CHANGES)
    made = [names[int(rng.integers(len(names)))] for _ in range(int(rng.choice(3, p=[0.05, 0.65, 0.3])))]
    with h5py.File(path, "a") as file:
        layers = file["layer"]
        shape = tuple(int(side) for side in layers["0"]["shape"][()].reshape(-1))
        for name in made:
            if any("type" not in layers[number] for number in layers) or not len(layers):
                break
            CHANGES[name](layers, rng)
    return made, shape if len(shape) == 3 else ()
