"""The iterative LIF neuron over (T, N, ...) tensors, forward and backward in one autograd function.

Equation (STBP, Wu et al. 2018; STBP-tdBN, Zheng et al. 2021), hard reset, strict threshold::

    u[t] = tau * u[t-1] * (1 - o[t-1]) + I[t]          o[t] = 1 if u[t] > Vth else 0

with ``u[-1] = 0``. A `current_tau` puts ``c[t] = current_tau c[t-1] + I[t]``, a current that decays, in the place of I.
`tau` is the leak factor in (0, 1] (the chip's voltage_decay is ``(1 - tau) * 4096``)
and `Vth` the threshold.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from snn2chip.chip.profile import UNIT
from snn2chip.errors import InputError
from snn2chip.ir.nodes import loses
from snn2chip.nn import blocks, gpu, kernels
from snn2chip.nn.constants import number
from snn2chip.nn.norm import TDBatchNorm
from snn2chip.nn.surrogate import SURROGATES, Gradient
from snn2chip.recipe import SurrogateName


def lif_forward(current: Tensor, tau: Tensor, threshold: Tensor, whole: bool = False) -> tuple[Tensor, Tensor]:
    """Every step of a LIF layer: currents (T, ...) to (spikes, membranes before reset), both (T, ...).

    Spikes have the dtype of the currents. The membrane is kept in at least float32: under bfloat16 autocast
    the *inputs* are coarse, but a coarse membrane would train a threshold that no other precision has. With `whole`
    what is left of it is rounded toward zero to 64ths.
    """
    dtype = torch.promote_types(current.dtype, torch.float32)
    tau, threshold = tau.to(dtype), threshold.to(dtype)
    membranes: list[Tensor] = []
    spikes: list[Tensor] = []
    kept: Tensor | None = None  # the membrane after reset
    for step in range(current.shape[0]):
        membrane = current[step].to(dtype)
        if kept is not None:
            membrane = membrane + (blocks.left_over(kept, tau.double()) if whole else tau * kept)
        fired = membrane > threshold
        kept = torch.where(fired, 0.0, membrane)
        spikes.append(fired.to(current.dtype))
        membranes.append(membrane)
    return torch.stack(spikes), torch.stack(membranes)


def kept_current(current: Tensor, tau: float) -> Tensor:
    """``c[t] = tau c[t-1] + I[t]`` of currents I (T, ...), c[-1] = 0, in at least float32."""
    current = current.to(torch.promote_types(current.dtype, torch.float32))
    steps = [current[0]]
    for step in range(1, current.shape[0]):
        steps.append(current[step] + tau * steps[-1])
    return torch.stack(steps)


def lif_backward(
    grad_spikes: Tensor, membranes: Tensor, tau: Tensor, threshold: Tensor, way: Gradient
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of a LIF layer with respect to its currents (T, ...), to tau and to Vth (scalars).

    With g[t] = dL/do[t] from above and s(.) the surrogate, going back in time::

        dL/do[t] = g[t] - du[t+1] * tau * u[t]           (second term: the reset; left out if detached)
        du[t]    = dL/do[t] * s(u[t] - Vth) + du[t+1] * tau * (1 - o[t])
        dI[t]    = du[t]
        dtau     = sum_t du[t] * u[t-1] * (1 - o[t-1])
        dVth     = - sum_t dL/do[t] * s(u[t] - Vth)

    Spikes are recomputed from the membranes.
    """
    dtype = membranes.dtype
    tau, threshold = tau.to(dtype), threshold.to(dtype)
    derivative = SURROGATES[way.surrogate]
    grad_tau = torch.zeros_like(tau)
    grad_threshold = torch.zeros_like(threshold)
    grad_current: list[Tensor] = []
    later: Tensor | None = None  # tau * dL/du[t+1]
    for step in range(membranes.shape[0] - 1, -1, -1):
        membrane = membranes[step]
        grad = grad_spikes[step].to(dtype)
        if later is not None and not way.detach_reset:
            grad = grad - later * membrane
        here = grad * derivative(membrane - threshold, way.width)
        grad_threshold = grad_threshold - here.sum()
        if later is not None:
            kept = membrane <= threshold
            here = here + torch.where(kept, later, 0.0)
            grad_tau = grad_tau + torch.where(kept, grad_current[-1] * membrane, 0.0).sum()
        grad_current.append(here)
        later = here * tau
    grad_current.reverse()
    return torch.stack(grad_current), grad_tau, grad_threshold


def _kernels_of(current: Tensor) -> kernels.Kernels | gpu.TritonKernels | None:
    """The compiled functions that take these currents, of the CPU or of a GPU."""
    return kernels.of(current) if current.device.type == "cpu" else gpu.of(current)


class _LIFSteps(torch.autograd.Function):
    """`lif_forward` with `lif_backward` as its gradient; only the currents are kept between the two.

    With `fuse` on the CPU: the compiled kernels for float32, else the loop block by block. On a GPU: Triton's.
    """

    @staticmethod
    def forward(
        ctx: Any, current: Tensor, tau: Tensor, threshold: Tensor, way: Gradient, whole: bool, fuse: bool
    ) -> Tensor:
        if fuse and not kernels.in_order(current):
            current = current.contiguous()
        ctx.save_for_backward(current, tau, threshold)
        ctx.way, ctx.whole, ctx.fuse = way, whole, fuse
        spikes: Tensor
        if fuse and (compiled := _kernels_of(current)) is not None:
            spikes = compiled.lif_forward(current, tau, threshold, whole)
        elif fuse and current.device.type == "cpu":
            spikes = blocks.forward(current, tau, threshold, whole)
        else:
            spikes = lif_forward(current, tau, threshold, whole)[0]
        return spikes

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        current, tau, threshold = ctx.saved_tensors
        above = grad_outputs[0]
        constants = bool(ctx.needs_input_grad[1] or ctx.needs_input_grad[2])
        grad_tau: Tensor | None
        grad_threshold: Tensor | None
        compiled = _kernels_of(current) if ctx.fuse else None
        if compiled is not None or (ctx.fuse and current.device.type == "cpu"):
            run: Callable[..., Any] = blocks.backward if compiled is None else compiled.lif_backward
            grad, sums = run(above, current, tau, threshold, ctx.way, constants, ctx.whole)
            grad_tau, grad_threshold = (None, None) if sums is None else (sums[0], sums[1])
        else:
            _, membranes = lif_forward(current, tau, threshold, ctx.whole)  # anew, which costs less than keeping them
            grad, grad_tau, grad_threshold = lif_backward(above, membranes, tau, threshold, ctx.way)
        return (
            grad.to(current.dtype),
            grad_tau.to(tau.dtype) if ctx.needs_input_grad[1] and grad_tau is not None else None,
            grad_threshold.to(threshold.dtype) if ctx.needs_input_grad[2] and grad_threshold is not None else None,
            *(None,) * 3,
        )


class LIF(nn.Module):
    """Leaky integrate-and-fire layer: currents (T, N, ...) in, spikes 0/1 of the same shape out.

    Args:
        tau: leak factor in (0, 1]; 0.25 in STBP-tdBN, 1 is integrate-and-fire.
        threshold: Vth > 0; 0.5 in STBP-tdBN.
        surrogate, width: see `snn2chip.nn.surrogate`.
        trainable_tau: learn tau (kept in (0, 1) as the sigmoid of the parameter `tau_logit`).
        trainable_threshold: learn Vth (kept positive as the exponential of `log_threshold`).
        detach_reset: leave the reset out of the gradient.
        current_tau: what is left of the current from step to step, in [0, 1); 0 is a neuron without a current of its
            own. The chip adds a bias to the membrane, past the current: give the layer before none.
        whole: the neuron of a network of integers, in the chip's units: threshold and 4096 tau are whole numbers, and
            what is left of a membrane is rounded toward zero to 64ths, ``trunc0(64 tau u) / 64``.
        fuse: attribute, off at the start: run all steps as one operation (the same arithmetic, the same spikes;
            `fuse_neurons` turns it on for a whole network).

    Raises:
        InputError: tau or threshold out of range or not one number, or an unknown surrogate.
    """

    def __init__(
        self,
        tau: float = 0.25,
        threshold: float = 0.5,
        *,
        surrogate: SurrogateName = "rectangular",
        width: float = 1.0,
        trainable_tau: bool = False,
        trainable_threshold: bool = False,
        detach_reset: bool = False,
        whole: bool = False,
        current_tau: float = 0.0,
    ) -> None:
        super().__init__()
        given = ("tau", tau), ("threshold", threshold), ("surrogate width", width), ("current_tau", current_tau)
        tau, threshold, width, self.current_tau = (number("LIF", *item) for item in given)
        if not 0 <= self.current_tau < 1 or (whole and self.current_tau):
            raise InputError(f"LIF: current_tau {self.current_tau} is outside [0, 1), or in a network of integers")
        if not 0 < tau <= 1 or (trainable_tau and tau == 1):
            raise InputError(f"LIF: tau {tau} is outside (0, 1{')' if trainable_tau else ']'}")
        if not (threshold > 0 and math.isfinite(threshold)):
            raise InputError(f"LIF: threshold {threshold} is not a positive number")
        if surrogate not in SURROGATES:
            raise InputError(f"LIF: surrogate '{surrogate}' is not one of {', '.join(SURROGATES)}")
        if not width > 0:
            raise InputError(f"LIF: surrogate width {width} is not positive")
        self.surrogate: SurrogateName = surrogate
        self.width = width
        self.detach_reset, self.whole = detach_reset, whole
        self.fuse = False
        self.before: tuple[TDBatchNorm] | None = None  # whose second pass is ours, of the next currents
        self.tau_logit: nn.Parameter | None = None
        self.log_threshold: nn.Parameter | None = None
        if trainable_tau:
            self.tau_logit = nn.Parameter(torch.tensor(math.log(tau / (1 - tau))))
        else:
            self.register_buffer("fixed_tau", torch.tensor(tau))
        if trainable_threshold:
            self.log_threshold = nn.Parameter(torch.tensor(math.log(threshold)))
        else:
            self.register_buffer("fixed_threshold", torch.tensor(threshold))

    @property
    def tau(self) -> Tensor:
        """Leak factor, a scalar tensor in (0, 1]."""
        return self.get_buffer("fixed_tau") if self.tau_logit is None else self.tau_logit.sigmoid()

    @property
    def threshold(self) -> Tensor:
        """Threshold Vth, a positive scalar tensor."""
        return self.get_buffer("fixed_threshold") if self.log_threshold is None else self.log_threshold.exp()

    def forward(self, current: Tensor) -> Tensor:
        way = Gradient(self.surrogate, self.width, self.detach_reset)
        if self.before is not None:
            (norm,), self.before = self.before, None
            found: Tensor = gpu.NormLIF.apply(  # type: ignore[no-untyped-call]
                *(*norm.first_pass(current), self.tau, self.threshold, way, len(current), gpu.of(current))
            )
            return found
        if self.current_tau:
            current = kept_current(current, self.current_tau)
        if self.fuse and current.device.type == "cpu":
            current = current.to(self.threshold.dtype)  # what the compiled kernels take, and spikes convolved after it
        spikes: Tensor = _LIFSteps.apply(  # type: ignore[no-untyped-call]
            *(current, self.tau, self.threshold, way),
            self.whole and loses(float(self.tau.detach()), current.shape[0], 1 / UNIT),
            self.fuse,
        )
        if self.fuse:
            kernels.mark_spikes(spikes)
        return spikes

    def extra_repr(self) -> str:
        tau, threshold = float(self.tau.detach()), float(self.threshold.detach())
        current = f", current_tau={self.current_tau:.4g}" if self.current_tau else ""
        return f"tau={tau:.4g}, threshold={threshold:.4g}{current}, surrogate={self.surrogate}"


@contextmanager
def listening(body: nn.Module, told: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Tell the spikes of every LIF in `body`, by its path, at each of its calls while the block runs."""
    handles = [
        module.register_forward_hook(lambda _module, _inputs, spikes, name=name: told(name, spikes))
        for name, module in body.named_modules()
        if isinstance(module, LIF)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def fuse_neurons(network: nn.Module, device: torch.device) -> str | None:
    """Run every LIF of `network` as one operation from now on; returns what keeps it from its best, or None.

    On the CPU the operation is compiled once per user, by the C++ compiler that is there; without one the neurons run
    in torch, block by block: the same spikes and gradients, but a slower step, and more memory. On a GPU Triton
    compiles it, and a tdBN right before a neuron leaves its second pass to it in training.
    """
    uses = Counter(module for _, module in network.named_modules(remove_duplicate=False))
    for module in network.modules():
        if isinstance(module, LIF):
            module.fuse = True
        if isinstance(module, nn.Sequential):
            for norm, lif in pairwise(module.children()):
                if type(norm) is TDBatchNorm and type(lif) is LIF and uses[norm] == uses[lif] == 1:
                    norm.into = None if lif.whole or lif.current_tau else (lif,)
    if device.type == "cpu" and isinstance(why := kernels.load(), str):
        return f"neurons run without the compiled kernel, slower and in more memory: {why}"
    if device.type == "cuda" and isinstance(missing := gpu.load(), str):
        return f"neurons run without Triton's kernel, slower and in more memory: {missing}"
    return None
