"""Accuracy on the 76 recordings of `letters`, each tested once by a network that has not seen it.

    python bench/letters_folds.py --data DIR [--recipe letters-tdbn] [--seeds 3] [--set key=value ...] [--folder DIR]
                                  [--json FILE]

Every character has two recordings, four of them have three. Fold k holds out the k-th recording of every character and
trains on the others with the recipe as it stands, from the start; so folds 0 and 1 test 36 recordings after training
on 40, and fold 2 tests 4 after training on 72. All 76 are tested that way, in float32 and in the chip's integers.
Leaving out one recording at a time would train 76 networks to say the same: what is left to learn a character from is
one recording in either case, but for the four.

Printed and written: right answers of each fold, the share of all 76 for each seed, its mean and spread over seeds, and
the 95 % interval (Wilson) of a share seen on 76 recordings.
"""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

import harness
import torch

from snn2chip import chip, data
from snn2chip import recipe as recipes
from snn2chip.data import ImageSet
from snn2chip.nn import model_file
from snn2chip.passes import pipeline
from snn2chip.simulate.run import simulate
from snn2chip.train.loop import Trainer


def numbered(sets: list[ImageSet]) -> tuple[ImageSet, list[int]]:
    """All recordings as one set, and which recording of its character each is."""
    frames = torch.cat([each.images for each in sets])
    labels = torch.cat([each.labels for each in sets])
    seen: Counter[int] = Counter()
    order = []
    for label in labels.tolist():
        order.append(seen[label])
        seen[label] += 1
    return replace(sets[0], images=frames, labels=labels), order


def wilson(right: float, count: int) -> tuple[float, float]:
    """The 95 % interval of a share of `count` that was seen `right` times."""
    z = 1.96
    share = right / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return middle - half, min(1.0, middle + half)


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--recipe", default="letters-tdbn")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--folder", type=Path, help="where the runs are kept; default: a temporary folder")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    chosen = recipes.load(given.recipe, given.settings)
    whole, order = numbered(
        [data.load(chosen.data.name, split, given.data, events=chosen.binning) for split in ("train", "test")]
    )
    place = torch.tensor(order)
    runs = []
    with tempfile.TemporaryDirectory() as temporary:
        for seed in range(given.seeds):
            folds = []
            spec = recipes.load(given.recipe, [*given.settings, f"train.seed={seed}"])
            for fold in range(max(order) + 1):
                held = place == fold
                training = replace(whole, images=whole.images[~held], labels=whole.labels[~held])
                test = replace(whole, images=whole.images[held], labels=whole.labels[held])
                out = (given.folder or Path(temporary)) / f"seed{seed}-fold{fold}"
                for _ in Trainer(spec, training, test, out).run():
                    pass
                model = model_file.load(out / "model.pt")
                chain = pipeline.export(model, chip.load("loihi2"), calibration=training.subset(36)).chain
                integers = simulate(chain, images=test).accuracy
                assert integers is not None
                count = len(test)
                floats = round(model.metrics["float_accuracy"] * count)
                folds.append({"tested": count, "float": floats, "integers": round(integers * count)})
                print(f"seed {seed}, fold {fold}: of {count} right {folds[-1]['float']} in float32, "
                      f"{folds[-1]['integers']} in integers", flush=True)  # fmt: skip
            runs.append({"seed": seed, "folds": folds})
    count = len(whole)
    figures: dict[str, object] = {"recipe": given.recipe, "recordings": count, "runs": runs}
    for kind in ("float", "integers"):
        right = [sum(fold[kind] for fold in run["folds"]) for run in runs]
        shares = [number / count for number in right]
        low, high = wilson(mean(right), count)
        spread = stdev(shares) if len(shares) > 1 else None
        figures[kind] = {"right": right, "mean": mean(shares), "spread": spread, "interval": [low, high]}
        said = "" if spread is None else f" ± {100 * spread:.2f}"
        each = ", ".join(map(str, right))
        print(f"{kind}: {100 * mean(shares):.2f}{said} % of {count} recordings, {len(runs)} seeds (right: {each})")
        print(f"{kind}: 95 % interval of the mean share {100 * low:.1f} to {100 * high:.1f} %")
    harness.keep(given.json, figures)


if __name__ == "__main__":
    main()
