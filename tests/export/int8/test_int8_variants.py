"""What the int8 file of ONNX Runtime rounds, and which trained int8 weights fit an export."""

import copy
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch

from export.int8.int8_variants import check_compatible, judge_int8_speed
from export.parity.ledger import DROPPED, FAILED, Row
from export.variants import ExportContext


def test_int8_weights_of_another_text_tower_or_preprocessing_are_refused(tiny_student):
    other = copy.deepcopy(tiny_student)
    with torch.no_grad():
        other.image_projection.weight.mul_(2)  # the image tower was trained on
    check_compatible(tiny_student, other)
    other.preprocessing = replace(other.preprocessing, mean=(0.0, 0.0, 0.0))
    with pytest.raises(ValueError, match=r"^--int8_from: it was made for another preprocessing; train it"):
        check_compatible(tiny_student, other)
    for value in (0.5, float("nan")):
        other = copy.deepcopy(tiny_student)
        with torch.no_grad():
            other.text.ln_final.bias[0] = value
        with pytest.raises(ValueError, match=r"^--int8_from: its text tower is another one; train it"):
            check_compatible(tiny_student, other)


def test_the_calibrated_file_rounds_plain_convolutions_by_channel_and_leaves_grouped_ones(exported):
    graph = onnx.load(exported.artifact("onnx-int8")).graph
    constants = {entry.name: onnx.numpy_helper.to_array(entry) for entry in graph.initializer}
    producers = {name: node for node in graph.node for name in node.output}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    grouped = [
        node for node in convolutions if any(one.name == "group" and one.i > 1 for one in node.attribute)
    ]
    plain = [node for node in convolutions if node not in grouped]
    assert {constants[node.input[1]].dtype.name for node in grouped} == {"float32"}
    assert len(plain) > 3
    for node in plain:
        frame, weight = (producers[name] for name in node.input[:2])
        numbers, scale = (constants[name] for name in weight.input[:2])
        assert (weight.op_type, numbers.dtype, scale.shape) == (
            "DequantizeLinear",
            np.int8,
            numbers.shape[:1],
        )
        assert (frame.op_type, constants[frame.input[2]].dtype) == ("DequantizeLinear", np.uint8)


def test_a_file_that_is_left_out_already_is_not_timed(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "export.int8.int8_variants.time_interleaved", lambda specs, *_: asked.extend(specs) or {}
    )
    context = ExportContext(tmp_path, None, {}, {}, artifacts={"onnx-int8": {}, "onnx-fp32": {}})
    rows = [Row("onnx-int8", "", "compressed", status, "lost 3 points") for status in (DROPPED, FAILED)]
    assert judge_int8_speed(context, rows, keep_slow=True) == rows
    assert asked == []
