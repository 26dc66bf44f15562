"""One environment as it is pinned."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from snn2chip.places import deploy_file


@dataclass(frozen=True)
class Kind:
    """What an environment holds, and how it is called.

    title        of the simulator, 'Lava'
    folder       under deploy/, with its programs and locks; also its folder in the cache, its command and the package
                 that an interpreter must import
    name         of this environment among the simulator's own, 'light'; '' if there is but one
    pythons      versions that carry it, the preferred one first; `download`: the one that uv fetches where none is
                 there
    locks        requirement files in the order of installing, with pip's options for each
    program      one of its programs: with ``--check`` it imports everything and prints JSON, see `environment`
    by_hand      what an interpreter must have that is given ready, in $SNN2CHIP_<FOLDER>_PYTHON
    complete     nothing may be stood in for
    note         said while its locks are installed
    """

    title: str
    folder: str
    name: str
    pythons: tuple[str, ...]
    download: str
    locks: tuple[tuple[str, tuple[str, ...]], ...]
    program: str
    by_hand: str
    complete: bool = False
    note: str = ""

    @property
    def variable(self) -> str:
        """The environment variable that names an interpreter."""
        return f"SNN2CHIP_{self.folder.upper()}_PYTHON"

    @property
    def setup(self) -> str:
        """The command that makes it."""
        return f"snn2chip {self.folder} setup{' --full' if self.name == 'full' else ''}"

    @property
    def files(self) -> list[tuple[Path, tuple[str, ...]]]:
        """Its locks, by their paths."""
        return [(deploy_file(self.folder, name), options) for name, options in self.locks]
