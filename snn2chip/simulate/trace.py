"""The file in which a run's spikes and voltages are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snn2chip import npz
from snn2chip.errors import InputError
from snn2chip.files import atomic_path
from snn2chip.ir import Chain, FloatArray, IntArray
from snn2chip.ir.trace import Trace
from snn2chip.text import one_line


def save(path: str | Path, trace: Trace, outputs: FloatArray | None = None) -> None:
    """Write arrays ``spikes/<layer>`` and ``voltage/<layer>`` to an .npz, and `outputs` if given, whole or not at
    all."""
    arrays: dict[str, NDArray[Any]] = {} if outputs is None else {"outputs": outputs}
    arrays.update({f"spikes/{name}": values for name, values in trace.spikes.items()})
    arrays.update({f"voltage/{name}": values for name, values in trace.voltage.items()})
    with atomic_path(path) as part, part.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def load(path: str | Path, chain: Chain) -> Trace:
    """Read a trace written by `save` or by the Lava runner; scores follow from the last layer.

    Raises:
        InputError: unreadable, or a layer is missing.
    """
    arrays = npz.load(path, {f"{kind}/{layer.name}" for kind in ("spikes", "voltage") for layer in chain.layers})
    length = next((found.shape[:2] for found in arrays.values()), ())
    for layer in chain.layers:
        for kind in ("spikes", "voltage"):
            if f"{kind}/{layer.name}" not in arrays:
                raise InputError(f"'{path}' has no array '{kind}/{layer.name}'; made from another network?")
            found = arrays[f"{kind}/{layer.name}"]
            if found.dtype.kind not in "iub" or found.shape != (*length, *layer.shape) or 0 in length:
                raise InputError(
                    f"'{path}': array '{kind}/{layer.name}' is {found.dtype} of shape {found.shape}; "
                    f"expected integers (samples, T, {', '.join(map(str, layer.shape))}), as many in every array; made "
                    f"from another network?"
                )
            kept: type[np.generic] = np.uint8 if kind == "spikes" else np.int32
            if (found.astype(kept) != found).any():
                raise InputError(f"'{path}': array '{kind}/{layer.name}' holds {found.min()}..{found.max()}; damaged")
    spikes = {layer.name: arrays[f"spikes/{layer.name}"].astype(np.uint8) for layer in chain.layers}
    voltage = {layer.name: arrays[f"voltage/{layer.name}"].astype(np.int32) for layer in chain.layers}
    last = chain.layers[-1].name
    if chain.readout == "membrane":
        scores = voltage[last][:, -1].astype(np.int64)
    else:
        scores = spikes[last].astype(np.int64).sum(1)
    return Trace(spikes, voltage, scores)


def load_input(path: str | Path, chain: Chain) -> IntArray:
    """Read the array ``input`` (samples, T, C, H, W) or (samples, T, features) of port integers.

    Raises:
        InputError: unreadable, not integers, another shape, more timesteps than the network's, or values
            outside the network's range.
    """
    return check_input(input_array(path), chain, str(path))


def input_array(path: str | Path) -> NDArray[np.generic]:
    """The array ``input`` of an .npz, as it stands.

    Raises:
        InputError: unreadable, or no such array.
    """
    names = npz.heads(path)
    if "input" not in names:
        raise InputError(f"'{path}' has no array 'input'; it holds {one_line(', '.join(sorted(names))) or 'nothing'}")
    return npz.load(path, ["input"])["input"]


def check_input(values: NDArray[np.generic], chain: Chain, source: str = "input") -> IntArray:
    """Port integers as int64, or an `InputError` that says what does not fit (see `load_input`)."""
    if values.dtype.kind not in "iub":
        raise InputError(f"'{source}': array 'input' is {values.dtype}; expected integers (value minus centre)")
    wanted = f"(samples, {chain.timesteps}, {', '.join(map(str, chain.input_shape))})"
    if values.ndim != 2 + len(chain.input_shape) or values.shape[2:] != chain.input_shape:
        raise InputError(f"'{source}': array 'input' has shape {values.shape}; the network takes {wanted}")
    if values.shape[1] > chain.timesteps:
        raise InputError(
            f"'{source}': {values.shape[1]} timesteps exceed the file's {chain.timesteps}; "
            f"the network was trained and reset for {chain.timesteps}"
        )
    if values.shape[0] == 0 or values.shape[1] == 0:
        raise InputError(f"'{source}': array 'input' has shape {values.shape}, nothing to run; expected {wanted}")
    # each channel has its own range; a dense first layer flattens them
    channel: NDArray[Any] = values.reshape(*values.shape[:2], *chain.raw_shape)
    per_channel = (-1, *(1,) * (len(chain.raw_shape) - 1))
    low, high = (bound.reshape(per_channel) for bound in chain.port_range)
    if (channel < low).any() or (channel > high).any():
        raise InputError(
            f"'{source}': values {values.min()}..{values.max()} exceed the port's {low.min()}..{high.max()}; "
            f"feed value minus centre {list(chain.center)}, channel by channel"
        )
    checked: IntArray = values.astype(np.int64)
    return checked
