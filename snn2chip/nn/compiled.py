"""The C++ of `snn2chip.nn` as one library: `library` compiles it once per user, and loads it.

Compiled where it runs, at its first use (a few seconds), with the C++ compiler found there and for the processor found
there; kept in the user's cache under a name made of everything it depends on. Nothing else needs it: where it cannot be
compiled or loaded, torch computes the same.
"""

from __future__ import annotations

import ctypes
import hashlib
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from snn2chip.errors import InputError
from snn2chip.files import atomic_path
from snn2chip.resources import cache_folder

SOURCES = ("lif.cpp", "spike_conv.cpp")
COMPILERS = ("g++", "clang++", "c++")
# contraction would round once where the plain loop rounds twice: other spikes
FLAGS = ("-O3", "-std=c++17", "-fPIC", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math")
FASTER = (
    ("-march=native", "-fopenmp"),
    ("-march=native", "-fopenmp-simd"),
    ("-fopenmp-simd",),
    (),
)  # the first that the compiler takes


def _processor() -> str:
    """What `-march=native` depends on: a cache may be shared between machines."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return "".join(sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))}))
    return platform.processor()


def _commands(compiler: str, sources: list[Path], target: Path, folder: Path) -> Iterator[list[list[str]]]:
    """The commands that make `target`, for each of the option sets; objects go to `folder`."""
    # linked without OpenMP where torch has loaded its own, which then serves: two would fight over the processors
    served = hasattr(ctypes.CDLL(None), "GOMP_parallel")
    objects = [folder / f"{source.stem}.o" for source in sources]
    for extra in FASTER:
        link = [option for option in extra if option != "-fopenmp" or not served]
        yield [
            *(
                [compiler, *FLAGS, *extra, "-c", str(source), "-o", str(made)]
                for source, made in zip(sources, objects, strict=True)
            ),
            [compiler, "-shared", *link, *map(str, objects), "-o", str(target)],
        ]


def _compile(sources: list[Path], compiler: str, target: Path) -> None:
    """Compile to `target`, whole or not at all.

    Raises:
        InputError: the compiler fails, or the folder cannot be written.
    """
    with atomic_path(target) as part, tempfile.TemporaryDirectory() as folder:
        for commands in _commands(compiler, sources, part, Path(folder)):
            for command in commands:
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    break
            else:
                return
        lines = [line for line in done.stderr.splitlines() if "error" in line] or ["no word"]
        raise InputError(f"{compiler} does not compile {sources[0].parent.name}: {lines[0].strip()}")


def library() -> ctypes.CDLL | str:
    """The compiled library, or why there is none, in one line."""
    sources = [Path(__file__).with_name(name) for name in SOURCES]
    compiler = next((found for name in COMPILERS if (found := shutil.which(name))), None)
    try:
        texts = [source.read_text(encoding="utf-8") for source in sources]
        depends = (*texts, str(FLAGS), str(FASTER), platform.machine(), _processor())
        digest = hashlib.sha256("\n".join(depends).encode()).hexdigest()[:16]
        target = cache_folder() / "kernels" / f"nn-{digest}.so"
        if not target.exists():
            if compiler is None:
                return "no C++ compiler found; install g++"
            _compile(sources, compiler, target)
        return ctypes.CDLL(str(target))
    except (InputError, OSError) as error:
        return " ".join(str(error).split())
