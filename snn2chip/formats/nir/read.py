"""NIR to the folded network: graphs that snn2chip wrote come back as they were, others as far as they mean the same."""

from __future__ import annotations

import importlib
from dataclasses import replace
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from snn2chip import ir
from snn2chip.errors import InputError, SetupError, UnsupportedError, out_of_memory, reading
from snn2chip.formats.nir import algebra
from snn2chip.formats.nir.asked import Asked, Told
from snn2chip.formats.nir.fields import Fields, by_channel, short
from snn2chip.formats.nir.read_nodes import INSTEAD, MAKE, Given, scale
from snn2chip.hdf5 import checked, version_of
from snn2chip.text import first_line, one_line

if TYPE_CHECKING:
    from nir import NIRGraph

FORMAT_VERSION = 1
_PIXELS = 2**24  # of an input; more is damage
_WEIGHTS = 2**26  # of a layer after pooling is folded into it


def package() -> Any:
    """The nir package.

    Raises:
        SetupError: it is not installed.
    """
    try:
        return importlib.import_module("nir")
    except ImportError:
        raise SetupError("the package 'nir' is not installed; pip install 'snn2chip[nir]'") from None


def load(path: str | Path, **asked: Unpack[Asked]) -> ir.Network:
    """Read a NIR file into a network, folded or to be folded, whose `notes` are what other makers' files cannot say.

    What is not said and not assumed is asked for: see `convert`.

    Raises:
        SetupError: the nir package is not installed.
        InputError: unreadable, truncated, damaged, incomplete, or of another version of NIR; named by node.
        UnsupportedError: a node that no network of ours has, by name and type.
    """
    return load_graph(path, **asked)[1]


def load_graph(path: str | Path, **asked: Unpack[Asked]) -> tuple[NIRGraph, ir.Network]:
    """As `load`, with the graph of the nir package beside it."""
    path, nir = Path(path), package()
    content = checked(path)
    try:
        # nir divides by strides that may be anything
        with reading(path, "no NIR graph"), np.errstate(all="ignore"):
            graph = nir.read(content, type_check=False)  # shapes are checked here, with names
    except InputError as error:
        if isinstance(error, MemoryError) or (version := version_of(content)) in (None, nir.version):
            raise
        reason = str(error).removeprefix(f"'{path}' is damaged or no NIR graph: ")
        raise InputError(
            f"'{path}' is of nir {version}, and the nir {nir.version} installed here does not read it ({reason}); "
            f"pip install nir=={version} to read it, or write it again with nir {nir.version}"
        ) from None
    try:
        return graph, convert(graph, **asked)
    except InputError as error:
        # one line, whatever names are in the file
        raise type(error)(f"'{path}': {one_line(str(error), 1000)}") from None


def convert(graph: NIRGraph, **asked: Unpack[Asked]) -> ir.Network:
    """A NIR graph in memory as a network: folded, or captured where something is left to fold; see `Asked`.

    What was assumed where the graph has no word for it, the kind of reset say, is in the network's `notes`. A graph
    whose layers do not alternate as those of a folded network, say with average pooling, is 'captured'.

    Raises:
        InputError: a graph that is incomplete or contradicts itself; named by node.
        UnsupportedError: a node that no network of ours has, by name and type; loops.
    """
    try:
        return _Reader(graph, **asked).network()
    except (InputError, MemoryError):
        raise
    except Exception as error:  # fields of the wrong type in nodes that nir has built unseen
        if out_of_memory(error):
            raise
        raise InputError(f"no NIR graph that can be read: {type(error).__name__} {first_line(error)}") from None


class _Reader:
    """One graph on its way to a network."""

    def __init__(self, graph: NIRGraph, **asked: Unpack[Asked]) -> None:
        metadata = graph.metadata if isinstance(graph.metadata, dict) else {}
        self.meta = Fields("the graph", metadata)
        self.ours = "snn2chip_version" in metadata
        if self.ours and (version := self.meta.integer("format_version", 1, 2**20)) != FORMAT_VERSION:
            raise InputError(f"format version {version}, this snn2chip reads {FORMAT_VERSION}; update it")
        self.told = Told(self.meta, self.ours, asked)
        self.graph = graph
        self.kinds: dict[str, str] = {name: type(node).__name__ for name, node in graph.nodes.items()}
        self.fields = {name: Fields(name, vars(node)) for name, node in graph.nodes.items()}
        self.own = {
            name: Fields(name, node.metadata if isinstance(node.metadata, dict) else {})
            for name, node in graph.nodes.items()
        }
        self.names = self._names()
        self.into: dict[str, list[str]] = {name: [] for name in graph.nodes}
        for source, target in dict.fromkeys((str(a), str(b)) for a, b in graph.edges):
            for end in (source, target):
                if end not in self.into:
                    raise InputError(f"an edge from '{source}' to '{target}', but no node '{end}'")
            self.into[target].append(source)
        self.made: dict[str, ir.Node] = {}  # by our names
        self.shapes: dict[str, ir.Shape] = {}  # by our names
        self.areas: dict[str, int] = {}  # pixels under one of the pools on the way to a node
        self.factors: dict[str, ir.FloatArray] = {}  # what a node's output is still to be multiplied by, where not 1
        self.currents: set[str] = set()  # nodes with a conv or dense layer since the last neurons
        self.axes = 3  # of an image, as the graph counts
        self.summed = False  # an I stands before the output

    def _names(self) -> dict[str, str]:
        """Our names of NIR's nodes."""
        names = {name: own.text("name") if "name" in own else name for name, own in self.own.items()}
        if len(set(names.values())) != len(names):
            twice = next(name for name in names.values() if list(names.values()).count(name) > 1)
            raise InputError(f"two nodes are named '{twice}' by their metadata")
        return names

    def _one(self, kind: str) -> str:
        found = [name for name, is_a in self.kinds.items() if is_a == kind]
        if len(found) != 1:
            raise UnsupportedError(f"{len(found)} nodes of type {kind} ({', '.join(found)}); a network of ours has one")
        return found[0]

    def _order(self) -> list[str]:
        """NIR's nodes, sources first.

        Raises:
            UnsupportedError: a loop.
        """
        try:
            return list(TopologicalSorter(self.into).static_order())
        except CycleError as error:
            name = str(error.args[1][0])
            raise UnsupportedError(
                f"layer '{name}': {self.kinds[name]} in a loop or after one; recurrent networks are not read"
            ) from None

    def network(self) -> ir.Network:
        """The whole graph."""
        source, output = self._one("Input"), self._one("Output")
        for name, kind in self.kinds.items():
            if kind not in (*MAKE, "Scale", "I") and name not in (source, output):
                raise UnsupportedError(
                    f"layer '{name}': a node of type {kind} has no counterpart; "
                    f"{INSTEAD.get(kind, 'what is read: ' + ', '.join((*MAKE, 'Scale')))}"
                )
        order = self._order()
        self._input(source)
        for name in order:
            if name not in (source, output) and "role" not in self.own[name]:
                if self.kinds[name] == "I":
                    self._integrator(name, output)
                elif self.kinds[name] == "Scale":
                    self._scale(name)
                else:
                    self._layer(name)
        readout = self._readout(output)
        self._put(readout)
        self._biases()
        nodes = self._sorted()
        said = self.said
        classes = said.classes
        if classes is None:
            shape = self.shapes[readout.inputs[0]]
            if len(shape) != 1:
                raise UnsupportedError(f"layer '{output}': an output of shape {shape}; scores of classes are flat")
            classes = [str(number) for number in range(shape[0])]
        notes = () if self.ours else self.told.notes(said, nodes, readout)
        if self._alternates(nodes) and self.told.normal is None:
            return ir.Network("folded", said.timesteps, tuple(classes), tuple(nodes), notes)
        first = nodes[0]
        assert isinstance(first, ir.Input)  # the first that was put
        nodes[0] = self.told.normalize(first)
        return ir.Network("captured", said.timesteps, tuple(classes), tuple(nodes), notes)

    def _put(self, node: ir.Node) -> None:
        if node.name in self.made:
            raise InputError(f"two layers are named '{node.name}'")
        self.shapes[node.name] = ir.output_shape(node, *(self.shapes[source] for source in node.inputs))
        self.made[node.name] = node
        if isinstance(node, (ir.Conv, ir.Dense)) or (
            not isinstance(node, ir.LIF) and self.currents.intersection(node.inputs)
        ):
            self.currents.add(node.name)
        reached = [self.areas.get(source, 1) for source in node.inputs] or [1]
        if isinstance(node, ir.AvgPool):
            self.areas[node.name] = max(reached) * node.kernel[0] * node.kernel[1]
        elif isinstance(node, ir.Flatten):
            self.areas[node.name] = max(reached)
        elif isinstance(node, (ir.Conv, ir.Dense)) and node.weight.size * max(reached) > _WEIGHTS:
            raise InputError(f"layer '{node.name}': more than {_WEIGHTS:,} weights with the pooling before it")

    def _given(self, name: str, driver: str) -> Given:
        return Given(
            self.kinds[name],
            self.fields[name],
            self.own[name],
            self.names[name],
            driver,
            self.shapes[driver],
            self.factors.get(driver),
            self.axes,
            self.told.dt,
            self.said.timesteps,
            self.told.ties,
        )

    def _layer(self, name: str) -> None:
        """One node of NIR, in the place of which there may be two; a factor goes on where it is not taken in."""
        driver = self._driver(name)
        for node in MAKE[self.kinds[name]](self._given(name, driver)):
            self._put(node)
        factor = self.factors.get(driver)
        if isinstance(node, ir.AvgPool):
            k0, k1 = node.kernel
            if factor is not None:
                rows = by_channel(node.name, "the scale of its input", factor)[:, None, None]
                factor = np.broadcast_to(rows, self.shapes[node.name])
            if self.kinds[name] == "SumPool2d":
                factor = float(k0 * k1) * (np.ones(self.shapes[node.name]) if factor is None else factor)
        elif not isinstance(node, ir.Flatten):
            factor = None
        self._carry(node.name, factor)

    def _carry(self, name: str, factor: ir.FloatArray | None) -> None:
        if factor is not None:
            self.factors[name] = factor.reshape(self.shapes[name])

    def _scale(self, name: str) -> None:
        """Scale, a factor of what is read after it."""
        driver = self._driver(name)
        factor = self.fields[name].each("scale", self.shapes[driver]) * self.factors.get(driver, 1.0)
        # an add of one layer has a name, and a factor, of its own
        self._put(ir.Add(self.names[name], (driver,)))
        self._carry(self.names[name], factor)

    def _settled(self, driver: str) -> str:
        """A node that gives what `driver` gives times its factor: weights before it take it in, or one of its own."""
        if driver not in self.factors:
            return driver
        shape, factor = self.shapes[driver], self.factors[driver]
        name = f"{driver}.scale"
        if name in self.made:
            return name
        if driver in self.currents:
            self._put(scale(name, driver, by_channel(driver, "its scale", factor)))
        elif len(shape) == 1:
            self._put(ir.Dense(name, (driver,), np.diag(factor), None))
        else:
            weight = by_channel(driver, "its scale", factor)[:, None, None, None]
            self._put(ir.Conv(name, (driver,), weight, None, groups=shape[0]))
        return name

    def _driver(self, name: str) -> str:
        """Our name of what a node reads: a node, or an add of all that it reads."""
        sources = [self.names[source] for source in self.into[name] if "role" not in self.own[source]]
        own = self.own[name]
        if len(sources) == 1 and "add" not in own:
            return sources[0]
        if not sources:
            raise InputError(f"layer '{self.names[name]}': {self.kinds[name]} reads nothing")
        shared = self.factors.get(sources[0])
        if shared is None or not all(np.array_equal(self.factors.get(source, 1.0), shared) for source in sources):
            shared, sources = None, [self._settled(source) for source in sources]
        add = ir.Add(own.text("add") if "add" in own else f"{self.names[name]}.add", tuple(sources))
        self._put(add)
        self._carry(add.name, shared)
        return add.name

    # -------------------------------------------------------------------------------------------------- nodes

    def _input(self, name: str) -> None:
        kind = self.fields[name].values.get("input_type")
        sides = np.asarray(kind.get("input") if isinstance(kind, dict) else None)
        if sides.dtype.kind not in "iu" or sides.ndim != 1 or sides.size not in (1, 2, 3) or sides.min() < 1:
            raise InputError(f"layer '{name}': an input of shape {short(sides)}; (C, H, W), (C, W) or (F,) are read")
        shape = tuple(int(side) for side in sides)
        self.axes = len(shape)
        if self.axes == 2:  # of one row
            shape = (shape[0], 1, shape[1])
        events = self.told.events
        if events is not None and (len(shape) != 3 or shape[0] != events.polarities):
            raise UnsupportedError(
                f"layer '{name}': an input of shape {shape}; frames of events have {events.polarities} channels"
            )
        if np.prod(np.array(shape, dtype=np.float64)) > _PIXELS:
            raise InputError(f"layer '{name}': an input of shape {shape} has more than {_PIXELS:,} values")
        said = self.said = self.told.source(shape)
        ones, zeros = np.ones(shape[0]), np.zeros(shape[0])
        self._put(
            ir.Input(
                self.names[name], (), shape, said.coding, said.pixel_max, said.low, said.high, said.center, ones, zeros
            )
        )

    # ------------------------------------------------------------------------------------------- readout, biases

    def _readout(self, output: str) -> ir.Readout:
        driver = self._settled(self._driver(output))
        kind = self.said.readout
        if kind is None:
            last = self.made[driver]
            while isinstance(last, ir.Flatten):
                last = self.made[last.inputs[0]]
            kind = "membrane" if self.summed or not isinstance(last, ir.LIF) else "spike_count"
        if self.shapes[driver][1:] == (1, 1):  # one pixel: its channels are the classes
            self._put(ir.Flatten(f"{self.names[output]}.flatten", (driver,)))
            driver = f"{self.names[output]}.flatten"
        if kind == "membrane" and driver not in self.currents and len(shape := self.shapes[driver]) == 1:
            self._put(ir.Dense(f"{self.names[output]}.sum", (driver,), np.eye(shape[0]), None))  # pooled spikes, say
            driver = f"{self.names[output]}.sum"
        return ir.Readout(self.names[output], (driver,), kind)

    def _integrator(self, name: str, output: str) -> None:
        """I before the output: the readout by membrane, written out."""
        driver = self._driver(name)
        readers = [reader for reader, sources in self.into.items() if name in sources]
        if readers != [output] or self.into[output] != [name]:
            raise UnsupportedError(f"layer '{name}': I, an integrator, is read right before the output only")
        gain = self.told.dt * self.fields[name].uniform("r", self.shapes[driver])
        if not abs(gain - 1) < algebra.CLOSE:
            raise UnsupportedError(f"layer '{name}': I with R dt = {gain:g}; the scores of ours are sums, R = 1 / dt")
        self.names[name] = driver  # who reads it, reads what drives it
        self.summed = True

    def _biases(self) -> None:
        """Biases of every neuron go back into their convolutions."""
        promised = {self.names[name] for name, own in self.own.items() if own.values.get("bias") == "neuron"}
        for name, own in self.own.items():
            if "role" in own and own.text("role", "one", "bias") == "bias":
                target = own.text("of")
                conv = self.made.get(target)
                readers, wanted = (
                    {reader for reader, sources in self.into.items() if end in sources}
                    for end in (name, next((end for end, called in self.names.items() if called == target), name))
                )
                if not isinstance(conv, ir.Conv) or target not in promised or readers != wanted:
                    raise own.fail("of", "the convolution whose bias it holds")
                promised.discard(target)
                self.made[target] = replace(conv, bias=self._bias(name, self.shapes[target]))
        if promised:
            raise InputError(f"layer '{promised.pop()}': the node with its bias of every neuron is missing")

    def _bias(self, name: str, shape: ir.Shape) -> ir.FloatArray:
        """The values in a node that spreads the pixel of value 1; both must be what snn2chip writes."""
        source = next(iter(self.made.values()))
        assert isinstance(source, ir.Input)  # the first that was put
        for pixel in self.into[name]:
            one = self._plain_conv(pixel)
            kernel = self._plain_conv(name)
            weight_shape, stride = algebra.constant_image(source.shape)
            is_one = one.weight.shape == weight_shape and not one.weight.any() and one.stride == stride
            is_one = is_one and one.padding == (0, 0) and one.bias is not None and bool((one.bias == 1).all())
            if len(self.into[name]) == 1 and is_one and [self.names[n] for n in self.into[pixel]] == [source.name]:
                bias = algebra.bias_of_kernel(kernel.weight.astype(np.float64), kernel.padding, shape)
                plain = kernel.stride == (1, 1) and (kernel.bias is None or not kernel.bias.any())
                if bias is not None and plain:
                    return bias
        raise InputError(f"layer '{name}': not the bias of every neuron that its metadata says; export it again")

    def _plain_conv(self, name: str) -> ir.Conv:
        """A node with a role as a convolution."""
        if self.kinds[name] != "Conv2d":
            raise InputError(f"layer '{name}': {self.kinds[name]} in the place of a convolution; export it again")
        (conv,) = MAKE["Conv2d"](self._given(name, next(iter(self.made))))
        assert isinstance(conv, ir.Conv)
        return conv

    # ------------------------------------------------------------------------------------------------- the end

    def _sorted(self) -> list[ir.Node]:
        """The nodes in the order that they were written in, or any that is possible."""
        if self.ours and "order" in self.meta:
            order = self.meta.names("order")
            if sorted(order) != sorted(self.made):
                raise InputError("the order of layers in the metadata does not name the graph's nodes; export it again")
            return [self.made[name] for name in order]
        return list(self.made.values())

    def _alternates(self, nodes: list[ir.Node]) -> bool:
        """Whether every neuron reads a conv or dense layer or a sum of some, and those read neurons or the input."""
        for node in nodes[1:]:
            allowed = _READS.get(type(node), ())
            if not all(isinstance(self.made[source], allowed) for source in node.inputs):
                return False
            if isinstance(node, ir.Add) and len(node.inputs) == 1:
                return False
        return True


_READS: dict[type[ir.Node], tuple[type[ir.Node], ...]] = {  # what the nodes of a folded network read
    ir.Conv: (ir.Input, ir.LIF, ir.Flatten),
    ir.Dense: (ir.Input, ir.LIF, ir.Flatten),
    ir.Flatten: (ir.Input, ir.LIF),
    ir.Add: (ir.Conv, ir.Dense),
    ir.LIF: (ir.Conv, ir.Dense, ir.Add),
    ir.Readout: (ir.Conv, ir.Dense, ir.Add, ir.LIF),
}
