"""Products in int8 digits: every sum that float products give, on the CPU, and on a GPU where there is one."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from helpers import assert_same, chains, port_input, usually
from hypothesis import example, given, settings
from hypothesis import strategies as st

from snn2chip import ir
from snn2chip.chip import int8, products
from snn2chip.chip.bounds import BINARY, largest_sum
from snn2chip.chip.products import Product
from snn2chip.simulate import reference
from snn2chip.simulate.dense import DenseEngine

CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def exact_on_this_processor() -> Iterator[None]:
    """torch's own int8 product, or where that saturates (oneDNN without VNNI: it is not used there), one in int32."""
    with pytest.MonkeyPatch.context() as patch:
        if not int8.usable.__wrapped__(CPU):
            patch.setattr(torch, "_int_mm", lambda a, b: a.int() @ b.int())
        yield


@given(st.lists(st.integers(-(2**30), 2**30), max_size=40), st.integers(0, 6))
@example([-256, 254, 0], 0)
@example([], 0)
@example([0, 0], 3)
@example([-(2**30), 2**30, 1], 0)
def test_digits_are_the_number(values: list[int], shift: int) -> None:
    """Factors and int8 digits give every number again; Loihi's weights take one digit."""
    numbers = np.array(values, dtype=np.int64) << shift
    found = int8.digits_of(numbers)
    assert all(digit.dtype == np.int8 and digit.shape == numbers.shape for _, digit in found)
    total = sum(factor * digit.astype(np.int64) for factor, digit in found)
    np.testing.assert_array_equal(total, numbers)
    if (np.abs(numbers) <= 254).all() and not (numbers % 2).any():
        assert len(found) == 1
    again = int8._digits(torch.from_numpy(numbers))
    assert torch.equal(sum(factor * digit.long() for factor, digit in again), torch.from_numpy(numbers))  # type: ignore[arg-type]


def test_an_int8_ends_at_127() -> None:
    """128 takes a second digit where no power of two leaves it, -128 takes none."""
    assert [(f, d.tolist()) for f, d in int8.digits_of(np.array([127, -128, 1]))] == [(1, [127, -128, 1])]
    for values in ([128, 1], [-129, 1]):
        found = int8.digits_of(np.array(values))
        assert [factor for factor, _ in found] == [1, 128]
        assert sum(factor * digit.astype(int) for factor, digit in found).tolist() == values  # type: ignore[attr-defined]
        again = int8._digits(torch.tensor(values))
        assert sum(factor * digit.long() for factor, digit in again).tolist() == values  # type: ignore[attr-defined]
    layer = ir.Dense("dense", (), np.array([[1, 1]]), None)
    for high in (127, 128):
        made = int8.Int8Product(layer, np.array([0]), np.array([high]), CPU)
        assert made.small == (high == 127)
        assert made(torch.tensor([[high, high]], dtype=torch.int32)).tolist() == [[2 * high]]


def in_int8(engine: DenseEngine) -> int:
    """Give the products of `engine` that int8 takes to it; returns how many."""
    changed = 0
    low, high = engine.chain.port_range
    for index, runner in enumerate(engine.runners):
        bounds = (low, high) if index == 0 else BINARY
        if int8.takes(runner.layer, largest_sum(runner.layer, *bounds)):
            runner.product.int8 = int8.Int8Product(runner.layer, *bounds, CPU)
            changed += 1
    return changed


@given(chain=chains(), seed=st.integers(0, 2**32 - 1), samples=st.integers(1, 5), extreme=st.booleans())
@settings(max_examples=usually(150), deadline=None)
def test_chains_equal_the_reference(chain: ir.Chain, seed: int, samples: int, extreme: bool) -> None:
    """Any geometry, graded or binary input: every spike, voltage and largest sum."""
    port = port_input(chain, samples, seed, extreme=extreme)
    engine = DenseEngine(chain)
    in_int8(engine)
    assert_same(engine.run(port, batch_size=3), reference.run(chain, port))


def test_random_chains_reach_it() -> None:
    """The chains above have layers in int8, inputs of several digits too, and layers that it does not take: seeded."""
    seen = {"taken": 0, "left": 0, "graded": 0}

    @settings(max_examples=150, deadline=None, derandomize=True, database=None)
    @given(chain=chains())
    def visit(chain: ir.Chain) -> None:
        engine = DenseEngine(chain)
        taken = in_int8(engine)
        seen["taken"] += taken
        seen["left"] += len(engine.runners) - taken
        for runner in engine.runners:
            if runner.product.int8 is not None:
                seen["graded"] += not runner.product.int8.small

    visit()
    assert min(seen.values()) >= 5, seen


@pytest.mark.parametrize("largest", [127, 1500])
@pytest.mark.parametrize("high", [1, 60000])
def test_in_chunks(high: int, largest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However few rows are gathered at a time, and however many digits weights and inputs have: the same sums."""
    rng = np.random.default_rng(0)
    layer = ir.Conv("c", ("x",), rng.integers(-largest, largest + 1, (5, 3, 3, 2)), None, (2, 1), (1, 1), (1, 2))
    x = torch.from_numpy(rng.integers(0, high + 1, (7, 2, 3, 9, 8)))
    bounds = np.zeros(1, dtype=np.int64), np.full(1, high, dtype=np.int64)
    wanted = Product(layer, *bounds)(x)
    for size in (1, 9 * 8 * 24 * 3, 1 << 28):
        monkeypatch.setattr(int8, "GATHERED", size)
        made = int8.Int8Product(layer, *bounds, CPU)
        assert len(made.digits) == (1 if largest == 127 else 2) and made.small == (high == 1)
        assert torch.equal(made(x.flatten(0, 1)).unflatten(0, (7, 2)), wanted)


def test_what_it_does_not_take() -> None:
    """Groups, and sums that leave int32."""
    weight = np.ones((4, 1, 3, 3), dtype=np.int64)
    assert not int8.takes(ir.Conv("c", ("x",), weight, None, groups=4), 9)
    assert int8.takes(ir.Conv("c", ("x",), weight, None), 2**31 - 1)
    assert not int8.takes(ir.Conv("c", ("x",), weight, None), 2**31)


def test_a_device_that_is_wrong_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products are tried out first: where they fail or differ, the float products stay."""
    uncached = int8.usable.__wrapped__
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: True, raising=False)
    assert uncached(CPU)
    multiply = int8.product

    def fails(_a: torch.Tensor, _b: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no such kernel")

    for wrong in (fails, lambda a, b: multiply(a, b) + (a[:, :1] == -128)):
        monkeypatch.setattr(int8, "product", wrong)
        assert not uncached(CPU)
    monkeypatch.setattr(int8, "product", multiply)
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    assert not uncached(CPU)
    monkeypatch.delattr(torch.cpu, "_is_vnni_supported")  # torch before 2.6
    assert not uncached(CPU)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@given(chain=chains(), seed=st.integers(0, 2**32 - 1), samples=st.integers(1, 5))
@settings(max_examples=usually(50), deadline=None)
def test_a_gpu_equals_the_reference(chain: ir.Chain, seed: int, samples: int) -> None:
    """The dense engine on CUDA, in int8 and, for what it does not take, in float64."""
    device = torch.device("cuda")
    assert int8.usable(device)
    port = port_input(chain, samples, seed)
    assert_same(DenseEngine(chain, device).run(port, batch_size=3), reference.run(chain, port))


def test_a_gpu_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the CPU, whose float32 is exact and faster; a device that is not one, if its products are right."""
    layer = ir.Dense("d", ("x",), np.full((3, 8), 2, dtype=np.int64), None)
    assert Product(layer, *BINARY).int8 is None
    made = []
    monkeypatch.setattr(products, "usable", lambda _device: True)
    monkeypatch.setattr(products, "Int8Product", lambda *values: made.append(values))
    Product(layer, *BINARY, torch.device("meta"))
    assert len(made) == 1 and made[0][0] is layer
