"""Every command ends in a line and an exit code of its own: memory that runs out, text from outside, odd archives."""

from __future__ import annotations

import errno
import io
import os
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from conftest import ROOT, Child, Command, child_environment
from event_files import random_events
from fuzz_seeds import inputs, recording_npz, small_chain
from matplotlib.figure import Figure
from rich.table import Table

from snn2chip import boundary, console, errors, npz
from snn2chip.data.recordings import read_recording
from snn2chip.errors import DataError, InputError, NotEnoughMemoryError, RecipeError, out_of_memory, reading
from snn2chip.formats import netx
from snn2chip.nn import model_file
from snn2chip.report import curves, recording
from snn2chip.simulate import trace
from snn2chip.text import draw, in_plot, one_line, printable

ODD = "\x1b[31m\u202ea\u2028b\ud800\x00[red]$x_$<b>:smile:"


class OutOfMemoryError(RuntimeError):
    """Named as torch's."""


class EncodeError(Exception):
    """Named as protobuf's."""


class PanicError(BaseException):
    """As Rust's PanicException: no Exception."""


MEMORY: list[BaseException] = [
    *(MemoryError(), OutOfMemoryError("CUDA"), EncodeError("Failed to serialize proto"), OSError(errno.ENOMEM, "x")),
    RuntimeError("[enforce fail at alloc_cpu.cpp:119] . DefaultCPUAllocator: can't allocate memory: you tried to"),
    RuntimeError("could not create a primitive"),
    RuntimeError("std::bad_alloc"),
    RuntimeError("can't start new thread"),
    BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"),
    OSError("Unable to synchronously open object (memory allocation failed for dataspace)"),
    ImportError("libtorch_cpu.so: failed to map segment from shared object"),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB"),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
]  # fmt: skip


# ------------------------------------------------------------------------------------------------- the boundary


@pytest.mark.parametrize("error", MEMORY, ids=lambda error: f"{type(error).__name__}-{str(error)[:20]}")
def test_memory_that_ran_out_is_known(error: BaseException, capsys: pytest.CaptureFixture[str]) -> None:
    assert out_of_memory(error)
    assert boundary.report(error) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: not enough memory") and said.count("\n") == 1
    with pytest.raises(NotEnoughMemoryError, match=r"^'a\.net': not enough memory to read it"), reading("a.net", "x"):
        raise error


@pytest.mark.parametrize(
    "error", [RuntimeError("shape mismatch"), KeyError("memory"), OSError(errno.ENOENT, "no such file"), ValueError()]
)
def test_other_errors_are_not_of_memory(error: Exception) -> None:
    assert not out_of_memory(error)
    with pytest.raises(DataError, match=r"'a\.net'") as caught, reading("a.net", "no net", error=DataError):
        raise error
    assert not isinstance(caught.value, MemoryError)


def test_numpy_and_torch_say_it_so() -> None:
    """The libraries' own errors, whatever their words are in the versions installed."""
    with pytest.raises(MemoryError) as of_numpy:
        np.empty(2**58)
    with pytest.raises(RuntimeError) as of_torch:
        torch.empty(2**58)
    assert out_of_memory(of_numpy.value) and out_of_memory(of_torch.value)


def wrapped(within: BaseException) -> RuntimeError:
    """An error of a library's own, raised because of `within`."""
    try:
        raise RuntimeError("Error calling __set_name__ on 'Field' instance") from within
    except RuntimeError as error:
        return error


def test_a_ctrl_c_that_a_library_wraps_is_one() -> None:
    """Python up to 3.11 raises RuntimeError for whatever comes while a class is made; torch makes some as it trains."""
    with pytest.raises(KeyboardInterrupt), reading("a.net", "no net"):
        raise wrapped(KeyboardInterrupt())
    with pytest.raises(InputError, match="damaged"), reading("a.net", "no net"):
        raise wrapped(ValueError("no interrupt"))


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (KeyboardInterrupt(), 130, ["interrupted"]),
        (wrapped(KeyboardInterrupt()), 130, ["interrupted"]),
        (InputError(f"a\nb {ODD}"), 2, ["error: a b ?[31m?a b??[red]$x_$<b>:smile:"]),
        (RecipeError("first\nsecond"), 2, ["error: first", "error: second"]),
        (errors.CheckFailed("differs"), 1, ["error: differs"]),
        (RecursionError("maximum recursion depth exceeded"), 2, ["error: something in the input is nested too deeply"]),
        (
            OSError(errno.ENOSPC, "No space left on device", "out\n.txt"),
            2,
            ["error: out .txt: No space left on device"],
        ),
    ],
)
def test_exit_codes(error: BaseException, code: int, said: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert boundary.report(error) == code
    assert capsys.readouterr().err.split("\n") == [*said, ""]


@pytest.mark.parametrize("error", [ZeroDivisionError("by \x1b[31m zero"), PanicError("end byte index 327")])
def test_what_nobody_foresaw_is_logged(
    error: BaseException, cli: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One line with the place of the traceback, exit code 70; from BaseException on."""

    def fails(_path: object) -> None:
        raise error

    monkeypatch.setenv("SNN2CHIP_CACHE", str(tmp_path))
    monkeypatch.setattr(netx, "load", fails)
    line = cli("simulate", "model.net").refused(f"a fault in snn2chip itself: {type(error).__name__}", code=70)
    assert line.isprintable()
    (log,) = (tmp_path / "errors").iterdir()
    assert str(log) in line and log.stat().st_mode & 0o77 == 0
    assert "Traceback" in log.read_text() and "in fails" in log.read_text()


LIMITED = """
import resource, sys
from snn2chip import boundary, cli, __main__
import torch, numpy, scipy.special, h5py, sklearn.datasets, matplotlib.figure
from snn2chip.simulate import run
from snn2chip.formats import netx, onnx; from snn2chip.nn import model_file
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
limit = size + int(sys.argv[1]) * 2**20
boundary._ROOM = 4096
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
sys.argv[1:] = sys.argv[2:]
__main__.main()
"""


def limited(megabytes: int, *arguments: str | Path) -> tuple[int, str]:
    done = Child(LIMITED, megabytes, *arguments).finish(120)
    return done.code, done.err


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory as Linux keeps them")
@pytest.mark.parametrize("megabytes", [0, 6, 24, 96])
def test_commands_under_a_limit_of_memory(megabytes: int, net: Path, tmp_path: Path) -> None:
    """Done, or one line; nothing half-written."""
    given = tmp_path / "input.npz"
    np.savez_compressed(given, input=np.zeros((2000, 3, 2, 6, 5), np.int8))  # 30 MB as int64, and many times that
    trace_file, graph = tmp_path / "trace.npz", tmp_path / "graph.onnx"
    for command in (("simulate", net, "--input", given, "--output", trace_file), ("export", net, "-o", graph)):
        code, said = limited(megabytes, *command)
        assert code in (0, 2), (code, said)
        if code:
            lines = said.splitlines()
            assert len(lines) == 1 and "memory" in lines[0], said
            assert not trace_file.exists() or command[0] != "simulate"
            assert not graph.exists() or command[0] != "export"
    assert not list(tmp_path.glob(".*.part"))
    if megabytes == 0:
        assert code == 2


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory as Linux keeps them")
def test_a_limit_too_small_for_the_libraries(net: Path) -> None:
    """OpenBLAS would end the process, or turn in circles, without a word."""
    command = ["sh", "-c", 'ulimit -v 700000; exec "$0" -m snn2chip simulate "$1"', sys.executable, str(net)]
    done = subprocess.run(command, cwd=ROOT, env=child_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(
        "error: not enough memory (the limit of its memory, ulimit -v, leaves less than 1,024"
    )


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("net") / "small.net"
    netx.save(path, small_chain())
    return path


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("could not create a primitive")])
def test_readers_do_not_blame_the_file(
    error: Exception, cli: Command, net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory that runs out inside a library while it reads a file says nothing of the file."""

    def fails(*_: object, **__: object) -> None:
        raise error

    given = tmp_path / "a.npz"
    given.write_bytes(inputs()["int"])
    state = tmp_path / "a.pt"
    torch.save({"format": 1}, state)
    with monkeypatch.context() as patch:
        patch.setattr(h5py, "File", fails)
        for command in (
            ("simulate", net),
            ("show", net),
            ("export", net),
            ("chip", net, "--input", tmp_path / "a.npz"),
        ):
            cli(*command).refused("not enough memory")
    with monkeypatch.context() as patch:
        patch.setattr(torch, "load", fails)
        with pytest.raises(NotEnoughMemoryError):
            model_file.load(state)
    monkeypatch.setattr(np, "load", fails)
    with pytest.raises(NotEnoughMemoryError):
        trace.load_input(given, small_chain())


def test_the_programs_of_the_far_side_say_it_in_one_line(tmp_path: Path) -> None:
    """failures.py needs no simulator: memory, and what nobody foresaw, also while a program is being imported."""
    for error, code, said in (
        ("MemoryError()", 2, "error: not enough memory (MemoryError); run fewer samples at a time\n"),
        ("RuntimeError('std::bad_alloc')", 2, "error: not enough memory (RuntimeError: std::bad_alloc); run fewer "),
        ("ZeroDivisionError('a\\x1b\\nb')", 3, "error: ZeroDivisionError: a?\n"),
        ("SimulatorError('netx')", 3, "error: netx\n"),
    ):
        for program in (f"def run(): raise {error}\nleave(run)", f"raise {error}"):
            done = subprocess.run(
                [sys.executable, "-c", f"from failures import *\n{program}"],
                env=child_environment(PYTHONPATH=str(ROOT / "deploy" / "common")),
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == code and done.stderr.startswith(said) and done.stderr.count("\n") == 1


def test_a_full_disk_behind_stdout(tmp_path: Path) -> None:
    """Python's own complaint at its end would be two lines and exit code 120."""
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "snn2chip", "recipe"]
        done = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "error: system: No space left on device\n")


# ------------------------------------------------------------------------------------------------- text from outside


def test_text_is_harmless_for_each_place() -> None:
    assert printable(ODD) == "?[31m?a b??[red]$x_$<b>:smile:"
    assert one_line(f"  {ODD}\n\tc") == "?[31m?a b??[red]$x_$<b>:smile: c"
    assert one_line("x" * 100) == f"{'x' * 77}..." and one_line(np.float64(2.5)) == "2.5"
    assert in_plot("a $x$ \n") == r"a \$x\$"


def test_consoles_print_no_markup_and_no_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(title=f"[bold]{ODD}")
    table.add_column("[/]")
    table.add_row(ODD)
    terminal = console.console_of()
    terminal.print(f"[/red] {ODD}")
    terminal.print(table)
    said = capsys.readouterr().out
    assert said.splitlines()[0] == "[/red] ?[31m?a b??[red]$x_$<b>:smile:"
    assert "[bold]?[31m" in said and said.count("[red]$x_$<b>:smile:") == 3 and "[/]" in said
    assert all(line.isprintable() for line in said.splitlines())


@pytest.mark.parametrize("name", ["$x_$", "$\\frac{$", ODD, "数字", "$" * 3, "x" * 5000])
def test_pictures_take_any_name(name: str, tmp_path: Path) -> None:
    """Formulas and letters that matplotlib's font lacks are neither errors nor warnings."""
    rows = [
        dict.fromkeys(("timesteps", "accuracy", "spikes", "accumulates", "multiply_accumulates"), 1.0)
        | {"ann_multiply_accumulates": 1.0}
    ]
    curves.plot_timesteps(rows, tmp_path / "steps.png", name)
    figure = Figure()
    axes = figure.subplots()
    axes.set_title(recording._short(name))
    draw(figure, io.BytesIO(), format="png")
    assert "$" not in axes.get_title().replace(r"\$", "")


def test_a_name_in_every_message(cli: Command, tmp_path: Path) -> None:
    """File names and names in files, on stderr: one line, printable."""
    odd = tmp_path / "a\x1b[31m\nb.net"
    assert cli("simulate", odd).refused("a?[31m b.net").isprintable()
    with h5py.File(tmp_path / "x.net", "w") as file:
        file["layer/0/type"] = np.array([b"in\x1b[31mput\nx"], "S20")
        file["layer/0/shape"] = np.array([2])
    assert cli("simulate", tmp_path / "x.net").refused().isprintable()
    said = cli("show", tmp_path / "x.net").ok()
    assert all(line.isprintable() for line in said.splitlines()) and "in?[31mput x" in said


# ------------------------------------------------------------------------------------------------- archives


def _zip(path: Path, entries: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def _array(array: object) -> bytes:
    memory = io.BytesIO()
    np.save(memory, np.asarray(array), allow_pickle=True)
    return memory.getvalue()


def _patched(data: bytes, offset: int, value: int) -> bytes:
    """A field of the archive's directory, changed."""
    changed = bytearray(data)
    changed[data.rindex(b"PK\x01\x02") + offset] = value
    return bytes(changed)


GOOD = np.zeros((1, 3, 2, 6, 5), np.int64)
CLAIM = "{'descr': '<i8', 'fortran_order': False, 'shape': (10**15,), }".replace("10**15", str(10**15))
ARCHIVES: dict[str, tuple[Callable[[Path], object], str]] = {
    "text": (lambda path: _zip(path, {"input": b"hello"}), "'input' in it is no array"),
    "version": (
        lambda path: path.write_bytes(_patched(inputs()["int"], 6, 109)),
        r"damaged or not an \.npz: zip file version 10\.9",
    ),
    "encrypted": (lambda path: path.write_bytes(_patched(inputs()["int"], 8, 1)), "encrypted"),
    "compression": (lambda path: path.write_bytes(_patched(inputs()["int"], 10, 77)), "compression method"),
    "objects": (lambda path: _zip(path, {"input.npy": _array(np.array([None]))}), "holds objects"),
    "claims": (
        lambda path: _zip(path, {"input.npy": b"\x93NUMPY\x01\x00\x76\x00" + CLAIM.ljust(117).encode() + b"\n"}),
        "claims .* values of int64, 128 bytes are there",
    ),
    "escape": (  # Python warns of such a text
        lambda path: _zip(path, {"input.npy": _array(GOOD).replace(b"'descr'", b"'\\Desc'")}),
        "does not contain the correct keys",
    ),
    "short": (lambda path: _zip(path, {"input.npy": _array(GOOD)[:-8]}), "claims"),
    "nested": (lambda path: _zip(path, {"input.npy": b"\x93NUMPY\x01\x00\x10\x27" + b"(" * 10_000}), "damaged"),
    "folder": (lambda path: path.mkdir(), "cannot read .*Is a directory"),
    "absent": (lambda path: None, "cannot read .*No such file"),
    "floats": (lambda path: _zip(path, {"input.npy": _array(GOOD * 0.5)}), "float64; expected integers"),
    "shape": (lambda path: _zip(path, {"input.npy": _array(GOOD[..., 0])}), "has shape"),
}


@pytest.mark.parametrize("case", ARCHIVES)
def test_odd_archives(case: str, cli: Command, net: Path, tmp_path: Path) -> None:
    """As an input and as a recording: one line, exit code 2."""
    make, message = ARCHIVES[case]
    path = tmp_path / "a.npz"
    make(path)
    with pytest.raises(InputError, match=message):
        trace.load_input(path, small_chain())
    cli("simulate", net, "--input", path).refused("a.npz")
    cli("chip", net, "--input", path).refused("a.npz")
    cli("lava", "run", net, "--input", path, "--output", tmp_path / "out.npz").refused("a.npz")
    with pytest.raises(DataError, match=r"a\.npz"):
        read_recording(path, (34, 34))


def test_one_reader_of_arrays(tmp_path: Path) -> None:
    """What is there comes as it is; what is not asked for is not read."""
    path = tmp_path / "a.npz"
    path.write_bytes(recording_npz()["sensor"])
    assert npz.heads(path) == {
        **{name: ((300,), np.dtype(kind)) for name, kind in (("x", "i2"), ("y", "i2"), ("p", "?"), ("t", "i8"))},
        "sensor": ((2,), np.dtype("i8")),
    }
    assert list(npz.load(path, ["sensor", "other"])) == ["sensor"]
    raw = random_events(300, (34, 34), seed=7)
    assert (npz.load(path)["t"] == raw.t).all() and len(read_recording(path)) == 300


@pytest.mark.parametrize("sensor", ["text", [1.5, 2.0], [34], 34, [[34, 34]], [34, 34, 1]])
def test_a_sensor_that_is_none(sensor: object, tmp_path: Path) -> None:
    arrays = {name: np.arange(3) for name in "xypt"}
    np.savez(tmp_path / "a.npz", **arrays, sensor=np.array(sensor))
    with pytest.raises(DataError, match="'sensor' is"):
        read_recording(tmp_path / "a.npz")


@pytest.mark.parametrize("time", [2**63, 2**62 + 1, -(2**62) - 1])
def test_times_that_are_none(time: int, tmp_path: Path) -> None:
    """64 bits, with or without a sign: their differences would wrap around without a word."""
    times = np.array([0, time], np.uint64 if time > 0 else np.int64)
    np.savez(tmp_path / "a.npz", x=[0, 1], y=[0, 1], p=[0, 1], t=times, sensor=[34, 34])
    with pytest.raises(DataError, match=f"a time of {time} us is none"):
        read_recording(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spikes/1": np.full((2, 3, 4, 3, 8), 256)}, "holds 256..256"),
        ({"voltage/4": np.full((2, 3, 3), 2**31)}, "holds 2147483648"),
        ({"voltage/4": np.zeros((2, 2, 3), int)}, "as many in every array"),
        ({"spikes/3": np.zeros((2, 3, 5))}, "float64"),
    ],
)
def test_traces_that_would_be_changed(change: dict[str, np.ndarray], message: str, tmp_path: Path) -> None:
    """Spikes of 256 are not 0."""
    from fuzz_seeds import traces

    path = tmp_path / "a.npz"
    path.write_bytes(traces()["trace"])
    trace.load(path, small_chain())
    np.savez(path, **{**npz.load(path), **change})
    with pytest.raises(InputError, match=message):
        trace.load(path, small_chain())


# ------------------------------------------------------------------------------------------------- AEDAT 4


@pytest.fixture
def aedat4(tmp_path: Path) -> Path:
    pytest.importorskip("faery", reason="the optional extra 'events' is not installed")
    from fuzz_seeds import aedat4 as seeds

    path = tmp_path / "a.aedat4"
    path.write_bytes(seeds()["faery"])
    return path


def test_a_panic_in_rust(aedat4: Path, cli: Command, net: Path) -> None:
    """Letters that are none in the header's XML: PanicException, which is no Exception."""
    assert len(read_recording(aedat4)) == 300
    content = bytearray(aedat4.read_bytes())
    place = content.index(b"<node") + 1
    content[place : place + 4] = b"\xf7\x80\x80\x80"
    aedat4.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.aedat4' is truncated or damaged"):
        read_recording(aedat4)
    assert cli("stream", net, aedat4, "--sample").code == 2


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory as Linux keeps them")
def test_gigabytes_that_are_not_there(aedat4: Path) -> None:
    """A packet that claims 2 GiB: Rust ends its process where they are not to be had, and this one goes on."""
    content = bytearray(aedat4.read_bytes())
    header = 14 + 4 + struct.unpack_from("<I", content, 14)[0]
    struct.pack_into("<I", content, header + 4, 2**31 - 1)
    aedat4.write_bytes(content)
    code = (
        "import resource, sys\nfrom snn2chip.data.recordings import read_recording\n"
        "from snn2chip.errors import DataError\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2 * 10**9, 2 * 10**9))\nfor _ in range(2):\n"
        "    try: read_recording(sys.argv[1])\n    except DataError as error: print(error)\n"
    )
    done = Child(code, aedat4).finish()
    assert done.ok().count("is truncated or damaged") == 2 and done.err == ""


def test_one_process_reads_many_and_is_replaced(aedat4: Path) -> None:
    from snn2chip.data.recordings import library

    read_recording(aedat4)
    first = library._PROCESS._running
    assert first is not None
    read_recording(aedat4)
    assert library._PROCESS._running is first
    first.kill()
    with pytest.raises(DataError, match=r"reading it ended with SIGKILL"):
        read_recording(aedat4)
    assert len(read_recording(aedat4)) == 300


def test_times_beyond_64_bits_in_31(tmp_path: Path) -> None:
    """AEDAT 3.1 counts how often its 31 bits of time ran over in 32 bits: more than 64 hold."""
    packet = struct.pack("<HHIIIIII", 1, 1, 8, 4, 2**32 - 1, 1, 1, 1) + struct.pack("<II", 1, 2**32 - 1)
    path = tmp_path / "a.aedat"
    path.write_bytes(b"#!AER-DAT3.1\r\n#!END-HEADER\r\n" + packet)
    with pytest.raises(DataError, match="is none; the file is damaged"):
        read_recording(path)


SWALLOWED = """
import signal, sys, time
from snn2chip import __main__, cli

class Held:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)  # as Ctrl-C that comes within a destructor

def work():
    held = Held()
    del held
    time.sleep(30)

cli.main = work
__main__.main()
"""


def test_ctrl_c_within_a_destructor_is_heard() -> None:
    """Python drops an exception there, with a traceback on stderr; the command still ends, in one line."""
    done = Child(SWALLOWED).finish(25)
    assert (done.code, done.err) == (130, "interrupted\n")


LATE = """
import os, subprocess, time
from snn2chip import __main__, cli

class Slow:  # as libraries that are taken down after Python has given up its signal handlers
    def __del__(self, sleep=time.sleep):
        sleep(1.0)

slow = Slow()

def done():
    subprocess.Popen(["sh", "-c", f"sleep 0.5; kill -INT {os.getpid()}"])
    raise HOW

cli.main = done
__main__.main()
"""


@pytest.mark.parametrize(
    ("how", "code", "said"), [("KeyboardInterrupt", 130, "interrupted\n"), ("SystemExit(0)", 0, "")]
)
def test_a_ctrl_c_while_the_program_leaves_changes_nothing(how: str, code: int, said: str) -> None:
    """A second one, after the first was reported, or one when all is done: the exit code stays, nothing is said."""
    command = [sys.executable, "-c", LATE.replace("HOW", how)]
    done = subprocess.run(command, env=child_environment(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (code, said)


EVALUATED = """
from snn2chip import __main__, cli

def interrupted():
    exec("raise KeyboardInterrupt")  # as dataclasses and namedtuple make classes

cli.main = interrupted
__main__.main()
"""
JUST_BEFORE = """
import signal
from snn2chip import __main__, cli

def interrupted(*_):
    signal.signal = usual
    raise KeyboardInterrupt

usual, signal.signal = signal.signal, interrupted
cli.main = lambda: None
__main__.main()
"""


@pytest.mark.parametrize(("program", "said"), [(EVALUATED, "interrupted\n"), (JUST_BEFORE, "")])
def test_a_ctrl_c_at_odd_moments_ends_with_its_exit_code(program: str, said: str, tmp_path: Path) -> None:
    """Within text that is evaluated, which Python remembers and then ends by the signal; when all was done."""
    (tmp_path / "odd.py").write_text(program, encoding="utf-8")
    environment = child_environment(PYTHONPATH=os.pathsep.join([str(tmp_path), str(ROOT)]))
    done = subprocess.run([sys.executable, "-m", "odd"], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, said)
