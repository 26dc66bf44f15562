"""Random networks through every stage, by the thousand: each passes all of them, or is refused in one line.

    python tests/attack_networks.py --count 2000 [--jobs 2] [--lava 20]     many, and what came of them
    python tests/attack_networks.py --seed 77                               one again

In train mode, in float32 and float64, with fused neurons and without: the spikes of every neuron are those of its own
currents; the loss and every gradient are those of torch's float64 operations with the same neurons firing; where sums
are exact, all four fire alike and as written out. In eval mode: module = written out = captured = folded, the file read
back = the chain, branching graph = chain, reference = dense = events, and, for a share of them, ONNX Runtime, NIR read
back, the verdict of `verify`, and with --lava Lava.
"""

from __future__ import annotations

import argparse
import copy
import functools
import json
import multiprocessing
import re
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from attack_draw import Drawn, draw, membranes, plain
from branching import Stages, same_spikes, within_the_chip
from helpers import run_in_lava
from torch import Tensor
from torch.nn import functional as F

from snn2chip import chip, ir
from snn2chip.errors import InputError
from snn2chip.formats import netx, nir
from snn2chip.formats.onnx import run as onnx_runtime
from snn2chip.ir.encode import encoder_of
from snn2chip.ir.interpreter import evaluate
from snn2chip.ir.trace import Trace
from snn2chip.nn import LIF
from snn2chip.nn.model_file import Model
from snn2chip.nn.neuron import fuse_neurons
from snn2chip.passes import pipeline
from snn2chip.passes.capture import capture
from snn2chip.recipe import Recipe, parse
from snn2chip.simulate import reference
from snn2chip.simulate.dense import DenseEngine
from snn2chip.simulate.engines import make_engine
from snn2chip.verify.compare import module_spikes
from snn2chip.verify.ladder import verify

SILENCE = 180.0  # seconds of the clock for one network


class Different(Exception):  # noqa: N818  (a verdict, not a fault)
    """Two stages that had to be equal are not."""


def same(what: str, left: Any, right: Any, room: float = 0.0) -> int:
    """Refuse arrays that differ by more than `room`; how many values there are."""
    left, right = np.asarray(left), np.asarray(right)
    if left.shape != right.shape:
        raise Different(f"{what}: shapes {left.shape} and {right.shape}")
    differs = left != right if not room else ~(np.abs(left - right) <= room)
    if differs.any():
        at = tuple(int(i) for i in np.argwhere(differs)[0])
        raise Different(f"{what}: {int(differs.sum())} of {left.size} differ, first {left[at]} and {right[at]} at {at}")
    return int(left.size)


def same_named(what: str, left: dict[str, Any], right: dict[str, Any]) -> int:
    """`same` of every layer."""
    if set(left) != set(right):
        raise Different(f"{what}: layers {sorted(set(left) ^ set(right))} are on one side only")
    return sum(same(f"{what}: {name}", left[name], right[name]) for name in left)


def same_fields(what: str, left: Any, right: Any) -> None:
    """Two of one dataclass, field by field."""
    for item in fields(left):
        a, b = getattr(left, item.name), getattr(right, item.name)
        if isinstance(a, dict):
            a, b = ([[name, *values] for name, values in sorted(table.items())] for table in (a, b))
        if hasattr(a, "__dataclass_fields__"):
            same_fields(f"{what}.{item.name}", a, b)
        else:
            same(f"{what}.{item.name}", a, b)


def same_traces(what: str, left: Trace, right: Trace) -> int:
    """Spikes, voltages and scores of two engines."""
    count = same(f"{what}: scores", left.scores, right.scores)
    return count + sum(same_named(f"{what}: {k}", vars(left)[k], vars(right)[k]) for k in ("spikes", "voltage"))


def train(drawn: Drawn) -> int:
    """Forward and backward in train mode, four ways, each against `plain`; returns how many spikes were compared."""
    compared, found = 0, {}
    for dtype, fused in ((d, f) for d in (torch.float32, torch.float64) for f in (True, False)):
        what = f"{'fused' if fused else 'unfused'} {str(dtype).removeprefix('torch.')}"
        network = copy.deepcopy(drawn.network).to(dtype).train().to(memory_format=torch.channels_last)
        if fused:
            fuse_neurons(network, torch.device("cpu"))
        seen: dict[str, tuple[Tensor, Tensor]] = {}
        neurons = {name: m for name, m in network.body.get_submodule("net").named_children() if isinstance(m, LIF)}
        for name, module in neurons.items():

            def keep(_: object, inputs: Any, output: Tensor, name: str = name, seen: Any = seen) -> None:
                seen[name] = inputs[0].detach().clone(), output.detach().clone()

            module.register_forward_hook(keep)
        images = drawn.images.to(dtype)
        images = images.contiguous(memory_format=torch.channels_last) if images.ndim == 4 else images
        x = network.encoder(images).to(dtype)
        given = x.detach().double()
        loss = F.cross_entropy(network.readout(network.body(x)), drawn.labels)
        loss.backward()

        forced = {}
        for name, (current, spikes) in seen.items():
            tau, threshold = neurons[name].tau.detach(), neurons[name].threshold.detach()
            forced[name] = torch.stack(membranes(current, tau, threshold)), threshold
            compared += same(f"{what}: spikes of {name} and its currents", spikes, forced[name][0] > threshold)
        found[what] = {name: spikes.double() for name, (_, spikes) in seen.items()}
        twin = copy.deepcopy(drawn.network).double().train()
        wanted, result = plain(twin, given, True, forced)
        true_loss = F.cross_entropy(result.mean(0), drawn.labels)
        true_loss.backward()  # type: ignore[no-untyped-call]
        single = dtype == torch.float32
        for name, us in wanted.items():  # float32's own rounding, which a norm of small variance multiplies
            room = max(1.0, float(us.abs().max())) * (3e-2 if single else 1e-9)
            same(f"{what}: membranes of {name}", forced[name][0].double(), us, room)
        same(f"{what}: loss", loss.item(), true_loss.item(), (1e-3 if single else 1e-9) * max(1, true_loss.item()))
        theirs = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in twin.named_parameters()}
        largest = max(float(q.abs().max()) for q in theirs.values())
        for name, p in network.named_parameters():
            if single and name.endswith(".bias") and float(theirs[name].abs().max()) < 1e-9 * largest:
                continue  # a bias before a norm: all that it gets is rounding
            # where every true gradient is 0, terms of the loss's own size cancel, and leave what float32 rounds of them
            room = (1e-8 if single else 1e-12) + (1e-2 if single else 1e-7) * float(theirs[name].abs().max())
            room += (1e-3 if single else 1e-8) * largest
            same(f"{what}: gradient of {name}", 0 * p.detach() if p.grad is None else p.grad, theirs[name], room)
    if drawn.exact and not drawn.normed:
        alone, _ = plain(copy.deepcopy(drawn.network).double().train(), given, True, {})
        fired = {name: (us > float(neurons[name].threshold.detach())).double() for name, us in alone.items()}
        compared += sum(same_named(f"exact, {what} and written out", spikes, fired) for what, spikes in found.items())
    return compared


@functools.cache
def recipe() -> Recipe:
    """Any recipe: of one, the export says the name."""
    layers = [{"type": "flatten"}, {"type": "dense", "features": "classes"}]
    model = {"timesteps": 1, "readout": "spike_count", "layers": layers}
    return parse({"name": "attack", "data": {"name": "digits"}, "model": model, "train": {"epochs": 1}})


def to_chip(seed: int, drawn: Drawn, folder: Path, with_lava: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Every stage of eval mode; returns figures."""
    network = drawn.network.eval()
    say("export")
    profile = chip.load(drawn.chip).with_weight_bits(drawn.bits)
    classes = tuple(f"class {i}" for i in range(drawn.classes))
    model = Model(network, recipe(), network.encoder.max_value, classes, {})
    calibration = encoder_of(capture(network), 0)(drawn.images) if drawn.calibrate else None
    options: dict[str, Any] = {"strategy": drawn.strategy, "relays": drawn.relays, "calibration": calibration}
    made = pipeline.export(model, profile, **options)
    raw = encoder_of(made.captured, seed)(drawn.images)

    say("module = written out = captured = folded")
    spikes, scores = module_spikes(network, raw)
    captured, folded = evaluate(made.captured, raw), evaluate(made.folded, raw)
    compared = same_named("module = captured", spikes, {name: s.numpy() for name, s in captured.spikes.items()})
    compared += same_named("captured = folded", spikes, {name: folded.spikes[name].numpy() for name in spikes})
    size = max(1.0, float(np.abs(scores).max()))
    same("scores: module = captured", scores, captured.scores.numpy(), 1e-6 * size)
    same("scores: captured = folded", captured.scores.numpy(), folded.scores.numpy(), 1e-9 * size)
    twin = copy.deepcopy(network).double()
    with torch.no_grad():
        x = torch.from_numpy(raw).transpose(0, 1)
        written, _ = plain(twin, twin.encoder(x[0]) if twin.encoder.coding == "direct" else x.double(), False, {})
    for name, us in written.items():
        above = us - twin.body.get_submodule(f"net.{name}").threshold.detach()
        sure = (above.abs() > 1e-6 * max(1.0, float(us.abs().max()))) | drawn.exact
        fires = (above > 0).transpose(0, 1).numpy()
        sure = sure.transpose(0, 1).numpy()
        compared += same(f"written out = module: {name}", fires & sure, spikes[f"net.{name}"] & sure)

    say("file")
    path = folder / "attack.net"
    netx.save(path, made.chain)
    read = netx.load(path)
    for mine, other in zip(made.chain.layers, read.layers, strict=True):
        same_fields(f"layer {mine.name}", mine, other)
    for name in ("input_shape", "raw_shape", "coding", "low", "high", "center", "timesteps", "readout", "classes"):
        same(name, getattr(made.chain, name), getattr(read, name))

    say("graph = chain, reference = dense = events")
    stages = Stages(made.folded, made.plan, made.quantized, read, made.lower_report)
    if read.stock:
        within_the_chip(stages, profile)
    dense, events = DenseEngine(read), make_engine(read, kind="events")
    same("the event engine's note", events.note, None)
    extreme = np.random.default_rng([seed, 1]).choice([read.low, read.high], raw.shape)
    for port in (read.port(extreme), read.port(raw)):
        run = dense.run(port)
        same_spikes(stages, run, port)
        compared += same_traces("reference = dense", reference.run(read, port), run)
        compared += same_traces("dense = events", run, events.run(port))

    figures: dict[str, Any] = {"fires": [float(np.mean(s)) for s in spikes.values()]}
    if seed % 3 == 0:
        say("onnx")
        compared += same_traces("dense = ONNX Runtime", run, onnx_runtime.run(read, raw, threads=1))
    elif seed % 3 == 1:
        say("nir")
        compared += through_nir(made.folded, raw, folder, figures)
    else:
        say("verify")
        verdict = verify(model, read, drawn.images.numpy(), with_lava=False)
        for rung in verdict.rungs:
            if rung.mismatches and rung.name != "folded ~ integers":
                raise Different(f"{rung.name}: {rung.mismatches} of {rung.compared}, {rung.detail}")
    if with_lava:
        say("lava")
        compared += same_traces("dense = Lava", run, run_in_lava(read, port, folder))
    return {**figures, "compared": compared}


def through_nir(folded: ir.Network, raw: ir.IntArray, folder: Path, figures: dict[str, Any]) -> int:
    """The folded network as a NIR file, and what is read from it."""
    try:
        nir.save(folder / "attack.nir", folded)
    except InputError as error:
        figures["no NIR"] = str(error)
        return 0
    back = nir.load(folder / "attack.nir")
    for mine, other in zip(folded.nodes, back.nodes, strict=True):
        same_fields(f"NIR: {mine.name}", mine, other)
    left, right = evaluate(folded, raw), evaluate(back, raw)
    return same_named("folded = NIR", left.spikes, right.spikes) + same("NIR: scores", left.scores, right.scores)


def one(seed: int, with_lava: bool = False) -> dict[str, Any]:
    """A network through every stage: what came of it, as plain values; `stages` are those it came to."""
    result: dict[str, Any] = {"seed": seed, "outcome": "equal", "compared": 0, "stages": ["draw"]}
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="nir")
        try:
            drawn = draw(seed)
            result["what"] = sorted(drawn.what)
            if drawn.trainable:
                result["stages"].append("train")
                result["compared"] += train(drawn)
            figures = to_chip(seed, drawn, Path(folder), with_lava, result["stages"].append)
            result |= {**figures, "compared": result["compared"] + figures["compared"]}
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            message, stage = str(error), result["stages"][-1]
            refused = isinstance(error, InputError) and stage == "export"
            result["outcome"] = "refused" if refused and len(message.splitlines()) == 1 else "failed"
            result["message"] = f"{stage}: {type(error).__name__}: {' '.join(message.split())[:400]}"
            result["where"] = traceback.format_exc(limit=-4)
    return result


def many(seeds: list[int], jobs: int, lava_below: int) -> Iterator[dict[str, Any]]:
    """Results of `one` in the order of the seeds, from other processes; one that dies or hangs is a result too."""
    torch.set_num_threads(1)
    done = 0
    while done < len(seeds):
        with multiprocessing.get_context("fork").Pool(jobs, maxtasksperchild=200) as pool:
            given = [(seed, seed < lava_below) for seed in seeds[done:]]
            found = [pool.apply_async(one, item) for item in given]
            try:
                for item in found:
                    yield item.get(SILENCE)
                    done += 1
            except multiprocessing.TimeoutError:
                yield {"seed": seeds[done], "outcome": "failed", "compared": 0, "message": "a crash or a hang"}
                done += 1


def campaign(count: int, first: int = 0, jobs: int = 1, lava_below: int = 0) -> tuple[list[dict[str, Any]], str]:
    """Failures, printed as they come, and a summary."""
    results: list[dict[str, Any]] = []
    started = time.monotonic()
    for result in many(list(range(first, first + count)), jobs, lava_below):
        results.append(result)
        if result["outcome"] == "failed":
            print(f"python tests/attack_networks.py --seed {result['seed']}\n  {result['message']}", flush=True)
        if len(results) % 100 == 0:
            print(f"{len(results)} of {count} networks, {time.monotonic() - started:.0f} s", flush=True)

    def reasons(key: str, kept: list[dict[str, Any]]) -> list[str]:
        plainly = (re.sub(r"'[^']*'|\(.*?\)|\[.*?\]|-?\d[\d.,e+-]*", "…", r[key])[:150] for r in kept)
        return [f"{times:6d}  {key}: {reason}" for reason, times in Counter(plainly).most_common()]

    refused = [r for r in results if r["outcome"] == "refused"]
    failed = [r for r in results if r["outcome"] == "failed"]
    lines = reasons("message", refused) + reasons("no NIR", [r for r in results if "no NIR" in r])
    what = Counter(item for r in results for item in r.get("what", ()))
    lines.append("; ".join(f"{item}: {times}" for item, times in sorted(what.items())))
    rates = [rate for r in results for rate in r.get("fires", ())]
    lines.append(f"{sum(0 < rate < 1 for rate in rates)} of {len(rates)} layers of neurons fire, and not always")
    stages = Counter(stage for r in results if r not in refused for stage in r.get("stages", ()))
    shares = ", ".join(f"{stages[stage]} {stage}" for stage in ("train", "onnx", "nir", "verify", "lava"))
    compared = sum(r["compared"] for r in results)
    lines.append(
        f"{len(results)} networks ({shares}), {len(refused)} refused; {compared:,} spikes, voltages and scores "
        f"compared, {len(failed)} networks with differences"
    )
    return failed, "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seed", type=int, help="only this network")
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0, help="the first seed of many")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--lava", type=int, default=0, help="run the networks of smaller seeds in Lava too")
    given = parser.parse_args()
    if given.seed is not None:
        result = one(given.seed, given.seed < given.lava)
        print(f"{result.pop('where', '')}{json.dumps(result, indent=2)}")
        sys.exit(result["outcome"] == "failed")
    failed, summary = campaign(given.count, given.first, given.jobs, given.lava)
    print(summary)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
