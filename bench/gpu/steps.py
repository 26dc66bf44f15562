"""A training step on CIFAR-shaped images: ours, its parts switched off, the ANN, SpikingJelly; and its top kernels.

ResNet-19 of recipe `resnet19` in bfloat16; a step is forward, cross entropy, backward, and SGD. Medians.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import common
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from snn2chip.nn import LIF, SpikingNetwork, model_file
from snn2chip.nn.neuron import fuse_neurons
from snn2chip.recipe import load
from snn2chip.train.graph import Graphed

# SpikingJelly 2 takes its kernels where the state is float32, or of a type that its `precision` was told of
JELLY = "as it comes", "neurons in float32", "its precision of bfloat16"
OPTIONS = common.options_of(__doc__)
DEVICE, SMALL = OPTIONS.device, OPTIONS.small
SIZES = [(2, 4)] if SMALL else [(4, 128), (1, 256)]
WARM, TIMES = (1, 2) if SMALL else (5, 15)
ROWS: list[dict[str, Any]] = []


def ours(timesteps: int, *, fuse: bool = True, kind: str = "lif") -> SpikingNetwork:
    settings = [f"model.timesteps={timesteps}", f"model.neuron.kind={kind}", *(["model.width=0.0625"] if SMALL else [])]
    network = model_file.build_network(load("resnet19", settings), (3, 32, 32), 10, 255, [0.5] * 3, [0.25] * 3)
    network.to(DEVICE, memory_format=torch.channels_last).train()
    if fuse:
        fuse_neurons(network, DEVICE)
    return network


class InFloat(nn.Module):
    """A neuron that computes in float32, in a network of bfloat16."""

    def __init__(self, node: nn.Module) -> None:
        super().__init__()
        self.node = node

    def forward(self, x: Tensor) -> Tensor:
        spikes: Tensor = self.node(x.float()).to(x.dtype)
        return spikes


def jelly(form: str, timesteps: int) -> tuple[SpikingNetwork, Callable[[Tensor], Tensor]]:
    """The same network with SpikingJelly's multi-step neuron: v = 0.25 v + x, hard reset, ATan."""
    from spikingjelly.activation_based import functional, neuron, precision, surrogate

    network = ours(timesteps, fuse=False)
    for name, module in list(network.named_modules()):
        if isinstance(module, LIF):
            parent, _, last = name.rpartition(".")
            node = neuron.LIFNode(4 / 3, False, 0.5, 0.0, surrogate.ATan(), step_mode="m").to(DEVICE)
            setattr(network.get_submodule(parent), last, InFloat(node) if form == JELLY[1] else node)
    if form == JELLY[2]:
        config = precision.PrecisionConfig(mode="bf16", neuron_storage="bf16")
        precision.prepare_model_for_precision(network, DEVICE, config)

    def forward(images: Tensor) -> Tensor:
        functional.reset_net(network)
        scores: Tensor = network(images)
        return scores

    return network, forward


def step_of(network: nn.Module, forward: Callable[[Tensor], Tensor], batch: int, graph: bool) -> Callable[[], None]:
    images = torch.randint(0, 256, (batch, 3, 32, 32), dtype=torch.uint8, device=DEVICE)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (batch,), device=DEVICE)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)

    def work(x: Tensor, y: Tensor) -> None:
        with torch.autocast(DEVICE.type, torch.bfloat16):
            scores = forward(x)
        network.zero_grad()
        F.cross_entropy(scores.float(), y).backward()

    run = Graphed(work, list(network.parameters())) if graph else work

    def step() -> None:
        run(images, labels)
        optimizer.step()

    return step


def measure(
    name: str, make: Callable[[], tuple[nn.Module, Callable[[Tensor], Tensor]]], t: int, batch: int, graph: bool = False
) -> None:
    row: dict[str, Any] = {"name": name, "timesteps": t, "batch": batch, "device": common.card(DEVICE)}
    try:
        torch.manual_seed(0)
        if DEVICE.type == "cuda":  # a graph's memory is taken once, when it is recorded
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        step, times = step_of(*make(), batch, graph), []
        for _ in range(WARM):
            step()
        common.wait(DEVICE)
        for _ in range(TIMES):
            started = time.perf_counter()
            step()
            common.wait(DEVICE)
            times.append(time.perf_counter() - started)
        row |= {"seconds": statistics.median(times), "quartiles": statistics.quantiles(times, n=4)[::2]}
        if DEVICE.type == "cuda":
            row["peak_mib"] = torch.cuda.max_memory_allocated() / 2**20
    except Exception as error:  # what one contender cannot do is a row, and no end of the table
        row["failed"] = f"{type(error).__name__}: {error}"[:300]
    ROWS.append(row)
    print(row, flush=True)
    common.write("steps", ROWS)


def plain(network: SpikingNetwork) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    return network, network


def both(name: str, make: Callable[[], tuple[nn.Module, Callable[[Tensor], Tensor]]], t: int, batch: int) -> None:
    measure(name, make, t, batch)
    if DEVICE.type == "cuda":
        measure(f"{name}, as a graph", make, t, batch, graph=True)


def main() -> None:
    for t, batch in SIZES:
        both("snn2chip", lambda t=t: plain(ours(t)), t, batch)
        both("snn2chip, loop of torch operations", lambda t=t: plain(ours(t, fuse=False)), t, batch)
        both("ANN of the same layers, once", lambda: plain(ours(1, kind="relu")), 1, batch)
        both("ANN, T x batch images", lambda: plain(ours(1, kind="relu")), 1, t * batch)
        for form in JELLY:
            both(f"SpikingJelly, {form}", lambda t=t, form=form: jelly(form, t), t, batch)
    top(*SIZES[0])


def top(timesteps: int, batch: int) -> None:
    """Print where the time of a step goes."""
    from torch.profiler import ProfilerActivity, profile

    cuda = DEVICE.type == "cuda"
    step = step_of(*plain(ours(timesteps)), batch, False)
    for _ in range(WARM):
        step()
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]) as seen:
        for _ in range(2):
            step()
        common.wait(DEVICE)
    order = "self_cuda_time_total" if cuda else "self_cpu_time_total"
    print(seen.key_averages().table(sort_by=order, row_limit=18, max_name_column_width=60))


if __name__ == "__main__":
    main()
