"""A folder of the zoo: evidence that a recipe works, written from a run's own files, no figure by hand."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from snn2chip import recipe as recipes
from snn2chip.errors import InputError
from snn2chip.files import atomic_path, write_json, write_text
from snn2chip.formats import model_file, netx

MODEL_BYTES_MAX = 5_000_000


def _json(path: Path, made_by: str, *keys: str) -> dict[str, Any]:
    """A JSON object with at least `keys`."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise InputError(f"'{path}' is missing; run: {made_by}") from None
    except ValueError as error:  # not JSON, or not UTF-8
        raise InputError(f"'{path}' is damaged ({error}); run: {made_by}") from None
    if not isinstance(value, dict) or not set(keys) <= set(value):
        raise InputError(f"'{path}' lacks one of {', '.join(keys)}; run: {made_by}")
    return value


def publish(run: Path, target: Path, data_option: str = "") -> None:
    """Write model.pt, metrics.json and card.md into `target`, which holds the recipe.toml they came from.

    `run` holds model.pt, model.net, export.json, simulate.json (whole test set) and verify.json (with Lava).

    Raises:
        InputError: something is missing, verification did not pass, the simulation did not cover the test set,
            the recipe is another one, or model.pt is larger than 5 MB.
    """
    model = model_file.load(run / "model.pt")
    chain = netx.load(run / "model.net")
    exported = _json(run / "export.json", "snn2chip fold-and-export RUN/model.pt --json RUN/export.json", "quantize")
    simulated = _json(
        run / "simulate.json", "snn2chip simulate RUN/model.net --json RUN/simulate.json", "samples", "accuracy"
    )
    verified = _json(
        run / "verify.json", "snn2chip verify RUN/model.pt RUN/model.net --json RUN/verify.json", "passed", "rungs"
    )
    name = model.recipe.name
    if not (target / "recipe.toml").is_file():
        raise InputError(f"'{target}' has no recipe.toml; publish into the recipe's own folder")
    if recipes.load(target) != model.recipe:
        raise InputError(f"'{target / 'recipe.toml'}' is not the recipe that '{run / 'model.pt'}' was trained with")
    if not verified["passed"] or not any(rung["name"] == "dense = Lava" for rung in verified["rungs"]):
        raise InputError(f"'{run / 'verify.json'}' does not show a passed verification with Lava")
    if simulated["samples"] != model.metrics["samples"]:
        raise InputError(
            f"simulated {simulated['samples']} samples, the test set has {model.metrics['samples']}; "
            f"run simulate without --limit"
        )
    size = (run / "model.pt").stat().st_size
    if size > MODEL_BYTES_MAX:
        raise InputError(f"model.pt has {size:,} bytes; the zoo takes up to {MODEL_BYTES_MAX:,}")
    metrics = {
        **model.metrics,
        "integer_accuracy": simulated["accuracy"],
        "chip": chain.made["chip"],
        "weight_bits": chain.made["weight_bits"],
        "calibration": chain.made["calibration"],
        "lava_samples": _lava_samples(verified),
        "lava_mismatches": sum(rung["mismatches"] for rung in verified["rungs"] if rung["name"] == "dense = Lava"),
        "lava_values": sum(rung["compared"] for rung in verified["rungs"] if rung["name"] == "dense = Lava"),
        "versions": {key: chain.made[key] for key in ("snn2chip", "torch", "numpy")},
        "runs": 1,
    }
    try:
        card = _card(name, model, metrics, exported, simulated, chain, data_option)
    except KeyError as error:
        raise InputError(f"'{run}' was made by an older snn2chip: {error} is missing; finish it again") from None
    write_json(target / "metrics.json", metrics)
    write_text(target / "card.md", card)
    with atomic_path(target / "model.pt") as part:
        shutil.copyfile(run / "model.pt", part)


def _lava_samples(verified: dict[str, Any]) -> int:
    decided = next(rung for rung in verified["rungs"] if rung["name"] == "folded ~ integers")
    return int(decided["compared"])


def _card(
    name: str,
    model: model_file.Model,
    metrics: dict[str, Any],
    exported: dict[str, Any],
    simulated: dict[str, Any],
    chain: Any,
    data_option: str,
) -> str:
    train = model.recipe.train
    parameters = sum(value.numel() for value in model.network.parameters())
    run = f"runs/{name}"
    data = f" {data_option}" if data_option else ""
    data_dir = data.replace("--data ", "--data-dir ")
    rows = "\n".join(
        f"| {layer['name']} | {layer['fan_in']:,} | {layer['neurons']:,} | {layer['synapses']:,} | "
        f"{layer['threshold']:,} | ±{layer['weight_max']} | {'proved' if layer['proved'] else 'seen only'} |"
        for layer in exported["quantize"]["layers"]
    )
    spikes = sum(simulated["spikes"].values()) / simulated["samples"]
    source = " (JPEG)" if metrics.get("source") == "JPEG" else ""
    init = f" --init runs/{metrics['init']}/model.pt" if metrics.get("init") else ""
    lava = (
        f"{metrics['lava_samples']} samples, {metrics['lava_values']:,} spikes and voltages, "
        f"{metrics['lava_mismatches']} mismatches"
    )
    images = re.search(r"(\d+) images", metrics["calibration"])
    calibration = f" --calibration {images[1]}" if images and images[1] != "64" else ""
    versions = ", ".join(f"{key} {value}" for key, value in metrics["versions"].items())
    return f"""# {name}

{model.recipe.description}

| | |
| --- | --- |
| data set | {metrics["dataset"]}{source}, all {metrics["samples"]:,} test images |
| accuracy, float32 | {100 * metrics["float_accuracy"]:.2f} % |
| accuracy, chip integers | {100 * metrics["integer_accuracy"]:.2f} % |
| time steps | {metrics["timesteps"]} |
| parameters | {parameters:,} |
| spikes a sample | {spikes:,.0f} |
| Lava (netx) | {lava} |
| target | {metrics["chip"]}, {metrics["weight_bits"]}-bit weights; scales from {metrics["calibration"]} |
| training | {train.epochs} epochs, {metrics["training_seconds"] / 60:.0f} minutes on {metrics["hardware"]}, \
{train.precision} |
| versions | {versions} |
| runs | one, seed {train.seed}; the weights are those after the last epoch, none was selected |

Made by these commands, and written by the last:

    snn2chip train {name} --out {run}{data}{init}
    snn2chip fold-and-export {run}/model.pt --json {run}/export.json{calibration}{data}
    snn2chip simulate {run}/model.net --json {run}/simulate.json{data_dir}
    snn2chip verify {run}/model.pt {run}/model.net --samples {metrics["lava_samples"]} --json {run}/verify.json{data}
    snn2chip publish {run} models/{name}{" --data-option '" + data_option + "'" if data_option else ""}

On the chip:

| layer | fan-in | neurons | synapses | threshold | weights | no overflow |
| --- | ---: | ---: | ---: | ---: | ---: | --- |
{rows}
"""


RESULTS_START, RESULTS_END = "<!-- results:", "<!-- /results -->"


def results_table(models: Path) -> str:
    """The README's table, a row for every folder of `models` with metrics.json."""
    rows = ["| model | data set | T | float32 | chip integers | Lava, mismatches | parameters |"]
    rows.append("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    for path in sorted(models.glob("*/metrics.json")):
        metrics = json.loads(path.read_text(encoding="utf-8"))
        name = path.parent.name
        model = model_file.load(path.parent / "model.pt")
        parameters = sum(value.numel() for value in model.network.parameters())
        data = metrics["dataset"].partition(":")[0]
        data += " (JPEG)" if metrics.get("source") == "JPEG" else ""
        rows.append(
            f"| [{name}](models/{name}/card.md) | {data}, {metrics['samples']:,} images | {metrics['timesteps']} | "
            f"{100 * metrics['float_accuracy']:.2f} % | {100 * metrics['integer_accuracy']:.2f} % | "
            f"{metrics['lava_mismatches']} of {metrics['lava_values']:,} | {parameters:,} |"
        )
    return "\n".join(rows)


def refresh_readme(readme: Path, models: Path) -> None:
    """Put `results_table` between the README's two markers.

    Raises:
        InputError: the markers are missing.
    """
    text = readme.read_text(encoding="utf-8")
    start, end = text.find(RESULTS_START), text.find(RESULTS_END)
    if start < 0 or end < start:
        raise InputError(f"'{readme}' has no '{RESULTS_START} ... {RESULTS_END}' to fill")
    head = text.index("\n", start) + 1
    write_text(readme, f"{text[:head]}\n{results_table(models)}\n\n{text[end:]}")


if __name__ == "__main__":
    page = Path(sys.argv[1] if len(sys.argv) > 1 else "README.md")
    refresh_readme(page, page.parent / "models")
