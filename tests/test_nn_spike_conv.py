"""Convolution by events: the sums and gradients of the dense one, exactly where nothing is rounded."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import usually
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional as F

from snn2chip.nn import LIF, Conv2d, kernels, spike_conv
from snn2chip.nn.kernels import mark_spikes

needs_kernels = pytest.mark.skipif(isinstance(kernels.load(), str), reason=f"no compiled kernels: {kernels.load()}")


def spikes_of(shape: tuple[int, int, int, int], density: float, seed: int) -> Tensor:
    """Random marked spikes (N, C, H, W), channels last."""
    drawn = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < density
    return mark_spikes(drawn.float().contiguous(memory_format=torch.channels_last))


def integers(shape: tuple[int, ...], seed: int) -> Tensor:
    """Small integers as float32: sums of thousands of them are exact in any order."""
    return torch.randint(-9, 10, shape, generator=torch.Generator().manual_seed(seed)).float()


pairs = st.tuples(st.integers(1, 5), st.integers(1, 5))


@needs_kernels
@given(
    st.tuples(st.integers(1, 3), st.integers(1, 150), st.integers(1, 20), st.integers(1, 20)),
    st.integers(1, 150),
    pairs,
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.integers(0, 3), st.integers(0, 3)),
    st.sampled_from([0.0, 0.02, 0.2, 1.0]),
    st.booleans(),
    st.integers(0, 2**31),
)
@example((2, 64, 16, 16), 128, (3, 3), (1, 1), (1, 1), 0.2, True, 0)
@example((40, 64, 3, 3), 64, (3, 3), (1, 1), (1, 1), 0.2, True, 1)  # images in groups
@example((1, 32, 70, 61), 33, (3, 3), (2, 2), (1, 1), 0.1, False, 2)  # an image in pieces
@example((1, 65, 20, 20), 17, (5, 4), (2, 1), (3, 0), 0.3, True, 3)  # kernels in parts, more padding than it needs
@settings(max_examples=usually(150), deadline=None)
def test_equal_to_the_dense_convolution(
    shape: tuple[int, int, int, int],
    outputs: int,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    density: float,
    last: bool,
    seed: int,
) -> None:
    """Of integers, sums and gradients are those of torch in float64, for every shape, not only those it is used for."""
    kernel = min(kernel[0], shape[2] + 2 * padding[0]), min(kernel[1], shape[3] + 2 * padding[1])
    x = spikes_of(shape, density, seed)
    weight = integers((outputs, shape[1], *kernel), seed + 1)
    if last:
        weight = weight.contiguous(memory_format=torch.channels_last)
    bias = integers((outputs,), seed + 2) if seed % 2 else None
    found = kernels.load()
    assert isinstance(found, kernels.Kernels)
    expected = F.conv2d(x.double(), weight.double(), None if bias is None else bias.double(), stride, padding)
    sizes = kernels.ConvSizes(*shape, outputs, *expected.shape[2:], *kernel, *stride, *padding)
    packed = found.pack_pixels(x)
    assert packed is not None
    words, count = packed
    assert count == int(x.sum())
    y = found.spike_conv(words, sizes, weight, bias)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(y.double(), expected)
    small = found.spike_conv(words, sizes, weight.to(torch.int16), None, 2)
    assert torch.equal(small.double(), F.conv2d(x.double(), 2 * weight.double(), None, stride, padding))
    grad = integers(tuple(y.shape), seed + 3).contiguous(memory_format=torch.channels_last)
    got = found.spike_conv_weights(words, sizes, grad, weight)
    assert got.stride() == weight.stride()
    wanted = torch.nn.grad.conv2d_weight(x.double(), weight.shape, grad.double(), stride, padding)  # type: ignore[attr-defined]
    assert torch.equal(got.double(), wanted)


def layer_and_gradients(layer: Conv2d, data: Tensor, above: Tensor, mark: bool) -> list[Tensor]:
    """Output, and gradients of the input, the weights and the bias."""
    layer.zero_grad()
    x = (data.clone().requires_grad_() * 1).detach().requires_grad_()
    y = layer(mark_spikes(x) if mark else x)
    (y * above).sum().backward()
    assert x.grad is not None and layer.weight.grad is not None and layer.bias is not None
    assert layer.bias.grad is not None
    return [y.detach(), x.grad, layer.weight.grad, layer.bias.grad]


@needs_kernels
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_layer_takes_events_and_has_the_same_gradients(
    stride: int, last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`Conv2d` over marked spikes: events are what runs, and input, weights and bias get torch's gradients."""
    layer = Conv2d(40, 48, 3, stride=stride, padding=1)
    with torch.no_grad():
        layer.weight.copy_(integers(tuple(layer.weight.shape), 0))
        assert layer.bias is not None
        layer.bias.copy_(integers((48,), 1))
    if last:
        layer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    data = spikes_of((12, 40, 10, 10), 0.2, 2).unflatten(0, (3, 4))
    above = integers((3, 4, 48, *(10 // stride,) * 2), 3)
    plain = layer_and_gradients(layer, data, above, False)
    calls = []
    convolved = kernels.Kernels.spike_conv
    monkeypatch.setattr(
        kernels.Kernels,
        "spike_conv",
        lambda *values: calls.append(1) or convolved(*values),  # type: ignore[func-returns-value]
    )
    events = layer_and_gradients(layer, data, above, True)
    assert calls == [1]
    for one, other in zip(plain, events, strict=True):
        assert torch.equal(one, other)
    assert events[2].stride() == layer.weight.stride()


@needs_kernels
def test_rounding_stays_within_its_bound() -> None:
    """Of any numbers, no sum is further from the exact one than n * eps * (sum of the terms' sizes) allows."""
    torch.manual_seed(0)
    x = spikes_of((64, 64, 16, 16), 0.2, 0)
    weight, bias = torch.randn(64, 64, 3, 3), torch.randn(64)
    found = kernels.load()
    assert isinstance(found, kernels.Kernels)
    sizes = kernels.ConvSizes(*x.shape, 64, 16, 16, 3, 3, 1, 1, 1, 1)
    packed = found.pack_pixels(x)
    assert packed is not None
    words = packed[0]
    y = found.spike_conv(words, sizes, weight, bias)
    wide = x.double(), weight.double(), bias.double()
    error = (y - F.conv2d(*wide, padding=1)).abs()
    terms = F.conv2d(wide[0], torch.ones_like(wide[1]), padding=1) + 1
    eps = torch.finfo(torch.float32).eps
    assert bool((error <= eps * terms * F.conv2d(wide[0], wide[1].abs(), bias.abs().double(), padding=1)).all())
    grad = torch.randn(y.shape).contiguous(memory_format=torch.channels_last)
    got = found.spike_conv_weights(words, sizes, grad, weight)
    of_weights = torch.nn.grad.conv2d_weight  # type: ignore[attr-defined]
    error = (got - of_weights(wide[0], weight.shape, grad.double(), padding=1)).abs()
    sizes_of_terms = of_weights(wide[0], weight.shape, grad.double().abs(), padding=1)
    terms = of_weights(wide[0], weight.shape, torch.ones_like(grad, dtype=torch.float64), padding=1)
    assert bool((error <= eps * terms * sizes_of_terms).all())


@needs_kernels
def test_threads_do_not_change_a_bit() -> None:
    """Sums and gradients are the same with one thread and with three."""
    torch.manual_seed(0)
    layer = Conv2d(64, 64, 3, padding=1)
    data, above = spikes_of((64, 64, 16, 16), 0.2, 0).unflatten(0, (4, 16)), torch.randn(4, 16, 64, 16, 16)
    results, before = [], torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            results.append(layer_and_gradients(layer, data, above, True))
    finally:
        torch.set_num_threads(before)
    # torch's own gradient of the input is not among them
    for index in (0, 2):
        assert torch.equal(results[0][index], results[1][index])


@needs_kernels
def test_where_events_are_not_for() -> None:
    """The dense convolution runs where it is faster, and where the compiled functions do not take the layer."""
    x = spikes_of((4, 32, 8, 8), 0.2, 0)
    assert spike_conv.convolve(x, Conv2d(32, 32, 3)) is not None
    others = {
        "few outputs": (x, Conv2d(32, 31, 3)),
        "few inputs": (spikes_of((4, 31, 8, 8), 0.2, 0), Conv2d(31, 32, 3)),
        "many spikes": (spikes_of((4, 32, 8, 8), 0.5, 0), Conv2d(32, 32, 3)),
        "not marked": (x.clone(memory_format=torch.preserve_format), Conv2d(32, 32, 3)),
        "groups": (x, Conv2d(32, 64, 3, groups=2)),
        "dilation": (x, Conv2d(32, 32, 3, dilation=2)),
        "padding mode": (x, Conv2d(32, 32, 3, padding=1, padding_mode="circular")),
        "padding by name": (x, Conv2d(32, 32, 3, padding="same")),
        "channels first": (mark_spikes(x.contiguous()), Conv2d(32, 32, 3)),
        "other channels": (x, Conv2d(64, 32, 3)),
        "not only zeros and ones": (mark_spikes(x * 2), Conv2d(32, 32, 3)),
        "float64": (mark_spikes(x.double()), Conv2d(32, 32, 3).double()),
        "kernel too large": (x, Conv2d(32, 32, 9)),
    }
    for why, (given_to, layer) in others.items():
        assert spike_conv.convolve(given_to, layer) is None, why


@needs_kernels
@pytest.mark.parametrize("stride", [1, 2])
def test_under_bfloat16_sums_of_spikes_are_those_of_float32(stride: int) -> None:
    """Forward and the gradient of the weights add float32 numbers, to the last bit as without autocast; the gradient of
    the input, which is dense, is the convolution in bfloat16."""
    torch.manual_seed(0)
    layer, x, above = Conv2d(48, 40, 4, stride, 1), spikes_of((3, 48, 10, 10), 0.2, 0), None
    found = []
    for enabled in (False, True):
        leaf = x.clone(memory_format=torch.preserve_format).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            y = spike_conv.convolve(mark_spikes(leaf), layer)
        assert y is not None and y.dtype == torch.float32
        above = torch.randn_like(y) if above is None else above
        found.append((y, *torch.autograd.grad(y, (layer.weight, leaf), above)))
    (y, weight, plain), (y16, weight16, coarse) = found
    assert torch.equal(y, y16) and torch.equal(weight, weight16)
    assert above is not None and coarse.dtype == torch.float32
    wanted = F.conv_transpose2d(above.bfloat16(), layer.weight.detach().bfloat16(), None, stride, 1)
    assert torch.equal(coarse, wanted.float()) and not torch.equal(coarse, plain)


@needs_kernels
def test_float_spikes_are_let_go() -> None:
    """After the forward pass only bits of them are left, and the gradient still comes back through the neuron."""
    lif, conv = LIF(), Conv2d(32, 32, 3)
    lif.fuse = True
    current = torch.randn(2, 2, 32, 8, 8).movedim(2, -1).contiguous().movedim(-1, 2) * 0.4
    current.requires_grad_()
    spikes = lif(current)
    assert 0 < float(spikes.detach().mean()) < spike_conv.MOST_SPIKES
    memory = StorageWeakRef(spikes.untyped_storage())
    y = conv(spikes)
    del spikes
    assert memory.expired()
    y.sum().backward()
    assert current.grad is not None and float(current.grad.abs().max()) > 0


@needs_kernels
@given(
    st.tuples(st.integers(1, 3), st.integers(32, 70), st.integers(1, 9), st.integers(1, 9)),
    st.integers(32, 40),
    st.integers(1, 3),
    st.integers(0, 2**31),
)
@settings(max_examples=usually(30), deadline=None)
def test_sums_of_booleans_are_those_of_the_dense_convolution(
    shape: tuple[int, int, int, int], outputs: int, stride: int, seed: int
) -> None:
    """Read as they are, without floats in between; None with few channels, or too many spikes."""
    x, weight = spikes_of(shape, 0.2, seed).bool(), integers((outputs, shape[1], 3, 3), seed)
    y = spike_conv.sums_of(x, weight, (stride, stride), (1, 1))
    assert (y is None) == (int(x.sum()) > spike_conv.MOST_SPIKES * x.numel())
    if y is not None:
        assert torch.equal(y, F.conv2d(x.float(), weight, None, stride, 1))
    assert spike_conv.sums_of(torch.ones_like(x), weight, (1, 1), (1, 1)) is None
    assert spike_conv.sums_of(x[:, :31], weight[:, :31], (1, 1), (1, 1)) is None


@needs_kernels
@given(st.integers(-(2**15), 2**15), st.integers(1, 4))
@example(341, 3)  # 64 x 3 of them are 2^16 - 64: half of an even one would do, and this is odd
@example(-340, 3)
@example(-342, 3)
@settings(max_examples=usually(60), deadline=None)
def test_sums_of_int16_never_wrap(value: int, kernel: int) -> None:
    """Of the largest weights that are taken, and spikes everywhere; refused are only those whose sums would wrap."""
    found = spike_conv.as_int16(np.full((32, 64, 1, kernel), value), 64 * kernel)
    if found is None:
        assert abs(value) // (2 - value % 2) * 64 * kernel >= 2**15
        return
    x = torch.ones((1, 1, 6, 64), dtype=torch.bool).permute(0, 3, 1, 2)
    y = spike_conv.sums_of(x, found[0], (1, 1), (0, 0), found[1])
    assert y is not None and bool((y == 64 * kernel * value).all())


@needs_kernels
@given(
    st.integers(1, 200), st.integers(1, 3), st.sampled_from([0.0, 0.5, 1.0]), st.booleans(), st.integers(0, 2**31)
)  # fmt: skip
@settings(max_examples=usually(60), deadline=None)
def test_sums_of_int16_are_widened_before_they_wrap(
    channels: int, kernel: int, same: float, everywhere: bool, seed: int
) -> None:
    """Of the largest weights of either sign, over as many rows of the kernel and words of channels as there are."""
    rng = np.random.default_rng(seed)
    channels = max(channels, spike_conv.LEAST_CHANNELS)
    most = (2**15 - 1) // (64 * kernel)
    signs = np.where(rng.random((40, channels, kernel, kernel)) < same, 1, rng.choice([-1, 0, 1]))
    found = spike_conv.as_int16(most * signs, 64 * kernel)
    assert found is not None
    x = torch.from_numpy(rng.random((2, 6, 5, channels)) < (1.0 if everywhere else 0.7)).permute(0, 3, 1, 2)
    y = spike_conv.sums_of(x, found[0], (1, 1), (1, 1), found[1])
    assert y is not None and torch.equal(
        y.double(), F.conv2d(x.double(), torch.from_numpy(most * signs).double(), None, 1, 1)
    )


@needs_kernels
@given(st.integers(1, 700), st.integers(1, 50), st.integers(1, 5), st.integers(0, 2**31))
@settings(max_examples=usually(60), deadline=None)
def test_products_of_rows_of_spikes_are_the_matrix_products(inputs: int, outputs: int, count: int, seed: int) -> None:
    """Of several matrices at once, and of the first rows."""
    rng, compiled = np.random.default_rng(seed), kernels.load()
    assert isinstance(compiled, kernels.Kernels)
    rows = torch.from_numpy(rng.random((9, inputs)) < rng.random())
    spikes = spike_conv.SpikeRows(rows, compiled)
    matrices = [rng.integers(-127, 128, (outputs, inputs)) * rng.choice([1, 2]) for _ in range(count)]
    small = [spike_conv.as_int16(each, spikes.together) for each in matrices]
    found = spikes.products([each for each in small if each is not None], 7)
    assert len(found) == count
    for matrix, sums in zip(matrices, found, strict=True):
        assert torch.equal(sums.double(), F.linear(rows[:7].double(), torch.from_numpy(matrix).double()))
