"""OpenVINO run for real, where it is installed: the runner of the ledger and the backends of the stopwatch."""

from importlib.util import find_spec

import pytest

from export.int8.int8_variants import INT8_VARIANTS
from export.int8.onnx_int8 import quantise
from export.latency.backends import OPENVINO_PRECISIONS, available
from export.latency.interleave import time_interleaved
from export.parity.ledger import embedding_figures
from export.runners import NO_OPENVINO, openvino_runner
from models.student.onnx_files import onnx_runner

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("openvino") is None, reason=NO_OPENVINO),
]


def test_the_float_file_gives_the_same_embeddings_as_in_onnx_runtime(exported, golden):
    path = exported.artifact("onnx-fp32")
    found = embedding_figures(onnx_runner(path)(golden[1]), openvino_runner(path, 64)(golden[1]))
    assert found["cosine_min"] > 0.99999
    assert found["difference_max"] < 1e-3


def test_the_int8_file_for_openvino_is_close_to_the_float_one(exported, golden, tmp_path):
    source, target = exported.artifact("onnx-fp32"), tmp_path / "int8.onnx"
    grouped = INT8_VARIANTS["openvino-int8"]
    quantise(source, target, golden[1], grouped_convolutions=grouped, metadata={})
    float32, int8 = onnx_runner(source)(golden[1]), openvino_runner(target, 64)(golden[1])
    assert int8.shape == float32.shape
    assert 0.99 < embedding_figures(float32, int8)["cosine_min"] < 0.99999


def test_every_precision_that_this_processor_has_is_timed(exported):
    able = [name for name in OPENVINO_PRECISIONS if available()[name] == "yes"]
    assert "openvino" in able
    common = {"threads": 1, "batch": 1, "side": 64, "path": str(exported.artifact("onnx-fp32").resolve())}
    timings = time_interleaved({name: {"backend": name, **common} for name in able}, rounds=2, repeats=2)
    assert {name: timing.error for name, timing in timings.items()} == dict.fromkeys(able, "")
    assert all(min(timing.calls_ms) > 0 for timing in timings.values())
