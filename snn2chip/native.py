"""The C++ of the package as shared libraries: compiled once, loaded only as they were made.

`EVENTS` (the event-driven engine) is compiled when the package is installed and lies beside its sources; `NN` (what
trains) where it runs, for the processor found there. A library that is not beside its sources, or not whole, is
compiled at its first use and kept in the user's cache, in a folder that nobody else can write, under a name made of
everything it depends on. Beside each library is its SHA-256: one that was cut off would end the process (SIGBUS).

Standard library only, because the build hook uses this before anything is installed. In a checkout:

    python -m snn2chip.native
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from snn2chip.errors import InputError
from snn2chip.files import atomic_path, exclusive, not_only_ours, sha256, write_text
from snn2chip.places import cache_folder
from snn2chip.text import one_line

PACKAGE = Path(__file__).resolve().parent
HASH = ".sha256"  # after the library's name


def compiler() -> list[str]:
    """The C++ compiler as a command: $CXX, or the first of c++, g++, clang++.

    Raises:
        InputError: none found, or $CXX is no command.
    """
    try:
        chosen = shlex.split(os.environ.get("CXX", ""))
    except ValueError as error:
        raise InputError(f"$CXX is no command ({error}): {one_line(os.environ['CXX'])}; mend or unset it") from None
    for name in [chosen[0]] if chosen else ["c++", "g++", "clang++"]:
        found = shutil.which(name)
        if found:
            return [found, *chosen[1:]]
    if chosen:
        raise InputError(f"no C++ compiler found: $CXX is '{chosen[0]}'; name one that is there, or unset it")
    raise InputError("no C++ compiler found (c++, g++ or clang++); install g++")


def _processor() -> str:
    """What `-march=native` depends on: a cache may be shared between machines."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return "".join(sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))}))
    return platform.processor()


def _machine() -> str:
    """The processor that is compiled for: another than this one where sysconfig's variable says so, as of a wheel."""
    return os.environ.get("_PYTHON_HOST_PLATFORM", "").rpartition("-")[2] or platform.machine()


@dataclass(frozen=True)
class Library:
    """The sources of one shared library in `folder`, and how they are compiled.

    Of `choices`, further options, the first that the compiler takes.
    """

    name: str
    folder: Path
    sources: tuple[str, ...]
    headers: tuple[str, ...]
    flags: tuple[str, ...]
    choices: tuple[tuple[str, ...], ...] = ((),)

    @property
    def beside(self) -> Path:
        """Where it lies when it was compiled with the installation."""
        return self.folder / f"{self.name}.so"

    def digest(self) -> str:
        """What it is made from and for, as 16 hexadecimal digits: an old one is not used."""
        native = any("-march=native" in choice for choice in self.choices)
        options = (*self.flags, str(self.choices), _machine(), _processor() if native else "")
        whole = hashlib.sha256("\n".join(options).encode())
        for name in (*self.sources, *self.headers):
            whole.update((self.folder / name).read_bytes())
        return whole.hexdigest()[:16]

    def _made(self, target: Path) -> str:
        """The line beside a library: its SHA-256, and what it was made from.

        Raises:
            OSError: it cannot be read.
        """
        return f"{sha256(target)} {self.digest()}\n"

    def _whole(self, target: Path) -> bool:
        """Whether `target` is, byte for byte, what these sources were compiled to."""
        with suppress(OSError):
            return Path(f"{target}{HASH}").read_bytes() == self._made(target).encode()
        return False

    def build(self, target: Path | None = None) -> Path:
        """Compile to `target` (default: beside the sources), whole or not at all; gives the path.

        Raises:
            InputError: no compiler, it failed, or the folder cannot be written.
        """
        target = target or self.beside
        command = [*compiler(), *self.flags]
        # linked without OpenMP where torch has loaded its own, which then serves: two would fight over the processors
        served = hasattr(ctypes.CDLL(None), "GOMP_parallel")
        with atomic_path(target) as part, tempfile.TemporaryDirectory(prefix="snn2chip-") as folder:
            objects = [str(Path(folder, f"{number}.o")) for number in range(len(self.sources))]
            for extra in self.choices:
                steps = [
                    [*command, *extra, "-c", str(self.folder / source), "-o", made]
                    for source, made in zip(self.sources, objects, strict=True)
                ]
                linked = [option for option in extra if option != "-fopenmp" or not served]
                for step in [*steps, [*command, "-shared", *linked, *objects, "-o", str(part)]]:
                    done = subprocess.run(step, capture_output=True, text=True, errors="replace", check=False)
                    if done.returncode:
                        break
                else:
                    break
            if done.returncode:
                lines = [line for line in done.stderr.splitlines() if "error" in line] or [done.stderr[:200]]
                raise InputError(f"{command[0]} failed with exit code {done.returncode}: {lines[0].strip()}")
            part.chmod(0o755)
        write_text(f"{target}{HASH}", self._made(target))
        return target

    def load(self) -> ctypes.CDLL:
        """The library, compiled if need be.

        Raises:
            InputError: it cannot be compiled, kept or loaded; one line.
        """
        target = self.beside
        try:
            if not self._whole(target):
                folder = cache_folder() / "kernels"
                folder.mkdir(mode=0o755, parents=True, exist_ok=True)
                if reason := not_only_ours(folder):
                    raise InputError(f"{reason}, and compiled code is not kept there")
                target = folder / f"{self.name}-{self.digest()}.so"
                with exclusive(folder, wait=lambda: None):
                    if not_only_ours(target) or not self._whole(target):
                        target.unlink(missing_ok=True)  # not written through, should it be a link
                        self.build(target)
            return ctypes.CDLL(str(target))
        except OSError as error:
            raise InputError(f"cannot load or keep '{target}': {' '.join(str(error).split())}") from None


# No -march: the source compiles its kernels once per instruction set and chooses when it runs.
EVENTS = Library(
    "events_engine",
    PACKAGE / "simulate" / "events",
    ("engine.cpp",),
    ("system.h", "kernels.h", "vectors.h", "sums.h", "neurons.h"),
    # without contraction every instruction set rounds alike
    ("-std=c++17", "-O3", "-fwrapv", "-ffp-contract=off", "-fPIC", "-pthread", "-fvisibility=hidden"),
)
NN = Library(
    "nn",
    PACKAGE / "nn",
    ("lif.cpp", "spike_conv.cpp", "../passes/quantize/rounding.cpp"),
    (),
    # contraction would round once where the plain loop rounds twice: other spikes
    ("-O3", "-std=c++17", "-fPIC", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"),
    (("-march=native", "-fopenmp"), ("-march=native", "-fopenmp-simd"), ("-fopenmp-simd",), ()),
)

if __name__ == "__main__":
    try:
        print(EVENTS.build())
    except InputError as reason:
        sys.exit(f"error: {reason}")
