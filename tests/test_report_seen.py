"""What the page says of samples is what the network and the simulator do."""

from __future__ import annotations

import base64

import numpy as np
import pytest
import torch
from conftest import Quickstart

from snn2chip import ir
from snn2chip.data import load
from snn2chip.formats import netx
from snn2chip.ir.encode import encoder_of
from snn2chip.ir.interpreter import evaluate
from snn2chip.nn import model_file
from snn2chip.passes.capture import capture
from snn2chip.passes.fold import folded
from snn2chip.report.seen import seen
from snn2chip.simulate.dense import DenseEngine
from snn2chip.simulate.run import simulate


@pytest.fixture(scope="module")
def network(quickstart: Quickstart) -> ir.Network:
    model = model_file.load(quickstart.model)
    return folded(capture(model.network, model.classes))


def test_spikes_that_are_given(network: ir.Network) -> None:
    """A network fed its own spikes at any layer says the same, and computes nothing before it; other spikes count."""
    raw = encoder_of(network)(load("digits", "test").images[:5])
    whole = evaluate(network, raw)
    names = list(whole.spikes)
    for index, name in enumerate(names):
        partly = evaluate(network, raw, given={name: whole.spikes[name].numpy()})
        assert list(partly.spikes) == names[index + 1 :]
        assert torch.equal(partly.scores, whole.scores)
    silent = evaluate(network, raw, given={names[-1]: np.zeros_like(whole.spikes[names[-1]].numpy())})
    assert not torch.equal(silent.scores, whole.scores)


def test_figures_are_those_of_the_simulator(network: ir.Network, quickstart: Quickstart) -> None:
    chain, images = netx.load(quickstart.net), load("digits", "test").subset(23)
    said = seen(network, chain, images, None, drawn=3, progress=lambda _done, _of: None)
    result = simulate(chain, images=images)
    for key in ("accuracy", "spikes", "confusion", "largest_input"):
        assert said["simulate"][key] == result.as_json(chain)[key]
    raw = encoder_of(chain)(images.images)
    wanted = evaluate(network, raw).scores.numpy().argmax(1)
    found = result.trace.scores.argmax(1)
    assert said["agree"] == (wanted == found).sum() and said["changes"] == len(images) - said["agree"]
    assert said["layers"][-1]["agree"] >= said["agree"] - said["changes"]
    trace = DenseEngine(chain).run(chain.port(raw))
    for sample in said["samples"]:
        for layer, (name, spikes) in zip(sample["layers"], trace.spikes.items(), strict=False):
            packed = np.frombuffer(base64.b64decode(layer["spikes"][1]), np.uint8)
            bits = np.unpackbits(packed, count=layer["shown"] * layer["steps"]).reshape(-1, layer["steps"])
            assert (bits == spikes[sample["sample"]].reshape(layer["steps"], -1).T).all(), name
    total = sum(sum(counts[1]) for counts in said["membranes"].values())
    silent = sum(int((values == 0).sum()) for name, values in trace.spikes.items() if name != chain.layers[-1].name)
    assert 0 < total <= silent
