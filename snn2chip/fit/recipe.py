"""What a recipe will take before it is trained: its network with random weights, lowered as a trained one would be."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping

import torch
from torch import nn

from snn2chip import ir
from snn2chip import recipe as recipes
from snn2chip.chip.profile import Chip
from snn2chip.errors import InputError
from snn2chip.fit.demand import of_outlines
from snn2chip.fit.table import Fit, fit
from snn2chip.nn import SpikingNetwork, model_file
from snn2chip.passes import pipeline
from snn2chip.passes.capture import capture

Given = tuple[tuple[int, int, int], int, int]
KNOWN: Mapping[str, Given] = {  # of a data set: shape of a sample (before binning shrinks it), classes, largest value
    "digits": ((1, 8, 8), 10, 16),
    "fashion-mnist": ((1, 28, 28), 10, 255),
    "cifar10": ((3, 32, 32), 10, 255),
    "cifar100": ((3, 32, 32), 100, 255),
    "nmnist": ((2, 34, 34), 10, 1),
    "dvs-gesture": ((2, 128, 128), 11, 1),
    "cifar10-dvs": ((2, 128, 128), 10, 1),
    "shd": ((1, 1, 700), 20, 1),
    "ssc": ((1, 1, 700), 35, 1),
}

_LARGER = 16


def of_network(network: SpikingNetwork, classes: int, chip: Chip) -> Fit:
    """The table of a network as its layers are, whatever its weights; scales are chosen without images.

    Raises:
        UnsupportedError, ChipLimitError: what cannot be exported at all.
    """
    return _of_alive(_alive(copy.deepcopy(network), classes), chip)


def _of_alive(network: ir.Network, chip: Chip) -> Fit:
    source, layers = pipeline.outlines(network, chip)
    shape = (math.prod(source.shape),) if layers[0].kind == "dense" else source.shape
    return fit(of_outlines(layers, shape, ir.message_bits(*source.port_range())), chip)


def _alive(network: SpikingNetwork, classes: int) -> ir.Network:
    """It captured, its weights made larger: neurons that cannot fire are refused, and before training some cannot."""
    with torch.no_grad():
        for module in network.eval().modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.weight.mul_(_LARGER)
    return capture(network, tuple(map(str, range(classes))))


def captured(recipe: recipes.Recipe, given: Given | None = None) -> ir.Network:
    """The network of a recipe with random weights, as `of_recipe` places it.

    Raises:
        InputError: nothing says the shape of its samples.
    """
    network, classes = _random(recipe, given)
    return _alive(network, classes)


def of_recipe(recipe: recipes.Recipe, chip: Chip, given: Given | None = None) -> Fit:
    """The table of a recipe; `given` where its data set is not one of `KNOWN`.

    Raises:
        InputError: nothing says the shape of its samples; and as `of_network`.
    """
    return _of_alive(captured(recipe, given), chip)


def unknown(recipe: recipes.Recipe) -> str | None:
    """What the table of a recipe cannot say before its network is trained."""
    if not any(layer.type == "residual" for layer in recipe.model.layers):
        return None
    return "how many copies of relays are read depends on the weights: trained, it may take more cores"


def _random(recipe: recipes.Recipe, given: Given | None) -> tuple[SpikingNetwork, int]:
    """Its network before it is trained, and the number of classes."""
    given = given or KNOWN.get(recipe.data.name)
    if given is None:
        raise InputError(
            f"recipe '{recipe.name}': its data set '{recipe.data.name}' is not known; give --shape, --classes"
        )
    (channels, *sides), classes, most = given
    if recipe.data.image_size is not None:
        sides = [recipe.data.image_size] * 2
    if recipe.binning is not None:
        channels, *sides = recipe.binning.shape((sides[0], sides[1]))
        most = recipe.binning.max_count
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.train.seed)
        return model_file.build_network(recipe, (channels, sides[0], sides[1]), classes, most), classes


def narrowed(recipe: recipes.Recipe, share: float) -> recipes.Recipe:
    """The recipe with all widths times `share`."""
    model = recipe.model.model_copy(update={"width": recipe.model.width * share})
    return recipe.model_copy(update={"model": model})


def for_cores(recipe: recipes.Recipe, chip: Chip, most: int, given: Given | None = None) -> tuple[float, Fit]:
    """The largest share of all widths, in 32nds, with which the recipe fits `most` cores, and its table.

    Raises:
        InputError: not even a 32nd does; and as `of_recipe`.
    """
    for part in range(32, 0, -1):
        try:
            found = of_recipe(narrowed(recipe, part / 32), chip, given)
        except InputError:  # so narrow that some neuron cannot fire, or that the recipe is none
            continue
        if found.fits and found.cores <= most:
            return part / 32, found
    raise InputError(f"--target-cores {most}: a 32nd of the widths of '{recipe.name}' takes more; give more cores")
