"""Core ML's own stopwatch: what is asked of coremltools, and what is said away from a Mac."""

import platform
from pathlib import Path
from types import SimpleNamespace

import pytest

from export.latency.coreml_stopwatch import MAC, stopwatch


def test_core_mls_stopwatch_on_a_mac_with_a_phone(monkeypatch):
    class Benchmarker:
        def __init__(self, model, device):
            self.step = 1.0 if device is None else 0.5

        async def benchmark_load(self, iterations):
            return SimpleNamespace(samples=[80.0] * iterations)

        async def benchmark_predict(self, iterations, warmup):
            return SimpleNamespace(samples=[self.step * (1 + number) for number in range(iterations)])

    class Phone:
        async def prepare_for_model_debugging(self, credentials):
            assert credentials.development_team == "TEAM"
            return self

    from coremltools.models.ml_program.experimental import perf_utils, remote_device

    phones = [Phone()]
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr("coremltools.models.MLModel", lambda _, compute_units: compute_units)
    monkeypatch.setattr(perf_utils, "MLModelBenchmarker", Benchmarker)
    monkeypatch.setattr(remote_device.Device, "get_connected_devices", staticmethod(lambda _: phones))
    result = stopwatch(Path("x.mlpackage"), "iPhone 16 Pro", "TEAM")
    rows = {(row["device"], row["backend"]): row for row in result["rows"]}
    assert len(rows) == 8
    assert rows[MAC, "coreml-ane"]["p50_ms"] == 50.5
    assert rows["iPhone 16 Pro", "coreml-ane"]["p50_ms"] == 25.25
    phones.clear()
    with pytest.raises(ValueError, match="exactly one attached iPhone, found 0"):
        stopwatch(Path("x.mlpackage"), "iPhone 16 Pro", "TEAM")


def test_core_mls_stopwatch_elsewhere_says_not_run_or_what_is_missing():
    if platform.system() == "Darwin":
        pytest.skip("this is a Mac")
    assert stopwatch(Path("x"))["status"] == "NOT RUN"
    with pytest.raises(ValueError, match="--iphone_team"):
        stopwatch(Path("x"), "iPhone 16 Pro")
    with pytest.raises(ValueError, match="needs a Mac"):
        stopwatch(Path("x"), "iPhone 16 Pro", "TEAM")
