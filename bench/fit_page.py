"""docs/fit.md's tables: what `snn2chip fit` says of the published networks beside what Intel's compiler printed.

    python bench/fit_page.py ../shared/data/loihi2/published.json

published.json and the netx files beside it are the outputs and networks of lava-dl's notebooks (BSD-3-Clause).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from snn2chip import chip
from snn2chip.cli.common import guarded
from snn2chip.errors import InputError
from snn2chip.files import read, write_text
from snn2chip.fit import demand, table

PAGE = Path(__file__).resolve().parent.parent / "docs" / "fit.md"
BEGIN, END = "<!-- made by bench/fit_page.py -->", "<!-- end -->"


def filled(page: str, published: Path) -> str:
    """The page with its tables made anew.

    Raises:
        InputError: the page has not one pair of markers, or a file is not what it should be.
    """
    if page.count(BEGIN) != 1 or page.count(END) != 1:
        raise InputError(f"the page has not one '{BEGIN}' and one '{END}'")
    tables = [
        _table(name, about, published.with_name(about["file"]))
        for name, about in read(published, "JSON")["networks"].items()
    ]
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n\n{''.join(tables)}{END}{rest.split(END)[1]}"


def _table(name: str, about: dict[str, Any], net: Path) -> str:
    found = table.fit(demand.of_file(net), chip.load("loihi2"))
    capacity = found.chip.cores
    lines = [f"### {name}: {found.cores} cores, printed {about['cores']}; {found.fewest_cores} by search\n"]
    lines.append("| layer | tile | cores | neurons | axons in | axons out | synaptic words | |")
    lines.append("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for layer, said in zip(found.layers, about["layers"], strict=True):
        assert layer.placed is not None
        uses = layer.placed.uses(capacity)

        def mean(key: str, uses: list[Any] = uses) -> int:
            return sum(getattr(use, key) for use in uses) // len(uses)

        if about["as"].startswith("share"):
            ours = {
                "axon_in": f"{100 * layer.use.axons_in / capacity.axons_in.value:.2f} %",
                "neurons": f"{100 * layer.use.neurons / capacity.neurons.value:.2f} %",
                "synapses": f"{100 * layer.use.synaptic_words / capacity.synaptic_words.value:.2f} %",
                "axon_map": f"{100 * layer.use.axons_out / capacity.axons_out.value:.2f} %",
            }
            theirs = {key: f"{said[key]:.2f} %" for key in ours}
        else:
            neurons = layer.use.neurons if "tile" in said else mean("neurons")
            figures = {"axon_in": layer.use.axons_in, "neurons": neurons}
            figures |= {"synapses": mean("synaptic_words"), "axon_map": mean("axons_out")}
            ours = {key: f"{value:,}" for key, value in figures.items()}
            theirs = {key: f"{said[key]:,}" if key in said else "" for key in ours}
        tile = "" if layer.layer.kind == "dense" else "x".join(map(str, layer.placed.tile))
        pairs = [(tile, "x".join(map(str, said.get("tile", ())))), (f"{layer.cores}", f"{said['cores']}")]
        pairs += [(ours[key], theirs[key]) for key in ("neurons", "axon_in", "axon_map", "synapses")]
        differs = any(theirs_ and ours_ != theirs_ for ours_, theirs_ in pairs)
        cells = " | ".join(f"{a} / {b}" if b else (f"{a} / -" if a else "") for a, b in pairs)
        lines.append(f"| {layer.layer.name} | {cells} | {'**differs**' if differs else ''} |")
    return "\n".join(lines) + "\n\n"


@guarded
def main(published: Annotated[Path, typer.Argument(help="published.json, its networks beside it.")]) -> None:
    """Write the tables into docs/fit.md."""
    write_text(PAGE, filled(PAGE.read_text(encoding="utf-8"), published))
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    typer.run(main)
