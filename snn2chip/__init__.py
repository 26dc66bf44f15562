"""snn2chip: from a trained spiking network to Loihi's integers and Lava, spike for spike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from snn2chip.deployment import Deployed as Deployed
    from snn2chip.deployment import deploy as deploy

__version__ = "0.1.0"
__all__ = ["Deployed", "__version__", "deploy"]


def __getattr__(name: str) -> Any:
    """`deploy` and `Deployed`, loaded when they are first asked for: importing the package stays light."""
    if name in ("deploy", "Deployed"):
        from snn2chip import deployment

        return getattr(deployment, name)
    raise AttributeError(f"module 'snn2chip' has no attribute '{name}'")
