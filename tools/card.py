"""The card of a network of the zoo: card.md.jinja filled with what its run's files say, then its cost and cores."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from snn2chip import chip as chips
from snn2chip import recipe as recipes
from snn2chip.fit import demand
from snn2chip.fit import table as fits
from snn2chip.ir import Chain
from snn2chip.nn import model_file
from snn2chip.report import columns
from snn2chip.report import cost as costs
from snn2chip.report import fit as cores

COSTS, CORES = "\nWhat a sample costs", "\nOn its cores"


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


def write(
    own: recipes.Recipe,
    model: model_file.Model,
    metrics: dict[str, Any],
    exported: dict[str, Any],
    simulated: dict[str, Any],
    data_option: str,
    stages: Stages | None,
) -> str:
    """The card of a network that was trained with the recipe `own`, without its cost and cores.

    Raises:
        KeyError, jinja2.UndefinedError: a file of the run lacks what the card says.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "percent": lambda share: f"{100 * share:.2f} %",
        "number": lambda value: f"{value:,.0f}",
        "minutes": lambda about: f"{about['training_seconds'] / 60:.0f} minutes on {about['hardware']}",
        "compared": compared,
        "calibration": _calibration,
    }
    run, data = f"runs/{own.name}" if stages is None else stages.folder, f" {data_option}" if data_option else ""
    optional: dict[str, Any] = dict.fromkeys(("akida", "start", "static", "weights"))
    return environment.get_template("card.md.jinja").render(
        name=own.name,
        description=own.description + _in_bits(model.recipe) if "start" in metrics else model.recipe.description,
        metrics=optional | metrics,
        tested=tested(model.recipe, metrics),
        step=_step(model.recipe),
        parameters=sum(value.numel() for value in model.network.parameters()),
        spikes=sum(simulated["spikes"].values()) / simulated["samples"],
        train=model.recipe.train,
        training=_training(own, model.recipe, metrics, stages, run, data),
        run=run,
        data=data,
        export_options=_export_options(metrics),
        layers=layer_rows(exported["quantize"]["layers"], metrics),
        stages=stages,
        samples=sample_word(model.recipe),
    )


def placed(chain: Chain) -> fits.Fit | None:
    """A network on its cores, those of Loihi 2 if its chip has none; None where a layer is on none."""
    found = _fit_of(chain)
    return found if all(each.placed is not None for each in found.layers) else None


def _fit_of(chain: Chain) -> fits.Fit:
    return fits.fit(demand.of_chain(chain), chips.with_cores(chips.load(chain.made["chip"])))


def cost_option(chip: str) -> str:
    """What `snn2chip simulate` is given for the cost of a network that was made for `chip`."""
    counted = chips.with_cores(chips.load(chip)).name
    return "--cost" if counted == chip else f"--cost --chip {counted}"


def with_chip(card: str, chain: Chain, cost: Mapping[str, Any] | None, note: str = "") -> str:
    """A card that ends with what a sample costs, if that was counted, and the table of cores, those that were there
    replaced; its commands count the cost then, and where nothing fits the card says so and exports all the same."""
    found = _fit_of(chain)
    verdict = cores.verdict(found)
    card = card.split(CORES)[0].split(COSTS)[0].replace(" --no-fit", "")
    option = "" if cost is None else f" {cost_option(chain.made['chip'])}"
    card = re.sub(r"(snn2chip simulate \S+)(?: --cost)?(?: --chip \S+)?", rf"\1{option}", card, count=1)
    if not found.fits:
        card = re.sub(r"(snn2chip fold-and-export \S+)", r"\1 --no-fit", card)
        verdict = f"**{verdict[0].upper()}{verdict[1:]}.**"
    lines = []
    if cost is not None:
        anew = ", exported anew at other scales than those above" if cost.get("exported_anew") else ""
        lines += [
            f"{COSTS} (`snn2chip simulate --cost`, docs/cost.md; counted of {cost['samples']:,} test samples{anew}):",
            "",
            *(f"- {line}" for line in costs.lines(cost)),
        ]
    heads, *rows = (f"| {' | '.join(row)} |" for row in (columns.FIT.columns, *cores.rows(found)))
    lines += [
        f"{CORES} (`snn2chip fit`, docs/fit.md; of a core, the fullest{note}):",
        "",
        verdict,
        *(f"- {problem}" for problem in found.problems),
        "",
        heads,
        f"| --- {'| ---: ' * (len(columns.FIT.columns) - 2)}| --- |",
        *rows,
    ]
    return card + "\n".join(lines) + "\n"


def layer_rows(layers: Sequence[Mapping[str, Any]], metrics: Mapping[str, Any]) -> list[str]:
    """Of the table of layers; of one trained in integers with the bits that each was given."""
    trained = metrics.get("quantized", {})
    return [
        f"| {layer['name']} | {layer['fan_in']:,} | {layer['neurons']:,} | {layer['synapses']:,} | "
        f"{layer['threshold']:,} | ±{layer['weight_max']} | "
        + (f"{trained[layer['name']]['weight_bits']} | " if trained else "")
        + f"{'proved' if layer['proved'] else 'seen only'} |"
        for layer in layers
    ]


def _in_bits(recipe: recipes.Recipe) -> str:
    """A sentence: the bits that a network's weights were trained in."""
    table = recipe.train.quantize
    if table is None:
        return ""
    others = "".join(f", {bits} in {name}" for name, bits in table.layers.items())
    return f" Trained on in integers, weights of {table.weight_bits} bits{others}."


def _export_options(metrics: Mapping[str, Any]) -> str:
    """Of `fold-and-export`, what is not its default."""
    bits, chip = metrics["weight_bits"], chips.load(metrics["chip"])
    return ("" if chip.name == "loihi2" else f" --chip {chip.name}") + (
        "" if bits == chip.weight_bits else f" --weight-bits {bits}"
    )


def sample_word(recipe: recipes.Recipe) -> str:
    """What a sample of the network's data set is called, many of them."""
    return "images" if recipe.binning is None else "recordings"


def tested(recipe: recipes.Recipe, metrics: dict[str, Any]) -> str:
    """On what the figures were taken: data set, how many samples, and how that differs from the published set."""
    text = f"{metrics['dataset']}, all {metrics['samples']:,} test {sample_word(recipe)}"
    return f"{text} at hand, {part(metrics)}" if part(metrics) else text


def part(metrics: dict[str, Any]) -> str:
    """As "100 of the 10,000 published recordings", or nothing where the set is whole."""
    source = str(metrics.get("source", ""))
    return source if " of the " in source else ""


def _step(recipe: recipes.Recipe) -> str:
    """How long a step is, of recordings binned by time or number."""
    binning = recipe.binning
    if binning is None:
        return ""
    return f" of {binning.count:,} events" if binning.dt_us is None else f" of {binning.dt_us / 1000:g} ms"


def compared(metrics: Mapping[str, Any]) -> str:
    """What was compared in Lava."""
    return (
        f"{metrics['lava_samples']} samples, {metrics['lava_values']:,} spikes and voltages, "
        f"{metrics['lava_mismatches']} mismatches"
    )


def _calibration(metrics: dict[str, Any]) -> str:
    images = re.search(r"(\d+) images", metrics["calibration"])
    return f" --calibration {images[1]}" if images and images[1] != "64" else ""


def _training(
    own: recipes.Recipe,
    recipe: recipes.Recipe,
    metrics: dict[str, Any],
    stages: Stages | None,
    run: str,
    data: str,
) -> list[str]:
    """The commands that trained a network."""
    if stages is None:
        return [_train_command(own.name, metrics, run, data)]
    start, last = f"runs/{stages.start}", stages.rows[-1]
    steps = stages.rows if stages.origin is None else stages.rows[:-1]
    options = []
    if len(steps) > 1:
        options.append(f"--timesteps {last['timesteps']} --step {abs(steps[0]['timesteps'] - steps[1]['timesteps'])}")
    if stages.origin is not None:
        options.append(f"--quantize --weight-bits {last['weight_bits']}")
    if len(steps) > 1:
        options.append(f"--epochs {stages.rows[1]['epochs']}")
    options.append(f"--final-epochs {last['epochs']} --lr {recipe.train.lr:g}")
    options += [f"--set '{setting}'" for setting in settings(recipe)]
    if metrics.get("teacher"):
        options.append(f"--teacher runs/{metrics['teacher']}/model.pt")
    before = [] if stages.origin is None else [_train_command(stages.start, metrics["start"], start, data)]
    return [*before, f"snn2chip retrain {start}/model.pt {' '.join(options)}{data}"]


def _train_command(name: str, metrics: Mapping[str, Any], run: str, data: str) -> str:
    options = [f" --{key} runs/{metrics[key]}/model.pt" for key in ("init", "teacher") if metrics.get(key)]
    return f"snn2chip train {name} --out {run}{data}{''.join(options)}"


def settings(recipe: recipes.Recipe) -> list[str]:
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
