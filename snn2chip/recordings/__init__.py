"""Recordings of event cameras: read (`read_recording`, `read_in_pieces`), binned over time (`bin_events`, `Binner`)."""

from snn2chip.recordings.binning import Binner, BinSettings, Tally, bin_events
from snn2chip.recordings.formats import SUFFIXES, read_recording
from snn2chip.recordings.pieces import PIECE_SUFFIXES, read_in_pieces
from snn2chip.recordings.recording import Events, Faults, Sensor, make_events

__all__ = [
    "PIECE_SUFFIXES",
    "SUFFIXES",
    "BinSettings",
    "Binner",
    "Events",
    "Faults",
    "Sensor",
    "Tally",
    "bin_events",
    "make_events",
    "read_in_pieces",
    "read_recording",
]
