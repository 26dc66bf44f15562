"""ONNX: integers, raw chip time and folded floats out, trained networks in."""

from snn2chip.formats.onnx.time import UNROLL_MOST
from snn2chip.formats.onnx.write import save

__all__ = ["UNROLL_MOST", "save"]
