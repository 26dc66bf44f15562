"""Tables for a terminal of any width, and what their columns mean (`--explain`, docs/tables.md).

A table that is too wide is turned: its columns follow in parts below each other, each with the first column again. No
word is ever broken; one that is wider than the terminal is cut off.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table

_GAP = 2  # between columns
_WORDS = 30  # what a column of words is given at least, if it can use it


@dataclass(frozen=True)
class Sheet:
    """A kind of table: what it is of, its columns by heading with their meaning, and which of them are words (set left,
    and wrapped); the first names the row."""

    about: str
    columns: dict[str, str]
    words: frozenset[str] = frozenset()

    def table(self, title: str, rows: Sequence[Sequence[str]]) -> Wide:
        """The rows as a terminal shows them."""
        return Wide(self, title, rows)


@dataclass(frozen=True)
class Wide:
    """Rows of a `Sheet`, rendered by rich in as many parts as its width asks for."""

    sheet: Sheet
    title: str
    rows: Sequence[Sequence[str]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        if self.title:
            yield console.render_str(self.title, style="bold")
        names, room = list(self.sheet.columns), options.max_width
        widths = [
            max(0, *map(cell_len, heading.split()), *(cell_len(row[index]) for row in self.rows))
            for index, heading in enumerate(names)
        ]
        widths[0] = min(widths[0], room // 2)
        least = [
            min(width, _WORDS if names[index] in self.sheet.words else room - widths[0] - _GAP)
            for index, width in enumerate(widths)
        ]
        least[0] = widths[0]
        part, used = [0], least[0]
        for index in range(1, len(names)):
            if len(part) > 1 and used + _GAP + least[index] > room:
                yield self._part(part, widths, least, room - used)
                part, used = [0], least[0]
            part.append(index)
            used += _GAP + least[index]
        yield self._part(part, widths, least, room - used)

    def _part(self, part: Sequence[int], widths: Sequence[int], least: Sequence[int], free: int) -> Table:
        names = list(self.sheet.columns)
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold", show_edge=False)
        for index in part:
            width = least[index]
            words = names[index] in self.sheet.words
            if words and width < widths[index]:
                more = min(widths[index] - width, free)
                width, free = width + more, free - more
            justify = "left" if words or not index else "right"
            table.add_column(names[index], justify=justify, width=width, overflow="fold" if words else "ellipsis")  # type: ignore[arg-type]
        for row in self.rows:
            table.add_row(*(row[index] for index in part))
        return table


EXPORT = Sheet(
    "layers in the chip's integers",
    {
        "layer": "the layer whose weights were rounded",
        "neuron": "the neuron that it drives",
        "fan-in": "weights that one neuron sees",
        "neurons": "how many there are",
        "synapses": "connections, those beyond borders left out",
        "rule": "how the scale was chosen: largest weight, or the scale with the smallest error on calibration images",
        "rounding": "nearest: each weight by itself; sums: so that the sums over a kernel stay near, too",
        "scale": "a weight of 1 in the trained network is so many units on the chip",
        "threshold": "of the neuron, in units of a weight",
        "weights": "the largest weight",
        "bits": "of a weight that are used: a sign, and log2(largest weight in its own steps + 1)",
        "bias": "the largest bias",
        "error": "share of spikes on calibration images that differ from the float network's; of a readout that "
        "accumulates, relative error of its scores",
        "headroom": "how many times the largest sum of a step fits the chip's accumulator",
        "proved": "whether overflow changes no spike of any input, or none was only seen",
    },
)
LAYOUT = Sheet(
    "where trained layers are on the chip",
    {
        "layer": "layer of the netx file, by number",
        "holds": "the trained layer that these channels are",
        "as": "neurons, a relay of another layer's spikes, or a copy",
        "channels": "first and last",
        "neurons": "how many there are",
        "threshold": "of the layer; tables where it changes with time",
        "relays allow": "the largest threshold with which relays in this layer still pass every spike on",
        "weights alone": "the threshold that the weights would have without relays",
    },
    frozenset({"holds", "as"}),
)
SIMULATION = Sheet(
    "spikes of a simulation",
    {
        "layer": "layer of the netx file, by number",
        "trained as": "the trained layers that it holds",
        "neurons": "shape of the layer",
        "spikes": "over all samples and steps",
        "a sample": "spikes a sample",
        "of all": "spikes in 100 neurons and steps",
        "largest input": "the largest sum of weights that reached a neuron in a step; the limit is 131,071",
    },
    frozenset({"trained as"}),
)
STREAM = Sheet(
    "spikes of a stream",
    {
        **{name: SIMULATION.columns[name] for name in ("layer", "trained as", "neurons")},
        "spikes": "over all steps",
        "a step": "spikes a step",
        "of all": "spikes in 100 neurons and steps",
    },
    frozenset({"trained as"}),
)
SCORES = Sheet(
    "what the network decides",
    {
        "class": "the classes with the largest scores",
        "score": "the last layer's voltage at the last step, or its spikes",
        "confidence": "the class's share: of all spikes, or a softmax of the scores in the trained network's units",
    },
)
CHIP_TIME = Sheet(
    "spikes in chip time",
    {
        "layer": "layer of the netx file, by number",
        "type": "kind of layer",
        "neurons": "shape of the layer",
        "spikes": "over all chip steps",
        "of all": "spikes in 100 neurons and steps",
        "largest input": SIMULATION.columns["largest input"],
    },
)
LADDER = Sheet(
    "stages against each other",
    {
        "rung": "the two stages that are compared: = value by value, ~ decision by decision",
        "holds": "equal: on these samples; proved: for every input; differs: allowed to, as rounding is lossy; FAILED",
        "mismatches": "values that differ",
        "compared": "values that were compared",
        "detail": "what was compared, and the first difference",
    },
    frozenset({"detail"}),
)
SPIKES = Sheet(
    "spikes a layer",
    {
        "layer": "trained layer",
        "trained": "spikes on these samples in the trained network",
        "integers": "in the chip's integers; a stage that differs from both has a column of its own",
    },
)
COLLAPSE = Sheet(
    "ways to collapse BNTT",
    {
        "collapse": "how one normalization was made of those of all steps",
        "spikes differ": "from those of the network with BNTT",
        "of all spikes": "as a share of all neurons and steps",
        "decisions differ": "images that are decided otherwise",
        "of all decisions": "as a share of all images",
        "chosen": "the one with the fewest spikes, then decisions, that differ",
    },
)
FIELDS = Sheet(
    "fields of a recipe",
    {
        "field": "its name, by table",
        "type": "what it takes",
        "default": "where the recipe does not say it",
        "meaning": "what it does",
    },
    frozenset({"type", "default", "meaning"}),
)
FIT = Sheet(
    "cores; of a layer's cores, the fullest",
    {
        "layer": "layer of the netx file, by number",
        "tile": "neurons of a core, width x height x channels",
        "cores": "how many the layer takes by the compiler's rule",
        "neurons": "of the fullest core",
        "axons in": "sources of spikes that the core listens to",
        "out": "axons to the cores that read it",
        "words": "of synaptic memory, 64 bits each",
        "free": "words that are left",
        "bound by": "the limit that divides the layer, or that it comes nearest to",
    },
    frozenset({"bound by"}),
)
NODES = Sheet(
    "nodes of an Akida chip",
    {
        "layer": "layer of the model",
        "nodes": "of the chip that hold it",
        "kind": "HRC reads the image, CNP are convolutions, FNP dense layers",
    },
    frozenset({"kind"}),
)
COST = Sheet(
    "what spikes cost",
    {
        "layer": "layer of the netx file; input is what comes in at the port",
        "cores": "that it takes",
        "spikes": "a sample",
        "to cores": "spikes times the cores that each goes to",
        "operations": "synaptic operations in its own cores, a sample",
        "most": "the same, of the costliest sample",
        "busiest core": "operations a step in the core with most",
        "dense": "multiply-accumulates of it as an ordinary layer",
    },
)
SHOW = Sheet(
    "a netx file",
    {
        "layer": "number in the file",
        "type": "kind of entry",
        "shape": "of its neurons",
        "neurons": "how many there are",
        "synapses": "connections",
        "weights": "numbers in the file",
        "range": "smallest and largest weight",
        "bits": "that the weights need, once their common power of two is taken out",
        "zeros": "share of the weights that are 0",
        "bias": "smallest and largest",
        "iDecay": "what a step takes of a current, in 4096ths",
        "vDecay": "what a step takes of a voltage, in 4096ths",
        "vThMant": "threshold, in units of a weight",
        "chip step": "when it shows what input step 0 comes to",
        "!": "how many warnings the tree below has for it",
    },
)
COMMANDS = {
    "fold-and-export": (EXPORT, LAYOUT, FIT),
    "collapse": (COLLAPSE,),
    "simulate": (SIMULATION, COST),
    "stream": (STREAM, SCORES, SIMULATION),
    "chip": (CHIP_TIME,),
    "verify": (LADDER, SPIKES),
    "show": (SHOW, FIT),
    "fit": (FIT,),
    "recipe": (FIELDS, FIT),
}
"""The tables of each command."""


def explained(command: str) -> Iterator[Wide]:
    """The columns of each table of a command, with their meaning."""
    sheet = Sheet("", {"column": "", "meaning": ""}, frozenset({"meaning"}))
    for each in COMMANDS[command]:
        yield sheet.table(each.about, list(each.columns.items()))


def page() -> str:
    """The tables of all commands, as docs/tables.md has them."""
    lines = ["# What the columns mean", "", "Each command prints this with `--explain`.", ""]
    sheets = [sheet for each in COMMANDS.values() for sheet in each]
    for each in (sheet for index, sheet in enumerate(sheets) if sheet not in sheets[:index]):
        names = ", ".join(f"`{name}`" for name, shown in COMMANDS.items() if each in shown)
        lines += [f"## {each.about[0].upper()}{each.about[1:]}", "", names, "", "| column | meaning |", "| --- | --- |"]
        lines += [f"| {name} | {meaning} |" for name, meaning in each.columns.items()] + [""]
    return "\n".join(lines)
