"""The networks that bench/training.py measures: ours, others', and one without spikes, each in a process of its own."""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

PLAN = ((3, 64, 1), (64, 64, 2), (64, 128, 1), (128, 128, 2))
TAU, THRESHOLD = 0.25, 0.5
# name -> (what it is, channels_last, with batch norm); the first is what the others are measured against
CANDIDATES: dict[str, tuple[str, bool, bool]] = {
    "ann": ("ANN (ReLU), channels_last", True, False),
    "ann-nchw": ("ANN (ReLU)", False, False),
    "ours": ("snn2chip", True, False),
    "ours-dense": ("snn2chip, spikes convolved densely", True, False),
    "ours-blocks": ("snn2chip without a C++ compiler", True, False),
    "loop": ("plain loop of torch operations", True, False),
    "spikingjelly": ("SpikingJelly", False, False),
    "spikingjelly-last": ("SpikingJelly, channels_last", True, False),
    "spikingjelly-compiled": ("SpikingJelly, channels_last, torch.compile", True, False),
    "snntorch": ("snnTorch", False, False),
    "snntorch-last": ("snnTorch, channels_last", True, False),
    "norse": ("Norse", False, False),
    "norse-last": ("Norse, channels_last", True, False),
    "lava-dl": ("lava-dl slayer", False, False),
    "ann-norm": ("ANN (batch norm, ReLU), channels_last", True, True),
    "ours-norm": ("snn2chip, tdBN", True, True),
    "ours-norm-0.78": ("snn2chip, tdBN with alpha 0.78: fewer spikes", True, True),
    "ours-norm-0.61": ("snn2chip, tdBN with alpha 0.61: fewer still", True, True),
    "spikingjelly-norm": ("SpikingJelly, batch norm, channels_last", True, True),
    "spikingjelly-norm-compiled": ("SpikingJelly, batch norm, channels_last, torch.compile", True, True),
}
FOREIGN = ("spikingjelly", "snntorch", "norse", "lava-dl")  # packages, by the beginning of a candidate's name


def _network(layers: Any, norm: Any, neuron: Callable[[], Any], bias: bool) -> Any:
    """The plan with a library's Conv2d, Flatten and Linear."""
    from torch import nn

    made: list[Any] = []
    for inputs, outputs, stride in PLAN:
        made.append(layers.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1, bias=bias))
        made += [neuron()] if norm is None else [norm(outputs), neuron()]
    return nn.Sequential(*made, layers.Flatten(), layers.Linear(8192, 10))


def _ann(name: str) -> Any:
    from torch import nn

    norm = nn.BatchNorm2d if CANDIDATES[name][2] else None
    network = _network(nn, norm, nn.ReLU, norm is None)
    return network, lambda x: network(x.flatten(0, 1)).unflatten(0, x.shape[:2]).mean(0)


def _ours(name: str) -> Any:
    import torch

    from snn2chip import nn
    from snn2chip.nn import kernels, spike_conv
    from snn2chip.nn.neuron import fuse_neurons

    alpha = float(name.rpartition("-")[2]) if name[-1].isdigit() else 1.0
    norm = (lambda channels: nn.TDBatchNorm(channels, alpha=alpha)) if CANDIDATES[name][2] else None
    network = _network(nn, norm, lambda: nn.LIF(TAU, THRESHOLD), norm is None)
    if name == "ours-blocks":
        kernels.load = lambda: "not wanted here"  # type: ignore[assignment]
    if name == "ours-dense":
        spike_conv.MOST_SPIKES = -1
    note = fuse_neurons(network, torch.device("cpu"))
    if note and name != "ours-blocks":
        raise RuntimeError(note)
    return network, lambda x: network(x).mean(0)


def _loop(_name: str) -> Any:
    import torch
    from torch import nn as torch_nn

    from snn2chip import nn

    class Spike(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            ctx.save_for_backward(x)
            return (x > 0).to(x.dtype)

        @staticmethod
        def backward(ctx: Any, grad: Any) -> Any:
            (x,) = ctx.saved_tensors
            return grad * (x.abs() < 0.5)

    class Loop(torch_nn.Module):
        def forward(self, current: Any) -> Any:
            u = spike = None
            spikes = []
            for step in current:
                u = step if u is None else TAU * u * (1 - spike) + step
                spike = Spike.apply(u - THRESHOLD)
                spikes.append(spike)
            return torch.stack(spikes)

    network = _network(nn, None, Loop, True)
    return network, lambda x: network(x).mean(0)


def _spikingjelly(name: str) -> Any:
    import torch
    from spikingjelly.activation_based import functional, layer, neuron, surrogate

    norm = layer.BatchNorm2d if CANDIDATES[name][2] else None

    def lif() -> Any:  # 1 - 1 / tau is the leak factor where the input does not decay
        constants = {"decay_input": False, "v_threshold": THRESHOLD, "v_reset": 0.0, "detach_reset": False}
        return neuron.LIFNode(1 / (1 - TAU), surrogate_function=surrogate.Rect(alpha=1.0), **constants)

    network = _network(layer, norm, lif, norm is None)
    functional.set_step_mode(network, "m")
    run = torch.compile(network) if name.endswith("compiled") else network

    def scores(x: Any) -> Any:
        functional.reset_net(network)
        return run(x).mean(0)

    return network, scores


def _stepwise(network: Any, states: int, call: Callable[[Any, Any, Any], tuple[Any, Any]]) -> Callable[[Any], Any]:
    """A network whose neurons are called step by step, as their libraries' tutorials do."""

    def scores(x: Any) -> Any:
        import torch

        kept: list[Any] = [None] * states
        outputs = []
        for step in x:
            index = 0
            for module in network:
                if hasattr(module, "is_neuron"):
                    step, kept[index] = call(module, step, kept[index])
                    index += 1
                else:
                    step = module(step)
            outputs.append(step)
        return torch.stack(outputs).mean(0)

    return scores


def _snntorch(_name: str) -> Any:
    import snntorch
    from torch import nn

    def lif() -> Any:
        made = snntorch.Leaky(beta=TAU, threshold=THRESHOLD, reset_mechanism="zero", reset_delay=False)
        made.is_neuron = True
        return made

    network = _network(nn, None, lif, True)
    start: Callable[[Any], Any] = lambda module: module.reset_mem()  # noqa: E731

    def call(module: Any, x: Any, state: Any) -> tuple[Any, Any]:
        spikes, membrane = module(x, start(module) if state is None else state)
        return spikes, membrane

    return network, _stepwise(network, len(PLAN), call)


def _norse(_name: str) -> Any:
    import torch
    from norse.torch import LIFBoxCell, LIFBoxParameters
    from torch import nn

    def lif() -> Any:  # v += dt / tau_mem * (i - v)
        made = LIFBoxCell(LIFBoxParameters(tau_mem_inv=torch.tensor(750.0), v_th=torch.tensor(THRESHOLD)), dt=0.001)
        made.is_neuron = True
        return made

    network = _network(nn, None, lif, True)
    return network, _stepwise(network, len(PLAN), lambda module, x, state: module(x, state))


def _lava(_name: str) -> Any:
    # what slayer has for object detection asks for OpenCV and torchvision; nothing here does
    unused = "lava.lib.dl.slayer.object_detection"
    sys.modules[unused] = types.ModuleType(unused)
    import torch
    from lava.lib.dl import slayer

    constants = {"threshold": THRESHOLD, "current_decay": 1, "voltage_decay": 1 - TAU}
    convolutions = [
        slayer.block.cuba.Conv(constants, inputs, outputs, 3, stride=stride, padding=1)
        for inputs, outputs, stride in PLAN
    ]
    network = torch.nn.Sequential(*convolutions, slayer.block.cuba.Flatten(), slayer.synapse.Dense(8192, 10))
    # time is the last dimension there
    return network, lambda x: network(x.permute(1, 2, 3, 4, 0)).flatten(1, -2).mean(-1)


MAKERS: dict[str, Callable[[str], Any]] = {
    "ann": _ann,
    "ours": _ours,
    "loop": _loop,
    "spikingjelly": _spikingjelly,
    "snntorch": _snntorch,
    "norse": _norse,
    "lava": _lava,
}


def watch(network: Any) -> tuple[list[float], Callable[[], None]]:
    """The share of neurons that spike in a step, layer by layer, as the network runs; and how to stop watching."""
    from snn2chip.nn import LIF

    shares: list[float] = []
    hooks = [
        module.register_forward_hook(lambda _module, _inputs, spikes: shares.append(float(spikes.detach().mean())))
        for module in network.modules()
        if isinstance(module, LIF)
    ]

    def stop() -> None:
        for hook in hooks:
            hook.remove()

    return shares, stop


def _resident() -> int:
    """Bytes of this process in memory now."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def serve(options: argparse.Namespace) -> None:
    """A candidate: ready, then one step for every line on stdin, each answered with a line of JSON."""
    import warnings

    import torch

    warnings.simplefilter("ignore")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer

    def answer(value: dict[str, Any]) -> None:
        print(json.dumps(value), file=answers, flush=True)

    try:
        torch.set_num_threads(options.threads)
        if options.allocator == "keep":
            from snn2chip.train.allocator import keep_pages

            if not keep_pages():
                raise RuntimeError("the C library's allocator cannot be told to keep pages")
        torch.manual_seed(0)
        network, scores = MAKERS[options.name.split("-")[0]](options.name)
        for module in network.modules():
            if isinstance(module, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        x = torch.randn(options.timesteps * options.batch, 3, 32, 32)
        if CANDIDATES[options.name][1]:
            network.to(memory_format=torch.channels_last)
            x = x.contiguous(memory_format=torch.channels_last)
        x = x.unflatten(0, (options.timesteps, options.batch))
        labels = torch.randint(0, 10, (options.batch,))
        optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
        network.train()
        shares, stop = watch(network) if options.name.startswith("ours") else ([], lambda: None)
        before = _resident()
        answer({"ready": True})
        for _ in sys.stdin:
            started = time.perf_counter()
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(scores(x), labels)
            loss.backward()
            optimizer.step()
            value = float(loss.detach())
            seconds = time.perf_counter() - started
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            stop()  # the first step is not among those that count
            answer({"seconds": seconds, "loss": value, "memory": peak - before, "spikes": shares})
    except Exception as error:  # whatever a library says is a result
        answer({"failed": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"})


def main() -> None:
    """Parse, and serve."""
    parser = argparse.ArgumentParser(description="One candidate of bench/training.py, a step for every line on stdin.")
    parser.add_argument("name", choices=list(CANDIDATES))
    parser.add_argument("--allocator", choices=("keep", "default"), required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--timesteps", type=int, required=True)
    serve(parser.parse_args())


if __name__ == "__main__":
    main()
