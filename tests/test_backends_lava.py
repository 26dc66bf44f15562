"""Lava's environment, the runner in it, and that what Lava computes is the arithmetic written down here."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import Command

from snn2chip import ir
from snn2chip.backends import akida, interpreters, lava
from snn2chip.backends import environment as environments
from snn2chip.errors import InputError, SetupError
from snn2chip.formats import netx
from snn2chip.places import CACHE_VARIABLE, deploy_file
from snn2chip.report import doctor
from snn2chip.simulate import reference

T = 4


SHAPE = (2, 5, 7)


def small_network(seed: int, bias: str = "neuron", binary: bool = False) -> ir.Chain:
    """Two convs, a spiking dense layer and a readout, on inputs of SHAPE with 8 bits, or binary ones."""
    rng = np.random.default_rng(seed)
    first, second = (3, 3, 4), (4, 3, 4)
    vth = 60 if binary else 4000
    drive = rng.integers(-4096, 4096, {"neuron": first, "channel": (3, 1, 1), "none": (1,)}[bias]) * (bias != "none")
    layers = (
        ir.ChainLayer(
            *("1", "conv", rng.integers(-100, 101, (3, 2, 3, 3)), np.broadcast_to(drive // (4000 // vth), first)),
            *(first, vth, 3072, 4096, (2, 2), (1, 1)),
        ),
        ir.ChainLayer(
            *("2", "conv", rng.integers(-127, 128, (4, 3, 3, 3))),
            np.broadcast_to(rng.integers(-30, 60, (4, 1, 1)), second),
            *(second, 120, 1000, 3000, (1, 1), (1, 1)),
        ),
        ir.ChainLayer(
            *("4", "dense", rng.integers(-64, 64, (9, 48)) * 2, rng.integers(-9, 99, 9), (9,), 200, 2048), flatten=True
        ),
        ir.ChainLayer("5", "dense", rng.integers(-127, 128, (5, 9)), rng.integers(-500, 500, 5), (5,), 131071, 0),
    )
    port = ("poisson", 1, 0, 1, (0, 0)) if binary else ("direct", 255, 0, 255, (128, 128))
    return ir.Chain(SHAPE, SHAPE, *port, T, "membrane", tuple("abcde"), layers)


def evaluate(chain: ir.Chain, data: np.ndarray) -> dict[str, np.ndarray]:
    """Every layer's spikes, voltage and current (samples, T, ...): no delays, each sample from rest."""
    traces: dict[str, np.ndarray] = {}
    x = data.astype(np.int64)
    for layer in chain.layers:
        u = v = np.zeros((len(x), *layer.shape), np.int64)
        steps = []
        for t in range(x.shape[1]):
            u, v, spikes = reference.neuron_step(layer, t, u, v, reference.weighted_sums(layer, x[:, t]), layer.bias)
            steps.append((u, v, spikes))
        for name, values in zip(("current", "voltage", "spikes"), zip(*steps, strict=True), strict=True):
            traces[f"{name}/{layer.name}"] = np.stack(values, 1)
        x = traces[f"spikes/{layer.name}"].astype(np.int64)
    return traces


def graded_input(samples: int, shape: tuple[int, ...] = SHAPE, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-128, 128, (samples, T, *shape))


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """A network file for inputs of (2, 5, 7) with 8 bits and T steps."""
    netx.save(tmp_path / "small.net", small_network(0))
    return tmp_path / "small.net"


def save(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def load(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as archive:
        return dict(archive)


# ----------------------------------------------------------------------------------------- what Lava computes


@pytest.mark.lava
@pytest.mark.parametrize("bias", ["neuron", "channel", "none"])
@pytest.mark.parametrize("bits", [8, 0])
def test_lava_equals_the_arithmetic(lava_environment: lava.Environment, tmp_path: Path, bias: str, bits: int) -> None:
    """Every u, v and spike of four samples back to back: graded or binary, strides, odd shapes, decays."""
    chain = small_network(1, bias, binary=not bits)
    data = graded_input(4) if bits else (graded_input(4) > 0).astype(np.uint8)
    netx.save(tmp_path / "a.net", chain)
    lava.run(tmp_path / "a.net", save(tmp_path / "i.npz", input=data), tmp_path / "o.npz", progress=False)
    got, expected = load(tmp_path / "o.npz"), evaluate(chain, data)
    assert got.keys() == expected.keys()
    for name, values in expected.items():
        assert got[name].dtype == (np.uint8 if name.startswith("spikes") else np.int32)
        np.testing.assert_array_equal(got[name], values, err_msg=name)
        if name.startswith("spikes") and name != "spikes/5":  # a test of silent layers would prove little
            assert 0.02 < values.mean() < 0.98


@pytest.mark.lava
def test_one_step_and_flat_input(lava_environment: lava.Environment, tmp_path: Path) -> None:
    """T = 1 resets at every step; a network without conv takes (samples, T, features)."""
    rng = np.random.default_rng(3)
    layers = (
        ir.ChainLayer("1", "dense", rng.integers(-100, 100, (6, 10)), rng.integers(-50, 50, 6), (6,), 300, 3072),
        ir.ChainLayer("2", "dense", rng.integers(-100, 100, (3, 6)), rng.integers(-50, 50, 3), (3,), 131071, 0),
    )
    chain = ir.Chain((10,), (10,), "direct", 255, 0, 255, (128,) * 10, 1, "membrane", tuple("abc"), layers)
    netx.save(tmp_path / "a.net", chain)
    data = graded_input(5, (10,))[:, :1]
    lava.run(tmp_path / "a.net", save(tmp_path / "i.npz", input=data), tmp_path / "o.npz", progress=False)
    got = load(tmp_path / "o.npz")
    for name, values in evaluate(chain, data).items():
        np.testing.assert_array_equal(got[name], values)


@pytest.mark.lava
def test_records_are_what_lavas_monitors_see(lava_environment: lava.Environment, network: Path, tmp_path: Path) -> None:
    """The runner's own recording against Lava's Monitor processes on unchanged neurons."""
    given = save(tmp_path / "i.npz", input=graded_input(2))
    lava.run(network, given, tmp_path / "o.npz", progress=False)
    runner = deploy_file("lava", "run_network.py")
    command = [lava_environment.python, "-B", runner, network, given, tmp_path / "m.npz", "--monitors"]
    subprocess.run(command, check=True, timeout=120)
    recorded, monitored = load(tmp_path / "o.npz"), load(tmp_path / "m.npz")
    assert recorded.keys() == monitored.keys()
    for name, values in recorded.items():
        np.testing.assert_array_equal(values, monitored[name], err_msg=name)


@pytest.mark.lava
@pytest.mark.parametrize("seed", range(4))
def test_fast_convolution_equals_lavas(lava_environment: lava.Environment, tmp_path: Path, seed: int) -> None:
    """Matrix products instead of Lava's loop: the same spikes, voltages and currents, any stride, groups, dilation."""
    rng = np.random.default_rng(seed)
    groups, stride, dilation = 1 + seed % 2, (1 + seed // 2, 2), (1, 1 + seed % 2)
    weights = rng.integers(-127, 128, (4, 2 // groups, 3, 2)), rng.integers(-127, 128, (3, 4, 2, 3))
    sides = [tuple(ir.out_size(n, *k) for n, *k in ((9, 3, stride[0], 1, 1), (10, 2, 2, 2, dilation[1])))]
    sides.append(tuple(ir.out_size(n, k, 1, 0, 1) for n, k in zip(sides[0], (2, 3), strict=True)))
    layers = (
        ir.ChainLayer(
            "1",
            "conv",
            weights[0],
            np.zeros((4, *sides[0]), dtype=np.int64),
            (4, *sides[0]),
            900,
            2048,
            stride=stride,
            padding=(1, 2),
            dilation=dilation,
            groups=groups,
        ),
        ir.ChainLayer("2", "conv", weights[1], np.full((3, *sides[1]), 20), (3, *sides[1]), 150, 1024),
    )
    shape = (2, 9, 10)
    chain = ir.Chain(shape, shape, "direct", 100, 0, 100, (50, 40), T, "spike_count", ("a", "b", "c"), layers)
    netx.save(tmp_path / "net.net", chain)
    data = save(tmp_path / "input.npz", input=chain.port(rng.integers(0, 101, (2, T, *shape))))
    for name, fast in (("slow.npz", False), ("fast.npz", True)):
        lava.run(tmp_path / "net.net", data, tmp_path / name, progress=False, fast_convolution=fast)
    slow, fast_ = load(tmp_path / "slow.npz"), load(tmp_path / "fast.npz")
    assert slow.keys() == fast_.keys() and slow["spikes/2"].any() and not slow["spikes/2"].all()
    for name, values in slow.items():
        np.testing.assert_array_equal(fast_[name], values, err_msg=name)


@pytest.mark.lava
@pytest.mark.slow
@pytest.mark.skipif(os.environ.get("SNN2CHIP_TEST_FULL") != "1", reason="set SNN2CHIP_TEST_FULL=1: several GB")
def test_full_equals_light(lava_environment: lava.Environment, network: Path, tmp_path: Path) -> None:
    """What stands in for torch changes nothing: both environments give the same arrays."""
    full = lava.setup(full=True, progress=False)
    assert full.full and "torch" in full.versions and "torch" not in lava_environment.versions
    given = save(tmp_path / "i.npz", input=graded_input(3))
    lava.run(network, given, tmp_path / "light.npz", progress=False)
    lava.run(network, given, tmp_path / "full.npz", full=True, progress=False)
    light, reference = load(tmp_path / "light.npz"), load(tmp_path / "full.npz")
    assert light.keys() == reference.keys()
    for name, values in light.items():
        np.testing.assert_array_equal(values, reference[name], err_msg=name)


# ------------------------------------------------------------------------------------------- what goes wrong


@pytest.mark.lava
def test_bad_files(lava_environment: lava.Environment, network: Path, tmp_path: Path) -> None:
    """Each is one line that names the file, and leaves no output."""
    good = save(tmp_path / "i.npz", input=graded_input(2))
    text = tmp_path / "text.net"
    text.write_text("not HDF5")
    empty = tmp_path / "empty.net"
    h5py.File(empty, "w").close()
    damaged = tmp_path / "damaged.npz"
    damaged.write_bytes(b"PK\x03\x04 and no more")
    binary, pooled, clipped = (tmp_path / f"{name}.net" for name in ("binary", "pooled", "clipped"))
    for path in (binary, pooled, clipped):
        netx.save(path, small_network(0, "none", binary=True))
    with h5py.File(pooled, "r+") as file:
        file["layer/2/type"][()] = b"pool"
    with h5py.File(clipped, "r+") as file:
        file["layer/5/weight"][0, 0] = 300
    cases = [
        (tmp_path / "none.net", good, "none.net': no such file"),
        (text, good, "text.net' is not an HDF5 file"),
        (empty, good, "no group 'layer'"),
        (
            pooled,
            save(tmp_path / "b1.npz", input=graded_input(1) > 0),
            "layer 2 is 'pool', which netx cannot",
        ),
        (clipped, save(tmp_path / "b2.npz", input=graded_input(1) > 0), "max weight too large: 300"),
        (binary, good, "input goes from -128 to 127, but with input_message_bits 0"),
        (network, tmp_path / "none.npz", "none.npz': No such file"),
        (network, damaged, "damaged.npz' is damaged or not an .npz"),
        (network, save(tmp_path / "k.npz", other=graded_input(2)), "no array 'input'; it has other"),
        (network, save(tmp_path / "f.npz", input=graded_input(2) / 2), "input is float64, not integers"),
        (network, save(tmp_path / "e.npz", input=graded_input(0)), "not empty"),
        (
            network,
            save(tmp_path / "s.npz", input=graded_input(2).swapaxes(3, 4)),
            r"input is \(2, 7, 5\) a step, the network takes \(2, 5, 7\)",
        ),
        (
            network,
            save(tmp_path / "t.npz", input=np.repeat(graded_input(2), 2, axis=1)),
            "8 time steps a sample, but '.*' is made for 4; give at most 4",
        ),
    ]
    for net, given, message in cases:
        with pytest.raises(InputError, match=message) as caught:
            lava.run(net, given, tmp_path / "o.npz", progress=False)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "o.npz").exists()


@pytest.mark.lava
def test_fewer_steps_are_noted(
    lava_environment: lava.Environment,
    network: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = save(tmp_path / "i.npz", input=graded_input(2)[:, :3])
    lava.run(network, given, tmp_path / "o.npz")
    assert "note: 3 time steps a sample" in capsys.readouterr().err
    assert load(tmp_path / "o.npz")["voltage/5"].shape == (2, 3, 5)


@pytest.mark.lava
@pytest.mark.parametrize("what", ["running", "building"])
def test_failure_inside_lava_is_passed_on(
    lava_environment: lava.Environment,
    network: Path,
    tmp_path: Path,
    what: str,
) -> None:
    """Lava only logs what its processes raise, and can wait for ever for one that is gone."""
    with h5py.File(network, "r+") as file:
        name, slices, message = {
            "running": (
                "layer/1/weight",
                np.s_[:, :1],
                r"Lava process Conv of layer 1 \(conv\) failed.*IndexError",
            ),
            "building": (
                "layer/5/bias",
                np.s_[:3],
                r"Lava process LIFReset of layer 5 \(dense\) failed.*broadcast",
            ),
        }[what]
        values = file[name][()]
        del file[name]
        file[name] = values[slices]
    given = save(tmp_path / "i.npz", input=graded_input(2))
    with pytest.raises(InputError, match=message):
        lava.run(network, given, tmp_path / "o.npz", progress=False, timeout=60)
    assert processes_of(tmp_path) == []


def processes_with(*words: object) -> list[int]:
    """Ids of the processes that have all the words in their command line."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes()
        except OSError:  # it has just ended
            continue
        if all(str(word).encode() in command for word in words):
            found.append(int(entry.name))
    return sorted(found)


def processes_of(folder: Path) -> list[int]:
    """A runner that works on files in `folder`, and what it forked."""
    return processes_with("run_network.py", folder)


def wait_until(condition: object, seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():  # type: ignore[operator]
            return True
        time.sleep(0.05)
    return False


@pytest.fixture
def long_run(lava_environment: lava.Environment, network: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that calls lava.run on minutes of work, once Lava's own processes are there."""
    given = save(tmp_path / "i.npz", input=graded_input(20_000).astype(np.int8))
    code = (
        f"from snn2chip.backends import lava; lava.run({str(network)!r}, {str(given)!r}, {str(tmp_path / 'o.npz')!r})"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[1], stderr=subprocess.PIPE, text=True
    )
    with process:
        assert wait_until(lambda: len(processes_of(tmp_path)) > 8)
        time.sleep(0.5)
        yield process
        process.kill()
    assert wait_until(lambda: not processes_of(tmp_path)), "processes are left over"
    assert [path.name for path in tmp_path.iterdir() if "o.npz" in path.name] == []


linux_only = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.mark.lava
@linux_only
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_interrupt_leaves_nothing_behind(long_run: subprocess.Popen[str], number: signal.Signals) -> None:
    """Ctrl-C, and even the sudden end of this side, ends the runner and Lava's processes."""
    long_run.send_signal(number)
    assert long_run.wait(20) == -number
    assert long_run.stderr is not None
    assert ("KeyboardInterrupt" in long_run.stderr.read()) == (number == signal.SIGINT)


@pytest.mark.lava
@linux_only
def test_killed_lava_process_is_noticed(long_run: subprocess.Popen[str], tmp_path: Path) -> None:
    """As the system does when memory runs out."""
    os.kill(processes_of(tmp_path)[-1], signal.SIGKILL)
    assert long_run.wait(20) == 1
    assert long_run.stderr is not None
    assert "was killed by SIGKILL" in long_run.stderr.read().splitlines()[-1]


@pytest.mark.lava
@linux_only
def test_time_limit(lava_environment: lava.Environment, network: Path, tmp_path: Path) -> None:
    given = save(tmp_path / "i.npz", input=graded_input(20_000).astype(np.int8))
    with pytest.raises(InputError, match=r"not done after 1\.5 s"):
        lava.run(network, given, tmp_path / "o.npz", progress=False, timeout=1.5)
    assert wait_until(lambda: not processes_of(tmp_path))


# ------------------------------------------------------------------------- finding an interpreter, with fakes

FAKE = """#!/bin/sh
# An interpreter that is none: answers what snn2chip.backends asks, and does what `-m venv` and `-m pip` would.
case "$*" in
  *run_network.py*--check*) echo '{"python": "3.10.99", "lava-nc": "0.10.0", "standins": [], "installed": %(all)s}' ;;
  *"-m venv "*) for last; do :; done
      echo venv >> "%(log)s"; sleep 0.3
      mkdir -p "$last/bin" && cp "$0" "$last/bin/python" ;;
  *"-m pip "*) echo pip >> "%(log)s"; %(pip)s ;;
  *-c*) echo '{"version": "%(version)s", "problem": %(problem)s, "ready": false}' ;;
esac
"""


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def fake_python(path: Path, version: str = "3.10.99", problem: str = "null", pip: str = "exit 0") -> Path:
    log = path.parent / "log"
    lock = deploy_file("lava", "requirements-full.txt").read_text()
    pinned = dict(line.split("==") for line in lock.splitlines() if "==" in line)
    assert len(pinned) > 40
    values = {"log": log, "pip": pip, "version": version, "problem": problem, "all": json.dumps(pinned)}
    return script(path, FAKE % values)


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine whose PATH begins with the folder returned and whose cache and pyenv are empty."""
    for name in ("bin", "cache", "pyenv"):
        (tmp_path / name).mkdir()
    tools = tmp_path / "tools"  # the few commands that the fakes use, and no python or uv
    tools.mkdir()
    for tool in ("sh", "mkdir", "cp", "sleep", "test"):
        (tools / tool).symlink_to(Path("/bin", tool))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{tools}")
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.delenv(lava.LIGHT.variable, raising=False)
    return tmp_path / "bin"


def test_names_on_path_that_do_not_run(bare: Path) -> None:
    """A shim that fails, a file that is no program, a wrong version and one without venv: named, not used."""
    script(bare / "python3.10", "#!/bin/sh\necho 'pyenv: python3.10: command not found' >&2\nexit 127\n")
    with pytest.raises(lava.NoPythonError) as caught:
        lava.setup(full=True, progress=False)
    assert "pyenv: python3.10: command not found" in str(caught.value)
    assert lava.LIGHT.variable in str(caught.value)

    script(bare / "python3.10", "\x7fELF is not what this is")
    assert "does not run" in str(interpreters.candidates(lava.FULL)[0].problem)
    fake_python(bare / "python3.10", version="3.9.1")
    assert interpreters.candidates(lava.FULL)[0].problem == "Python 3.9.1; Lava needs 3.10"
    fake_python(bare / "python3.10", problem='"No module named ensurepip"')
    assert "install its venv package" in str(interpreters.candidates(lava.FULL)[0].problem)


def test_doctor_lists_what_runs(bare: Path) -> None:
    """Of shims only those that lead to an interpreter."""
    script(bare / "python3.10", "#!/bin/sh\nexit 127\n")
    fake_python(bare / "python3.12", version="3.12.99", problem='"no pip"')
    said = [line for line in doctor.examine() if str(bare) in line]
    assert said and all("Python 3.12.99 at" in line and "python3.10" not in line for line in said)


@pytest.mark.parametrize("variable", [lava.LIGHT.variable, akida.KIND.variable])
def test_doctor_goes_on_where_what_is_set_does_not_run(
    bare: Path, variable: str, cli: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is wrong and what to do, of each environment that it is for; then the rest."""
    monkeypatch.setenv(variable, str(bare / "missing"))
    said = cli("doctor").ok().splitlines()
    told = [line for line in said if variable in line]
    assert [line.split()[0] for line in told] == (["lava", "lava"] if variable == lava.LIGHT.variable else ["akida"])
    for line in told:
        assert "missing' does not run: No such file or directory; name a Python 3." in line and "or unset it" in line
    assert sum("not set up; snn2chip" in line for line in said) == 3 - len(told)
    assert said[-1].startswith("data ")


def test_order_of_preference(bare: Path) -> None:
    """PATH before this interpreter before pyenv; the first usable one is taken."""
    script(bare / "python3.10", "#!/bin/sh\nexit 1\n")
    fake_python(bare / "python3.12", version="3.12.99")
    fake_python(bare.parent / "pyenv/versions/3.10.5/bin/python", version="3.10.5")
    found = interpreters.candidates(lava.LIGHT)
    assert [(each.source, each.version) for each in found if each.source in ("PATH", "pyenv")] == [
        ("PATH", None),
        ("PATH", "3.12.99"),
        ("pyenv", "3.10.5"),
    ]
    assert next(each for each in found if each.problem is None).version == "3.12.99"


def test_uv_is_the_last_resort(bare: Path) -> None:
    """uv's interpreter is downloaded only when there is no other, and used when uv has it already."""
    python = bare.parent / "uv-python" / "python3.10"
    asked = bare.parent / "asked"
    script(
        bare / "uv",
        f'#!/bin/sh\necho "$*" >> "{asked}"\n'
        f'[ "$2" = install ] && mkdir -p "{python.parent}" && cp "{bare}/spare" "{python}" && exit 0\n'
        f'[ "$2" = find ] && [ -x "{python}" ] && echo "{python}" && exit 0\nexit 2\n',
    )
    fake_python(bare / "spare")
    assert interpreters.candidates(lava.FULL) == []
    environment = lava.setup(full=True, progress=False)
    assert environment.versions["lava-nc"] == "0.10.0"
    assert "python install 3.10" in asked.read_text()
    assert interpreters.candidates(lava.FULL)[0].source == "uv"


def test_explicit_interpreter(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The setting is obeyed or complained about, never passed over; it has an environment of its own."""
    fake_python(bare / "python3.10")
    ordinary = lava.setup(full=True, progress=False)
    monkeypatch.setenv(lava.LIGHT.variable, str(bare / "missing"))
    for verb in (environments.setup, environments.find):
        with pytest.raises(SetupError, match=f"{lava.LIGHT.variable}: '.*missing' does not run"):
            verb(lava.FULL)
    chosen = fake_python(bare.parent / "chosen" / "python")
    monkeypatch.setenv(lava.LIGHT.variable, str(chosen))
    assert environments.find(lava.FULL) is None
    environment = lava.setup(full=True, progress=False)
    assert environment.folder != ordinary.folder
    assert (chosen.parent / "log").read_text().split() == ["venv", "pip"]

    ready = fake_python(bare.parent / "ready" / "python")
    ready.write_text(ready.read_text().replace('"ready": false', '"ready": true'))
    monkeypatch.setenv(lava.LIGHT.variable, str(ready))
    as_is = lava.setup(full=True, progress=False)
    assert as_is.python == ready and as_is.folder is None and not (ready.parent / "log").exists()


def test_unfinished_and_broken_environments_are_made_anew(bare: Path) -> None:
    """Only the marker makes an environment; it is written last."""
    fake_python(bare / "python3.10")
    environment = lava.setup(full=True, progress=False)
    assert environment.folder is not None
    assert json.loads((environment.folder / "ready.json").read_text())["lava-nc"] == "0.10.0"
    assert environments.find(lava.FULL) == environment
    (environment.folder / "ready.json").unlink()
    (environment.folder / "rest").touch()
    assert environments.find(lava.FULL) is None
    assert lava.setup(full=True, progress=False) == environment
    assert not (environment.folder / "rest").exists()
    environment.python.unlink()
    assert environments.find(lava.FULL) is None


BREAKS = {
    "an import": ("echo '{", "echo 'No module named lava.magma' >&2; exit 1; echo '{"),
    "an answer": ("echo '{", "echo '["),
    "a version": ('"numpy": "1.26.4"', '"numpy": "2.0.0"'),
    "a missing package": ('"numpy": "1.26.4", ', ""),
    "a package that was cut off": ('"scipy": "', '"scipy": "damaged'),
    "an interpreter of another machine": ("#!/bin/sh", "#!/nowhere/sh"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_environment_is_repaired(name: str, bare: Path) -> None:
    """`setup` tries out what is there and makes it anew where it is not what it made; ready.json alone says nothing."""
    fake_python(bare / "python3.10")
    environment = lava.setup(full=True, progress=False)
    assert lava.setup(full=True, progress=False) == environment
    assert (bare / "log").read_text().split() == ["venv", "pip"]
    whole = environment.python.read_text()
    assert BREAKS[name][0] in whole
    environment.python.write_text(whole.replace(*BREAKS[name]))
    (environment.python.parent / "rest").touch()
    assert lava.setup(full=True, progress=False) == environment
    assert environment.python.read_text() == whole
    assert not (environment.python.parent / "rest").exists()
    assert (bare / "log").read_text().split() == ["venv", "pip"] * 2


def test_what_installs_other_versions_is_no_environment(bare: Path) -> None:
    """An index that answers with something else: refused by name, nothing left."""
    text = fake_python(bare / "python3.10").read_text().replace('"numpy": "1.26.4"', '"numpy": "2.0.0"')
    script(bare / "python3.10", text)
    with pytest.raises(SetupError, match=r"numpy is 2\.0\.0, not 1\.26\.4"):
        lava.setup(full=True, progress=False)
    assert not [path for path in (bare.parent / "cache/lava").iterdir() if path.is_dir()]


def test_a_place_that_others_can_write_is_not_used(bare: Path) -> None:
    """What is there would be run: neither found nor built there; what others could change is made anew."""
    fake_python(bare / "python3.10")
    environment = lava.setup(full=True, progress=False)
    assert environment.folder is not None
    environment.folder.chmod(0o777)
    assert environments.find(lava.FULL) is None
    assert lava.setup(full=True, progress=False) == environment
    assert environment.folder.stat().st_mode & 0o777 == 0o755
    environment.folder.parent.chmod(0o777)
    assert environments.find(lava.FULL) is None
    with pytest.raises(SetupError, match=r"cache/lava' can be changed by other users; chmod go-w it"):
        lava.setup(full=True, progress=False)
    assert (bare / "log").read_text().split() == ["venv", "pip"] * 2


@linux_only
def test_an_orphaned_installer_stays_in_its_own_folder(bare: Path) -> None:
    """SIGKILL of a setup leaves its pip running: it writes neither into the next one's environment nor into its log."""
    late = f'sleep 3; echo late; (: > "${{0%/*}}/../late"); echo late >> "{bare}/log"'
    fake_python(bare / "python3.10", pip=late)
    code = "from snn2chip.backends import lava; lava.setup(full=True, progress=False)"
    with subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[1]) as process:
        assert wait_until(lambda: (bare / "log").exists() and "pip" in (bare / "log").read_text())
        process.kill()
    (staging,) = [path for path in (bare.parent / "cache/lava").iterdir() if path.is_dir()]
    fake_python(bare / "python3.10", pip="echo 'ERROR: broken pip'; exit 1")
    with pytest.raises(SetupError, match="ERROR: broken pip"):
        lava.setup(full=True, progress=False)
    assert not staging.exists()
    fake_python(bare / "python3.10")
    environment = lava.setup(full=True, progress=False)
    assert wait_until(lambda: "late" in (bare / "log").read_text())
    assert environment.folder is not None
    assert not list((bare.parent / "cache").rglob("late"))
    assert [path for path in (bare.parent / "cache/lava").iterdir() if path.is_dir()] == [environment.folder]
    assert lava.setup(full=True, progress=False) == environment


def test_a_link_in_the_place_of_the_log_is_not_followed(bare: Path) -> None:
    fake_python(bare / "python3.10")
    mine = bare.parent / "mine"
    mine.write_text("mine")
    environment = lava.setup(full=True, progress=False)
    assert environment.folder is not None
    environment.python.unlink()
    Path(f"{environment.folder}.log").symlink_to(mine)
    assert lava.setup(full=True, progress=False) == environment
    assert mine.read_text() == "mine"


def test_failed_setup_says_why_and_leaves_no_folder(bare: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake_python(bare / "python3.10", pip="echo 'ERROR: No space left on device'; exit 1")
    with pytest.raises(SetupError, match=r"ERROR: No space left on device \(see '.*\.log'\)") as caught:
        lava.setup(full=True)
    assert not isinstance(caught.value, lava.RegistryError)
    assert capsys.readouterr().err.startswith("Lava's full environment: ")
    offline = "echo 'Retrying after connection broken by NewConnectionError'; echo 'ERROR: No match'; exit 1"
    fake_python(bare / "python3.10", pip=offline)
    with pytest.raises(lava.RegistryError, match="the package index cannot be reached"):
        lava.setup(full=True, progress=False)
    assert not [path for path in (bare.parent / "cache/lava").iterdir() if path.is_dir()]


@linux_only
def test_interrupted_setup_leaves_nothing_behind(bare: Path) -> None:
    """Ctrl-C while pip runs ends pip and removes what was made."""
    fake_python(bare / "python3.10", pip="sleep 86399")
    code = "from snn2chip.backends import lava; lava.setup(full=True)"
    root = Path(__file__).parents[1]
    with subprocess.Popen([sys.executable, "-c", code], cwd=root, stderr=subprocess.PIPE) as process:
        assert wait_until(lambda: (bare / "log").exists() and "pip" in (bare / "log").read_text())
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == -signal.SIGINT
    assert not [path for path in (bare.parent / "cache/lava").iterdir() if path.is_dir()]
    assert wait_until(lambda: not processes_with("sleep", "86399"))


def test_two_setups_at_once_build_once(bare: Path) -> None:
    fake_python(bare / "python3.10")
    made: list[lava.Environment] = []
    threads = [threading.Thread(target=lambda: made.append(lava.setup(full=True, progress=False))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(made) == 3 and made[0] == made[1] == made[2]
    assert (bare / "log").read_text().split() == ["venv", "pip"]


def test_run_without_environment_names_the_remedy(bare: Path, network: Path, tmp_path: Path) -> None:
    given = save(tmp_path / "i.npz", input=graded_input(1))
    with pytest.raises(SetupError, match="snn2chip lava setup"):
        lava.run(network, given, tmp_path / "o.npz", progress=False)
