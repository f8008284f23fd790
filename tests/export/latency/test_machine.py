"""Matrix-product peaks, and counts of parameters and multiply-accumulates against counts by hand."""

import pytest

from export.latency import backends
from export.latency.interleave import Timing
from export.latency.machine import matmul_peaks, matmul_specs, share_of_peak


def test_share_of_peak_uses_the_backends_own_arithmetic():
    peaks = {"float32": 100.0, "int8": 400.0}
    found = {
        name: share_of_peak(name, 40.0, 2.0, peaks)
        for name in ("onnxruntime", "openvino-int8", "openvino-bf16")
    }
    assert found["onnxruntime"] == {"arithmetic": "float32", "share_of_matmul_peak": pytest.approx(1.0)}
    assert found["openvino-int8"] == {"arithmetic": "int8", "share_of_matmul_peak": pytest.approx(0.25)}
    assert found["openvino-bf16"] == found["onnxruntime"], "a product that could not be timed is no limit"
    assert share_of_peak("onnxruntime", 40.0, 2.0, {"int8": 400.0}) == {}


def test_the_float32_peak_is_the_fastest_of_two_libraries():
    timings = {name: Timing(spec, cpu_rounds=[[4.0]]) for name, spec in matmul_specs().items()}
    timings["matmul-onnxruntime"].cpu_rounds = [[2.0, 1.0, 9.0]]
    timings["matmul-int8"].error = "no such instructions"
    operations = 2 * backends.MATMUL_SIDE**3
    assert matmul_peaks(timings) == pytest.approx(
        {"float32": operations / 2e-3 / 1e9, "bfloat16": operations / 4e-3 / 1e9}
    )


@pytest.mark.parametrize(
    ("arithmetic", "own", "timed"),
    [("bfloat16", 1e-3, True), ("bfloat16", 1e-1, False), ("float32", 1e-1, True)],
)
def test_products_without_instructions_are_not_timed(arithmetic, own, timed, monkeypatch):
    """At full size they would take minutes. Float32, which the others are compared with, is always timed."""
    seconds = iter([[own], [1e-3]])
    monkeypatch.setattr(backends.timeit, "repeat", lambda *_, **__: next(seconds))
    spec = {"backend": "matmul", "library": "torch", "threads": 1, "batch": 1, "arithmetic": arithmetic}
    if timed:
        assert callable(backends.load(spec))
    else:
        with pytest.raises(RuntimeError, match="no fast bfloat16 products"):
            backends.load(spec)
