"""Figures against naive loops, verdicts, and an export that a missed gate stops."""

import json
import math

import numpy as np
import pytest
import yaml

from datamodules.protocol import Protocol
from export import Options, export_student
from export.int8_speed import drop_slow_int8
from export.latency.interleave import Timing
from export.parity import DROPPED, FAILED, NOT_RUN, OK, Row, embedding_figures, flip_rate, judge, read_gates


def test_figures_against_a_double_loop():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(5, 7)).astype(np.float32), rng.normal(size=(5, 7)).astype(np.float32)
    cosines, differences = [], []
    for x, y in zip(a.tolist(), b.tolist(), strict=True):
        dot = sum(p * q for p, q in zip(x, y, strict=True))
        cosines.append(dot / math.sqrt(sum(p * p for p in x) * sum(q * q for q in y)))
        differences += [abs(p - q) for p, q in zip(x, y, strict=True)]
    figures = embedding_figures(a, b)
    assert figures["cosine_min"] == pytest.approx(min(cosines), abs=1e-12)
    assert figures["cosine_mean"] == pytest.approx(sum(cosines) / 5, abs=1e-12)
    assert figures["difference_max"] == pytest.approx(max(differences), abs=1e-12)
    assert figures["difference_mean"] == pytest.approx(sum(differences) / 35, abs=1e-12)
    assert flip_rate(np.array([[1, 2], [3, 4]]), np.array([[1, 2], [0, 4]])) == 0.25


GATES = {
    "exact": {"cosine_min": 0.99, "flip_rate_max": 0.0},
    "task": {"points_lost_max": 1.0},
}


@pytest.mark.parametrize(
    ("figures", "status", "note"),
    [
        ({"cosine_min": 0.995, "flip_rate": 0.0}, OK, ""),
        ({"cosine_min": 0.98, "flip_rate": 0.0}, FAILED, "cosine 0.98, limit 0.99"),
        ({"cosine_min": 0.995, "flip_rate": 0.01}, FAILED, "flip_rate 0.01, limit 0"),
        ({"cosine_min": float("nan"), "flip_rate": 0.0}, FAILED, "cosine nan"),
        ({"cosine_min": 0.995}, FAILED, "flip_rate_max was not measured"),
    ],
)
def test_verdicts_on_figures(figures, status, note):
    row = Row("v", "", "exact", figures=figures)
    judge(row, GATES, trained=True)
    assert row.status == status
    assert note in row.note


@pytest.mark.parametrize(
    ("tasks", "trained", "status"),
    [
        ({"planes/f1": 0.895, "hc18/validity": 80.0}, True, OK),
        ({"planes/f1": 0.885, "hc18/validity": 80.0}, True, FAILED),  # 1.5 points of F1
        ({"planes/f1": 0.90, "hc18/validity": 78.0}, True, FAILED),  # 2 points of validity
        ({"planes/f1": 0.95, "hc18/validity": 90.0}, True, OK),
        ({"planes/f1": 0.5, "hc18/validity": 8.0}, False, NOT_RUN),
    ],
)
def test_verdicts_on_tasks(tasks, trained, status):
    row = Row("v", "", "task", tasks=tasks, reference_tasks={"planes/f1": 0.90, "hc18/validity": 80.0})
    judge(row, GATES, trained=trained)
    assert row.status == status


def test_gates_file_is_checked(tmp_path):
    path = tmp_path / "gates.yaml"
    path.write_text("float32: {cosine_min: 0.9}\n")
    with pytest.raises(ValueError, match="expected the gates"):
        read_gates(path)
    gates = read_gates()
    assert gates["float32"] == {"cosine_min": 0.99999, "flip_rate_max": 0.0}
    gates["float32"]["cosine_mn"] = 1.0
    path.write_text(yaml.safe_dump(gates))
    with pytest.raises(ValueError, match=r"unknown: .'cosine_mn'"):
        read_gates(path)


def test_ledger_has_a_row_a_variant_and_never_says_ok_for_what_did_not_run(exported):
    rows = {row["variant"]: row for row in json.loads((exported.folder / "parity.json").read_text())["rows"]}
    exact = ("torch-eager", "torch-fused", "onnx-fp32", "onnx-planes", "onnx-subplanes", "onnx-text")
    assert [rows[name]["status"] for name in exact] == [OK] * len(exact)
    assert rows["coreml-fp16"]["status"] == rows["coreml-planes"]["status"] == OK
    assert rows["onnx-fp32"]["frames"] >= 12
    assert set(rows["onnx-fp32"]["tasks"]) == {"planes/f1", "subplanes/f1"}
    for name in ("coreml-fp16", "coreml-gray", "coreml-planes", "coreml-int8"):
        assert rows[f"{name}-on-device"]["status"] == NOT_RUN
        assert "verify_coreml.py" in rows[f"{name}-on-device"]["note"]
    assert rows["onnx-int8"]["note"] == "task metrics not judged: the weights are random"


def test_a_missed_gate_names_the_row_and_leaves_no_folder(student, corpus, source, tmp_path):
    gates = read_gates()
    gates["float32-classifier"]["difference_max"] = -1.0
    (tmp_path / "gates.yaml").write_text(yaml.safe_dump(gates))
    options = Options(
        skip=["coreml", "int8"],
        frames=3,
        spacings=["0.30"],
        only_spacings=True,
        gates=str(tmp_path / "gates.yaml"),
    )
    target = tmp_path / "run" / "export"
    with pytest.raises(ValueError, match="row onnx-planes: difference"):
        export_student(student, corpus, Protocol.load(), target, options, dict(source))
    assert [path.name for path in target.parent.iterdir()] == ["export-failed-parity.json"]


def test_an_int8_file_that_is_slower_is_dropped_with_its_figure(copied, monkeypatch):
    entry = {"file": "image_encoder_int8.onnx"}
    bench = type(
        "Bench", (), {"artifacts": {"onnx-int8": entry}, "folder": copied, "side": 64, "facts": {}}
    )()
    times = {"onnx-int8": 15.0, "onnx-int8 yardstick": 10.0}

    def timed(specs, rounds, repeats):
        assert specs["onnx-int8 yardstick"]["path"].endswith("image_encoder.onnx")
        return {name: Timing(dict(spec), [[times[name]] * repeats] * rounds) for name, spec in specs.items()}

    monkeypatch.setattr("export.int8_speed.time_interleaved", timed)
    row = Row("onnx-int8", "", "compressed", OK)
    drop_slow_int8(bench, [row])
    assert row.status == DROPPED
    assert "0.67 times as fast" in row.note
    assert not (copied / "image_encoder_int8.onnx").exists()
    assert bench.artifacts == {}
