"""What exporting large networks takes, stage by stage, in time and in memory: the figures of docs/large.md.

    python bench/large.py            # what docs/large.json lacks, then the page; alone on the machine
    python bench/large.py --again    # everything anew
    python bench/large.py --small    # that it runs: small images, printed and not kept
    python bench/large.py --draw     # the page and its picture again

Networks are recipes, untrained, normalized on smooth noise. Each runs in a process of its own; the memory of a stage is
the largest resident set while it ran, so it holds what the stages before left. A run that was broken off goes on where
it was.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import harness
import numpy as np
import torch
from matplotlib.figure import Figure
from speed_networks import normalize

from snn2chip import chip, ir, recipe
from snn2chip.data import ImageSet
from snn2chip.fit import demand
from snn2chip.fit import table as fits
from snn2chip.formats import netx
from snn2chip.nn import model_file
from snn2chip.passes.capture import capture
from snn2chip.passes.fold import fold
from snn2chip.passes.lower import lower
from snn2chip.passes.quantize import quantize
from snn2chip.passes.schedule import schedule

PAGE, FIGURES, PICTURE = (harness.ROOT / "docs" / f"large.{kind}" for kind in ("md", "json", "png"))
BEGIN, END = "<!-- large: begin -->", "<!-- large: end -->"
STAGES = ("capture", "fold", "schedule", "quantize", "lower", "save", "load", "fit")
TARGETS = {  # seconds from capture to the saved file, and GB; on two cores alone
    "ResNet-34, 224": (120, 8),
    "ResNet-50, 224": (180, 12),
    "ResNet-19, 32": (20, None),
    "cifar10-vgg-tdbn-t2, 32, 256 images": (15, None),
}
Value = TypeVar("Value")
Layers = list[dict[str, Any]]


def _conv(channels: int | None = None, **more: Any) -> dict[str, Any]:
    return {"type": "conv", "norm": "tdbn", **({} if channels is None else {"channels": channels}), **more}


def _end(*hidden: int) -> Layers:
    dense: Layers = [{"type": "dense", "features": size, "bias": False, "norm": "tdbn"} for size in hidden]
    return [{"type": "globalavgpool"}, *dense, {"type": "dense", "features": "classes", "neuron": False}]


def vgg16() -> Layers:
    """Thirteen convolutions, the pools after them as strides of the next."""
    widths = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
    strides = (1, 1, 2, 1, 2, 1, 1, 2, 1, 1, 2, 1, 1)
    return [*(_conv(width, stride=stride) for width, stride in zip(widths, strides, strict=True)), *_end()]


def mobilenet() -> Layers:
    """MobileNet's form: a depthwise and a pointwise convolution in turn, each with neurons."""
    widths, strides = (64, 128, 128, 256, 256, *[512] * 6, 1024, 1024), (1, 2, 1, 2, 1, 2, *[1] * 5, 2, 1)
    pairs = zip(widths, strides, strict=True)
    both = [[_conv(depthwise=True, stride=stride), _conv(width, kernel=1)] for width, stride in pairs]
    return [_conv(32, stride=2), *(item for pair in both for item in pair), *_end()]


def residual(blocks: int, width: int) -> Layers:
    """A stem and so many basic blocks of one width at a quarter of the resolution."""
    return [_conv(width, kernel=7, stride=4), {"type": "residual", "channels": width, "blocks": blocks}, *_end()]


def runs() -> dict[str, dict[str, Any]]:
    """By title: recipe or layers, side, classes, images."""

    def of(network: str | Layers, side: int = 224, classes: int = 1000, images: int = 64) -> dict[str, Any]:
        return {"given": network, "side": side, "classes": classes, "images": images}

    found = {
        "ResNet-19, 32": of("resnet19", 32, 10),
        "cifar10-vgg-tdbn-t2, 32, 256 images": of("cifar10-vgg-tdbn-t2", 32, 10, 256),
        "ResNet-34, 224": of("resnet34"),
        "ResNet-50, 224": of("resnet50"),
        "VGG-16, 224": of(vgg16()),
        "MobileNet, 224": of(mobilenet()),
    }
    base: dict[str, Any] = {"blocks": 4, "width": 64, "side": 112, "images": 32}
    growth = {"blocks": (2, 8, 16), "width": (32, 128, 256), "side": (56, 224), "images": (16, 64, 128, 512)}
    for name, values in {"all": (base["blocks"],), **growth}.items():
        for value in values:
            now = base if name == "all" else {**base, name: value}
            title = f"{now['blocks']} blocks of {now['width']}, {now['side']}, {now['images']} images"
            found[title] = of(residual(now["blocks"], now["width"]), now["side"], 100, now["images"])
    return found


def noise(count: int, side: int, seed: int) -> torch.Tensor:
    """Images whose neighbouring pixels are alike, uint8."""
    rng, grain = np.random.default_rng(seed), max(2, side // 16)
    coarse = rng.integers(0, 256, (count, 3, -(-side // grain), -(-side // grain)))
    fine = np.kron(coarse, np.ones((1, 1, grain, grain)))[:, :, :side, :side]
    fine += rng.normal(0, 10, fine.shape)
    return torch.from_numpy(np.clip(fine, 0, 255).astype(np.uint8))


def network_of(given: str | Layers, side: int, classes: int) -> torch.nn.Module:
    """The untrained network in eval mode, its normalizations set on eight images of noise."""
    torch.manual_seed(0)
    chosen = recipe.load("cifar10-vgg-tdbn-t2" if isinstance(given, list) else given)
    if isinstance(given, list):
        chosen = recipe.parse({**chosen.model_dump(), "model": {"timesteps": 4, "layers": given}})
    network = model_file.build_network(chosen, (3, side, side), classes, 255, [0.5] * 3, [0.25] * 3)
    return normalize(network, noise(8, side, 1).long())


def measured(given: str | Layers, side: int, classes: int, images: int) -> dict[str, Any]:
    """Seconds and GB of every stage, and what came of it."""
    network = network_of(given, side, classes)
    names = tuple(map(str, range(classes)))
    data = ImageSet("noise:train", noise(images, side, 2), torch.zeros(images, dtype=torch.int64), names, 255, "noise")
    profile, found = chip.load("loihi2"), {}

    def stage(name: str, work: Callable[[], Value]) -> Value:
        Path("/proc/self/clear_refs").write_text("5")  # the largest resident set starts anew
        start = time.perf_counter()
        made = work()
        seconds = time.perf_counter() - start
        status = Path("/proc/self/status").read_text()
        peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
        found[name] = [round(seconds, 2), round(peak * 1024 / 1e9, 2)]
        return made

    captured = stage("capture", lambda: capture(network, names))
    folded, _ = stage("fold", lambda: fold(captured))
    plan = stage("schedule", lambda: schedule(folded, profile))
    quantized, report = stage("quantize", lambda: quantize(folded, profile, plan, calibration=data))
    chain, _ = stage("lower", lambda: lower(quantized, profile, plan))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.net"
        stage("save", lambda: netx.save(file, chain))
        loaded = stage("load", lambda: netx.load(file))
    stage("fit", lambda: fits.fit(demand.of_chain(loaded), profile))
    weights = sum(item.weight.size for item in (*folded.of(ir.Conv), *folded.of(ir.Dense)))
    return {**found, "weights": weights, "agree": report.agree, "plain": report.agree_plain}


def page(figures: dict[str, Any]) -> str:
    """The tables, and the targets."""
    lines = [f"- {name.replace('_', ' ')}: {value}" for name, value in figures["machine"].items()]
    rows, targets = [], []
    for title, row in figures["runs"].items():
        saved = STAGES[: STAGES.index("save") + 1]
        total, peak = sum(row[name][0] for name in saved), max(row[name][1] for name in saved)
        cells = [f"{row[name][0]:.1f} s, {row[name][1]:.1f} GB" for name in STAGES]
        rows.append([title, *cells, f"{total:.1f} s", f"{peak:.1f} GB"])
        if title in TARGETS:
            seconds, memory = TARGETS[title]
            room = "" if memory is None else f" and {memory} GB"
            met = total <= seconds and (memory is None or peak <= memory)
            targets.append([title, f"{seconds} s{room}", f"{total:.1f} s, {peak:.1f} GB", "yes" if met else "no"])
    head = ["network", *STAGES, "to the saved file", "peak"]
    goals = harness.table(["network", "target", "measured", "met"], targets, texts=(0, 3))
    return "\n".join(["", *lines, "", *goals, "", *harness.table(head, rows), "", f"![Growth]({PICTURE.name})", ""])


def draw(figures: dict[str, Any]) -> None:
    """Seconds of every stage, a bar a run."""
    titles = list(figures["runs"])
    figure = Figure(figsize=(9, 0.35 * len(titles) + 1.2), layout="constrained")
    axes, left = figure.add_subplot(), np.zeros(len(titles))
    for name in STAGES:
        seconds = np.array([figures["runs"][title][name][0] for title in titles])
        axes.barh(titles, seconds, left=left, label=name)
        left += seconds
    axes.invert_yaxis()
    axes.set_xlabel("seconds")
    axes.legend(ncols=4, frameon=False)
    harness.plain(axes, "x")
    harness.save(figure, PICTURE)


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--again", action="store_true", help="measure what is there, too")
    parser.add_argument("--small", action="store_true", help="32x32, 4 images, printed only")
    parser.add_argument("--draw", action="store_true", help="the page alone")
    parser.add_argument("--one", help="one run, as JSON: what this program starts for each")
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measured(**json.loads(given.one))))
        return
    figures: dict[str, Any] = {"machine": harness.machine(torch.get_num_threads()), "runs": {}}
    if FIGURES.exists() and not (given.again or given.small):
        kept = json.loads(FIGURES.read_text())
        figures = kept if given.draw else {**figures, "runs": kept["runs"]}
    if not given.draw:
        for title, asked in runs().items():
            if title in figures["runs"]:
                continue
            asked |= {"side": 32, "images": 4} if given.small else {}
            command = [sys.executable, __file__, "--one", json.dumps(asked)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            figures["runs"][title] = json.loads(done.stdout)
            print(title, done.stdout.strip(), flush=True)
            harness.keep(None if given.small else FIGURES, figures)
    if not given.small:
        draw(figures)
        harness.fill(PAGE, BEGIN, END, page(figures))


if __name__ == "__main__":
    main()
