"""Iterative initialization and retraining (IIR): other time steps stage by stage, each network starting from the last.

Chowdhury, Rathi and Roy 2021, "One timestep is all you need": a network trained at T goes on at T-1 with the weights,
leaks and thresholds that it has, is trained briefly, and so on down to a single step. The same way leads up: one step
is trained in the time of a network of ReLUs, and more steps, which cost more, start from it. What a stage changes in
the recipe, and what it takes over, is in `stage_recipe` and in `snn2chip.train.start_from_model.start_from`.

    OUT/iir.json    where the run started, and what was measured for every T
    OUT/T<t>/       one stage: model.pt, metrics.jsonl, checkpoint.pt as `snn2chip train` writes them
    OUT/T<t>-<b>bit/  the last one with --quantize, at weights of b bits (see `snn2chip.train.quantized`)
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from snn2chip.data import ImageSet
from snn2chip.errors import InputError
from snn2chip.files import exclusive, make_way, read, refuse_results, sha256, write_json
from snn2chip.nn import LIF, model_file
from snn2chip.recipe import Recipe, override, parse
from snn2chip.train.cost import cost
from snn2chip.train.loop import RESULTS, Trainer
from snn2chip.train.quantized import FLOAT, deployed

FORMAT = "snn2chip-iir"
# what the command's own options say; --set for them would say it twice
_OWN = {
    "name": "the stages are named by it",
    "model.timesteps": "use --timesteps",
    "train.epochs": "use --epochs, and --final-epochs",
    "train.lr": "use --lr",
    "train.quantize": "use --quantize",
    "train.quantize.weight_bits": "use --weight-bits",
}


def steps_of(start: int, timesteps: int, step: int | None = None) -> list[int]:
    """The T of every stage from `start` down or up to exactly `timesteps`: by `step`, else down by 1, up twofold.

    Raises:
        InputError: timesteps is less than 1 or is `start`, or step is not at least 1.
    """
    if step is not None and step < 1:
        raise InputError(f"--step {step} is not at least 1")
    if timesteps < 1 or timesteps == start:
        raise InputError(f"--timesteps {timesteps}: the model has T = {start}; choose another, of at least 1")
    if timesteps < start:
        return [*range(start - (step or 1), timesteps, -(step or 1)), timesteps]
    way = [start]
    while way[-1] < timesteps:
        way.append(min(timesteps, way[-1] + (step or way[-1])))
    return way[1:]


def stage_recipe(base: Recipe, timesteps: int, epochs: int, lr: float, settings: Sequence[str] = ()) -> Recipe:
    """The recipe of one stage: `base` at T = `timesteps`, with leak and threshold to be learnt.

    A tau of 1 (no leak at all) stays as it is. The warm-up is at most a tenth of the stage. `settings` are
    ``key=value`` as in --set and come last.

    Raises:
        RecipeError: a wrong key or value.
    """
    values = base.model_dump(mode="json")
    values["name"] = f"{base.name}-t{timesteps}"
    values["description"] = f"{base.name}, retrained at T = {timesteps}."
    values["model"]["timesteps"] = timesteps
    neuron, train = values["model"]["neuron"], values["train"]
    neuron["trainable_tau"] = base.model.neuron.tau < 1
    neuron["trainable_threshold"] = True
    train["epochs"], train["lr"] = epochs, lr
    train["warmup_epochs"] = min(base.train.warmup_epochs, epochs / 10)
    return _changed(values, settings, f"stage T = {timesteps}")


def quantize_recipe(
    base: Recipe, timesteps: int, bits: int, epochs: int, lr: float, settings: Sequence[str] = ()
) -> Recipe:
    """The recipe of the stage that quantizes: `base` at T = `timesteps` with [train.quantize], else as `stage_recipe`,
    but that leak and threshold are learnt where `base` does so, no average of the weights is kept, and the loss is that
    of the readout.

    Raises:
        RecipeError: a wrong key or value.
    """
    values = stage_recipe(base, timesteps, epochs, lr).model_dump(mode="json")
    values["name"] = f"{base.name}-t{timesteps}-{bits}bit"
    values["description"] = f"{base.name}, retrained at T = {timesteps} in integers, weights of {bits} bits."
    values["model"]["neuron"] = base.model.neuron.model_dump(mode="json")
    values["train"] |= {"quantize": {"weight_bits": bits}, "average": 0.0, "loss": "mean"}
    return _changed(values, settings, f"stage of {bits} bits")


def _changed(values: dict[str, Any], settings: Sequence[str], source: str) -> Recipe:
    for setting in settings:
        key = setting.partition("=")[0].strip()
        if key in _OWN:
            raise InputError(f"--set {key}: not here; {_OWN[key]}")
        override(values, setting)
    return parse(values, source=source)


@dataclass(frozen=True)
class Stage:
    """One retraining: at `timesteps`, in `folder`, from the file `source`; weights of `bits`, if it quantizes."""

    timesteps: int
    recipe: Recipe
    folder: Path
    source: Path
    finished: bool
    bits: int | None = None

    @property
    def title(self) -> str:
        """For people."""
        return f"T = {self.timesteps}" + ("" if self.bits is None else f", {self.bits} bits")

    @property
    def model(self) -> Path:
        """What it leaves."""
        return self.folder / "model.pt"

    @property
    def started(self) -> bool:
        """Whether there is something to go on from."""
        return (self.folder / "checkpoint.pt").exists()


def _differences(kept: Any, asked: Any, where: str = "") -> list[str]:
    """Fields in which two recipes differ, as ``train.epochs 2 there, 3 asked for``."""
    if isinstance(kept, dict) and isinstance(asked, dict):
        keys = [*kept, *(key for key in asked if key not in kept)]
        return [
            line for key in keys for line in _differences(kept.get(key), asked.get(key), f"{where}.{key}".lstrip("."))
        ]
    return [] if kept == asked else [f"{where} is {kept!r} there, {asked!r} was asked for"]


class Iir:
    """The stages from a trained model down or up to `timesteps` steps, in the folder `out`.

    `stages` are to be worked off in order: `trainer` gives the run of one, or None when it is finished. A stage that
    was broken off goes on from its checkpoint. Nothing but the folder says where the run stands.

    Args:
        model: the trained network's model.pt.
        out: the folder of the run.
        timesteps, step: T of the last stage, and by how much T changes from stage to stage (see `steps_of`); None
            stays at the model's.
        bits: quantize in one more stage at the end, to weights of so many bits.
        epochs: passes over the training set of every stage; default a tenth of the recipe's, at least 1.
        final_epochs: those of the last stage, if others.
        lr: largest learning rate of every stage; default half of the recipe's.
        settings: further changes, ``key=value``.
        teacher: a model.pt whose answers every stage learns from too, as `Trainer` does.
        resume: go on with what is in `out`, be it nothing.
        overwrite: delete the stages in `out` first, which `hold` does.

    Raises:
        InputError: a number out of range; `out` holds stages and neither was said; with `resume`, a stage of
            another recipe, another start or another sequence of T.
    """

    def __init__(
        self,
        model: Path,
        out: Path,
        *,
        timesteps: int | None,
        step: int | None = None,
        bits: int | None = None,
        epochs: int | None = None,
        final_epochs: int | None = None,
        lr: float | None = None,
        settings: Sequence[str] = (),
        teacher: Path | None = None,
        resume: bool = False,
        overwrite: bool = False,
    ) -> None:
        self.teacher = teacher
        start = model_file.load(model)
        self._resume, self._overwrite = resume, overwrite
        self.source, self.out, self.start = model, out, start
        self.start_hash = sha256(model)
        base = start.recipe
        for option, value in (("--epochs", epochs), ("--final-epochs", final_epochs)):
            if value is not None and value < 1:
                raise InputError(f"{option} {value} is not at least 1")
        if lr is not None and not lr > 0:
            raise InputError(f"--lr {lr:g} is not positive")
        rate = base.train.lr / 2 if lr is None else lr
        usual = max(1, round(base.train.epochs / 10)) if epochs is None else epochs
        self.rows: list[dict[str, Any]] = []  # what was measured so far, the start first
        self.known: dict[str, dict[str, Any]] = {}  # what an earlier run measured, by model.pt's SHA-256
        self.stages: list[Stage] = []
        source = model
        if base.model.integers:
            raise InputError(f"'{model}' is in integers already; go on from the '{FLOAT}' that is written beside it")
        if timesteps is None and bits is None:
            raise InputError("nothing to retrain for: give --timesteps, --quantize or both")
        now = start.network.timesteps
        steps = [] if timesteps is None else steps_of(now, timesteps, step)
        # --set of [train.quantize] is for the stage that quantizes alone
        own = [setting for setting in settings if not setting.strip().startswith("train.quantize.")]
        if bits is None and len(own) < len(settings):
            raise InputError("--set train.quantize: there is no such stage; give --quantize")
        last = steps[-1] if bits is None else None
        for t in steps:
            passes = usual if t != last or final_epochs is None else final_epochs
            self._add(Stage(t, stage_recipe(base, t, passes, rate, own), out / f"T{t}", source, False))
            source = self.stages[-1].model
        if bits is not None:
            base = self.stages[-1].recipe.model_copy(update={"name": base.name}) if self.stages else base
            t = steps[-1] if steps else now
            passes = usual if final_epochs is None else final_epochs
            recipe = quantize_recipe(base, t, bits, passes, rate, settings)
            self._add(Stage(t, recipe, out / f"T{t}-{bits}bit", source, False, bits))
        if resume:
            self._check()
        else:
            refuse_results(out, self._results(), overwrite, "--resume")
            if model.resolve() in [path.resolve() for path in self._results()]:
                raise InputError(f"--overwrite would delete '{model}', which all starts from; choose another --out")

    def _add(self, stage: Stage) -> None:
        self.stages.append(replace(stage, finished=self._resume and stage.model.exists()))

    def _results(self) -> list[Path]:
        """What another run would destroy."""
        return [self.out / "iir.json", *(folder / name for folder in self._there() for name in RESULTS)]

    def _there(self) -> list[Path]:
        """Folders of `out` that hold a stage, by falling T, the quantized after the others."""
        found: dict[tuple[int, int], Path] = {}
        for path in self.out.glob("T*"):
            name = re.fullmatch(r"T(\d+)(?:-(\d)bit)?", path.name)
            if name is not None and any((path / file).exists() for file in ("model.pt", "checkpoint.pt")):
                found[-int(name[1]), -int(name[2] or 9)] = path
        return [found[place] for place in sorted(found)]

    def _check(self) -> None:
        there = self._there()
        kept = self._kept()
        if there and kept and kept["start"]["sha256"] != self.start_hash:
            raise InputError(
                f"'{self.out}' started from another model.pt ('{kept['start']['model']}') than '{self.source}'; "
                f"give that one, or choose another --out"
            )
        asked = {stage.folder: stage for stage in self.stages}
        for path in there:
            if path not in asked:
                raise InputError(
                    f"'{path}' is no stage of this run, whose T are "
                    f"{', '.join(stage.folder.name[1:] for stage in self.stages)}; give the --timesteps and --step "
                    f"that it was made with, or choose another --out"
                )
        waiting: Stage | None = None
        for stage in self.stages:
            if stage.folder not in there:
                waiting = waiting or stage
                continue
            if waiting is not None:
                raise InputError(
                    f"'{stage.folder}' is there, but the stage before it, '{waiting.folder}', is not finished; "
                    f"remove '{stage.folder}', or choose another --out"
                )
            file = stage.model if stage.finished else stage.folder / "checkpoint.pt"
            recipe = model_file.recipe_of(model_file.load_tensors(file), file)
            wanted = deployed(stage.recipe) if stage.finished and stage.bits else stage.recipe
            if lines := _differences(recipe.model_dump(mode="json"), wanted.model_dump(mode="json")):
                raise InputError(
                    f"stage {stage.title}: '{file}' was made with other options: {'; '.join(lines)}; resume "
                    f"with the same ones, or choose another --out"
                )
            if not stage.finished:
                waiting = stage

    def _kept(self) -> dict[str, Any] | None:
        """iir.json as it is, if it is one."""
        path = self.out / "iir.json"
        try:
            content = read(path, "JSON")
        except FileNotFoundError:
            return None
        except InputError as error:
            raise InputError(f"{error}; remove it, it is made again") from None
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise InputError(f"'{path}' was not made by snn2chip retrain; choose another --out")
        start, rows = content.get("start"), content.get("rows")
        whole = isinstance(start, dict) and all(isinstance(start.get(name), str) for name in ("model", "sha256"))
        if not whole or not isinstance(rows, list) or not all(map(_is_row, rows)):
            raise InputError(f"'{path}' is damaged; remove it, it is made again")
        return content

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Make the folder and keep it for this process while the block runs.

        Raises:
            InputError: it cannot be made, or another process has it.
        """
        with exclusive(self.out):
            if not self._resume:
                make_way(self.out, self._results(), self._overwrite, "--resume")
            kept = self._kept()
            if kept is None:
                self._write()
            else:
                self.known = {row["sha256"]: row for row in kept["rows"]}
            yield

    def _write(self) -> None:
        write_json(
            self.out / "iir.json",
            {
                "format": FORMAT,
                "version": 1,
                "start": {
                    "model": str(self.source),
                    "recipe": self.start.recipe.name,
                    "timesteps": self.start.network.timesteps,
                    "sha256": self.start_hash,
                },
                "rows": self.rows,
            },
        )

    def trainer(
        self, stage: Stage, train: ImageSet, test: ImageSet, *, device: torch.device | None = None, fuse: bool = True
    ) -> Trainer | None:
        """The run of `stage`, which starts from the stage before it; None if it is finished.

        Raises:
            InputError: as `Trainer`.
        """
        if stage.finished:
            return None
        going = stage.started
        return Trainer(
            *(stage.recipe, train, test, stage.folder),
            device=device,
            resume=going,
            overwrite=not going,  # a row without its checkpoint, should there be one
            init=stage.source,
            teacher=self.teacher,
            fuse=fuse,
        )

    def measure(
        self,
        stage: Stage | None,
        test: ImageSet,
        *,
        device: torch.device | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> dict[str, Any]:
        """Measure a finished stage (None: the model that all starts from) on `test`; adds a row to iir.json.

        What an earlier run measured of the very same model.pt on as many images stands.
        """
        path = self.source if stage is None else stage.model
        digest = sha256(path)
        row = self.known.get(digest)
        if row is None or (row["dataset"], row["samples"]) != (test.name, len(test)):
            model = model_file.load(path)
            network = model.network
            neurons = {
                name: {"tau": float(module.tau.detach()), "threshold": float(module.threshold.detach())}
                for name, module in network.body.named_modules()
                if isinstance(module, LIF)
            }
            if device is not None:
                network.to(device)
            row = {
                "model": str(path) if stage is None else path.relative_to(self.out).as_posix(),
                "sha256": digest,
                "dataset": test.name,
                "epochs": model.metrics.get("epochs"),
                "training_seconds": model.metrics.get("training_seconds"),
                "weight_bits": None if stage is None else stage.bits,
                **asdict(cost(network, test, device=device, progress=progress)),
                "constants": neurons,
            }
            row = json.loads(json.dumps(row))  # the same, be it new or from iir.json
        self.rows.append(row)
        self._write()
        return row


COLUMNS = (
    ("T", "timesteps", "{}"),
    ("bits", "weight_bits", "{}"),
    ("test accuracy", "accuracy", "{:.2%}"),
    ("spikes", "spikes", "{:,.0f}"),
    ("spikes/neuron/step", "rate", "{:.4f}"),
    ("accumulates", "accumulates", "{:,.0f}"),
    ("MACs", "multiply_accumulates", "{:,.0f}"),
    ("MACs of the ANN", "ann_multiply_accumulates", "{:,}"),
    ("epochs", "epochs", "{}"),
    ("seconds", "training_seconds", "{}"),
)


def _is_row(row: Any) -> bool:
    """Whether `row` can stand in iir.json: what the table shows of it are numbers, or unknown."""
    if not isinstance(row, dict) or not all(isinstance(row.get(name), str) for name in ("sha256", "dataset", "model")):
        return False
    unknown = ("epochs", "training_seconds", "weight_bits")
    return all(
        (row.get(key) is None and key in unknown)
        or (isinstance(row.get(key), (int, float)) and math.isfinite(row[key]))
        for key in (*(key for _, key, _ in COLUMNS), "samples")
    )


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The rows as lines of text under a heading: means per sample."""
    cells = [[title for title, _, _ in COLUMNS]]
    cells += [["-" if row.get(key) is None else form.format(row[key]) for _, key, form in COLUMNS] for row in rows]
    widths = [max(len(line[column]) for line in cells) for column in range(len(COLUMNS))]
    return ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in cells]
