"""The two ways in which a network runs over time in an ONNX graph. Both compute the same.

`Unrolled` writes the neurons of every step as nodes of their own, 'lif1/step2/spikes', and everything between two
layers of neurons once, on all steps together. `Looped` writes one step of the whole network as the body of an ONNX
Loop, so that neither the file nor the memory it needs grows with T.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from snn2chip.formats.onnx.graph import BATCH, Graph, Make, Port, Value, element_type, info, subgraph
from snn2chip.ir import Shape

UNROLL_MOST = 32


@dataclass(frozen=True)
class At:
    """Where a step of neurons is written: its graph, the prefix of its names, this step's row of a table (T, ...)."""

    graph: Graph
    prefix: str
    row: Callable[[str, NDArray[Any]], str]

    def op(self, kind: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        """`Graph.op` under the prefix."""
        return self.graph.op(kind, inputs, f"{self.prefix}/{name}", **attributes)


# one step of neurons: input and state before it (nothing: zero) to what it leaves, by key; 'spikes' is one, and
# every key of the state
Step = Callable[[At, str, Mapping[str, str] | None], dict[str, str]]


class Timeline(Protocol):
    """A network over time, layer after layer; `finish` before anything reads `last` or `total`'s names."""

    def given(self, name: str, shape: Shape) -> Value:
        """A graph input (N, T, *shape)."""

    def apply(self, make: Make, *values: Value) -> Value:
        """What treats every sample and step alike."""

    def neurons(self, label: str, value: Value, step: Step, state: Mapping[str, tuple[Shape, DTypeLike]]) -> Value:
        """A layer of neurons; its spikes."""

    def later(self, value: Value, label: str, shape: Shape, dtype: DTypeLike, delays: Sequence[int]) -> Value:
        """A timed (N, *shape) as it was 1 + d steps before, zero before the first step.

        Delays [0] leave its shape; others give (N, delays times features), the first delay's features first.
        """

    def watch(self, label: str, key: str, shape: Shape, dtype: DTypeLike) -> Port:
        """Give one of a layer's keys over time as a graph output (N, T, *shape), 'label/key'."""

    def last(self, label: str, key: str) -> str:
        """A layer's state after the last step, (N, ...)."""

    def total(self, value: Value, shape: Shape, dtype: DTypeLike, name: str) -> str:
        """Sum over time, (N, *shape)."""

    def finish(self) -> None:
        """Write what waited for the last layer."""


class Unrolled:
    """Steps as nodes of their own. A timed tensor is (T N, ...): all samples of step 1, then all of step 2, ..."""

    def __init__(self, graph: Graph, steps: int, given: str) -> None:
        self.graph, self.steps = graph, steps
        self._batch = graph.op("Shape", [given], "batch", start=0, end=1)
        self._left: dict[str, list[dict[str, str]]] = {}
        self._spikes: dict[str, list[str]] = {}  # of all steps together to those of each

    def given(self, name: str, shape: Shape) -> Value:
        axes = [1, 0, *range(2, 2 + len(shape))]
        by_step = self.graph.op("Transpose", [name], f"{name}/by_step", perm=axes)
        return Value(self.graph.op("Reshape", [by_step, self.graph.integers(-1, *shape)], f"{name}/all_steps"), True)

    def apply(self, make: Make, *values: Value) -> Value:
        timed = any(value.timed for value in values)
        names = [self._over_time(value) if timed else value.name for value in values]
        return Value(make(self.graph, names), timed)

    def _over_time(self, value: Value) -> str:
        if value.timed or self.steps == 1:
            return value.name
        return self._together([value.name] * self.steps, f"{value.name}/every_step")

    def _together(self, names: list[str], name: str) -> str:
        return names[0] if self.steps == 1 else self.graph.op("Concat", names, name, axis=0)

    def _apart(self, value: Value, name: str, label: str, kind: str = "") -> list[str]:
        names = [f"{label}/step{number}{kind}" for number in range(1, self.steps + 1)]
        if self.steps == 1:
            return [value.name]
        return self.graph.ops("Split", [value.name], names, name, axis=0, num_outputs=self.steps)

    def neurons(self, label: str, value: Value, step: Step, state: Mapping[str, tuple[Shape, DTypeLike]]) -> Value:
        graph = self.graph
        parts = self._apart(value, f"{label}/steps", label, "/input") if value.timed else [value.name] * self.steps
        before: Mapping[str, str] | None = None
        left = self._left[label] = []
        for index, part in enumerate(parts):
            prefix = f"{label}/step{index + 1}"

            def row(key: str, table: NDArray[Any], index: int = index, prefix: str = prefix) -> str:
                return graph.constant(f"{prefix}/{key}", table[index])

            left.append(step(At(graph, prefix, row), part, before))
            before = {key: left[-1][key] for key in state}
        spikes = [after["spikes"] for after in left]
        together = self._together(spikes, f"{label}/all_spikes")
        self._spikes[together] = spikes
        return Value(together, True)

    def later(self, value: Value, label: str, shape: Shape, dtype: DTypeLike, delays: Sequence[int]) -> Value:
        graph = self.graph
        parts = self._spikes.get(value.name) or self._apart(value, f"{value.name}/steps", value.name)
        dimensions = graph.op("Concat", [self._batch, graph.integers(*shape)], f"{label}/shape", axis=0)
        nothing = graph.zeros(dimensions, dtype, f"{label}/nothing_yet")
        if list(delays) == [0]:
            return Value(self._together([nothing, *parts[:-1]], f"{label}/one_step_later"), True)
        if len(shape) > 1:
            nothing = graph.op("Flatten", [nothing], f"{nothing}/flat", axis=1)
            parts = [graph.op("Flatten", [part], f"{part}/flat", axis=1) for part in parts]
        rows = []
        for step in range(self.steps):
            sent = [parts[step - 1 - delay] if step > delay else nothing for delay in delays]
            rows.append(graph.op("Concat", sent, f"{label}/step{step + 1}/steps_later", axis=1))
        return Value(self._together(rows, f"{label}/steps_later"), True)

    def watch(self, label: str, key: str, shape: Shape, dtype: DTypeLike) -> Port:
        graph, output = self.graph, self.graph.name(f"{label}/{key}")
        together = self._together([after[key] for after in self._left[label]], f"{output}/all_steps")
        parts = graph.op("Reshape", [together, graph.integers(self.steps, -1, *shape)], f"{output}/by_step")
        axes = [1, 0, *range(2, 2 + len(shape))]
        turned = graph.op("Transpose", [parts], f"{output}/by_sample", perm=axes)
        graph.put("Cast", [turned], [output], output, to=element_type(dtype))
        return Port(output, dtype, (self.steps, *shape))

    def last(self, label: str, key: str) -> str:
        return self._left[label][-1][key]

    def total(self, value: Value, shape: Shape, dtype: DTypeLike, name: str) -> str:
        graph = self.graph
        wide = graph.cast(self._over_time(value), dtype, f"{name}/values")
        parts = graph.op("Reshape", [wide, graph.integers(self.steps, -1, *shape)], f"{name}/by_step")
        return graph.op("ReduceSum", [parts, graph.integers(0)], name, keepdims=0)

    def finish(self) -> None:
        pass


@dataclass
class _Carried:
    """A tensor (N, *shape) that goes from step to step, zero at first: its names before, in and after the loop."""

    before: str
    after: str
    start: str
    end: str
    shape: Shape
    dtype: DTypeLike


class Looped:
    """One step of the network as the body of a Loop. What is the same at every step stays outside, computed once.

    `given` is the graph input whose first axis is the batch.
    """

    def __init__(self, graph: Graph, steps: int, given: str) -> None:
        self.graph, self.steps, self.body = graph, steps, Graph(graph)
        self._batch = graph.op("Shape", [given], "batch", start=0, end=1)
        self._number, self._go = self.body.name("step/number"), self.body.name("step/go_on")
        self._goes = self.body.op("Identity", [self._go], "step/goes_on")
        self._carried: list[_Carried] = []
        self._left: dict[str, dict[str, str]] = {}
        self._end: dict[tuple[str, str], str] = {}
        self._watched: list[tuple[str, Port]] = []

    def given(self, name: str, shape: Shape) -> Value:
        return Value(self.body.op("Gather", [name, self._number], f"{name}/step", axis=1), True)

    def apply(self, make: Make, *values: Value) -> Value:
        timed = any(value.timed for value in values)
        return Value(make(self.body if timed else self.graph, [value.name for value in values]), timed)

    def _carry(self, name: str, shape: Shape, dtype: DTypeLike) -> _Carried:
        graph = self.graph
        dimensions = graph.op("Concat", [self._batch, graph.integers(*shape)], f"{name}/shape", axis=0)
        start = graph.zeros(dimensions, dtype, f"{name}/start")
        before, end = self.body.name(f"{name}/before"), graph.name(f"{name}/end")
        self._carried.append(_Carried(before, "", start, end, shape, dtype))
        return self._carried[-1]

    def neurons(self, label: str, value: Value, step: Step, state: Mapping[str, tuple[Shape, DTypeLike]]) -> Value:
        body = self.body
        carried = {key: self._carry(f"{label}/{key}", shape, dtype) for key, (shape, dtype) in state.items()}

        def row(key: str, table: NDArray[Any]) -> str:
            whole = self.graph.constant(f"{label}/{key}", table)
            return body.op("Gather", [whole, self._number], f"{label}/step/{key}", axis=0)

        before = {key: item.before for key, item in carried.items()}
        left = self._left[label] = step(At(body, f"{label}/step", row), value.name, before)
        for key, item in carried.items():
            item.after, self._end[label, key] = left[key], item.end
        return Value(left["spikes"], True)

    def later(self, value: Value, label: str, shape: Shape, dtype: DTypeLike, delays: Sequence[int]) -> Value:
        """The last steps' tensors are carried, newest first."""
        graph, body, x = self.graph, self.body, value.name
        if list(delays) == [0]:
            carried = self._carry(f"{label}/one_step_later", shape, dtype)
            carried.after = body.op("Identity", [x], f"{label}/one_step_later/after")
            return Value(carried.before, True)
        ahead = max(delays) + 1
        if len(shape) > 1:
            x = body.op("Flatten", [x], f"{label}/sent/flat", axis=1)
        x = body.op("Unsqueeze", [x, graph.integers(1)], f"{label}/sent")
        carried = self._carry(f"{label}/on_its_way", (ahead, math.prod(shape)), dtype)
        ends = [graph.integers(number) for number in (0, ahead - 1, 1)]
        left = body.op("Slice", [carried.before, *ends], f"{label}/on_its_way/left")
        carried.after = body.op("Concat", [x, left], f"{label}/on_its_way/after", axis=1)
        rows = body.op("Gather", [carried.before, graph.integers(*delays)], f"{label}/steps_later/by_delay", axis=1)
        return Value(body.op("Flatten", [rows], f"{label}/steps_later", axis=1), True)

    def watch(self, label: str, key: str, shape: Shape, dtype: DTypeLike) -> Port:
        port = Port(self.graph.name(f"{label}/{key}"), dtype, (self.steps, *shape))
        self._watched.append((self.body.cast(self._left[label][key], dtype, f"{port.name}/step"), port))
        return port

    def last(self, label: str, key: str) -> str:
        return self._end[label, key]

    def total(self, value: Value, shape: Shape, dtype: DTypeLike, name: str) -> str:
        carried = self._carry(name, shape, dtype)
        wide = self.body.cast(value.name, dtype, f"{name}/values")
        carried.after = self.body.op("Add", [carried.before, wide], f"{name}/after")
        return carried.end

    def finish(self) -> None:
        graph, body = self.graph, self.body
        inputs = [info(self._number, np.int64, []), info(self._go, np.bool_, [])]
        outputs = [info(self._goes, np.bool_, [])]
        for item in self._carried:
            inputs.append(info(item.before, item.dtype, [BATCH, *item.shape]))
            outputs.append(info(item.after, item.dtype, [BATCH, *item.shape]))
        stacked = []
        for seen, port in self._watched:
            outputs.append(info(seen, port.dtype, [BATCH, *port.shape[1:]]))
            stacked.append(graph.name(f"{port.name}/by_step"))
        made = subgraph(body, inputs, outputs)
        starts = [item.start for item in self._carried]
        ends = [item.end for item in self._carried]
        trips, always = graph.scalar(self.steps), graph.scalar(True, np.bool_)
        graph.put("Loop", [trips, always, *starts], [*ends, *stacked], "time", body=made)
        for by_step, (_, port) in zip(stacked, self._watched, strict=True):
            perm = [1, 0, *range(2, 1 + len(port.shape))]
            graph.put("Transpose", [by_step], [port.name], port.name, perm=perm)


def timeline(graph: Graph, steps: int, given: str, unroll: bool | None) -> Timeline:
    """`Unrolled` or `Looped`; None chooses by `UNROLL_MOST` steps. `given` is the graph's input."""
    unrolled = steps <= UNROLL_MOST if unroll is None else unroll
    return (Unrolled if unrolled else Looped)(graph, steps, given)
