"""The time-varying neuron in integers: scales, tables, bounds, the file, and every engine spike for spike."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from branching import LOIHI, Drawn, Stages, branching, check, inputs, same_spikes
from conftest import Command
from helpers import assert_equal, assert_same, look_trained, rng_of, spiking_network, usually
from hypothesis import assume, given, reject, settings
from hypothesis import strategies as st
from varying import digits_model, export, lowered, plain, randomize, raw_for, residual

from snn2chip import ir
from snn2chip.chip.bounds import varying_peaks
from snn2chip.errors import ChipLimitError, UnsupportedError
from snn2chip.formats import netx
from snn2chip.nn import BNTT, LIF, Flatten, Linear, SpikingNetwork, TDBatchNorm
from snn2chip.passes.capture import capture
from snn2chip.passes.fold import fold
from snn2chip.passes.lower import lower
from snn2chip.passes.quantize import quantize, quantize_at
from snn2chip.passes.quantize.bntt_layer import LEAK_MAX, LEAK_SHIFT_MAX, leak_shift
from snn2chip.passes.schedule import Relays, schedule
from snn2chip.simulate import reference
from snn2chip.simulate.dense import DenseEngine

# ------------------------------------------------------------------------------------------------------- numbers


@given(largest=st.floats(0, 65535.49))
def test_leak_shift_is_the_largest_that_fits(largest: float) -> None:
    """As many bits behind the point as 16 bits leave; no factor up to the largest is off by more than half a unit."""
    shift = leak_shift(largest)
    assert shift is not None and 0 <= shift <= LEAK_SHIFT_MAX == 16
    assert np.rint(largest * 2**shift) <= LEAK_MAX == 65535
    assert shift == LEAK_SHIFT_MAX or np.rint(largest * 2 ** (shift + 1)) > LEAK_MAX
    for factor in (largest, largest / 3, largest / 1000):
        assert abs(np.rint(factor * 2**shift) / 2**shift - factor) <= 0.5 / 2**shift


@pytest.mark.parametrize(
    ("largest", "wanted"), [(0, 16), (0.5, 16), (1, 15), (65535.4, 0), (65535.6, None), (1e9, None)]
)
def test_leak_shift_at_its_ends(largest: float, wanted: int | None) -> None:
    assert leak_shift(largest) == wanted


def small(change: Callable[[BNTT, Linear], None] | None = None) -> SpikingNetwork:
    """Six spiking pixels, four time-varying neurons, three classes: sums so small that every scale is proved."""
    network = spiking_network(
        [
            ("flat", Flatten()),
            ("dense1", Linear(6, 4)),
            ("norm", BNTT(4, 3)),
            ("lif", LIF(0.7, 0.5)),
            ("dense2", Linear(4, 3)),
        ],
        (1, 2, 3),
        timesteps=3,
        coding="poisson",
    )
    randomize(network, 1, decades=0.5, var_decades=0.3)
    with torch.no_grad():
        if change is not None:
            change(network.body.norm, network.body.dense1)  # type: ignore[arg-type]
    return network


def tables_of(network: ir.Network, name: str) -> ir.StepTables:
    node = network[name]
    assert isinstance(node, ir.CubaNeuron) and node.steps is not None
    return node.steps


def test_integers_are_the_documented_formulas() -> None:
    """A scale a channel that makes its largest weight 127; tables rounded to the nearest from the float constants."""
    folded, _ = fold(capture(small()))
    neuron, synapse = folded["lif"], folded["dense1"]
    assert isinstance(neuron, ir.LIF) and isinstance(synapse, ir.Dense)
    constants, bias = neuron.steps, synapse.bias
    assert constants is not None and bias is not None
    quantized, report = quantize(folded, LOIHI)
    made, tables = quantized["dense1"], tables_of(quantized, "lif")
    assert isinstance(made, ir.Dense) and made.bias is None and report.layers[0].proved
    assert np.abs(made.weight).max(1).tolist() == [127] * 4
    np.testing.assert_allclose(tables.scale, 127 / np.abs(synapse.weight).max(1), rtol=1e-12)
    scale = tables.scale
    np.testing.assert_array_equal(made.weight, np.rint(scale[:, None] * synapse.weight))
    np.testing.assert_array_equal(tables.bias, np.rint(64 * scale * (bias + constants.bias)))
    np.testing.assert_array_equal(tables.threshold, np.rint(64 * scale * constants.threshold))
    assert tables.leak_shift == leak_shift(constants.leak.max()) and not tables.leak[0].any()
    np.testing.assert_array_equal(tables.leak, np.rint(constants.leak * 2.0**tables.leak_shift))
    shown = report.layers[0].steps
    assert shown is not None and (shown.timesteps, shown.channels, shown.silent) == (3, 4, 0)
    assert shown.leak_error <= 0.5 / 2**shown.leak_shift == 0.5 / 2**tables.leak_shift
    assert (shown.scale_min, shown.scale_max) == (scale.min(), scale.max())


def test_thresholds_that_no_membrane_reaches() -> None:
    """gamma 1e-9 at two places: thresholds at the end of 24 bits, counted as silent; no neuron fires there."""

    def change(norm: BNTT, _dense: Linear) -> None:
        norm.running_var.fill_(1.0)
        norm.log_weight.zero_()
        norm.log_weight[0, 2] = norm.log_weight[0, 3] = np.log(1e-9)

    stages = export(network := small(change))
    tables = tables_of(stages.quantized, "lif")
    assert (tables.threshold == LOIHI.state_max).nonzero()[1].tolist() == [2, 3]
    report = quantize(stages.folded, LOIHI)[1].layers[0].steps
    assert report is not None and report.silent == 2 and report.threshold_max < LOIHI.state_max / 64
    spikes = DenseEngine(stages.chain).run(raw_for(network, 8).reshape(8, 3, 6)).spikes["1"]
    assert not spikes[:, 0, 2:].any() and spikes.any()


def test_a_channel_without_weights() -> None:
    """Its tables are those of the largest scale that the other channels have left; a layer of zeros is refused."""

    def one(_norm: BNTT, dense: Linear) -> None:
        dense.weight[1] = 0

    stages = export(network := small(one))
    tables = tables_of(stages.quantized, "lif")
    assert np.isfinite(tables.scale).all() and (tables.scale > 0).all()
    port = raw_for(network, 6).reshape(6, 3, 6)
    same_spikes(stages, DenseEngine(stages.chain).run(port), port)
    folded, _ = fold(capture(small(lambda _norm, dense: dense.weight.zero_())))  # type: ignore[arg-type, return-value]
    with pytest.raises(UnsupportedError, match="layer 'dense1': every weight is 0"):
        quantize(folded, LOIHI)


@settings(max_examples=usually(60), deadline=None)
@given(seed=st.integers(0, 2**32 - 1), wild=st.booleans())
def test_varying_peaks_is_a_bound(seed: int, wild: bool) -> None:
    """No membrane exceeds it before its reset, for random sums and for those that go to the ends; in Python integers.

    With `wild` leaks multiply it past 64 bits: the bound must then say that it is beyond the chip.
    """
    rng = rng_of(seed)
    steps, channels = (9, 3) if wild else (int(rng.integers(1, 7)), 4)
    shift = 0 if wild else int(rng.integers(0, 17))
    reach = int(rng.choice([3, 1000, 131071]))
    tables = ir.StepTables(
        rng.integers(0, 2**16, (steps, channels)),
        shift,
        rng.integers(-(2**20), 2**20, (steps, channels)) // int(rng.choice([1, 2**12])),
        rng.integers(0, 2 ** int(rng.integers(1, 24)), (steps, channels)),
        np.ones(channels),
    )
    ends = np.sort(rng.integers(-reach, reach + 1, (2, channels)), 0)
    least, most = np.minimum(ends[0], 0), np.maximum(ends[1], 0)
    biases = np.sort(rng.integers(-4095, 4096, (2, channels)), 0)
    peaks = varying_peaks(least, most, *biases, tables)
    runs = 200
    v = np.zeros((runs, channels), dtype=object)  # Python's integers, which do not wrap
    for step in range(steps):
        sums = rng.integers(least, most + 1, (runs, channels))
        sums[::3] = rng.choice([0, 1], (len(sums[::3]), channels)) * (most - least) + least
        bias = rng.choice([0, 1], (runs, channels)) * (biases[1] - biases[0]) + biases[0]
        sums[1], bias[1] = least, biases[0]
        sums[2], bias[2] = most, biases[1]
        size = abs(v) * tables.leak[step].astype(object) // 2**shift
        v = np.where(v < 0, -size, size) + (64 * (sums + bias) + tables.bias[step]).astype(object)
        assert (np.minimum(abs(v), 2 * LOIHI.state_max) <= peaks).all()
        v = np.where(v > tables.threshold[step], 0, v)


@settings(max_examples=usually(6), deadline=None)
@given(seed=st.integers(0, 2**31), calibrated=st.booleans())
def test_the_same_integers_from_the_scales_of_the_file(
    tmp_path_factory: pytest.TempPathFactory, seed: int, calibrated: bool
) -> None:
    """What `verify` recomputes: quantize_at with the file's scales gives every number again; save and load too."""
    network = plain(3, seed=seed)
    folded, _ = fold(capture(network))
    plan = schedule(folded, LOIHI)
    quantized, report = quantize(folded, LOIHI, plan, calibration=raw_for(network, 3) if calibrated else None)
    chain = lower(quantized, LOIHI, plan)[0]
    path = tmp_path_factory.mktemp("net") / "a.net"
    netx.save(path, chain)
    loaded = netx.load(path)
    assert not loaded.stock
    scales: dict[str, float | ir.FloatArray] = {item.name: item.scale for item in report.layers if item.steps is None}
    assert_equal(loaded.layers, chain.layers)
    for layer in loaded.layers:
        if layer.steps is not None:
            scales[folded.synapses_of(folded[next(iter(layer.origin))])[0].name] = layer.steps.scale
    again = quantize_at(folded, LOIHI, plan, scales, {item.name: item.rounding for item in report.layers})
    assert_equal(lower(again, LOIHI, plan)[0].layers, chain.layers)


# ------------------------------------------------------------------------------------ the engines, spike for spike


def with_bntt(drawn: Drawn) -> int:
    """Put BNTT after the add of every other layer of neurons of a random network, in place; how many there are."""
    dag = drawn.network.body.dag
    captured = capture(drawn.network)
    shared = {source for _, ways in dag.plan for source, current in ways if current}  # currents that pass on unchanged
    passing = {name for name, ways in dag.plan if any(current for _, current in ways)}
    count = 0
    for number, (name, _) in enumerate(dag.plan):
        if isinstance(getattr(dag, name), LIF) and name not in shared | passing and (number + drawn.seed) % 4:
            channels = captured.shape(f"dag.{name}")[0]
            norm = BNTT(channels, drawn.network.timesteps, momentum=1.0)
            setattr(dag, f"{name}_after", norm)
            count += 1
    look_trained(drawn.network, drawn.seed % 2**31)  # statistics again, of BNTT too
    generator = torch.Generator().manual_seed(drawn.seed % 2**31)
    with torch.no_grad():
        for module in drawn.network.modules():
            if isinstance(module, BNTT):
                module.log_weight.copy_(torch.randn(module.log_weight.shape, generator=generator) / 2 - 0.3)
            if isinstance(module, (BNTT, TDBatchNorm)):
                module.running_var.clamp_(min=0.05)
    return count


def engines_agree(stages: Stages, raw: ir.IntArray) -> None:
    port = stages.chain.port(raw)
    dense = DenseEngine(stages.chain).run(port)
    same_spikes(stages, dense, port)
    assert_same(dense, reference.run(stages.chain, port))


@settings(max_examples=usually(25), deadline=None)
@given(drawn=branching())
def test_random_branching_networks(drawn: Drawn) -> None:
    """Torch = captured = folded, and graph = chain = reference, with BNTT after some adds and tdBN elsewhere."""
    assume(with_bntt(drawn))
    try:
        stages = lowered(drawn.network, drawn.relays, drawn.bits, drawn.calibrated)
    except (UnsupportedError, ChipLimitError):  # strides or sizes that no chain holds, relays that no scale fits
        reject()
    assert stages.chain.stock == (drawn.network.timesteps == 1)
    check(drawn.network, stages, drawn.seed)
    engines_agree(stages, inputs(stages.folded, 2, drawn.seed))


@pytest.mark.parametrize("relays", ["auto", "double"])
@pytest.mark.parametrize("coding", ["direct", "poisson"])
def test_residual_network(coding: str, relays: Relays) -> None:
    """Relays and copies stand beside tables, and pass every spike on."""
    network = residual(3, coding=coding)
    stages = lowered(network, relays)
    beside = [
        item
        for item in stages.report.placed
        if item.what != "neurons"
        and next(layer for layer in stages.chain.layers if layer.name == item.layer).steps is not None
    ]
    assert any(item.relay is not None for item in beside)
    assert relays == "auto" or any(item.what == "copy" for item in beside)
    check(network, stages, 1)
    raw = raw_for(network, 3)
    engines_agree(stages, raw)
    spikes = DenseEngine(stages.chain).run(stages.chain.port(raw)).spikes
    assert sum(0.02 < values.mean() < 0.98 for values in spikes.values()) >= 5


# ----------------------------------------------------------------------------------- the command line and the file


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, cli: Command) -> Path:
    """A folder with model.pt of three steps and its model.net. Read only: copy it."""
    folder = tmp_path_factory.mktemp("steps")
    digits_model(folder / "model.pt", 3)
    out = cli("fold-and-export", folder / "model.pt", "--calibration=8", "--json", folder / "export.json").ok()
    assert "route: exact" in out and "route: static" not in out
    return folder


def test_commands_on_a_time_varying_file(exported: Path, tmp_path: Path, cli: Command) -> None:
    """export.json has the tables in figures; simulate and verify run; loihi1 is refused in one line."""
    written = json.loads((exported / "export.json").read_text())
    assert [layer["steps"] is not None for layer in written["quantize"]["layers"]] == [True, True, False]
    assert written["made"]["route"] == "steps"
    cli("simulate", exported / "model.net", "--limit=20", "--device=cpu").ok()
    printed = cli("verify", exported / "model.pt", exported / "model.net", "--no-lava", "--samples=6").ok()
    assert "every exact rung holds" in printed
    refused = cli(
        "fold-and-export", exported / "model.pt", "--chip=loihi1", "-o", tmp_path / "no.net", "--calibration=0"
    )
    refused.refused("loihi1")
    assert not (tmp_path / "no.net").exists()


def test_commands_at_one_step(tmp_path: Path, cli: Command) -> None:
    digits_model(tmp_path / "model.pt", 1)
    out = cli("fold-and-export", tmp_path / "model.pt", "--calibration=0").ok()
    assert "route: static" in out and "route: exact" not in out
    assert netx.load(tmp_path / "model.net").stock
    cli("verify", tmp_path / "model.pt", tmp_path / "model.net", "--no-lava", "--samples=4").ok()


def rewrite(name: str, change: Callable[[np.ndarray], object]) -> Callable[[h5py.Group], None]:
    """Replace a dataset of the neuron group."""

    def edit(neuron: h5py.Group) -> None:
        values = np.array(neuron[name][()])
        del neuron[name]
        neuron[name] = change(values)

    return edit


def one_more(values: np.ndarray) -> np.ndarray:
    """One number of a table changed by 1."""
    values = values.copy()
    values[-1, 1] += 1
    return values


def fewer(values: np.ndarray) -> np.ndarray:
    values = values.copy()
    values.reshape(-1)[0] *= 0.9
    return values


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (rewrite("leak", one_more), "leak of 'lif1'"),
        (rewrite("stepBias", one_more), "step bias of 'lif1'"),
        (rewrite("stepThreshold", one_more), "step threshold of 'lif1'"),
        (rewrite("leakShift", lambda shift: shift - 1), "leak of 'lif1'"),
        (rewrite("scale", fewer), "of 'lif1'"),
    ],
    ids=["leak", "bias", "threshold", "shift", "scale"],
)
def test_verify_names_a_changed_number(
    exported: Path, tmp_path: Path, cli: Command, edit: Callable[[h5py.Group], None], words: str
) -> None:
    """One number of the file that is not the model's: exit code 1, and the layer it belongs to."""
    net = shutil.copy(exported / "model.net", tmp_path / "model.net")
    with h5py.File(net, "r+") as file:
        edit(file["layer/1/neuron"])
    done = cli("verify", exported / "model.pt", net, "--no-lava", "--samples=2")
    assert done.code == 1 and "Traceback" not in done.out + done.err
    assert "integers = file" in done.err and words in " ".join((done.err + done.out).split())


def delete(neuron: h5py.Group) -> None:
    del neuron["leak"]


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (rewrite("leak", lambda table: table[:2]), "'leak' has shape (2, 4); 3 time steps of 4 channels need (3, 4)"),
        (rewrite("stepBias", lambda table: table[:, :3]), "'stepBias' has shape (3, 3)"),
        (rewrite("stepThreshold", lambda table: table.reshape(-1)), "'stepThreshold' has shape (12,)"),
        (rewrite("leak", lambda table: table * 0 + 65536), "'leak' holds 65536..65536, outside 0..65535"),
        (rewrite("leak", lambda table: table - 65535), "outside 0..65535"),
        (rewrite("stepBias", lambda table: table * 0 - 2**23), "'stepBias' holds -8388608..-8388608, outside"),
        (rewrite("stepThreshold", lambda table: table * 0 - 1), "'stepThreshold' holds -1..-1, outside 0..8388607"),
        (rewrite("stepThreshold", lambda table: table * 0 + 2**23), "outside 0..8388607"),
        (rewrite("leakShift", lambda _: 17), "'leakShift' is 17; expected one integer 0..16"),
        (rewrite("leakShift", lambda _: np.zeros(2, int)), "'leakShift'"),
        (delete, "'leak' is missing or not numbers"),
        (rewrite("stepBias", lambda _: b"none"), "'stepBias' is missing or not numbers"),
        (rewrite("stepBias", lambda table: table + 0.5), "'stepBias' holds values that are not integers"),
        (rewrite("scale", lambda scale: scale * 0), "'scale' holds values that are not positive numbers"),
        (rewrite("scale", lambda scale: scale * np.nan), "'scale' holds values that are not positive numbers"),
        (rewrite("scale", lambda scale: scale[:2]), "'scale' is missing or not 4 numbers"),
        (rewrite("scale", lambda scale: scale.astype(int)), "'scale' is missing or not 4 numbers"),
        (rewrite("type", lambda _: b"SNN2CHIP_OTHER"), "neuron type 'SNN2CHIP_OTHER' is not simulated"),
        (lambda neuron: neuron.file["snn2chip"].attrs.modify("timesteps", 4), "3 time steps"),
    ],
)  # fmt: skip
def test_damaged_tables(
    exported: Path, tmp_path: Path, cli: Command, edit: Callable[[h5py.Group], None], words: str
) -> None:
    """Each is one line with the place in the file, exit code 2."""
    net = shutil.copy(exported / "model.net", tmp_path / "model.net")
    with h5py.File(net, "r+") as file:
        edit(file["layer/1/neuron"])
    if words == "3 time steps":  # of another T than the file's own
        words = "'leak' has shape (3, 4); 4 time steps of 4 channels need (4, 4)"
    cli("simulate", net, "--limit=2", "--device=cpu").refused("layer/1/neuron", words)


def test_more_steps_on_the_command_line(exported: Path, tmp_path: Path, cli: Command) -> None:
    """Refused before anything runs, by `simulate` and by `lava run`; fewer run."""
    np.savez(tmp_path / "more.npz", input=np.zeros((2, 4, 1, 8, 8), dtype=np.int64))
    np.savez(tmp_path / "less.npz", input=np.zeros((2, 2, 1, 8, 8), dtype=np.int64))
    given_ = ("--input", tmp_path / "more.npz")
    cli("simulate", exported / "model.net", *given_, "--device=cpu").refused("4 timesteps exceed the file's 3")
    lava = cli("lava", "run", exported / "model.net", *given_, "--output", tmp_path / "out.npz")
    lava.refused("4 timesteps exceed the file's 3")
    cli("simulate", exported / "model.net", "--input", tmp_path / "less.npz", "--device=cpu").ok()


def test_tables_of_a_chain_can_be_replaced() -> None:
    """`Chain.stock` follows the layers, and saving a time-varying layer keeps no CUBA constants."""
    chain = export(plain(2)).chain
    assert not chain.stock
    assert replace(chain, layers=tuple(replace(layer, steps=None) for layer in chain.layers)).stock
