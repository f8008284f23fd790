"""Figures against naive loops, verdicts, and an export that a missed gate stops."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from torch.nn.functional import normalize

from datamodules.evaluation.dataset import printed_spacing
from datamodules.evaluation.own_benchmarks import TAKEN
from export import Options, export_student
from export.graphs.heads import ClassHead, grid, ship
from export.graphs.pixel_graph import PixelEncoder
from export.int8.int8_variants import enter_bfloat16, judge_int8_speed
from export.latency.backends import available
from export.latency.interleave import Timing
from export.options import skippable
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
from export.parity.measure import measure, task_scores
from export.variants import ExportContext, Variant, coreml_packages, write_coreml_variants
from metrics.benchmarks import BENCHMARKS
from metrics.biometry import predicted_age_days
from metrics.growth_chart import head_circumference_mm
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
    with pytest.raises(ValueError, match=r"missing: compressed, .*; unknown: none; edit a copy"):
        read_gates(path)
    gates = read_gates()
    assert gates["float32"] == {"cosine_min": 0.99999, "flip_rate_max": 0.0}
    gates["float32"]["cosine_mn"] = 1.0
    path.write_text(yaml.safe_dump(gates))
    with pytest.raises(ValueError, match=r"float32\.cosine_mn: "):
        read_gates(path)
    path.write_text(yaml.safe_dump({**read_gates(), "float32": {}}))
    with pytest.raises(ValueError, match=r"gates without a limit: float32"):
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
    monkeypatch.setattr("export.int8.int8_variants.available", lambda: {"openvino-bf16": "no bfloat16 here"})
    enter_bfloat16(context)
    assert [(row.variant, row.status, row.note) for row in context.not_run] == [
        ("openvino-bf16", NOT_RUN, "no bfloat16 here")
    ]
    monkeypatch.setattr("export.int8.int8_variants.available", lambda: {"openvino-bf16": "yes"})
    monkeypatch.setattr("export.int8.int8_variants.openvino_runner", lambda *given: given)
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
    return ExportContext(
        copied, encoder, {}, {}, artifacts={"onnx-int8": entry, "onnx-fp32": {"file": "image_encoder.onnx"}}
    )


def timed_as(times):
    """Stand in for the clock: an int8 file takes these milliseconds by round, its reference 10."""

    def timed(specs, rounds, repeats):
        assert specs["onnx-int8 reference"]["path"].endswith("image_encoder.onnx")
        assert {spec["threads"] for spec in specs.values()} == {1}
        found = {name: Timing(dict(spec), cpu_rounds=[[10.0]] * len(times)) for name, spec in specs.items()}
        found["onnx-int8"].cpu_rounds = [[ms] for ms in times]
        return found

    return timed


@pytest.mark.parametrize(
    ("keep", "status", "answer"),
    [(False, DROPPED, "left out for that"), (True, OK, "kept because of --keep_slow_int8")],
)
def test_an_int8_file_that_is_slower_is_dropped_unless_kept_with_figure_and_reason(
    int8_context, monkeypatch, keep, status, answer
):
    monkeypatch.setattr("export.int8.int8_variants.time_interleaved", timed_as([15.0] * 5))
    monkeypatch.setattr("export.latency.machine.instructions", lambda: ["avx2"])
    row = Row("onnx-int8", "", "compressed", OK)
    (row,) = judge_int8_speed(int8_context, [row], keep_slow=keep)
    assert row.status == status
    assert row.note.startswith("0.67 times as fast as float32 in onnxruntime here ")
    assert "no int8 dot product (VNNI)" in row.note
    assert "unproven" not in row.note
    assert answer in row.note
    assert row.figures["of_float32"] == pytest.approx(0.667, abs=0.001)


def test_an_int8_file_that_is_faster_has_its_figure_alone(int8_context, monkeypatch):
    monkeypatch.setattr("export.int8.int8_variants.time_interleaved", timed_as([5.0] * 5))
    row = Row("onnx-int8", "", "compressed", OK)
    (row,) = judge_int8_speed(int8_context, [row], keep_slow=False)
    assert row.status == OK
    assert (
        row.note == "2.00 times as fast as float32 in onnxruntime here (one thread; quartiles 2.00 to 2.00)"
    )


def test_an_int8_file_whose_speed_cannot_be_told_is_kept_and_says_so(int8_context, monkeypatch):
    monkeypatch.setattr("export.int8.int8_variants.time_interleaved", timed_as([8.0, 8.0, 10.2, 13.0, 13.0]))
    (row,) = judge_int8_speed(int8_context, [Row("onnx-int8", "", "compressed", OK)], keep_slow=False)
    assert row.status == OK
    assert row.note.endswith("kept, unproven: the quartiles lie on both sides of 1")
    assert (row.figures["of_float32_low"], row.figures["of_float32_high"]) == pytest.approx((10 / 13, 1.25))


@pytest.mark.parametrize("ends", [True, False])
def test_an_int8_file_that_cannot_be_timed_is_dropped(int8_context, monkeypatch, ends):
    def broken(specs, rounds, repeats):
        if ends:
            raise BrokenPipeError("the process ended")
        return {
            name: Timing(spec, error="" if "yard" in name else "no kernel") for name, spec in specs.items()
        }

    monkeypatch.setattr("export.int8.int8_variants.time_interleaved", broken)
    monkeypatch.setattr("export.latency.machine.instructions", lambda: ["avx2"])
    row = Row("onnx-int8", "", "compressed", OK)
    (row,) = judge_int8_speed(int8_context, [row], keep_slow=False)
    assert row.status == DROPPED
    assert (
        f"could not be timed against float32 ({'BrokenPipeError: the process ended' if ends else 'no kernel'})"
        in row.note
    )
    assert "VNNI" not in row.note, "a reason for a speed that nobody knows"


def test_a_tower_that_changes_when_fused_is_named_before_anything_is_converted(
    subject, tmp_path, monkeypatch
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
        export_student(subject, tmp_path / "run" / "export", options)
    assert list((tmp_path / "run").iterdir()) == []


def test_spacings_given_alone_ship_alone_and_judge_nothing_less(converted, subject, tmp_path):
    target = tmp_path / "export"
    failed = tmp_path / "export-failed"
    failed.mkdir()
    options = Options(skip=["coreml", "int8"], frames=4, spacings=[0.21], only_spacings=True)
    with pytest.raises(ValueError, match=f"^{failed}: needed for an export that misses a gate"):
        export_student(subject, target, options)
    (failed / "parity.json").write_text("{}")
    trained = replace(subject, source=subject.source | {"weights": "trained"})
    export = export_student(trained, target, options)
    assert export.head("ages")[0]["spacings_mm_per_px"] == ["0.21"]
    rows = {row["variant"]: row for row in json.loads((target / "parity.json").read_text())["rows"]}
    assert set(rows["onnx-fp32"]["tasks"]) == {"planes/f1", "subplanes/f1", "hc18/validity"}
    assert rows["onnx-planes"]["tasks"] == rows["onnx-planes"]["reference_tasks"]
    assert set(rows["onnx-planes"]["tasks"]) == {"planes/f1"}
    assert not failed.exists(), "it told of an earlier attempt"


def test_the_table_ships_with_few_coordinates_and_the_ages_of_the_full_one():
    generator = torch.Generator().manual_seed(0)
    plane = torch.linalg.qr(torch.randn(48, 48, generator=generator)).Q[
        :6
    ]  # ages differ in six directions of 48
    offset = torch.randn(4, 1, 48, generator=generator)  # in any direction by spacing: it decides nothing
    vectors = torch.randn(4, 175, 6, generator=generator) @ plane + offset
    spacings = ("0.09", "0.10", "0.11", "1.00")
    images = normalize(torch.randn(40, 48, generator=generator), dim=1)
    printed = [spacings[number % 4] for number in range(40)]
    small = ship(AgeTable(spacings, vectors), ["{weeks} {days} {spacing}"], images, printed)
    assert small.coordinates.shape == (4, 175, 16), "the smallest number that is tried"
    assert small.check["share_within_2_days"] >= 0.99
    ages = predicted_age_days(small.table().similarity(images, printed))
    exact = torch.stack([(vectors[spacings.index(p)] @ x) for x, p in zip(images, printed, strict=True)])
    middle = exact.argsort(dim=1, descending=True)[:, :15].sort(dim=1).values[:, 7] + 98
    assert ((ages - middle).abs() <= 2).float().mean() >= 0.99
    assert small.only(["1.00", "0.10"]).spacings == ("0.10", "1.00")
    assert torch.equal(small.only(["1.00"]).coordinates[0], small.coordinates[3])
    few = ship(AgeTable(spacings, vectors), [], images[:6], printed[:6])
    assert len(few.basis) == 48, "other heads could need what six do not"
    assert few.check["heads"] == 6
    noise = AgeTable(spacings, torch.randn(4, 175, 48, generator=generator))
    assert len(ship(noise, [], images, printed).basis) == 48, "nothing smaller keeps the ages of noise"


def test_a_corpus_gets_every_spacing_in_its_range(capsys):
    assert grid(["0.98", "1.01"]) == {"0.98", "0.99", "1.00", "1.01"}
    assert grid(["0.28", "0.29"]) == {"0.28", "0.29"}, "100 * 0.29 is less than 29"
    assert len(grid(["1.09", "6.55"])) == 547, "1920 pixels of 0.05 to 0.30 mm on 88"
    assert len(grid(["0.10", "10.09"])) == 1000
    assert grid([]) == set()
    assert capsys.readouterr().out == ""
    assert grid(["0.10", "10.10"]) == {"0.10", "10.10"}, "a very wide range"
    assert "from 0.10 to 10.10 mm: the age table has only the corpus's own 2" in capsys.readouterr().out


def test_what_is_made_from_a_skipped_package_says_so(student, tmp_path):
    context = ExportContext(tmp_path, PixelEncoder(student), {}, {})
    write_coreml_variants(context, ["coreml-palette8", "coreml-planes", "coreml-int8"])
    assert [(row.variant, row.status) for row in context.not_run] == [
        ("coreml-palette8", NOT_RUN),
        ("coreml-int8", NOT_RUN),
    ]
    assert "made from coreml-fp16, which --skip leaves out" in context.not_run[0].note


def test_every_package_can_be_left_out_by_name(exported):
    packages = {name for name, entry in exported.manifest["artifacts"].items() if entry["kind"] == "coreml"}
    assert packages | set(SKIP) <= set(skippable())


def test_a_benchmark_of_ones_own_has_a_package_and_no_name_of_another_artifact(monkeypatch):
    own = replace(BENCHMARKS["planes"], name="clinic", own=True)
    monkeypatch.setitem(BENCHMARKS, "clinic", own)
    assert coreml_packages()["coreml-clinic"].head == "clinic"
    classifiers = {name for name, benchmark in BENCHMARKS.items() if benchmark.kind == "classification"}
    artifacts = {"onnx-fp32", "onnx-int8", "onnx-resize", "onnx-text", *coreml_packages()}
    assert {name.partition("-")[2] for name in artifacts} - classifiers <= TAKEN


def test_ages_are_scored_on_the_heads_among_the_frames_with_the_table_that_ships():
    days = torch.arange(98.0, 273.0)
    peaks = [(days - peak).abs().neg() for peak in (130, 200, 250)]  # embedding i: age peaks[i]
    ages = AgeTable(("0.10",), torch.stack(peaks, dim=1)[None])
    wrong = AgeTable(("0.10",), ages.vectors.flip(1))
    output = np.eye(3, dtype=np.float32)
    frames = SimpleNamespace(
        rows={"hc18": [2, 0]},
        records=[None] * 3,
        batches=lambda: [np.zeros((3, 3, 2, 2), np.float32)],
        spacings=lambda: {"hc18": ["0.10", "0.10"]},
        head_circumferences_mm=lambda _: head_circumference_mm([250 / 7, 130 / 7]),
    )
    assert task_scores(output, frames, {}, ages) == {"hc18/validity": 100.0}
    head = ClassHead("planes", {"a": ["a"], "b": ["b"], "c": ["c"]}, torch.eye(3))
    variants = [Variant("v", "", "task", lambda _: output)]
    for shipped, score in ((ages, 100.0), (wrong, 0.0)):
        _, row = measure(
            lambda _: output, variants, frames, {"planes": head}, ages, GATES, trained=True, shipped=shipped
        )
        assert row.reference_tasks == {"hc18/validity": 100.0}
        assert row.tasks == {"hc18/validity": score}
        assert row.status == (OK if score else FAILED)
