"""Recipes: every shipped one works, and whatever is wrong in one is named with what was expected."""

from __future__ import annotations

import json
import tomllib
from copy import deepcopy
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from conftest import tiny_recipe
from helpers import usually
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from snn2chip import places, recipe
from snn2chip.data import ImageSet
from snn2chip.errors import InputError, RecipeError
from snn2chip.ir.encode import encoder_of
from snn2chip.ir.interpreter import evaluate
from snn2chip.nn import BNTT, LIF, TDBatchNorm, build, model_file
from snn2chip.passes.capture import capture
from snn2chip.passes.fold import fold
from snn2chip.train.loop import Trainer

# the images that each data set has, without fetching it; a folder's small, as its recipes take any size
SHAPES = {
    "digits": ((1, 8, 8), 10, 16),
    "fashion-mnist": ((1, 28, 28), 10, 255),
    "cifar10": ((3, 32, 32), 10, 255),
    "cifar100": ((3, 32, 32), 100, 255),
    "folder": ((3, 64, 64), 100, 255),
    "nmnist": ((2, 34, 34), 10, 1),
    "letters": ((2, 32, 32), 36, 1),
    "dvs-gesture": ((2, 128, 128), 11, 1),
    "shd": ((1, 1, 140), 20, 1),
}
GOOD: dict[str, Any] = {
    "name": "good",
    "data": {"name": "digits"},
    "model": {
        "timesteps": 2,
        "layers": [
            {"type": "conv", "channels": 4},
            {"type": "avgpool"},
            {"type": "flatten"},
            {"type": "dropout", "p": 0.2},
            {"type": "dense", "features": "classes", "neuron": False},
        ],
    },
    "train": {"epochs": 1},
}


def changed(path: str, value: Any = None, *, gone: bool = False) -> dict[str, Any]:
    """GOOD with one value replaced, added or gone; `path` as in a message: model.layers.0.kernel."""
    values = deepcopy(GOOD)
    *steps, last = path.split(".")
    table: Any = values
    for step in steps:
        table = table[int(step)] if isinstance(table, list) else table.setdefault(step, {})
    if gone:
        del table[last]
    else:
        table[last] = value
    return values


# -------------------------------------------------------------------------------------------------- shipped recipes


def test_recipes_are_shipped() -> None:
    """There are some, with the data sets this test knows."""
    assert len(places.recipe_names()) >= 2
    assert {recipe.load(name).data.name for name in places.recipe_names()} <= set(SHAPES)


@pytest.mark.parametrize("name", places.recipe_names())
def test_every_shipped_recipe_parses_builds_and_folds(name: str) -> None:
    """Found by name and by path, named as its folder, described; its network trains, captures and folds."""
    made = recipe.load(name)
    assert made == recipe.load(places.recipe_file(name)) == recipe.load(places.recipe_file(name).parent)
    assert made.name == name
    assert made.description.endswith(".")
    shape, classes, high = SHAPES[made.data.name]
    if made.data.image_size is not None:
        build(made.model, (shape[0], made.data.image_size, made.data.image_size), classes)
    torch.manual_seed(0)
    model = made.model
    if name.startswith("vgg"):  # tens of steps of many millions of weights: narrower here
        assert build(model, shape, classes).timesteps == model.timesteps
        model = model.model_copy(update={"width": 1 / 16})
    if made.data.name == "dvs-gesture":
        assert build(model, shape, classes).timesteps == model.timesteps == 40
        model = model.model_copy(update={"width": 1 / 8, "timesteps": 6})
    network = build(model, shape, classes, max_value=high)
    for module in network.modules():
        if isinstance(module, (TDBatchNorm, BNTT)):
            module.momentum = 1.0  # statistics of these images: without them hardly a neuron fires below
    steps = () if made.data.events is None else (model.timesteps,)
    images = torch.randint(0, high + 1, (2, *steps, *shape))
    scores = network.train()(images)
    assert scores.shape == (2, classes)
    scores.sum().backward()
    gradients = {key: value.grad for key, value in network.named_parameters()}
    assert all(value is not None and bool(torch.isfinite(value).all()) for value in gradients.values())
    assert recipe.parse(made.model_dump(mode="json")) == made
    if model.neuron.kind == "relu":  # to teach, and to start from
        return
    captured = capture(network.eval())
    folded, _ = fold(captured)
    raw = encoder_of(captured)(images)
    mine, theirs = evaluate(folded, raw), evaluate(captured, raw)
    assert torch.equal(mine.scores.argmax(1), theirs.scores.argmax(1))
    for lif, spikes in theirs.spikes.items():
        assert torch.equal(mine.spikes[lif], spikes), lif
        assert 0.02 < float(spikes.double().mean()) < 0.5, lif


@pytest.mark.parametrize("name", ["vgg9-bntt", "vgg11-bntt", "vgg16-bntt"])
def test_networks_of_the_bntt_family_train(name: str, tmp_path: Path) -> None:
    """At a fraction of their width: BNTT after every layer but the last, and a step that moves every parameter."""
    changes = ["model.width=0.03", "train.batch_size=4", "train.precision=float32"]
    made = recipe.load(name, [*changes, "model.timesteps=3", "train.warmup_epochs=0"])
    shape, classes, high = SHAPES[made.data.name]
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, high + 1, (8, *shape), generator=generator, dtype=torch.uint8)
    names = tuple(str(index) for index in range(classes))
    sets = ImageSet("random", images, torch.arange(8), names, high, "random")
    trainer = Trainer(made, sets, sets, tmp_path, fuse=False)
    layers = [type(module) for module in trainer.network.modules()]
    assert layers.count(BNTT) == layers.count(LIF) == int(name.removeprefix("vgg").removesuffix("-bntt")) - 1
    assert TDBatchNorm not in layers
    before = {key: value.detach().clone() for key, value in trainer.network.named_parameters()}
    next(trainer.run())
    for key, value in trainer.network.named_parameters():
        assert bool(torch.isfinite(value).all()), key
    assert not torch.equal(before["body.dense2.weight"], trainer.network.get_parameter("body.dense2.weight"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"timesteps": 2}, r"'model': neuron\.kind 'relu' knows no time: it needs timesteps = 1 .* not 2 and 'direct'"),
        ({"coding": "poisson"}, r"needs timesteps = 1 and coding = 'direct', not 1 and 'poisson'"),
        ({"readout": "spike_count"}, r"readout 'spike_count' needs neuron = true|no spikes to count"),
    ],
)
def test_relu_networks_have_one_step_and_direct_input(change: dict[str, Any], message: str) -> None:
    """Refused with what was given; as it should be, it builds."""
    values = changed("model.neuron", {"kind": "relu"})
    values["model"]["timesteps"] = 1
    assert "ReLU" in str(build(recipe.parse(values).model, (1, 8, 8), 10))
    values["model"] |= change
    with pytest.raises(RecipeError, match=message):
        recipe.parse(values)
    if "readout" in change:
        values["model"]["layers"][-1]["neuron"] = True
        with pytest.raises(RecipeError, match="gives no spikes to count"):
            recipe.parse(values)


@pytest.mark.parametrize("percentile", [-1.0, 100.5])
def test_a_percentile_is_one(percentile: float) -> None:
    """0 to 100."""
    with pytest.raises(RecipeError, match=r"'train\.balance_percentile'"):
        recipe.parse(changed("train.balance_percentile", percentile))


def test_building_is_reproducible() -> None:
    """The same torch seed gives the same weights."""
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(build(recipe.parse(GOOD).model, (1, 8, 8), 10).state_dict())
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key])


def test_layer_names_and_options_reach_the_network() -> None:
    """conv1, norm1, lif1, pool1, flatten1, dropout1, dense1, with the neuron's constants and the norm's Vth."""
    values = changed("model.neuron", {"tau": 0.5, "threshold": 0.8, "surrogate": "arctan", "width": 2.0})
    values["model"]["neuron"]["trainable_tau"] = True
    values["model"]["layers"][0] |= {"stride": 2, "padding": 0, "bias": True}
    network = build(recipe.parse(values).model, (1, 12, 9), 3, mean=[0.1], std=[0.2])
    assert [name for name, _ in network.body.named_children()] == (
        ["conv1", "norm1", "lif1", "pool1", "flatten1", "dropout1", "dense1"]
    )
    body = network.body
    assert (body.conv1.stride, body.conv1.padding, body.conv1.bias is not None) == ((2, 2), (0, 0), True)  # type: ignore[union-attr]
    lif = body.lif1
    assert (float(lif.tau.detach()), float(lif.threshold)) == pytest.approx((0.5, 0.8))  # type: ignore[arg-type, union-attr]
    assert (lif.surrogate, lif.width, lif.tau_logit is not None) == ("arctan", 2.0, True)  # type: ignore[union-attr]
    assert body.norm1.threshold == 0.8  # type: ignore[union-attr]
    assert body.dense1.in_features == 4 * 2 * 2  # type: ignore[union-attr]
    assert float(network.encoder.mean) == pytest.approx(0.1)  # type: ignore[arg-type, union-attr]
    assert network.timesteps == 2


# ------------------------------------------------------------------------------------------------- what is wrong


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (changed("colour", 1), r"^test: unknown key 'colour'; expected one of name, description, data, model, train"),
        (changed("train.epoch", 1), r"key 'train\.epoch'; did you mean 'epochs'\? expected one of epochs"),
        (changed("model.layers.0.chanels", 1), r"did you mean 'channels'\? expected one of type"),
        (changed("model.layers.1.size", 1), r"unknown key 'model\.layers\.1\.size'; expected one of type, kernel"),
        (changed("model.neuron.leak", 1), r"unknown key 'model\.neuron\.leak'; expected one of kind, tau, threshold"),
        (changed("data.augment.blur", 1), r"unknown key 'data\.augment\.blur'; expected one of crop, border, flip"),
        (changed("name", gone=True), r"'name' is missing"),
        (changed("data", gone=True), r"'data' is missing"),
        (changed("data.name", gone=True), r"'data\.name' is missing"),
        (changed("model.timesteps", gone=True), r"'model\.timesteps' is missing"),
        (changed("model.layers", gone=True), r"'model\.layers' is missing"),
        (changed("model.layers.4.features", gone=True), r"'model\.layers\.4\.features' is missing"),
        (changed("train.epochs", gone=True), r"'train\.epochs' is missing"),
        (changed("model.layers.0.type", gone=True), r"'model\.layers\.0'.*'type'"),
        (changed("model.layers.0.channels", gone=True), r"'model\.layers\.0': a conv needs channels"),
        (changed("name", ""), r"'name': a name is made of letters"),
        (changed("model.timesteps", 0), r"'model\.timesteps': .*greater than or equal to 1 \(given: 0\)"),
        (changed("model.timesteps", 5000), r"'model\.timesteps': .*less than or equal to 1024"),
        (changed("model.timesteps", "four"), r"'model\.timesteps': .*integer.*\(given: 'four'\)"),
        (changed("model.timesteps", 2.5), r"'model\.timesteps': .*integer.*\(given: 2\.5\)"),
        (changed("model.coding", "rank"), r"'model\.coding': .*'direct', 'poisson' or 'events'.*\(given: 'rank'\)"),
        (changed("model.readout", "max"), r"'model\.readout': .*'membrane' or 'spike_count'"),
        (changed("model.neuron.tau", 0.0), r"'model\.neuron\.tau': .*greater than 0"),
        (changed("model.neuron.tau", 1.5), r"'model\.neuron\.tau': .*less than or equal to 1"),
        (changed("model.neuron.tau", float("nan")), r"'model\.neuron\.tau'"),
        (changed("model.neuron.threshold", -1), r"'model\.neuron\.threshold': .*greater than 0"),
        (changed("model.neuron.surrogate", "relu"), r"'model\.neuron\.surrogate': .*'rectangular'"),
        (changed("model.layers", []), r"'model\.layers': .*at least 1 item"),
        (changed("model.layers", 3), r"'model\.layers'"),
        (changed("model.layers.0.type", "pool"), r"'model\.layers\.0': .*'conv', 'conv1d', 'dense'"),
        (changed("model.layers.0.kernel", 0), r"'model\.layers\.0\.kernel': .*greater than or equal to 1"),
        (changed("model.layers.0.channels", -2), r"'model\.layers\.0\.channels'"),
        (changed("model.layers.0.padding", -1), r"'model\.layers\.0\.padding'"),
        (changed("model.layers.0.norm", "bn"), r"'model\.layers\.0\.norm': .*'tdbn', 'bntt' or 'none'"),
        (changed("model.layers.1.kernel", 1), r"'model\.layers\.1\.kernel'"),
        (changed("model.layers.3.p", 1.0), r"'model\.layers\.3\.p': .*less than 1"),
        (changed("model.layers.4.features", "all"), r"'model\.layers\.4\.features"),
        (changed("model.layers.4.features", 10), r"'model': the last layer must be \{type = 'dense', feat"),
        (changed("model.layers.4.neuron", True), r"'model': readout 'membrane' needs neuron = false in the last layer"),
        (changed("model.readout", "spike_count"), r"'model': readout 'spike_count' needs neuron = true"),
        (changed("model.layers.0.neuron", False), r"'model': the network has no neuron"),
        (changed("data.name", 5), r"'data\.name': .*string.*\(given: 5\)"),
        (changed("data.image_size", 1), r"'data\.image_size'"),
        (changed("data.augment", True), r"'data\.augment'"),
        (changed("data.augment.flip", "maybe"), r"'data\.augment\.flip': .*True or 'alternating'.*'maybe'"),
        (changed("train", 3), r"'train'"),
        (changed("train.epochs", 0), r"'train\.epochs'"),
        (changed("train.batch_size", 1), r"'train\.batch_size': .*greater than or equal to 2"),
        (changed("train.optimizer", "adam"), r"'train\.optimizer': .*'adamw', 'sgd' or 'muon' \(given: 'adam'\)"),
        (changed("train.lr", 0), r"'train\.lr': .*greater than 0"),
        (changed("train.lr", "fast"), r"'train\.lr': .*number.*\(given: 'fast'\)"),
        (changed("train.momentum", 1), r"'train\.momentum'"),
        (changed("train.grad_clip", 0), r"'train\.grad_clip'"),
        (changed("train.precision", "float16"), r"'train\.precision': .*'float32' or 'bfloat16'"),
        (changed("train.seed", -1), r"'train\.seed'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(values: dict[str, Any], message: str) -> None:
    """Unknown and missing keys, wrong values and types: where, what was given, what was expected."""
    recipe.parse(GOOD)
    with pytest.raises(RecipeError, match=message):
        recipe.parse(values, source="test")


def test_every_mistake_is_named_at_once() -> None:
    """Three mistakes are three lines."""
    values = changed("train.epochs", 0)
    values["model"]["layers"][0]["kernel"] = "x"
    values["odd"] = 1
    with pytest.raises(RecipeError) as caught:
        recipe.parse(values)
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert all(any(word in line for line in lines) for word in ("epochs", "layers.0.kernel", "odd"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (changed("model.layers.4.features", 0), r"'model\.layers\.4\.features"),
        (changed("model.layers.4.features", -3), r"'model\.layers\.4\.features"),
        (changed("train.lr", float("inf")), r"'train\.lr'"),
        (changed("model.neuron.threshold", float("inf")), r"'model\.neuron\.threshold'"),
        (changed("model.neuron", {"tau": 1.0, "trainable_tau": True}), r"'model\.neuron'.*tau"),
        (changed("train.epochs", "3"), r"'train\.epochs'.*integer"),
        (changed("train.epochs", True), r"'train\.epochs'.*integer"),
        (changed("model.layers.0.bias", "no"), r"'model\.layers\.0\.bias'.*boolean"),
        (changed("model.layers.0.bias", 1), r"'model\.layers\.0\.bias'.*boolean"),
    ],
)
def test_values_that_only_look_right_are_refused(values: dict[str, Any], message: str) -> None:
    """Sizes below one, infinities, and values of another type that would be converted without a word."""
    # the last layer's own check must not hide the one that is meant
    values["model"]["layers"].append({"type": "dense", "features": "classes", "neuron": False})
    with pytest.raises(RecipeError, match=message):
        recipe.parse(values)


CONV = {"type": "conv", "channels": 6}


@pytest.mark.parametrize(
    ("change", "shape", "message"),
    [
        (CONV | {"groups": 4}, (4, 8, 8), r"model\.layers\.0: groups 4 divides neither"),
        (
            {"type": "conv", "channels": 6, "kernel": 11, "padding": 0},
            (1, 8, 8),
            r"model\.layers\.0: kernel 11 does not fit",
        ),
        (
            {"type": "conv", "channels": 6, "dilation": 9, "padding": 1},
            (1, 8, 8),
            r"model\.layers\.0: kernel 3 does not fit",
        ),
        ({"type": "avgpool", "kernel": 9}, (1, 8, 8), r"model\.layers\.0: avgpool kernel 9 exceeds the image 8x8"),
        ({"type": "dense", "features": 4}, (1, 8, 8), r"model\.layers\.0: dense needs features.*'flatten'"),
    ],
)
def test_layers_that_do_not_fit_are_named(change: dict[str, Any], shape: tuple[int, int, int], message: str) -> None:
    """Building names the layer by its place in the recipe, the numbers and the remedy."""
    values = deepcopy(GOOD)
    values["model"]["layers"].insert(0, change)
    with pytest.raises(RecipeError, match=message):
        build(recipe.parse(values).model, shape, 10)


@pytest.mark.parametrize("kind", ["conv", "avgpool", "globalavgpool", "flatten"])
def test_layers_after_flatten_that_need_an_image_are_named(kind: str) -> None:
    """An image layer behind flatten is refused by place."""
    values = deepcopy(GOOD)
    values["model"]["layers"].insert(3, {"type": kind} | ({"channels": 3} if kind == "conv" else {}))
    with pytest.raises(RecipeError, match=rf"model\.layers\.3: {kind} needs an image"):
        build(recipe.parse(values).model, (1, 8, 8), 10)


# -------------------------------------------------------------------------------------------------------- overrides


def test_set_overrides_values_of_every_type(tmp_path: Path) -> None:
    """Numbers, words, quoted strings, booleans, tables; the last of two wins; new tables are made."""
    name = places.recipe_names()[0]
    settings_ = ["train.epochs=3", "train.lr = 1e-2", "train.optimizer=sgd", 'description="a b = c"', "train.epochs=4"]
    settings_ += ["data.augment.flip=false", "model.neuron.tau=0.75", "model.neuron.detach_reset=true"]
    made = recipe.load(name, settings_)
    assert (made.train.epochs, made.train.lr, made.train.optimizer) == (4, 0.01, "sgd")
    assert made.description == "a b = c"
    assert made.data.augment.flip is False
    assert (made.model.neuron.tau, made.model.neuron.detach_reset) == (0.75, True)
    assert recipe.load(name).train.epochs != 4
    path = tmp_path / "mine.toml"
    path.write_text(places.recipe_file(name).read_text(encoding="utf-8"), encoding="utf-8")
    table = recipe.load(path, ["data.augment={crop = 1}"])
    assert (table.data.augment.crop, table.data.augment.flip) == (1, False)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("train.epochs", r"--set 'train\.epochs': expected key=value, e\.g\. --set train\.epochs=3"),
        ("=3", r"--set '=3': expected key=value"),
        ("  = 3", r"expected key=value"),
        ("train.epochs=", r"'train\.epochs': .*integer.*\(given: ''\)"),
        ("train.epochs=many", r"'train\.epochs': .*integer.*\(given: 'many'\)"),
        ("train.epoch=3", r"unknown key 'train\.epoch'; did you mean 'epochs'\? expected one of epochs"),
        ("epochs=3", r"unknown key 'epochs'; did you mean 'train\.epochs'\? expected one of name"),
        ("train.lr.x=3", r"--set 'train\.lr\.x=3': 'lr' is not a table"),
        ("model.layers.0.kernel=5", r"--set 'model\.layers\.0\.kernel=5': 'layers' is not a table"),
        ("train.=3", r"train\."),
        ("train=3", r"'train'"),
    ],
)
def test_bad_overrides_are_named(setting: str, message: str) -> None:
    """What was given and what was expected."""
    with pytest.raises(RecipeError, match=message):
        recipe.load(places.recipe_names()[0], [setting])


# ------------------------------------------------------------------------------------------------------------ files


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"name = ", r"cannot read '.*x\.toml': not valid TOML: "),
        (b"\xff\xfe", r"cannot read '.*x\.toml': not valid TOML: "),
        (b"x = " + b"[" * 20_000 + b"]" * 20_000, r"cannot read '.*x\.toml': not valid TOML: nested too deeply$"),
        (b"a." * 20_000 + b"a = 1", r"cannot read '.*x\.toml': not valid TOML: nested too deeply$"),
        (b"x = " + b"9" * 5000, r"cannot read '.*x\.toml': not valid TOML: .*digits"),
        (b"x = " + b"9" * 50, r"cannot read '.*x\.toml': not valid TOML: an integer of more than 64 bits$"),
        (b"", r"x\.toml: 'name' is missing"),
        (b"name = 1\nname = 2", r"not valid TOML"),
    ],
)
def test_files_that_are_no_recipes(tmp_path: Path, content: bytes, message: str) -> None:
    """Not TOML, not text, empty."""
    path = tmp_path / "x.toml"
    path.write_bytes(content)
    with pytest.raises(RecipeError, match=message) as caught:
        recipe.load(path)
    assert "\n" not in str(caught.value).replace("\nx.toml: ", "")  # a line for every key


NO_NAMES = [
    "",
    ".",
    "..",
    ".hidden",
    "-o",
    "a/b",
    "../../up",
    "/tmp/x",
    "a\\b",
    "$\\foo$",
    "[red]x",
    "a b",
    "é",
    "x\n",
    "x" * 129,
]


@pytest.mark.parametrize("name", NO_NAMES)
def test_a_name_is_a_name(name: str, tmp_path: Path) -> None:
    """It becomes a folder, titles and commands: in a recipe file, with --set, and in a model file that is read."""
    values = tiny_recipe().model_dump(mode="json")
    with pytest.raises(RecipeError, match="'name'"):
        recipe.parse({**values, "name": name})
    with pytest.raises(RecipeError, match="'name'"):
        recipe.load("digits-tdbn", [f"name={json.dumps(name)}"])
    file = tmp_path / "model.pt"
    torch.save({"format": "snn2chip-model", "version": 1, "recipe": {**values, "name": name}}, file)
    with pytest.raises(InputError, match="'name'") as caught:
        model_file.load(file)
    assert "\n" not in str(caught.value)
    assert recipe.parse({**values, "name": "A1_b.c-" + "x" * 121}).name == "A1_b.c-" + "x" * 121


def test_recipes_that_are_not_there(tmp_path: Path) -> None:
    """An unknown name lists the known ones; a missing path is named."""
    with pytest.raises(InputError, match=rf"no recipe 'nothing': shipped recipes are .*{places.recipe_names()[0]}"):
        recipe.load("nothing")
    with pytest.raises(RecipeError, match=r"cannot read '.*gone\.toml': No such file"):
        recipe.load(tmp_path / "gone.toml")
    with pytest.raises(RecipeError, match=r"cannot read '.*recipe\.toml'"):
        recipe.load(tmp_path)


def test_a_file_without_the_suffix_and_a_folder_are_read(tmp_path: Path) -> None:
    """A path is a path whatever its name."""
    text = places.recipe_file(places.recipe_names()[0]).read_text(encoding="utf-8")
    for path in (tmp_path / "mine", tmp_path / "recipe.toml"):
        path.write_text(text, encoding="utf-8")
    assert recipe.load(tmp_path / "mine") == recipe.load(tmp_path) == recipe.load(str(tmp_path / "recipe.toml"))


# ----------------------------------------------------------------------------------------------------------- fields


def tables(model: type[BaseModel], prefix: str = "") -> dict[str, Any]:
    """Every key of the recipe's tables, found by walking the models themselves."""
    found: dict[str, Any] = {}
    for name, info in model.model_fields.items():
        annotation = info.annotation
        optional = [part for part in get_args(annotation) if isinstance(part, type) and issubclass(part, BaseModel)]
        if optional and type(None) in get_args(annotation):
            annotation = optional[0]
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            found |= tables(annotation, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = info
    return found


LAYERS: tuple[type[BaseModel], ...] = (
    recipe.ConvLayer,
    recipe.DenseLayer,
    recipe.ResidualLayer,
    recipe.AvgPoolLayer,
    recipe.MaxPoolLayer,
    recipe.GlobalAvgPoolLayer,
    recipe.FlattenLayer,
    recipe.DropoutLayer,
)


def test_fields_cover_every_key() -> None:
    """`recipe --fields` lists every key once, with its default; layers by type."""
    expected = set(tables(recipe.Recipe))
    for model in LAYERS:
        kind = model.model_fields["type"].annotation.__args__[0]  # type: ignore[union-attr]
        expected |= {f"model.layers.{kind}.{name}" for name in model.model_fields}
    rows = recipe.fields()
    assert len(rows) == len({row[0] for row in rows})
    assert {row[0] for row in rows} == expected
    by_key = {row[0]: row for row in rows}
    assert by_key["train.epochs"][1:] == ("int", "required", "passes over the training set")
    assert by_key["train.lr"][2] == "0.001"
    assert by_key["train.grad_clip"][1:3] == ("float or none", "None")
    assert [row[0] for row in rows if not all(part.strip() for part in row)] == []  # a meaning, a type, a default


def test_defaults_are_valid_values() -> None:
    """Every default that the table shows parses as TOML or is absent, and gives the same recipe when written."""
    values = deepcopy(GOOD)
    written = 0
    for key, _, default, _ in recipe.fields():
        table, _, name = key.rpartition(".")
        if (
            default in ("required", "None")
            or table.startswith("model.layers")
            or table in ("data.events", "train.quantize")
        ):
            continue
        text = {"True": "true", "False": "false"}.get(default, default)
        target: Any = values
        for part in table.split(".") if table else []:
            target = target.setdefault(part, {})
        if name not in target:
            target[name] = tomllib.loads(f"x = {text}")["x"]
            written += 1
    assert written > 20
    assert recipe.parse(values) == recipe.parse(GOOD)


WORDS = st.one_of(
    st.integers(-3, 9), st.floats(allow_nan=True), st.booleans(), st.text(max_size=5), st.just([]), st.just({})
)


@settings(max_examples=usually(200), deadline=None)
@given(data=st.data())
def test_any_value_anywhere_is_taken_or_named(data: st.DataObject) -> None:
    """Whatever stands at whatever key: a recipe, or a RecipeError that names the key; never another error."""
    paths = [row[0] for row in recipe.fields() if not row[0].startswith("model.layers")]
    paths += ["model.layers.0.kernel", "model.layers.0.channels", "model.layers.0.type", "model.layers.4.features"]
    path = data.draw(st.sampled_from(paths))
    value = data.draw(WORDS)
    try:
        made = recipe.parse(changed(path, value))
    except RecipeError as error:
        assert path.split(".")[0] in str(error)
    else:
        assert isinstance(made, recipe.Recipe)
