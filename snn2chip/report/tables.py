"""Rows of tables, for the terminal and for report.html; and what is said beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from snn2chip import ir
from snn2chip.report import columns
from snn2chip.report.columns import Wide
from snn2chip.simulate import activity

if TYPE_CHECKING:
    from snn2chip.ir.netlist import Netlist
    from snn2chip.passes.lower import LowerReport
    from snn2chip.passes.pipeline import Export
    from snn2chip.passes.quantize import QuantizeReport, StepsReport
    from snn2chip.simulate.recorded import Moment, RecordingStream
    from snn2chip.simulate.run import Simulation
    from snn2chip.train.collapse import CollapseReport
    from snn2chip.verify.compare import Rung, Verdict

MOST_CLASSES = 12  # rows of the table of scores


def export_rows(layers: Sequence[Any]) -> list[list[str]]:
    """One row a `quantize.LayerReport`, in the order of `columns.EXPORT`."""
    return [
        [
            layer.name,
            layer.neuron,
            f"{layer.fan_in:,}",
            f"{layer.neurons:,}",
            f"{layer.synapses:,}",
            layer.rule,
            layer.rounding,
            f"{layer.scale:.4g}",
            f"{layer.threshold:,}",
            f"±{layer.weight_max}",
            f"{layer.weight_bits:.1f}",
            f"±{layer.bias_max:,}",
            "-" if layer.error is None else f"{100 * layer.error:.2f} %",
            f"{layer.headroom:.1f}x",
            "yes" if layer.proved else "seen only",
        ]
        for layer in layers
    ]


def export_table(export: Export) -> Wide:
    """The table of `fold-and-export`."""
    report = export.quantize_report
    title = f"{report.chip}, {report.weight_bits}-bit weights, {report.calibration} calibration images"
    return columns.EXPORT.table(title, export_rows(report.layers))


def layout_rows(chain: ir.Chain, lowered: LowerReport) -> list[list[str]]:
    """What every channel of every chain layer is, in the order of `columns.LAYOUT`."""
    layers = {layer.name: layer for layer in chain.layers}
    levels = dict(zip(layers, lowered.levels, strict=True))
    rows = []
    for item in lowered.placed:
        layer, level = layers[item.layer], levels[item.layer]
        first = item.what == "neurons" and item.start == 0
        what = item.what
        if item.relay is not None and len(item.relay.phases) > 1:
            what += f", {len(item.relay.phases)} phases"
        rows.append(
            [
                item.layer if first else "",
                item.name,
                what,
                f"{item.start}..{item.stop - 1}",
                f"{item.neurons:,}",
                ("tables" if layer.steps else f"{layer.threshold:,}") if first else "",
                f"{level.limit:,}" if first and level.limit is not None else "",
                f"{level.wanted:,}" if first and level.limit is not None else "",
            ]
        )
    return rows


def layout_table(export: Export) -> Wide:
    """Which chain layer holds which channels of which trained layer, relays and copies included."""
    lowered = export.lower_report
    title = f"{len(export.chain.layers)} netx layers, {lowered.neurons:,} neurons"
    if lowered.relay_neurons:
        share = 100 * lowered.relay_neurons / lowered.neurons
        title += f", of which {lowered.relay_neurons:,} ({share:.0f} %) pass spikes on (relays: {export.plan.relays})"
    return columns.LAYOUT.table(title, layout_rows(export.chain, lowered))


_MANY = 20


def _route(export: Export) -> str:
    """Which way normalization went, and why."""
    varying = [layer for layer in export.chain.layers if layer.steps is not None]
    if varying:
        return (
            f"route: exact. BNTT over {export.chain.timesteps} steps folds into per-step tables of leak, bias and "
            f"threshold in {len(varying)} layers, which stock netx cannot hold: the file is not stock netx, and runs "
            f"in Lava with snn2chip's own neuron. For stock netx: `snn2chip collapse` first, at some cost in accuracy, "
            f"or `snn2chip retrain --timesteps 1`"
        )
    if export.captured.of(ir.StepNorm):
        return "route: static. BNTT of one time step is an ordinary normalization and folds into weights: stock netx"
    if not export.captured.of(ir.Norm):
        return "route: static. Nothing changes from step to step: stock netx"
    return "route: static. Every normalization is the same at all steps and folds into weights: stock netx"


def _tables_note(neuron: str, steps: StepsReport) -> str:
    line = (
        f"'{neuron}': tables of {steps.timesteps} steps x {steps.channels} channels: leak up to {steps.leak_max:.4g} "
        f"(16 bits, {steps.leak_shift} behind the point, error at most {steps.leak_error:.1e}), thresholds "
        f"{steps.threshold_min:,.4g} to {steps.threshold_max:,.4g}, scales {steps.scale_min:.4g} to "
        f"{steps.scale_max:.4g}"
    )
    if steps.silent:
        line += f"; {steps.silent} thresholds lie beyond the membrane's 24 bits: no spike there"
    return line


def _calibration_notes(report: QuantizeReport, timesteps: int) -> list[str]:
    """What came of calibration: decisions, layers that are without it, layers that never or always fire."""
    if not report.calibration:
        return []
    line = f"calibration: {report.agree:,} of {report.calibration:,} decisions as in the trained network"
    lines = [line if report.agree_plain is None else f"{line}, {report.agree_plain:,} without calibration"]
    if report.plain:
        names = "', '".join(report.plain)
        lines.append(f"note: '{names}': as without calibration, which made decisions (or as many, and scores) worse")
    most = {layer.neuron: report.calibration * timesteps * layer.neurons for layer in report.layers}
    where = f"the {report.calibration:,} calibration images"
    trained = {
        row.neuron: (row.spikes_wanted, most[row.neuron]) for row in report.layers if row.spikes_wanted is not None
    }
    integers = {row.neuron: (row.spikes, most[row.neuron]) for row in report.layers if row.spikes is not None}
    lines += [f"note: {said}" for said in activity.of_stages(trained, integers, where)]
    return lines


def activity_notes(chain: ir.Chain, result: Simulation) -> list[str]:
    """Layers that never or always fired in a simulation, and scores that are all the same."""
    said = activity.of_chain(chain, result.trace.counts, result.samples * result.timesteps, "these samples")
    same = activity.same_scores(result.trace.scores)
    return said + ([] if same is None else [same])


def export_notes(export: Export) -> list[str]:
    """What was folded, what is inexact, what is not proved."""
    chain, report = export.chain, export.quantize_report
    low, high = chain.port_range
    bits = chain.message_bits
    steps = export.fold_report.steps
    if len(steps) > _MANY:  # a deep network: what is not simply folded into a neighbour is worth a line
        plain = [step for step in steps if step[1].startswith("folded into")]
        lines = [f"folded: {len(plain)} normalization and pooling layers into their neighbours (--json lists them)"]
        steps = tuple(step for step in steps if step not in plain)
    else:
        lines = []
    lines += [f"note: {note}" for note in export.notes]
    lines += [f"folded: {name}: {what}" for name, what in steps]
    kind = f"graded spikes of {bits} bits, signed" if bits else "binary spikes"
    lines.append(f"input: pixel minus {list(chain.center)}, {low.min()}..{high.max()}: {kind}")
    lines.append(_route(export))
    lines += _calibration_notes(report, chain.timesteps)
    for layer in report.layers:
        if layer.steps is not None:
            lines.append(_tables_note(layer.neuron, layer.steps))
        if layer.tau != layer.tau_chip:
            lines.append(f"note: '{layer.neuron}': tau {layer.tau:.6g} becomes {layer.tau_chip:.6g} on the chip")
        if layer.current_tau != layer.current_tau_chip:
            lines.append(
                f"note: '{layer.neuron}': current_tau {layer.current_tau:.6g} becomes {layer.current_tau_chip:.6g} on "
                f"the chip"
            )
        if layer.clipped:
            lines.append(f"note: '{layer.name}': {layer.clipped} weights clipped to ±{layer.weight_max}")
        if layer.relays and layer.relay_limit is not None and layer.threshold * 2 > layer.relay_limit:
            lines.append(
                f"note: '{layer.name}': threshold {layer.threshold:,} of at most {layer.relay_limit:,}, for the "
                f"{layer.relays} channels of relays beside it"
            )
        if not layer.proved:
            lines.append(
                f"note: '{layer.name}': overflow of current or membrane is not excluded by proof "
                f"(largest possible sum of a step {layer.bound:,} of "
                f"{layer.limit:,}); largest seen on calibration images {layer.seen:,}"
            )
    return lines


def real_time(chain: ir.Chain, timesteps: int) -> str:
    """What a step and a sample last, for networks on recordings binned by time; "" for others."""
    from snn2chip.data.recordings import BinSettings

    events = chain.made.get("events")
    binning = None if events is None else BinSettings.from_json(events)
    if binning is None or binning.dt_us is None:
        return ""
    return f" of {binning.dt_us / 1000:g} ms ({timesteps * binning.dt_us / 1000:g} ms a sample)"


def spike_cells(layer: ir.ChainLayer, spikes: int, each: int, steps: int) -> list[str]:
    """A layer and its spikes in a table: number, origin, shape, spikes, how many a sample or step, share of all."""
    return [
        layer.name,
        ", ".join(layer.origin),
        "x".join(map(str, layer.shape)),
        f"{spikes:,}",
        f"{spikes / each:,.1f}",
        f"{100 * spikes / (steps * int(np.prod(layer.shape))):.2f} %",
    ]


def simulation_table(chain: ir.Chain, result: Simulation) -> Wide:
    """The table of `simulate`."""
    steps = result.samples * result.timesteps
    rows = []
    for layer in chain.layers:
        cells = spike_cells(layer, result.trace.counts[layer.name], result.samples, steps)
        rows.append([*cells, f"{result.trace.largest[layer.name]:,}"])
    accuracy = "" if result.accuracy is None else f"accuracy {100 * result.accuracy:.2f} %, "
    rate = result.samples / max(result.seconds, 1e-9)
    title = (
        f"{accuracy}{result.samples:,} samples of {result.dataset or 'the input file'}, T = {result.timesteps}"
        f"{real_time(chain, result.timesteps)}, {result.seconds:.2f} s, {rate:,.1f} samples a second "
        f"({result.engine} engine)"
    )
    return columns.SIMULATION.table(title, rows)


def _first(rung: Rung) -> str:
    first = rung.first
    if first is None:
        return ""
    place = [f"layer '{first.layer}'"]
    place += [f"sample {first.sample}"] if first.sample is not None else []
    place += [f"step {first.step}"] if first.step is not None else []
    place += [f"neuron {first.neuron}"] if first.neuron else []
    return ", ".join(place)


def _holds(rung: Rung) -> str:
    if not rung.passed:
        return "FAILED"
    return "differs" if rung.mismatches else "proved" if rung.proved else "equal"


def verdict_rows(verdict: Verdict) -> list[list[str]]:
    """One row a rung, in the order of `columns.LADDER`."""
    return [
        [
            rung.name,
            _holds(rung),
            f"{rung.mismatches:,}",
            f"{rung.compared:,}",
            rung.detail
            + (f"; {sum(rung.spikes.values()):,} spikes" if rung.spikes else "")
            + (f"; first: {_first(rung)}" if rung.first else ""),
        ]
        for rung in verdict.rungs
    ]


def verdict_table(verdict: Verdict) -> Wide:
    """The table of `verify`."""
    return columns.LADDER.table("every exact rung holds" if verdict.passed else "NOT EQUAL", verdict_rows(verdict))


def spikes_table(verdict: Verdict) -> Wide | None:
    """Spikes by layer in the trained network and in integers; a stage that differs from both has a column too."""
    stages: dict[str, dict[str, int]] = {}
    short = {"torch = captured": "trained", "NIR = network": "NIR", "captured = folded": "folded"}
    short["folded ~ integers"] = "integers"
    for rung in verdict.rungs:
        if rung.spikes and rung.spikes not in stages.values():
            stages[short.get(rung.name, rung.name)] = rung.spikes
    layers = list(dict.fromkeys(layer for spikes in stages.values() for layer in spikes))
    rows = [[layer, *(f"{spikes.get(layer, 0):,}" for spikes in stages.values())] for layer in layers]
    sheet = replace(columns.SPIKES, columns=dict.fromkeys(("layer", *stages), ""))
    return sheet.table(sheet.about, rows) if rows else None


def failure(rung: Rung) -> str:
    """One line for a rung that failed."""
    where = f"{rung.mismatches:,} of {rung.compared:,} differ, first {_first(rung)}; " if rung.first else ""
    return f"{rung.name}: {where}{rung.detail}"


def collapse_table(report: CollapseReport) -> Wide:
    """The table of `collapse`."""
    title = (
        f"{len(report.collapsed)} BNTT layers, T = {report.timesteps}, against the network with BNTT on "
        f"{report.images:,} training images"
    )
    rows = [
        [
            trial.method,
            f"{trial.spikes_differ:,}",
            f"{100 * trial.spike_share:.3f} %",
            f"{trial.decisions_differ:,}",
            f"{100 * trial.decision_share:.2f} %",
            "taken" if index == report.chosen else "",
        ]
        for index, trial in enumerate(report.trials)
    ]
    return columns.COLLAPSE.table(title, rows)


def scores_table(chain: ir.Chain, said: Moment) -> Wide:
    """The table of `stream --sample`: the classes with the largest scores."""
    rows = [
        [chain.classes[index], f"{said.scores[index]:,}", f"{100 * said.shares[index]:.2f} %"]
        for index in np.argsort(-said.scores, kind="stable")[:MOST_CLASSES]
    ]
    title = f"decision {chain.classes[said.decision]}, confidence {100 * said.confidence:.1f} %"
    return columns.SCORES.table(title, rows)


def stream_table(chain: ir.Chain, run: RecordingStream) -> Wide:
    """The table of `stream`."""
    rows = [spike_cells(layer, run.counts[layer.name], run.steps, run.steps) for layer in chain.layers]
    return columns.STREAM.table("spikes", rows)


def chip_time_table(net: Netlist, steps: int, spikes: Mapping[str, int], largest: Mapping[str, int]) -> Wide:
    """The table of `chip`."""
    rows = []
    for layer in net.layers:
        count, shape = spikes[layer.name], "x".join(map(str, layer.shape))
        share = f"{100 * count / (steps * layer.bias.size):.2f} %"
        rows.append([layer.name, layer.kind, shape, f"{count:,}", share, f"{largest[layer.name]:,}"])
    return columns.CHIP_TIME.table(f"{steps:,} chip steps", rows)
