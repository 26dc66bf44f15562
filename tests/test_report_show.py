"""`snn2chip show`: every warning on a file made for it, what stock netx does with it, damage, lava-dl's own files."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import ROOT, Command, run_in_process
from fuzz_hdf5 import mutate
from helpers import usually
from hypothesis import given, settings
from hypothesis import strategies as st
from stock_netx import Job, odd_network, verdicts

from snn2chip import chip as chips
from snn2chip.backends import lava
from snn2chip.errors import InputError
from snn2chip.formats.netx import read
from snn2chip.ir.netlist import ChipLayer, Netlist
from snn2chip.report import findings, show
from snn2chip.simulate import chip_time

LOIHI2 = chips.load("loihi2")
Change = Callable[[h5py.File], None]


def neuron(group: h5py.Group, **numbers: Any) -> None:
    made = group.create_group("neuron")
    made["type"] = np.array([b"CUBA"])
    for name, value in {"iDecay": 4096, "vDecay": 1024, "vThMant": 60, "refDelay": 1, **numbers}.items():
        made[name] = value


def write_clean(file: h5py.File) -> None:
    """Two channels of 4 x 4 spikes, a convolution, a flatten, two dense layers: nothing to warn of."""
    rng = np.random.default_rng(5)
    layers = file.create_group("layer")
    for number, kind, shape in (
        *((0, b"input", (2, 4, 4)), (1, b"conv", (3, 4, 4)), (2, b"flatten", (48,)), (3, b"dense", (5,))),
        (4, b"dense", (2,)),
    ):
        group = layers.create_group(str(number))
        group["type"] = np.array([kind])
        group["shape"] = np.array(shape)
    conv = layers["1"]
    conv["weight"] = np.abs(rng.integers(-50, 51, (3, 2, 3, 3))) * np.where(np.arange(18).reshape(2, 3, 3) % 3, 1, -1)
    conv["bias"] = np.array([-2, 3, 4])
    for name, value in (("stride", 1), ("padding", 1), ("dilation", 1)):
        conv[name] = np.array([value, value])
    conv["groups"] = 1
    layers["3"]["weight"] = rng.integers(1, 60, (5, 48)) * np.where(np.arange(48) % 2, 1, -1)
    layers["4"]["weight"] = np.array([[60, -61, 62, 40, -7], [-50, 51, -52, 53, 127]])
    for number in (1, 3, 4):
        neuron(layers[str(number)])


def written(path: Path, *changes: Change) -> Path:
    with h5py.File(path, "w") as file:
        write_clean(file)
        for change in changes:
            change(file)
    return path


def put(name: str, value: Any) -> Change:
    """A dataset in the place of another, by its path under layer/."""

    def change(file: h5py.File) -> None:
        if name in file["layer"]:
            del file["layer"][name]
        file["layer"][name] = value

    return change


def drop(name: str) -> Change:
    def change(file: h5py.File) -> None:
        del file["layer"][name]

    return change


def weights(number: int, *values: tuple[tuple[int, ...], float]) -> Change:
    """Some weights of a layer changed: (place, value)."""

    def change(file: h5py.File) -> None:
        array = file["layer"][str(number)]["weight"][()].astype(np.float32)
        for place, value in values:
            array[place] = value
        put(f"{number}/weight", array)(file)

    return change


def filled(number: int, value: int) -> Change:
    def change(file: h5py.File) -> None:
        put(f"{number}/weight", np.full(file["layer"][str(number)]["weight"].shape, value))(file)

    return change


def recurrent(file: h5py.File) -> None:
    put("3/type", np.array([b"dense_rec"]))(file)
    put("3/weight_rec", np.eye(5, dtype=np.int32) * 9)(file)
    put("3/delay", np.arange(5))(file)


def moved(*names: tuple[str, str]) -> Change:
    def change(file: h5py.File) -> None:
        for old, new in names:
            file["layer"].move(old, new)

    return change


def large(file: h5py.File) -> None:
    """So many inputs of the first dense layer that their sum wraps."""
    for name, shape in (("0", (2, 40, 40)), ("1", (3, 40, 40)), ("2", (4800,))):
        put(f"{name}/shape", shape)(file)
    put("3/weight", np.full((5, 4800), 100))(file)


INHIBITORY = np.array([[0, -21, -41, -61, -81], [-101, -121, -141, -161, -181]])
ONE_INHIBITED = 40 * np.eye(5, 48) * (np.arange(5) > 0)[:, None] - 1


def flat_again(file: h5py.File) -> None:
    file["layer"].copy("2", "3")


def driven(file: h5py.File) -> None:
    neuron(file["layer"]["0"])
    put("0/weight", np.array([0.0]))(file)


# name: (layer, kind of finding, words of it, whether stock netx refuses the file, changes)
CASES: dict[str, tuple[str, str, str, bool, tuple[Change, ...]]] = {
    "dense weight clipped": ("4", "changed", "netx clips", False, (weights(4, ((0, 0), 300)),)),
    "conv weight beyond the chip": ("1", "register", "Lava computes", False, (weights(1, ((0, 0, 0, 0), -300)),)),
    "odd weights beyond 127": ("4", "register", "odd values", False, (weights(4, ((0, 0), 200)),)),
    "odd weights in a convolution": ("1", "register", "odd values", False, (weights(1, ((0, 0, 0, 0), -201)),)),
    "dense all zero": ("4", "fails", "every weight is 0", True, (filled(4, 0),)),
    "conv all zero": ("1", "idle", "every weight is 0", False, (filled(1, 0),)),
    "one sign, shifted": ("4", "changed", "of one sign", False, (put("4/weight", INHIBITORY),)),
    "one sign, too large": ("4", "refused", "one sign", False, (filled(4, 300),)),
    "fractions of weights": ("1", "changed", "not integers", False, (weights(1, ((0, 0, 0, 0), 2.5)),)),
    "fractions of biases": ("1", "changed", "'bias' are not integers", False, (put("1/bias", np.array([0.5, 1, 2])),)),
    "weights that are not numbers": ("1", "refused", "not numbers", False, (weights(1, ((0, 0, 0, 0), np.nan)),)),
    "bias beyond 13 bits": ("1", "register", "biases outside -4096..4095", False, (put("1/bias", [0, 1, -5000]),)),
    "threshold beyond 17 bits": ("3", "register", "vThMant 140000", False, (put("3/neuron/vThMant", 140000),)),
    "iDecay too large": ("3", "register", "iDecay 4097", False, (put("3/neuron/iDecay", 4097),)),
    "iDecay 0": ("3", "register", "iDecay 0", False, (put("3/neuron/iDecay", 0),)),
    "vDecay too large": ("3", "register", "vDecay 4096", False, (put("3/neuron/vDecay", 4096),)),
    "vDecay negative": ("3", "register", "vDecay -1", False, (put("3/neuron/vDecay", -1),)),
    "delays clamped": ("3", "changed", "netx clamps", False, (put("3/delay", np.array([0, 1, 2, 3, 80])),)),
    "delays of a convolution": ("1", "changed", "netx ignores", False, (put("1/delay", np.array([1])),)),
    "refDelay": ("3", "changed", "refDelay 2", False, (put("3/neuron/refDelay", 2),)),
    "wgtExp": ("3", "changed", "wgtExp 1", False, (put("3/neuron/wgtExp", 1),)),
    "messageBits": ("3", "fails", "messageBits", True, (put("3/neuron/messageBits", 8),)),
    "no neuron": ("4", "changed", "never decays", False, (drop("4/neuron"),)),
    "no neuron, sums that gather": ("4", "overflow", "iDecay 0", False, (drop("4/neuron"),)),
    "sums wrap": ("3", "overflow", "the current wraps", False, (large,)),
    "slow currents wrap": ("3", "overflow", "iDecay 4", False, (put("3/neuron/iDecay", 4),)),
    "voltages clip": ("3", "overflow", "vDecay 0", False, (put("3/neuron/vDecay", 0),)),
    "none can fire": ("3", "idle", "no neuron can ever fire", False, (put("3/neuron/vThMant", 100000),)),
    "some cannot fire": ("3", "firing", "1 of 5 neurons can never fire", False, (put("3/weight", ONE_INHIBITED),)),
    "always fire": ("3", "firing", "fire at every step", False, (put("3/bias", np.full(5, 4000)),)),
    "bias fires": ("3", "firing", "from its bias alone", False, (put("3/bias", np.full(5, 16)),)),
    "data count for nothing": ("0", "idle", "weight 0", False, (driven,)),
    "flat already": ("3", "idle", "flat already", False, (moved(("4", "5"), ("3", "4")), flat_again)),
    "pool": ("2", "fails", "'pool'", True, (put("2/type", np.array([b"pool"])),)),
    "average": ("4", "fails", "'average'", True, (put("4/type", np.array([b"average"])),)),
    "unknown layer": ("2", "changed", "leaves the layer out", True, (put("2/type", np.array([b"noise"])),)),
    "SDNN": ("3", "refused", "sigma-delta", False, (put("3/neuron/type", np.array([b"SDNN"])),)),
    "RF": ("3", "refused", "torch half", False, (put("3/neuron/type", np.array([b"RF_PHASE"])),)),
    "unknown neuron": ("3", "fails", "'ALIF'", True, (put("3/neuron/type", np.array([b"ALIF"])),)),
    "tables over time": ("3", "fails", "SNN2CHIP_STEPS", True, (put("3/neuron/type", np.array([b"SNN2CHIP_STEPS"])),)),
    "no weight": ("3", "fails", "no weight", True, (drop("3/weight"),)),
    "no stride": ("1", "fails", "no stride", True, (drop("1/stride"),)),
    "no vThMant": ("3", "fails", "neuron/vThMant", True, (drop("3/neuron/vThMant"),)),
    "no type": ("3", "fails", "no type", True, (drop("3/type"),)),
    "no group": ("", "fails", "layer/3", True, (moved(("3", "7")),)),
    "wrong shape of a convolution": ("1", "fails", "not the (3, 4, 4)", True, (put("1/shape", np.array([3, 5, 4])),)),
    "wrong channels": ("1", "fails", "do not fit an input", True, (put("0/shape", np.array([4, 4, 4])),)),
    "wrong features": ("3", "fails", "fits what comes in", True, (put("3/weight", np.ones((5, 40))),)),
    "wrong rows": ("3", "fails", "fits what comes in", True, (put("3/shape", np.array([6])),)),
    "wrong bias": ("1", "fails", "bias of shape", True, (put("1/bias", np.arange(5)),)),
    "flatten missing": ("2", "fails", "flatten is missing", True, (drop("2"), moved(("3", "2"), ("4", "3")))),
    "negative delay": ("3", "fails", "a delay of -1", True, (put("3/delay", np.array([0, 1, 2, 3, -1])),)),
    "delays of a recurrent layer": ("3", "fails", "of a recurrent layer", True, (recurrent,)),
    "a weight beyond all": ("1", "refused", "not simulated beyond", False, (weights(1, ((0, 0, 0, 0), 40000)),)),
}  # fmt: skip

RUN = ("messageBits", "wrong channels")  # stock netx makes these networks, and fails when they run


def found(shown: show.Description, kind: str | None = None) -> list[tuple[str, str, str]]:
    return [(layer, x.kind, x.text) for layer, x in shown.all_findings if kind in (None, x.kind)]


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("clean") / "clean.net")


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The zoo's digits network, exported."""
    net = tmp_path_factory.mktemp("digits") / "digits.net"
    run_in_process("fold-and-export", ROOT / "models" / "digits-tdbn" / "model.pt", "-o", net).ok()
    return net


# ------------------------------------------------------------------------------------------------------- findings


def test_a_clean_file_has_no_findings(clean: Path) -> None:
    """Nothing is said of a file with nothing wrong, and both netx and the simulator take it."""
    shown = show.describe(clean, LOIHI2)
    assert found(shown) == []
    assert shown.runs["stock netx"] == shown.runs["chip"] == ""
    assert "no group 'snn2chip'" in shown.runs["simulate"]


@pytest.mark.parametrize("name", CASES)
def test_each_warning_on_the_file_made_for_it(name: str, tmp_path: Path) -> None:
    """The finding stands at its layer, in its words, and only what stock netx fails on is called so."""
    layer, kind, words, fails, changes = CASES[name]
    shown = show.describe(written(tmp_path / "x.net", *changes), LOIHI2)
    assert any(at == layer and what == kind and words in text for at, what, text in found(shown)), found(shown)
    assert bool(shown.runs["stock netx"]) == fails
    assert bool(found(shown, "fails")) == fails


@pytest.mark.parametrize("name", CASES)
def test_the_simulator_takes_what_show_says_it_takes(name: str, tmp_path: Path) -> None:
    """What the header says about `chip` is what `read.load` does."""
    path = written(tmp_path / "x.net", *CASES[name][4])
    shown = show.describe(path, LOIHI2)
    if shown.runs["chip"]:
        with pytest.raises(InputError) as refused:
            read.load(path)
        assert shown.runs["chip"] in str(refused.value)
        assert found(shown)
    else:
        read.load(path)
        assert not found(shown, "refused")


@pytest.mark.lava
def test_stock_netx_does_what_show_says(lava_environment: lava.Environment, tmp_path: Path, clean: Path) -> None:
    """Lava's own loader takes or refuses each of the files above as the header says."""
    cases = [name for name in CASES if name != "RF"]  # taken with torch, refused without
    paths = {name: str(written(tmp_path / f"{index}.net", *CASES[name][4])) for index, name in enumerate(cases)}
    jobs = [Job(path, run=name in RUN) for name, path in paths.items()]
    first, *said = verdicts(lava_environment, [Job(str(clean), run=True), *jobs])
    assert first == ""
    assert not {name: text for name, text in zip(cases, said, strict=True) if bool(text) != CASES[name][3]}


def odd_files(folder: Path, seeds: Iterable[int]) -> tuple[list[str], list[Job], list[str]]:
    """Files with anything changed in them: what, how to load them, and what `show` says of stock netx."""
    made, jobs, shown = [], [], []
    for seed in seeds:
        path = folder / f"{seed}.net"
        changed, shape = odd_network(np.random.default_rng(seed), path)
        given = shape if seed % 3 else ()
        seen = show.describe(path, LOIHI2, input_shape=given)
        if any(finding.kind == "told" for finding in seen.findings):  # it says what netx has to be told: do so
            given = shape
            seen = show.describe(path, LOIHI2, input_shape=given)
        made.append(f"seed {seed}: {', '.join(changed)}")
        jobs.append(Job(str(path), input_shape=given))
        shown.append(seen.runs["stock netx"])
    return made, jobs, shown


@pytest.mark.lava
@pytest.mark.parametrize(("first", "count"), [(0, 60), pytest.param(1000, 1500, marks=pytest.mark.slow)])
def test_of_any_file_stock_netx_does_what_show_says(
    first: int, count: int, lava_environment: lava.Environment, tmp_path: Path
) -> None:
    """Fields gone, types, shapes, constants by neuron, sigma, delays, layers put in and taken out.

    What netx does not load, `show` says it fails on; what it loads and `show` says it fails on, Lava does not run; a
    part of what both take is run as well.
    """
    made, jobs, shown = odd_files(tmp_path, range(first, first + count))
    loaded = verdicts(lava_environment, jobs, timeout=600)
    wrong = [(what, said) for what, said, ours in zip(made, loaded, shown, strict=True) if said and not ours]
    rows = list(zip(made, jobs, loaded, shown, strict=True))
    some = [row for place, row in enumerate(rows) if not row[2] and (row[3] or place % 15 == 0)]
    ran = verdicts(lava_environment, [replace(job, run=True) for _, job, _, _ in some], timeout=3000)
    wrong += [
        (what, said or ours) for (what, _, _, ours), said in zip(some, ran, strict=True) if bool(said) != bool(ours)
    ]
    assert not wrong
    assert 0.2 * count < sum(map(bool, loaded)) < 0.6 * count and sum(map(bool, ran)) > 0.03 * count


def test_what_stock_netx_takes_is_not_said_to_fail(tmp_path: Path) -> None:
    """Constants by neuron, by channel, a sigma at the output without a threshold, a convolution without an input."""
    path = written(
        tmp_path / "constants.net",
        put("1/neuron/vDecay", np.array([0, 1024, 4096])),
        put("3/neuron/iDecay", np.array([4096, 2048, 1, 7, 9])),
        put("3/neuron/vThMant", np.arange(5) * 20 + 3),
    )
    shown = show.describe(path, LOIHI2)
    assert shown.runs["stock netx"] == shown.runs["chip"] == ""
    assert shown.layers[3].neuron == {
        "type": "CUBA", "iDecay": "1..4096", "vDecay": 1024, "vThMant": "3..83", "refDelay": 1
    }  # fmt: skip
    sigma = (put("4/neuron/type", np.array([b"SDNN"])), put("4/neuron/sigma_output", True), drop("4/neuron/vThMant"))
    shown = show.describe(written(tmp_path / "sigma.net", *sigma), LOIHI2)
    assert shown.runs["stock netx"] == ""
    assert [kind for _, kind, _ in found(shown)] == ["refused"]
    without = written(tmp_path / "first.net", drop("0"), moved(*((str(n), str(n - 1)) for n in range(1, 5))))
    shown = show.describe(without, LOIHI2)
    assert [kind for _, kind, _ in found(shown)] == ["told", "refused"]
    assert shown.runs["stock netx"] == ""
    assert "give --input-shape C,H,W" in shown.runs["chip"]
    shown = show.describe(without, LOIHI2, input_shape=(2, 4, 4))
    assert found(shown) == []
    assert shown.runs["chip"] == ""
    assert "(3, 4, 4) is not the (3, 6, 4)" in show.describe(without, LOIHI2, input_shape=(2, 6, 4)).runs["stock netx"]


def test_a_layer_that_is_refused_hides_no_other(tmp_path: Path) -> None:
    """Everything that can be read is listed, and layers after one that cannot are looked at as before."""
    path = written(tmp_path / "x.net", put("1/neuron/type", np.array([b"SDNN"])), weights(4, ((0, 0), 300)))
    shown = show.describe(path, LOIHI2)
    assert [layer.number for layer in shown.layers] == [0, 1, 2, 3, 4]
    assert {layer for layer, _, _ in found(shown)} == {"1", "4"}
    assert shown.layers[1].weight is not None
    assert shown.layers[1].synapses == show.describe(written(tmp_path / "y.net"), LOIHI2).layers[1].synapses
    assert shown.layers[3].sums == show.describe(tmp_path / "y.net", LOIHI2).layers[3].sums


def test_the_chips_differ_in_what_they_take(tmp_path: Path, digits: Path) -> None:
    """Integers at the port fit Loihi 2 and not Loihi 1; so do neurons with tables."""
    loihi1 = chips.load("loihi1")
    assert not found(show.describe(digits, LOIHI2), "register")
    assert [layer for layer, _, text in found(show.describe(digits, loihi1)) if "only spikes" in text] == ["1"]
    assert not found(show.describe(digits, loihi1, message_bits=0), "register")
    path = written(tmp_path / "x.net", *CASES["tables over time"][4])
    assert any("programmable" in text for _, _, text in found(show.describe(path, loihi1), "register"))
    assert not found(show.describe(path, LOIHI2), "register")


# ------------------------------------------------------------------------------------------------------- figures


def test_figures_of_the_clean_file(clean: Path) -> None:
    """Neurons, connections, weights, steps, against sums worked out here another way."""
    shown = show.describe(clean, LOIHI2)
    conv, flatten, dense, last = shown.layers[1:]
    taps = [(at, tap) for at in range(4) for tap in (-1, 0, 1) if 0 <= at + tap < 4]
    inside = len(taps) ** 2
    assert (conv.neurons, conv.synapses, conv.fan_in) == (48, inside * 2 * 3, 18)
    assert conv.geometry == {"kernel": (3, 3), "stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "groups": (1,)}
    assert (dense.neurons, dense.synapses, dense.fan_in, flatten.neurons) == (5, 240, 48, 0)
    assert [layer.step for layer in shown.layers] == [None, (1, 1), None, (2, 2), (3, 3)]
    assert shown.totals == {"neurons": 55, "synapses": inside * 6 + 250, "weights": 304, "weight_bytes": 304}
    with h5py.File(clean) as file:
        weight = file["layer/3/weight"][()]
    assert dense.sums == (min(np.minimum(weight, 0).sum(1)), max(np.maximum(weight, 0).sum(1)))
    assert dense.weight == show.Spread(240, weight.min(), weight.max(), 0, 7)
    assert last.weight is not None
    assert (last.weight.bits, last.neuron["vDecay"]) == (8, 1024)


def test_delays_stretch_the_latency(tmp_path: Path) -> None:
    """A delay of 2..7 shows between 2 and 7 steps later, and so do the layers after it."""
    shown = show.describe(written(tmp_path / "x.net", put("3/delay", np.array([2, 3, 7, 4, 5]))), LOIHI2)
    assert [layer.step for layer in shown.layers[3:]] == [(4, 9), (5, 10)]
    assert shown.layers[3].delay is not None
    assert (shown.layers[3].delay.low, shown.layers[3].delay.high) == (2, 7)


@pytest.mark.parametrize(
    ("values", "bits"),
    [
        (([0, 0]), 0), ([1], 1), ([-1], 1), ([127, -128], 8), ([128, -1], 9), ([254, -256], 8), ([253, -2], 9),
        ([255], 8), ([256], 1), ([-255, 0], 8), ([3, -3], 3), ([64, -64], 2), ([1, -2], 2), ([1, -1], 2),
    ],
)  # fmt: skip
def test_bits_of_weights(values: list[int], bits: int) -> None:
    """Two's complement where there are both signs, after the common power of two is taken out."""
    assert findings.weight_bits(np.array(values)) == bits


def test_time_constants() -> None:
    """exp(-1 / tau) is what a step keeps."""
    assert findings.time_constant(4096) == 0
    assert findings.time_constant(0) == np.inf
    for decay in (1, 123, 1024, 4095):
        assert np.exp(-1 / findings.time_constant(decay)) == pytest.approx(1 - decay / 4096)


# ---------------------------------------------------------------------------------------- what the bounds promise


@settings(deadline=None, max_examples=usually(40))
@given(
    threshold=st.integers(0, 300),
    voltage_decay=st.sampled_from([0, 1, 7, 500, 1024, 3072, 4095, 4096]),
    current_decay=st.sampled_from([4096, 4096, 3000, 700]),
    weight=st.lists(st.integers(-120, 120), min_size=3, max_size=3).filter(any),
    bias=st.integers(-50, 60),
)
def test_never_and_always_hold_in_the_simulator(
    threshold: int, voltage_decay: int, current_decay: int, weight: list[int], bias: int
) -> None:
    """Neurons that never fire do not on any of the inputs tried, those that always fire do, those fired by their bias
    alone fire without input, and no other does."""
    row = np.array([weight])
    layer = ChipLayer(
        *("0", "dense", row, np.array([bias]), (1,), threshold, voltage_decay), current_decay=current_decay
    )
    least, most = findings.sums(layer, (np.zeros(1, dtype=np.int64), np.ones(1, dtype=np.int64)))
    said, unasked = findings.of_run(layer, least, most, LOIHI2, None, False)
    steps = 120
    streams = {
        "nothing": np.zeros((steps, 3), dtype=np.int64),
        "positive": np.tile(row > 0, (steps, 1)).astype(np.int64),
        "negative": np.tile(row < 0, (steps, 1)).astype(np.int64),
        "noise": np.random.default_rng(threshold).integers(0, 2, (steps, 3)),
    }
    net = Netlist((3,), (layer,))
    spikes = {name: chip_time.ChipEngine(net).run(stream).spikes["0"] for name, stream in streams.items()}
    texts = [finding.text for finding in said]
    if any("can never fire" in text or "no neuron can ever fire" in text for text in texts):
        assert not any(fired.any() for fired in spikes.values())
    elif voltage_decay >= 500:  # long enough to come as far as it ever does
        assert current_decay < 4096 or spikes["positive"].any()
    if any("at every step" in text for text in texts):
        assert all(fired.all() for fired in spikes.values())
    if voltage_decay >= 500 or bias <= 0:
        assert bool(unasked) == bool(spikes["nothing"].any())


@settings(deadline=None)
@given(
    weight=st.lists(st.integers(-254, 254), min_size=4, max_size=4).filter(any),
    scale=st.integers(1, 600),
    current_decay=st.sampled_from([4096, 2048, 100, 0]),
    voltage_decay=st.sampled_from([0, 64, 1024, 4096]),
)
def test_no_overflow_said_means_none_comes(
    weight: list[int], scale: int, current_decay: int, voltage_decay: int
) -> None:
    """Where nothing is said, the worst input leaves u and v within their registers, step after step."""
    row = np.array([weight])
    layer = ChipLayer(
        *("0", "dense", row, np.array([0]), (1,), 131071, voltage_decay),
        current_decay=current_decay,
        graded=True,
    )
    steps = 60
    least, most = findings.sums(layer, (np.array([-scale]), np.array([scale])))
    said, _ = findings.of_run(layer, least, most, LOIHI2, steps, True)
    stream = np.tile(np.sign(row) * scale, (steps, 1))
    trace = chip_time.ChipEngine(Netlist((4,), (layer,))).run(stream)
    current, voltage = trace.current["0"][:, 0].astype(int), trace.voltage["0"][:, 0].astype(int)
    kept, each = 4096 - current_decay, 64 * int(most[0])
    wraps = current[1] != each  # what comes in at a step arrives at the next
    for before, after in itertools.pairwise(current[1:]):
        wraps |= np.sign(before) * (abs(before) * kept >> 12) + each != after
    clips = bool((np.abs(voltage) >= 2**23 - 1).any())
    if not any(finding.kind == "overflow" for finding in said):
        assert not wraps
        assert not clips
    elif float(most[0]) * min(steps, 4096 / max(1, current_decay)) < 120_000:
        assert not any("wrap" in finding.text for finding in said)
    elif any("current wraps" in finding.text for finding in said):
        assert wraps or most[0] == 2**17  # the one sum that the register just holds


@settings(deadline=None, max_examples=usually(40))
@given(
    neurons=st.lists(
        st.tuples(
            st.integers(-1, 400),
            st.sampled_from([0, 7, 1024, 4096]),
            st.sampled_from([700, 4096]),
            st.integers(-30, 90),
            st.integers(-20, 20),
        ),
        min_size=2,
        max_size=6,
    ),
    steps=st.sampled_from([None, 4]),
)
def test_constants_by_neuron_are_as_neurons_alone(
    neurons: list[tuple[int, int, int, int, int]], steps: int | None
) -> None:
    """As many never fire, always fire or fire unasked as of layers of one; an overflow of one is one of all."""

    def looked_at(rows: list[tuple[int, int, int, int, int]]) -> tuple[int, int, int, bool]:
        threshold, voltage_decay, current_decay, weight, bias = (np.array(column) for column in zip(*rows, strict=True))
        layer = ChipLayer("0", "dense", weight[:, None], bias, bias.shape, threshold, voltage_decay, current_decay)
        least, most = findings.sums(layer, (np.zeros(1, dtype=np.int64), np.ones(1, dtype=np.int64)))
        said, unasked = findings.of_run(layer, least, most, LOIHI2, steps, False)
        never = always = 0
        for text in (finding.text for finding in said):
            never += len(rows) if "no neuron can ever" in text else 0
            never += int(text.split()[0]) if "can never fire" in text else 0
            always += int(text.split()[0]) if "at every step" in text else 0
        return never, always, unasked, any(finding.kind == "overflow" for finding in said)

    together, alone = looked_at(neurons), [looked_at([row]) for row in neurons]
    assert together[:3] == tuple(sum(counts) for counts in list(zip(*alone, strict=True))[:3])
    assert together[3] or not any(overflow for *_, overflow in alone)


# ------------------------------------------------------------------------------------------------ the command line


def test_show_prints_a_table_and_a_tree(cli: Command, clean: Path, tmp_path: Path) -> None:
    """Every layer in both, the verdicts, and exit code 0 with findings or without."""
    printed = cli("show", clean).ok()
    for words in ("kernel 3x3, stride 1x1", "tau 3.48 steps", "stock netx: takes it", "nothing to warn of", "304"):
        assert words in printed
    noisy = written(tmp_path / "x.net", *CASES["dense weight clipped"][4])
    assert "netx clips" in cli("show", noisy, "--chip", "loihi1").ok()


def test_show_writes_json(cli: Command, clean: Path, tmp_path: Path) -> None:
    """The same figures for programs, in strict JSON."""
    path = written(tmp_path / "x.net", *CASES["no neuron"][4])
    cli("show", path, "--json", tmp_path / "show.json").ok()

    def refuse(word: str) -> None:
        raise AssertionError(word)

    said = json.loads((tmp_path / "show.json").read_text(), parse_constant=refuse)
    assert said["totals"]["weights"] == 304
    assert [layer["kind"] for layer in said["layers"]] == ["input", "conv", "flatten", "dense", "dense"]
    assert said["layers"][4]["findings"][0]["kind"] == "changed"


def test_show_refuses_what_cannot_be_read(cli: Command, clean: Path, tmp_path: Path) -> None:
    """No file, no HDF5, half a file, no layers, no such chip: one line and exit code 2."""
    cli("show", tmp_path / "none.net").refused("no such file")
    (tmp_path / "text.net").write_text("hello")
    cli("show", tmp_path / "text.net").refused("not an HDF5 file")
    (tmp_path / "half.net").write_bytes(clean.read_bytes()[:3000])
    cli("show", tmp_path / "half.net").refused("half.net")
    with h5py.File(tmp_path / "empty.net", "w"):
        pass
    cli("show", tmp_path / "empty.net").refused("group 'layer' is missing")
    cli("show", clean, "--chip", "loihi3").refused("loihi3", "loihi1, loihi2")


def test_our_own_network_has_names_and_nothing_to_warn_of(cli: Command, digits: Path) -> None:
    """The zoo's digits network: origins, timesteps, classes, readout, and no finding."""
    printed = " ".join(cli("show", digits).ok().replace("│", "").split())  # the tree's lines are wrapped
    for words in (
        "from lif1",
        "timesteps 4",
        "readout membrane",
        "10 classes",
        "port integers -",
        "nothing to warn of",
    ):
        assert words in printed
    assert show.describe(digits, LOIHI2).runs == {"stock netx": "", "chip": "", "simulate": ""}


@pytest.mark.parametrize("seed", range(60))
def test_damaged_files_are_shown_or_refused_in_one_line(seed: int, cli: Command, clean: Path, tmp_path: Path) -> None:
    """Whatever is wrong in the file: no traceback."""
    data, said = mutate(clean.read_bytes(), np.random.default_rng(seed))
    path = tmp_path / "damaged.net"
    path.write_bytes(data)
    done = cli("show", path)
    assert done.code in (0, 2), said
    if done.code:
        done.refused("damaged.net")


# ------------------------------------------------------------------------------------------------- lava-dl's files


@pytest.mark.lava
@pytest.mark.parametrize(
    ("name", "layers", "neurons", "facts", "kinds"),
    [
        ("tiny.net", 3, 768 + 864 + 36, {"Ts": 1, "tSample": 64}, []),
        ("mnist.net", 4, 784 + 512 + 512 + 10, {"tSample": 16}, [("3", "changed"), ("3", "overflow")]),
        ("gts/pilotnet_lif/network.net", 11, 158509, {"tSample": 16}, [("10", "overflow")]),
        ("gts/ntidigits/ntidigits.net", 6, 754, {"tSample": 3000}, [("5", "fails")]),
        ("gts/pilotnet_sdnn/network.net", 10, 0, {}, [(layer, "refused") for layer in "012346789"]),
    ],
)  # fmt: skip
def test_lava_dls_own_networks(
    lava_environment: lava.Environment,
    name: str,
    layers: int,
    neurons: int,
    facts: dict[str, int],
    kinds: list[tuple[str, str]],
) -> None:
    """Sizes from the files, and what is known of them: a readout without neurons, an average, sigma-delta neurons."""
    (path,) = lava_environment.folder.glob(f"lib/python*/site-packages/tests/lava/lib/dl/netx/{name}")
    shown = show.describe(path, LOIHI2)
    assert len(shown.layers) == layers
    assert [(layer, kind) for layer, kind, _ in found(shown)] == kinds
    assert shown.facts.items() >= facts.items()
    if neurons:
        assert shown.totals["neurons"] == neurons
    assert bool(shown.runs["stock netx"]) == ("fails" in dict(kinds).values())
    assert bool(shown.runs["chip"]) == bool({"fails", "refused"} & set(dict(kinds).values()))
