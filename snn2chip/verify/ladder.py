"""The ladder: every stage says the same as the last, spike for spike, or the first difference is named.

The rungs are `RUNGS`, functions of the `Stages` below, each of which is made when a rung first asks for it. Each rung
that runs something says its spikes, layer by layer: silence equals silence, and proves nothing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import InitVar, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snn2chip import ir
from snn2chip.backends import akida, lava
from snn2chip.chip.profile import INPUT_MAX, UNIT, load
from snn2chip.errors import InputError
from snn2chip.formats.nir.run import Written
from snn2chip.ir.encode import encoder_of
from snn2chip.ir.interpreter import FloatTrace, evaluate
from snn2chip.ir.trace import Trace
from snn2chip.nn import SpikingNetwork
from snn2chip.nn.model_file import Model
from snn2chip.passes import fold as folding
from snn2chip.passes import pipeline
from snn2chip.passes.adapt import Adapted
from snn2chip.passes.capture import capture
from snn2chip.passes.quantize.layer import ACCUMULATOR
from snn2chip.simulate import activity, reference, trace
from snn2chip.simulate import branching as graph
from snn2chip.simulate.dense import DenseEngine
from snn2chip.simulate.engines import Engine, make_engine
from snn2chip.verify import akida as against_akida
from snn2chip.verify.compare import (
    Arrays,
    Counted,
    Difference,
    Named,
    Rung,
    Verdict,
    by_origin,
    compare,
    compare_both,
    membranes,
    module_spikes,
    relayed,
    spikes_of,
    with_scores,
)
from snn2chip.verify.integers import drivers, same_integers
from snn2chip.verify.prove import prove


@dataclass
class Stages:
    """A model and its file at every stage, on the same samples; see `verify`.

    Raises:
        InputError: model, file and images do not belong together.
    """

    model: Model | Adapted | SpikingNetwork | Written | ir.Network
    chain: ir.Chain
    images: InitVar[NDArray[Any]]
    labels: NDArray[Any] | None
    net_path: Path | None
    with_lava: bool
    with_onnx: bool
    fast_convolution: bool
    with_akida: bool

    def __post_init__(self, images: NDArray[Any]) -> None:
        chain, model = self.chain, self.model
        self.trained = model.network if isinstance(model, Model) else model
        if isinstance(self.trained, ir.Network):
            captured = self.trained
        elif isinstance(self.trained, (Adapted, Written)):
            captured = self.trained.captured
        else:
            captured = capture(self.trained, model.classes if isinstance(model, Model) else chain.classes)
        if (chain.raw_shape, chain.timesteps) != (captured.input.shape, captured.timesteps):
            raise InputError(
                f"the .net file takes {chain.timesteps} x {chain.raw_shape}, the model {captured.timesteps} x "
                f"{captured.input.shape}; was it exported from another model?"
            )
        self.captured, self.folded = captured, folding.fold(captured)[0]
        self.quantized, expected, self.lowered = pipeline.again(self.folded, chain)
        self.same_integers = same_integers(self.folded, expected, chain)  # refuses the file of another network
        self.raw = encoder_of(captured)(images)
        self.port = chain.port(self.raw)

    @cached_property
    def captured_trace(self) -> FloatTrace:
        """The captured network's run in float64."""
        return evaluate(self.captured, self.raw)

    @cached_property
    def folded_trace(self) -> FloatTrace:
        """The folded network's run in float64."""
        return evaluate(self.folded, self.raw)

    @cached_property
    def dense(self) -> Trace:
        """The file's run in the dense engine."""
        return DenseEngine(self.chain).run(self.port)

    @cached_property
    def events(self) -> Engine:
        """The event-driven engine; where there is none, one whose note says why."""
        return make_engine(self.chain, kind="events")

    @cached_property
    def constant(self) -> bool:
        """Whether all samples have the same scores, and black, white, inverted and random input as well.

        Few samples may be alike to a good network; one that says the same of all these looks at nothing.
        """
        chain, raw, scores = self.chain, self.raw, self.dense.scores
        if (scores != scores[0]).any():
            return False
        rng, shape = np.random.default_rng(0), raw.shape[1:]
        drawn = rng.integers(chain.low, chain.high, (8, *shape), endpoint=True)
        if chain.coding == "direct":
            drawn[:] = drawn[:, :1]  # an image at all steps
        ends = [np.full((1, *shape), end) for end in (chain.low, chain.high)]
        probes = np.concatenate([*ends, chain.low + chain.high - raw, drawn])
        tried = DenseEngine(chain).run(chain.port(probes), keep=False).scores
        return not (tried != scores[0]).any()

    def traces(self, left: Trace, right: Trace) -> Counted:
        """Compare two runs of the file, layers called by the trained layer's name, relays included."""
        return compare_both(by_origin(left, self.chain), by_origin(right, self.chain))

    def fired(self, found: Trace) -> dict[str, NDArray[Any]]:
        """Spikes of the trained layers of neurons alone, by name."""
        named = by_origin(found, self.chain)
        return {node.name: named[node.name][0] for node in self.folded.of(ir.LIF) if node.name in named}


def _captured(stages: Stages) -> Rung:
    """The trained module, or the NIR graph by its own equations, and the network that was read of it, both float64: the
    same spikes and scores."""
    network, found, trained = stages.captured, stages.captured_trace, stages.trained
    assert not isinstance(trained, ir.Network)  # of which there is nothing to run but itself
    spikes, scores = module_spikes(trained, stages.raw)
    fired, ours = spikes_of(found), found.scores.numpy()
    counted = with_scores(compare(spikes, fired), scores, ours, network.readout.inputs[0])
    detail = f"largest score difference {float(np.abs(scores - ours).max()):.1e}"
    return Rung.of(counted, _where(network, counted[2], detail), fired)


def _folded(stages: Stages) -> Rung:
    """float64: the same spikes, and membranes and scores but for float64's rounding."""
    first, second, last = stages.captured_trace, stages.folded_trace, stages.folded.readout.inputs[0]
    scores, folded_scores = first.scores.numpy(), second.scores.numpy()
    counted = with_scores(membranes(first, second), scores, folded_scores, last)
    gaps = [float((first.membranes[name] - second.membranes[name]).abs().max()) for name in first.membranes]
    detail = (
        f"largest membrane difference {max(gaps, default=0.0):.1e}, "
        f"largest score difference {float(np.abs(scores - folded_scores).max()):.1e}"
    )
    return Rung.of(counted, _where(stages.captured, counted[2], detail), spikes_of(second))


def _decisions(stages: Stages) -> Rung:
    """Decisions and accuracy; the one rung that may differ, as rounding is lossy: it fails where the scores of the
    integers do not depend on the input at all."""
    wanted, found = (run.scores.argmax(1) for run in (stages.folded_trace, stages.dense))
    wanted, labels = wanted.numpy(), stages.labels
    differing = np.flatnonzero(wanted != found)
    detail = f"decisions agree on {len(wanted) - len(differing)} of {len(wanted)} samples"
    if labels is not None:
        detail += f"; accuracy {np.mean(wanted == labels):.4f} folded, {np.mean(found == labels):.4f} in integers"
    first = None if not len(differing) else Difference("readout", int(differing[0]), None, [int(found[differing[0]])])
    if stages.constant:
        detail = (
            "the scores do not depend on the input: they are the same for every sample and for black, white, inverted "
            f"and random input; see which layers fire, and train longer or with a lower threshold; {detail}"
        )
    made = Rung.of((len(differing), len(wanted), first), detail, stages.fired(stages.dense))
    # else it does not fail: rounding may move a decision, and the detail says how often
    return replace(made, passed=not stages.constant)


def _exactly(stages: Stages) -> Rung:
    """A network of integers in float64 and the chip's arithmetic: every spike of every layer, and the scores."""
    wanted, found, readout = stages.folded_trace, stages.dense, stages.folded.readout
    fired = stages.fired(found)
    scores = found.scores / UNIT if readout.kind == "membrane" else found.scores
    counted = with_scores(compare(spikes_of(wanted), fired), wanted.scores.numpy(), scores, readout.inputs[0])
    return Rung.of(counted, "trained in integers: every spike, and the scores that decide", fired)


def _graph(stages: Stages) -> Rung:
    """The rounded network as it branches, and the file's chain: proved for every input (see `snn2chip.verify.prove`);
    and run in the dense engine, every spike and voltage of every trained layer, and every relay's spikes those of its
    source."""
    quantized, port = stages.quantized, stages.port
    branching = graph.run(quantized, port)
    found = by_origin(stages.dense, stages.chain)
    neurons: Named = {}
    passed: dict[str, NDArray[Any]] = {}
    for item in stages.lowered.placed:
        if item.relay is not None:
            given = port if item.relay.source == quantized.input.name else branching.spikes[item.relay.source]
            passed[item.name] = relayed(given, item.relay)
        else:
            original = item.name if item.what == "neurons" else item.name.rpartition(".")[0]
            neurons[item.name] = (branching.spikes[original], branching.voltage[original])
    counts = [compare_both(neurons, found), compare(passed, {name: found[name][0] for name in passed})]
    first = next((first for *_, first in counts if first is not None), None)
    detail = f"{len(branching.spikes)} trained layers"
    if passed:
        detail += f" and {len(passed)} relays"
    fired = {name: values for name, values in branching.spikes.items() if name != ACCUMULATOR}
    ran = Rung.of((sum(c[0] for c in counts), sum(c[1] for c in counts), first), detail, fired)
    proof = prove(quantized, stages.chain)
    if proof.place is None:
        return replace(ran, proved=ran.passed, detail=f"{ran.detail}, for every input")
    layer, neuron = proof.place
    detail = f"{ran.detail}; not for every input: layer '{layer}', neuron {neuron}: {proof.reason}"
    return replace(ran, passed=False, first=first or Difference(layer, None, None, neuron), detail=detail)


def _reference(stages: Stages) -> Rung:
    """The slow engine and the dense one on the file: every spike and voltage."""
    absent = "" if stages.events.note is None else f"; {stages.events.note}"
    counted = stages.traces(reference.run(stages.chain, stages.port), stages.dense)
    return Rung.of(counted, _sums(stages.dense) + absent, stages.fired(stages.dense))


def _like_dense(stages: Stages, found: Trace, detail: str) -> Rung:
    """Every spike, voltage and score of another run of the file."""
    counted = stages.traces(stages.dense, found)
    counted = with_scores(counted, stages.dense.scores, found.scores, "readout")
    return Rung.of(counted, detail, stages.fired(found))


def _events(stages: Stages) -> Rung:
    """The event-driven engine, where it is compiled."""
    found = stages.events.run(stages.port)
    return _like_dense(stages, found, _sums(found))


def _onnx(stages: Stages) -> Rung:
    """The file's ONNX in ONNX Runtime."""
    from snn2chip.formats.onnx import run

    detail = f"spikes and voltages of {len(stages.chain.layers)} layers, scores"
    return _like_dense(stages, run.run(stages.chain, stages.raw), detail)


def _lava(stages: Stages) -> Rung:
    """The file through lava-dl's own netx."""
    assert stages.net_path is not None
    with tempfile.TemporaryDirectory(prefix="snn2chip-") as folder:
        given, answer = Path(folder) / "input.npz", Path(folder) / "trace.npz"
        np.savez_compressed(given, input=stages.port)
        lava.run(stages.net_path, given, answer, progress=False, fast_convolution=stages.fast_convolution)
        found = trace.load(answer, stages.chain)
    layers = len(stages.chain.layers)
    detail = f"{len(stages.raw)} samples back to back, spikes and voltages of {layers} layers through netx"
    if stages.fast_convolution:
        detail += ", matrix products in the place of Lava's convolution"
    return Rung.of(stages.traces(stages.dense, found), detail, stages.fired(found))


def _akida(stages: Stages) -> Rung:
    """The .fbz beside the file, in BrainChip's simulator: every spike of every layer, every potential of the last."""
    assert stages.net_path is not None
    model, path = akida.layout(stages.chain, load("akd1000")), stages.net_path.with_suffix(".fbz")
    found = akida.run(model, path, stages.port, layers=True)
    counted = against_akida.compare_with(model, stages.dense, found)
    layers = sum(piece.threshold is not None for piece in model.pieces)
    detail = f"every weight and threshold of {path.name}; spikes of {layers} layers"
    detail += ", potentials of the last" if layers < len(model.pieces) else ""
    fired = {piece.name: found.spikes[piece.number] for piece in model.pieces if piece.number in found.spikes}
    return Rung.of(counted, detail, fired)


RUNGS: tuple[tuple[str, Callable[[Stages], bool] | None, Callable[[Stages], Rung]], ...] = (
    ("torch = captured", lambda stages: not isinstance(stages.trained, (Written, ir.Network)), _captured),
    ("NIR = network", lambda stages: isinstance(stages.trained, Written), _captured),
    ("captured = folded", lambda stages: stages.captured.stage == "captured", _folded),
    ("folded ~ integers", None, _decisions),
    ("folded = integers", lambda stages: stages.folded.integers, _exactly),
    ("integers = file", None, lambda stages: stages.same_integers),
    ("graph = chain", None, _graph),
    ("reference = dense", None, _reference),
    ("dense = events", lambda stages: stages.events.note is None, _events),
    ("dense = ONNX Runtime", lambda stages: stages.with_onnx, _onnx),
    ("dense = Lava", lambda stages: stages.with_lava, _lava),
    ("integers = Akida", lambda stages: stages.with_akida, _akida),
)
"""Name, what must be there for it (None: nothing), and the comparison."""


def verify(
    model: Model | Adapted | SpikingNetwork | Written | ir.Network,
    chain: ir.Chain,
    images: NDArray[Any],
    *,
    labels: NDArray[Any] | None = None,
    net_path: Path | None = None,
    with_lava: bool = True,
    with_onnx: bool = False,
    fast_convolution: bool = False,
    with_akida: bool = False,
    say: Callable[[str], None] = lambda _message: None,
) -> Verdict:
    """Climb the ladder with `images` (N, C, H, W); `net_path` is the file Lava runs, needed `with_lava`; beside it
    is the .fbz that Akida runs, `with_akida`.

    `model` is a trained model, its network alone, a module of any framework as `snn2chip.passes.adapt` has it, a NIR
    graph, or the network of a file that holds no module. Rungs that have no meaning for it are left out, and the notes
    of the verdict say which of the first.

    `fast_convolution` lets exact matrix products stand in for Lava's own convolution (see `snn2chip.lava.run`); the
    verdict says so. `say` is told what is being done, for a progress display.

    Raises:
        InputError: model, file and images do not belong together.
        SetupError: Lava, Akida or ONNX was asked for and is not there.
    """
    if with_onnx:
        from snn2chip.formats.onnx import run  # noqa: F401  (of an optional package: if that is missing, now is the time)
    if (with_lava or with_akida) and net_path is None:
        raise InputError("verify: Lava and Akida need the .net file's path")
    stages = Stages(model, chain, images, labels, net_path, with_lava, with_onnx, fast_convolution, with_akida)
    rungs = []
    for name, can, climb in RUNGS:
        if can is None or can(stages):
            say(name)
            rungs.append(replace(climb(stages), name=name))
    notes = _absent(stages) + _notes(spikes_of(stages.folded_trace), stages.fired(stages.dense), len(images))
    same = activity.same_scores(stages.dense.scores)
    notes += [] if same is None or stages.constant else [f"{same}; those of other input are not"]
    return Verdict(all(rung.passed for rung in rungs), tuple(rungs), tuple(notes))


def _absent(stages: Stages) -> list[str]:
    """The first rungs, where they have no meaning."""
    notes = []
    if isinstance(stages.trained, ir.Network):
        notes.append(
            "not climbed: torch = captured; the file holds the graph that was captured, not the module, against which "
            "`snn2chip.deploy(...).verify()` holds it"
        )
    if stages.captured.stage == "folded":
        notes.append("not climbed: captured = folded; the graph is folded already")
    return notes


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
    return f"{detail}; look at {drivers(network, first.layer)}, which drive '{first.layer}'"


def _sums(seen: Trace) -> str:
    worst = max(seen.largest, key=lambda name: seen.largest[name])
    return f"largest input of a step {seen.largest[worst]} of {INPUT_MAX} (layer {worst})"
