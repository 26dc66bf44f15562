"""Recordings of event cameras: read (`read_recording`), binned over time (`bin_events`)."""

from snn2chip.events.binning import BinSettings, Tally, bin_events
from snn2chip.events.formats import SUFFIXES, read_recording
from snn2chip.events.recording import Events, Faults, Sensor, make_events

__all__ = [
    "SUFFIXES",
    "BinSettings",
    "Events",
    "Faults",
    "Sensor",
    "Tally",
    "bin_events",
    "make_events",
    "read_recording",
]
