"""Put every zoo recipe, and only the recipe, into the wheel: weights and cards stay in the repository."""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class RecipeHook(BuildHookInterface):
    """Adds models/<name>/recipe.toml to the wheel as snn2chip/_data/models/<name>/recipe.toml."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":  # an editable install reads models/ in the checkout itself
            return
        for recipe in sorted(Path(self.root).glob("models/*/recipe.toml")):
            target = f"snn2chip/_data/models/{recipe.parent.name}/recipe.toml"
            build_data["force_include"][str(recipe)] = target
