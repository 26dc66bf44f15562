"""The pictures of the documentation: taken of small pages, in few colours and whole; what is refused, and how."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, Command, Quickstart, child_environment
from PIL import Image

from snn2chip.report.page import render


def take(*arguments: str | Path, **changes: str) -> subprocess.CompletedProcess[str]:
    """`python tools/screenshots.py ARGUMENTS` as a process of its own."""
    command = [sys.executable, ROOT / "tools" / "screenshots.py", *arguments]
    environment = child_environment(**changes)
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


def refused(done: subprocess.CompletedProcess[str], reason: str) -> None:
    """One line on stderr, exit code 2."""
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and reason in line


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """report.html of a run of which nothing is known."""
    path = tmp_path / "run" / "report.html"
    path.parent.mkdir()
    path.write_text(render({}), encoding="utf-8")
    return path


def playwright(folder: Path, api: str | None) -> dict[str, str]:
    """Variables that put a package `playwright` before any other, with `api` as its sync_api if given."""
    (folder / "playwright").mkdir(parents=True)
    (folder / "playwright" / "__init__.py").touch()
    if api is not None:
        (folder / "playwright" / "sync_api.py").write_text(api, encoding="utf-8")
    return {"PYTHONPATH": f"{folder}:{ROOT}"}


@pytest.mark.parametrize("kind", ["report", "explore"])
def test_what_is_missing_is_named(kind: str, page: Path, tmp_path: Path) -> None:
    """The page, Playwright, and Chromium: before anything is written."""
    target = tmp_path / "picture.png"
    refused(take(kind, tmp_path / "none.html", target), f"cannot read '{tmp_path / 'none.html'}': no such file")
    refused(take(kind, page, target, **playwright(tmp_path / "bare", None)), "pip install 'snn2chip[browser]'")
    held = playwright(tmp_path / "held", "sync_playwright = Error = None\n")
    refused(take(kind, page, target, **held, CHROMIUM="", PATH=str(tmp_path)), "apt install chromium")
    refused(take(kind, page, target, **held, CHROMIUM=str(tmp_path / "none")), "apt install chromium")
    assert not target.exists()


@pytest.mark.browser
def test_pages_of_which_there_is_no_such_picture(chromium: Any, page: Path, tmp_path: Path) -> None:
    """A report without samples, and a page that is no network's."""
    target = tmp_path / "picture.png"
    refused(take("report", page, target), f"run snn2chip report {page.parent} --samples 20")
    refused(take("explore", page, target), f"'{page}' does not show what the picture is of")
    assert not target.exists()


def pixels(path: Path, done: subprocess.CompletedProcess[str]) -> np.ndarray:
    """Grey values of a picture that has just been taken, which is one of few colours and of the window's width."""
    assert done.returncode == 0, done.stderr
    with Image.open(path) as image:
        assert (image.format, image.mode, image.width) == ("PNG", "P", 1100)
        assert f"wrote {path}: 1100x{image.height}, {path.stat().st_size:,} bytes" in done.stdout
        grey: np.ndarray = np.asarray(image.convert("L"))
    return grey


def drawn(grey: np.ndarray) -> None:
    """Nowhere is a third of the window's height of one colour, as where a page is empty or is cut off."""
    assert np.median(grey) > 200, "light"
    for top in range(0, len(grey) - 300, 100):
        assert grey[top : top + 300].std() > 5, f"empty below {top} of {len(grey)}"


@pytest.mark.browser
def test_the_picture_of_a_report(chromium: Any, quickstart: Quickstart, cli: Command, tmp_path: Path) -> None:
    """From the top of the page to the end of what samples say, and no further."""
    run, target = quickstart.copy(tmp_path / "run"), tmp_path / "report.png"
    cli("report", run.folder, "--samples", "12", "--pictures", "2").ok()
    grey = pixels(target, take("report", run.folder / "report.html", target))
    drawn(grey)
    tab = chromium.new_page(viewport={"width": 1100, "height": 900})
    tab.goto((run.folder / "report.html").as_uri())
    box, whole = tab.locator("#accuracy").bounding_box(), tab.evaluate("document.documentElement.scrollHeight")
    tab.close()
    assert abs(len(grey) - (box["y"] + box["height"] + 16)) < 2 and len(grey) < whole - 100


@pytest.mark.browser
def test_the_picture_of_a_network(chromium: Any, quickstart: Quickstart, cli: Command, tmp_path: Path) -> None:
    """The whole page, at its second step: the same network at its first step looks otherwise."""
    path, target = tmp_path / "digits.html", tmp_path / "explore.png"
    cli("explore", quickstart.net, "--output", path).ok()
    grey = pixels(target, take("explore", path, target))
    drawn(grey)
    tab = chromium.new_page(viewport={"width": 1100, "height": 900}, color_scheme="light")
    tab.goto(path.as_uri())
    tab.locator("#main").wait_for(state="visible")
    tab.screenshot(path=tmp_path / "first.png", full_page=True)
    tab.close()
    with Image.open(tmp_path / "first.png") as image:
        first = np.asarray(image.convert("L"))
    assert first.shape != grey.shape or np.abs(first.astype(int) - grey).max() > 100
