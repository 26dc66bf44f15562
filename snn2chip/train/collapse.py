"""One normalization in the place of BNTT's one a step: what folds into static weights, for netx as it is.

Per channel a BNTT layer computes ``y[t] = g[t] (x - mu[t])``, ``g[t] = gamma[t] / sqrt(var[t] + eps)``, t = 1..T
(Kim and Panda 2021). A tdBN layer (Zheng et al. 2021) is one affine map for all steps, ``y = a (x - m) + beta``. With
T = 1, or tables that are the same at every step, one is the other; else something is lost, and how much depends on
the network. So two collapses are tried, and measured: on images, against the network with BNTT itself.

    least squares   a = mean(g var) / V, beta = 0, ``m = mean mu``, ``V = mean(var + mu^2) - m^2``, means over t:
                    least sum_t E (a x + b - y[t])^2 for x with mean mu[t], variance var[t]
    paired          a = cov(x, y) / var(x), beta = mean y, m = mean x: the same for x as measured in the collapsed
                    network, y[t] as measured in the network with BNTT on the same image; layer after layer, each behind
                    layers that are collapsed already, whose errors are made good as far as one affine map can
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from snn2chip import recipe as recipes
from snn2chip.errors import InputError
from snn2chip.nn import BNTT, LIF, PoissonInput, SpikingNetwork, TDBatchNorm, model_file
from snn2chip.nn.model_file import Model
from snn2chip.nn.neuron import listening
from snn2chip.train.static_norm import Moments, Static, least_squares, tables_of

BATCH_STEPS = 128  # samples times steps that are computed at once
_SILENT = 1e-6  # a channel with less of its trained variance than this gives no slope to measure

Constants = dict[str, dict[str, Tensor]]  # of every collapsed layer: weight, bias, running_mean, running_var


@dataclass(frozen=True)
class Trial:
    """One collapse and its error against the network with BNTT, on the same input.

    `spikes_differ` of `spikes` places (layer, sample, step, neuron) hold a spike in one network and none in the
    other, `layers` is that share a layer of neurons; `decisions_differ` of `decisions` samples are classified
    differently.
    """

    method: str
    spikes_differ: int
    spikes: int
    decisions_differ: int
    decisions: int
    layers: dict[str, float]

    @property
    def spike_share(self) -> float:
        """Share of all places whose spike differs; 0 where nothing spikes (a network of ReLUs)."""
        return self.spikes_differ / max(1, self.spikes)

    @property
    def decision_share(self) -> float:
        """Share of the samples whose decision differs."""
        return self.decisions_differ / self.decisions


@dataclass(frozen=True)
class CollapseReport:
    """Everything that was tried and what was chosen.

    `exact`: every step of every layer had the same constants (always so with T = 1): nothing was lost but the
    rounding of the new constants. `chosen` indexes `trials`: fewest spikes that differ, then fewest decisions, then
    the first tried.
    """

    images: int
    timesteps: int
    collapsed: tuple[str, ...]
    exact: bool
    trials: tuple[Trial, ...]
    chosen: int

    @property
    def best(self) -> Trial:
        """The collapse that was taken."""
        return self.trials[self.chosen]

    def as_json(self) -> dict[str, Any]:
        """The report as plain values."""
        values = asdict(self)
        for row, trial in zip(values["trials"], self.trials, strict=True):
            row |= {"spike_share": trial.spike_share, "decision_share": trial.decision_share}
        return {**values, "chosen": self.best.method}


def static_recipe(recipe: recipes.Recipe) -> recipes.Recipe:
    """The same network with tdBN wherever it had BNTT, and "-static" after its name."""
    values = recipe.model_dump(mode="json")
    for layer in values["model"]["layers"]:
        if layer.get("norm") == "bntt":
            layer["norm"] = "tdbn"
    return recipes.parse({**values, "name": f"{recipe.name}-static"}, source=f"recipe '{recipe.name}'")


def _same_but_norms(model: Model, recipe: recipes.Recipe) -> SpikingNetwork:
    """The network of `recipe` with everything of `model` but its BNTTs; in eval mode and the model's precision."""
    old = model.network
    with torch.random.fork_rng(devices=[]):  # the weights it starts with are overwritten: nobody's sequence moves
        new = model_file.build_network(recipe, old.input_shape, len(model.classes), model.max_value)
    new.to(next(old.body.parameters()).dtype)
    new.encoder.load_state_dict(old.encoder.state_dict())
    theirs = dict(old.body.named_children())
    if list(theirs) != [name for name, _ in new.body.named_children()]:
        raise InputError(f"'{model.recipe.name}': the layers are not those of its recipe; train it from its recipe")
    for name, module in new.body.named_children():
        if not isinstance(theirs[name], BNTT):
            module.load_state_dict(theirs[name].state_dict())
    return new.eval()


def _constants(name: str, norm: TDBatchNorm, static: Static, eps: float) -> dict[str, Tensor]:
    """tdBN's constants that compute `static`, in the precision of `norm`.

    Its eps is another: the stored variance makes up for it, gamma for what is left.
    """
    var = (static.var + (eps - norm.eps)).clamp_min(0).to(norm.running_var.dtype)
    gamma = static.gain * (var.double() + norm.eps).sqrt() / (norm.alpha * norm.threshold)
    made = {"weight": gamma, "bias": static.beta, "running_mean": static.mean, "running_var": var}
    made = {key: value.to(var.dtype) for key, value in made.items()}
    for key, value in made.items():
        if not bool(value.isfinite().all()):
            raise InputError(f"layer '{name}': '{key}' of the collapsed layer exceeds {var.dtype}; train again")
    return made


class _Bench:
    """The network with BNTT and the collapsed one, side by side on the same encoded images."""

    def __init__(
        self, model: Model, static: SpikingNetwork, images: Tensor, progress: Callable[[int, int], None] | None
    ) -> None:
        self.static, self.images = static, images
        self.exact = copy.deepcopy(model.network.body).eval()
        self.tables = {
            name: tables_of(name, module) for name, module in self.exact.named_children() if isinstance(module, BNTT)
        }
        self.batch = max(1, BATCH_STEPS // static.timesteps)
        self.progress, self.done = progress, 0
        self.total = (2 + len(self.tables)) * -(-len(images) // self.batch)

    def tick(self) -> None:
        self.done += 1
        if self.progress is not None:
            self.progress(self.done, self.total)

    def inputs(self) -> Iterator[Tensor]:
        """Encoded batches (T, N, C, H, W); the same ones every time."""
        encoder = self.static.encoder
        if isinstance(encoder, PoissonInput):
            encoder.reseed(0)
        dtype = next(self.static.body.parameters()).dtype
        for start in range(0, len(self.images), self.batch):
            encoded: Tensor = encoder(self.images[start : start + self.batch])
            yield encoded.to(dtype)

    def norm(self, name: str) -> TDBatchNorm:
        module = self.static.body.get_submodule(name)
        assert isinstance(module, TDBatchNorm)
        return module

    def put(self, constants: Constants) -> None:
        for name, values in constants.items():
            self.norm(name).load_state_dict(values)

    def least_squares(self) -> Constants:
        """The collapse that needs the tables alone."""
        return {
            name: _constants(name, self.norm(name), least_squares(tables), tables.eps)
            for name, tables in self.tables.items()
        }

    def paired(self) -> Constants:
        """A collapse layer after layer, each fitted behind those before to what the network with BNTT has there."""
        made: Constants = {}
        ours, theirs = _Stream(self.static.body, self.inputs()), _Stream(self.exact, self.inputs())
        for name, tables in self.tables.items():
            bntt, found = self.exact.get_submodule(name), Moments(tables.pooled_mean)
            for x, other in zip(ours.before(name), theirs.before(name), strict=True):
                found.add(x, bntt(other))
                self.tick()
            fitted = found.fit(least_squares(tables).gain, _SILENT * (tables.pooled_var + tables.eps))
            made[name] = _constants(name, self.norm(name), fitted, tables.eps)
            self.put({name: made[name]})
        return made

    def compare(self, tried: dict[str, Constants]) -> tuple[Trial, ...]:
        """Every collapse against BNTT."""
        names = [name for name, module in self.exact.named_modules() if isinstance(module, LIF)]
        places = dict.fromkeys(names, 0)
        differ = [dict.fromkeys(names, 0) for _ in tried]
        decided = [0] * len(tried)
        for encoded in self.inputs():
            wanted, scores = _spikes(self.exact, encoded)
            decision = self.static.readout(scores).argmax(1)
            for name, spikes in wanted.items():
                places[name] += spikes.numel()
            for index, constants in enumerate(tried.values()):
                self.put(constants)
                found, scores = _spikes(self.static.body, encoded)
                decided[index] += int((self.static.readout(scores).argmax(1) != decision).sum())
                for name, spikes in found.items():
                    differ[index][name] += int((spikes != wanted[name]).sum())
                self.tick()
        return tuple(
            Trial(method, sum(counts.values()), sum(places.values()), wrong, len(self.images),
                  {name: counts[name] / places[name] for name in names})
            for method, counts, wrong in zip(tried, differ, decided, strict=True)
        )  # fmt: skip


class _Stream:
    """A network run layer after layer over all batches: spikes are kept between two layers, a byte each."""

    def __init__(self, body: nn.Module, inputs: Iterator[Tensor]) -> None:
        self.modules = dict(body.named_children())
        self.at, self.kept = 0, list(inputs)
        self.dtype = self.kept[0].dtype

    def run(self, x: Tensor, start: int, stop: int) -> Tensor:
        x = x.to(self.dtype)
        for module in list(self.modules.values())[start:stop]:
            x = module(x)
        return x

    def before(self, name: str) -> Iterator[Tensor]:
        """What reaches the layer `name`, batch after batch; layers are asked for in their order."""
        target = list(self.modules).index(name)
        lifs = [k + 1 for k, module in enumerate(self.modules.values()) if isinstance(module, LIF) and k < target]
        if lifs and lifs[-1] > self.at:
            for k, x in enumerate(self.kept):
                self.kept[k] = self.run(x, self.at, lifs[-1]).bool()
            self.at = lifs[-1]
        for x in self.kept:
            yield self.run(x, self.at, target)


def _spikes(body: nn.Module, encoded: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Spikes of every layer of neurons, and what the readout gets."""
    spikes: dict[str, Tensor] = {}

    def keep(name: str, output: Tensor) -> None:
        spikes[name] = output.bool()

    with listening(body, keep):
        return spikes, body(encoded)


def _check_images(model: Model, images: Tensor) -> None:
    shape = model.network.input_shape
    if images.ndim != 4 or tuple(images.shape[1:]) != shape or not len(images):
        raise InputError(
            f"images of shape {tuple(images.shape)}: '{model.recipe.name}' needs (N, {', '.join(map(str, shape))}) "
            f"with N at least 1; give images of its own data set"
        )
    low, high = float(images.min()), float(images.max())
    if not (low >= 0 and high <= model.max_value):  # NaN too
        raise InputError(f"pixels {low:g}..{high:g} exceed the 0..{model.max_value} the network was trained on")


@torch.no_grad()
def collapse(
    model: Model, images: Tensor, *, progress: Callable[[int, int], None] | None = None
) -> tuple[Model, CollapseReport]:
    """Give `model` a tdBN in the place of every BNTT: the collapse that changes the fewest spikes on `images`.

    Weights, neurons and the rest stay as they are; `model` itself is not changed. The same images give the same
    result: nothing is drawn at random, and Poisson input starts from one seed.

    Args:
        images: (N, C, H, W), pixels 0..max_value: training images, for the choice is made on them.
        progress: called with (done, of).

    Returns:
        the collapsed model: recipe with tdBN, named "...-static", of whose `metrics` none are the old ones
        ("collapsed_from" keeps those); and what was tried, with its errors.

    Raises:
        InputError: no BNTT in it, constants that are no numbers, images that do not fit.
    """
    name = model.recipe.name
    collapsed = tuple(key for key, module in model.network.body.named_children() if isinstance(module, BNTT))
    if not collapsed:
        raise InputError(
            f"'{name}': nothing to collapse: it has no BNTT (norm = 'bntt'); fold-and-export takes it as it is"
        )
    _check_images(model, images)
    recipe = static_recipe(model.recipe)
    static = _same_but_norms(model, recipe)
    bench = _Bench(model, static, images, progress)

    tried = {"least squares": bench.least_squares(), "paired": bench.paired()}
    trials = bench.compare(tried)
    chosen = min(range(len(trials)), key=lambda k: (trials[k].spikes_differ, trials[k].decisions_differ, k))
    bench.put(tried[trials[chosen].method])
    if isinstance(static.encoder, PoissonInput):
        static.encoder.reseed(recipe.train.seed)  # as it was built

    exact = all(tables.constant for tables in bench.tables.values())
    report = CollapseReport(len(images), static.timesteps, collapsed, exact, trials, chosen)
    metrics = {
        "timesteps": static.timesteps,
        "collapsed_from": {"name": name, "metrics": model.metrics},
        "collapse": {
            "method": report.best.method,
            "images": len(images),
            "spike_share": report.best.spike_share,
            "decision_share": report.best.decision_share,
        },
    }
    return Model(static, recipe, model.max_value, model.classes, metrics), report
