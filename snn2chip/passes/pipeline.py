"""The flow on one page: model.pt -> captured -> folded -> (schedule) -> quantized -> chain -> model.net.

A pass takes a network, then the chip and the schedule if it needs them, then its own options, and gives what it made
of the network and a report.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import snn2chip
from snn2chip import ir
from snn2chip.chip.profile import UNIT, Chip, load
from snn2chip.choices import check_choice
from snn2chip.data import ImageSet, at_hand
from snn2chip.data.recordings import BinSettings
from snn2chip.errors import InputError
from snn2chip.nn.model_file import Graph, Model
from snn2chip.passes import reach
from snn2chip.passes.capture import capture, check
from snn2chip.passes.fold import FoldReport, fold
from snn2chip.passes.lower import LowerReport, lower
from snn2chip.passes.outline import Outline, outline
from snn2chip.passes.quantize import QuantizeReport, Strategy, quantize, quantize_at
from snn2chip.passes.quantize.rounding import Rounding
from snn2chip.passes.quantize.sketch import sketch
from snn2chip.passes.schedule import RELAYS, Relays, Schedule, schedule


@dataclass(frozen=True, eq=False)
class Export:
    """A network at every stage, and what each stage reported; `notes`: what was assumed, and layers that never fire."""

    captured: ir.Network
    folded: ir.Network
    plan: Schedule
    quantized: ir.Network
    chain: ir.Chain
    fold_report: FoldReport
    quantize_report: QuantizeReport
    lower_report: LowerReport
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Source:
    """A network, and what its file says of it, whatever kind of file that is.

    network        captured or folded
    name           what it is called, and `description` at more length
    dataset        what it was trained on: by name, with the side of its images if they were made another size, and how
                   recordings were binned
    samples        some of its input, images (N, C, H, W) or frames (N, T, C, H, W), where the file holds them
    metrics        what the file says of its accuracy
    """

    network: ir.Network
    name: str
    description: str = ""
    dataset: str | None = None
    image_size: int | None = None
    events: BinSettings | None = None
    samples: ir.IntArray | None = None
    metrics: dict[str, Any] = field(default_factory=dict)

    def at_hand(self, split: str, data: Path | None, limit: int) -> tuple[ImageSet | ir.IntArray | None, str]:
        """Up to `limit` images of the data set, or of the file's own where it names none; or None and why.

        Raises:
            DataError: see `snn2chip.data.at_hand`.
        """
        if self.dataset is None and self.samples is not None:
            return self.samples[:limit], ""
        return at_hand(self.dataset, split, data, limit, image_size=self.image_size, events=self.events)


def source_of(model: Model | Graph) -> Source:
    """Of a model file.

    Raises:
        UnsupportedError, InputError: it holds no network that can be exported, named by layer.
    """
    if isinstance(model, Graph):
        return Source(check(model.network), model.name, samples=model.samples, metrics=model.metrics)
    recipe = model.recipe
    return Source(
        capture(model.network, model.classes),
        recipe.name,
        recipe.description,
        recipe.data.name,
        recipe.data.image_size,
        recipe.binning,
        metrics=model.metrics,
    )


def export(
    source: Source | Model,
    chip: Chip,
    *,
    calibration: ImageSet | ir.IntArray | None = None,
    strategy: Strategy = "auto",
    relays: Relays = "auto",
    share: float | None = None,
) -> Export:
    """Take a network to a chain for `chip`; `calibration` images, or raw input (N, T, ...), choose the scales.

    `strategy` is `snn2chip.passes.quantize`'s, `relays` `snn2chip.passes.schedule`'s. `share` times the sum over T
    steps is what the network returns; None for the mean.

    Raises:
        UnsupportedError, ChipLimitError: what cannot be exported, named by layer.
        InputError: calibration images that are not this network's input, or an unknown strategy or kind of relays.
    """
    check_choice("strategy", strategy, Strategy)
    check_choice("relays", relays, Relays)
    source = source if isinstance(source, Source) else source_of(source)
    network, given = source.network, source.network.input
    if isinstance(calibration, ImageSet) and (
        calibration.shape != given.shape or calibration.max_value != given.pixel_max
    ):
        raise InputError(
            f"the network takes {given.shape} of 0..{given.pixel_max}, but {calibration.name} has "
            f"{calibration.shape} of 0..{calibration.max_value}; choose the data set it was trained on"
        )
    if isinstance(calibration, ImageSet):
        calibration.require_classes(network.shape(network.readout.inputs[0])[0])
    folded, fold_report = (network, FoldReport(())) if network.stage == "folded" else fold(network)
    notes = (*folded.notes, *reach.check(folded))
    plan = schedule(folded, chip, relays)
    quantized, quantize_report = quantize(folded, chip, plan, calibration=calibration, strategy=strategy)
    notes += tuple(
        f"layer '{layer.neuron}': the bias of '{layer.name}', or what batch norm, mean and std leave of one, enters a "
        f"current that decays, and the chip has a bias of the membrane only: it adds the mean of what becomes of it"
        for layer in quantize_report.layers
        if layer.current_tau and layer.bias_max
    )
    notes += reach.check(quantized)
    chain, lower_report = lower(quantized, chip, plan)
    unit = 1 / folded.timesteps if share is None else share
    if folded.readout.kind == "membrane":
        unit /= UNIT * quantize_report.layers[-1].scale
    made = {
        "snn2chip": snn2chip.__version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "model": source.name,
        "dataset": source.dataset,
        "image_size": source.image_size,
        **({} if source.events is None else {"events": source.events.as_json()}),
        "chip": chip.name,
        "weight_bits": chip.weight_bits,
        "strategy": strategy,
        "relays": relays,
        "calibration": "none"
        if calibration is None
        else f"{calibration.name if isinstance(calibration, ImageSet) else 'given'}, {len(calibration)} images",
        "route": "steps" if not chain.stock else "static",
        # those of time-varying neurons are one a channel, and stand beside their tables
        "scales": {layer.name: layer.scale for layer in quantize_report.layers if layer.steps is None},
        "output_unit": unit,
        "rounding": {layer.name: layer.rounding for layer in quantize_report.layers},
        **({"notes": list(notes)} if notes else {}),
    }
    return Export(
        network,
        folded,
        plan,
        quantized,
        replace(chain, made=made),
        fold_report,
        quantize_report,
        lower_report,
        notes,
    )


def outlines(network: ir.Network, chip: Chip) -> tuple[ir.Input, tuple[Outline, ...]]:
    """The folded input and the layers of the chain that `export` makes of a captured network without
    calibration, as far as they take room on a chip, and in a tenth of the time.

    Raises:
        UnsupportedError, ChipLimitError: what cannot be exported, named by layer.
    """
    folded, _ = fold(network)
    reach.check(folded)
    plan = schedule(folded, chip)
    return folded.input, outline(folded, chip, plan, *sketch(folded, chip, plan))


def again(folded: ir.Network, chain: ir.Chain) -> tuple[ir.Network, ir.Chain, LowerReport]:
    """A folded network rounded at the scales of `chain`, a file of it, and lowered as the file says it was.

    Raises:
        InputError: the file does not say how it was made.
    """
    made = chain.made
    scales = made.get("scales")
    if not isinstance(scales, dict):
        raise InputError("the .net file does not say at which scales it was made; export the model again")
    chip = load(str(made.get("chip"))).with_weight_bits(int(made.get("weight_bits", 8)))
    roundings: dict[str, Rounding] = {
        str(name): "sums" if kind == "sums" else "nearest" for name, kind in dict(made.get("rounding", {})).items()
    }
    wanted = made.get("relays", "auto")
    relays = next((kind for kind in RELAYS if kind == wanted), None)
    if relays is None:
        raise InputError(f"the .net file was made with relays '{wanted}', which this snn2chip does not know; update it")
    plan = schedule(folded, chip, relays)
    given: dict[str, float | ir.FloatArray] = {str(name): float(scale) for name, scale in scales.items()}
    for neuron in folded.of(ir.LIF):  # those of time-varying neurons stand beside their tables
        for layer in chain.layers:
            if neuron.steps is not None and layer.steps is not None and neuron.name in layer.origin:
                start, stop = layer.origin[neuron.name]
                given[folded.synapses_of(neuron)[0].name] = layer.steps.scale[start:stop]
    # a bias that would not fit at the file's scale is a difference to name, not a reason to stop here
    quantized = quantize_at(folded, chip, plan, given, roundings, bias_max=2**31 - 1)
    return quantized, *lower(quantized, chip, plan)
