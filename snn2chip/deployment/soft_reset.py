"""What a reset to zero makes of a network that was trained with a reset by subtraction."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from snn2chip import ir
from snn2chip.passes.adapt import Adapted


def change(trained: Adapted, soft: Adapted, names: Sequence[str], raw: ir.IntArray) -> str:
    """In words, by how much `trained`, whose neurons reset to zero, differs from `soft`, the same network as it was
    trained, on raw input (N, T, ...): spikes of every layer that differ, and decisions."""
    (wanted, scores), (found, changed) = soft.run(raw), trained.run(raw)
    layers = [
        f"'{name}' {int(wanted[name].sum()):,} spikes become {int(found[name].sum()):,}, "
        f"{np.mean(wanted[name] != found[name]):.2%} of its steps differ"
        for name in found
    ]
    decisions = int((scores.argmax(1) != changed.argmax(1)).sum())
    which = ", ".join(f"'{name}'" for name in names)
    return (
        f"{which} reset by subtraction, netx's neuron to zero; on {len(raw)} calibration samples that changes "
        f"{decisions} of {len(raw)} decisions ({'; '.join(layers)})"
    )
