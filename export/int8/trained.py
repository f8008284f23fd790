"""Write a student that was trained with int8 in the loop as a QDQ int8 file with the ranges of its training."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from export.graphs.contract import EMBEDDING_NAME, INPUT_NAME
from export.graphs.onnx_graph import collected_warnings, write_onnx
from export.graphs.pixel_graph import PixelEncoder
from export.int8.onnx_int8 import QUANTISED_OPERATORS, groups
from models import QuantisedStudent
from models.quantised import ActivationRange, QuantisedLayer

Floats = NDArray[np.float32]
Ranges = dict[str, tuple[Floats, Floats]]


def write_trained_int8(
    student: QuantisedStudent,
    target: Path,
    *,
    grouped_convolutions: bool,
    metadata: Mapping[str, str],
    warnings: list[str] | None = None,
) -> str:
    """Write the image encoder of a student that was trained with int8 in the loop.

    Args:
        student: The student.
        target: The int8 file to write.
        grouped_convolutions: Quantise grouped and depthwise convolutions too (see `export.int8.onnx_int8`).
        metadata: Texts for the file's metadata.
        warnings: Receives the converters' warnings.

    Returns:
        The way of capture (see `export.graphs.onnx_graph.write_onnx`).

    Raises:
        ValueError: The student's ranges were never trained, or one of its layers is not in the graph.
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
    from onnxruntime.quantization.shape_inference import quant_pre_process

    messages = [] if warnings is None else warnings
    side = student.preprocessing.image_size
    with tempfile.TemporaryDirectory() as folder:
        plain, prepared = Path(folder) / "float32.onnx", Path(folder) / "prepared.onnx"
        way = write_onnx(
            PixelEncoder(student.float_copy()).eval(),
            torch.rand(1, 3, side, side) * 255,
            plain,
            input_name=INPUT_NAME,
            output_name=EMBEDDING_NAME,
            metadata={},
            warnings=messages,
        )
        with collected_warnings(messages):
            # Without its optimisations, which would fold scales into weights that were trained as they are.
            quant_pre_process(str(plain), str(prepared), skip_optimization=True, skip_symbolic_shape=True)
            model = onnx.load(str(prepared))
            nodes, ranges = trained_ranges(model.graph, student, grouped_convolutions)
            quantizer = QDQQuantizer(
                model,
                True,  # a scale a channel
                False,  # all 8 bits
                QuantType.QInt8,
                QuantType.QUInt8,
                TensorsData(CalibrationMethod.MinMax, dict(ranges)),
                nodes,
                [],
                QUANTISED_OPERATORS,
                # A product's own output is not rounded in training: its bias comes in a node of its own.
                {"OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"]},
            )
            quantizer.quantize_model()
        quantised = quantizer.model.model
    onnx.helper.set_model_props(quantised, dict(metadata))
    onnx.save(quantised, str(target))
    return way


def trained_ranges(
    graph: Any, student: QuantisedStudent, grouped_convolutions: bool
) -> tuple[list[str], Ranges]:
    """Find the nodes of the student's layers, and the ranges of their tensors.

    A node is a layer's when its constant weight is the layer's, number by number.

    Args:
        graph: ONNX graph of `student.float_copy()`.
        student: The student.
        grouped_convolutions: Take grouped convolutions, too.

    Returns:
        Names of the nodes to quantise, and tensor -> lowest and highest value.

    Raises:
        ValueError: A layer has no range yet, or no node.
    """
    layers = dict(student.layers())
    nodes: list[str] = []
    inputs, outputs = {}, {}
    for node, weight in _weighted(graph):
        name = next((name for name, layer in layers.items() if _same(layer, weight)), None)
        if name is None:
            continue
        layer = layers.pop(name)
        if groups(node) > 1 and not grouped_convolutions:
            continue
        nodes.append(node.name)
        inputs[node.input[0]] = _limits(layer.input_range, name)
        if layer.output_range is not None:
            outputs[node.output[0]] = _limits(layer.output_range, name)
    if layers:
        raise ValueError(f"int8: the ONNX graph has no node for the layers {sorted(layers)[:3]}")
    # A tensor between two layers is rounded once in the graph: as its producer rounds it.
    return nodes, inputs | outputs


def _weighted(graph: Any) -> Iterator[tuple[Any, Floats]]:
    from onnx import numpy_helper

    constants = {entry.name: entry for entry in graph.initializer}
    for node in graph.node:
        if node.op_type in QUANTISED_OPERATORS and node.input[1] in constants:
            yield node, numpy_helper.to_array(constants[node.input[1]])


def _same(layer: QuantisedLayer, weight: Floats) -> bool:
    own = layer.layer.weight.detach().numpy()
    return np.array_equal(own, weight) or (own.ndim == 2 and np.array_equal(own.T, weight))


def _limits(tensor_range: ActivationRange, name: str) -> tuple[Floats, Floats]:
    low, high = tensor_range.low.numpy(), tensor_range.high.numpy()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError(f"int8: the range of layer {name} was never trained; train a few steps at least")
    return low, high
