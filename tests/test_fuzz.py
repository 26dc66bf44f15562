"""Damaged and hostile files: one line that names the file, never a crash, a hang, or more than 2 GB.

`SNN2CHIP_FUZZ_COUNT` (files for every reader, of the slow test) and `SNN2CHIP_FUZZ_SEED` make it run for longer and on
other files. A failure is printed with the command that repeats it.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, Child
from damage import BYTES, damage
from fuzzing import READERS, Campaign, Result

SEED = int(os.environ.get("SNN2CHIP_FUZZ_SEED", "0"))
FUZZING = f"import os, runpy; os.chdir({str(ROOT)!r}); runpy.run_module('tests.fuzzing', None, '__main__', True)"
COUNT = int(os.environ.get("SNN2CHIP_FUZZ_COUNT", "11000"))
NEEDS = {"nir": "nir", "onnx": "onnx", "aedat4": "faery"}


def run(reader: str, count: int, folder: Path, seed: int = SEED) -> Campaign:
    """Make and read files in a process of their own, whose memory is not that of the other tests."""
    if reader in NEEDS and not importlib.util.find_spec(NEEDS[reader]):
        pytest.skip(f"the package {NEEDS[reader]} is not installed")
    out = folder / "results.jsonl"
    options = ("--reader", reader, "--seed", seed, "--count", count, "--json", out)
    done = Child(FUZZING, *options).finish(7000)
    assert out.exists(), f"{options}\n{done.out}{done.err}"
    results = [Result(**json.loads(line)) for line in out.read_text(encoding="utf-8").splitlines()]
    campaign = Campaign(reader, seed, results)
    said = "\n".join(f"{campaign.command(bad)}\n  {bad.outcome}: {bad.message}" for bad in campaign.failures)
    assert not said and done.code == 0, f"{said}\n{done.out[-2000:]}{done.err}"
    assert [result.case for result in results] == list(range(count))
    assert sum(result.outcome == "not made" for result in results) <= count / 100
    return campaign


def reaches_deep(campaign: Campaign) -> None:
    """The files are neither all refused at the door nor all read: many kinds of damage, many reasons."""
    made = [result for result in campaign.results if result.what]  # not of all could a file be made
    mutants = [result for result in made if not result.what[0].startswith("seed:")]
    refused = [result for result in mutants if result.outcome == "refused"]
    counts, wanted = campaign.reasons.most_common(), READERS[campaign.reader].reasons
    assert len(counts) >= wanted, counts
    if wanted == 10:
        assert len(mutants) / 4 < len(refused) < len(mutants), campaign.summary()
        # those that HDF5, protobuf or the archive refuse as a whole are one reason, or few
        assert counts[0][1] < len(refused) / 2, counts[:3]


@pytest.mark.parametrize("reader", READERS)
def test_damaged_files(reader: str, tmp_path: Path) -> None:
    """Some dozens of files for every reader."""
    run(reader, 50, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("reader", READERS)
def test_thousands_of_damaged_files(reader: str, tmp_path: Path) -> None:
    """More than 130,000 files together; every kind of damage is among them."""
    campaign = run(reader, COUNT, tmp_path)
    reaches_deep(campaign)
    if COUNT >= 2500:
        kinds = importlib.import_module(READERS[reader].mutator.partition(":")[0]).CHANGES
        assert set(kinds) <= set(campaign.mutators), set(kinds) - set(campaign.mutators)


def test_a_case_is_the_same_file_every_time(tmp_path: Path) -> None:
    """The command that a failure is printed with makes the same bytes."""
    options = ("--reader", "netx", "--seed", "5", "--case", "23", "--keep")
    files = [tmp_path / "first", tmp_path / "second"]
    first, second = (json.loads(Child(FUZZING, *options, file).finish().ok()) for file in files)
    assert first["case"] == second["case"] == 23 and first["what"] == second["what"]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_damage_of_bytes_is_done() -> None:
    """What is said to have been done to a file stands in its bytes, for every kind."""
    rng, whole = np.random.default_rng(SEED), bytes(range(256)) * 20
    done = {said.partition(":")[0] for data, said in (damage(whole, rng) for _ in range(300)) if data != whole}
    assert done == set(BYTES)
