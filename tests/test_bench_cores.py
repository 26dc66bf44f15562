"""The bench of accuracy against cores goes on where it was, skips what is not there; its page is its figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cores
import pytest
from conftest import ROOT

from snn2chip.errors import DataError

DOCS = ROOT / "docs"


def test_a_stopped_run_goes_on_and_an_absent_data_set_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured: list[int] = []
    stop = 3

    def measure(path: Path, bits: int, data: Path | None) -> dict[str, Any]:
        if path.parent.name != "digits-tdbn":
            raise DataError("no images here")
        if bits == stop:
            raise KeyboardInterrupt
        measured.append(bits)
        about = {"samples": 10, "float": 0.9, "dataset": "digits"}
        if bits == 2:
            return {**about, "refused": "too few bits"}
        return {**about, "accuracy": bits / 10, "fits": bits > 4, "cores": [200, 100], "chips": [2, 1], "seconds": 1.0}

    monkeypatch.setattr(cores, "measure", measure)
    page = tmp_path / "cores.md"
    page.write_text(f"before\n{cores.BEGIN}\n{cores.END}\nafter\n")
    options = ["digits-tdbn", "fashion-tdbn", "--json", str(tmp_path / "cores.json"), "--page", str(page)]
    options += ["--picture", str(tmp_path / "cores.png")]
    with pytest.raises(KeyboardInterrupt):
        cores.main(options)
    assert measured == [8, 7, 6, 5, 4]
    stop = 0
    cores.main(options)
    assert measured == [8, 7, 6, 5, 4, 3, 2]
    assert "fashion-tdbn: skipped: no images here" in capsys.readouterr().out
    text = page.read_text()
    assert text.startswith("before") and text.endswith("after\n")
    row = "| digits-tdbn | 4 | rounded after training | 10 | 90.00 % | 40.00 % | 200 / 100* | 2 / 1* |"
    assert row in text and "| refused | - | - |" in text
    assert (tmp_path / "cores.png").stat().st_size > 1000
    with pytest.raises(SystemExit):
        cores.main(["nothing"])


def test_the_page_is_its_figures() -> None:
    kept = json.loads((DOCS / "cores.json").read_text())
    assert cores.page(kept["rows"], kept["about"]) in (DOCS / "cores.md").read_text()
