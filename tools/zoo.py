"""A folder of the zoo: evidence that a recipe works, written from a run's own files, no figure by hand.

    python tools/zoo.py halve RUN [--data DIR]
    python tools/zoo.py publish RUN models/NAME [--data-option '--data DIR']
    python tools/zoo.py fit models/NAME
    python tools/zoo.py readme [README.md]

Run by the package's own Python, from a checkout.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from snn2chip import chip as chips
from snn2chip import recipe as recipes
from snn2chip.cli.common import guarded
from snn2chip.data import load
from snn2chip.errors import InputError
from snn2chip.files import atomic_path, read, write_json, write_text
from snn2chip.fit import demand
from snn2chip.fit import table as fits
from snn2chip.formats import netx
from snn2chip.ir import Chain
from snn2chip.nn import model_file
from snn2chip.passes import pipeline
from snn2chip.report import columns
from snn2chip.report import fit as cores
from snn2chip.train.loop import evaluate, validation_seed

MODEL_BYTES_MAX = 6_000_000


def _json(path: Path, made_by: str, *keys: str) -> dict[str, Any]:
    """A JSON object with at least `keys`."""
    try:
        value = read(path, "JSON")
    except FileNotFoundError:
        raise InputError(f"'{path}' is missing; run: {made_by}") from None
    except InputError as error:
        raise InputError(f"{error}; run: {made_by}") from None
    if not isinstance(value, dict) or not set(keys) <= set(value):
        raise InputError(f"'{path}' lacks one of {', '.join(keys)}; run: {made_by}")
    return value


def publish(run: Path, target: Path, data_option: str = "") -> None:
    """Write model.pt, metrics.json and card.md into `target`, which holds the recipe.toml they came from.

    `run` holds model.pt, model.net, export.json, simulate.json (whole test set) and verify.json (with Lava). A folder
    `static` in it, with the same files of the network that `snn2chip collapse` made, is reported beside it. A run that
    is a stage of `snn2chip retrain` has iir.json in the folder above, whose table goes into the card.

    Raises:
        InputError: something is missing, verification did not pass, the simulation did not cover the test set,
            the recipe is another one, or model.pt is larger than 6 MB.
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
    _complete(run, model, simulated, verified)
    size = (run / "model.pt").stat().st_size
    if size > MODEL_BYTES_MAX:
        raise InputError(f"model.pt has {size:,} bytes; the zoo takes up to {MODEL_BYTES_MAX:,}: see `halve`")
    metrics = {
        **model.metrics,
        "integer_accuracy": simulated["accuracy"],
        "chip": chain.made["chip"],
        "weight_bits": chain.made["weight_bits"],
        "calibration": chain.made["calibration"],
        "stock_netx": chain.stock,
        **_lava(verified),
        "versions": {key: chain.made[key] for key in ("snn2chip", "torch", "numpy")},
        "runs": 1,
    }
    if (run / "static").is_dir():
        metrics["static"] = _static(run / "static")
    stages = _stages(run, name)
    try:
        card = _card(name, model, metrics, exported, simulated, data_option, stages)
    except KeyError as error:
        raise InputError(f"'{run}' was made by an older snn2chip: {error} is missing; finish it again") from None
    write_json(target / "metrics.json", metrics)
    write_text(target / "card.md", with_fit(card, chain))
    with atomic_path(target / "model.pt") as part:
        shutil.copyfile(run / "model.pt", part)


def halve(run: Path, data: Path | None) -> None:
    """Round the weights of a run's model.pt to float16, which takes half the room, and measure it as it is then.

    The float32 model stays beside it as model32.pt.

    Raises:
        InputError: it was done already, a weight has no place in float16, or the test set is not there.
    """
    path, kept = run / "model.pt", run / "model32.pt"
    model = model_file.load(path)
    if kept.exists() or model.metrics.get("weights") == "float16":
        raise InputError(f"'{path}' is in float16 already; its float32 is '{kept}'")
    spec = model.recipe.data
    test = load(spec.name, "test", data, image_size=spec.image_size, events=model.recipe.binning)
    for name, value in model.network.named_parameters():
        rounded = value.data.half()
        if not bool(rounded.isfinite().all()):
            raise InputError(f"'{path}': '{name}' has values beyond float16's")
        value.data = rounded.float()
    metrics = {**model.metrics, "weights": "float16", "float_accuracy": evaluate(model.network, test)}
    if (aside := model.metrics.get("validation_samples")) is not None:
        training = load(spec.name, "train", data, image_size=spec.image_size, events=model.recipe.binning)
        validation = training.set_aside(aside, validation_seed(model.recipe))[1]
        assert validation is not None
        metrics["validation_accuracy"] = evaluate(model.network, validation)
    shutil.copyfile(path, kept)
    model_file.save(
        path, model.network, model.recipe, max_value=model.max_value, classes=model.classes, metrics=metrics, half=True
    )


CORES = "\nOn its cores"


def with_fit(card: str, chain: Chain, note: str = "") -> str:
    """A card with the table of cores at its end, the one that was there replaced; says so where nothing fits."""
    found = fits.fit(demand.of_chain(chain), chips.with_cores(chips.load(chain.made["chip"])))
    rule = "| --- " + "| ---: " * (len(columns.FIT.columns) - 2) + "| --- |"
    rows = [list(columns.FIT.columns), *cores.rows(found)]
    table = [f"| {' | '.join(row)} |" for row in rows]
    said = [
        f"**{cores.verdict(found)[0].upper()}{cores.verdict(found)[1:]}.**" if not found.fits else cores.verdict(found)
    ]
    said += [f"- {problem}" for problem in found.problems]
    card = card.split(CORES)[0].replace(" --no-fit", "")
    if not found.fits:
        card = re.sub(r"(snn2chip fold-and-export \S+)", r"\1 --no-fit", card)
    lines = [
        f"{CORES} (`snn2chip fit`, docs/fit.md; of a core, the fullest{note}):",
        "",
        *said,
        "",
        table[0],
        rule,
        *table[1:],
    ]
    return card + "\n".join(lines) + "\n"


def refit(target: Path) -> None:
    """Write the table of cores anew into the card of a published network.

    Raises:
        InputError: `target` holds no published network.
    """
    metrics = _json(target / "metrics.json", "python tools/zoo.py publish", "chip", "weight_bits")
    card = target / "card.md"
    if not card.is_file():
        raise InputError(f"'{target}' has no card.md; run: python tools/zoo.py publish")
    profile = chips.load(metrics["chip"]).with_weight_bits(metrics["weight_bits"])
    export = pipeline.export(model_file.load(target / "model.pt"), profile)
    write_text(card, with_fit(card.read_text(encoding="utf-8"), export.chain, "; scaled without calibration images"))


def _complete(run: Path, model: model_file.Model, simulated: dict[str, Any], verified: dict[str, Any]) -> None:
    """Refuse a run that was not verified in Lava, or not simulated on the whole test set."""
    if not verified["passed"] or not any(rung["name"] == "dense = Lava" for rung in verified["rungs"]):
        raise InputError(f"'{run / 'verify.json'}' does not show a passed verification with Lava")
    if simulated["samples"] != model.metrics["samples"]:
        raise InputError(
            f"simulated {simulated['samples']} samples, the test set has {model.metrics['samples']}; "
            f"run simulate without --limit"
        )


def _lava(verified: dict[str, Any]) -> dict[str, int]:
    """What was compared in Lava."""
    rungs = {rung["name"]: rung for rung in verified["rungs"]}
    return {
        "lava_samples": int(rungs["folded ~ integers"]["compared"]),
        "lava_mismatches": int(rungs["dense = Lava"]["mismatches"]),
        "lava_values": int(rungs["dense = Lava"]["compared"]),
    }


def _static(run: Path) -> dict[str, Any]:
    """Figures of the collapsed network in `run`, whose file stock netx loads."""
    model = model_file.load(run / "model.pt")
    chain = netx.load(run / "model.net")
    simulated = _json(run / "simulate.json", "snn2chip simulate STATIC/model.net --json FILE", "samples", "accuracy")
    verified = _json(run / "verify.json", "snn2chip verify STATIC/model.pt STATIC/model.net --json FILE", "rungs")
    _complete(run, model, simulated, verified)
    if not chain.stock:
        raise InputError(f"'{run / 'model.net'}' is not stock netx; make it from what `snn2chip collapse` wrote")
    return {
        "float_accuracy": model.metrics["float_accuracy"],
        "method": model.metrics["collapse"]["method"],
        "images": model.metrics["collapse"]["images"],
        "integer_accuracy": simulated["accuracy"],
        "calibration": chain.made["calibration"],
        **_lava(verified),
    }


def _stages(run: Path, name: str) -> dict[str, Any] | None:
    """iir.json of the run that `run` is a stage of, or None."""
    path = run.parent / "iir.json"
    if not path.exists():
        return None
    content = _json(path, "snn2chip retrain", "rows", "start")
    if not re.fullmatch(recipes.NAME, str(content["start"]["recipe"])):
        raise InputError(f"'{path}' is damaged: its recipe's name is no name; run: snn2chip retrain")
    last = content["rows"][-1]
    if last["sha256"] != model_file.digest(run / "model.pt"):
        raise InputError(
            f"'{path}' ends with another model than '{run / 'model.pt'}'; publish the last stage of {name}"
        )
    return content


def _card(
    name: str,
    model: model_file.Model,
    metrics: dict[str, Any],
    exported: dict[str, Any],
    simulated: dict[str, Any],
    data_option: str,
    stages: dict[str, Any] | None,
) -> str:
    train = model.recipe.train
    parameters = sum(value.numel() for value in model.network.parameters())
    run = f"runs/{name}" if stages is None else f"runs/{stages['start']['recipe']}-iir/T{metrics['timesteps']}"
    data = f" {data_option}" if data_option else ""
    rows = "\n".join(
        f"| {layer['name']} | {layer['fan_in']:,} | {layer['neurons']:,} | {layer['synapses']:,} | "
        f"{layer['threshold']:,} | ±{layer['weight_max']} | {'proved' if layer['proved'] else 'seen only'} |"
        for layer in exported["quantize"]["layers"]
    )
    spikes = sum(simulated["spikes"].values()) / simulated["samples"]
    made = _made_by(model.recipe, metrics, stages, run, data)
    calibration = _calibration(metrics)
    kind = "stock netx" if metrics["stock_netx"] else "not stock netx: time-varying neurons (docs/bntt.md)"
    extra = "" if metrics["stock_netx"] else "\nThresholds are medians over channels and steps.\n"
    extra += _stages_section(stages) + _static_section(metrics, sample_word(model.recipe), run, data)
    versions = ", ".join(f"{key} {value}" for key, value in metrics["versions"].items())
    return f"""# {name}

{model.recipe.description}

| | |
| --- | --- |
| data set | {tested(model.recipe, metrics)} |
| accuracy, float32 | {100 * metrics["float_accuracy"]:.2f} % |
| accuracy, chip integers | {100 * metrics["integer_accuracy"]:.2f} % |
| time steps | {metrics["timesteps"]}{_step(model.recipe)} |
| parameters | {parameters:,} |
| spikes a sample | {spikes:,.0f} |
| Lava (netx) | {_compared(metrics)} |
| file | {kind} |
| target | {metrics["chip"]}, {metrics["weight_bits"]}-bit weights; scales from {metrics["calibration"]} |
{_chosen(metrics)}| training | {train.epochs} epochs, {metrics["training_seconds"] / 60:.0f} minutes on \
{metrics["hardware"]}, {train.precision} |
| versions | {versions} |
| runs | one, seed {train.seed}; the weights are those after the last epoch, none was selected |

Made by these commands, and written by the last:

    {made}{_halved(metrics, run, data)}
    snn2chip fold-and-export {run}/model.pt --json {run}/export.json{calibration}{data}
    snn2chip simulate {run}/model.net --json {run}/simulate.json{data}
    snn2chip verify {run}/model.pt {run}/model.net --samples {metrics["lava_samples"]} --json {run}/verify.json{data}
    python tools/zoo.py publish {run} models/{name}{" --data-option '" + data_option + "'" if data_option else ""}

On the chip:

| layer | fan-in | neurons | synapses | threshold | weights | no overflow |
| --- | ---: | ---: | ---: | ---: | ---: | --- |
{rows}
{extra}"""


def _chosen(metrics: dict[str, Any]) -> str:
    """The row of the images that choices were made by, and how weights are kept, where there is something to say."""
    rows = ""
    if "validation_accuracy" in metrics:
        rows += (
            f"| validation | {100 * metrics['validation_accuracy']:.2f} % of {metrics['validation_samples']:,} images "
            f"set aside from the training set, which all choices were made by |\n"
        )
    return rows + ("| weights | rounded to float16, and measured so |\n" if metrics.get("weights") else "")


def _halved(metrics: dict[str, Any], run: str, data: str) -> str:
    return f"\n    python tools/zoo.py halve {run}{data}" if metrics.get("weights") else ""


def sample_word(recipe: recipes.Recipe) -> str:
    """What a sample of the network's data set is called, many of them."""
    return "images" if recipe.binning is None else "recordings"


def tested(recipe: recipes.Recipe, metrics: dict[str, Any]) -> str:
    """On what the figures were taken: data set, how many samples, and how that differs from the published set."""
    text = f"{metrics['dataset']}{_edition(metrics)}, all {metrics['samples']:,} test {sample_word(recipe)}"
    return f"{text} at hand, {_part(metrics)}" if _part(metrics) else text


def _edition(metrics: dict[str, Any]) -> str:
    return " (JPEG)" if metrics.get("source") == "JPEG" else ""


def _part(metrics: dict[str, Any]) -> str:
    """As "100 of the 10,000 published recordings", or nothing where the set is whole."""
    source = str(metrics.get("source", ""))
    return source if " of the " in source else ""


def _step(recipe: recipes.Recipe) -> str:
    """How long a step is, of recordings binned by time or number."""
    binning = recipe.binning
    if binning is None:
        return ""
    return f" of {binning.count:,} events" if binning.dt_us is None else f" of {binning.dt_us / 1000:g} ms"


def _compared(metrics: dict[str, Any]) -> str:
    return (
        f"{metrics['lava_samples']} samples, {metrics['lava_values']:,} spikes and voltages, "
        f"{metrics['lava_mismatches']} mismatches"
    )


def _calibration(metrics: dict[str, Any]) -> str:
    images = re.search(r"(\d+) images", metrics["calibration"])
    return f" --calibration {images[1]}" if images and images[1] != "64" else ""


def _made_by(
    recipe: recipes.Recipe, metrics: dict[str, Any], stages: dict[str, Any] | None, run: str, data: str
) -> str:
    """The command that trained a network."""
    if stages is None:
        options = [f" --{name} runs/{metrics[name]}/model.pt" for name in ("init", "teacher") if metrics.get(name)]
        return f"snn2chip train {recipe.name} --out {run}{data}{''.join(options)}"
    start, rows = stages["start"], stages["rows"]
    last = rows[-1]
    step = abs(rows[0]["timesteps"] - rows[1]["timesteps"])
    options = f"--timesteps {last['timesteps']} --step {step} --epochs {rows[1]['epochs']}"
    options += f" --final-epochs {last['epochs']} --lr {recipe.train.lr:g}"
    return f"snn2chip retrain runs/{start['recipe']}/model.pt {options}{data}"


def _stages_section(stages: dict[str, Any] | None) -> str:
    """The table of a retraining: what every T gives and costs."""
    if stages is None:
        return ""
    rows = "\n".join(
        f"| {row['timesteps']} | {100 * row['accuracy']:.2f} % | {row['spikes']:,.0f} | {row['rate']:.4f} | "
        f"{row['accumulates']:,.0f} | {row['multiply_accumulates']:,.0f} | {row['epochs']} |"
        for row in stages["rows"]
    )
    ann = stages["rows"][0]["ann_multiply_accumulates"]
    return f"""
Iterative retraining from {stages["start"]["recipe"]} (the first row), float32, means per sample:

| T | accuracy | spikes | spikes a neuron and step | accumulates | multiply-accumulates | epochs |
| ---: | ---: | ---: | ---: | ---: | ---: | ---: |
{rows}

The same network without spikes takes {ann:,} multiply-accumulates.
"""


def _static_section(metrics: dict[str, Any], samples: str, run: str, data: str) -> str:
    """What one normalization for all steps costs."""
    static = metrics.get("static")
    if static is None:
        return ""
    folder = f"{run}/static"
    return f"""
Beside it, for stock netx, the same network with one normalization for all steps (docs/static-route.md; of what was
tried, '{static["method"]}' changed the fewest spikes on {static["images"]} training {samples}), no training after it:

| | float32 | chip integers | Lava (stock netx) |
| --- | ---: | ---: | --- |
| exact, time-varying neurons | {100 * metrics["float_accuracy"]:.2f} % | {100 * metrics["integer_accuracy"]:.2f} % | |
| static | {100 * static["float_accuracy"]:.2f} % | {100 * static["integer_accuracy"]:.2f} % | {_compared(static)} |

    snn2chip collapse {run}/model.pt -o {folder}/model.pt --images {static["images"]}{data}
    snn2chip fold-and-export {folder}/model.pt{_calibration(static)}{data}
    snn2chip simulate {folder}/model.net --json {folder}/simulate.json{data}
    snn2chip verify {folder}/model.pt {folder}/model.net --samples {static["lava_samples"]} \\
        --json {folder}/verify.json{data}
"""


def _kind(metrics: dict[str, Any]) -> str:
    return "" if metrics.get("stock_netx", True) else ", not stock netx"


RESULTS_START, RESULTS_END = "<!-- results:", "<!-- /results -->"


def results_table(models: Path) -> str:
    """The README's table, a row for every folder of `models` with metrics.json."""
    rows = ["| model | data set | T | float32 | chip integers | Lava, mismatches | parameters |"]
    rows.append("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    for path in sorted(models.glob("*/metrics.json")):
        metrics = read(path, "JSON")
        name = path.parent.name
        model = model_file.load(path.parent / "model.pt")
        parameters = sum(value.numel() for value in model.network.parameters())
        data = metrics["dataset"].partition(":")[0]
        data += _edition(metrics) + ", " + (_part(metrics) or f"{metrics['samples']:,} {sample_word(model.recipe)}")
        rows.append(
            f"| [{name}](models/{name}/card.md) | {data} | {metrics['timesteps']} | "
            f"{100 * metrics['float_accuracy']:.2f} % | {100 * metrics['integer_accuracy']:.2f} % | "
            f"{metrics['lava_mismatches']} of {metrics['lava_values']:,}{_kind(metrics)} | {parameters:,} |"
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


app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


@app.command("publish")
@guarded
def _publish(
    run: Annotated[Path, typer.Argument(help="A run's folder: model.pt, model.net and the JSON files.")],
    target: Annotated[Path, typer.Argument(help="The zoo's folder, models/NAME, with its recipe.toml.")],
    data_option: Annotated[
        str, typer.Option(help="What the card's commands say about the data, e.g. '--data DIR'.")
    ] = "",
) -> None:
    """Write a zoo folder's model.pt, metrics.json and card.md from a finished, verified run."""
    publish(run, target, data_option)
    print(f"wrote {target / 'model.pt'}, metrics.json, card.md")


@app.command("halve")
@guarded
def _halve(
    run: Annotated[Path, typer.Argument(help="A run's folder with model.pt.")],
    data: Annotated[Path | None, typer.Option(help="The data set's folder.")] = None,
) -> None:
    """Round a run's weights to float16, before it is exported, and measure its accuracy anew."""
    halve(run, data)
    print(f"wrote {run / 'model.pt'}, in float16; '{run / 'model32.pt'}' is what it was")


@app.command("fit")
@guarded
def _fit(target: Annotated[Path, typer.Argument(help="The zoo's folder, models/NAME.")]) -> None:
    """Write the table of cores anew into a card."""
    refit(target)
    print(f"wrote {target / 'card.md'}")


@app.command("readme")
@guarded
def _readme(page: Annotated[Path, typer.Argument(help="The page with the table.")] = Path("README.md")) -> None:
    """Write the README's table of results anew."""
    refresh_readme(page, page.parent / "models")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; `arguments` are the process's own if not given."""
    app(args=None if arguments is None else list(arguments), prog_name="zoo.py")


if __name__ == "__main__":
    main()
