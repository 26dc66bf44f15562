"""What a network's forward function does, written down while it runs on tensors that have shapes and no values.

The function really runs, so that its branches on attributes, its loops over time steps and whatever containers it is
built from need no rules of their own. Modules that a `Leaf` is known for do not run: what they are is written down, and
they give a tensor of the shape that they would. Between them stands what moves values and does not change them (view,
flatten, stack), additions, and averages; all else is refused by name, and so is any look at a value.

How a tensor holds time is its `Layout`; everything that is written down is of one time step:

    image    (N, ...)       no time yet: the same at every step
    lifted   (1, N, ...)    the same, about to be repeated
    steps    (T, N, ...)
    series   (N, ..., T)    the same, time last
    merged   (T N, ...)     the same values in the same order, as layers of torch take them
    step     (N, ...)       one step of a loop over time
    total    (N, ...)       a sum over all steps, or up to `step` while a loop adds them up, times `factor`
    state    (N, ...)       what a neuron hands to itself
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from snn2chip import ir
from snn2chip.errors import Snn2ChipError, UnsupportedError, out_of_memory
from snn2chip.frameworks import Layout, Leaf, leaf_of
from snn2chip.text import first_line


class OtherTimeError(UnsupportedError):
    """A layer was given a tensor that holds time, or a row, in another way than it takes; the network may take its
    input so."""


@dataclass(frozen=True)
class Value:
    """Which node gives a tensor, and how the tensor holds time; a `row` holds an image of height 1 as (C, L)."""

    name: str
    layout: Layout
    step: int = 0
    factor: float = 1.0
    row: bool = False


@dataclass
class _Memory:
    """What tensors that may be views of each other share: how often it was changed in place, and by which addition."""

    changes: int = 0
    said: str = ""


class Seen(torch.Tensor):
    """A tensor of a forward function that is being recorded."""

    value: Value
    memory: _Memory
    changes: int
    recorder: Recorder

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = {} if kwargs is None else kwargs
        return next(_seen((args, given))).recorder.call(func, args, given)

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.recorder.taken_apart(self))

    def __len__(self) -> int:
        return int(self.shape[0])


def _seen(values: Any) -> Iterator[Seen]:
    if isinstance(values, Seen):
        yield values
    elif isinstance(values, (list, tuple)):
        for value in values:
            yield from _seen(value)
    elif isinstance(values, dict):
        yield from _seen(list(values.values()))


def _plain(values: Any) -> Any:
    """The same arguments without their records."""
    if isinstance(values, Seen):
        return values.as_subclass(torch.Tensor)
    if isinstance(values, (list, tuple)) and not isinstance(values, torch.Size):
        return type(values)(_plain(value) for value in values)
    if isinstance(values, dict):
        return {name: _plain(value) for name, value in values.items()}
    return values


_QUESTIONS = {
    *("__get__", "size", "dim", "ndimension", "numel", "nelement", "stride", "is_contiguous", "is_floating_point"),
    *("get_device", "element_size", "type", "zeros_like", "ones_like", "empty_like", "new_zeros", "new_ones"),
    *("__repr__", "is_complex", "storage_offset", "result_type", "__format__", "__hash__"),
}
_VIEWS = {
    *("flatten", "reshape", "view", "view_as", "unflatten", "squeeze", "unsqueeze", "expand", "repeat"),
    *("detach", "contiguous", "to", "float", "double", "half", "bfloat16", "cpu", "cuda", "type_as", "requires_grad_"),
}
_ADDS = {"add", "add_", "__add__", "__radd__", "__iadd__"}
_SCALES = {"mul": 1, "__mul__": 1, "__rmul__": 1, "div": -1, "__truediv__": -1, "true_divide": -1}


class Recorder:
    """One recording: `nodes` so far, the Input first, and the shape that each gives."""

    def __init__(self, node: ir.Input, timesteps: int) -> None:
        self.given, self.timesteps = node, timesteps
        self.batch = 2 if timesteps != 2 else 3  # neither 1 nor T, so that shapes say which side is which
        self.nodes: list[ir.Node] = [node]
        self.shapes: dict[str, ir.Shape] = {node.name: node.shape}
        self.rows: set[str] = set()  # nodes of layers that gave rows
        self.own_time = False  # whether a tensor held several steps, or a layer ran at a second one
        self._uses: Counter[str] = Counter()  # of a name
        self._made: dict[tuple[str, tuple[str, ...]], str] = {}  # nodes of a loop's first step, by path and sources
        self._calls: Counter[str] = Counter()  # of a neuron's path in a loop
        self._inside: list[str] = []  # paths of the modules that are running
        self._parameters: dict[int, str] = {}

    # ------------------------------------------------------------------------------------------------- the run

    def input(self, layout: Layout, row: bool = False) -> Seen:
        """The network's input."""
        return self.tensor(Value(self.nodes[0].name, layout, row=row))

    def run(
        self, network: nn.Module, layout: Layout, row: bool = False, norms: Mapping[str, Leaf] | None = None
    ) -> Any:
        """What the forward function gives for the input in that layout, images of height 1 as rows (C, L) if `row`.

        `norms` by path are those of single steps (`snn2chip.frameworks.lists_through_time`).

        Raises:
            UnsupportedError: what no chip has, by layer.
        """
        self._parameters = {id(value): name for name, value in network.named_parameters()}
        with contextlib.ExitStack() as stack, torch.no_grad():
            for path, module in network.named_modules():
                found = (norms or {}).get(path) or leaf_of(path, module)
                if found is None:
                    stack.enter_context(self._followed(path, module))
                elif "forward" not in vars(module):
                    stack.enter_context(self._replaced(path, module, found))
            try:
                return network(self.input(layout, row))
            except Snn2ChipError:
                raise
            except Exception as error:  # the function is the user's
                if out_of_memory(error):
                    raise
                raise UnsupportedError(
                    f"network: its forward function cannot be followed ({type(error).__name__}: {first_line(error)}); "
                    f"build it from known layers, additions, and what moves values without changing them"
                ) from None

    @contextlib.contextmanager
    def _followed(self, path: str, module: nn.Module) -> Iterator[None]:
        def enter(*_: object) -> None:
            self._inside.append(path)

        def leave(*_: object) -> None:
            self._inside.pop()

        hooks = [module.register_forward_pre_hook(enter), module.register_forward_hook(leave, always_call=True)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    @contextlib.contextmanager
    def _replaced(self, path: str, module: nn.Module, leaf: Leaf) -> Iterator[None]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            seen = list(_seen((args, kwargs)))
            given = [x for x in seen if x.value.layout != "state"]
            if len(given) != 1:
                raise UnsupportedError(f"layer '{path}': {len(given)} inputs; expected one")
            return self.layer(path, leaf, given[0])

        module.forward = forward
        try:
            yield
        finally:
            del module.forward

    # ------------------------------------------------------------------------------------------------- tensors

    def lead(self, layout: Layout) -> tuple[int, ...]:
        """The sides of a tensor before those of one sample and step."""
        if layout in ("steps", "lifted"):
            return (self.timesteps if layout == "steps" else 1, self.batch)
        return (self.timesteps * self.batch if layout == "merged" else self.batch,)

    def sides(self, layout: Layout, shape: ir.Shape, row: bool = False) -> tuple[int, ...]:
        """The sides of a tensor of samples and steps of `shape`."""
        held = (shape[0], shape[2]) if row else shape
        return (*self.lead(layout), *held, *((self.timesteps,) if layout == "series" else ()))

    def tensor(self, value: Value, memory: _Memory | None = None) -> Seen:
        """A tensor that holds `value`, in `memory` or in some of its own."""
        sides = self.sides(value.layout, self.shapes[value.name], value.row)
        self.own_time |= value.layout not in ("image", "lifted", "step", "state") or value.step > 0
        made: Seen = torch.empty(sides, device="meta").as_subclass(Seen)
        made.value, made.recorder, made.memory = value, self, memory or _Memory()
        made.changes = made.memory.changes
        return made

    def read(self, tensor: Seen) -> Value:
        """What a tensor holds.

        Raises:
            UnsupportedError: what it may share memory with was changed since.
        """
        if tensor.changes != tensor.memory.changes:
            said, held = tensor.memory.said, tensor.value.name
            raise UnsupportedError(
                f"{said}, while '{held}', flattened or not, may hold the same memory and is read later; write y = y + x"
            )
        return tensor.value

    def taken_apart(self, tensor: Seen) -> list[Tensor]:
        """The steps of a sequence, for a loop over them."""
        value = self.read(tensor)
        if value.layout != "steps":
            raise UnsupportedError(f"{self._where()}: a loop over samples or features in its forward function")
        return [self.tensor(replace(value, layout="step", step=t), tensor.memory) for t in range(self.timesteps)]

    # -------------------------------------------------------------------------------------------------- layers

    def _name(self, path: str) -> str:
        self._uses[path] += 1
        return path if self._uses[path] == 1 else f"{path}:{self._uses[path]}"

    def _write(self, nodes: Sequence[ir.Node]) -> str:
        for node in nodes:
            self.shapes[node.name] = ir.output_shape(node, *(self.shapes[source] for source in node.inputs))
        self.nodes += nodes
        return nodes[-1].name

    def _at(self, what: str) -> str:
        """The path of what a forward function does without a module."""
        inside = self._inside[-1] if self._inside else ""
        return f"{inside}.{what}" if inside else what

    def _where(self) -> str:
        inside = self._inside[-1] if self._inside else ""
        return f"layer '{inside}'" if inside else "network"

    def layer(self, path: str, leaf: Leaf, given: Seen) -> Any:
        """A leaf's call."""
        value = self.read(given)
        if value.layout not in leaf.layouts:
            raise OtherTimeError(
                f"layer '{path}': takes {_SIDES[leaf.layouts[-1]]}, but is given {_SIDES[value.layout]}"
            )
        shape = self.shapes[value.name]
        axes = 1 if value.row else len(shape) - 1
        if leaf.axes and axes not in leaf.axes:
            wanted = " or ".join(_AXES[each] for each in leaf.axes)
            raise OtherTimeError(f"layer '{path}': takes {wanted}, but is given {_AXES[axes]} {shape}")
        loop = value.layout in ("image", "step")
        place = leaf.layer or path
        known = self._made.get((place, (value.name,))) if loop else None
        if known is None:
            name = self._name(place)
            nodes = leaf.make(name, (value.name,), shape)
            if not nodes:
                return given
            if isinstance(nodes[-1], ir.LIF) and self._calls[path]:
                raise UnsupportedError(f"layer '{path}': one state for two neurons; give each a module of its own")
            known = self._write(nodes)
            if loop:
                self._made[place, (value.name,)] = known
        node, found = self._node(known), replace(value, name=known)
        if loop and isinstance(node, ir.LIF):
            found = replace(value, name=known, layout="step", step=self._calls[path])
            self._calls[path] += 1
            if value.layout == "step" and value.step != found.step:
                raise UnsupportedError(f"layer '{path}': step {value.step} of its input at its step {found.step}")
        if leaf.step is not None:
            found = replace(found, layout="step", step=leaf.step)
            if value.layout == "step" and value.step != leaf.step:
                raise UnsupportedError(f"layer '{path}': of step {leaf.step}, called at step {value.step}")
        if value.row:
            self.rows.add(known)
        made = self.tensor(found, given.memory if isinstance(node, ir.Flatten) else None)
        if not leaf.states:
            return made
        return (made, *(self.tensor(Value(known, "state", row=value.row)) for _ in range(leaf.states)))

    def _node(self, name: str) -> ir.Node:
        return next(node for node in reversed(self.nodes) if node.name == name)

    # ---------------------------------------------------------------------------------------------- operations

    def call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """An operation between the layers."""
        name = str(getattr(func, "__name__", func))
        if name in _QUESTIONS:
            with torch._C.DisableTorchFunctionSubclass():
                return _plain(func(*_plain(args), **_plain(kwargs)))
        if name in ("__bool__", "__float__", "__int__", "__index__", "item", "tolist", "numpy", "__contains__"):
            raise UnsupportedError(
                f"{self._where()}: its forward function does what a chip cannot (branches on values, loops over them): "
                f"'{name}'; build it from known layers and additions"
            )
        if name in _ADDS:
            return self._add(name, args, kwargs)
        tensor = args[0] if args and isinstance(args[0], Seen) else None
        if tensor is not None and name in _VIEWS:
            return self._view(func, name, tensor, args, kwargs)
        if tensor is not None and name in ("mean", "sum"):
            return self._mean(name, tensor, args, kwargs)
        if tensor is not None and (name == "clone" or (name == "dropout" and not _training(args, kwargs))):
            return self.tensor(self.read(tensor), None if name == "clone" else tensor.memory)
        if tensor is not None and name == "__getitem__" and isinstance(args[1], int):
            return self.taken_apart(tensor)[args[1]]
        if tensor is not None and name == "select" and args[1:2] == (0,):
            return self.taken_apart(tensor)[int(args[2])]
        if tensor is not None and name == "unbind" and not any(args[1:]) and not kwargs.get("dim"):
            return tuple(self.taken_apart(tensor))
        if name == "stack" and len(args[0]) != self.timesteps:
            raise UnsupportedError(f"{self._where()}: stacks {len(args[0])} time steps, T is {self.timesteps}")
        if name in ("stack", "cat") and (stacked := self._stack(name, args, kwargs)) is not None:
            return stacked
        if name in _SCALES and (scaled := self._scale(name, args)) is not None:
            return scaled
        raise UnsupportedError(
            f"{self._where()}: '{name.strip('_')}' in its forward function cannot be exported; "
            f"{_INSTEAD.get(name.strip('_'), 'use layers of snn2chip.nn and torch.nn, and their sums')}"
        )

    def _add(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        left, right = (args[0], args[1]) if len(args) == 2 and not kwargs else (None, None)
        numbers = [x for x in (left, right) if not isinstance(x, Seen)]
        seen = [x for x in (left, right) if isinstance(x, Seen)]
        if len(seen) == 1 and _zero(numbers[0], seen[0].shape):  # where a loop starts to add up
            return self.tensor(self.read(seen[0]))
        if len(seen) != 2:
            what = self._parameters.get(id(numbers[0]) if numbers else 0, name.strip("_"))
            raise UnsupportedError(
                f"{self._where()}: '{what}' in its forward function cannot be exported; use layers of snn2chip.nn and "
                f"torch.nn, and their sums"
            )
        first, second = (self.read(x) for x in seen)
        later = first.step + 1 if first.layout in ("step", "total") else -1
        if first.name == second.name and second.layout == "step" and second.step == later:
            return self.tensor(replace(first, layout="total", step=later))
        pair = {first.layout, second.layout}
        layout = first.layout if len(pair) == 1 else _JOINED.get(frozenset(pair))
        steps = {value.step for value in (first, second) if value.layout == "step"}
        if layout is None or layout in ("total", "state") or len(steps) > 1 or first.row != second.row:
            raise UnsupportedError(
                f"{self._where()}: an addition of {_SIDES[first.layout]} and {_SIDES[second.layout]}, or of different "
                f"steps, in its forward function"
            )
        path, sources = self._at("add"), (first.name, second.name)
        known = self._made.get((path, sources)) if layout in ("image", "step") else None
        if known is None:
            known = self._write([ir.Add(self._name(path), sources)])
            if layout in ("image", "step"):
                self._made[path, sources] = known
        found = Value(known, layout, max(steps, default=0), row=first.row)
        if name not in ("add_", "__iadd__"):
            return self.tensor(found)
        target = seen[0]  # whoever holds it holds the sum from here on; views of it are not to be read again
        target.memory.changes += 1
        target.memory.said = f"layer '{known}': an addition in place to '{first.name}'"
        target.value, target.changes = found, target.memory.changes
        return target

    def _view(self, func: Any, name: str, tensor: Seen, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        value = self.read(tensor)
        with torch._C.DisableTorchFunctionSubclass():
            plain = tensor.as_subclass(torch.Tensor)
            rest = [plain.device if isinstance(x, torch.device) else x for x in _plain(args[1:])]
            kept = name in ("to", "cpu", "cuda", "type_as", "requires_grad_")
            sides = plain.shape if kept else func(plain, *rest, **_plain(kwargs)).shape
        found = self._held(value, tuple(sides))
        if found is None:
            raise UnsupportedError(
                f"{self._where()}: '{name}' of '{value.name}', from {tuple(tensor.shape)} to {tuple(sides)} at T = "
                f"{self.timesteps} and {self.batch} samples; whole samples can be flattened, and steps and samples put "
                f"into one axis or apart. If it runs for another number of steps, give that one"
            )
        return self.tensor(found, tensor.memory)

    def _held(self, value: Value, sides: tuple[int, ...]) -> Value | None:
        """`value` in a tensor of other sides; None if it is no longer one of samples of steps."""
        shape = self.shapes[value.name]
        flat = (math.prod(shape),)
        layouts: tuple[Layout, ...] = (value.layout,)
        if value.layout in ("steps", "merged"):
            layouts = ("steps", "merged")
        elif value.layout in ("image", "lifted"):  # unsqueeze and repeat, or repeat alone, make the steps of an image
            layouts = ("image", "steps", "lifted", "merged")
        for layout in layouts:
            for row in (False, True) if len(shape) == 3 and shape[1] == 1 else (False,):
                if sides == self.sides(layout, shape, row):
                    return replace(value, layout=layout, row=row)
        for layout in layouts:
            if sides == self.sides(layout, flat):
                path = self._at("flatten")
                known = self._made.get((path, (value.name,))) if layout in ("image", "step") else None
                if known is None:
                    known = self._write([ir.Flatten(self._name(path), (value.name,))])
                    self._made[path, (value.name,)] = known
                return replace(value, name=known, layout=layout, row=False)
        return None

    def _mean(self, name: str, tensor: Seen, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        value = self.read(tensor)
        given = kwargs.get("dim", args[1] if len(args) > 1 else None)
        keep = bool(kwargs.get("keepdim", args[2] if len(args) > 2 else False))
        lead, shape = len(self.lead(value.layout)), self.shapes[value.name]
        dims = given if isinstance(given, (list, tuple)) else [] if given is None else [given]
        axes = {int(axis) % tensor.ndim for axis in dims}
        time = {"steps": 0, "series": tensor.ndim - 1}.get(value.layout)
        if axes == {time} and not keep:
            factor = 1 / self.timesteps if name == "mean" else 1
            return self.tensor(replace(value, layout="total", step=self.timesteps - 1, factor=factor))
        if name == "mean" and len(shape) == 3 and axes == ({lead + 1} if value.row else {lead + 1, lead + 2}):
            pooled = self._name(self._at("mean"))
            nodes: list[ir.Node] = [ir.AvgPool(pooled, (value.name,), (shape[1], shape[2]))]
            nodes += [] if keep else [ir.Flatten(f"{pooled}_flatten", (pooled,))]
            return self.tensor(replace(value, name=self._write(nodes), row=value.row and keep))
        raise UnsupportedError(
            f"{self._where()}: '{name}' over axes {sorted(axes)} of {tuple(tensor.shape)} in its forward function; the "
            f"mean over height and width, and the sum or mean over time at the end, can be exported"
        )

    def _stack(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
        """All steps of a loop, or an image T times, as a sequence; None for anything else."""
        parts, axis = args[0], kwargs.get("dim", args[1] if len(args) > 1 else 0)
        if axis != 0 or len(parts) != self.timesteps or not all(isinstance(part, Seen) for part in parts):
            return None
        values = [self.read(part) for part in parts]
        same = len({value.name for value in values}) == 1
        layouts = {value.layout for value in values}
        if not same or len(layouts) > 1 or not layouts <= {"image", "step", "state"}:
            return None
        if layouts == {"state"}:
            return self.tensor(values[0])  # which nothing but a neuron can read
        if layouts == {"step"} and [value.step for value in values] != list(range(self.timesteps)):
            return None
        return self.tensor(replace(values[0], layout="steps" if name == "stack" else "merged", step=0))

    def _scale(self, name: str, args: tuple[Any, ...]) -> Tensor | None:
        """A sum over time, times or by a number."""
        numbers = [x for x in args if isinstance(x, (int, float))]
        seen = [x for x in args if isinstance(x, Seen)]
        if len(numbers) != 1 or len(seen) != 1 or (value := self.read(seen[0])).layout != "total":
            return None
        return self.tensor(replace(value, factor=value.factor * float(numbers[0]) ** _SCALES[name]))


_SIDES: dict[Layout, str] = {
    "image": "one image (N, ...)",
    "lifted": "one image (1, N, ...)",
    "steps": "steps (T, N, ...)",
    "series": "steps, time last (N, ..., T)",
    "merged": "steps and samples in one axis (T N, ...)",
    "step": "one step (N, ...)",
    "total": "a sum over time",
    "state": "a neuron's state",
}
_INSTEAD = {
    **dict.fromkeys(("softmax", "log_softmax"), "leave it out at the end: the largest score stays the largest"),
    "dropout": "give it training=self.training, so that it does nothing once the network is trained",
    **dict.fromkeys(("argmax", "max", "topk"), "return the scores themselves, summed over time"),
    **dict.fromkeys(("relu", "leaky_relu", "gelu", "silu", "sigmoid", "tanh"), "use snn2chip.nn.LIF"),
    **dict.fromkeys(("sub", "rsub"), "leave the input's normalization to mean= and std=, and to batch norm the rest"),
    **dict.fromkeys(("permute", "transpose", "movedim"), "take and hand on tensors as the layers do, (T, N, C, H, W)"),
    **dict.fromkeys(
        ("conv1d", "conv2d", "linear", "batch_norm", "avg_pool2d", "max_pool2d", "adaptive_avg_pool2d"),
        "use the module of torch.nn",
    ),
}
_AXES = {0: "features", 1: "rows (C, L)", 2: "images (C, H, W)"}
_JOINED: dict[frozenset[Layout], Layout] = {
    frozenset(("image", "step")): "step",
    frozenset(("image", "steps")): "steps",
}


def _training(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a call of torch.nn.functional.dropout drops."""
    return bool(kwargs.get("training", args[2] if len(args) > 2 else True))


def _zero(value: Any, shape: torch.Size) -> bool:
    """Whether nothing is added to a tensor of `shape`: the number 0, or zeros that do not make it larger."""
    if isinstance(value, (int, float)):
        return value == 0
    if not isinstance(value, Tensor) or value.device.type == "meta" or bool(value.any()):
        return False
    return tuple(np.broadcast_shapes(value.shape, shape)) == tuple(shape)
