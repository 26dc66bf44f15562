"""What trains computes what its equations say: neuron, gradients, normalization, coding."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from helpers import usually
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from snn2chip.errors import InputError
from snn2chip.ir.encode import Encoder
from snn2chip.nn import (
    BNTT,
    LIF,
    AvgPool2d,
    Conv2d,
    DirectInput,
    Dropout,
    Flatten,
    GlobalAvgPool,
    Linear,
    MembraneReadout,
    PoissonInput,
    SpikeCountReadout,
    SpikingNetwork,
    TDBatchNorm,
    in_float64,
)
from snn2chip.nn.early_exit import ExitReport, early_exit
from snn2chip.nn.neuron import fuse_neurons, lif_forward
from snn2chip.nn.surrogate import SURROGATES
from snn2chip.recipe import SurrogateName

NAMES: tuple[SurrogateName, ...] = ("rectangular", "triangular", "arctan")


# ---------------------------------------------------------------- the neuron; its gradients in test_nn_kernels


@pytest.mark.parametrize("name", NAMES)
def test_surrogates_have_area_one_and_their_formula(name: SurrogateName) -> None:
    """Each surrogate integrates to one over the line and is symmetric."""
    for width in (0.5, 1.0, 3.0):
        x = torch.linspace(-4000, 4000, 8_000_001, dtype=torch.float64)
        y = SURROGATES[name](x, width)
        area = float(torch.trapezoid(y, x))
        assert abs(area - 1) < 2e-3
        torch.testing.assert_close(y, y.flip(0), rtol=1e-12, atol=1e-15)
        assert y.argmax() == 4_000_000 or name == "rectangular"


def test_a_membrane_exactly_at_threshold_does_not_fire() -> None:
    """`>` is strict, in the first step and after a leak, and the kept membrane goes on leaking."""
    current = torch.tensor([[0.5], [0.375], [0.375 + 2**-20]])
    lif = LIF(0.25, 0.5)
    assert lif(current).flatten().tolist() == [0.0, 0.0, 1.0]
    spikes, membranes = lif_forward(current, lif.tau, lif.threshold)
    assert membranes.flatten().tolist() == [0.5, 0.5, 0.5 + 2**-20]
    assert spikes.flatten().tolist() == [0.0, 0.0, 1.0]


def test_a_spike_resets_to_zero() -> None:
    """After a spike nothing of the membrane is left."""
    current = torch.tensor([[100.0], [0.5], [0.5]])
    _, membranes = lif_forward(current, torch.tensor(0.5), torch.tensor(0.6))
    assert membranes.flatten().tolist() == [100.0, 0.5, 0.75]


@settings(max_examples=usually(40), deadline=None)
@given(seed=st.integers(0, 2**32 - 1), tau=st.floats(0.05, 1.0), kept=st.floats(0.0, 0.99), steps=st.integers(1, 9))
def test_a_current_that_decays(seed: int, tau: float, kept: float, steps: int) -> None:
    """Spikes and gradients of a loop over steps; with 0 the neuron is the one without a current."""
    current = torch.randn(steps, 3, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    lif = in_float64(LIF(tau, 0.5, current_tau=kept))
    given_, ours = current.clone().requires_grad_(), current.clone().requires_grad_()
    flowing, states = torch.zeros(3, 4, dtype=torch.float64), []
    for step in range(steps):
        flowing = kept * flowing + given_[step]
        states.append(flowing)
    weights = torch.arange(steps * 12.0, dtype=torch.float64).reshape(steps, 3, 4)
    plain = in_float64(LIF(tau, 0.5))
    wanted, found = plain(torch.stack(states)), lif(ours)
    assert torch.equal(wanted, found) and (kept or torch.equal(found, plain(current)))
    (wanted * weights).sum().backward()
    (found * weights).sum().backward()
    assert given_.grad is not None and ours.grad is not None
    torch.testing.assert_close(ours.grad, given_.grad)


def test_bfloat16_currents_keep_a_float32_membrane() -> None:
    """The leak is not rounded to bfloat16, spikes come back in bfloat16, and so does the gradient."""
    generator = torch.Generator().manual_seed(0)
    current = torch.randn((5, 64, 8), generator=generator).bfloat16()
    lif = LIF(0.3, 0.7)
    spikes, membranes = lif_forward(current, lif.tau, lif.threshold)
    wide, wide_membranes = lif_forward(current.float(), lif.tau, lif.threshold)
    assert (spikes.dtype, membranes.dtype) == (torch.bfloat16, torch.float32)
    assert torch.equal(spikes.float(), wide) and torch.equal(membranes, wide_membranes)
    assert not torch.equal(membranes, membranes.bfloat16().float())
    leaf = current.clone().requires_grad_()
    out = lif(leaf)
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert leaf.grad is not None and leaf.grad.dtype == torch.bfloat16


def test_fused_equals_eager_in_bfloat16() -> None:
    """fuse=True gives the same spikes, and gradients to bfloat16's rounding, with or without a C++ compiler."""
    torch.manual_seed(0)
    current, above = torch.randn(2, 4, 8, 6, 5).bfloat16()
    results = []
    for fuse in (False, True):
        lif = LIF(0.25, 0.5, surrogate="arctan", trainable_tau=True, trainable_threshold=True)
        if fuse:
            fuse_neurons(nn.Sequential(lif), torch.device("cpu"))
            assert lif.fuse
        leaf = current.clone().requires_grad_()
        spikes = lif(leaf * 1)  # not a leaf, as behind a convolution
        (spikes * above).float().sum().backward()
        assert leaf.grad is not None and lif.tau_logit is not None and lif.log_threshold is not None
        results.append((spikes.detach(), leaf.grad, lif.tau_logit.grad, lif.log_threshold.grad))
        assert torch.equal(lif.eval()(current), spikes)
    eager, fused = results
    assert torch.equal(eager[0], fused[0])
    for mine, theirs in zip(eager[1:], fused[1:], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-2, atol=1e-2)


def test_fuse_without_a_compiler_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """No C++ compiler: neurons run in torch, block by block, and the note names what to install."""
    monkeypatch.setattr("snn2chip.nn.kernels.load", lambda: "no C++ compiler found; install g++")
    lif = LIF()
    note = fuse_neurons(nn.Sequential(lif), torch.device("cpu"))
    assert note is not None and "g++" in note
    assert lif.fuse


# -------------------------------------------------------------------------------------------------- normalization


@pytest.mark.parametrize("image", [True, False])
@pytest.mark.parametrize("threshold", [0.5, 1.3])
@pytest.mark.parametrize("alpha", [1.0, 1 / math.sqrt(2)])
def test_tdbn_is_its_formula(alpha: float, threshold: float, image: bool) -> None:
    """y = gamma alpha Vth (x - mu) / sqrt(var + eps) + beta, batch statistics in training, running in eval."""
    generator = torch.Generator().manual_seed(1)
    shape = (3, 4, 5, 6, 7) if image else (3, 4, 5)
    norm = TDBatchNorm(5, alpha=alpha, threshold=threshold, eps=1e-3, momentum=0.2).double()
    with torch.no_grad():
        norm.weight.copy_(torch.randn(5, generator=generator, dtype=torch.float64))
        norm.bias.copy_(torch.randn(5, generator=generator, dtype=torch.float64))
    axes = (0, 1, 3, 4) if image else (0, 1)

    def formula(x: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        def channel(values: Tensor) -> Tensor:
            return values.view(1, 1, -1, *(1,) * (len(shape) - 3))

        scaled = alpha * threshold * (x - channel(mean)) / torch.sqrt(channel(var) + 1e-3)
        return channel(norm.weight) * scaled + channel(norm.bias)

    mean, var = torch.zeros(5, dtype=torch.float64), torch.ones(5, dtype=torch.float64)
    for _ in range(3):
        x = 3 + 2 * torch.randn(shape, generator=generator, dtype=torch.float64)
        torch.testing.assert_close(
            norm(x), formula(x, x.mean(axes), x.var(axes, unbiased=False)), rtol=1e-12, atol=1e-12
        )
        mean = 0.8 * mean + 0.2 * x.mean(axes)
        var = 0.8 * var + 0.2 * x.var(axes, unbiased=True)
    torch.testing.assert_close(norm.running_mean, mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(norm.running_var, var, rtol=1e-12, atol=1e-12)
    norm.eval()
    before = norm.running_mean.clone(), norm.running_var.clone()
    torch.testing.assert_close(norm(x), formula(x, mean, var), rtol=1e-12, atol=1e-12)
    assert torch.equal(norm.running_mean, before[0]) and torch.equal(norm.running_var, before[1])


# ------------------------------------------------------------------------------------ batch norm through time


def bntt_pair(steps: int, channels: int, seed: int, *, image: bool) -> tuple[BNTT, list[nn.BatchNorm2d]]:
    """A BNTT with gammas of its own at every step, and one BatchNorm2d a step with the same ones, in float64."""
    generator = torch.Generator().manual_seed(seed)
    ours = BNTT(channels, steps, scale=0.7, eps=1e-3, momentum=0.2).double()
    kind = nn.BatchNorm2d if image else nn.BatchNorm1d
    theirs = [kind(channels, eps=1e-3, momentum=0.2).double() for _ in range(steps)]
    with torch.no_grad():
        ours.log_weight.add_(torch.randn(steps, channels, generator=generator, dtype=torch.float64))
        for gamma, norm in zip(ours.weight, theirs, strict=True):
            norm.weight.copy_(gamma)
    return ours, theirs  # type: ignore[return-value]


@pytest.mark.parametrize("image", [True, False])
@pytest.mark.parametrize("steps", [1, 3])
def test_bntt_is_a_batch_norm_of_its_own_at_every_step(steps: int, image: bool) -> None:
    """Outputs, running statistics and gradients are those of a loop over torch's BatchNorm, and eval uses them."""
    ours, theirs = bntt_pair(steps, 5, 1, image=image)
    generator = torch.Generator().manual_seed(2)
    shape = (steps, 4, 5, 6, 7) if image else (steps, 4, 5)
    for _ in range(3):
        x = 2 + 3 * torch.randn(shape, generator=generator, dtype=torch.float64)
        x *= 1 + torch.arange(steps).view(-1, *(1,) * (len(shape) - 1))  # every step has a scale of its own
        above = torch.randn(shape, generator=generator, dtype=torch.float64)
        mine, loop = x.clone().requires_grad_(), x.clone().requires_grad_()
        for module in (ours, *theirs):
            module.zero_grad()
        y = ours(mine)
        expected = torch.stack([norm(step) for norm, step in zip(theirs, loop, strict=True)])
        torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
        (y * above).sum().backward()
        (expected * above).sum().backward()
        torch.testing.assert_close(mine.grad, loop.grad, rtol=1e-12, atol=1e-12)
        assert ours.log_weight.grad is not None
        for step, norm in enumerate(theirs):
            torch.testing.assert_close(ours.running_mean[step], norm.running_mean, rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(ours.running_var[step], norm.running_var, rtol=1e-12, atol=1e-12)
            # d gamma / d log gamma = gamma
            torch.testing.assert_close(ours.log_weight.grad[step], norm.weight.grad * norm.weight)
    ours.eval()
    kept = ours.running_mean.clone()
    torch.testing.assert_close(
        ours(x),
        torch.stack([norm.eval()(step) for norm, step in zip(theirs, x, strict=True)]),
        rtol=1e-12,
        atol=1e-12,
    )
    assert torch.equal(ours.running_mean, kept)


def test_bntt_starts_at_its_scale_and_stays_positive() -> None:
    """gamma is `scale` everywhere at the start, and no gradient step makes it 0 or negative."""
    norm = BNTT(3, 2, scale=0.5)
    torch.testing.assert_close(norm.weight, torch.full((2, 3), 0.5))
    assert norm.scale == 0.5
    optimizer = torch.optim.SGD(norm.parameters(), lr=5.0)
    for _ in range(20):
        optimizer.zero_grad()
        norm(torch.randn(2, 8, 3)).square().sum().backward()
        optimizer.step()
    assert float(norm.weight.detach().min()) > 0
    assert float(norm.weight.detach().max()) < 0.5


@pytest.mark.parametrize("steps", [2, 4])
def test_bntt_refuses_another_number_of_steps(steps: int) -> None:
    """Steps without statistics, or statistics without steps, are named with both numbers."""
    with pytest.raises(InputError, match=f"an input of {steps} steps, but statistics of 3"):
        BNTT(2, 3)(torch.zeros(steps, 4, 2))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"timesteps": 0}, "BNTT: timesteps 0 is not at least 1"),
        ({"timesteps": 2, "scale": 0.0}, "BNTT: scale 0.0 is not a positive number"),
        ({"timesteps": 2, "eps": math.inf}, "BNTT: eps inf is not a positive number"),
    ],
)
def test_bntt_refuses_constants_that_make_no_sense(arguments: dict[str, float], message: str) -> None:
    """By name, with the value."""
    with pytest.raises(InputError) as caught:
        BNTT(2, **arguments)  # type: ignore[arg-type]
    assert str(caught.value) == message


# ---------------------------------------------------------------------------------------- early exit in time


def test_early_exit_is_the_last_step_that_any_layer_needs() -> None:
    """A layer's mean gamma relative to its start decides, at all later steps; the last layer to need one counts."""
    first, second = BNTT(2, 5, scale=0.5), BNTT(3, 5, scale=2.0)
    with torch.no_grad():
        first.log_weight.copy_(torch.tensor([0.5, 0.2, 0.04, 0.06, 0.01]).log()[:, None].expand(5, 2))
        second.log_weight.copy_(torch.tensor([2.0, 0.1, 0.21, 0.19, 0.1]).log()[:, None].expand(5, 3))
    body = nn.Sequential(first, second)
    found = early_exit(body)
    # of 0.5: 0.05 is the limit, step 4 is above it although step 3 is not; of 2: 0.2
    assert (found.steps, found.timesteps, found.layers) == (5, 4, {"0": 4, "1": 3})
    assert early_exit(body, 0.13).layers == {"0": 2, "1": 1}
    assert early_exit(body, 0.13).timesteps == 2
    assert early_exit(body, 0.01).timesteps == 5
    assert early_exit(body, 9.0) == ExitReport(9.0, 5, 1, {"0": 0, "1": 0})


def test_early_exit_takes_the_mean_over_channels() -> None:
    """One channel with a large gamma can keep a layer alive."""
    norm = BNTT(4, 2)
    with torch.no_grad():
        norm.log_weight.copy_(torch.tensor([[1.0] * 4, [0.5, 1e-3, 1e-3, 1e-3]]).log())
    assert early_exit(norm).timesteps == 2  # mean 0.126
    assert early_exit(norm, 0.13).timesteps == 1


def test_early_exit_needs_bntt_and_a_limit() -> None:
    """Refused by name."""
    with pytest.raises(InputError, match="no BNTT layer"):
        early_exit(nn.Sequential(TDBatchNorm(2)))
    with pytest.raises(InputError, match=r"limit 0.0 is not positive"):
        early_exit(BNTT(2, 2), 0.0)


# ---------------------------------------------------------------------------------------------- stateless layers


@pytest.mark.parametrize(
    ("layer", "plain", "shape"),
    [
        (lambda: Conv2d(4, 6, 3, 2, 1, 2, 2), nn.Conv2d.forward, (3, 2, 4, 9, 8)),
        (lambda: Linear(5, 3), nn.Linear.forward, (3, 2, 5)),
        (lambda: AvgPool2d(2), lambda m, x: F.avg_pool2d(x, 2), (3, 2, 4, 5, 6)),
        (GlobalAvgPool, lambda m, x: x.mean((2, 3)), (3, 2, 4, 5, 6)),
        (Flatten, lambda m, x: nn.Flatten()(x), (3, 2, 4, 5, 6)),
    ],
    ids=["conv", "linear", "avgpool", "globalavgpool", "flatten"],
)
def test_layers_over_time_equal_step_by_step(
    layer: Callable[[], nn.Module], plain: Callable[[nn.Module, Tensor], Tensor], shape: tuple[int, ...]
) -> None:
    """(T, N, ...) at once is what torch's own operation gives for every step alone."""
    torch.manual_seed(0)
    module = layer().double()
    x = torch.randn(shape, dtype=torch.float64)
    expected = torch.stack([plain(module, step) for step in x])
    torch.testing.assert_close(module(x), expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("kernel, stride, padding", list(product([1, (1, 3)], [2, (1, 3)], [0, (2, 1)])))
@pytest.mark.parametrize("mode", ["zeros", "reflect"])
@pytest.mark.parametrize("last", [False, True])
def test_strided_convolutions_are_torchs(kernel: Any, stride: Any, padding: Any, mode: str, last: bool) -> None:
    """Outputs and all gradients of small integers equal torch's own layer in float64, in groups and with a bias."""
    torch.manual_seed(0)
    mine = Conv2d(4, 6, kernel, stride, padding, groups=2, padding_mode=mode)
    theirs = nn.Conv2d(4, 6, kernel, stride, padding, groups=2, padding_mode=mode).double()
    with torch.no_grad():
        for one, other in zip(mine.parameters(), theirs.parameters(), strict=True):
            one.copy_(other.copy_(torch.randint(-3, 4, other.shape)))
    data = torch.randint(-3, 4, (2, 3, 4, 8, 6)).float()
    if last:
        data = data.movedim(2, -1).contiguous().movedim(-1, 2)
    x, wide = data.requires_grad_(), data.detach().double().requires_grad_()
    y, expected = mine(x), theirs(wide.flatten(0, 1)).unflatten(0, (2, 3))
    assert torch.equal(y.double(), expected)
    above = torch.randint(-3, 4, y.shape).float()
    y.backward(above)
    expected.backward(above.double())
    for one, other in zip([x, *mine.parameters()], [wide, *theirs.parameters()], strict=True):
        assert one.grad is not None and other.grad is not None
        assert torch.equal(one.grad.double(), other.grad)


NARROW = """
from itertools import product
import torch
from snn2chip.nn import Conv2d

cases = product((1, 3, 4, 6, 7, 9, 15), (4, 16), (torch.float32, torch.bfloat16))
for inputs, side, dtype in cases:
    torch.manual_seed(inputs)
    layer = Conv2d(inputs, 8, 1, 2, bias=False).to(memory_format=torch.channels_last)
    with torch.no_grad():
        layer.weight.copy_(torch.randint(-3, 4, layer.weight.shape))
    x = torch.randint(0, 2, (1, 8, inputs, side, side)).float().movedim(2, -1).contiguous().movedim(-1, 2)
    for _ in range(3):
        layer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            y = layer(x)
        y.backward(torch.ones_like(y))
        expected = x[..., ::2, ::2].sum((0, 1, 3, 4)).view(1, -1, 1, 1).expand(layer.weight.shape).to(dtype)
        assert torch.equal(layer.weight.grad, expected), (inputs, side, dtype)
print("equal")
"""


@pytest.mark.parametrize("isa", ["AVX2", "DEFAULT"])
@pytest.mark.parametrize("threads", ["1", "2"])
def test_a_strided_kernel_of_one_pixel_and_few_channels(isa: str, threads: str) -> None:
    """Its gradient is right, and the process lives: oneDNN's own, on AVX2, corrupts memory or is wrong in silence."""
    settings = {"ONEDNN_MAX_CPU_ISA": isa, "OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(
        [sys.executable, "-c", NARROW], env={**os.environ, **settings}, capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stdout) == (0, "equal\n"), done.stderr


def test_dropout_drops_the_same_entries_at_every_step() -> None:
    """One mask a sample, scaled by 1/(1-p), of the right share; nothing in eval mode."""
    torch.manual_seed(0)
    drop = Dropout(0.3)
    x = torch.rand(5, 40, 10, 7, 7) + 1
    y = drop(x)
    kept = y != 0
    assert torch.equal(kept, kept[:1].expand_as(kept))
    assert not torch.equal(kept[0, 0], kept[0, 1])
    assert abs(float(kept[0].double().mean()) - 0.7) < 0.02
    torch.testing.assert_close(y[kept], (x / 0.7)[kept])
    assert drop.eval()(x) is x


# ---------------------------------------------------------------------------------------------------------- coding


def test_direct_input_repeats_the_normalized_image() -> None:
    """(x / max - mean) / std per channel, the same at every step."""
    encoder = DirectInput(3, 16, [0.25, 0.5], [0.5, 2.0])
    x = torch.randint(0, 17, (2, 2, 3, 4))
    y = encoder(x)
    assert y.shape == (3, 2, 2, 3, 4)
    for channel, (mean, std) in enumerate([(0.25, 0.5), (0.5, 2.0)]):
        for step in range(3):
            torch.testing.assert_close(y[step, :, channel], (x[:, channel] / 16 - mean) / std)


def test_poisson_is_reproducible_and_of_the_right_rate() -> None:
    """The same seed gives the same spikes, another seed others; rates are x / max; 0 never, max always."""
    x = torch.arange(256).repeat(4, 1).view(4, 1, 16, 16)
    encoder = PoissonInput(200, 255, seed=5)
    first, second = encoder(x), encoder(x)
    encoder.reseed(5)
    assert torch.equal(encoder(x), first)
    assert torch.equal(PoissonInput(200, 255, seed=5)(x), first)
    assert not torch.equal(first, second)
    assert not torch.equal(PoissonInput(200, 255, seed=6)(x), first)
    assert set(first.unique().tolist()) == {0.0, 1.0}
    rate = torch.stack([first, second]).mean((0, 1, 2)).flatten()  # 1600 draws
    p = torch.arange(256) / 255
    assert bool(((rate - p).abs() < 5.5 * (p * (1 - p) / 1600).sqrt() + 1e-9).all())
    assert rate[0] == 0 and rate[255] == 1


def test_poisson_does_not_touch_the_global_generator() -> None:
    """Encoding draws from its own generator: training's randomness does not depend on it."""
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    PoissonInput(2, 255)(torch.zeros(1, 1, 2, 2))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("coding", ["direct", "poisson"])
def test_encoder_gives_what_training_saw(coding: str) -> None:
    """`Encoder` repeats images, or draws the training encoder's own spikes batch after batch."""
    images = torch.randint(0, 17, (6, 2, 3, 4))
    encoder = Encoder(coding, (2, 3, 4), 5, 16, seed=9)  # type: ignore[arg-type]
    got = np.concatenate([encoder(images[:4]), encoder(images[4:])])
    if coding == "direct":
        expected = images[:, None].expand(6, 5, 2, 3, 4)
    else:
        trained = PoissonInput(5, 16, seed=9)
        expected = torch.cat([trained(images[:4]), trained(images[4:])], 1).transpose(0, 1)
    assert got.dtype == np.int64
    np.testing.assert_array_equal(got, expected.numpy())


def test_encoder_refuses_what_it_was_not_trained_on() -> None:
    """Another shape, pixels beyond the range, and fractions are named; nothing is cut off silently."""
    encoder = Encoder("direct", (1, 2, 2), 3, 16)
    with pytest.raises(InputError, match=r"\(1, 3, 2\) do not fit the network's input \(1, 2, 2\)"):
        encoder(np.zeros((2, 1, 3, 2), dtype=np.uint8))
    with pytest.raises(InputError, match=r"0\.\.17 exceed the 0\.\.16"):
        encoder(np.arange(16, 18, dtype=np.int64).repeat(2).reshape(1, 1, 2, 2) * np.array([[0, 1], [1, 1]]))
    with pytest.raises(InputError, match=r"-1\.\.0 exceed the 0\.\.16"):
        encoder(np.array([[[[0, 0], [-1, 0]]]]))
    with pytest.raises(InputError, match=r"float64.*integers"):
        encoder(np.full((1, 1, 2, 2), 0.75))


def test_readouts() -> None:
    """Scores are means over time, in float32 at least."""
    x = torch.randn(4, 3, 5)
    torch.testing.assert_close(MembraneReadout()(x), x.mean(0))
    assert MembraneReadout()(x.bfloat16()).dtype == torch.float32
    assert MembraneReadout()(x.double()).dtype == torch.float64
    spikes = (x > 0).bfloat16()
    torch.testing.assert_close(SpikeCountReadout()(spikes), (x > 0).float().mean(0))


# ------------------------------------------------------------------------------------------------ wrong arguments


def network_of(shape: tuple[int, int, int]) -> SpikingNetwork:
    """A network that takes images of one channel."""
    body = nn.Sequential(Flatten(), Linear(4, 2))
    return SpikingNetwork(DirectInput(2, 255, [0.5], [0.5]), body, MembraneReadout(), shape)


def test_a_scalar_tensor_is_its_number() -> None:
    """As numpy's numbers are."""
    for value in (torch.tensor(0.25), np.float32(0.25), np.array(0.25)[()]):
        assert float(LIF(value, value).tau) == float(LIF(value, value).threshold) == 0.25


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((5, 784), r"input of shape \(5, 784\); expected \(N, 1, 2, 2\)"),
        ((5, 4), r"input of shape \(5, 4\); expected \(N, 1, 2, 2\)"),
        ((1, 2, 2), r"input of shape \(1, 2, 2\)"),
        ((5, 3, 2, 2), r"input of shape \(5, 3, 2, 2\)"),
    ],
)
def test_input_that_would_only_broadcast_is_refused(shape: tuple[int, ...], message: str) -> None:
    """By the network, and by its encoder alone."""
    network = network_of((1, 2, 2))
    with pytest.raises(InputError, match=message):
        network(torch.zeros(shape))
    with pytest.raises(InputError, match=r"DirectInput: images of shape .*expected \(N, 1, H, W\)"):
        network.encoder(torch.zeros(shape))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LIF(0.0), r"tau 0\.0 is outside \(0, 1\]"),
        (lambda: LIF(1.5), r"tau 1\.5 is outside"),
        (lambda: LIF(float("nan")), "tau nan"),
        (lambda: LIF(1.0, trainable_tau=True), r"outside \(0, 1\)"),
        (lambda: LIF(0.5, 0.0), r"threshold 0\.0 is not a positive number"),
        (lambda: LIF(0.5, float("inf")), "threshold inf"),
        (lambda: LIF(0.5, -1.0), r"threshold -1\.0"),
        (lambda: LIF(surrogate="sigmoid"), "'sigmoid' is not one of rectangular, triangular, arctan"),  # type: ignore[arg-type]
        (lambda: LIF(width=0.0), r"width 0\.0 is not positive"),
        (lambda: LIF(torch.tensor([0.25, 0.5])), r"LIF: tau is a tensor of shape \(2,\); give one number"),  # type: ignore[arg-type]
        (lambda: LIF(0.5, torch.zeros(0)), r"LIF: threshold is a tensor of shape \(0,\)"),  # type: ignore[arg-type]
        (lambda: LIF(nn.Parameter(torch.tensor(0.5))), r"LIF: tau is a tensor with a gradient.*trainable_tau"),  # type: ignore[arg-type]
        (lambda: LIF("0.5"), "LIF: tau is str, not a number"),  # type: ignore[arg-type]
        (lambda: TDBatchNorm(3, threshold=torch.ones(3)), r"TDBatchNorm: threshold is a tensor of shape \(3,\)"),  # type: ignore[arg-type]
        (lambda: BNTT(3, 2, scale=torch.ones(3)), r"BNTT: scale is a tensor of shape \(3,\)"),  # type: ignore[arg-type]
        (lambda: DirectInput(2, 255, [0.5] * 3, [0.5]), "DirectInput: 3 means and 1 deviations"),
        (lambda: DirectInput(2, 255, [], []), "DirectInput: 0 means and 0 deviations"),
        (lambda: network_of((784,)), r"input_shape \(784,\) is not .*give \(features, 1, 1\) and begin with a Flatten"),  # type: ignore[arg-type]
        (lambda: network_of((1, 28)), r"input_shape \(1, 28\) is not \(channels, height, width\)"),  # type: ignore[arg-type]
        (lambda: network_of((0, 2, 2)), r"input_shape \(0, 2, 2\)"),
        (lambda: network_of((3, 2, 2)), r"input_shape \(3, 2, 2\), but the encoder has the means of 1 channels"),
        (lambda: TDBatchNorm(3, alpha=0.0), r"alpha 0\.0"),
        (lambda: TDBatchNorm(3, threshold=-1.0), r"threshold -1\.0"),
        (lambda: TDBatchNorm(3, eps=0.0), r"eps 0\.0"),
        (lambda: TDBatchNorm(3, eps=float("nan")), "eps nan"),
        (lambda: DirectInput(2, 255, [0.0], [0.0]), r"std 0\.0 is not positive"),
        (lambda: DirectInput(0, 255, [0.0], [1.0]), "timesteps 0"),
        (lambda: PoissonInput(0, 255), "timesteps 0"),
        (lambda: PoissonInput(2, 0), "max_value 0"),
        (lambda: Dropout(1.0), r"p 1\.0 is outside \[0, 1\)"),
        (lambda: AvgPool2d(0), "kernel 0"),
    ],
)
def test_wrong_arguments_are_named(make: Callable[[], nn.Module], message: str) -> None:
    """Refused at construction, by argument name and value."""
    with pytest.raises(InputError, match=message):
        make()


def test_layers_print_their_constants() -> None:
    """A network's printed form names tau, threshold and the like, trainable ones without a warning."""
    shown = str(
        nn.Sequential(LIF(0.3, 0.7, trainable_tau=True, trainable_threshold=True), TDBatchNorm(4), Dropout(0.2))
    )
    for part in ("tau=0.3, threshold=0.7, surrogate=rectangular", "4, alpha=1, threshold=0.5", "p=0.2"):
        assert part in shown
