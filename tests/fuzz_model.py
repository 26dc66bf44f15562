"""model.pt files that are wrong: archives, pickles, tensors and plain values of every kind."""

from __future__ import annotations

import copy
import functools
import io
import pickle
import zipfile
from collections.abc import Callable
from typing import Any

import torch
from fuzz_bytes import Rng, damage, pick

SIGNATURES = (
    b"PK\x03\x04",
    b"PK\x01\x02",
    b"PK\x05\x06",
    b"PK\x06\x06",
    b"PK\x06\x07",
    b"data.pkl",
    b"ctorch",
    b"\x80\x02",
)
FLOATS = (float("nan"), float("inf"), -1.0, 0.0, 1e-45, 3e38)


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


def paths(value: Any, prefix: tuple[Any, ...] = (), depth: int = 0) -> list[tuple[Any, ...]]:
    """Every place in nested dictionaries and lists."""
    found = [prefix] if prefix else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    if depth < 6:
        for key, item in items:
            found += paths(item, (*prefix, key), depth + 1)
    return found


def at(content: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        content = content[key]
    return content


def another(content: dict[str, Any], rng: Rng) -> str:
    """Anything in any place."""
    path = pick(rng, paths(content))
    index = int(rng.integers(len(THINGS)))
    at(content, path[:-1])[path[-1]] = THINGS[index]()  # type: ignore[index]
    return f"{path} is thing {index}"


def recipe(content: dict[str, Any], rng: Rng) -> str:
    """Sizes of the recipe that build another network, or one without end."""
    layers = content["recipe"]["model"]["layers"]
    layer = pick(rng, layers)
    value = int(pick(rng, (0, 1, 2, 3, 2**10, 2**20, 2**31, 2**40)))  # type: ignore[call-overload]
    key = str(pick(rng, ("channels", "blocks", "kernel", "stride", "padding", "dilation", "groups", "features", "p")))
    if rng.random() < 0.3:
        layers.extend(copy.deepcopy(pick(rng, layers)) for _ in range(int(pick(rng, (1, 5, 300)))))  # type: ignore[call-overload]
        return "more layers"
    if rng.random() < 0.3:
        table = pick(
            rng, (content["recipe"]["model"], content["recipe"]["model"]["neuron"], content["recipe"]["train"])
        )
        key = str(pick(rng, list(table)))  # type: ignore[call-overload]
        table[key] = pick(rng, (value, float(value), "relu", "spike_count", "poisson", 0.5, 1024))  # type: ignore[index]
        return f"recipe's {key} is {table[key]}"  # type: ignore[index]
    layer[key] = value  # type: ignore[index]
    return f"a layer's {key} is {value}"


def sizes(content: dict[str, Any], rng: Rng) -> str:
    """Input shape and classes of another size."""
    if rng.random() < 0.5:
        value = int(pick(rng, (0, 1, 7, 2**12, 2**16, 2**20, 2**31, -1)))  # type: ignore[call-overload]
        axis = int(rng.integers(3))
        content["input_shape"][axis] = value
        return f"input_shape[{axis}] is {value}"
    count = int(pick(rng, (0, 1, 4, 100_000)))  # type: ignore[call-overload]
    content["classes"] = ["c"] * count
    return f"{count} classes"


def tensor(content: dict[str, Any], rng: Rng) -> str:
    """A tensor of another shape, type, storage or value."""
    state = content["state"]
    name = str(pick(rng, list(state)))
    old = state[name]
    if not isinstance(old, torch.Tensor):
        return f"{name} stays"
    value = float(pick(rng, FLOATS))  # type: ignore[arg-type]
    ways: dict[str, Callable[[], Any]] = {
        "flat": lambda: old.reshape(-1),
        "doubled": lambda: torch.cat([old.reshape(1, -1)] * 2),
        "transposed": lambda: old.mT if old.ndim > 1 else old[None],
        "empty": lambda: old.reshape(-1)[:0],
        "half": lambda: old.half(),
        "bfloat16": lambda: old.bfloat16(),
        "double": lambda: old.double() * 1e300,
        "integers": lambda: old.int(),
        "one stored value": lambda: torch.as_strided(torch.full((1,), value), old.shape, (0,) * old.ndim),
        "vast": lambda: vast(*old.shape, 2**31),
        "values": lambda: torch.full_like(old, value),
        "sparse": lambda: old.to_sparse() if old.ndim else old,
        "meta": lambda: old.to("meta"),
        "parameter": lambda: torch.nn.Parameter(old),
    }
    way = str(pick(rng, list(ways)))
    state[name] = ways[way]()
    return f"{name} {way} {value}"


def keys(content: dict[str, Any], rng: Rng) -> str:
    """A place missing, renamed or added, at any depth."""
    path = pick(rng, paths(content))
    table, key = at(content, path[:-1]), path[-1]  # type: ignore[index]
    if isinstance(table, dict):
        if rng.random() < 0.5:
            del table[key]
            return f"{path} removed"
        new = pick(rng, ("", "a\nb", 5, None, (1, 2), "weight", "x" * 1000))
        table[new] = table.pop(key)
        return f"{path} renamed {new!r:.40}"
    table.append(table[0])
    return f"{path} longer"


def whole(content: dict[str, Any], rng: Rng) -> str:
    """Nothing of what was there."""
    key = str(pick(rng, list(content)))
    kept = content[key]
    content.clear()
    content[key] = kept
    return f"only {key}"


CHANGES: dict[str, Callable[[dict[str, Any], Rng], str]] = {
    call.__name__: call for call in (another, recipe, sizes, tensor, keys, whole)
}


def pickled(seed: bytes, rng: Rng) -> tuple[bytes, str]:
    """The archive with another pickle in it, or a bare pickle: opcodes changed, deep, long, or of another kind."""
    made = (
        (lambda: pickle.dumps(laughs(40), 2), "nested lists"),
        (lambda: b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".", "100000 lists in each other"),
        (lambda: b"\x80\x02" + b"(" * 50_000 + b"t" * 50_000 + b".", "tuples in each other"),
        (lambda: b"\x80\x02r\xff\xff\xff\x7f.", "a memo of 2^31"),
        (lambda: b"\x80\x02\x8b\xff\xff\xff\x7f\x01.", "an integer of 2 GB"),
        (lambda: b"\x80\x02T\xff\xff\xff\x7fabc.", "a text of 2 GB"),
        (lambda: b"\x80\x02X\xff\xff\xff\xffabc.", "a text of 4 GB"),
        (lambda: b"\x80\x04\x8d" + b"\xff" * 8 + b"abc.", "a text of 2^64"),
        (lambda: b"\x80\x02ctorch\nzeros\n(K\x0aK\x0atR.", "a call of torch.zeros"),
        (lambda: b"\x80\x02cbuiltins\neval\nX\x03\x00\x00\x001+1\x85R.", "a call of eval"),
        (lambda: b"\x80\x02c__builtin__\nbytearray\nJ\xff\xff\xff\x7f\x85R.", "a bytearray of 2 GB"),
        (lambda: b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00latin\x86R.", "a call of encode"),
        (lambda: b"\x80\x02ctorch\nSize\n(J\xff\xff\xff\x7ftR.", "a size"),
        (lambda: b"\x80\x02ccollections\nOrderedDict\n)R}(K\x01K\x02ub.", "a dictionary with a state"),
        (lambda: b"\x80\x02ccollections\nCounter\n}X\x01\x00\x00\x00aK\x01s\x85R.", "a Counter"),
    )
    body, said = made[int(rng.integers(len(made)))]
    if rng.random() < 0.3:
        return body(), f"bare: {said}"
    memory = io.BytesIO()
    try:
        with zipfile.ZipFile(io.BytesIO(seed)) as old, zipfile.ZipFile(memory, "w") as new:
            for entry in old.infolist():
                content = old.read(entry)
                if entry.filename.endswith("data.pkl"):
                    if rng.random() < 0.6:
                        content, said = damage(content, rng, (b"c", b"\x80", b"}", b"(", b"X", b"t", b"R"))
                    else:
                        content = body()
                new.writestr(entry.filename, content)
    except zipfile.BadZipFile:
        return damage(seed, rng)
    return memory.getvalue(), f"in the archive: {said}"


@functools.cache
def _zeros(size: int) -> bytes:
    return bytes(size)


def archive(seed: bytes, rng: Rng) -> tuple[bytes, str]:
    """Archives that inflate, repeat, lack or rename their files, or keep one many times."""
    way = str(pick(rng, ("deflated", "bomb", "overlapping", "missing", "twice", "renamed", "longer", "many", "path")))
    memory = io.BytesIO()
    try:
        old = zipfile.ZipFile(io.BytesIO(seed))
    except zipfile.BadZipFile:
        return damage(seed, rng)
    entries = {entry.filename: old.read(entry) for entry in old.infolist()}
    name = str(pick(rng, list(entries)))
    method = zipfile.ZIP_DEFLATED if way in ("deflated", "bomb") else zipfile.ZIP_STORED
    if way == "bomb":
        entries[str(pick(rng, (name, f"{name.partition('/')[0]}/data/99")))] = _zeros(2**28)
    elif way == "missing":
        del entries[name]
    elif way == "renamed":
        entries[str(pick(rng, ("x", "other/data.pkl", f"{name}x", "../../x")))] = entries.pop(name)
    elif way == "longer":
        entries[name] = entries[name] + rng.bytes(1000)
    elif way == "many":
        entries |= {f"x/{index}": b"" for index in range(3000)}
    elif way == "path":
        entries = {f"/a/../{key}": value for key, value in entries.items()}
    with zipfile.ZipFile(memory, "w", method) as new:
        for key, value in entries.items():
            new.writestr(key, value)
    data = memory.getvalue()
    if way in ("twice", "overlapping"):
        data = _repeated(data, 3000 if way == "overlapping" else 1)
    return data, f"archive {way}: {name}"


def _repeated(data: bytes, times: int) -> bytes:
    """The last entry of the directory again and again: the same stored bytes, counted as often."""
    end = data.rindex(b"PK\x05\x06")
    start = int.from_bytes(data[end + 16 : end + 20], "little")
    last = data.rindex(b"PK\x01\x02", start, end)
    entry = data[last:end]
    count = int.from_bytes(data[end + 10 : end + 12], "little") + times
    size = end - start + len(entry) * times
    tail = bytearray(data[end:])
    tail[8:10] = tail[10:12] = (count % 65536).to_bytes(2, "little")
    tail[12:16] = size.to_bytes(4, "little")
    return data[:end] + entry * times + bytes(tail)


def mutate(seed: bytes, rng: Rng) -> tuple[bytes, list[str]]:
    """A damaged copy of a model.pt and what was done to it."""
    kind = rng.random()
    if kind < 0.55:
        content = torch.load(io.BytesIO(seed), weights_only=True)
        said = []
        for _ in range(int(pick(rng, (1, 1, 2)))):  # type: ignore[call-overload]
            name = str(pick(rng, list(CHANGES)))
            try:
                said.append(f"{name}: {CHANGES[name](content, rng)}")
            except Exception as error:  # after earlier changes
                said.append(f"{name}: not possible here ({type(error).__name__})")
        memory = io.BytesIO()
        torch.save(content, memory, _use_new_zipfile_serialization=rng.random() < 0.9)
        return memory.getvalue(), said
    if kind < 0.7:
        data, what = pickled(seed, rng)
        return data, [f"pickled: {what}"]
    if kind < 0.8:
        data, what = archive(seed, rng)
        return data, [f"archive: {what}"]
    data, said = seed, []
    for _ in range(int(rng.integers(1, 3))):
        data, what = damage(data, rng, SIGNATURES)
        said.append(what)
        if not data:
            break
    return data, said
