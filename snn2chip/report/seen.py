"""What a trained network and its integers do on samples: decisions, spikes and membranes side by side, for the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from snn2chip import ir
from snn2chip.chip.profile import UNIT
from snn2chip.data import ImageSet
from snn2chip.errors import InputError
from snn2chip.fit.cost import Meter
from snn2chip.fit.table import Fit
from snn2chip.ir.encode import encoder_of
from snn2chip.ir.interpreter import evaluate
from snn2chip.ir.trace import Trace
from snn2chip.report.tables import activity_notes
from snn2chip.simulate.dense import DenseEngine
from snn2chip.simulate.run import Simulation, confusion_of, counted
from snn2chip.verify.compare import by_origin

_BATCH = 10  # samples whose membranes are in memory
_BITS = 8_000_000  # of spikes in the page
_TRACES = 4  # neurons of a layer whose membranes are drawn
_BINS, _LOW, _HIGH = 60, -3.0, 1.0  # of membranes, in thresholds
_CHANGED = 24  # samples whose decision changed that are shown
_FRAMES = 10  # of a recording

Progress = Callable[[int, int], None]


def seen(
    folded: ir.Network, chain: ir.Chain, images: ImageSet, found: Fit | None, *, drawn: int, progress: Progress
) -> dict[str, Any]:
    """Run both on all of `images`, and keep the spikes and membranes of `drawn` of them, changed decisions first.

    layers     by name: how many spikes differ of how many, the share of neurons that fire, and the decisions when it
               and all before are integers and the rest float: how many are as in the float network, and right
    membranes  by name: how often a membrane was where, in thresholds, after a step in which it did not spike; those far
               below are left out
    samples    the drawn ones
    simulate   what `snn2chip simulate` says of these images
    """
    layers = [node.name for node in folded.of(ir.LIF)]
    engine, encode = DenseEngine(chain), encoder_of(chain)
    meter = _meter(found)
    labels = images.labels.numpy()
    floats, integers, parts = [], [], []
    partly: list[list[NDArray[np.int64]]] = [[] for _ in layers]
    differ, of, sent = (np.zeros(len(layers), np.int64) for _ in range(3))
    counts = np.zeros((len(layers), 2, _BINS), np.int64)
    for start in range(0, len(images), _BATCH):
        raw = encode(images.images[start : start + _BATCH])
        both = _Both(folded, chain, raw, counted(engine, chain.port(raw), meter, batch_size=_BATCH, keep=True))
        floats.append(both.scores.argmax(1))
        integers.append(both.trace.scores.argmax(1))
        parts.append(Trace({}, {}, both.trace.scores, both.trace.counts, both.trace.largest))
        given: dict[str, NDArray[Any]] = {}
        for index, name in enumerate(layers):
            wanted, fired = both.spikes[name]
            differ[index] += int((wanted != fired).sum())
            of[index] += wanted.size
            sent[index] += int(fired.sum())
            for which, (kept, spiked) in enumerate(zip(both.membranes[name], both.spikes[name], strict=True)):
                counts[index, which] += _histogram(kept[~spiked])
            given[name] = fired
            scores = evaluate(folded, raw, keep=False, given=given).scores
            partly[index].append(scores.argmax(1).numpy())
        progress(min(start + _BATCH, len(images)), len(images))
    wanted, decided = np.concatenate(floats), np.concatenate(integers)
    changed = np.flatnonzero(wanted != decided)
    rest = np.flatnonzero(wanted == decided)
    picked = np.concatenate([changed, rest])[:drawn]
    result = Simulation(
        Trace.joined(parts), len(images), chain.timesteps, 0.0, float(np.mean(decided == labels)), engine.name,
        images.name, cost=None if meter is None else meter.cost(), confusion=confusion_of(labels, decided),
    )  # fmt: skip
    steps = [np.concatenate(each) for each in partly]
    return {
        "classes": list(chain.classes),
        "agree": int((wanted == decided).sum()),
        "right": [int((wanted == labels).sum()), int((decided == labels).sum())],
        "of": len(images),
        "layers": [
            {
                "name": name,
                "differ": int(differ[index]),
                "of": int(of[index]),
                "rate": float(sent[index] / of[index]),
                "agree": int((steps[index] == wanted).sum()),
                "right": int((steps[index] == labels).sum()),
            }
            for index, name in enumerate(layers)
        ],
        "membranes": {name: counts[index].tolist() for index, name in enumerate(layers)},
        "changed": [
            {
                "sample": int(index),
                "picture": picture(images, int(index)),
                "label": int(labels[index]),
                "float": int(wanted[index]),
                "integers": int(decided[index]),
            }
            for index in changed[:_CHANGED]
        ],
        "changes": len(changed),
        "samples": [
            _sample(folded, chain, images, int(index), _BITS // max(1, 2 * len(picked) * len(layers)))
            | {"label": int(labels[index]), "float": int(wanted[index]), "integers": int(decided[index])}
            for index in picked
        ],
        "simulate": {**result.as_json(chain), "notes": activity_notes(chain, result), "seen": True},
    }


def histogram_range() -> tuple[float, float, int]:
    """Lowest and highest membrane of `membranes`, in thresholds, and how many bins."""
    return _LOW, _HIGH, _BINS


class _Both:
    """Samples in the folded network, and in the chain's integers by trained layer; pairs (float, integers)."""

    def __init__(self, folded: ir.Network, chain: ir.Chain, raw: ir.IntArray, trace: Trace) -> None:
        float_trace, named = evaluate(folded, raw), by_origin(trace, chain)
        self.trace, self.scores = trace, float_trace.scores.numpy()
        self.spikes: dict[str, tuple[NDArray[np.bool_], NDArray[np.bool_]]] = {}
        self.membranes: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]] = {}
        for node in folded.of(ir.LIF):
            wanted, (fired, voltage) = float_trace.spikes[node.name].numpy(), named[node.name]
            self.spikes[node.name] = wanted, fired.astype(bool)
            left = float_trace.membranes[node.name].numpy() / node.threshold
            self.membranes[node.name] = np.where(wanted, 0, left), voltage / _threshold(chain, node.name, voltage)


def _threshold(chain: ir.Chain, name: str, voltage: NDArray[Any]) -> NDArray[np.float64]:
    """Of the chain's layer that holds these neurons, in units of its voltages (N, T, C, ...)."""
    layer = next(each for each in chain.layers if name in each.origin)
    if layer.steps is None:
        return np.array(max(1, UNIT * layer.threshold), np.float64)
    table = layer.steps.threshold[: voltage.shape[1], slice(*layer.origin[name])].astype(np.float64)
    return np.maximum(np.abs(table), 1).reshape(1, *table.shape, *(1,) * (voltage.ndim - 3))


def _histogram(values: NDArray[np.float64]) -> NDArray[np.int64]:
    found, _ = np.histogram(values, _BINS, (_LOW, _HIGH))
    return found


def _meter(found: Fit | None) -> Meter | None:
    """Where the network can be placed and the chip has prices."""
    try:
        return None if found is None else Meter(found)
    except InputError:
        return None


def _sample(folded: ir.Network, chain: ir.Chain, images: ImageSet, index: int, room: int) -> dict[str, Any]:
    """A sample's picture, and of each layer spikes (bits, neuron by neuron) and some membranes; `room` bits a layer."""
    raw = encoder_of(chain)(images.images[index : index + 1])
    both = _Both(folded, chain, raw, DenseEngine(chain).run(chain.port(raw)))
    layers = []
    for name, (wanted, fired) in both.spikes.items():
        steps, size = wanted.shape[1], wanted[0, 0].size
        pair = [values.reshape(steps, size).T for values in (wanted, fired)]
        shown = np.arange(size)
        if size * steps > room:
            shown = np.sort(np.random.default_rng(0).choice(size, max(1, room // steps), replace=False))
        order = np.lexsort((-pair[0].sum(1), -(pair[0] != pair[1]).sum(1)))[:_TRACES]
        left = [values.reshape(steps, size).T for values in both.membranes[name]]
        layers.append(
            {
                "name": name,
                "size": size,
                "neurons": None if len(shown) == size else shown.tolist(),
                "shown": len(shown),
                "steps": steps,
                "shape": list(wanted.shape[2:]),
                "spikes": [base64.b64encode(np.packbits(values[shown]).tobytes()).decode() for values in pair],
                "differ": int((pair[0] != pair[1]).sum()),
                "traces": [
                    {
                        "neuron": int(neuron),
                        "float": np.round(left[0][neuron], 4).tolist(),
                        "integers": np.round(left[1][neuron], 4).tolist(),
                        "spikes": [values[neuron].astype(int).tolist() for values in pair],
                    }
                    for neuron in order
                ],
            }
        )
    return {"sample": index, "picture": picture(images, index), "layers": layers}


def picture(images: ImageSet, index: int) -> str:
    """A sample as a PNG in a data URL; of a recording its frames side by side, or of a sensor of one row its pixels
    over time; ON red and OFF blue."""
    values = images.images[index]
    if images.events is not None:
        frames = values.float().flip(1)
        if frames.shape[2] == 1:
            return _png(_events(frames[:, :, 0].permute(1, 2, 0).numpy()))
        groups = torch.tensor_split(frames, min(_FRAMES, len(frames)))
        cells: Sequence[NDArray[np.uint8]] = [_events(group.sum(0).numpy()) for group in groups]
        edge = np.full((cells[0].shape[0], 1, 3), 128, np.uint8)
        return _png(np.concatenate([part for cell in cells for part in (cell, edge)][:-1], 1))
    levels = (values.float() * (255 / images.max_value)).round().to(torch.uint8).numpy()
    return _png(np.moveaxis(levels, 0, 2) if len(levels) == 3 else levels.mean(0).astype(np.uint8))


def _events(counts: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Counts (2, H, W), ON first, or (1, H, W) of one polarity, as colours on white."""
    strong = counts / max(1.0, float(np.percentile(counts[counts > 0], 95)) if counts.any() else 1.0)
    on, off = strong.clip(0, 1) if len(counts) == 2 else (strong[0].clip(0, 1), 0.0)
    channels = [1 - 0.88 * off - 0.16 * on, 1 - 0.53 * off - 0.84 * on, 1 - 0.29 * off - 0.84 * on]
    return (255 * np.stack(channels, 2).clip(0, 1)).astype(np.uint8)


def _png(pixels: NDArray[np.uint8]) -> str:
    from PIL import Image  # slow, and not needed by what reads a record

    memory = io.BytesIO()
    Image.fromarray(pixels).save(memory, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(memory.getvalue()).decode()}"
