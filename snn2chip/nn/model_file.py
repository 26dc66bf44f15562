"""model.pt: a trained network with everything that is needed to use it again.

A dictionary of tensors and plain values that `torch.load(weights_only=True)` reads: no code is run. The same content
may stand in a model.safetensors (`snn2chip.nn.safetensors`): a name's ending says what is written, a file's first bytes
what is read. Of a network that a recipe made:

    format, version   "snn2chip-model", 1
    recipe            the recipe as a dictionary (see `snn2chip.recipe`)
    input_shape       (C, H, W)
    max_value         largest pixel value, 255 or 16
    classes           class names
    state             the network's state_dict
    metrics           e.g. float_accuracy, samples, dataset
    made_with         versions

Of any other network, in the place of recipe, input_shape, max_value and classes:

    name              of the network
    graph             its nodes (see `snn2chip.ir.plain`); `state` are their arrays, in float32 where that says the same
    samples           some of its images or frames, integers (N, C, H, W) or (N, T, C, H, W); may be absent
"""

from __future__ import annotations

import io
import pickle
import pickletools
import platform
import warnings
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import snn2chip
from snn2chip import ir
from snn2chip import recipe as recipes
from snn2chip.errors import InputError, out_of_memory, reading
from snn2chip.files import atomic_path, is_hdf5, read_back
from snn2chip.ir.plain import as_plain, of_plain
from snn2chip.nn import BNTT, LIF, DirectInput, TDBatchNorm, safetensors
from snn2chip.nn.build import SpikingNetwork, build, unwrapped
from snn2chip.text import first_line, one_line

FORMAT, VERSION = "snn2chip-model", 1
_REAL = (torch.float16, torch.bfloat16, torch.float32, torch.float64)  # narrower ones have no arithmetic
_HALF = (torch.float16, torch.bfloat16)
_WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_FIELDS: dict[str, tuple[type, ...]] = {
    "input_shape": (list, tuple),
    "classes": (list, tuple),
    "max_value": (int,),
    "state": (dict,),
    "metrics": (dict,),
}
_PLACES = 100_000  # of a recipe: the largest have some hundred
_PIXELS = 2**24  # of an image; more is damage


@dataclass(frozen=True)
class Model:
    """A trained network and what is known about it. `network` is in eval mode, float32, on the CPU."""

    network: SpikingNetwork
    recipe: recipes.Recipe
    max_value: int
    classes: tuple[str, ...]
    metrics: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Graph:
    """A trained network of any framework, as its nodes: what is computed, without the module that computed it.

    network  captured or folded
    name     what it is called
    samples  some of its images (N, C, H, W), or frames (N, T, C, H, W), as integers; None where none were kept
    metrics  what is known about it
    """

    network: ir.Network
    name: str
    samples: ir.IntArray | None
    metrics: dict[str, Any]


def build_network(
    recipe: recipes.Recipe,
    input_shape: tuple[int, int, int],
    classes: int,
    max_value: int,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> SpikingNetwork:
    """The untrained network of a recipe; weights come from torch's global random generator."""
    return build(recipe.model, input_shape, classes, max_value=max_value, mean=mean, std=std, seed=recipe.train.seed)


def save(
    path: str | Path,
    network: nn.Module,
    recipe: recipes.Recipe,
    *,
    max_value: int,
    classes: Sequence[str],
    metrics: dict[str, Any],
    half: bool = False,
) -> None:
    """Write model.pt, whole or not at all; with `half` what is trained in float16, whose values it must have.

    Raises:
        InputError: the file cannot be written, or `load` would refuse it.
    """
    network = unwrapped(network)  # DataParallel and torch.compile call every tensor by another name
    trained = {name for name, _ in network.named_parameters()}
    content = {
        "format": FORMAT,
        "version": VERSION,
        "recipe": recipe.model_dump(mode="json"),
        "input_shape": list(network.input_shape),
        "max_value": max_value,
        "classes": list(classes),
        "state": {
            name: value.detach().cpu().to(torch.float16 if half and name in trained else value.dtype).contiguous()
            for name, value in network.state_dict().items()
        },
        "metrics": metrics,
        "made_with": _versions(),
    }
    save_tensors(path, content, load)


def save_graph(path: str | Path, graph: Graph) -> None:
    """Write a graph as model.pt or model.safetensors, whole or not at all.

    Raises:
        InputError: the file cannot be written, or `load_any` would refuse it.
    """
    plain, arrays = as_plain(graph.network)
    content: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "name": graph.name,
        "graph": plain,
        "state": {key: torch.from_numpy(_narrow(values)) for key, values in arrays.items()},
        "metrics": graph.metrics,
        "made_with": _versions(),
    }
    if graph.samples is not None:
        content["samples"] = torch.from_numpy(_narrow(graph.samples))
    save_tensors(path, content, load_any)


def _versions() -> dict[str, str]:
    return {
        "snn2chip": snn2chip.__version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }


def _narrow(values: NDArray[Any]) -> NDArray[Any]:
    """A copy in the narrowest of a few types that holds every value as it is."""
    kinds = (np.float32,) if values.dtype.kind == "f" else (np.uint8, np.int16, np.int32)
    with np.errstate(over="ignore"):
        fitting = (kind for kind in kinds if (values.astype(kind) == values).all())
        return values.astype(next(fitting, values.dtype), order="C")


def save_tensors(path: str | Path, content: dict[str, Any], check: Callable[[Path], object] | None = None) -> None:
    """`torch.save`, or safetensors where `path` ends so; whole or not at all; a full disk is an `InputError`, not
    torch's RuntimeError.

    `check` reads the file before it takes its place.
    """
    with atomic_path(path) as part:
        try:
            with part.open("wb") as file:
                if part.suffix == safetensors.SUFFIX:
                    file.write(safetensors.dump(content))
                else:
                    torch.save(content, file)
        except RuntimeError as error:  # torch's own words for a failed write; the system's are behind them
            cause = error.__context__
            if out_of_memory(error):
                raise
            if isinstance(cause, OSError):
                raise cause from None
            raise OSError(None, first_line(error)) from error
        if check is not None:
            read_back(path, part, check)


def load_tensors(path: str | Path) -> dict[str, Any]:
    """`torch.load(weights_only=True)` of a dictionary, or a safetensors file.

    Raises:
        InputError: the file is absent, unreadable, truncated, damaged (by its own checksums), or holds code.
    """
    path = Path(path)
    with reading(path, "not a model file"):
        if safetensors.is_one(path):
            return safetensors.load(path)
        source: Path | io.BytesIO = path
        if zipfile.is_zipfile(path):
            _check_archive(path)
        elif is_hdf5(path):
            raise InputError(f"'{path}' is an HDF5 file, a .net say, and no model.pt; give what was trained")
        else:  # an old file or a bare pickle, of bytes: a text of 4 GB that it may claim takes no memory
            content = path.read_bytes()
            _check_pickle(path, content)
            source = io.BytesIO(content)
        try:
            content = torch.load(source, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            if _holds_code(path, str(error)):
                raise InputError(
                    f"'{path}' holds more than tensors and plain values (pickled code) and is not loaded; "
                    f"save a state made by snn2chip"
                ) from None
            raise InputError(f"'{path}' is damaged or not a model file: no pickle that torch reads") from None
    if not isinstance(content, dict):
        raise InputError(f"'{path}' is not a model file: it holds a {type(content).__name__}")
    return content


def _check_archive(path: Path) -> None:
    """Refuse an archive that takes more memory than its own size, or is damaged by its own checksums.

    torch stores the files in an archive as they are, and reads others all the same: then a kilobyte may hold gigabytes.

    Raises:
        InputError: as said.
    """
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise InputError(f"'{path}' is a compressed archive, which torch does not write; save the model again")
        if sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise InputError(f"'{path}' is damaged: the files in it are larger than the whole")
        for entry in entries:
            if entry.filename.endswith("data.pkl"):
                _check_pickle(path, archive.read(entry))
        if bad := archive.testzip():  # torch does not look at the checksums
            raise InputError(f"'{path}' is damaged: '{one_line(bad)}' in it differs from its checksum")


def _check_pickle(path: Path, content: bytes) -> None:
    """Refuse a pickle that makes memory of a number: the one class of those that torch allows in which no model is.

    Raises:
        InputError: as said.
    """
    if b"bytearray\n" in content:
        raise InputError(f"'{path}' holds more than tensors and plain values (a bytearray) and is not loaded")


def _holds_code(path: Path, refusal: str) -> bool:
    """Whether torch refused a pickle for the functions or classes it names; of its kinds torch says so of some only."""
    if any(words in refusal for words in ("GLOBAL", "unrecognized function", "unsupported class")):
        return True
    try:
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            names = {operation.name for operation, _, _ in pickletools.genops(file)}  # reads, and runs nothing
    except Exception:  # no pickle at all
        return False
    return not names.isdisjoint({"GLOBAL", "STACK_GLOBAL", "INST"})


def check_values(network: SpikingNetwork, path: str | Path) -> None:
    """Refuse constants that no training gives: they come from outside, and everything later relies on them."""
    if isinstance(network.encoder, DirectInput) and bool((network.encoder.std <= 0).any()):
        raise InputError(f"'{path}': the input's standard deviation {network.encoder.std.tolist()} is not positive")
    for name, module in network.body.named_modules():
        if isinstance(module, LIF):
            tau, threshold = float(module.tau.detach()), float(module.threshold.detach())
            if not (0 < tau <= 1 and threshold > 0):
                raise InputError(
                    f"'{path}': layer '{name}': tau {tau:g} must be in (0, 1] and threshold {threshold:g} positive; "
                    f"train again"
                )
        if isinstance(module, (TDBatchNorm, BNTT)) and bool((module.running_var < 0).any()):
            raise InputError(f"'{path}': layer '{name}': a running variance is negative; train again")


def _check_plain(recipe: object) -> None:
    """Refuse a recipe or graph of anything but numbers, texts, lists and tables, or one that holds itself.

    Raises:
        TypeError: as said.
    """
    waiting, places = [recipe], 0
    while waiting:
        value = waiting.pop()
        places += 1
        if places > _PLACES:
            raise TypeError(f"its recipe or graph has more than {_PLACES:,} values")
        if isinstance(value, (dict, list)):
            waiting += [*value, *value.values()] if isinstance(value, dict) else value
        elif value is not None and not isinstance(value, (str, int, float)):
            raise TypeError(f"its recipe or graph holds a {type(value).__name__}")


def recipe_of(content: dict[str, Any], path: str | Path) -> recipes.Recipe:
    """The recipe in a model file or a checkpoint; a field that came later stands at its default.

    Raises:
        InputError: there is none, or it is not valid.
    """
    try:
        _check_plain(content["recipe"])
        return recipes.parse(content["recipe"], source=f"recipe inside '{path}'")
    except InputError as error:  # a line for every wrong key
        raise type(error)(one_line("; ".join(error.lines), 1000)) from None
    except (KeyError, TypeError) as error:
        raise InputError(f"'{path}' is damaged: {type(error).__name__} {first_line(error)}") from None


def _stored(name: str, value: object, kinds: Sequence[torch.dtype], path: str | Path) -> torch.Tensor:
    """A tensor of one of these kinds that is stored value by value.

    Raises:
        InputError: it is none.
    """
    if not isinstance(value, torch.Tensor) or value.dtype not in kinds:
        raise InputError(f"'{path}': '{one_line(str(name))}' is not a tensor of real numbers")
    plain = value.layout is torch.strided and value.device.type == "cpu"
    if not plain or value.untyped_storage().nbytes() < value.numel() * value.element_size():
        raise InputError(f"'{path}': '{one_line(str(name))}' is not stored as plain values; save the model again")
    return value


def _numbers(name: str, value: object, path: str | Path) -> NDArray[Any]:
    tensor = _stored(name, value, (*_REAL, *_WHOLE), path).detach()
    return (tensor.float() if tensor.dtype in _HALF else tensor).numpy()


def _build(
    recipe: recipes.Recipe,
    shape: tuple[int, int, int],
    classes: int,
    max_value: int,
    state: dict[str, Any],
    path: str | Path,
) -> SpikingNetwork:
    """The network of a recipe, once it is known that the file has the weights for it.

    Raises:
        InputError: the recipe builds nothing, or the tensors are not those of what it builds.
    """
    blocks = sum(layer.blocks for layer in recipe.model.layers if layer.type == "residual")
    if blocks > len(state):
        raise InputError(f"'{path}': weights do not fit its recipe: {blocks:,} blocks, {len(state):,} tensors")
    try:
        with warnings.catch_warnings(), torch.device("meta"):  # shapes without memory
            warnings.simplefilter("ignore", UserWarning)
            wanted = build_network(recipe, shape, classes, max_value).state_dict()
    except InputError as error:
        raise InputError(f"'{path}': its network cannot be built: {one_line(str(error), 400)}") from None
    except Exception as error:  # torch's RuntimeError, TypeError, OverflowError, ... for sizes beyond its integers
        if out_of_memory(error):
            raise
        raise InputError(f"'{path}' is damaged: its network cannot be built: {first_line(error)}") from None
    for name in (*wanted, *state):
        if name not in state or name not in wanted:
            what = "lacks" if name in wanted else "has too much"
            raise InputError(f"'{path}': weights do not fit its recipe: the file {what} '{one_line(str(name))}'")
        value = _stored(name, state[name], _REAL, path)
        if value.shape != wanted[name].shape:
            raise InputError(
                f"'{path}': weights do not fit its recipe: '{name}' has shape {one_line(str(tuple(value.shape)))}, its "
                f"layer {tuple(wanted[name].shape)}"
            )
    return build_network(recipe, shape, classes, max_value)


def _fill(network: SpikingNetwork, state: dict[str, Any], path: str | Path) -> None:
    """Put finite weights into the network that `_build` made for them."""
    for name, value in state.items():
        if not bool(torch.isfinite(value).all()):
            bad = int((~torch.isfinite(value)).sum())
            raise InputError(f"'{path}': '{name}' holds {bad} NaN or infinite of {value.numel()} values; train again")
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        if out_of_memory(error):
            raise
        reason = " ".join(line.strip() for line in str(error).splitlines()[1:3])
        raise InputError(f"'{path}': weights do not fit its recipe: {one_line(reason, 400)}") from None


def load(path: str | Path) -> Model:
    """Read the model of a recipe.

    Raises:
        InputError: unreadable, truncated, of another format, with code in it, with weights that are missing,
            of the wrong shape, NaN or infinite (named by tensor), or with constants that make no sense; or a graph.
    """
    found = load_any(path)
    if isinstance(found, Graph):
        raise InputError(
            f"'{path}' holds the graph of '{found.name}', and no recipe, by which networks are trained, retrained and "
            f"collapsed here; do that where it was trained, and deploy it again"
        )
    return found


def load_any(path: str | Path) -> Model | Graph:
    """Read what model.pt or model.safetensors holds: a recipe's model, or the graph of a network made elsewhere.

    Raises:
        InputError: as `load`; or a graph whose nodes make no network, named by layer.
    """
    content = load_tensors(path)
    made_by, version = content.get("format"), content.get("version")
    if not isinstance(made_by, str) or made_by != FORMAT:
        said = f"'{one_line(made_by)}'" if isinstance(made_by, str) else type(made_by).__name__
        raise InputError(f"'{path}' is not a model made by `snn2chip train` (format {said}, expected '{FORMAT}')")
    if not isinstance(version, int) or version != VERSION:
        said = one_line(repr(version)) if isinstance(version, (int, str)) else type(version).__name__
        raise InputError(f"'{path}' has format version {said}, this snn2chip reads {VERSION}; update snn2chip")
    return _graph(content, path) if "graph" in content else _model(content, path)


def _graph(content: dict[str, Any], path: str | Path) -> Graph:
    """The graph in a file's content.

    Raises:
        InputError: see `load_any`.
    """
    name, state, metrics, samples = (content.get(key) for key in ("name", "state", "metrics", "samples"))
    if not isinstance(name, str) or not isinstance(state, dict) or not isinstance(metrics, dict):
        raise InputError(f"'{path}' is damaged: a graph has a name, a state and metrics")
    try:
        _check_plain(content["graph"])
    except TypeError as error:
        raise InputError(f"'{path}' is damaged: {first_line(error)}") from None
    arrays = {key: _numbers(str(key), value, path) for key, value in state.items()}
    given = None if samples is None else _numbers("samples", samples, path)
    try:
        network = of_plain(content["graph"], arrays)
    except InputError as error:
        raise type(error)(f"'{path}': {error}") from None
    shape = (*((network.timesteps,) if network.input.coding == "events" else ()), *network.input.shape)
    if given is not None and (given.dtype.kind not in "iu" or given.shape[1:] != shape or not len(given)):
        raise InputError(f"'{path}' is damaged: samples {given.dtype} {given.shape} are no integers (N, {shape})")
    return Graph(network, one_line(name), None if given is None else given.astype(np.int64), metrics)


def _model(content: dict[str, Any], path: str | Path) -> Model:
    """A recipe's model in a file's content.

    Raises:
        InputError: see `load`.
    """
    recipe = recipe_of(content, path)
    try:
        for name, kinds in _FIELDS.items():  # a tensor is all of these to whoever only iterates
            if not isinstance(content[name], kinds):
                raise TypeError(f"{name} is of type {type(content[name]).__name__}")
        channels, height, width = (int(side) for side in content["input_shape"])
        classes = tuple(content["classes"])
        max_value = int(content["max_value"])
        state = dict(content["state"])
        metrics = dict(content["metrics"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"'{path}' is damaged: {type(error).__name__} {first_line(error)}") from None
    if min(channels, height, width) < 1 or not classes or channels * height * width > _PIXELS:
        raise InputError(
            f"'{path}' is damaged: input shape {(channels, height, width)}, {len(classes)} classes; "
            f"all of them must be at least 1, and an image has at most {_PIXELS:,} values"
        )
    if not all(isinstance(name, str) for name in classes):
        raise InputError(f"'{path}' is damaged: the names of its classes are no texts")
    network = _build(recipe, (channels, height, width), len(classes), max_value, state, path)
    _fill(network, state, path)
    check_values(network, path)
    network.eval()
    return Model(network, recipe, max_value, classes, metrics)
