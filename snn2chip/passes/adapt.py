"""A module of any framework as a captured network, and the module's own run beside it."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import parametrize

from snn2chip import ir
from snn2chip.errors import InputError, UnsupportedError
from snn2chip.frameworks import Layout, Leaf, lists_through_time, reset
from snn2chip.nn import in_float64
from snn2chip.passes.capture import check_ending
from snn2chip.passes.record import OtherTimeError, Recorder, Seen, Value


@dataclass(frozen=True, eq=False)
class Adapted:
    """A trained module and what it computes.

    captured  the network; its notes say how the module was read
    module    the module itself
    takes     how it takes its input: "image" once (it loops over steps or repeats the image itself), all "steps"
              (T, N, ...) at once, all as a "series" (N, ..., T), or one "step" a call
    ending    which value it returns
    place     where in the tuple that it returns, if it returns one
    rows      the input and the layers of neurons that it has as rows (C, L), images of height 1 here
    """

    captured: ir.Network
    module: nn.Module
    takes: Layout
    ending: Value
    place: int | None
    rows: frozenset[str] = frozenset()

    @torch.no_grad()
    def run(self, raw: ir.IntArray) -> tuple[dict[str, NDArray[Any]], NDArray[Any]]:
        """Spikes (N, T, ...) of every neuron, by name, and scores (N, K) summed over time, of raw input (N, T, C, H, W)
        through a copy of the module in float64, in eval mode."""
        module, given = in_float64(self.module), self.captured.input
        reset(module)
        found: dict[str, list[Tensor]] = defaultdict(list)
        neurons = {node.name.partition(":")[0] for node in self.captured.of(ir.LIF)}

        def keep(name: str) -> Any:
            def hook(_module: object, _inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
                found[name].append(output if isinstance(output, Tensor) else output[0])

            return hook

        def exact(_module: object, inputs: tuple[Any, ...]) -> tuple[Any, ...]:  # snnTorch's spikes are float32
            return tuple(x.double() if isinstance(x, Tensor) and x.is_floating_point() else x for x in inputs)

        handles = [part.register_forward_pre_hook(exact) for part in module.modules()]
        handles += [part.register_forward_hook(keep(name)) for name, part in module.named_modules() if name in neurons]
        sides = (-1, *(1,) * (len(given.shape) - 1))
        scale, shift = (torch.from_numpy(values.copy()).reshape(sides) for values in (given.scale, given.shift))
        x = torch.from_numpy(raw).transpose(0, 1).double() * scale + shift
        x = x.squeeze(-2) if given.name in self.rows else x
        if self.takes == "step":
            outputs = [self._chosen(module(x[t])) for t in range(len(x))]
            scores = torch.stack(outputs).sum(0)
        else:
            given_all = x.movedim(0, -1) if self.takes == "series" else x
            out = self._chosen(module(x[0] if self.takes == "image" else given_all))
            if self.ending.layout == "merged":
                out = out.reshape(len(x), -1, *out.shape[1:])
            time = -1 if self.takes == "series" else 0
            scores = out / self.ending.factor if self.ending.layout == "total" else out.sum(time)
        for handle in handles:
            handle.remove()
        spikes: dict[str, NDArray[Any]] = {}
        for node in self.captured.of(ir.LIF):
            name, _, use = node.name.partition(":")
            calls = found[name]
            whole = calls[0].ndim == len(self.captured.shape(node.name)) + 2 - (node.name in self.rows)
            steps = calls[int(use or 1) - 1] if whole else torch.stack(calls)
            steps = steps.movedim(-1, 0) if self.takes == "series" else steps
            steps = steps.unsqueeze(-2) if node.name in self.rows else steps
            spikes[node.name] = steps.transpose(0, 1).numpy().astype(bool)
        return spikes, scores.numpy()

    def _chosen(self, output: Any) -> Tensor:
        chosen: Tensor = output if self.place is None else output[self.place]
        return chosen


def adapt(module: nn.Module, given: ir.Input, timesteps: int, classes: Sequence[str] = ()) -> Adapted:
    """Read a trained module of torch, SpikingJelly or snnTorch that takes what `given` describes.

    Whether it takes one image, all steps or one step a call is found out by recording it: a module that loops over
    time, repeats its input, or has neurons of several steps says so itself; else it is called once a step. An input of
    (C, 1, L) is given as rows (C, L) where the module takes those.

    Raises:
        UnsupportedError: a layer or an operation has no counterpart on the chip; named, with the nearest that has.
        InputError: NaN or infinite parameters, or shapes that do not fit.
    """
    module, events = copied(module), given.coding == "events"
    reset(module)
    said: UnsupportedError | None = None
    furthest = 0
    ways: list[Layout] = ["steps", "image", "series"] if events else ["image", "steps", "series"]
    thin = len(given.shape) == 3 and given.shape[1] == 1
    norms = lists_through_time(module, timesteps)  # or lists of as many layers, which come first
    tries = product([{}, norms] if norms else [{}], (True, False) if thin else (False,), ways)
    for of_steps, row, layout in tries:
        recorder = Recorder(given, timesteps)
        try:
            return _recorded(recorder, module, classes, layout, row, of_steps)
        except UnsupportedError as error:
            # what it says of the way that came furthest; of those, not that it takes its input in another
            reached = len(recorder.nodes)
            other = reached == furthest and isinstance(said, OtherTimeError) and not isinstance(error, OtherTimeError)
            if reached > furthest or other:
                said, furthest = error, reached
    assert said is not None
    raise said


class Handed(nn.Module):
    """A module that a function of its user's runs, whose loop over time is outside of it say: ``run(network, x)``."""

    def __init__(self, network: nn.Module, run: Callable[[nn.Module, Tensor], Any]) -> None:
        super().__init__()
        self.network, self.run = network, run

    def forward(self, x: Tensor) -> Any:
        return self.run(self.network, x)


def copied(module: nn.Module) -> nn.Module:
    """A copy of a module on the CPU, in eval mode. What it has computed, weight norm's weights or membranes of a batch,
    torch does not copy while gradients flow through it: it is copied as numbers, as are tensors that a module would
    leave on a GPU."""
    held = [value for part in module.modules() for value in vars(part).values()]
    held += [value for table in held if isinstance(table, dict) for value in table.values()]
    tensors = [value for value in held if isinstance(value, Tensor) and not isinstance(value, nn.Parameter)]
    numbers = {id(value): value.detach().cpu().clone() for value in tensors if value.is_cuda or not value.is_leaf}
    made = copy.deepcopy(module, numbers).eval().cpu()
    for part in filter(parametrize.is_parametrized, list(made.modules())):
        # a weight that a parametrization computes (weight_norm, say) as a number; torch's own remove_parametrizations
        # would change the class, which is the given module's too
        kind: Any = parametrize.type_before_parametrizations(part)
        weights = {str(name): getattr(part, str(name)) for name in part.get_submodule("parametrizations")._modules}
        del part._modules["parametrizations"]
        part.__class__ = kind
        for name, value in weights.items():
            part.register_parameter(name, nn.Parameter(value.detach().clone()))
    return made


def _recorded(
    recorder: Recorder,
    module: nn.Module,
    classes: Sequence[str],
    layout: Layout,
    row: bool,
    norms: Mapping[str, Leaf],
) -> Adapted:
    given, timesteps = recorder.given, recorder.timesteps
    output = recorder.run(module, layout, row, norms)
    parts = list(output) if isinstance(output, (tuple, list)) else [output]
    tensors = {place: part for place, part in enumerate(parts) if isinstance(part, Seen)}
    chosen = [place for place, part in tensors.items() if part.value.layout != "state"]
    if len(chosen) != 1:
        said = f"{len(chosen)} tensors that are no states" if tensors else f"a {type(output).__name__}"
        raise UnsupportedError(f"network: its forward function returns {said}; it must return one tensor of scores")
    ending = recorder.read(tensors[chosen[0]])
    if ending.layout == "step" and recorder.own_time:
        if timesteps > 1:
            raise UnsupportedError(
                f"network: it returns step {ending.step + 1} of its {timesteps} alone, and the chip adds up all of "
                f"them; return the sum or the mean over time, and train with it"
            )
        ending = replace(ending, layout="total")
    takes: Layout = "step" if ending.layout == "step" else layout
    if ending.layout in ("image", "lifted"):
        raise UnsupportedError("network: no neuron and no step of time in it")
    if given.coding == "events" and takes == "image":
        raise UnsupportedError("network: makes time steps of one image, but its input has steps of its own")
    if ending.layout == "total" and ending.step != timesteps - 1:
        raise InputError(f"network: adds up {ending.step + 1} time steps, but runs for {timesteps}; give timesteps=")
    last = next(node for node in recorder.nodes if node.name == ending.name)
    kind: ir.ReadoutKind = "spike_count" if isinstance(last, ir.LIF) else "membrane"
    check_ending(last, kind)
    recorder.nodes.append(ir.Readout("readout", (ending.name,), kind))
    notes = (f"read as a module that takes {_SAID[takes]}",)
    captured = ir.Network("captured", timesteps, tuple(classes), tuple(recorder.nodes), notes)
    if captured.integers and ((given.scale != 1).any() or given.shift.any()):
        raise InputError(
            "network: it computes in integers, and takes spikes or counts as they are, not images with a mean and std; "
            "give frames (N, T, C, H, W)"
        )
    place = chosen[0] if isinstance(output, (tuple, list)) else None
    rows = frozenset(recorder.rows | ({given.name} if row else set()))
    return Adapted(captured, module, takes, ending, place, rows)


_SAID: dict[Layout, str] = {
    "image": "an image and makes its time steps itself",
    "steps": "all time steps at once (T, N, ...)",
    "series": "all time steps at once, time last (N, ..., T)",
    "step": "one time step a call, its outputs added up",
}


def pixels(channels: Sequence[int], high: int, mean: Sequence[float], std: Sequence[float]) -> ir.Input:
    """Images (C, H, W) of integers 0..high that the network sees as ``(pixel / high - mean) / std``, at every step.

    Raises:
        InputError: not one mean and one positive deviation a channel.
    """
    shape = tuple(channels)
    if (
        len(mean) not in (1, shape[0])
        or len(std) not in (1, shape[0])
        or not min(std) > 0
        or not np.isfinite([*mean, *std]).all()
    ):
        raise InputError(
            f"mean {list(mean)} and std {list(std)}: give one of each for {shape[0]} channels, finite, std positive"
        )
    means, deviations = (np.broadcast_to(np.asarray(values, np.float64), shape[:1]) for values in (mean, std))
    center = np.zeros(shape[0], dtype=np.int64)
    return ir.Input("input", (), shape, "direct", high, 0, high, center, 1 / (high * deviations), -means / deviations)


def frames(channels: Sequence[int], high: int) -> ir.Input:
    """Frames (C, H, W) of spikes or counts 0..high, one a step, which the network sees as they are."""
    shape = tuple(channels)
    ones, center = np.ones(shape[0]), np.zeros(shape[0], dtype=np.int64)
    return ir.Input("input", (), shape, "events", high, 0, high, center, ones, 0 * ones)
