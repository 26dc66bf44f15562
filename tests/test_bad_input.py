"""Whatever a person gets wrong: one line that says what, exit code 2, and every file as it was before."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import zoo as zoo_tool
from conftest import ROOT, Child, Command, Quickstart, run_in_process, tiny_recipe

from snn2chip.backends import lava
from snn2chip.backends.lava import LIGHT
from snn2chip.chip.profile import load as load_chip
from snn2chip.errors import InputError
from snn2chip.files import atomic_path
from snn2chip.formats import netx
from snn2chip.nn import model_file
from snn2chip.passes.pipeline import export
from snn2chip.places import CACHE_VARIABLE, RECORD_FORMAT

OLD = b"what was there before"


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Every file below a folder with its bytes, and every folder."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def written(path: Path, content: bytes = OLD) -> Path:
    """The path, with a file there."""
    path.write_bytes(content)
    return path


@pytest.fixture(scope="module")
def fashion(tmp_path_factory: pytest.TempPathFactory) -> Quickstart:
    """An untrained model and its file that name Fashion-MNIST as their data set."""
    folder = tmp_path_factory.mktemp("fashion")
    recipe = tiny_recipe(data__name="fashion-mnist")
    network = model_file.build_network(recipe, (1, 28, 28), 10, 255, [0.3], [0.3]).eval()
    classes = [str(index) for index in range(10)]
    model_file.save(folder / "model.pt", network, recipe, max_value=255, classes=classes, metrics={})
    netx.save(folder / "model.net", export(model_file.load(folder / "model.pt"), load_chip("loihi2")).chain)
    return Quickstart(folder, "")


# ------------------------------------------------------------------------------------- damaged model.pt, .net

DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "one byte": lambda _: b"\x80",
    "text": lambda _: b"this is not the file you are looking for\n" * 40,
    "random": lambda _: np.random.default_rng(7).bytes(5000),
    "head only": lambda whole: whole[:100],
    "half": lambda whole: whole[: len(whole) // 2],
    "last bytes missing": lambda whole: whole[:-20],
    "another kind of file": lambda _: b"\x89PNG\r\n\x1a\n" + bytes(500),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_model(damage: str, cli: Command, quickstart: Quickstart, tmp_path: Path) -> None:
    """A model.pt that is none is named, called damaged and not said to hold code; the old .net stays."""
    model = written(tmp_path / "model.pt", DAMAGE[damage](quickstart.model.read_bytes()))
    written(tmp_path / "model.net")
    before = snapshot(tmp_path)
    said = cli("fold-and-export", model).refused(str(model), "damaged or not a model file")
    assert "code" not in said
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_net(damage: str, cli: Command, quickstart: Quickstart, tmp_path: Path) -> None:
    """A .net that is none is named by every command that reads one; old outputs stay."""
    net = written(tmp_path / "model.net", DAMAGE[damage](quickstart.net.read_bytes()))
    out, result = written(tmp_path / "out.npz"), written(tmp_path / "out.json")
    given = tmp_path / "in.npz"
    np.savez(given, input=np.zeros((1, 4, 1, 8, 8), dtype=np.int32))
    before = snapshot(tmp_path)
    for arguments in (
        ("simulate", net, "--output", out, "--json", result),
        ("encode", net, "--output", out),
        ("verify", quickstart.model, net, "--no-lava", "--json", result),
        ("lava", "run", net, "--input", given, "--output", out),
    ):
        cli(*arguments).refused(str(net), "damaged or not an HDF5 file")
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("kind", ["absent", "folder"])
def test_model_and_net_that_are_not_files(kind: str, cli: Command, quickstart: Quickstart, tmp_path: Path) -> None:
    """A path with nothing behind it, or a folder, is named."""
    path = tmp_path / "given"
    if kind == "folder":
        path.mkdir()
    before = snapshot(tmp_path)
    cli("fold-and-export", path).refused(f"cannot read '{path}'")
    what = "a folder" if kind == "folder" else "no such file"
    cli("simulate", path, "--output", tmp_path / "out.npz").refused(f"cannot read '{path}': {what}")
    cli("fit", quickstart.model).refused("not an HDF5 file", "`snn2chip fold-and-export MODEL` makes a .net file")
    cli("verify", path, quickstart.net, "--no-lava").refused(f"cannot read '{path}'")
    cli("verify", quickstart.model, path, "--no-lava").refused(f"cannot read '{path}'")
    cli("report", path).refused("cannot read", "model.pt")
    run_in_process("publish", path, tmp_path, main=zoo_tool.main).refused("cannot read", "model.pt")
    assert snapshot(tmp_path) == before


def test_every_command_that_reads_a_model_refuses_a_damaged_one(
    cli: Command, quickstart: Quickstart, tmp_path: Path
) -> None:
    """verify, report, publish and train --init say the same of a truncated model.pt, and leave nothing."""
    copy = quickstart.copy(tmp_path / "run")
    copy.model.write_bytes(copy.model.read_bytes()[:3000])
    written(copy.folder / "report.html")
    zoo = tmp_path / "zoo"
    zoo.mkdir()
    before = snapshot(tmp_path)
    cli("verify", copy.model, copy.net, "--no-lava", "--json", copy.folder / "v.json").refused(str(copy.model))
    cli("report", copy.folder).refused(str(copy.model))
    run_in_process("publish", copy.folder, zoo, main=zoo_tool.main).refused(str(copy.model))
    assert snapshot(tmp_path) == before
    cli("train", "digits-tdbn", "--out", tmp_path / "new", "--init", copy.model, "--device", "cpu").refused(
        str(copy.model)
    )
    assert not (tmp_path / "new" / "model.pt").exists()


class Code:
    """Unpickling this makes a file: what an attacker's model.pt would do, and worse."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("kind", ["plain pickle", "torch zip", "torch legacy", "inside a model"])
def test_code_in_a_model_is_not_run(kind: str, cli: Command, quickstart: Quickstart, tmp_path: Path) -> None:
    """A pickle that would run code is refused, said to hold code, and nothing of it is run."""
    marker, model = tmp_path / "owned", tmp_path / "model.pt"
    if kind == "plain pickle":
        model.write_bytes(pickle.dumps({"state": Code(marker)}))
    elif kind == "inside a model":
        content = torch.load(quickstart.model, weights_only=True)
        content["metrics"]["extra"] = Code(marker)
        torch.save(content, model)
    else:
        torch.save({"state": Code(marker)}, model, _use_new_zipfile_serialization=kind == "torch zip")
    before = snapshot(tmp_path)
    cli("fold-and-export", model).refused(str(model), "pickled code", "not loaded")
    assert not marker.exists()
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int32, torch.complex64])
def test_weights_of_another_type(dtype: torch.dtype, cli: Command, quickstart: Quickstart, tmp_path: Path) -> None:
    """Numbers that only a change would make weights of are refused; floats of other widths are taken as they are."""
    content = torch.load(quickstart.model, weights_only=True)
    weight = content["state"]["body.conv1.weight"]
    for other in (dtype, torch.float64):
        content["state"]["body.conv1.weight"] = weight.to(other)
        torch.save(content, tmp_path / "model.pt")
        if other is dtype:
            words = "'body.conv1.weight' is not a tensor of real numbers"
            cli("fold-and-export", tmp_path / "model.pt").refused(words)
    assert torch.equal(model_file.load(tmp_path / "model.pt").network.body.conv1.weight, weight)


@pytest.mark.parametrize("field", ["input_shape", "classes", "max_value", "state", "metrics"])
def test_a_field_that_is_an_endless_tensor(field: str, cli: Command, quickstart: Quickstart, tmp_path: Path) -> None:
    """A few bytes of file that can be iterated over for ever."""
    content = torch.load(quickstart.model, weights_only=True)
    content[field] = torch.zeros(1).expand(2**40, 2**20)
    torch.save(content, tmp_path / "model.pt")
    cli("fold-and-export", tmp_path / "model.pt").refused(f"is damaged: TypeError {field} is of type Tensor")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("tensor", ["body.conv1.weight", "body.norm1.running_var", "body.dense1.weight"])
def test_numbers_that_are_none(value: float, tensor: str, cli: Command, quickstart: Quickstart, tmp_path: Path) -> None:
    """One NaN or infinite value is refused by the name of its tensor."""
    content = torch.load(quickstart.model, weights_only=True)
    content["state"][tensor].view(-1)[-1] = value
    torch.save(content, tmp_path / "model.pt")
    before = snapshot(tmp_path)
    size = content["state"][tensor].numel()
    cli("fold-and-export", tmp_path / "model.pt").refused(f"'{tensor}' holds 1 NaN or infinite of {size} values")
    assert snapshot(tmp_path) == before


# ------------------------------------------------------------------------------------------------- --input


def bad_inputs() -> dict[str, tuple[Callable[[np.ndarray[Any, Any]], dict[str, Any]], tuple[str, ...]]]:
    """Name: (what the .npz holds, made of a good input; words of the message)."""
    return {
        "wrong height": (lambda good: {"input": good[..., :-1, :]}, ("has shape", "the network takes")),
        "no time axis": (lambda good: {"input": good[:, 0]}, ("has shape", "the network takes")),
        "flattened": (lambda good: {"input": good.reshape(*good.shape[:2], -1)}, ("has shape", "the network takes")),
        "a number": (lambda good: {"input": np.int32(3)}, ("has shape ()",)),
        "float": (lambda good: {"input": good.astype(np.float32)}, ("is float32", "expected integers")),
        "complex": (lambda good: {"input": good.astype(np.complex64)}, ("is complex64", "expected integers")),
        "text": (lambda good: {"input": np.array(["spikes"])}, ("expected integers",)),
        "objects": (lambda good: {"input": np.array([{"a": 1}], dtype=object)}, ("damaged or not an .npz", "bject")),
        "too many steps": (
            lambda good: {"input": np.concatenate([good, good], 1)},
            ("timesteps exceed the file's",),
        ),
        "too large": (lambda good: {"input": good + 100}, ("exceed the port's", "value minus centre")),
        "too small": (lambda good: {"input": good - 100}, ("exceed the port's", "value minus centre")),
        "64 bits": (lambda good: {"input": good.astype(np.int64) + 2**40}, ("exceed the port's",)),
        "unsigned 64 bits": (
            lambda good: {"input": np.full(good.shape, 2**64 - 1, dtype=np.uint64)},
            ("exceed the port's",),
        ),
        "no samples": (lambda good: {"input": good[:0]}, ("nothing to run",)),
        "no steps": (lambda good: {"input": good[:, :0]}, ("nothing to run",)),
        "another name": (lambda good: {"inputs": good, "label": np.zeros(1)}, ("no array 'input'", "inputs, label")),
        "nothing": (lambda good: {}, ("no array 'input'", "nothing")),
    }


@pytest.fixture(scope="module")
def good_input(quickstart: Quickstart) -> np.ndarray[Any, Any]:
    """Two samples of port integers that the quickstart takes."""
    chain = netx.load(quickstart.net)
    low, high = chain.port_range
    shape = (2, chain.timesteps, *chain.input_shape)
    return np.random.default_rng(1).integers(int(low.min()), int(high.max()) + 1, shape).astype(np.int32)


@pytest.mark.parametrize("name", bad_inputs())
def test_input_that_does_not_fit(
    name: str, cli: Command, quickstart: Quickstart, good_input: np.ndarray[Any, Any], tmp_path: Path
) -> None:
    """simulate and lava run refuse the same file for the same reason, before anything is run or written."""
    make, words = bad_inputs()[name]
    given = tmp_path / "in.npz"
    np.savez(given, **make(good_input))
    out = written(tmp_path / "out.npz")
    before = snapshot(tmp_path)
    said = cli("simulate", quickstart.net, "--input", given, "--output", out).refused(str(given), *words)
    assert cli("lava", "run", quickstart.net, "--input", given, "--output", out).refused() == said
    assert snapshot(tmp_path) == before


def test_input_that_fits(
    cli: Command, quickstart: Quickstart, good_input: np.ndarray[Any, Any], tmp_path: Path
) -> None:
    """The input that the refused ones are made of is taken, also with fewer steps."""
    for steps in (good_input.shape[1], 1):
        np.savez(tmp_path / "in.npz", input=good_input[:, :steps])
        cli("simulate", quickstart.net, "--input", tmp_path / "in.npz").ok()


@pytest.mark.parametrize("damage", DAMAGE)
def test_input_that_is_no_npz(
    damage: str, cli: Command, quickstart: Quickstart, good_input: np.ndarray[Any, Any], tmp_path: Path
) -> None:
    """What is not an .npz, or only a part of one, is named."""
    np.savez(tmp_path / "in.npz", input=good_input)
    given = written(tmp_path / "in.npz", DAMAGE[damage]((tmp_path / "in.npz").read_bytes()))
    cli("simulate", quickstart.net, "--input", given).refused(f"'{given}' is damaged or not an .npz")


@pytest.mark.parametrize("kind", ["absent", "folder", "npy"])
def test_input_that_is_no_file(kind: str, cli: Command, quickstart: Quickstart, tmp_path: Path) -> None:
    """No file, a folder, or a single array instead of an archive."""
    given = tmp_path / "in.npz"
    if kind == "folder":
        given.mkdir()
    elif kind == "npy":
        with given.open("wb") as file:
            np.save(file, np.zeros(3))
    words = "is a single array" if kind == "npy" else "cannot read"
    cli("simulate", quickstart.net, "--input", given).refused(str(given), words)


def test_pickled_input_is_not_run(cli: Command, quickstart: Quickstart, tmp_path: Path) -> None:
    """An object array with code in it is refused without running it, and so is a bare pickle."""
    marker, given = tmp_path / "owned", tmp_path / "in.npz"
    np.savez(given, input=np.array([Code(marker)], dtype=object))
    cli("simulate", quickstart.net, "--input", given).refused(str(given))
    given.write_bytes(pickle.dumps(Code(marker)))
    cli("simulate", quickstart.net, "--input", given).refused(str(given))
    assert not marker.exists()


# ----------------------------------------------------------------------------------------- options and names


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nothing-like-it",), ("nothing-like-it", "digits-tdbn")),
        (("digits-tdbn", "--set", "train.epoch=3"), ("unknown key 'train.epoch'", "epochs")),
        (("digits-tdbn", "--set", "train.epochs=0"), ("'train.epochs'", "given: 0")),
        (("digits-tdbn", "--set", ""), ("key=value",)),
        (("digits-tdbn", "--set", "data.name=mnist"), ("no data set 'mnist'", "fashion-mnist")),
    ],
)
def test_recipe_and_settings(
    arguments: tuple[str, ...], words: tuple[str, ...], cli: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unknown recipe, key or value is named with what was expected; no folder is made."""
    monkeypatch.chdir(tmp_path)
    cli("train", *arguments, "--device", "cpu").refused(*words)
    assert snapshot(tmp_path) == {}


@pytest.mark.parametrize("text", [b"", b"name = ", b"\xff\xfe\x00", b"name = 'x'\nname = 'y'\n", b"[data]\nname=1\n"])
def test_recipe_file_that_is_none(text: bytes, cli: Command, tmp_path: Path) -> None:
    """A damaged recipe.toml is refused with at least one line, every one of them an error, before anything is made."""
    path = written(tmp_path / "mine.toml", text)
    done = cli("train", path, "--out", tmp_path / "out")
    assert done.code == 2
    lines = done.err.splitlines()
    assert lines
    assert all(line.startswith("error: ") and "mine.toml" in line for line in lines), done.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--chip", "loihi3"), ("unknown chip 'loihi3'", "loihi1, loihi2")),
        (("--chip", "../chips/loihi2"), ("unknown chip", "loihi1, loihi2")),
        (("--weight-bits", "1"), ("--weight-bits 1 is outside 2..8",)),
        (("--weight-bits", "9"), ("--weight-bits 9 is outside 2..8",)),
        (("--weight-bits", "-3"), ("--weight-bits -3 is outside 2..8",)),
        (("--chip", "loihi1"), ("graded spikes", "loihi1")),
    ],
)
def test_chip_options(
    arguments: tuple[str, ...], words: tuple[str, ...], cli: Command, quickstart: Quickstart, tmp_path: Path
) -> None:
    """What the chip does not have is refused with the limit; the old .net stays and no JSON appears."""
    net = written(tmp_path / "model.net")
    before = snapshot(tmp_path)
    cli("fold-and-export", quickstart.model, "-o", net, "--json", tmp_path / "e.json", *arguments).refused(*words)
    assert snapshot(tmp_path) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize(
    "kind", ["missing", "folder", "text", "empty", "model.pt", "truncated", "no layers", "no network"]
)
def test_no_network_to_fit_or_to_count(kind: str, cli: Command, quickstart: Quickstart, tmp_path: Path) -> None:
    """`fit` and `simulate --cost` name a file that is none, and write nothing."""
    path = tmp_path / "given.net"
    if kind == "folder":
        path.mkdir()
    elif kind in ("no layers", "no network"):
        with h5py.File(path, "w") as file:
            file.create_group("layer" if kind == "no layers" else "other")
    elif kind != "missing":
        whole = quickstart.net.read_bytes()
        contents = {"text": b"hello", "model.pt": quickstart.model.read_bytes(), "truncated": whole[:3000]}
        path.write_bytes(contents.get(kind, b""))
    before = snapshot(tmp_path)
    cli("fit", path).refused(str(path))
    cli("fit", path, "--json", tmp_path / "fit.json").refused(str(path))
    cli("simulate", path, "--cost", "--json", tmp_path / "simulate.json").refused(str(path))
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("value = 4095", "value = -5", ("capacity.neurons", "value -5 is below 1")),
        ("value = 4095", "value = 12.5", ("capacity.neurons.value", "integer")),
        ("value = 4095", "value = true", ("'value' is True, expected int",)),
        ("value = 4095", "value = '64'", ("'value' is '64', expected int",)),
        ("value = 4095", "value = [4095]", ("capacity.neurons.value", "integer")),
        ("[capacity.neurons]\n", "[capacity]\nneurons = 3\n[capacity.other]\n", ("unknown key 'other'",)),
        ("weight_bits = 8", "weight_bits = -8", ("weight_bits -8 is outside 2..16",)),
        ("weight_bits = 8", "weight_bits = 1000000000", ("weight_bits 1000000000 is outside 2..16",)),
        ("state_bits = 24", "state_bits = 3", ("state_bits 3 is outside 8..32",)),
        ("message_bits = 24", "message_bits = -1", ("message_bits -1 is outside 0..32",)),
        ("energy = 22.5", "energy = -1", ("prices.synapse", "energy -1.0")),
        ("energy = 22.5", "energy = nan", ("prices.synapse", "energy nan")),
        ("energy_within = 2.0", "energy_within = nan", ("energy_within nan", "below 1")),
        ("energy_within = 2.0", "energy_within = inf", ("energy_within inf",)),
        ("[[1, 161.0]", "[[9, 161.0]", ("not ascending pairs",)),
        ("[[1, 161.0]", "[[1, -161.0]", ("not ascending pairs",)),
        ("[[1, 161.0]", "[[1]", ("prices.barrier",)),
        ('name = "loihi2"', "name = 3", ("'name'",)),
        ('name = "loihi2"', "name =", ("TOML",)),
        ('name = "loihi2"', "", ("'name'", "required")),
    ],
)
def test_a_chip_that_is_none(
    old: str, new: str, words: tuple[str, ...], cli: Command, quickstart: Quickstart, tmp_path: Path
) -> None:
    """A profile with a wrong value or type is refused by `fit` and by `simulate --cost`, with what is wrong in it."""
    text = (ROOT / "deploy" / "chips" / "loihi2.toml").read_text()
    assert old in text
    own = written(tmp_path / "mine.toml", text.replace(old, new, 1).encode())
    cli("fit", quickstart.net, "--chip", own).refused("mine.toml", *words)
    cli("simulate", quickstart.net, "--limit", "1", "--cost", "--chip", own).refused("mine.toml", *words)


def test_a_chip_that_has_no_cost(cli: Command, quickstart: Quickstart, tmp_path: Path) -> None:
    """No profile there, one without prices, a name that is none, a chip without cores: what to give instead is said."""
    cost = ("simulate", quickstart.net, "--limit", "1", "--cost", "--chip")
    cli(*cost, tmp_path / "none.toml").refused("no chip profile")
    (tmp_path / "folder.toml").mkdir()
    cli(*cost, tmp_path / "folder.toml").refused("folder.toml", "directory")
    text = (ROOT / "deploy" / "chips" / "loihi2.toml").read_text()
    cli(*cost, written(tmp_path / "free.toml", text.partition("[prices]")[0].encode())).refused("has no [prices]")
    cli(*cost, "").refused("unknown chip ''")
    cli(*cost, "akd1000").refused("akd1000 has no cores to count on", "--chip loihi2")


def test_cuda_where_there_is_none(cli: Command, quickstart: Quickstart, tmp_path: Path) -> None:
    """--device cuda does not fall back silently."""
    words = ("--device cuda", "no CUDA device", "--device cpu")
    cli("simulate", quickstart.net, "--device", "cuda", "--output", tmp_path / "o.npz").refused(*words)
    cli("train", "digits-tdbn", "--out", tmp_path / "run", "--device", "cuda").refused(*words)
    assert not list(tmp_path.rglob("*.pt"))
    assert not (tmp_path / "o.npz").exists()


def test_data_and_input_exclude_each_other(cli: Command, quickstart: Quickstart, tmp_path: Path) -> None:
    """Two sources of samples are refused."""
    given = tmp_path / "in.npz"
    cli("simulate", quickstart.net, "--dataset", "digits", "--input", given).refused("--dataset and --input exclude")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("cifar", ("no data set 'cifar'", "cifar10")),
        ("digits:", ("nothing after the colon",)),
        ("digits:val", ("no split 'val'", "train, test")),
        ("folder", ("--data DIR",)),
    ],
)
def test_data_that_is_not_known(spec: str, words: tuple[str, ...], cli: Command, quickstart: Quickstart) -> None:
    """A data set or split that is not known is named with those that are."""
    cli("simulate", quickstart.net, "--dataset", spec).refused(*words)


def test_data_set_that_cannot_be_had(
    cli: Command, quickstart: Quickstart, fashion: Quickstart, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without files and network every command names the data set's files, the address and --data."""
    import pooch
    import requests

    def no_network(*_args: Any, **_options: Any) -> None:
        raise requests.exceptions.ConnectionError("no route")

    monkeypatch.setattr(pooch.HTTPDownloader, "__call__", no_network)
    empty = tmp_path / "empty"
    empty.mkdir()
    words = ("no connection", "http", "--data", str(empty))
    for arguments in (
        ("train", "fashion-tdbn", "--out", tmp_path / "run", "--data", empty, "--device", "cpu"),
        ("simulate", fashion.net, "--data", empty, "--output", tmp_path / "o.npz"),
        ("encode", fashion.net, "--data", empty, "--output", tmp_path / "o.npz"),
        ("simulate", quickstart.net, "--dataset", "cifar10", "--data", empty),
    ):
        cli(*arguments).refused(*words)
    missing = tmp_path / "missing"
    for net in (fashion.net, quickstart.net):  # digits need no folder, but one that is named must be there
        cli("simulate", net, "--data", missing).refused(str(missing), "does not exist")
        cli("simulate", net, "--data", "digits:train").refused("does not exist", "a data set's name goes to --dataset")
    # what never downloads says so too when a folder was named
    cli("fold-and-export", fashion.model, "-o", tmp_path / "m.net", "--data", empty).refused(str(empty))
    cli("verify", fashion.model, fashion.net, "--no-lava", "--data", empty).refused(str(empty))
    assert snapshot(tmp_path) == {"empty": None}


def test_no_python_for_lava(
    cli: Command, quickstart: Quickstart, good_input: np.ndarray[Any, Any], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """An interpreter that does not run is named with its variable; no environment and no output appears."""
    broken, cache, tools = tmp_path / "python", tmp_path / "cache", tmp_path / "bin"
    written(broken, b"#!/bin/sh\nexit 3\n").chmod(0o755)
    cache.mkdir()
    tools.mkdir()
    np.savez(tmp_path / "in.npz", input=good_input)
    monkeypatch.setenv("PATH", str(tools))
    monkeypatch.setenv(CACHE_VARIABLE, str(cache))
    monkeypatch.setenv(LIGHT.variable, str(broken))
    before = snapshot(tmp_path)
    words = (LIGHT.variable, str(broken), "3.10 or 3.11 or 3.12")
    cli("lava", "setup").refused(*words)
    cli("lava", "run", quickstart.net, "--input", tmp_path / "in.npz", "--output", tmp_path / "o.npz").refused(*words)
    cli("verify", quickstart.model, quickstart.net, "--samples", "1", "--json", tmp_path / "v.json").refused(*words)
    assert snapshot(tmp_path) == before
    cli("verify", quickstart.model, quickstart.net, "--samples", "1", "--no-lava").ok()

    # not set, and nothing that fits on this machine
    monkeypatch.delenv(LIGHT.variable)
    monkeypatch.setenv("PYENV_ROOT", str(tools))
    monkeypatch.setitem(lava.KINDS, False, replace(lava.LIGHT, pythons=("3.1",)))
    monkeypatch.setattr(lava, "LIGHT", lava.KINDS[False])
    done = cli("lava", "setup")
    assert done.code == 2
    assert "Traceback" not in done.err
    assert done.err.splitlines()[-1].startswith(f"error: no Python 3.1 to run Lava with: none on PATH; install one or "
                                                f"set {LIGHT.variable}")  # fmt: skip
    assert not list(cache.rglob("ready.json"))
    assert {path.suffix for path in cache.rglob("*") if path.is_file()} <= {".lock"}


# --------------------------------------------------------------------------------------- where results go


def outputs(quickstart: Quickstart, run: Path, target: Path) -> dict[str, tuple[str | Path, ...]]:
    """Commands that write to `target`, by what they write."""
    return {
        "net": ("fold-and-export", quickstart.model, "-o", target, "--calibration", "0"),
        "export.json": ("fold-and-export", quickstart.model, "-o", run / "o.net", "--calibration", "0",
                        "--json", target),
        "trace": ("simulate", quickstart.net, "--limit", "2", "--output", target),
        "simulate.json": ("simulate", quickstart.net, "--limit", "2", "--json", target),
        "input": ("encode", quickstart.net, "--limit", "2", "--output", target),
        "verify.json": ("verify", quickstart.model, quickstart.net, "--no-lava", "--samples", "1", "--json", target),
    }  # fmt: skip


OUTPUTS = ("net", "export.json", "trace", "simulate.json", "input", "verify.json")


@pytest.mark.parametrize("output", OUTPUTS)
def test_output_in_a_place_that_cannot_be(output: str, cli: Command, quickstart: Quickstart, tmp_path: Path) -> None:
    """A path under a file, or one that is a folder, is refused by name; both stay as they are."""
    file, folder = written(tmp_path / "file"), tmp_path / "folder"
    folder.mkdir()
    written(folder / "kept")
    under = file / "deeper" / "out"
    cli(*outputs(quickstart, tmp_path, under)[output]).refused(f"cannot write '{under}'")
    cli(*outputs(quickstart, tmp_path, folder)[output]).refused(f"cannot write '{folder}'", "is a folder")
    (tmp_path / "o.net").unlink(missing_ok=True)
    assert snapshot(tmp_path) == {"file": OLD, "folder": None, "folder/kept": OLD}


@pytest.mark.parametrize("output", OUTPUTS)
def test_output_in_a_folder_that_is_not_there_yet(
    output: str, cli: Command, quickstart: Quickstart, tmp_path: Path
) -> None:
    """The folder is made, and holds the result alone."""
    target = tmp_path / "a" / "b" / "out"
    cli(*outputs(quickstart, tmp_path, target)[output]).ok()
    assert list(target.parent.iterdir()) == [target]
    assert target.stat().st_size > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("simulate model.net --limit 2 --json model.net", "--json 'model.net' is the network itself"),
        ("simulate model.net --limit 2 --output link.net", "-o 'link.net' is the network itself"),
        ("simulate model.net --input in.npz --json in.npz", "--json 'in.npz' is the input itself"),
        ("simulate model.net --input in.npz --output new --json new", "-o 'new' is the file for --json itself"),
        ("verify model.pt model.net --no-lava --samples 1 --json model.pt", "--json 'model.pt' is the model itself"),
        (
            "verify model.pt model.net --no-lava --samples 1 --json model.net",
            "--json 'model.net' is the network itself",
        ),
        ("fit model.net --json model.net", "--json 'model.net' is the network itself"),
        ("show model.net --json model.net", "--json 'model.net' is the network itself"),
        ("encode model.net -o model.net", "-o 'model.net' is the network itself"),
        ("explore model.net -o model.net", "-o 'model.net' is the network itself"),
        ("lava run model.net --input in.npz --output in.npz", "-o 'in.npz' is the input itself"),
        ("fold-and-export model.pt --json model.net", "-o 'model.net' is the file for --json itself"),
        (
            "simulate model.net --limit 2 --json report.json",
            "--json 'report.json' is what snn2chip keeps of a run there",
        ),
        ("simulate model.net --limit 2 --json -", "cannot write '-': what is printed is for people; name a file"),
    ],
)
def test_no_file_is_written_over_that_a_command_reads(
    arguments: str, message: str, cli: Command, quickstart: Quickstart, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By whatever name; a trained network would be gone, and the exit code 0."""
    monkeypatch.chdir(tmp_path)
    for path in (quickstart.model, quickstart.net):
        shutil.copy(path, tmp_path)
    (tmp_path / "link.net").symlink_to("model.net")
    np.savez("in.npz", input=np.zeros((1, 4, 1, 8, 8), np.int32))
    Path("report.json").write_text(json.dumps({"format": RECORD_FORMAT}))
    before = snapshot(tmp_path)
    cli(*arguments.split()).refused(message)
    assert snapshot(tmp_path) == before


def test_a_folder_where_a_file_is_and_files_the_wrong_way_round(
    cli: Command, quickstart: Quickstart, tmp_path: Path
) -> None:
    """Each says what to give."""
    cli("report", quickstart.net).refused("is a file; give the folder that it is in", str(quickstart.folder))
    cli("report", tmp_path / "none").refused("cannot read folder", "it is not there")
    cli("verify", quickstart.net, quickstart.model).refused("is no .net file; give what was trained first")
    for command in (("retrain", quickstart.net, "--timesteps", "2"), ("collapse", quickstart.net)):
        cli(*command).refused("is an HDF5 file, a .net say, and no model.pt; give what was trained")
    taken = written(tmp_path / "file")
    said = cli("simulate", quickstart.net, "--limit", "1", "--json", taken / "x.json").refused("Not a directory")
    assert said.endswith("; choose another place")  # there is room enough


def test_train_into_a_file(cli: Command, tmp_path: Path) -> None:
    """--out that is a file is refused before training."""
    file = written(tmp_path / "file")
    for out in (file, file / "run"):
        cli("train", "digits-tdbn", "--out", out, "--device", "cpu").refused(str(out))
    assert snapshot(tmp_path) == {"file": OLD}


# ------------------------------------------------------------------------------------------------ disk full

# A limit on the size of files is what a full disk is to a program: write() fails half-way.
FULL = """
import resource, signal, sys
import matplotlib.font_manager  # writes a cache of its own
import typer
from snn2chip import cli
from snn2chip.nn import model_file
from snn2chip.report import curves
from pathlib import Path

limit, what, *arguments = sys.argv[1:]
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
if what != "cli":
    model = model_file.load(arguments[0])
resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))

@cli.guarded
def write():
    target = Path(arguments[1])
    if what == "model":
        model_file.save(target, model.network, model.recipe, max_value=16, classes=model.classes, metrics={})
    else:
        names = ("timesteps", "accuracy", "spikes", "accumulates", "multiply_accumulates", "ann_multiply_accumulates")
        curves.plot_timesteps([dict.fromkeys(names, 1)], target, "title")

if what == "cli":
    cli.main(arguments)
try:
    write()
except typer.Exit as stop:
    sys.exit(stop.exit_code)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no limits on file sizes")
@pytest.mark.parametrize("output", ["model.pt", "iir.png", "net", "trace", "simulate.json", "input", "report.html"])
def test_disk_full(output: str, quickstart: Quickstart, tmp_path: Path) -> None:
    """A write that fails half-way is one line naming the file; the old file stays and no part of the new one."""
    target = tmp_path / ("report.html" if output == "report.html" else "out")
    limit = 100 if output in ("simulate.json", "input") else 1000
    arguments: tuple[str | Path, ...]
    if output in ("model.pt", "iir.png"):
        arguments = ("model" if output == "model.pt" else "curves", quickstart.model, target)
    elif output == "report.html":
        quickstart.copy(tmp_path / "run")
        target = tmp_path / "run" / "report.html"
        arguments = ("cli", "report", tmp_path / "run", "--samples", "1")
    else:
        arguments = ("cli", *outputs(quickstart, tmp_path, target)[output])
    written(target)
    before = snapshot(tmp_path)
    Child(FULL, limit, *arguments).finish().refused(f"cannot write '{target}'", "free some space")
    assert snapshot(tmp_path) == before


@pytest.mark.skipif(sys.platform == "win32", reason="no limits on file sizes")
def test_disk_full_while_training(tmp_path: Path) -> None:
    """Training that cannot keep its checkpoint stops with one line, and leaves no part of a file."""
    settings = ("--set", "train.epochs=1", "--set", "data.train_limit=128", "--set", "model.timesteps=1")
    done = Child(FULL, 3000, "cli", "train", "digits-tdbn", "--out", tmp_path, "--device", "cpu", *settings)
    done.finish().refused("cannot write", str(tmp_path), "free some space")
    assert {path.name for path in tmp_path.iterdir()} <= {"metrics.jsonl"}


# --------------------------------------------------------------------------------------------------- Ctrl-C

# The signal comes from the process itself when the named function has run for the n-th time: always there.
INTERRUPT = """
import os, pkgutil, signal, sys
from snn2chip import cli

place, count, *arguments = sys.argv[1:]
owner, _, name = place.rpartition(".")
owner = pkgutil.resolve_name(owner)
original, calls = getattr(owner, name), 0

def then_interrupt(*args, **kwargs):
    global calls
    result = original(*args, **kwargs)
    calls += 1
    if calls == int(count):
        os.kill(os.getpid(), signal.SIGINT)
    return result

setattr(owner, name, then_interrupt)
cli.main(arguments)
"""


@pytest.mark.parametrize(
    ("output", "place", "count"),
    [
        ("net", "snn2chip.passes.pipeline.quantize", 1),
        ("net", "snn2chip.formats.netx.write._write_layer", 2),
        ("trace", "snn2chip.simulate.run.simulate", 1),
        ("trace", "numpy.lib.format.write_array", 2),
        ("verify.json", "snn2chip.simulate.dense:DenseEngine.run", 1),
    ],
)
def test_interrupt(output: str, place: str, count: int, quickstart: Quickstart, tmp_path: Path) -> None:
    """Ctrl-C while computing or half-way through the file: one word, 130, the old file and no part of a new one."""
    target = written(tmp_path / "out")
    done = Child(INTERRUPT, place, count, *outputs(quickstart, tmp_path, target)[output]).finish()
    assert (done.code, done.err) == (130, "interrupted\n")
    assert snapshot(tmp_path) == {"out": OLD}


# --------------------------------------------------------------------------------- JSON files beside a run


@pytest.mark.parametrize("name", ["export.json", "simulate.json", "verify.json", "report.json"])
@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[1, 2]", b"{}", b'"text"', b'{"samples": "many"}'])
def test_report_of_damaged_json(
    name: str, content: bytes, cli: Command, quickstart: Quickstart, tmp_path: Path
) -> None:
    """report names its record if it is damaged, publish a JSON file that was cut short, and they write nothing."""
    run = quickstart.copy(tmp_path / "run").folder
    zoo = tmp_path / "zoo"
    zoo.mkdir()
    written(zoo / "recipe.toml")
    written(run / "report.html")
    if not (run / "verify.json").exists():
        (run / "verify.json").write_text(json.dumps({"passed": True, "rungs": []}))
    written(run / name, content)
    before = snapshot(tmp_path)
    if name == "report.json":
        cli("report", run).refused(name)
    elif content == b"{":
        run_in_process("publish", run, zoo, main=zoo_tool.main).refused(name)
    assert snapshot(tmp_path) == before


def test_wrong_usage_has_no_traceback(cli: Command, quickstart: Quickstart) -> None:
    """An option or a command that does not exist, or a value out of range, is a usage error with exit code 2."""
    for arguments in (
        ("simulat",),
        ("simulate",),
        ("simulate", quickstart.net, "--limit", "0"),
        ("simulate", quickstart.net, "--limit", "many"),
        ("simulate", quickstart.net, "--device", "tpu"),
        ("fold-and-export", quickstart.model, "--scale", "min"),
        ("verify", quickstart.model),
    ):
        done = cli(*arguments)
        assert done.code == 2, arguments
        assert "Traceback" not in done.err
        assert "Usage" in done.err


def test_a_device_is_not_replaced(tmp_path: Path) -> None:
    """What is neither a file nor a folder stays: the rename at the end would put a file in its place."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(InputError, match="it is a device or a pipe"), atomic_path(pipe) as part:
        part.write_text("x")
    assert pipe.is_fifo()
    assert list(tmp_path.iterdir()) == [pipe]
