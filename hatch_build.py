"""Recipes (and only the recipes) of the zoo into the wheel, and the event engine compiled for this machine.

Where the engine cannot be compiled, the package is built without it, and says so: it is compiled at its first use, or
done without.
"""

import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

WITHOUT = """\
WARNING: built without the compiled event engine: {reason}
  This installs and runs everywhere. The engine is compiled at its first use if there is a C++ compiler then; without
  one, simulation takes the dense engine: the same spikes, slower. To have it within, install a C++ compiler (g++ or
  clang++), or name one in $CXX, and build again."""


class RecipeHook(BuildHookInterface):
    """Adds models/<name>/recipe.toml to the wheel as snn2chip/_data/models/<name>/recipe.toml, and the library.

    An editable install reads models/ in the checkout itself, and gets the library compiled beside its source.
    """

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        sys.path.insert(0, self.root)  # of the package, only what needs nothing but the standard library
        from snn2chip.errors import InputError
        from snn2chip.native import EVENTS, HASH

        editable = version == "editable"
        target = EVENTS.beside
        if not editable:
            self._folder = tempfile.TemporaryDirectory(prefix="snn2chip-")  # kept until the wheel is written
            target = Path(self._folder.name) / target.name
        try:
            EVENTS.build(target)
        except InputError as reason:
            self.app.display_warning(WITHOUT.format(reason=reason))  # on stderr; pip shows it with -v
        else:
            if not editable:
                inside = EVENTS.beside.relative_to(Path(self.root).resolve())
                for ending in ("", HASH):
                    build_data["force_include"][f"{target}{ending}"] = f"{inside}{ending}"
                # the library uses nothing of Python: one wheel for every version of it
                platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
                build_data["pure_python"] = False
                build_data["tag"] = f"py3-none-{platform}"
        if editable:
            return
        for recipe in sorted(Path(self.root).glob("models/*/recipe.toml")):
            build_data["force_include"][str(recipe)] = f"snn2chip/_data/models/{recipe.parent.name}/recipe.toml"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        folder = getattr(self, "_folder", None)
        if folder is not None:
            folder.cleanup()
