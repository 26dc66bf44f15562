"""The record of a run: an entry counts as long as its file is as it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from snn2chip.errors import InputError
from snn2chip.report.record import NAME, PAGE, Record, tell
from snn2chip.report.summary import known

SIMULATED = {"samples": 10, "timesteps": 2, "spikes": {"1": 40}, "layers": {}, "accuracy": 0.9, "dataset": "x:test"}


def begun(folder: Path) -> Path:
    """A folder with a record of a .net file."""
    net = folder / "some.net"
    net.write_bytes(b"one")
    record = Record(folder)
    record.add("simulate", "net", net, SIMULATED)
    record.save()
    return net


def test_entries_go_with_their_file(tmp_path: Path) -> None:
    net = begun(tmp_path)
    record = Record.at(tmp_path)
    assert record is not None and record.entries["simulate"]["samples"] == 10
    net.write_bytes(b"two")
    facts, said = tell(net, "verify", {"passed": True, "rungs": [], "notes": [], "samples": 3})
    assert set(facts) == {"verify"} and said == f"wrote {tmp_path / PAGE}"
    assert "Verified" in (tmp_path / PAGE).read_text()


def test_a_simulation_of_fewer_samples_replaces_none_of_more(tmp_path: Path) -> None:
    net = begun(tmp_path)
    facts, said = tell(net, "simulate", SIMULATED | {"samples": 2, "accuracy": 0.5})
    assert facts["simulate"]["samples"] == 2 and said == ""
    assert json.loads((tmp_path / NAME).read_text())["entries"]["simulate"]["samples"] == 10


def verdict(*names: str, broken: str = "", samples: int = 3) -> dict[str, Any]:
    """What `verify` found; the rung called `broken` differs."""
    fields: dict[str, Any] = {"mismatches": 0, "compared": 9, "first": None, "detail": "", "proved": False}
    rungs = [{"name": name, "passed": name != broken, "spikes": {}, **fields} for name in names]
    return {"passed": not broken, "rungs": rungs, "notes": [], "samples": samples}


LAVA = "dense = Lava"


@pytest.mark.parametrize("broken", ["", LAVA])
def test_a_verdict_of_fewer_rungs_replaces_none_of_more(broken: str, tmp_path: Path) -> None:
    """Lava's, whether it held or not, stays; that the others were held again, and when, is said beside it."""
    net = begun(tmp_path)
    tell(net, "verify", verdict("a = b", LAVA, broken=broken))
    facts, said = tell(net, "verify", verdict("a = b", samples=7))
    assert facts["verify"] == verdict("a = b", samples=7) and said == f"wrote {tmp_path / PAGE}"
    kept = json.loads((tmp_path / NAME).read_text())["entries"]["verify"]
    assert [rung["name"] for rung in kept["rungs"]] == ["a = b", LAVA] and kept["passed"] == (not broken)
    assert kept["again"].items() >= {"samples": 7, "without": [LAVA]}.items()
    page = (tmp_path / PAGE).read_text()
    assert f"Once more on {kept['again']['when']}, 7 samples, without {LAVA}" in page
    assert f"{'BROKEN' if broken else 'Lava 3 samples'}" in page and kept["when"] in page


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (verdict("a = b", LAVA), verdict("a = b", LAVA)),
        (verdict("a = b", LAVA), verdict("a = b", LAVA, "x")),
        (verdict("a = b", LAVA), verdict("a = b", broken="a = b")),
        (verdict("a = b", LAVA, broken="a = b"), verdict("a = b")),
    ],
    ids=["as many rungs", "more rungs", "one broken", "one mended"],
)
def test_a_verdict_that_replaces(first: dict[str, Any], second: dict[str, Any], tmp_path: Path) -> None:
    net = begun(tmp_path)
    tell(net, "verify", first)
    tell(net, "verify", second)
    kept = json.loads((tmp_path / NAME).read_text())["entries"]["verify"]
    assert {key: kept[key] for key in second} == second and "again" not in kept


def test_no_record_no_page(tmp_path: Path) -> None:
    """Commands write nothing beside files that no run began."""
    (tmp_path / "some.net").write_bytes(b"one")
    facts, said = tell(tmp_path / "some.net", "simulate", SIMULATED)
    assert facts == {"simulate": SIMULATED} and said == ""
    assert [path.name for path in tmp_path.iterdir()] == ["some.net"]


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"format": "snn2chip-report", "version": 99}', '"x"'])
def test_a_damaged_record_is_named_and_left(content: str, tmp_path: Path) -> None:
    """`report` refuses it; a command that only adds to it says so and has done its own work."""
    net = begun(tmp_path)
    (tmp_path / NAME).write_text(content)
    with pytest.raises(InputError, match=NAME):
        Record.at(tmp_path)
    facts, said = tell(net, "simulate", SIMULATED)
    assert facts == {"simulate": SIMULATED} and NAME in said and said.startswith(f"{PAGE} is as it was: ")
    assert (tmp_path / NAME).read_text() == content


def test_a_cost_that_was_only_seen_counts() -> None:
    """The simulation says accuracy and spikes, the samples of the page what it did not count."""
    seen = {"simulate": SIMULATED | {"samples": 3, "cost": {"chip": "loihi2"}}}
    assert known({"seen": seen}) == {"seen": seen} | seen
    assert known({"seen": seen, "simulate": SIMULATED})["simulate"] == SIMULATED | {"cost": {"chip": "loihi2"}}
    own = SIMULATED | {"cost": {"chip": "loihi1"}}
    assert known({"seen": seen, "simulate": own})["simulate"] == own and known({}) == {}
