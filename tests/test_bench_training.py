"""The bench of the training step: its page is what its figures say, and its goals follow from them."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import speed_page
import training
import training_picture

DOCS = Path(__file__).resolve().parent.parent / "docs"
FIGURES = DOCS.parent / "bench" / "speed.json"


def _row(name: str, seconds: list[float], memory: int, allocator: str = "keep") -> dict[str, Any]:
    ordered = sorted(seconds)
    about = {"name": name, "title": training.title(name), "allocator": allocator, "spikes": []}
    return {
        **about,
        "seconds": ordered[1],
        "quartiles": [ordered[0], ordered[2]],
        "of_ann": 1.0,
        "memory": memory,
        "all_seconds": seconds,
    }


def _rows() -> list[dict[str, Any]]:
    failed = {"name": "norse", "title": "Norse", "allocator": "keep", "failed": "ImportError: no | norse"}
    return [
        _row("ann", [0.2, 0.1, 0.4], 100 << 20),
        _row("ours", [0.1, 0.2, 0.1], 50 << 20),
        _row("spikingjelly", [0.3, 0.3, 0.4], 90 << 20),
        _row("spikingjelly-compiled", [0.2, 0.2, 0.3], 95 << 20),
        _row("lava-dl", [0.9, 0.9, 0.9], 70 << 20),
        failed,
    ]


def test_goals_follow_from_the_figures() -> None:
    """Ratios are medians over rounds of the same round's; the best form and the leanest peer are found."""
    ann, jelly, memory = training.verdicts(_rows())
    # rounds: ours over the ANN 0.5, 2, 0.25; the compiled form over ours 2, 1, 3; over the ANN 1, 2, 0.75
    assert "without batch norm: 0.50 times the ANN" in ann
    assert "2.00 times faster than SpikingJelly 2.0.0, channels_last, torch.compile" in jelly
    assert "the ANN is 1.00 times faster" in jelly
    assert "50 MiB, the least of the others 70 MiB (lava-dl 0.6.0 slayer)" in memory


def test_a_page_of_them(tmp_path: Path) -> None:
    """Every contender has its line, what failed says why, and the picture can be drawn."""
    options = argparse.Namespace(timesteps=4, batch=32, rounds=3, out=tmp_path / "page")
    quartiles = {f"{what} {how}": [0.1, 0.2, 0.3] for what in ("step", "eval") for how in ("events", "dense")}
    own = [{"name": "net", "batch": 8, "timesteps": 4, "spikes": [0.1, 0.25], "seconds": quartiles}]
    text = training.markdown(_rows(), own, {"processor": "some"}, options)
    assert "| ANN (ReLU), channels_last | 200.0 (100.0-400.0) | 1.00 | 100 |  |" in text
    assert "ImportError: no / norse" in text
    assert "| net | 4 | 8 | 10% to 25%, layer by layer | 200 (100-300) | 200 (100-300) | 1.00 |" in text
    training_picture.draw(_rows(), tmp_path / "page.png")
    assert (tmp_path / "page.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("page", ["training", "engines"])
def test_the_shipped_pages_are_their_figures(page: str, tmp_path: Path) -> None:
    """Nothing in them is typed by hand: drawn again, they are the same."""
    if page == "training":
        kept = json.loads((DOCS / "training-speed.json").read_text())
        options = argparse.Namespace(**kept["settings"], out=Path("training-speed"))
        text = training.markdown(kept["rows"], kept["shipped"], kept["machine"], options)
        assert text == (DOCS / "training-speed.md").read_text()
        return
    shipped = (DOCS / "speed.md").read_text()
    (tmp_path / "speed.md").write_text(shipped)
    speed_page.write(FIGURES, tmp_path / "speed")
    assert (tmp_path / "speed.md").read_text() == shipped
