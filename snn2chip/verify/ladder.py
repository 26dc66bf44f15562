"""The ladder: every stage says the same as the last, spike for spike, or the first difference is named.

torch = captured       the trained module and the captured network, both float64: the same spikes and scores
captured = folded      float64: the same spikes, and membranes and scores but for float64's rounding
folded ~ integers      decisions and accuracy; the one rung that may differ, as rounding is lossy; it fails where the
                       scores of the integers do not depend on the input at all
integers = file        every weight, bias, threshold and decay of the file is the folded network's,
                       rounded at the file's scales, and so is what the file says of input and readout: proved, as
                       no number is left out
graph = chain          the rounded network as it branches, and the file's chain: proved for every input (see
                       `snn2chip.verify.prove`); and run in the dense engine, every spike and voltage of every
                       trained layer, and every relay's spikes those of its source
reference = dense      the slow engine and the dense one on the file: every spike and voltage
dense = events         and the event-driven one, where it is compiled
dense = ONNX Runtime   the file's ONNX, when asked for: every spike, voltage and score
dense = Lava           the file through lava-dl's own netx: every spike and voltage

Each rung that runs something says its spikes, layer by layer: silence equals silence, and proves nothing.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from snn2chip import chip as chips
from snn2chip import ir, lava
from snn2chip.errors import InputError
from snn2chip.ir.encode import encoder_of
from snn2chip.ir.interpreter import FloatTrace, evaluate
from snn2chip.ir.trace import Trace
from snn2chip.nn import LIF, in_float64, unwrapped
from snn2chip.nn.model_file import Model
from snn2chip.passes import fold as folding
from snn2chip.passes.capture import capture
from snn2chip.passes.lower import LowerReport, lower
from snn2chip.passes.quantize import quantize_at
from snn2chip.passes.quantize.layer import ACCUMULATOR
from snn2chip.passes.quantize.rounding import Rounding
from snn2chip.passes.schedule import RELAYS, Relay, schedule
from snn2chip.simulate import activity, reference, trace
from snn2chip.simulate import branching as graph
from snn2chip.simulate.dense import DenseEngine
from snn2chip.simulate.engines import make_engine
from snn2chip.verify.compare import Arrays, Counted, Difference, Rung, Verdict, compare
from snn2chip.verify.prove import prove

ROUNDING = 1e-9  # what float64 may add to a membrane or score, relative to the largest of its layer


@torch.no_grad()
def module_spikes(network: nn.Module, raw: ir.IntArray) -> tuple[dict[str, NDArray[Any]], NDArray[Any]]:
    """Spikes (N, T, ...) of every LIF of a torch network run in float64, by name, and scores (N, K) summed
    over time; `raw` is (N, T, C, H, W)."""
    network = in_float64(unwrapped(network))
    spikes: dict[str, NDArray[Any]] = {}
    uses: Counter[str] = Counter()

    def keep(name: str) -> Callable[..., None]:
        def hook(_module: object, _inputs: object, output: torch.Tensor) -> None:
            uses[name] += 1  # a module used again is another layer (see `capture`)
            shown = name if uses[name] == 1 else f"{name}:{uses[name]}"
            spikes[shown] = output.transpose(0, 1).numpy().astype(bool)

        return hook

    handles = [
        module.register_forward_hook(keep(name))
        for name, module in network.body.named_modules()
        if isinstance(module, LIF)
    ]
    x = torch.from_numpy(raw).transpose(0, 1)
    # direct coding has an affine part of its own; a Poisson encoder's output is its spikes
    x = network.encoder(x[0]) if network.encoder.coding == "direct" else x.double()
    scores = network.readout(network.body(x)) * network.timesteps
    for handle in handles:
        handle.remove()
    return spikes, scores.numpy()


def _membranes(first: FloatTrace, second: FloatTrace) -> Counted:
    """Like `compare`, of two float traces: a neuron's step differs if its spike does, or its membrane does."""
    spikes, others = _numpy(first), _numpy(second)
    compare(spikes, others)  # refuses other layers and shapes
    differs: dict[str, NDArray[Any]] = {}
    for name, membrane in first.membranes.items():
        gap = (membrane - second.membranes[name]).abs().numpy()
        near = gap <= ROUNDING * max(1.0, float(membrane.abs().max()))  # and not, if it is NaN
        differs[name] = ~near | (spikes[name] != others[name])
    return compare(differs, {name: np.zeros_like(values) for name, values in differs.items()})


def _with_scores(counted: Counted, first: NDArray[Any], second: NDArray[Any], layer: str) -> Counted:
    """Count scores (N, K) too: the last layer has no spikes of its own, and shows in them alone."""
    gap = np.abs(first - second)
    differs = ~(gap <= ROUNDING * max(1.0, float(np.abs(first).max())))
    mismatches, compared, earliest = counted
    if differs.any() and earliest is None:
        sample, *neuron = (int(index) for index in np.argwhere(differs)[0])
        earliest = Difference(layer, sample, None, neuron)
    return mismatches + int(differs.sum()), compared + differs.size, earliest


def _numpy(trace_: FloatTrace) -> dict[str, NDArray[Any]]:
    return {name: values.numpy() for name, values in trace_.spikes.items()}


def _rung(name: str, counted: Counted, detail: str, spikes: Arrays | None = None) -> Rung:
    mismatches, compared, first = counted
    return Rung(name, mismatches == 0, mismatches, compared, first, detail, spikes=_counts(spikes or {}))


def _counts(spikes: Arrays) -> dict[str, int]:
    return {layer: int(np.count_nonzero(values)) for layer, values in spikes.items()}


def _drivers(network: ir.Network, neuron: str) -> str:
    """The layers between a neuron and those before it, for people to look at."""
    chain: list[str] = []
    waiting = list(network[neuron].inputs)
    while waiting:
        name = waiting.pop()
        if name not in chain and not isinstance(network[name], (ir.LIF, ir.Input)):
            chain.append(name)
            waiting += network[name].inputs
    return ", ".join(node.name for node in network.nodes if node.name in chain)


def _constant(chain: ir.Chain, raw: ir.IntArray, scores: NDArray[Any]) -> bool:
    """Whether all samples have the same scores, and black, white, inverted and random input as well.

    Few samples may be alike to a good network; one that says the same of all these looks at nothing.
    """
    if (scores != scores[0]).any():
        return False
    rng, shape = np.random.default_rng(0), raw.shape[1:]
    drawn = rng.integers(chain.low, chain.high, (8, *shape), endpoint=True)
    if chain.coding == "direct":
        drawn[:] = drawn[:, :1]  # an image at all steps
    probes = [np.full((1, *shape), chain.low), np.full((1, *shape), chain.high), chain.low + chain.high - raw, drawn]
    tried = DenseEngine(chain).run(chain.port(np.concatenate(probes)), keep=False).scores
    return not (tried != scores[0]).any()


def _decisions(float_scores: NDArray[Any], scores: NDArray[Any], labels: NDArray[Any] | None, constant: bool) -> Rung:
    wanted, found = float_scores.argmax(1), scores.argmax(1)
    differing = np.flatnonzero(wanted != found)
    detail = f"decisions agree on {len(wanted) - len(differing)} of {len(wanted)} samples"
    if labels is not None:
        detail += f"; accuracy {np.mean(wanted == labels):.4f} folded, {np.mean(found == labels):.4f} in integers"
    first = None if not len(differing) else Difference("readout", int(differing[0]), None, [int(found[differing[0]])])
    if constant:
        detail = (
            "the scores do not depend on the input: they are the same for every sample and for black, white, inverted "
            f"and random input; see which layers fire, and train longer or with a lower threshold; {detail}"
        )
    # else it does not fail: rounding may move a decision, and the detail says how often
    return Rung("folded ~ integers", not constant, len(differing), len(wanted), first, detail)


def _rounded(folded: ir.Network, chain: ir.Chain) -> tuple[ir.Network, ir.Chain, LowerReport]:
    """The folded network rounded at the file's scales, and lowered as the file says it was."""
    made = chain.made
    scales = made.get("scales")
    if not isinstance(scales, dict):
        raise InputError("the .net file does not say at which scales it was made; export the model again")
    chip = chips.load(str(made.get("chip"))).with_weight_bits(int(made.get("weight_bits", 8)))
    roundings: dict[str, Rounding] = {
        str(name): "sums" if kind == "sums" else "nearest" for name, kind in dict(made.get("rounding", {})).items()
    }
    wanted = made.get("relays", "auto")
    relays = next((kind for kind in RELAYS if kind == wanted), None)
    if relays is None:
        raise InputError(f"the .net file was made with relays '{wanted}', which this snn2chip does not know; update it")
    plan = schedule(folded, chip, relays)
    # a bias that would not fit at the file's scale is a difference to name, not a reason to stop here
    wide = 2**31 - 1
    wanted_scales: dict[str, float | ir.FloatArray] = {str(k): float(v) for k, v in scales.items()}
    wanted_scales |= _channel_scales(folded, chain)
    quantized = quantize_at(folded, chip, wanted_scales, roundings, plan, bias_max=wide)
    return quantized, *lower(quantized, plan, chip)


def _channel_scales(folded: ir.Network, chain: ir.Chain) -> dict[str, ir.FloatArray]:
    """Scales of time-varying neurons, which the file keeps beside their tables, by conv or dense layer."""
    found: dict[str, ir.FloatArray] = {}
    for neuron in folded.of(ir.LIF):
        for layer in chain.layers:
            if neuron.steps is not None and layer.steps is not None and neuron.name in layer.origin:
                start, stop = layer.origin[neuron.name]
                found[folded.synapses_of(neuron)[0].name] = layer.steps.scale[start:stop]
    return found


def _tables(layer: ir.ChainLayer) -> dict[str, NDArray[Any]]:
    """The tables of a layer by name; of stock neurons, empty ones."""
    tables = layer.steps
    if tables is None:
        return {name: np.zeros((0, 0), dtype=np.int64) for name in ("leak", "step bias", "step threshold")}
    return {
        "leak": np.vstack([tables.leak, np.full_like(tables.leak[:1], tables.leak_shift)]),
        "step bias": tables.bias,
        "step threshold": tables.threshold,
    }


def _same_integers(folded: ir.Network, expected: ir.Chain, chain: ir.Chain) -> Rung:
    """Compare every number of the file with the folded network's, rounded at the file's scales."""
    name = "integers = file"
    if [(item.kind, item.shape) for item in expected.layers] != [(item.kind, item.shape) for item in chain.layers]:
        raise InputError("the .net file has other layers than the model; was it exported from another model?")
    mismatches, compared = 0, 0
    first: Difference | None = None
    detail: list[str] = []
    pairs: list[tuple[str, str, NDArray[Any], NDArray[Any]]] = [
        ("input", kind, np.array(wanted), np.array(found))
        for kind, wanted, found in (
            ("centre", expected.center, chain.center),
            ("range", (expected.low, expected.high), (chain.low, chain.high)),
            ("largest pixel", [expected.pixel_max], [chain.pixel_max]),
            ("image shape", expected.raw_shape, chain.raw_shape),
            ("coding", [expected.coding], [chain.coding]),
        )
    ]
    for wanted, found in zip(expected.layers, chain.layers, strict=True):
        trained = next(iter(wanted.origin))
        pairs += [
            (trained, "weight", wanted.weight, found.weight),
            (trained, "bias", wanted.bias, found.bias),
            (trained, "threshold", np.array([wanted.threshold]), np.array([found.threshold])),
            (
                trained,
                "decay",
                np.array([wanted.voltage_decay, wanted.current_decay]),
                np.array([found.voltage_decay, found.current_decay]),
            ),
        ]
        given = _tables(found)
        pairs += [(trained, kind, table, given[kind]) for kind, table in _tables(wanted).items()]
        geometry = [np.array([*item.stride, *item.padding, *item.dilation, item.groups]) for item in (wanted, found)]
        pairs.append((trained, "stride, padding, dilation and groups", geometry[0], geometry[1]))
    pairs += [
        ("readout", "kind", np.array([expected.readout]), np.array([chain.readout])),
        ("readout", "class", np.array(expected.classes), np.array(chain.classes)),
    ]
    for trained, kind, left, right in pairs:
        if left.shape != right.shape:
            raise InputError(f"layer '{trained}': {kind} of shape {right.shape} in the file, {left.shape} expected")
        compared += left.size
        places = np.argwhere(left != right)
        mismatches += len(places)
        if len(places):
            if first is None:
                first = Difference(trained, None, None, [int(index) for index in places[0]])
            place = tuple(places[0])
            detail.append(
                f"{kind} of '{trained}'{_fan(folded, trained)}: {len(places)} of {left.size} differ, first "
                f"{right[place]} in the file, {left[place]} expected"
            )
    text = "; ".join(detail[:4]) or "every weight, bias, threshold and decay, input and readout"
    return replace(_rung(name, (mismatches, compared, first), text), proved=not mismatches)


def _fan(folded: ir.Network, neuron: str) -> str:
    """The layers that the numbers of a neuron come from, in brackets; nothing for input and readout."""
    if neuron in ("input", "readout"):
        return ""
    names = [node.name for node in folded.nodes]
    return f" ({_drivers(folded, neuron) if neuron in names else folded.readout.inputs[0]})"


Named = dict[str, tuple[NDArray[Any], NDArray[Any]]]  # layer -> spikes, voltages (N, T, ...)


def _by_origin(trace_: Trace, chain: ir.Chain) -> Named:
    """Spikes and voltages by what each channel of the chain was made from."""
    found: Named = {}
    for layer in chain.layers:
        blocks = layer.origin or {layer.name: (0, layer.shape[0])}
        for name, (start, stop) in blocks.items():
            found[name] = (
                trace_.spikes[layer.name][:, :, start:stop],
                trace_.voltage[layer.name][:, :, start:stop],
            )
    return found


def _compare_both(left: Named, right: Named) -> Counted:
    """Compare spikes and voltages, side by side so that the first difference is the first in time."""

    def stacked(named: Named) -> dict[str, NDArray[Any]]:
        return {name: np.stack([volts, spikes.astype(np.int32)], 2) for name, (spikes, volts) in named.items()}

    mismatches, compared, first = compare(stacked(left), stacked(right))
    if first is not None:
        # the first index only says which of the two arrays it was
        first = Difference(first.layer, first.sample, first.step, first.neuron[1:])
    return mismatches, compared, first


def _traces(left: Trace, right: Trace, chain: ir.Chain) -> Counted:
    """Compare two runs of one chain, layers called by the trained layer's name, relays included."""
    return _compare_both(_by_origin(left, chain), _by_origin(right, chain))


def relayed(source: NDArray[Any], relay: Relay) -> NDArray[Any]:
    """What a relay of spikes (N, T, C, H, W) or (N, T, F) must hold, in the layout of `snn2chip.passes.schedule`."""
    if source.ndim == 3:
        return source
    (sy, sx), (rows, columns) = relay.stride, relay.grid
    source = source[:, :, :, : relay.covers[0], : relay.covers[1]]
    padded = np.pad(source, ((0, 0), (0, 0), (0, 0), (0, sy * rows), (0, sx * columns)))  # beyond the image: none
    parts = [padded[:, :, :, y : y + sy * rows : sy, x : x + sx * columns : sx] for y, x in relay.phases]
    held = np.stack(parts, 3).reshape(*source.shape[:2], -1, rows, columns)
    return held.reshape(*source.shape[:2], *relay.shape)


def _graph(quantized: ir.Network, report: LowerReport, dense: Trace, chain: ir.Chain, port: ir.IntArray) -> Rung:
    """The network as it branches against the chain, layer by layer; and every relay against its source."""
    branching = graph.run(quantized, port)
    found = _by_origin(dense, chain)
    neurons: Named = {}
    passed: dict[str, NDArray[Any]] = {}
    for item in report.placed:
        if item.relay is not None:
            given = port if item.relay.source == quantized.input.name else branching.spikes[item.relay.source]
            passed[item.name] = relayed(given, item.relay)
        else:
            original = item.name if item.what == "neurons" else item.name.rpartition(".")[0]
            neurons[item.name] = (branching.spikes[original], branching.voltage[original])
    counts = [_compare_both(neurons, found), compare(passed, {name: found[name][0] for name in passed})]
    first = next((first for *_, first in counts if first is not None), None)
    detail = f"{len(branching.spikes)} trained layers"
    if passed:
        detail += f" and {len(passed)} relays"
    fired = {name: values for name, values in branching.spikes.items() if name != ACCUMULATOR}
    ran = _rung("graph = chain", (sum(c[0] for c in counts), sum(c[1] for c in counts), first), detail, fired)
    proof = prove(quantized, chain)
    if proof.place is None:
        return replace(ran, proved=ran.passed, detail=f"{ran.detail}, for every input")
    layer, neuron = proof.place
    detail = f"{ran.detail}; not for every input: layer '{layer}', neuron {neuron}: {proof.reason}"
    return replace(ran, passed=False, first=first or Difference(layer, None, None, neuron), detail=detail)


def verify(
    model: Model,
    chain: ir.Chain,
    images: NDArray[Any],
    *,
    labels: NDArray[Any] | None = None,
    net_path: Path | None = None,
    with_lava: bool = True,
    with_onnx: bool = False,
    fast_convolution: bool = False,
    say: Callable[[str], None] = lambda _message: None,
) -> Verdict:
    """Climb the ladder with `images` (N, C, H, W); `net_path` is the file Lava runs, needed `with_lava`.

    `fast_convolution` lets exact matrix products stand in for Lava's own convolution (see `snn2chip.lava.run`); the
    verdict says so. `say` is told what is being done, for a progress display.

    Raises:
        InputError: model, file and images do not belong together.
        SetupError: Lava or ONNX was asked for and is not there.
    """
    if with_onnx:
        from snn2chip.formats.onnx import run  # of an optional package; if that is missing, now is the time
    say("torch = captured")
    captured = capture(model.network, model.classes)
    if (chain.raw_shape, chain.timesteps) != (captured.input.shape, captured.timesteps):
        raise InputError(
            f"the .net file takes {chain.timesteps} x {chain.raw_shape}, the model {captured.timesteps} x "
            f"{captured.input.shape}; was it exported from another model?"
        )
    raw = encoder_of(captured)(images)
    torch_spikes, torch_scores = module_spikes(model.network, raw)
    float_trace = evaluate(captured, raw)
    scores = float_trace.scores.numpy()
    last = captured.readout.inputs[0]
    counted = _with_scores(compare(torch_spikes, _numpy(float_trace)), torch_scores, scores, last)
    drift = float(np.abs(torch_scores - scores).max())
    detail = _where(captured, counted[2], f"largest score difference {drift:.1e}")
    rungs = [_rung("torch = captured", counted, detail, _numpy(float_trace))]

    say("captured = folded")
    folded, _ = folding.fold(captured)
    folded_trace = evaluate(folded, raw)
    folded_scores = folded_trace.scores.numpy()
    counted = _with_scores(_membranes(float_trace, folded_trace), scores, folded_scores, folded.readout.inputs[0])
    gap = max(
        (float((float_trace.membranes[n] - folded_trace.membranes[n]).abs().max()) for n in float_trace.membranes),
        default=0.0,
    )
    scores_gap = float(np.abs(scores - folded_scores).max())
    detail = f"largest membrane difference {gap:.1e}, largest score difference {scores_gap:.1e}"
    float_spikes = _numpy(folded_trace)
    rungs.append(_rung("captured = folded", counted, _where(captured, counted[2], detail), float_spikes))

    say("integers")
    quantized, expected, lowered = _rounded(folded, chain)
    written = _same_integers(folded, expected, chain)  # refuses the file of another network before anything runs on it
    port = chain.port(raw)
    dense = DenseEngine(chain).run(port)
    fired = _spikes(dense, chain, folded)
    constant = _constant(chain, raw, dense.scores)
    decisions = _decisions(folded_trace.scores.numpy(), dense.scores, labels, constant)
    rungs.append(replace(decisions, spikes=_counts(fired)))
    rungs.append(written)
    say("graph = chain")
    rungs.append(_graph(quantized, lowered, dense, chain, port))
    say("reference = dense")
    slow = reference.run(chain, port)
    events = make_engine(chain, kind="events")
    absent = "" if events.note is None else f"; {events.note}"
    rungs.append(_rung("reference = dense", _traces(slow, dense, chain), _sums(dense) + absent, fired))
    if not absent:
        counted = _with_scores(_traces(dense, found := events.run(port), chain), dense.scores, found.scores, "readout")
        rungs.append(_rung("dense = events", counted, _sums(found), _spikes(found, chain, folded)))

    if with_onnx:
        say("ONNX Runtime")
        exported = run.run(chain, raw)
        counted = _with_scores(_traces(dense, exported, chain), dense.scores, exported.scores, "readout")
        detail = f"spikes and voltages of {len(chain.layers)} layers, scores"
        rungs.append(_rung("dense = ONNX Runtime", counted, detail, _spikes(exported, chain, folded)))
    if with_lava:
        if net_path is None:
            raise InputError("verify: Lava needs the .net file's path")
        say("Lava")
        with tempfile.TemporaryDirectory(prefix="snn2chip-") as folder:
            given, answer = Path(folder) / "input.npz", Path(folder) / "trace.npz"
            np.savez_compressed(given, input=port)
            lava.run(net_path, given, answer, progress=False, fast_convolution=fast_convolution)
            from_lava = trace.load(answer, chain)
        layers = len(chain.layers)
        detail = f"{len(images)} samples back to back, spikes and voltages of {layers} layers through netx"
        if fast_convolution:
            detail += ", matrix products in the place of Lava's convolution"
        rungs.append(_rung("dense = Lava", _traces(dense, from_lava, chain), detail, _spikes(from_lava, chain, folded)))
    notes = _notes(float_spikes, fired, len(raw))
    same = activity.same_scores(dense.scores)
    notes += [] if same is None or constant else [f"{same}; those of other input are not"]
    return Verdict(all(rung.passed for rung in rungs), tuple(rungs), tuple(notes))


def _spikes(trace_: Trace, chain: ir.Chain, network: ir.Network) -> dict[str, NDArray[Any]]:
    """Spikes of the trained layers of neurons alone, by name."""
    found = _by_origin(trace_, chain)
    return {node.name: found[node.name][0] for node in network.of(ir.LIF) if node.name in found}


def _notes(floats: Arrays, integers: Arrays, samples: int) -> list[str]:
    """Layers that never or always fire."""
    trained, chip = (
        {name: (int(np.count_nonzero(values)), values.size) for name, values in spikes.items()}
        for spikes in (floats, integers)
    )
    where = "this one sample" if samples == 1 else f"these {samples:,} samples"
    return activity.of_stages(trained, chip, where)


def _where(network: ir.Network, first: Difference | None, detail: str) -> str:
    if first is None or first.layer not in {node.name for node in network.of(ir.LIF)}:
        return detail
    return f"{detail}; look at {_drivers(network, first.layer)}, which drive '{first.layer}'"


def _sums(seen: Trace) -> str:
    worst = max(seen.largest, key=lambda name: seen.largest[name])
    return f"largest input of a step {seen.largest[worst]} of 131071 (layer {worst})"
