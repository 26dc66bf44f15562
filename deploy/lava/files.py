"""Read the network and its input, refusing what cannot be run step by step; write what was recorded."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import h5py
import numpy as np
from failures import RefusedError

STEPS = "SNN2CHIP_STEPS"  # the time-varying neuron of neurons/steps.py
COMPUTING = ("conv", "dense", "dense_rec")  # the layers that hold their input for one step
PASSING = ("input", "flatten")
NEURONS = ("CUBA", "LOIHI", STEPS)  # what netx maps to Lava's bit-accurate LIF, and ours


@dataclasses.dataclass(frozen=True)
class Layer:
    """One layer of the file: its number under `layer/`, its type, and how many steps after the input it
    computes (0 for layers that do not)."""

    number: str
    kind: str
    latency: int


def read_layers(net: Path) -> tuple[list[Layer], dict[str, int]]:
    """Layers of the netx file in order, and the integer attributes of its group `snn2chip`.

    Raises:
        RefusedError: not HDF5, not netx, or something in it that cannot be recorded step by step.
    """
    try:
        file = h5py.File(net, "r")
    except Exception as error:  # h5py's
        if not net.is_file():
            raise RefusedError(f"'{net}': no such file; give a netx network") from error
        raise RefusedError(f"'{net}' is not an HDF5 file; give a netx network") from error
    with file:
        group = file.get("layer")
        if not isinstance(group, h5py.Group) or sorted(group, key=_number) != [str(i) for i in range(len(group))]:
            raise RefusedError(f"'{net}' has no group 'layer' with members 0, 1, 2, ...; give a netx network")
        layers: list[Layer] = []
        latency = 0
        for number in sorted(group, key=int):
            kind = _text(net, number, group[number], "type")
            if kind in COMPUTING:
                latency += 1
                _check_neurons(net, number, kind, group[number])
            elif kind not in PASSING:
                raise RefusedError(
                    f"'{net}': layer {number} is '{kind}', which netx cannot load; it takes "
                    f"{', '.join(PASSING + COMPUTING)}: lower the network first"
                )
            elif kind == "input" and "neuron" in group[number]:
                raise RefusedError(
                    f"'{net}': layer {number} is an input with a neuron, which takes values through its bias "
                    "and not through its port; write the input without one and set input_message_bits"
                )
            layers.append(Layer(number, kind, latency if kind in COMPUTING else 0))
        if not latency:
            raise RefusedError(f"'{net}' has no conv or dense layer; nothing would be computed")
        about = {
            key: int(value)
            for key in ("input_message_bits", "timesteps")
            if "snn2chip" in file and (value := file["snn2chip"].attrs.get(key)) is not None
        }
    return layers, about


def _number(name: str) -> int:
    return int(name) if name.isdecimal() else -1


def _text(net: Path, number: str, group: h5py.Group, key: str) -> str:
    """The bytes dataset `key`, which netx stores as one value or as an array of one."""
    if not isinstance(group, h5py.Group) or key not in group:
        raise RefusedError(f"'{net}': layer {number} has no '{key}'; every netx layer needs one")
    value = np.asarray(group[key][()]).reshape(-1)[0]
    return value.decode("ascii") if isinstance(value, bytes) else str(value)


def _check_neurons(net: Path, number: str, kind: str, group: h5py.Group) -> None:
    """Refuse what would make the record differ from evaluating each sample by itself without delay."""
    if "delay" in group:
        raise RefusedError(f"'{net}': layer {number} has delays, which reach past the end of a sample; remove them")
    weight = group.get("weight")
    if kind != "conv" and isinstance(weight, h5py.Dataset) and not np.any(weight[()]):
        raise RefusedError(
            f"'{net}': every weight of layer {number} ({kind}) is 0, on which netx fails; make one of them 1"
        )
    if "neuron" in group:
        neuron = _text(net, number, group["neuron"], "type")
        if neuron not in NEURONS:
            raise RefusedError(
                f"'{net}': layer {number} ({kind}) has neurons of type '{neuron}'; only {', '.join(NEURONS)} are run"
            )


def read_any_layers(net: Path, most: int | None) -> tuple[list[Layer], bool]:
    """Layers with neurons of a netx file from anywhere, latency not counted, and whether the first is driven by bias.

    Raises:
        RefusedError: not HDF5, not netx, or a layer that netx cannot load.
    """
    if not net.is_file():
        raise RefusedError(f"'{net}': no such file; give a netx network")
    try:
        with h5py.File(net, "r") as file:
            group = file["layer"]
            kinds = {number: _text(net, number, group[number], "type") for number in sorted(group, key=int)[:most]}
            driven = kinds.get("0") == "input" and "neuron" in group["0"]
    except RefusedError:
        raise
    except Exception as error:  # h5py's
        raise RefusedError(f"'{net}' is not a netx network: {error}") from error
    for number, kind in kinds.items():
        if kind not in PASSING + COMPUTING:
            raise RefusedError(f"'{net}': layer {number} is '{kind}', which netx cannot load; give --layers {number}")
    return [
        Layer(number, kind, 0) for number, kind in kinds.items() if kind in COMPUTING or (kind == "input" and driven)
    ], driven


def read_input(path: Path) -> np.ndarray:
    """The array `input` as stored, (samples, T, C, H, W) or (samples, T, features), any integer type.

    Raises:
        RefusedError: no such file, no such array, not integers, or another number of axes.
    """
    data = read_arrays(path)
    if data.ndim not in (3, 5) or data.size == 0:
        raise RefusedError(
            f"'{path}': input has shape {data.shape}; give (samples, T, C, H, W) or (samples, T, features), not empty"
        )
    return data


def read_arrays(path: Path) -> np.ndarray:
    """The array `input` as stored, any integer type.

    Raises:
        RefusedError: no such file, no such array, or not integers.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            if "input" not in archive:
                raise RefusedError(f"'{path}' has no array 'input'; it has {', '.join(archive.files) or 'none'}")
            data = np.asarray(archive["input"])
    except FileNotFoundError as error:
        raise RefusedError(f"'{path}': no such file; give an .npz with an array 'input'") from error
    except RefusedError:
        raise
    except Exception as error:  # of numpy, zipfile or zlib
        raise RefusedError(f"'{path}' is not an .npz of plain arrays; write it with numpy.savez") from error
    if data.dtype.kind not in "iub":
        raise RefusedError(f"'{path}': input is {data.dtype}, not integers; the chip takes integers: round it first")
    return data


def fit_input(data: np.ndarray, ports: tuple[int, ...], path: Path, bits: int, flattens: bool) -> np.ndarray:
    """`data` as the network's in-port takes it, chip time last: (W, H, C, steps) or (features, steps).

    Raises:
        RefusedError: the shape is not the network's, or the values do not fit the messages.
    """
    samples, steps = data.shape[:2]
    if flattens and len(ports) == 1:
        data = data.reshape(samples, steps, -1)  # netx flattens as torch does
    if data.shape[2:] != ports[::-1]:
        raise RefusedError(
            f"'{path}': input is {data.shape[2:]} a step, the network takes {ports[::-1]}; reshape the input"
        )
    low, high = int(data.min()), int(data.max())
    if bits == 0 and not (low >= 0 and high <= 1):
        raise RefusedError(
            f"'{path}': input goes from {low} to {high}, but with input_message_bits 0 every value that is "
            "not 0 counts as 1; set input_message_bits in the network's group 'snn2chip', or give 0 and 1"
        )
    if low < -(2**23) or high >= 2**23:
        raise RefusedError(f"'{path}': input goes from {low} to {high}, beyond 24 bits signed; scale it down")
    by_time = data.astype(np.int32).reshape(samples * steps, *data.shape[2:])
    return np.ascontiguousarray(by_time.transpose())


def write(output: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write the arrays to `output`; whoever started this puts it where it belongs when it is whole.

    Raises:
        RefusedError: the disk is full or the folder cannot be written.
    """
    try:
        with output.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
    except OSError as error:
        raise RefusedError(
            f"cannot write '{output}': {error.strerror}; free some space or choose another place"
        ) from error
