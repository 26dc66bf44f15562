"""What fits a chip: every number that the compiler printed, limits that hold, and nothing placed twice or nowhere."""

from __future__ import annotations

import io
import itertools
import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import fit_page
import h5py
import numpy as np
import pytest
from conftest import ROOT, Command, Quickstart
from foreign import random_network
from hypothesis import example, given, settings
from hypothesis import strategies as st

from snn2chip import chip as chips
from snn2chip import recipe
from snn2chip.errors import InputError, UnsupportedError
from snn2chip.fit import compiler, demand, search, table
from snn2chip.fit.demand import Demand, stored_bits
from snn2chip.fit.placement import Placement, use_of
from snn2chip.fit.recipe import KNOWN, captured, narrowed, of_recipe
from snn2chip.formats import netx
from snn2chip.passes import pipeline
from snn2chip.passes.quantize import sketch
from snn2chip.report import fit as shown

from helpers import chains, rng_of  # isort: skip

PRINTED = ROOT.parent / "shared" / "data" / "loihi2" / "published.json"
LOIHI1, LOIHI2 = chips.load("loihi1"), chips.load("loihi2")
# printed in lava-dl's tutorials/lava/lib/dl/netx/yolo_kp/run.ipynb, whose network file is not at hand: input channels,
# shape, kernel, stride; tile and cores; axons in, neurons, synaptic words and axons out in percent of a core
YOLO_KP = [
    (3, (16, 224, 224), 3, 2, (8, 28, 16), 224, 0.01, 87.52, 0.34, 1.40),
    (16, (32, 112, 112), 3, 2, (8, 14, 32), 112, 0.01, 87.52, 3.60, 0.70),
    (32, (64, 56, 56), 3, 2, (4, 14, 64), 56, 0.01, 87.52, 10.80, 0.35),
    (64, (128, 28, 28), 3, 2, (4, 7, 128), 28, 0.01, 87.52, 39.60, 0.17),
    (128, (256, 28, 28), 3, 1, (4, 7, 128), 56, 0.01, 87.52, 79.20, 0.17),
    (256, (256, 14, 14), 3, 2, (8, 7, 64), 16, 0.01, 87.52, 72.00, 0.35),
    (256, (512, 14, 14), 3, 1, (8, 7, 64), 32, 0.01, 87.52, 86.40, 0.35),
    (512, (256, 14, 14), 1, 1, (2, 7, 256), 14, 0.01, 87.52, 67.20, 0.09),
    (256, (512, 14, 14), 3, 1, (8, 7, 64), 32, 0.01, 87.52, 86.40, 0.35),
    (512, (48, 14, 14), 1, 1, (4, 14, 48), 4, 0.01, 65.64, 19.20, 16.80),
]
# likewise .../netx/oxford/run.ipynb: inputs, neurons; cores, their mean of neurons and of synaptic words
OXFORD = [(200, 256, 3, 85, 5400), (256, 200, 2, 100, 8064)]


def printed() -> dict[str, Any]:
    """The compiler's printed tables, or a skip."""
    if not PRINTED.is_file():
        pytest.skip("no printed tables at ../shared/data/loihi2")
    tables: dict[str, Any] = json.loads(PRINTED.read_text())
    return tables["networks"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ["mnist", "pilotnet_snn", "pilotnet_sdnn"])
def test_every_printed_number(name: str) -> None:
    """From the netx file alone: cores, tiles, axons in and out, neurons and synaptic words of every layer."""
    network = printed()[name]
    found = table.fit(demand.of_file(PRINTED.with_name(network["file"])), LOIHI2)
    assert found.fits and found.chips == 1
    assert found.cores == network["cores"]
    assert len(found.layers) == len(network["layers"])
    capacity = LOIHI2.capacity
    for layer, said in zip(found.layers, network["layers"], strict=True):
        assert layer.placed is not None
        assert layer.cores == said["cores"]
        uses = layer.placed.uses(capacity)
        if "tile" in said:
            assert list(layer.placed.tile) == said["tile"]
            assert list(layer.placed.layer.shape) == said["shape"][::-1]
        if network["as"].startswith("share"):  # of the capacity, in percent with two digits
            for key, value, limit in (
                ("axon_in", layer.use.axons_in, capacity.axons_in),
                ("neurons", layer.use.neurons, capacity.neurons),
                ("synapses", layer.use.synaptic_words, capacity.synaptic_words),
                ("axon_map", layer.use.axons_out, capacity.axons_out),
            ):
                assert round(100 * value / limit.value, 2) == said[key]
            continue
        # a layer that is cut unevenly prints the mean of its cores, but of a map's neurons the fullest's
        mean = {key: sum(getattr(use, key) for use in uses) // len(uses) for key in ("synaptic_words", "axons_out")}
        assert mean["synaptic_words"] == said["synapses"]
        assert layer.use.axons_in == said.get("axon_in", layer.use.axons_in)
        assert mean["axons_out"] == said.get("axon_map", mean["axons_out"])
        neurons = layer.use.neurons if "tile" in said else sum(use.neurons for use in uses) // len(uses)
        assert neurons == said["neurons"]


@pytest.mark.parametrize("printed", YOLO_KP)
def test_a_network_printed_without_its_weights(printed: tuple[Any, ...]) -> None:
    """With some number of bits every number of a layer is as printed."""
    inputs, shape, kernel, stride, tile, cores, *shares = printed
    capacity, side = LOIHI2.capacity, shape[1] * stride
    given: Any = ((inputs, side, side), shape)
    sizes: Any = ((kernel, kernel), (stride, stride), (kernel // 2, kernel // 2))
    limits = capacity.axons_in, capacity.neurons, capacity.synaptic_words, capacity.axons_out
    agreeing = []
    for bits in range(1, 9):
        layer = Demand("conv1", "conv", *given, bits, *sizes, feeds="dense" if shape[0] == 48 else "conv")
        placed = compiler.place(layer, capacity)
        assert placed is not None
        use = placed.fullest(capacity)
        values = use.axons_in, use.neurons, use.synaptic_words, use.axons_out
        found = [round(100 * value / limit.value, 2) for value, limit in zip(values, limits, strict=True)]
        if (placed.cores, placed.tile, found) == (cores, tile, shares):
            agreeing.append(bits)
    assert agreeing


@pytest.mark.parametrize(("inputs", "neurons", "cores", "mean", "words"), OXFORD)
def test_dense_layers_that_are_cut_as_printed(inputs: int, neurons: int, cores: int, mean: int, words: int) -> None:
    """Of 8 bits, as 7 are stored too."""
    placed = compiler.place(Demand("dense1", "dense", (inputs,), (neurons,), 8), LOIHI2.capacity)
    assert placed is not None and placed.cores == cores
    uses = placed.uses(LOIHI2.capacity)
    assert sum(use.neurons for use in uses) // cores == mean
    assert sum(use.synaptic_words for use in uses) == words * cores


def test_the_page_says_what_the_files_give() -> None:
    """docs/fit.md's table is what `python bench/fit_page.py` writes."""
    printed()
    page = (ROOT / "docs" / "fit.md").read_text()
    assert page == fit_page.filled(page, PRINTED)


@pytest.mark.parametrize(
    ("weights", "dense", "bits"),
    [
        ([-2, 2], False, 2), ([-1, 1], False, 2), ([-16, 14], False, 5), ([-14, 10], False, 4), ([-126, 2], False, 7),
        ([-126, 2], True, 8), ([-127, 127], False, 8), ([-254, 254], False, 8), ([-256, 2], False, 8),
        ([0, 255], True, 8), ([-5, 0], True, 3), ([0, 0], True, 1),
    ],
)  # fmt: skip
def test_bits_of_a_weight(weights: list[int], dense: bool, bits: int) -> None:
    assert stored_bits(np.array(weights), dense) == bits


SIZES = st.integers(1, 40) | st.sampled_from([64, 100, 128, 200])


@st.composite
def layers(draw: st.DrawFn) -> Demand:
    """A layer of any kind, most too large for one core."""
    bits = draw(st.integers(1, 8))
    feeds = draw(st.sampled_from(["conv", "dense"]))
    kind = draw(st.sampled_from(["input", "conv", "dense"]))
    if kind == "dense":
        inputs, neurons = draw(st.integers(1, 20000)), draw(st.integers(1, 300) | st.integers(4000, 9000))
        recurrent = draw(st.booleans())
        return Demand("dense1", "dense", (inputs,), (neurons,), bits, recurrent=recurrent, feeds=feeds)
    shape = draw(SIZES | st.integers(1, 5000)), draw(SIZES), draw(SIZES)
    if kind == "input":
        return Demand("input1", "input", (), shape, feeds=feeds)
    kernel, stride = draw(st.integers(1, 5)), draw(st.integers(1, 3))
    inputs, groups = draw(st.integers(1, 1200)), 1
    if draw(st.booleans()):
        groups = math.gcd(inputs, shape[0])
    return Demand(
        "conv1", "conv", (inputs, 1, 1), shape, bits, (kernel, kernel), (stride, stride), (0, 0), (1, 1), groups,
        feeds=feeds,
    )  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(layers(), st.sampled_from([LOIHI1, LOIHI2]))
def test_no_plan_exceeds_a_limit_and_the_search_never_takes_more(layer: Demand, chip: chips.Chip) -> None:
    """Every neuron stands on exactly one core, no core holds more than it can, the search takes the fewest cores."""
    capacity = chip.capacity
    ruled, best = compiler.place(layer, capacity), search.place(layer, capacity)
    assert (ruled is None) == (best is None)
    if ruled is None or best is None:
        assert use_of(layer, (1, 1, 1), capacity).exceeded(capacity)
        return
    assert best.cores <= ruled.cores
    for placed in (ruled, best):
        if placed.cores > 3000:  # counted by arithmetic alone, or a day would pass
            continue
        seen = np.zeros(layer.extent, dtype=np.int64)
        uses = placed.uses(capacity)
        for region, use in zip(placed.regions(), uses, strict=True):
            seen[region] += 1
            assert use.neurons == seen[region].size
            assert use.exceeded(capacity) is None
        assert (seen == 1).all()
        assert len(uses) == placed.cores
        # lists of a core hold the synapses of its own output channels: of a dense layer, all of them once
        if layer.kind == "dense":
            assert sum(use.neurons * layer.fan_in for use in uses) == layer.neurons * layer.fan_in
    # nothing smaller than what the search found: the limits themselves ask for so many
    assert best.cores * capacity.neurons.value >= layer.neurons


@settings(max_examples=50, deadline=None)
@given(
    st.tuples(st.integers(1, 40), st.integers(1, 4), st.integers(1, 4)), st.integers(1, 60), st.integers(1, 8),
    st.integers(1, 60), st.integers(1, 200), st.integers(1, 60),
)  # fmt: skip
# three channels that are left of tiles of four lie in two blocks and take more words than the four
@example((7, 1, 1), 31, 8, 4, 60, 12)
# neither the evenest parts nor a power of two
@example((62, 1, 1), 1, 3, 60, 3, 24)
def test_the_search_is_as_good_as_trying_every_tile(
    shape: tuple[int, int, int], inputs: int, bits: int, most: int, words: int, list_bits: int
) -> None:
    limits = {"neurons": most, "synaptic_words": words, "list_bits": list_bits}
    has = LOIHI2.capacity
    capacity = replace(has, **{name: replace(getattr(has, name), value=value) for name, value in limits.items()})
    layer = Demand("conv1", "conv", (inputs, 1, 1), shape, bits)
    placed = [Placement(layer, tile) for tile in itertools.product(*(range(1, n + 1) for n in layer.extent))]
    fitting = [each.cores for each in placed if not any(use.exceeded(capacity) for use in each.uses(capacity))]
    best = search.place(layer, capacity)
    assert (None if best is None else best.cores) == min(fitting, default=None)


@settings(max_examples=25, deadline=None)
@given(chains())
def test_a_chain_and_its_file_ask_for_the_same(chain: Any) -> None:
    with pytest.MonkeyPatch.context():
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.net"
            netx.save(path, chain)
            assert demand.of_file(path) == demand.of_chain(chain)


@pytest.mark.parametrize("seed", range(12))
def test_networks_from_elsewhere(seed: int, tmp_path: Path) -> None:
    """Every neuron of the simulator's reading is placed."""
    path = tmp_path / "foreign.net"
    random_network(rng_of(seed), path)
    found = demand.of_file(path)
    from snn2chip.formats.netx import read

    net = read.load(path)
    assert [layer.shape for layer in found] == [layer.shape for layer in net.layers]
    assert [layer.kind for layer in found] == [layer.kind.removesuffix("_rec") for layer in net.layers]
    assert [layer.recurrent for layer in found] == [layer.recurrent is not None for layer in net.layers]


def _dense_behind_maps(path: Path, channels: int, side: int) -> None:
    """A convolution to (channels, side, side) and a dense layer of 10 behind it."""
    rng = np.random.default_rng(0)
    shape = (channels, side, side)
    with h5py.File(path, "w") as file:
        for number, kind in enumerate(("input", "conv", "flatten", "dense")):
            group = file.create_group(f"layer/{number}")
            group["type"] = np.array([kind.encode()])
            if kind == "flatten":
                group["shape"] = np.array([math.prod(shape)])
                continue
            group["shape"] = np.array({"input": (2, side, side), "conv": shape, "dense": (10,)}[kind])
            if kind == "input":
                continue
            size = (channels, 2, 3, 3) if kind == "conv" else (10, math.prod(shape))
            group["weight"] = rng.integers(-100, 100, size)
            for name, value in (("stride", 1), ("padding", 1), ("dilation", 1), ("groups", 1)):
                if kind == "conv":
                    group[name] = value
            neuron = group.create_group("neuron")
            neuron["type"] = b"CUBA"
            for name, value in (("iDecay", 4096), ("vDecay", 128), ("vThMant", 100)):
                neuron[name] = value


def test_a_fan_in_that_no_core_takes_is_named_with_what_would_fit(tmp_path: Path, cli: Command) -> None:
    path, report = tmp_path / "wide.net", tmp_path / "fit.json"
    _dense_behind_maps(path, 256, 8)
    found = cli("fit", path, "--json", report)
    assert found.code == 1 and not found.err
    words = " ".join(found.out.split())
    assert "dense1: fan-in 16,384 exceeds 16,000 axons: stride 2 in conv1, or pool 2x2 before it (4,096)" in words
    assert "or 250 channels instead of 256" in words and "does not fit loihi2" in words
    value = json.loads(report.read_text())
    assert set(value) == {"chip", "fits", "cores", "chips", "traffic", "layers"} and value["traffic"] is None
    assert (value["chip"], value["fits"], value["cores"], value["chips"]) == ("loihi2", False, 8, 1)
    conv, dense = value["layers"]
    assert set(conv) == {"name", "fits", "cores", "tile", "neurons", "axons_in", "synaptic_words", "binding"}
    assert (conv["name"], conv["fits"], conv["cores"], conv["tile"]) == ("conv1", True, 8, [2, 4, 256])
    assert (dense["name"], dense["fits"], dense["tile"], dense["binding"]) == ("dense1", False, None, "axons_in")
    _dense_behind_maps(path, 250, 8)  # what was named does fit
    alone = cli("fit", path, "--json")
    assert alone.code == 0
    found = json.loads(alone.out)
    assert found["layers"][1]["fits"]
    cores = [layer["cores"] for layer in found["layers"]]  # all of one dense layer's read every neuron before it
    assert found["traffic"]["spikes"] == 250 * 64 * cores[1] and found["traffic"]["routes"] == cores[0] * cores[1]


def test_31_channels_take_half_the_cores_of_32() -> None:
    layer = Demand("conv1", "conv", (3, 32, 32), (32, 32, 32), 8, (3, 3), (1, 1), (1, 1), feeds="conv")
    (found,) = table.fit([layer], LOIHI2).layers
    assert found.cores == 16 and found.binding == "neurons"
    assert found.halving == "conv1: 31 channels instead of 32: 8 cores instead of 16"


def test_words_bind_where_the_compiler_reckons_with_more_than_there_are() -> None:
    layer = Demand("dense1", "dense", (250,), (200,), 8)
    (found,) = table.fit([layer], LOIHI2).layers
    assert (found.cores, found.binding, found.use.synaptic_words) == (2, "synaptic_words", 250 * 40)
    assert found.searched is not None and found.searched.cores == 1


def test_what_goes_between_cores_of_dense_layers() -> None:
    """Every spike goes to all cores of the layer that reads it, and of its own where that is recurrent."""
    layers = [Demand("dense1", "dense", (784,), (300,), 8, recurrent=True), Demand("dense2", "dense", (300,), (10,), 8)]
    found = table.fit(layers, LOIHI2)
    a, b = (layer.cores for layer in found.layers)
    assert a > 1 and found.traffic == table.Traffic(300 * (a + b), 784 * a, a * a + a * b)
    assert table.fit([replace(layers[0], inputs=(20_000,))], LOIHI2).traffic is None


def test_too_many_input_channels_for_one_list_each() -> None:
    layer = Demand("conv1", "conv", (2000, 4, 4), (8, 4, 4), 8, (3, 3), padding=(1, 1))
    found = table.fit([layer], LOIHI2)
    assert not found.fits and found.cores == 0
    assert found.problems == (
        "conv1: 2,000 input channels with 9 taps take 18,000 synaptic words, over 16,000: at most 1,777 input "
        "channels, or more groups",
    )
    (placed,) = table.fit([replace(layer, inputs=(1777, 4, 4))], LOIHI2).layers
    assert placed.fits


def test_what_loihi_1_cannot_do_at_all() -> None:
    graded = Demand("conv1", "conv", (3, 8, 8), (8, 8, 8), 8, (3, 3), padding=(1, 1), graded_bits=9)
    steps = Demand("dense1", "dense", (512,), (10,), 8, steps=True)
    assert table.fit([graded, steps], LOIHI2).fits
    found = table.fit([graded, steps], LOIHI1)
    assert len(found.problems) == 2 and "only spikes" in found.problems[0] and "collapse" in found.problems[1]


def test_a_chip_of_ones_own(tmp_path: Path, cli: Command) -> None:
    net, own = tmp_path / "wide.net", tmp_path / "mine.toml"
    _dense_behind_maps(net, 8, 8)
    text = (ROOT / "deploy" / "chips" / "loihi2.toml").read_text()
    own.write_text(text.replace('"loihi2"', '"mine"').replace("value = 4095", "value = 64"))
    found = json.loads(cli("fit", net, "--chip", own, "--json").ok())
    assert found["chip"] == "mine" and found["layers"][0]["cores"] == 8
    for old, new, word in (
        ("value = 128", "value = 0", "below 1"),
        ("value = 128", "value = 'many'", "capacity.cores.value"),
        ("[capacity.cores]", "[capacity.kernels]", "kernels"),
        ('name = "loihi2"', "", "'name'"),
    ):
        own.write_text(text.replace(old, new))
        cli("fit", net, "--chip", own).refused(word)
    cli("fit", net, "--chip", tmp_path / "none.toml").refused("no chip profile")
    cli("fit", net, "--chip", "loihi3").refused("unknown chip")
    cli("fit", tmp_path / "none.net").refused("none.net")


def _renamed(neuron: h5py.Group, kind: str, **numbers: int) -> None:
    del neuron["type"]
    neuron["type"] = kind.encode()
    for name, value in numbers.items():
        neuron[name] = value


@pytest.mark.parametrize(
    ("kind", "numbers", "said"),
    [
        ("SDNN", {}, "conv1: SDNN neurons need programmable ones"),
        ("RF_PHASE", {}, "conv1: RF neurons need programmable ones"),
        ("CUBA", {"messageBits": 8}, "dense1: integers of 8 bits come in, .* give conv1 neurons that send spikes"),
        ("LOIHI", {"messageBits": 0}, ""),
    ],
)
def test_neurons_that_only_loihi_2_has(kind: str, numbers: dict[str, int], said: str, tmp_path: Path) -> None:
    path = tmp_path / "made.net"
    _dense_behind_maps(path, 8, 8)
    with h5py.File(path, "r+") as file:
        _renamed(file["layer/1/neuron"], kind, **numbers)
    found = demand.of_file(path)
    assert table.fit(found, LOIHI2).fits
    old = table.fit(found, LOIHI1)
    assert old.fits == (not said) and re.search(said, " ".join(old.problems))
    sent = numbers.get("messageBits", 16 if kind == "SDNN" else 0)
    assert [layer.graded_bits for layer in found] == [0, sent]


def test_delays_take_room_and_images_need_no_channel(tmp_path: Path) -> None:
    """With delays of up to 5 steps, 3 bits more for each synapse; a (H, W) input is one channel, as in netx."""
    path = tmp_path / "made.net"
    _dense_behind_maps(path, 8, 8)
    with h5py.File(path, "r+") as file:
        file["layer/3/delay"] = np.array([0, 5] * 5)
    plain = demand.of_file(path)[1]
    assert plain.delay_bits == 3
    bits = plain.weight_bits + 3 + LOIHI2.capacity.index_bits.value
    assert use_of(plain, (1, 1, 10), LOIHI2.capacity).synaptic_words == 512 * math.ceil((10 * bits + 12) / 64)
    with h5py.File(path, "r+") as file:
        del file["layer/0/shape"], file["layer/1"]
        file["layer/0/shape"] = np.array([16, 32])
        file.move("layer/2", "layer/1")
        file.move("layer/3", "layer/2")
    (image,) = demand.of_file(path)
    assert image.inputs == (1, 16, 32) and image.fan_in == 512


@pytest.mark.parametrize(
    ("change", "error", "word"),
    [
        (lambda file: file["layer/1"].pop("weight"), InputError, "weight"),
        (lambda file: file["layer/1/shape"].__setitem__(0, 9), InputError, "weights"),
        (lambda file: file["layer/1/shape"].__setitem__(2, 3), InputError, "it computes"),
        (lambda file: file["layer/0/shape"].__setitem__(0, 3), InputError, "do not fit"),
        (lambda file: file.move("layer/1/type", "layer/1/kind"), UnsupportedError, "type"),
        (lambda file: file.move("layer/3", "layer/4"), InputError, "no group layer/3"),
        (lambda file: file["layer/3/type"].__setitem__(0, b"pool"), UnsupportedError, "'pool' .* a conv with groups"),
        (lambda file: _renamed(file["layer/1/neuron"], "ALIF"), UnsupportedError, "'ALIF' is none that netx has"),
        (
            lambda file: (
                file.move("layer/3/weight", "layer/3/weight_/real") or file.move("layer/3/weight_", "layer/3/weight")
            ),
            InputError,
            "a group .real.; complex",
        ),
    ],
)
def test_damaged_files_are_refused(change: Any, error: type[InputError], word: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.net"
    _dense_behind_maps(path, 8, 8)
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(error, match=word):
        demand.of_file(path)


def test_the_table_is_narrow(tmp_path: Path) -> None:
    path = tmp_path / "wide.net"
    _dense_behind_maps(path, 256, 8)
    from rich.console import Console

    with Console(width=80, record=True, file=io.StringIO()) as console:
        console.print(shown.table(table.fit(demand.of_file(path), LOIHI2)))
    assert max(map(len, console.export_text().splitlines())) <= 80


def test_a_recipe_says_what_it_takes_before_training(cli: Command) -> None:
    assert "fits loihi2: 7 cores" in cli("recipe", "digits-tdbn", "--fit").ok()
    narrow = cli("recipe", "digits-tdbn", "--target-cores", 5)
    assert narrow.code == 0 and "on 5 cores: widths times 0." in narrow.out
    assert "copies of relays" in cli("recipe", "cifar10-resnet19-tdbn-t2", "--fit").ok()
    wide = cli("recipe", "vgg9-bntt", "--fit")
    assert wide.code == 1 and "fan-in 16,384 exceeds 16,000 axons" in " ".join(wide.out.split())
    cli("recipe", "--fit").refused("name it")
    cli("recipe", "digits-tdbn", "--fit", "--classes", 3).refused("--shape")
    cli("recipe", "digits-tdbn", "--target-cores", 1).refused("--target-cores 1")


@pytest.mark.parametrize(
    ("name", "width"),
    [
        ("digits-tdbn", 1), ("letters-tdbn", 1), ("nmnist-bntt", 1), ("cifar10-vgg-tdbn-t2", 1), ("vgg9-bntt", 0.25),
        ("cifar10-resnet19-tdbn-t2", 1), ("dvsgesture-tdbn", 0.5), ("resnet19", 0.25),
    ],
)  # fmt: skip
def test_a_recipe_asks_for_what_its_export_does(name: str, width: float) -> None:
    """What is told from sums and extremes of the weights is what `fit` says of the exported integers: layers that meet
    and share thresholds with relays and copies, tables of BNTT, events, few bits and many."""
    chosen = narrowed(recipe.load(name), width)
    shape, classes, most = KNOWN.get(chosen.data.name, ((1, 64, 64), 36, 1))
    network = captured(chosen, (shape, classes, most))
    exported = pipeline.export(pipeline.Source(network, "untrained"), LOIHI2).chain
    assert of_recipe(chosen, LOIHI2, (shape, classes, most)) == table.fit(demand.of_chain(exported), LOIHI2)


def test_a_layer_that_is_all_but_clear_is_rounded_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """With sums that are known to nobody, every layer of more than some weights is: the same table."""
    chosen = recipe.load("cifar10-vgg-tdbn-t2")
    plain = of_recipe(chosen, LOIHI2)
    called = []
    exact = sketch.Sums.exact

    def counted(self: sketch.Sums, *given: Any) -> Any:
        called.append(self)
        return exact(self, *given)

    monkeypatch.setattr(sketch.Sums, "exact", counted)
    monkeypatch.setattr(sketch.Sums, "helping", lambda self, integers, scale: (self.least * 0, self.most * 0))
    assert of_recipe(chosen, LOIHI2) == plain
    assert called


def test_a_recipe_takes_what_the_trained_network_takes(quickstart: Quickstart) -> None:
    """Weights change nothing but their bits."""
    chosen = recipe.load("digits-tdbn")
    trained = table.fit(demand.of_file(quickstart.net), LOIHI2)
    before = of_recipe(chosen, LOIHI2)
    assert [(x.layer.name, x.layer.shape, x.cores) for x in before.layers] == [
        (x.layer.name, x.layer.shape, x.cores) for x in trained.layers
    ]
    assert f"on loihi2: {shown.verdict(before)}" in quickstart.printed


def test_a_network_that_no_core_takes_is_written_when_asked(
    cli: Command, quickstart: Quickstart, tmp_path: Path
) -> None:
    """Cores of 500 axons in refuse the layer behind the flatten, by name and with the nearest that fits;
    with --no-fit the same file is written as for a chip that takes it."""
    text = (ROOT / "deploy" / "chips" / "loihi2.toml").read_text()
    small, out = tmp_path / "loihi2.toml", tmp_path / "small.net"
    small.write_text(text.replace("[capacity.axons_in]\nvalue = 16000", "[capacity.axons_in]\nvalue = 500"))
    options = ("fold-and-export", quickstart.model, "--chip", small, "-o", out, "--json", tmp_path / "small.json")
    cli(*options).refused("dense1: fan-in 1,024 exceeds 500 axons", "pool 2x2 before it (256)", "--no-fit")
    assert not out.exists() and not (tmp_path / "small.json").exists()
    done = cli(*options, "--no-fit").ok()
    assert (
        "does not fit loihi2: 1 layer cannot be placed" in done
        and "does not fit" in cli("fit", out, "--chip", small).out
    )
    assert json.loads((tmp_path / "small.json").read_text())["fit"]["fits"] is False
    chains = [netx.load(path) for path in (out, quickstart.net)]
    assert [layer.weight.tobytes() for layer in chains[0].layers] == [
        layer.weight.tobytes() for layer in chains[1].layers
    ]


def test_a_chip_in_a_folder_of_ones_own_is_known_by_name(
    cli: Command, quickstart: Quickstart, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exported for it, verified and reported; a name that ships, and one that is not the file's, are refused."""
    text = (ROOT / "deploy" / "chips" / "loihi2.toml").read_text()
    own, run = tmp_path / "chips", tmp_path / "run"
    own.mkdir()
    shutil.copytree(quickstart.folder, run)
    mine = own / "mine.toml"
    mine.write_text(text.replace('"loihi2"', '"mine"').replace("value = 4095", "value = 1024"))
    monkeypatch.setenv("SNN2CHIP_CHIPS", str(own))
    assert "fits mine" in cli("fold-and-export", run / "model.pt", "--chip", "mine").ok()
    assert "every exact rung holds" in cli("verify", run / "model.pt", run / "model.net", "--no-lava").ok()
    cli("report", run).ok()
    assert "fits mine" in (run / "report.html").read_text()
    mine.write_text(text)
    cli("fit", run / "model.net", "--chip", "mine").refused("name = 'loihi2', but the file is mine.toml")
    mine.rename(own / "loihi1.toml")
    cli("fit", run / "model.net").refused("has the name of a chip that ships")
    monkeypatch.delenv("SNN2CHIP_CHIPS")
    cli("verify", run / "model.pt", run / "model.net", "--no-lava").refused("unknown chip 'mine'", "SNN2CHIP_CHIPS")
    cli("report", run).ok()
    assert "profile is not in the folder SNN2CHIP_CHIPS" in (run / "report.html").read_text()
