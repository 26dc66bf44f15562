"""Random networks for `attack_networks`, drawn from a seed as a list of operations, and what they compute, written out.

The operations are run twice: by `Body`, a user's own module over the layers of `snn2chip.nn`, and by `plain`, which
does the same with torch's float64 functions and autograd, without any code of snn2chip's layers.
"""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from helpers import Spike
from torch import Tensor, nn
from torch.nn import functional as F

from snn2chip import chip, ir
from snn2chip.errors import UnsupportedError
from snn2chip.nn import (
    BNTT,
    LIF,
    AvgPool2d,
    Conv2d,
    DirectInput,
    Dropout,
    EventInput,
    Flatten,
    GlobalAvgPool,
    Linear,
    MaxPool2d,
    MembraneReadout,
    PoissonInput,
    SpikeCountReadout,
    SpikingNetwork,
    TDBatchNorm,
)
from snn2chip.passes import pipeline
from snn2chip.passes.capture import capture

Op = tuple[str, ...]  # ("call", out, x, layer), or an addition: (how, out, a, b)
JOINS = ("+", "+=", "add_", "torch.add")
IN_PLACE = ("+=", "add_")


class Body(nn.Module):
    """Operations over named tensors, the last one's result."""

    def __init__(self, ops: list[Op], layers: dict[str, nn.Module]) -> None:
        super().__init__()
        self.ops = ops
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        held = {"x": x}
        for how, out, a, b in self.ops:
            if how == "call":
                held[out] = getattr(self, b)(held[a])
            elif how == "+=":
                total = held[a]
                total += held[b]
                held[out] = total
            elif how == "add_":
                held[out] = held[a].add_(held[b])
            else:
                held[out] = held[a] + held[b] if how == "+" else torch.add(held[a], held[b])
        return held[self.ops[-1][1]]


# ------------------------------------------------------------------------------------------------ written out


def membranes(current: Tensor, tau: Tensor, threshold: Tensor) -> list[Tensor]:
    """Membranes before the reset of currents (T, ...), in their own precision."""
    found: list[Tensor] = []
    for step in current:
        last = found[-1] if found else None
        found.append(step if last is None else step + tau * torch.where(last > threshold, 0.0, last))
    return found


def _batch_norm(x: Tensor, m: TDBatchNorm | BNTT, training: bool) -> Tensor:
    over = [0, 1, *range(3, x.ndim)] if isinstance(m, TDBatchNorm) else [1, *range(3, x.ndim)]
    shape = [1 if axis in over else side for axis, side in enumerate(x.shape)]
    mean, var = m.running_mean.reshape(shape), m.running_var.reshape(shape)
    if training:
        mean = x.mean(over, keepdim=True)
        var = (x - mean).square().mean(over, keepdim=True)
    y = (x - mean) / torch.sqrt(var + m.eps)
    if isinstance(m, BNTT):
        return m.log_weight.exp().reshape(shape) * y
    return m.weight.reshape(shape) * m.alpha * m.threshold * y + m.bias.reshape(shape)


def plain(
    network: SpikingNetwork, x: Tensor, training: bool, forced: dict[str, tuple[Tensor, Tensor]]
) -> tuple[dict[str, Tensor], Tensor]:
    """Run a network in float64 on x (T, N, ...): by LIF the membranes before the reset (T, N, ...), and the result.

    `forced` holds by LIF the membranes and the threshold, in their own precision, that decide what fires; without them
    those that are computed do.
    """
    body: Any = network.body.get_submodule("net")
    cells, place = [x], {"x": 0}
    found: dict[str, Tensor] = {}
    for how, out, a, b in body.ops:
        value = cells[place[a]]
        if how != "call":
            total = value + cells[place[b]]
            if how in IN_PLACE:
                cells[place[a]] = total
                place[out] = place[a]
                continue
        else:
            m = getattr(body, b)
            if isinstance(m, (nn.Identity, Dropout)):
                assert not (training and isinstance(m, Dropout))
                place[out] = place[a]
                continue
            if isinstance(m, LIF):
                tau, threshold, kept, us, spikes = m.tau, m.threshold, None, [], []
                for step, current in enumerate(value):
                    u = current if kept is None else current + tau * kept
                    seen, limit = (forced[b][0][step], forced[b][1]) if forced else (u.detach(), threshold.detach())
                    fired: Tensor = Spike.apply(u - threshold, seen - limit, m.surrogate, m.width)  # type: ignore[no-untyped-call]
                    kept = u * (1 - (fired.detach() if m.detach_reset else fired))
                    us.append(u.detach())
                    spikes.append(fired)
                found[b], total = torch.stack(us), torch.stack(spikes)
            elif isinstance(m, (TDBatchNorm, BNTT)):
                total = _batch_norm(value, m, training)
            else:
                total = torch.stack([_linear(m, step) for step in value])
        place[out] = len(cells)
        cells.append(total)
    return found, total


def _linear(m: nn.Module, x: Tensor) -> Tensor:
    """One step (N, ...) through a layer without state."""
    if isinstance(m, Conv2d):
        return F.conv2d(x, m.weight, m.bias, m.stride, m.padding, m.dilation, m.groups)
    if isinstance(m, Linear):
        return F.linear(x, m.weight, m.bias)
    if isinstance(m, MaxPool2d):
        return F.max_pool2d(x, m.kernel, m.stride, m.padding)
    if isinstance(m, AvgPool2d):
        return F.avg_pool2d(x, m.kernel)
    return x.mean((-2, -1)) if isinstance(m, GlobalAvgPool) else x.flatten(1)


# ------------------------------------------------------------------------------------------------------ drawn


@dataclass(frozen=True)
class Var:
    """A tensor of the network: "input", "spikes" (0 and 1), "sum" (of spikes) or "current"."""

    name: str
    shape: tuple[int, ...]
    stride: int
    kind: str


@dataclass
class Drawn:
    """A network, how it is to be exported, and what was put into it."""

    network: SpikingNetwork
    exact: bool  # every number of the evaluation is a small multiple of a power of two: ties are ties
    normed: bool
    trainable: bool  # in train mode every operation can be differentiated
    images: Tensor
    labels: Tensor
    classes: int
    chip: str = "loihi2"
    bits: int = 8
    strategy: str = "auto"
    relays: str = "auto"
    calibrate: bool = False
    what: set[str] = field(default_factory=set)


class Maker:
    """Draws one network."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng([seed, 0xA77AC])
        self.seed, self.what = seed, set[str]()
        self.ops: list[Op] = []
        self.layers: dict[str, nn.Module] = {}
        self.shortcuts: list[str] = []  # norms of shortcuts
        self.read: set[str] = set()
        self.exact = self.chance(0.4)
        self.trainable = True
        self.what |= {"exact"} if self.exact else set()
        self.T = int(self.rng.integers(1, 7))
        self.coding = self.pick("direct", "direct", "direct", "poisson", "poisson", "events", "counts")
        self.norms = self.pick("tdbn", "tdbn", "tdbn", "bntt", "bntt", "none", "mixed")
        self.constants = not self.exact and self.chance(0.1)
        self.wide = self.chance(0.06)  # enough channels to be convolved by events

    def chance(self, p: float) -> bool:
        return bool(self.rng.random() < p)

    def pick(self, *items: Any) -> Any:
        return items[int(self.rng.integers(len(items)))]

    # each of these adds an operation

    def call(self, x: Var, kind: str, layer: nn.Module, shape: tuple[int, ...], stride: int, gives: str) -> Var:
        name = f"{kind}{len(self.layers)}"
        self.layers[name] = layer
        self.ops.append(("call", f"v{len(self.ops)}", x.name, name))
        self.read.add(x.name)
        return Var(self.ops[-1][1], shape, stride, gives)

    def join(self, a: Var, b: Var) -> Var:
        """The sum; in place where a has not been read and is not the encoder's, or where nothing is to be trained."""
        how = self.pick(*JOINS)
        if how in IN_PLACE and (a.name in self.read or a.name == "x"):
            if self.chance(0.5) and a.name != "x":
                self.trainable = False
            else:
                how = "+"
        self.what.add(f"join {how}")
        self.ops.append((how, f"v{len(self.ops)}", a.name, b.name))
        self.read.add(b.name)
        spikes = "sum" if a.kind in ("spikes", "sum", "input") else "current"
        return Var(self.ops[-1][1], a.shape, a.stride, spikes)

    def conv(
        self, x: Var, out: int, stride: int = 1, kernel: int = 3, dilation: int = 1, groups: int = 1, same: bool = True
    ) -> Var:
        padding = dilation * (kernel // 2) if same else int(self.rng.integers(0, 2))
        sides = [(side + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1 for side in x.shape[1:]]
        if min(sides) < 1:
            return self.conv(x, out, stride, 1, 1, groups)
        layer = Conv2d(x.shape[0], out, kernel, stride, padding, dilation, groups, bias=self.chance(0.5))
        self.weights(layer)
        return self.call(x, "conv", layer, (out, *sides), x.stride * stride, "current")

    def dense(self, x: Var, out: int) -> Var:
        layer = Linear(x.shape[0], out, bias=self.chance(0.6))
        self.weights(layer)
        return self.call(x, "dense", layer, (out,), x.stride, "current")

    def weights(self, layer: nn.Conv2d | nn.Linear) -> None:
        fan = layer.weight[0].numel()
        shape = tuple(layer.weight.shape)
        if self.exact:
            values = self.rng.integers(-2, 4, shape) * 2.0 ** -round(math.log2(max(1.0, math.sqrt(fan))))
            bias = self.rng.integers(-2, 3, shape[0]) / 4
        else:
            values, bias = self.rng.normal(0.15, 1, shape) * 1.2 / math.sqrt(fan), self.rng.normal(0.1, 0.2, shape[0])
        if self.chance(0.06):
            self.what.add("outlier")
            place = tuple(int(self.rng.integers(side)) for side in shape)
            values[place] = self.pick(-1, 1) * (8.0 if self.exact else 100 * np.abs(values).max())
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(values))
            if layer.bias is not None:
                layer.bias.copy_(torch.from_numpy(bias))

    def norm(self, x: Var, *kinds: str, meets: bool = False) -> Var:
        kind = self.norms if self.norms in kinds or not kinds else self.pick(*kinds)
        kind = self.pick("tdbn", "bntt", "none") if kind == "mixed" else kind
        if kind == "none":
            return x
        self.what.add(kind)
        channels = x.shape[0]
        if kind == "bntt":
            eps = 2.0**-13 if self.exact else 1e-4
            return self.call(x, "bntt", BNTT(channels, self.T, eps=eps), x.shape, x.stride, x.kind)
        alpha = self.pick(1.0, 0.5) if self.exact else 2**-0.5 if meets else 1.0
        layer = TDBatchNorm(channels, alpha=alpha, threshold=0.5, eps=2.0**-16 if self.exact else 1e-5)
        made = self.call(x, "norm", layer, x.shape, x.stride, x.kind)
        if meets:
            self.shortcuts.append(self.ops[-1][3])
        return made

    def lif(self, x: Var) -> Var:
        layer = LIF(
            self.pick(0.25, 0.25, 0.5, 1.0) if self.exact else self.pick(0.25, 0.5, 0.9, 1.0, 0.3),
            self.pick(0.5, 0.5, 1.0, 0.25) if self.exact else self.pick(0.5, 1.0, 0.3),
            surrogate=self.pick("rectangular", "rectangular", "triangular", "arctan"),
            width=self.pick(1.0, 1.0, 0.5, 2.0),
            detach_reset=self.chance(0.3),
            trainable_threshold=self.constants,
        )
        if self.constants:
            layer = LIF(0.4, 0.6, trainable_tau=True, trainable_threshold=True)
            self.what.add("trainable constants")
        made = self.call(x, "lif", layer, x.shape, x.stride, "spikes")
        if self.chance(0.03):
            self.what.add("passed on")
            self.trainable &= (drop := self.pick(False, True)) is False
            made = self.call(made, "pass", Dropout(0.3) if drop else nn.Identity(), x.shape, x.stride, "spikes")
        return made

    # blocks

    def channels(self) -> int:
        return 32 if self.wide else int(self.rng.integers(1, 7))

    def step(self, x: Var) -> int:
        return 2 if min(x.shape[1:]) >= 4 and self.chance(0.3) else 1

    def plain_block(self, x: Var, out: int | None = None, stride: int | None = None, same: bool = True) -> Var:
        """Average pooling or not, a convolution of some kind, a norm, a neuron."""
        out = self.channels() if out is None else out
        stride = self.step(x) if stride is None else stride
        kernel, dilation, groups = self.pick(1, 3, 3, 3, 5), 1, 1
        if kernel == 3 and self.chance(0.15):
            dilation = 2
            self.what.add("dilation")
        common = [g for g in range(2, 7) if x.shape[0] % g == 0 and out % g == 0]
        if common and self.chance(0.3):
            groups = self.pick(*common)
            self.what.add("groups")
        if not same and self.chance(0.5):
            kernel = self.pick(2, 3, 4)
        return self.lif(self.norm(self.conv(x, out, stride, kernel, dilation, groups, same)))

    def pooled(self, x: Var) -> Var:
        """Average pooling before a convolution or after one."""
        sides = (x.shape[1] // 2, x.shape[2] // 2)
        if any(side % 2 or side < 4 for side in x.shape[1:]):
            return self.plain_block(x)
        self.what.add("average pooling")
        if self.chance(0.5):
            x = self.call(x, "pool", AvgPool2d(2), (x.shape[0], *sides), 2 * x.stride, "current")
            return self.lif(self.norm(self.conv(x, self.channels(), 1, self.pick(1, 3))))
        x = self.conv(x, self.channels(), 1, self.pick(1, 3))
        x = self.call(x, "pool", AvgPool2d(2), (x.shape[0], *sides), 2 * x.stride, "current")
        return self.lif(self.norm(x))

    def or_pooled(self, x: Var) -> Var:
        if x.kind != "spikes" or min(x.shape[1:]) < 3:
            return self.plain_block(x)
        self.what.add("max pooling")
        kernel, stride, padding = self.pick((2, 2, 0), (3, 2, 1), (2, 1, 0), (3, 1, 1))
        sides = [(side + 2 * padding - kernel) // stride + 1 for side in x.shape[1:]]
        return self.call(
            x, "max", MaxPool2d(kernel, stride, padding), (x.shape[0], *sides), x.stride * stride, "spikes"
        )

    def depthwise(self, x: Var) -> Var:
        self.what.add("depthwise")
        x = self.lif(self.norm(self.conv(x, x.shape[0], 1, 3, groups=x.shape[0])))
        return self.plain_block(x)

    def sew(self, x: Var) -> Var:
        """Spikes of a branch added to the spikes it reads (SEW), once or with another branch between."""
        self.what.add("SEW")
        y = self.plain_block(x, x.shape[0], 1)
        if self.chance(0.3):
            y = self.plain_block(y, x.shape[0], 1)
        if self.chance(0.2):
            y = self.join(y, self.plain_block(x, x.shape[0], 1))
        return self.join(y, x) if self.chance(0.8) else self.join(x, y)

    def residual(self, x: Var) -> Var:
        """Two or three currents that meet."""
        self.what.add("residual")
        out, stride = (x.shape[0], 1) if self.chance(0.5) else (self.channels(), self.step(x))
        y = x
        if self.chance(0.6):
            y = self.plain_block(x, out, stride)
        after = self.norms == "bntt"  # every current passes the one after the sum
        ways = [self.conv(y, out, 1 if y is not x else stride, 3)]
        if not after:
            ways[0] = self.norm(ways[0], "tdbn", "none", meets=True)
        for _ in range(self.pick(1, 1, 2)):
            ways.append(self.shortcut(x, out, stride, ways[0].shape, after))
        if self.chance(0.5):
            ways.reverse()
        total = ways[0]
        for way in ways[1:]:
            # an average or the encoder's spikes are no currents of its own: a sum goes where it may be written
            total = self.join(total, way) if total.name not in self.read else self.join(way, total)
        if after or self.chance(0.2):
            total = self.norm(total, "bntt" if after else "tdbn")
        return self.lif(total)

    def shortcut(self, x: Var, out: int, stride: int, shape: tuple[int, ...], after: bool) -> Var:
        kind = self.pick("identity", "1x1", "1x1", "pool")
        if kind == "identity" and x.shape == shape and stride == 1:
            return x if after or self.chance(0.5) else self.norm(x, "tdbn", meets=True)
        if kind == "pool" and stride == 2 and not any(side % 2 for side in x.shape[1:]):
            half = (x.shape[0], x.shape[1] // 2, x.shape[2] // 2)
            x = self.call(x, "pool", AvgPool2d(2), half, 2 * x.stride, "current")
            stride = 1
        self.what.add(f"shortcut of stride {stride}")
        made = self.conv(x, out, stride, 1)
        return made if after else self.norm(made, "tdbn", "none", meets=True)

    def head(self, x: Var, earlier: list[Var], classes: int) -> Var:
        """From images to classes; some networks have hidden dense layers, and ways that skip them."""
        flat = self.flat(x)
        if self.chance(0.4):
            y = self.lif(self.norm(self.dense(flat, int(self.rng.integers(2, 8)))))
            if self.chance(0.4):
                self.what.add("dense skip")
                z = self.dense(self.flat(self.pick(x, *earlier)), classes)
                return (
                    self.join(self.dense(y, classes), z) if self.chance(0.5) else self.join(z, self.dense(y, classes))
                )
            flat = y
        return self.dense(flat, classes)

    def flat(self, x: Var) -> Var:
        area = x.shape[1] * x.shape[2]
        if self.chance(0.3) and (not self.exact or area & (area - 1) == 0):
            self.what.add("global pooling")
            return self.call(x, "global", GlobalAvgPool(), x.shape[:1], x.stride, "current")
        return self.call(x, "flat", Flatten(), (math.prod(x.shape),), x.stride, "current")

    def encoder(self, channels: int) -> DirectInput | PoissonInput | EventInput:
        if self.coding == "direct":
            high = self.pick(1, 4, 16) if self.exact else self.pick(1, 16, 255)
            mean = self.rng.integers(0, 5, channels) / 4 if self.exact else self.rng.uniform(0.2, 0.6, channels)
            std = self.rng.choice([0.25, 0.5, 1.0], channels) if self.exact else self.rng.uniform(0.2, 0.5, channels)
            return DirectInput(self.T, high, mean.tolist(), std.tolist())
        if self.coding == "poisson":
            return PoissonInput(self.T, self.pick(16, 255), self.seed)
        return EventInput(self.T, 1 if self.coding == "events" else 3)

    def draw(self) -> Drawn:
        channels = 2 if self.coding in ("events", "counts") else int(self.rng.integers(1, 4))
        shape = (channels, *(int(side) for side in self.rng.integers(4, 9, 2)))
        encoder = self.encoder(channels)
        x = Var("x", shape, 1, "input")
        binary = self.coding in ("poisson", "events")
        if not binary or self.chance(0.7):
            x = self.plain_block(x)
        earlier: list[Var] = []
        blocks = [self.plain_block, self.pooled, self.or_pooled, self.depthwise, self.sew, self.sew, self.residual]
        for _ in range(int(self.rng.integers(0, 5))):
            if len(x.shape) == 3 and min(x.shape[1:]) >= 2:
                x = self.pick(*blocks, self.residual)(x)
                earlier.append(x)
        if self.chance(0.06):
            x = self.plain_block(x, same=False)
        classes = int(self.rng.integers(2, 6))
        end = self.head(x, [] if not earlier else earlier[-2:-1], classes)
        end = self.norm(end, "tdbn", "none") if self.chance(0.3) else end
        readout: MembraneReadout | SpikeCountReadout = MembraneReadout()
        if self.chance(0.35):
            end, readout = self.lif(end), SpikeCountReadout()
        body = nn.Sequential(OrderedDict(net=Body(self.ops, self.layers)))
        network = SpikingNetwork(encoder, body, readout, shape)
        size = (4, *((self.T,) if self.coding in ("events", "counts") else ()), *shape)
        images = torch.from_numpy(self.rng.integers(0, encoder.max_value + 1, size)).to(torch.uint8)
        if self.chance(0.2):  # images that do not shine everywhere
            images = images * torch.from_numpy(self.rng.random(size) < 0.3)
        drawn = Drawn(
            network,
            self.exact,
            any(isinstance(layer, (TDBatchNorm, BNTT)) for layer in self.layers.values()),
            self.trainable,
            images,
            torch.from_numpy(self.rng.integers(0, classes, 4)),
            classes,
            what=self.what,
        )
        self.settle(drawn)
        if binary and self.chance(0.3) and self.norms in ("tdbn", "none"):
            drawn = replace(drawn, chip="loihi1")
        return replace(
            drawn,
            bits=self.pick(8, 8, 8, 8, 6, 5, 4),
            relays=self.pick("auto", "auto", "auto", "plain", "bias", "double", "quadruple"),
            strategy=self.pick("auto", "auto", "auto", "max", "percentile", "error"),
            calibrate=self.chance(0.35),
        )

    @torch.no_grad()
    def settle(self, drawn: Drawn) -> None:
        """Running statistics of data that passed, and gammas of all kinds."""
        network = drawn.network
        norms = {name: m for name, m in self.layers.items() if isinstance(m, (TDBatchNorm, BNTT))}
        for m in norms.values():
            m.momentum = 1.0
        twin = copy.deepcopy(network).train()
        for m in twin.modules():
            if isinstance(m, Dropout):
                m.p = 0.0
        twin(drawn.images)
        clamp = not self.chance(0.1)
        for name, m in norms.items():
            mine: Any = twin.body.get_submodule(f"net.{name}")
            mean, var = mine.running_mean, mine.running_var.clamp(min=0.05 if clamp or self.exact else 1e-9)
            if self.exact:
                mean, var = (mean * 8).round() / 8, 4.0 ** var.log2().div(2).round().clamp(max=4) - m.eps
            else:
                mean = mean + var.sqrt() * torch.from_numpy(self.rng.uniform(-0.1, 0.1, tuple(mean.shape)))
            m.running_mean.copy_(mean)
            m.running_var.copy_(var)
            m.momentum = 0.1
            if isinstance(m, BNTT):
                if not self.exact:
                    spread = self.rng.uniform(-0.3, 0.3, tuple(m.log_weight.shape))
                    m.log_weight.copy_(torch.from_numpy(spread) + math.log(0.6))
                continue
            size = (
                self.rng.choice([0.5, 1.0, 2.0], m.channels) if self.exact else self.rng.uniform(0.4, 1.8, m.channels)
            )
            if self.chance(0.5):
                size *= self.rng.choice([-1, 1], m.channels)
                self.what.add("negative gamma")
            if self.chance(0.15):
                size[self.rng.integers(m.channels)] = 0
                self.what.add("zero gamma: a channel")
            if self.chance(0.12 if name in self.shortcuts else 0.003):
                size[:] = 0
                self.what.add("zero gamma: a whole norm" if name not in self.shortcuts else "zero gamma: a whole way")
            beta = self.rng.integers(-1, 3, m.channels) / 4 if self.exact else self.rng.uniform(-0.1, 0.4, m.channels)
            m.weight.copy_(torch.from_numpy(size))
            m.bias.copy_(torch.from_numpy(beta))


def draw(seed: int) -> Drawn:
    """The network of a seed."""
    return Maker(seed).draw()


def captured(seed: int) -> ir.Network:
    """A drawn network, captured."""
    drawn = draw(seed)
    return capture(drawn.network.eval(), tuple(map(str, range(drawn.classes))))


def exported(seeds: Iterable[int], profile: chip.Chip) -> Iterator[tuple[int, pipeline.Export]]:
    """Drawn networks as they go to the chip, by seed; those that it refuses, for a layer of zeros say, are left out."""
    for seed in seeds:
        try:
            made = pipeline.export(pipeline.Source(captured(seed), "random"), profile)
        except UnsupportedError:
            continue
        yield seed, made
