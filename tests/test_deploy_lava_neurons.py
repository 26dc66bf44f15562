"""The time-varying neuron in Lava: its process equals the simulator's arithmetic, whole networks the dense engine."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from branching import Stages
from conftest import Command
from helpers import assert_same, lava_neurons, rng_of, run_in_lava, spiking_network
from varying import as_tdbn, digits_model, export, lowered, message, plain, randomize, raw_for, residual

from snn2chip.backends import lava
from snn2chip.chip import neuron
from snn2chip.formats import netx
from snn2chip.nn import BNTT, LIF, Flatten, Linear, SpikingNetwork, TDBatchNorm
from snn2chip.places import deploy_file
from snn2chip.simulate.dense import DenseEngine

pytestmark = [pytest.mark.lava, pytest.mark.usefixtures("lava_environment")]


def test_a_million_neuron_steps(tmp_path: Path) -> None:
    """Every u, v and spike: any leak and shift, inputs past where u wraps, biases and thresholds over 24 bits."""
    rng = rng_of(3)
    steps, cases, neurons, rows = 20, 50, 1000, 6
    tops = 2 ** rng.integers(8, 18, (cases, 1))  # membranes of all sizes, not only clipped ones
    ends = np.array([-(2**18), -(2**17) - 1, -(2**17), -(2**17) + 1, 0, 2**17 - 1, 2**17, 2**17 + 1, 2**18])
    arriving = rng.integers(-tops, tops + 1, (steps, cases, neurons))
    arriving = np.where(rng.random(arriving.shape) < 0.05, rng.choice(ends, arriving.shape), arriving)
    size = (cases, rows, neurons)
    leak = np.where(rng.random(size) < 0.1, rng.choice([0, 1, 32768, 65535], size), rng.integers(0, 2**16, size))
    lift = rng.integers(-(2**23) + 1, 2**23, size) // rng.choice([1, 2**6, 2**12], size)
    threshold = rng.integers(0, 2**23, size) // rng.choice([1, 2**4, 2**12], size)
    given = {
        "a_in": arriving.astype(np.int32),
        "du": rng.choice([4095, 4095, 4095, 0, 1000], cases),
        "dv": rng.choice([0, 4095], cases),  # not used, as vth
        "vth": rng.choice([0, 9], cases),
        "bias_exp": np.full(cases, 6),
        "bias_mant": rng.integers(-4096, 4096, (cases, neurons)),
        "reset_interval": rng.integers(1, rows + 1, cases),
        "reset_offset": np.ones(cases, dtype=np.int64),
        "leak": leak,
        "lift": np.where(rng.random(size) < 0.02, rng.choice([-(2**23) + 1, 2**23 - 1], size), lift),
        "threshold": np.where(rng.random(size) < 0.02, rng.choice([0, 2**23 - 1], size), threshold),
        "leak_shift": np.arange(cases) % 17,
    }
    found = lava_neurons(given, "steps", tmp_path)
    wraps = clips = 0
    for case in range(cases):
        tables = {name: torch.from_numpy(given[name][case].astype(np.int32)) for name in ("leak", "lift", "threshold")}
        bias = torch.from_numpy(given["bias_mant"][case].astype(np.int32))
        u = v = torch.zeros(neurons, dtype=torch.int32)
        for step in range(steps):
            row = step % int(given["reset_interval"][case])
            if row == 0:
                u = v = torch.zeros(neurons, dtype=torch.int32)
            x = torch.from_numpy(given["a_in"][step, case])
            current = neuron.decay(u, int(given["du"][case]) + 1) + (x << 6)
            u = neuron.current_step(u, x, int(given["du"][case]) + 1)
            wraps += int((current != u).sum())
            shift = int(given["leak_shift"][case])
            rows_ = (tables[name][row] for name in ("lift", "threshold"))
            v, fired = neuron.step_voltage(v, u, bias, tables["leak"][row], shift, *rows_)
            clips += int((v.abs() == 2**23 - 1).sum())
            for name, values in (("u", u), ("v", v), ("spikes", fired)):
                np.testing.assert_array_equal(
                    found[name][step, case], values.numpy(), err_msg=f"{name} of {case}, {step}"
                )
    assert wraps > 1000 and clips > 1000 and 0.05 < found["spikes"].mean() < 0.95


def flat(coding: str) -> SpikingNetwork:
    """Dense layers only: BNTT, tdBN, BNTT, spikes counted."""
    layers = [
        ("flat", Flatten()),
        ("dense1", Linear(12, 9)),
        ("norm1", BNTT(9, 5)),
        ("lif1", LIF(0.6, 0.4)),
        ("dense2", Linear(9, 7)),
        ("norm2", TDBatchNorm(7)),
        ("lif2", LIF(0.5, 0.2)),
        ("dense3", Linear(7, 3)),
        ("norm3", BNTT(3, 5)),
        ("lif3", LIF(1.0, 0.2)),
    ]
    made = spiking_network(layers, (3, 2, 2), timesteps=5, coding=coding, readout="spike_count")
    return randomize(made, 2, decades=0.3, var_decades=0.3)


NETWORKS = {
    "convolutions": lambda: plain(),
    "dense": lambda: flat("direct"),
    "dense, spikes in": lambda: flat("poisson"),
    "residual": lambda: residual(3),
    "residual, copies": lambda: residual(4, coding="poisson"),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_whole_networks(name: str, tmp_path: Path) -> None:
    """Every spike and voltage of samples back to back; fewer steps than T are the first of all."""
    network = NETWORKS[name]()
    stages: Stages = lowered(network, "double" if name == "residual, copies" else "auto")
    assert not stages.chain.stock
    port = stages.chain.port(raw_for(network, 3))
    wanted = DenseEngine(stages.chain).run(port)
    assert_same(run_in_lava(stages.chain, port, tmp_path), wanted)
    assert sum(0 < values.mean() < 1 for values in wanted.spikes.values()) >= 2
    if name == "dense":
        shorter = run_in_lava(stages.chain, port[:, :2], tmp_path)
        assert_same(shorter, DenseEngine(stages.chain).run(port[:, :2]))
        for layer, values in shorter.spikes.items():
            np.testing.assert_array_equal(values, wanted.spikes[layer][:, :2])
        said = message(lambda: run_in_lava(stages.chain, np.repeat(port, 2, 1), tmp_path))
        assert "10 time steps a sample, but" in said and "is made for 5; give at most 5" in said


STOCK = """
import sys
sys.path.insert(0, sys.argv[1])
from import_lava import import_lava
import_lava()
from lava.lib.dl.netx import hdf5
net = hdf5.Network(net_config=sys.argv[2], input_message_bits=int(sys.argv[3]), reset_interval=1, reset_offset=1)
print("loaded", len(net.layers))
"""


def stock(lava_environment: lava.Environment, net: Path, bits: int) -> subprocess.CompletedProcess[str]:
    """What netx itself, untouched, says of a file."""
    command = [lava_environment.python, "-B", "-c", STOCK, deploy_file("lava"), net, str(bits)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_stock_netx_refuses_tables_and_takes_one_step(lava_environment: lava.Environment, tmp_path: Path) -> None:
    """It must not run something else under the same name; a network of one step is a stock file, BNTT or tdBN."""
    netx.save(tmp_path / "steps.net", (steps := export(plain(3)).chain))
    refused = stock(lava_environment, tmp_path / "steps.net", steps.message_bits)
    assert refused.returncode != 0 and "loaded" not in refused.stdout, refused.stdout
    assert netx.STEPS in refused.stderr or "neuron" in refused.stderr
    network = plain(1)
    for made in (network, as_tdbn(network)):
        netx.save(tmp_path / "one.net", (chain := export(made).chain))
        taken = stock(lava_environment, tmp_path / "one.net", chain.message_bits)
        assert f"loaded {len(chain.layers)}" in taken.stdout, taken.stderr


def test_verify_with_lava(tmp_path: Path, cli: Command) -> None:
    """The command, with Lava as its last rung."""
    digits_model(tmp_path / "model.pt", 3)
    cli("fold-and-export", tmp_path / "model.pt", "--calibration=0").ok()
    printed = cli("verify", tmp_path / "model.pt", tmp_path / "model.net", "--samples=3").ok()
    assert "dense = Lava" in printed and "every exact rung holds" in printed
