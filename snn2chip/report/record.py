"""What is known of a run: report.json in its folder, which commands add to, and from which report.html is drawn.

An entry is of one file, by the SHA-256 of its bytes: once the file is another, the entry counts no more. `train` and
`report` begin a record; other commands add to one that is there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from snn2chip.errors import InputError, reading
from snn2chip.files import read, sha256, write_text
from snn2chip.places import PAGE as PAGE
from snn2chip.places import RECORD as NAME
from snn2chip.places import RECORD_FORMAT
from snn2chip.report.page import render
from snn2chip.report.summary import known

_VERSION = 1


@dataclass
class Record:
    """The record of a folder.

    files    'model' and 'net': names in the folder
    entries  by kind: 'about' (name, description, classes and graph), 'train' (metrics and history), 'export',
             'simulate', 'verify' (their JSON), 'seen' (of `snn2chip.report.seen`); each with `digest`, that of the
             file that it is of, and `file`, which of the two that is
    """

    folder: Path
    files: dict[str, str] = field(default_factory=dict)
    entries: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def at(cls, folder: Path) -> Record | None:
        """The record of a folder; None if it has none.

        Raises:
            InputError: it is damaged, or of another version.
        """
        path = folder / NAME
        try:
            value = read(path, "JSON")
        except FileNotFoundError:
            return None
        with reading(path, kind="of another snn2chip", remedy=cls(folder)._remedy):
            if (value["format"], value["version"]) != (RECORD_FORMAT, _VERSION):
                raise ValueError(f"{value['format']} {value['version']}")
            files = {str(kind): Path(name).name for kind, name in value["files"].items()}
            entries = {str(kind): dict(entry) for kind, entry in value["entries"].items()}
            for entry in entries.values():
                if entry["file"] not in ("model", "net") or not isinstance(entry["digest"], str):
                    raise ValueError("an entry that is of no file")
        return cls(folder, files, entries)

    def add(self, kind: str, file: str, path: Path, values: Mapping[str, Any]) -> None:
        """An entry of `path`, the run's 'model' or 'net'; others of that file as it was before count no more."""
        self.files[file] = path.name
        self.entries[kind] = {**values, "file": file, "digest": sha256(path) if path.is_file() else ""}
        self.forget()

    def forget(self) -> None:
        """Leave out entries of files that have changed."""
        paths = {file: self.folder / name for file, name in self.files.items()}
        now = {file: sha256(path) if path.is_file() else "" for file, path in paths.items()}
        self.entries = {
            kind: entry for kind, entry in self.entries.items() if entry["digest"] == now.get(entry["file"])
        }

    def save(self, refresh: int = 0) -> Path:
        """Write report.json and report.html, which a browser loads again every `refresh` seconds unless 0; its path.

        Raises:
            InputError: an entry is not what snn2chip writes, or a file cannot be written.
        """
        content = {"format": RECORD_FORMAT, "version": _VERSION, "files": self.files, "entries": self.entries}
        with reading(self.folder / NAME, kind="of another snn2chip", remedy=self._remedy):
            text = render(self.entries, refresh)
        write_text(self.folder / PAGE, text)
        write_text(self.folder / NAME, json.dumps(content) + "\n")
        return self.folder / PAGE

    @property
    def _remedy(self) -> str:
        return f"delete it, and run snn2chip report {self.folder}"


def tell(net: Path, kind: str, values: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Add what a command found of a .net file to the record of its folder, if there is one.

    Returns what is known of the file now, by kind, and a note if the record could not be written: that does not undo
    what the command did.
    """
    facts: dict[str, Any] = {kind: values}
    try:
        record = Record.at(net.parent)
        if record is None:
            return facts, ""
        record.forget()
        if record.files.get("net", net.name) != net.name and kind != "export":
            return facts, ""  # the record is of another file
        before = record.entries.get(kind, {})
        if kind == "simulate" and before.get("samples", 0) > values["samples"]:
            return {**known(record.entries), kind: values}, ""  # of more samples already
        kept = {"cost": before["cost"]} if kind == "simulate" and "cost" in before else {}
        record.add(kind, "net", net, _dated(before, values) if kind == "verify" else kept | values)
        record.save()
    except (InputError, OSError) as error:
        return facts, f"{PAGE} is as it was: {error}"
    said = {"verify": values} if kind == "verify" else {}  # this verdict, whichever the record keeps
    return known(record.entries) | said, f"wrote {net.parent / PAGE}"


def _dated(before: Mapping[str, Any], verdict: Mapping[str, Any]) -> dict[str, Any]:
    """A verdict with `when` it was made.

    One in which every rung holds does not replace one that had others beside (Lava's, say), unless a rung that broke
    there holds now: of it is kept, as `again`, when it was made, on how many samples, and which rungs it was without.
    """
    when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    names = [rung["name"] for rung in verdict["rungs"]]
    rungs = before.get("rungs", ())
    without = [rung["name"] for rung in rungs if rung["name"] not in names]
    mended = any(not rung["passed"] and rung["name"] in names for rung in rungs)
    if verdict["passed"] and without and not mended:
        return {**before, "again": {"when": when, "samples": verdict["samples"], "without": without}}
    return {**verdict, "when": when}
