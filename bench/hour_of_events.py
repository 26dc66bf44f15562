"""An hour of real recordings, one after the other, through `snn2chip stream`.

    python bench/hour_of_events.py NET --recordings DIR [--minutes 60] [--folder DIR] [--json FILE]

DIR holds N-MNIST's Test folder (Test/DIGIT/*.bin). Their events are written one recording after the other, shuffled,
with the time running on, into one .bin, whose 23-bit time wraps every 8.4 s. The command reads it as a process of its
own; its memory is looked at four times a second. Printed and written: the peak of the resident memory after one minute
of the recording and at the end, the time it took, and how many of the windows were decided for the digit shown, where a
window lies within one recording.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import harness
import numpy as np

from snn2chip.data.recordings import Events, read_recording
from snn2chip.formats import netx

PAGE = os.sysconf("SC_PAGE_SIZE")
ROW = 5  # bytes an event


def rows_of(events: Events) -> np.ndarray:
    """The events as (n, 5) bytes, times from 0; written by `shifted` with an offset."""
    rows = np.empty((len(events), ROW), np.uint8)
    rows[:, 0], rows[:, 1] = events.x, events.y
    return rows


def shifted(rows: np.ndarray, events: Events, start: int) -> bytes:
    """N-MNIST's 40 bits an event, the first of them `start` microseconds after the stream's."""
    t = (events.t - events.t[0] + start) & 0x7FFFFF
    rows[:, 2] = events.p << 7 | t >> 16
    rows[:, 3], rows[:, 4] = t >> 8 & 0xFF, t & 0xFF
    return rows.tobytes()


def write_stream(target: Path, recordings: Path, seconds: float, step_us: int, seed: int = 0) -> list[tuple[int, int]]:
    """Write `seconds` of recordings to `target`; gives each one's first step in the stream and its digit.

    Every recording begins at the start of a step, so that a window of its length shows one digit.
    """
    found = [(read_recording(path, (34, 34)), int(path.parent.name)) for path in harness.digits(recordings)]
    rows = [rows_of(events) for events, _ in found]
    rng = np.random.default_rng(seed)
    shown: list[tuple[int, int]] = []
    step = 0
    with target.open("wb") as file:
        while step * step_us < seconds * 1e6:
            index = int(rng.integers(len(found)))
            events, digit = found[index]
            file.write(shifted(rows[index], events, step * step_us))
            shown.append((step, digit))
            step += events.duration_us // step_us + 1
    return shown


def resident(pid: int) -> int:
    """Bytes of memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE


def stream(net: Path, recording: Path, answer: Path, minutes: float) -> dict[str, object]:
    """Run the command; its memory over the recording's time, and how long it took."""
    command = [sys.executable, "-m", "snn2chip", "stream", str(net), str(recording)]
    started = time.monotonic()
    process = subprocess.Popen(
        [*command, "--every", "1", "--json", str(answer)], stdout=subprocess.PIPE, text=True, bufsize=1
    )
    seen: list[tuple[float, int]] = []  # seconds of the recording, bytes
    now = [0.0]

    def watch() -> None:
        while process.poll() is None:
            try:
                seen.append((now[0], resident(process.pid)))
            except (OSError, IndexError):
                return
            time.sleep(0.25)

    watcher = threading.Thread(target=watch)
    watcher.start()
    assert process.stdout is not None
    for line in process.stdout:
        if at := re.match(r"\s*([\d,]+\.\d+) s  step", line):
            now[0] = float(at[1].replace(",", ""))
    code = process.wait()
    watcher.join()
    if code:
        raise SystemExit(code)
    after = [(at, size) for at, size in seen if at > 0]
    early = max(size for at, size in after if at <= 60)
    return {
        "minutes": minutes,
        "seconds": time.monotonic() - started,
        "peak_first_minute_mb": early / 1e6,
        "peak_mb": max(size for _, size in after) / 1e6,
        "grown_mb": (max(size for _, size in after) - early) / 1e6,
        "looked": len(after),
    }


def right(answer: Path, shown: list[tuple[int, int]], window: int) -> tuple[int, int]:
    """Windows within one recording that were decided for its digit, and how many there were."""
    said = {item["step"]: item["decision"] for item in json.loads(answer.read_text())["moments"]}
    starts = np.array([step for step, _ in shown])
    hits = count = 0
    for end in range(window, len(said) + 1, window):
        first = int(np.searchsorted(starts, end - window, side="right")) - 1
        if first + 1 < len(starts) and starts[first + 1] < end:
            continue
        count += 1
        hits += said[end] == str(shown[first][1])
    return hits, count


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("net", type=Path)
    parser.add_argument("--recordings", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--folder", type=Path, help="where the stream is written; default: a temporary folder")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    chain = netx.load(given.net)
    step_us = chain.made["events"]["dt_us"]
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        recording, answer = Path(folder, "stream.bin"), Path(folder, "answer.json")
        shown = write_stream(recording, given.recordings, given.minutes * 60, step_us)
        figures = stream(given.net, recording, answer, given.minutes)
        figures["bytes"] = recording.stat().st_size
        figures["windows_right"], figures["windows"] = right(answer, shown, chain.timesteps)
    harness.tell(figures, given.json)


if __name__ == "__main__":
    main()
