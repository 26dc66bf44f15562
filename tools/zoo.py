"""A folder of the zoo: evidence that a recipe works, written from a run's own files, no figure by hand.

    python tools/zoo.py halve RUN [--data DIR]
    python tools/zoo.py publish RUN models/NAME [--data-option '--data DIR'] [--called OLD=NEW]
    python tools/zoo.py fit models/NAME [--samples N [--data DIR]]
    python tools/zoo.py readme [README.md]

Run by the package's own Python, from a checkout.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import card as cards
import typer
from jinja2 import UndefinedError

from snn2chip import chip as chips
from snn2chip import recipe as recipes
from snn2chip.cli.common import guarded
from snn2chip.data import ImageSet, load
from snn2chip.errors import InputError
from snn2chip.files import atomic_path, read, sha256, write_json, write_text
from snn2chip.fit.cost import Meter
from snn2chip.formats import netx
from snn2chip.nn import model_file
from snn2chip.passes import pipeline
from snn2chip.simulate.run import simulate
from snn2chip.train.loop import validation_seed
from snn2chip.train.measure import evaluate
from snn2chip.train.quantized import deployed
from snn2chip.train.retrain import quantize_recipe, stage_recipe

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


def publish(run: Path, target: Path, data_option: str = "", called: Mapping[str, str] | None = None) -> None:
    """Write model.pt, metrics.json and card.md into `target`, which holds the recipe.toml they came from.

    `run` holds model.pt, model.net, export.json, simulate.json (whole test set, with its cost) and verify.json (with
    Lava). A folder `static` in it, with the same files of the network that `snn2chip collapse` made, is reported beside
    it. A run that is a stage of `snn2chip retrain` has iir.json in the folder above, whose table goes into the card.

    One in integers (`retrain --quantize`) is published with the recipe that retraining went on from, whose run stands
    beside the folder of the stages and has that recipe's name; akida.json, of `snn2chip akida run`, is reported if it
    is there. `called` gives other runs (of `train --init`, `--teacher`) the names that the card's commands have.

    Raises:
        InputError: something is missing, verification did not pass, the simulation did not cover the test set,
            the recipe is another one, or model.pt is larger than 6 MB.
    """
    model = model_file.load(run / "model.pt")
    chain = netx.load(run / "model.net")
    exported = _json(run / "export.json", "snn2chip fold-and-export RUN/model.pt --json RUN/export.json", "quantize")
    found = cards.placed(chain)
    asked = [] if found is None else ["cost"]
    option = f"{cards.cost_option(chain.made['chip'])} " if asked else ""
    simulated = _json(
        run / "simulate.json",
        f"snn2chip simulate RUN/model.net {option}--json RUN/simulate.json",
        *("samples", "accuracy", *asked),
    )
    verified = _json(
        run / "verify.json", "snn2chip verify RUN/model.pt RUN/model.net --json RUN/verify.json", "passed", "rungs"
    )
    if not (target / "recipe.toml").is_file():
        raise InputError(f"'{target}' has no recipe.toml; publish into the recipe's own folder")
    own, stages = recipes.load(target), _stages(run, model)
    if _trained_with(own, model, stages) != model.recipe:
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
        **({} if found is None else {"cost": _without_layers(simulated["cost"])}),
        "versions": {key: chain.made[key] for key in ("snn2chip", "torch", "numpy")},
        "runs": 1,
    }
    if stages is not None and stages.origin is not None:
        metrics |= _in_integers(run, model, stages.origin, simulated, verified)
        if (run / "akida.json").is_file():
            metrics["akida"] = _akida(run, model, exported)
    for about in (metrics, metrics.get("start", {})):
        about.update({key: (called or {}).get(about[key], about[key]) for key in ("init", "teacher") if key in about})
    if (run / "static").is_dir():
        metrics["static"] = _static(run / "static")
    try:
        card = cards.write(own, model, metrics, exported, simulated, data_option, stages)
    except (KeyError, UndefinedError) as error:
        raise InputError(f"'{run}' was made by an older snn2chip, without a figure: {error}; finish it again") from None
    write_json(target / "metrics.json", metrics)
    write_text(target / "card.md", cards.with_chip(card, chain, metrics.get("cost")))
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
        if model.recipe.model.integers and not bool((rounded == value.data).all()):
            raise InputError(f"'{path}': '{name}' holds integers that float16 does not: keep it in float32")
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


def _without_layers(cost: Mapping[str, Any]) -> dict[str, Any]:
    """The cost as metrics.json has it: of the whole network."""
    return {key: value for key, value in cost.items() if key != "layers"}


def refit(target: Path, samples: int | None = None, data: Path | None = None) -> None:
    """Write the table of cores anew into the card of a published network; with `samples` its cost too, counted of so
    many images of its test set, of the network that the same calibration images give again. Where an exporter that has
    changed since gives other scales than the card's, the card says so.

    Raises:
        InputError: `target` holds no published network.
        DataError: the data set is not at hand.
    """
    metrics = _json(target / "metrics.json", "python tools/zoo.py publish", "chip", "weight_bits", "calibration")
    path = target / "card.md"
    if not path.is_file():
        raise InputError(f"'{target}' has no card.md; run: python tools/zoo.py publish")
    card = path.read_text(encoding="utf-8")
    profile = chips.load(metrics["chip"]).with_weight_bits(metrics["weight_bits"])
    model = model_file.load(target / "model.pt")
    if samples is None:
        chain, note = pipeline.export(model, profile).chain, "; scaled without calibration images"
    else:
        train, test = (_images(model.recipe, split, data) for split in ("train", "test"))
        images = re.search(r"(\d+) images", metrics["calibration"])
        export = pipeline.export(model, profile, calibration=train.subset(int(images[1])) if images else None)
        chain, note = export.chain, ""
        layers = [asdict(layer) for layer in export.quantize_report.layers]
        same = set(cards.layer_rows(layers, model.metrics)) <= set(card.splitlines())
        found = cards.placed(chain)
        if found is not None:
            result = simulate(chain, images=test.subset(samples), meter=Meter(found))
            assert result.cost is not None
            metrics["cost"] = _without_layers(result.cost.as_json()) | ({} if same else {"exported_anew": True})
            write_json(target / "metrics.json", metrics)
    write_text(path, cards.with_chip(card, chain, metrics.get("cost"), note))


def _images(recipe: recipes.Recipe, split: str, data: Path | None) -> ImageSet:
    spec = recipe.data
    return load(spec.name, split, data, download=False, image_size=spec.image_size, events=recipe.binning)


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


def _in_integers(
    run: Path,
    model: model_file.Model,
    origin: model_file.Model,
    simulated: dict[str, Any],
    verified: dict[str, Any],
) -> dict[str, Any]:
    """Figures of a network that was trained in integers: those of the one before it are its float32."""
    rung = next((rung for rung in verified["rungs"] if rung["name"] == "folded = integers"), None)
    if rung is None or simulated["accuracy"] != model.metrics["float_accuracy"]:
        raise InputError(
            f"'{run}': trained in integers, but not the integers of its file: '{run / 'verify.json'}' needs the rung "
            f"'folded = integers', and simulate.json the accuracy of model.pt; export and verify again"
        )
    return {
        "float_accuracy": origin.metrics["float_accuracy"],
        "start": origin.metrics,
        "trained_values": int(rung["compared"]),
        "trained_mismatches": int(rung["mismatches"]),
    }


def _akida(run: Path, model: model_file.Model, exported: dict[str, Any]) -> dict[str, Any]:
    """What Akida's simulator and mapping said, of the whole test set."""
    keys = ("samples", "potentials", "differ", "accuracy")
    said = _json(run / "akida.json", "snn2chip akida run RUN/model.net --json RUN/akida.json", *keys)
    if said["differ"] or said["samples"] != model.metrics["samples"]:
        raise InputError(
            f"'{run / 'akida.json'}': {said['differ']} potentials of {said['samples']} samples differ; all samples of "
            f"the test set, {model.metrics['samples']}, must be there and none may"
        )
    mapped = exported.get("fit", {})
    return {key: said[key] for key in keys} | {key: mapped[key] for key in ("sequences", "passes", "nodes")}


def _stages(run: Path, model: model_file.Model) -> cards.Stages | None:
    """Of iir.json of the run that `run` is the last stage of, or None."""
    path = run.parent / "iir.json"
    if not path.exists():
        return None
    content = _json(path, "snn2chip retrain", "rows", "start")
    start, rows = content["start"], content["rows"]
    if not re.fullmatch(recipes.NAME, str(start["recipe"])):
        raise InputError(f"'{path}' is damaged: its recipe's name is no name; run: snn2chip retrain")
    kept = run / "model32.pt"  # what `halve` rounded
    if rows[-1]["sha256"] != sha256(kept if kept.exists() else run / "model.pt"):
        raise InputError(f"'{path}' ends with another model than '{run / 'model.pt'}'; publish the last stage")
    if not model.recipe.model.integers:
        return cards.Stages(start["recipe"], rows, None)
    origin = run.parent.parent / start["recipe"] / "model.pt"
    if not origin.is_file() or sha256(origin) != start["sha256"]:
        raise InputError(f"'{origin}' is not the model that '{path}' started from ('{start['model']}'); put it there")
    return cards.Stages(start["recipe"], rows, model_file.load(origin))


def _trained_with(own: recipes.Recipe, model: model_file.Model, stages: cards.Stages | None) -> recipes.Recipe:
    """The recipe that the commands of the card train with: of integers, what `retrain --quantize` makes of `own`."""
    if stages is None or stages.origin is None:
        return own
    train, (*_, before, last) = model.recipe.train, stages.rows
    base = own
    if len(stages.rows) > 2:
        stage = stage_recipe(own, before["timesteps"], before["epochs"], train.lr)
        base = stage.model_copy(update={"name": own.name})
    bits, epochs = last["weight_bits"], last["epochs"]
    return deployed(quantize_recipe(base, last["timesteps"], bits, epochs, train.lr, cards.settings(model.recipe)))


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
        samples = cards.part(metrics) or f"{metrics['samples']:,} {cards.sample_word(model.recipe)}"
        data = f"{metrics['dataset'].partition(':')[0]}, {samples}"
        kind = "" if metrics.get("stock_netx", True) else ", not stock netx"
        rows.append(
            f"| [{name}](models/{name}/card.md) | {data} | {metrics['timesteps']} | "
            f"{100 * metrics['float_accuracy']:.2f} % | {100 * metrics['integer_accuracy']:.2f} % | "
            f"{metrics['lava_mismatches']} of {metrics['lava_values']:,}{kind} | {parameters:,} |"
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
    called: Annotated[
        list[str] | None,
        typer.Option(help="OLD=NEW: a folder of another run, as the card's commands have it. May be repeated."),
    ] = None,
) -> None:
    """Write a zoo folder's model.pt, metrics.json and card.md from a finished, verified run."""
    names = dict(name.split("=", 1) for name in called or [] if "=" in name)
    if len(names) < len(called or []):
        raise InputError("--called: expected OLD=NEW, each OLD once")
    publish(run, target, data_option, names)
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
def _fit(
    target: Annotated[Path, typer.Argument(help="The zoo's folder, models/NAME.")],
    samples: Annotated[
        int | None, typer.Option(min=1, help="Count the cost too, of so many test images; their set must be at hand.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="The data set's folder.")] = None,
) -> None:
    """Write the table of cores anew into a card, with --samples its cost too."""
    refit(target, samples, data)
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
