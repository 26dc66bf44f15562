"""What trains: multi-step spiking layers over (T, N, ...) tensors."""

from snn2chip.nn.build import SpikingNetwork, build, unwrapped
from snn2chip.nn.coding import DirectInput, EventInput, MembraneReadout, PoissonInput, SpikeCountReadout
from snn2chip.nn.constants import in_float64
from snn2chip.nn.layers import AvgPool2d, Conv2d, Dropout, Flatten, GlobalAvgPool, Linear, MaxPool2d, Residual
from snn2chip.nn.neuron import LIF
from snn2chip.nn.norm import BNTT, TDBatchNorm
from snn2chip.nn.spikingjelly import load_spikingjelly

__all__ = [
    "BNTT",
    "LIF",
    "AvgPool2d",
    "Conv2d",
    "DirectInput",
    "Dropout",
    "EventInput",
    "Flatten",
    "GlobalAvgPool",
    "Linear",
    "MaxPool2d",
    "MembraneReadout",
    "PoissonInput",
    "Residual",
    "SpikeCountReadout",
    "SpikingNetwork",
    "TDBatchNorm",
    "build",
    "in_float64",
    "load_spikingjelly",
    "unwrapped",
]
