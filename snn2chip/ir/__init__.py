"""The network between stages: frozen nodes in topological order, checked once a stage.

    captured   Input, Conv, Dense, Norm, StepNorm, AvgPool, MaxPool, Flatten, Add, LIF, Readout; float64, as trained
    folded     Input, Conv, Dense, Flatten, Add, LIF, Readout; float64: every neuron reads one conv or dense layer,
               or an Add of some
    quantized  as folded, with CubaNeuron for LIF; int64 weights, biases and thresholds
    chain      what a netx file can say: `Chain`, a list of layers with one neuron each

Every node has a `name`, the trained layer's own, and `inputs`, the names of the nodes it reads.
"""

from snn2chip.ir.chain import Chain as Chain
from snn2chip.ir.chain import ChainLayer as ChainLayer
from snn2chip.ir.chain import Constant as Constant
from snn2chip.ir.chain import Kind as Kind
from snn2chip.ir.chain import Layer as Layer
from snn2chip.ir.chain import chain_layer as chain_layer
from snn2chip.ir.network import Network as Network
from snn2chip.ir.network import output_shape as output_shape
from snn2chip.ir.nodes import CODINGS as CODINGS
from snn2chip.ir.nodes import LIF as LIF
from snn2chip.ir.nodes import Add as Add
from snn2chip.ir.nodes import Array as Array
from snn2chip.ir.nodes import AvgPool as AvgPool
from snn2chip.ir.nodes import Coding as Coding
from snn2chip.ir.nodes import Conv as Conv
from snn2chip.ir.nodes import CubaNeuron as CubaNeuron
from snn2chip.ir.nodes import Dense as Dense
from snn2chip.ir.nodes import Flatten as Flatten
from snn2chip.ir.nodes import FloatArray as FloatArray
from snn2chip.ir.nodes import Input as Input
from snn2chip.ir.nodes import IntArray as IntArray
from snn2chip.ir.nodes import MaxPool as MaxPool
from snn2chip.ir.nodes import Node as Node
from snn2chip.ir.nodes import Norm as Norm
from snn2chip.ir.nodes import Pair as Pair
from snn2chip.ir.nodes import Readout as Readout
from snn2chip.ir.nodes import ReadoutKind as ReadoutKind
from snn2chip.ir.nodes import Shape as Shape
from snn2chip.ir.nodes import Stage as Stage
from snn2chip.ir.nodes import StepConstants as StepConstants
from snn2chip.ir.nodes import StepNorm as StepNorm
from snn2chip.ir.nodes import StepTables as StepTables
from snn2chip.ir.nodes import Synapse as Synapse
from snn2chip.ir.nodes import Weights as Weights
from snn2chip.ir.nodes import gathered as gathered
from snn2chip.ir.nodes import input_channels as input_channels
from snn2chip.ir.nodes import message_bits as message_bits
from snn2chip.ir.nodes import narrow as narrow
from snn2chip.ir.nodes import neuron_bias as neuron_bias
from snn2chip.ir.nodes import out_size as out_size
from snn2chip.ir.nodes import require_integers as require_integers
from snn2chip.ir.nodes import taps as taps
from snn2chip.ir.nodes import total_bias as total_bias
from snn2chip.ir.nodes import weight_type as weight_type
