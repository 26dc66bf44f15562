"""The compiled LIF layer for the CPU: `load` compiles kernels.cpp once per user and gives its functions.

Compiled where it runs, at its first use (about a second), with the C++ compiler found there and for the processor found
there; kept in the user's cache under a name made of everything it depends on. Nothing else needs it: where it cannot be
compiled or loaded, neurons compute the same in torch, block by block (`snn2chip.nn.neuron`).
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import math
import os
import platform
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from snn2chip.errors import InputError
from snn2chip.files import atomic_path
from snn2chip.nn.surrogate import SurrogateName

COMPILERS = ("g++", "clang++", "c++")
# contraction would round once where the plain loop rounds twice: other spikes
FLAGS = ("-O3", "-std=c++17", "-fPIC", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math")
FASTER = (
    ("-march=native", "-fopenmp"),
    ("-march=native", "-fopenmp-simd"),
    ("-fopenmp-simd",),
    (),
)  # the first that the compiler takes
KINDS: dict[SurrogateName, int] = {"rectangular": 0, "triangular": 1, "arctan": 2}
_SMALL = 1 << 15  # below this many numbers a second thread costs more than it saves

_pointer, _long, _int, _float = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int, ctypes.c_float


def in_order(x: Tensor) -> bool:
    """Whether each step of x (T, ...) is dense and they follow each other in memory, or are all the same one."""
    if not x.numel():
        return True
    row = x[0]
    dense = row.is_contiguous() or (row.ndim == 4 and row.is_contiguous(memory_format=torch.channels_last))
    return dense and (x.shape[0] == 1 or x.stride(0) in (0, row.numel()))


def new_like(x: Tensor) -> Tensor:
    """An empty tensor for x (T, ...) whose steps are laid out as those of x, one after the other."""
    row = x[0]
    return torch.empty_strided(x.shape, (row.numel(), *row.stride()), dtype=x.dtype, device=x.device)


def _threads(count: int) -> int:
    return 1 if count < _SMALL else torch.get_num_threads()


class Kernels:
    """The functions of the compiled library, over float32 tensors on the CPU that are `in_order`."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._forward = library.snn2chip_lif_forward
        self._forward.argtypes = [_pointer, _long, _pointer, _long, _long, _float, _float, _int]
        self._backward = library.snn2chip_lif_backward
        self._backward.argtypes = [
            *(_pointer, _long, _pointer, _pointer, _pointer),
            *(_long, _long, _float, _float, _float, _float, _int, _int, _int),
        ]
        self._pack, self._unpack = library.snn2chip_pack, library.snn2chip_unpack
        self._pack.argtypes = self._unpack.argtypes = [_pointer, _pointer, _long, _int]
        library.snn2chip_block.restype = _long
        self._block = int(library.snn2chip_block())
        for function in (self._forward, self._backward, self._pack, self._unpack):
            function.restype = None

    def lif_forward(self, current: Tensor, tau: Tensor, threshold: Tensor) -> Tensor:
        """Spikes (T, ...) of currents (T, ...), see `snn2chip.nn.neuron.lif_forward`."""
        spikes = new_like(current)
        each = current[0].numel()
        self._forward(
            *(current.data_ptr(), current.stride(0), spikes.data_ptr(), current.shape[0], each),
            *(float(tau), float(threshold)),
            _threads(current.numel()),
        )
        return spikes

    def lif_backward(
        self,
        grad_spikes: Tensor,
        current: Tensor,
        tau: Tensor,
        threshold: Tensor,
        surrogate: SurrogateName,
        width: float,
        detach_reset: bool,
        constants: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """Gradient of the currents, and with `constants` those of tau and Vth as one tensor (2,), float64."""
        out = new_like(current)
        if grad_spikes.stride() != out.stride():
            grad_spikes = new_like(current).copy_(grad_spikes)
        steps, each = current.shape[0], current[0].numel()
        sums = torch.zeros((-(-each // self._block), 2), dtype=torch.float64) if constants else None
        self._backward(
            *(current.data_ptr(), current.stride(0), grad_spikes.data_ptr(), out.data_ptr()),
            *(None if sums is None else sums.data_ptr(), steps, each),
            *(float(tau), float(threshold), width, math.pi / width),
            *(KINDS[surrogate], int(detach_reset), _threads(current.numel())),
        )
        return out, None if sums is None else sums.sum(0)

    def pack(self, spikes: Tensor) -> Tensor:
        """Whether each value is not 0, as bits in memory order: int64 words."""
        words = torch.empty(-(-spikes.numel() // 64), dtype=torch.int64)
        self._pack(spikes.data_ptr(), words.data_ptr(), spikes.numel(), _threads(spikes.numel()))
        return words

    def unpack(self, words: Tensor, shape: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
        """The dense float32 tensor of this layout that `words` were packed from."""
        spikes = torch.empty_strided(shape, stride)
        self._unpack(words.data_ptr(), spikes.data_ptr(), spikes.numel(), _threads(spikes.numel()))
        return spikes


def _processor() -> str:
    """What `-march=native` depends on: a cache may be shared between machines."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return "".join(sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))}))
    return platform.processor()


def _compile(source: Path, compiler: str, target: Path) -> None:
    """Compile to `target`, whole or not at all.

    Raises:
        InputError: the compiler fails, or the folder cannot be written.
    """
    # linked without OpenMP where torch has loaded its own, which then serves: two would fight over the processors
    served = hasattr(ctypes.CDLL(None), "GOMP_parallel")
    with atomic_path(target) as part:
        unlinked = part.with_suffix(".o")
        try:
            for extra in FASTER:
                link = [option for option in extra if option != "-fopenmp" or not served]
                for command in (
                    [compiler, *FLAGS, *extra, "-c", str(source), "-o", str(unlinked)],
                    [compiler, "-shared", *link, str(unlinked), "-o", str(part)],
                ):
                    done = subprocess.run(command, capture_output=True, text=True, check=False)
                    if done.returncode:
                        break
                else:
                    return
        finally:
            unlinked.unlink(missing_ok=True)
        lines = [line for line in done.stderr.splitlines() if "error" in line] or ["no word"]
        raise InputError(f"{compiler} does not compile {source.name}: {lines[0].strip()}")


@functools.cache
def load() -> Kernels | str:
    """The compiled functions, or why there are none, in one line."""
    source = Path(__file__).with_name("kernels.cpp")
    compiler = next((found for name in COMPILERS if (found := shutil.which(name))), None)
    from platformdirs import user_cache_dir

    try:
        depends = (source.read_text(encoding="utf-8"), str(FLAGS), str(FASTER), platform.machine(), _processor())
        digest = hashlib.sha256("\n".join(depends).encode()).hexdigest()[:16]
        cache = Path(os.environ.get("SNN2CHIP_CACHE") or user_cache_dir("snn2chip")).expanduser().absolute()
        target = cache / "kernels" / f"lif-{digest}.so"
        if not target.exists():
            if compiler is None:
                return "no C++ compiler found; install g++"
            _compile(source, compiler, target)
        return Kernels(ctypes.CDLL(str(target)))
    except (InputError, OSError, AttributeError) as error:
        return " ".join(str(error).split())


def of(x: Tensor) -> Kernels | None:
    """The compiled functions where they take x: float32 on the CPU, in order, not empty."""
    if x.dtype != torch.float32 or x.device.type != "cpu" or not x.numel() or not in_order(x):
        return None
    found = load()
    return found if isinstance(found, Kernels) else None
