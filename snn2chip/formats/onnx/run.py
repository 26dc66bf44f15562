"""ONNX Runtime on a chain's ONNX file: what another implementation makes of the same integers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from snn2chip.errors import InputError, SetupError
from snn2chip.formats.onnx.write import build, labels
from snn2chip.ir import Chain, IntArray
from snn2chip.ir.trace import Trace

if TYPE_CHECKING:
    import onnx


def session(model: onnx.ModelProto, threads: int = 0) -> Any:
    """ONNX Runtime's CPU session of a model; 0 threads: as many as it likes.

    Raises:
        SetupError: the package onnxruntime is missing.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise SetupError(
            f"running ONNX needs the package onnxruntime, which cannot be imported ({error}); "
            f"pip install 'snn2chip[onnx]'"
        ) from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(
    chain: Chain,
    raw: IntArray,
    *,
    batch_size: int = 16,
    unroll: bool | None = None,
    threads: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Trace:
    """Run `snn2chip.formats.onnx.write.build(chain, trace=True)` on raw input (N, T, C, H, W), as encoders give it.

    Spikes, voltages and scores are those of `snn2chip.simulate.dense`, in every value; `counts` and `largest` stay
    empty.

    Raises:
        InputError: another shape or T than the network's, values outside its range, or for direct coding images that
            change over time.
        SetupError: onnx or onnxruntime is missing.
    """
    chain.port(raw)  # says which value or shape does not fit: an ONNX graph cannot
    if raw.shape[1] != chain.timesteps:
        raise InputError(f"{raw.shape[1]} time steps of input, but the ONNX file runs {chain.timesteps}")
    if chain.coding == "direct" and (raw != raw[:, :1]).any():
        raise InputError("direct coding repeats an image, but this input changes over time; ONNX takes the image alone")
    given: NDArray[Any] = raw[:, 0] if chain.coding == "direct" else raw
    runner = session(build(chain, trace=True, unroll=unroll), threads)
    port = runner.get_inputs()[0]
    given = given.astype(np.uint8 if port.type == "tensor(uint8)" else np.int32)
    names = [output.name for output in runner.get_outputs()]
    parts = []
    for start in range(0, len(given), batch_size):
        parts.append(runner.run(None, {port.name: given[start : start + batch_size]}))
        if progress is not None:
            progress(min(start + batch_size, len(given)), len(given))
    found = {name: np.concatenate(values) for name, values in zip(names, zip(*parts, strict=True), strict=True)}
    called = labels(chain).items()
    return Trace(
        {layer: found[f"{label}/spikes"] for layer, label in called},
        {layer: found[f"{label}/voltage"] for layer, label in called},
        found["scores"],
    )
