"""What spikes say of a run: layers that never or always fire, scores that do not depend on the input.

Two silent networks are equal in every spike: a comparison, an accuracy or a speed means nothing without this. The
words are here, for every command that runs a network.
"""

from __future__ import annotations

from collections.abc import Mapping

from snn2chip.ir import Chain, IntArray

Counts = Mapping[str, tuple[int, int]]  # layer -> its spikes, and how many there would be if it always fired


def remarks(counts: Counts, where: str) -> list[str]:
    """A line that names the layers without a spike `where` it was run, and one those that fired at every step."""
    silent = [name for name, (spikes, most) in counts.items() if most and not spikes]
    steady = [name for name, (spikes, most) in counts.items() if most and spikes == most]
    said = []
    for names, what in ((silent, "no neuron fires"), (steady, "every neuron fires at every step")):
        if names:
            named = "', '".join(names)
            said.append(f"layer{'s' if len(names) > 1 else ''} '{named}': {what} in {where}")
    return said


def of_stages(trained: Counts, integers: Counts, where: str) -> list[str]:
    """`remarks` of the trained network and of its integers, once where they are the same."""
    said, also = remarks(trained, where), remarks(integers, where)
    if said == also:
        return said
    return [f"{line}, in the trained network" for line in said] + [f"{line}, in the chip's integers" for line in also]


def of_chain(chain: Chain, spikes: Mapping[str, int], steps: int, where: str) -> list[str]:
    """`remarks` of a chain's layers that ran `steps` steps in all; a readout that only accumulates need not fire."""
    layers = chain.layers[:-1] if chain.readout == "membrane" else chain.layers
    sizes = {layer.name: steps * layer.bias.size for layer in layers}
    called = {layer.name: f"{layer.name} ({', '.join(layer.origin) or layer.kind})" for layer in layers}
    return remarks({called[name]: (spikes[name], size) for name, size in sizes.items()}, where)


def same_scores(scores: IntArray) -> str | None:
    """A line if several samples have the same scores (N, K), all of them."""
    if len(scores) < 2 or (scores != scores[0]).any():
        return None
    return f"the scores of all {len(scores):,} samples are the same"
