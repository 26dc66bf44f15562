"""Recordings of event cameras: formats, faults, binning, the cache, data sets and the way to the chip's integers."""

from __future__ import annotations

import json
import os
import shutil
import sys
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Command, tiny_recipe
from event_files import Raw, aedat2_bytes, aedat3_bytes, bin_bytes, nmnist_tree, random_events, write_npz
from helpers import usually
from hypothesis import given, settings
from hypothesis import strategies as st

from snn2chip import data, recipe
from snn2chip.data.augment import Augment
from snn2chip.data.augment_table import AugmentTable
from snn2chip.data.binned import Item, key_of
from snn2chip.data.recordings import BinSettings, Events, Faults, Tally, bin_events, make_events, read_recording
from snn2chip.data.recordings.recording import JITTER_US
from snn2chip.data.sets.events import find_events
from snn2chip.errors import DataError, InputError, RecipeError, SetupError
from snn2chip.formats import netx
from snn2chip.ir.encode import encoder_of
from snn2chip.nn import EventInput, model_file
from snn2chip.passes.capture import capture
from snn2chip.passes.fold import fold
from snn2chip.recipe import parse

SHARED = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
NMNIST = SHARED / "nmnist" / "events.npz"
LETTERS = SHARED / "letters" / "events.npz"


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of each test's own."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("SNN2CHIP_DATA", str(folder))
    return folder


def events_of(raw: Raw, sensor: tuple[int, int] = (34, 34), **options: Any) -> Events:
    return make_events(raw.x, raw.y, raw.p, raw.t, sensor, "test", **options)


def same(events: Events, raw: Raw) -> None:
    """The events are the raw ones, one by one."""
    for name in ("x", "y", "p", "t"):
        np.testing.assert_array_equal(getattr(events, name), getattr(raw, name), err_msg=name)


# ------------------------------------------------------------------------------------------------- binning


def naive(events: Events, chosen: BinSettings) -> np.ndarray:
    """Binning as one would write it down: event by event."""
    frames = np.zeros((chosen.timesteps, *chosen.shape(events.sensor)), np.int64)
    for i in range(len(events)):
        if chosen.dt_us is not None:
            step = (int(events.t[i]) - int(events.t[0])) // chosen.dt_us
        else:
            assert chosen.count is not None
            step = i // chosen.count
        if step < chosen.timesteps:
            channel = events.p[i] if chosen.polarities == 2 else 0
            frames[step, channel, events.y[i] // chosen.downsample, events.x[i] // chosen.downsample] += 1
    return np.minimum(frames, chosen.max_count)


@st.composite
def binnings(draw: st.DrawFn) -> BinSettings:
    by_time = draw(st.booleans())
    return BinSettings(
        timesteps=draw(st.integers(1, 6)),
        dt_us=draw(st.integers(1, 500)) if by_time else None,
        count=None if by_time else draw(st.integers(1, 50)),
        max_count=draw(st.sampled_from([1, 2, 3, 255])),
        downsample=draw(st.integers(1, 4)),
        polarities=draw(st.sampled_from([1, 2])),
    )


@settings(max_examples=usually(80), deadline=None)
@given(binnings(), st.integers(1, 200), st.integers(0, 2**31), st.integers(0, 10**15))
def test_binning_equals_a_loop_and_accounts_for_every_event(
    chosen: BinSettings, count: int, seed: int, start: int
) -> None:
    events = events_of(random_events(count, (7, 5), seed, span_us=1000, start=start), (7, 5))
    tally = Tally()
    frames = bin_events(events, chosen, tally)
    np.testing.assert_array_equal(frames, naive(events, chosen))
    assert frames.dtype == np.uint8
    assert tally.events == count
    assert int(frames.sum()) + tally.late + tally.merged == count
    if chosen.max_count == 255:
        assert tally.merged == 0


def test_a_count_above_the_largest_byte_is_counted_as_merged() -> None:
    raw = Raw(*(np.zeros(300, np.int64) for _ in range(4)))
    tally = Tally()
    frames = bin_events(events_of(raw), BinSettings(1, dt_us=1, max_count=255), tally)
    assert frames[0, 0, 0, 0] == 255
    assert tally.merged == 45


def test_a_sensor_that_downsampling_does_not_divide_is_rounded_up() -> None:
    raw = Raw(np.array([33]), np.array([33]), np.array([1]), np.array([0]))
    frames = bin_events(events_of(raw), BinSettings(1, count=1, downsample=4))
    assert frames.shape == (1, 2, 9, 9)
    assert frames[0, 1, 8, 8] == 1


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "one of them"),
        ({"dt_us": 1, "count": 1}, "one of them"),
        ({"dt_us": 0}, "dt_us 0"),
        ({"dt_us": 1, "max_count": 256}, "256"),
        ({"dt_us": 1, "downsample": 0}, "downsample 0"),
        ({"dt_us": 1, "sensor": (0, 3)}, "sensor"),
        ({"dt_us": 1, "polarities": 3}, "polarities 3"),
    ],
)
def test_settings_that_make_no_sense_are_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        BinSettings(timesteps=3, **values)


@settings(max_examples=usually(30), deadline=None)
@given(binnings())
def test_settings_come_back_from_a_file(chosen: BinSettings) -> None:
    for item in (chosen, replace(chosen, sensor=(3, 4))):
        assert BinSettings.from_json(json.loads(json.dumps(item.as_json()))) == item
    older = {name: value for name, value in chosen.as_json().items() if name != "polarities"}
    assert BinSettings.from_json(older) == replace(chosen, polarities=2)


@pytest.mark.parametrize("values", [None, [], {}, {"timesteps": "3"}, {"timesteps": 3, "sensor": 5}])
def test_settings_that_are_none_are_refused(values: Any) -> None:
    full = BinSettings(3, dt_us=1).as_json()
    with pytest.raises(InputError, match="binning settings"):
        BinSettings.from_json({**full, **values} if isinstance(values, dict) and values else values)


# ------------------------------------------------------------------------------------------------- formats


@settings(max_examples=usually(25), deadline=None)
@given(st.integers(0, 60), st.integers(0, 2**31))
def test_bin_comes_back(tmp_path_factory: pytest.TempPathFactory, count: int, seed: int) -> None:
    raw = random_events(count, (34, 34), seed)
    path = tmp_path_factory.mktemp("bin") / "a.bin"
    path.write_bytes(bin_bytes(raw))
    events = read_recording(path, (34, 34))
    same(events, raw)
    assert not events.faults


@settings(max_examples=usually(25), deadline=None)
@given(st.integers(0, 60), st.integers(0, 2**31), st.sampled_from([0, 3]))
def test_aedat_comes_back(tmp_path_factory: pytest.TempPathFactory, count: int, seed: int, room: int) -> None:
    raw = random_events(count, (128, 128), seed)
    folder = tmp_path_factory.mktemp("aedat")
    for name, content in (("2", aedat2_bytes(raw)), ("3", aedat3_bytes(raw, packet=7, room=room))):
        path = folder / f"{name}.aedat"
        path.write_bytes(content)
        events = read_recording(path)
        same(events, raw)
        assert events.sensor == (128, 128)
        assert not events.faults


def test_aedat_3_goes_on_behind_the_wrap_of_its_31_bits(tmp_path: Path) -> None:
    raw = random_events(50, (128, 128), start=2**31 - 150_000)
    assert raw.t[0] < 2**31 <= raw.t[-1]
    (tmp_path / "a.aedat").write_bytes(aedat3_bytes(raw, packet=1))
    same(read_recording(tmp_path / "a.aedat"), raw)


@pytest.mark.parametrize("kind", ["int64", "uint32", "uint8"])
def test_npz_comes_back(tmp_path: Path, kind: str) -> None:
    raw = random_events(40, (9, 12), span_us=200 if kind == "uint8" else 10_000)
    write_npz(tmp_path / "a.npz", raw, (9, 12), t=kind)
    events = read_recording(tmp_path / "a.npz")
    same(events, raw)
    assert events.sensor == (9, 12)


def test_npz_may_have_negative_polarities_and_t_us(tmp_path: Path) -> None:
    raw = random_events(40, (9, 12))
    np.savez(tmp_path / "a.npz", x=raw.x, y=raw.y, p=2 * raw.p - 1, t_us=raw.t)
    same(read_recording(tmp_path / "a.npz", (9, 12)), raw)


@pytest.mark.parametrize("suffix", ["aedat4", "es", "dat", "raw"])
def test_other_formats_come_back_through_the_library(tmp_path: Path, suffix: str) -> None:
    faery = pytest.importorskip("faery", reason="the optional extra 'events' is not installed")
    raw = random_events(500, (100, 120))
    table = np.zeros(len(raw), faery.EVENTS_DTYPE)
    table["t"], table["x"], table["y"], table["on"] = raw.t, raw.x, raw.y, raw.p
    path = tmp_path / f"a.{suffix}"
    faery.events_stream_from_array(table, dimensions=(120, 100)).to_file(path)
    events = read_recording(path)
    assert events.sensor == (100, 120)
    # .es counts from the first event
    same(replace(events, t=events.t - events.t[0]), replace(raw, t=raw.t - raw.t[0]))


def test_without_the_library_its_formats_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.aedat4").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "faery", None)
    with pytest.raises(SetupError, match=r"snn2chip\[events\]"):
        read_recording(tmp_path / "a.aedat4")


# ------------------------------------------------------------------------------------------------- bad input


def test_a_truncated_bin_keeps_whole_events_and_counts_the_rest(tmp_path: Path) -> None:
    raw = random_events(20, (34, 34))
    (tmp_path / "a.bin").write_bytes(bin_bytes(raw)[:-2])
    events = read_recording(tmp_path / "a.bin", (34, 34))
    same(events, Raw(*(column[:-1] for column in (raw.x, raw.y, raw.p, raw.t))))
    assert events.faults == Faults(cut=3)
    assert str(events.faults) == "3 bytes after the last whole event"


@pytest.mark.parametrize("cut", [1, 8, 9, 30, 40])
def test_a_truncated_aedat_keeps_whole_events(tmp_path: Path, cut: int) -> None:
    raw = random_events(20, (128, 128))
    for writer, whole in ((aedat2_bytes, 20 - -(-cut // 8)), (aedat3_bytes, 20 - -(-cut // 8))):
        (tmp_path / "a.aedat").write_bytes(writer(raw)[:-cut])
        events = read_recording(tmp_path / "a.aedat")
        same(events, Raw(*(column[:whole] for column in (raw.x, raw.y, raw.p, raw.t))))
        assert events.faults == Faults(cut=-cut % 8)


def test_every_truncation_of_an_aedat_is_read_or_refused_in_words(tmp_path: Path) -> None:
    raw = random_events(5, (128, 128))
    for content in (aedat2_bytes(raw), aedat3_bytes(raw)):
        refused = 0
        for length in range(len(content)):
            (tmp_path / "a.aedat").write_bytes(content[:length])
            try:
                events = read_recording(tmp_path / "a.aedat")
            except DataError as error:
                assert "\n" not in str(error)
                refused += 1
            else:
                same(events, Raw(*(column[: len(events)] for column in (raw.x, raw.y, raw.p, raw.t))))
        assert 0 < refused < len(content)


def test_a_truncated_npz_and_aedat4_are_refused(tmp_path: Path) -> None:
    raw = random_events(2000, (34, 34))
    write_npz(tmp_path / "a.npz", raw, (34, 34))
    (tmp_path / "a.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:-500])
    with pytest.raises(DataError, match="truncated"):
        read_recording(tmp_path / "a.npz")
    faery = pytest.importorskip("faery", reason="the optional extra 'events' is not installed")
    table = np.zeros(len(raw), faery.EVENTS_DTYPE)
    table["t"] = raw.t
    faery.events_stream_from_array(table, dimensions=(34, 34)).to_file(tmp_path / "a.aedat4")
    content = (tmp_path / "a.aedat4").read_bytes()
    (tmp_path / "a.aedat4").write_bytes(content[:-7])  # in its table of packets: no event is lost
    assert len(read_recording(tmp_path / "a.aedat4")) == len(raw)
    for length in (len(content) - 100, len(content) // 2, 3):
        (tmp_path / "a.aedat4").write_bytes(content[:length])
        with pytest.raises(DataError, match=r"a\.aedat4.*truncated or damaged"):
            read_recording(tmp_path / "a.aedat4")


@settings(max_examples=usually(40), deadline=None)
@given(st.integers(2, 200), st.integers(1, 3), st.integers(0, 2**31))
def test_wraps_of_the_counter_are_undone_and_counted(count: int, periods: int, seed: int) -> None:
    period = 1 << 23
    raw = random_events(count, (34, 34), seed, span_us=period * periods)
    # no pause longer than half a period, which a wrap could not be told from
    t = np.minimum.accumulate((raw.t - np.arange(count) * period // 4)[::-1])[::-1] + np.arange(count) * period // 4
    rising = np.sort(np.cumsum(np.minimum(np.diff(t, prepend=0), period // 3)))
    events = events_of(replace(raw, t=rising % period), period=period)
    np.testing.assert_array_equal(events.t - events.t[0], rising - rising[0])
    assert events.faults.wrapped == int(rising[-1] // period - rising[0] // period)


def test_overflow_events_of_bin_files_move_time_and_are_no_events(tmp_path: Path) -> None:
    # y = 240 stands for 2^13 us
    raw = Raw(np.array([1, 0, 2]), np.array([1, 240, 2]), np.array([0, 0, 1]), np.array([5, 5, 7]))
    (tmp_path / "a.bin").write_bytes(bin_bytes(raw))
    events = read_recording(tmp_path / "a.bin", (34, 34))
    same(events, Raw(np.array([1, 2]), np.array([1, 2]), np.array([0, 1]), np.array([5, 7 + 8192])))
    assert not events.faults


@settings(max_examples=usually(40), deadline=None)
@given(st.integers(1, 100), st.integers(0, 2**31), st.integers(1, JITTER_US))
def test_events_a_little_out_of_order_are_sorted_and_counted(count: int, seed: int, jitter: int) -> None:
    raw = random_events(count, (34, 34), seed)
    moved = raw.t + np.random.default_rng(seed).integers(0, jitter, count)
    late = moved < np.maximum.accumulate(moved)
    events = events_of(replace(raw, t=moved))
    assert (np.diff(events.t) >= 0).all()
    assert events.faults == Faults(backwards=int(late.sum()))
    order = np.argsort(moved, kind="stable")
    same(events, Raw(raw.x[order], raw.y[order], raw.p[order], moved[order]))


def test_a_clock_that_was_reset_is_refused() -> None:
    raw = random_events(50, (34, 34))
    back = raw.t.copy()
    back[30:] -= back[29] + JITTER_US + 1
    with pytest.raises(DataError, match=r"runs backwards by 0\.\d+ s at event 3\d of 50"):
        events_of(replace(raw, t=back))


def test_events_outside_the_sensor_are_left_out_and_counted_up_to_a_tenth() -> None:
    raw = random_events(100, (34, 34))
    x = raw.x.copy()
    x[:10] = 34
    events = events_of(replace(raw, x=x))
    assert len(events) == 90
    assert events.faults == Faults(outside=10)
    x[10] = -1
    with pytest.raises(DataError, match=r"11 of 100 events lie outside the sensor of 34x34"):
        events_of(replace(raw, x=x))


def test_what_is_no_recording_is_refused_by_name(tmp_path: Path) -> None:
    raw = random_events(10, (34, 34))
    (tmp_path / "a.bin").write_bytes(bin_bytes(raw))
    (tmp_path / "a.txt").write_bytes(b"")
    (tmp_path / "two.aedat").write_bytes(b"#!AER-DAT1.0\r\n")
    (tmp_path / "none.aedat").write_bytes(b"hello")
    (tmp_path / "bad.aedat").write_bytes(b"#!AER-DAT3.1\r\n#!END-HEADER\r\n" + bytes(64))
    write_npz(tmp_path / "a.npz", raw, (34, 34))
    np.savez(tmp_path / "set.npz", x=raw.x, y=raw.y, p=raw.p, t=raw.t, offsets=[0, 10])
    np.savez(tmp_path / "float.npz", x=raw.x, y=raw.y, p=raw.p, t=raw.t / 1e6, sensor=[34, 34])
    np.savez(tmp_path / "less.npz", x=raw.x, y=raw.y, p=raw.p, sensor=[34, 34])
    np.savez(tmp_path / "uneven.npz", x=raw.x[1:], y=raw.y, p=raw.p, t=raw.t, sensor=[34, 34])
    np.savez(tmp_path / "both.npz", x=raw.x, y=raw.y, p=raw.p, t=raw.t, t_us=raw.t, sensor=[34, 34])
    np.save(tmp_path / "one.npy", raw.x)
    shutil.move(tmp_path / "one.npy", tmp_path / "one.npz")
    for name, sensor, words in (
        ("a.bin", None, "does not say how large its sensor is"),
        ("a.bin", (0, 34), "sensor of"),
        ("a.npz", (32, 32), "34x34 pixels, not 32x32"),
        ("a.txt", None, "no format of recordings"),
        ("gone.bin", (34, 34), "no such file"),
        ("two.aedat", None, "AEDAT 1.0"),
        ("none.aedat", None, "no AEDAT file"),
        ("bad.aedat", None, "damaged"),
        ("set.npz", None, "several recordings"),
        ("float.npz", None, "'t' is float64"),
        ("less.npz", None, "'t' is not there"),
        ("uneven.npz", None, "9 x, 10 y"),
        ("both.npz", None, "both 't' and 't_us'"),
        ("one.npz", None, "not an .npz"),
    ):
        with pytest.raises(DataError, match=words.replace(".", r"\.")) as caught:
            read_recording(tmp_path / name, sensor)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_recording_without_events_has_none_and_cannot_be_binned(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"")
    events = read_recording(tmp_path / "a.bin", (34, 34))
    assert len(events) == 0
    assert events.duration_us == 0
    with pytest.raises(InputError, match=r"a\.bin' holds no events"):
        bin_events(events, BinSettings(3, dt_us=1))


# ------------------------------------------------------------------------------------------------- data sets

TEN_MS = BinSettings(timesteps=5, dt_us=60_000)


def test_nmnist_is_read_from_its_published_folders(tmp_path: Path) -> None:
    nmnist_tree(tmp_path, {"Train": 2, "Test": 1})
    found = data.load("nmnist", "train", tmp_path, events=TEN_MS)
    assert found.name == "nmnist:train"
    assert found.images.shape == (20, 5, 2, 34, 34)
    assert found.shape == (2, 34, 34)
    assert found.max_value == 1
    assert found.labels[:10].tolist() == list(range(10))  # classes in turn
    assert "20 of the 60,000 published recordings" in found.source
    assert "5 steps of 60 ms, binary" in found.source
    first = read_recording(tmp_path / "NMNIST" / "Train" / "0" / "00000.bin", (34, 34))
    np.testing.assert_array_equal(found.images[0], bin_events(first, TEN_MS))
    assert len(found.subset(7)) == 7
    assert found.first_steps(2).images.shape == (20, 2, 2, 34, 34)
    assert find_events("nmnist", tmp_path) == tmp_path / "NMNIST" / "Train"
    assert dict(data.available(tmp_path))["nmnist"] is not None


def test_empty_recordings_are_left_out_and_faults_are_counted(tmp_path: Path) -> None:
    nmnist_tree(tmp_path, {"Train": 2})
    folder = tmp_path / "NMNIST" / "Train"
    (folder / "3" / "00000.bin").write_bytes(b"")
    (folder / "4" / "00001.bin").write_bytes(b"\0" * 4)
    with (folder / "5" / "00000.bin").open("ab") as file:
        file.write(b"\0\0")
    for _ in range(2):  # made, and from the cache
        found = data.load("nmnist", "train", tmp_path, events=TEN_MS)
        assert len(found) == 18
        assert sorted(found.labels.tolist()).count(3) == 1
        assert "2 recordings without events left out" in found.source
        assert "2 recordings with faults: 6 bytes after the last whole event" in found.source


def test_a_recording_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    nmnist_tree(tmp_path, {"Train": 1})
    bad = tmp_path / "NMNIST" / "Train" / "7" / "00000.bin"
    outside = random_events(50, (200, 200), seed=3)
    bad.write_bytes(bin_bytes(outside))
    with pytest.raises(DataError, match=r"7/00000\.bin.*outside the sensor"):
        data.load("nmnist", "train", tmp_path, events=TEN_MS)


def test_the_cache_is_used_and_its_key_changes_with_settings_and_recordings(tmp_path: Path, own_cache: Path) -> None:
    nmnist_tree(tmp_path, {"Train": 1})
    path = tmp_path / "NMNIST" / "Train" / "0" / "00000.bin"

    def entries() -> int:
        return len(list((own_cache / "binned").glob("*.npy")))

    def load(**changes: Any) -> torch.Tensor:
        return data.load("nmnist", "train", tmp_path, events=replace(TEN_MS, **changes)).images

    first = load()
    assert entries() == 1
    assert torch.equal(load(), first)
    assert entries() == 1
    load(max_count=3)
    load(dt_us=50_000)
    load(downsample=2)
    assert load(timesteps=4).shape[1] == 4
    assert entries() == 5
    # the same size and time of change, other events
    before = path.stat()
    other = random_events(len(path.read_bytes()) // 5, (34, 34), seed=99)
    path.write_bytes(bin_bytes(other))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    changed = load()
    assert entries() == 6
    assert not torch.equal(changed[0], first[0])
    # what is written to a loaded set stays in memory
    changed[:] = 7
    assert int(load().max()) == 1


def test_a_damaged_entry_of_the_cache_is_made_again(tmp_path: Path, own_cache: Path) -> None:
    nmnist_tree(tmp_path, {"Train": 1})
    first = data.load("nmnist", "train", tmp_path, events=TEN_MS)
    images = first.images.clone()
    (frames,) = (own_cache / "binned").glob("*.npy")
    (said,) = (own_cache / "binned").glob("*.json")
    for path, content in ((frames, frames.read_bytes()[:1000]), (frames, b""), (said, b"{}"), (said, b"\xff")):
        path.unlink()
        path.write_bytes(content)
        again = data.load("nmnist", "train", tmp_path, events=TEN_MS)
        assert torch.equal(again.images, images)
        assert again.source == first.source


def test_without_a_cache_the_set_is_made_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nmnist_tree(tmp_path, {"Train": 1})
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("SNN2CHIP_DATA", str(tmp_path / "file"))
    assert len(data.load("nmnist", "train", tmp_path, events=TEN_MS)) == 10


def test_the_key_does_not_depend_on_where_the_folder_is(tmp_path: Path) -> None:
    items = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        path = tmp_path / name / "a.bin"
        os.link(items[0].path, path) if items else path.write_bytes(b"12345")
        items.append(Item(path, 0))
    # hard links: one file, so one time of change
    assert key_of(items[:1], TEN_MS, "x") == key_of(items[1:], TEN_MS, "x")
    assert key_of(items[:1], TEN_MS, "x") != key_of(items[:1], TEN_MS, "y")


def test_a_folder_of_recordings_of_mixed_formats(tmp_path: Path) -> None:
    raw = random_events(300, (34, 34))
    for split in ("train", "test"):
        for name in ("left", "right"):
            (tmp_path / split / name).mkdir(parents=True)
        (tmp_path / split / "left" / "a.bin").write_bytes(bin_bytes(raw))
        write_npz(tmp_path / split / "right" / "b.npz", raw, (34, 34))
    found = data.load("event-folder", "train", tmp_path, events=replace(TEN_MS, sensor=(34, 34)))
    assert found.classes == ("left", "right")
    assert found.labels.tolist() == [0, 1]
    assert torch.equal(found.images[0], found.images[1])
    with pytest.raises(DataError, match="does not say how large its sensor is"):
        data.load("event-folder", "train", tmp_path, events=TEN_MS)
    write_npz(tmp_path / "train" / "right" / "b.npz", raw, (40, 40))
    (tmp_path / "train" / "left" / "a.bin").unlink()
    write_npz(tmp_path / "train" / "left" / "a.npz", raw, (34, 34))
    with pytest.raises(DataError, match=r"40x40 pixels.*of 34x34"):
        data.load("event-folder", "train", tmp_path, events=TEN_MS)
    (tmp_path / "test" / "third").mkdir()
    with pytest.raises(DataError, match="third' is a class that"):
        data.load("event-folder", "test", tmp_path, events=TEN_MS)
    with pytest.raises(DataError, match="needs its folder"):
        data.load("event-folder", "train", events=TEN_MS)


def test_dvs_gesture_as_published_and_as_tonic_cuts_it(tmp_path: Path) -> None:
    raw = random_events(400, (128, 128), span_us=400_000, start=1_000_000)
    home = tmp_path / "a" / "DvsGesture"
    home.mkdir(parents=True)
    (home / "user01_led.aedat").write_bytes(aedat3_bytes(raw))
    (home / "user01_led_labels.csv").write_text(
        "class,startTime_usec,endTime_usec\n2,1000000,1100000\n11,1200000,1400000\n"
    )
    (home / "trials_to_train.txt").write_text("user01_led.aedat\n")
    chosen = BinSettings(timesteps=4, dt_us=30_000, max_count=255)
    found = data.load("dvs-gesture", "train", tmp_path / "a", events=chosen)
    assert found.labels.tolist() == [1, 10]
    assert found.images.shape == (2, 4, 2, 128, 128)
    part = (raw.t >= 1_200_000) & (raw.t < 1_400_000)
    trial = events_of(Raw(raw.x[part], raw.y[part], raw.p[part], raw.t[part]), (128, 128))
    np.testing.assert_array_equal(found.images[1], bin_events(trial, chosen))
    (home / "user01_led_labels.csv").write_text("class,startTime_usec,endTime_usec\n12,1,2\n")
    with pytest.raises(DataError, match=r"class 1\.\.11"):
        data.load("dvs-gesture", "train", tmp_path / "a", events=chosen)

    cut = tmp_path / "b" / "DVSGesture" / "ibmGestureTest" / "user24_led"
    cut.mkdir(parents=True)
    np.save(cut / "3.npy", np.stack([raw.x, raw.y, raw.p, raw.t // 1000], axis=1).astype(float))
    found = data.load("dvs-gesture", "test", tmp_path / "b", events=chosen)
    assert found.labels.tolist() == [3]
    in_ms = events_of(replace(raw, t=raw.t // 1000 * 1000), (128, 128))
    np.testing.assert_array_equal(found.images[0], bin_events(in_ms, chosen))
    np.save(cut / "4.npy", np.zeros((3, 3)))
    with pytest.raises(DataError, match="x, y, p, milliseconds"):
        data.load("dvs-gesture", "test", tmp_path / "b", events=chosen)


def test_cifar10_dvs_splits_every_class_by_number(tmp_path: Path) -> None:
    for index, name in enumerate(("airplane", "automobile")):
        folder = tmp_path / "CIFAR10DVS" / name
        folder.mkdir(parents=True)
        for number in range(10):
            raw = random_events(10 + number, (128, 128), seed=10 * index + number)
            (folder / f"cifar10_{name}_{number}.aedat").write_bytes(aedat3_bytes(raw))
    chosen = BinSettings(timesteps=1, dt_us=10**6, max_count=255)
    train = data.load("cifar10-dvs", "train", tmp_path, events=chosen)
    test = data.load("cifar10-dvs", "test", tmp_path, events=chosen)
    assert (len(train), len(test)) == (18, 2)
    assert test.images.sum((1, 2, 3, 4)).tolist() == [19, 19]  # the last by number
    assert "18 of the 9,000 published recordings" in train.source


def test_names_splits_and_binning_belong_together(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="how to bin them is not said"):
        data.load("nmnist", "train", tmp_path)
    with pytest.raises(DataError, match="holds images"):
        data.load("digits", "train", events=TEN_MS)
    with pytest.raises(DataError, match="nmnist not found"):
        data.load("nmnist", "train", tmp_path, download=False, events=TEN_MS)
    with pytest.raises(DataError, match="no split 'val'"):
        data.load("nmnist", "val", tmp_path, events=TEN_MS)


def test_tonic_downloads_what_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tonic", None)
    with pytest.raises(SetupError, match=r"snn2chip\[events\]"):
        data.load("nmnist", "test", tmp_path, events=TEN_MS)
    asked: list[dict[str, Any]] = []

    def fake(fail: bool) -> None:
        def download(**options: Any) -> None:
            asked.append(options)
            if fail:
                raise OSError("no route")
            nmnist_tree(Path(options["save_to"]), {"Test": 1})

        module = types.ModuleType("tonic.datasets")
        module.NMNIST = download  # type: ignore[attr-defined]
        package = types.ModuleType("tonic")
        package.datasets = module  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "tonic", package)
        monkeypatch.setitem(sys.modules, "tonic.datasets", module)

    fake(True)
    with pytest.raises(DataError, match=r"Tonic.s download failed .no route"):
        data.load("nmnist", "test", tmp_path, events=TEN_MS)
    fake(False)
    assert len(data.load("nmnist", "test", tmp_path, events=TEN_MS)) == 10
    assert asked == 2 * [{"save_to": str(tmp_path), "train": False}]


# ------------------------------------------------------------------------------------------------- recipes

EVENT_LAYERS = [
    {"type": "conv", "channels": 8, "stride": 4, "kernel": 5},
    {"type": "conv", "channels": 8, "stride": 2},
    {"type": "flatten"},
    {"type": "dense", "features": "classes", "neuron": False},
]


def event_recipe(**events: Any) -> dict[str, Any]:
    return {
        "name": "tiny-events",
        "data": {"name": "nmnist", "events": {"dt_us": 60_000, **events}},
        "model": {"timesteps": 5, "coding": "events", "layers": EVENT_LAYERS},
        "train": {"epochs": 4, "batch_size": 20, "lr": 1e-2},
    }


def test_a_recipe_of_events_needs_its_binning_and_the_other_way_round() -> None:
    values = event_recipe()
    assert parse(values).binning == BinSettings(5, dt_us=60_000)
    assert tiny_recipe().binning is None
    for broken, words in (
        ({**values, "data": {"name": "nmnist"}}, "belong together"),
        ({**values, "model": {**values["model"], "coding": "direct"}}, "belong together"),
        (event_recipe(count=3), "one of them"),
        (event_recipe(max_count=300), "max_count"),
        (event_recipe(sensor=[34]), "sensor"),
    ):
        with pytest.raises(RecipeError, match=words):
            parse(broken)


@pytest.mark.parametrize(
    "name",
    ["nmnist-tdbn", "nmnist-bntt", "letters-tdbn", "dvsgesture-tdbn", "dvsgesture-vgg-tdbn", "dvsgesture-vgg-bntt"],
)
def test_shipped_recipes_build(name: str) -> None:
    chosen = recipe.load(name)
    side = {"nmnist": 34, "letters": 32, "dvs-gesture": 128}[chosen.data.name]
    assert chosen.binning is not None
    assert chosen.binning.timesteps == chosen.model.timesteps
    network = model_file.build_network(chosen, (2, side, side), 11, chosen.binning.max_count)
    assert isinstance(network.encoder, EventInput)
    if name == "dvsgesture-tdbn":
        assert (chosen.binning.dt_us, chosen.binning.timesteps) == (30_000, 40)  # the paper's
    folded, _ = fold(capture(network.eval()))
    assert folded.input.coding == "events"
    assert folded.input.center.tolist() == [0, 0]


def test_the_encoder_takes_frames_as_they_are_and_refuses_others() -> None:
    network = model_file.build_network(parse(event_recipe(max_count=3)), (2, 34, 34), 10, 3)
    encoder = encoder_of(capture(network.eval()))
    frames = np.random.default_rng(0).integers(0, 4, (3, 5, 2, 34, 34))
    np.testing.assert_array_equal(encoder(frames), frames)
    for wrong, words in (
        (frames[:, :4], "do not fit the network's input"),
        (frames[..., :32, :32], "sensor of its size"),
        (frames + 1, "exceed"),
    ):
        with pytest.raises(InputError, match=words):
            encoder(wrong)
    with pytest.raises(InputError, match="one frame a time step"):
        network(torch.from_numpy(frames[:, 0]))


# ------------------------------------------------------------------------------------------------- end to end


@pytest.mark.parametrize("max_count", [1, 7])
def test_recordings_go_all_the_way(
    tmp_path: Path, cli: Command, monkeypatch: pytest.MonkeyPatch, max_count: int
) -> None:
    """Trained, exported, simulated, encoded and verified on recordings, as spikes and as counts."""
    monkeypatch.setattr("snn2chip.train.loop.fuse_neurons", lambda _network, _device: None)
    nmnist_tree(tmp_path, {"Train": 6, "Test": 2}, size=400)
    text = (
        'name = "tiny-events"\n[data]\nname = "nmnist"\n'
        f"events = {{ dt_us = 60000, max_count = {max_count} }}\n"
        "augment = { crop = 1, rotate = 5.0, drop = 0.2 }\n"
        '[model]\ntimesteps = 5\ncoding = "events"\nlayers = [\n'
        '{ type = "conv", channels = 8, kernel = 5, stride = 4 },\n{ type = "flatten" },\n'
        '{ type = "dense", features = "classes", neuron = false },\n]\n'
        "[train]\nepochs = 5\nbatch_size = 10\nlr = 0.03\n"
    )
    (tmp_path / "recipe.toml").write_text(text)
    model, net = tmp_path / "run" / "model.pt", tmp_path / "run" / "model.net"
    where = ("--data", tmp_path)
    cli("train", tmp_path / "recipe.toml", *where, "--out", tmp_path / "run", "--device", "cpu").ok()
    assert model_file.load(model).metrics["float_accuracy"] > 0.5
    cli("fold-and-export", model, *where, "--calibration", "20").ok()
    chain = netx.load(net)
    assert chain.coding == "events"
    assert (chain.low, chain.high) == (0, max_count)
    assert BinSettings.from_json(chain.made["events"]) == BinSettings(5, dt_us=60_000, max_count=max_count)
    said = cli("simulate", net, "--data", tmp_path, "--json", tmp_path / "s.json").ok()
    assert "20 samples of nmnist:test, T = 5 of 60 ms (300 ms a sample)" in said
    figures = json.loads((tmp_path / "s.json").read_text())
    assert figures["binning"]["dt_us"] == 60_000
    assert figures["accuracy"] > 0.5
    cli("encode", net, "-o", tmp_path / "in.npz", "--data", tmp_path, "--limit", 3).ok()
    with np.load(tmp_path / "in.npz") as file:
        frames = data.load("nmnist", "test", tmp_path, events=BinSettings(5, dt_us=60_000, max_count=max_count))
        np.testing.assert_array_equal(file["input"], frames.images[:3])
    again = cli("simulate", net, "--input", tmp_path / "in.npz").ok()
    assert "3 samples of the input file" in again
    assert "every exact rung holds" in cli("verify", model, net, *where, "--samples", 5, "--no-lava").ok()
    cli("simulate", net, "--dataset", "digits").refused("holds images")


def test_augmented_events_stay_events_and_steps_move_together() -> None:
    generator = torch.Generator().manual_seed(0)
    frames = (torch.rand((6, 1, 2, 20, 20), generator=generator) < 0.2).to(torch.uint8).repeat(1, 4, 1, 1, 1) * 3
    spec = AugmentTable(crop=2, flip=True, roll=3, rotate=20.0, zoom=0.2, shear=0.2)
    moved = Augment(spec)(frames, generator)
    assert moved.shape == frames.shape
    assert moved.dtype == torch.uint8
    assert set(moved.unique().tolist()) <= {0, 3}
    assert all(torch.equal(moved[:, 0], moved[:, step]) for step in range(1, 4))
    assert not torch.equal(moved, frames)


def test_roll_loses_nothing_and_drop_only_takes_away() -> None:
    generator = torch.Generator().manual_seed(1)
    frames = torch.randint(0, 4, (50, 3, 2, 9, 7), generator=generator, dtype=torch.uint8)
    rolled = Augment(AugmentTable(roll=4))(frames, generator)
    assert torch.equal(rolled.sum((1, 2, 3, 4)), frames.sum((1, 2, 3, 4)))
    for sample in range(50):
        shifts = [(dy, dx) for dy in range(-4, 5) for dx in range(-4, 5)]
        assert any(torch.equal(torch.roll(frames[sample], s, (2, 3)), rolled[sample]) for s in shifts)
    dropped = Augment(AugmentTable(drop=0.5))(frames, generator)
    kept = dropped == frames
    assert bool(((dropped == 0) | kept).all())
    share = 1 - (dropped[frames > 0] > 0).float().mean().item()
    assert 0.15 < share < 0.35  # a quarter on average


def test_affine_without_change_is_the_identity_and_a_quarter_turn_is_exact() -> None:
    from snn2chip.data.augment import affine

    frames = torch.randint(0, 255, (4, 3, 9, 9), dtype=torch.uint8)
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(affine(frames, 1e-9, 0.0, 0.0, generator), frames)
    turned = [torch.rot90(frames, k, (2, 3)) for k in range(4)]
    angle = torch.tensor([0.25, 0.5, 0.75, 1.0])  # of -180..180 degrees: -90, 0, 90, 180

    drawn = iter([angle, torch.full((4,), 0.5), torch.full((4,), 0.5)])  # angle, factor, slant
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("snn2chip.data.augment._spread", lambda most, *_: (2 * next(drawn) - 1) * most)
        moved = affine(frames, 180.0, 0.0, 0.0, generator)
    found = [next(k for k in range(4) if torch.equal(moved[i], turned[k][i])) for i in range(4)]
    assert found[1] == 0
    assert found[3] == 2
    assert {found[0], found[2]} == {1, 3}


# ------------------------------------------------------------------------------------------------- real recordings


@pytest.fixture(scope="module")
def real_nmnist(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Folder with the first recordings of each split of the real N-MNIST subset, as .bin files."""
    if not NMNIST.exists():
        pytest.skip(f"no N-MNIST recordings at shared/data/{NMNIST.relative_to(SHARED)}")
    arrays = np.load(NMNIST)
    columns = {name: arrays[name] for name in ("x", "y", "dt_us", "offsets", "label", "is_test", "sample_id")}
    polarity = np.unpackbits(arrays["p"], count=len(columns["x"]))

    def make(each: int) -> Path:
        root = tmp_path_factory.mktemp("nmnist")
        for is_test in (0, 1):
            for index in np.flatnonzero(columns["is_test"] == is_test)[:each]:
                part = slice(columns["offsets"][index], columns["offsets"][index + 1])
                t = np.cumsum(columns["dt_us"][part].astype(np.int64))
                raw = Raw(columns["x"][part], columns["y"][part], polarity[part], t)
                folder = root / "NMNIST" / ("Test" if is_test else "Train") / str(columns["label"][index])
                folder.mkdir(parents=True, exist_ok=True)
                (folder / f"{columns['sample_id'][index]:05d}.bin").write_bytes(bin_bytes(raw))
        return root

    return make


def test_real_nmnist_recordings(real_nmnist: Callable[[int], Path]) -> None:
    root = real_nmnist(5)
    chosen = BinSettings(timesteps=11, dt_us=30_000, max_count=255)
    found = data.load("nmnist", "train", root, events=chosen)
    assert len(found) == 5
    assert "faults" not in found.source
    for path in root.rglob("Train/*/*.bin"):
        events = read_recording(path, (34, 34))
        assert len(events) == path.stat().st_size // 5
        assert 250_000 < events.duration_us < 350_000
        assert 1_000 < len(events) < 10_000
        np.testing.assert_array_equal(bin_events(events, chosen), naive(events, chosen))


def test_real_letters() -> None:
    if not LETTERS.exists():
        pytest.skip(f"no letters at shared/data/{LETTERS.relative_to(SHARED)}")
    chosen = BinSettings(timesteps=10, dt_us=10_000)
    train = data.load("letters", "train", SHARED, events=chosen)
    test = data.load("letters", "test", SHARED, events=chosen)
    assert (len(train), len(test)) == (36, 40)
    assert sorted(train.labels.tolist()) == list(range(36))
    assert train.shape == (2, 32, 32)
    assert len(set(train.classes)) == 36
