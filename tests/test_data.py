"""Data sets: every layout from small made-up files, every fault named; augmentation and batches."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import socket
import struct
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from damage import struck
from helpers import usually
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F

from snn2chip import data as d
from snn2chip import recipe as recipes
from snn2chip.data import fetch
from snn2chip.data.augment import Augment, cutout, erase, flip_horizontally, mix, random_crop
from snn2chip.data.augment_table import AugmentTable
from snn2chip.data.fetch import Download
from snn2chip.data.sets import cifar, fashion
from snn2chip.data.sets.parsers import cifar_records, gunzip, idx_array
from snn2chip.data.sets.pickled import cifar_pickle
from snn2chip.errors import DataError, InputError, RecipeError

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
RNG = np.random.default_rng(0)
LABEL10 = (("label", 10),)
LABEL100 = (("coarse label", 20), ("fine label", 100))


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No cache, system folder or network of this machine can take part; returns the cache's place."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("SNN2CHIP_DATA", str(cache))
    monkeypatch.setattr(fashion, "_SYSTEM_FOLDER", tmp_path / "system")

    def refuse(item: Download, folder: Path, absent: str) -> Path:
        raise AssertionError(f"tried to download {item.url}")

    for family in (fashion, cifar):
        monkeypatch.setattr(family, "fetch", refuse)
    return cache


def cifar10_bytes(count: int = 4, first: int = 0) -> bytes:
    rows = RNG.integers(0, 256, (count, 3073), dtype=np.uint8)
    rows[:, 0] = (np.arange(count) + first) % 10
    return rows.tobytes()


def cifar100_bytes(count: int = 4) -> bytes:
    rows = RNG.integers(0, 256, (count, 3074), dtype=np.uint8)
    rows[:, 0] = np.arange(count) % 20
    rows[:, 1] = 99 - np.arange(count)
    return rows.tobytes()


def write_cifar10(folder: Path, count: int = 4) -> dict[str, bytes]:
    folder.mkdir(parents=True, exist_ok=True)
    files = {f"data_batch_{i}.bin": cifar10_bytes(count, i) for i in range(1, 6)}
    files["test_batch.bin"] = cifar10_bytes(count)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return files


def zipped(content: bytes) -> bytes:
    """As gzip, without the time: the names of tests are the same in every process."""
    return gzip.compress(content, mtime=0)


def idx_bytes(values: np.ndarray) -> bytes:
    return struct.pack(f">I{values.ndim}I", 0x0800 + values.ndim, *values.shape) + values.tobytes()


def write_fashion(folder: Path, split: str = "test", count: int = 5, packed: bool = True) -> np.ndarray:
    folder.mkdir(parents=True, exist_ok=True)
    stem = {"train": "train", "test": "t10k"}[split]
    images = RNG.integers(0, 256, (count, 28, 28), dtype=np.uint8)
    labels = np.arange(count, dtype=np.uint8) % 10
    for name, values in ((f"{stem}-images-idx3-ubyte", images), (f"{stem}-labels-idx1-ubyte", labels)):
        if packed:
            (folder / f"{name}.gz").write_bytes(zipped(idx_bytes(values)))
        else:
            (folder / name).write_bytes(idx_bytes(values))
    return images


def tar_bytes(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def write_image(path: Path, mode: str = "RGB", size: tuple[int, int] = (8, 8), seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = {"RGB": (3,), "L": (), "RGBA": (4,), "CMYK": (4,)}[mode]
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], *channels), dtype=np.uint8)
    Image.fromarray(pixels, mode=None).convert(mode).save(path)


def write_tree(root: Path, splits: tuple[str, ...] = ("train", "val"), per_class: int = 3) -> None:
    for split in splits:
        for label, name in enumerate(("cat", "dog")):
            for i in range(per_class):
                write_image(root / split / name / f"{i}.png", seed=10 * label + i)


# --- specs and the set itself ---------------------------------------------------------------------------


def test_parse_spec() -> None:
    assert d.parse_spec("digits") == ("digits", "test")
    assert d.parse_spec("cifar10:train") == ("cifar10", "train")
    assert d.parse_spec("folder:val") == ("folder", "val")
    assert d.parse_spec("digits", "train") == ("digits", "train")


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("cifar-10", "did you mean 'cifar10'"),
        ("imagenet", "known are digits"),
        ("digits:val", "has no split 'val'; it has train, test"),
        ("digits:", "nothing after the colon"),
        ("", "known are"),
    ],
)
def test_bad_spec(spec: str, says: str) -> None:
    with pytest.raises(DataError, match=says):
        d.parse_spec(spec)
    if ":" not in spec:
        with pytest.raises(DataError):
            d.load(spec)


def test_subset_is_first_images_and_says_so() -> None:
    whole = d.load("digits", "test")
    part = whole.subset(10)
    assert len(part) == 10 and torch.equal(part.images, whole.images[:10])
    assert part.source.endswith("first 10 of 359 images")
    assert whole.subset(None) is whole and whole.subset(359) is whole and whole.subset(9999) is whole
    with pytest.raises(InputError, match="subset of 0"):
        whole.subset(0)


def test_image_set_refuses_wrong_tensors() -> None:
    good = d.load("digits", "test").subset(4)
    with pytest.raises(DataError, match="must be uint8"):
        replace(good, images=good.images.float())
    with pytest.raises(DataError, match="one per image"):
        replace(good, labels=good.labels[:3])


def test_importing_needs_nothing_heavy() -> None:
    code = (
        "import sys, snn2chip.data; "
        "heavy = {'sklearn', 'pooch', 'requests', 'PIL', 'rich', 'pydantic', 'torchvision'} & set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


# --- digits ---------------------------------------------------------------------------------------------


def test_digits_split_is_fixed_and_stratified() -> None:
    train, test = d.load("digits"), d.load("digits", "test")
    assert (len(train), len(test)) == (1438, 359)
    assert train.shape == (1, 8, 8) and train.max_value == 16 and train.classes == tuple("0123456789")
    assert int(train.images.max()) == 16
    share = test.labels.bincount() / (train.labels.bincount() + test.labels.bincount())
    assert bool(((share - 0.2).abs() < 0.005).all())
    # The split is part of every published figure: it may never move.
    assert test.labels[:20].tolist() == DIGITS_TEST_START
    assert int(test.images.long().sum()) == DIGITS_TEST_SUM


DIGITS_TEST_START = [5, 3, 4, 1, 2, 6, 6, 6, 9, 2, 1, 6, 1, 3, 1, 6, 6, 7, 4, 5]
DIGITS_TEST_SUM = 113179


def test_digits_do_not_look_at_data(tmp_path: Path) -> None:
    """Nothing is looked for there; but a folder that is none is a name in the wrong place, and not passed over."""
    assert len(d.load("digits", "test", tmp_path)) == 359
    with pytest.raises(DataError, match="absent' does not exist"):
        d.load("digits", "test", tmp_path / "absent")


# --- Fashion-MNIST --------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("inside", [".", "fashion-mnist", "FashionMNIST/raw"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_fashion_in_every_place(tmp_path: Path, inside: str, packed: bool, split: str) -> None:
    images = write_fashion(tmp_path / inside, split, packed=packed)
    found = d.load("fashion-mnist", split, tmp_path)
    assert found.name == f"fashion-mnist:{split}" and found.shape == (1, 28, 28)
    assert np.array_equal(found.images[:, 0].numpy(), images) and found.labels.tolist() == [0, 1, 2, 3, 4]
    assert found.classes[9] == "Ankle boot" and len(found.classes) == 10
    assert "5 of the" in found.source and str(tmp_path) in found.source


def test_fashion_from_cache_before_system(tmp_path: Path, alone: Path) -> None:
    from_system = write_fashion(tmp_path / "system")
    assert np.array_equal(d.load("fashion-mnist", "test").images[:, 0].numpy(), from_system)
    cached = write_fashion(alone)
    assert np.array_equal(d.load("fashion-mnist", "test").images[:, 0].numpy(), cached)


def test_data_given_means_only_there(tmp_path: Path) -> None:
    write_fashion(tmp_path / "system")
    (tmp_path / "mine").mkdir()
    with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte and no t10k-labels.*mine/FashionMNIST/raw"):
        d.load("fashion-mnist", "test", tmp_path / "mine", download=False)


def test_fashion_names_the_one_missing_file(tmp_path: Path) -> None:
    write_fashion(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match="no t10k-labels-idx1-ubyte") as caught:
        d.load("fashion-mnist", "test", tmp_path, download=False)
    assert "t10k-images" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("images", zipped(idx_bytes(np.zeros((4, 28, 28), np.uint8))), "4 images but .* 5 labels"),
        ("images", zipped(idx_bytes(np.zeros((5, 27, 28), np.uint8))), "holds 27x28 images"),
        ("images", zipped(idx_bytes(np.zeros((5, 28, 28), np.uint8)))[:30], "truncated.*end mark"),
        ("images", b"no gzip at all", "not sound gzip"),
        ("images", b"", "truncated"),
        ("labels", zipped(idx_bytes(np.array([0, 1, 2, 10, 4], np.uint8))), "label 3 is 10"),
        ("labels", zipped(idx_bytes(np.zeros((5, 2), np.uint8))), "magic number 0x00000802"),
        ("labels", zipped(idx_bytes(np.zeros(5, np.uint8))[:-1]), "is truncated: its header says 5"),
        ("labels", zipped(idx_bytes(np.zeros(5, np.uint8)) + b"1"), "too long"),
        ("labels", zipped(idx_bytes(np.zeros(0, np.uint8))), "is empty"),
        ("labels", zipped(bytes(50_000)), "unpacks to more than 10,008"),
        ("labels", bytes(30_000), "larger than"),
    ],
)
def test_damaged_fashion(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    write_fashion(tmp_path)
    dims = {"images": 3, "labels": 1}[name]
    path = tmp_path / f"t10k-{name}-idx{dims}-ubyte.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=says) as caught:
        d.load("fashion-mnist", "test", tmp_path)
    assert path.name in str(caught.value) and "\n" not in str(caught.value)


def test_fashion_download_fills_only_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "source"
    write_fashion(source)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "t10k-images-idx3-ubyte.gz").write_bytes((source / "t10k-images-idx3-ubyte.gz").read_bytes())
    asked: list[str] = []

    def serve(item: Download, folder: Path, absent: str) -> Path:
        asked.append(item.url)
        target = folder / item.file
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((source / item.file).read_bytes())
        return target

    monkeypatch.setattr(fashion, "fetch", serve)
    assert len(d.load("fashion-mnist", "test", mine)) == 5
    assert [url.rpartition("/")[2] for url in asked] == ["t10k-labels-idx1-ubyte.gz"]
    asked.clear()
    empty = tmp_path / "empty"
    empty.mkdir()
    assert len(d.load("fashion-mnist", "test", empty)) == 5 and len(asked) == 2
    assert len(d.load("fashion-mnist", "test", empty, download=False)) == 5 and len(asked) == 2


# --- CIFAR ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inside", ["cifar-10-batches-bin", "."])
def test_cifar10(tmp_path: Path, inside: str) -> None:
    files = write_cifar10(tmp_path / inside)
    train, test = d.load("cifar10", "train", tmp_path), d.load("cifar10", "test", tmp_path)
    assert train.shape == (3, 32, 32) and len(train) == 20 and len(test) == 4
    assert train.labels.tolist() == [(i + j) % 10 for i in range(1, 6) for j in range(4)]
    pixels = np.frombuffer(files["data_batch_2.bin"], np.uint8).reshape(4, 3073)[3, 1:].reshape(3, 32, 32)
    assert np.array_equal(train.images[7].numpy(), pixels)
    assert test.classes[3] == "cat" and "4 of the 10,000 published images" in test.source


@pytest.mark.parametrize("inside", ["cifar-100-binary", "."])
def test_cifar100_has_fine_labels(tmp_path: Path, inside: str) -> None:
    folder = tmp_path / inside
    folder.mkdir(exist_ok=True)
    (folder / "train.bin").write_bytes(cifar100_bytes(6))
    (folder / "test.bin").write_bytes(cifar100_bytes(3))
    train = d.load("cifar100", "train", tmp_path)
    assert train.labels.tolist() == [99, 98, 97, 96, 95, 94] and train.shape == (3, 32, 32)
    assert len(set(train.classes)) == 100 and list(train.classes) == sorted(train.classes)
    assert len(d.load("cifar100", "test", tmp_path)) == 3


def test_cifar_names_the_missing_batch(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-bin"
    write_cifar10(folder)
    (folder / "data_batch_4.bin").unlink()
    with pytest.raises(DataError, match=r"incomplete: data_batch_4\.bin missing of CIFAR-10's train split"):
        d.load("cifar10", "train", tmp_path)
    assert len(d.load("cifar10", "test", tmp_path)) == 4


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (cifar10_bytes()[:-1], r"12,291 bytes, not a multiple of 3,073.*3 records and 3,072 bytes over"),
        (cifar10_bytes() + b"1", "not a multiple of 3,073"),
        (cifar10_bytes(2) + b"\x0a" + bytes(3072), "record 2 has label 10, the largest is 9"),
        (bytes(3073 * 10_001), "holds 10,001 records, the published file at most 10,000"),
        (bytes(3073 * 20_001), "larger than"),
    ],
)
def test_damaged_cifar10(tmp_path: Path, content: bytes, says: str) -> None:
    write_cifar10(tmp_path)
    (tmp_path / "test_batch.bin").write_bytes(content)
    with pytest.raises(DataError, match=says) as caught:
        d.load("cifar10", "test", tmp_path)
    assert "test_batch.bin" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(("column", "says"), [(0, "coarse label 255"), (1, "fine label 255")])
def test_damaged_cifar100_labels(tmp_path: Path, column: int, says: str) -> None:
    content = bytearray(cifar100_bytes())
    content[3074 + column] = 255
    (tmp_path / "test.bin").write_bytes(content)
    with pytest.raises(DataError, match=f"record 1 has {says}"):
        d.load("cifar100", "test", tmp_path)


def test_cifar_archive_is_unpacked_once(tmp_path: Path) -> None:
    files = write_cifar10(tmp_path / "made")
    packed = {f"cifar-10-batches-bin/{name}": content for name, content in files.items()}
    mine = tmp_path / "mine"
    mine.mkdir()
    archive = mine / "cifar-10-binary.tar.gz"
    archive.write_bytes(tar_bytes(packed | {"cifar-10-batches-bin/readme.html": b"hello"}))
    assert len(d.load("cifar10", "train", mine)) == 20
    assert sorted(path.name for path in (mine / "cifar-10-batches-bin").iterdir()) == sorted(files)
    archive.unlink()
    assert len(d.load("cifar10", "test", mine)) == 4


def test_cifar_archive_completes_a_partial_folder(tmp_path: Path) -> None:
    files = write_cifar10(tmp_path / "cifar-10-batches-bin")
    (tmp_path / "cifar-10-batches-bin" / "data_batch_5.bin").unlink()
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(tar_bytes({f"x/{n}": c for n, c in files.items()}))
    assert len(d.load("cifar10", "train", tmp_path)) == 20


def test_archive_cannot_write_elsewhere(tmp_path: Path) -> None:
    mine = tmp_path / "deep" / "mine"
    mine.mkdir(parents=True)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        link = tarfile.TarInfo("cifar-100-binary/train.bin")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        for name, content in (("../../../evil.bin", b"x"), ("/../../test.bin", cifar100_bytes())):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    (mine / "cifar-100-binary.tar.gz").write_bytes(out.getvalue())
    with pytest.raises(DataError, match=r"holds no train\.bin"):  # a link is no file
        d.load("cifar100", "test", mine)
    written = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.bin"))
    assert written == ["deep/mine/cifar-100-binary/test.bin"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "cannot be unpacked"),
        (b"not a tar", "cannot be unpacked"),
        (tar_bytes({"x/train.bin": cifar100_bytes(), "x/test.bin": cifar100_bytes()})[:-3000], "truncated"),
        (tar_bytes({"x/train": b"pickle", "x/test": b"pickle"}), "not the binary version"),
        (tar_bytes({"x/test.bin": bytes(3074 * 10_001)}), "test.bin has 30,743,074 bytes.*at most 30,740,000"),
    ],
)
def test_damaged_archive(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "cifar-100-binary.tar.gz").write_bytes(content)
    with pytest.raises(DataError, match=says) as caught:
        d.load("cifar100", "test", tmp_path)
    assert "cifar-100-binary.tar.gz" in str(caught.value) and "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("*.part"))


def test_cifar_says_what_it_looked_for(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        d.load("cifar10", "test", tmp_path, download=False)
    for part in ("test_batch.bin", str(tmp_path), "cifar-10-batches-py", "cifar-10-binary.tar.gz"):
        assert part in str(caught.value)


# --- CIFAR's Python version -----------------------------------------------------------------------------


def text2(text: bytes) -> bytes:
    """A text of Python 2, whose pickles nothing writes any more."""
    return b"U" + bytes([len(text)]) + text if len(text) < 256 else b"T" + struct.pack("<I", len(text)) + text


def list2(values: list[bytes]) -> bytes:
    return b"](" + b"".join(values) + b"e"


def pickle2(records: bytes, keys: tuple[bytes, ...] = (b"labels",)) -> bytes:
    """Records of the binary version as the published pickles hold them: protocol 2, numpy's array, lists of numbers."""
    rows = np.frombuffer(records, np.uint8).reshape(-1, len(keys) + 3072)
    shape = b"M" + struct.pack("<H", len(rows)) + b"M\x00\x0c\x86"
    kind = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNN" + 2 * b"J\xff\xff\xff\xff" + b"K\x00tb"
    made = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    data = made + b"(K\x01" + shape + kind + b"\x89" + text2(rows[:, len(keys) :].tobytes()) + b"tb"
    items = [(b"batch_label", text2(b"testing batch 1 of 1")), (b"data", data)]
    items += [(key, list2([b"K" + bytes([row[i]]) for row in rows])) for i, key in enumerate(keys)]
    items += [(b"filenames", list2([text2(b"%d.png" % i) for i in range(len(rows))]))]
    filled = b"".join(text2(key) + b"q" + bytes([place]) + value for place, (key, value) in enumerate(items))
    return b"\x80\x02}(" + filled + b"u."


def test_pickles_are_what_python_reads() -> None:
    """What these tests write is a pickle, with an array of numpy's in it."""
    content = cifar10_bytes(3)
    found = pickle.loads(pickle2(content), encoding="bytes")
    rows = np.frombuffer(content, np.uint8).reshape(3, 3073)
    assert np.array_equal(found[b"data"], rows[:, 1:]) and found[b"labels"] == rows[:, 0].tolist()


@pytest.mark.parametrize("order", ["C", "F"])
def test_pickles_of_python_3(order: Literal["C", "F"]) -> None:
    """As today's Python and numpy write them, an array in Fortran's order too."""
    content = cifar10_bytes(3)
    rows = np.frombuffer(content, np.uint8).reshape(3, 3073)
    made = pickle.dumps({"data": np.array(rows[:, 1:], order=order), "labels": rows[:, 0].tolist()}, 3)
    assert cifar_pickle(made, "f", ("labels",), 3) == content


@pytest.mark.parametrize("itself", [False, True])
def test_cifar_of_torchvision(tmp_path: Path, itself: bool) -> None:
    """Both versions hold the same images; the folder or the one that holds it may be named."""
    files = write_cifar10(tmp_path / "binary")
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name, content in files.items():
        (folder / name.removesuffix(".bin")).write_bytes(pickle2(content))
    for split in ("train", "test"):
        mine = d.load("cifar10", split, folder if itself else tmp_path, download=False)
        other = d.load("cifar10", split, tmp_path / "binary")
        assert torch.equal(mine.images, other.images) and torch.equal(mine.labels, other.labels)
        assert mine.classes == other.classes and str(folder) in mine.source
    (folder / "data_batch_2").unlink()
    with pytest.raises(DataError, match=r"incomplete: data_batch_2 missing"):
        d.load("cifar10", "train", tmp_path)


def test_cifar100_of_torchvision(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    for name in ("train", "test"):
        (folder / name).write_bytes(pickle2(cifar100_bytes(5), (b"coarse_labels", b"fine_labels")))
    assert d.load("cifar100", "train", tmp_path).labels.tolist() == [99, 98, 97, 96, 95]


class Hostile:
    """Makes a file when a pickle of it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def nested(levels: int) -> bytes:
    """A tuple of twice a tuple of twice ...: few bytes, whose hash takes for ever."""
    return b"K\x01q\x00" + b"".join(b"h%c\x86q%c" % (i, i + 1) for i in range(levels))


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_a_hostile_pickle_does_not_run(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "made"
    content = pickle.dumps({"data": Hostile(path), "labels": [1]}, protocol)
    with pytest.raises(DataError, match="damaged"):
        cifar_pickle(content, "f", ("labels",), 10)
    assert not path.exists()
    pickle.loads(content)
    assert path.exists()  # elsewhere it would have


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\x80\x02cos\nsystem\nU\x04true\x85R.", "asks for 'os.system', which is not let run"),
        (b"\x80\x02cnumpy\nload\nU\x01x\x85R.", "asks for 'numpy.load'"),
        (b"\x80\x02c_codecs\nencode\n.", "asks for '_codecs.encode'"),
        (b"\x80\x02" + 3000 * b"]" + b".", "more instructions than its records need"),
        (b"\x80\x02}" + nested(60) + b"K\x00s.", "key that is no text"),
        (b"\x80\x02r\xff\xff\xff\x7f.", "damaged"),
        (b"", "damaged"),
        (pickle2(cifar10_bytes(3))[:-9], "damaged"),
        (pickle2(cifar10_bytes(3)).replace(b"U\x02u1", b"U\x02i1"), r"not uint8 \(3, 3072\)"),
        (pickle2(cifar10_bytes(3)).replace(b"M\x00\x0c", b"M\x01\x0c"), r"not uint8 \(3, 3072\)"),
        (pickle2(cifar10_bytes(3)).replace(b"U\x06labels", b"U\x06lapels"), "KeyError 'labels'"),
        (pickle2(cifar10_bytes(3)).replace(b"](K\x00", b"](U\x00"), "no integer of 0 to 255"),
    ],
)
def test_damaged_pickles(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "cifar-10-batches-py" / "test_batch"
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(DataError, match=says) as caught:
        cifar_pickle(content, str(path), ("labels",), 100)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(DataError, match="test_batch"):
        d.load("cifar10", "test", tmp_path)


def test_data_folder_must_exist(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        d.load("cifar10", "test", tmp_path / "typo")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="is a file"):
        d.load("cifar10", "test", tmp_path / "file")


def test_image_size_is_for_folders(tmp_path: Path) -> None:
    assert len(d.load("digits", "test", image_size=8)) == 359
    with pytest.raises(DataError, match="image size 32 is not possible"):
        d.load("digits", "test", image_size=32)


# --- mutated bytes --------------------------------------------------------------------------------------


def mutated(good: bytes) -> st.SearchStrategy[bytes]:
    """`good` with bytes changed, cut, moved or added; or any bytes at all."""
    changed = st.integers(0, 2**32 - 1).map(lambda seed: struck(good, np.random.default_rng(seed))[0])
    return changed | st.binary(max_size=64)


SMALL_IDX = idx_bytes(np.arange(12, dtype=np.uint8).reshape(3, 2, 2))


@given(mutated(SMALL_IDX))
def test_idx_reads_or_refuses(content: bytes) -> None:
    try:
        values = idx_array(content, "f", 3)
    except DataError:
        return
    assert values.ndim == 3 and values.size == len(content) - 16 > 0


@given(mutated(zipped(SMALL_IDX)))
def test_gunzip_reads_or_refuses(content: bytes) -> None:
    try:
        assert len(gunzip(content, "f", 28)) <= 28
    except DataError as error:
        assert "\n" not in str(error)


@given(mutated(cifar10_bytes(2)))
def test_cifar_reads_or_refuses(content: bytes) -> None:
    try:
        images, labels = cifar_records(content, "f", labels=LABEL10, limit=3)
    except DataError:
        return
    assert images.shape == (len(labels), 3, 32, 32) and labels.max() <= 9


@given(mutated(pickle2(cifar10_bytes(2))))
def test_pickle_reads_or_refuses(content: bytes) -> None:
    try:
        images, labels = cifar_records(cifar_pickle(content, "f", ("labels",), 3), "f", labels=LABEL10, limit=3)
    except DataError as error:
        assert "\n" not in str(error)
        return
    assert images.shape == (len(labels), 3, 32, 32) and labels.max() <= 9


@given(labels=st.lists(st.tuples(st.integers(0, 255), st.integers(0, 255)), min_size=1, max_size=5))
def test_cifar100_labels_read_or_refuse(labels: list[tuple[int, int]]) -> None:
    content = b"".join(bytes(pair) + bytes(3072) for pair in labels)
    if all(coarse < 20 and fine < 100 for coarse, fine in labels):
        _, found = cifar_records(content, "f", labels=LABEL100, limit=5)
        assert found.tolist() == [fine for _, fine in labels]
    else:
        with pytest.raises(DataError, match="record"):
            cifar_records(content, "f", labels=LABEL100, limit=5)


GOOD_TAR = tar_bytes({"x/train.bin": bytes(3074), "x/test.bin": bytes(3074)})


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(mutated(GOOD_TAR))
def test_archive_reads_or_refuses(tmp_path: Path, content: bytes) -> None:
    for old in tmp_path.rglob("*.bin"):
        old.unlink()
    (tmp_path / "cifar-100-binary.tar.gz").write_bytes(content)
    try:
        assert len(d.load("cifar100", "test", tmp_path)) == 1
    except DataError as error:
        assert "\n" not in str(error)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=usually(50))
@given(data=st.data())
def test_picture_reads_or_refuses(tmp_path: Path, data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["png", "jpg", "gif", "bmp", "tif", "webp"]))
    good = io.BytesIO()
    Image.new("RGB", (4, 4), (10, 20, 30)).save(good, {"jpg": "jpeg", "tif": "tiff"}.get(kind, kind))
    path = tmp_path / "train" / "cat" / f"picture.{kind}"
    for old in tmp_path.rglob("picture.*"):
        old.unlink()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.draw(mutated(good.getvalue())))
    write_image(tmp_path / "train" / "dog" / "0.png")
    try:
        assert d.load("folder", "train", tmp_path, image_size=4).shape == (3, 4, 4)
    except DataError as error:
        assert path.name in str(error) and "\n" not in str(error)


# --- image folders --------------------------------------------------------------------------------------


def test_folder(tmp_path: Path) -> None:
    write_tree(tmp_path)
    (tmp_path / "train" / "cat" / "notes.txt").write_text("x")
    write_image(tmp_path / "train" / "dog" / "images" / "deep.png", "L")
    train = d.load("folder", "train", tmp_path)
    assert train.classes == ("cat", "dog") and train.shape == (3, 8, 8) and train.max_value == 255
    assert train.labels.tolist() == [0, 1, 0, 1, 0, 1, 1]  # class by class in turn
    expected = np.asarray(Image.open(tmp_path / "train" / "dog" / "1.png")).transpose(2, 0, 1)
    assert np.array_equal(train.images[3].numpy(), expected)
    grey = train.images[6]
    assert torch.equal(grey[0], grey[1]) and torch.equal(grey[0], grey[2])
    assert "7 images in 2 classes" in train.source and "1 other files ignored" in train.source
    assert "resized" not in train.source


def test_folder_val_and_test_stand_in(tmp_path: Path) -> None:
    write_tree(tmp_path, ("train", "val"))
    assert len(d.load("folder", "test", tmp_path)) == 6 and "val" in d.load("folder", "test", tmp_path).source
    assert d.load("folder", "val", tmp_path).name == "folder:val"


def test_folder_resizes_and_says_so(tmp_path: Path) -> None:
    write_tree(tmp_path)
    write_image(tmp_path / "train" / "cat" / "wide.jpg", size=(20, 10))
    write_image(tmp_path / "train" / "cat" / "x.png", "RGBA", (3, 3))
    found = d.load("folder", "train", tmp_path, image_size=8)
    assert found.shape == (3, 8, 8) and "8 images in 2 classes, resized to 8x8 where they differ" in found.source
    for size in (0, -1, 5000):
        with pytest.raises(DataError, match=r"is outside 1\.\.4096"):
            d.load("folder", "train", tmp_path, image_size=size)


def test_folder_of_other_sizes_names_the_file(tmp_path: Path) -> None:
    write_tree(tmp_path)
    write_image(tmp_path / "train" / "dog" / "odd.png", size=(9, 8))
    with pytest.raises(DataError, match=r"odd.png' is 9x8 but .*0.png' is 8x8; give an image size"):
        d.load("folder", "train", tmp_path)


def test_folder_names_the_damaged_picture(tmp_path: Path) -> None:
    write_tree(tmp_path)
    path = tmp_path / "train" / "dog" / "0.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DataError, match=r"cannot decode '.*dog/0\.png': "):
        d.load("folder", "train", tmp_path)
    path.write_bytes(b"")
    with pytest.raises(DataError, match=r"cannot decode '.*dog/0\.png': it is empty; replace or remove it"):
        d.load("folder", "train", tmp_path)
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(path)
    with pytest.raises(DataError, match=r"0\.png.*not 8 bits"):
        d.load("folder", "train", tmp_path)


def test_folder_layout_faults(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="needs its folder"):
        d.load("folder", "train")
    root = tmp_path / "tree"
    root.mkdir()
    with pytest.raises(DataError, match=r"needs train/CLASS"):
        d.load("folder", "train", root)
    write_tree(root, ("train",))
    with pytest.raises(DataError, match=r"no folder '.*test' or '.*val'"):
        d.load("folder", "test", root)
    with pytest.raises(DataError, match=r"did you mean '.*tree'"):
        d.load("folder", "train", tmp_path)
    (root / "val").mkdir()
    with pytest.raises(DataError, match="no class folders"):
        d.load("folder", "val", root)
    write_image(root / "val" / "horse" / "0.png")
    with pytest.raises(DataError, match="horse' is a class that"):
        d.load("folder", "val", root)
    (root / "train" / "empty").mkdir()
    with pytest.raises(DataError, match="empty' holds no image"):
        d.load("folder", "train", root)
    write_image(tmp_path / "level" / "train" / "images" / "0.png")  # one too deep, as Tiny ImageNet's are
    with pytest.raises(DataError, match=r"'images' is the only class folder of '.*train'; put the images of two"):
        d.load("folder", "train", tmp_path / "level")


def test_folder_labels_follow_train(tmp_path: Path) -> None:
    write_tree(tmp_path, ("train",))
    write_image(tmp_path / "val" / "dog" / "0.png")
    found = d.load("folder", "val", tmp_path)
    assert found.classes == ("cat", "dog") and found.labels.tolist() == [1]


# --- downloads ------------------------------------------------------------------------------------------


def refused_port() -> int:
    """A port of this machine where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_refused_download_is_one_line_with_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(cifar, "fetch", fetch.fetch)
    archive = Download(f"http://127.0.0.1:{refused_port()}/c.tar.gz", "c.tar.gz", "md5:0")
    kind = replace(cifar.KINDS["cifar10"], archive=archive)
    monkeypatch.setitem(cifar.KINDS, "cifar10", kind)
    with pytest.raises(DataError) as caught:
        d.load("cifar10", "test", tmp_path)
    message = str(caught.value)
    assert "no connection" in message and archive.url in message and "--data" in message
    assert f"'{tmp_path}'" in message and "test_batch.bin" in message and "\n" not in message
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("timeout", "no answer within 10 s"),
        ("http", "the server answered 404"),
        ("checksum", "differs from its checksum md5:1"),
        ("disk", "cannot write '.*a.gz': No space left"),
    ],
)
def test_download_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, says: str) -> None:
    import pooch
    import requests

    response = requests.Response()
    response.status_code = 404
    errors: dict[str, Exception] = {
        "timeout": requests.exceptions.ReadTimeout("slow"),
        "http": requests.exceptions.HTTPError("x", response=response),
        "checksum": ValueError("hash"),
        "disk": OSError(28, "No space left on device"),
    }

    def fail(*args: object, **kwargs: object) -> str:
        raise errors[fault]

    monkeypatch.setattr(pooch.HTTPDownloader, "__call__", fail)
    item = Download("http://example.invalid/a.gz", "a.gz", "md5:1")
    with pytest.raises(DataError, match=says):
        fetch.fetch(item, tmp_path, "nothing here")


def test_download_from_a_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import hashlib
    import threading
    from http.server import BaseHTTPRequestHandler, HTTPServer

    content = zipped(idx_bytes(np.zeros(5, np.uint8)))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    monkeypatch.setenv("no_proxy", "*")
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}/a.gz"
            good = Download(url, "a.gz", f"md5:{hashlib.md5(content, usedforsecurity=False).hexdigest()}")
            assert fetch.fetch(good, tmp_path / "new", "absent").read_bytes() == content
            # On a terminal a bar is drawn, on standard error only.
            monkeypatch.setattr(fetch.sys.stderr, "isatty", lambda: True, raising=False)
            assert fetch.fetch(good, tmp_path / "bar", "absent").is_file()
            with pytest.raises(DataError, match="differs from its checksum"):
                fetch.fetch(replace(good, checksum="md5:" + 32 * "0"), tmp_path / "bad", "absent")
        finally:
            server.shutdown()
            thread.join()
    assert not (tmp_path / "bad").exists()
    before = os.umask(0)
    os.umask(before)
    assert (tmp_path / "new" / "a.gz").stat().st_mode & 0o777 == 0o666 & ~before
    assert capfd.readouterr().out == ""


# --- what is there --------------------------------------------------------------------------------------


def test_available(tmp_path: Path, alone: Path) -> None:
    assert dict(d.available()) == {
        "digits": "scikit-learn",
        "fashion-mnist": None,
        "cifar10": None,
        "cifar100": None,
        "folder": None,
        "nmnist": None,
        "dvs-gesture": None,
        "cifar10-dvs": None,
        "letters": None,
        "shd": None,
        "ssc": None,
        "event-folder": None,
    }
    for split in ("train", "test"):
        write_fashion(tmp_path / "system", split)
    write_cifar10(alone / "cifar-10-batches-bin")
    (alone / "cifar-100-binary.tar.gz").touch()
    found = dict(d.available())
    assert found["fashion-mnist"] == str(tmp_path / "system")
    assert found["cifar10"] == str(alone / "cifar-10-batches-bin")
    assert found["cifar100"] == str(alone / "cifar-100-binary.tar.gz")
    write_tree(tmp_path / "mine")
    mine = dict(d.available(tmp_path / "mine"))
    assert mine["folder"] == str(tmp_path / "mine") and mine["fashion-mnist"] is None


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, alone: Path) -> None:
    assert d.cache_folder() == alone
    monkeypatch.setenv("SNN2CHIP_DATA", "")
    assert d.cache_folder().name == "data" and "snn2chip" in str(d.cache_folder())


# --- augmentation ---------------------------------------------------------------------------------------


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(count: int = 6, dtype: torch.dtype = torch.uint8) -> torch.Tensor:
    return torch.randint(1, 256, (count, 3, 9, 7), generator=generator(1)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_crop_is_a_shift_of_each_image(dtype: torch.dtype) -> None:
    images = batch(200, dtype)
    before = images.clone()
    cropped = random_crop(images, 2, generator())
    assert cropped.shape == images.shape and cropped.dtype == dtype and torch.equal(images, before)
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2))
    seen = set()
    for before_one, one in zip(padded, cropped, strict=True):
        fits = [(y, x) for y in range(5) for x in range(5) if torch.equal(before_one[:, y : y + 9, x : x + 7], one)]
        assert len(fits) == 1
        seen.add(fits[0])
    assert len(seen) == 25  # every offset occurs


def test_flip_mirrors_about_half() -> None:
    images = batch(400)
    flipped = flip_horizontally(images, generator())
    mirrored = [torch.equal(a.flip(2), b) for a, b in zip(images, flipped, strict=True)]
    assert all(m or torch.equal(a, b) for m, a, b in zip(mirrored, images, flipped, strict=True))
    assert 150 < sum(mirrored) < 250


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_cutout_paints_one_clipped_square(size: int) -> None:
    images = batch(100, torch.float32)
    cut = cutout(images, size, generator())
    covered = (cut == 0).all(1)
    assert torch.equal(torch.where(covered[:, None], 0.0, images), cut)
    areas = covered.flatten(1).sum(1)
    assert int(areas.min()) >= 1 and int(areas.max()) == min(size, 9) * min(size, 7)
    for one in covered:
        rows, columns = one.any(1), one.any(0)
        assert torch.equal(one, rows[:, None] & columns[None]) and int(rows.sum()) <= size


def test_crop_may_reflect() -> None:
    """What enters at the borders is the image reflected there."""
    image = torch.arange(16, dtype=torch.uint8).view(1, 1, 4, 4)
    reflected = F.pad(image.float(), (2,) * 4, "reflect").to(torch.uint8)
    windows = {bytes(reflected[0, 0, y : y + 4, x : x + 4].numpy()) for y in range(5) for x in range(5)}
    found = random_crop(image.repeat(200, 1, 1, 1), 2, generator(), "reflect")
    assert {bytes(one[0].numpy()) for one in found} == windows


def test_erase_paints_rectangles_over_its_share() -> None:
    """2 to 33 % of the area but for whole pixels, in one rectangle; the other images stay as they are."""
    erased = erase(torch.ones((2000, 2, 32, 32)), 0.5, generator())
    assert torch.equal(erased[:, 0], erased[:, 1])
    gone = erased[:, 0] == 0
    touched = gone.flatten(1).any(1)
    assert 0.45 < touched.float().mean() < 0.55
    sides = gone.any(2).sum(1)[touched], gone.any(1).sum(1)[touched]
    area = gone.flatten(1).sum(1)[touched]
    assert torch.equal(sides[0] * sides[1], area)
    assert area.min() >= 0.01 * 32 * 32 and area.max() <= 0.36 * 32 * 32
    assert (gone[:, 0].any(1) & gone[:, 16].any(1)).any() and gone[:, 31].any()


@pytest.mark.parametrize("kind", ["cutmix", "mixup"])
def test_two_images_and_their_classes_in_one_proportion(kind: str) -> None:
    """The share of the other's pixels, or of their values, is the share of its class."""
    images = torch.stack([torch.full((1, 16, 16), value, dtype=torch.uint8) for value in (0, 100, 200)])
    labels, shares = torch.tensor([2, 0, 1]), set()
    for seed in range(20):
        mixed, targets = mix(images, labels, AugmentTable(**{kind: 1.0}), 3, generator(seed))
        share = targets[0, 1]  # the image before the first is the last one, of class 1
        assert torch.allclose(targets.sum(1), torch.ones(3)) and torch.isclose(targets[0, 2], 1 - share)
        first, second = torch.tensor([[200.0, 0, 100], [0, 100, 200]])
        assert torch.allclose(mixed.float().mean((1, 2, 3)), first * share + second * (1 - share), atol=1e-3)
        assert kind == "mixup" or set(mixed[0].unique().tolist()) <= {0, 200}
        shares.add(round(float(share), 3))
    assert len(shares) > 10
    same, hard = mix(images, labels, AugmentTable(**{kind: 0.3}), 3, generator(1))
    assert (same is images) == (hard is labels)


def test_alternating_flip_mirrors_whom_it_is_told() -> None:
    """`flipped` decides, and no number is drawn for it."""
    images = torch.arange(24, dtype=torch.uint8).view(4, 1, 2, 3)
    flipped = torch.tensor([True, False, True, False])
    found = Augment(AugmentTable(flip="alternating"))(images, generator(), flipped)
    assert torch.equal(found[flipped], images[flipped].flip(3)) and torch.equal(found[~flipped], images[~flipped])


def test_augment_follows_its_generator_and_spec() -> None:
    images = batch(32)
    augment = Augment(AugmentTable(crop=2, flip=True, cutout=3))
    assert torch.equal(augment(images, generator(5)), augment(images, generator(5)))
    assert not torch.equal(augment(images, generator(5)), augment(images, generator(6)))
    g = generator(5)
    by_hand = cutout(flip_horizontally(random_crop(images, 2, g), g), 3, g)
    assert torch.equal(by_hand, augment(images, generator(5)))
    assert Augment(AugmentTable())(images, generator()) is images


def test_augment_on_one_image_and_on_none() -> None:
    augment = Augment(AugmentTable(crop=2, flip=True, cutout=3))
    assert augment(batch(1), generator()).shape == (1, 3, 9, 7)
    assert augment(batch(0), generator()).shape == (0, 3, 9, 7)


def test_augment_refuses_what_cannot_be() -> None:
    with pytest.raises(RecipeError, match=r"'data.augment.crop': .* greater than or equal to 0"):
        recipes.load("digits-tdbn", ["data.augment.crop=-1"])
    with pytest.raises(RecipeError, match=r"'data.augment.cutout': .* greater than or equal to 0"):
        recipes.load("digits-tdbn", ["data.augment.cutout=-3"])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_augment_on_cuda_equals_cpu() -> None:
    augment = Augment(AugmentTable(crop=2, flip=True, cutout=3))
    on_cpu = augment(batch(32), generator(5))
    assert torch.equal(on_cpu, augment(batch(32).cuda(), generator(5)).cpu())
    own = torch.Generator("cuda").manual_seed(5)
    assert augment(batch(32).cuda(), own).is_cuda


# --- real data, where this machine has it ---------------------------------------------------------------


def test_real_fashion_mnist(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path("/usr/share/datasets/fashion-mnist")
    if not folder.is_dir():
        pytest.skip("Debian's package dataset-fashion-mnist is not installed")
    monkeypatch.setattr(fashion, "_SYSTEM_FOLDER", folder)
    found = d.load("fashion-mnist", "test", download=False)
    assert len(found) == 10_000 and found.labels.bincount().tolist() == [1000] * 10
    assert found.source == str(folder)
    assert found.labels[:10].tolist() == [9, 2, 1, 1, 6, 1, 4, 6, 5, 7]


def test_real_cifar10(tmp_path: Path) -> None:
    script = SHARED / "unpack_cifar10.py"
    if not script.is_file():
        pytest.skip(f"no {script}: CIFAR-10 is not on this machine")
    subprocess.run([sys.executable, script, tmp_path], check=True, capture_output=True, timeout=300)
    folder = tmp_path / "cifar-10-batches-bin"
    for split, count in (("train", 50_000), ("test", 10_000)):
        found = d.load("cifar10", split, tmp_path, download=False)
        assert len(found) == count and found.source == str(folder)
        assert found.labels.bincount().tolist() == [count // 10] * 10
    # The published pixels, in whatever order: the channels' means and deviations of the training set.
    pixels = np.fromfile(folder / "data_batch_1.bin", np.uint8).reshape(-1, 3073)[:, 1:].reshape(-1, 3, 1024) / 255
    assert np.abs(pixels.mean((0, 2)) - [0.4914, 0.4822, 0.4465]).max() < 0.005


def test_real_tiny_imagenet(tmp_path: Path) -> None:
    archive = SHARED / "tiny-imagenet-10.tar"
    if not archive.is_file():
        pytest.skip(f"no {archive}: the Tiny ImageNet subset is not on this machine")
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path, filter="data")
    train = d.load("folder", "train", tmp_path / "tiny-imagenet-10")
    assert (len(train), train.shape, len(train.classes)) == (2000, (3, 64, 64), 10)
    small = d.load("folder", "test", tmp_path / "tiny-imagenet-10", image_size=32)
    assert (len(small), small.shape) == (500, (3, 32, 32)) and "resized to 32x32 where they differ" in small.source
    assert small.subset(20).labels.bincount().tolist() == [2] * 10
