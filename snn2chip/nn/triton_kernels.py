"""The neuron over all its steps as one kernel of a GPU, forward and backward, with tdBN's second pass before it.

A program takes a block of neurons through time. Arithmetic is that of `snn2chip.nn.neuron`, rounding by rounding: no
multiply-add is contracted (`enable_fp_fusion`), divisions are IEEE's. With NORM, currents are ``x scale + shift`` with
numbers a channel, rounded to x's type; channels are every `inner`-th number in memory. Currents are of x's type and
membranes float32. `snn2chip.nn.gpu` calls them; importing this needs Triton.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _left(kept, leak, WHOLE: tl.constexpr):  # type: ignore[no-untyped-def]
    """``tau kept``; with WHOLE ``trunc0(64 tau kept) / 64``, exact in float64."""
    if WHOLE:
        wide = kept.to(tl.float64) * (leak.to(tl.float64) * 64)
        wide = tl.where(wide < 0, tl.ceil(wide), tl.floor(wide))
        return (wide * 0.015625).to(tl.float32)
    return leak * kept


@triton.jit
def _current(x, inside, scale, shift, NORM: tl.constexpr):  # type: ignore[no-untyped-def]
    """A step's currents, float32."""
    given = tl.load(x, mask=inside, other=0.0)
    if NORM:
        return (given.to(tl.float32) * scale + shift).to(given.dtype).to(tl.float32)
    return given.to(tl.float32)


@triton.jit
def _derivative(x, width, half, slope, KIND: tl.constexpr):  # type: ignore[no-untyped-def]
    """`snn2chip.nn.surrogate`; KIND as in `kernels.KINDS`, `half` width / 2, `slope` pi / width."""
    if KIND == 0:
        return tl.div_rn(tl.where(tl.abs(x) < half, 1.0, 0.0), width + tl.zeros_like(x))
    if KIND == 1:
        wide = width + tl.zeros_like(x)
        risen = 1.0 - tl.div_rn(tl.abs(x), wide)
        return tl.div_rn(tl.where(risen > 0, risen, 0.0), wide)
    far = x * slope
    return tl.div_rn(1.0 + tl.zeros_like(x), width * (1.0 + far * far))


@triton.jit
def lif_forward(  # type: ignore[no-untyped-def]
    x, row, scale, shift, inner, channels, tau, threshold, spikes, each,
    STEPS: tl.constexpr, NORM: tl.constexpr, WHOLE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Spikes (STEPS, each) of x, whose steps are `row` numbers apart, in memory order."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < each
    leak, over = tl.load(tau), tl.load(threshold)
    a, b = 0.0, 0.0
    if NORM:
        channel = (at // inner) % channels
        a = tl.load(scale + channel, mask=inside, other=0.0)
        b = tl.load(shift + channel, mask=inside, other=0.0)
    x += at
    spikes += at
    kept = tl.zeros((BLOCK,), dtype=tl.float32)
    for step in tl.static_range(STEPS):
        u = _current(x, inside, a, b, NORM)
        if step > 0:
            u = u + _left(kept, leak, WHOLE)
        fired = u > over
        kept = tl.where(fired, 0.0, u)
        tl.store(spikes, tl.where(fired, 1.0, 0.0).to(spikes.dtype.element_ty), mask=inside)
        x += row
        spikes += each


@triton.jit
def lif_backward(  # type: ignore[no-untyped-def]
    x, row, scale, shift, inner, channels, tau, threshold, grad, out, sums, each, width, half, slope,
    STEPS: tl.constexpr, NORM: tl.constexpr, WHOLE: tl.constexpr, KIND: tl.constexpr, DETACH: tl.constexpr,
    CONSTANTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Gradients (STEPS, each) of the currents from those of the spikes, `grad`, membranes computed anew; with CONSTANTS
    those of tau and Vth of each program, (programs, 2) in `sums`."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < each
    leak, over = tl.load(tau), tl.load(threshold)
    a, b = 0.0, 0.0
    if NORM:
        channel = (at // inner) % channels
        a = tl.load(scale + channel, mask=inside, other=0.0)
        b = tl.load(shift + channel, mask=inside, other=0.0)
    x += at
    grad += at
    out += at
    kept = tl.zeros((BLOCK,), dtype=tl.float32)
    membranes = ()
    for step in tl.static_range(STEPS):
        u = _current(x, inside, a, b, NORM)
        if step > 0:
            u = u + _left(kept, leak, WHOLE)
        kept = tl.where(u > over, 0.0, u)
        membranes = membranes + (u,)  # type: ignore[assignment]  # noqa: RUF005  (Triton knows no other way)
        x += row
        grad += each
        out += each
    later = tl.zeros((BLOCK,), dtype=tl.float32)  # tau * dL/du[t+1]
    after = tl.zeros((BLOCK,), dtype=tl.float32)  # dL/du[t+1]
    of_tau = tl.zeros((BLOCK,), dtype=tl.float32)
    of_threshold = tl.zeros((BLOCK,), dtype=tl.float32)
    for back in tl.static_range(STEPS):
        grad -= each
        out -= each
        u = membranes[STEPS - 1 - back]
        above = tl.load(grad, mask=inside, other=0.0).to(tl.float32)
        if back > 0 and not DETACH:
            above = above - later * u
        here = above * _derivative(u - over, width, half, slope, KIND)
        if CONSTANTS:
            of_threshold = of_threshold - here
        if back > 0:
            silent = u <= over
            here = here + tl.where(silent, later, 0.0)
            if CONSTANTS:
                of_tau = of_tau + tl.where(silent, after * u, 0.0)
        tl.store(out, here.to(out.dtype.element_ty), mask=inside)
        after = here
        later = here * leak
    if CONSTANTS:
        mine = sums + 2 * tl.program_id(0)
        tl.store(mine, tl.sum(tl.where(inside, of_tau, 0.0), 0))
        tl.store(mine + 1, tl.sum(tl.where(inside, of_threshold, 0.0), 0))
