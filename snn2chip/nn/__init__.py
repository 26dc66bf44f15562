"""What trains: multi-step spiking layers over (T, N, ...) tensors."""

from snn2chip.nn.build import SpikingNetwork as SpikingNetwork
from snn2chip.nn.build import build as build
from snn2chip.nn.build import unwrapped as unwrapped
from snn2chip.nn.coding import DirectInput as DirectInput
from snn2chip.nn.coding import EventInput as EventInput
from snn2chip.nn.coding import MembraneReadout as MembraneReadout
from snn2chip.nn.coding import PoissonInput as PoissonInput
from snn2chip.nn.coding import SpikeCountReadout as SpikeCountReadout
from snn2chip.nn.constants import in_float64 as in_float64
from snn2chip.nn.layers import AvgPool2d as AvgPool2d
from snn2chip.nn.layers import Conv2d as Conv2d
from snn2chip.nn.layers import Dropout as Dropout
from snn2chip.nn.layers import Flatten as Flatten
from snn2chip.nn.layers import GlobalAvgPool as GlobalAvgPool
from snn2chip.nn.layers import Linear as Linear
from snn2chip.nn.layers import MaxPool2d as MaxPool2d
from snn2chip.nn.layers import Residual as Residual
from snn2chip.nn.neuron import LIF as LIF
from snn2chip.nn.norm import BNTT as BNTT
from snn2chip.nn.norm import TDBatchNorm as TDBatchNorm
from snn2chip.nn.spikingjelly import load_spikingjelly as load_spikingjelly
