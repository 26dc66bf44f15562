"""The network in the browser: what it shows is what the engines compute, and it shows it to nobody else."""

from __future__ import annotations

import http.client
import io
import json
import os
import re
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from branching import inputs
from conftest import COMMAND, Child, Command, Quickstart
from helpers import look_trained, spiking_network
from PIL import Image
from torch import nn
from varying import export, plain, residual

from snn2chip import ir
from snn2chip.errors import InputError
from snn2chip.files import write_text
from snn2chip.formats import netx
from snn2chip.nn import LIF, AvgPool2d, Conv2d, Flatten, Linear, Residual, SpikingNetwork, TDBatchNorm
from snn2chip.passes.capture import capture
from snn2chip.report import explore
from snn2chip.report.serve import PageServer
from snn2chip.simulate import reference

STEPS = 5
HOSTILE = "<img src=x onerror=\"document.title='owned'\"></script><script>document.title='owned'</script>\u202e"
Made = tuple[ir.Chain, ir.IntArray]  # a chain, and raw samples (N, T, ...)


def made(network: SpikingNetwork, coding: str, seed: int) -> Made:
    """Its chain, which reads spikes as of a camera where the coding is events, and samples."""
    return replace(export(network).chain, coding=coding), inputs(capture(network), 2, seed)  # type: ignore[arg-type]


def static(coding: str, residual_: bool, seed: int) -> Made:
    """A network with tdBN: convolutions with or without a block, and a dense readout."""
    block: list[tuple[str, nn.Module]] = [
        (
            "block",
            Residual(
                nn.Sequential(Conv2d(4, 4, 3, 1, 1, bias=False), TDBatchNorm(4), LIF(0.5, 0.5), Conv2d(4, 4, 3, 1, 1)),
                nn.Sequential(),
            ),
        ),
        ("norm2", TDBatchNorm(4)),
        ("lif2", LIF(0.5, 0.5)),
    ]
    layers = [
        ("conv1", Conv2d(2, 4, 3, padding=1, bias=False)),
        ("norm1", TDBatchNorm(4)),
        ("lif1", LIF(0.5, 0.5)),
        *(block if residual_ else []),
        ("pool", AvgPool2d(2)),
        ("flatten", Flatten()),
        ("dense1", Linear(4 * 16, 12)),
        ("lif3", LIF(0.5, 0.01)),
        ("dense2", Linear(12, 3)),
    ]
    network = spiking_network(layers, (2, 8, 8), timesteps=STEPS, coding=coding)  # type: ignore[arg-type]
    look_trained(network, seed)
    return made(network, coding, seed)


NETWORKS = {
    "direct": lambda: static("direct", False, 1),
    "poisson": lambda: static("poisson", False, 2),
    "events": lambda: static("events", False, 3),
    "residual": lambda: static("direct", True, 4),
    "residual events": lambda: static("events", True, 5),
    "BNTT": lambda: made(plain(STEPS, seed=6), "direct", 6),
    "BNTT events": lambda: made(plain(STEPS, seed=7, coding="events"), "events", 7),
    "BNTT spike count": lambda: made(plain(STEPS, seed=8, readout="spike_count"), "direct", 8),
    "residual BNTT": lambda: made(residual(9, timesteps=STEPS), "direct", 9),
    "residual BNTT events": lambda: made(residual(10, coding="events", timesteps=STEPS), "events", 10),
}


def samples_of(raw: ir.IntArray) -> explore.Samples:
    return explore.Samples(raw, tuple(f"sample {number}" for number in range(len(raw))), None)


# --------------------------------------------------------------------------------------------------- in a browser


def shown(tab: Any, path: Path) -> Any:
    """The page of a file, once its network has run."""
    tab.goto(path.as_uri())
    tab.wait_for_selector("#main:not([hidden]), #fault:not(:empty)")  # not by a function: the policy allows no eval
    assert tab.inner_text("#fault") == ""
    return tab


@pytest.mark.browser
def test_maps_leave_no_place_free_where_they_can(tab: Any, tmp_path: Path) -> None:
    """32 maps are 8 by 4, not 7 by 5; about three wide to two high; and each value is found again under its place."""
    chain, raw = NETWORKS["direct"]()
    path = tmp_path / "a.html"
    write_text(path, explore.page([chain], ["direct"], samples_of(raw)))
    page = shown(tab, path)
    assert page.evaluate("[1, 2, 31, 32, 64, 252].map((n) => tiling([n, 8, 8]).across)") == [1, 2, 8, 8, 8, 18]
    assert page.evaluate("[[2, 1, 700], [6, 1, 1], [3, 5, 5]].map((shape) => tiling(shape).across)") == [1, 3, 3]
    places = """Array.from({ length: 300 }, (_, i) => i + 1).every((n) => {
      const { across, width, height } = tiling([n, 3, 3]), found = new Set();
      for (let y = 0; y < height; ++y) for (let x = 0; x < width; ++x) found.add(valueAt([n, 3, 3], x, y));
      found.delete(null);
      return found.size === 9 * n && Math.max(...found) === 9 * n - 1 && across * Math.ceil(n / across) - n < across;
    })"""
    assert page.evaluate(places)


def number(text: str) -> int:
    return int(text.replace(",", ""))


@pytest.mark.browser
def test_every_spike_and_membrane_is_the_references(tab: Any, tmp_path: Path) -> None:
    """Ten networks: all spikes; and of a thousand, membranes as they are read from the page, step by step."""
    read = 0
    for name, make in NETWORKS.items():
        chain, raw = make()
        expected = reference.run(chain, chain.port(raw))
        path = tmp_path / f"{name}.html"
        write_text(path, explore.page([chain], [name], samples_of(raw)))
        page = shown(tab, path)
        for sample in range(len(raw)):
            page.select_option("#sample", str(sample))
            for index, layer in enumerate(chain.layers):
                found = page.evaluate(f"Array.from(explorer.networks[0].spikes(explorer.networks[0].layers[{index}]))")
                assert found == expected.spikes[layer.name][sample].ravel().tolist(), (name, layer.name)
            assert expected.spikes[chain.layers[0].name][sample].any(), name
        rng = np.random.default_rng(0)
        for index in range(len(chain.layers)):
            layer = chain.layers[index]
            volts = expected.voltage[layer.name][len(raw) - 1].reshape(STEPS, -1)
            page.click("#first") if page.is_enabled("#first") else None
            page.click(f"#layers button:nth-child({index + 1})")
            for neuron in rng.integers(0, volts.shape[1], 8):
                channel, row, column = np.unravel_index(neuron, (*layer.shape, 1, 1)[:3])
                for field, value in (("#channel", channel), ("#row", row), ("#column", column)):
                    if page.is_visible(field):
                        page.fill(field, str(value))
                        page.press(field, "Enter")
                cells = page.locator("table.history tr td:last-child").all_inner_texts()
                assert [number(cell) for cell in cells] == volts[:, neuron].tolist(), (name, layer.name, neuron)
                read += len(cells)
        assert page.evaluate(
            "explorer.networks.every((network) => network.layers.every((layer, i) => Array.from({ length: layer.size },"
            " (_, n) => network.history(i, n, network.synapses(i, n))).flat().every((step) => step.agrees)))"
        ), name  # what the page says of how each membrane comes about
    assert read >= 1000


@pytest.mark.browser
def test_by_mouse_and_by_keyboard(tab: Any, tmp_path: Path) -> None:
    """Click a layer and a neuron, step four times; arrow keys move on; it fits 500 pixels."""
    chain, raw = NETWORKS["residual"]()
    volts = reference.run(chain, chain.port(raw)).voltage
    path = tmp_path / "page.html"
    write_text(path, explore.page([chain], ["net"], samples_of(raw)))
    page = shown(tab, path)
    assert page.evaluate("document.documentElement.scrollWidth") <= 500
    page.click("#layers button:nth-child(2)")
    box = page.locator("#planes canvas").bounding_box()
    page.locator("#planes canvas").click(position={"x": 0.1 * box["width"], "y": 0.1 * box["height"]})
    place = [number(page.input_value(f"#{field}")) for field in ("channel", "row", "column")]
    assert place[0] == 0 and place[1] > 0 and place[2] > 0
    for step in range(STEPS):
        cells = page.locator("tr.now td").all_inner_texts()
        assert number(cells[0]) == step + 1
        assert number(cells[-1]) == volts[chain.layers[1].name][0, step][tuple(place)]
        if step < STEPS - 1:
            page.focus("#forward")
            page.keyboard.press("Enter")
    assert page.is_disabled("#forward")
    page.focus("#planes canvas")
    page.keyboard.press("ArrowRight")
    assert number(page.input_value("#column")) == place[2] + 1
    page.keyboard.press("PageDown")
    assert number(page.input_value("#channel")) == 1
    page.focus("#layers button:nth-child(1)")
    page.keyboard.press("Space")
    assert page.locator("#layers button[aria-pressed=true]").count() == 1
    assert page.get_attribute("#layers button:nth-child(1)", "aria-pressed") == "true"


@pytest.mark.browser
@pytest.mark.parametrize("dark", [False, True])
def test_how_it_looks(dark: bool, tab: Any, quickstart: Quickstart, tmp_path: Path) -> None:
    """Wide, in both colours, nothing is wider than the window."""
    chain = netx.load(quickstart.net)
    path = tmp_path / "page.html"
    write_text(path, explore.page([chain], ["model.net"], samples_of(np.full((1, 1, 8, 8), 9))))
    tab.set_viewport_size({"width": 1400, "height": 900})
    tab.emulate_media(color_scheme="dark" if dark else "light")
    page = shown(tab, path)
    assert page.evaluate("document.documentElement.scrollWidth") == 1400
    with Image.open(io.BytesIO(page.screenshot(full_page=True))) as image:
        assert (np.median(np.asarray(image.convert("L"))) < 60) == dark


@pytest.mark.browser
def test_two_networks_to_their_first_differing_spike(tab: Any, tmp_path: Path) -> None:
    """The earliest step, and in it the first layer; two equal ones have none."""
    chain, raw = NETWORKS["direct"]()
    changed = replace(chain.layers[0], threshold=2 * chain.layers[0].threshold)
    other = replace(chain, layers=(changed, *chain.layers[1:]))
    one, two = (reference.run(each, each.port(raw)).spikes for each in (chain, other))
    differing = [
        (step, index, int(np.flatnonzero(one[layer.name][0, step] != two[layer.name][0, step])[0]))
        for step in range(STEPS)
        for index, layer in enumerate(chain.layers)
        if (one[layer.name][0, step] != two[layer.name][0, step]).any()
    ]
    path = tmp_path / "page.html"
    write_text(path, explore.page([chain, other], ["one.net", "two.net"], samples_of(raw)))
    page = shown(tab, path)
    step, index, neuron = differing[0]
    assert page.evaluate("explorer.difference") == {"step": step, "layer": index, "neuron": neuron}
    page.click("#go")
    assert page.evaluate("[explorer.step, explorer.layer, explorer.neuron]") == [step, index, neuron]
    fired = [row.split("\t")[-2] for row in page.locator("tr.now").all_inner_texts()]
    assert sorted(fired) == ["", "●"]
    write_text(path, explore.page([chain, chain], ["one.net", "two.net"], samples_of(raw)))
    assert "equal in every spike" in shown(tab, path).inner_text("#difference")


@pytest.mark.browser
def test_foreign_text_stays_text(tab: Any, tmp_path: Path) -> None:
    """Names of classes, layers, files and samples that are markup."""
    chain, raw = NETWORKS["direct"]()
    layers = tuple(replace(layer, origin={HOSTILE: (0, layer.shape[0])}) for layer in chain.layers)
    chain = replace(chain, layers=layers, classes=(HOSTILE,) * 3)
    samples = explore.Samples(raw, (HOSTILE,) * len(raw), (0,) * len(raw))
    path = tmp_path / "page.html"
    write_text(path, explore.page([chain], [HOSTILE], samples))
    page = shown(tab, path)
    assert page.title() != "owned" and page.locator("img").count() == 0
    assert page.locator("script").count() == 2
    assert "<img src=x" in page.inner_text("#scores") and "<img src=x" in page.inner_text("#layer-name")


# -------------------------------------------------------------------------------------------------- without a browser


def data_of(page: str) -> dict[str, Any]:
    """What the page's script reads."""
    found: dict[str, Any] = json.loads(re.search(r'id="data">(.*?)</script>', page, re.S)[1])  # type: ignore[index]
    return found


def test_a_page_is_whole_and_loads_nothing(cli: Command, quickstart: Quickstart, tmp_path: Path) -> None:
    """One file by the command line: no address in it, no handler, no style or script but by hash."""
    path = tmp_path / "page.html"
    assert "2 samples" in cli("explore", quickstart.net, "-o", path, "--samples", "3,8").ok()
    page = path.read_text(encoding="utf-8")
    markup = re.sub(r"<(style|script)[^>]*>.*?</\1>", "", page, flags=re.S)
    assert "default-src &#39;none&#39;" in markup
    assert not re.search(r"\s(on\w+|style|src|href)=", markup)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|\beval\(|new Function|innerHTML|fetch\(", page)
    data = data_of(page)
    assert data["samples"]["names"] == ["digits:test 3", "digits:test 8"]
    assert [layer["name"] for layer in data["networks"][0]["layers"]] == [
        layer.name for layer in netx.load(quickstart.net).layers
    ]


def test_foreign_text_is_escaped() -> None:
    """Without a browser: no tag of it is in the page."""
    chain, raw = NETWORKS["direct"]()
    page = explore.page([replace(chain, classes=(HOSTILE,) * 3)], [HOSTILE], samples_of(raw))
    assert "<img" not in page and page.count("<script") == page.count("</script") == 2 and "\u202e" not in page


def test_samples_from_a_file(cli: Command, quickstart: Quickstart, tmp_path: Path) -> None:
    """Images, or what each step shows; anything else is refused in one line."""
    given, path = tmp_path / "given.npy", tmp_path / "page.html"
    chain = netx.load(quickstart.net)
    images = np.random.default_rng(0).integers(0, 17, (3, 1, 8, 8))
    np.save(given, images)
    cli("explore", quickstart.net, "-o", path, "--samples", given).ok()
    assert data_of(path.read_text())["samples"]["steps"] == 1
    np.save(given, np.repeat(images[:, None], chain.timesteps, 1).astype(np.uint8))
    cli("explore", quickstart.net, "-o", path, "--samples", given).ok()
    assert data_of(path.read_text())["samples"]["steps"] == chain.timesteps
    path.unlink()
    for array, word in (
        (np.zeros((2, 1, 9, 9), int), "(2, 1, 9, 9)"),
        (images + 1, "exceed"),
        (images * 1.0, "float64"),
        (images[:0], "0 samples"),
        (np.zeros((101, 1, 8, 8), int), "101 samples"),
        (np.array([{}]), "damaged"),
    ):
        np.save(given, array, allow_pickle=True)
        cli("explore", quickstart.net, "-o", path, "--samples", given).refused(word)
    given.write_bytes(b"\x93NUMPY")
    cli("explore", quickstart.net, "-o", path, "--samples", given).refused(str(given))
    cli("explore", quickstart.net, "-o", path, "--samples", tmp_path / "absent.npy").refused("absent.npy")
    assert not path.exists()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--samples", "1-"), "expected numbers"),
        (("--samples", "-1"), "expected numbers"),
        (("--samples", "9-3"), "1 to 100 samples"),
        (("--samples", "0-100"), "1 to 100 samples"),
        (("--samples", "99999"), "has samples 0 to"),
        (("--port", "80", "-o", "x.html"), "exclude each other"),
        (("--dataset", "digits", "--samples", "x.npy"), "exclude each other"),
    ],
)
def test_wrong_options_are_refused(
    cli: Command, quickstart: Quickstart, tmp_path: Path, arguments: tuple[str, ...], word: str
) -> None:
    """In one line, and nothing is written."""
    out = () if "--port" in arguments else ("-o", tmp_path / "page.html")
    cli("explore", quickstart.net, *out, *arguments).refused(word)
    assert not list(tmp_path.iterdir())


def test_networks_that_cannot_be_compared(quickstart: Quickstart) -> None:
    """Other samples, or layers of other shapes."""
    chain, raw = NETWORKS["direct"]()
    other, _ = NETWORKS["residual"]()
    with pytest.raises(InputError, match="shapes of their layers"):
        explore.page([chain, other], ["one", "two"], samples_of(raw))
    with pytest.raises(InputError, match="raw shape"):
        explore.page([chain, netx.load(quickstart.net)], ["one", "two"], samples_of(raw))


def test_what_a_browser_has_no_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused by name before a page is made of it."""
    chain, raw = NETWORKS["direct"]()
    monkeypatch.setattr(explore, "MOST_BYTES", 10_000)
    with pytest.raises(InputError, match=r"'big\.net': .* exceed"):
        explore.page([chain], ["big.net"], samples_of(raw))


# --------------------------------------------------------------------------------------------------------- served


@pytest.fixture
def server() -> Iterator[PageServer]:
    """A page that is served."""
    with PageServer("<p>page</p>") as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def asked(server: PageServer, method: str, path: str, host: str | None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.putrequest(method, path, skip_host=True)
    if host is not None:
        connection.putheader("Host", host)
    connection.endheaders()
    answer = connection.getresponse()
    found = answer.status, answer.read()
    connection.close()
    return found


def test_only_the_secret_path_is_answered(server: PageServer) -> None:
    """And only to who calls this machine by its own name; nothing can be written."""
    host = f"127.0.0.1:{server.server_port}"
    assert server.server_address[0] == "127.0.0.1"
    assert asked(server, "GET", server.path, host) == (200, b"<p>page</p>")
    assert asked(server, "GET", server.path, f"localhost:{server.server_port}") == (200, b"<p>page</p>")
    assert asked(server, "HEAD", server.path, host) == (200, b"")
    for path in ("/", server.path[:-1], server.path + "x", "/favicon.ico", server.path + "../"):
        status, body = asked(server, "GET", path, host)
        assert status == 404 and b"page" not in body, path
    for other in ("evil.example", "127.0.0.1", f"evil.example:{server.server_port}", "", None):
        status, body = asked(server, "GET", server.path, other)
        assert status in (400, 421) and b"page" not in body, other
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        assert asked(server, method, server.path, host)[0] == 501
    with pytest.raises(InputError, match=f"--port {server.server_port}"):
        PageServer("", server.server_port)


def test_serving_ends_with_ctrl_c(quickstart: Quickstart) -> None:
    """The address is printed; Ctrl-C is how it ends, and no fault."""
    child = Child(COMMAND, "explore", quickstart.net, "--samples", "0")
    address = child.stdout.readline().strip()
    found = re.fullmatch(r"http://127\.0\.0\.1:(\d+)(/[\w-]{22}/)", address)
    assert found is not None, address
    connection = http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=30)
    connection.request("GET", found[2])
    assert b"digits:test 0" in connection.getresponse().read()
    connection.close()
    os.killpg(child.pid, signal.SIGINT)
    assert child.finish().code == 0
