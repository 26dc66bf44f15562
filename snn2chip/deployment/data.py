"""Whatever a user has images in, as the integers that the chip's input takes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from snn2chip import ir
from snn2chip.choices import check_whole
from snn2chip.data import ImageSet
from snn2chip.errors import InputError
from snn2chip.text import first_line, one_line

WHOLE = 1e-2  # how far a pixel may be from a whole number once it is scaled back, after float16 or float32


@dataclass(frozen=True)
class Scaling:
    """What a network sees of a pixel: ``(pixel / high - mean) / std``, one mean and std a channel or one for all.

    `asked` says whether the three are the caller's to give, or the network's own.
    """

    high: int
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    asked: bool = True

    def described(self) -> str:
        """The rule, in words."""
        if not any(self.mean) and {*self.std} == {1.0}:
            return f"pixel / {self.high}"
        return f"(pixel / {self.high} - {_said(self.mean)}) / {_said(self.std)}"


def _said(values: Sequence[float]) -> str:
    return f"{values[0]:g}" if len(values) == 1 else "[" + ", ".join(f"{value:g}" for value in values) + "]"


def gather(
    data: Any, limit: int | None = None, *, labelled: bool = True
) -> tuple[NDArray[Any], NDArray[np.int64] | None]:
    """Samples (N, ...) and labels (N,), if there are any, of a tensor, an array, a pair of them, an ImageSet, a
    DataLoader, a Dataset or any iterable of samples or (sample, label); the first `limit` of them. Unless `labelled`,
    what stands beside a sample is not looked at.

    Raises:
        InputError: none of these, nothing in it, samples of different shapes, labels that are no numbers of classes, or
            a limit below 1.
    """
    if limit is not None:
        check_whole("samples", limit, 1)
    samples, labels = _gathered(data, limit, labelled)
    if samples.ndim == 0 or not len(samples):
        raise InputError("the data is empty; give at least one sample")
    return samples, labels


def _gathered(data: Any, limit: int | None, labelled: bool) -> tuple[NDArray[Any], NDArray[np.int64] | None]:
    if isinstance(data, ImageSet):
        part = data.subset(limit)
        data = (part.images[:], part.labels)
    if isinstance(data, (torch.Tensor, np.ndarray)):
        values = _array(data)
        return values[:limit] if values.ndim else values, None
    if _pair(data):
        samples, labels = _array(data[0]), _labels(data[1]) if labelled else None
        if len(data[1]) != len(samples) or (labels is not None and labels.ndim != 1):
            shape = tuple(getattr(data[1], "shape", (len(data[1]),)))
            raise InputError(f"{len(samples)} samples with labels of shape {shape}; give one a sample")
        return samples[:limit], None if labels is None else labels[:limit]
    if not isinstance(data, (Dataset, Iterable)) or isinstance(data, (str, bytes, Mapping)):
        raise InputError(f"data is a {type(data).__name__}; give a tensor, an array, (samples, labels) or a DataLoader")
    parts: list[NDArray[Any]] = []
    labels_of: list[NDArray[Any]] = []
    batched, seen = isinstance(data, DataLoader), 0
    for item in _items(data):
        if isinstance(item, Mapping) or (isinstance(item, tuple) and len(item) > 2):
            of = ", ".join(map(one_line, item)) if isinstance(item, Mapping) else f"{len(item)} parts"
            raise InputError(f"data gives a {type(item).__name__} of {of}; give samples, or pairs (sample, label)")
        sample, label = item if isinstance(item, (tuple, list)) and len(item) == 2 else (item, None)
        if isinstance(item, (tuple, list)) and len(item) == 1 and _whole(item[0]):
            sample = item[0]  # of a TensorDataset without labels
        values = _array(sample) if batched else _array(sample)[None]
        parts.append(values)
        if label is not None and labelled:
            labels_of.append(_labels(label).reshape(-1))
        seen += len(values)
        if limit is not None and seen >= limit:
            break
    if not parts:
        raise InputError("the data is empty; give at least one sample")
    if len({part.shape[1:] for part in parts}) > 1:
        raise InputError(f"samples of shapes {sorted({part.shape[1:] for part in parts})}; give all of one shape")
    samples = np.concatenate(parts)[:limit]
    found = np.concatenate(labels_of)[:limit] if labels_of else None
    if found is not None and len(found) != len(samples):
        raise InputError(f"{len(samples)} samples, but {len(found)} labels; give one a sample")
    return samples, found


def _items(data: Any) -> Iterator[Any]:
    if isinstance(data, Dataset) and not isinstance(data, Iterable):
        if not hasattr(data, "__len__"):
            raise InputError(f"{type(data).__name__} has no __len__; give it one, or a DataLoader")
        return (data[index] for index in range(len(data)))
    return iter(data)


def _whole(value: Any) -> bool:
    return isinstance(value, (torch.Tensor, np.ndarray)) and value.ndim > 0


def _pair(data: Any) -> bool:
    """Whether it is (samples, labels), and no two samples."""
    if not isinstance(data, (tuple, list)) or len(data) != 2 or not _whole(data[0]):
        return False
    if isinstance(data[1], (tuple, list)):
        return True
    return _whole(data[1]) and (isinstance(data, tuple) or data[1].ndim == 1 < data[0].ndim)


def _array(
    value: Any, what: str = "data", remedy: str = "turn images into tensors first (ToTensor, say)"
) -> NDArray[Any]:
    try:
        if isinstance(value, torch.Tensor):
            value = value.detach().to_dense() if value.layout != torch.strided else value.detach()
            value = value.dequantize() if value.is_quantized else value
            value = value.float() if value.is_floating_point() and value.element_size() < 4 else value  # bfloat16, say
            value = value.cpu().numpy()
        found = np.asarray(value)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise InputError(f"{what} cannot be read as an array ({first_line(error)}); {remedy}") from None
    if found.dtype.kind not in "fiub":
        raise InputError(f"{what} holds {found.dtype}, not numbers; {remedy}")
    if isinstance(value, np.ma.MaskedArray) and (hidden := int(np.sum(value.mask))):
        raise InputError(f"{what} is a masked array, {hidden:,} of its values hidden; fill them")
    return found


def _labels(value: Any) -> NDArray[np.int64]:
    """Numbers of classes.

    Raises:
        InputError: they are none.
    """
    found = _array(value, "labels", "give the number of each sample's class, from 0 on")
    whole: NDArray[np.int64] = found.astype(np.int64)
    if (whole != found).any() or (whole < 0).any():
        wrong = found[(whole != found) | (whole < 0)][0]
        raise InputError(f"labels hold {wrong:g}; give the number of each sample's class, from 0 on, or samples alone")
    return whole


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
            wanted = "give max_value=" if scaling.asked and found.min() >= 0 else "give pixels as the network saw them"
            raise InputError(f"integers {found.min()}..{found.max()} exceed the pixels 0..{high}; {wanted}")
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
    wanted = "give the integers themselves"
    if scaling.asked:
        wanted += ", or mean=, std= and max_value= that the network was trained with"
    elif (np.rint(values) == values).all():
        wanted += ": these are whole, so make them integers (.to(torch.uint8), say)"
    else:
        wanted += ", before any normalization: the network normalizes them itself"
    raise InputError(
        f"floats {values.min():.4g}..{values.max():.4g} are not {' or '.join(rules)} of whole pixels; {wanted}"
    )
