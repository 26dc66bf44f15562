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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from snn2chip import chip as chips
from snn2chip import recipe as recipes
from snn2chip.cli.common import guarded
from snn2chip.data import ImageSet, load
from snn2chip.errors import InputError
from snn2chip.files import atomic_path, read, write_json, write_text
from snn2chip.fit import demand
from snn2chip.fit import table as fits
from snn2chip.fit.cost import Meter
from snn2chip.formats import netx
from snn2chip.ir import Chain
from snn2chip.nn import model_file
from snn2chip.passes import pipeline
from snn2chip.report import columns
from snn2chip.report import cost as costs
from snn2chip.report import fit as cores
from snn2chip.simulate.run import simulate
from snn2chip.train.loop import evaluate, validation_seed
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


@dataclass(frozen=True)
class Stages:
    """What `snn2chip retrain` says of a run that is its last stage.

    start   the recipe that it went on from; `rows` of iir.json, that of the start first
    origin  of a stage in integers: the network that it all went on from, which has no card of its own
    """

    start: str
    rows: list[dict[str, Any]]
    origin: model_file.Model | None

    @property
    def folder(self) -> str:
        """Of the last stage, as `retrain` names it by itself."""
        last = self.rows[-1]
        bits = "" if self.origin is None else f"-{last['weight_bits']}bit"
        return f"runs/{self.start}-iir/T{last['timesteps']}{bits}"


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
    found = placed(chain)
    asked = [] if found is None else ["cost"]
    option = f"{_cost_option(chain.made['chip'])} " if asked else ""
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
        card = _card(own, model, metrics, exported, simulated, data_option, stages)
    except KeyError as error:
        raise InputError(f"'{run}' was made by an older snn2chip: {error} is missing; finish it again") from None
    write_json(target / "metrics.json", metrics)
    write_text(target / "card.md", with_chip(card, chain, metrics.get("cost")))
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


COSTS, CORES = "\nWhat a sample costs", "\nOn its cores"


def placed(chain: Chain) -> fits.Fit | None:
    """A network on its cores, those of Loihi 2 if its chip has none; None where a layer is on none."""
    found = _fit_of(chain)
    return found if all(each.placed is not None for each in found.layers) else None


def _fit_of(chain: Chain) -> fits.Fit:
    return fits.fit(demand.of_chain(chain), chips.with_cores(chips.load(chain.made["chip"])))


def _cost_option(chip: str) -> str:
    """What `snn2chip simulate` is given for the cost of a network that was made for `chip`."""
    counted = chips.with_cores(chips.load(chip)).name
    return "--cost" if counted == chip else f"--cost --chip {counted}"


def _without_layers(cost: Mapping[str, Any]) -> dict[str, Any]:
    """The cost as metrics.json has it: of the whole network."""
    return {key: value for key, value in cost.items() if key != "layers"}


def with_chip(card: str, chain: Chain, cost: Mapping[str, Any] | None, note: str = "") -> str:
    """A card that ends with what a sample costs, if that was counted, and the table of cores, those that were there
    replaced; its commands count the cost then, and where nothing fits the card says so and exports all the same."""
    found = _fit_of(chain)
    rule = "| --- " + "| ---: " * (len(columns.FIT.columns) - 2) + "| --- |"
    rows = [list(columns.FIT.columns), *cores.rows(found)]
    table = [f"| {' | '.join(row)} |" for row in rows]
    said = [
        f"**{cores.verdict(found)[0].upper()}{cores.verdict(found)[1:]}.**" if not found.fits else cores.verdict(found)
    ]
    said += [f"- {problem}" for problem in found.problems]
    card = card.split(CORES)[0].split(COSTS)[0].replace(" --no-fit", "")
    option = "" if cost is None else f" {_cost_option(chain.made['chip'])}"
    card = re.sub(r"(snn2chip simulate \S+)(?: --cost)?(?: --chip \S+)?", rf"\1{option}", card, count=1)
    if not found.fits:
        card = re.sub(r"(snn2chip fold-and-export \S+)", r"\1 --no-fit", card)
    lines = []
    if cost is not None:
        anew = ", exported anew at other scales than those above" if cost.get("exported_anew") else ""
        lines = [
            f"{COSTS} (`snn2chip simulate --cost`, docs/cost.md; counted of {cost['samples']:,} test samples{anew}):",
            "",
            *(f"- {line}" for line in costs.lines(cost)),
        ]
    lines += [
        f"{CORES} (`snn2chip fit`, docs/fit.md; of a core, the fullest{note}):",
        "",
        *said,
        "",
        table[0],
        rule,
        *table[1:],
    ]
    return card + "\n".join(lines) + "\n"


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
        same = set(_layer_rows(layers, model.metrics)) <= set(card.splitlines())
        found = placed(chain)
        if found is not None:
            result = simulate(chain, images=test.subset(samples), meter=Meter(found))
            assert result.cost is not None
            metrics["cost"] = _without_layers(result.cost.as_json()) | ({} if same else {"exported_anew": True})
            write_json(target / "metrics.json", metrics)
    write_text(path, with_chip(card, chain, metrics.get("cost"), note))


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


def _stages(run: Path, model: model_file.Model) -> Stages | None:
    """Of iir.json of the run that `run` is the last stage of, or None."""
    path = run.parent / "iir.json"
    if not path.exists():
        return None
    content = _json(path, "snn2chip retrain", "rows", "start")
    start, rows = content["start"], content["rows"]
    if not re.fullmatch(recipes.NAME, str(start["recipe"])):
        raise InputError(f"'{path}' is damaged: its recipe's name is no name; run: snn2chip retrain")
    kept = run / "model32.pt"  # what `halve` rounded
    if rows[-1]["sha256"] != model_file.digest(kept if kept.exists() else run / "model.pt"):
        raise InputError(f"'{path}' ends with another model than '{run / 'model.pt'}'; publish the last stage")
    if not model.recipe.model.integers:
        return Stages(start["recipe"], rows, None)
    origin = run.parent.parent / start["recipe"] / "model.pt"
    if not origin.is_file() or model_file.digest(origin) != start["sha256"]:
        raise InputError(f"'{origin}' is not the model that '{path}' started from ('{start['model']}'); put it there")
    return Stages(start["recipe"], rows, model_file.load(origin))


def _trained_with(own: recipes.Recipe, model: model_file.Model, stages: Stages | None) -> recipes.Recipe:
    """The recipe that the commands of the card train with: of integers, what `retrain --quantize` makes of `own`."""
    if stages is None or stages.origin is None:
        return own
    train, (*_, before, last) = model.recipe.train, stages.rows
    base = own
    if len(stages.rows) > 2:
        stage = stage_recipe(own, before["timesteps"], before["epochs"], train.lr)
        base = stage.model_copy(update={"name": own.name})
    bits, epochs = last["weight_bits"], last["epochs"]
    return deployed(quantize_recipe(base, last["timesteps"], bits, epochs, train.lr, _settings(model.recipe)))


def _settings(recipe: recipes.Recipe) -> list[str]:
    """As --set of `retrain --quantize` has them: what is not the default."""
    table = recipe.train.quantize
    if table is None:
        return []
    usual = type(table)().model_dump()
    found = []
    for key, value in table.model_dump().items():
        if value != usual[key] and key != "weight_bits":
            said = f"{{{', '.join(f'{a}={b}' for a, b in value.items())}}}" if isinstance(value, dict) else value
            found.append(f"train.quantize.{key}={said}")
    return found


def _layer_rows(layers: Sequence[Mapping[str, Any]], metrics: Mapping[str, Any]) -> list[str]:
    """Of the table of layers; of one trained in integers with the bits that each was given."""
    trained = metrics.get("quantized", {})
    return [
        f"| {layer['name']} | {layer['fan_in']:,} | {layer['neurons']:,} | {layer['synapses']:,} | "
        f"{layer['threshold']:,} | ±{layer['weight_max']} | "
        + (f"{trained[layer['name']]['weight_bits']} | " if trained else "")
        + f"{'proved' if layer['proved'] else 'seen only'} |"
        for layer in layers
    ]


def _card(
    own: recipes.Recipe,
    model: model_file.Model,
    metrics: dict[str, Any],
    exported: dict[str, Any],
    simulated: dict[str, Any],
    data_option: str,
    stages: Stages | None,
) -> str:
    name, train = own.name, model.recipe.train
    parameters = sum(value.numel() for value in model.network.parameters())
    run = f"runs/{name}" if stages is None else stages.folder
    data = f" {data_option}" if data_option else ""
    rows = "\n".join(_layer_rows(exported["quantize"]["layers"], metrics))
    heads = [
        "layer",
        "fan-in",
        "neurons",
        "synapses",
        "threshold",
        "weights",
        *(["bits"] if stages and stages.origin else []),
    ]
    spikes = sum(simulated["spikes"].values()) / simulated["samples"]
    made = _made_by(own, model.recipe, metrics, stages, run, data)
    calibration = _calibration(metrics)
    kind = "stock netx" if metrics["stock_netx"] else "not stock netx: time-varying neurons (docs/bntt.md)"
    extra = "" if metrics["stock_netx"] else "\nThresholds are medians over channels and steps.\n"
    extra += _stages_section(stages) + _static_section(metrics, sample_word(model.recipe), run, data)
    versions = ", ".join(f"{key} {value}" for key, value in metrics["versions"].items())
    described = own.description + _in_bits(model.recipe) if stages and stages.origin else model.recipe.description
    return f"""# {name}

{described}

| | |
| --- | --- |
| data set | {tested(model.recipe, metrics)} |
| accuracy, float32 | {100 * metrics["float_accuracy"]:.2f} % |
| accuracy, chip integers | {100 * metrics["integer_accuracy"]:.2f} % |
| time steps | {metrics["timesteps"]}{_step(model.recipe)} |
| parameters | {parameters:,} |
| spikes a sample | {spikes:,.0f} |
| Lava (netx) | {_compared(metrics)} |
{_integer_rows(metrics)}| file | {kind} |
| target | {metrics["chip"]}, {_scaled(metrics)} |
{_chosen(metrics)}| training | {_trained(metrics, train)} |
| versions | {versions} |
| runs | one, seed {train.seed}; the weights are those after the last epoch, none was selected |

Made by these commands, and written by the last:

    {made}{_halved(metrics, run, data)}
    snn2chip fold-and-export {run}/model.pt{_export_options(metrics)} --json {run}/export.json\
{calibration}{data}
    snn2chip simulate {run}/model.net --json {run}/simulate.json{data}
{_akida_command(metrics, run, data)}\
    snn2chip verify {run}/model.pt {run}/model.net --samples {metrics["lava_samples"]} --json {run}/verify.json{data}
    python tools/zoo.py publish {run} models/{name}{" --data-option '" + data_option + "'" if data_option else ""}

On the chip:

| {" | ".join(heads)} | no overflow |
| --- {"| ---: " * (len(heads) - 1)}| --- |
{rows}
{extra}"""


def _in_bits(recipe: recipes.Recipe) -> str:
    """A sentence: the bits that a network's weights were trained in."""
    table = recipe.train.quantize
    if table is None:
        return ""
    others = "".join(f", {bits} in {name}" for name, bits in table.layers.items())
    return f" Trained on in integers, weights of {table.weight_bits} bits{others}."


def _integer_rows(metrics: Mapping[str, Any]) -> str:
    """What holds of a network that was trained in integers, and what Akida's simulator said of it."""
    rows = ""
    if "trained_values" in metrics:
        rows += (
            f"| training = integers | {metrics['lava_samples']} samples, {metrics['trained_values']:,} spikes and "
            f"scores, {metrics['trained_mismatches']} mismatches |\n"
        )
    if "akida" in metrics:
        said = metrics["akida"]
        rows += (
            f"| Akida's simulator | {100 * said['accuracy']:.2f} %, all {said['samples']:,} samples; {said['differ']} "
            f"of {said['potentials']:,} potentials differ; {said['nodes']} nodes, sequences: {said['sequences']}, "
            f"passes: {said['passes']} |\n"
        )
    return rows


def _scaled(metrics: Mapping[str, Any]) -> str:
    if "start" in metrics:
        return "the integers that were trained"
    return f"{metrics['weight_bits']}-bit weights; scales from {metrics['calibration']}"


def _trained(metrics: Mapping[str, Any], train: recipes.TrainSpec) -> str:
    """How long, and on what."""
    said = f"{train.epochs} epochs{' in integers' if 'start' in metrics else ''}"
    said += f", {metrics['training_seconds'] / 60:.0f} minutes on {metrics['hardware']}, {train.precision}"
    if "start" not in metrics:
        return said
    start = metrics["start"]
    return f"{start['epochs']} epochs, {start['training_seconds'] / 60:.0f} minutes on {start['hardware']}; then {said}"


def _export_options(metrics: Mapping[str, Any]) -> str:
    """Of `fold-and-export`, what is not its default."""
    bits, chip = metrics["weight_bits"], chips.load(metrics["chip"])
    return ("" if chip.name == "loihi2" else f" --chip {chip.name}") + (
        "" if bits == chip.weight_bits else f" --weight-bits {bits}"
    )


def _akida_command(metrics: Mapping[str, Any], run: str, data: str) -> str:
    return f"    snn2chip akida run {run}/model.net --json {run}/akida.json{data}\n" if "akida" in metrics else ""


def _chosen(metrics: dict[str, Any]) -> str:
    """The row of the images that choices were made by, and how weights are kept, where there is something to say."""
    rows = ""
    if "validation_accuracy" in metrics:
        rows += (
            f"| validation | {100 * metrics['validation_accuracy']:.2f} % of {metrics['validation_samples']:,} images "
            f"set aside from the training set, which all choices were made by |\n"
        )
    exactly = (
        "integers, kept in float16, which holds each exactly"
        if "start" in metrics
        else "rounded to float16, and measured so"
    )
    return rows + (f"| weights | {exactly} |\n" if metrics.get("weights") else "")


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
    own: recipes.Recipe,
    recipe: recipes.Recipe,
    metrics: dict[str, Any],
    stages: Stages | None,
    run: str,
    data: str,
) -> str:
    """The commands that trained a network."""
    if stages is None:
        return _train_command(own.name, metrics, run, data)
    rows = stages.rows
    steps, last = (rows, rows[-1]) if stages.origin is None else (rows[:-1], rows[-1])
    options = []
    if len(steps) > 1:
        options.append(f"--timesteps {last['timesteps']} --step {abs(steps[0]['timesteps'] - steps[1]['timesteps'])}")
    if stages.origin is not None:
        options.append(f"--quantize --weight-bits {last['weight_bits']}")
    if len(steps) > 1:
        options.append(f"--epochs {rows[1]['epochs']}")
    options.append(f"--final-epochs {last['epochs']} --lr {recipe.train.lr:g}")
    options += [f"--set '{setting}'" for setting in _settings(recipe)]
    if metrics.get("teacher"):
        options.append(f"--teacher runs/{metrics['teacher']}/model.pt")
    start = f"runs/{stages.start}"
    before = "" if stages.origin is None else _train_command(stages.start, metrics["start"], start, data) + "\n    "
    return f"{before}snn2chip retrain {start}/model.pt {' '.join(options)}{data}"


def _train_command(name: str, metrics: Mapping[str, Any], run: str, data: str) -> str:
    options = [f" --{key} runs/{metrics[key]}/model.pt" for key in ("init", "teacher") if metrics.get(key)]
    return f"snn2chip train {name} --out {run}{data}{''.join(options)}"


def _stages_section(stages: Stages | None) -> str:
    """The table of a retraining: what every stage gives and costs."""
    if stages is None:
        return ""
    whole = stages.origin is not None
    rows = "\n".join(
        f"| {row['timesteps']} | "
        + (
            f"{'float32' if row.get('weight_bits') is None else '{} bits'.format(row['weight_bits'])} | "
            if whole
            else ""
        )
        + f"{100 * row['accuracy']:.2f} % | {row['spikes']:,.0f} | {row['rate']:.4f} | "
        f"{row['accumulates']:,.0f} | {row['multiply_accumulates']:,.0f} | {row['epochs']} |"
        for row in stages.rows
    )
    ann = stages.rows[0]["ann_multiply_accumulates"]
    return f"""
Iterative retraining from {stages.start} (the first row){"" if whole else ", float32"}, means per sample:

| T |{" weights |" if whole else ""} accuracy | spikes | spikes a neuron and step | accumulates | \
multiply-accumulates | epochs |
| ---: |{" --- |" if whole else ""} ---: | ---: | ---: | ---: | ---: | ---: |
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
