"""Compile the event-driven engine: C++ to one shared library beside it.

Standard library only, because the build hook runs this file by itself before anything is installed. In a checkout:

    python snn2chip/simulate/events/build.py
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
LIBRARY = "events_engine.so"
SOURCES = ("engine.cpp", "kernels.h", "vectors.h", "sums.h", "neurons.h")
# No -march: the source compiles its kernels once per instruction set and chooses when it runs.
FLAGS = ("-std=c++17", "-O3", "-fwrapv", "-fPIC", "-shared", "-pthread", "-fvisibility=hidden")


class BuildError(Exception):
    """Why there is no library, in one line."""


def fingerprint() -> str:
    """What the library is made from, as 16 hexadecimal digits: it tells them, so that an old one is not used."""
    whole = hashlib.sha256(" ".join(FLAGS).encode())
    for name in SOURCES:
        whole.update((HERE / name).read_bytes())
    return whole.hexdigest()[:16]


def compiler() -> list[str]:
    """The C++ compiler as a command: $CXX, or the first of c++, g++, clang++.

    Raises:
        BuildError: none found.
    """
    chosen = shlex.split(os.environ.get("CXX", ""))
    for name in [chosen[0]] if chosen else ["c++", "g++", "clang++"]:
        found = shutil.which(name)
        if found:
            return [found, *chosen[1:]]
    raise BuildError("no C++ compiler found (c++, g++ or clang++); install one")


def build(target: Path | None = None) -> Path:
    """Compile to `target` (default: beside the source), whole or not at all; gives the path.

    Raises:
        BuildError: no compiler, or it failed.
    """
    target = target or HERE / LIBRARY
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    made_from = f'-DSNN2CHIP_SOURCES="{fingerprint()}"'
    command = [*compiler(), *FLAGS, made_from, str(HERE / SOURCES[0]), "-o", str(part)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            said = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr.strip()[:200])
            raise BuildError(f"{command[0]} failed with exit code {done.returncode}: {said}")
        part.replace(target)
    except OSError as error:
        raise BuildError(f"cannot write '{target}': {error.strerror or error}") from None
    finally:
        part.unlink(missing_ok=True)
    return target


if __name__ == "__main__":
    try:
        print(build())
    except BuildError as reason:
        sys.exit(f"error: {reason}")
