"""The GPU's kernel for neurons, without a GPU: in Triton's interpreter against the CPU's loop, and compiled for one."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from conftest import child_environment
from torch import Tensor, nn

from snn2chip.nn import LIF, TDBatchNorm, gpu
from snn2chip.nn.kernels import KINDS, new_like
from snn2chip.nn.neuron import fuse_neurons, lif_backward, lif_forward
from snn2chip.nn.surrogate import Gradient
from snn2chip.recipe import SurrogateName

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="no Triton, which torch brings for GPUs: pip install triton"
)
FILE = Path(gpu.__file__).with_name("triton_kernels.py")


@pytest.fixture(scope="module")
def for_numpy() -> Iterator[gpu.TritonKernels]:
    """The kernels in a module of their own, which Triton interprets in numpy; and so it does its own functions only if
    it is imported for that, which another test may have done otherwise."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in sys.modules if re.match(r"triton(?!\._C)\b", name)]:
            patch.delitem(sys.modules, name)
        spec = importlib.util.spec_from_file_location("interpreted_kernels", FILE)
        assert spec is not None and spec.loader is not None
        module: ModuleType = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, "interpreted_kernels", module)
        with pytest.MonkeyPatch.context() as wanted:
            wanted.setenv("TRITON_INTERPRET", "1")
            spec.loader.exec_module(module)
        yield gpu.TritonKernels(module)


@pytest.fixture
def interpreted(for_numpy: gpu.TritonKernels, monkeypatch: pytest.MonkeyPatch) -> gpu.TritonKernels:
    monkeypatch.setenv("TRITON_INTERPRET", "1")  # read when they run, too
    return for_numpy


def currents(steps: int, dtype: torch.dtype, layout: str, scale: float = 1.0) -> Tensor:
    """(T, 3, 5, 7, 2) in one of the layouts, or (T, 30, 5)."""
    if layout == "flat":
        return (torch.randn(steps, 30, 5) * scale).to(dtype)
    x = (torch.randn(steps * 3, 5, 7, 2) * scale).to(dtype)
    x = x.contiguous(memory_format=torch.channels_last) if layout != "first" else x
    return x[:3].expand(steps, 3, 5, 7, 2) if layout == "repeated" else x.unflatten(0, (steps, 3))


def per_channel(values: Tensor, x: Tensor) -> Tensor:
    return values.view(-1, *(1,) * (x.ndim - 3))


@needs_triton
@pytest.mark.parametrize("norm", [False, True], ids=["alone", "with tdBN"])
@pytest.mark.parametrize("layout", ["last", "first", "repeated", "flat"])
@pytest.mark.parametrize(("steps", "dtype"), [(1, torch.float32), (3, torch.float32), (3, torch.float16)], ids=str)
@pytest.mark.parametrize(("surrogate", "whole", "detach"), [
    ("rectangular", False, False), ("triangular", True, False), ("arctan", False, True)
])  # fmt: skip
def test_the_kernel_is_the_loop(
    surrogate: SurrogateName,
    whole: bool,
    detach: bool,
    steps: int,
    dtype: torch.dtype,
    layout: str,
    norm: bool,
    interpreted: gpu.TritonKernels,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every spike and every gradient bit for bit, over more than one program; constants' gradients up to the order of
    their sum."""
    monkeypatch.setattr(gpu, "BLOCK", 64)
    torch.manual_seed(steps)
    tau, threshold, width = torch.tensor(0.3), torch.tensor(0.5), 0.7
    if whole:
        tau, threshold, width = torch.tensor(1229 / 4096), torch.tensor(40.0), 30.0
    x = currents(steps, dtype, layout, 50 if whole else 1)
    given = (torch.rand(5) + 0.5, torch.randn(5)) if norm else None
    y = x
    if given is not None:
        y = (x.float() * per_channel(given[0], x) + per_channel(given[1], x)).to(dtype)
    wanted, membranes = lif_forward(y, tau, threshold, whole)
    assert 0 < wanted.float().mean() < 1
    spikes = interpreted.lif_forward(x, tau, threshold, whole, given)
    assert torch.equal(spikes, wanted) and spikes.stride() == new_like(x).stride()
    above = torch.randn(x.shape).to(dtype)
    way = Gradient(surrogate, width, detach)
    grad, of_tau, of_threshold = lif_backward(above, membranes, tau, threshold, way)
    options = above, x, tau, threshold, way
    found, sums = interpreted.lif_backward(*options, True, whole, given)
    assert torch.equal(found, grad.to(dtype))
    assert sums is not None
    assert torch.allclose(sums.float(), torch.stack([of_tau, of_threshold]), rtol=1e-4, atol=1e-4)
    assert interpreted.lif_backward(*options, False, whole, given)[1] is None


@needs_triton
@pytest.mark.parametrize("layout", ["last", "first", "repeated", "flat"])
def test_tdbn_in_two_passes_is_tdbn(
    layout: str, interpreted: gpu.TritonKernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first in torch, the second in the neuron's kernel: spikes of ``x scale + shift`` exactly; running statistics
    and all gradients as those of the layers one after the other, up to rounding."""
    torch.manual_seed(1)
    x = currents(3, torch.float32, layout)
    results: list[dict[str, Tensor]] = []
    for joined in (False, True):
        torch.manual_seed(2)
        norm, lif = TDBatchNorm(5, alpha=0.7), LIF(0.4, 0.5, trainable_tau=True, trainable_threshold=True)
        nn.init.uniform_(norm.weight, 0.5, 2.0)
        nn.init.normal_(norm.bias)
        layers = nn.Sequential(norm, lif).train()
        with monkeypatch.context() as patch:
            if joined:
                fuse_neurons(layers, torch.device("cuda"))
                patch.setattr(gpu, "of", lambda _x: interpreted)
            leaf = (x[:1] if layout == "repeated" else x).clone().requires_grad_()
            spikes = layers(leaf.expand(x.shape))
        (spikes * torch.sin(torch.arange(spikes.numel()).view(x.shape))).sum().backward()
        tensors = {**dict(norm.named_buffers()), "spikes": spikes, "x": leaf.grad}
        tensors |= {name: p.grad for name, p in layers.named_parameters()}
        results.append({name: value.detach() for name, value in tensors.items() if value is not None})
    apart, together = results
    assert apart.keys() == together.keys() and len(apart) == 8
    for name, value in apart.items():
        assert torch.allclose(together[name], value, rtol=1e-4, atol=1e-5), name
    assert together["spikes"].mean() > 0.05


class Nothing:
    """Stands for kernels where there are no values."""

    def lif_forward(self, current: Tensor, *_: Any) -> Tensor:
        return new_like(current)

    def lif_backward(self, _above: Tensor, current: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        return new_like(current), current.new_empty(2, dtype=torch.float64)


def test_joined_layers_ask_for_no_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """On `meta`, where asking raises: forward and backward of tdBN with its neuron."""
    monkeypatch.setattr(gpu, "of", lambda _x: Nothing())
    layers = nn.Sequential(TDBatchNorm(5), LIF(trainable_tau=True)).to("meta").train()
    fuse_neurons(layers, torch.device("cuda"))
    layers(torch.empty(3, 2, 5, 4, 4, device="meta", requires_grad=True)).sum().backward()
    grads = [p.grad for p in layers.parameters()]
    assert len(grads) == 3 and all(grad is not None and grad.is_meta for grad in grads)


def test_who_is_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tdBN with its neuron right after it, neither used elsewhere; only in training, and only where kernels are."""
    shared = LIF()
    body = nn.Sequential(TDBatchNorm(4), LIF(), TDBatchNorm(4), shared, nn.Sequential(TDBatchNorm(4), shared))
    body.append(nn.Sequential(TDBatchNorm(4), LIF(whole=True)))
    fuse_neurons(body, torch.device("cuda"))
    joined = [module.into is not None for module in body.modules() if isinstance(module, TDBatchNorm)]
    assert joined == [True, False, False, False]
    x, norm, lif = torch.randn(2, 3, 4), body[0], body[1]
    plain = norm(x)
    assert not torch.equal(plain, x) and lif.before is None  # no GPU
    monkeypatch.setattr(gpu, "joins", lambda _x: True)
    assert norm(x) is x and lif.before == (norm,)
    lif.eval()
    assert norm(x) is not x and lif.before is None
    norm.eval()
    assert norm(x) is not x and lif.before is None


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from snn2chip.nn import triton_kernels as kernels

both = {"x": "*bf16", "row": "i32", "scale": "*fp32", "shift": "*fp32", "inner": "i32", "channels": "i32",
        "tau": "*fp32", "threshold": "*fp32", "each": "i32"}
numbers = dict.fromkeys(("width", "half", "slope"), "fp32")
more = {"spikes": "*bf16"}, {"grad": "*bf16", "out": "*bf16", "sums": "*fp32"} | numbers
chosen = {"STEPS": 2, "NORM": True, "WHOLE": False, "BLOCK": 512}, {"KIND": 0, "DETACH": False, "CONSTANTS": True}
for fused in (False, True):
    for function, types, constants in (
        (kernels.lif_forward, both | more[0], chosen[0]), (kernels.lif_backward, both | more[1], chosen[0] | chosen[1])
    ):
        signature = {name: types.get(name, "constexpr") for name in function.arg_names}
        source = ASTSource(function, signature, {(function.arg_names.index(k),): v for k, v in constants.items()})
        made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"enable_fp_fusion": fused})
        print(function.__name__, fused, "fma" in made.asm["ptx"], len(made.asm["cubin"]) > 0)
"""


@needs_triton
def test_compiled_for_a_gpu_nothing_is_contracted(tmp_path: Path) -> None:
    """Both kernels compile for a Hopper GPU, which need not be there. As they are called, no multiply-add is in them;
    it would be without `enable_fp_fusion=False`."""
    environment = child_environment(TRITON_CACHE_DIR=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", COMPILE], capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.split() == [
        *("lif_forward", "False", "False", "True", "lif_backward", "False", "False", "True"),
        *("lif_forward", "True", "True", "True", "lif_backward", "True", "True", "True"),
    ], done.stderr


def test_without_triton_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "snn2chip.nn.triton_kernels", None)
    monkeypatch.delattr("snn2chip.nn.triton_kernels", raising=False)
    reason = gpu.load.__wrapped__()
    assert isinstance(reason, str) and "triton_kernels" in reason and "\n" not in reason
    monkeypatch.setattr(gpu, "load", lambda: reason)
    assert fuse_neurons(nn.Sequential(LIF()), torch.device("cuda")) == (
        f"neurons run without Triton's kernel, slower and in more memory: {reason}"
    )
    assert KINDS.keys() == {"rectangular", "triangular", "arctan"}
