"""Plans and demands counted without their own arithmetic: every synapse of random networks listed, core by core."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from attack_draw import captured, exported
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch.nn import functional as F

from snn2chip import chip as chips
from snn2chip import ir
from snn2chip.chip.profile import Capacity
from snn2chip.errors import InputError
from snn2chip.fit import compiler, demand, search
from snn2chip.fit.demand import Demand
from snn2chip.fit.placement import Placement
from snn2chip.passes import pipeline
from snn2chip.passes.quantize import sketch

from helpers import chains  # isort: skip

LOIHI2 = chips.load("loihi2")
Synapse = tuple[int, int, int]  # neuron, source, list: the weights that one source, or one channel and tap, reach
LIMITS = ("neurons", "synaptic_words", "axons_in", "axons_out")


def synapses(layer: Demand, region: tuple[slice, slice, slice]) -> set[Synapse]:
    """Those of the neurons in a region (W, H, C) of a layer, one by one."""
    channels, height, width = layer.shape if len(layer.shape) == 3 else (*layer.shape, 1, 1)
    columns, rows, places = (range(size)[part] for size, part in zip((width, height, channels), region, strict=True))
    found: set[Synapse] = set()
    for channel in places:
        for row in rows:
            for column in columns:
                neuron = (channel * height + row) * width + column
                if layer.kind == "dense":
                    found |= {(neuron, source, source) for source in range(math.prod(layer.inputs))}
                    continue
                deep, high, wide = layer.inputs
                share = deep // layer.groups
                first = channel // (channels // layer.groups) * share
                for part in range(share):
                    for i in range(layer.kernel[0]):
                        for j in range(layer.kernel[1]):
                            y = row * layer.stride[0] + i * layer.dilation[0] - layer.padding[0]
                            x = column * layer.stride[1] + j * layer.dilation[1] - layer.padding[1]
                            if 0 <= y < high and 0 <= x < wide:
                                source = ((first + part) * high + y) * wide + x
                                found.add((neuron, source, (part * layer.kernel[0] + i) * layer.kernel[1] + j))
    return found


def connected(layer: ir.ChainLayer, inputs: ir.Shape) -> NDArray[np.bool_]:
    """Which source (column) drives which neuron (row), by torch's own convolution of single pixels."""
    count = math.prod(inputs)
    if layer.kind == "dense":
        return np.ones((math.prod(layer.shape), count), dtype=bool)
    pixels = torch.eye(count, dtype=torch.float64).reshape(count, *inputs)
    ones = torch.ones(layer.weight.shape, dtype=torch.float64)
    made = F.conv2d(pixels, ones, None, layer.stride, layer.padding, layer.dilation, layer.groups)
    assert tuple(made.shape[1:]) == layer.shape
    return made.reshape(count, -1).T.numpy() > 0


def words(layer: Demand, found: set[Synapse], capacity: Capacity) -> int:
    """Memory for these synapses of one core: a list for each tap of a channel and block of output channels, or for each
    source, a header for each part."""
    per_synapse = layer.weight_bits + (capacity.index_bits.value if layer.kind == "dense" else 0)
    channels = layer.shape[0]
    pixels = math.prod(layer.shape) // channels if layer.kind == "conv" else 1
    stored = {(number, neuron // pixels) for neuron, _, number in found}  # positions of a map share theirs
    total = 0
    for length in Counter(number for number, _ in stored).values():
        while length > 0:
            block = 2 ** int(math.log2(length)) if layer.kind == "conv" else length
            part = min(block, capacity.list_synapses.value)
            total += math.ceil((part * per_synapse + capacity.list_bits.value) / 64)
            length -= part
    return total


def check(layer: Demand, drives: NDArray[np.bool_], capacity: Capacity) -> int:
    """Both plans of a layer; how many of them take several cores."""
    ruled, best = compiler.place(layer, capacity), search.place(layer, capacity)
    assert (ruled is None) == (best is None)
    if ruled is None or best is None:
        return 0
    assert best.cores <= ruled.cores
    for placed in (ruled, best):
        _counted(placed, drives, capacity)
    return (ruled.cores > 1) + (best.cores > 1)


def _counted(placed: Placement, drives: NDArray[np.bool_], capacity: Capacity) -> None:
    layer = placed.layer
    neurons = np.zeros(layer.extent, dtype=np.int64)
    seen = np.zeros(drives.shape, dtype=np.int64)
    uses = placed.uses(capacity)
    assert len(uses) == placed.cores
    for region, use in zip(placed.regions(), uses, strict=True):
        neurons[region] += 1
        found = synapses(layer, region)
        for neuron, source, _ in found:
            seen[neuron, source] += 1
        assert use.neurons == neurons[region].size
        # a border leaves taps out of a tile, and its core holds their lists all the same
        assert words(layer, found, capacity) <= use.synaptic_words
        if layer.kind == "dense" or layer.padding == (0, 0):
            assert words(layer, found, capacity) == use.synaptic_words
        if layer.kind == "dense":
            assert use.axons_in == len({source for _, source, _ in found})
        wide, high, deep = neurons[region].shape
        ways = f"{deep:b}".count("1") if layer.kind == "conv" else 1
        assert use.axons_out == (wide * high * ways if layer.feeds == "conv" else use.neurons)
        for limit in LIMITS:
            assert getattr(use, limit) <= getattr(capacity, limit).value
    assert (neurons == 1).all()
    assert (seen == drives).all()


def held(capacity: Capacity, **limits: int) -> Capacity:
    """A chip with less room."""
    return replace(capacity, **{name: replace(getattr(capacity, name), value=value) for name, value in limits.items()})


@settings(max_examples=150, deadline=None)
@given(chains(), st.integers(1, 40), st.integers(1, 80), st.integers(1, 60), st.sampled_from([4, 64, 4096]))
def test_every_synapse_of_a_random_network_stands_on_one_core(
    chain: ir.Chain, neurons: int, memory: int, axons: int, list_length: int
) -> None:
    """Convolutions with strides, groups, padding and dilation, dense layers, on cores so small that most are cut."""
    capacity = held(LOIHI2.capacity, neurons=neurons, synaptic_words=memory, axons_out=axons, list_synapses=list_length)
    inputs = chain.input_shape
    for layer, asked in zip(chain.layers, demand.of_chain(chain), strict=True):
        check(asked, connected(layer, inputs), capacity)
        inputs = layer.shape


def test_relays_copies_and_pooling_are_counted_like_others() -> None:
    """Networks that branch, as they are lowered: layers with relays and copies in them, ORs, folded pooling."""
    cut = relays = 0
    for _, made in exported(range(8), LOIHI2):
        relays += made.lower_report.relay_neurons
        for neurons, memory in ((64, 16000), (4095, 100)):
            capacity = held(LOIHI2.capacity, neurons=neurons, synaptic_words=memory)
            inputs = made.chain.input_shape
            for layer, asked in zip(made.chain.layers, demand.of_chain(made.chain), strict=True):
                cut += check(asked, connected(layer, inputs), capacity)
                inputs = layer.shape
    assert relays and cut > 20


def test_outlines_are_those_of_the_integers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shapes, geometry and bits, told without rounding or with, are of random networks what the exported ones ask for;
    what is refused is refused in the same words."""
    monkeypatch.setattr(sketch, "_SMALL", 0)  # so that every layer is sketched
    refused = 0
    for seed in range(40):
        network = captured(seed)
        try:
            wanted = demand.of_chain(pipeline.export(pipeline.Source(network, "random"), LOIHI2).chain)
        except InputError as error:
            with pytest.raises(type(error), match=re.escape(str(error))):
                pipeline.outlines(network, LOIHI2)
            refused += 1
            continue
        source, layers = pipeline.outlines(network, LOIHI2)
        shape = (math.prod(source.shape),) if layers[0].kind == "dense" else source.shape
        assert demand.of_outlines(layers, shape, ir.message_bits(*source.port_range())) == wanted
    assert 0 < refused < 10
