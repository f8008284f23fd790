"""Embedding maps and disputed images of tiny real models, files and a data module."""

import base64
import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from callbacks.evaluation.embedding_pass import embed
from datamodules import FetalPlanesDataModule
from datamodules.evaluation.dataset import EvaluationDataset
from datamodules.evaluation.protocol import Protocol
from experiments.report import write, write_report
from experiments.report.evidence import (
    agreement,
    collect,
    disputes,
    error_severity,
    paired,
    project,
    read_evidence,
    thumbnail,
    try_collect,
)
from experiments.report.read_run import read_run
from figures.images import COLD
from metrics.benchmarks import BENCHMARKS
from models import TimmEncoder, freeze


@pytest.fixture(scope="module")
def student():
    torch.manual_seed(1)  # not the seed of the random baseline
    return TimmEncoder(
        trunk="repvit_m0_9", trunk_args={"embed_dim": [8, 8, 16, 16], "depth": [1, 1, 1, 1]}, embed_dim=16,
        image_size=32, context_length=20, text_width=16, text_layers=1, text_heads=2,
    ).eval()  # fmt: skip


@pytest.fixture
def data(tiny_planes):
    return FetalPlanesDataModule(str(tiny_planes), num_workers=0)


def scored(data, wrong):
    """Rows of the planes benchmark in which the images of `wrong` are mistaken."""
    records = data.evaluation_records("planes", "test")
    return [
        {
            "name": r.name, "patient": r.patient, "target": r.plane, "correct": n not in wrong,
            "prediction": r.plane if n not in wrong else "cervix", "probability": 0.5 + n / 1000,
        }
        for n, r in enumerate(records)
    ]  # fmt: skip


def test_evidence_of_a_run_is_complete_and_survives_its_file(make_run, data, student, monkeypatch):
    # With prompts of its own, as a user's benchmark has them; one class has none.
    prompts = {
        name: texts for name, texts in Protocol.load(None).classes["planes"].items() if name != "brain"
    }
    monkeypatch.setitem(BENCHMARKS, "planes", replace(BENCHMARKS["planes"], classes=prompts))
    folder = make_run(with_evidence=False)
    record = json.loads((folder / "results.json").read_text())
    for model, wrong in (("teacher", {0, 1, 2, 3}), ("student", {3, 4})):
        record["details"][model] = {"planes": {"samples": scored(data, wrong), "split": "test"}}
    (folder / "results.json").write_text(json.dumps(record))
    run = read_run(folder)
    found, lacking = try_collect(run, lambda: collect(run, student, freeze(student), data))
    assert not lacking
    names = [row["name"] for row in scored(data, set())]
    assert set(found.thumbnails) == {names[n] for n in (0, 1, 2, 4)}
    assert set(found.projections["planes"]) == {"teacher", "random", "student"}
    count = len(found.classes["planes"])
    assert all(np.shape(view["points"]) == (count, 2) for view in found.projections["planes"].values())
    # The student is its own teacher here.
    assert found.projections["planes"]["student"]["alignment"] == pytest.approx(1)
    assert found.projections["planes"]["random"]["alignment"] < 0.999
    assert read_evidence(folder) == found
    # Grad-CAM on the right image of each class of which the student is surest: the last ones here.
    right = {row["target"]: row["name"] for row in scored(data, {3, 4}) if row["correct"]}
    assert right.pop("brain")
    assert {card["truth"]: card["name"] for card in found.saliency} == right
    for card in found.saliency:
        assert card["teacher"] == card["student"]  # the student is its own teacher
        assert Image.open(io.BytesIO(base64.b64decode(card["student"]))).mode == "RGB"
    for heat, note in ((torch.zeros, COLD), (torch.ones, "")):
        monkeypatch.setattr("experiments.report.evidence.grad_cam", lambda *_, heat=heat: heat(1, 8, 8))
        cards = collect(run, student, freeze(student), data).saliency
        assert {card["teacher_note"] for card in cards} == {note}


def test_changed_data_are_reported_in_one_line(make_run, data, student, monkeypatch, capsys):
    folder = make_run(with_evidence=False)
    record = json.loads((folder / "results.json").read_text())
    rows = {model: scored(data, wrong) for model, wrong in (("teacher", {0, 1}), ("student", {3}))}
    for model, samples in rows.items():
        samples[0]["name"] = "gone"
        record["details"][model]["planes"]["samples"] = samples
    (folder / "results.json").write_text(json.dumps(record))
    monkeypatch.setattr(
        write, "evidence_from_folder", lambda run: collect(run, student, freeze(student), data)
    )
    assert "&#39;gone&#39; of planes is no longer in the test split" in write_report([folder]).read_text()
    (line,) = capsys.readouterr().err.splitlines()
    assert "results.json: image 'gone' of planes is no longer in the test split" in line
    assert line.endswith("evaluate the checkpoint again (make evaluate)")
    assert not (folder / "evidence.json").exists()


def test_embeddings_are_the_models_own_in_the_order_of_the_records(data, student):
    records = data.evaluation_records("planes", "test")[:5]
    images = torch.stack([EvaluationDataset(records, student.preprocessing)[n]["image"] for n in range(5)])
    with torch.no_grad():
        expected = student.encode_image(images)
        found = embed(student, records, batch_size=2, num_workers=0, alone=True)["image"]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_what_collapsed_embeddings_leave_undefined_is_none():
    same = np.tile(np.eye(1, 8, dtype=np.float32), (12, 1))
    view = project({"student": same}, ["a"] * 6 + ["b"] * 6)["student"]
    assert view["separation"] is view["rank"] is view["alignment"] is None
    assert np.ptp(view["points"]) == 0


def rows(target, prediction, assessed=True):
    return [
        {"name": str(n), "target": t, "prediction": g, "correct": t == g, "assessed": assessed or n < 4}
        for n, (t, g) in enumerate(zip(target, prediction, strict=True))
    ]


def test_agreement_counts_every_assessed_image_once():
    samples = (rows("aabbc", "abbac", assessed=False), rows("aabbc", "aabaa", assessed=False))
    found = agreement(paired(*({"samples": one} for one in samples)))
    assert (len(found["both"]), len(found["neither"])) == (2, 1)
    assert [a["name"] for a, _ in found["gained"]] == ["1"]
    assert found["lost"] == []


def test_other_images_or_other_truth_are_not_the_same():
    first, second = rows("aabbc", "abbac"), rows("aabbc", "aabaa")
    others = {"all": second, "fewer": second[1:], "other truth": [{**second[0], "target": "z"}, *second[1:]]}
    same = {name: paired({"samples": first}, {"samples": other}) for name, other in others.items()}
    assert same == {"all": list(zip(first, second, strict=True)), "fewer": None, "other truth": None}
    assert paired({}, {"samples": second}) is None


def test_the_gravest_errors_come_first_and_other_patients_before_repeats():
    def row(name, patient, correct, probability):
        return {
            "name": name,
            "patient": patient,
            "target": "a",
            "correct": correct,
            "probability": probability,
        }

    facts = [("w", "1", 0.9), ("x", "1", 0.8), ("y", "2", 0.3), ("z", "3", 0.5)]
    teacher = [row(name, patient, False, probability) for name, patient, probability in facts]
    student = [row(name, patient, True, 1.0) for name, patient, _ in facts]
    pairs = list(zip(teacher, student, strict=True))
    found = disputes(pairs)
    assert [a["name"] for a, _ in found["gained"]] == ["w", "z", "y", "x"]
    assert found["lost"] == []
    assert [b["name"] for _, b in disputes([pair[::-1] for pair in pairs])["lost"]] == ["w", "z", "y", "x"]


def test_a_heads_error_is_measured_in_weeks():
    assert error_severity({"hc_mm": 175.0, "age_days": 20 * 7}) == pytest.approx(
        0, abs=0.2
    )  # the median at 20 weeks
    assert error_severity({"hc_mm": 175.0, "age_days": 25 * 7}) == pytest.approx(5, abs=0.2)


def test_thumbnails_are_small_and_keep_their_shape():
    image = np.random.default_rng(0).integers(0, 255, (300, 600), dtype=np.uint8)
    picture = Image.open(io.BytesIO(base64.b64decode(thumbnail(image))))
    assert picture.size == (160, 80)
