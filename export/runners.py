"""ONNX files as functions on arrays, in ONNX Runtime and OpenVINO.

No PyTorch here, and each runtime is imported where it is used: a latency worker measures cold start and peak memory.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Run = Callable[[NDArray[Any]], Floats]
"""From a batch of pixel values [N, 3, S, S], or of tokens [N, L], to outputs [N, ...]."""

CPU = "CPUExecutionProvider"


def onnx_runner(path: Path | str, threads: int = 0, provider: str = CPU) -> Run:
    """Load an ONNX file in ONNX Runtime.

    Args:
        path: The file. One with a static batch of one gets the samples of a batch one by one.
        threads: Threads of one operation; 0 leaves the choice to the runtime.
        provider: Execution provider.

    Raises:
        ValueError: ONNX Runtime fell back to another provider.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=[provider])
    if provider not in session.get_providers():
        raise ValueError(f"ONNX Runtime fell back from {provider}")
    tensor = session.get_inputs()[0]
    return _batched(
        lambda part: session.run(None, {tensor.name: part})[0], 1 if tensor.shape[0] == 1 else None
    )


def openvino_runner(
    path: Path | str, side: int, precision: str = "f32", threads: int = 0, batch: int = 1
) -> Run:
    """Load an ONNX file in OpenVINO on the CPU.

    Args:
        path: The file.
        side: Side of the frame, in pixels.
        precision: Arithmetic of what is not int8 in the graph, ``f32`` or ``bf16``. OpenVINO's own default is bfloat16
            on newer processors.
        threads: Threads; 0 leaves the choice to the runtime.
        batch: Frames of one call.
    """
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
    if threads:
        settings["INFERENCE_NUM_THREADS"] = str(threads)
    core = openvino.Core()
    model = core.read_model(str(path))
    model.reshape([batch, 3, side, side])
    compiled = core.compile_model(model, "CPU", settings)
    # OpenVINO reuses the memory of an output.
    return _batched(lambda part: compiled({0: part})[0].copy(), batch)


def _batched(call: Run, size: int | None) -> Run:
    """Wrap a function of batches of a fixed size; None for any size."""

    def run(batch: NDArray[Any]) -> Floats:
        if size is None or len(batch) == size:
            return call(batch)
        return np.concatenate([call(batch[start : start + size]) for start in range(0, len(batch), size)])

    return run
