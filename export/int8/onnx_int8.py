"""Static int8 quantisation of an ONNX image encoder: QDQ format, calibrated on frames.

Dynamic quantisation is not offered: ONNX Runtime has no fast dynamic kernel for convolutions (a FastViT was
7 times slower). Activations are unsigned and weights signed with one scale a channel, the pairing for which
x86 and Arm have dot-product instructions.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.graphs.contract import INPUT_NAME
from export.graphs.onnx_graph import add_metadata, collected_warnings

QUANTISED_OPERATORS = ["Conv", "MatMul", "Gemm"]


def quantise(
    source: Path,
    target: Path,
    frames: NDArray[np.float32],
    *,
    grouped_convolutions: bool,
    metadata: Mapping[str, str],
    warnings: list[str] | None = None,
) -> None:
    """Write an int8 copy of an image encoder.

    Args:
        source: The float32 ONNX file.
        target: The int8 file to write.
        frames: Calibration frames, pixel values [N, 3, S, S].
        grouped_convolutions: Quantise grouped and depthwise convolutions too. ONNX Runtime has no fast int8
            kernel for them, so for it they are better left in float32; OpenVINO has one.
        metadata: Texts for the file's metadata.
        warnings: Receives the quantiser's warnings.

    Raises:
        ValueError: There are no frames.
    """
    if len(frames) == 0:
        raise ValueError("int8 quantisation needs calibration frames, and there are none")
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    messages = [] if warnings is None else warnings
    with tempfile.TemporaryDirectory() as folder, collected_warnings(messages):
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        graph = onnx.load(str(prepared)).graph
        excluded = [] if grouped_convolutions else [node.name for node in graph.node if groups(node) > 1]
        quantize_static(
            str(prepared),
            str(target),
            _reader(frames),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            calibrate_method=CalibrationMethod.MinMax,
            op_types_to_quantize=QUANTISED_OPERATORS,
            nodes_to_exclude=excluded,
        )
    add_metadata(target, metadata)


def groups(node: Any) -> int:
    """Return the number of groups of an ONNX convolution, 1 for any other operator."""
    if node.op_type != "Conv":
        return 1
    return next((int(attribute.i) for attribute in node.attribute if attribute.name == "group"), 1)


def grouped_convolution_count(path: Path) -> int:
    """Return the number of grouped and depthwise convolutions in an ONNX file."""
    import onnx

    return sum(groups(node) > 1 for node in onnx.load(str(path)).graph.node)


def _reader(frames: NDArray[np.float32]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Frames(CalibrationDataReader):
        """Feeds the frames one by one."""

        def __init__(self) -> None:
            self.rows: Iterator[NDArray[np.float32]] = iter(frames[:, None])

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            row = next(self.rows, None)
            return None if row is None else {INPUT_NAME: row}

    return Frames()
