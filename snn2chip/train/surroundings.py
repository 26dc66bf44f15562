"""What a training meets outside itself: the processor it runs on, how that computes, and Ctrl-C."""

from __future__ import annotations

import os
import platform
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch


def processor_name() -> str:
    """What the CPU calls itself, and how many of them there are."""
    name = platform.processor() or platform.machine()
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    return f"{name}, {os.cpu_count()} processors"


@contextmanager
def arithmetic(device: torch.device, precision: str, deterministic: bool = False) -> Iterator[None]:
    """Inside, `device` computes as a recipe's `precision` says: autocast to bfloat16, or float32 in full.

    On a GPU torch takes TF32, of 10 bits, for convolutions in float32; not here. `deterministic` takes algorithms that
    give the same bits every time, and warns of an operation that has none.
    """
    cuda = device.type == "cuda"
    with torch.autocast("cuda" if cuda else "cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        if not cuda:
            yield
            return
        backends: tuple[Any, ...] = (torch.backends.cudnn, torch.backends.cuda.matmul)
        before = [backend.allow_tf32 for backend in backends]
        strict = torch.are_deterministic_algorithms_enabled()
        warns = torch.is_deterministic_algorithms_warn_only_enabled()
        try:
            for backend in backends:
                backend.allow_tf32 = False
            if deterministic:
                os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS begins
                torch.use_deterministic_algorithms(True, warn_only=True)
            yield
        finally:
            for backend, allowed in zip(backends, before, strict=True):
                backend.allow_tf32 = allowed
            torch.use_deterministic_algorithms(strict, warn_only=warns)


@contextmanager
def whole() -> Iterator[None]:
    """Hold a Ctrl-C back until the block is done: half of a step is no state to resume from.

    A second one is not held back. Handlers of others, and other threads, are left alone.
    """
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    asked = False

    def hold(_number: int, _frame: object) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    signal.signal(signal.SIGINT, hold)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if asked:
        raise KeyboardInterrupt
