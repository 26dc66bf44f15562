"""Files of SHD and SSC: what is read, what is refused, and the way of their recordings to the chip's integers."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import Command
from event_files import WORDS, spoken_lists, write_spoken
from helpers import usually
from hypothesis import given, settings
from hypothesis import strategies as st

from snn2chip import data, recipe
from snn2chip.data.recordings import BinSettings
from snn2chip.data.sets.spoken import Spoken
from snn2chip.errors import DataError, RecipeError
from snn2chip.formats import netx
from snn2chip.nn import model_file
from snn2chip.report.seen import picture

BINS = BinSettings(6, dt_us=100_000, downsample=5, polarities=1)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of each test's own."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("SNN2CHIP_DATA", str(folder))
    return folder


def write_sets(root: Path) -> None:
    """SHD/shd_{train,test}.h5 and SSC/ssc_{train,valid,test}.h5."""
    for name, splits in (("shd", ("train", "test")), ("ssc", ("train", "valid", "test"))):
        (root / name.upper()).mkdir()
        for seed, split in enumerate(splits):
            count = {"train": 30, "valid": 9, "test": 12}[split]
            write_spoken(root / name.upper() / f"{name}_{split}.h5", spoken_lists(count, seed))


@settings(max_examples=usually(20), deadline=None)
@given(
    st.integers(1, 12),
    st.integers(0, 2**31),
    st.sampled_from(["f2", "f4", "f8", ">f8"]),
    st.sampled_from(["u2", "i4", "u8", ">i2"]),
    st.sampled_from([None, (1,), (5,), (64,)]),
    st.booleans(),
)
def test_recordings_come_back(
    tmp_path_factory: pytest.TempPathFactory,
    count: int,
    seed: int,
    times: str,
    units: str,
    chunks: tuple[int, ...] | None,
    texts: bool,
) -> None:
    path = tmp_path_factory.mktemp("spoken") / "a.h5"
    held = spoken_lists(count, seed)
    write_spoken(path, held, times=times, units=units, chunks=chunks, texts=texts)
    found = Spoken(path)
    assert found.classes == WORDS
    np.testing.assert_array_equal(found.labels, held["labels"])
    for number in range(count):
        events = found.recording(number, "it")
        np.testing.assert_array_equal(events.x, held["spikes/units"][number])
        seconds = held["spikes/times"][number].astype(times).astype(float)
        np.testing.assert_array_equal(events.t, np.rint(seconds * 1e6))
        assert not events.p.any() and not events.y.any() and not events.faults
        assert events.sensor == (1, 700)


def test_frames_have_one_row_of_channels(tmp_path: Path) -> None:
    """Binned one by one, as a loop would; the sets' splits, and the validation split that one of them has."""
    write_sets(tmp_path)
    found = data.load("shd", "test", tmp_path, events=BINS)
    assert (found.shape, found.classes, len(found)) == ((1, 1, 140), WORDS, 12)
    assert found.images.shape == (12, 6, 1, 1, 140)
    assert "12 of the 2,264 published recordings" in found.source
    held = spoken_lists(12, 1)
    order = [number for label in zip(*(range(c, 12, 3) for c in range(3)), strict=True) for number in label]
    for row, number in enumerate(order):
        frames = np.zeros((6, 140), np.uint8)
        t = np.rint(np.array(held["spikes/times"][number]) * 1e6).astype(int)
        for time, unit in zip(t, held["spikes/units"][number], strict=True):
            step = (time - t[0]) // 100_000
            frames[step, unit // 5] = 1
        np.testing.assert_array_equal(found.images[row].reshape(6, 140), frames)
        assert found.labels[row] == held["labels"][number]
    assert found.validation is None
    train = data.load("ssc", "train", tmp_path, events=BINS)
    assert train.validation is not None
    assert (train.validation.name, len(train.validation)) == ("ssc:val", 9)
    kept, aside = train.set_aside(0, 0)
    assert kept is train and aside is train.validation
    assert dict(data.available(tmp_path))["ssc"] == str(tmp_path / "SSC")
    with pytest.raises(DataError, match="no split 'val'"):
        data.load("shd", "val", tmp_path, events=BINS)
    with pytest.raises(DataError, match="give polarities = 1"):
        data.load("shd", "test", tmp_path, events=BinSettings(6, dt_us=100_000))
    (tmp_path / "SSC" / "ssc_valid.h5").unlink()
    with pytest.raises(DataError, match="ssc not found"):
        data.load("ssc", "train", tmp_path, download=False, events=BINS)
    assert picture(found, 0).startswith("data:image/png")


def broken(**changes: Any) -> dict[str, Any]:
    """Four recordings of one event each, with arrays or the last recording's lists changed."""
    held: dict[str, Any] = {
        "spikes/times": [[0.1], [0.2], [0.3], [0.4]],
        "spikes/units": [[1], [2], [3], [4]],
        "labels": [0, 1, 2, 0],
        "extra/keys": WORDS,
    }
    for name, value in changes.items():
        if name in ("times", "units"):
            held[f"spikes/{name}"] = [*held[f"spikes/{name}"][:-1], value]
        else:
            held[name.replace("__", "/")] = value
    return held


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"spikes__times": None}, "no array 'spikes/times'"),
        ({"spikes__units": None}, "no array 'spikes/units'"),
        ({"labels": None}, "no array 'labels'"),
        ({"extra__keys": None}, "no array 'extra/keys'"),
        ({"labels": [0, 1, 2]}, "4 spikes/times, 4 spikes/units, 3 labels"),
        ({"spikes__units": [[1]]}, "4 spikes/times, 1 spikes/units, 4 labels"),
        ({"labels": [0, 1, 3, 0]}, r"0\.\.3 of 3 classes"),
        ({"labels": [0, 1, -1, 0]}, r"-1\.\.1 of 3 classes"),
        ({"labels": [0.0, 1.0, 2.0, 0.0]}, "not whole numbers"),
        ({"labels": [[0], [1], [2], [0]]}, "not a row"),
        ({"times": [0.1, 0.2]}, "recording 3: 2 times and 1 units"),
        ({"units": [700]}, "recording 3: unit 700 of event 0, the last is 699"),
        ({"times": [float("nan")]}, "recording 3: time nan s"),
        ({"times": [float("inf")]}, "recording 3: time inf s"),
        ({"times": [-0.5]}, "recording 3: time -0.5 s"),
        ({"times": [1e300]}, "recording 3: time 1e"),
        ({"times": [0.5, 0.1], "units": [1, 2]}, "recording 3': time runs backwards by 0.400 s"),
    ],
)
def test_bad_files_are_refused_in_a_line(tmp_path: Path, cli: Command, changes: dict[str, Any], words: str) -> None:
    (tmp_path / "SHD").mkdir()
    for split in ("train", "test"):
        write_spoken(tmp_path / "SHD" / f"shd_{split}.h5", broken(**changes))
    with pytest.raises(DataError, match=words) as caught:
        data.load("shd", "test", tmp_path, events=BINS)
    assert "\n" not in str(caught.value)
    assert "shd_test.h5" in str(caught.value)
    cli("train", "shd-tdbn", "--data", tmp_path, "--out", tmp_path / "run", "--device", "cpu").refused("shd_train.h5")
    assert not (tmp_path / "run").exists()


def test_lists_of_other_things_links_and_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    for options, words in ((({"times": "i4"}), "not lists of fractions"), ({"units": "f4"}, "not lists of whole")):
        write_spoken(path, 3, **options)
        with pytest.raises(DataError, match=words):
            Spoken(path)
    write_spoken(path, 3)
    with h5py.File(path, "r+") as file:
        del file["labels"]
        file["labels"] = h5py.ExternalLink("elsewhere.h5", "labels")
    with pytest.raises(DataError, match="a link to elsewhere"):
        Spoken(path)
    path.write_bytes(b"no HDF5")
    with pytest.raises(DataError, match="damaged or no file of SHD or SSC"):
        Spoken(path)


def test_many_references_to_one_list_are_refused(tmp_path: Path) -> None:
    """A small file that would become large: every recording points to the longest list."""
    path = tmp_path / "a.h5"
    write_spoken(path, broken(times=np.linspace(0, 1, 50_000), units=np.zeros(50_000)))
    with h5py.File(path) as file:
        offset = file["spikes/times"].id.get_offset()
    content = bytearray(path.read_bytes())
    for number in range(3):
        content[offset + 16 * number : offset + 16 * (number + 1)] = content[offset + 48 : offset + 64]
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"1,600,000 bytes claimed by a file of"):
        Spoken(path)


def test_tonic_is_asked_for_the_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []
    module = types.ModuleType("tonic.datasets")
    module.SHD = module.SSC = lambda **options: asked.append(options)  # type: ignore[attr-defined]
    package = types.ModuleType("tonic")
    package.datasets = module  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tonic", package)
    monkeypatch.setitem(sys.modules, "tonic.datasets", module)
    for name, split in (("shd", "train"), ("ssc", "val")):
        with pytest.raises(DataError, match="also after Tonic's download"):
            data.load(name, split, tmp_path, events=BINS)
    assert [{name: options[name] for name in options if name != "save_to"} for options in asked] == [
        {"train": True},
        {"split": "valid"},
    ]


# ------------------------------------------------------------------------------------------------- recipes


def test_ssc_is_not_asked_to_set_recordings_aside() -> None:
    values = {
        "name": "a",
        "data": {"name": "ssc", "events": {"dt_us": 10_000, "polarities": 1}},
        "model": {
            "timesteps": 5,
            "coding": "events",
            "layers": [
                {"type": "conv1d", "channels": 4, "kernel": 9, "stride": 4},
                {"type": "conv1d", "channels": 6, "kernel": 5, "padding": 0, "dilation": 2},
                {"type": "flatten"},
                {"type": "dense", "features": "classes", "neuron": False},
            ],
        },
        "train": {"epochs": 1},
    }
    chosen = recipe.parse(values)
    assert chosen.validated
    assert chosen.binning == BinSettings(5, dt_us=10_000, polarities=1)
    body = model_file.build_network(chosen, (1, 1, 700), 35, 1).body
    assert body.conv1.weight.shape == (4, 1, 1, 9)
    assert body.dense1.in_features == 6 * (175 - 8)
    with pytest.raises(RecipeError, match="validation split of its own"):
        recipe.parse({**values, "data": {**values["data"], "validation": 0.1}})  # type: ignore[dict-item]


@pytest.mark.parametrize("first", ["dense", "conv1d"])
def test_spoken_words_go_all_the_way(tmp_path: Path, cli: Command, monkeypatch: pytest.MonkeyPatch, first: str) -> None:
    """Trained, folded, exported, simulated and verified, as a dense network and as convolutions along the channels."""
    monkeypatch.setattr("snn2chip.train.loop.fuse_neurons", lambda _network, _device: None)
    write_sets(tmp_path)
    layers = {
        "dense": '{ type = "flatten" }, { type = "dense", features = 16, norm = "tdbn", bias = false }',
        "conv1d": '{ type = "conv1d", channels = 8, kernel = 9, stride = 4 }, { type = "flatten" }',
    }[first]
    name = {"dense": "shd", "conv1d": "ssc"}[first]
    text = (
        f'name = "tiny"\n[data]\nname = "{name}"\n[data.events]\ndt_us = 100000\ndownsample = 5\npolarities = 1\n'
        f'[model]\ntimesteps = 6\ncoding = "events"\nlayers = [{layers}, '
        '{ type = "dense", features = "classes", neuron = false }]\n'
        "[train]\nepochs = 4\nbatch_size = 10\nlr = 0.03\n"
    )
    (tmp_path / "recipe.toml").write_text(text)
    model, net = tmp_path / "run" / "model.pt", tmp_path / "run" / "model.net"
    where = ("--data", tmp_path)
    cli("train", tmp_path / "recipe.toml", *where, "--out", tmp_path / "run", "--device", "cpu").ok()
    metrics = model_file.load(model).metrics
    assert metrics["float_accuracy"] > 0.5
    assert metrics.get("validation_samples") == (9 if name == "ssc" else None)
    cli("fold-and-export", model, *where, "--calibration", "20").ok()
    chain = netx.load(net)
    assert chain.coding == "events"
    assert chain.raw_shape == (1, 1, 140)
    assert f"12 samples of {name}:test, T = 6 of 100 ms" in cli("simulate", net, *where).ok()
    assert "every exact rung holds" in cli("verify", model, net, *where, "--samples", 4, "--no-lava").ok()


def test_the_shipped_recipe_is_a_small_dense_network() -> None:
    chosen = recipe.load("shd-tdbn")
    assert "Never trained here" in chosen.description
    assert chosen.binning is not None
    shape = chosen.binning.shape((1, 700))
    network = model_file.build_network(chosen, shape, 20, chosen.binning.max_count)
    assert network.input_shape == (1, 1, 140)
