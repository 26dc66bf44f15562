"""explore: one page in which the compiled engine runs a network on samples, step by step, and shows every neuron."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snn2chip import __version__
from snn2chip.chip.products import check_steps
from snn2chip.chip.profile import DECAY_ONE, UNIT
from snn2chip.data import ImageSet
from snn2chip.errors import InputError, reading
from snn2chip.ir import Chain, ChainLayer, IntArray, Shape
from snn2chip.ir.encode import encoder_of
from snn2chip.report import html
from snn2chip.simulate.events import browser
from snn2chip.simulate.events.plan import chunk_of, plan
from snn2chip.text import one_line

MOST_SAMPLES = 100
MOST_BYTES = 1 << 30  # of what a browser keeps of a sample: spikes and voltages of all steps, the weights


@dataclass(frozen=True, eq=False)
class Samples:
    """What a page lets one choose from.

    Attributes:
        raw: integers (N, T, *raw_shape) before the centre is taken off; (N, 1, *raw_shape) where all steps are alike.
        names: one each.
        labels: indexes of classes, or None where they are not known.
    """

    raw: IntArray
    names: tuple[str, ...]
    labels: tuple[int, ...] | None


def numbers_of(said: str) -> list[int]:
    """Numbers of samples, from 0: "0,3,7-9".

    Raises:
        InputError: none of that kind, or more than `MOST_SAMPLES`.
    """
    found: list[int] = []
    for part in said.split(","):
        first, dash, last = (end.strip() for end in part.partition("-"))
        if not (first.isdecimal() and len(first) < 10 and (not dash or (last.isdecimal() and len(last) < 10))):
            raise InputError(f"--samples '{one_line(said)}': expected numbers as 0,3,7-9, or a file .npy")
        numbers = range(int(first), int(last or first) + 1)
        if not numbers or len(found) + len(numbers) > MOST_SAMPLES:
            raise InputError(f"--samples '{one_line(said)}': 1 to {MOST_SAMPLES} samples go into a page")
        found += numbers
    return found


def from_set(chain: Chain, images: ImageSet, numbers: Sequence[int]) -> Samples:
    """Samples of a data set by number.

    Raises:
        InputError: the set has no such sample, or does not fit the network.
    """
    if max(numbers) >= len(images):
        raise InputError(f"--samples {max(numbers)}: {images.name} has samples 0 to {len(images) - 1}")
    rows = list(numbers)
    names = tuple(f"{images.name} {number}" for number in rows)
    return Samples(_raw(chain, images.images[rows].numpy()), names, tuple(images.labels[rows].tolist()))


def from_file(chain: Chain, path: Path) -> Samples:
    """Samples of an .npy: pixels (N, *raw_shape), or what each step shows (N, T, *raw_shape), integers.

    Raises:
        InputError: unreadable, another shape, too many, or values that the network does not take.
    """
    with reading(path, "no .npy"):
        found: Any = np.load(path, mmap_mode="r", allow_pickle=False)
    shape, steps = chain.raw_shape, (chain.timesteps, *chain.raw_shape)
    if not isinstance(found, np.ndarray) or found.shape[1:] not in (shape, steps):
        said = found.shape if isinstance(found, np.ndarray) else "of an .npz"
        raise InputError(
            f"'{path}' holds an array {said}; the network takes (samples, {_sides(shape)}) or steps of it,"
            f" (samples, {_sides(steps)})"
        )
    if not 1 <= len(found) <= MOST_SAMPLES:
        raise InputError(f"'{path}' holds {len(found)} samples; 1 to {MOST_SAMPLES} go into a page")
    if found.dtype.kind not in "iub":
        raise InputError(f"'{path}' holds {found.dtype}; expected integers {chain.low}..{chain.high}")
    values: NDArray[Any] = np.array(found)
    if found.shape[1:] == steps and (shape != steps[1:] or found.ndim == len(steps) + 1):
        chain.port(values)  # refuses what is out of range
        raw = values.astype(np.int64)
    else:
        raw = _raw(chain, values)
    return Samples(raw, tuple(f"{path.name} {number}" for number in range(len(values))), None)


def _sides(shape: Shape) -> str:
    return ", ".join(map(str, shape))


def _raw(chain: Chain, images: NDArray[Any]) -> IntArray:
    """Images, or binned events, as integers before the centre is taken off; one step where all steps are the same."""
    encoder = encoder_of(chain)
    if chain.coding == "direct":
        encoder.timesteps = 1
    raw = encoder(images)
    chain.port(raw)  # refuses what is out of range
    return raw


def page(chains: Sequence[Chain], names: Sequence[str], samples: Samples) -> str:
    """The page of one network, or of two side by side on the same samples.

    Raises:
        InputError: two networks that do not take the same input through layers of the same shapes, or one that needs
            more memory than a browser gives.
        UnsupportedError: sums that 32 bits do not hold, or the engine for the browser is not there.
    """
    first = chains[0]
    for other in chains[1:]:
        _alike(first, other)
    steps = first.timesteps
    data = {
        "steps": steps,
        "shape": first.raw_shape,
        "classes": [one_line(name) for name in first.classes],
        "low": first.low,
        "high": first.high,
        "samples": {
            "names": [one_line(name) for name in samples.names],
            "labels": samples.labels,
            "steps": samples.raw.shape[1],
            "values": _packed(samples.raw.astype("<i4").tobytes()),
        },
        "networks": [_network(chain, name) for chain, name in zip(chains, names, strict=True)],
        "engine": _packed(browser.module()),
    }
    return html.render("explore", data=data, names=list(names), version=__version__)


def _alike(first: Chain, other: Chain) -> None:
    """Refuse two networks that cannot be held against each other."""
    for what in ("raw_shape", "coding", "timesteps", "pixel_max", "low", "high"):
        one, two = getattr(first, what), getattr(other, what)
        if one != two:
            raise InputError(
                f"the two networks differ in their {what.replace('_', ' ')}, {one} and {two}; compare "
                f"networks that take the same samples"
            )
    shapes = [[layer.shape for layer in chain.layers] for chain in (first, other)]
    if shapes[0] != shapes[1]:
        raise InputError(
            f"the two networks differ in the shapes of their layers, {one_line(shapes[0], 200)} and "
            f"{one_line(shapes[1], 200)}; spikes are compared neuron by neuron"
        )


def _packed(values: bytes) -> str:
    return base64.b64encode(gzip.compress(values, 6, mtime=0)).decode()


def _network(chain: Chain, name: str) -> dict[str, Any]:
    """A network as the page's script reads it: see `Network` of explore.js."""
    for layer in chain.layers:
        if layer.steps is not None:
            check_steps(layer.name, layer.steps, chain.timesteps)
    plans = plan(chain)
    image = browser.image(plans)
    needed = len(image) + sum(5 * chain.timesteps * int(np.prod(layer.shape)) for layer in chain.layers)
    if needed > MOST_BYTES:
        raise InputError(
            f"'{one_line(name)}': {needed >> 20:,} MiB for its weights and the spikes and voltages of a sample exceed "
            f"the {MOST_BYTES >> 20:,} MiB that a page may take; use simulate --output"
        )
    shapes = [chain.input_shape, *(layer.shape for layer in chain.layers)]
    constants = np.concatenate([part for layer in chain.layers for part in _constants(layer, chain.timesteps)])
    return {
        "name": one_line(name),
        "center": chain.center,
        "range": [int(chain.port_range[0].min()), int(chain.port_range[1].max())],
        "membrane": chain.readout == "membrane",
        "chunk": chunk_of(plans),
        "layers": [_layer(layer, shape) for layer, shape in zip(chain.layers, shapes, strict=False)],
        "constants": _packed(constants.astype("<i4").tobytes()),
        "image": _packed(image),
    }


def _constants(layer: ChainLayer, timesteps: int) -> list[IntArray]:
    """Biases of all neurons; and where they change with time leak, lift and threshold, (T, C) each."""
    tables = layer.steps
    varying = [] if tables is None else [tables.leak, tables.bias, tables.threshold]
    return [layer.bias.ravel(), *(table[:timesteps].ravel() for table in varying)]


def _layer(layer: ChainLayer, before: Shape) -> dict[str, Any]:
    """One layer; its input (C, H, W), a kernel as large as its input where it is dense."""
    source = (*before, 1, 1) if len(before) == 1 else before
    conv = layer.kind == "conv"
    return {
        "name": layer.name,
        "kind": layer.kind,
        "from": [[one_line(name), *ends] for name, ends in layer.origin.items()],
        "shape": (*layer.shape, 1, 1)[:3],
        "input": source,
        "kernel": layer.weight.shape[2:] if conv else source[1:],
        "stride": layer.stride if conv else (1, 1),
        "padding": layer.padding if conv else (0, 0),
        "dilation": layer.dilation if conv else (1, 1),
        "keep": DECAY_ONE - layer.voltage_decay,
        "current_keep": DECAY_ONE - layer.current_decay,
        "threshold": layer.threshold * UNIT,
        "leak_shift": None if layer.steps is None else layer.steps.leak_shift,
    }
