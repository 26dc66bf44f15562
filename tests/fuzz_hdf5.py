"""HDF5 files that are well formed and wrong: types, shapes, links, filters, storage, attributes."""

from __future__ import annotations

import functools
import io
import zlib
from typing import Any

import damage
import h5py
import numpy as np
from damage import VALUES, Damaged, Rng, Tree, changed, mutator, number, over, pick, shaped
from numpy.typing import NDArray

SIGNATURES = (b"TREE", b"SNOD", b"HEAP", b"GCOL", b"OHDR", b"OCHK", b"FRHP", b"BTHD", b"BTLF", b"FAHD", b"\x89HDF")
TYPES: tuple[Any, ...] = (
    *("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", ">i4", ">f8", "f2", "f4", "f8", "c8", "c16", "?", "S1", "S10"),
    *("S5000", "V4", "V3000", h5py.string_dtype(), h5py.string_dtype("ascii"), h5py.vlen_dtype(np.int32)),
    *(h5py.vlen_dtype(np.float64), h5py.enum_dtype({"ON": 1, "OFF": 0}), h5py.ref_dtype, h5py.regionref_dtype),
    *(np.dtype([("a", "i4"), ("b", "f8")]), np.dtype([("r", "f4"), ("i", "f4")]), np.dtype(("i4", (3,)))),
    *(np.dtype([("t", h5py.string_dtype()), ("n", "i4")]), np.dtype("longdouble")),
)
VAST: tuple[tuple[int, ...], ...] = (
    *((2**40,), (2**31, 2**31), (2**16,) * 4, (2**63 - 1,), (2**28,), (2**27,), (2**26, 1), (1, 2**28), (2**62, 1, 1)),
    *((2**14, 2**14, 1), (2**20, 2**12), (3, 2**20, 2**20), (2**29,), (2**30, 1, 1, 1)),
)


def array_of(dtype: Any, shape: tuple[int, ...], rng: Rng) -> Any:
    """An array of any type that HDF5 can hold."""
    if np.dtype(dtype).kind != "O":
        return damage.array_of(dtype, shape, rng)
    values = np.empty(shape, dtype=dtype)
    if h5py.check_ref_dtype(dtype) is None:  # others stay null references
        for place in range(values.size):
            text = h5py.check_string_dtype(dtype) is not None
            values.flat[place] = "conv" if text else rng.integers(0, 5, int(rng.integers(4)))
    return values


class Hdf5(Tree):
    """Datasets, groups and attributes of a file by path, an attribute's as ``path@name``; each once, whatever links
    there are."""

    types, array_of = TYPES, staticmethod(array_of)
    new = ("0", "1", "01", "-1", "999", "x\ny", "ü", "weight", "bias", "neuron", "1e3", "node", "layer")

    def _found(self, *kinds: int) -> list[str]:
        names: list[str] = []
        h5py.h5o.visit(
            self.content.id,
            lambda name, info: names.append(name.decode()) if name != b"." and info.type in kinds else None,
            info=True,
        )
        return names

    def datasets(self) -> list[str]:
        return self._found(h5py.h5o.TYPE_DATASET)

    def groups(self) -> list[str]:
        return self._found(h5py.h5o.TYPE_GROUP)

    def objects(self) -> list[str]:
        return self._found(h5py.h5o.TYPE_GROUP, h5py.h5o.TYPE_DATASET)

    def values(self) -> list[str]:
        """Datasets and attributes, about one of these in four."""
        datasets = self.datasets()
        attributes = [f"{name}@{key}" for name in ("/", *self.objects()) for key in self.content[name].attrs]
        return datasets + attributes * max(1, len(datasets) // (3 * max(1, len(attributes))))

    def everything(self) -> list[str]:
        return [*self.values(), *self.groups()]

    def texts(self) -> list[str]:
        return [name for name in self.datasets() if self.content[name].dtype.kind in "SO"]

    def get(self, name: str) -> NDArray[Any] | None:
        path, _, key = name.partition("@")
        item = self.content[path].attrs.get_id(key) if key else self.content[path]
        if item.shape is None or item.dtype.kind not in "iufS":
            return None
        return np.asarray(self.content[path].attrs[key] if key else item[()])

    def put(self, name: str, value: Any, dtype: Any = None, **options: Any) -> None:
        """A value in the place of whatever is there."""
        path, _, key = name.partition("@")
        if key:
            self.content[path].attrs.create(key, value, dtype=dtype)
            return
        if self.content.get(path, getlink=True) is not None:
            del self.content[path]
        self.content.create_dataset(path, data=value, dtype=dtype, **options)

    def remove(self, name: str) -> None:
        path, _, key = name.partition("@")
        if key:
            del self.content[path].attrs[key]
        else:
            del self.content[path]

    def move(self, name: str, new: str) -> None:
        path, _, key = name.partition("@")
        if key:
            self.content[path].attrs[new] = self.content[path].attrs.pop(key)
        else:
            self.content.move(path, f"{path.rpartition('/')[0]}/{new}")


# --------------------------------------------------------------------------------------------------- objects, links


def group_for_values(tree: Hdf5, name: str, rng: Rng) -> str:
    tree.remove(name)
    group = tree.content.create_group(name)
    if rng.random() < 0.5:
        group["0"] = 1
    return "is a group"


def values_for_group(tree: Hdf5, name: str, rng: Rng) -> str:
    tree.put(name, number(rng))
    return "is a dataset"


def exchanged(tree: Hdf5, name: str, rng: Rng) -> str:
    other = pick(rng, tree.objects())
    if name.startswith(other) or other.startswith(name):
        return "stays"
    for old, new in ((name, "between"), (other, name), ("between", other)):
        tree.content.move(old, new)
    return f"exchanged with {other}"


def alias(tree: Hdf5, name: str, rng: Rng) -> str:
    """A second hard link: groups that hold themselves, a weight that is another's bias."""
    target = pick(rng, [*tree.objects(), "/"])
    item = tree.content[target]
    if rng.random() < 0.5 and isinstance(tree.content[name], h5py.Group):
        name = f"{name}/{pick(rng, ('0', '1', '5', 'neuron', 'loop', 'nodes'))}"
    if tree.content.get(name, getlink=True) is not None:
        del tree.content[name]
    tree.content[name] = item
    return f"({name}) is a hard link to {target}"


def link(tree: Hdf5, name: str, rng: Rng) -> str:
    other, file = pick(rng, tree.objects()), tree.content
    links = (
        (h5py.SoftLink(f"/{other}"), f"soft link to {other}"),
        (h5py.SoftLink("/nowhere"), "soft link to nothing"),
        (h5py.SoftLink(f"/{name}"), "soft link to itself"),
        (h5py.ExternalLink("/dev/zero", "/x"), "link into /dev/zero"),
        (h5py.ExternalLink("/proc/self/mem", "/x"), "link into the process's memory"),
        (h5py.ExternalLink("mutant", f"/{name}"), "link into the file itself"),
    )
    made, said = pick(rng, links)
    if rng.random() < 0.5 and "elsewhere" not in file:
        file.move(name, "elsewhere")
        if said == f"soft link to {other}":
            made = h5py.SoftLink("/elsewhere")
    else:
        del file[name]
    file[name] = made
    return f"is a {said}"


def named_type(tree: Hdf5, name: str, rng: Rng) -> str:
    tree.remove(name)
    tree.content[name] = np.dtype("f8")
    return "is a data type"


def copied(tree: Hdf5, name: str, rng: Rng) -> str:
    new = pick(rng, ("layer/9", "layer/5", "layer/x", "node/nodes/more", f"{name}/{name.rpartition('/')[2]}"))
    if new in tree.content:
        return f"{new} stays"
    tree.content.copy(tree.content[name], new)
    return f"copied to {new}"


def many(tree: Hdf5, name: str, rng: Rng) -> str:
    """Hundreds of objects, or groups a hundred deep."""
    group = tree.content[name]
    if rng.random() < 0.5:
        for index in range(700):
            group.require_group(f"many{index}")
        return "has 700 groups more"
    for _ in range(150):
        group = group.require_group("0")
    return "has 150 groups in each other"


def empty(tree: Hdf5, name: str, rng: Rng) -> str:
    tree.put(name, h5py.Empty(pick(rng, ("f4", "i8", "S10"))))
    return "has no values"


def referring(tree: Hdf5, name: str, rng: Rng) -> str:
    target = tree.content[pick(rng, tree.objects())]
    tree.put(name, np.array([target.ref], dtype=h5py.ref_dtype), h5py.ref_dtype)
    return "is a reference"


# --------------------------------------------------------------------------------------------------- storage


def vast(tree: Hdf5, name: str, rng: Rng) -> str:
    """A shape of gigabytes to exabytes with nothing stored, in chunks of usual or absurd size."""
    shape, file = pick(rng, VAST), tree.content
    dtype = pick(rng, ("i1", "i4", "f8", "S100", "S60000"))
    chunks = tuple(min(side, pick(rng, (1, 64, 2**14))) for side in shape)
    options: dict[str, Any] = {} if rng.random() < 0.3 and np.prod(shape, dtype=float) < 2**60 else {"chunks": chunks}
    tree.remove(name)
    try:
        file.create_dataset(name, shape, dtype, fillvalue=None, **options)
    except (ValueError, OSError, OverflowError, TypeError):
        file.create_dataset(name, shape[:1], "i1", chunks=(64,))
    return f"claims {shape} of {dtype}"


def grown(tree: Hdf5, name: str, rng: Rng) -> str:
    """Layers whose shapes fit each other and whose values are one fill value: vast networks in small files."""
    file = tree.content
    if "node" in file:
        return _grown_pool(tree, rng)
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


def _grown_pool(tree: Hdf5, rng: Rng) -> str:
    """An average over a whole image, which the fold spreads over the weights that follow."""
    nodes = tree.content["node/nodes"]
    if "pool" not in nodes:
        return "nothing to grow"
    side = int(2 ** rng.integers(4, 14))
    tree.put("node/nodes/input/shape", np.array([1, side, side]))
    for name in ("kernel_size", "stride"):
        tree.put(f"node/nodes/pool/{name}", np.array([side, side]))
    for name in ("tau", "r", "v_leak", "v_threshold", "v_reset"):
        tree.put(f"node/nodes/lif/{name}", nodes[f"lif/{name}"][()].flat[:1])
    tree.put("node/nodes/linear/weight", np.ones((4, 2)))
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


def bomb(tree: Hdf5, name: str, rng: Rng) -> str:
    """Gigabytes of zeros in some kilobytes: claimed openly, or by chunks that hold more than they say."""
    times = int(rng.integers(1, 3))
    honest = rng.random() < 0.6
    inside = 2**26  # bytes in a chunk, inflated
    chunk = inside if honest else 64
    count = pick(rng, (4, 40, 128)) if honest else 1
    if not honest:
        inside = 2**32 if times == 2 else 2**28  # the latter is 256 KiB of file
    dtype = np.dtype(pick(rng, ("i1", "f4", "i8")))
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk((chunk // dtype.itemsize,))
    for _ in range(times):
        plist.set_deflate(9)
    space = h5py.h5s.create_simple((chunk // dtype.itemsize * count,))
    tree.remove(name)
    made = h5py.h5d.create(tree.content.id, name.encode(), h5py.h5t.py_create(dtype), space, plist)
    stored = squeezed(inside, times)
    for index in range(count):
        made.write_direct_chunk((chunk // dtype.itemsize * index,), stored)
    return f"holds {inside * count:,} bytes in {len(stored) * count:,}, {chunk} claimed a chunk, deflated {times} x"


def filtered(tree: Hdf5, name: str, rng: Rng) -> str:
    """Values behind any of the usual filters, in chunks of any size, whole or not."""
    values = tree.get(name)
    if values is None or values.dtype.kind == "S":
        return vast(tree, name, rng)
    values = np.atleast_1d(values)
    options: dict[str, Any] = {
        "chunks": tuple(max(1, int(rng.integers(1, side + 2))) if side else 1 for side in values.shape),
        "maxshape": (None,) * values.ndim,
        **pick(rng, ({"compression": "gzip"}, {"compression": "lzf"}, {"shuffle": True}, {"fletcher32": True})),
    }
    if values.dtype.kind in "iu" and rng.random() < 0.2:
        options["scaleoffset"] = 0
    tree.put(name, values, **options)
    made = tree.content[name]
    if made.id.get_num_chunks() and rng.random() < 0.6:
        where = made.id.get_chunk_info(int(rng.integers(made.id.get_num_chunks()))).chunk_offset
        stored = bytearray(made.id.read_direct_chunk(where)[1])
        stored[int(rng.integers(max(1, len(stored)))) :] = rng.bytes(int(rng.integers(40)))
        made.id.write_direct_chunk(where, bytes(stored), pick(rng, (0, 0, 1)))
        return f"filtered {sorted(options)}, a chunk damaged"
    return f"filtered {sorted(options)}"


def stored_elsewhere(tree: Hdf5, name: str, rng: Rng) -> str:
    """Values that stand in another file, or are a view of other values."""
    tree.remove(name)
    if rng.random() < 0.5:
        where = pick(rng, ("/dev/zero", "/proc/self/mem", "/etc/hostname", "nothing"))
        tree.content.create_dataset(name, (4, 9), "i4", external=[(where, 0, h5py.h5f.UNLIMITED)])
        return f"stands in {where}"
    layout = h5py.VirtualLayout(shape=(4, 9), dtype="i4")
    source = pick(rng, (".", "nothing", "/dev/zero"))
    layout[:] = h5py.VirtualSource(source, name, shape=(4, 9))
    tree.content.create_virtual_dataset(name, layout)
    return f"is a view of {source}"


def compact(tree: Hdf5, name: str, rng: Rng) -> str:
    """Values in the header of the object, where they have no address."""
    item = tree.content[name]
    if item.shape is None or item.id.get_storage_size() > 30_000 or item.dtype.kind == "O":
        return shaped(tree, name, rng)
    values, dtype = item[()], item.dtype
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_layout(h5py.h5d.COMPACT)
    space = h5py.h5s.create_simple(item.shape) if item.shape else h5py.h5s.create(h5py.h5s.SCALAR)
    kind = item.id.get_type()
    tree.remove(name)
    made = h5py.Dataset(h5py.h5d.create(tree.content.id, name.encode(), kind, space, plist))
    made[...] = values
    return f"of {dtype} stored in its header"


CHANGES = (
    VALUES
    | over("everything", damage.missing, damage.renamed)
    | over("objects", exchanged, alias, link, named_type)
    | over("groups", values_for_group, copied, many)
    | over("values", empty, referring)
    | over("datasets", group_for_values, vast, grown, bomb, filtered, stored_elsewhere, compact)
)
OFTEN = ("typed", "shaped", "valued", "worded", "typed", "shaped", "valued", "grown")


def contents(seed: bytes, rng: Rng) -> Damaged:
    memory = io.BytesIO(seed)
    with h5py.File(memory, "r+") as file:  # what comes after a bomb may read its gigabytes
        said = changed(Hdf5(file), CHANGES, rng, (1, 1, 1, 2, 3), OFTEN, last=("bomb",))
    return memory.getvalue(), said


mutate = mutator(SIGNATURES, 3, (0.6, contents))
