"""model.safetensors files that are wrong: their header, what it says, their values."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import fuzz_graph
import fuzz_model
import torch
from damage import VALUES, Damaged, Rng, Tree, changed, mutator, over, pick

from snn2chip.nn import safetensors

SIGNATURES = (b'"dtype"', b'"shape"', b'"data_offsets"', b'"__metadata__"', b"[", b"{", b'"F32"')
NUMBERS = (0, 1, -1, 2, 7, 8, 2**20, 2**31, 2**47, 2**48, 2**63, 2**64, 1.5, True, None, "", [], {})


class Header(Tree):
    """The entries of a header."""

    def values(self) -> list[Any]:
        return list(self.content)

    def get(self, name: Any) -> Any:
        return None

    def put(self, name: Any, value: Any, dtype: Any = None) -> None:
        self.content[name] = value.tolist() if hasattr(value, "tolist") else value


def entry(tree: Header, name: str, rng: Rng) -> str:
    """Another type, shape or place of a tensor."""
    table, value = tree.content[name], pick(rng, NUMBERS)
    if name == "__metadata__":
        key = pick(rng, list(table))
        table[key] = pick(rng, (value, "{", "[]", "{}", table[key][:20], table[key].replace("1", "2")))
        return f"{key} is another text"
    key = pick(rng, ("dtype", "shape", "data_offsets"))
    if key == "dtype":
        table[key] = pick(rng, (*safetensors._TYPES, "F8_E4M3", "C64", value))
    elif rng.random() < 0.3 or not table[key]:
        table[key] = value
    else:
        table[key][int(rng.integers(len(table[key])))] = value
    return f"{key} is {table[key]}"


HEADERS = VALUES | over("values", entry)
CHANGES = fuzz_model.CHANGES | fuzz_graph.CHANGES | HEADERS


def header(seed: bytes, rng: Rng) -> Damaged:
    """The header changed, its length right or not."""
    size = int.from_bytes(seed[:8], "little")
    table = json.loads(seed[8 : 8 + size])
    said = changed(Header(table), HEADERS, rng, (1, 1, 2), ("entry",) * 8)
    text = json.dumps(table, default=str).encode()
    length = len(text) if rng.random() < 0.9 else int(pick(rng, (0, 1, size, 2**40, 2**64 - 1)))
    return length.to_bytes(8, "little") + text + seed[8 + size :], said


def contents(seed: bytes, rng: Rng) -> Damaged:
    """What it holds changed, and written as it should be, as far as that can be written."""
    content = safetensors._content(seed)
    said = (fuzz_graph if "graph" in content else fuzz_model).altered(content, rng)
    if "state" in content and isinstance(content["state"], dict):
        for name, value in list(content["state"].items()):
            good = isinstance(name, str) and isinstance(value, torch.Tensor) and value.numel() < 2**20
            good = good and value.layout is torch.strided and value.device.type == "cpu" and not value.is_quantized
            if not good or value.dtype not in safetensors._NAMES:
                del content["state"][name]
    with contextlib.suppress(Exception):
        return safetensors.dump({key: value for key, value in content.items() if isinstance(key, str)}), said
    return header(seed, rng)


mutate = mutator(SIGNATURES, 2, (0.45, contents), (0.35, header))
