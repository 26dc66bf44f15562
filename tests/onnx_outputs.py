"""What ONNX Runtime and the onnx package's own evaluator make of a model."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from snn2chip.formats.onnx import run

Outputs = dict[str, NDArray[Any]]


def ran(model: onnx.ModelProto, given: NDArray[Any]) -> Outputs:
    """All outputs in ONNX Runtime, by name, of integers that are given in the type that the model takes."""
    session = run.session(model, 1)
    (port,) = session.get_inputs()
    dtype = {"tensor(uint8)": np.uint8, "tensor(int32)": np.int32}[port.type]
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {port.name: given.astype(dtype)}), strict=True))


def standards(model: onnx.ModelProto, given: NDArray[Any]) -> Outputs:
    """The same in the evaluator, whose Loop joins what it should stack."""
    names = [port.name for port in model.graph.output]
    given = given.astype(onnx.helper.tensor_dtype_to_np_dtype(model.graph.input[0].type.tensor_type.elem_type))
    return dict(zip(names, ReferenceEvaluator(model).run(None, {model.graph.input[0].name: given}), strict=True))
