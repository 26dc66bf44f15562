"""netx, lava-dl's HDF5: `write` and `read` of our own files with samples, and reading of any."""

from snn2chip.formats.netx.samples import STEPS, load, save

__all__ = ["STEPS", "load", "save"]
