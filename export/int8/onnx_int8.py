"""Static int8 quantisation of an image encoder to ONNX (QDQ): calibrated on frames, or with the ranges of a training.

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
import torch

from export.graphs.contract import INPUT_NAME
from export.graphs.onnx_graph import add_metadata, write_onnx
from export.graphs.pixel_graph import PixelEncoder
from models import QuantisedStudent
from models.quantised import ActivationRange, QuantisedLayer
from models.student.onnx_files import Floats

QUANTISED_OPERATORS = ["Conv", "MatMul", "Gemm"]
Ranges = dict[str, tuple[Floats, Floats]]


def quantise(
    source: Path, target: Path, frames: Floats, *, grouped_convolutions: bool, metadata: Mapping[str, str]
) -> None:
    """Write an int8 copy of an image encoder.

    Args:
        source: The float32 ONNX file.
        target: The int8 file to write.
        frames: Calibration frames, pixel values [N, 3, S, S].
        grouped_convolutions: Quantise grouped and depthwise convolutions too. ONNX Runtime has no fast int8
            kernel for them, so for it they are better left in float32; OpenVINO has one.
        metadata: Texts for the file's metadata.
    """
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Frames(CalibrationDataReader):
        """Feeds the frames one by one."""

        rows = iter(frames[:, None])

        def get_next(self) -> dict[str, Floats] | None:
            row = next(self.rows, None)
            return None if row is None else {INPUT_NAME: row}

    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        graph = onnx.load(str(prepared)).graph
        excluded = [] if grouped_convolutions else [node.name for node in graph.node if groups(node) > 1]
        quantize_static(
            str(prepared),
            str(target),
            Frames(),
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


def write_trained_int8(
    student: QuantisedStudent,
    target: Path,
    *,
    grouped_convolutions: bool,
    metadata: Mapping[str, str],
) -> None:
    """Write the image encoder of a student that was trained with int8 in the loop; arguments as in `quantise`.

    Raises:
        ValueError: The student's ranges were never trained, or one of its layers is not in the graph.
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
    from onnxruntime.quantization.shape_inference import quant_pre_process

    side = student.preprocessing.image_size
    with tempfile.TemporaryDirectory() as folder:
        plain, prepared = Path(folder) / "float32.onnx", Path(folder) / "prepared.onnx"
        write_onnx(PixelEncoder(student.float_copy()).eval(), torch.rand(1, 3, side, side) * 255, plain)
        # Without its optimisations, which would fold scales into weights that were trained as they are.
        quant_pre_process(str(plain), str(prepared), skip_optimization=True, skip_symbolic_shape=True)
        model = onnx.load(str(prepared))
        nodes, ranges = _trained_ranges(model.graph, student, grouped_convolutions)
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


def _trained_ranges(
    graph: Any, student: QuantisedStudent, grouped_convolutions: bool
) -> tuple[list[str], Ranges]:
    """Return the names of the layers' nodes in the graph of `student.float_copy()`, and tensor -> lowest and highest.

    A node is a layer's when its constant weight is the layer's, number by number.
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
