"""Figures against naive loops, verdicts, and an export that a missed gate stops."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

from datamodules.cores import usable_cores
from datamodules.evaluation.dataset import printed_spacing
from datamodules.evaluation.protocol import Protocol
from export import Options, export_student
from export.graphs.heads import AgeHead
from export.graphs.pixel_graph import PixelEncoder
from export.int8.variants import enter_bfloat16, judge_int8_speed
from export.latency.backends import available
from export.latency.interleave import Timing
from export.options import SKIPPABLE
from export.parity.frames import corpus_spacings, evaluation_frames
from export.parity.ledger import (
    DROPPED,
    FAILED,
    NOT_RUN,
    OK,
    GateFailedError,
    Row,
    embedding_figures,
    judge,
    read_gates,
)
from export.variants import ExportContext, write_coreml_variants
from models import fused_copy
from models.zero_shot import AgeTable
from tests.export.conftest import SKIP


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
    with pytest.raises(ValueError, match=r"float32\.cosine_mn: "):
        read_gates(path)
    path.write_text(yaml.safe_dump({**gates, "float32": 3}))
    with pytest.raises(ValueError, match="float32: Input should be a valid dictionary, not 3"):
        read_gates(path)
    path.write_text("float32: {")
    with pytest.raises(ValueError, match=r"^[^\n]*gates\.yaml: not YAML[^\n]*$"):
        read_gates(path)


def test_ledger_has_a_row_a_variant_and_never_says_ok_for_what_did_not_run(exported):
    rows = {row["variant"]: row for row in json.loads((exported.folder / "parity.json").read_text())["rows"]}
    exact = ("torch-eager", "torch-fused", "onnx-fp32", "onnx-planes", "onnx-subplanes", "onnx-text")
    assert [rows[name]["status"] for name in exact] == [OK] * len(exact)
    if available()["openvino-bf16"] != "yes":
        assert rows["openvino-bf16"]["status"] == NOT_RUN
    assert rows["onnx-fp32"]["frames"] >= 12
    assert set(rows["onnx-fp32"]["tasks"]) == {"planes/f1", "subplanes/f1"}
    for name in ("coreml-fp16", "coreml-gray", "coreml-planes", "coreml-int8"):
        assert rows[name]["status"] == NOT_RUN
        assert "verify_coreml.py" in rows[name]["note"]
    assert rows["onnx-int8"]["note"].startswith("task metrics not judged: the weights are random; ")
    assert "times as fast as float32" in rows["onnx-int8"]["note"], "timed although it is kept in any case"


def test_bfloat16_says_why_it_did_not_run_or_is_judged_by_the_task(monkeypatch, tmp_path):
    context = ExportContext(tmp_path, None, {}, {})
    monkeypatch.setattr("export.int8.variants.available", lambda: {"openvino-bf16": "no bfloat16 here"})
    enter_bfloat16(context)
    assert [(row.variant, row.status, row.note) for row in context.not_run] == [
        ("openvino-bf16", NOT_RUN, "no bfloat16 here")
    ]
    monkeypatch.setattr("export.int8.variants.available", lambda: {"openvino-bf16": "yes"})
    monkeypatch.setattr("export.int8.variants.openvino_runner", lambda *given: given)
    monkeypatch.setattr(ExportContext, "side", 64)
    enter_bfloat16(context)
    (variant,) = context.variants
    assert (variant.name, variant.gate) == ("openvino-bf16", "compressed")
    assert variant.run == (tmp_path / "image_encoder.onnx", 64, "bf16")


def test_the_age_table_has_all_heads_of_the_corpus_whatever_the_frames(corpus, student):
    every = {printed_spacing(r, student.preprocessing) for r in corpus.records if r.corpus == "hc18"}
    assert corpus_spacings(corpus, student.preprocessing) == sorted(every)
    few = evaluation_frames(corpus, student.preprocessing, "test", 2)
    assert set(few.spacings()["hc18"]) < every


@pytest.fixture
def int8_context(copied):
    """The context of an export with an int8 file."""
    entry = {"file": "image_encoder_int8.onnx"}
    encoder = SimpleNamespace(model=SimpleNamespace(preprocessing=SimpleNamespace(image_size=64)))
    return ExportContext(copied, encoder, {}, {}, artifacts={"onnx-int8": entry})


def timed_as(times):
    """Stand in for the clock: every call of an int8 file takes these milliseconds, of its yardstick 10."""

    def timed(specs, rounds, repeats):
        assert specs["onnx-int8 yardstick"]["path"].endswith("image_encoder.onnx")
        assert {spec["threads"] for spec in specs.values()} == {usable_cores()}
        spent = {name: 10.0 if "yardstick" in name else times for name in specs}
        return {name: Timing(dict(specs[name]), [[ms] * repeats] * rounds) for name, ms in spent.items()}

    return timed


@pytest.mark.parametrize(
    ("keep", "status", "answer"),
    [(False, DROPPED, "left out for that"), (True, OK, "kept because of --keep_slow_int8")],
)
def test_an_int8_file_that_is_slower_is_dropped_unless_kept_with_figure_and_reason(
    int8_context, monkeypatch, keep, status, answer
):
    monkeypatch.setattr("export.int8.variants.time_interleaved", timed_as(15.0))
    monkeypatch.setattr("export.latency.machine.instructions", lambda: ["avx2"])
    row = Row("onnx-int8", "", "compressed", OK)
    (row,) = judge_int8_speed(int8_context, [row], keep_slow=keep)
    assert row.status == status
    assert row.note.startswith("0.67 times as fast as float32 in onnxruntime here; ")
    assert "no int8 dot product (VNNI)" in row.note
    assert answer in row.note
    assert row.figures["speed"] == pytest.approx(0.667, abs=0.001)


def test_an_int8_file_that_is_faster_has_its_figure_alone(int8_context, monkeypatch):
    monkeypatch.setattr("export.int8.variants.time_interleaved", timed_as(5.0))
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {1, 2, 3}, raising=False)
    row = Row("onnx-int8", "", "compressed", OK)
    (row,) = judge_int8_speed(int8_context, [row], keep_slow=False)
    assert (row.status, row.note) == (OK, "2.00 times as fast as float32 in onnxruntime here")


@pytest.mark.parametrize("ends", [True, False])
def test_an_int8_file_that_cannot_be_timed_is_dropped(int8_context, monkeypatch, ends):
    def broken(specs, rounds, repeats):
        if ends:
            raise BrokenPipeError("the process ended")
        return {
            name: Timing(spec, error="" if "yard" in name else "no kernel") for name, spec in specs.items()
        }

    monkeypatch.setattr("export.int8.variants.time_interleaved", broken)
    row = Row("onnx-int8", "", "compressed", OK)
    (row,) = judge_int8_speed(int8_context, [row], keep_slow=False)
    assert row.status == DROPPED
    assert (
        f"could not be timed against float32 ({'BrokenPipeError: the process ended' if ends else 'no kernel'})"
        in row.note
    )


def test_a_tower_that_changes_when_fused_is_named_before_anything_is_converted(
    student, corpus, source, tmp_path, monkeypatch
):
    def spoilt(model):
        fused = fused_copy(model)
        with torch.no_grad():
            fused.image_projection.weight[0].neg_()
        return fused

    monkeypatch.setattr("export.build.fused_copy", spoilt)
    monkeypatch.setattr("export.build.write_onnx_variants", lambda *_: pytest.fail("it went on"))
    options = Options(skip=["coreml", "int8"], frames=12, spacings=[0.30], only_spacings=True)
    line = (
        r"^export: row torch-fused: cosine 0\.\d+, limit 0\.99999.* on the first 8 frames; the fused [^\n]*$"
    )
    with pytest.raises(GateFailedError, match=line):
        export_student(student, corpus, Protocol.load(), tmp_path / "run" / "export", options, dict(source))
    assert list((tmp_path / "run").iterdir()) == []


def test_spacings_given_alone_ship_alone_and_judge_nothing_less(student, corpus, source, tmp_path):
    target = tmp_path / "export"
    failed = tmp_path / "export-failed"
    failed.mkdir()
    options = Options(skip=["coreml", "int8"], frames=4, spacings=[0.21], only_spacings=True)
    with pytest.raises(ValueError, match=f"^{failed}: needed for an export that misses a gate"):
        export_student(student, corpus, Protocol.load(), target, options, dict(source))
    (failed / "parity.json").write_text("{}")
    options = Options(skip=["coreml", "int8"], frames=4, spacings=[0.21], only_spacings=True)
    trained = dict(source) | {"weights": "trained"}
    export = export_student(student, corpus, Protocol.load(), target, options, trained)
    assert export.head("ages")[0]["spacings_mm_per_px"] == ["0.21"]
    rows = {row["variant"]: row for row in json.loads((target / "parity.json").read_text())["rows"]}
    assert set(rows["onnx-fp32"]["tasks"]) == {"planes/f1", "subplanes/f1", "hc18/validity"}
    assert rows["onnx-planes"]["tasks"] == rows["onnx-planes"]["reference_tasks"]
    assert set(rows["onnx-planes"]["tasks"]) == {"planes/f1"}
    assert not failed.exists(), "it told of an earlier attempt"


def test_a_table_of_one_spacing_is_taken_out_of_a_larger_one():
    table = AgeTable(("0.10", "0.21", "0.34"), torch.arange(3).reshape(3, 1, 1).expand(3, 175, 2))
    head = AgeHead(["{weeks} {days} {spacing}"], table).only(["0.34", "0.10"])
    assert head.table.spacings == ("0.10", "0.34")
    assert head.table.vectors[:, 0, 0].tolist() == [0, 2]


def test_a_corpus_without_a_benchmark_cannot_judge(corpus, student, monkeypatch):
    monkeypatch.setattr(corpus, "benchmarks", ())
    with pytest.raises(ValueError, match="no benchmark to judge an export by"):
        evaluation_frames(corpus, student.preprocessing)


def test_what_is_made_from_a_skipped_package_says_so(student, tmp_path):
    context = ExportContext(tmp_path, PixelEncoder(student), {}, {})
    write_coreml_variants(context, ["coreml-fp16", "coreml-fp32", "coreml-gray", "coreml-palette6"])
    assert [(row.variant, row.status) for row in context.not_run] == [
        ("coreml-palette8", NOT_RUN),
        ("coreml-int8", NOT_RUN),
    ]
    assert "made from coreml-fp16, which --skip leaves out" in context.not_run[0].note


def test_every_package_can_be_left_out_by_name(exported):
    packages = {name for name, entry in exported.manifest["artifacts"].items() if entry["kind"] == "coreml"}
    assert packages | set(SKIP) <= set(SKIPPABLE)
