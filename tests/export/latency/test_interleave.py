"""Ratios and percentiles of made-up times, backends that break, and one real worker."""

import numpy as np
import pytest

from export.latency.interleave import Timing, speed_ratio, time_interleaved


def timing(rounds, batch=1):
    return Timing({"batch": batch, "backend": "x"}, rounds)


def test_ratio_is_the_median_over_rounds_despite_a_busy_one():
    slow = timing([[40.0] * 3, [400.0] * 3, [44.0] * 3])
    fast = timing([[10.0] * 3, [10.0] * 3, [11.0] * 3])
    assert speed_ratio(slow, fast).median == pytest.approx(4.0)
    fast.cpu_rounds, slow.cpu_rounds = [[20.0] * 3] * 3, [[30.0] * 3] * 3
    assert speed_ratio(slow, fast, cpu=True) == (1.5, 1.5, 1.5)
    stuck = timing([[30.0, 30.0, 3000.0]] * 3)
    assert speed_ratio(stuck, timing([[10.0, 10.0, 1000.0], [10.0] * 3, [10.0] * 3])) == (3.0, 3.0, 3.0)
    batches = timing([[40.0] * 3, [40.0] * 3, [44.0] * 3], batch=4)
    assert speed_ratio(slow, batches).median == pytest.approx(4.0)


def test_percentiles():
    numbers = timing([list(np.arange(1.0, 102.0))], batch=2).percentiles()
    assert (numbers["p50_ms"], numbers["p90_ms"], numbers["p99_ms"]) == (51.0, 91.0, 100.0)
    assert numbers["images_per_s"] == pytest.approx(2 / 0.051)


def test_a_backend_that_dies_is_an_error_and_the_others_are_timed(monkeypatch):
    class Dying:
        def __init__(self, spec):
            self.left, self.facts = spec["lives"], {}

        def ask(self, repeats):
            self.left -= 1
            if self.left < 0:
                raise RuntimeError("x: its process ended without an answer")
            return {"ms": [1.0] * repeats, "cpu_ms": [2.0] * repeats, "peak_mb": 1.0}

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    monkeypatch.setattr("export.latency.interleave.Worker", Dying)
    timings = time_interleaved({"a": {"lives": 9}, "b": {"lives": 1}}, rounds=3, repeats=2)
    assert (timings["b"].error, timings["b"].rounds) == ("x: its process ended without an answer", [])
    assert [len(times) for times in timings["a"].rounds] == [2, 2, 2]
    assert timings["a"].cpu_p50_ms == 2.0


def test_a_real_backend_is_timed_beside_one_that_cannot_load(exported):
    spec = {"threads": 1, "batch": 1, "side": 64, "path": str(exported.artifact("onnx-fp32"))}
    timings = time_interleaved(
        {"onnxruntime": {"backend": "onnxruntime", **spec}, "absent": {"backend": "nonsense", **spec}}, 3, 2
    )
    assert [len(times) for times in timings["onnxruntime"].rounds] == [2, 2, 2]
    assert 0 < min(timings["onnxruntime"].calls_ms) < 1e3 * 60
    assert timings["onnxruntime"].facts["peak_mb"] > 10
    assert "nonsense" in timings["absent"].error
