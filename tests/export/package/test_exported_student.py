"""The reader of an export folder answers as the trained student does, without PyTorch."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from datamodules.evaluation.protocol import Protocol
from datamodules.pairs.image_reading import read_image
from models import load_student
from models.student.base import Calibration
from models.student.checkpoint import CheckpointStudent
from models.student.manifest import seal

ROOT = Path(__file__).resolve().parents[3]
WITHOUT_TORCH = """
class Blocker:
    def find_spec(self, name, *_):
        if name.split(".")[0] in ("torch", "lightning"):
            raise ImportError(name)

import sys
sys.meta_path.insert(0, Blocker())
"""


def test_answers_are_those_of_the_trained_student(exported, golden, student):
    loaded, trained = load_student(exported.folder), CheckpointStudent(student, Protocol.load().content())
    images = [read_image(exported.folder / "golden" / row["frame"]) for row in golden[0]]
    embeddings = loaded.embed(images)
    np.testing.assert_allclose((embeddings * trained.embed(images)).sum(axis=1), 1, atol=1e-4)
    for row, own, answers in zip(golden[0], loaded.planes(images), trained.planes(images), strict=True):
        for label, probability in row["planes"].items():
            assert own[f"plane_{label}"] == pytest.approx(probability, abs=2e-3)
            assert own[f"plane_{label}"] == pytest.approx(answers[f"plane_{label}"], abs=2e-3)
    size = (
        0.3 * loaded.preprocessing.image_size / max(images[0].shape[:2])
    )  # spacing 0.30, the one that is shipped
    (own,), (answers,) = (one.gestational_age(images[:1], size) for one in (loaded, trained))
    assert own["ga_spacing_mm"] == answers["ga_spacing_mm"] == 0.3
    assert abs(own["ga_days"] - answers["ga_days"]) <= 7  # the table ships in float16
    assert loaded.calibration == Calibration({}, {}, None, 0.9, {})
    with pytest.raises(ValueError, match="needs gradients"):
        loaded.saliency(images[:1])
    with pytest.raises(ValueError, match="export again with PROTOCOL"):
        load_student(exported.folder, "prompts.json")


def test_a_calibration_comes_from_the_manifest(copied):
    path = copied / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["answers"] = {
        "prompts": {}, "none_below": {"planes": 1e6}, "age_drop": 1.0, "coverage": 0.9, "counts": {},
    }  # fmt: skip
    path.write_text(json.dumps(seal(manifest)))
    image = read_image(copied / "golden" / "frame_0.png")
    student = load_student(copied)
    assert student.planes([image])[0]["plane"] == "none"
    size = 0.3 * student.preprocessing.image_size / max(image.shape[:2])
    (age,) = student.gestational_age([image], size)
    assert age["ga_low_days"] <= age["ga_days"] <= age["ga_high_days"]
    assert age["ga_coverage"] == 0.9
    with pytest.raises(
        ValueError, match=r"spacing 0\.60 mm .* is not in the export's age table .*--spacings=\[0\.60\]"
    ):
        student.gestational_age([image], 2 * size)
    with (copied / "heads.safetensors").open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(ValueError, match="its hash is not the manifest's"):
        load_student(copied)


def test_it_predicts_where_there_is_no_pytorch(exported, tmp_path):
    program = f"{WITHOUT_TORCH}from experiments.__main__ import run\nsys.exit(run(sys.argv[1:]))"
    golden = exported.folder / "golden"
    arguments = [
        "predict",
        exported.folder,
        golden,
        "--pixel_size=0.2",
        f"--out={tmp_path / 'out'}",
        "--annotate",
    ]
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "annotated" / "frame_0.png").is_file()
