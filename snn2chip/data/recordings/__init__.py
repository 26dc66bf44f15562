"""Recordings of event cameras: read (`read_recording`, `read_in_pieces`), binned over time (`bin_events`, `Binner`)."""

from snn2chip.data.recordings.binning import Binner as Binner
from snn2chip.data.recordings.binning import BinSettings as BinSettings
from snn2chip.data.recordings.binning import Tally as Tally
from snn2chip.data.recordings.binning import bin_events as bin_events
from snn2chip.data.recordings.files import PIECE_SUFFIXES as PIECE_SUFFIXES
from snn2chip.data.recordings.files import SUFFIXES as SUFFIXES
from snn2chip.data.recordings.files import read_in_pieces as read_in_pieces
from snn2chip.data.recordings.files import read_recording as read_recording
from snn2chip.data.recordings.recording import Events as Events
from snn2chip.data.recordings.recording import Faults as Faults
from snn2chip.data.recordings.recording import Sensor as Sensor
from snn2chip.data.recordings.recording import make_events as make_events
