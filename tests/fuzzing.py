"""Damaged files for every reader, by the thousand: each read in a process that may neither crash, hang nor eat memory.

    python -m tests.fuzzing --reader netx --seed 0 --count 10000     many, and what came of them
    python -m tests.fuzzing --reader netx --seed 0 --case 77         one again; --keep FILE keeps the file

A reader may succeed, or raise an `InputError` of one line that names the file. Everything else is a failure: another
exception, a warning, a printed word, a crash, more than `SECONDS`, more than 2 GB (or asking for more).

A file is determined by reader, seed and case. Cases are run in forked children, a few hundred each, so that a crash is
found, named and survived.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import re
import resource
import select
import signal
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from snn2chip.errors import RecipeError
from snn2chip.text import printable

SECONDS = 20.0  # of the processor, for one file
SILENCE = 120.0  # of the clock: then the child is ended
BYTES = 2**31  # of memory, beyond what the process had
CHILD = 400  # cases a child
_MEMORY = re.compile(r"\bmemory\b|can't alloc|unable to allocate|bad_alloc", re.IGNORECASE)


@dataclass(frozen=True)
class Reader:
    """How to read files of a kind, and what they are made of.

    load     module and function
    mutator  module of tests with ``mutate(seed, rng)``, or module and function
    seeds    function of `fuzz_seeds` that makes good files, or module and function
    options  ways to read a file, in turn
    refuses  good files that are not for this reader
    reasons  for how many reasons files are refused at least; fewer than 10 where nearly any bytes are a file
    """

    load: str
    mutator: str
    seeds: str
    suffix: str
    options: tuple[dict[str, Any], ...] = ({},)
    refuses: tuple[str, ...] = ()
    reasons: int = 10


READERS = {
    "netx": Reader("snn2chip.formats.netx:load", "fuzz_hdf5", "net", ".net"),
    "netx_any": Reader(
        "snn2chip.formats.netx.read:load", "fuzz_hdf5", "foreign_net", ".net", ({}, {"layers": 2}), ("steps",)
    ),
    "nir": Reader(
        "snn2chip.formats.nir:load", "fuzz_hdf5", "nir", ".nir", ({"timesteps": 2, "high": 3, "dt": 1e-4}, {})
    ),
    "onnx": Reader("snn2chip.formats.onnx.read:load", "fuzz_onnx", "onnx", ".onnx"),
    "model": Reader("snn2chip.nn.model_file:load", "fuzz_model", "model", ".pt"),
    "graph": Reader("fuzz_graph:read_named", "fuzz_graph", "graph", ".pt"),
    "safetensors": Reader("fuzz_graph:read_named", "fuzz_safetensors", "safetensors", ".safetensors"),
    "input": Reader("fuzz_npz:read_input", "fuzz_npz", "fuzz_seeds:inputs", ".npz"),
    "trace": Reader("fuzz_npz:read_trace", "fuzz_npz", "fuzz_seeds:traces", ".npz"),
    "recording": Reader("snn2chip.data.recordings:read_recording", "fuzz_npz", "fuzz_seeds:recording_npz", ".npz"),
    "aedat4": Reader(
        "snn2chip.data.recordings:read_recording", "fuzz_events", "fuzz_seeds:aedat4", ".aedat4", reasons=2
    ),
    "aedat": Reader("snn2chip.data.recordings:read_recording", "fuzz_events", "fuzz_seeds:aedat", ".aedat", reasons=3),
    "bin": Reader(
        *("snn2chip.data.recordings:read_recording", "fuzz_events", "fuzz_seeds:bin_recording", ".bin"),
        options=({"sensor": (34, 34)},),
        reasons=1,
    ),
    "spoken": Reader("event_files:read_spoken", "fuzz_hdf5", "fuzz_seeds:spoken", ".h5"),
    "recipe": Reader("snn2chip.recipe:load", "fuzz_events:of_text", "fuzz_events:recipes", ".toml"),
}


@dataclass
class Result:
    """What came of one file. `outcome` is 'read', 'refused' or, for a failure, what is wrong; 'not made' where the
    change itself takes more memory or time than a reader may."""

    case: int
    outcome: str
    message: str
    what: list[str]
    seconds: float = 0.0
    mib: float = 0.0

    @property
    def failed(self) -> bool:
        return self.outcome not in ("read", "refused", "not made")

    @property
    def reason(self) -> str:
        """The message without its figures and names: refusals for the same reason are equal in it."""
        plain = re.sub(r"'[^']*'|\"[^\"]*\"|\S*mutant\S*|\(.*?\)|\[.*?\]", "…", self.message)
        return re.sub(r"-?[\d.,]+(e[+-]?\d+)?|\b(nan|inf)\b", "N", plain)[:120]


@dataclass
class Campaign:
    """What came of many files."""

    reader: str
    seed: int
    results: list[Result] = field(default_factory=list)

    @property
    def failures(self) -> list[Result]:
        return [result for result in self.results if result.failed]

    @property
    def reasons(self) -> Counter[str]:
        return Counter(result.reason for result in self.results if result.outcome == "refused")

    @property
    def mutators(self) -> Counter[str]:
        """How often each kind of damage was done."""
        return Counter(what.partition(":")[0] for result in self.results for what in result.what)

    def command(self, result: Result) -> str:
        return f"python -m tests.fuzzing --reader {self.reader} --seed {self.seed} --case {result.case}"

    def summary(self) -> str:
        counts = Counter(result.outcome if not result.failed else "failed" for result in self.results)
        slowest = max(self.results, key=lambda result: result.seconds)
        largest = max(self.results, key=lambda result: result.mib)
        return (
            f"{self.reader}, seed {self.seed}: {len(self.results)} files, {counts['read']} read, {counts['refused']} "
            f"refused for {len(self.reasons)} reasons, {counts['not made']} not made, {counts['failed']} failures; "
            f"slowest {slowest.seconds:.2f} s (case {slowest.case}), largest {largest.mib:.0f} MiB "
            f"(case {largest.case})"
        )


def _named(name: str, module: str = "", call: str = "") -> Any:
    """A function by module and name, `module:name`; one of the two may go without saying."""
    first, _, second = name.partition(":")
    place, function = (first, second) if second else (module or first, call or first)
    return getattr(importlib.import_module(place), function)


class Fuzzer:
    """One reader with its seeds, ready to make and read files."""

    def __init__(self, name: str, seed: int) -> None:
        self.name, self.seed, self.reader = name, seed, READERS[name]
        self.load: Callable[..., Any] = _named(self.reader.load)
        self.mutate: Callable[..., tuple[bytes, list[str]]] = _named(self.reader.mutator, call="mutate")
        self.seeds: dict[str, bytes] = _named(self.reader.seeds, module="fuzz_seeds")()

    def make(self, case: int) -> tuple[bytes, list[str]]:
        """The bytes of a case and what was done to them. The first cases are the good files themselves."""
        names = list(self.seeds)
        if case < len(names):
            return self.seeds[names[case]], [f"seed: {names[case]}"]
        rng = np.random.default_rng([self.seed, case, zlib.crc32(self.name.encode())])
        return self.mutate(self.seeds[names[case % len(names)]], rng)

    def read(self, case: int, path: Path, *, claims: bool = False) -> tuple[str, str]:
        """Outcome and message of reading a file; with `claims`, memory may have been asked for and not been there."""
        from snn2chip.errors import InputError

        options = self.reader.options[(case // len(self.seeds)) % len(self.reader.options)]
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            try:
                self.load(path, **options)
            except InputError as error:
                outcome, message = _judge(error, path, claims)
            except BaseException as error:
                frames = traceback.extract_tb(error.__traceback__)
                where = " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames[:-5:-1])
                outcome, message = type(error).__name__, f"{str(error)[:300]} at {where}"
            else:
                outcome, message = "read", ""
        if warned and outcome in ("read", "refused"):
            return "a warning", f"{warned[0].category.__name__}: {warned[0].message}"[:300]
        return outcome, message


def _judge(error: BaseException, path: Path, claims: bool) -> tuple[str, str]:
    """Whether a refusal is one line that names the file, and did not come of memory running out."""
    message = "; ".join(printable(line) for line in error.lines) if isinstance(error, RecipeError) else str(error)
    cause: BaseException | None = error
    while not claims and (cause := cause.__context__) is not None:
        said = str(cause) if isinstance(cause, (OSError, RuntimeError, KeyError)) else ""
        if isinstance(cause, MemoryError) or _MEMORY.search(said):
            return "asks for memory", f"{message[:200]} <- {type(cause).__name__}: {said[:200]}"
    if not message.strip() or len(message.splitlines()) != 1 or not message.isprintable():
        return "not one printable line", repr(message)[:300]
    if path.name not in message:
        return "the file is not named", message[:300]
    if len(message) > 2000 and not isinstance(error, RecipeError):
        return "a line without end", message[:300]
    return "refused", message


# ------------------------------------------------------------------------------------------------------ processes


def _status(key: str) -> int:
    """A line of /proc/self/status, in bytes."""
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return int(text.partition(f"{key}:")[2].split()[0]) * 1024


def _child(fuzzer: Fuzzer, cases: Iterator[int], pipe: int, folder: Path) -> None:
    """Make and read files; a line of JSON before and after each."""
    log = folder / "printed"
    handle = os.open(log, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    limit = _status("VmSize") + BYTES + 2**28
    path = folder / f"mutant{fuzzer.reader.suffix}"

    def say(**line: Any) -> None:
        os.write(pipe, json.dumps(line).encode() + b"\n")

    for case in cases:
        say(makes=case)
        data, what = fuzzer.make(case)
        path.write_bytes(data)
        del data
        os.ftruncate(handle, 0)
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak counts from here
        before, started = _status("VmRSS"), time.process_time()
        say(reads=case, what=what)
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        outcome, message = fuzzer.read(case, path)
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        result = Result(case, outcome, message, what, time.process_time() - started)
        if outcome == "asks for memory" and "MemoryError" not in message:
            # the HDF5 library takes room for what a damaged file claims, and leaves it untouched: what is it really?
            say(reads=case, what=what)
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            result.outcome, result.message = fuzzer.read(case, path, claims=True)
        result.mib = max(0, _status("VmHWM") - before) / 2**20
        if not result.failed and os.fstat(handle).st_size:
            printed = log.read_text(encoding="utf-8", errors="replace")
            result.outcome, result.message = "printed", printed[:300]
        if not result.failed and result.seconds > SECONDS:
            result.outcome = "slow"
        if not result.failed and result.mib * 2**20 > BYTES:
            result.outcome = "uses memory"
        if (
            case < len(fuzzer.seeds)
            and result.outcome == "refused"
            and list(fuzzer.seeds)[case] not in fuzzer.reader.refuses
        ):
            result.outcome = "a good file is refused"
        say(result=asdict(result))


def _run(fuzzer: Fuzzer, cases: range, folder: Path) -> tuple[list[Result], int]:
    """Results of one child and the first case that it did not get to."""
    out, into = os.pipe()
    child = os.fork()
    if not child:
        code = 1
        try:
            os.close(out)
            _child(fuzzer, iter(cases), into, folder)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(into)
    results: list[Result] = []
    current: dict[str, Any] = {}
    waiting, ended = b"", ""
    heard = time.monotonic()
    while True:
        ready, _, _ = select.select([out], [], [], 0.2)
        if not ready:
            pages = int(Path(f"/proc/{child}/statm").read_text(encoding="ascii").split()[1])
            if pages * resource.getpagesize() > 2 * BYTES:
                ended = "uses memory"
            elif time.monotonic() - heard > SILENCE:
                ended = f"hangs: nothing in {SILENCE:.0f} s"
            else:
                continue
            os.kill(child, signal.SIGKILL)
            break
        heard = time.monotonic()
        block = os.read(out, 2**16)
        if not block:
            break
        *lines, waiting = (waiting + block).split(b"\n")
        for line in lines:
            current = json.loads(line)
            if "result" in current:
                results.append(Result(**current["result"]))
    os.close(out)
    _, status = os.waitpid(child, 0)
    if "result" not in current or len(results) < len(cases):
        case = current.get("reads", current.get("makes", cases[0]))
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        ended = ended or (f"crash: {signal.Signals(number).name}" if number else "")
        if "makes" in current and ended:  # HDF5 can crash over what an earlier change of the same file has left
            results.append(Result(case, "not made", ended, []))
            return results, case + 1
        if "makes" in current or not current or "result" in current:
            printed = (folder / "printed").read_text(encoding="utf-8", errors="replace")
            raise RuntimeError(f"{fuzzer.name}, seed {fuzzer.seed}, case {case}: the file could not be made\n{printed}")
        ended = ended or f"crash: exit {status}"
        results.append(Result(case, ended, "the process ended", current["what"]))
    return results, results[-1].case + 1


def campaign(name: str, seed: int, count: int, first: int = 0) -> Campaign:
    """Make and read `count` files."""
    fuzzer = Fuzzer(name, seed)
    done = Campaign(name, seed)
    with tempfile.TemporaryDirectory() as folder:
        place, end = first, first + count
        while place < end:
            results, place = _run(fuzzer, range(place, min(end, place + CHILD)), Path(folder))
            done.results += results
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--reader", choices=list(READERS), required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=1000, help="how many files")
    parser.add_argument("--case", type=int, help="only this file")
    parser.add_argument("--first", type=int, default=0, help="the first case of many")
    parser.add_argument("--keep", type=Path, help="where to keep the file of --case")
    parser.add_argument("--json", type=Path, help="every result as a line of JSON")
    parser.add_argument("--reasons", action="store_true", help="list what was refused for which reason")
    given = parser.parse_args()
    if given.case is not None and given.keep:
        given.keep.write_bytes(Fuzzer(given.reader, given.seed).make(given.case)[0])
    first, count = (given.first, given.count) if given.case is None else (given.case, 1)
    done = campaign(given.reader, given.seed, count, first)
    if given.json:
        given.json.write_text("".join(json.dumps(asdict(result)) + "\n" for result in done.results), encoding="utf-8")
    if given.case is not None:
        print(json.dumps(asdict(done.results[0]), indent=2, ensure_ascii=False))
        sys.exit(done.results[0].failed)
    for result in done.failures:
        print(f"{done.command(result)}\n  {result.outcome}: {result.message}\n  {'; '.join(result.what)}")
    if given.reasons:
        for reason, times in done.reasons.most_common():
            print(f"{times:6d}  {reason}")
    print(done.summary())
    sys.exit(bool(done.failures))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    main()
