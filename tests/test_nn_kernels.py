"""The neuron as one operation: the same spikes and gradients as a loop of torch's own operations, less memory kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import plain_loop, usually
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from snn2chip import native
from snn2chip.nn import BNTT, LIF, Conv2d, DirectInput, Flatten, Linear, MaxPool2d, TDBatchNorm, kernels
from snn2chip.nn.kernels import is_marked, mark_spikes
from snn2chip.nn.surrogate import SURROGATES, Gradient
from snn2chip.recipe import SurrogateName

NAMES: tuple[SurrogateName, ...] = ("rectangular", "triangular", "arctan")
LAYOUTS = ("contiguous", "channels_last", "every_other", "repeated", "transposed")

needs_kernels = pytest.mark.skipif(isinstance(kernels.load(), str), reason=f"no compiled kernels: {kernels.load()}")


def laid_out(x: Tensor, layout: str) -> Tensor:
    """The values of x (T, N, C, H, W), or for "repeated" its first step at every step, in another memory layout."""
    if layout == "channels_last":
        return x.movedim(2, -1).contiguous().movedim(-1, 2)
    if layout == "every_other":
        wide = torch.zeros((*x.shape[:-1], 2 * x.shape[-1]), dtype=x.dtype)
        wide[..., ::2] = x
        return wide[..., ::2]
    if layout == "repeated":
        return x[:1].expand(x.shape)
    if layout == "transposed":
        return x.transpose(0, 1).contiguous().transpose(0, 1)
    return x


@needs_kernels
@given(
    st.tuples(*(st.integers(1, size) for size in (3, 4, 5, 6, 40))),
    st.sampled_from(LAYOUTS),
    st.sampled_from([torch.float32, torch.float64]),
    st.booleans(),
    st.sampled_from(["none", "channel", "neuron", "image"]),
    st.sampled_from(["none", "alike", "dense"]),
    st.integers(0, 2**31),
)
@settings(max_examples=usually(100), deadline=None)
def test_fire_is_the_loop_in_float64(
    shape: tuple[int, ...], layout: str, dtype: torch.dtype, whole: bool, kind: str, out: str, seed: int
) -> None:
    """To the last bit, for every layout of the sums and every kind of bias; and the largest numbers on the way."""
    found = kernels.load()
    assert isinstance(found, kernels.Kernels)
    generator = torch.Generator().manual_seed(seed)
    sums = laid_out((torch.randn(shape, generator=generator) * 100).to(dtype), layout).transpose(0, 1)
    one = sums[:, 0].shape
    bias = {"none": (), "channel": (one[1], 1, 1), "neuron": tuple(one[1:]), "image": tuple(one)}[kind]
    lift = torch.randn(bias, generator=generator, dtype=torch.float64)
    keep, over, factor = 0.7, 60.0, 3.0
    beside = torch.randint(0, 2, sums.shape, generator=generator).bool()
    place = torch.empty(sums.shape, dtype=torch.bool) if out == "dense" else torch.empty_like(sums, dtype=torch.bool)
    fired = found.fire(
        sums, lift, keep, over, factor=factor, whole=whole, wanted=beside, out=None if out == "none" else place
    )
    kept, wanted, before, after = torch.zeros(one, dtype=torch.float64), [], 0.0, 0.0
    for step in sums.double().unbind(1):
        left = keep * kept
        v = factor * (step + lift) + (left.trunc() if whole else left)
        wanted.append(v > over)
        kept = v.masked_fill(wanted[-1], 0)
        before, after = max(before, float(v.abs().max())), max(after, float(kept.abs().max()))
    assert fired.spikes.dtype == torch.bool and torch.equal(fired.spikes, torch.stack(wanted, 1))
    assert out == "none" or fired.spikes.data_ptr() == place.data_ptr()
    assert fired[1:4] == (float(sums.abs().max()), before, after)
    assert fired.fired == int(fired.spikes.sum()) and fired.differ == int((fired.spikes != beside).sum())
    assert found.fire(sums, lift, keep, over, factor=factor, whole=whole)[1:] == (*fired[1:5], 0)


def far_from(x: Tensor, tau: float, threshold: float, width: float) -> bool:
    """Whether no membrane is so near the threshold, or the surrogate's edge, that rounding could move it over."""
    u = torch.zeros_like(x[0])
    for step in x:
        u = step + tau * torch.where(u > threshold, 0.0, u)
        size = (u - threshold).abs()
        if float(size.min()) < 1e-4 or float((size - width / 2).abs().min()) < 1e-4:
            return False
    return True


def run(lif: LIF, data: Tensor, above: Tensor, layout: str) -> list[Tensor]:
    """Spikes and the gradients of currents, tau and threshold."""
    leaf = data.clone().requires_grad_()
    for parameter in lif.parameters():
        parameter.grad = None
    spikes = lif(laid_out(leaf * 1, layout))
    (spikes * above).sum().backward()
    assert leaf.grad is not None
    return [spikes.detach(), leaf.grad, *(p.grad for p in lif.parameters() if p.grad is not None)]


@given(
    st.integers(1, 9),
    st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 6), st.integers(1, 7)),
    st.floats(0.05, 0.95),
    st.floats(0.1, 2.0),
    st.sampled_from(NAMES),
    st.sampled_from([0.5, 1.0, 1.7]),
    st.booleans(),
    st.sampled_from(LAYOUTS),
    st.sampled_from([torch.float32, torch.float64]),
    st.integers(0, 2**31),
    st.booleans(),
)
@example(4, (3, 16, 8, 8), 0.25, 0.5, "rectangular", 1.0, False, "channels_last", torch.float32, 0, True)
@example(4, (3, 16, 8, 8), 0.25, 0.5, "rectangular", 1.0, True, "contiguous", torch.float32, 1, True)
@example(16, (2, 11, 7, 5), 0.5, 0.7, "arctan", 2.0, False, "repeated", torch.float32, 2, True)
@settings(max_examples=usually(150), deadline=None)
def test_one_operation_equals_a_plain_loop(
    steps: int,
    shape: tuple[int, int, int, int],
    tau: float,
    threshold: float,
    name: SurrogateName,
    width: float,
    detach: bool,
    layout: str,
    dtype: torch.dtype,
    seed: int,
    fuse: bool,
) -> None:
    """Spikes are those of a loop; gradients those of autograd, in float32 and float64, fused and not."""
    generator = torch.Generator().manual_seed(seed)
    data = torch.randn((steps, *shape), generator=generator, dtype=dtype)
    above = torch.randn(data.shape, generator=generator, dtype=dtype)
    lif = LIF(
        tau, threshold, surrogate=name, width=width, trainable_tau=True, trainable_threshold=True, detach_reset=detach
    ).to(dtype)
    lif.fuse = fuse
    if not far_from(laid_out(data, layout), float(lif.tau.detach()), float(lif.threshold.detach()), width):
        return
    spikes, grad, *constants = run(lif, data, above, layout)

    leaf = data.clone().requires_grad_()
    assert lif.tau_logit is not None and lif.log_threshold is not None
    own = [lif.tau_logit.detach().clone().requires_grad_(), lif.log_threshold.detach().clone().requires_grad_()]
    expected = plain_loop(laid_out(leaf, layout), own[0].sigmoid(), own[1].exp(), name, width, detach)
    (expected * above).sum().backward()
    assert torch.equal(spikes, expected)
    # a gradient through T steps is a sum of products of them, each rounded
    scale = float(leaf.grad.abs().max()) if leaf.grad is not None else 1.0
    close = 1e-12 if dtype == torch.float64 else 3e-5
    torch.testing.assert_close(grad, leaf.grad, rtol=close, atol=close * max(1.0, scale))
    for mine, theirs in zip(constants, own, strict=True):
        reference = torch.zeros_like(mine) if theirs.grad is None else theirs.grad
        torch.testing.assert_close(mine, reference, rtol=close, atol=close * max(1.0, scale) * data.numel() ** 0.5)


@needs_kernels
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_every_way_gives_the_same_bits(
    name: SurrogateName, detach: bool, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compiled, block by block, and as one loop: spikes and gradients of currents are equal, not close."""
    torch.manual_seed(3)
    data, above = torch.randn(5, 4, 9, 33, 17) * 0.7, torch.randn(5, 4, 9, 33, 17)
    lif = LIF(0.3, 0.6, surrogate=name, width=0.8, detach_reset=detach)
    plain = run(lif, data, above, layout)
    lif.fuse = True
    compiled = run(lif, data, above, layout)
    monkeypatch.setattr(kernels, "load", lambda: "none here")
    blocks = run(lif, data, above, layout)
    assert 0.1 < float(plain[0].mean()) < 0.9 and float(plain[1].abs().max()) > 0
    for other in (compiled, blocks):
        assert torch.equal(plain[0], other[0])
        if layout == "repeated":  # summed over steps by autograd, in an order of its own
            torch.testing.assert_close(plain[1], other[1])
        else:
            assert torch.equal(plain[1], other[1])


@needs_kernels
def test_threads_do_not_change_a_bit() -> None:
    """Spikes, gradients and the summed gradients of trainable constants are the same with one thread and with three."""
    torch.manual_seed(0)
    data, above = torch.randn(4, 8, 16, 16, 16), torch.randn(4, 8, 16, 16, 16)
    lif = LIF(0.3, 0.6, trainable_tau=True, trainable_threshold=True)
    lif.fuse = True
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            results.append(run(lif, data, above, "channels_last"))
    finally:
        torch.set_num_threads(before)
    assert len(results[0]) == 4
    for one, three in zip(*results, strict=True):
        assert torch.equal(one, three)


@needs_kernels
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("detach", [False, True])
def test_exactly_at_threshold(name: SurrogateName, detach: bool) -> None:
    """A membrane at the threshold does not fire and is not reset, forward and backward: by hand, and in every way."""
    tau, threshold = 0.5, 0.75
    current = torch.tensor([[0.75, 1.0], [0.5, 0.25], [0.25, 0.75]])  # u = 0.75, 0.875, 0.25; 1.0, 0.25, 0.875
    above = torch.tensor([[1.0, 2.0], [4.0, 8.0], [16.0, 32.0]])
    made = kernels.load()
    assert isinstance(made, kernels.Kernels)
    constants = torch.tensor(tau), torch.tensor(threshold)
    assert made.lif_forward(current, *constants).tolist() == [[0, 1], [1, 0], [0, 1]]
    grad, sums = made.lif_backward(above, current, *constants, Gradient(name, 1.0, detach), True)
    membranes = torch.tensor([[0.75, 1.0], [0.875, 0.25], [0.25, 0.875]])
    slope = SURROGATES[name](membranes - threshold, 1.0)
    later = above[2] * slope[2]
    wanted = [later]
    for step in (1, 0):
        carried = tau * later
        kept = torch.tensor([[1.0, 0.0], [0.0, 1.0]])[step]  # at the threshold: kept
        later = (above[step] - (0 if detach else carried * membranes[step])) * slope[step] + kept * carried
        wanted.insert(0, later)
    assert torch.equal(grad, torch.stack(wanted))
    assert sums is not None
    assert float(sums[0]) == float(wanted[1][0] * membranes[0, 0]) + float(wanted[2][1] * membranes[1, 1])


def test_not_a_number_stays_silent_in_every_way() -> None:
    """A membrane that is NaN never fires, as in the plain loop; infinity fires and is reset."""
    data = torch.tensor([[math.nan, math.inf, 1.0], [1.0, 0.1, 0.2]])
    lif = LIF(0.5, 0.5)
    plain = lif(data)
    lif.fuse = True
    assert plain.tolist() == [[0, 1, 1], [0, 0, 0]]
    assert torch.equal(lif(data), plain)


# ------------------------------------------------------------------------------------------------ spikes as bits


@needs_kernels
@given(st.integers(1, 400), st.integers(0, 2**31), st.integers(1, 3))
@settings(max_examples=usually(60), deadline=None)
def test_bits_come_back(count: int, seed: int, threads: int) -> None:
    """Packing and unpacking is the identity on zeros and ones, and takes a bit each."""
    compiled = kernels.load()
    assert isinstance(compiled, kernels.Kernels)
    x = (torch.rand(count, generator=torch.Generator().manual_seed(seed)) < 0.3).float()
    torch.set_num_threads(threads)
    words = compiled.pack(x)
    torch.set_num_threads(1)
    assert words is not None
    assert words.numel() == -(-count // 64)
    assert torch.equal(compiled.unpack(words, (count,), (1,)), x)
    for other in (2.0, -1.0, 0.5, math.nan, math.inf):
        x[seed % count] = other
        assert compiled.pack(x) is None


READERS: dict[str, Callable[[], torch.nn.Module]] = {
    "conv": lambda: Conv2d(6, 5, 3, padding=1),
    "grouped": lambda: Conv2d(6, 4, 3, stride=2, groups=2, bias=False),
    "dense": lambda: torch.nn.Sequential(Flatten(), Linear(6 * 8 * 8, 7)),
    "maxpool": lambda: torch.nn.Sequential(MaxPool2d(2), Conv2d(6, 5, 3)),
}


@needs_kernels
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "repeated"])
@pytest.mark.parametrize("name", READERS)
def test_layers_that_read_bits_have_the_same_gradients(name: str, layout: str) -> None:
    """A layer keeps marked spikes as bits: its output and gradients do not change by a bit."""
    torch.manual_seed(1)
    layer = READERS[name]()
    data = laid_out((torch.rand(3, 4, 6, 8, 8) < 0.2).float(), layout)
    results = []
    for mark in (False, True):
        layer.zero_grad()
        x = data.clone().requires_grad_() * 1
        x.retain_grad()
        given_to = x[:1].expand(x.shape) if layout == "repeated" else x
        y = layer(mark_spikes(given_to) if mark else given_to)
        y.square().sum().backward()
        assert x.grad is not None
        results.append([y.detach(), x.grad, *(p.grad for p in layer.parameters() if p.grad is not None)])
    assert len(results[0]) > 2
    for plain, packed in zip(*results, strict=True):
        assert torch.equal(plain, packed)


@needs_kernels
def test_spikes_are_not_kept_for_backward() -> None:
    """After the forward pass nobody holds the float spikes any more; without the mark the convolution does."""
    lif, conv = LIF(), Conv2d(3, 4, 3)
    kept = []
    for fuse in (False, True):
        lif.fuse = fuse
        current = torch.randn(2, 2, 3, 8, 8, requires_grad=True)
        spikes = lif(current)
        assert is_marked(spikes) == fuse
        memory = StorageWeakRef(spikes.untyped_storage())
        y = conv(spikes)
        del spikes
        kept.append(not memory.expired())
        y.sum().backward()
    assert kept == [True, False]


def add_in_place(y: Tensor, other: Tensor) -> None:
    y += other


WRITERS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "add": add_in_place,
    "out": lambda y, other: torch.add(y.detach(), other, out=y.detach()),
    "view": lambda y, other: y.transpose(0, 1).add_(other.transpose(0, 1)),
    "index": lambda y, other: y[1:].copy_(y[1:] + other[1:]),
    "data": lambda y, other: y.data.add_(other),
    "numpy": lambda y, other: np.add(y.detach().numpy(), other.detach().numpy(), out=y.detach().numpy()),
}


@needs_kernels
@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("reader", ["conv", "events", "dense", "maxpool"])
def test_spikes_written_into_are_read_as_they_are(reader: str, write: str) -> None:
    """SEW's add, ``y += other``: the layer after it sees 0, 1 and 2, and its gradients are those of a copy."""
    torch.manual_seed(1)
    channels = 32 if reader == "events" else 6
    layer = Conv2d(32, 32, 3, padding=1) if reader == "events" else READERS[reader]()
    data, other = (laid_out(torch.randn(3, 4, channels, 8, 8) * 0.4, "channels_last") for _ in range(2))
    lif = LIF()
    lif.fuse = True
    results = []
    for copy in (False, True):
        layer.zero_grad()
        x = data.clone().requires_grad_()
        y, shortcut = lif(x), lif(other)
        if copy:
            y = y.clone()
        WRITERS[write](y, shortcut)
        assert float(y.detach().max()) == 2
        z = layer(y)
        z.square().sum().backward()
        assert x.grad is not None
        results.append([z.detach(), x.grad, *(p.grad for p in layer.parameters() if p.grad is not None)])
    for mine, copied in zip(*results, strict=True):
        assert torch.equal(mine, copied)


@needs_kernels
def test_what_is_kept_as_it_is_may_not_change() -> None:
    """A tensor that is not kept as bits (here the weight) is not written into before the gradient: refused."""
    layer, x = Conv2d(6, 5, 3), mark_spikes((torch.rand(2, 3, 6, 8, 8) < 0.3).float()).requires_grad_()
    y = layer(mark_spikes(x * 1))
    with torch.no_grad():
        layer.weight += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


# ------------------------------------------------------------------------------- the same input at every step


@pytest.mark.parametrize("norm", ["none", "tdbn", "bntt"])
def test_an_input_that_repeats_is_convolved_once(norm: str) -> None:
    """Direct coding: the first layer's outputs, statistics and gradients are those of the input written out T times."""
    torch.manual_seed(0)
    encoder = DirectInput(4, 255, [0.5] * 3, [0.3] * 3)
    x = encoder(torch.randint(0, 256, (5, 3, 8, 8)).contiguous(memory_format=torch.channels_last))
    assert x.stride(0) == 0
    above = torch.randn(4, 5, 6, 8, 8)
    results = []
    for written in (False, True):
        torch.manual_seed(1)
        layers: list[torch.nn.Module] = [Conv2d(3, 6, 3, padding=1, bias=norm == "none")]
        if norm != "none":
            layers.append(TDBatchNorm(6) if norm == "tdbn" else BNTT(6, 4))
        body = torch.nn.Sequential(*layers).double()
        given_to = x[:1].double().expand(x.shape)
        for _ in range(2):
            y = body(given_to.contiguous() if written else given_to)
            assert (y.stride(0) == 0) == (not written and norm != "bntt")
        (y * above).sum().backward()
        results.append([y.detach(), *(p.grad for p in body.parameters() if p.grad is not None), *body.buffers()])
    assert len(results[0]) == {"none": 3, "tdbn": 6, "bntt": 5}[norm]
    for once, repeated in zip(*results, strict=True):
        torch.testing.assert_close(once, repeated, rtol=1e-10, atol=1e-10)


def test_channels_last_stays() -> None:
    """Convolution, norms and neurons hand on the memory layout they get: no copies between them."""
    x = torch.randn(2, 3, 4, 6, 6).movedim(2, -1).contiguous().movedim(-1, 2)
    for layer in (TDBatchNorm(4), BNTT(4, 2), LIF()):
        if isinstance(layer, LIF):
            layer.fuse = True
        y = layer(x)
        assert y.flatten(0, 1).is_contiguous(memory_format=torch.channels_last), type(layer).__name__


# ------------------------------------------------------------------------------------------------ the compiler


@pytest.fixture
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache, and no kernels loaded yet."""
    monkeypatch.setenv("SNN2CHIP_CACHE", str(tmp_path / "cache"))
    kernels.load.cache_clear()
    yield tmp_path / "cache"
    kernels.load.cache_clear()


@needs_kernels
def test_compiled_once(fresh_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library is made whole in the cache, and taken from it when there is no compiler any more."""
    assert isinstance(kernels.load(), kernels.Kernels)
    files = [path.name for path in (fresh_cache / "kernels").iterdir()]
    library = next(name for name in files if name.endswith(".so"))
    assert library.startswith("nn-") and set(files) == {library, f"{library}.sha256"}
    kernels.load.cache_clear()
    monkeypatch.setattr(native.shutil, "which", lambda _name: None)
    assert isinstance(kernels.load(), kernels.Kernels)


@pytest.mark.parametrize("why", ["no compiler", "it fails", "no place"])
def test_why_there_are_no_kernels(why: str, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without a compiler, with one that fails or without a place the reason is one line and neurons run on."""
    if why == "no compiler":
        monkeypatch.setattr(native.shutil, "which", lambda _name: None)
    elif why == "it fails":
        failing = tmp_path / "g++"
        failing.write_text("#!/bin/sh\necho 'x.cpp:1: error: no such thing' >&2\nexit 1\n")
        failing.chmod(0o755)
        monkeypatch.setattr(native.shutil, "which", lambda _name: str(failing))
    else:
        fresh_cache.write_text("a file where a folder should be")
    found = kernels.load()
    assert isinstance(found, str) and "\n" not in found
    assert {"no compiler": "install g++", "it fails": "no such thing", "no place": "cannot load or keep"}[why] in found
    lif = LIF()
    lif.fuse = True
    x = torch.randn(3, 2, 5)
    assert torch.equal(lif(x), LIF()(x))
    assert not list(fresh_cache.glob("kernels/*")) if fresh_cache.is_dir() else True
