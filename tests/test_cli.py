"""The command line as people and scripts use it: help, the documented flow, pipes, reports."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import typer
import zoo as zoo_tool
from conftest import COMMAND, QUICK, ROOT, Child, Command, Quickstart, child_environment, run_in_process
from torch import nn

import snn2chip
from snn2chip import cli as command_line
from snn2chip import places
from snn2chip.backends import lava
from snn2chip.formats import netx
from snn2chip.nn import LIF, DirectInput, MembraneReadout, SpikingNetwork
from snn2chip.report import cost as costs
from snn2chip.report.record import Record

COMMANDS = (
    "train", "retrain", "fold-and-export", "collapse", "export", "simulate", "stream", "chip", "encode", "verify",
    "lava", "lava setup", "lava run", "akida", "akida setup", "akida run", "show", "fit", "import", "report",
    "explore", "recipe", "doctor",
)  # fmt: skip
SAMPLES = 3

# ---------------------------------------------------------------------------------------- help and version

HELP = """
import sys
from snn2chip import cli
for command in sys.argv[1:]:
    try:
        cli.main([*command.split(), "--help"])
    except SystemExit as stop:
        assert stop.code in (0, None), command
    slow = {"torch", "matplotlib", "h5py", "sklearn", "numpy"} & set(sys.modules)
    assert not slow, f"{command}: imports {slow}"
"""


def test_help_imports_nothing_slow() -> None:
    """--help of the program and of every command prints usage without loading torch or its like."""
    command = [sys.executable, "-c", HELP, "", *COMMANDS]
    done = subprocess.run(command, env=child_environment(), capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    for name in ("", *COMMANDS):
        assert re.search(rf"Usage: snn2chip {name}\b" if name else r"Usage: snn2chip \[", done.stdout), name
    assert "\x1b" not in done.stdout


HEAVY = "torch", "scipy", "matplotlib", "h5py", "sklearn", "pandas", "PIL", "onnx", "onnxruntime", "nir", "pooch"
IMPORTS = """
import atexit, sys
from pathlib import Path
heavy = sys.argv.pop(1)
atexit.register(lambda: Path(heavy).write_text(" ".join({name.partition(".")[0] for name in sys.modules})))
from snn2chip.__main__ import main
main()
"""


@pytest.mark.parametrize(
    ("arguments", "heavy"),
    [
        ("recipe", set()),
        ("recipe resnet34", set()),
        ("recipe --fields", set()),
        ("doctor", set()),
        ("show NET", {"h5py"}),
        ("fit NET", {"h5py"}),
        ("simulate NET --limit 1", {"torch", "h5py", "sklearn", "scipy"}),
        ("fold-and-export MODEL --calibration 0 -o OUT", {"torch", "h5py"}),
    ],
)
def test_a_command_imports_nothing_heavy_that_it_does_not_use(
    arguments: str, heavy: set[str], quickstart: Quickstart, tmp_path: Path
) -> None:
    """Of the packages that take long to import, each command loads those named here."""
    names = {"NET": quickstart.net, "MODEL": quickstart.model, "OUT": tmp_path / "out.net"}
    words = [str(names.get(word, word)) for word in arguments.split()]
    listed = tmp_path / "modules"
    command = [sys.executable, "-c", IMPORTS, str(listed), *words]
    subprocess.run(command, env=child_environment(), capture_output=True, check=True, timeout=120)
    assert set(listed.read_text().split()) & set(HEAVY) == heavy


@pytest.mark.parametrize("arguments", [("--help",), ("train", "--help"), ("--version",)])
def test_help_is_prompt(arguments: tuple[str, ...]) -> None:
    """The best of three runs takes less than 3 s, import and all."""
    best = float("inf")
    command = [sys.executable, "-m", "snn2chip", *arguments]
    for _ in range(3):
        start = time.monotonic()
        subprocess.run(command, env=child_environment(), capture_output=True, check=True)
        best = min(best, time.monotonic() - start)
        if best < 3:
            break
    assert best < 3


def test_every_command_is_in_the_help(cli: Command) -> None:
    """The list above is all there is: a new command has to join it."""
    listed = set(re.findall(r"^\W*([a-z][a-z-]+)  ", cli("--help").ok().partition("Commands")[2], re.MULTILINE))
    assert listed == {name for name in COMMANDS if " " not in name}
    for group in ("lava", "akida"):
        said = cli(group, "--help").ok().partition("Commands")[2]
        listed = set(re.findall(r"^\W*([a-z][a-z-]+)  ", said, re.MULTILINE))
        assert {f"{group} {name}" for name in listed} == {name for name in COMMANDS if name.startswith(f"{group} ")}


def test_version(cli: Command) -> None:
    """Name and version, alone."""
    assert cli("--version").ok() == f"snn2chip {snn2chip.__version__}\n"


def test_no_command_shows_the_help(cli: Command) -> None:
    """Without a command there is help, and an exit code that scripts notice."""
    done = cli()
    assert done.code in (0, 2)
    assert "fold-and-export" in done.out + done.err


# ------------------------------------------------------------------------------------------ documented flow


@pytest.fixture(scope="module")
def traced(cli: Command, quickstart: Quickstart, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with encode's input and the trace of simulating it."""
    folder = tmp_path_factory.mktemp("traced")
    cli("encode", quickstart.net, "--limit", SAMPLES, "-o", folder / "input.npz").ok()
    cli("simulate", quickstart.net, "--input", folder / "input.npz", "--output", folder / "trace.npz").ok()
    return folder


def arrays(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    with np.load(path) as archive:
        return dict(archive)


def test_the_flow_prints_what_it_wrote(quickstart: Quickstart) -> None:
    """train, fold-and-export and simulate say what they made, and the files are there."""
    for name in ("model.pt", "model.net"):
        assert f"wrote {quickstart.folder / name}" in quickstart.printed
        assert (quickstart.folder / name).stat().st_size > 1000
    assert "test accuracy" in quickstart.printed
    assert "accuracy" in quickstart.printed
    assert f"next: snn2chip fold-and-export {quickstart.model}\n" in quickstart.printed
    assert f"next: snn2chip verify {quickstart.model} {quickstart.net}\n" in quickstart.printed
    assert "\x1b" not in quickstart.printed


def test_a_data_set_of_more_classes_than_the_network_has_outputs_is_refused(cli: Command, tmp_path: Path) -> None:
    """Its accuracy would be a number of nothing, whatever the images' size says."""
    encoder = DirectInput(2, 16, [0.3], [0.4])
    body = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), LIF(tau=0.5, threshold=0.1), nn.Linear(8, 3))
    images = torch.arange(64).reshape(1, 1, 8, 8) % 17
    torch.manual_seed(0)
    deployed = snn2chip.deploy(SpikingNetwork(encoder, body, MembraneReadout(), (1, 8, 8)), images)
    model, net = (deployed.save(tmp_path / name) for name in ("model.pt", "model.net"))
    said = " has labels up to 9, but the network has 3 outputs; choose the data set it was trained on"
    cli("simulate", net, "--dataset", "digits").refused(said)
    cli("fold-and-export", model, "--dataset", "digits", "-o", tmp_path / "other.net").refused(said)
    assert not (tmp_path / "other.net").exists()


def test_a_recipe_of_ones_own_is_shown_too(cli: Command, tmp_path: Path) -> None:
    """By its path, as `train` takes it; one that is not there is not looked for among the shipped."""
    mine = tmp_path / "mine.toml"
    mine.write_text(cli("recipe", "digits-tdbn").ok())
    assert cli("recipe", mine).ok() == mine.read_text()
    cli("recipe", tmp_path / "none.toml").refused("none.toml': No such file")


def test_simulating_images_or_their_input_is_the_same(
    cli: Command, quickstart: Quickstart, traced: Path, tmp_path: Path
) -> None:
    """The same samples from the data set and from encode's file leave the same arrays, under the same names."""
    cli("simulate", quickstart.net, "--limit", SAMPLES, "--output", tmp_path / "direct.npz", "--batch", "2").ok()
    direct, by_file = arrays(tmp_path / "direct.npz"), arrays(traced / "trace.npz")
    chain = netx.load(quickstart.net)
    assert direct.keys() == by_file.keys()
    outputs = direct.pop("outputs"), by_file.pop("outputs")
    assert outputs[0].shape == (SAMPLES, len(chain.classes)) and np.array_equal(*outputs)
    assert direct.keys() == {f"{kind}/{layer.name}" for kind in ("spikes", "voltage") for layer in chain.layers}
    for name, values in direct.items():
        assert values.dtype == by_file[name].dtype == (np.uint8 if name.startswith("spikes") else np.int32)
        assert values.shape[:2] == (SAMPLES, chain.timesteps)
        assert np.array_equal(values, by_file[name]), name
    assert sum(int(values.sum()) for name, values in direct.items() if name.startswith("spikes")) > 0


def test_encode_writes_input_and_labels(quickstart: Quickstart, traced: Path) -> None:
    """Integers within the port's range and the label of every sample."""
    given = arrays(traced / "input.npz")
    chain = netx.load(quickstart.net)
    low, high = chain.port_range
    assert given.keys() == {"input", "label"}
    assert given["input"].dtype == np.int32
    assert given["input"].shape == (SAMPLES, chain.timesteps, *chain.input_shape)
    assert low.min() <= given["input"].min() < given["input"].max() <= high.max()
    assert given["label"].shape == (SAMPLES,)


@pytest.mark.lava
def test_lava_leaves_the_same_trace(
    cli: Command, quickstart: Quickstart, traced: Path, tmp_path: Path,
    lava_environment: lava.Environment,
) -> None:  # fmt: skip
    """Every spike and voltage that Lava and simulate both write is equal."""
    del lava_environment
    cli("lava", "run", quickstart.net, "--input", traced / "input.npz", "--output", tmp_path / "lava.npz").ok()
    ours, theirs = arrays(traced / "trace.npz"), arrays(tmp_path / "lava.npz")
    shared = {name for name in ours.keys() & theirs.keys() if name.startswith(("spikes/", "voltage/"))}
    assert shared == ours.keys() - {"outputs"}  # scores in the trained network's units
    for name in sorted(shared):
        assert np.array_equal(ours[name], theirs[name]), name


def test_figures_of_simulate(cli: Command, quickstart: Quickstart, tmp_path: Path) -> None:
    """--json has what the documentation names, and its figures agree with the trace beside it."""
    run = ("simulate", quickstart.net, "--limit", "40", "--json", tmp_path / "s.json", "--output", tmp_path / "t.npz")
    printed = cli(*run).ok()
    found = json.loads((tmp_path / "s.json").read_text())
    assert found.keys() >= {"accuracy", "samples", "timesteps", "seconds", "samples_per_second", "spikes"}
    assert found["samples"] == 40
    assert found["timesteps"] == netx.load(quickstart.net).timesteps
    assert found["samples_per_second"] == pytest.approx(40 / found["seconds"])
    assert 0 <= found["accuracy"] <= 1
    trace = arrays(tmp_path / "t.npz")
    assert found["spikes"] == {
        name.partition("/")[2]: int(values.sum()) for name, values in trace.items() if name.startswith("spikes/")
    }
    assert f"accuracy {100 * found['accuracy']:.2f} %" in printed
    whole = json.loads((quickstart.folder / "simulate.json").read_text())
    assert whole["samples"] == 359
    assert whole["accuracy"] > 0.8


def test_input_files_have_no_accuracy(cli: Command, quickstart: Quickstart, traced: Path, tmp_path: Path) -> None:
    """Samples without labels give figures without accuracy; --limit counts them too."""
    out = tmp_path / "s.json"
    cli("simulate", quickstart.net, "--input", traced / "input.npz", "--limit", "2", "--json", out).ok()
    found = json.loads(out.read_text())
    assert found["samples"] == 2
    assert "accuracy" not in found


@pytest.fixture(scope="module")
def altered(quickstart: Quickstart, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The quickstart's .net with the sign of its first layer's weights turned."""
    net = tmp_path_factory.mktemp("altered") / "model.net"
    shutil.copyfile(quickstart.net, net)
    with h5py.File(net, "r+") as file:
        weight = file["layer/1/weight"]
        weight[...] = -weight[...]
    return net


# ---------------------------------------------------------------------------------------- pipes and colours


def shell(pipeline: str) -> subprocess.CompletedProcess[str]:
    """A pipeline in bash whose exit code is that of the part that failed."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash")
    line = f"set -o pipefail; {pipeline}"
    return subprocess.run(
        [bash, "-c", line], env=child_environment(), capture_output=True, text=True, timeout=120, check=False
    )


def line_of(*arguments: str | Path) -> str:
    return shlex.join([sys.executable, "-m", "snn2chip", *map(str, arguments)])


def unread(*arguments: str | Path) -> tuple[int, str]:
    """Exit code and stderr of a command whose reader has left before it starts."""
    nobody = "import os; reader, writer = os.pipe(); os.close(reader); os.dup2(writer, 1)"
    done = Child(f"{nobody}\n{COMMAND}", *arguments).finish()
    return done.code, done.err


def test_head_gets_one_line() -> None:
    """`| head -1` shows a line and nothing is said of the broken pipe."""
    done = shell(f"{line_of('recipe', '--fields')} | head -1")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 1


@pytest.mark.parametrize("command", ["recipe", "recipe NAME", "fields", "doctor", "simulate"])
def test_reader_that_left(command: str, quickstart: Quickstart, tmp_path: Path) -> None:
    """A command that succeeds does so though nobody reads, without a word, and writes its files."""
    arguments: dict[str, tuple[str | Path, ...]] = {
        "recipe": ("recipe",),
        "recipe NAME": ("recipe", "digits-tdbn"),
        "fields": ("recipe", "--fields"),
        "doctor": ("doctor",),
        "simulate": ("simulate", quickstart.net, "--limit", "2", "--json", tmp_path / "s.json"),
    }
    assert unread(*arguments[command]) == (0, "")
    assert (tmp_path / "s.json").exists() == (command == "simulate")


def test_reader_that_left_does_not_hide_the_verdict(quickstart: Quickstart, altered: Path) -> None:
    """verify exits 1 on a difference and 0 on none, whether anybody reads the table or not."""
    options = ("--no-lava", "--samples", "1")
    done = shell(f"{line_of('verify', quickstart.model, altered, *options)} | head -1")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
    code, said = unread("verify", quickstart.model, altered, *options)
    assert (code, said) == (1, done.stderr)
    assert unread("verify", quickstart.model, quickstart.net, *options) == (0, "")


def test_no_escapes_where_there_is_no_terminal(cli_process: Command, quickstart: Quickstart, altered: Path) -> None:
    """Neither stream of a piped command holds an ANSI escape, and tables keep their lines whole."""
    for arguments in (("simulate", quickstart.net, "--limit", "2"), ("verify", quickstart.model, altered, "--no-lava")):
        done = cli_process(*arguments, TERM="xterm-256color", COLUMNS="40")
        assert "\x1b" not in done.out + done.err
        assert done.out
    assert done.code == 1


# --------------------------------------------------------------------------------- report, doctor, recipes


def test_every_help_has_an_example_that_parses() -> None:
    """The command and its options as they are written there exist."""
    group = typer.main.get_command(command_line.app)
    commands = dict(group.commands)  # type: ignore[attr-defined]
    groups = {f"{name} ": commands.pop(name).commands for name in ("lava", "akida")}
    for prefix, found in {"": commands, **groups}.items():
        for name, command in found.items():
            example = command.epilog.removeprefix("Example: ")
            assert example.startswith(f"snn2chip {prefix}{name}"), example
            arguments = example.partition(" > ")[0].split()[len(f"snn2chip {prefix}".split()) + 1 :]
            command.make_context(name, arguments)


def test_report_is_one_file(cli: Command, quickstart: Quickstart, tmp_path: Path) -> None:
    """Each command that has news refreshes report.html, which needs nothing from outside: no address is in it."""
    run = quickstart.copy(tmp_path / "run")
    record = Record.at(run.folder)
    assert record is not None
    record.entries.pop("verify", None)  # of a test before this one
    page = record.save()
    before = page.read_text(encoding="utf-8")
    said = cli("verify", run.model, run.net, "--no-lava", "--samples", "1").ok()
    assert f"wrote {page}" in said and "every exact rung holds, " in said
    assert "Verified" not in before and "Verified" in page.read_text(encoding="utf-8")
    assert f"wrote {page}" in cli("report", run.folder, "--samples", "3", "--pictures", "2").ok()
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"https?:|//[a-z]+\.|<link|@import|url\(", text)
    assert text.count("<script") == 2 and 'id="training"' in text and 'id="spikes"' in text and 'id="chip"' in text
    assert len(json.loads(text.partition('id="data">')[2].partition("</script>")[0])["samples"]) == 2
    accuracy = json.loads((run.folder / "simulate.json").read_text())["accuracy"]
    assert f"{100 * accuracy:.2f} % in integers" in text and "digits:test" in text


def test_report_shows_only_what_there_is(cli: Command, quickstart: Quickstart, tmp_path: Path) -> None:
    """A model is enough, and a model with its .net file, whatever they are called; what is not there yet is said."""
    shutil.copyfile(quickstart.model, tmp_path / "mine.pt")
    cli("report", tmp_path, "--samples", "1").ok()
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert 'id="network"' in page and 'id="spikes"' not in page and "snn2chip fold-and-export MODEL" in page
    shutil.copyfile(quickstart.net, tmp_path / "any.net")
    cli("report", tmp_path, "--samples", "1").ok()
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert 'id="spikes"' in page and "snn2chip verify MODEL NET" in page
    assert "Verified" not in page and "Integers</h3>" not in page


def test_doctor(cli: Command) -> None:
    """Versions of this and of torch, the processor, recipes, chips, Lava's state and every data set."""
    said = cli("doctor").ok()
    for words in (
        f"snn2chip {snn2chip.__version__}", f"torch {str(torch.__version__).partition('+')[0]}",
        f"numpy {np.__version__}", "loihi1, loihi2", "digits-tdbn", "lava ", "light: ", "full: ",
        "digits: scikit-learn", "cifar10: not found; give --data DIR, or it is downloaded when used\n",
        "nmnist: not found; give --data DIR, or it is downloaded when used\n", "letters: not found; give --data DIR\n",
        "folder: not found; give --data DIR\n",
    ):  # fmt: skip
        assert words in said


def test_recipes_are_listed_and_printed(cli: Command) -> None:
    """`recipe` lists every shipped recipe, `recipe NAME` prints its file as it is."""
    lines = cli("recipe").ok().splitlines()
    listed = [line.split()[0] for line in lines]
    assert listed == places.recipe_names()
    wide = max(map(len, listed)) + 2
    assert all(line[:wide].rstrip() == name and line[wide].strip() for line, name in zip(lines, listed, strict=True))
    assert "digits-tdbn" in listed
    text = (ROOT / "models" / "digits-tdbn" / "recipe.toml").read_text(encoding="utf-8")
    assert cli("recipe", "digits-tdbn").ok() == text
    cli("recipe", "digits-tdbm").refused("digits-tdbm", "digits-tdbn")


def test_fields_of_a_recipe(cli: Command) -> None:
    """Every field is in the table, with its meaning."""
    said = cli("recipe", "--fields").ok()
    for words in ("train.epochs", "passes over the training set", "model.neuron.tau", "model.layers.conv.channels"):
        assert words in said


# -------------------------------------------------------------------------------------------------- publish


def zoo_folder(target: Path) -> Path:
    """A folder of the zoo with the recipe that the quickstart was trained with."""
    epochs = QUICK[1].partition("=")[2]
    text = (ROOT / "models" / "digits-tdbn" / "recipe.toml").read_text(encoding="utf-8")
    target.mkdir()
    changed, count = re.subn(r"(?m)^epochs = \d+", f"epochs = {epochs}", text)
    assert count == 1
    (target / "recipe.toml").write_text(changed, encoding="utf-8")
    return target


def test_publish_refuses_what_is_not_verified(
    cli: Command, quickstart: Quickstart, altered: Path, tmp_path: Path
) -> None:
    """Without verify.json, without Lava in it, or with a failed verdict nothing is published."""
    run, zoo = quickstart.copy(tmp_path / "run"), zoo_folder(tmp_path / "zoo")
    verified = run.folder / "verify.json"
    run_in_process("publish", run.folder, zoo, main=zoo_tool.main).refused("verify.json", "is missing")
    cli("verify", run.model, run.net, "--no-lava", "--samples", "1", "--json", verified).ok()
    run_in_process("publish", run.folder, zoo, main=zoo_tool.main).refused(
        "verify.json", "passed verification with Lava"
    )
    cli("verify", run.model, altered, "--no-lava", "--samples", "1", "--json", verified).refused(code=1)
    failed = json.loads(verified.read_text())
    failed["rungs"].append({**failed["rungs"][0], "name": "dense = Lava"})
    verified.write_text(json.dumps(failed))
    run_in_process("publish", run.folder, zoo, main=zoo_tool.main).refused(
        "verify.json", "passed verification with Lava"
    )
    assert [path.name for path in zoo.iterdir()] == ["recipe.toml"]


@pytest.mark.lava
def test_publish_writes_what_was_measured(
    cli: Command, quickstart: Quickstart, tmp_path: Path,
    lava_environment: lava.Environment,
) -> None:  # fmt: skip
    """A verified run becomes model.pt, metrics.json and card.md with the run's own figures."""
    del lava_environment
    run, zoo = quickstart.copy(tmp_path / "run"), zoo_folder(tmp_path / "zoo")
    verify = ("verify", run.model, run.net, "--samples", SAMPLES, "--json", run.folder / "verify.json")
    assert "dense = Lava" in cli(*verify).ok()
    run_in_process("publish", run.folder, zoo, main=zoo_tool.main).ok()
    assert {path.name for path in zoo.iterdir()} == {"recipe.toml", "model.pt", "metrics.json", "card.md"}
    assert (zoo / "model.pt").read_bytes() == run.model.read_bytes()
    metrics = json.loads((zoo / "metrics.json").read_text())
    simulated = json.loads((run.folder / "simulate.json").read_text())
    assert metrics["integer_accuracy"] == simulated["accuracy"]
    assert (metrics["samples"], metrics["lava_samples"], metrics["lava_mismatches"]) == (359, SAMPLES, 0)
    assert metrics["lava_values"] > 0
    card = (zoo / "card.md").read_text(encoding="utf-8")
    assert card.startswith("# digits-tdbn\n")
    for words in (f"{100 * simulated['accuracy']:.2f} %", "0 mismatches", "python tools/zoo.py publish", "3 epochs"):
        assert words in card
    assert metrics["cost"] == {key: value for key, value in simulated["cost"].items() if key != "layers"}
    assert all(f"\n- {line}\n" in card for line in costs.lines(simulated["cost"]))
    assert "snn2chip simulate runs/digits-tdbn/model.net --cost --json runs/digits-tdbn/simulate.json" in card
    # a simulation of a part of the test set is not what the card says, nor is one without its cost
    before = card
    cli("simulate", run.net, "--json", run.folder / "simulate.json").ok()
    run_in_process("publish", run.folder, zoo, main=zoo_tool.main).refused("lacks one of", "simulate", "--cost")
    cli("simulate", run.net, "--limit", "10", "--cost", "--json", run.folder / "simulate.json").ok()
    run_in_process("publish", run.folder, zoo, main=zoo_tool.main).refused("simulated 10 samples, the test set has 359")
    assert (zoo / "card.md").read_text(encoding="utf-8") == before
