"""A stream in pieces is the whole run, window by window."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from helpers import chains, port_input, usually
from hypothesis import given, settings
from hypothesis import strategies as st

from snn2chip import ir
from snn2chip.choices import EngineKind
from snn2chip.errors import InputError
from snn2chip.simulate import reference
from snn2chip.simulate.events import library
from snn2chip.simulate.streaming import StreamEngine

ENGINES: tuple[EngineKind, ...] = ("dense", *(("events",) if library.unavailable() is None else ()))


@settings(max_examples=usually(60), deadline=None)
@given(
    chain=chains(),
    seed=st.integers(0, 2**32 - 1),
    steps=st.integers(1, 12),
    window=st.none() | st.integers(1, 5),
    cuts=st.lists(st.integers(0, 12), max_size=4),
    counted=st.booleans(),
    kind=st.sampled_from(ENGINES),
)
def test_pieces_are_the_whole(
    chain: ir.Chain, seed: int, steps: int, window: int | None, cuts: list[int], counted: bool, kind: EngineKind
) -> None:
    chain = replace(chain, timesteps=steps, readout="spike_count" if counted else "membrane")
    port = port_input(chain, 1, seed)[0]
    assert len(port) == steps
    engine = StreamEngine(chain, window, kind)
    assert engine.name == kind
    places = sorted({0, steps, *(min(cut, steps) for cut in cuts)})
    found = [engine.run(port[a:b]) for a, b in pairwise(places)]
    scores = np.concatenate([stretch.scores for stretch in found])
    counts = dict.fromkeys(found[0].counts, 0)
    for start in range(0, steps, window or steps):
        trace = reference.run(chain, port[None, start : start + (window or steps)])
        last = trace.spikes[chain.layers[-1].name] if counted else trace.voltage[chain.layers[-1].name]
        wanted = last[0].reshape(last.shape[1], -1).astype(np.int64)
        wanted = wanted.cumsum(0) if counted else wanted
        np.testing.assert_array_equal(scores[start : start + len(wanted)], wanted)
        for name, spikes in trace.spikes.items():
            counts[name] += int(spikes.sum())
    assert {name: sum(stretch.counts[name] for stretch in found) for name in counts} == counts


@pytest.mark.parametrize("kind", ENGINES)
def test_a_window_ends_within_a_piece_and_tables_go_on_over_pieces(kind: EngineKind) -> None:
    """Counts by hand: a neuron that fires at the first and third step of its tables, started anew after each third."""
    tables = ir.StepTables(
        *(np.zeros((3, 1), dtype=np.int64), 12, np.zeros((3, 1), dtype=np.int64)),
        *(np.array([[0], [640], [0]]), np.ones(1)),
    )
    layer = ir.ChainLayer(
        *("1", "dense", np.ones((1, 1), dtype=np.int64), np.zeros(1, dtype=np.int64), (1,), 0, 0), steps=tables
    )  # fmt: skip
    chain = ir.Chain((1,), (1,), "events", 1, 0, 1, (0,), 3, "spike_count", ("a",), (layer,))
    engine = StreamEngine(chain, 3, kind)
    ones = np.ones((4, 1), dtype=np.int64)
    found = [engine.run(ones[:length]).scores[:, 0].tolist() for length in (1, 1, 4, 2)]
    assert found == [[1], [1], [2, 1, 1, 2], [1, 1]]
    endless = StreamEngine(chain, None, kind)
    assert endless.run(ones[:3]).scores[:, 0].tolist() == [1, 1, 2]
    with pytest.raises(InputError, match="layer '1': 4 time steps of input, but tables of 3"):
        endless.run(ones[:1])
