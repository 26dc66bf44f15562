"""The engine for a browser: the committed module is its sources', and equals the reference in every spike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from browser_engine import BrowserEngine, weights_of
from helpers import chains, port_input
from hypothesis import given, settings
from hypothesis import strategies as st

from snn2chip import ir
from snn2chip.errors import InputError, UnsupportedError
from snn2chip.native import HASH
from snn2chip.simulate import reference
from snn2chip.simulate.events import browser

MOST_BYTES = 200_000  # of the module, which is in every page


def same(chain: ir.Chain, port: ir.IntArray, chunk: int | None = None) -> None:
    """Spikes, voltages and scores of every sample, and some weights, are the definition's."""
    engine = BrowserEngine(chain, chunk)
    expected = reference.run(chain, port)
    for number, sample in enumerate(port):
        spikes, voltage, scores = engine.run(sample)
        for layer, fired, volts in zip(chain.layers, spikes, voltage, strict=True):
            np.testing.assert_array_equal(fired, expected.spikes[layer.name][number])
            np.testing.assert_array_equal(volts, expected.voltage[layer.name][number])
        np.testing.assert_array_equal(scores, expected.scores[number].ravel())
    for index, layer in enumerate(chain.layers):
        for channel in {0, layer.shape[0] // 2, layer.shape[0] - 1}:
            np.testing.assert_array_equal(engine.weights(index, channel), weights_of(chain, index, channel))


def test_the_module_is_small_and_made_from_these_sources() -> None:
    """What is committed is what would be compiled; whoever changes the engine compiles it anew."""
    assert len(browser.module()) < MOST_BYTES


@settings(max_examples=60, deadline=None)
@given(chain=chains(), seed=st.integers(0, 2**16), extreme=st.booleans())
def test_random_chains_equal_the_reference(chain: ir.Chain, seed: int, extreme: bool) -> None:
    """Any geometry, groups, graded input, wrapping currents and clipped membranes."""
    pytest.importorskip("wasmtime", reason="runs WebAssembly: pip install wasmtime")
    try:
        same(chain, port_input(chain, 2, seed, extreme=extreme), 1 + seed % 4)
    except UnsupportedError as refused:
        assert "exceed 32 bits" in str(refused)


def test_other_sources_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing, changed or outdated module is refused by name."""
    module = tmp_path / "events_browser.wasm"
    monkeypatch.setattr(browser, "MODULE", module)
    with pytest.raises(UnsupportedError, match="cannot be read"):
        browser.module()
    module.write_bytes(b"\0asm")
    Path(f"{module}{HASH}").write_text(browser._made(b"\0asm"))
    assert browser.module() == b"\0asm"
    module.write_bytes(b"\0asm\1")
    with pytest.raises(UnsupportedError, match="not what its sources are compiled to"):
        browser.module()


def test_another_compiler_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other bytes would come of it, which nobody could check."""
    monkeypatch.setattr(browser.metadata, "version", lambda _name: "0.0")
    with pytest.raises(InputError, match=r"ziglang 0\.0 makes other bytes"):
        browser.build(tmp_path / "made.wasm")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_compiling_gives_the_same_bytes(tmp_path: Path) -> None:
    """From another place, with nothing kept from before."""
    pytest.importorskip("ziglang", reason="compiles to WebAssembly: pip install 'snn2chip[explore]'")
    made = browser.build(tmp_path / "made.wasm")
    assert made.read_bytes() == browser.module()
