"""Where recipes, chip profiles and the Lava runner are (in the checkout, or in the wheel), and the user's cache."""

from __future__ import annotations

import os
from pathlib import Path

from snn2chip.errors import InputError
from snn2chip.text import did_you_mean

CACHE_VARIABLE = "SNN2CHIP_CACHE"
CHIPS_VARIABLE = "SNN2CHIP_CHIPS"
RECORD, PAGE = "report.json", "report.html"  # of a run, in its folder
RECORD_FORMAT = "snn2chip-report"  # what the record says that it is, first of all
_PACKAGE = Path(__file__).resolve().parent
# A wheel carries the data inside the package; an editable install reads the checkout beside it.
_ROOT = _PACKAGE / "_data" if (_PACKAGE / "_data").is_dir() else _PACKAGE.parent


def cache_folder() -> Path:
    """Where what is made once per user is kept (environments, compiled code): $SNN2CHIP_CACHE, or the user's cache."""
    from platformdirs import user_cache_dir

    return Path(os.environ.get(CACHE_VARIABLE) or user_cache_dir("snn2chip")).expanduser().absolute()


def deploy_file(*parts: str) -> Path:
    """Path of a file under deploy/, e.g. ``deploy_file("lava", "run_network.py")``."""
    path = _ROOT.joinpath("deploy", *parts)
    if not path.exists():
        raise InputError(f"'{path}' is missing from this installation; reinstall snn2chip")
    return path


def recipe_names() -> list[str]:
    """Names of the recipes that ship with the package, sorted."""
    return sorted(path.parent.name for path in (_ROOT / "models").glob("*/recipe.toml"))


def recipe_file(name: str) -> Path:
    """Path of the shipped recipe `name`.

    Raises:
        InputError: there is no such recipe; the message lists those there are.
    """
    path = _ROOT / "models" / name / "recipe.toml"
    if not path.is_file():
        names = recipe_names()
        hint = f"{did_you_mean(name, names)}shipped recipes are {', '.join(names)}; or give a path"
        raise InputError(f"no recipe '{name}': {hint}")
    return path


def chip_files() -> dict[str, Path]:
    """Chip profiles by name: those that ship with the package, and NAME.toml in the folder $SNN2CHIP_CHIPS.

    Raises:
        InputError: a profile there has the name of one that ships.
    """
    found = {path.stem: path for path in sorted((_ROOT / "deploy" / "chips").glob("*.toml"))}
    if folder := os.environ.get(CHIPS_VARIABLE):
        for path in sorted(Path(folder).expanduser().glob("*.toml")):
            if path.stem in found:
                raise InputError(f"{CHIPS_VARIABLE}: '{path}' has the name of a chip that ships; give it another")
            found[path.stem] = path
    return found
