"""lava-dl's CUBA blocks against their own forward functions; where the package is (see tests/test_frameworks.py)."""

from __future__ import annotations

import sys
import types
import warnings
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from frameworks_held import held
from torch import nn

import snn2chip
from snn2chip import chip, ir
from snn2chip.errors import InputError, UnsupportedError
from snn2chip.formats.netx import read
from snn2chip.passes.adapt import adapt, frames, pixels
from snn2chip.passes.pipeline import Source, export
from snn2chip.simulate import reference

UNUSED = "lava.lib.dl.slayer.object_detection"  # asks for OpenCV and torchvision
with pytest.MonkeyPatch.context() as patched, warnings.catch_warnings():
    warnings.simplefilter("ignore")
    if UNUSED not in sys.modules:
        patched.setitem(sys.modules, UNUSED, types.ModuleType(UNUSED))
    slayer = pytest.importorskip(
        "lava.lib.dl.slayer", reason="lava-dl is not installed here; tests/test_frameworks.py runs these"
    )
pytestmark = pytest.mark.filterwarnings("ignore")
SHAPE, STEPS = (2, 8, 8), 9
NEURON: dict[str, Any] = {"threshold": 1.25, "current_decay": 0.25, "voltage_decay": 0.03}


class Blocks(nn.Module):
    """As the package's tutorials have it: a list of blocks, weights normalized, spikes time last."""

    def __init__(self, *, weight_norm: bool = True, rate: bool = False, **options: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        block, kept = slayer.block.cuba, {"weight_norm": weight_norm, **options}
        self.rate = rate
        self.blocks = nn.ModuleList(
            [
                block.Input(delay_shift=False),
                block.Conv(NEURON, 2, 6, 3, padding=1, weight_scale=2, **kept),
                block.Pool(NEURON, 2, weight_scale=1),
                block.Conv(NEURON, 6, 6, 3, padding=(1, 0), stride=(1, 2), groups=2, weight_scale=3, **kept),
                block.Flatten(),
                block.Dense({**NEURON, "voltage_decay": 0.5}, 24, 10, weight_scale=3, **kept),
                block.Dense({**NEURON, "threshold": 0.3, "scale": 128}, 10, 5, **kept),
            ]
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return x.mean(-1) if self.rate else x


def trained(**options: Any) -> Blocks:
    """A network that has seen data once, as its weights after normalization are of that."""
    network = Blocks(**options)
    network(torch.rand(2, *SHAPE, STEPS).round())
    return network


@pytest.mark.parametrize("weight_norm", [True, False])
@pytest.mark.parametrize("rate", [True, False])
def test_a_list_of_blocks(weight_norm: bool, rate: bool) -> None:
    """Every spike of every block, with the decays' own rounding; and on to the chip's integers, where none differs."""
    found = held(trained(weight_norm=weight_norm, rate=rate), frames(SHAPE, 1), STEPS)
    assert found.takes == "series" and found.captured.readout.kind == "spike_count"
    assert found.captured.integers and [node.current_tau for node in found.captured.of(ir.LIF)] == 5 * [0.75]
    made = export(Source(found.captured, "blocks"), chip.load("loihi2"))
    raw = np.random.default_rng(1).integers(0, 2, (4, STEPS, *SHAPE))
    run, (spikes, scores) = reference.run(made.chain, raw), found.run(raw)
    for layer in made.chain.layers:
        (name,) = layer.origin
        np.testing.assert_array_equal(run.spikes[layer.name], spikes[name].reshape(run.spikes[layer.name].shape))
    np.testing.assert_allclose(run.scores, scores, rtol=1e-12)  # of a rate, times the steps
    deployed = snn2chip.deploy(found.module, raw)
    verdict = deployed.verify()
    assert verdict.passed and "folded = integers" in [rung.name for rung in verdict.rungs]


def test_a_step_of_delay_for_every_block() -> None:
    """The blocks as they are, run as many steps longer as they delay, give the same spikes that much later."""
    network, blocks = trained().eval(), 5
    found = adapt(network, frames(SHAPE, 1), STEPS)
    raw = np.random.default_rng(2).integers(0, 2, (3, STEPS, *SHAPE))
    spikes, _ = found.run(raw)
    given = torch.from_numpy(raw).float().movedim(1, -1)
    with torch.no_grad():
        late = network(torch.nn.functional.pad(given, (0, blocks)))
    wanted = spikes[found.captured.of(ir.LIF)[-1].name]
    np.testing.assert_array_equal(late[..., blocks:].movedim(-1, 1).numpy().astype(bool), wanted)
    assert not late[..., :blocks].any() and wanted.any()
    assert network.blocks[1].delay_shift


def test_the_file_is_the_one_that_the_blocks_write(tmp_path: Path) -> None:
    """Weights, thresholds and decays of our file and of `export_hdf5`; its pool is a convolution in netx's sense."""
    network = trained(weight_norm=False)
    chain = export(Source(adapt(network, frames(SHAPE, 1), STEPS).captured, "blocks"), chip.load("loihi2")).chain
    blocks = [network.blocks[index] for index in (1, 3, 5, 6)]
    ours = [chain.layers[index] for index in (0, 2, 3, 4)]
    for block, layer in zip(blocks, ours, strict=True):
        with h5py.File(tmp_path / "one.net", "w") as file:
            if layer.kind == "conv":
                first = file.create_group("layer/0")
                first["shape"], first["type"] = np.array([layer.weight.shape[1] * layer.groups, 8, 8]), [b"input"]
                if layer is not chain.layers[0]:
                    first["shape"][1:] = 4
            block.export_hdf5(file.create_group(f"layer/{int(layer.kind == 'conv')}"))
        theirs = read.load(tmp_path / "one.net").layers[-1]
        np.testing.assert_array_equal(theirs.weight.reshape(layer.weight.shape), layer.weight)
        for what in ("threshold", "voltage_decay", "current_decay", "stride", "padding", "dilation", "groups"):
            assert getattr(theirs, what) == getattr(layer, what), what


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda block: block.Dense(NEURON, 128, 4, delay=True), "'blocks.1': a block with delay=True"),
        (lambda block: block.Dense({**NEURON, "persistent_state": True}, 128, 4), "'blocks.1': .*persistent_state"),
        (lambda block: block.Dense({**NEURON, "shared_param": False}, 128, 4), "'blocks.1': .*shared_param=False"),
        (lambda block: block.Dense(NEURON, 128, 4, pre_hook_fx=lambda x: x), "'blocks.1': .*a pre_hook_fx"),
        (
            lambda block: block.Dense({**NEURON, "norm": slayer.neuron.norm.MeanOnlyBatchNorm}, 128, 4),
            "'blocks.1': a block with a normalization",
        ),
        (lambda block: block.Affine(NEURON, 128, 4), r"'blocks.1': lava-dl's cuba.Affine has no counterpart"),
        (
            lambda block: slayer.block.rf.Dense({"threshold": 1, "period": 5, "decay": 0.1}, 128, 4),
            "lava-dl's rf.Dense",
        ),
    ],
)
def test_what_is_refused_is_named(make: Any, message: str) -> None:
    """By block, with what would work."""
    network = Blocks()
    network.blocks = nn.ModuleList([slayer.block.cuba.Flatten(), make(slayer.block.cuba)])
    with pytest.raises(UnsupportedError, match=message):
        adapt(network, frames(SHAPE, 1), STEPS)


def test_images_are_no_input_of_integers() -> None:
    """Which would make fractions of the weights."""
    with pytest.raises(InputError, match="it computes in integers, and takes spikes or counts"):
        adapt(trained(), pixels(SHAPE, 255, [0.5], [0.25]), STEPS)
