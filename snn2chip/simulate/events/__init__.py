"""The event-driven engine, compiled: `EventEngine`, and `unavailable`, which says why it cannot be used here."""

from __future__ import annotations

from snn2chip.errors import UnsupportedError
from snn2chip.simulate.events import library
from snn2chip.simulate.events.engine import EventEngine

__all__ = ["EventEngine", "unavailable"]


def unavailable() -> str | None:
    """Why the compiled library cannot be used, or None when it can."""
    try:
        library.load()
    except UnsupportedError as reason:
        return str(reason)
    return None
