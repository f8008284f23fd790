"""The Markdown report and the picture of a made-up record."""

import pytest

from export.latency.budgets import OVER
from export.latency.report import markdown
from figures.latency import latency_figure


def record():
    row = {
        "p50_ms": 10.0, "p90_ms": 11.0, "p95_ms": 12.0, "p99_ms": 15.0, "images_per_s": 100.0,
        "cold_start_ms": 900.0, "load_ms": 500.0, "first_call_ms": 30.0, "peak_mb": 300.0,
        "calls": 90, "share_of_matmul_peak": 0.5, "arithmetic": "float32",
        "ratio": {"median": 3.1, "low": 3.0, "high": 3.2},
    }  # fmt: skip
    scan = {"encoder": "onnxruntime", "frames_per_second": 30.0, "frames": 60, "processed": 58, "dropped": 2}
    drift = {"seconds": 3, "calls": 9, "first_fifth_p50_ms": 10, "last_fifth_p50_ms": 11, "drift": 0.1}
    return {
        "machine": {
            "device": "A CPU",
            "cores": 2,
            "threads": 2,
            "matmul_gflops": {"float32": 100.0},
            "load_average": 9.0,
        },
        "model": {"parameters_m": 11.4, "gmacs": 2.4, "side": 256},
        "reference": "torch-eager",
        "backends": {
            "torch-eager": {**row, "p50_ms": 31.0, "p95_ms": 33.0},
            "onnxruntime": row,
            "openvino": {"error": "broken"},
        },
        "absent": {"coreml-ane": "Core ML predicts on macOS only"},
        "stages": {"preprocess": row},
        "throughput": [{"threads": t, "batch": b, **row} for t in (1, 2) for b in (1, 4)]
        + [{"threads": 2, "batch": 8, "error": "out of memory"}],
        "sustained": [{"encoder": "onnxruntime", **drift}, {"encoder": "coreml-ane", "error": "it died"}],
        "live_scans": [{**scan, "delay_p50_ms": 12.0, "delay_p95_ms": 20.0}],
        "files": {"onnx-fp32": 45_600_000, "golden": 10},
        "coreml_stopwatch": {
            "status": "ok",
            "rows": [
                {
                    "device": "iPhone 16 Pro",
                    "backend": "coreml-ane",
                    "load_ms": 80.0,
                    "p50_ms": 1.43,
                    "p90_ms": 1.6,
                    "p99_ms": 2.0,
                }
            ],
        },
        "neural_engine": {"status": "NOT RUN", "reason": "MLComputePlan needs macOS"},
        "verdicts": [{"budget": "onnxruntime: at least 5", "figure": 3.1, "status": OVER, "note": ""}],
    }


def test_report_says_over_budget_not_run_busy_and_before():
    text = markdown(record(), {"onnxruntime": 2.9})
    assert "**OVER BUDGET**" in text
    assert "NOT RUN: coreml-ane (Core ML predicts on macOS only)" in text
    assert "The machine was busy (load 9.0 on 2 cores)" in text
    assert "| 30 frames/s, onnxruntime | 58 of 60 | 2 |" in text
    assert "- coreml-ane without a pause: it died" in text
    line = next(line for line in text.splitlines() if line.startswith("| onnxruntime | 10"))
    assert line.endswith("| 2.90 |")
    assert "| openvino | broken |" in text
    assert "| threads 2, batch 8 | out of memory |" in text
    assert "MB: onnx-fp32 45.6." in text
    assert "| iPhone 16 Pro, coreml-ane | 1.43 | 1.60 | 2.00 | 80.00 |" in text


def test_the_figure_gives_every_backend_its_own_times_and_every_line_its_own_threads():
    made = record()
    for row in made["throughput"]:
        row["images_per_s"] = 100.0 * row["threads"] + row["batch"]
    figure = latency_figure(made)
    figure.canvas.draw()
    backends, throughput = figure.axes
    names = [label.get_text() for label in backends.get_yticklabels()]
    bars, (tails,) = backends.patches, backends.collections
    assert dict(zip(names, (bar.get_width() for bar in bars), strict=True)) == {
        "torch-eager": 31.0, "onnxruntime": 10.0,
    }  # fmt: skip
    ends = [segment[:, 0].tolist() for segment in tails.get_segments()]
    assert dict(zip(names, ends, strict=True)) == {
        "torch-eager": pytest.approx([31.0, 33.0]), "onnxruntime": pytest.approx([10.0, 12.0]),
    }  # fmt: skip
    assert {line.get_label(): line.get_xydata().tolist() for line in throughput.lines} == {
        "1 thread": [[1, 101], [4, 104]],
        "2 threads": [[1, 201], [4, 204]],
    }
