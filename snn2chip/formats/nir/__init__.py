"""NIR, the exchange format of simulators: folded networks out, graphs of any maker in."""

from snn2chip.formats.nir import run
from snn2chip.formats.nir.algebra import DT
from snn2chip.formats.nir.read import convert, load, package
from snn2chip.formats.nir.write import build, save

__all__ = ["DT", "build", "convert", "load", "package", "run", "save"]
