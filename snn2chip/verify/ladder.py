"""The ladder: every stage says the same as the last, spike for spike, or the first difference is named.

The rungs are `RUNGS`, functions of the `Stages` below, each of which is made when a rung first asks for it. Each rung
that runs something says its spikes, layer by layer: silence equals silence, and proves nothing.
"""

from __future__ import annotations

import copy
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
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
from snn2chip.simulate.engines import make_engine
from snn2chip.verify import akida as against_akida
from snn2chip.verify.compare import (
    Counted,
    Difference,
    Named,
    Part,
    Verdict,
    by_origin,
    compare,
    compare_both,
    membranes,
    module_spikes,
    relayed,
    rung_of,
    spike_counts,
    spikes_of,
    with_scores,
)
from snn2chip.verify.integers import drivers, same_integers
from snn2chip.verify.prove import prove

_HELD = 2**25  # neurons times steps times samples that are compared at a time, at some 60 bytes each in all stages


@dataclass
class Stages:
    """A model and its file at every stage, and, `on` some samples, what each of them makes of these; see `verify`.

    Raises:
        InputError: model, file and images do not belong together.
    """

    model: Model | Adapted | SpikingNetwork | Written | ir.Network
    chain: ir.Chain
    net_path: Path | None
    with_lava: bool
    with_onnx: bool
    fast_convolution: bool
    with_akida: bool
    raw: ir.IntArray = field(init=False)
    port: ir.IntArray = field(init=False)
    labels: NDArray[Any] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
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
        self.proof = prove(self.quantized, chain)
        self.events = make_engine(chain, kind="events")  # where there is none, one whose note says why
        self.encoder = encoder_of(captured)

    def on(self, images: NDArray[Any], labels: NDArray[Any] | None) -> Stages:
        """These stages on some samples; what is drawn for them is drawn behind what was drawn for those before."""
        made = copy.copy(self)
        made.raw, made.labels = self.encoder(images), labels
        made.port = self.chain.port(made.raw)
        return made

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


def _captured(stages: Stages) -> Part:
    """The trained module, or the NIR graph by its own equations, and the network that was read of it, both float64: the
    same spikes and scores."""
    network, found, trained = stages.captured, stages.captured_trace, stages.trained
    assert not isinstance(trained, ir.Network)  # of which there is nothing to run but itself
    spikes, scores = module_spikes(trained, stages.raw)
    fired, ours = spikes_of(found), found.scores.numpy()
    counted = with_scores(compare(spikes, fired), scores, ours, network.readout.inputs[0])
    return Part(
        counted,
        lambda found: f"largest score difference {found['score']:.1e}",
        spike_counts(fired),
        {"score": float(np.abs(scores - ours).max())},
        hint=_where(network, counted[2]),
    )


def _folded(stages: Stages) -> Part:
    """float64: the same spikes, and membranes and scores but for float64's rounding."""
    first, second, last = stages.captured_trace, stages.folded_trace, stages.folded.readout.inputs[0]
    scores, folded_scores = first.scores.numpy(), second.scores.numpy()
    counted = with_scores(membranes(first, second), scores, folded_scores, last)
    gaps = [float((first.membranes[name] - second.membranes[name]).abs().max()) for name in first.membranes]
    return Part(
        counted,
        lambda found: f"largest membrane difference {found['membrane']:.1e}, score {found['score']:.1e}",
        spike_counts(spikes_of(second)),
        {"membrane": max(gaps, default=0.0), "score": float(np.abs(scores - folded_scores).max())},
        hint=_where(stages.captured, counted[2]),
    )


def _decisions(stages: Stages) -> Part:
    """Decisions and accuracy; the one rung that may differ, as rounding is lossy: it fails where the scores of the
    integers do not depend on the input at all."""
    wanted, found = (run.scores.argmax(1) for run in (stages.folded_trace, stages.dense))
    wanted, labels = wanted.numpy(), stages.labels
    differing = np.flatnonzero(wanted != found)
    sums = {"samples": len(wanted), "differ": len(differing)}
    if labels is not None:
        sums |= {"right": int(np.sum(wanted == labels)), "right in integers": int(np.sum(found == labels))}
    first = None if not len(differing) else Difference("readout", int(differing[0]), None, [int(found[differing[0]])])

    def say(all_of: Mapping[str, float]) -> str:
        samples = all_of["samples"]
        detail = f"decisions agree on {samples - all_of['differ']} of {samples} samples"
        if "right" in all_of:
            floats, integers = all_of["right"] / samples, all_of["right in integers"] / samples
            detail += f"; accuracy {floats:.4f} folded, {integers:.4f} in integers"
        if all_of["depends"]:
            return detail
        return (
            "the scores do not depend on the input: they are the same for every sample and for black, white, inverted "
            f"and random input; see which layers fire, and train longer or with a lower threshold; {detail}"
        )

    # else it does not fail: rounding may move a decision, and the detail says how often
    depends = not stages.constant
    fired = spike_counts(stages.fired(stages.dense))
    return Part((len(differing), len(wanted), first), say, fired, {"depends": depends}, sums, passed=depends)


def _exactly(stages: Stages) -> Part:
    """A network of integers in float64 and the chip's arithmetic: every spike of every layer, and the scores."""
    wanted, found, readout = stages.folded_trace, stages.dense, stages.folded.readout
    fired = stages.fired(found)
    scores = found.scores / UNIT if readout.kind == "membrane" else found.scores
    counted = with_scores(compare(spikes_of(wanted), fired), wanted.scores.numpy(), scores, readout.inputs[0])
    return Part(counted, lambda _: "trained in integers: every spike, and the scores that decide", spike_counts(fired))


def _graph(stages: Stages) -> Part:
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
    fired = spike_counts({name: values for name, values in branching.spikes.items() if name != ACCUMULATOR})
    counted = (sum(c[0] for c in counts), sum(c[1] for c in counts), first)
    proof = stages.proof
    if proof.place is None:
        return Part(counted, lambda _: f"{detail}, for every input", fired, proved=True)
    layer, neuron = proof.place
    said = f"{detail}; not for every input: layer '{layer}', neuron {neuron}: {proof.reason}"
    return Part((*counted[:2], first or Difference(layer, None, None, neuron)), lambda _: said, fired, passed=False)


def _reference(stages: Stages) -> Part:
    """The slow engine and the dense one on the file: every spike and voltage."""
    absent = "" if stages.events.note is None else f"; {stages.events.note}"
    counted = stages.traces(reference.run(stages.chain, stages.port), stages.dense)
    fired = spike_counts(stages.fired(stages.dense))
    return Part(counted, lambda found: _sums(found) + absent, fired, stages.dense.largest)


def _like_dense(stages: Stages, found: Trace, say: Callable[[Mapping[str, float]], str]) -> Part:
    """Every spike, voltage and score of another run of the file."""
    counted = stages.traces(stages.dense, found)
    counted = with_scores(counted, stages.dense.scores, found.scores, "readout")
    return Part(counted, say, spike_counts(stages.fired(found)), found.largest)


def _events(stages: Stages) -> Part:
    """The event-driven engine, where it is compiled."""
    return _like_dense(stages, stages.events.run(stages.port), _sums)


def _onnx(stages: Stages) -> Part:
    """The file's ONNX in ONNX Runtime."""
    from snn2chip.formats.onnx import run

    detail = f"spikes and voltages of {len(stages.chain.layers)} layers, scores"
    return _like_dense(stages, run.run(stages.chain, stages.raw), lambda _: detail)


def _lava(stages: Stages) -> Part:
    """The file through lava-dl's own netx."""
    assert stages.net_path is not None
    with tempfile.TemporaryDirectory(prefix="snn2chip-") as folder:
        given, answer = Path(folder) / "input.npz", Path(folder) / "trace.npz"
        np.savez_compressed(given, input=stages.port)
        lava.run(stages.net_path, given, answer, progress=False, fast_convolution=stages.fast_convolution)
        found = trace.load(answer, stages.chain)
    layers = len(stages.chain.layers)
    detail = f"samples back to back, spikes and voltages of {layers} layers through netx"
    if stages.fast_convolution:
        detail += ", matrix products in the place of Lava's convolution"
    counted, fired = stages.traces(stages.dense, found), spike_counts(stages.fired(found))
    return Part(counted, lambda all_of: f"{all_of['samples']} {detail}", fired, sums={"samples": len(stages.raw)})


def _akida(stages: Stages) -> Part:
    """The .fbz beside the file, in BrainChip's simulator: every spike of every layer, every potential of the last."""
    assert stages.net_path is not None
    model, path = akida.layout(stages.chain, load("akd1000")), stages.net_path.with_suffix(".fbz")
    found = akida.run(model, path, stages.port, layers=True)
    counted = against_akida.compare_with(model, stages.dense, found)
    layers = sum(piece.threshold is not None for piece in model.pieces)
    detail = f"every weight and threshold of {path.name}; spikes of {layers} layers"
    detail += ", potentials of the last" if layers < len(model.pieces) else ""
    fired = {piece.name: found.spikes[piece.number] for piece in model.pieces if piece.number in found.spikes}
    return Part(counted, lambda _: detail, spike_counts(fired))


def _same(stages: Stages) -> Part:
    """Every number of the file; see `snn2chip.verify.integers`."""
    return stages.same_integers


RUNGS: tuple[tuple[str, Callable[[Stages], bool] | None, Callable[[Stages], Part]], ...] = (
    ("torch = captured", lambda stages: not isinstance(stages.trained, (Written, ir.Network)), _captured),
    ("NIR = network", lambda stages: isinstance(stages.trained, Written), _captured),
    ("captured = folded", lambda stages: stages.captured.stage == "captured", _folded),
    ("folded ~ integers", None, _decisions),
    ("folded = integers", lambda stages: stages.folded.integers, _exactly),
    ("integers = file", None, _same),
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
    progress: Callable[[int, int], None] = lambda _done, _whole: None,
) -> Verdict:
    """Climb the ladder with `images` (N, C, H, W); `net_path` is the file Lava runs, needed `with_lava`; beside it
    is the .fbz that Akida runs, `with_akida`.

    `model` is a trained model, its network alone, a module of any framework as `snn2chip.passes.adapt` has it, a NIR
    graph, or the network of a file that holds no module. Rungs that have no meaning for it are left out, and the notes
    of the verdict say which of the first.

    `fast_convolution` lets exact matrix products stand in for Lava's own convolution (see `snn2chip.lava.run`); the
    verdict says so. `progress` is told how many comparisons are done, and of how many.

    Many samples are compared a part at a time, as many as some 2 GB hold; Lava then runs each part anew.

    Raises:
        InputError: model, file and images do not belong together.
        SetupError: Lava, Akida or ONNX was asked for and is not there.
    """
    if with_onnx:
        from snn2chip.formats.onnx import run  # noqa: F401  (of an optional package: if that is missing, now is the time)
    if (with_lava or with_akida) and net_path is None:
        raise InputError("verify: Lava and Akida need the .net file's path")
    stages = Stages(model, chain, net_path, with_lava, with_onnx, fast_convolution, with_akida)
    each = chain.timesteps * sum(int(np.prod(layer.shape)) for layer in chain.layers)
    starts = range(0, max(1, len(images)), max(1, _HELD // each))
    climbed = [(name, climb) for name, can, climb in RUNGS if can is None or can(stages)]
    parts: dict[str, list[Part]] = {name: [] for name, _ in climbed}
    fired: tuple[Counter[str], Counter[str]] = Counter(), Counter()  # of the folded network and of its integers
    sizes: Counter[str] = Counter()
    scores = []
    for number, start in enumerate(starts):
        rows = slice(start, start + starts.step)
        some = stages.on(images[rows], None if labels is None else labels[rows])
        for place, (name, climb) in enumerate(climbed):
            progress(number * len(climbed) + place, len(starts) * len(climbed))
            if climb is not _same or not number:  # of the file's numbers, whatever the samples
                parts[name].append(climb(some))
        for counts, spikes in zip(fired, (spikes_of(some.folded_trace), some.fired(some.dense)), strict=True):
            counts.update(spike_counts(spikes))
        sizes.update({name: values.numel() for name, values in some.folded_trace.spikes.items()})
        scores.append(some.dense.scores)
    rungs = tuple(rung_of(name, parts[name], starts) for name, _ in climbed)
    where = "this one sample" if len(images) == 1 else f"these {len(images):,} samples"
    trained, chip = ({name: (count, sizes[name]) for name, count in counts.items()} for counts in fired)
    notes = _absent(stages) + activity.of_stages(trained, chip, where)
    same = activity.same_scores(np.concatenate(scores))
    constant = not next(rung.passed for rung in rungs if rung.name == "folded ~ integers")
    notes += [] if same is None or constant else [f"{same}; those of other input are not"]
    return Verdict(all(rung.passed for rung in rungs), rungs, tuple(notes))


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


def _where(network: ir.Network, first: Difference | None) -> str:
    if first is None or first.layer not in {node.name for node in network.of(ir.LIF)}:
        return ""
    return f"; look at {drivers(network, first.layer)}, which drive '{first.layer}'"


def _sums(largest: Mapping[str, float]) -> str:
    worst = max(largest, key=lambda name: largest[name])
    return f"largest input of a step {largest[worst]} of {INPUT_MAX} (layer {worst})"
