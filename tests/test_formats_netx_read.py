"""netx files from anywhere: what is read, what is refused, and that raw chip time is Lava's."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import h5py
import lava_dl_networks as lava_dl
import numpy as np
import pytest
from foreign import Foreign, plainly, random_network, spread_constants
from helpers import usually
from hypothesis import given, settings
from hypothesis import strategies as st

from snn2chip import cli
from snn2chip.backends import lava
from snn2chip.errors import InputError, UnsupportedError
from snn2chip.formats import netx
from snn2chip.formats.netx import read
from snn2chip.formats.netx.fields import spread_bias
from snn2chip.formats.netx.weights import load_dense
from snn2chip.ir import Chain, ChainLayer
from snn2chip.ir.netlist import Netlist
from snn2chip.simulate.chip_time import ChipEngine, check_input


def drawn(seed: int, path: Path, *, spread: bool = False) -> Foreign:
    """The network of a seed, maybe with decays and thresholds that differ by neuron; written over the last one's."""
    path.unlink(missing_ok=True)
    rng = np.random.default_rng(seed)
    made = random_network(rng, path)
    if spread:
        spread_constants(rng, path)
    return made


# ------------------------------------------------------------------------------------------ arithmetic


@settings(max_examples=usually(40), deadline=None)
@given(seed=st.integers(0, 2**32), spread=st.booleans(), cuts=st.lists(st.floats(0, 1), max_size=3))
def test_chip_time_is_one_step_after_another(
    seed: int, spread: bool, cuts: list[float], tmp_path_factory: pytest.TempPathFactory
) -> None:
    made = drawn(seed, tmp_path_factory.getbasetemp() / "random.net", spread=spread)
    try:
        net = read.load(made.path, message_bits=made.message_bits)
    except UnsupportedError as error:
        assert "of one sign" in str(error) or "rounds every sum" in str(error)  # what Lava does there is not linear
        return
    made = Foreign(made.path, made.stream[:30], made.message_bits, made.reset_interval, made.reset_offset)
    expected = plainly(net, made)
    engine = ChipEngine(net, reset_interval=made.reset_interval, reset_offset=made.reset_offset)
    places = sorted({0, len(made.stream), *(int(cut * len(made.stream)) for cut in cuts)})
    parts = [engine.run(made.stream[a:b]) for a, b in pairwise(places)]
    for layer in net.layers:
        for index, kind in enumerate(("current", "voltage", "spikes")):
            found = np.concatenate([getattr(part, kind)[layer.name] for part in parts])
            wanted = np.stack([step[index] for step in expected[layer.name]])
            np.testing.assert_array_equal(found, wanted, f"{kind} of layer {layer.name}")


@pytest.mark.lava
@pytest.mark.usefixtures("lava_environment")
@pytest.mark.parametrize(
    ("seeds", "spread"), [((1, 4, 7, 8, 11, 12), False), ((0, 1, 2, 3, 11, 24), True)], ids=["shared", "by neuron"]
)
@pytest.mark.parametrize("place", range(6))
def test_random_networks_in_lava(seeds: tuple[int, ...], spread: bool, place: int, tmp_path: Path) -> None:
    """With a decay and a threshold for all, or one for each neuron."""
    made = drawn(seeds[place], tmp_path / "random.net", spread=spread)
    net = read.load(made.path, message_bits=made.message_bits)
    if spread:
        for name in ("threshold", "voltage_decay", "current_decay"):
            assert any(isinstance(getattr(layer, name), np.ndarray) for layer in net.layers)
    as_in_lava(made, net, tmp_path)


@pytest.mark.lava
@pytest.mark.usefixtures("lava_environment")
def test_a_convolution_that_comes_first(tmp_path: Path) -> None:
    """netx has to be told what comes in, and so have we; then both do the same."""
    made = drawn(1, tmp_path / "random.net")
    with h5py.File(made.path, "a") as file:
        layers = file["layer"]
        assert layers["1/type"][()].flat[0] == b"conv"
        del layers["0"]
        for number in range(1, len(layers) + 1):
            layers.move(str(number), str(number - 1))
    shape = made.stream.shape[1:]
    made = replace(made, stream=made.stream % 2, message_bits=0)
    with pytest.raises(InputError, match="no input layer says what comes in; give --input-shape C,H,W"):
        read.load(made.path)
    as_in_lava(made, read.load(made.path, input_shape=shape), tmp_path, input_shape=shape)


def as_in_lava(made: Foreign, net: Netlist, folder: Path, input_shape: tuple[int, ...] = ()) -> None:
    """Every value of every layer and step."""
    engine = ChipEngine(net, reset_interval=made.reset_interval, reset_offset=made.reset_offset)
    trace = engine.run(made.stream)
    np.savez(folder / "input.npz", input=made.stream)
    lava.run_chip_clock(
        made.path,
        folder / "input.npz",
        folder / "lava.npz",
        message_bits=made.message_bits,
        reset_interval=made.reset_interval,
        reset_offset=made.reset_offset,
        input_shape=input_shape,
        progress=False,
    )
    with np.load(folder / "lava.npz") as arrays:
        for layer in net.layers:
            for kind in ("current", "voltage", "spikes"):
                np.testing.assert_array_equal(
                    getattr(trace, kind)[layer.name],
                    arrays[f"{kind}/{layer.name}"][0],
                    f"{kind} of layer {layer.name} ({layer.kind})",
                )


# ------------------------------------------------------------------------------------ lava-dl's own networks


@pytest.mark.lava
@pytest.mark.usefixtures("lava_environment")
@pytest.mark.parametrize("known", lava_dl.NETWORKS, ids=lambda known: known.name)
def test_recorded(known: lava_dl.Known) -> None:
    rows = list(lava_dl.against_recording(known, lava_dl.folder()))
    assert len(rows) == {"tiny.net": 1, "ntidigits": 1, "pilotnet_lif": 6, "mnist.net": 0}[known.name]
    for row in rows:
        if row.what != "u, v of the last layer":  # whose recording contradicts that of the layer before it
            assert row.differ == 0, row
            assert row.values > 25_000


@pytest.mark.lava
@pytest.mark.usefixtures("lava_environment")
@pytest.mark.parametrize(
    ("name", "steps"), [("tiny.net", 20), ("mnist.net", 40), ("ntidigits", 70), ("pilotnet_lif", 4)]
)
def test_lava_dl_networks_in_lava(name: str, steps: int) -> None:
    (known,) = (known for known in lava_dl.NETWORKS if known.name == name)
    row = lava_dl.against_lava(known, lava_dl.folder(), steps)
    assert row.differ == 0, row
    assert row.steps == steps


# ---------------------------------------------------------------------------------------------- refusals


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A dense layer and a readout, by hand."""
    path = tmp_path / "plain.net"
    with h5py.File(path, "w") as file:
        for number, shape in ((1, (5, 4)), (2, (3, 5))):
            group = file.create_group(f"layer/{number}")
            group["type"] = np.array([b"dense"])
            group["shape"] = np.array(shape[:1])
            group["weight"] = np.arange(1, 1 + shape[0] * shape[1]).reshape(shape) - 9
            made = group.create_group("neuron")
            made["type"] = "CUBA"
            for name, value in (("iDecay", 4096), ("vDecay", 1024), ("vThMant", 80)):
                made[name] = value
        first = file.create_group("layer/0")
        first["type"], first["shape"] = np.array([b"input"]), np.array([4])
    return path


def put(place: str, value: object) -> Callable[[h5py.File], None]:
    """A change that writes a dataset over another."""

    def change(file: h5py.File) -> None:
        if place in file:
            del file[place]
        file[place] = value

    return change


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        (put("layer/2/type", np.array([b"pool"])), UnsupportedError, "'pool' is not one that netx runs; --layers 2"),
        (put("layer/1/type", np.array([b"concat"])), UnsupportedError, "'concat' is not one that netx runs"),
        (put("layer/1/neuron/type", "SDNN"), UnsupportedError, "neuron type 'SDNN' is not run in chip time"),
        (put("layer/1/neuron/type", np.array([b"RF_PHASE"])), UnsupportedError, "'RF_PHASE' is not run"),
        (put("layer/1/delay", np.array([-1])), InputError, "a delay of -1"),
        (put("layer/1/delay", np.zeros(7, int)), InputError, "delays of shape (7,) fit neither (5, 4)"),
        (put("layer/1/neuron/iDecay", 5000), InputError, "'iDecay' is 5000; expected one integer 0..4096"),
        (put("layer/1/weight", np.full((5, 4), 0.5)), InputError, "'weight' holds values that are not integers"),
        (put("layer/1/weight", np.ones((5, 3))), InputError, "weight of shape (5, 3); (5, 4) fits"),
        (put("layer/1/weight", np.full((5, 4), 300)), UnsupportedError, "300..300 of one sign exceed 255"),
        (put("layer/1/bias", np.ones(4, int)), InputError, "bias of shape (4,)"),
        (put("layer/1/neuron/iDecay", np.ones(4, int)), InputError, "'iDecay' of shape (4,) does not spread over (5,)"),
        (put("layer/1/neuron/iDecay", np.arange(5) * 1025), InputError, "'iDecay' holds 0..4100, outside 0..4096"),
        (put("layer/1/neuron/iDecay", np.arange(5, dtype="u2")), UnsupportedError, "stored as uint16, in which netx's"),
        (put("layer/1/neuron/iDecay", np.uint16(0)), UnsupportedError, "'iDecay' is stored as uint16, in which netx's"),
        (put("layer/1/neuron/vThMant", np.full(5, 600, "i2")), UnsupportedError, "'vThMant' is stored as int16, in"),
        (put("layer/1", h5py.SoftLink("/layer/2")), InputError, "'1' is a link to somewhere else"),
        (put("layer/1", h5py.ExternalLink("other.net", "/layer/1")), InputError, "'1' is a link to somewhere else"),
        (put("layer/0/shape", np.array([4, 4])), InputError, "expected (C, H, W) or (features,)"),
    ],
)
def test_refused_by_name(plain: Path, change: Callable[[h5py.File], None], kind: type[Exception], words: str) -> None:
    read.load(plain)
    with h5py.File(plain, "a") as file:
        change(file)
    with pytest.raises(kind, match=re.escape(words)) as caught:
        read.load(plain)
    assert str(plain) in str(caught.value)


@pytest.mark.parametrize(
    ("bias", "shape", "fits"),
    [
        ((5,), (5,), True),
        ((1,), (5,), True),
        ((), (5,), True),
        ((1, 1, 5), (5,), True),
        ((2, 5), (5,), False),
        ((4,), (5,), False),
        ((3,), (2, 4, 3), True),
        ((2, 4, 3), (2, 4, 3), True),
        ((1, 2, 4, 3), (2, 4, 3), False),
        ((1, 2, 4, 1), (2, 4, 1), True),
        ((3, 3), (2, 3, 3), True),
        ((1,), (2, 4, 3), False),
        ((), (2, 4, 3), False),
        ((3, 4, 2), (2, 4, 3), False),
    ],
)
def test_a_bias_is_spread_as_lava_does(bias: tuple[int, ...], shape: tuple[int, ...], fits: bool) -> None:
    """Which it takes was read off stock netx in Lava; test_report_show.py compares more of them with it."""
    values = np.arange(math.prod(bias)).reshape(bias)
    spread = spread_bias(values, shape)
    assert (spread is not None) == fits
    if spread is not None:
        assert (spread == np.zeros(shape, int) + values.reshape(bias[-len(shape) :])).all()


def test_what_netx_changes_is_noted(plain: Path) -> None:
    assert read.load(plain).notes == ()
    with h5py.File(plain, "a") as file:
        put("layer/1/weight", np.array([[300, -300, 5, 6]] * 5))(file)
        put("layer/2/delay", np.array([70, 1, -2]))(file)
        put("layer/2/bias", np.array([5000, 1, 2]))(file)
    net = read.load(plain)
    first, second = net.layers
    assert first.weight is not None and first.weight[0].tolist() == [254, -256, 5, 6]
    assert second.delay is not None and second.delay[:, 0].tolist() == [62, 1, 0]
    assert [note.split(": ", 1)[1] for note in net.notes] == [
        "10 weights outside -256..254 (-300..300): netx clips them",
        "1 biases outside the chip's -4096..4095",
        "2 delays outside 0..62 (-2..70): netx clamps them",
    ]


def test_weights_of_one_sign_beyond_8_bits() -> None:
    """netx would shift them by a negative number of bits: refused, up to 255 taken."""
    assert load_dense((np.array([[255, 1]]),), "here").weights[0].tolist() == [[255, 1]]
    for weights in ([[256, 1]], [[-300, -1]]):
        with pytest.raises(UnsupportedError, match=r"^here: weights .* of one sign exceed 255"):
            load_dense((np.array(weights),), "here")


def test_what_netx_cannot_load(plain: Path) -> None:
    with h5py.File(plain, "a") as file:
        put("layer/1/weight", np.zeros((5, 4)))(file)
        put("layer/2/neuron/messageBits", 16)(file)
    refused = read.load(plain).refused
    assert len(refused) == 2
    assert "every weight is 0" in refused[0]
    assert "messageBits" in refused[1]


@pytest.mark.lava
@pytest.mark.usefixtures("lava_environment")
@pytest.mark.parametrize("place", [("layer/1/weight", np.zeros((5, 4))), ("layer/2/neuron/messageBits", 16)])
def test_lava_cannot_load_it_either(plain: Path, tmp_path: Path, place: tuple[str, object]) -> None:
    with h5py.File(plain, "a") as file:
        put(*place)(file)
    np.savez(tmp_path / "input.npz", input=np.ones((2, 4), int))
    with pytest.raises(InputError, match=r"netx cannot load|Lava failed"):
        lava.run_chip_clock(plain, tmp_path / "input.npz", tmp_path / "out.npz", progress=False)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.ones((2, 3)), "has shape (2, 3); chip time takes one stream (T, 4)"),
        (np.ones((2, 2, 4), int), "chip time takes one stream"),
        (np.ones((2, 4)), "is float64; expected integers"),
        (np.full((2, 4), 2), "values 2..2 exceed 0..1"),
    ],
)
def test_input_that_does_not_fit(plain: Path, values: np.ndarray, words: str) -> None:
    with pytest.raises(InputError, match=re.escape(words)):
        check_input(values, read.load(plain))


def test_input_of_a_network_driven_by_bias(plain: Path) -> None:
    with h5py.File(plain, "a") as file:
        file.copy("layer/1/neuron", "layer/0/neuron")
        put("layer/0/weight", np.array([40.0]))(file)
        put("layer/0/bias", np.array([-36.0]))(file)
    net = read.load(plain)
    stream = check_input(np.array([[0.0, 1.0, 0.5, 0.89]]), net)
    assert stream.tolist() == [[-36, 4, -16, 0]]  # toward zero
    with pytest.raises(InputError, match=r"bias mantissas 5000\.\.5000 exceed -4096\.\.4095"):
        check_input(np.full((1, 4), 5000), net)


@pytest.fixture
def chain_of() -> Callable[[np.ndarray], Chain]:
    """A chain of one dense layer."""

    def make(weight: np.ndarray) -> Chain:
        out, inputs = weight.shape
        layer = ChainLayer("1", "dense", weight, np.zeros(out, np.int64), (out,), 100, 1024)
        return Chain((inputs,), (inputs,), "direct", 1, 0, 1, (0,), 2, "membrane", ("a",), (layer,))

    return make


# ----------------------------------------------------------------------------------------------- commands


def test_any_file_in_raw_chip_time(plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "in.npz", input=np.ones((150, 4), int))
    command = ["chip", str(plain), "--input", str(tmp_path / "in.npz")]
    with pytest.raises(SystemExit) as left:
        cli.main([*command, "--output", str(tmp_path / "out.npz")])
    assert left.value.code == 0, capsys.readouterr().err
    with np.load(tmp_path / "out.npz") as arrays:
        assert {name: array.shape for name, array in arrays.items() if name.startswith("v")} == {
            "voltage/1": (1, 150, 5),
            "voltage/2": (1, 150, 3),
        }
        whole = ChipEngine(read.load(plain)).run(np.ones((150, 4), np.int64))
        np.testing.assert_array_equal(arrays["voltage/2"][0], whole.voltage["2"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["simulate", "NET"], "--clock chip"),
        (["simulate", "NET", "--layers", "2"], "No such option"),
        (["simulate", "NET", "--clock", "chip"], "snn2chip chip NET --input FILE.npz"),
        (["simulate", "NET", "--clock=chip", "--layers", "2"], "snn2chip chip NET --input FILE.npz"),
        (["simulate", "NET", "--data-dir", "x"], "it is --data DIR now, and --dataset names a data set"),
        (["export", "NET", "--layers", "2"], "--layers belongs to --clock chip"),
        (["export", "NET", "--input-shape", "1,2,3"], "--input-shape belongs to --clock chip"),
        (["chip", "NET", "--input", "NET", "--input-shape", "1,-2,3"], "--input-shape '1,-2,3': expected channels"),
        (["chip", "NET", "--input", "NET", "--input-shape", "9"], "--input-shape '9': expected channels, height"),
        (["chip", "NET"], "Missing option '--input'"),
        (["chip", "NET", "--layers", "9", "--input", "NET"], "9 layers asked for"),
    ],
)
def test_commands_say_what_is_missing(
    plain: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main([str(plain) if word == "NET" else word for word in arguments])
    assert left.value.code == 2
    assert words in capsys.readouterr().err.replace("\n", " ")


def test_weights_that_lava_would_change_are_not_written(
    tmp_path: Path, chain_of: Callable[[np.ndarray], Chain]
) -> None:
    netx.save(tmp_path / "fine.net", chain_of(np.array([[-127, -3], [-5, -1]])))
    for weight, words in (
        (np.array([[-128, -3], [-5, -2]]), "-128 becomes -127"),
        (np.array([[-1, 0]]), "rounds every sum"),
        (np.array([[300, 5]]), "one sign"),
    ):
        with pytest.raises(UnsupportedError, match=words):
            netx.save(tmp_path / "changed.net", chain_of(weight))
        assert not (tmp_path / "changed.net").exists()
