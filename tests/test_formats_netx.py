"""model.net: what is written is read back whole, is laid out as stock netx wants it, and damage is named."""

from __future__ import annotations

import io
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from helpers import assert_equal, chains, rng_of, usually
from hypothesis import given, settings
from hypothesis import strategies as st

from snn2chip import ir
from snn2chip.errors import InputError, UnsupportedError
from snn2chip.formats import netx
from snn2chip.formats.netx import write
from snn2chip.hdf5 import FREE, PER_BYTE


def example() -> ir.Chain:
    """Input (2, 6, 5), conv with a bias per neuron, grouped conv with one per channel, flatten, dense."""
    rng = rng_of(1)
    first = ir.ChainLayer(
        "1",
        "conv",
        rng.integers(-127, 128, (4, 2, 3, 2)),
        rng.integers(-4095, 4096, (4, 3, 8)),
        (4, 3, 8),
        900,
        3072,
        4096,
        (2, 1),
        (1, 2),
        (1, 1),
        1,
        origin={"lif1": (0, 3), "relay": (3, 4)},
    )
    per_channel = np.broadcast_to(np.array([5, -6]).reshape(2, 1, 1), (2, 3, 6)).copy()
    second = ir.ChainLayer(
        "2",
        "conv",
        rng.integers(-127, 128, (2, 2, 1, 2)) * 2,
        per_channel,
        (2, 3, 6),
        131071,
        0,
        1,
        dilation=(1, 2),
        groups=2,
        origin={"lif2": (0, 2)},
    )
    third = ir.ChainLayer(
        "4", "dense", rng.integers(-127, 128, (3, 36)), np.array([7, 0, -8]), (3,), 1, 4096, flatten=True
    )
    return ir.Chain(
        (2, 6, 5),
        (2, 6, 5),
        "direct",
        255,
        0,
        255,
        (113, 120),
        4,
        "membrane",
        ("cat", "dog", "Ä'\"\\"),
        (first, second, third),
        {"snn2chip": "0.1.0", "scales": {"conv1": 30.5}, "list": [1, 2.5, None, True]},
    )


def test_relays_past_a_wide_dense_layer_are_read_back(tmp_path: Path) -> None:
    """So many zeros that a compressed file would hold them in a few kilobytes, as only a damaged one does: part of them
    is stored as it is, no more than a reader asks for."""
    side = 4100  # more values than a file of any size may claim
    weight = np.zeros((side, side), dtype=np.int64)
    np.fill_diagonal(weight, 90)
    layer = ir.ChainLayer("1", "dense", weight, np.zeros(side, dtype=np.int64), (side,), 60, 3072)
    last = ir.ChainLayer("2", "dense", np.ones((2, side), dtype=np.int64), np.zeros(2, dtype=np.int64), (2,), 131071, 0)
    port = (side,), (side,), "poisson", 1, 0, 1, (0,) * side
    netx.save(tmp_path / "wide.net", ir.Chain(*port, 2, "membrane", ("a", "b"), (layer, last), {}))
    read = netx.load(tmp_path / "wide.net").layers[0].weight
    assert np.array_equal(np.flatnonzero(read), np.arange(side) * (side + 1)) and (read.diagonal() == 90).all()
    assert side**2 - FREE < PER_BYTE * (tmp_path / "wide.net").stat().st_size < side**2


@settings(max_examples=usually(120), deadline=None)
@given(chain=chains())
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, chain: ir.Chain) -> None:
    """Saved and loaded, a chain is equal in every field."""
    path = tmp_path_factory.mktemp("net") / "model.net"
    netx.save(path, chain)
    assert_equal(netx.load(path), chain)


def test_round_trip_of_the_example(tmp_path: Path) -> None:
    """Names with quotes, origins in parts, JSON of every type; a second save changes no byte that matters."""
    netx.save(tmp_path / "a.net", example())
    assert_equal(netx.load(tmp_path / "a.net"), example())
    netx.save(tmp_path / "a.net", replace(example(), timesteps=9))
    assert netx.load(str(tmp_path / "a.net")).timesteps == 9
    assert [path.name for path in tmp_path.iterdir()] == ["a.net"]


NOTHING_LEFT = {"origin": {"lif1": (0, 4), "relay": (4, 4)}}  # a relay of 0 channels
REFUSED = {
    "nothing in it": (0, NOTHING_LEFT, "could not be read back: .*origin .* does not fit the 4 channels of 1"),
    "weights": (0, {"weight": np.full((4, 2, 3, 2), 255)}, "could not be read back: .*'weight' holds 255"),
    "bias": (1, {"bias": np.full((2, 3, 6), 5000)}, "could not be read back: .*'bias' holds 5000..5000, outside"),
    "shape": (1, {"shape": (2, 3, 7)}, "could not be read back: .*is not the"),
    "zeros": (2, {"weight": np.zeros((3, 36), dtype=int)}, r"layer 4 \(of no name\): every weight is 0, on which netx"),
    "wide": (0, {"bias": example().layers[0].bias + 0.5}, "what was read back differs: chain.layers.0.bias"),
    "number": (0, {"name": "7"}, "group '1' is missing"),
    "origin": (0, {"origin": {"lif1": (0, 3, 4)}}, "what was read back differs: chain.layers.0.origin"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_nothing_is_written_that_is_not_read_back(case: str, tmp_path: Path) -> None:
    """Refused or different: the old file stays, and nothing beside it."""
    place, changes, message = REFUSED[case]
    chain, path = example(), tmp_path / "a.net"
    netx.save(path, chain)
    old = path.read_bytes()
    layers = list(chain.layers)
    layers[place] = replace(layers[place], **changes)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=message) as caught:
        netx.save(path, replace(chain, layers=tuple(layers)))
    assert "part" not in str(caught.value)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [old]


def test_layout_is_what_stock_netx_reads(tmp_path: Path) -> None:
    """Group by group: keys, types and shapes, with shapes as (C, H, W) and biases per neuron as (W, H, C)."""
    chain = example()
    netx.save(tmp_path / "a.net", chain)
    with h5py.File(tmp_path / "a.net") as file:
        layers = file["layer"]
        assert sorted(layers) == ["0", "1", "2", "3", "4"]
        # netx takes `type` with value[0] or value[()] and decodes it: it must be bytes
        kinds = [layers[str(number)]["type"][0].decode("ascii") for number in range(5)]
        assert kinds == ["input", "conv", "conv", "flatten", "dense"]
        assert layers["0"]["shape"][()].tolist() == [2, 6, 5] and "neuron" not in layers["0"]
        assert layers["3"]["shape"][()].tolist() == [36]
        conv = {"type", "shape", "weight", "bias", "neuron", "stride", "padding", "dilation", "groups", "kernelSize"}
        conv |= {"inChannels", "outChannels"}
        assert set(layers["1"]) == set(layers["2"]) == conv
        assert set(layers["4"]) == {"type", "shape", "weight", "bias", "neuron"}
        for layer in chain.layers:
            group = layers[layer.name]
            assert group["shape"][()].tolist() == list(layer.shape)
            assert group["weight"].dtype == group["bias"].dtype == np.int32
            np.testing.assert_array_equal(group["weight"][()], layer.weight)
            neuron = group["neuron"]
            assert set(neuron) == {"type", "iDecay", "vDecay", "vThMant", "refDelay"}
            assert neuron["type"][0] == b"CUBA"
            for key, value in (
                ("iDecay", layer.current_decay),
                ("vDecay", layer.voltage_decay),
                ("vThMant", layer.threshold),
                ("refDelay", 1),
            ):
                assert neuron[key].shape == () and neuron[key].dtype.kind == "i" and neuron[key][()] == value
        first, second = layers["1"], layers["2"]
        assert first["bias"].shape == (8, 3, 4)
        np.testing.assert_array_equal(first["bias"][()], chain.layers[0].bias.transpose(2, 1, 0))
        assert second["bias"][()].tolist() == [5, -6]
        assert layers["4"]["bias"][()].tolist() == [7, 0, -8]
        assert [first[key][()].tolist() for key in ("stride", "padding", "dilation", "kernelSize")] == (
            [[2, 1], [1, 2], [1, 1], [3, 2]]
        )
        assert second["dilation"][()].tolist() == [1, 2]
        for key, value in (("groups", 2), ("inChannels", 4), ("outChannels", 2)):
            assert second[key].shape == () and second[key][()] == value
        own = dict(file["snn2chip"].attrs)
        assert own["timesteps"] == 4 and own["input_message_bits"] == 9
        assert own["input_center"].tolist() == [113, 120]


def test_message_bits_are_enough_for_the_port() -> None:
    """Signed messages hold the port's range and no bit more; binary spikes need none."""
    for center, high, bits in (
        ((128,), 255, 8),
        ((127,), 255, 9),
        ((0,), 1, 0),
        ((0,), 255, 9),
        ((255,), 255, 9),
        ((8,), 16, 5),
    ):
        chain = replace(example(), center=center, high=high)
        assert chain.message_bits == bits
        low, top = chain.port_range
        if bits:
            assert -(2 ** (bits - 1)) <= low.min() and top.max() <= 2 ** (bits - 1) - 1
            assert low.min() < -(2 ** (bits - 2)) or top.max() > 2 ** (bits - 2) - 1


# ----------------------------------------------------------------------------------------------------------- damage


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """A good file."""
    netx.save(tmp_path / "good.net", example())
    return tmp_path / "good.net"


def dataset(name: str, value: object) -> Callable[[h5py.File], None]:
    """Put a dataset in its place, or in another's."""

    def change(file: h5py.File) -> None:
        if name in file:
            del file[name]
        file[name] = value

    return change


def without(name: str) -> Callable[[h5py.File], None]:
    """Remove a group or dataset."""

    def change(file: h5py.File) -> None:
        del file[name]

    return change


def attribute(name: str, value: object) -> Callable[[h5py.File], None]:
    """Replace an attribute of our group."""

    def change(file: h5py.File) -> None:
        file["snn2chip"].attrs[name] = np.bytes_(value.encode()) if isinstance(value, str) else value

    return change


def no_attribute(name: str) -> Callable[[h5py.File], None]:
    """Remove an attribute of our group."""

    def change(file: h5py.File) -> None:
        del file["snn2chip"].attrs[name]

    return change


WRONG: list[tuple[str, Callable[[h5py.File], None], str]] = [
    ("no snn2chip", without("snn2chip"), r"no group 'snn2chip': not made by `snn2chip fold-and-export`"),
    ("no layers", without("layer"), r"group 'layer' is missing"),
    ("no input", without("layer/0"), r"group '0' is missing|group '4' is missing|'conv' before the input"),
    ("a layer less", without("layer/2"), r"group '2' is missing"),
    ("no neuron", without("layer/1/neuron"), r"layer/1: group 'neuron' is missing"),
    ("no threshold", without("layer/1/neuron/vThMant"), r"layer/1/neuron: 'vThMant' is missing"),
    ("no weight", without("layer/2/weight"), r"layer/2: 'weight' is missing"),
    ("no stride", without("layer/1/stride"), r"layer/1: 'stride' is missing"),
    ("no type", without("layer/1/type"), r"layer/1: 'type' is missing"),
    ("no shape", without("layer/4/shape"), r"layer/4: 'shape' is missing"),
    ("no flatten", dataset("layer/3/type", [b"input"]), r"layer/3: an input .* at place 3"),
    ("a pool", dataset("layer/1/type", [b"pool"]), r"layer/1: layer type 'pool'"),
    ("a number as type", dataset("layer/1/type", 5), r"layer/1: 'type'.*expected text"),
    ("an RF neuron", dataset("layer/1/neuron/type", b"RF"), r"layer/1/neuron: neuron type 'RF'"),
    ("weights as text", dataset("layer/1/weight", b"x"), r"layer/1: 'weight' is missing or not numbers"),
    ("weights of halves", dataset("layer/1/weight", np.full((4, 2, 3, 2), 0.5)), r"'weight' holds values that are not"),
    ("weights of NaN", dataset("layer/1/weight", np.full((4, 2, 3, 2), np.nan)), r"'weight' holds values that are not"),
    ("weights of 3 axes", dataset("layer/1/weight", np.ones((4, 2, 3))), r"layer/1: weights \(4, 2, 3\)"),
    ("weights transposed", dataset("layer/4/weight", np.ones((36, 3))), r"layer/4: weight of shape \(36, 3\)"),
    ("huge weights", dataset("layer/1/weight", np.full((4, 2, 3, 2), 2**40)), r"'weight' holds 1099511627776"),
    ("large weights", dataset("layer/1/weight", np.full((4, 2, 3, 2), 300)), r"layer/1: .*300.*-256\.\.254"),
    ("negative weights", dataset("layer/4/weight", np.full((3, 36), -257)), r"layer/4: .*-257.*-256\.\.254"),
    ("large biases", dataset("layer/1/bias", np.full(4, 4096)), r"layer/1: .*4096.*-4096\.\.4095"),
    ("huge biases", dataset("layer/4/bias", np.full(3, 2**31)), r"layer/4: .*2147483648"),
    ("bias transposed", dataset("layer/1/bias", np.zeros((4, 3, 8))), r"layer/1: bias of shape \(4, 3, 8\)"),
    ("a bias of 2 axes", dataset("layer/4/bias", np.zeros((3, 1))), r"layer/4: bias of shape \(3, 1\)"),
    ("another shape", dataset("layer/1/shape", [4, 3, 9]), r"layer/1: shape \(4, 3, 9\) is not the \(4, 3, 8\)"),
    ("shape as text", dataset("layer/0/shape", b"x"), r"layer/0: 'shape' is missing or not numbers"),
    ("shape of zeros", dataset("layer/0/shape", [2, 0, 5]), r"layer/0: shape \(2, 0, 5\); expected"),
    ("shape of 2 axes", dataset("layer/0/shape", [2, 6]), r"layer/0: .*shape \(2, 6\)|fit an input \(2, 6\)"),
    ("stride of 0", dataset("layer/1/stride", [0, 1]), r"layer/1: 'stride' is \[0, 1\]"),
    ("stride of 3", dataset("layer/1/stride", [1, 1, 1]), r"layer/1: 'stride'"),
    ("groups of 3", dataset("layer/2/groups", 3), r"layer/2: weights .* groups 3"),
    ("groups of 0", dataset("layer/2/groups", 0), r"layer/2: 'groups' is 0"),
    ("groups as list", dataset("layer/2/groups", [2, 2]), r"layer/2: 'groups'"),
    ("threshold of 18 bits", dataset("layer/1/neuron/vThMant", 2**17), r"'vThMant' is 131072; expected"),
    ("negative threshold", dataset("layer/1/neuron/vThMant", -1), r"'vThMant' is -1"),
    ("vDecay", dataset("layer/1/neuron/vDecay", 4097), r"'vDecay' is 4097"),
    ("iDecay", dataset("layer/1/neuron/iDecay", 0), r"'iDecay' is 0; expected one integer 1\.\.4096"),
    ("fractional decay", dataset("layer/1/neuron/vDecay", 3.5), r"'vDecay' holds values that are not integers"),
    ("delays", dataset("layer/4/delay", np.ones((3, 36), int)), r"layer/4: delays run in raw chip time only"),
    ("input neurons", lambda file: file.copy("layer/1/neuron", "layer/0/neuron"), r"layer/0: neurons of the input"),
    ("version", attribute("format_version", 99), r"format version 99, this snn2chip reads 1; update"),
    ("no timesteps", no_attribute("timesteps"), r"snn2chip: attribute 'timesteps' is missing"),
    ("timesteps of 0", attribute("timesteps", 0), r"timesteps 0 is outside"),
    ("timesteps as text", attribute("timesteps", "many"), r"good\.net"),
    ("half a timestep", attribute("timesteps", 4.5), r"attribute 'timesteps' is \[4\.5\]; expected integers"),
    ("imaginary timesteps", attribute("timesteps", 4 + 1j), r"attribute 'timesteps' is .*; expected integers"),
    ("timesteps twice", attribute("timesteps", np.array([4, 5])), r"attribute 'timesteps' is \[4, 5\]; expected"),
    ("half a center", attribute("input_center", np.array([0.5])), r"attribute 'input_center' is \[0\.5\]"),
    ("readout", attribute("readout", "loudest"), r"readout 'loudest'"),
    ("coding", attribute("coding", "phase"), r"coding 'phase'"),
    ("classes", attribute("classes", "not json"), r"good\.net"),
    ("classes as number", attribute("classes", "5"), r"good\.net"),
    ("classes as text", attribute("classes", '"abc"'), r"classes"),
    ("classes of numbers", attribute("classes", "[1, 2]"), r"classes"),
    ("made", attribute("made", "[]"), r"made"),
    ("origin", attribute("origin", "[]"), r"origin"),
    ("origin of text", attribute("origin", '{"1": {"lif": ["a", "b"]}}'), r"good\.net"),
    ("origin beyond", attribute("origin", '{"1": {"lif": [0, 5]}}'), r"origin"),
    ("center", attribute("input_center", [1, 2, 3]), r"input_center \(1, 2, 3\)"),
    ("center as text", attribute("input_center", "x"), r"good\.net"),
    ("center outside", attribute("input_center", [300, 0]), r"input_center"),
    ("raw shape", attribute("input_raw_shape", [3, 6, 5]), r"input_raw_shape \(3, 6, 5\)"),
    ("negative raw shape", attribute("input_raw_shape", [-2, -6, 5]), r"input_raw_shape"),
    ("low above high", attribute("input_low", 256), r"input_low 256"),
    ("high beyond 24 bits", attribute("input_high", 2**40), r"input_high"),
    ("pixel_max", attribute("pixel_max", 0), r"pixel_max 0"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG])
def test_what_is_wrong_is_named(good: Path, change: Callable[[h5py.File], None], message: str) -> None:
    """Each wrong group, dataset or attribute is refused in one line that names the file and the place."""
    with h5py.File(good, "r+") as file:
        change(file)
    with pytest.raises(InputError, match=message) as caught:
        netx.load(good)
    assert "good.net" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_odd_weights_beside_ones_beyond_127(good: Path) -> None:
    """Of both signs, in a dense layer: Lava would cut them; even ones, or 127, are read."""
    with h5py.File(good, "r+") as file:
        name = max(file["layer"], key=int)
        weight = file["layer"][name]["weight"][()]
        for large, other, taken in ((254, -2, True), (127, -1, True), (128, -1, False), (-254, 1, False)):
            weight[:] = large
            weight[0, 0] = other
            file["layer"][name]["weight"][...] = weight
            file.flush()
            if taken:
                assert netx.load(good).layers[-1].weight[0, 0] == other
                continue
            with pytest.raises(InputError, match="odd weights beside ones beyond 127"):
                netx.load(good)


def test_types_without_a_word_are_unsupported_errors(good: Path) -> None:
    """A pool is not damage: it is a layer netx has no word for."""
    with h5py.File(good, "r+") as file:
        dataset("layer/1/type", [b"pool"])(file)
    with pytest.raises(UnsupportedError, match="'pool'"):
        netx.load(good)


def test_missing_bias_and_other_number_types_are_read(good: Path) -> None:
    """As other exporters write them: no bias, floats that are whole, scalars for both axes, LOIHI neurons."""
    with h5py.File(good, "r+") as file:
        without("layer/4/bias")(file)
        dataset("layer/1/weight", example().layers[0].weight.astype(np.float32))(file)
        dataset("layer/2/stride", 1)(file)
        dataset("layer/2/neuron/type", b"LOIHI")(file)
        dataset("layer/1/neuron/vThMant", np.array([900.0]))(file)
        dataset("layer/1/type", np.bytes_("conv"))(file)
    last = replace(example().layers[2], bias=np.zeros(3, dtype=np.int64))
    assert_equal(netx.load(good), replace(example(), layers=(*example().layers[:2], last)))


def test_files_that_are_none(tmp_path: Path) -> None:
    """Missing, a folder, text, an empty file: one line each."""
    with pytest.raises(InputError, match=r"cannot read '.*none\.net': no such file"):
        netx.load(tmp_path / "none.net")
    with pytest.raises(InputError, match="a folder"):
        netx.load(tmp_path)
    for content in (b"", b"not HDF5 at all" * 100, b"\x89HDF\r\n\x1a\n"):
        (tmp_path / "x.net").write_bytes(content)
        with pytest.raises(InputError, match=r"x\.net' is damaged or not an HDF5 file"):
            netx.load(tmp_path / "x.net")


def test_a_file_cannot_be_written_where_it_has_no_place(tmp_path: Path, good: Path) -> None:
    """A folder of that name, or a file where a folder is needed: named, and nothing is left behind."""
    (tmp_path / "folder.net").mkdir()
    with pytest.raises(InputError, match=r"folder\.net.*it is a folder"):
        netx.save(tmp_path / "folder.net", example())
    with pytest.raises(InputError, match=r"cannot write"):
        netx.save(good / "inside.net", example())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.net", "good.net"]


@settings(max_examples=usually(30), deadline=None)
@given(
    st.tuples(st.integers(1, 30), st.integers(1, 30)),
    st.sampled_from([(), (1, 1), (3, 2)]),
    st.integers(1, 200),
    st.sampled_from([-(2**40), 0, 2**40]),
    st.integers(0, 2**32 - 1),
)
def test_weights_deflated_in_pieces_are_those_of_the_filter(
    sides: tuple[int, int], kernel: tuple[int, ...], chunk: int, room: int, seed: int
) -> None:
    """HDF5 reads them as written, whatever of the array a chunk holds, deflated or as it is; a reader need not look
    into a chunk."""
    weights = np.random.default_rng(seed).integers(-256, 255, (*sides, *kernel))
    memory = io.BytesIO()
    with pytest.MonkeyPatch.context() as patch, h5py.File(memory, "w") as file:
        patch.setattr(write, "_CHUNK", chunk)
        made = write._deflated(file, "weight", weights, write._Room(room))
        assert made.compression == "gzip" and math.prod(made.chunks) <= max(chunk, math.prod(kernel))
    with h5py.File(memory, "r") as file:
        assert file["weight"].dtype == np.int32
        np.testing.assert_array_equal(file["weight"][()], weights)


@settings(max_examples=usually(60), deadline=None)
@given(text=st.text(max_size=30))
def test_any_class_name_survives(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    """Class names are whatever people call things."""
    path = tmp_path_factory.mktemp("net") / "a.net"
    netx.save(path, replace(example(), classes=(text, "other")))
    assert netx.load(path).classes == (text, "other")


def test_a_copy_elsewhere_is_the_same_network(good: Path, tmp_path: Path) -> None:
    """The file needs nothing beside it."""
    (tmp_path / "deep").mkdir()
    copied = shutil.copy(good, tmp_path / "deep" / "x.net")
    assert_equal(netx.load(copied), example())
