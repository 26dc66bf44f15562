"""The chip: its registers (`profile`), its neuron, what bounds its sums, exact products, relays."""

from snn2chip.chip.profile import Chip, load

__all__ = ["Chip", "load"]
