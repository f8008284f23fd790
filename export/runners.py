"""Files as functions on arrays in OpenVINO and LiteRT (`models.student.onnx_files` has ONNX Runtime's).

No PyTorch here, and each runtime is imported where it is used: a latency worker measures cold start and peak memory.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from models.student.onnx_files import Floats, Run, batched

NO_OPENVINO = "openvino is not installed: make add PACKAGE='.[openvino]'"
NO_LITERT = "litert-torch is not installed: make add PACKAGE='.[litert]'"


def openvino_runner(path: Path | str, side: int, precision: str = "f32", threads: int = 0) -> Run:
    """Load an ONNX file in OpenVINO on the CPU.

    Args:
        path: The file.
        side: Side of the frame, in pixels.
        precision: Arithmetic of what is not int8 in the graph, ``f32`` or ``bf16``. OpenVINO's own default is bfloat16
            on newer processors.
        threads: Threads; 0 leaves the choice to the runtime.
    """
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
    if threads:
        settings["INFERENCE_NUM_THREADS"] = str(threads)
    core = openvino.Core()
    model = core.read_model(str(path))
    model.reshape([1, 3, side, side])
    compiled = core.compile_model(model, "CPU", settings)
    # OpenVINO reuses the memory of an output.
    return batched(lambda part: compiled({0: part})[0].copy(), 1)


def litert_runner(path: Path | str, threads: int = 0) -> Run:
    """Load a ``.tflite`` file of one input, batch one, in LiteRT on the CPU (XNNPACK); `threads` as for OpenVINO."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=threads or None)
    interpreter.allocate_tensors()
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()

    def call(part: NDArray[Any]) -> Floats:
        interpreter.set_tensor(source["index"], part)
        interpreter.invoke()
        found: Floats = interpreter.get_tensor(target["index"])
        return found

    return batched(call, 1)
