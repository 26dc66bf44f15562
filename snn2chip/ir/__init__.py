"""The network between stages: frozen nodes in topological order, checked once a stage.

    captured   Input, Conv, Dense, Norm, StepNorm, AvgPool, MaxPool, Flatten, Add, LIF, Readout; float64, as trained
    folded     Input, Conv, Dense, Flatten, Add, LIF, Readout; float64: every neuron reads one conv or dense layer,
               or an Add of some
    quantized  as folded, with CubaNeuron for LIF; int64 weights, biases and thresholds
    chain      what a netx file can say: `Chain`, a list of layers with one neuron each

Every node has a `name`, the trained layer's own, and `inputs`, the names of the nodes it reads.
"""

from snn2chip.ir.chain import Chain, ChainLayer, chain_layer
from snn2chip.ir.network import Network, output_shape
from snn2chip.ir.nodes import (
    CODINGS,
    LIF,
    Add,
    Array,
    AvgPool,
    Coding,
    Conv,
    CubaNeuron,
    Dense,
    Flatten,
    FloatArray,
    Input,
    IntArray,
    MaxPool,
    Node,
    Norm,
    Pair,
    Readout,
    ReadoutKind,
    Shape,
    Stage,
    StepConstants,
    StepNorm,
    StepTables,
    Synapse,
    input_channels,
    neuron_bias,
    out_size,
    require_integers,
    total_bias,
)

__all__ = [
    "CODINGS",
    "LIF",
    "Add",
    "Array",
    "AvgPool",
    "Chain",
    "ChainLayer",
    "Coding",
    "Conv",
    "CubaNeuron",
    "Dense",
    "Flatten",
    "FloatArray",
    "Input",
    "IntArray",
    "MaxPool",
    "Network",
    "Node",
    "Norm",
    "Pair",
    "Readout",
    "ReadoutKind",
    "Shape",
    "Stage",
    "StepConstants",
    "StepNorm",
    "StepTables",
    "Synapse",
    "chain_layer",
    "input_channels",
    "neuron_bias",
    "out_size",
    "output_shape",
    "require_integers",
    "total_bias",
]
