"""The engine for a browser: the same C++, compiled to WebAssembly, and a chain as it takes it.

`events_browser.wasm` is kept beside its sources, with a line that says of which sources it was made. In a checkout,
with the compiler of ``pip install 'snn2chip[explore]'``, it is made anew, byte for byte the same on every machine:

    python -m snn2chip.simulate.events.browser
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

import numpy as np

from snn2chip.errors import InputError, UnsupportedError
from snn2chip.files import atomic_path, write_text
from snn2chip.native import EVENTS, HASH
from snn2chip.simulate.events import library
from snn2chip.simulate.events.plan import LayerPlan

ZIG = "0.17.1"  # of the package ziglang: another compiler makes other bytes
MODULE = EVENTS.folder / "events_browser.wasm"
EXPORTS = ("malloc", "free", "snn2chip_browser_open", "snn2chip_browser_run", "snn2chip_browser_weights")
FLAGS = (
    *("-target", "wasm32-wasi", "-mexec-model=reactor", "-msimd128", "-std=c++17", "-O2", "-fwrapv", "-fno-exceptions"),
    *("-fvisibility=hidden", "-s", *(f"-Wl,--export={name}" for name in EXPORTS)),
)
_ALIGNED = 64


def digest() -> str:
    """What the module is made from, as 16 hexadecimal digits."""
    whole = hashlib.sha256("\n".join((ZIG, *FLAGS)).encode())
    for name in ("browser.cpp", *EVENTS.sources, *EVENTS.headers):
        whole.update((EVENTS.folder / name).read_bytes())
    return whole.hexdigest()[:16]


def build(target: Path = MODULE) -> Path:
    """Compile the module to `target`, and write the line beside it.

    Raises:
        InputError: no compiler, or one of another version; it failed, or the folder cannot be written.
    """
    try:
        found = metadata.version("ziglang")
    except metadata.PackageNotFoundError:
        raise InputError(f"no compiler of WebAssembly; pip install ziglang=={ZIG}") from None
    if found != ZIG:
        raise InputError(f"ziglang {found} makes other bytes than {ZIG}; pip install ziglang=={ZIG}")
    with atomic_path(target) as part, tempfile.TemporaryDirectory(prefix="snn2chip-") as folder:
        # with a name without folders, and from there: a path would be in the module
        command = [sys.executable, "-m", "ziglang", "c++", *FLAGS, "browser.cpp", "-o", str(Path(folder, "made.wasm"))]
        done = subprocess.run(
            command, cwd=EVENTS.folder, capture_output=True, text=True, errors="replace", env=dict(os.environ)
        )
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if "error" in line] or [done.stderr[:200]]
            raise InputError(f"ziglang failed with exit code {done.returncode}: {lines[0].strip()}")
        part.write_bytes(Path(folder, "made.wasm").read_bytes())
    write_text(f"{target}{HASH}", _made(target.read_bytes()))
    return target


def _made(module: bytes) -> str:
    return f"{hashlib.sha256(module).hexdigest()} {digest()}\n"


def module() -> bytes:
    """The compiled module.

    Raises:
        UnsupportedError: it is missing, damaged, or made from other sources.
    """
    try:
        found = MODULE.read_bytes()
        whole = Path(f"{MODULE}{HASH}").read_bytes() == _made(found).encode()
    except OSError as error:
        raise UnsupportedError(f"the engine for the browser cannot be read: {error.strerror}: '{MODULE}'") from None
    if not whole:
        raise UnsupportedError(
            f"'{MODULE}' is not what its sources are compiled to; pip install ziglang=={ZIG} and run "
            f"python -m snn2chip.simulate.events.browser"
        )
    return found


def image(plans: list[LayerPlan]) -> bytes:
    """A chain's plan as it lies in the module's memory: `struct Layer` of each, then their arrays; a pointer is an
    offset from the beginning, 0 for none."""
    here = {ctypes.c_int32: "<i4", ctypes.c_int64: "<i8"}  # all others are pointers
    fields = [(name, here.get(kind, "<u4")) for name, kind in library.Layer._fields_]  # type: ignore[arg-type, misc]
    struct = np.dtype(fields, align=True)
    heads = np.zeros(len(plans), dtype=struct)
    parts, end = [], _padded(heads.nbytes)
    for head, plan in zip(heads, plans, strict=True):
        for name, number in plan.numbers.items():
            head[name] = number
        for name, array in plan.arrays.items():
            head[name] = end
            parts.append(array.tobytes().ljust(_padded(array.nbytes), b"\0"))
            end += len(parts[-1])
    return b"".join([heads.tobytes().ljust(_padded(heads.nbytes), b"\0"), *parts])


def _padded(size: int) -> int:
    return -(-size // _ALIGNED) * _ALIGNED


if __name__ == "__main__":
    try:
        print(build())
    except InputError as reason:
        sys.exit(f"error: {reason}")
