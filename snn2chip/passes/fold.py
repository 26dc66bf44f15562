"""Fold everything that is linear into weights and biases; exact in real numbers.

Between two layers of neurons there is one linear map. It is rewritten as a single convolution or dense
layer; with g = gamma * alpha * Vth / sqrt(var + eps) per output channel:

- tdBN after it:           ``W' = g W``, ``b' = beta + g (b - mean)``. Exact for any sign of gamma.
- average pooling before a convolution (pool k, conv K, s, p): ``conv(k K, k s, k p)`` with every weight
  repeated k x k and divided by k^2.
- average pooling after a convolution (conv K, s, pool k): ``conv(K + s (k - 1), s k, p)``, the mean of the
  k^2 shifted kernels.
- pooling before a dense layer: every weight repeated over its window and divided by its size.
- BNTT after it, tables of one row a step: with ``g[t] = gamma[t] / sqrt(var[t] + eps) > 0`` and ``v = u / g[t]``
  the weights stay as they are and the neuron's constants become tables::

      v[t] = tau (g[t-1] / g[t]) v[t-1] (1 - o[t-1]) + (W s[t] + b) - mean[t]     o[t] = 1 if v[t] > Vth / g[t]

  Exact, because dividing by a positive number does not move a membrane across its threshold, and reset is to 0. With
  one time step it is a normalization like any other, and folds into the weights.
- an add: every path from a source of spikes through it to a neuron is one synapse of that neuron, and their
  currents add up; what is added once (a bias, a shift) stays with the first path. A path without a convolution
  or dense layer, an identity shortcut, is a convolution of one weight a channel. Paths from one source are one
  synapse, the sum of their kernels: a pixel and a neuron have one weight between them, which must fit the chip.
- a flatten after a convolution, or between a convolution's neurons and the readout: the convolution as a matrix.
- max pooling of spikes: a logical OR, a neuron that any spike under its window makes fire, and that is reset by it:
  weights 1, threshold 1/2. Exact at every step.
- input ``scale * (p + center) + shift`` per channel: ``W' = W scale``, and the shift goes into the bias. The
  integers are centred at c, the rounded channel mean of the normalization. Zero padding of the *normalized*
  image is not zero padding of the integers, so the bias of a padded first layer is one value a neuron.

Everything else keeps its value: without BNTT, tau and thresholds are not touched here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch
from torch.nn import functional as F

from snn2chip import ir
from snn2chip.errors import InputError, UnsupportedError
from snn2chip.passes.fold_bntt import at_one_step, common_norm, time_varying


@dataclass(frozen=True)
class FoldReport:
    """What became of every layer that is gone: (layer, what happened), in order."""

    steps: tuple[tuple[str, str], ...]


def norm_gain(norm: ir.Norm) -> ir.FloatArray:
    """``g = gamma alpha Vth / sqrt(var + eps)`` per channel."""
    gain: ir.FloatArray = norm.gamma * norm.alpha * norm.threshold / np.sqrt(norm.var + norm.eps)
    return gain


def _after_norm(synapse: ir.Synapse, norm: ir.Norm) -> ir.Synapse:
    if not (norm.var + norm.eps > 0).all():
        raise InputError(f"layer '{norm.name}': variance {norm.var.min():.3g} is negative; train again")
    gain = norm_gain(norm)
    weight = synapse.weight * gain.reshape(-1, *(1,) * (synapse.weight.ndim - 1))
    weight.setflags(write=False)  # or the node takes a copy, and weights are most of the memory
    bias = np.zeros(len(gain)) if synapse.bias is None else synapse.bias
    per_channel = (-1, *(1,) * (bias.ndim - 1))
    folded = norm.beta.reshape(per_channel) + gain.reshape(per_channel) * (bias - norm.mean.reshape(per_channel))
    return replace(synapse, weight=weight, bias=folded)


def _pool_before_conv(conv: ir.Conv, pool: ir.AvgPool, shape: ir.Shape) -> ir.Conv:
    if conv.dilation != (1, 1) and pool.kernel != (1, 1):
        raise UnsupportedError(
            f"layer '{conv.name}': a dilated convolution after pooling '{pool.name}' is not one convolution; "
            f"use dilation 1 there, or a stride instead of the pooling"
        )
    for axis, k in enumerate(pool.kernel):
        size, kernel = shape[1 + axis], conv.weight.shape[2 + axis]
        stride, padding = conv.stride[axis], conv.padding[axis]
        pooled = size // k
        reach = (ir.out_size(pooled, kernel, stride, padding, 1) - 1) * stride + kernel - padding
        if size % k and reach > pooled:
            raise UnsupportedError(
                f"layer '{pool.name}': kernel {k} leaves out {size % k} of {size} pixels that the padded "
                f"'{conv.name}' would then see; use an input size that {k} divides, or no padding"
            )
    k0, k1 = pool.kernel
    weight = conv.weight.repeat(k0, axis=2).repeat(k1, axis=3) / (k0 * k1)
    return replace(
        conv,
        inputs=pool.inputs,
        weight=weight,
        stride=(conv.stride[0] * k0, conv.stride[1] * k1),
        padding=(conv.padding[0] * k0, conv.padding[1] * k1),
    )


def _pool_after_conv(conv: ir.Conv, pool: ir.AvgPool) -> ir.Conv:
    if conv.dilation != (1, 1) and pool.kernel != (1, 1):
        raise UnsupportedError(
            f"layer '{pool.name}': pooling after the dilated convolution '{conv.name}' is not one convolution; "
            f"use dilation 1 there"
        )
    if conv.bias is not None and conv.bias.ndim == 3:
        raise UnsupportedError(f"layer '{pool.name}': pooling after a bias per neuron in '{conv.name}'")
    (k0, k1), (s0, s1) = pool.kernel, conv.stride
    out, per_group, h, w = conv.weight.shape
    weight = np.zeros((out, per_group, h + s0 * (k0 - 1), w + s1 * (k1 - 1)))
    for i in range(k0):
        for j in range(k1):
            weight[:, :, i * s0 : i * s0 + h, j * s1 : j * s1 + w] += conv.weight / (k0 * k1)
    return replace(conv, weight=weight, stride=(s0 * k0, s1 * k1))


def _pool_before_dense(dense: ir.Dense, pools: list[ir.AvgPool], shape: ir.Shape) -> ir.Dense:
    """`shape` is what the first of `pools` reads, (C, H, W)."""
    sides = [shape]
    for pool in pools:
        sides.append(ir.output_shape(pool, sides[-1]))
    weight = dense.weight.reshape(-1, *sides[-1])
    for pool, (_, height, width) in zip(reversed(pools), reversed(sides[:-1]), strict=True):
        k0, k1 = pool.kernel
        out, channels, down, across = weight.shape
        each = (weight / (k0 * k1))[:, :, :, None, :, None]
        weight = np.zeros((out, channels, height, width))  # pixels that fill no window take no part in the average
        weight[:, :, : down * k0, : across * k1].reshape(out, channels, down, k0, across, k1)[:] = each  # a view
    weight.setflags(write=False)  # or the node takes a copy
    return replace(dense, weight=weight.reshape(len(weight), -1))


def _input_affine(synapse: ir.Synapse, source: ir.Input, center: ir.IntArray) -> ir.Synapse:
    """Absorb ``scale * (p + center) + shift``; `synapse` reads the image (conv) or the flat image (dense)."""
    offset = source.scale * center + source.shift  # what a port value of 0 means
    bias = np.zeros(len(synapse.weight)) if synapse.bias is None else synapse.bias
    if isinstance(synapse, ir.Dense):
        pixels = int(np.prod(source.shape[1:]))
        scale = np.repeat(source.scale, pixels)
        return replace(synapse, weight=synapse.weight * scale, bias=bias + synapse.weight @ np.repeat(offset, pixels))
    channel = ir.input_channels(synapse.weight, synapse.groups)
    weight = synapse.weight * source.scale[channel][:, :, None, None]
    if not offset.any():
        return replace(synapse, weight=weight, bias=bias)
    if synapse.padding == (0, 0):
        lift = (synapse.weight * offset[channel][:, :, None, None]).sum((1, 2, 3))
        return replace(synapse, weight=weight, bias=bias + lift)
    image = torch.from_numpy(np.broadcast_to(offset[:, None, None], source.shape).copy())
    geometry = synapse.stride, synapse.padding, synapse.dilation, synapse.groups
    lift = F.conv2d(image[None], torch.from_numpy(synapse.weight.astype(np.float64)), None, *geometry)[0].numpy()
    return replace(synapse, weight=weight, bias=bias.reshape(-1, 1, 1) + lift)


@dataclass(frozen=True)
class _Path:
    """A way for spikes to a neuron: where they come from, and the linear layers on the way."""

    source: str
    nodes: tuple[ir.Node, ...] = ()


def _without_shift(node: ir.Node, number: int) -> ir.Node:
    """The linear part of a layer, for every path through it but the first: ``f(a + b) = f(a) + f_linear(b)``."""
    node = replace(node, name=f"{node.name}:{number}")
    if isinstance(node, ir.Norm):
        zero = np.zeros_like(node.mean)
        return replace(node, mean=zero, beta=zero)
    if isinstance(node, ir.StepNorm):
        return replace(node, mean=np.zeros_like(node.mean))
    if isinstance(node, (ir.Conv, ir.Dense)):
        return replace(node, bias=None)
    return node


def _identity(name: str, shape: ir.Shape) -> ir.Synapse:
    """One weight of 1 a channel (image) or a feature (flat): what passes spikes on as currents."""
    if len(shape) == 3:
        return ir.Conv(name, (), np.ones((shape[0], 1, 1, 1)), None, groups=shape[0])
    return ir.Dense(name, (), np.eye(shape[0]), None)


def _sum_synapses(first: ir.Synapse, other: ir.Synapse) -> ir.Synapse | None:
    """One synapse for two of the same source and neuron, or None where strides do not meet."""
    bias = ir.total_bias([first, other])
    if not (isinstance(first, ir.Conv) and isinstance(other, ir.Conv)):
        return replace(first, weight=first.weight + other.weight, bias=bias)
    if first.stride != other.stride:
        return None
    # the one that is padded more begins first, so that the other's taps are all at or after its own; the kernel that
    # then reaches to the last tap of both makes as many pixels as each of them does
    py, px = (max(conv.padding[axis] for conv in (first, other)) for axis in range(2))
    ry, rx = (max(ir.taps(conv, axis)[-1] for conv in (first, other)) for axis in range(2))
    groups = first.groups if first.groups == other.groups else 1
    inputs = first.weight.shape[1] * first.groups // groups
    outputs = len(first.weight)
    weight = np.zeros((outputs, inputs, py + ry + 1, px + rx + 1))
    rows = np.arange(outputs)[:, None]
    for conv in (first, other):
        columns = ir.input_channels(conv.weight, conv.groups) if groups == 1 else np.arange(inputs)[None]
        for (i, y), (j, x) in product(enumerate(ir.taps(conv, 0)), enumerate(ir.taps(conv, 1))):
            weight[rows, columns, py + y, px + x] += conv.weight[:, :, i, j]
    return replace(first, weight=weight, bias=bias, padding=(py, px), dilation=(1, 1), groups=groups)


def _as_dense(conv: ir.Conv, shape: ir.Shape) -> ir.Dense:
    """The matrix from all pixels of `shape` to all that the convolution makes of them, both flat."""
    made = ir.output_shape(conv, shape)
    inputs, outputs = (int(np.prod(side)) for side in (shape, made))
    if inputs * outputs > _MATRIX:
        raise UnsupportedError(
            f"layer '{conv.name}': what it makes is flattened before the next layer of neurons or the readout, and as "
            f"a matrix it has {inputs:,} x {outputs:,} weights, more than {_MATRIX:,}; put neurons between, and a "
            f"dense layer after them"
        )
    matrix = np.zeros((*made, *shape))
    outputs_of = np.arange(made[0])[:, None, None, None]
    channel = ir.input_channels(conv.weight, conv.groups)[:, :, None, None]
    for tap in np.ndindex(*conv.weight.shape[2:]):
        to, reads = [], []
        for axis in range(2):
            place = np.arange(made[1 + axis]) * conv.stride[axis] + ir.taps(conv, axis)[tap[axis]]
            inside = (place >= 0) & (place < shape[1 + axis])
            to.append(np.flatnonzero(inside))
            reads.append(place[inside])
        (y, x), (row, column) = (np.ix_(*pair) for pair in (to, reads))
        matrix[outputs_of, y, x, channel, row, column] = conv.weight[:, :, tap[0], tap[1], None, None]
    bias: ir.FloatArray | None = None
    if conv.bias is not None:
        wide = conv.bias.reshape(-1, 1, 1) if conv.bias.ndim == 1 else conv.bias
        bias = np.broadcast_to(wide, made).astype(np.float64).flatten()
    return ir.Dense(conv.name, conv.inputs, matrix.reshape(outputs, inputs), bias)


_MATRIX = 2**26  # weights
_ENDS = (ir.LIF, ir.Readout, ir.MaxPool)  # where paths end


class _Fold:
    """The folded network as it grows."""

    def __init__(self, network: ir.Network) -> None:
        self.network = network
        self.source = network.input
        self.center = np.zeros_like(self.source.center)
        if self.source.coding == "direct" and self.source.high > 1:  # binary images stay binary spikes
            # the integer nearest to what normalization calls 0, so that weights see small signed numbers
            nearest = np.clip(np.rint(-self.source.shift / self.source.scale), self.source.low, self.source.high)
            self.center = nearest.astype(np.int64)
        ones, zeros = np.ones_like(self.source.scale), np.zeros_like(self.source.shift)
        self.nodes: list[ir.Node] = [replace(self.source, center=self.center, scale=ones, shift=zeros)]
        self.steps: list[tuple[str, str]] = []
        self.taken = {node.name for node in network.nodes if isinstance(node, (ir.Input, *_ENDS))}
        self.flattened: dict[str, str] = {}  # source -> its Flatten

    def _name(self, wanted: str, neuron: str) -> str:
        """`wanted`, or a name like it if it is taken: a layer that drives two neurons becomes two synapses."""
        name, number = wanted, 1
        while name in self.taken:
            name = f"{neuron}.{wanted}" if number == 1 else f"{neuron}.{wanted}:{number}"
            number += 1
        self.taken.add(name)
        return name

    def _synapse(self, path: _Path, neuron: ir.Node, several: bool) -> ir.Synapse | None:
        """The one synapse of a path, its flatten emitted; None for a readout that reads a neuron itself."""
        shape = self.network.shape(path.source)
        identity = f"{neuron.name}.{path.source}" if several else None
        synapse, flatten = _fold_path([*path.nodes, neuron], shape, self.steps, identity)
        if synapse is None:
            return None
        reads = path.source
        if reads == self.source.name:
            synapse = _input_affine(synapse, self.source, self.center)
            self.steps.append((reads, f"normalization and centring at {self.center.tolist()} into '{synapse.name}'"))
        if flatten is not None and len(shape) == 3:
            if reads not in self.flattened:
                self.flattened[reads] = self._name(flatten.name, neuron.name)
                self.nodes.append(replace(flatten, name=self.flattened[reads], inputs=(reads,)))
            reads = self.flattened[reads]
        return replace(synapse, name=self._name(synapse.name, neuron.name), inputs=(reads,))

    def _flat(self, name: str) -> None:
        """Neurons of an image that only the readout reads, flattened: neurons of a dense layer in their order."""
        shape = self.network.shape(name)
        lif = next(node for node in self.nodes if node.name == name)
        drivers = {lif.inputs[0]}
        drivers.update(*(node.inputs for node in self.nodes if isinstance(node, ir.Add) and node.name in drivers))
        nodes: list[ir.Node] = []
        for node in self.nodes:
            if isinstance(node, ir.Conv) and node.name in drivers:
                flat = ir.Flatten(self._name(f"{node.name}.flatten", name), node.inputs)
                node = replace(_as_dense(node, self.network.shape(node.inputs[0])), inputs=(flat.name,))
                nodes.append(flat)
            nodes.append(node)
        self.nodes = nodes
        self.steps.append((name, f"flattened, {shape} to {int(np.prod(shape))}, with what drives it"))

    def neuron(self, node: ir.LIF | ir.Readout, paths: list[_Path]) -> None:
        """A neuron or the readout, with all that drives it."""
        if isinstance(node, ir.Readout) and node.kind == "spike_count" and self._flattens(paths):
            self._flat(paths[0].source)
            paths = [_Path(paths[0].source)]
        norms = common_norm(node, paths)
        made = [self._synapse(path, node, len(paths) > 1) for path in paths]
        synapses: list[ir.Synapse] = []
        for item in made:
            for place, before in enumerate(synapses):
                if item is not None and before.inputs == item.inputs and (total := _sum_synapses(before, item)):
                    synapses[place] = total
                    self.steps.append((item.name, f"added to '{before.name}', which reads the same spikes"))
                    break
            else:
                synapses += [item] if item is not None else []
        self.nodes += synapses
        if not synapses:
            driver = paths[0].source
        elif len(synapses) == 1:
            driver = synapses[0].name
        else:
            driver = f"{node.name}.add" if isinstance(node, ir.Readout) else node.inputs[0]
            if not isinstance(self.network[node.inputs[0]], ir.Add):
                driver = f"{node.name}.add"  # the layer after the add has become part of what is added
            driver = self._name(driver, node.name)
            self.nodes.append(ir.Add(driver, tuple(item.name for item in synapses)))
        if isinstance(node, ir.LIF) and norms:
            node = time_varying(node, norms)
            self.steps.append((norms[0].name, f"tables of {len(norms[0].gamma)} steps in '{node.name}'"))
        self.nodes.append(replace(node, inputs=(driver,)))

    def _flattens(self, paths: list[_Path]) -> bool:
        """Whether the readout reads nothing but flattened neurons that no one else reads."""
        source = self.network[paths[0].source]
        readers = sum(source.name in node.inputs for node in self.network.nodes)
        flat = bool(paths[0].nodes) and all(isinstance(node, ir.Flatten) for node in paths[0].nodes)
        image = len(self.network.shape(source.name)) == 3
        return len(paths) == 1 and flat and image and isinstance(source, ir.LIF) and readers == 1

    def max_pool(self, node: ir.MaxPool, paths: list[_Path]) -> None:
        """A layer of OR neurons under the name of the pooling."""
        source = self.source
        as_they_are = bool((source.scale == 1).all() and (source.shift == 0).all())
        binary = source.binary and as_they_are  # and not 0 and 1 normalized to something else
        spikes = len(paths) == 1 and not paths[0].nodes and (paths[0].source != source.name or binary)
        if not spikes:
            raise UnsupportedError(
                f"layer '{node.name}': max pooling of '{node.inputs[0]}', which gives no spikes, is not an OR; "
                f"put it after a neuron, or use average pooling"
            )
        channels = self.network.shape(node.inputs[0])[0]
        window = ir.Conv(
            self._name(f"{node.name}.window", node.name),
            (paths[0].source,),
            np.ones((channels, 1, *node.kernel)),
            None,
            node.stride,
            node.padding,
            groups=channels,
        )
        self.nodes += [window, ir.LIF(node.name, (window.name,), tau=0.25, threshold=0.5)]
        self.steps.append((node.name, "an OR of spikes: a layer of neurons"))


@np.errstate(all="ignore")  # what is not finite is refused by the node that would hold it
def fold(network: ir.Network) -> tuple[ir.Network, FoldReport]:
    """Fold a 'captured' network into a 'folded' one: neurons with one conv or dense layer each, or a sum of some.

    Same spikes in real arithmetic, step by step and neuron by neuron; tests and `verify` hold it to float64.

    Raises:
        UnsupportedError: two synaptic layers without a neuron between them, a normalization before its
            convolution, pooling that is not linear in one convolution, max pooling of what is no spike, BNTT that
            not all currents of a neuron pass, or without a neuron: named by layer.
        InputError: a variance that is negative, a gamma of BNTT that is not positive.
    """
    if network.timesteps == 1 and network.of(ir.StepNorm):
        nodes = [at_one_step(node) if isinstance(node, ir.StepNorm) else node for node in network.nodes]
        network = network.with_nodes("captured", nodes)
    made = _Fold(network)
    paths: dict[str, list[_Path]] = {network.input.name: [_Path(network.input.name)]}
    for node in network.nodes[1:]:
        reaching = [path for name in node.inputs for path in paths[name]]
        if isinstance(node, _ENDS):
            if isinstance(node, ir.MaxPool):
                made.max_pool(node, reaching)
            else:
                made.neuron(node, reaching)
            paths[node.name] = [_Path(node.name)]
        elif isinstance(node, ir.Add):
            paths[node.name] = reaching
        else:
            paths[node.name] = [
                _Path(path.source, (*path.nodes, node if number == 1 else _without_shift(node, number)))
                for number, path in enumerate(reaching, start=1)
            ]
    return network.with_nodes("folded", made.nodes), FoldReport(tuple(made.steps))


def _fold_path(
    segment: list[ir.Node], shape: ir.Shape, steps: list[tuple[str, str]], identity: str | None
) -> tuple[ir.Synapse | None, ir.Flatten | None]:
    """One conv or dense layer for the linear nodes of a path that reads `shape`, and its flatten.

    The last node is the neuron or readout that the path ends in. `identity` names the synapse of a path without
    any, one of several that meet; None where the path is the only one and needs a layer of its own.
    """
    synapse: ir.Synapse | None = None
    if identity is not None and not any(isinstance(node, (ir.Conv, ir.Dense)) for node in segment):
        place = next(
            i for i, node in enumerate(segment) if isinstance(node, (ir.Norm, ir.StepNorm, ir.LIF, ir.Readout))
        )
        flattens = [i for i, node in enumerate(segment) if isinstance(node, ir.Flatten)]
        place = flattens[0] + 1 if flattens else place  # a dense identity follows its flatten
        inner = shape
        for node in segment[:place]:
            inner = ir.output_shape(node, inner)
        name = next((node.name for node in reversed(segment[:-1]) if not isinstance(node, ir.Flatten)), identity)
        made = _identity(name, inner)
        segment = [*segment[:place], made, *segment[place:]]
        steps.append((name, "a shortcut of one weight a channel"))
    flatten: ir.Flatten | None = None
    varying: str | None = None  # BNTT, which goes into the neuron
    waiting: list[ir.AvgPool] = []  # pools that come before the synapse
    for number, node in enumerate(segment):
        if isinstance(node, ir.AvgPool):
            if synapse is None:
                waiting.append(node)
            elif isinstance(synapse, ir.Conv):
                synapse = _pool_after_conv(synapse, node)
                steps.append((node.name, f"folded into '{synapse.name}' before it"))
            else:
                raise UnsupportedError(f"layer '{node.name}': pooling after the dense layer '{synapse.name}'")
        elif isinstance(node, ir.Flatten):
            if isinstance(synapse, ir.Conv):
                if any(isinstance(other, (ir.Conv, ir.Dense)) for other in segment[number:]):
                    raise UnsupportedError(
                        f"layer '{node.name}': no neuron between '{synapse.name}' and the layers after it; add a LIF"
                    )
                if varying is not None:
                    raise UnsupportedError(
                        f"layer '{node.name}': a flatten between the BNTT '{varying}' and its neurons; put it "
                        f"after them"
                    )
                synapse = _as_dense(synapse, shape)
                steps.append((node.name, f"makes a matrix of '{synapse.name}'"))
            flatten = node if flatten is None else flatten
        elif isinstance(node, (ir.Conv, ir.Dense)):
            if synapse is not None:
                raise UnsupportedError(f"layer '{node.name}': no neuron between it and '{synapse.name}'; add a LIF")
            synapse = node
            if isinstance(synapse, ir.Conv):
                shapes = [shape]
                for pool in waiting:
                    shapes.append(ir.output_shape(pool, shapes[-1]))
                for pool, pool_shape in zip(reversed(waiting), reversed(shapes[:-1]), strict=True):
                    synapse = _pool_before_conv(synapse, pool, pool_shape)
            elif waiting:
                synapse = _pool_before_dense(synapse, waiting, shape)
            steps.extend((pool.name, f"folded into '{synapse.name}' after it") for pool in waiting)
            waiting = []
        elif isinstance(node, (ir.Norm, ir.StepNorm)):
            if synapse is None:
                raise UnsupportedError(
                    f"layer '{node.name}': a normalization before its conv or dense layer; put it after"
                )
            if varying is not None:
                raise UnsupportedError(
                    f"layer '{node.name}': a normalization after the BNTT '{varying}'; one of them is enough"
                )
            if isinstance(node, ir.StepNorm):
                varying = node.name
                continue
            synapse = _after_norm(synapse, node)
            steps.append((node.name, f"folded into '{synapse.name}'"))
        elif isinstance(node, ir.LIF) and synapse is None:
            raise UnsupportedError(f"layer '{node.name}': a neuron needs a conv or dense layer before it")
    if synapse is None and len(segment) > 1:
        raise UnsupportedError(f"layer '{segment[0].name}': nothing after it can take it in; end with a dense layer")
    return synapse, flatten


def folded(network: ir.Network) -> ir.Network:
    """`network` itself if it is folded, else what `fold` makes of it."""
    return network if network.stage == "folded" else fold(network)[0]
