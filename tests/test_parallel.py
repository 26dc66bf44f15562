"""Several processes compute what one does: norms, losses, files, simulation; errors and Ctrl-C end them all."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import COMMAND, Child, Command, Quickstart, tiny_recipe

from snn2chip import data, parallel
from snn2chip.errors import InputError
from snn2chip.train.loop import Trainer
from snn2chip.train.start_from_onnx import recipe_text

HERE = Path(__file__).parent
gloo = pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()), reason="torch without gloo"
)
pytestmark = gloo


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def start(commands: Sequence[Sequence[object]], code: str = COMMAND) -> list[Child]:
    """A process for each command, with the variables that torchrun sets."""
    port, count = str(free_port()), len(commands)
    own = [{"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)} for rank in range(count)]
    return [
        Child(code, *command, MASTER_ADDR="127.0.0.1", MASTER_PORT=port, **(own[rank] if count > 1 else {}))
        for rank, command in enumerate(commands)
    ]


def torchrun(*arguments: object) -> Child:
    """The launcher itself, with two processes of `snn2chip ARGUMENTS`."""
    launcher = "import sys\nfrom torch.distributed import run\nrun.main(sys.argv[1:])"
    options = ("--nproc-per-node", "2", "--master-port", free_port(), "-m", "snn2chip")
    return Child(launcher, *options, *arguments)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, Any]]]:
    """What one process and two found, by their number and rank."""
    folder = tmp_path_factory.mktemp("parallel")
    worker = f"import runpy, sys; sys.path[0] = {str(HERE)!r}; runpy.run_module('parallel_worker', run_name='__main__')"
    groups = {count: start([(folder,)] * count, worker) for count in (1, 2)}
    for group in groups.values():
        for process in group:
            process.finish(120).ok()
    return {
        count: [torch.load(folder / f"found{count}-{rank}.pt", weights_only=True) for rank in range(count)]
        for count in groups
    }


Found = dict[int, list[dict[str, Any]]]


def test_exchanges(found: Found) -> None:
    """Sums, shares, objects and averaged gradients are what they say; alone() keeps to itself."""
    one, (first, second) = found[1][0], found[2]
    assert [(one["rank"], one["size"]), (first["rank"], first["size"]), second["rank"]] == [(0, 1), (0, 2), 1]
    assert one["share"] == [(0, 0), (0, 1), (0, 2), (0, 7)]
    for (a, b), (c, d), (_, end) in zip(first["share"], second["share"], one["share"], strict=True):
        assert a == 0 and b == c and d == end and abs((b - a) - (d - c)) <= 1
    assert one["sum"] == [1, 0.5] and first["sum"] == second["sum"] == [3, 1]
    assert first["alone"] == second["alone"] == one["alone"] == [1, 0, 3]
    assert first["from leader"] == second["from leader"] == "made by 0"
    assert first["all"] == second["all"] == [0, 10]
    assert (first["at leader"], second["at leader"]) == ([0, 10], None)
    assert one["gradients"][1] is None
    for process in (first, second):
        assert torch.equal(process["gradients"][0], torch.full((2, 3), 0.5))
        assert torch.equal(process["gradients"][1], torch.zeros(4))


@pytest.mark.parametrize("name", ["tdbn", "tdbn flat", "bntt", "bntt flat"])
def test_norms_over_processes_are_those_of_the_whole_batch(name: str, found: Found) -> None:
    """Outputs, gradients, running statistics; with a mean 10,000 times the deviation, and parts of 3 and 4 samples."""
    one, (first, second) = found[1][0]["norms"][name], [process["norms"][name] for process in found[2]]
    assert first["y"].shape[1] == 3 and second["y"].shape[1] == 4
    close = {"rtol": 1e-8, "atol": 1e-8}
    for key in ("y", "dx"):
        torch.testing.assert_close(torch.cat([first[key], second[key]], 1), one[key], **close)
        assert float(one[key].abs().max()) > 0.1
    for key in ("parameters", "statistics"):
        assert len(one[key]) >= 1
        for whole, mine, theirs in zip(one[key], first[key], second[key], strict=True):
            assert torch.equal(mine, theirs)
            torch.testing.assert_close(mine, whole, **close)


def test_training_over_processes_has_the_losses_of_one(found: Found) -> None:
    """Every step's loss, the weights and the accuracy; both processes end with the same bits."""
    one, (first, second) = found[1][0]["training"], [process["training"] for process in found[2]]
    assert len(one["losses"]) == 9 and one["losses"][0] > 0
    np.testing.assert_allclose(first["losses"], one["losses"], rtol=1e-6)
    assert first["losses"] == second["losses"]
    assert first["accuracy"] == second["accuracy"] == one["accuracy"]
    moved = 0.0
    for name, value in one["state"].items():
        assert torch.equal(first["state"][name], second["state"][name]), name
        torch.testing.assert_close(first["state"][name], value, rtol=1e-5, atol=1e-7)
        if name.endswith("bias"):
            moved = max(moved, float(value.abs().max()))
    assert moved > 1e-2  # it did learn


# -------------------------------------------------------------------------------------------------- the commands


def recipe(folder: Path, epochs: int) -> Path:
    path = folder / f"small{epochs}.toml"
    path.write_text(recipe_text(tiny_recipe(train__epochs=epochs)))
    return path


def test_torchrun_trains(tmp_path: Path) -> None:
    """The launcher itself: one process prints and writes, everything that a training leaves is there."""
    out = torchrun("train", recipe(tmp_path, 2), "--out", tmp_path / "out", "--device", "cpu").finish(120).ok()
    assert out.count("test accuracy") == 1 and out.count("epoch   2/2") == 1
    assert {"model.pt", "metrics.jsonl", "report.html", "report.json", "checkpoint.pt"} == {
        p.name for p in (tmp_path / "out").iterdir()
    }
    metrics = torch.load(tmp_path / "out" / "model.pt", weights_only=True)["metrics"]
    assert metrics["hardware"].endswith("2 processes")
    rows = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]


def test_a_broken_run_goes_on_to_the_same_bits(found: Found) -> None:
    """Ctrl-C to one process ends both after the same step, with a checkpoint; resumed, the weights are those of an
    unbroken run. It is the leader that writes."""
    for process in found[2]:
        broken = process["broken"]
        assert broken["interrupted"] and broken["stopped at"] == found[2][0]["broken"]["stopped at"]
        assert 0 < broken["stopped at"] < 8
        assert broken["files"] == ["checkpoint.pt", "metrics.jsonl"]
        assert len(broken["state"]) > 5
        for name, value in process["training"]["state"].items():
            assert torch.equal(value, broken["state"][name]), name
    alone = found[1][0]["broken"]
    assert not alone["interrupted"]


def test_ctrl_c_at_the_launcher(tmp_path: Path) -> None:
    """Ctrl-C as a terminal sends it to torchrun: everything ends, and the checkpoint is whole."""
    source = recipe(tmp_path, 60)
    process = torchrun("train", source, "--out", tmp_path / "out", "--device", "cpu")
    deadline = time.monotonic() + 60
    while not (tmp_path / "out" / "checkpoint.pt").exists():
        assert time.monotonic() < deadline and process.running()
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    done = process.finish(120)
    assert done.code != 0
    assert "go on with --resume" in done.err and done.out.count("60/60") == 0
    before = torch.load(tmp_path / "out" / "checkpoint.pt", weights_only=True)["progress"]["epoch"]
    assert 0 < before < 60


@pytest.mark.parametrize("case", ["recipe", "resume", "only one"])
def test_an_error_is_told_once(case: str, tmp_path: Path) -> None:
    """What several processes would complain about is one line from one; what only one meets, comes with its rank."""
    source = recipe(tmp_path, 1)
    given = {"recipe": [tmp_path / "nothing.toml"] * 2, "resume": [source] * 2, "only one": [source, tmp_path / "gone"]}
    word = {"recipe": "nothing.toml", "resume": "nothing to resume", "only one": "process 1: "}[case]
    more = ["--resume"] if case == "resume" else []
    commands = [["train", path, "--out", tmp_path / "out", "--device", "cpu", *more] for path in given[case]]
    results = [process.finish(120) for process in start(commands)]
    assert [done.code for done in results] == [2, 2], results
    said = "".join(done.err for done in results)
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and word in lines[0], results
    assert "Traceback" not in said


def test_a_batch_smaller_than_the_processes_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each process needs a sample of every batch."""
    monkeypatch.setattr(parallel, "size", lambda: 40)
    sets = data.load("digits", "train"), data.load("digits", "test")
    with pytest.raises(InputError, match=r"train\.batch_size 32 is less than the 40 processes; raise it, or lower"):
        Trainer(tiny_recipe(), *sets, tmp_path, fuse=False)


@pytest.mark.parametrize("limit", [1, 101])
def test_simulation_over_processes_is_that_of_one(
    limit: int, quickstart: Quickstart, tmp_path: Path, cli: Command
) -> None:
    """Scores, counts, accuracy, and every kept spike and voltage; one sample leaves a process without work."""
    arguments = ["simulate", quickstart.net, "--limit", limit, "--batch", 16, "--device", "cpu"]
    files = [{"json": tmp_path / f"{name}.json", "trace": tmp_path / f"{name}.npz"} for name in ("one", "two")]
    each = [[*arguments, "--json", file["json"], "--output", file["trace"]] for file in files]
    alone = cli(*map(str, each[0])).ok()
    printed, nothing = (process.finish(120).ok() for process in start([each[1]] * 2))
    assert nothing == ""

    def figures(text: str) -> list[str]:
        return [line for line in text.splitlines() if "wrote" not in line and "per second" not in line]

    one, two = (json.loads(file["json"].read_text()) for file in files)
    for timed in ("seconds", "samples_per_second"):
        del one[timed], two[timed]
    assert one == two and one["samples"] == limit
    assert figures(alone) and len(figures(printed)) == len(figures(alone))
    with np.load(files[0]["trace"]) as first, np.load(files[1]["trace"]) as second:
        assert first.files == second.files and len(first.files) > 2
        for name in first.files:
            assert np.array_equal(first[name], second[name]), name


def test_retrain_is_for_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands that are not shared among processes refuse several."""
    parallel.one_process_only("retrain")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="retrain runs in one process; start it without torchrun"):
        parallel.one_process_only("retrain")


def test_help_says_how(cli: Command) -> None:
    """`snn2chip train --help` names the launcher and what it does."""
    text = " ".join(cli("train", "--help").ok().split())
    assert "torchrun --nproc-per-node 2 -m" in text and "--resume" in text
