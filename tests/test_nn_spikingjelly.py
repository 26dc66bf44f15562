"""SpikingJelly's weights in layers of ours: converted they give its spikes, as they are they are refused."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn as tnn

from snn2chip import nn
from snn2chip.errors import InputError, UnsupportedError
from snn2chip.nn import model_file

ROOT = Path(__file__).resolve().parent.parent
ALPHA, LEVEL = 0.75, 0.5


def theirs(seed: int = 0) -> tnn.Sequential:
    """SpikingJelly's layers with weights: its tdBN is torch's batch norm, whose weight starts at alpha Vth."""
    torch.manual_seed(seed)
    made = tnn.Sequential(
        tnn.Conv2d(2, 4, 3, 1, 1, bias=False), tnn.BatchNorm2d(4), tnn.Identity(), tnn.Flatten(), tnn.Linear(64, 3)
    )
    norm = made[1]
    assert isinstance(norm, tnn.BatchNorm2d) and norm.running_mean is not None and norm.running_var is not None
    tnn.init.normal_(norm.weight, ALPHA * LEVEL, 0.125)
    tnn.init.normal_(norm.bias, 0.0, 0.25)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    return made.double().eval()


def ours(tau: float, threshold: float, alpha: float = ALPHA, norm_level: float = LEVEL) -> nn.SpikingNetwork:
    body = OrderedDict(
        conv1=nn.Conv2d(2, 4, 3, 1, 1, bias=False), norm1=nn.TDBatchNorm(4, alpha=alpha, threshold=norm_level),
        lif1=nn.LIF(tau, threshold), flatten=nn.Flatten(), dense1=nn.Linear(64, 3),
    )  # fmt: skip
    encoder = nn.DirectInput(5, 1, [0.0, 0.0], [1.0, 1.0])
    return nn.SpikingNetwork(encoder, tnn.Sequential(body), nn.MembraneReadout(), (2, 4, 4)).double().eval()


@pytest.mark.parametrize(
    ("said", "tau", "threshold"),
    [
        ({"tau": 2.0, "v_threshold": 0.5}, 0.5, 1.0),
        ({"tau": 4.0, "v_threshold": 0.5}, 0.75, 2.0),
        ({"tau": 2.0, "v_threshold": 0.5, "decay_input": False}, 0.5, 0.5),
        ({"tau": 2.0, "v_threshold": 0.5, "v_reset": -0.25}, 0.5, 1.5),
        ({"tau": None, "v_threshold": 0.5}, 1.0, 0.5),
    ],
)
def test_its_spikes(said: dict[str, Any], tau: float, threshold: float) -> None:
    """Every spike of its own equations, with any alpha and Vth of our norm, whose place its weight takes."""
    network = ours(tau, threshold)
    peer = theirs()
    nn.load_spikingjelly(network, peer.state_dict(), **said)
    images = 8.0 * (torch.rand(64, 2, 4, 4, generator=torch.Generator().manual_seed(1)) > 0.5)
    spikes: list[torch.Tensor] = []
    network.body.lif1.register_forward_hook(lambda module, given, made: spikes.append(made))
    with torch.no_grad():
        network(images.double())
        current = peer[1](peer[0](images.double()))
    reset = said.get("v_reset", 0.0)
    v, wanted = torch.full_like(current, reset), []
    for _ in range(5):
        constant = said["tau"]
        if constant is None:
            v = v + current
        elif said.get("decay_input", True):
            v = v + (current - (v - reset)) / constant
        else:
            v = v - (v - reset) / constant + current
        wanted.append(v >= said["v_threshold"])
        v = torch.where(wanted[-1], reset, v)
    np.testing.assert_array_equal(spikes[0].numpy(), torch.stack(wanted).numpy())
    assert 0.02 < float(spikes[0].mean()) < 0.9


def test_a_batch_norm_of_others_is_not_loaded_in_silence() -> None:
    """By count of batches or by version, alone or in a network, strict or not; ours load, and the shipped ones."""
    peer, norm = theirs()[1], nn.TDBatchNorm(4, threshold=0.5)
    state = peer.state_dict()
    with pytest.raises(
        InputError, match=r"TDBatchNorm: the state of another batch norm.*load_spikingjelly.*Vth = 0\.5"
    ):
        norm.load_state_dict(state, strict=False)
    del state["num_batches_tracked"]  # its version is left
    with pytest.raises(InputError, match="the state of another batch norm"):
        norm.load_state_dict(state)
    network = ours(0.5, 1.0)
    named = {f"body.norm1.{key}": value for key, value in peer.state_dict().items()}
    with pytest.raises(InputError, match=r"layer 'body\.norm1': the state of another"):
        network.load_state_dict(named, strict=False)
    assert torch.equal(norm.weight, torch.ones(4))
    again = nn.TDBatchNorm(4)
    again.load_state_dict(norm.state_dict())
    model_file.load(ROOT / "models" / "digits-tdbn" / "model.pt")


def test_what_does_not_match_is_named() -> None:
    """Constants of neurons, layers, shapes, reset by subtraction; nothing is loaded."""
    network, state = ours(0.5, 0.5), theirs().state_dict()
    with pytest.raises(InputError, match=r"'body\.lif1': tau 0\.5 and threshold 0\.5, .* of tau 0\.5 and threshold 1 "):
        nn.load_spikingjelly(network, state, v_threshold=0.5)
    network = ours(0.5, 1.0)
    calls: list[tuple[Any, dict[str, Any], str]] = [
        ({"net": state}, {}, r"more than tensors; give the network's state_dict\(\)"),
        (dict(list(state.items())[1:]), {}, "2 layers with weights in the state, 3 in the network"),
        ({**state, "4.weight": torch.zeros(3, 65)}, {}, r"'body\.dense1' has .*\(3, 64\).*layer '4' .*\(3, 65\)"),
        (state, {"tau": 0.5}, "tau 0.5 of a LIFNode is at least 1"),
    ]
    for given, other, message in calls:
        with pytest.raises(InputError, match=message):
            nn.load_spikingjelly(network, given, **{"v_threshold": 0.5, **other})
    with pytest.raises(UnsupportedError, match="reset by subtraction"):
        nn.load_spikingjelly(network, state, v_threshold=0.5, v_reset=None)
    assert torch.equal(network.body.norm1.weight, torch.ones(4, dtype=torch.float64))
