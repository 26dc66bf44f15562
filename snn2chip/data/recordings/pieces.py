"""A recording piece by piece, in bounded memory: what `read_recording` gives, cut somewhere.

.bin and .aedat are read so; the other formats are containers whose libraries give all events at once, and come as one
piece.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from snn2chip.data.recordings.files import BIN_PERIOD, bin_pieces, read_recording, readable
from snn2chip.data.recordings.recording import Events, Mender, size_of

PIECE_SUFFIXES = (".bin", ".aedat")
"""Formats that are read in bounded memory."""

PIECE = 1 << 16  # events at a time


def read_in_pieces(
    path: str | Path, sensor: Sequence[int] | None = None, *, assumed: Sequence[int] | None = None, most: int = PIECE
) -> Iterator[Events]:
    """One recording as pieces of about `most` events, in time's order, also across pieces.

    Arguments are those of `read_recording`. Joined, the pieces hold its events, and their faults add up to its faults.
    Events are held back until none can come before them, which is `JITTER_US`.

    Raises:
        DataError: as `read_recording`, each fault when it is reached; the share of events outside the sensor is that
            of the events so far, from 10,000 on, and of all at the end.
        SetupError: the format needs the optional extra `events`.
    """
    path = Path(path)
    with readable(path):
        suffix = path.suffix.lower()
        if suffix not in PIECE_SUFFIXES:
            yield read_recording(path, sensor, assumed=assumed)
            return
        with path.open("rb") as file:
            period: int | None
            if suffix == ".bin":
                size, period = size_of(path, None, sensor, assumed), BIN_PERIOD
                raw = bin_pieces(file, size, most)
            else:
                from snn2chip.data.recordings.aedat import aedat_pieces

                size, period, raw = aedat_pieces(file, path, sensor, assumed, most)
            mender = Mender(size, str(path), period)
            for part in raw:
                events = mender.push(part)
                if len(events) or events.faults:
                    yield events
            yield mender.finish()
