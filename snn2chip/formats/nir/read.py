"""NIR to the folded network: graphs that snn2chip wrote come back as they were, others as far as they mean the same."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack

import numpy as np

from snn2chip import ir
from snn2chip.choices import Ties
from snn2chip.data.recordings import BinSettings
from snn2chip.errors import InputError, SetupError, UnsupportedError, out_of_memory, reading
from snn2chip.formats.nir import algebra
from snn2chip.formats.nir.fields import Fields, by_channel, short
from snn2chip.formats.nir.read_nodes import INSTEAD, MAKE, Given, scale
from snn2chip.hdf5 import checked, version_of
from snn2chip.text import first_line, one_line

if TYPE_CHECKING:
    from nir import NIRGraph

FORMAT_VERSION = 1
_NORMAL = ("mean", "std")
_PIXELS = 2**24  # of an input; more is damage
_WEIGHTS = 2**26  # of a layer after pooling is folded into it


class Asked(TypedDict, total=False):
    """What a file may leave unsaid.

    timesteps  steps a sample; needed where the metadata says nothing (and replaces it where it does)
    high       the largest input value, integers from 0; needed where the metadata says nothing
    dt         seconds a step; that of the metadata, or 1e-4
    mean, std  what the graph reads is (value / high - mean) / std, one number a channel or one for all: the input's
               scale and shift; both or none, which reads the integers as they are. Not for graphs that snn2chip wrote
    ties       what a membrane right at its threshold does: 'hold', as NIR's own equation has it (the default), or
               'fire'. Not for graphs that snn2chip wrote
    events     how recordings of an event camera become the frames that the graph reads, one a step; gives `timesteps`
               and `high`
    """

    timesteps: int | None
    high: int | None
    dt: float | None
    mean: Sequence[float] | None
    std: Sequence[float] | None
    ties: Ties | None
    events: BinSettings | None


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


@dataclass(frozen=True)
class _Source:
    """What the metadata of the graph says."""

    timesteps: int
    coding: ir.Coding
    pixel_max: int
    low: int
    high: int
    center: ir.IntArray
    readout: Literal["membrane", "spike_count"] | None
    classes: list[str] | None


class _Reader:
    """One graph on its way to a network."""

    def __init__(self, graph: NIRGraph, **asked: Unpack[Asked]) -> None:
        timesteps, high, dt, events = asked.get("timesteps"), asked.get("high"), asked.get("dt"), asked.get("events")
        mean, std, ties = asked.get("mean"), asked.get("std"), asked.get("ties")
        metadata = graph.metadata if isinstance(graph.metadata, dict) else {}
        self.meta = Fields("the graph", metadata)
        self.ours = "snn2chip_version" in metadata
        if self.ours and (version := self.meta.integer("format_version", 1, 2**20)) != FORMAT_VERSION:
            raise InputError(f"format version {version}, this snn2chip reads {FORMAT_VERSION}; update it")
        if events is not None:
            for what, said, binned in (("timesteps", timesteps, events.timesteps), ("high", high, events.max_count)):
                if said not in (None, binned):
                    raise InputError(f"{what} {said}, but recordings are binned to {binned}; leave it out")
            timesteps, high = events.timesteps, events.max_count
        self.asked, self.events = (timesteps, high), events
        if ties is not None and self.ours:
            raise InputError("ties are for graphs of other makers; snn2chip's own say what their neurons do")
        self.ties = ties == "fire"
        if (mean is None) != (std is None):
            raise InputError(f"{'std' if std is None else 'mean'} is missing: give both mean= and std=, or none")
        if mean is not None and self.ours:
            raise InputError("mean and std are for graphs of other makers; snn2chip's own say what their input is")
        self.normal = None if mean is None or std is None else (mean, std)
        self.dt = dt if dt is not None else self.meta.number("dt") if self.ours else algebra.DT
        if not self.dt > 0:
            raise InputError(f"dt {self.dt:g} is not a positive time")
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
        self.said_dt = dt is not None
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
        notes = () if self.ours else self._notes(readout)
        if self._alternates(nodes) and self.normal is None:
            return ir.Network("folded", said.timesteps, tuple(classes), tuple(nodes), notes)
        first = nodes[0]
        assert isinstance(first, ir.Input)  # the first that was put
        # the fold centres the input itself, at the same place
        if self.normal is None:
            shift = (0.0 - first.center).astype(np.float64)
        else:
            mean, std = (
                self._per_channel(name, numbers, first.shape)
                for name, numbers in zip(_NORMAL, self.normal, strict=True)
            )
            if not (std > 0).all():
                raise InputError(f"std {std.min():g} is not positive")
            first, shift = replace(first, scale=1 / (first.high * std)), -mean / std
        nodes[0] = replace(first, center=np.zeros_like(first.center), shift=shift)
        return ir.Network("captured", said.timesteps, tuple(classes), tuple(nodes), notes)

    def _notes(self, readout: ir.Readout) -> tuple[str, ...]:
        """What no NIR graph says, and what was assumed."""
        said, source = self.said, next(iter(self.made.values()))
        neurons = [node for node in self.made.values() if isinstance(node, ir.LIF)]
        if self.normal is None:
            given = f"integers {said.low}..{said.high} as they are, not normalized"
            if said.high > 1:
                given += (
                    "; a network trained on values scaled to 0..1 needs --mean 0 --std 1, on normalized ones theirs"
                )
        else:
            given = f"(value / {said.high} - mean) / std with mean {list(self.normal[0])}, std {list(self.normal[1])}"
        steps = "a frame of events a step" if said.coding == "events" else f"the same at each of {said.timesteps} steps"
        notes = [f"assumed: '{source.name}' is {given}; {steps}"]
        if neurons:
            leaks = ", ".join(f"{leak:g}" for leak in sorted({node.tau for node in neurons}))
            notes += [
                f"assumed: a step is {self.dt:g} s{'' if self.said_dt else ' (the default)'}, and membranes leak by "
                f"forward Euler, 1 - dt / tau = {leaks} kept from step to step; a file that counts time in steps is "
                f"read with --dt 1",
                "assumed: a spike sets the membrane to v_reset at the same step, where it also starts; NIR has no word "
                "for a reset by subtraction or one step later, and exporters (snnTorch's) write the same file for "
                "them: a network trained so gives other spikes here",
                "said by --ties: a membrane right at its threshold fires"
                if self.ties
                else "assumed: a membrane right at its threshold does not fire, as NIR's equation says; where the "
                "trained neuron does (>=, as SpikingJelly's), give --ties fire",
            ]
        what = "spikes counted" if readout.kind == "spike_count" else "currents summed"
        return (*notes, f"assumed: scores are the last layer's {what} over the steps; classes are numbered")

    @staticmethod
    def _per_channel(name: str, numbers: Sequence[float], shape: ir.Shape) -> ir.FloatArray:
        """One number a channel, from as many or from one."""
        values = np.asarray(numbers, dtype=np.float64)
        if values.shape not in ((1,), shape[:1]) or not np.isfinite(values).all():
            raise InputError(f"{name} {list(numbers)}: expected 1 or {shape[0]} finite numbers, one a channel")
        return np.broadcast_to(values, shape[:1]).copy()

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
            self.dt,
            self.said.timesteps,
            self.ties,
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
        if self.events is not None and (len(shape) != 3 or shape[0] != self.events.polarities):
            raise UnsupportedError(
                f"layer '{name}': an input of shape {shape}; frames of events have {self.events.polarities} channels"
            )
        if np.prod(np.array(shape, dtype=np.float64)) > _PIXELS:
            raise InputError(f"layer '{name}': an input of shape {shape} has more than {_PIXELS:,} values")
        said = self.said = self._source(shape)
        ones, zeros = np.ones(shape[0]), np.zeros(shape[0])
        self._put(
            ir.Input(
                self.names[name], (), shape, said.coding, said.pixel_max, said.low, said.high, said.center, ones, zeros
            )
        )

    def _source(self, shape: ir.Shape) -> _Source:
        timesteps, high = self.asked
        if timesteps is not None and timesteps < 1:
            raise InputError(f"timesteps {timesteps} is less than 1")
        if high is not None and not 1 <= high <= 2**24:
            raise InputError(f"the largest input value {high} is outside 1..{2**24}")
        if not self.ours:
            if timesteps is None or high is None:
                missing = "how many time steps a sample has" if timesteps is None else "its largest input value"
                raise InputError(
                    f"the graph does not say {missing}; give timesteps= and high= (--timesteps T --high N)"
                )
            center = np.zeros(shape[0], dtype=np.int64)
            return _Source(timesteps, "events" if self.events else "direct", high, 0, high, center, None, None)
        meta = self.meta
        low, top = meta.integer("low", -(2**24), 2**24), meta.integer("high", -(2**24), 2**24)
        center = np.atleast_1d(np.asarray(meta.values.get("center")))
        if center.dtype.kind not in "iu" or center.shape != shape[:1] or center.min() < low or center.max() > top:
            raise meta.fail("center", f"{shape[0]} integers {low}..{top}, one a channel")
        coding = meta.text("coding", *ir.CODINGS)
        if self.events and coding != "events":
            raise InputError(f"binning of recordings is given, but the graph's input is coded '{coding}'; leave it out")
        return _Source(
            meta.integer("timesteps", 1, 2**20) if timesteps is None else timesteps,
            next(kind for kind in ir.CODINGS if kind == coding),
            meta.integer("pixel_max", 1, 2**24),
            low,
            top if high is None else high,
            center.astype(np.int64),
            "membrane" if meta.text("readout", "membrane", "spike_count") == "membrane" else "spike_count",
            meta.names("classes"),
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
        gain = self.dt * self.fields[name].uniform("r", self.shapes[driver])
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
