"""Downloads from the publisher, checked against the published checksum."""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snn2chip.data.files import is_file
from snn2chip.errors import DataError, InputError
from snn2chip.files import atomic_path

TIMEOUT_S = 10.0
"""Longest wait for a connection, and between two pieces of the file; there are no retries."""


@dataclass(frozen=True)
class Download:
    """One published file: its address, the file name to keep it under and its checksum ("md5:...")."""

    url: str
    file: str
    checksum: str


def fetch(item: Download, folder: Path, absent: str) -> Path:
    """Download `item` into `folder` and return its path; a file already there and sound is kept.

    `absent` starts the error: what was looked for, where.

    The file appears whole and with the right checksum, or not at all. A progress bar is drawn only if
    standard error is a terminal.

    Raises:
        DataError: no connection, an HTTP error, a wrong checksum or no place to write; says where to put
            the file by hand.
    """
    import pooch
    from pooch.hashes import hash_matches
    from requests.exceptions import HTTPError, RequestException, Timeout

    target = folder / item.file
    bar = _Bar(item.file) if sys.stderr.isatty() else None
    download = pooch.HTTPDownloader(progressbar=bar or False, chunk_size=1 << 16, timeout=TIMEOUT_S)
    made = not folder.exists()
    try:
        if is_file(target) and hash_matches(target, item.checksum):
            return target
        with atomic_path(target) as part:
            try:
                download(item.url, str(part), None)
                hash_matches(part, item.checksum, strict=True)
            except HTTPError as error:
                answer = f"the server answered {error.response.status_code}" if error.response is not None else ""
                raise DataError(answer or "HTTP error") from error
            except Timeout as error:
                raise DataError(f"no answer within {TIMEOUT_S:.0f} s") from error
            except RequestException as error:
                raise DataError("no connection") from error
            except ValueError as error:
                raise DataError(f"what came differs from its checksum {item.checksum}") from error
    except (InputError, OSError) as error:
        if made:
            with suppress(OSError):
                folder.rmdir()
        raise DataError(
            f"{absent}; downloading {item.url} to '{folder}' failed ({error}): fetch {item.file} ({item.checksum}) "
            "by hand and put it there, or name a folder that holds the data set with --data"
        ) from error
    finally:
        if bar:
            bar.stop()
    return target


class _Bar:
    """The progress bar that pooch asks for, drawn with rich."""

    def __init__(self, title: str) -> None:
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

        from snn2chip.console import console_of

        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        self._progress = Progress(*columns, console=console_of(stderr=True))
        self._task = self._progress.add_task(title, total=None)
        self._progress.start()

    def __setattr__(self, name: str, value: Any) -> None:
        # pooch sets `total` (bytes, 0 if the server does not say) instead of calling anything.
        if name == "total":
            self._progress.update(self._task, total=value or None)
        else:
            super().__setattr__(name, value)

    def update(self, count: int) -> None:
        """Add `count` bytes."""
        self._progress.advance(self._task, count)

    def reset(self) -> None:
        """Start again from 0 bytes."""
        self._progress.update(self._task, completed=0)

    def close(self) -> None:
        """Nothing left to come."""
        self.stop()

    def stop(self) -> None:
        """Take the bar down; may be called twice."""
        self._progress.stop()
