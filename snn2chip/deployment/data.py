"""Whatever a user has images in, as the integers that the chip's input takes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from snn2chip import ir
from snn2chip.data import ImageSet
from snn2chip.errors import InputError

WHOLE = 1e-2  # how far a pixel may be from a whole number once it is scaled back, after float16 or float32


@dataclass(frozen=True)
class Scaling:
    """What a network sees of a pixel: ``(pixel / high - mean) / std``, one mean and std a channel or one for all."""

    high: int
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def described(self) -> str:
        """The rule, in words."""
        return f"(pixel / {self.high} - {_said(self.mean)}) / {_said(self.std)}"


def _said(values: Sequence[float]) -> str:
    return f"{values[0]:g}" if len(values) == 1 else "[" + ", ".join(f"{value:g}" for value in values) + "]"


def gather(data: Any, limit: int | None = None) -> tuple[NDArray[Any], NDArray[np.int64] | None]:
    """Samples (N, ...) and labels (N,), if there are any, of a tensor, an array, a pair of them, an ImageSet, a
    DataLoader, a Dataset or any iterable of samples or (sample, label); the first `limit` of them.

    Raises:
        InputError: none of these, nothing in it, or samples of different shapes.
    """
    if isinstance(data, ImageSet):
        part = data.subset(limit)
        data = (part.images[:], part.labels)
    if isinstance(data, (torch.Tensor, np.ndarray)):
        return _array(data)[:limit], None
    if isinstance(data, tuple) and len(data) == 2 and all(_whole(part) for part in data):
        samples, labels = _array(data[0]), _array(data[1])
        if labels.ndim != 1 or len(labels) != len(samples):
            raise InputError(f"{len(samples)} samples with labels of shape {labels.shape}; give one a sample")
        return samples[:limit], labels[:limit].astype(np.int64)
    if not isinstance(data, (Dataset, Iterable)):
        raise InputError(f"data is a {type(data).__name__}; give a tensor, an array, (samples, labels) or a DataLoader")
    parts: list[NDArray[Any]] = []
    labels_of: list[NDArray[Any]] = []
    batched, seen = isinstance(data, DataLoader), 0
    for item in _items(data):
        sample, label = item if isinstance(item, (tuple, list)) and len(item) == 2 else (item, None)
        values = _array(sample) if batched else _array(sample)[None]
        parts.append(values)
        if label is not None:
            labels_of.append(_array(label).reshape(-1))
        seen += len(values)
        if limit is not None and seen >= limit:
            break
    if not parts:
        raise InputError("the data is empty; give at least one sample")
    if len({part.shape[1:] for part in parts}) > 1:
        raise InputError(f"samples of shapes {sorted({part.shape[1:] for part in parts})}; give all of one shape")
    samples = np.concatenate(parts)[:limit]
    found = np.concatenate(labels_of)[:limit].astype(np.int64) if labels_of else None
    if found is not None and len(found) != len(samples):
        raise InputError(f"{len(samples)} samples, but {len(found)} labels; give one a sample")
    return samples, found


def _items(data: Any) -> Iterator[Any]:
    if isinstance(data, Dataset) and not isinstance(data, Iterable):
        return (data[index] for index in range(len(data)))  # type: ignore[arg-type]
    return iter(data)


def _whole(value: Any) -> bool:
    return isinstance(value, (torch.Tensor, np.ndarray)) and value.ndim > 0


def _array(value: Any) -> NDArray[Any]:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    found = np.asarray(value)
    if found.dtype.kind not in "fiub":
        raise InputError(f"data holds {found.dtype}, not numbers; turn images into tensors first (ToTensor, say)")
    return found


def integers(samples: NDArray[Any], scaling: Scaling) -> tuple[ir.IntArray, str | None]:
    """The pixels, and what was done to get them.

    Integers are pixels as they are. Floats must be what the network sees of whole pixels, ``(pixel / high - mean) /
    std``, or ``pixel / high``; nothing is rounded that was not a pixel.

    Raises:
        InputError: floats of other values, or integers outside 0..high.
    """
    high = scaling.high
    if samples.dtype.kind in "iub":
        found = samples.astype(np.int64)
        if found.size and not 0 <= found.min() <= found.max() <= high:
            raise InputError(f"integers {found.min()}..{found.max()} exceed the pixels 0..{high}; give max_value=")
        return found, None
    if not np.isfinite(samples).all():
        raise InputError("samples hold NaN or infinite values")
    values = samples.astype(np.float64)
    axes = (-1, 1, 1) if samples.ndim > 3 else (-1,)
    mean, std = (np.asarray(part).reshape(axes) if len(part) > 1 else part[0] for part in (scaling.mean, scaling.std))
    rules = {scaling.described(): (values * std + mean) * high, f"pixel / {high}": values * high}
    for rule, back in rules.items():
        whole = np.rint(back)
        if np.abs(back - whole).max(initial=0) <= WHOLE and whole.min() >= 0 and whole.max() <= high:
            return whole.astype(np.int64), f"floats were taken back to pixels 0..{high}: they are {rule}"
    raise InputError(
        f"floats {values.min():.4g}..{values.max():.4g} are not {' or '.join(rules)} of whole pixels; give the "
        f"integers themselves, or mean=, std= and max_value= that the network was trained with"
    )
