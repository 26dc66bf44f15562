"""model.pt files that are wrong: archives, pickles, tensors and plain values of every kind."""

from __future__ import annotations

import copy
import io
import pickle
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from damage import FLOATS, VALUES, Damaged, Rng, Tree, archive, changed, damage, entry, mutator, over, pick, struck

SIGNATURES = (
    *(b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07", b"data.pkl", b"ctorch", b"\x80\x02"),
)


def laughs(depth: int) -> Any:
    """A list of 2^depth places in some hundred bytes of pickle."""
    value: Any = ["ha"]
    for _ in range(depth):
        value = [value, value]
    return value


def loop() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


def vast(*shape: int) -> torch.Tensor:
    """A tensor of any shape over one stored value."""
    return torch.as_strided(torch.zeros(1), shape, (0,) * len(shape))


def shifted() -> torch.Tensor:
    return torch.as_strided(torch.arange(12.0), (3, 2), (2, 1), 5)


THINGS: tuple[Callable[[], Any], ...] = (
    *(lambda: None, lambda: 0, lambda: -1, lambda: 10**30, lambda: 2**63, lambda: 1e400, lambda: float("nan")),
    *(lambda: "", lambda: "a\nb", lambda: "x" * 100_000, lambda: b"bytes", list, dict, lambda: (1, 2, 3)),
    *(lambda: [2**20, 2**20, 2**20], lambda: [1, 2**31, 2**31], lambda: [10**30] * 3, lambda: ["a", 1, None]),
    *(lambda: {"a": 1}, lambda: {1: 2}, lambda: True, lambda: set(), lambda: laughs(40), loop, lambda: laughs(5)),
    *(lambda: torch.zeros(3), lambda: torch.zeros(()), lambda: torch.zeros(0), lambda: vast(2**20, 2**20), shifted),
    *(lambda: vast(2**16, 2**16), lambda: vast(2**62), lambda: torch.zeros(2, 3, dtype=torch.complex64)),
    *(lambda: torch.zeros(2, 2).to_sparse(), lambda: torch.zeros(2, 2, device="meta"), lambda: torch.zeros(3).half()),
    *(lambda: torch.quantize_per_tensor(torch.zeros(2), 0.1, 0, torch.qint8), lambda: torch.ones(2, dtype=torch.int8)),
    *(lambda: torch.zeros(2, dtype=torch.float8_e4m3fn), lambda: torch.nn.Parameter(torch.zeros(2))),
    *(lambda: torch.eye(3).to_sparse_csr(), lambda: torch.Size([2, 3]), lambda: torch.float64, lambda: 2**31),
)  # fmt: skip


class Nested(Tree):
    """Nested dictionaries and lists; a name is the path of keys."""

    new = ("", "a\nb", 5, None, (1, 2), "weight", "x" * 1000)

    def values(self) -> list[Any]:
        return _paths(self.content)

    def tensors(self) -> list[Any]:
        return [("state", name) for name, value in self.content["state"].items() if isinstance(value, torch.Tensor)]

    def layers(self) -> list[Any]:
        table = self.content["recipe"]["model"] if "recipe" in self.content else self.content["graph"]
        return table["layers" if "recipe" in self.content else "nodes"]  # type: ignore[no-any-return]

    def keys(self) -> list[str]:
        return list(self.content)

    def at(self, path: tuple[Any, ...]) -> Any:
        found = self.content
        for key in path:
            found = found[key]
        return found

    def get(self, path: Any) -> Any:
        value = self.at(path)
        return np.asarray(value) if isinstance(value, torch.Tensor | int | float) else None

    def put(self, path: Any, value: Any, dtype: Any = None) -> None:
        if isinstance(self.at(path), torch.Tensor) and np.asarray(value).dtype.kind in "biufc":
            value = torch.from_numpy(np.array(value))
        self.at(path[:-1])[path[-1]] = value.tolist() if isinstance(value, np.ndarray) else value

    def remove(self, path: Any) -> None:
        del self.at(path[:-1])[path[-1]]

    def move(self, path: Any, new: Any) -> None:
        table = self.at(path[:-1])
        if isinstance(table, dict):
            table[new] = table.pop(path[-1])
        else:
            table.append(table[0])


def _paths(value: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in nested dictionaries and lists."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = [prefix] if prefix else []
    return found + [path for key, item in items if len(prefix) < 6 for path in _paths(item, (*prefix, key))]


def another(tree: Nested, path: Any, rng: Rng) -> str:
    """Anything in any place."""
    index = int(rng.integers(len(THINGS)))
    tree.at(path[:-1])[path[-1]] = THINGS[index]()
    return f"is thing {index}"


def recipe(tree: Nested, layer: dict[str, Any], rng: Rng) -> str:
    """Sizes of the recipe that build another network, or one without end."""
    value = pick(rng, (0, 1, 2, 3, 2**10, 2**20, 2**31, 2**40))
    if rng.random() < 0.3:
        tree.layers().extend(copy.deepcopy(layer) for _ in range(pick(rng, (1, 5, 300))))
        return "more layers"
    if rng.random() < 0.3:
        layer = tree.at(pick(rng, (("recipe", "model"), ("recipe", "model", "neuron"), ("recipe", "train"))))
        key, value = (
            pick(rng, list(layer)),
            pick(rng, (value, float(value), "relu", "spike_count", "poisson", 0.5, 1024)),
        )
    else:
        key = pick(rng, ("channels", "blocks", "kernel", "stride", "padding", "dilation", "groups", "features", "p"))
    layer[key] = value
    return f"{key} is {value}"


def sizes(tree: Nested, _: str, rng: Rng) -> str:
    """Input shape and classes of another size."""
    if rng.random() < 0.5:
        axis, value = int(rng.integers(3)), pick(rng, (0, 1, 7, 2**12, 2**16, 2**20, 2**31, -1))
        tree.content["input_shape"][axis] = value
        return f"input_shape[{axis}] is {value}"
    count = pick(rng, (0, 1, 4, 100_000))
    tree.content["classes"] = ["c"] * count
    return f"{count} classes"


def tensor(tree: Nested, path: Any, rng: Rng) -> str:
    """A tensor of a kind, storage or type that only torch has."""
    old, value = tree.at(path), pick(rng, FLOATS)
    ways: dict[str, Callable[[], Any]] = {
        "half": old.half,
        "bfloat16": old.bfloat16,
        "double": lambda: old.double() * 1e300,
        "one stored value": lambda: torch.as_strided(torch.full((1,), value), old.shape, (0,) * old.ndim),
        "vast": lambda: vast(*old.shape, 2**31),
        "sparse": lambda: old.to_sparse() if old.ndim else old,
        "meta": lambda: old.to("meta"),
        "parameter": lambda: torch.nn.Parameter(old),
    }
    way = pick(rng, list(ways))
    tree.at(path[:-1])[path[-1]] = ways[way]()
    return f"{way} {value}"


def whole(tree: Nested, key: str, rng: Rng) -> str:
    """Nothing of what was there but one."""
    kept = tree.content[key]
    tree.content.clear()
    tree.content[key] = kept
    return "alone"


OF_ALL = VALUES | over("values", another) | over("tensors", tensor) | over("keys", whole)
CHANGES = OF_ALL | over("layers", recipe) | over("keys", sizes)


def altered(content: dict[str, Any], rng: Rng) -> list[str]:
    """One or two changes of what a recipe's model holds."""
    return changed(Nested(content), CHANGES, rng, (1, 1, 2), ("another", "another", "recipe", "sizes", "tensor"))


def saved(seed: bytes, rng: Rng, alter: Callable[[dict[str, Any], Rng], list[str]]) -> Damaged:
    """The file of a content that is changed."""
    content = torch.load(io.BytesIO(seed), weights_only=True)
    said = alter(content, rng)
    memory = io.BytesIO()
    torch.save(content, memory, _use_new_zipfile_serialization=rng.random() < 0.9)
    return memory.getvalue(), said


def contents(seed: bytes, rng: Rng) -> Damaged:
    return saved(seed, rng, altered)


PICKLES = (
    (pickle.dumps(laughs(40), 2), "nested lists"),
    (b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".", "100000 lists in each other"),
    (b"\x80\x02" + b"(" * 50_000 + b"t" * 50_000 + b".", "tuples in each other"),
    (b"\x80\x02r\xff\xff\xff\x7f.", "a memo of 2^31"),
    (b"\x80\x02\x8b\xff\xff\xff\x7f\x01.", "an integer of 2 GB"),
    (b"\x80\x02T\xff\xff\xff\x7fabc.", "a text of 2 GB"),
    (b"\x80\x02X\xff\xff\xff\xffabc.", "a text of 4 GB"),
    (b"\x80\x04\x8d" + b"\xff" * 8 + b"abc.", "a text of 2^64"),
    (b"\x80\x02ctorch\nzeros\n(K\x0aK\x0atR.", "a call of torch.zeros"),
    (b"\x80\x02cbuiltins\neval\nX\x03\x00\x00\x001+1\x85R.", "a call of eval"),
    (b"\x80\x02c__builtin__\nbytearray\nJ\xff\xff\xff\x7f\x85R.", "a bytearray of 2 GB"),
    (b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00latin\x86R.", "a call of encode"),
    (b"\x80\x02ctorch\nSize\n(J\xff\xff\xff\x7ftR.", "a size"),
    (b"\x80\x02ccollections\nOrderedDict\n)R}(K\x01K\x02ub.", "a dictionary with a state"),
    (b"\x80\x02ccollections\nCounter\n}X\x01\x00\x00\x00aK\x01s\x85R.", "a Counter"),
)


def pickled(seed: bytes, rng: Rng) -> Damaged:
    """The archive with another pickle in it, or a bare pickle: opcodes changed, deep, long, or of another kind."""
    body, said = pick(rng, PICKLES)
    if rng.random() < 0.3:
        return body, [f"pickled: bare, {said}"]
    if not zipfile.is_zipfile(io.BytesIO(seed)):
        return struck(seed, rng)

    def change(content: bytes) -> tuple[bytes, str]:
        if rng.random() < 0.6:
            return damage(content, rng, (b"c", b"\x80", b"}", b"(", b"X", b"t", b"R"))
        return body, said

    return entry(seed, rng, "data.pkl", change)


mutate = mutator(SIGNATURES, 2, (0.55, contents), (0.15, pickled), (0.1, archive))
