"""model.nir: the folded network in NIR, the Neuromorphic Intermediate Representation (Pedersen et al. 2024), and back.

NIR has no batch norm, so what is exported is the folded network: the same spikes, in float64. See docs/nir.md.

    Conv                 Conv2d, square and ungrouped (`snn2chip.formats.nir.algebra.pack`)
    Dense                Affine, or Linear without a bias
    a bias of every      two Conv2d: one pixel of value 1 out of the input, and a kernel that spreads it; summed with
    neuron in a Conv     the convolution's own current
    Add                  several edges into one node, which NIR adds up
    Flatten              Flatten, its dimensions counted from the end: the same with and without a batch
    LIF                  LIF, or IF for tau = 1; CubaLIF with a current_tau
    Readout              Output of the last current at every step, or of the last spikes; I before it, if wanted

The metadata of the graph says what NIR has no word for: `snn2chip_version`, `format_version`, `dt` (seconds a step),
`timesteps`, `coding`, `pixel_max`, `low`, `high`, `center` (the input of the graph is ``raw - center``), `readout`,
`classes` and `order` (JSON). That of a node holds its `name`, and the constants of a neuron as they were.
"""

from __future__ import annotations

import io
import json
import keyword
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import snn2chip
from snn2chip import ir
from snn2chip.errors import InputError, UnsupportedError
from snn2chip.files import atomic_path, read_back
from snn2chip.formats.nir.algebra import DT, bias_kernel, constant_image, continuous, pack
from snn2chip.formats.nir.read import FORMAT_VERSION, load, package

if TYPE_CHECKING:
    from nir import NIRGraph

# readers make attributes of torch modules of the names, which must not hide what is there
_TAKEN = {*dir(torch.fx.GraphModule), *dir(torch.nn.ModuleDict), *keyword.kwlist}


class _Builder:
    """The graph as it grows; NIR names are our names in letters that every reader takes."""

    def __init__(self, network: ir.Network, dt: float, unit_resistance: bool) -> None:
        self.nir = package()
        self.network, self.dt, self.unit_resistance = network, dt, unit_resistance
        self.nodes: dict[str, Any] = {}
        self.edges: list[tuple[str, str]] = []
        self.names: dict[str, str] = {}
        self.biases: dict[str, str] = {}  # a convolution -> what makes its bias of every neuron
        self.pixel: str | None = None

    def name(self, wanted: str) -> str:
        """A new NIR name: readers make Python attributes and HDF5 groups of it."""
        letters = "".join(letter if letter.isascii() and letter.isalnum() else "_" for letter in wanted)
        letters = f"{letters}_" if letters in _TAKEN or not letters else letters
        name, number = letters, 2
        while name in self.nodes:
            name, number = f"{letters}_{number}", number + 1
        return name

    def put(self, node: ir.Node, made: Any, *sources: str) -> str:
        """Place the node of NIR that stands for `node`, and its edges; its NIR name."""
        name = self.name(node.name)
        self.names[node.name] = name
        made.metadata = {"name": node.name, **made.metadata}
        self.nodes[name] = made
        self.edges += [(source, name) for source in sources]
        return name

    def conv(self, node: ir.Conv) -> None:
        """A convolution, and beside it what makes a bias of every neuron."""
        shape = self.network.shape(node.inputs[0])
        packed, packing = pack(node, shape)
        metadata = {
            "groups": packing.groups,
            "kernel": list(packing.kernel),
            "padding": list(packing.padding),
            "first": list(packing.first),
            "bias": "none" if node.bias is None else "channel" if node.bias.ndim == 1 else "neuron",
        }
        bias = node.bias if node.bias is not None and node.bias.ndim == 1 else np.zeros(len(node.weight))
        self.put(node, self._conv2d(shape, replace(packed, bias=bias), metadata), self.names[node.inputs[0]])
        if node.bias is not None and node.bias.ndim == 3:
            kernel, padding = bias_kernel(node.name, node.bias.astype(np.float64))
            if self.pixel is None:
                self.pixel = self._pixel()
            name = self.biases[node.name] = self.name(f"{node.name}_bias")
            spread = ir.Conv(name, (), kernel, np.zeros(len(kernel)), padding=padding)
            self.nodes[name] = self._conv2d((1, 1, 1), spread, {"role": "bias", "of": node.name})
            self.edges.append((self.pixel, name))

    def _pixel(self) -> str:
        """One pixel of value 1 at every step, out of the input."""
        source = self.network.input
        weight_shape, stride = constant_image(source.shape)
        name = self.name("one")
        one = ir.Conv(name, (), np.zeros(weight_shape), np.ones(1), stride)
        self.nodes[name] = self._conv2d(source.shape, one, {"role": "one"})
        self.edges.append((self.names[source.name], name))
        return name

    def _conv2d(self, shape: ir.Shape, conv: ir.Conv, metadata: dict[str, Any]) -> Any:
        """A convolution of an image of `shape` with one group and a bias."""
        geometry = {"stride": conv.stride, "padding": conv.padding, "dilation": conv.dilation, "groups": 1}
        weight, bias = np.array(conv.weight), np.array(conv.bias)
        return self.nir.Conv2d(input_shape=shape[1:], weight=weight, bias=bias, **geometry, metadata=metadata)

    def dense(self, node: ir.Dense) -> None:
        """A matrix with or without a bias."""
        weight = np.array(node.weight)
        made = self.nir.Linear(weight) if node.bias is None else self.nir.Affine(weight, np.array(node.bias))
        self.put(node, made, self.names[node.inputs[0]])

    def flatten(self, node: ir.Flatten) -> None:
        """All dimensions of a sample, counted from the end."""
        shape = self.network.shape(node.inputs[0])
        self.put(node, self.nir.Flatten({"input": np.array(shape)}, -len(shape), -1), self.names[node.inputs[0]])

    def lif(self, node: ir.LIF) -> None:
        """A neuron with the constants of continuous time, one copy a neuron as NIR has them."""
        if node.steps is not None:
            raise UnsupportedError(
                f"layer '{node.name}': BNTT, whose constants change with the time step, has no place in NIR; run "
                f"`snn2chip collapse`, or `snn2chip retrain --timesteps 1`, and export that model"
            )
        made = continuous(node.name, node.tau, node.threshold, self.dt, unit_resistance=self.unit_resistance)
        shape = self.network.shape(node.name)
        # NIR's neurons fire above their threshold: of ours that fire at it, the next number below
        level = math.nextafter(made.threshold, -math.inf) if node.ties else made.threshold
        fields = {"r": np.full(shape, made.resistance), "v_threshold": np.full(shape, level)}
        metadata = {"leak": float(node.tau), "threshold": float(node.threshold), **self._add(node)}
        metadata |= {"ties": 1} if node.ties else {}
        rest: dict[str, Any] = {name: np.zeros(shape) for name in ("v_leak", "v_reset")}
        if node.current_tau:
            if made.tau is None:
                raise UnsupportedError(
                    f"layer '{node.name}': a current that decays before a membrane that does not (tau 1) is no neuron "
                    f"of NIR's, whose CubaLIF leaks; train with a tau below 1"
                )
            current = continuous(node.name, node.current_tau, 1.0, self.dt)
            metadata["current"] = float(node.current_tau)
            constants = {"tau_mem": made.tau, "tau_syn": current.tau, "w_in": current.resistance}
            rest |= {name: np.full(shape, value) for name, value in constants.items()}
            neuron = self.nir.CubaLIF(**fields, **rest, metadata=metadata)
        elif made.tau is None:
            neuron = self.nir.IF(**fields, v_reset=np.zeros(shape), metadata=metadata)
        else:
            neuron = self.nir.LIF(**fields, **rest, tau=np.full(shape, made.tau), metadata=metadata)
        self.put(node, neuron, *self._currents(node))

    def readout(self, node: ir.Readout, integrator: bool) -> None:
        """What is read: currents or their sum so far, or spikes."""
        driver = self.network[node.inputs[0]]
        sources = [self.names[driver.name]] if isinstance(driver, ir.LIF) else self._currents(node)
        shape = self.network.shape(driver.name)
        metadata = {} if isinstance(driver, ir.LIF) else self._add(node)
        if integrator and node.kind == "membrane":
            name = self.name(f"{node.name}_sum")
            self.nodes[name] = self.nir.I(np.full(shape, 1 / self.dt), metadata=metadata)
            self.edges += [(source, name) for source in sources]
            sources, metadata = [name], {}
        self.put(node, self.nir.Output({"output": np.array(shape)}, metadata=metadata), *sources)

    def _add(self, neuron: ir.Node) -> dict[str, Any]:
        driver = self.network[neuron.inputs[0]]
        return {"add": driver.name} if isinstance(driver, ir.Add) else {}

    def _currents(self, neuron: ir.Node) -> list[str]:
        """The nodes whose sum drives a neuron: synapses in order, then their biases of every neuron."""
        synapses = self.network.synapses_of(neuron)
        biases = [self.biases[synapse.name] for synapse in synapses if synapse.name in self.biases]
        return [*(self.names[synapse.name] for synapse in synapses), *biases]


def build(network: ir.Network, *, dt: float = DT, integrator: bool = False, unit_resistance: bool = False) -> NIRGraph:
    """The NIR graph of a folded network, float64.

    The graph's input is what the port gets, ``raw - center``, at every one of `timesteps` steps of `dt` seconds; with
    forward Euler it then gives our spikes at the very same step. Its output is the last current at every step, whose
    sum over the steps are the scores, or the last spikes. `integrator` puts NIR's I before the output, which then is
    that sum; `unit_resistance` writes R = 1 and smaller thresholds, for readers that leave R out (Norse).

    Raises:
        SetupError: the nir package is not installed.
        InputError: the network is not a folded one.
        UnsupportedError: NIR has no word for a layer; named, with the remedy.
    """
    if network.stage == "quantized":
        raise UnsupportedError(
            "a quantized network holds the chip's integers, for which NIR has no format; export the folded network, "
            "or model.net by `snn2chip fold-and-export`"
        )
    if network.stage != "folded":
        raise InputError(f"a {network.stage} network cannot be written as NIR, which has no batch norm; fold it first")
    network.require_real_decay("NIR graph")
    source = network.input
    if (source.scale != 1).any() or (source.shift != 0).any():
        raise InputError(f"layer '{source.name}': a scale or shift of the input is left; fold the network first")
    _check_adds(network)
    made = _Builder(network, dt, unit_resistance)
    for node in network.nodes:
        if isinstance(node, ir.Input):
            made.put(node, made.nir.Input({"input": np.array(node.shape)}))
        elif isinstance(node, ir.Conv):
            made.conv(node)
        elif isinstance(node, ir.Dense):
            made.dense(node)
        elif isinstance(node, ir.Flatten):
            made.flatten(node)
        elif isinstance(node, ir.LIF):
            made.lif(node)
        elif isinstance(node, ir.Readout):
            made.readout(node, integrator)
    metadata = {
        "snn2chip_version": snn2chip.__version__,
        "format_version": FORMAT_VERSION,
        "dt": float(dt),
        "timesteps": network.timesteps,
        "coding": source.coding,
        "pixel_max": source.pixel_max,
        "low": source.low,
        "high": source.high,
        "center": [int(value) for value in source.center],
        "readout": network.readout.kind,
        "classes": json.dumps(network.classes),
        "order": json.dumps([node.name for node in network.nodes]),
    }
    return made.nir.NIRGraph(made.nodes, made.edges, metadata=metadata)


def _check_adds(network: ir.Network) -> None:
    """Adds become edges, so each must be the one driver of one neuron, as `fold` makes them."""
    for add in network.of(ir.Add):
        readers = [node for node in network.nodes if add.name in node.inputs]
        if len(readers) != 1 or not isinstance(readers[0], (ir.LIF, ir.Readout)):
            names = ", ".join(f"'{node.name}'" for node in readers)
            raise UnsupportedError(f"layer '{add.name}': an add that {names} read is no neuron's own; fold it again")
        if len(set(add.inputs)) != len(add.inputs):
            raise UnsupportedError(
                f"layer '{add.name}': it adds one layer twice, and NIR has one edge between two nodes; double the "
                f"layer's weights instead"
            )


def save(
    path: str | Path,
    network: ir.Network,
    *,
    dt: float = DT,
    integrator: bool = False,
    unit_resistance: bool = False,
) -> None:
    """Write a folded network as a NIR file, whole or not at all; options as in `build`.

    Raises:
        SetupError, InputError, UnsupportedError: as `build`; or the file cannot be written, or not be read back.
    """
    graph = build(network, dt=dt, integrator=integrator, unit_resistance=unit_resistance)
    memory = io.BytesIO()  # HDF5 crashes the process when a file it writes cannot grow
    package().write(memory, graph)
    with atomic_path(path) as part:
        part.write_bytes(memory.getvalue())
        read_back(path, part, load)
