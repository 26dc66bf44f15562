"""The neuron step of `arith` and of the compiled engine equals its plain definition for all register values: by z3.

The functions themselves run on symbols: those of `snn2chip.chip.neuron` with torch's operations put in terms of z3,
those of `snn2chip.simulate.reference` with numpy's, and the lines of simulate/events/neurons.h, read from the source
and put into Python one by one (the portable ones: AVX-512 has others for both). Multiplications by a decay are
proved over the integers, for all decays at once; the rest of a step over bit vectors of 32 bits (64 for the
definition), with what is kept of u and v as symbols of their own. Of float64, in `arith.step_voltage`, it is assumed
that integers below 2^53 and powers of two are exact; that no number leaves that range is proved.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from snn2chip.chip import neuron
from snn2chip.simulate import reference
from snn2chip.simulate.events import plan

z3 = pytest.importorskip("z3")
pytestmark = pytest.mark.slow
NEURONS = Path(plan.__file__).with_name("neurons.h").read_text(encoding="utf-8")
Term = Any  # of z3


def raw(x: Any) -> Term:
    return x.value if isinstance(x, Symbol) else x


class Symbol:
    """An integer of z3: unbounded (Int), or a register (BitVec), whose operations wrap."""

    ndim = 2

    def __init__(self, value: Term) -> None:
        self.value = value

    def __add__(self, other: Any) -> Symbol:
        return Symbol(self.value + raw(other))

    def __sub__(self, other: Any) -> Symbol:
        return Symbol(self.value - raw(other))

    def __rsub__(self, other: Any) -> Symbol:
        return Symbol(raw(other) - self.value)

    def __mul__(self, other: Any) -> Symbol:
        return Symbol(self.value * raw(other))

    def __neg__(self) -> Symbol:
        return Symbol(-self.value)

    def __rshift__(self, count: int) -> Symbol:
        return Symbol(self.value / 2**count if z3.is_int(self.value) else self.value >> count)

    def __lshift__(self, count: int) -> Symbol:
        return Symbol(self.value * 2**count)

    def __and__(self, other: Any) -> Symbol:
        return Symbol(self.value % (other + 1) if z3.is_int(self.value) else self.value & raw(other))

    def __xor__(self, other: Any) -> Symbol:
        return Symbol(self.value ^ raw(other))

    def __invert__(self) -> Symbol:
        return Symbol(~self.value)

    def __floordiv__(self, other: int) -> Symbol:
        return self >> other.bit_length() - 1

    def __mod__(self, other: int) -> Symbol:
        return self & other - 1

    def __gt__(self, other: Any) -> Term:
        return self.value > raw(other)

    def __lt__(self, other: Any) -> Term:
        return self.value < raw(other)

    def __le__(self, other: Any) -> Term:
        return self.value <= raw(other)

    def abs(self) -> Symbol:
        return Symbol(z3.If(self.value < 0, -self.value, self.value))

    def clamp_(self, low: int, high: int) -> Symbol:
        return Symbol(z3.If(self.value < low, low, z3.If(self.value > high, high, self.value)))

    def masked_fill_(self, test: Term, value: int) -> Symbol:
        return Symbol(z3.If(test, value, self.value))

    def reshape(self, _shape: tuple[int, ...]) -> Symbol:
        return self

    def __getitem__(self, _step: int) -> Symbol:
        return self

    def to(self, kind: str) -> Symbol:
        return Double(self.value) if kind == "float64" else Symbol(self.value)


class Sign(Symbol):
    """What np.sign gives: -1, 0 or 1, to multiply with."""

    def __mul__(self, other: Any) -> Symbol:
        size = raw(other)
        return Symbol(z3.If(self.value < 0, -size, z3.If(self.value == 0, 0 * size, size)))


class Double(Symbol):
    """A float64: an integer over 2^shift. `sizes` are all integers that one had to hold."""

    sizes: ClassVar[list[Term]] = []
    shift = 0

    def _become(self, value: Term) -> Double:
        self.value = value
        self.sizes.append(value)
        return self

    def mul_(self, other: Any) -> Double:
        if isinstance(other, float):
            self.shift = -int(math.log2(other))
            assert other == 2.0**-self.shift
            return self
        return self._become(self.value * raw(other))

    def trunc_(self) -> Double:
        size = z3.If(self.value < 0, -self.value, self.value) / 2**self.shift
        return self._become(z3.If(self.value < 0, -size, size))

    def add_(self, other: Any) -> Double:
        return self._become(self.value + raw(other))


class Decay(Symbol):
    """A decay of 1..4095; 0 and 4096 have lines of their own in `arith`."""

    def __eq__(self, other: object) -> bool:
        return False

    __hash__ = None  # type: ignore[assignment]


def where(test: Term, yes: Any, no: Any) -> Symbol:
    return Symbol(z3.If(test, raw(yes), raw(no)))


TORCH = SimpleNamespace(where=where, zeros_like=lambda x: Symbol(0 * x.value), float64="float64", int32="int32")
NUMPY = SimpleNamespace(where=where, sign=lambda x: Sign(x.value), abs=Symbol.abs, clip=Symbol.clamp_)


@pytest.fixture(autouse=True)
def on_symbols(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neuron, "torch", TORCH)
    monkeypatch.setattr(reference, "np", NUMPY)
    monkeypatch.setattr(Double, "sizes", [])


def proved(claim: Term, *given: Term) -> None:
    """No values make `claim` false where `given` holds."""
    solver = z3.Solver()
    solver.set("timeout", 300_000)
    solver.add(*given, z3.Not(claim))
    assert solver.check() == z3.unsat, solver.model() if solver.check() == z3.sat else "z3 does not know"


def integers(*names: str) -> list[Symbol]:
    return [Symbol(z3.Int(name)) for name in names]


def registers(*names: str) -> list[Symbol]:
    return [Symbol(z3.BitVec(name, 32)) for name in names]


def wide(x: Symbol) -> Symbol:
    """A register's value in 64 bits."""
    return Symbol(z3.SignExt(32, x.value))


def within(x: Symbol, low: int, high: int) -> Term:
    return z3.And(x.value >= low, x.value <= high)


MOST = 2**31 - 1


# ----------------------------------------------------------------------------------------------------- decays


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("amount", [0, 4096, None])
def test_decay(amount: int | None, sign: int) -> None:
    """All 4097 decays of all int32 but -2^31 (which no state is: see the next tests); no term leaves int32."""
    (size,) = integers("size")
    decayed = Decay(z3.Int("amount"))
    given = (within(size, 0, MOST), within(decayed, 1, 4095))
    state = size if sign > 0 else -size
    found = neuron.decay(state, decayed if amount is None else amount)  # type: ignore[arg-type]
    wanted = reference._toward_zero(state, 4096 - (decayed if amount is None else amount))  # type: ignore[arg-type, operator]
    proved(raw(found) == raw(wanted), *given)
    proved(z3.And(within(found, -MOST, MOST), raw(found.abs()) <= size.value), *given)  # type: ignore[arg-type, attr-defined]
    keep = 4096 - decayed
    high, low = (size >> 12) * keep, (size & 4095) * keep
    proved(z3.And(*(within(term, 0, MOST) for term in (high, low, high + (low >> 12)))), *given)


def test_a_step_around_its_decays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any sums and biases, any state, any threshold: the same u, v and spikes; and no state is -2^31."""
    u, v, sums, bias, threshold, kept_u, kept_v = registers("u", "v", "sums", "bias", "threshold", "ku", "kv")
    given = (within(threshold, 0, 2**17 - 1),)
    layer: Any = SimpleNamespace(steps=None, current_decay=1, voltage_decay=1, threshold=wide(threshold))
    decays = iter([kept_u, kept_v, wide(kept_u), wide(kept_v)])
    monkeypatch.setattr(neuron, "decay", lambda *_: next(decays))
    monkeypatch.setattr(reference, "_toward_zero", lambda *_: next(decays))
    found = neuron.step(u, v, sums, bias, threshold=threshold, voltage_decay=1, current_decay=1)  # type: ignore[arg-type]
    wanted = reference.neuron_step(layer, 0, wide(u), wide(v), wide(sums), wide(bias))  # type: ignore[arg-type]
    for mine, other in zip(found[:2], wanted[:2], strict=True):
        proved(raw(wide(mine)) == raw(other), *given)  # type: ignore[arg-type]
        proved(raw(mine) != -(2**31), *given)
    proved(found[2] == wanted[2], *given)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("shift", range(17))
def test_a_step_of_a_time_varying_neuron(shift: int, sign: int) -> None:
    """All leaks of 16 bits, states and tables of 24 bits, sums that do not wrap and biases of 13 bits."""
    size, current, bias, leak, lift, threshold = integers("size", "current", "bias", "leak", "lift", "threshold")
    given = (
        *(within(x, -(2**23), 2**23) for x in (current, lift, threshold)),
        within(size, 0, 2**23),
        within(bias, -4096, 4095),
        within(leak, 0, 2**16 - 1),
    )
    v = size if sign > 0 else -size
    mine, fired = neuron.step_voltage(v, current, bias, leak, shift, lift, threshold)  # type: ignore[arg-type]
    tables: Any = SimpleNamespace(leak=leak, leak_shift=shift, bias=lift, threshold=threshold)
    updated, spike = reference._varying(tables, 0, v, current + bias * 64)  # type: ignore[arg-type]
    proved(fired == spike, *given)
    proved(raw(mine) == raw(where(spike, 0, updated)), *given)
    proved(z3.And(*(within(Symbol(x), -(2**53), 2**53) for x in Double.sizes)), *given)


# ------------------------------------------------------------------------------------------- the compiled engine


def in_python(source: str) -> str:
    """Lines of neurons.h as Python: declarations, `if`s and assignments, with one lane for each vector."""
    lines, depth = [], 0
    for line in source.splitlines():
        text = line.split("//")[0].strip().rstrip(";")
        declared = re.match(r"(const )?I32 ", text) is not None
        text = (
            re.sub(r"^(const )?I32 ", "", text)
            .replace("[part]", "")
            .replace(" + i)", ")")
            .replace("&&", "and")
            .replace("||", "or")
        )
        text = re.sub(r"(load<I32>|kept_of<DECAY>)", lambda found: found[0].split("<")[0], text)
        if text == "}":
            depth -= 1
        elif text:
            head = re.match(r"if \(((?:[^()]|\([^()]*\))*)\) ?(.*)", text)
            body = [f"if {head[1]}: {head[2]}"] if head else re.split(r", (?=\w+ = )", text) if declared else [text]
            if text.endswith("{"):
                body = [body[0].removesuffix(" {")]
            lines += ["    " * depth + item.rstrip() for item in body]
            depth += text.endswith("{")
    return "\n".join(lines)


def between(start: str, end: str) -> str:
    """The one stretch of neurons.h from `start` up to `end`."""
    found = re.findall(f"{re.escape(start)}.*?(?={re.escape(end)})", NEURONS, re.DOTALL)
    assert len(found) == 1, (start, end)
    return str(found[0])


class Lane(Symbol):
    """One lane of a vector of int32: a comparison gives all ones, or 0."""

    def __gt__(self, other: Any) -> Lane:
        return Lane(z3.If(self.value > raw(other), z3.BitVecVal(-1, 32), z3.BitVecVal(0, 32)))

    def __le__(self, other: Any) -> Lane:
        return Lane(z3.If(self.value <= raw(other), z3.BitVecVal(-1, 32), z3.BitVecVal(0, 32)))

    def __add__(self, other: Any) -> Lane:
        return Lane(self.value + raw(other))


def lane(x: Any) -> Lane:
    return Lane(raw(x))


STEP = between("I32 u = input[part]", "#if VEC == 64") + between("I32 rest = u <= threshold", "quiet |= bits_of")
STEP += between("v[part] = u & rest", "kept[part] = after & rest")


@pytest.mark.parametrize("current", ["FITS", "WRAPS", "DECAYS", "FREE"])
@pytest.mark.parametrize("decay", ["GONE", "BY_SHIFT", "BY_PRODUCT"])
@pytest.mark.parametrize("scale", [0, 1])
def test_a_step_of_the_engine(current: str, decay: str, scale: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every kind of layer that `plan` makes, each within what it was chosen for; `FREE` as the next test shows."""
    sums, bias, threshold, kept_u, kept_v = registers("sums", "bias", "threshold", "ku", "kv")
    kept_u = kept_u if current == "DECAYS" else Symbol(z3.BitVecVal(0, 32))
    kept_v = kept_v if decay != "GONE" else Symbol(z3.BitVecVal(0, 32))
    given = [within(threshold, 0, 2**17 - 1), within(bias, -4096, 4095)]
    whole = wide(sums) * 2**scale  # the engine adds half of even weights
    if current in ("FITS", "FREE"):
        given.append(within(whole, -plan.INPUT_MAX, plan.INPUT_MAX))
    if current == "FREE":
        unclipped = wide(kept_v) + whole * 64 + wide(bias) * 64
        given.append(within(unclipped, -(2**23) + 1, 2**23 - 1))
    if scale:
        given.append(within(wide(sums), -(2**30), 2**30 - 1))  # an int32 holds twice of it, see `plan`
    names: dict[str, Any] = {
        **{name: name for name in ("FITS", "WRAPS", "DECAYS", "FREE", "GONE", "BY_TABLE")},
        **dict.fromkeys(("L", "next", "i", "round", "keep", "current_keep", "current", "input")),
        "CURRENT": current,
        "DECAY": decay,
        "fresh": True,
        "STATE_MAX": neuron.STATE_MAX,
        "shift": 6 + scale,
        "sums": sums,
        "kept": lane(kept_v),
        "bias": bias << 6,
        "fixed": lane(threshold << 6),
        "top": 2**23 - 1,
        "bottom": -(2**23) + 1,
        "load": lambda place: lane(place),
        "shifted_left": lambda x, count: lane(x << count),
        "scaled": lambda *_: kept_u,
        "all32": lambda x: x,
        "least": lambda a, b: Lane(z3.If(raw(a) < raw(b), raw(a), raw(b))),
        "most": lambda a, b: Lane(z3.If(raw(a) > raw(b), raw(a), raw(b))),
        "kept_of": lambda *_: None,
    }
    exec(in_python(STEP), names)
    layer: Any = SimpleNamespace(steps=None, current_decay=0, voltage_decay=0, threshold=wide(threshold))
    decays = iter([wide(kept_u), wide(kept_v)])
    monkeypatch.setattr(reference, "_toward_zero", lambda *_: next(decays))
    u, v, fired = reference.neuron_step(layer, 0, kept_u, kept_v, whole, wide(bias))  # type: ignore[arg-type]
    proved(raw(wide(names["v"])) == raw(v), *given)
    proved((raw(names["rest"]) == 0) == fired, *given)
    if current == "DECAYS":
        proved(raw(wide(names["current"])) == raw(u), *given)


def test_a_membrane_that_needs_no_clipping() -> None:
    """`FREE`: with |input| <= drive and drive * 4096 <= (2^23 - 1) * (4096 - keep), for every keep below 4096.

    If |v| (4096 - keep) <= 4096 drive, then |v| fits, and the next v is within the same.
    """
    size, drive, given_ = integers("size", "drive", "input")
    for number in range(4096):
        rest = 4096 - number
        bound = size.value * rest <= 4096 * drive.value
        assumed = (bound, size.value >= 0, drive.value * 4096 <= (2**23 - 1) * rest, within(given_, 0, 2**40))
        after = (size * number >> 12) + given_
        fits = z3.And(after.value * rest <= 4096 * drive.value, after.value <= 2**23 - 1)
        proved(fits, *assumed, given_.value <= drive.value)


@pytest.mark.parametrize("more", range(5))
def test_decays_of_the_engine(more: int) -> None:
    """`scaled`: decays by a product (more = 0), or by a leak of 16 bits over 2^(12 + more); all of it in int32."""
    text = between("I32 sign = state >> 31", "return (kept")
    lines = in_python(text).splitlines()
    assert len(lines) == 3
    (state,) = registers("state")
    names: dict[str, Any] = {"state": state, "more": more}
    exec("\n".join(lines[:2]), names)
    proved(raw(names["size"]) == raw(state.abs()), state.value != -(2**31))
    kept = Symbol(z3.BitVec("kept", 32))
    assert "return (kept ^ sign) - sign;" in NEURONS
    proved(raw((kept ^ names["sign"]) - names["sign"]) == z3.If(state.value < 0, -kept.value, kept.value))
    size, keep = integers("size", "keep")
    names = {"size": size, "keep": keep, "more": more}
    exec(lines[2], names)
    for largest, most in ((MOST, 4096), (2**23, 2**16 - 1)):
        given = (within(size, 0, largest), within(keep, 0, most))
        wanted = Symbol(size.value * keep.value) >> 12 + more
        proved(raw(names["kept"]) == wanted.value, *given)
        proved(z3.And(within((size >> 12) * keep, 0, MOST), within((size & 4095) * keep, 0, MOST)), *given)


@pytest.mark.parametrize("shift", range(13))
def test_decays_by_shifting(shift: int) -> None:
    """Where 4096 - decay is a power of two: all states of 32 bits but -2^31."""
    line = between("if (DECAY == BY_SHIFT) return ", ";").removeprefix("if (DECAY == BY_SHIFT) return ")
    (state,) = registers("state")
    layer = SimpleNamespace(voltage_shift=shift)
    assert "round = all32((1 << L.voltage_shift) - 1)" in NEURONS
    names = {"shifted_right": lambda x, count: x >> count, "v": state, "round": 2**shift - 1, "L": layer}
    found = eval(line, names)
    wanted = reference._toward_zero(wide(state), 2 ** (12 - shift))  # type: ignore[arg-type]
    proved(raw(wide(found)) == raw(wanted), state.value != -(2**31))
