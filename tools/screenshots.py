"""The pictures of pages in the documentation, taken again in Chromium (`apt install chromium`, extra `browser`).

    python tools/screenshots.py report RUN/report.html [docs/report.png]
    python tools/screenshots.py explore FILE.html [docs/explore.png]

`make pictures DATA=CIFAR-10's folder` makes the pages before it. Run by the package's own Python, from a checkout.
"""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from PIL import Image

from snn2chip.cli.common import guarded
from snn2chip.errors import InputError, SetupError
from snn2chip.files import atomic_path
from snn2chip.text import first_line

WIDTH = 1100  # of the window, pixels
COLORS = 256  # a third of the bytes of all colours

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
@guarded
def report(
    page: Annotated[Path, typer.Argument(help="report.html of a run, with samples: `snn2chip report RUN`.")],
    picture: Annotated[Path, typer.Argument(help="What is written.")] = Path("docs/report.png"),
) -> None:
    """The top of the page of a run: its figures, the network, where accuracy is lost."""
    with opened(page) as tab:
        if tab.locator("#accuracy .confusion").count() == 0:
            raise InputError(f"'{page}' says nothing of samples; run snn2chip report {page.parent} --samples 20")
        save(tab, picture, tab.locator("#accuracy"))


@app.command()
@guarded
def explore(
    page: Annotated[Path, typer.Argument(help="What `snn2chip explore NET --output FILE.html` wrote, T of 2 or more.")],
    picture: Annotated[Path, typer.Argument(help="What is written.")] = Path("docs/explore.png"),
) -> None:
    """A network in the browser at its second step, looked at in its second layer, a neuron in the third channel."""
    with opened(page) as tab:
        tab.locator("#main").wait_for(state="visible")
        tab.click("#forward")
        tab.locator("#layers > *").nth(1).click()
        for name, value in (("channel", 2), ("row", 3), ("column", 3)):
            tab.fill(f"#{name}", str(value))
            tab.press(f"#{name}", "Enter")
            tab.locator(f"#{name}").blur()
        save(tab, picture, None)


@contextmanager
def opened(page: Path) -> Iterator[Any]:
    """A tab with the page, without a network.

    Raises:
        InputError: no such file, or something that is looked for in the page is not there.
        SetupError: Playwright or Chromium is missing.
    """
    if not page.is_file():
        raise InputError(f"cannot read '{page}': no such file")
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError:
        raise SetupError("pictures are taken with Playwright; install it: pip install 'snn2chip[browser]'") from None
    program = shutil.which(os.environ.get("CHROMIUM") or "chromium")
    if program is None:
        raise SetupError("no Chromium; apt install chromium, or name it in $CHROMIUM")
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=program, args=["--no-sandbox"] if os.geteuid() == 0 else [])
        tab = browser.new_page(viewport={"width": WIDTH, "height": 900}, offline=True, color_scheme="light")
        tab.set_default_timeout(10_000)
        tab.goto(page.resolve().as_uri())
        try:
            yield tab
        except Error as error:
            raise InputError(f"'{page}' does not show what the picture is of: {first_line(error)}") from None
        browser.close()


def save(tab: Any, picture: Path, last: Any | None) -> None:
    """Write a PNG of the page, of few colours, to the end of the element `last` or of the page."""
    with Image.open(io.BytesIO(tab.screenshot(full_page=True))) as image:
        box = None if last is None else last.bounding_box()
        height = image.height if box is None else min(image.height, round(box["y"] + box["height"]) + 16)
        small = image.convert("RGB").crop((0, 0, image.width, height)).quantize(COLORS, dither=Image.Dither.NONE)
    with atomic_path(picture) as part:
        small.save(part, "PNG", optimize=True)
    print(f"wrote {picture}: {small.width}x{small.height}, {picture.stat().st_size:,} bytes")


if __name__ == "__main__":
    app()
