"""snn2chip: from a trained spiking network to Loihi's integers and Lava, spike for spike.

What is public: the names here, those of `snn2chip.nn`, and the commands; docs/api.md lists them. All else may change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from snn2chip.deployment import Deployed as Deployed
    from snn2chip.deployment import deploy as deploy
    from snn2chip.deployment import load as load
    from snn2chip.errors import CheckFailed as CheckFailed
    from snn2chip.errors import ChipLimitError as ChipLimitError
    from snn2chip.errors import InputError as InputError
    from snn2chip.errors import SetupError as SetupError
    from snn2chip.errors import Snn2ChipError as Snn2ChipError
    from snn2chip.errors import UnsupportedError as UnsupportedError

__version__ = "0.1.0"
__all__ = [
    "CheckFailed",
    "ChipLimitError",
    "Deployed",
    "InputError",
    "SetupError",
    "Snn2ChipError",
    "UnsupportedError",
    "__version__",
    "deploy",
    "load",
]


def __getattr__(name: str) -> Any:
    """The public names, loaded when they are first asked for: importing the package stays light."""
    if name in ("deploy", "Deployed", "load"):
        from snn2chip import deployment

        return getattr(deployment, name)
    if name in __all__:
        from snn2chip import errors

        return getattr(errors, name)
    raise AttributeError(f"module 'snn2chip' has no attribute '{name}'")
