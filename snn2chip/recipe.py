"""Recipes: one validated TOML file says everything about a training run.

Every field is documented here; `snn2chip recipe --fields` prints the same table. A wrong key or value is
refused by name, with what was expected.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args, get_origin

from pydantic import Field, ValidationError, model_validator

from snn2chip import files, places
from snn2chip.choices import Relays
from snn2chip.data.augment_table import AugmentTable, Table
from snn2chip.data.recordings.binning import MAX_COUNT, BinSettings
from snn2chip.data.sets.events import OWN_VALIDATION
from snn2chip.errors import InputError, RecipeError
from snn2chip.ir import Coding, ReadoutKind
from snn2chip.text import did_you_mean, one_line

SurrogateName = Literal["rectangular", "triangular", "arctan"]

NormName = Literal["tdbn", "bntt", "none"]
NAME = "^[A-Za-z0-9_][A-Za-z0-9._-]*$"  # it becomes a folder, a part of commands, and titles


class ConvLayer(Table):
    """A convolution, its normalization and its neuron."""

    type: Literal["conv", "conv1d"] = Field(
        description="makes this layer a conv; conv1d: kernel, stride, padding and dilation along the width alone"
    )
    channels: int | None = Field(None, ge=1, description="output channels; may be left out when depthwise")
    kernel: int = Field(3, ge=1, description="kernel height and width")
    stride: int = Field(1, ge=1, description="stride, height and width")
    padding: int | None = Field(None, ge=0, description="zero padding; default kernel // 2")
    dilation: int = Field(1, ge=1, description="dilation, height and width")
    groups: int = Field(1, ge=1, description="groups of channels")
    depthwise: bool = Field(False, description="one group a channel (overrides groups)")
    bias: bool = Field(False, description="a bias of its own, besides the normalization's")
    norm: NormName = Field("tdbn", description="normalization after the convolution: tdbn, bntt or none")
    neuron: bool = Field(True, description="a LIF neuron after it")

    @model_validator(mode="after")
    def _channels_known(self) -> Self:
        if self.channels is None and not self.depthwise:
            raise ValueError("a conv needs channels (or depthwise = true)")
        return self


class DenseLayer(Table):
    """A fully connected layer, its normalization and its neuron."""

    type: Literal["dense"] = Field(description="makes this layer a dense")
    features: Annotated[int, Field(ge=1)] | Literal["classes"] = Field(
        description="outputs, or 'classes' for one a class"
    )
    bias: bool = Field(True, description="a bias")
    norm: NormName = Field("none", description="normalization after it: tdbn, bntt or none")
    neuron: bool = Field(True, description="a LIF neuron after it; false before a membrane readout")


class AvgPoolLayer(Table):
    """Average pooling, folded into its neighbour on export."""

    type: Literal["avgpool"] = Field(description="makes this layer an avgpool")
    kernel: int = Field(2, ge=2, description="kernel and stride")


class MaxPoolLayer(Table):
    """Maximum over windows of spikes, a logical OR; a layer of neurons on export."""

    type: Literal["maxpool"] = Field(description="makes this layer a maxpool")
    kernel: int = Field(2, ge=2, description="kernel height and width")
    stride: int | None = Field(None, ge=1, description="stride; default the kernel")
    padding: int = Field(0, ge=0, description="padding, at most half the kernel")


class ResidualLayer(Table):
    """Residual blocks with tdBN (alpha = 1/sqrt(2) before the add) and a neuron after the add."""

    type: Literal["residual"] = Field(description="makes this layer residual blocks")
    channels: int = Field(ge=1, description="output channels of every block")
    blocks: int = Field(1, ge=1, description="how many blocks")
    stride: int = Field(1, ge=1, description="stride of the first block")
    block: Literal["basic", "bottleneck"] = Field(
        "basic", description="basic (two 3x3) or bottleneck (1x1, 3x3, 1x1, a quarter of the channels inside)"
    )
    projection: Literal["conv", "pool"] = Field(
        "conv", description="shortcut that changes shape: strided 1x1 conv, or average pooling and 1x1 conv"
    )
    identity: Literal["tdbn", "none"] = Field("tdbn", description="normalization of a shortcut that keeps its shape")


class GlobalAvgPoolLayer(Table):
    """Mean over height and width, folded into the next dense layer on export."""

    type: Literal["globalavgpool"] = Field(description="makes this layer a globalavgpool")


class FlattenLayer(Table):
    """(C, H, W) to C*H*W features."""

    type: Literal["flatten"] = Field(description="makes this layer a flatten")


class DropoutLayer(Table):
    """Dropout with the same mask at every step; nothing on export."""

    type: Literal["dropout"] = Field(description="makes this layer a dropout")
    p: float = Field(0.1, ge=0, lt=1, description="share of the entries dropped")


Layer = Annotated[
    ConvLayer
    | DenseLayer
    | ResidualLayer
    | AvgPoolLayer
    | MaxPoolLayer
    | GlobalAvgPoolLayer
    | FlattenLayer
    | DropoutLayer,
    Field(discriminator="type"),
]


class NeuronSpec(Table):
    """The iterative LIF neuron, the same in every layer; or a ReLU in its place."""

    kind: Literal["lif", "relu"] = Field(
        "lif", description="lif; or relu for a network to start a spiking one from (train --init), at T = 1"
    )
    tau: float = Field(0.25, gt=0, le=1, description="leak factor; 1 never leaks")
    threshold: float = Field(0.5, gt=0, description="Vth, also tdBN's")
    surrogate: SurrogateName = Field("rectangular", description="derivative that stands in for the spike's")
    width: float = Field(1.0, gt=0, description="width of the surrogate")
    trainable_tau: bool = Field(False, description="learn each layer's tau")
    trainable_threshold: bool = Field(False, description="learn each layer's threshold")
    detach_reset: bool = Field(False, description="leave the reset out of the gradient")

    @model_validator(mode="after")
    def _tau_can_be_learnt(self) -> Self:
        if self.trainable_tau and self.tau == 1:
            raise ValueError("a trainable tau starts below 1")
        return self


class ModelSpec(Table):
    """The network."""

    timesteps: int = Field(ge=1, le=1024, description="time steps T of one sample")
    coding: Coding = Field("direct", description="direct (the image at every step), poisson or events")
    readout: ReadoutKind = Field("membrane", description="membrane (accumulated) or spike_count")
    width: float = Field(
        1.0, gt=0, le=16, description="factor on the channels and features of every layer but the classes"
    )
    integers: bool = Field(
        False, description="the chip's integers without normalization, as retrain --quantize leaves them; not to train"
    )
    neuron: NeuronSpec = NeuronSpec()
    layers: tuple[Layer, ...] = Field(min_length=1, strict=False, description="the layers, first to last")

    @model_validator(mode="after")
    def _readout_fits(self) -> Self:
        last = self.layers[-1]
        if not isinstance(last, DenseLayer) or last.features != "classes":
            raise ValueError("the last layer must be {type = 'dense', features = 'classes'}")
        if last.neuron != (self.readout == "spike_count"):
            want = "true" if self.readout == "spike_count" else "false"
            raise ValueError(f"readout '{self.readout}' needs neuron = {want} in the last layer")
        if self.neuron.kind == "relu":
            if self.integers:
                raise ValueError("a network of integers has neurons, not neuron.kind 'relu'")
            if (self.timesteps, self.coding) != (1, "direct"):
                raise ValueError(
                    f"neuron.kind 'relu' knows no time: it needs timesteps = 1 and coding = 'direct', not "
                    f"{self.timesteps} and '{self.coding}'"
                )
            if self.readout == "spike_count":
                raise ValueError("neuron.kind 'relu' gives no spikes to count: use readout = 'membrane'")
        if not any(getattr(layer, "neuron", layer.type == "residual") for layer in self.layers):
            raise ValueError("the network has no neuron: give a layer neuron = true")
        return self


class EventsTable(Table):
    """How recordings of an event camera become T frames; dt_us or count, one of them."""

    dt_us: int | None = Field(None, ge=1, description="microseconds a time step")
    count: int | None = Field(None, ge=1, description="events a time step")
    max_count: int = Field(1, ge=1, le=MAX_COUNT, description="largest value of a pixel at a step; 1 makes spikes")
    downsample: int = Field(1, ge=1, description="sensor pixels a side that share one of the network's")
    sensor: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] | None = Field(
        None, strict=False, description="[height, width] of recordings that do not say it"
    )
    polarities: Literal[1, 2] = Field(2, description="2: OFF and ON in a channel each; 1: both in one")

    @model_validator(mode="after")
    def _one_kind_of_step(self) -> Self:
        if (self.dt_us is None) == (self.count is None):
            raise ValueError("give dt_us (microseconds a step) or count (events a step), one of them")
        return self


class DataSpec(Table):
    """The data set."""

    name: str = Field(
        description="digits, fashion-mnist, cifar10, cifar100 or folder; of events nmnist, dvs-gesture, cifar10-dvs, "
        "letters, shd, ssc or event-folder"
    )
    image_size: int | None = Field(None, ge=4, description="side that a folder's images are resized to")
    validation: float = Field(
        0.0,
        ge=0,
        description="share (below 1) or number of the training images that are set aside, drawn by train.seed: "
        "the accuracy after each epoch is theirs; the test set is looked at once, at the end. ssc has a split for it",
    )
    train_limit: int | None = Field(None, ge=1, description="use only the first images of the training set")
    augment: AugmentTable = AugmentTable()
    events: EventsTable | None = Field(None, description="binning of recordings, with model.coding = 'events'")


Bits = Annotated[int, Field(ge=2, le=8)]


class QuantizeTable(Table):
    """Quantization-aware training: every step rounds as the exporter does; what it leaves is the chip's integers."""

    weight_bits: Bits = Field(8, description="bits of a weight, 2 (ternary) to 8")
    layers: dict[str, Bits] = Field({}, description="bits of single layers by name, { conv1 = 8 }")
    freeze: float = Field(
        0.5,
        ge=0,
        le=1,
        description="share of the training, its end, with frozen statistics and the integers themselves",
    )
    chip: str = Field("loihi2", description="chip whose registers count")
    relays: Relays = Field("auto", description="relays of a branching network, as of fold-and-export")


class TrainSpec(Table):
    """The optimization."""

    epochs: int = Field(ge=1, description="passes over the training set")
    batch_size: int = Field(128, ge=2, description="images a step")
    optimizer: Literal["adamw", "sgd", "muon"] = Field(
        "adamw",
        description="adamw, sgd with Nesterov momentum, or muon (with adamw for what is no matrix, and for the "
        "last layer)",
    )
    lr: float = Field(1e-3, gt=0, description="largest learning rate")
    adamw_lr: float = Field(2e-3, gt=0, description="with muon: largest learning rate of what adamw takes")
    weight_decay: float = Field(0.01, ge=0, description="weight decay; not on biases, norms and neurons")
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of sgd and muon")
    warmup_epochs: float = Field(1.0, ge=0, description="epochs of linear warm-up, then down to zero")
    schedule: Literal["cosine", "linear"] = Field("cosine", description="how the learning rate falls to zero")
    average: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="decay a step of a running average of the weights, which is what is kept in the end, "
        "with statistics of its own; 0 keeps the last weights",
    )
    whiten: bool = Field(
        False, description="start the first convolution at the principal axes of the training images' patches"
    )
    loss: Literal["mean", "steps"] = Field(
        "mean",
        description="cross entropy of the readout, or the mean of that of every time step (TET, Deng et al. 2022)",
    )
    distill: float = Field(
        0.5, ge=0, le=1, description="with train --teacher: share of the loss that is the divergence from its answers"
    )
    temperature: float = Field(2.0, gt=0, description="with train --teacher: what scores are divided by for it")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="label smoothing of the cross entropy")
    grad_clip: float | None = Field(None, gt=0, description="largest gradient norm")
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="bfloat16: autocast of convolutions and products; the membrane stays float32"
    )
    deterministic: bool = Field(
        False,
        description="on a GPU, only algorithms that give the same bits every time, as the CPU's do: a resumed run "
        "repeats an unbroken one bit for bit there too, but steps take longer",
    )
    balance_percentile: float = Field(
        85.0, ge=0, le=100, description="of a layer's currents: its threshold when train --init gives a ReLU network"
    )
    quantize: QuantizeTable | None = Field(None, description="quantization-aware training, from a trained network")
    seed: int = Field(0, ge=0, description="of weights, order, augmentation and Poisson input")


class Recipe(Table):
    """A training run."""

    name: str = Field(
        pattern=NAME,
        max_length=128,
        description="name of the recipe and of its folder: letters, digits, '.', '_' and '-', no '.' or '-' first",
    )
    description: str = Field("", description="a sentence for people")
    data: DataSpec
    model: ModelSpec
    train: TrainSpec

    @model_validator(mode="after")
    def _coding_fits(self) -> Self:
        if (self.model.coding == "events") != (self.data.events is not None):
            raise ValueError("[data.events] and model.coding = 'events' belong together: give both or none")
        if self.data.augment.mixup and self.model.coding != "direct":
            raise ValueError(
                f"data.augment.mixup mixes values, which model.coding = '{self.model.coding}' has none of: use cutmix"
            )
        if self.data.validation and self.data.name in OWN_VALIDATION:
            raise ValueError(f"{self.data.name} has a validation split of its own, which is used: no data.validation")
        if self.data.validation >= 1 and self.data.validation % 1:
            raise ValueError(
                f"data.validation = {self.data.validation:g} is neither a share below 1 nor a whole number"
            )
        if self.train.loss == "steps" and self.model.readout != "membrane":
            raise ValueError("train.loss = 'steps' needs model.readout = 'membrane'")
        if self.train.quantize is not None and (self.train.average or self.train.loss == "steps"):
            raise ValueError("train.quantize knows neither train.average nor train.loss = 'steps': leave them out")
        return self

    @property
    def validated(self) -> bool:
        """Whether accuracy after each epoch is that of images which are not trained on."""
        return bool(self.data.validation) or self.data.name in OWN_VALIDATION

    @property
    def binning(self) -> BinSettings | None:
        """How recordings become frames; None for images."""
        table = self.data.events
        return None if table is None else BinSettings(timesteps=self.model.timesteps, **dict(table))


def _describe(error: ValidationError, source: str) -> str:
    """One line a wrong key: where, what was given, what was expected."""
    lines = []
    for item in error.errors():
        # the discriminator's tag shows up in the path of a layer; the reader never wrote it
        where = ".".join(str(part) for part in item["loc"] if part not in _LAYER_TAGS) or "recipe"
        if item["type"] == "extra_forbidden":
            lines.append(f"{source}: unknown key '{where}'{_nearest(item['loc'])}")
        elif item["type"] == "missing":
            lines.append(f"{source}: '{where}' is missing")
        else:
            given = item.get("input")
            shown = f" (given: {one_line(repr(given))})" if isinstance(given, (str, int, float, bool)) else ""
            said = item["msg"].removeprefix("Value error, ")
            if item["type"] == "string_pattern_mismatch":
                said = "a name is made of letters, digits, '.', '_' and '-', and begins with neither '.' nor '-'"
            lines.append(f"{source}: '{where}': {said}{shown}")
    return "\n".join(lines)


_LAYER_TAGS = {"conv", "conv1d", "dense", "residual", "avgpool", "maxpool", "globalavgpool", "flatten", "dropout"}
_TABLES: dict[str, type[Table]] = {
    "": Recipe,
    "data": DataSpec,
    "data.augment": AugmentTable,
    "data.events": EventsTable,
    "model": ModelSpec,
    "model.neuron": NeuronSpec,
    "train": TrainSpec,
    "train.quantize": QuantizeTable,
    "model.layers.conv": ConvLayer,
    "model.layers.dense": DenseLayer,
    "model.layers.residual": ResidualLayer,
    "model.layers.avgpool": AvgPoolLayer,
    "model.layers.maxpool": MaxPoolLayer,
    "model.layers.globalavgpool": GlobalAvgPoolLayer,
    "model.layers.flatten": FlattenLayer,
    "model.layers.dropout": DropoutLayer,
}
_OPTIONAL = (("data", "events"), ("train", "quantize"))  # tables that may be left out


def _nearest(location: Sequence[str | int]) -> str:
    *path, name = (str(part) for part in location if not isinstance(part, int))
    known = [row[0] for row in fields()]
    elsewhere = next((key for key in known if key.rpartition(".")[2] == name), "")  # in another table
    table = _TABLES.get(".".join(path))
    guess = f"did you mean '{elsewhere}'? " if elsewhere else did_you_mean(name, table.model_fields if table else ())
    return f"; {guess}expected one of {', '.join(table.model_fields)}" if table else f"; {guess}".rstrip("; ")


def _kind(annotation: Any) -> str:
    """A type in words: 'int or none', 'black or reflect', 'list of conv, dense'."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kind(inner[0])
    if origin is Literal:
        return " or ".join(map(str, inner))
    if origin is tuple:
        return f"list of {' and '.join(_kind(each) for each in inner if each is not Ellipsis)}"
    if origin in (dict, list):
        return f"{'table' if origin is dict else 'list'} of {_kind(inner[-1])}"
    if inner:
        return " or ".join(map(_kind, inner))
    if annotation is type(None):
        return "none"
    return str(annotation.__name__).removesuffix("Layer").lower()


def fields() -> list[tuple[str, str, str, str]]:
    """Every field of a recipe: (key, type, default, meaning)."""
    rows = []
    for prefix, table in _TABLES.items():
        for name, info in table.model_fields.items():
            if info.annotation in _TABLES.values() or (prefix, name) in _OPTIONAL:
                continue
            default = "required" if info.is_required() else repr(info.default)
            rows.append((f"{prefix}.{name}".lstrip("."), _kind(info.annotation), default, info.description or ""))
    return rows


def parse(values: dict[str, Any], source: str = "recipe") -> Recipe:
    """Validate a dictionary laid out as a recipe file.

    Raises:
        RecipeError: a key is unknown or missing, or a value is not what was expected.
    """
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise RecipeError(_describe(error, source)) from None


def override(values: dict[str, Any], setting: str) -> None:
    """Change one value of a dictionary laid out as a recipe file, given as ``key=value`` with the key dotted.

    Raises:
        RecipeError: not of that form, or the key goes through what is no table.
    """
    key, separator, text = setting.partition("=")
    if not separator or not key.strip():
        raise RecipeError(f"--set '{setting}': expected key=value, e.g. --set train.epochs=3")
    try:
        value = files.parse(f"value = {text}", "TOML")["value"]
    except ValueError:
        value = text.strip()  # a bare word is a string
    *path, last = key.strip().split(".")
    table: Any = values
    for part in path:
        table = table.setdefault(part, {}) if isinstance(table, dict) else None
        if not isinstance(table, dict):
            raise RecipeError(f"--set '{setting}': '{part}' is not a table of the recipe")
    table[last] = value


def load(recipe: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe by shipped name or by path, apply ``key=value`` overrides, validate.

    Raises:
        RecipeError: no such recipe, not TOML, or a wrong key or value.
    """
    path = Path(recipe)
    if not (path.suffix == ".toml" or path.is_dir() or path.is_file()):
        path = places.recipe_file(str(recipe))
    elif path.is_dir():
        path = path / "recipe.toml"
    try:
        values = files.read(path, "TOML")
    except FileNotFoundError as error:
        raise RecipeError(f"cannot read '{path}': {error.strerror}") from None
    except InputError as error:
        raise RecipeError(str(error)) from None
    for setting in overrides:
        override(values, setting)
    return parse(values, source=path.name if path.name != "recipe.toml" else f"recipe '{path.parent.name}'")
