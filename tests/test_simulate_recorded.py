"""One raw recording: read in pieces, binned in pieces, classified as a sample and as a stream, drawn."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import card
import numpy as np
import pytest
import torch
from conftest import Command, child_environment
from event_files import Raw, aedat2_bytes, aedat3_bytes, bin_bytes, random_events, write_npz
from helpers import usually
from hypothesis import given, settings
from hypothesis import strategies as st

from snn2chip import chip, ir
from snn2chip.data.recordings import (
    Binner,
    BinSettings,
    Events,
    Faults,
    Tally,
    bin_events,
    make_events,
    read_in_pieces,
    read_recording,
)
from snn2chip.data.recordings.recording import JITTER_US
from snn2chip.errors import DataError, InputError
from snn2chip.formats import netx
from snn2chip.nn.model_file import Model, build_network
from snn2chip.passes.pipeline import export
from snn2chip.recipe import parse
from snn2chip.simulate import recorded
from snn2chip.simulate import run as simulate_run
from snn2chip.simulate.dense import DenseEngine
from snn2chip.simulate.events.library import unavailable
from snn2chip.simulate.streaming import StreamEngine

SENSOR = (34, 34)
PERIOD = {"bin": 1 << 23, "aedat2": 1 << 32, "aedat3": None}


# -------------------------------------------------------------------------------------------------- pieces


def written(kind: str, raw: Raw, path: Path, cut: int) -> Path:
    """The events as a file of this kind, `cut` bytes short."""
    content = {"bin": bin_bytes, "aedat2": aedat2_bytes, "aedat3": aedat3_bytes}[kind](raw)
    path = path / f"a.{kind[:5]}"
    path.write_bytes(content[: len(content) - cut])
    return path


def joined(pieces: Sequence[Events]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([getattr(piece, name) for piece in pieces]) for name in ("x", "y", "p", "t")}


@settings(max_examples=usually(80), deadline=None)
@given(
    kind=st.sampled_from(sorted(PERIOD)),
    count=st.integers(0, 300),
    seed=st.integers(0, 2**31),
    most=st.integers(1, 320),
    jitter=st.sampled_from([0, 0, 3, JITTER_US]),
    outside=st.integers(0, 3),
    wrapping=st.booleans(),
    cut=st.integers(0, 6),
)
def test_pieces_joined_are_the_recording(
    tmp_path_factory: pytest.TempPathFactory,
    kind: str,
    count: int,
    seed: int,
    most: int,
    jitter: int,
    outside: int,
    wrapping: bool,
    cut: int,
) -> None:
    """Events, their order and the faults, whatever the file's faults and wherever it is cut."""
    rng = np.random.default_rng(seed)
    period = PERIOD[kind]
    start = period - 200_000 if wrapping and period else 0
    raw = random_events(count, SENSOR, seed, span_us=400_000, start=start)
    raw = Raw(raw.x.copy(), raw.y, raw.p, raw.t + rng.integers(-jitter, 1, count) if start or not count else raw.t)
    if count > 40 * outside:
        raw.x[rng.choice(count, outside, replace=False)] = 60
    path = written(kind, raw, tmp_path_factory.mktemp("pieces"), cut if count else 0)
    whole = read_recording(path, assumed=SENSOR)
    pieces = list(read_in_pieces(path, assumed=SENSOR, most=most))
    for name, column in joined(pieces).items():
        np.testing.assert_array_equal(column, getattr(whole, name), err_msg=name)
        assert column.dtype == getattr(whole, name).dtype
    assert sum((piece.faults for piece in pieces), Faults()) == whole.faults
    assert {piece.sensor for piece in pieces} == {whole.sensor}
    assert max(len(piece) for piece in pieces) <= max(most, len(raw))


def test_overflow_events_count_across_pieces(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    overflow = bytes([0, 240, 0, 0, 0])
    event = bin_bytes(random_events(1, SENSOR, span_us=1, start=5))
    path.write_bytes(event + overflow + event + overflow + overflow + event)
    whole = read_recording(path, SENSOR)
    assert whole.t.tolist() == [5, 5 + 8192, 5 + 3 * 8192]
    for most in range(1, 7):
        assert joined(list(read_in_pieces(path, SENSOR, most=most)))["t"].tolist() == whole.t.tolist()


def test_other_formats_are_one_piece(tmp_path: Path) -> None:
    raw = random_events(50, SENSOR)
    write_npz(tmp_path / "a.npz", raw, SENSOR)
    (piece,) = read_in_pieces(tmp_path / "a.npz", most=10)
    np.testing.assert_array_equal(piece.t, raw.t)


def test_faults_are_refused_in_pieces_as_they_are_in_one(tmp_path: Path) -> None:
    raw = random_events(20_000, SENSOR, span_us=1_000_000)
    far = Raw(np.where(np.arange(20_000) % 5 == 0, 60, raw.x), raw.y, raw.p, raw.t)
    back = Raw(raw.x, raw.y, raw.p, np.where(np.arange(20_000) >= 15_000, raw.t - 500_000, raw.t))
    for name, events, words in (("far", far, "lie outside the sensor"), ("back", back, "time runs backwards by 0.5")):
        path = tmp_path / f"{name}.bin"
        path.write_bytes(bin_bytes(events))
        for read in (lambda p: read_recording(p, SENSOR), lambda p: list(read_in_pieces(p, SENSOR, most=1000))):
            with pytest.raises(DataError, match=words):
                read(path)
    for path, words in ((tmp_path / "none.bin", "no such file"), (tmp_path / "a.txt", "no format of recordings")):
        with pytest.raises(DataError, match=words):
            next(read_in_pieces(path, SENSOR))
    with pytest.raises(DataError, match="how large its sensor is"):
        next(read_in_pieces(tmp_path / "far.bin"))


# ------------------------------------------------------------------------------------------------- binning


def parts(events: Events, cuts: Sequence[int]) -> Iterator[Events]:
    """The events cut at these places."""
    places = sorted({0, len(events), *(min(cut, len(events)) for cut in cuts)})
    for a, b in pairwise(places):
        yield replace(events, x=events.x[a:b], y=events.y[a:b], p=events.p[a:b], t=events.t[a:b])
    if len(places) == 1:
        yield events


def piecewise(events: Events, chosen: BinSettings, cuts: Sequence[int], most: int) -> tuple[np.ndarray, Tally]:
    """Frames of all steps."""
    binner = Binner(chosen, events.sensor)
    blocks = [block for part in parts(events, cuts) for block in binner.push(part, most)]
    assert all(0 < len(block) <= most for block in blocks)
    return np.concatenate([*blocks, binner.finish()]), binner.tally


@settings(max_examples=usually(120), deadline=None)
@given(
    count=st.integers(1, 300),
    seed=st.integers(0, 2**31),
    span=st.sampled_from([1, 1000, 300_000]),
    timed=st.booleans(),
    length=st.integers(1, 50_000),
    max_count=st.sampled_from([1, 2, 255]),
    downsample=st.integers(1, 5),
    cuts=st.lists(st.integers(0, 300), max_size=6),
    most=st.integers(1, 40),
)
def test_binning_in_pieces_is_binning(
    count: int,
    seed: int,
    span: int,
    timed: bool,
    length: int,
    max_count: int,
    downsample: int,
    cuts: list[int],
    most: int,
) -> None:
    raw = random_events(count, (20, 11), seed, span_us=span)
    events = make_events(raw.x, raw.y, raw.p, raw.t, (20, 11), "test")
    how: dict[str, int] = {"dt_us": max(length, span // 500)} if timed else {"count": 1 + length % 60}
    chosen = BinSettings(7, max_count=max_count, downsample=downsample, **how)  # type: ignore[arg-type]
    found, tally = piecewise(events, chosen, cuts, most)
    wanted_tally = Tally()
    wanted = bin_events(events, replace(chosen, timesteps=len(found)), wanted_tally)
    np.testing.assert_array_equal(found, wanted)
    assert found.dtype == np.uint8
    assert found[-1].any(), "the last step is that of the last event"
    assert tally == wanted_tally
    assert tally.late == 0


def test_steps_without_events_are_empty_frames_a_few_at_a_time() -> None:
    raw = Raw(*(np.array(column) for column in ([1, 2], [3, 4], [0, 1], [0, 10_000_000])))
    events = make_events(raw.x, raw.y, raw.p, raw.t, SENSOR, "test")
    found, _ = piecewise(events, BinSettings(3, dt_us=1000), [1], most=8)
    assert len(found) == 10_001
    assert found.sum(axis=(1, 2, 3)).nonzero()[0].tolist() == [0, 10_000]


# ------------------------------------------------------------------------------------------------ networks

LAYERS = [
    {"type": "conv", "channels": 8, "stride": 4, "kernel": 5},
    {"type": "conv", "channels": 8, "stride": 2},
    {"type": "flatten"},
    {"type": "dense", "features": "classes", "neuron": False},
]
WORD_SENSOR = (1, 700)  # of SHD
WORD_LAYERS = [{"type": "conv1d", "channels": 4, "kernel": 9, "stride": 4}]
DIGITS = tuple(f"digit {index}" for index in range(10))


def events_of(raw: Raw, sensor: tuple[int, int] = SENSOR) -> Events:
    return make_events(raw.x, raw.y, raw.p, raw.t, sensor, "test")


def network(norm: str = "tdbn", readout: str = "membrane", data: str = "nmnist", **events: Any) -> Model:
    """A network for a set's events with random weights and normalization that fits: its neurons spike."""
    convs = [{**layer, "norm": norm} for layer in (LAYERS[:2] if data == "nmnist" else WORD_LAYERS)]
    layers = [*convs, LAYERS[2], {**LAYERS[3], "neuron": readout == "spike_count"}]
    sensor = SENSOR if data == "nmnist" else WORD_SENSOR
    chosen = parse(
        {
            "name": "tiny-events",
            "data": {"name": data, "events": events or {"dt_us": 30_000}},
            "model": {"timesteps": 5, "coding": "events", "readout": readout, "layers": layers},
            "train": {"epochs": 1, "batch_size": 20, "lr": 1e-2},
        }
    )
    assert chosen.binning is not None
    torch.manual_seed(3)
    made = build_network(chosen, chosen.binning.shape(sensor), 10, chosen.binning.max_count)
    raws = [random_events(1500, sensor, n) for n in range(16)]
    frames = np.stack([bin_events(events_of(raw, sensor), chosen.binning) for raw in raws])
    made.train()
    with torch.no_grad():
        for _ in range(60):
            made(torch.from_numpy(frames))
    return Model(made.eval(), chosen, chosen.binning.max_count, DIGITS, {})


@pytest.fixture(scope="module")
def model() -> Model:
    return network()


@pytest.fixture(scope="module")
def chain(model: Model) -> ir.Chain:
    return export(model, chip.load("loihi2")).chain


@pytest.fixture(scope="module")
def net(chain: ir.Chain, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("net") / "model.net"
    netx.save(path, chain)
    return path


def recording(folder: Path, count: int = 2000, span_us: int = 1_000_000, seed: int = 0) -> Path:
    """Events that grow denser and wander, so that scores change, in a .bin."""
    raw = random_events(count, SENSOR, seed, span_us=span_us)
    raw = Raw((raw.x // 2 + 17 * raw.t // span_us).clip(0, 33), raw.y, raw.p, raw.t)
    path = folder / "a.bin"
    path.write_bytes(bin_bytes(raw))
    return path


def test_confidence_is_the_softmax_of_the_trained_network_s_logits(model: Model, chain: ir.Chain) -> None:
    binning = recorded.binning_of(chain)
    frames = np.stack([bin_events(events_of(random_events(1500, SENSOR, n)), binning) for n in range(100, 140)])
    with torch.no_grad():
        logits = model.network(torch.from_numpy(frames)).double()
    port = np.stack([recorded.port_of(chain, each) for each in frames])
    scores = DenseEngine(chain).run(port, keep=False).scores
    steps = np.full(len(frames), chain.timesteps)
    found = recorded.shares(chain, scores, steps)
    np.testing.assert_allclose(found.sum(1), 1)
    unit = recorded.logit_unit(chain) * chain.timesteps
    # what rounding moves is far below what tells the classes apart
    assert np.abs(scores / unit - logits.numpy()).mean() < 0.15 * logits.std()
    assert np.abs(found - logits.softmax(1).numpy()).mean() < 0.02
    bare = replace(chain, made={**chain.made, "scales": {}})
    with pytest.raises(InputError, match="scale of its last layer"):
        recorded.shares(bare, scores, steps)


def test_shares_of_spike_counts() -> None:
    counted = export(network(readout="spike_count"), chip.load("loihi2")).chain
    assert counted.readout == "spike_count"
    scores = np.array([[3, 1, 0, 0, 0, 0, 0, 0, 0, 0], [0] * 10])
    found = recorded.shares(counted, scores, np.array([4, 4]))
    assert found[0, :2].tolist() == [0.75, 0.25]
    assert found[1].tolist() == [0.0] * 10
    check_stream(counted, 4, [700, 1400])


def check_stream(chain: ir.Chain, window: int | None, cuts: Sequence[int], every: int = 1) -> None:
    """A stream says at the end of each window what the simulator says of the window's frames; and in between."""
    binning = recorded.binning_of(chain)
    raw = random_events(2000, SENSOR, 7, span_us=700_000)
    events = events_of(raw)
    run = recorded.RecordingStream(chain, window)
    said = list(run.run(parts(events, cuts), every))
    steps = run.steps
    frames = bin_events(events, replace(binning, timesteps=steps))
    assert [moment.step for moment in said] == sorted({*range(every, steps + 1, every), steps})
    counts = dict.fromkeys(run.counts, 0)
    by_step = {moment.step: moment for moment in said}
    for start in range(0, steps, window or steps):
        port = recorded.port_of(chain, frames[start : start + (window or steps)])
        trace = DenseEngine(chain).run(port[None])
        for name, count in trace.counts.items():
            counts[name] += count
        for step in range(start + 1, start + len(port) + 1):
            if step in by_step:
                upto = DenseEngine(chain).run(port[None, : step - start], keep=False).scores[0]
                np.testing.assert_array_equal(by_step[step].scores, upto)
                assert by_step[step].since == step - start
                assert by_step[step].decision == int(upto.argmax())
    assert run.counts == counts
    assert sum(counts.values()) > 0


@pytest.mark.parametrize("window", [1, 5, 7, None])
@pytest.mark.parametrize("every", [1, 4])
def test_windows_of_a_stream_are_the_offline_run(chain: ir.Chain, window: int | None, every: int) -> None:
    check_stream(chain, window, [1, 500, 1999], every)


@pytest.mark.parametrize(
    "how", [{"count": 130}, {"dt_us": 30_000, "max_count": 9}, {"dt_us": 60_000, "downsample": 3, "max_count": 4}]
)
def test_streams_of_other_binnings_are_the_offline_run(how: dict[str, int]) -> None:
    check_stream(export(network(**how), chip.load("loihi2")).chain, 5, [300, 301, 1200])


def test_a_stream_through_bntt_needs_its_windows() -> None:
    varying = export(network(norm="bntt"), chip.load("loihi2")).chain
    assert not varying.stock
    check_stream(varying, 5, [900])
    check_stream(varying, 3, [900])
    for window, words in ((None, "--window never: .* tables of 5 steps"), (6, "--window 6: .* give --window 5")):
        with pytest.raises(InputError, match=words):
            recorded.RecordingStream(varying, window)


def test_a_readout_at_the_end_of_its_bits_is_said(chain: ir.Chain, tmp_path: Path, cli: Command) -> None:
    """4,095 << 6 a step exceed the threshold of 131,071 << 6 at step 33."""
    full = replace(chain.layers[-1], bias=np.full_like(chain.layers[-1].bias, 4095), weight=chain.layers[-1].weight * 0)
    full.weight[0, 0] = 1
    path = tmp_path / "full.net"
    netx.save(path, replace(chain, layers=(*chain.layers[:-1], full)))
    file = recording(tmp_path, span_us=2_000_000)
    said = cli("stream", path, file, "--window", "never", "--json", tmp_path / "s.json")
    assert "a score had reached the end of the chip's 24 bits" in said.ok()
    by = json.loads((tmp_path / "s.json").read_text())["saturated_by_step"]
    assert 33 <= by < 33 + recorded.STEPS
    low = replace(full, bias=-full.bias)
    netx.save(path, replace(chain, layers=(*chain.layers[:-1], low)))
    said = cli("stream", path, file, "--window", "never")
    assert "a score had reached the end of the chip's 24 bits" in said.ok()
    assert "24 bits" not in cli("stream", path, file).ok()


# -------------------------------------------------------------------------------------------- command line


def test_one_recording_is_a_sample(net: Path, chain: ir.Chain, tmp_path: Path, cli: Command) -> None:
    file = recording(tmp_path)
    said = cli("stream", net, file, "--sample", "--json", tmp_path / "s.json", "--output", tmp_path / "t.npz").ok()
    binning = recorded.binning_of(chain)
    events = read_recording(file, SENSOR)
    tally = Tally()
    port = recorded.port_of(chain, bin_events(events, binning, tally))
    trace = DenseEngine(chain).run(port[None])
    figures = json.loads((tmp_path / "s.json").read_text())
    assert list(figures["scores"].values()) == trace.scores[0].tolist()
    assert figures["decision"] == DIGITS[int(trace.scores[0].argmax())]
    assert figures["confidence"] == pytest.approx(max(figures["shares"].values()))
    assert figures["spikes"] == trace.counts
    assert (figures["events"], figures["after_last_step"]) == (2000, tally.late)
    assert figures["milliseconds"] == 150
    assert f"decision {figures['decision']}, confidence" in said
    assert "2,000 events in" in said
    assert "34x34 pixels, 5 steps of 30 ms" in said
    assert "T = 5 of 30 ms (150 ms a sample)" in said
    assert f"note: {tally.late:,} events after the last step are not used" in said
    with np.load(tmp_path / "t.npz") as kept:
        for layer in chain.layers:
            np.testing.assert_array_equal(kept[f"spikes/{layer.name}"], trace.spikes[layer.name])


def test_one_recording_is_encoded(net: Path, chain: ir.Chain, tmp_path: Path, cli: Command) -> None:
    file = recording(tmp_path)
    assert "input (1, 5, 2, 34, 34)" in cli("encode", net, "--recording", file, "-o", tmp_path / "in.npz").ok()
    cli("simulate", net, "--input", tmp_path / "in.npz", "--output", tmp_path / "a.npz").ok()
    cli("stream", net, file, "--sample", "--output", tmp_path / "b.npz").ok()
    with np.load(tmp_path / "a.npz") as one, np.load(tmp_path / "b.npz") as other:
        assert set(one.files) == set(other.files)
        for name in one.files:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)
    for name, value in (("--dataset", "nmnist"), ("--data", tmp_path), ("--limit", "3")):
        options = ("--recording", file, name, value, "-o", tmp_path / "c.npz")
        cli("encode", net, *options).refused(f"{name} and --recording exclude each other")


def test_a_stream_on_the_command_line(net: Path, chain: ir.Chain, tmp_path: Path, cli: Command) -> None:
    file = recording(tmp_path)
    said = cli("stream", net, file, "--json", tmp_path / "s.json").ok()
    figures = json.loads((tmp_path / "s.json").read_text())
    moments = figures["moments"]
    lines = [line for line in said.splitlines() if " s  step" in line]
    assert len(lines) == len(moments) == -(-figures["steps"] // 5)
    run = recorded.RecordingStream(chain, 5)
    for line, entry, moment in zip(lines, moments, run.run(read_in_pieces(file, SENSOR), 5), strict=True):
        assert entry["scores"] == moment.scores.tolist()
        assert entry["decision"] == DIGITS[moment.decision] and DIGITS[moment.decision] in line
        assert entry["confidence"] == pytest.approx(moment.confidence)
        assert f"{100 * moment.confidence:5.1f} %" in line
        assert entry["milliseconds"] == 30 * moment.step
        assert f"{30 * moment.step / 1000:.3f} s" in line
    assert figures["spikes"] == run.counts
    assert "reset every 5 steps" in said
    assert "\x1b[" not in said
    for kind in ("dense", "events"):
        assert cli("stream", net, file, "--engine", kind, "--json", tmp_path / "e.json").ok().splitlines()[0] in said
        other = json.loads((tmp_path / "e.json").read_text())
        assert other["engine"] == kind or (kind == "events" and unavailable() is not None)
        assert {**other, "engine": 0, "seconds": 0} == {**figures, "engine": 0, "seconds": 0}
    for options, resets in ((("--window", "never"), "never reset"), (("--window", "3"), "reset every 3 steps")):
        assert resets in cli("stream", net, file, *options, "--every", "9").ok()
    first = cli("stream", net, file, "--sample", "--json", tmp_path / "o.json").ok()
    assert f"decision {moments[0]['decision']}" in first
    offline = json.loads((tmp_path / "o.json").read_text())
    assert list(offline["scores"].values()) == moments[0]["scores"]


def test_a_terminal_gets_colours_and_a_bar(chain: ir.Chain) -> None:
    from rich.console import Console

    from snn2chip.report.stream import line

    named = replace(chain, classes=("[red]", *chain.classes[1:]))
    moment = recorded.Moment(7, 2, np.array([5, *[0] * 9]), np.array([0.5, *[0.5 / 9] * 9]))
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=120, highlight=False)
    console.print(line(console, named, recorded.binning_of(chain), moment))
    assert "[red]" in out.getvalue()
    assert "━" * 12 in out.getvalue()
    assert "\x1b[" in out.getvalue()


def test_formats_and_faults_are_said(net: Path, tmp_path: Path, cli: Command) -> None:
    raw = random_events(400, SENSOR, span_us=60_000)
    write_npz(tmp_path / "a.npz", raw, SENSOR)
    write_npz(tmp_path / "unsaid.npz", raw)
    said = cli("stream", net, tmp_path / "a.npz").ok()
    assert "note: .npz is read whole; .bin and .aedat in bounded memory" in said
    said = cli("stream", net, tmp_path / "unsaid.npz", "--sample").ok()
    assert "note: shorter than the 150 ms" in said
    (tmp_path / "cut.bin").write_bytes(bin_bytes(raw)[:-2])
    for options in ((), ("--sample",)):
        said = cli("stream", net, tmp_path / "cut.bin", *options).ok()
        assert "note: 3 bytes after the last whole event" in said
        assert "399 events" in said


def test_recordings_that_do_not_fit_are_refused(net: Path, tmp_path: Path, cli: Command, chain: ir.Chain) -> None:
    raw = random_events(300, (34, 34))
    write_npz(tmp_path / "large.npz", raw, (128, 128))
    (tmp_path / "dvs.aedat").write_bytes(aedat2_bytes(raw))
    (tmp_path / "three.aedat").write_bytes(aedat3_bytes(random_events(300, (128, 128))))
    (tmp_path / "empty.bin").write_bytes(b"")
    (tmp_path / "a.npz").write_bytes(b"PK")
    back = Raw(raw.x, raw.y, raw.p, raw.t[::-1].copy())
    (tmp_path / "back.bin").write_bytes(bin_bytes(back))
    (tmp_path / "a.txt").write_bytes(b"x")
    answer = tmp_path / "s.json"
    for options in ((), ("--sample",)):
        for name, words in (
            ("large.npz", ("sensor of 128x128 pixels", "network's input is 34x34")),
            ("dvs.aedat", ("sensor of 128x128 pixels", "network's input is 34x34")),
            ("three.aedat", ("outside the sensor of 34x34",)),
            ("empty.bin", ("holds no events",)),
            ("a.npz", ("damaged or not an .npz",)),
            ("back.bin", ("time runs backwards",)),
            ("a.txt", ("no format of recordings",)),
            ("none.bin", ("no such file",)),
        ):
            command = ("stream", net, tmp_path / name, "--json", answer, *options)
            cli(*command).refused(*words)
            assert not answer.exists()
    assert not list(tmp_path.glob(".*part"))
    file = recording(tmp_path)
    images = replace(chain, coding="direct", made={**chain.made, "dataset": "digits", "events": None})
    netx.save(tmp_path / "images.net", images)
    cli("stream", tmp_path / "images.net", file).refused("was trained on digits, not on recordings")


def test_options_that_do_not_go_together_are_refused(net: Path, tmp_path: Path, cli: Command) -> None:
    file = recording(tmp_path)
    for options, word in (
        (("--sample", "--window", "3"), "--window and --sample exclude each other"),
        (("--sample", "--every", "3"), "--every and --sample exclude each other"),
        (("--window", "0"), "expected a number of steps"),
        (("--window", "x"), "expected a number of steps"),
        (("--window", "1" + 20 * "0"), "expected a number of steps"),
        (("--output", tmp_path / "t.npz"), "--output belongs to a sample; add --sample"),
        (("--device", "cuda"), "--device cuda belongs to a sample; add --sample"),
        (("--plot", tmp_path / "a.jpg"), "is no kind of picture here"),
    ):
        cli("stream", net, file, *options).refused(word)
    for options in ((), ("--stream",), ("--plot", "a.png")):
        cli("simulate", net, "--recording", file, *options).refused("snn2chip stream NET RECORDING")
    assert not (tmp_path / "a.jpg").exists()


def test_cards_speak_of_recordings(model: Model) -> None:
    figures = {"dataset": "nmnist:test", "samples": 100, "source": "100 of the 10,000 published recordings"}
    said = "nmnist:test, all 100 test recordings at hand, 100 of the 10,000 published recordings"
    assert card.tested(model.recipe, figures) == said
    assert card.tested(model.recipe, {**figures, "source": "as published"}) == "nmnist:test, all 100 test recordings"


# -------------------------------------------------------------------------------------------------- memory

_CHILD = """
import sys
from snn2chip.formats import netx
from snn2chip.data.recordings import read_in_pieces
from snn2chip.simulate.recorded import RecordingStream

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

run = RecordingStream(netx.load(sys.argv[1]), None if sys.argv[3] == "never" else int(sys.argv[3]))
largest = 0
for moment in run.run(read_in_pieces(sys.argv[2], (34, 34)), 20):
    largest = max(largest, resident())
print(run.steps, largest)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc: not Linux")
def test_memory_does_not_grow_with_the_recording(chain: ir.Chain, tmp_path: Path) -> None:
    """Eight minutes take what two minutes take. Read whole, they would take 70 MB more."""
    net = tmp_path / "slow.net"
    netx.save(net, replace(chain, made={**chain.made, "events": {**chain.made["events"], "dt_us": 240_000}}))
    second = random_events(4000, SENSOR, span_us=1_000_000)
    found = {}
    for minutes in (2, 8):
        path = tmp_path / f"{minutes}.bin"
        rows = np.frombuffer(bin_bytes(second), np.uint8).reshape(-1, 5)
        with path.open("wb") as file:
            for number in range(60 * minutes):
                t = (second.t + number * 1_000_000) & 0x7FFFFF
                part = rows.copy()
                part[:, 2] = rows[:, 2] & 0x80 | (t >> 16).astype(np.uint8)
                part[:, 3], part[:, 4] = t >> 8 & 0xFF, t & 0xFF
                file.write(part.tobytes())
        done = subprocess.run(
            [sys.executable, "-c", _CHILD, str(net), str(path), "5"],
            env=child_environment(), capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
        steps, largest = map(int, done.stdout.split())
        assert abs(steps - minutes * 250) <= 1
        found[minutes] = largest
    assert found[8] - found[2] < 12_000_000, f"resident memory by minutes of the recording: {found}"


# ------------------------------------------------------------------------------------------------ pictures

_BEGINS = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}


@pytest.mark.parametrize("kind", sorted(_BEGINS))
def test_pictures(net: Path, tmp_path: Path, cli: Command, kind: str) -> None:
    file, target = recording(tmp_path), tmp_path / f"a.{kind}"
    options = ("--window", "7") if kind == "png" else ("--sample",)
    assert f"wrote {target}" in cli("stream", net, file, "--plot", target, *options).ok()
    assert target.read_bytes().startswith(_BEGINS[kind])
    first = target.read_bytes()
    cli("stream", net, file, "--plot", target, *options).ok()
    if kind == "png":  # matplotlib puts addresses of objects into names within an .svg
        assert target.read_bytes() == first, "the same picture of the same recording"
    if kind == "svg":
        (tmp_path / "folder").write_bytes(b"")
        cli("stream", net, file, "--plot", tmp_path / "folder" / "a.svg", *options).refused("cannot write")
    assert not list(tmp_path.glob(".*part"))


@pytest.mark.parametrize("options", [(), ("--sample",)])
def test_a_picture_costs_no_second_run(
    net: Path, tmp_path: Path, cli: Command, options: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With --plot the recording is read once, and every step of it runs once."""
    calls: list[str] = []
    steps = 0
    streamed = StreamEngine.run

    def counting(module: Any, name: str) -> None:
        whole = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *given, **more: calls.append(name) or whole(*given, **more))

    def run(engine: StreamEngine, port: np.ndarray, *, keep: bool = False) -> Any:
        nonlocal steps
        steps += len(port)
        return streamed(engine, port, keep=keep)

    for name in ("read_recording", "read_in_pieces"):
        counting(recorded, name)
    counting(simulate_run, "simulate")
    monkeypatch.setattr(StreamEngine, "run", run)
    file, answer = recording(tmp_path), tmp_path / "s.json"
    cli("stream", net, file, *options, "--plot", tmp_path / "a.png", "--json", answer).ok()
    assert (tmp_path / "a.png").exists()
    if options:
        assert (calls, steps) == (["read_recording", "simulate"], 0)
    else:
        assert (calls, steps) == (["read_in_pieces"], json.loads(answer.read_text())["steps"])


@pytest.mark.parametrize(("how", "steps"), [({"dt_us": 30_000}, 5), ({"dt_us": 30_000}, None), ({"count": 100}, None)])
def test_what_is_drawn_of_a_recording(tmp_path: Path, how: dict[str, int], steps: int | None) -> None:
    """The events of the steps that are drawn, from however many pieces."""
    from snn2chip.report.recording import DRAWN_STEPS, Beginning

    def first_steps(pieces: Iterable[Events]) -> tuple[Events, int]:
        beginning = Beginning(binning, steps)
        for _ in beginning.watch(pieces):
            pass
        return beginning.cut()

    file = recording(tmp_path, count=DRAWN_STEPS * 100 + 5000, span_us=DRAWN_STEPS * 30_000 + 2_000_000)
    whole = read_recording(file, SENSOR)
    binning = BinSettings(5, **how)  # type: ignore[arg-type]
    events, drawn = first_steps(read_in_pieces(file, SENSOR, most=777))
    assert drawn == (steps or DRAWN_STEPS)
    used = drawn * 100 if "count" in how else int((whole.t < whole.t[0] + drawn * 30_000).sum())
    np.testing.assert_array_equal(events.t, whole.t[:used])
    np.testing.assert_array_equal(events.x, whole.x[:used])
    empty = tmp_path / "empty.bin"
    empty.write_bytes(b"")
    with pytest.raises(InputError, match="holds no events"):
        first_steps(read_in_pieces(empty, SENSOR))


def test_a_picture_of_a_network_that_counts_spikes(tmp_path: Path) -> None:
    from snn2chip.report import recording as plots

    counted = export(network(readout="spike_count"), chip.load("loihi2")).chain
    counted = replace(counted, classes=tuple(f"right arm counter clockwise {index}" for index in range(10)))
    drawing, run = plots.Drawing(counted, None), recorded.RecordingStream(counted, None)
    list(run.run(drawing.first.watch([events_of(random_events(900, SENSOR))]), 1, drawing))
    figure = plots.recording_figure(drawing, "test")
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert sum("fire in a step" in title for title in titles) == len(counted.layers)
    course = next(axes for axes in figure.axes if axes.get_ylabel() == "confidence, %")
    figure.draw_without_rendering()  # long names of classes leave the panels their room
    assert course.get_position().width > 0.6
    plots.save(figure, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 10_000


@pytest.mark.parametrize("polarities", [1, 2])
def test_a_picture_of_a_sensor_of_one_row(tmp_path: Path, cli: Command, polarities: int) -> None:
    """As of spoken words: channels over time, and how many events they have; where the neurons of a conv1d fire."""
    from snn2chip.report import recording as plots

    made = network(data="shd", dt_us=30_000, downsample=5, polarities=polarities)
    chain, sensor = export(made, chip.load("loihi2")).chain, WORD_SENSOR
    raw = random_events(900, sensor)
    raw = raw if polarities == 2 else replace(raw, p=np.ones(900, np.int64))
    events = events_of(raw, sensor)
    drawing, run = plots.Drawing(chain, 4), recorded.RecordingStream(chain, 4)
    list(run.run(drawing.first.watch([events]), 1, drawing))
    figure = plots.recording_figure(drawing, "test")
    figure.draw_without_rendering()
    raster, counted = figure.axes[:2]
    assert raster.get_ylabel() == "channel" and raster.get_ylim() == counted.get_ylim() == (-0.5, 699.5)
    drawn = {(round(x), round(y)) for dots in raster.collections for x, y in dots.get_offsets().tolist()}
    time = np.round((events.t - events.t[0]) / 1000)
    assert drawn == set(zip(time.tolist(), events.x.tolist(), strict=True))
    assert (raster.get_legend() is None) == (polarities == 1), "ON and OFF are said where there are both"
    lately = events.x[events.t >= events.t[0] + 8 * 30_000]
    assert counted.get_title() == "last 2 steps, 7 channels a bar" and drawing.steps == 10
    bars = counted.patches[-1].get_data()  # those of OFF, on those of ON
    assert bars.values.tolist() == np.histogram(lately, np.arange(0, 707, 7))[0].tolist() and len(lately)
    (fire,) = (axes.patches[0].get_data() for axes in figure.axes if axes.get_title(loc="left") == "%")
    neurons = float(np.mean(fire.values))
    assert len(fire.values) == chain.layers[0].shape[2] and neurons > 0
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert any(f"{neurons:.2f} % fire in a step" in title for title in titles)
    plots.save(figure, tmp_path / "a.png")
    netx.save(tmp_path / "a.net", chain)
    write_npz(tmp_path / "a.npz", raw, sensor)
    cli("stream", tmp_path / "a.net", tmp_path / "a.npz", "--plot", tmp_path / "b.svg").ok()
