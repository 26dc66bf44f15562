"""Recipes (and only the recipes) of the zoo into the wheel, and the event engine compiled for this machine.

Where the engine cannot be compiled, the package is built without it: it is then slower, not less able.
"""

import importlib.util
import sysconfig
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ENGINE = "snn2chip/simulate/events"


class RecipeHook(BuildHookInterface):
    """Adds models/<name>/recipe.toml to the wheel as snn2chip/_data/models/<name>/recipe.toml, and the library.

    An editable install reads models/ in the checkout itself, and gets the library compiled beside its source.
    """

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        builder = _builder(Path(self.root) / ENGINE / "build.py")
        editable = version == "editable"
        try:
            if editable:
                built = builder.build()
            else:
                folder = tempfile.TemporaryDirectory(prefix="snn2chip-")
                self._folder = folder  # kept until the wheel is written
                built = builder.build(Path(folder.name) / builder.LIBRARY)
        except builder.BuildError as reason:
            self.app.display_warning(f"the event engine is left out, simulation will be slower: {reason}")
        else:
            if not editable:
                build_data["force_include"][str(built)] = f"{ENGINE}/{builder.LIBRARY}"
                # the library uses nothing of Python: one wheel for every version of it
                platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
                build_data["pure_python"] = False
                build_data["tag"] = f"py3-none-{platform}"
        if editable:
            return
        for recipe in sorted(Path(self.root).glob("models/*/recipe.toml")):
            target = f"snn2chip/_data/models/{recipe.parent.name}/recipe.toml"
            build_data["force_include"][str(recipe)] = target

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        folder = getattr(self, "_folder", None)
        if folder is not None:
            folder.cleanup()


def _builder(path: Path) -> ModuleType:
    """build.py by itself: importing it through its package would want torch."""
    spec = importlib.util.spec_from_file_location("snn2chip_events_build", path)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
