"""What `report` finds in a folder, and adds to its record."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from snn2chip import chip as chips
from snn2chip import ir, places
from snn2chip.data import ImageSet
from snn2chip.errors import InputError, reading
from snn2chip.fit import demand
from snn2chip.fit.table import Fit, fit
from snn2chip.formats import netx
from snn2chip.passes.fold import folded
from snn2chip.passes.pipeline import Source
from snn2chip.report import graph
from snn2chip.report.record import Record
from snn2chip.report.seen import seen

_NETWORKS = (".pt", ".safetensors", ".nir")
Load = Callable[[Path, Mapping[str, Any]], Source]
"""Reads a network's file, with what the .net file says of how it was made."""


class Run:
    """A folder's network, its .net file and its record; files are known by what they hold, not by their names.

    Of several networks the one that the record names, or model.pt; of several .net files the record's, or the network's
    namesake.

    Raises:
        InputError: no network, or one that is damaged; or the record is.
    """

    def __init__(self, folder: Path, load: Load) -> None:
        if not folder.is_dir():
            there = (
                f"is a file; give the folder that it is in, '{folder.parent}'"
                if folder.exists()
                else "is not there; give the folder of a run, which holds model.pt"
            )
            raise InputError(f"cannot read folder '{folder}': it {there}")
        self.folder = folder
        self.record = Record.at(folder) or Record(folder)
        named = self.record.files.get("model", "model.pt")
        self.net, self.chain = None, None
        if any(folder.glob("*.net")):
            net = self.record.files.get("net", f"{Path(named).stem}.net")
            self.net, self.chain = _first(folder, (".net",), net, netx.load)
        made = {} if self.chain is None else self.chain.made
        self.path, self.source = _first(folder, _NETWORKS, named, lambda path: load(path, made))

    def gather(self, images: ImageSet | None, pictures: int, progress: Callable[[int, int], None]) -> Record:
        """The record, with everything that can be said of network, .net file and images.

        Raises:
            InputError: the .net file was made from another network.
        """
        record = self.record
        train = record.entries.get("train", {})
        history = train.get("history") or _history(self.path.with_name("metrics.jsonl"))
        said = {"history": history, "epochs": train.get("epochs", len(history))}
        record.add("about", "model", self.path, graph.about(self.source))
        record.add("train", "model", self.path, {**self.source.metrics, **said})
        if self.chain is None or self.net is None:
            return record
        network = folded(self.source.network)
        trained = {node.name for node in network.of(ir.LIF)}
        held = {name for layer in self.chain.layers for name in layer.origin}
        if self.chain.raw_shape != network.input.shape or not trained <= held:
            raise InputError(f"'{self.net}' was not made from '{self.path}'; export it again")
        found = _fit(self.chain)
        record.forget()
        drawn = {"graph": graph.nodes_of(network, self.chain), "made": self.chain.made}
        where = f"no table of cores: the chip's profile is not in the folder {places.CHIPS_VARIABLE}"
        drawn |= {"unplaced": where} if found is None else graph.drawn(network, self.chain, found)
        record.add("export", "net", self.net, drawn | record.entries.get("export", {}))
        if images is not None:
            shown = seen(network, self.chain, images, found, drawn=pictures, progress=progress)
            record.add("seen", "net", self.net, shown)
        return record


def _fit(chain: ir.Chain) -> Fit | None:
    """On the chip that it was made for, if its profile is here."""
    made_for = str(chain.made.get("chip"))
    return (
        fit(demand.of_chain(chain), chips.with_cores(chips.load(made_for))) if made_for in places.chip_files() else None
    )


def _first(folder: Path, endings: tuple[str, ...], named: str, load: Callable[[Path], Any]) -> tuple[Path, Any]:
    """The file of that name, or the first with one of these endings that can be loaded."""
    found = [path for ending in endings for path in sorted(folder.glob(f"*{ending}"))]
    paths = sorted(found, key=lambda path: path.name != named)
    refused: InputError | None = None
    for path in paths or [folder / named]:
        try:
            return path, load(path)
        except InputError as error:
            if path.name == named:
                raise
            refused = refused or error
    assert refused is not None
    raise refused


def _history(path: Path) -> list[dict[str, float]]:
    """The rows of metrics.jsonl; none without."""
    if not path.is_file():
        return []
    with reading(path, kind="of another snn2chip", remedy="delete it"):
        return [dict(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
