"""report.html: what is on it, and how it looks and behaves in a browser."""

from __future__ import annotations

import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, Command, Quickstart
from PIL import Image

from snn2chip.report.chart import ticks
from snn2chip.report.graph import draw
from snn2chip.report.page import render

ODD = "<img src=x onerror='document.title=1'>[/red]</script><script>document.title=2</script>"


@pytest.fixture(scope="module")
def made(cli_module: Command, quickstart: Quickstart, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with everything on it."""
    run = quickstart.copy(tmp_path_factory.mktemp("page") / "run")
    cli_module("fold-and-export", run.model).ok()
    cli_module("simulate", run.net, "--cost", "--limit", "100").ok()
    cli_module("verify", run.model, run.net, "--no-lava", "--samples", "2").ok()
    cli_module("report", run.folder, "--samples", "12", "--pictures", "2").ok()
    return run.folder / "report.html"


@pytest.fixture(scope="module")
def cli_module(cli: Command) -> Command:
    return cli


def entries(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.with_name("report.json").read_text())["entries"]
    return found


def odd(value: Any, text: str = ODD) -> Any:
    """Every text that is no format of ours, replaced; names that belong together stay together."""
    if isinstance(value, dict):
        return {key: odd(item, text) if key not in ("picture", "spikes") else item for key, item in value.items()}
    if isinstance(value, list):
        return [odd(item, text) for item in value]
    return text if isinstance(value, str) else value


def test_a_page_of_nothing_is_a_page() -> None:
    page = render({})
    assert page.endswith("</html>\n") and "snn2chip fold-and-export MODEL" in page


def test_a_page_that_trains_refreshes() -> None:
    """As long as it is told to, and it says at which epoch."""
    row = {"epoch": 3, "train_loss": 0.5, "train_accuracy": 0.75, "learning_rate": 0.1, "firing/lif1": 0.25}
    train = {"train": {"history": [row], "epochs": 7}}
    page = render(train, 5)
    assert '<meta http-equiv="refresh" content="5">' in page and "training, epoch 3 of 7" in page
    assert "neurons that fire" in page and 'http-equiv="refresh"' not in render(train)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.3, 0.31), (-5e-7, 3e-6), (10, 123456), (2, 2)])
def test_ticks_are_round_numbers_within(low: float, high: float) -> None:
    found = ticks(low, high)
    assert found == sorted(set(found)) and 1 <= len(found) <= 6
    assert all(low - 1e-12 <= tick <= high + 1e-12 for tick in found)
    assert all(len(f"{tick / 10 ** np.floor(np.log10(abs(tick))):.4g}") <= 5 for tick in found if tick)


@pytest.mark.parametrize("layers", [1, 2, 8, 9, 16, 17, 23])
def test_rows_of_the_drawing_are_as_long_as_each_other(layers: int) -> None:
    """Nine layers are five and four, not eight and one; no row holds more than eight."""
    nodes = [{"name": f"lif{i}", "shape": [4, 2, 2], "driven": [], "inputs": [], "parameters": 0, "fires": True}
             for i in range(layers)]  # fmt: skip
    drawing = draw(nodes, {}, 8)
    rows = [[block for block in drawing.blocks if block.below == below] for below in {b.below for b in drawing.blocks}]
    assert len(rows) == -(-layers // 8) and sum(map(len, rows)) == layers
    assert max(map(len, rows)) - min(map(len, rows)) < max(2, len(rows)), "no more than one missing for each other row"
    assert all(0 < block.middle < drawing.width for block in drawing.blocks)


def test_foreign_text_is_escaped(made: Path) -> None:
    """Names of classes, layers and files, and whatever else a file may say."""
    page = render(odd(entries(made)))
    assert "<img src=x" not in page and "&lt;img src=x onerror=" in page and "[/red]" in page
    assert page.count("<script") == 2


def test_nothing_is_inline_and_nothing_outside(made: Path) -> None:
    """No address, no handler, no style or script but by hash, as in the page of `explore`."""
    markup = re.sub(r"<(style|script)[^>]*>.*?</\1>", "", made.read_text(encoding="utf-8"), flags=re.S)
    assert "default-src &#39;none&#39;" in markup and "unsafe-inline" not in markup
    assert not re.search(r"\s(on\w+|style|href)=|src=\"(?!data:)|https?:", markup)


@pytest.mark.browser
def test_foreign_text_is_harmless_in_a_browser(made: Path, tab: Any, faults: list[str], tmp_path: Path) -> None:
    """And were it not escaped, the page's own policy would still not run it."""
    path = tmp_path / "odd.html"
    path.write_text(render(odd(entries(made))), encoding="utf-8")
    tab.goto(path.as_uri())
    assert tab.title() == " ".join(ODD.split())
    assert tab.locator("img[onerror]").count() == 0
    tab.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=data:, onerror=\"document.title=3\">')")
    tab.wait_for_timeout(200)
    assert tab.title().startswith("<img") and "Content Security Policy" in faults.pop()


@pytest.mark.browser
@pytest.mark.parametrize("width", [1400, 500])
@pytest.mark.parametrize("dark", [False, True])
def test_how_it_looks(width: int, dark: bool, made: Path, tab: Any) -> None:
    """Nothing is wider than the window; dark is dark."""
    tab.set_viewport_size({"width": width, "height": 900})
    tab.emulate_media(color_scheme="dark" if dark else "light")
    tab.goto(made.as_uri())
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    with Image.open(io.BytesIO(tab.screenshot(full_page=True))) as image:
        pixels = np.asarray(image.convert("L"))
    assert pixels.shape[1] == width and pixels.shape[0] > 2000
    assert (np.median(pixels) < 60) == dark and pixels.std() > 10
    drawings = {kind: tab.is_visible(f".network.{kind}") for kind in ("wide", "narrow")}
    assert drawings == {"wide": width > 900, "narrow": width < 900}
    last = tab.locator(".box div:last-child")
    while many := tab.locator(".box div").count():  # as many figures as there may be: nothing is empty after the last
        right = "(it) => it.getBoundingClientRect().right"
        assert abs(last.evaluate(right) - tab.locator(".box").evaluate(right)) < 3, many
        last.evaluate("(it) => it.remove()")


def opens_in_two_seconds(path: Path, tab: Any) -> None:
    """The best of three, as other programs may run meanwhile; and it is smaller than 5 MB."""
    assert path.stat().st_size < 5_000_000
    took: list[float] = []
    while len(took) < 3 and not any(time < 2000 for time in took):
        tab.goto(path.as_uri())
        took.append(tab.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd"))
    assert 0 < min(took) < 2000, took


@pytest.mark.browser
def test_it_opens_in_two_seconds(made: Path, tab: Any) -> None:
    opens_in_two_seconds(made, tab)


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.timeout(3600)
def test_a_page_of_cifar10_opens_in_two_seconds(cli: Command, tab: Any, tmp_path: Path) -> None:
    """A network of three million parameters and 32x32 images, here noise: as many spikes are on the page."""
    run, data = tmp_path / "run", tmp_path / "cifar-10-batches-bin"
    run.mkdir()
    data.mkdir()
    shutil.copy(ROOT / "models" / "cifar10-vgg-tdbn-t1" / "model.pt", run)
    rows = np.random.default_rng(0).integers(0, 256, (20, 3073), dtype=np.uint8)
    rows[:, 0] %= 10
    for name in ("test_batch", *(f"data_batch_{number}" for number in range(1, 6))):
        (data / f"{name}.bin").write_bytes(rows.tobytes())
    cli("fold-and-export", run / "model.pt", "--calibration", "0", "--no-fit").ok()
    cli("report", run, "--samples", "20", "--data", tmp_path).ok()
    opens_in_two_seconds(run / "report.html", tab)
    assert tab.locator("#sample option").count() == 4


@pytest.mark.browser
def test_spikes_are_chosen_and_zoomed(made: Path, tab: Any) -> None:
    """What is said of a layer is what is known of it; buttons and choices change what is in sight."""
    samples = entries(made)["seen"]["samples"]
    tab.goto(made.as_uri())
    for sample in range(2):
        tab.select_option("#sample", str(sample))
        for number, layer in enumerate(samples[sample]["layers"]):
            tab.select_option("#layer", str(number))
            said = tab.inner_text("#where")
            assert f"of {layer['size']:,}; " in said and f"{layer['differ']:,} spikes of the layer differ" in said
            assert tab.locator("#traces svg").count() == len(layer["traces"])
    last = samples[1]["layers"][-1]["size"]
    assert f"neurons 0 to {last - 1:,}" in tab.inner_text("#where")
    tab.click("#in")
    assert f"neurons {last // 4:,} to {last // 4 + last // 2 - 1:,}" in tab.inner_text("#where")
    tab.click("#all")
    assert f"neurons 0 to {last - 1:,}" in tab.inner_text("#where")
    tab.hover(".network.narrow .block >> nth=1")
    assert "conv1: conv 3x3" in tab.inner_text("#details")
