"""A step's work as one CUDA graph: what the host launches kernel by kernel is recorded once, and replayed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

WARM = 3  # calls as ever, in which kernels are compiled and libraries take their workspaces
Work = Callable[..., None]


def _aside(work: Work, *inputs: Tensor) -> None:
    """`work` on a stream of its own, as what is recorded later has to have run before."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        work(*inputs)
    torch.cuda.current_stream().wait_stream(stream)


def _record(work: Work, *inputs: Tensor) -> Callable[[], None]:
    """`work` on these very tensors, recorded and not run; gives what runs it."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work(*inputs)
    return graph.replay


class Graphed:
    """`work`, a function of tensors that leaves gradients in `parameters` and returns nothing, replayed as a graph.

    Work must not ask for the value of a tensor, and must write only to tensors that stay where they are, and into
    gradients that it makes anew. Inputs of every shape and type get a graph of their own, after `WARM` calls.
    """

    def __init__(self, work: Work, parameters: list[nn.Parameter]) -> None:
        self.work, self.parameters = work, parameters
        self._calls: dict[tuple[Any, ...], int] = {}
        self._made: dict[tuple[Any, ...], tuple[Callable[[], None], tuple[Tensor, ...], list[Tensor | None]]] = {}

    def __call__(self, *inputs: Tensor) -> None:
        kind = tuple((x.shape, x.stride(), x.dtype) for x in inputs)
        self._calls[kind] = self._calls.get(kind, 0) + 1
        if self._calls[kind] <= WARM:
            _aside(self.work, *inputs)
            return
        if kind not in self._made:
            kept = tuple(x.clone() for x in inputs)
            run = _record(self.work, *kept)
            self._made[kind] = run, kept, [p.grad for p in self.parameters]
        run, kept, grads = self._made[kind]
        for mine, given in zip(kept, inputs, strict=True):
            mine.copy_(given)
        run()
        for parameter, grad in zip(self.parameters, grads, strict=True):
            parameter.grad = grad
