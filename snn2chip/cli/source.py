"""The file that a network comes from, told apart by what it holds: model.pt, model.safetensors, or a NIR graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from snn2chip.errors import InputError
from snn2chip.files import is_hdf5

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from snn2chip.data import ImageSet
    from snn2chip.data.recordings import BinSettings
    from snn2chip.formats.nir.run import Written
    from snn2chip.ir import IntArray, Network
    from snn2chip.nn.model_file import Model
    from snn2chip.passes.pipeline import Source

SourceArgument = Annotated[
    Path, typer.Argument(help="model.pt or model.safetensors, of `snn2chip train` or `deployed.save`, or a NIR graph.")
]
_ASKED = {"timesteps": int, "high": int, "dt": float, "mean": list, "std": list, "ties": str}
"""What a NIR graph may leave unsaid, by its name in the file that was made of it, and of which type it is there."""


@dataclass(frozen=True, eq=False)
class Read:
    """A network file: what it says, and what `verify` runs of it, the model, the graph as it is written, or nothing."""

    source: Source
    runs: Model | Network | Written


def is_net(path: Path) -> bool:
    """Whether a file holds a chip's layers, as model.net does, and no NIR graph."""
    from snn2chip.formats.netx.fields import opened

    return is_hdf5(path) and opened(path, lambda reader: reader.item("layer") is not None)


def read(
    path: Path,
    *,
    dataset: str | None = None,
    asked: Mapping[str, Any] | None = None,
    events: BinSettings | None = None,
) -> Read:
    """Read a network file; `dataset` where it names none, and what else NIR graphs leave unsaid.

    Raises:
        InputError: unreadable, damaged, a chip's file; or a data set is named twice.
    """
    from snn2chip.nn import model_file
    from snn2chip.passes import capture, pipeline

    if is_hdf5(path):
        from snn2chip.formats import nir

        if is_net(path):
            raise InputError(f"'{path}' holds a chip's layers already, as model.net does; give what it was made from")
        nir.package()
        written = nir.run.load(path, **(asked or {}), events=events)
        network = capture.check(written.captured)
        return Read(pipeline.Source(network, path.stem, dataset=dataset, events=events), written)
    model = model_file.load_any(path)
    source = pipeline.source_of(model)
    if dataset is not None and source.dataset is not None:
        raise InputError(f"--dataset is for graphs; '{path}' was trained on {source.dataset}, so leave it out")
    source = source if dataset is None else replace(source, dataset=dataset, events=events)
    return Read(source, source.network if isinstance(model, model_file.Graph) else model)


def made_from(path: Path, made: Mapping[str, Any]) -> Read:
    """Read the network file that a .net file was made from, with what it was told then; `made` is what that says.

    Raises:
        InputError: as `read`.
    """
    from snn2chip.data.recordings import BinSettings

    asked = made.get("nir", {})
    if not isinstance(asked, dict) or not all(isinstance(asked.get(key, kind()), kind) for key, kind in _ASKED.items()):
        raise InputError("the .net file does not say how its NIR graph was read; export it again")
    events = None if made.get("events") is None else BinSettings.from_json(made["events"])
    if not is_hdf5(path):
        found = read(path)
    else:
        found = read(path, asked={key: asked[key] for key in _ASKED if key in asked}, events=events)
    if found.source.dataset is not None or not isinstance(made.get("dataset"), str):
        return found
    return replace(found, source=replace(found.source, dataset=made["dataset"], events=events))


def arrays(images: ImageSet | IntArray) -> tuple[NDArray[Any], NDArray[np.int64] | None]:
    """Samples as an array, and their labels where they are a data set's."""
    from snn2chip.data import ImageSet

    return (images.images[:].numpy(), images.labels.numpy()) if isinstance(images, ImageSet) else (images, None)
