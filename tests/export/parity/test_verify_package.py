"""Figures of one Core ML package on golden frames, by hand."""

import json

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from export.build import _dropped_if_missed
from export.parity.ledger import FAILED, OK, Row, coreml_rows, judge, read_gates
from export.parity.verify_coreml import verdict, verify_package


@pytest.fixture
def folder(tmp_path):
    """A folder with two heads of two classes, and golden frames of which the first is gray."""
    planes, subplanes = ({"kind": "classes", "labels": labels} for labels in (["a", "b"], ["c", "d"]))
    eye = np.eye(2, dtype=np.float32)
    tensors = {"planes": eye, "subplanes": eye[::-1].copy(), "ages": np.ones((1, 3, 2), np.float32)}
    heads = {"planes": planes, "subplanes": subplanes, "ages": {"kind": "ages"}}
    metadata = {name: json.dumps(head) for name, head in heads.items()} | {"model_sha256": "ab"}
    save_file(tensors, tmp_path / "heads.safetensors", metadata=metadata)
    (tmp_path / "golden").mkdir()
    for number, colour in enumerate(((9, 9, 9), (9, 9, 8))):
        Image.new("RGB", (4, 4), colour).save(tmp_path / "golden" / f"{number}.png")
    return tmp_path


GOLDEN = [
    {
        "input": "0.png",
        "embedding": [1.0, 0.0],
        "planes": {"a": 0.9, "b": 0.1},
        "subplanes": {"c": 0.1, "d": 0.9},
    },
    {
        "input": "1.png",
        "embedding": [0.0, 1.0],
        "planes": {"a": 0.2, "b": 0.8},
        "subplanes": {"c": 0.6, "d": 0.4},
    },
]


class Package:
    """Answers frame by frame, and keeps what it was given."""

    def __init__(self, *answers):
        self.answers, self.modes = list(answers), []

    def predict(self, inputs):
        self.modes.append(inputs["image"].mode)
        return self.answers[len(self.modes) - 1]


def test_an_encoder_is_judged_by_its_smallest_cosine_and_the_share_of_other_classes(folder):
    package = Package({"embedding": np.array([[1.2, 1.6]])}, {"embedding": np.array([[0.0, 3.0]])})
    entry = {"name": "coreml-fp16", "on_device": {"cosine_min": 0.7}}
    found = verify_package(package, entry, GOLDEN, folder)
    figures = {"cosine_min": pytest.approx(0.6), "flip_rate": 0.5, "frames": 2, "skipped": 0}
    assert (found["status"], found["figures"]) == ("FAILED", figures)
    assert package.modes == ["RGB", "RGB"]


def test_a_classifier_is_judged_by_its_largest_difference_of_either_sign(folder):
    package = Package(*[{"label": "a", "label_probs": {"a": 0.8, "b": 0.7}}] * 2)
    entry = {"name": "coreml-planes", "on_device": {"difference_max": 0.61}}
    found = verify_package(package, entry, GOLDEN, folder)
    figures = {"difference_max": pytest.approx(0.6), "flip_rate": 0.5, "frames": 2, "skipped": 0}
    assert (found["status"], found["figures"]) == ("ok", figures)


def test_a_package_of_a_gray_camera_gets_the_gray_frames_alone(folder):
    package, entry = Package({"embedding": np.array([[2.0, 0.0]])}), {"name": "coreml-gray", "on_device": {}}
    found = verify_package(package, entry, GOLDEN, folder)
    assert found["figures"] == {"cosine_min": 1, "flip_rate": 0, "frames": 1, "skipped": 1}
    assert package.modes == ["L"]
    found = verify_package(package, entry, GOLDEN[1:], folder)
    assert found == {"status": "NOT RUN", "note": "no golden frame fits this package", "figures": {}}


def test_a_limit_itself_is_kept():
    figures, limits = {"cosine_min": 0.5, "flip_rate": 0.25}, {"cosine_min": 0.5, "flip_rate_max": 0.25}
    assert verdict(figures, limits)["status"] == "ok"
    assert verdict({"cosine_min": 0.5}, limits)["status"] == "FAILED", "a figure is missing"


@pytest.mark.parametrize(("turn", "status"), [(0.02, "ok"), (0.06, "FAILED")])
def test_an_encoder_is_judged_by_the_age_of_the_golden_head(folder, turn, status):
    """Age number a of a table of 61 is similar to the angle a / 100; the golden head is age 30."""
    angles = np.arange(61) / 100
    table = np.stack([np.zeros((61, 2)), np.stack([np.cos(angles), np.sin(angles)], axis=1)])
    description = {"kind": "ages", "spacings_mm_per_px": ["0.20", "0.21"], "ages_days": [98, 158]}
    tensors = {"ages": table.astype(np.float16), "ages_basis": np.eye(2, dtype=np.float32)}
    planes = {"kind": "classes", "labels": ["a"]}
    metadata = {"ages": json.dumps(description), "planes": json.dumps(planes)}
    tensors["planes"] = np.ones((1, 2), np.float32)
    save_file(tensors, folder / "heads.safetensors", metadata=metadata)
    row = {"input": "0.png", "embedding": [np.cos(0.3), np.sin(0.3)], "planes": {"a": 1.0}}
    ages = {"pixel_size_mm": 0.1, "spacing_mm_per_px": "0.21", "age_days": 128}
    found = np.array([[np.cos(0.3 + turn), np.sin(0.3 + turn)]])
    entry = {"name": "coreml-fp16", "on_device": {"age_days_max": 2, "cosine_min": 0.99}}
    result = verify_package(Package({"embedding": found}), entry, [{**row, "ages": ages}], folder)
    assert (result["status"], result["figures"]["age_days_max"]) == (status, pytest.approx(100 * turn, abs=1))
    result = verify_package(Package({"embedding": found}), entry, [row], folder)
    assert result["status"] == "ok", "an export without an age table has no limit of it"
    assert "age_days_max" not in result["figures"]


def test_flips_and_ages_limit_float16_packages_of_trained_weights():
    entry = {"kind": "coreml", "gate": "float16", "inspection": {"problems": [], "not_on_neural_engine": []}}
    for trained, limits in ((True, {"flip_rate_max", "age_days_max", "cosine_min"}), (False, {"cosine_min"})):
        coreml_rows({"coreml-fp16": entry}, read_gates(), trained=trained)
        assert entry["on_device"].keys() == limits


@pytest.mark.parametrize(("lost", "status"), [(0.019, OK), (0.021, FAILED)])
def test_the_graph_that_resizes_is_judged_by_the_task_too(lost, status):
    figures, exact = {"cosine_min": 1.0, "flip_rate": 0.0}, {"planes/f1": 0.9}
    row = Row("onnx-resize", "", "resized", figures=figures, reference_tasks=exact)
    row.tasks = {"planes/f1": 0.9 - lost}
    judge(row, read_gates(), trained=True)
    assert row.status == status
    note = _dropped_if_missed(row, 40, read_gates()).note
    assert ("one of 40 frames weighs 2.5 points" in note) == (status == FAILED)
