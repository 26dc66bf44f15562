"""The documentation as a site: every page has its place, every link its target, nothing comes from elsewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, child_environment
from site_hook import on_page_markdown

PAGES = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}


def test_every_page_has_one_place() -> None:
    """Without mkdocs, too: its strict build says no more than that a page is missing."""
    places = re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(places) == len(set(places))
    assert set(places) == PAGES


@pytest.mark.parametrize(
    ("markdown", "shown"),
    [
        ("see [a card](../models/digits-tdbn/card.md)", "see a card (`models/digits-tdbn/card.md`)"),
        ("[x](../../README.md#commands).", "x (`README.md`)."),
        ("[fit](fit.md), [b](decisions/0001-input-centre.md#why)", None),
    ],
)
def test_links_that_leave_the_documentation_name_the_file(markdown: str, shown: str | None) -> None:
    assert on_page_markdown(markdown) == (shown or markdown)


def test_the_site_builds_without_a_warning_and_loads_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        env=child_environment(NO_MKDOCS_2_WARNING="1"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    for page in tmp_path.rglob("*.html"):
        loaded = re.findall(
            r"<(?:script|img|iframe)[^>]*\ssrc=\"([^\"]+)|<link[^>]*\shref=\"([^\"]+)", page.read_text("utf-8")
        )
        assert loaded and not [each for each in loaded if any(url.startswith(("http", "//")) for url in each)]
