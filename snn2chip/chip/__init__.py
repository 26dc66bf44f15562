"""The chip: its registers (`profile`), its neuron, what bounds its sums, exact products, relays."""

from snn2chip.chip.profile import Chip, load, with_cores

__all__ = ["Chip", "load", "with_cores"]
