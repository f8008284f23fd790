"""A student from a checkpoint: its vectors, maps and files."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from datamodules.evaluation.protocol import Protocol
from metrics.benchmarks import BENCHMARKS, PLANES
from models import load_student
from models.checkpoints.weights import write_entry
from models.student.base import OWN_CLASSES
from models.student.checkpoint import CheckpointStudent
from models.student.saliency import grad_cam
from models.zero_shot import age_embeddings, encode_prompts

PROMPTS = {
    "biometry": Protocol.load().biometry[:2],
    "planes": {"brain": ["ultrasound of the fetal brain", "a brain"], "femur": ["a femur"]},
}
IMAGES = [np.random.default_rng(seed).integers(0, 256, (40, 40, 3), dtype=np.uint8) for seed in range(3)]


def test_the_ages_of_a_spacing_are_those_of_all_templates_at_two_decimals(tiny_student):
    student = CheckpointStudent(tiny_student, PROMPTS)
    for spacing, printed in ((0.304, "0.30"), (0.216, "0.22"), (0.304, "0.30")):
        used, days, vectors = student.age_vectors(spacing)
        wanted = age_embeddings(tiny_student, PROMPTS["biometry"], [printed]).vectors[0]
        assert (used, days[0], days[-1]) == (float(printed), 98, 272)
        np.testing.assert_allclose(vectors, wanted, atol=1e-6)


def test_saliency_is_that_of_the_prompt_or_of_each_images_own_plane(tiny_student):
    student = CheckpointStudent(tiny_student, PROMPTS)
    pixels = student.pixels(np.stack(IMAGES))
    text = encode_prompts(student.model, ["femur"])
    np.testing.assert_allclose(
        student.saliency(IMAGES, "femur"), grad_cam(student.model, pixels, text), atol=1e-5
    )
    labels, vectors = student.classes[PLANES]
    own = [vectors[labels.index(row["plane"])] for row in student.planes(IMAGES)]
    wanted = grad_cam(student.model, pixels, torch.from_numpy(np.stack(own)))
    np.testing.assert_allclose(student.saliency(IMAGES), wanted, atol=1e-5)


def test_prompts_without_classes_leave_embeddings_and_the_maps_of_a_text(tiny_student):
    student = CheckpointStudent(tiny_student, {"biometry": PROMPTS["biometry"]})
    assert student.embed([]).shape == (0, tiny_student.embed_dim)
    np.testing.assert_array_equal(
        student.saliency(IMAGES, "brain"), CheckpointStudent(tiny_student, PROMPTS).saliency(IMAGES, "brain")
    )
    with pytest.raises(ValueError, match="no classes; give a prompt"):
        student.saliency(IMAGES)


def test_a_model_in_half_precision_and_training_mode_answers_as_in_float32(tiny_student):
    half = copy.deepcopy(tiny_student).half()
    found = CheckpointStudent(copy.deepcopy(half).train(), PROMPTS).embed(IMAGES)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, CheckpointStudent(half.float().eval(), PROMPTS).embed(IMAGES))


def test_ones_own_classes_come_from_their_benchmark(tiny_student, monkeypatch):
    own = replace(
        BENCHMARKS[PLANES], name="clinic", own=True, classes={"yes": ["a text"], "no": ["another", "one"]}
    )
    monkeypatch.setitem(BENCHMARKS, "clinic", own)
    labels, vectors = CheckpointStudent(tiny_student, PROMPTS).classes["clinic"]
    assert labels == ["yes", "no"]
    wanted = encode_prompts(tiny_student, ["a text"])[0].cpu().numpy()
    np.testing.assert_allclose(vectors[0], wanted / np.linalg.norm(wanted), atol=1e-6)


def test_the_classes_of_the_users_own_benchmarks_are_kept_in_the_checkpoint(
    tiny_student, tmp_path, monkeypatch
):
    monkeypatch.setattr("models.loading.from_checkpoint", lambda _: tiny_student)
    path = tmp_path / "best.ckpt"
    torch.save({}, path)
    write_entry(path, OWN_CLASSES, {"clinic": {"yes": ["a text"], "no": ["another", "one"]}})
    student = load_student(path, PROMPTS)
    assert list(student.classes["clinic"][0]) == ["yes", "no"]
    assert {"plane", "clinic", "clinic_yes", "clinic_no"} <= student.planes(IMAGES)[0].keys()
    write_entry(path, OWN_CLASSES, {"clinic": {"yes": "a text"}})
    with pytest.raises(ValueError, match=r"best\.ckpt: own_classes: clinic\.yes"):
        load_student(path)


def test_a_student_is_opened_on_the_device_and_with_the_prompts_that_are_asked_for(
    student_checkpoint, tmp_path, monkeypatch
):
    monkeypatch.setattr("models.student.checkpoint.CheckpointStudent", lambda *given: given)
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps(PROMPTS), encoding="utf-8-sig")  # as an editor on Windows saves it
    model, prompts, calibration, _ = load_student(student_checkpoint, path, device="meta")
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert (prompts, calibration) == (PROMPTS, None)


def test_a_folder_that_transformers_saved_is_a_checkpoint(tiny_student, tmp_path, monkeypatch):
    (tmp_path / "config.json").touch()
    monkeypatch.setattr("models.loading.from_checkpoint", {str(tmp_path): tiny_student}.__getitem__)
    assert load_student(tmp_path, PROMPTS).model is tiny_student


def test_a_runs_folder_is_answered_with_its_checkpoint(tmp_path):
    best = tmp_path / "run" / "checkpoints" / "best.ckpt"
    best.parent.mkdir(parents=True)
    best.touch()
    with pytest.raises(ValueError, match=f"run: a run's folder; give {best} or its export$"):
        load_student(tmp_path / "run")
    with pytest.raises(FileNotFoundError, match="neither a checkpoint nor an export folder"):
        load_student(best.parent)
