"""HDF5 files that are well formed and wrong: types, shapes, links, filters, storage, attributes."""

from __future__ import annotations

import functools
import io
import zlib
from collections.abc import Callable
from typing import Any

import h5py
import numpy as np
from fuzz_bytes import EDGES, Rng, damage, pick

Change = Callable[[h5py.File, Rng], str]
SIGNATURES = (b"TREE", b"SNOD", b"HEAP", b"GCOL", b"OHDR", b"OCHK", b"FRHP", b"BTHD", b"BTLF", b"FAHD", b"\x89HDF")
WORDS = (
    *("input", "conv", "dense", "dense_rec", "flatten", "pool", "average", "concat", "CUBA", "LOIHI", "SNN2CHIP_STEPS"),
    *("SDNN", "RF", "LIF", "IF", "Affine", "Conv2d", "NIRGraph", "Input", "Output", "membrane", "spike_count", "same"),
    *("", " ", "\n", "a\nb", "Ä\u2028", "'", "{}", "[]", "[[", '{"1": 5}', '{"1": {"l": [0]}}', "NaN", "1e999", "-1"),
    *("conv\r", "x" * 300, "[" * 5000, "9" * 5000, '"' + "x" * 70000 + '"'),
)
NUMBERS = (0, 1, -1, 2, 3, 5, 62, 63, 127, 255, 256, -257, 4095, 4096, 65535, 65536, 2**17, 2**31 - 1, 2**31, -(2**31))
HUGE = (2**32, 2**40, 2**53, 2**62, 2**63 - 1, -(2**63))
FLOATS = (float("nan"), float("inf"), float("-inf"), 0.5, -0.0, 1e-320, 1e308, 2.0**60, -3.0)
TYPES: tuple[Any, ...] = (
    *("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", ">i4", ">f8", "f2", "f4", "f8", "c8", "c16", "?", "S1", "S10"),
    *("S5000", "V4", "V3000", h5py.string_dtype(), h5py.string_dtype("ascii"), h5py.vlen_dtype(np.int32)),
    *(h5py.vlen_dtype(np.float64), h5py.enum_dtype({"ON": 1, "OFF": 0}), h5py.ref_dtype, h5py.regionref_dtype),
    *(np.dtype([("a", "i4"), ("b", "f8")]), np.dtype([("r", "f4"), ("i", "f4")]), np.dtype(("i4", (3,)))),
    *(np.dtype([("t", h5py.string_dtype()), ("n", "i4")]), np.dtype("longdouble"), np.dtype("M8[s]").str and "i8"),
)
SHAPES: tuple[tuple[int, ...], ...] = (
    *((), (0,), (1,), (2,), (3,), (1, 1), (0, 5), (2, 0, 3), (1, 1, 1), (2, 3), (4, 2, 3, 3), (1,) * 32),
)
VAST: tuple[tuple[int, ...], ...] = (
    *((2**40,), (2**31, 2**31), (2**16,) * 4, (2**63 - 1,), (2**28,), (2**27,), (2**26, 1), (1, 2**28), (2**62, 1, 1)),
    *((2**14, 2**14, 1), (2**20, 2**12), (3, 2**20, 2**20), (2**29,), (2**30, 1, 1, 1)),
)


def number(rng: Rng) -> int | float:
    return pick(rng, pick(rng, (NUMBERS, NUMBERS, HUGE, FLOATS)))  # type: ignore[return-value]


def objects(file: h5py.File, kind: type | tuple[type, ...]) -> list[str]:
    """Paths of the groups or datasets of the file; each object once, whatever links there are."""
    kinds = {
        {h5py.Group: h5py.h5o.TYPE_GROUP, h5py.Dataset: h5py.h5o.TYPE_DATASET}[item] for item in np.atleast_1d(kind)
    }
    names: list[str] = []
    h5py.h5o.visit(
        file.id,
        lambda name, info: names.append(name.decode()) if name != b"." and info.type in kinds else None,
        info=True,
    )
    return names


def any_of(file: h5py.File, rng: Rng, kind: type | tuple[type, ...] = h5py.Dataset) -> str:
    names = objects(file, kind)
    if not names:
        file.require_group("layer")
        return "layer"
    return str(pick(rng, names))


def array_of(dtype: Any, shape: tuple[int, ...], rng: Rng) -> Any:
    """An array of any type that HDF5 can hold."""
    dtype = np.dtype(dtype)
    size = int(np.prod(shape))
    if dtype.kind == "O":
        values = np.empty(shape, dtype=dtype)
        text = h5py.check_string_dtype(dtype) is not None
        if h5py.check_ref_dtype(dtype) is not None:
            return values  # null references
        for place in range(size):
            values.flat[place] = "conv" if text else rng.integers(0, 5, int(rng.integers(4)))
        return values
    if dtype.kind in "iufb?c":
        low, high = (0, 2) if dtype.kind == "b" else (0, 100) if dtype.kind == "u" else (-100, 100)
        return rng.integers(low, high, shape).astype(dtype)
    if dtype.kind == "S":
        return np.full(shape, b"conv", dtype=dtype)
    return np.zeros(shape, dtype=dtype)


def put(file: h5py.File, name: str, value: Any = None, **options: Any) -> None:
    """A dataset in the place of whatever is there."""
    if name in file or file.get(name, getlink=True) is not None:
        del file[name]
    file.create_dataset(name, data=value, **options)


# --------------------------------------------------------------------------------------------------- objects, links


def missing(file: h5py.File, rng: Rng) -> str:
    name = any_of(file, rng, (h5py.Dataset, h5py.Group))
    del file[name]
    return f"{name} removed"


def group_for_values(file: h5py.File, rng: Rng) -> str:
    name = any_of(file, rng)
    del file[name]
    group = file.create_group(name)
    if rng.random() < 0.5:
        group["0"] = 1
    return f"{name} is a group"


def values_for_group(file: h5py.File, rng: Rng) -> str:
    name = any_of(file, rng, h5py.Group)
    put(file, name, number(rng))
    return f"{name} is a dataset"


def renamed(file: h5py.File, rng: Rng) -> str:
    name = any_of(file, rng, (h5py.Dataset, h5py.Group))
    parent = name.rpartition("/")[0]
    new = str(pick(rng, ("0", "1", "01", "-1", "999", "x\ny", "ü", "weight", "bias", "neuron", "1e3", "node", "layer")))
    target = f"{parent}/{new}"
    if target in file or target == name:
        return f"{name} stays"
    file.move(name, target)
    return f"{name} is now {target!r}"


def exchanged(file: h5py.File, rng: Rng) -> str:
    names = objects(file, (h5py.Dataset, h5py.Group))
    first, second = str(pick(rng, names)), str(pick(rng, names))
    if first.startswith(second) or second.startswith(first):
        return f"{first} stays"
    file.move(first, "between")
    file.move(second, first)
    file.move("between", second)
    return f"{first} and {second} exchanged"


def alias(file: h5py.File, rng: Rng) -> str:
    """A second hard link: groups that hold themselves, a weight that is another's bias."""
    names = objects(file, (h5py.Dataset, h5py.Group))
    name, target = str(pick(rng, names)), str(pick(rng, [*names, "/"]))
    item = file[target]
    if rng.random() < 0.5 and isinstance(file[name], h5py.Group):
        name = f"{name}/{pick(rng, ('0', '1', '5', 'neuron', 'loop', 'nodes'))}"
    if file.get(name, getlink=True) is not None:
        del file[name]
    file[name] = item
    return f"{name} is a hard link to {target}"


def link(file: h5py.File, rng: Rng) -> str:
    name = any_of(file, rng, (h5py.Dataset, h5py.Group))
    other = any_of(file, rng, (h5py.Dataset, h5py.Group))
    moved = rng.random() < 0.5
    links = (
        (h5py.SoftLink(f"/{other}"), f"soft link to {other}"),
        (h5py.SoftLink("/nowhere"), "soft link to nothing"),
        (h5py.SoftLink(f"/{name}"), "soft link to itself"),
        (h5py.ExternalLink("/dev/zero", "/x"), "link into /dev/zero"),
        (h5py.ExternalLink("/proc/self/mem", "/x"), "link into the process's memory"),
        (h5py.ExternalLink("mutant", f"/{name}"), "link into the file itself"),
    )
    made, said = links[int(rng.integers(len(links)))]
    if moved and "elsewhere" not in file:
        file.move(name, "elsewhere")
        if said == f"soft link to {other}":
            made = h5py.SoftLink("/elsewhere")
    else:
        del file[name]
    file[name] = made
    return f"{name} is a {said}"


def named_type(file: h5py.File, rng: Rng) -> str:
    name = any_of(file, rng, (h5py.Dataset, h5py.Group))
    del file[name]
    file[name] = np.dtype("f8")
    return f"{name} is a data type"


def copied(file: h5py.File, rng: Rng) -> str:
    name = any_of(file, rng, h5py.Group)
    new = str(pick(rng, ("layer/9", "layer/5", "layer/x", "node/nodes/more", f"{name}/{name.rpartition('/')[2]}")))
    if new in file:
        return f"{new} stays"
    file.copy(file[name], new)
    return f"{name} copied to {new}"


def many(file: h5py.File, rng: Rng) -> str:
    """Thousands of objects, or groups a hundred deep."""
    name = any_of(file, rng, h5py.Group)
    if rng.random() < 0.5:
        for index in range(700):
            file[name].require_group(f"many{index}")
        return f"700 groups in {name}"
    group = file[name]
    for _ in range(150):
        group = group.require_group("0")
    return f"150 groups in each other in {name}"


# --------------------------------------------------------------------------------------------------- types, shapes


def typed(file: h5py.File, rng: Rng) -> str:
    """The same place with values of any type."""
    name = any_of(file, rng)
    dtype = pick(rng, TYPES)
    old = file[name].shape
    shape = old if old is not None and int(np.prod(old)) < 10_000 and rng.random() < 0.7 else pick(rng, SHAPES)
    put(file, name, array_of(dtype, shape, rng), dtype=dtype)  # type: ignore[arg-type]
    return f"{name} is {dtype!r} {shape}"


def shaped(file: h5py.File, rng: Rng) -> str:
    """The same values in another shape, or fewer or more of them."""
    name = any_of(file, rng)
    item = file[name]
    if item.shape is None or item.dtype.kind not in "iufS":
        return typed(file, rng)
    values = np.asarray(item[()])
    ways = {
        "flat": lambda: values.reshape(-1),
        "one axis more": lambda: values[None],
        "one axis more at the end": lambda: values[..., None],
        "transposed": lambda: values.T,
        "doubled": lambda: np.concatenate([np.atleast_1d(values)] * 2),
        "empty": lambda: np.atleast_1d(values)[:0],
        "the first": lambda: np.atleast_1d(values)[0],
        "without the first": lambda: np.atleast_1d(values)[1:],
        "any": lambda: np.zeros(pick(rng, SHAPES), values.dtype),  # type: ignore[arg-type]
    }
    way = str(pick(rng, list(ways)))
    put(file, name, np.array(ways[way]()))
    return f"{name} {way}"


def valued(file: h5py.File, rng: Rng) -> str:
    """The same shape with one number at an edge, or everywhere."""
    name = any_of(file, rng)
    item = file[name]
    if item.shape is None or item.dtype.kind not in "iuf":
        return worded(file, rng)
    value = number(rng)
    values = np.asarray(item[()]).astype("f8" if isinstance(value, float) else "i8")
    if values.size and rng.random() < 0.5:
        values.flat[int(rng.integers(values.size))] = value
    else:
        values = np.full(values.shape, value)
    put(file, name, values)
    return f"{value} in {name}"


def worded(file: h5py.File, rng: Rng) -> str:
    """Another word where there is text, or text where there is none."""
    texts = [name for name in objects(file, h5py.Dataset) if file[name].dtype.kind in "SO"]
    name = str(pick(rng, texts)) if texts and rng.random() < 0.8 else any_of(file, rng)
    word = str(pick(rng, WORDS))
    made = pick(rng, (np.bytes_(word.encode()), np.array([word.encode()]), word))
    put(file, name, made if word or made == "" else np.array([b""], "S1"))
    return f"{name} is the text {word[:40]!r}"


def empty(file: h5py.File, rng: Rng) -> str:
    name = any_of(file, rng)
    del file[name]
    file[name] = h5py.Empty(pick(rng, ("f4", "i8", "S10")))
    return f"{name} has no values"


def referring(file: h5py.File, rng: Rng) -> str:
    name = any_of(file, rng)
    target = file[any_of(file, rng, (h5py.Dataset, h5py.Group))]
    put(file, name, np.array([target.ref], dtype=h5py.ref_dtype), dtype=h5py.ref_dtype)
    return f"{name} is a reference"


# --------------------------------------------------------------------------------------------------- storage


def vast(file: h5py.File, rng: Rng) -> str:
    """A shape of gigabytes to exabytes with nothing stored, in chunks of usual or absurd size."""
    name = any_of(file, rng)
    shape: tuple[int, ...] = pick(rng, VAST)  # type: ignore[assignment]
    dtype = pick(rng, ("i1", "i4", "f8", "S100", "S60000"))
    chunks = tuple(min(side, int(pick(rng, (1, 64, 2**14)))) for side in shape)  # type: ignore[call-overload]
    options: dict[str, Any] = {} if rng.random() < 0.3 and np.prod(shape, dtype=float) < 2**60 else {"chunks": chunks}
    del file[name]
    try:
        file.create_dataset(name, shape, dtype, fillvalue=None, **options)
    except (ValueError, OSError, OverflowError, TypeError):
        file.create_dataset(name, shape[:1], "i1", chunks=(64,))
    return f"{name} claims {shape} of {dtype}"


def grown(file: h5py.File, rng: Rng) -> str:
    """Layers whose shapes fit each other and whose values are one fill value: vast networks in small files."""
    if "node" in file:
        return _grown_pool(file, rng)
    layers = [item for item in file["layer"].values() if isinstance(item, h5py.Group) and "weight" in item]
    layer = layers[int(rng.integers(len(layers)))] if layers else None
    if layer is None or layer["weight"].ndim < 2:
        return "nothing to grow"
    if layer["weight"].ndim == 2:
        inputs = layer["weight"].shape[1]
        rows = max(1, int(2 ** rng.integers(10, 28)) // inputs)
        for name in ("weight", "bias", "delay", "shape"):
            if name in layer and (name != "bias" or rng.random() < 0.5):
                del layer[name]
        layer["shape"] = np.array([rows])
        layer.create_dataset("weight", (rows, inputs), "i1", chunks=(min(rows, 4096), inputs), fillvalue=1)
        if rng.random() < 0.5:
            layer["delay"] = 5
        return f"{layer.name} of {rows} x {inputs} ones"
    side, first = int(2 ** rng.integers(5, 17)), file["layer/0"]
    shape = [int(first["shape"][0]), side, side]
    kernel = layer["weight"].shape[2:4]
    geometry = [np.broadcast_to(layer[name][()], (2,)) for name in ("stride", "padding", "dilation")]
    out = [
        (side + 2 * int(pad) - int(dilation) * (kernel[axis] - 1) - 1) // int(stride) + 1
        for axis, (stride, pad, dilation) in enumerate(zip(*geometry, strict=True))
    ]
    for name in ("bias", "shape"):
        if name in layer:
            del layer[name]
    del first["shape"]
    first["shape"], layer["shape"] = np.array(shape), np.array([layer["weight"].shape[0], *out])
    return f"images of {side} x {side} for {layer.name}"


def _grown_pool(file: h5py.File, rng: Rng) -> str:
    """An average over a whole image, which the fold spreads over the weights that follow."""
    nodes = file["node/nodes"]
    if "pool" not in nodes:
        return "nothing to grow"
    side = int(2 ** rng.integers(4, 14))
    put(file, "node/nodes/input/shape", np.array([1, side, side]))
    for name in ("kernel_size", "stride"):
        put(file, f"node/nodes/pool/{name}", np.array([side, side]))
    for name in ("tau", "r", "v_leak", "v_threshold", "v_reset"):
        put(file, f"node/nodes/lif/{name}", file[f"node/nodes/lif/{name}"][()].flat[:1])
    put(file, "node/nodes/linear/weight", np.ones((4, 2)))
    return f"a pool of {side} x {side}"


@functools.cache
def squeezed(size: int, times: int = 1) -> bytes:
    """`size` zeros (whole MiB), deflated once or twice: one MiB as often as needed, and zlib's head and checksum."""
    press = zlib.compressobj(9, wbits=-15)
    press.compress(bytes(2**20))
    press.flush(zlib.Z_FULL_FLUSH)
    block = press.compress(bytes(2**20)) + press.flush(zlib.Z_FULL_FLUSH)
    checksum = (size % 65521 << 16 | 1).to_bytes(4, "big")
    packed = b"\x78\xda" + block * (size // 2**20) + b"\x03\x00" + checksum
    assert len(zlib.decompressobj().decompress(packed, 2**20)) == 2**20
    return zlib.compress(packed, 9) if times == 2 else packed


def bomb(file: h5py.File, rng: Rng) -> str:
    """Gigabytes of zeros in some kilobytes: claimed openly, or by chunks that hold more than they say."""
    name = any_of(file, rng)
    times = int(rng.integers(1, 3))
    honest = rng.random() < 0.6
    inside = 2**26  # bytes in a chunk, inflated
    chunk = inside if honest else 64
    count = int(pick(rng, (4, 40, 128))) if honest else 1  # type: ignore[call-overload]
    if not honest:
        inside = 2**32 if times == 2 else 2**28  # the latter is 256 KiB of file
    dtype = np.dtype(str(pick(rng, ("i1", "f4", "i8"))))
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk((chunk // dtype.itemsize,))
    for _ in range(times):
        plist.set_deflate(9)
    space = h5py.h5s.create_simple((chunk // dtype.itemsize * count,))
    del file[name]
    parent, _, last = name.rpartition("/")
    group = file.require_group(parent) if parent else file
    made = h5py.h5d.create(group.id, last.encode(), h5py.h5t.py_create(dtype), space, plist)
    stored = squeezed(inside, times)
    for index in range(count):
        made.write_direct_chunk((chunk // dtype.itemsize * index,), stored)
    return f"{name}: {inside * count:,} bytes in {len(stored) * count:,}, {chunk} claimed a chunk, deflated {times} x"


def filtered(file: h5py.File, rng: Rng) -> str:
    """Values behind any of the usual filters, in chunks of any size, whole or not."""
    name = any_of(file, rng)
    item = file[name]
    if item.shape is None or item.dtype.kind not in "iuf":
        return vast(file, rng)
    values = np.atleast_1d(item[()])
    options: dict[str, Any] = {
        "chunks": tuple(max(1, int(rng.integers(1, side + 2))) if side else 1 for side in values.shape),
        "maxshape": (None,) * values.ndim,
        **pick(rng, ({"compression": "gzip"}, {"compression": "lzf"}, {"shuffle": True}, {"fletcher32": True})),  # type: ignore[dict-item]
    }
    if values.dtype.kind in "iu" and rng.random() < 0.2:
        options["scaleoffset"] = 0
    put(file, name, values, **options)
    made = file[name]
    if made.id.get_num_chunks() and rng.random() < 0.6:
        where = made.id.get_chunk_info(int(rng.integers(made.id.get_num_chunks()))).chunk_offset
        stored = bytearray(made.id.read_direct_chunk(where)[1])
        stored[int(rng.integers(max(1, len(stored)))) :] = rng.bytes(int(rng.integers(40)))
        made.id.write_direct_chunk(where, bytes(stored), int(pick(rng, (0, 0, 1))))  # type: ignore[call-overload]
        return f"{name} filtered {sorted(options)}, a chunk damaged"
    return f"{name} filtered {sorted(options)}"


def stored_elsewhere(file: h5py.File, rng: Rng) -> str:
    """Values that stand in another file, or are a view of other values."""
    name = any_of(file, rng)
    del file[name]
    if rng.random() < 0.5:
        where = str(pick(rng, ("/dev/zero", "/proc/self/mem", "/etc/hostname", "nothing")))
        file.create_dataset(name, (4, 9), "i4", external=[(where, 0, h5py.h5f.UNLIMITED)])
        return f"{name} stands in {where}"
    layout = h5py.VirtualLayout(shape=(4, 9), dtype="i4")
    source = str(pick(rng, (".", "nothing", "/dev/zero")))
    layout[:] = h5py.VirtualSource(source, name, shape=(4, 9))
    file.create_virtual_dataset(name, layout)
    return f"{name} is a view of {source}"


def compact(file: h5py.File, rng: Rng) -> str:
    """Values in the header of the object, where they have no address."""
    name = any_of(file, rng)
    item = file[name]
    if item.shape is None or item.id.get_storage_size() > 30_000 or item.dtype.kind == "O":
        return shaped(file, rng)
    values, dtype = item[()], item.dtype
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_layout(h5py.h5d.COMPACT)
    space = h5py.h5s.create_simple(item.shape) if item.shape else h5py.h5s.create(h5py.h5s.SCALAR)
    kind = item.id.get_type()
    del file[name]
    made = h5py.Dataset(h5py.h5d.create(file.id, name.encode(), kind, space, plist))
    made[...] = values
    return f"{name} of {dtype} stored in its header"


# --------------------------------------------------------------------------------------------------- attributes


def attribute(file: h5py.File, rng: Rng) -> str:
    """An attribute of any type, shape or value in the place of another, or away."""
    owners = [name for name in objects(file, (h5py.Dataset, h5py.Group)) if len(file[name].attrs)]
    owner = file[str(pick(rng, owners))] if owners else file
    names = list(owner.attrs) or ["format_version"]
    name = str(pick(rng, names))
    way = int(rng.integers(5))
    if way == 0 and name in owner.attrs:
        del owner.attrs[name]
        return f"attribute {name} removed"
    if name in owner.attrs:
        del owner.attrs[name]
    if way == 1:
        word = str(pick(rng, WORDS))
        word = word[:60_000]
        owner.attrs[name] = pick(rng, (np.bytes_(word.encode() or b" "), word))
        return f"attribute {name} is the text {word[:40]!r}"
    if way == 2:
        dtype, shape = pick(rng, TYPES), pick(rng, SHAPES)
        owner.attrs.create(name, array_of(dtype, shape, rng), dtype=dtype)  # type: ignore[arg-type]
        return f"attribute {name} is {dtype!r} {shape}"
    if way == 3:
        owner.attrs[name] = h5py.Empty("f8")
        return f"attribute {name} has no value"
    value = number(rng)
    owner.attrs[name] = pick(rng, (value, np.full(3, value), np.full((2, 2), value), np.array([value])))
    return f"attribute {name} is {value}"


CHANGES: dict[str, Change] = {
    call.__name__: call
    for call in (
        *(missing, group_for_values, values_for_group, renamed, exchanged, alias, link, named_type, copied, many),
        *(
            typed,
            shaped,
            valued,
            worded,
            empty,
            referring,
            vast,
            grown,
            bomb,
            filtered,
            stored_elsewhere,
            compact,
            attribute,
        ),
    )
}
OFTEN = ("typed", "shaped", "valued", "worded", "attribute", "grown")


def mutate(seed: bytes, rng: Rng) -> tuple[bytes, list[str]]:
    """A damaged copy of an HDF5 file and what was done to it: wrong contents, wrong bytes, or both."""
    said: list[str] = []
    data = seed
    kind = rng.random()
    if kind < 0.6:
        memory = io.BytesIO(seed)
        with h5py.File(memory, "r+") as file:
            for _ in range(int(pick(rng, (1, 1, 1, 2, 3)))):  # type: ignore[call-overload]
                name = str(pick(rng, (*CHANGES, *OFTEN)))
                try:
                    said.append(f"{name}: {CHANGES[name](file, rng)}")
                except Exception as error:  # after earlier changes
                    said.append(f"{name}: not possible here ({type(error).__name__})")
                if name == "bomb":  # a change after it may read its gigabytes
                    break
        data = memory.getvalue()
    if kind >= 0.55 and data:
        for _ in range(int(rng.integers(1, 4))):
            data, what = damage(data, rng, SIGNATURES)
            said.append(what)
            if not data:
                break
    return data, said


__all__ = ["CHANGES", "EDGES", "mutate"]
