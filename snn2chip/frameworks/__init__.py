"""Modules of frameworks as nodes: what each computes at one time step, read from its parameters in float64.

A framework is imported only where a network has modules of it. Each file of this folder says for one of them which
modules are leaves of a recording (`snn2chip.passes.record`), and refuses by name those that no chip has.
"""

from snn2chip.frameworks.leaf import Layout as Layout
from snn2chip.frameworks.leaf import Leaf as Leaf
from snn2chip.frameworks.leaf import harden as harden
from snn2chip.frameworks.leaf import leaf_of as leaf_of
from snn2chip.frameworks.leaf import reset as reset
from snn2chip.frameworks.torch_layers import lists_through_time as lists_through_time
