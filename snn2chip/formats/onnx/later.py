"""The two ways of `onnx_time`, with what chip time needs: a tensor as it was one or more steps before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from numpy.typing import DTypeLike

from snn2chip.formats.onnx.graph import Graph, Value
from snn2chip.formats.onnx.time import UNROLL_MOST, Looped, Step, Timeline, Unrolled
from snn2chip.ir import Shape


class LaterTimeline(Timeline, Protocol):
    """A network over time whose layers read what earlier steps sent."""

    def later(self, value: Value, label: str, shape: Shape, dtype: DTypeLike, delays: Sequence[int]) -> Value:
        """A timed (N, *shape) as it was 1 + d steps before, zero before the first step.

        Delays [0] leave its shape; others give (N, delays times features), the first delay's features first.
        """


class LaterUnrolled(Unrolled):
    """Every step's tensor is there by name: another step reads another name."""

    def __init__(self, graph: Graph, steps: int, given: str) -> None:
        super().__init__(graph, steps)
        self._batch = graph.op("Shape", [given], "batch", start=0, end=1)
        self._by_step: dict[str, list[str]] = {}

    def neurons(self, label: str, value: Value, step: Step, state: Mapping[str, tuple[Shape, DTypeLike]]) -> Value:
        spikes = super().neurons(label, value, step, state)
        self._by_step[spikes.name] = [left["spikes"] for left in self._left[label]]
        return spikes

    def later(self, value: Value, label: str, shape: Shape, dtype: DTypeLike, delays: Sequence[int]) -> Value:
        graph, parts = self.graph, self._by_step.get(value.name, [value.name])
        if len(parts) < self.steps:
            names = [f"{value.name}/step{number}" for number in range(1, self.steps + 1)]
            parts = graph.ops("Split", [value.name], names, f"{value.name}/steps", axis=0, num_outputs=self.steps)
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


class LaterLooped(Looped):
    """The last steps' tensors are carried, newest first."""

    def later(self, value: Value, label: str, shape: Shape, dtype: DTypeLike, delays: Sequence[int]) -> Value:
        body = self.body
        if list(delays) == [0]:
            carried = self._carry(f"{label}/one_step_later", shape, dtype)
            carried.after = body.op("Identity", [value.name], f"{label}/one_step_later/after")
            return Value(carried.before, True)
        features = 1
        for side in shape:
            features *= side
        x, ahead = value.name, max(delays) + 1
        if len(shape) > 1:
            x = body.op("Flatten", [x], f"{label}/sent/flat", axis=1)
        x = body.op("Unsqueeze", [x, self.graph.integers(1)], f"{label}/sent")
        carried = self._carry(f"{label}/on_its_way", (ahead, features), dtype)
        ends = [self.graph.integers(number) for number in (0, ahead - 1, 1)]
        left = body.op("Slice", [carried.before, *ends], f"{label}/on_its_way/left")
        carried.after = body.op("Concat", [x, left], f"{label}/on_its_way/after", axis=1)
        rows = body.op(
            "Gather", [carried.before, self.graph.integers(*delays)], f"{label}/steps_later/by_delay", axis=1
        )
        return Value(body.op("Flatten", [rows], f"{label}/steps_later", axis=1), True)


def later_timeline(graph: Graph, steps: int, given: str, unroll: bool | None) -> LaterTimeline:
    """`LaterUnrolled` or `LaterLooped`; None chooses by `UNROLL_MOST` steps. `given` is the graph's input."""
    if steps <= UNROLL_MOST if unroll is None else unroll:
        return LaterUnrolled(graph, steps, given)
    return LaterLooped(graph, steps, given)
