"""The budget file is checked before anything is timed, and every figure is compared with its budget."""

import pytest
import yaml

from experiments.recipe_files import LATENCY
from export.latency.budgets import (
    NOT_APPLICABLE,
    NOT_DECIDABLE,
    OK,
    OVER,
    check_budgets,
    over_budget,
    read_budgets,
    undecided,
)
from export.latency.machine import bottlenecks

MISSING = object()


def absolute(**values):
    return [{"device": "x", "backend": "coreml-ane", "p50_ms": 1, **values}]


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("ratios", MISSING, "ratios: Field required"),
        ("budget", 1, "budget: Extra inputs are not permitted"),
        ("timing.rounds", MISSING, "timing.rounds: Field required"),
        ("timing.round", 3, "timing.round: Extra inputs"),
        ("timing.repeats", 2.5, "timing.repeats: Input should be a valid integer, not 2.5"),
        ("timing.repeats", True, "timing.repeats: Input should be a valid integer, not True"),
        ("timing.batches", [1, 0], "timing.batches.1: Input should be greater than or equal to 1, not 0"),
        ("timing.batches", [], "timing.batches: List should have at least 1 item"),
        ("ci.sustained_s", "3", "ci.sustained_s: Input should be a valid number, not '3'"),
        ("ci.live_scan_s", 0, "ci.live_scan_s: Input should be greater than 0, not 0"),
        ("reference", "torch-eagre", "reference: no backend 'torch-eagre'; choose from torch-eager,"),
        ("ratios", [], r"ratios: Input should be a valid dictionary, not \[\]"),
        ("ratios.onxruntime", {"at_least": 99}, "ratios.onxruntime: no backend 'onxruntime'"),
        ("ratios.onnxruntime", {"least": 2}, "at_least: Field required; ratios.onnxruntime.least: Extra"),
        ("ratios.onnxruntime", {"at_least": float("nan")}, "ratios.onnxruntime.at_least: Input should be .*, not nan"),
        ("ratios.onnxruntime", None, "ratios.onnxruntime: Input should be a valid dictionary .*, not None"),
        ("absolute", absolute(ms=1), "absolute.0.ms: Extra"),
        ("absolute", absolute(device=" "), "absolute.0.device: .*, not ' '"),
        ("absolute", absolute(backend="ane"), "absolute.0.backend: no backend 'ane'"),
        ("live_scan.rates", [30], r"live_scan.rates: Input should be a valid dictionary, not \[30\]"),
        ("live_scan.rates", {"30": 0.1}, "scan.rates.30: .* valid number, not '30'"),
        ("live_scan.rates", {30: 10}, "scan.rates.30.*: .* equal to 1, not 10"),
    ],
)  # fmt: skip
def test_malformed_budgets_are_rejected_by_name(tmp_path, place, value, message):
    content = yaml.safe_load(LATENCY.read_text())
    *parents, last = place.split(".")
    part = content
    for key in parents:
        part = part[key]
    part.pop(last) if value is MISSING else part.update({last: value})
    path = tmp_path / "budgets.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ValueError, match=message) as error:
        read_budgets(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["a: [1", "- 1", ""])
def test_a_file_of_another_kind_is_rejected_in_one_line(tmp_path, text):
    path = tmp_path / "budgets.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"not YAML|Input should be a valid dictionary") as error:
        read_budgets(path)
    assert "\n" not in str(error.value)


@pytest.fixture
def budgets():
    return read_budgets(LATENCY)


def test_our_own_budgets_pass_and_ci_is_the_short_protocol(budgets):
    assert budgets.ci.rounds < budgets.timing.rounds
    assert budgets.ci.live_scan_s < budgets.live_scan.seconds


def quartiles(median, spread=0.0):
    return {"median": median, "low": median - spread, "high": median + spread}


def made(device="x", gmacs=2.4, scans=(), absent=(), watched=(), **backends):
    """Return a latency record of these backends: a ratio to the reference, or a row."""
    rows = {
        name.replace("_", "-"): row if isinstance(row, dict) else {"ratio": quartiles(row)}
        for name, row in backends.items()
    }
    stopwatch = {"status": "ok", "rows": list(watched)}
    return {
        "machine": {"device": device}, "model": {"gmacs": gmacs}, "backends": rows, "absent": dict(absent),
        "live_scans": list(scans), "coreml_stopwatch": stopwatch,
    }  # fmt: skip


def check(budgets, **record):
    return check_budgets(budgets, made(**record))


def ane(p50_ms):
    return {"p50_ms": p50_ms}


def test_budgets_are_ratios_and_absolute_only_on_the_named_device(budgets):
    verdicts = check(budgets, device="Intel Xeon", onnxruntime=1.2, coreml_ane=ane(2.0))
    status = {v.budget.split(":")[0]: v.status for v in verdicts}
    assert status["onnxruntime"] == OVER
    assert status["openvino"] == NOT_APPLICABLE
    assert status["coreml-ane on iPhone 16 Pro"] == NOT_APPLICABLE
    on_phone = check(budgets, device="iPhone 16 Pro", onnxruntime=3.2, coreml_ane=ane(2.0))
    assert "coreml-ane on iPhone 16 Pro: at most 1.6 ms, measured 2" in over_budget(on_phone)
    good = check(budgets, device="iPhone 16 Pro", onnxruntime=3.2, coreml_ane=ane(1.5))
    assert over_budget(good) == ""
    assert next(v for v in good if v.budget.startswith("onnxruntime")).note == "reach target 3: met"


def test_a_longer_name_is_another_device(budgets):
    for name in ("iPhone 16 Pro Max", "iPhone 16"):
        assert over_budget(check(budgets, device=name, coreml_ane=ane(2.0))) == ""
    assert over_budget(check(budgets, device="iphone 16 pro ", coreml_ane=ane(2.0))) != ""


def test_an_attached_iphone_is_compared_with_its_budget(budgets):
    def watched(device):
        return [{"device": device, "backend": "coreml-ane", "p50_ms": 1.8}]

    found = check(budgets, device="Mac", coreml_ane=ane(0.5), watched=watched("iPhone 16 Pro"))
    assert over_budget(found) == "coreml-ane on iPhone 16 Pro: at most 1.6 ms, measured 1.8"
    other = check(budgets, device="Mac", watched=watched("iPhone 12"))
    assert over_budget(other) == ""
    assert other[-1].note == "this is Mac with iPhone 12"


def test_an_installed_backend_that_breaks_is_a_failure(budgets):
    broken = {"openvino": {"error": "openvino: RuntimeError: no plugin"}, "coreml_ane": {"error": "died"}}
    found = over_budget(check(budgets, device="iPhone 16 Pro", onnxruntime=3.2, **broken))
    assert "openvino: at least 2 times torch-eager: openvino: RuntimeError: no plugin" in found
    assert "coreml-ane on iPhone 16 Pro: at most 1.6 ms: died" in found
    assert over_budget(check(budgets, onnxruntime=3.2, absent={"openvino": "is not installed"})) == ""


def test_a_missed_reach_target_names_the_bottleneck(budgets, monkeypatch):
    rows = {
        "onnx-int8": {"share_of_matmul_peak": 0.9, "arithmetic": "int8"},
        "onnxruntime": {"share_of_matmul_peak": 0.5, "arithmetic": "float32", "ratio": quartiles(2.5)},
        "openvino": {"error": "broken"},
    }
    monkeypatch.setattr("export.latency.machine.instructions", lambda: ["avx2"])
    reasons = bottlenecks(rows)
    assert reasons["onnx-int8"].endswith("int8 matmul peak, and the processor has no int8 dot product (VNNI)")
    assert set(reasons) == {"onnx-int8", "onnxruntime"}
    monkeypatch.setattr("export.latency.machine.instructions", lambda: ["avx2", "avx512_vnni"])
    assert "VNNI" not in bottlenecks(rows)["onnx-int8"]
    absent = {"openvino-bf16": "this processor has no bfloat16 arithmetic"}
    notes = {v.budget.split(":")[0]: v.note for v in check(budgets, absent=absent, **rows)}
    peak = "it runs at 50% of this machine's float32 matmul peak"
    assert notes["onnxruntime"] == f"reach target 3: missed; {peak}"
    assert notes["openvino-bf16"] == absent["openvino-bf16"]


def test_dropped_frames_can_have_a_budget(budgets):
    budgets.live_scan.rates = {30: 0.1}
    scan = {"encoder": "a", "frames_per_second": 30.0, "frames": 60, "processed": 40, "dropped": 20}
    broken = {"encoder": "b", "frames_per_second": 30.0, "error": "it died"}
    found = over_budget(check(budgets, scans=[scan, broken]))
    assert "live scan at 30 frames/s with a: at most 10% dropped, measured 0.333" in found
    assert "live scan at 30 frames/s with b: at most 10% dropped: it died" in found


@pytest.mark.parametrize(
    ("row", "status", "reason"),
    [
        ({"ratio": quartiles(5.0, 0.2)}, OK, ""),
        ({"ratio": quartiles(1.0, 0.2)}, OVER, ""),
        ({"ratio": quartiles(2.1, 0.2)}, NOT_DECIDABLE, "1.9 and 2.3 lie on both sides"),
        ({"ratio": quartiles(2180.0, 900.0)}, NOT_DECIDABLE, "too far apart"),
        ({"ratio": {"median": 1.5, "low": 1.0, "high": 1.9}}, NOT_DECIDABLE, "1 and 1.9 are too far apart"),
        ({"ratio": quartiles(5.0), "share_of_matmul_peak": 6.35, "arithmetic": "float32"}, NOT_DECIDABLE, "635%"),
    ],
)  # fmt: skip
def test_a_busy_machine_decides_nothing(budgets, row, status, reason):
    budgets.ratios = {"onnxruntime": budgets.ratios["onnxruntime"].model_copy(update={"at_least": 2.0})}
    (verdict, *_) = check(budgets, onnxruntime=row)
    assert verdict.status == status
    assert reason in verdict.note
    assert bool(undecided([verdict])) == (status == NOT_DECIDABLE)
    assert bool(over_budget([verdict])) == (status == OVER)


# Arithmetic of the matrix product that this machine could time.
@pytest.mark.parametrize("arithmetic", ["int8", "float32"])
def test_int8_may_be_faster_than_the_matrix_product(budgets, arithmetic):
    limit = budgets.ratios["onnx-int8"]
    row = {"ratio": quartiles(limit.at_least + 9), "share_of_matmul_peak": 2.4, "arithmetic": arithmetic}
    assert not undecided(check(budgets, onnx_int8=row))


def test_int8_has_a_budget_against_float32_of_its_runtime(budgets):
    limit = budgets.ratios["onnx-int8"]
    assert limit.of_float32 is not None
    slow = {"ratio": quartiles(limit.at_least + 9), "of_float32": quartiles(limit.of_float32 - 0.2)}
    found = {v.budget.split(":")[0]: v for v in check(budgets, onnx_int8=slow) if v.status == OVER}
    assert "times float32 in onnxruntime" in found["onnx-int8"].budget


def test_a_small_student_has_a_floor_of_its_own(budgets):
    limit = budgets.ratios["onnxruntime"]
    between = (limit.at_least + limit.small) / 2
    assert over_budget(check(budgets, onnxruntime=between)) == ""
    assert over_budget(check(budgets, onnxruntime=between, gmacs=0.01)).startswith(
        "onnxruntime: at least 4.5"
    )
