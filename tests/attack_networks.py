"""Random networks through every stage, by the thousand: each passes all of them, or is refused in one line.

    python -m tests.attack_networks --count 2000 [--jobs 2] [--lava 20]     many, and what came of them
    python -m tests.attack_networks --seed 77                               one again

In train mode, in float32 and float64, with fused neurons and without: the spikes of every neuron are those of its own
currents, and the loss and every gradient are those of torch's own float64 operations with the same neurons firing; where
sums are exact, all four fire alike and as written out. In eval mode: module = written out = captured = folded, the file
read back = the chain, branching graph = chain, reference = dense = events, and, for a share of them, ONNX Runtime,
NIR read back, the verdict of `verify`, and with --lava Lava.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import dataclasses
import functools
import importlib
import json
import os
import re
import select
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

SILENCE = 180.0  # seconds of the clock for one network
CHILD = 100  # networks a child


class Different(Exception):
    """Two stages that had to be equal are not."""


def same(what: str, left: Any, right: Any, room: float = 0.0) -> int:
    """Refuse arrays that differ by more than `room`; how many values there are."""
    import numpy as np

    left, right = np.asarray(left), np.asarray(right)
    if left.shape != right.shape:
        raise Different(f"{what}: shapes {left.shape} and {right.shape}")
    differs = left != right if not room else ~(np.abs(left - right) <= room)
    if differs.any():
        at = tuple(int(i) for i in np.argwhere(differs)[0])
        raise Different(f"{what}: {int(differs.sum())} of {left.size} differ, first {left[at]} and {right[at]} at {at}")
    return int(left.size)


def same_named(what: str, left: dict[str, Any], right: dict[str, Any], room: float = 0.0) -> int:
    if set(left) != set(right):
        raise Different(f"{what}: layers {sorted(set(left) ^ set(right))} are on one side only")
    return sum(same(f"{what}: {name}", left[name], right[name], room) for name in left)


# ------------------------------------------------------------------------------------------------------- training


def train(drawn: Any) -> int:
    """Forward and backward in train mode, four ways, each against `plain`; returns how many spikes were compared."""
    import torch
    from attack_draw import membranes, plain
    from torch.nn import functional as F

    from snn2chip.nn import LIF
    from snn2chip.nn.fuse import fuse_neurons

    spikes_of: dict[str, dict[str, Any]] = {}
    compared = 0
    for dtype in (torch.float32, torch.float64):
        for fused in (True, False):
            what = f"{'fused' if fused else 'unfused'} {str(dtype).removeprefix('torch.')}"
            network = copy.deepcopy(drawn.network).to(dtype).train().to(memory_format=torch.channels_last)
            if fused:
                fuse_neurons(network, torch.device("cpu"))
            seen: dict[str, tuple[Any, Any]] = {}

            def keep(module: Any, inputs: Any, output: Any, seen: Any = seen, layers: Any = None) -> None:
                seen[module.attack_name] = (inputs[0].detach().clone(), output.detach().clone())

            neurons = {name: m for name, m in network.body.net.named_children() if isinstance(m, LIF)}
            for name, module in neurons.items():
                module.attack_name = name
                module.register_forward_hook(keep)
            images = drawn.images.to(dtype)
            images = images.contiguous(memory_format=torch.channels_last) if images.ndim == 4 else images
            x = network.encoder(images).to(dtype)
            twin = copy.deepcopy(drawn.network).double().train()
            loss = F.cross_entropy(network.readout(network.body(x)), drawn.labels)
            loss.backward()

            forced = {}
            for name, (current, spikes) in seen.items():
                module = neurons[name]
                us = torch.stack(membranes(current, module.tau.detach(), module.threshold.detach()))
                forced[name] = (us, module.threshold.detach())
                compared += same(f"{what}: spikes of {name} and its currents", spikes, us > module.threshold.detach())
            spikes_of[what] = {name: spikes.double() for name, (_, spikes) in seen.items()}
            # the encoder's float32 numbers are what the network is given
            wanted = plain(twin, x.detach().double(), True, forced)
            reference = F.cross_entropy(wanted.result.mean(0), drawn.labels)
            reference.backward()  # type: ignore[no-untyped-call]
            single = dtype == torch.float32
            for name, us in wanted.membranes.items():
                largest = max(1.0, float(us.abs().max()))
                same(f"{what}: membranes of {name}", forced[name][0].double(), us, largest * (3e-2 if single else 1e-9))
            same(f"{what}: loss", loss.item(), reference.item(), (1e-3 if single else 1e-9) * max(1, reference.item()))
            theirs = dict(twin.named_parameters())
            sizes = [float(p.grad.abs().max()) for p in theirs.values() if p.grad is not None and p.numel()]
            for name, p in network.named_parameters():
                mine, q = (torch.zeros_like(p) if grad is None else grad for grad in (p.grad, theirs[name].grad))
                room = (1e-2 if single else 1e-7) * float(q.abs().max()) + (1e-3 if single else 1e-8) * max(sizes)
                same(f"{what}: gradient of {name}", mine.double(), q, room + 1e-12)
    if drawn.exact and not drawn.normed:
        free = plain(copy.deepcopy(drawn.network).double().train(), x.detach().double(), True, {})
        limits = {name: float(m.threshold.detach()) for name, m in neurons.items()}
        alone = {name: (us > limits[name]).double() for name, us in free.membranes.items()}
        for what, found in spikes_of.items():
            compared += same_named(f"exact sums, {what} and written out", found, alone)
    return compared


# ---------------------------------------------------------------------------------------------------- to the chip


@functools.cache
def recipe() -> Any:
    from snn2chip.recipe import parse

    layers = [{"type": "flatten"}, {"type": "dense", "features": "classes"}]
    model = {"timesteps": 1, "readout": "spike_count", "layers": layers}
    return parse({"name": "attack", "data": {"name": "digits"}, "model": model, "train": {"epochs": 1}})


class Images:
    """What `pipeline.export` asks of a calibration set."""

    name = "attack"

    def __init__(self, images: Any) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)


def traces(what: str, left: Any, right: Any) -> int:
    count = same_named(f"{what}: spikes", left.spikes, right.spikes)
    return (
        count
        + same_named(f"{what}: voltages", left.voltage, right.voltage)
        + same(f"{what}: scores", left.scores, right.scores)
    )


def to_chip(seed: int, drawn: Any, folder: Path, lava_too: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Every stage of eval mode; returns figures."""
    import numpy as np
    import torch
    from attack_draw import plain
    from branching import Stages, same_spikes, within_the_chip

    from snn2chip import chip, pipeline
    from snn2chip.encode import encoder_of
    from snn2chip.formats import netx
    from snn2chip.formats.model_file import Model
    from snn2chip.simulate import reference
    from snn2chip.simulate.dense import DenseEngine
    from snn2chip.simulate.engines import make_engine
    from snn2chip.simulate.floating import evaluate
    from snn2chip.verify import module_spikes

    rng = np.random.default_rng([seed, 1])
    network = drawn.network.eval()
    say("export")
    profile = chip.load(drawn.chip).with_weight_bits(drawn.bits)
    with torch.no_grad():
        found = network(drawn.images[:1])
    classes = tuple(f"class {i}" for i in range(found.shape[1]))
    model = Model(network, recipe(), network.encoder.max_value, classes, {})
    calibration: Any = Images(drawn.images) if drawn.calibrate else None
    made = pipeline.export(model, profile, calibration=calibration, strategy=drawn.strategy, relays=drawn.relays)
    chain = made.chain
    raw = encoder_of(made.captured, seed)(drawn.images)

    say("module = written out = captured = folded")
    spikes, scores = module_spikes(network, raw)
    captured, folded = evaluate(made.captured, raw), evaluate(made.folded, raw)
    twin = copy.deepcopy(network).double()
    x = torch.from_numpy(raw).transpose(0, 1)
    with torch.no_grad():
        x = twin.encoder(x[0]) if drawn.network.encoder.coding == "direct" else x.double()
        written = plain(twin, x, False, {})
    compared = same_named("module = captured", spikes, {name: s.numpy() for name, s in captured.spikes.items()})
    folded_spikes = {name: s.numpy() for name, s in folded.spikes.items() if name in captured.spikes}
    compared += same_named("captured = folded", spikes, folded_spikes)
    for name, us in written.membranes.items():
        module = twin.body.get_submodule(f"net.{name}")
        fires = (us > float(module.threshold.detach())).transpose(0, 1).numpy()
        near = (us - float(module.threshold.detach())).abs() < 1e-6 * max(1.0, float(us.abs().max()))
        sure = np.ones_like(fires) if drawn.exact else ~near.transpose(0, 1).numpy()
        compared += same(f"written out = module: {name}", fires & sure, spikes[f"net.{name}"] & sure)
    size = max(1.0, float(np.abs(scores).max()))
    same("scores: module = captured", scores, captured.scores.numpy(), 1e-6 * size)
    same("scores: captured = folded", captured.scores.numpy(), folded.scores.numpy(), 1e-9 * size)

    say("file")
    path = folder / "attack.net"
    netx.save(path, chain)
    read = netx.load(path)
    for mine, theirs in zip(chain.layers, read.layers, strict=True):
        for item in dataclasses.fields(mine):
            left, right = getattr(mine, item.name), getattr(theirs, item.name)
            if item.name == "steps" and left is not None:
                same_named(f"file: {mine.name}", vars(left), vars(right))
            elif item.name not in ("origin", "steps") or left is None:
                same(f"file: {mine.name}.{item.name}", left, right)
    for name in ("input_shape", "raw_shape", "coding", "low", "high", "center", "timesteps", "readout", "classes"):
        same(f"file: {name}", getattr(chain, name), getattr(read, name))

    say("graph = chain, reference = dense = events")
    stages = Stages(made.folded, made.plan, made.quantized, read, made.lower_report)
    if read.stock:
        within_the_chip(stages, profile)
    dense, events = DenseEngine(read), make_engine(read, kind="events")
    if events.note is not None:
        raise Different(f"the event engine does not run: {events.note}")
    for values in (raw, rng.choice([read.low, read.high], raw.shape)):
        port = read.port(values)
        run = dense.run(port)
        same_spikes(stages, run, port)
        compared += traces("reference = dense", reference.run(read, port), run)
        compared += traces("dense = events", run, events.run(port))
        if values is raw:
            usual = run

    figures: dict[str, Any] = {"fires": [float(np.mean(s)) for s in spikes.values()]}
    if seed % 3 == 0:
        say("ONNX Runtime")
        onnx_runtime = importlib.import_module("snn2chip.formats.onnx_runtime")
        compared += traces("dense = ONNX Runtime", usual, onnx_runtime.run(read, raw, threads=1))
        figures["onnx"] = True
    if seed % 3 == 1:
        say("NIR")
        compared += nir_back(made.folded, raw, folder, figures)
    if seed % 3 == 2:
        say("verify")
        from snn2chip.verify import verify

        verdict = verify(model, read, drawn.images.numpy(), with_lava=False)
        figures["verify"] = verdict.passed
        for rung in verdict.rungs:
            if rung.name != "folded ~ integers" and (rung.mismatches or (not rung.passed and any(figures["fires"]))):
                raise Different(f"verify: {rung.name}: {rung.mismatches} of {rung.compared}, {rung.detail}")
    if lava_too:
        say("Lava")
        from snn2chip import lava
        from snn2chip.simulate import trace

        np.savez_compressed(folder / "input.npz", input=read.port(raw))
        lava.run(path, folder / "input.npz", folder / "trace.npz", progress=False)
        compared += traces("dense = Lava", usual, trace.load(folder / "trace.npz", read))
        figures["lava"] = True
    return {**figures, "compared": compared}


def nir_back(folded: Any, raw: Any, folder: Path, figures: dict[str, Any]) -> int:
    """The folded network as a NIR file, and what is read from it."""
    from snn2chip.errors import InputError
    from snn2chip.formats import nir
    from snn2chip.simulate.floating import evaluate

    try:
        nir.save(folder / "attack.nir", folded)
    except InputError as error:
        figures["no NIR"] = str(error)
        return 0
    back = nir.load(folder / "attack.nir")
    left, right = evaluate(folded, raw), evaluate(back, raw)
    for one, other in zip(folded.nodes, back.nodes, strict=True):
        for item in dataclasses.fields(one):
            same(f"NIR: {one.name}.{item.name}", getattr(one, item.name), getattr(other, item.name))
    figures["nir"] = True
    return same_named("folded = NIR", left.spikes, right.spikes) + same("NIR: scores", left.scores, right.scores)


def one(seed: int, folder: Path, lava_too: bool = False) -> dict[str, Any]:
    """A network through every stage: what came of it, as plain values."""
    from attack_draw import draw

    from snn2chip.errors import InputError

    stage = "draw"

    def say(name: str) -> None:
        nonlocal stage
        stage = name

    result: dict[str, Any] = {"seed": seed, "outcome": "equal", "compared": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="nir")
        try:
            drawn = draw(seed)
            result["what"] = sorted(drawn.what | {"exact"} if drawn.exact else drawn.what)
            if drawn.trainable:
                say("train")
                result["compared"] += train(drawn)
            figures = to_chip(seed, drawn, folder, lava_too, say)
            result = {**result, **figures, "compared": result["compared"] + figures["compared"]}
        except InputError as error:
            message = str(error)
            good = len(message.splitlines()) == 1 and message.isprintable() and stage in ("export", "NIR")
            result |= {"outcome": "refused" if good else "failed", "message": f"{stage}: {message}"}
        except BaseException as error:
            where = "" if isinstance(error, Different) else traceback.format_exc(limit=-4)
            said = " ".join(str(error).split())[:400]
            result |= {"outcome": "failed", "message": f"{stage}: {type(error).__name__}: {said}", "where": where}
    return result


# -------------------------------------------------------------------------------------------------------- processes


def many(seeds: list[int], jobs: int, lava: int) -> Iterator[dict[str, Any]]:
    """Results of `one` as they come, from forked children; a crash or a hang is the result of its network."""
    for name in ("torch", "branching", "snn2chip.pipeline", "snn2chip.verify", "nir", "onnxruntime"):
        importlib.import_module(name)
    import torch

    torch.set_num_threads(1)
    shares = [seeds[start : start + CHILD] for start in range(0, len(seeds), CHILD)]
    running: dict[int, tuple[int, list[int], bytes, float]] = {}
    while shares or running:
        while shares and len(running) < jobs:
            share = shares.pop(0)
            out, into = os.pipe()
            child = os.fork()
            if not child:
                os.close(out)
                with tempfile.TemporaryDirectory() as folder, os.fdopen(into, "w") as pipe:
                    for seed in share:
                        print(json.dumps(one(seed, Path(folder), seed < lava)), file=pipe, flush=True)
                os._exit(0)
            os.close(into)
            running[out] = (child, share, b"", time.monotonic())
        ready, _, _ = select.select(list(running), [], [], 1.0)
        for out in list(running):
            child, share, waiting, heard = running[out]
            block = os.read(out, 2**16) if out in ready else None
            if block:
                *lines, waiting = (waiting + block).split(b"\n")
                for line in lines:
                    yield json.loads(line)
                running[out] = (child, share[len(lines) :], waiting, time.monotonic())
                continue
            hangs = block is None and time.monotonic() - heard > SILENCE
            if block is None and not hangs:
                continue
            if hangs:
                os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            os.close(out)
            del running[out]
            if share:
                ended = "hangs" if hangs else f"the process ended: {os.waitstatus_to_exitcode(status)}"
                yield {"seed": share[0], "outcome": "failed", "message": ended, "compared": 0}
                shares.insert(0, share[1:])
                shares = [share for share in shares if share]


def campaign(count: int, first: int = 0, jobs: int = 1, lava: int = 0, quiet: bool = False) -> tuple[list[Any], str]:
    """Results of `count` networks and a summary; failures are printed as they come."""
    results: list[dict[str, Any]] = []
    started = time.monotonic()
    for result in many(list(range(first, first + count)), jobs, lava):
        results.append(result)
        if result["outcome"] == "failed":
            print(f"python -m tests.attack_networks --seed {result['seed']}\n  {result['message']}", flush=True)
        if not quiet and len(results) % 100 == 0:
            print(f"{len(results)} of {count} networks, {time.monotonic() - started:.0f} s", flush=True)
    plain = re.compile(r"'[^']*'|\(.*?\)|\[.*?\]|-?\d[\d.,e+-]*")
    refused = Counter(plain.sub("…", r["message"])[:150] for r in results if r["outcome"] == "refused")
    not_nir = Counter(plain.sub("…", r["no NIR"])[:150] for r in results if "no NIR" in r)
    lines = [f"{times:6d}  {reason}" for reason, times in refused.most_common()]
    lines += [f"{times:6d}  not for NIR: {reason}" for reason, times in not_nir.most_common()]
    what = Counter(item for r in results for item in r.get("what", ()))
    rates = [rate for r in results for rate in r.get("fires", ())]
    telling = sum(0 < rate < 1 for rate in rates)
    lines.append("; ".join(f"{item}: {times}" for item, times in sorted(what.items())))
    lines.append(f"{telling} of {len(rates)} layers of neurons fire, and not always")
    parts = ", ".join(f"{sum(name in r for r in results)} {name}" for name in ("onnx", "nir", "verify", "lava"))
    failed = sum(r["outcome"] == "failed" for r in results)
    lines.append(
        f"{len(results)} networks, {sum(refused.values())} refused for {len(refused)} reasons, "
        f"{sum(r['compared'] for r in results):,} spikes, voltages and scores compared ({parts}), {failed} differences"
    )
    return results, "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seed", type=int, help="only this network")
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0, help="the first seed of many")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--lava", type=int, default=0, help="run the networks of the first seeds in Lava too")
    given = parser.parse_args()
    if given.seed is not None:
        with tempfile.TemporaryDirectory() as folder:
            result = one(given.seed, Path(folder), given.seed < given.lava)
        where = result.pop("where", "")
        print(f"{json.dumps(result, indent=2)}\n{where}")
        sys.exit(result["outcome"] == "failed")
    results, summary = campaign(given.count, given.first, given.jobs, given.lava)
    print(summary)
    sys.exit(any(result["outcome"] == "failed" for result in results))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    with contextlib.suppress(BrokenPipeError):
        main()
