"""Data-parallel work: the processes that torchrun starts, each with a share of the samples.

    torchrun --nproc-per-node 2 -m snn2chip train RECIPE --out DIR
    torchrun --nnodes 2 --nproc-per-node 4 --rdzv-backend c10d --rdzv-endpoint HOST:29500 -m snn2chip train RECIPE

`together` joins them for the length of a command; outside of it, and in an ordinary process, there is one process and
every function here does nothing. Process 0 is the leader: it alone prints and writes. Tensors on the CPU travel over
gloo, those on GPUs over NCCL.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from snn2chip.errors import InputError, SetupError, Snn2ChipError, out_of_memory

if TYPE_CHECKING:
    import torch
    from torch import Tensor

P = ParamSpec("P")
Value = TypeVar("Value")

_WAIT = timedelta(seconds=5)  # for what another process has to say about an error
_alone = threading.local()


def _asked() -> int:
    """How many processes the launcher says there are."""
    try:
        return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1
    except ValueError:
        return 1


def size() -> int:
    """Processes that work together; 1 outside of `together`."""
    import torch.distributed as dist

    if getattr(_alone, "depth", 0) or not (dist.is_available() and dist.is_initialized()):
        return 1
    return dist.get_world_size()


def rank() -> int:
    """Which of them this one is, from 0."""
    import torch.distributed as dist

    return dist.get_rank() if size() > 1 else 0


def on_this_machine() -> int:
    """How many of them share this machine, which is said by torchrun; all where nothing is said."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", size())) if size() > 1 else 1


def is_leader() -> bool:
    """Whether this process prints and writes."""
    import torch.distributed as dist

    return not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0


@contextmanager
def alone() -> Iterator[None]:
    """Inside, this process computes for itself, as every other one does: nothing is exchanged."""
    _alone.depth = getattr(_alone, "depth", 0) + 1
    try:
        yield
    finally:
        _alone.depth -= 1


def local(device: torch.device) -> torch.device:
    """The GPU of this process where `device` is CUDA and there are several processes."""
    import torch

    if device.type != "cuda" or size() == 1:
        return device
    number = int(os.environ.get("LOCAL_RANK", "0"))
    if number >= torch.cuda.device_count():
        raise SetupError(
            f"process {number} of this machine has no GPU, there are {torch.cuda.device_count()}; lower "
            f"--nproc-per-node, or use --device cpu"
        )
    torch.cuda.set_device(number)
    return torch.device("cuda", number)


def share(count: int) -> slice:
    """Which of `count` samples are this process's: consecutive ones, shares differ by one at most."""
    number, of = rank(), size()
    return slice(count * number // of, count * (number + 1) // of)


def sum_over(*values: float) -> list[float]:
    """Each value summed over all processes, in float64."""
    import torch
    import torch.distributed as dist

    if size() == 1:
        return list(values)
    totals = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(totals)
    return totals.tolist()


def rows_of(values: Tensor) -> Tensor:
    """`values`, of the same shape in every process, stacked by rank."""
    import torch
    import torch.distributed as dist

    if size() == 1:
        return values.unsqueeze(0)
    rows = [torch.empty_like(values) for _ in range(size())]
    dist.all_gather(rows, values.contiguous())
    return torch.stack(rows)


def average_gradients(parameters: list[torch.nn.Parameter]) -> None:
    """Replace every gradient by its mean over the processes, in one exchange a type; no gradient counts as 0."""
    import torch
    import torch.distributed as dist

    if size() == 1:
        return
    for kind in dict.fromkeys((p.dtype, p.device) for p in parameters):
        some = [p for p in parameters if (p.dtype, p.device) == kind]
        flat = torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in some])
        dist.all_reduce(flat)
        flat /= size()
        for p, part in zip(some, torch.split(flat, [p.numel() for p in some]), strict=True):
            if p.grad is None:
                p.grad = torch.empty_like(p)
            p.grad.copy_(part.view_as(p))


def from_leader(make: Callable[[], Value]) -> Value:
    """What `make` gives in the leader, in every process: files that only the leader's machine has."""
    import torch.distributed as dist

    if size() == 1:
        return make()
    box: list[Any] = [make() if is_leader() else None]
    dist.broadcast_object_list(box, src=0)
    value: Value = box[0]
    return value


def all_of(value: Value) -> list[Value]:
    """The value of each process, by rank, in every process."""
    import torch.distributed as dist

    if size() == 1:
        return [value]
    values: list[Any] = [None] * size()
    dist.all_gather_object(values, value)
    return values


def all_at_leader(value: Value) -> list[Value] | None:
    """The value of each process, by rank, in the leader; None in the others."""
    import torch.distributed as dist

    if size() == 1:
        return [value]
    values: list[Any] | None = [None] * size() if is_leader() else None
    dist.gather_object(value, values, dst=0)
    return values


@contextmanager
def leader_first() -> Iterator[None]:
    """The leader goes through the block, then the others: what it downloads, they find."""
    import torch.distributed as dist

    if size() > 1 and not is_leader():
        dist.barrier()
    yield
    if size() > 1 and is_leader():
        dist.barrier()


class Interrupt:
    """A Ctrl-C that all processes hear at the same place, see `held_back`."""

    asked = False

    def anywhere(self) -> bool:
        """Whether any process was asked to stop. All of them have to ask together."""
        return bool(sum_over(float(self.asked))[0])


@contextmanager
def held_back() -> Iterator[Interrupt]:
    """Where several processes work, Ctrl-C only leaves a note inside: they have to stop after the same step.

    A second one ends this process at once. With a single process Ctrl-C is what it always is.
    """
    interrupt = Interrupt()
    ours = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT) if ours else None
    if size() == 1 or before is not signal.default_int_handler:
        yield interrupt
        return

    def note(_number: int, _frame: object) -> None:
        if interrupt.asked:
            raise KeyboardInterrupt
        interrupt.asked = True

    signal.signal(signal.SIGINT, note)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def _quiet() -> Iterator[None]:
    """Nothing that is printed inside is seen."""
    with (
        open(os.devnull, "w", encoding="utf-8") as nowhere,  # noqa: PTH123
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        yield


def _say(store: Any, what: str) -> None:
    with contextlib.suppress(Exception):
        store.set(f"snn2chip/{what}", "yes")


def _heard(store: Any, what: str, ranks: list[int]) -> bool:
    """Whether one of `ranks` says `what` within a few seconds; all of them are waited for."""
    heard = False
    for number in ranks:
        with contextlib.suppress(Exception):
            store.wait([f"snn2chip/{what}/{number}"], _WAIT / len(ranks))
            heard = True
    return heard


def together(command: Callable[P, None]) -> Callable[P, None]:
    """Run a command in all processes that torchrun started; the leader alone prints.

    An error that several processes meet is told once: by the leader if it has it, else by those that do, with their
    rank.

    Raises:
        SetupError: the processes do not find each other.
    """

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        count = _asked()
        if count == 1:
            command(*args, **kwargs)
            return
        import torch
        import torch.distributed as dist

        try:
            dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        except (RuntimeError, ValueError) as error:
            if out_of_memory(error):
                raise
            reason = (str(error).splitlines() or ["no word"])[0]
            raise SetupError(
                f"the {count} processes do not find each other: {reason}; start them with torchrun"
            ) from None
        store = dist.distributed_c10d._get_default_store()
        number = dist.get_rank()
        others = [other for other in range(count) if other != number]
        try:
            with contextlib.nullcontext() if number == 0 else _quiet():
                command(*args, **kwargs)
        except Snn2ChipError as error:
            _say(store, f"error/{number}")
            if number and _heard(store, "error", [0]):
                sys.exit(error.exit_code)
            raise type(error)(f"process {number}: {error}") if number else error from None
        except RuntimeError as error:
            # exactly: what the command line leaves with is one of its children
            broken = type(error) is RuntimeError or isinstance(error, dist.DistError)
            if broken and _heard(store, "error", others):  # an exchange that another one left; it says why
                sys.exit(InputError.exit_code)
            raise
        finally:
            with contextlib.suppress(RuntimeError):
                dist.destroy_process_group()  # ends what the others wait for
            _say(store, f"left/{number}")
            if number == 0:  # where there is no torchrun, what they say to each other goes with this process
                _heard(store, "left", others)

    return run


def one_process_only(what: str) -> None:
    """Refuse several processes.

    Raises:
        InputError: torchrun started more than one.
    """
    if _asked() > 1:
        raise InputError(f"{what} runs in one process; start it without torchrun")
