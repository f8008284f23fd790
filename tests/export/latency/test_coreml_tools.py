"""Apple's measuring tools, simulated: what is asked of coremltools, tools that break, and machines without them."""

import platform
from pathlib import Path
from types import SimpleNamespace

import pytest

from experiments.recipe_files import LATENCY
from export.latency.budgets import check_budgets, over_budget, read_budgets
from export.latency.coreml_tools import MAC, neural_engine_share, stopwatch


@pytest.fixture
def tools(mac, monkeypatch):
    """Apple's tools on a simulated Mac: attached ``phones``, and ``broken`` compute units, "signing" or "phone"."""
    from coremltools.models.ml_program.experimental import perf_utils, remote_device

    found = SimpleNamespace(phones=[], broken=set())

    class Benchmarker:
        def __init__(self, model, device):
            where = "phone" if device else model
            if where in found.broken:
                raise Exception(f"no benchmark\nwith {where}")
            self.step = 0.5 if device else 1.0

        async def benchmark_load(self, iterations):
            return SimpleNamespace(samples=[80.0] * iterations)

        async def benchmark_predict(self, iterations, warmup):
            return SimpleNamespace(samples=[self.step * (1 + number) for number in range(iterations)])

    class Phone:
        async def prepare_for_model_debugging(self, credentials):
            assert credentials.development_team == "TEAM"
            if "signing" in found.broken:
                raise RuntimeError("no profile for team TEAM")
            return self

    found.phones.append(Phone())
    monkeypatch.setattr("coremltools.models.MLModel", lambda _, compute_units: compute_units.name)
    monkeypatch.setattr(perf_utils, "MLModelBenchmarker", Benchmarker)
    monkeypatch.setattr(remote_device.Device, "get_connected_devices", staticmethod(lambda _: found.phones))
    return found


def test_stopwatch_on_a_mac_with_a_phone(tools):
    result = stopwatch(Path("x.mlpackage"), "iPhone 16 Pro", "TEAM")
    rows = {(row["device"], row["backend"]): row for row in result["rows"]}
    assert (result["status"], len(rows)) == ("ok", 8)
    assert rows[MAC, "coreml-ane"]["p50_ms"] == 50.5
    assert rows["iPhone 16 Pro", "coreml-ane"]["p50_ms"] == 25.25
    with pytest.raises(ValueError, match="--iphone_team"):
        stopwatch(Path("x.mlpackage"), "iPhone 16 Pro")
    tools.phones.clear()
    with pytest.raises(ValueError, match="exactly one attached iPhone, found 0"):
        stopwatch(Path("x.mlpackage"), "iPhone 16 Pro", "TEAM")


def test_tools_that_break_on_this_mac_keep_the_finished_rows(tools):
    tools.broken |= {"CPU_AND_NE", "CPU_AND_GPU"}
    found = stopwatch(Path("x.mlpackage"))
    assert found["status"] == "NOT RUN"
    assert [row["backend"] for row in found["rows"]] == ["coreml-all", "coreml-cpu"]
    assert "coreml-ane: Exception: no benchmark with CPU_AND_NE; coreml-gpu: " in found["reason"]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [("signing", "RuntimeError: no profile for team TEAM"), ("phone", "Exception: no benchmark with phone")],
)
def test_a_requested_phone_that_breaks_fails_the_command(tools, fault, reason):
    tools.broken.add(fault)
    found = stopwatch(Path("x.mlpackage"), "iPhone 16 Pro", "TEAM")
    assert found["status"] == "FAILED"
    assert found["reason"].startswith("iPhone 16 Pro: ")
    assert found["reason"].endswith(reason)
    assert len(found["rows"]) == 4, "this Mac's"
    record = {
        "machine": {"device": "Mac"},
        "model": {},
        "backends": {},
        "absent": {},
        "live_scans": [],
        "coreml_stopwatch": found,
    }
    verdicts = check_budgets(read_budgets(LATENCY), record)
    assert over_budget(verdicts) == f"the attached phone is timed: {found['reason']}"


def test_a_phone_needs_a_core_ml_package_and_tools_that_list_it(tools, monkeypatch):
    from coremltools.models.ml_program.experimental import remote_device

    with pytest.raises(ValueError, match="the export has no Core ML package"):
        stopwatch(None, "iPhone 16 Pro", "TEAM")

    def no_xcode(_):
        raise FileNotFoundError("xcrun")

    monkeypatch.setattr(remote_device.Device, "get_connected_devices", staticmethod(no_xcode))
    with pytest.raises(ValueError, match="Xcode's tools list no devices: FileNotFoundError: xcrun"):
        stopwatch(Path("x.mlpackage"), "iPhone 16 Pro", "TEAM")


def test_stopwatch_without_a_mac():
    if platform.system() == "Darwin":
        pytest.skip("this is a Mac")
    assert stopwatch(Path("x"))["status"] == "NOT RUN"
    with pytest.raises(ValueError, match="needs macOS"):
        stopwatch(Path("x"), "iPhone 16 Pro", "TEAM")


def test_the_compiled_model_is_kept_while_its_plan_is_read(mac, monkeypatch):
    alive = []

    class Model:
        def __init__(self, path):
            alive.append(self)

        def get_compiled_model_path(self):
            return "compiled"

        def __del__(self):
            gone.append(True)

    gone = []
    engine = type("Engine", (), {})
    block = SimpleNamespace(
        operations=[SimpleNamespace(operator_name="conv"), SimpleNamespace(operator_name="x")]
    )
    program = SimpleNamespace(functions={"main": SimpleNamespace(block=block)})

    class Plan:
        model_structure = SimpleNamespace(program=program)

        @staticmethod
        def load_from_path(**_):
            alive.clear()
            assert not gone
            return Plan()

        def get_compute_device_usage_for_mlprogram_operation(self, operation):
            device = engine() if operation.operator_name == "conv" else object()
            return SimpleNamespace(preferred_compute_device=device)

    monkeypatch.setattr("coremltools.models.MLModel", Model)
    monkeypatch.setattr("coremltools.models.compute_device.MLNeuralEngineComputeDevice", engine)
    monkeypatch.setattr("coremltools.models.compute_plan.MLComputePlan", Plan)
    assert neural_engine_share(Path("x.mlpackage"))["share"] == 0.5


def test_a_broken_compute_plan_is_not_run_with_its_message(mac, monkeypatch):
    def too_old(path):
        raise Exception("MLComputePlan is only available\non macOS 14.4")

    monkeypatch.setattr("coremltools.models.MLModel", too_old)
    found = neural_engine_share(Path("x.mlpackage"))
    assert found == {
        "status": "NOT RUN",
        "reason": "MLComputePlan: Exception: MLComputePlan is only available on macOS 14.4",
    }
    assert neural_engine_share(None)["status"] == "NOT RUN"
