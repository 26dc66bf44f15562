"""Shared by the tests: training, networks that look trained, random chains, the chip's neuron in Python integers."""

from __future__ import annotations

import json
import math
import os
import subprocess
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from snn2chip import ir
from snn2chip.backends import environment as environments
from snn2chip.backends import lava
from snn2chip.backends.processes import child_environment
from snn2chip.data import ImageSet
from snn2chip.formats import netx
from snn2chip.ir.trace import Trace
from snn2chip.nn import LIF, AvgPool2d, DirectInput, MembraneReadout, PoissonInput, SpikeCountReadout, SpikingNetwork
from snn2chip.nn.neuron import lif_forward
from snn2chip.nn.norm import TDBatchNorm
from snn2chip.recipe import Recipe
from snn2chip.simulate import trace
from snn2chip.train.loop import Trainer


def usually(count: int) -> int:
    """How many examples of `count` a random test draws: a third, or all in the slow run of test_thorough."""
    return count if "SNN2CHIP_THOROUGH" in os.environ else (count + 2) // 3


def some(items: Iterable[Any], seed: int) -> list[Any]:
    """As many of the items as are usual; which, by the seed."""
    every = list(items)
    return [every[index] for index in sorted(rng_of(seed).permutation(len(every))[: usually(len(every))])]


# -------------------------------------------------------------------------------------------------- training

Sets = tuple[ImageSet, ImageSet]


def train(recipe: Recipe, sets: Sets, out: Path, *, resume: bool = False) -> Trainer:
    """A whole run, without compiled neurons."""
    trainer = Trainer(recipe, *sets, out, resume=resume, fuse=False)
    for _ in trainer.run():
        pass
    return trainer


def state_of(path: Path) -> dict[str, torch.Tensor]:
    return dict(torch.load(path, weights_only=True)["state"])


def history_of(folder: Path) -> list[dict[str, float]]:
    """metrics.jsonl without the wall-clock time."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


# ------------------------------------------------------------------------------------------- trained networks


def every_node() -> ir.Network:
    """One of every kind of node that a captured network may have, with every field set."""
    ones = np.ones(2)
    steps = ir.StepConstants(*(np.full((2, 2), value) for value in (1.5, 0.25, -0.5, 1.0)))
    nodes = (
        ir.Input("input", (), (2, 4, 4), "direct", 255, 0, 255, np.array([3, -1]), ones / 255, -ones),
        ir.Conv("conv", ("input",), np.arange(36.0).reshape(2, 2, 3, 3), ones, (1, 1), (1, 1)),
        ir.StepNorm("bntt", ("conv",), np.ones((2, 2)), np.zeros((2, 2)), np.ones((2, 2)), 1e-5),
        ir.LIF("lif", ("bntt",), 0.3, 1.1, steps, True),
        ir.MaxPool("pool", ("lif",), (2, 2), (2, 2), (0, 0)),
        ir.Conv("wide", ("pool",), np.full((2, 1, 1, 1), 1 / 3), np.full((2, 2, 2), 0.1), groups=2),
        ir.Add("sum", ("wide", "wide")),
        ir.Norm("norm", ("sum",), ones, -ones, ones / 7, ones, 1e-5, 0.5, 1.0),
        ir.LIF("lif:2", ("norm",), 1.0, 0.2),
        ir.AvgPool("mean", ("lif:2",), (2, 2)),
        ir.Flatten("flat", ("mean",)),
        ir.Dense("fc", ("flat",), np.array([[1e-300, -1 / 3]]), None),
        ir.Readout("readout", ("fc",), "membrane"),
    )
    return ir.Network("captured", 2, ("a", "ä"), nodes, ("a note",))


def spiking_network(
    layers: Sequence[tuple[str, nn.Module]],
    shape: tuple[int, int, int],
    *,
    timesteps: int = 3,
    coding: str = "direct",
    readout: str = "membrane",
    max_value: int = 255,
    seed: int = 0,
) -> SpikingNetwork:
    """A network of named layers; direct input gets a mean and a deviation of its own for every channel."""
    channels = shape[0]
    encoder: DirectInput | PoissonInput
    if coding == "direct":
        mean = [0.3 + 0.4 * c / channels for c in range(channels)]
        encoder = DirectInput(timesteps, max_value, mean, [0.15 + 0.1 * c / channels for c in range(channels)])
    else:
        encoder = PoissonInput(timesteps, max_value, seed)
    ends = MembraneReadout() if readout == "membrane" else SpikeCountReadout()
    return SpikingNetwork(encoder, nn.Sequential(OrderedDict(layers)), ends, shape)


def images_for(network: SpikingNetwork, count: int, seed: int = 0) -> Tensor:
    """Random images of the network's shape, 0..max_value."""
    generator = torch.Generator().manual_seed(seed)
    high = network.encoder.max_value + 1
    return torch.randint(0, high, (count, *network.input_shape), generator=generator)


def look_trained(
    network: SpikingNetwork,
    seed: int,
    *,
    gamma: str = "mixed",
    tiny_variance: bool = False,
) -> None:
    """Random biases, gamma of the wanted signs, and running statistics near those of real activations.

    gamma: '+', '-', 'mixed' or 'zeros' (every other one 0). With `tiny_variance` the first channel of every
    normalized layer is scaled down until its variance is about 1e-13 or less. The network ends in float64, in
    eval mode.
    """
    rng = torch.Generator().manual_seed(seed)
    network.double()

    def uniform(like: Tensor, low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(like.shape, generator=rng, dtype=torch.float64)

    modules = list(network.body.modules())
    with torch.no_grad():
        for index, module in enumerate(modules):
            after = next((later for later in modules[index + 1 :] if not isinstance(later, AvgPool2d)), None)
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.weight.copy_(uniform(module.weight, -1, 1))
                if module.bias is not None:
                    module.bias.copy_(uniform(module.bias, -0.5, 0.5))
                if tiny_variance and isinstance(after, TDBatchNorm):
                    module.weight[0] *= 1e-7
        for module in modules:
            if isinstance(module, TDBatchNorm):
                size = uniform(module.weight, 0.5, 1.5)
                sign = torch.where(uniform(module.weight, 0, 1) < 0.5, -1.0, 1.0)
                sign[:2] = torch.tensor([1.0, -1.0])[: len(sign)]
                if gamma == "zeros":
                    sign[::2] = 0
                factor = {"+": 1.0, "-": -1.0}.get(gamma, sign)
                module.weight.copy_(size * factor)
                module.bias.copy_(uniform(module.bias, -0.1, 0.5))
                module.momentum = 1.0
        network.train()
        encoded = network.encoder(images_for(network, 4, seed=seed + 1)).double()
        network.body(encoded)
        network.eval()
        for module in modules:
            if isinstance(module, TDBatchNorm):  # statistics of other data than those of the test
                spread = module.running_var.sqrt()
                module.running_mean += spread * uniform(spread, -0.1, 0.1)
                module.running_var *= uniform(spread, 0.8, 1.25)


def hooked(network: SpikingNetwork, encoded: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
    """Spikes and membranes (N, T, ...) of every LIF of the torch module itself, and the readout's scores.

    `encoded` is (T, N, ...), what the encoder gives; the membranes are recomputed from the currents that
    each LIF received.
    """
    spikes: dict[str, Tensor] = {}
    membranes: dict[str, Tensor] = {}
    handles = []
    for name, module in network.body.named_children():
        if isinstance(module, LIF):

            def keep(lif: nn.Module, inputs: tuple[Tensor, ...], output: Tensor, name: str = name) -> None:
                assert isinstance(lif, LIF)
                spikes[name] = output.transpose(0, 1).bool()
                membranes[name] = lif_forward(inputs[0], lif.tau, lif.threshold)[1].transpose(0, 1)

            handles.append(module.register_forward_hook(keep))
    with torch.no_grad():
        scores: Tensor = network.readout(network.body(encoded))
    for handle in handles:
        handle.remove()
    return spikes, membranes, scores


class Does(nn.Module):
    """A user's own module: named layers, and a forward function that gets the module and x."""

    def __init__(self, function: Callable[[Any, Any], Any], **layers: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


# ------------------------------------------------------------------------------------------------------- equality


def assert_equal(mine: Any, theirs: Any, where: str = "") -> None:
    """Equal in type and every field, item and number, arrays and tensors bit for bit."""
    assert type(mine) is type(theirs), where
    if isinstance(theirs, np.ndarray | Tensor):
        assert mine.dtype == theirs.dtype and mine.shape == theirs.shape, where
        np.testing.assert_array_equal(mine, theirs, err_msg=where)
    elif is_dataclass(theirs):
        assert_equal(vars(mine), vars(theirs), where)
    elif isinstance(theirs, dict):
        assert list(mine) == list(theirs), where
        for name in theirs:
            assert_equal(mine[name], theirs[name], f"{where}.{name}")
    elif isinstance(theirs, tuple | list):
        assert len(mine) == len(theirs), where
        for index, (first, second) in enumerate(zip(mine, theirs, strict=True)):
            assert_equal(first, second, f"{where}[{index}]")
    else:
        assert mine == theirs, where


def assert_same(mine: Trace, theirs: Trace) -> None:
    """The spikes, voltages and scores of two engines."""
    assert_equal([mine.spikes, mine.voltage], [theirs.spikes, theirs.voltage])
    assert mine.scores.dtype == theirs.scores.dtype == np.int64
    np.testing.assert_array_equal(mine.scores, theirs.scores.reshape(mine.scores.shape))


def run_in_lava(
    chain: ir.Chain, port: ir.IntArray, folder: Path, net: str = "model.net", *, fast_convolution: bool = False
) -> Trace:
    """What Lava makes of a chain's file, which is written here."""
    netx.save(folder / net, chain)
    np.savez(folder / "input.npz", input=port)
    files = (folder / net, folder / "input.npz", folder / "trace.npz")
    lava.run(*files, progress=False, fast_convolution=fast_convolution)
    return trace.load(folder / "trace.npz", chain)


def lava_neurons(
    cases: dict[str, np.ndarray], model: Literal["lif", "lif_reset", "steps"], folder: Path
) -> dict[str, np.ndarray]:
    """Step bit-accurate neuron models over `cases` in Lava's environment: S steps of K cases of N neurons each.

    `cases` holds a_in (S, K, N); du, dv, vth, bias_exp (K,), du being iDecay - 1; bias_mant (K, N); for "lif_reset"
    and "steps" reset_interval and reset_offset (K,), steps counting from 1; and for "steps" tables leak, lift and
    threshold (K, T, N) and leak_shift (K,). "lif" is Lava's PyLifModelBitAcc, "lif_reset" its PyLifResetModelBitAcc,
    "steps" the time-varying neuron of deploy/lava/neurons, in which dv and vth are not used. Returns u and v (S, K, N)
    int32 as each step leaves them, and spikes (S, K, N) uint8.
    """
    environment = environments.find(lava.LIGHT)
    assert environment is not None
    given, found = folder / "cases.npz", folder / "found.npz"
    np.savez(given, model=np.array(model), **cases)
    program = Path(__file__).with_name("lava_neurons.py")
    command = [environment.python, "-E", "-s", "-B", program, given, found]
    subprocess.run(command, env=child_environment(), check=True, timeout=600)
    with np.load(found) as archive:
        return dict(archive)


# ---------------------------------------------------------------------------- the neuron, in Python's integers


def py_decay(state: int, amount: int) -> int:
    """trunc0(state (4096 - amount) / 4096), in unbounded integers."""
    size = abs(state) * (4096 - amount) // 4096
    return -size if state < 0 else size


def py_int32(value: int) -> int:
    """What a 32-bit register keeps; Lava's overflow where inputs reach 2^25."""
    return (value + 2**31) % 2**32 - 2**31


def py_current(current: int, activation: int, amount: int) -> int:
    """One step of u: wraps once."""
    total = py_int32(py_decay(current, amount) + activation * 64)
    if total > 2**23:
        return total - 2**24
    return total + 2**24 if total <= -(2**23) else total


def py_voltage(
    voltage: int, current: int, bias: int, threshold: int, amount: int, bias_exp: int = 6
) -> tuple[int, bool]:
    """One step of v: clips, fires, resets."""
    total = py_int32(py_decay(voltage, amount) + current + bias * 2**bias_exp)
    total = max(-(2**23) + 1, min(2**23 - 1, total))
    fired = total > threshold * 64
    return (0 if fired else total), fired


# -------------------------------------------------------------------------------- the neuron, left to autograd


class Spike(torch.autograd.Function):
    """1 where `seen` exceeds 0, with the surrogate's derivative there as the derivative with respect to x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, seen: Tensor, name: str, width: float) -> Tensor:
        ctx.save_for_backward(seen)
        ctx.name, ctx.width = name, width
        return (seen > 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (seen,), a = ctx.saved_tensors, ctx.width
        x = seen.to(grads[0].dtype)
        if ctx.name == "rectangular":
            slope = (x.abs() < a / 2).to(x.dtype) / a
        elif ctx.name == "triangular":
            slope = torch.clamp(1 - x.abs() / a, min=0) / a
        else:
            slope = 1 / a / (1 + (math.pi / a * x) ** 2)
        return grads[0] * slope, None, None, None


def plain_loop(current: Tensor, tau: Tensor, threshold: Tensor, name: str, width: float, detach: bool) -> Tensor:
    """u[t] = tau u[t-1] (1 - o[t-1]) + I[t], o[t] = u[t] > Vth, operation by operation."""
    spikes = []
    u = o = torch.zeros_like(current[0])
    for step in current:
        u = tau * u * (1 - (o.detach() if detach else o)) + step
        o = Spike.apply(u - threshold, (u - threshold).detach(), name, width)  # type: ignore[no-untyped-call]
        spikes.append(o)
    return torch.stack(spikes)


# ----------------------------------------------------------------------------------------------- random chains


def rng_of(seed: int) -> np.random.Generator:
    """numpy's generator from a seed hypothesis can shrink."""
    return np.random.default_rng(seed)


def _side(draw: st.DrawFn, size: int, padding: int) -> tuple[int, int, int, int]:
    """Kernel, stride, dilation and output size along an axis, with a kernel that fits."""
    kernel = draw(st.integers(1, min(3, size + 2 * padding)))
    dilation = draw(st.integers(1, 2)) if (kernel - 1) * 2 + 1 <= size + 2 * padding else 1
    stride = draw(st.integers(1, 2))
    return kernel, stride, dilation, ir.out_size(size, kernel, stride, padding, dilation)


@st.composite
def chains(draw: st.DrawFn, *, extremes: bool = True, max_layers: int = 3) -> ir.Chain:
    """Chains of conv and dense layers with any geometry; with `extremes`, some of them wrap and clip."""
    rng = rng_of(draw(st.integers(0, 2**32 - 1)))
    raw_shape: ir.Shape = tuple(draw(st.integers(1, 5)) for _ in range(draw(st.sampled_from([1, 3, 3]))))
    if len(raw_shape) == 3:
        raw_shape = (draw(st.sampled_from([1, 2, 4])), *raw_shape[1:])
    graded = draw(st.booleans())
    wild = extremes and draw(st.booleans())
    high = (60000 if wild else draw(st.sampled_from([15, 255]))) if graded else 1
    channels = raw_shape[0]
    center = rng.integers(0, high + 1, channels) if graded else np.zeros(channels, dtype=np.int64)
    flat_input = len(raw_shape) == 3 and draw(st.integers(0, 3)) == 0
    input_shape = (int(np.prod(raw_shape)),) if flat_input else raw_shape
    shape = input_shape
    layers: list[ir.ChainLayer] = []
    number = 1
    count = draw(st.integers(1, max_layers))
    for index in range(count):
        top = 254 if wild else draw(st.sampled_from([3, 127, 254]))
        threshold = draw(st.sampled_from([131071, 0, 1, 50, 900] if extremes else [1, 50, 900]))
        conv = len(shape) == 3 and draw(st.booleans())
        options: dict[str, object] = {}
        flatten = False
        if conv:
            groups = draw(st.sampled_from([g for g in (1, 2, 4) if shape[0] % g == 0]))
            out_channels = groups * draw(st.integers(1, 3))
            padding = draw(st.integers(0, 2)), draw(st.integers(0, 2))
            k0, s0, d0, h = _side(draw, shape[1], padding[0])
            k1, s1, d1, w = _side(draw, shape[2], padding[1])
            weight_shape: ir.Shape = (out_channels, shape[0] // groups, k0, k1)
            shape = (out_channels, h, w)
            options = {"stride": (s0, s1), "padding": padding, "dilation": (d0, d1), "groups": groups}
        else:
            flatten = len(shape) == 3
            weight_shape = (draw(st.integers(1, 5)), int(np.prod(shape)))
            shape = weight_shape[:1]
        if flatten:
            number += 1
        weight = rng.integers(-top, top + 1, weight_shape)
        weight[0] = np.where(weight[0] == 0, 1, weight[0])
        if top > 127:
            weight = weight // 2 * 2
        if not conv and weight.max() <= 0:
            weight.flat[0] = 2  # Lava changes some dense weights that are all negative: refused, see netx_weights
        bias_top = 4095 if wild else draw(st.sampled_from([0, 20]))
        origin = {f"lif{index}": (0, shape[0])}
        layers.append(
            ir.ChainLayer(
                str(number),
                "conv" if conv else "dense",
                weight,
                _biases(rng, bias_top, shape, draw(st.booleans())),
                shape,
                threshold,
                draw(st.sampled_from([0, 1, 1000, 3072, 4095, 4096])),
                draw(st.sampled_from([4096, 4096, 1, 2000, 4095])),
                flatten=flatten,
                origin=origin,
                **options,  # type: ignore[arg-type]
            )
        )
        number += 1
    return ir.Chain(
        input_shape,
        raw_shape,
        "direct" if graded else "poisson",
        high,
        0,
        high,
        tuple(int(c) for c in center),
        draw(st.integers(1, 6)),
        draw(st.sampled_from(["membrane", "spike_count"])),
        tuple(f"class {i}" for i in range(int(np.prod(shape)))),
        tuple(layers),
        {"snn2chip": "0.1.0", "options": {"weight_bits": 8, "note": "é"}},
    )


def _biases(rng: np.random.Generator, top: int, shape: ir.Shape, per_neuron: bool) -> ir.IntArray:
    """Biases of every neuron, all different or the same over each channel."""
    if per_neuron:
        return rng.integers(-top, top + 1, shape)
    per_channel = rng.integers(-top, top + 1, shape[0]).reshape(-1, *(1,) * (len(shape) - 1))
    return np.broadcast_to(per_channel, shape).copy()


def port_input(chain: ir.Chain, samples: int, seed: int, *, extreme: bool = False) -> ir.IntArray:
    """Random input at the port (samples, T, ...): any value, or only the smallest and largest."""
    rng = rng_of(seed)
    shape = (samples, chain.timesteps, *chain.raw_shape)
    if extreme:
        return chain.port(rng.choice([chain.low, chain.high], shape).astype(np.int64))
    return chain.port(rng.integers(chain.low, chain.high + 1, shape))
