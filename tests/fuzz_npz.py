"""Files of arrays that are wrong: inputs, traces and recordings as .npz; and the readers that they go to."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from damage import VALUES, Damaged, Rng, Tree, archive, changed, damage, entry, mutator, pick, zipped

SIGNATURES = (b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06", b"\x93NUMPY", b"descr", b"shape")
CHANGES = VALUES


class Arrays(Tree):
    new = (*Tree.new, "offsets", "t_us", "sensor")


def arrays(seed: bytes, rng: Rng) -> Damaged:
    with np.load(io.BytesIO(seed)) as file:
        content = dict(file)
    said = changed(Arrays(content), CHANGES, rng, (1, 2))
    made = {}
    for name, found in content.items():
        memory = io.BytesIO()
        np.save(memory, found, allow_pickle=True)
        made[f"{name}.npy"] = memory.getvalue()
    return zipped(made), said


def head(seed: bytes, rng: Rng) -> Damaged:
    """An array whose first bytes claim another shape, never end, or are damaged."""

    def change(content: bytes) -> tuple[bytes, str]:
        way = int(rng.integers(3))
        if way == 0:
            return content[:10] + b"(" * 5000, "opens brackets"
        if way == 1:
            return damage(content[:128], rng)[0] + content[128:], "damaged head"
        huge = pick(rng, ["(9999999999999,)", "(-1,)", "(2**70,)", "(1e3,)", "(99999999, 99999999)"])
        said = "{'descr': '<i8', 'fortran_order': False, 'shape': " + huge + ", }"
        return b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + said.ljust(117).encode() + b"\n", f"claims {huge}"

    return entry(seed, rng, ".npy", change)


mutate = mutator(SIGNATURES, 1, (0.5, arrays), (0.1, head), (0.15, archive))


def read_input(path: Path) -> object:
    """What `simulate --input` reads."""
    from fuzz_seeds import small_chain

    from snn2chip.simulate import trace

    return trace.load_input(path, small_chain())


def read_trace(path: Path) -> object:
    """What `verify` reads of Lava's answer."""
    from fuzz_seeds import small_chain

    from snn2chip.simulate import trace

    return trace.load(path, small_chain())
