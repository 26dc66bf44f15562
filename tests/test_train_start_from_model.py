"""Networks that start from others: what they take over, and thresholds for those that come from ReLUs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_recipe
from torch import Tensor, nn

from snn2chip import data
from snn2chip.data import ImageSet
from snn2chip.errors import InputError, UnsupportedError
from snn2chip.nn import BNTT, LIF, SpikingNetwork, TDBatchNorm, model_file
from snn2chip.passes.capture import capture
from snn2chip.recipe import Recipe
from snn2chip.train.balance import balance
from snn2chip.train.loop import Trainer
from snn2chip.train.optimization import make_optimizer
from snn2chip.train.start_from_model import fit_steps, shorten, start_from

TRAINABLE = {"trainable_tau": True, "trainable_threshold": True}
RESIDUAL = [
    {"type": "conv", "channels": 4},
    {"type": "residual", "channels": 6, "stride": 2, "blocks": 2},
    {"type": "globalavgpool"},
    {"type": "dense", "features": "classes", "neuron": False},
]


def layers(norm: str) -> list[dict[str, Any]]:
    return [
        {"type": "conv", "channels": 5, "norm": norm},
        {"type": "avgpool"},
        {"type": "conv", "channels": 6, "norm": norm},
        {"type": "flatten"},
        {"type": "dense", "features": 12, "norm": norm, "bias": False},
        {"type": "dense", "features": "classes", "neuron": False},
    ]


def recipe_of(norm: str = "tdbn", timesteps: int = 3, **neuron: Any) -> Recipe:
    """A small network on digits; `norm` may be 'residual'."""
    chosen = RESIDUAL if norm == "residual" else layers(norm)
    return tiny_recipe(model__layers=chosen, model__timesteps=timesteps, model__neuron=neuron)


def network_of(recipe: Recipe, seed: int = 0) -> SpikingNetwork:
    torch.manual_seed(seed)
    return model_file.build_network(recipe, (1, 8, 8), 10, 16, [0.3], [0.4]).eval()


def mature(network: SpikingNetwork, seed: int = 0) -> SpikingNetwork:
    """Parameters and statistics that no construction gives."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in [*network.body.named_parameters(), *network.body.named_buffers()]:
            noise = torch.rand(value.shape, generator=generator)
            if name.endswith("running_var"):
                value.copy_(0.05 + 0.3 * noise)
            elif not name.endswith(("fixed_tau", "fixed_threshold")):
                value.add_(0.4 * (noise - 0.5))
    return network


def trace(network: SpikingNetwork, images: Tensor) -> dict[str, Tensor]:
    """Spikes (T, N, ...) of every neuron, and under "current" what the readout gets."""
    found: dict[str, Tensor] = {}
    handles = []
    for name, module in network.body.named_modules():
        if isinstance(module, (LIF, nn.ReLU)):
            handles.append(module.register_forward_hook(lambda _m, _i, output, name=name: found.update({name: output})))
    with torch.no_grad():
        found["current"] = network.body(network.encoder(images))
    for handle in handles:
        handle.remove()
    return found


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randint(0, 17, (6, 1, 8, 8), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def digits() -> tuple[ImageSet, ImageSet]:
    return data.load("digits", "train"), data.load("digits", "test").subset(40)


# ---------------------------------------------------------------------------------------------- time steps


@pytest.mark.parametrize("norm", ["tdbn", "bntt", "residual"])
def test_fewer_steps_are_the_first_ones(norm: str, images: Tensor) -> None:
    """A network of fewer steps does, spike for spike, what the longer one does in its first steps."""
    trained = mature(network_of(recipe_of(norm, 5, **TRAINABLE)))
    long = trace(trained, images)
    for steps in (4, 1):
        short = network_of(recipe_of(norm, steps, **TRAINABLE), seed=9)
        assert start_from(short, trained, "it") == []
        for name, value in trace(short, images).items():
            assert torch.equal(value, long[name][:steps]), name
    assert 0.02 < float(long["lif2"].mean()) < 0.9


def test_shorten_makes_the_same_network_of_fewer_steps(images: Tensor) -> None:
    """With the input's own mean and deviation, and every spike."""
    recipe = recipe_of("bntt", 4)
    trained = mature(network_of(recipe))
    fewer = shorten(trained, recipe, 2, 10)
    assert fewer.timesteps == 2
    for name, value in trace(fewer, images).items():
        assert torch.equal(value, trace(trained, images)[name][:2]), name


def test_rows_of_steps_that_were_not_there_repeat_the_last() -> None:
    """T may also grow."""
    table = torch.arange(6.0).view(3, 2)
    assert torch.equal(fit_steps(table, 2), table[:2])
    assert torch.equal(fit_steps(table, 5), torch.stack([*table, table[2], table[2]]))


@pytest.mark.parametrize("there", [{}, TRAINABLE])
@pytest.mark.parametrize("here", [{}, TRAINABLE])
def test_leak_and_threshold_go_along_fixed_or_trainable(there: dict[str, Any], here: dict[str, Any]) -> None:
    """By what they mean: a logit becomes a number and a number a logit."""
    trained = network_of(recipe_of(tau=0.4, threshold=0.8, **there))
    other = network_of(recipe_of(tau=0.25, threshold=0.8, **here))
    start_from(other, trained, "it")
    for module in other.modules():
        if isinstance(module, LIF):
            assert float(module.tau.detach()) == pytest.approx(0.4, rel=1e-6)
            assert float(module.threshold.detach()) == pytest.approx(0.8, rel=1e-6)


def test_no_leak_at_all_cannot_become_a_trainable_one() -> None:
    """Its logit would be infinite: refused by layer, with the setting that keeps it."""
    trained = network_of(recipe_of(tau=1.0))
    with pytest.raises(InputError, match=r"layer 'lif1': tau 1 .* model\.neuron\.trainable_tau = false"):
        start_from(network_of(recipe_of(**TRAINABLE)), trained, "it")


# ------------------------------------------------------------------------------------------- normalization


def test_tdbn_of_another_threshold_computes_the_same(images: Tensor) -> None:
    """The threshold in tdBN's gain is the recipe's; gamma makes up for it."""
    trained = mature(network_of(recipe_of(threshold=0.5)))
    other = network_of(recipe_of(threshold=0.9))
    start_from(other, trained, "it")
    x = torch.randn(3, 4, 5, 8, 8)
    torch.testing.assert_close(other.body.norm1(x), trained.body.norm1(x), rtol=1e-5, atol=1e-6)
    assert not torch.equal(other.body.norm1.weight, trained.body.norm1.weight)  # type: ignore[arg-type]
    same = network_of(recipe_of(threshold=0.5))
    start_from(same, trained, "it")
    assert torch.equal(same.body.norm1.weight, trained.body.norm1.weight)  # type: ignore[arg-type]


def test_tdbn_becomes_the_same_bntt_but_for_beta(images: Tensor) -> None:
    """Gamma, mean and variance at every step, a negative gamma as negated weights; beta is named as left out."""
    trained = mature(network_of(recipe_of("tdbn", 2)))
    with torch.no_grad():
        trained.body.norm1.weight[0] = -0.6  # type: ignore[index, operator]
    other = network_of(recipe_of("bntt", 3))
    notes = start_from(other, trained, "it")
    assert [note.split(":")[0] for note in notes] == ["norm1", "norm2", "norm3"]
    with torch.no_grad():
        for module in trained.modules():
            if isinstance(module, TDBatchNorm):
                module.bias.zero_()
    new = network_of(recipe_of("bntt", 2))
    assert start_from(new, trained, "it") == []
    x = trained.encoder(images)
    for step in ("conv1", "norm1"):
        mine = x = trained.body.get_submodule(step)(x)
    y = new.body.norm1(new.body.conv1(new.encoder(images)))
    torch.testing.assert_close(y, mine, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model__layers": layers("none")}, r"it: 'norm1' is TDBatchNorm\(.*\) there and absent in the recipe"),
        ({"model__layers": RESIDUAL}, r"it: 'conv1' is Conv2d\(weight \(5, 1, 3, 3\)\) there and Conv2d\(weight \(4"),
        ({"model__width": 2.0}, r"it: 'conv1' is Conv2d\(weight \(5, 1, 3, 3\)\) there and Conv2d\(weight \(10"),
        ({"model__neuron": {"kind": "relu"}, "model__timesteps": 1}, r"it: 'lif1' is LIF there and ReLU in the recipe"),
    ],
)
def test_other_layers_are_refused_by_name(change: dict[str, Any], message: str) -> None:
    """Whatever is not the same is named with both sides."""
    recipe = tiny_recipe(**{"model__layers": layers("tdbn"), **change})
    with pytest.raises(InputError, match=message):
        start_from(network_of(recipe), network_of(recipe_of()), "it")


def of_kernel(kernel: int, padding: int, **conv: Any) -> SpikingNetwork:
    """A network whose second convolution has a stride and this kernel."""
    second = {"type": "conv", "channels": 6, "stride": 2, "kernel": kernel, "padding": padding, **conv}
    recipe = tiny_recipe(
        model__layers=[
            {"type": "conv", "channels": 4},
            second,
            {"type": "globalavgpool"},
            {"type": "dense", "features": "classes", "neuron": False},
        ]
    )
    return mature(network_of(recipe))


@pytest.mark.parametrize(("padding", "wider"), [(1, 2), (0, 1), (1, 1)])
def test_a_larger_kernel_is_the_same_network_and_a_smaller_one_its_middle(
    padding: int, wider: int, images: Tensor
) -> None:
    """Maps of 8 x 8 at stride 2: a kernel of 3, one of 5 (or 4, one tap more at the end) that sees the same pixels."""
    size = 3 + 2 * (wider - padding) + (wider == padding)
    small, large = of_kernel(3, padding), of_kernel(size, wider)
    notes = start_from(large, small, "small")
    assert notes == [f"conv2: its kernel was 3 x 3 and is {size} x {size}; the taps that both have keep their weights"]
    with torch.no_grad():
        assert torch.equal(large(images), small(images))
    mature(large, seed=1)
    assert len(start_from(small, large, "large")) == 1
    ahead = wider - padding
    small_conv, large_conv = (network.get_submodule("body.conv2") for network in (small, large))
    assert isinstance(small_conv, nn.Conv2d) and isinstance(large_conv, nn.Conv2d)
    assert torch.equal(small_conv.weight, large_conv.weight[:, :, ahead : ahead + 3, ahead : ahead + 3])


def test_taps_between_taps_are_refused() -> None:
    there, here = of_kernel(2, 1, dilation=2), of_kernel(3, 2, dilation=2)
    with pytest.raises(InputError, match="layer 'conv2': the taps of its kernel lie between"):
        start_from(here, there, "there")


def test_weight_decay_leaves_gammas_alone() -> None:
    """BNTT's table of gammas has two dimensions, and is no weight."""
    network = network_of(recipe_of("bntt"))
    groups = make_optimizer(network, recipe_of("bntt").train).param_groups
    decayed = {id(parameter) for group in groups if group["weight_decay"] > 0 for parameter in group["params"]}
    names = {name for name, parameter in network.named_parameters() if id(parameter) in decayed}
    assert names == {f"body.{name}.weight" for name in ("conv1", "conv2", "dense1", "dense2")}


@pytest.mark.parametrize(("norm", "name"), [("bntt", "norm2"), ("residual", "block1.branch.norm1")])
def test_a_negative_variance_in_a_file_is_named(norm: str, name: str, tmp_path: Path) -> None:
    """Of any normalization, also inside of a block; nor is such a file written."""
    recipe, path, reason = recipe_of(norm), tmp_path / "m.pt", f"layer '{name}': a running variance is negative"
    network = network_of(recipe)
    given: dict[str, Any] = {"max_value": 16, "classes": ["a"] * 10, "metrics": {}}
    model_file.save(path, network, recipe, **given)
    old = path.read_bytes()
    with torch.no_grad():
        network.body.get_submodule(name).running_var.fill_(-1)  # type: ignore[operator, union-attr]
    with pytest.raises(InputError, match=f"'{path}' is not written, it could not be read back: {reason}"):
        model_file.save(path, network, recipe, **given)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [old]
    model_file.save_tensors(path, model_file.load_tensors(path) | {"state": network.state_dict()})
    with pytest.raises(InputError, match=f"'{path}': {reason}"):
        model_file.load(path)


# --------------------------------------------------------------------------------------- from a ReLU network


def test_a_relu_network_has_relus_in_the_place_of_neurons() -> None:
    """Same layers, same names, and no export: the message says what to use."""
    network = network_of(recipe_of("residual", 1, kind="relu"))
    spiking = network_of(recipe_of("residual", 1))
    assert [name for name, _ in network.named_modules()] == [name for name, _ in spiking.named_modules()]
    kinds = {type(network.get_submodule(name)) for name, module in spiking.named_modules() if isinstance(module, LIF)}
    assert kinds == {nn.ReLU}
    with pytest.raises(UnsupportedError, match=r"layer 'lif1': ReLU cannot be exported; use snn2chip\.nn\.LIF"):
        capture(network)


@pytest.mark.parametrize("norm", ["tdbn", "bntt", "residual", "none"])
@pytest.mark.parametrize("neuron", [{}, TRAINABLE])
def test_thresholds_are_percentiles_of_what_reaches_each_layer(
    norm: str, neuron: dict[str, Any], images: Tensor
) -> None:
    """Layer after layer, those before spiking with theirs: held against a network run again after every layer."""
    source = mature(network_of(recipe_of("tdbn" if norm == "bntt" else norm, 1, kind="relu")))
    network = network_of(recipe_of(norm, 3, tau=0.4, **neuron), seed=5)
    start_from(network, source, "it")
    weights = {name: value.clone() for name, value in network.named_parameters() if "threshold" not in name}
    found = balance(network, images, 80.0)
    neurons = [name for name, module in network.body.named_modules() if isinstance(module, LIF)]
    assert list(found) == neurons
    for name, value in weights.items():
        assert torch.equal(value, network.get_parameter(name)), name
    for module in network.modules():
        if isinstance(module, TDBatchNorm):
            assert (module.threshold, module.momentum) == (0.5, 0.1)
    assert not network.training

    # the statistics are those of the spikes, so that running it again in eval mode repeats it to rounding, but for
    # the variance's n / (n - 1): look at the batch's own statistics, as balancing did
    for module in network.modules():
        if isinstance(module, (TDBatchNorm, BNTT)):
            module.train()
            module.momentum = 0.0
    currents: dict[str, Tensor] = {}
    for name in neurons:
        network.body.get_submodule(name).register_forward_hook(
            lambda _m, inputs, _o, name=name: currents.update({name: inputs[0]})
        )
    with torch.no_grad():
        network.body(network.encoder(images))
    for name in neurons:
        assert found[name] == pytest.approx(np.percentile(currents[name].numpy(), 80.0), rel=1e-5)
        assert float(network.body.get_submodule(name).threshold.detach()) == found[name]  # type: ignore[operator, union-attr]


def test_a_percentile_that_is_no_threshold_is_named(images: Tensor) -> None:
    """By layer, with the value and what to change."""
    with pytest.raises(InputError, match=r"layer 'lif1': percentile 1 of its currents is -.*raise train\.balance"):
        balance(network_of(recipe_of()), images, 1.0)


@pytest.mark.parametrize("neuron", [{}, TRAINABLE])
def test_training_from_a_relu_network_says_which_thresholds_it_set(
    neuron: dict[str, Any], digits: tuple[ImageSet, ImageSet], tmp_path: Path
) -> None:
    """`train --init relu/model.pt`: a note names them, they are in the network, and training goes on from there."""
    relu = Trainer(recipe_of("tdbn", 1, kind="relu"), *digits, tmp_path / "relu", fuse=False)
    assert len(list(relu.run())) == 9
    init = tmp_path / "relu" / "model.pt"
    recipe = recipe_of("tdbn", 2, **neuron)
    recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update={"balance_percentile": 85.0})})
    trainer = Trainer(recipe, *digits, tmp_path / "snn", fuse=False, init=init)
    lifs = {name: module for name, module in trainer.network.body.named_modules() if isinstance(module, LIF)}
    shown = ", ".join(f"{name} {float(module.threshold.detach()):.4g}" for name, module in lifs.items())
    assert trainer.notes == [f"thresholds set to percentile 85 of the currents: {shown}"]
    assert all(not math.isclose(float(module.threshold.detach()), 0.5) for module in lifs.values())
    assert torch.equal(trainer.network.body.conv1.weight, model_file.load(init).network.body.conv1.weight)  # type: ignore[arg-type]
    again = Trainer(recipe, *digits, tmp_path / "snn2", fuse=False, init=init)
    assert again.notes == trainer.notes
    events = list(trainer.run())
    assert events[-1].metrics is not None
    assert trainer.metrics["float_accuracy"] > 0.3
    kept = model_file.load(tmp_path / "snn" / "model.pt")
    assert kept.metrics["init"] == "relu"
    if not neuron:  # fixed ones stay as balanced
        assert float(kept.network.body.lif1.threshold) == float(again.network.body.lif1.threshold)  # type: ignore[arg-type, union-attr]


def test_a_balanced_run_with_an_average_resumes_to_the_same_bits(
    digits: tuple[ImageSet, ImageSet], tmp_path: Path
) -> None:
    """Thresholds that balancing set are those of the average too, after --resume as before it."""
    list(Trainer(recipe_of("tdbn", 1, kind="relu"), *digits, tmp_path / "relu", fuse=False).run())
    recipe = recipe_of("tdbn", 1)
    recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update={"average": 0.5})})
    init = tmp_path / "relu" / "model.pt"
    list(Trainer(recipe, *digits, tmp_path / "whole", fuse=False, init=init).run())
    events = Trainer(recipe, *digits, tmp_path / "broken", fuse=False, init=init).run()
    for _ in range(4):
        next(events)
    events.close()
    list(Trainer(recipe, *digits, tmp_path / "broken", fuse=False, init=init, resume=True).run())
    whole, broken = (model_file.load(tmp_path / name / "model.pt").network.state_dict() for name in ("whole", "broken"))
    assert float(whole["body.lif1.fixed_threshold"]) != 0.5
    assert all(torch.equal(value, broken[name]) for name, value in whole.items())
