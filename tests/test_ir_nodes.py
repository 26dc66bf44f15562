"""What weights are kept in: the numbers, their negatives and sizes stay what they are."""

from __future__ import annotations

import numpy as np
from helpers import usually
from hypothesis import example, given, settings
from hypothesis import strategies as st

from snn2chip import ir

EDGES = [0, 1, -1, 2**15 - 2, 2**15 - 1, 2**15, -(2**15) + 1, -(2**15), -(2**15) - 1, 2**31, -(2**31)]


@settings(max_examples=usually(200), deadline=None)
@given(st.lists(st.sampled_from(EDGES) | st.integers(-300, 300), max_size=6), st.sampled_from([np.int64, np.float64]))
@example([-(2**15)], np.int64)
@example([], np.int64)
def test_weights_are_narrow_only_where_their_negatives_are_too(values: list[int], kind: type) -> None:
    """int16 exactly where each number and its negative fit, whatever type they come in; int64 else."""
    kept = ir.narrow(np.array(values, kind))
    assert kept.tolist() == values
    assert (-kept).tolist() == [-value for value in values] and np.abs(kept).tolist() == [abs(x) for x in values]
    assert (kept.dtype == np.int16) == all(abs(value) < 2**15 for value in values)
    assert ir.narrow(kept) is kept
