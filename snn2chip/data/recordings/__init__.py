"""Recordings of event cameras: read (`read_recording`, `read_in_pieces`), binned over time (`bin_events`, `Binner`)."""

from snn2chip.data.recordings.binning import Binner, BinSettings, Tally, bin_events
from snn2chip.data.recordings.files import SUFFIXES, read_recording
from snn2chip.data.recordings.pieces import PIECE_SUFFIXES, read_in_pieces
from snn2chip.data.recordings.recording import Events, Faults, Sensor, make_events

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
