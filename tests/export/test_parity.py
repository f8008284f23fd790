"""Figures against naive loops, verdicts, and an export that a missed gate stops."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from datamodules import Record
from datamodules.protocol import Protocol
from export import Options, export_student
from export.frames import EvaluationFrames, corpus_spacings, evaluation_frames, printed_spacing
from export.heads import ClassHead
from export.int8_speed import drop_slow_int8
from export.latency.interleave import Timing
from export.measure import measure
from export.openvino_runner import enter_bfloat16
from export.parity import (
    DROPPED,
    EMULATED,
    FAILED,
    NOT_RUN,
    OK,
    Row,
    embedding_figures,
    flip_rate,
    judge,
    print_ledger,
    read_gates,
)
from export.variants import Variant, Workbench
from models import Preprocessing


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
    assert rows["coreml-fp16"]["status"] == rows["coreml-planes"]["status"] == EMULATED
    assert rows["openvino-bf16"]["status"] == NOT_RUN
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


def gray_row(frames, vectors):
    """Run a perfect gray camera's model over frames, and return its row."""
    place = {frame.tobytes(): vector for frame, vector in zip(frames, vectors, strict=True)}

    def exact(pixels):
        return np.stack([place[np.broadcast_to(frame, (3, 4, 4)).tobytes()] for frame in pixels])

    def gray(pixels):
        assert pixels.shape[1] == 1
        return np.stack(
            [place.get(np.broadcast_to(frame, (3, 4, 4)).tobytes(), vectors[0]) for frame in pixels]
        )

    records = [replace(RECORD, name=str(number), plane="ab"[number % 2]) for number in range(len(frames))]
    evaluation = EvaluationFrames(
        Preprocessing(4, (0.0,) * 3, (1.0,) * 3), records, {"planes": list(range(len(frames)))}, 0, 8
    )
    object.__setattr__(evaluation, "batches", lambda: iter([frames]))
    heads = {"planes": ClassHead("planes", {"a": ["a"], "b": ["b"]}, torch.eye(2))}
    variants = [Variant("coreml-gray", "", "float16", gray, gray=True, emulated=True)]
    return measure(exact, variants, evaluation, heads, None, read_gates(), trained=True)[1]


RECORD = Record(Path("x.png"), "planes", "x", "p")


def test_one_colour_frame_does_not_fail_a_gray_model():
    frames = np.broadcast_to(np.arange(6, dtype=np.float32).reshape(6, 1, 1, 1), (6, 3, 4, 4)).copy()
    vectors = np.eye(2, dtype=np.float32)[[0, 1, 0, 1, 0, 1]]
    row = gray_row(frames, vectors)
    assert (row.status, row.frames, row.note) == (EMULATED, 6, "")
    frames[5, 0] += 1
    row = gray_row(frames, vectors)
    assert (row.status, row.frames, row.note) == (EMULATED, 5, "1 colour frames left out")
    assert row.tasks == row.reference_tasks == {"planes/f1": 1.0}


def test_who_computed_a_core_ml_row_is_seen_in_the_card_and_the_print(exported, capsys):
    rows = [Row("coreml-fp16", "", status=EMULATED), Row("onnx-fp32", "", status=OK)]
    print_ledger(rows, "t")
    for text in (capsys.readouterr().out, (exported.folder / "MODEL_CARD.md").read_text()):
        assert "ok (emulated)" in text
        assert "Core ML itself was NOT RUN" in " ".join(text.split())


def test_bfloat16_says_why_it_did_not_run_or_is_judged_by_the_task(monkeypatch, tmp_path):
    bench = Workbench(tmp_path, None, {}, {})
    monkeypatch.setattr("export.openvino_runner.available", lambda: {"openvino-bf16": "no bfloat16 here"})
    enter_bfloat16(bench)
    assert [(row.variant, row.status, row.note) for row in bench.not_run] == [
        ("openvino-bf16", NOT_RUN, "no bfloat16 here")
    ]
    monkeypatch.setattr("export.openvino_runner.available", lambda: {"openvino-bf16": "yes"})
    monkeypatch.setattr("export.openvino_runner.OpenVinoRunner", lambda *given: given)
    monkeypatch.setattr(Workbench, "side", 64)
    enter_bfloat16(bench)
    (variant,) = bench.variants
    assert (variant.name, variant.gate) == ("openvino-bf16", "compressed")
    assert variant.run == (tmp_path / "image_encoder.onnx", 64, "bf16")


def test_the_age_table_has_all_heads_of_the_corpus_whatever_the_frames(corpus, student):
    every = {printed_spacing(r, student.preprocessing) for r in corpus.records if r.corpus == "hc18"}
    assert corpus_spacings(corpus, student.preprocessing) == sorted(every)
    few = evaluation_frames(corpus, student.preprocessing, "test", 2)
    assert set(few.spacings()) < every


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
