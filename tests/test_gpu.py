"""Every path that training and simulation have on a GPU, there: `pytest -m gpu`. Skipped where there is none."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import MODERN, tiny_recipe
from helpers import Sets, assert_equal, history_of, state_of
from torch import Tensor, nn
from torch.nn import functional as F

from snn2chip import chip, data, deploy
from snn2chip.nn import BNTT, LIF, TDBatchNorm, gpu, model_file
from snn2chip.nn.neuron import fuse_neurons, lif_backward, lif_forward
from snn2chip.nn.surrogate import Gradient
from snn2chip.passes import pipeline
from snn2chip.recipe import Recipe, SurrogateName
from snn2chip.simulate.run import simulate
from snn2chip.train.cost import cost
from snn2chip.train.loop import Trainer
from snn2chip.train.measure import evaluate
from snn2chip.train.retrain import Iir
from snn2chip.train.surroundings import arithmetic

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
GPU = torch.device("cuda")
SAME = {"train__deterministic": True}


@pytest.fixture(scope="module")
def digits() -> Sets:
    return data.load("digits", "train"), data.load("digits", "test").subset(100)


def train(recipe: Recipe, sets: Sets, out: Path, **options: Any) -> Trainer:
    trainer = Trainer(recipe, *sets, out, device=GPU, **options)
    assert not [note for note in trainer.notes if "Triton" in note]
    list(trainer.run())
    return trainer


@pytest.fixture(scope="module")
def trained(digits: Sets, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the GPU: its folder."""
    out = tmp_path_factory.mktemp("trained")
    train(tiny_recipe(train__epochs=4), digits, out)
    return out


# ---------------------------------------------------------------------------------------------- layers


def currents(dtype: torch.dtype, steps: int, scale: float = 0.5) -> Tensor:
    """(T, 8, 32, 9, 9), channels last."""
    x = (torch.randn(steps * 8, 32, 9, 9, generator=torch.Generator().manual_seed(steps)) * scale).to(dtype)
    return x.contiguous(memory_format=torch.channels_last).unflatten(0, (steps, 8))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("surrogate", "steps", "whole"), [
    ("rectangular", 4, False), ("triangular", 1, False), ("arctan", 16, False), ("arctan", 3, True)
])  # fmt: skip
def test_the_kernel_is_the_loop_here_and_on_the_cpu(
    surrogate: SurrogateName, steps: int, whole: bool, dtype: torch.dtype
) -> None:
    """Spikes and gradients of the Triton kernel, of torch's operations on the GPU, and of the CPU: the same bits."""
    tau, threshold, width = torch.tensor(0.3), torch.tensor(0.5), 0.7
    if whole:
        tau, threshold, width = torch.tensor(1229 / 4096), torch.tensor(40.0), 30.0
    x = currents(dtype, steps, 50 if whole else 0.5)
    above = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    kernels = gpu.of(x.to(GPU))
    assert kernels is not None
    spikes = kernels.lif_forward(x.to(GPU), tau.to(GPU), threshold.to(GPU), whole)
    way = Gradient(surrogate, width, False)
    grad, sums = kernels.lif_backward(above.to(GPU), x.to(GPU), tau.to(GPU), threshold.to(GPU), way, True, whole)
    assert sums is not None and spikes.stride() == x.stride()
    for device in ("cpu", "cuda"):
        here = tau.to(device), threshold.to(device)
        wanted, membranes = lif_forward(x.to(device), *here, whole)
        wanted_grad, *constants = lif_backward(above.to(device), membranes, *here, way)
        assert torch.equal(spikes.to(device), wanted)
        assert torch.equal(grad.to(device), wanted_grad.to(dtype)), device
        assert torch.allclose(sums.to(device).float(), torch.stack(constants), rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_tdbn_and_neuron_joined(dtype: torch.dtype) -> None:
    """The second pass in the neuron's kernel: spikes of ``x scale + shift`` bit for bit; statistics and gradients as
    those of the layers apart, up to rounding."""
    x = currents(dtype, 4).to(GPU)
    norm, lif = TDBatchNorm(32).to(GPU), LIF(0.3, 0.5, surrogate="arctan", trainable_tau=True).to(GPU)
    nn.init.normal_(norm.bias, std=0.2)
    apart, joined = nn.Sequential(norm, lif).train(), copy.deepcopy(nn.Sequential(norm, lif)).train()
    fuse_neurons(joined, GPU)
    results = []
    for layers in (apart, joined):
        leaf = x.clone().requires_grad_()
        spikes = layers(leaf)
        (spikes.float() * torch.sin(torch.arange(x.numel(), device=GPU)).view(x.shape)).sum().backward()
        assert leaf.grad is not None
        results.append((spikes.detach(), leaf.grad.float(), [p.grad for p in layers.parameters()]))
    mean, invstd = gpu.moments(x.flatten(0, 1), norm.eps)
    scale = (norm.gain * invstd).detach()
    shift = norm.bias.detach() - mean * scale
    y = (x.float() * scale.view(-1, 1, 1) + shift.view(-1, 1, 1)).to(dtype)
    assert torch.equal(results[1][0], lif_forward(y, lif.tau.detach(), lif.threshold)[0])
    for name, value in norm.named_buffers():
        assert torch.allclose(joined[0].get_buffer(name), value, rtol=1e-4, atol=1e-5), name
    # a spike that rounding turns changes gradients of its own neuron by as much as they are: most are near
    near = 1e-3 if dtype == torch.float32 else 5e-2
    assert (results[0][0] != results[1][0]).float().mean() < near
    assert (results[0][1] - results[1][1]).norm() < 10 * near * results[0][1].norm()
    for mine, theirs in zip(results[1][2], results[0][2], strict=True):
        assert (mine - theirs).norm() < 10 * near * theirs.norm() + 1e-3


def test_bntt_is_that_of_the_cpu() -> None:
    x, norm = currents(torch.float32, 4), BNTT(32, 4)
    there = copy.deepcopy(norm).to(GPU)
    assert torch.allclose(there.train()(x.to(GPU)).cpu(), norm.train()(x), atol=1e-5)
    assert torch.allclose(there.running_var.cpu(), norm.running_var, rtol=1e-5)


# --------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("norm", ["tdbn", "bntt"])
def test_a_step_is_that_of_the_cpu(norm: str, digits: Sets, tmp_path: Path) -> None:
    """Gradients of a batch in float32: fused and not, on the GPU and the CPU, near each other."""
    layers = [{"type": "conv", "channels": 16, "norm": norm}, {"type": "conv", "channels": 16, "norm": norm}]
    recipe = tiny_recipe(model__layers=[*layers, *tiny_recipe().model_dump(mode="json")["model"]["layers"][2:]])
    images, labels = digits[0].images[:64], digits[0].labels[:64]
    found = []
    for device, fuse in ((torch.device("cpu"), False), (GPU, False), (GPU, True)):
        network = Trainer(recipe, *digits, tmp_path / str(len(found)), device=device, fuse=fuse).network.train()
        with arithmetic(device, "float32"):
            F.cross_entropy(network(images.to(device)), labels.to(device)).backward()
        found.append(torch.cat([p.grad.flatten().cpu() for p in network.parameters() if p.grad is not None]))
    for other in found[1:]:
        assert (other - found[0]).norm() < 0.02 * found[0].norm()


@pytest.mark.parametrize("changes", [{}, MODERN, {"train__precision": "bfloat16", "train__optimizer": "sgd"}], ids=str)
@pytest.mark.parametrize("graph", [False, True], ids=["", "graph"])
def test_a_resumed_run_repeats_an_unbroken_one(
    graph: bool, changes: dict[str, Any], digits: Sets, tmp_path: Path
) -> None:
    """With `train.deterministic`, bit for bit, also where steps are replayed as a graph."""
    recipe = tiny_recipe(**changes, **SAME, train__epochs=3)
    train(recipe, digits, tmp_path / "whole", graph=graph)
    events = Trainer(recipe, *digits, tmp_path / "broken", device=GPU, graph=graph).run()
    for _ in range(11):
        next(events)
    events.close()  # type: ignore[attr-defined]
    train(recipe, digits, tmp_path / "broken", resume=True, graph=graph)
    assert_equal(state_of(tmp_path / "broken" / "model.pt"), state_of(tmp_path / "whole" / "model.pt"))
    assert history_of(tmp_path / "broken") == history_of(tmp_path / "whole")


def test_a_graph_gives_what_launching_gives(digits: Sets, tmp_path: Path) -> None:
    """Dropout included, whose numbers are drawn anew at every replay."""
    layers = tiny_recipe().model_dump(mode="json")["model"]["layers"]
    recipe = tiny_recipe(**SAME, model__layers=[layers[0], {"type": "dropout", "p": 0.3}, *layers[1:]])
    for graph in (False, True):
        train(recipe, digits, tmp_path / str(graph), graph=graph)
    assert_equal(state_of(tmp_path / "True" / "model.pt"), state_of(tmp_path / "False" / "model.pt"))


def test_steps_ask_for_nothing(digits: Sets, tmp_path: Path) -> None:
    """CUDA itself raises where a step would wait for the device."""
    trainer = Trainer(tiny_recipe(**MODERN), *digits, tmp_path, device=GPU, graph=False)
    for _ in range(4):
        trainer._step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            trainer._step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert trainer.batches.images.is_cuda and trainer._unread == 7


def test_it_learns_and_is_judged_alike(trained: Path, digits: Sets) -> None:
    """The accuracy in model.pt, computed on the GPU, is that of the file on the CPU, but for scores at the brink."""
    model = model_file.load(trained / "model.pt")
    on_cpu = evaluate(model.network, digits[1])
    assert model.metrics["float_accuracy"] == pytest.approx(on_cpu, abs=0.02)
    assert on_cpu > 0.5  # of ten classes
    assert evaluate(model.network.to(GPU), digits[1]) == pytest.approx(on_cpu, abs=0.02)


def test_poisson_input_and_a_teacher(trained: Path, digits: Sets, tmp_path: Path) -> None:
    recipe = tiny_recipe(model__coding="poisson", model__timesteps=4, train__distill=0.5)
    found = train(recipe, digits, tmp_path, teacher=trained / "model.pt")
    assert found.metrics["teacher"] == trained.name


def test_retraining_to_one_step(trained: Path, digits: Sets, tmp_path: Path) -> None:
    run = Iir(trained / "model.pt", tmp_path / "iir", timesteps=1, epochs=1)
    with run.hold():
        for stage in run.stages:
            trainer = run.trainer(stage, *digits, device=GPU)
            assert trainer is not None
            list(trainer.run())
            row = run.measure(stage, digits[1], device=GPU)
    assert row["timesteps"] == 1 and row["accuracy"] > 0.3


def test_training_in_integers(trained: Path, digits: Sets, tmp_path: Path) -> None:
    """What it leaves simulates on the GPU, in int8, as the engine of the CPU does."""
    recipe = tiny_recipe(train__quantize={"weight_bits": 4}, train__epochs=2)
    train(recipe, digits, tmp_path, init=trained / "model.pt")
    model = model_file.load(tmp_path / "model.pt")
    chain = pipeline.export(model, chip.load("loihi2")).chain
    here, there = (simulate(chain, images=digits[1], device=device) for device in (torch.device("cpu"), GPU))
    assert (here.trace.scores == there.trace.scores).all() and here.trace.counts == there.trace.counts
    assert there.engine == "dense"


class Frames(nn.Module):
    """A module of a user: torch's layers, steps in a loop, and the last scores as a tensor that is no buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.lif = nn.Conv2d(1, 8, 3, bias=False), nn.BatchNorm2d(8), LIF(0.3, 0.5)
        self.head = nn.Linear(288, 10)
        self.last: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        currents = torch.stack([self.norm(self.conv(step)) for step in x])
        self.last = self.head(self.lif(currents).flatten(2)).sum(0)
        return self.last


def test_what_lies_on_the_gpu_is_deployed_as_from_the_cpu(trained: Path) -> None:
    """Networks of ours and modules of users, with samples and labels that lie there too: the same integers."""
    torch.manual_seed(0)
    frames = (torch.rand(24, 4, 1, 8, 8) < 0.4).float()
    module = Frames().eval()
    there = copy.deepcopy(module).to(GPU)
    there(frames.transpose(0, 1).to(GPU))
    ours = model_file.load(trained / "model.pt").network
    pixels, labels = torch.randint(0, 17, (24, 1, 8, 8), dtype=torch.uint8), torch.arange(24) % 10
    for here, moved, samples in ((module, there, frames), (ours, copy.deepcopy(ours).to(GPU), (pixels, labels))):
        given = samples.to(GPU) if isinstance(samples, Tensor) else tuple(part.to(GPU) for part in samples)
        first, second = deploy(here, samples, must_fit=False), deploy(moved, given, must_fit=False)
        assert_equal(second.chain, first.chain)
        assert next(moved.parameters()).is_cuda  # what was given stays where it is


def test_cost_is_counted_alike(trained: Path, digits: Sets) -> None:
    """Of the same spikes the same counts, but for neurons at the brink."""
    network = model_file.load(trained / "model.pt").network
    here = cost(network, digits[1])
    there = cost(network.to(GPU), digits[1], device=GPU)
    assert there.accumulates == pytest.approx(here.accumulates, rel=1e-3)
    assert there.multiply_accumulates == here.multiply_accumulates
