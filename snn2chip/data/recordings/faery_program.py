"""Reads recordings with `faery`, in a process of its own: see `snn2chip.data.recordings.library`, which starts it.

A line of JSON in, [file, bytes of memory, seconds of the processor, columns]; a line of JSON out, [width, height,
count] and then the columns one after the other, or [what is wrong].
"""

import json
import resource
import signal
import sys

import faery


def limit(kind: int, most: int) -> None:
    """Lower a limit of this process, or raise it again, within what the system allows."""
    hard = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def answer(path: str, memory: int, seconds: int, columns: list[list[str]]) -> None:
    """Read one file and write what is in it."""
    limit(resource.RLIMIT_AS, memory)
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + 1 + seconds)
    try:
        stream = faery.events_stream_from_file(path)
        width, height = stream.dimensions()
        found = stream.to_array()
        head: list[object] = [int(width), int(height), len(found)]
        content = [found[name].astype(kind).tobytes() for name, kind in columns]
    except BaseException as error:  # RuntimeError for almost everything; Rust's PanicException is no Exception
        head, content = [f"{type(error).__name__}: {error}"], []
    sys.stdout.buffer.write(json.dumps(head).encode() + b"\n")
    for column in content:
        sys.stdout.buffer.write(column)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started it ends it
    limit(resource.RLIMIT_CORE, 0)
    for line in sys.stdin:
        answer(*json.loads(line))
