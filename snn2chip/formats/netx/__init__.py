"""netx, lava-dl's HDF5: `write` and `samples` for our own files, `read` and `look` for any."""

from snn2chip.formats.netx.fields import STEPS
from snn2chip.formats.netx.samples import load
from snn2chip.formats.netx.write import save

__all__ = ["STEPS", "load", "save"]
