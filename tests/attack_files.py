"""Damaged files for every reader of `fuzzing`, in one long campaign.

    python tests/attack_files.py --each 2000                 so many for every reader
    python tests/attack_files.py --count 100000 --seed 1     so many together

What is asked of a reader, and its limits of time and memory, are those of `tests.fuzzing`, which repeats any case.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator

from fuzzing import READERS
from fuzzing import campaign as fuzz

PART = 2000  # files of one reader before the next one's turn


def campaign(count: int, seed: int, names: list[str]) -> Iterator[tuple[str, int, list[str]]]:
    """Readers in turn, `PART` files at a time, until `count` are made: (summary, files, failures) each time."""
    done, place = 0, 0
    while done < count:
        for number, name in enumerate(names):
            size = min(PART, (count - done) // (len(names) - number) if count - done < PART * len(names) else PART)
            if not size:
                continue
            found = fuzz(name, seed, size, place)
            said = [f"{found.command(bad)}\n  {bad.outcome}: {bad.message}" for bad in found.failures]
            done += size
            yield found.summary(), size, said
        place += PART


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--each", type=int, help="files for every reader")
    parser.add_argument("--count", type=int, default=100_000, help="files together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--readers", nargs="*", help="only these")
    given = parser.parse_args()
    names = given.readers or list(READERS)
    count = given.each * len(names) if given.each else given.count
    files, failures, started = 0, 0, time.monotonic()
    for summary, size, said in campaign(count, given.seed, names):
        files, failures = files + size, failures + len(said)
        print("\n".join([*said, summary]), flush=True)
    seconds = time.monotonic() - started
    print(
        f"{files} files for {len(names)} readers, {failures} failures; {seconds:.0f} s, {files / seconds:.0f} files/s"
    )
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
