"""What relays cost: export one trained network with every way of relaying, and simulate test images.

    python bench/relays.py models/cifar10-resnet19-tdbn-t2/model.pt --data DIR [--samples 2000] [--calibration 64]

Prints a Markdown table: netx layers' neurons, how many only pass spikes on, stored weights, the thresholds that
relays allow against what the weights alone would, differing calibration spikes, accuracy in chip integers. The last
rows compare ways to choose scales, the naive one (the largest weight fills the range) first.
"""

from __future__ import annotations

from pathlib import Path

import harness
import numpy as np

from snn2chip import chip, data
from snn2chip.nn import model_file
from snn2chip.passes import pipeline
from snn2chip.passes.quantize import Strategy
from snn2chip.passes.schedule import RELAYS, Relays
from snn2chip.simulate.run import simulate

COLUMNS = (
    "relays", "scales", "neurons", "pass spikes on", "weights stored", "thresholds", "bits lost to relays",
    "calibration spikes that differ", "accuracy",
)  # fmt: skip


def row(
    model: model_file.Model,
    training: data.ImageSet | None,
    test: data.ImageSet | None,
    relays: Relays,
    strategy: Strategy,
) -> list[str]:
    """One line of the table."""
    made = pipeline.export(model, chip.load("loihi2"), calibration=training, strategy=strategy, relays=relays)
    lowered, layers = made.lower_report, made.quantize_report.layers
    shared = [level for level in lowered.levels if level.limit is not None]
    lost = [max(0.0, float(np.log2(level.wanted / level.limit))) for level in shared if level.limit]
    used = [layer.threshold for layer in layers if layer.relays]
    errors = [layer.error for layer in layers if layer.error is not None]
    accuracy = "-"
    if test is not None:
        accuracy = f"{100 * (simulate(made.chain, images=test).accuracy or 0):.2f} %"
    return [
        relays,
        strategy,
        f"{lowered.neurons:,}",
        f"{lowered.relay_neurons:,} ({100 * lowered.relay_neurons / lowered.neurons:.0f} %)",
        f"{sum(layer.weight.size for layer in made.chain.layers):,}",
        f"{min(used)}..{max(used)}" if used else "-",
        f"{np.mean(lost):.1f} (most {max(lost):.1f})" if lost else "-",
        f"{100 * float(np.mean(errors)):.2f} %" if errors else "-",
        accuracy,
    ]


def main() -> None:
    """Parse, measure, print."""
    parser = harness.parser(__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--samples", type=int, default=2000, help="test images; 0 for none")
    parser.add_argument("--calibration", type=int, default=64, help="training images; 0 for none")
    options = parser.parse_args()
    model = model_file.load(options.model)
    spec = model.recipe.data

    def images(split: str, count: int) -> data.ImageSet | None:
        if not count:
            return None
        return data.load(spec.name, split, options.data, image_size=spec.image_size).subset(count)

    training, test = images("train", options.calibration), images("test", options.samples)
    print("\n".join(harness.table(COLUMNS, [], range(len(COLUMNS)))))
    plans: list[tuple[Relays, Strategy]] = [(kind, "auto") for kind in RELAYS]
    plans += [("auto", "max"), ("auto", "percentile"), ("auto", "error")] if training is not None else []
    for relays, strategy in plans:
        print("| " + " | ".join(row(model, training, test, relays, strategy)) + " |", flush=True)


if __name__ == "__main__":
    main()
