"""A loaded student answers as the evaluations do, and its calibration follows from the validation patients alone."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from callbacks import BiometryEvaluation, PlaneEvaluation
from callbacks.evaluation import answer_calibration
from callbacks.evaluation.answer_calibration import _Answers
from callbacks.evaluation.embedding_pass import embed
from datamodules import FetalPlanesDataModule, HC18DataModule, TableDataModule
from datamodules.evaluation.own_benchmarks import OwnBenchmark
from datamodules.evaluation.protocol import Protocol
from datamodules.pairs.image_reading import read_image
from metrics.benchmarks import BENCHMARKS
from models import load_student
from models.checkpoints.weights import read_checkpoint, read_entry, write_entry
from models.evaluation_mode import evaluation_mode
from models.student.base import ANSWERS, Calibration

PROTOCOL = replace(Protocol.load(), biometry=Protocol.load().biometry[:1])


def score(evaluation, model, records, benchmark):
    return evaluation.score(model, embed(model, records, 5, 0)["image"], records, benchmark)


def test_planes_and_ages_are_those_of_the_evaluations(student_checkpoint, tiny_planes, tiny_hc18):
    student = load_student(student_checkpoint, PROTOCOL.content())
    planes = FetalPlanesDataModule(str(tiny_planes)).evaluation_records("planes", "all")[:12]
    brains = FetalPlanesDataModule(str(tiny_planes)).evaluation_records("subplanes", "all")[:4]
    heads = HC18DataModule(str(tiny_hc18)).evaluation_records("hc18", "all")[8:11]
    with evaluation_mode(student.model) as model:
        details = {
            name: score(PlaneEvaluation(PROTOCOL), model, records, name)
            for name, records in (("planes", planes), ("subplanes", brains))
        }
        ages = score(BiometryEvaluation(PROTOCOL), model, heads, "hc18")["samples"]
    rows = student.planes(read_image(record.image) for record in planes)
    for row, sample in zip(rows, details["planes"]["samples"], strict=True):
        assert row["plane"] == sample["prediction"]
        assert row["plane_probability"] == pytest.approx(sample["probability"], abs=1e-4)
        assert sum(row[f"plane_{name}"] for name in PROTOCOL.planes) == pytest.approx(1)
        assert (row["brain_plane"] is not None) == (row["plane"] == "brain")
    del student.classes["planes"]  # without it, every image is asked for its sub-plane
    rows = student.planes([read_image(record.image) for record in brains])
    assert [row["brain_plane"] for row in rows] == [
        row["prediction"] for row in details["subplanes"]["samples"]
    ]
    images, sizes = [read_image(record.image) for record in heads], [record.pixel_size_mm for record in heads]
    answers = student.gestational_age(images, sizes)
    assert [row["ga_days"] for row in answers] == [sample["age_days"] for sample in ages]
    assert student.gestational_age(images[:1], sizes[0])[0]["ga_days"] == ages[0]["age_days"]
    assert {row["ga_low_days"] for row in answers} == {None}


def test_the_calibration_of_the_validation_patients(student_checkpoint, tiny_planes, tiny_hc18, monkeypatch):
    monkeypatch.setattr(answer_calibration, "LEAST", 2)
    monkeypatch.setattr(answer_calibration, "COVERAGE", 0.5)
    student = load_student(student_checkpoint, PROTOCOL.content())
    planes, heads = PlaneEvaluation(PROTOCOL), BiometryEvaluation(PROTOCOL)
    planes.benchmarks = ("planes",)
    data = FetalPlanesDataModule(str(tiny_planes), val_share=0.4)
    made = _Answers(student.model, data, planes, heads).calibrate(PROTOCOL.content())
    val = [record for record in data.split("val") if record.plane is not None]
    rows = student.planes([read_image(record.image) for record in val])
    probabilities = np.array([[row[f"plane_{name}"] for name in PROTOCOL.planes] for row in rows])
    logits = np.log(probabilities)
    lead = logits.max(axis=1) - logits.mean(axis=1)
    other = np.array([record.plane == "other" for record in val])
    assert made.counts["planes"] == {"known": (~other).sum(), "other": other.sum()}
    threshold = made.none_below["planes"]

    def balanced(value):
        return (lead[~other] >= value).mean() + (lead[other] < value).mean()

    assert balanced(threshold) == pytest.approx(
        max(balanced(value) for value in [*lead + 1e-6, -1]), abs=1e-9
    )
    calibrated = load_student(student_checkpoint, PROTOCOL.content())
    calibrated.calibration = made
    answers = [row["plane"] for row in calibrated.planes([read_image(record.image) for record in val])]
    assert [answer == "none" for answer in answers] == (lead < threshold).tolist()

    heads.benchmarks, planes.benchmarks = ("hc18",), ()
    data = HC18DataModule(str(tiny_hc18), val_share=0.2, test_share=0.2)
    made = _Answers(student.model, data, planes, heads).calibrate(PROTOCOL.content())
    val = data.evaluation_records("hc18", "val")
    assert made.counts["patients"] == len({record.patient for record in val})
    calibrated.calibration = made
    rows = calibrated.gestational_age([read_image(r.image) for r in val], [r.pixel_size_mm for r in val])
    covered = {record.patient: True for record in val}
    for record, row in zip(val, rows, strict=True):
        assert row["ga_low_days"] <= row["ga_days"] <= row["ga_high_days"]
        age = min(max(record.ga_days, 98), 272)
        covered[record.patient] &= row["ga_low_days"] <= age <= row["ga_high_days"]
    assert np.mean(list(covered.values())) >= 0.5


def test_a_head_beyond_the_chart_is_left_out_of_the_age_interval(student_checkpoint, tiny_hc18):
    table = tiny_hc18 / "training_set_pixel_size_and_HC.csv"
    table.write_text(table.read_text().replace(",80.0\n", ",380.0\n"))
    heads = BiometryEvaluation(PROTOCOL)
    heads.benchmarks = ("hc18",)
    model = load_student(student_checkpoint, PROTOCOL.content()).model
    data = HC18DataModule(str(tiny_hc18))
    records, _, true = _Answers(model, data, PlaneEvaluation(PROTOCOL), heads).profiles("all")
    every = data.evaluation_records("hc18", "all")
    assert records == [record for record in every if record.hc_mm != 380.0]
    assert len(true) == len(records) == len(every) - 2  # two images of the patient


def test_heads_of_ones_own_make_an_age_interval(student_checkpoint, tiny_planes, tiny_hc18, monkeypatch):
    monkeypatch.setattr(answer_calibration, "COVERAGE", 0.5)
    scans = HC18DataModule(str(tiny_hc18)).records
    rows = [f"{one.image},{one.patient},{one.hc_mm},{one.pixel_size_mm}" for one in scans]
    table = tiny_hc18 / "heads.csv"
    table.write_text("\n".join(["image,patient,hc_mm,pixel_size_mm", *rows]))
    own = OwnBenchmark(name="heads", kind="biometry", table=str(table), outside=True)
    data = FetalPlanesDataModule(str(tiny_planes), benchmarks=[own])
    planes, heads = PlaneEvaluation(PROTOCOL), BiometryEvaluation(PROTOCOL)
    planes.benchmarks, heads.benchmarks = (), ("heads",)
    model = load_student(student_checkpoint, PROTOCOL.content()).model
    answers = _Answers(model, data, planes, heads)
    made = answers.calibrate(PROTOCOL.content())
    val = data.evaluation_records("heads", "val")
    assert made.age_drop is not None
    assert made.counts["patients"] == len({one.patient for one in val}) < len({one.patient for one in scans})
    found = answers.score(made)
    assert 0 <= found["student/age_interval/coverage"] <= 1
    assert found["student/age_interval/width_days"] > 0


def test_none_of_these_is_fitted_to_the_images_of_the_benchmarks_own_set(
    student_checkpoint, tiny_planes, tiny_hc18, tmp_path
):
    """A run may train on other images."""
    table = tmp_path / "table.csv"
    rows = [f"{one.image},a head,{one.patient}" for one in HC18DataModule(str(tiny_hc18)).records]
    table.write_text("\n".join(["image,caption,patient", *rows]))
    model = load_student(student_checkpoint, PROTOCOL.content()).model
    sets = (
        FetalPlanesDataModule(str(tiny_planes)),
        TableDataModule(str(table), outside=True, planes_root=str(tiny_planes)),
    )
    own, other = (
        _Answers(model, data, PlaneEvaluation(PROTOCOL), BiometryEvaluation(PROTOCOL)).margins(
            "planes", "all"
        )
        for data in sets
    )
    assert min(len(part) for part in own) > 1
    for part, same in zip(own, other, strict=True):
        np.testing.assert_allclose(part, same, rtol=1e-4, atol=1e-4)


def test_validation_patients_without_heads_make_no_age_interval(tiny_hc18):
    planes, heads = PlaneEvaluation(PROTOCOL), BiometryEvaluation(PROTOCOL)
    heads.benchmarks = ("hc18",)
    data = HC18DataModule(str(tiny_hc18), val_share=0)
    assert _Answers(None, data, planes, heads).calibrate(PROTOCOL.content()) is None


def test_a_calibration_is_kept_in_the_checkpoint_and_holds_for_its_prompts_only(student_checkpoint, tmp_path):
    content = read_checkpoint(student_checkpoint)
    path = tmp_path / "best.ckpt"
    torch.save({**content, "epoch": 3}, path)
    entry = {
        "prompts": PROTOCOL.content(), "none_below": {"planes": 1e6}, "age_drop": 2.0, "coverage": 0.9,
        "counts": {"patients": 20},
    }  # fmt: skip
    write_entry(path, ANSWERS, entry)
    assert read_entry(path, ANSWERS) == entry
    assert read_checkpoint(path)["epoch"] == 3
    assert [file.name for file in tmp_path.iterdir()] == ["best.ckpt"]
    image = np.random.default_rng(0).integers(0, 255, (50, 60), dtype=np.uint8)
    own = load_student(path)
    assert own.calibration == Calibration(**entry)
    assert own.planes([image])[0]["plane"] == "none"
    other = replace(PROTOCOL, biometry=["{weeks} and {days}"]).content()
    assert load_student(path, other).calibration is None


def test_images_that_are_none_are_refused_in_one_line(student_checkpoint):
    student = load_student(student_checkpoint, PROTOCOL.content())
    image = np.zeros((4, 5), np.uint8)
    for images, words in (
        (image, "a list of images"),
        ([image.astype(float)], "expected uint8"),
        ([np.zeros((4, 5, 4), np.uint8)], "expected uint8"),
    ):
        with pytest.raises(ValueError, match=words):
            student.planes(images)
    with pytest.raises(ValueError, match="pixel size"):
        student.gestational_age([image], -1)
    for sizes in ([0.1], [0.1] * 3):
        with pytest.raises(ValueError, match="not as many as there are images"):
            student.gestational_age([image, image], sizes)
    assert student.embed([]).shape == (0, 24)
    assert student.saliency([]).shape == (0, *student.prepare(image).shape[:2])


def test_a_pillow_image_is_embedded_as_its_array_in_colour_and_in_grey(student_checkpoint):
    student = load_student(student_checkpoint, PROTOCOL.content())
    array = np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8)
    for pixels in (array, array[:, :, 0]):
        assert np.array_equal(student.embed([Image.fromarray(pixels)]), student.embed([pixels]))
    assert np.array_equal(student.embed([Image.fromarray(array).convert("RGBA")]), student.embed([array]))


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("planes", {"brain": "a text", "other": ["another"]}, "planes.brain: Input should be a valid list"),
        ("planes", {"brain": []}, "planes.brain: "),
        ("biometry", None, "biometry: "),
    ],
)
def test_prompts_that_are_no_lists_of_texts_are_refused_in_one_line(student_checkpoint, key, value, words):
    with pytest.raises(ValueError, match=rf"^prompts: {words}[^\n]*$"):
        load_student(student_checkpoint, {**PROTOCOL.content(), key: value})


def test_the_age_interval_holds_for_all_images_of_a_patient(tiny_hc18, monkeypatch):
    monkeypatch.setattr(answer_calibration, "COVERAGE", 0.5)
    planes, heads = PlaneEvaluation(PROTOCOL), BiometryEvaluation(PROTOCOL)
    planes.benchmarks, heads.benchmarks = (), ("hc18",)
    data = HC18DataModule(str(tiny_hc18), val_share=0.2, test_share=0.2)
    head = data.evaluation_records("hc18", "val")[0]
    gaps = {"a": (0, 4), "b": (1, 3), "c": (2, 2)}  # of the patients' two images
    records = [replace(head, patient=name) for name, pair in gaps.items() for _ in pair]
    similarity = np.zeros((6, 175))
    similarity[:, 2] = [-gap for pair in gaps.values() for gap in pair]  # at 98 + 2 days
    monkeypatch.setattr(_Answers, "profiles", lambda *_: (records, similarity, np.full(6, 100.0)))
    made = _Answers(None, data, planes, heads).calibrate(PROTOCOL.content())
    assert made.age_drop == 3  # second of the patients' largest gaps 2, 3, 4: rank (3 + 1) * 0.5
    assert made.counts == {"patients": 3}


@pytest.mark.parametrize(("known", "other", "made"), [(30, 9, False), (9, 30, False), (10, 10, True)])
def test_few_images_of_either_kind_make_no_threshold(monkeypatch, known, other, made):
    planes, heads = PlaneEvaluation(PROTOCOL), BiometryEvaluation(PROTOCOL)
    planes.benchmarks, heads.benchmarks = ("planes",), ()
    margins = np.linspace(1, 2, known), np.linspace(0, 0.9, other)
    monkeypatch.setattr(_Answers, "margins", lambda *_: margins)
    calibration = _Answers(None, None, planes, heads).calibrate(PROTOCOL.content())
    assert (calibration and calibration.coverage) == (0.9 if made else None)


def test_images_of_other_corpora_and_splits_make_no_threshold(student_checkpoint, tiny_planes):
    model = load_student(student_checkpoint, PROTOCOL.content()).model
    records = FetalPlanesDataModule(str(tiny_planes)).records
    other = [record for record in records if record.plane == "other"]

    def excluded(split, records):
        data = FetalPlanesDataModule(str(tiny_planes), num_workers=0, evaluation_batch_size=8)
        data.read_records = lambda: records
        answers = _Answers(model, data, PlaneEvaluation(PROTOCOL), BiometryEvaluation(PROTOCOL))
        return len(answers.margins("planes", split)[1])

    assert excluded("all", records) == len(other)
    assert excluded("test", records) == sum(record.split == "test" for record in other) > 0
    elsewhere = [replace(one, corpus="fada") if one == other[0] else one for one in records]
    assert excluded("all", elsewhere) == len(other) - 1
    assert excluded("all", other) == 0, "without known images there is no threshold"


LEADS = np.array([1.0, 2, 3, 4, 5]), np.array([0, 1.8])  # of known images and of others
PEAKS, SLOPES = np.array([100, 150, 200, 200]), np.array([1, 0.5, 1, 1])
TRUE_AGES = np.array([95.0, 154, 197, 203])  # the first before the chart
NONE_SCORES = {"planes_auroc": 0.9, "planes_kept": 0.8, "planes_false_accept": 0.5, "planes_other": 2}
AGE_SCORES = {"coverage": 0.5, "width_days": 5, "nominal": 0.8}


@pytest.mark.parametrize(
    ("others", "heads", "prompts", "expected"),
    [
        (True, True, PROTOCOL, {"none": NONE_SCORES, "age_interval": AGE_SCORES}),
        (False, True, PROTOCOL, {"age_interval": AGE_SCORES}),
        (True, False, PROTOCOL, {"none": NONE_SCORES}),
        (True, True, replace(PROTOCOL, biometry=["{weeks} and {days}"]), {}),
    ],
    ids=["whole", "no-others", "no-heads", "other-prompts"],
)
def test_a_stored_calibration_is_scored_on_the_test_images_with_its_own_prompts_only(
    student_checkpoint, monkeypatch, others, heads, prompts, expected
):
    stored = Calibration(PROTOCOL.content(), {"planes": 1.5, "subplanes": 1.5}, 2.0, 0.8, {})
    margins = {("planes", "test"): LEADS if others else (np.empty(0), np.empty(0))}
    profiles = {"test": ([], -SLOPES[:, None] * np.abs(np.arange(98, 273) - PEAKS[:, None]), TRUE_AGES)}
    monkeypatch.setattr(_Answers, "margins", lambda _, *asked: margins[asked])
    monkeypatch.setattr(_Answers, "profiles", lambda _, split: profiles[split])
    callback = answer_calibration.AnswerCalibration(stored, create=False)
    evaluations = [PlaneEvaluation(PROTOCOL), BiometryEvaluation(prompts, test_split="all")]
    evaluations[0].benchmarks, evaluations[1].benchmarks = ("planes",), ("hc18",) if heads else ()
    trainer, logged = SimpleNamespace(callbacks=evaluations, datamodule=None), {}
    module = SimpleNamespace(
        student=load_student(student_checkpoint).model, log_dict=lambda metrics, **_: logged.update(metrics)
    )
    callback.on_test_epoch_end(trainer, module)
    assert callback.calibration == (stored if expected else None)
    assert callback.final_metrics == logged
    names = {f"student/{kind}/{key}": value for kind, row in expected.items() for key, value in row.items()}
    assert logged == pytest.approx(names)


@pytest.mark.parametrize("same", [True, False])
def test_a_threshold_of_ones_own_benchmark_holds_for_its_prompts_only(student_checkpoint, monkeypatch, same):
    classes = {"cyst": ["a cyst"], "clear": ["no finding"]}
    monkeypatch.setitem(
        BENCHMARKS, "clinic", replace(BENCHMARKS["planes"], name="clinic", classes=classes, own=True)
    )
    stored = Calibration(PROTOCOL.content(), {"clinic": 1.5}, None, 0.8, {})
    before = classes if same else classes | {"cyst": ["another text"]}
    callback = answer_calibration.AnswerCalibration(stored, create=False, stored_classes={"clinic": before})
    evaluations = [PlaneEvaluation(PROTOCOL), BiometryEvaluation(PROTOCOL, test_split="all")]
    evaluations[0].benchmarks, evaluations[1].benchmarks = ("clinic",), ()
    monkeypatch.setattr(_Answers, "margins", lambda *_: LEADS)
    trainer = SimpleNamespace(callbacks=evaluations, datamodule=None)
    module = SimpleNamespace(student=load_student(student_checkpoint).model, log_dict=lambda *_, **__: None)
    callback.on_test_epoch_end(trainer, module)
    assert ("student/none/clinic_auroc" in callback.final_metrics) == same
