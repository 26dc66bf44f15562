"""report.html: what a folder with a model and its export holds, with pictures, in one file."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from snn2chip import chip, ir, places
from snn2chip.data import ImageSet
from snn2chip.errors import InputError, reading
from snn2chip.files import read, write_text
from snn2chip.fit import demand
from snn2chip.fit.table import fit
from snn2chip.ir.encode import encoder_of
from snn2chip.ir.interpreter import evaluate
from snn2chip.passes.fold import folded
from snn2chip.passes.pipeline import Source
from snn2chip.report import cost as costs
from snn2chip.report import fit as cores
from snn2chip.report.tables import EXPORT_COLUMNS, export_rows
from snn2chip.simulate import activity
from snn2chip.simulate.dense import DenseEngine
from snn2chip.text import draw, in_html, in_plot

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse; font-size: 13px; margin: 1em 0 } td, th { padding: 3px 9px; text-align: right }
td:first-child, th:first-child, td.text { text-align: left } tr:nth-child(even) { background: #f4f4f4 }
th { border-bottom: 1px solid #999 } img { max-width: 100% } .ok { color: #186a3b } .bad { color: #b03a2e }
"""


def _html_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{in_html(column)}</th>" for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{in_html(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _picture(figure: Figure, alt: str) -> str:
    buffer = io.BytesIO()
    draw(figure, buffer, format="png", dpi=110)
    return f'<img alt="{in_html(alt)}" src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}">'


def raster_figure(folded: ir.Network, chain: ir.Chain, image: np.ndarray) -> Figure:
    """Spikes of every layer for one image (C, H, W), or events (T, C, H, W): equal ones grey, differing in colour."""
    raw = encoder_of(chain)(image[None])
    float_spikes = evaluate(folded, raw).spikes
    integer = DenseEngine(chain).run(chain.port(raw))
    layers = [layer for layer in chain.layers if next(iter(layer.origin), "") in float_spikes]
    rows = -(-len(layers) // 10)  # a deep network takes several rows
    figure = Figure(figsize=(11, 3.4 * rows), layout="constrained")
    spread = np.random.default_rng(0)
    for index, layer in enumerate(layers):
        axes = figure.add_subplot(rows, -(-len(layers) // rows), index + 1)
        name = next(iter(layer.origin))
        wanted = float_spikes[name][0].flatten(1).numpy()
        start, stop = layer.origin[name]
        found = integer.spikes[layer.name][0, :, start:stop].reshape(len(wanted), -1).astype(bool)
        for spikes, color, size in (
            (wanted & found, "0.65", 1.0),
            (wanted & ~found, "tab:blue", 5.0),
            (found & ~wanted, "tab:red", 5.0),
        ):
            steps, neurons = np.nonzero(spikes)
            # a column a time step, dots spread over its width so that they do not cover each other
            axes.scatter(steps + spread.uniform(-0.4, 0.4, len(steps)), neurons, s=size, color=color, linewidths=0)
        axes.set_title(f"{in_plot(name)}: {int((wanted != found).sum())} of {wanted.size:,} differ", fontsize=9)
        axes.set_xlabel("time step")
        axes.set_xticks(range(len(wanted)))
        axes.set_xlim(-0.5, len(wanted) - 0.5)
        axes.tick_params(labelsize=7)
    figure.axes[0].set_ylabel("neuron")
    figure.suptitle("spikes of one sample: in both (grey), only float (blue), only chip integers (red)", fontsize=10)
    return figure


def layers_figure(layers: Sequence[dict[str, Any]], spikes: dict[str, float]) -> Figure:
    """Share of differing spikes, weight bits and firing rate by layer."""
    figure = Figure(figsize=(11, 2.8), layout="constrained")
    names = [in_plot(layer["name"]) for layer in layers]
    panels = figure.subplots(1, 3)
    panels[0].bar(names, [100 * (layer["error"] or 0) for layer in layers], color="tab:orange")
    panels[0].set_title("error on calibration images, %", fontsize=10)
    panels[1].bar(names, [layer["weight_bits"] for layer in layers], color="tab:blue")
    panels[1].set_title("weight bits used", fontsize=10)
    panels[2].bar(names, [100 * spikes.get(layer["name"], 0.0) for layer in layers], color="tab:green")
    panels[2].set_title("neurons that fire in a step, %", fontsize=10)
    for axes in panels:
        axes.tick_params(axis="x", rotation=45, labelsize=8)
    return figure


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        value = read(path, "JSON")
    except FileNotFoundError:
        return None
    if not isinstance(value, dict):
        raise InputError(f"'{path}' holds a {type(value).__name__}, not what snn2chip writes; make it again")
    return value


_damaged = partial(reading, kind="of another snn2chip", remedy="make it again")


def write(folder: Path, source: Source, chain: ir.Chain, images: ImageSet | ir.IntArray | None, why: str = "") -> Path:
    """Write report.html into the folder of a network's file and its model.net, using what else lies there.

    curves.png, export.json, simulate.json and verify.json are shown where they exist.

    Raises:
        InputError: one of these is damaged.
    """
    metrics = source.metrics
    parts = [f"<h1>{in_html(source.name)}</h1><p>{in_html(source.description)}</p>"]
    simulated = _read_json(folder / "simulate.json")
    rates: dict[str, float] = {}
    said: list[str] = []
    rows, title = [], "accuracy"
    if "float_accuracy" in metrics:
        with _damaged(folder / "model.pt"):
            rows = [["float32, trained network", f"{100 * metrics['float_accuracy']:.2f} %", f"{metrics['samples']:,}"]]
            title = f"accuracy on {metrics['dataset']}"
    if simulated:
        with _damaged(folder / "simulate.json"):
            rates = _firing_rates(chain, simulated)
            steps = simulated["samples"] * simulated["timesteps"]
            said = activity.of_chain(chain, simulated["spikes"], steps, "the simulated samples")
            if "accuracy" in simulated:
                accuracy = f"{100 * simulated['accuracy']:.2f} %"
                rows.append(["chip integers, simulated", accuracy, f"{simulated['samples']:,}"])
    parts += [_html_table((title, "", "samples"), rows)] if rows else []
    parts += [f"<p>note: {in_html(note)}</p>" for note in said]
    curves = folder / "curves.png"
    if curves.exists():
        data = base64.b64encode(curves.read_bytes()).decode()
        parts.append(f'<h2>Training</h2><img alt="curves" src="data:image/png;base64,{data}">')
    exported = _read_json(folder / "export.json")
    if exported:
        with _damaged(folder / "export.json"):
            parts += _export_part(exported["quantize"], chain, rates)
    verified = _read_json(folder / "verify.json")
    if verified:
        with _damaged(folder / "verify.json"):
            verdict = "every exact rung holds" if verified["passed"] else "NOT EQUAL"
            style = "ok" if verified["passed"] else "bad"
            rows = [
                [
                    rung["name"],
                    ("proved" if rung.get("proved") else "yes") if rung["passed"] else "NO",
                    f"{rung['mismatches']:,}",
                    f"{rung['compared']:,}",
                    rung["detail"],
                ]
                for rung in verified["rungs"]
            ]
            parts.append(f'<h2>Verified: <span class="{style}">{verdict}</span></h2>')
            parts.append(_html_table(("rung", "holds", "mismatches", "compared", "detail"), rows))
            parts += [f"<p>note: {in_html(note)}</p>" for note in verified.get("notes", ())]
    made_for = str(chain.made.get("chip"))
    profile = chip.with_cores(chip.load(made_for)) if made_for in places.chip_files() else None
    parts.append(f"<h2>On the cores of {in_html(made_for if profile is None else profile.name)}</h2>")
    if profile is not None:
        found = fit(demand.of_chain(chain), profile)
        parts += [f"<p>{in_html(line)}</p>" for line in cores.lines(found)]
        parts.append(_html_table(cores.COLUMNS, cores.rows(found)))
    else:
        parts.append(f"<p>No table: the chip's profile is not in the folder {places.CHIPS_VARIABLE}.</p>")
    if simulated and "cost" in simulated:
        with _damaged(folder / "simulate.json"):
            parts.append(f"<h2>What it costs on {in_html(simulated['cost']['chip'])}</h2>")
            parts += [f"<p>{in_html(line)}</p>" for line in costs.lines(simulated["cost"])]
            parts.append(_html_table(costs.COLUMNS, costs.rows(simulated["cost"])))
    parts.append("<h2>Spikes</h2>")
    if images is None:
        parts.append(f"<p>No pictures: {in_html(why)}</p>")
    else:
        network = folded(source.network)
        for index in range(len(images)):
            shown = f"sample {index}"
            if isinstance(images, ImageSet):
                label = int(images.labels[index])
                named = network.classes[label] if label < len(network.classes) else images.classes[label]
                shown += f", class {named}"
            pixels = images.images[index].numpy() if isinstance(images, ImageSet) else images[index]
            parts.append(f"<p>{in_html(shown)}</p>{_picture(raster_figure(network, chain, pixels), 'raster')}")
    made = ", ".join(f"{key} {value}" for key, value in chain.made.items() if key not in ("scales", "rounding"))
    parts.append(f"<p><small>{in_html(made)}</small></p>")
    page = "\n".join(parts)
    target = folder / "report.html"
    write_text(
        target,
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{in_html(source.name)}</title>'
        f"<style>{_STYLE}</style><body>{page}</body></html>\n",
    )
    return target


class _Row:
    """Attribute access to a layer's dictionary from export.json."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.__dict__.update(values)
        largest = values["bound"] if values["proved"] or values["seen"] is None else values["seen"]
        self.headroom = values["limit"] / max(1, largest)


def _firing_rates(chain: ir.Chain, simulated: dict[str, Any]) -> dict[str, float]:
    """Share of neurons that fire in a step, by netx layer number."""
    steps = simulated["samples"] * simulated["timesteps"]
    return {
        layer.name: simulated["spikes"].get(layer.name, 0) / (steps * int(np.prod(layer.shape)))
        for layer in chain.layers
    }


def _export_part(quantized: dict[str, Any], chain: ir.Chain, rates: dict[str, float]) -> list[str]:
    names = (layer["name"] for layer in quantized["layers"])
    by_name = {name: rates.get(layer.name, 0.0) for name, layer in zip(names, chain.layers, strict=False)}
    rows = export_rows([_Row(layer) for layer in quantized["layers"]])
    return [
        "<h2>On the chip</h2>",
        _picture(layers_figure(quantized["layers"], by_name), "layers"),
        _html_table(EXPORT_COLUMNS, rows),
    ]
