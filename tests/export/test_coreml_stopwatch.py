"""Core ML's own stopwatch: what is asked of coremltools, and what is said away from a Mac."""

import platform
from pathlib import Path
from types import SimpleNamespace

import pytest

from export.latency.budgets import over_budget
from export.latency.coreml_stopwatch import MAC, stopwatch
from export.latency.session import with_phone


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


@pytest.fixture
def breaking(monkeypatch):
    """A Mac whose tools fail: for backends by their compute units, and on the phone."""
    import coremltools as ct
    from coremltools.models.ml_program.experimental import perf_utils, remote_device

    refused = set()

    class Benchmarker:
        def __init__(self, model, device):
            where = "phone" if device else model
            if where in refused:
                raise Exception(f"no benchmark\nwith {where}")

        async def benchmark_load(self, iterations):
            return SimpleNamespace(samples=[80.0] * iterations)

        async def benchmark_predict(self, iterations, warmup):
            return SimpleNamespace(samples=[1.0] * iterations)

    class Phone:
        async def prepare_for_model_debugging(self, credentials):
            if "signing" in refused:
                raise RuntimeError("no profile for team TEAM")
            return self

    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr("coremltools.models.MLModel", lambda _, compute_units: compute_units.name)
    monkeypatch.setattr(perf_utils, "MLModelBenchmarker", Benchmarker)
    monkeypatch.setattr(remote_device.Device, "get_connected_devices", staticmethod(lambda _: [Phone()]))
    assert ct.ComputeUnit.CPU_AND_NE.name == "CPU_AND_NE"
    return refused


def test_tools_that_break_on_this_mac_are_not_run_and_what_was_timed_stays(breaking):
    breaking |= {"CPU_AND_NE", "CPU_AND_GPU"}
    found = stopwatch(Path("x.mlpackage"))
    assert found["status"] == "NOT RUN"
    assert [row["backend"] for row in found["rows"]] == ["coreml-all", "coreml-cpu"]
    assert "coreml-ane: Exception: no benchmark with CPU_AND_NE; coreml-gpu: " in found["reason"]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [("signing", "RuntimeError: no profile for team TEAM"), ("phone", "Exception: no benchmark with phone")],
)
def test_a_phone_that_was_asked_for_and_breaks_has_failed(breaking, fault, reason):
    breaking.add(fault)
    found = stopwatch(Path("x.mlpackage"), "iPhone 16 Pro", "TEAM")
    assert found["status"] == "FAILED"
    assert found["reason"].startswith("iPhone 16 Pro: ")
    assert found["reason"].endswith(reason)
    assert len(found["rows"]) == 4, "this Mac's"
    verdicts = with_phone([], {"absolute": []}, found)
    assert over_budget(verdicts) == f"the attached phone is timed: {found['reason']}"


def test_a_phone_needs_a_core_ml_package_and_tools_that_list_it(breaking, monkeypatch):
    from coremltools.models.ml_program.experimental import remote_device

    with pytest.raises(ValueError, match="--iphone needs a Core ML package"):
        stopwatch(None, "iPhone 16 Pro", "TEAM")

    def no_xcode(_):
        raise FileNotFoundError("xcrun")

    monkeypatch.setattr(remote_device.Device, "get_connected_devices", staticmethod(no_xcode))
    with pytest.raises(ValueError, match="Xcode's tools list no devices: FileNotFoundError: xcrun"):
        stopwatch(Path("x.mlpackage"), "iPhone 16 Pro", "TEAM")


def test_core_mls_stopwatch_elsewhere_says_not_run_or_what_is_missing():
    if platform.system() == "Darwin":
        pytest.skip("this is a Mac")
    assert stopwatch(Path("x"))["status"] == "NOT RUN"
    with pytest.raises(ValueError, match="--iphone_team"):
        stopwatch(Path("x"), "iPhone 16 Pro")
    with pytest.raises(ValueError, match="needs a Mac"):
        stopwatch(Path("x"), "iPhone 16 Pro", "TEAM")
